"""∇J three ways: by the theorem, by autodiff through the solve, by differences; what the text's identity should have been; scores."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradients import trajectories
from policygrad import oracle, policies
from policygrad.envs import FiniteMDP
from policygrad.errors import UnknownNameError, UsageError
from policygrad.policies import Policy, tabular_softmax
from policygrad.spaces import Box, Discrete
from policygrad.types import Spec
from zoo import random_mdp

pytestmark = pytest.mark.usefixtures("x64")

SHAPES: dict[str, dict[str, Any]] = {
    "for ever": {"num_states": 3, "num_actions": 2},
    "terminal, aliased": {"num_states": 5, "num_actions": 3, "terminals": 1, "aliased": True, "outcomes": 3},
    "time limit": {"num_states": 4, "num_actions": 2, "terminals": 1, "time_limit": 4},
}
SEEDS = 67  # of each shape: 201 in all


def cases(shape: str, seeds: int = SEEDS) -> Iterator[tuple[FiniteMDP, np.ndarray]]:
    """Random MDPs of a shape, each with logits [O, A] and a discount of its own."""
    for seed in range(seeds):
        rng = np.random.default_rng(2000 + seed)
        mdp = random_mdp(seed, **SHAPES[shape], discount=rng.uniform(0.5, 0.99))
        yield mdp, 2 * rng.normal(size=(mdp.num_observations, mdp.num_actions))


def value(mdp: FiniteMDP, logits: Any) -> Any:
    return oracle.objective(mdp, tabular_softmax(logits))


def gradient(mdp: FiniteMDP, logits: Any, **how: Any) -> Any:
    return oracle.policy_gradient(mdp, tabular_softmax(logits), **how).head.logits


def as_trajectories(mdp: FiniteMDP) -> trajectories.MDP:
    shape = mdp.transitions.shape
    to = np.broadcast_to(np.arange(shape[2]), shape)
    return trajectories.MDP(mdp.initial, mdp.transitions, to, mdp.terminal[to], mdp.rewards, mdp.time_limit or 0)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_theorem_is_autodiff_is_differences(shape: str) -> None:
    step = 1e-5
    for index, (mdp, logits) in enumerate(cases(shape)):
        exact = gradient(mdp, logits)
        np.testing.assert_allclose(gradient(mdp, logits, method="autodiff"), exact, rtol=0, atol=1e-10)
        direction = np.random.default_rng(index).normal(size=logits.shape)
        slope = (value(mdp, logits + step * direction) - value(mdp, logits - step * direction)) / (2 * step)
        assert (exact * direction).sum() == pytest.approx(slope, abs=1e-6)


def test_every_coordinate_by_differences() -> None:
    step = 1e-5
    for mdp, logits in cases("terminal, aliased", seeds=2):
        units = np.eye(logits.size).reshape(-1, *logits.shape)
        slopes = [(value(mdp, logits + step * unit) - value(mdp, logits - step * unit)) / (2 * step) for unit in units]
        np.testing.assert_allclose(gradient(mdp, logits).ravel(), slopes, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["FrozenLake-v1", "CliffWalking-v1"])
def test_on_gymnasium_s_tables(name: str) -> None:
    mdp = FiniteMDP.from_gymnasium(name)
    logits = np.random.default_rng(0).normal(size=(mdp.num_observations, mdp.num_actions))
    exact = gradient(mdp, logits)
    np.testing.assert_allclose(gradient(mdp, logits, method="autodiff"), exact, rtol=0, atol=1e-10)
    direction = exact / np.linalg.norm(exact)
    step = 1e-5
    slope = (value(mdp, logits + step * direction) - value(mdp, logits - step * direction)) / (2 * step)
    assert (exact * direction).sum() == pytest.approx(slope, abs=1e-6)


def test_at_discount_1_with_a_sure_end() -> None:
    mdp = random_mdp(5, 4, 2, terminals=1, discount=1.0)
    logits = np.random.default_rng(5).normal(size=(4, 2))
    np.testing.assert_allclose(gradient(mdp, logits, method="autodiff"), gradient(mdp, logits), rtol=0, atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_identity_that_holds(shape: str) -> None:
    """Σ_s ∇d(s) r_π(s) = Σ_s d(s) Σ_a ∇π(a|s) (Q − r)(s, a), for 201 MDPs, without their time limits; d normalised."""
    first, _ = next(cases(shape))

    @jax.jit
    def slopes(logits: Any) -> Any:
        """∇π of every state and action."""
        return jax.jacobian(lambda logits: jax.nn.softmax(logits, axis=-1)[first.observations])(logits)

    for given, logits in cases(shape):
        mdp, policy = given.replace(time_limit=None), tabular_softmax(logits)
        d, (_, Q, _) = oracle.occupancy(mdp, policy).state, oracle.values(mdp, policy)
        r, pi = mdp.expected_rewards, trajectories.softmax(logits)[mdp.observations]
        slope = np.asarray(slopes(logits))  # [S, A, O, A]
        moved = state_distribution_slopes(mdp, pi, slope, d)
        left = np.einsum("soa,s->oa", moved, (pi * r).sum(axis=1))
        right = np.einsum("s,sboa,sb->oa", d, slope, Q - r)
        np.testing.assert_allclose(left, right, rtol=0, atol=1e-10)


def state_distribution_slopes(mdp: FiniteMDP, pi: np.ndarray, slope: np.ndarray, d: np.ndarray) -> np.ndarray:
    """∇d [S, O, A] in NumPy, by differentiating d = (1 − γ) μ + γ P_πᵀ d over non-terminal states."""
    alive = ~mdp.terminal
    moves = np.einsum("sa,sat->st", pi, mdp.transitions) * alive
    moved = np.einsum("s,sboa,sbt->toa", d, slope, mdp.transitions) * alive[:, None, None]
    system = np.eye(mdp.num_states) - mdp.discount * moves.T
    return np.linalg.solve(system, mdp.discount * moved.reshape(mdp.num_states, -1)).reshape(moved.shape)


def test_visits_may_be_left_undiscounted() -> None:
    for mdp, logits in cases("time limit", seeds=10):
        tiny, pi = as_trajectories(mdp), trajectories.softmax(logits)
        visits = trajectories.visits(tiny, pi, 4).sum(axis=0)  # [k, s]: without resets a row is a step
        Q = np.stack([np.asarray(Q) for _, Q in trajectories.action_values(logits, tiny, mdp.discount)])
        alive = ~mdp.terminal[None, :, None]
        for weights, discounted in ((np.ones(4), False), (mdp.discount ** np.arange(4), True)):
            expected = sum(trajectories.policy_gradient(pi, weights[k] * visits[k], (alive * Q)[k]) for k in range(4))
            np.testing.assert_allclose(gradient(mdp, logits, discount_visits=discounted), expected, rtol=0, atol=1e-12)


def test_undiscounted_visits_until_a_sure_end() -> None:
    """A time limit that is never met in practice changes nothing."""
    for mdp, logits in cases("terminal, aliased", seeds=3):
        mdp = mdp.replace(discount=0.6)
        limited = gradient(mdp.replace(time_limit=2000), logits, discount_visits=False)
        np.testing.assert_allclose(gradient(mdp, logits, discount_visits=False), limited, rtol=0, atol=1e-10)


@pytest.mark.parametrize("values", ["continuing", "time-limited"])
@pytest.mark.parametrize("rows", [3, 9])
def test_what_rollouts_of_fixed_length_estimate(rows: int, values: Any) -> None:
    for mdp, logits in cases("time limit", seeds=5):
        tiny, pi, gamma = as_trajectories(mdp), trajectories.softmax(logits), mdp.discount
        visits = trajectories.visits(tiny, pi, rows, resets=True)  # [t, k, s]
        if values == "continuing":
            Q = np.stack([trajectories.true_values(tiny, pi, gamma)[1]] * 4)
        else:
            Q = np.stack([np.asarray(Q) for _, Q in trajectories.action_values(logits, tiny, gamma)])
        for discounted in (False, True):
            weights = visits.sum(axis=0) * (gamma ** np.arange(4)[:, None] if discounted else 1) / rows
            expected = sum(trajectories.policy_gradient(pi, weights[k], Q[k]) for k in range(4))
            got = oracle.rollout_gradient(mdp, tabular_softmax(logits), rows=rows, values=values, discount_visits=discounted)
            np.testing.assert_allclose(got.head.logits, expected, rtol=0, atol=1e-12)


def test_rollouts_without_time_limit() -> None:
    for mdp, logits in cases("terminal, aliased", seeds=3):
        policy = tabular_softmax(logits)
        got = oracle.rollout_gradient(mdp, policy, rows=5)
        seen = oracle.visits(mdp, policy, rows=5).sum(axis=(0, 1)) / 5
        expected = np.zeros_like(logits)
        pi = trajectories.softmax(logits)[mdp.observations]
        np.add.at(expected, mdp.observations, trajectories.policy_gradient(pi, seen, oracle.values(mdp, policy).action))
        np.testing.assert_allclose(got.head.logits, expected, rtol=0, atol=1e-12)


def test_the_gradient_is_differentiable_itself() -> None:
    """The Jacobian of the theorem's ∇J is the Hessian of J: Q and d are differentiated too."""
    mdp, logits = next(cases("for ever"))
    both = jax.jit(lambda logits: (jax.jacfwd(lambda x: gradient(mdp, x))(logits), jax.hessian(lambda x: value(mdp, x))(logits)))
    of_theorem, of_objective = both(jnp.asarray(logits))
    np.testing.assert_allclose(of_theorem, of_objective, rtol=0, atol=1e-10)


