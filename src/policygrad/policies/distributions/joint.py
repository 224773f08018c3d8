"""Several actions at once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from policygrad.errors import UsageError
from policygrad.policies.distributions.base import drawn_noise, sampled
from policygrad.types import Array, Key, PyTree


class Joint(eqx.Module):
    """Independent parts, for the actions of Dict and Tuple spaces.

        π(a) = Π_k π_k(a_k)

    An action is a dict or tuple of the parts' actions. Parts stand in the order of JAX's pytrees, which sorts the keys of a dict.

    Args:
        parts: a dict or tuple of distributions over the same batch axes, [...]; they may be dicts, tuples and Joints in turn.

    Raises:
        UsageError: without any part, or for one that is no distribution.

    >>> from policygrad.policies.distributions import Categorical
    >>> both = Joint({"move": Categorical(jnp.array([0.0, 1.0])), "fire": Categorical(jnp.array([2.0, 0.0, 0.0]))})
    >>> {name: int(choice) for name, choice in both.mode().items()}
    {'fire': 0, 'move': 1}
    """

    parts: PyTree

    def __check_init__(self) -> None:
        parts, _ = self._flat()
        wrong = [type(part).__name__ for part in parts if not hasattr(part, "log_prob")]
        if not isinstance(self.parts, dict | tuple) or not parts or wrong:
            got = f"a part of type {wrong[0]}" if wrong else f"{type(self.parts).__name__} of {len(parts)} parts"
            raise UsageError(f"Joint: got {got}; pass a dict or tuple of distributions")

    @property
    def mask_size(self) -> int:
        """The sum of the parts'."""
        return sum(_mask_size(part) for part in self._flat()[0])

    def masked(self, mask: Array) -> Joint:
        """Each part with its own piece of the mask.

        Args:
            mask: [..., mask_size], the masks of the discrete parts side by side, in the order of the parts; bool or 0 and 1.

        Raises:
            UsageError: for another size, or if no part is discrete (when traced).
        """
        parts, structure = self._flat()
        mask = jnp.asarray(mask)
        if not self.mask_size or mask.shape[-1:] != (self.mask_size,):
            raise UsageError(
                f"action mask: got shape {mask.shape} for a Joint whose discrete parts have {self.mask_size} actions;"
                " pass [..., mask_size], batch axes first, and none for continuous actions"
            )
        masked, end = [], 0
        for part in parts:
            begin, end = end, end + _mask_size(part)
            masked.append(part.masked(mask[..., begin:end]) if end > begin else part)
        return Joint(structure.unflatten(masked))

    def sample(self, key: Key) -> PyTree:
        """One action of each part, with a key of its own."""
        return self.at(self.noise(key))

    def noise(self, key: Key) -> PyTree:
        """Each part's `drawn_noise`, so that parts without `noise` get their key's data: a dict or tuple like the action."""
        parts, structure = self._flat()
        return structure.unflatten([drawn_noise(part, key) for part, key in zip(parts, jax.random.split(key, len(parts)), strict=True)])

    def at(self, noise: PyTree) -> PyTree:
        """Each part `sampled`.

        Args:
            noise: as `noise` gives it.
        """
        return self._mapped(sampled, noise, "noise")

    def log_prob(self, action: PyTree) -> Array:
        """log π(a) = Σ_k log π_k(a_k), [...].

        Args:
            action: a dict or tuple of the parts' actions.

        Raises:
            UsageError: for another structure.
        """
        return self._sum(lambda part, action: part.log_prob(action), action, "action")

    def entropy(self) -> Array:
        """H = Σ_k H_k in nats, [...]."""
        return functools.reduce(jnp.add, [part.entropy() for part in self._flat()[0]])

    def kl(self, other: Joint) -> Array:
        """KL(self ‖ other) = Σ_k KL_k in nats, [...]."""
        return self._sum(lambda part, other: part.kl(other), other.parts, "other")

    def mode(self) -> PyTree:
        """Each part's."""
        parts, structure = self._flat()
        return structure.unflatten([part.mode() for part in parts])

    def _flat(self) -> tuple[list[Any], Any]:
        """The parts in order, and how they are put together."""
        return jax.tree.flatten(self.parts, is_leaf=lambda part: not isinstance(part, dict | tuple))

    def _pairs(self, given: PyTree, what: str) -> tuple[list[tuple[Any, Any]], Any]:
        parts, structure = self._flat()
        try:
            return list(zip(parts, structure.flatten_up_to(given), strict=True)), structure
        except ValueError as error:
            raise UsageError(f"{what} of a Joint: got {jax.tree.structure(given)}; it must be like the parts, {structure}") from error

    def _mapped(self, function: Callable[[Any, Any], Any], given: PyTree, what: str) -> PyTree:
        """function(part, what is given for it), put together as the parts are."""
        pairs, structure = self._pairs(given, what)
        return structure.unflatten([function(part, each) for part, each in pairs])

    def _sum(self, function: Callable[[Any, Any], Array], given: PyTree, what: str) -> Array:
        """Σ over the parts of function(part, what is given for it)."""
        return functools.reduce(jnp.add, [function(part, each) for part, each in self._pairs(given, what)[0]])


def _mask_size(part: Any) -> int:
    """Of any distribution; one of the user's own may not know of masks."""
    return getattr(part, "mask_size", 0)
