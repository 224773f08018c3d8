"""A finite MDP and a policy as arrays, checked, and the recursions that all exact answers are made of.

    symbol   meaning                                                                shape
    P        transitions, rows of terminal states zero                              [S, A, S]
    r        expected rewards                                                       [S, A]
    μ        the first state                                                        [S]
    π        action probabilities in each state (of what the state looks like)      [S, A]
    P_π      Σ_a π(a|s) P(s'|s, a);  r_π likewise                                   [S, S], [S]
    H        the time limit; None: the episode goes on until it terminates

Everything here is traceable and takes its dtype from π.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from policygrad.envs.finite import FiniteMDP
from policygrad.errors import SpaceError, UsageError
from policygrad.oracle.scope import traced
from policygrad.policies import require_spaces
from policygrad.types import Array, PyTree


class Tables(NamedTuple):
    """What the recursions read of an MDP."""

    transitions: Array  # P [S, A, S]
    rewards: Array  # r [S, A]
    initial: Array  # μ [S]
    alive: Array  # [S] 1 for non-terminal states, else 0
    discount: Array  # γ, scalar


def prepare(mdp: FiniteMDP, policy: PyTree, *, ends: bool = False) -> tuple[Tables, Array, np.ndarray]:
    """Checks that policy and MDP fit, and makes arrays of them.

    Args:
        ends: what is asked for is infinite unless episodes end with probability 1.

    Returns:
        (tables, π [S, A], endless [S] bool: states, never reached, from which the episode would not surely end; they are cut out
        of the tables, as if they were terminal. All False unless `ends` had to be checked).

    Raises:
        UsageError, SpaceError: as the public functions say.
    """
    pi = probabilities(mdp, policy)
    endless = np.zeros(mdp.num_states, bool)
    if ends:
        # All that is known of traced probabilities is that a softmax leaves none out.
        possible = np.ones((mdp.num_states, mdp.num_actions), bool) if traced(pi) else np.asarray(pi) > 0
        endless = endless_states(mdp, possible)
    alive = ~(mdp.terminal | endless)
    dtype = np.dtype(pi.dtype)
    return (
        Tables(
            (mdp.transitions * alive[:, None, None]).astype(dtype),
            (mdp.expected_rewards * alive[:, None]).astype(dtype),
            mdp.initial.astype(dtype),
            alive.astype(dtype),
            np.asarray(mdp.discount, dtype),
        ),
        pi,
        endless,
    )


def require_finite(mdp: Any) -> None:
    """Raises UsageError for an environment without tables."""
    if not isinstance(mdp, FiniteMDP):
        raise UsageError(f"mdp: got {getattr(mdp, 'name', type(mdp).__name__)}; exact answers need a FiniteMDP (or, for J and ∇J, an LQR)")


def unbounded(mdp: Any, *, undiscounted: bool = False) -> bool:
    """Whether a sum over an episode, discounted by the MDP's discount or not at all, is infinite where episodes never end."""
    require_finite(mdp)
    return mdp.time_limit is None and (undiscounted or mdp.discount == 1)


def probabilities(mdp: FiniteMDP, policy: PyTree) -> Array:
    """π(a|o(s)), [S, A]."""
    require_finite(mdp)
    if not callable(policy):
        raise UsageError(f"policy: got {type(policy).__name__}; exact answers need a policy, e.g. tabular_softmax(logits)")
    for leaf in jax.tree.leaves(policy):
        if not hasattr(leaf, "dtype"):
            raise UsageError(f"policy: got {type(policy).__name__} with a {type(leaf).__name__} in it; it must be a module whose leaves are"
                             " float arrays, what does not train is a static field")  # fmt: skip
    require_spaces(policy, mdp.observation_space, mdp.action_space, mdp.name)
    pi = apply(policy, mdp.observations)
    if pi.shape != (mdp.num_states, mdp.num_actions):
        raise SpaceError(f"the policy is for other spaces than {mdp.name}: got probabilities of shape {pi.shape} for its"
                         f" {mdp.num_states} states; they must be [{mdp.num_states}, {mdp.num_actions}]")  # fmt: skip
    return pi


