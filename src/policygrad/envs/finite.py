"""Finite MDPs: environments whose every probability is a number in a table, so that exact answers exist.

The tables are NumPy in float64, for `policygrad.oracle` to read; the environment made of them is compiled like any other, so
that the estimator that is measured is the one that trains.
"""

from __future__ import annotations

import functools
import importlib
import warnings
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from policygrad.envs import base, checks, gymnasium_adapter
from policygrad.errors import UnknownNameError, UsageError
from policygrad.spaces import Discrete
from policygrad.types import Array, Key, Step
from policygrad.vectors.single import made as made_env

TOLERANCE = 1e-8
"""How far a row of probabilities may be from summing to 1, …"""
TOLERANCE_FLOAT32 = 1e-5
"""… and how far where it comes in fewer digits than float64 has."""
EXACT = 1e-12
"""A row nearer to 1 than this is kept as it is; one further off is divided by its sum."""


@dataclass(frozen=True, eq=False, repr=False, init=False)
class FiniteMDP(base.Env):
    """A Markov decision process with finitely many states and actions, as tables and as an environment.

        s_0 ~ μ,    s_{t+1} ~ P(·|s_t, a_t),    r_t = R(s_t, a_t, s_{t+1}),    J = E[Σ_t γ^t r_t]

    The episode terminates on entering a terminal state and is truncated after `time_limit` steps; both can happen at once.
    The policy sees observations: states that share one look alike to it, and it must act alike in them.

    The environment's own state is s, int32, or (s, steps since the reset) with a time limit. An outcome of probability 0 never
    occurs, however the tables are rounded.

    Args:
        transitions: P, [S, A, S]: probabilities of the next state; the rows of terminal states are never read (kept as zeros).
        rewards: R, [S, A, S], or [S, A] where they do not depend on the next state; finite.
        initial: μ, [S]: probabilities of the first state; 0 at terminal states.
        discount: γ in [0, 1], that of the objective J. The discount of an algorithm is the recipe's own.
        terminal: the states that end the episode, [S] bool or a list of their numbers; none by default.
        time_limit: steps after which an episode is truncated, or None.
        observations: what each state looks like, [S], integers from 0 without gap; the state's own number by default.
        name: for messages and records.
        reward_threshold: the mean return, without discount, that counts as solved, or None.

    Attributes:
        transitions, rewards: [S, A, S] float64; zero in the rows of terminal states.
        initial: [S] float64. terminal: [S] bool. observations: [S] int32. All arrays are read-only copies.
        num_states, num_actions, num_observations: S, A, O.

    Raises:
        UsageError: a table of a wrong shape or that is no distribution, a reward that is not finite, a number out of range.

    Reference: Puterman 1994, *Markov Decision Processes*, chapters 2 and 6; Sutton and Barto, chapter 3.

    An example, a coin that is worth its face until tails ends the game:

        >>> mdp = FiniteMDP(transitions=[[[0.5, 0.5]], [[0, 0]]], rewards=[[1.0], [0.0]], initial=[1, 0], discount=0.9, terminal=[1])
        >>> mdp
        FiniteMDP(2 states, 1 terminal, 1 action, discount 0.9)
    """

    transitions: np.ndarray
    rewards: np.ndarray
    initial: np.ndarray
    discount: float
    terminal: np.ndarray
    observations: np.ndarray
    _arguments: dict[str, Any]

    def __init__(
        self,
        *,
        transitions: Any,
        rewards: Any,
        initial: Any,
        discount: float,
        terminal: Any = None,
        time_limit: int | None = None,
        observations: Any = None,
        name: str = "FiniteMDP",
        reward_threshold: float | None = None,
    ):
        if not isinstance(name, str):
            raise UsageError(f"name: got {name!r}; it must be a string")
        given = checks.numbers("transitions", transitions)
        if given.ndim != 3 or given.size == 0 or given.shape[0] != given.shape[2]:
            raise UsageError(f"transitions: got shape {given.shape}; it must be [S, A, S], states × actions × next states")
        num_states, num_actions, _ = given.shape
        ends = _terminal(terminal, num_states)
        # What is remembered for `replace`: rows of terminal states included, as they were given.
        arguments = {
            "transitions": checks.frozen(given),
            "rewards": checks.frozen(_rewards(rewards, num_states, num_actions, ends)),
            "initial": checks.frozen(_initial(initial, ends, _tolerance(initial))),
            "discount": checks.discount(discount),
            "terminal": checks.frozen(ends),
            "time_limit": checks.time_limit(time_limit),
            "observations": checks.frozen(_observations(observations, num_states)),
            "name": name,
            "reward_threshold": checks.reward_threshold(reward_threshold),
        }
        tables = {
            "transitions": checks.frozen(_distributions(given, ends, _tolerance(transitions))),
            "rewards": _paid(arguments["rewards"], ends),
        }
        attributes = arguments | tables
        reset, step = _dynamics(attributes)
        looks, threshold = Discrete(int(attributes["observations"].max()) + 1), arguments["reward_threshold"]
        env = base.Env(name, looks, Discrete(num_actions), reset, step, reward_threshold=threshold)
        if time_limit is not None:
            env = base.time_limit(env, int(time_limit))
        for key, value in (attributes | vars(env) | {"_arguments": arguments}).items():
            object.__setattr__(self, key, value)

    @staticmethod
    def from_gymnasium(id: str, *, discount: float = 0.99, **kwargs: Any) -> FiniteMDP:
        """Reads the tables that Gymnasium's toy-text environments carry: FrozenLake, CliffWalking, Taxi, and others built like them.

        States, actions and observations have Gymnasium's numbers. A state that is only ever entered with termination is terminal. One that
        is also entered without gets a terminal copy behind the others, which looks like the original: Taxi's 500 states become 504, of
        500 observations. Outcomes that share a next state are one outcome, with the sum of their probabilities and their mean
        reward: the same expectations of everything, but where their rewards differ (slippery CliffWalking, beside its start)
        not the same variance.

        Args:
            id: an id of Gymnasium's whose environment has the tables `P` and `initial_state_distrib`. Gymnasium must step by them
                alone; that is known of its own and cannot be seen of others. "Taxi-v3" means Taxi-v4, whose tables are the same
                unless it rains.
            discount: γ in [0, 1]; Gymnasium has none.
            kwargs: the environment's, such as map_name="8x8" or is_slippery=False; `max_episode_steps` too, −1 for no time limit.

        Raises:
            UnknownNameError: no such id. UsageError: an environment without tables, or that does more than they say (Taxi's fickle
                passenger, wrappers that change it); arguments that it does not take.
        """
        return _read(id, discount, kwargs)

    @property
    def num_states(self) -> int:
        """S, terminal states included."""
        return self.transitions.shape[0]

    @property
    def num_actions(self) -> int:
        """A."""
        return self.transitions.shape[1]

    @property
    def num_observations(self) -> int:
        """O ≤ S."""
        return int(self.observations.max()) + 1

    @functools.cached_property
    def expected_rewards(self) -> np.ndarray:
        """r(s, a) = Σ_{s'} P(s'|s, a) R(s, a, s'), [S, A] float64, zero at terminal states."""
        return checks.frozen(np.einsum("sat,sat->sa", self.transitions, self.rewards))

    def replace(self, **changes: Any) -> FiniteMDP:
        """The same MDP with some of its arguments changed.

        Rows of terminal states are remembered as they were given, so a state can be made non-terminal again.

        Raises:
            UnknownNameError: no such argument. UsageError: the arguments do not make an MDP.
        """
        for name in changes:
            if name not in self._arguments:
                raise UnknownNameError("argument of FiniteMDP", name, self._arguments)
        return FiniteMDP(**(self._arguments | changes))

    def __repr__(self) -> str:
        def count(number: int, what: str) -> str:
            return f"{number} {what}" + ("s" if number != 1 else "")

        parts = [] if self.name == "FiniteMDP" else [self.name]
        parts.append(count(self.num_states, "state"))
        if self.terminal.any():
            parts.append(f"{self.terminal.sum()} terminal")
        parts.append(count(self.num_actions, "action"))
        if self.num_observations < self.num_states:
            parts.append(count(self.num_observations, "observation"))
        parts.append(f"discount {self.discount:g}")
        if self.time_limit is not None:
            parts.append(f"time limit {self.time_limit}")
        return f"FiniteMDP({', '.join(parts)})"


