"""EnvPool's environments: vectors stepped by threads in C++ (Weng et al. 2022, "EnvPool: a highly parallel reinforcement learning
environment execution engine").

Its vectors are Gymnasium's, in NEXT_STEP, but take seeds only when they are made.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from policygrad.envs.gymnasium_adapter import GymnasiumEnv, described_spaces
from policygrad.errors import UnknownNameError, UsageError


class Pool:
    """A vector of EnvPool's that can be reset with seeds: it is made anew then, which takes a millisecond.

    Args:
        name: EnvPool's id.
        num_envs: B.
        args: of `envpool.make`.
    """

    def __init__(self, name: str, num_envs: int, args: dict[str, Any]):
        self._name, self.num_envs, self._args = name, num_envs, args
        self.single_observation_space, self.single_action_space = _spaces(_spec(name, args))
        self.metadata = {"autoreset_mode": "NextStep"}
        self.env_fns = [None] * num_envs  # each has a seed of its own
        self.spec, self.unwrapped = None, self
        self._pool: Any = None

    def reset(self, *, seed: Sequence[int]) -> tuple[np.ndarray, dict[str, Any]]:
        """New episodes everywhere: (observations [B, …], infos)."""
        import envpool  # pyright: ignore[reportMissingImports]

        self.close()
        with warnings.catch_warnings(action="ignore"):  # of Gymnasium's Box, about EnvPool's own bounds
            self._pool = envpool.make(self._name, env_type="gymnasium", num_envs=self.num_envs, seed=list(seed), **self._args)
            return self._pool.reset()

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """(observations [B, …], rewards, terminated, truncated [B], infos)."""
        return self._pool.step(actions)

    def close(self) -> None:
        """Ends its threads."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None


def from_envpool(name: str, env_args: dict[str, Any] | None = None) -> GymnasiumEnv:
    """An environment of EnvPool's, by its id there. It need not be Gymnasium's of the same id in every digit.

    Args:
        env_args: of `envpool.make`, e.g. num_threads.

    Raises:
        UnknownNameError: no such id. UsageError: EnvPool is not installed, or does not take these arguments.
    """
    args = dict(env_args or {})
    fixed = {"env_type", "num_envs", "seed", "env_seed", "batch_size"} & args.keys()
    if fixed:
        raise UsageError(f"environment {name}: env_args holds {min(fixed)}, which is chosen here; leave it out")
    spec = _spec(name, args)
    spaces = described_spaces(name, *_spaces(spec))
    limit, threshold = getattr(spec.config, "max_episode_steps", None), getattr(spec.config, "reward_threshold", None)
    return GymnasiumEnv(name, *spaces, limit, threshold, lambda num_envs: Pool(name, num_envs, args), vectorization="envpool")


def _spaces(spec: Any) -> tuple[Any, Any]:
    with warnings.catch_warnings(action="ignore"):  # as above
        return spec.gymnasium_observation_space, spec.gymnasium_action_space


def _spec(name: str, args: dict[str, Any]) -> Any:
    try:
        import envpool  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UsageError('vectorization: got envpool, but EnvPool is not installed; pip install "policygrad[fast-envs]"') from None
    known = envpool.list_all_envs()
    if name not in known:
        raise UnknownNameError("environment of EnvPool's", name, known)
    try:
        with warnings.catch_warnings(action="ignore"):
            return envpool.make_spec(name, **args)
    except Exception as error:  # TypeError from its own classes, others from C++
        text = str(error).splitlines()
        raise UsageError(
            f"environment {name}: EnvPool does not take these arguments: {text[0] if text else type(error).__name__}"
        ) from error
