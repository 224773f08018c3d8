"""What a policy or critic remembers of an episode: recurrent cells, stepped and unrolled.

    memory.initial(batch)             -> the carry before an episode, leaves [batch, …]
    memory.step(carry, x, first)      -> (h [B, H], the carry after it); where `first`, the carry before counts as the initial one
    memory.prepared(x)                -> what of a step depends on x alone, for all steps of a rollout at once
    memory.advance(carry, prepared)   -> the next carry
    memory.output(carry)              -> h

Cells see the features of one step after the other. What depends on these alone is one product for the whole rollout, before the loop.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from policygrad.errors import UnknownNameError, UsageError
from policygrad.policies.networks import INITIALISATIONS, affine, linear_layers
from policygrad.types import Array, Key, PyTree


class _Cell(eqx.Module):
    """What recurrent cells share.

    Args:
        inputs: the affine layer from features to the gates, [G·H, F] and [G·H].
        recurrent: from the last output to the gates, [G·H, H].
        truncate: steps that gradients flow back at the most, ≥ 1; None for all of a rollout.
    """

    inputs: eqx.nn.Linear
    recurrent: Array
    truncate: int | None = eqx.field(static=True, default=None)

    @property
    def size(self) -> int:
        """H."""
        return self.recurrent.shape[1]

    def prepared(self, x: Array) -> Array:
        """The inputs' part of the gates: [..., F] -> [..., G·H]."""
        return affine(self.inputs, x)

    def step(self, carry: PyTree, x: Array, first: Array) -> tuple[Array, PyTree]:
        """(h [B, H], the carry after it)."""
        carry = self.advance(emptied(carry, first), self.prepared(x))
        return self.output(carry), carry

    def initial(self, batch: int) -> Any:
        raise NotImplementedError

    def advance(self, carry: Any, prepared: Array) -> Any:
        raise NotImplementedError

    def output(self, carry: Any) -> Array:
        raise NotImplementedError


class GRU(_Cell):
    """A gated recurrent unit.

        r, z = σ(W_r x + U_r h + b_r), σ(W_z x + U_z h + b_z)
        n    = tanh(W_n x + b_n + r ⊙ (U_n h + c))
        h'   = (1 − z) ⊙ n + z ⊙ h

    Args:
        inputs, recurrent, truncate: W, b and U of r, z and n, in this order; see `_Cell`.
        bias: c, [H].

    Reference:
        Cho et al. 2014, "Learning phrase representations using RNN encoder-decoder for statistical machine translation"; with r after
        the product, as in cuDNN and PyTorch, so that one product serves all gates.
    """

    bias: Array = eqx.field(kw_only=True)

    def initial(self, batch: int) -> Array:
        """Zeros, [batch, H]."""
        return jnp.zeros((batch, self.size), self.recurrent.dtype)

    def advance(self, carry: Array, prepared: Array) -> Array:
        """[B, H], [B, 3H] -> [B, H]."""
        size = self.size
        gates = carry @ self.recurrent.T
        r, z = jnp.split(jax.nn.sigmoid(prepared[..., : 2 * size] + gates[..., : 2 * size]), 2, axis=-1)
        n = jnp.tanh(prepared[..., 2 * size :] + r * (gates[..., 2 * size :] + jnp.broadcast_to(self.bias, r.shape)))
        return n + z * (carry - n)

    def output(self, carry: Array) -> Array:
        """h itself."""
        return carry


class LSTM(_Cell):
    """A long short-term memory.

        i, f, o = σ(W x + U h + b)        g = tanh(W_g x + U_g h + b_g)
        c' = f ⊙ c + i ⊙ g                h' = o ⊙ tanh(c')

    Args:
        inputs, recurrent, truncate: W, b and U of i, f, o and g, in this order; see `_Cell`.

    Reference:
        Hochreiter and Schmidhuber 1997, "Long short-term memory"; Gers, Schmidhuber and Cummins 2000 for the forget gate f.
    """

    def initial(self, batch: int) -> tuple[Array, Array]:
        """(h, c) of zeros, [batch, H] each."""
        zeros = jnp.zeros((batch, self.size), self.recurrent.dtype)
        return zeros, zeros

    def advance(self, carry: tuple[Array, Array], prepared: Array) -> tuple[Array, Array]:
        """([B, H], [B, H]), [B, 4H] -> ([B, H], [B, H])."""
        h, c = carry
        gates, size = prepared + h @ self.recurrent.T, self.size
        i, f, o = jnp.split(jax.nn.sigmoid(gates[..., : 3 * size]), 3, axis=-1)
        c = f * c + i * jnp.tanh(gates[..., 3 * size :])
        return o * jnp.tanh(c), c

    def output(self, carry: tuple[Array, Array]) -> Array:
        """h."""
        return carry[0]


MEMORIES = {"gru": (GRU, 3), "lstm": (LSTM, 4)}
"""Memories by the names that builders and the command line take, and how many blocks of gates each has."""


