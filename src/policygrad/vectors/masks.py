"""Which actions are allowed, from `info["action_mask"]` into the observation, where a policy sees it."""

from __future__ import annotations

from typing import Any

import numpy as np

MASK = "action_mask"
"""The key, in infos and in observations."""
ALONE = "observation"
"""The part of the observation beside the mask, where it was no dict before."""


def mask_in_observation(env: Any, size: int) -> Any:
    """The environment, with the mask that it gives in its infos as a part of its observation.

        {"observation": o, "action_mask": mask}        or, where o is a dict, the mask as one part more

    Args:
        env: Gymnasium's; gives `info["action_mask"]` with every reset and step; at an episode's end it may be missing.
        size: entries of a mask; those of a dict or tuple count in order, one after the other.
    """
    import gymnasium

    inner, mask_space = env.observation_space, gymnasium.spaces.MultiBinary(size)
    parts = isinstance(inner, gymnasium.spaces.Dict)

    def seen(obs: Any, info: dict[str, Any], ended: bool) -> dict[str, Any]:
        given = info.get(MASK)
        mask = np.ones(size, np.int8) if given is None and ended else flat_mask(given)
        if mask.shape != (size,):
            got = "none" if given is None else f"{mask.size} entries"
            raise ValueError(f"info['action_mask']: got {got}; it must have {size}, one for each alternative of each discrete part")
        return {**obs, MASK: mask} if parts else {ALONE: obs, MASK: mask}

    class MaskInObservation(gymnasium.Wrapper):
        def __init__(self) -> None:
            super().__init__(env)
            seen_too: Any = inner.spaces if parts else {ALONE: inner}
            self.observation_space = gymnasium.spaces.Dict({**seen_too, MASK: mask_space})

        def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
            obs, info = self.env.reset(**kwargs)
            return seen(obs, info, False), info

        def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
            obs, reward, terminated, truncated, info = self.env.step(action)
            return seen(obs, info, bool(terminated or truncated)), reward, terminated, truncated, info

    return MaskInObservation()


def flat_mask(mask: Any) -> np.ndarray:
    """A mask, or a dict or tuple of masks, as one int8 vector; empty for None."""
    if mask is None:
        return np.zeros(0, np.int8)
    if isinstance(mask, dict):
        mask = tuple(mask[name] for name in sorted(mask))
    if isinstance(mask, tuple | list) and any(part is None or np.iterable(part) for part in mask):
        return np.concatenate([flat_mask(part) for part in mask])
    return np.asarray(mask).ravel().astype(np.int8)
