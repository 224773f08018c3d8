"""What an acting policy is of a policy trained on normalised observations: raw observations in, the statistics inside.

Running statistics are merged batch by batch and never summed up over a run, so they lose nothing to large means or long
runs in float32. Who moves them, and when, is `combinators.normalise`'s to decide; here nothing moves.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from policygrad.errors import SpaceError
from policygrad.policies.distributions import Distribution
from policygrad.spaces import Space
from policygrad.types import Array, PyTree


class Statistics(NamedTuple):
    """Of all samples so far; of none: mean 0, variance 1, so that nothing is shifted or scaled."""

    count: Array  # scalar float: a whole number of samples
    mean: Array  # [*shape]
    variance: Array  # [*shape] of the population: divided by the count, not by one less


class Running(NamedTuple):
    """Statistics that move, and what rounding left over of them: together they have twice the digits of either."""

    statistics: Statistics
    rest: Statistics


def no_statistics(shape: tuple[int, ...] = ()) -> Running:
    """Of no samples of that shape."""
    return running(Statistics(jnp.zeros(()), jnp.zeros(shape), jnp.ones(shape)))


def running(statistics: Statistics) -> Running:
    """Statistics that somebody kept, to go on from."""
    return Running(statistics, jax.tree.map(jnp.zeros_like, statistics))


def merged(before: Running, samples: Array, mask: Array) -> Running:
    """The statistics with further samples in them.

        μ' = μ + w δ        σ'² = σ² + w (s² − σ² + (1 − w) δ²)        w = n / (N + n),  δ = x̄ − μ

    x̄ and s² are the mean and variance of the n new samples, μ and σ² those of the N before. Both are taken of deviations
    from μ, where a large mean cannot cancel; increments that one float would lose are kept in the rest (Kahan).

    Args:
        before: μ, σ², N.
        samples: [T, B, *shape]; whatever stands where the mask is 0 is not read.
        mask: [T, B], 1 for a sample.

    Reference:
        Chan, Golub and LeVeque 1983, "Algorithms for computing the sample variance", eq. 2.1.
    """
    count, mean, variance = before.statistics
    valid = (mask > 0).reshape(mask.shape + (1,) * mean.ndim)
    n = jnp.sum(valid, dtype=mean.dtype)
    lead = (None,) * mask.ndim

    def average(values: Array) -> Array:
        return jnp.sum(jnp.where(valid, values, 0), axis=(0, 1), dtype=mean.dtype) / jnp.maximum(n, 1)

    first = (count == 0) & (n > 0)  # then μ and σ² stand for nothing, and the batch's own take their place
    mean = jnp.where(first, average(samples), mean)
    deviations = samples - mean[lead]
    delta = average(deviations)
    spread = average((deviations - delta[lead]) ** 2)
    variance = jnp.where(first, spread, variance)
    share = n / jnp.maximum(count + n, 1)
    moves = Statistics(n, share * delta, share * (spread - variance + (1 - share) * delta**2))
    moves = jax.tree.map(jnp.add, moves, before.rest)
    old = Statistics(count, mean, variance)
    new = jax.tree.map(jnp.add, old, moves)
    rest = jax.tree.map(lambda move, after, start: move - (after - start), moves, new, old)
    return Running(new, rest)


def standardised(obs: PyTree, mean: PyTree, variance: PyTree, clip: float, epsilon: float) -> PyTree:
    """clip((o − μ) / √(σ² + ε), ±clip), as floats over any leading axes.

    Args:
        obs: an array, or parts, of which those pass that have no statistics: () in their place.
        mean, variance: μ and σ², arrays [*shape] in the structure of the parts.

    Raises:
        SpaceError: if the trailing axes are not those of the statistics, while tracing.
    """
    if isinstance(mean, dict):
        return {name: standardised(part, mean.get(name, ()), variance.get(name, ()), clip, epsilon) for name, part in obs.items()}
    if isinstance(mean, tuple):
        return tuple(standardised(*part, clip, epsilon) for part in zip(obs, mean, variance, strict=True)) if mean else obs
    obs = jnp.asarray(obs)
    cut = obs.ndim - mean.ndim
    if cut < 0 or obs.shape[cut:] != mean.shape:
        raise SpaceError(f"observation shape: got {obs.shape}; the policy takes [..., {', '.join(map(str, mean.shape))}], batch axes first")
    lead = (None,) * cut
    return jnp.clip((obs - mean[lead]) / jnp.sqrt(variance[lead] + epsilon), -clip, clip)


class Normalised(eqx.Module):
    """A policy on normalised observations, as a policy on raw ones.

        π(·|o) = π_θ(·| clip((o − μ) / √(σ² + ε), ±clip))

    Its statistics are leaves, so that they are saved and loaded with it, but they are not trained: what is trained is the
    policy inside.

    Args:
        policy: π_θ, as it was trained.
        mean, variance: μ and σ², [*shape] of one observation; of observations with parts, in their structure, with () for parts that
            pass as they are.
        count: how many observations they are of, a scalar float; training that starts from this policy goes on from there.
        clip: > 0, in standard deviations.
        epsilon: ε > 0, in squared units of an observation.
    """

    policy: Any
    mean: PyTree
    variance: PyTree
    count: Array
    clip: float = eqx.field(static=True)
    epsilon: float = eqx.field(static=True)

    @property
    def observation_space(self) -> Space:
        """Of raw observations."""
        return self.policy.observation_space

    @property
    def action_space(self) -> Space:
        return self.policy.action_space

    def __call__(self, obs: Array) -> Distribution:
        """π(·|o) for raw observations over any leading axes.

        Raises:
            SpaceError: if the trailing axes are not those of the observation space, while tracing.
        """
        return self.policy(self._normalised(obs))

    def initial(self, batch: int) -> PyTree:
        """The memory before the first step: that of the policy inside."""
        return self.policy.initial(batch)

    def step(self, carry: PyTree, obs: Array, first: Array) -> tuple[Distribution, PyTree]:
        """π(·|o_1 … o_t) for raw observations [B, …], and the memory after it."""
        return self.policy.step(carry, self._normalised(obs), first)

    def num_chunks(self, rows: int) -> int:
        """As `Policy.num_chunks`."""
        return self.policy.num_chunks(rows)

    def unroll(self, carry: PyTree, obs: Array, resets: Array) -> tuple[Distribution, PyTree]:
        """π(·|o_t) of every step of a rollout of raw observations [T, B, …], and the memory after it."""
        return self.policy.unroll(carry, self._normalised(obs), resets)

    def _normalised(self, obs: Array) -> Array:
        return standardised(obs, self.mean, self.variance, self.clip, self.epsilon)
