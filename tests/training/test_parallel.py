"""Seeds side by side: each as if alone, and all of them end when one must."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import policygrad as pg
from policygrad.envs import gymnasium_adapter
from policygrad.evaluation import Evaluator
from policygrad.records import load_run
from policygrad.training import runners
from rollout.toys import leaves_equal

OPTIONS: dict[str, Any] = {"num_steps": 400, "num_envs": 4, "out": False, "figures": False}
SEEDS = [5, 0, 3, 9, 2]


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    monkeypatch.setattr(sys.modules["policygrad.training.train"], "cores", lambda: 2)  # the package's attribute is the function


def algorithm() -> Any:
    return pg.ppo(rollout_length=8, epochs=2, minibatches=2, hidden_sizes=(4,))


@pytest.fixture
def threads(monkeypatch):
    """Names of the threads that programs ran in, and how many at most at once."""
    seen, now, most = set(), [0], [0]
    original = pg.training.runners.CompiledRunner._run

    def run(self, *arguments):
        released = self.released

        class Watched:
            def __enter__(self):
                self.inner = released()
                self.inner.__enter__()
                seen.add(threading.current_thread().name)
                now[0] += 1
                most[0] = max(most[0], now[0])
                time.sleep(0.002)

            def __exit__(self, *error):
                now[0] -= 1
                return self.inner.__exit__(*error)

        self.released = Watched
        try:
            return original(self, *arguments)
        finally:
            self.released = released

    monkeypatch.setattr(pg.training.runners.CompiledRunner, "_run", run)
    return seen, most


def test_each_seed_is_bit_for_bit_what_it_is_alone(threads, tmp_path, monkeypatch):
    # As users compile: without optimisation, as tests do, small products are other code for one thread than for two.
    made = runners.CompiledRunner.__init__

    def optimised(self, *arguments, **options):
        made(self, *arguments, **options)
        self._options = self._options | {"xla_backend_optimization_level": 3, "xla_cpu_use_fusion_emitters": True}

    monkeypatch.setattr(runners.CompiledRunner, "__init__", optimised)
    run = pg.train("CartPole-v1", algorithm(), seeds=SEEDS, **OPTIONS | {"out": tmp_path / "run"})
    names, most = threads
    assert len(names) == most[0] == 2
    assert all(name.startswith("policygrad-seed") for name in names)
    told = load_run(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["seed_loop"] == "2 side by side, bit-equal to each alone"
    for result in run.seeds:
        alone = pg.train("CartPole-v1", algorithm(), seed=result.seed, **OPTIONS).seeds[0]
        assert leaves_equal(result.agent, alone.agent)
        np.testing.assert_array_equal(result.returns, alone.returns)
        for name, values in result.metrics.items():
            np.testing.assert_array_equal(values, alone.metrics[name], err_msg=name)
        np.testing.assert_array_equal(told.metrics[result.seed]["steps"], alone.metrics["steps"])
    assert [result.seed for result in run.seeds] == SEEDS


def test_more_threads_than_seeds_and_one_seed(threads):
    pg.train("Bandit-v0", pg.reinforce(), seeds=1, **OPTIONS)
    assert threads[0] == {"MainThread"}


def test_callbacks_run_in_the_callers_thread_one_seed_after_the_other():
    seen = []
    pg.train("CartPole-v1", algorithm(), seeds=3, callbacks=lambda p: seen.append((p.seed, threading.current_thread().name)), **OPTIONS)
    assert [seed for seed, _ in seen] == sorted(seed for seed, _ in seen)
    assert {name for _, name in seen} == {"MainThread"}


def test_what_the_caller_set_for_its_thread_holds_in_the_others():
    with jax.enable_x64(True):
        run = pg.train("CartPole-v1", algorithm(), seeds=2, **OPTIONS)
    assert all(leaf.dtype == np.float64 for policy in run.policies for leaf in jax.tree.leaves(policy))


def test_a_fault_in_one_ends_the_others_and_is_told(monkeypatch):
    ran: list[int] = []
    records = pg.records.Records
    original = records.episodes

    def episodes(self, seed, *arguments):
        ran.append(seed)
        if seed == SEEDS[1]:
            raise ZeroDivisionError("a fault of ours")
        return original(self, seed, *arguments)

    monkeypatch.setattr(records, "episodes", episodes)
    with pytest.raises(ZeroDivisionError, match="a fault of ours"):
        pg.train("CartPole-v1", algorithm(), seeds=SEEDS, **OPTIONS)
    assert set(ran) <= set(SEEDS[:3])  # those that ran already; no other began
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("policygrad-seed")]


def test_ctrl_c_ends_all_with_what_they_have(monkeypatch, tmp_path: Path):
    original = pg.records.Records.updates
    calls = []

    def updates(self, lines):
        calls.append(lines[0]["seed"])
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, lines)

    monkeypatch.setattr(pg.records.Records, "updates", updates)
    options = OPTIONS | {"num_steps": 10**8, "out": tmp_path / "run"}
    run = pg.train("CartPole-v1", algorithm(), seeds=SEEDS, **options)
    assert run.interrupted
    steps = {result.seed: result.steps for result in run.seeds}
    assert all(0 < steps[seed] < 10**8 for seed in SEEDS[:2])
    assert steps[SEEDS[-1]] == 0
    assert load_run(tmp_path / "run").metrics.keys() == set(SEEDS[:2])


def test_worker_processes_where_they_pay(tmp_path, monkeypatch, capsys):
    """It is said, recorded, and the same run bit for bit."""
    monkeypatch.setattr(gymnasium_adapter, "WORKERS_PAY", -1e9)
    options = {"num_steps": 96, "num_envs": 3, "backend": "gymnasium", "figures": False}
    run = pg.train("Acrobot-v1", pg.ppo(hidden_sizes=(4,), rollout_length=16), out=tmp_path / "run", progress="plain", **options)
    assert re.search(
        r"^Acrobot-v1: a step takes [\d,]+ µs, so \d+ processes step the environments; vectorization sync steps them in this one$",
        capsys.readouterr().err,
        re.MULTILINE,
    )
    assert load_run(tmp_path / "run").config["processes"] >= 2
    alone = pg.train("Acrobot-v1", pg.ppo(hidden_sizes=(4,), rollout_length=16), out=False, vectorization="sync", **options)
    for a, b in zip(jax.tree.leaves(run.policy), jax.tree.leaves(alone.policy), strict=True):
        np.testing.assert_array_equal(a, b)


def test_evaluations_keep_their_workers():
    evaluator = Evaluator(pg.make("Acrobot-v1", backend="gymnasium", vectorization="async", env_args={"max_episode_steps": 5}), 2)
    policy = pg.train("Acrobot-v1", pg.reinforce(hidden_sizes=(4,)), num_steps=5, num_envs=1, out=False, figures=False).policy
    first = evaluator(policy, 3)
    vector = evaluator._host.vector.vector
    again = evaluator(policy, 3)
    assert evaluator._host.vector.vector is vector
    np.testing.assert_array_equal(first.returns, again.returns)
    evaluator.close()
    assert all(process.returncode == 0 for process in vector.processes)
