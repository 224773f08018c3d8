"""Gymnasium's environments: seeds, spaces, what arrives in them, and what is said of those that break their contract."""

from __future__ import annotations

import dataclasses
import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from policygrad.envs import processes
from policygrad.envs.gymnasium_adapter import AUTORESETS, GymnasiumEnv
from policygrad.envs.make import make
from policygrad.envs.processes import StepCost, step_cost
from policygrad.envs.vector_adapter import check_values, env_seeds
from policygrad.errors import RunError, UsageError
from policygrad.rollout import HostCollector, episodes, steps
from policygrad.spaces import Box, Discrete
from policygrad.types import Rollout
from rollout.toys import Clockwork, Faulty, assert_same_steps, clockwork, some_policy, valid_steps


def collected(env: GymnasiumEnv, collect: Any, num_envs: int = 2, *, times: int = 1, seed: int = 0) -> list[Rollout]:
    collector = HostCollector(env, collect, num_envs, seed=seed, key=jax.random.key(seed))
    policy = some_policy(env)
    try:
        return [collector.collect(policy)[0] for _ in range(times)]
    finally:
        collector.close()


# ── seeds ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_seeds_are_distinct_and_disjoint_between_runs() -> None:
    seeds = [one for run in range(100) for reset in range(3) for one in env_seeds(run, 16, reset)]
    assert len(set(seeds)) == len(seeds)
    first = [one for run in range(100) for one in env_seeds(run, 256)]
    assert len(set(first)) == len(first)
    assert all(0 <= one < 2**31 for one in first)  # some environments keep theirs in an int32
    assert env_seeds(7, 3) == env_seeds(7, 256)[:3]


class Seeds(gymnasium.Env):
    """Tells which seeds it was reset with."""

    observation_space = gymnasium.spaces.Discrete(2)
    action_space = gymnasium.spaces.Discrete(2)
    seen: list[int | None]

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[int, dict]:
        super().reset(seed=seed)
        self.seen = [*getattr(self, "seen", []), seed]
        return 0, {}

    def step(self, action: Any) -> tuple[int, float, bool, bool, dict]:
        return 0, 1.0, True, False, {}


@pytest.mark.parametrize("wrapped", [False, True])
def test_every_environment_of_a_vector_gets_a_stream_of_its_own(wrapped: bool) -> None:
    inner = SyncVectorEnv([Seeds] * 3, autoreset_mode=AutoresetMode.SAME_STEP)
    vector = gymnasium.wrappers.vector.RecordEpisodeStatistics(inner) if wrapped else inner
    collected(make(vector), episodes(3), 3, times=2, seed=4)
    given = [[seed for seed in env.seen if seed is not None] for env in inner.envs]
    assert given == [list(pair) for pair in zip(env_seeds(4, 3, 0), env_seeds(4, 3, 1), strict=True)]


@pytest.mark.parametrize("name", ["CartPole-v1", "MountainCarContinuous-v0"])
def test_first_observations_differ_within_and_between_runs(name: str) -> None:
    env = make(name, "gymnasium")
    firsts = []
    for seed in range(3):
        adapter = env.vector(4, seed)
        firsts += [adapter.reset(), adapter.reset()]
        again = env.vector(4, seed)
        np.testing.assert_array_equal(again.reset(), firsts[-2])
        adapter.close()
        again.close()
    rows = np.concatenate(firsts)
    assert len(np.unique(rows, axis=0)) == len(rows) == 24


# ── the vector entry point ───────────────────────────────────────────────────────────────────────────────────────────


