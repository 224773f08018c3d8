"""The contract check: each violation is found, once; sound environments are left alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple

from policygrad import spaces as ours
from policygrad.contract import Budget, Finding, Report, checks, ends, record, sources
from policygrad.envs import Env, check_env, compiled_names, make, time_limit
from policygrad.envs.contract import source_of, to_gymnasium
from policygrad.errors import UnknownNameError, UsageError
from policygrad.spaces import from_gymnasium
from policygrad.types import Step
from rollout.toys import clockwork, clockwork_box, fragile
from rollout.toys import lengths as toy_lengths

STEPS = 300


class Sound(gymnasium.Env):
    """A random walk in [−1, 1]² that ends by chance; the reward is how far it came. Nothing is wrong with it."""

    observation_space: Any = Box(-1.0, 1.0, (2,), np.float32)
    action_space: Any = Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
        super().reset(seed=seed)
        self.t, self.place = 0, self.np_random.uniform(-0.5, 0.5, 2)
        return self.observe(), {}

    def step(self, action: Any) -> Any:
        self.t += 1
        self.push = 0.0 if isinstance(action, dict) else float(np.sum(action) > 0.5)
        self.place = np.clip(self.place + 0.1 * self.push + 0.1 * self.np_random.normal(size=2), -1, 1)
        return self.observe(), self.reward(), *self.ends(), {}

    def observe(self) -> Any:
        return self.place.astype(np.float32)

    def reward(self) -> Any:
        return float(self.place[0])

    def ends(self) -> tuple[Any, Any]:
        return bool(self.np_random.random() < 0.1 + 0.1 * self.push), False


def broken(name: str, **members: Any) -> type[Sound]:
    """`Sound` with some of its members otherwise."""
    return type(name, (Sound,), members)


def step_with(change: Callable[[Any, tuple], Any]) -> Callable[[Any, Any], Any]:
    """A step that answers something else."""
    return lambda self, action: change(self, Sound.step(self, action))


def reset_with(change: Callable[[Any, tuple], Any]) -> Callable[..., Any]:
    """A reset that answers something else."""
    return lambda self, *, seed=None, options=None: change(self, Sound.reset(self, seed=seed, options=options))


def late(usual: Callable[[Any], Any], wrong: Callable[[Any], Any], at: int = 3) -> Callable[[Any], Any]:
    """One thing until an episode's step `at`, then another."""
    return lambda self: wrong(self) if self.t >= at else usual(self)


def only(report: Report) -> Finding:
    """The one finding."""
    assert len(report.findings) == 1, str(report)
    return report.findings[0][1]


# ── interface ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _no_seed(self: Any) -> Any:
    return Sound.reset(self)


def _no_options(self: Any, *, seed: int | None = None) -> Any:
    return Sound.reset(self, seed=seed)


def _in_place(self: Any) -> Any:
    self.__dict__.setdefault("buffer", np.zeros(2, np.float32))[:] = self.place
    return self.buffer


def _wild(self: Any, action: Any) -> Any:
    answer = Sound.step(self, action)
    action *= 0
    return answer


def _raises(self: Any, action: Any) -> Any:
    if self.t == 2:
        raise ValueError("the arm\nfell off")
    return Sound.step(self, action)


def _raises_at_reset(self: Any, *, seed: int | None = None, options: dict | None = None) -> Any:
    self.resets = getattr(self, "resets", 0) + 1
    if self.resets == 3:
        raise KeyError("gripper")
    return Sound.reset(self, seed=seed)


INTERFACE = {
    "no seed": ({"reset": _no_seed}, "reset-arguments", "error", "reset() takes no `seed` and no `options`"),
    "no options": ({"reset": _no_options}, "reset-arguments", "error", "reset() takes no `options`"),
    "obs alone": (
        {"reset": reset_with(lambda self, a: a[0])},
        "reset-answer",
        "error",
        "returned an ndarray of shape (2,) (first in episode 1, at the reset",
    ),
    "three": ({"reset": reset_with(lambda self, a: (*a, 0))}, "reset-answer", "error", "reset() returned 3 values"),
    "no info": ({"reset": reset_with(lambda self, a: (a[0], None))}, "info", "error", "the info of reset() is None"),
    "list info": ({"step": step_with(lambda self, a: (*a[:4], []))}, "info", "error", "the info of step() is a list"),
    "old": (
        {"step": step_with(lambda self, a: (a[0], a[1], a[2] or a[3], {}))},
        "step-answer",
        "error",
        "step() returned 4 values, as it did before",
    ),
    "list": ({"step": step_with(lambda self, a: list(a))}, "step-answer", "error", "step() returned a list"),
    "buffer": (
        {"observe": _in_place},
        "buffer",
        "warning",
        "an observation that was given before was changed by the next step (first in episode 1, step 1",
    ),
    "action": ({"step": _wild, "action_space": Box(-1, 1, (2,))}, "action-changed", "warning", "step() changed the action"),
}


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(("members", "check", "severity", "seen"), INTERFACE.values(), ids=INTERFACE)
def test_the_interface(members: dict, check: str, severity: str, seen: str, wrapped: bool) -> None:
    """Whether wrappers, which would raise at a wrong answer, stand before it or not."""
    kind = broken("Kind", **members)
    factory = (lambda: gymnasium.wrappers.TimeLimit(gymnasium.wrappers.OrderEnforcing(kind()), 10_000)) if wrapped else kind
    found = [finding for finding in check_env(factory, num_steps=STEPS).findings if finding[1].severity != "skipped"]
    ((group, finding),) = found
    assert (group, finding.check, finding.severity) == ("interface", check, severity)
    assert seen in finding.text


