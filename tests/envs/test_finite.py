"""Finite MDPs: what the tables say is what the environment does, and what Gymnasium's tables say is what is read."""

from __future__ import annotations

import functools
import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policygrad.envs import FiniteMDP, finite
from policygrad.errors import UnknownNameError, UsageError
from policygrad.spaces import Discrete
from zoo import random_mdp

Z = 5.0  # bound on |z| of every statistical check; seeds are fixed, so a pass stays a pass

# Two states and an end; both actions; a row with an impossible outcome on either side.
P = [[[0.0, 0.3, 0.7], [1.0, 0.0, 0.0]], [[0.25, 0.5, 0.25], [0.0, 1.0, 0.0]], [[math.nan] * 3] * 2]
ARGUMENTS: dict[str, Any] = {
    "transitions": P,
    "rewards": np.arange(18.0).reshape(3, 2, 3),
    "initial": [0.4, 0.6, 0.0],
    "discount": 0.9,
    "terminal": [2],
}


# ── the tables ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_tables_are_kept_as_they_are_given() -> None:
    rewards = np.arange(18.0).reshape(3, 2, 3)
    mdp = FiniteMDP(**ARGUMENTS | {"rewards": rewards})
    np.testing.assert_array_equal(mdp.transitions[:2], P[:2])
    np.testing.assert_array_equal(mdp.rewards[:2], rewards[:2])
    np.testing.assert_array_equal(mdp.transitions[2], 0)
    np.testing.assert_array_equal(mdp.rewards[2], 0)
    np.testing.assert_array_equal(mdp.initial, [0.4, 0.6, 0.0])
    np.testing.assert_array_equal(mdp.terminal, [False, False, True])
    np.testing.assert_array_equal(mdp.observations, [0, 1, 2])
    assert (mdp.num_states, mdp.num_actions, mdp.num_observations, mdp.discount, mdp.time_limit) == (3, 2, 3, 0.9, None)
    assert (mdp.observation_space, mdp.action_space, mdp.backend) == (Discrete(3), Discrete(2), "compiled")
    np.testing.assert_allclose(
        mdp.expected_rewards, [[0.3 * 1 + 0.7 * 2, 3], [0.25 * 6 + 0.5 * 7 + 0.25 * 8, 10], [0, 0]], rtol=0, atol=1e-15
    )
    rewards[:] = -1.0  # a copy was taken
    assert mdp.rewards[0, 1, 2] == 5
    for array in (mdp.transitions, mdp.rewards, mdp.initial, mdp.terminal, mdp.observations, mdp.expected_rewards):
        assert not array.flags.writeable
    for array, dtype in ((mdp.transitions, "f8"), (mdp.rewards, "f8"), (mdp.initial, "f8"), (mdp.terminal, "?"), (mdp.observations, "i4")):
        assert array.dtype == dtype
    with pytest.raises(AttributeError):
        mdp.discount = 0.5


def test_rewards_that_do_not_depend_on_the_next_state() -> None:
    by_action = np.arange(6.0).reshape(3, 2)
    mdp = FiniteMDP(**ARGUMENTS | {"rewards": by_action})
    assert mdp.rewards.shape == (3, 2, 3)
    np.testing.assert_array_equal(mdp.rewards[:2], np.repeat(by_action[:2, :, None], 3, axis=2))
    np.testing.assert_allclose(mdp.expected_rewards[:2], by_action[:2], rtol=0, atol=1e-15)


def test_terminal_states_as_booleans_or_numbers() -> None:
    for terminal in ([2], (2,), np.array([2]), [False, False, True], np.array([False, False, True])):
        np.testing.assert_array_equal(FiniteMDP(**ARGUMENTS | {"terminal": terminal}).terminal, [False, False, True])
    for none in (None, [], np.zeros(4, bool)):
        assert not random_mdp(0, 4, 2).replace(terminal=none).terminal.any()


def test_rows_are_normalised_only_where_they_are_off() -> None:
    exact = random_mdp(1, 5, 3)
    np.testing.assert_array_equal(exact.replace(transitions=exact.transitions.copy()).transitions, exact.transitions)
    off = exact.transitions.copy()
    off[2, 1] *= 1 + 5e-9
    mended = exact.replace(transitions=off, initial=exact.initial * (1 - 5e-9))
    np.testing.assert_allclose(mended.transitions.sum(axis=2), 1, rtol=0, atol=1e-15)
    np.testing.assert_allclose(mended.initial.sum(), 1, rtol=0, atol=1e-15)
    np.testing.assert_array_equal(mended.transitions[0], exact.transitions[0])


