"""The composition and the recipes: what an update is made of, what it records, and which arguments it refuses."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from policygrad import advantages, baselines
from policygrad.algorithms import RECIPES, actor_critic, all_finite, compose, reinforce
from policygrad.ascent import gradient_ascent
from policygrad.envs import make
from policygrad.errors import SpaceError, UsageError
from policygrad.gradients import score_function
from policygrad.policies import default, table, tabular_softmax
from policygrad.rollout import Collect, compiled_collector, episodes, steps
from policygrad.spaces import Box, Discrete
from policygrad.types import Agent, Algorithm, Ascent, Baseline, Centred, Importance, Rollout, Spec

KEY = jax.random.key(0)
T, B, S, A = 5, 3, 4, 2
LENGTHS = np.array([5, 2, 3])
MASK = (np.arange(T)[:, None] < LENGTHS).astype(np.float32)
SPEC = Spec(Discrete(S), Discrete(A), num_envs=B)


def whole_episodes(seed: int = 0) -> Rollout:
    """Three episodes of 5, 2 and 3 steps in four states, one a column, padded; actions of the uniform policy."""
    rng = np.random.default_rng(seed)
    ends = np.arange(T)[:, None] == LENGTHS - 1
    valid = MASK.astype(np.int32)
    made = Rollout(
        obs=rng.integers(0, S, (T, B)).astype(np.int32) * valid,
        action=rng.integers(0, A, (T, B)).astype(np.int32) * valid,
        log_prob=np.float32(np.log(0.5)) * MASK,
        reward=rng.normal(size=(T, B)).astype(np.float32) * MASK,
        terminated=ends & np.array([True, False, True]),
        truncated=ends & np.array([False, True, True]),
        next_obs=rng.integers(0, S, (T, B)).astype(np.int32) * valid,
        mask=MASK,
        time=np.arange(T, dtype=np.int32)[:, None] * valid,
        carry=(),
        extras={},
    )
    return jax.tree.map(jnp.asarray, made)


def flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(tree)])


def change(after: Agent, before: Agent) -> np.ndarray:
    return flat(after.params) - flat(before.params)


def close(got: Any, expected: Any, tolerance: float = 2e-6) -> None:
    np.testing.assert_allclose(np.asarray(got), np.asarray(expected), rtol=tolerance, atol=tolerance)


def same_bits(x: Any, y: Any) -> None:
    assert jax.tree.structure(x) == jax.tree.structure(y)
    for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True):
        assert a.dtype == b.dtype
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@lru_cache
def recipe(name: str, **settings: Any) -> Algorithm:
    """A recipe with jitted functions, once for all tests."""
    made = RECIPES[name](**settings)
    return made._replace(gradient=jax.jit(made.gradient), update=jax.jit(made.update))


def started(algorithm: Algorithm, total: int = 100) -> Agent:
    return algorithm.init(KEY, SPEC)._replace(total=jnp.asarray(total, jnp.int32))


# ── one composition ──────────────────────────────────────────────────────────────────────────────────────────────────

CHOICES = [
    ("reinforce", {"baseline": "none", "discount": 0.9}),
    ("reinforce", {"baseline": "mean", "normalize_advantages": True, "entropy_bonus": 0.1}),
    ("reinforce", {"baseline": "episode-mean"}),
    ("reinforce", {"baseline": "running-mean", "credit": "total-return"}),
    ("reinforce", {"baseline": "value"}),
    ("actor_critic", {}),
]


@pytest.mark.parametrize(("name", "settings"), CHOICES, ids=lambda x: str(x) if isinstance(x, dict) else x)
def test_the_gradient_is_that_which_the_update_climbs(name: str, settings: dict[str, Any]) -> None:
    """With plain gradient ascent the parameters move by rate × gradient, to the bit rounding allows, twice in a row."""
    algorithm = recipe(name, **settings, optimizer="sgd", learning_rate=0.5, max_grad_norm=None)
    agent = started(algorithm)
    for seed in (0, 1):
        rollout = whole_episodes(seed)
        gradient, info = algorithm.gradient(agent, rollout)
        after, metrics = algorithm.update(KEY, agent, rollout)
        assert np.abs(flat(gradient)).max() > 1e-3
        close(change(after, agent), 0.5 * flat(gradient))
        close(metrics["gradient_norm"], np.linalg.norm(flat(gradient)), 1e-5)
        close(metrics["learning_rate"], 0.5)
        close(metrics["entropy"], info["entropy"])
        assert bool(metrics["finite"])
        agent = after


def one_step_baseline(calls: list[str]) -> Baseline:
    """Subtracts its state, a number, and adds 10 to it: order shows."""

    def centre(state: Any, params: Any, rollout: Rollout, advantage: Callable, weights: Any) -> Centred:
        calls.append("centre")
        return Centred((rollout.reward - state) * rollout.mask, rollout.reward, rollout.reward + 100, ())

    def fit(key: Any, state: Any, params: Any, rollout: Rollout, centred: Any) -> tuple[Any, dict]:
        calls.append("fit")
        return state + 10.0, {"told_targets": centred.targets[0, 0], "told_params": params.policy.head.logits[0, 0]}

    return Baseline(lambda key, spec, policy: ((), jnp.asarray(3.0)), centre, fit)


def test_an_update_is_weight_then_centre_then_step_then_fit() -> None:
    """A baseline is used before it is moved, the step sees weighted Ψ, and the fit sees the new policy and the targets."""
    calls: list[str] = []

    def weight(log_ratios: Any, rollout: Rollout) -> Any:
        calls.append("weight")
        return Importance(2.0 * jnp.exp(log_ratios))

    def step(key: Any, params: Any, state: Any, batch: Any, progress: Any, refresh: Any) -> tuple[Any, Any, dict]:
        calls.append("step")
        moved = jax.tree.map(lambda leaf: leaf + 1.0, params)
        return moved, state + 1.0, {"weighted": jnp.sum(batch.weights * batch.advantages), "progress": progress}

    def init(params: Any) -> Any:
        return jnp.zeros(())

    def gradient(params: Any, batch: Any, progress: Any) -> tuple[Any, dict]:
        return params, {"weighted": jnp.sum(batch.weights * batch.advantages)}

    algorithm = compose(
        "own",
        {"x": 1},
        collect=episodes(B),
        policy=table(),
        advantage=partial(advantages.td, discount=0.9),
        baseline=one_step_baseline(calls),
        ascent=Ascent(init, gradient, step),
        weight=weight,
    )
    assert (algorithm.name, algorithm.settings, algorithm.collect) == ("own", {"x": 1}, episodes(B))
    agent, rollout = started(algorithm)._replace(steps=jnp.asarray(25, jnp.int32)), whole_episodes()
    after, metrics = jax.jit(algorithm.update)(KEY, agent, rollout)
    assert calls == ["weight", "centre", "step", "fit"]
    used = 2.0 / B * ((np.asarray(rollout.reward) - 3.0) * MASK).sum()  # ratios are 1: the data is the uniform policy's
    close(metrics["weighted"], used, 1e-5)
    close(jax.jit(algorithm.gradient)(agent, rollout)[1]["weighted"], used, 1e-5)
    close(metrics["progress"], 0.25)
    close(metrics["told_targets"], rollout.reward[0, 0] + 100)
    close(metrics["told_params"], 1.0)
    close(after.baseline, 13.0)
    close(after.ascent, 1.0)
    close(change(after, agent), np.ones(S * A))


PROXIMAL = {"ppo", "ppo_kl"}
JOINT = {"a2c", *PROXIMAL}


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_an_agent_is_one_pytree_that_keeps_its_shape(name: str) -> None:
    algorithm = recipe(name, **({"minibatches": 5} if name in PROXIMAL else {}))
    agent = started(algorithm)
    after, _ = algorithm.update(KEY, agent, whole_episodes())
    assert jax.tree.structure(after) == jax.tree.structure(agent)
    assert [(x.shape, x.dtype) for x in jax.tree.leaves(after)] == [(x.shape, x.dtype) for x in jax.tree.leaves(agent)]
    assert algorithm.policy(agent) is agent.params.policy
    assert (agent.params.critic != ()) == (name in JOINT), "whether policy and critic climb together"


def test_policy_and_critic_start_from_different_keys() -> None:
    """Of equal networks drawn from one key, the hidden layers would be equal."""
    algorithm = recipe("reinforce", baseline="value", hidden_sizes=(4,))
    made, again, other = algorithm.init(KEY, SPEC), algorithm.init(KEY, SPEC), algorithm.init(jax.random.key(1), SPEC)
    same_bits(made, again)
    first = flat(made.params.policy.features)
    assert first.std() > 0.1
    assert np.abs(first - flat(made.baseline[0].features)).max() > 0.1
    assert np.abs(first - flat(other.params.policy.features)).max() > 0.1


# ── weights: what an estimate divides by ─────────────────────────────────────────────────────────────────────────────


def looking(collect: Collect, policy: Any = None, weight: Any = None) -> Algorithm:
    """An algorithm whose gradient's info is the weights of its batch."""
    weights = {} if weight is None else {"weight": weight}
    return compose(
        "looking",
        {},
        collect=collect,
        policy=policy or table(),
        advantage=partial(advantages.reward_to_go, discount=1.0),
        baseline=baselines.none(),
        ascent=Ascent(lambda params: (), lambda params, batch, progress: (params, {"weights": batch.weights}), lambda *_: None),
        **weights,
    )


