"""∇J, the Fisher matrix and the natural gradient, exactly; and what fixed-length rollouts estimate in place of ∇J."""

from __future__ import annotations

from functools import partial
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from policygrad.envs.finite import FiniteMDP
from policygrad.envs.lqr import LQR
from policygrad.errors import UnknownNameError, UsageError
from policygrad.oracle import lqr
from policygrad.oracle.finite import episode_starts, evaluate, longest
from policygrad.oracle.scope import exactly, float64, traced
from policygrad.oracle.tables import Tables, apply, prepare, pull_back, require_finite, solve_values, solve_visits, unbounded
from policygrad.types import Array, PyTree

Method = Literal["theorem", "autodiff"]
RolloutValues = Literal["continuing", "time-limited"]


def flatten(tree: PyTree) -> Array:
    """The leaves of a policy or gradient as one vector [P], in the order of the Fisher matrix (`jax.flatten_util.ravel_pytree`)."""
    if traced(tree):
        return ravel_pytree(tree)[0]
    with float64():
        return np.asarray(ravel_pytree(tree)[0])


@exactly
def policy_gradient(mdp: FiniteMDP | LQR, policy: PyTree, *, discount_visits: bool = True, method: Method = "theorem") -> PyTree:
    """∇J by the policy gradient theorem.

        ∇J = Σ_t γ^t Σ_s P(s_t = s) Σ_a ∇π(a|s) Q_t(s, a)        without time limit: Σ_s d(s)/(1 − γ) Σ_a ∇π(a|s) Q(s, a)

    Where observations alias, π(a|s) is π(a|o(s)), and the sum still runs over states.

    Args:
        mdp, policy: as for `objective`.
        discount_visits: False leaves out γ^t (not the γ inside Q), which is what most implementations estimate. It is then the
            gradient of no function at all (Nota and Thomas 2020), and needs a time limit or a sure end.
        method: "theorem", or "autodiff": the derivative of `objective` through its linear solve. Equal up to rounding.

    Returns:
        shaped like the policy. Itself differentiable: its Jacobian is the Hessian of J.

    Raises:
        SpaceError, UsageError: as for `values`; `discount_visits=False` with "autodiff", since there is nothing to differentiate.
        UnknownNameError: no such method.

    Reference: Sutton et al. 2000, "Policy gradient methods for reinforcement learning with function approximation", theorem 1; Nota
    and Thomas 2020, "Is the policy gradient a gradient?".

    Others write E_{s~d, a~π}[∇ log π Q] with the normalised d: that is (1 − γ) ∇J.
    """
    if method not in get_args(Method):
        raise UnknownNameError("method of the gradient", method, get_args(Method))
    if method == "autodiff" and not discount_visits:
        raise UsageError("discount_visits: got False with method 'autodiff'; it must be True, or the method 'theorem':"
                         " without γ^t it is the gradient of no objective")  # fmt: skip
    if isinstance(mdp, LQR):
        return lqr.policy_gradient(mdp, policy, discount_visits=discount_visits, method=method)
    t, pi, _ = prepare(mdp, policy, ends=unbounded(mdp, undiscounted=not discount_visits))
    if method == "autodiff":
        return _differentiated(policy, mdp.observations, t, mdp.time_limit)
    return pull_back(policy, mdp.observations, _theorem(t, pi, mdp.time_limit, t.discount if discount_visits else 1.0))


@partial(jax.jit, static_argnames="limit")
def _theorem(t: Tables, pi: Array, limit: int | None, visit_discount: Array | float) -> Array:
    """What multiplies ∇π(a|s), [S, A]: visits × Q, summed over time."""
    d = solve_visits(t, pi, limit, visit_discount)
    Q = solve_values(t, pi, limit)[1]
    return d[:, None] * Q if limit is None else jnp.einsum("hs,hsa->sa", d, Q)


@partial(jax.jit, static_argnames="limit")
def _differentiated(policy: PyTree, observations: Array, t: Tables, limit: int | None) -> PyTree:
    return jax.grad(lambda policy: evaluate(t, apply(policy, observations), limit))(policy)


