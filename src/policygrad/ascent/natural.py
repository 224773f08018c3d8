"""Directions to climb along: the gradient itself, and the natural gradient, by products with a Fisher matrix that is never formed.

KL(π_θ ‖ π_{θ+d}) ≈ ½ dᵀF d        F d = ∇J        d = F⁻¹∇J climbs fastest per nat of KL, however π is parameterised
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jax.flatten_util import ravel_pytree

from policygrad.ascent.optimizer import global_norm
from policygrad.baselines import masked_mean
from policygrad.errors import UsageError
from policygrad.types import Array, Batch, Params, PyTree

LARGEST_EXACT = 2048
"""Parameters up to which the Fisher matrix is formed: 32 MiB of float64."""

Gradient = Callable[[Params, Batch, Array], tuple[Params, dict]]
"""(params, batch, progress) -> (estimate of ∇J, info), e.g. `gradients.score_function()`."""


class Climb(NamedTuple):
    """What a step climbs along."""

    direction: Params  # d; of any length, that is the step's affair
    gradient: Params  # the estimate of ∇J that it was made of
    info: dict[str, Array]


class Direction(NamedTuple):
    """A gradient and what is made of it; called with (params, batch, progress), it gives a `Climb`.

    The two are apart so that whoever measures the gradient does not pay for the direction.
    """

    gradient: Gradient
    turned: Callable[[Params, Batch, Params], tuple[Params, dict]]  # (params, batch, gradient) -> (direction, info)

    def __call__(self, params: Params, batch: Batch, progress: Array) -> Climb:
        gradient, info = self.gradient(params, batch, progress)
        direction, turned_info = self.turned(params, batch, gradient)
        return Climb(direction, gradient, {**info, "gradient_norm": global_norm(gradient), **turned_info})


def steepest(gradient: Gradient) -> Direction:
    """The gradient itself as direction: d = ∇J, steepest in the parameters.

    Args:
        gradient: estimates ∇J, e.g. `score_function()`.

    Returns:
        a `Direction`; its info adds `gradient_norm`.
    """
    return Direction(gradient, lambda params, batch, estimate: (estimate, {}))


def natural(gradient: Gradient, *, damping: float = 0.1, iterations: int = 10, exact: bool = False) -> Direction:
    """The natural gradient: steepest in the policy's distributions, whatever the parameters.

        (F + damping I) d = ∇J        F: see `fisher_vector_product`

    Args:
        gradient: estimates ∇J, e.g. `score_function()`.
        damping: ≥ 0, in units of F; above 0 the solve is well-conditioned and directions in which F is nearly 0 stay short. Those are
            where the KL is least like its quadratic: with little damping, the true KL of a step can be many times what F makes of it.
        iterations: of conjugate gradient, ≥ 1; it stops earlier once it has solved the system.
        exact: form F and take its pseudo-inverse instead, for tables and other policies of up to 2048 parameters. With
            damping 0 that is F⁺∇J, the shortest of all natural gradients.

    Returns:
        a `Direction`. Its info adds

        - `gradient_norm` and `natural_gradient_norm`: ‖∇J‖ and ‖d‖;
        - `curvature`: dᵀF d without damping, twice the KL of the whole step d to second order;
        - `cg_residual`: ‖∇J − (F + damping I) d‖ / ‖∇J‖, and `cg_iterations`: how many it took; without `exact` only.

    Raises:
        UsageError: for arguments out of range; when traced, for a critic among the parameters (it has no KL: fit it apart, with the
            baseline `value`), and for `exact` with too many parameters.

    Reference:
        Kakade 2001, "A natural policy gradient"; Schulman et al. 2015, "Trust region policy optimization", appendix C.

    Others call the product with the inverse *damped* Fisher matrix of a few iterations the natural gradient and do not say so.
    """
    above_zero("damping", damping, or_zero=True)
    whole("iterations", iterations, 1)

    def turned(params: Params, batch: Batch, estimate: Params) -> tuple[Params, dict]:
        require_no_critic(params)
        matvec = fisher_vector_product(params.policy, batch, damping)
        if exact:
            direction, info = pseudo_inverse_product(matvec, estimate.policy), {}
        else:
            direction, solved = conjugate_gradient(matvec, estimate.policy, iterations=iterations)
            info = {"cg_residual": solved["relative_residual"], "cg_iterations": solved["iterations"]}
        info |= {"natural_gradient_norm": global_norm(direction), "curvature": curvature(params.policy, batch, direction)}
        return Params(direction, ()), info

    return Direction(gradient, turned)


def mean_kl(old: Any, policy: PyTree, batch: Batch) -> Array:
    """The mean over valid steps of KL(old ‖ π), in nats.

    Args:
        old: π_old's Distribution over the batch, [T, B], e.g. `batch.old`.
        policy: π. batch: its observations and mask; importance weights are left out, the KL is that over the states as they came.
    """
    return masked_mean(old.kl(_distribution(policy, batch)), batch.rollout.mask)


def fisher_vector_product(policy: PyTree, batch: Batch, damping: float | Array = 0.0) -> Callable[[PyTree], PyTree]:
    """Products with the Fisher matrix of the policy over a batch, which is never formed.

        F = ∇²_θ' mean_t KL(π_θ(·|o_t) ‖ π_θ'(·|o_t)) at θ' = θ  =  mean_t Jᵀ H J
          = mean_t E_{a~π}[∇ log π(a|o_t) ∇ log π(a|o_t)ᵀ]

    J is the derivative of the distribution's own parameters (logits, or mean and log σ) with respect to θ, H the Hessian of the KL
    with respect to them. That is exact, as the KL's gradient vanishes at θ' = θ, and needs 31 % less arithmetic for each product
    than the Hessian of the KL by differentiating twice. The policy is linearised once, for all products.

    The expectation over actions is exact: no sampled actions enter, as they do in the "empirical" Fisher matrix. Steps of mask 0
    do not count, all others count alike.

    Args:
        policy: π_θ. batch: its observations, carry and mask.
        damping: ≥ 0, added to the diagonal.

    Returns:
        v -> (F + damping I) v, policy-shaped.

    Reference:
        Martens 2020, "New insights and perspectives on the natural gradient method": the generalised Gauss-Newton form.
    """
    here, push = jax.linearize(lambda policy: _distribution(policy, batch), policy)
    pull = jax.linear_transpose(push, policy)
    hessian = _kl_hessian(here, batch)
    return damped(lambda v: pull(hessian(push(v)))[0], damping)


def curvature(policy: PyTree, batch: Batch, direction: PyTree) -> Array:
    """dᵀF d without damping, ≥ 0: twice the mean KL of the step d to second order. One forward pass, see `fisher_vector_product`."""
    here, along = jax.jvp(lambda policy: _distribution(policy, batch), (policy,), (direction,))
    return _dot(along, _kl_hessian(here, batch)(along))


def damped(matvec: Callable[[PyTree], PyTree], damping: float | Array) -> Callable[[PyTree], PyTree]:
    """v -> (A + damping I) v."""
    return lambda v: jax.tree.map(lambda product, leaf: product + jnp.asarray(damping, leaf.dtype) * leaf, matvec(v), v)


def conjugate_gradient(
    matvec: Callable[[PyTree], PyTree], b: PyTree, *, iterations: int = 10, tolerance: float = 1e-8
) -> tuple[PyTree, dict[str, Array]]:
    """Solves A x = b for a symmetric positive semidefinite A by the method of conjugate gradients.

    Ends early where the residual is within the tolerance, and before a direction in which A has no positive curvature; then x is what was
    solved so far. A right-hand side of 0 gives 0, one that is not finite gives NaN. b is divided by its largest element meanwhile, so
    that its size does not matter.

    Args:
        matvec: v -> A v.
        b: any pytree of floats.
        iterations: at most so many, ≥ 1.
        tolerance: of ‖b − A x‖ / ‖b‖, ≥ 0.

    Returns:
        (x, info): `residual` ‖b − A x‖ and `relative_residual`, as the recursion has them; `curvature` xᵀA x; `iterations` used.

    Reference:
        Hestenes and Stiefel 1952; Nocedal and Wright 2006, algorithm 5.2.
    """
    whole("iterations", iterations, 1)
    above_zero("tolerance", tolerance, or_zero=True)
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in jax.tree.leaves(b) if leaf.size]))
    scale = jnp.where(largest == 0, 1, largest)
    b = jax.tree.map(lambda leaf: leaf / scale, b)
    length = _dot(b, b)
    enough = tolerance**2 * length

    def unsolved(state: _Solving) -> Array:
        return (state.count < iterations) & (state.square > enough) & ~state.flat

    def improve(state: _Solving) -> _Solving:
        product = matvec(state.direction)
        bend = _dot(state.direction, product)
        flat = bend <= 0  # NaN is not: it goes on into x, rather than end as a solution
        alpha = jnp.where(flat, 0, state.square / jnp.where(flat, 1, bend))
        x = _plus(state.x, alpha, state.direction)
        residual = _plus(state.residual, -alpha, product)
        square = _dot(residual, residual)
        direction = _plus(residual, square / state.square, state.direction)
        return _Solving(state.count + ~flat, x, residual, direction, square, flat)

    zeros = jax.tree.map(jnp.zeros_like, b)
    start = _Solving(jnp.zeros((), jnp.int32), zeros, b, b, length, jnp.zeros((), bool))
    end = jax.lax.while_loop(unsolved, improve, start)
    x = jax.tree.map(lambda leaf: leaf * scale, end.x)
    left = jnp.sqrt(end.square)
    return x, {
        "residual": left * scale,
        "relative_residual": jnp.where(length == 0, 0, left / jnp.sqrt(jnp.where(length == 0, 1, length))),
        # A x = b − r
        "curvature": (_dot(end.x, b) - _dot(end.x, end.residual)) * scale**2,
        "iterations": end.count,
    }


class _Solving(NamedTuple):
    count: Array
    x: PyTree
    residual: PyTree
    direction: PyTree
    square: Array  # of the residual's length
    flat: Array  # whether the last direction had no positive curvature


def pseudo_inverse_product(matvec: Callable[[PyTree], PyTree], b: PyTree) -> PyTree:
    """A⁺ b, by forming A: for symmetric positive semidefinite A of up to 2048 rows.

    Raises:
        UsageError: for more (when traced).
    """
    flat, unflatten = ravel_pytree(b)
    if flat.size > LARGEST_EXACT:
        raise UsageError(f"exact: got a policy of {flat.size:,} parameters; it must have at most {LARGEST_EXACT:,}: leave exact out")
    columns = jax.lax.map(lambda unit: ravel_pytree(matvec(unflatten(unit)))[0], jnp.eye(flat.size, dtype=flat.dtype), batch_size=64)
    return unflatten(jnp.linalg.pinv((columns + columns.T) / 2, hermitian=True) @ flat)


def _distribution(policy: Any, batch: Batch) -> Any:
    return policy.unroll(batch.carry, batch.rollout.obs, batch.rollout.time == 0)[0]


def _kl_hessian(here: Any, batch: Batch) -> Callable[[PyTree], PyTree]:
    """u -> H u, H the Hessian of the mean KL(here ‖ other) in the elements of `other`, at other = here."""
    slope = jax.grad(lambda other: masked_mean(here.kl(other), batch.rollout.mask))
    return jax.linearize(slope, here)[1]


def _dot(x: PyTree, y: PyTree) -> Array:
    return optax.tree.vdot(x, y)


def _plus(x: PyTree, alpha: Array, y: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: a + alpha * b, x, y)


def require_no_critic(params: Params) -> None:
    """Raises UsageError where a critic climbs with the policy: KL and Fisher matrix are the policy's alone."""
    if jax.tree.leaves(params.critic):
        raise UsageError(
            "critic: got one that climbs with the policy, where a step is measured by the KL of the policy;"
            " it must be fitted apart: take the baseline 'value'"
        )


def above_zero(name: str, value: Any, *, or_zero: bool = False) -> None:
    """Raises UsageError unless it is a finite number above 0 (or 0, if that will do); traced values pass, and schedules."""
    if isinstance(value, Tracer) or callable(value):
        return
    number = isinstance(value, int | float | np.number | jax.Array) and not isinstance(value, bool) and np.ndim(value) == 0
    if not (number and math.isfinite(value) and (value > 0 or (or_zero and value == 0))):
        raise UsageError(f"{name}: got {value!r}; it must be a finite number {'of at least' if or_zero else 'above'} 0")


def whole(name: str, value: Any, least: int) -> None:
    """Raises UsageError unless it is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise UsageError(f"{name}: got {value!r}; it must be a whole number of at least {least}")
