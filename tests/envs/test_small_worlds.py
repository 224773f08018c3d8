"""The small worlds against their exact values, the exact values against brute force, and the table of names."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from policygrad.envs import registry
from policygrad.envs.base import Env
from policygrad.envs.small_worlds import (
    BANDIT_MEANS,
    bandit,
    bandit_best_value,
    bandit_value,
    corridor,
    corridor_best,
    corridor_value,
    rock_paper_scissors,
    rock_paper_scissors_value,
    target,
    target_best_value,
    worst_case_loss,
)
from policygrad.errors import UnknownNameError, UsageError
from policygrad.spaces import Box, Discrete

Z = 5.0  # bound on |z| of every statistical check; seeds are fixed, so a pass stays a pass


@functools.partial(jax.jit, static_argnames=("env", "act", "num_episodes"))
def play(key: Any, env: Env, act: Callable[[Any, Any, Any], Any], table: Any, num_episodes: int) -> Any:
    """Whole episodes of the policy `act(key, table, obs)`: (return, length, terminated, truncated), [num_episodes] each, and
    whether all have ended."""

    def episode(key: Any) -> Any:
        key, start = jax.random.split(key)
        state, obs = env.reset(start)

        def one(carry: Any, key: Any) -> Any:
            state, obs, alive = carry
            choose, move = jax.random.split(key)
            state, step = env.step(move, state, act(choose, table, obs))
            over = step.terminated | step.truncated
            record = step.reward * alive, alive, alive & step.terminated, alive & step.truncated
            return (state, step.obs, alive & ~over), record

        (_, _, alive), (reward, lived, terminated, truncated) = jax.lax.scan(
            one, (state, obs, jnp.ones((), bool)), jax.random.split(key, env.time_limit)
        )
        return reward.sum(), lived.sum(), terminated.any(), truncated.any(), ~alive

    *record, ended = jax.vmap(episode)(jax.random.split(key, num_episodes))
    return (*record, ended.all())


def tabular(key: Any, ends: Any, obs: Any) -> Any:
    """Samples an action by inversion of its cumulated probabilities, `ends` [S, A − 1]."""
    return (jax.random.uniform(key) >= ends[obs]).sum()


def cumulated(probabilities: Any) -> np.ndarray:
    return np.cumsum(np.atleast_2d(probabilities), axis=1)[:, :-1].astype(np.float32)


def nearest(key: Any, levels: Any, obs: Any) -> Any:
    return jnp.argmin(jnp.abs(levels - obs[0]))


def z_of(sample: Any, mean: float) -> float:
    sample = np.asarray(sample, np.float64)
    return abs(sample.mean() - mean) / max(sample.std(ddof=1) / math.sqrt(len(sample)), 1e-9)


@functools.partial(jax.jit, static_argnames=("env", "num"))
def many_steps(key: Any, env: Env, state: Any, action: Any, num: int) -> Any:
    """The same state and action, stepped `num` times with different keys."""
    return jax.vmap(lambda key: env.step(key, (state, jnp.zeros((), jnp.int32)), action)[1])(jax.random.split(key, num))


# Environments are hashed by identity: one of each, so that a test compiles once for all its cases.
CORRIDOR, GAME, LONG_GAME = corridor(), rock_paper_scissors(), rock_paper_scissors(rounds=20)


# ── bandit ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_bandit_pays_normal_rewards_around_its_table() -> None:
    env, n, sigma = bandit(sigma=0.5), 400_000, 0.5

    @jax.jit
    def sample(key: Any) -> Any:
        starts, choices, moves = (jax.random.split(k, n) for k in jax.random.split(key, 3))
        state, obs = jax.vmap(env.reset)(starts)
        action = jax.vmap(lambda k: jax.random.randint(k, (), 0, 5))(choices)
        return obs, action, jax.vmap(env.step)(moves, state, action)[1]

    obs, action, step = jax.tree.map(np.asarray, sample(jax.random.key(0)))
    assert step.terminated.all()
    np.testing.assert_array_equal(step.obs, obs)
    counts = np.bincount(obs, minlength=4)
    assert len(counts) == 4
    assert (np.abs(counts - n / 4) <= Z * math.sqrt(n * 3 / 16)).all()
    for s, a in itertools.product(range(4), range(5)):
        rewards = step.reward[(obs == s) & (action == a)].astype(np.float64)
        assert len(rewards) > 15_000
        noise = (rewards - BANDIT_MEANS[s][a]) / sigma
        assert abs(noise.mean()) * math.sqrt(len(noise)) <= Z
        assert abs((noise**2).mean() - 1) * math.sqrt(len(noise) / 2) <= Z  # a variance in place of σ would be 0.25
        assert abs((noise**4).mean() - 3) * math.sqrt(len(noise) / 96) <= Z  # normal, not just of that variance


def test_bandit_value_is_what_a_policy_earns() -> None:
    policy = np.random.default_rng(0).dirichlet(np.ones(5), 4)
    returns, lengths, terminated, truncated, ended = play(jax.random.key(1), bandit(), tabular, cumulated(policy), 50_000)
    assert ended
    assert terminated.all()
    assert truncated.all()  # the limit is one step, too; `terminated` wins
    assert (lengths == 1).all()
    assert z_of(returns, bandit_value(policy)) <= Z
    assert bandit_value(np.full(5, 0.2)) == pytest.approx(np.mean(BANDIT_MEANS))


def test_bandit_best_value_is_the_best_of_all_deterministic_policies() -> None:
    best = max(bandit_value(np.eye(5)[list(choice)]) for choice in itertools.product(range(5), repeat=4))
    assert bandit_best_value() == pytest.approx(best, abs=1e-15)
    assert bandit_best_value() == pytest.approx(1.125)
    assert bandit_best_value([[1.0, 2.0], [4.0, 3.0], [0.0, 0.0]]) == pytest.approx(2.0)
    assert len({int(np.argmax(row)) for row in BANDIT_MEANS}) == 4  # no action is best twice: the state must be read


def test_bandit_takes_a_table() -> None:
    env = bandit([[1.0, 2.0], [4.0, 3.0], [0.0, 0.0]], sigma=0.0)
    assert (env.observation_space, env.action_space) == (Discrete(3), Discrete(2))
    _, step = jax.vmap(env.step, (None, 0, 0))(
        jax.random.key(0), (jnp.array([0, 0, 1, 1, 2]), jnp.zeros(5, int)), jnp.array([0, 1, 0, 1, 1])
    )
    np.testing.assert_array_equal(step.reward, [1, 2, 4, 3, 0])


# ── corridor ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_corridor_moves_as_drawn() -> None:
    env = corridor()
    state, obs = env.reset(jax.random.key(0))
    assert (int(state[0]), int(obs)) == (0, 0)
    moves = {(0, 0): 0, (0, 1): 1, (1, 0): 2, (1, 1): 0, (2, 0): 1, (2, 1): 3}
    for (before, action), after in moves.items():
        (now, _), step = env.step(jax.random.key(0), (jnp.int32(before), jnp.int32(0)), jnp.int32(action))
        assert (int(now), int(step.obs), float(step.reward), bool(step.terminated)) == (after, 0, -1.0, after == 3)


def test_corridor_value_with_a_limit_is_the_sum_over_all_action_sequences() -> None:
    env, limit = corridor(), 8
    actions = jnp.array(list(itertools.product((0, 1), repeat=limit)), jnp.int32)

    def steps_alive(actions: Any) -> Any:
        def one(carry: Any, action: Any) -> Any:
            state, alive = carry
            state, step = env.step(jax.random.key(0), state, action)
            return (state, alive & ~step.terminated), alive

        return jax.lax.scan(one, (env.reset(jax.random.key(0))[0], jnp.ones((), bool)), actions)[1].sum()

    lengths = np.asarray(jax.jit(jax.vmap(steps_alive))(actions))
    for p in (0.0, 0.05, 0.5, 0.7, 1.0):
        chance = np.prod(np.where(np.asarray(actions) == 1, p, 1 - p), axis=1)
        assert corridor_value(p, limit) == pytest.approx(-(chance * lengths).sum(), abs=1e-12)


@pytest.mark.parametrize("p", [0.03, 0.5858, 0.9])
def test_corridor_value_is_what_a_policy_earns(p: float) -> None:
    returns, lengths, terminated, truncated, ended = play(jax.random.key(2), CORRIDOR, tabular, cumulated([1 - p, p]), 10_000)
    assert ended
    assert z_of(returns, corridor_value(p, 200)) <= Z
    np.testing.assert_array_equal(returns, -lengths)
    assert (terminated | (truncated & (lengths == 200))).all()
    if p == 0.03:  # here the limit matters, and the test can tell the two values apart
        assert z_of(returns, corridor_value(p)) > 20
        assert 100 < truncated.sum() < 9_900


def test_corridor_value_without_limit() -> None:
    for p in np.linspace(0.03, 0.97, 25):
        assert corridor_value(p) == pytest.approx(-2 * (2 - p) / (p * (1 - p)), rel=1e-12)
        assert corridor_value(p, 5000) == pytest.approx(corridor_value(p), rel=1e-8)
    assert corridor_value(0.0) == corridor_value(1.0) == -math.inf
    assert corridor_value(0.0, 200) == corridor_value(1.0, 200) == -200


def test_corridor_best_is_the_maximum() -> None:
    best, value = corridor_best()
    for limit in (None, 200):
        found = minimize_scalar(lambda p: -corridor_value(p, limit), bounds=(0.2, 0.95), method="bounded", options={"xatol": 1e-9})  # noqa: B023
        assert found.x == pytest.approx(best, abs=1e-6)
        assert -found.fun == pytest.approx(value, abs=1e-7)
    assert (best, value) == pytest.approx((0.586, -11.66), abs=5e-3)  # as printed in the book


# ── rock, paper, scissors ────────────────────────────────────────────────────────────────────────────────────────────

PAYOFF = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]])  # [player, opponent]: rock, paper, scissors


@pytest.mark.parametrize(
    ("counts", "replies"),
    [
        ((0, 0, 0), (1 / 3, 1 / 3, 1 / 3)),
        ((2, 2, 2), (1 / 3, 1 / 3, 1 / 3)),
        ((2, 2, 0), (0, 1 / 2, 1 / 2)),  # rock or paper: paper or scissors
        ((1, 3, 3), (1 / 2, 0, 1 / 2)),
        ((3, 1, 3), (1 / 2, 1 / 2, 0)),
        ((3, 2, 2), (0, 1, 0)),
        ((0, 4, 3), (0, 0, 1)),
        ((2, 0, 5), (1, 0, 0)),
    ],
)
def test_opponent_replies_to_the_most_frequent_action(counts: tuple[int, ...], replies: tuple[float, ...]) -> None:
    n = 10_000
    for action in range(3):
        step = many_steps(jax.random.key(action), LONG_GAME, jnp.array(counts, jnp.int32), jnp.int32(action), n)
        reply = np.array([list(PAYOFF[action]).index(int(r)) for r in (-1, 0, 1)])[np.asarray(step.reward, int) + 1]
        frequency = np.bincount(reply, minlength=3) / n
        spread = np.sqrt(np.array(replies) * (1 - np.array(replies)) / n)
        assert (np.abs(frequency - replies) <= Z * spread).all()
        assert not step.terminated.any()
        assert not step.obs.any()


def test_rock_paper_scissors_counts_and_ends() -> None:
    env = rock_paper_scissors(rounds=4)
    state, obs = env.reset(jax.random.key(0))
    assert int(obs) == 0
    for i, action in enumerate((0, 2, 2, 1)):
        state, step = env.step(jax.random.key(i), state, jnp.int32(action))
        assert bool(step.terminated) == bool(step.truncated) == (i == 3)
    np.testing.assert_array_equal(state[0], [1, 1, 2])


@pytest.mark.parametrize("probabilities", [(0.5, 0.3, 0.2), (1 / 3, 1 / 3, 1 / 3), (0.0, 0.9, 0.1)])
def test_rock_paper_scissors_value_is_what_a_policy_earns(probabilities: tuple[float, ...]) -> None:
    returns, lengths, terminated, _, ended = play(jax.random.key(3), GAME, tabular, cumulated(probabilities), 20_000)
    assert ended
    assert terminated.all()
    assert (lengths == 10).all()
    assert z_of(returns, rock_paper_scissors_value(probabilities)) <= Z


def test_rock_paper_scissors_value_is_the_sum_over_all_action_sequences() -> None:
    p, rounds = np.array([0.5, 0.15, 0.35]), 6
    value = 0.0
    for actions in itertools.product(range(3), repeat=rounds):
        chance, counts = float(np.prod(p[list(actions)])), np.zeros(3, int)
        for action in actions:
            favourites = np.flatnonzero(counts == counts.max())
            value += chance * np.mean([PAYOFF[action, (m + 1) % 3] for m in favourites])
            counts[action] += 1
    assert rock_paper_scissors_value(p, rounds) == pytest.approx(value, abs=1e-13)


def test_only_the_uniform_policy_is_not_exploited() -> None:
    uniform = np.full(3, 1 / 3)
    assert rock_paper_scissors_value(uniform) == pytest.approx(0, abs=1e-15)
    assert worst_case_loss(uniform) == pytest.approx(0, abs=1e-15)
    rng = np.random.default_rng(0)
    for p in (*rng.dirichlet(np.ones(3), 30), np.array([0.34, 0.33, 0.33])):
        assert rock_paper_scissors_value(p) < -1e-6
        assert worst_case_loss(p) > 1e-3
        assert worst_case_loss(p) == pytest.approx((-p @ PAYOFF).max(), abs=1e-15)
        assert rock_paper_scissors_value(p) >= -9 * worst_case_loss(p)  # the first reply is uniform, no later one is worse than the worst
    for greedy in np.eye(3):
        assert rock_paper_scissors_value(greedy) == pytest.approx(-9)
        assert rock_paper_scissors_value(greedy, rounds=1) == 0
        assert worst_case_loss(greedy) == 1


# ── target ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_target_pays_the_squared_distance() -> None:
    env = target(dims=3)
    (state, _), obs = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), 20_000))
    assert obs.shape == (20_000, 3)
    assert (np.abs(obs) <= 1).all()
    assert (np.abs(np.mean(obs, axis=0)) <= Z / math.sqrt(3 * 20_000)).all()
    assert (np.abs(np.mean(obs**2, axis=0) - 1 / 3) <= Z * math.sqrt(4 / 45 / 20_000)).all()
    action = jnp.array([-1.0, 0.25, 1.0])
    step = jax.vmap(lambda s: env.step(jax.random.key(0), (s, jnp.zeros((), jnp.int32)), action)[1])(state)
    np.testing.assert_allclose(step.reward, -((np.asarray(obs) - np.asarray(action)[None]) ** 2).sum(axis=1), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(step.obs, obs)
    assert step.terminated.all()


@pytest.mark.parametrize("levels", [2, 3, 11])
def test_target_best_value_is_what_the_nearest_level_earns(levels: int) -> None:
    grid = np.linspace(-1, 1, levels)
    env, box = target(levels=levels), target()
    assert env.action_space == Discrete(levels)
    start = jnp.array([0.3]), jnp.zeros((), jnp.int32)
    for k, a in enumerate(grid):  # action k is the k-th level
        on_grid = env.step(jax.random.key(0), start, jnp.int32(k))[1].reward
        assert float(on_grid) == pytest.approx(float(box.step(jax.random.key(0), start, jnp.array([a], jnp.float32))[1].reward), abs=1e-6)

    returns, *_ = play(jax.random.key(4), env, nearest, grid.astype(np.float32), 20_000)
    assert z_of(returns, target_best_value(levels)) <= Z
    goals = (np.arange(200_000) + 0.5) / 100_000 - 1
    best = -(np.abs(goals[:, None] - grid[None]).min(axis=1) ** 2).mean()
    assert target_best_value(levels) == pytest.approx(best, abs=1e-9)
    assert target_best_value() == 0


# ── the contract, for every name ─────────────────────────────────────────────────────────────────────────────────────

BUILT_IN = (
    "CartPole-v1",
    "Acrobot-v1",
    "MountainCar-v0",
    "MountainCarContinuous-v0",
    "Pendulum-v1",
    "Bandit-v0",
    "Corridor-v0",
    "RockPaperScissors-v0",
    "Target-v0",
)


@pytest.mark.parametrize("wide", [False, True], ids=["float32", "float64"])
@pytest.mark.parametrize("name", BUILT_IN)
def test_every_environment_keeps_the_contract(name: str, wide: bool) -> None:
    with jax.enable_x64(wide):
        env = registry.compiled(name)
        assert env.name == name
        assert env.backend == "compiled"
        assert hash(env) == hash(env)
        key = jax.random.key(0)
        state, obs = jax.eval_shape(env.reset, key)
        space = env.action_space
        action = jax.ShapeDtypeStruct(space.shape, jnp.int32 if isinstance(space, Discrete) else jnp.float32)
        after, step = jax.eval_shape(env.step, key, state, action)
        real = jnp.float64 if wide else jnp.float32
        expected = jnp.int32 if isinstance(env.observation_space, Discrete) else real
        for o in (obs, step.obs):
            assert (o.shape, o.dtype) == (env.observation_space.shape, expected)
        assert (step.reward.shape, step.reward.dtype) == ((), real)
        for flag in (step.terminated, step.truncated):
            assert (flag.shape, flag.dtype) == ((), jnp.bool_)
        # A scan's carry may change neither its structure nor any leaf's type.
        assert jax.tree.structure(after) == jax.tree.structure(state)
        for before, now in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True):
            assert (now.shape, now.dtype, now.weak_type) == (before.shape, before.dtype, False)


@pytest.mark.parametrize("name", BUILT_IN[5:])
def test_small_worlds_end_by_their_limit(name: str) -> None:
    """Episodes under a random policy stay in their spaces and end, at the latest, where the limit says."""
    env = registry.compiled(name)
    state, obs = env.reset(jax.random.key(0))
    step_env = jax.jit(env.step)
    for t in range(env.time_limit or 0):
        space = env.observation_space
        inside = 0 <= int(obs) < space.n if isinstance(space, Discrete) else bool((np.abs(obs) <= 1).all())
        assert inside
        action = jnp.zeros((), jnp.int32) if isinstance(env.action_space, Discrete) else jnp.zeros(env.action_space.shape)
        state, step = step_env(jax.random.key(t), state, action)
        obs = step.obs
        assert bool(step.truncated) == (t + 1 == env.time_limit)


# ── errors ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bandit([1.0, 2.0]), r"table \[states, actions\]: got shape \(2,\)"),
        (lambda: bandit([[1.0, math.nan]]), "finite table"),
        (lambda: bandit(sigma=-1.0), "sigma is a standard deviation: got -1.0"),
        (lambda: bandit(sigma=math.nan), "sigma"),
        (lambda: bandit_value(np.ones((4, 5))), "sum to 1"),
        (lambda: bandit_value(np.full(4, 0.25)), r"must be \(4, 5\) or \(5,\): got \(4,\)"),
        (lambda: corridor_value(1.5), r"probability: got 1.5; give a number in \[0, 1\]"),
        (lambda: corridor_value(math.nan), "probability"),
        (lambda: corridor_value(0.5, 0), "limit counts steps: got 0"),
        (lambda: rock_paper_scissors(0), "rounds must be an integer of at least 1: got 0"),
        (lambda: rock_paper_scissors_value([0.5, 0.5]), "3 numbers"),
        (lambda: rock_paper_scissors_value([1.5, -0.5, 0.0]), "3 numbers"),
        (lambda: worst_case_loss([1.0, 1.0, 1.0]), "sum to 1"),
        (lambda: target(0), "dims must be an integer of at least 1: got 0"),
        (lambda: target(levels=1), "levels must be an integer of at least 2: got 1"),
        (lambda: target(2, levels=3), "levels is for one dimension: got dims=2"),
        (lambda: target_best_value(1), "levels must be an integer"),
    ],
)
def test_wrong_arguments_say_what_is_wrong(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        call()
    assert "\n" not in str(raised.value)


# ── registry ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registrations last for one test."""
    monkeypatch.setattr(registry, "_factories", dict(registry._factories))


