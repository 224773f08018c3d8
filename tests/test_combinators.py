"""`reuse`: several updates from one rollout, and rollouts of other policies beside it."""

from __future__ import annotations

import math
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradients.trajectories import MDP, Trajectories, enumerate_all, objective, random_mdp, softmax
from policygrad import advantages, baselines
from policygrad.algorithms import compose
from policygrad.ascent import gradient_ascent
from policygrad.combinators import joined, reuse
from policygrad.errors import SpaceError, UsageError
from policygrad.gradients import on_policy, per_decision, score_function
from policygrad.policies import table, tabular_softmax
from policygrad.rollout import Collect, episodes, steps
from policygrad.spaces import Box, Discrete
from policygrad.types import Agent, Algorithm, Params, Rollout, Spec

LIMIT = 3
WORLD: MDP = random_mdp(0, states=3, actions=2, outcomes=2, limit=LIMIT)
LOGITS = np.random.default_rng(1).normal(size=(3, 2))
OTHERS = LOGITS + np.random.default_rng(5).normal(size=(3, 2))
SPEC = Spec(Discrete(3), Discrete(2), num_envs=4)


def plain(collect: Collect, weight: Any = per_decision, baseline: Any = None, visit_discount: float = 1.0) -> Algorithm:
    return compose(
        "plain",
        {"some": "setting"},
        collect=collect,
        policy=table(),
        advantage=partial(advantages.reward_to_go, discount=0.9),
        baseline=baseline or baselines.running_mean(),
        ascent=gradient_ascent(score_function(), learning_rate=0.5),
        weight=weight,
        visit_discount=visit_discount,
    )


EPISODES, STEPS = plain(episodes()), plain(steps(4))


@cache
def every(resets: bool) -> Trajectories:
    """Every trajectory of another policy."""
    return enumerate_all(WORLD, softmax(OTHERS), 4 if resets else LIMIT, resets=resets)


def some(columns: int, seed: int, *, resets: bool = False, dtype: Any = np.float32) -> Rollout:
    """Some of them."""
    chosen = np.random.default_rng(seed).choice(every(resets).rollout.mask.shape[1], columns)
    rollout = jax.tree.map(lambda leaf: leaf[:, chosen], every(resets).rollout)
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if leaf.dtype == float else leaf, rollout)


def agent_of(algorithm: Algorithm, dtype: Any = np.float32) -> Agent:
    agent = algorithm.init(jax.random.key(0), SPEC)
    return agent._replace(params=Params(tabular_softmax(jnp.asarray(LOGITS, dtype)), ()), steps=jnp.asarray(7, jnp.int32))


def padded(rollout: Rollout, rows: int) -> Rollout:
    return jax.tree.map(lambda leaf: np.concatenate([leaf, np.zeros((rows, *leaf.shape[1:]), leaf.dtype)]), rollout)


def by_hand(ours: Rollout, theirs: Rollout) -> Rollout:
    return jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1), ours, theirs)