def test_replace_changes_what_it_is_told() -> None:
    mdp = FiniteMDP(**ARGUMENTS, time_limit=4, observations=[0, 0, 1], name="mine")
    other = mdp.replace(discount=0.5)
    assert isinstance(other, FiniteMDP)
    assert (other.discount, other.time_limit, other.name, mdp.discount) == (0.5, 4, "mine", 0.9)
    np.testing.assert_array_equal(other.transitions, mdp.transitions)
    np.testing.assert_array_equal(other.observations, [0, 0, 1])
    assert mdp.replace(time_limit=None).time_limit is None
    with pytest.raises(UnknownNameError, match=r"^unknown argument of FiniteMDP 'discont': did you mean discount\?$"):
        mdp.replace(discont=0.5)
    # Rows behind a terminal state were there all along.
    ended = random_mdp(2, 4, 2).replace(terminal=[3], initial=[1, 0, 0, 0])
    np.testing.assert_array_equal(ended.replace(terminal=None).transitions, random_mdp(2, 4, 2).transitions)
    np.testing.assert_array_equal(ended.replace(terminal=None).rewards, random_mdp(2, 4, 2).rewards)


def test_it_is_told_apart_by_identity_and_shown_in_one_line() -> None:
    mdp = random_mdp(0, 4, 2, terminals=1, time_limit=5, aliased=True)
    assert len({mdp, mdp, mdp.replace()}) == 2
    assert repr(mdp) == "FiniteMDP(random-0, 4 states, 1 terminal, 2 actions, 3 observations, discount 0.9, time limit 5)"
    assert repr(FiniteMDP(transitions=[[[1]]], rewards=[[2]], initial=[1], discount=1)) == "FiniteMDP(1 state, 1 action, discount 1)"


def test_the_zoo_keeps_its_word() -> None:
    mdp = random_mdp(3, 6, 2, outcomes=2, terminals=2, aliased=True)
    np.testing.assert_array_equal((mdp.transitions[:4] > 0).sum(axis=2), 2)
    np.testing.assert_array_equal(mdp.terminal, [0, 0, 0, 0, 1, 1])
    np.testing.assert_array_equal(mdp.observations, [0, 0, 1, 2, 3, 4])
    np.testing.assert_array_equal(mdp.transitions, random_mdp(3, 6, 2, outcomes=2, terminals=2).transitions)
    assert (random_mdp(3, 6, 2).transitions != random_mdp(4, 6, 2).transitions).all()


# ── wrong arguments ──────────────────────────────────────────────────────────────────────────────────────────────────

