"""Small worlds: tasks of a few states whose best policy, and the value of any policy, is a number and not an estimate.

    world                 what it shows                                                 the exact answer
    bandit                a stochastic policy learns which arm is best, state by state   `bandit_value`, `bandit_best_value`
    corridor              the best memoryless policy can be stochastic                  `corridor_value`, `corridor_best`
    rock_paper_scissors   any predictable policy is exploited, the uniform one is not   `rock_paper_scissors_value`, `worst_case_loss`
    target                what putting a grid on a continuous action costs              `target_best_value`

The worlds are compiled environments (`envs.base`); the answers are plain NumPy in float64.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from policygrad.envs import checks
from policygrad.envs.base import Env, time_limit
from policygrad.errors import UsageError
from policygrad.spaces import Box, Discrete
from policygrad.types import Array, Key, Step

# ── bandit ───────────────────────────────────────────────────────────────────────────────────────────────────────────

BANDIT_MEANS: tuple[tuple[float, ...], ...] = (
    (1.0, 0.2, 0.0, -0.3, 0.1),
    (0.0, 0.1, 1.2, 0.4, -0.2),
    (-0.4, 0.3, 0.2, 0.1, 0.8),
    (0.2, 1.5, -0.1, 0.6, 0.0),
)
"""Mean rewards of the default bandit, [states, actions]: the best actions are 0, 2, 4, 1."""


def bandit(means: Any = None, sigma: float = 0.5) -> Env:
    """A stochastic bandit with several states (a contextual bandit): see a state, pull one arm, be paid, over.

        s ~ Uniform{0, …, S−1},    r ~ Normal(means[s, a], sigma²)

    State and observation: s, Discrete(S), int32. Action: a, Discrete(A). Every episode terminates after its one step, so
    the gradient of the expected return has no part from later steps: what is left of its variance is the policy's and sigma's.

    Args:
        means: mean rewards [S, A]; by default `BANDIT_MEANS`, 4 states × 5 actions.
        sigma: standard deviation of a reward, ≥ 0.

    Raises:
        UsageError: `means` is no finite table, or sigma is negative.

    Reference: Sutton and Barto, section 2.9 (associative search).
    """
    table = _means(means)
    if not (math.isfinite(sigma) and sigma >= 0):
        raise UsageError(f"bandit: sigma is a standard deviation: got {sigma}; give a number ≥ 0")
    num_states, num_actions = table.shape

    def reset(key: Key) -> tuple[Array, Array]:
        state = jax.random.randint(key, (), 0, num_states, jnp.int32)
        return state, state

    def step(key: Key, state: Array, action: Array) -> tuple[Array, Step]:
        reward = jnp.asarray(table)[state, action] + sigma * jax.random.normal(key)
        return state, Step(state, reward, jnp.ones((), bool), jnp.zeros((), bool))

    return time_limit(Env("Bandit-v0", Discrete(num_states), Discrete(num_actions), reset, step), 1)


def bandit_value(probabilities: Any, means: Any = None) -> float:
    """The expected return of a policy: (1/S) Σ_s Σ_a π(a|s) means[s, a].

    Args:
        probabilities: π(a|s), [S, A], rows that sum to 1; or [A], the same in every state.
        means: as for `bandit`.
    """
    table = _means(means)
    policy = np.asarray(probabilities, np.float64)
    if policy.ndim not in (1, 2) or policy.shape[-1] != table.shape[1] or policy.shape[:-1] not in ((), table.shape[:1]):
        raise UsageError(f"bandit_value: probabilities must be {table.shape} or {table.shape[1:]}: got {policy.shape}")
    for row in np.atleast_2d(policy):
        checks.probabilities(row, table.shape[1], "bandit_value")
    return float((policy * table).sum(axis=1).mean())


def bandit_best_value(means: Any = None) -> float:
    """The expected return of the best policy: (1/S) Σ_s max_a means[s, a]; 1.125 for the default table."""
    return float(_means(means).max(axis=1).mean())


def _means(means: Any) -> np.ndarray:
    table = np.asarray(BANDIT_MEANS if means is None else means, np.float64)
    if table.ndim != 2 or table.size == 0 or not np.isfinite(table).all():
        raise UsageError(f"bandit: means must be a finite table [states, actions]: got shape {table.shape}")
    return table


# ── corridor ─────────────────────────────────────────────────────────────────────────────────────────────────────────

CORRIDOR_LIMIT = 200
_CORRIDOR = np.array([[0, 1], [2, 0], [1, 3]], np.int32)  # [state, action] -> next state; 3 is the goal


def corridor() -> Env:
    """The short corridor with switched actions: three states that look alike, in the second of which the actions are swapped.

        0 ⇄ 1 ⇄ 2 → goal      right moves right in 0 and 2, and left in 1; left moves left in 2, right in 1, and stays in 0

    A policy sees nothing and so has one number, p = π(right): p = 0 and p = 1 never arrive, the best is in between
    (`corridor_best`), and ε-greedy policies, which must be near one of the ends, get −44 at best with ε = 0.1.

    State: 0, 1 or 2 (3 after the goal), int32; the start is 0. Observation: always 0, Discrete(1).
    Action: 0 left, 1 right.
    Reward: −1 a step, the last one included.
    End: terminated at the goal; truncated after 200 steps, for policies near p = 0 and p = 1, which would otherwise hold a
    collector of whole episodes for ever. At the best p an episode takes 11.66 steps on average and fewer than one in 10⁹
    takes 200, so the limit does not move the optimum; towards the ends the return bends to −200 instead of falling
    to −∞, and `corridor_value(p, limit=200)` is exact.

    Reference: Sutton and Barto, example 13.1.
    """

    def reset(key: Key) -> tuple[Array, Array]:
        del key
        return jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)

    def step(key: Key, state: Array, action: Array) -> tuple[Array, Step]:
        del key
        state = jnp.asarray(_CORRIDOR)[state, action]
        return state, Step(jnp.zeros((), jnp.int32), -jnp.ones(()), state == 3, jnp.zeros((), bool))

    return time_limit(Env("Corridor-v0", Discrete(1), Discrete(2), reset, step), CORRIDOR_LIMIT)


def corridor_value(p_right: float, limit: int | None = None) -> float:
    """The expected return of the policy that goes right with probability p.

    With P the 3 × 3 matrix of moves among the states short of the goal, and e₀ the start:

        limit=None:  v = −1 + P v, solved;  v₀ = −2 (2 − p) / (p (1 − p))
        limit=n:     −Σ_{t<n} e₀ᵀ Pᵗ 1, the expected number of steps begun

    Args:
        p_right: p in [0, 1]; at either end the value without limit is −∞.
        limit: the time limit in steps, or None for none.
    """
    p = float(p_right)
    if not 0.0 <= p <= 1.0:
        raise UsageError(f"corridor_value: p_right is a probability: got {p_right}; give a number in [0, 1]")
    moves = np.zeros((3, 4))
    for action, chance in enumerate((1.0 - p, p)):
        moves[np.arange(3), _CORRIDOR[:, action]] += chance
    inside = moves[:, :3]
    if limit is None:
        return -math.inf if p in (0.0, 1.0) else float(np.linalg.solve(np.eye(3) - inside, -np.ones(3))[0])
    if limit < 1:
        raise UsageError(f"corridor_value: limit counts steps: got {limit}; give an integer ≥ 1, or None")
    where, value = np.array([1.0, 0.0, 0.0]), 0.0
    for _ in range(limit):
        value -= where.sum()
        where = where @ inside
    return float(value)


def corridor_best() -> tuple[float, float]:
    """The best p = π(right) and its value, without time limit: (2 − √2, −(6 + 4√2)) ≈ (0.586, −11.66).

    d/dp of −2 (2 − p) / (p (1 − p)) is zero where p² − 4 p + 2 = 0.
    """
    return 2 - math.sqrt(2), -(6 + 4 * math.sqrt(2))


# ── rock, paper, scissors ────────────────────────────────────────────────────────────────────────────────────────────

ROCK, PAPER, SCISSORS = 0, 1, 2


def rock_paper_scissors(rounds: int = 10) -> Env:
    """Rock, paper, scissors against an opponent who counts.

    The opponent remembers how often each action was played in this episode and plays the reply that beats the most
    frequent one; between equally frequent ones it tosses a fair coin (or die), so that its first move is uniform.

        n_t ∈ ℕ³ counts,    m ~ Uniform(argmax n_t),    o = m + 1 mod 3,    r = +1, 0, −1 for a − o = 1, 0, 2 mod 3

    Among policies without memory the uniform one is best with 0 and every other one loses; one that always plays the same
    action loses every round after the first (`rock_paper_scissors_value`). A policy that remembers its own actions can
    do better: it knows the reply.

    State: counts (3,), int32. Observation: always 0, Discrete(1): the counts are hidden.
    Action: 0 rock, 1 paper, 2 scissors; each is beaten by the next.
    Reward: 1 for a win, 0 for a draw, −1 for a loss.
    End: terminated after `rounds` rounds, which is also the time limit.

    Args:
        rounds: rounds in an episode, ≥ 1.
    """
    checks.at_least("rock_paper_scissors", "rounds", rounds, 1)

    def reset(key: Key) -> tuple[Array, Array]:
        del key
        return jnp.zeros(3, jnp.int32), jnp.zeros((), jnp.int32)

    def step(key: Key, state: Array, action: Array) -> tuple[Array, Step]:
        lots = jnp.where(state == state.max(), jax.random.uniform(key, (3,)), -1.0)
        reply = jnp.argmax(lots) + 1
        reward = (action - reply + 1) % 3 - 1
        state = state + (jnp.arange(3) == action)
        over = state.sum() >= rounds
        return state, Step(jnp.zeros((), jnp.int32), reward.astype(float), over, jnp.zeros((), bool))

    return time_limit(Env("RockPaperScissors-v0", Discrete(1), Discrete(3), reset, step), rounds)


def rock_paper_scissors_value(probabilities: Any, rounds: int = 10) -> float:
    """The expected return of a policy without memory, by enumeration of the counts before each round:

        Σ_{t < rounds} Σ_{n₀+n₁+n₂ = t} (t! / n₀! n₁! n₂!) p₀^n₀ p₁^n₁ p₂^n₂ · mean over m ∈ argmax n of (p_{m+2} − p_m)

    (the opponent plays m + 1: the player wins with m + 2 and loses with m). It is 0 for the uniform policy and negative for
    any other: more frequent actions are likelier to be m, so by the rearrangement inequality E[p_{m+2}] ≤ E[p_m].

    Args:
        probabilities: of rock, paper and scissors, (3,).
        rounds: as for `rock_paper_scissors`; the work grows with its cube.
    """
    p = checks.probabilities(probabilities, 3, "rock_paper_scissors_value")
    checks.at_least("rock_paper_scissors_value", "rounds", rounds, 1)
    gain = np.roll(p, -2) - p  # by m
    value = 0.0
    for t in range(rounds):
        for rock in range(t + 1):
            for paper in range(t - rock + 1):
                counts = np.array([rock, paper, t - rock - paper])
                ways = math.comb(t, rock) * math.comb(t - rock, paper)
                value += ways * float(np.prod(p**counts)) * float(gain[counts == counts.max()].mean())
    return value


def worst_case_loss(probabilities: Any) -> float:
    """What a policy loses per round, on average, to the fixed reply that hurts it most: max_m (p_m − p_{m+2}) ≥ 0.

    The reply m + 1 beats m and is beaten by m + 2. It is 0 for the uniform policy alone: that is the game's equilibrium.

    Args:
        probabilities: of rock, paper and scissors, (3,).
    """
    p = checks.probabilities(probabilities, 3, "worst_case_loss")
    return float((p - np.roll(p, -2)).max())


# ── target ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def target(dims: int = 1, *, levels: int | None = None) -> Env:
    """Hit a target that is shown: one step, paid by the squared distance. What does a grid of actions cost?

        g ~ Uniform[−1, 1]^dims,    r = −Σ_i (a_i − g_i)²

    State and observation: g, Box(−1, 1, (dims,)). Every episode terminates after its one step.
    Action: a, Box(−1, 1, (dims,)), or with `levels` Discrete(levels), where k stands for a = −1 + 2 k / (levels − 1).
    A Gaussian policy with mean g earns −dims σ² before clipping, so 0 as σ → 0; a grid can earn at most
    `target_best_value(levels)`, however well it is learnt.

    Args:
        dims: number of coordinates, ≥ 1.
        levels: number of evenly spaced actions, ≥ 2, in place of continuous ones; for dims = 1 only.

    Raises:
        UsageError: dims or levels is too small, or levels comes with dims > 1.
    """
    checks.at_least("target", "dims", dims, 1)
    if levels is not None:
        checks.at_least("target", "levels", levels, 2)
        if dims != 1:
            raise UsageError(f"target: levels is for one dimension: got dims={dims}; a grid over it would need levels**dims actions")

    def reset(key: Key) -> tuple[Array, Array]:
        goal = jax.random.uniform(key, (dims,), minval=-1.0, maxval=1.0)
        return goal, goal

    def step(key: Key, state: Array, action: Array) -> tuple[Array, Step]:
        del key
        place = action.astype(state.dtype) if levels is None else action.astype(state.dtype) * (2 / (levels - 1)) - 1
        return state, Step(state, -((place - state) ** 2).sum(), jnp.ones((), bool), jnp.zeros((), bool))

    actions = Box.of(-1.0, 1.0, (dims,)) if levels is None else Discrete(levels)
    return time_limit(Env("Target-v0", Box.of(-1.0, 1.0, (dims,)), actions, reset, step), 1)


def target_best_value(levels: int | None = None) -> float:
    """The expected return of the best policy on the grid: −h²/12 with h = 2 / (levels − 1) the spacing; 0 without grid.

    The nearest grid point is at a distance uniform in [0, h/2], whose square averages h²/12.

    Args:
        levels: as for `target`.
    """
    if levels is None:
        return 0.0
    checks.at_least("target_best_value", "levels", levels, 2)
    return -((2 / (levels - 1)) ** 2) / 12
