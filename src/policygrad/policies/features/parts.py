"""Parts put together: features of a Dict or Tuple observation, and the features that any space suggests."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from policygrad.errors import SpaceError
from policygrad.policies.features.basic import MultiOneHot, OneHot, Raw
from policygrad.policies.features.images import CNN, is_image, suggested
from policygrad.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Tuple, leaves
from policygrad.types import Array, Key, PyTree


class Joined(eqx.Module):
    """Features of the parts of a Dict or Tuple observation, side by side.

        x = (x_1, …, x_n)        x_i [..., F_i] the features of part i        [..., Σ F_i]

    Parts of an observation that are not named are not seen.

    Args:
        names: of the parts: keys of a dict, in the order that `spaces.leaves` has them in, or positions in a tuple.
        parts: a features module for each; for a part that has parts itself, another `Joined`.
    """

    names: tuple[str | int, ...] = eqx.field(static=True)
    parts: tuple[Any, ...]

    @property
    def num_features(self) -> int:
        return sum(part.num_features for part in self.parts)

    @property
    def spans_constant(self) -> bool:
        return any(getattr(part, "spans_constant", False) for part in self.parts)

    def __call__(self, obs: PyTree) -> Array:
        parts: dict[Any, Any] = obs if isinstance(obs, dict) else dict(enumerate(obs)) if isinstance(obs, tuple) else {}
        if any(name not in parts for name in self.names):
            got = f"a {type(obs).__name__}" + (f" with {', '.join(map(repr, parts))}" if parts else "")
            kind = "dict" if isinstance(self.names[0], str) else "tuple"
            raise SpaceError(f"observation: got {got}; the policy takes a {kind} with {', '.join(map(repr, self.names))}")
        seen = [part(parts[name]) for name, part in zip(self.names, self.parts, strict=True)]
        if any(x.shape[:-1] != seen[0].shape[:-1] for x in seen):
            batches = ", ".join(f"{name!r} {x.shape[:-1]}" for name, x in zip(self.names, seen, strict=True))
            raise SpaceError(f"observation: got parts of different batch axes, {batches}; give all parts the same")
        return jnp.concatenate(seen, axis=-1)


def from_space(space: Space, role: str = "observation", key: Key | None = None) -> Raw | OneHot | MultiOneHot | CNN | Joined:
    """The features that a space suggests.

        Discrete, MultiDiscrete    unit vectors
        MultiBinary, Box           the elements
        an image, with a key       convolutions: `images.suggested`
        Dict, Tuple                those of the parts, side by side

    Args:
        role: for messages.
        key: a PRNG key; None: nothing is learnt, the features lose nothing, and images are their elements.

    Raises:
        SpaceError: for a Box without elements.
    """
    match space:
        case Discrete():
            return OneHot(space.n)
        case MultiDiscrete():
            return MultiOneHot(space.counts, space.shape)
        case Dict() | Tuple():
            named: tuple[tuple[Any, Space], ...] = space.parts if isinstance(space, Dict) else tuple(enumerate(space.parts))
            keys = jax.random.split(key, len(named)) if key is not None and has_images(space) else (None,) * len(named)
            parts = tuple(from_space(part, f"{role}[{name!r}]", keys[i]) for i, (name, part) in enumerate(named))
            return Joined(tuple(name for name, _ in named), parts)
        case Box() | MultiBinary():
            if space.size == 0:
                raise SpaceError(f"empty {role} space: got {space}; give it at least one element (a constant 0 will do)")
            image = suggested(key, space) if key is not None and isinstance(space, Box) else None
            return image or Raw(space.shape)


def has_images(space: Space) -> bool:
    """Whether `from_space` uses its key."""
    return any(is_image(leaf) for _, leaf in leaves(space))
