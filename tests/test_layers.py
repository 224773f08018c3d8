"""Imports point downwards only: the layers of the package, and a reader of its imports that holds them.

Files are read with `ast` and never imported, so imports inside functions and under TYPE_CHECKING count as well.
"""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[1] / "src"
PACKAGE = "policygrad"
FRONT = "__init__"  # the package's own `__init__`, its front door

# From the ground up. A room is a file or a folder of the package. It may import every room of a lower layer, and its
# neighbours in its own layer as long as they go in no circle.
LAYERS = (
    ("_version", "errors", "compilation"),
    ("spaces", "vectors"),
    ("types", "contract"),
    ("settings",),
    ("envs", "policies"),
    ("rollout",),
    ("advantages", "baselines"),
    ("gradients",),
    ("ascent",),
    ("algorithms", "combinators", "tuned_settings"),
    ("evaluation", "diagnostics", "statistics", "records"),
    ("report",),
    ("training",),
    ("lab",),
    ("cli", FRONT),
    ("__main__",),
)
LAYER = {room: height for height, rooms in enumerate(LAYERS) for room in rooms}

# An environment works with any policy and a policy in any environment.
STRANGERS = {("envs", "policies"), ("policies", "envs")}

# The oracle stands beside the layers: it is handed algorithms and may not look into them, and what it judges may not
# know that it is judged.
ORACLE = "oracle"
ORACLE_SEES = {"_version", "errors", "spaces", "types", "envs", "policies"}
ORACLE_SEEN_FROM = LAYER["training"]

OUTSIDE = {"tests", "benchmarks", "examples", "conftest"}