def test_old_answers_are_read_as_they_were_meant() -> None:
    """A cut of old, and an environment of old that steps itself in its reset."""

    def old(self: Any, action: Any) -> Any:
        obs, reward, *_ = Sound.step(self, action)
        return obs, reward, self.t >= 5, {"TimeLimit.truncated": self.t == 5}

    def reset(self: Any, *, seed: int | None = None, options: dict | None = None) -> Any:
        Sound.reset(self, seed=seed)
        obs, *_, info = self.step(0)
        assert info == {"TimeLimit.truncated": False}
        return obs, {}

    kind = broken("Kind", step=old, reset=reset)
    played = record.recorded(sources.from_factory(lambda: gymnasium.wrappers.TimeLimit(kind(), 100)), Budget(num_steps=40))
    assert not [incident for incident in played.incidents if incident.kind != "old step"]
    assert len(played.incidents) == 40 + sum(len(e.steps) for e in (*played.again, played.fresh, *played.others, *played.unseeded) if e)
    assert {(step.terminated, step.truncated) for _, t, step in played.steps() if t == 4} == {(False, True)}


def test_answers_that_nothing_can_be_made_of() -> None:
    report = check_env(broken("Kind", step=lambda self, action: None), num_steps=STEPS, num_episodes=4)
    (finding,) = report.errors
    assert finding.text == "step() returned None (first in episode 1, step 1; 3 times)"
    assert report.facts["stopped_by"] == "exceptions"


def test_an_exception_in_a_step_is_told_with_its_place_and_the_check_goes_on() -> None:
    report = check_env(broken("Kind", step=_raises, observe=lambda self: self.place), num_steps=STEPS)
    raised, rounded = report.errors + report.warnings
    assert raised.check == "exceptions"
    line = _raises.__code__.co_firstlineno + 2
    assert f"step() raised ValueError: the arm fell off, at {__file__}:{line} in _raises() (first in episode 1, step 3; " in raised.text
    assert rounded.check == "observation-dtype"


def test_an_exception_inside_numpy_is_told_at_the_users_line() -> None:
    def adds(self: Any, action: Any) -> Any:
        np.linalg.inv(np.zeros((2, 2)))

    (finding,) = check_env(broken("Kind", step=adds), num_episodes=1, num_steps=9).errors
    assert f"LinAlgError: Singular matrix, at {__file__}:{adds.__code__.co_firstlineno + 1} in adds()" in finding.text


def test_an_exception_in_a_reset() -> None:
    report = check_env(broken("Kind", reset=_raises_at_reset), num_steps=STEPS)
    (finding,) = report.errors
    assert finding.check == "exceptions"
    assert "reset() raised KeyError: 'gripper'" in finding.text
    assert finding.text.endswith("(in episode 3, at the reset)")


def test_no_episode_is_tried_for_ever() -> None:
    def never(self: Any, *, seed: Any = None, options: Any = None) -> Any:
        raise RuntimeError

    report = check_env(broken("Kind", reset=never))
    assert report.facts["stopped_by"] == "exceptions"
    assert report.facts["episodes"] == record.GIVE_UP
    (finding,) = report.errors
    assert "RuntimeError: (no message)" in finding.text
    assert [f.check for f in report.of("skipped")] == ["seed-repeats"]


# ── spaces ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _mixed(self: Any) -> Any:
    return {"place": self.place.astype(np.float32), "said": "a"}


SPACES = {
    "text": (
        {"observation_space": Dict({"place": Sound.observation_space, "said": Text(3)}), "observe": _mixed},
        "spaces",
        "error",
        "unsupported observation space, part ['said']: got Text",
    ),
    "whole numbers": (
        {"action_space": Box(0, 3, (2,), np.int32)},
        "spaces",
        "error",
        "unsupported action space: got Box(0, 3, (2,), int32)",
    ),
    "one action": ({"action_space": Discrete(1)}, "action-scale", "warning", "actions are Discrete(1): there is nothing to choose"),
    "unbounded": ({"action_space": Box(-np.inf, np.inf, (2,))}, "action-scale", "note", "actions are unbounded"),
    "wide": ({"action_space": Box(-50, 50, (2,))}, "action-scale", "note", "actions lie in [-50, 50]"),
    "narrow": ({"action_space": Box(-0.01, 0.01, (2,))}, "action-scale", "note", "actions lie in [-0.01, 0.01]"),
    "aside": (
        {"action_space": Dict({"a": Box(2, 5, (2,)), "b": Discrete(2)})},
        "action-scale",
        "note",
        "actions, part ['a'], lie in [2, 5]",
    ),
}


@pytest.mark.parametrize(("members", "check", "severity", "seen"), SPACES.values(), ids=SPACES)
def test_spaces(members: dict, check: str, severity: str, seen: str) -> None:
    finding = only(check_env(broken("Kind", **members), num_steps=STEPS))
    assert (finding.check, finding.severity) == (check, severity)
    assert seen in finding.text


# ── observations ─────────────────────────────────────────────────────────────────────────────────────────────────────

PARTS = Dict({"arm": Box(-1, 1, (2,)), "legs": Tuple([Discrete(3), MultiDiscrete([2, 4]), MultiBinary(2)])})
BYTES = Box(0, 255, (2,), np.uint8)


