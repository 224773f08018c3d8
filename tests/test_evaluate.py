"""`evaluate`: whole episodes, exactly as many as asked for, none favoured; it learns nothing and changes nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import policygrad as pg
from policygrad.envs import Env, time_limit
from policygrad.envs.small_worlds import bandit_best_value, bandit_value
from policygrad.envs.vector_adapter import env_seeds
from policygrad.errors import PolicyFileError, RunError, SpaceError, UnknownNameError, UsageError
from policygrad.statistics import bootstrap_interval
from policygrad.types import Step
from rollout.toys import Faulty, HostBandit, Mixture, clockwork, lengths, some_policy

HOST_BANDIT = "PolicygradEvaluate-v0"


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    gymnasium.register(HOST_BANDIT, HostBandit)
    yield
    gymnasium.registry.pop(HOST_BANDIT, None)


def tabular(greedy: bool = False) -> Any:
    """A policy for the bandit: its best arms likeliest, with probabilities in between or none."""
    logits = np.zeros((4, 5), np.float32)
    logits[range(4), [0, 2, 4, 1]] = 100.0 if greedy else 1.0
    return pg.policies.tabular_softmax(logits)


def long_share(returns: np.ndarray, long: float) -> float:
    """How many standard deviations the share of long episodes is off a half."""
    n = len(returns)
    return abs(np.sum(returns == long) - n / 2) / math.sqrt(n / 4)


# ── what it returns ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("env", ["Bandit-v0", HOST_BANDIT])
def test_mean_interval_and_returns(env: str) -> None:
    found = pg.evaluate(tabular(), env, num_episodes=37, num_envs=5)
    assert found.returns.shape == found.lengths.shape == (37,)
    assert len(np.unique(found.returns)) == 37
    assert (found.lengths == 1).all()
    assert found.mean == pytest.approx(np.mean(found.returns))
    assert found.interval == bootstrap_interval(found.returns)
    assert found.interval[0] < found.mean < found.interval[1]
    assert (found.env, found.backend) == (env, "compiled" if env == "Bandit-v0" else "gymnasium")
    low, high = found.interval
    assert str(found) == f"mean return {found.mean:.2f}  (95 % interval {low:.2f} to {high:.2f}, 37 episodes of {env})"


@pytest.mark.parametrize("env", ["Bandit-v0", HOST_BANDIT])
def test_the_mode_or_samples(env: str) -> None:
    """Between a policy and its mode lies what the exact values say, here 0.4 of reward."""
    policy = tabular()
    sampled_value = bandit_value(policy(np.arange(4)).probabilities())
    assert bandit_best_value() - sampled_value > 0.3
    n = 400
    bound = 5 * math.sqrt((0.5**2 + 0.6**2) / n)  # of the noise, and of what states and actions add
    assert pg.evaluate(policy, env, num_episodes=n).mean == pytest.approx(bandit_best_value(), abs=bound)
    assert pg.evaluate(policy, env, num_episodes=n, sample=True).mean == pytest.approx(sampled_value, abs=bound)


@pytest.mark.parametrize("env", ["Bandit-v0", HOST_BANDIT])
@pytest.mark.parametrize("sample", [False, True])
def test_same_seed_same_result(env: str, sample: bool) -> None:
    one, again, other = (pg.evaluate(tabular(), env, num_episodes=20, seed=seed, sample=sample).returns for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, again)
    assert not np.isin(one, other).any()


# ── every episode counts the same ────────────────────────────────────────────────────────────────────────────────────


def test_short_episodes_are_not_favoured() -> None:
    """Half of them are long. Taking the first that end would find nearly none in a vector."""
    found = pg.evaluate(some_policy(pg.make(Mixture)), Mixture, num_episodes=301, num_envs=8)
    assert len(found.returns) == 301
    assert set(found.returns) == {2.0, 12.0}
    np.testing.assert_array_equal(found.lengths, found.returns)
    assert long_share(found.returns, 12.0) < 5
    env = lengths()
    found = pg.evaluate(some_policy(env), env, num_episodes=301)
    assert len(found.lengths) == 301
    assert set(found.lengths) == {2, 6}
    assert long_share(found.lengths, 6) < 5


@pytest.mark.parametrize("num_envs", [None, 1, 3, 100])
def test_exactly_as_many_as_asked_for(num_envs: int | None) -> None:
    for env in ("Bandit-v0", HOST_BANDIT):
        assert len(pg.evaluate(tabular(), env, num_episodes=7, num_envs=num_envs).returns) == 7


def test_a_ready_vector_or_environment() -> None:
    policy = some_policy(pg.make(clockwork))
    for mode in gymnasium.vector.AutoresetMode:
        vector = gymnasium.vector.SyncVectorEnv([clockwork] * 4, autoreset_mode=mode)
        for n in (2, 4, 6):
            found = pg.evaluate(policy, vector, num_episodes=n)
            assert len(found.returns) == n
            np.testing.assert_array_equal(found.returns, pg.evaluate(policy, clockwork, num_episodes=n, num_envs=4).returns[:n])
    assert len(pg.evaluate(policy, clockwork(), num_episodes=3).returns) == 3


def test_returns_are_sums_of_all_rewards() -> None:
    """Undiscounted, in double precision, of the padded record's valid rows."""
    policy = some_policy(pg.make(clockwork))
    found = pg.evaluate(policy, clockwork, num_episodes=6, num_envs=3)
    env = clockwork()
    returns = []
    for seed in env_seeds(2**31, 3):
        obs, _ = env.reset(seed=seed)
        total, over = 0.0, False
        while not over:
            obs, reward, terminated, truncated, _ = env.step(int(policy(jnp.asarray(obs)).mode()))
            total, over = total + np.float32(reward), terminated or truncated
        returns.append(total)
    np.testing.assert_allclose(found.returns[:3], returns, rtol=1e-6)


