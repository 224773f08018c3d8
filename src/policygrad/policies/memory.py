"""What a policy or critic remembers of an episode: recurrent cells, stepped and unrolled.

    memory.initial(batch)             -> the carry before an episode, leaves [batch, …]
    memory.step(carry, x, first)      -> (h [B, H], the carry after it); where `first`, the carry before counts as the initial one
    memory.prepared(x)                -> what of a step depends on x alone, for all steps of a rollout at once
    memory.advance(carry, prepared)   -> the next carry
    memory.along(carry, prepared, resets) -> the carries after every step of a rollout
    memory.output(carry)              -> h

Cells see the features of one step after the other. What depends on these alone is one product for the whole rollout, before the loop. So
is nearly all of the derivative: given the states of the whole rollout, the gates are known without a loop, and what is left to it is a
linear recurrence, d' = z d + K ⊙ (U d) + e. Differentiated by JAX as it stands, the loop would sum up the gradient of U in every step.
"""

from __future__ import annotations

import abc
import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from policygrad.errors import UnknownNameError, UsageError
from policygrad.policies.networks import INITIALISATIONS, linear_layers
from policygrad.types import Array, Key, PyTree

Gates = tuple[Array, ...]
"""An array [..., H] for each gate: on a CPU, arithmetic on slices of one array takes three times as long as that on arrays."""


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

    def prepared(self, x: Array) -> Gates:
        """The inputs' part of the gates: [..., F] -> G × [..., H]."""
        count = self.recurrent.shape[0] // self.size
        layers = zip(jnp.split(self.inputs.weight, count), jnp.split(jnp.asarray(self.inputs.bias), count), strict=True)
        # A product for each, as slices of one would be copied: on a CPU a fifth of the time of a gradient.
        return tuple(x @ weight.T + jnp.broadcast_to(bias, (*x.shape[:-1], self.size)) for weight, bias in layers)

    def step(self, carry: PyTree, x: Array, first: Array) -> tuple[Array, PyTree]:
        """(h [B, H], the carry after it)."""
        carry = self.advance(emptied(carry, first), self.prepared(x))
        return self.output(carry), carry

    @abc.abstractmethod
    def initial(self, batch: int) -> Any:
        """The carry before an episode, zeros [batch, H]."""

    @abc.abstractmethod
    def advance(self, carry: Any, prepared: Gates) -> Any:
        """The next carry."""

    @abc.abstractmethod
    def along(self, carry: Any, prepared: Gates, resets: Array) -> Any:
        """The carries after every step, [T, B, H].

        Args:
            carry: before the first, [B, H].
            prepared: [T, B, H] each.
            resets: [T, B] bool.
        """

    @abc.abstractmethod
    def output(self, carry: Any) -> Array:
        """h."""


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
        the product, as in cuDNN and PyTorch.
    """

    bias: Array = eqx.field(kw_only=True)

    def initial(self, batch: int) -> Array:
        """Zeros, [batch, H]."""
        return jnp.zeros((batch, self.size), self.recurrent.dtype)

    def advance(self, carry: Array, prepared: Gates) -> Array:
        """[..., H], 3 × [..., H] -> [..., H]."""
        _, z, n, _ = _gru_gates(_blocks(self.recurrent), self.bias, carry, prepared)
        return n + z * (carry - n)

    def along(self, carry: Array, prepared: Gates, resets: Array) -> Array:
        """[B, H], 3 × [T, B, H], [T, B] -> [T, B, H]."""
        return _gru_along(self.recurrent, self.bias, carry, prepared, resets)

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

    def advance(self, carry: tuple[Array, Array], prepared: Gates) -> tuple[Array, Array]:
        """([..., H], [..., H]), 4 × [..., H] -> ([..., H], [..., H])."""
        h, c = carry
        i, f, o, g = _lstm_gates(_blocks(self.recurrent), h, prepared)
        c = f * c + i * g
        return o * jnp.tanh(c), c

    def along(self, carry: tuple[Array, Array], prepared: Gates, resets: Array) -> tuple[Array, Array]:
        """([B, H], [B, H]), 4 × [T, B, H], [T, B] -> ([T, B, H], [T, B, H])."""
        return _lstm_along(self.recurrent, carry, prepared, resets)

    def output(self, carry: tuple[Array, Array]) -> Array:
        """h."""
        return carry[0]


def _blocks(recurrent: Array) -> list[Array]:
    """U of each gate, transposed, [H, H]: made once, before a loop."""
    return [block.T for block in jnp.split(recurrent, recurrent.shape[0] // recurrent.shape[1])]


def _sigmoid(x: Array) -> Array:
    """1 / (1 + e^{−x}), by the hyperbolic tangent, which takes a CPU half as long."""
    return 0.5 * jnp.tanh(0.5 * x) + 0.5


def _gru_gates(blocks: list[Array], bias: Array, h: Array, prepared: Gates) -> tuple[Array, Array, Array, Array]:
    """r, z, n and U_n h + c, over any leading axes."""
    r, z = (_sigmoid(given + h @ block) for given, block in zip(prepared[:2], blocks[:2], strict=True))
    kept = h @ blocks[2]
    kept = kept + jnp.broadcast_to(bias, kept.shape)
    return r, z, jnp.tanh(prepared[2] + r * kept), kept


def _shares(resets: Array, like: Array) -> Array:
    """What goes on of the memory: 1, or 0 where an episode begins, [T, B]. A product takes less time than a choice."""
    return (~resets).astype(like.dtype)


def _before(carry: Array, after: Array, resets: Array) -> Array:
    """What every step starts from, of the carry before the first and those after each: [T, B, H]."""
    return emptied(jnp.concatenate([carry[None], after[:-1]]), resets)


@jax.custom_jvp
def _gru_along(recurrent: Array, bias: Array, carry: Array, prepared: Gates, resets: Array) -> Array:
    return _gru_steps(recurrent, bias, carry, prepared, resets)[0]


def _gru_steps(recurrent: Array, bias: Array, carry: Array, prepared: Gates, resets: Array) -> tuple[Array, ...]:
    """h after every step, and r, z, n and U_n h + c in it, [T, B, H] each; what nobody reads is not written down."""
    blocks = _blocks(recurrent)

    def step(h: Array, row: tuple[Gates, Array]) -> tuple[Array, tuple[Array, ...]]:
        now, share = row
        h = h * share[:, None]
        r, z, n, kept = _gru_gates(blocks, bias, h, now)
        h = n + z * (h - n)
        return h, (h, r, z, n, kept)

    return jax.lax.scan(step, carry, (prepared, _shares(resets, carry)))[1]


@_gru_along.defjvp
def _(primals: Any, tangents: Any) -> tuple[Array, Array]:
    recurrent, bias, carry, prepared, resets = primals
    d_recurrent, d_bias, d_carry, d_prepared, _ = tangents
    after, r, z, n, kept = _gru_steps(recurrent, bias, carry, prepared, resets)
    h, blocks = _before(carry, after, resets), _blocks(recurrent)
    # ∂h'/∂ of what is added in r, z and n before their functions; U h enters n behind r.
    by_n = (1 - z) * (1 - n * n)
    outside = by_n * kept * r * (1 - r), (h - n) * z * (1 - z), by_n
    inside = *outside[:2], by_n * r
    of_weights = [h @ block for block in _blocks(d_recurrent)]
    of_weights[2] = of_weights[2] + jnp.broadcast_to(d_bias, r.shape)
    given = _sum_of_products((*outside, *inside), (*d_prepared, *of_weights))

    def step(d: Array, row: tuple[Array, Gates, Array, Array]) -> tuple[Array, Array]:
        given, inside, z, share = row
        d = d * share[:, None]
        d = given + _sum_of_products((z, *inside), (d, *(d @ block for block in blocks)))
        return d, d

    return after, jax.lax.scan(step, d_carry, (given, inside, z, _shares(resets, h)))[1]


def _lstm_gates(blocks: list[Array], h: Array, prepared: Gates) -> tuple[Array, Array, Array, Array]:
    """i, f, o and g, over any leading axes."""
    i, f, o, g = (given + h @ block for given, block in zip(prepared, blocks, strict=True))
    return _sigmoid(i), _sigmoid(f), _sigmoid(o), jnp.tanh(g)


@jax.custom_jvp
def _lstm_along(recurrent: Array, carry: tuple[Array, Array], prepared: Gates, resets: Array) -> tuple[Array, Array]:
    return _lstm_steps(recurrent, carry, prepared, resets)[0]


def _lstm_steps(recurrent: Array, carry: tuple[Array, Array], prepared: Gates, resets: Array) -> tuple[tuple[Array, Array], Gates]:
    """h and c after every step, and i, f, o, g and tanh c in it, [T, B, H] each; what nobody reads is not written down."""
    blocks = _blocks(recurrent)

    def step(carry: tuple[Array, Array], row: tuple[Gates, Array]) -> tuple[Any, Any]:
        now, share = row
        h, c = (x * share[:, None] for x in carry)
        i, f, o, g = _lstm_gates(blocks, h, now)
        c = f * c + i * g
        out = jnp.tanh(c)
        return (o * out, c), ((o * out, c), (i, f, o, g, out))

    return jax.lax.scan(step, carry, (prepared, _shares(resets, carry[0])))[1]


@_lstm_along.defjvp
def _(primals: Any, tangents: Any) -> tuple[Any, Any]:
    recurrent, carry, prepared, resets = primals
    d_recurrent, d_carry, d_prepared, _ = tangents
    after, (i, f, o, g, now) = _lstm_steps(recurrent, carry, prepared, resets)
    h, c = (_before(first, all_after, resets) for first, all_after in zip(carry, after, strict=True))
    blocks = _blocks(recurrent)
    # ∂c'/∂ of what is added in i, f and g before their functions, ∂h'/∂ of that in o, and ∂h'/∂c'.
    of_c = g * i * (1 - i), c * f * (1 - f), i * (1 - g * g)
    of_h, through = now * o * (1 - o), o * (1 - now * now)
    d_i, d_f, d_o, d_g = (given + h @ block for given, block in zip(d_prepared, _blocks(d_recurrent), strict=True))
    given_c, given_h = _sum_of_products(of_c, (d_i, d_f, d_g)), of_h * d_o

    def step(d: tuple[Array, Array], row: Any) -> tuple[Any, Any]:
        given_c, given_h, of_c, of_h, f, through, share = row
        d_h, d_c = (x * share[:, None] for x in d)
        d_i, d_f, d_o, d_g = (d_h @ block for block in blocks)
        d_c = given_c + _sum_of_products((f, *of_c), (d_c, d_i, d_f, d_g))
        d_h = given_h + through * d_c + of_h * d_o
        return (d_h, d_c), (d_h, d_c)

    return after, jax.lax.scan(step, d_carry, (given_c, given_h, of_c, of_h, f, through, _shares(resets, h)))[1]


def _sum_of_products(xs: Gates, ys: Gates) -> Array:
    """Σ_i x_i y_i."""
    return functools.reduce(jnp.add, [x * y for x, y in zip(xs, ys, strict=True)])


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
    if not isinstance(kind, str) or kind not in MEMORIES:
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

    prepared = memory.prepared(x)
    start = jax.lax.stop_gradient(jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), carry))
    if chunks == 1:
        carries = memory.along(start, prepared, resets)
    else:
        carries = jax.tree.map(uncut, memory.along(start, jax.tree.map(cut, prepared), cut(resets)))
    return memory.output(carries), carries, jax.tree.map(lambda leaf: leaf[-1:], carries)


def chunks(memory: Any, rows: int) -> int:
    """C: into how many chunks a rollout of so many rows is cut, so that none is longer than the memory's `truncate`."""
    limit = getattr(memory, "truncate", None)
    return 1 if limit is None else -(-rows // limit)


def chunk_length(rows: int, count: int) -> int:
    """Rows of a chunk but the last."""
    return -(-rows // count)
