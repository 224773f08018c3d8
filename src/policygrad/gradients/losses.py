"""Losses of the policy, and of a critic that climbs with it.

    Loss = (params, batch, progress) -> (scalar to descend, info)

    policy_loss        −Σ w log π Ψ                                     (in `score_function`)
    actor_critic_loss  the same, and the critic's squared error         A2C
    clipped_loss       −Σ w min(ρ Ψ, clip(ρ) Ψ), and the critic's       PPO
    penalty_loss       −Σ w (ρ Ψ − β KL), and the critic's              PPO with a KL penalty

Every term is a weighted *sum* over steps, so a loss over part of a batch adds up with the others. ρ = π(a|o) / π_old(a|o)
compares with the policy before the update, `batch.old`; importance weights of data that a third policy took are in w.
Infos are means over valid steps. Without a critic in `Params`, one that is fitted apart or none, the critic's term is absent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from policygrad.baselines import masked_mean
from policygrad.errors import UsageError
from policygrad.types import Array, Batch, Params

Loss = Callable[[Params, Batch, Array], tuple[Array, dict]]
Scheduled = float | Array | Callable[[Array], Array]
"""A number, or a function of progress in [0, 1]."""

MAX_LOG_RATIO = 20.0
"""log ρ is cut at ± this: exp of more overflows at last, and the gradient of the branch that `min` drops is then 0 · ∞."""


def actor_critic_loss(value_weight: float | Array = 0.5, entropy_bonus: Scheduled = 0.0) -> Loss:
    """The loss of the score function, and the squared error of a critic that climbs with the policy.

        loss = −Σ_t w_t [ log π(a_t|o_t) Ψ_t + β H(π(·|o_t)) ] + c Σ_t w_t (V(o_t) − target_t)²

    Args:
        value_weight: c ≥ 0. There is no further ½.
        entropy_bonus: β ≥ 0 in reward per nat, or a schedule of progress.

    Returns:
        A `Loss`; info: `entropy`, and `value_loss`, the mean squared error.

    Reference:
        Mnih et al. 2016, "Asynchronous methods for deep reinforcement learning".
    """

    def gain(new: Any, batch: Batch, progress: Array) -> tuple[Array, dict]:
        return new.log_prob(batch.rollout.action) * batch.advantages, {}

    return _loss(gain, value_weight, entropy_bonus)


def clipped_loss(
    clip: Scheduled = 0.2, value_weight: float | Array = 0.5, entropy_bonus: Scheduled = 0.0, value_clip: Scheduled | None = None
) -> Loss:
    """PPO's clipped surrogate: a step gains nothing from moving its ratio further than ε from 1.

        loss = −Σ_t w_t [ min(ρ_t Ψ_t, clip(ρ_t, 1 − ε, 1 + ε) Ψ_t) + β H ] + c Σ_t w_t e_t
        e_t  = (V − target)², or with value_clip v: max((V − target)², (V_old + clip(V − V_old, −v, v) − target)²)

    The minimum keeps the gradient where the ratio is on the wrong side of the clip, so that a step can always come back.

    Args:
        clip: ε > 0, or a schedule of progress.
        value_weight: c ≥ 0. There is no further ½.
        entropy_bonus: β ≥ 0 in reward per nat, or a schedule of progress.
        value_clip: v > 0 in units of return, or a schedule of progress; None does not clip. V_old is `batch.values`.

    Returns:
        A `Loss`; info: `entropy`; `kl`, the mean of KL(π_old ‖ π), not an estimate of it; `clip_fraction`, the share of steps with
        |ρ − 1| > ε, whether or not the clip binds there; `value_loss`, the mean squared error, unclipped.

    Raises:
        UsageError: for a clip that is not above 0; for value_clip where nothing bootstraps (when traced).

    Reference:
        Schulman et al. 2017, "Proximal policy optimization algorithms", eqs. 7 and 9.
    """
    for name, value in (("clip", clip), ("value_clip", value_clip)):
        _require(name, value, value is None or not isinstance(value, int | float) or value > 0, "a number above 0, or a schedule")

    def gain(new: Any, batch: Batch, progress: Array) -> tuple[Array, dict]:
        epsilon, psi, ratio = at(clip, progress), batch.advantages, _ratio(new, batch)
        kept = jnp.minimum(ratio * psi, jnp.clip(ratio, 1 - epsilon, 1 + epsilon) * psi)
        return kept, {"kl": batch.old.kl(new), "clip_fraction": (jnp.abs(ratio - 1) > epsilon).astype(ratio.dtype)}

    return _loss(gain, value_weight, entropy_bonus, value_clip)


def penalty_loss(penalty: float | Array, value_weight: float | Array = 0.5, entropy_bonus: Scheduled = 0.0) -> Loss:
    """PPO's other surrogate: the divergence from the old policy costs.

        loss = −Σ_t w_t [ ρ_t Ψ_t − β_KL KL(π_old(·|o_t) ‖ π(·|o_t)) + β H ] + c Σ_t w_t (V − target)²

    Args:
        penalty: β_KL ≥ 0 in reward per nat; `proximal_kl` adapts it.
        value_weight, entropy_bonus: as `clipped_loss`.

    Returns:
        A `Loss`; info as `clipped_loss`, without `clip_fraction`.

    Raises:
        UsageError: for a penalty below 0.

    Reference:
        Schulman et al. 2017, "Proximal policy optimization algorithms", eq. 8.
    """
    _require("penalty", penalty, not isinstance(penalty, int | float) or penalty >= 0, "a number of at least 0")

    def gain(new: Any, batch: Batch, progress: Array) -> tuple[Array, dict]:
        kl = batch.old.kl(new)
        return _ratio(new, batch) * batch.advantages - penalty * kl, {"kl": kl}

    return _loss(gain, value_weight, entropy_bonus)


def at(value: Any, progress: Array) -> Any:
    """A schedule's value at this progress; a number is what it is."""
    return value(progress) if callable(value) else value


