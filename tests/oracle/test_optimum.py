"""The best return: against formulas, against every deterministic policy, and against each other."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from policygrad import oracle
from policygrad.envs import FiniteMDP, make
from policygrad.envs.small_worlds import corridor_best
from policygrad.errors import UsageError
from policygrad.policies import tabular_softmax
from zoo import random_mdp

pytestmark = pytest.mark.usefixtures("x64")


def short_corridor(**changes: Any) -> FiniteMDP:
    """Three states that look alike and a goal; in the second state left and right are swapped."""
    to = np.array([[0, 1], [2, 0], [1, 3], [3, 3]])
    arguments: dict[str, Any] = {
        "transitions": np.eye(4)[to],
        "rewards": -np.ones((4, 2)),
        "initial": [1, 0, 0, 0],
        "discount": 1.0,
        "terminal": [3],
        "observations": [0, 0, 0, 0],
    }
    return FiniteMDP(**arguments | changes)


def deterministic_values(mdp: FiniteMDP) -> list[float]:
    """J of every deterministic memoryless policy."""
    choices = itertools.product(range(mdp.num_actions), repeat=mdp.num_observations)
    with np.errstate(divide="ignore"):
        return [float(oracle.objective(mdp, tabular_softmax(np.log(np.eye(mdp.num_actions)[list(choice)])))) for choice in choices]


@pytest.mark.parametrize("seed", range(5))
def test_best_is_the_best_deterministic_policy(seed: int) -> None:
    mdp = random_mdp(seed, 4, 2, terminals=1, discount=0.95)
    assert oracle.best(mdp).value == pytest.approx(max(deterministic_values(mdp)), abs=1e-10)


def test_best_attains_its_value_and_solves_the_optimality_equation() -> None:
    for seed, discount in itertools.product(range(10), (0.0, 0.7, 0.99)):
        mdp = random_mdp(seed, 5, 3, terminals=1, outcomes=2, discount=discount)
        value, actions, V = oracle.best(mdp)
        Q = mdp.expected_rewards + discount * mdp.transitions @ V
        np.testing.assert_allclose(V, np.where(mdp.terminal, 0, Q.max(axis=1)), rtol=0, atol=1e-10)
        moves, gains = (table[np.arange(5), actions] for table in (mdp.transitions, mdp.expected_rewards))
        attained = mdp.initial @ np.linalg.solve(np.eye(5) - discount * moves, gains)
        assert value == pytest.approx(attained, abs=1e-10)


def test_with_a_time_limit_the_best_action_depends_on_the_steps_left() -> None:
    """Wait for a prize that grows, or take it now: with one step left only taking it pays."""
    mdp = FiniteMDP(
        transitions=[[[1, 0], [0, 1]], [[0, 0], [0, 0]]],
        rewards=[[1, 1.5], [0, 0]],
        initial=[1, 0],
        discount=1,
        terminal=[1],
        time_limit=3,
    )
    best = oracle.best(mdp)
    assert best.value == pytest.approx(3.5)
    np.testing.assert_array_equal(best.actions, [[0, 0], [0, 0], [1, 0]])
    np.testing.assert_allclose(best.state_values, [[3.5, 0], [2.5, 0], [1.5, 0]])


def test_a_time_limited_optimum_is_that_of_states_that_count_time() -> None:
    for seed in range(3):
        mdp = random_mdp(seed, 3, 2, time_limit=3, discount=0.9)
        S, A, H = 3, 2, 3
        moves = np.zeros((H * S + 1, A, H * S + 1))
        rewards = np.zeros_like(moves)
        for k in range(H):
            here = slice(k * S, (k + 1) * S)
            if k + 1 < H:
                moves[here, :, (k + 1) * S : (k + 2) * S] = mdp.transitions
            else:
                moves[here, :, -1] = 1
            rewards[here] = mdp.expected_rewards[:, :, None]
        initial = np.concatenate([mdp.initial, np.zeros((H - 1) * S + 1)])
        unrolled = FiniteMDP(transitions=moves, rewards=rewards, initial=initial, discount=0.9, terminal=[H * S])
        assert oracle.best(mdp).value == pytest.approx(oracle.best(unrolled).value, abs=1e-12)


def test_at_discount_1_the_best_policy_ends() -> None:
    """Three steps to the goal for one that sees where it is; and where it may also wait for nothing, its actions do not."""
    assert oracle.best(short_corridor()).value == pytest.approx(-3, abs=1e-12)
    np.testing.assert_array_equal(oracle.best(short_corridor()).actions, [1, 0, 1, 0])
    waiting = FiniteMDP(
        transitions=np.eye(3)[[[0, 1], [1, 2], [2, 2]]], rewards=[[0, 0], [0, 1], [0, 0]], initial=[1, 0, 0], discount=1, terminal=[2]
    )
    best = oracle.best(waiting)
    assert best.value == pytest.approx(1)
    np.testing.assert_array_equal(best.actions, [1, 1, 0])


def test_a_state_that_is_never_reached_and_never_left_does_not_disturb() -> None:
    mdp = FiniteMDP(
        transitions=np.eye(3)[[[1, 1], [1, 1], [2, 2]]], rewards=[[1, 2], [0, 0], [5, 5]], initial=[1, 0, 0], discount=1, terminal=[1]
    )
    assert oracle.best(mdp).value == pytest.approx(2)
    assert oracle.best_memoryless(mdp, starts=3).value == pytest.approx(2)


def test_what_has_no_maximum_is_refused_in_one_line() -> None:
    loop = FiniteMDP(transitions=np.eye(2)[[[0, 1], [1, 1]]], rewards=[[1, 0], [0, 0]], initial=[1, 0], discount=1, terminal=[1])
    with pytest.raises(UsageError, match="pay for going round for ever; it must have a discount below 1 or a time limit"):
        oracle.best(loop)
    endless = FiniteMDP(transitions=[[[1], [1]]], rewards=[[0, 1]], initial=[1], discount=1)
    for ask in (oracle.best, oracle.best_memoryless):
        with pytest.raises(UsageError, match="may never end"):
            ask(endless)
        with pytest.raises(UsageError, match="got Corridor-v0; exact answers need a FiniteMDP"):
            ask(make("Corridor-v0"))
    with pytest.raises(UsageError, match="starts: got 0"):
        oracle.best_memoryless(loop, starts=0)


def test_the_best_memoryless_policy_of_the_corridor() -> None:
    p, value = corridor_best()
    best = oracle.best_memoryless(short_corridor())
    assert best.value == pytest.approx(value, abs=1e-8)
    assert best.value == pytest.approx(-(6 + 4 * 2**0.5), abs=1e-8)
    np.testing.assert_allclose(best.probabilities, [[1 - p, p]], rtol=0, atol=1e-6)


@pytest.mark.parametrize("limit", [None, 3])
def test_no_deterministic_policy_is_better_than_the_best_memoryless_one(limit: int | None) -> None:
    for seed in range(2):
        mdp = random_mdp(seed, 4, 2, terminals=1, aliased=True, time_limit=limit, discount=0.9)
        value, probabilities = oracle.best_memoryless(mdp)
        assert value >= max(deterministic_values(mdp)) - 1e-10
        assert value <= oracle.best(mdp).value + 1e-10
        with np.errstate(divide="ignore"):
            assert oracle.objective(mdp, tabular_softmax(np.log(probabilities))) == pytest.approx(value, abs=1e-10)


def test_without_aliasing_it_is_the_best_of_all() -> None:
    for seed in range(3):
        mdp = random_mdp(seed, 4, 2, terminals=1, discount=0.9)
        assert oracle.best_memoryless(mdp, starts=4).value == pytest.approx(oracle.best(mdp).value, abs=1e-8)
