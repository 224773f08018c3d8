"""Features by name, and the one call that builds them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from policygrad.errors import SpaceError, UnknownNameError, UsageError
from policygrad.policies.features.bases import fourier, polynomial, random_fourier, rbf
from policygrad.policies.features.basic import MultiOneHot, OneHot
from policygrad.policies.features.images import nature_cnn, small_cnn
from policygrad.policies.features.parts import Joined, from_space
from policygrad.spaces import Dict, Discrete, MultiDiscrete, Space, Tuple
from policygrad.types import Key

Kind = str | Callable[..., Any]


def auto(key: Key, space: Space) -> Any:
    """What the space suggests, convolutions for images: `from_space` with a key."""
    return from_space(space, key=key)


def raw(key: Key, space: Space) -> Any:
    """What loses nothing and learns nothing: `from_space` without a key."""
    return from_space(space)


def one_hot(key: Key, space: Space) -> OneHot | MultiOneHot:
    """Unit vectors of a Discrete or MultiDiscrete observation.

    Raises:
        SpaceError: for another space.
    """
    if not isinstance(space, Discrete | MultiDiscrete):
        raise SpaceError(f"one-hot features need Discrete or MultiDiscrete observations: got {space}; use 'raw'")
    features = from_space(space)
    assert isinstance(features, OneHot | MultiOneHot)
    return features


def joined(key: Key, space: Space, parts: Mapping[str | int, Kind] | None = None, *, others: Kind = "auto") -> Joined:
    """Features for each part of a Dict or Tuple observation, side by side: `Joined`.

    Args:
        parts: by the parts' names or positions, what `build` takes; for parts with parts a function (key, space) -> features, such
            as `functools.partial(joined, parts=…)`.
        others: for the parts that are not among them.

    Raises:
        SpaceError: for a space without parts. UnknownNameError, UsageError: for a part that there is not, or as `build`.
    """
    if not isinstance(space, Dict | Tuple):
        raise SpaceError(f"joined features need a Dict or Tuple observation: got {space}; use 'auto'")
    named: dict[str | int, Space] = dict(space.parts) if isinstance(space, Dict) else dict(enumerate(space.parts))
    parts = parts or {}
    if unknown := [name for name in parts if name not in named]:
        raise UnknownNameError("part of the observation", str(unknown[0]), map(str, named))
    keys = (None,) * len(named) if key is None else jax.random.split(key, len(named))
    return Joined(tuple(named), tuple(build(parts.get(name, others), keys[i], part) for i, (name, part) in enumerate(named.items())))


FEATURES: dict[str, Callable[..., Any]] = {
    "auto": auto,
    "raw": raw,
    "one-hot": one_hot,
    "polynomial": polynomial,
    "fourier": fourier,
    "rbf": rbf,
    "random-fourier": random_fourier,
    "nature-cnn": nature_cnn,
    "small-cnn": small_cnn,
    "joined": joined,
}
"""(key, space, **arguments) -> features, by name."""


def build(kind: Kind, key: Key, space: Space, /, **arguments: Any) -> Any:
    """Features of a space.

    Args:
        kind: a name of `FEATURES`; a function (key, space, **arguments) -> features; or features that are made already.
        key: a PRNG key, for those that are learnt.
        space: of the observations.
        arguments: of the builder, each in its docstring; e.g. `order=5` for "fourier".

    Raises:
        UnknownNameError, UsageError, SpaceError: in one line.

    >>> from policygrad.spaces import Box
    >>> build("fourier", None, Box.of(-1.0, 1.0, (2,)), order=3).num_features
    16
    """
    if isinstance(kind, eqx.Module) and callable(kind):
        if arguments:
            raise UsageError(f"features {type(kind).__name__}: got {', '.join(arguments)} for features made already; leave them out")
        return _trainable(kind, type(kind).__name__)
    if isinstance(kind, str):
        if kind not in FEATURES:
            raise UnknownNameError("features", kind, FEATURES)
        builder, what = FEATURES[kind], f"{kind!r}"
    elif callable(kind):
        builder, what = kind, getattr(kind, "__name__", type(kind).__name__)
    else:
        raise UsageError(f"features: got {type(kind).__name__}; give a name ({', '.join(FEATURES)}), or a function (key, space) -> them")
    try:
        inspect.signature(builder).bind(key, space, **arguments)
    except TypeError:
        taken = ", ".join(list(inspect.signature(builder).parameters)[2:]) or "none"
        raise UsageError(f"features {what}: got the arguments {', '.join(arguments) or 'none'}; it takes: {taken}") from None
    made = builder(key, space, **arguments)
    if not (isinstance(made, eqx.Module) and callable(made)):
        raise UsageError(f"features {what}: got {type(made).__name__} from its builder; it must return a Module, observations -> [..., F]")
    return _trainable(made, what)


def _trainable(features: Any, what: str) -> Any:
    for leaf in jax.tree.leaves(features):
        if not (hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)):
            got = f"an array of {leaf.dtype}" if hasattr(leaf, "dtype") else type(leaf).__name__
            raise UsageError(f"features {what}: got {got} among its leaves, which train, so are float arrays; make it a static field")
    return features
