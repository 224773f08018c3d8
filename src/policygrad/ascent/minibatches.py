"""A batch in random parts: a shuffle without a sort, and the steps that it picks.

A sort (`jax.random.permutation`) in every pass over the data costs more than the gradients of small networks. An index
goes through a few rounds of a keyed bijection instead: elementwise arithmetic on small integers.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from policygrad.errors import UsageError
from policygrad.policies import initial_carry, num_chunks
from policygrad.policies.memory import chunk_length
from policygrad.types import Array, Batch, Key, PyTree

ROUNDS = 6
"""Of the bijection, even. Four rounds of a Feistel network look random to any test of few queries (Luby and Rackoff 1988)."""


def shuffled(key: Key, size: int, minibatches: int, epochs: int = 1) -> Array:
    """The numbers 0 … size − 1 in a pseudo-random order for each epoch, in equal parts.

        p = b l + r        (l, r) ← (l + F₁(r) mod a, r),  (l, r + F₂(l) mod b),  …        a b ≥ size

    Each line is a bijection of Z_a × Z_b, whatever F is. Where a b > size, results that are too large go through it again
    until none is (cycle walking), which leaves a bijection of what remains.

    Args:
        key: other keys give other orders.
        size: how many steps, ≥ 1, below 2³¹.
        minibatches: into how many parts, a divisor of `size`.
        epochs: how many orders, ≥ 1.

    Returns:
        int32 [epochs, minibatches, size / minibatches].

    Raises:
        UsageError: if `minibatches` does not divide `size`.

    Reference:
        Black and Rogaway 2002, "Ciphers with arbitrary finite domains".
    """
    must_divide(minibatches, size)
    words = jax.random.bits(key, (epochs, ROUNDS, 1), jnp.uint32)
    a, b = _sides(size)

    def once(x: Array) -> Array:
        left, right = _divided(x, b)
        for i in range(0, ROUNDS, 2):
            left = _divided(left + _divided(_mixed(right, words[:, i]), a)[1], a)[1]
            right = _divided(right + _divided(_mixed(left, words[:, i + 1]), b)[1], b)[1]
        return left * jnp.uint32(b) + right

    positions = jnp.broadcast_to(jnp.arange(size, dtype=jnp.uint32), (epochs, size))
    order = once(positions)
    if a * b > size:
        order = jax.lax.while_loop(lambda x: jnp.any(x >= size), lambda x: jnp.where(x >= size, once(x), x), order)
    return order.astype(jnp.int32).reshape(epochs, minibatches, size // minibatches)


def must_divide(minibatches: int, size: int, what: str = "steps") -> None:
    """Raises a `UsageError` where a batch of `size` steps (or sequences) has no such equal parts."""
    if minibatches < 1 or size % minibatches:
        raise UsageError(f"minibatches: got {minibatches} for a batch of {size} {what}; it must divide them into equal parts")


def _sides(size: int) -> tuple[int, int]:
    """a ≈ b with a·b = size if there are such divisors, else a·b a little above it."""
    root = math.isqrt(size - 1) + 1 if size > 1 else 1
    for a in range(root, root // 4, -1):
        if size % a == 0:
            return a, size // a
    return root, -(-size // root)


def _divided(x: Array, n: int) -> tuple[Array, Array]:
    """Quotient and remainder of uint32, without the care that `//` and `%` take of signs."""
    by = jnp.full_like(x, n)
    return jax.lax.div(x, by), jax.lax.rem(x, by)


def _mixed(x: Array, word: Array) -> Array:
    """A hash of small integers x [epochs, n] keyed by a word [epochs, 1], uint32."""
    x = (x + jnp.broadcast_to(word, x.shape)) * jnp.uint32(0x9E3779B1)
    x = (x ^ (x >> 15)) * jnp.uint32(0x85EBCA77)
    return x ^ (x >> 13)


def remembers(batch: Batch) -> bool:
    """Whether its steps need those before them: the policy, or the critic, has a memory."""
    return bool(jax.tree.leaves((batch.carry, batch.rollout.carry, batch.rollout.critic_carry)))


def flattened(batch: Batch) -> Batch:
    """A batch as a list of pieces that a minibatch may pick from.

        without memory   steps: every leaf [T, B, …] becomes [T·B, …]
        with memory      sequences, the chunks that gradients flow through: [T, B, …] becomes [C·B, ⌈T/C⌉, …], carries [C·B, …]

    Where C does not divide T, the last chunk goes on with copies of its last row that have mask and weight 0.

    Raises:
        UsageError: for a baseline with a control variate, which no piece has a part in.
    """
    if jax.tree.leaves(batch.control):
        raise UsageError("baseline: got 'optimal' with a proximal ascent; it must be one that is subtracted from the advantages")
    rows, columns = batch.weights.shape
    if not remembers(batch):
        return jax.tree.map(lambda leaf: leaf.reshape(rows * columns, *leaf.shape[2:]), batch)
    carries = batch.carry, batch.rollout.carry, batch.rollout.critic_carry
    chunks = jax.tree.leaves(carries)[0].shape[0]
    carries = jax.tree.map(lambda leaf: leaf.reshape(chunks * columns, *leaf.shape[2:]), carries)
    cut = sequences(_with_carries(batch, ((), (), ())), chunks)
    beyond = jnp.arange(chunks * chunk_length(rows, chunks)) < rows
    inside = jnp.repeat(beyond.reshape(chunks, -1), columns, axis=0).astype(cut.weights.dtype)
    cut = cut._replace(weights=cut.weights * inside, rollout=cut.rollout._replace(mask=cut.rollout.mask * inside))
    return _with_carries(cut, carries)


def sequences(tree: PyTree, chunks: int) -> PyTree:
    """Leaves [T, B, …] as [C·B, ⌈T/C⌉, …]; past the last row it is repeated."""

    def cut(leaf: Array) -> Array:
        rows, columns = leaf.shape[:2]
        length = chunk_length(rows, chunks)
        if chunks * length > rows:
            leaf = jnp.concatenate([leaf, jnp.broadcast_to(leaf[-1:], (chunks * length - rows, *leaf.shape[1:]))])
        leaf = leaf.reshape(chunks, length, columns, *leaf.shape[2:])
        return jnp.swapaxes(leaf, 1, 2).reshape(chunks * columns, length, *leaf.shape[3:])

    return jax.tree.map(cut, tree)


def taken(flat: Batch, indices: Array, rows: int = 1) -> Batch:
    """The pieces at `indices` [M] of a flattened batch, as a batch.

    Without memory it has so many rows, a divisor of M: [rows, M / rows, …]. With memory each sequence is a column: [⌈T/C⌉, M, …].
    """
    if not remembers(flat):
        indices = indices.reshape(rows, -1)
        return jax.tree.map(lambda leaf: leaf[indices], flat)
    picked = jax.tree.map(lambda leaf: leaf[indices], flat)
    carries = picked.carry, picked.rollout.carry, picked.rollout.critic_carry
    columns = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), _with_carries(picked, ((), (), ())))
    return _with_carries(columns, jax.tree.map(lambda leaf: leaf[None], carries))


def pieces(policy: Any, rows: int, columns: int) -> tuple[int, str]:
    """How many pieces `flattened` makes of a rollout of that acting policy, and what they are: arguments of `must_divide`."""
    if not jax.tree.leaves(jax.eval_shape(lambda: initial_carry(policy, columns))):
        return rows * columns, "steps"
    return num_chunks(policy, rows) * columns, SEQUENCES


SEQUENCES = "sequences (environments × chunks)"


def _with_carries(batch: Batch, carries: tuple[PyTree, PyTree, PyTree]) -> Batch:
    carry, own, critics = carries
    return batch._replace(carry=carry, rollout=batch.rollout._replace(carry=own, critic_carry=critics))
