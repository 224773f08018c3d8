"""Seeds together: one program advances all of them, on all devices.

A device with thousands of arithmetic units is busy only with thousands of environments. So the seeds of a run are rows of one program
(`jax.vmap`), spread over the devices. Each seed has a thread of its own, as when seeds run side by side; a thread that wants its seed
advanced waits until all have asked, and the last one runs the program.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from policygrad.compilation import device
from policygrad.envs.base import Env
from policygrad.rollout import EpisodeLog
from policygrad.training.runners import CompiledRunner, Iteration, RunState, UserMetrics, keys_of
from policygrad.types import Algorithm, Array, PyTree

LOG_ELEMENTS = {"cpu": 2**20}
"""As for a single seed, but of all seeds together, by platform."""
MOST_LOG_ELEMENTS = 2**26
"""Where the platform is another: 600 MB on the device and on the host."""

SEED_SECONDS = 0.005
"""A chunk should take so much longer for each seed: what is done for each between two chunks, in Python, takes a fifth of that."""


class TogetherRunner(CompiledRunner):
    """A `CompiledRunner` for each seed (`beside`); all of them share one program for all seeds.

    Seeds are equal in distribution to the same seeds alone, not bit for bit: a batched product may add in another order.

    Args:
        seeds: how many there will be.
    """

    def __init__(
        self, env: Env, algorithm: Algorithm, num_envs: int, num_steps: int, user_metrics: UserMetrics | None = None, *, seeds: int
    ):
        super().__init__(env, algorithm, num_envs, num_steps, user_metrics)
        self._seeds = seeds
        self.chunk_seconds += SEED_SECONDS * seeds
        self._meeting: _Meeting | None = None
        self._seat: int | None = None

    def beside(self) -> TogetherRunner:
        """The runner of the next seed, for a thread of its own."""
        assert self._meeting is not None, "prepare() comes first"
        mine = copy.copy(self)
        mine._seat = seat = self._meeting.seated()
        meeting = self._meeting
        mine._program = lambda state, updates, end: meeting.advanced(seat, state, int(updates), int(end))
        return mine

    def close(self) -> None:
        """The others no longer wait for this seed."""
        if self._seat is not None and self._meeting is not None:
            self._meeting.leave(self._seat)
            self._seat = None

    def finished(self, tree: PyTree) -> PyTree:
        """What a seed leaves behind, on the device; not as rows of arrays of all seeds, which could not be let go."""
        return jax.device_put(jax.tree.map(lambda leaf: leaf.copy() if isinstance(leaf, np.ndarray) else leaf, tree), device())

    def _build(self, state: RunState) -> None:
        iteration, log = self._traced(state)
        platform = device().platform
        elements = LOG_ELEMENTS.get(platform, MOST_LOG_ELEMENTS)
        self._capacity = max(1, min(1024, elements // (self._seeds * int(np.prod(log.ended.shape)))))
        devices = [one for one in jax.local_devices() if one.platform == platform] or [device()]
        devices = devices[: self._seeds]
        rows = -(-self._seeds // len(devices)) * len(devices)
        mesh = Mesh(np.array(devices), ("seeds",))
        place = NamedSharding(mesh, PartitionSpec("seeds"))
        advance = _advance_of(iteration, log, self._names, self._capacity)
        first = jax.device_put(_stacked([state] * rows), place)
        nothing = jax.device_put(np.zeros(rows, np.int32), place)
        program = jax.jit(advance).lower(first, nothing, nothing).compile()
        self._program = program
        self._meeting = _Meeting(program, rows, self._seeds, place)


def _advance_of(iteration: Iteration, log: EpisodeLog, names: list[str], capacity: int) -> Callable[..., Any]:
    """(states [S], updates [S], ends [S]) -> (states, counts [S], metrics [S, capacity, names], logs [S, capacity, …]).

    The loop is one loop for all; a seed that has enough keeps its state while others go on.
    """
    finite_at = names.index("finite")

    def advance(states: RunState, updates: Array, ends: Array) -> tuple[RunState, Array, Array, EpisodeLog]:
        seeds = updates.shape[0]
        values = jnp.zeros((capacity, seeds, len(names)), jnp.float32)
        logs = jax.tree.map(lambda leaf: jnp.zeros((capacity, seeds, *leaf.shape), leaf.dtype), log)
        counts = jnp.zeros(seeds, jnp.int32)
        ahead = jnp.arange(capacity, dtype=jnp.int32)
        keys = jax.vmap(lambda key, begin: jax.vmap(keys_of, (None, 0))(key, begin + ahead), out_axes=1)(states.key, states.iteration)

        def more(loop: Any) -> Array:
            return loop[-1].any()

        def body(loop: Any) -> Any:
            count, states, counts, values, logs, active = loop
            after, metrics, now = jax.vmap(iteration)(states, keys[count])
            states = jax.tree.map(lambda new, old: jax.vmap(jnp.where)(active, new, old), after, states)
            row = jnp.stack([metrics[name] for name in names], axis=1)
            values = values.at[count].set(row)
            logs = jax.tree.map(lambda buffer, leaf: buffer.at[count].set(leaf), logs, now)
            counts = counts + active
            active = active & (row[:, finite_at] > 0) & (counts < updates) & (states.agent.steps < ends)
            return count + 1, states, counts, values, logs, active

        active = (updates > 0) & (states.agent.steps < ends)
        loop = jnp.zeros((), jnp.int32), states, counts, values, logs, active
        _, states, counts, values, logs, _ = jax.lax.while_loop(more, body, loop)
        return states, counts, jnp.swapaxes(values, 0, 1), jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), logs)

    return advance


class _Asked(NamedTuple):
    state: RunState
    updates: int
    end: int


class _Meeting:
    """Where the seeds' threads ask for updates, and wait until all that are still there have asked."""

    def __init__(self, program: Callable[..., Any], rows: int, seeds: int, place: NamedSharding):
        self._program, self._rows, self._place = program, rows, place
        self._turn = threading.Condition()
        self._seats = iter(range(seeds))
        self._present = seeds
        self._asked: dict[int, _Asked] = {}
        self._answers: dict[int, Any] = {}
        self._states: Any = None  # of all seeds, on the devices
        self._given: dict[int, RunState] = {}  # what its thread was given of each row of them
        self._keys: dict[tuple[int, int], tuple[np.ndarray, Any]] = {}  # the keys in that: most never change, and each takes a call
        self._fault: BaseException | None = None

    def seated(self) -> int:
        """The next seed's row."""
        return next(self._seats)

    def leave(self, seat: int) -> None:
        """This seed asks no more."""
        with self._turn:
            self._present -= 1
            self._given.pop(seat, None)
            self._run_when_all_have_asked()

    def advanced(self, seat: int, state: RunState, updates: int, end: int) -> Any:
        """What a single seed's program returns: (state, count, metrics [capacity, names], log [capacity, …]), on the host."""
        with self._turn:
            self._asked[seat] = _Asked(state, updates, end)
            self._run_when_all_have_asked()
            while seat not in self._answers and self._fault is None:
                self._turn.wait()
            if self._fault is not None:
                raise self._fault
            return self._answers.pop(seat)

    def _run_when_all_have_asked(self) -> None:
        if not self._asked or len(self._asked) < self._present or self._fault is not None:
            return
        try:
            self._answers |= self._run()
        except BaseException as error:
            self._fault = error  # every thread's, or they would wait for ever
        self._asked = {}
        self._turn.notify_all()

    def _run(self) -> dict[int, Any]:
        asked = self._asked
        changed = [seat for seat, one in asked.items() if self._given.get(seat) is not one.state]
        if self._states is None:
            any_of = next(iter(asked.values())).state
            self._states = _stacked([asked[seat].state if seat in asked else any_of for seat in range(self._rows)])
        elif changed:
            rows = np.array(changed)
            new = _stacked([asked[seat].state for seat in changed])
            self._states = jax.tree.map(lambda whole, some: whole.at[rows].set(some), self._states, new)
        updates, ends = np.zeros(self._rows, np.int32), np.zeros(self._rows, np.int32)
        for seat, one in asked.items():
            updates[seat], ends[seat] = one.updates, one.end
        states, counts, values, log = self._program(*jax.device_put((self._states, updates, ends), self._place))
        self._states = states
        leaves, structure = jax.tree.flatten(states)
        is_key = [jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in leaves]
        data = [jax.random.key_data(leaf) if key else leaf for leaf, key in zip(leaves, is_key, strict=True)]
        data, counts, values, log = jax.device_get((data, counts, values, log))
        answers = {}
        for seat in asked:
            rows = zip([np.asarray(leaf[seat]) for leaf in data], is_key, strict=True)
            mine = [self._key(seat, number, leaf) if key else leaf for number, (leaf, key) in enumerate(rows)]
            state = self._given[seat] = jax.tree.unflatten(structure, mine)
            answers[seat] = state, counts[seat], values[seat], jax.tree.map(lambda leaf, row=seat: leaf[row], log)
        return answers

    def _key(self, seat: int, number: int, data: np.ndarray) -> Any:
        old = self._keys.get((seat, number))
        if old is None or not np.array_equal(old[0], data):
            old = self._keys[seat, number] = data.copy(), jax.random.wrap_key_data(jnp.asarray(data))
        return old[1]


def _stacked(states: Sequence[RunState]) -> RunState:
    """Rows of one tree of arrays; keys by their data, which JAX stacks no other way on the host."""

    def stack(*leaves: Any) -> Any:
        if jnp.issubdtype(jnp.result_type(leaves[0]), jax.dtypes.prng_key):
            return jax.random.wrap_key_data(jnp.asarray(np.stack([np.asarray(jax.random.key_data(leaf)) for leaf in leaves])))
        return np.stack([np.asarray(leaf) for leaf in leaves])

    return jax.tree.map(stack, *states)
