"""Spaces and numbers in words, and findings counted."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from policygrad.contract.report import Finding
from policygrad.errors import SpaceError
from policygrad.spaces import from_gymnasium

Findings = list[Finding] | None
"""What a check answers: [] where all is in order, None where the question does not arise."""


class Tally:
    """Counts what is seen, by part and kind, and keeps the first of each."""

    def __init__(self) -> None:
        self.first: dict[Any, tuple[Finding, int]] = {}
        self.total = 0

    def add(self, key: Any, finding: Callable[[], Finding]) -> None:
        before, times = self.first.get(key) or (finding(), 0)
        self.first[key] = before, times + 1

    def findings(self, of: str) -> list[Finding]:
        return [finding._replace(times=times, of=of) for finding, times in self.first.values()]


def is_a(space: Any, name: str) -> bool:
    """Whether a space is of one of Gymnasium's kinds."""
    import gymnasium

    return isinstance(space, getattr(gymnasium.spaces, name))


def is_array(space: Any) -> bool:
    """Whether elements of a space are single arrays, or numbers."""
    return any(is_a(space, name) for name in ("Box", "Discrete", "MultiDiscrete", "MultiBinary"))


def leaves(space: Any, part: str = "") -> Iterator[tuple[str, Any]]:
    """(name, space) of every part that has no parts itself."""
    if is_a(space, "Dict"):
        for name, inner in space.spaces.items():
            yield from leaves(inner, f"{part}[{name!r}]")
    elif is_a(space, "Tuple"):
        for i, inner in enumerate(space.spaces):
            yield from leaves(inner, f"{part}[{i}]")
    else:
        yield part, space


def space_text(space: Any) -> str:
    """A space in one line, without the bounds of every element."""
    try:
        return str(from_gymnasium(space))
    except SpaceError:
        return " ".join(str(space).split())


def the_observation(one: Any) -> str:
    """ "the observation", or which part of it."""
    return f"the observation{of_part(one.part)}"


def of_part(part: str) -> str:
    """ ", part ['arm'],"; nothing where there are no parts."""
    return f", part {part}," if part else ""


def counted(count: int, noun: str) -> str:
    """ "1 step", "2,000 steps"."""
    plural = noun[:-1] + "ies" if noun.endswith("entry") else noun + "s"
    return f"{count:,} {noun if count == 1 else plural}"


def figure(value: float) -> str:
    """Four digits of a number."""
    return f"{value:,.0f}" if abs(value) >= 1000 and math.isfinite(value) else f"{value:.4g}"


def span(values: Iterable[float]) -> str:
    """The least, the largest and the mean."""
    values = list(values)
    low, high = figure(min(values)), figure(max(values))
    return low if low == high else f"{low} to {high} (mean {figure(float(np.mean(values)))})"
