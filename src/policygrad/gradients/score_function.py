"""The score-function estimator, by autodiff of a pseudo-loss.

The gradient ∇J = E[Σ_t w_t Ψ_t ∇ log π(a_t|o_t)] is not the gradient of any quantity that a rollout shows, but it *is*
what autodiff returns for the pseudo-loss Σ_t w_t Ψ_t log π(a_t|o_t) with Ψ and w held constant. The value of the
pseudo-loss means nothing; only its gradient does.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from policygrad.errors import UsageError
from policygrad.types import Array, Batch, Params, PyTree


def pseudo_loss(log_prob: Array, advantages: Array, weights: Array | float = 1.0) -> Array:
    """The pseudo-loss whose gradient is the policy gradient's estimate.

        J̃ = Σ w · log π(a|o) · stop(Ψ)        ∇J̃ = Σ w Ψ ∇ log π(a|o)

    Args:
        log_prob: log π_θ(a_t|o_t), a function of θ, any shape.
        advantages: Ψ, same shape; no gradient flows through it.
        weights: same shape or scalar: mask, importance weights and normalisation; no gradient flows through it.

    Returns:
        a scalar to *ascend*.

    Raises:
        UsageError: if the shapes differ.

    >>> import jax
    >>> score = jax.grad(lambda theta: pseudo_loss(jax.nn.log_softmax(theta)[0], 2.0))
    >>> score(jax.numpy.zeros(2)).tolist()
    [1.0, -1.0]
    """
    shapes = jnp.shape(log_prob), jnp.shape(advantages), jnp.shape(weights)
    if shapes[0] != shapes[1] or shapes[2] not in ((), shapes[0]):
        # (N,) against (N, 1) would broadcast to [N, N] and still return a number.
        raise UsageError(
            f"pseudo_loss: got log_prob {shapes[0]}, advantages {shapes[1]}, weights {shapes[2]};"
            " all must have one shape (weights may be a scalar)"
        )
    return jnp.sum(jax.lax.stop_gradient(weights * advantages) * log_prob)


def policy_loss(entropy_bonus: float | Callable[[Array], Array] = 0.0) -> Callable[..., tuple[Array, dict]]:
    """The loss of the score-function estimator with an entropy bonus.

        loss = −Σ_t w_t [ log π(a_t|o_t) Ψ_t + β H(π(·|o_t)) ]

    Args:
        entropy_bonus: β ≥ 0 in nats, or a schedule of progress in [0, 1].

    Returns:
        Loss = (params, batch, progress) -> (scalar to descend, info); info holds the mean `entropy` over valid steps.
    """

    def loss(params: Params, batch: Batch, progress: Array) -> tuple[Array, dict]:
        rollout = batch.rollout
        distribution, _ = params.policy.unroll(batch.carry, rollout.obs, rollout.time == 0)
        entropy = distribution.entropy()
        bonus = entropy_bonus(progress) if callable(entropy_bonus) else entropy_bonus
        objective = pseudo_loss(distribution.log_prob(rollout.action), batch.advantages, batch.weights)
        objective = objective + bonus * jnp.sum(batch.weights * entropy)
        return -objective, {"entropy": jnp.sum(entropy * rollout.mask) / jnp.maximum(jnp.sum(rollout.mask), 1)}

    return loss


def score_function(entropy_bonus: float | Callable[[Array], Array] = 0.0) -> Callable[..., tuple[Params, dict]]:
    """Gradient = (params, batch, progress) -> (estimate of ∇J, info): autodiff of `policy_loss`, sign turned to ascend.

    ∇J ≈ Σ_t w_t [ ∇ log π(a_t|o_t) Ψ_t + β ∇H(π(·|o_t)) ] − Σ_i batch.control_i
    """
    return gradient_of(policy_loss(entropy_bonus))


def gradient_of(loss: Callable[[Params, Batch, Array], tuple[Array, dict]]) -> Callable[[Params, Batch, Array], tuple[Params, dict]]:
    """Gradient = (params, batch, progress) -> (estimate of ∇J, info): autodiff of a loss, sign turned to ascend.

    −∇ loss − Σ_i batch.control_i
    """

    def gradient(params: Params, batch: Batch, progress: Array) -> tuple[Params, dict]:
        def gain(params: Params) -> tuple[Array, dict]:
            descent, info = loss(params, batch, progress)
            return -descent, info

        ascent, info = jax.grad(gain, has_aux=True)(params)
        return without_control(ascent, batch.control), info

    return gradient


def without_control(gradient: Params, control: PyTree) -> Params:
    """The gradient minus a baseline's control variate, summed over columns [B], if it has one."""
    if not jax.tree.leaves(control):
        return gradient
    return gradient._replace(policy=jax.tree.map(lambda leaf, lost: leaf - jnp.sum(lost, axis=0), gradient.policy, control))
