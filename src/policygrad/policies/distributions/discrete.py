"""Finitely many actions: one choice, several, or switches.

A mask tells which actions are possible. Masking is part of the distribution, so that its density, entropy, KL and gradients are those of
what is sampled.

Reference:
    Huang and Ontañón 2022, "A closer look at invalid action masking in policy gradient algorithms".
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from policygrad.errors import UsageError
from policygrad.policies.distributions.base import allowed, sum_event
from policygrad.types import Array, Key


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

    @property
    def mask_size(self) -> int:
        """n."""
        return self.logits.shape[-1]

    def masked(self, mask: Array) -> Categorical:
        """The softmax over the possible actions: h_a = −∞ for the others.

        No gradient reaches the logit of an action that the mask forbids. Where it allows none, everything but `sample` and `mode`,
        which are integers, is NaN.

        Args:
            mask: [..., n], bool or 0 and 1.

        Raises:
            UsageError: for another shape (when traced).
        """
        return Categorical(jnp.where(allowed(mask, self.logits.shape), self.logits, -jnp.inf))

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


class MultiCategorical(eqx.Module):
    """Independent softmaxes, one per element of an action.

        π(a) = Π_i exp(h_{i,a_i}) / Σ_b exp(h_{i,b})

    Args:
        logits: h, those of the elements in C order side by side, [..., Σ n_i]; as for `Categorical`.
        counts: n_i ≥ 1, in C order.
        shape: of one action; its size is the number of counts.

    Raises:
        UsageError: if these disagree.

    >>> MultiCategorical(jnp.array([0.0, 1.0, 0.0, 2.0, 1.0]), (2, 3), (2,)).mode().tolist()
    [1, 1]
    """

    logits: Array
    counts: tuple[int, ...] = eqx.field(static=True)
    shape: tuple[int, ...] = eqx.field(static=True)

    def __check_init__(self) -> None:
        if math.prod(self.shape) != len(self.counts) or self.logits.shape[-1:] != (sum(self.counts),):
            raise UsageError(
                f"MultiCategorical: got logits {self.logits.shape} for counts {self.counts} and shape {self.shape};"
                " pass one count an element and one logit a choice, [..., Σ counts]"
            )

    @property
    def mask_size(self) -> int:
        """Σ n_i."""
        return sum(self.counts)

    def masked(self, mask: Array) -> MultiCategorical:
        """The softmaxes over the possible choices. An element without any makes log π, entropy and KL NaN.

        Args:
            mask: [..., Σ n_i], laid out as the logits; bool or 0 and 1.

        Raises:
            UsageError: for another shape (when traced).
        """
        return eqx.tree_at(lambda d: d.logits, self, jnp.where(allowed(mask, self.logits.shape), self.logits, -jnp.inf))

    def probabilities(self) -> list[Array]:
        """π(a_i = b) of every choice b of each element in C order, [..., n_i]."""
        return [Categorical(logits).probabilities() for logits in self._split()]

    def sample(self, key: Key) -> Array:
        """One action, int32, [..., *shape]."""
        return self.at(self.noise(key))

    def noise(self, key: Key) -> Array:
        """u, uniform in [0, 1), [..., *shape]."""
        return jax.random.uniform(key, (*self.logits.shape[:-1], *self.shape), self.logits.dtype)

    def at(self, noise: Array) -> Array:
        """Inverts each element's cumulative distribution, as `Categorical.at`: int32, [..., *shape].

        Args:
            noise: u in [0, 1), [..., *shape].
        """
        return self._action([block.at(u) for block, u in zip(self._blocks(), self._parts(noise), strict=True)])

    def log_prob(self, action: Array) -> Array:
        """log π(a) = Σ_i log π_i(a_i), [...]. An element outside 0 … n_i − 1 gives NaN.

        Args:
            action: integers, [..., *shape].
        """
        return _total([block.log_prob(a) for block, a in zip(self._blocks(), self._parts(jnp.asarray(action)), strict=True)])

    def entropy(self) -> Array:
        """H = Σ_i H_i in nats, in [0, Σ log n_i], [...]."""
        return _total([block.entropy() for block in self._blocks()])

    def kl(self, other: MultiCategorical) -> Array:
        """KL(self ‖ other) = Σ_i KL_i in nats, [...]; +∞ where other forbids what self does."""
        return _total([here.kl(there) for here, there in zip(self._blocks(), other._blocks(), strict=True)])

    def mode(self) -> Array:
        """argmax_b π_i(b) of each element, the first of equals, int32, [..., *shape]."""
        return self._action([block.mode() for block in self._blocks()])

    def _groups(self) -> list[tuple[int, ...]]:
        """Elements that have the same count, by their place in C order."""
        return [tuple(i for i, n in enumerate(self.counts) if n == count) for count in dict.fromkeys(self.counts)]

    def _blocks(self) -> list[Categorical]:
        """The elements of each group together, [..., r, n]; with equal counts these are the logits as they lie.

        Nothing is padded, so that elements of 2 and of 200 choices cost what they have.
        """
        if len(set(self.counts)) == 1:
            return [Categorical(self.logits.reshape(*self.logits.shape[:-1], len(self.counts), self.counts[0]))]
        pieces = self._split()
        return [Categorical(jnp.stack([pieces[i] for i in group], axis=-2)) for group in self._groups()]

    def _split(self) -> list[Array]:
        """The logits of each element. Unlike that of a gather, the gradient is no scatter, but their concatenation."""
        return jnp.split(self.logits, list(itertools.accumulate(self.counts))[:-1], axis=-1)

    def _parts(self, x: Array) -> list[Array]:
        """[..., *shape] -> [..., r] of each group."""
        flat = x.reshape(*x.shape[: x.ndim - len(self.shape)], len(self.counts))
        return [_take(flat, group) for group in self._groups()]

    def _action(self, parts: list[Array]) -> Array:
        """Undoes `_parts`."""
        order = np.argsort([i for group in self._groups() for i in group])
        flat = _take(jnp.concatenate(parts, axis=-1), tuple(map(int, order)))
        return flat.reshape(*flat.shape[:-1], *self.shape)


def _total(terms: list[Array]) -> Array:
    """Σ over the elements of all groups."""
    return functools.reduce(jnp.add, [jnp.sum(term, axis=-1) for term in terms])


def _take(x: Array, elements: tuple[int, ...]) -> Array:
    """Elements of the last axis, of integers and noise, which nothing differentiates."""
    return x if elements == tuple(range(x.shape[-1])) else x[..., np.array(elements)]


class Bernoulli(eqx.Module):
    """Independent switches, one per element of the event.

        π(a_i = 1) = σ(h_i) = 1 / (1 + e^{−h_i})

    Exact for logits of any size: log π is taken as −softplus(∓h), so that neither probability is 1 minus the other. A logit of −∞
    or +∞ forbids 1 or 0, and counts as 0 · log 0 = 0.

    Args:
        logits: h = log π(1) − log π(0), [..., *event].
        event_ndim: how many trailing axes are the event, ≥ 0; log_prob, entropy and kl sum over them.

    >>> [f"{p:.2f}" for p in Bernoulli(jnp.array([0.0, -1.0]), 1).probabilities()]
    ['0.50', '0.27']
    """

    logits: Array
    event_ndim: int = eqx.field(static=True)

    @property
    def mask_size(self) -> int:
        """2 for each element."""
        return 2 * math.prod(self._event)

    def masked(self, mask: Array) -> Bernoulli:
        """The switches that can still be set: h_i = ∓∞ where only 0 or only 1 is possible.

        No gradient reaches the logit of such an element. One without a possible value makes log π, entropy and
        KL NaN.

        Args:
            mask: [..., 2 · elements], bool or 0 and 1: for each element in C order whether 0 is possible, then whether 1 is. That
                is `MultiCategorical`'s layout with counts of 2.

        Raises:
            UsageError: for another shape (when traced).
        """
        batch = self.logits.shape[: self.logits.ndim - self.event_ndim]
        possible = allowed(mask, (*batch, self.mask_size)).reshape(*self.logits.shape, 2)
        off, on = possible[..., 0], possible[..., 1]
        only = jnp.where(on, jnp.inf, jnp.where(off, -jnp.inf, jnp.nan)).astype(self.logits.dtype)
        return Bernoulli(jnp.where(off & on, self.logits, only), self.event_ndim)

    def probabilities(self) -> Array:
        """π(a_i = 1), [..., *event]."""
        return jax.nn.sigmoid(self.logits)

    def sample(self, key: Key) -> Array:
        """One action, int8, 0 or 1, [..., *event]."""
        return self.at(self.noise(key))

    def noise(self, key: Key) -> Array:
        """u, uniform in [0, 1), [..., *event]."""
        return jax.random.uniform(key, self.logits.shape, self.logits.dtype)

    def at(self, noise: Array) -> Array:
        """1 where u < π(1), int8, [..., *event].

        Args:
            noise: u in [0, 1), [..., *event].
        """
        return (noise < self.probabilities()).astype(jnp.int8)

    def log_prob(self, action: Array) -> Array:
        """log π(a) = −Σ_i softplus(h_i − 2 a_i h_i), [...]. An element that is neither 0 nor 1 gives NaN.

        Args:
            action: 0 and 1 of any dtype, [..., *event].
        """
        action = jnp.asarray(action)
        logs = -jax.nn.softplus(jnp.where(action == 1, -self.logits, self.logits))
        return sum_event(jnp.where((action == 0) | (action == 1), logs, jnp.nan), self.event_ndim)

    def entropy(self) -> Array:
        """H = −Σ_i [σ(h_i) log σ(h_i) + σ(−h_i) log σ(−h_i)] in nats, in [0, elements · log 2], [...]."""
        return -sum_event(sum(p * log for p, log in self._finite_logs()), self.event_ndim)

    def kl(self, other: Bernoulli) -> Array:
        """KL(self ‖ other) = Σ_i Σ_b π_i(b) (log π_i(b) − log other_i(b)) in nats, b = 0 and 1, [...].

        +∞ where other forbids what self does.
        """
        others = (-jax.nn.softplus(-other.logits), -jax.nn.softplus(other.logits))
        terms = [p * (log - jnp.where(p > 0, there, 0)) for (p, log), there in zip(self._finite_logs(), others, strict=True)]
        return sum_event(sum(terms), self.event_ndim)

    def mode(self) -> Array:
        """1 where π(1) > ½, else 0, int8, [..., *event]."""
        return (self.logits > 0).astype(jnp.int8)

    @property
    def _event(self) -> tuple[int, ...]:
        return self.logits.shape[self.logits.ndim - self.event_ndim :]

    def _finite_logs(self) -> list[tuple[Array, Array]]:
        """π and log π of 1 and of 0, with 0 for log 0, as in `Categorical`."""
        each = [(jax.nn.sigmoid(h), -jax.nn.softplus(-h)) for h in (self.logits, -self.logits)]
        return [(p, jnp.where(p > 0, log, 0)) for p, log in each]


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
