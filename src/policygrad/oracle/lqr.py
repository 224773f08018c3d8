"""J and ∇J of Gaussian policies with a linear mean in a linear-quadratic regulator, exactly.

    s' = A s + B a + w,  w ~ N(0, W)        r = −(sᵀQ s + aᵀR a)        a = K s + c + σ ∘ ε

Everything is a second moment of z = (s, 1), so that a mean of the state and a bias c need no equations of their own:

    Z_t = E[z zᵀ]        Z_{t+1} = F Z_t Fᵀ + N        F = Ā + B̄ M,  M = [K c]        N = noise of w and of B σε
    E[r_t] = −tr(C Z_t) − tr(R diag σ²)        C = Q̄ + Mᵀ R M

A bar pads with zeros to the size of z; Ā carries the 1 along.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from policygrad.envs.lqr import LQR
from policygrad.errors import UsageError
from policygrad.oracle.scope import traced
from policygrad.policies import require_spaces
from policygrad.policies.features import Raw
from policygrad.policies.heads import FixedGaussian, LinearGaussian
from policygrad.policies.policy import Policy
from policygrad.types import Array, PyTree


class System(NamedTuple):
    """The regulator in terms of z = (s, 1); n is the size of z, m of an action."""

    moves: Array  # Ā [n, n]
    inputs: Array  # B̄ [n, m]
    state_cost: Array  # Q̄ [n, n]
    action_cost: Array  # R [m, m]
    noise: Array  # W̄ [n, n]
    initial: Array  # Z_0 [n, n]
    discount: Array  # γ


class Gain(NamedTuple):
    """The policy: a ~ N(M z, diag σ²)."""

    matrix: Array  # M [m, n]
    sigma: Array  # σ [m], not the variance


def objective(mdp: LQR, policy: PyTree) -> Array:
    """J = −Σ_t γ^t [tr(C Z_t) + tr(R diag σ²)], by a recursion of moments, or one linear solve without time limit.

        S = Z_0 + γ (F S Fᵀ + N/(1 − γ))        the discrete Lyapunov equation of S = Σ_t γ^t Z_t

    Called by `policygrad.oracle.objective`.

    Args:
        mdp: an `LQR`.
        policy: `Policy` of raw features and an affine Gaussian head: `policies.linear(sigma=…)` or `policies.linear()`.

    Returns:
        a scalar.

    Raises:
        UsageError: the mean is not known to be linear; or no time limit, and discount 1 or a gain that does not stabilise √γ F.
        SpaceError: the policy is for other spaces.

    Reference: Fazel et al. 2018, "Global convergence of policy gradient methods for the linear quadratic regulator".
    """
    system = _prepare(mdp, policy)
    return evaluate(system, gain(policy), mdp.time_limit)


def policy_gradient(
    mdp: LQR, policy: PyTree, *, discount_visits: bool = True, method: Literal["theorem", "autodiff"] = "theorem"
) -> PyTree:
    """∇J by the policy gradient theorem, whose expectation over actions has a closed form here.

        ∂J/∂M = −2 Σ_t γ^t E_t Z_t        E_t = R M + γ B̄ᵀ P_{t+1} F        ∂J/∂σ_i = −2 σ_i Σ_t γ^t (R + γ B̄ᵀ P_{t+1} B̄)_ii

    V_t(z) = −zᵀ P_t z − constant, P_t = C + γ Fᵀ P_{t+1} F. Called by `policygrad.oracle.policy_gradient`.

    Args:
        discount_visits: False leaves out γ^t; needs a time limit, as the noise never dies out.
        method: or "autodiff", the derivative of `objective`.

    Raises:
        UsageError, SpaceError: as for `objective`; and for `discount_visits=False` without a time limit.

    Reference: Fazel et al. 2018, lemma 1 (a noiseless system without bias, and costs in place of rewards).
    """
    if mdp.time_limit is None and not discount_visits:
        raise UsageError("discount_visits: got False for an LQR without time limit; it must be True, the sum is infinite otherwise")
    system = _prepare(mdp, policy)
    if method == "autodiff":
        return _differentiated(policy, system, mdp.time_limit)
    return _theorem(policy, system, mdp.time_limit, discount_visits)


@jax.jit
def gain(policy: Policy) -> Gain:
    """What a Gaussian policy with linear mean does."""
    shape = getattr(policy.observation_space, "shape", ())
    at_zero: Any = policy(jnp.zeros(shape, policy.head.layer.weight.dtype))
    return Gain(
        jnp.concatenate([policy.head.layer.weight, at_zero.mean.reshape(-1, 1)], axis=1),
        jnp.exp(at_zero.log_std.reshape(-1)),
    )


@partial(jax.jit, static_argnames="limit")
def evaluate(system: System, gain: Gain, limit: int | None) -> Array:
    """J, from arrays."""
    moves, costs, noise = _closed_loop(system, gain)
    paid_for_noise = jnp.sum(jnp.diag(system.action_cost) * gain.sigma**2)
    gamma = system.discount
    if limit is None:
        moments = _lyapunov(moves, system.initial + gamma / (1 - gamma) * noise, gamma)
        return -jnp.sum(costs * moments) - paid_for_noise / (1 - gamma)

    def onwards(carry: tuple[Array, Array, Array], _: None) -> tuple[tuple[Array, Array, Array], None]:
        moments, weight, total = carry
        total = total - weight * (jnp.sum(costs * moments) + paid_for_noise)
        return (moves @ moments @ moves.T + noise, gamma * weight, total), None

    start = (system.initial, jnp.ones_like(gamma), jnp.zeros_like(gamma))
    return jax.lax.scan(onwards, start, None, length=limit)[0][2]


@partial(jax.jit, static_argnames="limit")
def _differentiated(policy: Policy, system: System, limit: int | None) -> PyTree:
    return jax.grad(lambda policy: evaluate(system, gain(policy), limit))(policy)


@partial(jax.jit, static_argnames=("limit", "discount_visits"))
def _theorem(policy: Policy, system: System, limit: int | None, discount_visits: bool) -> PyTree:
    now, pull = jax.vjp(gain, policy)
    moves, costs, noise = _closed_loop(system, now)
    gamma = system.discount

    def slopes(later: Array, moments: Array, weight: Array | float) -> Gain:
        """∂J through the actions of one step, from P_{t+1}, Z_t and what the step weighs."""
        ahead = gamma * system.inputs.T @ later
        along_mean = (system.action_cost @ now.matrix + ahead @ moves) @ moments
        return Gain(-2 * along_mean, -2 * weight * now.sigma * jnp.diag(system.action_cost + ahead @ system.inputs))

    if limit is None:
        moments = _lyapunov(moves, system.initial + gamma / (1 - gamma) * noise, gamma)
        return pull(slopes(_lyapunov(moves.T, costs, gamma), moments, 1 / (1 - gamma)))[0]

    def backwards(later: Array, _: None) -> tuple[Array, Array]:
        return costs + gamma * moves.T @ later @ moves, later

    def onwards(carry: tuple[Array, Array], later: Array) -> tuple[tuple[Array, Array], Gain]:
        moments, weight = carry
        after = moves @ moments @ moves.T + noise
        return (after, weight * gamma if discount_visits else weight), slopes(later, weight * moments, weight)

    _, later = jax.lax.scan(backwards, jnp.zeros_like(costs), None, length=limit, reverse=True)
    _, parts = jax.lax.scan(onwards, (system.initial, jnp.ones_like(gamma)), later)
    return pull(jax.tree.map(lambda part: jnp.sum(part, axis=0), parts))[0]


def _closed_loop(system: System, gain: Gain) -> tuple[Array, Array, Array]:
    """(F, C, N)."""
    M = gain.matrix
    shaken = system.inputs * gain.sigma[None, :]
    return system.moves + system.inputs @ M, system.state_cost + M.T @ system.action_cost @ M, system.noise + shaken @ shaken.T


def _lyapunov(F: Array, X: Array, gamma: Array) -> Array:
    """S = X + γ F S Fᵀ, by the linear system of its elements: [n², n²], for regulators of a few states."""
    n = len(X)
    return jnp.linalg.solve(jnp.eye(n * n, dtype=X.dtype) - gamma * jnp.kron(F, F), X.reshape(-1)).reshape(n, n)


def _prepare(mdp: LQR, policy: PyTree) -> System:
    require_spaces(policy, mdp.observation_space, mdp.action_space, mdp.name)
    linear = isinstance(policy, Policy) and isinstance(policy.features, Raw) and isinstance(policy.head, LinearGaussian | FixedGaussian)
    if not linear:
        got = [type(getattr(policy, part, None)).__name__ for part in ("features", "head")]
        raise UsageError(
            f"policy: got {type(policy).__name__} with features {got[0]} and head {got[1]}; the exact answers of an LQR need a Gaussian"
            " policy whose mean is linear: policies.linear(sigma=...) or policies.linear()"
        )
    system = _system(mdp, np.dtype(policy.head.layer.weight.dtype))
    if mdp.time_limit is None:
        _require_finite_sum(mdp, policy, system)
    return system


def _require_finite_sum(mdp: LQR, policy: Policy, system: System) -> None:
    if mdp.discount == 1:
        raise UsageError(f"{mdp.name}: got discount 1 without a time limit; it must have one or the other, the sum of costs is infinite")
    if traced(policy):
        return
    K = np.asarray(policy.head.layer.weight)
    radius = np.sqrt(mdp.discount) * np.abs(np.linalg.eigvals(mdp.A + mdp.B @ K)).max()
    if radius >= 1:
        raise UsageError(
            f"{mdp.name}: got a gain under which √γ (A + B K) has spectral radius {radius:.4g}, so J is −∞; it must be below 1:"
            " choose a stabilising gain, a smaller discount or a time limit"
        )


def _system(mdp: LQR, dtype: np.dtype) -> System:
    n = mdp.A.shape[0] + 1

    def pad(block: np.ndarray, corner: float = 0.0) -> np.ndarray:
        padded = np.zeros((n, n))
        padded[:-1, :-1], padded[-1, -1] = block, corner
        return padded

    mean = np.append(mdp.initial_mean, 1.0)
    parts = System(
        pad(mdp.A, 1.0),
        np.concatenate([mdp.B, np.zeros((1, mdp.B.shape[1]))]),
        pad(mdp.Q),
        mdp.R,
        pad(mdp.noise),
        pad(mdp.initial_covariance) + np.outer(mean, mean),
        np.asarray(mdp.discount),
    )
    return System(*(np.asarray(part, dtype) for part in parts))
