"""Bugs planted in the gradient's own path: each is seen in the exact moments, and without it they are exact.

A check is an exact statement about the product's gradient as an error, 0 up to rounding. A mutant changes a function of the
product, in place, and must be seen by the check that names its subject.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oracle.estimators import (
    BIASED,
    EPISODIC,
    EPISODIC_BEHAVIOUR,
    EPISODIC_POLICY,
    EXACT,
    LAYERED,
    LAYERED_POLICY,
    ROLLING,
    ROLLING_POLICY,
    agent_of,
    continuing,
    estimator,
    of_episodes,
    over_steps,
    reward_to_go,
    with_critic,
    worst,
)
from policygrad import advantages, algorithms, baselines, oracle
from policygrad.gradients import gradient_of, policy_loss, weights
from policygrad.gradients.score_function import without_control
from policygrad.rollout import Collect, compiled, compiled_collector, episodes
from policygrad.types import Params

TOTAL = partial(advantages.total_return, discount=0.7)


# ── exact statements ─────────────────────────────────────────────────────────────────────────────────────────────────


def reinforce_is_unbiased() -> float:
    """γ^t in the visits, and a baseline with a state."""
    algorithm = estimator(reward_to_go(0.7), baselines.running_mean(0.4), visit_discount=0.7)
    agent = agent_of(algorithm, EPISODIC)._replace(baseline=np.asarray(2.0))
    return worst(of_episodes(algorithm, discount=0.7, agent=agent).bias)


def actor_critic_is_unbiased_through_resets() -> float:
    algorithm = over_steps(partial(advantages.td, discount=0.8), baselines.value(), visit_discount=0.8)
    agent = with_critic(algorithm, ROLLING, continuing(ROLLING, ROLLING_POLICY))
    target = oracle.rollout_gradient(ROLLING, ROLLING_POLICY, rows=4, discount_visits=True)
    return worst(oracle.moments(algorithm, ROLLING, ROLLING_POLICY, num_trajectories=1, agent=agent, target=target).bias)


def per_decision_weights_are_unbiased() -> float:
    algorithm = estimator(reward_to_go(0.7), weight=weights.per_decision, visit_discount=0.7)
    return worst(of_episodes(algorithm, discount=0.7, behaviour=EPISODIC_BEHAVIOUR).bias)


def the_other_trajectories_leave_no_bias() -> float:
    return worst(of_episodes(estimator(reward_to_go(), baselines.leave_one_out()), 2).bias)


def episodes_in_a_rollout_are_weighed_apart() -> float:
    """Episodes of one step: a rollout of two of them has half the covariance of a rollout of one."""
    arm = EPISODIC.replace(time_limit=1)
    one, two = (
        oracle.moments(
            over_steps(reward_to_go(), rows=rows, weight=weights.per_decision),
            arm,
            EPISODIC_POLICY,
            num_trajectories=1,
            behaviour=EPISODIC_BEHAVIOUR,
        )
        for rows in (1, 2)
    )
    return worst(two.covariance, one.covariance / 2)


def padding_is_no_data(baseline: Callable[[], Any]) -> float:
    """Every episode of `LAYERED` has at most three steps: two more rows for padding change nothing, in any statistic."""
    algorithm = estimator(reward_to_go(0.7), baseline())
    short, long = (oracle.moments(algorithm, LAYERED, LAYERED_POLICY, num_trajectories=2, horizon=rows) for rows in (3, 5))
    return max(worst(short.mean, long.mean), worst(short.covariance, long.covariance))


def padding_is_no_data_to_the_mean() -> float:
    return padding_is_no_data(baselines.mean)


def padding_is_no_data_to_the_normalisation() -> float:
    return padding_is_no_data(lambda: baselines.normalised(baselines.none()))


def the_control_is_the_constant_of_its_state() -> float:
    """The per-parameter baseline with the same b for every parameter is the constant baseline b, to the last moment."""
    constant, optimal = (estimator(TOTAL, baseline) for baseline in (baselines.running_mean(), baselines.optimal("previous-batch")))
    found = []
    for algorithm in (constant, optimal):
        agent = agent_of(algorithm, EPISODIC)
        agent = agent._replace(baseline=jax.tree.map(lambda leaf: np.full(leaf.shape, 1.5), agent.baseline))
        found.append(of_episodes(algorithm, discount=0.7, agent=agent).covariance)
    return worst(*found)


def the_collector_records_what_happens() -> float:
    """The share of sampled columns that are no trajectory of the MDP."""
    made = oracle.enumerate_trajectories(EPISODIC, EPISODIC_POLICY, horizon=3)
    collector = compiled_collector(EPISODIC, episodes(200), 200)
    _, sampled, _ = jax.jit(collector.collect)(EPISODIC_POLICY, jax.random.key(0), ())

    def columns(rollout: Any) -> list[bytes]:
        fields = (rollout.obs, rollout.action, rollout.terminated, rollout.truncated, rollout.next_obs, rollout.mask, rollout.time)
        table = np.concatenate([np.asarray(field, np.float32) for field in fields])
        return [column.tobytes() for column in table.T]

    known = set(columns(made.rollout))
    return float(np.mean([column not in known for column in columns(sampled)]))


CHECKS = (
    reinforce_is_unbiased,
    actor_critic_is_unbiased_through_resets,
    per_decision_weights_are_unbiased,
    the_other_trajectories_leave_no_bias,
    episodes_in_a_rollout_are_weighed_apart,
    padding_is_no_data_to_the_mean,
    padding_is_no_data_to_the_normalisation,
    the_control_is_the_constant_of_its_state,
    the_collector_records_what_happens,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_without_a_planted_bug_the_statement_is_exact(check: Callable[[], float]) -> None:
    assert check() <= EXACT


# ── planted bugs ─────────────────────────────────────────────────────────────────────────────────────────────────────

Plant = Callable[[pytest.MonkeyPatch], None]


def rewritten(function: Any, old: str, new: str) -> Plant:
    """Other code for a function of the product, wherever it was imported to."""

    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        source = textwrap.dedent(inspect.getsource(function))
        assert old in source, f"{function.__name__} no longer holds {old!r}"
        scope: dict[str, Any] = dict(function.__globals__)
        exec(compile("from __future__ import annotations\n" + source.replace(old, new), "<mutant>", "exec"), scope)
        monkeypatch.setattr(function, "__code__", scope[function.__name__].__code__)

    return plant


def replaced(owner: Any, name: str, new: Any) -> Plant:
    return lambda monkeypatch: monkeypatch.setattr(owner, name, new)


def every_step(self: Any, psi: Any, weight: Any, obs: Any, time: Any) -> Any:
    return jnp.sum(psi), jnp.asarray(psi.size, psi.dtype)


def every_row(x: Any, mask: Any) -> Any:
    return jnp.mean(x)


def all_together(sums: Any) -> Any:
    return jax.tree.map(lambda x: jnp.broadcast_to(jnp.sum(x, axis=0), x.shape), sums)


def valid_steps(self: Any, rollout: Any) -> Any:
    return jnp.sum(rollout.mask)


def no_reward_at_the_end(rewards: Any, next_values: Any, terminated: Any, discount: Any) -> Any:
    return jnp.where(terminated, 0, rewards + discount * next_values)


def never_anew(log_ratios: Any, rollout: Any) -> Any:
    return jnp.cumsum(log_ratios, axis=0)


def scores_of_the_behaviour(entropy_bonus: Any = 0.0) -> Any:
    """∇ log b(a|o) in place of ∇ log π(a|o)."""
    loss = policy_loss(entropy_bonus)

    def elsewhere(params: Params, batch: Any, progress: Any) -> Any:
        there = jax.tree.map(lambda mine, b: mine - jax.lax.stop_gradient(mine) + b, params.policy, EPISODIC_BEHAVIOUR)
        return loss(params._replace(policy=there), batch, progress)

    return elsewhere


COMPOSE, VISITS = algorithms.compose, "visit_discount ** rollout.time"
MUTANTS: dict[str, tuple[Callable[[], float], Plant]] = {
    "γ^t missing": (reinforce_is_unbiased, rewritten(COMPOSE, VISITS, "1 ** rollout.time")),
    "γ^{t+1}": (reinforce_is_unbiased, rewritten(COMPOSE, VISITS, "visit_discount * visit_discount ** rollout.time")),
    "γ^row in place of γ^t": (
        actor_critic_is_unbiased_through_resets,
        rewritten(COMPOSE, VISITS, "visit_discount ** (0 * rollout.time + jnp.arange(len(rollout.time))[:, None])"),
    ),
    "divided by the number of valid steps": (reinforce_is_unbiased, replaced(Collect, "normaliser", valid_steps)),
    "baseline moved before it is used": (
        reinforce_is_unbiased,
        rewritten(
            baselines.running_mean,
            "lambda state, psi, rollout: state)",
            "lambda state, psi, rollout: state + rate * (masked_mean(psi, rollout.mask) - state))",
        ),
    ),
    "rewards of terminated steps dropped": (reinforce_is_unbiased, replaced(advantages, "_one_step", no_reward_at_the_end)),
    "log-probability of another action": (
        reinforce_is_unbiased,
        rewritten(policy_loss, "log_prob(rollout.action)", "log_prob(1 - rollout.action)"),
    ),
    "truncation treated as termination": (
        actor_critic_is_unbiased_through_resets,
        rewritten(baselines.value, "rollout.terminated, rollout.truncated", "rollout.terminated | rollout.truncated, rollout.truncated"),
    ),
    "weights always 1": (
        per_decision_weights_are_unbiased,
        replaced(weights.LogWeight, "__call__", lambda self, *data: weights.on_policy(*data)),
    ),
    "ratios upside down": (
        per_decision_weights_are_unbiased,
        rewritten(COMPOSE, "old.log_prob(rollout.action) - rollout.log_prob", "rollout.log_prob - old.log_prob(rollout.action)"),
    ),
    "ratios kept from the advantage": (
        per_decision_weights_are_unbiased,
        rewritten(COMPOSE, "partial(advantage, ratios=importance.ratios)", "partial(advantage, ratios=None)"),
    ),
    "score of the behaviour": (
        per_decision_weights_are_unbiased,
        replaced(inspect.getmodule(policy_loss), "policy_loss", scores_of_the_behaviour),
    ),
    "product goes on behind a reset": (episodes_in_a_rollout_are_weighed_apart, replaced(weights, "_sum_so_far", never_anew)),
    "own column among the others": (the_other_trajectories_leave_no_bias, replaced(baselines, "_others", all_together)),
    "mask ignored by the mean": (padding_is_no_data_to_the_mean, replaced(baselines._Mean, "measure", every_step)),
    "mask ignored by the normalisation": (padding_is_no_data_to_the_normalisation, replaced(baselines, "masked_mean", every_row)),
    "control left out": (the_control_is_the_constant_of_its_state, rewritten(gradient_of, "batch.control)", "())")),
    "control added": (
        the_control_is_the_constant_of_its_state,
        rewritten(without_control, "leaf - jnp.sum", "leaf + jnp.sum"),
    ),
    "truncation recorded as termination": (
        the_collector_records_what_happens,
        rewritten(compiled.compiled_collector, '"terminated": made.terminated', '"terminated": made.terminated | made.truncated'),
    ),
    "last observation in place of the next": (
        the_collector_records_what_happens,
        rewritten(compiled.compiled_collector, '"next_obs": made.obs', '"next_obs": state.obs'),
    ),
}


@pytest.mark.parametrize(("check", "plant"), MUTANTS.values(), ids=MUTANTS)
def test_a_planted_bug_is_seen(check: Callable[[], float], plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    assert check() > BIASED
