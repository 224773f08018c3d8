"""Numbers about noisy runs: intervals, steps to solve, smoothing, and curves of several seeds on one grid.

Everything here takes and gives plain NumPy and Python; nothing needs a device. `scipy` is imported only where it is used.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from policygrad.errors import UsageError

SOLVE_WINDOW = 20
"""Episodes in the mean that decides whether a task is solved, and in every moving average of returns."""


def bootstrap_interval(values: ArrayLike, confidence: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Confidence interval of the mean of a few noisy numbers (returns of episodes, results of seeds).

    Bias-corrected and accelerated bootstrap, which is honest about skewed samples where mean ± 1.96 σ/√n is not. The
    same values and seed always give the same interval.

    Args:
        values: numbers, flattened [N], N ≥ 1.
        confidence: probability in (0, 1) that intervals made this way cover the true mean.
        seed: of the resampling.

    Returns:
        (low, high). A single value, or equal values, give that value twice: the sample says nothing about its spread.
        A value that is NaN or infinite makes both ends NaN.

    Raises:
        UsageError: no values, or a confidence outside (0, 1).

    Reference: Efron, "Better bootstrap confidence intervals", 1987.

        >>> bootstrap_interval([3.0])
        (3.0, 3.0)
    """
    x = np.asarray(values, np.float64).ravel()
    if x.size == 0:
        raise UsageError("an interval needs values: got none: give at least one number")
    if not 0.0 < confidence < 1.0:
        raise UsageError(f"confidence must lie between 0 and 1: got {confidence!r}: give for example 0.95")
    if not np.all(np.isfinite(x)):
        return (math.nan, math.nan)
    if np.all(x == x[0]):
        return (float(x[0]), float(x[0]))

    from scipy.stats import bootstrap

    # The acceleration needs N jackknife means of N values each, N² numbers in all, and matters only for small samples.
    methods = ("BCa", "percentile") if x.size <= 2_000 else ("percentile",)
    num_resamples = 9_999 if x.size <= 1_000 else max(999, 10_000_000 // x.size)
    low = high = math.nan
    for method in methods:
        with warnings.catch_warnings():  # nearly constant samples: BCa warns and gives NaN, the percentiles are fine
            warnings.simplefilter("ignore")
            interval = bootstrap(
                (x,),
                np.mean,
                n_resamples=num_resamples,
                batch=max(1, 1_000_000 // x.size),
                vectorized=True,
                axis=-1,
                confidence_level=confidence,
                method=method,
                rng=np.random.default_rng(seed),
            ).confidence_interval
        low, high = float(interval.low), float(interval.high)
        if math.isfinite(low) and math.isfinite(high):
            break
    return (low, high)


def steps_to_solve(returns: ArrayLike, ends: ArrayLike, threshold: float | None, window: int = SOLVE_WINDOW) -> int | None:
    """Environment steps that were needed to solve the task, or None.

    The task is solved at the end of the first episode after which the mean return of the last `window` episodes is at
    least `threshold`; fewer than `window` episodes never solve it.

    Args:
        returns: [E] undiscounted return per episode, in the order in which the episodes ended.
        ends: [E] steps that all environments together had taken when the episode ended.
        threshold: the return that counts as solved; None where the task has none.
        window: episodes in the mean, ≥ 1.

    Returns:
        The element of `ends`, or None if the task was never solved or has no threshold.

        >>> steps_to_solve([0, 1, 1], [10, 20, 30], threshold=1, window=2)
        30
    """
    x, at = np.asarray(returns, np.float64).ravel(), np.asarray(ends).ravel()
    if x.size != at.size:
        raise UsageError(f"returns and ends must have one entry an episode each: got {x.size} and {at.size}")
    _check_window(window)
    if threshold is None or x.size < window:
        return None
    means = np.lib.stride_tricks.sliding_window_view(x, window).mean(axis=-1)
    # A rounding error must not decide whether 20 returns of 0.1 reach 0.1: near ones are summed exactly.
    slack = 1e-9 * max(1.0, abs(threshold))
    for i in np.flatnonzero(means >= threshold - slack):
        if math.fsum(x[i : i + window]) / window >= threshold:
            return int(at[i + window - 1])
    return None


def final_return(returns: ArrayLike, window: int = SOLVE_WINDOW) -> float | None:
    """Mean return of the last `window` episodes, of all if there were fewer, None if there were none.

    Args:
        returns: [E] in the order in which the episodes ended.
        window: episodes in the mean, ≥ 1.
    """
    _check_window(window)
    x = np.asarray(returns, np.float64).ravel()[-window:]
    return float(np.mean(x)) if x.size else None


def moving_average(x: ArrayLike, window: int = SOLVE_WINDOW) -> NDArray[np.float64]:
    """Mean of each element and those before it, `window` in all.

    y_i = mean(x_{max(0, i − window + 1)}, …, x_i)

    It looks back only, so that a curve never rises before the thing it shows did. NaN elements are left out of the mean;
    where all `window` elements are NaN, so is the result.

    Args:
        x: [N].
        window: elements in the mean, ≥ 1. The first window − 1 results are means of what there is so far.

    Returns:
        [N].
    """
    _check_window(window)
    x = np.asarray(x, np.float64).ravel()
    if x.size == 0:
        return x
    known = ~np.isnan(x)
    # Convolution, not differences of a running sum: one huge value would cost all later means their digits.
    ones = np.ones(min(window, x.size))
    totals = np.convolve(np.where(known, x, 0.0), ones)[: x.size]
    counts = np.rint(np.convolve(known.astype(np.float64), ones)[: x.size])
    return np.divide(totals, counts, out=np.full(x.size, np.nan), where=counts > 0)


def on_common_grid(
    steps: Sequence[ArrayLike], values: Sequence[ArrayLike], num_points: int = 400
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Curves of several seeds, whose points lie at different steps, on one grid of steps.

    Linear between a curve's points. A curve that begins later than the grid is NaN there: it says nothing yet. A curve
    that ends earlier keeps its last value: a seed that stopped when it was solved would otherwise drop out of the median
    and leave it to the slow ones. Points that are NaN are left out; of several points at one step the last counts.

    Args:
        steps: N arrays [E_n], not decreasing.
        values: N arrays [E_n].
        num_points: points of the grid G, ≥ 2.

    Returns:
        grid [G], evenly spaced from the first step of any curve to the last of any, and curves [N, G]. Curves without a
        single number are left out; if none has one, both arrays are empty.
    """
    curves = []
    for x, y in zip(steps, values, strict=True):
        x, y = np.asarray(x, np.float64).ravel(), np.asarray(y, np.float64).ravel()
        if x.size != y.size:
            raise UsageError(f"a curve needs one value a step: got {x.size} steps and {y.size} values")
        known = np.isfinite(x) & np.isfinite(y)
        x, y = x[known], y[known]
        last_of_step = np.append(np.diff(x) > 0, True)[: x.size]
        if x.size:
            curves.append((x[last_of_step], y[last_of_step]))
    if not curves:
        return np.empty(0), np.empty((0, 0))
    grid = np.linspace(min(x[0] for x, _ in curves), max(x[-1] for x, _ in curves), num_points)
    return grid, np.stack([np.interp(grid, x, y, left=np.nan) for x, y in curves])


def _check_window(window: int) -> None:
    if window < 1:
        raise UsageError(f"a window must hold at least one element: got {window}")
