"""The run directory: what is in it, when nothing is written, and disks that refuse."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import policygrad as pg
from policygrad.errors import OutputError, UsageError
from policygrad.training import runners
from rollout.toys import Clockwork, clockwork, leaves_equal

B = 8


def train(env: Any = "Bandit-v0", *, updates: int = 3, out: Any, **options: Any) -> pg.Run:
    options = {"algorithm": pg.reinforce(learning_rate=0.1), "num_envs": B, "num_steps": updates * B, "figures": False} | options
    return pg.train(env, out=out, **options)


def strict(text: str) -> Any:
    """JSON without the NaN and Infinity that only Python reads."""

    def refuse(word: str) -> Any:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


def lines(run_dir: Path) -> list[dict[str, Any]]:
    return [strict(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def rows(run_dir: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((run_dir / "episodes.csv").read_text().splitlines()))


# ── contents ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_run_directory_holds_everything(tmp_path: Path) -> None:
    out = tmp_path / "new" / "run"
    run = train(out=out, seeds=[4, 1], figures=True, env_args={"sigma": 0.25}, metrics=lambda agent, rollout: {"mine": agent.steps})
    assert run.run_dir == out
    assert {path.name for path in out.iterdir()} == {
        *("config.json", "metrics.jsonl", "episodes.csv", "result.json", "tensorboard", "figures"),
        *("policy_4.safetensors", "policy_1.safetensors", "policy_table.json"),
    }
    assert {path.name for path in (out / "tensorboard").iterdir()} == {"seed_4", "seed_1"}
    assert list((out / "figures").glob("*.png"))
    assert strict((out / "result.json").read_text()) == run.result()
    assert run.result()["run_dir"] == str(out)
    # Every update of every seed, in order; seeds run side by side.
    recorded = sorted(lines(out), key=lambda line: (4, 1).index(line["seed"]))
    assert [(line["seed"], line["iteration"], line["steps"]) for line in recorded] == [(s, i, 8 * i) for s in (4, 1) for i in (1, 2, 3)]
    wanted = {"return", "length", "gradient_norm", "entropy", "variance_uncentred", "variance_centred", "steps_per_second", "mine"}
    for k, seed in enumerate(run.seeds):
        for i in range(3):
            line = recorded[3 * k + i]
            assert wanted <= line.keys()
            for name, values in seed.metrics.items():
                assert line[name] == pytest.approx(values[i], rel=1e-5, nan_ok=True), name
            assert line["steps_per_second"] > 0
    # Every episode of every seed, in order.
    table = sorted(rows(out), key=lambda row: ("4", "1").index(row["seed"]))
    assert [(int(row["seed"]), int(row["episode"])) for row in table] == [(s, i) for s in (4, 1) for i in range(24)]
    for k, seed in enumerate(run.seeds):
        part = table[24 * k : 24 * (k + 1)]
        np.testing.assert_allclose([float(row["return"]) for row in part], seed.returns, rtol=1e-7)
        np.testing.assert_array_equal([int(row["length"]) for row in part], seed.lengths)
        np.testing.assert_array_equal([int(row["steps"]) for row in part], seed.ends)
        assert leaves_equal(pg.load(out / f"policy_{seed.seed}.safetensors"), seed.policy)
    tables = strict((out / "policy_table.json").read_text())
    np.testing.assert_allclose(tables["4"], run.policy(np.arange(4)).probabilities(), atol=1e-6)
    config = strict((out / "config.json").read_text())
    assert config["algorithm"] == "reinforce"
    assert config["settings"]["learning_rate"] == 0.1
    assert (config["env"], config["env_args"], config["backend"]) == ("Bandit-v0", {"sigma": 0.25}, "compiled")
    assert (config["num_steps"], config["num_envs"], config["seeds"]) == (24, 8, [4, 1])
    assert {"python", "jax", "numpy", "optax", "gymnasium"} <= config["versions"].keys()


def test_what_json_does_not_know_is_null(tmp_path: Path) -> None:
    """An update in which no episode ended has no return; own metrics may be infinite."""
    run = train(
        clockwork,
        algorithm=pg.actor_critic(hidden_sizes=()),
        num_envs=2,
        num_steps=12,
        out=tmp_path / "run",
        metrics=lambda agent, rollout: {"infinite": np.inf},
    )
    recorded = lines(tmp_path / "run")
    assert len(recorded) == 6
    for line, value in zip(recorded, run.metrics["return"], strict=True):
        assert line["return"] is None if np.isnan(value) else line["return"] == pytest.approx(value, rel=1e-5)
        assert line["infinite"] is None
    assert recorded[0]["return"] is None


def test_without_a_directory_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = train(out=False, figures=True)
    assert (run.run_dir, run.result()["run_dir"]) == (None, None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("out", [None, True])
def test_the_default_directory_is_new_each_time(out: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    dirs = [train(out=out, updates=1).run_dir for _ in range(3)]
    assert len(set(dirs)) == 3
    for run_dir in dirs:
        assert run_dir is not None
        assert run_dir.parent == Path("runs/Bandit-v0/reinforce")
        assert (run_dir / "result.json").exists()


def test_an_empty_directory_and_a_string_will_do(tmp_path: Path) -> None:
    assert train(out=str(tmp_path), updates=1).run_dir == tmp_path
    assert (tmp_path / "result.json").exists()


def test_figures_are_drawn_after_the_result_is_reported(tmp_path: Path) -> None:
    seen: list[Any] = []

    def report(run: pg.Run) -> None:
        seen.append((run, (run.run_dir / "result.json").exists(), (run.run_dir / "figures").exists()))  # type: ignore[operator]

    run = train(out=tmp_path / "run", updates=1, figures=True, on_result=report)
    assert seen == [(run, True, False)]
    assert list((tmp_path / "run" / "figures").glob("*.png"))
    train(out=tmp_path / "plain", updates=1)
    assert not (tmp_path / "plain" / "figures").exists()


# ── refused before anything happens ──────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be compiled, and no environment started."""

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("the run began")

    for runner in (runners.CompiledRunner, runners.HostRunner):
        for method in ("start", "advance"):
            monkeypatch.setattr(runner, method, fail)
    monkeypatch.setattr("jax.stages.Lowered.compile", fail)


