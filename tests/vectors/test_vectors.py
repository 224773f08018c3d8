"""Vectors of environments: one after the other, and in several processes at the same time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from policygrad.errors import UsageError
from policygrad.vectors.in_turn import InTurn
from policygrad.vectors.layout import ShapeError
from policygrad.vectors.side_by_side import SideBySide, WorkerError


def cartpole() -> gymnasium.Env:
    return gymnasium.make("CartPole-v1", disable_env_checker=True)


def side_by_side(make: Any, num_envs: int, parts: int, **options: Any) -> SideBySide:
    env = cartpole()
    return SideBySide(make, num_envs, parts, env.observation_space, env.action_space, **options)


def test_copies_that_differ_are_told_before_they_run() -> None:
    made = iter(["CartPole-v1", "Acrobot-v1"])
    with pytest.raises(
        UsageError, match=r"^environment copies: got observation_space Box[^\n]* in copy 1 [^\n]*all copies must have the same$"
    ):
        InTurn([lambda: gymnasium.make(next(made))] * 2)


def test_stepping_in_turn_is_what_gymnasium_does() -> None:
    """The same observations, rewards and ends as SyncVectorEnv in SAME_STEP, through episodes' ends."""
    fns = [lambda: gymnasium.make("CartPole-v1", disable_env_checker=True)] * 3
    ours, theirs = InTurn(fns), SyncVectorEnv(fns, autoreset_mode=AutoresetMode.SAME_STEP)
    np.testing.assert_array_equal(ours.reset(seed=[1, 2, 3])[0], theirs.reset(seed=[1, 2, 3])[0])
    rng, ends = np.random.default_rng(0), 0
    for _ in range(80):
        actions = rng.integers(0, 2, 3)
        (*mine, info), (*gymnasiums, other) = ours.step(actions), theirs.step(actions)
        for a, b in zip(mine, gymnasiums, strict=True):
            np.testing.assert_array_equal(a, b)
        for index, last in info["final_obs"].items():
            np.testing.assert_array_equal(last, other["final_obs"][index])
        ends += len(info["final_obs"])
    assert ends > 5
    ours.close()
    theirs.close()


@pytest.mark.parametrize(("num_envs", "parts", "workers"), [(5, 2, 1), (4, 4, 3), (1, 2, 1), (2, 1, 1)])
def test_in_several_processes_it_is_the_same(num_envs: int, parts: int, workers: int) -> None:
    """Bit for bit, through episodes' ends; also where this process has no environment of its own."""
    ours, theirs = side_by_side(cartpole, num_envs, parts, spin=0.0 if parts > 2 else 1e-3), InTurn([cartpole] * num_envs)
    try:
        assert len(ours.processes) == workers
        for start in (0, 100):  # and again after another reset
            seeds = [start + i for i in range(num_envs)]
            np.testing.assert_array_equal(ours.reset(seed=seeds)[0], theirs.reset(seed=seeds)[0])
            rng, ends, kept = np.random.default_rng(0), 0, []
            for _ in range(60):
                actions = rng.integers(0, 2, num_envs)
                (*mine, info), (*reference, other) = ours.step(actions), theirs.step(actions)
                for a, b in zip(mine, reference, strict=True):
                    assert a.dtype == b.dtype
                    np.testing.assert_array_equal(a, b)
                assert info["final_obs"].keys() == other["final_obs"].keys()
                for index, last in info["final_obs"].items():
                    np.testing.assert_array_equal(last, other["final_obs"][index])
                ends += len(info["final_obs"])
                kept += [(array, array.copy()) for array in (mine[0], *info["final_obs"].values())]
            assert ends > 0
            for array, then in kept:  # what was returned is the caller's: no later step writes into it
                np.testing.assert_array_equal(array, then)
    finally:
        ours.close()
    assert [process.returncode for process in ours.processes] == [0] * workers


