"""Does every kind of action learn? Identity tasks: the action that matches the observation is rewarded, and 100 is the best score.

An episode has 100 steps; each draws an observation anew. The reward of a step, in [0, 1], is the mean over the elements of the action of

    discrete elements    1 where the action is what was seen, else 0
    continuous elements  1 − |a − o| / half the width of what is seen, at least 0

The score is 100 times the mean reward of the policy's mode, over observations of their own or, where there are few, all of them. So 90
allows one wrong choice in ten, or continuous actions that are off by a tenth of the half-width. Who does not look, and always answers
the same, scores 25 to 50.

As in Stable-Baselines3's tests, which train on such environments for each kind of action.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import policygrad as pg
from policygrad.envs import Env, time_limit
from policygrad.spaces import ALONE, MASK, Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, leaves, mapped
from policygrad.types import Step

LIMIT, GOOD = 100, 90
NUM_ENVS, LENGTH = 4, 50
INNER = Box.of(-1.0, 1.0, (2,))
"""What is seen of a continuous task. Where actions may go further, noise at its edge is not clipped, which would pull means inwards."""


class Task(NamedTuple):
    """What is seen, what is done, the settings, and how many steps are enough."""

    observation: Space
    action: Space
    settings: dict[str, Any]
    num_steps: int = 4_000
    masked: bool = False


# What reward an action earned is known at once, so nothing is gained by looking further: γ = 0.
COMMON: dict[str, Any] = {
    "discount": 0.0,
    "rollout_length": LENGTH,
    "hidden_sizes": (16,),
    "learning_rate": 0.01,
    "learning_rate_decay": True,
}
TASKS = {
    "discrete": Task(Discrete(4), Discrete(4), {}),
    "masked discrete": Task(Discrete(4), Discrete(4), {}, masked=True),
    "multi-discrete": Task(MultiDiscrete((3, 4)), MultiDiscrete((3, 4)), {}),
    "multi-binary": Task(MultiBinary((3,)), MultiBinary((3,)), {}),
    "box": Task(INNER, Box.of(-2.0, 2.0, (2,)), {}),
    "squashed box": Task(INNER, Box.of(-2.0, 2.0, (2,)), {"head": "squashed"}),
    "beta box": Task(INNER, Box.of(-2.0, 2.0, (2,)), {"head": "beta"}),
    "state-gaussian box": Task(INNER, Box.of(-2.0, 2.0, (2,)), {"head": "state-gaussian"}),
    "full-gaussian box": Task(INNER, Box.of(-2.0, 2.0, (2,)), {"head": "full-gaussian"}),
    "hybrid": Task(
        Dict.of({"kind": Discrete(3), "force": Box.of(-1.0, 1.0, (1,))}),
        Dict.of({"kind": Discrete(3), "force": Box.of(-2.0, 2.0, (1,))}),
        {},
    ),
}


BY_NIGHT = "discrete", "box", "state-gaussian box", "full-gaussian box"
"""By day, tests/test_learning.py has every recipe learn such tasks of the first two kinds."""


def drawn(space: Space, key: Any) -> Any:
    """An observation."""
    keys = iter(jax.random.split(key, len(leaves(space))))

    def leaf(one: Any) -> Any:
        key = next(keys)
        match one:
            case Discrete():
                return jax.random.randint(key, (), 0, one.n)
            case MultiDiscrete():
                return jax.random.randint(key, one.shape, 0, jnp.asarray(one.counts))
            case MultiBinary():
                return jax.random.bernoulli(key, shape=one.shape).astype(jnp.int8)
        return jax.random.uniform(key, one.shape, minval=-1.0, maxval=1.0)

    return mapped(leaf, space)


def reward_of(space: Space, seen: Any, action: Any) -> Any:
    """Of one step."""
    space_leaves, seen_leaves, taken = leaves(space), jax.tree.leaves(seen), jax.tree.leaves(action)
    each = [
        jnp.mean(jnp.clip(1 - jnp.abs(a - o), 0, 1) if isinstance(one, Box) else (a == o) * 1.0)
        for (_, one), o, a in zip(space_leaves, seen_leaves, taken, strict=True)
    ]
    return sum(each) / len(each)


def shown(task: Task, seen: Any) -> Any:
    """With its mask, which forbids one of the three wrong actions: who does not look, and prefers the least that is allowed, scores 50."""
    if not task.masked:
        return seen
    away = (jnp.arange(4) - seen) % 4
    return {ALONE: seen, MASK: (away <= 2).astype(jnp.int8)}


def env_of(name: str) -> Env:
    task = TASKS[name]
    space = Dict.of({ALONE: task.observation, MASK: MultiBinary((4,))}) if task.masked else task.observation

    def reset(key: Any) -> Any:
        seen = drawn(task.observation, key)
        return seen, shown(task, seen)

    def step(key: Any, state: Any, action: Any) -> Any:
        seen, no = drawn(task.observation, key), jnp.zeros((), bool)
        return seen, Step(shown(task, seen), reward_of(task.observation, state, action), no, no)

    return time_limit(Env("Identity-v0", space, task.action, reset, step), LIMIT)


def score(name: str, policy: Any) -> float:
    """Of the policy's mode."""
    task = TASKS[name]

    @jax.jit
    def rewards(policy: Any, key: Any) -> Any:
        seen = jax.vmap(lambda key: drawn(task.observation, key))(jax.random.split(key, 500))
        if isinstance(task.observation, Discrete):
            seen = jnp.arange(4)
        obs = jax.vmap(lambda one: shown(task, one))(seen)
        action = policy(obs).mode()
        allowed = jnp.take_along_axis(obs[MASK], action[:, None], axis=-1) if task.masked else jnp.ones(1)
        return jax.vmap(lambda o, a: reward_of(task.observation, o, a))(seen, action), allowed

    each, allowed = rewards(policy, jax.random.key(9))
    assert (allowed == 1).all()
    return LIMIT * float(np.mean(each))


def algorithm_of(name: str) -> Any:
    return pg.ppo(**COMMON | TASKS[name].settings)


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.nightly) if name in BY_NIGHT else name for name in TASKS])
def test_it_learns_to_answer_what_it_sees(name: str) -> None:
    task, env = TASKS[name], env_of(name)
    algorithm = algorithm_of(name)
    run = pg.train(env, algorithm, num_steps=task.num_steps, num_envs=NUM_ENVS, seed=0, out=False, figures=False)
    assert run.num_steps <= task.num_steps
    assert score(name, run.policy) >= GOOD


def test_who_does_not_look_scores_little() -> None:
    """Always 0, or the least that the mask allows."""

    def blind(task: Task, key: Any) -> Any:
        seen = drawn(task.observation, key)
        obs = shown(task, seen)
        return reward_of(task.observation, seen, jnp.argmax(obs[MASK]) if task.masked else jax.tree.map(jnp.zeros_like, seen))

    keys = jax.random.split(jax.random.key(0), 500)
    scores = jax.jit(lambda: {name: LIMIT * jnp.mean(jax.vmap(partial(blind, task))(keys)) for name, task in TASKS.items()})()
    assert all(20 < score < 55 for score in scores.values()), scores
