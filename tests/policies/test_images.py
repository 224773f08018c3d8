"""Convolutions against loops in NumPy, layouts of images against one another, and the sizes of the published network."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policygrad.errors import SpaceError, UnknownNameError, UsageError
from policygrad.policies.features import build, cnn, from_space, nature_cnn, small_cnn
from policygrad.policies.features.images import is_image, layout, least_size
from policygrad.spaces import Box, Discrete

KEY = jax.random.key(0)
TINY = ((3, 2, 1), (2, 3, 2))


def image(*shape, dtype="uint8"):
    return Box.of(0, 255, shape, dtype)


def pixels(*shape):
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def numpy_convolution(x, weight, bias, stride):
    """y[i, j, o] = b_o + Σ_{c, u, v} W[o, c, u, v] x[i s + u, j s + v, c] of one image."""
    size = weight.shape[-1]
    rows, columns = ((n - size) // stride + 1 for n in x.shape[:2])
    y = np.zeros((rows, columns, len(weight)))
    for i in range(rows):
        for j in range(columns):
            for o in range(len(weight)):
                total = 0.0
                for c in range(x.shape[2]):
                    for u in range(size):
                        for v in range(size):
                            total += weight[o, c, u, v] * x[i * stride + u, j * stride + v, c]
                y[i, j, o] = total + bias[o]
    return y


def test_a_network_is_its_formula(x64):
    features = cnn(KEY, image(7, 6, 2), TINY, num_features=5, initialisation="torch", activation="tanh")
    obs = pixels(2, 7, 6, 2)
    got = jax.jit(lambda features, obs: features(obs))(features, obs)
    assert got.dtype == jnp.float64
    for one, x in zip(obs, got, strict=True):
        y = one / 255
        for layer, (_, _, stride) in zip(features.layers, TINY, strict=True):
            y = np.tanh(numpy_convolution(y, np.asarray(layer.weight), np.asarray(layer.bias).ravel(), stride))
        expected = np.tanh(np.asarray(features.output.weight) @ y.ravel() + np.asarray(features.output.bias))
        np.testing.assert_allclose(x, expected, atol=1e-12)


def test_any_leading_axes_and_transformations():
    features = cnn(KEY, image(5, 5, 1), ((2, 3, 1),), num_features=3)
    obs = pixels(2, 3, 5, 5, 1)

    @jax.jit
    def ways(features, obs):
        gradient = jax.grad(lambda f: jnp.sum(f(obs) ** 2))(features)
        return features(obs), features(obs.reshape(6, 5, 5, 1)), jax.vmap(features)(obs), features(obs[1, 2]), gradient

    x, flat, mapped, single, gradient = ways(features, obs)
    assert x.shape == (2, 3, 3)
    np.testing.assert_array_equal(x.reshape(6, 3), flat)
    np.testing.assert_allclose(mapped, x, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(single, x[1, 2], rtol=1e-5, atol=1e-6)
    assert all(np.isfinite(leaf).all() and np.any(leaf) for leaf in jax.tree.leaves(gradient))
    assert jax.eval_shape(features, np.zeros((0, 5, 5, 1), np.uint8)).shape == (0, 3)


def test_bytes_are_scaled_and_floats_are_not():
    features = cnn(KEY, image(4, 4), ((2, 2, 1),), num_features=3)
    obs = pixels(2, 4, 4)
    floats = (obs / np.float32(255)).astype(np.float32)
    np.testing.assert_allclose(features(obs), features(floats), rtol=1e-6)


def test_every_layout_sees_the_same_image():
    last = cnn(KEY, image(6, 5, 2), TINY[:1], num_features=3)
    obs = pixels(3, 6, 5, 2)
    x = last(obs)
    first = cnn(KEY, image(2, 6, 5), TINY[:1], num_features=3)
    assert first.channels == "first"
    np.testing.assert_array_equal(first(np.moveaxis(obs, -1, 1)), x)
    explicit = cnn(KEY, image(2, 6, 5), TINY[:1], num_features=3, channels="first")
    assert explicit.channels == "first"
    one = obs[..., :1]
    flat, deep = (cnn(KEY, image(*shape), TINY[:1], num_features=3) for shape in ((6, 5), (6, 5, 1)))
    np.testing.assert_array_equal(flat(one[..., 0]), deep(one))


def test_frames_are_channels():
    frames = pixels(2, 4, 6, 5, 3)  # 4 frames of 3 channels
    together = np.concatenate([frames[:, k] for k in range(4)], axis=-1)
    x = cnn(KEY, image(6, 5, 12), TINY[:1], num_features=3)(together)
    np.testing.assert_array_equal(cnn(KEY, image(4, 6, 5, 3), TINY[:1], num_features=3)(frames), x)
    np.testing.assert_array_equal(cnn(KEY, image(4, 3, 6, 5), TINY[:1], num_features=3)(np.moveaxis(frames, -1, 2)), x)


@pytest.mark.parametrize(
    ("shape", "channels", "expected"),
    [
        ((84, 84, 4), None, ("last", 84, 84, 4)),
        ((4, 84, 84), None, ("first", 84, 84, 4)),
        ((210, 160, 3), None, ("last", 210, 160, 3)),
        ((3, 210, 160), None, ("first", 210, 160, 3)),
        ((10, 10, 7), None, ("last", 10, 10, 7)),
        ((4, 4, 4), None, ("last", 4, 4, 4)),
        ((16, 84, 80), "first", ("first", 84, 80, 16)),
        ((2, 9, 8), "last", ("last", 2, 9, 8)),
        ((9, 8), None, ("last", 9, 8, 1)),
        ((4, 96, 90, 3), None, ("last", 96, 90, 12)),
        ((4, 3, 96, 90), None, ("first", 96, 90, 12)),
    ],
)
def test_layouts(shape, channels, expected):
    assert layout(image(*shape), channels) == expected


def test_the_published_network():
    """1,684,128 parameters under the heads, as counted from the paper's table; no weights are made."""
    features = jax.eval_shape(lambda key: nature_cnn(key, image(84, 84, 4)), KEY)
    assert [layer.weight.shape for layer in features.layers] == [(32, 4, 8, 8), (64, 32, 4, 4), (64, 64, 3, 3)]
    assert [layer.stride for layer in features.layers] == [(4, 4), (2, 2), (1, 1)]
    assert features.output.weight.shape == (512, 3136)
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(features)) == 1_684_128
    assert features.activation == "relu"
    x = jax.eval_shape(lambda f, obs: f(obs), features, jax.ShapeDtypeStruct((5, 2, 84, 84, 4), jnp.uint8))
    assert (x.shape, x.dtype) == ((5, 2, 512), jnp.float32)
    assert features.num_features == 512


