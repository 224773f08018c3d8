"""Masked, several and binary choices against enumeration of all actions, scipy.stats, frequencies of samples, and their extremes."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from policygrad.errors import UsageError
from policygrad.policies import Bernoulli, Categorical, MultiCategorical

EXACT = 1e-10

# name -> (distribution of flat logits, counts of the elements, shape of an action)
KINDS: dict[str, tuple[Any, tuple[int, ...], tuple[int, ...]]] = {
    "categorical": (Categorical, (4,), ()),
    "equal": (lambda x: MultiCategorical(x, (3, 3), (2, 1)), (3, 3), (2, 1)),
    "unequal": (lambda x: MultiCategorical(x, (2, 3, 2), (3,)), (2, 3, 2), (3,)),
    "bernoulli": (lambda x: Bernoulli(x.reshape(2, 2), 2), (2, 2, 2, 2), (2, 2)),
}
kinds = pytest.mark.parametrize("kind", KINDS)


def actions_of(kind: str) -> np.ndarray:
    """All of them, [N, *shape]."""
    _, counts, shape = KINDS[kind]
    return np.array(list(itertools.product(*map(range, counts))), np.int32).reshape(-1, *shape)


def num_logits(kind: str) -> int:
    _, counts, _ = KINDS[kind]
    return len(counts) if kind == "bernoulli" else sum(counts)


def tables(kind: str, logits: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Probabilities of all actions by NumPy, element by element, [N]."""
    _, counts, _ = KINDS[kind]
    if kind == "bernoulli":
        logits = np.stack([0 * logits, logits], -1).ravel()
    ends = np.cumsum(counts)[:-1]
    weights = [np.exp(h) * m for h, m in zip(np.split(logits, ends), np.split(mask, ends), strict=True)]
    return functools.reduce(np.multiply.outer, [w / w.sum() for w in weights]).ravel()


@functools.cache
def everything(kind: str) -> Any:
    make, all_actions = KINDS[kind][0], actions_of(kind)

    def values(x, other, mask, others):
        here, there = make(x).masked(mask), make(other).masked(others)
        each = jax.vmap(lambda action: (here.log_prob(action), there.log_prob(action)))(all_actions)
        return *each, here.entropy(), here.kl(there), here.mode()

    @jax.jit
    def ours(x, other, mask):
        # The other's mask allows everything, so that both KLs are finite only as far as they should be.
        slopes = jax.jacobian(lambda x: jnp.stack(values(x, other, mask, 0 * mask + 1)[2:4]))(x)
        scores = jax.jacobian(lambda x: values(x, other, mask, mask)[0])(x)
        return *values(x, other, mask, 0 * mask + 1), slopes, scores

    return ours


@st.composite
def masks(draw, kind):
    """At least one choice for each element."""
    _, counts, _ = KINDS[kind]
    parts = [draw(st.lists(st.integers(0, 1), min_size=n, max_size=n).filter(any)) for n in counts]
    return np.array([entry for part in parts for entry in part])


@kinds
@settings(max_examples=25)
@given(st.data())
def test_masked_distributions_agree_with_enumeration(kind, data):
    mask = data.draw(masks(kind))
    draws = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    x, other = draws.normal(size=(2, num_logits(kind))) * 2
    with jax.enable_x64(True):
        logs, others, entropy, kl, mode, slopes, scores = map(np.asarray, everything(kind)(x, other, mask))
    p, q = tables(kind, x, mask), tables(kind, other, np.ones_like(mask))
    np.testing.assert_allclose(np.exp(logs), p, atol=EXACT)
    np.testing.assert_allclose(np.exp(others), q, atol=EXACT)
    assert (logs[p == 0] == -np.inf).all()
    assert not np.isnan(logs).any()
    assert abs(entropy - scipy.stats.entropy(p)) < EXACT
    assert abs(kl - scipy.stats.entropy(p, q)) < EXACT
    np.testing.assert_array_equal(mode, actions_of(kind)[p.argmax()])
    # No gradient reaches what is forbidden, and the score's mean over the possible actions is 0.
    forbidden = mask == 0 if kind != "bernoulli" else mask.reshape(-1, 2).min(-1) == 0
    for gradients in (slopes, scores):
        assert np.isfinite(gradients).all()
        assert (gradients[..., forbidden] == 0).all()
    np.testing.assert_allclose(p @ scores, 0, atol=EXACT)
    # dH/dθ = −Σ p (∇ log p)(log p + 1), likewise KL
    finite = np.where(p > 0, logs, 0)
    np.testing.assert_allclose(slopes[0], -(p * finite) @ scores, atol=EXACT)
    np.testing.assert_allclose(slopes[1], (p * (finite - np.where(p > 0, others, 0))) @ scores, atol=EXACT)


