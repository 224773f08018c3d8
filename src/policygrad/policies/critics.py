"""V(o): critics, and the makers of their builders.

    critic(policy, rollout, carry)         -> (values, next_values), each [T, B]
    critic.beside(policy, rollout, carry)  -> (π(·|o_t), values), what a loss reads of both, features that they share made once
    critic.value(obs)                      -> [...], but for a critic that shares the policy's features

`next_values` belong to the *true* next observations, before any reset, so that a truncated step bootstraps from where
it was cut and not from the start of the next episode. The policy is handed over for critics that share its features.

A builder is (key, spec, policy) -> critic; only `shared_critic` looks at the policy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from policygrad.errors import SpaceError, UsageError
from policygrad.policies.distributions import Distribution
from policygrad.policies.features import Index, Polynomial, learnt
from policygrad.policies.networks import affine, check_network, linear_layers
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
        """(V(o_t), V(o_{t+1})), each [T, B]; the second after a terminal step may be anything."""
        return _here_and_next(self.value, rollout, _size(self))

    def beside(self, policy: Any, rollout: Rollout, carry: PyTree) -> tuple[Distribution, Array]:
        """(π(·|o_t), V(o_t)), each over [T, B]."""
        distribution, _ = policy.unroll(carry, rollout.obs, rollout.time == 0)
        return distribution, self.value(rollout.obs)


class SharedCritic(eqx.Module):
    """A head over the policy's own features, for a critic that climbs with the policy.

        V(o) = head(policy.features(o))

    The value loss moves the features as well: they serve both.

    Args:
        head: a Module, x -> [...].
    """

    head: Any

    def __call__(self, policy: Any, rollout: Rollout, carry: PyTree) -> tuple[Array, Array]:
        """(V(o_t), V(o_{t+1})), each [T, B]; the second after a terminal step may be anything."""
        return _here_and_next(lambda obs: self.head(policy.features(obs)), rollout, _size((policy, self)))

    def beside(self, policy: Any, rollout: Rollout, carry: PyTree) -> tuple[Distribution, Array]:
        """(π(·|o_t), V(o_t)), each over [T, B]. Written with two forward passes, it would be differentiated twice as well."""
        x = policy.features(rollout.obs)
        return policy.head(x), self.head(x)


CriticBuilder = Callable[..., Critic | SharedCritic]


FEW_ENDS = 16
"""V of next observations is made for one step in so many by itself; where more of them differ from the row that follows, for all."""
LARGE = 2**12, 2**8
"""Steps of a rollout and parameters of a critic from which it pays to look which next observations were seen already."""


def _here_and_next(value: Callable[[Array], Array], rollout: Rollout, size: int) -> tuple[Array, Array]:
    """(V(o_t), V(o_{t+1})), each [T, B].

    The next observation of most steps is the next row's observation, whose value is known. It is made for the others alone: those of
    the last row, and of steps that were cut (what follows a terminal step is worth 0, whatever V says).

    Args:
        size: parameters of the critic.
    """
    obs, following, mask = rollout.obs, rollout.next_obs, rollout.mask
    rows, columns = mask.shape
    most = rows * columns // FEW_ENDS
    if rows * columns < LARGE[0] or size < LARGE[1] or most < columns:
        both = value(jnp.concatenate([obs, following]))
        return both[:rows], both[rows:]
    values = value(obs)
    same = jnp.all((following[:-1] == obs[1:]).reshape(rows - 1, columns, -1), axis=-1)
    unseen = jnp.concatenate([~same & ~rollout.terminated[:-1] & (mask[:-1] > 0), jnp.ones((1, columns), bool)]).ravel()
    flat = following.reshape(rows * columns, *following.shape[2:])

    def few() -> Array:
        at = jnp.nonzero(unseen, size=most, fill_value=rows * columns)[0]
        seen = jnp.concatenate([values[1:], values[-1:]]).ravel()
        return seen.at[at].set(value(flat.at[at].get(mode="clip")), mode="drop")

    return values, jax.lax.cond(jnp.sum(unseen) <= most, few, lambda: value(flat)).reshape(rows, columns)


def _size(tree: PyTree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


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
    return lambda key, spec, policy=None: (network if isinstance(spec.observation_space, Box) else lookup)(key, spec)


def network_critic(hidden_sizes: Sequence[int] = (64, 64), activation: str = "tanh", initialisation: str = "orthogonal") -> CriticBuilder:
    """A network with one output; under "orthogonal" the hidden layers take the gain √2, the output 1.

    Arguments and errors as `default_critic`.
    """
    hidden_sizes = check_network(hidden_sizes, activation, initialisation)

    def build(key: Key, spec: Spec, policy: Any = None) -> Critic:
        features, output = learnt(
            key, spec.observation_space, hidden_sizes, 1, activation=activation, initialisation=initialisation, output_gain=1.0
        )
        return Critic(features, AffineValue(output))

    return build


def table_critic() -> CriticBuilder:
    """One value per state, 0 at first. The builder raises SpaceError unless observations are Discrete."""

    def build(key: Key, spec: Spec, policy: Any = None) -> Critic:
        space = spec.observation_space
        if not isinstance(space, Discrete):
            raise SpaceError(f"a table of values needs Discrete observations: got {space}; use a linear one or a network")
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

    def build(key: Key, spec: Spec, policy: Any = None) -> Critic | SharedCritic:
        space = spec.observation_space
        if isinstance(space, Discrete):  # every monomial of a unit vector is one of its elements, or 0
            return table_critic()(key, spec)
        features = Polynomial(space.shape, degree)
        return Critic(features, WeightedValue(jnp.zeros(features.num_features)))

    return build


def shared_critic(initialisation: str = "orthogonal") -> CriticBuilder:
    """An affine head over the last hidden layer of the policy: `SharedCritic`. Under "orthogonal" its gain is 1.

    Args:
        initialisation: a name of `networks.INITIALISATIONS`.

    Returns:
        builder (key, spec, policy), which raises UsageError for a policy without learnt features, and where no policy is given,
        as for a critic that is fitted apart from it.
    """
    check_network((), "tanh", initialisation)

    def build(key: Key, spec: Spec, policy: Any = None) -> SharedCritic:
        if policy is None:
            raise UsageError(
                "critic: got shared_critic() for one that is fitted apart from the policy; it must climb with it: joint_value(…)"
            )
        if not jax.tree.leaves(policy.features):
            raise UsageError(
                "critic: got shared_critic() with a policy that has no hidden layer to share; give it hidden_sizes, or a critic of its own"
            )
        space = spec.observation_space
        obs = jax.ShapeDtypeStruct(space.shape, jax.dtypes.canonicalize_dtype(space.dtype))
        width = jax.eval_shape(policy.features, obs).shape[-1]
        (output,) = linear_layers(key, (width, 1), initialisation)
        return SharedCritic(AffineValue(output))

    return build
