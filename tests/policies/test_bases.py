"""Fourier, radial and random Fourier features against the formulas of their papers, written out in NumPy."""

from __future__ import annotations

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policygrad.errors import SpaceError, UsageError
from policygrad.policies.features import RBF, Fourier, RandomFourier, build, num_frequencies
from policygrad.spaces import Box, Dict, Discrete, MultiDiscrete

LOW, HIGH = (-1.0, 2.0), (3.0, 2.5)
BOX = Box.of(LOW, HIGH)
OBS = np.random.default_rng(0).uniform(LOW, HIGH, (2, 3, 2))
SCALED = (OBS - LOW) / np.subtract(HIGH, LOW)


def made(kind, space=BOX, **arguments):
    return build(kind, None, space, **arguments)


def brute_frequencies(num_variables, order, total_order=None):
    vectors = itertools.product(range(order + 1), repeat=num_variables)
    return np.array([c for c in vectors if total_order is None or sum(c) <= total_order])


@pytest.mark.parametrize(("order", "total_order"), [(1, None), (3, None), (3, 3), (2, 3), (5, 1)])
def test_fourier_is_the_cosine_of_every_frequency(x64, order, total_order):
    features = made("fourier", order=order, total_order=total_order)
    got = jax.jit(features)(OBS)
    expected = np.cos(np.pi * SCALED @ brute_frequencies(2, order, total_order).T)
    assert got.dtype == jnp.float64
    assert got.shape == (2, 3, features.num_features)
    np.testing.assert_allclose(got, expected, atol=1e-13)
    assert (got[..., 0] == 1).all()


def test_fourier_features_of_one_element_are_orthogonal_over_the_box(x64):
    """∫ φ_i φ_j over the box is 0 for i ≠ j, 1 for i = j = 0, else 1/2; the midpoint rule is exact for such cosines."""
    grid = (np.arange(8)[:, None] + 0.5) / 8 * 4 - 1
    phi = np.asarray(made("fourier", Box.of([-1.0], [3.0]), order=3)(grid))
    np.testing.assert_allclose(phi.T @ phi / 8, np.diag([1, 0.5, 0.5, 0.5]), atol=1e-13)


@pytest.mark.parametrize("num_variables", [1, 2, 4])
@pytest.mark.parametrize("order", [1, 2, 5])
@pytest.mark.parametrize("total_order", [None, 1, 3, 7])
def test_frequencies_are_counted_before_they_are_made(num_variables, order, total_order):
    assert num_frequencies(num_variables, order, total_order) == len(brute_frequencies(num_variables, order, total_order))


@pytest.mark.parametrize("kind", ["fourier", "rbf"])
def test_beyond_the_bounds_is_at_the_bounds(kind):
    outside, edge = np.array([[-9.0, 2.2], [1.0, 9.0]]), np.array([[-1.0, 2.2], [1.0, 2.5]])
    np.testing.assert_array_equal(made(kind)(outside), made(kind)(edge))


def test_bounds_may_be_given_where_the_space_has_none():
    unbounded = Box.of([-np.inf, 2.0], [np.inf, 2.5])
    same = made("fourier", unbounded, low=LOW, high=HIGH)
    assert same == made("fourier")
    assert made("fourier", unbounded, low=-1, high=3) == Fourier((2,), 3, (-1.0,), (3.0,))
    assert made("rbf", Box.of(-np.inf, np.inf, ()), low=0, high=2, per_dimension=3).low == (0.0,)
    largest = float(np.finfo(np.float32).max)
    for space in (unbounded, Box.of(-largest, largest, (2,)), Box.of(0.0, np.nan, (2,))):
        with pytest.raises(SpaceError, match=r"fourier features need a bounded box: got Box\(.*; give low= and high="):
            made("fourier", space)


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("arguments", [{"per_dimension": 3}, {"count": 5, "width": 0.4, "seed": 7}, {"per_dimension": 1, "width": 0.7}])
def test_rbf_is_a_gaussian_around_every_centre(x64, arguments, normalised):
    features = made("rbf", normalised=normalised, **arguments)
    width = arguments.get("width", 0.5)
    if "count" in arguments:
        centres = np.random.RandomState(7).random_sample((5, 2))
    else:
        line = [0.5] if arguments["per_dimension"] == 1 else [0, 0.5, 1]
        centres = np.array(list(itertools.product(line, line)))
    distances = ((SCALED[..., None, :] - centres) ** 2).sum(-1)
    expected = np.exp(-distances / (2 * width**2))
    if normalised:
        expected = expected / expected.sum(-1, keepdims=True)
    got = jax.jit(features)(OBS)
    assert got.shape == (2, 3, features.num_features)
    np.testing.assert_allclose(got, expected, atol=1e-13)
    assert features.spans_constant is normalised


def test_widths_that_are_not_given_are_the_spacing():
    assert made("rbf").num_features == 25
    assert made("rbf").width == 0.25
    assert made("rbf", count=100).width == pytest.approx(0.1)


def test_normalised_bumps_are_finite_far_from_every_centre():
    features = made("rbf", per_dimension=2, width=1e-3, normalised=True)
    assert (made("rbf", per_dimension=2, width=1e-3)(OBS) == 0).all()
    np.testing.assert_allclose(features(OBS).sum(-1), 1, rtol=1e-6)


def test_random_fourier_is_its_formula(x64):
    features = made("random-fourier", count=7, width=(0.5, 2.0), seed=3)
    draws = np.random.RandomState(3)
    omega, phase = draws.standard_normal((7, 2)) / [0.5, 2.0], draws.uniform(0, 2 * np.pi, 7)
    np.testing.assert_allclose(jax.jit(features)(OBS), math.sqrt(2 / 7) * np.cos(OBS @ omega.T + phase), atol=1e-13)


