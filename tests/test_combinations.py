"""Features × memory × head × algorithm × loop: every combination trains, and those that are the same thing said twice are the same.

`combos.ALL` is the table; 24 of its cells hold every pair of choices that can be held by so many, the others run in `make nightly`.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

import policygrad as pg
from combos import (
    ACTIONS,
    ALL,
    LENGTH,
    OBSERVATIONS,
    Acting,
    Combination,
    HostCombination,
    algorithm_of,
    compiled_env,
    covering,
    two_updates,
)
from policygrad.rollout import HostCollector, compiled_collector
from policygrad.rollout.host import with_log_prob
from policygrad.spaces import MASK, Dict, Discrete, MultiDiscrete
from policygrad.training.runners import spec_of

CHOSEN = covering(ALL, 24)
NIGHTLY = pytest.mark.nightly
OTHER_LOOPS = ("gru", "host"), ("none", "compiled"), ("none", "host")


def name_of(cell: Combination) -> str:
    return "-".join(cell).replace(" ", "_")


def check(cell: Combination) -> None:
    run = two_updates(cell)
    for leaf in jax.tree.leaves(run.policy):
        assert np.isfinite(leaf).all()
    for name, values in run.metrics.items():
        assert len(values) == 2
        if name != "start_value":  # of a rollout in which no episode begins there is none
            assert np.isfinite(values).all(), name
    assert run.seeds[0].lengths.size
    np.testing.assert_array_equal(run.seeds[0].lengths, LENGTH)


@pytest.mark.parametrize("cell", CHOSEN, ids=name_of)
def test_a_covering_part_of_the_table(cell: Combination) -> None:
    check(cell)


@pytest.mark.nightly
@pytest.mark.parametrize("cell", [cell for cell in ALL if cell not in CHOSEN], ids=name_of)
def test_the_rest_of_the_table(cell: Combination) -> None:
    check(cell)


def test_the_part_covers_every_pair() -> None:
    pairs = {(i, a, j, b) for cell in ALL for i, a in enumerate(cell) for j, b in enumerate(cell) if i < j}
    held = {(i, a, j, b) for cell in CHOSEN for i, a in enumerate(cell) for j, b in enumerate(cell) if i < j}
    # 48 pairs of an observation and an action, and 32 of an action and an algorithm, cannot be in 24 cells.
    assert {pair for pair in pairs if (pair[0], pair[2]) not in ((0, 2), (2, 3))} - held == set()


# ── the same thing, said twice ───────────────────────────────────────────────────────────────────────────────────────


def parameters(observation: Any, acting: Acting, loop: str, memory: str = "none", translate: Any = None) -> list[np.ndarray]:
    """What two updates of PPO make of the parameters."""
    env: Any = compiled_env(observation, acting) if loop == "compiled" else lambda: HostCombination(observation, acting)
    algorithm = algorithm_of(Combination("", memory, "discrete", "ppo", loop))
    run = pg.train(env, algorithm, num_steps=16, num_envs=2, seed=1, out=False, figures=False)
    return [np.asarray(leaf) for leaf in jax.tree.leaves(run.policy)]


@pytest.mark.parametrize(("memory", "loop"), [("gru", "compiled"), *(pytest.param(*pair, marks=NIGHTLY) for pair in OTHER_LOOPS)])
@pytest.mark.parametrize("said", ["dict of one part", "multi-discrete of one"])
def test_one_part_is_the_part(said: str, loop: str, memory: str) -> None:
    box, three = OBSERVATIONS["box"], Discrete(3)
    plain = parameters(box, Acting(three), loop, memory)
    observation, action = {
        "dict of one part": (Dict.of({"only": box}), three),
        "multi-discrete of one": (box, MultiDiscrete((3,))),
    }[said]
    other = parameters(observation, Acting(action), loop, memory)
    assert len(plain) == len(other)
    for a, b in zip(plain, other, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)


@pytest.mark.parametrize("name", ["masked hybrid", pytest.param("masked", marks=NIGHTLY)])
@pytest.mark.parametrize("algorithm", ["reinforce", "a2c", "trpo", "ppo"])
@pytest.mark.parametrize("loop", ["compiled", "host"])
def test_before_the_first_step_the_ratio_is_one(name: str, algorithm: str, loop: str) -> None:
    """With memory, masks and normalised observations: what the collector wrote down is what the update computes."""
    acting, observation = ACTIONS[name], OBSERVATIONS["dict"]
    recipe = algorithm_of(Combination("", "gru", name, algorithm, loop), normalize_observations=True)
    env: Any = compiled_env(observation, acting) if loop == "compiled" else pg.make(lambda: HostCombination(observation, acting))
    agent = recipe.init(jax.random.key(0), spec_of(env, 2))
    acts = recipe.acting(agent)
    if loop == "compiled":
        collector = compiled_collector(env, recipe.collect, 2)
        state = collector.init(jax.random.key(1), acts)
        for i in range(2):  # the second begins within episodes
            state, rollout, _ = jax.jit(collector.collect)(acts, jax.random.key(i), state)
    else:
        host = HostCollector(env, recipe.collect, 2, seed=0, key=jax.random.key(1))
        for _ in range(2):
            rollout, _ = host.collect(acts)
        host.close()
    new = with_log_prob(acts, rollout)
    valid = np.asarray(rollout.mask) > 0
    assert valid.any()
    assert np.abs(np.asarray(new.log_prob - rollout.log_prob))[valid].max() <= 1e-5
    taken = rollout.action["kind"] if isinstance(rollout.action, dict) else rollout.action
    allowed = np.take_along_axis(np.asarray(rollout.obs[MASK]), np.asarray(taken)[..., None], axis=-1)[..., 0]
    assert (allowed[valid] == 1).all()
    _, metrics = jax.jit(recipe.update)(jax.random.key(2), agent, rollout)
    assert metrics["finite"]
