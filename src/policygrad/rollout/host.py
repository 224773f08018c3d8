"""The collector for Gymnasium's vectors: one jitted call of the policy per vector step, one record at the end.

Keys of actions come from the environment's index and its own count of steps, never from the row: NEXT_STEP autoreset
spends a row on every reset, and the steps of an environment must not depend on that.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from policygrad.envs.gymnasium_adapter import GymnasiumEnv, HostStep, check_values
from policygrad.errors import EnvError
from policygrad.policies.distributions import drawn_noise, sampled
from policygrad.rollout.collect import Collect, EpisodeLog, to_environment
from policygrad.spaces import Space
from policygrad.types import Array, Key, Rollout

Choose = Callable[[np.ndarray], tuple[Array, Array, Array]]
"""obs -> (action, its log-probability, what the environment gets)."""

SINGLE_PADDING = 1024
"""Time limits up to this pad to the limit, so that the update compiles once; longer ones pad to powers of two."""

NOISE_ROWS = 128
"""Steps whose noise is drawn together."""


@functools.lru_cache(maxsize=64)
def host_act(action_space: Space, structure: Any, sample: bool = True) -> Callable[..., tuple[Array, Array, Array]]:
    """The jitted call of every vector step.

    Args:
        action_space: actions are clipped into it on the way to the environment.
        structure: the policy's tree structure. The call takes its leaves: flattening a Module anew for every step would
            cost as much as the network does.
        sample: False takes the distribution's mode.

    Returns:
        (leaves, noise [B, …], obs [B, …]) -> (action, its log-probability, what the environment gets).
    """

    def act(leaves: tuple[Array, ...], noise: Array, obs: Array) -> tuple[Array, Array, Array]:
        distribution = jax.tree.unflatten(structure, leaves)(obs)
        action = jax.vmap(sampled)(distribution, noise) if sample else distribution.mode()
        return action, distribution.log_prob(action), to_environment(action_space, action)

    return jax.jit(act)


@functools.lru_cache(maxsize=64)
def host_noise(structure: Any) -> Callable[..., Array]:
    """The jitted call of every `NOISE_ROWS` steps.

    Returns:
        (leaves, keys [B], counts [B] int32, obs [B, …]) -> the noise of each environment's next steps from its count on,
        [NOISE_ROWS, B, …]. Of the policy and the observations only the shapes count.
    """

    def draw(leaves: tuple[Array, ...], keys: Key, counts: Array, obs: Array) -> Array:
        distribution = jax.tree.unflatten(structure, leaves)(obs)

        def row(ahead: Array) -> Array:
            return jax.vmap(drawn_noise)(distribution, jax.vmap(jax.random.fold_in)(keys, counts + ahead))

        return jax.vmap(row)(jnp.arange(NOISE_ROWS, dtype=jnp.int32))

    return jax.jit(draw)


class _Noise:
    """The noise of every environment's steps, by its own count of them."""

    def __init__(self, key: Key, num_envs: int):
        self._keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(num_envs))
        self._columns = np.arange(num_envs)
        self._from = np.zeros(num_envs, np.int32)
        self._drawn: np.ndarray | None = None

    def of(self, counts: np.ndarray, leaves: tuple[Array, ...], structure: Any, obs: np.ndarray) -> np.ndarray:
        """[B, …], of the steps that environments make after `counts` [B] others."""
        ahead = counts - self._from
        if self._drawn is None or ahead.max() >= NOISE_ROWS:
            self._drawn = np.asarray(host_noise(structure)(leaves, self._keys, counts, obs))
            self._from, ahead = counts, np.zeros_like(counts)
        return self._drawn[ahead, self._columns]


def warm_up(action_space: Space, structure: Any, leaves: tuple[Array, ...], key: Key, obs: np.ndarray) -> None:
    """Compiles what sampling calls in every step, so that it is told apart from the run.

    Args:
        obs: [B, …], any values.
    """
    num_envs = len(obs)
    noise = _Noise(key, num_envs).of(np.zeros(num_envs, np.int32), leaves, structure, obs)
    jax.block_until_ready(host_act(action_space, structure)(leaves, noise, obs))


