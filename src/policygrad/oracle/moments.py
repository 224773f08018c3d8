"""The exact mean and covariance of any estimator: every batch that it could have seen, each with its probability.

    E[ĝ] = Σ_batches P(batch) ĝ(batch)        Cov[ĝ] = Σ_batches P(batch) (ĝ(batch) − E[ĝ]) (ĝ(batch) − E[ĝ])ᵀ

The estimator is the algorithm's own `gradient`, called on the record that the collectors make: nothing is copied, so what is
measured is what trains. On a small MDP with a short horizon that is a finite sum.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from policygrad.envs.finite import FiniteMDP
from policygrad.errors import UsageError
from policygrad.oracle.gradient import policy_gradient, rollout_gradient
from policygrad.oracle.scope import as_float64, float64
from policygrad.oracle.tables import apply, require_finite
from policygrad.policies import require_spaces
from policygrad.types import Agent, Algorithm, Array, PyTree, Rollout, Spec

MOST_STEPS = 2**22
"""Steps in all trajectories together: half a gigabyte."""
MOST_WORK = 2**35
"""In the units of `_work`, about nanoseconds on one core: half a minute."""
MOST_PARAMETERS = 4096
"""Their covariance has 128 MB."""
CHUNK = 2**14
"""Numbers of one kind in a chunk of batches: they stay in a core's cache."""


class Trajectories(NamedTuple):
    """All that one column of a rollout can show."""

    rollout: Rollout  # [T, N] a trajectory a column, NumPy
    probability: np.ndarray  # [N] they sum to 1


@dataclass(frozen=True, eq=False, repr=False)
class Moments:
    """Exact moments of an estimator ĝ over batches. Vectors are flat, in the order of `jax.flatten_util.ravel_pytree`.

    Attributes:
        mean: E[ĝ], [P]. covariance: [P, P], of one batch's estimate. target: the gradient g it is held against, [P].
        unflatten: a flat vector [P] -> a pytree like the policy.
        num_trajectories: columns of a batch. sequences: trajectories that a column can show. batches: sequences^columns.
    """

    mean: np.ndarray
    covariance: np.ndarray
    target: np.ndarray
    unflatten: Callable[[np.ndarray], PyTree]
    num_trajectories: int
    sequences: int
    batches: int

    @property
    def bias(self) -> np.ndarray:
        """E[ĝ] − g, [P]."""
        return self.mean - self.target

    @property
    def variance(self) -> float:
        """tr Cov[ĝ] = E|ĝ − E[ĝ]|², of one batch's estimate."""
        return float(np.trace(self.covariance))

    @property
    def mean_square_error(self) -> float:
        """E|ĝ − g|² = variance + |bias|², of one batch's estimate."""
        return self.variance + float(self.bias @ self.bias)

    @property
    def signal_to_noise(self) -> float:
        """|E[ĝ]|² / tr Cov[ĝ]; infinite without variance, NaN where both are 0 up to rounding."""
        signal = float(self.mean @ self.mean)
        if self._is_nothing(math.sqrt(signal)):
            signal = 0.0
        return signal / self.variance if self.variance > self._rounding**2 else math.inf if signal > 0 else math.nan

    @property
    def cosine(self) -> float:
        """The cosine of the angle between E[ĝ] and g, in [−1, 1]; NaN where one of them is 0 up to rounding."""
        mean, target = float(np.linalg.norm(self.mean)), float(np.linalg.norm(self.target))
        if self._is_nothing(mean) or self._is_nothing(target):
            return math.nan
        return min(1.0, max(-1.0, float(self.mean @ self.target) / (mean * target)))

    @property
    def _rounding(self) -> float:
        """What a sum of numbers of this size may be off by."""
        return 1e-13 * math.sqrt(max(0.0, self.variance) + float(self.mean @ self.mean) + float(self.target @ self.target))

    def _is_nothing(self, length: float) -> bool:
        return length <= self._rounding

    def trajectories_for_cosine(self, cosine: float = 0.9) -> float:
        """How many trajectories bring the estimate within an angle of g.

            the least N ≥ num_trajectories with  ⟨m, g⟩ / (|g| √(|m|² + tr Σ · num_trajectories / N)) ≥ cosine

        m and Σ are the moments of one batch, and the estimate is an average of N / num_trajectories independent batches. Below
        the fraction stands its root-mean-square length: the expected cosine itself has no closed form.

        Args:
            cosine: in (0, 1).

        Returns:
            N, a real number; infinity if the bias keeps every average outside the angle.
        """
        if not 0 < cosine < 1:
            raise UsageError(f"cosine: got {cosine}; it must lie between 0 and 1")
        along = float(self.mean @ self.target) / (float(np.linalg.norm(self.target)) or math.nan)
        room = (along / cosine) ** 2 - float(self.mean @ self.mean)
        if not (along > 0 and room > 0):
            return math.inf
        return max(float(self.num_trajectories), self.variance * self.num_trajectories / room)

    def __repr__(self) -> str:
        sizes = f"{self.batches:,} batches of {self.num_trajectories} out of {self.sequences:,} trajectories"
        bias = float(np.linalg.norm(self.bias))
        return f"Moments({sizes}: |bias| {bias:.3g}, variance {self.variance:.3g}, cosine {self.cosine:.3g})"