GOOD = {"transitions": np.full((2, 1, 2), 0.5), "rewards": np.zeros((2, 1)), "initial": [1.0, 0.0], "discount": 0.9}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"transitions": np.ones((2, 2))}, r"transitions: got shape (2, 2); it must be [S, A, S], states × actions × next states"),
        ({"transitions": np.ones((2, 1, 3))}, r"transitions: got shape (2, 1, 3); it must be [S, A, S]"),
        ({"transitions": np.ones((0, 1, 0))}, r"transitions: got shape (0, 1, 0)"),
        ({"transitions": [[[1.0, 0.0]], [[1.0]]]}, "transitions: got list that is no array of numbers"),
        ({"transitions": "P"}, "transitions: got str that is no array of numbers"),
        ({"transitions": [[[0.5, 0.5]], [[0.5, 0.6]]]}, "transitions[1, 0]: its row sums to 1.1; it must sum to the probabilities of all"),
        ({"transitions": [[[0.5, 0.5]], [[0.0, 0.0]]]}, "transitions[1, 0]: its row sums to 0; it must sum to 1 (a state without moves"),
        ({"transitions": [[[1.5, -0.5]], [[0.5, 0.5]]]}, "transitions[0, 0, 1]: got -0.5; it must be at least 0"),
        ({"transitions": [[[0.5, 0.5]], [[0.5, math.nan]]]}, "transitions[1, 0, 1]: got nan; it must be a finite probability"),
        ({"rewards": np.zeros(2)}, "rewards: got shape (2,); it must be (2, 1, 2), or (2, 1) where the next state does not matter"),
        ({"rewards": np.zeros((2, 2))}, "rewards: got shape (2, 2); it must be (2, 1, 2), or (2, 1)"),
        ({"rewards": [[0.0], [math.inf]]}, "rewards[1, 0]: got inf; it must be a finite number"),
        ({"initial": [1.0]}, "initial: got shape (1,); it must be [2], a probability for each state"),
        ({"initial": [0.5, 0.4]}, "initial: sums to 0.9; the probabilities of all first states must sum to 1"),
        ({"initial": [1.5, -0.5]}, "initial[1]: got -0.5; it must be a finite probability of at least 0"),
        ({"terminal": [0]}, "initial[0]: got 1 at a terminal state; no episode can start there: give it 0"),
        ({"terminal": [0, 1]}, "terminal: got all 2 states; at least one must be left to start in"),
        ({"terminal": [2]}, "terminal: got state 2; there are states 0 to 1"),
        ({"terminal": [-1]}, "terminal: got state -1; there are states 0 to 1"),
        ({"terminal": [True]}, "terminal: got shape (1,); it must be [2] booleans, or a list of state numbers"),
        ({"terminal": [0.5]}, "terminal: got [0.5]; it must be [2] booleans, or a list of state numbers"),
        ({"terminal": 1}, "terminal: got 1; it must be [2] booleans, or a list of state numbers"),
        ({"terminal": [1, 1]}, "terminal: got [1, 1], a state twice; list each once, or give [2] booleans"),
        ({"discount": 1.5}, "discount: got 1.5; it must be a number in [0, 1]"),
        ({"discount": -0.1}, "discount: got -0.1;"),
        ({"discount": math.nan}, "discount: got nan;"),
        ({"discount": True}, "discount: got True;"),
        ({"discount": "0.9"}, "discount: got '0.9';"),
        ({"time_limit": 0}, "time_limit: got 0; it must be a whole number of at least 1, or None for no limit"),
        ({"time_limit": 2.0}, "time_limit: got 2.0;"),
        ({"time_limit": True}, "time_limit: got True;"),
        ({"observations": [0]}, "observations: got shape (1,) of int64; it must be [2] integers, one for each state"),
        ({"observations": [0.0, 1.0]}, "observations: got shape (2,) of float64;"),
        ({"observations": [0, -1]}, "observations[1]: got -1; observations are numbered from 0"),
        ({"observations": [0, 2]}, "observations: no state looks like 1, but one like 2; number them from 0 without gap"),
        ({"observations": [1, 1]}, "observations: no state looks like 0, but one like 1;"),
    ],
)
def test_wrong_arguments_are_one_clear_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        FiniteMDP(**GOOD | changes)
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


# ── the environment ──────────────────────────────────────────────────────────────────────────────────────────────────


@functools.partial(jax.jit, static_argnames=("mdp", "num"))
def many(mdp: FiniteMDP, key: Any, states: Any, actions: Any, num: int) -> Any:
    """`num` steps from each of the pairs, and `num` resets: (next states, Step), [pairs, num], and (first states, obs)."""
    timed = mdp.time_limit is not None

    def one(key: Any, state: Any, action: Any) -> Any:
        after, step = mdp.step(key, (state, jnp.zeros((), jnp.int32)) if timed else state, action)
        return (after[0] if timed else after), step

    resets, steps = jax.random.split(key)
    keys = jax.random.split(steps, (len(states), num))
    first, obs = jax.vmap(mdp.reset)(jax.random.split(resets, num))
    return jax.vmap(jax.vmap(one, (0, None, None)))(keys, states, actions), (first[0] if timed else first, obs)


