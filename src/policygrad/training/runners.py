"""Two loops, one iteration: collect → update.

`CompiledRunner` runs many iterations inside one jitted program; `HostRunner` steps Gymnasium's environments and calls the
same `update`. Both have the same four methods, so everything above them is written once.
"""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from policygrad.algorithms import all_finite
from policygrad.compilation import device
from policygrad.envs.base import Env
from policygrad.envs.gymnasium_adapter import GymnasiumEnv
from policygrad.envs.vector_adapter import check_masks
from policygrad.errors import DivergedError, EnvError, RunError, UsageError
from policygrad.rollout import EpisodeLog, HostCollector, compiled_collector
from policygrad.rollout.host import warm_up, with_log_prob
from policygrad.spaces import zeros
from policygrad.types import Agent, Algorithm, Array, Key, PyTree, Rollout, Spec

UserMetrics = Callable[[Agent, Rollout], dict[str, Array]]
"""A user's own metrics: scalars of the agent before the update and the rollout, computed inside the jitted iteration."""

RESERVED = {"seed", "iteration", "steps", "return", "length", "steps_per_second", "evaluation_return"}
"""Names of a record's own columns."""

ONE_THREAD: dict[str, str | bool] = {"xla_cpu_multi_thread_eigen": False}
"""XLA's options for programs that run beside others: threads that waited for each other's parts of a product could wait for ever."""

CHUNK_SECONDS = 0.25
"""How long a chunk of iterations should take: progress and records between chunks then cost well under 1 %."""

LOG_ELEMENTS = 2**18
"""A compiled chunk keeps at most so many elements of its episode log, which it first fills with zeros: 2 MB, enough for a quarter of a
second."""


class Chunk(NamedTuple):
    """What some iterations left: `n` updates, `e` episodes."""

    metrics: dict[str, np.ndarray]  # [n] each
    steps: np.ndarray  # [n] int: all environments' steps since the start of the run, after each update
    returns: np.ndarray  # [e] in the order of their ends
    lengths: np.ndarray  # [e]
    ends: np.ndarray  # [e] all environments' steps at the end of the episode
    updates: np.ndarray  # [e] which of the chunk's updates the episode ended in
    failure: RunError | None = None  # what ended the run with the last of these updates


Iteration = Callable[["RunState", Key], tuple["RunState", dict[str, Array], EpisodeLog]]
"""(state, keys of the rollout and the update) -> (state, metrics, episode log)."""

Until = Callable[[Sequence[Chunk], Chunk], int | None]
"""(chunks before it in this call, a chunk) -> which of the chunk's updates the run should end with, if any."""


def joined(chunks: Sequence[Chunk]) -> Chunk:
    """Chunks in a row as one."""
    if len(chunks) == 1:
        return chunks[0]
    offsets = np.cumsum([0] + [len(chunk.steps) for chunk in chunks[:-1]])
    return Chunk(
        {name: np.concatenate([chunk.metrics[name] for chunk in chunks]) for name in chunks[0].metrics},
        np.concatenate([chunk.steps for chunk in chunks]),
        np.concatenate([chunk.returns for chunk in chunks]),
        np.concatenate([chunk.lengths for chunk in chunks]),
        np.concatenate([chunk.ends for chunk in chunks]),
        np.concatenate([chunk.updates + offset for chunk, offset in zip(chunks, offsets, strict=True)]),
        chunks[-1].failure,
    )


class RunState(NamedTuple):
    """All state of a run of one seed: one pytree. On the host the environments' own state is not part of it."""

    agent: Agent
    env: PyTree
    key: Key
    iteration: Array  # int32


def spec_of(env: Env | GymnasiumEnv, num_envs: int) -> Spec:
    """What the algorithm must know of the environment."""
    return Spec(env.observation_space, env.action_space, num_envs, env.time_limit)


def initial_agent(algorithm: Algorithm, spec: Spec, key: Key, total: int, policy: Any = None) -> Agent:
    """A fresh agent, or one that starts from a given acting policy, the statistics inside it included.

    Raises:
        UsageError: if the policy has another structure than the one that the algorithm builds.
    """
    agent = algorithm.init(key, spec)
    if policy is not None:
        ours, given = algorithm.policy(agent), policy
        if jax.tree.structure(ours) != jax.tree.structure(given) or any(
            np.shape(a) != np.shape(b) for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(given), strict=True)
        ):
            raise UsageError(
                f"init: the policy has another structure ({_shapes(given)}) than the one that {algorithm.name} builds"
                f" ({_shapes(ours)}); give the same hidden_sizes, activation, sigma and normalisation as it was trained with"
            )
        policy = jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), given, ours)
        agent = algorithm.adopt(agent, policy)
    return agent._replace(total=jnp.asarray(total, jnp.int32))