class HostCollector:
    """Collects rollouts of a Gymnasium environment. Holds the running environments: close it after use.

    Args:
        env: what `envs.make` returned.
        collect: how much.
        num_envs: B.
        seed: of the environments' streams.
        key: of the actions.
        sample: False takes the distribution's mode (evaluation).
    """

    def __init__(self, env: GymnasiumEnv, collect: Collect, num_envs: int, *, seed: int, key: Key, sample: bool = True):
        if collect.kind == "episodes":
            self._quota = collect.episodes_per_update(num_envs) // num_envs
        self.env, self.collect_kind, self.num_envs = env, collect, num_envs
        self.vector = env.vector(num_envs, seed)
        self._sample = sample
        self._noise = _Noise(key, num_envs)
        self._counts = np.zeros(num_envs, np.int32)  # steps that each environment has made: drives its actions' keys
        self._obs: np.ndarray | None = None
        self._time = np.zeros(num_envs, np.int32)
        self._so_far = np.zeros(num_envs, np.float64)
        self._steps = 0  # of all environments, for messages

    def close(self) -> None:
        """Closes the environments that were made here."""
        self.vector.close()

    def collect(self, policy: Any) -> tuple[Rollout, EpisodeLog]:
        """One rollout of the acting policy: NumPy arrays in the same record that the compiled collector makes.

        Raises:
            EnvError: naming the environment and its step.
        """
        leaves, structure = jax.tree.flatten(policy)
        act, leaves = host_act(self.env.action_space, structure, self._sample), tuple(leaves)

        def choose(obs: np.ndarray) -> tuple[Array, Array, Array]:
            return act(leaves, self._noise.of(self._counts, leaves, structure, obs) if self._sample else self._counts, obs)

        if self.collect_kind.kind == "steps":
            record, log = self._collect_steps(choose)
            return _rollout(record), log
        record, log = self._collect_episodes(choose)
        return _rollout(_one_episode_a_column(record, self._quota, self._padded)), log

    def _collect_steps(self, choose: Choose) -> tuple[dict[str, np.ndarray], EpisodeLog]:
        if self._obs is None:
            self._obs = self.vector.reset()
        rows = self.collect_kind.count or 1
        buffers = _Buffers(rows)
        for _ in range(rows):
            self._step(choose, buffers, None)
        return self._finish(buffers)

    def _collect_episodes(self, choose: Choose) -> tuple[dict[str, np.ndarray], EpisodeLog]:
        self._obs = self.vector.reset()
        self._time[:], self._so_far[:] = 0, 0
        left = np.full(self.num_envs, self._quota)
        buffers = _Buffers(min(self.env.time_limit or 256, SINGLE_PADDING))  # they double where that is too few
        while left.any():
            left -= self._step(choose, buffers, left > 0)
        return self._finish(buffers)

    def _step(self, choose: Choose, buffers: _Buffers, wanted: np.ndarray | None) -> np.ndarray:
        """One vector step into the next row; returns which wanted episodes ended."""
        obs = self._obs
        assert obs is not None
        action, log_prob, to_step = choose(obs)
        try:
            made: HostStep = self.vector.step(np.asarray(to_step))
        except EnvError:
            self._check(buffers.filled())  # a NaN that the policy was fed is the better explanation
            raise
        if buffers.full:
            self._check(buffers.filled())  # an environment that returns NaN may never end an episode
        valid = made.valid if wanted is None else made.valid & wanted
        ended = (made.terminated | made.truncated) & valid
        self._so_far += np.where(valid, made.reward, 0)
        # The log's return and length of a row are those of the episode so far, read where it ended.
        buffers.append(
            obs=obs,
            action=np.asarray(action),
            log_prob=np.asarray(log_prob),
            reward=made.reward,
            terminated=made.terminated,
            truncated=made.truncated,
            next_obs=made.next_obs,
            time=self._time,
            valid=valid,
            ended=ended,
            so_far=self._so_far,
        )
        self._time = np.where(ended, 0, self._time + valid).astype(np.int32)
        self._counts = self._counts + valid
        self._so_far[ended] = 0
        self._obs = made.obs
        return ended

    def _finish(self, buffers: _Buffers) -> tuple[dict[str, np.ndarray], EpisodeLog]:
        record = buffers.filled()
        self._check(record)
        valid = record["valid"]
        counted = np.cumsum(valid.sum(axis=1), dtype=np.int32)
        self._steps += int(counted[-1])
        log = EpisodeLog(record.pop("ended"), record.pop("so_far"), record["time"] + 1, counted)
        for name in ("obs", "action", "log_prob", "reward", "terminated", "truncated", "next_obs", "time"):
            if not valid.all():
                record[name][~valid] = 0
        return record, log

    def _check(self, record: dict[str, np.ndarray]) -> None:
        """Raises if an observation or reward of the record is not what the environment's own spaces promise."""
        if not len(record):
            return
        valid = record["valid"]
        fix = "correct the environment (or its space)"
        for name in ("obs", "next_obs"):
            wrong = check_values(self.env.observation_space, record[name], valid)
            if wrong:
                row, index, what = wrong
                time = int(record["time"][row, index]) + (name == "next_obs")
                raise EnvError(
                    f"environment {self.env.name}, copy {index}, step {time} of its episode"
                    f" (about {self._steps + int(valid[:row].sum()):,} steps into the run): {what}; {fix}"
                )
        bad = ~np.isfinite(record["reward"]) & valid
        if bad.any():
            row, index = (int(i) for i in np.argwhere(bad)[0])
            raise EnvError(
                f"environment {self.env.name}, copy {index}, step {int(record['time'][row, index]) + 1} of its episode"
                f" (about {self._steps + int(valid[:row].sum()):,} steps into the run): the reward is"
                f" {record['reward'][row, index]}, not a finite number; {fix}"
            )

    def _padded(self, longest: int) -> int:
        """Rows of the padded record for episodes of at most `longest` steps."""
        limit = self.env.time_limit
        if limit is not None and limit <= SINGLE_PADDING:
            return max(limit, longest)
        padded = 128
        while padded < longest:
            padded *= 2
        return padded if limit is None else max(min(padded, limit), longest)


