"""Values, occupancies and the objective of a policy in a finite MDP, exactly."""

from __future__ import annotations

from functools import partial
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from policygrad.envs.finite import FiniteMDP
from policygrad.envs.lqr import LQR
from policygrad.errors import UnknownNameError, UsageError
from policygrad.oracle import lqr
from policygrad.oracle.scope import exactly
from policygrad.oracle.tables import Tables, policy_tables, prepare, require_finite, solve_values, solve_visits, unbounded
from policygrad.types import Array, PyTree

Form = Literal["returns", "state-values", "action-values", "occupancy"]
DOUBLINGS = 40
"""2⁴⁰ steps: at a discount of 1 − 1e-9 what follows them is worth exp(−1000) of a reward."""


class Values(NamedTuple):
    """What states and actions are worth under a policy; by the steps since the reset, [H, …], where there is a time limit."""

    state: Array  # V [S] or [H, S]
    action: Array  # Q [S, A] or [H, S, A]
    advantage: Array  # A = Q − V, as Q


class Occupancy(NamedTuple):
    """Where a policy spends its discounted time."""

    state: Array  # d [S], 0 at terminal states
    action: Array  # ρ [S, A], ρ(s, a) = d(s) π(a|s)


@exactly
def values(mdp: FiniteMDP, policy: PyTree) -> Values:
    """V^π, Q^π and A^π of every state and action.

        V = r_π + γ P_π V        Q(s, a) = r(s, a) + γ Σ_{s'} P(s'|s, a) V(s')        A = Q − V

    With a time limit H they depend on k, the steps since the reset, and what lies behind the limit is worth 0: V_H = 0.

    Args:
        mdp: a `FiniteMDP`; its discount is γ.
        policy: any module with policy(observations) -> a distribution that has `probabilities()`.

    Returns:
        `Values`: [S] and [S, A], or [H, S] and [H, S, A] with a time limit; 0 at terminal states. NumPy float64, or JAX in the
        policy's dtype where the policy is traced, as of every function of the oracle. At discount 1, states that are never reached
        and from which the episode would not surely end have none: NaN.

    Raises:
        SpaceError: the policy is for other spaces.
        UsageError: its distribution has no probabilities; or the sum is infinite: discount 1, no time limit, no sure end.

    Reference: Sutton and Barto 2018, eqs. 3.12 to 3.14. Time-limited values: Pardo et al. 2018, "Time limits in reinforcement learning".

    Some call V the values of the endless task also where a time limit is set: that is `values(mdp.replace(time_limit=None), policy)`.
    """
    t, pi, endless = prepare(mdp, policy, ends=unbounded(mdp))
    V, Q = solve_values(t, pi, mdp.time_limit)
    if endless.any():
        V = jnp.where(jnp.asarray(endless), jnp.nan, V)
        into = endless[:, None] | (mdp.transitions[:, :, endless].sum(axis=2) > 0)
        Q = jnp.where(jnp.asarray(into), jnp.nan, Q)
    return Values(V, Q, Q - V[..., None])


@exactly
def occupancy(mdp: FiniteMDP, policy: PyTree, *, normalised: bool = True) -> Occupancy:
    """The discounted state distribution and the occupancy of state and action.

        d(s) = (1 − γ) Σ_t γ^t P(s_t = s)        ρ(s, a) = d(s) π(a|s)

    Args:
        mdp, policy: as for `values`. With a time limit the sum has its H terms.
        normalised: with the factor 1 − γ. d then sums to 1 where episodes go on for ever, and to less where they end: what is missing
            is the weight of the time after the end. False leaves the factor out: d is the expected discounted number of visits.

    Returns:
        `Occupancy`: d [S] and ρ [S, A]; 0 at terminal states.

    Raises:
        SpaceError, UsageError: as for `values`; and for discount 1 with `normalised`, where the factor is 0.

    Reference: Puterman 1994, section 6.9; Sutton et al. 2000, "Policy gradient methods for reinforcement learning with function
    approximation", where d is not normalised.
    """
    require_finite(mdp)
    if normalised and mdp.discount == 1:
        raise UsageError("normalised: got True at discount 1, where 1 − γ is 0; it must be False: expected numbers of visits")
    t, pi, _ = prepare(mdp, policy, ends=unbounded(mdp))
    d = solve_visits(t, pi, mdp.time_limit, t.discount)
    d = d if mdp.time_limit is None else d.sum(axis=0)
    d = d * (1 - t.discount) if normalised else d
    return Occupancy(d, d[:, None] * pi)


