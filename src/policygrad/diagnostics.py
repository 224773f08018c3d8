"""How good is the gradient's estimate? Its variance, signal and direction, from the columns of a batch while it trains.

The columns of a rollout (environments, or episodes) are a sample: each adds g_i to the gradient g = Σ_i g_i, and how far the g_i
lie apart tells how far g lies from its expectation.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from policygrad.gradients.contributions import CHUNKS
from policygrad.types import Agent, Algorithm, Array, Key, PyTree, Rollout


def gradient_statistics(contributions: PyTree, counted: Array | None = None, exact: PyTree | None = None) -> dict[str, Array]:
    """Variance, signal and direction of a gradient, from what each of n independent columns adds to it.

        g = Σ_i g_i        tr Σ̂ = n/(n−1) Σ_i |g_i − ḡ|²        |ĝ|² = |g|² − tr Σ̂

    tr Σ̂ is an unbiased estimate of the trace of g's covariance, and |ĝ|² one of |E g|², if the g_i are independent and alike.

    Args:
        contributions: g_i, a pytree with a leading axis [n] on every leaf, in units of J per unit of θ.
        counted: [n] bool, the columns that are part of the sample; the others must add nothing. None: all.
        exact: the true gradient, a pytree of the same structure without the leading axis.

    Returns:
        scalars; NaN where they are not defined, as all are for n = 1.

        - `gradient_variance`: tr Σ̂ ≥ 0, the variance of the whole batch's gradient, summed over parameters.
        - `gradient_signal`: |ĝ|². Negative where the noise of this batch hides the signal; its mean over updates is right.
        - `gradient_snr`: |ĝ|² / tr Σ̂ ≥ −1. The expected cosine to the true gradient is about √(snr / (1 + snr)).
        - `gradient_noise_scale`: n tr Σ̂ / |ĝ|², the number of columns at which the signal-to-noise ratio is 1; NaN unless |ĝ|² > 0.
        - `half_batch_cosine`: in [−1, 1], between the sums over columns of even and of odd number; NaN if one is 0.
        - `exact_cosine`: in [−1, 1], between g and `exact`, where that is given; NaN if one is 0.

    Reference:
        McCandlish et al. 2018, "An empirical model of large-batch training", appendix A.1, for `gradient_noise_scale` (B_simple). There
        the unit is a sample, here a column. A ratio of two estimates is biased, most of all in small batches: divide means of
        `gradient_variance` and `gradient_signal` over many updates for one that is not.
    """
    parts = _matrix(contributions)
    counts = jnp.ones(parts.shape[0], bool) if counted is None else counted
    largest = jnp.max(jnp.abs(parts))
    scale = jnp.where(largest > 0, largest, 1)
    parts = parts / scale  # squares of gradients may overflow, or vanish
    n = jnp.sum(counts)
    total = jnp.sum(parts, axis=0)
    deviations = jnp.where(counts[:, None], parts - total[None] / n, 0)
    variance = jnp.where(n > 1, n / jnp.maximum(n - 1, 1) * jnp.sum(deviations**2), jnp.nan)
    signal = jnp.sum(total**2) - variance
    statistics = {
        "gradient_variance": variance * scale**2,
        "gradient_signal": signal * scale**2,
        "gradient_snr": _ratio(signal, variance),
        "gradient_noise_scale": _ratio(n * variance, signal),
        "half_batch_cosine": jnp.where(n > 1, _cosine(jnp.sum(parts[::2], axis=0), jnp.sum(parts[1::2], axis=0)), jnp.nan),
    }
    if exact is not None:
        statistics["exact_cosine"] = _cosine(total, _matrix(jax.tree.map(lambda leaf: leaf[None], exact))[0])
    return statistics


def diagnosed(algorithm: Algorithm, exact: Callable[[PyTree], PyTree] | None = None) -> Algorithm:
    """The same algorithm, whose metrics also tell how good its gradient is.

    Before the step, the policy's gradient is estimated once more, column by column, and `gradient_statistics` of that is added to
    the metrics: of the gradient before clipping, an entropy bonus included. Agents stay as they would be without.

    What counts as a column: an environment, or an episode where whole ones are collected. The sample of a rollout with a single
    column is its parts in time (up to 8): steps of an episode depend on each other, so its variance is then only a rough one. A
    statistic that all columns share, such as the batch's mean as a baseline, makes them depend on each other; it is taken as
    fixed, so the variance comes out too small and the signal too large. With two episodes and their mean by some 10 and 80 %,
    and of order 1/n with n.

    Args:
        algorithm: what a recipe returns.
        exact: policy -> its true gradient, of the policy's structure, traced by JAX; adds `exact_cosine`.

    Returns:
        an `Algorithm`, of about the cost of another gradient in each update and with memory for n copies of the policy.
    """

    def update(key: Key, agent: Agent, rollout: Rollout) -> tuple[Agent, dict]:
        after, metrics = algorithm.update(key, agent, rollout)
        contributions = algorithm.contributions(agent, rollout).policy
        truth = None if exact is None else exact(agent.params.policy)
        parts = jax.tree.leaves(contributions)[0].shape[0]
        return after, metrics | gradient_statistics(contributions, _counted(rollout.mask, parts), truth)

    return algorithm._replace(update=update)


def _counted(mask: Array, parts: int) -> Array:
    """All columns; of the parts in time that `contributions` cuts a single column into, those that hold a step: [parts] bool."""
    rows, columns = mask.shape
    if columns > 1 or parts != min(rows, CHUNKS):
        return jnp.ones(parts, bool)
    return jnp.arange(parts) < jnp.sum(mask > 0)


def _matrix(tree: PyTree) -> Array:
    """Leaves [n, …] side by side, [n, P]."""
    return jnp.concatenate([jnp.reshape(leaf, (leaf.shape[0], -1)) for leaf in jax.tree.leaves(tree)], axis=1)


def _ratio(x: Array, y: Array) -> Array:
    """x / y; NaN unless y > 0."""
    return jnp.where(y > 0, x / jnp.where(y > 0, y, 1), jnp.nan)


def _cosine(x: Array, y: Array) -> Array:
    """⟨x, y⟩ / (|x| |y|); NaN if one is 0. Each is scaled first, so that no square vanishes or overflows."""
    x, y = (v / jnp.max(jnp.abs(v)) for v in (x, y))
    return jnp.clip(jnp.vdot(x, y) / jnp.sqrt(jnp.vdot(x, x) * jnp.vdot(y, y)), -1, 1)
