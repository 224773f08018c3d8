"""The contract of a compiled environment, and the time limit as a combinator.

A compiled environment is two pure functions that JAX can trace, for **one** environment (collectors `vmap` them):

    reset(key)               -> (state, obs)
    step(key, state, action) -> (state, Step(obs, reward, terminated, truncated, extras))

It never resets itself: the collector does, in one place. `state` is any pytree. Functions take their dtype from their
inputs, so that the same code runs in float32 in training and in float64 in a proof.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp

from policygrad.spaces import Space
from policygrad.types import Array, Key, PyTree, Step


@dataclass(frozen=True, eq=False)
class Env:
    """A compiled environment. Hashed by identity, so it can be closed over or passed as static data."""

    name: str
    observation_space: Space
    action_space: Space
    reset: Callable[[Key], tuple[PyTree, Array]]
    step: Callable[[Key, PyTree, Array], tuple[PyTree, Step]]
    time_limit: int | None = None  # steps after which an episode is truncated, if any
    reward_threshold: float | None = None  # the mean return that counts as solved, if there is one
    backend: str = "compiled"


def time_limit(env: Env, limit: int) -> Env:
    """Truncates the episodes of `env` after `limit` steps.

    An episode that terminates at the very last step is both terminated and truncated; `terminated` wins downstream. Of two
    limits the shorter holds.
    """
    limit = limit if env.time_limit is None else min(limit, env.time_limit)
    changed = getattr(env, "replace", None)
    if changed is not None:  # environments that are given by their tables stay what they are: the oracle reads them
        return changed(time_limit=limit)

    def reset(key: Key) -> tuple[Any, Array]:
        state, obs = env.reset(key)
        return (state, jnp.zeros((), jnp.int32)), obs

    def step(key: Key, state: Any, action: Array) -> tuple[Any, Step]:
        inner, time = state
        inner, step = env.step(key, inner, action)
        time = time + 1
        return (inner, time), step._replace(truncated=step.truncated | (time >= limit))

    return replace(env, reset=reset, step=step, time_limit=limit)