def make_memory(kind: str, key: Key, num_inputs: int, size: int, *, truncate: int | None = None, initialisation: str = "orthogonal") -> Any:
    """A memory with fresh parameters; biases are 0, but an LSTM's forget gate starts at 1.

    Args:
        kind: "gru" or "lstm".
        num_inputs: F ≥ 1.
        size: H ≥ 1.
        truncate: steps that gradients flow back at the most, ≥ 1; None for all of a rollout.
        initialisation: of every gate's matrices, a name of `networks.INITIALISATIONS`; under "orthogonal" with the gain 1.

    Raises:
        UnknownNameError, UsageError: in one line.

    Reference:
        Jozefowicz, Zaremba and Sutskever 2015, "An empirical exploration of recurrent network architectures", for the forget gate.
    """
    check_memory(kind, size, truncate)
    if initialisation not in INITIALISATIONS:
        raise UnknownNameError("initialisation", initialisation, INITIALISATIONS)
    cls, gates = MEMORIES[kind]
    keys = jax.random.split(key, 2 * gates)
    each = [linear_layers(k, (num_inputs, size), initialisation)[0] for k in keys[:gates]]
    recurrent = jnp.concatenate([linear_layers(k, (size, size), initialisation, output_bias=False)[0].weight for k in keys[gates:]])
    bias: Any = jnp.concatenate([jnp.asarray(layer.bias) for layer in each])
    extra: dict[str, Any] = {"bias": jnp.zeros(size, recurrent.dtype)}
    if cls is LSTM:
        bias, extra = bias.at[size : 2 * size].add(1.0), {}
    layer = eqx.nn.Linear(num_inputs, gates * size, key=jax.random.key(0))  # the shell; what it drew is dead code
    layer = eqx.tree_at(lambda x: (x.weight, x.bias), layer, (jnp.concatenate([one.weight for one in each]), bias))
    return cls(layer, recurrent, truncate, **extra)


def check_memory(kind: str, size: int, truncate: int | None) -> None:
    """Raises where no memory is so called, or its numbers are out of range."""
    if kind not in MEMORIES:
        raise UnknownNameError("memory", kind, MEMORIES)
    for name, value in (("memory_size", size), ("truncate", 1 if truncate is None else truncate)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UsageError(f"{name}: got {value!r}; it must be a whole number of at least 1")


def emptied(carry: PyTree, first: Array) -> PyTree:
    """The carry [B, …] with zeros where an episode begins; every memory here starts from zeros."""
    return jax.tree.map(lambda leaf: jnp.where(first.reshape(first.shape + (1,) * (leaf.ndim - first.ndim)), 0, leaf), carry)


def traced(memory: Any, carry: PyTree, x: Array, resets: Array) -> tuple[Array, PyTree, PyTree]:
    """A memory along a rollout.

        chunk k:    c_t = memory(c_{t−1}, x_t),    c at its start: carry[k], a constant

    All chunks run side by side: the loop has ⌈T/C⌉ steps of C·B sequences.

    Args:
        carry: leaves [C, B, …], at the starts of the chunks.
        x: [T, B, F].
        resets: [T, B] bool, true where an episode begins.

    Returns:
        (h [T, B, H], the carry after every step [T, B, …], the carry after the last row [1, B, …]).
    """
    rows, chunks = x.shape[0], jax.tree.leaves(carry)[0].shape[0]
    length = -(-rows // chunks)

    def cut(leaf: Array) -> Array:
        """[T, B, …] -> [⌈T/C⌉, C·B, …], padded with zeros."""
        leaf = jnp.pad(leaf, [(0, chunks * length - rows)] + [(0, 0)] * (leaf.ndim - 1)) if chunks * length > rows else leaf
        leaf = jnp.swapaxes(leaf.reshape(chunks, length, *leaf.shape[1:]), 0, 1)
        return leaf.reshape(length, -1, *leaf.shape[3:])

    def uncut(leaf: Array) -> Array:
        leaf = jnp.swapaxes(leaf.reshape(length, chunks, -1, *leaf.shape[2:]), 0, 1)
        return leaf.reshape(chunks * length, *leaf.shape[2:])[:rows]

    def body(carry: PyTree, row: tuple[Array, Array]) -> tuple[PyTree, PyTree]:
        now, first = row
        after = memory.advance(emptied(carry, first), now)
        return after, after

    prepared = memory.prepared(x)
    start = jax.lax.stop_gradient(jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), carry))
    if chunks == 1:
        _, carries = jax.lax.scan(body, start, (prepared, resets))
    else:
        _, carries = jax.lax.scan(body, start, (cut(prepared), cut(resets)))
        carries = jax.tree.map(uncut, carries)
    return memory.output(carries), carries, jax.tree.map(lambda leaf: leaf[-1:], carries)


def chunks(memory: Any, rows: int) -> int:
    """C: into how many chunks a rollout of so many rows is cut, so that none is longer than the memory's `truncate`."""
    limit = getattr(memory, "truncate", None)
    return 1 if limit is None else -(-rows // limit)


def chunk_length(rows: int, count: int) -> int:
    """Rows of a chunk but the last."""
    return -(-rows // count)