@pytest.mark.parametrize("env", ["Bandit-v0", clockwork])
def test_a_directory_that_is_not_empty(env: Any, tmp_path: Path, nothing_runs: None) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"^output directory '[^\n]*' is not empty: got notes\.txt: name a new directory, or [^\n]*$"):
        train(env, out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_directory_that_cannot_be_written(tmp_path: Path, nothing_runs: None) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "run", "/proc/policygrad/run"):
        with pytest.raises(OutputError, match=r"^output directory '[^\n]*' cannot be written: got [^\n]*: name another directory$"):
            train(out=out)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_run_that_was_there_is_left_alone(tmp_path: Path) -> None:
    train(out=tmp_path / "run", updates=1)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(OutputError):
        train(out=tmp_path / "run", updates=1)
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_what_is_wrong_before_the_first_step_leaves_no_directory(tmp_path: Path) -> None:
    """Also what only shows when environments are made or the iteration is traced."""
    vector = pg.envs.make(lambda: Clockwork()).make_vector(2)  # type: ignore[union-attr]

    def raises(agent: Any, rollout: Any) -> Any:
        raise UsageError("not so")

    cases: list[tuple[Any, dict[str, Any]]] = [
        ("Bandit-v0", {"num_steps": 0}),
        ("Bandit-v0", {"algorithm": pg.reinforce(episodes_per_update=3), "num_envs": 2}),
        (clockwork, {"algorithm": pg.reinforce(episodes_per_update=3, hidden_sizes=()), "num_envs": 2}),
        (vector, {"num_envs": 4, "algorithm": pg.reinforce(hidden_sizes=())}),
        ("Bandit-v0", {"until_solved": True}),
        ("Bandit-v0", {"progress": "loud"}),
        ("Bandit-v0", {"metrics": raises}),
        (clockwork, {"metrics": raises, "num_envs": 2}),
    ]
    for i, (env, options) in enumerate(cases):
        with pytest.raises(UsageError) as caught:
            train(env, out=tmp_path / "deep" / str(i), **options)
        assert "\n" not in str(caught.value)
        assert list(tmp_path.iterdir()) == [], i