def _parts(self: Any) -> Any:
    return {"arm": self.place.astype(np.float32), "legs": (2, np.array([1, 3]), np.array([0, 1], np.int8))}


def _parts_but(change: Callable[[dict], Any]) -> dict:
    return {"observation_space": PARTS, "observe": late(_parts, lambda self: change(_parts(self)))}


def _but(wrong: Callable[[Any], Any]) -> dict:
    return {"observe": late(Sound.observe, wrong)}


OBSERVATIONS = {
    "missing": (
        _parts_but(lambda obs: {"arm": obs["arm"]}),
        "parts",
        "error",
        "the observation lacks 'legs' (first in episode 1, step 3; in ",
    ),
    "more": (_parts_but(lambda obs: obs | {"tail": 0}), "parts", "error", "the observation has 'tail', which is not in its space"),
    "no dict": (_parts_but(lambda obs: 3), "parts", "error", "the observation is an int, not a dict"),
    "shorter": (
        _parts_but(lambda obs: obs | {"legs": obs["legs"][:2]}),
        "parts",
        "error",
        "the observation, part ['legs'], has 2 elements, not 3",
    ),
    "nested": (
        _parts_but(lambda obs: obs | {"legs": (3, *obs["legs"][1:])}),
        "bounds",
        "error",
        "part ['legs'][0], lies outside its space: 3, where it is at most 2",
    ),
    "nested many": (
        _parts_but(lambda obs: obs | {"legs": (0, np.array([1, 4]), obs["legs"][2])}),
        "bounds",
        "error",
        "4 at [1], where it is at most 3",
    ),
    "nested bits": (
        _parts_but(lambda obs: obs | {"legs": (0, np.array([1, 1]), np.array([2, 0], np.int8))}),
        "bounds",
        "error",
        "2 at [0], where it is at most 1",
    ),
    "shape": (
        {"observe": lambda self: np.zeros(3, np.float32)},
        "shape",
        "error",
        "has shape (3,), its space says (2,) (first in episode 1, at the reset; in ",
    ),
    "changing shape": (
        _but(lambda self: np.zeros((1, 2), np.float32)),
        "shape",
        "error",
        "(and it changes: (1, 2) and (2,)) (first in episode 1, step 3;",
    ),
    "ragged": (_but(lambda self: [[0.0], [1.0, 2.0]]), "shape", "error", "the observation is a list that makes no array of shape (2,)"),
    "float64": ({"observe": lambda self: self.place}, "dtype", "warning", "is of float64, its space says float32"),
    "changing dtype": (
        _but(lambda self: self.place),
        "dtype",
        "warning",
        "is of float64, its space says float32 (and it changes: float32 and float64)",
    ),
    "fractions": (
        {"observation_space": BYTES, "observe": lambda self: np.full(2, 0.5)},
        "dtype",
        "error",
        "is of float64, its space says uint8",
    ),
    "list": ({"observe": lambda self: self.place.tolist()}, "dtype", "warning", "the observation is a list"),
    "text": (_but(lambda self: np.array(["a", "b"])), "dtype", "error", "is of <U1, its space says float32"),
    "real discrete": (
        {"observation_space": Discrete(3), "observe": lambda self: np.float32(1)},
        "dtype",
        "error",
        "is of float32, its space says int64",
    ),
    "nan": (
        _but(lambda self: np.array([0, np.nan], np.float32)),
        "finite",
        "error",
        "the observation holds nan (first in episode 1, step 3;",
    ),
    "infinite": (_but(lambda self: np.array([0, np.inf], np.float32)), "finite", "error", "the observation holds inf"),
    "outside": (
        _but(lambda self: np.array([0, -1.5], np.float32)),
        "bounds",
        "error",
        "lies outside its space: -1.5 at [1], where it is at least -1",
    ),
    "discrete": (
        {"observation_space": Discrete(3, start=1), "observe": lambda self: 0},
        "bounds",
        "error",
        "lies outside its space: 0, where it is at least 1",
    ),
    "large": (
        {"observation_space": Box(-1e4, 1e4, (2,)), "observe": lambda self: np.array([2000 * self.place[0], 1], np.float32)},
        "scale",
        "note",
        "1 element of 2 of the observation came to more than 100",
    ),
}


@pytest.mark.parametrize(("members", "check", "severity", "seen"), OBSERVATIONS.values(), ids=OBSERVATIONS)
def test_observations(members: dict, check: str, severity: str, seen: str) -> None:
    finding = only(check_env(broken("Kind", **members), num_steps=STEPS))
    assert (finding.check, finding.severity) == (f"observation-{check}", severity)
    assert seen in finding.text


def test_rounding_is_no_fault_and_spaces_of_other_kinds_are_asked() -> None:
    beyond = np.nextafter(np.float32(1), np.float32(2))
    assert not check_env(broken("Kind", observe=lambda self: np.full(2, beyond)), num_steps=50, seed=1).errors
    space = Dict({"place": Sound.observation_space, "said": Text(3)})
    kind = broken("Kind", observation_space=space, observe=lambda self: _mixed(self) | {"said": "four"})
    assert [f.check for f in check_env(kind, num_steps=50).errors] == ["spaces", "observation-bounds"]


