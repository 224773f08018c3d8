"""Toy environments whose every step is known, and plain-Python bookkeeping to hold collectors against.

Plain NumPy on the Gymnasium side, importable by name, so that worker processes find them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from policygrad import policies
from policygrad.envs import Env, time_limit
from policygrad.envs.small_worlds import BANDIT_MEANS
from policygrad.spaces import Box, Discrete
from policygrad.types import Rollout, Spec, Step

LIMIT = 5  # of Clockwork, by Gymnasium's TimeLimit


class Clockwork(gymnasium.Env):
    """Episodes of 1 to 8 steps, drawn at the reset: shorter ones than LIMIT terminate, longer ones are truncated, one of
    exactly LIMIT is both. The observation (tag, t, length, what the last action was) tells every row which it is.

    Transitions draw from the environment's own generator too, so one reset or step too many shows from there on.
    """

    def __init__(self, *, box: bool = False, in_place: bool = False, dtype: Any = np.float32):
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (4,), dtype)
        self.action_space = gymnasium.spaces.Box(-0.5, 0.5, (2,), np.float32) if box else gymnasium.spaces.Discrete(3)
        self._buffer = np.zeros(4, dtype) if in_place else None

    def _observe(self, last: float) -> np.ndarray:
        row = np.array([self.tag, self.t, self.length, last], self.observation_space.dtype)
        if self._buffer is None:
            return row
        self._buffer[:] = row
        return self._buffer

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.t, self.tag, self.length = 0, self.np_random.normal(), int(self.np_random.integers(1, 9))
        return self._observe(0.0), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.t += 1
        assert self.t <= self.length, "stepped after its end"
        reward = self.tag + 10 * self.t + float(self.np_random.normal())
        return self._observe(float(np.sum(action))), reward, self.t == self.length, False, {}


def clockwork(**kwargs: Any) -> gymnasium.Env:
    """Clockwork under its time limit."""
    return gymnasium.wrappers.TimeLimit(Clockwork(**kwargs), LIMIT)


def clockwork_box() -> gymnasium.Env:
    """With two continuous actions in [−0.5, 0.5]."""
    return clockwork(box=True)


def clockwork_in_place() -> gymnasium.Env:
    """Whose observations are one array, written over at every step."""
    return clockwork(in_place=True)


class Mixture(gymnasium.Env):
    """Half of the episodes take 2 steps and terminate, half take 12; the reward is 1 a step. Observation: (long?, t)."""

    observation_space = gymnasium.spaces.Box(0.0, 12.0, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.long, self.t = int(self.np_random.integers(2)), 0
        return np.array([self.long, 0], np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.t += 1
        return np.array([self.long, self.t], np.float32), 1.0, self.t == (12 if self.long else 2), False, {}


class Faulty(gymnasium.Env):
    """Episodes of 4 steps, rewards of 1, until the copy's own step number `at`, where it does what `fault` says."""

    def __init__(self, fault: str = "none", at: int = 10**9, space: gymnasium.Space | None = None):
        self.observation_space = space or gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(2)
        self.fault, self.at, self.steps = fault, at, 0

    def _observe(self) -> Any:
        if isinstance(self.observation_space, gymnasium.spaces.Discrete):
            return 7 if self._faulty("outside") else self.t % 2
        obs = np.array([0.1 * self.t, -0.5], np.float32)
        if self._faulty("nan observation"):
            obs[1] = np.nan
        if self._faulty("outside"):
            obs[1] = 1.5
        return np.zeros(3, np.float32) if self._faulty("shape") else obs

    def _faulty(self, fault: str) -> bool:
        return self.fault == fault and self.steps >= self.at

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.t = 0
        return self._observe(), {}

    def step(self, action: Any) -> Any:
        self.t += 1
        self.steps += 1
        if self._faulty("exception"):
            raise RuntimeError("the motor burnt out\nat 90 °C")
        reward = np.nan if self._faulty("nan reward") else 1.0
        if self._faulty("old api"):
            return self._observe(), reward, self.t == 4, {}
        return self._observe(), reward, self.t == 4, False, {}


# ── compiled ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def lengths(short: int = 2, long: int = 9, limit: int = 6) -> Env:
    """Episodes of `short` or `long` steps, a fair coin each; the long ones are cut by the limit. All of the state is seen.

    State and observation (length, t, x): x ← x/2 + action/4, reward x + t, extras of two kinds.
    """

    def reset(key: Any) -> tuple[Any, Any]:
        coin, place = jax.random.split(key)
        length = jnp.where(jax.random.bernoulli(coin), long, short).astype(jnp.float32)
        state = jnp.stack([length, jnp.zeros(()), jax.random.uniform(place)])
        return state, state

    def step(key: Any, state: Any, action: Any) -> tuple[Any, Step]:
        t, x = state[1] + 1, state[2] / 2 + action / 4
        state = jnp.stack([state[0], t, x])
        extras = {"cost": x * x, "allowed": jnp.stack([t > 1, x > 0.5])}
        return state, Step(state, x + t, t >= state[0], jnp.zeros((), bool), extras)

    high = (float(long), float(limit), 10.0)
    return time_limit(Env("Lengths-v0", Box.of((0.0, 0.0, 0.0), high, (3,)), Discrete(3), reset, step), limit)


def echo() -> Env:
    """Episodes of 3 steps; the observation and the reward are the action that arrived, from Box(−0.5, 0.5)."""

    def reset(key: Any) -> tuple[Any, Any]:
        return jnp.zeros(()), jnp.zeros(2)

    def step(key: Any, state: Any, action: Any) -> tuple[Any, Step]:
        return state, Step(action, jnp.sum(action), jnp.zeros((), bool), jnp.zeros((), bool))

    return time_limit(Env("Echo-v0", Box.of(-0.5, 0.5, (2,)), Box.of(-0.5, 0.5, (2,)), reset, step), 3)