@exactly
def rollout_gradient(
    mdp: FiniteMDP, policy: PyTree, *, rows: int, discount_visits: bool = False, values: RolloutValues = "continuing"
) -> PyTree:
    """What an average over rollouts of fixed length estimates, if its advantages are right.

        g = (1/T) Σ_{t<T} Σ_{k,s} P(t, k, s) [γ^k] Σ_a ∇π(a|s) Q(s, a)

    P(t, k, s) is that of `visits`: rollouts that start with a reset and reset whenever an episode ends, as `steps(T)` collects.

    Args:
        mdp, policy: as for `values`.
        rows: T ≥ 1.
        discount_visits: weight the k-th step of an episode by γ^k.
        values: Q of the task that goes on ("continuing": a truncated step bootstraps), or of the one that pays nothing after its
            time limit ("time-limited", Q_k: it does not).

    Returns:
        shaped like the policy.

    Raises:
        SpaceError, UsageError: as for `values`; "time-limited" without a time limit; rows below 1.
        UnknownNameError: no such values.

    It is not ∇J, nor a multiple of it: states are weighted by how often such rollouts see them.
    """
    if values not in get_args(RolloutValues):
        raise UnknownNameError("kind of values", values, get_args(RolloutValues))
    require_finite(mdp)
    timed = values == "time-limited"
    if timed and mdp.time_limit is None:
        raise UsageError(f"values: got 'time-limited' for {mdp.name}, which has no time limit; it must be 'continuing'")
    t, pi, _ = prepare(mdp, policy, ends=mdp.discount == 1 and not timed)
    weights = _rollout_weights(t, pi, longest(mdp, rows), int(rows), mdp.time_limit if timed else None, discount_visits)
    return pull_back(policy, mdp.observations, weights)


@partial(jax.jit, static_argnames=("steps", "rows", "limit", "discount_visits"))
def _rollout_weights(t: Tables, pi: Array, steps: int, rows: int, limit: int | None, discount_visits: bool) -> Array:
    reached = solve_visits(t, pi, steps, 1.0)
    # Step k of an episode is seen if the episode started at one of the first T − k rows.
    seen = jnp.cumsum(episode_starts(reached, rows, True))[::-1][:steps]
    weighted = reached * seen[:, None] / rows
    if discount_visits:
        weighted = weighted * (t.discount ** jnp.arange(steps, dtype=pi.dtype))[:, None]
    Q = solve_values(t, pi, limit)[1]
    return jnp.sum(weighted, axis=0)[:, None] * Q if limit is None else jnp.einsum("ks,ksa->sa", weighted, Q[:steps])


@exactly
def fisher(mdp: FiniteMDP, policy: PyTree) -> Array:
    """The Fisher matrix of the policy, averaged over the states that it visits.

        F = Σ_s d̄(s) Σ_a π(a|s) ∇ log π(a|s) ∇ log π(a|s)ᵀ        d̄ the discounted visits, made to sum to 1

    Args:
        mdp, policy: as for `values`.

    Returns:
        [P, P] over the flattened parameters (`flatten`), positive semidefinite. A softmax with a logit to spare makes it singular.

    Raises:
        SpaceError, UsageError: as for `values`.

    Reference: Kakade 2001, "A natural policy gradient", eq. 2 and its average over states.

    Implementations average over the states of a rollout, later ones weighing as much as earlier ones: d̄ without γ^t.
    """
    t, pi, _ = prepare(mdp, policy, ends=unbounded(mdp))
    return _fisher(policy, mdp.observations, t, pi, mdp.time_limit)


@partial(jax.jit, static_argnames="limit")
def _fisher(policy: PyTree, observations: Array, t: Tables, pi: Array, limit: int | None) -> Array:
    d = solve_visits(t, pi, limit, t.discount)
    d = d if limit is None else d.sum(axis=0)
    flat, unflatten = ravel_pytree(policy)
    jacobian = jax.jacrev if pi.size < flat.size else jax.jacfwd
    slopes = jacobian(lambda flat: apply(unflatten(flat), observations))(flat)  # ∇π [S, A, P]
    possible = pi > 0
    weights = jnp.where(possible, d[:, None] / jnp.where(possible, pi, 1), 0) / jnp.sum(d)
    return jnp.einsum("sap,saq->pq", weights[:, :, None] * slopes, slopes)


@exactly
def natural_gradient(mdp: FiniteMDP, policy: PyTree) -> PyTree:
    """F⁺ ∇J, by the pseudo-inverse: the shortest of the directions that climb fastest per nat of KL.

    Args:
        mdp, policy: as for `values`.

    Returns:
        shaped like the policy. For a tabular softmax, up to a constant per state, the advantages times the expected discounted
        number of steps.

    Raises:
        SpaceError, UsageError: as for `values`.

    Reference: Kakade 2001, "A natural policy gradient", theorem 1.
    """
    gradient, unflatten = ravel_pytree(policy_gradient(mdp, policy))
    return unflatten(jnp.linalg.pinv(fisher(mdp, policy), hermitian=True) @ gradient)
