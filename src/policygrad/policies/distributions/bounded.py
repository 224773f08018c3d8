"""Continuous actions inside a box, in the environment's units.

Both distributions live on the open box. In floating point their samples are clipped to the floats next to a bound, inside, and so is an
action before its density is taken: on a bound, or beyond it, it counts as the nearest float inside. So densities stay finite for actions
that an environment rounded or clipped onto a bound, and for the zeros of rows that are no steps, at the price that what happens closer to
a bound than one float cannot be told. For bounds of ±1 in float32 that is |u| > 8.7 before tanh.

An element is handled by its place in the box, x = (a − low)/(high − low), as log x and log(1 − x). Taken from the distances to the two
bounds they have full precision at both.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from policygrad.errors import UsageError
from policygrad.policies.distributions.base import sum_event, unmaskable
from policygrad.policies.distributions.continuous import FullGaussian, Gaussian
from policygrad.types import Array, Key


class Squashed(eqx.Module):
    """A normal distribution squashed into a box.

        a_i = low_i + (high_i − low_i) (tanh(u_i) + 1)/2        u ~ base
        log π(a) = log base(u) − Σ_i log da_i/du_i
        log da/du = log((high − low)/2) + 2 (log 2 − u − softplus(−2u))

    Args:
        base: the distribution of u, over the same event.
        low, high: finite bounds, low < high, in C order, or one for all elements.

    Raises:
        UsageError: for other bounds.

    Reference:
        Haarnoja et al. 2018, "Soft actor-critic", appendix C.

    >>> Squashed(Gaussian(jnp.zeros(2), jnp.zeros(2), 1), (-2.0, 0.0), (2.0, 1.0)).mode().tolist()
    [0.0, 0.5]
    """

    base: Gaussian | FullGaussian
    low: tuple[float, ...] = eqx.field(static=True)
    high: tuple[float, ...] = eqx.field(static=True)

    def __check_init__(self) -> None:
        _check_bounds(self.low, self.high, self.base.mean.shape[self.base.mean.ndim - self.base.event_ndim :])

    @property
    def mask_size(self) -> int:
        """0."""
        return 0

    def masked(self, mask: Array) -> Squashed:
        """Raises UsageError (when traced)."""
        raise unmaskable(self)

    def sample(self, key: Key) -> Array:
        """One action inside the box, [..., *event]."""
        return self.at(self.noise(key))

    def noise(self, key: Key) -> Array:
        """The base's: ε ~ N(0, 1), [..., *event]."""
        return self.base.noise(key)

    def at(self, noise: Array) -> Array:
        """The image of `base.at(noise)`, [..., *event].

        Args:
            noise: ε, [..., *event].
        """
        return self._box().clipped(self._box().image(2 * self.base.at(noise)))

    def log_prob(self, action: Array) -> Array:
        """log π(a), [...].

        With x the place in the box, u = ½ (log x − log(1 − x)) and da/du = 2 (high − low) x (1 − x), which is the log da/du above.

        Args:
            action: in the environment's units, [..., *event]; on or beyond a bound it counts as the nearest float inside.
        """
        box = self._box()
        below, above = box.log_places(action)
        return self.base.log_prob(0.5 * (below - above)) - self._sum(np.log(2 * box.width) + below + above)

    def entropy(self) -> Array:
        """H = H(base) + Σ_i E[log da_i/du_i] in nats, [...]; to 1e-8 for any μ and σ.

        The expectation is over each element's own normal distribution, as log da/du = log(2 (high − low)) − 2 log(2 cosh u); see
        `_expected_log_cosh`.
        """
        return self.base.entropy() + self._sum(np.log(2 * self._box().width) - 2 * _expected_log_cosh(self.base.mean, self.base.std()))

    def kl(self, other: Squashed) -> Array:
        """KL(self ‖ other) in nats, [...]: that of the bases, as both go through the same one-to-one map.

        Raises:
            UsageError: if the boxes differ (when traced).
        """
        if (self.low, self.high) != (other.low, other.high):
            raise UsageError(
                f"KL between squashed distributions: got boxes {self.low} to {self.high} and {other.low} to {other.high};"
                " both must have the same bounds"
            )
        there: Any = other.base
        return self.base.kl(there)

    def mode(self) -> Array:
        """The image of the base's mode, [..., *event]: the action of acting without chance.

        It is the median of each element, not where the density is largest: for σ above 0.7 that moves off to the bounds.
        """
        return self._box().clipped(self._box().image(2 * self.base.mode()))

    def _box(self) -> _Box:
        mean = self.base.mean
        return _box(self.low, self.high, mean.shape, self.base.event_ndim, mean.dtype)

    def _sum(self, terms: Array) -> Array:
        return sum_event(terms, self.base.event_ndim)


