"""brax itself, where it is installed: `make test-adapters`."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs.foreign import assert_only_the_limit_differs, played, random_actions
from policygrad.envs import make

envs = pytest.importorskip("brax.envs")
KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def _their_broadcasting() -> Iterator[None]:
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.parametrize("id", ["fast", "inverted_pendulum", "reacher"])
def test_the_limit_truncates_and_never_terminates(id: str) -> None:
    limited, endless = (make(f"brax:{id}", env_args={"time_limit": limit}) for limit in (4, 100))
    assert_only_the_limit_differs(limited, endless, 4)


@pytest.mark.filterwarnings("ignore")  # what brax says about itself while it is made
def test_it_is_brax_unwrapped() -> None:
    """Observation, reward and end of every step; the pole falls, and goes on falling."""
    env, theirs = make("brax:inverted_pendulum"), envs.get_environment("inverted_pendulum")
    assert env.time_limit == 1000
    actions = jnp.ones((12, 1))

    def advance(state, action):
        state = theirs.step(state, action)
        return state, (state.obs, state.reward, state.done)

    reset = jax.jit(lambda: theirs.reset(jax.random.key_data(KEY)))
    obs, reward, done = jax.jit(lambda: jax.lax.scan(advance, theirs.reset(jax.random.key_data(KEY)), actions)[1])()
    np.testing.assert_array_equal(env.reset(KEY)[1], reset().obs)
    steps = played(env, actions)
    np.testing.assert_allclose(steps.obs, obs, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(steps.reward, reward)
    np.testing.assert_array_equal(steps.terminated, done > 0)
    np.testing.assert_array_equal(steps.terminated[:3], [False, True, True])
    assert (np.diff(np.abs(steps.obs[:6, 1])) > 0).all()


def test_observations_with_parts() -> None:
    options = {"asymmetric_obs": True, "obs_mode": "dict_state"}
    both = make("brax:fast", env_args=options)
    assert [name for name, _ in both.observation_space.parts] == ["privileged_state", "state"]
    one = make("brax:fast", env_args=options | {"observation": "state"})
    assert one.observation_space.shape == (2,)
    actions = random_actions(one, KEY, 5)
    np.testing.assert_array_equal(played(both, actions).obs["state"], played(one, actions).obs)
