"""Collectors of compiled environments, replayed by hand and counted by plain loops."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policygrad.envs import Env, make, time_limit
from policygrad.errors import UsageError
from policygrad.rollout import compiled_collector, episodes, steps
from policygrad.spaces import Box, Discrete
from policygrad.types import Rollout, Step
from rollout.toys import assert_same_ends, echo, ends, lengths, programs_agree, some_policy

ENV = lengths()
ROWS, B = 23, 4


@lru_cache(maxsize=16)
def program(env: Env, collect: Any, num_envs: int, sample: bool = True) -> tuple[Any, Any]:
    collector = compiled_collector(env, collect, num_envs, sample=sample)
    return collector.init, jax.jit(collector.collect)


def collected(env: Env, collect: Any, num_envs: int, times: int = 1, seed: int = 0, sample: bool = True) -> tuple[list[Rollout], list]:
    """`times` collections one after the other."""
    init, collect_jit = program(env, collect, num_envs, sample)
    policy, state = some_policy(env), init(jax.random.key(100 + seed))
    rollouts, logs = [], []
    for time in range(times):
        state, rollout, log = collect_jit(policy, jax.random.key(1000 * seed + time), state)
        rollouts.append(jax.tree.map(np.asarray, rollout))
        logs.append(jax.tree.map(np.asarray, log))
    return rollouts, logs


def replay(env: Env, rollout: Rollout) -> Step:
    """Every row through `env.step` again, from the state that its observation and time show."""
    step = jax.vmap(jax.vmap(lambda obs, time, action: env.step(jax.random.key(0), (obs, time), action)[1]))
    return jax.tree.map(np.asarray, jax.jit(step)(rollout.obs, rollout.time, rollout.action))


def assert_replays(env: Env, rollout: Rollout) -> None:
    again, valid = replay(env, rollout), rollout.mask > 0
    pairs = [
        (rollout.reward, again.reward),
        (rollout.terminated, again.terminated),
        (rollout.truncated, again.truncated),
        (rollout.next_obs, again.obs),
        *((rollout.extras[name], again.extras[name]) for name in again.extras),
    ]
    assert set(rollout.extras) == set(again.extras)
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours[valid].astype(float), theirs[valid].astype(float), rtol=1e-6)


# ── steps(T) ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_steps_replayed_by_hand() -> None:
    (rollout, second), _ = collected(ENV, steps(ROWS), B, times=2)
    for one in (rollout, second):
        assert one.mask.shape == (ROWS, B)
        assert (one.mask == 1).all()
        assert_replays(ENV, one)
    assert rollout.terminated.any()
    assert rollout.truncated.any()
    assert rollout.extras["allowed"].shape == (ROWS, B, 2)


def test_steps_reset_only_at_ends_and_go_on_over_the_edge_of_a_rollout() -> None:
    rollouts, _ = collected(ENV, steps(ROWS), B, times=2)
    rows = jax.tree.map(lambda *x: np.concatenate(x), *rollouts)
    over = rows.terminated | rows.truncated
    assert (rows.time[0] == 0).all()
    goes_on = ~over[:-1]
    # Within an episode the next row acts on this row's next observation, one step later.
    np.testing.assert_array_equal(rows.obs[1:][goes_on], rows.next_obs[:-1][goes_on])
    np.testing.assert_array_equal(rows.time[1:][goes_on], rows.time[:-1][goes_on] + 1)
    # After an end comes a first observation, which is not what the end's own next observation is.
    assert (rows.time[1:][over[:-1]] == 0).all()
    assert (rows.obs[1:][over[:-1]][:, 1] == 0).all()
    assert (rows.next_obs[over][:, 1] == rows.time[over] + 1).all()
    # Lengths 2 terminate, lengths 9 are cut after 6 steps, and nothing else ends.
    np.testing.assert_array_equal(rows.terminated, (rows.obs[..., 0] == 2) & (rows.time == 1))
    np.testing.assert_array_equal(rows.truncated, rows.time == 5)


def test_first_observations_are_all_different() -> None:
    rollouts, _ = collected(ENV, steps(ROWS), B, times=2)
    firsts = np.concatenate([r.obs[r.time == 0][:, 2] for r in rollouts])
    assert len(firsts) > 2 * B
    assert len(np.unique(firsts)) == len(firsts)


def test_steps_log_agrees_with_plain_loops() -> None:
    rollouts, logs = collected(ENV, steps(ROWS), B, times=3)
    for ours, log in zip(ends(rollouts), logs, strict=True):
        assert ours
        assert_same_ends(ours, log)


# ── episodes(N) ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("rounds", [1, 3])
def test_episodes_are_whole_one_a_column_and_zero_elsewhere(rounds: int) -> None:
    (rollout,), (log,) = collected(ENV, episodes(rounds * B), B)
    limit = ENV.time_limit
    assert rollout.mask.shape == (limit, rounds * B)
    assert_replays(ENV, rollout)
    for column in range(rounds * B):
        mask = rollout.mask[:, column]
        length = int(mask.sum())
        np.testing.assert_array_equal(mask, np.arange(limit) < length)
        np.testing.assert_array_equal(rollout.time[:length, column], np.arange(length))
        over = (rollout.terminated | rollout.truncated)[:, column]
        assert over[length - 1]
        assert over.sum() == 1
        np.testing.assert_array_equal(rollout.obs[1:length, column], rollout.next_obs[: length - 1, column])
        for leaf in jax.tree.leaves(rollout):
            assert not leaf[length:, column].any()
    # Rounds were drawn apart.
    assert len(np.unique(rollout.obs[0, :, 2])) == rounds * B
    # The log tells rounds one after the other: the rows of a round are its columns of the rollout.
    per_round = [jax.tree.map(lambda x, r=r: x[:, r * B : (r + 1) * B], rollout) for r in range(rounds)]
    parts = ends(per_round, fresh=True)
    before, expected = 0, []
    for r, (part, one) in enumerate(zip(parts, per_round, strict=True)):
        expected += [e._replace(row=e.row + r * limit, steps=e.steps + before) for e in part]
        before += int(one.mask.sum())
    assert_same_ends(expected, log)
    assert int(log.steps[-1]) == int(rollout.mask.sum())


def test_a_short_episode_is_not_favoured() -> None:
    (rollout,), _ = collected(ENV, episodes(64 * 8), 64)
    long = np.sum(rollout.obs[0, :, 0] == 9)
    n = rollout.mask.shape[1]
    assert abs(long - n / 2) / math.sqrt(n / 4) < 5
    np.testing.assert_array_equal(rollout.mask.sum(axis=0), np.where(rollout.obs[0, :, 0] == 9, 6, 2))


def test_numbers_that_do_not_divide_are_told_in_one_line() -> None:
    with pytest.raises(UsageError, match=r"^10 episodes an update cannot be shared evenly by 4 environments; take a multiple of 4[^\n]*$"):
        compiled_collector(ENV, episodes(10), 4)


def test_whole_episodes_need_a_time_limit() -> None:
    endless = Env("Endless-v0", ENV.observation_space, ENV.action_space, ENV.reset, ENV.step)
    with pytest.raises(UsageError, match=r"^Endless-v0: whole episodes need a time limit[^\n]*envs\.time_limit\(env, limit\)[^\n]*$"):
        compiled_collector(endless, episodes(4), 4)
    compiled_collector(endless, steps(4), 4)


@pytest.mark.parametrize("make_collect", [steps, episodes])
@pytest.mark.parametrize("count", [0, -1, 1.5, True, float("nan"), "3"])
def test_counts_are_whole_and_positive(make_collect: Any, count: Any) -> None:
    with pytest.raises(UsageError, match=r"^(steps in a rollout|episodes an update): got .*; it must be a whole number of at least 1$"):
        make_collect(count)


# ── what acts ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("collect", [steps(ROWS), episodes(B)])
def test_log_probabilities_are_those_of_the_policy_that_acted(collect: Any) -> None:
    (rollout,), _ = collected(ENV, collect, B)
    expected = some_policy(ENV)(jnp.asarray(rollout.obs)).log_prob(jnp.asarray(rollout.action))
    np.testing.assert_allclose(rollout.log_prob, np.asarray(expected) * rollout.mask, rtol=1e-6)


def test_mode_or_sample() -> None:
    (rollout,), _ = collected(ENV, steps(ROWS), B, sample=False)
    np.testing.assert_array_equal(rollout.action, some_policy(ENV)(jnp.asarray(rollout.obs)).mode())
    (sampled,), _ = collected(ENV, steps(ROWS), B)
    assert (sampled.action != np.asarray(some_policy(ENV)(jnp.asarray(sampled.obs)).mode())).any()


@pytest.mark.parametrize("collect", [steps(7), episodes(2 * B)])
def test_only_the_environment_gets_the_clipped_action(collect: Any) -> None:
    env = echo()
    (rollout,), _ = collected(env, collect, B)
    valid = rollout.mask > 0
    action = rollout.action[valid]
    assert (np.abs(action) > 0.5).any()
    assert (np.abs(action) < 0.5).any()
    assert len(np.unique(action)) == action.size  # neither rows, environments nor elements share a draw
    assert programs_agree(rollout.next_obs[valid], np.clip(action, -0.5, 0.5))
    np.testing.assert_allclose(rollout.reward[valid], np.clip(action, -0.5, 0.5).sum(axis=-1), rtol=1e-5, atol=1e-6)
    expected = some_policy(env)(jnp.asarray(rollout.obs)).log_prob(jnp.asarray(rollout.action))
    np.testing.assert_allclose(rollout.log_prob[valid], np.asarray(expected)[valid], rtol=1e-5)


@pytest.mark.parametrize("collect", [steps(7), episodes(B)])
def test_same_key_same_rollout(collect: Any) -> None:
    (one,), _ = collected(ENV, collect, B, seed=3)
    (again,), _ = collected(ENV, collect, B, seed=3)
    (other,), _ = collected(ENV, collect, B, seed=4)
    for ours, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert not np.array_equal(one.obs[0], other.obs[0])


def test_terminated_and_truncated_at_once_are_both_kept() -> None:
    env = lengths(short=3, long=9, limit=3)
    (rollout,), _ = collected(env, episodes(16), 16)
    short = rollout.obs[0, :, 0] == 3
    assert short.any()
    np.testing.assert_array_equal(rollout.terminated[2], short)
    assert rollout.truncated[2].all()


def test_environments_in_float64(x64: None) -> None:
    """Functions take their dtype from their inputs; auto-reset and padding must not undo that."""
    env = make("CartPole-v1")
    for collect in (steps(3), episodes(2)):
        collector = compiled_collector(env, collect, 2)  # pyright: ignore[reportArgumentType]
        state = collector.init(jax.random.key(0))
        _, rollout, _ = jax.eval_shape(collector.collect, some_policy(env), jax.random.key(0), state)
        assert rollout.obs.dtype == rollout.reward.dtype == jnp.float64


def test_images_and_flags_are_reset_by_rows() -> None:
    """State leaves of several ranks and dtypes: the reset of one environment must not touch another's."""

    def reset(key: Any) -> tuple[Any, Any]:
        number = jax.random.randint(key, (), 1, 1000, jnp.int32)
        return {"image": jnp.full((2, 3), number), "on": jnp.ones((), bool)}, jnp.full((2, 3), number, jnp.float32)

    def step(key: Any, state: Any, action: Any) -> tuple[Any, Step]:
        # action 2 ends the episode
        obs = state["image"].astype(jnp.float32)
        return {"image": state["image"], "on": action < 2}, Step(obs, jnp.ones(()), action == 2, jnp.zeros((), bool))

    env = time_limit(Env("Images-v0", Box.of(0.0, 1000.0, (2, 3)), Discrete(3), reset, step), 50)
    (rollout,), _ = collected(env, steps(ROWS), B)
    numbers, over = rollout.obs[..., 0, 0], rollout.terminated | rollout.truncated
    changed = numbers[1:] != numbers[:-1]
    assert over.any(axis=1).sum() > over.all(axis=1).sum()
    np.testing.assert_array_equal(changed, over[:-1])
    assert (rollout.obs == numbers[..., None, None]).all()
