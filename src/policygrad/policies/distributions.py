"""π(·|o): what a policy returns.

In the shape descriptions `[...]` are the batch axes, any number of them. Every array leaf of a distribution carries the
batch axes, so that one can be stored in a rollout, gathered into minibatches and mapped over like any other array. The
dtype follows the inputs.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp

from policygrad.types import Array, Key


@runtime_checkable
class Distribution(Protocol):
    """What every distribution can do. All of it differentiates with respect to the distribution's leaves, but `sample`.

    One whose `sample(key)` is `at(noise(key))`, with a `noise` that looks at shapes and dtypes alone, is sampled faster: collectors
    draw the noise of a whole rollout at once.
    """

    def sample(self, key: Key) -> Array:
        """One action per batch element, independent given the key."""
        ...

    def log_prob(self, action: Array) -> Array:
        """log π(a|o) in nats, summed over the event's axes, [...]."""
        ...

    def entropy(self) -> Array:
        """H = −E[log π(a|o)] in nats, [...]."""
        ...

    def kl(self, other: Any) -> Array:
        """KL(self ‖ other) = E_self[log self − log other] ≥ 0 in nats, [...]."""
        ...

    def mode(self) -> Array:
        """The likeliest action."""
        ...


class Categorical(eqx.Module):
    """The softmax over n actions.

        π(a) = exp(h_a) / Σ_b exp(h_b)

    Finite for logits of any finite size. A logit of −∞ forbids its action: probability 0, never sampled, and entropy
    and KL count it as 0 · log 0 = 0.

    Args:
        logits: h, [..., n]; adding a constant to all n changes nothing.

    >>> [f"{p:.2f}" for p in Categorical(jnp.array([2.0, 1.0, 0.5])).probabilities()]
    ['0.63', '0.23', '0.14']
    """

    logits: Array

    def log_probabilities(self) -> Array:
        """log π(a) of every action, [..., n]."""
        shifted = self.logits - jax.lax.stop_gradient(_over(jnp.maximum, self.logits))[..., None]
        return shifted - jnp.log(_over(jnp.add, jnp.exp(shifted)))[..., None]

    def probabilities(self) -> Array:
        """π(a) of every action, [..., n]."""
        return jnp.exp(self.log_probabilities())

    def sample(self, key: Key) -> Array:
        """One action, int32, [...]."""
        return self.at(self.noise(key))

    def noise(self, key: Key) -> Array:
        """u, uniform in [0, 1), [...]."""
        return jax.random.uniform(key, self.logits.shape[:-1], self.logits.dtype)

    def at(self, noise: Array) -> Array:
        """Inverts the cumulative distribution: int32, [...].

            a = min { i : π_i > 0 and Σ_{j ≤ i} π_j > u }

        One uniform number an action, where the Gumbel trick (`jax.random.categorical`) needs n and 2n logarithms: 2 to
        30 times faster on a CPU. In float32 the probabilities are resolved to about 1e-7.

        Args:
            noise: u in [0, 1), [...].
        """
        probabilities = self.probabilities()
        possible = probabilities > 0
        cumulative = _running_sum(probabilities)
        # The sum of the possible actions, not 1: then rounding can neither fall off the end nor hit a forbidden action.
        total = _over(jnp.maximum, jnp.where(possible, cumulative, 0))
        threshold = noise * total
        return _over(jnp.minimum, jnp.where(possible & (cumulative > threshold[..., None]), self._actions(), self.logits.shape[-1] - 1))

    def log_prob(self, action: Array) -> Array:
        """log π(a), [...]. An action outside 0 … n − 1 gives NaN rather than a neighbour's value.

        Args:
            action: integers in 0 … n − 1, [...].
        """
        action = jnp.asarray(action)
        # Sums over a mask: the gradient of a gather is a scatter, which takes a CPU ten times as long.
        logs = _over(jnp.add, jnp.where(action[..., None] == self._actions(), self.log_probabilities(), 0))
        return jnp.where((action >= 0) & (action < self.logits.shape[-1]), logs, jnp.nan)

    def entropy(self) -> Array:
        """H = −Σ_a π(a) log π(a) in nats, in [0, log n], [...]."""
        probabilities, logs = self._finite_logs()
        return -_over(jnp.add, probabilities * logs)

    def kl(self, other: Categorical) -> Array:
        """KL(self ‖ other) = Σ_a π(a) (log π(a) − log other(a)) in nats, [...]; +∞ where other forbids what self does."""
        probabilities, logs = self._finite_logs()
        others = jnp.where(probabilities > 0, other.log_probabilities(), 0)
        return _over(jnp.add, probabilities * (logs - others))

    def mode(self) -> Array:
        """argmax_a π(a), the first of equals, int32, [...]."""
        return jnp.argmax(self.logits, axis=-1).astype(jnp.int32)

    def _actions(self) -> Array:
        """0 … n − 1 along the last axis, int32, [..., n]."""
        return jax.lax.broadcasted_iota(jnp.int32, self.logits.shape, self.logits.ndim - 1)

    def _finite_logs(self) -> tuple[Array, Array]:
        """π and log π, with 0 for log 0: the product is right, and neither it nor its gradient is 0 · ∞."""
        logs = self.log_probabilities()
        probabilities = jnp.exp(logs)
        return probabilities, jnp.where(probabilities > 0, logs, 0)