def test_random_fourier_features_make_the_gaussian_kernel(x64):
    """Each of the F products 2 cos cos has a variance below 2, so |error| ≤ 5 √(2/F)."""
    count, width = 20_000, np.array([0.5, 2.0])
    x = OBS.reshape(6, 2)
    phi = np.asarray(made("random-fourier", count=count, width=tuple(width))(x))
    kernel = np.exp(-0.5 * (((x[:, None] - x[None]) / width) ** 2).sum(-1))
    assert np.abs(phi @ phi.T - kernel).max() < 5 * math.sqrt(2 / count)


def test_seeds_are_the_same_numbers_everywhere():
    """A file holds the seed alone, so these numbers may never change."""
    first = made("rbf", Box.of(0.0, 1.0, (1,)), count=1, seed=0, width=0.1)(np.array([0.5488135]))
    np.testing.assert_allclose(first, [1], atol=1e-6)
    wave = made("random-fourier", Box.of(0.0, 1.0, (1,)), count=1, seed=0)(np.array([1.0]))
    np.testing.assert_allclose(wave, [math.sqrt(2) * math.cos(1.76405235 + 3.78727399)], atol=1e-6)
    assert made("rbf", count=5, seed=1) != made("rbf", count=5)


MODULES = {
    "fourier": {"order": 2},
    "rbf": {"per_dimension": 2},
    "random-fourier": {"count": 3},
}


@pytest.mark.parametrize("kind", MODULES)
def test_bases_have_no_parameters_and_differentiate(x64, kind):
    features = made(kind, **MODULES[kind])
    assert jax.tree.leaves(features) == []
    assert hash(jax.tree.structure(features)) == hash(jax.tree.structure(made(kind, **MODULES[kind])))
    obs = OBS[0, 0]
    jacobian = jax.jit(jax.jacrev(features))(obs)
    for i in range(2):
        step = 1e-5 * np.eye(2)[i]
        np.testing.assert_allclose(jacobian[:, i], (features(obs + step) - features(obs - step)) / 2e-5, atol=1e-8)
    np.testing.assert_allclose(jax.vmap(features)(OBS), features(OBS), atol=1e-13)
    assert jax.eval_shape(features, np.zeros((0, 4, 2))).shape == (0, 4, features.num_features)


def test_float32_stays():
    for kind, arguments in MODULES.items():
        assert jax.eval_shape(made(kind, **arguments), jax.ShapeDtypeStruct((2,), jnp.float32)).dtype == jnp.float32
        assert jax.eval_shape(made(kind, **arguments), jax.ShapeDtypeStruct((2,), jnp.int32)).dtype == jnp.float32


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("fourier", {"order": 0}, "order: got 0; it must be a whole number from 1"),
        ("fourier", {"order": 2.5}, "order: got 2.5"),
        ("fourier", {"total_order": 0}, "total_order: got 0"),
        ("fourier", {"low": (0, 0, 0)}, "got bounds .* give numbers, or one for each element"),
        ("fourier", {"low": "x"}, "got bounds 'x' and None"),
        ("fourier", {"low": 3}, "need low < high in every element"),
        ("fourier", {"order": 1000}, "too many: lower the order, give a total_order"),
        ("rbf", {"per_dimension": 3, "count": 4}, "got per_dimension=3 and count=4; give one"),
        ("rbf", {"width": 0}, "width: got 0; it must be a finite number above 0"),
        ("rbf", {"width": "wide"}, "width: got 'wide'"),
        ("rbf", {"normalised": 1}, "normalised: got 1; it must be True or False"),
        ("rbf", {"seed": -1}, "seed: got -1"),
        ("rbf", {"per_dimension": 1000}, "lower per_dimension, or give a count of random centres"),
        ("random-fourier", {"count": 0}, "count: got 0"),
        ("random-fourier", {"width": (1, 2, 3)}, "width: .* or 2: one for each element"),
        ("polynomial", {"degree": -1}, "degree: got -1"),
    ],
)
def test_arguments_out_of_range(kind, arguments, message):
    with pytest.raises(UsageError, match=message) as caught:
        made(kind, **arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["fourier", "rbf", "random-fourier", "polynomial"])
def test_other_spaces(kind):
    with pytest.raises(SpaceError, match=f"{kind} features need a Box observation: got Discrete\\(3; use 'one-hot'".replace("3;", "3\\);")):
        made(kind, Discrete(3))
    with pytest.raises(SpaceError, match="use 'one-hot'"):
        made(kind, MultiDiscrete((2, 2)))
    with pytest.raises(SpaceError, match="use 'joined', with features for each part"):
        made(kind, Dict.of({"a": BOX}))
    with pytest.raises(SpaceError, match="empty observation space"):
        made(kind, Box.of(0.0, 1.0, (0,)))


def test_what_would_fill_the_memory_is_refused():
    image = Box.of(0, 255, (84, 84, 4), "uint8")
    for kind, arguments in [("fourier", {"order": 1}), ("fourier", {"total_order": 1}), ("rbf", {}), ("random-fourier", {"count": 1000})]:
        with pytest.raises(UsageError, match="too many"):
            made(kind, image, **arguments)
    for lie in (Fourier((10**9,), 1, (0.0,), (1.0,), 0), RBF((3,), 10**9, None, 0.1, (0.0,), (1.0,)), RandomFourier((3,), 10**9, (1.0,))):
        with pytest.raises(UsageError, match="too many"):
            _ = lie.num_features
