"""CartPole without velocities, on Gymnasium's own code: what `hosted` registers. Imported by Gymnasium, when one is made."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleEnv, CartPoleVectorEnv
from gymnasium.vector.utils import batch_space


def _positions(obs: np.ndarray) -> np.ndarray:
    """(x, θ) of (x, ẋ, θ, θ̇), along the last axis, in memory of their own."""
    return obs[..., ::2].copy()


def _positions_of(space: Any) -> spaces.Box:
    return spaces.Box(_positions(space.low), _positions(space.high), dtype=np.float32)


class PositionOnlyCartPole(CartPoleEnv):
    """Gymnasium's CartPole, of which only the position of the cart and the angle of the pole are seen.

    Args:
        kwargs: CartPole's.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.observation_space = _positions_of(self.observation_space)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        obs, info = super().reset(seed=seed, options=options)
        return _positions(obs), info

    def step(self, action: Any) -> Any:
        obs, *rest = super().step(action)
        return _positions(obs), *rest


class PositionOnlyCartPoleVector(CartPoleVectorEnv):
    """Many of them in one, by Gymnasium's NumPy arithmetic.

    Args:
        kwargs: CartPoleVectorEnv's.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.single_observation_space = _positions_of(self.single_observation_space)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        obs, info = super().reset(seed=seed, options=options)
        return _positions(obs), info

    def step(self, action: Any) -> Any:
        obs, *rest = super().step(action)
        return _positions(obs), *rest
