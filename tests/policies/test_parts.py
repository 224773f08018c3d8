"""Features of parts side by side, what spaces suggest, layers over any features, and features by name."""

from __future__ import annotations

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policygrad.errors import SpaceError, UnknownNameError, UsageError
from policygrad.policies.features import (
    CNN,
    FEATURES,
    RBF,
    Fourier,
    Joined,
    MultiOneHot,
    Network,
    OneHot,
    Polynomial,
    RandomFourier,
    Raw,
    build,
    cnn,
    from_space,
    joined,
    learnt,
    num_features,
    parts,
)
from policygrad.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple, leaves, mapped

KEY = jax.random.key(0)
IMAGE = Box.of(0, 255, (8, 8, 1), "uint8")
NESTED = Dict.of(
    {
        "where": Tuple((Box.of(-1, 1, (2,)), Discrete(3))),
        "flags": MultiBinary((2,)),
        "arm": Dict.of({"joints": Box.of(-1, 1, (2, 2)), "mode": MultiDiscrete((2, 3))}),
    }
)


def observations(space, *batch, seed=0):
    rng = np.random.default_rng(seed)

    def leaf(space):
        match space:
            case Discrete():
                return rng.integers(0, space.n, batch).astype(np.int32)
            case MultiDiscrete():
                return rng.integers(0, np.reshape(space.counts, space.shape), (*batch, *space.shape)).astype(np.int32)
            case MultiBinary():
                return rng.integers(0, 2, (*batch, *space.shape)).astype(np.int8)
        if space.dtype == "uint8":
            return rng.integers(0, 256, (*batch, *space.shape)).astype(np.uint8)
        return rng.uniform(-1, 1, (*batch, *space.shape)).astype(np.float32)

    return mapped(leaf, space)


def layers_of(features, space, hidden_sizes=(), num_outputs=2, **kwargs):
    return learnt(KEY, space, hidden_sizes, num_outputs, activation="tanh", initialisation="xavier", output_gain=1.0, **kwargs)


# Parts


def test_parts_stand_side_by_side_in_the_order_of_leaves():
    features = from_space(NESTED)
    obs = observations(NESTED, 2, 3)
    x = np.asarray(jax.jit(features)(obs))
    assert [name for name, _ in leaves(NESTED)] == ["['arm']['joints']", "['arm']['mode']", "['flags']", "['where'][0]", "['where'][1]"]
    mode = obs["arm"]["mode"]
    expected = [
        obs["arm"]["joints"].reshape(2, 3, 4),
        np.eye(2)[mode[..., 0]],
        np.eye(3)[mode[..., 1]],
        obs["flags"],
        obs["where"][0],
        np.eye(3)[obs["where"][1]],
    ]
    np.testing.assert_array_equal(x, np.concatenate(expected, axis=-1).astype(np.float32))
    assert x.shape == (2, 3, features.num_features) == (2, 3, 16)
    one = jax.tree.map(lambda leaf: leaf[1, 2], obs)
    np.testing.assert_array_equal(features(one), x[1, 2])
    assert hash(jax.tree.structure(features)) == hash(jax.tree.structure(from_space(NESTED)))


def test_learnt_parts_have_gradients():
    space = Dict.of({"eye": Box.of(0, 255, (4, 4, 1), "uint8"), "hand": Box.of(-1, 1, (2,))})
    features = joined(KEY, space, {"eye": functools.partial(cnn, layers=((2, 2, 1),), num_features=3)})
    assert isinstance(features.parts[0], CNN)
    assert features.num_features == 5
    obs = observations(space, 4)
    gradient = jax.jit(jax.grad(lambda features: jnp.sum(features(obs) ** 2)))(features)
    assert len(jax.tree.leaves(gradient)) == 4
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradient))


def test_parts_that_are_not_named_are_not_seen():
    obs = observations(NESTED, 2)
    np.testing.assert_array_equal(Joined(("flags",), (Raw((2,)),))(obs), obs["flags"])
    np.testing.assert_array_equal(Joined((1,), (OneHot(3),))(obs["where"]), np.eye(3)[obs["where"][1]])


def test_observations_without_the_parts():
    features = from_space(NESTED)
    obs = observations(NESTED, 2)
    with pytest.raises(SpaceError, match="observation: got a dict with 'flags'; the policy takes a dict with 'arm', 'flags', 'where'"):
        features({"flags": obs["flags"]})
    with pytest.raises(SpaceError, match="observation: got a ndarray; the policy takes a dict"):
        features(np.zeros(16))
    with pytest.raises(SpaceError, match=r"got a tuple with 0; the policy takes a tuple with 0, 1"):
        features({**obs, "where": obs["where"][:1]})
    with pytest.raises(SpaceError, match=r"parts of different batch axes, 'arm' \(2,\), 'flags' \(\), 'where' \(2,\); give all"):
        features({**obs, "flags": obs["flags"][0]})
    with pytest.raises(SpaceError, match=r"observation shape: got \(2, 3\)"):
        features({**obs, "flags": np.zeros((2, 3), np.int8)})


