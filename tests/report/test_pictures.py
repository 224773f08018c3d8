from __future__ import annotations

import ast
import json
import math
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import policygrad.report
from policygrad.errors import UsageError
from policygrad.records import Records, load_run
from policygrad.report import figures, pictures

NAMES = ["returns.png", "performance.png", "gradient_norm.png", "variance.png"]


def make_run(
    run_dir: Path, num_seeds: int = 1, num_episodes: int = 60, baseline: str = "mean", threshold: float | None = 475.0, **metrics
) -> Path:
    """A run whose return climbs with the episodes, at other steps in every seed."""
    with Records(run_dir, range(num_seeds)) as records:
        settings = {"baseline": baseline, "discount": 0.99}
        records.config({"algorithm": "reinforce", "settings": settings, "env": "CartPole-v1", "num_envs": 4, "reward_threshold": threshold})
        for seed in range(num_seeds):
            returns = np.linspace(20, 480 + seed, num_episodes)
            ends = np.cumsum(returns.astype(int)) + 7 * seed
            records.episodes(seed, 0, returns, returns.astype(int), ends)
            values = {"gradient_norm": 1.0, "variance_uncentred": 100.0, "variance_centred": 20.0, "start_value": 50.0} | metrics
            records.updates(
                [{"seed": seed, "steps": int(end), **{k: v * (1 + i) if v else v for k, v in values.items()}} for i, end in enumerate(ends)]
            )
    return run_dir


def fail(text: str) -> None:
    raise AssertionError(text)


@pytest.mark.parametrize("num_seeds", [1, 5])
def test_one_run(tmp_path, num_seeds):
    run = make_run(tmp_path / "run", num_seeds)
    made = figures(run, warn=fail)
    assert made == [run / "figures" / name for name in NAMES]
    for path in made:
        with Image.open(path) as image:
            image.load()
            assert image.format == "PNG"
            assert image.size == (1080, 660)
    assert sorted(p.name for p in (run / "figures").iterdir()) == sorted(NAMES)  # no half-written files beside them


def test_several_runs_go_to_the_current_directory_or_where_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = [make_run(tmp_path / "a", 2), make_run(tmp_path / "b", 1, baseline="none")]
    assert figures(runs, warn=fail) == [Path("figures") / name for name in NAMES]
    (runs[0] / "metrics.jsonl").write_text("")
    assert figures(str(runs[0]), str(tmp_path / "out"), warn=fail) == [tmp_path / "out" / "returns.png"]
    assert not (runs[0] / "figures").exists()


def test_the_policy_table_is_drawn_where_there_is_one(tmp_path):
    run = make_run(tmp_path / "run", 0)
    tables = {"0": [[0.5, 0.5], [0.1, 0.9]], "1": [[1.0, 0.0], [0.0, 1.0]], "action_labels": ["left", "right"]}
    (run / "policy_table.json").write_text(json.dumps(tables))
    assert figures([run], warn=fail) == [run / "figures" / "policy_heatmap.png"]


def test_pictures_without_data_are_left_out(tmp_path):
    empty = make_run(tmp_path / "empty", num_episodes=0)
    assert figures(empty, warn=fail) == []
    assert not (empty / "figures").exists()
    without = make_run(tmp_path / "without", start_value=math.nan, variance_uncentred=None, variance_centred=None)
    assert [path.name for path in figures(without, warn=fail)] == ["returns.png", "gradient_norm.png"]


def test_a_very_short_run(tmp_path):
    assert len(figures(make_run(tmp_path / "run", 2, num_episodes=1, threshold=None), warn=fail)) == 4


def test_an_unwritable_path_warns_and_makes_nothing(tmp_path):
    run = make_run(tmp_path / "run")
    (run / "figures").write_text("in the way")
    seen = []
    assert figures(run, warn=seen.append) == []
    assert len(seen) == 4
    assert all("was not drawn" in text and "\n" not in text for text in seen)
    assert str(run / "figures" / "returns.png") in seen[0]


def test_one_picture_that_fails_does_not_take_the_others_with_it(tmp_path):
    run = make_run(tmp_path / "run")
    (run / "figures" / "performance.png").mkdir(parents=True)
    (run / "policy_table.json").write_text("no json")
    seen = []
    assert [path.name for path in figures(run, warn=seen.append)] == ["returns.png", "gradient_norm.png", "variance.png"]
    assert [text.split(" was")[0].split("/")[-1] for text in seen] == ["performance.png", "policy_heatmap.png"]
    assert not list((run / "figures").glob("*.part"))


