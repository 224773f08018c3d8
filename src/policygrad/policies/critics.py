"""V(o): critics, and the makers of their builders.

    critic(policy, rollout, carry)         -> (values, next_values), each [T, B]
    critic.beside(policy, rollout, carry)  -> (π(·|o_t), values), what a loss reads of both, features that they share made once
    critic.along(rollout)                  -> values, but for a critic that shares the policy's features
    critic.value(obs)                      -> [...], likewise, and without memory

`next_values` belong to the *true* next observations, before any reset, so that a truncated step bootstraps from where
it was cut and not from the start of the next episode. The policy is handed over for critics that share its features.

A builder is (key, spec, policy) -> critic; only `shared_critic` looks at the policy.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from policygrad.errors import SpaceError, UsageError
from policygrad.policies.distributions import Distribution
from policygrad.policies.features import Index, Polynomial, num_features
from policygrad.policies.memory import chunks
from policygrad.policies.networks import affine, check_network, linear_layers
from policygrad.policies.own import Own
from policygrad.policies.policy import along, onwards, what_is_seen
from policygrad.policies.trunk import Trunk
from policygrad.spaces import Box, Discrete, seen
from policygrad.types import Array, Carries, Key, PyTree, Rollout, Spec


class Critic(eqx.Module):
    """A value function.

        V(o) = head(features(o))                          without memory
        V(o_1 … o_t) = head(memory(features(o_1 … o_t)))  with one, which starts anew with every episode

    Masks of actions are no part of what it sees.

    Args:
        features: a Module, what is seen of observations [..., *shape] -> x; see `policygrad.policies.features`.
        head: a Module, x -> [...].
        memory: a Module of `policygrad.policies.memory`, or None. Collectors carry it along with the policy's.
    """

    features: Any
    head: Any
    memory: Any = None

    def value(self, obs: Array) -> Array:
        """V(o) of a critic without memory, for observations over any leading axes, [...]."""
        if self.memory is not None:
            raise UsageError("critic.value(obs): got a critic with memory, which one observation is not enough for; use along(rollout)")
        return self.head(self.features(what_is_seen(obs)))

    def along(self, rollout: Rollout) -> Array:
        """V(o_t) of every step of a rollout, [T, B]."""
        return self.head(along(self, rollout.critic_carry, rollout.obs, rollout.time == 0)[0])

    def __call__(self, policy: Any, rollout: Rollout, carry: PyTree) -> tuple[Array, Array]:
        """(V(o_t), V(o_{t+1})), each [T, B]; the second after a terminal step may be anything."""
        return _here_and_next(self, self.head, rollout.critic_carry, rollout, _size(self))

    def beside(self, policy: Any, rollout: Rollout, carry: PyTree) -> tuple[Distribution, Array]:
        """(π(·|o_t), V(o_t)), each over [T, B]."""
        distribution, _ = policy.unroll(carry, rollout.obs, rollout.time == 0)
        return distribution, self.along(rollout)


class SharedCritic(eqx.Module):
    """A head over the policy's own features and memory, for a critic that climbs with the policy.

        V(o) = head(policy.features(o))

    The value loss moves the features as well: they serve both.

    Args:
        head: a Module, x -> [...].
    """

    head: Any

    def __call__(self, policy: Any, rollout: Rollout, carry: PyTree) -> tuple[Array, Array]:
        """(V(o_t), V(o_{t+1})), each [T, B]; the second after a terminal step may be anything."""
        return _here_and_next(policy, self.head, carry, rollout, _size((policy, self)))

    def beside(self, policy: Any, rollout: Rollout, carry: PyTree) -> tuple[Distribution, Array]:
        """(π(·|o_t), V(o_t)), each over [T, B]. Written with two forward passes, it would be differentiated twice as well."""
        x, _ = policy.latent(carry, rollout.obs, rollout.time == 0)
        return policy.choices(x, rollout.obs), self.head(x)


class WithCritic(eqx.Module):
    """A policy that acts, and a critic that remembers what it sees: collectors carry both memories.

    Args:
        policy: that acts.
        critic: a `Critic` with memory.
    """

    policy: Any
    critic: Any

    def initial(self, batch: int) -> Carries:
        """Both memories before the first step, [batch, …]."""
        return Carries(self.policy.initial(batch), self.critic.memory.initial(batch))

    def step(self, carry: Carries, obs: Array, first: Array) -> tuple[Distribution, Carries]:
        """As `Policy.step`."""
        distribution, own = self.policy.step(carry.policy, obs, first)
        _, critics = self.critic.memory.step(carry.critic, self.critic.features(what_is_seen(obs)), first)
        return distribution, Carries(own, critics)

    def unroll(self, carry: Carries, obs: Array, resets: Array) -> tuple[Distribution, PyTree]:
        """As `Policy.unroll`; the critic is not looked at."""
        return self.policy.unroll(carry.policy, obs, resets)

    def num_chunks(self, rows: int) -> int:
        """C, of both: the more that one of them asks for."""
        return max(self.policy.num_chunks(rows), chunks(self.critic.memory, rows))


CriticBuilder = Callable[..., Critic | SharedCritic]


FEW_ENDS = 16
"""V of next observations is made for one step in so many by itself; where more of them differ from the row that follows, for all."""
LARGE = 2**12, 2**8
"""Steps of a rollout and parameters of a critic from which it pays to look which next observations were seen already."""


def _here_and_next(module: Any, head: Any, carry: PyTree, rollout: Rollout, size: int) -> tuple[Array, Array]:
    """(V(o_t), V(o_{t+1})), each [T, B], V = head of the module's features and memory.

    The next observation of most steps is the next row's observation, whose value is known. It is made for the others alone: those of
    the last row, and of steps that were cut (what follows a terminal step is worth 0, whatever V says).

    Args:
        module: has `features` and `memory`, as `policy.along`.
        carry: its memory at the starts of chunks.
        size: parameters of the critic.
    """
    following, mask = rollout.next_obs, rollout.mask
    rows, columns = mask.shape
    most = rows * columns // FEW_ENDS
    remembers = module.memory is not None
    if rows * columns < LARGE[0] or size < LARGE[1] or most < columns:
        if not remembers:
            both = head(module.features(what_is_seen(jax.tree.map(lambda *x: jnp.concatenate(x), rollout.obs, following))))
            return both[:rows], both[rows:]
        x, carries, _ = along(module, carry, rollout.obs, rollout.time == 0)
        return head(x), head(onwards(module, carries, following))
    x, carries, _ = along(module, carry, rollout.obs, rollout.time == 0)
    values = head(x)
    same = [
        jnp.all((after[:-1] == before[1:]).reshape(rows - 1, columns, -1), axis=-1)
        for before, after in zip(jax.tree.leaves(rollout.obs), jax.tree.leaves(following), strict=True)
    ]
    if remembers:  # of an episode that begins it knows nothing
        same.append(rollout.time[1:] > 0)
    seen_again = functools.reduce(jnp.logical_and, same)
    unseen = jnp.concatenate([~seen_again & ~rollout.terminated[:-1] & (mask[:-1] > 0), jnp.ones((1, columns), bool)]).ravel()
    flat = jax.tree.map(lambda leaf: leaf.reshape(rows * columns, *leaf.shape[2:]), (carries, following))

    def few() -> Array:
        at = jnp.nonzero(unseen, size=most, fill_value=rows * columns)[0]
        seen = jnp.concatenate([values[1:], values[-1:]]).ravel()
        some = jax.tree.map(lambda leaf: leaf.at[at].get(mode="clip"), flat)
        return seen.at[at].set(head(onwards(module, *some)), mode="drop")

    return values, jax.lax.cond(jnp.sum(unseen) <= most, few, lambda: head(onwards(module, *flat))).reshape(rows, columns)


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
    hidden_sizes: Sequence[int] | None = None, activation: str = "tanh", initialisation: str = "orthogonal", **others: Any
) -> CriticBuilder:
    """The critic that the observation space suggests: Discrete, a table; else the layers that `policies.policy` would have.

    Args:
        hidden_sizes: widths of learnt layers over the features, whatever the space; () is an affine function of these.
        activation, initialisation: names of `networks.ACTIVATIONS` and `networks.INITIALISATIONS`.
        others: features, memory, memory_size and truncate, as of `policies.policy`.

    Raises:
        UnknownNameError, UsageError: in one line.
    """
    network = network_critic(hidden_sizes, activation, initialisation, **others)
    if not Trunk(hidden_sizes=hidden_sizes, activation=activation, initialisation=initialisation, **others).suggested:
        return network
    return lambda key, spec, policy=None: (table_critic() if isinstance(seen(spec.observation_space), Discrete) else network)(key, spec)


def network_critic(
    hidden_sizes: Sequence[int] | None = (64, 64),
    activation: str = "tanh",
    initialisation: str = "orthogonal",
    *,
    features: Any = "auto",
    memory: str | None = None,
    memory_size: int = 64,
    truncate: int | None = None,
) -> CriticBuilder:
    """Layers over features, perhaps a memory, and one output; under "orthogonal" the hidden layers take the gain √2, the output 1.

    Arguments and errors as `default_critic`.
    """
    trunk = Trunk(features, hidden_sizes, activation, memory, memory_size, truncate, initialisation)

    def build(key: Key, spec: Spec, policy: Any = None) -> Critic:
        made, cell, output = trunk.build(key, seen(spec.observation_space), 1, 1.0)
        return Critic(made, AffineValue(output), cell)

    return build


def table_critic() -> CriticBuilder:
    """One value per state, 0 at first. The builder raises SpaceError unless observations are Discrete."""

    def build(key: Key, spec: Spec, policy: Any = None) -> Critic:
        space = seen(spec.observation_space)
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
        space = seen(spec.observation_space)
        if not isinstance(space, Discrete | Box):
            raise SpaceError(f"a linear critic needs Discrete or Box observations: got {space}; use a network")
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
        if isinstance(policy.features, Own):
            raise UsageError(
                "critic: got shared_critic() with a policy of your own, which shows no features to share; give a critic of its own"
            )
        if not jax.tree.leaves((policy.features, policy.memory)):
            raise UsageError(
                "critic: got shared_critic() with a policy that has no hidden layer to share; give it hidden_sizes, or a critic of its own"
            )
        width = num_features(policy.features, seen(spec.observation_space)) if policy.memory is None else policy.memory.size
        (output,) = linear_layers(key, (width, 1), initialisation)
        return SharedCritic(AffineValue(output))

    return build
