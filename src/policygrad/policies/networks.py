"""Affine layers and the stack of them, with their initialisations.

The layers are `equinox.nn.Linear`, whose only leaves are float arrays. `equinox.nn.MLP` is not used: its activation is
a leaf, which plain `jax.jit`, `jax.grad` and optax refuse.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp

from policygrad.errors import UnknownNameError, UsageError
from policygrad.types import Array, Key

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "leaky_relu": jax.nn.leaky_relu,
    "elu": jax.nn.elu,
    "gelu": jax.nn.gelu,
    "sigmoid": jax.nn.sigmoid,
    "silu": jax.nn.silu,
    "softplus": jax.nn.softplus,
    "identity": lambda x: x,
}
"""Activations by the names that builders and the command line take."""


def _orthogonal(draws: Array, shape: tuple[int, int], gain: float) -> Array:
    """Orthogonal rows or columns, whichever are fewer, of length `gain` (Saxe et al. 2014)."""
    tall = draws.reshape(max(shape), min(shape))
    q, r = jnp.linalg.qr(tall)
    q = q * jnp.where(jnp.diag(r) < 0, -gain, gain)[None]  # the sign makes Q uniform over the orthogonal matrices
    return q if shape[0] >= shape[1] else q.T


def _uniform(limit: Callable[[int, int], float]) -> Callable[[Array, tuple[int, int], float], Array]:
    return lambda draws, shape, gain: draws.reshape(shape) * limit(*shape)


INITIALISATIONS: dict[str, Callable[[Array, tuple[int, int], float], Array]] = {
    "orthogonal": _orthogonal,
    "xavier": _uniform(lambda num_outputs, num_inputs: math.sqrt(6 / (num_inputs + num_outputs))),
    "lecun": _uniform(lambda num_outputs, num_inputs: math.sqrt(3 / num_inputs)),
    "torch": _uniform(lambda num_outputs, num_inputs: 1 / math.sqrt(num_inputs)),
}
"""(draws, [outputs, inputs], gain) -> weight, by name.

    orthogonal   W Wᵀ = gain² I, or WᵀW                       biases 0    Saxe et al. 2014
    xavier       uniform in ±√(6 / (inputs + outputs))        biases 0    Glorot and Bengio 2010
    lecun        uniform in ±√(3 / inputs), variance 1/inputs biases 0    LeCun et al. 1998
    torch        uniform in ±1/√inputs, the biases too                    what PyTorch's Linear starts from

