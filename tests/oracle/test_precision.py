"""Exact answers stay exact however the policy came about, inside and outside of a float64 scope."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policygrad import oracle
from policygrad.algorithms import reinforce
from policygrad.envs import FiniteMDP, finite_world
from policygrad.errors import SpaceError, UsageError
from policygrad.gradients import off_policy_value
from policygrad.policies import tabular_softmax
from policygrad.rollout import episodes, record
from zoo import random_mdp

LOGITS = np.random.default_rng(0).normal(size=(3, 2))
MDP = random_mdp(3, 3, 2, time_limit=3)


def objective_by_hand(mdp: FiniteMDP, logits: np.ndarray) -> float:
    pi = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    V = np.zeros(mdp.num_states)
    for _ in range(mdp.time_limit or 0):
        V = (pi * (mdp.expected_rewards + mdp.discount * mdp.transitions @ V)).sum(axis=1) * ~mdp.terminal
    return float(mdp.initial @ V)


@pytest.mark.parametrize("logits", [LOGITS, LOGITS.tolist()], ids=["numpy", "list"])
def test_numpys_digits_are_kept_outside_of_a_scope(logits: Any) -> None:
    """JAX would round 64 bits to 32 on the way in, and every exact answer to 1e-8."""
    policy = tabular_softmax(logits)
    assert abs(oracle.objective(MDP, policy) - objective_by_hand(MDP, LOGITS)) < 1e-13
    found = oracle.moments(reinforce(baseline="none", discount=0.9, discount_gradient=True), MDP, policy, num_trajectories=1)
    assert np.abs(found.bias).max() < 1e-13
    assert policy(np.array([0, 2])).probabilities().shape == (2, 2)
    assert policy(0).mode() == np.argmax(LOGITS[0])


def test_float64_parameters_differentiate_inside_their_scope_only() -> None:
    with jax.enable_x64(True):
        policy = tabular_softmax(jnp.asarray(LOGITS))
        gradient = jax.grad(lambda p: oracle.objective(MDP, p))(policy).head.logits
    assert np.abs(np.asarray(gradient) - oracle.policy_gradient(MDP, policy).head.logits).max() < 1e-12
    with pytest.raises(UsageError, match=r"^policy: got float64 parameters outside of jax.enable_x64\(True\)"):
        jax.grad(lambda p: oracle.objective(MDP, p))(policy)


def test_the_off_policy_value_is_as_exact_outside_of_a_scope() -> None:
    """Σ P(τ) Ĵ(τ) = J(π) over all trajectories of another policy."""
    other, policy = tabular_softmax(LOGITS[::-1]), tabular_softmax(LOGITS)
    made = oracle.enumerate_trajectories(MDP, other, horizon=3)
    some = np.argsort(-made.probability)[:3]
    columns = [jax.tree.map(lambda x, c=c: x[:, c : c + 1], made.rollout) for c in some]
    for column in columns:
        got = off_policy_value(policy, column, discount=0.9).value
        with jax.enable_x64(True):
            assert abs(got - off_policy_value(policy, column, discount=0.9).value) < 1e-12


def test_nan_is_refused_and_a_forbidden_action_is_not() -> None:
    with pytest.raises(UsageError, match=r"^policy: got NaN among its parameters"):
        oracle.objective(MDP, tabular_softmax(np.where(LOGITS.max() == LOGITS, np.nan, LOGITS)))
    forbidding = np.where(np.arange(2) == 0, -np.inf, LOGITS)
    assert np.isfinite(oracle.objective(MDP, tabular_softmax(forbidding)))


def test_tables_in_float32_are_brought_to_sum_to_one() -> None:
    rng = np.random.default_rng(1)
    mdp = FiniteMDP(
        transitions=np.asarray(jax.nn.softmax(jnp.asarray(rng.normal(size=(4, 2, 4)), jnp.float32))),
        rewards=rng.normal(size=(4, 2)),
        initial=np.full(4, 0.25, np.float32),
        discount=jnp.float32(0.9),  # type: ignore[arg-type]
    )
    assert np.abs(mdp.transitions.sum(axis=2) - 1).max() < 1e-15
    with pytest.raises(UsageError, match="must sum to"):
        mdp.replace(initial=np.full(4, 0.2501))


def test_a_mean_of_nothing_but_rounding_has_no_direction() -> None:
    found = oracle.moments(
        reinforce(baseline="mean", credit="total-return", discount=0.9),
        finite_world("two-state", time_limit=2),
        tabular_softmax(LOGITS[:2]),
        num_trajectories=1,
    )
    assert np.isnan(found.cosine)
    assert not found.signal_to_noise > 0


def test_what_is_no_algorithm_or_policy_is_one_line() -> None:
    with pytest.raises(UsageError, match=r"^algorithm: got function; it must be what a recipe returns"):
        oracle.moments(reinforce, MDP, tabular_softmax(LOGITS), num_trajectories=1)  # type: ignore[arg-type]
    rollout = record(tabular_softmax(LOGITS), MDP, episodes(2))
    with pytest.raises(UsageError, match=r"^policy: got NoneType; it must be a policy"):
        off_policy_value(None, rollout, discount=0.9)
    with pytest.raises(UsageError, match=r"^weight: got 'trajectory'; it must be a function"):
        off_policy_value(tabular_softmax(LOGITS), rollout, discount=0.9, weight="trajectory")  # type: ignore[arg-type]
    with pytest.raises(SpaceError, match=r"^policy: the rollout's observations"):
        off_policy_value(tabular_softmax(LOGITS[:1]), rollout, discount=0.9)
