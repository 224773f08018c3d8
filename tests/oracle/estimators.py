"""Estimators put together from the product's own slots, and the small worlds on which all that they can see is enumerated."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from policygrad import advantages, baselines, oracle, policies
from policygrad.algorithms import compose
from policygrad.ascent import gradient_ascent
from policygrad.envs import FiniteMDP
from policygrad.gradients import on_policy, score_function
from policygrad.oracle import Moments
from policygrad.policies import tabular_softmax
from policygrad.rollout import Collect, episodes, steps
from policygrad.types import Agent, Algorithm, Baseline, Spec
from zoo import random_mdp

EXACT = 1e-10
BIASED = 1e-3

RNG = np.random.default_rng(1)
# Two states look alike, episodes terminate early or are truncated after 3 steps.
EPISODIC = random_mdp(5, 4, 2, outcomes=2, terminals=1, time_limit=3, discount=1.0, aliased=True)
EPISODIC_POLICY, EPISODIC_BEHAVIOUR = (tabular_softmax(RNG.normal(size=(3, 2))) for _ in range(2))
# Every state is seen, so that a table can hold V. Rollouts pass through terminations, truncations and resets. Rewards of 2 a step
# make a long life valuable, and so the bootstrap at a truncation matter.
ROLLING = random_mdp(1, 3, 2, outcomes=2, terminals=1, time_limit=3, discount=0.8)
ROLLING = ROLLING.replace(rewards=ROLLING.rewards + 2)
ROLLING_POLICY, ROLLING_BEHAVIOUR = (tabular_softmax(RNG.normal(size=(3, 2))) for _ in range(2))


def layered() -> FiniteMDP:
    """0 → 1 or 2, 1 → 2 or 3, 2 → 3, the end: each episode terminates by itself, and nothing is ever truncated."""
    transitions = np.zeros((4, 2, 4))
    transitions[0, :, 1:3], transitions[1, :, 2:4] = RNG.dirichlet(np.ones(2), 2), RNG.dirichlet(np.ones(2), 2)
    transitions[2, :, 3] = 1
    rewards = RNG.normal(size=(4, 2, 4))
    return FiniteMDP(transitions=transitions, rewards=rewards, initial=[0.8, 0.2, 0, 0], discount=0.7, terminal=[3], time_limit=5)


LAYERED = layered()
LAYERED_POLICY, LAYERED_BEHAVIOUR = (tabular_softmax(RNG.normal(size=(4, 2))) for _ in range(2))


def reward_to_go(discount: float = 1.0) -> Callable[..., Any]:
    return partial(advantages.reward_to_go, discount=discount)


def estimator(
    advantage: Callable[..., Any],
    baseline: Baseline | None = None,
    *,
    weight: Callable[..., Any] = on_policy,
    visit_discount: float = 1.0,
    collect: Collect | None = None,
) -> Algorithm:
    """An algorithm of which only the estimate of the gradient is of interest."""
    return compose(
        "estimator",
        {},
        collect=collect or episodes(),
        policy=policies.table(),
        advantage=advantage,
        baseline=baseline or baselines.none(),
        ascent=gradient_ascent(score_function(), learning_rate=1.0, optimizer="sgd"),
        weight=weight,
        visit_discount=visit_discount,
    )


def over_steps(advantage: Callable[..., Any], baseline: Baseline | None = None, *, rows: int = 4, **slots: Any) -> Algorithm:
    return estimator(advantage, baseline, collect=steps(rows), **slots)


def agent_of(algorithm: Algorithm, world: FiniteMDP, num_trajectories: int = 1) -> Agent:
    """A fresh agent in float64."""
    with jax.enable_x64(True):
        return algorithm.init(jax.random.key(0), Spec(world.observation_space, world.action_space, num_trajectories, world.time_limit))


def with_any_state(algorithm: Algorithm, world: FiniteMDP, num_trajectories: int = 1) -> Agent:
    """An agent whose baseline has seen who knows what: a state drawn at random."""
    rng = np.random.default_rng(7)
    agent = agent_of(algorithm, world, num_trajectories)
    return agent._replace(baseline=jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), agent.baseline))


def with_critic(algorithm: Algorithm, world: FiniteMDP, values: np.ndarray) -> Agent:
    """An agent whose value baseline is this table."""
    agent = agent_of(algorithm, world)
    critic, optimiser = agent.baseline
    return agent._replace(baseline=(jax.tree.map(lambda leaf: np.asarray(values), critic), optimiser))


def continuing(world: FiniteMDP, policy: Any) -> np.ndarray:
    """V of the task without its time limit, [S]."""
    return oracle.values(world.replace(time_limit=None), policy).state


def pulled(world: FiniteMDP, policy: Any, Q: np.ndarray, visits: np.ndarray) -> np.ndarray:
    """Σ_s visits(s) Σ_a ∇π(a|s) Q(s, a) for the logits of a table, flat: ∂π_a/∂θ_b = π_a (1[a = b] − π_b)."""
    pi = probabilities(world, policy)
    result = np.zeros((world.num_observations, world.num_actions))
    np.add.at(result, world.observations, visits[:, None] * pi * (Q - (pi * Q).sum(axis=1, keepdims=True)))
    return result.ravel()


def probabilities(world: FiniteMDP, policy: Any) -> np.ndarray:
    """π(a|s), [S, A], in float64 and without JAX."""
    return softmax(policy)[world.observations]


def softmax(policy: Any) -> np.ndarray:
    """π(a|o), [O, A]."""
    raised = np.exp(np.asarray(policy.head.logits, np.float64))
    return raised / raised.sum(axis=1, keepdims=True)


def of_episodes(algorithm: Algorithm, num_trajectories: int = 1, *, discount: float = 1.0, **more: Any) -> Moments:
    """Over `EPISODIC`, whose objective has that discount."""
    return oracle.moments(algorithm, EPISODIC.replace(discount=discount), EPISODIC_POLICY, num_trajectories=num_trajectories, **more)


def worst(x: Any, y: Any = 0.0) -> float:
    return float(np.abs(np.asarray(x) - np.asarray(y)).max())