@pytest.mark.parametrize(("collect", "divisor"), [(episodes(B), B), (episodes(None), B), (steps(T), T * B)], ids=["N", "one each", "T·B"])
def test_an_estimate_divides_by_trajectories_or_by_rows_times_columns(collect: Collect, divisor: int) -> None:
    """Never by the number of valid steps, here 10; padding weighs 0."""
    algorithm = looking(collect)
    close(jax.jit(algorithm.gradient)(started(algorithm), whole_episodes())[1]["weights"], MASK / divisor)


def ratios_of(env: Any, rollout: Rollout, policy: Any, sharp: float) -> np.ndarray:
    """exp(log π(a|o) − the rollout's own log-probability), as the composition computes it for an importance weight."""
    algorithm = looking(steps(len(rollout.mask)), policy, weight=lambda log_ratios, rollout: Importance(jnp.exp(log_ratios)))
    agent = agent_for(algorithm, env, sharp)
    return np.asarray(jax.jit(algorithm.gradient)(agent, rollout)[1]["weights"]) * rollout.mask.size


def agent_for(algorithm: Algorithm, env: Any, sharp: float) -> Agent:
    """A policy that has learnt something: parameters larger than at the start."""
    agent = algorithm.init(KEY, Spec(env.observation_space, env.action_space, num_envs=4))
    return agent._replace(params=jax.tree.map(lambda leaf: leaf * sharp, agent.params))


