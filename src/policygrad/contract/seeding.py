"""What seeds do, and what is left from one episode to the next."""

from __future__ import annotations

from policygrad.contract.record import Episode, Record, first_difference
from policygrad.contract.report import Finding
from policygrad.contract.words import (
    Findings,
)

SEEDED = "Draw everything from self.np_random, which super().reset(seed=seed) seeds; never from random or np.random themselves."


def seed_repeats(record: Record) -> Findings:
    """The same seed and the same actions give the same episode."""
    first = _replayed(record)
    if first is None:
        return [Finding("skipped", "whether a seed gives the same episode again: there was no episode to repeat")]
    if "seed" in record.not_taken:
        return [Finding("skipped", "whether a seed gives the same episode again: reset() takes none")]
    parted = _unrepeated(record, first)
    if parted is None:
        return []
    seen = f"two resets with the same seed, and the same actions, give different episodes: they part {_at(parted)}"
    return [Finding("error", seen, f"Expected the very same; no run could be repeated. {SEEDED}")]


def _unrepeated(record: Record, first: Episode) -> int | None:
    """Where episodes of one seed part though both had the same past; None where they do not."""
    if record.fresh is not None:
        return first_difference(first, record.fresh)
    once, twice = record.again
    return first_difference(once, twice) if first_difference(first, once) is not None else None


def seed_forgets(record: Record) -> Findings:
    """An episode does not depend on the ones before it."""
    first = _replayed(record)
    if first is None or not record.again or _unrepeated(record, first) is not None:
        return None
    parted = first_difference(first, record.again[0])
    if parted is None:
        return []
    seen = f"the episode after reset(seed=…) depends on what was played before: it parts from the first one {_at(parted)}"
    return [Finding("error", seen, "Something is left from earlier episodes; set every attribute anew in reset().")]


def seed_restarts(record: Record) -> Findings:
    """reset() without a seed goes on to new episodes."""
    first = _replayed(record)
    if first is None or not record.unseeded or not _random(record, first) or seed_repeats(record) or seed_forgets(record):
        return None
    one, *more = record.unseeded
    if any(first_difference(one, other) is not None for other in more):
        return []
    seen = "reset() without a seed gives the same episode every time, though other seeds give others: the generator starts anew each time"
    fix = "Call super().reset(seed=seed), which keeps the generator where seed is None; training resets without a seed."
    return [Finding("warning", seen, fix)]


def seed_matters(record: Record) -> Findings:
    """Other seeds give other episodes, where anything is random."""
    first = _replayed(record)
    if first is None or not record.others or seed_repeats(record) or seed_forgets(record):
        return None
    if _random(record, first):
        return []
    if any(first_difference(record.unseeded[0], other) is not None for other in record.unseeded[1:]):
        seen = "every seed gives the same episode, though reset() without a seed gives others"
        return [Finding("warning", seen, f"Different seeds should begin differently. {SEEDED}")]
    return [Finding("note", "every seed gives the same episode: the environment looks deterministic", "")]


def _random(record: Record, first: Episode) -> bool:
    return any(first_difference(first, other) is not None for other in record.others)


def _replayed(record: Record) -> Episode | None:
    return record.series[0] if record.series and record.series[0].started else None


def _at(step: int) -> str:
    return f"at step {step}" if step else "at the first observation"
