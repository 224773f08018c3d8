"""How good a policy is: whole episodes, every one counted, with an interval."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from policygrad import policies
from policygrad.envs import Env, make
from policygrad.errors import UsageError
from policygrad.rollout import HostCollector, compiled_collector, episodes
from policygrad.statistics import bootstrap_interval

MOST_ENVS = 64
"""Environments side by side in a compiled evaluation; Gymnasium's run fewer."""


@dataclass(frozen=True)
class Evaluation:
    """The returns of whole episodes of one policy."""

    returns: np.ndarray  # [num_episodes] undiscounted
    lengths: np.ndarray  # [num_episodes]
    env: str
    backend: str

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(np.mean(self.returns))

    @property
    def interval(self) -> tuple[float, float]:
        """95 % bootstrap interval of the mean return."""
        return bootstrap_interval(self.returns)

    def __str__(self) -> str:
        low, high = self.interval
        return f"mean return {self.mean:.2f}  (95 % interval {low:.2f} to {high:.2f}, {len(self.returns)} episodes of {self.env})"


def evaluate(
    policy: Any,
    env: Any,
    *,
    num_episodes: int = 100,
    seed: int = 0,
    sample: bool = False,
    backend: str = "auto",
    env_args: dict[str, Any] | None = None,
    wrappers: Sequence[Callable[[Any], Any]] = (),
    num_envs: int | None = None,
) -> Evaluation:
    """Runs whole episodes of a policy. It learns nothing and changes nothing.

    Every environment runs the same number of episodes, each started on purpose, so short episodes are not favoured as they
    are when the first N that happen to end are taken.

    Args:
        policy: a policy, or a file of one.
        env: as in `train`.
        num_episodes: ≥ 1.
        seed: of environments and actions; disjoint from those of training runs with the same number.
        sample: draw actions; the default takes the mode of each distribution (which may be worse than the policy that was
            trained where the best policy is stochastic).
        backend, env_args, wrappers: as in `train`.
        num_envs: environments side by side; None chooses.

    Returns:
        An `Evaluation` with `mean`, `interval` (95 % bootstrap) and `returns`.

    Raises:
        UsageError, SpaceError, PolicyFileError: before the first step.
    """
    if isinstance(num_episodes, bool) or not isinstance(num_episodes, int | np.integer) or num_episodes < 1:
        raise UsageError(f"num_episodes: got {num_episodes!r}; it must be a whole number of at least 1")
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**31:
        raise UsageError(f"seed: got {seed!r}; it must be a whole number from 0 to 2^31 − 1")
    if num_envs is not None and (isinstance(num_envs, bool) or not isinstance(num_envs, int | np.integer) or num_envs < 1):
        raise UsageError(f"num_envs: got {num_envs!r}; it must be a whole number of at least 1, or None")
    if isinstance(policy, str | Path):
        policy = policies.load(policy)
    if not callable(policy):
        raise UsageError(f"policy: got {type(policy).__name__}; pass a policy, such as run.policy, or a file of one")
    num_episodes, seed = int(num_episodes), int(seed)
    made = make(env, backend, env_args=env_args, wrappers=wrappers)
    policies.require_spaces(policy, made.observation_space, made.action_space, made.name)
    stream = seed + 2**31  # training seeds that people use are small: evaluation episodes are never training episodes
    key = jax.random.key(stream)
    if isinstance(made, Env):
        columns = min(num_envs or MOST_ENVS, num_episodes)
        rounds = -(-num_episodes // columns)
        collector = compiled_collector(made, episodes(rounds * columns), columns, sample=sample)
        _, rollout, _ = jax.jit(lambda policy, key: collector.collect(policy, key, ()))(policy, key)
    else:
        columns = min(num_envs or made.fixed_num_envs or min(8, num_episodes), max(num_episodes, made.fixed_num_envs or 1))
        rounds = -(-num_episodes // columns)
        host = HostCollector(made, episodes(rounds * columns), columns, seed=stream, key=key, sample=sample)
        try:
            rollout, _ = host.collect(policy)
        finally:
            host.close()
    # Columns were all started on purpose, so dropping surplus ones by their number favours nothing.
    mask = np.asarray(rollout.mask)
    returns = np.asarray(rollout.reward, np.float64).sum(axis=0)[:num_episodes]
    return Evaluation(returns, mask.sum(axis=0).astype(int)[:num_episodes], made.name, made.backend)
