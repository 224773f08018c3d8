"""w_t, whose data it is: importance weights. On-policy data needs none.

Data of a behaviour policy b speaks for π once it is weighed with ρ_t = π(a_t|o_t) / b(a_t|o_t): what the environment does is the
same under both and cancels. b must give every action that π may take a positive probability.

    weight          w_t             ratios      E_b[Σ_t w_t ∇ log π(a_t|o_t) Ψ_t] is what π's own data would give …
    on_policy       1               none        where b = π
    per_step        ρ_t             none        at π = b; the bias grows with the distance between them
    per_decision    Π_{k≤t} ρ_k     ρ           with any Ψ that takes ratios and looks ahead
    trajectory      Π_k ρ_k         none        with any Ψ of the episode, `total_return` included
    vtrace          min(ρ̄, ρ_t)     ρ           likewise, and it is cut at ρ̄

`ratios` are for the advantage, which then weighs what it takes from later steps. Weights of a product have a variance that grows
exponentially with the number of steps; `truncated` and `self_normalised` trade some of it for bias.

All of it happens to logarithms, which are summed over an episode and exponentiated once. A weight is at most e^40 ≈ 2e17, so
that neither it nor its square overflows; on data that b really made, one is as large with probability e^−40 at most. An action
that π never takes weighs 0. A ratio that is NaN, or infinite (an action that b cannot have taken), becomes a NaN weight, so that
the update says that it is not finite, rather than learn from it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from policygrad.errors import UsageError
from policygrad.types import Array, Importance, Rollout

LARGEST = 40.0
"""Of a logarithm of a weight: float32 holds e^88."""

Weight = Callable[[Array, Rollout], Importance]
"""(log π − log b [T, B], 0 at rows that are no steps; rollout) -> Importance."""


class Logarithms(NamedTuple):
    """An `Importance` in logarithms."""

    weights: Array  # [T, B]
    ratios: Array | None = None  # [T, B]


@dataclass(frozen=True)
class LogWeight:
    """A `Weight` made of its logarithms, which `truncated` and `self_normalised` work on. A decorator, for weights of your own.

    Args:
        logarithms: (log_ratios, rollout) -> Logarithms; the log-ratios that it gets are below +∞, or NaN.
        self_normalised: whether the weights of a row have mean 1 over its columns.
    """

    logarithms: Callable[[Array, Rollout], Logarithms]
    self_normalised: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "__doc__", self.logarithms.__doc__)

    def __call__(self, log_ratios: Array, rollout: Rollout) -> Importance:
        log_ratios = jnp.where(log_ratios < jnp.inf, log_ratios, jnp.nan)
        weights, ratios = self.logarithms(log_ratios, rollout)
        return Importance(_raised(weights), None if ratios is None else _raised(ratios))


def on_policy(log_ratios: Array, rollout: Rollout) -> Importance:
    """w = 1: the policy that learns is the one that acted.

    Args:
        log_ratios: log π_θ(a_t|o_t) − log of the probability with which a_t was taken, [T, B]; not read.

    Returns:
        ones, [T, B], and no ratios.
    """
    return Importance(jnp.ones_like(rollout.mask))


@LogWeight
def per_step(log_ratios: Array, rollout: Rollout) -> Logarithms:
    """The ratio of the step alone: the first-order approximation.

        w_t = ρ_t        E_b[Σ_t ρ_t ∇ log π(a_t|o_t) Ψ_t] = Σ_t Σ_s P_b(s_t = s) Σ_a ∇π(a|s) E_b[Ψ_t | s, a]

    States come as b visits them and returns as b earns them. Its bias grows with the distance between the policies; at π = b it
    vanishes, and the weight's variance does not grow with the horizon. Goes with every advantage.

    Reference:
        Kakade and Langford 2002, "Approximately optimal approximate reinforcement learning": the gradient of the surrogate
        Σ_s P_b(s) Σ_a π(a|s) A_b(s, a), which trust regions climb.
    """
    return Logarithms(log_ratios)


@LogWeight
def per_decision(log_ratios: Array, rollout: Rollout) -> Logarithms:
    """The product of the episode's ratios up to the step.

        w_t = Π_{k≤t} ρ_k        E_b[Σ_t w_t ∇ log π(a_t|o_t) Ψ_t] = E_π[Σ_t ∇ log π(a_t|o_t) Ψ_t]

    Unbiased where Ψ looks ahead and is corrected for later steps with the ratios: `reward_to_go`, `n_step`, `td`, `gae`, but not
    `total_return`, which refuses them. A reward r_k is then weighed by the actions up to k and by none after it.

    The product starts anew where `rollout.time` is 0. An episode that began before the rollout has a product that begins with
    the rollout's first row: its state there is taken as b left it. So is the number of episodes that `steps(T)` finds room for.

    Reference:
        Precup, Sutton and Singh 2000, "Eligibility traces for off-policy policy evaluation".
    """
    return Logarithms(_sum_so_far(log_ratios, rollout), log_ratios)


@LogWeight
def trajectory(log_ratios: Array, rollout: Rollout) -> Logarithms:
    """The product of all of the episode's ratios, the same for each of its steps.

        w_t = Π_k ρ_k = P_π(τ)/P_b(τ)        E_b[w f(τ)] = E_π[f(τ)]

    Unbiased with any Ψ that is a function of the episode, which it leaves uncorrected: Monte Carlo, `total_return` included. The
    plainest weight and the one whose variance is largest: a reward is weighed by actions that came after it.

    The product is over the part of the episode that is in the rollout, so it wants whole episodes: `episodes(N)`.
    """
    sums = _sum_so_far(log_ratios, rollout)
    last = jnp.concatenate([rollout.time[1:] == 0, jnp.ones_like(rollout.time[:1], bool)])
    return Logarithms(_held(last, sums, reverse=True))


def vtrace(rho_clip: float | Array = 1.0) -> LogWeight:
    """The weight that goes with the advantage `vtrace`: the ratio of the step, clipped.

        w_t = min(ρ̄, ρ_t)

    With ρ̄ = ∞ it is `per_step` with ratios for the advantage: returns are then those of π, only states come as b visits them
    (Degris, White and Sutton 2012, "Off-policy actor-critic").

    Args:
        rho_clip: ρ̄ > 0, for the actor the same as the advantage's.

    Raises:
        UsageError: for a clip out of range.

    Reference:
        Espeholt et al. 2018, "IMPALA: scalable distributed deep-RL with importance weighted actor-learner architectures", section 4.2.
    """
    _above_zero("rho_clip", rho_clip)

    def logarithms(log_ratios: Array, rollout: Rollout) -> Logarithms:
        """The ratio of the step, clipped."""
        return Logarithms(jnp.minimum(log_ratios, _logarithm(rho_clip, log_ratios)), log_ratios)

    return LogWeight(logarithms)


def truncated(weight: Weight, limit: float | Array) -> LogWeight:
    """Combinator: no weight above a limit.

        w_t ← min(w_t, c)        ρ_t ← min(ρ_t, c)

    Weights and ratios are cut one by one: of `per_decision` the product is cut, not its factors, and the ratios that the
    advantage gets are cut as well. Biased towards b; a bounded weight has a bounded variance. c = ∞ changes nothing.

    Args:
        weight: any of this module's but `on_policy`.
        limit: c > 0.

    Raises:
        UsageError: for a limit out of range, or weights that are 1 anyway.

    Reference:
        Ionides 2008, "Truncated importance sampling".
    """
    inner = _in_logarithms(weight, "truncated")
    _above_zero("limit", limit)

    def logarithms(log_ratios: Array, rollout: Rollout) -> Logarithms:
        """Weights with a limit."""
        weights, ratios = inner.logarithms(log_ratios, rollout)
        most = _logarithm(limit, weights)
        return Logarithms(jnp.minimum(weights, most), None if ratios is None else jnp.minimum(ratios, most))

    return LogWeight(logarithms)


def self_normalised(weight: Weight) -> LogWeight:
    """Combinator: weights divided by their mean over the columns, row by row.

        w_{t,i} ← w_{t,i} / ((1/B) Σ_j w_{t,j})

    A column whose episode is over counts with its last weight, one without a step yet with 1. So, over whole episodes,
    `trajectory` becomes ordinary weighted importance sampling, Σ_i w_i x_i / Σ_i w_i, and `per_decision` its counterpart for each
    step; ratios stay as they are. Biased, because the mean depends on what it divides, and consistent as columns are added (a
    single one weighs 1: no correction at all). The weights are at most B, and a row whose every weight is 0 stays 0.

    With `steps(T)` a row holds steps of different ages; their weights have mean 1 too, so it is consistent there as well.

    Args:
        weight: any of this module's but `on_policy`.

    Raises:
        UsageError: for weights that are 1 anyway.

    Reference:
        Thomas and Brunskill 2016, "Data-efficient off-policy policy evaluation for reinforcement learning", whose weights of a
        step these are. The weighted per-decision estimator of Precup, Sutton and Singh 2000 divides by one sum over all steps
        instead, and is not consistent.
    """
    inner = _in_logarithms(weight, "self-normalised")

    def logarithms(log_ratios: Array, rollout: Rollout) -> Logarithms:
        """Weights of mean 1 over the columns of a row."""
        weights, ratios = inner.logarithms(log_ratios, rollout)
        weights = _held(rollout.mask > 0, weights)
        mean = jax.nn.logsumexp(weights, axis=1, keepdims=True) - np.log(weights.shape[1])
        return Logarithms(weights - jnp.where(mean == -jnp.inf, 0, mean), ratios)

    return LogWeight(logarithms, self_normalised=True)


WEIGHTS: dict[str, Weight] = {"none": on_policy, "per-step": per_step, "per-decision": per_decision, "trajectory": trajectory}
"""Weights by the names that recipes and the command line take."""


def effective_sample_size(weights: Array, mask: Array) -> Array:
    """The share of a sample that its weights leave.

        ESS / n = (Σ w)² / (n Σ w²)

    Args:
        weights: w ≥ 0, [T, B]; mask: [T, B], 1 for the n steps that count.

    Returns:
        a scalar in (0, 1]: 1 for equal weights, 1/n where a single one carries everything; 0 where all weights are 0.

    Reference:
        Kong 1992, "A note on importance sampling using standardized weights".
    """
    weights = weights * mask
    # Of w / max w, whose squares neither overflow nor vanish.
    weights = weights / jnp.maximum(jnp.max(weights), jnp.finfo(weights.dtype).tiny)
    n = jnp.maximum(jnp.sum(mask), 1)
    return jnp.sum(weights) ** 2 / (n * jnp.maximum(jnp.sum(weights**2), jnp.finfo(weights.dtype).tiny))


def _raised(logarithms: Array) -> Array:
    return jnp.exp(jnp.minimum(logarithms, LARGEST))


def _sum_so_far(log_ratios: Array, rollout: Rollout) -> Array:
    """Σ_{k≤t} log ρ_k within the episode, or within the part of it that is in the rollout: [T, B]."""
    return jax.lax.scan(_add, jnp.zeros_like(log_ratios[0]), (rollout.time == 0, log_ratios), unroll=8)[1]


def _held(there: Array, values: Array, *, reverse: bool = False) -> Array:
    """Each row's value where there is one, else that of the row before it (after it, in reverse); 0 before the first."""
    return jax.lax.scan(_hold, jnp.zeros_like(values[0]), (there, values), reverse=reverse, unroll=8)[1]


# Chosen by `where`, not multiplied by 0: what an episode of weight 0 (log −∞) leaves must not become NaN in the next.


def _add(before: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
    start, value = now
    total = value + jnp.where(start, 0, before)
    return total, total


def _hold(before: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
    there, value = now
    held = jnp.where(there, value, before)
    return held, held


def _in_logarithms(weight: Any, what: str) -> LogWeight:
    if isinstance(weight, LogWeight):
        return weight
    if weight is on_policy:
        raise UsageError(f"weight: got on_policy to be {what}, whose weights are all 1; it must be per_step, per_decision or trajectory")
    raise UsageError(f"weight: got {weight!r} to be {what}; it must be a weight of gradients.weights, or one made by LogWeight")


def _above_zero(name: str, value: Any) -> None:
    """Refuses what is no number above 0, which may be infinite; traced values pass."""
    if not isinstance(value, Tracer):
        number = np.asarray(value)
        if number.dtype.kind not in "iuf" or number.ndim or not number > 0:
            raise UsageError(f"{name}: got {value!r}; it must be a number above 0 (infinity: no limit)")


def _logarithm(value: float | Array, like: Array) -> Array:
    return jnp.log(jnp.asarray(value, like.dtype))