def moments(
    algorithm: Algorithm,
    mdp: FiniteMDP,
    policy: Any,
    *,
    num_trajectories: int,
    horizon: int | None = None,
    behaviour: Any = None,
    agent: Agent | None = None,
    target: PyTree = None,
) -> Moments:
    """The exact mean and covariance of `algorithm.gradient` over everything it can see on a small MDP, in float64.

        E[ĝ] = Σ_{τ_1, …, τ_n} P(τ_1) ⋯ P(τ_n) ĝ(τ_1, …, τ_n)

    Where the algorithm collects whole episodes, each column is one episode from its reset to its end, of at most `horizon`
    steps, padded with mask 0. Where it collects steps, each column has `horizon` rows from a reset on, and an episode that ends
    is followed by the next. Only the policy's part of the gradient is measured. All n-tuples are visited, in chunks, so
    estimators that mix their trajectories are exact too.

    Args:
        algorithm: from a recipe or `compose`; its discount is its own and may differ from the MDP's.
        mdp: the world.
        policy: π_θ, a memoryless policy over the MDP's observations; cast to float64.
        num_trajectories: n ≥ 1, columns of a batch.
        horizon: steps of a trajectory, ≥ 1. Episodes: the MDP's time limit by default, the smaller of both if it has one.
            Steps: the algorithm's rollout length by default.
        behaviour: the policy that acts, with the log-probabilities that stand in the record; π_θ by default.
        agent: state of the algorithm (a critic, a baseline's statistics); its policy is replaced. A fresh agent by default.
        target: the gradient g that bias and cosine refer to, policy-shaped or flat. Episodes: by default ∇J of the MDP with this
            time limit, with its own discount. Steps: by default `rollout_gradient` over these rows, the advantage at the states
            that such a rollout visits, without γ^t and without time limit.

    Returns:
        `Moments`.

    Raises:
        UsageError: more batches than half a minute and half a gigabyte are enough for (the message has the largest sizes that
            fit), no horizon, a behaviour that never takes an action which π takes, or a target of another size.
        SpaceError: a policy for other spaces.
    """
    require_finite(mdp)
    if not isinstance(algorithm, Algorithm):
        raise UsageError(f"algorithm: got {type(algorithm).__name__}; it must be what a recipe returns, e.g. policygrad.reinforce()")
    whole = algorithm.collect.kind == "episodes"
    rows = _rows(algorithm, mdp, horizon)
    _check_count("num_trajectories", num_trajectories)
    world = mdp.replace(time_limit=rows) if whole else mdp
    with float64():
        policy = as_float64(policy)
        chances, logs = _acting(world, policy, behaviour)
        start, unflatten = ravel_pytree(policy)
        if start.size > MOST_PARAMETERS:
            raise UsageError(f"moments: got a policy of {start.size} parameters; their covariance fits for at most {MOST_PARAMETERS}")
        _check_size(world, chances, rows, num_trajectories, start.size, resets=not whole)
        rollout, probability = _enumerate(world, chances, logs, rows, resets=not whole)
        if target is None:
            target = policy_gradient(world, policy) if whole else rollout_gradient(mdp, policy, rows=rows)
        goal = np.asarray(ravel_pytree(target)[0], np.float64)
        if goal.shape != start.shape:
            raise UsageError(f"target: got {goal.size} numbers for a policy of {start.size} parameters; give a gradient like the policy")
        spec = Spec(world.observation_space, world.action_space, num_trajectories, world.time_limit)
        state: Agent = as_float64(agent or algorithm.init(jax.random.key(0), spec))
        state = state._replace(params=state.params._replace(policy=policy))
        batches = len(probability) ** num_trajectories
        size = min(max(1, CHUNK // (rows * num_trajectories + start.size)), 1 << (batches - 1).bit_length())
        sums = _sums(algorithm.gradient, num_trajectories, size, state, rollout, probability, goal)
        mean, square = (np.asarray(part) for part in sums)
    covariance = square - np.outer(mean, mean)  # about the target: it does not change, and less is cancelled
    return Moments(
        mean=mean + goal,
        covariance=(covariance + covariance.T) / 2,
        target=goal,
        unflatten=partial(_unflatten, unflatten),
        num_trajectories=num_trajectories,
        sequences=len(probability),
        batches=batches,
    )


def enumerate_trajectories(mdp: FiniteMDP, policy: Any, *, horizon: int, resets: bool = False) -> Trajectories:
    """Every trajectory of `horizon` steps from a reset, with its exact probability, as a collector would record it.

        P(τ) = μ(s_0) Π_t π(a_t|o_t) P(s_{t+1}|s_t, a_t)

    Args:
        policy: the policy that acts; memoryless, cast to float64.
        horizon: rows T ≥ 1.
        resets: whether an episode that ends is followed by the next, as `steps(T)` collects, or by padding, as `episodes(N)`
            does. Without resets the horizon is a time limit: an episode is truncated there.

    Returns:
        `Trajectories`, NumPy in float64. States that look alike may lead to columns that are equal.

    Raises:
        UsageError: more trajectories than fit. SpaceError: a policy for other spaces.
    """
    require_finite(mdp)
    horizon = _check_count("horizon", horizon)
    if not resets:
        horizon = min(horizon, mdp.time_limit or horizon)
        mdp = mdp.replace(time_limit=horizon)
    with float64():
        chances, logs = _table(mdp, as_float64(policy))
    _check_size(mdp, chances, horizon, 1, 0, resets=resets)
    return _enumerate(mdp, chances, logs, horizon, resets=resets)


# ── the sum over batches ─────────────────────────────────────────────────────────────────────────────────────────────


@partial(jax.jit, static_argnames=("gradient", "columns", "size"))
def _sums(
    gradient: Callable[..., Any], columns: int, size: int, agent: Agent, rollout: Rollout, probability: Array, goal: Array
) -> tuple[Array, Array]:
    """E[ĝ − g] and E[(ĝ − g)(ĝ − g)ᵀ] over all tuples of trajectories, `size` batches at a time."""
    sequences = probability.shape[0]
    batches = sequences**columns
    places = np.array([sequences**place for place in range(columns)])

    def one(index: Array) -> tuple[Array, Array]:
        chosen = index // places % sequences  # the digits of the batch's number
        flat, _ = ravel_pytree(gradient(agent, jax.tree.map(lambda x: jnp.asarray(x)[:, chosen], rollout))[0].policy)
        return flat - goal, jnp.prod(jnp.asarray(probability)[chosen])

    def add(chunk: Array, sums: tuple[Array, Array]) -> tuple[Array, Array]:
        index = chunk * size + jnp.arange(size)
        error, p = jax.vmap(one)(jnp.minimum(index, batches - 1))
        p = jnp.where(index < batches, p, 0)
        return sums[0] + p @ error, sums[1] + (error * p[:, None]).T @ error

    zero = jnp.zeros_like(goal)
    return jax.lax.fori_loop(0, -(-batches // size), add, (zero, jnp.outer(zero, zero)))


def _unflatten(unravel: Callable[[Any], PyTree], vector: np.ndarray) -> PyTree:
    with float64():
        return jax.tree.map(np.asarray, unravel(jnp.asarray(vector)))


# ── the trajectories ─────────────────────────────────────────────────────────────────────────────────────────────────


def _enumerate(mdp: FiniteMDP, chances: np.ndarray, logs: np.ndarray, rows: int, *, resets: bool) -> Trajectories:
    """Breadth first, a row at a time: each level holds the rows that end there and the place of their past a level above."""
    moves = chances[mdp.observations][:, :, None] * mdp.transitions
    came, action, to = np.nonzero(moves)  # in the order of the states they leave
    chance = moves[came, action, to]
    number = np.bincount(came, minlength=mdp.num_states)
    begin = np.cumsum(number) - number

    starts = np.flatnonzero(mdp.initial)
    state, time, probability = starts, np.zeros(len(starts), np.int32), mdp.initial[starts]
    alive, past = np.ones(len(starts), bool), np.arange(len(starts))
    levels: list[tuple[dict[str, np.ndarray], np.ndarray]] = []
    for row in range(rows):
        parent, place = _repeat(np.where(alive, number[state], 1))  # what is over has one future
        state, time, probability, alive = state[parent], time[parent], probability[parent], alive[parent]
        branch = np.where(alive, begin[state] + place, 0)
        probability = np.where(alive, probability * chance[branch], probability)
        obs, after = mdp.observations[state], to[branch]
        fields = {
            "obs": obs,
            "action": action[branch].astype(np.int32),
            "log_prob": logs[obs, action[branch]],
            "reward": mdp.rewards[state, action[branch], after],
            "terminated": mdp.terminal[after],
            "truncated": time + 1 == (mdp.time_limit or 0),
            "next_obs": mdp.observations[after],
            "mask": np.ones(len(state)),
            "time": time,
        }
        fields = {name: np.where(alive, field, np.zeros_like(field)) for name, field in fields.items()}
        levels.append((fields, past[parent]))
        ended = fields["terminated"] | fields["truncated"]
        state, time, past = np.where(alive & ~ended, after, starts[0]), time + 1, np.arange(len(state))
        if not resets:
            alive = alive & ~ended
        elif row + 1 < rows:
            past, place = _repeat(np.where(ended, len(starts), 1))
            again = ended[past]
            state, time = np.where(again, starts[place], state[past]), np.where(again, 0, time[past]).astype(np.int32)
            probability, alive = np.where(again, mdp.initial[starts[place]], 1) * probability[past], alive[past]

    column, found = np.arange(len(probability)), []
    for fields, parent in reversed(levels):
        found.append({name: field[column] for name, field in fields.items()})
        column = parent[column]
    record = {name: np.stack([fields[name] for fields in reversed(found)]) for name in found[0]}
    return Trajectories(Rollout(**record, carry=(), extras={}), probability)


def _repeat(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each index as often as its count says, and which of its copies it is."""
    index = np.repeat(np.arange(len(counts)), counts)
    return index, np.arange(len(index)) - np.repeat(np.cumsum(counts) - counts, counts)


def _how_many(mdp: FiniteMDP, chances: np.ndarray, *, resets: bool) -> Iterator[float]:
    """The number of trajectories of 1, 2, 3, … rows, by a forward recursion over (age, state); exact up to 2⁵³."""
    ways = ((chances[mdp.observations][:, :, None] * mdp.transitions) > 0).sum(axis=1).astype(np.float64)  # [S, S]
    starts = (mdp.initial > 0).astype(np.float64)
    alive, over = {0: starts}, 0.0
    while True:
        after: dict[int, np.ndarray] = {}
        for age, states in alive.items():
            reached = states @ ways
            last = age + 1 == mdp.time_limit
            over += reached.sum() if last else reached[mdp.terminal].sum()
            if not last:  # without a limit the age does not matter
                older = age + 1 if mdp.time_limit else 0
                after[older] = after.get(older, 0) + np.where(mdp.terminal, 0, reached)
        yield float(over + sum(states.sum() for states in after.values()))
        if resets:
            after[0] = after.get(0, 0) + over * starts
            over = 0.0
        alive = after


# ── checks ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _rows(algorithm: Algorithm, mdp: FiniteMDP, horizon: int | None) -> int:
    if algorithm.collect.kind == "steps":
        rows = algorithm.collect.count if horizon is None else horizon
    elif horizon is None and mdp.time_limit is None:
        raise UsageError("horizon: got None for an MDP without time limit; give the steps of the longest episode, or replace(time_limit=…)")
    else:
        rows = min(limit for limit in (horizon, mdp.time_limit) if limit is not None)
    return _check_count("horizon", rows)


def _check_count(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise UsageError(f"{name}: got {value!r}; it must be a whole number of at least 1")
    return int(value)


def _table(mdp: FiniteMDP, policy: PyTree) -> tuple[np.ndarray, np.ndarray]:
    """π(a|o) and its logarithm, [O, A] each, as the policy itself gives them."""
    require_spaces(policy, mdp.observation_space, mdp.action_space, mdp.name)
    obs = np.arange(mdp.num_observations, dtype=np.int32)
    chances = np.asarray(apply(policy, obs))
    return chances, np.asarray(_log_probs(policy, *np.indices(chances.shape, np.int32)))


@jax.jit
def _log_probs(policy: PyTree, obs: Array, action: Array) -> Array:
    return policy(obs).log_prob(action)


def _acting(mdp: FiniteMDP, policy: PyTree, behaviour: PyTree) -> tuple[np.ndarray, np.ndarray]:
    """What the policy that acts does, and what stands in the record."""
    if behaviour is None:
        return _table(mdp, policy)
    acting = _table(mdp, as_float64(behaviour))
    _check_support(mdp, acting[0], _table(mdp, policy)[0])
    return acting


def _check_support(mdp: FiniteMDP, behaviour: np.ndarray, policy: np.ndarray) -> None:
    seen = np.isin(np.arange(mdp.num_observations), mdp.observations[~mdp.terminal])
    never = (behaviour == 0) & (policy > 0) & seen[:, None]
    if never.any():
        obs, action = np.argwhere(never)[0]
        raise UsageError(
            f"behaviour: got probability 0 for action {action} at observation {obs}, which the policy takes with probability"
            f" {policy[obs, action]:.3g}; it must be above 0 wherever the policy's is"
        )


def _check_size(mdp: FiniteMDP, chances: np.ndarray, rows: int, columns: int, parameters: int, *, resets: bool) -> None:
    counts: list[float] = []
    for count in itertools.islice(_how_many(mdp, chances, resets=resets), rows):
        counts.append(count)
        if count > 1e290:
            break  # far too many already, and soon more than a float holds
    last = len(counts)

    def fits(height: int, width: int) -> bool:
        batches = _power(counts[height - 1], width)
        return counts[height - 1] * height <= MOST_STEPS and batches * _work(height * width, parameters) <= MOST_WORK

    if fits(last, columns):
        return
    height = next((h for h in range(last - 1, 0, -1) if fits(h, columns)), None)
    width = next((n for n in range(min(columns - 1, 64), 0, -1) if fits(last, n)), None)
    largest = [f"horizon {height} with num_trajectories {columns}"] if height else []
    largest += [f"num_trajectories {width} with horizon {rows}"] if width else []
    over = "over " if last < rows else ""
    raise UsageError(
        f"moments: got num_trajectories {columns} and horizon {rows}, {over}{_words(_power(counts[-1], columns))} batches out of"
        f" {over}{_words(counts[-1])} trajectories; the largest that fits is"
        f" {' or '.join(largest) or 'less than a step: use a smaller MDP'}"
    )


def _words(number: float) -> str:
    return f"{number:,.0f}" if number < 1e7 else f"{min(number, 1e308):.3g}"


def _work(steps: int, parameters: int) -> float:
    """Of one batch: its gradient, and the outer product of that with itself."""
    return steps * (100 + 2 * parameters) + parameters**2 / 4


def _power(base: float, exponent: int) -> float:
    try:
        return base**exponent
    except OverflowError:
        return math.inf
