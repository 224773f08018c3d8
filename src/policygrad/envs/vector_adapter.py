"""One vector of Gymnasium environments, stepped, with its autoreset mode translated away.

Gymnasium knows three modes, and in each the transition that matters sits elsewhere:

    SAME_STEP   step() returns the *reset* observation of an environment that ended; the true one is in infos["final_obs"]
    NEXT_STEP   step() returns the true one; the next call ignores the action and resets: that row is no step
    DISABLED    step() returns the true one; the caller resets, with a mask

The adapter always answers with the true next observation, the observation to act on next, and which environments made a
step at all, so the valid steps of every environment, in order, do not depend on the mode.

Observations and actions are elements of the spaces as policies hold them (see `policygrad.spaces`): arrays [B, …], or dicts and tuples of
such; discrete ones count from 0.
"""

from __future__ import annotations

import contextlib
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from policygrad.errors import EnvError, UsageError
from policygrad.spaces import (
    MASK,
    Box,
    Dict,
    Discrete,
    Leaf,
    MultiBinary,
    MultiDiscrete,
    Space,
    choices,
    flattened,
    has_mask,
    held_dtype,
    leaves,
    start_of,
)
from policygrad.vectors.layout import Layout, ShapeError
from policygrad.vectors.side_by_side import WorkerError
from policygrad.vectors.single import first_line

if TYPE_CHECKING:
    from policygrad.envs.gymnasium_adapter import GymnasiumEnv

_NOTHING = contextlib.nullcontext()


class HostStep(NamedTuple):
    """One step of a vector of environments; B is their number."""

    next_obs: Any  # [B, …] the true next observation; zeros where not valid
    reward: np.ndarray  # [B] float32
    terminated: np.ndarray  # [B] bool
    truncated: np.ndarray  # [B] bool
    valid: np.ndarray  # [B] bool: False in a row that only reset
    obs: Any  # [B, …] what to act on next (of a new episode where one ended)


def env_seeds(seed: int, num_envs: int, reset: int = 0) -> list[int]:
    """Seeds of the environments of run `seed` at its `reset`-th reset of all: one stream each, disjoint between runs.

    `seed + i` would hand environment 1 of run 0 the stream of environment 0 of run 1; a hash of both numbers does not.
    """
    return [int(np.random.SeedSequence((seed, index, reset)).generate_state(1, np.uint32)[0] >> 1) for index in range(num_envs)]


