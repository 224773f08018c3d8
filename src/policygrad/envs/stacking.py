"""The last k observations in place of one: for tasks whose state one observation does not tell."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from policygrad.envs.base import Env
from policygrad.errors import UsageError
from policygrad.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Tuple
from policygrad.types import Array, Key, PyTree, Step


def frame_stack(env: Env, k: int) -> Env:
    """Observations of the last k steps, the newest last; before there are k of an episode, the first one stands in.

        o'_t = (o_{t−k+1}, …, o_t)        o_i = o_0 for i < 0        [*shape] -> [k, *shape]

    The policy's own record holds what it saw, so nothing need be stacked again. The CNN of `policies.features` takes the frames of images
    as channels. Parts of Dict and Tuple observations are stacked one by one; a Discrete one becomes a MultiDiscrete of k.

    An environment of Gymnasium's is stacked by its own wrapper, which does the same:

        pg.train("ALE/Pong-v5", pg.ppo(), wrappers=[lambda env: gymnasium.wrappers.FrameStackObservation(env, 4)], …)

    Args:
        env: a compiled environment.
        k: ≥ 1; 1 only adds the axis.

    Raises:
        UsageError: for another k, or an environment of Gymnasium's.

    Reference:
        Mnih et al. 2015, "Human-level control through deep reinforcement learning", who stack 4.

    >>> from policygrad.envs import make
    >>> frame_stack(make("CartPole-v1"), 4).observation_space.shape
    (4, 4)
    """
    if not isinstance(env, Env):
        fix = "pass wrappers=[lambda env: gymnasium.wrappers.FrameStackObservation(env, k)] to train or make"
        raise UsageError(f"frame_stack: got {type(env).__name__}, it takes a compiled environment; {fix}")
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise UsageError(f"frame_stack: got k={k!r}; it must be a whole number of at least 1")

    def reset(key: Key) -> tuple[Any, PyTree]:
        state, obs = env.reset(key)
        frames = jax.tree.map(lambda x: jnp.broadcast_to(jnp.asarray(x)[None], (k, *jnp.shape(x))), obs)
        return (state, frames), frames

    def step(key: Key, state: Any, action: Array) -> tuple[Any, Step]:
        inner, frames = state
        inner, step = env.step(key, inner, action)
        frames = jax.tree.map(lambda old, new: jnp.concatenate([old[1:], jnp.asarray(new)[None]]), frames, step.obs)
        return (inner, frames), step._replace(obs=frames)

    # An `Env` and nothing more: what stacks the observations of a table is no table.
    return Env(
        env.name,
        stacked(env.observation_space, k),
        env.action_space,
        reset,
        step,
        env.time_limit,
        env.reward_threshold,
        env.backend,
    )


def stacked(space: Space, k: int) -> Space:
    """The space of k elements, stacked on a new first axis."""
    match space:
        case Box():
            low, high = (bound if len(bound) == 1 else bound * k for bound in (space.low, space.high))
            return Box(low, high, (k, *space.shape), space.dtype)
        case Discrete():
            return MultiDiscrete((space.n,) * k, (k,), (space.start,) * k if space.start else ())
        case MultiDiscrete():
            return MultiDiscrete(space.counts * k, (k, *space.shape), space.starts * k)
        case MultiBinary():
            return MultiBinary((k, *space.shape))
        case Dict():
            return Dict(tuple((name, stacked(part, k)) for name, part in space.parts))
        case Tuple():
            return Tuple(tuple(stacked(part, k) for part in space.parts))