def test_a_mistake_of_the_callers_own_leaves_no_directory(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        train(out=tmp_path / "run", metrics=lambda agent, rollout: 1 / 0)  # type: ignore[arg-type, return-value]
    assert list(tmp_path.iterdir()) == []


# ── disks that refuse later ──────────────────────────────────────────────────────────────────────────────────────────


def in_the_way(path: Path) -> Any:
    """An environment that puts a file where something will be written, as soon as the run directory is there."""

    def factory() -> Any:
        if path.parent.exists() and not path.exists():
            path.write_text("in the way")
        return clockwork()

    return factory


@pytest.mark.parametrize("what", ["tensorboard", "figures"])
def test_an_unwritable_picture_or_event_file_ends_no_run(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    env = in_the_way(out / what)
    run = train(env, algorithm=pg.reinforce(hidden_sizes=()), num_envs=2, num_steps=40, out=out, figures=True)
    assert run.num_steps >= 40
    assert (out / what).read_text() == "in the way"
    assert len(lines(out)) == len(run.metrics["steps"])
    assert len(rows(out)) == len(run.returns)
    assert leaves_equal(pg.load(out / "policy_0.safetensors"), run.policy)
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err
    assert all(line.startswith("policygrad: warning: ") for line in told.err.splitlines())


def test_a_policy_that_cannot_be_saved_costs_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"

    def obstruct(progress: Any) -> None:
        (out / "policy_0.safetensors" / "x").mkdir(parents=True, exist_ok=True)

    run = train(out=out, seeds=2, callbacks=obstruct)
    assert run.policy is not None
    assert strict((out / "result.json").read_text()) == run.result()
    assert leaves_equal(pg.load(out / "policy_1.safetensors"), run.policies[1])  # the other seed's is not lost with it
    told = capsys.readouterr()
    assert told.out == ""
    assert len(told.err.splitlines()) == 1
    assert "warning: could not save" in told.err


def test_a_directory_that_vanishes_ends_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import shutil

    out = tmp_path / "run"
    run = train(out=out, callbacks=lambda p: shutil.rmtree(out, ignore_errors=True), figures=True)
    assert run.num_steps == 3 * B
    assert all(line.startswith("policygrad: warning: ") for line in capsys.readouterr().err.splitlines())


class Own(pg.policies.Policy):
    """A policy whose distribution has no logits to make a table of."""

    def __call__(self, obs: Any) -> Any:
        inner = super().__call__(obs)
        return OwnDistribution(inner)


@dataclasses.dataclass
class OwnDistribution:
    inner: Any

    def __getattr__(self, name: str) -> Any:
        if name == "logits":
            raise AttributeError(name)
        return getattr(self.inner, name)


def test_a_policy_of_the_users_own_ends_no_run(tmp_path: Path) -> None:
    import jax

    jax.tree_util.register_dataclass(OwnDistribution, ["inner"], [])

    def own(key: Any, spec: Any) -> Any:
        table = pg.policies.table()(key, spec)
        return Own(table.features, table.head, table.observation_space, table.action_space)

    run = train(out=tmp_path / "run", algorithm=pg.reinforce(policy=own))
    assert run.num_steps == 3 * B
    assert (tmp_path / "run" / "result.json").exists()
    assert leaves_equal(pg.load(tmp_path / "run" / "policy_0.safetensors", like=run.policy), run.policy)


# ── what the terminal shows ──────────────────────────────────────────────────────────────────────────────────────────


def test_progress_is_silent_unless_asked_for_and_never_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    train(out=False)
    assert capsys.readouterr() == ("", "")
    for progress in (True, "plain", "auto", "bar"):  # there is no terminal: plain lines
        train(out=False, progress=progress)
        told = capsys.readouterr()
        assert told.out == ""
        assert "reinforce on Bandit-v0" in told.err
        assert "compiled" not in told.err  # there is no other to choose
        assert "\x1b" not in told.err
    pg.train("CartPole-v1", pg.reinforce(), num_steps=1, num_envs=2, out=False, figures=False, progress=True)
    assert "CartPole-v1: compiled" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("metrics", "what"),
    [
        (lambda agent, rollout: {"return": rollout.reward.mean()}, "named 'return'"),
        (lambda agent, rollout: {"entropy": rollout.reward.mean()}, "named 'entropy'"),
        (lambda agent, rollout: {"rewards": rollout.reward}, r"'rewards' of shape \(1, 4\)"),
    ],
)
def test_an_own_metric_that_cannot_be_recorded_is_told_in_one_line(metrics, what, tmp_path) -> None:
    with pytest.raises(pg.UsageError, match=what):
        pg.train("Bandit-v0", pg.reinforce(), num_steps=8, num_envs=4, metrics=metrics, out=tmp_path / "run", figures=False)
    assert not (tmp_path / "run").exists()