class Beta(eqx.Module):
    """Independent beta distributions on a box, one per element of the event.

        π(a) = Π_i x_i^{α_i − 1} (1 − x_i)^{β_i − 1} / [B(α_i, β_i) (high_i − low_i)]        x = (a − low)/(high − low)

    Unlike a normal distribution clipped into the box it puts no weight beyond the bounds. For α, β > 1 it has one peak, inside;
    at 1 it is uniform; below 1 the density grows without limit towards a bound.

    Args:
        alpha, beta: α, β > 0, [..., *event].
        low, high: finite bounds, low < high, in C order, or one for all elements.
        event_ndim: how many trailing axes are the event, ≥ 0; log_prob, entropy and kl sum over them.

    Raises:
        UsageError: for other bounds.

    Reference:
        Chou, Maturana and Scherer 2017, "Improving stochastic policy gradients in continuous control with deep reinforcement
        learning using the beta distribution".

    >>> Beta(jnp.array([2.0]), jnp.array([4.0]), (0.0,), (8.0,), 1).mode().tolist()
    [2.0]
    """

    alpha: Array
    beta: Array
    low: tuple[float, ...] = eqx.field(static=True)
    high: tuple[float, ...] = eqx.field(static=True)
    event_ndim: int = eqx.field(static=True)

    def __check_init__(self) -> None:
        _check_bounds(self.low, self.high, self.alpha.shape[self.alpha.ndim - self.event_ndim :])

    @property
    def mask_size(self) -> int:
        """0."""
        return 0

    def masked(self, mask: Array) -> Beta:
        """Raises UsageError (when traced)."""
        raise unmaskable(self)

    def sample(self, key: Key) -> Array:
        """One action inside the box, [..., *event]: x = X/(X + Y) with gamma variables X of shape α, Y of shape β.

        They are drawn by rejection, as many tries as it takes, so there is no `noise` of which shapes alone decide.
        """
        first, second = jax.random.split(key)
        shape, dtype = self.alpha.shape, self.alpha.dtype
        # Logarithms, so that shapes near 0 do not give 0/0.
        logit = jax.random.loggamma(first, self.alpha, shape, dtype) - jax.random.loggamma(second, self.beta, shape, dtype)
        return self._box().clipped(self._box().image(logit))

    def log_prob(self, action: Array) -> Array:
        """log π(a) = Σ_i [(α_i − 1) log x_i + (β_i − 1) log(1 − x_i) − log B(α_i, β_i) − log(high_i − low_i)], [...].

        Args:
            action: in the environment's units, [..., *event]; on or beyond a bound it counts as the nearest float inside.
        """
        box = self._box()
        below, above = box.log_places(action)
        return self._sum((self.alpha - 1) * below + (self.beta - 1) * above - _log_beta(self.alpha, self.beta) - np.log(box.width))

    def entropy(self) -> Array:
        """H = Σ_i [log B − (α − 1) ψ(α) − (β − 1) ψ(β) + (α + β − 2) ψ(α + β) + log(high − low)]_i in nats, [...]."""
        log_x, log_rest = self._expected_logs()
        terms = _log_beta(self.alpha, self.beta) - (self.alpha - 1) * log_x - (self.beta - 1) * log_rest
        return self._sum(terms + np.log(self._box().width))

    def kl(self, other: Beta) -> Array:
        """KL(self ‖ other) in nats, [...].

            Σ_i [ log B' − log B + (α − α')(ψ(α) − ψ(α + β)) + (β − β')(ψ(β) − ψ(α + β)) ]_i

        Raises:
            UsageError: if the boxes differ (when traced).
        """
        if (self.low, self.high) != (other.low, other.high):
            raise UsageError(
                f"KL between beta distributions: got boxes {self.low} to {self.high} and {other.low} to {other.high};"
                " both must have the same bounds"
            )
        log_x, log_rest = self._expected_logs()
        terms = _log_beta(other.alpha, other.beta) - _log_beta(self.alpha, self.beta)
        return self._sum(terms + (self.alpha - other.alpha) * log_x + (self.beta - other.beta) * log_rest)

    def mode(self) -> Array:
        """x = (α − 1)/(α + β − 2) where α, β > 1, [..., *event]; else the mean, α/(α + β): then there may be no single peak inside."""
        peaked = (self.alpha > 1) & (self.beta > 1)
        rise, fall = jnp.where(peaked, self.alpha - 1, self.alpha), jnp.where(peaked, self.beta - 1, self.beta)
        return self._box().clipped(self._box().image(jnp.log(rise) - jnp.log(fall)))

    def _expected_logs(self) -> tuple[Array, Array]:
        """E[log x] = ψ(α) − ψ(α + β) and E[log(1 − x)] = ψ(β) − ψ(α + β)."""
        total = jax.scipy.special.digamma(self.alpha + self.beta)
        return jax.scipy.special.digamma(self.alpha) - total, jax.scipy.special.digamma(self.beta) - total

    def _box(self) -> _Box:
        return _box(self.low, self.high, self.alpha.shape, self.event_ndim, self.alpha.dtype)

    def _sum(self, terms: Array) -> Array:
        return sum_event(terms, self.event_ndim)