def test_small_networks_skip_no_cell_of_small_images():
    for size, stride, dense in [(5, 1, 32), (10, 1, 6 * 6 * 32), (15, 1, 11 * 11 * 32), (16, 2, 3 * 3 * 32), (32, 2, 7 * 7 * 32)]:
        features = jax.eval_shape(lambda key, size=size: small_cnn(key, image(size, size, 3)), KEY)
        assert [layer.weight.shape[:2] for layer in features.layers] == [(16, 3), (32, 16)]
        assert {layer.stride for layer in features.layers} == {(stride, stride)}
        assert features.output.weight.shape == (64, dense)
    assert jax.eval_shape(lambda key: small_cnn(key, image(10, 10, 4), stride=2), KEY).output.weight.shape == (64, 32)


def test_weights_start_as_they_are_told_to(x64):
    features = cnn(KEY, image(6, 6, 2), TINY, num_features=3)
    for layer in (*features.layers, features.output):
        matrix = np.asarray(layer.weight).reshape(layer.weight.shape[0], -1)
        np.testing.assert_allclose(matrix @ matrix.T, 2 * np.eye(len(matrix)), atol=1e-12)
        assert not np.any(layer.bias)
    drawn = [np.asarray(layer.weight).ravel()[:4] for layer in (*features.layers, features.output)]
    assert len({tuple(values) for values in drawn}) == 3
    torch = cnn(KEY, image(6, 6, 2), TINY, num_features=3, initialisation="torch")
    for layer, inputs in zip((*torch.layers, torch.output), (8, 27, 8), strict=True):
        for leaf in (layer.weight, layer.bias):
            assert np.all(np.abs(leaf) <= 1 / math.sqrt(inputs))
            assert np.any(leaf)
    other = cnn(jax.random.key(1), image(6, 6, 2), TINY, num_features=3)
    assert np.any(other.layers[0].weight != features.layers[0].weight)


