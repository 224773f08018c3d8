"""`make nightly`: all tests, those that take minutes included, with more examples each; and a dated summary of them.

    python benchmarks/nightly.py [-n WORKERS] [pytest's arguments]

Writes docs/nightly.md, the newest run on top: the counts, every failure, and what the longer learning checks measured. The exit code
is pytest's.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SUMMARY = ROOT / "docs" / "nightly.md"
REPORT = ROOT / ".cache" / "nightly.xml"
KEPT = 10  # runs in the summary
HEAD = """# Nightly runs

`make nightly` runs every test, with 500 random examples where `make test` takes 30, and the checks that take minutes. Newest first;
failures stand as they are.
"""
RUN = "\n## "


def counts(suite: ElementTree.Element) -> tuple[dict[str, int], list[str], list[tuple[str, str]]]:
    """Of a JUnit report: how many tests ended how, the names of those that failed, and what tests recorded of themselves."""
    found = {"passed": 0, "failed": 0, "skipped": 0}
    failed, recorded = [], []
    for case in suite.iter("testcase"):
        name = f"{case.get('classname', '').replace('.', '/')}::{case.get('name')}"
        bad = case.find("failure") is not None or case.find("error") is not None
        found["failed" if bad else "skipped" if case.find("skipped") is not None else "passed"] += 1
        if bad:
            failed.append(name)
        recorded += [(name, f"{entry.get('name')}: {entry.get('value')}") for entry in case.iter("property")]
    return found, failed, recorded


def section(suite: ElementTree.Element, seconds: float, arguments: list[str]) -> str:
    """The summary of one run, in Markdown."""
    found, failed, recorded = counts(suite)
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jax", "gymnasium", "numpy"))
    lines = [
        f"{date}, {commit or 'no commit'}",
        "",
        f"{found['passed']} passed, {found['failed']} failed, {found['skipped']} skipped in {seconds / 60:.1f} minutes."
        f" Python {platform.python_version()}, {versions}, {platform.system()} {platform.machine()}.",
    ]
    if arguments:
        lines += ["", f"Only a part: `{' '.join(arguments)}`."]
    if failed:
        lines += ["", "Failed:", "", *(f"- `{name}`" for name in failed)]
    if recorded:
        lines += ["", "| check | measured |", "|---|---|", *(f"| `{name.rpartition('::')[2]}` | {text} |" for name, text in recorded)]
    return RUN + "\n".join(lines) + "\n"


def with_run(summary: str, run: str) -> str:
    """The summary with one more run on top, and no more than are kept."""
    older = [RUN + text for text in summary.split(RUN)[1:]]
    return HEAD + "".join([run, *older][:KEPT])


def main(words: list[str]) -> int:
    """Runs the tests; `words` are the number of workers (-n N) and pytest's own arguments."""
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.unlink(missing_ok=True)
    options = ["-m", "nightly or not nightly", "--hypothesis-profile", "nightly", "--dist", "worksteal"]
    report = [f"--junitxml={REPORT}", "-o", "junit_family=xunit1"]  # the older family takes what tests record of themselves
    begin = time.perf_counter()
    # `make test` asks for unoptimised programs, which compile sooner; here they are compiled as users have them
    environment = {"XLA_FLAGS": "", **os.environ}
    code = subprocess.run([sys.executable, "-m", "pytest", *options, *report, *words], cwd=ROOT, env=environment).returncode
    if not REPORT.exists():
        return code
    arguments = words[2:] if words[:1] == ["-n"] else words
    run = section(ElementTree.parse(REPORT).getroot(), time.perf_counter() - begin, arguments)
    SUMMARY.write_text(with_run(SUMMARY.read_text("utf-8") if SUMMARY.exists() else HEAD, run), "utf-8")
    print(f"summary: {SUMMARY.relative_to(ROOT)}")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
