"""Ψ, what multiplies ∇ log π(a_t|o_t): one function, one equation.

    total_return     Σ_k γ^k r_k − V(o_t)            the return of the whole episode
    reward_to_go     Σ_{k≥t} γ^{k−t} r_k − V(o_t)    the return from here on
    td               r_t + γ V(o_{t+1}) − V(o_t)     one step, then the critic
    n_step           n steps, then the critic
    gae              the mixture of all n, weighted by λ
    vtrace           the same with clipped importance ratios
    lambda_returns   what `gae` tells a critic to say

The first two are unbiased as far as nothing is bootstrapped, the others as far as the critic is right.

Every function here has one signature,

    (rewards, values, next_values, terminated, truncated, *, discount, …, ratios=None) -> (Ψ, targets)

with every array `[T, B]`, time first. `values` is V(o_t), `next_values` is V of the *true* next observation (before any
reset); both are 0 without a critic. V(o_t) is subtracted by all, and `targets` is what a critic should have said
(`lambda_returns` gives them alone). The result has the dtype of its inputs.

The ends of an episode mean two different things, and every function treats them so:

    terminated_t    nothing follows: the bootstrap is cut, V(o_{t+1}) counts as 0
    truncated_t     somebody stopped watching: V(o_{t+1}) bootstraps, but nothing leaks in from the next episode
    t = T − 1       the rollout stops, the episode does not: V(o_{t+1}) bootstraps

Without `ratios` the data is taken to be the policy's own. With ρ_t = π(a_t|o_t) / b(a_t|o_t) of a behaviour policy b,
whatever Ψ_t takes from step t + 1 on is multiplied by ρ_{t+1}, what that takes from step t + 2 on by ρ_{t+2}, and so on (per
decision: a reward is weighted by the actions that led to it and by none after it). ρ_t itself belongs to the score and is
left to its weight w_t. So Ψ_t has the expectation that it would have on data of π,

    E_b[Ψ_t | o_t, a_t] = E_π[Ψ_t | o_t, a_t]    and    E_b[Σ_t (Π_{k≤t} ρ_k) ∇ log π(a_t|o_t) Ψ_t] = E_π[Σ_t ∇ log π(a_t|o_t) Ψ_t],

while a target is asked for before the action is known and takes ρ_t in: V(o_t) + ρ_t Ψ_t. This holds for `reward_to_go`,
`td`, `n_step`, `gae`, `lambda_returns`, and for `vtrace` while no ratio exceeds a clip; `total_return`, which looks back, refuses
ratios.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from policygrad.errors import UsageError
from policygrad.types import Array


def discounted_sum(terms: Array, decay: Array, initial: Array) -> Array:
    """x_t = terms_t + decay_t · x_{t+1} with x_T = `initial`: the recursion that all of the below share.

    Args:
        terms: [T, B]; decay: [T, B]; initial: [B].

    Returns:
        x, [T, B].
    """

    def back(after: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
        term, weight = now
        value = term + weight * after
        return value, value

    _, sums = jax.lax.scan(back, initial, (terms, decay), reverse=True, unroll=8)
    return sums


def _goes_on(terminated: Array, truncated: Array) -> Array:
    """Whether the next row is the next step of the same episode, [T, B]."""
    last = jnp.zeros_like(terminated).at[-1].set(True)
    return ~(terminated | truncated | last)


def _following(x: Array) -> Array:
    """x_{t+1}; in the last row, which no one reads, x_t."""
    return jnp.concatenate([x[1:], x[-1:]])


def _decay(rate: Array | float, goes_on: Array, ratios: Array | None, dtype: Any) -> Array:
    """rate · ρ_{t+1} within an episode, 0 at its end, whatever ρ the next episode begins with."""
    if ratios is None:
        return rate * goes_on.astype(dtype)
    return jnp.where(goes_on, rate * _following(ratios), 0)


def _one_step(rewards: Array, next_values: Array, terminated: Array, discount: Array | float) -> Array:
    """r_t + γ V(o_{t+1}), and r_t alone at a termination."""
    return rewards + discount * jnp.where(terminated, 0, next_values)


def _targets(advantages: Array, values: Array, ratios: Array | None) -> Array:
    """V(o_t) + ρ_t Ψ_t: the action was chosen by b, and a critic speaks before it is."""
    return values + (advantages if ratios is None else ratios * advantages)


def _returns(
    rewards: Array, next_values: Array, terminated: Array, truncated: Array, discount: Array | float, ratios: Array | None = None
) -> Array:
    """G_t = r_t + γ ρ_{t+1} G_{t+1}, with V(o_{t+1}) for the rest at a truncation and at the end of the rollout, 0 at a termination."""
    goes_on = _goes_on(terminated, truncated)
    terms = jnp.where(goes_on, rewards, _one_step(rewards, next_values, terminated, discount))
    return discounted_sum(terms, _decay(discount, goes_on, ratios, terms.dtype), jnp.zeros_like(terms[0]))


def _number(name: str, value: Any, holds: Callable[[Any], Any], wanted: str, like: Array) -> Any:
    """The argument in the dtype of the data; refused, before anything is compiled, where it is out of range. Traced values pass."""
    if not isinstance(value, Tracer):
        numbers = np.asarray(value)
        if numbers.dtype.kind not in "iuf" or not np.all(holds(numbers)):
            raise UsageError(f"{name}: got {value!r}; it must be {wanted}")
    # Python's own numbers take the dtype of what they meet; all others would impose theirs.
    return value if type(value) in (int, float) else jnp.asarray(value, jnp.result_type(like))


def _share(name: str, value: Any, like: Array) -> Any:
    return _number(name, value, lambda x: (x >= 0) & (x <= 1), "a number in [0, 1]", like)


def _clip(name: str, value: Any, like: Array) -> Any:
    return _number(name, value, lambda x: x > 0, "a number above 0 (infinity: no clip)", like)


def _whole(name: str, value: Any) -> Any:
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(value >= 1)
    if not whole and not isinstance(value, Tracer):
        raise UsageError(f"{name}: got {value!r}; it must be a whole number of at least 1")
    return value


def _like(ratios: Array | None, rewards: Array) -> Any:
    """The ratios in the dtype of the data; refused where they are not one a step."""
    if ratios is None:
        return None
    if jnp.shape(ratios) != jnp.shape(rewards):
        raise UsageError(f"ratios: got shape {jnp.shape(ratios)}; it must be that of the rewards, {jnp.shape(rewards)}")
    return jnp.asarray(ratios, jnp.result_type(rewards))


def reward_to_go(
    rewards: Array,
    values: Array,
    next_values: Array,
    terminated: Array,
    truncated: Array,
    *,
    discount: float | Array,
    ratios: Array | None = None,
) -> tuple[Array, Array]:
    """The return from here on, minus the baseline (causality: an action cannot change rewards before it).

        G_t = Σ_{k ≥ t} γ^{k−t} r_k        Ψ_t = G_t − V(o_t)

    The sum ends with the episode. Where a critic is given, a truncation and the end of the rollout add γ^{n} V of the
    observation that follows; without one (values 0) nothing is bootstrapped.

    Args:
        discount: γ in [0, 1].
        ratios: ρ [T, B]; G_t = r_t + γ ρ_{t+1} G_{t+1} with them.

    Returns:
        (Ψ, G), each [T, B]; the targets are V + ρ Ψ with ratios.

    Raises:
        UsageError: for a γ out of range, or ratios that are not one a step.

    Reference:
        Williams 1992, "Simple statistical gradient-following algorithms"; Sutton and Barto 2018, section 13.3; with ratios
        Precup, Sutton and Singh 2000, "Eligibility traces for off-policy policy evaluation", the per-decision estimator.

    >>> import jax.numpy as jnp
    >>> column = lambda *x: jnp.array(x)[:, None]
    >>> no = column(False, False, False)
    >>> zero = column(0.0, 0.0, 0.0)
    >>> psi, _ = reward_to_go(column(1.0, 1.0, 1.0), zero, zero, column(False, False, True), no, discount=0.5)
    >>> psi[:, 0].tolist()
    [1.75, 1.5, 1.0]
    """
    discount, ratios = _share("discount", discount, rewards), _like(ratios, rewards)
    returns = _returns(rewards, next_values, terminated, truncated, discount, ratios)
    advantages = returns - values
    return advantages, returns if ratios is None else _targets(advantages, values, ratios)


def total_return(
    rewards: Array,
    values: Array,
    next_values: Array,
    terminated: Array,
    truncated: Array,
    *,
    discount: float | Array,
    ratios: Array | None = None,
) -> tuple[Array, Array]:
    """The return of the whole episode, the same for each of its steps, minus the baseline.

        R(τ) = Σ_{k ≥ 0} γ^k r_k        Ψ_t = R(τ) − V(o_t)

    The plainest estimator, and the noisiest: it credits an action with rewards that came before it. It needs whole
    episodes (`episodes(N)`): an episode that began before the rollout is counted from the rollout's first row.

    Args:
        discount: γ in [0, 1]; ratios: None.

    Returns:
        (Ψ, G): Ψ from the total, the critic's targets from the reward-to-go G_t, each [T, B].

    Raises:
        UsageError: for ratios: Ψ_t holds rewards from before t, which no ratio of a later step can correct (`reward_to_go` has none);
            or for a γ out of range.

    Reference:
        Williams 1992, "Simple statistical gradient-following algorithms", the episodic REINFORCE.
    """
    if ratios is not None:
        raise UsageError("total return: got importance ratios, which cannot correct rewards of the past; use reward_to_go")
    discount = _share("discount", discount, rewards)
    returns = _returns(rewards, next_values, terminated, truncated, discount)
    ended: Array = terminated | truncated
    starts = jnp.concatenate([jnp.ones_like(ended[:1]), ended[:-1]])

    def forward(before: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
        start, here = now
        total = jnp.where(start, here, before)
        return total, total

    _, totals = jax.lax.scan(forward, returns[0], (starts, returns), unroll=8)
    return totals - values, returns


def td(
    rewards: Array,
    values: Array,
    next_values: Array,
    terminated: Array,
    truncated: Array,
    *,
    discount: float | Array,
    ratios: Array | None = None,
) -> tuple[Array, Array]:
    """The one-step temporal-difference error.

        δ_t = r_t + γ V(o_{t+1}) − V(o_t)        V(o_{t+1}) = 0 if the task terminated

    Low variance; biased as far as V is wrong.

    Args:
        discount: γ in [0, 1].
        ratios: ρ [T, B]; δ takes nothing from a later action and needs none, its target does.

    Returns:
        (δ, r_t + γ V(o_{t+1})), each [T, B]; the targets are V + ρ δ with ratios.

    Raises:
        UsageError: for a γ out of range, or ratios that are not one a step.

    Reference:
        Sutton and Barto 2018, section 13.5.
    """
    discount, ratios = _share("discount", discount, rewards), _like(ratios, rewards)
    targets = _one_step(rewards, next_values, terminated, discount)
    errors = targets - values
    return errors, targets if ratios is None else _targets(errors, values, ratios)


def n_step(
    rewards: Array,
    values: Array,
    next_values: Array,
    terminated: Array,
    truncated: Array,
    *,
    discount: float | Array,
    n: int | Array,
    ratios: Array | None = None,
) -> tuple[Array, Array]:
    """The rewards of n steps, then the critic.

        Ψ_t = Σ_{k<n} γ^k r_{t+k} + γ^n V(o_{t+n}) − V(o_t)

    A truncation or the end of the rollout within the n steps bootstraps there, from fewer; a termination ends the sum.
    n = 1 is `td`, n ≥ T is `reward_to_go` with a critic: bias falls and variance grows with n.

    Args:
        discount: γ in [0, 1].
        n: a whole number of at least 1. Costs n passes over [T, B], at most T.
        ratios: ρ [T, B]; G_t^(n) = r_t + γ ρ_{t+1} G_{t+1}^(n−1) with them.

    Returns:
        (Ψ, Ψ + V), each [T, B]; the targets are V + ρ Ψ with ratios.

    Raises:
        UsageError: for a γ or an n out of range, or ratios that are not one a step.

    Reference:
        Sutton and Barto 2018, sections 7.1 and 7.3. Others, A2C among them, call n-step what bootstraps only at the end of a
        rollout of n steps, so that its first step looks n ahead and its last one: that is `reward_to_go`, or `gae` with λ = 1.

    >>> import jax.numpy as jnp
    >>> column = lambda *x: jnp.array(x)[:, None]
    >>> no = column(False, False, False)
    >>> psi, _ = n_step(column(1.0, 1.0, 1.0), column(8.0, 8.0, 8.0), column(8.0, 8.0, 8.0), no, no, discount=0.5, n=2)
    >>> psi[:, 0].tolist()
    [-4.5, -4.5, -3.0]
    """
    discount, ratios = _share("discount", discount, rewards), _like(ratios, rewards)
    goes_on = _goes_on(terminated, truncated)
    first = _one_step(rewards, next_values, terminated, discount)
    decay = _decay(discount, goes_on, ratios, first.dtype)

    def one_more(_: Any, shorter: Array) -> Array:
        return jnp.where(goes_on, rewards + decay * _following(shorter), first)

    rows = rewards.shape[0]
    count = jnp.minimum(n, rows) if isinstance(_whole("n", n), Tracer) else min(int(n), rows)
    returns = jax.lax.fori_loop(1, count, one_more, first)
    advantages = returns - values
    return advantages, returns if ratios is None else _targets(advantages, values, ratios)


def gae(
    rewards: Array,
    values: Array,
    next_values: Array,
    terminated: Array,
    truncated: Array,
    *,
    discount: float | Array,
    trace: float | Array,
    ratios: Array | None = None,
) -> tuple[Array, Array]:
    """Generalised advantage estimation: an exponential mixture of all n-step estimates.

        Â_t = Σ_{l ≥ 0} (γλ)^l δ_{t+l}        δ_t = r_t + γ V(o_{t+1}) − V(o_t)

    The sum stops at either end of an episode; δ bootstraps everywhere but at a termination. λ = 0 is `td`, λ = 1 is
    `reward_to_go`.

    Args:
        discount: γ in [0, 1]; trace: λ in [0, 1].
        ratios: ρ [T, B]; Â_t = δ_t + γλ ρ_{t+1} Â_{t+1} with them.

    Returns:
        (Â, Â + V), each [T, B]: the second are λ-returns; the targets are V + ρ Â with ratios.

    Raises:
        UsageError: for a γ or λ out of range, or ratios that are not one a step.

    Reference:
        Schulman et al. 2016, "High-dimensional continuous control using generalized advantage estimation", eq. 16.
    """
    discount, trace, ratios = _share("discount", discount, rewards), _share("trace", trace, rewards), _like(ratios, rewards)
    errors = _one_step(rewards, next_values, terminated, discount) - values
    decay = _decay(discount * trace, _goes_on(terminated, truncated), ratios, errors.dtype)
    advantages = discounted_sum(errors, decay, jnp.zeros_like(errors[0]))
    return advantages, _targets(advantages, values, ratios)


def lambda_returns(
    rewards: Array,
    values: Array,
    next_values: Array,
    terminated: Array,
    truncated: Array,
    *,
    discount: float | Array,
    trace: float | Array,
    ratios: Array | None = None,
) -> Array:
    """What a critic should have said: a mixture of all n-step returns.

        G_t^λ = (1 − λ) Σ_{n ≥ 1} λ^{n−1} G_t^(n) = V(o_t) + Â_t

    The targets of `gae`, alone.

    Args:
        discount: γ in [0, 1]; trace: λ in [0, 1].
        ratios: ρ [T, B]; V(o_t) + ρ_t Â_t with them.

    Returns:
        G^λ, [T, B].

    Raises:
        UsageError: for a γ or λ out of range, or ratios that are not one a step.

    Reference:
        Sutton and Barto 2018, section 12.1; with ratios section 12.9.
    """
    return gae(rewards, values, next_values, terminated, truncated, discount=discount, trace=trace, ratios=ratios)[1]


def vtrace(
    rewards: Array,
    values: Array,
    next_values: Array,
    terminated: Array,
    truncated: Array,
    *,
    discount: float | Array,
    rho_clip: float | Array = 1.0,
    c_clip: float | Array = 1.0,
    trace: float | Array = 1.0,
    ratios: Array | None = None,
) -> tuple[Array, Array]:
    """Actor-critic from another policy's data: importance ratios, clipped so that their product stays small.

        v_t = V(o_t) + ρ̄_t δ_t + γ λ c̄_t (v_{t+1} − V(o_{t+1}))        ρ̄_t = min(ρ̂, ρ_t),  c̄_t = min(ĉ, ρ_t)
        Ψ_t = r_t + γ v_{t+1} − V(o_t)                                δ_t = r_t + γ V(o_{t+1}) − V(o_t)

    v_{t+1} is V(o_{t+1}) at a truncation and at the end of the rollout, 0 at a termination. ĉ only changes how fast a critic
    learns; ρ̂ changes what it learns: V of the policy ∝ min(ρ̂ b(a|o), π(a|o)), between b and π. Where no ratio exceeds a clip
    (infinity: no clip) the targets are `lambda_returns` with ratios, and with λ = 1 Ψ is that of `gae`.

    Args:
        discount: γ in [0, 1].
        rho_clip: ρ̂ > 0; c_clip: ĉ > 0; trace: λ in [0, 1].
        ratios: ρ [T, B]; None counts as 1.

    Returns:
        (Ψ, v), each [T, B]. The paper's actor multiplies Ψ_t by ρ̄_t: that is the weight w_t, not in here.

    Raises:
        UsageError: for a γ, λ or clip out of range, or ratios that are not one a step.

    Reference:
        Espeholt et al. 2018, "IMPALA: scalable distributed deep-RL with importance weighted actor-learner architectures", eq. 1,
        remark 2 (λ) and section 4.2 (Ψ). Others return ρ̄_t Ψ_t, and mix λ in once more, with λ v_{t+1} + (1 − λ) V(o_{t+1}) in Ψ_t.
    """
    discount, trace = _share("discount", discount, rewards), _share("trace", trace, rewards)
    rho_clip, c_clip = _clip("rho_clip", rho_clip, rewards), _clip("c_clip", c_clip, rewards)
    rho = _like(jnp.ones_like(rewards) if ratios is None else ratios, rewards)
    goes_on = _goes_on(terminated, truncated)
    errors = _one_step(rewards, next_values, terminated, discount) - values
    decay = jnp.where(goes_on, discount * trace * jnp.minimum(c_clip, rho), 0)
    corrections = discounted_sum(jnp.minimum(rho_clip, rho) * errors, decay, jnp.zeros_like(errors[0]))  # v_t − V(o_t)
    advantages = errors + discount * jnp.where(goes_on, _following(corrections), 0)
    return advantages, values + corrections
