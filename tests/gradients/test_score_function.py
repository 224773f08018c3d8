"""The pseudo-loss and the estimator made of it, against gradients written out by hand and finite differences."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policygrad.algorithms import actor_critic
from policygrad.errors import UsageError
from policygrad.gradients import policy_loss, pseudo_loss, score_function
from policygrad.policies import Gaussian, tabular_softmax
from policygrad.spaces import Discrete
from policygrad.types import Batch, Params, Rollout, Spec

pytestmark = pytest.mark.usefixtures("x64")

S, A, T, B = 3, 4, 5, 2
rng = np.random.default_rng(0)
LOGITS = rng.normal(size=(S, A))
OBS, ACTION = rng.integers(0, S, (T, B)), rng.integers(0, A, (T, B))
PSI, WEIGHTS = rng.normal(size=(T, B)), rng.random((T, B))
PI = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
H = -(PI * np.log(PI)).sum(axis=1)


def score_sum(coefficients: np.ndarray) -> np.ndarray:
    """Σ c ∇ log π(a|s), where ∂ log π(a|s) / ∂θ_{s,b} = 1[a = b] − π(b|s)."""
    total = np.zeros((S, A))
    for c, s, a in zip(coefficients.flat, OBS.flat, ACTION.flat, strict=True):
        total[s] += c * (np.eye(A)[a] - PI[s])
    return total


def rollout_of(obs: np.ndarray, action: np.ndarray, **fields: Any) -> Rollout:
    zeros, no = np.zeros(obs.shape), np.zeros(obs.shape, bool)
    made = Rollout(obs, action, zeros, zeros, no, no, np.zeros_like(obs), zeros + 1, np.zeros(obs.shape, np.int32), (), {})
    return jax.tree.map(jnp.asarray, made._replace(**fields))


def batch_of(**fields: Any) -> Batch:
    made = Batch(rollout_of(OBS, ACTION), jnp.asarray(PSI), jnp.zeros((T, B)), jnp.asarray(WEIGHTS), None, ())
    return made._replace(**fields)


def params_of(logits: Any) -> Params:
    return Params(tabular_softmax(logits), ())


def log_prob(logits: Any) -> Any:
    return tabular_softmax(logits)(jnp.asarray(OBS)).log_prob(jnp.asarray(ACTION))


def close(got: Any, expected: Any, tolerance: float = 1e-12) -> None:
    assert np.shape(got) == np.shape(expected)
    np.testing.assert_allclose(np.asarray(got), np.asarray(expected), rtol=0, atol=tolerance)


def test_the_gradient_of_the_pseudo_loss_is_the_weighted_sum_of_scores() -> None:
    for weights, expected in (((WEIGHTS,), PSI * WEIGHTS), ((), PSI), ((0.25,), PSI / 4)):
        gradient = jax.jit(jax.grad(lambda x, weights=weights: pseudo_loss(log_prob(x), PSI, *weights)))(jnp.asarray(LOGITS))
        close(gradient, score_sum(expected))


def test_no_gradient_flows_through_advantages_or_weights() -> None:
    logs = np.log(PI)[OBS, ACTION]
    by_psi, by_weights = jax.grad(lambda p, w: pseudo_loss(logs, p, w), argnums=(0, 1))(jnp.asarray(PSI), jnp.asarray(WEIGHTS))
    close(by_psi, np.zeros((T, B)))
    close(by_weights, np.zeros((T, B)))
    # … not even where they are made of the same parameters, as a critic that shares them would be
    own = jax.jit(jax.grad(lambda x: pseudo_loss(log_prob(x), log_prob(x) * PSI, jnp.exp(log_prob(x)))))(jnp.asarray(LOGITS))
    close(own, score_sum(logs * PSI * np.exp(logs)))


@pytest.mark.parametrize("wrong", ["advantages", "weights"])
def test_shapes_that_would_broadcast_are_refused(wrong: str) -> None:
    """(N,) with (N, 1) is N × N scores, silently, in the loops of those who do not set jax_numpy_rank_promotion."""
    logs, column = jnp.zeros(3), jnp.ones((3, 1))
    with jax.numpy_rank_promotion("allow"), pytest.raises(UsageError, match=wrong) as caught:
        pseudo_loss(logs, column) if wrong == "advantages" else pseudo_loss(logs, logs, column)
    assert "(3, 1)" in str(caught.value)
    assert "(3,)" in str(caught.value)


def test_the_estimator_ascends_and_the_loss_descends() -> None:
    gradient, info = jax.jit(score_function())(params_of(LOGITS), batch_of(), jnp.zeros(()))
    close(gradient.policy.head.logits, score_sum(PSI * WEIGHTS))
    assert gradient.critic == ()
    close(info["entropy"], H[OBS].mean())
    descent = jax.jit(jax.grad(lambda p: policy_loss()(p, batch_of(), jnp.zeros(()))[0]))(params_of(LOGITS))
    close(descent.policy.head.logits, -score_sum(PSI * WEIGHTS))


def test_the_loss_has_the_gradient_that_finite_differences_see() -> None:
    loss = jax.jit(lambda logits: policy_loss(0.3)(params_of(logits), batch_of(), jnp.zeros(()))[0])
    gradient = jax.jit(score_function(0.3))(params_of(LOGITS), batch_of(), jnp.zeros(()))[0].policy.head.logits
    differences = np.zeros((S, A))
    for index in np.ndindex(S, A):
        up, down = LOGITS.copy(), LOGITS.copy()
        up[index] += 1e-5
        down[index] -= 1e-5
        differences[index] = -(loss(up) - loss(down)) / 2e-5
    close(gradient, differences, 1e-8)


@pytest.mark.parametrize("bonus", [0.3, lambda progress: 0.4 * (1 - progress)], ids=["constant", "schedule"])
def test_the_entropy_bonus_adds_the_gradient_of_the_weighted_entropy(bonus: Any) -> None:
    """β Σ w ∇H, with the entropy's gradient from finite differences of Σ w H in NumPy; a schedule is read at progress."""
    beta = bonus(0.25) if callable(bonus) else bonus
    assert abs(beta - 0.3) < 1e-12

    def weighted_entropy(logits: np.ndarray) -> float:
        pi = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        return float((WEIGHTS * -(pi * np.log(pi)).sum(axis=1)[OBS]).sum())

    expected = score_sum(PSI * WEIGHTS)
    for index in np.ndindex(S, A):
        up, down = LOGITS.copy(), LOGITS.copy()
        up[index] += 1e-5
        down[index] -= 1e-5
        expected[index] += beta * (weighted_entropy(up) - weighted_entropy(down)) / 2e-5
    got = jax.jit(score_function(bonus))(params_of(LOGITS), batch_of(), jnp.asarray(0.25))[0]
    close(got.policy.head.logits, expected, 1e-8)


