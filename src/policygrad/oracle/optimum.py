"""The most that any policy can get: with the state in view, exactly; with observations only, by exact gradients."""

from __future__ import annotations

import itertools
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from scipy import optimize

from policygrad.envs.finite import FiniteMDP
from policygrad.errors import UsageError
from policygrad.oracle.finite import evaluate, objective
from policygrad.oracle.scope import float64
from policygrad.oracle.tables import Tables, endless_states, require_finite, unbounded
from policygrad.policies import tabular_softmax
from policygrad.types import Array

STRICTLY = 1e-11
"""How much better an action must be, in units of the largest value, to be another action and not rounding."""
FARTHEST = 15.0
"""Logits stay within: probabilities down to 1e-13, so that even an episode that hardly ever ends has a value that is not rounding."""
NEARLY = 4.0
"""The logit of the preferred action of a nearly deterministic start: 98 % against one other action."""


class Best(NamedTuple):
    """An optimal policy that sees the state, and with a time limit the step as well."""

    value: float  # J*
    actions: np.ndarray  # [S], or [H, S] by steps since the reset; 0 at terminal states
    state_values: np.ndarray  # V* [S] or [H, S]


class BestMemoryless(NamedTuple):
    """The best stochastic policy of the observation that was found."""

    value: float
    probabilities: np.ndarray  # [O, A]


def best(mdp: FiniteMDP) -> Best:
    """The optimal value, over all policies whatever they see and remember.

        V*(s) = max_a [r(s, a) + γ Σ_{s'} P(s'|s, a) V*(s')]        J* = E_{s~μ} V*(s)

    Policy iteration; with a time limit, backward induction (the best action then depends on the steps left).

    Args:
        mdp: at discount 1 without a time limit the maximum is over policies under which every episode ends.

    Returns:
        `Best`, exact up to rounding.

    Raises:
        UsageError: discount 1 without a time limit, and an episode that may never end under the uniform policy, or pays for ever.

    Reference: Puterman 1994, sections 4.3 and 6.4; Bertsekas and Tsitsiklis 1991, "An analysis of stochastic shortest path problems".
    """
    require_finite(mdp)
    if mdp.time_limit is not None:
        return _backward_induction(mdp, mdp.time_limit)
    shape = mdp.num_states, mdp.num_actions
    if mdp.discount == 1:
        endless = endless_states(mdp, np.ones(shape, bool))
        if endless.any():  # never reached
            return best(mdp.replace(terminal=mdp.terminal | endless))
    policy = np.full(shape, 1 / mdp.num_actions)
    while True:
        V, Q = _state_and_action_values(mdp, policy)
        better = Q.max(axis=1) > V + STRICTLY * max(1.0, np.abs(V).max())
        better &= ~mdp.terminal
        if not better.any():
            break
        # An action is only left for a strictly better one: at discount 1 two equally good ones may send each other round and round.
        policy[better] = np.eye(mdp.num_actions)[Q[better].argmax(axis=1)]
        if mdp.discount == 1 and _endless(mdp, policy):
            raise UsageError(f"{mdp.name}: got rewards that pay for going round for ever; it must have a discount below 1 or a time limit")
    return Best(float(mdp.initial @ V), _choice(mdp, V, Q), V)


