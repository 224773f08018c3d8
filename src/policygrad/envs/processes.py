"""Whether several processes should step Gymnasium's environments: what a step takes, and what processes take."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from policygrad.compilation import cores
from policygrad.errors import UsageError
from policygrad.vectors.side_by_side import SideBySide, packed
from policygrad.vectors.worker import SPIN

MOST_WORKERS = 64
WORKERS_START = 1.5
"""Seconds until worker processes are there: Python, NumPy, Gymnasium and the environment."""
WORKERS_STEP = 60e-6
"""Seconds that a vector step takes longer where it waits for other processes."""
WORKERS_PAY = 5.0
"""Seconds that worker processes must save, start-up taken off, to be chosen unasked."""


class StepCost(NamedTuple):
    """What a step of one environment takes, by a few random ones."""

    seconds: float  # median
    busy: float  # share of them in which this process's processor worked: an environment may wait for something else

    def processes(self, num_envs: int) -> int:
        """How many processes such steps can use, this one included."""
        return min(num_envs, MOST_WORKERS, max(2, round(cores() / max(self.busy, 0.01))))

    def saved(self, num_envs: int, num_steps: int, processes: int) -> float:
        """Seconds that a run of `num_steps` takes less with so many processes; below 0 where it takes more."""
        if processes < 2 or (cores() == 1 and self.busy > 0.5):
            return 0.0
        a_step = self.seconds * num_envs * (1 - 1 / processes) - WORKERS_STEP
        return a_step * num_steps / num_envs - WORKERS_START


@dataclass(frozen=True)
class Parts:
    """Makes vectors that several processes step."""

    single: Callable[[], Any]
    observation_space: Any
    action_space: Any

    def __call__(self, num_envs: int, processes: int) -> SideBySide:
        """A vector of `num_envs`."""
        # More processes than cores wait for something else, and would take the cores from each other.
        spin = SPIN if processes <= cores() else 0.0
        return SideBySide(self.single, num_envs, processes, self.observation_space, self.action_space, spin=spin)

    def can_be_sent(self) -> bool:
        """Whether another process could make these environments."""
        try:
            packed(self.single)
        except UsageError:
            return False
        return True


def step_cost(env: Any) -> StepCost:
    """Measures random steps for a twentieth of a second, 64 at the most."""
    env.reset(seed=0)
    took: list[float] = []
    begin, worked = time.perf_counter(), time.process_time()
    while len(took) < 64 and time.perf_counter() - begin < 0.05:
        action = env.action_space.sample()
        before = time.perf_counter()
        _, _, terminated, truncated, _ = env.step(action)
        took.append(time.perf_counter() - before)
        if terminated or truncated:
            env.reset()
    elapsed = time.perf_counter() - begin
    return StepCost(float(np.median(took)), min(1.0, (time.process_time() - worked) / max(elapsed, 1e-9)))