def test_inside_jit_in_float32() -> None:
    mdp, logits = next(cases("time limit"))
    exact, direction = gradient(mdp, logits), oracle.natural_gradient(mdp, tabular_softmax(logits)).head.logits
    with jax.enable_x64(False):
        answers = jax.jit(lambda logits: (gradient(mdp, logits), oracle.natural_gradient(mdp, tabular_softmax(logits)).head.logits))
        live, natural = answers(jnp.asarray(logits, jnp.float32))
        assert live.dtype == natural.dtype == jnp.float32
        np.testing.assert_allclose(live, exact, atol=1e-5)
        np.testing.assert_allclose(natural, direction, atol=1e-2)


@pytest.fixture(scope="module")
def network() -> Policy:
    """A small network over the observations of `random_mdp(…, 4, 3, aliased=True)`, in float64."""
    with jax.enable_x64(True):
        return policies.mlp((3,), initialisation="lecun")(jax.random.key(1), Spec(Discrete(3), Discrete(3), num_envs=1))


def test_any_policy_has_an_exact_gradient(network: Policy) -> None:
    for limit in (None, 3):
        mdp = random_mdp(9, 4, 3, aliased=True, terminals=1, time_limit=limit)
        theorem = oracle.policy_gradient(mdp, network)
        assert jax.tree.structure(theorem) == jax.tree.structure(network)
        difference = oracle.flatten(theorem) - oracle.flatten(oracle.policy_gradient(mdp, network, method="autodiff"))
        assert np.abs(difference).max() <= 1e-10


