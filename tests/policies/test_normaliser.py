"""Running statistics against NumPy's over all samples at once, and the policy that carries them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policygrad import policies
from policygrad.errors import PolicyFileError, SpaceError
from policygrad.policies import Normalised, normaliser
from policygrad.policies.normaliser import Running, Statistics, merged, no_statistics, running, standardised
from policygrad.spaces import Box
from policygrad.types import Spec

BOX = Box.of(-np.inf, np.inf, (3,))
SPEC = Spec(BOX, Box.of(-1.0, 1.0, (2,)), num_envs=1)
merge = jax.jit(merged)


def all_at_once(batches: list[tuple[np.ndarray, np.ndarray]]) -> tuple[float, np.ndarray, np.ndarray]:
    """Two passes over everything, in float64."""
    samples = np.concatenate([np.asarray(x, np.float64)[mask > 0] for x, mask in batches])
    return len(samples), samples.mean(axis=0), samples.var(axis=0)


def one_by_one(batches: list[tuple[np.ndarray, np.ndarray]]) -> Running:
    state = no_statistics(batches[0][0].shape[2:])
    for samples, mask in batches:
        state = merge(state, samples, mask)
    return state


@pytest.mark.usefixtures("x64")
@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_merged_batches_are_one_sample(seed: int, num_batches: int) -> None:
    """Whatever stands where the mask is 0, and if a batch is all padding."""
    rng = np.random.default_rng(seed)
    batches = []
    for _ in range(num_batches):
        mask = (rng.random((4, 3)) < rng.random()).astype(float)
        samples = rng.normal(rng.normal() * 10, rng.exponential(), (4, 3, 2))
        batches.append((np.where(mask[..., None] > 0, samples, 1e9), mask))
    state = one_by_one(batches)
    if not any(mask.any() for _, mask in batches):
        assert [leaf.tolist() for leaf in state.statistics] == [0.0, [0.0, 0.0], [1.0, 1.0]]
        return
    for got, expected in zip(state.statistics, all_at_once(batches), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-10)


def adversarial(mean: float, drift: float) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    mask = np.ones((64, 8), np.float32)
    return [(rng.normal(mean + drift * i, 1.0, (64, 8, 2)).astype(np.float32), mask) for i in range(20)]


@pytest.mark.parametrize(("mean", "drift"), [(1e4, 0.0), (-1e4, 3.0), (1e5, 0.0), (0.0, 100.0)])
def test_a_large_mean_does_not_cancel_the_variance_in_float32(mean: float, drift: float) -> None:
    batches = adversarial(mean, drift)
    state = one_by_one(batches).statistics
    _, true_mean, true_variance = all_at_once(batches)
    assert state.variance.dtype == jnp.float32
    np.testing.assert_allclose(state.mean, true_mean, rtol=2e-7, atol=1e-5)
    np.testing.assert_allclose(state.variance, true_variance, rtol=1e-4)
    if mean and not drift:  # sums of squares, which is what must not be done
        samples = np.concatenate([x.reshape(-1, 2) for x, _ in batches])
        naive = np.mean(samples**2, axis=0) - np.mean(samples, axis=0) ** 2
        assert np.abs(naive / true_variance - 1).max() > 0.01


def forgetful(before: Running, samples: Any, mask: Any) -> Running:
    after = merged(before, samples, mask)
    return after._replace(rest=jax.tree.map(jnp.zeros_like, after.rest))


def after_many_samples(forget: bool = False) -> float:
    """How far statistics of 10⁸ samples, and half a million further ones of another mean, are from the exact ones."""
    batch = np.random.default_rng(0).normal(5.3, 1.0, (16, 8)).astype(np.float32)
    old = Statistics(jnp.float32(1e8), jnp.float32(5.0), jnp.float32(1.0))
    move = forgetful if forget else merged
    mask = jnp.ones((16, 8), jnp.float32)
    program = jax.jit(lambda state: jax.lax.scan(lambda now, _: (move(now, batch, mask), None), state, None, 4096)[0])
    state = program(running(old)).statistics
    n = 4096 * batch.size
    share = n / (1e8 + n)
    mean, variance = batch.mean(dtype=float), batch.var(dtype=float)
    exact = np.array([1e8 + n, 5 + share * (mean - 5), 1 + share * (variance - 1) + share * (1 - share) * (mean - 5) ** 2])
    moved = exact - np.array([1e8, 5.0, 1.0])
    return float(np.abs((np.array([float(x) for x in state]) - exact) / moved).max())


def test_statistics_of_a_hundred_million_samples_still_move_in_float32() -> None:
    """By the right amount, to a part in 1,000. Without what rounding left over they would be off by parts in 10."""
    assert after_many_samples() < 1e-3
    assert after_many_samples(forget=True) > 0.03


def test_statistics_are_standardised_clipped_and_never_nan() -> None:
    obs = jnp.array([[1.0, 7.0, 100.0], [3.0, 7.0, -100.0]])
    got = standardised(obs, jnp.array([1.0, 7.0, 0.0]), jnp.array([4.0, 0.0, 1.0]), 10.0, 1e-8)
    np.testing.assert_allclose(got, [[0, 0, 10], [1, 0, -10]], rtol=1e-6)
    constant = one_by_one([(np.full((5, 3, 2), 123456.7, np.float32), np.ones((5, 3), np.float32))] * 3).statistics
    np.testing.assert_array_equal(standardised(jnp.full(2, 123456.7), constant.mean, constant.variance, 10.0, 1e-8), np.zeros(2))


# ── the policy ───────────────────────────────────────────────────────────────────────────────────────────────────────


def acting(spec: Spec = SPEC, clip: float = 2.0) -> Normalised:
    inside = policies.default(hidden_sizes=(4,))(jax.random.key(0), spec)
    shape = spec.observation_space.shape
    mean = jnp.arange(np.prod(shape), dtype=jnp.float32).reshape(shape)
    return Normalised(inside, mean, mean + 0.5, jnp.asarray(12.0), clip, 1e-8)


def mean_of(distribution: Any) -> np.ndarray:
    return np.asarray(distribution.mean)


def test_it_is_the_policy_inside_on_normalised_observations() -> None:
    policy = acting()
    obs = np.random.default_rng(0).normal(0, 3, (5, 2, 3)).astype(np.float32)
    units = np.clip((obs - np.asarray(policy.mean)) / np.sqrt(np.asarray(policy.variance)), -2, 2)
    assert (np.abs(units) == 2).any()
    got = mean_of(policy(obs))
    np.testing.assert_allclose(got, mean_of(policy.policy(units)), rtol=1e-5, atol=1e-6)
    unrolled, carry = policy.unroll(policy.initial(2), obs, np.zeros((5, 2), bool))
    np.testing.assert_array_equal(mean_of(unrolled), got)
    np.testing.assert_allclose(mean_of(policy(obs[0, 0])), got[0, 0], rtol=1e-6)
    assert carry == policy.initial(2) == ()
    assert (policy.observation_space, policy.action_space) == (BOX, SPEC.action_space)
    with pytest.raises(SpaceError, match=r"^observation shape: got \(2, 4\); the policy takes \[..., 3\], batch axes first$"):
        policy(np.zeros((2, 4)))


def test_observations_may_be_integers_of_any_shape() -> None:
    image = Box.of(0, 255, (2, 2), "uint8")
    policy = acting(Spec(image, SPEC.action_space, 1))
    obs = np.array([[[1, 0], [3, 2]]], np.uint8)  # less than the mean in places: no wrap-around
    np.testing.assert_allclose(mean_of(policy(obs)), mean_of(policy(obs.astype(np.float32))), rtol=1e-6)


@pytest.mark.parametrize("clip", [2.0, np.inf])
def test_it_comes_back_from_its_file_bit_for_bit(tmp_path: Any, clip: float) -> None:
    policy = acting(clip=clip)
    path = tmp_path / "policy.safetensors"
    policies.save(policy, path)
    loaded = policies.load(path)
    assert jax.tree.structure(loaded) == jax.tree.structure(policy)
    for ours, theirs in zip(jax.tree.leaves(loaded), jax.tree.leaves(policy), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    obs, key = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32), jax.random.key(1)
    np.testing.assert_array_equal(loaded(obs).sample(key), policy(obs).sample(key))
    policies.require_spaces(loaded, BOX, SPEC.action_space, "here")
    with pytest.raises(SpaceError, match="for other observations than here"):
        policies.require_spaces(loaded, Box.of(0.0, 1.0, (4,)), SPEC.action_space, "here")


def test_statistics_of_another_shape_are_a_damaged_file(tmp_path: Any) -> None:
    policy = acting()
    broken = Normalised(policy.policy, jnp.zeros(4), jnp.ones(4), policy.count, 2.0, 1e-8)
    policies.save(broken, tmp_path / "broken")
    with pytest.raises(PolicyFileError, match=r"not a working policy \(SpaceError"):
        policies.load(tmp_path / "broken")


# ── mutants: each is one line of the product's own, changed ──────────────────────────────────────────────────────────

MUTANTS: dict[str, Any] = {
    "the mask ignored": lambda before, samples, mask: merged(before, samples, jnp.ones_like(mask)),
    "the mean of means": lambda before, samples, mask: merged(
        before._replace(statistics=before.statistics._replace(count=jnp.sum(mask) * (before.statistics.count > 0))), samples, mask
    ),
    "no term for the distance of the means": lambda before, samples, mask: merged(
        before, samples - (jnp.mean(samples, axis=(0, 1)) - before.statistics.mean)[None, None] * (before.statistics.count > 0), mask
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_are_told_apart(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    mask = np.ones((4, 3), np.float32)
    mask[3, 1:] = 0
    batches = [(rng.normal(2.0 * i, 1, (4, 3, 2)).astype(np.float32) * mask[..., None], mask) for i in range(3)]

    def error() -> float:
        state = no_statistics((2,))
        for samples, weights in batches:
            state = normaliser.merged(state, samples, weights)
        return max(float(np.abs(np.asarray(x) - y).max()) for x, y in zip(state.statistics, all_at_once(batches), strict=True))

    assert error() < 1e-5
    monkeypatch.setattr(normaliser, "merged", MUTANTS[name])
    assert error() > 0.1
