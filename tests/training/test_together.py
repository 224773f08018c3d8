"""Seeds together: one program for all of them, and each is the seed that it is alone."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import types
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import policygrad as pg
from policygrad import compilation
from policygrad.envs import Env, time_limit
from policygrad.errors import RunError, UsageError
from policygrad.records import load_run
from policygrad.spaces import Box, Discrete
from policygrad.training import together
from policygrad.types import Step
from rollout.toys import fragile

OPTIONS: dict[str, Any] = {"num_steps": 160, "num_envs": 4, "out": False, "figures": False}
SEEDS = [5, 0, 3]


def ppo() -> Any:
    return pg.ppo(rollout_length=8, epochs=2, minibatches=2, hidden_sizes=(4,))


def same(ours: Any, theirs: Any) -> None:
    """Equal up to rounding, and in every number of steps and episodes."""
    assert ours.seed == theirs.seed
    assert ours.steps == theirs.steps
    for name in ("lengths", "ends"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    np.testing.assert_allclose(ours.returns, theirs.returns, rtol=1e-5)
    assert ours.metrics.keys() == theirs.metrics.keys()
    np.testing.assert_array_equal(ours.metrics["steps"], theirs.metrics["steps"])
    for policy in ("policy", "agent"):
        for a, b in zip(jax.tree.leaves(getattr(ours, policy)), jax.tree.leaves(getattr(theirs, policy)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("env", "algorithm"),
    [
        ("CartPole-v1", ppo),
        ("Corridor-v0", lambda: pg.reinforce(hidden_sizes=())),
        ("Corridor-v0", lambda: pg.trpo(hidden_sizes=(), rollout_length=8)),
    ],
)
def test_each_seed_is_what_it_is_alone(env: str, algorithm: Any, tmp_path: Path) -> None:
    run = pg.train(env, algorithm(), seeds=SEEDS, seed_loop="together", **OPTIONS | {"out": tmp_path / "run"})
    alone = pg.train(env, algorithm(), seeds=SEEDS, seed_loop="alone", **OPTIONS)
    for ours, theirs in zip(run.seeds, alone.seeds, strict=True):
        same(ours, theirs)
    assert all(isinstance(leaf, jax.Array) for policy in run.policies for leaf in jax.tree.leaves(policy))
    told = load_run(tmp_path / "run")
    assert set(told.metrics) == set(SEEDS)
    assert '"3 together in one program, equal in distribution to each alone"' in (tmp_path / "run" / "config.json").read_text()


def test_seeds_that_are_done_wait_for_nobody() -> None:
    """Each stops with the update that solves it, as alone, however far the others are."""
    env = dataclasses.replace(pg.make("CartPole-v1"), reward_threshold=23.0)
    options = OPTIONS | {"num_steps": 4_000, "num_envs": 2, "until_solved": True}
    run = pg.train(env, ppo(), seeds=4, seed_loop="together", **options)
    alone = pg.train(env, ppo(), seeds=4, seed_loop="alone", **options)
    assert len({result.steps for result in run.seeds}) > 1
    for ours, theirs in zip(run.seeds, alone.seeds, strict=True):
        same(ours, theirs)


def test_evaluations_and_small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that were wound back, or stopped early for an evaluation, go on from where they are."""
    monkeypatch.setattr(together, "LOG_ELEMENTS", {"cpu": 1})  # one update a call
    options = OPTIONS | {"evaluate_every": 60, "evaluate_episodes": 2}
    run = pg.train("CartPole-v1", ppo(), seeds=2, seed_loop="together", **options)
    alone = pg.train("CartPole-v1", ppo(), seeds=2, seed_loop="alone", **options)
    for ours, theirs in zip(run.seeds, alone.seeds, strict=True):
        same(ours, theirs)
        np.testing.assert_array_equal(ours.evaluation_returns, theirs.evaluation_returns)


def test_one_that_fails_leaves_the_others() -> None:
    options = {"num_steps": 60, "num_envs": 4, "out": False, "metrics": lambda agent, rollout: {"worst": jnp.max(rollout.obs)}}
    algorithm = pg.reinforce(hidden_sizes=())
    seeds = [3, 4, 5]
    healthy = pg.train(fragile(2.0), algorithm, seeds=seeds, **options)
    second, first = np.sort([seed.metrics["worst"].max() for seed in healthy.seeds])[-2:]
    env = fragile(float((first + second) / 2))
    run = pg.train(env, algorithm, seeds=seeds, seed_loop="together", **options)
    alone = pg.train(env, algorithm, seeds=seeds, seed_loop="alone", **options)
    (bad,) = [seed for seed in alone.seeds if seed.error]
    assert len(bad.metrics["steps"]) not in (1, 3, 7, 15)  # not where a chunk of updates ends anyway
    assert len(run.failures) == 1
    assert {seed: str(error) for seed, error in run.failures.items()} == {seed: str(error) for seed, error in alone.failures.items()}
    for ours, theirs in zip(run.seeds, alone.seeds, strict=True):
        same(ours, theirs)


