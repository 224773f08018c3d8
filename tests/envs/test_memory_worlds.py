"""Tasks that need memory: what they are, and what memory is worth in them, exactly where it is known exactly."""

from __future__ import annotations

import functools
import itertools
import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policygrad import oracle
from policygrad.envs import Env, FiniteMDP, GymnasiumEnv, finite_world, has_gymnasium, hosted, make, registry, time_limit
from policygrad.envs.classic_control import cartpole
from policygrad.envs.finite_worlds import t_maze, t_maze_best
from policygrad.envs.memory_worlds import position_only_cartpole, repeat_previous, repeat_previous_best, repeat_previous_value
from policygrad.errors import UsageError
from policygrad.policies import tabular_softmax
from policygrad.spaces import Box, Discrete

Z = 5.0  # bound on |z|; seeds are fixed
POSITIONS = "PositionOnlyCartPole-v0"
NAMES = (POSITIONS, "RepeatPrevious-v0", "TMaze-v0")


def play(*arguments: Any) -> Any:
    """`played`, in NumPy."""
    return jax.tree.map(np.asarray, played(*arguments))


@functools.partial(jax.jit, static_argnames=("env", "act", "num_episodes"))
def played(key: Any, env: Env, act: Callable[[Any, Any, Any], Any], memory: Any, num_episodes: int) -> Any:
    """Whole episodes of a policy with memory, `act(time, memory, obs) -> (memory, action)`: first observations [num_episodes],
    and rewards, observations after the step, terminated and truncated, [num_episodes, time limit] each, which go on behind an end."""

    def episode(key: Any) -> Any:
        key, start = jax.random.split(key)
        state, obs = env.reset(start)

        def one(carry: Any, row: Any) -> Any:
            (state, obs, memory), (time, key) = carry, row
            memory, action = act(time, memory, obs)
            state, step = env.step(key, state, action)
            return (state, step.obs, memory), (step.reward, step.obs, step.terminated, step.truncated)

        times = jnp.arange(env.time_limit)
        _, record = jax.lax.scan(one, (state, obs, memory), (times, jax.random.split(key, len(times))))
        return obs, *record

    return jax.vmap(episode)(jax.random.split(key, num_episodes))


# ── CartPole without velocities ──────────────────────────────────────────────────────────────────────────────────────


def states_and_actions(rows: int = 400) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    states = rng.uniform([-2.6, -3, -0.25, -3], [2.6, 3, 0.25, 3], (rows, 4))
    states[:2] = [[2.4, 0, 0, 0], [0, 0, -math.pi / 15, 0]]
    return states, rng.integers(0, 2, rows).astype(np.int32)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("sutton_barto_reward", [False, True])
