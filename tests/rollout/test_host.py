"""The host collector: the three autoreset modes give one record, and the record agrees with plain loops."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from policygrad import ppo
from policygrad.combinators import reuse
from policygrad.envs.gymnasium_adapter import AUTORESETS, GymnasiumEnv
from policygrad.envs.make import make
from policygrad.errors import UsageError
from policygrad.rollout import EpisodeLog, HostCollector, compiled_collector, episodes, host, steps
from policygrad.training.runners import spec_of
from policygrad.types import Rollout
from rollout.toys import (
    LIMIT,
    Clockwork,
    Mixture,
    assert_same_ends,
    assert_same_steps,
    clockwork,
    clockwork_box,
    clockwork_in_place,
    ends,
    some_policy,
    valid_steps,
)

B = 3


def collected(
    env: GymnasiumEnv, collect: Any, *, times: int = 1, num_envs: int = B, seed: int = 0, sample: bool = True
) -> tuple[list[Rollout], list[EpisodeLog]]:
    """`times` collections, one after the other."""
    collector = HostCollector(env, collect, num_envs, seed=seed, key=jax.random.key(seed), sample=sample)
    policy = some_policy(env)
    try:
        pairs = [collector.collect(policy) for _ in range(times)]
    finally:
        collector.close()
    return [rollout for rollout, _ in pairs], [log for _, log in pairs]


@lru_cache(maxsize=64)
def in_mode(factory: Any, mode: str, collect: Any, sample: bool, times: int = 3) -> tuple[list[Rollout], list[EpisodeLog]]:
    """Collected in an autoreset mode."""
    return collected(make(factory, autoreset=mode), collect, times=times, sample=sample)


# ── three modes, one record ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("sample", [False, True], ids=["mode", "sample"])
@pytest.mark.parametrize("factory", [clockwork, clockwork_box, clockwork_in_place])
@pytest.mark.parametrize("mode", AUTORESETS[1:])
def test_steps_do_not_depend_on_the_autoreset_mode(mode: str, factory: Any, sample: bool) -> None:
    rows = 30
    reference, _ = in_mode(factory, "same-step", steps(rows), sample)
    rollouts, _ = in_mode(factory, mode, steps(rows), sample)
    spent = [int((r.mask == 0).sum()) for r in rollouts]
    assert all(spent) if mode == "next-step" else not any(spent)
    for ours, theirs in zip(valid_steps(rollouts), valid_steps(reference), strict=True):
        assert_same_steps(ours, theirs, least=50)
        only_truncated = ours["truncated"] & ~ours["terminated"]
        assert only_truncated.sum() >= 2
        assert (ours["terminated"] & ~ours["truncated"]).sum() >= 2


@pytest.mark.parametrize("sample", [False, True], ids=["mode", "sample"])
@pytest.mark.parametrize("factory", [clockwork, clockwork_in_place])
@pytest.mark.parametrize("mode", AUTORESETS[1:])
@pytest.mark.parametrize("quota", [1, 2])
def test_episodes_do_not_depend_on_the_autoreset_mode(mode: str, factory: Any, sample: bool, quota: int) -> None:
    """Over several collections: environments that wait for the others draw from their generators meanwhile."""
    reference, logs = in_mode(factory, "same-step", episodes(quota * B), sample)
    rollouts, other_logs = in_mode(factory, mode, episodes(quota * B), sample)
    for ours, theirs in zip(jax.tree.leaves(rollouts), jax.tree.leaves(reference), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for ours, theirs in zip(logs, other_logs, strict=True):
        assert int(ours.steps[-1]) == int(theirs.steps[-1])
        np.testing.assert_array_equal(np.sort(ours.returns[ours.ended]), np.sort(theirs.returns[theirs.ended]))


@pytest.mark.parametrize("mode", AUTORESETS)
@pytest.mark.parametrize("factory", [clockwork, clockwork_in_place])
def test_next_observations_are_the_true_ones(mode: str, factory: Any) -> None:
    """At every end too, where Gymnasium may already show the next episode."""
    rollouts, _ = in_mode(factory, mode, steps(30), True)
    for one in valid_steps(rollouts):
        tag, t, length, _ = one["obs"].T
        np.testing.assert_array_equal(one["next_obs"][:, 0], tag)
        np.testing.assert_array_equal(one["next_obs"][:, 1], t + 1)
        np.testing.assert_array_equal(one["next_obs"][:, 2], length)
        np.testing.assert_array_equal(one["next_obs"][:, 3], one["action"])
        np.testing.assert_array_equal(one["time"], t)
        np.testing.assert_array_equal(one["terminated"], t + 1 == length)
        np.testing.assert_array_equal(one["truncated"], t + 1 == LIMIT)
        over = one["terminated"] | one["truncated"]
        np.testing.assert_array_equal(one["obs"][1:][~over[:-1]], one["next_obs"][:-1][~over[:-1]])
        assert (one["time"][1:][over[:-1]] == 0).all()
        assert (one["obs"][1:][over[:-1]][:, 0] != tag[:-1][over[:-1]]).all()


def test_rows_that_only_reset_hold_zeros() -> None:
    rollouts, _ = in_mode(clockwork, "next-step", steps(30), True)
    for rollout in rollouts:
        assert set(np.unique(rollout.mask)) == {0.0, 1.0}
        for leaf in jax.tree.leaves(rollout._replace(extras=())):
            assert not leaf[rollout.mask == 0].any()


def test_a_reset_row_is_no_step_even_if_it_reports_nonsense() -> None:
    """A vector of somebody's own may return anything in the row that NEXT_STEP spends on a reset."""

    class Nonsense(gymnasium.vector.VectorWrapper):
        def step(self, actions: Any) -> tuple:
            before = self.env.unwrapped._autoreset_envs.copy()
            obs, reward, *rest = self.env.step(actions)
            reward[before] = np.nan
            return obs, reward, *rest

    vector = Nonsense(SyncVectorEnv([clockwork] * B, autoreset_mode=AutoresetMode.NEXT_STEP))
    rollouts, logs = collected(make(vector), steps(30), times=3)
    reference, reference_logs = in_mode(clockwork, "next-step", steps(30), True)
    for ours, theirs in zip(jax.tree.leaves((rollouts, logs)), jax.tree.leaves((reference, reference_logs)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


# ── the record against plain loops ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mode", AUTORESETS)
def test_steps_log_agrees_with_plain_loops(mode: str) -> None:
    rollouts, logs = in_mode(clockwork, mode, steps(30), True)
    for ours, log in zip(ends(rollouts), logs, strict=True):
        assert len(ours) > 10
        assert_same_ends(ours, log)


@pytest.mark.parametrize("quota", [1, 2])
def test_episodes_are_whole_one_a_column_and_zero_elsewhere(quota: int) -> None:
    rollouts, logs = in_mode(clockwork, "same-step", episodes(quota * B), True)
    for rollout, log in zip(rollouts, logs, strict=True):
        assert rollout.mask.shape[1] == quota * B
        for column in range(quota * B):
            mask = rollout.mask[:, column]
            length = int(mask.sum())
            np.testing.assert_array_equal(mask, np.arange(len(mask)) < length)
            np.testing.assert_array_equal(rollout.time[:length, column], np.arange(length))
            assert (rollout.terminated | rollout.truncated)[length - 1, column]
            assert length == min(rollout.obs[0, column, 2], LIMIT)
            for leaf in jax.tree.leaves(rollout):
                assert not leaf[length:, column].any()
        assert len(np.unique(rollout.obs[0, :, 0])) == quota * B
        # Every episode is in the log, with its return, its length and the steps of all environments at its end.
        assert int(log.ended.sum()) == quota * B
        np.testing.assert_allclose(np.sort(log.returns[log.ended]), np.sort(rollout.reward.sum(axis=0)), rtol=1e-5)
        assert sorted(log.lengths[log.ended]) == sorted(rollout.mask.sum(axis=0))
        assert int(log.steps[-1]) == int(rollout.mask.sum())
        # Environments run side by side until each has its quota: their steps add up row by row.
        per_env = rollout.mask.sum(axis=0).astype(int).reshape(quota, B).sum(axis=0)
        for row, column in np.argwhere(log.ended):
            assert log.steps[row] == np.minimum(per_env, row + 1).sum(), column
        first_ends = [int(np.flatnonzero(log.ended[:, column])[0]) + 1 for column in range(B)]
        assert first_ends == [int(n) for n in rollout.mask[:, :B].sum(axis=0)]


def test_first_column_is_the_first_environment() -> None:
    """Columns: the first episode of every environment, then the second of every one."""
    (rollout,), _ = collected(make(clockwork), episodes(2 * B))
    (first,), _ = collected(make(clockwork), episodes(B))
    np.testing.assert_array_equal(rollout.obs[:, :B], first.obs)
    np.testing.assert_array_equal(rollout.action[:, :B], first.action)


def test_a_short_episode_is_not_favoured() -> None:
    n = 400
    (rollout,), _ = collected(make(Mixture), episodes(n), num_envs=8)
    long = rollout.obs[0, :, 0] == 1
    assert abs(long.sum() - n / 2) / np.sqrt(n / 4) < 5
    np.testing.assert_array_equal(rollout.mask.sum(axis=0), np.where(long, 12, 2))


@pytest.mark.parametrize("collect", [steps(9), episodes(B)])
def test_log_probabilities_are_those_of_what_was_sampled(collect: Any) -> None:
    env = make(clockwork_box)
    (rollout,), _ = collected(env, collect)
    valid = rollout.mask > 0
    expected = some_policy(env)(jnp.asarray(rollout.obs)).log_prob(jnp.asarray(rollout.action))
    np.testing.assert_allclose(rollout.log_prob[valid], np.asarray(expected)[valid], rtol=1e-4)
    action = rollout.action[valid]
    assert (np.abs(action) > 0.5).any()
    assert len(np.unique(action)) == action.size
    np.testing.assert_allclose(rollout.next_obs[valid][:, 3], np.clip(action, -0.5, 0.5).sum(axis=-1), rtol=1e-6, atol=1e-7)


def test_same_seed_same_rollout_another_seed_another() -> None:
    for collect in (steps(9), episodes(B)):
        (one,), _ = collected(make(clockwork), collect, seed=5)
        (again,), _ = collected(make(clockwork), collect, seed=5)
        (other,), _ = collected(make(clockwork), collect, seed=6)
        for ours, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(again), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert not np.isin(other.obs[0, :, 0], one.obs[0, :, 0]).any()
        assert not np.array_equal(one.action[: len(other.action)], other.action[: len(one.action)])


def test_an_environment_does_not_depend_on_its_neighbours() -> None:
    """Streams and action keys come from the environment's own index and steps."""
    (few,), _ = collected(make(clockwork), steps(20), num_envs=2)
    (many,), _ = collected(make(clockwork), steps(20), num_envs=B)
    for ours, theirs in zip(valid_steps([few]), valid_steps([many])[:2], strict=True):
        for name in ours:
            if name != "log_prob":  # a batch of another size may round otherwise
                np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def test_padding() -> None:
    """To the limit where it is short, so that the update compiles once; else to powers of two, at most the limit."""
    assert in_mode(clockwork, "same-step", episodes(B), True)[0][0].mask.shape[0] == 128  # a factory's limit is not known
    gymnasium.register("PolicygradPadding-v0", Clockwork, max_episode_steps=LIMIT)
    try:
        assert make("PolicygradPadding-v0").time_limit == LIMIT
        (rollout,), _ = collected(make("PolicygradPadding-v0"), episodes(B))
    finally:
        del gymnasium.registry["PolicygradPadding-v0"]
    assert rollout.mask.shape[0] == LIMIT


class Long(gymnasium.Env):
    """An episode of as many steps as asked for, the step in the observation."""

    observation_space = gymnasium.spaces.Box(0, 10_000, (1,), np.int64)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, length: int = 300):
        self.length = length

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.t = 0
        return np.array([0]), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.t += 1
        return np.array([self.t]), 0.5, self.t >= self.length, False, {}


def test_episodes_longer_than_the_buffers() -> None:
    """Buffers of 256 rows double; nothing of what they held is lost."""
    (rollout,), (log,) = collected(make(lambda: Long(700)), episodes(2), num_envs=2)
    assert rollout.mask.shape == (1024, 2)
    np.testing.assert_array_equal(rollout.obs[:700, 1, 0], np.arange(700))
    np.testing.assert_array_equal(rollout.next_obs[:700, 0, 0], np.arange(1, 701))
    assert rollout.obs.dtype == np.float32
    assert rollout.mask.sum() == 1400
    np.testing.assert_array_equal(np.flatnonzero(log.ended.all(axis=1)), [699])
    np.testing.assert_array_equal(log.returns[699], [350.0, 350.0])


def test_a_limit_that_is_never_reached_costs_no_memory() -> None:
    class Image(Long):
        observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (64, 64), np.float32)

        def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict]:
            super().reset(**kwargs)
            return np.zeros((64, 64), np.float32), {}

        def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
            return np.zeros((64, 64), np.float32), *super().step(action)[1:]

    gymnasium.register("PolicygradImage-v0", lambda: Image(3), max_episode_steps=10**9)
    try:
        (rollout,), _ = collected(make("PolicygradImage-v0"), episodes(1), num_envs=1)
    finally:
        del gymnasium.registry["PolicygradImage-v0"]
    assert rollout.mask.sum() == 3