def assert_equal(ours: Any, theirs: Any) -> None:
    """Bit for bit."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def test_one_pass_over_nothing_else_is_the_algorithm_itself() -> None:
    assert reuse(EPISODES) is EPISODES


def test_two_passes_are_two_updates_bit_for_bit() -> None:
    """With the keys of the pass; steps are counted once; the second pass has other weights than the first."""
    twice = reuse(EPISODES, 2)
    assert twice.settings == EPISODES.settings
    assert twice.collect == EPISODES.collect
    rollout, agent, key = some(6, 0), agent_of(EPISODES), jax.random.key(3)
    got, metrics = jax.jit(twice.update)(key, agent, rollout)

    single, now, passes = jax.jit(EPISODES.update), agent, []
    for pass_key in jax.random.split(key, 2):
        now, told = single(pass_key, now._replace(steps=agent.steps), rollout)
        passes.append(told)
    assert_equal(got, now)
    assert int(got.steps) == 7 + int(rollout.mask.sum())
    sizes = [float(told["effective_sample_size"]) for told in passes]
    assert sizes[0] != sizes[1]
    assert float(metrics.pop("effective_sample_size")) == min(sizes)
    passes[1].pop("effective_sample_size")
    assert_equal(metrics, passes[1])
    assert bool(metrics["finite"])


def test_every_pass_has_the_weights_of_its_own_policy() -> None:
    """Data of π itself: the first pass weighs 1; the second does not, where the algorithm has weights."""
    rollout = some(6, 0)
    agent = agent_of(EPISODES)
    own = agent.params.policy(rollout.obs).log_prob(rollout.action)
    rollout = rollout._replace(log_prob=np.asarray(own) * rollout.mask)
    _, metrics = jax.jit(reuse(EPISODES, 2).update)(jax.random.key(0), agent, rollout)
    _, first = jax.jit(EPISODES.update)(jax.random.key(0), agent, rollout)
    assert float(first["effective_sample_size"]) == pytest.approx(1)
    assert float(metrics["effective_sample_size"]) < 0.999


def test_the_shorter_of_both_is_padded() -> None:
    fresh, logged = some(3, 0), some(5, 1)
    assert_equal(joined(fresh, padded(logged, 2)), by_hand(padded(fresh, 2), padded(logged, 2)))
    assert_equal(joined(padded(fresh, 2), logged), by_hand(padded(fresh, 2), padded(logged, 2)))
    single = joined(fresh, some(5, 1, dtype=np.float64))  # in the types of the fresh one
    assert [leaf.dtype for leaf in jax.tree.leaves(single)] == [leaf.dtype for leaf in jax.tree.leaves(fresh)]


def test_logged_episodes_are_further_columns() -> None:
    """Gradient, contributions and update are those of the rollout joined by hand."""
    fresh, logged = some(3, 0), some(5, 1)
    both = by_hand(padded(fresh, 2), padded(logged, 2))
    algorithm, agent = reuse(EPISODES, logged=logged), agent_of(EPISODES)

    def all_three(algorithm: Algorithm, key: Any, rollout: Rollout) -> Any:
        return algorithm.gradient(agent, rollout), algorithm.contributions(agent, rollout), algorithm.update(key, agent, rollout)

    key = jax.random.key(0)
    got = jax.jit(partial(all_three, algorithm))(key, padded(fresh, 2))
    expected = jax.jit(partial(all_three, EPISODES))(jax.random.split(key, 1)[0], both)
    for one, other in zip(jax.tree.leaves(got[:2]), jax.tree.leaves(expected[:2]), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)
    np.testing.assert_allclose(got[2][0].params.policy.head.logits, expected[2][0].params.policy.head.logits, rtol=0, atol=1e-5)
    assert jax.tree.leaves(got[1])[0].shape[0] == 8
    assert int(got[2][0].steps) == 7 + int(fresh.mask.sum())
    assert int(expected[2][0].steps) == 7 + int(both.mask.sum())


def test_logged_steps_are_further_columns_of_the_same_length() -> None:
    fresh, logged = some(2, 0, resets=True), some(3, 1, resets=True)
    agent = agent_of(STEPS)
    got, _ = jax.jit(reuse(STEPS, logged=logged).gradient)(agent, fresh)
    expected, _ = jax.jit(STEPS.gradient)(agent, by_hand(fresh, logged))
    np.testing.assert_allclose(got.policy.head.logits, expected.policy.head.logits, rtol=0, atol=1e-6)
    with pytest.raises(
        UsageError, match=r"^logged rollout: got 3 steps with an algorithm that collects 4; [^\n]* record it with steps\(4\)$"
    ):
        reuse(STEPS, logged=some(3, 1))


@pytest.mark.usefixtures("x64")
def test_logged_episodes_leave_the_gradient_unbiased() -> None:
    """Fresh ones of π and logged ones of another policy, with product weights; with weights of 1 they do not.

    The gradient is linear in the rewards: with N·P(τ) r for those of every episode τ, a mean of N columns is an expectation.
    """
    logged, fresh = every(False), enumerate_all(WORLD, softmax(LOGITS), LIMIT)
    ours, theirs = (
        made.rollout._replace(reward=made.rollout.reward * made.probability * len(made.probability)) for made in (fresh, logged)
    )
    true = np.asarray(jax.grad(lambda theta: objective(theta, WORLD, 0.9))(jnp.asarray(LOGITS)))

    def bias(weight: Any) -> float:
        algorithm = plain(episodes(), weight, baseline=baselines.none(), visit_discount=0.9)
        got, _ = jax.jit(reuse(algorithm, logged=theirs).gradient)(agent_of(algorithm, float), ours)
        return float(np.abs(np.asarray(got.policy.head.logits) - true).max())

    assert bias(per_decision) <= 1e-10
    assert bias(on_policy) > 1e-3


def test_a_pass_that_fails_returns_the_agent_of_before_all_of_them() -> None:
    """The first pass is finite, those after it are not."""

    def poisoned(key: Any, agent: Agent, rollout: Rollout) -> Any:
        after, metrics = EPISODES.update(key, agent, rollout)
        moved = jnp.any(agent.params.policy.head.logits != jnp.asarray(LOGITS, jnp.float32))
        return after, metrics | {"finite": metrics["finite"] & ~moved}

    agent, rollout = agent_of(EPISODES), some(6, 0)
    got, metrics = jax.jit(reuse(EPISODES._replace(update=poisoned), 3).update)(jax.random.key(0), agent, rollout)
    assert not bool(metrics["finite"])
    assert_equal(got, agent._replace(steps=agent.steps + int(rollout.mask.sum())))


def spoiled(name: str, value: Any, **options: Any) -> Rollout:
    rollout = some(3, 0, **options)
    array = np.array(getattr(rollout, name))
    array[0, 1] = value
    return rollout._replace(**{name: array})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"times": 0}, r"^reuse: got 0 passes; it must be a whole number of at least 1$"),
        ({"times": True}, r"^reuse: got True passes"),
        ({"times": 2.0}, r"^reuse: got 2\.0 passes"),
        (
            {"logged": spoiled("log_prob", -math.inf)},
            r"^logged rollout: the behaviour log-probability at step 0 of column 1: got -inf; it must be the finite log of [^\n]*$",
        ),
        ({"logged": spoiled("reward", math.nan)}, r"^logged rollout: the reward at step 0 of column 1: got nan; it must be finite$"),
        ({"logged": some(3, 0, resets=True)}, r"^logged rollout: column \d is not one whole episode, [^\n]* record it with episodes\(N\)"),
    ],
)
def test_misuse_is_one_clear_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        reuse(EPISODES, **arguments)


@pytest.mark.parametrize(
    ("logged", "spec", "message"),
    [
        (
            some(3, 0),
            Spec(Box.of(-1.0, 1.0, (4,)), Discrete(2), 1),
            r"^logged rollout: its observations: got shape \(\) where Box",
        ),
        (some(3, 0), Spec(Discrete(3), Box.of(-1.0, 1.0, (2,)), 1), r"^logged rollout: its actions: got shape \(\) where Box"),
        (
            spoiled("action", 2),
            SPEC,
            r"^logged rollout: its actions: got some that are no integers of Discrete\(2\), counted from 0;",
        ),
        (some(3, 0)._replace(obs=np.zeros((3, 3))), SPEC, r"^logged rollout: its observations: got [^\n]*Discrete\("),
    ],
)
def test_records_of_other_environments_are_refused_when_the_agent_is_made(logged: Rollout, spec: Spec, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        reuse(EPISODES, logged=logged).init(jax.random.key(0), spec)


def test_records_with_other_extras_or_with_memory_are_refused() -> None:
    logged = some(3, 0)
    agent = agent_of(EPISODES)
    costly = logged._replace(extras={"cost": logged.reward})
    with pytest.raises(UsageError, match=r"^logged rollout: got extras \['cost'\] with an environment of \[\]; record it"):
        jax.eval_shape(reuse(EPISODES, logged=costly).gradient, agent, some(2, 1))
    remembering = some(2, 1)._replace(carry=np.zeros((1, 2)))
    with pytest.raises(UsageError, match=r"^logged rollout: got a policy with memory"):
        jax.eval_shape(reuse(EPISODES, logged=logged).gradient, agent, remembering)