def test_cartpoles_numpy_vector_obeys_the_contract() -> None:
    """It resets in the next step: those rows are not learnt from, and every other is a step of 1."""
    env = make("CartPole-v1", "gymnasium")
    adapter = env.vector(2, 0)
    assert (env.vectorization, adapter.mode) == ("vector", AutoresetMode.NEXT_STEP)
    rollouts = collected(env, steps(60), 4, times=2)
    assert (rollouts[0].mask == 0).sum() >= 4
    for one in valid_steps(rollouts):
        over = one["terminated"] | one["truncated"]
        assert over.sum() >= 3
        assert (one["reward"] == 1).all()
        np.testing.assert_array_equal(one["obs"][1:][~over[:-1]], one["next_obs"][:-1][~over[:-1]])
        assert (np.abs(one["obs"][one["time"] == 0]) <= 0.05).all()
        angle, place = np.abs(one["next_obs"][:, 2]), np.abs(one["next_obs"][:, 0])
        np.testing.assert_array_equal((angle > 12 * np.pi / 180) | (place > 2.4), one["terminated"])
        np.testing.assert_array_equal(one["time"][1:], np.where(over[:-1], 0, one["time"][:-1] + 1))


def test_cartpoles_numpy_vector_in_whole_episodes() -> None:
    env = make("CartPole-v1", "gymnasium", env_args={"max_episode_steps": 15})
    assert env.vectorization == "vector"
    first, second = collected(env, episodes(8), 4, times=2)
    assert first.mask.shape == (15, 8)
    for rollout in (first, second):
        length = rollout.mask.sum(axis=0).astype(int)
        over = (rollout.terminated | rollout.truncated) > 0
        np.testing.assert_array_equal(over.sum(axis=0), 1)
        assert over[length - 1, np.arange(8)].all()
        np.testing.assert_array_equal(rollout.reward, rollout.mask)
        assert (np.abs(rollout.obs[0]) <= 0.05).all()
    assert first.truncated[14].any()
    assert (second.obs[0] != first.obs[0]).all()


# ── ready-made ones, workers ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_ready_vector_runs_as_it_is_in_every_mode() -> None:
    def ready(mode: AutoresetMode) -> list[Rollout]:
        vector = SyncVectorEnv([clockwork] * 2, autoreset_mode=mode)
        return collected(make(vector), steps(40), times=2)

    reference = valid_steps(collected(make(clockwork), steps(40), times=2))
    for mode in AutoresetMode:
        for ours, theirs in zip(valid_steps(ready(mode)), reference, strict=True):
            assert_same_steps(ours, theirs, least=50)


def test_a_ready_environment_runs_alone_and_stays_open() -> None:
    class Watched(gymnasium.Wrapper):
        closed = 0

        def close(self) -> None:
            self.closed += 1

    env = Watched(clockwork())
    reference = valid_steps(collected(make(clockwork), steps(40), 1))
    for _ in range(2):  # and can be used again
        (ours,) = valid_steps(collected(make(env), steps(40), 1))
        assert_same_steps(ours, reference[0], least=40)
    vector = SyncVectorEnv([lambda: env], autoreset_mode=AutoresetMode.SAME_STEP)
    collected(make(vector), steps(3), 1)
    gc.collect()
    assert env.closed == 0


def test_environments_made_here_are_closed() -> None:
    closed = []

    class Closing(Clockwork):
        def close(self) -> None:
            closed.append(self)

    env = make(Closing)
    assert len(closed) == 1  # the one that was asked for its spaces
    collected(env, steps(2), 3)
    assert len(set(map(id, closed))) == 4


@pytest.mark.parametrize("mode", ["same-step", "disabled"])
def test_worker_processes(mode: str) -> None:
    """The same record as in one process; Ctrl-C, which goes to all processes, does not kill them; their faults are told."""
    reference = valid_steps(collected(make(clockwork), steps(25)))
    env = make(clockwork, vectorization="async", autoreset=mode)
    collector = HostCollector(env, steps(25), 2, seed=0, key=jax.random.key(0))
    try:
        collector.vector.reset()
        for process in collector.vector.vector.processes:
            os.kill(process.pid, signal.SIGINT)
        collector.vector._resets = 0
        rollout, _ = collector.collect(some_policy(env))
        for ours, theirs in zip(valid_steps([rollout]), reference, strict=True):
            assert_same_steps(ours, theirs, least=25)
    finally:
        collector.close()


def test_a_fault_in_a_worker_is_told_as_here() -> None:
    collector = HostCollector(make(faulty("exception", 6), vectorization="async"), steps(10), 1, seed=0, key=jax.random.key(0))
    with pytest.raises(RunError, match=LATER["exception"]):
        collector.collect(some_policy(collector.env))
    collector.close()


