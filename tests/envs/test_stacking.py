"""Stacked frames against Gymnasium's wrapper, step by step."""

from __future__ import annotations

from dataclasses import replace

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.wrappers import FrameStackObservation

from policygrad.envs import Env, finite_world, frame_stack, make, time_limit
from policygrad.envs.stacking import stacked
from policygrad.errors import UsageError
from policygrad.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple, from_gymnasium
from policygrad.types import Step


def test_cartpole_as_gymnasium_stacks_it(x64):
    """Both from the same state, by the same actions, until the pole falls."""
    k = 3
    theirs = FrameStackObservation(gymnasium.make("CartPole-v1"), k)
    expected, _ = theirs.reset(seed=0)
    start = np.array(theirs.unwrapped.state)
    compiled = make("CartPole-v1", "compiled")
    ours = frame_stack(replace(compiled, reset=lambda key: ((jnp.asarray(start), jnp.zeros((), jnp.int32)), jnp.asarray(start))), k)
    assert ours.observation_space == from_gymnasium(theirs.observation_space)
    assert (ours.name, ours.time_limit, ours.reward_threshold) == ("CartPole-v1", 500, 475.0)
    key = jax.random.key(0)
    state, obs = ours.reset(key)
    assert obs.shape == (3, 4)
    np.testing.assert_allclose(obs, expected, rtol=1e-6)
    assert np.all(expected[0] == expected[2])
    advance = jax.jit(ours.step)
    for t in range(100):
        action = t % 3 % 2
        expected, reward, terminated, truncated, _ = theirs.step(action)
        state, step = advance(key, state, action)
        np.testing.assert_allclose(step.obs, expected, rtol=1e-5, atol=1e-7)
        assert (step.reward, step.terminated, step.truncated) == (reward, terminated, truncated)
        if terminated:
            break
    assert terminated
    assert t > k


def counter(space, obs_of):
    """An environment whose t-th observation is `obs_of(t)`."""

    def step(key, t, action):
        return t + 1, Step(obs_of(t + 1), jnp.zeros(()), t >= 9, jnp.zeros((), bool), {"mask": t})

    return Env("Counter", space, Discrete(2), lambda key: (jnp.zeros((), jnp.int32), obs_of(jnp.zeros((), jnp.int32))), step)


def test_every_part_is_stacked_and_begins_with_the_first():
    space = Dict.of({"number": Discrete(50, start=3), "vector": Tuple((Box.of([0, -np.inf], [1, np.inf]), MultiBinary((2,))))})
    env = frame_stack(counter(space, lambda t: {"number": t, "vector": (jnp.stack([t, -t]).astype(float), jnp.stack([t, t]) % 2)}), 3)
    state, obs = env.reset(jax.random.key(0))
    seen = [obs["number"].tolist()]
    for _ in range(4):
        state, step = env.step(jax.random.key(0), state, 0)
        seen.append(step.obs["number"].tolist())
    assert seen == [[0, 0, 0], [0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4]]
    assert step.extras["mask"] == 3
    vector, flags = step.obs["vector"]
    np.testing.assert_array_equal(vector, [[2, -2], [3, -3], [4, -4]])
    np.testing.assert_array_equal(flags, [[0, 0], [1, 1], [0, 0]])
    assert env.observation_space["number"] == MultiDiscrete((50, 50, 50), (3,), (3, 3, 3))


@pytest.mark.parametrize(
    "space",
    [
        gymnasium.spaces.Box(np.array([-1, -np.inf], np.float32), np.array([2, 3], np.float32)),
        gymnasium.spaces.Box(0, 255, (6, 5, 3), np.uint8),
        gymnasium.spaces.Discrete(5, start=2),
        gymnasium.spaces.Discrete(5),
        gymnasium.spaces.Dict({"b": gymnasium.spaces.Discrete(3), "a": gymnasium.spaces.Tuple([gymnasium.spaces.Box(0, 1, (2,))])}),
    ],
)
def test_spaces_are_those_of_gymnasium(space):
    assert stacked(from_gymnasium(space), 3) == from_gymnasium(gymnasium.vector.utils.batch_space(space, 3))


def test_choices_and_flags_stay_what_they_are():
    """Gymnasium makes Boxes of integers of them."""
    assert stacked(MultiBinary((2,)), 3) == MultiBinary((3, 2))
    assert stacked(MultiDiscrete((2, 3), (2,), (1, 0)), 2) == MultiDiscrete((2, 3, 2, 3), (2, 2), (1, 0, 1, 0))


def test_one_frame_only_adds_the_axis_and_limits_apply_to_it():
    env = time_limit(frame_stack(make("CartPole-v1", "compiled"), 1), 2)
    state, obs = env.reset(jax.random.key(0))
    assert obs.shape == (1, 4)
    for expected in (False, True):
        state, step = env.step(jax.random.key(0), state, 0)
        assert step.truncated == expected


def test_a_table_whose_observations_are_stacked_is_no_table():
    env = frame_stack(finite_world("fork"), 2)
    assert type(env) is Env
    assert isinstance(env.observation_space, MultiDiscrete)


@pytest.mark.parametrize("k", [0, -1, 2.0, True, "4"])
def test_numbers_of_frames(k):
    with pytest.raises(UsageError, match=f"frame_stack: got k={k!r}; it must be a whole number of at least 1"):
        frame_stack(make("CartPole-v1", "compiled"), k)


def test_environments_of_gymnasium_have_their_own_wrapper():
    with pytest.raises(UsageError, match="got CartPoleEnv, it takes a compiled environment; pass wrappers="):
        frame_stack(gymnasium.make("CartPole-v1").unwrapped, 4)
    wrapped = make("CartPole-v1", wrappers=[lambda env: FrameStackObservation(env, 4)])
    assert wrapped.observation_space == frame_stack(make("CartPole-v1"), 4).observation_space
