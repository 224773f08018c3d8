"""EnvPool's environments: its own where it is installed, and what stands in for it everywhere."""

from __future__ import annotations

import sys
import types
from typing import Any

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import policygrad as pg
from policygrad.envs.make import make
from policygrad.errors import UnknownNameError, UsageError
from policygrad.rollout import HostCollector, episodes, steps
from rollout.toys import assert_same_steps, some_policy, valid_steps


class Seeded(SyncVectorEnv):
    """Gymnasium's CartPole as EnvPool would run it: seeds where it is made, none where it is reset."""

    def __init__(self, num_envs: int, seed: list[int]):
        super().__init__([lambda: gymnasium.make("CartPole-v1", max_episode_steps=12)] * num_envs, autoreset_mode=AutoresetMode.NEXT_STEP)
        self.seeds = seed

    def reset(self, **options: Any) -> Any:
        assert not options
        return super().reset(seed=self.seeds)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    def make_spec(name: str, **args: Any) -> Any:
        if args:
            raise TypeError("got an unexpected keyword argument\nsecond line")
        env = gymnasium.make(name)
        config = types.SimpleNamespace(max_episode_steps=12, reward_threshold=10.0)
        return types.SimpleNamespace(
            gymnasium_observation_space=env.observation_space, gymnasium_action_space=env.action_space, config=config
        )

    module: Any = types.ModuleType("envpool")
    module.list_all_envs = lambda: ["CartPole-v1"]
    module.make_spec = make_spec
    module.make = lambda name, env_type, num_envs, seed: Seeded(num_envs, seed)
    monkeypatch.setitem(sys.modules, "envpool", module)


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("collect", [steps(40), episodes(4)])
def test_it_is_the_record_of_the_same_environment(collect: Any) -> None:
    def collected(env: Any) -> list[Any]:
        collector = HostCollector(env, collect, 2, seed=3, key=jax.random.key(3))
        try:
            return valid_steps([collector.collect(some_policy(env))[0] for _ in range(2)])
        finally:
            collector.close()

    ours = make("CartPole-v1", vectorization="envpool")
    assert (ours.time_limit, ours.reward_threshold, ours.vectorization) == (12, 10.0, "envpool")
    theirs = make("CartPole-v1", backend="gymnasium", vectorization="sync", autoreset="next-step", env_args={"max_episode_steps": 12})
    for one, other in zip(collected(ours), collected(theirs), strict=True):
        assert_same_steps(one, other, least=20)


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize(
    ("name", "options", "error", "line"),
    [
        ("CartPole-v2", {}, UnknownNameError, r"^unknown environment of EnvPool's 'CartPole-v2': did you mean CartPole-v1\?$"),
        ("CartPole-v1", {"env_args": {"foo": 1}}, UsageError, r"^environment CartPole-v1: EnvPool does not take these arguments: [^\n]*$"),
        (
            "CartPole-v1",
            {"env_args": {"seed": 1}},
            UsageError,
            r"^environment CartPole-v1: env_args holds seed, which is chosen here; leave",
        ),
        ("CartPole-v1", {"wrappers": [lambda env: env]}, UsageError, r"^CartPole-v1: EnvPool's environments take no Gymnasium wrappers"),
        ("CartPole-v1", {"backend": "compiled"}, UsageError, r"are not compiled; leave out vectorization$"),
    ],
)
def test_mistakes(name: str, options: dict[str, Any], error: type[UsageError], line: str) -> None:
    with pytest.raises(error, match=line):
        make(name, vectorization="envpool", **options)


def test_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(
        UsageError, match=r'^vectorization: got envpool, but EnvPool is not installed; pip install "policygrad\[fast-envs\]"$'
    ):
        make("CartPole-v1", vectorization="envpool")


def test_the_real_one() -> None:
    """Its ends are told apart, observations are those of its own spaces, and the same seed gives the same run."""
    pytest.importorskip("envpool")
    env = make("CartPole-v1", vectorization="envpool", env_args={"max_episode_steps": 10})
    collector = HostCollector(env, steps(100), 4, seed=0, key=jax.random.key(0))
    rollout, _ = collector.collect(some_policy(env))
    collector.close()
    last = (rollout.time == 9) & (rollout.mask > 0)
    assert last.any()
    np.testing.assert_array_equal(rollout.truncated & (rollout.mask > 0) & ~rollout.terminated, last & ~rollout.terminated)
    assert (np.abs(rollout.obs[(rollout.time == 0) & (rollout.mask > 0)]) <= 0.05).all()
    settled = (rollout.time[1:] > 0) & (rollout.mask[1:] > 0)
    np.testing.assert_array_equal(rollout.obs[1:][settled], rollout.next_obs[:-1][settled])
    runs = [
        pg.train(env, pg.reinforce(hidden_sizes=(4,)), num_steps=400, num_envs=4, seed=1, out=False, backend="gymnasium") for _ in range(2)
    ]
    np.testing.assert_array_equal(runs[0].returns[0], runs[1].returns[0])