class VectorAdapter:
    """Steps a Gymnasium `VectorEnv` of any autoreset mode.

    Attributes:
        resetting: [B] bool, environments that the next step only resets.
    """

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
        self.resetting = np.zeros(self.num_envs, bool)
        self._seen, self._taken = Layout(vector.single_observation_space), Layout(vector.single_action_space)
        self._observations = [_Observation(name, leaf) for name, leaf in leaves(env.observation_space)]
        actions = zip(leaves(env.action_space), self._taken.spaces, strict=True)
        self._actions = [_Action(leaf, theirs) for (_, leaf), theirs in actions]
        self._all = np.ones(self.num_envs, bool)
        self._clock = 0

    def reset(self) -> Any:
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
                raw_obs, info = self.vector.reset(seed=seeds if self._takes_list else seeds[0])
            obs = self._observation(raw_obs, self.num_envs)
        except Exception as error:
            raise self._failure("reset", error) from error
        if isinstance(info, dict) and MASK in info and not has_mask(self.env.observation_space):
            raise UsageError(
                f"{self.env.name}: got info[{MASK!r}] from a ready vector, where it is not read; pass an id or a function that makes one"
                " environment, or a vector whose observations hold the mask"
            )
        self.resetting = np.zeros(self.num_envs, bool)
        return obs

    def step(self, action: Any) -> HostStep:
        """Steps every environment.

        Args:
            action: [B, …] as sampled: those of a box are clipped into it; discrete ones count from 0.
        """
        self._clock += 1
        if self._taken.alone:
            action = self._actions[0](action)
        else:
            given = self._taken.leaves(action)
            action = self._taken.batch([translate(leaf) for translate, leaf in zip(self._actions, given, strict=True)])
        try:
            with self._quiet():
                raw_obs, reward, terminated, truncated, info = self.vector.step(action)
            obs = self._observation(raw_obs, self.num_envs)
            next_obs = obs
            terminated, truncated = np.asarray(terminated, bool), np.asarray(truncated, bool)
            ended = terminated | truncated
            valid = self._all
            if self.mode is self._modes.NEXT_STEP:
                valid = ~self.resetting
                if self.resetting.any():
                    next_obs = self._seen.copied(obs)
                    for leaf in self._seen.leaves(next_obs):
                        leaf[self.resetting] = 0
                self.resetting = ended
            elif ended.any():
                if self.mode is self._modes.SAME_STEP:
                    final = info["final_obs"] if "final_obs" in info else info["final_observation"]
                    next_obs = self._seen.copied(obs)
                    for index in np.flatnonzero(ended):
                        self._put(next_obs, int(index), final)
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

    def _observation(self, obs: Any, *batch: int) -> Any:
        if self._seen.alone:
            return self._observations[0](obs, batch)
        return self._seen.batch([one(leaf, batch) for one, leaf in zip(self._observations, self._seen.leaves(obs), strict=True)])

    def _put(self, obs: Any, index: int, final: Any) -> None:
        """Writes a true last observation, which vectors give in an array of objects, or in arrays in the structure of the parts."""
        by_part = isinstance(final, tuple) or (isinstance(final, dict) and index not in final)
        one = self._observation(self._seen.at(final, index) if by_part else final[index])
        for into, leaf in zip(self._seen.leaves(obs), self._seen.leaves(one), strict=True):
            into[index] = leaf

    def _failure(self, what: str, error: Exception) -> EnvError:
        where = f"at vector step {self._clock}" if what == "step" else "at reset"
        # Of observations that do not fit together NumPy says only that; what the environments returned says which.
        for index, obs in enumerate(getattr(getattr(self.vector, "unwrapped", None), "_env_obs", ())):
            try:
                if obs is not None:
                    self._seen.put(self._seen.empty(1), 0, obs)
            except ShapeError as wrong:
                return EnvError(f"environment {self.env.name}, copy {index}, {where}: {wrong}")
            except Exception:  # what is no array at all: the error itself tells
                break
        if self._has_workers and isinstance(error, EOFError | ConnectionError):
            return EnvError(f"environment {self.env.name}, {where}: a worker process died; look for what killed it (memory?)")
        at = getattr(self.vector, "at", None)
        copy = "" if at is None else f", copy {at},"
        if isinstance(error, WorkerError) and error.index is None:
            return EnvError(f"environment {self.env.name} could not be made in a worker process: {error.kind}: {error}; try sync")
        kind = error.kind if isinstance(error, WorkerError) else type(error).__name__
        if kind == ShapeError.__name__:
            return EnvError(f"environment {self.env.name}{copy} {where}: {error}")
        return EnvError(
            f"environment {self.env.name}{copy} raised {where}: {kind}: {first_line(error)};"
            " the fault is in the environment: run it alone with the same actions to find it"
        )


class _Observation:
    """Translates one leaf of what environments give, [*batch, …], into what policies see.

    Args:
        name: of the part, "" for the only one; space: ours.
    """

    def __init__(self, name: str, space: Leaf):
        self._where = f" in part {name}" if name else ""
        self._shape, self._dtype, start = space.shape, held_dtype(space), start_of(space)
        self._start = start if np.any(start) else None

    def __call__(self, leaf: Any, batch: tuple[int, ...]) -> np.ndarray:
        leaf = np.asarray(leaf)
        if leaf.shape != (*batch, *self._shape):
            raise ValueError(f"got an observation of shape {leaf.shape}{self._where}, not {(*batch, *self._shape)}")
        if self._start is not None:
            leaf = leaf - self._start
        # A copy where none would be made: a vector may hand out the buffer that its next step overwrites.
        return leaf.astype(self._dtype)


