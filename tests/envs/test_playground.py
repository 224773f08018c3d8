"""MuJoCo Playground itself, where it is installed: `make test-adapters`."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import numpy as np
import pytest

from envs.foreign import assert_only_the_limit_differs, played, random_actions
from policygrad.envs import make

playground = pytest.importorskip("mujoco_playground")
KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def _their_broadcasting() -> Iterator[None]:
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.parametrize("id", ["CartpoleBalance", "PendulumSwingup"])
def test_the_limit_truncates_and_never_terminates(id: str) -> None:
    assert make(f"playground:{id}").time_limit == 1000
    limited, endless = (make(f"playground:{id}", env_args={"episode_length": limit}) for limit in (4, 100))
    assert not assert_only_the_limit_differs(limited, endless, 4).terminated.any()


def test_it_is_playground_unwrapped() -> None:
    env, theirs = make("playground:CartpoleBalance"), playground.registry.load("CartpoleBalance", config_overrides={"impl": "jax"})
    actions = random_actions(env, KEY, 6)

    def advance(state, action):
        state = theirs.step(state, action)
        return state, (state.obs, state.reward)

    obs, reward = jax.jit(lambda: jax.lax.scan(advance, theirs.reset(jax.random.key_data(KEY)), actions)[1])()
    steps = played(env, actions)
    np.testing.assert_allclose(steps.obs, obs, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(steps.reward, reward, rtol=1e-4, atol=1e-5)
