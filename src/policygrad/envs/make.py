"""One call that turns whatever names an environment into one that can be collected from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from policygrad.envs import adapters
from policygrad.envs.base import Env
from policygrad.envs.envpool import from_envpool
from policygrad.envs.gymnasium_adapter import GymnasiumEnv, from_factory, from_id, from_instance, from_vector
from policygrad.envs.hosted import register_hosted
from policygrad.envs.registry import compiled, has_compiled
from policygrad.errors import UnknownNameError, UsageError
from policygrad.settings import is_foreign

AnyEnv = Env | GymnasiumEnv
BACKENDS = ("auto", "compiled", "gymnasium")


def has_gymnasium(name: str) -> bool:
    """Whether Gymnasium knows an environment of that id, those that policygrad adds included."""
    import gymnasium

    register_hosted()
    return name in gymnasium.registry


def make(
    env: Any,
    backend: str = "auto",
    *,
    env_args: dict[str, Any] | None = None,
    wrappers: Sequence[Callable[[Any], Any]] = (),
    vectorization: str = "auto",
    autoreset: str = "same-step",
) -> AnyEnv:
    """Makes an environment that `train` and `evaluate` can use.

    Args:
        env: a name ("CartPole-v1", any id registered with Gymnasium or with `register`, "module:id" to import the module that
            registers it, "gymnax:id" and the like for others' environments in JAX: `envs.adapters`); a function that makes a Gymnasium
            environment; a `gymnasium.Env`, `VectorEnv` or `FuncEnv` that exists already; or what `make` returned.
        backend: "compiled" for the environment in JAX, "gymnasium" for Gymnasium's, "auto" for the compiled twin where
            there is one for these arguments.
        env_args: keyword arguments of the environment, with a name only.
        wrappers: Gymnasium wrappers, applied in order to each environment; they need the Gymnasium backend.
        vectorization: see `gymnasium_adapter.from_id`; "envpool" takes EnvPool's environment of that id (extra fast-envs).
        autoreset: likewise.

    Raises:
        UnknownNameError, UsageError, SpaceError: in one line.
    """
    if backend not in BACKENDS:
        raise UnknownNameError("backend", backend, BACKENDS)
    if isinstance(env, Env | GymnasiumEnv):
        if backend not in ("auto", env.backend):
            raise UsageError(f"{env.name} was made with backend {env.backend!r}; got backend {backend!r}: pass its name instead")
        return env
    options = {"wrappers": wrappers, "autoreset": autoreset}
    if isinstance(env, str) and is_foreign(env) and not has_compiled(env):
        if wrappers or backend == "gymnasium" or vectorization != "auto":
            raise UsageError(f"{env} is an environment in JAX; leave out backend='gymnasium', wrappers and vectorization")
        return adapters.named(env, env_args)
    if isinstance(env, str) and vectorization == "envpool":
        if wrappers or backend == "compiled":
            raise UsageError(f"{env}: EnvPool's environments take no Gymnasium wrappers and are not compiled; leave out vectorization")
        return from_envpool(env, env_args)
    if isinstance(env, str):
        twin = has_compiled(env)
        if backend == "compiled" or (backend == "auto" and twin and not wrappers and vectorization == "auto"):
            if wrappers:
                raise UsageError(f"{env}: Gymnasium wrappers need backend='gymnasium'")
            if backend == "compiled":
                return compiled(env, **(env_args or {}))
            try:
                return compiled(env, **(env_args or {}))
            except UsageError:
                if not has_gymnasium(env):  # no other backend could take these arguments
                    raise
        register_hosted()
        return from_id(env, env_args, vectorization=vectorization, **options)
    if env_args:
        raise UsageError(f"env_args go with the name of an environment; got {sorted(env_args)} with {type(env).__name__}")
    import gymnasium
    from gymnasium.experimental.functional import FuncEnv

    if isinstance(env, FuncEnv):
        if wrappers or backend == "gymnasium":
            raise UsageError(f"{type(env).__name__} is an environment in JAX; leave out backend='gymnasium' and wrappers")
        return adapters.from_functional(env)
    if backend == "compiled":
        raise UsageError(f"backend 'compiled' needs a name or an Env; got {type(env).__name__}")
    if isinstance(env, gymnasium.vector.VectorEnv):
        if wrappers:
            raise UsageError("a ready VectorEnv takes no wrappers: wrap its environments, or the vector, before")
        return from_vector(env)
    if isinstance(env, gymnasium.Env):
        return from_instance(env, **options)
    if callable(env):
        return from_factory(env, vectorization=vectorization, **options)
    raise UsageError(f"no environment: got {type(env).__name__}; pass a name, a function that makes one, or an environment")
