"""`train` and `iterate`: what they return is what the definitions say, whatever the chunks, the other seeds and the loop."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import policygrad as pg
from policygrad.envs.gymnasium_adapter import AUTORESETS
from policygrad.envs.small_worlds import bandit_best_value, bandit_value
from policygrad.errors import SpaceError, UsageError
from policygrad.training import runners
from rollout.toys import Clockwork, HostBandit, clockwork, leaves_equal, programs_agree

HOST_BANDIT = "PolicygradHostBandit-v0"
QUICK: dict[str, Any] = {"out": False, "figures": False}
B = 8
BACKENDS = {"compiled": "Bandit-v0", "gymnasium": HOST_BANDIT}


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    gymnasium.register(HOST_BANDIT, HostBandit, max_episode_steps=1, reward_threshold=0.9)
    yield
    gymnasium.registry.pop(HOST_BANDIT, None)


def train(env: Any = "Bandit-v0", algorithm: Any = None, *, updates: int = 5, **options: Any) -> pg.Run:
    """A run of as many updates as asked for, where every episode takes a step."""
    options = {"num_envs": B, "num_steps": updates * options.get("num_envs", B)} | QUICK | options
    return pg.train(env, algorithm or pg.reinforce(learning_rate=0.1), **options)


def assert_same_seed(ours: Any, theirs: Any) -> None:
    """Bit for bit: the policy, the agent, every metric, every episode."""
    for name in ("policy", "agent"):
        assert leaves_equal(getattr(ours, name), getattr(theirs, name)), name
    assert ours.metrics.keys() == theirs.metrics.keys()
    for name, values in ours.metrics.items():
        np.testing.assert_array_equal(values, theirs.metrics[name], err_msg=name)
    for name in ("seed", "returns", "lengths", "ends", "steps"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)


def solvable(threshold: float = 0.9) -> Any:
    return dataclasses.replace(pg.make("Bandit-v0"), reward_threshold=threshold)


# ── definitions ──────────────────────────────────────────────────────────────────────────────────────────────────────

KEYS = [
    *("algorithm", "env", "backend", "num_steps", "num_envs", "seeds", "final_return", "return_at_best", "steps_to_solve"),
    *("compile_seconds", "run_seconds", "steps_per_second", "run_dir"),
]


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_result_says_what_the_definitions_say(backend: str) -> None:
    run = train(BACKENDS[backend], seeds=[3, 1], num_steps=75)
    result = run.result()
    assert list(result) == KEYS
    assert [result[k] for k in ("algorithm", "env", "backend", "num_envs")] == ["reinforce", BACKENDS[backend], backend, B]
    assert result["seeds"] == [3, 1] == [seed.seed for seed in run.seeds]
    assert result["num_steps"] == run.num_steps == 80  # 75, rounded up to whole updates of 8
    for seed, final, solved in zip(run.seeds, result["final_return"], result["steps_to_solve"], strict=True):
        assert seed.steps == 80
        assert final == pytest.approx(np.mean(seed.returns[-20:]), rel=1e-12)
        assert final != pytest.approx(np.mean(seed.returns), rel=1e-3)
        assert solved is None or backend == "gymnasium"
    assert result["steps_per_second"] == pytest.approx(160 / run.run_seconds, abs=0.1)
    brief = dataclasses.replace(run, run_seconds=0.00146).result()  # rounded, but not so far that scripts see other numbers
    assert brief["steps_per_second"] * brief["run_seconds"] == pytest.approx(160, rel=0.01)
    assert result["run_dir"] is None
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    # The plain names are the first seed's.
    assert run.policy is run.seeds[0].policy
    assert run.policies == [seed.policy for seed in run.seeds]
    assert run.metrics is run.seeds[0].metrics
    np.testing.assert_array_equal(run.returns, run.seeds[0].returns)
    assert (run.failures, run.interrupted) == ({}, False)


def test_seeds() -> None:
    assert train(updates=1).result()["seeds"] == [0]
    assert train(updates=1, seed=7).result()["seeds"] == [7]
    assert train(updates=1, seeds=3).result()["seeds"] == [0, 1, 2]
    assert train(updates=1, seeds=[5]).result()["seeds"] == [5]
    assert train(updates=1, seeds=np.int64(2)).result()["seeds"] == [0, 1]
    run = train(updates=2, seeds=(2**32 - 1, np.int64(4)))
    assert run.result()["seeds"] == [2**32 - 1, 4]
    assert json.dumps(run.result())
    assert not leaves_equal(run.policies[0], run.policies[1])
    assert not np.isin(run.seeds[0].returns, run.seeds[1].returns).any()


def test_episodes_of_any_length_are_counted_in_steps() -> None:
    """Rounded up to whole updates, and not one more."""
    run = pg.train(clockwork, pg.reinforce(hidden_sizes=()), num_steps=60, num_envs=3, **QUICK)
    steps = run.metrics["steps"]
    assert steps[-1] == run.num_steps >= 60 > steps[-2]
    seed = run.seeds[0]
    assert len(seed.returns) == len(seed.lengths) == len(seed.ends) == 3 * len(steps)
    assert seed.lengths.sum() == run.num_steps
    assert (np.diff(seed.ends) >= 0).all()
    assert seed.ends[-1] == run.num_steps
    np.testing.assert_array_equal(run.metrics["iteration"], np.arange(1, len(steps) + 1))
    # Metrics of an update are those of its own episodes.
    np.testing.assert_allclose(run.metrics["return"], seed.returns.reshape(-1, 3).mean(axis=1))
    np.testing.assert_allclose(run.metrics["length"], seed.lengths.reshape(-1, 3).mean(axis=1))
    np.testing.assert_array_equal(np.cumsum(seed.lengths.reshape(-1, 3).sum(axis=1)), steps)


def valid(agent: Any, rollout: Any) -> dict[str, Any]:
    """Own metrics: valid steps of the rollout, and steps before it."""
    return {"valid": jnp.sum(rollout.mask), "before": agent.steps, "mean_reward": jnp.sum(rollout.reward)}


@pytest.mark.parametrize("mode", AUTORESETS)
def test_only_valid_steps_are_counted(mode: str) -> None:
    """NEXT_STEP spends rows on resets: those are no steps."""
    env = pg.envs.make(clockwork, autoreset=mode)
    run = pg.train(env, pg.actor_critic(rollout_length=10, hidden_sizes=()), num_steps=70, num_envs=2, metrics=valid, **QUICK)
    rows = 20 * len(run.metrics["steps"])
    assert (run.num_steps < rows) == (mode == "next-step")
    np.testing.assert_array_equal(np.cumsum(run.metrics["valid"]), run.metrics["steps"])
    np.testing.assert_array_equal(run.metrics["before"][1:], run.metrics["steps"][:-1])
    assert run.metrics["before"][0] == 0
    assert int(run.seeds[0].agent.steps) == run.num_steps


def test_what_is_learnt_does_not_depend_on_the_autoreset_mode() -> None:
    runs = []
    for mode in AUTORESETS:
        env = pg.envs.make(clockwork, autoreset=mode)
        runs.append(pg.train(env, pg.reinforce(hidden_sizes=()), num_steps=80, num_envs=3, **QUICK))
    for run in runs[1:]:
        assert leaves_equal(run.policy, runs[0].policy)
        for name, values in run.metrics.items():
            np.testing.assert_array_equal(values, runs[0].metrics[name], err_msg=name)


@pytest.mark.parametrize("backend", BACKENDS)
def test_compilation_is_told_apart_from_the_run(backend: str) -> None:
    def slow_to_trace(agent: Any, rollout: Any) -> dict[str, Any]:
        time.sleep(0.4)
        return {}

    begin = time.perf_counter()
    run = train(BACKENDS[backend], updates=3, metrics=slow_to_trace)
    took = time.perf_counter() - begin
    assert run.compile_seconds >= 0.4
    assert 0 < run.run_seconds < 0.4 + (took - run.compile_seconds - run.run_seconds)
    assert run.compile_seconds + run.run_seconds <= took


def test_integer_boxes_compile_before_the_run() -> None:
    """Their observations arrive as float32, so that is what the policy must be compiled for."""
    shapes: list[Any] = []

    class Integers(HostBandit):
        def __init__(self) -> None:
            super().__init__()
            self.observation_space = gymnasium.spaces.Box(0, 5, (1,), np.int32)

        def reset(self, **kwargs: Any) -> tuple[Any, dict]:
            state, info = super().reset(**kwargs)
            return np.array([state], np.int32), info

        def step(self, action: Any) -> tuple:
            state, *rest = super().step(action)
            return np.array([state], np.int32), *rest

    def noting(key: Any, spec: Any) -> Any:
        policy = pg.policies.linear()(key, spec)

        class Noting(type(policy)):
            def __call__(self, obs: Any) -> Any:
                shapes.append(obs.dtype)
                return super().__call__(obs)

        return Noting(policy.features, policy.head, policy.observation_space, policy.action_space)

    train(Integers, pg.reinforce(policy=noting), updates=2)
    assert set(shapes) == {np.dtype("float32")}


# ── alone or among others, in chunks of any size, again ──────────────────────────────────────────────────────────────


@pytest.mark.parametrize("env", ["Bandit-v0", HOST_BANDIT, "lengths"])
def test_a_seed_is_bit_equal_alone_and_among_others_and_again(env: str) -> None:
    options: dict[str, Any] = {"updates": 20, "algorithm": pg.reinforce(baseline="value")}
    if env == "lengths":
        env, options = clockwork, {"num_steps": 60, "num_envs": 3, "algorithm": pg.reinforce(hidden_sizes=())}  # type: ignore[assignment]
    among = train(env, seeds=[0, 5, 2], **options)
    assert len({seed.returns[0] for seed in among.seeds}) == 3  # environments have seeds of their own, too
    for one in among.seeds:
        assert_same_seed(train(env, seed=one.seed, **options).seeds[0], one)


@pytest.mark.parametrize("backend", BACKENDS)
def test_chunks_change_nothing(backend: str) -> None:
    env = BACKENDS[backend]
    whole = train(env, updates=21)
    for every in (1, 4, 1000):
        calls: list[int] = []
        run = train(env, updates=21, callbacks=lambda p: calls.append(p.iteration), callback_every=every)  # noqa: B023
        assert_same_seed(run.seeds[0], whole.seeds[0])
        assert calls[-1] == 21
        assert [c for c in calls if c != 21] == list(range(every, 21, every))


def test_more_updates_than_a_chunk_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiled program keeps a log of bounded size; neither results nor callbacks may show it."""
    whole = train(updates=20)
    monkeypatch.setattr(runners, "LOG_ELEMENTS", 3 * B)
    assert_same_seed(train(updates=20).seeds[0], whole.seeds[0])
    calls: list[int] = []
    run = train(updates=20, callbacks=lambda p: calls.append(p.iteration), callback_every=5)
    assert_same_seed(run.seeds[0], whole.seeds[0])
    assert calls == [5, 10, 15, 20]
    yielded = [p.iteration for p in pg.iterate("Bandit-v0", pg.reinforce(), num_steps=10 * B, num_envs=B, every=5)]
    assert yielded == [5, 10]