# The box


class _Box(NamedTuple):
    """Bounds as constants that broadcast against actions [..., *event]."""

    low: np.ndarray
    high: np.ndarray
    width: np.ndarray
    first: np.ndarray  # the smallest float inside whose distance to `low` is a normal number: processors round smaller ones to 0
    last: np.ndarray

    def clipped(self, action: Array) -> Array:
        """The nearest float inside."""
        return jnp.clip(action, self.first, self.last)

    def image(self, logit: Array) -> Array:
        """low + (high − low) σ(logit), from the nearer bound."""
        up = logit > 0
        distance = self.width * jax.nn.sigmoid(jnp.where(up, -logit, logit))
        return jnp.where(up, self.high - distance, self.low + distance)

    def log_places(self, action: Array) -> tuple[Array, Array]:
        """log x and log(1 − x)."""
        action = self.clipped(jnp.asarray(action, self.low.dtype))
        log_width = np.log(self.width)
        return jnp.log(action - self.low) - log_width, jnp.log(self.high - action) - log_width


def _box(low: tuple[float, ...], high: tuple[float, ...], shape: tuple[int, ...], event_ndim: int, dtype: Any) -> _Box:
    """The box of actions of this shape."""
    event = (1,) * (len(shape) - event_ndim) + shape[len(shape) - event_ndim :]

    def constant(bound: tuple[float, ...]) -> np.ndarray:
        return np.asarray(bound, dtype).reshape(event if len(bound) > 1 else ())

    start, end = constant(low), constant(high)
    tiny = np.finfo(dtype).tiny
    first = np.maximum(np.nextafter(start, end), start + tiny)
    last = np.minimum(np.nextafter(end, start), end - tiny)
    return _Box(start, end, end - start, first, last)


def _check_bounds(low: tuple[float, ...], high: tuple[float, ...], event: tuple[int, ...]) -> None:
    elements = math.prod(event)
    fits = len(low) in (1, elements) and len(high) in (1, elements)
    if not fits or not all(math.isfinite(bound) for bound in (*low, *high)) or not np.all(np.less(low, high)):
        raise UsageError(
            f"bounds: got low {low} and high {high} for an action of shape {event};"
            " pass finite bounds, low < high, one for each element in C order or one for all"
        )


