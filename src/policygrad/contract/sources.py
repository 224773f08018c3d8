"""One environment by id, function or instance, as often as it can be made."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from policygrad.errors import UnknownNameError, UsageError
from policygrad.vectors.single import first_line, made


@dataclass(frozen=True)
class Source:
    """Where copies of an environment come from.

    Args:
        make: a copy that reads like a Gymnasium environment.
        copies: whether every call makes a new one; else it is the same one each time, and stays open.
    """

    name: str
    make: Callable[[], Any]
    copies: bool = True
    backend: str = "gymnasium"


def from_id(name: str, env_args: dict[str, Any] | None = None) -> Source:
    """A Gymnasium environment by id; "module:id" imports the module that registers it.

    Raises:
        UnknownNameError, UsageError: no such id, or arguments that it does not take.
    """
    import gymnasium

    module, _, short = name.rpartition(":")
    try:
        if module:
            importlib.import_module(module)
        spec = gymnasium.spec(short)
    except (gymnasium.error.Error, ImportError) as error:
        if short in gymnasium.registry or isinstance(error, ImportError):
            raise UsageError(f"environment {name}: {first_line(error)}") from error
        raise UnknownNameError("environment", name, gymnasium.registry) from error
    name = f"{module}:{spec.id}" if module else spec.id
    args = dict(env_args or {})

    def make() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return gymnasium.make(spec, disable_env_checker=True, **args)

    return Source(name, lambda: made(name, make))


def from_factory(factory: Callable[[], Any], name: str = "") -> Source:
    """A function without arguments that makes a Gymnasium environment."""
    name = name or getattr(factory, "__name__", type(factory).__name__)
    return Source(name, lambda: made(name, factory))


def from_instance(env: Any) -> Source:
    """An environment that was made already; what needs a second one is looked at by other means."""
    spec = getattr(env, "spec", None)
    return Source(spec.id if spec else type(getattr(env, "unwrapped", env)).__name__, lambda: env, copies=False)
