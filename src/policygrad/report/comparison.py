"""Bias and variance of many estimators side by side, as a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from policygrad.report import style

_ROW = 0.195
"""Inches of a row."""


def comparison(rows: Sequence[Mapping[str, Any]], path: Path | str, title: str, subtitle: str = "") -> Path:
    """Draw what each estimator gets wrong on average, and how much it varies: a row each, in groups, all on one scale.

    Args:
        rows: a mapping for each with `group`, `name`, `relative_bias`, `relative_variance` and `unbiased`; rows whose numbers are
            not finite are left out.
        path: of the PNG file.
        title, subtitle: above it.

    Returns:
        The path.

    Raises:
        OSError: the path cannot be written.
    """
    shown = [row for row in rows if math.isfinite(row["relative_bias"]) and math.isfinite(row["relative_variance"])]
    places, labels, heads = _places(shown)
    height = _ROW * (max(places, default=0) + 2) + 1.7
    figure, axes = style.canvas(title, subtitle, 2, width=10.0, height=height)
    _bars(axes[0], places, [row["relative_bias"] for row in shown], [not row["unbiased"] for row in shown], style.COLOURS[1])
    _bars(axes[1], places, [row["relative_variance"] for row in shown], [True] * len(shown), style.COLOURS[0])
    style.name_panel(axes[0], "bias: |E[ĝ] − ∇J| / |∇J|")
    style.name_panel(axes[1], "variance, relative to plain REINFORCE")
    axes[1].axvline(1.0, color=style.INK, linewidth=1.0, linestyle=(0, (2, 2)), zorder=3)
    axes[0].set_yticks(places, labels)
    axes[0].set_ylim(max(places, default=0) + 0.8, -0.8)
    for ax in axes:
        ax.grid(False, axis="y")
        ax.tick_params(axis="y", length=0, labelsize=8)
    for place, name in heads:
        axes[0].annotate(
            name,
            (0, place),
            (-4, 0),
            ("axes fraction", "data"),
            textcoords="offset points",
            ha="right",
            va="center",
            fontsize=8.5,
            fontweight="bold",
            color=style.INK,
            annotation_clip=False,
        )
    path = Path(path)
    style.save(figure, path)
    return path


def _places(rows: Sequence[Mapping[str, Any]]) -> tuple[list[int], list[str], list[tuple[int, str]]]:
    """Where each row stands, from the top, what it is called, and where the head of each group stands."""
    places: list[int] = []
    heads: list[tuple[int, str]] = []
    place, group = 0, None
    for row in rows:
        if row["group"] != group:
            group = row["group"]
            heads.append((place, group))
            place += 1
        places.append(place)
        place += 1
    return places, [row["name"] for row in rows], heads


def _bars(ax: Any, places: Sequence[int], values: Sequence[float], drawn: Sequence[bool], colour: str) -> None:
    """Bars with their numbers behind them; a ring where there is nothing to draw."""
    lengths = [value if there else 0.0 for value, there in zip(values, drawn, strict=True)]
    longest = max([*lengths, 1e-12])
    ax.barh(places, lengths, height=0.7, color=colour, zorder=2)
    ax.set_xlim(0, 1.16 * longest)
    for place, length, there in zip(places, lengths, drawn, strict=True):
        if there:
            ax.annotate(
                _number(length), (length, place), (3, 0), textcoords="offset points", va="center", fontsize=7.5, color=style.INK, zorder=4
            )
        else:
            ax.plot(0, place, "o", markersize=4, markerfacecolor="white", markeredgecolor=style.INK, clip_on=False, zorder=4)


def _number(value: float) -> str:
    """Two digits that count: 0.042, 0.61, 2.4, 13."""
    if value <= 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    return f"{value:.{max(0, 1 - math.floor(math.log10(value)))}f}"
