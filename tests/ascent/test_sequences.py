"""Minibatches of sequences: whole chunks of environments, against a plain loop that picks them by hand; critics that remember."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import policygrad as pg
from policygrad.ascent import proximal
from policygrad.ascent.minibatches import flattened, pieces, remembers, shuffled, taken
from policygrad.errors import UsageError
from policygrad.gradients import clipped_loss, gradient_of
from policygrad.policies import network_critic
from policygrad.policies.memory import chunk_length, traced
from policygrad.policies.policy import along, onwards
from policygrad.spaces import Box, Discrete
from policygrad.types import Batch, Params, Rollout, Spec

pytestmark = pytest.mark.usefixtures("x64")
T, B, H = 7, 4, 3
"""Chunks do not divide 7 rows: the last is filled up."""
SPEC = Spec(Box.of(-1.0, 1.0, (2,)), Discrete(3), B)
KEY, NOW = jax.random.key(3), jnp.asarray(0.25)
RESETS = np.zeros((T, B), bool)
RESETS[[0, 2, 5], [0, 1, 1]] = True


def moved(tree: Any, seed: int) -> Any:
    """In float64, away from the start."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, np.float64) + 0.3 * rng.normal(size=leaf.shape)), tree)


@cache
def case(truncate: int | None) -> tuple[Params, Batch]:
    """A policy and a critic that remember, and a batch of random steps that the policy was not quite the one to take."""
    options = {"memory": "gru", "memory_size": H, "truncate": truncate, "hidden_sizes": ()}
    policy = moved(pg.policy(**options)(jax.random.key(0), SPEC), 1)
    critic = moved(network_critic((), **{k: v for k, v in options.items() if k != "hidden_sizes"})(jax.random.key(1), SPEC), 2)
    rng = np.random.default_rng(3)
    count = policy.num_chunks(T)
    time = np.zeros((T, B), np.int32)
    for t in range(T):  # columns that do not begin with an episode are in the middle of one
        time[t] = np.where(RESETS[t], 0, (time[t - 1] if t else 4) + 1)
    obs, action = rng.normal(size=(T, B, 2)), rng.integers(0, 3, (T, B))
    carries = [jnp.asarray(rng.normal(size=(count, B, H))) for _ in range(2)]
    flags = jnp.zeros((T, B), bool)
    zeros = jnp.zeros((T, B))
    rollout = Rollout(
        *map(jnp.asarray, (obs, action)), zeros, zeros, flags, flags, jnp.asarray(obs), jnp.ones((T, B)), jnp.asarray(time), carries[0], {}
    )._replace(critic_carry=carries[1])
    old = moved(policy, 4).unroll(carries[0], rollout.obs, rollout.time == 0)[0]
    psi, targets = (jnp.asarray(rng.normal(size=(T, B))) for _ in range(2))
    return Params(policy, critic), Batch(rollout, psi, targets, jnp.ones((T, B)) / (T * B), old, carries[0], values=zeros)


def by_hand(batch: Batch, sequences: Any, count: int) -> Batch:
    """The batch of these sequences: number s is environment s mod B in chunk s div B."""
    length = chunk_length(T, count)
    rows = [[min(s // B * length + i, T - 1) for s in sequences] for i in range(length)]
    valid = [[float(s // B * length + i < T) for s in sequences] for i in range(length)]
    columns = np.asarray(sequences) % B
    starts = np.asarray(sequences) // B
    bare = batch._replace(carry=(), rollout=batch.rollout._replace(carry=(), critic_carry=()))
    part = jax.tree.map(lambda leaf: leaf[np.array(rows), columns[None]], bare)
    carry, critic = batch.rollout.carry[starts, columns][None], batch.rollout.critic_carry[starts, columns][None]
    rollout = part.rollout._replace(carry=carry, critic_carry=critic, mask=part.rollout.mask * jnp.array(valid))
    return part._replace(carry=carry, rollout=rollout, weights=part.weights * jnp.array(valid))


@pytest.mark.parametrize(
    ("truncate", "parts"), [(None, 2), (4, 2), *(pytest.param(*pair, marks=pytest.mark.nightly) for pair in ((3, 4), (5, 1)))]
)
def test_it_is_the_plain_loop_over_sequences(truncate: int | None, parts: int) -> None:
    params, batch = case(truncate)
    count = params.policy.num_chunks(T)
    loss, rate, epochs = clipped_loss(0.1, 0.5, 0.01), 0.05, 2
    step = jax.jit(proximal(loss, learning_rate=rate, epochs=epochs, minibatches=parts, normalize=None).step)
    ascent = proximal(loss, learning_rate=rate, epochs=epochs, minibatches=parts, normalize=None)
    after, _, info = step(KEY, params, ascent.init(params), batch, NOW)
    gradient, transform = jax.jit(gradient_of(loss)), optax.adam(rate)
    now: Any = params
    state: Any = transform.init(now)
    for sequences in np.asarray(shuffled(KEY, count * B, parts, epochs)).reshape(epochs * parts, -1):
        part = by_hand(batch, sequences, count)
        climb, _ = gradient(now, part._replace(weights=part.weights * parts), NOW)
        updates, state = transform.update(jax.tree.map(jnp.negative, climb), state)
        now = optax.apply_updates(now, updates)
    assert info["optimizer_steps"] == epochs * parts
    for one, other in zip(jax.tree.leaves(after), jax.tree.leaves(now), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize("truncate", [None, 3, 4])
def test_all_sequences_together_are_the_batch(truncate: int | None) -> None:
    """Nothing is lost or counted twice where the last chunk is shorter, and the gradient is that of the whole."""
    params, batch = case(truncate)
    count = params.policy.num_chunks(T)
    flat = flattened(batch)
    assert remembers(flat)
    assert len(flat.weights) == count * B == pieces(params.policy, T, B)[0]
    again = taken(flat, jnp.arange(count * B))
    assert float(jnp.sum(again.weights)) == pytest.approx(float(jnp.sum(batch.weights)))
    assert float(jnp.sum(again.rollout.mask)) == T * B
    gradient = jax.jit(gradient_of(clipped_loss(0.1, 0.5, 0.01)))
    whole, parts = gradient(params, batch, NOW)[0], gradient(params, again, NOW)[0]
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-12)


def test_minibatches_must_divide_the_sequences() -> None:
    params, batch = case(None)
    ascent = proximal(clipped_loss(), learning_rate=0.1, minibatches=3)
    with pytest.raises(UsageError, match=r"^minibatches: got 3 for a batch of 4 sequences \(environments × chunks\); it must divide"):
        jax.eval_shape(ascent.step, KEY, params, ascent.init(params), batch, NOW)
    with pytest.raises(UsageError, match=r"^minibatches: got 4 for a batch of 3 sequences"):
        pg.train("CartPole-v1", pg.ppo(memory="gru"), num_steps=512, num_envs=3, out=False, figures=False)


# ── critics ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def values_by_hand(critic: Any, rollout: Rollout) -> tuple[np.ndarray, np.ndarray]:
    """V(o_t) and V(o_{t+1}), one step at a time: the second from the memory after the first, whatever comes later."""
    values, following = np.zeros((T, B)), np.zeros((T, B))
    carry = rollout.critic_carry[0]
    for t in range(T):
        h, carry = critic.memory.step(carry, critic.features(rollout.obs[t]), rollout.time[t] == 0)
        values[t] = critic.head(h)
        beyond, _ = critic.memory.step(carry, critic.features(rollout.next_obs[t]), jnp.zeros(B, bool))
        following[t] = critic.head(beyond)
    return values, following


@pytest.mark.parametrize("large", [False, True])
def test_a_critic_bootstraps_from_the_memory_of_the_episode_that_was_cut(large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if large:  # V of next observations is looked up where the next row has it
        monkeypatch.setattr("policygrad.policies.critics.LARGE", (1, 1))
        monkeypatch.setattr("policygrad.policies.critics.FEW_ENDS", 2)
    params, batch = case(None)
    rollout = batch.rollout
    beyond = jnp.concatenate([rollout.obs[1:], rollout.obs[:1] + 1.0])
    ended = jnp.concatenate([rollout.time[1:] == 0, jnp.zeros((1, B), bool)])
    rollout = rollout._replace(next_obs=jnp.where(ended[..., None], beyond + 5.0, beyond), truncated=ended)
    values, following = jax.jit(lambda critic, *given: critic(*given))(params.critic, params.policy, rollout, rollout.carry)
    expected = values_by_hand(params.critic, rollout)
    np.testing.assert_allclose(values, expected[0], atol=1e-12)
    np.testing.assert_allclose(following, expected[1], atol=1e-12)
    # A reset to the very observation that the last episode ended with is not its continuation.
    same = rollout._replace(next_obs=jnp.where(ended[..., None], beyond, beyond))
    _, following = jax.jit(lambda critic, *given: critic(*given))(params.critic, params.policy, same, same.carry)
    np.testing.assert_allclose(following, values_by_hand(params.critic, same)[1], atol=1e-12)


def test_a_shared_critic_reads_the_policys_memory() -> None:
    params, batch = case(None)
    shared = moved(pg.policies.shared_critic()(jax.random.key(2), SPEC, params.policy), 5)
    rollout = batch.rollout
    values, following = shared(params.policy, rollout, rollout.carry)
    h, carries, _ = along(params.policy, rollout.carry, rollout.obs, rollout.time == 0)
    np.testing.assert_allclose(values, shared.head(h), atol=1e-12)
    np.testing.assert_allclose(following, shared.head(onwards(params.policy, carries, rollout.next_obs)), atol=1e-12)
    distribution, beside = shared.beside(params.policy, rollout, rollout.carry)
    np.testing.assert_allclose(beside, values, atol=1e-12)
    np.testing.assert_allclose(distribution.logits, params.policy.unroll(rollout.carry, rollout.obs, rollout.time == 0)[0].logits)


def test_a_fitted_critic_learns_along_its_memory() -> None:
    """Its error falls on what only memory can tell: the target is the first observation of the episode."""
    params, batch = case(None)
    rollout = batch.rollout
    first = np.zeros((T, B))
    for t in range(T):
        first[t] = np.where(np.asarray(rollout.time[t]) == 0, rollout.obs[t, :, 0], first[t - 1] if t else 0)
    baseline = pg.baselines.value(lambda key, spec: params.critic, learning_rate=0.03, gradient_steps=300)
    _, state = baseline.init(KEY, SPEC, params.policy)

    def advantage(reward: Any, values: Any, following: Any, terminated: Any, truncated: Any) -> Any:
        return first - values, jnp.asarray(first)

    centred = baseline.centre(state, params, rollout, advantage, batch.weights)
    after, info = jax.jit(baseline.fit)(KEY, state, params, rollout, centred)
    assert info["value_loss"] > 1.0
    assert float(jnp.mean((after[0].along(rollout) - first) ** 2)) < 0.05
    assert baseline.critic(after, params) is after[0]


def test_memories_are_traced_as_the_policy_does_it() -> None:
    params, batch = case(3)
    x = params.policy.features(batch.rollout.obs)
    h, _, _ = traced(params.policy.memory, batch.carry, x, batch.rollout.time == 0)
    expected = params.policy.unroll(batch.carry, batch.rollout.obs, batch.rollout.time == 0)[0].logits
    np.testing.assert_allclose(params.policy.head(h).logits, expected)
