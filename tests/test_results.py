"""The page of results: what counts as finished, the statistics in it, and that a stopped run goes on where it was."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import policygrad as pg
from policygrad.envs import registry
from policygrad.statistics import bootstrap_interval
from policygrad.tuned_settings import TUNED, Tuned

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "results.py"
ENTRY = TUNED["CartPole-v1", "ppo"]


@pytest.fixture(scope="module")
def results() -> ModuleType:
    spec = importlib.util.spec_from_file_location("results_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def made(results: ModuleType, entry: Tuned, seed: int, **changes: Any) -> dict[str, Any]:
    """The file of a seed, with numbers that can be worked out by hand: evaluation k of seed s has mean 10 k + s."""
    every = results.spacing(entry)
    at = every * np.arange(1, entry.num_steps // every + 1)
    return {
        **results.stamp(entry),
        "seed": seed,
        "steps": entry.num_steps,
        "error": None,
        "commit": "abc",
        "date": "2026-01-01",
        "seconds": 2.0,
        "last_episodes": 400.0 + seed,
        "steps_to_solve": 1000 * (seed + 1),
        "mode_return": 450.0 + seed,
        "evaluation_steps": (at + 3).tolist(),
        "evaluation_means": (10.0 * np.arange(1, len(at) + 1) + seed).tolist(),
        **changes,
    }


def write(results: ModuleType, runs: Path, entry: Tuned, content: dict[str, Any]) -> None:
    path = results.path_of(entry, content["seed"], runs)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def test_a_seed_is_finished_only_with_the_present_settings(results, tmp_path):
    assert results.finished(ENTRY, 0, tmp_path) is None
    write(results, tmp_path, ENTRY, made(results, ENTRY, 0))
    assert results.finished(ENTRY, 0, tmp_path) is not None
    assert results.finished(ENTRY, 1, tmp_path) is None
    for changes in ({"settings": {}}, {"num_envs": 1}, {"num_steps": 1}, {"backend": "compiled"}):
        write(results, tmp_path, ENTRY, made(results, ENTRY, 0, **changes))
        assert results.finished(ENTRY, 0, tmp_path) is None
    for newer, counts in (("initial_sigma", True), ("discount", False)):  # an argument that the code of then did not have
        settings = results.stamp(ENTRY)["settings"]
        del settings[newer]
        write(results, tmp_path, ENTRY, made(results, ENTRY, 0, settings=settings))
        assert (results.finished(ENTRY, 0, tmp_path) is not None) is counts
    results.path_of(ENTRY, 0, tmp_path).write_text('{"num_envs"')
    assert results.finished(ENTRY, 0, tmp_path) is None, "a file that was cut off"


def test_what_words_choose(results):
    def names(*words: str, algorithms: tuple[str, ...] = ()) -> set[tuple[str, str]]:
        return {(entry.env, entry.name) for entry in results.chosen(words, algorithms)}

    assert names("all") == set(TUNED)
    assert names("classic") | names("mujoco") == set(TUNED)
    assert names("cartpole") == {key for key in TUNED if key[0] == "CartPole-v1"}
    assert names("Hopper-v5/ppo", "Reacher-v5/npg") == {("Hopper-v5", "ppo"), ("Reacher-v5", "npg")}
    assert names("mujoco", algorithms=("ppo",)) == {key for key in names("mujoco") if key[1] == "ppo"}
    with pytest.raises(SystemExit, match="got 'Hopper-v9'"):
        names("Hopper-v9")


def test_the_row_of_an_algorithm(results):
    found = [made(results, ENTRY, seed) for seed in range(4)]
    cells = [cell.strip() for cell in results.table_row(ENTRY, found).split("|")[1:-1]]
    low, high = bootstrap_interval([400.0, 401.0, 402.0, 403.0])
    assert cells[:3] == ["ppo", "100k", "4"]
    assert cells[3] == "**201.5**", "20 evaluations, the last at 200 and the mean over seeds of 0 to 3"
    assert cells[4] == f"401.5 [{low:.1f}, {high:.1f}]"
    assert cells[5] == "400, 401, 402, 403"
    assert cells[6] == "451.5 (450, 451, 452, 453)"
    assert "30,592" in cells[8]


def test_the_maximum_is_that_of_the_mean_and_not_the_mean_of_maxima(results):
    up, down = (
        made(results, ENTRY, seed, evaluation_means=values) for seed, values in enumerate([[0.0] * 19 + [100.0], [100.0] + [0.0] * 19])
    )
    assert "**50**" in results.table_row(ENTRY, [up, down])


def test_evaluations_count_where_they_were_due(results):
    """Updates that reach past a multiple, and skip one, as whole episodes do."""
    every = results.spacing(ENTRY)
    late = made(results, ENTRY, 0, evaluation_steps=[every + 7, 3 * every + 9], evaluation_means=[1.0, 2.0])
    grid, values = results.curves(ENTRY, [late])
    assert grid.tolist() == [every * k for k in range(1, 21)]
    assert values[0, :4].tolist() == [1.0, 2.0, 2.0, 2.0]


def test_failures_and_unsolved_seeds_stand_as_they_are(results):
    good, bad = made(results, ENTRY, 0, steps_to_solve=None), {**made(results, ENTRY, 1), "error": "a parameter became NaN"}
    assert "| 2; 1 failed |" in results.table_row(ENTRY, [good, bad])
    assert "| – | – | – | – | – |" in results.table_row(ENTRY, [bad])
    assert results.solving_row(ENTRY, [good, good, made(results, ENTRY, 2)]) == "| ppo | – | 1/3 | 3,000 |"
    assert results.shown(math.nan) == "–"
    assert results.shown(-73.54) == "−73.5"


def test_the_page_leaves_out_what_has_not_run_and_says_so(results, tmp_path):
    for seed in range(3):
        write(results, tmp_path / "runs", ENTRY, made(results, ENTRY, seed))
    text = results.page(None, tmp_path / "runs", tmp_path / "pictures")
    assert text.count("\n## ") == 2
    assert "| ppo | 2,000 | 3/3 | 1,000, 2,000, 3,000 |" in text
    assert "Code: abc (2026-01-01)." in text
    assert "Hopper-v5 ppo" in text.partition("## Not run yet")[2]
    assert (tmp_path / "pictures" / "CartPole-v1.png").stat().st_size > 5000


def test_seeds_are_trained_and_found_again(results, tmp_path):
    entry = Tuned("Bandit-v0", "reinforce", {"learning_rate": 0.05}, 8, 160)
    lines = results.train_seeds(entry, [0, 3], tmp_path)
    assert [line.partition(":")[0] for line in lines] == ["Bandit-v0 reinforce seed 0", "Bandit-v0 reinforce seed 3"]
    found = results.finished(entry, 3, tmp_path)
    assert found is not None
    assert len(found["evaluation_means"]) == len(found["evaluation_steps"]) == 20
    assert (found["steps"], found["episodes"]) == (160, 160)
    alone = pg.train("Bandit-v0", entry.algorithm(), num_steps=160, num_envs=8, seed=3, out=False)
    assert found["last_episodes"] == pytest.approx(float(np.mean(alone.returns[-100:])))
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("seeds", [[0], [0, 1]])
def test_seeds_that_all_fail_leave_their_files(
    results: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seeds: list[int]
) -> None:
    """`train` raises where every seed failed; the page must still tell of each."""

    def faulty() -> Any:
        bandit: Any = pg.make("Bandit-v0")

        def step(key: Any, state: Any, action: Any) -> Any:
            after, made = bandit.step(key, state, action)
            return after, made._replace(reward=made.reward * np.nan)

        return dataclasses.replace(bandit, name="Faulty-v0", step=step)

    monkeypatch.setitem(registry._factories, "Faulty-v0", faulty)
    entry = Tuned("Faulty-v0", "reinforce", {}, 8, 160)
    lines = results.train_seeds(entry, seeds, tmp_path)
    assert len(lines) == len(seeds)
    for seed, line in zip(seeds, lines, strict=True):
        assert "failed:" in line
        assert "not finite" in json.loads(results.path_of(entry, seed, tmp_path).read_text("utf-8"))["error"]
