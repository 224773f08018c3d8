"""What each trajectory adds to the gradient: the sample behind its variance."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from policygrad.gradients.score_function import without_control
from policygrad.types import Array, Batch, Params

CHUNKS = 8
"""A single column is cut into at most so many parts in time."""


def contributions(gradient: Callable[..., tuple[Params, dict]]) -> Callable[[Params, Batch, Array], Params]:
    """The gradient by columns: g_i, with Σ_i g_i = gradient.

        g_i = Σ_t w_{t,i} Ψ_{t,i} ∇ log π(a_{t,i}|o_{t,i})

    Columns are environments, or episodes where `episodes(N)` collects them; a single column is cut into up to 8 parts in
    time instead. Ψ is that of the whole batch: a baseline over the batch is the same for all of them, so the g_i are
    independent only as far as the baseline is fixed. A control variate is each column's own; that of a single column is
    shared out evenly. Parts in time are cut by steps, not by rows, so that the padding after a short episode is no part:
    only fewer steps than parts leave the last parts empty.

    Args:
        gradient: Gradient = (params, batch, progress) -> (gradient, info), a sum over steps, as `score_function`'s is.

    Returns:
        (params, batch, progress) -> Params with a leading axis [n] on every leaf.
    """

    def each(params: Params, batch: Batch, progress: Array) -> Params:
        rows, columns = batch.weights.shape
        control, batch = batch.control, batch._replace(control=())
        parts = columns if columns > 1 else min(rows, CHUNKS)
        part = part_of_step(batch.rollout.mask, parts)

        def one(index: Array) -> Params:
            if columns > 1:
                piece = jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, index, 1, axis=1), batch)
                lost = jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, index, 1), control)
            else:
                piece = batch._replace(weights=batch.weights * (part == index))
                lost = jax.tree.map(lambda leaf: leaf / parts, control)
            return without_control(gradient(params, piece, progress)[0], lost)

        return jax.vmap(one)(jnp.arange(parts))

    return each


def part_of_step(mask: Array, parts: int) -> Array:
    """Which of `parts` parts, as equal as can be, each step of a single column falls into: [rows, 1] int32."""
    valid = (mask > 0).astype(jnp.int32)
    return (jnp.cumsum(valid, axis=0) - valid) * parts // jnp.maximum(jnp.sum(valid), parts)
