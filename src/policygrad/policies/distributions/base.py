"""The contract of a distribution, and what all of them share."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from policygrad.errors import UsageError
from policygrad.types import Array, Key, PyTree


@runtime_checkable
class Distribution(Protocol):
    """What every distribution can do. All of it differentiates with respect to the distribution's leaves, but `sample`.

    One whose `sample(key)` is `at(noise(key))`, with a `noise` that looks at shapes and dtypes alone, is sampled faster: collectors
    draw the noise of a whole rollout at once.

    Those of this folder also have

        mask_size      how many entries a mask of its actions has, known from the shapes alone; 0 for continuous actions
        masked(mask)   the distribution over the actions that `mask` [..., mask_size] allows: bool, or 1 allowed and 0 forbidden
    """

    def sample(self, key: Key) -> PyTree:
        """One action per batch element, independent given the key."""
        ...

    def log_prob(self, action: PyTree) -> Array:
        """log π(a|o) in nats, summed over the event's axes, [...]."""
        ...

    def entropy(self) -> Array:
        """H = −E[log π(a|o)] in nats, [...]."""
        ...

    def kl(self, other: Any) -> Array:
        """KL(self ‖ other) = E_self[log self − log other] ≥ 0 in nats, [...]."""
        ...

    def mode(self) -> PyTree:
        """The likeliest action, or what stands for it: the action of acting without chance."""
        ...


def drawn_noise(distribution: Any, key: Key) -> PyTree:
    """What chance adds to a sample, of which `sampled` makes the action: `noise`, or the key's data where there is none.

    Args:
        distribution: anything with its shapes, such as what `jax.eval_shape` gives.

    Returns:
        an array; of a `Joint`, a dict or tuple of each part's.
    """
    return distribution.noise(key) if hasattr(distribution, "noise") else jax.random.key_data(key)


def sampled(distribution: Any, noise: PyTree) -> PyTree:
    """The action that `distribution.sample(key)` is, of `drawn_noise(distribution, key)`."""
    return distribution.at(noise) if hasattr(distribution, "noise") else distribution.sample(jax.random.wrap_key_data(noise))


def allowed(mask: Array, shape: tuple[int, ...]) -> Array:
    """A mask as booleans.

    Raises:
        UsageError: unless it has this shape (when traced): a mask that broadcasts would hide a missing batch axis.
    """
    mask = jnp.asarray(mask)
    if mask.shape != shape:
        raise UsageError(f"action mask: got shape {mask.shape}; it must be {shape}, batch axes first and one entry an action")
    return mask != 0


def unmaskable(distribution: Any) -> UsageError:
    """The error of a mask for continuous actions."""
    return UsageError(f"action mask: got one for a {type(distribution).__name__}, whose actions are continuous; mask discrete actions only")


def sum_event(terms: Array, event_ndim: int) -> Array:
    """Σ over the event's axes, the last `event_ndim`."""
    return jnp.sum(terms, axis=tuple(range(-event_ndim, 0)))
