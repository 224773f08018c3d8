"""What one seed has recorded so far, in memory and as lines of the run directory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from policygrad.records import Records
from policygrad.statistics import SOLVE_WINDOW, steps_to_solve
from policygrad.training.runners import Chunk

if TYPE_CHECKING:
    from policygrad.training.result import SeedResult


class History:
    """All that one seed recorded so far."""

    def __init__(self, seed: int):
        self.seed = seed
        self.chunks: list[Chunk] = []

    def add(self, chunk: Chunk) -> None:
        """Appends what a chunk of iterations left."""
        self.chunks.append(chunk)

    @property
    def returns(self) -> np.ndarray:
        """Of all episodes, in the order of their ends."""
        return np.concatenate([chunk.returns for chunk in self.chunks]) if self.chunks else np.zeros(0)

    @property
    def ends(self) -> np.ndarray:
        """All environments' steps at their ends."""
        return np.concatenate([chunk.ends for chunk in self.chunks]) if self.chunks else np.zeros(0, int)

    def tail(self, window: int = SOLVE_WINDOW, later: Sequence[Chunk] = ()) -> np.ndarray:
        """The last `window` returns, also of chunks that come `later`, without joining all of them."""
        parts, have = [], 0
        for chunk in chain(reversed(later), reversed(self.chunks)):
            parts.append(chunk.returns)
            have += len(chunk.returns)
            if have >= window:
                break
        return np.concatenate(parts[::-1])[-window:] if parts else np.zeros(0)

    def fill(self, result: SeedResult) -> None:
        """Hands all of it over."""
        if not self.chunks:
            return
        chunks = self.chunks
        result.returns = self.returns
        result.lengths = np.concatenate([chunk.lengths for chunk in chunks])
        result.ends = self.ends
        result.steps = int(chunks[-1].steps[-1]) if len(chunks[-1].steps) else result.steps
        names = [name for name in chunks[0].metrics if name != "finite"]
        result.metrics = {name: np.concatenate([chunk.metrics[name] for chunk in chunks]) for name in names}
        result.metrics["steps"] = np.concatenate([chunk.steps for chunk in chunks])
        result.metrics["iteration"] = np.arange(1, len(result.metrics["steps"]) + 1)
        offsets = np.cumsum([0] + [len(chunk.steps) for chunk in chunks[:-1]])
        at = np.concatenate([chunk.updates + offset for chunk, offset in zip(chunks, offsets, strict=True)])
        result.metrics["return"] = mean_by(at, result.returns, len(result.metrics["steps"]))
        result.metrics["length"] = mean_by(at, result.lengths, len(result.metrics["steps"]))


def mean_by(group: np.ndarray, values: np.ndarray, groups: int) -> np.ndarray:
    """Means of values by group; NaN where a group is empty."""
    counts = np.bincount(group, minlength=groups)
    sums = np.bincount(group, weights=values, minlength=groups)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def first_solved(before: np.ndarray, chunk: Chunk, threshold: float) -> int | None:
    """The chunk's update in which the mean of the last 20 episodes first reached the threshold.

    Args:
        before: the returns before the chunk, the last 20 of them at least.
    """
    earlier = before[-(SOLVE_WINDOW - 1) :]
    returns = np.concatenate([earlier, chunk.returns])
    episode = steps_to_solve(returns, np.arange(len(returns)), threshold)
    return None if episode is None else int(chunk.updates[episode - len(earlier)])


class Recorder:
    """Turns chunks into lines of the records."""

    POINTS = 1000  # TensorBoard scalars a run at the most: viewers thin out more, and each costs 0.1 ms

    def __init__(self, records: Records, seed: int, num_steps: int):
        self._records, self._seed, self._gap = records, seed, num_steps / self.POINTS
        self._next_point, self._episodes, self._steps = 0.0, 0, 0

    def add(self, chunk: Chunk, iteration: int, seconds: float) -> None:
        """Records a chunk that ends with update `iteration` and took `seconds`."""
        n = len(chunk.steps)
        if n == 0:
            return
        returns = mean_by(chunk.updates, chunk.returns, n)
        lengths = mean_by(chunk.updates, chunk.lengths, n)
        rate = (int(chunk.steps[-1]) - self._steps) / max(seconds, 1e-9)
        self._steps = int(chunk.steps[-1])
        names = [name for name in chunk.metrics if name != "finite"]
        columns = [chunk.metrics[name].tolist() for name in names]
        lines = []
        for i in range(n):
            line = {
                "seed": self._seed,
                "iteration": iteration - n + 1 + i,
                "steps": int(chunk.steps[i]),
                "return": float(returns[i]),
                "length": float(lengths[i]),
            }
            line.update({name: column[i] for name, column in zip(names, columns, strict=True)})
            line["steps_per_second"] = rate
            lines.append(line)
        self._records.updates(lines)
        if len(chunk.returns):
            self._records.episodes(self._seed, self._episodes, chunk.returns, chunk.lengths, chunk.ends)
            self._episodes += len(chunk.returns)
        for line in lines:
            if line["steps"] >= self._next_point:
                self._next_point = line["steps"] + self._gap
                scalars = {k: v for k, v in line.items() if k not in ("seed", "iteration", "steps") and math.isfinite(v)}
                self._records.scalars(self._seed, line["steps"], scalars)