def agree(mdp: FiniteMDP, num: int, seed: int = 0) -> None:
    """Frequencies, rewards, ends and observations of the environment are the tables' own."""
    alive = np.flatnonzero(~mdp.terminal)
    states, actions = (grid.ravel() for grid in np.meshgrid(alive, np.arange(mdp.num_actions), indexing="ij"))
    (after, step), (first, obs) = jax.tree.map(
        np.asarray, many(mdp, jax.random.key(seed), states.astype(np.int32), actions.astype(np.int32), num)
    )
    for drawn, chances in ((after, mdp.transitions[states, actions]), (first[None], mdp.initial[None])):
        counts = np.stack([np.bincount(row, minlength=mdp.num_states) for row in drawn])
        assert (counts[chances == 0] == 0).all()
        spread = np.sqrt(num * chances * (1 - chances))
        assert (np.abs(counts - num * chances) <= Z * np.maximum(spread, 1)).all()
    np.testing.assert_allclose(step.reward, mdp.rewards[states[:, None], actions[:, None], after], rtol=1e-6)
    np.testing.assert_array_equal(step.terminated, mdp.terminal[after])
    np.testing.assert_array_equal(step.obs, mdp.observations[after])
    np.testing.assert_array_equal(obs, mdp.observations[first])
    np.testing.assert_array_equal(step.truncated, np.full(after.shape, mdp.time_limit == 1))


MANY = random_mdp(5, 5, 3, outcomes=3, terminals=1, aliased=True)


@pytest.mark.parametrize(
    "mdp",
    [MANY, FiniteMDP(**ARGUMENTS, time_limit=1), FiniteMDP(transitions=[[[1]]], rewards=[[2]], initial=[1], discount=1)],
    ids=["random", "limit one", "one state"],
)
def test_it_steps_as_the_tables_say(mdp: FiniteMDP) -> None:
    agree(mdp, 20_000)


@pytest.mark.usefixtures("x64")
def test_it_steps_in_float64() -> None:
    agree(MANY.replace(), 20_000)


def test_wrong_draws_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = finite._draw
    monkeypatch.setattr(finite, "_draw", lambda key, thresholds: draw(key, jnp.asarray(thresholds) * 0.97))
    with pytest.raises(AssertionError):
        agree(MANY.replace(), 20_000)


def test_what_has_no_probability_never_occurs() -> None:
    """Whatever uniform number is drawn, in float32 and float64, also where a row's sum is rounded to below 1."""
    rng = np.random.default_rng(0)
    rows = rng.dirichlet(np.full(8, 0.05), 500) * (rng.random((500, 8)) < 0.7)
    rows = rows[rows.sum(axis=1) > 0]
    rows /= rows.sum(axis=1, keepdims=True)
    rows = np.concatenate([rows, [[0, *[0.1] * 6, 0.4], [*[1 / 7] * 7, 0], [0, 1e-12, 1 - 1e-12, 0, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0, 0, 0]]])
    outcomes, thresholds = finite._outcomes(rows)
    for dtype in (np.float32, np.float64):
        ends = thresholds.astype(dtype)
        extremes = np.array([0, np.finfo(dtype).eps / 2, 1 - np.finfo(dtype).eps / 2], dtype)
        for u in (*extremes, *ends.T, *np.nextafter(ends, dtype(0)).T):
            u = np.minimum(np.broadcast_to(u, len(rows)), extremes[2])
            drawn = outcomes[np.arange(len(rows)), (u[:, None] >= ends).sum(axis=1)]
            assert (rows[np.arange(len(rows)), drawn] > 0).all()


def test_episodes_end_where_the_limit_says() -> None:
    mdp = random_mdp(6, 4, 2, terminals=1, time_limit=6)

    @jax.jit
    @jax.vmap
    def episode(key: Any) -> Any:
        start, *keys = jax.random.split(key, 7)
        state, _ = mdp.reset(start)
        return jax.lax.scan(lambda state, key: mdp.step(key, state, jnp.int32(1)), state, jnp.stack(keys))

    (last, time), step = jax.tree.map(np.asarray, episode(jax.random.split(jax.random.key(0), 1000)))
    np.testing.assert_array_equal(step.truncated, np.tile(np.arange(6) == 5, (1000, 1)))
    assert (time == 6).all()
    np.testing.assert_array_equal(step.obs[:, -1], last)
    both = step.terminated[:, 5] & ~step.terminated[:, :5].any(axis=1)
    assert both.any()  # at the last step an episode can be both