@jax.jit
def apply(policy: PyTree, observations: Array) -> Array:
    """π(·|o) of each observation, [S, A]; the one place where a policy is called."""
    distribution: Any = policy(observations) if callable(policy) else None
    if not hasattr(distribution, "probabilities"):
        got = type(policy).__name__ if distribution is None else type(distribution).__name__
        raise UsageError(
            f"policy: got {got}; exact answers need a policy without memory, policy(observations) -> a distribution with"
            " probabilities(), such as Categorical"
        )
    return distribution.probabilities()


@jax.jit
def pull_back(policy: PyTree, observations: Array, weights: Array) -> PyTree:
    """Σ_s Σ_a weights(s, a) ∇π(a|o(s)), policy-shaped: one vector-Jacobian product, whatever the policy is made of."""
    return jax.vjp(lambda policy: apply(policy, observations), policy)[1](weights)[0]


def endless_states(mdp: FiniteMDP, possible: np.ndarray) -> np.ndarray:
    """The non-terminal states from which an episode without time limit may never end, [S] bool.

    Args:
        possible: whether each action has a probability above 0, [S, A].

    Raises:
        UsageError: if one of them can be reached.
    """
    goes = np.einsum("sa,sat->st", possible, mdp.transitions) > 0
    endless = _leading_to(goes, ~_leading_to(goes, mdp.terminal)) & ~mdp.terminal
    reached = endless & _leading_to(goes.T, mdp.initial > 0)
    if reached.any():
        raise UsageError(
            f"{mdp.name}: got a sum without discount over episodes that may never end (no way leads from state {reached.argmax()}, or from"
            " one it leads to, to a terminal state); it must have a discount below 1, a time limit, or a policy that surely ends"
        )
    return endless


def _leading_to(goes: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The states from which some path, of any length, leads to a target, [S] bool."""
    found = targets
    while True:
        more = found | (goes @ found)
        if (more == found).all():
            return found
        found = more


def policy_tables(t: Tables, pi: Array) -> tuple[Array, Array]:
    """(P_π [S, S], r_π [S])."""
    return jnp.einsum("sa,sat->st", pi, t.transitions), jnp.sum(pi * t.rewards, axis=-1)


@partial(jax.jit, static_argnames="limit")
def solve_values(t: Tables, pi: Array, limit: int | None) -> tuple[Array, Array]:
    """V and Q: [S], [S, A], or with a time limit [H, S], [H, S, A] by the steps since the reset.

    (I − γ P_π) V = r_π        V_k = r_π + γ P_π V_{k+1},  V_H = 0        Q = r + γ P V'
    """
    moves, gains = policy_tables(t, pi)
    if limit is None:
        V = jnp.linalg.solve(jnp.eye(len(gains), dtype=pi.dtype) - t.discount * moves, gains)
        return V, t.rewards + t.discount * t.transitions @ V

    def earlier(later: Array, _: None) -> tuple[Array, Array]:
        return gains + t.discount * moves @ later, later

    V, later = jax.lax.scan(earlier, jnp.zeros_like(gains), None, length=limit, reverse=True)
    V = jnp.concatenate([V[None], later[:-1]])
    return V, t.rewards[None] + t.discount * jnp.einsum("sat,ht->hsa", t.transitions, later)


@partial(jax.jit, static_argnames="limit")
def solve_visits(t: Tables, pi: Array, limit: int | None, discount: Array | float) -> Array:
    """How often each non-terminal state is visited, a visit after k steps counting discount^k: [S], or [H, S] by k.

    (I − γ P_πᵀ) x = μ        x_0 = μ,  x_{k+1} = γ P_πᵀ x_k
    """
    moves, _ = policy_tables(t, pi)
    if limit is None:
        return t.alive * jnp.linalg.solve(jnp.eye(len(moves), dtype=pi.dtype) - discount * moves.T, t.initial)

    def onwards(here: Array, _: None) -> tuple[Array, Array]:
        return discount * t.alive * (here @ moves), here

    return jax.lax.scan(onwards, t.initial, None, length=limit)[1]