@pytest.mark.parametrize(("name", "sigma", "sharp"), [("CartPole-v1", None, 30.0), ("Pendulum-v1", 2.0, 30.0)])
def test_the_ratio_of_fresh_data_is_1(name: str, sigma: float | None, sharp: float) -> None:
    """Before the first step |ratio − 1| ≤ 1e-5 in float32, for actions that the environment got clipped as well."""
    env, policy = make(name), default(hidden_sizes=(16,), sigma=sigma)
    algorithm = looking(steps(24), policy)
    collector = compiled_collector(env, steps(24), 4)
    _, rollout, _ = jax.jit(collector.collect)(agent_for(algorithm, env, sharp).params.policy, KEY, collector.init(KEY))
    assert np.ptp(np.asarray(rollout.log_prob)) > 0.1
    ratios = ratios_of(env, rollout, policy, sharp)
    assert np.abs(ratios - 1).max() <= 1e-5
    if sigma is not None:  # the field's bug: the log-probability of the clipped action
        clipped = jnp.clip(rollout.action, -2.0, 2.0)
        outside = np.asarray((clipped != rollout.action)[..., 0])
        assert 5 < outside.sum() < outside.size
        mixed = ratios_of(env, rollout._replace(action=clipped), policy, sharp)
        assert np.abs(mixed - 1)[outside].min() > 1e-5
        assert np.abs(mixed - 1)[~outside].max() <= 1e-5


def test_the_ratio_sees_another_policy() -> None:
    """π(a|o) over the probability of the record, and 0 where there is no step."""
    logits = np.random.default_rng(0).normal(size=(S, A))
    algorithm = looking(episodes(B), weight=lambda log_ratios, rollout: Importance(jnp.exp(log_ratios)))
    agent = started(algorithm)
    agent = agent._replace(params=agent.params._replace(policy=tabular_softmax(jnp.asarray(logits, jnp.float32))))
    rollout = whole_episodes()
    pi = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    close(jax.jit(algorithm.gradient)(agent, rollout)[1]["weights"], pi[rollout.obs, rollout.action] / 0.5 * MASK / B)


# ── progress and schedules ───────────────────────────────────────────────────────────────────────────────────────────


def test_the_learning_rate_falls_to_zero_with_the_steps_that_are_done() -> None:
    """First, middle and last of ten updates against rate × (1 − steps/total), in what the parameters do."""
    algorithm = recipe("reinforce", optimizer="sgd", learning_rate=0.5, learning_rate_decay=True, max_grad_norm=None)
    per_update = int(MASK.sum())
    agent = started(algorithm, total=10 * per_update)
    for update in range(10):
        gradient, _ = algorithm.gradient(agent, whole_episodes(update))
        after, metrics = algorithm.update(KEY, agent, whole_episodes(update))
        rate = 0.5 * (1 - update / 10)
        close(metrics["learning_rate"], rate)
        close(change(after, agent), rate * flat(gradient))
        assert rate > 0
        agent = after
        assert int(agent.steps) == (update + 1) * per_update  # valid steps, not rows × columns
    for beyond in (0, 55):  # at the end of the plan and after it the rate is 0, not negative
        agent = agent._replace(steps=agent.steps + beyond)
        again, metrics = algorithm.update(KEY, agent, whole_episodes())
        close(change(again, agent), 0, 0)
        assert float(metrics["learning_rate"]) == 0


def test_without_decay_the_rate_stays() -> None:
    algorithm = recipe("reinforce", optimizer="sgd", learning_rate=0.5)
    agent = started(algorithm, total=10)._replace(steps=jnp.asarray(9, jnp.int32))
    close(algorithm.update(KEY, agent, whole_episodes())[1]["learning_rate"], 0.5)


@pytest.mark.parametrize("name", ["npg", "trpo"])
def test_the_radius_falls_to_zero_with_the_steps_that_are_done(name: str) -> None:
    """A step is as long as the root of max_kl, of which a quarter is left after three quarters of the run."""
    algorithm = recipe(name, max_kl=1e-3, max_kl_decay=True)
    agent = started(algorithm, total=100)
    first, later = (
        algorithm.update(KEY, agent._replace(steps=jnp.asarray(done, jnp.int32)), whole_episodes())[1]["step_norm"] for done in (0, 75)
    )
    assert first > 0
    close(later / first, 0.5, 1e-3)


def test_the_step_size_of_npg_reaches_its_step() -> None:
    algorithm = recipe("npg", max_kl=1e3, step_size=0.25)
    agent = started(algorithm)
    after, metrics = algorithm.update(KEY, agent, whole_episodes())
    close(np.linalg.norm(change(after, agent)), 0.25 * metrics["natural_gradient_norm"], 1e-5)
    assert metrics["natural_gradient_norm"] > 0.01


def test_max_grad_norm_reaches_the_step() -> None:
    algorithm = recipe("reinforce", optimizer="sgd", learning_rate=1.0, max_grad_norm=0.01)
    agent = started(algorithm)
    gradient, _ = algorithm.gradient(agent, whole_episodes())
    after, metrics = algorithm.update(KEY, agent, whole_episodes())
    close(change(after, agent), 0.01 * flat(gradient) / np.linalg.norm(flat(gradient)))
    assert float(metrics["gradient_norm"]) > 0.01


