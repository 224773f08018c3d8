"""What every distribution must do, over a table of all of them: shapes, dtypes, noise, gradients, and agreement with its own samples."""

from __future__ import annotations

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policygrad.errors import UsageError
from policygrad.policies import Bernoulli, Beta, Categorical, Distribution, FullGaussian, Gaussian, Joint, MultiCategorical, Squashed
from policygrad.policies.distributions import drawn_noise, sampled


def masked(distribution: Any, *mask: int) -> Any:
    """With the same mask for every element of the batch."""
    batch = distribution.entropy().shape
    return distribution.masked(jnp.broadcast_to(jnp.array(mask), (*batch, len(mask))))


def full(x: Any, ndim: int = 1) -> FullGaussian:
    """Of 2 elements, from 5 numbers."""
    rows = [jnp.exp(x[..., 2]), 0 * x[..., 2], x[..., 3], jnp.exp(x[..., 4])]
    mean = x[..., :2] if ndim == 1 else x[..., :2, None]
    return FullGaussian(mean, jnp.stack(rows, -1).reshape(*x.shape[:-1], 2, 2), ndim)


def beta(x: Any) -> Beta:
    """Of 2 elements, from 4 numbers."""
    return Beta(jnp.exp(x[..., :2]), jnp.exp(x[..., 2:4]), (-1.0, 0.0), (3.0, 0.5), 1)


class Keyed(eqx.Module):
    """A distribution of one's own: it can draw with a key, but not from noise, and knows of no masks."""

    inner: Any

    def sample(self, key):
        return self.inner.sample(key)

    def log_prob(self, action):
        return self.inner.log_prob(action)

    def entropy(self):
        return self.inner.entropy()

    def kl(self, other):
        return self.inner.kl(other.inner)

    def mode(self):
        return self.inner.mode()


def joint(x: Any) -> Joint:
    inner = Joint((MultiCategorical(x[..., :4], (2, 2), (2,)), Keyed(Gaussian(x[..., 4:5], x[..., 5:6], 1))))
    return Joint({"z": Categorical(x[..., 6:9]), "inner": inner, "a": (Bernoulli(x[..., 9], 0),)})


# name -> (numbers, numbers [..., n] -> distribution); Categorical and Gaussian as they are have a file of their own
KINDS: dict[str, tuple[int, Any]] = {
    "categorical": (4, lambda x: masked(Categorical(x), 1, 0, 1, 1)),
    "multi-categorical": (7, lambda x: masked(MultiCategorical(x, (2, 3, 2), (3,)), 1, 1, 1, 1, 0, 0, 1)),
    "bernoulli": (3, lambda x: masked(Bernoulli(x, 1), 1, 1, 0, 1, 1, 0)),
    "full gaussian": (5, lambda x: full(x, 2)),
    "squashed": (4, lambda x: Squashed(Gaussian(x[..., :2], x[..., 2:], 1), (-1.0, 0.0), (2.0, 0.5))),
    "squashed full": (5, lambda x: Squashed(full(x), (-2.0,), (0.0,))),
    "beta": (4, beta),
    "joint": (10, lambda x: masked(joint(x), *(1, 1), *(0, 1, 1, 1), *(1, 0, 1))),
}
kinds = pytest.mark.parametrize("kind", KINDS)


def numbers(kind: str, *shape: int) -> np.ndarray:
    return np.random.default_rng(len(kind)).normal(size=(*shape, KINDS[kind][0])) * 0.6


@kinds
@pytest.mark.parametrize("x64", [False, True])
def test_shapes_and_dtypes(kind: str, x64: bool) -> None:
    dtype = np.float64 if x64 else np.float32

    def ours(x):
        batch = KINDS[kind][1](x)
        action = batch.sample(jax.random.key(0))
        return batch, action, batch.mode(), (batch.log_prob(action), batch.entropy(), batch.kl(batch))

    with jax.enable_x64(x64):
        for axes in ((), (7,), (2, 3)):
            batch, action, mode, values = jax.eval_shape(ours, numbers(kind, *axes).astype(dtype))
            assert isinstance(batch, Distribution)
            assert all((leaf.shape[: len(axes)], leaf.dtype) == (axes, dtype) for leaf in jax.tree.leaves(batch))
            assert all((value.shape, value.dtype) == (axes, dtype) for value in values)
            assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), action) == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), mode)
            assert all(leaf.shape[: len(axes)] == axes and leaf.dtype in (jnp.int8, jnp.int32, dtype) for leaf in jax.tree.leaves(action))


@kinds
def test_a_batch_is_its_elements(kind: str) -> None:
    columns = np.array([2, 0])

    @jax.jit
    def ours(x):
        batch = KINDS[kind][1](x)

        def all_of(d):
            action = d.mode()
            return d.log_prob(action), d.entropy(), d.kl(d), action

        gathered = jax.tree.map(lambda leaf: leaf[:, columns], batch)
        return all_of(batch), jax.vmap(jax.vmap(all_of))(batch), gathered.entropy()

    values, mapped, gathered = ours(numbers(kind, 2, 3).astype(np.float32))
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6), values, mapped)
    np.testing.assert_allclose(gathered, values[1][:, columns], rtol=1e-5)
    assert all(np.isfinite(value).all() for value in values[:3])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "beta"])  # which draws with a key
