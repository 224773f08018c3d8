"""`policygrad check-env`: does an environment keep its contract?"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from typing import Any

from policygrad.cli.options import Option, fitted, make_parser, parse, width
from policygrad.cli.output import say, to_json
from policygrad.cli.train_request import BACKENDS, ENV_ARGS, JSON
from policygrad.errors import UsageError
from policygrad.settings import MOST, count, whole

FOUND = 1
"""The exit code where errors were found."""

CHECK_OPTIONS = {
    option.name: option
    for option in (
        Option("num_steps", int, "steps of all episodes together, at most", default=10_000),
        Option("num_episodes", int, "episodes, at most", default=1_000),
        Option("seconds", float, "no step is begun after so long", default=30.0, metavar="S"),
        Option("seed", int, "of the first episode and of all actions", metavar="S", default=0),
        Option(
            "backend",
            None,
            "compiled: the environment in JAX; gymnasium: Gymnasium's own; auto takes Gymnasium's where it knows the id",
            BACKENDS,
            default="auto",
        ),
        ENV_ARGS,
        JSON,
    )
}


def check_env(words: Sequence[str]) -> int:
    """`policygrad check-env ID …`"""
    from policygrad.cli.commands import DONE, as_flags, registered

    options, rest = parse(check_env_parser(), CHECK_OPTIONS, words)
    if len(rest) != 1:
        got = f"got {' and '.join(map(repr, rest))}" if rest else "got none"
        raise UsageError(f"check-env takes one environment: {got}; write policygrad check-env CartPole-v1")
    given = {name: option.default for name, option in CHECK_OPTIONS.items()} | options
    try:
        count("num_steps", given["num_steps"], MOST)
        count("num_episodes", given["num_episodes"], MOST)
        whole("seed", given["seed"], 0, MOST)
        if not given["seconds"] > 0:
            raise UsageError(f"seconds: got {given['seconds']:g}; it must be a number above 0")
        with contextlib.redirect_stdout(sys.stderr):  # what the environment prints is no part of the report
            report = _report(registered(rest[0], "ID"), given)
    except UsageError as error:
        raise as_flags(error, CHECK_OPTIONS) from error
    say(to_json(report.as_dict()) if given["json"] else report.text(width()))
    return DONE if report.ok else FOUND


def _report(env: str, given: dict[str, Any]) -> Any:
    """Of Gymnasium's environments without JAX, which would take longer to import than they take to check."""
    import gymnasium

    from policygrad import contract

    if given["backend"] != "compiled" and env in gymnasium.registry:
        source = contract.from_id(env, given["env_args"])
    else:
        from policygrad.envs.contract import source_of

        source = source_of(env, given["env_args"], given["backend"])
    budget = contract.Budget(given["num_episodes"], given["num_steps"], given["seconds"])
    return contract.checked(source, budget, given["seed"])


def check_env_parser() -> Any:
    """The parser of `check-env`."""
    description = (
        "Plays episodes of random actions and tells what breaks Gymnasium's interface or would spoil learning: observations outside their "
        "space, rewards that are no numbers, time limits that pass for terminations, resets that ignore their seed, and more. ID is an id "
        "of Gymnasium's or of ours, or module:id for one that your module registers.\n\nEnds with 0 where there are no errors (warnings "
        "are allowed), with 1 where there are, with 2 where the environment cannot be made."
    )
    return make_parser("policygrad check-env ID [options]", fitted(description), {"flags": CHECK_OPTIONS.values()})