def test_recipes_can_be_built_inside_a_mapped_function() -> None:
    """Hyper-parameters are mapped over by building the recipe there: traced numbers, each with a result of its own."""
    rates, discounts = jnp.array([0.5, 0.1, 0.5]), jnp.array([0.9, 0.9, 0.2])

    def run(rate: Any, discount: Any) -> Any:
        algorithm = reinforce(baseline="none", learning_rate=rate, discount=discount, optimizer="sgd", max_grad_norm=None)
        return algorithm.update(KEY, algorithm.init(KEY, SPEC), whole_episodes())[0].params.policy.head.logits

    usual, slow, myopic = np.asarray(jax.jit(jax.vmap(run))(rates, discounts))
    alone = recipe("reinforce", baseline="none", learning_rate=0.5, discount=0.9, optimizer="sgd", max_grad_norm=None)
    close(usual, alone.update(KEY, started(alone), whole_episodes())[0].params.policy.head.logits, 1e-5)
    close(slow, usual / 5, 1e-5)  # the table starts at 0
    assert np.abs(myopic - usual).max() > 1e-3


# ── what an update tells ─────────────────────────────────────────────────────────────────────────────────────────────


def test_metrics_are_what_their_names_say() -> None:
    """Recomputed from the rollout in NumPy."""
    algorithm, rollout = recipe("reinforce", baseline="mean", discount=0.9), whole_episodes()
    _, metrics = algorithm.update(KEY, started(algorithm), rollout)
    G = np.zeros((T + 1, B))
    for t in reversed(range(T)):
        G[t] = (np.asarray(rollout.reward)[t] + 0.9 * G[t + 1]) * MASK[t]
    valid = G[:T][MASK > 0]
    close(metrics["variance_uncentred"], valid.var(), 1e-5)
    close(metrics["variance_centred"], valid.var(), 1e-5)  # a constant leaves it
    close(metrics["mean_square_uncentred"], (valid**2).mean(), 1e-5)
    close(metrics["mean_square_centred"], ((valid - valid.mean()) ** 2).mean(), 1e-5)
    close(metrics["start_value"], G[0].mean(), 1e-5)
    close(metrics["entropy"], np.log(2))
    assert set(metrics) == {
        "variance_uncentred", "variance_centred", "mean_square_uncentred", "mean_square_centred", "start_value", "entropy",
        "gradient_norm", "learning_rate", "finite",
    }  # fmt: skip


def test_the_variance_with_the_baseline_is_of_what_multiplies_the_score() -> None:
    algorithm, rollout = recipe("reinforce", baseline="episode-mean", discount=0.9), whole_episodes()
    _, metrics = algorithm.update(KEY, started(algorithm), rollout)
    advantage, state = partial(advantages.reward_to_go, discount=0.9), started(algorithm).baseline
    centred = baselines.episode_mean().centre(state, None, rollout, advantage, rollout.mask).advantages
    close(metrics["variance_centred"], np.asarray(centred)[MASK > 0].var(), 1e-5)
    assert float(metrics["variance_centred"]) < float(metrics["variance_uncentred"])


def test_the_start_value_is_unknown_where_no_episode_began() -> None:
    algorithm = recipe("actor_critic")
    rollout = whole_episodes()
    _, metrics = algorithm.update(KEY, started(algorithm), rollout._replace(time=rollout.time + 1))
    assert np.isnan(metrics["start_value"])
    assert bool(metrics["finite"])
    one = rollout._replace(time=rollout.time.at[0, 1:].add(1).at[1:].add(1))  # only column 0 began
    close(algorithm.update(KEY, started(algorithm), one)[1]["start_value"], rollout.reward[0, 0])  # the table is still 0


# ── failure as data ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("name", "settings"), [("reinforce", {"baseline": "running-mean"}), ("reinforce", {}), ("actor_critic", {})])
def test_an_update_that_is_not_finite_keeps_the_old_agent(name: str, settings: dict[str, Any], bad: float) -> None:
    """Bit for bit, optimiser and baseline included; only the steps are counted."""
    algorithm = recipe(name, **settings)
    agent, _ = algorithm.update(KEY, started(algorithm), whole_episodes())
    rollout = whole_episodes(1)
    after, metrics = algorithm.update(KEY, agent, rollout._replace(reward=rollout.reward.at[1, 0].set(bad)))
    assert not bool(metrics["finite"])
    assert int(after.steps) == int(agent.steps) + int(MASK.sum())
    same_bits(after._replace(steps=agent.steps), agent)
    better, metrics = algorithm.update(KEY, after, rollout)  # and it goes on from there
    assert bool(metrics["finite"])
    assert np.abs(change(better, after)).max() > 0


@pytest.mark.parametrize("part", ["baseline", "ascent"])
def test_a_baseline_or_optimiser_that_is_not_finite_counts_too(part: str) -> None:
    """The policy would still be fine, and the update after this one would spoil it."""
    broken = {"baseline": 3.0, "ascent": 3.0, part: jnp.inf}
    algorithm = compose(
        "broken",
        {},
        collect=episodes(B),
        policy=table(),
        advantage=partial(advantages.td, discount=0.9),
        baseline=one_step_baseline([])._replace(fit=lambda key, state, *_: (state * broken["baseline"], {})),
        ascent=Ascent(
            lambda params: jnp.ones(()),
            lambda params, batch, progress: (params, {}),
            lambda key, params, state, batch, progress, refresh: (
                jax.tree.map(lambda leaf: leaf + 1, params),
                state * broken["ascent"],
                {},
            ),
        ),
    )
    agent = started(algorithm)
    after, metrics = jax.jit(algorithm.update)(KEY, agent, whole_episodes())
    assert not bool(metrics["finite"])
    same_bits(after._replace(steps=agent.steps), agent)


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_a_gradient_whose_square_overflows_does_not_freeze_the_optimiser(optimizer: str) -> None:
    """In float32 (1e25)² is infinite: parameters stay finite, because x/∞ is 0, and would stay where they are for ever."""
    algorithm = recipe("reinforce", baseline="none", optimizer=optimizer, max_grad_norm=None)
    agent, rollout = started(algorithm), whole_episodes()
    after, metrics = algorithm.update(KEY, agent, rollout._replace(reward=rollout.reward.at[1, 0].set(1e25)))
    assert not bool(metrics["finite"])
    same_bits(after._replace(steps=agent.steps), agent)
    later, _ = algorithm.update(KEY, after, rollout)
    assert np.abs(change(later, after)).min() > 0


def test_a_gradient_whose_norm_overflows_is_clipped_or_refused() -> None:
    """Clipping to 0 would be neither: the norm promised is min(norm, c)."""
    algorithm = recipe("reinforce", baseline="none", optimizer="sgd", learning_rate=1.0, max_grad_norm=0.5)
    agent, rollout = started(algorithm), whole_episodes()
    after, metrics = algorithm.update(KEY, agent, rollout._replace(reward=rollout.reward.at[1, 0].set(1e25)))
    assert not bool(metrics["finite"]) or abs(np.linalg.norm(change(after, agent)) - 0.5) < 1e-5


def test_finiteness_is_asked_of_floats_alone() -> None:
    assert bool(all_finite({"n": jnp.arange(3), "flag": jnp.array(True), "x": jnp.ones(2)}))
    assert not bool(all_finite({"x": jnp.ones(2), "y": jnp.array([1.0, jnp.nan])}))
    assert not bool(all_finite([jnp.array(jnp.inf)]))
    assert bool(all_finite(()))


# ── the recipes' arguments ───────────────────────────────────────────────────────────────────────────────────────────


def parameters_of(name: str) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(RECIPES[name]).parameters)


def arguments_documented(name: str) -> list[str]:
    section = inspect.getdoc(RECIPES[name]).split("Args:\n")[1].split("\n\n")[0]
    return re.findall(r"^    (\w+): ", section, flags=re.MULTILINE)


NOT_A_NUMBER = float("nan")
BAD: dict[str, list[Any]] = {
    "discount": [-0.1, 1.5, NOT_A_NUMBER, "0.9", True, None, abs],
    "discount_gradient": ["no", 1],
    "advantage": ["gea", 3],
    "trace": [-0.1, 1.5, NOT_A_NUMBER],
    "n_step": [0, 2.5, True],
    "baseline_form": ["leave-one-in", None],
    "weight": ["per-desicion", None],
    "weight_limit": [0.0, -1.0, NOT_A_NUMBER],
    "self_normalize": ["no"],
    "reuse": [0, 2.5, True],
    "epochs": [0, 2.5, True],
    "minibatches": [0, 2.5, True],
    "clip": [0.0, -0.1, NOT_A_NUMBER, None],
    "clip_decay": ["no"],
    "value_clip": [0.0, -0.1, NOT_A_NUMBER],
    "value_weight": [-0.1, NOT_A_NUMBER, None],
    "target_kl": [0.0, -0.1, NOT_A_NUMBER, None],
    "stop_kl": [0.0, -0.1, NOT_A_NUMBER],
    "initial_penalty": [0.0, -0.1, NOT_A_NUMBER],
    "max_kl": [0.0, -0.01, NOT_A_NUMBER, None],
    "max_kl_decay": ["no"],
    "step_size": [0.0, -0.1, NOT_A_NUMBER, "0.1"],
    "damping": [-0.1, NOT_A_NUMBER],
    "cg_iterations": [0, 2.5, True],
    "backtracks": [-1, 2.5, True],
    "shrink": [0.0, 1.0, NOT_A_NUMBER],
    "normalize_over": ["epoch", None],
    "recompute_advantages": ["no"],
    "shared_features": ["no"],
    "normalize_observations": ["no"],
    "normalize_rewards": ["no"],
    "learning_rate": [0.0, -1.0, NOT_A_NUMBER, float("inf"), "0.1", None],
    "learning_rate_decay": ["no"],
    "critic_learning_rate": [0.0, -1.0, NOT_A_NUMBER],
    "rollout_length": [0, -1, 2.5, True, None],
    "episodes_per_update": [0, -1, 2.5, True],
    "credit": ["reward", 3],
    "normalize_advantages": ["no"],
    "entropy_bonus": [-0.1, NOT_A_NUMBER, float("inf"), "x"],
    "max_grad_norm": [0.0, -1.0, NOT_A_NUMBER],
    "optimizer": ["adm", 3, None],
    "baseline": ["men", 3, None, baselines.mean],
    "baseline_rate": [0.0, 1.1, -0.5, NOT_A_NUMBER],
    "critic_steps": [0, 2.5, True],
    "hidden_sizes": [(0,), (64, 2.5), (True,), "64", 64],
    "activation": ["tahn", 3],
    "initialisation": ["orthogonl", None],
    "sigma": [0.0, -1.0, NOT_A_NUMBER, "1"],
    "initial_sigma": [0.0, -1.0, NOT_A_NUMBER, "1"],
    "features": ["fourrier", 3, None],
    "memory": ["elman", 3],
    "memory_size": [0, 2.5, True],
    "truncate": [0, 2.5, "x"],
    "head": ["gausian", 3, None],
    "policy": [3, tabular_softmax(np.zeros((S, A), np.float32))],
}