def test_a_worker_process_that_dies() -> None:
    collector = HostCollector(make(clockwork, vectorization="async"), steps(5), 1, seed=0, key=jax.random.key(0))
    collector.vector.reset()
    collector.vector.vector.processes[0].kill()
    with pytest.raises(RunError, match=r"^environment clockwork, at (reset|vector step 1): a worker process died; [^\n]*$"):
        collector.collect(some_policy(collector.env))
    collector.close()


def test_an_environment_that_cannot_be_closed_ends_no_run() -> None:
    class Stubborn(Clockwork):
        def close(self) -> None:
            raise RuntimeError("cannot close")

    collected(make(Stubborn), steps(2))


# ── what arrives, and what comes back ────────────────────────────────────────────────────────────────────────────────


class Shifted(gymnasium.Env):
    """Observations from 5, actions from −2: the observation is the last action's number, counted from 5."""

    observation_space = gymnasium.spaces.Discrete(3, start=5)
    action_space = gymnasium.spaces.Discrete(3, start=-2)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.int64, dict]:
        super().reset(seed=seed)
        self.t = 0
        return np.int64(6), {}

    def step(self, action: Any) -> tuple[np.int64, float, bool, bool, dict]:
        assert self.action_space.contains(action), action
        self.t += 1
        return np.int64(action + 2 + 5), float(action), self.t == 4, False, {}


@pytest.mark.parametrize("mode", AUTORESETS)
def test_discrete_spaces_count_from_0_inside(mode: str) -> None:
    env = make(Shifted, autoreset=mode)
    assert (env.observation_space, env.action_space) == (Discrete(3, start=5), Discrete(3, start=-2))
    (rollout,) = collected(env, steps(30))
    for one in valid_steps([rollout]):
        assert set(one["action"]) == {0, 1, 2}
        assert one["obs"].dtype == one["action"].dtype == np.int32
        np.testing.assert_array_equal(one["next_obs"], one["action"])
        np.testing.assert_array_equal(one["reward"], one["action"] - 2)
        assert (one["obs"][one["time"] == 0] == 1).all()


