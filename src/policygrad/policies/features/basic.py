"""Features that lose nothing and train nothing: elements, unit vectors, numbers for tables; and monomials."""

from __future__ import annotations

import functools
import itertools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from policygrad.errors import SpaceError, UsageError
from policygrad.spaces import Discrete, MultiBinary, MultiDiscrete, Space
from policygrad.types import Array

MAX_MONOMIALS = 100_000
MAX_DEGREE = 50
MAX_STATES = 1_000_000
"""Rows of a table, and unit vectors side by side."""


def leading(obs: Array, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The batch axes of observations whose own shape is `shape`."""
    cut = obs.ndim - len(shape)
    if cut < 0 or obs.shape[cut:] != shape:
        raise SpaceError(f"observation shape: got {obs.shape}; the policy takes [..., {', '.join(map(str, shape))}], batch axes first")
    return obs.shape[:cut]


def floats(obs: Array, shape: tuple[int, ...]) -> Array:
    """Observations [..., *shape] as floats [..., prod(shape)]; integers, booleans and images are cast, not scaled."""
    obs = jnp.asarray(obs)
    lead = leading(obs, shape)
    if not jnp.issubdtype(obs.dtype, jnp.floating):
        obs = obs.astype(jnp.result_type(float))
    return obs.reshape(*lead, math.prod(shape))


def integers(obs: Array) -> Array:
    """Observations of a Discrete space."""
    obs = jnp.asarray(obs)
    if not jnp.issubdtype(obs.dtype, jnp.integer):
        raise SpaceError(f"a Discrete observation must be an integer: got dtype {obs.dtype}; pass the state's index, e.g. int32")
    return obs


def _vectors(obs: Array, shape: tuple[int, ...]) -> Array:
    """Observations of a MultiDiscrete or MultiBinary space as int32: [..., *shape] -> [..., prod(shape)]."""
    obs = jnp.asarray(obs)
    if not jnp.issubdtype(obs.dtype, jnp.integer):
        raise SpaceError(f"a MultiDiscrete observation must be of integers: got dtype {obs.dtype}; pass indices, e.g. int32")
    return obs.reshape(*leading(obs, shape), math.prod(shape)).astype(jnp.int32)


class Raw(eqx.Module):
    """The elements of a Box or MultiBinary observation, flattened in C order: [..., *shape] -> [..., F]."""

    shape: tuple[int, ...] = eqx.field(static=True)

    @property
    def num_features(self) -> int:
        return math.prod(self.shape)

    def __call__(self, obs: Array) -> Array:
        return floats(obs, self.shape)


class Index(eqx.Module):
    """A Discrete observation as it is, for a table to look up: integers [...] -> [...]."""

    n: int = eqx.field(static=True)

    def __call__(self, obs: Array) -> Array:
        return integers(obs)


class JointIndex(eqx.Module):
    """A MultiDiscrete or MultiBinary observation as one number, for a table to look up: integers [..., *shape] -> [...].

        i = Σ_k o_k Π_{l > k} n_l        in 0 … Π n_k − 1; the last element in C order counts fastest

    Args:
        counts: n_k of every element, in C order.
        shape: of the observation. Its elements are not checked: one out of range is another state's number.

    >>> JointIndex((2, 3), (2,))(jnp.array([[0, 0], [0, 2], [1, 0]])).tolist()
    [0, 2, 3]
    """

    counts: tuple[int, ...] = eqx.field(static=True)
    shape: tuple[int, ...] = eqx.field(static=True)

    @property
    def n(self) -> int:
        """The number of states, Π n_k."""
        return math.prod(self.counts)

    def __call__(self, obs: Array) -> Array:
        place = np.append(np.cumprod(np.array(self.counts[:0:-1], np.int64))[::-1], 1).astype(np.int32)
        return _vectors(obs, self.shape) @ place


def index(space: Space) -> Index | JointIndex:
    """The number of the state, for a table of `n` rows.

    Raises:
        SpaceError: for a space without numbers, or with more than `MAX_STATES`.
    """
    match space:
        case Discrete():
            return Index(space.n)
        case MultiDiscrete() | MultiBinary():
            counts = space.counts if isinstance(space, MultiDiscrete) else (2,) * space.size
            if math.prod(counts) > MAX_STATES:
                raise SpaceError(f"a table for {space}: got more than {MAX_STATES:,} states; use a network, or features of each element")
            return JointIndex(counts, space.shape)
    raise SpaceError(f"a table needs Discrete, MultiDiscrete or MultiBinary observations: got {space}; use a network or linear features")


class OneHot(eqx.Module):
    """A Discrete observation as a unit vector: integers [...] -> [..., n]; out of range gives zeros."""

    n: int = eqx.field(static=True)
    spans_constant = True

    @property
    def num_features(self) -> int:
        return self.n

    def __call__(self, obs: Array) -> Array:
        return jax.nn.one_hot(integers(obs), self.n, dtype=jnp.result_type(float))


class MultiOneHot(eqx.Module):
    """A MultiDiscrete observation as unit vectors side by side; an element out of range gives zeros in its place.

        [..., *shape] -> [..., Σ n_k]

    Args:
        counts: n_k of every element, in C order.
        shape: of the observation.

    >>> MultiOneHot((2, 3), (2,))(jnp.array([1, 0])).tolist()
    [0.0, 1.0, 1.0, 0.0, 0.0]
    """

    counts: tuple[int, ...] = eqx.field(static=True)
    shape: tuple[int, ...] = eqx.field(static=True)
    spans_constant = True

    @property
    def num_features(self) -> int:
        if sum(self.counts) > MAX_STATES:
            raise SpaceError(
                f"one-hot features: got {sum(self.counts):,} values in {len(self.counts)} elements, {MAX_STATES:,} are allowed; use 'raw'"
            )
        return sum(self.counts)

    def __call__(self, obs: Array) -> Array:
        obs = _vectors(obs, self.shape)
        shape = (*obs.shape[:-1], self.num_features)
        element = np.repeat(np.arange(len(self.counts)), self.counts)
        value = np.concatenate([np.arange(n, dtype=np.int32) for n in self.counts])
        return (obs[..., element] == jnp.broadcast_to(value, shape)).astype(jnp.result_type(float))


@functools.lru_cache(maxsize=64)
def _factors(num_variables: int, degree: int) -> np.ndarray:
    """Which of (1, x_1, …, x_D) each monomial multiplies: [F, degree], graded (1, x, y, x², xy, y², …)."""
    chosen = list(itertools.combinations_with_replacement(range(num_variables + 1), degree))
    return np.array(chosen, np.int32).reshape(len(chosen), degree)


def num_monomials(num_variables: int, degree: int) -> int:
    """How many monomials of D variables have a degree of at most d: C(D + d, d), the constant included.

    Raises:
        UsageError: if there are more than `MAX_MONOMIALS`, or the degree is above `MAX_DEGREE`.
    """
    count = math.comb(num_variables + degree, degree) if degree <= MAX_DEGREE else math.inf
    if count > MAX_MONOMIALS:
        raise UsageError(
            f"polynomial features: got {num_variables} variables to degree {degree}, too many monomials (allowed: {MAX_MONOMIALS:,},"
            f" degree {MAX_DEGREE}); lower the degree or use a network"
        )
    return int(count)


def monomials(x: Array, degree: int) -> Array:
    """All monomials up to a degree: [..., D] -> [..., C(D + degree, degree)]."""
    count = num_monomials(x.shape[-1], degree)
    one_and_x = jnp.concatenate([jnp.ones((*x.shape[:-1], 1), x.dtype), x], axis=-1)
    product = jnp.ones((*x.shape[:-1], count), x.dtype)
    for factor in _factors(x.shape[-1], degree).T:
        product = product * one_and_x[..., factor]
    return product


class Polynomial(eqx.Module):
    """All monomials of a Box observation's elements, the constant included.

        x ↦ Π_i x_i^{e_i}        Σ_i e_i ≤ degree        in the order 1, x, y, x², xy, y², …

    Args:
        shape: of the observation.
        degree: ≥ 0; [..., *shape] -> [..., C(D + degree, degree)] for D elements.

    >>> Polynomial((2,), 2)(jnp.array([2.0, 3.0])).tolist()
    [1.0, 2.0, 3.0, 4.0, 6.0, 9.0]
    """

    shape: tuple[int, ...] = eqx.field(static=True)
    degree: int = eqx.field(static=True)
    spans_constant = True

    @property
    def num_features(self) -> int:
        return num_monomials(math.prod(self.shape), self.degree)

    def __call__(self, obs: Array) -> Array:
        return monomials(floats(obs, self.shape), self.degree)
