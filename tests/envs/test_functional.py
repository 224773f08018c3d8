"""Gymnasium's own functional environments, which need flax: `make test-adapters`."""

from __future__ import annotations

import warnings

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs.foreign import assert_only_the_limit_differs, played, random_actions
from policygrad.envs import make
from policygrad.errors import SpaceError

pytest.importorskip("flax")


@pytest.mark.parametrize("id", ["phys2d/CartPole-v0", "phys2d/CartPole-v1", "phys2d/Pendulum-v0", "tabular/Blackjack-v0"])
def test_the_limit_truncates_and_never_terminates(id: str) -> None:
    limited, endless = (make(f"functional:{id}", env_args={"time_limit": limit}) for limit in (4, 100))
    assert_only_the_limit_differs(limited, endless, 4)


@pytest.mark.parametrize("id", ["phys2d/CartPole-v1", "phys2d/Pendulum-v0"])
def test_physics_as_gymnasiums_wrapper_steps_it(id: str) -> None:
    """From the same state by the same actions; nothing is random after the reset."""
    with warnings.catch_warnings(action="ignore"):
        theirs = gymnasium.make(id, disable_env_checker=True)
    ours = make(f"functional:{id}")
    assert (ours.time_limit, ours.reward_threshold) == (theirs.spec.max_episode_steps, theirs.spec.reward_threshold)
    theirs.reset(seed=0)
    theirs.unwrapped.state = ours.reset(jax.random.key(0))[0][0]
    actions = random_actions(ours, jax.random.key(1), 30)
    steps = played(ours, actions)
    for t, action in enumerate(actions):
        obs, reward, terminated, *_ = theirs.step(action)
        np.testing.assert_allclose(steps.obs[t], obs, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(steps.reward[t], reward, rtol=1e-4, atol=1e-5)
        assert steps.terminated[t] == terminated
        if terminated:
            break


def test_parameters_are_taken() -> None:
    moon = make("functional:phys2d/CartPole-v1", env_args={"gravity": 1.6})
    assert not np.allclose(
        played(moon, jnp.zeros(9, jnp.int32)).obs, played(make("functional:phys2d/CartPole-v1"), jnp.zeros(9, jnp.int32)).obs
    )


def test_blackjack_pays_for_natural_cards_only_where_asked() -> None:
    """Parameters that decide which code runs; sticking ends the game at once with a reward of −1, 0 or 1, 1.5 at most for a natural."""
    rewards = {}
    for natural in (False, True):
        env = make("functional:tabular/Blackjack-v0", env_args={"natural": natural, "sutton_and_barto": False})
        keys = jax.random.split(jax.random.key(0), 500)
        step = jax.jit(jax.vmap(lambda key, env=env: env.step(key, env.reset(key)[0], jnp.int32(0))[1]))(keys)
        assert step.terminated.all()
        rewards[natural] = set(np.asarray(step.reward).tolist())
    assert rewards == {False: {-1.0, 0.0, 1.0}, True: {-1.0, 0.0, 1.0, 1.5}}


def test_cliff_walking_has_actions_that_no_policy_here_takes() -> None:
    with pytest.raises(
        SpaceError, match=r"^environment functional:tabular/CliffWalking-v0: unsupported action space: got Box\(0, 3, \(1,\), int32\)"
    ):
        make("functional:tabular/CliffWalking-v0")
