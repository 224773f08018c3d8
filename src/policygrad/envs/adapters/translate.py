"""From somebody else's pure functions to the contract of `envs.base`.

Foreign environments may hold Python numbers and weak types in their state, change a dtype with the first step, count from `start`, and
give rewards and flags of any number type. A compiled loop carries its state, so that it needs the same shapes and dtypes from the
first step on: they are found here by tracing, before anything is compiled.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from policygrad.envs import checks
from policygrad.envs.base import Env, time_limit
from policygrad.errors import PolicygradError, SpaceError, UsageError
from policygrad.spaces import Box, Discrete, Leaf, MultiDiscrete, Space, check_mask, flattened, held_dtype, leaves, mapped
from policygrad.types import Array, Key, PyTree, Step
from policygrad.vectors.single import first_line

Reset = Callable[[Key], tuple[PyTree, PyTree]]
"""key -> (state, observation)"""
Advance = Callable[[Key, PyTree, PyTree], tuple[PyTree, PyTree, Any, Any, Any]]
"""(key, state, action) -> (next state, its observation, reward, terminated, truncated), without any reset"""


def translated(
    name: str,
    observation_space: Space,
    action_space: Space,
    reset: Reset,
    advance: Advance,
    *,
    limit: int | None = None,
    threshold: float | None = None,
) -> Env:
    """A compiled environment from two foreign functions.

        state     every leaf in the dtype that its values before and after a step promote to
        obs       as `spaces` says: float32 (bytes stay bytes), int32 counted from 0
        action    likewise, counted from the space's start on the way in
        reward    a float; terminated, truncated: bools; `limit` truncates as well

    Args:
        observation_space, action_space: as the environment's author means them, starts included.
        limit: steps after which an episode is truncated; None for no limit.
        threshold: the mean return that counts as solved.

    Raises:
        UsageError: it raised while it was traced, its state changes its shape, or an argument is out of range.
        SpaceError: an observation has another shape than its space.
    """
    limit, threshold = checks.time_limit(limit), checks.reward_threshold(threshold)
    with _named(name):
        check_mask(observation_space, action_space)
        reset, advance = jax.jit(reset), jax.jit(advance)  # traced once for all that call them
        carried = _carried(name, reset, advance, action_space)
        _check_shapes(name, observation_space, jax.eval_shape(lambda key: reset(key)[1], jax.random.key(0)))

    def held(state: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf, like: jnp.asarray(leaf).astype(like.dtype), state, carried)

    def seen(obs: PyTree) -> PyTree:
        return mapped(lambda space, leaf: (jnp.asarray(leaf) - _start(space)).astype(held_dtype(space)), observation_space, obs)

    def own_reset(key: Key) -> tuple[PyTree, PyTree]:
        state, obs = reset(key)
        return held(state), seen(obs)

    def own_step(key: Key, state: PyTree, action: Array) -> tuple[PyTree, Step]:
        state, obs, reward, terminated, truncated = advance(key, state, _outwards(action_space, action))
        scalars = (jnp.reshape(jnp.asarray(value), ()) for value in (reward, terminated, truncated))
        reward, terminated, truncated = (value.astype(dtype) for value, dtype in zip(scalars, (float, bool, bool), strict=True))
        return held(state), Step(seen(obs), reward, terminated, truncated)

    env = Env(name, observation_space, action_space, own_reset, own_step, None, threshold)
    return env if limit is None else time_limit(env, limit)


def imported(name: str, load: Callable[[], Any], install: str) -> Any:
    """What `load` imports, without the warnings of that; what it prints goes to stderr, since stdout may be somebody's JSON.

    Raises:
        UsageError: it cannot be imported; `install` says how to get it.
    """
    try:
        with warnings.catch_warnings(action="ignore"), redirect_stdout(sys.stderr):
            return load()
    except ImportError as error:
        raise UsageError(f"environment {name}: {first_line(error)}; {install}") from error


def known_only(name: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raises a `UsageError` for arguments that the environment does not take."""
    known = sorted(known)
    if unknown := sorted(set(given) - set(known)):
        raise UsageError(f"environment {name} does not take {', '.join(unknown)}; its env_args: {', '.join(known)}")


def made(name: str, make: Callable[[], Any]) -> Any:
    """What `make` makes; what it raises is told in one line."""
    with _named(name):
        return make()


@contextmanager
def _named(name: str) -> Iterator[None]:
    """What is raised inside is one line that names the environment; what is warned of there is its author's business."""
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    except SpaceError as error:
        raise SpaceError(str(error) if str(error).startswith("environment ") else f"environment {name}: {error}") from None
    except PolicygradError:
        raise
    except Exception as error:  # foreign code, and what it raises while it is traced
        raise UsageError(f"environment {name} raised {type(error).__name__}: {first_line(error)}; correct it or its env_args") from error


def _start(space: Leaf) -> Any:
    """Where a leaf's author counts from."""
    if isinstance(space, Discrete):
        return space.start
    return space.start_array if isinstance(space, MultiDiscrete) and space.starts else 0


def _outwards(space: Space, action: PyTree) -> PyTree:
    """An action as its author counts it."""
    return mapped(lambda leaf, value: jnp.asarray(value).astype(held_dtype(leaf)) + _start(leaf), space, action)


def _carried(name: str, reset: Reset, advance: Advance, action_space: Space) -> PyTree:
    """Shapes and dtypes of the state in a loop: those of a first state, promoted until a step no longer changes them."""
    key = jax.random.key(0)

    def plain(tree: PyTree) -> PyTree:  # without weak types
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)

    def promoted(before: Any, after: Any) -> Any:
        if before.shape != after.shape:
            raise UsageError(f"environment {name}: a part of its state changes its shape from {before.shape} to {after.shape} in a step")
        return before if before.dtype == after.dtype else jax.ShapeDtypeStruct(before.shape, jnp.promote_types(before.dtype, after.dtype))

    action = mapped(lambda leaf: jnp.zeros(leaf.shape, held_dtype(leaf)), action_space)
    state = plain(jax.eval_shape(lambda: reset(key)[0]))
    while True:
        after = jax.eval_shape(lambda state: advance(key, state, _outwards(action_space, action))[0], state)
        if jax.tree.structure(after) != jax.tree.structure(state):
            raise UsageError(f"environment {name}: its state has other parts after a step than before; give it the same from reset on")
        settled = jax.tree.map(promoted, state, after)
        if settled == state:
            return state
        state = settled


def _check_shapes(name: str, space: Space, obs: PyTree) -> None:
    for (part, leaf), value in zip(leaves(space), flattened(space, obs), strict=True):
        if value.shape != leaf.shape:
            where = f"observation, part {part}" if part else "observation"
            raise SpaceError(f"environment {name}, {where}: got shape {value.shape} where its space says {leaf}; correct one of them")


def box_like(shape: tuple[int, ...], dtype: Any) -> Space:
    """The space of an array of which nothing but its shape and dtype is known."""
    if np.dtype(dtype) == np.uint8:
        return Box.of(0, 255, shape, "uint8")
    return Box.of(-np.inf, np.inf, shape)
