"""The regulator: J and ∇J against Monte Carlo, differences and autodiff, and against the estimator that trains."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policygrad import algorithms, oracle, policies
from policygrad.envs import LQR
from policygrad.errors import SpaceError, UsageError
from policygrad.policies import Policy
from policygrad.rollout import compiled_collector, episodes
from policygrad.types import Params, Spec

pytestmark = pytest.mark.usefixtures("x64")

GAIN, BIAS = [[-0.6, -0.4], [0.1, -0.5]], [0.2, -0.3]


def regulator(**changes: Any) -> LQR:
    """A fixed system of two states and two actions, shaken from a mean that is not 0, with every matrix full."""
    arguments: dict[str, Any] = {
        "A": [[1.05, 0.2], [-0.1, 0.9]],
        "B": [[0.7, 0.1], [0.3, 0.5]],
        "Q": [[1.0, 0.2], [0.2, 0.5]],
        "R": [[0.3, 0.1], [0.1, 0.4]],
        "noise": [[0.05, 0.01], [0.01, 0.04]],
        "initial_mean": [1.0, -0.5],
        "initial_covariance": [[0.5, 0.1], [0.1, 0.25]],
        "discount": 0.9,
        "time_limit": 5,
    }
    return LQR(**arguments | changes)


def linear_policy(mdp: LQR, *, sigma: Any = None, gain: Any = GAIN, bias: Any = BIAS) -> Policy:
    """N(K s + c, diag σ²); σ None: learnt, (0.5, 0.8) here."""
    spec = Spec(mdp.observation_space, mdp.action_space, num_envs=1)
    policy: Any = policies.linear(sigma=sigma)(jax.random.key(0), spec)
    policy = eqx.tree_at(lambda p: (p.head.layer.weight, p.head.layer.bias), policy, (jnp.asarray(gain), jnp.asarray(bias)))
    return policy if sigma else eqx.tree_at(lambda p: p.head.log_std, policy, jnp.log(jnp.array([0.5, 0.8])))


def returns(mdp: LQR, *, steps: int, num_episodes: int, seed: int) -> np.ndarray:
    """Discounted returns of the policy above, in NumPy."""
    rng = np.random.default_rng(seed)
    s = rng.multivariate_normal(mdp.initial_mean, mdp.initial_covariance, num_episodes)
    total = np.zeros(num_episodes)
    for t in range(steps):
        a = s @ np.transpose(GAIN) + BIAS + rng.normal(size=s.shape) * [0.5, 0.8]
        total -= mdp.discount**t * (np.einsum("ni,ij,nj->n", s, mdp.Q, s) + np.einsum("ni,ij,nj->n", a, mdp.R, a))
        s = s @ mdp.A.T + a @ mdp.B.T + rng.multivariate_normal(np.zeros(2), mdp.noise, num_episodes)
    return total


@pytest.mark.parametrize(("limit", "steps"), [(5, 5), (None, 120)])  # 0.9^120 is 3e-6
def test_j_is_what_is_earned(limit: int | None, steps: int) -> None:
    mdp = regulator(time_limit=limit)
    sample = returns(mdp, steps=steps, num_episodes=20_000, seed=1)
    error = sample.std() / np.sqrt(len(sample))
    assert abs(oracle.objective(mdp, linear_policy(mdp)) - sample.mean()) < 4 * error
    assert error < 0.02 * abs(sample.mean())


@pytest.mark.parametrize("sigma", [None, (0.5, 0.8), 0.6])
@pytest.mark.parametrize("limit", [5, None])
def test_the_gradient_three_ways(limit: int | None, sigma: Any) -> None:
    mdp = regulator(time_limit=limit)
    policy = linear_policy(mdp, sigma=sigma)
    theorem = oracle.policy_gradient(mdp, policy)
    assert jax.tree.structure(theorem) == jax.tree.structure(policy)
    flat, unflatten = jax.flatten_util.ravel_pytree(policy)
    exact = oracle.flatten(theorem)
    np.testing.assert_allclose(oracle.flatten(oracle.policy_gradient(mdp, policy, method="autodiff")), exact, rtol=0, atol=1e-10)
    step = 1e-5
    for i, unit in enumerate(np.eye(flat.size)):
        slope = (oracle.objective(mdp, unflatten(flat + step * unit)) - oracle.objective(mdp, unflatten(flat - step * unit))) / (2 * step)
        assert exact[i] == pytest.approx(slope, abs=1e-6)


def test_a_long_time_limit_is_none() -> None:
    mdp = regulator(time_limit=None)
    policy, long = linear_policy(mdp), regulator(time_limit=600)
    assert oracle.objective(mdp, policy) == pytest.approx(oracle.objective(long, policy), abs=1e-10)
    difference = oracle.flatten(oracle.policy_gradient(mdp, policy)) - oracle.flatten(oracle.policy_gradient(long, policy))
    assert np.abs(difference).max() < 1e-9


def test_the_stationary_gain_of_riccati_has_no_gradient() -> None:
    """At K = −(R + γ BᵀPB)⁻¹ γ BᵀPA, P by value iteration, ∇_K J and ∇_c J are 0 whatever the noise."""
    mdp = regulator(time_limit=None)
    P = np.zeros((2, 2))
    for _ in range(2000):
        gain = -np.linalg.solve(mdp.R + mdp.discount * mdp.B.T @ P @ mdp.B, mdp.discount * mdp.B.T @ P @ mdp.A)
        closed = mdp.A + mdp.B @ gain
        P = mdp.Q + gain.T @ mdp.R @ gain + mdp.discount * closed.T @ P @ closed
    policy = linear_policy(mdp, sigma=0.5, gain=gain, bias=[0.0, 0.0])
    assert np.abs(oracle.flatten(oracle.policy_gradient(mdp, policy))).max() < 1e-10
    assert oracle.objective(mdp, policy) > oracle.objective(mdp, linear_policy(mdp, sigma=0.5))


NUM_CHUNKS, CHUNK = 100, 2_000


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_the_estimator_that_trains_estimates_it(gamma: float) -> None:
    """200,000 episodes by the product's collector and REINFORCE: every coordinate within 5 standard errors.

    REINFORCE leaves out γ^t, so at γ = 0.9 it estimates the gradient with undiscounted visits, and not ∇J.
    """
    mdp = regulator(discount=gamma)
    policy = linear_policy(mdp)
    algorithm = algorithms.reinforce(baseline="none", discount=gamma, max_grad_norm=None)
    agent = algorithm.init(jax.random.key(0), Spec(mdp.observation_space, mdp.action_space, CHUNK, mdp.time_limit))
    agent = agent._replace(params=Params(policy, ()))
    collector = compiled_collector(mdp, episodes(CHUNK), CHUNK)

    @jax.jit
    def chunks(key: Any) -> Any:
        def one(key: Any) -> Any:
            _, rollout, _ = collector.collect(policy, key, collector.init(key))
            return jax.flatten_util.ravel_pytree(algorithm.gradient(agent, rollout)[0].policy)[0]

        return jax.lax.map(one, jax.random.split(key, NUM_CHUNKS))

    sample = np.asarray(chunks(jax.random.key(7)))
    mean, error = sample.mean(axis=0), sample.std(axis=0, ddof=1) / np.sqrt(NUM_CHUNKS)
    exact = oracle.flatten(oracle.policy_gradient(mdp, policy, discount_visits=False))
    assert (np.abs(mean - exact) < 5 * error).all(), (mean - exact) / error
    if gamma < 1:
        discounted = oracle.flatten(oracle.policy_gradient(mdp, policy))
        assert (np.abs(mean - discounted) > 5 * error).any()


def test_inside_jit_in_float32() -> None:
    mdp = regulator()
    exact = oracle.flatten(oracle.policy_gradient(mdp, linear_policy(mdp)))
    with jax.enable_x64(False):
        policy = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), linear_policy(mdp))
        live = jax.jit(lambda policy: oracle.flatten(oracle.policy_gradient(mdp, policy)))(policy)
        assert live.dtype == jnp.float32
        np.testing.assert_allclose(live, exact, rtol=1e-4, atol=1e-4)


def test_what_has_no_exact_answer_is_refused_in_one_line() -> None:
    mdp, endless = regulator(), regulator(time_limit=None)
    spec = Spec(mdp.observation_space, mdp.action_space, num_envs=1)
    with pytest.raises(UsageError, match=r"features Network and head LinearGaussian; .* whose mean is linear"):
        oracle.objective(mdp, policies.mlp((3,))(jax.random.key(0), spec))
    with pytest.raises(SpaceError, match="other observations than LQR"):
        oracle.objective(mdp, policies.tabular_softmax(jnp.zeros((2, 2))))
    with pytest.raises(UsageError, match=r"spectral radius 2\.383, so J is −∞; it must be below 1: choose a stabilising gain"):
        oracle.objective(endless, linear_policy(endless, gain=[[2.0, 0.0], [0.0, 0.0]]))
    assert np.isfinite(oracle.objective(mdp, linear_policy(mdp, gain=[[2.0, 0.0], [0.0, 0.0]])))
    with pytest.raises(UsageError, match="got discount 1 without a time limit"):
        oracle.objective(regulator(time_limit=None, discount=1.0), linear_policy(mdp))
    with pytest.raises(UsageError, match="discount_visits: got False for an LQR without time limit"):
        oracle.policy_gradient(endless, linear_policy(endless), discount_visits=False)
    with pytest.raises(UsageError, match="form: got 'occupancy' for an LQR"):
        oracle.objective(mdp, linear_policy(mdp), form="occupancy")
    with pytest.raises(UsageError, match="mdp: got LQR; exact answers need a FiniteMDP"):
        oracle.values(mdp, linear_policy(mdp))