def test_a_sample_is_made_of_noise_that_shapes_alone_decide(kind: str) -> None:
    x = numbers(kind, 3).astype(np.float32)
    key, keys = jax.random.key(1), jax.random.split(jax.random.key(2), 3)
    shapes = jax.eval_shape(KINDS[kind][1], x)

    @jax.jit
    def ours(x):
        batch = KINDS[kind][1](x)
        each = jax.vmap(sampled)(batch, jax.vmap(drawn_noise)(batch, keys))  # a key for each of the batch, as the host's collector has them
        return batch.sample(key), sampled(batch, drawn_noise(shapes, key)), jax.vmap(lambda d, key: d.sample(key))(batch, keys), each

    whole, apart, alone, each = ours(x)
    jax.tree.map(np.testing.assert_array_equal, whole, apart)
    jax.tree.map(np.testing.assert_array_equal, alone, each)


@functools.cache
def derivatives(kind: str) -> Any:
    """x, other, action -> derivatives by autodiff and by central differences."""
    n, make = KINDS[kind]
    moves = 1e-6 * np.eye(n)

    def values(x, other, action):
        here, there = make(x), make(other)
        return jnp.stack([here.log_prob(action), here.entropy(), here.kl(there), there.kl(here)])

    def slope(x, other):
        return jax.grad(lambda other: make(x).kl(make(other)))(other)

    def differences(f, x):
        ends = jax.vmap(f)(jnp.concatenate([x[None] + moves, x[None] - moves]))
        return (ends[:n] - ends[n:]) / 2e-6

    @jax.jit
    def both(x, other, key):
        action = make(x).sample(key)
        first = jax.jacobian(values)(x, other, action).T, differences(lambda x: values(x, other, action), x)
        return first, (jax.jacobian(slope, argnums=1)(x, x), differences(lambda other: slope(x, other), x))

    return both


@kinds
@pytest.mark.parametrize("start", [False, True], ids=["anywhere", "where policies start"])
def test_gradients_and_the_curvature_of_kl_agree_with_finite_differences(kind: str, start: bool) -> None:
    """At x = 0 logits tie and α = β = 1: where a minimum, a maximum or an absolute value would have no derivative."""
    with jax.enable_x64(True):
        x, other = numbers(kind, 2)
        (first, differences), (curvature, slopes) = derivatives(kind)(0 * x if start else x, other, jax.random.key(0))
        np.testing.assert_allclose(first, differences, atol=2e-8, rtol=1e-7)
        np.testing.assert_allclose(curvature, slopes, atol=2e-8, rtol=1e-7)
        assert (np.linalg.eigvalsh(curvature) > -1e-12).all()  # a Fisher matrix


@kinds
def test_samples_have_the_density_entropy_and_kl_that_are_told(kind: str) -> None:
    """z ≤ 5, for −log π against H, log π − log π' against KL, and the score, whose mean is 0, in every parameter."""
    count = 40_000
    make = KINDS[kind][1]

    @jax.jit
    def ours(x, other):
        tiled = jnp.broadcast_to(x, (count, x.size))
        action = make(tiled).sample(jax.random.key(5))
        score, logs = jax.vmap(lambda x, action: jax.value_and_grad(lambda x: make(x).log_prob(action))(x)[::-1])(tiled, action)
        others = make(jnp.broadcast_to(other, tiled.shape)).log_prob(action)
        return logs, others, score, make(x).entropy(), make(x).kl(make(other))

    with jax.enable_x64(True):
        logs, others, score, entropy, kl = map(np.asarray, ours(*numbers(kind, 2)))
    assert kl > 0.01
    for draws, expected in ((-logs, entropy), (logs - others, kl), *((column, 0) for column in score.T)):
        assert abs(draws.mean() - expected) <= 5 * draws.std() / np.sqrt(count) + 1e-12


@kinds
def test_masks_belong_to_discrete_actions(kind: str) -> None:
    x = numbers(kind, 2).astype(np.float32)
    size = {"categorical": 4, "multi-categorical": 7, "bernoulli": 6, "joint": 9}.get(kind, 0)
    assert jax.eval_shape(KINDS[kind][1], x).mask_size == size

    @jax.jit
    def ours(x, mask):
        return KINDS[kind][1](x), KINDS[kind][1](x).masked(mask)

    if not size:
        with pytest.raises(UsageError, match=r"action mask: got one for a .*continuous"):
            jax.eval_shape(ours, x, np.ones((2, 0)))
        return
    for wrong in ((size,), (2, size + 1), (1, size)):
        with pytest.raises(UsageError, match="action mask: got shape"):
            jax.eval_shape(ours, x, np.ones(wrong))
    jax.tree.map(np.testing.assert_array_equal, *ours(x, np.ones((2, size), bool)))
