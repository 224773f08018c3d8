"""The table of compiled environments: names on the left, factories on the right.

`compiled("CartPole-v1")` makes one. A name of Gymnasium's stands for its twin here; the others ("Bandit-v0", "Fork-v0",
"LQR-v0", …) exist only compiled. `register` adds an environment of the user's own.

    >>> compiled("CartPole-v1").time_limit
    500
    >>> compiled("Target-v0", levels=5).action_space
    Discrete(n=5, start=0)
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from policygrad.envs import classic_control, finite_worlds, memory_worlds, small_worlds
from policygrad.envs.base import Env
from policygrad.envs.finite import FiniteMDP
from policygrad.envs.lqr import lqr
from policygrad.envs.reaching_arm import reaching_arm
from policygrad.errors import UnknownNameError, UsageError


def _world(id: str, factory: Callable[..., FiniteMDP], **limit: int) -> Callable[..., Env]:
    """A finite world under an environment's id, with a time limit where it has none: whole episodes need one."""
    limited = functools.partial(factory, **limit)

    @functools.wraps(limited)
    def make(**kwargs: Any) -> Env:
        return limited(**kwargs).replace(name=id)

    return make


def _t_maze(*, length: int = 10, discount: float = 1.0, time_limit: int | None = None) -> Env:
    """`finite_worlds.t_maze` under its id; where no time limit is given, ten times the shortest way."""
    maze = finite_worlds.t_maze(length=length, discount=discount, time_limit=time_limit)
    return maze.replace(name="TMaze-v0", time_limit=10 * (length + 1) if time_limit is None else time_limit)


_factories: dict[str, Callable[..., Env]] = {
    "CartPole-v1": classic_control.cartpole,
    "Acrobot-v1": classic_control.acrobot,
    "MountainCar-v0": classic_control.mountain_car,
    "MountainCarContinuous-v0": classic_control.mountain_car_continuous,
    "Pendulum-v1": classic_control.pendulum,
    "Bandit-v0": small_worlds.bandit,
    "Corridor-v0": small_worlds.corridor,
    "RockPaperScissors-v0": small_worlds.rock_paper_scissors,
    "Target-v0": small_worlds.target,
    "Fork-v0": _world("Fork-v0", finite_worlds.fork),
    "AliasedGrid-v0": _world("AliasedGrid-v0", finite_worlds.aliased_grid, time_limit=50),
    "RareReward-v0": _world("RareReward-v0", finite_worlds.rare_reward),
    "LQR-v0": lqr,
    "PositionOnlyCartPole-v0": memory_worlds.position_only_cartpole,
    "RepeatPrevious-v0": memory_worlds.repeat_previous,
    "TMaze-v0": _t_maze,
    "ReachingArm-v0": reaching_arm,
}


def register(name: str, factory: Callable[..., Env], *, overwrite: bool = False) -> None:
    """Makes `compiled(name, **kwargs)` call `factory(**kwargs)`, for this process.

    Args:
        name: what users write; by Gymnasium's custom it ends in a version, "Maze-v0".
        factory: a function of keyword arguments that returns an `Env`.
        overwrite: whether an environment already registered under `name` may be replaced.

    Raises:
        UsageError: the name is taken, or is no name, or the factory cannot be called.
    """
    if not isinstance(name, str) or not name:
        raise UsageError(f"an environment needs a name: got {name!r}; give a string such as 'Maze-v0'")
    if not callable(factory):
        raise UsageError(
            f"cannot register {name!r}: got {type(factory).__name__}, not a function; give one that returns an Env"
            " (for an Env made already: lambda: env)"
        )
    if name in _factories and not overwrite:
        raise UsageError(f"environment {name!r} is registered already; choose another name, or pass overwrite=True")
    _factories[name] = factory


def compiled_names() -> tuple[str, ...]:
    """Every registered name, the built-in ones first, then in the order of registration."""
    return tuple(_factories)


def has_compiled(name: str) -> bool:
    """Whether `compiled(name)` knows the name."""
    return name in _factories


def compiled(name: str, **kwargs: Any) -> Env:
    """Makes the compiled environment of that name.

    Args:
        name: one of `compiled_names()`.
        kwargs: passed to its factory; each environment's are in its factory's docstring.

    Raises:
        UnknownNameError: no such name; the nearest are offered.
        UsageError: a keyword that the factory does not take, or a value that it refuses.
    """
    if name not in _factories:
        raise UnknownNameError("compiled environment", name, _factories)
    factory = _factories[name]
    parameters = inspect.signature(factory).parameters.values()
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters)
    accepted = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    unknown = [] if open_ended else [k for k in kwargs if k not in accepted]
    missing = [p.name for p in parameters if p.name in accepted and p.default is p.empty and p.name not in kwargs]
    if unknown or missing:
        wrong = f"does not take {', '.join(unknown)}" if unknown else f"needs {', '.join(missing)}"
        raise UsageError(f"environment {name!r} {wrong}; its keyword arguments: {', '.join(accepted) or 'none'}")
    env = factory(**kwargs)
    if not isinstance(env, Env):
        raise UsageError(f"the factory registered as {name!r} must return an Env: got {type(env).__name__}")
    return env
