"""Memories in rollouts: what collectors carry is what stepping the policy by hand along the recorded observations carries."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import policygrad as pg
from policygrad.envs import Env
from policygrad.envs.gymnasium_adapter import AUTORESETS
from policygrad.envs.make import make
from policygrad.envs.vector_adapter import env_seeds
from policygrad.evaluation import EVALUATION_STREAM
from policygrad.gradients import off_policy_value, trajectory
from policygrad.policies import WithCritic, tabular_softmax
from policygrad.policies.memory import chunk_length
from policygrad.rollout import HostCollector, compiled_collector, episodes, record, steps
from policygrad.spaces import Box, Discrete
from policygrad.training.runners import spec_of
from policygrad.types import Carries, Rollout, Spec, Step
from rollout.toys import clockwork, lengths, valid_steps

B, ROWS, TRUNCATE = 3, 7, 3
SEEN = Box.of(-np.inf, np.inf, (4,))
COMPILED = lengths(long=14, limit=11)


def larger(policy: Any, seed: int = 4) -> Any:
    """With weights of size 1, so that what is remembered matters."""
    leaves, structure = jax.tree.flatten(policy)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return structure.unflatten([jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)])


@lru_cache(maxsize=32)
def policy_of(space: Any, kind: str = "gru", truncate: int | None = None, seed: int = 4) -> Any:
    build = pg.policy(memory=kind, memory_size=3, hidden_sizes=(), truncate=truncate)
    return larger(build(jax.random.key(0), Spec(space, Discrete(3), B)), seed)


@jax.jit
def stepped(policy: Any, carry: Any, obs: Any, first: Any) -> Any:
    return policy.step(carry, obs, first)


@lru_cache(maxsize=32)
def collected(loop: str, collect: Any, truncate: int | None, kind: str = "gru", mode: str = "same-step", times: int = 3) -> Any:
    """(the policy, `times` rollouts one after the other); the first of another memory than the rest would have."""
    env: Any = COMPILED if loop == "compiled" else make(clockwork, autoreset=mode)
    policy = policy_of(env.observation_space, kind, truncate)
    if loop == "compiled":
        collector = compiled_collector(env, collect, B)
        state, rollouts = collector.init(jax.random.key(0), policy), []
        program = jax.jit(collector.collect)
        for i in range(times):
            state, rollout, _ = program(policy, jax.random.key(i), state)
            rollouts.append(jax.tree.map(np.asarray, rollout))
        return policy, rollouts
    host = HostCollector(env, collect, B, seed=0, key=jax.random.key(0))
    try:
        return policy, [host.collect(policy)[0] for _ in range(times)]
    finally:
        host.close()


def by_hand(policy: Any, rollouts: list[Rollout]) -> list[tuple[list[Any], list[Any]]]:
    """The memory before each row, and the distribution in it, of each of these rollouts that go on from each other."""
    carry, result = policy.initial(rollouts[0].mask.shape[1]), []
    for rollout in rollouts:
        before, said = [], []
        for row in range(len(rollout.mask)):
            before.append(carry)
            distribution, carry = stepped(policy, carry, jax.tree.map(lambda leaf, row=row: leaf[row], rollout.obs), rollout.time[row] == 0)
            said.append(distribution)
        result.append((before, said))
    return result


def check_carries(kept: Any, before: list[Any], rollout: Rollout, length: int, least: int) -> None:
    """Where an episode goes on; where one begins, or a row is no step, nobody reads the carry."""
    starts = range(0, len(rollout.mask), length)
    goes_on = (rollout.mask > 0) & (rollout.time > 0)
    for leaf, *each in zip(jax.tree.leaves(kept), *map(jax.tree.leaves, before), strict=True):
        assert leaf.shape[0] == len(starts)
        for k, row in enumerate(starts):
            np.testing.assert_allclose(leaf[k][goes_on[row]], np.asarray(each[row])[goes_on[row]], atol=2e-6)
    assert sum(int(goes_on[row].sum()) for row in starts) >= least


@pytest.mark.parametrize(
    ("loop", "truncate", "kind", "mode"),
    [
        ("compiled", None, "lstm", "same-step"),
        ("compiled", TRUNCATE, "gru", "same-step"),  # 3 does not divide 7
        ("host", None, "lstm", "same-step"),
        *[("host", TRUNCATE, "gru", mode) for mode in AUTORESETS],
    ],
)
def test_steps(loop: str, truncate: int | None, kind: str, mode: str) -> None:
    """Over three rollouts: each begins with the memory that the last one left."""
    policy, rollouts = collected(loop, steps(ROWS), truncate, kind, mode)
    length = chunk_length(ROWS, policy.num_chunks(ROWS))
    assert length == (ROWS if truncate is None else TRUNCATE)
    for i, ((before, said), rollout) in enumerate(zip(by_hand(policy, rollouts), rollouts, strict=True)):
        check_carries(rollout.carry, before, rollout, length, least=min(i, 1) if truncate is None else 2)
        valid = rollout.mask > 0
        expected = np.stack([one.log_prob(action) for one, action in zip(said, rollout.action, strict=True)])
        np.testing.assert_allclose(rollout.log_prob[valid], expected[valid], atol=2e-5)


@pytest.mark.parametrize("loop", ["compiled", "host"])
def test_steps_in_chunks_of_equal_length(loop: str) -> None:
    """A rollout of 6 in chunks of 3."""
    policy, rollouts = collected(loop, steps(6), TRUNCATE)
    for (before, _), rollout in zip(by_hand(policy, rollouts), rollouts, strict=True):
        check_carries(rollout.carry, before, rollout, 3, least=1)


@pytest.mark.parametrize("loop", ["compiled", "host"])
def test_how_a_rollout_is_cut_changes_nothing_else(loop: str) -> None:
    _, whole = collected(loop, steps(ROWS), None)
    _, cut = collected(loop, steps(ROWS), TRUNCATE)
    for a, b in zip(whole, cut, strict=True):
        for name in ("obs", "action", "reward", "next_obs"):
            np.testing.assert_allclose(getattr(a, name), getattr(b, name), atol=1e-6)


@pytest.mark.parametrize(("loop", "mode"), [("compiled", "same-step"), *[("host", mode) for mode in AUTORESETS]])
@pytest.mark.parametrize("truncate", [None, TRUNCATE])
def test_episodes(loop: str, mode: str, truncate: int | None) -> None:
    """Two of each environment: the memory of the second is its own."""
    policy, rollouts = collected(loop, episodes(2 * B), truncate, mode=mode, times=2)
    for rollout in rollouts:
        rows = len(rollout.mask)
        length = chunk_length(rows, policy.num_chunks(rows))
        ((before, said),) = by_hand(policy, [rollout])
        check_carries(rollout.carry, before, rollout, length, least=0 if truncate is None else 3)
        valid = rollout.mask > 0
        expected = np.stack([one.log_prob(action) for one, action in zip(said, rollout.action, strict=True)])
        np.testing.assert_allclose(rollout.log_prob[valid], expected[valid], atol=2e-5)


def test_the_record_of_a_memory_does_not_depend_on_the_mode() -> None:
    """The memory of a row that only resets is forgotten."""
    _, reference = collected("host", steps(ROWS), TRUNCATE)
    for mode in AUTORESETS[1:]:
        _, rollouts = collected("host", steps(ROWS), TRUNCATE, mode=mode)
        for ours, theirs in zip(valid_steps(rollouts), valid_steps(reference), strict=True):
            n = min(len(ours["reward"]), len(theirs["reward"]))
            assert n > 10
            for name in ("obs", "action", "reward", "next_obs", "time"):
                np.testing.assert_array_equal(ours[name][:n], theirs[name][:n])


# ── critics that remember ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("name", "loop"), [("a2c", "host"), ("reinforce", "compiled")])
def test_critics(name: str, loop: str) -> None:
    """Their own carries, and V along the rollout is V step by step."""
    options: dict[str, Any] = {"rollout_length": ROWS} if name == "a2c" else {"baseline": "value", "episodes_per_update": B}
    recipe = getattr(pg, name)(memory="gru", memory_size=3, hidden_sizes=(), truncate=TRUNCATE, **options)
    env: Any = COMPILED if loop == "compiled" else make(clockwork)
    agent = recipe.init(jax.random.key(0), spec_of(env, B))
    agent = agent._replace(params=larger(agent.params), baseline=agent.baseline)
    acts = recipe.acting(agent)
    assert isinstance(acts, WithCritic)
    if loop == "compiled":
        collector = compiled_collector(env, recipe.collect, B)
        state, rollouts, program = collector.init(jax.random.key(0), acts), [], jax.jit(collector.collect)
        for i in range(2):
            state, rollout, _ = program(acts, jax.random.key(i), state)
            rollouts.append(jax.tree.map(np.asarray, rollout))
    else:
        host = HostCollector(env, recipe.collect, B, seed=0, key=jax.random.key(0))
        rollouts = [host.collect(acts)[0] for _ in range(2)]
        host.close()
    critic = acts.critic
    step = jax.jit(lambda carry, obs, first: critic.memory.step(carry, critic.features(obs), first))
    carry, own = critic.memory.initial(B), acts.policy.initial(B)
    for rollout in rollouts:
        if recipe.collect.kind == "episodes":
            carry, own = critic.memory.initial(B), acts.policy.initial(B)
        assert isinstance(rollout.carry, Carries)
        before, said = [], []
        for row in range(len(rollout.mask)):
            before.append(Carries(own, carry))
            first = rollout.time[row] == 0
            h, carry = step(carry, rollout.obs[row], first)
            _, own = stepped(acts.policy, own, rollout.obs[row], first)
            said.append(critic.head(h))
        length = chunk_length(len(rollout.mask), acts.num_chunks(len(rollout.mask)))
        check_carries(rollout.carry, before, rollout, length, least=1)
        valid = rollout.mask > 0
        divided = rollout._replace(carry=rollout.carry.policy, critic_carry=rollout.carry.critic)
        np.testing.assert_allclose(np.asarray(critic.along(divided))[valid], np.stack(said)[valid], atol=2e-5)
    _, metrics = jax.jit(recipe.update)(jax.random.key(5), agent, rollouts[-1])
    assert metrics["finite"]


# ── evaluation and records ───────────────────────────────────────────────────────────────────────────────────────────


class Recall(gymnasium.Env):
    """A cue in the first observation of six, zeros after it; rewarded where the action is the cue, more the later."""

    observation_space = gymnasium.spaces.Box(-1, 1, (3,), np.float32)
    action_space = gymnasium.spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.t, self.cue = 0, int(self.np_random.integers(3))
        return np.eye(3, dtype=np.float32)[self.cue], {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.t += 1
        return np.zeros(3, np.float32), float(action == self.cue) * self.t + 0.125 * float(action), self.t == 6, False, {}


def recall() -> Env:
    """The same, compiled."""

    def reset(key: Any) -> Any:
        cue = jax.random.randint(key, (), 0, 3)
        return (jnp.zeros(()), cue), (jnp.arange(3) == cue).astype(jnp.float32)

    def step(key: Any, state: Any, action: Any) -> Any:
        t = state[0] + 1
        reward = jnp.where(action == state[1], t, 0.0) + 0.125 * action
        return (t, state[1]), Step(jnp.zeros(3), reward, t >= 6, jnp.zeros((), bool))

    return Env("Recall-v0", Box.of(-1.0, 1.0, (3,)), Discrete(3), reset, step, time_limit=6)


RECALLING = Box.of(-1.0, 1.0, (3,))


def test_evaluation_on_the_host_is_a_loop_by_hand() -> None:
    policy = policy_of(RECALLING, "lstm")
    found = pg.evaluate(policy, Recall, num_episodes=6, num_envs=1, seed=3).returns
    env, expected, first = Recall(), [], jnp.ones(1, bool)
    obs, _ = env.reset(seed=env_seeds(3 + EVALUATION_STREAM, 1)[0])
    for _ in range(6):
        carry, total, over, first = policy.initial(1), 0.0, False, jnp.ones(1, bool)
        while not over:
            distribution, carry = stepped(policy, carry, obs[None], first)
            obs, reward, over, _, _ = env.step(int(distribution.mode()[0]))
            total, first = total + reward, jnp.zeros(1, bool)
        expected.append(total)
        obs, _ = env.reset()
    np.testing.assert_allclose(found, expected)
    assert len(set(expected)) > 1


def test_evaluation_of_a_compiled_environment_takes_the_modes_of_a_loop_by_hand() -> None:
    env, policy = recall(), policy_of(RECALLING, "lstm")
    collector = compiled_collector(env, episodes(8), 8, sample=False)
    _, rollout, _ = jax.jit(collector.collect)(policy, jax.random.key((3 + EVALUATION_STREAM) % 2**32), ())
    ((_, said),) = by_hand(policy, [jax.tree.map(np.asarray, rollout)])
    np.testing.assert_array_equal(rollout.action, np.stack([one.mode() for one in said]))
    assert len({tuple(column) for column in np.asarray(rollout.action).T}) > 1
    np.testing.assert_allclose(pg.evaluate(policy, env, num_episodes=8, num_envs=8, seed=3).returns, np.sum(rollout.reward, axis=0))


@pytest.mark.parametrize("env", [recall(), Recall], ids=["compiled", "host"])
def test_records(env: Any) -> None:
    policy = policy_of(RECALLING, truncate=TRUNCATE)
    rollout = record(policy, env, episodes(8))
    ((before, said),) = by_hand(policy, [rollout])
    expected = np.stack([one.log_prob(action) for one, action in zip(said, rollout.action, strict=True)])
    valid = rollout.mask > 0
    np.testing.assert_allclose(rollout.log_prob[valid], expected[valid], atol=1e-5)
    rows = len(rollout.mask)
    check_carries(rollout.carry, before, rollout, chunk_length(rows, policy.num_chunks(rows)), least=8)


# ── off-policy ───────────────────────────────────────────────────────────────────────────────────────────────────────


@lru_cache
def recorded() -> Rollout:
    return record(policy_of(RECALLING, truncate=2), recall(), episodes(40))


def test_the_policys_own_record_has_ratios_of_one() -> None:
    rollout = recorded()
    powers = 0.9 ** np.arange(len(rollout.reward))[:, None]
    value = off_policy_value(policy_of(RECALLING, truncate=2), rollout, discount=0.9)
    assert value.effective_sample_size == pytest.approx(1, abs=1e-6)
    assert value.value == pytest.approx(float((powers * rollout.reward).sum(axis=0).mean()), rel=1e-5)


@pytest.mark.filterwarnings("ignore:off_policy_value")
@pytest.mark.parametrize("truncate", [None, 2])
def test_another_policys_memory_is_its_own(truncate: int | None) -> None:
    """Not the recorded one, which a chunk within an episode would else begin with."""
    rollout, other = recorded(), policy_of(RECALLING, truncate=truncate, seed=9)
    ((_, said),) = by_hand(other, [rollout])
    log_prob = np.stack([one.log_prob(action) for one, action in zip(said, rollout.action, strict=True)])
    weights = np.exp(((log_prob - rollout.log_prob) * rollout.mask).sum(axis=0))
    found = off_policy_value(other, rollout, discount=1.0, weight=trajectory)
    assert found.value == pytest.approx(float((weights * rollout.reward.sum(axis=0)).mean()), rel=1e-4)


@pytest.mark.filterwarnings("ignore:off_policy_value")
def test_a_memory_judges_what_a_policy_without_one_did_and_the_other_way_round() -> None:
    plain = larger(pg.policy(hidden_sizes=())(jax.random.key(0), Spec(RECALLING, Discrete(3), B)))
    rollout = record(plain, recall(), episodes(40))
    assert np.isfinite(off_policy_value(policy_of(RECALLING), rollout, discount=1.0).value)
    assert np.isfinite(off_policy_value(plain, recorded(), discount=1.0).value)
    assert off_policy_value(plain, rollout, discount=1.0).effective_sample_size == pytest.approx(1, abs=1e-6)


def test_parts_where_a_single_array_belongs_are_told() -> None:
    rollout = recorded()
    wrong = rollout._replace(obs={"a": rollout.obs, "b": rollout.obs})
    with pytest.raises(pg.errors.SpaceError, match=r"^policy: the rollout's observations: got a dict where Discrete\(2\) belongs; [^\n]*$"):
        off_policy_value(tabular_softmax(np.zeros((2, 3))), wrong, discount=1.0)


# ── seeds ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_seeds_alone_and_together() -> None:
    """Alone bit for bit, together up to rounding."""
    algorithm = pg.a2c(memory="gru", memory_size=3, hidden_sizes=(), rollout_length=ROWS, optimizer="sgd", max_grad_norm=None)
    options: dict[str, Any] = {"num_steps": 3 * ROWS * B, "num_envs": B, "out": False, "figures": False}
    env = recall()
    alone = pg.train(env, algorithm, seeds=[5, 0], seed_loop="alone", **options)
    together = pg.train(env, algorithm, seeds=[5, 0], seed_loop="together", **options)
    one = pg.train(env, algorithm, seed=0, **options)
    for a, b in zip(jax.tree.leaves(one.seeds[0].agent), jax.tree.leaves(alone.seeds[1].agent), strict=True):
        np.testing.assert_array_equal(a, b)
    for ours, theirs in zip(together.seeds, alone.seeds, strict=True):
        np.testing.assert_array_equal(ours.lengths, theirs.lengths)
        np.testing.assert_allclose(ours.returns, theirs.returns, rtol=1e-5)
        for a, b in zip(jax.tree.leaves(ours.policy), jax.tree.leaves(theirs.policy), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert any((np.asarray(a) != np.asarray(b)).any() for a, b in zip(*(jax.tree.leaves(x.policy) for x in alone.seeds), strict=True))
