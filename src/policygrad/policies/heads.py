"""x ↦ π(·): what the last features of a policy become.

A head is an affine layer and a readout of its outputs:

    Output(layer, readout)       y = W x + b,   π = readout(y)

    readout              actions                    outputs
    MultiCategoricalOf   MultiDiscrete              logits of every element
    BernoulliOf          MultiBinary                a logit for every element
    CategoricalOf        Discrete                   logits
    GaussianOf           Box                        μ; log σ is a parameter of its own
    FixedGaussianOf      Box                        μ; Σ is given, diagonal or full
    StateGaussianOf      Box                        μ and log σ
    FullGaussianOf       Box                        μ and the Cholesky factor of Σ
    SquashedOf           bounded Box                those of a Gaussian before the tanh
    BetaOf               bounded Box                α and β
    JointOf              Dict, Tuple                those of all parts

The commonest have classes of their own: LinearCategorical, LinearGaussian, FixedGaussian; TableHead and Preferences read something else
than an affine layer.
"""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from policygrad.policies.distributions import Bernoulli, Beta, Categorical, FullGaussian, Gaussian, Joint, MultiCategorical, Squashed
from policygrad.policies.networks import affine
from policygrad.spaces import Space, leaves, mapped
from policygrad.types import Array

LOG_STD = -10.0, 5.0
"""Where a log σ that depends on the state is held: e^{2·5} is no overflow, e^{−2·10} no division by 0."""


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
        return _gaussian(affine(self.layer, x), self.log_std)


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
        return _fixed(affine(self.layer, x), self.shape, self.sigma)


class Output(eqx.Module):
    """An affine layer and a readout: [..., F] -> Distribution over [...].

    Args:
        layer: with `readout.num_outputs` outputs.
        readout: a Module of those below.
    """

    layer: eqx.nn.Linear
    readout: Any

    def __call__(self, x: Array) -> Any:
        return self.readout(affine(self.layer, x))


class CategoricalOf(eqx.Module):
    """π(a) = softmax(y)_a."""

    n: int = eqx.field(static=True)

    @property
    def num_outputs(self) -> int:
        return self.n

    def __call__(self, y: Array) -> Categorical:
        return Categorical(y)


class MultiCategoricalOf(eqx.Module):
    """π(a) = Π_i softmax(y_i)_{a_i}, y_i the n_i outputs of element i.

    Args:
        counts: n_i. shape: of one action.
    """

    counts: tuple[int, ...] = eqx.field(static=True)
    shape: tuple[int, ...] = eqx.field(static=True)

    @property
    def num_outputs(self) -> int:
        return sum(self.counts)

    def __call__(self, y: Array) -> MultiCategorical:
        return MultiCategorical(y, self.counts, self.shape)


class BernoulliOf(eqx.Module):
    """π(a_i = 1) = 1 / (1 + exp(−y_i)).

    Args:
        shape: of one action.
    """

    shape: tuple[int, ...] = eqx.field(static=True)

    @property
    def num_outputs(self) -> int:
        return math.prod(self.shape)

    def __call__(self, y: Array) -> Bernoulli:
        return Bernoulli(_shaped(y, self.shape), len(self.shape))


class GaussianOf(eqx.Module):
    """N(y, diag σ²), log σ [*event] a parameter."""

    log_std: Array

    @property
    def num_outputs(self) -> int:
        return self.log_std.size

    def __call__(self, y: Array) -> Gaussian:
        return _gaussian(y, self.log_std)


class FixedGaussianOf(eqx.Module):
    """N(y, Σ), Σ fixed.

    Args:
        shape: of one action, of d elements.
        sigma: σ > 0, one for all elements or one for each in C order; or the d (d + 1)/2 elements of Σ's lower Cholesky factor, row by row.
        full: which of the two it is.
    """

    shape: tuple[int, ...] = eqx.field(static=True)
    sigma: tuple[float, ...] = eqx.field(static=True)
    full: bool = eqx.field(static=True, default=False)

    @property
    def num_outputs(self) -> int:
        return math.prod(self.shape)

    def __call__(self, y: Array) -> Gaussian | FullGaussian:
        if not self.full:
            return _fixed(y, self.shape, self.sigma)
        factor = _triangle(jnp.asarray(self.sigma, y.dtype), self.num_outputs)
        return FullGaussian(_shaped(y, self.shape), jnp.broadcast_to(factor, (*y.shape[:-1], *factor.shape)), len(self.shape))


