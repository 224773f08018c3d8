"""Finite MDPs with a name: each is small, and each is there to show one thing.

    name            what it shows
    fork            early and late choices count, and all rewards are positive: what a baseline is for
    short-corridor  states that look alike: the best memoryless policy is stochastic (`small_worlds.corridor_best`)
    aliased-grid    the same, with a best policy that no symmetry gives away (`aliased_grid_best`)
    t-maze          what must be remembered from the start: with memory 4, without 1.95 (`t_maze_best`)
    rare-reward     a large reward that comes once in a hundred times
    two-state       the discounted state distribution, (0.1, 0.9) at γ = 0.9
    one-state       its normalisation: unnormalised, the one state is visited 1/(1 − γ) times

Each is a function of keyword arguments; `finite_world` finds it by name.

    >>> finite_world("fork")
    FiniteMDP(fork, 3 states, 1 terminal, 2 actions, discount 0.9, time limit 3)
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from policygrad.envs import checks
from policygrad.envs.finite import FiniteMDP
from policygrad.errors import UnknownNameError, UsageError


def fork(*, discount: float = 0.9, time_limit: int | None = 3) -> FiniteMDP:
    """Two places and two ways out of each, all of them paid: early choices decide which late ones there are.

        state  action  leads to                reward
        0      0       0 (0.5), 1 (0.5)        1
        0      1       1 (0.4), the end (0.6)  2
        1      0       1 (0.5), the end (0.5)  3
        1      1       0                       0.5

    Every reward is positive, so without a baseline every action that was taken is made likelier: most of the variance is there
    to be removed. In 0 the first step is better spent on action 0, which keeps the episode going, and the last on action 1, which
    pays more: what is credited to which step matters. An episode starts in 0 and takes at most 3 steps, in one of 28 ways, so
    that every moment of an estimator can be summed.

    Args:
        discount: γ in [0, 1], that of the objective.
        time_limit: steps after which an episode is truncated, or None.
    """
    transitions = np.zeros((3, 2, 3))
    transitions[0] = [[0.5, 0.5, 0.0], [0.0, 0.4, 0.6]]
    transitions[1] = [[0.0, 0.5, 0.5], [1.0, 0.0, 0.0]]
    rewards = [[1.0, 2.0], [3.0, 0.5], [0.0, 0.0]]
    return FiniteMDP(
        transitions=transitions,
        rewards=rewards,
        initial=[1.0, 0.0, 0.0],
        discount=discount,
        terminal=[2],
        time_limit=time_limit,
        name="fork",
    )


def short_corridor(*, discount: float = 1.0, time_limit: int | None = None) -> FiniteMDP:
    """The short corridor with switched actions, as tables: `small_worlds.corridor`, without its time limit.

        0 ⇄ 1 ⇄ 2 → goal      right moves right in 0 and 2, and left in 1; left moves left in 2, right in 1, and stays in 0

    Every state looks like 0, the goal too; −1 a step. With p = π(right) the return from 0 is −2 (2 − p) / (p (1 − p)), greatest at
    p = 2 − √2: −11.66.

    Args:
        discount: γ in [0, 1], that of the objective; the numbers above are for 1.
        time_limit: steps after which an episode is truncated, or None.

    Reference: Sutton and Barto, example 13.1.
    """
    return FiniteMDP(
        transitions=_deterministic([[0, 1], [2, 0], [1, 3], [3, 3]]),
        rewards=np.full((4, 2), -1.0),
        initial=[1.0, 0.0, 0.0, 0.0],
        discount=discount,
        terminal=[3],
        time_limit=time_limit,
        observations=[0, 0, 0, 0],
        name="short-corridor",
    )


def aliased_grid(*, discount: float = 0.9, time_limit: int | None = None) -> FiniteMDP:
    """Five cells in a row, of which two look alike, with a treasure below the middle and traps below the ends.

        ┌───┬───┬───┬───┬───┐
        │ 0 │ 1 │ 2 │ 3 │ 4 │      1 and 3 look alike; a wall is below them
        └─┬─┴───┴─┬─┴───┴─┬─┘
          trap  treasure  trap

    Action: 0 left, 1 right, 2 down; against a wall nothing moves. Start: 0 with probability 0.6, 4 with 0.4. Reward: 1 on entering the
    treasure, −1 on entering a trap; both terminate. In 1 and 3 a policy needs to go to different sides and cannot tell which:
    going right for certain reaches the treasure from 0 and never from 4. The best is to toss a biased coin (`aliased_grid_best`).

    States: 0 to 4 the cells, 5 the traps, 6 the treasure. Observations: 0, 1, 2, 1, 3, and 4 and 5 for the last two.

    Args:
        discount: γ in [0, 1], that of the objective.
        time_limit: steps after which an episode is truncated, or None.

    Reference: the aliased grid world of David Silver's lectures on reinforcement learning, lecture 7, whose symmetric start
        makes the best coin fair.
    """
    rewards = np.zeros((7, 3, 7))
    rewards[:5, 2, 5], rewards[:5, 2, 6] = -1.0, 1.0
    return FiniteMDP(
        transitions=_deterministic([[0, 1, 5], [0, 2, 1], [1, 3, 6], [2, 4, 3], [3, 4, 5], [5, 5, 5], [6, 6, 6]]),
        rewards=rewards,
        initial=[0.6, 0, 0, 0, 0.4, 0, 0],
        discount=discount,
        terminal=[5, 6],
        time_limit=time_limit,
        observations=[0, 1, 2, 1, 3, 4, 5],
        name="aliased-grid",
    )


def aliased_grid_best(discount: float = 0.9) -> tuple[float, float]:
    """The best p = π(right) in the two cells that look alike, and the value of that policy, without time limit.

    With g = γ², the policy that goes right in 0, left in 4 and down in 2 reaches the treasure with a value of

        J(p) = 0.6 g p / (1 − g (1 − p)) + 0.4 g (1 − p) / (1 − g p),    concave, with its maximum at
        p = (√0.6 − √0.4 (1 − g)) / (g (√0.6 + √0.4)),                   0.574 and 0.684 at γ = 0.9

    Args:
        discount: γ, below 1 (at 1 every 0 < p < 1 is as good) and above about 0.43, from where on p is below 1.

    Raises:
        UsageError: γ lies outside.
    """
    g, a, b = discount**2, math.sqrt(0.6), math.sqrt(0.4)
    if not (0 < discount < 1 and a - b * (1 - g) < g * (a + b)):
        raise UsageError(f"aliased_grid_best: got discount={discount}; the best policy is inside for {math.sqrt(1 - b / a):.3f} < γ < 1")
    p = (a - b * (1 - g)) / (g * (a + b))
    return p, 0.6 * g * p / (1 - g * (1 - p)) + 0.4 * g * (1 - p) / (1 - g * p)


T_MAZE_THRESHOLD = 3.8
"""95 % of the 4 that a policy can get that remembers; one that does not gets half of it."""


def t_maze(*, length: int = 10, discount: float = 1.0, time_limit: int | None = None) -> FiniteMDP:
    """A corridor with a sign at its start that says which way to turn at its end.

                                      north
        ┌───────┬───┬───┬─   ─┬───┬──────────┐
        │ start │ 1 │ 2 │  …  │   │ junction │      the junction is cell N = length
        └───────┴───┴───┴─   ─┴───┴──────────┘
                                      south

    Action: 0 north, 1 east, 2 south, 3 west. At the junction north and south both end the episode; elsewhere they, and west at the
    start and east at the junction, run into a wall: nothing moves.
    Reward: 4 for the turn that the sign said, −0.1 for the other and for every step into a wall, 0 for the rest.
    Start: in cell 0; the sign is north or south with probability 1/2.
    Observation: 0 the start with the sign north, 1 the same with south, 2 the corridor, 3 the junction (the paper's 011, 110, 101 and 010).

    The best takes N + 1 steps and gets 4, by remembering over N steps what was seen at the first. Without memory the turn is a guess, worth
    (4 − 0.1)/2 = 1.95 however the coin is biased; `t_maze_best`.

    States: x the cells under the sign north, N + 1 + x those under south, 2 N + 2 the end, which looks like the junction.

    Args:
        length: N, the number of steps from the start to the junction, ≥ 2.
        discount: γ in [0, 1], that of the objective; the paper's algorithm has 0.98.
        time_limit: steps after which an episode is truncated, or None; N + 1 are needed.

    Raises:
        UsageError: length is below 2, which leaves no corridor.

    Reference: Bakker 2001, "Reinforcement learning with Long Short-Term Memory", which has N from 5 to 70.
    """
    checks.at_least("t_maze", "length", length, 2)
    cells = length + 1
    end = 2 * cells
    after = np.arange(end + 1)[:, None].repeat(4, axis=1)
    rewards = np.zeros((end + 1, 4))
    for right, first in ((0, 0), (2, cells)):  # what the sign says, and the start under it
        cell = np.arange(first, first + cells)
        after[cell[:-1], 1] = cell[1:]
        after[cell[1:], 3] = cell[:-1]
        rewards[cell] = np.where(after[cell] == cell[:, None], -0.1, 0.0)
        junction = cell[-1]
        after[junction, [0, 2]] = end
        rewards[junction, [0, 2]] = -0.1
        rewards[junction, right] = 4.0
    looks = np.full(cells, 2)
    looks[-1] = 3
    initial = np.zeros(end + 1)
    initial[[0, cells]] = 0.5
    return FiniteMDP(
        transitions=_deterministic(after),
        rewards=rewards,
        initial=initial,
        discount=discount,
        terminal=[end],
        time_limit=time_limit,
        observations=[0, *looks[1:], 1, *looks[1:], 3],
        name="t-maze",
        reward_threshold=T_MAZE_THRESHOLD,
    )


def t_maze_best(length: int = 10, discount: float = 1.0) -> tuple[float, float]:
    """The most that a policy can get in the T-maze with memory, and without: (4 γ^N, 1.95 γ^N); (4, 1.95) at γ = 1.

    Without memory, the policy goes east to the junction under either sign, so that both get there at the same time, and turns north
    with any probability q: γ^N ((4 q − 0.1 (1 − q)) + (4 (1 − q) − 0.1 q)) / 2. To go on differently under the two signs it could only
    run into the wall at the start, at −0.1 each time, and what is to be saved by that is a wrong turn, −0.1 and later.

    Args:
        length, discount: as for `t_maze`, whose time limit must leave N + 1 steps.
    """
    checks.at_least("t_maze_best", "length", length, 2)
    late = checks.discount(discount) ** length
    return 4 * late, 1.95 * late


def rare_reward(
    *, chance: float = 0.01, prize: float = 100.0, wage: float = 0.5, discount: float = 1.0, time_limit: int | None = 1
) -> FiniteMDP:
    """A steady wage or a rare prize: the better action nearly always looks like the worse one.

        action 0: wage                                     → home
        action 1: prize with probability chance, else 0    → jackpot, or home

    With the defaults the gamble is worth 1, twice the wage, but 99 of 100 samples of it pay nothing: the gradient's variance is
    made of the one that does. Every episode takes one step; home and jackpot are terminal states of their own, so the reward
    is known from the transition.

    Args:
        chance: probability of the prize, in [0, 1].
        prize: the reward of the jackpot.
        wage: the reward of the steady action.
        discount: γ in [0, 1]; without effect on episodes of one step.
        time_limit: steps after which an episode is truncated, or None; 1 makes each end both terminated and truncated.
    """
    if not 0 <= chance <= 1:
        raise UsageError(f"rare_reward: got chance={chance}; it must be a probability in [0, 1]")
    transitions, rewards = np.zeros((2, 3, 2, 3))
    transitions[0] = [[0.0, 1.0, 0.0], [0.0, 1 - chance, chance]]
    rewards[0] = [[wage, wage, wage], [0.0, 0.0, prize]]
    return FiniteMDP(
        transitions=transitions,
        rewards=rewards,
        initial=[1.0, 0.0, 0.0],
        discount=discount,
        terminal=[1, 2],
        time_limit=time_limit,
        name="rare-reward",
    )


def two_state(*, discount: float = 0.9, time_limit: int | None = None) -> FiniteMDP:
    """A → B → B → …, whatever is done: A is visited at t = 0 alone, B ever after.

        d(A) = 1 − γ,    d(B) = (1 − γ) Σ_{t≥1} γ^t = γ        (0.1, 0.9) at γ = 0.9

    Both actions lead to B; the second pays 1 in B, and nothing else pays, so its choice matters at every step but the first.

    Args:
        discount: γ in [0, 1], that of the objective.
        time_limit: steps after which an episode is truncated, or None.
    """
    return FiniteMDP(
        transitions=_deterministic([[1, 1], [1, 1]]),
        rewards=[[0.0, 0.0], [0.0, 1.0]],
        initial=[1.0, 0.0],
        discount=discount,
        time_limit=time_limit,
        name="two-state",
    )


def one_state(*, discount: float = 0.9, time_limit: int | None = None) -> FiniteMDP:
    """One state that never ends: its discounted visits sum to 1/(1 − γ), and to 1 when multiplied by 1 − γ.

    Action 1 pays 1 and action 0 nothing, so J = π(1) / (1 − γ).

    Args:
        discount: γ in [0, 1], that of the objective.
        time_limit: steps after which an episode is truncated, or None.
    """
    return FiniteMDP(
        transitions=_deterministic([[0, 0]]),
        rewards=[[0.0, 1.0]],
        initial=[1.0],
        discount=discount,
        time_limit=time_limit,
        name="one-state",
    )


WORLDS: dict[str, Callable[..., FiniteMDP]] = {
    "fork": fork,
    "short-corridor": short_corridor,
    "aliased-grid": aliased_grid,
    "t-maze": t_maze,
    "rare-reward": rare_reward,
    "two-state": two_state,
    "one-state": one_state,
}
"""The worlds by name."""


def finite_world(name: str, **kwargs: Any) -> FiniteMDP:
    """Makes the finite MDP of that name.

    Args:
        name: one of `WORLDS`.
        kwargs: the world's own, in its docstring; all take `discount` and `time_limit`.

    Raises:
        UnknownNameError: no such name; the nearest are offered.
        UsageError: a keyword that the world does not take, or a value that it refuses.
    """
    if name not in WORLDS:
        raise UnknownNameError("finite world", name, WORLDS)
    accepted = inspect.signature(WORLDS[name]).parameters
    unknown = [key for key in kwargs if key not in accepted]
    if unknown:
        raise UsageError(f"finite world {name!r} does not take {', '.join(unknown)}; its keyword arguments: {', '.join(accepted)}")
    return WORLDS[name](**kwargs)


def _deterministic(after: Any) -> np.ndarray:
    """[S, A] next states -> [S, A, S] probabilities."""
    return np.eye(len(after))[np.asarray(after)]