def test_the_largest_of_all_steps_counts() -> None:
    def observe(self: Any) -> Any:
        return np.array([200 if self.t == 3 else 0, 0], np.float32)

    kind = broken("Kind", observation_space=Box(-300, 300, (2,)), observe=observe, ends=lambda self: (False, self.t >= 5))
    assert [f.check for _, f in check_env(kind, num_steps=STEPS).findings if f.check == "observation-scale"] == ["observation-scale"]


def test_how_often_is_counted() -> None:
    kind = broken(
        "Kind", observe=late(Sound.observe, lambda self: np.full(2, np.nan, np.float32), at=2), ends=lambda self: (False, self.t >= 4)
    )
    finding = only(check_env(kind, num_steps=20))
    assert finding.text == "the observation holds nan (first in episode 1, step 2; in 15 of 25 observations)"
    assert (finding.episode, finding.step, finding.times) == (1, 2, 15)


# ── rewards ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_rewards_that_cancel_were_seen() -> None:
    assert not check_env(broken("Kind", reward=lambda self: (-1.0) ** self.t), num_episodes=2, num_steps=STEPS, seed=3).warnings
    kind = broken("Kind", reward=lambda self: (-1.0) ** self.t, ends=lambda self: (False, self.t == 4))
    assert not [f for f in check_env(kind, num_steps=8).warnings if f.check == "reward-seen"]


REWARDS = {
    "none": (lambda self: None, "number", "error", "the reward is None (first in episode 1, step 1; in all 300 steps)"),
    "array": (lambda self: np.ones(1), "number", "error", "the reward is an ndarray of shape (1,)"),
    "text": (lambda self: "1", "number", "error", "the reward is a str"),
    "nan": (late(Sound.reward, lambda self: float("nan")), "finite", "error", "the reward is nan (first in episode 1, step 3;"),
    "infinite": (late(Sound.reward, lambda self: -np.inf), "finite", "error", "the reward is -inf"),
    "large": (late(Sound.reward, lambda self: -2e4), "scale", "warning", "rewards reach -20,000, and "),
    "nothing": (lambda self: 0, "seen", "warning", "no reward was seen: it was 0 in all 300 steps"),
}


@pytest.mark.parametrize(("reward", "check", "severity", "seen"), REWARDS.values(), ids=REWARDS)
def test_rewards(reward: Callable, check: str, severity: str, seen: str) -> None:
    finding = only(check_env(broken("Kind", reward=reward), num_steps=STEPS))
    assert (finding.check, finding.severity) == (f"reward-{check}", severity)
    assert seen in finding.text


def test_large_returns_of_small_rewards() -> None:
    kind = broken("Kind", reward=lambda self: 9e3 + self.place[0], ends=lambda self: (False, self.t >= 150))
    assert only(check_env(kind, num_steps=STEPS)).text.startswith("returns reach 1,350,")


@pytest.mark.parametrize("reward", [True, np.bool_(True), 1, np.float32(0.5), np.array(0.5), jnp.float32(0.5)])
def test_what_is_a_number(reward: Any) -> None:
    assert not check_env(broken("Kind", reward=lambda self: reward), num_steps=50).findings


def test_equal_returns_are_a_note() -> None:
    kind = broken("Kind", reward=lambda self: -1.0, ends=lambda self: (False, self.t >= 20))
    finding = only(check_env(kind, num_steps=STEPS))
    assert (finding.check, finding.severity) == ("reward-seen", "note")
    assert finding.text == "every episode returned -20, whatever the actions"


# ── ends of episodes ─────────────────────────────────────────────────────────────────────────────────────────────────


ENDS = {
    "whole number": (
        lambda self: (int(self.t >= self.place[0] * 5 + 8), False),
        "flags",
        "warning",
        "terminated is 0 (first in episode 1, step 1; in all 300 steps)",
    ),
    "two": (lambda self: (2 if Sound.ends(self)[0] else False, False), "flags", "error", "terminated is 2"),
    "none": (lambda self: (Sound.ends(self)[0], None), "flags", "error", "truncated is None"),
    "array": (lambda self: (np.array([Sound.ends(self)[0]]), False), "flags", "error", "terminated is an ndarray of shape (1,)"),
    "never": (lambda self: (False, False), "reached", "warning", "no episode ended in 300 steps, and there is no time limit"),
    "limit": (lambda self: (self.t >= 12, False), "by-limit", "warning", "all 25 episodes terminated after exactly 12 steps"),
}


@pytest.mark.parametrize(("ends", "check", "severity", "seen"), ENDS.values(), ids=ENDS)
def test_ends(ends: Callable, check: str, severity: str, seen: str) -> None:
    finding = only(check_env(broken("Kind", ends=ends), num_steps=STEPS))
    assert (finding.check, finding.severity) == (f"end-{check}", severity)
    assert seen in finding.text


@pytest.mark.parametrize(
    "ends", [lambda self: (np.bool_(self.t >= 2), np.False_), lambda self: (False, self.t >= 12), lambda self: (self.t >= 9, False)]
)
def test_ends_that_are_fine(ends: Callable) -> None:
    """NumPy's booleans; a time limit that says so; a task of a few steps."""
    assert not check_env(broken("Kind", ends=ends), num_steps=STEPS).findings


def test_both_ends_at_once_are_a_note_and_no_hidden_limit() -> None:
    finding = only(check_env(broken("Kind", ends=lambda self: (self.t >= 12, self.t >= 12)), num_steps=STEPS))
    assert (finding.check, finding.severity, finding.times) == ("end-once", "note", 25)


