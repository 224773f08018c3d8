"""Gradient accumulation: a large batch in parts that fit the cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from policygrad.compilation import device
from policygrad.gradients.score_function import without_control
from policygrad.types import Array, Batch, Params

PART = 512
"""Steps in a part of whole episodes: few enough to leave out most of the padding, enough to keep a core busy."""
LARGE_PART = 16384
"""Steps in a part of a minibatch on a CPU: what a network makes of more outgrows the cache."""
ACCELERATED_PART = 2**18
"""The same elsewhere, where only memory bounds it."""


def large_part() -> int:
    """Steps in a part of a minibatch, on the device that programs are compiled for."""
    return LARGE_PART if device().platform == "cpu" else ACCELERATED_PART


def parts_of(steps: int) -> int:
    """Into how many equal parts of at most `large_part()` steps so many are cut; 1 where they have no divisor that makes good ones."""
    least = -(-steps // large_part())
    return next((parts for parts in range(least, 2 * least) if steps % parts == 0), 1)


def accumulated(gradient: Callable[..., tuple[Params, dict]], part: int = PART) -> Callable[..., tuple[Params, dict]]:
    """Combinator: the same gradient, summed over parts of the batch's rows.

        ∇J = Σ_parts Σ_{t in part} w_t Ψ_t ∇ log π(a_t|o_t)

    Exact up to rounding, since estimates are weighted *sums* over steps. Rows after the last valid one are not visited, so
    a batch of short episodes does not pay for its padding. Info is averaged over parts by their valid steps.

    Only for policies without memory: a part would need the memory that the rows before it leave.

    Args:
        gradient: Gradient = (params, batch, progress) -> (gradient, info).
        part: steps (rows × environments) in a part, ≥ 1.
    """

    def accumulate(params: Params, batch: Batch, progress: Array) -> tuple[Params, dict]:
        rows, columns = batch.rollout.mask.shape
        size = max(1, part // columns)
        if rows <= size or jax.tree.leaves((batch.carry, batch.rollout.critic_carry)):
            return gradient(params, batch, progress)

        control, batch = batch.control, batch._replace(control=())  # of the whole batch, so it is subtracted once
        valid_rows = jnp.sum(batch.rollout.mask, axis=1)
        used = jnp.max(jnp.where(valid_rows > 0, jnp.arange(1, rows + 1), 0))

        def of_part(index: Array) -> tuple[Params, dict, Array]:
            piece = part_of(batch, index, size)
            gradients, info = gradient(params, piece, progress)
            return gradients, info, jnp.sum(piece.rollout.mask)

        def add(loop: Any) -> Any:
            index, total, infos = loop
            gradients, info, steps = of_part(index)
            total = jax.tree.map(jnp.add, total, gradients)
            infos = jax.tree.map(lambda so_far, value: so_far + value * steps, infos, info)
            return index + 1, total, infos

        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(of_part, jnp.zeros((), jnp.int32))[:2])
        start = (jnp.zeros((), jnp.int32), *zeros)
        _, total, infos = jax.lax.while_loop(lambda loop: loop[0] * size < used, add, start)
        steps = jnp.maximum(jnp.sum(batch.rollout.mask), 1)
        return without_control(total, control), jax.tree.map(lambda value: value / steps, infos)

    return accumulate


def part_of(batch: Batch, index: Array, size: int) -> Batch:
    """Rows `index`·size … of a batch without control. The last part begins early enough to be whole; rows that the part before
    has seen weigh nothing in it."""
    start = jnp.minimum(index * size, batch.weights.shape[0] - size)
    piece = jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, size), batch)
    fresh = ((start + jnp.arange(size)) >= index * size).astype(piece.weights.dtype)[:, None]
    rollout = piece.rollout._replace(mask=piece.rollout.mask * fresh)
    return piece._replace(rollout=rollout, weights=piece.weights * fresh)
