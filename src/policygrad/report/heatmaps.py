"""π(a|s) of a policy over few states and few actions, as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from policygrad.errors import UsageError
from policygrad.report import style

_MAX_WRITTEN = 200  # cells that still have room for their number
_MAX_NAMED = 40  # rows or columns that still have room for their name


def heatmap(
    probabilities: ArrayLike | Mapping[str, ArrayLike],
    path: Path | str,
    title: str,
    action_labels: Sequence[str] | None = None,
    state_labels: Sequence[str] | None = None,
    *,
    subtitle: str = "",
) -> Path:
    """Draw π(a|s), one row a state, one column an action; white is 0, dark is 1, and small tables show the numbers.

    Args:
        probabilities: [S, A], rows sum to 1; or several of them by the title of their panel, all of one shape.
        path: of the PNG file.
        title: above it.
        action_labels: A names; default 0, 1, ….
        state_labels: S names; default 0, 1, ….
        subtitle: below the title.

    Returns:
        The path.

    Raises:
        UsageError: no matrix, or labels of another length.
        OSError: the path cannot be written.
    """
    panels = probabilities if isinstance(probabilities, Mapping) else {"": probabilities}
    matrices = {name: np.asarray(matrix, np.float64) for name, matrix in panels.items()}
    shapes = {matrix.shape for matrix in matrices.values()}
    if len(shapes) != 1 or len(shape := shapes.pop()) != 2 or 0 in shape:
        got = ", ".join(str(matrix.shape) for matrix in matrices.values()) or "none"
        raise UsageError(f"a heatmap needs probabilities of shape [states, actions], all the same: got {got}")
    num_states, num_actions = shape
    actions, states = _names(action_labels, num_actions, "action"), _names(state_labels, num_states, "state")

    if len(matrices) == 1:
        subtitle = " · ".join(part for part in (subtitle, *matrices) if part)
    written = num_states * num_actions * len(matrices) <= _MAX_WRITTEN
    longest = max((len(name) for name in states), default=1)
    cell = min(0.8, max(0.1, 7.0 / (num_actions * len(matrices))))
    row = min(0.45, max(0.02, 6.0 / num_states))
    width = max(4.2, 1.6 + 0.07 * longest + cell * num_actions * len(matrices) + 0.25 * len(matrices))
    height = max(2.6, 1.5 + row * num_states)
    figure, axes = style.canvas(title, subtitle, len(matrices), width=min(12.0, width), height=min(9.0, height))
    image: Any = None
    for ax, (name, matrix) in zip(axes, matrices.items(), strict=True):
        ax.grid(False)
        for spine in ax.spines.values():
            spine.set_visible(True)
            spine.set_color(style.FAINT)
        image = ax.imshow(matrix, cmap="Blues", vmin=0.0, vmax=1.0, aspect="auto", interpolation="nearest")
        if len(matrices) > 1:
            style.name_panel(ax, name)
        _ticks(ax.xaxis, actions)
        _ticks(ax.yaxis, states)
        ax.set_xlabel("action a", fontsize=10, color=style.INK)
        if written:
            for (s, a), value in np.ndenumerate(matrix):
                ax.text(a, s, _cell(value), ha="center", va="center", fontsize=8, color="white" if value > 0.55 else style.INK)
    axes[0].set_ylabel("state s", fontsize=10, color=style.INK)
    bar = figure.colorbar(image, ax=axes, shrink=1.0, aspect=25, pad=0.02, ticks=[0, 0.25, 0.5, 0.75, 1])
    bar.set_label("probability π(a|s)", fontsize=10, color=style.INK)
    bar.ax.tick_params(labelsize=9, colors=style.INK)
    bar.outline.set_edgecolor(style.FAINT)
    path = Path(path)
    style.save(figure, path)
    return path


def _names(labels: Sequence[str] | None, n: int, what: str) -> list[str]:
    if labels is None:
        return [str(i) for i in range(n)]
    if len(labels) != n:
        raise UsageError(f"a heatmap needs one label for each {what}: got {len(labels)} for {n}")
    return [str(label) for label in labels]


def _ticks(axis: Any, names: list[str]) -> None:
    every = -(-len(names) // _MAX_NAMED)
    axis.set_ticks(range(0, len(names), every), names[::every])


def _cell(value: float) -> str:
    return "–" if not np.isfinite(value) else f"{value:.2f}"
