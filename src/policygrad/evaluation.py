"""How good a policy is: whole episodes, every one counted, with an interval."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from policygrad import policies
from policygrad.compilation import placed, ready
from policygrad.envs import AnyEnv, Env, make
from policygrad.errors import UsageError
from policygrad.rollout import HostCollector, compiled_collector, episodes
from policygrad.rollout.compiled import require_actions
from policygrad.settings import MOST, MOST_AT_ONCE, count, whole
from policygrad.spaces import MASK, has_mask
from policygrad.statistics import bootstrap_interval
from policygrad.types import Array, Key, PyTree

MOST_ENVS = {"compiled": 64, "gymnasium": 8}
"""Environments side by side, by backend, where nobody says how many."""

EVALUATION_STREAM, SELECTION_STREAM = 2**31, 2**63
"""Added to a seed: the episodes of `evaluate`, and those that choose the best policy of a run. Training seeds that people use are
small, so the three are disjoint: what was chosen for its returns is then measured on others."""


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


class Evaluator:
    """Runs whole episodes of one policy after another: compiled once, or with one set of Gymnasium's environments.

    Each call runs what `evaluate` would, whatever was evaluated before it. Close it after use.

    Args:
        env: what `envs.make` returned.
        num_episodes: of each policy, ≥ 1.
        num_envs: environments side by side; None chooses.
        sample: draw actions instead of taking modes.

    Attributes:
        compile_seconds: so far, of a compiled environment's program.

    Raises:
        UsageError: a compiled environment without a time limit.
    """

    def __init__(self, env: AnyEnv, num_episodes: int, *, num_envs: int | None = None, sample: bool = False):
        self.env, self.num_episodes, self._sample = env, num_episodes, sample
        fixed = None if isinstance(env, Env) else env.fixed_num_envs
        self._columns = min(num_envs or fixed or MOST_ENVS[env.backend], max(num_episodes, fixed or 1))
        self._collect = episodes(-(-num_episodes // self._columns) * self._columns)
        self._collector = compiled_collector(env, self._collect, self._columns, sample=sample) if isinstance(env, Env) else None
        self._program: Any = None
        self._host: HostCollector | None = None
        self.compile_seconds = 0.0

    def __call__(self, policy: Any, stream: int) -> Evaluation:
        """Runs the episodes of `policy`, which must have the structure of those before it.

        Args:
            stream: of environments and actions, in [0, 2^64): the same number gives the same episodes.
        """
        key = jax.random.key(stream % 2**32)
        if stream >= 2**32:
            key = jax.random.fold_in(key, stream >> 32)
        reward, mask = self._hosted(policy, stream, key) if self._collector is None else self._compiled(policy, key)
        # Columns were all started on purpose, so dropping surplus ones by their number favours nothing.
        returns = np.asarray(reward, np.float64).sum(axis=0)[: self.num_episodes]
        lengths = np.asarray(mask).sum(axis=0).astype(int)[: self.num_episodes]
        return Evaluation(returns, lengths, self.env.name, self.env.backend)

    def close(self) -> None:
        """Closes the environments; the next call makes new ones."""
        if self._host is not None:
            self._host.close()
            self._host = None

    def _compiled(self, policy: Any, key: Key) -> tuple[Array, Array]:
        env, collector = self.env, self._collector
        assert isinstance(env, Env)
        assert collector is not None
        if self._program is None:

            def program(policy: Any, key: Key) -> tuple[Array, Array, PyTree]:
                _, rollout, _ = collector.collect(policy, key, ())
                allowed = {"obs": {MASK: rollout.obs[MASK]}, "time": rollout.time} if has_mask(env.observation_space) else {}
                return rollout.reward, rollout.mask, allowed

            begin = time.perf_counter()
            self._program = jax.jit(program).lower(policy, key).compile()
            self.compile_seconds += time.perf_counter() - begin
        reward, mask, allowed = self._program(policy, key)
        if allowed:
            require_actions(env, mask=mask, **allowed)
        return reward, mask

    def _hosted(self, policy: Any, stream: int, key: Key) -> tuple[Any, Any]:
        env = self.env
        assert not isinstance(env, Env)
        if self._host is not None:
            vector = self._host.vector.vector
            env = replace(env, make_vector=lambda num_envs: vector, parts=None)
        self._host = HostCollector(env, self._collect, self._columns, seed=stream, key=key, sample=self._sample)
        rollout, _ = self._host.collect(policy, log_prob=False)
        return rollout.reward, rollout.mask


@placed
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
    device: str = "auto",
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
        device: as in `train`.

    Returns:
        An `Evaluation` with `mean`, `interval` (95 % bootstrap) and `returns`.

    Raises:
        UsageError, SpaceError, PolicyFileError: before the first step.
    """
    num_episodes, seed = count("num_episodes", num_episodes), whole("seed", seed, 0, MOST)
    num_envs = None if num_envs is None else count("num_envs", num_envs, MOST_AT_ONCE)
    if isinstance(policy, str | Path):
        policy = policies.load(policy)
    if not callable(policy):
        raise UsageError(f"policy: got {type(policy).__name__}; pass a policy, such as run.policy, or a file of one")
    ready()
    made = make(env, backend, env_args=env_args, wrappers=wrappers)
    policies.require_spaces(policy, made.observation_space, made.action_space, made.name)
    evaluator = Evaluator(made, num_episodes, num_envs=num_envs, sample=sample)
    try:
        return evaluator(policy, seed + EVALUATION_STREAM)
    finally:
        evaluator.close()
