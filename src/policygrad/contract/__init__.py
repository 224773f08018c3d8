"""The contract check: does an environment keep what Gymnasium's interface promises, and would anything in it spoil learning?

Without JAX, so that a look at a Gymnasium environment starts at once.

sources  one environment by id, function or instance, as often as it can be made
record   plays episodes of random actions and keeps all that the environment answered
report   what was found, in words and for programs
checks   the table of all checks; a check is a small pure function from a record to findings, in
         interface · observations · rewards · ends · seeding · masks; words  what they share
"""

from __future__ import annotations

from policygrad.contract.checks import CHECKS, judged
from policygrad.contract.record import Budget, recorded
from policygrad.contract.report import Finding, Report
from policygrad.contract.sources import Source, from_factory, from_id, from_instance

__all__ = ["CHECKS", "Budget", "Finding", "Report", "Source", "checked", "from_factory", "from_id", "from_instance"]


def checked(source: Source, budget: Budget, seed: int = 0) -> Report:
    """Plays, looks, and tells.

    Args:
        seed: of the first episode, and of all actions.
    """
    return judged(recorded(source, budget, seed))