def test_steps_without_weight_do_not_count() -> None:
    """Padding: the gradient is that of the valid steps, and the entropy of the record their mean."""
    mask = (np.arange(T)[:, None] < np.array([2, 4])).astype(float)
    batch = batch_of(weights=jnp.asarray(WEIGHTS * mask), rollout=rollout_of(OBS, ACTION, mask=mask))
    gradient, info = jax.jit(score_function())(params_of(LOGITS), batch, jnp.zeros(()))
    close(gradient.policy.head.logits, score_sum(PSI * WEIGHTS * mask))
    close(info["entropy"], H[OBS][mask > 0].mean())


def test_the_gaussian_score() -> None:
    """∇μ = (a − μ)/σ², ∇ log σ = ((a − μ)/σ)² − 1, weighted."""
    mean, log_std, action = rng.normal(size=(T, B, 2)), rng.normal(size=(T, B, 2)) / 2, rng.normal(size=(T, B, 2))
    score = jax.grad(lambda m, s: pseudo_loss(Gaussian(m, s, 1).log_prob(action), PSI, WEIGHTS), argnums=(0, 1))
    by_mean, by_log_std = jax.jit(score)(jnp.asarray(mean), jnp.asarray(log_std))
    c, sigma = (PSI * WEIGHTS)[..., None], np.exp(log_std)
    close(by_mean, c * (action - mean) / sigma**2, 1e-10)
    close(by_log_std, c * (((action - mean) / sigma) ** 2 - 1), 1e-10)


def test_actor_critic_weighs_the_score_with_its_td_error() -> None:
    """(1/TB) Σ mask δ ∇ log π, δ = r + γ V(o') − V(o), V(o') = 0 at a termination and not at a truncation."""
    algorithm = actor_critic(discount=0.9, rollout_length=T)
    agent = algorithm.init(jax.random.key(0), Spec(Discrete(S), Discrete(A), num_envs=B))
    V = rng.normal(size=S)
    agent = agent._replace(
        params=params_of(LOGITS), baseline=(jax.tree.map(lambda leaf: jnp.asarray(V), agent.baseline[0]), agent.baseline[1])
    )
    fields = {
        "reward": rng.normal(size=(T, B)),
        "next_obs": rng.integers(0, S, (T, B)),
        "terminated": np.array([[1, 0], [0, 0], [0, 1], [1, 0], [0, 0]], bool),
        "truncated": np.array([[0, 1], [0, 0], [0, 1], [0, 1], [0, 0]], bool),
        "mask": np.array([[1, 1], [1, 0], [1, 1], [1, 1], [0, 1]], float),
    }
    delta = fields["reward"] + 0.9 * np.where(fields["terminated"], 0, V[fields["next_obs"]]) - V[OBS]
    got = jax.jit(algorithm.gradient)(agent, rollout_of(OBS, ACTION, **fields))[0]
    close(got.policy.head.logits, score_sum(delta * fields["mask"]) / (T * B))
