"""V(o): critics, and the makers of their builders.

    critic(policy, rollout, carry) -> (values, next_values), each [T, B]
    critic.value(obs)              -> [...]

`next_values` belong to the *true* next observations, before any reset, so that a truncated step bootstraps from where
it was cut and not from the start of the next episode. The policy is handed over for critics that share its features;
the ones here do not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp

from policygrad.errors import SpaceError, UsageError
from policygrad.policies.features import Index, Polynomial, learnt
from policygrad.policies.networks import affine, check_network
from policygrad.spaces import Box, Discrete
from policygrad.types import Array, Key, PyTree, Rollout, Spec


class Critic(eqx.Module):
    """A value function without memory.

        V(o) = head(features(o))

    Args:
        features: a Module, observations [..., *shape] -> x; see `policygrad.policies.features`.
        head: a Module, x -> [...].
    """

    features: Any
    head: Any

    def value(self, obs: Array) -> Array:
        """V(o) for observations over any leading axes, [...]."""
        return self.head(self.features(obs))

    def __call__(self, policy: Any, rollout: Rollout, carry: PyTree) -> tuple[Array, Array]:
        """(V(o_t), V(o_{t+1})), each [T, B]: one pass over both, because few large arrays beat many small ones."""
        both = self.value(jnp.concatenate([rollout.obs, rollout.next_obs]))
        return both[: len(rollout.obs)], both[len(rollout.obs) :]


CriticBuilder = Callable[[Key, Spec], Critic]


class TableValue(eqx.Module):
    """One value per state: integers [...] -> [...]."""

    values: Array

    def __call__(self, x: Array) -> Array:
        return self.values[x]


class WeightedValue(eqx.Module):
    """V = w·x: [..., F] -> [...]."""

    weights: Array

    def __call__(self, x: Array) -> Array:
        return x @ self.weights


class AffineValue(eqx.Module):
    """V = w·x + b: [..., F] -> [...]."""

    layer: eqx.nn.Linear

    def __call__(self, x: Array) -> Array:
        return affine(self.layer, x)[..., 0]


def default_critic(
    hidden_sizes: Sequence[int] | None = None, activation: str = "tanh", initialisation: str = "orthogonal"
) -> CriticBuilder:
    """The critic that the observation space suggests: Discrete, a table; Box, a network of (64, 64).

    Args:
        hidden_sizes: widths of a network's hidden layers, whatever the space; () is an affine function of the observation.
        activation, initialisation: names of `networks.ACTIVATIONS` and `networks.INITIALISATIONS`.

    Raises:
        UnknownNameError, UsageError: as `networks.check_network`.
    """
    if hidden_sizes is not None:
        return network_critic(hidden_sizes, activation, initialisation)
    network, lookup = network_critic((64, 64), activation, initialisation), table_critic()
    return lambda key, spec: (network if isinstance(spec.observation_space, Box) else lookup)(key, spec)


def network_critic(hidden_sizes: Sequence[int] = (64, 64), activation: str = "tanh", initialisation: str = "orthogonal") -> CriticBuilder:
    """A network with one output; under "orthogonal" the hidden layers take the gain √2, the output 1.

    Arguments and errors as `default_critic`.
    """
    hidden_sizes = check_network(hidden_sizes, activation, initialisation)

    def build(key: Key, spec: Spec) -> Critic:
        features, output = learnt(
            key, spec.observation_space, hidden_sizes, 1, activation=activation, initialisation=initialisation, output_gain=1.0
        )
        return Critic(features, AffineValue(output))

    return build


def table_critic() -> CriticBuilder:
    """One value per state, 0 at first. The builder raises SpaceError unless observations are Discrete."""

    def build(key: Key, spec: Spec) -> Critic:
        space = spec.observation_space
        if not isinstance(space, Discrete):
            raise SpaceError(f"a table of values needs Discrete observations: got {space}; use linear_critic() or network_critic()")
        return Critic(Index(space.n), TableValue(jnp.zeros(space.n)))

    return build


def linear_critic(degree: int = 1) -> CriticBuilder:
    """Linear in the monomials of the observation's elements, 0 at first; for a Discrete observation, a table.

        V(o) = Σ_e w_e Π_i o_i^{e_i}        Σ_i e_i ≤ degree

    Args:
        degree: ≥ 0; 0 is a constant, 1 is affine.
    """
    if isinstance(degree, bool) or not isinstance(degree, int) or degree < 0:
        raise UsageError(f"degree of the critic's features: got {degree}; it must be an integer of at least 0")

    def build(key: Key, spec: Spec) -> Critic:
        space = spec.observation_space
        if isinstance(space, Discrete):  # every monomial of a unit vector is one of its elements, or 0
            return table_critic()(key, spec)
        features = Polynomial(space.shape, degree)
        return Critic(features, WeightedValue(jnp.zeros(features.num_features)))

    return build
