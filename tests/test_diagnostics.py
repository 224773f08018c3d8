"""What is said about the gradient's quality, against plain NumPy and against exact expectations over every batch of a tiny MDP."""

from __future__ import annotations

import itertools
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradients.trajectories import enumerate_all, random_mdp, softmax
from policygrad.algorithms import reinforce
from policygrad.diagnostics import diagnosed, gradient_statistics
from policygrad.policies import tabular_softmax
from policygrad.spaces import Discrete
from policygrad.types import Agent, Algorithm, Params, Rollout, Spec

EXACT = 1e-10
NAMES = ["gradient_variance", "gradient_signal", "gradient_snr", "gradient_noise_scale", "half_batch_cosine"]

LOGITS = np.random.default_rng(1).normal(size=(2, 2))
WORLD = random_mdp(0, states=2, actions=2, outcomes=2, limit=2)


def cosine(x: np.ndarray, y: np.ndarray) -> float:
    length = np.linalg.norm(x) * np.linalg.norm(y)
    return float(x @ y / length) if length else np.nan


def plain(parts: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """The definitions, by NumPy: parts [n, P], of which n times the mean is the gradient."""
    n = len(parts)
    variance = n * np.cov(parts.T).trace()  # of a sum of n independent terms
    signal = np.sum(parts.sum(axis=0) ** 2) - variance
    return {
        "gradient_variance": variance,
        "gradient_signal": signal,
        "gradient_snr": signal / variance,
        "gradient_noise_scale": n * variance / signal if signal > 0 else np.nan,
        "half_batch_cosine": cosine(parts[::2].sum(axis=0), parts[1::2].sum(axis=0)),
        "exact_cosine": cosine(parts.sum(axis=0), truth),
    }


def tree(parts: Any) -> dict[str, Any]:
    """[…, 7] as a pytree with leaves of several shapes."""
    return {"a": parts[..., :6].reshape(*parts.shape[:-1], 2, 3), "b": parts[..., 6]}


jitted = jax.jit(gradient_statistics)


def statistics(parts: Any, truth: Any, counted: Any = None) -> dict[str, float]:
    found = jitted(tree(parts), counted, tree(truth))
    return {name: float(found[name]) for name in [*NAMES, "exact_cosine"]}


# ── the definitions ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("n", [2, 5])
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_the_statistics_are_those_of_the_definitions(n: int, shift: float) -> None:
    rng = np.random.default_rng(n)
    parts, truth = rng.normal(size=(n, 7)) + shift, rng.normal(size=7)
    got, wanted = statistics(jnp.asarray(parts), jnp.asarray(truth)), plain(parts, truth)
    for name, value in wanted.items():
        assert got[name] == pytest.approx(value, abs=EXACT, rel=EXACT, nan_ok=True), name
    # Parts that are not counted add nothing, and do not make the sample larger.
    more = statistics(jnp.concatenate([parts, np.zeros((3, 7))]), jnp.asarray(truth), jnp.arange(n + 3) < n)
    assert more == pytest.approx(got, abs=EXACT, nan_ok=True)


def test_what_is_not_defined_is_nan() -> None:
    one = statistics(jnp.ones((1, 7)), jnp.ones(7))
    assert all(np.isnan(one[name]) for name in NAMES)
    assert one["exact_cosine"] == pytest.approx(1)
    nothing = statistics(jnp.zeros((4, 7)), jnp.ones(7))
    assert (nothing["gradient_variance"], nothing["gradient_signal"]) == (0, 0)
    assert all(np.isnan(nothing[name]) for name in [*NAMES[2:], "exact_cosine"])
    equal = statistics(jnp.ones((4, 7)), jnp.zeros(7))
    assert (equal["gradient_variance"], equal["gradient_noise_scale"]) == (0, 0)
    assert equal["half_batch_cosine"] == pytest.approx(1)
    assert np.isnan(equal["gradient_snr"])
    assert np.isnan(equal["exact_cosine"])
    assert "exact_cosine" not in jitted(jnp.ones((2, 3)))


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_squares_neither_vanish_nor_overflow(size: float) -> None:
    """What has no unit is the same for gradients of any size, in float32."""
    rng = np.random.default_rng(0)
    parts, truth = rng.normal(size=(4, 7)) + 1, rng.normal(size=7)
    got, wanted = statistics(jnp.asarray(parts * size, jnp.float32), jnp.asarray(truth / size, jnp.float32)), plain(parts, truth)
    for name in ("gradient_snr", "gradient_noise_scale", "half_batch_cosine", "exact_cosine"):
        assert got[name] == pytest.approx(wanted[name], rel=1e-4), name


# ── an algorithm that is diagnosed ───────────────────────────────────────────────────────────────────────────────────


def agent_of(algorithm: Algorithm) -> Agent:
    agent = algorithm.init(jax.random.key(0), Spec(Discrete(2), Discrete(2), num_envs=1))
    return agent._replace(params=Params(tabular_softmax(jnp.asarray(LOGITS)), ()))


@lru_cache
def every_batch() -> tuple[Rollout, np.ndarray, np.ndarray, np.ndarray]:
    """All batches of two episodes: rollouts [P, T, 2], their probabilities [P]; and the gradient [N, 4] and the probability [N] of
    each episode, which do not see what is tested."""
    rollout, probability = enumerate_all(WORLD, softmax(LOGITS), WORLD.limit)
    algorithm = reinforce(baseline="none", discount=0.9)
    pairs = np.array(list(itertools.product(range(len(probability)), repeat=2)))
    batches = jax.tree.map(lambda x: np.moveaxis(x[:, pairs], 1, 0), rollout)

    def gradient(rollout: Rollout) -> Any:
        return algorithm.gradient(agent_of(algorithm), rollout)[0].policy.head.logits.ravel()

    single = jax.jit(jax.vmap(gradient))(jax.tree.map(lambda x: x.T[..., None], rollout))
    return batches, probability[pairs].prod(axis=1), np.asarray(single), probability


TRUTH = np.random.default_rng(2).normal(size=(2, 2))


def metrics_of_every_batch(change: Any = lambda algorithm: algorithm) -> dict[str, np.ndarray]:
    algorithm = diagnosed(change(reinforce(baseline="none", discount=0.9)), lambda policy: tabular_softmax(jnp.asarray(TRUTH)))
    agent = agent_of(algorithm)

    def metrics(rollout: Rollout) -> dict:
        found = algorithm.update(jax.random.key(0), agent, rollout)[1]
        return {name: found[name] for name in [*NAMES, "exact_cosine", "gradient_norm"]}

    found = jax.jit(jax.vmap(metrics))(every_batch()[0])
    return {name: np.asarray(values) for name, values in found.items()}


@pytest.mark.usefixtures("x64")
def test_variance_and_signal_are_unbiased() -> None:
    """E[tr Σ̂] = tr Cov g and E[|ĝ|²] = |E g|², over all batches of two episodes."""
    _, chance, single, p = every_batch()
    mean = p @ single
    variance = p @ np.sum((single - mean) ** 2, axis=1) / 2  # of the mean of two
    assert min(variance, mean @ mean) > 0.01
    found = metrics_of_every_batch()
    assert chance @ found["gradient_variance"] == pytest.approx(variance, abs=EXACT)
    assert chance @ found["gradient_signal"] == pytest.approx(mean @ mean, abs=EXACT)
    assert found["gradient_signal"].min() < 0  # as a single estimate may be
    # Each batch by the definitions.
    N = len(p)
    parts = single[np.array(list(itertools.product(range(N), repeat=2)))] / 2
    np.testing.assert_allclose(found["gradient_norm"], np.linalg.norm(parts.sum(axis=1), axis=1), atol=EXACT)
    for k in (1, N + 3, N * N // 2):
        for name, value in plain(parts[k], TRUTH.ravel()).items():
            assert found[name][k] == pytest.approx(value, abs=EXACT, nan_ok=True), name


@pytest.mark.usefixtures("x64")
def test_contributions_that_do_not_sum_to_the_gradient_are_seen() -> None:
    """A planted bug: each column's own gradient, whose mean and not whose sum is the batch's."""

    def own(algorithm: Algorithm) -> Algorithm:
        return algorithm._replace(contributions=lambda *args: jax.tree.map(lambda leaf: 2 * leaf, algorithm.contributions(*args)))

    _, chance, single, p = every_batch()
    mean = p @ single
    found = metrics_of_every_batch(own)
    assert abs(chance @ found["gradient_signal"] - mean @ mean) > 0.01
    assert abs(chance @ found["gradient_variance"] - p @ np.sum((single - mean) ** 2, axis=1) / 2) > 0.01


@pytest.mark.parametrize("steps", [1, 5, 12])
@pytest.mark.parametrize("columns", [1, 2])
def test_of_a_single_column_only_parts_with_steps_are_a_sample(steps: int, columns: int) -> None:
    """Episodes are padded, and an episode shorter than the number of parts leaves some empty; a column is never left out."""
    n, rng = (8 if columns == 1 else 2), np.random.default_rng(0)
    parts = np.where((np.arange(n) < steps)[:, None], rng.normal(size=(n, 7)), 0)
    stub = reinforce()._replace(
        update=lambda key, agent, rollout: (agent, {"own": 1.0}),
        contributions=lambda agent, rollout: Params(tree(jnp.asarray(parts, jnp.float32)), ()),
    )
    nothing: list[Any] = [None] * len(Rollout._fields)
    rollout = Rollout(*nothing)._replace(mask=(np.arange(16) < steps)[:, None] * np.array([[1.0, 0.0][:columns]]))
    agent = Agent(Params((), ()), (), (), 0, 0)
    after, metrics = diagnosed(stub).update(jax.random.key(0), agent, rollout)
    assert after is agent
    assert metrics.pop("own") == 1.0
    sample = parts[: min(steps, 8)] if columns == 1 else parts
    for name in NAMES[:2]:
        wanted = plain(sample, parts[0])[name] if len(sample) > 1 else np.nan
        assert float(metrics[name]) == pytest.approx(wanted, rel=1e-4, nan_ok=True), name
