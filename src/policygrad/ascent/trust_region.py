"""Steps of a given length in KL: to a radius, and back from it until the true KL and the surrogate agree."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer

from policygrad.ascent.natural import Direction, above_zero, curvature, mean_kl, require_no_critic, whole
from policygrad.ascent.optimizer import global_norm
from policygrad.ascent.schedules import Schedule, as_schedule
from policygrad.errors import UsageError
from policygrad.types import Array, Ascent, Batch, Key, Params, PyTree


def kl_radius(direction: Direction, max_kl: float | Schedule, *, step_size: float | Schedule | None = None) -> Ascent:
    """A step to the edge of a trust region, whose KL is measured to second order, or up to it. With `natural`, that is NPG.

        θ ← θ + √(2 max_kl / dᵀF d) d        so that the quadratic KL ½ ΔᵀFΔ of the step Δ is max_kl
        θ ← θ + min(step_size, √(2 max_kl / dᵀF d)) d        with a step_size: as long as d says, but never over the edge

    F is without damping here, whatever damped it on the way to d. Without a step_size only the direction of d matters, so a batch that
    says nothing moves the policy as far as one that says much. A direction of 0 is no step, and so is one in which the policy does not
    change at all (dᵀF d = 0).

    Args:
        direction: from `natural` or `steepest`.
        max_kl: > 0, in nats a step, or a schedule of progress in [0, 1].
        step_size: α > 0, or a schedule; None always goes to the edge.

    Returns:
        an `Ascent`; its info adds `kl`, the true mean KL(π_old ‖ π_new) over the batch, and `step_norm` ‖Δ‖.

    Raises:
        UsageError: for a KL or step size that is not above 0; when traced, for a critic among the parameters.

    Reference:
        Kakade 2002, "A natural policy gradient" (with a step_size); Peters and Schaal 2008, "Reinforcement learning of motor skills with
        policy gradients", section 3.3; Rajeswaran et al. 2017, "Towards generalization and simplicity in continuous control", eq. 6,
        which is the step without one.

    Others call `max_kl` what multiplies the step, or divide by the damped curvature; the KL of their step is another number.
    """
    above_zero("max_kl", max_kl)
    if step_size is not None:
        above_zero("step_size", step_size)

    def step(key: Key, params: Params, state: PyTree, batch: Batch, progress: Array, refresh: Any = None) -> tuple[Params, PyTree, dict]:
        require_no_critic(params)
        climb = direction(params, batch, progress)
        most = None if step_size is None else as_schedule(step_size)(progress)
        change = to_radius(params.policy, batch, climb.direction.policy, as_schedule(max_kl)(progress), most)
        moved = jax.tree.map(jnp.add, params.policy, change)
        info = {"kl": mean_kl(batch.old, moved, batch), "step_norm": global_norm(change)}
        return Params(moved, ()), state, climb.info | info

    return Ascent(lambda params: (), direction.gradient, step)


def backtracking(
    direction: Direction,
    max_kl: float | Schedule,
    *,
    shrink: float = 0.8,
    max_backtracks: int = 10,
    entropy_bonus: float | Schedule = 0.0,
) -> Ascent:
    """A step to the edge of a trust region, shortened until it is truly inside and better. With `natural`, that is TRPO.

        θ ← θ + shrink^j Δ        the first j = 0 … max_backtracks with  mean KL(π_old ‖ π) ≤ max_kl  and  L(π) > L(π_old)

    Δ is the step of `kl_radius`, L the `surrogate`. Where no j will do, the policy stays as it was, bit for bit. A gradient that
    is not finite becomes a policy that is not, for the update to refuse.

    Args:
        direction: from `natural` or `steepest`.
        max_kl: > 0, in nats a step, or a schedule of progress in [0, 1].
        shrink: in (0, 1).
        max_backtracks: how often the step is shortened, ≥ 0.
        entropy_bonus: β ≥ 0 in nats, or a schedule: that of the gradient, so that L is what the direction climbs.

    Returns:
        an `Ascent`; its info adds `kl`, the true mean KL of the step taken; `surrogate_improvement` L(π) − L(π_old), likewise;
        `backtracks`, how often it was shortened; `accepted`, 1 or 0, and with 0 the first two are 0; `step_norm`, ‖θ' − θ‖.

    Raises:
        UsageError: for arguments out of range; when traced, for a critic among the parameters.

    Reference:
        Schulman et al. 2015, "Trust region policy optimization", appendix C.
    """
    above_zero("max_kl", max_kl)
    above_zero("entropy_bonus", entropy_bonus, or_zero=True)
    whole("max_backtracks", max_backtracks, 0)
    if not isinstance(shrink, Tracer) and (isinstance(shrink, bool) or not isinstance(shrink, float | int) or not 0 < shrink < 1):
        raise UsageError(f"shrink: got {shrink!r}; it must be a number between 0 and 1")

    def step(key: Key, params: Params, state: PyTree, batch: Batch, progress: Array, refresh: Any = None) -> tuple[Params, PyTree, dict]:
        require_no_critic(params)
        old = params.policy
        climb = direction(params, batch, progress)
        most = jnp.asarray(as_schedule(max_kl)(progress), jnp.result_type(float))
        bonus = as_schedule(entropy_bonus)(progress)
        change = to_radius(old, batch, climb.direction.policy, most)

        def attempt(backtracks: Array) -> Attempt:
            policy = jax.tree.map(lambda leaf, delta: leaf + shrink ** backtracks.astype(leaf.dtype) * delta, old, change)
            measured = mean_kl(batch.old, policy, batch), surrogate(policy, old, batch, bonus)
            kl, improvement = (number.astype(most.dtype) for number in measured)
            return Attempt(backtracks, policy, kl, improvement, acceptable(kl, improvement, most))

        def unfinished(tried: Attempt) -> Array:
            return ~tried.accepted & (tried.backtracks < max_backtracks)

        nothing = jnp.zeros_like(most)
        untried = Attempt(jnp.full((), -1, jnp.int32), old, nothing, nothing, jnp.zeros((), bool))
        last = jax.lax.while_loop(unfinished, lambda tried: attempt(tried.backtracks + 1), untried)
        keep = last.accepted | ~jnp.isfinite(global_norm(change))
        moved = chosen(keep, last.policy, old)
        info = {
            "kl": jnp.where(last.accepted, last.kl, 0),
            "surrogate_improvement": jnp.where(last.accepted, last.improvement, 0),
            "backtracks": last.backtracks,
            "accepted": last.accepted.astype(last.kl.dtype),
            "step_norm": global_norm(jax.tree.map(jnp.subtract, moved, old)),
        }
        return Params(moved, ()), state, climb.info | info

    return Ascent(lambda params: (), direction.gradient, step)


class Attempt(NamedTuple):
    """A step that was tried."""

    backtracks: Array
    policy: PyTree
    kl: Array
    improvement: Array
    accepted: Array  # bool


def surrogate(policy: PyTree, old: PyTree, batch: Batch, entropy_bonus: float | Array = 0.0) -> Array:
    """How much better a policy looks on the batch of another, L(π) − L(π_old).

        L(π) = Σ_t w_t [ π(a_t|o_t)/π_old(a_t|o_t) Ψ_t + β H(π(·|o_t)) ] − ⟨Σ_i control_i, θ⟩

    At π_old its gradient is that of `score_function(entropy_bonus)`: the ratio is 1 there, and its gradient ∇ log π. w carries
    the importance weights of π_old against whoever acted.

    Args:
        policy: π. old: π_old, that of `batch.old`.
        entropy_bonus: β ≥ 0.

    Returns:
        a scalar; 0 at π_old, and accurate near it.
    """
    rollout = batch.rollout
    new = policy.unroll(batch.carry, rollout.obs, rollout.time == 0)[0]
    # Rows that are no steps may hold any action: their ratio may be infinite, and 0 times that is NaN.
    log_ratio = jnp.where(rollout.mask > 0, new.log_prob(rollout.action) - batch.old.log_prob(rollout.action), 0)
    gain = jnp.sum(batch.weights * (jnp.expm1(log_ratio) * batch.advantages + entropy_bonus * (new.entropy() - batch.old.entropy())))
    if jax.tree.leaves(batch.control):
        whole_control = jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), batch.control)
        gain -= optax.tree.vdot(whole_control, jax.tree.map(jnp.subtract, policy, old))
    return gain


def to_radius(policy: PyTree, batch: Batch, direction: PyTree, max_kl: float | Array, most: Array | None = None) -> PyTree:
    """√(2 max_kl / dᵀF d) d, or `most` d where that is less.

    It is computed of the direction divided by its length: the length's square must neither vanish nor overflow.
    """
    norm = global_norm(direction)
    unit = jax.tree.map(lambda leaf: leaf / jnp.where(norm == 0, 1, norm), direction)
    length = radius(curvature(policy, batch, unit), max_kl)
    if most is not None:
        length = jnp.minimum(length, most * norm)
    return jax.tree.map(lambda leaf: length.astype(leaf.dtype) * leaf, unit)


def radius(curvature: Array, max_kl: float | Array) -> Array:
    """The factor of d that makes the quadratic KL `max_kl`; 0 where the curvature dᵀF d is 0, or rounding below it."""
    positive = curvature > 0
    return jnp.where(positive, jnp.sqrt(2 * max_kl / jnp.where(positive, curvature, 1)), 0)


def acceptable(kl: Array, improvement: Array, max_kl: float | Array) -> Array:
    """Whether a step is inside the trust region and better; NaN is neither."""
    return (kl <= max_kl) & (improvement > 0)


def chosen(keep: Array, new: PyTree, old: PyTree) -> PyTree:
    """The new policy or, bit for bit, the old one."""
    return jax.tree.map(lambda a, b: jnp.where(keep, a, b), new, old)
