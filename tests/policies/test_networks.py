"""Layers, activations and initialisations."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policygrad.errors import UnknownNameError, UsageError
from policygrad.policies.networks import ACTIVATIONS, INITIALISATIONS, MLP, affine, check_network, linear_layers

KEY = jax.random.key(0)


@pytest.mark.parametrize("x64", [False, True])
def test_orthogonal_weights_are_orthogonal_with_their_gains(x64):
    with jax.enable_x64(x64):
        layers = linear_layers(KEY, (3, 8, 5, 2), output_gain=0.01)
        for layer, gain in zip(layers, (math.sqrt(2), math.sqrt(2), 0.01), strict=True):
            w = np.asarray(layer.weight)
            assert w.dtype == (np.float64 if x64 else np.float32)
            gram = w.T @ w if w.shape[0] >= w.shape[1] else w @ w.T
            np.testing.assert_allclose(gram, gain**2 * np.eye(min(w.shape)), atol=1e-12 if x64 else 1e-6)
            assert (np.asarray(layer.bias) == 0).all()


def test_orthogonal_weights_have_no_preferred_sign():
    """Plain QR does: its R has a diagonal of one sign, which shows in Q's."""
    keys = jax.random.split(KEY, 400)
    corner = np.asarray(jax.jit(jax.vmap(lambda key: linear_layers(key, (3, 3))[0].weight[0, 0]))(keys))
    assert abs(corner.mean()) <= 5 * corner.std() / 20


@pytest.mark.parametrize(
    ("name", "limit"),
    [("xavier", math.sqrt(6 / (50 + 200))), ("lecun", math.sqrt(3 / 50)), ("torch", 1 / math.sqrt(50))],
)
def test_uniform_initialisations_fill_their_interval(name, limit):
    (layer,) = linear_layers(KEY, (50, 200), name)
    w = np.asarray(layer.weight, np.float64)
    assert limit * 0.99 < np.abs(w).max() <= limit * (1 + 1e-6)
    assert abs(w.mean()) <= 5 * limit / math.sqrt(3 * w.size)
    np.testing.assert_allclose(w.var(), limit**2 / 3, rtol=5 * math.sqrt(0.8 / w.size))
    b = np.asarray(layer.bias)
    if name == "torch":
        assert limit * 0.9 < np.abs(b).max() <= limit * (1 + 1e-6)
    else:
        assert (b == 0).all()


@pytest.mark.parametrize("name", INITIALISATIONS)
def test_layers_are_independent_and_determined_by_the_key(name):
    sizes = (70, 70, 70)
    first, second = linear_layers(KEY, sizes, name)
    again, _ = linear_layers(KEY, sizes, name)
    other, _ = linear_layers(jax.random.key(1), sizes, name)
    np.testing.assert_array_equal(first.weight, again.weight)
    for w in (second.weight, other.weight):
        assert abs(np.corrcoef(np.ravel(first.weight), np.ravel(w))[0, 1]) <= 5 / 70
    traced = jax.jit(lambda key: linear_layers(key, sizes, name))(KEY)
    np.testing.assert_allclose(traced[0].weight, first.weight, atol=1e-5)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_network_is_the_equation(activation):
    *hidden, output = linear_layers(KEY, (3, 4, 5, 2), "torch")
    net = MLP(tuple(hidden), activation)
    obs = np.random.default_rng(0).normal(size=(2, 6, 3)).astype(np.float32)
    x = obs
    for layer in hidden:
        x = np.asarray(ACTIVATIONS[activation](x @ np.asarray(layer.weight).T + np.asarray(layer.bias)))
    np.testing.assert_allclose(jax.jit(lambda net, obs: net(obs))(net, obs), x, atol=1e-6)
    np.testing.assert_allclose(*jax.jit(lambda layer, x: (affine(layer, x), jax.vmap(layer)(x)))(output, x[0]), atol=1e-6)


def test_many_observations_are_columns_and_nothing_else_changes(x64):
    """Values, both derivatives, and curvature times a vector, of 1,024 observations at once and in halves."""
    layers = linear_layers(jax.random.key(0), (3, 8, 8, 2))
    rng = np.random.default_rng(0)
    x, seen = rng.normal(size=(32, 32, 3)), rng.normal(size=(32, 32, 2))
    layers, moved = (jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), layers) for _ in range(2))

    def loss(layers, x, seen):
        return jnp.sum(affine(layers[-1], MLP(layers[:-1], "tanh")(x)) * seen)

    @jax.jit
    def everything(layers, x, seen):
        gradient = jax.grad(loss)
        both = jax.jvp(lambda layers: (loss(layers, x, seen), gradient(layers, x, seen)), (layers,), (moved,))
        return both, jax.vmap(lambda x: affine(layers[-1], MLP(layers[:-1], "tanh")(x)))(x), jax.grad(loss, 1)(layers, x, seen)

    (at_once, along), by_row, of_x = everything(layers, x, seen)
    halves = [everything(layers, x[half], seen[half]) for half in (slice(16), slice(16, 32))]
    for whole, *parts in zip(*(jax.tree.leaves(made) for made in ((at_once, along), *(half[0] for half in halves))), strict=True):
        np.testing.assert_allclose(whole, sum(parts), rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(of_x, np.concatenate([half[2] for half in halves]), rtol=1e-12)
    np.testing.assert_allclose(affine(layers[-1], MLP(layers[:-1], "tanh")(x)), by_row, rtol=1e-12)


def test_activations_mean_what_they_are_called():
    x = np.array([-2.0, -0.5, 0.0, 1.5])
    expected = {
        "tanh": np.tanh(x),
        "relu": np.maximum(x, 0),
        "leaky_relu": np.where(x > 0, x, 0.01 * x),
        "elu": np.where(x > 0, x, np.expm1(x)),
        "sigmoid": 1 / (1 + np.exp(-x)),
        "silu": x / (1 + np.exp(-x)),
        "softplus": np.log1p(np.exp(x)),
        "identity": x,
    }
    for name, values in expected.items():
        np.testing.assert_allclose(ACTIVATIONS[name](jnp.asarray(x)), values, atol=1e-6, err_msg=name)
    gelu = [0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x]
    np.testing.assert_allclose(ACTIVATIONS["gelu"](jnp.asarray(x)), gelu, atol=1e-3)  # JAX's is the tanh approximation


def test_without_an_output_bias_the_layer_has_one_leaf():
    layers = linear_layers(KEY, (3, 4, 2), output_bias=False)
    assert layers[0].bias is not None
    assert layers[1].bias is None
    assert affine(layers[1], jnp.ones((2, 4))).shape == (2, 2)


def test_wrong_names_and_sizes():
    with pytest.raises(UnknownNameError, match="unknown activation 'tahn': did you mean tanh"):
        check_network((4,), "tahn", "orthogonal")
    with pytest.raises(UnknownNameError, match="unknown initialisation 'orthogonl': did you mean orthogonal"):
        check_network((4,), "tanh", "orthogonl")
    for sizes in ((0,), (4, -1), (2.5,), (True,), 64):
        with pytest.raises(UsageError, match="hidden_sizes: got"):
            check_network(sizes, "tanh", "orthogonal")
    assert check_network([3, 4], "tanh", "torch") == (3, 4)
