from __future__ import annotations

import inspect
import io
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

import policygrad as pg
from policygrad.baselines import KINDS
from policygrad.cli import main
from policygrad.cli.options import recipe_options
from policygrad.cli.output import evaluation_text, number, run_text, to_json
from policygrad.cli.train_request import RUN_OPTIONS, train_request
from policygrad.envs.finite_worlds import WORLDS
from policygrad.policies import GRU
from policygrad.policies.features import Fourier
from policygrad.policies.heads import SquashedOf
from policygrad.training.result import Run, SeedResult

RESULT_KEYS = [
    "algorithm",
    "env",
    "backend",
    "num_steps",
    "num_envs",
    "seeds",
    "final_return",
    "return_at_best",
    "steps_to_solve",
    "compile_seconds",
    "run_seconds",
    "steps_per_second",
    "run_dir",
]
BANDIT = ["train", "reinforce", "--env", "Bandit-v0", "--num-envs", "8", "--num-steps", "64"]

ENVS = '''
    import gymnasium
    import numpy as np
    from gymnasium import spaces

    class Faulty(gymnasium.Env):
        """Episodes of 5 steps; from its own `at`-th step on it misbehaves, in copies with an odd seed only if `odd`."""

        observation_space = spaces.Box(-1, 1, (2,), np.float32)
        action_space = spaces.Discrete(2)

        def __init__(self, fault="none", at=1, odd=False):
            self.fault, self.at, self.odd, self.steps, self.seen = fault, at, odd, 0, True

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            if seed is not None and self.odd:
                self.seen = seed % 2 == 1
            self.time = 0
            return np.zeros(2, np.float32), {}

        def step(self, action):
            self.steps, self.time = self.steps + 1, self.time + 1
            fault = self.fault if self.seen and self.steps >= self.at else "none"
            if fault == "raise":
                raise ValueError("the arm\\nfell off")
            obs = {"nan": np.full(2, np.nan), "shape": np.zeros(3), "outside": np.full(2, 7.0)}.get(fault, np.zeros(2))
            return obs.astype(np.float32), np.nan if fault == "reward" else 1.0, False, self.time >= 5, {}

    gymnasium.register("Faulty-v0", entry_point=Faulty)
'''


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Every command runs in an empty directory, on a terminal of 80 columns."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


@pytest.fixture
def no_figures(monkeypatch):
    monkeypatch.setattr("policygrad.report.figures", lambda *args, **kwargs: [])


@pytest.fixture
def faulty_envs(here, monkeypatch):
    import gymnasium

    (here / "faulty_envs.py").write_text(textwrap.dedent(ENVS))
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield "faulty_envs:Faulty-v0"
    sys.modules.pop("faulty_envs", None)
    gymnasium.registry.pop("Faulty-v0", None)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    """A run of two seeds, made once."""
    out = tmp_path_factory.mktemp("cli") / "run"
    pg.train(
        "Bandit-v0", pg.reinforce(learning_rate=0.1), num_steps=64, num_envs=8, seeds=2, out=out, figures=False, env_args={"sigma": 0.5}
    )
    return out


def files(folder: Path = Path()) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*") if "__pycache__" not in str(path))


def strict(text: str):
    def refuse(constant: str):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


# ---------------------------------------------------------------- train


