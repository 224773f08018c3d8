"""Distributions against scipy.stats, exact sums and integrals, finite differences and their own samples."""

from __future__ import annotations

import itertools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from policygrad.policies import Categorical, Distribution, Gaussian
from policygrad.policies.distributions import drawn_noise, sampled

EXACT = 1e-10


@pytest.fixture(scope="module")
def draws():
    return np.random.default_rng(0)


def central_differences(f, x, step=1e-6):
    """∇f at a float64 vector, all perturbations in one call."""
    moves = step * np.eye(x.size)
    values = np.asarray(jax.jit(jax.vmap(f))(np.concatenate([x + moves, x - moves])))
    return (values[: x.size] - values[x.size :]) / (2 * step)


# Against scipy


def test_categorical_agrees_with_scipy(draws):
    logits, others = draws.normal(size=(2, 3, 4, 5)) * 3
    p, q = scipy.special.softmax(logits, -1), scipy.special.softmax(others, -1)

    @jax.jit
    def ours(logits, others):
        here = Categorical(logits)
        log_probs = [here.log_prob(jnp.full((3, 4), a)) for a in range(5)]
        return log_probs, here.entropy(), here.kl(Categorical(others)), here.probabilities(), here.mode()

    with jax.enable_x64(True):
        log_probs, entropy, kl, probabilities, mode = ours(logits, others)
        assert log_probs[0].dtype == jnp.float64
        np.testing.assert_allclose(np.stack(log_probs, -1), scipy.special.log_softmax(logits, -1), atol=EXACT)
        np.testing.assert_allclose(entropy, scipy.stats.entropy(p, axis=-1), atol=EXACT)
        np.testing.assert_allclose(kl, scipy.stats.entropy(p, q, axis=-1), atol=EXACT)
        np.testing.assert_allclose(probabilities, p, atol=EXACT)
        np.testing.assert_array_equal(mode, p.argmax(-1))


def test_gaussian_agrees_with_scipy(draws):
    mean, log_std, action = draws.normal(size=(3, 4, 2, 3))
    normal = scipy.stats.norm(mean, np.exp(log_std))

    @jax.jit
    def ours(mean, log_std, action):
        each = [Gaussian(mean, log_std, ndim) for ndim in range(4)]
        return [d.log_prob(action) for d in each], [d.entropy() for d in each], each[0].mode()

    with jax.enable_x64(True):
        log_probs, entropies, mode = ours(mean, log_std, action)
        for ndim in range(4):
            axes = tuple(range(-ndim, 0))
            np.testing.assert_allclose(log_probs[ndim], normal.logpdf(action).sum(axes), rtol=EXACT)
            np.testing.assert_allclose(entropies[ndim], normal.entropy().sum(axes), atol=EXACT)
        np.testing.assert_array_equal(mode, mean)
        joint = scipy.stats.multivariate_normal(mean[0, 0], np.diag(np.exp(2 * log_std[0, 0])))
        np.testing.assert_allclose(log_probs[1][0, 0], joint.logpdf(action[0, 0]), atol=EXACT)


# Against sums and integrals


def test_categorical_sums_to_one_and_entropy_is_the_expected_information(draws):
    @jax.jit
    def ours(x, y):
        here, there = Categorical(x), Categorical(y)
        each = jax.vmap(lambda a: (here.log_prob(a), there.log_prob(a)))(jnp.arange(6))
        return *each, here.entropy(), here.kl(there)

    with jax.enable_x64(True):
        logs, others, entropy, kl = map(np.asarray, ours(*draws.normal(size=(2, 6)) * 2))
        assert abs(np.sum(np.exp(logs)) - 1) < EXACT
        assert abs(entropy + np.sum(np.exp(logs) * logs)) < EXACT
        assert abs(kl - np.sum(np.exp(logs) * (logs - others))) < EXACT


