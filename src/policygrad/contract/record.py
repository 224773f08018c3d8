"""Plays episodes of random actions and keeps all that the environment answered, as it answered it.

    series     reset(seed=s), then reset(), reset(), …: as training plays
    again      reset(seed=s) once more with the first episode's actions, after all of those; `fresh`: in another copy
    others     the same actions after other seeds
    unseeded   the same actions after reset() without a seed

What is no record of answers (an exception, a tuple of the wrong length, an array that changed afterwards) is an `Incident`. A wrong
answer is mended as far as it can be, before wrappers see it, so that one fault does not hide the others.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import sysconfig
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from policygrad.contract.sources import Source

MASK = "action_mask"
OLD_LIMIT = "TimeLimit.truncated"
READ = (MASK, OLD_LIMIT)
"""What is kept of an info."""
REPLAYED = 1_000
"""Steps of the first episode that are played again."""
RESETS = 3
"""Other seeds, and resets without one, that the first episode's actions are played after."""
GIVE_UP = 3
"""Exceptions in a row without a step between them, after which no further episode is tried."""


class Budget(NamedTuple):
    """Where the series ends: at whichever comes first."""

    num_episodes: int = 1_000
    num_steps: int = 10_000
    seconds: float = 30.0
    num_bytes: int = 2**28  # of observations, all of which are kept


class Step(NamedTuple):
    """What one step answered."""

    action: Any
    obs: Any  # a copy
    reward: Any
    terminated: Any
    truncated: Any
    info: dict[str, Any]  # only `READ`


@dataclass
class Episode:
    """One episode, or its beginning."""

    number: int  # from 1, in the order of play
    obs: Any = None  # of the reset, a copy
    info: dict[str, Any] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    started: bool = False  # whether the reset gave an observation
    end: str = "cut"  # "ended", by the environment · "cut", by this check · "raised"

    @property
    def ended(self) -> bool:
        """Whether the environment ended it."""
        return self.end == "ended"

    @property
    def all_obs(self) -> list[Any]:
        """o_0 … o_T."""
        return [self.obs, *(step.obs for step in self.steps)] if self.started else []

    @property
    def all_infos(self) -> list[dict[str, Any]]:
        """As `all_obs`."""
        return [self.info, *(step.info for step in self.steps)] if self.started else []


class Incident(NamedTuple):
    """Something wrong that is no answer."""

    kind: str
    episode: int
    step: int  # 0: the reset
    text: str  # what was seen; incidents of one kind and text are one finding


@dataclass(frozen=True)
class Record:
    """All that was seen of an environment."""

    name: str
    backend: str
    observation_space: Any  # Gymnasium's
    action_space: Any
    time_limit: int | None  # that the environment says it has
    not_taken: tuple[str, ...]  # of reset's arguments
    series: tuple[Episode, ...]
    again: tuple[Episode, ...]
    fresh: Episode | None
    others: tuple[Episode, ...]
    unseeded: tuple[Episode, ...]
    incidents: tuple[Incident, ...]
    stopped: str  # what ended the series: "episodes", "steps", "time", "memory" or "exceptions"
    seconds: float  # in reset and step, over the series

    @cached_property
    def num_steps(self) -> int:
        """Of the series."""
        return sum(len(episode.steps) for episode in self.series)

    @cached_property
    def ended(self) -> tuple[Episode, ...]:
        """The whole episodes of the series."""
        return tuple(episode for episode in self.series if episode.ended)

    def steps(self) -> Iterator[tuple[int, int, Step]]:
        """(episode, step, what it answered) over the series; steps count from 1."""
        for episode in self.series:
            for t, step in enumerate(episode.steps, 1):
                yield episode.number, t, step

    def observations(self) -> Iterator[tuple[int, int, Any]]:
        """(episode, step, observation) over the series; 0 is the reset."""
        for episode in self.series:
            for t, obs in enumerate(episode.all_obs):
                yield episode.number, t, obs


def recorded(source: Source, budget: Budget = Budget(), seed: int = 0) -> Record:
    """Plays the series and what is played again."""
    with warnings.catch_warnings(action="ignore"):
        player = _Player(source, seed)
        try:
            stopped = player.series(budget)
            series, seconds = tuple(player.episodes), player.seconds
            again, others, unseeded, fresh = (), (), (), None
            if series and series[0].started and "seed" not in player.not_taken:
                actions = [step.action for step in series[0].steps[:REPLAYED]]
                again = (player.replay(seed, actions), player.replay(seed, actions))
                others = tuple(player.replay(seed + 1 + i, actions) for i in range(RESETS))
                unseeded = tuple(player.replay(None, actions) for _ in range(RESETS))
                if source.copies:
                    other = _Player(source, seed, after=player)
                    try:
                        fresh = other.replay(seed, actions)
                    finally:
                        other.close()
                    player.incidents += other.incidents
        finally:
            player.close()
    return Record(
        source.name,
        source.backend,
        player.env.observation_space,
        player.env.action_space,
        player.time_limit,
        player.not_taken,
        series,
        again,
        fresh,
        others,
        unseeded,
        tuple(player.incidents),
        stopped,
        seconds,
    )