def test_a_limit_in_the_old_style() -> None:
    def step(self: Any, action: Any) -> Any:
        obs, reward, terminated, _, _ = Sound.step(self, action)
        cut = self.t >= 15
        return obs, reward, terminated or cut, False, {"TimeLimit.truncated": cut and not terminated} if terminated or cut else {}

    finding = only(check_env(broken("Kind", step=step), num_steps=STEPS))
    assert (finding.check, finding.severity) == ("end-by-limit", "error")
    assert "info['TimeLimit.truncated'] is True where terminated is, too" in finding.text

    def both_styles(self: Any, action: Any) -> Any:
        obs, reward, terminated, _, _ = Sound.step(self, action)
        return obs, reward, terminated, self.t >= 15 and not terminated, {"TimeLimit.truncated": self.t >= 15 and not terminated}

    assert not check_env(broken("Kind", step=both_styles), num_steps=STEPS).findings


def test_a_limit_that_is_not_kept_or_lies_beyond_the_steps() -> None:
    gymnasium.register("PolicygradEndless-v0", broken("Kind", ends=lambda self: (False, False)), max_episode_steps=50)
    try:
        assert not check_env("PolicygradEndless-v0", num_steps=STEPS).findings
        env = gymnasium.make("PolicygradEndless-v0").unwrapped
        env.spec = gymnasium.spec("PolicygradEndless-v0")
        report = check_env(env, num_steps=STEPS)
        finding = only(report)
        assert (finding.check, finding.severity) == ("end-in-time", "warning")
        assert finding.text == "its spec says that episodes are cut after 50 steps, but one went on for 300 (in episode 1)"
        finding = only(check_env("PolicygradEndless-v0", num_steps=40))
        assert (finding.check, finding.severity) == ("end-reached", "skipped")
        assert "the time limit of 50 steps lies beyond the 40 steps played" in finding.text
        finding = only(check_env("PolicygradEndless-v0", env_args={"max_episode_steps": -1}, num_steps=60))
        assert (finding.check, finding.severity) == ("end-reached", "warning")
    finally:
        gymnasium.registry.pop("PolicygradEndless-v0", None)


# ── seeding ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _unseeded(self: Any, *, seed: int | None = None, options: dict | None = None) -> Any:
    return Sound.reset(self)


def _restarting(self: Any, *, seed: int | None = None, options: dict | None = None) -> Any:
    return Sound.reset(self, seed=0 if seed is None else seed)


def _one_seed(self: Any, *, seed: int | None = None, options: dict | None = None) -> Any:
    return Sound.reset(self, seed=None if seed is None else 7)


def _always(self: Any, *, seed: int | None = None, options: dict | None = None) -> Any:
    return Sound.reset(self, seed=3)


def _leaking(self: Any, *, seed: int | None = None, options: dict | None = None) -> Any:
    before = getattr(self, "place", np.zeros(2))
    Sound.reset(self, seed=seed)
    self.place = np.clip(self.place + 0.01 * before, -1, 1)
    return self.observe(), {}


def _late_leak(self: Any, action: Any) -> Any:
    self.played = getattr(self, "played", 0) + 1
    obs, reward, *rest = Sound.step(self, action)
    return obs, reward + self.played, *rest


SEEDING = {
    "unseeded": ({"reset": _unseeded}, "repeats", "error", "give different episodes: they part at the first observation"),
    "leaking": (
        {"reset": _leaking},
        "forgets",
        "error",
        "depends on what was played before: it parts from the first one at the first observation",
    ),
    "leaking later": ({"step": _late_leak}, "forgets", "error", "depends on what was played before: it parts from the first one at step 1"),
    "restarting": ({"reset": _restarting}, "restarts", "warning", "reset() without a seed gives the same episode every time"),
    "one seed": (
        {"reset": _one_seed},
        "matters",
        "warning",
        "every seed gives the same episode, though reset() without a seed gives others",
    ),
    "deterministic": ({"reset": _always}, "matters", "note", "every seed gives the same episode: the environment looks deterministic"),
}


@pytest.mark.parametrize(("members", "check", "severity", "seen"), SEEDING.values(), ids=SEEDING)
def test_seeding(members: dict, check: str, severity: str, seen: str) -> None:
    finding = only(check_env(broken("Kind", **members), num_steps=STEPS))
    assert (finding.check, finding.severity) == (f"seed-{check}", severity)
    assert seen in finding.text


@pytest.mark.parametrize("name", ["unseeded", "leaking", "restarting", "one seed", "deterministic"])
def test_seeding_of_an_environment_that_there_is_only_once(name: str) -> None:
    """Without a second copy, what is left from before shows all the same where it settles."""
    members, check, severity, _ = SEEDING[name]
    finding = only(check_env(broken("Kind", **members)(), num_steps=STEPS))
    expected = ("seed-repeats", "error") if name == "leaking" else (f"seed-{check}", severity)
    assert (finding.check, finding.severity) == expected


def test_what_is_left_once_and_for_all_is_told_from_chance_without_a_second_copy() -> None:
    def reset(self: Any, *, seed: int | None = None, options: dict | None = None) -> Any:
        Sound.reset(self, seed=seed)
        self.place[1] = 0.9 if getattr(self, "played", False) else 0.1
        self.played = True
        return self.observe(), {}

    kind = broken("Kind", reset=reset)
    for env in (kind, kind()):
        assert only(check_env(env, num_steps=STEPS)).check == "seed-forgets"


