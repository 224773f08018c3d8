"""Tasks that need memory: what is seen now does not say what to do now.

    name                     what must be remembered                          the most without memory            with it
    PositionOnlyCartPole-v0  the last position and angle: their differences   not known                          500
    RepeatPrevious-v0        the last k cards, always                         `repeat_previous_best`: −0.49      1
    TMaze-v0                 one sign, seen N steps ago                       `finite_worlds.t_maze_best`: 1.95  4

The T-maze has finitely many states and so lives in `finite_worlds`, where the oracle can read it. In the short corridor and the aliased
grid states look alike as well; there, a coin does part of what memory would.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from policygrad.envs import checks, classic_control
from policygrad.envs.base import Env, time_limit
from policygrad.envs.hosted import POSITION_ONLY_CARTPOLE
from policygrad.errors import UsageError
from policygrad.spaces import Box, Discrete
from policygrad.types import Array, Key, PyTree, Step

# ── CartPole without velocities ──────────────────────────────────────────────────────────────────────────────────────


def position_only_cartpole(*, sutton_barto_reward: bool = False) -> Env:
    """CartPole-v1, of which only the cart's position and the pole's angle are seen; all else is `classic_control.cartpole`.

    Velocities have to be found from what was seen before: the differences of two observations give them, one step late.

    State: CartPole's. Observation: (x, θ), shape (2,), [m] and [rad].
    Action, start, reward, end, time limit and threshold: CartPole's.

    Gymnasium has none of it; `make` registers a twin on its CartPole's code under this id.

    Args:
        sutton_barto_reward: as for `cartpole`.

    Reference: Wierstra, Förster, Peters and Schmidhuber 2007, "Solving Deep Memory POMDPs with Recurrent Policy Gradients"; the name is
        that of POPGym (Morad et al. 2023), whose episodes have other lengths and pay 1 in all.
    """
    env = classic_control.cartpole(sutton_barto_reward=sutton_barto_reward)
    high = env.observation_space.high_array[::2]  # type: ignore[union-attr]

    def reset(key: Key) -> tuple[PyTree, Array]:
        state, obs = env.reset(key)
        return state, obs[::2]

    def step(key: Key, state: PyTree, action: Array) -> tuple[PyTree, Step]:
        state, step = env.step(key, state, action)
        return state, step._replace(obs=step.obs[::2])

    return replace(env, name=POSITION_ONLY_CARTPOLE, observation_space=Box.of(-high, high), reset=reset, step=step)


# ── repeat previous ──────────────────────────────────────────────────────────────────────────────────────────────────


def repeat_previous(k: int = 4, *, suits: int = 4, copies: int = 13) -> Env:
    """Cards are shown one by one; name the suit of the one that was shown k steps ago.

    A shuffled deck of n = suits · copies cards is dealt without return, c_0 at the reset and one a step:

        r_t = ±1 / (n − 1 − k),   + where a_t = c_{t−k},   0 for t < k

    so that the return is twice the share of right answers less 1: in [−1, 1]. A policy that remembers k cards gets 1. Without memory the
    best is to name any suit but the one in view, of which the deck holds one card less: −25/51 = −0.490 with the defaults
    (`repeat_previous_best`), hardly more than the −1/2 of guessing.

    State: (suits + k + 1,) int32, the cards left in the deck by suit, then c_t, …, c_{t−k}. Observation: c_t, Discrete(suits).
    Action: Discrete(suits).
    End: terminated when the last card is shown, after n − 1 steps, which is also the time limit.
    Threshold: 0.9, where 95 % of the answers are right.

    Args:
        k: how far back, 0 ≤ k ≤ n − 2; 0 asks for the card in view.
        suits: number of suits, ≥ 2.
        copies: cards of each suit, ≥ 1; 13 a deck.

    Raises:
        UsageError: a number is too small, or k leaves nothing to answer.

    Reference: Morad et al. 2023, "POPGym: Benchmarking Partially Observable Reinforcement Learning". In its code k counts the card in view,
        so that its 4, 32 and 64 (of 1, 2 and 3 decks) are 3, 31 and 63 here, and the end is a truncation.
    """
    cards = _deck("repeat_previous", k, suits, copies)
    share = 1 / (cards - 1 - k)

    def deal(key: Key, left: Array) -> tuple[Array, Array]:
        """One of the cards left: how many are left then, and its suit."""
        lot = jax.random.randint(key, (), 0, left.sum())
        suit = jnp.argmax(lot < jnp.cumsum(left)).astype(jnp.int32)
        return left - (jnp.arange(suits) == suit), suit

    def reset(key: Key) -> tuple[Array, Array]:
        left, suit = deal(key, jnp.full(suits, copies, jnp.int32))
        return jnp.concatenate([left, suit[None], jnp.zeros(k, jnp.int32)]), suit

    def step(key: Key, state: Array, action: Array) -> tuple[Array, Step]:
        left, shown = state[:suits], state[suits:]
        answered = cards - left.sum() > k
        reward = share * ((2 * (action == shown[k]) - 1) * answered).astype(float)
        left, suit = deal(key, left)
        state = jnp.concatenate([left, suit[None], shown[:-1]])
        return state, Step(suit, reward, left.sum() == 0, jnp.zeros((), bool))

    env = Env("RepeatPrevious-v0", Discrete(suits), Discrete(suits), reset, step, reward_threshold=0.9)
    return time_limit(env, cards - 1)


def repeat_previous_value(probabilities: Any, k: int = 4, *, suits: int = 4, copies: int = 13) -> float:
    """The expected return of a policy without memory.

        2/suits Σ_o Σ_a π(a|o) P(c_{t−k} = a | c_t = o) − 1,    P = (copies − [a = o]) / (n − 1),  for k = 0 [a = o]

    Any two places of a shuffled deck hold any two of its cards alike, so every answer is right with the same probability.

    Args:
        probabilities: π(a|o), [suits, suits], rows that sum to 1; or [suits], whatever is in view.
        k, suits, copies: as for `repeat_previous`.
    """
    cards = _deck("repeat_previous_value", k, suits, copies)
    policy = np.asarray(probabilities, np.float64)
    if policy.shape not in ((suits,), (suits, suits)):
        raise UsageError(f"repeat_previous_value: probabilities must be {(suits, suits)} or {(suits,)}: got {policy.shape}")
    for row in np.atleast_2d(policy):
        checks.probabilities(row, suits, "repeat_previous_value")
    same = np.eye(suits)
    before = same if k == 0 else (copies - same) / (cards - 1)
    return float(2 * (policy * before).sum() / suits - 1)


def repeat_previous_best(k: int = 4, *, suits: int = 4, copies: int = 13) -> float:
    """The most that a policy without memory can get: 2 copies / (n − 1) − 1, and 1 for k = 0.

    Args:
        k, suits, copies: as for `repeat_previous`.
    """
    cards = _deck("repeat_previous_best", k, suits, copies)
    return 1.0 if k == 0 else 2 * copies / (cards - 1) - 1


def _deck(who: str, k: int, suits: int, copies: int) -> int:
    """The number of cards."""
    checks.at_least(who, "k", k, 0)
    checks.at_least(who, "suits", suits, 2)
    checks.at_least(who, "copies", copies, 1)
    cards = suits * copies
    if k > cards - 2:
        raise UsageError(f"{who}: got k={k} with {cards} cards, which leaves nothing to answer; give k ≤ {cards - 2}, or more copies")
    return cards
