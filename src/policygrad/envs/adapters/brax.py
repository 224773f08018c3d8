"""brax (Freeman et al. 2021, "Brax: a differentiable physics engine for large scale rigid body simulation") and MuJoCo Playground
(Zakka et al. 2025), whose environments have the same two functions.

    reset(rng) -> state        step(state, action) -> state        state: obs, reward, done, …

Neither environment counts time by itself: `done` is the end of the task until a wrapper adds a limit, and none is applied here.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

import jax

from policygrad.envs.adapters.translate import box_like, imported, known_only, made, translated
from policygrad.envs.base import Env
from policygrad.errors import UnknownNameError, UsageError
from policygrad.spaces import Box, Dict, Space
from policygrad.types import Key, PyTree

BRAX = "pip install brax"
PLAYGROUND = "pip install playground"


def brax_env(
    id: str, *, time_limit: int | None = 1000, reward_threshold: float | None = None, observation: str | None = None, **args: Any
) -> Env:
    """An environment of brax's: ant, halfcheetah, hopper, humanoid, inverted_pendulum, …

    Args:
        time_limit: steps of an episode; None for no limit.
        observation: of an observation with several parts, the one that the policy sees; None for all of them.
        args: of its class, e.g. backend ("generalized", "spring", "positional", "mjx").

    Raises:
        UsageError: brax is not installed, or the environment does not take these arguments. UnknownNameError: no such id.
    """
    name = f"brax:{id}"
    envs = imported(name, lambda: importlib.import_module("brax.envs"), BRAX)
    if id not in envs._envs:
        raise UnknownNameError("environment of brax's", id, envs._envs)
    parameters = inspect.signature(envs._envs[id].__init__).parameters.values()
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        known_only(name, args, {p.name for p in parameters if p.name != "self"} | {"time_limit", "reward_threshold", "observation"})
    env = made(name, lambda: envs.get_environment(id, **args))
    return from_brax(env, name=name, time_limit=time_limit, reward_threshold=reward_threshold, observation=observation)


def playground_env(
    id: str, *, time_limit: int | None = None, reward_threshold: float | None = None, observation: str | None = None, **args: Any
) -> Env:
    """An environment of MuJoCo Playground's: CartpoleBalance, CheetahRun, Go1JoystickFlatTerrain, …

    Args:
        time_limit: steps of an episode; None takes its configuration's episode_length.
        observation: of an observation with several parts, the one that the policy sees, e.g. "state" without "privileged_state", which
            only a simulator knows; None for all of them.
        args: of its configuration. impl is "jax" where nothing else is asked for: "warp", its own default, needs a GPU of NVIDIA's.

    Raises:
        UsageError: it is not installed, or the environment does not take these arguments. UnknownNameError: no such id.
    """
    name = f"playground:{id}"
    registry = imported(name, lambda: importlib.import_module("mujoco_playground").registry, PLAYGROUND)
    if id not in registry.ALL_ENVS:
        raise UnknownNameError("environment of MuJoCo Playground's", id, registry.ALL_ENVS)
    config = made(name, lambda: registry.get_default_config(id))
    known_only(name, args, {*config, "time_limit", "reward_threshold", "observation"})
    overrides = ({"impl": "jax"} if "impl" in config else {}) | args
    env = made(name, lambda: registry.load(id, config_overrides=overrides))
    limit = args.get("episode_length", config.get("episode_length")) if time_limit is None else time_limit
    return from_brax(env, name=name, time_limit=limit, reward_threshold=reward_threshold, observation=observation)


def from_brax(env: Any, *, name: str, time_limit: int | None, reward_threshold: float | None = None, observation: str | None = None) -> Env:
    """A compiled environment from an unwrapped one with brax's interface. Actions lie in [−1, 1], as both libraries' agents give them.

    Arguments and errors as `brax_env`.
    """

    def seen(obs: Any) -> Any:
        if observation is None:
            return dict(obs) if isinstance(obs, Mapping) else obs
        if not isinstance(obs, Mapping):
            raise UsageError(f"environment {name}: got observation={observation!r}, but its observation has no parts; leave it out")
        if observation not in obs:
            raise UnknownNameError(f"part of an observation of {name}", observation, map(str, obs))
        return obs[observation]

    def reset(key: Key) -> tuple[PyTree, PyTree]:
        state = env.reset(jax.random.key_data(key))  # environments keep their key in the state, as plain numbers
        return state, seen(state.obs)

    def advance(key: Key, state: PyTree, action: PyTree) -> tuple[PyTree, PyTree, Any, Any, Any]:
        after = env.step(state, action)
        return after, seen(after.obs), after.reward, after.done, False

    reset = jax.jit(reset)
    obs = made(name, lambda: jax.eval_shape(lambda key: reset(key)[1], jax.random.key(0)))
    size = made(name, lambda: int(env.action_size))
    return translated(name, _space_of(obs), Box.of(-1.0, 1.0, (size,)), reset, advance, limit=time_limit, threshold=reward_threshold)


def _space_of(obs: Any) -> Space:
    """Neither library declares a space: what an observation is, without bounds."""
    if isinstance(obs, Mapping):
        return Dict.of({name: _space_of(part) for name, part in obs.items()})
    return box_like(obs.shape, obs.dtype)