@exactly
def objective(mdp: FiniteMDP | LQR, policy: PyTree, *, form: Form = "state-values") -> Array:
    """J(π), the expected discounted return of an episode, in four forms that are equal.

        returns         E[Σ_t γ^t r_t]                   summed forward in time, by doubling where there is no time limit
        state-values    E_{s~μ} V(s)                     a linear solve, or backwards from the time limit
        action-values   E_{s~μ, a~π} Q(s, a)             the same, one step later
        occupancy       Σ_{s,a} ρ(s, a) r(s, a)/(1 − γ)  a linear solve for ρ (at discount 1 the unnormalised ρ and no factor)

    Args:
        mdp: a `FiniteMDP`; or an `LQR`, whose J has its own form, `policygrad.oracle.lqr`.
        policy: as for `values`.
        form: which of them; for finite MDPs only.

    Returns:
        a scalar.

    Raises:
        SpaceError, UsageError: as for `values`. UnknownNameError: no such form.

    Σ ρ Q is not among them, although it is printed here and there as "occupancy–Q form": see docs/errata.md.

    >>> import numpy as np
    >>> from policygrad.policies import tabular_softmax
    >>> coin = FiniteMDP(transitions=[[[0.5, 0.5]], [[0, 0]]], rewards=[[1.0], [0.0]], initial=[1, 0], discount=0.9, terminal=[1])
    >>> round(float(objective(coin, tabular_softmax(np.zeros((2, 1))))), 6)  # 1 / (1 − 0.9 / 2)
    1.818182
    """
    if form not in get_args(Form):
        raise UnknownNameError("form of the objective", form, get_args(Form))
    if isinstance(mdp, LQR):
        if form != "state-values":
            raise UsageError(f"form: got {form!r} for an LQR; it must be left out, the forms are those of finite MDPs")
        return lqr.objective(mdp, policy)
    t, pi, _ = prepare(mdp, policy, ends=unbounded(mdp))
    return evaluate(t, pi, mdp.time_limit, form, mdp.discount == 1)


@partial(jax.jit, static_argnames=("limit", "form", "undiscounted"))
def evaluate(t: Tables, pi: Array, limit: int | None, form: Form = "state-values", undiscounted: bool = False) -> Array:
    """J of `objective`, from arrays."""
    if form == "returns":
        return _sum_of_returns(t, pi, limit)
    if form == "occupancy":
        d = solve_visits(t, pi, limit, t.discount)
        rho = (d if limit is None else d.sum(axis=0))[:, None] * pi
        factor = 1.0 if undiscounted else 1 - t.discount
        return jnp.sum(factor * rho * t.rewards) / factor
    V, Q = (value if limit is None else value[0] for value in solve_values(t, pi, limit))
    return t.initial @ (V if form == "state-values" else jnp.sum(pi * Q, axis=-1))


def _sum_of_returns(t: Tables, pi: Array, limit: int | None) -> Array:
    """Σ_t γ^t μ P_π^t r_π, term by term, or twice as many terms with each product: S_{2n} = S_n + (γ P_π)^n S_n."""
    moves, gains = policy_tables(t, pi)
    if limit is not None:

        def onwards(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
            here, total = carry
            return (t.discount * (here @ moves), total + here @ gains), None

        return jax.lax.scan(onwards, (t.initial, jnp.zeros((), pi.dtype)), None, length=limit)[0][1]

    def double(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        power, total = carry
        return (power @ power, total + power @ total), None

    return t.initial @ jax.lax.scan(double, (t.discount * moves, gains), None, length=DOUBLINGS)[0][1]


@exactly
def visits(mdp: FiniteMDP, policy: PyTree, *, rows: int, resets: bool = True) -> Array:
    """P(row t of a rollout is k steps into its episode, and in state s): what a collector sees, row by row.

        P(t, k, s) = m_{t−k} P(s_k = s)        m_0 = 1,  m_t = Σ_j e_j m_{t−j}

    m_t is the probability that an episode starts at row t, e_j that one lasts j steps.

    Args:
        mdp, policy: as for `values`; any discount, which is not looked at.
        rows: T ≥ 1; the first row starts an episode.
        resets: an episode that ends is followed by another, as `steps(T)` collects; False: by nothing, as in `episodes(N)`.

    Returns:
        [T, K, S] with K = T, or the time limit where that is shorter. With `resets` every row sums to 1.

    Raises:
        SpaceError, UsageError: as for `values`; rows below 1.
    """
    t, pi, _ = prepare(mdp, policy)
    steps = longest(mdp, rows)
    reached = solve_visits(t, pi, steps, 1.0)
    starts = episode_starts(reached, rows, resets)
    since = np.arange(rows)[:, None] - np.arange(steps)[None, :]
    started = jnp.where(jnp.asarray(since >= 0), starts[np.maximum(since, 0)], 0)
    return started[:, :, None] * reached[None]


def longest(mdp: FiniteMDP, rows: int) -> int:
    """How many steps of an episode fit into `rows` rows."""
    if isinstance(rows, bool) or not isinstance(rows, int | np.integer) or rows < 1:
        raise UsageError(f"rows: got {rows!r}; it must be a whole number of at least 1")
    return int(rows) if mdp.time_limit is None else min(int(rows), mdp.time_limit)


@partial(jax.jit, static_argnames=("rows", "resets"))
def episode_starts(reached: Array, rows: int, resets: bool) -> Array:
    """P(an episode starts at row t), [T], from where an episode is k steps after its start, [K, S]."""
    lasting = jnp.sum(reached, axis=1)
    ends = lasting - jnp.append(lasting[1:], 0)  # e_1 … e_K; the last one is right, or lies behind the last row
    ends = ends if resets else jnp.zeros_like(ends)

    def row(recent: Array, _: None) -> tuple[Array, Array]:
        new = recent @ ends
        return jnp.append(new, recent[:-1]), new

    first = jnp.zeros_like(ends).at[0].set(1)
    return jnp.append(jnp.ones(1, ends.dtype), jax.lax.scan(row, first, None, length=rows - 1)[1])
