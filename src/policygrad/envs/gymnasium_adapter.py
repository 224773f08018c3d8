"""Gymnasium environments as a source of the one record.

`GymnasiumEnv` describes an environment and makes vectors of it; `VectorAdapter` steps such a vector and translates its
autoreset mode away. Gymnasium knows three, and in each the transition that matters sits elsewhere:

    SAME_STEP   step() returns the *reset* observation of an environment that ended; the true one is in infos["final_obs"]
    NEXT_STEP   step() returns the true one; the next call ignores the action and resets: that row is no step
    DISABLED    step() returns the true one; the caller resets, with a mask

The adapter always answers with the true next observation, the observation to act on next, and which environments made a
step at all, so the valid steps of every environment, in order, do not depend on the mode.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import os
import signal
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from policygrad.envs.processes import WORKERS_PAY, Parts, StepCost, step_cost
from policygrad.errors import EnvError, SpaceError, UnknownNameError, UsageError
from policygrad.spaces import Box, Discrete, Space, from_gymnasium
from policygrad.vectors.in_turn import InTurn, ShapeError
from policygrad.vectors.side_by_side import WorkerError

VECTORIZATIONS = ("auto", "vector", "sync", "async", "envpool")
AUTORESETS = ("same-step", "next-step", "disabled")
_NOTHING = contextlib.nullcontext()


class HostStep(NamedTuple):
    """One step of a vector of environments; B is their number."""

    next_obs: np.ndarray  # [B, …] the true next observation; zeros where not valid
    reward: np.ndarray  # [B] float32
    terminated: np.ndarray  # [B] bool
    truncated: np.ndarray  # [B] bool
    valid: np.ndarray  # [B] bool: False in a row that only reset
    obs: np.ndarray  # [B, …] what to act on next (of a new episode where one ended)


def env_seeds(seed: int, num_envs: int, reset: int = 0) -> list[int]:
    """Seeds of the environments of run `seed` at its `reset`-th reset of all: one stream each, disjoint between runs.

    `seed + i` would hand environment 1 of run 0 the stream of environment 0 of run 1; a hash of both numbers does not.
    """
    return [int(np.random.SeedSequence((seed, index, reset)).generate_state(1, np.uint32)[0] >> 1) for index in range(num_envs)]


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


class VectorAdapter:
    """Steps a Gymnasium `VectorEnv` of any autoreset mode."""

    def __init__(self, env: GymnasiumEnv, vector: Any, seed: int, owned: bool = True):
        from gymnasium.vector import AutoresetMode

        self.env, self.vector, self.num_envs, self._owned = env, vector, int(vector.num_envs), owned
        self._modes = AutoresetMode
        mode = vector.metadata.get("autoreset_mode")
        if mode is None:
            raise UsageError(f"{env.name}: the vector environment does not say its autoreset_mode; set it in its metadata")
        self.mode = mode if isinstance(mode, AutoresetMode) else AutoresetMode(mode)
        self._seed, self._resets = seed, 0
        self._has_workers = hasattr(vector, "processes")
        # An environment of vectorised arithmetic takes one seed for all of its rows.
        self._takes_list = hasattr(getattr(vector, "unwrapped", vector), "env_fns")
        self._resetting = np.zeros(self.num_envs, bool)
        self._obs_dtype = np.int32 if isinstance(env.observation_space, Discrete) else np.float32
        self._obs_start = env.observation_space.start if isinstance(env.observation_space, Discrete) else 0
        self._action_start = env.action_space.start if isinstance(env.action_space, Discrete) else 0
        self._action_dtype = vector.single_action_space.dtype
        box = isinstance(env.action_space, Box)
        self._bounds = (vector.single_action_space.low, vector.single_action_space.high) if box else None
        self._all = np.ones(self.num_envs, bool)
        self._clock = 0

    def reset(self) -> np.ndarray:
        """Starts a new episode in every environment, each time with new seeds.

        How far the environments' own generators have come since the last reset depends on the autoreset mode (those that
        wait for the others to end go on stepping), so going on from there would make the episodes depend on it.

        Returns:
            observations, [B, …].
        """
        seeds = env_seeds(self._seed, self.num_envs if self._takes_list else 1, self._resets)
        self._resets += 1
        try:
            with self._quiet():
                raw_obs, _ = self.vector.reset(seed=seeds if self._takes_list else seeds[0])
            obs = self._observation(raw_obs, self.num_envs)
        except Exception as error:
            raise self._failure("reset", error) from error
        self._resetting[:] = False
        return obs

    def step(self, action: np.ndarray) -> HostStep:
        """Steps every environment.

        Args:
            action: [B, …] as sampled: those of a box are clipped into it; discrete ones count from 0.
        """
        self._clock += 1
        action = action.astype(self._action_dtype)  # always a copy: an environment may write into what it gets
        if self._bounds is not None:
            # Rounded to another dtype first: Box(-0.1, 0.1, float64) does not hold 0.1 in float32.
            action = np.minimum(np.maximum(action, self._bounds[0]), self._bounds[1])
        if self._action_start:
            action = action + self._action_start
        try:
            with self._quiet():
                raw_obs, reward, terminated, truncated, info = self.vector.step(action)
            obs = self._observation(raw_obs, self.num_envs)
            next_obs = obs
            terminated, truncated = np.asarray(terminated, bool), np.asarray(truncated, bool)
            ended = terminated | truncated
            valid = self._all
            if self.mode is self._modes.NEXT_STEP:
                valid = ~self._resetting
                if self._resetting.any():
                    next_obs = obs.copy()
                    next_obs[self._resetting] = 0
                self._resetting = ended
            elif ended.any():
                if self.mode is self._modes.SAME_STEP:
                    final = info["final_obs"] if "final_obs" in info else info["final_observation"]
                    next_obs = obs.copy()
                    for index in np.flatnonzero(ended):
                        next_obs[index] = self._observation(final[index])
                else:
                    restarted, _ = self.vector.reset(options={"reset_mask": ended})
                    obs = self._observation(restarted, self.num_envs)
        except Exception as error:
            raise self._failure("step", error) from error
        return HostStep(next_obs, np.asarray(reward, np.float32), terminated, truncated, valid, obs)

    def close(self) -> None:
        """Closes the environments that were made here; a ready-made one stays its owner's.

        What goes wrong in it is passed over: it comes after a run, or after an error that tells more.
        """
        if not self._owned:
            return
        try:
            with self._quiet():
                self.vector.close()
        except Exception:
            for process in getattr(self.vector, "processes", ()):
                process.terminate()
            self.vector.closed = True

    def _quiet(self) -> contextlib.AbstractContextManager[Any]:
        """Where workers run: their tracebacks, which Gymnasium prints as warnings, are not shown; errors carry the last line."""
        return warnings.catch_warnings(action="ignore") if self._has_workers else _NOTHING

    def _observation(self, obs: Any, *batch: int) -> np.ndarray:
        obs = np.asarray(obs)
        if obs.shape != (*batch, *self.env.observation_space.shape):
            raise ValueError(f"got an observation of shape {obs.shape}, not {(*batch, *self.env.observation_space.shape)}")
        if self._obs_start:
            obs = obs - self._obs_start
        # A copy where none would be made: a vector may hand out the buffer that its next step overwrites.
        return obs.astype(self._obs_dtype)

    def _failure(self, what: str, error: Exception) -> EnvError:
        where = f"at vector step {self._clock}" if what == "step" else "at reset"
        shape = self.env.observation_space.shape
        # Of observations that do not fit together NumPy says only that; what the environments returned says which.
        for index, obs in enumerate(getattr(getattr(self.vector, "unwrapped", None), "_env_obs", ())):
            if obs is not None and np.shape(obs) != shape:
                return EnvError(
                    f"environment {self.env.name}, copy {index}, {where}: got an observation of shape {np.shape(obs)}, its space"
                    f" says {shape}; correct the environment or its observation_space"
                )
        if isinstance(error, EOFError | ConnectionError):
            return EnvError(f"environment {self.env.name}, {where}: a worker process died; look for what killed it (memory?)")
        at = getattr(self.vector, "at", None)
        copy = "" if at is None else f", copy {at},"
        if isinstance(error, WorkerError) and error.index is None:
            return EnvError(f"environment {self.env.name} could not be made in a worker process: {error.kind}: {error}; try sync")
        kind = error.kind if isinstance(error, WorkerError) else type(error).__name__
        if kind == ShapeError.__name__:
            return EnvError(f"environment {self.env.name}{copy} {where}: {error}")
        return EnvError(
            f"environment {self.env.name}{copy} raised {where}: {kind}: {_first_line(error)};"
            " the fault is in the environment: run it alone with the same actions to find it"
        )


def check_values(space: Space, obs: np.ndarray, valid: np.ndarray) -> tuple[int, int, str] | None:
    """The first observation that breaks its own space.

    Args:
        obs: [T, B, …]; valid: [T, B] bool.

    Returns:
        (row, environment, what is wrong), or None.
    """
    axes = tuple(range(2, obs.ndim))
    if isinstance(space, Discrete):
        bad, what = (obs < 0) | (obs >= space.n), "lies outside"
    else:
        finite = np.isfinite(obs)
        bad, what = ~finite.all(axis=axes) if axes else ~finite, "is not finite, in"
        if not (bad & valid).any():
            slack = 1e-4  # float32 rounding of the environment's own arithmetic is no fault
            low = space.low_array.astype(np.float32)
            high = space.high_array.astype(np.float32)
            with np.errstate(invalid="ignore", over="ignore"):
                outside = (obs < low - slack * (1 + np.abs(low))) | (obs > high + slack * (1 + np.abs(high)))
            bad, what = outside.any(axis=axes) if axes else outside, "lies outside"
    bad = bad & valid
    if not bad.any():
        return None
    row, index = (int(i) for i in np.argwhere(bad)[0])
    return row, index, f"observation {np.array2string(obs[row, index], threshold=6, precision=4)} {what} its space {space}"


def _preflight(name: str, env: Any, observation_space: Space, seed: int = 0) -> None:
    """Resets and steps a single environment once, and holds it to its own spaces before anything is compiled."""

    def check(obs: Any, where: str) -> None:
        array = np.asarray(obs)
        if array.shape != observation_space.shape:
            raise EnvironmentCheckError(
                f"environment {name}, {where}: got an observation of shape {array.shape}, its space says"
                f" {observation_space.shape}; correct the environment or its observation_space"
            )
        start = observation_space.start if isinstance(observation_space, Discrete) else 0
        wrong = check_values(observation_space, (array - start)[None, None], np.ones((1, 1), bool))
        if wrong:
            raise EnvironmentCheckError(f"environment {name}, {where}: {wrong[2]}; correct the environment or its space")

    try:
        answer = env.reset(seed=seed)
        if not (isinstance(answer, tuple) and len(answer) == 2):
            raise EnvironmentCheckError(f"environment {name}: reset() returned {type(answer).__name__}, not (observation, info)")
        check(answer[0], "reset")
        env.action_space.seed(seed)
        answer = env.step(env.action_space.sample())
        if not (isinstance(answer, tuple) and len(answer) == 5):
            size = len(answer) if isinstance(answer, tuple) else type(answer).__name__
            raise EnvironmentCheckError(
                f"environment {name}: step() returned {size} values, not (observation, reward, terminated, truncated, info)"
            )
        check(answer[0], "step 1")
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
            raise UsageError(f"environment {name}: {_first_line(error)}") from error
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

    probe = _made(name, single)
    limit = args.get("max_episode_steps", spec.max_episode_steps)
    unlimited = limit == -1  # Gymnasium's word for no limit; vector entry points do not know it
    automatic = vectorization == "auto"
    if automatic:
        plain = not (wrappers or spec.additional_wrappers or unlimited)
        vectorization = "vector" if _numpy_entry_point(spec) and plain else "sync"
    if vectorization == "vector" and spec.vector_entry_point is None:
        raise UsageError(f"{name} has no vector entry point; use vectorization sync or async")

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
    probe = _made(name, single)
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
        _preflight(name, probe, observation_space)
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
        if isinstance(action_space, Box) and not action_space.dtype.startswith("float"):
            raise SpaceError(f"unsupported action space: got {action_space}; a Box of floats or a Discrete is handled")
    except SpaceError as error:
        raise SpaceError(f"environment {name}: {error}") from None
    return observation_space, action_space


def _made(name: str, single: Callable[[], Any]) -> Any:
    """The first environment, with faults of its construction told in one line."""
    import gymnasium

    try:
        env = single()
        missing = [part for part in ("observation_space", "action_space", "reset", "step") if not hasattr(env, part)]
        if missing:
            raise UsageError(f"environment {name}: got {type(env).__name__} without {missing[0]}; a Gymnasium environment must be made")
        return env
    except TypeError as error:
        raise UsageError(f"environment {name} does not take these arguments: {_first_line(error)}") from error
    except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
        if "mujoco" in str(error).lower() and importlib.util.find_spec("mujoco") is None:
            # Gymnasium's own line names its own extra, which does not bound the version.
            raise UsageError(f'environment {name} needs MuJoCo: got none installed; pip install "policygrad[mujoco]"') from error
        raise UsageError(f"environment {name} needs a package that is not installed: {_first_line(error)}") from error
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"environment {name} could not be made: {type(error).__name__}: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


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
        return _keeping_last(single()) if mode is AutoresetMode.SAME_STEP else single()

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


def _keeping_last(env: Any) -> Any:
    """`env` with the last observation of an episode copied: in SAME_STEP, Gymnasium resets before it is read, which would
    overwrite that of an environment that returns the same buffer each time."""
    import gymnasium

    class KeepingLast(gymnasium.Wrapper):
        def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
            obs, reward, terminated, truncated, info = self.env.step(action)
            return np.array(obs) if terminated or truncated else obs, reward, terminated, truncated, info

    return KeepingLast(env)
