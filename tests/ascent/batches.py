"""Batches for tests of ascents: small random ones with padding, and exact ones that visit every state and action of an MDP."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from policygrad import policies
from policygrad.oracle.tables import Tables, solve_values, solve_visits
from policygrad.spaces import Box, Discrete
from policygrad.types import Batch, Params, Rollout, Spec

T, B = 5, 3
LENGTHS = np.array([5, 3, 4])
MASK = (np.arange(T)[:, None] < LENGTHS).astype(float)
ACTIONS = {"softmax": Discrete(4), "gaussian": Box.of(-np.inf, np.inf, (2,))}


def batch_of(policy: Any, obs: Any, action: Any, mask: Any, *, advantages: Any = None, weights: Any = None, control: Any = ()) -> Batch:
    """What an ascent is handed: π before the update is `policy`."""
    zeros, no = jnp.zeros(mask.shape), jnp.zeros(mask.shape, bool)
    time = jnp.zeros(mask.shape, jnp.int32)
    rollout = Rollout(obs, action, zeros, zeros, no, no, obs, mask, time, (), {})
    advantages = zeros if advantages is None else advantages
    weights = mask / jnp.sum(mask) if weights is None else weights
    return Batch(rollout, advantages, zeros, weights, policy(obs), (), control)


@cache
def example(kind: str) -> tuple[Params, Batch]:
    """A small network away from its start, and a padded batch with importance weights; float64, so for tests in `x64`."""
    spec = Spec(Box.of(-1.0, 1.0, (3,)), ACTIONS[kind], B)
    policy = jax.jit(policies.mlp((4,), initialisation="xavier"), static_argnums=1)(jax.random.key(1), spec)
    rng = np.random.default_rng(3)
    policy = jax.tree.map(lambda leaf: jnp.asarray(leaf + 0.3 * rng.normal(size=leaf.shape)), policy)
    obs = rng.normal(size=(T, B, 3)) * MASK[:, :, None]
    shape = (T, B, 2) if kind == "gaussian" else (T, B)
    action = rng.normal(size=shape) if kind == "gaussian" else rng.integers(0, 4, shape)
    action = action * MASK.reshape(T, B, *(1,) * (len(shape) - 2)).astype(action.dtype)
    advantages, weights = rng.normal(size=(T, B)) * MASK, MASK * rng.uniform(0.5, 2.0, (T, B)) / (T * B)
    made = batch_of(policy, *map(jnp.asarray, (obs, action, MASK)), advantages=jnp.asarray(advantages), weights=jnp.asarray(weights))
    return Params(policy, ()), made


def exact_batch(t: Tables, policy: Any) -> Batch:
    """Every state and action of an MDP without time limit, [S, A], as often as the policy meets them, discounted.

    Its score-function gradient is ∇J, and the mean over its steps is that over the discounted visits.
    """
    states, actions = t.rewards.shape
    obs = jnp.broadcast_to(jnp.arange(states)[:, None], (states, actions))
    action = jnp.broadcast_to(jnp.arange(actions)[None, :], (states, actions))
    pi = policy(jnp.arange(states)).probabilities()
    V, Q = solve_values(t, pi, None)
    visits = solve_visits(t, pi, None, t.discount)[:, None] * pi
    return batch_of(policy, obs, action, visits, advantages=Q - V[:, None], weights=visits)


@cache
def hessian_of_kl(kind: str) -> np.ndarray:
    """∇² of the mean KL over valid steps, by differentiating twice; the mean is written out."""
    params, batch = example(kind)
    start, unflatten = ravel_pytree(params.policy)
    mask = np.asarray(batch.rollout.mask)

    def mean_kl(theta: Any, obs: Any) -> Any:
        return jnp.sum(batch.old.kl(unflatten(theta)(obs)) * mask) / mask.sum()

    return np.asarray(jax.jit(jax.hessian(mean_kl))(start, batch.rollout.obs))


def flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(tree)])


def same_bits(one: Any, other: Any) -> bool:
    return all(
        np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )
