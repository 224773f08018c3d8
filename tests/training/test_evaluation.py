"""Evaluation during training: it changes nothing, comes when it should, and keeps the policy that did best."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import jax.numpy as jnp
import numpy as np
import pytest

import policygrad as pg
from policygrad.cli.output import run_text
from policygrad.cli.train_request import train_request
from policygrad.envs import Env
from policygrad.errors import UsageError
from policygrad.evaluation import EVALUATION_STREAM, SELECTION_STREAM, Evaluator
from policygrad.records import load_run
from policygrad.training import evaluations
from policygrad.training.result import best_stretch
from policygrad.types import Step
from rollout.toys import Faulty, HostBandit, clockwork, leaves_equal, some_policy

HOST_BANDIT = "PolicygradEvaluatedBandit-v0"
BACKENDS = {"compiled": "Bandit-v0", "gymnasium": HOST_BANDIT}
B, N = 8, 5  # steps of an update, episodes of an evaluation


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    gymnasium.register(HOST_BANDIT, HostBandit, max_episode_steps=1, reward_threshold=0.9)
    yield
    gymnasium.registry.pop(HOST_BANDIT, None)


def train(env: Any, updates: int = 7, **options: Any) -> pg.Run:
    """Each update takes B steps, each step is an episode. A large step size: the policy moves at every update."""
    options = {"num_envs": B, "num_steps": updates * B, "out": False, "figures": False, "evaluate_episodes": N} | options
    if "evaluate_every" not in options:
        del options["evaluate_episodes"]
    return pg.train(env, pg.reinforce(learning_rate=1.0, max_grad_norm=None), **options)


# ── what it leaves ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("backend", BACKENDS)
def test_training_is_bit_for_bit_the_same_and_the_best_policy_is_kept(backend: str, tmp_path: Path) -> None:
    """Two seeds, evaluated after updates 2, 3, 5, 6 and 8 (every 12 steps of 8, and the last): where that is, and of what
    policy, does not depend on the chunks, which callbacks cut to single updates."""
    env = BACKENDS[backend]
    plain: list[Any] = []
    without = train(env, 8, seeds=2, callbacks=plain.append)
    run = train(env, 8, seeds=2, evaluate_every=12, out=tmp_path / "run")
    calls: list[Any] = []
    cut = train(env, 8, seeds=2, evaluate_every=12, callbacks=calls.append)
    records = load_run(tmp_path / "run")
    assert [call.iteration for call in calls] == [*range(1, 9)] * 2
    for seed, (ours, bare, same) in enumerate(zip(run.seeds, without.seeds, cut.seeds, strict=True)):
        assert leaves_equal(ours.agent, bare.agent)
        assert leaves_equal(ours.policy, bare.policy)
        for name in ("returns", "lengths", "ends", "steps"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(bare, name))
        assert ours.metrics.keys() - bare.metrics.keys() == {"evaluation_return"}
        for name, values in bare.metrics.items():
            np.testing.assert_array_equal(ours.metrics[name], values, err_msg=name)

        assert ours.evaluation_steps is not None
        assert ours.evaluation_returns is not None
        assert ours.evaluation_steps.tolist() == [16, 24, 40, 48, 64]
        policies = [here.policy for here in plain if here.seed == seed]
        evaluator = Evaluator(pg.make(env), N)
        expected = [evaluator(policies[steps // B - 1], seed + SELECTION_STREAM).returns for steps in ours.evaluation_steps]
        evaluator.close()
        np.testing.assert_array_equal(ours.evaluation_returns, expected)
        np.testing.assert_array_equal(same.evaluation_returns, expected)
        means = np.mean(expected, axis=1)
        by_update = np.full(8, np.nan)
        by_update[[1, 2, 4, 5, 7]] = means
        np.testing.assert_array_equal(ours.metrics["evaluation_return"], by_update)

        best = policies[ours.evaluation_steps[np.argmax(means)] // B - 1]
        assert leaves_equal(ours.best_policy, best)
        assert leaves_equal(pg.load(tmp_path / "run" / f"best_policy_{seed}.safetensors"), best)
        assert run.result()["return_at_best"][seed] == max(means)
        assert leaves_equal(run.best_policies[seed], best)
        table = records.evaluations[seed]
        np.testing.assert_array_equal(table["steps"], np.repeat(ours.evaluation_steps, N))
        np.testing.assert_allclose(table["return"], np.ravel(expected), rtol=1e-8)
        assert (table["length"] == 1).all()
    assert len({float(seed.evaluation_means.max()) for seed in run.seeds}) == 2
    assert leaves_equal(run.best_policy, run.seeds[0].best_policy)
    assert (records.config["evaluate_every"], records.config["evaluate_episodes"]) == (12, N)
    assert sorted(records.best_policies) == sorted(records.policies) == [0, 1]
    with open(tmp_path / "run" / "evaluations.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 5 * N
    assert list(rows[0]) == ["seed", "steps", "return", "length"]
    assert records.skipped == 0
    (tmp_path / "run" / "evaluations.csv").write_text("seed,steps,return,length\n0,16,0.5,1\n0,16,0.\n0,16,0.5")
    assert load_run(tmp_path / "run").skipped == 2


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_seed_that_stops_early_is_evaluated_where_it_stops(backend: str) -> None:
    stopped = train(BACKENDS[backend], evaluate_every=16, callbacks=lambda here: here.iteration == 3).seeds[0]
    assert stopped.evaluation_steps is not None
    assert stopped.evaluation_steps.tolist() == [16, 24]
    env = HOST_BANDIT if backend == "gymnasium" else dataclasses.replace(pg.make("Bandit-v0"), reward_threshold=0.9)
    solved = train(env, 400, evaluate_every=64, until_solved=True)
    assert 64 < solved.num_steps < 400 * B
    steps = solved.seeds[0].evaluation_steps
    assert steps is not None
    assert steps.tolist() == [*range(64, solved.num_steps, 64), solved.num_steps]


def test_of_equal_policies_the_first_is_kept_and_a_failed_seed_keeps_its_best() -> None:
    """Rewards of 1 whatever is done: all evaluations are equal. Evaluation has environments of its own, which do not fail."""
    made: list[Any] = []

    def fails_late() -> Any:
        made.append(1)
        return Faulty("nan reward" if 2 <= len(made) <= 3 else "none", 41)  # the probe is the first, training's two are next

    runs: list[pg.Run] = []
    with pytest.raises(pg.RunError, match="the reward is nan"):
        pg.train(
            fails_late,
            pg.reinforce(hidden_sizes=()),
            num_steps=1000,
            num_envs=2,
            evaluate_every=16,
            evaluate_episodes=2,
            out=False,
            on_result=runs.append,
        )
    ((seed,),) = [run.seeds for run in runs]
    assert seed.evaluation_steps is not None
    assert seed.evaluation_steps.tolist() == [16, 32, 48, 64, 80]
    assert seed.evaluation_means.tolist() == [4.0] * 5
    assert seed.return_at_best == 4.0
    assert seed.best_policy is not None
    assert not leaves_equal(seed.best_policy, seed.policy)
    assert runs[0].result()["return_at_best"] == [None]


def test_without_evaluations_it_is_the_best_20_episodes_in_a_row() -> None:
    run = train("Bandit-v0")
    means = [np.mean(run.returns[i : i + 20]) for i in range(len(run.returns) - 19)]
    assert run.result()["return_at_best"] == [pytest.approx(max(means), abs=1e-12)]
    assert (run.best_policy, run.seeds[0].evaluation_steps) == (None, None)
    assert "at its best" not in run_text(run)
    assert "evaluation_return" not in run.metrics
    assert best_stretch(np.zeros(0)) is None
    assert best_stretch(np.array([1.0, 3.0])) == 2.0
    assert best_stretch(np.array([0.0, 4.0, 4.0, 1.0]), window=2) == 4.0


# ── the evaluator ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_one_program_evaluates_every_policy_as_evaluate_would() -> None:
    traced: list[int] = []
    bandit: Any = pg.make("Bandit-v0")

    def step(key: Any, state: Any, action: Any) -> Step:
        traced.append(1)
        return bandit.step(key, state, action)

    env = dataclasses.replace(bandit, step=step)
    evaluator = Evaluator(env, 7)
    policies = [some_policy(env, seed) for seed in (0, 1)]
    first = evaluator(policies[0], 3 + EVALUATION_STREAM)
    before = len(traced)
    others = [evaluator(policies[1], 3 + EVALUATION_STREAM), evaluator(policies[0], 4), evaluator(policies[0], 3 + EVALUATION_STREAM)]
    assert len(traced) == before
    assert evaluator.compile_seconds > 0
    np.testing.assert_array_equal(others[2].returns, first.returns)
    np.testing.assert_array_equal(pg.evaluate(policies[0], bandit, num_episodes=7, seed=3).returns, first.returns)
    assert not np.isin(others[1].returns, first.returns).any()
    assert not np.isin(evaluator(policies[0], 3 + SELECTION_STREAM).returns, first.returns).any()


@pytest.mark.parametrize("autoreset", ["same-step", "next-step", "disabled"])
def test_one_set_of_environments_serves_every_evaluation_on_the_host(autoreset: str) -> None:
    made: list[Any] = []
    closed: list[Any] = []

    def one() -> Any:
        env = clockwork()
        made.append(env)
        env.close = lambda: closed.append(env)  # type: ignore[method-assign]
        return env

    env = pg.make(one, autoreset=autoreset)
    evaluator = Evaluator(env, 7, num_envs=4)
    policy = some_policy(env)
    first = evaluator(policy, 3 + EVALUATION_STREAM)
    assert len(made) == 1 + 4
    assert not np.isin(evaluator(policy, 3 + SELECTION_STREAM).returns, first.returns).any()
    again = evaluator(policy, 3 + EVALUATION_STREAM)
    assert (len(made), len(closed)) == (5, 1)
    np.testing.assert_array_equal(again.returns, first.returns)
    evaluator.close()
    assert len(closed) == 5
    np.testing.assert_array_equal(evaluator(policy, 3 + EVALUATION_STREAM).returns, first.returns)  # made anew
    evaluator.close()
    assert {id(env) for env in made} == {id(env) for env in closed}
    np.testing.assert_array_equal(pg.evaluate(policy, clockwork, num_episodes=7, num_envs=4, seed=3).returns, first.returns)


def seeds_seen() -> tuple[set[int], set[int], set[int]]:
    """Seeds of the environments: of training, of the evaluations in it, of `evaluate`; all with the same number."""
    seen: list[int] = []

    class Seen(HostBandit):
        def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[int, dict]:
            if seed is not None:
                seen.append(seed)
            return super().reset(seed=seed)

    run = train(Seen, seed=5)
    training = set(seen)
    train(Seen, seed=5, evaluate_every=8)
    both = set(seen)
    seen.clear()
    pg.evaluate(run.policy, Seen, num_episodes=N, seed=5)
    return training - {0}, both - training, set(seen) - {0}  # 0 is the preflight's


def test_the_episodes_that_choose_are_neither_training_s_nor_those_of_evaluate(monkeypatch: pytest.MonkeyPatch) -> None:
    training, choosing, measuring = seeds_seen()
    assert len(choosing) == len(measuring) == N
    assert not (training & choosing) | (training & measuring) | (choosing & measuring)
    monkeypatch.setattr(evaluations, "SELECTION_STREAM", 0)  # a mistake that this must notice
    assert not seeds_seen()[1]


# ── bad input ────────────────────────────────────────────────────────────────────────────────────────────────────────


def endless() -> Env:
    bandit: Any = pg.make("Bandit-v0")
    return Env("Endless-v0", bandit.observation_space, bandit.action_space, bandit.reset, bandit.step)


@pytest.mark.parametrize(
    ("env", "options", "line"),
    [
        *(
            ("Bandit-v0", {"evaluate_every": value}, r"^evaluate_every: got [^\n]*; it must be a whole number from 1 to [^\n]*$")
            for value in (0, -1, 1.5, True, "8")
        ),
        *(
            ("Bandit-v0", {"evaluate_every": 8, "evaluate_episodes": value}, r"^evaluate_episodes: got [^\n]*; it must be a whole [^\n]*$")
            for value in (0, -1, 1.5, None)
        ),
        ("Bandit-v0", {"evaluate_episodes": 3}, r"^evaluate_episodes: got 3 without evaluate_every; [^\n]*$"),
        (HostBandit(), {"evaluate_every": 8, "num_envs": None}, r"^evaluate_every: got 8 with a ready-made HostBandit, [^\n]*$"),
        (endless(), {"evaluate_every": 8}, r"^Endless-v0: whole episodes need a time limit[^\n]*$"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(env: Any, options: dict[str, Any], line: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=line):
        pg.train(
            env,
            pg.actor_critic() if isinstance(env, Env) else pg.reinforce(),
            num_steps=16,
            out=tmp_path / "run",
            **{"num_envs": B} | options,
        )
    assert list(tmp_path.iterdir()) == []


def test_a_metric_may_not_take_its_name() -> None:
    with pytest.raises(UsageError, match=r"^metrics: got one named 'evaluation_return', which the record has already"):
        train("Bandit-v0", metrics=lambda agent, rollout: {"evaluation_return": jnp.zeros(())})


def test_the_flags_and_a_run_s_own_file(tmp_path: Path) -> None:
    words = ["reinforce", "--env", "Bandit-v0", "--num-steps", "64"]
    assert "evaluate_every" not in train_request(words).run
    asked = train_request([*words, "--evaluate-every", "16", "--evaluate-episodes", "3"]).run
    assert (asked["evaluate_every"], asked["evaluate_episodes"]) == (16, 3)
    run = train("Bandit-v0", 2, evaluate_every=8, out=tmp_path / "run")
    at = 8 * (1 + int(np.argmax(run.seeds[0].evaluation_means)))
    (line,) = [line for line in run_text(run).splitlines() if "at its best" in line]
    assert line.endswith(f"  (mode actions, mean of {N} episodes, at {at} steps)")
    again = train_request(["--config", str(tmp_path / "run" / "config.json")]).run
    assert (again["evaluate_every"], again["evaluate_episodes"]) == (8, N)
    none = train_request(["--config", str(tmp_path / "run" / "config.json"), "--evaluate-every", "none"]).run
    assert none["evaluate_every"] is None
    assert "evaluate_episodes" not in none
