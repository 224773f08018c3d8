"""Proximal policy optimisation: many small steps on one batch, near the policy that collected it.

    repeat `epochs` times: shuffle the steps, and for each minibatch: θ ← θ − optimiser(∇ loss(minibatch))

What keeps π near is the loss: a ratio that is clipped (`clipped_loss`), or a divergence that costs (`penalty_loss`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from policygrad.ascent.minibatches import SEQUENCES, flattened, must_divide, remembers, sequences, shuffled, taken
from policygrad.ascent.natural import above_zero, mean_kl, whole
from policygrad.ascent.optimizer import Optimizer, gradient_ascent
from policygrad.ascent.schedules import Schedule, as_schedule
from policygrad.baselines import standardised
from policygrad.errors import UsageError
from policygrad.gradients.accumulate import accumulated, parts_of
from policygrad.gradients.losses import Loss
from policygrad.gradients.score_function import gradient_of
from policygrad.types import Array, Ascent, Batch, Key, Params, PyTree

Normalize = Literal["minibatch", "batch"]

TOLERANCE = 1.5
"""A divergence counts as too large above this many times the wanted one, and as too small below one such part of it."""
PENALTIES = 1e-4, 1e4
"""The least and the largest KL penalty."""


class Penalised(NamedTuple):
    """The state of `proximal_kl`."""

    optimizer: PyTree
    penalty: Array  # β, scalar


class _Passes(NamedTuple):
    """How a batch is gone through."""

    epochs: int
    minibatches: int
    normalize: Normalize | None
    target_kl: float | Schedule | None
    recompute: bool


def proximal(
    loss: Loss,
    *,
    learning_rate: float | Schedule,
    optimizer: Optimizer = "adam",
    max_grad_norm: float | None = None,
    epochs: int = 4,
    minibatches: int = 4,
    normalize: Normalize | None = "minibatch",
    target_kl: float | Schedule | None = None,
    recompute: bool = False,
) -> Ascent:
    """Epochs of minibatch steps on one batch: PPO, with `clipped_loss`.

        for each epoch, for each minibatch m of the shuffled steps:   θ ← θ − optimiser(K ∇ loss(θ; m), learning_rate(progress))

    K is the number of minibatches: each one's gradient is an unbiased estimate of the batch's. Ratios and divergences are
    against the policy before the update throughout.

    Args:
        loss: a `Loss`, e.g. `clipped_loss()`.
        learning_rate, optimizer, max_grad_norm: as `gradient_ascent`, for every step.
        epochs: passes over the batch, ≥ 1.
        minibatches: K ≥ 1, parts of a pass; must divide the steps of the batch, rows × columns, padding included.
        normalize: shift and scale Ψ to mean 0 and standard deviation 1 over the valid steps of each minibatch, or once over those
            of the batch; None leaves it. A minibatch of one step, or of equal Ψ, becomes 0.
        target_kl: > 0, in nats, or a schedule of progress; when a minibatch is met whose mean KL(π_old ‖ π) is above 1.5 times this,
            before its step, that step and all that remain are left out. None goes through all.
        recompute: make Ψ and targets anew, with the critic as it is by then, before every epoch but the first.

    Returns:
        An `Ascent`. Its `gradient` is that of the loss over the whole batch, Ψ not normalised: a sum over steps, which can be told
        apart by column. Info of its step: those of the loss, `gradient_norm` (before clipping) and `learning_rate`, each the mean
        over the steps taken, weighted by valid steps in the minibatch, as seen before each step; but

        - `optimizer_steps`: how many were taken, epochs × K without a stop.
        - `kl`: the mean of KL(π_old ‖ π) over the valid steps of the last minibatch in the order, π the policy after the update:
          a random K-th of the batch, at a K-th of the cost.

    Raises:
        UsageError: for counts below 1 or a target_kl that is not above 0; for minibatches that do not divide the batch, its steps or
            with memory its sequences, or a baseline with a control variate (when the update is traced).

    Reference:
        Schulman et al. 2017, "Proximal policy optimization algorithms". The stop is Stable-Baselines3's, by the exact divergence
        of the minibatch instead of an estimate; Spinning Up looks once an epoch at the whole batch.
    """
    passes = _checked(epochs, minibatches, normalize, target_kl, recompute)
    whole_batch = gradient_of(loss)
    inner = gradient_ascent(accumulated(whole_batch, 1), learning_rate=learning_rate, optimizer=optimizer, max_grad_norm=max_grad_norm)

    def step(key: Key, params: Params, state: PyTree, batch: Batch, progress: Array, refresh: Any = None) -> tuple[Params, PyTree, dict]:
        return _optimised(inner, passes, key, params, state, batch, progress, refresh)

    return Ascent(inner.init, whole_batch, step, partial(must_divide, minibatches))


def proximal_kl(
    loss: Callable[[Array], Loss],
    *,
    target_kl: float | Schedule,
    initial_penalty: float = 1.0,
    learning_rate: float | Schedule,
    optimizer: Optimizer = "adam",
    max_grad_norm: float | None = None,
    epochs: int = 4,
    minibatches: int = 4,
    normalize: Normalize | None = "minibatch",
    recompute: bool = False,
) -> Ascent:
    """PPO with a KL penalty that adapts: dearer where the policy moved too far, cheaper where not far enough.

        d = mean KL(π_old ‖ π) after the update:        d > 1.5 target: β ← 2 β        d < target / 1.5: β ← β / 2

    Args:
        loss: β -> `Loss`, e.g. `penalty_loss`.
        target_kl: > 0, in nats, or a schedule of progress: the divergence that an update should have.
        initial_penalty: β at first, > 0; it stays within [1e-4, 1e4].
        others: as `proximal`.

    Returns:
        An `Ascent` whose state is `Penalised`. Its `gradient` does not depend on β: at π_old the divergence is flat. Info as
        `proximal`, but `kl`, that of the whole batch, and `kl_penalty`, the β that this update used.

    Raises:
        UsageError: as `proximal`; for a target_kl or initial_penalty that is not above 0.

    Reference:
        Schulman et al. 2017, "Proximal policy optimization algorithms", section 4.
    """
    above_zero("target_kl", target_kl)
    above_zero("initial_penalty", initial_penalty)
    passes = _checked(epochs, minibatches, normalize, None, recompute)

    def inner(penalty: Any) -> Ascent:
        gradient = accumulated(gradient_of(loss(penalty)), 1)
        return gradient_ascent(gradient, learning_rate=learning_rate, optimizer=optimizer, max_grad_norm=max_grad_norm)

    first = inner(initial_penalty)

    def init(params: Params) -> Penalised:
        return Penalised(first.init(params), jnp.asarray(initial_penalty, jnp.result_type(float)))

    def step(key: Key, params: Params, state: Any, batch: Batch, progress: Array, refresh: Any = None) -> tuple[Params, PyTree, dict]:
        moments, penalty = state
        params, moments, info = _optimised(inner(penalty), passes, key, params, moments, batch, progress, refresh)
        info["kl"] = mean_kl(batch.old, params.policy, batch)
        return params, Penalised(moments, adapted(penalty, info["kl"], as_schedule(target_kl)(progress))), info | {"kl_penalty": penalty}

    return Ascent(init, gradient_of(loss(initial_penalty)), step, partial(must_divide, minibatches))


def adapted(penalty: Array, kl: Array, target_kl: float | Array) -> Array:
    """The next penalty: doubled where kl > 1.5 target_kl, halved where kl < target_kl / 1.5, within its bounds."""
    factor = jnp.where(kl > TOLERANCE * target_kl, 2.0, jnp.where(kl < target_kl / TOLERANCE, 0.5, 1.0))
    return jnp.clip(penalty * factor, *PENALTIES).astype(penalty.dtype)


def _optimised(
    inner: Ascent, passes: _Passes, key: Key, params: Params, state: PyTree, batch: Batch, progress: Array, refresh: Any
) -> tuple[Params, PyTree, dict]:
    """All epochs and minibatches of one update, in one loop within another."""
    epochs, parts = passes.epochs, passes.minibatches
    limit = None if passes.target_kl is None else TOLERANCE * as_schedule(passes.target_kl)(progress)
    # A minibatch has one K-th of the steps, and their weights sum to one K-th.
    batch = batch._replace(weights=batch.weights * parts)
    flat = flattened(batch)
    pieces, in_sequence = len(flat.weights), remembers(flat)
    must_divide(parts, pieces, SEQUENCES if in_sequence else "steps")
    order = shuffled(key, pieces, parts, epochs)

    def prepared(params: Params, epoch: Array) -> Batch:
        made = batch.advantages, batch.targets, batch.values
        if passes.recompute and epochs > 1:
            made = jax.lax.cond(epoch > 0, lambda: _estimates(refresh(params)), lambda: made)
        psi = standardised(made[0], batch.rollout.mask) if passes.normalize == "batch" else made[0]
        again = psi, *made[1:]
        chunks = pieces // psi.shape[1]
        psi, targets, values = sequences(again, chunks) if in_sequence else jax.tree.map(jnp.ravel, again)
        return flat._replace(advantages=psi, targets=targets, values=values)

    def one(data: Batch, indices: Array, params: Params, state: PyTree) -> tuple[Params, PyTree, dict, Array]:
        # Without memory, one row for each part that the gradient is summed over.
        part = taken(data, indices, 1 if in_sequence else parts_of(indices.size))
        if passes.normalize == "minibatch":
            part = part._replace(advantages=standardised(part.advantages, part.rollout.mask))
        params, state, info = inner.step(key, params, state, part, progress)
        if limit is None:
            info.pop("kl", None)  # measured once, after the last step
        return params, state, info, jnp.sum(part.rollout.mask)

    def minibatch(data: Batch, epoch: Array, loop: Any) -> Any:
        index, params, state, going, (taken_steps, valid, sums) = loop
        moved, moments, info, count = one(data, order[epoch, index], params, state)
        if limit is not None:
            going = info["kl"] <= limit
            moved, moments = jax.tree.map(lambda new, old: jnp.where(going, new, old), (moved, moments), (params, state))
            count = jnp.where(going, count, 0)
        sums = jax.tree.map(lambda total, value: total + jnp.where(count > 0, value * count, 0).astype(total.dtype), sums, info)
        return index + 1, moved, moments, going, (taken_steps + jnp.where(going, 1, 0), valid + count, sums)

    def proceeds(loop: Any, count: int) -> Array:
        return loop[0] < count if limit is None else (loop[0] < count) & loop[3]

    def epoch_of(loop: Any) -> Any:
        epoch, params, state, going, totals = loop
        data = prepared(params, epoch)
        start = jnp.zeros((), jnp.int32), params, state, going, totals
        _, params, state, going, totals = jax.lax.while_loop(
            lambda inside: proceeds(inside, parts), lambda inside: minibatch(data, epoch, inside), start
        )
        return epoch + 1, params, state, going, totals

    zero = jnp.zeros((), jnp.int32)
    *_, info, count = jax.eval_shape(one, flat, order[0, 0], params, state)
    if limit is not None and "kl" not in info:
        raise UsageError("target_kl: got one with a loss that does not report kl; take clipped_loss or penalty_loss, or leave it out")
    totals = zero, *jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), (count, info))
    _, params, state, _, (steps, valid, sums) = jax.lax.while_loop(
        lambda loop: proceeds(loop, epochs), epoch_of, (zero, params, state, jnp.ones((), bool), totals)
    )
    info = jax.tree.map(lambda total: total / jnp.maximum(valid, 1), sums)
    last = taken(flat, order[-1, -1])
    return params, state, info | {"optimizer_steps": steps, "kl": mean_kl(last.old, params.policy, last)}


def _estimates(batch: Batch) -> tuple[Array, Array, PyTree]:
    return batch.advantages, batch.targets, batch.values


def _checked(epochs: int, minibatches: int, normalize: Any, target_kl: float | Schedule | None, recompute: bool) -> _Passes:
    whole("epochs", epochs, 1)
    whole("minibatches", minibatches, 1)
    if normalize not in ("minibatch", "batch", None):
        raise UsageError(f"normalize: got {normalize!r}; it must be 'minibatch', 'batch' or None")
    if target_kl is not None:
        above_zero("target_kl", target_kl)
    return _Passes(epochs, minibatches, normalize, target_kl, recompute)