def test_warnings_go_to_stderr_by_default(tmp_path, capsys):
    run = make_run(tmp_path / "run")
    (run / "figures").write_text("in the way")
    (run / "metrics.jsonl").write_text("")
    figures(run)
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"policygrad: warning: {run / 'figures' / 'returns.png'} was not drawn: file exists\n"


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(UsageError, match="nothing there"):
        figures([tmp_path / "missing"])
    assert figures([]) == []


def test_off_the_main_thread(tmp_path):
    run = make_run(tmp_path / "run", num_episodes=5, start_value=None, gradient_norm=None, variance_centred=None)
    made: list[Path] = []
    thread = threading.Thread(target=lambda: made.extend(figures(run, warn=fail)))
    thread.start()
    thread.join(timeout=60)
    assert len(made) == 1


# ---------------------------------------------------------------- what is drawn


def curves_of(run: Path) -> pictures._Curve:
    loaded = load_run(run)
    (curve,) = pictures._curves([loaded], [pictures._episodes(loaded)], pictures._episode_window)
    return curve


def test_one_seed_shows_its_episodes_and_their_moving_average(tmp_path):
    curve = curves_of(make_run(tmp_path / "run", 1))
    returns = np.linspace(20, 480, 60)
    assert curve.low is None
    assert curve.window == 20
    np.testing.assert_allclose(curve.dots[1], returns, rtol=1e-8)
    np.testing.assert_allclose(curve.y[-1], returns[-20:].mean(), rtol=1e-8)
    np.testing.assert_array_equal(curve.x, np.cumsum(returns.astype(int)))


@pytest.mark.parametrize(("num_seeds", "band"), [(2, "lowest to highest"), (3, "lowest to highest"), (4, "interquartile range")])
def test_the_band_is_what_the_legend_says(tmp_path, num_seeds, band):
    curve = curves_of(make_run(tmp_path / "run", num_seeds))
    assert curve.band == band
    assert curve.num_seeds == num_seeds
    assert np.all(curve.low <= curve.y)
    assert np.all(curve.y <= curve.high)
    # the seeds' last means differ by what their returns differ by, 1 at the end of the ramp
    last = [np.linspace(20, 480 + s, 60)[-20:].mean() for s in range(num_seeds)]
    quantiles = (0, 1) if num_seeds < 4 else (0.25, 0.75)
    np.testing.assert_allclose([curve.low[-1], curve.high[-1]], np.quantile(last, quantiles), rtol=1e-6)
    np.testing.assert_allclose(curve.y[-1], np.median(last), rtol=1e-6)


def test_a_seed_that_stopped_early_is_said_to_keep_its_last_value(tmp_path):
    with Records(tmp_path / "run", [0, 1]) as records:
        records.config({"algorithm": "reinforce"})
        records.episodes(0, 0, [1.0] * 100, [10] * 100, range(10, 1010, 10))
        records.episodes(1, 0, [3.0] * 50, [10] * 50, range(10, 510, 10))
    run = load_run(tmp_path / "run")
    curve = curves_of(tmp_path / "run")
    assert curve.held
    np.testing.assert_array_equal(curve.y, 2.0)
    assert pictures._subtitle([run], [curve], "x") == "reinforce · median over 2 seeds, x\nseeds that stopped early keep their last value"


def test_long_runs_are_thinned_and_averaged_over_more(tmp_path):
    with Records(tmp_path / "run", [0]) as records:
        records.config({"algorithm": "reinforce"})
        records.episodes(0, 0, np.random.default_rng(0).normal(size=20_000), np.ones(20_000, int), np.arange(20_000))
    curve = curves_of(tmp_path / "run")
    assert curve.window == 100
    assert curve.x.size <= 2_000


def test_updates_are_smoothed_only_where_there_are_many():
    assert pictures._update_window(99) == 1
    assert pictures._update_window(100) == 10
    assert pictures._update_window(10_000) == 200


def test_nothing_heavy_is_imported_at_module_level_and_pyplot_nowhere():
    for path in Path(policygrad.report.__file__).parent.glob("*.py"):
        text = path.read_text()
        module = ast.parse(text)
        names = [alias.name for node in module.body if isinstance(node, ast.Import) for alias in node.names]
        names += [str(node.module) for node in module.body if isinstance(node, ast.ImportFrom)]
        assert not {"jax", "matplotlib"} & {name.split(".")[0] for name in names}, path
        assert "pyplot as" not in text