def test_gaussian_integrates_to_one_and_entropy_is_the_expected_information():
    grid = np.linspace(-10.0, 10.0, 4001)  # the trapezium rule is exact to rounding for functions this smooth

    @jax.jit
    def ours(mean, log_std):
        here, there = (Gaussian(mean[i], log_std[i], 0) for i in range(2))
        each = jax.vmap(lambda a: (here.log_prob(a), there.log_prob(a)))(grid)
        return *each, here.entropy(), here.kl(there)

    with jax.enable_x64(True):
        logs, others, entropy, kl = map(np.asarray, ours(np.array([0.3, -0.2]), np.array([-0.7, 0.4])))
        p = np.exp(logs)
        assert abs(scipy.integrate.trapezoid(p, grid) - 1) < EXACT
        assert abs(entropy + scipy.integrate.trapezoid(p * logs, grid)) < EXACT
        assert abs(kl - scipy.integrate.trapezoid(p * (logs - others), grid)) < EXACT


# KL


@jax.jit
def categorical_kl(p, q):
    return Categorical(p).kl(Categorical(q)), Categorical(p).kl(Categorical(p))


@jax.jit
def gaussian_kl(mean, log_std, other_mean, other_log_std):
    here = Gaussian(mean, log_std, 1)
    return here.kl(Gaussian(other_mean, other_log_std, 1)), here.kl(here)


floats = st.floats(-30, 30, width=32)
vectors = st.lists(floats, min_size=3, max_size=3).map(lambda x: np.array(x, np.float32))
logs = st.lists(st.floats(-5, 3, width=32), min_size=3, max_size=3).map(lambda x: np.array(x, np.float32))


@settings(max_examples=60, deadline=None)
@given(vectors, vectors, logs, logs)
def test_kl_is_not_negative_and_zero_of_itself(p, q, log_std, other_log_std):
    between, of_itself = categorical_kl(p, q)
    assert between >= -1e-6
    assert of_itself == 0
    between, of_itself = gaussian_kl(p, log_std, q, other_log_std)
    assert between >= 0
    assert of_itself == 0


def test_kl_of_neighbours_is_half_the_fisher_form():
    """Where a trust region looks at it, KL is ½ dᵀFd: it must not drown in float32 rounding."""
    d, zero = np.full(3, 1e-3, np.float32), np.zeros(3, np.float32)
    np.testing.assert_allclose(gaussian_kl(zero, zero, zero, d)[0], 3 * 1e-6, rtol=1e-2)
    np.testing.assert_allclose(gaussian_kl(d, zero, zero, zero)[0], 3 * 1e-6 / 2, rtol=1e-3)


# Gradients


@pytest.mark.parametrize("make", [Categorical, lambda x: Gaussian(x[:3], x[3:], 1)])
def test_gradients_agree_with_finite_differences(make, draws):
    with jax.enable_x64(True):
        x, other, point = draws.normal(size=(3, 6))
        action = 2 if make is Categorical else point[:3]

        def f(x):
            here, there = make(x), make(other)
            return jnp.stack([here.log_prob(action), here.entropy(), here.kl(there), there.kl(here)])

        np.testing.assert_allclose(np.asarray(jax.jit(jax.jacobian(f))(x)).T, central_differences(f, x), atol=1e-8)


def test_softmax_score_is_the_indicator_minus_the_probabilities(draws):
    with jax.enable_x64(True):
        logits = jnp.asarray(draws.normal(size=4))
        scores = jax.jit(jax.jacobian(lambda x: Categorical(x).log_probabilities()))(logits)
        np.testing.assert_allclose(scores, np.eye(4) - scipy.special.softmax(logits)[None], atol=EXACT)


# Samples: z ≤ 5, fixed seeds


