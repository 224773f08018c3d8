"""What goes to stdout: results as text for people, or as strict JSON for programs."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import textwrap
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np

from policygrad.cli.options import width
from policygrad.errors import RunError


def say(text: str) -> None:
    """Prints on stdout at once. A reader that has gone away (`policygrad list | head -1`) is no error.

    Raises:
        RunError: stdout cannot be written, because the disk is full, say.
    """
    try:
        print(text, flush=True)
    except BrokenPipeError:
        _abandon_stdout()
    except OSError as error:
        _abandon_stdout()
        raise RunError(f"stdout cannot be written: got {error.strerror or error}; send it elsewhere") from None


def _abandon_stdout() -> None:
    """Sends what is still buffered nowhere: Python would otherwise fail once more, and loudly, when it ends."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def to_json(value: Any) -> str:
    """One line of strict JSON; numbers that are not finite become null."""
    return json.dumps(_strict(value), allow_nan=False)


def _strict(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    if hasattr(value, "tolist"):  # NumPy's numbers and arrays
        return _strict(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def number(value: float) -> str:
    """A return, in a few characters whatever its scale: 0.591, 41.25, 500, -1,204."""
    if not math.isfinite(value):
        return "–"
    size = abs(value)
    places = 0 if value == round(value) or size >= 10_000 else 3 if size < 10 else 2 if size < 100 else 1
    return f"{value:,.{places}f}"


def rows(pairs: Iterable[tuple[str, str]]) -> str:
    """Label and text, the text in one column, wrapped."""
    lines = []
    for label, text in pairs:
        wrapped = textwrap.wrap(text, width() - 17, break_long_words=False, break_on_hyphens=False) or [""]
        lines += [f"  {label:<13}  {wrapped[0]}".rstrip(), *(" " * 17 + line for line in wrapped[1:])]
    return "\n".join(lines)


def run_text(run: Any) -> str:
    """A run's result for people."""
    result = run.result()
    several = len(result["seeds"]) > 1
    seeds = f"{len(result['seeds'])} seeds" if several else f"seed {result['seeds'][0]}"
    head = (
        f"{result['algorithm']} on {result['env']} ({result['backend']}): {result['num_steps']:,} steps"
        f"{' each' if several else ''}, {_count(result['num_envs'], 'environment')}, {seeds}"
    )
    pairs = [("final return", _final(result["final_return"], run.reward_threshold, why="failed" if run.failures else "no episode ended"))]
    if any(seed.evaluation_steps is not None for seed in run.seeds):
        pairs.append(("at its best", _final(result["return_at_best"], None, why="no evaluation") + _best_at(run)))
    if run.reward_threshold is not None:
        pairs.append(("solved at", _solved(result["steps_to_solve"])))
    speed = f"{result['steps_per_second']:,.0f} steps/s"
    pairs.append(("speed", f"{speed}; ran {result['run_seconds']:.1f} s, compiled {result['compile_seconds']:.1f} s"))
    if run.interrupted:
        pairs.append(("interrupted", "everything up to here is kept"))
    return f"{head}\n{rows(pairs)}"


def _final(returns: Sequence[float | None], threshold: float | None, why: str) -> str:
    known = [value for value in returns if value is not None and math.isfinite(value)]
    if not known:
        return f"–  ({why})"
    notes = []
    if len(returns) > 1:
        span = f", from {number(min(known))} to {number(max(known))}" if len(known) > 1 else ""
        notes.append(f"mean of {_count(len(known), 'seed')}{span}")
    if threshold is not None:
        notes.append(f"solved means {number(threshold)}")
    return number(fmean(known)) + (f"  ({'; '.join(notes)})" if notes else "")


def _best_at(run: Any) -> str:
    """When the best evaluation of a single seed was."""
    (seed, *others) = run.seeds
    if others or seed.best_policy is None or seed.error:
        return ""
    at = seed.evaluation_steps[int(np.nanargmax(seed.evaluation_means))]
    return f"  (mode actions, mean of {_count(seed.evaluation_returns.shape[1], 'episode')}, at {at:,} steps)"


def _solved(steps: Sequence[int | None]) -> str:
    known = [value for value in steps if value is not None]
    if not known:
        return "–  (not solved)"
    text = f"{median(known):,.0f} steps"
    if len(steps) > 1:
        who = f"{len(steps)} seeds" if len(known) == len(steps) else f"the {len(known)} of {len(steps)} seeds that solved it"
        span = f", from {min(known):,} to {max(known):,}" if len(known) > 1 else ""
        text += f"  (median of {who}{span})"
    return text


def files_text(run_dir: Path | None) -> str:
    """Where a run and its figures are."""
    if run_dir is None:
        return ""
    pairs = [("run", str(run_dir))]
    drawn = sorted(path for path in (run_dir / "figures").glob("*") if path.is_file())
    pairs += [("figures" if index == 0 else "", str(path)) for index, path in enumerate(drawn)]
    return rows(pairs)


def evaluation_head(evaluation: Any, sample: bool) -> str:
    """What the evaluations of a run have in common."""
    actions = "sampled actions" if sample else "likeliest actions"
    return f"{evaluation.env} ({evaluation.backend}): {_count(len(evaluation.returns), 'episode')}, {actions}"


def evaluation_text(label: str, evaluation: Any) -> str:
    """Mean, interval and every return of one policy, in order; equal neighbours as 500 ×7."""
    low, high = evaluation.interval
    head = f"  {label:<11}  {number(evaluation.mean)}  (95 % interval {number(low)} to {number(high)})"
    runs = [(value, len(list(same))) for value, same in groupby(evaluation.returns.tolist())]
    text = " ".join(number(value) + (f"\0×{times}" if times > 1 else "") for value, times in runs)  # \0: no line break there
    lines = textwrap.wrap(text, width() - 4, break_long_words=False, break_on_hyphens=False)
    return "\n".join([head, *("    " + line.replace("\0", " ") for line in lines)])


def names_text(title: str, names: Sequence[str]) -> str:
    """A heading, and names below it in as many lines as they need."""
    lines = textwrap.wrap("  ".join(names), width() - 2, break_long_words=False, break_on_hyphens=False)
    return "\n".join([title, *("  " + line for line in lines or ["(none)"])])


def table_text(title: str, table: dict[str, str]) -> str:
    """A heading, and below it a name and a sentence a line."""
    column = max(map(len, table)) + 2
    lines = [title]
    for name, text in table.items():
        wrapped = textwrap.wrap(text, max(20, width() - 2 - column))
        lines += [f"  {name:<{column}}{wrapped[0] if wrapped else ''}", *(" " * (column + 2) + line for line in wrapped[1:])]
    return "\n".join(lines)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