@pytest.mark.parametrize("wide", [False, True], ids=["float32", "float64"])
@pytest.mark.parametrize("limit", [None, 3])
def test_it_keeps_the_contract(limit: int | None, wide: bool) -> None:
    with jax.enable_x64(wide):
        env = random_mdp(0, 3, 2, time_limit=limit)
        key, action = jax.random.key(0), jax.ShapeDtypeStruct((), jnp.int32)
        state, obs = jax.eval_shape(env.reset, key)
        after, step = jax.eval_shape(env.step, key, state, action)
        assert jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), after) == jax.tree.map(lambda x: (x.shape, x.dtype, False), state)
        assert (obs.dtype, step.obs.dtype, step.reward.dtype) == (jnp.int32, jnp.int32, jnp.float64 if wide else jnp.float32)
        assert (step.terminated.dtype, step.truncated.dtype) == (jnp.bool_, jnp.bool_)
        for array in (obs, step.obs, step.reward, step.terminated, step.truncated):
            assert array.shape == ()


# ── Gymnasium's tables ───────────────────────────────────────────────────────────────────────────────────────────────

TABLES = {
    "lake": ("FrozenLake-v1", {}),
    "lake, dry": ("FrozenLake-v1", {"is_slippery": False}),
    "lake, large": ("FrozenLake-v1", {"map_name": "8x8", "success_rate": 0.6}),
    "lake, large and dry": ("FrozenLake-v1", {"map_name": "8x8", "is_slippery": False}),
    "cliff": ("CliffWalking-v1", {}),
    "cliff, slippery": ("CliffWalking-v1", {"is_slippery": True}),
    "taxi": ("Taxi-v4", {}),
    "taxi, rainy": ("Taxi-v4", {"is_rainy": True}),
}


@functools.cache
def read(case: str) -> FiniteMDP:
    id, kwargs = TABLES[case]
    return FiniteMDP.from_gymnasium(id, discount=0.97, **kwargs)


def original(case: str) -> gymnasium.Env:
    id, kwargs = TABLES[case]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return gymnasium.make(id, **kwargs)


@pytest.mark.parametrize("case", TABLES)
def test_every_row_is_gymnasiums(case: str) -> None:
    mdp, env = read(case), original(case)
    table = env.unwrapped.P  # type: ignore[attr-defined]
    assert (mdp.observation_space.n, mdp.action_space.n) == (env.observation_space.n, env.action_space.n)  # type: ignore[attr-defined, union-attr]
    assert (mdp.time_limit, mdp.discount, mdp.name) == (env.spec.max_episode_steps, 0.97, env.spec.id)  # type: ignore[union-attr]
    size = mdp.num_observations
    np.testing.assert_allclose(mdp.initial[:size], env.unwrapped.initial_state_distrib, rtol=0, atol=1e-15)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(mdp.observations[:size], np.arange(size))
    alive = np.flatnonzero(~mdp.terminal)
    assert (alive < size).all()  # copies end the episode
    entered = {after for s in alive for a in range(mdp.num_actions) for p, after, _, end in table[s][a] if end and p}
    assert entered == set(mdp.observations[mdp.terminal])
    for s in alive:
        for a in range(mdp.num_actions):
            theirs: defaultdict[Any, Any] = defaultdict(lambda: np.zeros(2))
            for p, after, r, end in table[s][a]:
                theirs[after, end] += [p, p * r]
            occurs = np.flatnonzero(mdp.transitions[s, a])
            chances = mdp.transitions[s, a, occurs]
            ours = {
                (mdp.observations[after], bool(mdp.terminal[after])): [p, p * r]
                for after, p, r in zip(occurs, chances, mdp.rewards[s, a, occurs], strict=True)
            }
            assert len(ours) == len(occurs)  # no two outcomes are one
            assert ours.keys() == theirs.keys()
            np.testing.assert_allclose([ours[key] for key in theirs], list(theirs.values()), rtol=0, atol=1e-12)


def test_the_terminal_states_are_those_that_end_an_episode() -> None:
    lake, cliff, taxi = read("lake"), read("cliff"), read("taxi")
    np.testing.assert_array_equal(np.flatnonzero(lake.terminal), [5, 7, 11, 12, 15])
    np.testing.assert_array_equal(np.flatnonzero(cliff.terminal), [47])
    # A passenger who is delivered ends it; one who was never fetched, in a state that cannot be reached, does not.
    assert (taxi.num_states, taxi.num_observations) == (504, 500)
    np.testing.assert_array_equal(np.flatnonzero(taxi.terminal), [500, 501, 502, 503])
    np.testing.assert_array_equal(taxi.observations[500:], [0, 85, 410, 475])


