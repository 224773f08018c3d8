"""Gymnasium environments as a source of the one record: `GymnasiumEnv` describes an environment and makes vectors of it."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import signal
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from policygrad.envs.processes import WORKERS_PAY, Parts, StepCost, step_cost, valid_action
from policygrad.envs.vector_adapter import VectorAdapter, check_masks, check_values
from policygrad.errors import SpaceError, UnknownNameError, UsageError
from policygrad.spaces import MASK, Box, Space, check_mask, choices, from_gymnasium, has_mask, leaves, mapped, start_of
from policygrad.vectors.in_turn import InTurn
from policygrad.vectors.layout import Layout, ShapeError
from policygrad.vectors.masks import flat_mask, mask_in_observation
from policygrad.vectors.single import first_line, made

VECTORIZATIONS = ("auto", "vector", "sync", "async", "envpool")
AUTORESETS = ("same-step", "next-step", "disabled")


@dataclass(frozen=True, eq=False)
class GymnasiumEnv:
    """An environment of Gymnasium's, described; `vector` makes it run."""

    name: str
    observation_space: Space
    action_space: Space
    time_limit: int | None
    reward_threshold: float | None
    make_vector: Callable[[int], Any] = field(repr=False)
    fixed_num_envs: int | None = None  # a ready vector, or a single instance, cannot be multiplied
    vectorization: str = "sync"
    backend: str = "gymnasium"
    cost: StepCost | None = None  # where it was measured
    parts: Parts | None = field(default=None, repr=False)  # None where other processes cannot step it
    workers: str = "given"  # whether processes are as `vectorization` says, or where they pay "chosen" unasked, or "advised"

    def processes(self, num_envs: int, num_steps: int | None = None) -> int:
        """How many processes step `num_envs` environments, this one included: more than one under async, or where that pays.

        Worker processes pay where they save `WORKERS_PAY` seconds over a run, by what a step was measured to take.

        Args:
            num_steps: of all environments; None for not known, which chooses none.
        """
        if self.parts is None or self.cost is None:
            return 1
        most = self.cost.processes(num_envs)
        if self.vectorization == "async":
            return most
        return most if self.workers == "chosen" and self._pay(num_envs, num_steps, most) else 1

    def remark(self, num_envs: int, num_steps: int) -> str:
        """What to tell about processes before a run of `num_steps`; nothing where nothing was chosen or is to be advised."""
        if self.workers == "given" or self.cost is None:
            return ""
        found = f"{self.name}: a step takes {self.cost.seconds * 1e6:,.0f} µs"
        chosen = self.processes(num_envs, num_steps)
        if chosen > 1:
            return f"{found}, so {chosen} processes step the environments; vectorization sync steps them in this one"
        most = self.cost.processes(num_envs)
        if self.workers == "advised" and self._pay(num_envs, num_steps, most):
            return f"{found}; vectorization async would step the environments in {most} processes"
        return ""

    def _pay(self, num_envs: int, num_steps: int | None, processes: int) -> bool:
        if self.cost is None or self.parts is None or num_steps is None:
            return False
        return self.cost.saved(num_envs, num_steps, processes) > WORKERS_PAY and self.parts.can_be_sent()

    def vector(self, num_envs: int, seed: int, processes: int | None = None) -> VectorAdapter:
        """Makes `num_envs` environments with their own seed streams.

        Args:
            processes: that step them; None takes what `self.processes` says where the number of steps is not known.

        Raises:
            UsageError: if the environment was given ready-made with another number.
        """
        if self.fixed_num_envs is not None and num_envs != self.fixed_num_envs:
            raise UsageError(
                f"{self.name}: got num_envs={num_envs} for a ready-made environment of {self.fixed_num_envs};"
                f" pass an id or a function that makes one, or num_envs={self.fixed_num_envs}"
            )
        if processes is None:
            processes = self.processes(num_envs)
        apart = self.parts is not None and (processes > 1 or self.vectorization == "async")
        vector = self.parts(num_envs, processes) if self.parts is not None and apart else self.make_vector(num_envs)
        return VectorAdapter(self, vector, seed, owned=self.fixed_num_envs is None)