# What a space suggests


def test_what_spaces_suggest():
    assert from_space(MultiDiscrete((2, 3))) == MultiOneHot((2, 3), (2,))
    assert from_space(MultiBinary((2,))) == Raw((2,))
    assert from_space(IMAGE) == Raw((8, 8, 1))
    space = Dict.of({"eyes": Tuple((IMAGE, IMAGE)), "hand": Box.of(-1, 1, (2,))})
    features = jax.eval_shape(lambda key: from_space(space, key=key), KEY)
    assert [type(part) for part in features.parts[0].parts] == [CNN, CNN]
    assert features.parts[1] == Raw((2,))
    assert features.num_features == 64 + 64 + 2
    with pytest.raises(SpaceError, match=r"empty observation\['arm'\]\[0\] space: got Box"):
        from_space(Dict.of({"arm": Tuple((Box.of(-1, 1, (0,)),))}))


def test_images_start_from_keys_of_their_own(monkeypatch):
    seen = []
    monkeypatch.setattr(parts, "suggested", lambda key, space: seen.append(jax.random.key_data(key).tolist()))
    from_space(Dict.of({"eyes": Tuple((IMAGE, IMAGE)), "map": IMAGE}), key=KEY)
    assert len({tuple(key) for key in (*seen, jax.random.key_data(KEY).tolist())}) == 4


# Layers over any features


def test_layers_over_given_features():
    box = Box.of(-1, 1, (2,))
    fourier = build("fourier", KEY, box, order=2)
    features, output = layers_of(None, box, (5, 4), inputs=fourier)
    assert isinstance(features, Network)
    assert (features.inputs, features.num_features) == (fourier, 4)
    assert [layer.weight.shape for layer in (*features.layers, output)] == [(5, 9), (4, 5), (2, 4)]
    assert num_features(features, box) == 4
    obs = observations(box, 3)
    x = np.asarray(fourier(obs))
    for layer in features.layers:
        x = np.tanh(x @ np.asarray(layer.weight).T + np.asarray(layer.bias))
    np.testing.assert_allclose(features(obs), x, atol=1e-6)


def test_a_space_with_images_gets_convolutions_under_the_layers():
    features, output = jax.eval_shape(lambda key: layers_of(None, IMAGE, (5,)), KEY)
    assert isinstance(features.inputs, CNN)
    assert [features.layers[0].weight.shape, output.weight.shape] == [(5, 64), (2, 5)]
    direct, output = jax.eval_shape(lambda key: layers_of(None, IMAGE), KEY)
    assert isinstance(direct, CNN)
    assert output.weight.shape == (2, 64)


@pytest.mark.parametrize(
    ("kind", "space", "arguments"),
    [
        ("raw", Box.of(-1, 1, (2,)), {}),
        ("raw", Discrete(4), {}),
        ("one-hot", MultiDiscrete((2, 3)), {}),
        ("polynomial", Box.of(-1, 1, (2,)), {}),
        ("fourier", Box.of(-1, 1, (2,)), {}),
        ("rbf", Box.of(-1, 1, (2,)), {"per_dimension": 2}),
        ("rbf", Box.of(-1, 1, (2,)), {"per_dimension": 2, "normalised": True}),
        ("random-fourier", Box.of(-1, 1, (2,)), {"count": 4}),
        ("raw", NESTED, {}),
        ("raw", Tuple((Box.of(-1, 1, (2,)), MultiBinary((2,)))), {}),
    ],
)
def test_a_bias_is_left_out_where_the_constant_is_among_the_features(x64, kind, space, arguments):
    """Over many observations the constant is a linear combination of the features, or it is not."""
    features = build(kind, KEY, space, **arguments)
    doubles = jax.tree.map(lambda leaf: leaf.astype(np.float64) if leaf.dtype == np.float32 else leaf, observations(space, 200))
    x = np.asarray(features(doubles))
    combination = np.linalg.lstsq(x, np.ones(len(x)), rcond=None)[0]
    spanned = bool(np.abs(x @ combination - 1).max() < 1e-9)
    _, output = layers_of(None, space, inputs=features)
    assert (output.bias is None) == spanned
    assert output.weight.shape == (2, features.num_features)
    assert layers_of(None, space, (3,), inputs=features)[1].bias is not None