# ── the same on both backends, and apart from training ───────────────────────────────────────────────────────────────


def slide() -> Env:
    """Deterministic: x ← 0.9 x + 0.1 a from 1, reward x, over below 0.5 or after 20 steps."""

    def reset(key: Any) -> tuple[Any, Any]:
        return jnp.ones(1), jnp.ones(1)

    def step(key: Any, state: Any, action: Any) -> tuple[Any, Step]:
        state = 0.9 * state + 0.1 * action
        return state, Step(state, state[0], state[0] < 0.5, jnp.zeros((), bool))

    return time_limit(Env("Slide-v0", pg.spaces.Box.of(-2.0, 2.0, (1,)), pg.spaces.Discrete(3, start=0), reset, step), 20)


class Slide(gymnasium.Env):
    """The same on the host."""

    observation_space = gymnasium.spaces.Box(-2.0, 2.0, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.x, self.t = np.ones(1, np.float32), 0
        return self.x, {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.x = np.float32(0.9) * self.x + np.float32(0.1) * np.float32(action)
        self.t += 1
        return self.x, float(self.x[0]), bool(self.x[0] < 0.5), self.t == 20, {}


@pytest.mark.parametrize("seed", [0, 3])
def test_both_backends_agree_where_nothing_is_random(seed: int) -> None:
    policy = some_policy(slide(), seed)
    compiled = pg.evaluate(policy, slide(), num_episodes=3)
    hosted = pg.evaluate(policy, Slide, num_episodes=3)
    np.testing.assert_allclose(compiled.returns, hosted.returns, rtol=1e-5)
    np.testing.assert_array_equal(compiled.lengths, hosted.lengths)


def test_evaluation_runs_other_episodes_than_training() -> None:
    """With the same seed number, too."""
    seen: list[int] = []

    class Seen(HostBandit):
        def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[int, dict]:
            if seed is not None:
                seen.append(seed)
            return super().reset(seed=seed)

    run = pg.train(Seen, pg.reinforce(), num_steps=40, num_envs=4, seed=5, out=False, figures=False)
    training = set(seen)
    seen.clear()
    pg.evaluate(run.policy, Seen, num_episodes=40, num_envs=4, seed=5)
    assert len(training) == 41  # the preflight's 0 among them
    assert not training - {0} & set(seen)


# ── policies ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_it_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    policy = tabular()
    before = [np.array(leaf) for leaf in jax.tree.leaves(policy)]
    for env in ("Bandit-v0", HOST_BANDIT):
        pg.evaluate(policy, env, num_episodes=3, sample=True)
    for leaf, old in zip(jax.tree.leaves(policy), before, strict=True):
        np.testing.assert_array_equal(leaf, old)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_as_good_as_the_policy(tmp_path: Path) -> None:
    path = tmp_path / "policy.safetensors"
    pg.save(tabular(), path)
    expected = pg.evaluate(tabular(), "Bandit-v0", num_episodes=5).returns
    for given in (path, str(path)):
        np.testing.assert_array_equal(pg.evaluate(given, "Bandit-v0", num_episodes=5).returns, expected)
    with pytest.raises(PolicyFileError, match=r"^policy file [^\n]*nowhere: got no such file; check the path$"):
        pg.evaluate(tmp_path / "nowhere", "Bandit-v0")


def test_a_policy_for_other_spaces() -> None:
    line = r"^the policy is for other {}s than {}: got [^\n]*, it was made for [^\n]*; choose the environment it was trained on[^\n]*$"
    with pytest.raises(SpaceError, match=line.format("observation", "Corridor-v0")):
        pg.evaluate(tabular(), "Corridor-v0")
    with pytest.raises(SpaceError, match=line.format("action", "Bandit-v0")):
        pg.evaluate(pg.policies.tabular_softmax(np.zeros((4, 3))), "Bandit-v0")
    with pytest.raises(SpaceError, match=line.format("observation", "Faulty")):
        pg.evaluate(tabular(), Faulty)


# ── bad input ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("options", "line"),
    [
        *(
            ({"num_episodes": n}, r"^num_episodes: got [^\n]*; it must be a whole number from 1 to 2,147,483,647$")
            for n in (0, -1, 1.5, True, math.nan, None, "10")
        ),
        *(({"num_envs": n}, r"^num_envs: got [^\n]*; it must be a whole number from 1 to 1,048,576$") for n in (0, -1, 1.5, True, "8")),
        *(
            ({"seed": n}, r"^seed: got [^\n]*; it must be a whole number from 0 to 2,147,483,647$")
            for n in (-1, 2**31, 0.5, True, "0", None)
        ),
        ({"policy": None}, r"^policy: got NoneType; pass a policy, such as run\.policy, or a file of one$"),
        ({"policy": 5}, r"^policy: got int; [^\n]*$"),
        ({"env_args": {"hue": 1}}, r"^environment 'Bandit-v0' does not take hue; [^\n]*$"),
    ],
)
def test_bad_arguments_are_told_in_one_line(options: dict[str, Any], line: str) -> None:
    with pytest.raises(UsageError, match=line):
        pg.evaluate(**({"policy": tabular(), "env": "Bandit-v0", "num_episodes": 2} | options))


def test_bad_environments() -> None:
    with pytest.raises(UnknownNameError, match=r"^unknown environment 'Bandid-v0': did you mean Bandit-v0"):
        pg.evaluate(tabular(), "Bandid-v0")
    endless = Env("Endless-v0", slide().observation_space, slide().action_space, slide().reset, slide().step)
    with pytest.raises(UsageError, match=r"^Endless-v0: whole episodes need a time limit[^\n]*$"):
        pg.evaluate(some_policy(endless), endless)
    policy = some_policy(pg.make(Faulty))
    with pytest.raises(RunError, match=r"^environment <lambda>, copy \d, step \d of its episode [^\n]*: the reward is nan[^\n]*$"):
        pg.evaluate(policy, lambda: Faulty("nan reward", 5), num_episodes=10)
    with pytest.raises(UsageError, match=r"^environment <lambda>, step 1: the reward is nan; it must be a finite number$"):
        pg.evaluate(policy, lambda: Faulty("nan reward", 1), num_episodes=10)
    vector = gymnasium.vector.SyncVectorEnv([Faulty] * 2)
    with pytest.raises(UsageError, match=r"^SyncVectorEnv: got num_envs=3 for a ready-made environment of 2; [^\n]*$"):
        pg.evaluate(policy, vector, num_envs=3)