# Expectations


_NORMALS = (
    (0.005604055726, 0.3791356056),
    (0.074173289600, 0.4933229426),
    (0.236450485562, 0.6343484435),
    (0.325886806537, 0.8145731959),
    (0.242759961580, 1.0454286161),
    (0.097688962670, 1.3377575288),
    (0.016773276638, 1.7071946488),
    (0.000663161687, 2.1967805782),
)
"""(p_k, τ_k): see `_expected_log_cosh`."""


@jax.custom_jvp
def _expected_log_cosh(mean: Array, std: Array) -> Array:
    """E[log(2 cosh u)], u ~ N(μ, σ²), to 2e-9 for any μ and σ ≥ 0; its derivatives to 2e-8.

    log(2 cosh u) = E|u + y| with y logistic, P(y < v) = 1/(1 + e^{−2v}), since both have the derivative tanh(u) and tend to |u|. The
    logistic distribution is a mixture of normal ones of mean 0, and eight of them, of weights p_k and standard deviations τ_k, come
    within 2e-9 of it:

        log(2 cosh u) ≈ Σ_k p_k E|u + τ_k ε|        ε ~ N(0, 1)
        E[log(2 cosh u)] ≈ Σ_k p_k E|N(μ, s_k²)| = Σ_k p_k [ s_k √(2/π) e^{−z_k²/2} + μ erf(z_k/√2) ]        s_k² = σ² + τ_k², z_k = μ/s_k

    So this is a quadrature over τ rather than over u. An error that is bounded for every u is bounded by as much for every mean over
    u, whatever μ and σ. Nodes in u have no such bound: log cosh bends within |u| < 1 and is singular at ±iπ/2, so that the Gauss-Hermite
    rule would need hundreds of them for σ = 5. p and τ were fitted once, to make the largest error over all u smallest.

    Reference:
        Monahan and Stefanski 1992, "Normal scale mixture approximations to F*(z) and computation of the logistic-normal integral".
    """

    return _mixed(mean, std)[0]


@_expected_log_cosh.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    # By hand, as s, z and what they stand in cancel: the slopes are made of what the value is made of, at no further cost.
    value, by_mean, by_std = _mixed(*primals)
    return value, by_mean * tangents[0] + by_std * tangents[1]


def _mixed(mean: Array, std: Array) -> tuple[Array, Array, Array]:
    """`_expected_log_cosh`, Σ_k p_k erf(z_k/√2), and Σ_k p_k √(2/π) e^{−z_k²/2} σ/s_k."""

    def folded(weight: float, spread: float) -> tuple[Array, Array, Array]:
        s = jnp.sqrt(std * std + spread * spread)
        z = mean / s
        bell, side = weight * math.sqrt(2 / math.pi) * jnp.exp(-0.5 * z * z), weight * jax.lax.erf(z * math.sqrt(0.5))
        return s * bell + mean * side, side, bell * (std / s)

    values, sides, widths = zip(*(folded(*normal) for normal in _NORMALS), strict=True)
    return functools.reduce(jnp.add, values), functools.reduce(jnp.add, sides), functools.reduce(jnp.add, widths)


@jax.custom_jvp
def _log_beta(alpha: Array, beta: Array) -> Array:
    """log B(α, β) = log Γ(α) + log Γ(β) − log Γ(α + β)."""
    return jax.scipy.special.betaln(alpha, beta)


@_log_beta.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    # betaln orders its arguments by min and max, whose second derivatives are wrong where they are equal: where many policies start,
    # and where the curvature of the KL is wanted.
    (alpha, beta), (along_alpha, along_beta) = primals, tangents
    total = jax.scipy.special.digamma(alpha + beta)
    slopes = jax.scipy.special.digamma(alpha) - total, jax.scipy.special.digamma(beta) - total
    return _log_beta(alpha, beta), slopes[0] * along_alpha + slopes[1] * along_beta