# ── the environment ──────────────────────────────────────────────────────────────────────────────────────────────────


def _dynamics(tables: dict[str, Any]) -> Any:
    """reset and step over tables of the outcomes that can occur: Taxi's [500, 6, 500] would be 12 MB in a compiled program."""
    moves, rewards, terminal, observations = (tables[name] for name in ("transitions", "rewards", "terminal", "observations"))
    num_states, num_actions, _ = moves.shape
    successors, thresholds = _outcomes(moves.reshape(-1, num_states))
    outcomes = successors.shape[1]
    successors, thresholds = (table.reshape(num_states, num_actions, -1) for table in (successors, thresholds))
    paid = np.take_along_axis(rewards, successors, axis=2)
    starts, start_thresholds = (table[0] for table in _outcomes(tables["initial"][None]))

    def reset(key: Key) -> tuple[Array, Array]:
        state = jnp.asarray(starts)[_draw(key, start_thresholds)]
        return state, jnp.asarray(observations)[state]

    def step(key: Key, state: Array, action: Array) -> tuple[Array, Step]:
        outcome = _draw(key, jnp.asarray(thresholds)[state, action]) if outcomes > 1 else 0
        reward = jnp.asarray(paid)[state, action, outcome]
        state = jnp.asarray(successors)[state, action, outcome]
        return state, Step(jnp.asarray(observations)[state], reward, jnp.asarray(terminal)[state], jnp.zeros((), bool))

    return reset, step