class StateGaussianOf(eqx.Module):
    """N(y_1, diag σ²), log σ = log σ_0 + y_2, held in [−10, 5].

    Args:
        shape: of one action. initial: σ_0 > 0.
    """

    shape: tuple[int, ...] = eqx.field(static=True)
    initial: float = eqx.field(static=True, default=1.0)

    @property
    def num_outputs(self) -> int:
        return 2 * math.prod(self.shape)

    def __call__(self, y: Array) -> Gaussian:
        mean, log_std = jnp.split(y, 2, axis=-1)
        log_std = jnp.clip(log_std + math.log(self.initial), *LOG_STD)
        return Gaussian(_shaped(mean, self.shape), _shaped(log_std, self.shape), len(self.shape))


class FullGaussianOf(eqx.Module):
    """N(y_1, L Lᵀ): the logarithms of L's diagonal and the elements below it are outputs, so that Σ depends on the state.

        L_ii = σ_0 exp(y), its logarithm held in [−10, 5]        L_ij = σ_0 y,  i > j

    Args:
        shape: of one action, of d elements. initial: σ_0 > 0.
    """

    shape: tuple[int, ...] = eqx.field(static=True)
    initial: float = eqx.field(static=True, default=1.0)

    @property
    def num_outputs(self) -> int:
        d = math.prod(self.shape)
        return d + d * (d + 1) // 2

    def __call__(self, y: Array) -> FullGaussian:
        d = math.prod(self.shape)
        raw = _triangle(y[..., d:], d)
        diagonal = jnp.triu(jnp.tril(jnp.exp(jnp.clip(raw + math.log(self.initial), *LOG_STD))))
        return FullGaussian(_shaped(y[..., :d], self.shape), jnp.tril(raw, -1) * self.initial + diagonal, len(self.shape))


class SquashedOf(eqx.Module):
    """A Gaussian's readout, its samples squashed into the box by tanh.

    Args:
        base: a readout of a Gaussian. low, high: of the box, one or one for each element.
    """

    base: Any
    low: tuple[float, ...] = eqx.field(static=True)
    high: tuple[float, ...] = eqx.field(static=True)

    @property
    def num_outputs(self) -> int:
        return self.base.num_outputs

    def __call__(self, y: Array) -> Squashed:
        return Squashed(self.base(y), self.low, self.high)


class BetaOf(eqx.Module):
    """Beta distributions over the box, α = 1 + softplus(y_1), β = 1 + softplus(y_2): above 1, so each has a single peak inside.

    Args:
        shape: of one action. low, high: of the box, one or one for each element.

    Reference:
        Chou, Maturana and Scherer 2017, "Improving stochastic policy gradients in continuous control with deep reinforcement learning
        using the beta distribution".
    """

    shape: tuple[int, ...] = eqx.field(static=True)
    low: tuple[float, ...] = eqx.field(static=True)
    high: tuple[float, ...] = eqx.field(static=True)

    @property
    def num_outputs(self) -> int:
        return 2 * math.prod(self.shape)

    def __call__(self, y: Array) -> Beta:
        alpha, beta = (_shaped(1 + jax.nn.softplus(part), self.shape) for part in jnp.split(y, 2, axis=-1))
        return Beta(alpha, beta, self.low, self.high, len(self.shape))


class JointOf(eqx.Module):
    """Independent parts, each with outputs of its own.

    Args:
        parts: a readout for each leaf of the space, in the order of `spaces.leaves`.
        space: a Dict or Tuple.
    """

    parts: tuple[Any, ...]
    space: Space = eqx.field(static=True)

    @property
    def num_outputs(self) -> int:
        return sum(part.num_outputs for part in self.parts)

    def __call__(self, y: Array) -> Joint:
        ends = np.cumsum([part.num_outputs for part in self.parts])[:-1]
        made = iter([part(piece) for part, piece in zip(self.parts, jnp.split(y, ends, axis=-1), strict=True)])
        assert len(self.parts) == len(leaves(self.space))
        return Joint(mapped(lambda _: next(made), self.space))


def _shaped(y: Array, shape: tuple[int, ...]) -> Array:
    return y.reshape(*y.shape[:-1], *shape)


def _gaussian(mean: Array, log_std: Array) -> Gaussian:
    mean = _shaped(mean, log_std.shape)
    return Gaussian(mean, jnp.broadcast_to(log_std, mean.shape), log_std.ndim)


def _fixed(mean: Array, shape: tuple[int, ...], sigma: tuple[float, ...]) -> Gaussian:
    given = jnp.asarray(sigma, mean.dtype)
    return _gaussian(mean, jnp.log(given.reshape(shape) if len(sigma) > 1 else jnp.broadcast_to(given[0], shape)))


def _triangle(elements: Array, d: int) -> Array:
    """[..., d (d + 1)/2], row by row, as lower triangular matrices [..., d, d]."""
    at = np.zeros((d, d), np.int32)
    at[np.tril_indices(d)] = np.arange(d * (d + 1) // 2)
    return jnp.tril(elements[..., at])