def test_categorical_samples_with_its_probabilities():
    count, p = 200_000, np.array([0.5, 0.0, 0.3, 0.001, 0.199, 0.0], np.float32)
    with np.errstate(divide="ignore"):
        logits = np.tile(np.log(p), (count, 1))
    samples = np.asarray(jax.jit(Categorical.sample)(Categorical(logits), jax.random.key(1)))
    assert samples.dtype == np.int32
    frequencies = np.bincount(samples, minlength=6) / count
    z = np.abs(frequencies - p) / np.sqrt(np.maximum(p * (1 - p), 1e-30) / count)
    assert (z[p > 0] <= 5).all()
    assert (frequencies[p == 0] == 0).all()
    first, second = samples[:-1] == 0, samples[1:] == 0  # neighbours in a batch are independent
    assert abs(np.mean(first & second) - 0.25) <= 5 * np.sqrt(0.25 * 0.75 / count) * 1.5


@pytest.mark.parametrize("forbidden", list(itertools.chain.from_iterable(itertools.combinations(range(3), k) for k in (1, 2))))
def test_a_forbidden_action_is_never_sampled(forbidden):
    logits = np.zeros((4096, 3), np.float32)
    logits[:, list(forbidden)] = -np.inf
    samples = jax.jit(Categorical.sample)(Categorical(jnp.asarray(logits)), jax.random.key(0))
    assert set(np.unique(samples).tolist()) == set(range(3)) - set(forbidden)


@pytest.mark.parametrize("n", [2, 33])
def test_the_ends_of_the_unit_interval_hit_possible_actions(monkeypatch, n):
    """Rounding of the cumulative sum must neither fall off the end nor onto an action of probability 0."""
    monkeypatch.setattr(jax.random, "uniform", lambda uniform, shape, dtype: jnp.full(shape, uniform, dtype))
    logits = np.random.default_rng(n).normal(size=(500, n)).astype(np.float32) * 10
    logits[:, -1] = -1e4
    logits[:250, 0] = -1e4 if n > 2 else 0
    act = jax.jit(lambda x, uniform: (Categorical(x).sample(uniform), Categorical(x).probabilities()))
    for uniform in (0.0, 1 - 2**-23):
        samples, probabilities = map(np.asarray, act(logits, uniform))
        assert (np.take_along_axis(probabilities, samples[:, None], 1) > 0).all()
        assert ((samples >= 0) & (samples < n)).all()


def test_gaussian_samples_have_the_declared_moments():
    count = 200_000
    mean, sigma = np.array([0.7, -3.0], np.float32), np.array([0.5, 2.0], np.float32)
    full = Gaussian(np.tile(mean, (count, 1)), np.tile(np.log(sigma), (count, 1)), 1)
    samples, log_prob, entropy = jax.jit(lambda d, key: (d.sample(key), d.log_prob(d.sample(key)), d.entropy()))(full, jax.random.key(2))
    samples, information = np.asarray(samples, np.float64), -np.asarray(log_prob, np.float64)
    assert (np.abs(samples.mean(0) - mean) <= 5 * sigma / np.sqrt(count)).all()
    assert (np.abs(samples.std(0) - sigma) <= 5 * sigma / np.sqrt(2 * count)).all()
    assert abs(np.corrcoef(samples.T)[0, 1]) <= 5 / np.sqrt(count)
    assert scipy.stats.kstest((samples[:5000, 0] - mean[0]) / sigma[0], "norm").pvalue > 1e-6
    assert abs(information.mean() - entropy[0]) <= 5 * information.std() / np.sqrt(count)


# Extremes


@jax.jit
def everything(x, other):
    """All values and gradients of a Categorical of 3, for every action."""

    def values(x):
        here, there = Categorical(x), Categorical(other)
        return jnp.stack([*(here.log_prob(jnp.array(a)) for a in range(3)), here.entropy(), here.kl(there), there.kl(here)])

    return values(x), jax.jacobian(values)(x)


@pytest.mark.parametrize("logits", [(1e4, -1e4, 0.0), (-1e4, 1e4, 1e4), (1e4, 1e4, 1e4), (-1e4, -1e4, -1e4), (88.0, -88.0, 1e4)])
def test_saturated_logits_stay_finite(logits):
    values, gradients = everything(jnp.array(logits), jnp.array([0.0, 1.0, -1e4]))
    assert np.isfinite(values).all()
    assert np.isfinite(gradients).all()
    assert 0 <= values[3] <= np.log(3) + 1e-6