def test_randomness_in_the_middle_of_an_episode_is_seen() -> None:
    chance = np.random.default_rng(0)

    def reward(self: Any) -> float:
        return self.place[0] + (chance.random() if self.t == 3 else 0)

    finding = only(check_env(broken("Kind", reward=reward, ends=lambda self: (False, self.t >= 6)), num_steps=STEPS))
    assert finding.seen.endswith("they part at step 3")


# ── action masks ─────────────────────────────────────────────────────────────────────────────────────────────────────


def masked(mask: Callable[[Any], Any], inside: bool = False, actions: Any = None) -> type[Sound]:
    """An environment that says what is allowed, and asserts that no other action comes."""

    def allowed(self: Any) -> np.ndarray:
        actions = np.zeros(3, np.int8)
        actions[[self.t % 3, (self.t + 1) % 3]] = 1
        return actions

    def info(self: Any) -> dict:
        given = mask(self) if mask(self) is not None else allowed(self)
        return {} if inside or given is Ellipsis else {"action_mask": given}

    def observe(self: Any) -> Any:
        given = mask(self) if mask(self) is not None else allowed(self)
        return {"place": Sound.observe(self), "action_mask": given} if inside else Sound.observe(self)

    def step(self: Any, action: Any) -> Any:
        assert mask(self) is not None or allowed(self)[action - 5], "not allowed"
        return (*Sound.step(self, action)[:4], info(self))

    members = {
        "action_space": actions or Discrete(3, start=5),
        "observe": observe,
        "step": step,
        "reset": reset_with(lambda self, a: (a[0], info(self))),
    }
    if inside:
        members["observation_space"] = Dict({"place": Sound.observation_space, "action_mask": MultiBinary(3)})
    return broken("Masked", **members)


MASKS = {
    "size": (lambda self: np.ones(4, np.int8) if self.t == 2 else None, "info['action_mask'] has 4 entries (first in episode 1, step 2;"),
    "left": (
        lambda self: np.zeros(3, np.int8) if self.t == 2 else None,
        "info['action_mask'] leaves no action (first in episode 1, step 2;",
    ),
    "missing": (lambda self: ... if self.t == 2 else None, "info['action_mask'] is missing, though other steps have one"),
    "text": (lambda self: "all" if self.t == 2 else None, "info['action_mask'] is a str"),
}


@pytest.mark.parametrize(("mask", "seen"), MASKS.values(), ids=MASKS)
def test_masks(mask: Callable, seen: str) -> None:
    finding = only(check_env(masked(mask), num_steps=STEPS))
    assert (finding.check, finding.severity) == ("action-mask", "error")
    assert seen in finding.text


@pytest.mark.parametrize("last", [np.zeros(3, np.int8), ...])
def test_after_the_end_nothing_needs_to_be_allowed(last: Any) -> None:
    kind = masked(lambda self: last if self.t == 2 else None)
    kind.ends = lambda self: (self.t >= 2, False)
    assert not check_env(kind, num_steps=STEPS).findings


@pytest.mark.parametrize("inside", [False, True])
def test_masks_that_are_fine_are_kept_to(inside: bool) -> None:
    report = check_env(masked(lambda self: None, inside), num_steps=STEPS)
    assert not report.findings, str(report)
    assert "action masks" in str(report)


def test_a_mask_within_observations_that_leaves_nothing() -> None:
    finding = only(check_env(masked(lambda self: np.zeros(3, np.int8) if self.t == 2 else None, inside=True), num_steps=STEPS))
    assert finding.seen == "observation['action_mask'] leaves no action"


def test_masks_of_several_choices() -> None:
    space = MultiDiscrete([2, 3], start=[1, 0])
    allowed = record.allowed_of(space, (np.array([0, 1]), np.array([1, 0, 1])))
    assert [part.tolist() for part in allowed or []] == [[False, True], [True, False, True]]
    assert record.allowed_of(space, np.ones(4)) is None
    assert record.allowed_of(Box(-1, 1, (2,)), np.ones(2)) is None
    assert record.choices(MultiBinary(2)) == [2, 2]


# ── sound ones ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "name",
    ["CartPole-v1", "Pendulum-v1", "MountainCarContinuous-v0", "FrozenLake-v1", "Taxi-v4", "Blackjack-v1", "Reacher-v5", "Hopper-v5"],
)
def test_gymnasiums_are_sound(name: str) -> None:
    report = check_env(name, num_steps=2_000)
    assert not [finding for _, finding in report.findings if finding.check != "reward-seen" or finding.severity != "note"], str(report)
    assert report.backend == "gymnasium"


@pytest.mark.parametrize("name", compiled_names())
def test_ours_are_sound(name: str) -> None:
    report = check_env(name, backend="compiled", num_steps=300)
    assert not report.errors + report.warnings, str(report)
    assert report.backend == "compiled"


@pytest.mark.parametrize("env", [Sound, Sound(), clockwork, clockwork_box, clockwork()])
def test_toys_are_sound(env: Any) -> None:
    report = check_env(env, num_steps=STEPS)
    assert not [finding for _, finding in report.findings if finding.check != "end-once"], str(report)


