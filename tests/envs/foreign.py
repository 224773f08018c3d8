"""What every adapter is held to with the package itself: the flags, the next observations, and that nothing resets."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from policygrad.envs import Env
from policygrad.spaces import Box, Discrete, mapped


def random_actions(env: Env, key: Any, num_steps: int) -> Any:
    """num_steps elements of the action space, counted from 0."""

    def one(space: Any) -> Any:
        match space:
            case Box():
                low, high = np.maximum(space.low_array, -1e3), np.minimum(space.high_array, 1e3)
                return jnp.asarray(np.random.RandomState(0).uniform(low, high, (num_steps, *space.shape)), jnp.float32)
            case Discrete():
                return jax.random.randint(key, (num_steps,), 0, space.n)
        raise NotImplementedError(space)

    return mapped(one, env.action_space)


def played(env: Env, actions: Any, key: Any = None) -> Any:
    """Steps [T, …] from one reset on, as one program; whatever ends does not stop it."""
    key = jax.random.key(0) if key is None else key

    @jax.jit
    def run(actions: Any) -> Any:
        count = len(jax.tree.leaves(actions)[0])
        now = (jax.random.split(key, count), actions)
        return jax.lax.scan(lambda state, now: env.step(now[0], state, now[1]), env.reset(key)[0], now)[1]

    return jax.tree.map(np.asarray, run(actions))


def assert_only_the_limit_differs(limited: Env, endless: Env, limit: int, *, alike: bool = True) -> Any:
    """The same steps with a short limit and with a long one: truncated at the limit and not before, all else the same.

    Args:
        alike: observations are the same as well.

    Returns:
        the steps of `endless`
    """
    actions = random_actions(endless, jax.random.key(1), limit + 2)
    short, long = played(limited, actions), played(endless, actions)
    np.testing.assert_array_equal(short.truncated, np.arange(1, limit + 3) >= limit)
    assert not long.truncated.any()
    rows = slice(limit)  # what lies behind the limit is no part of an episode
    np.testing.assert_array_equal(short.terminated[rows], long.terminated[rows])
    np.testing.assert_array_equal(short.reward[rows], long.reward[rows])
    for value, other in zip(jax.tree.leaves(short.obs), jax.tree.leaves(long.obs), strict=True):
        assert np.isfinite(value).all()
        if alike:
            np.testing.assert_array_equal(value[rows], other[rows])
    return long
