"""π_θ: a function from observations to a distribution, as features, memory and a head.

A policy's only leaves are trainable float arrays, so plain `jax.jit`, `jax.grad`, `jax.vmap` and optax work on it. What
does not train (the spaces, a fixed σ, the name of an activation) is static and hashable.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from policygrad.errors import SpaceError, UsageError
from policygrad.policies.distributions import Distribution
from policygrad.policies.memory import chunks, traced
from policygrad.spaces import ALONE, MASK, Space, choices, flattened, has_mask, held_dtype, leaves, mapped
from policygrad.types import Array, PyTree


class Policy(eqx.Module):
    """A policy.

        π(·|o) = head(features(o))                                        without memory
        h_t, m_t = memory(m_{t−1}, features(o_t)),   π(·|o_1…o_t) = head(h_t)        with one, which starts anew with every episode

    Where the observation is a dict with an "action_mask", actions whose entry is 0 have probability 0; features do not see the mask.

    Args:
        features: a Module, what is seen of observations, [..., *shape] -> x [..., F]; see `policygrad.policies.features`.
        head: a Module, x -> Distribution over [...].
        observation_space, action_space: what the policy is for.
        memory: a Module of `policygrad.policies.memory`, or None.

    >>> from policygrad.policies import tabular_softmax
    >>> policy = tabular_softmax([[0.0, 1.0], [2.0, 0.0]])
    >>> policy(jnp.array([0, 1, 1])).mode().tolist()
    [1, 0, 0]
    """

    features: Any
    head: Any
    observation_space: Space = eqx.field(static=True)
    action_space: Space = eqx.field(static=True)
    memory: Any = None

    def __call__(self, obs: Array) -> Distribution:
        """π(·|o) of a policy without memory, for observations over any leading axes (batch axes first).

        Raises:
            SpaceError: if the trailing axes are not those of the observation space, while tracing.
            UsageError: with memory, which one observation is not enough for.
        """
        if self.memory is not None:
            raise UsageError(
                "policy(obs): got a policy with memory, which acts on all observations so far; use"
                " carry = policy.initial(batch), then distribution, carry = policy.step(carry, obs, first) for each"
            )
        return self.choices(self.features(self._seen(obs)), obs)

    def initial(self, batch: int) -> PyTree:
        """The memory before the first step, [batch, …]; () without one."""
        return () if self.memory is None else self.memory.initial(batch)

    def step(self, carry: PyTree, obs: Array, first: Array) -> tuple[Distribution, PyTree]:
        """(π(·|o_1 … o_t), the memory after it).

        Args:
            carry: the memory before it, [B, …]; `initial(B)` at the start.
            obs: [B, …].
            first: [B] bool, true where an episode begins: its memory is empty, whatever the carry holds.
        """
        if self.memory is None:
            return self(obs), carry
        h, carry = self.memory.step(carry, self.features(self._seen(obs)), first)
        return self.choices(h, obs), carry

    def unroll(self, carry: PyTree, obs: Array, resets: Array) -> tuple[Distribution, PyTree]:
        """π(·|o_1 … o_t) of every step of a rollout, and the memory after it.

        Args:
            carry: the memory at the starts of chunks, [C, B, …]: gradients flow back to the start of a chunk, and no further. With
                C = 1 that is the whole rollout; chunks have ⌈T/C⌉ rows, the last may have fewer. Without memory it is passed through.
            obs: [T, B, …].
            resets: [T, B] bool, true where o_t is the first of an episode.

        Returns:
            (Distribution over [T, B], the memory after the last row [1, B, …]).
        """
        h, carry = self.latent(carry, obs, resets)
        return self.choices(h, obs), carry

    def latent(self, carry: PyTree, obs: Array, resets: Array) -> tuple[Array, PyTree]:
        """What the head reads of every step of a rollout, [T, B, F], and the memory after it; arguments as `unroll`."""
        self._seen(obs)
        h, _, after = along(self, carry, obs, resets)
        return h, after

    def num_chunks(self, rows: int) -> int:
        """C, into how many chunks a rollout of so many rows is cut; 1 without memory."""
        return chunks(self.memory, rows)

    def choices(self, x: Array, obs: Array) -> Distribution:
        """The head's distribution, of allowed actions only where the observations say which are.

        Args:
            x: what the head reads, [..., F].
            obs: the observations that it was made of, [..., *shape].
        """
        distribution = self.head(x)
        return distribution.masked(mask_of(self.observation_space, obs)) if has_mask(self.observation_space) else distribution

    def _seen(self, obs: PyTree) -> PyTree:
        """`what_is_seen`, after a look whether the mask is there: without it, parts would be taken for something else."""
        if has_mask(self.observation_space):
            _check_masked(self.observation_space, obs)
        return what_is_seen(obs)


def along(module: Any, carry: PyTree, obs: Array, resets: Array) -> tuple[Array, PyTree, PyTree]:
    """Features and memory of a policy or critic along a rollout: (h [T, B, F], the memory after every step [T, B, …], after the last).

    Args:
        module: has `features`, and a `memory` or None.
        others: as `Policy.unroll`.
    """
    seen = what_is_seen(obs)
    if module.memory is None:
        return module.features(seen), (), carry
    # Row by row: a network of all steps at once would lay them out in another way, and the memory's loop lay them out back.
    return traced(module.memory, carry, jax.vmap(module.features)(seen), resets)


def onwards(module: Any, carries: PyTree, obs: Array) -> Array:
    """h of one further observation after every step, [..., F].

    Args:
        module: as `along`.
        carries: the memory after these steps, [..., *]; () without.
        obs: what followed each of them, [..., *shape].
    """
    x = module.features(what_is_seen(obs))
    return x if module.memory is None else module.memory.output(module.memory.advance(carries, module.memory.prepared(x)))


def what_is_seen(obs: PyTree) -> PyTree:
    """Observations without their mask: elements of `spaces.seen`."""
    if not (isinstance(obs, dict) and MASK in obs):
        return obs
    rest = {name: part for name, part in obs.items() if name != MASK}
    return rest[ALONE] if set(rest) == {ALONE} else rest


def mask_of(space: Any, obs: PyTree) -> Array:
    """The masks of observations as one bool array, [..., M], in the order of `spaces.choices`.

    Args:
        space: of the observations, with a mask.
    """
    _check_masked(space, obs)
    part = space[MASK]
    rows = flattened(part, obs[MASK])
    lead = jnp.ndim(rows[0]) - len(leaves(part)[0][1].shape)
    return jnp.concatenate([jnp.reshape(leaf, (*jnp.shape(leaf)[:lead], -1)) for leaf in rows], axis=-1) != 0


def _check_masked(space: Any, obs: PyTree) -> None:
    if not (isinstance(obs, dict) and MASK in obs):
        raise SpaceError(f"observation: got none with {MASK!r}; the policy takes a dict with it, as its observation space {space} says")


def acts_on(space: Space, lead: tuple[int, ...], distribution: Any, action: PyTree, log_prob: Array) -> bool:
    """Whether a distribution is one of actions of a space: their structure, shapes, kind of numbers, and how many alternatives they have.

    Args:
        lead: the batch axes.
        distribution, action, log_prob: it, a sample and its log-probability, as `jax.eval_shape` gives them.
    """
    wanted = mapped(lambda leaf: jax.ShapeDtypeStruct((*lead, *leaf.shape), held_dtype(leaf)), space)
    if jax.tree.structure(action) != jax.tree.structure(wanted) or log_prob.shape != lead:
        return False
    for got, one in zip(jax.tree.leaves(action), jax.tree.leaves(wanted), strict=True):
        if got.shape != one.shape or jnp.issubdtype(got.dtype, jnp.floating) != jnp.issubdtype(one.dtype, jnp.floating):
            return False
    number = sum(choices(space))
    return getattr(distribution, "mask_size", number) == number


# ── any function of observations, as a policy with or without memory ─────────────────────────────────────────────────


def initial_carry(policy: Any, batch: int) -> PyTree:
    """`policy.initial(batch)`, the memory before an episode; () of a plain function."""
    return policy.initial(batch) if hasattr(policy, "initial") else ()


def policy_step(policy: Any, carry: PyTree, obs: Array, first: Array) -> tuple[Distribution, PyTree]:
    """`policy.step`, or a plain function of observations [B, …]."""
    return policy.step(carry, obs, first) if hasattr(policy, "step") else (policy(obs), carry)


def policy_unroll(policy: Any, carry: PyTree, obs: Array, resets: Array) -> tuple[Distribution, PyTree]:
    """`policy.unroll`, or a plain function of observations [T, B, …]."""
    return policy.unroll(carry, obs, resets) if hasattr(policy, "unroll") else (policy(obs), carry)


def num_chunks(policy: Any, rows: int) -> int:
    """Into how many chunks a rollout is cut for the policy's memory; 1 without."""
    return policy.num_chunks(rows) if hasattr(policy, "num_chunks") else 1
