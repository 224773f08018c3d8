"""gymnax itself, where it is installed: `make test-adapters`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs.foreign import assert_only_the_limit_differs, played, random_actions
from policygrad.envs import make

gymnax = pytest.importorskip("gymnax")

SHOWS_TIME = {"BernoulliBandit-misc", "DiscountingChain-bsuite"}  # as a share of the limit
NEEDS_A_DOWNLOAD = {"MNISTBandit-bsuite"}


@pytest.fixture(autouse=True)
def _their_broadcasting() -> Iterator[None]:
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.parametrize("id", sorted({*gymnax.registered_envs} - NEEDS_A_DOWNLOAD))
@pytest.mark.filterwarnings("ignore")
def test_the_limit_truncates_and_never_terminates(id: str) -> None:
    limited, endless = (make(f"gymnax:{id}", env_args={"time_limit": limit}) for limit in (4, 100))
    assert_only_the_limit_differs(limited, endless, 4, alike=id not in SHOWS_TIME)


def test_cartpole_is_ours() -> None:
    """The same task to float32 rounding: next states, rewards while the pole stands, and the step at which it falls."""
    theirs, ours = make("gymnax:CartPole-v1"), make("CartPole-v1")
    assert (theirs.time_limit, theirs.reward_threshold) == (ours.time_limit, ours.reward_threshold)
    np.testing.assert_array_equal(theirs.observation_space.high_array[[0, 2]], ours.observation_space.high_array[[0, 2]])
    start = theirs.reset(jax.random.key(0))[1]
    twin = replace(ours, reset=lambda key: ((start, jnp.zeros((), jnp.int32)), start))
    actions = random_actions(ours, jax.random.key(1), 60)
    got, expected = played(theirs, actions), played(twin, actions)
    end = int(np.argmax(expected.terminated))
    assert expected.terminated[end]
    np.testing.assert_allclose(got.obs[: end + 1], expected.obs[: end + 1], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(got.reward[: end + 1], 1)
    np.testing.assert_array_equal(got.terminated[: end + 1], expected.terminated[: end + 1])


def test_a_pole_that_stands_for_500_steps_is_truncated() -> None:
    """Pushing towards where it falls keeps it up."""
    env = make("gymnax:CartPole-v1")

    def body(carry, key):
        state, obs = carry
        state, step = env.step(key, state, (obs[2] + 0.2 * obs[3] + 0.02 * obs[0] + 0.05 * obs[1] > 0).astype(jnp.int32))
        return (state, step.obs), step

    run = jax.jit(lambda: jax.lax.scan(body, env.reset(jax.random.key(0)), jax.random.split(jax.random.key(1), 500))[1])()
    assert not run.terminated.any()
    np.testing.assert_array_equal(run.truncated, np.arange(500) == 499)


def test_parameters_are_taken() -> None:
    heavy = make("gymnax:Pendulum-v1", env_args={"m": 2.0, "time_limit": 7})
    assert heavy.time_limit == 7
    light = make("gymnax:Pendulum-v1")
    actions = random_actions(light, jax.random.key(0), 3)
    assert not np.allclose(played(heavy, actions).obs, played(light, actions).obs)