# ── compiled ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_compiled_environment_with_faults() -> None:
    for part, check in (("reward", "reward-finite"), ("obs", "observation-finite")):
        assert [f.check for f in check_env(fragile(0.9, part), num_steps=60).errors] == [check]
    fine = toy_lengths()
    assert not check_env(fine, num_steps=100).findings

    def step(key: Any, state: Any, action: Any) -> Any:
        state, answer = fine.step(key, state, action)
        return state, answer._replace(reward=answer.reward[None], terminated=jnp.float32(0))

    wrong = check_env(time_limit(Env("Wrong-v0", fine.observation_space, fine.action_space, fine.reset, step), 6), num_steps=100)
    assert sorted(f.check for f in wrong.errors) == ["end-flags", "reward-number"]
    endless = Env(
        "Endless-v0",
        fine.observation_space,
        fine.action_space,
        fine.reset,
        lambda k, s, a: (s, fine.step(k, s, a)[1]._replace(truncated=jnp.bool_(False), terminated=jnp.bool_(False))),
    )
    assert "policygrad.envs.time_limit" in next(f for f in check_env(endless, num_steps=30).warnings if f.check == "end-reached").expected


def test_every_step_of_a_compiled_environment_draws_anew() -> None:
    def step(key: Any, state: Any, action: Any) -> Any:
        return state, Step(state, jax.random.uniform(key), jnp.bool_(False), jnp.bool_(False))

    env = time_limit(Env("Noise-v0", ours.Discrete(1), ours.Discrete(2), lambda key: (jnp.int32(0), jnp.int32(0)), step), 5)
    played = record.recorded(source_of(env), Budget(num_steps=20))
    assert len({float(step.reward) for _, _, step in played.steps()}) == 20


@pytest.mark.parametrize(
    "space",
    [PARTS, Discrete(3, start=2), MultiDiscrete([[2, 3], [4, 5]], start=[[0, 1], [0, 0]]), MultiBinary((2, 3)), Box(-1, np.inf, (2, 2))],
)
def test_spaces_go_there_and_back(space: Any) -> None:
    assert to_gymnasium(from_gymnasium(space)) == space


# ── the call, the record, the report ─────────────────────────────────────────────────────────────────────────────────


def test_a_ready_environment_is_left_as_it_was_and_open() -> None:
    class Watched(Sound):
        closed = False

        def close(self) -> None:
            self.closed = True

    env = Watched()
    drawn = env.action_space.np_random.bit_generator.state
    check_env(gymnasium.wrappers.TimeLimit(env, 20), num_steps=50)
    assert env.action_space.np_random.bit_generator.state == drawn
    assert not env.closed
    assert not {"reset", "step"} & set(vars(env))


def test_what_names_an_environment() -> None:
    assert check_env("CartPole-v1", num_steps=20).backend == "gymnasium"
    assert check_env("Bandit-v0", num_steps=20).backend == "compiled"
    assert check_env(make(clockwork), num_steps=20).name == "clockwork"
    assert check_env("rollout.toys:CartPole-v1", num_steps=20).name == "rollout.toys:CartPole-v1"
    assert check_env("CartPole-v1", env_args={"max_episode_steps": 7}, num_steps=20).facts["time_limit"] == 7


MISUSE = {
    "unknown": (("Cartpole-v1",), {}, UnknownNameError, r"^unknown environment 'Cartpole-v1': did you mean [^\n]*CartPole-v1"),
    "module": (("no_such_module:Maze-v0",), {}, UsageError, r"^environment no_such_module:Maze-v0: No module named 'no_such_module'$"),
    "only compiled": (("Bandit-v0",), {"backend": "gymnasium"}, UsageError, r"^environment Bandit-v0 exists only compiled: "),
    "arguments": (("CartPole-v1",), {"env_args": {"wheels": 3}}, UsageError, r"^environment CartPole-v1 does not take these arguments: "),
    "arguments of a function": ((Sound,), {"env_args": {"wheels": 3}}, UsageError, r"^env_args go with the name of an environment"),
    "backend": (("CartPole-v1",), {"backend": "gym"}, UnknownNameError, r"^unknown backend 'gym': did you mean gymnasium\?$"),
    "compiled function": ((Sound,), {"backend": "compiled"}, UsageError, r"^backend 'compiled' needs a name or an Env; got type$"),
    "nothing": ((None,), {}, UsageError, r"^no environment: got NoneType without observation_space; "),
    "made of nothing": ((lambda: None,), {}, UsageError, r"^environment <lambda>: got NoneType without observation_space; "),
    "steps": ((Sound,), {"num_steps": 0}, UsageError, r"^num_steps: got 0; "),
    "episodes": ((Sound,), {"num_episodes": 0}, UsageError, r"^num_episodes: got 0; "),
    "seconds": ((Sound,), {"seconds": 0}, UsageError, r"^seconds: got 0; "),
    "seed": ((Sound,), {"seed": -1}, UsageError, r"^seed: got -1; "),
}


@pytest.mark.parametrize(("arguments", "options", "error", "line"), MISUSE.values(), ids=MISUSE)
def test_misuse_is_one_line(arguments: tuple, options: dict, error: type, line: str) -> None:
    with pytest.raises(error, match=line) as caught:
        check_env(*arguments, **options)
    assert "\n" not in str(caught.value)


def test_vectors_are_asked_for_one_of_theirs() -> None:
    vector = gymnasium.vector.SyncVectorEnv([Sound])
    with pytest.raises(UsageError, match=r"^got a VectorEnv: pass one of its environments, or a function that makes one$"):
        check_env(vector)
    with pytest.raises(UsageError, match=r"^SyncVectorEnv: got what make returned for a vector; "):
        check_env(make(vector))