def test_forbidden_actions_count_as_nothing():
    """0 · log 0 is 0 in the entropy and in the KL, and so are their gradients."""
    masked, other = jnp.array([0.5, -jnp.inf, 1.0]), jnp.array([0.0, -jnp.inf, 0.0])
    values, gradients = map(np.asarray, everything(masked, other))
    p, q = scipy.special.softmax([0.5, 1.0]), np.array([0.5, 0.5])
    expected = [np.log(p[0]), -np.inf, np.log(p[1]), scipy.stats.entropy(p), scipy.stats.entropy(p, q), scipy.stats.entropy(q, p)]
    np.testing.assert_allclose(values, expected, rtol=1e-5)
    possible = gradients[[0, 2, 3, 4, 5]]
    assert np.isfinite(possible).all()
    assert (possible[:, 1] == 0).all()
    values, _ = everything(other, jnp.array([0.0, 0.0, -jnp.inf]))
    assert values[4] == np.inf


def test_an_action_out_of_range_is_not_given_a_neighbours_probability():
    assert jnp.isnan(Categorical(jnp.zeros(3)).log_prob(jnp.array(3)))


@pytest.mark.parametrize("log_std", [-20.0, 20.0])
def test_gaussians_of_extreme_width_stay_finite(log_std):
    width = np.full(2, log_std, np.float32)
    values = jax.jit(lambda d, key: (d.log_prob(d.sample(key)), d.entropy(), d.kl(d)))(Gaussian(0 * width, width, 1), jax.random.key(0))
    assert np.isfinite(values).all()


# The contract


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("kind", ["categorical", "gaussian"])
def test_contract(kind, x64):
    dtype = np.float64 if x64 else np.float32
    x = (np.arange(24) % 5).reshape(2, 3, 4).astype(dtype)

    @jax.jit
    def ours(x, key):
        batch = Categorical(x) if kind == "categorical" else Gaussian(x, 0.1 * x, 1)
        action = batch.sample(key)

        def each(d, a):
            return d.log_prob(a), d.entropy(), d.kl(d), d.mode()

        gathered = jax.tree.map(lambda leaf: leaf[:, jnp.array([2, 0])], batch)
        return batch, action, each(batch, action), jax.vmap(jax.vmap(each))(batch, action), gathered.log_prob(action[:, jnp.array([2, 0])])

    with jax.enable_x64(x64):
        batch, action, values, mapped, gathered = ours(x, jax.random.key(3))
        assert isinstance(batch, Distribution)
        assert action.dtype == (jnp.int32 if kind == "categorical" else dtype)
        assert all(leaf.shape[:2] == (2, 3) for leaf in jax.tree.leaves(batch))
        for value in values[:3]:
            assert (value.shape, value.dtype) == ((2, 3), dtype)
        for one, other in zip(values, mapped, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6)
        np.testing.assert_allclose(gathered, values[0][:, np.array([2, 0])], rtol=1e-6)


# Noise


class Keyed(eqx.Module):
    """A distribution of one's own, which knows keys only."""

    inner: Any

    def sample(self, key):
        return self.inner.sample(key)


@pytest.mark.parametrize("make", [Categorical, lambda x: Gaussian(x, 0.3 * x, 1)])
def test_a_sample_is_made_of_noise_that_shapes_alone_decide(make, draws):
    one = make(jnp.asarray(draws.normal(size=(7, 3)), jnp.float32))
    for seed in range(3):
        key = jax.random.key(seed)
        noise = drawn_noise(jax.eval_shape(lambda: one), key)
        np.testing.assert_array_equal(sampled(one, noise), one.sample(key))
        np.testing.assert_array_equal(sampled(Keyed(one), drawn_noise(Keyed(one), key)), one.sample(key))