def test_bernoulli_agrees_with_scipy():
    logits = np.random.default_rng(0).normal(size=(5, 3)) * 3
    action = (np.arange(15) % 2).reshape(5, 3)
    theirs = scipy.stats.bernoulli(scipy.special.expit(logits))

    @jax.jit
    def ours(logits):
        here = Bernoulli(logits, 1)
        return here.log_prob(action), here.entropy(), here.probabilities()

    with jax.enable_x64(True):
        log_prob, entropy, probabilities = ours(logits)
        np.testing.assert_allclose(log_prob, theirs.logpmf(action).sum(-1), atol=EXACT)
        np.testing.assert_allclose(entropy, theirs.entropy().sum(-1), atol=EXACT)
        np.testing.assert_allclose(probabilities, theirs.mean(), atol=EXACT)


def test_elements_of_many_counts_stay_in_their_places():
    """A grid of actions with a pattern of counts, as in the game of the paper on masks: by blocks, and one element at a time."""
    counts = (6, 4, 4, 4, 4, 7, 9) * 3
    draws = np.random.default_rng(1)
    logits = draws.normal(size=(2, sum(counts))) * 2
    action = draws.integers(0, counts, size=(2, 21)).reshape(2, 3, 7)
    noise = draws.uniform(size=(2, 3, 7))

    @jax.jit
    def ours(logits):
        grid = MultiCategorical(logits, counts, (3, 7))
        return grid.log_prob(action), grid.entropy(), grid.at(noise), grid.mode(), grid.probabilities()

    with jax.enable_x64(True):
        log_prob, entropy, sample, mode, probabilities = ours(logits)
    p = [scipy.special.softmax(part, -1) for part in np.split(logits, np.cumsum(counts)[:-1], axis=-1)]
    flat, u = action.reshape(2, 21), noise.reshape(2, 21)
    for one, other in zip(probabilities, p, strict=True):
        np.testing.assert_allclose(one, other, atol=EXACT)
    for row in range(2):
        np.testing.assert_allclose(log_prob[row], sum(np.log(p[i][row, flat[row, i]]) for i in range(21)), atol=EXACT)
        np.testing.assert_allclose(entropy[row], sum(scipy.stats.entropy(p[i][row]) for i in range(21)), atol=EXACT)
        inverted = [int(np.searchsorted(np.cumsum(p[i][row]), u[row, i], side="right")) for i in range(21)]
        assert np.asarray(sample[row]).ravel().tolist() == inverted
        assert np.asarray(mode[row]).ravel().tolist() == [int(p[i][row].argmax()) for i in range(21)]


@kinds
def test_samples_have_the_probabilities_and_never_a_forbidden_action(kind):
    """z ≤ 5 for the frequency of every whole action, so elements are independent too; 100,000 draws."""
    make, counts, shape = KINDS[kind]
    count = 100_000
    mask = {
        "categorical": [1, 0, 1, 1],
        "equal": [1, 1, 0, 0, 1, 1],
        "unequal": [1, 1, 1, 0, 1, 0, 1],
        "bernoulli": [1, 1, 0, 1, 1, 1, 1, 0],
    }[kind]
    x = np.random.default_rng(2).normal(size=num_logits(kind)).astype(np.float32)

    @jax.jit
    def draw(x, mask, keys):
        return jax.vmap(lambda key: make(x).masked(mask).sample(key))(keys)

    samples = np.asarray(draw(x, np.array(mask), jax.random.split(jax.random.key(4), count)))
    assert samples.shape == (count, *shape)
    whole = np.ravel_multi_index(tuple(samples.reshape(count, len(counts)).T.astype(int)), counts)
    frequencies, p = np.bincount(whole, minlength=len(actions_of(kind))) / count, tables(kind, x, np.array(mask))
    assert (frequencies[p == 0] == 0).all()
    assert (np.abs(frequencies - p)[p > 0] <= 5 * np.sqrt(p * (1 - p) / count)[p > 0]).all()