def _shapes(tree: PyTree) -> str:
    return ", ".join("×".join(map(str, np.shape(leaf))) or "scalar" for leaf in jax.tree.leaves(tree))


def _iteration(algorithm: Algorithm, user_metrics: UserMetrics | None) -> Callable[[Key, Agent, Rollout], tuple[Agent, dict[str, Array]]]:
    def update(key: Key, agent: Agent, rollout: Rollout) -> tuple[Agent, dict[str, Array]]:
        after, metrics = algorithm.update(key, agent, rollout)
        # A NaN that the environment made may be masked, or multiplied by 0, before it reaches a parameter.
        # Of a mask that allows nothing no gradient tells: it makes log π alone NaN.
        sane = all_finite((rollout.reward, rollout.obs, rollout.next_obs)) & ~jnp.isnan(rollout.log_prob).any()
        counted = after.steps
        after = jax.lax.cond(sane, lambda new, old: new, lambda new, old: old, after, agent)._replace(steps=counted)
        metrics = metrics | {"finite": metrics["finite"] & sane}
        if user_metrics is not None:
            own = user_metrics(agent, rollout)
            for name, value in own.items():
                if name in metrics or name in RESERVED:
                    raise UsageError(f"metrics: got one named {name!r}, which the record has already; give it another name")
                if jnp.shape(value) != ():
                    raise UsageError(f"metrics: got {name!r} of shape {jnp.shape(value)}; a metric must be a scalar, e.g. its mean")
            metrics = metrics | own
        return after, {name: jnp.asarray(value, jnp.float32) for name, value in metrics.items()}

    return update


def diverged(algorithm: Algorithm, env: Env | GymnasiumEnv, seed: int, iteration: int, steps: int) -> DivergedError:
    """The error of an update that made a parameter NaN or infinite."""
    return DivergedError(
        f"{algorithm.name} on {env.name}, seed {seed}: a parameter became NaN or infinite in update {iteration}"
        f" ({steps:,} steps into the run); the policy of the update before is kept; try a smaller learning_rate, or max_grad_norm 0.5"
    )


def keys_of(key: Key, iteration: Any) -> Key:
    """The keys of one iteration's rollout and update, [2]."""
    return jax.random.split(jax.random.fold_in(key, iteration))


class _Runner:
    """What both loops share: the start of a run.

    Attributes:
        compile_seconds: so far, of all programs.
        chunk_seconds: how long a call of `advance` should take.
        released: the context in which programs run that need no Python; a lock that others wait for is let go there.
    """

    def __init__(self, env: Any, algorithm: Algorithm, num_envs: int, num_steps: int, user_metrics: UserMetrics | None):
        self.env, self.algorithm, self.num_envs, self.num_steps = env, algorithm, num_envs, num_steps
        self.spec = spec_of(env, num_envs)
        self._update = _iteration(algorithm, user_metrics)

        self.seed = 0  # of the run that was started last
        self._started: Any = None
        self.compile_seconds, self.chunk_seconds = 0.0, CHUNK_SECONDS
        self.released: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext

    def finished(self, tree: PyTree) -> PyTree:
        """What a seed leaves behind, as arrays of its own."""
        return tree

    def _start(self, seed: int, init_policy: Any, init_env: Callable[[Key, Any], PyTree]) -> tuple[RunState, Key]:
        """The state of run `seed` before its first step, made by one compiled program for all seeds."""

        def start(seed: Array, policy: Any) -> tuple[RunState, Key]:
            agent_key, env_key, loop_key = jax.random.split(jax.random.key(seed), 3)
            agent = initial_agent(self.algorithm, self.spec, agent_key, self.num_steps, policy)
            return RunState(agent, init_env(env_key, self.algorithm.acting(agent)), loop_key, jnp.zeros((), jnp.int32)), env_key

        self.seed = seed
        begin = time.perf_counter()
        if self._started is None:
            self._started = jax.jit(start)
            result = jax.block_until_ready(self._started(np.uint32(seed), init_policy))
            self.compile_seconds += time.perf_counter() - begin
            return result
        return self._started(np.uint32(seed), init_policy)


