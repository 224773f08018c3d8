"""The collector for Gymnasium's vectors: one jitted call of the policy per vector step, one record at the end.

Keys of actions come from the environment's index and its own count of steps, never from the row: NEXT_STEP autoreset
spends a row on every reset, and the steps of an environment must not depend on that.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from policygrad.envs.gymnasium_adapter import GymnasiumEnv
from policygrad.envs.vector_adapter import HostStep, check_masks, check_values
from policygrad.errors import EnvError
from policygrad.policies import initial_carry, num_chunks, policy_step, policy_unroll
from policygrad.policies.distributions import drawn_noise, sampled
from policygrad.policies.memory import chunk_length
from policygrad.rollout.collect import Collect, EpisodeLog, all_allowed
from policygrad.types import Array, Key, PyTree, Rollout

Choose = Callable[[PyTree, np.ndarray], PyTree]
"""(obs, where an episode begins [B] bool) -> action."""

SINGLE_PADDING = 1024
"""Time limits up to this pad to the limit, so that the update compiles once; longer ones pad to powers of two."""

NOISE_ROWS = 128
"""Steps whose noise is drawn together."""


class _Actor:
    """A policy as its calls take it, once a rollout.

    Attributes:
        arrays: its leaves, those of one dtype in one vector: handing over each of them for every step costs as much as the network does.
        recipe: how they become the policy again; static.
    """

    def __init__(self, policy: Any):
        leaves, structure = jax.tree.flatten(policy)
        self.recipe = structure, tuple((np.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
        self.arrays = tuple(_vectors(tuple(leaves)))


@jax.jit
def _vectors(leaves: tuple[Array, ...]) -> list[Array]:
    groups = _by_dtype([jnp.result_type(leaf) for leaf in leaves])
    return [jnp.concatenate([jnp.ravel(leaves[i]) for i in group]) for group in groups]


def _by_dtype(dtypes: list[Any]) -> list[list[int]]:
    groups: dict[Any, list[int]] = {}
    for i, dtype in enumerate(dtypes):
        groups.setdefault(dtype, []).append(i)
    return list(groups.values())


def _policy_of(recipe: Any, arrays: tuple[Array, ...]) -> Any:
    structure, shapes = recipe
    leaves: dict[int, Array] = {}
    for vector, group in zip(arrays, _by_dtype([dtype for _, dtype in shapes]), strict=True):
        at = 0
        for i in group:
            shape = shapes[i][0]
            leaves[i] = vector[at : at + math.prod(shape)].reshape(shape)
            at += math.prod(shape)
    return jax.tree.unflatten(structure, [leaves[i] for i in range(len(shapes))])


@functools.lru_cache(maxsize=64)
def host_act(recipe: Any, sample: bool = True) -> Callable[..., tuple[PyTree, PyTree]]:
    """The jitted call of every vector step. Actions alone are fetched: each further array costs an eighth of the call.

    Args:
        recipe: an `_Actor`'s.
        sample: False takes the distribution's mode.

    Returns:
        (arrays, noise [B, …], obs [B, …], first [B], carry [B, …]) -> (actions [B, …], carry). Without memory first and carry are ().
    """

    def act(arrays: tuple[Array, ...], noise: PyTree, obs: PyTree, first: PyTree, carry: PyTree) -> tuple[PyTree, PyTree]:
        distribution, carry = policy_step(_policy_of(recipe, arrays), carry, obs, first)
        return jax.vmap(sampled)(distribution, noise) if sample else distribution.mode(), carry

    return jax.jit(act)


@functools.lru_cache(maxsize=64)
def host_noise(recipe: Any) -> Callable[..., Array]:
    """The jitted call of every `NOISE_ROWS` steps.

    Returns:
        (arrays, keys [B], counts [B] int32, obs [B, …]) -> the noise of each environment's next steps from its count on,
        [NOISE_ROWS, B, …]. Of the policy and the observations only the shapes count.
    """

    def draw(arrays: tuple[Array, ...], keys: Key, counts: Array, obs: PyTree) -> PyTree:
        policy, num_envs = _policy_of(recipe, arrays), len(counts)
        distribution, _ = policy_step(policy, initial_carry(policy, num_envs), obs, jnp.zeros(num_envs, bool))

        def row(ahead: Array) -> PyTree:
            return jax.vmap(drawn_noise)(distribution, jax.vmap(jax.random.fold_in)(keys, counts + ahead))

        return jax.vmap(row)(jnp.arange(NOISE_ROWS, dtype=jnp.int32))

    return jax.jit(draw)


class _Noise:
    """The noise of every environment's steps, by its own count of them."""

    def __init__(self, key: Key, num_envs: int):
        self._keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(num_envs))
        self._columns = np.arange(num_envs)
        self._from = np.zeros(num_envs, np.int32)
        self._drawn: PyTree = None

    def of(self, counts: np.ndarray, actor: _Actor, obs: PyTree) -> PyTree:
        """[B, …], of the steps that environments make after `counts` [B] others."""
        ahead = counts - self._from
        if self._drawn is None or ahead.max() >= NOISE_ROWS:
            self._drawn = fetched(host_noise(actor.recipe)(actor.arrays, self._keys, counts, obs))
            self._from, ahead = counts.copy(), np.zeros_like(counts)
        if isinstance(self._drawn, np.ndarray):
            return self._drawn[ahead, self._columns]
        return jax.tree.map(lambda leaf: leaf[ahead, self._columns], self._drawn)


