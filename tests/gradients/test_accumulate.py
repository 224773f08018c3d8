"""A batch in parts is the batch."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policygrad import advantages, baselines
from policygrad.algorithms import compose, reinforce
from policygrad.ascent import gradient_ascent
from policygrad.gradients import accumulated, score_function
from policygrad.policies import table, tabular_softmax
from policygrad.rollout import episodes
from policygrad.spaces import Discrete
from policygrad.types import Batch, Params, Rollout, Spec

S, A = 3, 2
ZERO = np.zeros(())
WHOLE = score_function(0.3)
whole = jax.jit(WHOLE)


def batch_of(lengths: list[int], rows: int, seed: int = 0) -> Batch:
    """Episodes of these lengths, padded; weights and Ψ at random, 0 in the padding."""
    rng = np.random.default_rng(seed)
    shape = rows, len(lengths)
    mask = (np.arange(rows)[:, None] < np.array(lengths)).astype(float)
    obs, action = rng.integers(0, S, shape) * mask.astype(int), rng.integers(0, A, shape) * mask.astype(int)
    zeros, no = np.zeros(shape), np.zeros(shape, bool)
    rollout = Rollout(obs, action, zeros, zeros, no, no, obs, mask, np.zeros(shape, np.int32), (), {"cost": rng.normal(size=(*shape, 2))})
    batch = Batch(rollout, rng.normal(size=shape) * mask, zeros, rng.random(shape) * mask, tabular_softmax(np.zeros((S, A)))(obs), ())
    return jax.tree.map(jnp.asarray, batch)


def params_of(seed: int = 1) -> Params:
    return Params(tabular_softmax(np.random.default_rng(seed).normal(size=(S, A))), ())


def close(x: Any, y: Any, tolerance: float = 1e-12) -> None:
    assert jax.tree.structure(x) == jax.tree.structure(y)
    for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=0, atol=tolerance)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("part", [1, 4, 6, 7, 9, 1000])
@pytest.mark.parametrize("lengths", [[7, 4, 2], [1, 3, 2], [7, 7, 7]], ids=str)
def test_the_sum_over_parts_is_the_whole(part: int, lengths: list[int]) -> None:
    """Gradient and info, for parts of one row, of some, of all, and with a last part that is not whole."""
    batch = batch_of(lengths, rows=7)
    expected = whole(params_of(), batch, ZERO)
    assert np.abs(np.asarray(expected[0].policy.head.logits)).max() > 0.1
    close(jax.jit(accumulated(WHOLE, part))(params_of(), batch, ZERO), expected)


@pytest.mark.usefixtures("x64")
def test_a_batch_without_any_step_is_no_gradient() -> None:
    close(
        jax.jit(accumulated(WHOLE, 4))(params_of(), batch_of([0, 0], rows=5), ZERO),
        (jax.tree.map(jnp.zeros_like, params_of()), {"entropy": jnp.zeros(())}),
    )


def test_padding_is_not_visited() -> None:
    """Parts that were visited, counted by a gradient of ones."""

    def count(params: Params, batch: Batch, progress: Any) -> tuple[Params, dict]:
        assert batch.rollout.mask.shape == (2, 3)
        return jax.tree.map(jnp.ones_like, params), {}

    for longest, parts in ((1, 1), (2, 1), (3, 2), (8, 4), (9, 5)):
        total, _ = jax.jit(accumulated(count, part=6))(params_of(), batch_of([longest, 1, 0], rows=9), ZERO)
        close(total, jax.tree.map(lambda leaf, parts=parts: jnp.full_like(leaf, parts), params_of()))


def test_a_row_is_visited_even_where_the_first_columns_have_ended() -> None:
    """The last valid row of any column, and a row that is empty between two that are not."""
    batch = batch_of([1, 9], rows=9)
    mask = batch.rollout.mask.at[4].set(0)
    batch = batch._replace(rollout=batch.rollout._replace(mask=mask), weights=batch.weights * mask)
    close(jax.jit(accumulated(WHOLE, 4))(params_of(), batch, ZERO), whole(params_of(), batch, ZERO), 1e-5)


def test_a_policy_with_memory_gets_the_batch_whole() -> None:
    seen = []

    def look(params: Params, batch: Batch, progress: Any) -> tuple[Params, dict]:
        seen.append(batch.rollout.mask.shape)
        return params, {}

    accumulated(look, part=2)(params_of(), batch_of([7, 4, 2], rows=7)._replace(carry=jnp.zeros((1, 3))), ZERO)
    assert seen == [(7, 3)]


@pytest.mark.usefixtures("x64")
def test_it_maps_over_seeds() -> None:
    """Batches that need different numbers of parts, side by side."""
    batches = [batch_of(lengths, rows=7, seed=i) for i, lengths in enumerate([[1, 1], [7, 2], [4, 3]])]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches)
    together = jax.jit(jax.vmap(accumulated(WHOLE, 4), in_axes=(None, 0, None)))(params_of(), stacked, ZERO)
    for i, batch in enumerate(batches):
        close(jax.tree.map(lambda leaf, i=i: leaf[i], together), whole(params_of(), batch, ZERO))


@pytest.mark.usefixtures("x64")
def test_a_recipes_large_batch_has_the_gradient_of_the_plain_estimator() -> None:
    """2,400 rows × columns, in the parts that recipes make, with their divisor and their baseline over all of it."""
    rollout = batch_of(list(range(1, 41)), rows=60).rollout
    rng = np.random.default_rng(0)
    rollout = rollout._replace(reward=jnp.asarray(rng.normal(size=rollout.mask.shape)) * rollout.mask, extras={})
    recipe = reinforce(discount=0.9, entropy_bonus=0.2)
    plain = compose(
        "plain",
        {},
        collect=episodes(),
        policy=table(),
        advantage=partial(advantages.reward_to_go, discount=0.9),
        baseline=baselines.mean(),
        ascent=gradient_ascent(score_function(0.2), learning_rate=0.1),
    )
    spec = Spec(Discrete(S), Discrete(A), num_envs=40)
    results = []
    for algorithm in (recipe, plain):
        agent = algorithm.init(jax.random.key(0), spec)._replace(params=params_of())
        results.append(jax.jit(algorithm.gradient)(agent, rollout))
    close(*results)
