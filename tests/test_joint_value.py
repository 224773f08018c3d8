"""A critic that climbs with the policy: the same estimates as one that is fitted apart, and features that both share."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from policygrad import advantages, baselines
from policygrad.algorithms import compose
from policygrad.ascent import gradient_ascent, proximal
from policygrad.baselines import joint_value, value
from policygrad.errors import UsageError
from policygrad.gradients import actor_critic_loss, clipped_loss, gradient_of, penalty_loss
from policygrad.policies import SharedCritic, mlp, network_critic, shared_critic, table, table_critic
from policygrad.rollout import steps
from policygrad.spaces import Box, Discrete
from policygrad.types import Agent, Algorithm, Ascent, Batch, Params, Rollout, Spec
from zoo import random_mdp

pytestmark = pytest.mark.usefixtures("x64")
KEY = jax.random.key(0)
T, B = 6, 3
SPEC = Spec(Box.of(-1.0, 1.0, (2,)), Discrete(3), B)
GAE = partial(advantages.gae, discount=0.9, trace=0.8)


def close(got: Any, expected: Any, tolerance: float = 1e-10) -> None:
    np.testing.assert_allclose(np.asarray(got), expected, rtol=0, atol=tolerance)


def leaves(tree: Any) -> np.ndarray:
    return np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(tree)])


def rollout_of(seed: int = 0) -> Rollout:
    rng = np.random.default_rng(seed)
    obs, next_obs = rng.uniform(-1, 1, (2, T, B, 2))
    mask = (np.arange(T)[:, None] < np.array([6, 4, 5])).astype(float)
    terminated, truncated = rng.random((2, T, B)) < 0.2
    action, log_prob = rng.integers(0, 3, (T, B)), np.full((T, B), -np.log(3))
    time = np.tile(np.arange(T, dtype=np.int32)[:, None], (1, B))
    made = Rollout(obs, action, log_prob, rng.normal(size=(T, B)) * mask, terminated, truncated, next_obs, mask, time, (), {})
    return jax.tree.map(jnp.asarray, made)


@lru_cache
def agents(shared: bool = False) -> Params:
    policy = mlp((5,))(KEY, SPEC)
    critic, state = joint_value(shared_critic() if shared else network_critic((4,))).init(KEY, SPEC, policy)
    assert state == ()
    return jax.tree.map(lambda leaf: jnp.asarray(leaf) + 0.2, Params(policy, critic))


# The baseline


def test_its_estimates_are_those_of_the_same_critic_fitted_apart() -> None:
    params, rollout = agents(), rollout_of()

    @jax.jit
    def both(params: Params, rollout: Rollout) -> Any:
        weights = rollout.mask / rollout.mask.size
        joint = joint_value().centre((), params, rollout, GAE, weights)
        apart = value().centre((params.critic, ()), params._replace(critic=()), rollout, GAE, weights)
        fitted = joint_value().fit(KEY, (), params, rollout, joint)[1]
        return joint, apart, fitted, value(gradient_steps=1).fit(KEY, _state(params), params, rollout, apart)[1]

    joint, apart, fitted, expected = both(params, rollout)
    close(leaves(joint), leaves(apart))
    close(joint.values, params.critic.value(rollout.obs))
    close(fitted["explained_variance"], expected["explained_variance"])
    assert set(fitted) == {"explained_variance"}


def _state(params: Params) -> Any:
    return params.critic, optax.adam(1e-2).init(params.critic)


def test_fit_moves_nothing() -> None:
    params, rollout = agents(), rollout_of()
    centred = joint_value().centre((), params, rollout, GAE, rollout.mask)
    state, _ = joint_value().fit(KEY, (), params, rollout, centred)
    assert state == ()
    equal = centred._replace(targets=jnp.full((T, B), 0.1))
    assert joint_value().fit(KEY, (), params, rollout, equal)[1]["explained_variance"] == 0  # nothing to explain
    perfect = centred._replace(targets=centred.values)
    close(joint_value().fit(KEY, (), params, rollout, perfect)[1]["explained_variance"], 1)


def test_standardised_advantages_are_measured_over_valid_steps() -> None:
    psi, mask = np.array([[1.0, 3.0], [8.0, 1e9]]), np.array([[1.0, 1.0], [1.0, 0.0]])
    valid = psi[mask > 0]
    close(baselines.standardised(psi, mask)[mask > 0], (valid - valid.mean()) / valid.std(), 1e-7)
    assert baselines.standardised(psi, mask)[1, 1] == 0


# Shared features


def test_a_shared_critic_is_a_head_over_the_policys_features() -> None:
    params, rollout = agents(shared=True), rollout_of()
    assert isinstance(params.critic, SharedCritic)
    layer = params.critic.head.layer
    assert layer.weight.shape == (1, 5)
    values, next_values = params.critic(params.policy, rollout, ())
    expected = [
        np.asarray(params.policy.features(obs)) @ np.asarray(layer.weight)[0] + layer.bias[0] for obs in (rollout.obs, rollout.next_obs)
    ]
    close(values, expected[0])
    close(next_values, expected[1])
    distribution, beside = params.critic.beside(params.policy, rollout, ())
    close(beside, expected[0])
    close(leaves(distribution), leaves(params.policy(rollout.obs)))


def test_the_value_loss_moves_the_features_that_are_shared_and_no_others() -> None:
    rollout = rollout_of()

    def squares(params: Params) -> Any:
        return jnp.sum(rollout.mask * params.critic.beside(params.policy, rollout, ())[1] ** 2)

    shared, apart = (jax.jit(jax.grad(squares))(agents(kind)) for kind in (True, False))
    assert np.abs(leaves(shared.policy.features)).max() > 0.1
    assert (leaves(shared.policy.head) == 0).all()
    assert (leaves(apart.policy) == 0).all()
    assert np.abs(leaves(apart.critic)).max() > 0.1


@pytest.mark.parametrize("loss", [actor_critic_loss(), clipped_loss(), penalty_loss(1.0)], ids=["actor-critic", "clipped", "penalty"])
def test_shared_features_are_made_once(loss: Any) -> None:
    """And so differentiated once: one layer of tanh where critics of their own need two."""
    rollout = rollout_of()
    for shared, layers in ((True, 1), (False, 2)):
        params = agents(shared)
        old = params.policy(rollout.obs)
        batch = Batch(rollout, rollout.reward, rollout.reward, rollout.mask, old, (), (), rollout.reward)
        assert str(jax.make_jaxpr(lambda p, batch=batch: loss(p, batch, 0.0)[0])(params)).count("= tanh") == layers


def test_shared_features_are_held_once() -> None:
    """One set of leaves: the critic has its head alone."""
    params = agents(shared=True)
    assert len(jax.tree.leaves(params.critic)) == 2
    assert len(jax.tree.leaves(params)) == 2 + len(jax.tree.leaves(params.policy))


def test_what_a_shared_critic_needs() -> None:
    states = Spec(Discrete(4), Discrete(2), B)
    with pytest.raises(UsageError, match="a policy that has no hidden layer to share; give it hidden_sizes"):
        joint_value(shared_critic()).init(KEY, states, table()(KEY, states))
    with pytest.raises(UsageError, match=r"fitted apart from the policy; it must climb with it: joint_value"):
        value(shared_critic()).init(KEY, SPEC, mlp((5,))(KEY, SPEC))
    critic, _ = joint_value(shared_critic()).init(KEY, states, mlp((5,))(KEY, states))  # over unit vectors
    assert critic.head.layer.weight.shape == (1, 5)


# Whole algorithms


def algorithm(ascent: Ascent, policy: Any = None, critic: Any = None) -> Algorithm:
    return compose(
        "test",
        {},
        collect=steps(T),
        policy=policy or table(),
        advantage=GAE,
        baseline=joint_value(critic or table_critic()),
        ascent=ascent,
    )


def experience(rows: int = T, columns: int = B) -> Rollout:
    """Steps in a three-state MDP by the uniform policy."""
    mdp, rng = random_mdp(0, 3, 2, discount=0.9), np.random.default_rng(1)
    obs, action = rng.integers(0, 3, (rows, columns)), rng.integers(0, 2, (rows, columns))
    next_obs = np.array(
        [[rng.choice(3, p=mdp.transitions[s, a]) for s, a in zip(*row, strict=True)] for row in zip(obs, action, strict=True)]
    )
    zeros, no = np.zeros(obs.shape), np.zeros(obs.shape, bool)
    reward = mdp.rewards[obs, action, next_obs]
    made = Rollout(obs, action, zeros - np.log(2), reward, no, no, next_obs, zeros + 1, zeros.astype(np.int32), (), {})
    return jax.tree.map(jnp.asarray, made)


@lru_cache
def updated(kind: str) -> tuple[Agent, Agent, dict]:
    plain = {"learning_rate": 0.05, "optimizer": "sgd"}
    ascents = {
        "a2c": gradient_ascent(gradient_of(actor_critic_loss()), **plain),
        "one": proximal(clipped_loss(), **plain, epochs=1, minibatches=1, normalize=None),
        "stale": proximal(clipped_loss(), **plain, epochs=3, minibatches=2),
        "recomputed": proximal(clipped_loss(), **plain, epochs=3, minibatches=2, recompute=True),
    }
    made = algorithm(ascents[kind])
    agent = made.init(KEY, Spec(Discrete(3), Discrete(2), B))
    agent = agent._replace(params=jax.tree.map(lambda leaf: leaf.astype(float), agent.params))
    after, metrics = jax.jit(made.update)(KEY, agent, experience())
    assert metrics["finite"]
    return agent, after, metrics


def test_policy_and_critic_climb_together_and_the_baseline_has_no_state() -> None:
    agent, after, metrics = updated("a2c")
    assert agent.baseline == after.baseline == ()
    rollout = experience()
    values, next_values = agent.params.critic(agent.params.policy, rollout, ())
    _, targets = GAE(rollout.reward, values, next_values, rollout.terminated, rollout.truncated)
    expected = np.zeros(3)
    np.add.at(expected, np.asarray(rollout.obs), -2 * 0.5 * 0.05 / (T * B) * np.asarray(values - targets))
    close(leaves(after.params.critic) - leaves(agent.params.critic), expected, 1e-9)
    assert np.abs(leaves(after.params.policy) - leaves(agent.params.policy)).max() > 1e-3
    close(metrics["value_loss"], np.mean((np.asarray(values) - np.asarray(targets)) ** 2), 1e-6)
    assert "explained_variance" in metrics


def test_one_pass_of_ppo_is_an_update_of_a2c() -> None:
    _, expected, _ = updated("a2c")
    _, after, metrics = updated("one")
    close(leaves(after.params), leaves(expected.params))
    assert metrics["optimizer_steps"] == 1


def test_recomputed_advantages_follow_the_critic() -> None:
    """Another update than with the first advantages; neither counts its steps twice."""
    (_, stale, told), (_, fresh, metrics) = updated("stale"), updated("recomputed")
    assert metrics["optimizer_steps"] == told["optimizer_steps"] == 6
    assert fresh.steps == stale.steps == T * B
    assert np.abs(leaves(fresh.params) - leaves(stale.params)).max() > 1e-4