class _Action:
    """Translates sampled actions of one leaf, [B, …], into what environments take.

    Args:
        space: ours; theirs: Gymnasium's.
    """

    def __init__(self, space: Leaf, theirs: Any):
        self._dtype = theirs.dtype
        self._bounds = (theirs.low, theirs.high) if isinstance(space, Box) else None
        start = start_of(space)
        self._start = np.asarray(start, self._dtype) if np.any(start) else None

    def __call__(self, action: np.ndarray) -> np.ndarray:
        action = np.asarray(action).astype(self._dtype)  # always a copy: an environment may write into what it gets
        if self._bounds is not None:
            # Rounded to another dtype first: Box(-0.1, 0.1, float64) does not hold 0.1 in float32.
            action = np.minimum(np.maximum(action, self._bounds[0]), self._bounds[1])
        return action if self._start is None else action + self._start


class Wrong(NamedTuple):
    """A value that an environment must not give."""

    row: int
    copy: int  # of the environment
    what: str


def check_values(space: Space, obs: Any, valid: np.ndarray) -> Wrong | None:
    """The first observation that breaks its own space.

    Args:
        obs: [T, B, …], each leaf; valid: [T, B] bool.
    """
    found = [
        wrong
        for (name, leaf), values in zip(leaves(space), flattened(space, obs), strict=True)
        if (wrong := _check_leaf(name, leaf, values, valid))
    ]
    return min(found, default=None)


def _check_leaf(name: str, space: Leaf, obs: np.ndarray, valid: np.ndarray) -> Wrong | None:
    axes = tuple(range(2, obs.ndim))
    what = "lies outside"
    if isinstance(space, Discrete):
        bad = (obs < 0) | (obs >= space.n)
    elif isinstance(space, MultiDiscrete):
        bad = (obs < 0) | (obs >= np.array(space.counts).reshape(space.shape))
    elif isinstance(space, MultiBinary):
        bad = (obs != 0) & (obs != 1)
    elif obs.dtype == np.uint8 and space.low_array.max(initial=0) <= 0 and space.high_array.min(initial=255) >= 255:
        return None  # bytes can be nothing else, and images are many of them
    else:
        finite = np.isfinite(obs)
        bad, what = ~finite, "is not finite, in"
        if not (_any(bad, axes) & valid).any():
            slack = 1e-4  # float32 rounding of the environment's own arithmetic is no fault
            low = space.low_array.astype(np.float32)
            high = space.high_array.astype(np.float32)
            with np.errstate(invalid="ignore", over="ignore"):
                bad = (obs < low - slack * (1 + np.abs(low))) | (obs > high + slack * (1 + np.abs(high)))
            what = "lies outside"
    bad = _any(bad, axes) & valid
    if not bad.any():
        return None
    row, index = (int(i) for i in np.argwhere(bad)[0])
    part = f" of part {name}" if name else ""
    return Wrong(row, index, f"observation {np.array2string(obs[row, index], threshold=6, precision=4)}{part} {what} its space {space}")


def _any(flags: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    return np.any(flags, axis=axes) if axes else flags


def check_masks(observation_space: Space, action_space: Space, obs: Any, valid: np.ndarray) -> Wrong | None:
    """The first observation whose mask leaves a discrete part of the action without alternatives.

    Args:
        obs: [T, B, …], each leaf; valid: [T, B] bool.
    """
    if not (isinstance(observation_space, Dict) and MASK in observation_space):
        return None
    rows = [leaf.reshape(*valid.shape, -1) for leaf in flattened(observation_space[MASK], obs[MASK])]
    mask, at = np.concatenate(rows, axis=-1) != 0, 0
    for number, count in enumerate(counts := choices(action_space)):
        none = ~mask[..., at : at + count].any(axis=-1) & valid
        if none.any():
            row, index = (int(i) for i in np.argwhere(none)[0])
            which = f" for its discrete choice {number}" if len(counts) > 1 else ""
            return Wrong(row, index, f"the {MASK} leaves no action{which}")
        at += count
    return None