# ── policies ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def some_policy(env: Any, seed: int = 0) -> Any:
    """A linear policy with weights far from 0, so that its mode depends on the observation."""
    built = policies.linear()(jax.random.key(seed), Spec(env.observation_space, env.action_space, 1))
    return jax.tree.map(lambda leaf: 0.5 * jax.random.normal(jax.random.key(seed + 1), leaf.shape), built)


# ── plain bookkeeping ────────────────────────────────────────────────────────────────────────────────────────────────


def valid_steps(rollouts: list[Rollout]) -> list[dict[str, np.ndarray]]:
    """The valid steps of every environment, in order, over one rollout of `steps` after the other."""
    out = []
    for column in range(rollouts[0].mask.shape[1]):
        fields: dict[str, np.ndarray] = {}
        for name in ("obs", "action", "log_prob", "reward", "terminated", "truncated", "next_obs", "time"):
            parts = [np.asarray(getattr(r, name))[np.asarray(r.mask)[:, column] > 0, column] for r in rollouts]
            fields[name] = np.concatenate(parts)
        out.append(fields)
    return out


def assert_same_steps(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray], least: int) -> None:
    """Bit-equality of what both have, which must be at least `least` steps."""
    n = min(len(ours["reward"]), len(theirs["reward"]))
    assert n >= least
    for name, values in ours.items():
        np.testing.assert_array_equal(values[:n], theirs[name][:n], err_msg=name)


class End(NamedTuple):
    """An end of an episode."""

    row: int
    column: int
    total: float
    length: int
    steps: int


def ends(rollouts: list[Rollout], fresh: bool = False) -> list[list[End]]:
    """The ends of episodes by plain loops over rows and columns, for each rollout.

    Args:
        fresh: whether every column of every rollout starts an episode.
    """
    columns = rollouts[0].mask.shape[1]
    total, length = np.zeros(columns), np.zeros(columns, int)
    out = []
    for rollout in rollouts:
        mask, reward, over = (np.asarray(x) for x in (rollout.mask, rollout.reward, rollout.terminated | rollout.truncated))
        if fresh:
            total[:], length[:] = 0, 0
        found, steps = [], 0
        for row in range(len(mask)):
            steps += int(mask[row].sum())
            for column in range(columns):
                if mask[row, column]:
                    total[column] += reward[row, column]
                    length[column] += 1
                    if over[row, column]:
                        found.append(End(row, column, total[column], int(length[column]), steps))
                        total[column], length[column] = 0, 0
        out.append(found)
    return out


def log_ends(log: Any) -> list[End]:
    """The same as an `EpisodeLog` tells it."""
    return [
        End(int(row), int(column), float(log.returns[row, column]), int(log.lengths[row, column]), int(log.steps[row]))
        for row, column in np.argwhere(np.asarray(log.ended))
    ]


def assert_same_ends(ours: list[End], log: Any) -> None:
    """Exactly the same ends, returns to float32."""
    theirs = log_ends(log)
    assert [e._replace(total=0.0) for e in ours] == [e._replace(total=0.0) for e in theirs]
    np.testing.assert_allclose([e.total for e in ours], [e.total for e in theirs], rtol=1e-5)


def leaves_equal(ours: Any, theirs: Any) -> bool:
    """Bit-equality of two pytrees of arrays."""
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    return all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in pairs)


def programs_agree(ours: Any, theirs: Any) -> bool:
    """Whether two programs that do the same say the same: bit for bit as users compile them, to rounding without optimisation,
    where XLA may compute a number twice, once in each of two loops (conftest.py).
    """
    if "--xla_backend_optimization_level=0" not in os.environ.get("XLA_FLAGS", ""):
        return leaves_equal(ours, theirs)
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    return all(np.allclose(np.asarray(a), np.asarray(b), rtol=1e-5, atol=1e-6, equal_nan=True) for a, b in pairs)


def counting(calls: list, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, with its calls written down."""

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return function(*args, **kwargs)

    return counted


# ── for training ─────────────────────────────────────────────────────────────────────────────────────────────────────


class HostBandit(gymnasium.Env):
    """The bandit of `small_worlds`, on the host."""

    def __init__(self) -> None:
        self.means = np.array(BANDIT_MEANS)
        self.observation_space = gymnasium.spaces.Discrete(self.means.shape[0])
        self.action_space = gymnasium.spaces.Discrete(self.means.shape[1])

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[int, dict]:
        super().reset(seed=seed)
        self.state = int(self.np_random.integers(len(self.means)))
        return self.state, {}

    def step(self, action: Any) -> tuple[int, float, bool, bool, dict]:
        return self.state, self.means[self.state, action] + 0.5 * self.np_random.normal(), True, False, {}


def fragile(worst: float, part: str = "reward") -> Env:
    """Episodes of one step that show a number drawn at the reset; after one above `worst`, `part` of the step is NaN."""

    def reset(key: Any) -> tuple[Any, Any]:
        state = jax.random.uniform(key, (1,))
        return state, state

    def step(key: Any, state: Any, action: Any) -> tuple[Any, Step]:
        poison = jnp.where(state[0] > worst, jnp.nan, 0.0)
        reward = state[0] * action + (poison if part == "reward" else 0.0)
        return state, Step(state + (0.0 if part == "reward" else poison), reward, jnp.ones((), bool), jnp.zeros((), bool))

    return time_limit(Env("Fragile-v0", Box.of(0.0, 1.0, (1,)), Discrete(2), reset, step), 1)
