"""`make test-adapters`: every adapter of `envs.adapters`, and EnvPool's, held to the package itself.

    python benchmarks/adapters.py [NAME …]          all of them where none is named

For each: a virtual environment of its own (.venv-adapters/NAME, made once and again when what goes into it changes), its tests, and a
short PPO run through the command. The last run of each is a row of docs/adapters.md. The exit code is 1 where a test failed, nothing was
trained, or training did not reach the goal. The best 20 episodes in a row count for that: PPO's defaults can lose again what they had.
"""

from __future__ import annotations

import csv
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import NamedTuple

from nightly import counts

ROOT = Path(__file__).resolve().parents[1]
VENVS = ROOT / ".venv-adapters"
PAGE = ROOT / "docs" / "adapters.md"
MEASURED = "\n## The last runs\n"


class Adapter(NamedTuple):
    """What to install, in one call of pip each; what to test; what to train, and a mean of 20 episodes in a row to reach on the way."""

    packages: tuple[tuple[str, ...], ...]
    shown: tuple[str, ...]  # whose versions the page tells
    tests: tuple[str, ...]
    train: str
    goal: float


ADAPTERS = {
    # gymnax asks for gymnasium<1.4, for a wrapper that is not used here; it needs nothing of it that 1.4 lacks
    "gymnax": Adapter(
        (("flax==0.12.8", "seaborn==0.13.2", "six==1.17.0"), ("--no-deps", "gymnax==1.0.1")),
        ("gymnax", "flax"),
        ("test_adapters.py", "test_gymnax.py"),
        "--env gymnax:CartPole-v1 --num-steps 200000",
        200,
    ),
    "functional": Adapter(
        (("flax==0.12.8",),),
        ("flax",),
        ("test_adapters.py", "test_functional.py"),
        "--env functional:phys2d/CartPole-v1 --num-steps 200000",
        200,
    ),
    "brax": Adapter(
        (("brax==0.14.2",),),
        ("brax", "mujoco-mjx"),
        ("test_adapters.py", "test_brax.py"),
        "--env brax:inverted_pendulum --num-steps 200000",
        200,
    ),
    "playground": Adapter(
        (("playground==0.2.0",),),
        ("playground", "mujoco-mjx"),
        ("test_adapters.py", "test_playground.py"),
        "--env playground:CartpoleBalance --num-steps 500000",
        500,
    ),
    "envpool": Adapter(
        (("envpool==1.2.5",),),
        ("envpool",),
        ("test_envpool.py",),
        "--env CartPole-v1 --vectorization envpool --num-steps 200000",
        200,
    ),
}


def installed(name: str, adapter: Adapter) -> Path:
    """The Python of the adapter's environment."""
    folder = VENVS / name
    python, stamp = folder / "bin" / "python", folder / ".installed"
    calls = (("-e", ".", "pytest", "hypothesis"), *adapter.packages)
    wanted = json.dumps([calls, *((ROOT / file).read_text("utf-8") for file in ("pyproject.toml", "constraints.txt"))])
    if stamp.exists() and stamp.read_text("utf-8") == wanted:
        return python
    print(f"{name}: installing into {folder.relative_to(ROOT)} …", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    for call in calls:
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", "-c", "constraints.txt", *call], cwd=ROOT, check=True)
    stamp.write_text(wanted, "utf-8")
    return python


def tested(python: Path, adapter: Adapter) -> tuple[str, bool]:
    """(the counts in words, whether all is well): none failed, and none was skipped for a package that is missing."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        files = [f"tests/envs/{file}" for file in adapter.tests]
        subprocess.run([str(python), "-m", "pytest", "-q", f"--junitxml={report}", *files], cwd=ROOT)
        if not report.exists():
            return "none ran", False
        found, _, _ = counts(ElementTree.parse(report).getroot())
    words = [f"{number} {what}" for what, number in found.items() if number or what == "passed"]
    return ", ".join(words), not (found["failed"] or found["skipped"])


def trained(python: Path, adapter: Adapter) -> dict[str, float] | None:
    """Means of the first, the best and the last 20 episodes in a row, speed and compile time of one run; None where it failed."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        words = ["-m", "policygrad", "train", "ppo", *adapter.train.split(), "--seed", "0", "--json", "--out", str(out)]
        done = subprocess.run([str(python), *words], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            return None
        result = json.loads(done.stdout.strip().splitlines()[-1])
        with (out / "episodes.csv").open(encoding="utf-8") as file:
            returns = [float(row["return"]) for row in csv.DictReader(file)]
    first, last = (sum(part) / len(part) for part in (returns[:20], returns[-20:]))
    timed = {key: result[key] for key in ("steps_per_second", "compile_seconds")}
    return {"first": first, "best": result["return_at_best"][0], "last": last, **timed}


def row(name: str, adapter: Adapter) -> tuple[str, bool]:
    """One line of the page, and whether all is well."""
    python = installed(name, adapter)
    show = f"import importlib.metadata as m; print(', '.join(n + ' ' + m.version(n) for n in {adapter.shown!r}))"
    versions = subprocess.run([str(python), "-c", show], capture_output=True, text=True, check=True).stdout.strip()
    words, sound = tested(python, adapter)
    run = trained(python, adapter)
    learnt = run is not None and run["best"] >= adapter.goal
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
    cells = [name, f"{date}, {commit()}", versions, words, f"`{adapter.train}`"]
    if run is None:
        cells += ["training failed", "", ""]
    else:
        goal = "" if learnt else f" (below {adapter.goal:g})"
        returns = f"{run['first']:,.1f} → {run['best']:,.1f}{goal} → {run['last']:,.1f}"
        cells += [returns, f"{run['steps_per_second']:,.0f}", f"{run['compile_seconds']:.1f}"]
    return f"| {' | '.join(cells)} |", sound and learnt


def commit() -> str:
    """Of the code that ran."""
    return (
        subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True).stdout.strip() or "no commit"
    )


def with_rows(page: str, rows: dict[str, str], seconds: float) -> str:
    """The page with these rows in place of older ones of the same adapters; the text above the table stays as it is."""
    text, _, old = page.partition(MEASURED)
    kept = {line.split("|")[1].strip(): line for line in old.splitlines() if line.startswith("| ")} | rows
    python = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    lines = [
        "",
        f"Written by `make test-adapters`; {', '.join(rows)} took {seconds / 60:.1f} minutes, with installing where it was due. {python}.",
        "Returns: means of the first, best and last 20 episodes in a row, of one run of PPO's defaults with seed 0. A shared machine.",
        "",
        "| adapter | when | versions | tests | `policygrad train ppo …` | return | steps/s | compile s |",
        "|---|---|---|---|---|---|---|---|",
        *(kept[name] for name in ADAPTERS if name in kept),
    ]
    return text + MEASURED + "\n".join(lines) + "\n"


def main(names: list[str]) -> int:
    """Runs the adapters of these names, or all."""
    unknown = sorted({*names} - {*ADAPTERS})
    if unknown:
        print(f"unknown adapter {unknown[0]!r}: known: {', '.join(ADAPTERS)}", file=sys.stderr)
        return 2
    begin, rows, well = time.perf_counter(), {}, True
    for name in names or ADAPTERS:
        rows[name], sound = row(name, ADAPTERS[name])
        print(rows[name], flush=True)
        well = well and sound
    PAGE.write_text(with_rows(PAGE.read_text("utf-8"), rows, time.perf_counter() - begin), "utf-8")
    print(f"summary: {PAGE.relative_to(ROOT)}")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
