"""The named worlds show what they say they show."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from policygrad.envs import Env, FiniteMDP, finite_world, registry
from policygrad.envs.finite_worlds import WORLDS, aliased_grid, aliased_grid_best, fork, one_state, rare_reward, short_corridor, two_state
from policygrad.envs.small_worlds import corridor_best, corridor_value
from policygrad.errors import UnknownNameError, UsageError


def value(mdp: FiniteMDP, policy: Any) -> float:
    """J without time limit, of π(a|s) [S, A]: μᵀ (I − γ P_π)⁻¹ r_π."""
    moves = np.einsum("sa,sat->st", policy, mdp.transitions)
    paid = (policy * mdp.expected_rewards).sum(axis=1)
    return float(mdp.initial @ np.linalg.solve(np.eye(mdp.num_states) - mdp.discount * moves, paid))


def trajectories(mdp: FiniteMDP, state: int, steps: int | None) -> int:
    """How many there are from a state, by counting."""
    if steps == 0 or mdp.terminal[state] or steps is None:
        return 1
    return sum(
        trajectories(mdp, int(after), steps - 1) for a in range(mdp.num_actions) for after in np.flatnonzero(mdp.transitions[state, a])
    )


def test_fork_is_small_enough_to_be_summed_and_every_choice_counts() -> None:
    mdp = fork()
    assert (mdp.num_states, mdp.num_actions, mdp.time_limit, mdp.discount) == (3, 2, 3, 0.9)
    assert (mdp.transitions > 0).sum(axis=2).max() == 2
    assert trajectories(mdp, 0, 3) == 28
    assert (mdp.expected_rewards[~mdp.terminal] > 0).all()
    future, gains = np.zeros(3), []
    for _ in range(3):  # backwards, under the uniform policy
        action_values = mdp.expected_rewards + 0.9 * mdp.transitions @ future
        gains.append(action_values[:, 1] - action_values[:, 0])
        future = action_values.mean(axis=1)
    assert (np.abs(np.array(gains)[:, :2]) > 0.1).all()
    assert gains[0][0] > 0 > gains[2][0]  # the last step in 0 wants the other action than the first
    # What is taken now matters for what can be taken later: the greedy choice is not the best one.
    assert mdp.expected_rewards[1].argmax() == 0
    best = max(value(mdp.replace(time_limit=None), np.eye(2)[[*choice, 0]]) for choice in itertools.product(range(2), repeat=2))
    assert best == pytest.approx(value(mdp, np.eye(2)[[0, 1, 0]]))


@pytest.mark.parametrize("p", [0.1, 0.5, 2 - math.sqrt(2), 0.9])
def test_short_corridor_is_the_compiled_corridor(p: float) -> None:
    mdp = short_corridor()
    assert (mdp.num_observations, mdp.discount, mdp.time_limit) == (1, 1.0, None)
    assert value(mdp, np.tile([1 - p, p], (4, 1))) == pytest.approx(corridor_value(p), rel=1e-12)
    assert corridor_value(p) <= corridor_best()[1] + 1e-12


def grid_policy(right: float) -> np.ndarray:
    policy = np.zeros((7, 3))
    policy[[0, 4, 2], [1, 0, 2]] = 1.0
    policy[[1, 3]] = [1 - right, right, 0]
    return policy


@pytest.mark.parametrize("discount", [0.6, 0.9, 0.99])
def test_aliased_grid_has_the_best_coin_that_it_says(discount: float) -> None:
    mdp = aliased_grid(discount=discount)
    np.testing.assert_array_equal(mdp.observations[[1, 3]], 1)
    best, reached = aliased_grid_best(discount)
    assert value(mdp, grid_policy(best)) == pytest.approx(reached, abs=1e-12)
    found = minimize_scalar(lambda p: -value(mdp, grid_policy(p)), bounds=(0, 1), method="bounded", options={"xatol": 1e-10})
    assert (found.x, -found.fun) == pytest.approx((best, reached), abs=1e-6)
    assert abs(best - 0.5) > 5e-4  # no symmetry gives it away


def test_no_deterministic_memoryless_policy_is_as_good_in_the_aliased_grid() -> None:
    mdp, (_, best) = aliased_grid(), aliased_grid_best()
    values = []
    for choice in itertools.product(range(3), repeat=4):
        values.append(value(mdp, np.eye(3)[[*choice, 0, 0]][mdp.observations]))
    assert max(values) == pytest.approx(0.6 * 0.81)
    assert best > max(values) + 0.1
    # Nor is any other stochastic one, of 2000 tried.
    tried = np.random.default_rng(0).dirichlet(np.full(3, 0.3), (2000, 6))
    assert max(value(mdp, policy[mdp.observations]) for policy in tried) < best


def test_rare_reward_pays_rarely_and_best() -> None:
    mdp = rare_reward()
    np.testing.assert_allclose(mdp.expected_rewards[0], [0.5, 1.0])
    np.testing.assert_allclose(mdp.transitions[0], [[0, 1, 0], [0, 0.99, 0.01]])
    assert mdp.rewards[0, 1, 2] == 100
    assert mdp.terminal[1:].all()
    assert trajectories(mdp, 0, mdp.time_limit) == 3  # the reward is known from the transition
    np.testing.assert_allclose(rare_reward(chance=0.5, prize=3, wage=2).expected_rewards[0], [2, 1.5])


def test_two_states_are_visited_as_the_discount_says() -> None:
    mdp = two_state()
    moves = mdp.transitions.mean(axis=1)
    visits = 0.1 * np.linalg.solve((np.eye(2) - 0.9 * moves).T, mdp.initial)
    np.testing.assert_allclose(visits, [0.1, 0.9], rtol=0, atol=1e-15)
    assert value(mdp, np.full((2, 2), 0.5)) == pytest.approx(0.5 * 0.9 / 0.1)


def test_one_state_is_visited_one_over_one_minus_gamma_times() -> None:
    assert value(one_state(), np.array([[0.25, 0.75]])) == pytest.approx(7.5)
    assert value(one_state(discount=0.5), np.array([[0.0, 1.0]])) == pytest.approx(2)


@pytest.mark.parametrize("name", WORLDS)
def test_every_world_is_found_by_name_and_takes_limit_and_discount(name: str) -> None:
    mdp = finite_world(name, discount=0.5, time_limit=2)
    assert (mdp.name, mdp.discount, mdp.time_limit) == (name, 0.5, 2)
    assert finite_world(name).discount == WORLDS[name]().discount


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: finite_world("forks"), UnknownNameError, "unknown finite world 'forks': did you mean fork?"),
        (
            lambda: finite_world("fork", gamma=1),
            UsageError,
            "finite world 'fork' does not take gamma; its keyword arguments: discount",
        ),
        (lambda: finite_world("fork", discount=2), UsageError, "discount: got 2; it must be a number in [0, 1]"),
        (lambda: rare_reward(chance=1.5), UsageError, "rare_reward: got chance=1.5; it must be a probability in [0, 1]"),
        (lambda: aliased_grid_best(1.0), UsageError, "aliased_grid_best: got discount=1.0; the best policy is inside for 0.428 < γ < 1"),
        (lambda: aliased_grid_best(0.4), UsageError, "aliased_grid_best: got discount=0.4;"),
    ],
)
def test_wrong_names_and_arguments_are_one_line(call: Callable[[], Any], kind: type[UsageError], message: str) -> None:
    with pytest.raises(kind) as raised:
        call()
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize("name", ["Fork-v0", "AliasedGrid-v0", "RareReward-v0", "LQR-v0"])
def test_registered_worlds_can_be_collected_by_episodes(name: str) -> None:
    env = registry.compiled(name)
    assert isinstance(env, Env)
    assert env.name == name
    assert env.time_limit is not None
    assert registry.compiled(name, time_limit=9).time_limit == 9
    with pytest.raises(UsageError, match=rf"^environment '{name}' does not take size; its keyword arguments: [^\n]*discount"):
        registry.compiled(name, size=3)
