"""Ψ, what multiplies ∇ log π(a_t|o_t): one function, one equation.

Every function here has one signature,

    (rewards, values, next_values, terminated, truncated, *, discount, …, ratios=None) -> (Ψ, targets)

with every array `[T, B]`, time first. `values` is V(o_t), `next_values` is V of the *true* next observation (before any
reset); both are 0 without a critic. V(o_t) is subtracted by all, and `targets` is what a critic should have said. The
result has the dtype of its inputs.

The ends of an episode mean two different things, and every function treats them so:

    terminated_t    nothing follows: the bootstrap is cut, V(o_{t+1}) counts as 0
    truncated_t     somebody stopped watching: V(o_{t+1}) bootstraps, but nothing leaks in from the next episode
    t = T − 1       the rollout stops, the episode does not: V(o_{t+1}) bootstraps

`ratios` are importance ratios of the data, for the estimators that use them; the ones here do not.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

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


def _returns(rewards: Array, next_values: Array, terminated: Array, truncated: Array, discount: Array | float) -> Array:
    """G_t = r_t + γ G_{t+1}, with V(o_{t+1}) for G_{t+1} at a truncation and at the end of the rollout, 0 at a termination."""
    last = jnp.zeros_like(terminated).at[-1].set(True)
    bootstraps = (truncated | last) & ~terminated
    goes_on = ~(terminated | truncated | last)
    terms = rewards + discount * jnp.where(bootstraps, next_values, 0)
    return discounted_sum(terms, discount * goes_on.astype(rewards.dtype), jnp.zeros_like(rewards[0]))


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

    Returns:
        (Ψ, G), each [T, B].

    Reference:
        Williams 1992, "Simple statistical gradient-following algorithms"; Sutton and Barto 2018, section 13.3.

    >>> import jax.numpy as jnp
    >>> column = lambda *x: jnp.array(x)[:, None]
    >>> no = column(False, False, False)
    >>> zero = column(0.0, 0.0, 0.0)
    >>> psi, _ = reward_to_go(column(1.0, 1.0, 1.0), zero, zero, column(False, False, True), no, discount=0.5)
    >>> psi[:, 0].tolist()
    [1.75, 1.5, 1.0]
    """
    returns = _returns(rewards, next_values, terminated, truncated, discount)
    return returns - values, returns


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

    Returns:
        (Ψ, G): Ψ from the total, the critic's targets from the reward-to-go G_t, each [T, B].

    Reference:
        Williams 1992, "Simple statistical gradient-following algorithms", the episodic REINFORCE.
    """
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

    Returns:
        (δ, r_t + γ V(o_{t+1})), each [T, B].

    Reference:
        Sutton and Barto 2018, section 13.5.
    """
    targets = rewards + discount * jnp.where(terminated, 0, next_values)
    return targets - values, targets


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

    Returns:
        (Â, Â + V), each [T, B]: the second are λ-returns.

    Reference:
        Schulman et al. 2016, "High-dimensional continuous control using generalized advantage estimation", eq. 16.
    """
    errors, _ = td(rewards, values, next_values, terminated, truncated, discount=discount)
    goes_on: Array = ~(terminated | truncated)
    advantages = discounted_sum(errors, discount * trace * goes_on.astype(rewards.dtype), jnp.zeros_like(errors[0]))
    return advantages, advantages + values
