"""Gymnasium's functional environments: `gymnasium.experimental.functional.FuncEnv`, pure functions of a state."""

from __future__ import annotations

import copy
import dataclasses
import importlib
from typing import Any

import jax

from policygrad.envs.adapters.translate import imported, made, translated
from policygrad.envs.base import Env
from policygrad.envs.gymnasium_adapter import described_spaces
from policygrad.errors import UnknownNameError, UsageError
from policygrad.types import Key, PyTree

FUNCTIONS = ("initial", "transition", "observation", "reward", "terminal")
INSTALL = "Gymnasium's own functional environments need flax: pip install flax"


def functional_env(id: str, *, time_limit: int | None = None, reward_threshold: float | None = None, **args: Any) -> Env:
    """An environment registered with Gymnasium whose class wraps a `FuncEnv`: phys2d/CartPole-v1, phys2d/Pendulum-v0, tabular/Blackjack-v0.

    Args:
        id: of Gymnasium's; "module:id" imports the module that registers it.
        time_limit, reward_threshold: None takes those it is registered with.
        args: fields of its parameters (`FuncEnv.default_params`), or arguments of its class.

    Raises:
        UsageError: a package is missing, it has no `FuncEnv`, or it does not take these arguments. UnknownNameError: no such id.
    """
    import gymnasium

    name = f"functional:{id}"

    module, _, short = id.rpartition(":")
    if module:
        imported(name, lambda: importlib.import_module(module), "run where it lies, or install it")
    try:
        spec = gymnasium.spec(short)
    except gymnasium.error.Error as error:
        known = [key for key in gymnasium.registry if key.startswith(("phys2d/", "tabular/"))]
        raise UnknownNameError("functional environment", id, known) from error

    def wrapped(**options: Any) -> Any:
        env: Any = gymnasium.make(spec, disable_env_checker=True, **options).unwrapped
        if not hasattr(env, "func_env"):
            raise UsageError(f"environment {name}: got {type(env).__name__}, which wraps no FuncEnv; leave out the prefix functional:")
        return env.func_env

    def of(**options: Any) -> Any:
        return made(name, lambda: imported(name, lambda: wrapped(**options), INSTALL))

    fields = _fields(of())
    func_env = of(**{key: value for key, value in args.items() if key not in fields})
    changed = {key: value for key, value in args.items() if key in fields}
    params = made(name, lambda: func_env.get_default_params(**changed)) if changed else None
    limit = spec.max_episode_steps if time_limit is None else time_limit
    threshold = spec.reward_threshold if reward_threshold is None else reward_threshold
    return from_functional(func_env, params=params, time_limit=limit, reward_threshold=threshold, name=name)


def from_functional(
    func_env: Any, *, params: Any = None, time_limit: int | None = None, reward_threshold: float | None = None, name: str | None = None
) -> Env:
    """A compiled environment from a `FuncEnv`.

        s' ~ transition(s, a)        o' ~ observation(s')        r ~ reward(s, a, s')        terminated ~ terminal(s')

    Each of the four draws from a key of its own; Gymnasium's wrapper hands one to all, which ties the noise of an observation to that of
    the transition.

    Args:
        func_env: of spaces that policies handle.
        params: of its functions; None for their own defaults.
        time_limit: steps of an episode; None for no limit, which a `FuncEnv` does not know.
        name: its name in records; None for its class's.

    Raises:
        UsageError, SpaceError: it cannot be traced, or has spaces that no policy handles.
    """
    name = name or type(func_env).__name__
    plain = copy.copy(func_env)
    for function in FUNCTIONS:  # jitted by `transform`: parameters that decide which code runs must not be traced
        if isinstance(plain.__dict__.get(function), jax.stages.Wrapped):
            del plain.__dict__[function]
    given = () if params is None else (params,)

    def reset(key: Key) -> tuple[PyTree, PyTree]:
        initial, observation = jax.random.split(key)
        state = plain.initial(initial, *given)
        return state, plain.observation(state, observation, *given)

    def advance(key: Key, state: PyTree, action: PyTree) -> tuple[PyTree, PyTree, Any, Any, Any]:
        keys = jax.random.split(key, 4)
        after = plain.transition(state, action, keys[0], *given)
        obs, reward = plain.observation(after, keys[1], *given), plain.reward(state, action, after, keys[2], *given)
        return after, obs, reward, plain.terminal(after, keys[3], *given), False

    spaces = described_spaces(name, func_env.observation_space, func_env.action_space)
    return translated(name, *spaces, reset, advance, limit=time_limit, threshold=reward_threshold)


def _fields(func_env: Any) -> set[str]:
    """Of its parameters, where these are a dataclass."""
    params = func_env.default_params
    return {field.name for field in dataclasses.fields(params)} if dataclasses.is_dataclass(params) else set()
