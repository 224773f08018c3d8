"""How an element of a Gymnasium space lies in arrays: one for each leaf."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


class ShapeError(ValueError):
    """An observation of another make than its space's."""


class Layout:
    """The leaves of a Gymnasium space: of a Dict or Tuple its parts, else the space itself.

    They stand in the order of `spaces.leaves`: the keys of a Dict sorted.

    Args:
        space: Gymnasium's.

    Attributes:
        alone: the space is a leaf itself: a batch of its elements is one array.
    """

    def __init__(self, space: Any):
        found = _leaves(space, "")
        self.space = space
        self.alone = len(found) == 1 and found[0][0] == ""
        self.names = [name for name, _ in found]
        self.shapes: list[tuple[int, ...]] = [tuple(leaf.shape) for _, leaf in found]
        self.dtypes = [np.dtype(leaf.dtype) for _, leaf in found]

    def empty(self, count: int) -> list[np.ndarray]:
        """Arrays [count, …] for so many elements, one for each leaf."""
        return [np.empty((count, *shape), dtype) for shape, dtype in zip(self.shapes, self.dtypes, strict=True)]

    def put(self, arrays: Sequence[np.ndarray], index: int, element: Any) -> None:
        """Writes one element into the arrays.

        Raises:
            ShapeError: it is not of the space's make.
        """
        if self.alone:
            shape = self.shapes[0]
            if getattr(element, "shape", None) != shape:
                element = np.asarray(element)
                if element.shape != shape:
                    raise ShapeError(_wrong("", element.shape, shape))
            arrays[0][index] = element
            return
        for array, leaf, name, shape in zip(arrays, self._split(element), self.names, self.shapes, strict=True):
            leaf = np.asarray(leaf)
            if leaf.shape != shape:
                raise ShapeError(_wrong(f" in its part {name}", leaf.shape, shape))
            array[index] = leaf

    def batch(self, arrays: Sequence[Any]) -> Any:
        """Arrays [B, …] as a batch of elements: a dict or tuple of them, or the array of a leaf."""
        return _joined(self.space, iter(arrays))

    def copied(self, element: Any) -> Any:
        """A copy of one element: an environment may return the same buffer each time."""
        return np.array(element) if self.alone else _joined(self.space, iter([np.array(leaf) for leaf in self._split(element)]))

    def at(self, batch: Any, index: Any) -> Any:
        """One element of a batch."""
        return batch[index] if self.alone else _joined(self.space, iter([leaf[index] for leaf in self._split(batch)]))

    def leaves(self, batch: Any) -> list[Any]:
        """The arrays of a batch, one for each leaf."""
        return [batch] if self.alone else self._split(batch)

    def _split(self, element: Any) -> list[Any]:
        result: list[Any] = []
        _split(self.space, element, "", result)
        return result


def _parts(space: Any) -> list[tuple[Any, Any]] | None:
    """(key, space) of each part in order; None for a leaf."""
    import gymnasium

    if isinstance(space, gymnasium.spaces.Dict):
        return sorted(space.spaces.items())
    if isinstance(space, gymnasium.spaces.Tuple):
        return list(enumerate(space.spaces))
    return None


def _leaves(space: Any, name: str) -> list[tuple[str, Any]]:
    parts = _parts(space)
    if parts is None:
        return [(name, space)]
    return [leaf for key, part in parts for leaf in _leaves(part, f"{name}[{key!r}]")]


def _split(space: Any, element: Any, name: str, result: list[Any]) -> None:
    parts = _parts(space)
    if parts is None:
        result.append(element)
        return
    for key, part in parts:
        try:
            inner = element[key]
        except (KeyError, IndexError, TypeError):
            where = f" in its part {name}" if name else ""
            got = f"keys {sorted(map(str, element))}" if isinstance(element, dict) else f"a {type(element).__name__}"
            raise ShapeError(f"got an observation with {got}{where}, its space has a part {key!r}; return every part") from None
        _split(part, inner, f"{name}[{key!r}]", result)


def _joined(space: Any, arrays: Any) -> Any:
    parts = _parts(space)
    if parts is None:
        return next(arrays)
    joined = [(key, _joined(part, arrays)) for key, part in parts]
    return tuple(value for _, value in joined) if isinstance(joined[0][0], int) else dict(joined)


def _wrong(where: str, got: tuple[int, ...], expected: tuple[int, ...]) -> str:
    return f"got an observation of shape {got}{where}, its space says {expected}; correct the environment or its observation_space"