def imports(path: Path, module: tuple[str, ...]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Every import of a file as (line, dotted name in parts), relative ones resolved against `module`.

    `from a import b` gives a.b, whether b is a module or a name in one; `import_module("a.b")` counts as well.
    """
    package = module if path.name == "__init__.py" else module[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        match node:
            case ast.Import(names=names):
                for alias in names:
                    yield node.lineno, tuple(alias.name.split("."))
            case ast.ImportFrom(module=name, names=names, level=level):
                base = package[: len(package) - level + 1] if level else ()
                base += tuple(name.split(".")) if name else ()
                for alias in names:
                    yield node.lineno, (*base, alias.name)
            case ast.Call(func=ast.Attribute(attr="import_module") | ast.Name(id="import_module" | "__import__"), args=[argument, *_]):
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str) and not argument.value.startswith("."):
                    yield node.lineno, tuple(argument.value.split("."))


def fault(room: str, target: str) -> str | None:
    """What is wrong with `room` importing `target`, if anything."""
    if room in (target, FRONT, "__main__"):
        return None
    if target == FRONT:
        return None if room == "cli" else "the front door is for users; import from the room itself"
    if room == ORACLE:
        return None if target in ORACLE_SEES else "the oracle sees environments, policies and types; algorithms are handed to it"
    if target == ORACLE:
        return None if LAYER[room] >= ORACLE_SEEN_FROM else f"nothing below training may know the oracle, and {room} lies below"
    if (room, target) in STRANGERS:
        return "environments and policies do not know each other"
    if LAYER[room] < LAYER[target]:
        return f"{room} lies below {target}"
    return None


def violations(src: Path) -> list[str]:
    """Every import below `src`/policygrad that breaks the rule, as `file:line imports …: why`."""
    root = src / PACKAGE
    known = {*LAYER, ORACLE}
    found: list[str] = []
    neighbours: dict[str, set[str]] = {}
    for path in sorted(root.rglob("*.py")):
        module = path.relative_to(src).with_suffix("").parts
        room = module[1]
        where = path.relative_to(src)
        if room not in known:
            found.append(f"{where}: the room {room} has no layer; give it one in LAYERS")
            continue
        for line, target in imports(path, module[:-1] if path.name == "__init__.py" else module):
            if target[0] in OUTSIDE:
                found.append(f"{where}:{line} imports {'.'.join(target)}: src stands without tests, benchmarks and examples")
            if target[0] != PACKAGE:
                continue
            # `from policygrad import x`: x is a room, or else a name that the front door hands out
            other = target[1] if len(target) > 1 and target[1] in known else FRONT
            if why := fault(room, other):
                found.append(f"{where}:{line} imports {'.'.join(target)}: {why}")
            elif room != other and FRONT not in (room, other) and LAYER.get(room, -1) == LAYER.get(other, -2):
                neighbours.setdefault(room, set()).add(other)
    try:
        graphlib.TopologicalSorter(neighbours).prepare()
    except graphlib.CycleError as error:
        found.append(f"neighbours in a circle: {' → '.join(error.args[1])}")
    return found


def test_imports_point_downwards() -> None:
    assert violations(SRC) == []


def test_every_folder_tells_what_is_in_it() -> None:
    folders = {path.parent for path in (SRC / PACKAGE).rglob("*.py")}
    silent = [
        str(folder.relative_to(SRC))
        for folder in sorted(folders)
        if not (folder / "__init__.py").is_file() or not ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))
    ]
    assert silent == [], "these folders want an __init__.py with a docstring"


def test_the_version_can_be_read_without_importing_anything() -> None:
    assert list(imports(SRC / PACKAGE / "_version.py", (PACKAGE, "_version"))) == []


PLANTS = {
    "upwards": ("rollout.py", "from policygrad.algorithms import ppo", "rollout lies below algorithms"),
    "upwards, whole module": ("advantages.py", "import policygrad.gradients.score", "advantages lies below gradients"),
    "upwards, from the package": ("types.py", "from policygrad import envs", "types lies below envs"),
    "upwards, on the ground": ("errors.py", "from policygrad.spaces import Space", "errors lies below spaces"),
    "relative": ("ascent/natural.py", "from ..training import loop", "ascent lies below training"),
    "relative, in a folder's __init__": ("ascent/__init__.py", "from .. import cli", "ascent lies below cli"),
    "inside a function": ("evaluation.py", "def f():\n    import policygrad.report.figures", "evaluation lies below report"),
    "by name": ("training/loop.py", "import importlib\nimportlib.import_module('policygrad.lab')", "training lies below lab"),
    "for types only": (
        "envs/base.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from policygrad.rollout import Collect",
        "envs lies below rollout",
    ),
    "environment knows policy": ("envs/base.py", "from policygrad.policies import heads", "do not know each other"),
    "policy knows environment": ("policies/heads.py", "from policygrad.envs import base", "do not know each other"),
    "front door": ("baselines.py", "import policygrad as pg", "the front door"),
    "front door, a name": ("training/loop.py", "from policygrad import something", "the front door"),
    "judged knows the oracle": ("gradients/score.py", "from policygrad.oracle import exact", "nothing below training"),
    "oracle looks into what it judges": ("oracle/exact.py", "from policygrad.algorithms import ppo", "are handed to it"),
    "examples": ("cli.py", "from examples import bandit", "src stands without"),
    "a room without a layer": ("attic.py", "", "has no layer"),
}


@pytest.mark.parametrize(("file", "code", "why"), PLANTS.values(), ids=PLANTS)
def test_a_planted_import_is_caught(tmp_path: Path, file: str, code: str, why: str) -> None:
    plant(tmp_path, {file: code})
    (only,) = violations(tmp_path)
    assert only.startswith(f"{PACKAGE}/{file}:")
    assert why in only


def test_a_circle_of_neighbours_is_caught(tmp_path: Path) -> None:
    plant(tmp_path, {"evaluation.py": "import policygrad.statistics", "statistics.py": "import policygrad.evaluation"})
    (only,) = violations(tmp_path)
    assert "circle" in only


def test_what_points_downwards_passes(tmp_path: Path) -> None:
    allowed = {
        "__init__.py": "from policygrad.cli import main\nfrom policygrad.oracle import exact",
        "errors.py": "import math",
        "spaces.py": "from policygrad.errors import SpaceError",
        "envs/cartpole.py": "from . import base\nfrom policygrad.types import Step",
        "evaluation.py": "from policygrad.statistics import interval\nfrom policygrad import envs",
        "oracle/exact.py": "from policygrad.envs.finite import MDP\nfrom policygrad.policies import heads",
        "training/loop.py": "from policygrad.statistics import interval\nfrom policygrad.oracle import exact",
        "report/figures.py": "from policygrad.records import read\nfrom policygrad.statistics import interval",
        "cli.py": "import policygrad as pg\nfrom policygrad import report",
        "__main__.py": "from policygrad.cli import main",
    }
    plant(tmp_path, allowed)
    assert violations(tmp_path) == []


def plant(src: Path, files: dict[str, str]) -> None:
    for name, code in files.items():
        path = src / PACKAGE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code, encoding="utf-8")