def test_position_only_cartpole_is_cartpole_seen_in_part_on_both_backends(sutton_barto_reward: bool) -> None:
    env = position_only_cartpole(sutton_barto_reward=sutton_barto_reward)
    whole = cartpole(sutton_barto_reward=sutton_barto_reward)
    states, actions = states_and_actions()
    times = np.arange(len(states), dtype=np.int32) + 100  # the last row is the 500th step

    def one(state: Any, time: Any, action: Any) -> Any:
        return [e.step(jax.random.key(0), (state, time), action) for e in (env, whole)]

    (after, step), (after_whole, step_whole) = jax.jit(jax.vmap(one))(states, times, actions)
    np.testing.assert_array_equal(step.obs, np.asarray(step_whole.obs)[:, [0, 2]])
    jax.tree.map(np.testing.assert_array_equal, (after, step._replace(obs=())), (after_whole, step_whole._replace(obs=())))
    assert np.flatnonzero(step.truncated).tolist() == [399]

    # The Gymnasium backend, from the same states: one by one, and many in one.
    hosted.register_hosted()
    theirs: Any = gymnasium.make(POSITIONS, sutton_barto_reward=sutton_barto_reward).unwrapped
    theirs.reset(seed=0)
    for i, (state, action) in enumerate(zip(states, actions, strict=True)):
        theirs.state, theirs.steps_beyond_terminated = state.copy(), None
        obs, reward, terminated, truncated, _ = theirs.step(int(action))
        np.testing.assert_allclose(obs, step.obs[i], rtol=1e-6, atol=1e-7)  # theirs is float32
        assert (reward, terminated, truncated) == (float(step.reward[i]), bool(step.terminated[i]), False)
        assert obs.flags.owndata
    many: Any = gymnasium.make_vec(
        POSITIONS, num_envs=len(states), vectorization_mode="vector_entry_point", sutton_barto_reward=sutton_barto_reward
    ).unwrapped
    many.reset(seed=0)
    many.state = states.T.copy()
    obs, reward, terminated, *_ = many.step(actions.astype(np.int64))
    np.testing.assert_allclose(obs, step.obs, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(reward, step.reward)
    np.testing.assert_array_equal(terminated, step.terminated)


def test_position_only_cartpole_has_cartpoles_numbers_on_both_backends() -> None:
    compiled, host = make(POSITIONS), make(POSITIONS, "gymnasium")
    assert isinstance(compiled, Env)
    assert isinstance(host, GymnasiumEnv)
    whole = make("CartPole-v1")
    high = whole.observation_space.high_array  # type: ignore[union-attr]
    for env in (compiled, host):
        assert env.name == POSITIONS
        assert env.observation_space == Box.of(-high[[0, 2]], high[[0, 2]])
        assert env.action_space == Discrete(2)
        assert (env.time_limit, env.reward_threshold) == (500, 475.0)
    assert host.vectorization == "vector"
    assert make(POSITIONS, env_args={"sutton_barto_reward": True}).reward_threshold == 0.0
    key = jax.random.key(3)
    np.testing.assert_array_equal(compiled.reset(key)[1], whole.reset(key)[1][::2])  # type: ignore[union-attr]


@pytest.mark.parametrize("vectorization", ["vector", "sync"])
def test_position_only_cartpole_runs_on_the_gymnasium_backend(vectorization: str) -> None:
    host = make(POSITIONS, "gymnasium", vectorization=vectorization)
    vector = host.vector(3, 0)  # type: ignore[union-attr]
    obs = vector.reset()
    ends = 0
    for _ in range(60):
        step = vector.step(np.zeros(3, np.int32))
        assert step.next_obs.shape == step.obs.shape == obs.shape == (3, 2)
        over = step.terminated & step.valid
        assert (np.abs(step.next_obs[over, 1]) > math.pi / 15).all()  # always to the left: the pole falls, and that is the last seen
        assert (np.abs(step.obs[over & (vectorization == "sync")]) <= 0.05).all()
        ends += over.sum()
    vector.close()
    assert ends >= 12
    # A worker process, which has registered nothing, makes it from the specification: that names what to import.
    spec = gymnasium.spec(POSITIONS)
    assert isinstance(spec.entry_point, str)
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(gymnasium.registry, POSITIONS)
        assert gymnasium.make(spec).observation_space.shape == (2,)
        assert has_gymnasium(POSITIONS)  # which registers it again


def test_gymnasium_is_not_imported_for_a_name_that_is_not_asked_for() -> None:
    code = (
        "import sys, policygrad; from policygrad.envs import make, registry; make('PositionOnlyCartPole-v0');"
        "print([m for m in ('gymnasium', 'policygrad.envs.position_only') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120).stdout.strip() == "[]"


def test_what_the_user_registered_under_the_name_stays() -> None:
    hosted.register_hosted()
    before = gymnasium.registry.pop(POSITIONS)
    try:
        gymnasium.register(POSITIONS, "gymnasium.envs.classic_control:PendulumEnv")
        hosted.register_hosted()
        assert make(POSITIONS, "gymnasium").observation_space.shape == (3,)  # type: ignore[union-attr]
    finally:
        gymnasium.registry[POSITIONS] = before


def test_two_positions_make_up_for_the_velocities() -> None:
    """A linear controller of positions and their differences holds the pole for 500 steps; one of positions alone lets it fall."""

    def with_differences(_: Any, last: Any, obs: Any) -> Any:
        speed = (obs - last[0]) / 0.02 * last[1]
        push = 0.3 * obs[0] + 0.6 * speed[0] + 10 * obs[1] + 2 * speed[1]
        return (obs, jnp.ones(())), (push > 0).astype(int)

    def without(_: Any, last: Any, obs: Any) -> Any:
        return last, (0.3 * obs[0] + 10 * obs[1] > 0).astype(int)

    env, start = position_only_cartpole(), (jnp.zeros(2), jnp.zeros(()))
    *_, terminated, _ = play(jax.random.key(0), env, with_differences, start, 20)
    assert not terminated.any()
    *_, terminated, _ = play(jax.random.key(0), env, without, start, 20)
    assert (terminated.argmax(axis=1) < 200).all()
    assert terminated.any(axis=1).all()


# ── repeat previous ──────────────────────────────────────────────────────────────────────────────────────────────────


def decks(suits: int, copies: int) -> list[tuple[int, ...]]:
    """Every order of the deck, each equally likely."""
    return sorted(set(itertools.permutations([s for s in range(suits) for _ in range(copies)])))


def average(policy: np.ndarray, k: int, suits: int, copies: int) -> float:
    """The expected return by enumeration of decks and answers."""
    total, orders = 0.0, decks(suits, copies)
    share = 1 / (suits * copies - 1 - k)
    for deck in orders:
        for t in range(k, len(deck) - 1):
            total += share * sum(policy[deck[t], a] * (1 if a == deck[t - k] else -1) for a in range(suits))
    return total / len(orders)


SMALL = [(1, 2, 2), (2, 2, 2), (0, 2, 2), (1, 3, 2), (3, 2, 3), (1, 3, 1)]


@pytest.mark.parametrize(("k", "suits", "copies"), SMALL)
def test_repeat_previous_value_is_what_enumeration_says(k: int, suits: int, copies: int) -> None:
    size = {"suits": suits, "copies": copies}
    rng = np.random.default_rng(k)
    for policy in rng.dirichlet(np.ones(suits), (3, suits)):
        assert repeat_previous_value(policy, k, **size) == pytest.approx(average(policy, k, suits, copies), abs=1e-12)
        assert repeat_previous_value(policy[0], k, **size) == pytest.approx(average(policy[[0] * suits], k, suits, copies), abs=1e-12)
    # The value is linear in π(·|o) for each o, so a deterministic policy is best among all.
    values = [repeat_previous_value(np.eye(suits)[list(choice)], k, **size) for choice in itertools.product(range(suits), repeat=suits)]
    assert repeat_previous_best(k, **size) == pytest.approx(max(values), abs=1e-12)
    assert repeat_previous_value(np.full(suits, 1 / suits), k, **size) == pytest.approx(2 / suits - 1, abs=1e-12)


def test_repeat_previous_with_the_defaults() -> None:
    assert repeat_previous_best() == pytest.approx(-25 / 51)
    assert repeat_previous_value(np.full(4, 0.25)) == pytest.approx(-0.5)
    assert repeat_previous_value(np.eye(4)) == pytest.approx(2 * 12 / 51 - 1)  # the suit in view is the worst to name
    env = registry.compiled("RepeatPrevious-v0")
    assert (env.time_limit, env.reward_threshold) == (51, 0.9)
    assert env.observation_space == env.action_space == Discrete(4)
    assert repeat_previous_best() < 0 < 0.9 < 1


def remembering(time: Any, memory: Any, obs: Any) -> Any:
    """The last cards, the one in view first; names the oldest."""
    memory = jnp.concatenate([obs[None], memory[:-1]])
    return memory, memory[-1]


def next_suit(time: Any, memory: Any, obs: Any) -> Any:
    return memory, (obs + 1) % 4


def alternating(time: Any, memory: Any, obs: Any) -> Any:
    return memory, time % 2


@pytest.mark.parametrize("k", [0, 4])
def test_in_repeat_previous_a_policy_that_remembers_k_cards_gets_1(k: int) -> None:
    env = repeat_previous(k)
    _, rewards, _, terminated, truncated = play(jax.random.key(1), env, remembering, jnp.zeros(k + 1, jnp.int32), 50)
    np.testing.assert_allclose(rewards[:, :k], 0, rtol=0, atol=0)
    np.testing.assert_allclose(rewards[:, k:], 1 / (51 - k), rtol=1e-6)
    np.testing.assert_allclose(rewards.sum(axis=1), 1, rtol=1e-6)
    for flags in (terminated, truncated):
        assert not flags[:, :-1].any()
        assert flags[:, -1].all()


def test_in_repeat_previous_the_best_without_memory_gets_what_is_said_and_the_deck_is_a_deck() -> None:
    first, rewards, seen, *_ = play(jax.random.key(2), repeat_previous(), next_suit, jnp.zeros(()), 4000)
    returns = rewards.sum(axis=1, dtype=np.float64)
    assert abs(returns.mean() - repeat_previous_best()) <= Z * returns.std() / math.sqrt(4000)
    cards = np.concatenate([first[:, None], seen], axis=1)
    assert cards.shape == (4000, 52)
    assert (np.sort(cards, axis=1) == np.repeat(np.arange(4), 13)).all()


def test_in_repeat_previous_every_order_of_the_deck_is_as_likely_and_rewards_are_for_the_right_card() -> None:
    first, rewards, seen, *_ = play(jax.random.key(3), repeat_previous(2, suits=2, copies=3), alternating, jnp.zeros(()), 6000)
    cards = np.concatenate([first[:, None], seen], axis=1)
    orders = decks(2, 3)
    counts = np.array([(cards == order).all(axis=1).sum() for order in orders])
    assert counts.sum() == 6000
    p = 1 / len(orders)
    assert (np.abs(counts - 6000 * p) <= Z * math.sqrt(6000 * p * (1 - p))).all()
    answers = np.arange(5) % 2
    expected = np.zeros((6000, 5))
    for t in range(2, 5):
        expected[:, t] = np.where(answers[t] == cards[:, t - 2], 1, -1) / 3
    np.testing.assert_allclose(rewards, expected, rtol=1e-6)


# ── T-maze ───────────────────────────────────────────────────────────────────────────────────────────────────────────

NORTH, EAST, SOUTH, WEST = range(4)


def test_t_maze_moves_pays_and_looks_as_it_says() -> None:
    """The table against the maze in words."""
    mdp, cells = t_maze(length=3), 4
    np.testing.assert_array_equal(mdp.observations, [0, 2, 2, 3, 1, 2, 2, 3, 3])
    np.testing.assert_array_equal(mdp.initial, [0.5, 0, 0, 0, 0.5, 0, 0, 0, 0])
    assert np.flatnonzero(mdp.terminal).tolist() == [8]
    for sign, right in ((0, NORTH), (1, SOUTH)):
        for x in range(cells):
            for action in range(4):
                state, junction = sign * cells + x, x == 3
                if junction and action in (NORTH, SOUTH):
                    after, reward = 8, 4.0 if action == right else -0.1
                elif action == EAST and not junction:
                    after, reward = state + 1, 0.0
                elif action == WEST and x > 0:
                    after, reward = state - 1, 0.0
                else:
                    after, reward = state, -0.1
                assert mdp.transitions[state, action, after] == 1
                assert mdp.rewards[state, action, after] == reward


@pytest.mark.parametrize(("length", "discount", "limit"), [(2, 1.0, None), (3, 0.98, None), (3, 0.5, None), (2, 1.0, 3), (3, 1.0, 40)])
def test_what_memory_is_worth_in_the_t_maze(length: int, discount: float, limit: int | None) -> None:
    mdp = t_maze(length=length, discount=discount, time_limit=limit)
    memory, none = t_maze_best(length, discount)
    assert oracle.best(mdp).value == pytest.approx(memory, abs=1e-12)
    found = oracle.best_memoryless(mdp, starts=3)
    assert found.value == pytest.approx(none, abs=1e-9)
    # East, then any coin.
    for q in (0.0, 0.3, 1.0):
        with np.errstate(divide="ignore"):
            logits = np.log([[0, 1, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0], [q, 0, 1 - q, 0]])
        assert float(oracle.objective(mdp, tabular_softmax(logits))) == pytest.approx(none, abs=1e-12)


def test_no_deterministic_policy_without_memory_is_better_in_the_t_maze() -> None:
    """All 4⁴ of them, over 30 steps, by walking; and 300 stochastic ones of every kind."""
    mdp = t_maze(length=3, time_limit=30)
    rng = np.random.default_rng(0)
    choices = [np.eye(4)[list(c)] for c in itertools.product(range(4), repeat=4)]
    choices += list(rng.dirichlet(np.full(4, 0.2), (300, 4)))
    policies = np.array(choices)[:, mdp.observations]  # [P, S, A]
    moves, paid = np.einsum("psa,sat->pst", policies, mdp.transitions), (policies * mdp.expected_rewards).sum(axis=2)
    where, values = np.tile(mdp.initial, (len(policies), 1)), np.zeros(len(policies))
    for _ in range(30):
        values += (where * paid).sum(axis=1)
        where = np.einsum("ps,pst->pt", where, moves)
    assert values[:256].max() == pytest.approx(1.95)
    assert (values <= 1.95 + 1e-12).all()


def by_the_sign(time: Any, memory: Any, obs: Any) -> Any:
    """Remembers the first observation, goes east, and turns as it said."""
    memory = jnp.where(time == 0, obs, memory)
    return memory, jnp.where(obs == 3, 2 * memory, EAST)


def against_the_sign(time: Any, memory: Any, obs: Any) -> Any:
    memory, action = by_the_sign(time, memory, obs)
    return memory, jnp.where(obs == 3, SOUTH - action, action)


@pytest.mark.parametrize(("act", "expected"), [(by_the_sign, 4.0), (against_the_sign, -0.1)])
def test_a_policy_that_remembers_the_sign_gets_4(act: Any, expected: float) -> None:
    env = registry.compiled("TMaze-v0")
    first, rewards, seen, terminated, truncated = play(jax.random.key(0), env, act, jnp.zeros((), jnp.int32), 200)
    assert set(first.tolist()) == {0, 1}
    assert (terminated.argmax(axis=1) == 10).all()
    assert (seen[:, :9] == 2).all()
    assert (seen[:, 9] == 3).all()
    assert not rewards[:, :10].any()
    np.testing.assert_allclose(rewards[:, 10], expected, rtol=1e-6)
    assert not truncated[:, :11].any()


def test_t_maze_under_its_id() -> None:
    env = registry.compiled("TMaze-v0")
    assert isinstance(env, FiniteMDP)
    assert (env.name, env.time_limit, env.reward_threshold) == ("TMaze-v0", 110, 3.8)
    assert (env.observation_space, env.action_space) == (Discrete(4), Discrete(4))
    assert t_maze_best()[1] < 3.8 < t_maze_best()[0]
    longer = registry.compiled("TMaze-v0", length=70, discount=0.98)
    assert (longer.time_limit, longer.discount) == (710, 0.98)  # type: ignore[attr-defined]
    assert registry.compiled("TMaze-v0", time_limit=20).time_limit == 20
    assert time_limit(env, 15).reward_threshold == 3.8
    assert finite_world("t-maze").time_limit is None


def test_finite_mdps_can_have_a_threshold() -> None:
    mdp = t_maze(length=2)
    assert mdp.replace(reward_threshold=None).reward_threshold is None
    assert mdp.replace(reward_threshold=1).reward_threshold == 1.0
    for wrong in (math.nan, math.inf, "4", True):
        with pytest.raises(UsageError, match=r"^reward_threshold: got [^\n]*; it must be a finite number, or None for no such goal$"):
            mdp.replace(reward_threshold=wrong)


# ── all of them ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("wide", [False, True], ids=["float32", "float64"])
@pytest.mark.parametrize("name", NAMES)
def test_every_environment_keeps_the_contract(name: str, wide: bool) -> None:
    with jax.enable_x64(wide):
        env: Any = registry.compiled(name)
        assert env.name == name
        key = jax.random.key(0)
        state, obs = jax.eval_shape(env.reset, key)
        after, step = jax.eval_shape(env.step, key, state, jax.ShapeDtypeStruct((), jnp.int32))
        real = jnp.float64 if wide else jnp.float32
        expected = jnp.int32 if isinstance(env.observation_space, Discrete) else real
        for o in (obs, step.obs):
            assert (o.shape, o.dtype) == (env.observation_space.shape, expected)
        assert (step.reward.shape, step.reward.dtype) == ((), real)
        for flag in (step.terminated, step.truncated):
            assert (flag.shape, flag.dtype) == ((), jnp.bool_)
        for before, now in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True):
            assert (now.shape, now.dtype, now.weak_type) == (before.shape, before.dtype, False)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: repeat_previous(-1), "repeat_previous: k must be an integer of at least 0: got -1"),
        (lambda: repeat_previous(suits=1), "repeat_previous: suits must be an integer of at least 2: got 1"),
        (lambda: repeat_previous(copies=True), "repeat_previous: copies must be an integer of at least 1: got True"),
        (
            lambda: repeat_previous(51),
            "repeat_previous: got k=51 with 52 cards, which leaves nothing to answer; give k ≤ 50, or more copies",
        ),
        (
            lambda: repeat_previous_value(np.ones(3) / 3),
            "repeat_previous_value: probabilities must be (4, 4) or (4,): got (3,)",
        ),
        (
            lambda: repeat_previous_value(np.ones((4, 4))),
            "repeat_previous_value: probabilities must be 4 numbers ≥ 0 that sum to 1: got [1.0, 1.0, 1.0, 1.0]",
        ),
        (lambda: repeat_previous_best(99), "repeat_previous_best: got k=99 with 52 cards, which"),
        (lambda: t_maze(length=1), "t_maze: length must be an integer of at least 2: got 1"),
        (lambda: registry.compiled("TMaze-v0", length="long"), "t_maze: length must be an integer of at least 2: got 'long'"),
        (lambda: t_maze_best(0), "t_maze_best: length must be an integer of at least 2: got 0"),
        (lambda: t_maze_best(3, 2.0), "discount: got 2.0; it must be a number in [0, 1]"),
        (
            lambda: registry.compiled("TMaze-v0", size=3),
            "environment 'TMaze-v0' does not take size; its keyword arguments: length, discount, time_limit",
        ),
        (
            lambda: make(POSITIONS, "gymnasium", env_args={"mass": 1}),
            f"environment {POSITIONS} does not take these arguments: ",
        ),
    ],
)
def test_wrong_arguments_are_one_line(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        call()
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)
