"""Environments of several processes, stepped at the same time."""

from __future__ import annotations

import contextlib
import itertools
import json
import mmap
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np

from policygrad.errors import UsageError
from policygrad.vectors import worker
from policygrad.vectors.in_turn import InTurn
from policygrad.vectors.layout import Layout


class WorkerError(Exception):
    """What an environment of a worker process raised.

    Attributes:
        index: the environment's number; None where they could not be made.
        kind: the class of what was raised. The worker's own traceback is a note, which Python prints with this one.
    """

    def __init__(self, told: dict[str, Any]):
        super().__init__(told["message"])
        self.index, self.kind = told["index"], told["kind"]
        self.add_note(told["traceback"])


class SideBySide:
    """A vector that does what `InTurn` does, bit for bit: its first block in this process, each further one in a worker of its own.

    Args:
        make: makes one environment.
        num_envs: B.
        parts: blocks, this process's included; at most one for each environment. With one environment, it goes to a worker.
        observation_space, action_space: of one environment.
        spin: seconds that whoever waits asks again before it sleeps; 0 where there are more processes than cores.

    Raises:
        UsageError: `make` cannot be sent to another process.
    """

    def __init__(
        self,
        make: Callable[[], Any],
        num_envs: int,
        parts: int,
        observation_space: Any,
        action_space: Any,
        *,
        spin: float = worker.SPIN,
    ):
        self.num_envs = num_envs
        self.single_observation_space, self.single_action_space = observation_space, action_space
        self.metadata = {"autoreset_mode": "SameStep"}
        self.env_fns = [make] * num_envs
        self.unwrapped = self
        parts = max(1, min(parts, num_envs))
        # This process has the rest to do as well: where blocks differ in size, its own is a small one.
        cuts = [0, *(num_envs * (part + 1) // parts for part in range(parts))] if parts > 1 else [0, 0, num_envs]
        self._blocks = list(itertools.pairwise(cuts[1:]))
        self._mine = cuts[1]
        layout = worker.fields(num_envs, observation_space, action_space)
        spaces = observation_space, action_space
        orders = [packed((make, spaces, num_envs, *block)) for block in self._blocks]
        self._spin = spin
        self._memory = _shared(worker.size(layout))
        memory = mmap.mmap(self._memory, worker.size(layout))
        self._shared = worker.arrays(layout, memory)
        self._seen, self._taken = Layout(observation_space), Layout(action_space)
        self._obs, self._final, self._actions = (worker.leaves_of(self._shared, name) for name in ("obs", "final", "action"))
        self.processes: list[subprocess.Popen[bytes]] = []
        self._channels: list[socket.socket] = []
        self._started = self._broken = False
        for order in orders:
            self._start(order)
        self._envs: InTurn | None = None
        self.at: int | None = None
        try:
            self._envs = InTurn([make] * self._mine) if self._mine else None
        except BaseException:
            self.close()
            raise
        self.spec = getattr(self._envs.envs[0], "spec", None) if self._envs else None

    def _start(self, order: bytes) -> None:
        ours, theirs = socket.socketpair()
        code = f"from policygrad.vectors.worker import main; main({theirs.fileno()}, {self._memory}, {self._spin})"
        # The package may be importable only by this process's own path.
        path = os.pathsep.join([_SOURCE, *filter(None, [os.environ.get("PYTHONPATH")])])
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            pass_fds=(theirs.fileno(), self._memory),
            stdin=subprocess.DEVNULL,
            stdout=2,  # what environments print must not stand between the results on stdout
            process_group=0,  # Ctrl-C goes to the processes of a terminal's group; a worker that dies of it could not end in order
            env=os.environ | {"PYTHONPATH": path},
        )
        theirs.close()
        self.processes.append(process)
        self._channels.append(ours)
        with contextlib.suppress(ConnectionError):  # one that died at once is found when it should answer
            worker.send(ours, json.dumps(sys.path).encode())
            worker.send(ours, order)

    def reset(self, *, seed: Any) -> tuple[Any, dict[str, Any]]:
        """New episodes everywhere: (observations [B, …], infos)."""
        if not self._started:
            self._answers(0.0)  # workers start while this process goes on: the first reset waits for them
            self._started = True
        mine = self._mine
        self._shared["seed"][:] = seed
        self._order(worker.RESET)
        obs = self._seen.empty(self.num_envs)
        self._here(lambda envs: envs.reset_into([array[:mine] for array in obs], seed[:mine]))
        self._answers(0.0)
        for array, shared in zip(obs, self._obs, strict=True):
            array[mine:] = shared[mine:]
        return self._seen.batch(obs), {}

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """As `InTurn.step`."""
        mine, given = self._mine, self._taken.leaves(actions)
        for shared, action in zip(self._actions, given, strict=True):
            shared[mine:] = action[mine:]
        self._order(worker.STEP)
        obs = self._seen.empty(self.num_envs)
        ends = [np.empty_like(self._shared[name]) for name in ("reward", "terminated", "truncated")]
        own = self._taken.batch([action[:mine] for action in given])
        final: dict[int, Any] = (
            self._here(lambda envs: envs.step_into(own, [array[:mine] for array in obs], *(array[:mine] for array in ends))) or {}
        )
        self._answers(self._spin)
        theirs = [*self._obs, *(self._shared[name] for name in ("reward", "terminated", "truncated"))]
        for array, shared in zip([*obs, *ends], theirs, strict=True):
            array[mine:] = shared[mine:]
        reward, terminated, truncated = ends
        for index in np.flatnonzero((terminated | truncated)[mine:]) + mine:
            final[int(index)] = self._seen.batch([array[index].copy() for array in self._final])
        return self._seen.batch(obs), reward, terminated, truncated, {"final_obs": final}

    def close(self) -> None:
        """Ends the workers; one that does not end by itself within two seconds is killed."""
        for channel in self._channels:
            channel.close()
        for process in self.processes:
            try:
                process.wait(2)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._memory >= 0:
            os.close(self._memory)
            self._memory = -1
        self._channels = []
        if self._envs is not None:
            self._envs.close()

    def _order(self, order: bytes) -> None:
        if self._broken:
            raise EOFError
        for channel in self._channels:
            try:
                channel.sendall(order)
            except OSError:
                self._broken = True
                raise EOFError from None

    def _here(self, call: Callable[[InTurn], Any]) -> Any:
        """This process's block, while the others are under way; they are waited for also where it raises."""
        self.at = None
        if self._envs is None:
            return None
        try:
            return call(self._envs)
        except BaseException:
            self.at = self._envs.at
            with contextlib.suppress(WorkerError, EOFError):
                self._answers(0.0)
            raise

    def _answers(self, spin: float) -> None:
        """Waits for all workers; raises what the first of them tells."""
        failures = []
        for channel in self._channels:
            answer = worker.awaited(channel, spin)
            if not answer:
                self._broken = True
                raise EOFError
            if answer == worker.FAILED:
                failures.append(WorkerError(json.loads(worker.receive(channel))))
        if failures:
            self.at = failures[0].index
            raise failures[0]


def packed(what: Any) -> bytes:
    """What a worker unpacks: functions and classes of the user's script too, by their code.

    Raises:
        UsageError: it holds something that only this process has.
    """
    import cloudpickle  # noqa: TID251  to this process's own workers, which run the same code anyway

    try:
        return cloudpickle.dumps(what)
    except Exception as error:  # objects of the user's say in their own ways that they cannot be copied
        raise UsageError(
            f"vectorization: got async, but what makes the environment cannot be sent to another process"
            f" ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}); use sync"
        ) from error


_SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def _shared(count: int) -> int:
    """A file descriptor of `count` bytes that no name leads to, in memory where the system has that."""
    if hasattr(os, "memfd_create"):
        number = os.memfd_create("policygrad")
    else:
        with tempfile.TemporaryFile() as file:
            number = os.dup(file.fileno())
    os.truncate(number, count)
    return number