@pytest.mark.parametrize("case", ["lake, dry", "lake, large and dry", "cliff", "taxi"])
def test_walks_go_in_step_with_gymnasium(case: str) -> None:
    mdp, env = read(case), original(case)
    length = mdp.time_limit or 300

    @jax.jit
    def walk(state: Any, actions: Any) -> Any:
        start = (state, jnp.zeros((), jnp.int32)) if mdp.time_limit else state
        return jax.lax.scan(lambda s, action: mdp.step(jax.random.key(0), s, action), start, actions)[1]

    rng, ends = np.random.default_rng(0), set()
    for episode in range(12):
        obs, _ = env.reset(seed=episode)
        actions = rng.integers(mdp.num_actions, size=length).astype(np.int32)
        if case == "taxi" and episode % 2:
            actions[:] = 5  # to be met at the destination is rare: put it there
            obs = env.unwrapped.s = env.unwrapped.encode(0, 4, 4, 1)  # type: ignore[attr-defined]
        step = jax.tree.map(np.asarray, walk(jnp.int32(obs), actions))
        for t, action in enumerate(actions):
            theirs = env.step(int(action))[:4]
            assert (step.obs[t], step.reward[t], step.terminated[t], step.truncated[t]) == theirs
            if theirs[2] or theirs[3]:
                ends.add((bool(theirs[2]), bool(theirs[3])))
                break
    assert bool(ends) == (case != "cliff")  # nobody finds past the cliff at random
    if case == "taxi":
        assert ends == {(True, False), (False, True)}


def test_a_slippery_lake_is_as_slippery_as_its_table() -> None:
    agree(read("lake, large"), 2000)


def test_time_limits_are_read() -> None:
    assert FiniteMDP.from_gymnasium("FrozenLake-v1", max_episode_steps=7).time_limit == 7
    assert FiniteMDP.from_gymnasium("FrozenLake-v1", max_episode_steps=-1).time_limit is None
    assert FiniteMDP.from_gymnasium("CliffWalking-v1", max_episode_steps=9).time_limit == 9
    assert FiniteMDP.from_gymnasium("FrozenLake-v1").discount == 0.99


def test_an_old_taxi_is_the_new_one_unless_it_rains() -> None:
    old = FiniteMDP.from_gymnasium("Taxi-v3", discount=0.97)
    np.testing.assert_array_equal(old.transitions, read("taxi").transitions)
    np.testing.assert_array_equal(old.rewards, read("taxi").rewards)
    assert old.name == "Taxi-v3"
    with pytest.raises(UsageError, match=r"^environment Taxi-v3: .* is deprecated\. Please use `Taxi-v4` instead\.$"):
        FiniteMDP.from_gymnasium("Taxi-v3", is_rainy=True)


class Tabled(gymnasium.Env):
    """0 goes to 1 with and without an end, and twice to 2; 2 ends, and its rows, which nobody reads, go on."""

    P: Any = {  # noqa: RUF012
        0: {0: [(0.25, 1, 1.0, False), (0.25, 1, 2.0, True), (0.125, 2, 0.0, True), (0.375, 2, 4.0, True), (0.0, 0, 9.0, True)]},
        1: {0: [(1.0, 0, 5.0, False)]},
        2: {0: [(1.0, 2, 7.0, False)]},
    }
    initial_state_distrib = (1.0, 0.0, 0.0)

    def __init__(self, **changes: Any):
        self.observation_space, self.action_space = gymnasium.spaces.Discrete(3), gymnasium.spaces.Discrete(1)
        for key, value in changes.items():
            setattr(self, key, value)


@pytest.fixture
def tabled() -> Iterator[str]:
    name = "PolicygradTabled-v0"
    gymnasium.register(name, Tabled)
    yield name
    gymnasium.registry.pop(name)


