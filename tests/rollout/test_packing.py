"""Small arrays side by side, and back."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policygrad.rollout.packing import SMALL, Packing

ROW = {
    "obs": np.arange(12, dtype=np.float32).reshape(2, 3, 2),
    "reward": np.array([0.5, -1.0], np.float32),
    "action": np.array([7, -3], np.int32),
    "ended": np.array([True, False]),
    "image": np.arange(2 * (SMALL + 1), dtype=np.float32).reshape(2, SMALL + 1),
    "pixel": np.array([[1, 2], [3, 255]], np.uint8),
    "nothing": (),
}


def same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


def test_a_row_comes_back_as_it_was():
    packing = Packing(ROW)
    packed = packing.pack(ROW)
    assert sorted((x.shape, str(x.dtype)) for x in packed) == [
        ((2, 2), "int32"),  # action and ended
        ((2, 2), "uint8"),
        ((2, 7), "float32"),  # obs and reward
        ((2, SMALL + 1), "float32"),
    ]
    assert [(x.shape, x.dtype) for x in packing.shapes] == [(x.shape, x.dtype) for x in packed]
    same(packing.unpack(packed), ROW)


def test_rows_of_a_loop_come_back_as_a_record():
    packing = Packing(ROW)
    rows = [jax.tree.map(lambda x, i=i: x if x.dtype == bool else x + x.dtype.type(i), ROW) for i in range(3)]
    stacked = [jnp.stack(parts) for parts in zip(*map(packing.pack, rows), strict=True)]
    same(packing.unpack(stacked), jax.tree.map(lambda *x: np.stack(x), *rows))


@pytest.mark.parametrize("leaf", [np.zeros((2, 3), np.float32), np.array([True, False])])
def test_one_leaf_is_packed_as_it_is(leaf):
    packing = Packing((leaf,))
    (packed,) = packing.pack((leaf,))
    assert packed is leaf
    same(packing.unpack([packed]), (leaf,))


def test_keys_travel_by_themselves():
    row = {"one": jax.random.split(jax.random.key(0), 2), "other": jax.random.split(jax.random.key(1), 2), "x": np.ones(2, np.float32)}
    packing = Packing(row)
    back = packing.unpack(packing.pack(row))
    for name in ("one", "other"):
        np.testing.assert_array_equal(jax.random.key_data(back[name]), jax.random.key_data(row[name]))