def _preflight(name: str, env: Any, observation_space: Space, action_space: Space, seed: int = 0) -> None:
    """Resets and steps a single environment once, and holds it to its own spaces before anything is compiled."""

    layout = Layout(env.observation_space)

    def check(obs: Any, where: str, acted_on: bool) -> None:
        arrays = layout.empty(1)
        try:
            layout.put(arrays, 0, obs)
        except ShapeError as error:
            raise EnvironmentCheckError(f"environment {name}, {where}: {error}") from None

        seen = mapped(lambda space, leaf: (leaf - start_of(space))[None], observation_space, layout.batch(arrays))
        alone = np.ones((1, 1), bool)
        wrong = check_values(observation_space, seen, alone)
        if not wrong and acted_on:
            wrong = check_masks(observation_space, action_space, seen, alone)
        if wrong:
            raise EnvironmentCheckError(f"environment {name}, {where}: {wrong.what}; correct the environment or its space")

    try:
        answer = env.reset(seed=seed)
        if not (isinstance(answer, tuple) and len(answer) == 2):
            raise EnvironmentCheckError(f"environment {name}: reset() returned {type(answer).__name__}, not (observation, info)")
        check(answer[0], "reset", True)
        env.action_space.seed(seed)
        answer = env.step(valid_action(env.action_space, answer[0]))
        if not (isinstance(answer, tuple) and len(answer) == 5):
            size = len(answer) if isinstance(answer, tuple) else type(answer).__name__
            raise EnvironmentCheckError(
                f"environment {name}: step() returned {size} values, not (observation, reward, terminated, truncated, info)"
            )
        check(answer[0], "step 1", not (answer[2] or answer[3]))
        if not np.isfinite(float(answer[1])):
            raise EnvironmentCheckError(f"environment {name}, step 1: the reward is {answer[1]}; it must be a finite number")
    except UsageError:
        raise
    except Exception as error:
        text = str(error).strip().splitlines()
        raise EnvironmentCheckError(
            f"environment {name} raised in its first step: {type(error).__name__}: {text[0] if text else '(no message)'};"
            " correct the environment"
        ) from error


class EnvironmentCheckError(UsageError):
    """An environment that breaks its contract in its first reset or step."""


def from_id(
    name: str,
    env_args: dict[str, Any] | None = None,
    *,
    wrappers: Sequence[Callable[[Any], Any]] = (),
    vectorization: str = "auto",
    autoreset: str = "same-step",
) -> GymnasiumEnv:
    """A Gymnasium environment by id.

    Args:
        name: an id registered with Gymnasium, those of the user included; "module:id" imports the module that registers it.
        env_args: keyword arguments of the environment.
        wrappers: applied to each environment in order (a NumPy vector entry point is then not used).
        vectorization: "vector" for the environment's own NumPy vector entry point; "sync" for one after the other in this process;
            "async" for worker processes beside it, one for each core where steps keep a core busy, more where they wait; "auto": the
            entry point where there is one, else "sync", or "async" in a training run that it makes `WORKERS_PAY` seconds shorter.
        autoreset: mode of sync and async vectors; the record does not depend on it. In other modes than same-step, async is
            Gymnasium's, with a process for each environment.

    Raises:
        UnknownNameError: no such id. UsageError: arguments that the environment does not take, an extra that is missing.
    """
    import gymnasium

    args = dict(env_args or {})
    module, _, short = name.rpartition(":")
    try:
        if module:
            importlib.import_module(module)
        spec = gymnasium.spec(short)
    except (gymnasium.error.Error, ImportError) as error:
        from policygrad.envs.registry import compiled_names

        if short in gymnasium.registry or isinstance(error, ImportError):
            raise UsageError(f"environment {name}: {first_line(error)}") from error
        if name in compiled_names():
            hint = "leave out backend='gymnasium', wrappers and vectorization"
            raise UsageError(f"environment {name} exists only compiled: Gymnasium has none of that name; {hint}") from error
        raise UnknownNameError("environment", name, {*gymnasium.registry, *compiled_names()}) from error
    name = f"{module}:{spec.id}" if module else spec.id

    def single() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            env = gymnasium.make(spec, disable_env_checker=True, **args)
        for wrapper in wrappers:
            env = wrapper(env)
        return env

    first = made(name, single)
    single, probe = _masked(name, single, first)
    masked = probe is not first
    limit = args.get("max_episode_steps", spec.max_episode_steps)
    unlimited = limit == -1  # Gymnasium's word for no limit; vector entry points do not know it
    automatic = vectorization == "auto"
    if automatic:
        plain = not (wrappers or spec.additional_wrappers or unlimited or masked)
        vectorization = "vector" if _numpy_entry_point(spec) and plain else "sync"
    if vectorization == "vector" and spec.vector_entry_point is None:
        raise UsageError(f"{name} has no vector entry point; use vectorization sync or async")
    if vectorization == "vector" and masked:
        raise UsageError(f"{name}: its vector entry point has no place for info[{MASK!r}]; use vectorization sync or async")

    def make_vector(num_envs: int) -> Any:
        if vectorization == "vector":
            return gymnasium.make_vec(spec, num_envs=num_envs, vectorization_mode="vector_entry_point", **args)
        return _vector_of(single, num_envs, vectorization, autoreset)

    parts, workers = _parts_of(single, probe, vectorization, autoreset), "chosen" if automatic else "given"
    return _described(name, probe, make_vector, None if unlimited else limit, spec.reward_threshold, vectorization, parts, workers)