def _ratio(new: Any, batch: Batch) -> Array:
    """ρ_t = π(a_t|o_t) / π_old(a_t|o_t), [T, B]."""
    action = batch.rollout.action
    return jnp.exp(jnp.clip(new.log_prob(action) - batch.old.log_prob(action), -MAX_LOG_RATIO, MAX_LOG_RATIO))


def _loss(
    gain: Callable[[Any, Batch, Array], tuple[Array, dict]],
    value_weight: float | Array,
    entropy_bonus: Scheduled,
    value_clip: Scheduled | None = None,
) -> Loss:
    """−Σ w [ gain + β H ] + c Σ w e. `gain`: (π, batch, progress) -> (a number a step [T, B], further infos a step)."""

    def loss(params: Params, batch: Batch, progress: Array) -> tuple[Array, dict]:
        batch = jax.lax.stop_gradient(batch)
        new, values = _heads(params, batch)
        entropy, (gains, steps) = new.entropy(), gain(new, batch, progress)
        descent = -(gains + at(entropy_bonus, progress) * entropy)
        steps = {"entropy": entropy, **steps}
        if values is not None:
            steps["value_loss"] = (values - batch.targets) ** 2
            clip = None if value_clip is None else at(value_clip, progress)
            descent = descent + value_weight * _clipped_error(values, batch, clip)
        # One mean of all that everybody reads, as a CPU pays for every operation; the divergence apart, which is left out of a program
        # that reads it elsewhere.
        kl = {name: masked_mean(x, batch.rollout.mask) for name, x in steps.items() if name == "kl"}
        others = {name: x for name, x in steps.items() if name != "kl"}
        means = jax.vmap(masked_mean, (0, None))(jnp.stack(list(others.values())), batch.rollout.mask)
        return jnp.sum(batch.weights * descent), kl | dict(zip(others, means, strict=True))

    return loss


def _heads(params: Params, batch: Batch) -> tuple[Any, Array | None]:
    """π(·|o_t), and V(o_t) of a critic that climbs with it, or None."""
    rollout = batch.rollout
    if jax.tree.leaves(params.critic):
        return params.critic.beside(params.policy, rollout, batch.carry)
    return params.policy.unroll(batch.carry, rollout.obs, rollout.time == 0)[0], None


def _clipped_error(values: Array, batch: Batch, clip: Any) -> Array:
    """(V − target)²; with a clip the larger of that and the same for V held near V_old."""
    error = (values - batch.targets) ** 2
    if clip is None:
        return error
    _require("value_clip", clip, bool(jax.tree.leaves(batch.values)), "None without a critic's old values")
    near = batch.values + jnp.clip(values - batch.values, -clip, clip)
    return jnp.maximum(error, (near - batch.targets) ** 2)


def _require(name: str, value: Any, good: bool, wanted: str) -> None:
    if not good:
        raise UsageError(f"{name}: got {value!r}; it must be {wanted}")
