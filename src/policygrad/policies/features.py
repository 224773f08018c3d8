"""o ↦ x: what the head of a policy or critic sees of an observation.

Each is a Module that takes observations over any leading axes `[...]`. None but `Network` has parameters; what the
others need to know (shapes, degrees) is static. `F` is the number of features, `A` the number of actions.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from policygrad.errors import SpaceError, UsageError
from policygrad.policies.networks import MLP, linear_layers
from policygrad.spaces import Discrete, Space
from policygrad.types import Array, Key

MAX_MONOMIALS = 100_000
MAX_DEGREE = 50


def _floats(obs: Array, shape: tuple[int, ...]) -> Array:
    """Observations [..., *shape] as floats [..., prod(shape)]; integers, booleans and images are cast, not scaled."""
    obs = jnp.asarray(obs)
    lead = _leading(obs, shape)
    if not jnp.issubdtype(obs.dtype, jnp.floating):
        obs = obs.astype(jnp.result_type(float))
    return obs.reshape(*lead, math.prod(shape))


def _integers(obs: Array) -> Array:
    obs = jnp.asarray(obs)
    if not jnp.issubdtype(obs.dtype, jnp.integer):
        raise SpaceError(f"a Discrete observation must be an integer: got dtype {obs.dtype}; pass the state's index, e.g. int32")
    return obs


def _leading(obs: Array, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The batch axes of observations whose own shape is `shape`."""
    cut = obs.ndim - len(shape)
    if cut < 0 or obs.shape[cut:] != shape:
        raise SpaceError(f"observation shape: got {obs.shape}; the policy takes [..., {', '.join(map(str, shape))}], batch axes first")
    return obs.shape[:cut]


class Raw(eqx.Module):
    """The elements of a Box observation, flattened in C order: [..., *shape] -> [..., F]."""

    shape: tuple[int, ...] = eqx.field(static=True)

    @property
    def num_features(self) -> int:
        return math.prod(self.shape)

    def __call__(self, obs: Array) -> Array:
        return _floats(obs, self.shape)


class Index(eqx.Module):
    """A Discrete observation as it is, for a table to look up: integers [...] -> [...]."""

    n: int = eqx.field(static=True)

    def __call__(self, obs: Array) -> Array:
        return _integers(obs)


class OneHot(eqx.Module):
    """A Discrete observation as a unit vector: integers [...] -> [..., n]; out of range gives zeros."""

    n: int = eqx.field(static=True)

    @property
    def num_features(self) -> int:
        return self.n

    def __call__(self, obs: Array) -> Array:
        return jax.nn.one_hot(_integers(obs), self.n, dtype=jnp.result_type(float))


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


def _monomials(x: Array, degree: int) -> Array:
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

    @property
    def num_features(self) -> int:
        return num_monomials(math.prod(self.shape), self.degree)

    def __call__(self, obs: Array) -> Array:
        return _monomials(_floats(obs, self.shape), self.degree)


def from_space(space: Space, role: str = "observation") -> Raw | OneHot:
    """The features that lose nothing: the elements of a Box, the unit vector of a Discrete.

    Raises:
        SpaceError: for a Box without elements.
    """
    if isinstance(space, Discrete):
        return OneHot(space.n)
    if space.size == 0:
        raise SpaceError(f"empty {role} space: got {space}; give it at least one element (a constant 0 will do)")
    return Raw(space.shape)


class Network(MLP):
    """Features that are learnt: an `MLP` over other features, [...] -> [..., F]."""

    inputs: Any = eqx.field(kw_only=True)

    def __call__(self, x: Array) -> Array:
        return super().__call__(self.inputs(x))


def learnt(
    key: Key, space: Space, hidden_sizes: tuple[int, ...], num_outputs: int, *, activation: str, initialisation: str, output_gain: float
) -> tuple[Raw | OneHot | Network, eqx.nn.Linear]:
    """Features of a space with `hidden_sizes` learnt layers over them, () for none, and the output layer for a head.

    Without hidden layers the unit vectors of a Discrete space get no bias: every state has a weight of its own already,
    and one parameter too many would make the Fisher matrix singular.

    Raises:
        SpaceError: for a Box without elements.
    """
    inputs = from_space(space)
    *hidden, output = linear_layers(
        key,
        (inputs.num_features, *hidden_sizes, num_outputs),
        initialisation,
        output_gain=output_gain,
        output_bias=bool(hidden_sizes) or not isinstance(inputs, OneHot),
    )
    return Network(tuple(hidden), activation, inputs=inputs) if hidden else inputs, output


