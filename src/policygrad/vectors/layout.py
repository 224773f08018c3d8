"""How an element of a Gymnasium space lies in arrays: one for each leaf."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator, Sequence
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
        indexed: besides, batch[i] is the i-th element.
        spaces, names, shapes, dtypes: of the leaves.
    """

    def __init__(self, space: Any):
        import gymnasium

        found = _leaves(space, ())
        self.space = space
        self.alone = found[0][0] == ()
        self.spaces = [leaf for _, leaf in found]
        self.names = [_name(path) for path, _ in found]
        self.shapes: list[tuple[int, ...]] = [tuple(leaf.shape) for _, leaf in found]
        self.dtypes = [np.dtype(leaf.dtype) for _, leaf in found]
        self._paths = [path for path, _ in found]
        self._joined = _joiner(space)
        # An element without axes is a number where it is Discrete, as Gymnasium's samples are, and else an array all the same.
        self._index = [(...,) if leaf.shape == () and not isinstance(leaf, gymnasium.spaces.Discrete) else () for _, leaf in found]
        self.indexed = self.alone and self._index == [()]
        self._whole: Any = self.shapes[0] if self.alone else "in parts"

    def empty(self, count: int) -> list[np.ndarray]:
        """Arrays [count, …] for so many elements, one for each leaf."""
        return [np.empty((count, *shape), dtype) for shape, dtype in zip(self.shapes, self.dtypes, strict=True)]

    def put(self, arrays: Sequence[np.ndarray], index: int, element: Any) -> None:
        """Writes one element into the arrays.

        Raises:
            ShapeError: it is not of the space's make.
        """
        if getattr(element, "shape", None) == self._whole:
            arrays[0][index] = element  # the way of most environments, at every step of each
            return
        for array, leaf, name, shape in zip(arrays, self.leaves(element), self.names, self.shapes, strict=True):
            leaf = np.asarray(leaf)
            if leaf.shape != shape:
                where = f" in its part {name}" if name else ""
                raise ShapeError(
                    f"got an observation of shape {leaf.shape}{where}, its space says {shape};"
                    " correct the environment or its observation_space"
                )
            array[index] = leaf

    def batch(self, arrays: Sequence[Any]) -> Any:
        """Arrays [B, …] as a batch of elements: a dict or tuple of them, or the array of a leaf."""
        return arrays[0] if self.alone else self._joined(iter(arrays))

    def copied(self, element: Any) -> Any:
        """A copy of an element, or of a batch: whoever made it may return the same buffer each time."""
        return self.batch([np.array(leaf) for leaf in self.leaves(element)])

    def at(self, batch: Any, index: int) -> Any:
        """One element of a batch."""
        if self.indexed:
            return batch[index]
        return self.batch([leaf[(index, *rest)] for leaf, rest in zip(self.leaves(batch), self._index, strict=True)])

    def leaves(self, element: Any) -> list[Any]:
        """The leaves of an element, or of a batch of them.

        Raises:
            ShapeError: a part is missing.
        """
        if self.alone:
            return [element]
        try:
            return [functools.reduce(operator.getitem, path, element) for path in self._paths]
        except (KeyError, IndexError, TypeError):
            raise ShapeError(self._missing(element)) from None

    def _missing(self, element: Any) -> str:
        """Which part an element lacks."""
        for path in self._paths:
            inner = element
            for depth, key in enumerate(path):
                try:
                    inner = inner[key]
                except (KeyError, IndexError, TypeError):
                    where = f" in its part {_name(path[:depth])}" if depth else ""
                    got = f"keys {sorted(map(str, inner))}" if isinstance(inner, dict) else f"a {type(inner).__name__}"
                    return f"got an observation with {got}{where}, its space has a part {key!r}; return every part"
        return "got an observation that cannot be read twice; return a dict or tuple of arrays"


def _name(path: tuple[Any, ...]) -> str:
    """As `spaces.leaves` names parts: "['arm'][0]"."""
    return "".join(f"[{key!r}]" for key in path)


def _parts(space: Any) -> list[tuple[Any, Any]] | None:
    """(key, space) of each part in order; None for a leaf."""
    import gymnasium

    if isinstance(space, gymnasium.spaces.Dict):
        return sorted(space.spaces.items())
    if isinstance(space, gymnasium.spaces.Tuple):
        return list(enumerate(space.spaces))
    return None


def _leaves(space: Any, path: tuple[Any, ...]) -> list[tuple[tuple[Any, ...], Any]]:
    """(the keys that lead to it, the leaf) in order."""
    parts = _parts(space)
    if parts is None:
        return [(path, space)]
    return [leaf for key, part in parts for leaf in _leaves(part, (*path, key))]


def _joiner(space: Any) -> Callable[[Iterator[Any]], Any]:
    """What makes an element of its leaves, taken one after the other."""
    parts = _parts(space)
    if parts is None:
        return next
    inner = [(key, _joiner(part)) for key, part in parts]
    if isinstance(inner[0][0], int):
        return lambda leaves: tuple(join(leaves) for _, join in inner)
    return lambda leaves: {key: join(leaves) for key, join in inner}