class Picky(gymnasium.Env):
    """Writes into the action that it gets, after asserting that it lies in its space."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float64)

    def __init__(self, dtype: Any = np.float32, bound: float = 0.1):
        self.action_space = gymnasium.spaces.Box(-bound, bound, (1,), dtype)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return np.zeros(1), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        assert self.action_space.contains(action), (action, action.dtype)
        reward = float(action[0])
        action[:] = 77.0
        return np.array([reward]), reward, False, False, {}


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("bound", [0.1, 0.3])  # in float32 the one rounds up, the other down
def test_box_actions_arrive_within_their_space_and_may_be_written_over(dtype: Any, bound: float) -> None:
    (rollout,) = collected(make(lambda: Picky(dtype, bound)), steps(20))
    assert (rollout.action > bound).any()
    assert (rollout.action < -bound).any()
    assert (np.abs(rollout.action) < 50).all()
    np.testing.assert_allclose(rollout.reward, np.clip(rollout.action, -bound, bound)[..., 0], rtol=1e-3)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64, np.uint8])
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("mode", AUTORESETS)
def test_observations_of_any_dtype_and_in_reused_buffers(mode: str, in_place: bool, dtype: Any) -> None:
    """The record is float32, or bytes, and stays what it was when the environment writes over the array that it handed out."""

    class Counting(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(0, 200, (2,), dtype)
        action_space = gymnasium.spaces.Discrete(2)
        buffer = np.zeros(2, dtype)

        def _observe(self) -> np.ndarray:
            obs = self.buffer if in_place else np.zeros(2, dtype)
            obs[:] = self.episode, self.t
            return obs

        def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
            super().reset(seed=seed)
            self.episode = 0 if seed is not None else self.episode + 1
            self.t = 0
            return self._observe(), {}

        def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
            self.t += 1
            return self._observe(), 1.0, self.t == 3, False, {}

    (rollout,) = collected(make(Counting, autoreset=mode), steps(20), 1)
    (one,) = valid_steps([rollout])
    n = np.arange(len(one["reward"]))
    assert rollout.obs.dtype == rollout.next_obs.dtype == (np.uint8 if dtype == np.uint8 else np.float32)
    np.testing.assert_array_equal(one["obs"], np.stack([n // 3, n % 3], axis=1))
    np.testing.assert_array_equal(one["next_obs"], np.stack([n // 3, n % 3 + 1], axis=1))


# ── environments that break their contract ───────────────────────────────────────────────────────────────────────────

FAULTS = ["nan observation", "nan reward", "outside", "shape", "exception", "old api"]
LATER = {
    "nan observation": r"^environment \w+, copy 0, step 2 of its episode \(about \d+ steps into the run\): "
    r"observation \[[^\]]*nan\] is not finite, in its space Box\(-1, 1, \(2,\), float32\); correct the environment[^\n]*$",
    "nan reward": r"^environment \w+, copy 0, step 2 of its episode \(about \d+ steps into the run\): "
    r"the reward is nan, not a finite number; correct the environment[^\n]*$",
    "outside": r"^environment \w+, copy 0, step 2 of its episode \(about \d+ steps into the run\): "
    r"observation \[[^\]]*1\.5\] lies outside its space Box\(-1, 1, \(2,\), float32\); correct[^\n]*$",
    "shape": r"^environment \w+, copy 0, at vector step 6: got an observation of shape \(3,\), its space says \(2,\); correct[^\n]*$",
    "exception": r"^environment \w+(, copy 0,)? raised at vector step 6: RuntimeError: the motor burnt out;"
    r" the fault is in the environment: [^\n]*$",
    "old api": r"^environment \w+(, copy 0,)? raised at vector step 6: ValueError: not enough values to unpack [^\n]*$",
}
FIRST = {
    "nan observation": r"^environment \w+, step 1: observation \[[^\]]*nan\] is not finite, in its space [^\n]*; correct[^\n]*$",
    "nan reward": r"^environment \w+, step 1: the reward is nan; it must be a finite number$",
    "outside": r"^environment \w+, step 1: observation \[[^\]]*1\.5\] lies outside its space [^\n]*; correct[^\n]*$",
    "shape": r"^environment \w+, step 1: got an observation of shape \(3,\), its space says \(2,\); correct[^\n]*$",
    "exception": r"^environment \w+ raised in its first step: RuntimeError: the motor burnt out; correct the environment$",
    "old api": r"^environment \w+: step\(\) returned 4 values, not \(observation, reward, terminated, truncated, info\)$",
}


def faulty(fault: str, at: int) -> Callable[[], Faulty]:
    def faulty_env() -> Faulty:
        return Faulty(fault, at)

    return faulty_env


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_first_step_is_found_before_anything_runs(fault: str) -> None:
    with pytest.raises(UsageError, match=FIRST[fault]):
        make(faulty(fault, 1))


@pytest.mark.parametrize("fault", ["nan observation", "outside", "shape"])
def test_a_fault_in_the_reset_is_found_before_anything_runs(fault: str) -> None:
    with pytest.raises(UsageError, match=FIRST[fault].replace("step 1", "reset")):
        make(faulty(fault, 0))


@pytest.mark.parametrize("mode", AUTORESETS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_later_fault_names_environment_and_step(fault: str, mode: str) -> None:
    """The copy's own sixth step, the second of its second episode; NEXT_STEP spends a vector step on the reset between."""
    line = LATER[fault].replace("vector step 6", "vector step 7") if mode == "next-step" else LATER[fault]
    with pytest.raises(RunError, match=line):
        collected(make(faulty(fault, 6), autoreset=mode), steps(10))


def test_the_step_of_a_fault_counts_over_collections() -> None:
    collector = HostCollector(make(faulty("nan reward", 26)), steps(10), 2, seed=0, key=jax.random.key(0))
    policy = some_policy(collector.env)
    for _ in range(2):
        collector.collect(policy)
    with pytest.raises(RunError, match=r"copy 0, step 2 of its episode \(about 50 steps into the run\)"):
        collector.collect(policy)
    collector.close()