class StateAction(eqx.Module):
    """φ(s, a) of every action, for linear preferences.

    Args:
        phi: (one observation, one action index) -> [F] floats, traceable by JAX. Static: a policy with another function is
            another policy, and compiles anew (so define it once, not in a loop).
        shape: of one observation, () for a Discrete one.
        num_actions: A; [..., *shape] -> [..., A, F].
    """

    phi: Callable[[Array, Array], Array] = eqx.field(static=True)
    shape: tuple[int, ...] = eqx.field(static=True)
    num_actions: int = eqx.field(static=True)

    def __call__(self, obs: Array) -> Array:
        obs = jnp.asarray(obs)
        lead = _leading(obs, self.shape)
        each_action = jax.vmap(lambda s, a: jnp.asarray(self.phi(s, a)), (None, 0))
        each_state = jax.vmap(lambda s: each_action(s, jnp.arange(self.num_actions)))
        x = each_state(obs.reshape(math.prod(lead), *self.shape))
        return x.reshape(*lead, *x.shape[1:])


def _action_scale(num_actions: int, dtype: np.dtype) -> Array:
    """Action indices mapped onto [−1, 1], [A]: powers of 0 … A − 1 themselves would differ by orders of magnitude."""
    return jnp.linspace(-1, 1, num_actions, dtype=dtype) if num_actions > 1 else jnp.zeros(1, dtype)


class StateActionPolynomial(eqx.Module):
    """All monomials of a Box observation's elements and the action together.

        φ(s, a) = ( Π_i s_i^{e_i} · u^k )        Σ_i e_i + k ≤ degree        u = 2a/(A − 1) − 1 in [−1, 1]

    The action index is rescaled, which changes the coefficients but not the family of functions. Monomials without u
    are the same for all actions and cancel in the softmax.

    Args:
        shape: of the observation; degree: ≥ 1; num_actions: A. [..., *shape] -> [..., A, F].
    """

    shape: tuple[int, ...] = eqx.field(static=True)
    degree: int = eqx.field(static=True)
    num_actions: int = eqx.field(static=True)

    @property
    def num_features(self) -> int:
        return num_monomials(math.prod(self.shape) + 1, self.degree)

    def __call__(self, obs: Array) -> Array:
        x = _floats(obs, self.shape)
        u = _action_scale(self.num_actions, x.dtype)
        lead = x.shape[:-1]
        x = jnp.broadcast_to(x[..., None, :], (*lead, self.num_actions, x.shape[-1]))
        u = jnp.broadcast_to(u[:, None], (*lead, self.num_actions, 1))
        return _monomials(jnp.concatenate([x, u], axis=-1), self.degree)


class PerStatePolynomial(eqx.Module):
    """The powers of the action, for each state of a Discrete observation apart.

        φ(s, a) = e_s ⊗ (1, u, …, u^degree)        u = 2a/(A − 1) − 1 in [−1, 1]

    Args:
        n: number of states; degree: ≥ 1; num_actions: A. Integers [...] -> [..., A, n · (degree + 1)].
    """

    n: int = eqx.field(static=True)
    degree: int = eqx.field(static=True)
    num_actions: int = eqx.field(static=True)

    @property
    def num_features(self) -> int:
        return self.n * (self.degree + 1)

    def __call__(self, obs: Array) -> Array:
        state = jax.nn.one_hot(_integers(obs), self.n, dtype=jnp.result_type(float))
        powers = _monomials(_action_scale(self.num_actions, state.dtype)[:, None], self.degree)
        x = jnp.einsum("...s,ap->...asp", state, powers)
        return x.reshape(*state.shape[:-1], self.num_actions, self.num_features)
