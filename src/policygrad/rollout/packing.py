"""Many small arrays as few.

A loop of a compiled program pays for every array that it carries or writes, however small: on a CPU about as much as for the arithmetic of
a small network.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from policygrad.types import Array, PyTree

SMALL = 64
"""Elements an environment up to which an array counts as small."""


class Packing:
    """A row [B, …] of B environments as few arrays, and back.

        leaves of at most `SMALL` elements an environment, side by side by dtype      [B, K]
        larger ones, which would only be copied                                       as they are

    Booleans travel among the integers.

    Args:
        like: the row's shapes and dtypes, leaves [B, …].
    """

    def __init__(self, like: PyTree):
        leaves, self._structure = jax.tree.flatten(like)
        self._like = leaves
        self._groups: dict[Any, list[int]] = {}
        for i, leaf in enumerate(leaves):
            # Keys and the like have a dtype that nothing else may travel with.
            small = math.prod(leaf.shape[1:]) <= SMALL and not jnp.issubdtype(leaf.dtype, jax.dtypes.extended)
            self._groups.setdefault(self._carried(leaf.dtype) if small else i, []).append(i)

    @property
    def shapes(self) -> list[Any]:
        """Shapes and dtypes of the arrays of one row."""
        return jax.eval_shape(self.pack, jax.tree.unflatten(self._structure, self._like))

    def pack(self, row: PyTree) -> list[Array]:
        """The arrays of one row, [B, …] each."""
        leaves = jax.tree.leaves(row)
        return [
            jnp.concatenate([leaves[i].astype(self._carried(leaves[i].dtype)).reshape(len(leaves[i]), -1) for i in group], axis=1)
            if len(group) > 1
            else leaves[group[0]]
            for group in self._groups.values()
        ]

    def unpack(self, arrays: list[Array]) -> PyTree:
        """The row of these arrays; of rows that a loop stacked, [T, B, …], their record."""
        found: dict[int, Array] = {}
        for group, array in zip(self._groups.values(), arrays, strict=True):
            at = 0
            for i in group:
                like = self._like[i]
                width = math.prod(like.shape[1:])
                part = array if len(group) == 1 else array[..., at : at + width].reshape(*array.shape[:-1], *like.shape[1:])
                found[i] = part.astype(like.dtype) if part.dtype != like.dtype else part
                at += width
        return jax.tree.unflatten(self._structure, [found[i] for i in range(len(self._like))])

    @staticmethod
    def _carried(dtype: Any) -> Any:
        return jnp.dtype(jnp.int32) if dtype == jnp.bool_ else jnp.dtype(dtype)
