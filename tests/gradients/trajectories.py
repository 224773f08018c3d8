"""Every trajectory of a tiny MDP, each with its exact probability: an expectation is then a number, not a sample.

Plain NumPy, and on purpose not a line of it shared with the package: this is what the package is measured against. The
one use of JAX is `objective`, whose derivative is the exact gradient.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from policygrad.types import Rollout


class MDP(NamedTuple):
    """States 0 … S − 1, actions 0 … A − 1; taking an action has one of K outcomes."""

    start: np.ndarray  # [S] probabilities of the first state
    chance: np.ndarray  # [S, A, K] probabilities of the outcomes
    to: np.ndarray  # [S, A, K] the next state
    ends: np.ndarray  # [S, A, K] whether the task terminates there
    reward: np.ndarray  # [S, A, K]
    limit: int  # steps after which an episode is truncated


class Trajectories(NamedTuple):
    """One trajectory a column."""

    rollout: Rollout  # [T, N]
    probability: np.ndarray  # [N]


def random_mdp(seed: int, states: int, actions: int, outcomes: int, limit: int, ending: float = 0.3) -> MDP:
    """An MDP drawn at random; each outcome terminates with probability `ending`."""
    rng = np.random.default_rng(seed)
    shape = (states, actions, outcomes)
    return MDP(
        start=rng.dirichlet(np.ones(states)),
        chance=rng.dirichlet(np.ones(outcomes), size=(states, actions)),
        to=rng.integers(0, states, shape),
        ends=rng.random(shape) < ending,
        reward=rng.normal(size=shape),
        limit=limit,
    )


def softmax(logits: np.ndarray) -> np.ndarray:
    """π(a|s), [S, A]."""
    raised = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return raised / raised.sum(axis=-1, keepdims=True)


def enumerate_all(mdp: MDP, pi: np.ndarray, rows: int, *, resets: bool = False) -> Trajectories:
    """All trajectories of `rows` steps from a reset.

    Args:
        pi: π(a|s), [S, A].
        resets: an episode that ends is followed by a new one, as `steps(T)` collects; otherwise by padding, as
            `episodes(N)` does.
    """
    _, A, K = mdp.chance.shape
    state = np.flatnonzero(mdp.start)
    probability = mdp.start[state]
    time = np.zeros(len(state), np.int32)
    alive = np.ones(len(state), bool)
    columns: dict[str, np.ndarray] = {}

    def repeat(index: np.ndarray) -> None:
        nonlocal state, probability, time, alive, columns
        state, probability, time, alive = state[index], probability[index], time[index], alive[index]
        columns = {name: array[:, index] for name, array in columns.items()}

    for _ in range(rows):
        branch = np.tile(np.arange(A * K), len(state))
        repeat(np.repeat(np.arange(len(state)), A * K))
        once = alive | (branch == 0)  # what is over has one future
        branch = branch[once]
        repeat(np.flatnonzero(once))
        action, outcome = branch // K, branch % K
        here = state, action, outcome
        chance = pi[state, action] * mdp.chance[here]
        probability = np.where(alive, probability * chance, probability)
        truncated = time + 1 >= mdp.limit
        row = {
            "obs": state.astype(np.int32),
            "action": action.astype(np.int32),
            "log_prob": np.log(pi[state, action]),
            "reward": mdp.reward[here],
            "terminated": mdp.ends[here],
            "truncated": truncated,
            "next_obs": mdp.to[here].astype(np.int32),
            "mask": alive.astype(np.float64),
            "time": time,
        }
        row = {name: np.where(alive, array, np.zeros_like(array)) for name, array in row.items()}
        ended = (row["terminated"] | row["truncated"]) & alive
        state, time = row["next_obs"].astype(int), (time + 1).astype(np.int32)
        columns = {name: np.concatenate([columns[name], array[None]]) if columns else array[None] for name, array in row.items()}
        if resets:
            S = len(mdp.start)
            copies = np.where(ended, S, 1)
            first = np.cumsum(copies) - copies
            index = np.repeat(np.arange(len(state)), copies)
            fresh = (np.arange(len(index)) - first[index]).astype(int)
            over = ended[index]
            repeat(index)
            probability = np.where(over, probability * mdp.start[fresh], probability)
            state, time = np.where(over, fresh, state), np.where(over, 0, time).astype(np.int32)
        else:
            alive = alive & ~ended
        repeat(np.flatnonzero(probability > 0))
    return Trajectories(Rollout(**columns, carry=(), extras={}), probability)


def true_values(mdp: MDP, pi: np.ndarray, discount: float) -> tuple[np.ndarray, np.ndarray]:
    """V^π [S] and Q^π [S, A] without time limit, from the linear system."""
    S, A, _ = mdp.chance.shape
    goes = mdp.chance * ~mdp.ends
    gain = (mdp.chance * mdp.reward).sum(-1)
    move = np.zeros((S, A, S))
    for s, a in np.ndindex(S, A):
        np.add.at(move[s, a], mdp.to[s, a], goes[s, a])
    V = np.linalg.solve(np.eye(S) - discount * np.einsum("sa,sat->st", pi, move), (pi * gain).sum(-1))
    return V, gain + discount * move @ V


def action_values(logits: Any, mdp: MDP, discount: float, final: np.ndarray | None = None) -> list[tuple[Any, Any]]:
    """(V_k [S], Q_k [S, A]) for k = 0 … limit − 1 steps after the reset, in JAX; `final` is the value at a truncation."""
    pi = jax.nn.softmax(logits, axis=-1)
    V = jnp.zeros(len(mdp.start)) if final is None else jnp.asarray(final)
    result = []
    for _ in range(mdp.limit):
        Q = (mdp.chance * (mdp.reward + discount * jnp.where(mdp.ends, 0, V[mdp.to]))).sum(-1)
        V = (pi * Q).sum(-1)
        result.append((V, Q))
    return result[::-1]


def objective(logits: Any, mdp: MDP, discount: float) -> Any:
    """J(θ) = E[Σ_k γ^k r_k], the expected discounted return of an episode, by backward induction."""
    return (mdp.start * action_values(logits, mdp, discount)[0][0]).sum()


def weighted_return(logits: Any, mdp: MDP, weights: np.ndarray) -> Any:
    """E[Σ_k weights_k r_k] of an episode, by backward induction; weights [limit]."""
    pi = jax.nn.softmax(logits, axis=-1)
    V = jnp.zeros(len(mdp.start))
    for weight in weights[::-1]:
        Q = (mdp.chance * (weight * mdp.reward + jnp.where(mdp.ends, 0, V[mdp.to]))).sum(-1)
        V = (pi * Q).sum(-1)
    return (mdp.start * V).sum()


def visits(mdp: MDP, pi: np.ndarray, rows: int, *, resets: bool = False) -> np.ndarray:
    """P(at row t the episode goes on, is k steps old, and in state s), [rows, limit, S], by a forward recursion."""
    reached = np.zeros((rows + 1, mdp.limit + 1, len(mdp.start)))
    reached[0, 0] = mdp.start
    for t in range(rows):
        for k in range(mdp.limit):
            flow = reached[t, k, :, None, None] * pi[..., None] * mdp.chance
            over = mdp.ends | (k + 1 >= mdp.limit)
            np.add.at(reached[t + 1, k + 1], mdp.to, flow * ~over)
            if resets:
                reached[t + 1, 0] += (flow * over).sum() * mdp.start
    return reached[:rows, : mdp.limit]


def policy_gradient(pi: np.ndarray, reached: np.ndarray, Q: np.ndarray) -> np.ndarray:
    """Σ_s P(s) Σ_a ∇π(a|s) Q(s, a) for logits θ [S, A]: ∂π_a/∂θ_b = π_a (1[a = b] − π_b)."""
    return reached[:, None] * pi * (Q - (pi * Q).sum(-1, keepdims=True))