def fetched(arrays: PyTree) -> PyTree:
    """JAX's arrays as NumPy's."""
    return np.asarray(arrays) if isinstance(arrays, jax.Array) else jax.tree.map(np.asarray, arrays)


@functools.partial(jax.jit, static_argnames="distributions")
def with_log_prob(policy: Any, rollout: Rollout, distributions: bool = False) -> Rollout:
    """The rollout with log π(a_t|o_t) of the policy that acted, for all steps at once, 0 where the mask is 0; and with π(·|o_t)."""
    distribution, _ = policy_unroll(policy, rollout.carry, rollout.obs, rollout.time == 0)
    log_prob = jnp.where(rollout.mask > 0, distribution.log_prob(rollout.action), 0)
    return rollout._replace(log_prob=log_prob, distribution=distribution if distributions else ())


def warm_up(policy: Any, key: Key, obs: PyTree, num_envs: int) -> None:
    """Compiles what sampling calls in every step, so that it is told apart from the run.

    Args:
        obs: [B, …], any values.
    """
    actor, carry = _Actor(policy), initial_carry(policy, num_envs)
    noise = _Noise(key, num_envs).of(np.zeros(num_envs, np.int32), actor, obs)
    first = np.zeros(num_envs, bool) if jax.tree.leaves(carry) else ()
    jax.block_until_ready(host_act(actor.recipe)(actor.arrays, noise, obs, first, carry))


