"""The shuffle without a sort: a permutation for every size, near enough to a uniform one, and another for every key."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradients.batches import B, Case, T, leaves
from policygrad.ascent import minibatches
from policygrad.ascent.minibatches import flattened, shuffled, taken
from policygrad.errors import UsageError

KEY = jax.random.key(0)
shuffle = jax.jit(shuffled, static_argnums=(1, 2, 3))
PARTS = {6: 3, 12: 4, 97: 1, 100: 10, 128: 4, 262: 2, 510: 5, 1009: 1, 1024: 32, 3 * 257: 3}  # squares, primes, twice a prime, …


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, *PARTS])
def test_it_is_a_permutation_in_equal_parts(size: int) -> None:
    parts = PARTS.get(size, 1)
    order = np.asarray(shuffle(KEY, size, parts, 20))
    assert order.shape == (20, parts, size // parts)
    assert order.dtype == np.int32
    np.testing.assert_array_equal(np.sort(order.reshape(20, size), axis=1), np.tile(np.arange(size), (20, 1)))


def test_a_round_that_is_no_bijection_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """An even multiplier instead of an odd one does no harm in the hash; sides that are too short would."""
    monkeypatch.setattr(minibatches, "_sides", lambda size: (3, size // 4))
    order = np.asarray(shuffled(KEY, 12, 1, 20)).reshape(20, 12)
    assert any(len(set(row)) < 12 for row in order.tolist())


@pytest.mark.parametrize("size", [6, 13, 16])
def test_every_index_comes_to_every_place_equally_often(size: int) -> None:
    """Counts of (place, index) over 20,000 orders: a chi-square with (n − 1)² degrees of freedom, within 4 standard deviations."""
    count, free = 20_000, (size - 1) ** 2
    order = np.asarray(shuffle(KEY, size, 1, count)).reshape(count, size)
    table = np.zeros((size, size))
    np.add.at(table, (np.broadcast_to(np.arange(size), order.shape), order), 1)
    expected = count / size
    statistic = ((table - expected) ** 2 / expected).sum()
    assert abs(statistic - free) < 4 * np.sqrt(2 * free)


def test_two_steps_share_a_part_as_often_as_they_should() -> None:
    """P = (M − 1)/(n − 1) for every pair: neighbours in time would be dear to leave together. n = 16 in parts of 4, |z| < 4.5."""
    count, size, part = 20_000, 16, 4
    home = np.argsort(np.asarray(shuffle(KEY, size, 1, count)).reshape(count, size), axis=1) // part
    together = (home[:, :, None] == home[:, None, :]).mean(axis=0)[np.triu_indices(size, 1)]
    chance = (part - 1) / (size - 1)
    z = (together - chance) / np.sqrt(chance * (1 - chance) / count)
    assert np.abs(z).max() < 4.5
    assert abs(np.square(z).mean() - 1) < 0.6


def test_neighbours_do_not_stay_neighbours() -> None:
    """At a size of use: the rank correlation of place and index is noise, and so is that of one epoch's order with the next's."""
    order = np.asarray(shuffle(KEY, 1024, 32, 20)).reshape(20, 1024)
    pairs = [np.corrcoef(order[i], np.arange(1024))[0, 1] for i in range(20)]
    pairs += [np.corrcoef(order[i], order[i - 1])[0, 1] for i in range(20)]
    pairs += [np.corrcoef(row[1:], row[:-1])[0, 1] for row in order]
    assert np.abs(pairs).max() * np.sqrt(1024) < 4.5
    steps = np.diff(order, axis=1)
    assert np.mean(np.abs(steps) == 1) < 0.01  # 0.002 expected


def test_other_keys_and_epochs_give_other_orders() -> None:
    orders = [np.asarray(shuffle(jax.random.key(seed), 128, 4, 20)).reshape(20, 128) for seed in range(3)]
    assert len({row.tobytes() for order in orders for row in order}) == 60
    np.testing.assert_array_equal(orders[0], np.asarray(shuffle(KEY, 128, 4, 20)).reshape(20, 128))


def test_all_small_orders_come() -> None:
    """Of 4 things: each of the 24 orders, equally often, within 4.5 standard deviations."""
    order = np.asarray(shuffle(KEY, 4, 1, 20_000)).reshape(-1, 4)
    _, counts = np.unique(order @ 4 ** np.arange(4), return_counts=True)
    assert len(counts) == 24
    assert np.abs(counts - 20_000 / 24).max() / np.sqrt(20_000 / 24) < 4.5


@pytest.mark.parametrize(("size", "parts"), [(12, 5), (12, 13), (7, 0)])
def test_parts_must_be_equal(size: int, parts: int) -> None:
    with pytest.raises(UsageError, match=f"minibatches: got {parts} for a batch of {size} steps; it must divide"):
        jax.eval_shape(partial(shuffled, size=size, minibatches=parts), KEY)


def test_a_minibatch_holds_the_same_step_in_every_leaf() -> None:
    """Row t, column b is step t·B + b of the flat batch, whatever else the leaf has for axes."""
    batch = Case().batch
    steps = jnp.array([7, 0, 11])
    part = jax.jit(lambda batch: taken(flattened(batch), steps))(batch)
    assert jax.tree.structure(part) == jax.tree.structure(batch)
    for whole, piece in zip(jax.tree.leaves(batch), jax.tree.leaves(part), strict=True):
        np.testing.assert_array_equal(piece, np.asarray(whole)[[[3, 0, 5]], [[1, 0, 1]]])
    assert leaves(flattened(batch).old).size == T * B * 3


def test_what_single_steps_cannot_have() -> None:
    batch = Case().batch
    with pytest.raises(UsageError, match="baseline: got 'optimal' with a proximal ascent"):
        flattened(batch._replace(control=(jnp.zeros(3),)))
