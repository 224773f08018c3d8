"""`policygrad lab`, with few of its estimators."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jax
import pytest

from policygrad import lab
from policygrad.cli import main

FEW = ("total return", "reward-to-go", "mean, leave-one-out", "least squares, same-batch", "TD, half of V(t, o)")


@pytest.fixture(autouse=True)
def few(tmp_path, monkeypatch):
    """In an empty directory, on a terminal of 80 columns, five estimators."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    every = lab.estimators
    monkeypatch.setattr(lab, "estimators", lambda discount: [estimator for estimator in every(discount) if estimator.name in FEW])


def test_table_and_picture(capsys):
    before = jax.config.read("jax_disable_most_optimizations")
    assert main(["lab", "--horizon", "2"]) == 0
    assert jax.config.read("jax_disable_most_optimizations") == before
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert max(map(len, lines[3:-3])) <= 120
    assert lines[0].startswith("fork: 3 states, 3 observations, 2 actions; γ = 0.9, episodes of at most 2 steps, 2 an update")
    rows = {line[:43].strip(): line[43:].split() for line in lines if line.startswith("  ")}
    assert rows["total return"][:2] == ["0", "0"]
    assert rows["total return"][3] == "1"
    assert rows["reward-to-go"][1].endswith("%")
    assert rows["least squares, same-batch"] == ["–"]
    assert any(line.startswith("– least squares, same-batch: ") for line in lines)
    assert lines[-1] == "figure: figures/lab/fork/comparison.png"
    assert Path("figures/lab/fork/comparison.png").stat().st_size > 10_000


def test_json_is_one_object(capsys):
    assert main(["lab", "--json", "--horizon=2", "--out", "here"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.count("\n") == 1
    result = json.loads(out)
    assert list(result) == [
        "mdp", "num_trajectories", "sequences", "batches", "policy", "behaviour", "objective", "gradient", "cosine", "estimators",
    ]  # fmt: skip
    assert [row["name"] for row in result["estimators"]] == list(FEW)
    row = result["estimators"][0]
    assert list(row) == ["group", "name", *lab.NUMBERS, "note"]
    assert row["unbiased"] is True
    assert result["estimators"][3]["variance"] is None
    assert Path("here/comparison.png").exists()


def test_an_mdp_without_a_gradient(capsys, monkeypatch):
    mdp = lab.world("fork").replace(rewards=[[0.0, 0.0]] * 3, name="poor")
    monkeypatch.setattr(lab, "world", lambda name: mdp)
    assert main(["lab", "--horizon", "2"]) == 0
    out = capsys.readouterr().out
    assert "∇J is 0: there is nothing to estimate" in out
    assert "never" in out
    assert Path("figures/lab/poor/comparison.png").exists()


def test_help(capsys):
    assert main(["lab", "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("usage: policygrad lab ")
    assert max(map(len, out.splitlines())) <= 80
    assert all(flag in out for flag in ("--mdp", "--num-trajectories", "--horizon", "--out", "--json"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--mdp frok", "unknown finite MDP 'frok': did you mean fork?"),
        ("--mdp FrozenLake-v1", "--horizon: got 100 steps of FrozenLake-v1 with num_trajectories 2; the largest that fits is 2"),
        ("--mdp CartPole-v1", "CartPole-v1: CartPoleEnv carries no tables"),
        ("--mdp two-state", "--horizon: got none for two-state, which has no time limit; give the steps of an episode, e.g. 3"),
        ("--num-trajectories 0", "--num-trajectories: got 0; it must be a whole number of at least 1"),
        ("--num-trajectories x", "--num-trajectories: got 'x'; it must be a whole number"),
        ("--mpd fork", "unknown flag '--mpd': did you mean --mdp?"),
        ("fork", "unexpected 'fork': lab takes flags only; name the MDP with --mdp fork"),
    ],
)
def test_bad_input(words, message, capsys):
    assert main(["lab", *words.split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"policygrad: error: .{10,300}\n", err)
    assert message in err
    assert list(Path().iterdir()) == []
