"""All checks, and what they say about a record.

A check is a pure function from a record to findings. It answers one question: [] where all is in order, None where the question
does not arise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from policygrad.contract.ends import end_by_limit, end_flags, end_in_time, end_once, end_reached
from policygrad.contract.interface import (
    ACTION,
    BUFFER,
    INFO,
    OLD,
    RAISED,
    RESET,
    STEP,
    action_scale,
    incidents,
    reset_arguments,
    spaces_handled,
)
from policygrad.contract.masks import mask_fits
from policygrad.contract.observations import (
    observation_bounds,
    observation_dtype,
    observation_finite,
    observation_parts,
    observation_scale,
    observation_shape,
)
from policygrad.contract.record import Record
from policygrad.contract.report import Finding, Passed, Report
from policygrad.contract.rewards import return_of, reward_finite, reward_numbers, reward_scale, reward_seen
from policygrad.contract.seeding import seed_forgets, seed_matters, seed_repeats, seed_restarts
from policygrad.contract.words import (
    Findings,
    counted,
    figure,
    space_text,
    span,
)


class Check(NamedTuple):
    """A question, and what to say where all is in order."""

    name: str
    group: str
    passed: str
    look: Callable[[Record], Findings]


def judged(record: Record) -> Report:
    """What all checks say about a record."""
    findings: list[tuple[str, Finding]] = []
    passed: list[Passed] = []
    for check in CHECKS:
        found = check.look(record)
        if found is None:
            continue
        findings += [(check.group, finding._replace(check=check.name)) for finding in found]
        if not found:
            passed.append(Passed(check.name, check.group, check.passed))
    groups = tuple(dict.fromkeys(check.group for check in CHECKS))
    return Report(record.name, record.backend, tuple(findings), tuple(passed), groups, *_facts(record))


def _facts(record: Record) -> tuple[tuple[tuple[str, str], ...], dict[str, Any]]:
    """What was played, for people and for programs."""
    lengths = [len(episode.steps) for episode in record.ended]
    returns = [return_of(episode) for episode in record.ended]
    speed = record.num_steps / record.seconds if record.num_steps and record.seconds else None
    why = {"time": "the time was up", "memory": "the memory for observations was full", "exceptions": "no episode could be begun any more"}
    played = f"{counted(len(record.series), 'episode')}, {counted(record.num_steps, 'step')} of random actions"
    if record.stopped in why:
        played += f" ({why[record.stopped]})"
    spaces = {role: space_text(getattr(record, f"{role}_space")) for role in ("observation", "action")}
    head = [("observations", spaces["observation"]), ("actions", spaces["action"]), ("played", played)]
    finite = [value for value in returns if value is not None and math.isfinite(value)]
    if lengths:
        lasted = f"{counted(len(lengths), 'whole one')}; steps {span(lengths)}"
        head.append(("episodes", lasted + (f"; returns {span(finite)}" if finite else "")))
    if speed:
        slow = ", one by one from Python: training compiles them" if record.backend == "compiled" else ", one environment"
        head.append(("speed", f"{figure(speed)} steps/s{slow}"))
    facts = {
        "observation_space": spaces["observation"],
        "action_space": spaces["action"],
        "time_limit": record.time_limit,
        "episodes": len(record.series),
        "whole_episodes": len(lengths),
        "steps": record.num_steps,
        "stopped_by": record.stopped,
        "mean_length": float(np.mean(lengths)) if lengths else None,
        "mean_return": float(np.mean(finite)) if finite else None,
        "steps_per_second": speed,
    }
    return tuple(head), facts


CHECKS: tuple[Check, ...] = (
    Check("reset-arguments", "interface", "reset() takes a seed and options", reset_arguments),
    Check("reset-answer", "interface", "reset() returns an observation and an info", partial(incidents, "reset", "error", RESET)),
    Check(
        "step-answer",
        "interface",
        "step() returns an observation, a reward, terminated, truncated and an info",
        lambda record: [*incidents("old step", "error", OLD, record), *incidents("step", "error", STEP, record)],
    ),
    Check("info", "interface", "every info is a dict", partial(incidents, "info", "error", INFO)),
    Check("exceptions", "interface", "nothing was raised", partial(incidents, "exception", "error", RAISED)),
    Check("buffer", "interface", "observations stay as they were given", partial(incidents, "buffer", "warning", BUFFER)),
    Check("action-changed", "interface", "actions are left as they are", partial(incidents, "action", "warning", ACTION)),
    Check("spaces", "spaces", "policygrad has policies for both spaces", spaces_handled),
    Check("action-scale", "spaces", "there is something to choose between", action_scale),
    Check("observation-parts", "observations", "every part is there, and no other", observation_parts),
    Check("observation-shape", "observations", "shapes are those of the space, in every step", observation_shape),
    Check("observation-dtype", "observations", "dtypes are those of the space, in every step", observation_dtype),
    Check("observation-finite", "observations", "no NaN and no infinity", observation_finite),
    Check("observation-bounds", "observations", "all lie within the space", observation_bounds),
    Check("observation-scale", "observations", "numbers are of a size that networks can read", observation_scale),
    Check("reward-number", "rewards", "every reward is a number", reward_numbers),
    Check("reward-finite", "rewards", "no NaN and no infinity", reward_finite),
    Check("reward-scale", "rewards", "rewards and returns are of a size that can be learnt from", reward_scale),
    Check("reward-seen", "rewards", "rewards were seen", reward_seen),
    Check("end-flags", "ends of episodes", "terminated and truncated are booleans", end_flags),
    Check("end-once", "ends of episodes", "an episode ends in one of the two ways", end_once),
    Check("end-reached", "ends of episodes", "episodes end", end_reached),
    Check("end-by-limit", "ends of episodes", "no time limit passes for a termination", end_by_limit),
    Check("end-in-time", "ends of episodes", "no episode is longer than the time limit", end_in_time),
    Check("seed-repeats", "seeding", "the same seed and actions give the same episode, to the bit", seed_repeats),
    Check("seed-forgets", "seeding", "nothing is left from earlier episodes", seed_forgets),
    Check("seed-restarts", "seeding", "reset() without a seed goes on to new episodes", seed_restarts),
    Check("seed-matters", "seeding", "other seeds give other episodes", seed_matters),
    Check("action-mask", "action masks", "every mask fits the actions and leaves one", mask_fits),
)
