"""Steps along a direction: by an optimiser, and of a size that adapts itself to the KL that it makes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from policygrad.ascent.natural import Climb, Direction, above_zero, mean_kl, require_no_critic
from policygrad.ascent.optimizer import Optimizer, global_norm, gradient_ascent
from policygrad.ascent.schedules import Schedule, as_schedule
from policygrad.errors import UsageError
from policygrad.types import Array, Ascent, Batch, Key, Params, PyTree


def along(
    direction: Direction, *, learning_rate: float | Schedule, optimizer: Optimizer = "sgd", max_grad_norm: float | None = None
) -> Ascent:
    """One optimiser step along a direction: `gradient_ascent` for any of them.

        θ ← θ + α d        in general θ ← θ + optimiser(d, learning_rate(progress))

    Args:
        direction: from `natural` or `steepest`.
        learning_rate, optimizer: as `gradient_ascent`; sgd by default, as Adam would scale d by element, undoing what made it.
        max_grad_norm: the global norm of d is clipped to this, > 0; None does not clip.

    Returns:
        an `Ascent`; its info is that of the direction, and `learning_rate`. `gradient_norm` is that of ∇J, not of d.
    """

    def given(params: Params, climb: Climb, progress: Array) -> tuple[Params, dict]:
        return climb.direction, {}

    inner = gradient_ascent(given, learning_rate=learning_rate, optimizer=optimizer, max_grad_norm=max_grad_norm)

    def step(key: Key, params: Params, state: PyTree, batch: Batch, progress: Array, refresh: Any = None) -> tuple[Params, PyTree, dict]:
        climb = direction(params, batch, progress)
        params, state, info = inner.step(key, params, state, climb, progress)
        return params, state, info | climb.info

    return Ascent(inner.init, direction.gradient, step)


def kl_adaptive(
    direction: Direction,
    target_kl: float | Schedule,
    *,
    learning_rate: float = 1e-2,
    factor: float = 1.5,
    band: float = 2.0,
    bounds: tuple[float, float] = (1e-6, 10.0),
) -> Ascent:
    """A plain step whose size adapts itself to the KL that it makes.

        θ ← θ + α d        then α ← α / factor where KL > band · target_kl,  α · factor where KL < target_kl / band

    KL is the true mean KL(π_old ‖ π_new) over the batch, in nats. The step is taken whatever it is; α, the state, is for the next. So the
    KL a step is kept within the band on average, not bounded. A KL of 0 (no gradient) leaves α as it is.

    Args:
        direction: from `natural` or `steepest`.
        target_kl: > 0, in nats a step, or a schedule of progress in [0, 1].
        learning_rate: the first α, within the bounds.
        factor: > 1, by which α changes.
        band: > 1, how many times the target it may be.
        bounds: the least and the largest α, both > 0.

    Returns:
        an `Ascent`; its info adds `kl`, `learning_rate` (α of this step) and `step_norm`.

    Raises:
        UsageError: for arguments out of range; when traced, for a critic among the parameters.

    Reference:
        Schulman et al. 2017, "Proximal policy optimization algorithms", section 4, whose rule for the penalty this is, with 1.5 and 2.
    """
    above_zero("target_kl", target_kl)
    above_zero("learning_rate", learning_rate)
    for name, value in (("factor", factor), ("band", band)):
        above_zero(name, value)
        if value <= 1:
            raise UsageError(f"{name}: got {value!r}; it must be above 1")
    least, most = bounds
    above_zero("bounds", least)
    if not least <= learning_rate <= most < np.inf:
        raise UsageError(f"bounds: got {bounds!r} for the learning rate {learning_rate!r}; they must lie on either side of it")

    def init(params: Params) -> PyTree:
        return jnp.asarray(learning_rate, jnp.result_type(float))

    def step(key: Key, params: Params, state: Array, batch: Batch, progress: Array, refresh: Any = None) -> tuple[Params, Array, dict]:
        require_no_critic(params)
        climb = direction(params, batch, progress)
        change = jax.tree.map(lambda leaf: state.astype(leaf.dtype) * leaf, climb.direction.policy)
        moved = jax.tree.map(jnp.add, params.policy, change)
        kl = mean_kl(batch.old, moved, batch)
        after = jnp.clip(state * adapted(kl, as_schedule(target_kl)(progress), factor, band), least, most).astype(state.dtype)
        return Params(moved, ()), after, climb.info | {"kl": kl, "learning_rate": state, "step_norm": global_norm(change)}

    return Ascent(init, direction.gradient, step)


def adapted(kl: Array, target: Array, factor: float, band: float) -> Array:
    """By how much the step size changes after a step of that KL; one that is not finite was too large."""
    lower = ~(kl <= band * target)
    higher = (kl > 0) & (kl < target / band)
    return jnp.where(lower, 1 / factor, jnp.where(higher, factor, 1.0))
