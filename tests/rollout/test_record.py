"""Recorded rollouts: the record of the collectors, of either kind of environment, by one call."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import gymnasium
import jax
import numpy as np
import pytest

from policygrad import envs, policies
from policygrad.errors import SpaceError, UsageError
from policygrad.rollout import episodes, record, steps
from rollout.toys import Clockwork, clockwork, lengths, some_policy

COMPILED = lengths()


class Counted(Clockwork):
    """Tells how many of it are open."""

    alive = 0

    def __init__(self) -> None:
        super().__init__()
        Counted.alive += 1

    def close(self) -> None:
        Counted.alive -= 1


@pytest.mark.parametrize("env", [COMPILED, clockwork], ids=["compiled", "Gymnasium"])
@pytest.mark.parametrize("collect", [steps(7, num_envs=3), episodes(6, num_envs=3)], ids=["steps", "episodes"])
def test_a_record_is_what_the_collectors_make(env: Any, collect: Any) -> None:
    """Whole episodes or T steps from a reset, with the log-probabilities of the policy that acted; the seed decides."""
    policy = jax.tree.map(lambda leaf: 0.1 * leaf, some_policy(envs.make(env)))  # of every action, now and then
    rollout = record(policy, env, collect, seed=3)
    assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(rollout))
    valid = rollout.mask > 0
    assert (rollout.time[0] == 0).all()
    if collect.kind == "steps":
        assert rollout.mask.shape == (7, 3)
    else:
        assert rollout.mask.shape[1] == 6
        assert ((rollout.terminated | rollout.truncated).sum(axis=0) == 1).all()
    expected = policy(rollout.obs).log_prob(rollout.action)
    np.testing.assert_allclose(rollout.log_prob[valid], np.asarray(expected)[valid], rtol=1e-4)
    assert len(np.unique(rollout.action[valid])) > 1

    again, other = record(policy, env, collect, seed=3), record(policy, env, collect, seed=4)
    for ours, theirs in zip(jax.tree.leaves(rollout), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert not np.isin(other.obs[0, :, -1 if env is COMPILED else 0], rollout.obs[0, :, -1 if env is COMPILED else 0]).any()


def test_environments_that_were_made_are_closed_and_others_are_not() -> None:
    policy = some_policy(envs.make(clockwork))

    def limited() -> gymnasium.Env:
        return gymnasium.wrappers.TimeLimit(Counted(), 5)

    assert record(policy, limited, episodes(20)).mask.shape[1] == 20
    assert Counted.alive == 0
    ready = limited()
    assert record(policy, ready, episodes(2)).mask.shape[1] == 2
    assert Counted.alive == 1
    ready.close()


def test_a_file_of_a_policy(tmp_path: Any) -> None:
    policy = some_policy(COMPILED)
    policies.save(policy, tmp_path / "policy.safetensors")
    rollout, same = record(tmp_path / "policy.safetensors", COMPILED, steps(7, num_envs=3)), record(policy, COMPILED, steps(7, num_envs=3))
    np.testing.assert_array_equal(rollout.action, same.action)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"seed": -1}, UsageError, r"^seed: got -1; it must be a whole number from 0 to 2\^31 − 1$"),
        ({"seed": 1.5}, UsageError, r"^seed: got 1\.5; it must be a whole number"),
        ({"num_envs": 0}, UsageError, r"^num_envs: got 0; it must be a whole number from 1 to"),
        ({"num_envs": 4}, UsageError, r"^6 episodes an update cannot be shared evenly by 4 environments"),
        ({"policy": 3}, UsageError, r"^policy: got int; pass a policy, such as run\.policy, or a file of one$"),
        ({"env": "CartPole-v1"}, SpaceError, r"^the policy is for other observations than CartPole-v1"),
    ],
)
def test_misuse_is_one_clear_line(arguments: dict[str, Any], error: Any, message: str) -> None:
    given = {"policy": some_policy(COMPILED), "env": COMPILED, "collect": episodes(6)} | arguments
    with pytest.raises(error, match=message):
        record(**given)


# ── distributions of one's own ───────────────────────────────────────────────────────────────────────────────────────


class _Keyed(eqx.Module):
    """A distribution that can draw with a key, and not from noise."""

    inner: Any

    def sample(self, key: Any) -> Any:
        return self.inner.sample(key)

    def mode(self) -> Any:
        return self.inner.mode()

    def log_prob(self, action: Any) -> Any:
        return self.inner.log_prob(action)


class _KeyedPolicy(eqx.Module):
    inner: Any

    def __call__(self, obs: Any) -> Any:
        return _Keyed(self.inner(obs))


@pytest.mark.parametrize("collect", [steps(5), episodes(4)])
@pytest.mark.parametrize("backend", ["compiled", "gymnasium"])
def test_a_distribution_that_knows_keys_only_draws_the_same_actions(backend: str, collect: Any) -> None:
    env = envs.make("CartPole-v1", backend)
    policy = some_policy(env)
    ours, theirs = (record(one, env, collect, num_envs=4, seed=3) for one in (policy, _KeyedPolicy(policy)))
    np.testing.assert_array_equal(ours.action, theirs.action)
    np.testing.assert_array_equal(ours.obs, theirs.obs)
