"""gymnax's environments (Lange 2022, "gymnax: A JAX-based reinforcement learning environment library")."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from typing import Any

import numpy as np

from policygrad.envs import checks
from policygrad.envs.adapters.translate import imported, known_only, made, translated
from policygrad.envs.base import Env
from policygrad.errors import SpaceError, UnknownNameError
from policygrad.spaces import Box, Dict, Discrete, Space, Tuple
from policygrad.types import Key, PyTree

INSTALL = "pip install flax seaborn six, then pip install --no-deps gymnax (gymnax asks for gymnasium<1.4, policygrad for 1.4 and newer)"
NEVER = 2**30
"""A limit that no episode reaches."""


def gymnax_env(id: str, *, time_limit: int | None = None, reward_threshold: float | None = None, **args: Any) -> Env:
    """An environment of gymnax's, by its id there.

        terminated    the end of the task, never the time limit
        truncated     t = max_steps_in_episode

    gymnax before 1.0 returned one flag for both: there the flag, and the reward, which may depend on it, come from a second step with a
    limit that is never reached; the compiler merges what the two have in common. `step` resets by itself, so `step_env` is called.

    Args:
        time_limit: steps of an episode; None takes the environment's own max_steps_in_episode. The environment is told, too: some show
            the share of time that is left.
        reward_threshold: None takes Gymnasium's for an id that both have, where episodes are as long.
        args: fields of the environment's parameters (`gymnax.make(id)[1]`), or arguments of its class.

    Raises:
        UsageError: gymnax is not installed, or the environment does not take these arguments. UnknownNameError: no such id.
    """
    name = f"gymnax:{id}"
    gymnax = imported(name, lambda: importlib.import_module("gymnax"), INSTALL)
    if id not in gymnax.registered_envs:
        raise UnknownNameError("environment of gymnax's", id, gymnax.registered_envs)
    env, params = made(name, lambda: gymnax.make(id))
    if time_limit is not None:  # a whole number, or where the environment computes with it a float
        args["max_steps_in_episode"] = type(params.max_steps_in_episode)(checks.time_limit(time_limit))
    fields = {field.name for field in dataclasses.fields(params)}
    known_only(name, args, fields | _arguments(type(env)) | {"time_limit", "reward_threshold"})
    built, changed = ({key: value for key, value in args.items() if (key in fields) is among} for among in (False, True))
    env, params = made(name, lambda: gymnax.make(id, **built))
    params = made(name, lambda: params.replace(**changed))
    limit = int(params.max_steps_in_episode)
    is_truncated = getattr(env, "is_truncated", None)
    unending = params.replace(max_steps_in_episode=NEVER)

    def reset(key: Key) -> tuple[PyTree, PyTree]:
        obs, state = env.reset_env(key, params)
        return state, obs

    def advance(key: Key, state: PyTree, action: PyTree) -> tuple[PyTree, PyTree, Any, Any, Any]:
        obs, after, reward, terminated, _ = env.step_env(key, state, action, params)
        if is_truncated is not None:
            return after, obs, reward, terminated, is_truncated(after, params)
        _, _, reward, terminated, _ = env.step_env(key, state, action, unending)  # Pong's reward is 0 where its flag is set
        return after, obs, reward, terminated, False

    seen, acted = made(name, lambda: (_space(env.observation_space(params)), _space(env.action_space(params))))
    threshold = _threshold(id, limit) if reward_threshold is None else reward_threshold
    return translated(name, seen, acted, reset, advance, limit=limit, threshold=threshold)


def _arguments(env: type) -> set[str]:
    parameters = list(inspect.signature(env.__init__).parameters.values())[1:]
    return {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}


def _threshold(id: str, limit: int) -> float | None:
    import gymnasium

    spec = gymnasium.registry.get(id)
    return spec.reward_threshold if spec is not None and spec.max_episode_steps == limit else None


def _space(space: Any) -> Space:
    """gymnax's spaces as ours; they are told apart by name, since nothing of gymnax is imported here."""
    match type(space).__name__:
        case "Discrete":
            return Discrete(int(space.n))
        case "Box":
            dtype = "uint8" if np.dtype(space.dtype) == np.uint8 else "float32"
            return Box.of(np.asarray(space.low), np.asarray(space.high), tuple(space.shape), dtype)
        case "Dict":
            return Dict.of({str(key): _space(part) for key, part in space.spaces.items()})
        case "Tuple":
            return Tuple(tuple(map(_space, space.spaces)))
    raise SpaceError(f"unsupported space of gymnax's: got {type(space).__name__}; Discrete, Box, Dict and Tuple are handled")
