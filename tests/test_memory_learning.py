"""What memory is worth: tasks that cannot be solved without it are, and where none is to be had the best policy tosses its coin."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import policygrad as pg
from policygrad import oracle
from policygrad.envs.finite_worlds import aliased_grid, aliased_grid_best

QUICK: dict[str, Any] = {"out": False, "figures": False}
GRU: dict[str, Any] = {"memory": "gru", "hidden_sizes": ()}


def test_without_memory_the_aliased_grid_is_played_by_a_biased_coin() -> None:
    """Within 2 % of the exact optimum over stochastic policies without memory; deterministic ones reach 16 % less at the most."""
    algorithm = pg.reinforce(discount=0.9, discount_gradient=True, learning_rate=0.05, normalize_advantages=False)
    run = pg.train("AliasedGrid-v0", algorithm, num_steps=60_000, num_envs=16, seed=0, **QUICK)
    best = aliased_grid_best()[1]
    assert oracle.best_memoryless(aliased_grid()).value == pytest.approx(best)
    assert oracle.objective(aliased_grid(), run.policy) > 0.98 * best


@pytest.mark.nightly
def test_a_cue_is_remembered_to_the_junction() -> None:
    """The short T-maze: 4 with memory, 1.95 for the best policy without."""
    settings = {"rollout_length": 32, "epochs": 4, "minibatches": 4, "learning_rate": 3e-3, "entropy_bonus": 0.01, "memory_size": 16}
    run = pg.train("TMaze-v0", pg.ppo(**GRU, **settings), num_steps=60_000, num_envs=16, seed=0, env_args={"length": 3}, **QUICK)
    assert pg.evaluate(run.policy, "TMaze-v0", num_episodes=100, env_args={"length": 3}).mean > 3.8


@pytest.mark.nightly
def test_the_long_t_maze_in_every_seed() -> None:
    settings = {"rollout_length": 64, "epochs": 4, "minibatches": 4, "learning_rate": 1e-3, "entropy_bonus": 0.01}
    run = pg.train("TMaze-v0", pg.ppo(**GRU, **settings), num_steps=500_000, num_envs=16, seeds=5, env_args={"length": 20}, **QUICK)
    for policy in run.policies:
        assert pg.evaluate(policy, "TMaze-v0", num_episodes=100, env_args={"length": 20}).mean > 3.8


POSITIONS: dict[str, Any] = {
    "rollout_length": 32,
    "epochs": 20,
    "minibatches": 1,
    "learning_rate": 1e-3,
    "learning_rate_decay": True,
    "clip_decay": True,
    "discount": 0.98,
    "trace": 0.8,
    "normalize_observations": True,
    "normalize_rewards": True,
}


@pytest.mark.nightly
@pytest.mark.parametrize("memory", ["gru", "lstm", "none"])
def test_cartpole_without_velocities(memory: str) -> None:
    """At least 450 in the mean of five seeds with memory, below 200 without."""
    settings = POSITIONS | (GRU | {"memory": memory} if memory != "none" else {})
    run = pg.train("PositionOnlyCartPole-v0", pg.ppo(**settings), num_steps=150_000, num_envs=8, seeds=5, **QUICK)
    mean = np.mean([pg.evaluate(policy, "PositionOnlyCartPole-v0", num_episodes=100).mean for policy in run.policies])
    assert mean < 200 if memory == "none" else mean >= 450