def test_a_state_that_ends_some_episodes_and_not_others_is_two(tabled: str) -> None:
    mdp = FiniteMDP.from_gymnasium(tabled)
    np.testing.assert_array_equal(mdp.transitions[0, 0], [0, 0.25, 0.5, 0.25])
    np.testing.assert_allclose(mdp.rewards[0, 0], [0, 1, 3, 2])  # (0.125 · 0 + 0.375 · 4) / 0.5
    np.testing.assert_array_equal(mdp.transitions[1, 0], [1, 0, 0, 0])
    np.testing.assert_array_equal(mdp.terminal, [False, False, True, True])
    np.testing.assert_array_equal(mdp.observations, [0, 1, 2, 1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"P": None}, "Tabled carries no tables (P, initial_state_distrib); FrozenLake, CliffWalking and Taxi do"),
        ({"P": {0: Tabled.P[0], 1: Tabled.P[1]}}, "P[2][0] is no list of (probability, next state, reward, terminated)"),
        ({"P": Tabled.P | {1: {0: [(1.0, 0, 5.0)]}}}, "P[1][0] is no list of (probability, next state, reward, terminated)"),
        ({"P": Tabled.P | {1: {0: [(1.0, 3, 5.0, False)]}}}, "P[1][0] leads to state 3; there are 0 to 2"),
        ({"P": Tabled.P | {1: {0: [(0.9, 0, 5.0, False)]}}}, "transitions[1, 0]: its row sums to 0.9; it must sum to"),
        ({"initial_state_distrib": (1.0,)}, "initial_state_distrib has shape (1,), but there are 3 states"),
        (
            {"observation_space": gymnasium.spaces.Discrete(3, start=1)},
            "got the observation space Discrete(3, start=1); tables number from",
        ),
        ({"action_space": gymnasium.spaces.Box(-1, 1)}, "got the action space Box(-1, 1, (1,), float32); tables number from 0"),
    ],
)
def test_tables_that_are_none(tabled: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        FiniteMDP.from_gymnasium(tabled, **changes)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_wrappers_that_may_change_the_tables_are_refused(tabled: str) -> None:
    gymnasium.registry[tabled].additional_wrappers = (
        gymnasium.envs.registration.WrapperSpec("ClipReward", "gymnasium.wrappers:ClipReward", {"min_reward": 0, "max_reward": 1}),
    )
    with pytest.raises(UsageError, match=r"its wrapper ClipReward may change what the tables say"):
        FiniteMDP.from_gymnasium(tabled)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: FiniteMDP.from_gymnasium("CartPole-v1"), UsageError, "environment CartPole-v1: CartPoleEnv carries no tables"),
        (lambda: FiniteMDP.from_gymnasium("Blackjack-v1"), UsageError, "environment Blackjack-v1: BlackjackEnv carries no tables"),
        (
            lambda: FiniteMDP.from_gymnasium("Taxi-v4", fickle_passenger=True),
            UsageError,
            "environment Taxi-v4: its tables do not hold fickle",
        ),
        (
            lambda: FiniteMDP.from_gymnasium("FrozenLake-v9"),
            UnknownNameError,
            "unknown environment 'FrozenLake-v9': did you mean FrozenLake",
        ),
        (
            lambda: FiniteMDP.from_gymnasium("FrozenLake-v0"),
            UsageError,
            "environment FrozenLake-v0: Environment version v0 for `FrozenLake` is",
        ),
        (lambda: FiniteMDP.from_gymnasium("Frozen Lake"), UnknownNameError, "unknown environment 'Frozen Lake': did you mean"),
        (lambda: FiniteMDP.from_gymnasium("no_such:Lake-v1"), UsageError, "environment no_such:Lake-v1: No module named 'no_such'"),
        (lambda: FiniteMDP.from_gymnasium("FrozenLake-v1", size=3), UsageError, "environment FrozenLake-v1 does not take these arguments:"),
        (lambda: FiniteMDP.from_gymnasium("FrozenLake-v1", discount=2), UsageError, "discount: got 2; it must be a number in [0, 1]"),
        (lambda: FiniteMDP.from_gymnasium(3), UsageError, "from_gymnasium: got 3; give an id"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_read_is_one_line(call: Callable[[], Any], kind: type[UsageError], message: str) -> None:
    with pytest.raises(kind) as raised:
        call()
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)