class CompiledRunner(_Runner):
    """Runs chunks of iterations in one compiled program. It is a pure function of its state, so a chunk can be run again.

    Args:
        alone: False compiles for one thread of the processor, for runners that run side by side.
    """

    def __init__(
        self,
        env: Env,
        algorithm: Algorithm,
        num_envs: int,
        num_steps: int,
        user_metrics: UserMetrics | None = None,
        *,
        alone: bool = True,
    ):
        super().__init__(env, algorithm, num_envs, num_steps, user_metrics)
        self._collector = compiled_collector(env, algorithm.collect, num_envs)
        self._options = {} if alone else ONE_THREAD
        self._program: Any = None
        self._names: list[str] = []  # of the metrics
        self._capacity = 1  # updates in one call of the program

    def start(self, seed: int, init_policy: Any = None) -> RunState:
        """The state before the first step of run `seed`."""
        return self._start(seed, init_policy, self._collector.init)[0]

    def prepare(self, init_policy: Any = None) -> None:
        """Compiles all that a run needs, if it is not."""
        state = self.start(self.seed, init_policy)
        if self._program is None:
            begin = time.perf_counter()
            self._build(state)
            self.compile_seconds += time.perf_counter() - begin

    def beside(self) -> CompiledRunner:
        """Another runner of the same programs, for another thread."""
        return copy.copy(self)

    def advance(self, state: RunState, updates: int, until: Until | None = None, end: int | None = None) -> tuple[RunState, Chunk, bool]:
        """Runs `updates` iterations; fewer at the end of the run, at a failure, or where `until` says so.

        Args:
            end: stop with the update that reaches so many steps of all environments.

        Returns:
            (state, chunk, whether `until` ended it).
        """
        end = self.num_steps if end is None else min(end, self.num_steps)
        if self._program is None:
            begin = time.perf_counter()
            self._build(state)
            self.compile_seconds += time.perf_counter() - begin
        chunks: list[Chunk] = []
        while True:
            wanted = min(updates, self._capacity)
            after, chunk = self._run(state, wanted, end)
            last = until(chunks, chunk) if until is not None else None
            if last is not None and last + 1 < len(chunk.steps):
                # The program ran past the end. It is a pure function, so running it again for fewer updates gives
                # exactly the state at the end, however fast this machine is.
                after, chunk = self._run(state, last + 1, end)
            chunks.append(chunk)
            state, updates = after, updates - wanted
            if last is not None or updates == 0 or chunk.failure or len(chunk.steps) < wanted or int(chunk.steps[-1]) >= end:
                return state, joined(chunks), last is not None

    def _run(self, state: RunState, updates: int, end: int) -> tuple[RunState, Chunk]:
        before = int(state.agent.steps)
        after, count, values, log = self._called(state, updates, end)
        n = int(count)
        values = np.asarray(values)[:n]
        at_update, row, column = np.nonzero(np.asarray(log.ended)[:n])
        per_update = np.asarray(log.steps)[:n]
        started = before + np.concatenate([[0], np.cumsum(per_update[:, -1], dtype=np.int64)])
        metrics = {name: values[:, i] for i, name in enumerate(self._names)}
        failure = None
        if n and not metrics["finite"][-1]:
            failure = self._failure(state, n, int(state.iteration) + n, int(started[-1]))
        return after, Chunk(
            metrics,
            started[1:],
            np.asarray(log.returns)[at_update, row, column].astype(np.float64),
            np.asarray(log.lengths)[at_update, row, column],
            started[at_update] + per_update[at_update, row],
            at_update,
            failure,
        )

    def _called(self, state: RunState, updates: int, end: int) -> Any:
        """The program, while others may have the turn: it may wait for them."""
        with self.released():
            return jax.block_until_ready(self._program(state, np.int32(updates), np.int32(end)))

    def _failure(self, state: RunState, updates: int, iteration: int, steps: int) -> RunError:
        """What went wrong in the last of `updates` iterations from `state`: its rollout is collected once more and read."""
        if updates > 1:
            state = self._called(state, updates - 1, self.num_steps)[0]
        collect_key, _ = keys_of(state.key, state.iteration)
        collect = jax.jit(lambda agent, key, env: self._collector.collect(self.algorithm.acting(agent), key, env)[1])
        rollout = collect(state.agent, collect_key, state.env)

        def fault(row: int, column: int, what: str, after: bool) -> EnvError:
            step = int(np.asarray(rollout.time)[row, column]) + after
            return EnvError(
                f"environment {self.env.name}, copy {column}, step {step} of its episode"
                f" (seed {self.seed}, update {iteration} at {steps:,} steps): {what}; correct the environment"
            )

        for name in ("obs", "reward", "next_obs"):
            for path, leaf in jax.tree_util.tree_leaves_with_path(getattr(rollout, name)):
                values = np.asarray(leaf, np.float64)
                bad = ~np.isfinite(values.reshape(*values.shape[:2], -1)).all(axis=-1)
                if bad.any():
                    row, column = (int(i) for i in np.argwhere(bad)[0])
                    what = {"obs": "observation", "reward": "reward", "next_obs": "next observation"}[name]
                    part = f", part {jax.tree_util.keystr(path)}," if path else ""
                    shown = np.array2string(values[row, column], threshold=6, precision=4)
                    return fault(row, column, f"the {what}{part} is {shown}, not finite", name != "obs")
        seen = jax.tree.map(np.asarray, rollout.obs)
        wrong = check_masks(self.env.observation_space, self.env.action_space, seen, np.asarray(rollout.mask) > 0)
        if wrong:
            return fault(*wrong, False)
        return diverged(self.algorithm, self.env, self.seed, iteration, steps)

    def close(self) -> None:
        """Nothing to close."""

    def _traced(self, state: RunState) -> tuple[Iteration, EpisodeLog]:
        """One iteration, traced, and the shapes of its episode log; sets the names of the metrics."""

        @partial(jax.jit, inline=True)  # traced once, for its shapes and for the program
        def iteration(state: RunState, keys: Key) -> tuple[RunState, dict[str, Array], EpisodeLog]:
            collect_key, update_key = keys
            env, rollout, log = self._collector.collect(self.algorithm.acting(state.agent), collect_key, state.env)
            agent, metrics = self._update(update_key, state.agent, rollout)
            return RunState(agent, env, state.key, state.iteration + 1), metrics, log

        _, metrics, log = jax.eval_shape(iteration, state, keys_of(state.key, state.iteration))
        self._names = sorted(metrics)
        return iteration, log

    def _build(self, state: RunState) -> None:
        iteration, log = self._traced(state)
        self._capacity = max(1, min(1024, LOG_ELEMENTS // int(np.prod(log.ended.shape))))
        capacity = self._capacity
        finite_at = self._names.index("finite")

        def program(state: RunState, updates: Array, end: Array) -> tuple[RunState, Array, Array, EpisodeLog]:
            values = jnp.zeros((capacity, len(self._names)), jnp.float32)
            logs = jax.tree.map(lambda leaf: jnp.zeros((capacity, *leaf.shape), leaf.dtype), log)
            # All keys at once: few large operations instead of many small ones in every iteration.
            keys = jax.vmap(keys_of, (None, 0))(state.key, state.iteration + jnp.arange(capacity, dtype=jnp.int32))

            def more(loop: Any) -> Array:
                count, state, values, _ = loop
                healthy = (count == 0) | (values[jnp.maximum(count - 1, 0), finite_at] > 0)
                return (count < updates) & (state.agent.steps < end) & healthy

            def body(loop: Any) -> Any:
                count, state, values, logs = loop
                state, metrics, now = iteration(state, keys[count])
                values = values.at[count].set(jnp.stack([metrics[name] for name in self._names]))
                return count + 1, state, values, jax.tree.map(lambda buffer, leaf: buffer.at[count].set(leaf), logs, now)

            count, state, values, logs = jax.lax.while_loop(more, body, (jnp.zeros((), jnp.int32), state, values, logs))
            return state, count, values, logs

        options = self._options if device().platform == "cpu" else {}
        self._program = jax.jit(program).lower(state, np.int32(0), np.int32(0)).compile(compiler_options=options)


class HostRunner(_Runner):
    """Steps Gymnasium's environments and calls the jitted update. Each seed gets environments of its own.

    Attributes:
        processes: that step them, this one included.
    """

    def __init__(self, env: GymnasiumEnv, algorithm: Algorithm, num_envs: int, num_steps: int, user_metrics: UserMetrics | None = None):
        super().__init__(env, algorithm, num_envs, num_steps, user_metrics)
        self._collector: HostCollector | None = None
        self._programs: dict[Any, Any] = {}  # by the shape of the rollout
        self._names: list[str] = []  # of the metrics, known once the update was traced
        self._jitted: Any = None
        self._warm = False
        self.processes = env.processes(num_envs, num_steps)

    def start(self, seed: int, init_policy: Any = None) -> RunState:
        """The state before the first step of run `seed`; makes its environments."""
        self.close()
        state, env_key = self._start(seed, init_policy, lambda key, policy: ())
        how = self.env, self.algorithm.collect, self.num_envs
        self._collector = HostCollector(*how, seed=seed, key=env_key, processes=self.processes)
        return state

    def advance(self, state: RunState, updates: int, until: Until | None = None, end: int | None = None) -> tuple[RunState, Chunk, bool]:
        """Runs `updates` iterations; fewer at the end of the run, at a failure, or where `until` says so.

        Args:
            end: stop with the update that reaches so many steps of all environments.

        Returns:
            (state, chunk, whether `until` ended it).
        """
        end = self.num_steps if end is None else min(end, self.num_steps)
        collector = self._collector
        assert collector is not None, "start() comes first"
        if not self._warm:
            begin = time.perf_counter()
            self._warm_up(state)
            self.compile_seconds += time.perf_counter() - begin
        agent, iteration = state.agent, int(state.iteration)
        steps = int(agent.steps)
        chunks: list[Chunk] = []
        stop, failure = False, None
        for _ in range(updates):
            try:
                rollout, log = collector.collect(self.algorithm.acting(agent), log_prob=False)
            except RunError as error:
                if not chunks:
                    raise
                failure = error  # told together with the updates before it
                break
            shape = rollout.mask.shape
            if shape not in self._programs:
                begin = time.perf_counter()
                self._programs[shape] = self._compile(state.key, np.int32(iteration), agent, rollout)
                self.compile_seconds += time.perf_counter() - begin
            agent, values = self._programs[shape](state.key, np.int32(iteration), agent, rollout)
            values = np.asarray(values)
            metrics = {name: values[i : i + 1] for i, name in enumerate(self._names)}
            row, column = np.nonzero(log.ended)
            ends = steps + log.steps[row].astype(np.int64)
            steps, iteration = steps + int(log.steps[-1]), iteration + 1
            if not metrics["finite"][0]:
                failure = diverged(self.algorithm, self.env, self.seed, iteration, steps)
            at_update = np.zeros(len(row), np.int64)
            chunk = Chunk(metrics, np.array([steps]), log.returns[row, column], log.lengths[row, column], ends, at_update)
            stop = until is not None and until(chunks, chunk) is not None
            chunks.append(chunk)
            if stop or failure or steps >= end:
                break
        chunk = joined(chunks)._replace(failure=failure)
        return state._replace(agent=agent, iteration=jnp.asarray(iteration, jnp.int32)), chunk, stop

    def close(self) -> None:
        """Closes the environments."""
        if self._collector is not None:
            self._collector.close()
            self._collector = None

    def _warm_up(self, state: RunState) -> None:
        """Compiles the call of the policy, so that its compilation is told apart from the run."""
        warm_up(self.algorithm.acting(state.agent), state.key, zeros(self.spec.observation_space, self.num_envs), self.num_envs)
        self._warm = True

    def _compile(self, key: Key, iteration: Any, agent: Agent, rollout: Rollout) -> Any:
        def program(key: Key, iteration: Array, agent: Agent, rollout: Rollout) -> tuple[Agent, Array]:
            _, update_key = keys_of(key, iteration)
            rollout = with_log_prob(self.algorithm.acting(agent), rollout, self.algorithm.collect.distributions)
            agent, metrics = self._update(update_key, agent, rollout)
            self._names = sorted(metrics)
            return agent, jnp.stack([metrics[name] for name in self._names])

        if self._jitted is None:
            self._jitted = jax.jit(program)
        return self._jitted.lower(key, iteration, agent, rollout).compile()
