"""Observation and action spaces as small hashable values.

Gymnasium's space objects cannot ride through ``jax.jit`` as static data (hashing one raises, comparing two is
approximate), so a space here is a frozen dataclass of numbers and tuples. `from_gymnasium` translates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from policygrad.errors import SpaceError


@dataclass(frozen=True)
class Discrete:
    """The integers start, start + 1, …, start + n − 1.

    Inside policygrad a discrete action or observation always counts from 0; `start` is added on the way to the
    environment and taken off on the way back.
    """

    n: int
    start: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        return ()

    @property
    def dtype(self) -> str:
        return "int32"

    def __str__(self) -> str:
        return f"Discrete({self.n}" + (f", start={self.start})" if self.start else ")")


@dataclass(frozen=True)
class Box:
    """Arrays of a shape, bounded per element.

    `low` and `high` are flattened in C order, or of length 1 where one bound serves all elements (an image's 28,224
    bounds would otherwise be hashed at every jitted call).
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    shape: tuple[int, ...]
    dtype: str = "float32"

    @staticmethod
    def of(low: Any, high: Any, shape: tuple[int, ...] | None = None, dtype: str = "float32") -> Box:
        """A box from scalars or arrays; `shape` defaults to that of the bounds."""
        if shape is None:
            shape = np.broadcast(np.asarray(low), np.asarray(high)).shape
        bounds = []
        for bound in (low, high):
            flat = np.broadcast_to(np.asarray(bound, np.float64), shape).ravel()
            uniform = flat.size and (flat == flat[0]).all()
            bounds.append((float(flat[0]),) if uniform else tuple(map(float, flat)))
        return Box(bounds[0], bounds[1], tuple(map(int, shape)), str(dtype))

    @property
    def size(self) -> int:
        """The number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def low_array(self) -> np.ndarray:
        """`low`, in `shape`, float64."""
        return np.broadcast_to(np.array(self.low), (self.size,)).reshape(self.shape)

    @property
    def high_array(self) -> np.ndarray:
        """`high`, in `shape`, float64."""
        return np.broadcast_to(np.array(self.high), (self.size,)).reshape(self.shape)

    @property
    def bounded(self) -> bool:
        """Every element has two finite bounds."""
        return bool(np.isfinite(self.low).all() and np.isfinite(self.high).all())

    def __str__(self) -> str:
        low = f"{self.low[0]:g}" if len(self.low) == 1 else "[…]"
        high = f"{self.high[0]:g}" if len(self.high) == 1 else "[…]"
        return f"Box({low}, {high}, {self.shape}, {self.dtype})"


Space = Discrete | Box


def from_gymnasium(space: Any, role: str = "space") -> Space:
    """Translates a Gymnasium space.

    Raises:
        SpaceError: for a space that no policy here handles, naming `role` ("observation", "action").
    """
    import gymnasium

    if isinstance(space, gymnasium.spaces.Discrete):
        return Discrete(int(space.n), int(space.start))
    if isinstance(space, gymnasium.spaces.Box):
        return Box.of(space.low, space.high, space.shape, str(space.dtype))
    raise SpaceError(
        f"unsupported {role} space: got {type(space).__name__}; Discrete and Box are handled"
        " (flatten or encode it with a Gymnasium wrapper, e.g. FlattenObservation)"
    )