@pytest.mark.parametrize(
    ("name", "argument", "value"),
    [
        pytest.param(name, argument, value, id=f"{name}-{argument}-{i}")
        for name in sorted(RECIPES)
        for argument in parameters_of(name)
        for i, value in enumerate(BAD[argument])
    ],
)
def test_a_bad_argument_gives_one_line_that_names_it(name: str, argument: str, value: Any) -> None:
    """Argument, what was got, and what would do; before anything is built."""
    with pytest.raises(UsageError) as caught:
        RECIPES[name](**{argument: value})
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 300
    assert argument in message
    if callable(value):
        assert "got" in message
    else:
        assert repr(value) in message
    assert re.search(r"must be|known:|did you mean", message)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_the_ends_of_a_range_belong_to_it_where_it_says_so(name: str) -> None:
    good = {
        "discount": [0, 1, 0.0, 1.0, np.float32(0.5)],
        "learning_rate": [1, 1e-9, np.float32(0.1), np.float64(0.1)],
        "entropy_bonus": [0, 0.0],
        "baseline_rate": [1, 1.0],
        "hidden_sizes": [(), [8], (8, 8)],
        "optimizer": ["sgd", optax.adamw, optax.sgd(0.1)],
        "baseline": [*baselines.KINDS, baselines.none()],
        "max_grad_norm": [None, 0.5],
        "episodes_per_update": [None, 4],
    }
    for argument, values in good.items():
        if argument in parameters_of(name):
            for value in values:
                algorithm = RECIPES[name](**{argument: value})
                assert algorithm.settings[argument] is value


CLASHES = [
    ("reinforce", {"credit": "total-return", "baseline": "episode-mean"}, "baseline"),
    ("reinforce", {"credit": "total-return", "discount_gradient": True}, "discount_gradient"),
    ("reinforce", {"credit": "total-return", "weight": "per-decision"}, "weight"),
    ("reinforce", {"baseline": "value", "baseline_form": "leave-one-out"}, "baseline_form"),
    ("reinforce", {"baseline": "leave-one-out", "baseline_form": "previous-batch"}, "baseline_form"),
    ("reinforce", {"reuse": 2}, "weight"),
    ("reinforce", {"weight_limit": 2.0}, "weight_limit"),
    ("reinforce", {"self_normalize": True}, "self_normalize"),
    ("actor_critic", {"reuse": 2}, "weight"),
    ("actor_critic", {"advantage": "vtrace", "weight": "per-step"}, "weight"),
    ("actor_critic", {"advantage": "vtrace", "self_normalize": True}, "weight"),
]


@pytest.mark.parametrize(("name", "settings", "blamed"), CLASHES, ids=str)
def test_arguments_that_exclude_each_other_are_one_line(name: str, settings: dict[str, Any], blamed: str) -> None:
    with pytest.raises(UsageError) as caught:
        RECIPES[name](**settings)
    assert str(caught.value).startswith(f"{blamed}: got ")
    assert "\n" not in str(caught.value)


NEW_SLOTS = [
    ("reinforce", {"baseline": "leave-one-out", "discount_gradient": True}),
    ("reinforce", {"baseline": "optimal", "baseline_form": "previous-batch", "weight": "trajectory"}),
    ("reinforce", {"baseline": "value-linear", "weight": "per-decision", "weight_limit": 2.0, "reuse": 2}),
    ("actor_critic", {"advantage": "gae", "weight": "per-step", "self_normalize": True, "reuse": 2}),
    ("actor_critic", {"advantage": "n-step", "n_step": 2, "discount_gradient": True}),
    ("actor_critic", {"advantage": "vtrace", "weight_limit": 1.5, "reuse": 2}),
]


@pytest.mark.parametrize(("name", "settings"), NEW_SLOTS, ids=str)
def test_slots_combine(name: str, settings: dict[str, Any]) -> None:
    """The agent keeps its structure, everything is finite, and only weighted data has an effective sample size."""
    algorithm = recipe(name, **settings)
    agent = started(algorithm)
    after, metrics = algorithm.update(KEY, agent, whole_episodes())
    assert [(x.shape, x.dtype) for x in jax.tree.leaves(after)] == [(x.shape, x.dtype) for x in jax.tree.leaves(agent)]
    assert bool(metrics["finite"])
    assert int(after.steps) == int(MASK.sum())
    weighted = settings.get("weight", "none") != "none" or settings.get("advantage") == "vtrace"
    assert ("effective_sample_size" in metrics) == weighted
    if weighted:
        assert 0 < float(metrics["effective_sample_size"]) <= 1


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_settings_are_the_arguments(name: str) -> None:
    defaults = {key: parameter.default for key, parameter in parameters_of(name).items()}
    assert RECIPES[name]().settings == defaults
    assert RECIPES[name](discount=0.5).settings == {**defaults, "discount": 0.5}
    assert RECIPES[name]().name == name
    assert RECIPES[name].__name__ == name


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_argument_goes_by_keyword_and_is_explained(name: str) -> None:
    parameters = parameters_of(name)
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in parameters.values())
    assert all(parameter.default is not parameter.empty for parameter in parameters.values())
    assert arguments_documented(name) == list(parameters)