def test_which_spaces_are_images():
    yes = [(84, 84, 4), (4, 84, 84), (10, 10, 4), (8, 8, 8), (4, 96, 96, 3), (4, 10, 9, 3), (4, 3, 10, 9)]
    no = [(7, 7, 3), (84, 84), (16, 84, 84), (28224,), (4, 5, 7, 2), (84, 84, 0)]
    assert all(is_image(image(*shape)) for shape in yes)
    assert not any(is_image(image(*shape)) for shape in no)
    assert not is_image(image(84, 84, 4, dtype="float32"))
    assert not is_image(Discrete(3))


def test_what_a_size_suggests():
    sizes = {36: 64, 35: 32, 8: 32}  # of the last convolution
    for size, outputs in sizes.items():
        features = jax.eval_shape(lambda key, size=size: from_space(image(size, size + 1, 1), key=key), KEY)
        assert features.layers[-1].weight.shape[0] == outputs
    assert from_space(image(8, 8, 1)).num_features == 64  # without a key, the elements


def test_least_sizes_are_the_least():
    assert least_size(((32, 8, 4), (64, 4, 2), (64, 3, 1))) == 36
    for layers in (TINY, ((1, 3, 1), (1, 3, 1)), ((1, 3, 2), (1, 3, 2)), ((1, 8, 4), (1, 4, 2), (1, 3, 1))):
        least = least_size(layers)
        assert jax.eval_shape(lambda key, n=least, layers=layers: cnn(key, image(n, n, 1), layers), KEY).output.weight.shape[1] > 0
        with pytest.raises(SpaceError, match=f"need at least {least}×{least}"):
            cnn(KEY, image(least, least - 1, 1), layers)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nature_cnn(KEY, image(84, 35, 3)), r"image too small: got 84×35 of Box\(.*; .* at least 36×36: use 'small-cnn'"),
        (lambda: small_cnn(KEY, image(4, 4, 3)), "at least 5×5: use smaller kernels or strides, or 'raw'"),
        (lambda: small_cnn(KEY, image(9, 9, 3), stride=0), "stride: got 0"),
        (lambda: nature_cnn(KEY, Box.of(0, 1, (84,))), r"an image must be a Box \[H, W, C\]"),
        (lambda: nature_cnn(KEY, Discrete(4)), "an image must be a Box"),
        (lambda: nature_cnn(KEY, image(84, 84, 4), channels="middle"), "channels: got 'middle'; it must be 'last'"),
        (lambda: nature_cnn(KEY, image(84, 84, 4), num_features=0), "num_features: got 0"),
        (lambda: cnn(KEY, image(9, 9, 1), ()), r"layers: got \(\)"),
        (lambda: cnn(KEY, image(9, 9, 1), ((2, 3),)), "give \\(outputs, kernel, stride\\) for each convolution"),
        (lambda: cnn(KEY, image(9, 9, 1), ((2, 3, 0),)), "outputs, kernel and stride: got 0"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(UsageError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_names_of_activations_are_checked():
    with pytest.raises(UnknownNameError, match="unknown activation 'rleu': did you mean relu"):
        nature_cnn(KEY, image(84, 84, 4), activation="rleu")


def test_observations_of_another_shape():
    features = jax.eval_shape(lambda key: build("small-cnn", key, image(8, 8, 1)), KEY)
    with pytest.raises(SpaceError, match=r"observation shape: got \(8, 8, 2\); the policy takes \[..., 8, 8, 1\]"):
        jax.eval_shape(lambda features, obs: features(obs), features, pixels(8, 8, 2))
