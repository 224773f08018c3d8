"""Environments that others wrote in JAX, as compiled environments of ours. Each package is imported when one of its names is asked for.

    "gymnax:CartPole-v1"                 gymnax
    "functional:phys2d/CartPole-v1"      Gymnasium's functional environments, its own and those registered with it
    "brax:ant"                           brax
    "playground:CartpoleBalance"         MuJoCo Playground

translate      what all have in common: dtypes, shapes and spaces, a time limit
gymnax         its time limit told apart from the end of the task
functional     a `FuncEnv`, by id or as it is
brax           brax and MuJoCo Playground, which share an interface
named          the prefixes before ":"
"""

from __future__ import annotations

from typing import Any

from policygrad.envs.base import Env


def from_functional(func_env: Any) -> Env:
    """A `FuncEnv` as it is; see `functional.from_functional`, which takes its parameters, too."""
    from policygrad.envs.adapters.functional import from_functional

    return from_functional(func_env)


def named(name: str, args: dict[str, Any] | None = None) -> Env:
    """The environment of a name with one of these prefixes.

    Args:
        args: of the adapter; see `gymnax.gymnax_env`, `functional.functional_env`, `brax.brax_env`, `brax.playground_env`.

    Raises:
        UsageError, UnknownNameError, SpaceError: in one line.
    """
    prefix, _, id = name.partition(":")
    match prefix:
        case "gymnax":
            from policygrad.envs.adapters.gymnax import gymnax_env as make
        case "functional":
            from policygrad.envs.adapters.functional import functional_env as make
        case "brax":
            from policygrad.envs.adapters.brax import brax_env as make
        case _:
            from policygrad.envs.adapters.brax import playground_env as make
    return make(id, **(args or {}))
