"""w_t, whose data it is: importance weights. On-policy data needs none."""

from __future__ import annotations

import jax.numpy as jnp

from policygrad.types import Array, Rollout


def on_policy(log_ratios: Array, rollout: Rollout) -> Array:
    """w = 1: the policy that learns is the one that acted.

    Args:
        log_ratios: log π_θ(a_t|o_t) − log of the probability with which a_t was taken, [T, B]; not read.

    Returns:
        ones, [T, B].
    """
    return jnp.ones_like(rollout.mask)
