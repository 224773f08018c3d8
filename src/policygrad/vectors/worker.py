"""A worker process: a block of environments, stepped when it is told to.

It is started as `python -c "from policygrad.vectors.worker import main; main(…)"`: a child of fork could hang once JAX has threads, and
multiprocessing's spawn would run the user's script again, which few scripts are written for.

It talks over a socket, one byte an order and one an answer; what environments take and return lies in memory that both processes map.
Where its parent is gone, the socket ends, and so does the process.
"""

from __future__ import annotations

import json
import mmap
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

RESET, STEP = b"r", b"s"
DONE, FAILED = b"d", b"f"

SPIN = 1e-3
"""Seconds to ask for the next byte before going to sleep: waking up takes longer than a small policy's answer."""


class Field(NamedTuple):
    """An array of the shared memory."""

    dtype: str
    shape: tuple[int, ...]  # [B, …]


def fields(num_envs: int, observation_space: Any, action_space: Any) -> dict[str, Field]:
    """What lies in shared memory, for all environments; of observations and actions each leaf, "obs0", "obs1", …"""
    from policygrad.vectors.layout import Layout

    seen, taken = Layout(observation_space), Layout(action_space)
    obs, action = ([Field(t.str, (num_envs, *shape)) for t, shape in zip(x.dtypes, x.shapes, strict=True)] for x in (seen, taken))
    return {
        **{f"obs{i}": field for i, field in enumerate(obs)},
        **{f"final{i}": field for i, field in enumerate(obs)},  # last observations; read where an episode ended
        **{f"action{i}": field for i, field in enumerate(action)},
        "seed": Field("<i8", (num_envs,)),
        "reward": Field("<f4", (num_envs,)),
        "terminated": Field("|b1", (num_envs,)),
        "truncated": Field("|b1", (num_envs,)),
    }


def leaves_of(arrays: dict[str, np.ndarray], name: str) -> list[np.ndarray]:
    """The arrays of "obs", "final" or "action", one for each leaf."""
    return [arrays[f"{name}{i}"] for i in range(sum(key.rstrip("0123456789") == name for key in arrays))]


def size(layout: dict[str, Field]) -> int:
    """Bytes of shared memory, ≥ 1."""
    return max(1, sum(_padded(field) for field in layout.values()))


def arrays(layout: dict[str, Field], memory: mmap.mmap) -> dict[str, np.ndarray]:
    """The arrays in it."""
    result, at = {}, 0
    for name, field in layout.items():
        result[name] = np.ndarray(field.shape, field.dtype, memory, at)
        at += _padded(field)
    return result


def _padded(field: Field) -> int:
    """Bytes up to the next line of a cache: two processes that write to one would slow each other down."""
    return -(-np.dtype(field.dtype).itemsize * int(np.prod(field.shape, dtype=np.int64)) // 64) * 64


def send(channel: socket.socket, data: bytes) -> None:
    """Bytes of any number, their number first."""
    channel.sendall(len(data).to_bytes(8, "little") + data)


def receive(channel: socket.socket) -> bytes:
    """What `send` sent.

    Raises:
        EOFError: the other process is gone.
    """
    return _exactly(channel, int.from_bytes(_exactly(channel, 8), "little"))


def _exactly(channel: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = channel.recv(min(count - len(data), 1 << 20))
        if not more:
            raise EOFError
        data += more
    return data


def awaited(channel: socket.socket, spin: float) -> bytes:
    """The next byte; b"" where the other process is gone. Asks again and again for `spin` seconds, and then sleeps."""
    until = time.perf_counter() + spin
    try:
        while True:
            try:
                return channel.recv(1, socket.MSG_DONTWAIT)
            except BlockingIOError:
                if time.perf_counter() > until:
                    return channel.recv(1)
    except ConnectionError:
        return b""


def main(channel_number: int, memory_number: int, spin: float) -> None:
    """Runs until it is told to end.

    Args:
        channel_number, memory_number: file descriptors.
        spin: as of `awaited`.
    """
    # Who interrupts all processes means the run, which ends in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel, block = socket.socket(fileno=channel_number), None
    try:
        sys.path[:] = json.loads(receive(channel))  # where the user's modules are
        envs = receive(channel)
        try:
            block = _Block(envs, memory_number)
        except Exception as error:  # whatever the user's code raises is told, and ends nothing here
            _tell(channel, error, None)
            return
        channel.sendall(DONE)
        while order := awaited(channel, spin):
            try:
                block.reset() if order == RESET else block.step()
            except Exception as error:  # likewise
                _tell(channel, error, block.at)
            else:
                channel.sendall(DONE)
    except (EOFError, ConnectionError):
        pass  # the parent is gone, or wants no more
    finally:
        channel.close()
        if block is not None:
            block.close()


class _Block:
    """Some environments of a vector, and their rows of the shared memory."""

    def __init__(self, envs: bytes, memory_number: int):
        # The bytes come from the parent, over a socket that nobody else holds: the same code, sent to the same user.
        import cloudpickle  # noqa: TID251

        from policygrad.vectors.in_turn import InTurn, same_spaces
        from policygrad.vectors.layout import Layout

        make: Callable[[], Any]
        spaces: Sequence[Any]
        make, spaces, num_envs, self._first, last = cloudpickle.loads(envs)
        self._envs = InTurn([make] * (last - self._first))
        same_spaces(self._envs.envs[0], spaces[0], spaces[1], self._first)
        layout = fields(num_envs, spaces[0], spaces[1])
        rows = {name: array[self._first : last] for name, array in arrays(layout, mmap.mmap(memory_number, size(layout))).items()}
        self._rows = rows
        self._seen, self._taken = Layout(spaces[0]), Layout(spaces[1])
        self._obs, self._final, self._actions = (leaves_of(rows, name) for name in ("obs", "final", "action"))

    @property
    def at(self) -> int:
        return self._first + self._envs.at

    def reset(self) -> None:
        self._envs.reset_into(self._obs, self._rows["seed"])

    def step(self) -> None:
        rows = self._rows
        actions = self._taken.batch([array.copy() for array in self._actions])  # copies: an environment may keep what it gets
        final = self._envs.step_into(actions, self._obs, rows["reward"], rows["terminated"], rows["truncated"])
        for index, last in final.items():
            self._seen.put(self._final, index, last)

    def close(self) -> None:
        self._envs.close()


def _tell(channel: socket.socket, error: Exception, index: int | None) -> None:
    channel.sendall(FAILED)
    lines = str(error).strip().splitlines()
    told = {
        "index": index,
        "kind": type(error).__name__,
        "message": lines[0] if lines else "",
        "traceback": "".join(traceback.format_exception(error)),
    }
    send(channel, json.dumps(told).encode())
