"""The page of `make test-adapters`: a run changes the rows of what it ran, and nothing else."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    spec = importlib.util.spec_from_file_location("adapters_script", BENCHMARKS / "adapters.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules.pop("nightly", None)
    return module


def test_rows_replace_those_of_the_same_adapter(script: ModuleType) -> None:
    text = "# Page\n\n| gymnax | what it is |\n"
    page = script.with_rows(text, {"gymnax": "| gymnax | one |", "brax": "| brax | one |"}, 60)
    assert page.startswith(text + "\n## The last runs\n")
    page = script.with_rows(page, {"envpool": "| envpool | two |", "gymnax": "| gymnax | two |"}, 60)
    table = [line for line in page.splitlines() if line.endswith(("one |", "two |"))]
    assert table == ["| gymnax | two |", "| brax | one |", "| envpool | two |"]
    assert page.startswith(text + "\n## The last runs\n")
    assert page.count("| adapter | when |") == 1


def test_names_that_are_none(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main(["gymnaxx"]) == 2
    assert capsys.readouterr().err.startswith("unknown adapter 'gymnaxx': known: gymnax, functional, brax, playground, envpool")
