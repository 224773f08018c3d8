"""How episodes end."""

from __future__ import annotations

from functools import partial

import numpy as np

from policygrad.contract.record import OLD_LIMIT, Record, kind
from policygrad.contract.report import Finding
from policygrad.contract.words import (
    Findings,
    Tally,
    counted,
)

SAME_LENGTH, FEW = 10, 5
"""Episodes that all terminate after the same number of steps look cut where they are at least so long (tasks of a few steps may be so),
and so many."""


def end_flags(record: Record) -> Findings:
    """terminated and truncated are booleans."""
    tally = Tally()
    for episode, step, answer in record.steps():
        for name in ("terminated", "truncated"):
            flag = getattr(answer, name)
            if isinstance(flag, bool) or (getattr(flag, "shape", None) == () and np.asarray(flag).dtype == bool):
                continue
            severity = "warning" if isinstance(flag, int | np.integer) and flag in (0, 1) else "error"
            seen = f"{name} is {flag!r}" if isinstance(flag, int | float | str) else f"{name} is {kind(flag)}"
            tally.add(
                (name, type(flag), severity), partial(Finding, severity, seen, "Expected True or False; return bool(…).", episode, step)
            )
    return tally.findings(counted(record.num_steps, "step"))


def end_once(record: Record) -> Findings:
    """An episode ends in one of two ways."""
    both = [(e, t) for e, t, answer in record.steps() if bool(np.any(answer.terminated)) and bool(np.any(answer.truncated))]
    if not both:
        return []
    fix = "terminated then wins: what follows is worth 0. That is right where the task itself ended in the last step before the limit."
    return [Finding("note", "terminated and truncated are both True", fix, *both[0], len(both), counted(len(record.ended), "episode"))]


def end_reached(record: Record) -> Findings:
    """Episodes end."""
    if record.ended or not any(episode.end == "cut" for episode in record.series):
        return [] if record.ended else None
    longest = max(len(episode.steps) for episode in record.series)
    if record.time_limit is not None and longest > record.time_limit:
        return None  # `end_in_time` tells
    if record.time_limit is not None:
        seen = f"no episode ended: the time limit of {record.time_limit:,} steps lies beyond the {counted(record.num_steps, 'step')} played"
        return [Finding("skipped", seen, "Ask for more steps (--num-steps).")]
    seen = f"no episode ended in {counted(record.num_steps, 'step')}, and there is no time limit"
    fix = "Algorithms of whole episodes wait for their end: pass max_episode_steps (--env-args max_episode_steps=1000)."
    if record.backend == "compiled":
        fix = "Algorithms of whole episodes wait for their end: use policygrad.envs.time_limit(env, 1000)."
    return [Finding("warning", seen, fix)]


def end_by_limit(record: Record) -> Findings:
    """A time limit says truncated, not terminated."""
    old = [
        (e, t, answer)
        for e, t, answer in record.steps()
        if answer.info.get(OLD_LIMIT) is not None and np.any(answer.info[OLD_LIMIT]) and np.any(answer.terminated)
    ]
    fix = "Return truncated=True instead, or V is learnt to be 0 where episodes are only cut."
    if old:
        seen = f"info[{OLD_LIMIT!r}] is True where terminated is, too: a time limit in the style before Gymnasium 0.26"
        return [Finding("error", seen, fix, old[0][0], old[0][1], len(old), counted(len(record.ended), "episode"))]
    lengths = {len(episode.steps) for episode in record.ended}
    terminated = all(not np.any(episode.steps[-1].truncated) for episode in record.ended)
    if len(record.ended) >= FEW and terminated and len(lengths) == 1 and min(lengths) >= SAME_LENGTH:
        (length,) = lengths
        seen = f"all {len(record.ended):,} episodes terminated after exactly {length:,} steps: that looks like a time limit"
        return [Finding("warning", seen, f"{fix} It is right as it is where the observation holds the time that is left.")]
    return [] if record.ended else None


def end_in_time(record: Record) -> Findings:
    """No episode is longer than the time limit that the environment says it has."""
    limit = record.time_limit
    if limit is None or not record.series:
        return None
    longer = [episode for episode in record.series if len(episode.steps) > limit]
    if not longer:
        return []
    seen = f"its spec says that episodes are cut after {limit:,} steps, but one went on for {max(len(one.steps) for one in longer):,}"
    return [Finding("warning", seen, "Wrap it in gymnasium.wrappers.TimeLimit, or make it with gymnasium.make.", longer[0].number)]
