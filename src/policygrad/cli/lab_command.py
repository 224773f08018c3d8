"""`policygrad lab`: the laboratory's comparison as a table, a picture or JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from policygrad.cli.options import Option, fitted, make_parser, parse
from policygrad.cli.output import say, to_json
from policygrad.errors import UsageError

LAB_OPTIONS = {
    option.name: option
    for option in (
        Option("mdp", str, "the finite MDP: one of policygrad's own, or of Gymnasium's with tables, e.g. FrozenLake-v1", default="fork"),
        Option("num_trajectories", int, "trajectories of an update", default=2),
        Option("horizon", int, "steps of an episode; default is the MDP's time limit", metavar="H"),
        Option("out", str, "the folder for the picture; default is figures/lab/MDP", metavar="DIR"),
        Option("json", bool, "print everything as one JSON object, and nothing else, on stdout"),
    )
}
COLUMNS = (("bias", 8), ("/|∇J|", 8), ("variance", 10), ("/plain", 8), ("signal/noise", 14), ("cosine", 9), ("N for 0.9", 11))
NAMES = 41
"""Columns for the names of estimators."""


def lab(words: Sequence[str]) -> int:
    """`policygrad lab [--mdp NAME] …`"""
    options, rest = parse(lab_parser(), LAB_OPTIONS, words)
    if rest:
        raise UsageError(f"unexpected {rest[0]!r}: lab takes flags only; name the MDP with --mdp {rest[0]}")
    from policygrad import lab as laboratory

    mdp = laboratory.world(options.get("mdp", "fork"))
    horizon = options.get("horizon")
    try:
        with _quick_compilation():
            rows = laboratory.compare(mdp, num_trajectories=options.get("num_trajectories", 2), horizon=horizon)
    except UsageError as error:
        from policygrad.cli.commands import as_flags

        raise as_flags(error, LAB_OPTIONS) from error
    result = laboratory.report(mdp, rows, horizon=horizon)
    if options.get("json"):
        say(to_json(result))
    else:
        say(comparison_text(result))
    path = _drawn(result, Path(options.get("out", Path("figures") / "lab" / mdp.name)))
    if not options.get("json"):
        say(f"\nfigure: {path}")
    return 0


def lab_parser() -> Any:
    """The parser of `lab`."""
    description = (
        "Holds every estimator of the policy gradient against the exact one, on a finite MDP small enough to visit all that can happen: "
        "its exact bias and variance, the cosine of its mean to the true gradient, and how many trajectories bring the expected cosine "
        "to 0.9. Prints a table and draws the comparison."
    )
    return make_parser("policygrad lab [--mdp NAME] [options]", fitted(description), {"flags": LAB_OPTIONS.values()})


@contextmanager
def _quick_compilation() -> Iterator[None]:
    """Programs that run for milliseconds are not worth optimising for seconds."""
    import jax

    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)


def _drawn(result: dict[str, Any], folder: Path) -> Path:
    from policygrad.report.comparison import comparison

    mdp = result["mdp"]
    title = f"Estimators of the policy gradient on {mdp['name']}: exact bias and variance"
    return comparison(result["estimators"], folder / "comparison.png", title, f"{_sizes(result)}; a ring: no bias at all")


def _sizes(result: dict[str, Any]) -> str:
    mdp = result["mdp"]
    return (
        f"γ = {mdp['discount']:g}, episodes of at most {mdp['horizon']} steps, {result['num_trajectories']} an update: "
        f"{result['sequences']:,} trajectories, {result['batches']:,} batches, all of them visited"
    )


def comparison_text(result: dict[str, Any]) -> str:
    """The comparison for people, 112 columns wide."""
    from policygrad.lab import GROUPS

    mdp = result["mdp"]
    sizes = f"{mdp['name']}: {mdp['states']} states, {mdp['observations']} observations, {mdp['actions']} actions"
    length = math.hypot(*result["gradient"])
    lines = [
        f"{sizes}; {_sizes(result)}",
        f"J = {result['objective']:.6g}   |∇J| = {length:.6g}   π(a|o) = {_policy(result['policy'])}",
        *(["∇J is 0: there is nothing to estimate; take a longer horizon, or another MDP"] if length == 0 else []),
        "",
        " " * (NAMES + 2) + "".join(f"{name:>{width}}" for name, width in COLUMNS),
    ]
    group = None
    for row in result["estimators"]:
        if row["group"] != group:
            group = row["group"]
            lines.append(f"{group}: {GROUPS[group]}" if group in GROUPS else group)
        lines.append(_line(row))
    notes = [row for row in result["estimators"] if row["note"]]
    if notes:
        lines.append("")
        lines += [f"– {row['name']}: {row['note']}" for row in notes]
    return "\n".join(lines)


def _line(row: dict[str, Any]) -> str:
    name = f"  {row['name']:<{NAMES}}"
    if row["note"]:
        return f"{name}{'–':>{COLUMNS[0][1]}}"
    unbiased = row["unbiased"]
    cells = (
        "0" if unbiased else _figures(row["bias"]),
        "0" if unbiased else _share(row["relative_bias"]),
        _figures(row["variance"]),
        _figures(row["relative_variance"]),
        _figures(row["signal_to_noise"]),
        f"{row['cosine']:.3f}" if math.isfinite(row["cosine"]) else "–",
        "never" if row["trajectories"] == math.inf else f"{math.ceil(row['trajectories']):,}",
    )
    return name + "".join(f"{cell:>{width}}" for cell, (_, width) in zip(cells, COLUMNS, strict=True))


def _figures(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "–"


def _share(value: float) -> str:
    return f"{value:.1%}" if math.isfinite(value) else "–"


def _policy(table: Sequence[Sequence[float]]) -> str:
    rows = [" ".join(f"{p:.2f}" for p in row) for row in table[:4]]
    return " | ".join(rows) + (" | …" if len(table) > 4 else "")
