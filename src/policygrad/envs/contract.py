"""The contract check for whatever names an environment, compiled ones included; the check itself is in `policygrad.contract`."""

from __future__ import annotations

import importlib
from typing import Any

import jax
import numpy as np

from policygrad import contract, spaces
from policygrad.envs.base import Env
from policygrad.envs.gymnasium_adapter import GymnasiumEnv
from policygrad.envs.make import BACKENDS, make
from policygrad.envs.registry import compiled, compiled_names, has_compiled
from policygrad.errors import UnknownNameError, UsageError
from policygrad.settings import MOST, count, is_foreign, whole


def check_env(
    env: Any,
    *,
    env_args: dict[str, Any] | None = None,
    backend: str = "auto",
    num_episodes: int = contract.Budget().num_episodes,
    num_steps: int = contract.Budget().num_steps,
    seconds: float = contract.Budget().seconds,
    seed: int = 0,
) -> contract.Report:
    """Plays episodes of random actions and tells what breaks Gymnasium's interface or would spoil learning.

        print(check_env("CartPole-v1"))           # for people
        assert check_env(MyEnv).ok                # no errors; warnings are in `.warnings`

    Args:
        env: a name, a function that makes a Gymnasium environment (its class, say), a `gymnasium.Env`, an `Env`, or what `make` returned.
            Of one that exists already there is no second copy: what is left from episode to episode is then harder to tell from chance.
        env_args: keyword arguments of the environment, with a name only.
        backend: "gymnasium", "compiled", or "auto": Gymnasium's where it knows the name, else the compiled one.
        num_episodes: at most; num_steps: of all episodes together, at most; seconds: after which no further step is begun.
        seed: of the first episode and of all actions.

    Returns:
        the report. What the environment does wrong is in it and never raised.

    Raises:
        UnknownNameError, UsageError: it cannot be made, or an argument is out of range.
    """
    source = source_of(env, env_args, backend)
    if not (isinstance(seconds, int | float) and seconds > 0):
        raise UsageError(f"seconds: got {seconds!r}; it must be a number above 0")
    budget = contract.Budget(count("num_episodes", num_episodes), count("num_steps", num_steps), seconds)
    return contract.checked(source, budget, whole("seed", seed, 0, MOST))


def source_of(env: Any, env_args: dict[str, Any] | None = None, backend: str = "auto") -> contract.Source:
    """Where copies of an environment come from; arguments and errors as `check_env`."""
    import gymnasium

    if backend not in BACKENDS:
        raise UnknownNameError("backend", backend, BACKENDS)
    if isinstance(env, str):
        return _of_name(env, env_args, backend)
    if env_args:
        raise UsageError(f"env_args go with the name of an environment; got {sorted(env_args)} with {type(env).__name__}")
    if isinstance(env, Env):
        return _of_compiled(env)
    if backend == "compiled":
        raise UsageError(f"backend 'compiled' needs a name or an Env; got {type(env).__name__}")
    if isinstance(env, GymnasiumEnv):
        if env.parts is None:
            raise UsageError(f"{env.name}: got what make returned for a vector; pass the id, function or environment that it was made from")
        return contract.from_factory(env.parts.single, env.name)
    if isinstance(env, gymnasium.vector.VectorEnv):
        raise UsageError("got a VectorEnv: pass one of its environments, or a function that makes one")
    if callable(env):
        return contract.from_factory(env)
    missing = [part for part in ("observation_space", "action_space", "reset", "step") if not hasattr(env, part)]
    if missing:
        raise UsageError(f"no environment: got {type(env).__name__} without {missing[0]}; pass a name, a function that makes one, or one")
    return contract.from_instance(env)


def _of_name(name: str, env_args: dict[str, Any] | None, backend: str) -> contract.Source:
    import gymnasium

    if is_foreign(name) and isinstance(foreign := make(name, backend, env_args=env_args), Env):
        return _of_compiled(foreign)
    module, _, short = name.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise UsageError(f"environment {name}: {error}") from error
    if backend != "compiled" and short in gymnasium.registry:
        return contract.from_id(name, env_args)
    if backend == "compiled" or (backend == "auto" and has_compiled(short)):
        return _of_compiled(compiled(short, **(env_args or {})))
    if has_compiled(short):
        raise UsageError(f"environment {name} exists only compiled: Gymnasium has none of that name; leave out backend='gymnasium'")
    raise UnknownNameError("environment", name, {*gymnasium.registry, *compiled_names()})


def _of_compiled(env: Env) -> contract.Source:
    return contract.Source(env.name, lambda: Hosted(env), backend="compiled")


class Hosted:
    """A compiled environment that reads like one of Gymnasium's. Its generator is a key: reset(seed=s) sets it, all else splits it."""

    def __init__(self, env: Env):
        self.observation_space = to_gymnasium(spaces.counted_from_zero(env.observation_space))
        self.action_space = to_gymnasium(spaces.counted_from_zero(env.action_space))
        self.time_limit = env.time_limit
        self._key, self._state = jax.random.key(0), None
        self._action_space = env.action_space

        def reset(key: Any) -> Any:
            key, own = jax.random.split(key)
            return key, env.reset(own)

        def step(key: Any, state: Any, action: Any) -> Any:
            key, own = jax.random.split(key)
            return key, env.step(own, state, action)

        self._reset, self._step = jax.jit(reset), jax.jit(step)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """A new episode."""
        self._key, (self._state, obs) = self._reset(self._key if seed is None else jax.random.key(seed))
        return jax.tree.map(np.asarray, obs), {}

    def step(self, action: Any) -> tuple[Any, ...]:
        """One step: (observation, reward, terminated, truncated, extras)."""
        action = spaces.mapped(lambda space, leaf: np.asarray(leaf, spaces.held_dtype(space)), self._action_space, action)
        self._key, (self._state, answer) = self._step(self._key, self._state, action)
        return tuple(jax.tree.map(np.asarray, part) for part in answer)


def to_gymnasium(space: spaces.Space) -> Any:
    """The other way of `spaces.from_gymnasium`."""
    import gymnasium

    match space:
        case spaces.Discrete():
            return gymnasium.spaces.Discrete(space.n, start=space.start)
        case spaces.MultiDiscrete():
            starts = np.reshape(space.starts or (0,) * space.size, space.shape)
            return gymnasium.spaces.MultiDiscrete(np.reshape(space.counts, space.shape), start=starts)
        case spaces.MultiBinary():
            return gymnasium.spaces.MultiBinary(space.shape[0] if len(space.shape) == 1 else space.shape)
        case spaces.Box():
            dtype = np.dtype(space.dtype)
            return gymnasium.spaces.Box(space.low_array.astype(dtype), space.high_array.astype(dtype), space.shape, dtype.type)
        case spaces.Dict():
            return gymnasium.spaces.Dict({name: to_gymnasium(part) for name, part in space.parts})
        case spaces.Tuple():
            return gymnasium.spaces.Tuple([to_gymnasium(part) for part in space.parts])