@jax.jit
def extremes(x, other):
    """Values and gradients of four switches, of all 0 and of all 1."""

    def values(x):
        here, there = Bernoulli(x, 1), Bernoulli(other, 1)
        return jnp.stack([here.log_prob(jnp.zeros(4)), here.log_prob(jnp.ones(4)), here.entropy(), here.kl(there), there.kl(here)])

    return values(x), jax.jacobian(values)(x)


@pytest.mark.parametrize("size", [20.0, 69.0, 100.0, 1e4])  # e^−69 = 1e-30
def test_saturated_switches_stay_finite_and_exact(size):
    logits, other = np.array([size, -size, 0.0, -size], np.float32), np.array([-size, -size, 1.0, 3.0], np.float32)
    values, gradients = map(np.asarray, extremes(logits, other))
    assert np.isfinite(gradients).all()
    h, there = logits.astype(np.float64), other.astype(np.float64)
    p, logs, others = (scipy.special.expit(h), scipy.special.log_expit, scipy.special.log_expit(there))
    expected = [
        logs(-h).sum(),
        logs(h).sum(),
        scipy.special.entr(p).sum() + scipy.special.entr(scipy.special.expit(-h)).sum(),
        (p * (logs(h) - others) + (1 - p) * (logs(-h) - logs(-there))).sum(),
    ]
    np.testing.assert_allclose(values[:4], expected, rtol=2e-6)


def test_impossible_settings_count_as_nothing():
    infinite, other = jnp.array([jnp.inf, -jnp.inf, 0.5, 0.0]), jnp.array([1.0, -1.0, jnp.inf, 0.0])
    values, gradients = map(np.asarray, extremes(infinite, infinite))
    assert values[:2].tolist() == [-np.inf, -np.inf]
    np.testing.assert_allclose(
        values[2:], [scipy.stats.bernoulli(scipy.special.expit([0.5, 0.0])).entropy().sum(), 0, 0], rtol=1e-6, atol=1e-7
    )
    assert np.isfinite(gradients[2:]).all()
    assert (gradients[2:, :2] == 0).all()
    values, _ = extremes(infinite, other)
    assert values[3] == np.inf  # the other forbids a 0 that self does


@pytest.mark.parametrize("kind", ["categorical", "equal", "unequal", "bernoulli"])
def test_no_action_left_is_not_a_number(kind):
    """Never silently uniform: a caller can look for it."""
    with jax.enable_x64(True):
        mask = np.ones(sum(KINDS[kind][1]), int)
        mask[-KINDS[kind][1][-1] :] = 0
        logs, _, entropy, kl, *_ = everything(kind)(np.zeros(num_logits(kind)), np.zeros(num_logits(kind)), mask)
        assert np.isnan(logs).all()
        assert np.isnan([entropy, kl]).all()


def test_an_element_out_of_range_is_not_given_a_neighbours_probability():
    grid = MultiCategorical(jnp.zeros(5), (2, 3), (2,))
    assert np.isfinite(grid.log_prob(jnp.array([1, 2])))
    for action in ([2, 2], [1, 3], [-1, 0]):
        assert np.isnan(grid.log_prob(jnp.array(action)))
    assert np.isnan(Bernoulli(jnp.zeros(2), 1).log_prob(jnp.array([2, 0])))


@pytest.mark.parametrize(("logits", "counts", "shape"), [(4, (2, 3), (2,)), (5, (2, 3), (3,)), (5, (5,), (2,))])
def test_logits_that_fit_no_action_are_told(logits, counts, shape):
    with pytest.raises(UsageError, match="MultiCategorical: got logits"):
        MultiCategorical(jnp.zeros((2, logits)), counts, shape)