def test_numbers_that_do_not_divide_are_told_in_one_line() -> None:
    with pytest.raises(UsageError, match=r"^7 episodes an update cannot be shared evenly by 3 environments; take a multiple of 3[^\n]*$"):
        HostCollector(make(clockwork), episodes(7), 3, seed=0, key=jax.random.key(0))


# ── what is made once a rollout ──────────────────────────────────────────────────────────────────────────────────────


def test_clocks_and_sums_are_those_of_a_loop_over_steps() -> None:
    """Random ends and reset rows, over three rollouts that go on from each other."""
    rng = np.random.default_rng(0)
    time, so_far = np.array([3, 0, 7], np.int32), np.array([1.5, 0.0, -2.0])
    for rows in (1, 17, 40):
        valid, over = rng.random((rows, B)) < 0.8, rng.random((rows, B)) < 0.2
        ended, rewards = over & valid, np.where(valid, rng.normal(size=(rows, B)), 0)
        times, next_time = host._clock(valid, ended, time)
        returns, next_so_far = host._sums(rewards, ended, so_far)
        time, so_far = time.copy(), so_far.copy()
        for row in range(rows):
            so_far += rewards[row]
            np.testing.assert_array_equal(times[row][valid[row]], time[valid[row]])
            np.testing.assert_allclose(returns[row], np.where(ended[row], so_far, 0), atol=1e-12)
            time = np.where(ended[row], 0, time + valid[row])
            so_far[ended[row]] = 0
        np.testing.assert_array_equal(next_time, time)
        np.testing.assert_allclose(next_so_far, so_far, atol=1e-12)


