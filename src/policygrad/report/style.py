"""The canvas that every picture is drawn on."""

from __future__ import annotations

import io
import os
import textwrap
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

INK, FAINT = "#222222", "#6b6b6b"

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#AA4499", "#000000", "#56B4E9", "#E69F00")
"""Okabe and Ito's colours for the colour-blind, with Tol's darker purple. In grey, line styles and markers tell curves apart."""

LINES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (8, 2)), (0, (3, 1, 1, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v")
"""Seven colours, six line styles and five markers: the cycles fall together only after 210 curves."""

MAX_POINTS = 2_000
"""Points of a drawn line: more than the picture has columns."""


def canvas(
    title: str, subtitle: str, panels: int = 1, width: float = 7.2, height: float = 4.4, common: bool = True, columns: int | None = None
) -> tuple[Any, list[Any]]:
    """A figure and its axes, in matplotlib's object-oriented interface.

    No pyplot: its figures are global state, and it must not be used off the main thread.

    Args:
        title: what the picture answers.
        subtitle: of what; its lines are wrapped to the width.
        panels: how many axes.
        width: inches.
        height: inches.
        common: whether the panels share their y axis.
        columns: how many of them side by side, all by default; the rest follow below, row by row.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    across = min(columns or panels, panels)
    axes = list(np.ravel(figure.subplots(-(-panels // across), across, sharey=common)))
    for ax in axes[panels:]:
        ax.remove()
    del axes[panels:]
    for ax in axes:
        for side in ("top", "right"):
            ax.spines[side].set_visible(False)
        for side in ("left", "bottom"):
            ax.spines[side].set_color(FAINT)
        ax.tick_params(colors=INK, labelsize=9, color=FAINT)
        ax.grid(True, color="#e4e4e4", linewidth=0.6)
        ax.set_axisbelow(True)
    above = 24.0 if panels > 1 else 6.0  # points above the axes: panels have names of their own
    lines = [part for line in subtitle.splitlines() for part in textwrap.wrap(line, int(13.5 * (width - 0.8)))]
    if lines:
        _above(axes[0], above, "\n".join(lines), fontsize=9, color=FAINT)
        above += 11.5 * len(lines) + 4
    _above(axes[0], above, title, fontsize=13, fontweight="bold", color=INK)
    _reserve(figure, top=above + 18)
    return figure, axes


def name_panel(ax: Any, name: str) -> None:
    """What one of several panels shows, above it."""
    _above(ax, 5.0, name, fontsize=10, color=INK)


def _above(ax: Any, points: float, text: str, **kwargs: Any) -> None:
    # Hung on the axes, to stand above their left edge, but no part of the layout: a long text would push panels apart.
    annotation = ax.annotate(
        text, (0, 1), (0, points), "axes fraction", textcoords="offset points", va="bottom", annotation_clip=False, **kwargs
    )
    annotation.set_in_layout(False)


def _reserve(figure: Any, top: float | None = None, bottom: float | None = None, taller: float = 0.0) -> None:
    """Keep points above and below the axes free for what is no part of the layout, and make the figure so much taller."""
    engine = figure.get_layout_engine()
    height = 72 * figure.get_figheight()
    _, low, _, size = engine.get()["rect"]
    above = (1 - low - size) * height if top is None else top
    below = low * height if bottom is None else bottom
    height += taller
    figure.set_figheight(height / 72)
    engine.set(rect=(0, below / height, 1, 1 - (above + below) / height), w_pad=0.1, h_pad=0.1)


def steps_axis(ax: Any, last: float) -> None:
    """Environment steps along x, from 0, written 50k and 1.5M."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    ax.set_xlim(0, max(1.0, last))
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: short_number(x)))
    ax.set_xlabel("environment steps", fontsize=10, color=INK)


def short_number(x: float) -> str:
    """0, 500, 50k, 1.5M, 2G."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(x) >= size:
            return f"{x / size:.4g}{unit}"
    return f"{x:.4g}"


def logarithmic_if_wide(ax: Any, values: NDArray[np.float64]) -> bool:
    """Make the y axis logarithmic where the values span more than two decades; say whether."""
    from matplotlib.ticker import LogLocator, NullFormatter

    positive = values[np.isfinite(values) & (values > 0)]
    if positive.size < 2:
        return False
    low, high = np.quantile(positive, [0.02, 0.98])
    if high <= 100 * low:
        return False
    ax.set_yscale("log", nonpositive="mask")
    ax.yaxis.set_major_locator(LogLocator(10, numticks=8))
    ax.yaxis.set_minor_formatter(NullFormatter())
    # One value next to nothing must not stretch the axis over decades that hold no curve.
    ax.set_ylim(bottom=max(float(positive.min()), float(low) / 30) / 1.5, top=float(positive.max()) * 1.5)
    return True


def legend(ax: Any, handles: list[Any], width: float = 7.2) -> None:
    """Below the axes, where it covers no data whatever the data are."""
    from matplotlib.transforms import ScaledTranslation

    if not handles:
        return
    room = int(15 * (width - 0.8))  # characters
    for handle in handles:
        handle.set_label("\n".join(textwrap.wrap(str(handle.get_label()), room - 8)))
    lengths = [min(len(handle.get_label()), room - 8) + 8 for handle in handles]
    columns = len(handles) if sum(lengths) <= room else max(1, room // max(lengths))
    rows = -(-sum(handle.get_label().count("\n") + 1 for handle in handles) // columns)
    below = ax.transAxes + ScaledTranslation(0, -42 / 72, ax.figure.dpi_scale_trans)
    shown = ax.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0, 0),
        bbox_transform=below,
        borderaxespad=0,
        borderpad=0,
        ncols=columns,
        frameon=False,
        fontsize=9,
        labelcolor=INK,
        handlelength=3.2,
        columnspacing=2.2,
    )
    shown.set_in_layout(False)
    _reserve(ax.figure, bottom=16.0 * rows, taller=16.0 * max(0, rows - 3))


def thin(x: NDArray[np.float64], y: NDArray[np.float64], max_points: int = MAX_POINTS) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A long curve with the same look: the least and the greatest of every few neighbours, in their order.

    Args:
        x: [N].
        y: [N], NaN where there is nothing.
        max_points: of the result, ≥ 2.

    Returns:
        x and y of at most `max_points` points, the first and the last of the curve among them.
    """
    if x.size <= max_points:
        return x, y
    num_bins = max_points // 2 - 1
    edges = np.linspace(0, x.size, num_bins + 1).astype(int)
    keep = {0, x.size - 1}
    for a, b in pairwise(edges):
        part = y[a:b]
        known = np.flatnonzero(np.isfinite(part))
        if known.size:
            keep.add(int(a + known[np.argmin(part[known])]))
            keep.add(int(a + known[np.argmax(part[known])]))
        else:
            keep.add(int(a))
    index = np.array(sorted(keep))
    return x[index], y[index]


def save(figure: Any, path: Path) -> None:
    """Write a PNG, whole or not at all.

    Raises:
        OSError: the path cannot be written.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor="white")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(buffer.getvalue())
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
