"""Environments of this process, stepped one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from policygrad.errors import UsageError
from policygrad.vectors.layout import Layout


class InTurn:
    """What Gymnasium's `SyncVectorEnv` does in SAME_STEP, without what a collector does not read.

    That is gathering infos, and checking and copying actions and observations once more, which is much of a step of a small environment.
    Of infos there are only the true last observations, copied before their environment is reset.

    Args:
        env_fns: each makes one environment.

    Attributes:
        at: the environment that is being stepped or reset, or was last: the one that an exception comes from.

    Raises:
        UsageError: if they differ in their spaces.
    """

    def __init__(self, env_fns: Sequence[Callable[[], Any]]):
        self.env_fns, self.num_envs = list(env_fns), len(env_fns)
        self.envs = [make() for make in env_fns]
        first = self.envs[0]
        self.single_observation_space, self.single_action_space = first.observation_space, first.action_space
        for i, env in enumerate(self.envs):
            same_spaces(env, first.observation_space, first.action_space, i)
        self.metadata = {"autoreset_mode": "SameStep"}
        self.spec = getattr(first, "spec", None)
        self.unwrapped = self
        self.at = 0
        self._seen, self._taken = Layout(self.single_observation_space), Layout(self.single_action_space)

    def reset(self, *, seed: Sequence[int] | np.ndarray) -> tuple[Any, dict[str, Any]]:
        """New episodes everywhere: (observations [B, …], infos)."""
        obs = self._seen.empty(self.num_envs)
        self.reset_into(obs, seed)
        return self._seen.batch(obs), {}

    def reset_into(self, obs: Sequence[np.ndarray], seed: Sequence[int] | np.ndarray) -> None:
        """Writes the first observations into arrays [B, …], one for each leaf of their space."""
        for i, env in enumerate(self.envs):
            self.at = i
            self._seen.put(obs, i, env.reset(seed=int(seed[i]))[0])

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """(observations to act on next [B, …], rewards, terminated, truncated [B], {"final_obs": last ones by number}), all newly made."""
        obs, reward = self._seen.empty(self.num_envs), np.empty(self.num_envs, np.float32)
        terminated, truncated = np.empty(self.num_envs, bool), np.empty(self.num_envs, bool)
        final = self.step_into(actions, obs, reward, terminated, truncated)
        return self._seen.batch(obs), reward, terminated, truncated, {"final_obs": final}

    def step_into(
        self, actions: Any, obs: Sequence[np.ndarray], reward: np.ndarray, terminated: np.ndarray, truncated: np.ndarray
    ) -> dict[int, Any]:
        """Writes what `step` returns; the last observations of episodes by number."""
        final: dict[int, Any] = {}
        indexed = self._taken.indexed  # a call for each environment is a tenth of what it takes to step a small one
        for i, env in enumerate(self.envs):
            self.at = i
            one, reward[i], terminated[i], truncated[i], _ = env.step(actions[i] if indexed else self._taken.at(actions, i))
            if terminated[i] or truncated[i]:
                final[i] = self._seen.copied(one)
                one, _ = env.reset()
            self._seen.put(obs, i, one)
        return final

    def close(self) -> None:
        """Closes all of them."""
        for env in self.envs:
            env.close()


def same_spaces(env: Any, observation_space: Any, action_space: Any, copy: int) -> None:
    """Raises a `UsageError` if `env` has other spaces than the first copy."""
    for name, expected in (("observation_space", observation_space), ("action_space", action_space)):
        if getattr(env, name) != expected:
            raise UsageError(
                f"environment copies: got {name} {getattr(env, name)} in copy {copy} and {expected} in copy 0;"
                " all copies must have the same"
            )
