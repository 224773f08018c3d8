"""Observations against their space."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from policygrad.contract.record import Record, contains, kind
from policygrad.contract.report import Finding
from policygrad.contract.words import (
    Findings,
    Tally,
    counted,
    figure,
    is_a,
    is_array,
    of_part,
    space_text,
    the_observation,
)

LARGE = 100.0
SLACK = 1e-4
"""Rounding to float32 in the environment's own arithmetic is no fault."""


class _Value(NamedTuple):
    """What an observation holds at a leaf of its space; `space` None where the two differ in structure, which `value` then tells."""

    part: str
    space: Any
    value: Any
    episode: int
    step: int


def _values(record: Record) -> Iterator[_Value]:
    for episode, step, obs in record.observations():
        for part, space, value in _walk(record.observation_space, obs, ""):
            yield _Value(part, space, value, episode, step)


def _walk(space: Any, obs: Any, part: str) -> Iterator[tuple[str, Any, Any]]:
    if is_a(space, "Dict"):
        if not hasattr(obs, "keys"):
            yield part, None, f"is {kind(obs)}, not a dict"
            return
        missing, more = [name for name in space.spaces if name not in obs], [name for name in obs if name not in space.spaces]
        if missing:
            yield part, None, f"lacks {', '.join(map(repr, missing))}"
        if more:
            yield part, None, f"has {', '.join(map(repr, more))}, which {'is' if len(more) == 1 else 'are'} not in its space"
        for name, inner in space.spaces.items():
            if name in obs:
                yield from _walk(inner, obs[name], f"{part}[{name!r}]")
    elif is_a(space, "Tuple"):
        if not isinstance(obs, tuple | list):
            yield part, None, f"is {kind(obs)}, not a tuple"
        elif len(obs) != len(space.spaces):
            yield part, None, f"has {len(obs)} elements, not {len(space.spaces)}"
        else:
            for i, inner in enumerate(space.spaces):
                yield from _walk(inner, obs[i], f"{part}[{i}]")
    else:
        yield part, space, obs


def _seen(record: Record) -> str:
    return counted(sum(len(episode.all_obs) for episode in record.series), "observation")


def observation_parts(record: Record) -> Findings:
    """Dict and Tuple observations have the parts that their space says."""
    if not (is_a(record.observation_space, "Dict") or is_a(record.observation_space, "Tuple")):
        return None
    tally = Tally()
    expected = "Expected the very parts of observation_space; correct one of the two."
    for one in _values(record):
        if one.space is None:
            seen = f"{the_observation(one)} {one.value}"
            tally.add(seen, partial(Finding, "error", seen, expected, one.episode, one.step))
    return tally.findings(_seen(record))


def observation_shape(record: Record) -> Findings:
    """Every array has the shape that its space says."""
    tally = Tally()
    shapes: dict[str, set[Any]] = {}
    for one in _arrays(record):
        shapes.setdefault(one.part, set()).add(one.value.shape)
        if one.value.shape != one.space.shape:
            seen = f"{the_observation(one)} has shape {one.value.shape}, its space says {one.space.shape}"
            if one.value.dtype == object:
                seen = f"{the_observation(one)} is {kind(one.raw)} that makes no array of shape {one.space.shape}"
            fix = "Correct the observation or observation_space; they must agree in every step."
            tally.add(one.part, partial(Finding, "error", seen, fix, one.episode, one.step))
    found = tally.findings(_seen(record))
    return [
        finding._replace(seen=f"{finding.seen} (and it changes: {' and '.join(map(str, sorted(shapes[part])))})")
        if len(shapes[part]) > 1
        else finding
        for part, finding in zip(tally.first, found, strict=True)
    ]


def observation_dtype(record: Record) -> Findings:
    """Every array has numbers of the kind that its space says."""
    tally = Tally()
    dtypes: dict[str, Counter[str]] = {}
    for one in _arrays(record):
        if one.value.shape != one.space.shape:
            continue
        dtype, wanted = one.value.dtype, np.dtype(one.space.dtype)
        dtypes.setdefault(one.part, Counter())[str(dtype)] += 1
        discrete = is_a(one.space, "Discrete")
        numbers = discrete or isinstance(one.raw, np.ndarray | np.generic) or hasattr(one.raw, "dtype")
        if (np.can_cast(dtype, wanted) or (discrete and dtype.kind in "iub")) and numbers:
            continue
        lossless = dtype.kind in "iubf" and (np.can_cast(dtype, wanted, "same_kind") or (discrete and dtype.kind in "iub"))
        if not numbers:
            seen, fix = f"{the_observation(one)} is {kind(one.raw)}", f"Expected an array: return np.asarray(…, np.{wanted})."
        else:
            seen = f"{the_observation(one)} is of {dtype}, its space says {wanted}"
            fix = f"Return observation.astype(np.{wanted}), or correct the space" + (
                "; policygrad rounds to float32." if lossless else "; the numbers change on the way."
            )
        tally.add(one.part, partial(Finding, "warning" if lossless else "error", seen, fix, one.episode, one.step))
    found = tally.findings(_seen(record))
    return [
        finding._replace(seen=f"{finding.seen} (and it changes: {' and '.join(sorted(dtypes[part]))})")
        if len(dtypes[part]) > 1
        else finding
        for part, finding in zip(tally.first, found, strict=True)
    ]