class _Player:
    """One copy of an environment, and the episodes played in it."""

    def __init__(self, source: Source, seed: int, after: _Player | None = None):
        self.env = source.make()
        self.episodes: list[Episode] = []
        self.incidents: list[Incident] = []
        self.seconds = 0.0
        self._source, self._seed, self._steps = source, seed, 0
        self._before = len(after.episodes) if after is not None else 0
        self._actions = copy.deepcopy(self.env.action_space)  # the environment may draw from its own
        self._actions.seed(seed)
        self._rng = np.random.default_rng(seed)
        spec = getattr(self.env, "spec", None)
        limit = getattr(spec, "max_episode_steps", None) or getattr(self.env, "time_limit", None)
        self.time_limit = limit if isinstance(limit, int) and limit > 0 else None
        self._core = getattr(self.env, "unwrapped", self.env)
        self.not_taken = _not_taken(self._core.reset)
        self._busy = False
        self._tapped = self._tap()

    # ------------------------------------------------------------ playing

    def series(self, budget: Budget) -> str:
        """Episodes of random actions until the budget is spent; says what was spent."""
        begin, num_bytes, in_a_row = time.perf_counter(), 0, 0
        while len(self.episodes) < budget.num_episodes:
            left = budget.num_steps - self._steps
            if left <= 0:
                return "steps"
            num_bytes += sum(map(_size, self.episodes[-1].all_obs)) if self.episodes else 0
            size = _size(self.episodes[0].obs) if self.episodes else 0
            most = min(left, (budget.num_bytes - num_bytes) // size) if size else left
            if most <= 0:
                return "memory"
            deadline = begin + budget.seconds
            if time.perf_counter() >= deadline:
                return "time"
            episode = self.play(None if self.episodes else self._actions_seed, self._random, most, deadline)
            in_a_row = in_a_row + 1 if episode.end == "raised" and len(episode.steps) == 0 else 0
            if in_a_row >= GIVE_UP:
                return "exceptions"
        return "episodes"

    def replay(self, seed: int | None, actions: Sequence[Any]) -> Episode:
        """The same actions as before."""
        return self.play(seed, lambda obs, info, t: actions[t], len(actions))

    def play(
        self, seed: int | None, choose: Callable[[Any, dict[str, Any], int], Any], most: int, deadline: float = float("inf")
    ) -> Episode:
        """One episode of at most `most` steps."""
        episode = Episode(self._before + len(self.episodes) + 1)
        self.episodes.append(episode)
        try:
            with self._timed():
                answer = self.env.reset() if seed is None else self.env.reset(seed=seed)
            given, info = self._reset_answer(answer)
            episode.obs, episode.info, episode.started = copied(given), _read(info), True
            obs, told = episode.obs, episode.info
            while len(episode.steps) < most and time.perf_counter() < deadline:
                action = choose(obs, told, len(episode.steps))
                handed = copied(action)
                with self._timed():
                    answer = self.env.step(handed)
                self._steps += 1
                before, (after, reward, terminated, truncated, info) = given, self._step_answer(answer)
                if not same(before, obs):
                    self._note("buffer", "an observation that was given before was changed by the next step")
                if not same(handed, action):
                    self._note("action", "step() changed the action that it was handed")
                given, obs, told = after, copied(after), _read(info)
                episode.steps.append(Step(action, obs, copied(reward), copied(terminated), copied(truncated), told))
                if _true(terminated) or _true(truncated):
                    episode.end = "ended"
                    break
        except UnusableError:
            episode.end = "raised"
        except Exception as error:  # whatever the user's code raises is what is to be told
            episode.end = "raised"
            what = "step" if episode.started else "reset"
            self._note("exception", f"{what}() raised {_described(error)}", len(episode.steps) + 1 if episode.started else 0)
        return episode

    def close(self) -> None:
        """Leaves the environment as it was found; one that was made here is closed."""
        for name in self._tapped:
            with contextlib.suppress(AttributeError):
                delattr(self._core, name)
        if self._source.copies:
            with contextlib.suppress(Exception):
                self.env.close()

    @property
    def _actions_seed(self) -> int | None:
        return None if "seed" in self.not_taken else self._seed

    def _random(self, obs: Any, info: dict[str, Any], t: int) -> Any:
        mask = obs.get(MASK) if isinstance(obs, dict) else None
        mask = info.get(MASK) if mask is None else mask
        allowed = allowed_of(self._actions, mask)
        if allowed is None or not all(part.any() for part in allowed):
            return self._actions.sample()
        drawn = np.reshape([self._rng.choice(np.flatnonzero(part)) for part in allowed], self._actions.shape)
        return (drawn + getattr(self._actions, "start", 0)).astype(self._actions.dtype)[()]

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - begin

    # ------------------------------------------------------------ answers

    def _tap(self) -> list[str]:
        """Stands between the innermost environment and its wrappers, and mends what it answers; the names that were put in place.

        Gymnasium's wrappers would raise at a wrong answer, or at an argument that is not taken.
        """
        core, reset, step = self._core, self._core.reset, self._core.step

        def mended(function: Callable[..., Any], mend: Callable[[Any], Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                if self._busy:  # an environment that calls its own step in its reset knows what it answers
                    return function(*args, **kwargs)
                self._busy = True
                try:
                    return mend(function(*args, **kwargs))
                finally:
                    self._busy = False

            return call

        def started(**kwargs: Any) -> Any:
            return reset(**{name: value for name, value in kwargs.items() if name not in self.not_taken})

        if core is self.env:
            return []
        try:
            core.reset = mended(started, self._reset_answer)
            core.step = mended(step, self._step_answer)
        except AttributeError:  # __slots__: then wrappers raise, and that is told
            return []
        return ["reset", "step"]

    def _reset_answer(self, answer: Any) -> tuple[Any, dict[str, Any]]:
        if isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], dict):
            return answer
        if isinstance(answer, tuple) and len(answer) == 2 and not contains(self.env.observation_space, answer):
            self._note("info", f"the info of reset() is {kind(answer[1])}", 0)
            return answer[0], {}
        several = isinstance(answer, tuple) and answer and not contains(self.env.observation_space, answer)
        self._note("reset", f"reset() returned {f'{len(answer)} values' if several else kind(answer)}", 0)
        return (answer[0] if several else answer), {}

    def _step_answer(self, answer: Any) -> tuple[Any, Any, Any, Any, Any]:
        if not isinstance(answer, tuple | list) or len(answer) not in (4, 5):
            got = f"{len(answer)} values" if isinstance(answer, tuple | list) else kind(answer)
            self._note("step", f"step() returned {got}")
            raise UnusableError
        if len(answer) == 4:
            self._note("old step", "step() returned 4 values, as it did before Gymnasium 0.26")
            obs, reward, done, info = answer
            cut = isinstance(info, dict) and _true(info.get(OLD_LIMIT))
            return obs, reward, done if not cut else False, cut, {}
        if isinstance(answer, list):
            self._note("step", "step() returned a list")
        if not isinstance(answer[4], dict):
            self._note("info", f"the info of step() is {kind(answer[4])}")
            return (*answer[:4], {})
        return tuple(answer)

    def _note(self, what: str, text: str, step: int | None = None) -> None:
        episode = self.episodes[-1]
        self.incidents.append(Incident(what, episode.number, len(episode.steps) + 1 if step is None else step, text))


class UnusableError(Exception):
    """An answer that nothing can be made of; it was noted."""


# ---------------------------------------------------------------- values


def kind(value: Any) -> str:
    """A value's type in words: "a list", "None", "an ndarray of shape (1,)"."""
    if value is None:
        return "None"
    name = type(value).__name__
    shape = getattr(value, "shape", None)
    of_shape = f" of shape {tuple(shape)}" if shape is not None and not isinstance(value, np.generic) else ""
    return f"a{'n' if name[0].lower() in 'aeiou' or name.startswith('nd') else ''} {name}{of_shape}"


def copied(tree: Any) -> Any:
    """A copy that shares no memory with what it is copied from."""
    if isinstance(tree, dict):
        return {name: copied(part) for name, part in tree.items()}
    if type(tree) in (tuple, list):
        return type(tree)(copied(part) for part in tree)
    if isinstance(tree, np.ndarray):
        return tree.copy()
    if tree is None or isinstance(tree, bool | int | float | str | np.generic):
        return tree
    with contextlib.suppress(Exception):
        return copy.deepcopy(tree)
    return tree


def same(a: Any, b: Any) -> bool:
    """Exact equality, NaN equal to NaN; of what cannot be compared, yes."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(part, b[name]) for name, part in a.items())
    if isinstance(a, tuple | list) and isinstance(b, tuple | list):
        return len(a) == len(b) and all(map(same, a, b))
    try:
        x, y = np.asarray(a), np.asarray(b)
        if x.shape != y.shape:
            return False
        unequal = x != y
        return not (unequal & ((x == x) | (y == y))).any() if unequal.any() else True
    except Exception:  # objects of the user's compare as they please, and raise what they please
        return True


def first_difference(a: Episode, b: Episode) -> int | None:
    """The step at which two episodes of the same actions part, 0 for the reset; None where neither shows more than the other."""
    if a.started and b.started and not same(a.obs, b.obs):
        return 0
    for t, (one, other) in enumerate(zip(a.steps, b.steps, strict=False), 1):
        if not all(map(same, one[1:5], other[1:5])):
            return t
    return None


def allowed_of(space: Any, mask: Any) -> list[np.ndarray] | None:
    """What a mask allows, for each discrete choice of an action; None where it is no mask of such actions."""
    counts, flat = choices(space), flat_mask(mask)
    if flat is None or not counts or flat.shape != (sum(counts),):
        return None
    return np.split(flat, np.cumsum(counts)[:-1])


def choices(space: Any) -> list[int]:
    """Between how many alternatives each discrete part of an action chooses; [] where nothing, or not everything, is discrete."""
    import gymnasium

    kinds = gymnasium.spaces
    match space:
        case kinds.Discrete():
            return [int(space.n)]
        case kinds.MultiDiscrete():
            return list(map(int, np.ravel(space.nvec)))
        case kinds.MultiBinary():
            return [2] * int(np.prod(space.shape))
    return []


def flat_mask(mask: Any) -> np.ndarray | None:
    """A mask, or a tuple of masks, as one vector of bool; None where it is none."""
    try:
        parts = mask if isinstance(mask, tuple | list) else [mask]
        flat = np.concatenate([np.ravel(part) for part in parts])
    except (TypeError, ValueError):
        return None
    return flat.astype(bool) if flat.dtype.kind in "biuf" else None


def _size(obs: Any) -> int:
    if isinstance(obs, dict):
        return sum(map(_size, obs.values()))
    if isinstance(obs, tuple | list):
        return sum(map(_size, obs))
    return getattr(obs, "nbytes", 32)


def _read(info: Any) -> dict[str, Any]:
    return {name: copied(info[name]) for name in READ if name in info}


def _true(value: Any) -> bool:
    try:
        return bool(np.any(value))
    except (TypeError, ValueError):
        return False


def contains(space: Any, value: Any) -> bool:
    """What a space says of a value; one that raises says no."""
    try:
        return bool(space.contains(value))
    except Exception:  # spaces meet values of any kind here, and raise whatever these make them raise
        return False


def _not_taken(reset: Callable[..., Any]) -> tuple[str, ...]:
    """Which of reset's keyword arguments a function does not have."""
    try:
        parameters = inspect.signature(reset).parameters
    except (TypeError, ValueError):
        return ()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return ()
    return tuple(name for name in ("seed", "options") if name not in parameters)


# ---------------------------------------------------------------- exceptions


def _described(error: Exception) -> str:
    """Type, message and the place in the user's code."""
    text = " ".join(str(error).split())
    text = text if len(text) <= 200 else text[:199] + "…"
    frames = traceback.extract_tb(error.__traceback__)
    frames = [frame for frame in frames if frame.filename != __file__ and not frame.filename.endswith(OWN)] or list(frames)
    theirs = [frame for frame in frames if not _foreign(frame.filename)]
    at = (theirs or frames)[-1]
    return f"{type(error).__name__}: {text or '(no message)'}, at {at.filename}:{at.lineno} in {at.name}()"


OWN = str(Path("policygrad") / "envs" / "contract.py")
"""Where compiled environments are made to read like Gymnasium's."""


def _foreign(filename: str) -> bool:
    """Whether a file belongs to Gymnasium, NumPy, JAX or Python: what is wrong lies in what calls them."""
    path = Path(filename)
    if filename.startswith("<") or any(part in ("gymnasium", "numpy", "jax", "jaxlib", "_src") for part in path.parts[:-1]):
        return True
    standard = Path(sysconfig.get_path("stdlib"))
    return standard in path.parents and "site-packages" not in path.parts
