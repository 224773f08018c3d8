"""What was found, in words."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

Severity = Literal["error", "warning", "note", "skipped"]
SYMBOLS = {"error": "✗", "warning": "!", "note": "·", "skipped": "–"}


class Finding(NamedTuple):
    """One thing that was seen.

    Args:
        severity: "error": training would be wrong or crash; "warning": it may suffer; "note": good to know; "skipped": not looked at.
        seen: what, in words; `expected`: what should be, and what to do about it.
        episode: the first in which it was seen, from 1; None where it belongs to no episode.
        step: likewise; 0 is the reset.
        times: how often it was seen; `of`: of how many.
    """

    severity: Severity
    seen: str
    expected: str = ""
    episode: int | None = None
    step: int | None = None
    times: int | None = None
    of: str = ""
    check: str = ""  # the name of the check that found it

    @property
    def text(self) -> str:
        """What was seen, where and how often."""
        where = ""
        if self.episode is not None:
            at = "" if self.step is None else ", at the reset" if self.step == 0 else f", step {self.step:,}"
            where = f"episode {self.episode:,}{at}"
        if self.times is not None and self.times > 1:
            often = f"{self.times:,} times"
            if self.of:
                often = f"in all {self.of}" if self.of.startswith(f"{self.times:,} ") else f"in {self.times:,} of {self.of}"
            where = f"first in {where}; {often}"
        elif where:
            where = f"in {where}"
        return self.seen + (f" ({where})" if where else "")


class Passed(NamedTuple):
    """A check that found all in order."""

    check: str
    group: str
    text: str


@dataclass(frozen=True)
class Report:
    """What `check_env` found; printed, it is text for people.

    Args:
        findings: by group, in the order of the checks.
        head: facts about what was played, label and text.
    """

    name: str
    backend: str
    findings: tuple[tuple[str, Finding], ...]
    passed: tuple[Passed, ...]
    groups: tuple[str, ...]
    head: tuple[tuple[str, str], ...]
    facts: dict[str, Any]

    def of(self, severity: Severity) -> list[Finding]:
        """The findings of one severity."""
        return [finding for _, finding in self.findings if finding.severity == severity]

    @property
    def errors(self) -> list[Finding]:
        """What would crash training or make it wrong."""
        return self.of("error")

    @property
    def warnings(self) -> list[Finding]:
        """What may make training suffer."""
        return self.of("warning")

    @property
    def ok(self) -> bool:
        """No errors."""
        return not self.errors

    def text(self, width: int = 98) -> str:
        """The report for people."""
        return "\n".join(self._lines(width))

    def __str__(self) -> str:
        return self.text()

    def as_dict(self) -> dict[str, Any]:
        """The report for programs."""
        findings = [
            {
                **{key: getattr(finding, key) for key in ("severity", "check")},
                "group": group,
                **{key: getattr(finding, key) for key in ("seen", "expected", "episode", "step", "times")},
            }
            for group, finding in self.findings
        ]
        counts = {"errors": len(self.errors), "warnings": len(self.warnings)}
        head = {"env": self.name, "backend": self.backend, "ok": self.ok, **counts}
        return {**head, **self.facts, "findings": findings, "passed": [passed._asdict() for passed in self.passed]}

    def _lines(self, width: int) -> Iterator[str]:
        yield f"{self.name} ({self.backend})"
        for label, text in self.head:
            yield from _wrapped(f"  {label:<13}  ", text, width, 17)
        for group in self.groups:
            passed = [one for one in self.passed if one.group == group]
            found = [finding for where, finding in self.findings if where == group]
            if passed or found:
                yield ""
                yield group
            for one in passed:
                yield from _wrapped("  ✓ ", one.text, width, 4)
            for finding in found:
                label = {"skipped": "not checked"}.get(finding.severity, finding.severity)
                yield from _wrapped(f"  {SYMBOLS[finding.severity]} ", f"{label}: {finding.text}", width, 4)
                if finding.expected:
                    yield from _wrapped("      ", finding.expected, width, 6)
        yield ""
        yield from _wrapped("", self._verdict(), width, 0)

    def _verdict(self) -> str:
        errors, warnings = len(self.errors), len(self.warnings)
        counts = f"{errors or 'No'} error{'' if errors == 1 else 's'}, {warnings or 'no'} warning{'' if warnings == 1 else 's'}"
        if errors:
            return f"{counts}: training would crash, or learn something else than you mean. Correct the environment first."
        return f"{counts}: it can be trained on, but may be learnt worse than it could." if warnings else f"{counts}."


def _wrapped(head: str, text: str, width: int, indent: int) -> list[str]:
    return textwrap.wrap(text, width, initial_indent=head, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)