FEW = 8
"""Actions up to which sums over them are written out. A CPU's loop over the batch then does all of it at once, where each reduction of an
axis would be a loop of its own."""


def _over(operation: Any, x: Array) -> Array:
    """One of `jnp.add`, `jnp.maximum`, `jnp.minimum` over the last axis."""
    if x.shape[-1] <= FEW:
        return functools.reduce(operation, (x[..., i] for i in range(x.shape[-1])))
    return operation.reduce(x, axis=-1)


def _running_sum(x: Array) -> Array:
    """Σ_{j ≤ i} x_j over the last axis."""
    if x.shape[-1] <= FEW:
        return jnp.stack(list(itertools.accumulate((x[..., i] for i in range(x.shape[-1])), jnp.add)), axis=-1)
    return jnp.cumsum(x, axis=-1)


class Gaussian(eqx.Module):
    """Independent normal distributions, one per element of the event.

        π(a) = Π_i N(a_i; μ_i, σ_i²)

    Unbounded: an environment gets the sample clipped into its box, `log_prob` is of the sample as drawn.

    Args:
        mean: μ, [..., *event].
        log_std: log σ in nats (not the variance), the same full shape as the mean.
        event_ndim: how many trailing axes are the event, ≥ 0; log_prob, entropy and kl sum over them.

    >>> Gaussian(jnp.zeros((3, 2)), jnp.zeros((3, 2)), 1).entropy().shape
    (3,)
    """

    mean: Array
    log_std: Array
    event_ndim: int = eqx.field(static=True)

    def sample(self, key: Key) -> Array:
        """μ + σ ε with ε ~ N(0, 1), [..., *event]."""
        return self.at(self.noise(key))

    def noise(self, key: Key) -> Array:
        """ε ~ N(0, 1), [..., *event]."""
        return jax.random.normal(key, self.mean.shape, self.mean.dtype)

    def at(self, noise: Array) -> Array:
        """μ + σ ε, [..., *event].

        Args:
            noise: ε, [..., *event].
        """
        return self.mean + jnp.exp(self.log_std) * noise

    def log_prob(self, action: Array) -> Array:
        """log π(a) = −½ Σ_i [((a_i − μ_i)/σ_i)² + log 2π] − Σ_i log σ_i, [...].

        Args:
            action: [..., *event].
        """
        z = (action - self.mean) * jnp.exp(-self.log_std)
        return self._sum(-0.5 * (z * z + math.log(2 * math.pi)) - self.log_std)

    def entropy(self) -> Array:
        """H = Σ_i [log σ_i + ½ (1 + log 2π)] in nats, [...]; negative for small σ."""
        return self._sum(self.log_std + 0.5 * (1 + math.log(2 * math.pi)))

    def kl(self, other: Gaussian) -> Array:
        """KL(self ‖ other) in nats, [...].

            Σ_i ½ [ e^{2d_i} − 1 − 2d_i + ((μ_i − μ'_i)/σ'_i)² ]        d = log σ − log σ'

        Written with expm1, so that it stays ≥ 0 for distributions that nearly agree, where a trust region looks at it.
        """
        twice = 2 * (self.log_std - other.log_std)
        z = (self.mean - other.mean) * jnp.exp(-other.log_std)
        return self._sum(0.5 * (jnp.expm1(twice) - twice + z * z))

    def mode(self) -> Array:
        """μ, [..., *event]."""
        return self.mean

    def _sum(self, terms: Array) -> Array:
        return jnp.sum(terms, axis=tuple(range(-self.event_ndim, 0)))


def drawn_noise(distribution: Any, key: Key) -> Array:
    """What chance adds to a sample, of which `sampled` makes the action: `noise`, or the key's data where there is none.

    Args:
        distribution: anything with its shapes, such as what `jax.eval_shape` gives.
    """
    return distribution.noise(key) if hasattr(distribution, "noise") else jax.random.key_data(key)


def sampled(distribution: Any, noise: Array) -> Array:
    """The action that `distribution.sample(key)` is, of `drawn_noise(distribution, key)`."""
    return distribution.at(noise) if hasattr(distribution, "noise") else distribution.sample(jax.random.wrap_key_data(noise))