@pytest.mark.parametrize("shape", SHAPES)
def test_the_fisher_matrix_of_a_table(shape: str) -> None:
    """F = Σ_s d̄(s) (diag π_s − π_s π_sᵀ) on the block of what s looks like."""
    for mdp, logits in cases(shape, seeds=4):
        policy, pi = tabular_softmax(logits), trajectories.softmax(logits)
        d = oracle.occupancy(mdp, policy).state
        expected = np.zeros((*logits.shape, *logits.shape))
        for s, o in enumerate(mdp.observations):
            expected[o, :, o, :] += d[s] / d.sum() * (np.diag(pi[o]) - np.outer(pi[o], pi[o]))
        np.testing.assert_allclose(oracle.fisher(mdp, policy), expected.reshape(logits.size, logits.size), rtol=0, atol=1e-12)


def test_the_natural_gradient_of_a_table_is_its_advantages() -> None:
    for mdp, logits in cases("for ever", seeds=10):
        policy = tabular_softmax(logits)
        A = oracle.values(mdp, policy).advantage
        expected = (A - A.mean(axis=1, keepdims=True)) / (1 - mdp.discount)
        np.testing.assert_allclose(oracle.natural_gradient(mdp, policy).head.logits, expected, rtol=1e-7, atol=1e-8)


def test_the_natural_gradient_solves_the_normal_equations(network: Policy) -> None:
    mdp = random_mdp(9, 4, 3, aliased=True, terminals=1)
    F, g = oracle.fisher(mdp, network), oracle.flatten(oracle.policy_gradient(mdp, network))
    np.testing.assert_allclose(F @ oracle.flatten(oracle.natural_gradient(mdp, network)), g, rtol=0, atol=1e-9)
    assert np.linalg.eigvalsh(F).min() > -1e-12


def test_an_action_that_is_forbidden_adds_nothing() -> None:
    mdp = random_mdp(0, 3, 2)
    logits = np.array([[0.0, -np.inf], [0.3, 0.1], [0.0, 0.0]])
    g, F = gradient(mdp, logits), oracle.fisher(mdp, tabular_softmax(logits))
    assert np.isfinite(g).all()
    assert np.isfinite(F).all()
    np.testing.assert_array_equal(g[0], 0)