def test_built_in_names_are_known() -> None:
    assert registry.compiled_names()[: len(BUILT_IN)] == BUILT_IN
    assert all(registry.has_compiled(name) for name in BUILT_IN)
    assert not registry.has_compiled("HalfCheetah-v5")


def test_keyword_arguments_reach_the_factory() -> None:
    assert registry.compiled("Target-v0", levels=7).action_space == Discrete(7)
    assert registry.compiled("Target-v0", dims=2).action_space == Box.of(-1, 1, (2,))
    assert registry.compiled("RockPaperScissors-v0", rounds=3).time_limit == 3


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("CartPole-v0", "did you mean CartPole-v1"),
        ("cartpole-v1", "did you mean CartPole-v1"),
        ("Coridor-v0", "did you mean Corridor-v0"),
        ("zzz", "known: Acrobot-v1"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(UnknownNameError, match=hint) as raised:
        registry.compiled(name)
    assert f"unknown compiled environment {name!r}" in str(raised.value)


def test_wrong_keywords_are_answered_with_the_accepted_ones() -> None:
    with pytest.raises(UsageError, match=r"'Pendulum-v1' does not take gravity, render_mode; its keyword arguments: g$"):
        registry.compiled("Pendulum-v1", gravity=9.81, render_mode=None)
    with pytest.raises(UsageError, match=r"'Acrobot-v1' does not take g; its keyword arguments: none$"):
        registry.compiled("Acrobot-v1", g=9.81)


@pytest.mark.usefixtures("table")
def test_register_adds_refuses_and_overwrites() -> None:
    registry.register("Mine-v0", lambda size=3: target(size))
    assert registry.has_compiled("Mine-v0")
    assert registry.compiled_names()[-1] == "Mine-v0"
    assert registry.compiled("Mine-v0", size=4).observation_space.shape == (4,)
    with pytest.raises(UsageError, match=r"'Mine-v0' is registered already; .* overwrite=True"):
        registry.register("Mine-v0", corridor)
    with pytest.raises(UsageError, match="registered already"):
        registry.register("CartPole-v1", corridor)
    assert registry.compiled("Mine-v0").action_space == Box.of(-1, 1, (3,))  # the refusal changed nothing
    registry.register("Mine-v0", corridor, overwrite=True)
    assert registry.compiled("Mine-v0").action_space == Discrete(2)
    with pytest.raises(UnknownNameError, match="did you mean Mine-v0"):
        registry.compiled("mine-v1")


@pytest.mark.usefixtures("table")
def test_register_checks_what_it_is_given() -> None:
    with pytest.raises(UsageError, match="needs a name: got ''"):
        registry.register("", corridor)
    with pytest.raises(UsageError, match=r"got Env, not a function; .*lambda: env"):
        registry.register("Made-v0", corridor())
    registry.register("Wrong-v0", lambda: 3)
    with pytest.raises(UsageError, match="'Wrong-v0' must return an Env: got int"):
        registry.compiled("Wrong-v0")
    registry.register("Sized-v0", lambda size: target(size))
    with pytest.raises(UsageError, match="'Sized-v0' needs size; its keyword arguments: size"):
        registry.compiled("Sized-v0")
    registry.register("Open-v0", lambda **kwargs: target(**kwargs))
    assert registry.compiled("Open-v0", dims=2).action_space == Box.of(-1, 1, (2,))