class Broken(gymnasium.Wrapper):
    """Goes wrong at its third step; `how` says in which way."""

    def __init__(self, how: str):
        super().__init__(cartpole())
        self.how, self.t = how, 0

    def step(self, action: Any) -> Any:
        self.t += 1
        obs, *rest = self.env.step(action)
        if self.t == 3:
            if self.how == "raises":
                raise ZeroDivisionError("of the user's\nsecond line")
            if self.how == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            return obs[:2], *rest
        return obs, *rest


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [("raises", WorkerError, "of the user's"), ("bends", WorkerError, r"got an observation of shape \(2,\)"), ("dies", EOFError, "^$")],
)
def test_what_goes_wrong_in_a_worker(how: str, error: type[Exception], message: str) -> None:
    class Mixed:
        """Sound in this process, broken in others."""

        def __init__(self) -> None:
            self.home = os.getpid()

        def __call__(self) -> gymnasium.Env:
            return cartpole() if os.getpid() == self.home else Broken(how)

    vector = side_by_side(Mixed(), 3, 2)
    try:
        vector.reset(seed=[0, 1, 2])
        for _ in range(2):
            vector.step(np.zeros(3, np.int64))
        with pytest.raises(error, match=message) as caught:
            vector.step(np.zeros(3, np.int64))
        if isinstance(caught.value, WorkerError):
            assert vector.at == caught.value.index == 1
            assert caught.value.kind == {"raises": "ZeroDivisionError", "bends": "ShapeError"}[how]
            assert "in step" in caught.value.__notes__[0]
        else:
            with pytest.raises(EOFError):  # and stays so
                vector.step(np.zeros(3, np.int64))
    finally:
        vector.close()


def test_what_goes_wrong_in_this_process() -> None:
    """The workers' answers are taken, so that the vector can be reset and used again."""
    vector = side_by_side(cartpole, 3, 3)
    try:
        first, _ = vector.reset(seed=[0, 1, 2])
        assert vector._envs is not None
        sound = vector._envs.envs[0]
        vector._envs.envs[0] = Broken("bends")
        vector._envs.envs[0].t = 2
        vector._envs.envs[0].reset(seed=0)
        with pytest.raises(ShapeError, match="shape"):
            vector.step(np.zeros(3, np.int64))
        assert vector.at == 0
        vector._envs.envs[0] = sound
        np.testing.assert_array_equal(vector.reset(seed=[0, 1, 2])[0], first)
    finally:
        vector.close()


def test_no_worker_is_left_where_this_process_cannot_make_its_own() -> None:
    started: list[Any] = []

    class Half:
        def __init__(self) -> None:
            self.home = os.getpid()

        def __call__(self) -> gymnasium.Env:
            if os.getpid() == self.home:
                raise RuntimeError("not here")
            return cartpole()

    class Watched(SideBySide):
        def _start(self, order: bytes) -> None:
            super()._start(order)
            started.extend(self.processes)

    env = cartpole()
    with pytest.raises(RuntimeError, match="not here"):
        Watched(Half(), 2, 2, env.observation_space, env.action_space)
    assert [process.poll() is None for process in started] == [False]


def test_what_environments_print_is_no_result(capfd: pytest.CaptureFixture[str]) -> None:
    def talks() -> gymnasium.Env:
        print("hello", flush=True)
        return cartpole()

    vector = side_by_side(talks, 1, 1)
    vector.reset(seed=[0])
    vector.close()
    out, err = capfd.readouterr()
    assert (out, err) == ("", "hello\n")


def test_workers_with_other_spaces_are_told() -> None:
    env = gymnasium.make("Acrobot-v1")
    vector = SideBySide(cartpole, 1, 1, env.observation_space, env.action_space)
    try:
        with pytest.raises(WorkerError, match="all copies must have the same") as caught:
            vector.reset(seed=[0])
        assert caught.value.index is None
    finally:
        vector.close()


SCRIPT = """
import gymnasium, policygrad as pg

class Mine(gymnasium.Wrapper):
    def reset(self, **options):
        return self.env.reset(**options)

def mine():
    return Mine(gymnasium.make("CartPole-v1"))

print("once", flush=True)
run = pg.train(mine, pg.reinforce(hidden_sizes=(4,)), num_steps=64, num_envs=2, vectorization="async", out=False)
print(run.seeds[0].steps >= 64)
"""


def test_a_script_without_a_guard(tmp_path: Path) -> None:
    """Classes of the script are sent by their code; the script itself runs once."""
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "once\nTrue\n"), done.stderr


def test_no_worker_outlives_its_parent() -> None:
    code = (
        "import gymnasium, os, signal; from policygrad.vectors.side_by_side import SideBySide; e = gymnasium.make('CartPole-v1');"
        "v = SideBySide(lambda: gymnasium.make('CartPole-v1'), 3, 3, e.observation_space, e.action_space);"
        "v.reset(seed=[0, 1, 2]); print(*(p.pid for p in v.processes), flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert done.returncode == -signal.SIGKILL
    left = {int(word) for word in done.stdout.split()}
    assert len(left) == 2
    until = time.monotonic() + 10
    while left and time.monotonic() < until:
        left = {one for one in left if _runs(one)}
        time.sleep(0.02)
    assert not left


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    try:  # a zombie that nobody has waited for runs no more
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
