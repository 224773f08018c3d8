"""π_θ: a function from observations to a distribution, as features followed by a head.

A policy's only leaves are trainable float arrays, so plain `jax.jit`, `jax.grad`, `jax.vmap` and optax work on it. What
does not train (the spaces, a fixed σ, the name of an activation) is static and hashable.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp

from policygrad.policies.distributions import Categorical, Distribution, Gaussian
from policygrad.policies.networks import affine
from policygrad.spaces import Space
from policygrad.types import Array, PyTree


class Policy(eqx.Module):
    """A policy without memory.

        π(·|o) = head(features(o))

    Args:
        features: a Module, observations [..., *shape] -> x [..., F]; see `policygrad.policies.features`.
        head: a Module, x -> Distribution over [...].
        observation_space, action_space: what the policy is for.

    >>> from policygrad.policies import tabular_softmax
    >>> policy = tabular_softmax([[0.0, 1.0], [2.0, 0.0]])
    >>> policy(jnp.array([0, 1, 1])).mode().tolist()
    [1, 0, 0]
    """

    features: Any
    head: Any
    observation_space: Space = eqx.field(static=True)
    action_space: Space = eqx.field(static=True)

    def __call__(self, obs: Array) -> Distribution:
        """π(·|o) for observations over any leading axes (batch axes first).

        Raises:
            SpaceError: if the trailing axes are not those of the observation space, while tracing.
        """
        return self.head(self.features(obs))

    def initial(self, batch: int) -> PyTree:
        """The memory before the first step: none."""
        return ()

    def unroll(self, carry: PyTree, obs: Array, resets: Array) -> tuple[Distribution, PyTree]:
        """π(·|o_t) of every step of a rollout, and the memory after it.

        Args:
            carry: the memory before the first row; passed through.
            obs: [T, B, …].
            resets: [T, B] bool, true where o_t is the first of an episode; a policy without memory need not look.
        """
        return self(obs), carry


class TableHead(eqx.Module):
    """A row of logits per state: integers [...] -> Categorical [..., A].

    π(a|s) = softmax(θ_s)_a        θ [S, A]
    """

    logits: Array

    def __call__(self, x: Array) -> Categorical:
        return Categorical(jnp.asarray(self.logits)[x])


class LinearCategorical(eqx.Module):
    """Logits affine in the features: [..., F] -> Categorical [..., A].

    π(a|x) = softmax(W x + b)_a
    """

    layer: eqx.nn.Linear

    def __call__(self, x: Array) -> Categorical:
        return Categorical(affine(self.layer, x))


class Preferences(eqx.Module):
    """One weight per state-action feature: [..., A, F] -> Categorical [..., A].

        π(a|s) = exp(θ·φ(s, a)) / Σ_b exp(θ·φ(s, b))        ∇ log π(a|s) = φ(s, a) − Σ_b π(b|s) φ(s, b)

    Reference:
        Sutton and Barto 2018, eqs. 13.2, 13.3 and 13.9.
    """

    weights: Array

    def __call__(self, x: Array) -> Categorical:
        return Categorical(x @ self.weights)


class LinearGaussian(eqx.Module):
    """Mean affine in the features, log σ a parameter that does not depend on them: [..., F] -> Gaussian.

    π(·|x) = N(W x + b, diag σ²)        log σ [*event]
    """

    layer: eqx.nn.Linear
    log_std: Array

    def __call__(self, x: Array) -> Gaussian:
        return _gaussian(self.layer, x, self.log_std)


class FixedGaussian(eqx.Module):
    """Mean affine in the features, σ fixed: [..., F] -> Gaussian.

        π(·|x) = N(W x + b, diag σ²)        ∇ log π(a|x) = Σ⁻¹ (a − μ) ∇μ

    Args:
        shape: of one action.
        sigma: σ > 0 (not the variance), one for all elements or one for each in C order.
    """

    layer: eqx.nn.Linear
    shape: tuple[int, ...] = eqx.field(static=True)
    sigma: tuple[float, ...] = eqx.field(static=True)

    def __call__(self, x: Array) -> Gaussian:
        sigma = jnp.asarray(self.sigma, self.layer.weight.dtype)
        sigma = sigma.reshape(self.shape) if len(self.sigma) > 1 else jnp.broadcast_to(sigma[0], self.shape)
        return _gaussian(self.layer, x, jnp.log(sigma))


def _gaussian(layer: eqx.nn.Linear, x: Array, log_std: Array) -> Gaussian:
    mean = affine(layer, x)
    mean = mean.reshape(*mean.shape[:-1], *log_std.shape)
    return Gaussian(mean, jnp.broadcast_to(log_std, mean.shape), log_std.ndim)