class _Buffers:
    """Rows of equal shape, in arrays that double when they are full. Freshly allocated: JAX may read them in place."""

    def __init__(self, rows: int):
        self._rows, self._used = rows, 0
        self._arrays: dict[str, np.ndarray] = {}

    def append(self, **row: np.ndarray) -> None:
        if not self._arrays:
            self._arrays = {name: np.empty((self._rows, *value.shape), value.dtype) for name, value in row.items()}
        if self._used == self._rows:
            self._arrays = {name: np.concatenate([array, np.empty_like(array)]) for name, array in self._arrays.items()}
            self._rows *= 2
        arrays, used = self._arrays, self._used
        for name, value in row.items():
            arrays[name][used] = value
        self._used += 1

    @property
    def full(self) -> bool:
        return self._used == self._rows

    def filled(self) -> dict[str, np.ndarray]:
        return {name: array[: self._used] for name, array in self._arrays.items()}


def _one_episode_a_column(record: dict[str, np.ndarray], quota: int, padded: Callable[[int], int]) -> dict[str, np.ndarray]:
    """From rows of time to columns of episodes: [rows, B] becomes [padded(longest), quota · B], environments together."""
    valid, time = record["valid"], record["time"]
    rows, columns = np.nonzero(valid)
    times = time[rows, columns]
    # The episode's number in its environment: how often its clock has started so far.
    number = np.cumsum((time == 0) & valid, axis=0)[rows, columns] - 1
    length = padded(int(times.max()) + 1)
    episodes = quota * valid.shape[1]
    column = number * valid.shape[1] + columns
    result = {}
    for name, array in record.items():
        laid = np.zeros((length, episodes, *array.shape[2:]), array.dtype)
        laid[times, column] = array[rows, columns]
        result[name] = laid
    return result


def _rollout(record: dict[str, np.ndarray]) -> Rollout:
    return Rollout(
        record["obs"],
        record["action"],
        record["log_prob"],
        record["reward"],
        record["terminated"],
        record["truncated"],
        record["next_obs"],
        record["valid"].astype(np.float32),
        record["time"],
        (),
        {},
    )