def test_the_same_thing_has_the_same_name_type_and_order_in_every_recipe() -> None:
    """A shared argument has one type; the order of those that two recipes share is one order."""
    names = sorted(RECIPES)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            mine, theirs = parameters_of(one), parameters_of(other)
            shared = [argument for argument in mine if argument in theirs]
            assert shared == [argument for argument in theirs if argument in mine]
            assert len(shared) > 8
            for argument in shared:
                assert mine[argument].annotation == theirs[argument].annotation, argument


@pytest.mark.parametrize("count", [None, 1, 6])
def test_episodes_per_update_is_what_reinforce_collects(count: int | None) -> None:
    collect = reinforce(episodes_per_update=count).collect
    assert (collect.kind, collect.count) == ("episodes", count)
    assert collect.num_envs >= 1
    assert collect.episodes_per_update(collect.num_envs) % collect.num_envs == 0


def test_rollout_length_is_what_actor_critic_collects() -> None:
    assert actor_critic().collect == steps(1)
    assert actor_critic(rollout_length=7).collect == steps(7)


LOGITS = np.random.default_rng(3).normal(size=(S, A)).astype(np.float32)
SWITCHES: dict[str, Any] = {
    "discount": 0.8,
    "learning_rate": 0.5,
    "learning_rate_decay": True,
    "normalize_advantages": True,
    "entropy_bonus": 0.25,
    "max_grad_norm": 0.1,
    "optimizer": "sgd",
}


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("reinforce", {"baseline": "none", "credit": "total-return"}),
        ("reinforce", {"baseline": "none"}),
        ("actor_critic", {"rollout_length": T}),
    ],
    ids=["reinforce-total", "reinforce", "actor_critic"],
)
def test_every_switch_of_a_recipe_reaches_its_update(name: str, settings: dict[str, Any]) -> None:
    """All of them on at once, against the update written out in NumPy: each is in the number."""
    algorithm = recipe(name, **SWITCHES, **settings)
    agent = started(algorithm, total=100)._replace(steps=jnp.asarray(25, jnp.int32))
    agent = agent._replace(params=agent.params._replace(policy=tabular_softmax(LOGITS)))
    rollout = whole_episodes()

    reward, psi = np.asarray(rollout.reward, float), np.zeros((T + 1, B))
    for t in reversed(range(T)):
        psi[t] = (reward[t] + 0.8 * psi[t + 1]) * MASK[t]
    psi = psi[:T]
    if "credit" in settings:
        psi = np.broadcast_to(psi[0], (T, B))
    if name == "actor_critic":
        psi = reward  # the table of values is still 0
    psi = (psi - psi[MASK > 0].mean()) / psi[MASK > 0].std()
    pi = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
    H = -(pi * np.log(pi)).sum(axis=1, keepdims=True)
    gradient = np.zeros((S, A))
    for t, b in np.argwhere(MASK > 0):
        s, a = int(rollout.obs[t, b]), int(rollout.action[t, b])
        gradient[s] += psi[t, b] * (np.eye(A)[a] - pi[s]) + 0.25 * (-pi * (np.log(pi) + H))[s]
    gradient /= T * B if name == "actor_critic" else B
    norm = np.linalg.norm(gradient)
    assert norm > 0.15

    after, metrics = algorithm.update(KEY, agent, rollout)
    close(metrics["gradient_norm"], norm, 1e-5)
    close(change(after, agent).reshape(S, A), 0.5 * 0.75 * 0.1 / norm * gradient, 1e-6)


@pytest.mark.parametrize(("name", "rate"), [("actor_critic", "critic_learning_rate"), ("reinforce", "critic_learning_rate")])
def test_the_critics_rate_is_its_own(name: str, rate: str) -> None:
    """Adam's first step is the rate, at every state that was visited, whatever the policy's rate."""
    settings = {"critic_steps": 1, "baseline": "value"} if name == "reinforce" else {}
    algorithm, rollout = recipe(name, **settings, **{rate: 0.125}), whole_episodes()
    agent = started(algorithm)
    after, _ = algorithm.update(KEY, agent, rollout)
    visited = np.unique(np.asarray(rollout.obs)[MASK > 0])
    close(np.abs(flat(after.baseline[0]))[visited], np.full(len(visited), 0.125), 1e-4)
    close(np.abs(change(after, agent)).max(), inspect.signature(RECIPES[name]).parameters["learning_rate"].default, 1e-4)


