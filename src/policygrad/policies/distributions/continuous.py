"""Unbounded continuous actions: normal distributions.

An environment gets the sample clipped into its box; `log_prob` is of the sample as drawn.
"""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp

from policygrad.errors import UsageError
from policygrad.policies.distributions.base import sum_event, unmaskable
from policygrad.types import Array, Key


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

    @property
    def mask_size(self) -> int:
        """0."""
        return 0

    def masked(self, mask: Array) -> Gaussian:
        """Raises UsageError (when traced)."""
        raise unmaskable(self)

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

    def std(self) -> Array:
        """σ of each element, [..., *event]."""
        return jnp.exp(self.log_std)

    def _sum(self, terms: Array) -> Array:
        return sum_event(terms, self.event_ndim)


class FullGaussian(eqx.Module):
    """A normal distribution whose elements are correlated.

        π(a) = N(a; μ, Σ)        Σ = L Lᵀ

    The event's d elements stand in C order in Σ. Unbounded, as `Gaussian`.

    Args:
        mean: μ, [..., *event].
        cholesky: L, lower triangular with a positive diagonal, [..., d, d]. What stands above the diagonal is not looked at.
        event_ndim: how many trailing axes of the mean are the event, ≥ 0.

    Raises:
        UsageError: if the shapes disagree.

    >>> FullGaussian(jnp.zeros((3, 2)), jnp.broadcast_to(jnp.eye(2), (3, 2, 2)), 1).entropy().shape
    (3,)
    """

    mean: Array
    cholesky: Array
    event_ndim: int = eqx.field(static=True)

    def __check_init__(self) -> None:
        cut = self.mean.ndim - self.event_ndim
        elements = math.prod(self.mean.shape[cut:])
        if cut < 0 or self.cholesky.shape != (*self.mean.shape[:cut], elements, elements):
            raise UsageError(
                f"FullGaussian: got mean {self.mean.shape} and cholesky {self.cholesky.shape} with event_ndim {self.event_ndim};"
                " they must be [..., *event] and [..., d, d], d the elements of the event"
            )

    @property
    def mask_size(self) -> int:
        """0."""
        return 0

    def masked(self, mask: Array) -> FullGaussian:
        """Raises UsageError (when traced)."""
        raise unmaskable(self)

    def sample(self, key: Key) -> Array:
        """μ + L ε with ε ~ N(0, 1), [..., *event]."""
        return self.at(self.noise(key))

    def noise(self, key: Key) -> Array:
        """ε ~ N(0, 1), [..., *event]."""
        return jax.random.normal(key, self.mean.shape, self.mean.dtype)

    def at(self, noise: Array) -> Array:
        """μ + L ε, [..., *event].

        Args:
            noise: ε, [..., *event].
        """
        # A sum of products rather than a matrix product, which a GPU would round to fewer digits.
        return self.mean + jnp.sum(jnp.tril(self.cholesky) * self._flat(noise)[..., None, :], axis=-1).reshape(self.mean.shape)

    def log_prob(self, action: Array) -> Array:
        """log π(a) = −½ [‖L⁻¹(a − μ)‖² + d log 2π] − Σ_i log L_ii, [...].

        Args:
            action: [..., *event].
        """
        z = _solve(self.cholesky, self._flat(action - self.mean)[..., None])[..., 0]
        return -jnp.sum(0.5 * (z * z + math.log(2 * math.pi)) + self._log_diagonal(), axis=-1)

    def entropy(self) -> Array:
        """H = Σ_i log L_ii + ½ d (1 + log 2π) in nats, [...]; negative for small Σ."""
        return jnp.sum(self._log_diagonal() + 0.5 * (1 + math.log(2 * math.pi)), axis=-1)

    def kl(self, other: FullGaussian) -> Array:
        """KL(self ‖ other) in nats, [...].

            ½ Σ_i [ e^{2d_i} − 1 − 2d_i + z_i² ] + ½ Σ_{j<i} M_ij²
            d_i = log L_ii − log L'_ii        M = L'⁻¹ L        z = L'⁻¹(μ − μ')

        That is ½ [tr(Σ'⁻¹Σ) + ‖z‖² − d + log det Σ' − log det Σ] with the diagonal of M, which is e^{d_i}, taken out: so each term is
        ≥ 0, also for distributions that nearly agree.
        """
        columns = jnp.concatenate([jnp.tril(self.cholesky), self._flat(self.mean - other.mean)[..., None]], axis=-1)
        solved = _solve(other.cholesky, columns)
        below, z = jnp.tril(solved[..., :-1], -1), solved[..., -1]
        twice = 2 * (self._log_diagonal() - other._log_diagonal())
        return 0.5 * jnp.sum(jnp.expm1(twice) - twice + z * z + jnp.sum(below * below, axis=-1), axis=-1)

    def mode(self) -> Array:
        """μ, [..., *event]."""
        return self.mean

    def std(self) -> Array:
        """σ of each element by itself, √Σ_ii = √(Σ_j L_ij²), [..., *event]."""
        lower = jnp.tril(self.cholesky)
        return jnp.sqrt(jnp.sum(lower * lower, axis=-1)).reshape(self.mean.shape)

    def _flat(self, x: Array) -> Array:
        """[..., *event] -> [..., d]."""
        return x.reshape(*x.shape[: x.ndim - self.event_ndim], self.cholesky.shape[-1])

    def _log_diagonal(self) -> Array:
        """log L_ii, [..., d]."""
        shape = self.cholesky.shape
        row, column = (jax.lax.broadcasted_iota(jnp.int32, shape, len(shape) + axis) for axis in (-2, -1))
        return jnp.log(jnp.sum(jnp.where(row == column, self.cholesky, 0), axis=-1))


def _solve(lower: Array, columns: Array) -> Array:
    """L⁻¹ x for each column x, by forward substitution."""
    return jax.lax.linalg.triangular_solve(lower, columns, left_side=True, lower=True)
