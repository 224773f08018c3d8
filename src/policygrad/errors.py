"""Everything that policygrad raises on purpose, in one tree.

    PolicygradError
    ├── UsageError            wrong before the first step: exit code 2 (also a ValueError)
    │   ├── UnknownNameError  no environment, algorithm or baseline of that name; nearest names are offered
    │   ├── SpaceError        a space that cannot be handled, or a policy for other spaces
    │   ├── PolicyFileError   a policy file that is missing, truncated, damaged or not ours
    │   └── OutputError       a run directory that cannot be written or is not empty
    └── RunError              a failure after the first step: exit code 3 (also a RuntimeError)
        ├── EnvError the environment raised, or returned NaN, a wrong shape or a value outside its space
        └── DivergedError     a loss, gradient or parameter became NaN or infinite

Every message is one line: what is wrong · what was got · how to fix it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PolicygradError(Exception):
    """Root of the tree."""


class UsageError(PolicygradError, ValueError):
    """Wrong before the first step. The command line exits with 2."""


class UnknownNameError(UsageError):
    """No environment, algorithm or baseline of that name."""

    def __init__(self, kind: str, name: object, known: Iterable[str]):
        name, known = " ".join(str(name).split()), sorted(known)
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        lowered = {k.lower(): k for k in known}
        if not near:
            near = [lowered[m] for m in difflib.get_close_matches(name.lower(), lowered, n=3, cutoff=0.5)]
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known[:12])}" + (", …" if len(known) > 12 else "")
        super().__init__(f"unknown {kind} {name!r}: {hint}")


class SpaceError(UsageError):
    """A space that cannot be handled, or a policy made for other spaces."""


class PolicyFileError(UsageError):
    """A policy file that is missing, truncated, damaged or not ours."""


class OutputError(UsageError):
    """A run directory that cannot be written, or that holds something already."""


class RunError(PolicygradError, RuntimeError):
    """A failure after the first step. The command line exits with 3; what was written so far stays."""


class EnvError(RunError):
    """The environment raised, or returned NaN, a wrong shape, or a value outside its own space."""


class DivergedError(RunError):
    """A loss, gradient or parameter became NaN or infinite; the policy of the update before is kept."""