def test_any_function_may_be_the_inputs():
    class Own(eqx.Module):
        def __call__(self, obs):
            return jnp.concatenate([obs, obs**2], axis=-1)

    box = Box.of(-1, 1, (2,))
    features, output = layers_of(None, box, inputs=Own())
    assert output.weight.shape == (2, 4)
    assert features(np.ones((3, 2), np.float32)).shape == (3, 4)
    with pytest.raises(UsageError, match=r"features: got \(\) for 2 observations; they must return \[..., F\]"):
        layers_of(None, box, inputs=jnp.sum)
    with pytest.raises(SpaceError, match="observation shape"):
        layers_of(None, box, inputs=Raw((3,)))


# By name


BUILT = {
    "auto": (Box.of(-1, 1, (2,)), {}, Raw),
    "raw": (IMAGE, {}, Raw),
    "one-hot": (MultiDiscrete((2, 3)), {}, MultiOneHot),
    "polynomial": (Box.of(-1, 1, (2,)), {"degree": 3}, Polynomial),
    "fourier": (Box.of(-1, 1, (2,)), {"order": 2}, Fourier),
    "rbf": (Box.of(-1, 1, (2,)), {"count": 3}, RBF),
    "random-fourier": (Box.of(-1, 1, (2,)), {"count": 3}, RandomFourier),
    "nature-cnn": (Box.of(0, 255, (36, 36, 1), "uint8"), {"num_features": 2}, CNN),
    "small-cnn": (IMAGE, {"num_features": 2}, CNN),
    "joined": (NESTED, {}, Joined),
}


@pytest.mark.parametrize("kind", FEATURES)
def test_every_name_builds_features_of_leading_axes(kind):
    space, arguments, cls = BUILT[kind]
    features = jax.eval_shape(lambda key: build(kind, key, space, **arguments), KEY)
    assert isinstance(features, cls)
    obs = observations(space, 4, 2)
    x = jax.eval_shape(lambda features, obs: features(obs), features, obs)
    assert (x.shape, x.dtype) == ((4, 2, features.num_features), jnp.float32)
    with jax.enable_x64(True):
        doubles = jax.tree.map(lambda leaf: leaf.astype(np.float64) if leaf.dtype == np.float32 else leaf, obs)
        features = jax.eval_shape(lambda key: build(kind, key, space, **arguments), KEY)
        assert jax.eval_shape(lambda features, obs: features(obs), features, doubles).dtype == jnp.float64


def test_auto_is_what_the_space_suggests():
    assert isinstance(jax.eval_shape(lambda key: build("auto", key, IMAGE), KEY), CNN)
    assert build("auto", KEY, NESTED) == from_space(NESTED)
    assert build("one-hot", None, Discrete(3)) == OneHot(3)


def test_functions_and_features_made_already():
    box = Box.of(-1, 1, (2,))
    assert build(lambda key, space, degree: Polynomial(space.shape, degree), KEY, box, degree=3) == Polynomial((2,), 3)
    given = Raw((2,))
    assert build(given, KEY, box) is given
    made = joined(KEY, NESTED, {"flags": given, "where": functools.partial(joined, parts={0: "polynomial"})}, others="raw")
    assert made.parts[1] is given
    assert made.parts[2].parts[0] == Polynomial((2,), 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: build("fouriér", KEY, Box.of(-1, 1, (2,))), "unknown features 'fouriér': did you mean fourier"),
        (lambda: build(3, KEY, Box.of(-1, 1, (2,))), r"features: got int; give a name \(auto, raw,"),
        (lambda: build("raw", KEY, Discrete(2), degree=2), "features 'raw': got the arguments degree; it takes: none"),
        (lambda: build("polynomial", KEY, Discrete(2), order=2), "'polynomial': got the arguments order; it takes: degree"),
        (lambda: build(Raw((2,)), KEY, Discrete(2), degree=2), "features Raw: got degree for features made already"),
        (lambda: build(lambda key, space: None, KEY, Discrete(2)), "got NoneType from its builder; it must return a Module"),
        (lambda: build("one-hot", KEY, Box.of(-1, 1, (2,))), "one-hot features need Discrete or MultiDiscrete .* use 'raw'"),
        (lambda: joined(KEY, Discrete(2)), "joined features need a Dict or Tuple observation: got Discrete"),
        (lambda: joined(KEY, NESTED, {"leg": "raw"}), "unknown part of the observation 'leg': did you mean flags|known: arm"),
        (lambda: joined(KEY, NESTED, {"arm": "fourier"}), "fourier features need a Box .*use 'joined'"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(UsageError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, UnknownNameError) == str(caught.value).startswith("unknown")