def _outcomes(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What can happen in each row of probabilities [N, S], and when.

    Returns:
        (outcomes [N, K] int32, thresholds [N, K − 1]), K the largest number of outcomes of a row: a uniform number in [0, 1)
        means outcome k where it reaches k thresholds. A row that has fewer repeats its last outcome, which so takes all that is
        left: a sum that is rounded to below 1 leaves no room for an outcome of probability 0.
    """
    most = max(1, int((rows > 0).sum(axis=1).max()))
    # Stable: among outcomes that occur, the order of the states.
    order = np.argsort(rows <= 0, axis=1, kind="stable")[:, :most]
    chances = np.take_along_axis(rows, order, axis=1)
    occurs = chances > 0
    last = np.maximum(occurs.sum(axis=1) - 1, 0)[:, None]
    order = np.where(occurs, order, np.take_along_axis(order, last, axis=1))
    return order.astype(np.int32), np.cumsum(chances, axis=1)[:, :-1]


def _draw(key: Key, thresholds: Array) -> Array:
    """The outcome that one uniform number stands for."""
    return (jax.random.uniform(key) >= jnp.asarray(thresholds)).sum()


# ── checks ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _tolerance(given: Any) -> float:
    coarse = getattr(given, "dtype", None) in (np.float16, np.float32)
    return TOLERANCE_FLOAT32 if coarse else TOLERANCE


def _distributions(table: np.ndarray, terminal: np.ndarray, tolerance: float) -> np.ndarray:
    table = np.where(terminal[:, None, None], 0.0, table)
    for wrong, must in ((~np.isfinite(table), "a finite probability"), (table < 0, "at least 0")):
        if wrong.any():
            first = np.argwhere(wrong)[0]
            raise UsageError(f"{checks.at('transitions', first)}: got {table[tuple(first)]:g}; it must be {must}")
    sums = table.sum(axis=2)
    off = np.abs(sums - 1) * ~terminal[:, None]
    if (off > tolerance).any():
        first = np.argwhere(off > tolerance)[0]
        hint = "the probabilities of all next states, 1" if sums[tuple(first)] else "1 (a state without moves belongs in `terminal`)"
        raise UsageError(f"{checks.at('transitions', first)}: its row sums to {sums[tuple(first)]:.10g}; it must sum to {hint}")
    return np.where((off > EXACT)[..., None], table / np.where(sums == 0, 1, sums)[..., None], table)


def _initial(values: Any, terminal: np.ndarray, tolerance: float) -> np.ndarray:
    start = checks.numbers("initial", values)
    if start.shape != terminal.shape:
        raise UsageError(f"initial: got shape {start.shape}; it must be [{len(terminal)}], a probability for each state")
    wrong = ~np.isfinite(start) | (start < 0)
    if wrong.any():
        first = np.argwhere(wrong)[0]
        raise UsageError(f"{checks.at('initial', first)}: got {start[tuple(first)]:g}; it must be a finite probability of at least 0")
    if (start[terminal] > 0).any():
        first = np.argwhere(terminal & (start > 0))[0]
        raise UsageError(
            f"{checks.at('initial', first)}: got {start[tuple(first)]:g} at a terminal state; no episode can start there: give it 0"
        )
    total = start.sum()
    if abs(total - 1) > tolerance:
        raise UsageError(f"initial: sums to {total:.10g}; the probabilities of all first states must sum to 1")
    return start / total if abs(total - 1) > EXACT else start


def _rewards(values: Any, num_states: int, num_actions: int, terminal: np.ndarray) -> np.ndarray:
    rewards = checks.numbers("rewards", values)
    shapes = ((num_states, num_actions), (num_states, num_actions, num_states))
    if rewards.shape not in shapes:
        raise UsageError(f"rewards: got shape {rewards.shape}; it must be {shapes[1]}, or {shapes[0]} where the next state does not matter")
    wrong = ~np.isfinite(rewards)
    wrong[terminal] = False
    if wrong.any():
        first = np.argwhere(wrong)[0]
        raise UsageError(f"{checks.at('rewards', first)}: got {rewards[tuple(first)]:g}; it must be a finite number")
    return rewards


def _paid(rewards: np.ndarray, terminal: np.ndarray) -> np.ndarray:
    """[S, A, S] from either form, zero at terminal states; a view of [S, A] where they do not depend on the next state."""
    rewards = np.where(terminal.reshape(-1, *[1] * (rewards.ndim - 1)), 0.0, rewards)
    num_states, num_actions = rewards.shape[:2]
    return checks.frozen(np.broadcast_to(rewards.reshape(num_states, num_actions, -1), (num_states, num_actions, num_states)))


def _terminal(values: Any, num_states: int) -> np.ndarray:
    states = np.zeros(0, int) if values is None else np.asarray(values)
    if states.dtype == bool:
        if states.shape != (num_states,):
            raise UsageError(f"terminal: got shape {states.shape}; it must be [{num_states}] booleans, or a list of state numbers")
        mask = states.copy()
    else:
        if states.ndim != 1 or (states.size and not np.issubdtype(states.dtype, np.integer)):
            raise UsageError(f"terminal: got {values!r}; it must be [{num_states}] booleans, or a list of state numbers")
        outside = (states < 0) | (states >= num_states)
        if outside.any():
            raise UsageError(f"terminal: got state {states[outside][0]}; there are states 0 to {num_states - 1}")
        if len(np.unique(states)) != len(states):
            raise UsageError(f"terminal: got {states.tolist()}, a state twice; list each once, or give [{num_states}] booleans")
        mask = np.isin(np.arange(num_states), states)
    if mask.all():
        raise UsageError(f"terminal: got all {num_states} states; at least one must be left to start in")
    return mask


def _observations(values: Any, num_states: int) -> np.ndarray:
    looks = np.arange(num_states) if values is None else np.asarray(values)
    if looks.shape != (num_states,) or not np.issubdtype(looks.dtype, np.integer):
        raise UsageError(f"observations: got shape {looks.shape} of {looks.dtype}; it must be [{num_states}] integers, one for each state")
    if (looks < 0).any():
        first = np.argwhere(looks < 0)[0]
        raise UsageError(f"{checks.at('observations', first)}: got {looks[tuple(first)]}; observations are numbered from 0")
    absent = np.flatnonzero(~np.isin(np.arange(min(looks.max() + 1, num_states)), looks))
    if absent.size:
        raise UsageError(f"observations: no state looks like {absent[0]}, but one like {looks.max()}; number them from 0 without gap")
    return looks.astype(np.int32)


# ── Gymnasium's tables ───────────────────────────────────────────────────────────────────────────────────────────────

_SUCCESSORS = {"Taxi-v3": ("Taxi-v4", {"is_rainy", "rainy_probability"})}
"""Versions that Gymnasium no longer makes: the one that carries the same tables, and the arguments for which it does not."""


def _read(id: str, discount: float, kwargs: dict[str, Any]) -> FiniteMDP:
    env, limit = _made(id, kwargs)
    try:
        num_states, num_actions = _sizes(id, env)
        outcomes = _listed(id, env.P, num_states, num_actions)
        initial = np.array(env.initial_state_distrib, np.float64)
    finally:
        env.close()
    if initial.shape != (num_states,):
        raise UsageError(f"{id}: initial_state_distrib has shape {initial.shape}, but there are {num_states} states")
    terminal, copies = _ends(outcomes, initial)
    size = num_states + len(copies)
    transitions, rewards = np.zeros((2, size, num_actions, size))
    for state, action, chance, after, reward, ended in outcomes:
        place = state, action, copies.get(after, after) if ended else after
        transitions[place] += chance
        rewards[place] += chance * reward
    return FiniteMDP(
        transitions=transitions,
        rewards=np.divide(rewards, transitions, out=np.zeros_like(rewards), where=transitions > 0),
        initial=np.append(initial, np.zeros(len(copies))),
        discount=discount,
        terminal=sorted(terminal | set(copies.values())),
        time_limit=limit,
        observations=[*range(num_states), *copies],
        name=id,
    )


def _made(id: str, kwargs: dict[str, Any]) -> tuple[Any, int | None]:
    """The environment under its wrappers, and the time limit that they set."""
    import gymnasium

    if not isinstance(id, str):
        raise UsageError(f"from_gymnasium: got {id!r}; give an id of Gymnasium's, such as 'FrozenLake-v1'")
    made, changed = _SUCCESSORS.get(id, (id, set()))
    if id in gymnasium.registry or changed & kwargs.keys():
        made = id
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a version is out of date
        try:
            module, _, short = made.rpartition(":")
            if module:
                importlib.import_module(module)
            gymnasium.spec(short)
        except (gymnasium.error.DeprecatedEnv, ImportError) as error:
            raise UsageError(f"environment {id}: {error}") from error
        except gymnasium.error.Error as error:
            raise UnknownNameError("environment", id, gymnasium.registry) from error
    env = made_env(id, lambda: gymnasium.make(made, **{"disable_env_checker": True} | kwargs))
    limits: list[int] = []
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, gymnasium.wrappers.TimeLimit):
            limits.append(env._max_episode_steps)
        elif not isinstance(env, gymnasium.wrappers.OrderEnforcing | gymnasium.wrappers.PassiveEnvChecker):
            env.close()
            raise UsageError(f"environment {id}: its wrapper {type(env).__name__} may change what the tables say; make it without")
        env = env.env
    return env, min(limits, default=None)


def _sizes(id: str, env: Any) -> tuple[int, int]:
    if not (isinstance(getattr(env, "P", None), dict) and hasattr(env, "initial_state_distrib")):
        raise UsageError(
            f"environment {id}: {type(env).__name__} carries no tables (P, initial_state_distrib);"
            " FrozenLake, CliffWalking and Taxi do, others must be written as FiniteMDP(transitions=…, rewards=…, …)"
        )
    if getattr(env, "fickle_passenger", False):
        raise UsageError(f"environment {id}: its tables do not hold fickle_passenger=True, by which the destination moves; leave it out")
    spaces = gymnasium_adapter.described_spaces(id, env.observation_space, env.action_space)
    for role, space in zip(("observation", "action"), spaces, strict=True):
        if not isinstance(space, Discrete) or space.start:
            raise UsageError(f"environment {id}: got the {role} space {space}; tables number from 0: Discrete(n)")
    return spaces[0].n, spaces[1].n  # type: ignore[union-attr]


def _listed(id: str, table: Any, num_states: int, num_actions: int) -> list[tuple[int, int, float, int, float, bool]]:
    """Every outcome that can occur: (state, action, probability, next state, reward, terminated)."""
    outcomes = []
    for state in range(num_states):
        for action in range(num_actions):
            try:
                row = [(float(p), int(after), float(reward), bool(ended)) for p, after, reward, ended in table[state][action]]
            except (LookupError, TypeError, ValueError):
                where = f"P[{state}][{action}]"
                raise UsageError(f"environment {id}: {where} is no list of (probability, next state, reward, terminated)") from None
            for chance, after, reward, ended in row:
                if not 0 <= after < num_states:
                    raise UsageError(f"environment {id}: P[{state}][{action}] leads to state {after}; there are 0 to {num_states - 1}")
                if chance:
                    outcomes.append((state, action, chance, after, reward, ended))
    return outcomes


def _ends(outcomes: list[tuple[int, int, float, int, float, bool]], initial: np.ndarray) -> tuple[set[int], dict[int, int]]:
    """The terminal states, and those that need a terminal copy, with the copy's number.

    A state that ends an episode may have rows all the same (FrozenLake's goal leads to itself). What they say does not count,
    unless an episode can go on in that state.
    """
    ended = {after for *_, after, _, end in outcomes if end}
    onwards: dict[int, set[int]] = {}
    for state, _, _, after, _, end in outcomes:
        if not end:
            onwards.setdefault(state, set()).add(after)
    alive: set[int] = set()
    ahead = {state for state in range(len(initial)) if state not in ended or initial[state] > 0}
    while ahead:
        alive |= ahead
        ahead = set().union(*(onwards.get(state, set()) for state in ahead)) - alive
    both = sorted({after for state, _, _, after, _, end in outcomes if end and state in alive and after in alive})
    return ended - alive, {state: len(initial) + index for index, state in enumerate(both)}
