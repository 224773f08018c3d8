"""What each trajectory adds: the sum is the gradient, and a control variate is subtracted exactly once, however the batch is cut."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policygrad.gradients import accumulated, contributions, score_function
from policygrad.policies import tabular_softmax
from policygrad.types import Batch, Params, Rollout

pytestmark = pytest.mark.usefixtures("x64")

S, A = 3, 2
PROGRESS = 0.0


def batch_of(rows: int, columns: int, control: Any = None) -> Batch:
    rng = np.random.default_rng(rows * 100 + columns)
    mask = (np.arange(rows)[:, None] < rng.integers(1, rows + 1, columns)).astype(float)
    mask[:, 0] = 1
    zeros, flags = np.zeros((rows, columns)), np.zeros((rows, columns), bool)
    rollout = Rollout(
        obs=rng.integers(0, S, (rows, columns)).astype(np.int32),
        action=rng.integers(0, A, (rows, columns)).astype(np.int32),
        log_prob=zeros, reward=zeros, terminated=flags, truncated=flags,
        next_obs=np.zeros((rows, columns), np.int32), mask=mask, time=np.zeros((rows, columns), np.int32), carry=(), extras={},
    )  # fmt: skip
    controls = (
        ()
        if control is None
        else jax.tree.map(lambda leaf: leaf[None] * jnp.arange(1.0, columns + 1)[:, None, None], params(control).policy)
    )
    old = params().policy(jnp.asarray(rollout.obs))
    advantages = rng.normal(size=(rows, columns)) * mask
    return jax.tree.map(jnp.asarray, Batch(rollout, advantages, zeros, mask / columns, old, (), controls))


def params(logits: Any = None) -> Params:
    return Params(tabular_softmax(jnp.asarray(np.random.default_rng(0).normal(size=(S, A)) if logits is None else logits)), ())


def logits_of(tree: Params) -> np.ndarray:
    return np.asarray(tree.policy.head.logits)


CONTROL = np.random.default_rng(5).normal(size=(S, A))


@pytest.mark.parametrize(("rows", "columns"), [(7, 4), (11, 1), (3, 1), (1, 1), (1, 5)])
@pytest.mark.parametrize("control", [None, CONTROL], ids=["plain", "control"])
def test_contributions_sum_to_the_gradient(rows: int, columns: int, control: Any) -> None:
    gradient = score_function(0.1)
    batch = batch_of(rows, columns, control)
    total, _ = gradient(params(), batch, PROGRESS)
    parts = contributions(gradient)(params(), batch, PROGRESS)
    assert len(logits_of(parts)) == (columns if columns > 1 else min(rows, 8))
    np.testing.assert_allclose(logits_of(parts).sum(axis=0), logits_of(total), rtol=0, atol=1e-12)


def test_a_column_contributes_what_it_would_alone() -> None:
    gradient, batch = score_function(), batch_of(7, 4)
    parts = logits_of(contributions(gradient)(params(), batch, PROGRESS))
    for column in range(4):
        alone = batch._replace(weights=batch.weights * (jnp.arange(4) == column)[None, :])
        np.testing.assert_allclose(parts[column], logits_of(gradient(params(), alone, PROGRESS)[0]), rtol=0, atol=1e-12)


def test_a_column_loses_its_own_control() -> None:
    """Shared out evenly it would not show in the spread of the columns, which is what a control variate is for."""
    gradient, batch, plain = score_function(), batch_of(7, 4, CONTROL), batch_of(7, 4)
    parts, without = (logits_of(contributions(gradient)(params(), made, PROGRESS)) for made in (batch, plain))
    np.testing.assert_allclose(without - parts, CONTROL[None] * np.arange(1.0, 5)[:, None, None], rtol=0, atol=1e-12)


@pytest.mark.parametrize("part", [3, 8, 1000])
def test_parts_of_a_batch_subtract_the_control_once(part: int) -> None:
    batch = batch_of(13, 2, CONTROL)
    whole = logits_of(score_function(0.1)(params(), batch, PROGRESS)[0])
    plain = logits_of(score_function(0.1)(params(), batch._replace(control=()), PROGRESS)[0])
    in_parts = logits_of(accumulated(score_function(0.1), part)(params(), batch, PROGRESS)[0])
    np.testing.assert_allclose(whole, plain - 3 * CONTROL, rtol=0, atol=1e-12)
    np.testing.assert_allclose(in_parts, whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 5, 8, 11, 40])
def test_padding_is_no_part_of_a_single_column(steps: int) -> None:
    """Parts in time are cut by steps: those of a padded episode are those of the episode itself."""
    batch = batch_of(40, 1)
    mask = jnp.asarray((np.arange(40) < steps)[:, None], float)
    batch = batch._replace(rollout=batch.rollout._replace(mask=mask), weights=batch.weights * mask)
    gradient = score_function()
    parts = logits_of(contributions(gradient)(params(), batch, PROGRESS))
    edges = np.searchsorted(np.arange(steps) * 8 // max(steps, 8), np.arange(9))
    for k in range(8):
        mine = jnp.asarray((np.arange(40) >= edges[k]) & (np.arange(40) < edges[k + 1]))[:, None]
        alone = batch._replace(weights=batch.weights * mine)
        np.testing.assert_allclose(parts[k], logits_of(gradient(params(), alone, PROGRESS)[0]), rtol=0, atol=1e-12)
    assert (np.abs(parts).max(axis=(1, 2)) > 0).tolist() == [k < steps for k in range(8)]