def test_train_reports_and_says_where_everything_is(capsys):
    assert main([*BANDIT, "--seeds", "2", "--out", "run"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("reinforce on Bandit-v0 (compiled): 64 steps each, 8 environments, 2 seeds\n")
    assert re.search(r"^  final return   -?[\d.]+  \(mean of 2 seeds, from -?[\d.]+ to -?[\d.]+\)$", out, re.MULTILINE)
    assert re.search(r"^  speed .* steps/s; ran .* s, compiled .* s$", out, re.MULTILINE)
    assert re.search(r"^  run            run$", out, re.MULTILINE)
    drawn = re.findall(r"run/figures/\w+\.png", out)
    assert drawn
    assert all(Path(path).is_file() for path in drawn)
    assert {"run/config.json", "run/policy_0.safetensors", "run/policy_1.safetensors"} <= set(files())
    assert "\r" not in err  # no terminal, no bar
    assert "reinforce on Bandit-v0" in err


def test_json_is_the_only_thing_on_stdout_and_comes_before_the_figures(capsys, monkeypatch):
    seen = []
    monkeypatch.setattr("policygrad.report.figures", lambda *args, **kwargs: seen.append(capsys.readouterr().out) or [])
    assert main([*BANDIT, "--seeds", "2", "--json", "--plain"]) == 0
    assert capsys.readouterr().out == ""
    (out,) = seen
    assert out.count("\n") == 1
    result = strict(out)
    assert list(result) == RESULT_KEYS
    assert result["num_steps"] == 64
    assert result["seeds"] == [0, 1]
    assert len(result["final_return"]) == len(result["steps_to_solve"]) == 2
    assert result["run_dir"].startswith(os.path.join("runs", "Bandit-v0", "reinforce"))
    assert strict(Path(result["run_dir"], "result.json").read_text()) == result


def test_flags_reach_the_recipe_and_the_run():
    words = "reinforce --learning-rate 0.5 --baseline running-mean --no-normalize-advantages --learning-rate-decay --hidden-sizes 8 4"
    words += " --env Bandit-v0 --num-steps 1e3 --num-envs 8 --seed 7 --backend compiled --until-solved --env-args sigma=0 --out run --plain"
    request = train_request(words.split())
    assert request.algorithm == "reinforce"
    assert request.settings == {
        "learning_rate": 0.5,
        "baseline": "running-mean",
        "normalize_advantages": False,
        "learning_rate_decay": True,
        "hidden_sizes": (8, 4),
    }
    run = {"env": "Bandit-v0", "num_steps": 1000, "num_envs": 8, "seed": 7, "backend": "compiled", "until_solved": True, "plain": True}
    assert request.run == {**run, "env_args": {"sigma": 0}, "out": "run"}


def test_every_run_option_is_an_argument_of_train():
    arguments = set(inspect.signature(pg.train).parameters)
    assert set(RUN_OPTIONS) - arguments == {"config", "json", "plain", "tuned"}
    assert {"env", "num_steps"} <= set(RUN_OPTIONS)
    for recipe in pg.RECIPES.values():
        assert not set(recipe_options(recipe)) & set(RUN_OPTIONS), "a flag would mean two things"


def test_a_policy_can_be_started_from(capsys, no_figures, run_dir):
    assert main([*BANDIT, "--init", str(run_dir / "policy_0.safetensors"), "--out", "run"]) == 0


def test_the_algorithm_may_come_after_flags():
    request = train_request(["--env", "Bandit-v0", "--num-steps=8", "--json", "reinforce"])
    assert (request.algorithm, request.run["json"]) == ("reinforce", True)
    assert train_request(["actor_critic", "--env", "reinforce", "--num-steps", "8"]).run["env"] == "reinforce"


def test_a_module_can_bring_the_environment(capsys, no_figures, faulty_envs):
    words = ["--env", faulty_envs, *["--env-args", "at=10_000", "--num-envs", "2", "--num-steps", "20", "--out", "run", "--json"]]
    assert main(["train", "reinforce", *words]) == 0
    assert strict(capsys.readouterr().out)["final_return"] == [5.0]
    assert main(["evaluate", "run", "--env", faulty_envs, "--num-episodes", "2", "--json"]) == 0
    assert strict(capsys.readouterr().out)["returns"] == [[5.0, 5.0]]


# ---------------------------------------------------------------- configuration files


def test_a_runs_own_config_makes_the_run_again(capsys, no_figures, run_dir):
    assert main(["train", "--config", str(run_dir / "config.json"), "--out", "again", "--json"]) == 0
    first, second = strict((run_dir / "config.json").read_text()), strict(Path("again/config.json").read_text())
    first.pop("date"), second.pop("date")
    assert first == second
    assert [(run_dir / f"policy_{s}.safetensors").read_bytes() == Path(f"again/policy_{s}.safetensors").read_bytes() for s in (0, 1)] == [
        True
    ] * 2


def test_a_policy_is_made_of_flags_and_of_the_config_that_they_leave(capsys, no_figures):
    parts = "--features fourier --memory gru --memory-size 8 --truncate 16 --head squashed"
    words = f"train ppo --env Pendulum-v1 --num-envs 2 --num-steps 64 --rollout-length 32 --epochs 1 --minibatches 1 {parts} --out run"
    assert main([*words.split(), "--json"]) == 0
    policy = pg.load("run/policy_0.safetensors")
    assert isinstance(policy.features, Fourier)
    assert (type(policy.memory), policy.memory.size, policy.memory.truncate) == (GRU, 8, 16)
    assert isinstance(policy.head.readout, SquashedOf)
    chosen = {"features": "fourier", "memory": "gru", "memory_size": 8, "truncate": 16, "head": "squashed"}
    settings = strict(Path("run/config.json").read_text())["settings"]
    assert {name: settings[name] for name in chosen} == chosen
    again = train_request(["--config", "run/config.json"])
    assert pg.ppo(**again.settings).settings == pg.ppo(**train_request(words.split()[1:]).settings).settings
    words = ["--memory", "none", "--truncate", "none"]
    assert main(["train", "ppo", "--env", "Bandit-v0", "--num-steps", "8", "--head", "squashed"]) == 2
    assert "the head 'squashed' needs Box actions: got Discrete(" in " ".join(capsys.readouterr().err.split())
    assert train_request(["--config", "run/config.json", *words]).settings["memory"] == "none"


def test_flags_override_a_config(run_dir):
    config = ["--config", str(run_dir / "config.json")]
    request = train_request([*config, *["--seed", "3", "--learning-rate", "0.2", "--env-args", "means=[[0,1]]", "--num-steps", "16"]])
    assert request.settings["learning_rate"] == 0.2
    assert {"seeds", "config"}.isdisjoint(request.run)
    assert (request.run["seed"], request.run["num_steps"], request.run["num_envs"]) == (3, 16, 8)
    assert request.run["env_args"] == {"sigma": 0.5, "means": [[0, 1]]}
    other = train_request([*config, "--env", "RockPaperScissors-v0"])
    assert other.run["env_args"] == {}, "those of the bandit"
    assert other.run["seeds"] == (0, 1)
    assert "backend" not in other.run, "the one that was found for the bandit"


def test_a_toml_file_with_hyphens():
    Path("c.toml").write_text(
        'algorithm = "actor_critic"\nenv = "Bandit-v0"\nnum-steps = 16\nhidden-sizes = []\nseeds = [4, 2]\nuntil-solved = true\n'
        "max-grad-norm = 1\n[env_args]\nsigma = 2.0\n"
    )
    request = train_request(["--config=c.toml", "--no-until-solved", "--max-grad-norm", "none"])
    assert request.algorithm == "actor_critic"
    assert request.settings == {"hidden_sizes": (), "max_grad_norm": None}
    run = {"env": "Bandit-v0", "num_steps": 16, "seeds": (4, 2), "until_solved": False, "env_args": {"sigma": 2.0}}
    assert request.run == run
    with pytest.raises(pg.UsageError, match=r"^--seed and --seeds: got both"):
        train_request(["--config=c.toml", "--seed", "1", "--seeds", "2"])


# ---------------------------------------------------------------- evaluate, plot, list


def test_evaluate_a_run(capsys, run_dir):
    assert main(["evaluate", str(run_dir), "--num-episodes", "5", "--json"]) == 0
    result = strict(capsys.readouterr().out)
    assert (result["env"], result["backend"], result["seeds"], result["num_episodes"]) == ("Bandit-v0", "compiled", [0, 1], 5)
    for seed in (0, 1):
        expected = pg.evaluate(run_dir / f"policy_{seed}.safetensors", "Bandit-v0", num_episodes=5, env_args={"sigma": 0.5})
        assert result["returns"][seed] == expected.returns.tolist()
        assert result["mean"][seed] == expected.mean
        assert tuple(result["interval"][seed]) == expected.interval
    assert main(["evaluate", "--num-episodes", "5", str(run_dir)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Bandit-v0 (compiled): 5 episodes, likeliest actions\n")
    assert re.findall(r"^  (seed \d)  ", out, re.MULTILINE) == ["seed 0", "seed 1"]
    assert f"{number(result['mean'][0])}  (95 % interval {number(result['interval'][0][0])} to" in out
    assert all(number(value) in out for returns in result["returns"] for value in returns)


def test_evaluate_a_policy_file(capsys, run_dir):
    policy = str(run_dir / "policy_1.safetensors")
    assert main(["evaluate", policy, "--num-episodes", "4", "--json", "--sample", "--seed", "3"]) == 0
    beside = strict(capsys.readouterr().out)
    expected = pg.evaluate(policy, "Bandit-v0", num_episodes=4, sample=True, seed=3, env_args={"sigma": 0.5})
    assert beside["returns"] == expected.returns.tolist()
    assert isinstance(beside["mean"], float)
    alone = Path("alone.safetensors")
    alone.write_bytes(Path(policy).read_bytes())
    assert main(["evaluate", str(alone), "--env", "Bandit-v0", "--env-args", "sigma=0", "--num-episodes", "3"]) == 0
    assert re.fullmatch(r"Bandit-v0 .*: 3 episodes, .*\n  mean return  [-\d.]+  \(95 % interval .*\)\n( {4}.*\n)+", capsys.readouterr().out)


def test_equal_returns_are_counted(capsys):
    evaluation = pg.Evaluation(np.array([500.0] * 7 + [31.5] + [500.0] * 40), np.ones(48, int), "Toy-v0", "compiled")
    assert evaluation_text("seed 0", evaluation).splitlines()[1:] == ["    500 ×7 31.50 500 ×40"]


def test_plot(capsys, run_dir):
    assert main(["plot", str(run_dir), str(run_dir), "--out", "pictures"]) == 0
    printed = capsys.readouterr().out.split()
    assert printed == [path for path in printed if Path(path).is_file()]
    assert sorted(printed) == files(Path("pictures"))


def test_plot_that_cannot_write(capsys, run_dir):
    Path("taken").write_text("")
    assert main(["plot", str(run_dir), "--out", "taken"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"policygrad: error: taken/.*\n", err)


def test_list(capsys):
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    for name in (
        "CartPole-v1*",
        "PositionOnlyCartPole-v0*",
        "Bandit-v0",
        "Taxi-v4",
        "reinforce",
        "actor_critic",
        "episode-mean",
        "short-corridor",
    ):
        assert name in out
    assert "Blackjack-v1" in out, "its observation is a tuple"
    assert max(map(len, out.splitlines())) <= 80
    assert len(out.splitlines()) < 80
    assert main(["list", "--json"]) == 0
    listed = strict(capsys.readouterr().out)
    assert listed["algorithms"]["reinforce"].startswith("REINFORCE")
    assert set(listed["environments"]) == {"compiled", "gymnasium"}
    assert set(listed["baselines"]) == set(KINDS)
    assert set(listed["worlds"]) == set(WORLDS)


def test_version_and_help(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"policygrad {pg.__version__}\n"
    for words in ([], ["--help"], ["-h"], ["help"]):
        assert main(words) == 0
        out = capsys.readouterr().out
        assert all(command in out for command in ("train", "evaluate", "plot", "lab", "list"))
    for words in (
        "train -h",
        "train --help reinforce",
        "train actor_critic --num-steps x --help",
        "evaluate -h",
        "plot -h",
        "lab -h",
        "list -h",
    ):
        assert main(words.split()) == 0
        out = capsys.readouterr().out
        assert out.startswith(f"usage: policygrad {words.split()[0]} ")
        assert max(map(len, out.splitlines())) <= 80
    assert main(["train", "reinforce", "--help"]) == 0
    out = capsys.readouterr().out
    assert "REINFORCE: Monte-Carlo policy gradient over whole episodes." in out
    assert "∇J ≈ (1/N) Σ_i Σ_t ∇ log π(a_t|o_t) (G_t − b)" in out


# ---------------------------------------------------------------- bad input: exit code 2, one line, nothing written

GOOD = "train reinforce --env Bandit-v0 --num-steps 64"
BAD = [
    ("trian", "'trian' did you mean train?"),
    ("--json list", "'--json' a command comes before its flags"),
    ("train", "needs an algorithm known: reinforce, actor_critic"),
    ("train --env Bandit-v0", "needs an algorithm '--env'"),
    ("train renforce --env Bandit-v0 --num-steps 64", "unknown algorithm 'renforce' did you mean reinforce?"),
    ("train reinforce", "--env and --num-steps missing"),
    ("train reinforce --env Bandit-v0", "--num-steps missing"),
    ("train reinforce --env CartPole-v9 --num-steps 64", "unknown environment 'CartPole-v9' CartPole-v1"),
    ("train reinforce --env cartpole --num-steps 64", "unknown environment 'cartpole' did you mean CartPole-v1"),
    ("train reinforce --env nowhere:Env-v0 --num-steps 64", "--env 'nowhere:Env-v0' No module named 'nowhere'"),
    ("train ppo --env CartPole-v1 --num-steps 64 --head beta", "head 'beta' needs Box actions got Discrete(2)"),
    ("train ppo --env CartPole-v1 --num-steps 64 --memory elman", "--memory 'elman' gru, lstm, none"),
    ("train ppo --env CartPole-v1 --num-steps 512 --memory gru --num-envs 3", "minibatches got 4 3 sequences"),
    ("train reinforce --env Taxi-v4 --num-steps 64 --backend compiled", "unknown compiled environment 'Taxi-v4'"),
    (f"{GOOD} --backend gymnasium", "Bandit-v0 only compiled"),
    (f"{GOOD} --backend jax", "unknown --backend 'jax' compiled, gymnasium"),
    (f"{GOOD} --vectorization threads", "unknown --vectorization 'threads' sync"),
    (f"{GOOD} --env-args bogus=1", "'Bandit-v0' does not take bogus sigma"),
    (f"{GOOD} --env-args bogus", "--env-args 'bogus' name=value"),
    (f"{GOOD} --num-steps 0", "--num-steps: got 0 from 1"),
    (f"{GOOD} --num-steps -5", "--num-steps: got -5 from 1"),
    (f"{GOOD} --num-steps 1e30", "--num-steps: got 1000 to 2,147,483,647"),
    (f"{GOOD} --num-steps inf", "--num-steps: got 'inf' whole number"),
    (f"{GOOD} --num-steps nan", "--num-steps: got 'nan' whole number"),
    (f"{GOOD} --num-steps many", "--num-steps: got 'many' whole number"),
    (f"{GOOD} --num-envs 0", "--num-envs: got 0 from 1"),
    (f"{GOOD} --learning-rate -1e-3", "--learning-rate: got -0.001 finite"),
    (f"{GOOD} --learning-rate nan", "--learning-rate: got nan finite"),
    (f"{GOOD} --learning-rate inf", "--learning-rate: got inf finite"),
    (f"{GOOD} --learning-rate fast", "--learning-rate: got 'fast' a number"),
    (f"{GOOD} --learning-rate", "--learning-rate: got no value write --learning-rate X"),
    (f"{GOOD} --lerning-rate 1", "unknown flag '--lerning-rate' did you mean --learning-rate"),
    (f"{GOOD} --num-step 1", "unknown flag '--num-step' did you mean --num-steps"),
    (f"{GOOD} --see 1", "unknown flag '--see' did you mean --seed"),
    (f"{GOOD} --discount 2", "--discount: got 2.0 in [0, 1]"),
    (f"{GOOD} --baseline meen", "unknown --baseline 'meen' did you mean mean?"),
    (f"{GOOD} --optimizer adm", "unknown optimizer 'adm' did you mean adam?"),
    (f"{GOOD} --activation tan", "unknown activation 'tan' did you mean tanh?"),
    (f"{GOOD} --hidden-sizes 64 0", "--hidden-sizes: got (64, 0) at least 1"),
    (f"{GOOD} --sigma 0.5", "sigma Discrete(5) leave sigma out"),
    (f"{GOOD} --episodes-per-update 3 --num-envs 2", "3 episodes 2 environments a multiple of 2"),
    (f"{GOOD} --seed 1 --seeds 2", "--seed and --seeds: got both (1 and 2) give one"),
    (f"{GOOD} --seed -1", "--seed: got -1 from 0"),
    (f"{GOOD} --seeds 0", "--seeds: got 0 at least 1"),
    (f"{GOOD} --until-solved", "--until-solved: Bandit-v0 has no reward threshold leave it out"),
    (f"{GOOD} --out full", "'full' is not empty new directory"),
    (f"{GOOD} --out full/file", "'full/file' cannot be written another directory"),
    (f"{GOOD} --out full/file/run", "'full/file/run' cannot be written another directory"),
    (f"{GOOD} --out /proc/nowhere/run", "'/proc/nowhere/run' cannot be written another directory"),
    (f"{GOOD} --init missing.safetensors", "missing.safetensors no such file check the path"),
    (f"{GOOD} --init truncated.safetensors", "truncated.safetensors take another copy"),
    ("train reinforce --env CartPole-v1 --num-steps 64 --init {run}/policy_0.safetensors", "CartPole-v1 Box Discrete(4) choose"),
    (f"{GOOD} --hidden-sizes 4 --init {{run}}/policy_0.safetensors", "init another structure hidden_sizes"),
    (f"{GOOD} more", "unexpected 'more'"),
    (f"{GOOD} --config missing.json", "--config 'missing.json' No such file"),
    (f"{GOOD} --config broken.json", "--config broken.json is not JSON correct the file"),
    (f"{GOOD} --config list.json", "--config list.json list names and values"),
    (f"{GOOD} --config key.json", "key.json unknown key 'num_step' did you mean num_steps"),
    (f"{GOOD} --config value.toml", "value.toml: num_steps: got 'x' whole number"),
    (f"{GOOD} --config", "--config: got no value FILE"),
    ("train actor_critic --config {run}/config.json", "settings are for reinforce got the algorithm actor_critic"),
    ("train --config python.json", "python.json unknown key 'policy'"),
    ("evaluate", "got none RUN"),
    ("evaluate a b", "'a' and 'b' RUN"),
    ("evaluate missing", "'missing' no such run directory or policy file"),
    ("evaluate full", "'full' is not a run directory"),
    ("evaluate truncated.safetensors", "--env missing truncated.safetensors"),
    ("evaluate truncated.safetensors --env Bandit-v0", "truncated.safetensors take another copy"),
    ("evaluate odd/policy_0.safetensors", "odd/config.json: env: got 3"),
    ("evaluate {run} --num-episodes 0", "--num-episodes: got 0 from 1"),
    ("evaluate {run} --num-episodes x", "--num-episodes: got 'x' whole number"),
    ("evaluate {run} --seed -1", "--seed: got -1 from 0"),
    ("evaluate {run} --env CartPole-v1", "CartPole-v1 Box Discrete(4) choose"),
    ("evaluate {run} --env Bandit-v1", "unknown environment 'Bandit-v1' did you mean Bandit-v0"),
    ("evaluate {run} --bakend compiled", "unknown flag '--bakend' did you mean --backend?"),
    ("plot", "got none RUN"),
    ("plot missing", "'missing' give a run directory"),
    ("plot full", "'full' is not a run directory"),
    ("list all", "unexpected 'all'"),
]


@pytest.mark.parametrize(("words", "fragments"), BAD, ids=[words for words, _ in BAD])
def test_bad_input(words, fragments, capsys, run_dir):
    Path("full").mkdir()
    Path("full/file").write_text("")
    Path("truncated.safetensors").write_bytes((run_dir / "policy_0.safetensors").read_bytes()[:100])
    Path("odd").mkdir()
    Path("odd/config.json").write_text('{"env": 3}')
    Path("odd/policy_0.safetensors").write_bytes((run_dir / "policy_0.safetensors").read_bytes())
    Path("broken.json").write_text('{"num_steps": 1')
    Path("list.json").write_text("[1]")
    Path("key.json").write_text('{"num_step": 1}')
    Path("value.toml").write_text('num_steps = "x"')
    Path("python.json").write_text('{"algorithm": "reinforce", "settings": {"policy": "mine"}, "env": "Bandit-v0", "num_steps": 8}')
    before = files()
    assert main(words.format(run=run_dir).split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"policygrad: error: .{10,300}\n", err)
    for fragment in re.findall(r"'[^']*'|\S+", fragments):
        assert fragment in err
    assert files() == before


@pytest.mark.parametrize("fault", ["nan", "shape", "outside", "reward", "raise"])
def test_an_environment_that_breaks_its_contract_at_once(fault, capsys, faulty_envs):
    before = files()
    assert main(["train", "reinforce", "--env", faulty_envs, "--num-steps", "64", "--env-args", f"fault={fault}"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"policygrad: error: .*Faulty-v0.*step.*(correct|must be).*\n", err)
    assert files() == before


# ---------------------------------------------------------------- failures after the first step: exit code 3


@pytest.mark.parametrize("fault", ["nan", "shape", "raise"])
def test_an_environment_that_breaks_its_contract_later(fault, capsys, faulty_envs, no_figures):
    words = ["train", "reinforce", "--env", faulty_envs, *f"--num-steps 400 --num-envs 2 --out run --env-args fault={fault} at=22".split()]
    assert main([*words, "--json"]) == 3
    out, err = capsys.readouterr()
    result = strict(out)
    assert (result["final_return"], result["steps_to_solve"]) == ([None], [None])
    assert re.match(r"policygrad: error: .*Faulty-v0.*step \d+", err.splitlines()[-1])
    assert "Traceback" not in err
    lines = Path("run/metrics.jsonl").read_text().splitlines()
    assert len(lines) >= 2, "the updates before it are kept"
    assert {"run/policy_0.safetensors", "run/result.json"} <= set(files())


def test_one_seed_fails_and_the_others_finish(capsys, faulty_envs, no_figures):
    from policygrad.envs.vector_adapter import env_seeds

    odd, even = (next(seed for seed in range(20) if env_seeds(seed, 1)[0] % 2 == parity) for parity in (1, 0))
    Path("c.json").write_text(json.dumps({"seeds": [odd, even], "env_args": {"fault": "nan", "at": 12, "odd": True}}))
    words = ["train", "reinforce", "--config", "c.json", "--env", faulty_envs, *["--num-steps", "20", "--num-envs", "1", "--json"]]
    assert main(words) == 3
    out, err = capsys.readouterr()
    assert strict(out)["final_return"] == [None, 5.0]
    assert err.splitlines()[-1] == f"policygrad: error: 1 of 2 seeds failed: {odd}; the others are complete"


def test_running_out_of_memory_is_one_line(capsys, monkeypatch):
    def exhausted(**options):
        raise MemoryError

    monkeypatch.setattr("policygrad.training.train", exhausted)
    assert main(BANDIT) == 3
    assert re.fullmatch("policygrad: error: out of memory; .*--num-envs.*\n", capsys.readouterr().err)


# ---------------------------------------------------------------- stdout, and Ctrl-C


class Broken(io.StringIO):
    def __init__(self, error: OSError):
        super().__init__()
        self.error = error

    def flush(self):
        raise self.error


def test_a_reader_that_went_away_is_no_error(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", Broken(BrokenPipeError()))
    assert main(["list"]) == 0
    assert capsys.readouterr().err == ""


def test_a_stdout_that_cannot_be_written_is_one_line_and_keeps_the_run(monkeypatch, capsys):
    drawn = []
    monkeypatch.setattr("policygrad.report.figures", lambda *args, **kwargs: drawn.append(args) or [])
    monkeypatch.setattr(sys, "stdout", Broken(OSError(28, "No space left on device")))
    assert main([*BANDIT, "--out", "run"]) == 3
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("policygrad: error: stdout cannot be written: got No space left on device")
    assert last.endswith("the result is in run/result.json")
    assert len(drawn) == 1


def test_ctrl_c_before_the_training_starts(monkeypatch, capsys):
    def pressed(name):
        raise KeyboardInterrupt

    monkeypatch.setattr("policygrad.cli.commands.registered", pressed)
    assert main(BANDIT) == 130
    assert capsys.readouterr().err == "policygrad: interrupted\n"
    assert files() == []


def test_ctrl_c_ends_a_run_and_keeps_it(here):
    """In a process of its own: the signal, the purity of stdout, the exit code, and `python -m policygrad`."""
    words = ["train", "reinforce", "--env", "RockPaperScissors-v0", "--num-envs", "4", "--num-steps", "2e9", "--json", "--out", "run"]
    process = subprocess.Popen([sys.executable, "-m", "policygrad", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        metrics, patience = here / "run" / "metrics.jsonl", time.monotonic() + 60
        while process.poll() is None and time.monotonic() < patience and not (metrics.exists() and metrics.stat().st_size > 0):
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert out.count("\n") == 1
    result = strict(out)
    assert 0 < result["num_steps"] < 2e9
    lines = [strict(line) for line in metrics.read_text().splitlines()]
    assert lines[-1]["steps"] == result["num_steps"]
    assert {"run/policy_0.safetensors", "run/result.json", "run/episodes.csv"} <= set(files())


# ---------------------------------------------------------------- text


def test_numbers_of_any_scale():
    values = {0.0: "0", 500.0: "500", 0.5912: "0.591", -3.25: "-3.250", 41.254: "41.25", -183.26: "-183.3", 12345.6: "12,346"}
    assert {value: number(value) for value in values} == values
    assert number(float("nan")) == "–"


def test_json_is_strict():
    assert (
        to_json({"a": [float("nan"), float("inf"), 1.5], "b": (None, True), 3: "x"})
        == '{"a": [null, null, 1.5], "b": [null, true], "3": "x"}'
    )


def test_a_result_of_several_seeds():
    def seed(number, value, episodes=20):
        return SeedResult(number, returns=np.full(episodes, value), ends=np.arange(1, episodes + 1) * 10, steps=300)

    def text(seeds, threshold=None, **changes):
        return run_text(Run("ppo", "Toy-v0", "compiled", 4, seeds, None, 1.0, 2.0, threshold, **changes))

    assert "final return   30.00" not in text([seed(0, 30.5)])
    assert "  final return   30.50\n" in text([seed(0, 30.5)])
    assert "solved at" not in text([seed(0, 30.5)])
    several = text([seed(0, 30.5), seed(1, 10.0), seed(2, float("nan"), 0)], threshold=20.0)
    assert "300 steps each, 4 environments, 3 seeds\n" in several
    assert "  final return   20.25  (mean of 2 seeds, from 10 to 30.50; solved means 20)\n" in several
    assert "  solved at      200 steps  (median of the 1 of 3 seeds that solved it)\n" in several
    assert "  solved at      –  (not solved)" in text([seed(0, 1.0)], threshold=20.0)
    failed = seed(0, 1.0)
    failed.error = pg.RunError("x")
    assert "  final return   –  (failed)" in text([failed])
    assert "interrupted" in text([seed(0, 1.0)], interrupted=True)
