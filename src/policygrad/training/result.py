"""What a run gives back: `RunProgress` while it runs, `Run` when it is done."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from policygrad.errors import RunError
from policygrad.statistics import SOLVE_WINDOW, final_return, steps_to_solve
from policygrad.training.history import History


@dataclass
class RunProgress:
    """How far a run is: what `iterate` yields and what callbacks get."""

    seed: int
    iteration: int  # updates so far
    steps: int  # steps of all environments so far
    num_steps: int  # planned
    metrics: dict[str, float]  # of the last update
    policy: Any  # the acting policy after the last update
    agent: Any  # the whole state of the algorithm
    seconds: float  # of running, compilation excluded
    history: History = field(repr=False)

    @property
    def returns(self) -> np.ndarray:
        """Returns of all episodes so far, in the order of their ends: within an update of whole episodes, short ones first."""
        return self.history.returns

    @property
    def ends(self) -> np.ndarray:
        """All environments' steps at the ends of those episodes."""
        return self.history.ends

    @property
    def mean_return(self) -> float:
        """Mean return of the last 20 episodes; NaN before the first end."""
        last = self.history.tail()
        return float(np.mean(last)) if len(last) else math.nan


@dataclass
class SeedResult:
    """What one seed left."""

    seed: int
    policy: Any = None
    agent: Any = None
    metrics: dict[str, np.ndarray] = field(default_factory=dict)  # [updates] each, with `iteration` and `steps`
    returns: np.ndarray = field(default_factory=lambda: np.zeros(0))  # [episodes] in the order of their ends
    lengths: np.ndarray = field(default_factory=lambda: np.zeros(0, int))
    ends: np.ndarray = field(default_factory=lambda: np.zeros(0, int))  # all environments' steps at the end
    steps: int = 0
    error: RunError | None = None
    best_policy: Any = None  # that of the evaluation with the highest mean return, the first of equals; None without any
    evaluation_steps: np.ndarray | None = None  # [K] all environments' steps at each evaluation; None where none was asked for
    evaluation_returns: np.ndarray | None = None  # [K, evaluate_episodes]

    @property
    def evaluation_means(self) -> np.ndarray:
        """Mean returns of the evaluations, [K]."""
        return np.zeros(0) if self.evaluation_returns is None else self.evaluation_returns.mean(axis=1)

    @property
    def return_at_best(self) -> float | None:
        """The highest mean return of an evaluation, which is that of `best_policy`; of 20 training episodes in a row where no
        evaluations were asked for. Either is the best of many noisy numbers, so it flatters: `evaluate` measures on others."""
        if self.evaluation_steps is None:
            return best_stretch(self.returns)
        means = self.evaluation_means
        return float(np.nanmax(means)) if np.isfinite(means).any() else None


def best_stretch(returns: np.ndarray, window: int = SOLVE_WINDOW) -> float | None:
    """The highest mean return of `window` episodes in a row; of all if they are fewer, None if there are none."""
    if len(returns) == 0:
        return None
    stretches = np.lib.stride_tricks.sliding_window_view(returns, min(window, len(returns)))
    return float(stretches.mean(axis=-1).max())


@dataclass
class Run:
    """What `train` returns. Everything of the first seed by its plain name, of all seeds in `seeds`."""

    algorithm: str
    env: str
    backend: str
    num_envs: int
    seeds: list[SeedResult]
    run_dir: Path | None
    compile_seconds: float
    run_seconds: float
    reward_threshold: float | None
    interrupted: bool = False

    @property
    def policy(self) -> Any:
        """The acting policy of the first seed: a function from raw observations to a distribution."""
        return self.seeds[0].policy

    @property
    def policies(self) -> list[Any]:
        """The acting policies, one a seed."""
        return [seed.policy for seed in self.seeds]

    @property
    def best_policy(self) -> Any:
        """The acting policy of the first seed's best evaluation; None without evaluations."""
        return self.seeds[0].best_policy

    @property
    def best_policies(self) -> list[Any]:
        """The acting policies of the best evaluations, one a seed."""
        return [seed.best_policy for seed in self.seeds]

    @property
    def metrics(self) -> dict[str, np.ndarray]:
        """The first seed's metrics by name, one value an update."""
        return self.seeds[0].metrics

    @property
    def returns(self) -> np.ndarray:
        """The first seed's episode returns in the order of their ends: within an update of whole episodes, short ones first."""
        return self.seeds[0].returns

    @property
    def failures(self) -> dict[int, RunError]:
        """Seeds that failed, with their errors; the others ran to their end."""
        return {seed.seed: seed.error for seed in self.seeds if seed.error is not None}

    @property
    def num_steps(self) -> int:
        """Environment steps of the longest seed."""
        return max(seed.steps for seed in self.seeds)

    def result(self) -> dict[str, Any]:
        """The run in one flat object: what `--json` prints and result.json holds."""
        good = [None if seed.error else seed for seed in self.seeds]
        total = sum(seed.steps for seed in self.seeds)
        return {
            "algorithm": self.algorithm,
            "env": self.env,
            "backend": self.backend,
            "num_steps": self.num_steps,
            "num_envs": self.num_envs,
            "seeds": [seed.seed for seed in self.seeds],
            "final_return": [s and final_return(s.returns) for s in good],
            "return_at_best": [s and s.return_at_best for s in good],
            "steps_to_solve": [s and steps_to_solve(s.returns, s.ends, self.reward_threshold) for s in good],
            "compile_seconds": round(self.compile_seconds, 3),
            "run_seconds": round(self.run_seconds, 6),
            "steps_per_second": round(total / self.run_seconds, 1) if self.run_seconds > 0 else 0.0,
            "run_dir": str(self.run_dir) if self.run_dir else None,
        }
