"""Action masks."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from policygrad.contract.record import MASK, Record, choices, flat_mask, kind
from policygrad.contract.report import Finding
from policygrad.contract.words import (
    Findings,
    Tally,
    counted,
    is_a,
)


def mask_fits(record: Record) -> Findings:
    """Every mask has an entry for each alternative, and leaves one."""
    masks = list(_masks(record))
    if all(mask is None for _, _, _, mask in masks):
        return None
    counts = choices(record.action_space)
    total, last = sum(counts), {(episode.number, len(episode.steps)) for episode in record.ended}
    tally = Tally()
    for episode, step, where, mask in masks:
        over = (episode, step) in last
        flat = flat_mask(mask)
        if mask is None:
            if not over and not (step == 0 and record.backend == "compiled"):  # whose resets have no info
                seen = f"{where} is missing, though other steps have one"
                tally.add("missing", partial(Finding, "error", seen, "Expected a mask with every reset and every step.", episode, step))
        elif flat is None or (counts and flat.shape != (total,)):
            seen = f"{where} is {kind(mask)}" if flat is None else f"{where} has {counted(flat.size, 'entry')}"
            fix = f"Expected {total}, one for each alternative: 1 for those that are allowed, 0 for the others."
            tally.add("size", partial(Finding, "error", seen, fix, episode, step))
        elif counts and not over and not all(part.any() for part in np.split(flat, np.cumsum(counts)[:-1])):
            fix = "Expected at least one allowed action, or else the end of the episode the step before."
            tally.add("left", partial(Finding, "error", f"{where} leaves no action", fix, episode, step))
    return tally.findings(counted(len(masks), "mask"))


def _masks(record: Record) -> Iterator[tuple[int, int, str, Any]]:
    """(episode, step, where, mask) of every observation."""
    inside = is_a(record.observation_space, "Dict") and MASK in record.observation_space.spaces
    for episode in record.series:
        for step, (obs, info) in enumerate(zip(episode.all_obs, episode.all_infos, strict=True)):
            if inside:
                yield episode.number, step, f"observation[{MASK!r}]", obs.get(MASK) if isinstance(obs, dict) else None
            else:
                yield episode.number, step, f"info[{MASK!r}]", info.get(MASK)
