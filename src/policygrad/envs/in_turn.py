"""Environments of this process, stepped one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from policygrad.errors import UsageError


class InTurn:
    """What Gymnasium's `SyncVectorEnv` does in SAME_STEP, without what a collector does not read.

    That is gathering infos, and checking and copying actions and observations once more, which is much of a step of a small environment.
    Of infos there are only the true last observations, copied before their environment is reset.

    Args:
        env_fns: each makes one environment.

    Raises:
        UsageError: if they differ in their spaces.
    """

    def __init__(self, env_fns: Sequence[Callable[[], Any]]):
        self.env_fns, self.num_envs = list(env_fns), len(env_fns)
        self.envs = [make() for make in env_fns]
        first = self.envs[0]
        self.single_observation_space, self.single_action_space = first.observation_space, first.action_space
        for i, env in enumerate(self.envs):
            for name in ("observation_space", "action_space"):
                if getattr(env, name) != getattr(first, name):
                    raise UsageError(
                        f"environment copies: got {name} {getattr(env, name)} in copy {i} and {getattr(first, name)} in copy 0;"
                        " all copies must have the same"
                    )
        self.metadata = {"autoreset_mode": "SameStep"}
        self.spec = getattr(first, "spec", None)
        self.unwrapped = self
        self._shape = self.single_observation_space.shape
        self._env_obs: list[Any] = [None] * self.num_envs

    def reset(self, *, seed: Sequence[int]) -> tuple[np.ndarray, dict[str, Any]]:
        """New episodes everywhere: (observations [B, …], infos)."""
        obs = self._empty()
        for i, env in enumerate(self.envs):
            self._put(obs, i, env.reset(seed=seed[i])[0])
        return obs, {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """(observations to act on next [B, …], rewards, terminated, truncated [B], {"final_obs": last ones by number}), all newly made."""
        obs, reward = self._empty(), np.empty(self.num_envs, np.float32)
        terminated, truncated = np.empty(self.num_envs, bool), np.empty(self.num_envs, bool)
        final: dict[int, np.ndarray] = {}
        for i, env in enumerate(self.envs):
            one, reward[i], terminated[i], truncated[i], _ = env.step(actions[i])
            if terminated[i] or truncated[i]:
                final[i] = np.array(one)  # a copy: an environment may return the same buffer each time
                one, _ = env.reset()
            self._put(obs, i, one)
        return obs, reward, terminated, truncated, {"final_obs": final}

    def close(self) -> None:
        """Closes all of them."""
        for env in self.envs:
            env.close()

    def _empty(self) -> np.ndarray:
        return np.empty((self.num_envs, *self._shape), self.single_observation_space.dtype)

    def _put(self, obs: np.ndarray, index: int, one: Any) -> None:
        self._env_obs[index] = one
        if getattr(one, "shape", None) != self._shape:
            one = np.asarray(one)
            if one.shape != self._shape:
                raise ValueError(f"got an observation of shape {one.shape}, not {self._shape}")
        obs[index] = one