@pytest.mark.parametrize("mode", AUTORESETS)
def test_a_wrong_shape_at_the_very_end_of_an_episode(mode: str) -> None:
    """It would broadcast into the true next observation without a word."""

    class Short(Faulty):
        def _observe(self) -> Any:
            return np.zeros(1, np.float32) if self.steps == 8 else super()._observe()

    with pytest.raises(RunError, match=r"^environment Short[^\n]* at vector step (8|9)[^\n]*shape \(1,\)[^\n]*$"):
        collected(make(Short, autoreset=mode), steps(20), 1)


def test_a_fault_of_a_discrete_space() -> None:
    line = r"^environment <lambda>, copy 0, step 2 of its episode \([^)]*\): observation 7 lies outside its space Discrete\(2\); correct"
    with pytest.raises(RunError, match=line):
        collected(make(lambda: Faulty("outside", 6, gymnasium.spaces.Discrete(2))), steps(10))


def test_a_vector_of_ones_own_with_wrong_shapes() -> None:
    class Flat(gymnasium.vector.VectorWrapper):
        def step(self, actions: Any) -> tuple:
            obs, *rest = self.env.step(actions)
            return obs[0], *rest

    vector = Flat(SyncVectorEnv([clockwork] * 2, autoreset_mode=AutoresetMode.SAME_STEP))
    with pytest.raises(RunError, match=r"^environment SyncVectorEnv raised at vector step 1: [^\n]*shape \(4,\), not \(2, 4\);[^\n]*$"):
        collected(make(vector), steps(10))


def test_a_vector_that_does_not_say_when_it_resets() -> None:
    vector = SyncVectorEnv([clockwork])
    del vector.metadata["autoreset_mode"]
    with pytest.raises(UsageError, match=r"^SyncVectorEnv: the vector environment does not say its autoreset_mode; [^\n]*$"):
        make(vector).vector(1, 0)


def test_nan_that_never_ends_is_found() -> None:
    """A NaN state makes every comparison false, so that an episode without limit would go on for ever."""

    class Stuck(Faulty):
        def step(self, action: Any) -> Any:
            obs, reward, over, *rest = super().step(action)
            return obs, reward, over and self.steps < self.at, *rest

    with pytest.raises(RunError, match=r"^environment <lambda>, copy 0, step 3 of its episode [^\n]* is not finite"):
        collected(make(lambda: Stuck("nan observation", 3)), episodes(2))


def test_a_nan_that_the_policy_was_fed_is_the_better_explanation() -> None:
    class Touchy(Faulty):
        def step(self, action: Any) -> Any:
            if self.steps >= self.at:
                raise AssertionError("what is this action?")
            return super().step(action)

    with pytest.raises(RunError, match=r"copy 0, step 2 of its episode [^\n]* is not finite"):
        collected(make(lambda: Touchy("nan observation", 6)), steps(20))


def test_so_it_is_where_an_episode_begins_with_it() -> None:
    class Touchy(Faulty):
        def _observe(self) -> Any:
            return np.full(2, np.nan, np.float32) if self.steps == 4 and self.t == 0 else super()._observe()

        def step(self, action: Any) -> Any:
            if self.steps == 4:
                raise AssertionError("what is this action?")
            return super().step(action)

    with pytest.raises(RunError, match=r"copy 0, step 0 of its episode [^\n]* is not finite"):
        collected(make(Touchy), steps(20))


@pytest.fixture
def no_check() -> Iterator[None]:
    """For values that NumPy compares with a warning."""
    with np.errstate(all="raise"):
        yield