def test_it_trains_in_a_thread_too() -> None:
    """Where signals cannot be caught."""
    runs: list[pg.Run] = []
    thread = threading.Thread(target=lambda: runs.append(train()))
    thread.start()
    thread.join()
    assert_same_seed(runs[0].seeds[0], train().seeds[0])


# ── learning ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("recipe", ["reinforce", "actor_critic"])
def test_it_learns(backend: str, recipe: str) -> None:
    algorithm = pg.reinforce(learning_rate=0.2) if recipe == "reinforce" else pg.actor_critic(learning_rate=0.2, critic_learning_rate=0.2)
    run = train(BACKENDS[backend], algorithm, updates=120, num_envs=16)
    probabilities = run.policy(np.arange(4)).probabilities()
    start = bandit_value(np.full((4, 5), 0.2))
    best = bandit_best_value()
    assert bandit_value(probabilities) > start + 0.95 * (best - start)
    assert np.mean(run.returns[-200:]) > start + 0.9 * (best - start)
    assert run.metrics["entropy"][0] == pytest.approx(math.log(5), rel=1e-5)
    assert run.metrics["entropy"][-1] < 0.5


# ── until solved ─────────────────────────────────────────────────────────────────────────────────────────────────────


def solved_by_hand(path: Path, threshold: float) -> tuple[int | None, float, int]:
    """From episodes.csv: steps to solve, final return, episodes."""
    rows = list(csv.DictReader(path.read_text().splitlines()))
    returns = [float(row["return"]) for row in rows]
    solved = None
    for i in range(19, len(rows)):
        if sum(returns[i - 19 : i + 1]) / 20 >= threshold:
            solved = int(rows[i]["steps"])
            break
    return solved, sum(returns[-20:]) / len(returns[-20:]), len(rows)


