"""The pictures of a run, or of several side by side."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from policygrad.records import RunRecords, load_run
from policygrad.report import style
from policygrad.report.heatmaps import heatmap
from policygrad.report.labels import describe, distinguish
from policygrad.statistics import SOLVE_WINDOW, moving_average, on_common_grid

Array = NDArray[np.float64]

_MAX_DOTS = 4_000  # single episodes behind the moving average
_MAX_PANELS = 6  # heatmaps side by side


def _to_stderr(text: str) -> None:
    print(f"policygrad: warning: {text}", file=sys.stderr, flush=True)


def figures(
    run_dirs: Sequence[Path | str] | Path | str,
    out_dir: Path | str | None = None,
    warn: Callable[[str], None] = _to_stderr,
) -> list[Path]:
    """Draw a run, or compare several.

    returns.png           does it learn? Return per episode, moving average, band over seeds, the threshold
    evaluations.png       how good is the policy without exploring?
    performance.png       does it climb? V(s₀), the performance measure J(θ)
    gradient_norm.png     how large are its steps' directions?
    variance.png          how much do the weights Ψ vary, without and with the baseline?
    mean_square.png       what does the baseline buy? E[Ψ²] without and with it: the gradient's variance grows with that
    gradient_quality.png  how good is the gradient? Signal-to-noise ratio and cosines, of runs with diagnostics
    policy_heatmap.png    what did it learn? π(a|s), where the run left a policy_table.json

    Args:
        run_dirs: run directories; one path is one run.
        out_dir: where the files go; default RUN/figures for one run, ./figures for several.
        warn: takes one line of text for each picture that could not be made.

    Returns:
        The files that were made. A picture whose data the runs do not have is left out.

    Raises:
        UsageError: a directory that is no run. A path that cannot be written only warns.
    """
    if isinstance(run_dirs, (str, Path)):
        run_dirs = [run_dirs]
    runs = [load_run(run_dir) for run_dir in run_dirs]
    if not runs:
        return []
    if out_dir is None:
        out_dir = runs[0].run_dir / "figures" if len(runs) == 1 else Path("figures")
    made = []
    for name, draw in (
        ("returns.png", _returns),
        ("evaluations.png", _evaluations),
        ("performance.png", _performance),
        ("gradient_norm.png", _gradient_norm),
        ("variance.png", _variance),
        ("mean_square.png", _mean_square),
        ("gradient_quality.png", _gradient_quality),
        ("policy_heatmap.png", _policy_heatmap),
    ):
        path = Path(out_dir) / name
        try:
            if draw(runs, path):
                made.append(path)
        except OSError as error:
            warn(f"{path} was not drawn: {(error.strerror or str(error)).lower()}")
        except Exception as error:  # a picture is never worth a trained run
            warn(f"{path} was not drawn: {type(error).__name__}: {error}")
    return made


# ---------------------------------------------------------------- the pictures


def _evaluations(runs: Sequence[RunRecords], path: Path) -> bool:
    curves = _curves(runs, [_evaluated(run) for run in runs], lambda num_evaluations: 1)
    if not curves:
        return False
    figure, (ax,) = style.canvas("Return in evaluations", _subtitle(runs, curves, "mode actions"))
    style.legend(ax, _draw(ax, curves, "mean of an evaluation", dots=None))
    for threshold in sorted({float(value) for run in runs if (value := run.config.get("reward_threshold")) is not None}):
        _threshold(ax, threshold)
    _finish(ax, curves, "mean return of an evaluation's episodes")
    style.save(figure, path)
    return True


def _evaluated(run: RunRecords) -> Series:
    series = []
    for table in run.evaluations.values():
        steps, which = np.unique(table["steps"], return_inverse=True)
        series.append((steps.astype(np.float64), np.bincount(which, weights=table["return"]) / np.bincount(which)))
    return series


def _returns(runs: Sequence[RunRecords], path: Path) -> bool:
    curves = _curves(runs, [_episodes(run) for run in runs], _episode_window)
    if not curves:
        return False
    thresholds = {float(value) for run in runs if (value := run.config.get("reward_threshold")) is not None}
    what = _smoothing(curves, "episodes")
    figure, (ax,) = style.canvas("Episode return", _subtitle(runs, curves, what))
    style.legend(ax, _draw(ax, curves, what, dots="one episode"))
    for threshold in sorted(thresholds):
        _threshold(ax, threshold)
    _finish(ax, curves, "return of an episode (sum of rewards)")
    style.save(figure, path)
    return True


def _performance(runs: Sequence[RunRecords], path: Path) -> bool:
    return _one_metric(runs, path, "start_value", "The climbing performance measure J(θ)", "estimate of V(s₀) (discounted return)")


def _gradient_norm(runs: Sequence[RunRecords], path: Path) -> bool:
    return _one_metric(runs, path, "gradient_norm", "Gradient norm", "norm of the gradient, ‖∇J(θ)‖₂", positive=True)


def _one_metric(runs: Sequence[RunRecords], path: Path, metric: str, title: str, label: str, positive: bool = False) -> bool:
    curves = _curves(runs, [_metric(run, metric) for run in runs], _update_window)
    if not curves:
        return False
    what = _smoothing(curves, "updates")
    figure, (ax,) = style.canvas(title, _subtitle(runs, curves, what))
    style.legend(ax, _draw(ax, curves, what, dots="one update"))
    if positive and not style.logarithmic_if_wide(ax, _all_values(curves)):
        ax.set_ylim(bottom=0.0)
    _finish(ax, curves, label)
    style.save(figure, path)
    return True


def _variance(runs: Sequence[RunRecords], path: Path) -> bool:
    return _with_and_without(runs, path, "variance", "Variance of the weights Ψ", "variance of Ψ (reward²)")


def _mean_square(runs: Sequence[RunRecords], path: Path) -> bool:
    # A constant baseline leaves the variance of Ψ over a batch as it is, and still lowers the gradient's: through E[Ψ²].
    return _with_and_without(runs, path, "mean_square", "Mean square of the weights Ψ", "mean square of Ψ (reward²)")


def _with_and_without(runs: Sequence[RunRecords], path: Path, quantity: str, title: str, label: str) -> bool:
    without = _curves(runs, [_metric(run, f"{quantity}_uncentred") for run in runs], _update_window)
    with_it = _curves(runs, [_metric(run, f"{quantity}_centred") for run in runs], _update_window)
    if not with_it:
        return False
    what = _smoothing(with_it, "updates")
    both = _all_values(without + with_it)
    if len(runs) > 1:
        # Two questions to each run would be two lines to each run: a panel answers one.
        figure, axes = style.canvas(title, _subtitle(runs, with_it, what), 2, width=9.6)
        handles = []
        for ax, curves, name in zip(
            axes, (without, with_it), ("without the baseline", "with the baseline, as the run used it"), strict=True
        ):
            handles = _draw(ax, curves, what, dots=None) or handles
            _finish(ax, curves or with_it, label if ax is axes[0] else "")
            style.name_panel(ax, name)
        style.legend(axes[0], handles, width=9.6)
    else:
        figure, axes = style.canvas(title, _subtitle(runs, with_it, what))
        if without and _equal(without[0], with_it[0]):
            names, curves = ["the same without and with the baseline"], with_it
        else:
            names, curves = ["without the baseline", "with the baseline"], [*without, *with_it]
        # The order of colours and line styles: with the baseline first, for it is what the run used.
        styled = [curve._replace(label=name, style=i) for curve, name, i in zip(curves, names, (1, 0)[-len(names) :], strict=True)]
        style.legend(axes[0], _draw(axes[0], styled, what, dots=None, named=True))
        _finish(axes[0], styled, label)
    if not style.logarithmic_if_wide(axes[0], both):
        axes[0].set_ylim(bottom=0.0)
    style.save(figure, path)
    return True


_QUALITY = {
    "gradient_snr": ("signal-to-noise ratio", "|E g|² / tr Cov g, estimated"),
    "half_batch_cosine": ("between halves of the batch", "cosine"),
    "exact_cosine": ("to the exact gradient ∇J", "cosine"),
}
"""Metric → name of its panel, label of its y axis."""


def _gradient_quality(runs: Sequence[RunRecords], path: Path) -> bool:
    drawn = {name: _curves(runs, [_metric(run, name) for run in runs], _update_window) for name in _QUALITY}
    panels = {name: curves for name, curves in drawn.items() if curves}
    if not panels:
        return False
    first = next(iter(panels.values()))
    what, width = _smoothing(first, "updates"), 2.4 + 3.6 * len(panels)
    figure, axes = style.canvas("How good is the gradient?", _subtitle(runs, first, what), len(panels), width=width, common=False)
    handles: list[Any] = []
    for ax, (name, curves) in zip(axes, panels.items(), strict=True):
        found = _draw(ax, curves, what, dots="one update")
        handles = found if len(found) > len(handles) else handles
        title, label = _QUALITY[name]
        style.name_panel(ax, title)
        _finish(ax, curves, label)
        if name.endswith("cosine"):
            ax.set_ylim(-1.05, 1.05)
    style.legend(axes[0], handles, width=width)
    style.save(figure, path)
    return True


def _policy_heatmap(runs: Sequence[RunRecords], path: Path) -> bool:
    panels: dict[str, Array] = {}
    names: dict[str, Any] = {}
    labels = distinguish([run.config for run in runs], [run.run_dir.name for run in runs])
    for run, label in zip(runs, labels, strict=True):
        file = run.run_dir / "policy_table.json"
        if not file.exists():
            continue
        tables = json.loads(file.read_text("utf-8"))
        names = {key: tables.pop(key, None) for key in ("action_labels", "state_labels")}
        for seed, table in tables.items():
            panels[f"seed {seed}" if len(runs) == 1 else label] = np.asarray(table, np.float64)
            if len(runs) > 1:
                break  # one panel a run: seeds of one run are compared in its own picture
    if not panels:
        return False
    first = next(iter(panels.values()))
    panels = {name: table for name, table in panels.items() if table.shape == first.shape}
    room = max(1, min(_MAX_PANELS, 24 // first.shape[1]))
    left_out = len(panels) - room
    shown = dict(list(panels.items())[:room])
    if len(runs) == 1 and len(panels) == 1:
        shown = {"": first}
    title = "What the policy does in each state" + (f" ({left_out} more not shown)" if left_out > 0 else "")
    heatmap(shown, path, title, **names, subtitle=_subtitle(runs, [], ""))
    return True


# ---------------------------------------------------------------- from records to curves


class _Curve(NamedTuple):
    """What is drawn of one run: a line, a band over its seeds, single points of a single seed."""

    label: str
    style: int
    x: Array  # [G] environment steps
    y: Array  # [G] moving average; median over seeds
    low: Array | None  # [G] the band, where there are seeds to span it
    high: Array | None
    band: str
    dots: tuple[Array, Array] | None  # what was averaged, of a single seed
    num_seeds: int
    window: int
    held: bool  # a seed stopped early and keeps its last value


Series = list[tuple[Array, Array]]  # one (steps, values) a seed


def _episodes(run: RunRecords) -> Series:
    return [(table["steps"].astype(np.float64), table["return"]) for table in run.episodes.values()]


def _metric(run: RunRecords, name: str) -> Series:
    return [(table["steps"], table[name]) for table in run.metrics.values() if name in table and "steps" in table]


def _episode_window(num_episodes: int) -> int:
    """Episodes in a moving average: those that decide what is solved, until so many leave nothing but a broad smear."""
    return max(SOLVE_WINDOW, num_episodes // 200)


def _update_window(num_updates: int) -> int:
    """Updates in a moving average: one picture has room for a hundred features, and few updates need no smoothing."""
    return 1 if num_updates < 100 else max(10, num_updates // 50)


def _curves(runs: Sequence[RunRecords], series: Sequence[Series], window: Callable[[int], int]) -> list[_Curve]:
    labels = distinguish([run.config for run in runs], [run.run_dir.name for run in runs])
    curves = []
    for i, (label, of_run) in enumerate(zip(labels, series, strict=True)):
        known = [(x[keep], y[keep]) for x, y in of_run if np.any(keep := np.isfinite(x) & np.isfinite(y))]
        if known:
            curves.append(_curve(label, i, known, window(max(x.size for x, _ in known))))
    return curves


def _curve(label: str, index: int, series: Series, window: int) -> _Curve:
    smooth = [moving_average(y, window) for _, y in series]
    if len(series) == 1:
        ((x, y),) = series
        line_x, line_y = style.thin(x, smooth[0])
        return _Curve(label, index, line_x, line_y, None, None, "", (x, y) if window > 1 else None, 1, window, False)
    grid, values = on_common_grid([x for x, _ in series], smooth)
    everywhere = np.all(np.isfinite(values), axis=0)  # from where the last seed has begun
    grid, values = grid[everywhere], values[:, everywhere]
    if len(series) >= 4:
        low, high = np.quantile(values, [0.25, 0.75], axis=0)
        band = "interquartile range"
    else:
        low, high = values.min(axis=0), values.max(axis=0)
        band = "lowest to highest"
    ends = [x[-1] for x, _ in series]
    held = min(ends) < 0.9 * max(ends)
    return _Curve(label, index, grid, np.median(values, axis=0), low, high, band, None, len(series), window, held)


def _all_values(curves: Sequence[_Curve]) -> Array:
    parts = [part for curve in curves for part in (curve.y, curve.low, curve.high) if part is not None]
    return np.concatenate(parts) if parts else np.empty(0)


def _equal(a: _Curve, b: _Curve) -> bool:
    return a.y.shape == b.y.shape and bool(np.allclose(a.y, b.y, rtol=1e-3, atol=1e-12))


# ---------------------------------------------------------------- from curves to ink


def _draw(ax: Any, curves: Sequence[_Curve], what: str, dots: str | None, named: bool = False) -> list[Any]:
    """Draw curves; return what the legend shows: their labels where they are several or `named`, else how they came about."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    marked = len(curves) > 1
    handles = []
    for position, curve in enumerate(curves):
        colour = style.COLOURS[curve.style % len(style.COLOURS)]
        line_style = style.LINES[curve.style % len(style.LINES)] if marked else "-"
        if curve.dots is not None and dots is not None and len(curves) == 1:
            _dots(ax, *curve.dots)
            handles.append(Line2D([], [], linestyle="none", marker=".", markersize=6, markeredgewidth=0, color="#777777", label=dots))
        if curve.low is not None and curve.high is not None:
            ax.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.16 if marked else 0.22, linewidth=0, zorder=2)
            if marked:  # overlapping bands need an edge that is somebody's, in grey too
                for edge in (curve.low, curve.high):
                    ax.plot(curve.x, edge, color=colour, linestyle=line_style, linewidth=0.6, alpha=0.6, zorder=2)
        label = curve.label if marked or named else _line_label(curve, what)
        (line,) = ax.plot(
            curve.x,
            curve.y,
            color=colour,
            linestyle=line_style,
            linewidth=1.8,
            marker=style.MARKERS[curve.style % len(style.MARKERS)] if marked else None,
            markersize=5,
            markeredgecolor="white",
            markeredgewidth=0.6,
            markevery=_places(curve.x, position, len(curves)) if marked else None,
            label=label,
            zorder=4,
        )
        handles.append(line)
    bands = {curve.band for curve in curves if curve.band}
    for band in sorted(bands):
        colour = "#bdbdbd" if marked else style.COLOURS[curves[0].style]
        of_seeds = "over seeds" if marked else f"of {curves[0].num_seeds} seeds"
        handles.append(Patch(facecolor=colour, alpha=0.6 if marked else 0.22, label=f"{band} {of_seeds}"))
    return handles