Only "orthogonal" has a gain.
"""


def check_network(hidden_sizes: Sequence[int], activation: str, initialisation: str) -> tuple[int, ...]:
    """`hidden_sizes` as a tuple, if all three are fit to build a network.

    Raises:
        UnknownNameError: for an activation or initialisation that is not in the tables above.
        UsageError: for a width that is not a positive integer.
    """
    if activation not in ACTIVATIONS:
        raise UnknownNameError("activation", activation, ACTIVATIONS)
    if initialisation not in INITIALISATIONS:
        raise UnknownNameError("initialisation", initialisation, INITIALISATIONS)
    if isinstance(hidden_sizes, int):
        raise UsageError(f"hidden_sizes: got {hidden_sizes}; give a tuple, one width per hidden layer, e.g. ({hidden_sizes},)")
    if any(isinstance(size, bool) or not isinstance(size, int) or size < 1 for size in hidden_sizes):
        raise UsageError(f"hidden_sizes: got {tuple(hidden_sizes)}; every width must be an integer of at least 1")
    return tuple(hidden_sizes)


_CHUNK = 4096


# Compiling a random number generator takes longer than everything else here. So there is one draw per network, of a
# rounded number, and the policy and the critic share its program.
@functools.partial(jax.jit, static_argnums=(1, 2))
def _draws(key: Key, count: int, normal: bool) -> Array:
    return jax.random.normal(key, (count,)) if normal else jax.random.uniform(key, (count,), minval=-1, maxval=1)


def initial_draws(key: Key, count: int, initialisation: str) -> Array:
    """At least `count` numbers for `INITIALISATIONS` to make weights of: standard normal under "orthogonal", else uniform in ±1."""
    rounded = _CHUNK * 2 ** math.ceil(math.log2(max(count / _CHUNK, 1)))
    return _draws(key, rounded, initialisation == "orthogonal")


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))
def _layers(
    draws: Array, sizes: tuple[int, ...], initialisation: str, gains: tuple[float, ...], last_bias: bool
) -> tuple[eqx.nn.Linear, ...]:
    layers, used = [], 0
    for i, gain in enumerate(gains):
        num_inputs, num_outputs = sizes[i], sizes[i + 1]
        end = used + num_inputs * num_outputs
        weight = INITIALISATIONS[initialisation](draws[used:end], (num_outputs, num_inputs), gain)
        used = end + num_outputs
        use_bias = last_bias or i + 1 < len(gains)
        bias = draws[end:used] / math.sqrt(num_inputs) if initialisation == "torch" else jnp.zeros_like(draws[end:used])
        layer = eqx.nn.Linear(num_inputs, num_outputs, use_bias, key=jax.random.key(0))  # the shell; what it drew is dead code
        layer = eqx.tree_at(lambda x: x.weight, layer, weight)
        layers.append(eqx.tree_at(lambda x: x.bias, layer, bias) if use_bias else layer)
    return tuple(layers)


def linear_layers(
    key: Key, sizes: Sequence[int], initialisation: str = "orthogonal", *, output_gain: float = 1.0, output_bias: bool = True
) -> tuple[eqx.nn.Linear, ...]:
    """The affine layers of a network with an output layer.

        y_l = W_l x + b_l        W_l [sizes[l], sizes[l − 1]]        l = 1 … len(sizes) − 1

    Args:
        key: a PRNG key; the layers are independent given it.
        sizes: the number of inputs, the hidden widths, the number of outputs; each ≥ 1.
        initialisation: a name of `INITIALISATIONS`. Under "orthogonal" hidden layers take the gain √2 and the output layer
            `output_gain` > 0.
        output_bias: False leaves out the bias of the output layer.
    """
    sizes = tuple(sizes)
    count = sum((sizes[i] + 1) * sizes[i + 1] for i in range(len(sizes) - 1))
    gains = (*(math.sqrt(2),) * (len(sizes) - 2), output_gain)
    return _layers(initial_draws(key, count, initialisation), sizes, initialisation, gains, output_bias)


MANY = 1024
"""Observations from which a network is computed with them as columns."""


def affine(layer: eqx.nn.Linear, x: Array) -> Array:
    """W x + b over any leading axes: [..., inputs] -> [..., outputs]. (Equinox's own call takes one vector.)"""
    if not _many(x):
        y = x @ layer.weight.T
        return y if layer.bias is None else y + jnp.broadcast_to(layer.bias, y.shape)
    # The barrier keeps the gradient that comes back in columns: joined with its transposition, the product that follows took three times
    # as long.
    return _rows(jax.lax.optimization_barrier(_affine_of_columns(layer, _columns(x))), x)


def _many(x: Array) -> bool:
    """Whether there are so many observations that they had better be columns, [inputs, M] instead of [M, inputs].

    On a CPU the gradients of weights, [outputs, M] × [M, inputs], then read both factors along their rows, and nothing is transposed for
    the gradients of biases: an update of 64-64 networks takes a tenth less time. With 512 observations it took a seventh more.
    """
    return x.size >= MANY * x.shape[-1]


def _columns(x: Array) -> Array:
    """[..., inputs] -> [inputs, M]."""
    return x.reshape(-1, x.shape[-1]).T


def _rows(y: Array, x: Array) -> Array:
    """[outputs, M] -> [..., outputs], with the leading axes of x."""
    return y.T.reshape(*x.shape[:-1], y.shape[0])


def _affine_of_columns(layer: eqx.nn.Linear, x: Array) -> Array:
    """W x + b of every column: [inputs, M] -> [outputs, M]."""
    y = layer.weight @ x
    if layer.bias is None:
        return y
    # b as a product with ones, at full precision, whose gradient is another one: faster than a sum along rows.
    return y + jnp.matmul(layer.bias[:, None], jnp.ones((1, x.shape[1]), y.dtype), precision="highest")


class MLP(eqx.Module):
    """Affine layers, each followed by the activation. The output layer is no part of it: that is the head's.

        x ← f(W_l x + b_l)        l = 1 … len(layers)

    Args:
        layers: as `linear_layers` makes them, without the last; () is the identity.
        activation: f, a name of `ACTIVATIONS`.

    >>> *hidden, output = linear_layers(jax.random.key(0), (4, 64, 64, 2))
    >>> MLP(tuple(hidden), "tanh")(jnp.zeros((5, 8, 4))).shape
    (5, 8, 64)
    """

    layers: tuple[eqx.nn.Linear, ...]
    activation: str = eqx.field(static=True)

    def __call__(self, x: Array) -> Array:
        """[..., inputs] -> [..., width of the last layer]."""
        f = ACTIVATIONS[self.activation]
        if not _many(x):
            for layer in self.layers:
                x = f(affine(layer, x))
            return x
        y = _columns(x)
        for layer in self.layers:
            y = f(_affine_of_columns(layer, y))
        return _rows(y, x)
