"""Importance weights."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from policygrad.gradients import on_policy
from policygrad.types import Rollout


def test_on_policy_data_weighs_one_whatever_the_ratios() -> None:
    mask = jnp.asarray(np.array([[1, 1], [1, 0]], np.float32))
    rollout = Rollout(*[mask] * 9, carry=(), extras={})
    for ratios in (jnp.zeros((2, 2)), jnp.full((2, 2), 3.0), jnp.full((2, 2), jnp.nan)):
        weights = on_policy(ratios, rollout)
        assert weights.dtype == mask.dtype
        np.testing.assert_array_equal(np.asarray(weights), np.ones((2, 2)))
