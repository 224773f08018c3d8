"""Calls, answers and spaces."""

from __future__ import annotations

from typing import Any

import numpy as np

from policygrad.contract.record import Record
from policygrad.contract.report import Finding
from policygrad.contract.words import (
    Findings,
    is_a,
    leaves,
    of_part,
    space_text,
)
from policygrad.errors import SpaceError
from policygrad.spaces import from_gymnasium

WIDE, NARROW = 10.0, 0.1
"""Half-widths of action boxes between which a policy that begins with σ near 1 needs no rescaling."""


def reset_arguments(record: Record) -> Findings:
    """reset(seed=…, options=…) can be called."""
    if not record.not_taken:
        return []
    names = " and no ".join(f"`{name}`" for name in record.not_taken)
    fix = "write def reset(self, *, seed=None, options=None) and begin it with super().reset(seed=seed)"
    return [Finding("error", f"reset() takes no {names}", f"Training calls reset(seed=…), and Gymnasium's wrappers pass both; {fix}.")]


def incidents(what: str, severity: Any, expected: str, record: Record) -> list[Finding]:
    """Incidents of one kind, one finding for each text."""
    found: dict[str, Finding] = {}
    for incident in record.incidents:
        if incident.kind == what:
            before = found.get(incident.text)
            times = 1 if before is None or before.times is None else before.times + 1
            first = before or Finding(severity, incident.text, expected, incident.episode, incident.step)
            found[incident.text] = first._replace(times=times)
    return list(found.values())


RESET = "Expected a tuple (observation, info), info a dict; end reset() with return observation, {}."
STEP = "Expected a tuple of five: return observation, reward, terminated, truncated, info."
OLD = (
    "Expected five: return observation, reward, terminated, truncated, info. terminated says that the task itself ended (what follows is"
    " worth 0), truncated that it was cut, by a time limit say."
)
RAISED = "Correct the environment; training would stop here."
INFO = "Expected a dict; return {} where there is nothing to tell."
BUFFER = "Return a copy each time (self.buffer.copy()): who keeps observations would find them all alike. policygrad copies them itself."
ACTION = "Work on a copy of the action: who learns from it would learn from another one than was chosen."


def spaces_handled(record: Record) -> Findings:
    """policygrad has policies for these spaces."""
    found = []
    for role, space in (("observation", record.observation_space), ("action", record.action_space)):
        try:
            from_gymnasium(space, role)
        except SpaceError as error:
            seen, _, expected = str(error).partition("; ")
            found.append(Finding("error", seen, expected[:1].upper() + expected[1:] + "." if expected else ""))
    for part, space in leaves(record.action_space):
        if is_a(space, "Box") and space.dtype.kind != "f":
            seen = f"unsupported action space{of_part(part)}: got {space_text(space)}"
            found.append(Finding("error", seen, "A Box of floats or a Discrete is handled; whole numbers are MultiDiscrete's."))
    return found


def action_scale(record: Record) -> Findings:
    """Actions that a policy can explore from its first step on."""
    found = []
    rescale = (
        "A policy begins near 0 with a standard deviation near 1: gymnasium.wrappers.RescaleAction(env, -1, 1) helps, or initial_sigma."
    )
    for part, space in leaves(record.action_space):
        name = f"actions{of_part(part)}"
        if is_a(space, "Discrete") and space.n == 1:
            found.append(Finding("warning", f"{name} are {space_text(space)}: there is nothing to choose", "Expected two or more actions."))
        if not is_a(space, "Box") or space.dtype.kind != "f":
            continue
        low, high = np.asarray(space.low, np.float64), np.asarray(space.high, np.float64)
        if not (np.isfinite(low) & np.isfinite(high)).all():
            bound = "Bounds say what size actions should have; where the task has none, choose some and clip to them."
            found.append(Finding("note", f"{name} are unbounded", bound))
            continue
        half, middle = (high - low) / 2, (high + low) / 2
        if (half > WIDE).any() or (half < NARROW).any() or (np.abs(middle) > half).any():
            found.append(Finding("note", f"{name} lie in [{low.min():g}, {high.max():g}]", rescale))
    return found