def test_an_environment_that_carries_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys in its state are rows like all else, and go on from where they are, also where all rows are put in anew."""
    original = together._Meeting._run

    def forgetful(self: Any) -> Any:
        self._given.clear()
        return original(self)

    monkeypatch.setattr(together._Meeting, "_run", forgetful)

    def reset(key: Any) -> tuple[Any, Any]:
        return key, jax.random.uniform(key, (1,))

    def step(key: Any, state: Any, action: Any) -> tuple[Any, Step]:
        state = jax.random.fold_in(state, action)
        obs = jax.random.uniform(state, (1,))
        return state, Step(obs, obs[0], obs[0] > 0.9, jnp.zeros((), bool))

    env = time_limit(Env("Keys-v0", Box.of(0.0, 1.0, (1,)), Discrete(2), reset, step), 20)
    run = pg.train(env, ppo(), seeds=2, seed_loop="together", **OPTIONS)
    alone = pg.train(env, ppo(), seeds=2, seed_loop="alone", **OPTIONS)
    for ours, theirs in zip(run.seeds, alone.seeds, strict=True):
        same(ours, theirs)


def test_a_fault_of_the_program_is_everybodys(monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread waits for ever for an answer that never comes."""

    def broken(self: Any) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(together._Meeting, "_run", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        pg.train("CartPole-v1", ppo(), seeds=3, seed_loop="together", **OPTIONS)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("policygrad-seed")]


def test_ctrl_c_ends_all_with_what_they_have(monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = pg.records.Records.updates, []

    def updates(self: Any, lines: Any) -> Any:
        calls.append(lines)
        if len(calls) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, lines)

    monkeypatch.setattr(pg.records.Records, "updates", updates)
    run = pg.train("CartPole-v1", ppo(), seeds=3, seed_loop="together", **OPTIONS | {"num_steps": 10**8})
    assert run.interrupted
    assert all(0 < result.steps < 10**8 for result in run.seeds)


SPREAD = """
import numpy as np, jax, policygrad as pg
assert len(jax.local_devices()) == 2
options = dict(num_steps=160, num_envs=4, seeds=3, out=False, figures=False)
runs = [pg.train("Corridor-v0", pg.reinforce(hidden_sizes=()), seed_loop=how, **options) for how in ("together", "alone")]
for ours, theirs in zip(*(run.seeds for run in runs)):
    np.testing.assert_array_equal(ours.returns, theirs.returns)
    for a, b in zip(jax.tree.leaves(ours.policy), jax.tree.leaves(theirs.policy)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
"""


def test_over_several_devices() -> None:
    """Three seeds on two: a row is left over. Devices of a processor stand in for GPUs."""
    environment = os.environ | {"XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"}
    done = subprocess.run([sys.executable, "-c", SPREAD], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_mistakes() -> None:
    with pytest.raises(UsageError, match=r"^unknown seed_loop 'vmap': known: alone, auto, together$"):
        pg.train("CartPole-v1", ppo(), seed_loop="vmap", **OPTIONS)
    with pytest.raises(UsageError, match=r"^seed_loop: got together with callbacks, which [^\n]*; leave one of them out$"):
        pg.train("CartPole-v1", ppo(), seeds=2, seed_loop="together", callbacks=lambda progress: None, **OPTIONS)
    with pytest.raises(UsageError, match=r"^seed_loop: got together, but CartPole-v1 is stepped by Gymnasium; take a compiled [^\n]*$"):
        pg.train("CartPole-v1", ppo(), seeds=2, seed_loop="together", backend="gymnasium", **OPTIONS)


@pytest.mark.parametrize(
    ("how", "platform", "seeds", "callbacks", "expected"),
    [
        ("auto", "cpu", 5, False, (False, 2)),
        ("auto", "gpu", 5, False, (True, 5)),
        ("auto", "gpu", 5, True, (False, 1)),
        ("auto", "gpu", 1, False, (False, 1)),
        ("alone", "gpu", 5, False, (False, 1)),
        ("together", "cpu", 5, False, (True, 5)),
    ],
)
def test_where_auto_runs_them_together(
    how: str, platform: str, seeds: int, callbacks: bool, expected: tuple[bool, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    train = sys.modules["policygrad.training.train"]
    monkeypatch.setattr(train, "present_device", lambda: types.SimpleNamespace(platform=platform))
    monkeypatch.setattr(train, "cores", lambda: 2)
    assert train._seed_loop(how, seeds, callbacks) == expected


@pytest.mark.parametrize(
    ("platform", "theirs", "expected"), [("cpu", None, None), ("gpu", None, "float32"), ("gpu", "bfloat16", "bfloat16")]
)
def test_a_gpu_multiplies_in_full_precision(platform: str, theirs: Any, expected: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless the user has said otherwise by JAX's own setting."""
    before = jax.config.jax_default_matmul_precision
    monkeypatch.setattr(compilation, "device", lambda: types.SimpleNamespace(platform=platform))
    try:
        jax.config.update("jax_default_matmul_precision", theirs)
        compilation.ready()
        assert jax.config.jax_default_matmul_precision == expected
    finally:
        jax.config.update("jax_default_matmul_precision", before)


def test_every_seed_that_fails_raises_the_first() -> None:
    with pytest.raises(RunError, match="Fragile-v0"):
        pg.train(fragile(0.0), pg.reinforce(hidden_sizes=()), seeds=2, seed_loop="together", num_steps=60, num_envs=2, out=False)