def _state_and_action_values(mdp: FiniteMDP, policy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    moves = np.einsum("sa,sat->st", policy, mdp.transitions)
    V = np.linalg.solve(np.eye(mdp.num_states) - mdp.discount * moves, (policy * mdp.expected_rewards).sum(axis=1))
    return V, mdp.expected_rewards + mdp.discount * mdp.transitions @ V


def _endless(mdp: FiniteMDP, policy: np.ndarray) -> bool:
    try:
        return bool(endless_states(mdp, policy > 0).any())
    except UsageError:
        return True


def _choice(mdp: FiniteMDP, V: np.ndarray, Q: np.ndarray) -> np.ndarray:
    """An optimal action for each state, [S]; at discount 1 one that leads to an end."""
    actions = Q.argmax(axis=1)
    if mdp.discount < 1:
        return actions
    good = Q - V[:, None] > -STRICTLY * max(1.0, np.abs(V).max())
    settled = mdp.terminal.copy()
    while True:
        arrives = good & (mdp.transitions[:, :, settled].sum(axis=2) > 0)
        new = arrives.any(axis=1) & ~settled
        if not new.any():
            return np.where(mdp.terminal, 0, actions)
        actions[new] = arrives[new].argmax(axis=1)
        settled |= new


def _backward_induction(mdp: FiniteMDP, limit: int) -> Best:
    V = np.zeros((limit + 1, mdp.num_states))
    actions = np.zeros((limit, mdp.num_states), int)
    for k in reversed(range(limit)):
        Q = mdp.expected_rewards + mdp.discount * mdp.transitions @ V[k + 1]
        V[k], actions[k] = Q.max(axis=1), Q.argmax(axis=1)
    return Best(float(mdp.initial @ V[0]), actions, V[:-1])


def best_memoryless(mdp: FiniteMDP, *, starts: int = 16, seed: int = 0) -> BestMemoryless:
    """The best stochastic policy of the observation alone: a local search, by L-BFGS on logits with the exact gradient.

        max_θ J(softmax(θ))        θ [O, A]

    It climbs from the uniform policy, then from near deterministic ones, all A^O of them where `starts` suffices, then from random
    ones. Where J has several optima the best may be missed: the value is attained by the policy returned, so it is a lower bound of
    the optimum, and where the ascents can only end at one it is the optimum to 1e-8. (The problem itself is NP-hard.)

    Args:
        mdp: discount 1 needs a time limit or terminal states that can be reached from everywhere an episode goes.
        starts: how many ascents, ≥ 1.
        seed: of the random starts, and of the choice among deterministic ones.

    Returns:
        `BestMemoryless`: J and π(a|o), [O, A].

    Raises:
        UsageError: starts below 1; an infinite sum, as for `best`.

    Reference: Littman 1994, "Memoryless policies: theoretical limitations and practical results"; Singh, Jaakkola and Jordan 1994,
    "Learning without state-estimation in partially observable Markovian decision processes".
    """
    require_finite(mdp)
    if isinstance(starts, bool) or not isinstance(starts, int | np.integer) or starts < 1:
        raise UsageError(f"starts: got {starts!r}; it must be a whole number of at least 1")
    alive = ~mdp.terminal
    if unbounded(mdp):
        alive &= ~endless_states(mdp, np.ones((mdp.num_states, mdp.num_actions), bool))
    t = Tables(
        mdp.transitions * alive[:, None, None], mdp.expected_rewards * alive[:, None], mdp.initial, alive * 1.0, np.float64(mdp.discount)
    )
    shape = mdp.num_observations, mdp.num_actions
    with float64():

        def descent(logits: np.ndarray) -> tuple[float, np.ndarray]:
            value, slope = _value_and_slope(logits.reshape(shape), mdp.observations, t, mdp.time_limit)
            return -float(value), -np.asarray(slope).ravel()

        found: list[tuple[float, np.ndarray]] = []
        for start in _starts(shape, starts, seed):
            tight = {"maxiter": 2000, "maxfun": 4000, "ftol": 1e-15, "gtol": 1e-11}
            box = [(-FARTHEST, FARTHEST)] * start.size
            climbed = optimize.minimize(descent, start.ravel(), jac=True, method="L-BFGS-B", bounds=box, options=tight)
            smooth = _softmax(climbed.x.reshape(shape))
            found += [(_attained(mdp, policy), policy) for policy in _with_zeros(smooth)]
    value, policy = max(found, key=lambda pair: pair[0])
    return BestMemoryless(value, policy)


@partial(jax.jit, static_argnames="limit")
def _value_and_slope(logits: Array, observations: Array, t: Tables, limit: int | None) -> tuple[Array, Array]:
    return jax.value_and_grad(lambda logits: evaluate(t, jax.nn.softmax(logits, axis=-1)[observations], limit))(logits)


def _softmax(logits: np.ndarray) -> np.ndarray:
    raised = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return raised / raised.sum(axis=-1, keepdims=True)


def _with_zeros(policy: np.ndarray) -> list[np.ndarray]:
    """The policy, and the same without its rarest actions: an optimum without them lies at infinite logits, out of reach."""
    kept = np.where(policy < 1e-4, 0, policy)
    return [policy, kept / kept.sum(axis=-1, keepdims=True)]


def _attained(mdp: FiniteMDP, probabilities: np.ndarray) -> float:
    """J of a policy [O, A]; −∞ where that makes an undiscounted episode go on for ever."""
    with np.errstate(divide="ignore"):
        logits = np.log(probabilities)
    try:
        return float(objective(mdp, tabular_softmax(logits)))
    except UsageError:
        return -np.inf


def _starts(shape: tuple[int, int], starts: int, seed: int) -> list[np.ndarray]:
    """Logits [O, A] to climb from."""
    num_observations, num_actions = shape
    rng = np.random.default_rng(seed)
    near = starts // 2
    if num_actions**num_observations < starts:
        choices = np.array(list(itertools.product(range(num_actions), repeat=num_observations)))
    else:
        choices = rng.integers(0, num_actions, (near, num_observations))
    logits = [np.zeros(shape), *(NEARLY * np.eye(num_actions)[choice] for choice in choices)]
    return [*logits, *rng.normal(size=(starts, *shape))][:starts]
