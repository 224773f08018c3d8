"""MuJoCo through Gymnasium: it trains on the host, and where the extra is not installed that is told."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import policygrad as pg
from policygrad.cli import main
from policygrad.errors import UsageError
from policygrad.spaces import Box


@pytest.fixture
def without_mujoco(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("gymnasium.envs.mujoco")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mujoco", None)


@pytest.mark.usefixtures("without_mujoco")
@pytest.mark.parametrize("name", ["HalfCheetah-v5", "InvertedPendulum-v4"])
def test_where_it_is_missing_the_extra_is_named(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        pg.make(name)
    assert str(caught.value) == f'environment {name} needs MuJoCo: got none installed; pip install "policygrad[mujoco]"'


@pytest.mark.usefixtures("without_mujoco")
def test_the_command_says_so_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "actor_critic", "--env", "HalfCheetah-v5", "--num-steps", "100"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1] == (
        'policygrad: error: environment HalfCheetah-v5 needs MuJoCo: got none installed; pip install "policygrad[mujoco]"'
    )
    assert list(tmp_path.iterdir()) == []


def test_another_missing_package_is_not_mistaken_for_it() -> None:
    """Those of version 3 moved to a project of their own, which their message names; MuJoCo itself is there."""
    pytest.importorskip("mujoco")
    with pytest.raises(UsageError, match=r"^environment HalfCheetah-v3 needs a package that is not installed: [^\n]*gymnasium-robotics"):
        pg.make("HalfCheetah-v3")


@pytest.mark.parametrize(("name", "obs", "actions"), [("HalfCheetah-v5", 17, 6), ("InvertedPendulum-v5", 4, 1)])
def test_it_trains_in_the_loop_on_the_host(name: str, obs: int, actions: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mujoco")
    monkeypatch.chdir(tmp_path)
    env = pg.make(name)
    assert isinstance(env.observation_space, Box)
    assert (env.backend, env.time_limit, env.observation_space.shape, env.action_space.shape) == ("gymnasium", 1000, (obs,), (actions,))
    algorithm = pg.actor_critic(rollout_length=50, hidden_sizes=(8,))
    run = pg.train(env, algorithm, num_steps=400, num_envs=4, seeds=2, evaluate_every=200, evaluate_episodes=1, out=False)
    for seed in run.seeds:
        assert seed.steps == 400
        assert len(seed.metrics["steps"]) == 2
        for metric in ("gradient_norm", "entropy", "value_loss"):
            assert np.isfinite(seed.metrics[metric]).all()
        assert seed.evaluation_steps is not None
        assert seed.evaluation_steps.tolist() == [200, 400]
        if name == "InvertedPendulum-v5":  # 1 for every step after which the pole stands, so none for the last
            np.testing.assert_array_equal(seed.returns, seed.lengths - 1)
            assert seed.lengths.min() >= 3
    first, second = run.seeds
    assert not np.array_equal(first.metrics["gradient_norm"], second.metrics["gradient_norm"])
    assert list(tmp_path.iterdir()) == []  # MuJoCo logs its warnings into the working directory