@pytest.mark.parametrize("backend", ["compiled", "gymnasium"])
def test_a_rollout_holds_what_the_policy_said_where_it_is_asked_to(backend: str) -> None:
    env = make("Pendulum-v1", backend)
    policy = some_policy(env)
    for collect, wanted in ((steps(6, distributions=True), True), (steps(6), False)):
        if backend == "compiled":
            collector = compiled_collector(env, collect, B)
            _, rollout, _ = jax.jit(lambda key, c=collector: c.collect(policy, key, c.init(key)))(jax.random.key(0))
        else:
            rollout = collected(env, collect)[0][0]
        assert bool(jax.tree.leaves(rollout.distribution)) == wanted
        np.testing.assert_allclose(rollout.log_prob, policy(rollout.obs).log_prob(rollout.action), rtol=1e-5)
        if wanted:
            for ours, theirs in zip(jax.tree.leaves(rollout.distribution), jax.tree.leaves(policy(rollout.obs)), strict=True):
                np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_one_rollout_is_not_handed_on_as_what_a_moved_policy_says() -> None:
    """A second pass over a rollout, and a gradient at other parameters, compute π anew."""
    env = make("CartPole-v1", "compiled")
    algorithm = ppo(rollout_length=8, epochs=1, minibatches=1, hidden_sizes=(4,), learning_rate=0.1)
    agent = algorithm.init(jax.random.key(0), spec_of(env, B))
    collector = compiled_collector(env, algorithm.collect, B)
    _, rollout, _ = jax.jit(lambda agent, key: collector.collect(algorithm.policy(agent), key, collector.init(key)))(
        agent, jax.random.key(1)
    )
    assert jax.tree.leaves(rollout.distribution)
    moved = jax.tree.map(lambda leaf: leaf + 0.3 if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, agent)
    bare = rollout._replace(distribution=())
    for make_it in (
        jax.jit(algorithm.gradient),
        jax.jit(lambda agent, rollout: reuse(algorithm, 2).update(jax.random.key(2), agent, rollout)),
    ):
        for ours, theirs in zip(jax.tree.leaves(make_it(moved, rollout)), jax.tree.leaves(make_it(moved, bare)), strict=True):
            np.testing.assert_array_equal(ours, theirs)