def from_factory(
    factory: Callable[[], Any],
    *,
    wrappers: Sequence[Callable[[Any], Any]] = (),
    vectorization: str = "auto",
    autoreset: str = "same-step",
) -> GymnasiumEnv:
    """A function without arguments that makes a Gymnasium environment."""

    def single() -> Any:
        env = factory()
        for wrapper in wrappers:
            env = wrapper(env)
        return env

    name = getattr(factory, "__name__", type(factory).__name__)
    single, probe = _masked(name, single, made(name, single))
    spec = getattr(probe, "spec", None)
    # Copies that a function makes may share things with each other and with the caller: other processes are never chosen unasked.
    workers = "advised" if vectorization == "auto" else "given"
    vectorization = "sync" if vectorization == "auto" else vectorization
    return _described(
        spec.id if spec else name,
        probe,
        lambda num_envs: _vector_of(single, num_envs, vectorization, autoreset),
        spec.max_episode_steps if spec else None,
        spec.reward_threshold if spec else None,
        vectorization,
        _parts_of(single, probe, vectorization, autoreset),
        workers,
    )


def from_instance(env: Any, *, wrappers: Sequence[Callable[[Any], Any]] = (), autoreset: str = "same-step") -> GymnasiumEnv:
    """An environment that was made already: it runs as it is, alone. It is not closed after use."""
    for wrapper in wrappers:
        env = wrapper(env)
    spec = env.spec
    name = spec.id if spec else type(env.unwrapped).__name__
    _, env = _masked(name, lambda: env, env)
    return GymnasiumEnv(
        name,
        *described_spaces(name, env.observation_space, env.action_space),
        spec.max_episode_steps if spec else None,
        spec.reward_threshold if spec else None,
        lambda num_envs: _vector_of(lambda: env, num_envs, "sync", autoreset),
        fixed_num_envs=1,
    )


def from_vector(vector: Any) -> GymnasiumEnv:
    """A ready `VectorEnv`, of any autoreset mode. It is not closed after use."""
    spec = getattr(vector, "spec", None)
    name = spec.id if spec else type(vector.unwrapped).__name__
    return GymnasiumEnv(
        name,
        *described_spaces(name, vector.single_observation_space, vector.single_action_space),
        spec.max_episode_steps if spec else None,
        spec.reward_threshold if spec else None,
        lambda num_envs: vector,
        fixed_num_envs=int(vector.num_envs),
        vectorization="ready",
    )


