"""`policygrad check-env`: its report, its exit codes, and that it needs no JAX for an environment of Gymnasium's."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import pytest

from policygrad.cli import main
from policygrad.cli.check_env import CHECK_OPTIONS
from policygrad.contract import Budget

ENVS = """
    import gymnasium
    import numpy as np
    from gymnasium import spaces

    print("hello from the module")

    class Walk(gymnasium.Env):
        observation_space = spaces.Box(-1, 1, (2,), np.float32)
        action_space = spaces.Discrete(2)

        def __init__(self, fault="none"):
            self.fault = fault

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            print("hello from the environment")
            return self.np_random.uniform(-1, 1, 2).astype(np.float32), {}

        def step(self, action):
            obs = self.np_random.uniform(-1, 1, 2)
            reward = np.nan if self.fault == "nan" else float(obs[0])
            obs = obs if self.fault == "float64" else obs.astype(np.float32)
            return obs, reward, bool(self.np_random.random() < 0.2), False, {}

    gymnasium.register("PolicygradWalk-v0", entry_point=Walk)
"""


@pytest.fixture
def walk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An environment of the user's, registered by a module in the current directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "walks.py").write_text(textwrap.dedent(ENVS))
    yield "walks:PolicygradWalk-v0"
    sys.modules.pop("walks", None)
    gymnasium.registry.pop("PolicygradWalk-v0", None)


def test_a_sound_environment(walk: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["check-env", walk, "--num-steps", "200"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == "PolicygradWalk-v0 (gymnasium)"
    assert lines[-1] == "No errors, no warnings."
    assert "  ✓ reset() takes a seed and options" in lines
    assert any(line.startswith("  played         ") and "200 steps of random actions" in line for line in lines)
    assert all(len(line) <= 78 for line in lines)
    assert "hello from the module" in err
    assert "hello from the environment" in err


def test_warnings_are_allowed_and_errors_are_not(walk: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["check-env", walk, "--num-steps", "100", "--env-args", "fault=float64"]) == 0
    assert "! warning: the observation is of float64, its space says float32" in capsys.readouterr().out
    assert main(["check-env", walk, "--num-steps", "100", "--env-args", "fault=nan"]) == 1
    out = capsys.readouterr().out
    assert "✗ error: the reward is nan (first in episode 1, step 1; in all 100 steps)" in " ".join(out.split())
    assert out.splitlines()[-2].startswith("1 error, no warnings: ")


def test_json_is_the_only_thing_on_stdout(walk: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["check-env", walk, "--json", "--num-steps", "1e2", "--num-episodes", "7", "--seed", "3", "--env-args", "fault=nan"]) == 1
    out = capsys.readouterr().out
    assert out.count("\n") == 1

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    result = json.loads(out, parse_constant=refuse)
    assert (result["env"], result["ok"], result["errors"], result["episodes"]) == ("PolicygradWalk-v0", False, 1, 7)
    assert result["stopped_by"] == "episodes"
    assert [finding["check"] for finding in result["findings"]] == ["reward-finite"]


def test_options_arrive(walk: str, capsys: pytest.CaptureFixture) -> None:
    def result(*words: str) -> dict:
        assert main(["check-env", walk, "--json", "--num-steps", "50", *words]) == 0
        return json.loads(capsys.readouterr().out)

    first = result()
    assert first["mean_return"] == result("--seed", "0")["mean_return"]
    assert first["mean_return"] != result("--seed", "1")["mean_return"]
    assert result("--num-steps", "60")["steps"] == 60
    assert result("--seconds", "1e-9")["stopped_by"] == "time"


def test_the_compiled_one_of_a_name_is_asked_for(capsys: pytest.CaptureFixture) -> None:
    assert main(["check-env", "Bandit-v0", "--num-steps", "20"]) == 0
    assert capsys.readouterr().out.startswith("Bandit-v0 (compiled)\n")
    assert main(["check-env", "CartPole-v1", "--backend", "compiled", "--num-steps", "20", "--env-args", "sutton_barto_reward=true"]) == 0
    assert capsys.readouterr().out.startswith("CartPole-v1 (compiled)\n")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("", "check-env takes one environment: got none; write policygrad check-env CartPole-v1"),
        ("CartPole-v1 Pendulum-v1", "check-env takes one environment: got 'CartPole-v1' and 'Pendulum-v1';"),
        ("CartPole-v1 --episodes 3", "unknown flag '--episodes': did you mean --num-episodes?"),
        ("CartPole-v1 --num-steps 0", "--num-steps: got 0; it must be a whole number from 1"),
        ("CartPole-v1 --num-episodes -2", "--num-episodes: got -2;"),
        ("CartPole-v1 --seed -1", "--seed: got -1;"),
        ("CartPole-v1 --seconds 0", "--seconds: got 0; it must be a number above 0"),
        ("CartPole-v1 --seconds nan", "--seconds: got nan; it must be a number above 0"),
        ("CartPole-v1 --backend gym", "unknown --backend 'gym': did you mean gymnasium?"),
        ("CartPole-v1 --env-args wheels=3", "environment CartPole-v1 does not take these arguments:"),
        ("Cartpole-v1", "unknown environment 'Cartpole-v1': did you mean"),
        ("Bandit-v0 --backend gymnasium", "environment Bandit-v0 exists only compiled:"),
        ("no_such_module:Maze-v0", "ID: the module of 'no_such_module:Maze-v0' cannot be imported:"),
    ],
)
def test_misuse_is_one_line_and_ends_with_2(words: str, line: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["check-env", *words.split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"policygrad: error: {line}")
    assert err.count("\n") == 1


def test_help_tells_the_truth(capsys: pytest.CaptureFixture) -> None:
    assert main(["--help"]) == 0
    assert "check-env ID" in capsys.readouterr().out
    assert main(["check-env", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for option in CHECK_OPTIONS.values():
        assert option.flag in text
    assert "Ends with 0 where there are no errors (warnings are allowed), with 1 where there are, with 2 where" in text
    defaults = Budget()
    given = {name: CHECK_OPTIONS[name].default for name in ("num_episodes", "num_steps", "seconds")}
    assert given == {name: getattr(defaults, name) for name in given}


def test_environments_of_gymnasiums_need_no_jax() -> None:
    program = "import sys; from policygrad.cli import main; code = main(sys.argv[1:]); print(code, 'jax' in sys.modules)"
    words = ["check-env", "FrozenLake-v1", "--num-steps", "100", "--num-episodes", "9", "--json"]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, encoding="utf-8", check=True)
    assert done.stdout.splitlines()[-1] == "0 False"
