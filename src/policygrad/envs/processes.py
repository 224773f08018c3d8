"""Whether several processes should step Gymnasium's environments: what a step takes, and what processes take."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from policygrad.compilation import cores
from policygrad.errors import UsageError
from policygrad.spaces import MASK, choices, from_gymnasium
from policygrad.vectors.masks import flat_mask
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
    obs, _ = env.reset(seed=0)
    took: list[float] = []
    begin, worked = time.perf_counter(), time.process_time()
    while len(took) < 64 and time.perf_counter() - begin < 0.05:
        action = valid_action(env.action_space, obs)
        before = time.perf_counter()
        obs, _, terminated, truncated, _ = env.step(action)
        took.append(time.perf_counter() - before)
        if terminated or truncated:
            obs, _ = env.reset()
    elapsed = time.perf_counter() - begin
    return StepCost(float(np.median(took)), min(1.0, (time.process_time() - worked) / max(elapsed, 1e-9)))


def valid_action(space: Any, obs: Any) -> Any:
    """A random action of a Gymnasium space, one that the observation's mask allows where it has one."""
    mask = obs.get(MASK) if isinstance(obs, dict) else None
    if mask is None:
        return space.sample()
    import gymnasium

    flat, at, kinds = flat_mask(mask), 0, gymnasium.spaces

    def one(space: Any) -> Any:
        nonlocal at
        if isinstance(space, kinds.Dict):
            return {name: one(part) for name, part in sorted(space.spaces.items())}
        if isinstance(space, kinds.Tuple):
            return tuple(one(part) for part in space.spaces)
        counts = choices(from_gymnasium(space))
        if not counts:
            return space.sample()
        chosen = []
        for count in counts:
            allowed = np.flatnonzero(flat[at : at + count])
            at += count
            chosen.append(int(space.np_random.choice(allowed)) if allowed.size else 0)
        start = np.ravel(getattr(space, "start", 0))
        value = (np.array(chosen) + start).astype(space.dtype)
        return value.reshape(space.shape) if space.shape else value.dtype.type(value[0])

    return one(space)
