"""Rewards and returns."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np

from policygrad.contract.record import Episode, Record, kind
from policygrad.contract.report import Finding
from policygrad.contract.words import (
    Findings,
    Tally,
    counted,
    figure,
)

LARGE_REWARD, LARGE_RETURN = 1e4, 1e6
FEW = 5
"""Episodes that say that all are alike."""


def reward_numbers(record: Record) -> Findings:
    """Every reward is a number."""
    tally = Tally()
    for episode, step, answer in record.steps():
        if as_number(answer.reward) is None:
            fix = "Expected a number; return float(reward)."
            if np.shape(answer.reward):
                fix = "Expected a single number; return float(reward), or the sum of its parts."
            seen = f"the reward is {kind(answer.reward)}"
            tally.add(seen, partial(Finding, "error", seen, fix, episode, step))
    return tally.findings(counted(record.num_steps, "step"))


def reward_finite(record: Record) -> Findings:
    """No reward is NaN or infinite."""
    if all(as_number(answer.reward) is None for _, _, answer in record.steps()):
        return None
    tally = Tally()
    for episode, step, answer in record.steps():
        reward = as_number(answer.reward)
        if reward is not None and not math.isfinite(reward):
            fix = "Expected a finite number; look for a logarithm or a division by 0."
            tally.add("", partial(Finding, "error", f"the reward is {reward}", fix, episode, step))
    return tally.findings(counted(record.num_steps, "step"))


def reward_scale(record: Record) -> Findings:
    """Rewards and returns that gradients can live with."""
    rewards = _rewards(record)
    if not rewards:
        return None
    episode, step, most = max(rewards, key=lambda one: abs(one[2]))
    fix = "The gradient grows with it: divide rewards by a constant, or --normalize-rewards."
    if abs(most) > LARGE_REWARD:
        times = sum(abs(reward) > LARGE_REWARD for _, _, reward in rewards)
        seen = f"rewards reach {figure(most)}, and {times:,} of {len(rewards):,} are larger than {LARGE_REWARD:,.0f}"
        return [Finding("warning", seen, fix, episode, step)]
    returns = [(return_of(one), one.number) for one in record.series]
    value, number = max(((value, number) for value, number in returns if value is not None), key=lambda one: abs(one[0]), default=(0.0, 0))
    if abs(value) > LARGE_RETURN:
        return [Finding("warning", f"returns reach {figure(value)}", fix, number)]
    return []


def reward_seen(record: Record) -> Findings:
    """Rewards differ, so that there is something to learn from."""
    values = [reward for _, _, reward in _rewards(record)]
    if not values or not (record.ended or record.stopped == "steps"):
        return None
    if not any(values):
        seen = f"no reward was seen: it was 0 in all {counted(len(values), 'step')}"
        fix = "Random actions must find some, or there is nothing to learn from: reward progress too, or start nearer to the goal."
        return [Finding("warning", seen, fix)]
    returns = {return_of(episode) for episode in record.ended}
    if len(record.ended) >= FEW and len(returns) == 1:
        seen = f"every episode returned {figure(returns.pop() or 0.0)}, whatever the actions"
        return [Finding("note", seen, "Until some actions return more than others there is nothing to learn from.")]
    return []


def _rewards(record: Record) -> list[tuple[int, int, float]]:
    """(episode, step, reward) of those that are finite numbers."""
    return [
        (episode, step, reward)
        for episode, step, answer in record.steps()
        if (reward := as_number(answer.reward)) is not None and math.isfinite(reward)
    ]


def return_of(episode: Episode) -> float | None:
    """The sum of an episode's finite rewards; None where one is no number."""
    rewards = [as_number(step.reward) for step in episode.steps]
    return None if None in rewards else math.fsum(r for r in rewards if r is not None and math.isfinite(r))


def as_number(reward: Any) -> float | None:
    """A reward as a float; None where it is no single number."""
    if isinstance(reward, bool | int | float | np.bool_ | np.number) and not isinstance(reward, np.complexfloating):
        return float(reward)
    if getattr(reward, "shape", None) == () and np.asarray(reward).dtype.kind in "iubf":
        return float(reward)
    return None
