"""Every advantage × baseline × weight: the exact mean of the product's own gradient against the exact gradient it claims.

What is unbiased is so for one of these:

    ∇J                      the gradient of the time-limited objective, γ^t included
    ∇J without γ^t          the same with γ^t left out of the visits: all that differs is where γ < 1
    the rollout's gradient  the true advantages at the states that a rollout of fixed length visits
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from oracle.estimators import (
    BIASED,
    EPISODIC,
    EPISODIC_BEHAVIOUR,
    EPISODIC_POLICY,
    EXACT,
    LAYERED,
    LAYERED_BEHAVIOUR,
    LAYERED_POLICY,
    RNG,
    ROLLING,
    ROLLING_BEHAVIOUR,
    ROLLING_POLICY,
    continuing,
    estimator,
    of_episodes,
    over_steps,
    pulled,
    reward_to_go,
    softmax,
    with_any_state,
    with_critic,
    worst,
)
from policygrad import advantages, baselines, oracle
from policygrad.algorithms import reinforce
from policygrad.gradients import weights
from policygrad.oracle import Moments
from policygrad.types import Algorithm, Baseline

TOTAL = partial(advantages.total_return, discount=0.7)
TO_GO = reward_to_go(0.7)
KINDS: dict[str, Callable[..., Baseline]] = {
    "mean": baselines.mean,
    "episode-mean": baselines.episode_mean,
    "time-mean": baselines.time_mean,
    "state-mean": baselines.state_mean,
    "least-squares": baselines.least_squares,
    "optimal": baselines.optimal,
}


# ── Monte Carlo, whole episodes ──────────────────────────────────────────────────────────────────────────────────────

MONTE_CARLO = {
    "reward-to-go, γ = 1": (1.0, estimator(reward_to_go())),
    "reward-to-go with γ^t": (0.7, estimator(TO_GO, visit_discount=0.7)),
    "total return": (0.7, estimator(TOTAL)),
    "running mean with γ^t": (0.7, estimator(TO_GO, baselines.running_mean(), visit_discount=0.7)),
    "running mean, total return": (0.7, estimator(TOTAL, baselines.running_mean())),
    "the recipe with discount_gradient": (0.7, reinforce(baseline="none", discount=0.7, discount_gradient=True)),
}


@pytest.mark.parametrize(("discount", "algorithm"), MONTE_CARLO.values(), ids=MONTE_CARLO)
def test_monte_carlo_is_unbiased_for_the_discounted_objective(discount: float, algorithm: Algorithm) -> None:
    moments = of_episodes(algorithm, discount=discount, agent=with_any_state(algorithm, EPISODIC))
    assert worst(moments.bias) <= EXACT
    assert moments.variance > 0.01


def test_without_the_discount_of_the_visits_the_reward_to_go_is_unbiased_for_what_has_none() -> None:
    """γ^t left out: exact for the formula that leaves it out, and for ∇J it is not. Both numbers from one run."""
    target = oracle.policy_gradient(EPISODIC.replace(discount=0.7), EPISODIC_POLICY, discount_visits=False)
    dropped = of_episodes(estimator(TO_GO), discount=0.7, target=target)
    assert worst(dropped.bias) <= EXACT
    assert worst(of_episodes(MONTE_CARLO["reward-to-go with γ^t"][1], discount=0.7).mean, dropped.mean) > BIASED


# ── baselines computed from data ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", KINDS)
def test_a_baseline_of_another_batch_is_unbiased(kind: str) -> None:
    """Whatever the batch before has left in the state."""
    algorithm = estimator(TO_GO, KINDS[kind]("previous-batch"), visit_discount=0.7)
    agent = with_any_state(algorithm, EPISODIC, 2)
    moments = of_episodes(algorithm, 2, discount=0.7, agent=agent)
    assert worst(moments.bias) <= EXACT
    assert moments.variance != pytest.approx(of_episodes(MONTE_CARLO["reward-to-go with γ^t"][1], 2, discount=0.7).variance)


@pytest.mark.parametrize("kind", KINDS)
def test_a_baseline_of_the_other_trajectories_is_unbiased(kind: str) -> None:
    algorithm = estimator(reward_to_go(), KINDS[kind]("leave-one-out"))
    assert worst(of_episodes(algorithm, 2).bias) <= EXACT


def test_the_other_trajectories_are_all_the_others() -> None:
    """Three of them, total returns, γ^t or not."""
    short = EPISODIC.replace(time_limit=2, discount=0.7)
    moments = oracle.moments(estimator(TOTAL, baselines.leave_one_out()), short, EPISODIC_POLICY, num_trajectories=3)
    assert worst(moments.bias) <= EXACT


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "least-squares"])
def test_a_baseline_of_the_same_batch_is_biased(kind: str) -> None:
    moments = of_episodes(estimator(reward_to_go(), KINDS[kind]("same-batch")), 2)
    assert worst(moments.bias) > BIASED
    if kind == "mean":
        assert worst(moments.bias, bias_of_the_batch_mean(2)) <= EXACT


def test_least_squares_on_the_same_batch_is_biased() -> None:
    """On more steps than features: two rollouts of two steps, and no time limit, so that the features are the observation alone."""
    world = EPISODIC.replace(time_limit=None, discount=0.7)
    plain, fitted = (
        oracle.moments(over_steps(TO_GO, baseline, rows=2), world, EPISODIC_POLICY, num_trajectories=2)
        for baseline in (baselines.none(), baselines.least_squares())
    )
    assert worst(fitted.mean, plain.mean) > BIASED


def bias_of_the_batch_mean(N: int) -> np.ndarray:
    """−∇E[b] / N with b = Σ G / Σ T_i, for episodes of different lengths: ∇E[b] = E[b Σ_i Σ_t ∇ log π]."""
    rollout, probability = oracle.enumerate_trajectories(EPISODIC, EPISODIC_POLICY, horizon=3)
    to_go = np.cumsum(rollout.reward[::-1], axis=0)[::-1] * rollout.mask
    pi = softmax(EPISODIC_POLICY)
    score = np.zeros((probability.size, 3, 2))
    for obs, action, valid in zip(rollout.obs, rollout.action, rollout.mask, strict=True):
        np.add.at(score, (np.arange(probability.size), obs), valid[:, None] * (np.eye(2)[action] - pi[obs]))
    chosen = np.indices((probability.size,) * N).reshape(N, -1)
    b = to_go.sum(axis=0)[chosen].sum(axis=0) / rollout.mask.sum(axis=0)[chosen].sum(axis=0)
    return -((probability[chosen].prod(axis=0) * b) @ score[chosen].sum(axis=0).reshape(b.size, -1)) / N


def test_normalised_advantages_are_biased() -> None:
    assert worst(of_episodes(estimator(reward_to_go(), baselines.normalised(baselines.none())), 2).bias) > BIASED


# ── critics over whole episodes ──────────────────────────────────────────────────────────────────────────────────────

V = continuing(LAYERED, LAYERED_POLICY)
ANY_V = RNG.normal(size=4)
GAMMA = {"discount": 0.7}


def of_layers(algorithm: Algorithm, critic: np.ndarray, **more: Any) -> Moments:
    agent = with_critic(algorithm, LAYERED, critic)
    return oracle.moments(algorithm, LAYERED, LAYERED_POLICY, num_trajectories=1, agent=agent, **more)


LOOKING_AHEAD: dict[str, Callable[..., Any]] = {
    "td": advantages.td,
    "2-step": partial(advantages.n_step, n=2),
    "9-step": partial(advantages.n_step, n=9),
    "gae": partial(advantages.gae, trace=0.6),
    "gae, λ = 1": partial(advantages.gae, trace=1.0),
    "vtrace": advantages.vtrace,
    "reward-to-go": advantages.reward_to_go,
}
TO_THE_END = {"9-step", "gae, λ = 1", "vtrace", "reward-to-go"}


@pytest.mark.parametrize("name", LOOKING_AHEAD)
def test_with_the_true_critic_every_advantage_is_unbiased_and_with_any_critic_those_that_look_to_the_end(name: str) -> None:
    """Where every episode terminates by itself, so that a time limit takes nothing away."""
    algorithm = estimator(partial(LOOKING_AHEAD[name], **GAMMA), baselines.value(), visit_discount=0.7)
    assert worst(of_layers(algorithm, V).bias) <= EXACT
    bias = worst(of_layers(algorithm, ANY_V).bias)
    assert bias <= EXACT if name in TO_THE_END else bias > BIASED


def test_the_bias_of_a_wrong_critic_is_what_it_adds_to_one_step() -> None:
    """TD: Σ_s d(s) Σ_a ∇π(a|s) [r + γ Σ_s' P V̂(s')], whatever V̂ is."""
    d = oracle.occupancy(LAYERED, LAYERED_POLICY, normalised=False).state
    Q = LAYERED.expected_rewards + 0.7 * LAYERED.transitions @ (ANY_V * ~LAYERED.terminal)
    algorithm = estimator(partial(advantages.td, **GAMMA), baselines.value(), visit_discount=0.7)
    assert worst(of_layers(algorithm, ANY_V).mean, pulled(LAYERED, LAYERED_POLICY, Q, d)) <= EXACT


# ── critics over rollouts that pass through resets ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", LOOKING_AHEAD)
def test_with_the_true_critic_every_advantage_is_unbiased_through_resets(name: str) -> None:
    """Terminations, truncations that bootstrap, resets and the end of the rollout; with γ^t for one of them."""
    discounted = name == "gae"
    advantage = partial(LOOKING_AHEAD[name], discount=0.8)
    algorithm = over_steps(advantage, baselines.value(), visit_discount=0.8 if discounted else 1.0)
    agent = with_critic(algorithm, ROLLING, continuing(ROLLING, ROLLING_POLICY))
    target = oracle.rollout_gradient(ROLLING, ROLLING_POLICY, rows=4, discount_visits=discounted)
    moments = oracle.moments(algorithm, ROLLING, ROLLING_POLICY, num_trajectories=1, agent=agent, target=target)
    assert worst(moments.bias) <= EXACT
    if not discounted:
        default = oracle.moments(algorithm, ROLLING, ROLLING_POLICY, num_trajectories=1, agent=agent)
        np.testing.assert_array_equal(default.target, moments.target)


def test_without_a_critic_a_rollout_that_stops_is_biased() -> None:
    """No bootstrap, so the rewards behind the last row are missing, and those behind the time limit."""
    target = oracle.rollout_gradient(ROLLING, ROLLING_POLICY, rows=4, values="time-limited")
    moments = oracle.moments(over_steps(reward_to_go(0.8)), ROLLING, ROLLING_POLICY, num_trajectories=1, target=target)
    assert worst(moments.bias) > BIASED


# ── data of another policy ───────────────────────────────────────────────────────────────────────────────────────────

OFF_POLICY: dict[str, tuple[Algorithm, int]] = {
    "trajectory, total return": (estimator(TOTAL, weight=weights.trajectory), 1),
    "trajectory, reward-to-go": (estimator(TO_GO, weight=weights.trajectory, visit_discount=0.7), 1),
    "per-decision, reward-to-go": (estimator(TO_GO, weight=weights.per_decision, visit_discount=0.7), 1),
    "per-decision, running mean": (estimator(TO_GO, baselines.running_mean(), weight=weights.per_decision, visit_discount=0.7), 1),
    "trajectory, leave-one-out": (estimator(TOTAL, baselines.leave_one_out(), weight=weights.trajectory), 2),
    "per-decision, leave-one-out by time": (
        estimator(TO_GO, baselines.time_mean("leave-one-out"), weight=weights.per_decision, visit_discount=0.7),
        2,
    ),
    "trajectory, optimal of the others": (estimator(TOTAL, baselines.optimal("leave-one-out"), weight=weights.trajectory), 2),
    "per-decision, optimal of another batch": (
        estimator(TO_GO, baselines.optimal("previous-batch"), weight=weights.per_decision, visit_discount=0.7),
        1,
    ),
}


@pytest.mark.parametrize(("algorithm", "num_trajectories"), OFF_POLICY.values(), ids=OFF_POLICY)
def test_products_of_ratios_are_unbiased_for_the_policy_that_did_not_act(algorithm: Algorithm, num_trajectories: int) -> None:
    agent = with_any_state(algorithm, EPISODIC, num_trajectories)
    moments = of_episodes(algorithm, num_trajectories, discount=0.7, agent=agent, behaviour=EPISODIC_BEHAVIOUR)
    assert worst(moments.bias) <= EXACT


@pytest.mark.parametrize("name", ["td", "2-step", "gae", "reward-to-go"])
def test_per_decision_weights_go_with_every_advantage_that_looks_ahead(name: str) -> None:
    algorithm = estimator(partial(LOOKING_AHEAD[name], **GAMMA), baselines.value(), weight=weights.per_decision, visit_discount=0.7)
    assert worst(of_layers(algorithm, V, behaviour=LAYERED_BEHAVIOUR).bias) <= EXACT


def test_vtrace_without_clips_goes_with_them_too() -> None:
    free = partial(advantages.vtrace, **GAMMA, rho_clip=np.inf, c_clip=np.inf)
    algorithm = estimator(free, baselines.value(), weight=weights.per_decision, visit_discount=0.7)
    assert worst(of_layers(algorithm, ANY_V, behaviour=LAYERED_BEHAVIOUR).bias) <= EXACT


def test_per_step_ratios_leave_states_and_returns_to_the_behaviour() -> None:
    """Σ_t Σ_s P_b(s_t = s) Σ_a ∇π(a|s) Q_b,t(s, a): the exact mean, and so the exact bias."""
    world = EPISODIC.replace(discount=0.7)
    moments = of_episodes(estimator(TO_GO, weight=weights.per_step), discount=0.7, behaviour=EPISODIC_BEHAVIOUR)
    visits = oracle.visits(world, EPISODIC_BEHAVIOUR, rows=3, resets=False).sum(axis=0)  # [K, S]
    Q = oracle.values(world, EPISODIC_BEHAVIOUR).action
    claimed = sum(pulled(world, EPISODIC_POLICY, Q[k], visits[k]) for k in range(3))
    assert worst(moments.mean, claimed) <= EXACT
    assert worst(moments.bias) > BIASED


def test_vtrace_as_published_corrects_returns_and_leaves_the_states() -> None:
    """Weights ρ_t, no clip, the true critic: Σ_s d_b(s) Σ_a ∇π(a|s) Q(s, a), on rollouts with resets."""
    algorithm = over_steps(
        partial(advantages.vtrace, discount=0.8, rho_clip=np.inf, c_clip=np.inf), baselines.value(), weight=weights.vtrace(np.inf)
    )
    agent = with_critic(algorithm, ROLLING, continuing(ROLLING, ROLLING_POLICY))
    moments = oracle.moments(algorithm, ROLLING, ROLLING_POLICY, num_trajectories=1, agent=agent, behaviour=ROLLING_BEHAVIOUR)
    visits = oracle.visits(ROLLING, ROLLING_BEHAVIOUR, rows=4).sum(axis=(0, 1)) / 4
    Q = oracle.values(ROLLING.replace(time_limit=None), ROLLING_POLICY).action
    assert worst(moments.mean, pulled(ROLLING, ROLLING_POLICY, Q, visits)) <= EXACT
    assert worst(moments.bias) > BIASED


BIASED_WEIGHTS: dict[str, tuple[Algorithm, int]] = {
    "no weights": (estimator(TO_GO, visit_discount=0.7), 1),
    "truncated": (estimator(TO_GO, weight=weights.truncated(weights.per_decision, 1.2), visit_discount=0.7), 1),
    "self-normalised": (estimator(TOTAL, weight=weights.self_normalised(weights.trajectory)), 2),
    "per-decision without ratios for the return": (
        estimator(TO_GO, weight=lambda *data: weights.per_decision(*data)._replace(ratios=None)),
        1,
    ),
}


@pytest.mark.parametrize(("algorithm", "num_trajectories"), BIASED_WEIGHTS.values(), ids=BIASED_WEIGHTS)
def test_other_weights_are_biased(algorithm: Algorithm, num_trajectories: int) -> None:
    assert worst(of_episodes(algorithm, num_trajectories, discount=0.7, behaviour=EPISODIC_BEHAVIOUR).bias) > BIASED


def test_weights_that_do_not_cut_change_nothing() -> None:
    plain, uncut = (
        of_episodes(estimator(TOTAL, weight=weight), discount=0.7, behaviour=EPISODIC_BEHAVIOUR)
        for weight in (weights.trajectory, weights.truncated(weights.trajectory, np.inf))
    )
    np.testing.assert_allclose(uncut.covariance, plain.covariance, rtol=0, atol=1e-12)


def test_a_policy_that_acts_for_itself_has_weights_of_1() -> None:
    """The same mean and the same covariance, through the weights and without them."""
    plain, weighted = (of_episodes(estimator(TOTAL, weight=weight), discount=0.7) for weight in (weights.on_policy, weights.trajectory))
    np.testing.assert_allclose(weighted.mean, plain.mean, rtol=0, atol=1e-12)
    np.testing.assert_allclose(weighted.covariance, plain.covariance, rtol=0, atol=1e-12)
