"""Seeds side by side: one thread each, while their programs run.

Python runs in one thread at a time: whoever holds the turn. A thread gives it away while a compiled program runs, which is nearly always.
So nothing else in a run (records, the display, evaluations) need know of threads.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any

import jax

from policygrad.training.runners import CompiledRunner


def side_by_side(one: Callable[[int, Any], None], count: int, runner: CompiledRunner, workers: int, interruption: Interruption) -> None:
    """Calls one(index, a runner of the caller's thread alone) for all indices below `count`, in order, `workers` at a time.

    Where one call raises, or the second Ctrl-C comes, the others end as after the first: with their present chunk. Then it is raised.

    Args:
        runner: compiled; its programs serve all threads.
    """
    turn = threading.Lock()
    # What the caller has set for a part of a program holds for its thread alone.
    x64, device = jax.config.jax_enable_x64, jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]

    @contextlib.contextmanager
    def released() -> Iterator[None]:
        turn.release()
        try:
            yield
        finally:
            turn.acquire()

    def work(index: int) -> None:
        with turn, jax.enable_x64(x64), jax.default_device(device):
            mine = runner.beside()
            try:
                if not interruption.seen:
                    mine.released = released
                    one(index, mine)
            finally:
                mine.close()

    with ThreadPoolExecutor(workers, thread_name_prefix="policygrad-seed") as pool:
        waiting = [pool.submit(work, index) for index in range(count)]
        try:
            left: Any = waiting
            while left:
                # With a timeout: a signal that another thread received is handled when this one wakes up.
                done, left = wait(left, timeout=0.5, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
        except BaseException:
            interruption.seen = True
            raise


class Interruption:
    """The first Ctrl-C is remembered, and the run ends with its present chunk; a second one interrupts at once."""

    def __init__(self) -> None:
        self.seen = False
        self._previous: Any = None

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._remember)
        return self

    def __exit__(self, *_: Any) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _remember(self, number: int, frame: Any) -> None:
        if self.seen:
            raise KeyboardInterrupt
        self.seen = True