def test_critic_steps_is_how_often_the_critic_moves() -> None:
    algorithm = recipe("reinforce", baseline="value", critic_steps=3)
    after, _ = algorithm.update(KEY, started(algorithm), whole_episodes())
    counts = [int(leaf) for leaf in jax.tree.leaves(after.baseline) if jnp.issubdtype(leaf.dtype, jnp.integer)]
    assert counts == [3]


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_the_arguments_of_a_network_shape_policy_and_critic(name: str) -> None:
    valued = {"baseline": "value"} if name == "reinforce" else {}

    def built(**settings: Any) -> tuple[Any, Any]:
        agent = RECIPES[name](**valued, **settings).init(KEY, SPEC)
        return agent.params.policy, agent.params.critic or agent.baseline[0]

    usual, changed = built(hidden_sizes=(4,)), built(hidden_sizes=(4,), initialisation="xavier")
    curved = built(hidden_sizes=(4,), activation="relu")
    for network, other, bent in zip(usual, changed, curved, strict=True):
        assert {leaf.shape for leaf in jax.tree.leaves(network)} >= {(4, S), (4,)}
        assert np.abs(flat(network) - flat(other)).max() > 0.01
        close(flat(network), flat(bent), 0)  # the same numbers …
        assert jax.tree.structure(network) != jax.tree.structure(bent)  # … in another function
    policy, critic = built()
    assert {leaf.shape for leaf in jax.tree.leaves(policy)} == {(S, A)}
    assert {leaf.shape for leaf in jax.tree.leaves(critic)} == {(S,)}


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_policy_of_ones_own_takes_the_place_of_the_usual_one(name: str) -> None:
    own = tabular_softmax(LOGITS)
    assert RECIPES[name](policy=lambda key, spec: own).init(KEY, SPEC).params.policy is own


def test_a_fixed_sigma_does_not_train() -> None:
    env = make("Pendulum-v1")
    spec = Spec(env.observation_space, env.action_space, num_envs=1)
    agent = reinforce(sigma=0.25, hidden_sizes=()).init(KEY, spec)
    obs = jnp.zeros((1, 3))
    close(jnp.exp(agent.params.policy(obs).log_std), [[0.25]])
    learnt = reinforce(hidden_sizes=()).init(KEY, spec)
    assert len(jax.tree.leaves(learnt.params)) == len(jax.tree.leaves(agent.params)) + 1


def test_whole_returns_less_each_episodes_own_mean_are_refused() -> None:
    """R(τ) is the same at every step, so nothing would be left of it: a gradient of exactly 0, for ever."""
    with pytest.raises(UsageError, match=r"episode-mean.*total-return"):
        reinforce(baseline="episode-mean", credit="total-return")


def test_a_recipe_is_a_composition_that_can_be_written_out() -> None:
    """`reinforce` from its pieces, to the last bit."""
    own = compose(
        "mine",
        {},
        collect=episodes(),
        policy=default(),
        advantage=partial(advantages.reward_to_go, discount=0.9),
        baseline=baselines.running_mean(0.25),
        ascent=gradient_ascent(score_function(0.1), learning_rate=0.02, max_grad_norm=0.3),
    )
    theirs = recipe(
        "reinforce", baseline="running-mean", discount=0.9, baseline_rate=0.25, entropy_bonus=0.1, learning_rate=0.02, max_grad_norm=0.3
    )
    update, mine, other = jax.jit(own.update), started(own), started(theirs)
    same_bits(mine, other)
    for seed in (0, 1):
        mine, _ = update(KEY, mine, whole_episodes(seed))
        other, _ = theirs.update(KEY, other, whole_episodes(seed))
    same_bits(mine, other)
    assert float(mine.baseline) != 0


@pytest.mark.parametrize("name", RECIPES)
def test_learning_starts_from_the_initial_sigma(name: str) -> None:
    spec = Spec(Box.of(-1.0, 1.0, (3,)), Box.of(-1.0, 1.0, (2,)), num_envs=B)
    algorithm = RECIPES[name](initial_sigma=0.3)
    policy = algorithm.policy(algorithm.init(KEY, spec))
    close(policy(jnp.zeros(3)).entropy(), 2 * (0.5 * np.log(2 * np.pi * np.e) + np.log(0.3)))


def test_an_initial_sigma_beside_a_fixed_one_is_refused() -> None:
    with pytest.raises(UsageError, match=r"initial_sigma: got 0\.5 with a fixed sigma of 2\.0, which is not learnt; leave one of them out"):
        RECIPES["ppo"](sigma=2.0, initial_sigma=0.5)
    with pytest.raises(UsageError, match=r"initial_sigma: got -1; it must be a finite number above 0"):
        RECIPES["trpo"](initial_sigma=-1)


@pytest.mark.parametrize("observations", [Discrete(S), Box.of(-1.0, 1.0, (3,))], ids=str)
def test_an_initial_sigma_for_discrete_actions_is_refused(observations: Any) -> None:
    with pytest.raises(SpaceError, match=r"an initial_sigma needs Box actions: got .*; leave initial_sigma out"):
        RECIPES["a2c"](initial_sigma=0.5).init(KEY, Spec(observations, Discrete(A), num_envs=B))


@pytest.mark.parametrize("size", [3, 4096, 10_000])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_element_that_is_not_finite_is_found(size: int, value: float) -> None:
    """By the program that users have: optimised, XLA's maximum of many numbers on a CPU passes over NaN."""
    optimised = {"xla_backend_optimization_level": 3, "xla_cpu_use_fusion_emitters": True}
    x = np.random.default_rng(0).normal(size=size).astype(np.float32)
    found = jax.jit(all_finite).lower((x, x[:2])).compile(compiler_options=optimised)
    assert found((x, x[:2]))
    for at in (0, size // 2, size - 1):
        y = x.copy()
        y[at] = value
        assert not found((y, x[:2]))