def test_what_cannot_be_asked_is_refused_in_one_line() -> None:
    mdp, policy = random_mdp(0, 3, 2), tabular_softmax(np.zeros((3, 2)))
    with pytest.raises(UnknownNameError, match="unknown method of the gradient 'adjoint'"):
        oracle.policy_gradient(mdp, policy, method="adjoint")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="discount_visits: got False with method 'autodiff'"):
        oracle.policy_gradient(mdp, policy, method="autodiff", discount_visits=False)
    with pytest.raises(UsageError, match="may never end"):
        oracle.policy_gradient(mdp, policy, discount_visits=False)
    with pytest.raises(UsageError, match="got 'time-limited' for random-0, which has no time limit"):
        oracle.rollout_gradient(mdp, policy, rows=3, values="time-limited")
    with pytest.raises(UnknownNameError, match="unknown kind of values"):
        oracle.rollout_gradient(mdp, policy, rows=3, values="limited")  # type: ignore[arg-type]


# ── scores in closed form ────────────────────────────────────────────────────────────────────────────────────────────


def check_softmax_score(policy: Policy, obs: Any, num_actions: int) -> None:
    """∇ log π(a|s) = ∇h(s, a) − Σ_b π(b|s) ∇h(s, b), whatever h is."""

    @jax.jit
    def both(policy: Any, obs: Any) -> Any:
        def each_log_prob(policy: Any) -> Any:
            return jax.vmap(policy(obs).log_prob)(jnp.arange(num_actions))

        slopes, pi = jax.jacrev(lambda policy: policy(obs).logits)(policy), policy(obs).probabilities()
        closed = jax.tree.map(lambda slope: slope - jnp.tensordot(pi, slope, 1)[None], slopes)
        return jax.jacrev(each_log_prob)(policy), closed

    autodiff, closed = both(policy, obs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-10), autodiff, closed)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(closed)) > 1e-3


def test_the_score_of_a_softmax_over_a_network() -> None:
    spec = Spec(Box.of(-1.0, 1.0, (3,)), Discrete(4), num_envs=1)
    policy = policies.mlp((5,), initialisation="lecun")(jax.random.key(2), spec)
    check_softmax_score(policy, jnp.array([0.3, -0.7, 0.2]), 4)


def wild_features(s: Any, a: Any) -> Any:
    return jnp.array([jnp.sin(s[0] * (a + 1)), jnp.exp(-a) * s[1] ** 2, jnp.cos(s[0] + a)])


def test_the_score_of_a_softmax_over_state_action_features() -> None:
    spec = Spec(Box.of(-1.0, 1.0, (2,)), Discrete(3), num_envs=1)
    policy = policies.state_action(wild_features)(jax.random.key(0), spec)
    policy = jax.tree.map(lambda weights: weights + jnp.array([0.5, -1.0, 2.0]), policy)
    check_softmax_score(policy, jnp.array([0.4, -0.9]), 3)


def test_the_score_of_a_gaussian() -> None:
    """∇ log π(a|s) = (∇μ)ᵀ Σ⁻¹ (a − μ), for the product's diagonal Σ."""
    spec = Spec(Box.of(-1.0, 1.0, (3,)), Box.of(-1.0, 1.0, (2,)), num_envs=1)
    policy = policies.mlp((4,), initialisation="lecun", sigma=(0.3, 1.7))(jax.random.key(3), spec)

    @jax.jit
    def both(policy: Any, obs: Any, action: Any) -> Any:
        autodiff = jax.grad(lambda policy: policy(obs).log_prob(action))(policy)
        pulled = jax.vjp(lambda policy: policy(obs).mode(), policy)[1]((action - policy(obs).mode()) / jnp.array([0.3, 1.7]) ** 2)[0]
        return autodiff, pulled

    autodiff, closed = both(policy, jnp.array([0.1, 0.9, -0.5]), jnp.array([0.7, -1.3]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-10), autodiff, closed)


def test_the_score_of_a_gaussian_with_any_covariance() -> None:
    rng = np.random.default_rng(0)
    root = rng.normal(size=(3, 3))
    Sigma, theta, s, a = root @ root.T + np.eye(3), rng.normal(size=(3, 2)), rng.normal(size=2), rng.normal(size=3)

    def mean(theta: Any) -> Any:
        return jnp.tanh(theta @ s)

    autodiff = jax.jit(jax.grad(lambda theta: jax.scipy.stats.multivariate_normal.logpdf(a, mean(theta), Sigma)))(theta)
    weights = np.linalg.solve(Sigma, a - np.tanh(theta @ s)) * (1 - np.tanh(theta @ s) ** 2)
    np.testing.assert_allclose(autodiff, np.outer(weights, s), rtol=0, atol=1e-10)