class HostCollector:
    """Collects rollouts of a Gymnasium environment. Holds the running environments: close it after use.

    Args:
        env: what `envs.make` returned.
        collect: how much.
        num_envs: B.
        seed: of the environments' streams.
        key: of the actions.
        sample: False takes the distribution's mode (evaluation).
        processes: that step the environments; None as `GymnasiumEnv.vector`.
    """

    def __init__(
        self, env: GymnasiumEnv, collect: Collect, num_envs: int, *, seed: int, key: Key, sample: bool = True, processes: int | None = None
    ):
        if collect.kind == "episodes":
            self._quota = collect.episodes_per_update(num_envs) // num_envs
        self.env, self.collect_kind, self.num_envs = env, collect, num_envs
        self.vector = env.vector(num_envs, seed, processes)
        self._sample = sample
        self._noise = _Noise(key, num_envs)
        self._counts = np.zeros(num_envs, np.int32)  # steps that each environment has made: drives its actions' keys
        self._obs: PyTree = None
        self._first = np.ones(num_envs, bool)  # where the next step begins an episode
        self._carry: PyTree = ()  # the policy's memory
        self._remembers = False  # whether it has one
        self._time = np.zeros(num_envs, np.int32)  # of the next step, since the reset
        self._so_far = np.zeros(num_envs, np.float64)  # rewards since the reset
        self._steps = 0  # of all environments, for messages

    def close(self) -> None:
        """Closes the environments that were made here."""
        self.vector.close()

    def collect(self, policy: Any, *, log_prob: bool = True) -> tuple[Rollout, EpisodeLog]:
        """One rollout of the acting policy: the same record that the compiled collector makes, of NumPy arrays.

        Args:
            log_prob: False leaves that field empty, for a caller who computes it with what else he does (`with_log_prob`), or who
                does not read it.

        Raises:
            EnvError: naming the environment and its step.
        """
        actor = _Actor(policy)
        act, arrays = host_act(actor.recipe, self._sample), actor.arrays
        start = initial_carry(policy, self.num_envs)
        if jax.tree.structure(start) != jax.tree.structure(self._carry) or self.collect_kind.kind == "episodes":
            self._carry = start
        self._remembers = remembers = bool(jax.tree.leaves(start))
        memories: list[PyTree] = []  # before each step

        def choose(obs: PyTree, first: np.ndarray) -> PyTree:
            noise = self._noise.of(self._counts, actor, obs) if self._sample else self._counts
            if remembers:
                memories.append(self._carry)
            action, self._carry = act(arrays, noise, obs, first if remembers else (), self._carry)
            return fetched(action)

        if self.collect_kind.kind == "steps":
            record, log = self._collect_steps(choose)
            length = chunk_length(len(memories), num_chunks(policy, len(memories))) if remembers else 1
            carry = jax.tree.map(lambda *starts: np.stack(starts), *memories[::length]) if remembers else ()
        else:
            record, log = self._collect_episodes(choose)
            if remembers:
                record["carry"] = jax.tree.map(lambda *rows: np.stack(rows), *memories)
            record = _one_episode_a_column(record, self._quota, self._padded)
            rows = len(record["valid"])
            length = chunk_length(rows, num_chunks(policy, rows)) if remembers else 1
            carry = jax.tree.map(lambda leaf: leaf[::length], record.pop("carry", ()))
        rollout = all_allowed(_rollout(record, carry))
        if log_prob:
            made = with_log_prob(policy, rollout, self.collect_kind.distributions)
            rollout = rollout._replace(**jax.tree.map(np.asarray, {name: getattr(made, name) for name in ("log_prob", "distribution")}))
        return rollout, log

    def _collect_steps(self, choose: Choose) -> tuple[dict[str, Any], EpisodeLog]:
        if self._obs is None:
            self._obs = self.vector.reset()
            self._first[:] = True
        rows = self.collect_kind.count or 1
        buffers = _Buffers(rows)
        for _ in range(rows):
            self._step(choose, buffers, None)
        return self._finish(buffers)

    def _collect_episodes(self, choose: Choose) -> tuple[dict[str, Any], EpisodeLog]:
        self._obs = self.vector.reset()
        self._first[:] = True
        self._time[:], self._so_far[:] = 0, 0
        left = np.full(self.num_envs, self._quota)
        buffers = _Buffers(min(self.env.time_limit or 256, SINGLE_PADDING))  # they double where that is too few
        while left.any():
            made = self._step(choose, buffers, left > 0)
            left -= (made.terminated | made.truncated) & made.valid
        return self._finish(buffers)

    def _step(self, choose: Choose, buffers: _Buffers, wanted: np.ndarray | None) -> HostStep:
        """One vector step into the next row. Clocks and sums wait for the end: a row of its own for each would cost as much again."""
        obs = self._obs
        action = choose(obs, self._first)
        try:
            made = self.vector.step(action)
        except EnvError:
            # A NaN that the policy was fed, or a mask that left it no action, is the better explanation.
            nothing = np.zeros(self.num_envs, np.float32)
            acted = ~self.vector.resetting if wanted is None else wanted & ~self.vector.resetting
            buffers.append((obs, action, nothing, nothing > 0, nothing > 0, obs, acted))
            self._check(buffers.filled())
            raise
        if buffers.full:
            self._check(buffers.filled())  # an environment that returns NaN may never end an episode
        if self._remembers:
            self._first = made.terminated | made.truncated | ~made.valid
        if wanted is not None:
            made = made._replace(valid=made.valid & wanted)
        buffers.append((obs, action, made.reward, made.terminated, made.truncated, made.next_obs, made.valid))
        self._counts += made.valid
        self._obs = made.obs
        return made

    def _finish(self, buffers: _Buffers) -> tuple[dict[str, Any], EpisodeLog]:
        record = buffers.filled()
        self._check(record)
        valid = record["valid"]
        counted = np.cumsum(valid.sum(axis=1), dtype=np.int32)
        self._steps += int(counted[-1])
        ended = (record["terminated"] | record["truncated"]) & valid
        record["time"], self._time = _clock(valid, ended, self._time)
        returns, self._so_far = _sums(np.where(valid, record["reward"], 0).astype(np.float64), ended, self._so_far)
        log = EpisodeLog(ended, returns, record["time"] + 1, counted)
        if not valid.all():
            for array in jax.tree.leaves(record):
                array[~valid] = 0
        return record, log

    def _check(self, record: dict[str, Any]) -> None:
        """Raises if an observation or reward of the record is not what the environment's own spaces promise."""
        if not len(record):
            return
        valid = record["valid"]
        time, _ = _clock(valid, (record["terminated"] | record["truncated"]) & valid, self._time)
        fix = "correct the environment (or its space)"
        seen, taken = self.env.observation_space, self.env.action_space
        for name in ("obs", "next_obs"):
            wrong = check_values(seen, record[name], valid)
            if not wrong and name == "obs":
                wrong = check_masks(seen, taken, record[name], valid)
            if wrong:
                row, index, what = wrong
                step = int(time[row, index]) + (name == "next_obs")
                raise EnvError(
                    f"environment {self.env.name}, copy {index}, step {step} of its episode"
                    f" (about {self._steps + int(valid[:row].sum()):,} steps into the run): {what}; {fix}"
                )
        bad = ~np.isfinite(record["reward"]) & valid
        if bad.any():
            row, index = (int(i) for i in np.argwhere(bad)[0])
            raise EnvError(
                f"environment {self.env.name}, copy {index}, step {int(time[row, index]) + 1} of its episode"
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


FIELDS = "obs", "action", "reward", "terminated", "truncated", "next_obs", "valid"
"""What is written down of every vector step."""


class _Buffers:
    """Rows of `FIELDS`, in arrays that double when they are full. Freshly allocated: JAX may read them in place."""

    def __init__(self, rows: int):
        self._rows, self._used = rows, 0
        self._arrays: list[np.ndarray] = []
        self._structure: Any = None
        self._flat = False

    def append(self, row: tuple[PyTree, ...]) -> None:
        values = row if self._flat else jax.tree.leaves(row)
        if not self._arrays:
            self._structure, self._flat = jax.tree.structure(row), all(isinstance(part, np.ndarray) for part in row)
            self._arrays = [np.empty((self._rows, *value.shape), value.dtype) for value in values]
        if self._used == self._rows:
            self._arrays = [np.concatenate([array, np.empty_like(array)]) for array in self._arrays]
            self._rows *= 2
        used = self._used
        for array, value in zip(self._arrays, values, strict=True):
            array[used] = value
        self._used += 1

    @property
    def full(self) -> bool:
        return self._used == self._rows

    def filled(self) -> dict[str, Any]:
        if not self._used:
            return {}
        return dict(zip(FIELDS, jax.tree.unflatten(self._structure, [array[: self._used] for array in self._arrays]), strict=True))


def _clock(valid: np.ndarray, ended: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Steps since the reset, of every row and of the one that follows.

    Args:
        valid, ended: [T, B] bool.
        start: [B], of the first row.

    Returns:
        ([T, B] int32, [B] int32).
    """
    counted = start + np.cumsum(valid, axis=0, dtype=np.int32)  # with the row's own step
    reset = np.zeros((len(valid) + 1, valid.shape[1]), np.int32)  # what had been counted at the last end before the row
    np.maximum.accumulate(np.where(ended, counted, 0), axis=0, out=reset[1:])
    return counted - valid - reset[:-1], counted[-1] - reset[-1]


def _sums(rewards: np.ndarray, ended: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums of rewards over episodes.

    Args:
        rewards: [T, B]; ended: [T, B] bool.
        start: [B], what the episodes under way had before the first row.

    Returns:
        ([T, B], right where an episode ended and 0 elsewhere; [B], of the episodes under way after the last row).
    """
    rows, columns = rewards.shape
    # Environments one after the other, each followed by a row that ends nothing: what is left after its last end.
    flat = np.concatenate([rewards, np.zeros((1, columns))]).T.ravel()
    flat[:: rows + 1] += start
    over = np.concatenate([ended, np.ones((1, columns), bool)]).T.ravel()
    last = np.flatnonzero(over)
    sums = np.zeros(flat.size)
    sums[last] = np.add.reduceat(flat, np.concatenate([[0], last[:-1] + 1]))
    sums = sums.reshape(columns, rows + 1).T
    return sums[:-1], sums[-1]


def _one_episode_a_column(record: dict[str, Any], quota: int, padded: Callable[[int], int]) -> dict[str, Any]:
    """From rows of time to columns of episodes: [rows, B] becomes [padded(longest), quota · B], environments together."""
    valid, time = record["valid"], record["time"]
    rows, columns = np.nonzero(valid)
    times = time[rows, columns]
    # The episode's number in its environment: how often its clock has started so far.
    number = np.cumsum((time == 0) & valid, axis=0)[rows, columns] - 1
    length = padded(int(times.max()) + 1)
    episodes = quota * valid.shape[1]
    column = number * valid.shape[1] + columns

    def laid(array: np.ndarray) -> np.ndarray:
        result = np.zeros((length, episodes, *array.shape[2:]), array.dtype)
        result[times, column] = array[rows, columns]
        return result

    return jax.tree.map(laid, record)


def _rollout(record: dict[str, Any], carry: PyTree) -> Rollout:
    return Rollout(
        record["obs"],
        record["action"],
        (),
        record["reward"],
        record["terminated"],
        record["truncated"],
        record["next_obs"],
        record["valid"].astype(np.float32),
        record["time"],
        carry,
        {},
    )