@pytest.mark.parametrize("backend", BACKENDS)
def test_until_solved_stops_with_the_update_that_solved(backend: str, tmp_path: Path) -> None:
    env = solvable() if backend == "compiled" else HOST_BANDIT
    run = train(env, updates=400, until_solved=True, out=tmp_path / "run")
    steps = run.num_steps
    assert 20 < steps < 400 * B
    solved, final, count = solved_by_hand(tmp_path / "run" / "episodes.csv", 0.9)
    result = run.result()
    assert result["steps_to_solve"] == [solved]
    assert result["final_return"][0] == pytest.approx(final, rel=1e-6)
    assert solved is not None
    assert steps - B < solved <= steps == count
    assert len(run.metrics["steps"]) == steps // B
    # Chunks of any size, callbacks or none, end with the same update and the same policy.
    for every in (1, 7):
        calls: list[int] = []
        other = train(env, updates=400, until_solved=True, callbacks=lambda p: calls.append(p.iteration), callback_every=every)  # noqa: B023
        assert_same_seed(other.seeds[0], run.seeds[0])
        assert [c for c in calls if c != steps // B] == list(range(every, steps // B, every))
    # Without it, the same steps give the same policy: it is the policy of that update, not of a later one.
    assert programs_agree(train(env, updates=steps // B).policy, run.policy)
    on = train(env, updates=steps // B + 30)
    assert on.num_steps == steps + 30 * B
    assert on.result()["steps_to_solve"] == [solved]


def test_until_solved_and_steps_to_solve_agree_on_the_edge() -> None:
    """A mean that falls short by less than rounding has not solved: both or neither."""
    reward = float(np.float32(0.1))
    env = dataclasses.replace(pg.make("Bandit-v0", env_args={"means": [[reward]], "sigma": 0.0}), reward_threshold=reward + 4e-10)
    run = train(env, updates=20, until_solved=True)
    assert (run.result()["steps_to_solve"], run.num_steps) == ([None], 20 * B)
    env = dataclasses.replace(env, reward_threshold=reward)
    run = train(env, updates=20, until_solved=True)
    assert (run.result()["steps_to_solve"], run.num_steps) == ([24], 24)  # the twentieth episode ends with the third row of 8
    for every in (1, 4, 1000):  # here it is the first of a chunk, its last, or in its middle
        run = train(
            env, pg.reinforce(baseline="none"), num_envs=1, updates=30, until_solved=True, callbacks=lambda p: None, callback_every=every
        )
        assert (run.result()["steps_to_solve"], run.num_steps) == ([20], 20)


def test_each_seed_is_solved_by_itself() -> None:
    among = train(solvable(), updates=400, seeds=3, until_solved=True)
    assert len({seed.steps for seed in among.seeds}) > 1
    assert among.num_steps == max(seed.steps for seed in among.seeds)
    for one in among.seeds:
        assert_same_seed(train(solvable(), updates=400, seed=one.seed, until_solved=True).seeds[0], one)


# ── callbacks, own metrics ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("backend", BACKENDS)
def test_callbacks_see_the_run(backend: str) -> None:
    seen: list[Any] = []
    run = train(BACKENDS[backend], updates=6, callbacks=[lambda p: seen.append(p), lambda p: None], metrics=valid)
    assert [p.iteration for p in seen] == [1, 2, 3, 4, 5, 6]
    assert [p.steps for p in seen] == [8, 16, 24, 32, 40, 48]
    for i, here in enumerate(seen):
        assert (here.seed, here.num_steps) == (0, 48)
        assert here.metrics["mean_reward"] == pytest.approx(run.metrics["mean_reward"][i])
        assert int(here.agent.steps) == here.steps
        assert here.seconds <= run.run_seconds
    assert leaves_equal(seen[-1].policy, run.policy)
    assert not leaves_equal(seen[0].policy, run.policy)
    np.testing.assert_array_equal(seen[-1].returns, run.returns)
    assert seen[-1].mean_return == pytest.approx(np.mean(run.returns[-20:]))
    assert [p.seconds for p in seen] == sorted(p.seconds for p in seen)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("stop", [True, np.True_])
def test_a_callback_stops_its_seed(backend: str, stop: Any) -> None:
    run = train(BACKENDS[backend], updates=6, seeds=[0, 1], callbacks=lambda p: stop if (p.seed, p.iteration) == (0, 2) else False)
    assert [seed.steps for seed in run.seeds] == [16, 48]
    assert programs_agree(run.policy, train(BACKENDS[backend], updates=2).policy)
    assert (run.interrupted, run.failures) == (False, {})
    assert run.result()["num_steps"] == 48
    assert run.result()["steps_per_second"] == pytest.approx(64 / run.run_seconds, abs=0.1)


def test_what_is_not_true_stops_nothing() -> None:
    for answer in (None, False, np.False_, 0):
        assert train(updates=3, callbacks=lambda p: answer).num_steps == 24  # noqa: B023


def test_own_metrics_are_of_the_agent_before_the_update() -> None:
    def first_logit(agent: Any, rollout: Any) -> dict[str, Any]:
        return {"logit": agent.params.policy.head.logits[0, 0], "count": rollout.mask.shape[1]}

    policies: list[Any] = []
    run = train(updates=4, metrics=first_logit, callbacks=lambda p: policies.append(p.policy))
    assert run.metrics["logit"][0] == 0
    np.testing.assert_array_equal(run.metrics["logit"][1:], [p.head.logits[0, 0] for p in policies[:-1]])
    np.testing.assert_array_equal(run.metrics["count"], 8)


# ── warm start ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_warm_start_begins_with_the_given_policy(backend: str, tmp_path: Path) -> None:
    env = BACKENDS[backend]
    teacher = train(updates=40, algorithm=pg.reinforce(learning_rate=0.3)).policy
    frozen = train(env, pg.reinforce(learning_rate=1e-30), updates=2, init=teacher)
    assert leaves_equal(frozen.policy, teacher)
    assert frozen.metrics["entropy"][0] < 1.2 < math.log(5)
    pg.save(teacher, tmp_path / "teacher.safetensors")
    warm = train(env, updates=3, init=teacher)
    for path in (tmp_path / "teacher.safetensors", str(tmp_path / "teacher.safetensors")):
        assert_same_seed(train(env, updates=3, init=path).seeds[0], warm.seeds[0])
    assert not leaves_equal(warm.policy, train(env, updates=3).policy)


def test_a_policy_that_does_not_fit_is_told_in_one_line(tmp_path: Path) -> None:
    network = train(updates=1, algorithm=pg.reinforce(hidden_sizes=(3,))).policy
    line = r"^init: the policy has another structure \(3×4, 3, 5×3, 5\) than the one that reinforce builds \(4×5\); give the same [^\n]*$"
    with pytest.raises(UsageError, match=line):
        train(init=network)
    others = pg.policies.default()(jax.random.key(0), pg.Spec(pg.spaces.Discrete(3), pg.spaces.Discrete(5), 1))
    line = r"^the policy is for other observations than Bandit-v0: got Discrete\(4\), it was made for Discrete\(3\); [^\n]*$"
    with pytest.raises(SpaceError, match=line):
        train(init=others)
    pg.save(others, tmp_path / "others.safetensors")
    with pytest.raises(SpaceError, match=line):
        train(init=tmp_path / "others.safetensors")
    for nothing in (5, {"a": 1}, [network]):
        with pytest.raises(UsageError, match=r"^init: [^\n]*$"):
            train(init=nothing)
    with pytest.raises(UsageError, match=r"^policy file [^\n]*nowhere: got no such file; [^\n]*$"):
        train(init=tmp_path / "nowhere")


def test_a_policy_of_one_backend_starts_the_other() -> None:
    policy = pg.train("CartPole-v1", pg.reinforce(), num_steps=1, num_envs=2, **QUICK).policy
    run = pg.train("CartPole-v1", pg.reinforce(learning_rate=1e-30), num_steps=1, num_envs=2, backend="gymnasium", init=policy, **QUICK)
    assert leaves_equal(run.policy, policy)
    assert run.result()["backend"] == "gymnasium"


# ── iterate ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("backend", BACKENDS)
def test_iterate_is_train_as_a_generator(backend: str) -> None:
    env = BACKENDS[backend]
    run = train(env, updates=7, seed=3, metrics=valid)
    here = list(pg.iterate(env, pg.reinforce(learning_rate=0.1), num_steps=7 * B, num_envs=B, seed=3, metrics=valid, every=3))
    assert [(p.iteration, p.steps) for p in here] == [(3, 24), (6, 48), (7, 56)]
    assert leaves_equal(here[-1].agent, run.seeds[0].agent)
    assert leaves_equal(here[-1].policy, run.policy)
    np.testing.assert_array_equal(here[-1].returns, run.returns)
    assert here[0].metrics["before"] == 16


def test_iterate_writes_nothing_and_closes_what_it_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    opened, closed = [], []

    class Watched(Clockwork):
        def __init__(self) -> None:
            super().__init__()
            opened.append(self)

        def close(self) -> None:
            closed.append(self)

    generator = pg.iterate(Watched, pg.reinforce(hidden_sizes=()), num_steps=1000, num_envs=2)
    next(generator)
    assert len(closed) == 1  # the one that was asked for its spaces
    generator.close()
    assert {id(env) for env in opened} == {id(env) for env in closed}
    for here in pg.iterate(Watched, pg.reinforce(hidden_sizes=()), num_steps=1000, num_envs=2):
        assert here.iteration == 1
        break
    assert {id(env) for env in opened} == {id(env) for env in closed}
    assert list(tmp_path.iterdir()) == []


def test_train_closes_the_environments_of_every_seed() -> None:
    opened, closed = [], []

    class Watched(Clockwork):
        def __init__(self) -> None:
            super().__init__()
            opened.append(self)

        def close(self) -> None:
            closed.append(self)

    pg.train(Watched, pg.reinforce(hidden_sizes=()), num_steps=20, num_envs=2, seeds=2, **QUICK)
    assert len(opened) == 5
    assert {id(env) for env in opened} == {id(env) for env in closed}


# ── environments of every kind ───────────────────────────────────────────────────────────────────────────────────────


def test_ids_arguments_wrappers_factories_and_ready_ones() -> None:
    algorithm = pg.reinforce(hidden_sizes=())
    options: dict[str, Any] = {"num_steps": 40, "num_envs": 2} | QUICK
    gymnasium.register("PolicygradClockwork-v0", Clockwork, max_episode_steps=5)
    try:
        by_id = pg.train("PolicygradClockwork-v0", algorithm, **options)
        boxed = pg.train("PolicygradClockwork-v0", algorithm, env_args={"box": True}, **options)
        doubled = pg.train(
            "PolicygradClockwork-v0", algorithm, wrappers=[lambda e: gymnasium.wrappers.TransformReward(e, lambda r: 2 * r)], **options
        )
    finally:
        del gymnasium.registry["PolicygradClockwork-v0"]
    assert by_id.result()["env"] == "PolicygradClockwork-v0"
    assert boxed.policy.action_space == pg.spaces.Box.of(-0.5, 0.5, (2,))
    first = slice(0, 2)
    np.testing.assert_allclose(doubled.returns[first], 2 * by_id.returns[first], rtol=1e-6)
    by_factory = pg.train(clockwork, algorithm, **options)
    np.testing.assert_array_equal(by_factory.returns, by_id.returns)
    vector = gymnasium.vector.SyncVectorEnv([clockwork] * 2)
    ready = pg.train(vector, algorithm, num_steps=40, **QUICK)
    np.testing.assert_array_equal(ready.returns, by_id.returns)
    alone = pg.train(clockwork(), algorithm, num_steps=40, seeds=2, **QUICK)
    assert alone.num_envs == 1
    np.testing.assert_array_equal(alone.returns, pg.train(clockwork, algorithm, num_steps=40, num_envs=1, **QUICK).returns)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_update_is_traced_once_in_a_run_whatever_the_seeds(backend: str) -> None:
    algorithm, traced = pg.reinforce(), []

    def update(*arguments: Any) -> Any:
        traced.append(1)
        return algorithm.update(*arguments)

    train(BACKENDS[backend], algorithm._replace(update=update), updates=20, seeds=3)
    assert len(traced) == 1