def _line_label(curve: _Curve, what: str) -> str:
    if curve.num_seeds == 1:
        return what or "every update"
    return f"median of {curve.num_seeds} seeds"


def _dots(ax: Any, x: Array, y: Array) -> None:
    if x.size > _MAX_DOTS:  # a random part: every k-th would pick out one environment of many
        keep = np.sort(np.random.default_rng(0).choice(x.size, _MAX_DOTS, replace=False))
        x, y = x[keep], y[keep]
    size, alpha = (4.5, 0.5) if x.size < 1_000 else (3.0, 0.3)
    ax.plot(x, y, linestyle="none", marker=".", markersize=size, markeredgewidth=0, color="#777777", alpha=alpha, zorder=1)


def _places(x: Array, position: int, count: int) -> list[int]:
    """About eight places for markers, evenly along x, shifted so that curves do not mark the same ones."""
    if x.size == 0:
        return []
    at = x[0] + (x[-1] - x[0]) * (np.arange(8) + (position + 0.5) / count) / 8
    return sorted({int(i) for i in np.clip(np.searchsorted(x, at), 0, x.size - 1)})


def _threshold(ax: Any, value: float) -> None:
    ax.axhline(value, color=style.INK, linewidth=1.0, linestyle=(0, (2, 2)), zorder=3)
    low, high = ax.get_ylim()
    margin = 0.06 * (max(high, value) - min(low, value))
    ax.set_ylim(min(low, value - margin), max(high, value + 1.5 * margin))  # the line and its name stay in the picture
    ax.annotate(
        f"solved ({value:g})",
        xy=(0.0, value),
        xycoords=("axes fraction", "data"),
        xytext=(5, 5),
        textcoords="offset points",
        fontsize=9,
        color=style.INK,
        zorder=5,
        bbox={"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 1},
    )


def _finish(ax: Any, curves: Sequence[_Curve], label: str) -> None:
    style.steps_axis(ax, max(float(curve.x[-1]) for curve in curves))
    if label:
        ax.set_ylabel(label, fontsize=10, color=style.INK)


def _smoothing(curves: Sequence[_Curve], what: str) -> str:
    windows = {curve.window for curve in curves if curve.window > 1}
    if not windows:
        return ""
    low, high = min(windows), max(windows)
    return f"moving average of {low if low == high else f'{low} to {high}'} {what}"


def _subtitle(runs: Sequence[RunRecords], curves: Sequence[_Curve], what: str) -> str:
    """What was run, and how the lines came about."""
    if len(runs) == 1:
        name = describe(runs[0].config)
    else:
        envs = {str(run.config.get("env", "")) for run in runs}
        name = envs.pop() if len(envs) == 1 else ""
    seeds = sorted({curve.num_seeds for curve in curves})
    median = ""
    if seeds and seeds[-1] > 1:
        median = f"median over {seeds[0]} seeds" if len(seeds) == 1 else f"median over {seeds[0]} to {seeds[-1]} seeds"
    if len(runs) == len(curves) == 1 and not median:
        what = ""  # the legend says it
    how = ", ".join(part for part in (median, what) if part)
    note = "\nseeds that stopped early keep their last value" if any(curve.held for curve in curves) else ""
    return " · ".join(part for part in (name, how) if part) + note
