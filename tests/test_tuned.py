from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

import policygrad as pg
from policygrad.cli import main
from policygrad.cli.train_request import train_request
from policygrad.errors import UnknownNameError, UsageError
from policygrad.tuned_settings import EVALUATED, STEPS_TO_SOLVE, TUNED, Measured

CARTPOLE = ["ppo", "--env", "CartPole-v1", "--tuned"]


@pytest.mark.parametrize("entry", TUNED.values(), ids=lambda entry: f"{entry.env}-{entry.name}")
def test_every_entry_is_an_algorithm_that_can_run(entry):
    algorithm = entry.algorithm()
    assert algorithm.name == entry.name
    assert {key: algorithm.settings[key] for key in entry.settings} == entry.settings
    assert entry.num_steps > 0 < entry.num_envs
    assert entry.note, "it says where it comes from"
    if algorithm.collect.kind == "episodes":
        algorithm.collect.episodes_per_update(entry.num_envs)
    elif minibatches := algorithm.settings.get("minibatches"):
        assert algorithm.collect.count * entry.num_envs % minibatches == 0


def test_settings_are_plain_data():
    for entry in TUNED.values():
        assert json.loads(json.dumps(entry.settings)) == {key: list(v) if isinstance(v, tuple) else v for key, v in entry.settings.items()}


def test_measured_entries_say_by_which_seeds_and_code():
    measured = [entry.measured for entry in TUNED.values() if entry.measured is not None]
    assert measured
    for one in measured:
        assert one.what in (STEPS_TO_SOLVE, EVALUATED)
        assert len(one.values) == len(one.seeds) == len(set(one.seeds)) >= 5
        assert max(one.seeds) < 100, "those from 100 on chose the settings"
        assert one.commit
        assert one.backend in ("compiled", "gymnasium")


def test_the_figure_is_a_median_of_steps_and_a_mean_of_returns():
    solved = Measured(STEPS_TO_SOLVE, (10, None, 30), (0, 1, 2), "compiled", "abc")
    assert solved.figure == 30, "the one that did not solve took for ever"
    assert replace(solved, values=(None, None, 30)).figure == math.inf
    assert replace(solved, what=EVALUATED, values=(1.0, 2.0, 6.0)).figure == 3.0


def test_an_entry_takes_changes():
    entry = pg.tuned("CartPole-v1", "ppo")
    assert entry.algorithm(learning_rate=0.5).settings == {**entry.algorithm().settings, "learning_rate": 0.5}
    with pytest.raises(UsageError, match=r"learning_rate: got -1"):
        entry.algorithm(learning_rate=-1)


def test_names_that_are_not_there():
    with pytest.raises(UnknownNameError, match=r"unknown environment with tuned settings 'CartPole-v0': did you mean CartPole-v1"):
        pg.tuned("CartPole-v0", "ppo")
    with pytest.raises(UnknownNameError, match="unknown algorithm 'pop': did you mean ppo"):
        pg.tuned("CartPole-v1", "pop")
    with pytest.raises(UsageError, match=r"tuned: got ppo_kl for Hopper-v5, which has no entry; Hopper-v5 has those of reinforce, .*ppo$"):
        pg.tuned("Hopper-v5", "ppo_kl")
    with pytest.raises(UsageError, match="tuned: got int; it must be the id"):
        pg.tuned("CartPole-v1", 3)  # type: ignore[arg-type]


def test_the_flag_takes_settings_and_sizes_and_other_flags_override_them():
    entry = pg.tuned("CartPole-v1", "ppo")
    request = train_request(CARTPOLE)
    assert request.settings == entry.settings
    assert request.run == {"env": "CartPole-v1", "num_envs": entry.num_envs, "num_steps": entry.num_steps, "env_args": {}}
    other = train_request([*CARTPOLE, "--learning-rate", "0.1", "--num-steps", "64", "--num-envs", "2", "--epochs", "3"])
    assert other.settings == {**entry.settings, "learning_rate": 0.1, "epochs": 3}
    assert (other.run["num_steps"], other.run["num_envs"]) == (64, 2)
    assert train_request(["ppo", "--env", "gymnasium:CartPole-v1", "--tuned"]).settings == entry.settings


def test_the_flag_and_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.toml").write_text("env = 'CartPole-v1'\ntuned = true\nepochs = 2\n")
    assert train_request(["ppo", "--config", "c.toml"]).settings == {**pg.tuned("CartPole-v1", "ppo").settings, "epochs": 2}
    (tmp_path / "config.json").write_text(json.dumps({"algorithm": "ppo", "env": "CartPole-v1", "num_steps": 8, "settings": {}}))
    with pytest.raises(UsageError, match=r"--tuned: got it with config\.json, the configuration of a run"):
        train_request(["ppo", "--config", "config.json", "--tuned"])


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["ppo", "--tuned"], "--env missing: tuned settings are those of an environment"),
        (["ppo", "--env", "Bandit-v0", "--tuned"], "unknown environment with tuned settings 'Bandit-v0'"),
        (["ppo_kl", "--env", "Hopper-v5", "--tuned"], "got ppo_kl for Hopper-v5"),
    ],
)
def test_what_is_wrong_is_one_line(capsys, words, why):
    assert main(["train", *words]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert why in said.err


def test_the_list_tells_figures_seeds_and_settings(capsys):
    assert main(["list", "--tuned"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for entry in TUNED.values():
        assert f" {entry.name} " in text
        if entry.measured is None:
            assert f" {entry.name} not measured here; {entry.num_steps:,} steps, {entry.num_envs} environments" in text
    assert "max_grad_norm none" in text
    assert main(["list", "--tuned", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["tuned"]
    assert [(one["env"], one["algorithm"]) for one in listed] == list(TUNED)
    for one in listed:
        measured = TUNED[one["env"], one["algorithm"]].measured
        assert (one["measured"] is None) == (measured is None)
        if measured is not None:
            assert one["measured"]["values"] == list(measured.values)
