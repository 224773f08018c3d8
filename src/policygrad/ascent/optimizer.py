"""Climbing with an optax optimiser."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from policygrad.ascent.schedules import Schedule, as_schedule
from policygrad.errors import UnknownNameError
from policygrad.types import Array, Ascent, Batch, Key, Params, PyTree

OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adam": optax.adam,
    "sgd": optax.sgd,
    "rmsprop": partial(optax.rmsprop, decay=0.99, eps=1e-5, eps_in_sqrt=False),
}
"""Optimisers by the names that recipes and the command line take; anything else of optax is given as a function. RMSprop averages over 100
steps and divides by √v + 1e-5, as it is set for A2C elsewhere; optax's own defaults average over 10, which is noisy with small batches."""

Optimizer = str | Callable[..., optax.GradientTransformation] | optax.GradientTransformation


def global_norm(gradient: PyTree) -> Array:
    """The length of the whole gradient, √Σ g². Where squares overflow or vanish it is taken of g / max|g|."""
    leaves = [jnp.ravel(leaf) for leaf in jax.tree.leaves(gradient) if leaf.size]
    squares = reduce(jnp.add, [jnp.sum(leaf * leaf) for leaf in leaves])
    numbers = jnp.finfo(squares.dtype)

    def scaled() -> Array:
        largest = jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in leaves]))
        scale = jnp.where(largest > 0, largest, 1)
        return scale * optax.tree.norm([leaf / scale for leaf in leaves])

    plain = (squares > numbers.tiny / numbers.eps) & (squares < numbers.max)
    return jax.lax.cond(plain, lambda: jnp.sqrt(squares), scaled)


def clip_by_global_norm(gradient: PyTree, norm: Array, limit: float) -> PyTree:
    """Scales the whole gradient to length min(norm, limit); its direction stays (element-wise clipping would turn it)."""
    factor = jnp.where(norm > limit, limit / norm, 1)
    return jax.tree.map(lambda leaf: leaf * factor, gradient)


def gradient_ascent(
    gradient: Callable[..., tuple[Params, dict]],
    *,
    learning_rate: float | Schedule,
    optimizer: Optimizer = "adam",
    max_grad_norm: float | None = None,
) -> Ascent:
    """One optimiser step along the gradient's estimate.

        θ ← θ + optimiser(∇J, learning_rate(progress))

    Args:
        gradient: estimates ∇J, e.g. `score_function()`.
        learning_rate: α > 0, or a schedule of progress in [0, 1].
        optimizer: a name ("adam", "sgd", "rmsprop"), a function from a learning rate to an optax transformation, or a
            ready transformation, which then brings its own rate (`learning_rate` is ignored).
        max_grad_norm: the global norm of the gradient is clipped to this, > 0; None does not clip.

    Returns:
        An `Ascent`; its info holds `gradient_norm` (before clipping) and `learning_rate`.

    Reference:
        Kingma and Ba 2015 for Adam, whose ε is 1e-8 here as in the paper.
    """
    if isinstance(optimizer, str) and optimizer not in OPTIMIZERS:
        raise UnknownNameError("optimizer", optimizer, OPTIMIZERS)
    rate = as_schedule(learning_rate)
    ready = isinstance(optimizer, optax.GradientTransformation)
    make = OPTIMIZERS[optimizer] if isinstance(optimizer, str) else optimizer

    def transform(progress: Array) -> optax.GradientTransformation:
        # An optax optimiser holds its rate outside its state, so building it inside the trace is free and lets
        # the rate be traced: scheduled, or mapped over.
        return make if ready else make(rate(progress))  # type: ignore[operator, return-value]

    # Our own optimisers work element by element, so they may see all parameters as one vector: a few operations a step instead of a
    # few for each leaf. Others may look at leaves (layer-wise rates, masks by name).
    flat = isinstance(optimizer, str)

    def laid(params: Params) -> tuple[PyTree, Callable[[PyTree], Params]]:
        return ravel_pytree(params) if flat else (params, lambda same: same)

    def init(params: Params) -> PyTree:
        return transform(jnp.zeros(())).init(laid(params)[0])

    def step(key: Key, params: Params, state: PyTree, batch: Batch, progress: Array, refresh: Any = None) -> tuple[Params, PyTree, dict]:
        estimate, info = gradient(params, batch, progress)
        at, back = laid(params)
        ascent = laid(estimate)[0]
        norm = global_norm(ascent)
        if max_grad_norm is not None:
            ascent = clip_by_global_norm(ascent, norm, max_grad_norm)
        updates, state = transform(progress).update(jax.tree.map(jnp.negative, ascent), state, at)
        info = info | {"gradient_norm": norm}
        if not ready:
            info["learning_rate"] = rate(progress)
        return back(optax.apply_updates(at, updates)), state, info

    return Ascent(init, gradient, step)