def test_the_record_keeps_what_was_answered() -> None:
    played = record.recorded(sources.from_factory(Sound), Budget(num_steps=100), seed=3)
    assert played.num_steps == 100
    assert played.stopped == "steps"
    assert [episode.number for episode in played.series] == list(range(1, len(played.series) + 1))
    env = Sound()
    for episode in played.series:
        obs, _ = env.reset(seed=3) if episode.number == 1 else env.reset()
        np.testing.assert_array_equal(obs, episode.obs)
        for step in episode.steps:
            obs, reward, terminated, truncated, _ = env.step(step.action)
            np.testing.assert_array_equal(obs, step.obs)
            assert (reward, terminated, truncated) == (step.reward, step.terminated, step.truncated)
    actions = [step.action for step in played.series[0].steps]
    for again in (*played.again, played.fresh, *played.others, *played.unseeded):
        assert again is not None
        assert [step.action for step in again.steps] == actions[: len(again.steps)]
    assert {type(action) for action in actions} == {np.int64}
    repeated = record.recorded(sources.from_factory(Sound), Budget(num_steps=100), seed=3)
    assert [step.action for _, _, step in repeated.steps()] == [step.action for _, _, step in played.steps()]
    other = record.recorded(sources.from_factory(Sound), Budget(num_steps=100), seed=4)
    assert not np.array_equal(other.series[0].obs, played.series[0].obs)


def test_budgets() -> None:
    def stopped(**budget: Any) -> tuple[str, int, int]:
        played = record.recorded(sources.from_factory(broken("Kind", ends=lambda self: (False, self.t >= 10))), Budget(**budget))
        return played.stopped, len(played.series), played.num_steps

    assert stopped(num_steps=25) == ("steps", 3, 25)
    assert stopped(num_episodes=2) == ("episodes", 2, 20)
    assert stopped(num_bytes=8 * 15) == ("memory", 2, 14)
    assert stopped(seconds=1e-9)[0] == "time"


def test_checks_stand_alone() -> None:
    """A record made by hand is enough."""
    step = record.Step(0, 0, 1.0, False, False, {})
    last = step._replace(terminated=True)
    episodes = tuple(record.Episode(i + 1, 0, {}, [step] * 9 + [last], True, "ended") for i in range(5))
    by_hand = record.Record("x", "gymnasium", Discrete(2), Discrete(2), None, (), episodes, (), None, (), (), (), "episodes", 1.0)
    assert [f.severity for f in ends.end_by_limit(by_hand) or []] == ["warning"]
    assert ends.end_in_time(by_hand) is None
    fewer = record.Record("x", "gymnasium", Discrete(2), Discrete(2), 9, (), episodes[:4], (), None, (), (), (), "episodes", 1.0)
    assert ends.end_by_limit(fewer) == []
    assert [f.severity for f in ends.end_in_time(fewer) or []] == ["warning"]


def test_copies_and_comparisons() -> None:
    tree = {"a": (np.zeros(2), [1]), "b": "x"}
    twin = record.copied(tree)
    assert record.same(tree, twin)
    tree["a"][0][1] = 1
    assert not record.same(tree, twin)
    assert record.same(np.array([np.nan, 1]), np.array([np.nan, 1]))
    assert not record.same(np.array([np.nan, 1]), np.array([0.0, 1]))
    assert not record.same({"a": 1}, {"b": 1})
    assert not record.same((1, 2), (1,))
    assert not record.same(np.zeros(2), np.zeros((1, 2)))
    assert [record.kind(value) for value in (None, 1, [], np.zeros(1), np.float32(1))] == [
        "None",
        "an int",
        "a list",
        "an ndarray of shape (1,)",
        "a float32",
    ]


def test_the_report_reads_and_parses() -> None:
    report = check_env(broken("Kind", reward=lambda self: float("nan"), observe=lambda self: self.place), num_steps=100)
    text = report.text(80)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert text == report.text(80).rstrip()
    assert "\n  ✓ nothing was raised\n" in text
    assert "\n  ✗ error: the reward is nan (first in episode 1, step 1; in all 100 steps)\n      Expected a finite number;" in text
    assert "\n  ! warning: the observation is of float64" in text
    assert text.splitlines()[-2].startswith("1 error, 1 warning: training would crash")
    assert not report.ok
    values = report.as_dict()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert (values["env"], values["ok"], values["errors"], values["warnings"], values["steps"]) == ("Kind", False, 1, 1, 100)
    assert {"severity", "check", "group", "seen", "expected", "episode", "step", "times"} == set(values["findings"][0])
    assert {*(one["check"] for one in values["passed"]), *(one["check"] for one in values["findings"])} <= {
        check.name for check in checks.CHECKS
    }
    assert not {one["check"] for one in values["passed"]} & {one["check"] for one in values["findings"]}
    rounded = check_env(broken("Kind", observe=lambda self: self.place), num_steps=100)
    assert rounded.ok
    assert rounded.text().splitlines()[-1].startswith("No errors, 1 warning: it can be trained on")
    assert str(check_env(Sound, num_steps=20)).endswith("\nNo errors, no warnings.")


def test_every_check_has_a_name_of_its_own() -> None:
    names = [check.name for check in checks.CHECKS]
    assert len(names) == len(set(names))
    groups = [check.group for check in checks.CHECKS]
    assert groups == sorted(groups, key=groups.index), "the checks of a group stand together"
