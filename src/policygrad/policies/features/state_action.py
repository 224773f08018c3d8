"""φ(s, a): features of states and actions together, for linear preferences. `A` is the number of actions."""

from __future__ import annotations

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from policygrad.policies.features.basic import floats, integers, leading, monomials, num_monomials
from policygrad.types import Array


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
        lead = leading(obs, self.shape)
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
        x = floats(obs, self.shape)
        u = _action_scale(self.num_actions, x.dtype)
        lead = x.shape[:-1]
        x = jnp.broadcast_to(x[..., None, :], (*lead, self.num_actions, x.shape[-1]))
        u = jnp.broadcast_to(u[:, None], (*lead, self.num_actions, 1))
        return monomials(jnp.concatenate([x, u], axis=-1), self.degree)


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
        state = jax.nn.one_hot(integers(obs), self.n, dtype=jnp.result_type(float))
        powers = monomials(_action_scale(self.num_actions, state.dtype)[:, None], self.degree)
        x = jnp.einsum("...s,ap->...asp", state, powers)
        return x.reshape(*state.shape[:-1], self.num_actions, self.num_features)
