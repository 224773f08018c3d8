"""Diagnostics of a run: the run stays as it is, the exact cosine is exact, and what is asked for reaches the records."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import policygrad as pg
from policygrad import oracle
from policygrad.cli import main
from policygrad.cli.train_request import train_request
from policygrad.errors import UsageError
from policygrad.records import load_run
from policygrad.report import pictures
from policygrad.training.runners import Chunk
from policygrad.training.train import _SampleSize
from rollout.toys import clockwork, programs_agree
from zoo import random_mdp

QUICK: dict[str, Any] = {"out": False, "figures": False}
NAMES = {"gradient_variance", "gradient_signal", "gradient_snr", "gradient_noise_scale", "half_batch_cosine"}
MDP = random_mdp(0, 2, 2, time_limit=3)


def strict(text: str) -> Any:
    def refuse(word: str) -> Any:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


# ── the run ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("env", "algorithm"), [(MDP, pg.reinforce()), (clockwork, pg.actor_critic(rollout_length=4, hidden_sizes=()))])
def test_a_diagnosed_run_is_the_same_run(env: Any, algorithm: Any, tmp_path: Path) -> None:
    """Bit for bit: policy, agent, metrics, episodes; in both loops."""
    options: dict[str, Any] = {"num_steps": 120, "num_envs": 4, "figures": False}
    with_it = pg.train(env, algorithm, diagnostics=True, out=tmp_path / "run", **options)
    without = pg.train(env, algorithm, out=tmp_path / "other", **options)
    for name in ("policy", "agent", "returns", "lengths", "ends"):
        assert programs_agree(getattr(with_it.seeds[0], name), getattr(without.seeds[0], name)), name
    added = with_it.metrics.keys() - without.metrics.keys()
    assert added == NAMES | ({"exact_cosine"} if env is MDP else set())
    for name in without.metrics:
        assert programs_agree(with_it.metrics[name], without.metrics[name]), name
    for name in added - {"gradient_noise_scale"}:  # which is NaN where the noise hides the signal
        assert np.isfinite(with_it.metrics[name]).all()
        assert len(set(with_it.metrics[name])) == len(with_it.metrics["steps"])
    # What was asked for, and what came of it, is on the disk.
    assert [strict((tmp_path / run / "config.json").read_text())["diagnostics"] for run in ("run", "other")] == [True, False]
    lines = [strict(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(added <= line.keys() for line in lines)
    assert [line["half_batch_cosine"] for line in lines] == pytest.approx(with_it.metrics["half_batch_cosine"], rel=1e-5)
    runs = [load_run(tmp_path / run) for run in ("run", "other")]
    assert [pictures._gradient_quality([run], tmp_path / f"{run.run_dir.name}.png") for run in runs] == [True, False]
    assert pictures._gradient_quality(runs, tmp_path / "both.png")
    assert {path.name for path in tmp_path.glob("*.png")} == {"run.png", "both.png"}


def test_the_exact_cosine_is_that_to_the_exact_gradient() -> None:
    """Against the gradient that the update sees, and central differences of the exact objective."""
    algorithm = pg.reinforce(learning_rate=0.3, baseline="none")

    def own(agent: Any, rollout: Any) -> dict:
        gradient = algorithm.gradient(agent, rollout)[0].policy
        logits = agent.params.policy.head.logits
        pairs = zip(gradient.head.logits.ravel(), logits.ravel(), strict=True)
        return {f"{name}{i}": value for i, pair in enumerate(pairs) for name, value in zip(("gradient", "logit"), pair, strict=True)}

    found = []
    for progress in pg.iterate(MDP, algorithm, num_steps=90, num_envs=6, diagnostics=True, metrics=own):
        seen = progress.metrics
        gradient, logits = (np.array([seen[f"{name}{i}"] for i in range(4)]) for name in ("gradient", "logit"))

        def objective(theta: np.ndarray) -> float:
            return float(oracle.objective(MDP, pg.policies.tabular_softmax(theta.reshape(2, 2))))

        h = 1e-5
        exact = np.array([(objective(logits + h * e) - objective(logits - h * e)) / (2 * h) for e in np.eye(4)])
        wanted = gradient @ exact / np.linalg.norm(gradient) / np.linalg.norm(exact)
        assert seen["exact_cosine"] == pytest.approx(wanted, abs=1e-4)
        found.append(wanted)
    assert len(found) >= 5
    assert max(found) - min(found) > 0.1


def test_where_there_is_no_exact_gradient_the_run_goes_on_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    endless = MDP.replace(time_limit=None, discount=1.0)
    run = pg.train(endless, pg.actor_critic(), num_steps=8, num_envs=4, diagnostics=True, **QUICK)
    assert run.metrics.keys() >= NAMES
    assert "exact_cosine" not in run.metrics
    (line,) = capsys.readouterr().err.splitlines()
    assert "diagnostics without exact_cosine: " in line
    assert "may never end" in line


def test_what_diagnostics_may_be() -> None:
    for call in (pg.train, lambda *args, **options: next(pg.iterate(*args, **options))):
        with pytest.raises(UsageError, match=r"^diagnostics: got 'yes'; it must be True or False$"):
            call("Bandit-v0", pg.reinforce(), num_steps=8, diagnostics="yes")  # type: ignore[arg-type]


# ── the command line ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_flag_and_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("policygrad.report.figures", lambda *args, **kwargs: [])
    words = ["reinforce", "--env", "Bandit-v0", "--num-steps", "8"]
    assert "diagnostics" not in train_request(words).run
    assert train_request([*words, "--diagnostics"]).run["diagnostics"] is True
    Path("c.toml").write_text("diagnostics = true\n")
    assert train_request([*words, "--config", "c.toml"]).run["diagnostics"] is True
    assert train_request([*words, "--config", "c.toml", "--no-diagnostics"]).run["diagnostics"] is False
    Path("c.toml").write_text('diagnostics = "yes"\n')
    with pytest.raises(UsageError, match=r"^c.toml: diagnostics: got 'yes'; it must be true or false$"):
        train_request([*words, "--config", "c.toml"])
    # A run's own configuration makes the same run again.
    assert main(["train", *words, "--num-envs", "4", "--diagnostics", "--out", "run", "--json"]) == 0
    assert main(["train", "--config", "run/config.json", "--out", "again", "--json"]) == 0
    assert [strict(line).keys() >= NAMES for line in Path("again/metrics.jsonl").read_text().splitlines()] == [True, True]


# ── the effective sample size ────────────────────────────────────────────────────────────────────────────────────────


def test_few_effective_samples_are_warned_about_once(capsys: pytest.CaptureFixture[str]) -> None:
    algorithm = pg.reinforce(learning_rate=0.1)

    def update(key: Any, agent: Any, rollout: Any) -> Any:
        after, metrics = algorithm.update(key, agent, rollout)
        return after, metrics | {"effective_sample_size": jnp.where(agent.steps >= 16, 0.04, 0.5)}

    pg.train("Bandit-v0", algorithm._replace(update=update), num_steps=40, num_envs=8, seeds=[3, 1], **QUICK)
    (line,) = capsys.readouterr().err.splitlines()
    # Seeds go side by side: whichever comes to its third update first is the one that is named.
    assert re.search(r"the importance weights leave 4 % of the sample \(effective_sample_size\) in update 3 of seed [31]: ", line)
    assert "learning_rate" in line


def test_updates_without_steps_have_no_sample() -> None:
    said: list[str] = []
    shares, nothing = np.array([0.0, 0.5, 0.0, 0.05, np.nan]), np.zeros(0)
    chunk = Chunk({"effective_sample_size": shares}, np.array([8, 16, 16, 24, 32]), nothing, nothing, nothing, nothing)
    sample = _SampleSize(said.append)
    sample.check(chunk._replace(metrics={}), 0, 5, 0)
    sample.check(chunk, 0, 10, before=8)
    assert len(said) == 1
    assert "leave 5 % of the sample (effective_sample_size) in update 9 of seed 0" in said[0]
    sample.check(chunk, 1, 10, before=0)
    assert len(said) == 1