def observation_finite(record: Record) -> Findings:
    """No NaN, no infinity."""
    tally = Tally()
    for one in _numbers(record):
        if one.value.dtype.kind == "f" and not np.isfinite(one.value).all():
            bad = one.value[~np.isfinite(one.value)][0]
            fix = "Expected finite numbers; look for a division by 0, or for physics that ran away, and end the episode before it."
            tally.add(one.part, partial(Finding, "error", f"{the_observation(one)} holds {bad}", fix, one.episode, one.step))
    return tally.findings(_seen(record))


def observation_bounds(record: Record) -> Findings:
    """Every observation lies in its space."""
    tally = Tally()
    for one in _numbers(record):
        outside = _outside(one.space, one.value)
        if outside:
            fix = "Expected an element of observation_space; widen the space, or correct what is observed."
            tally.add(one.part, partial(Finding, "error", f"{the_observation(one)} {outside}", fix, one.episode, one.step))
    for episode, step, obs in record.observations():
        for part, space, value in _walk(record.observation_space, obs, ""):
            if space is not None and not is_array(space) and not contains(space, value):
                fix = f"Expected an element of {space_text(space)}."
                seen = f"the observation{of_part(part)} lies outside its space"
                tally.add(part, partial(Finding, "error", seen, fix, episode, step))
    return tally.findings(_seen(record))


def observation_scale(record: Record) -> Findings:
    """Observations that a network can read as they are."""
    most: dict[str, np.ndarray] = {}
    for one in _numbers(record):
        if is_a(one.space, "Box") and one.space.dtype != np.uint8:
            with np.errstate(invalid="ignore"):
                size = np.abs(np.where(np.isfinite(one.value), one.value, 0.0))
            most[one.part] = np.maximum(most.get(one.part, 0.0), size)
    found = []
    for part, sizes in most.items():
        large = int((sizes > LARGE).sum())
        if large:
            which = "" if sizes.ndim == 0 else f"{counted(large, 'element')} of {sizes.size} of "
            seen = f"{which}the observation{of_part(part)} came to more than {LARGE:g}, the largest to {figure(float(sizes.max()))}"
            found.append(Finding("note", seen, "Networks learn from numbers near 1: --normalize-observations."))
    return found


class _Array(NamedTuple):
    part: str
    space: Any
    value: np.ndarray
    raw: Any
    episode: int
    step: int


def _arrays(record: Record) -> Iterator[_Array]:
    """The leaves whose elements are arrays of numbers."""
    for one in _values(record):
        if one.space is None or not is_array(one.space):
            continue
        try:
            value = np.asarray(one.value)
        except Exception:  # lists of unequal lengths
            value = np.array(None)
        yield _Array(one.part, one.space, value, one.value, one.episode, one.step)


def _numbers(record: Record) -> Iterator[_Array]:
    """Those of the right shape that are numbers."""
    for one in _arrays(record):
        if one.value.shape == one.space.shape and one.value.dtype.kind in "iubf":
            yield one


def _outside(space: Any, value: np.ndarray) -> str:
    """How a value lies outside its space; "" where it lies inside, or is not finite."""
    if is_a(space, "MultiBinary"):
        low, high = np.zeros(space.shape), np.ones(space.shape)
    elif is_a(space, "Box"):
        low, high = np.asarray(space.low, np.float64), np.asarray(space.high, np.float64)
    else:
        low = np.asarray(getattr(space, "start", 0), np.float64)
        high = low + np.asarray(space.n if is_a(space, "Discrete") else space.nvec) - 1
    slack = SLACK if is_a(space, "Box") else 0.0
    with np.errstate(invalid="ignore"):
        below, above = value < low - slack * (1 + np.abs(low)), value > high + slack * (1 + np.abs(high))
    bad = (below | above) & np.isfinite(value)
    if not bad.any():
        return ""
    where = tuple(int(i) for i in np.argwhere(bad)[0])
    at = f" at {list(where)}" if where else ""
    bound, side = (low, "least") if below[where] else (high, "most")
    limit = figure(float(np.broadcast_to(bound, value.shape)[where]))
    return f"lies outside its space: {figure(float(value[where]))}{at}, where it is at {side} {limit}"