def _masked(name: str, single: Callable[[], Any], probe: Any) -> tuple[Callable[[], Any], Any]:
    """Both with the masks of their infos in their observations, where they give masks there and not in the observation itself."""
    try:
        answer = probe.reset(seed=0)
        given = answer[1].get(MASK)
        observation_space, action_space = from_gymnasium(probe.observation_space), from_gymnasium(probe.action_space)
    except Exception:  # what an environment does wrong is told where it is checked
        return single, probe
    if given is None or has_mask(observation_space):
        return single, probe
    size, got = sum(choices(action_space)), flat_mask(given).size
    if got != size or not size:
        raise SpaceError(
            f"environment {name}: info[{MASK!r}] got {got} entries for actions {action_space}; it must have {size}:"
            " one for each alternative of each discrete part"
        )
    return lambda: mask_in_observation(single(), size), mask_in_observation(probe, size)


def _described(
    name: str,
    probe: Any,
    make_vector: Callable[[int], Any],
    limit: int | None,
    threshold: float | None,
    vectorization: str,
    parts: Parts | None,
    workers: str,
) -> GymnasiumEnv:
    cost = None
    try:
        observation_space, action_space = described_spaces(name, probe.observation_space, probe.action_space)
        _preflight(name, probe, observation_space, action_space)
        if parts is not None:
            with contextlib.suppress(Exception):  # what an environment does wrong is told where it is used
                cost = step_cost(probe)
    finally:
        with contextlib.suppress(Exception):
            probe.close()
    return GymnasiumEnv(
        name,
        observation_space,
        action_space,
        limit,
        threshold,
        make_vector,
        vectorization=vectorization,
        cost=cost or StepCost(0.0, 1.0),
        parts=parts,
        workers=workers,
    )


def described_spaces(name: str, observation: Any, action: Any) -> tuple[Space, Space]:
    """Gymnasium's observation and action spaces as ours; a `SpaceError` names the environment."""
    try:
        observation_space, action_space = from_gymnasium(observation, "observation"), from_gymnasium(action, "action")
        for part, leaf in leaves(action_space):
            if isinstance(leaf, Box) and not leaf.dtype.startswith("float"):
                where = f", part {part}" if part else ""
                raise SpaceError(f"unsupported action space{where}: got {leaf}; a Box of floats, or MultiDiscrete, is handled")
        check_mask(observation_space, action_space)
    except SpaceError as error:
        raise SpaceError(f"environment {name}: {error}") from None
    return observation_space, action_space


def _numpy_entry_point(spec: Any) -> bool:
    """Whether the id has a vector entry point that computes with NumPy (those on JAX are served better by compiled twins)."""
    entry = spec.vector_entry_point
    return entry is not None and "phys2d" not in (entry if isinstance(entry, str) else inspect.getmodule(entry).__name__)  # type: ignore[union-attr]


def _vector_of(single: Callable[[], Any], num_envs: int, vectorization: str, autoreset: str) -> Any:
    from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

    if vectorization not in ("sync", "async"):
        raise UnknownNameError("vectorization", vectorization, VECTORIZATIONS)
    if autoreset not in AUTORESETS:
        raise UnknownNameError("autoreset mode", autoreset, AUTORESETS)
    mode = {"same-step": AutoresetMode.SAME_STEP, "next-step": AutoresetMode.NEXT_STEP, "disabled": AutoresetMode.DISABLED}[autoreset]
    main = os.getpid()

    def one() -> Any:
        if os.getpid() != main:
            # Ctrl-C goes to every process of a terminal. It ends the run, in order; a worker that dies of it would not.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        return single()

    if vectorization == "async":
        # Never fork: a forked child of a process that runs JAX can hang.
        return AsyncVectorEnv([one] * num_envs, autoreset_mode=mode, context="spawn")
    if mode is AutoresetMode.SAME_STEP:
        return InTurn([single] * num_envs)
    return SyncVectorEnv([single] * num_envs, autoreset_mode=mode, copy=False)


def _parts_of(single: Callable[[], Any], probe: Any, vectorization: str, autoreset: str) -> Parts | None:
    """How several processes step the environments; None where that is not ours."""
    if vectorization not in ("sync", "async") or autoreset != "same-step":
        return None
    return Parts(single, probe.observation_space, probe.action_space)