def test_check_values(no_check: None) -> None:
    space = Box.of([-1.0, -np.inf], [1.0, np.inf], (2,))
    obs = np.zeros((3, 2, 2), np.float32)
    valid = np.ones((3, 2), bool)
    obs[..., 1] = 1e30
    assert check_values(space, obs, valid) is None
    obs[2, 1, 0] = 1.00005  # float32 arithmetic of the environment's own
    assert check_values(space, obs, valid) is None
    obs[2, 1, 0] = 1.01
    found = check_values(space, obs, valid)
    assert found is not None
    assert found[:2] == (2, 1)
    valid[2, 1] = False
    assert check_values(space, obs, valid) is None
    obs[1, 0, 1] = np.inf
    found = check_values(space, obs, valid)
    assert found is not None
    assert found[:2] == (1, 0)
    widest = float(np.finfo(np.float32).max)  # CartPole's bounds in older versions
    assert check_values(Box.of(-widest, widest, (2,)), np.zeros((1, 1, 2), np.float32), np.ones((1, 1), bool)) is None
    states = np.array([[0, 4], [3, -1]], np.int32)
    assert check_values(Discrete(4), states, np.array([[True, False], [True, False]])) is None
    found = check_values(Discrete(4), states, np.ones((2, 2), bool))
    assert found is not None
    assert found[:2] == (0, 1)


# ── processes ────────────────────────────────────────────────────────────────────────────────────────────────────────

SLOW, WAITING = StepCost(1e-3, 1.0), StepCost(1e-3, 0.05)


@pytest.mark.parametrize(
    ("cost", "num_envs", "num_steps", "cores", "expected"),
    [
        (SLOW, 8, 100_000, 2, 2),
        (SLOW, 8, 100_000, 8, 8),
        (SLOW, 8, 100_000, 1, 1),  # one core is as fast with one process
        (SLOW, 8, 1_000, 2, 1),  # starting them takes longer
        (SLOW, 8, None, 2, 1),  # an evaluation, of few episodes
        (SLOW, 1, 100_000, 2, 1),  # nothing to divide
        (WAITING, 8, 100_000, 1, 8),  # an environment that waits leaves the core to others
        (WAITING, 1000, 10**6, 16, 64),
        (StepCost(1e-6, 1.0), 8, 10**7, 2, 1),  # waiting for each other takes longer than the steps
        (StepCost(50e-6, 1.0), 8, 10**6, 2, 2),
        (StepCost(50e-6, 1.0), 8, 10**5, 2, 1),
    ],
)
def test_processes_are_chosen_where_they_pay(
    cost: StepCost, num_envs: int, num_steps: int | None, cores: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "cores", lambda: cores)
    env = dataclasses.replace(make("Acrobot-v1", backend="gymnasium"), cost=cost)
    assert env.workers == "chosen"
    assert env.processes(num_envs, num_steps) == expected
    assert (f"{expected} processes step" in env.remark(num_envs, num_steps or 0)) == (expected > 1)
    for how in ("sync", "async"):
        asked = dataclasses.replace(env, workers="given", vectorization=how)
        assert asked.processes(num_envs, num_steps) > 1 if how == "async" and num_envs > 1 else asked.processes(num_envs, num_steps) == 1
        assert asked.remark(num_envs, num_steps or 0) == ""


def test_of_a_function_processes_are_advised_only() -> None:
    """Its copies may share what other processes would not see."""
    env = dataclasses.replace(make(clockwork), cost=SLOW)
    assert env.processes(8, 10**6) == 1
    assert env.remark(8, 10**6) == "clockwork: a step takes 1,000 µs; vectorization async would step the environments in 2 processes"
    lock = threading.Lock()

    def held() -> gymnasium.Env:
        assert lock
        return clockwork()

    env = dataclasses.replace(make(held), cost=SLOW)
    assert env.remark(8, 10**6) == ""  # nor where it cannot be sent
    with pytest.raises(UsageError, match=r"^vectorization: got async, but what makes the environment cannot be sent [^\n]*; use sync$"):
        make(held, vectorization="async").vector(2, 0)


def test_what_a_step_costs() -> None:
    class Waits(Clockwork):
        def step(self, action: Any) -> Any:
            time.sleep(2e-3)
            return super().step(action)

    cost = step_cost(Waits())
    assert 2e-3 < cost.seconds < 50e-3
    assert cost.busy < 0.5
    assert step_cost(clockwork()).seconds < 2e-3
