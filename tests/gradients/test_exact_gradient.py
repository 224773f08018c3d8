"""The recipes' own gradient, averaged over every trajectory of a tiny MDP, against the exact gradient of the exact objective."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradients.trajectories import (
    MDP,
    Trajectories,
    action_values,
    enumerate_all,
    objective,
    policy_gradient,
    random_mdp,
    softmax,
    true_values,
    visits,
    weighted_return,
)
from policygrad.algorithms import actor_critic, reinforce
from policygrad.policies import table_critic, tabular_softmax
from policygrad.rollout import Collect
from policygrad.spaces import Discrete
from policygrad.types import Agent, Algorithm, Params, Rollout, Spec

EXACT = 1e-10
pytestmark = pytest.mark.usefixtures("x64")

LOGITS = np.random.default_rng(1).normal(size=(3, 2))
PI = softmax(LOGITS)
WORLD = random_mdp(0, states=3, actions=2, outcomes=2, limit=3)
CRITIC = np.random.default_rng(2).normal(size=3)


@lru_cache
def episodes() -> Trajectories:
    made = enumerate_all(WORLD, PI, WORLD.limit)
    assert made.rollout.mask.min() == 0  # some episodes end early: padding is there to be mistaken for steps
    return made


def agent_of(algorithm: Algorithm, logits: np.ndarray, baseline: Any = None) -> Agent:
    """The algorithm's agent with a policy of our own, and with its baseline's state where one is given."""
    agent = algorithm.init(jax.random.key(0), Spec(Discrete(logits.shape[0]), Discrete(logits.shape[1]), num_envs=1))
    agent = agent._replace(params=Params(tabular_softmax(jnp.asarray(logits)), agent.params.critic))
    return agent if baseline is None else agent._replace(baseline=baseline)


def critic_of(values: np.ndarray) -> Any:
    """A table of these values as the state of the baseline `value`."""
    critic = table_critic()(jax.random.key(0), Spec(Discrete(len(values)), Discrete(2), num_envs=1))
    return jax.tree.map(lambda leaf: jnp.asarray(values), critic), ()


def expected_gradient(algorithm: Algorithm, agent: Agent, made: Trajectories, batch: int = 1) -> np.ndarray:
    """E[gradient] over all batches of that many independent trajectories: [S, A]."""
    N = made.probability.size
    chosen = np.array(list(itertools.product(range(N), repeat=batch)))  # [P, batch]
    probability = made.probability[chosen].prod(axis=1)
    batches = jax.tree.map(lambda x: np.moveaxis(x[:, chosen], 1, 0), made.rollout)  # [P, T, batch]

    def one(rollout: Rollout) -> Any:
        return algorithm.gradient(agent, rollout)[0].policy.head.logits

    gradients = np.asarray(jax.jit(jax.vmap(one))(batches))
    assert gradients.std(axis=0).max() > 0.01  # an estimator, not a constant
    return np.tensordot(probability, gradients, 1)


def exact(function: Callable[..., Any], *arguments: Any, logits: np.ndarray = LOGITS) -> np.ndarray:
    """The derivative of a function of the logits."""
    return np.asarray(jax.jit(jax.grad(lambda theta: function(theta, *arguments)))(jnp.asarray(logits)))


def without_discounted_visits(discount: float, final: np.ndarray | None = None, mdp: MDP = WORLD) -> np.ndarray:
    """Σ_t E[∇ log π(a_t|s_t) G_t]: the policy gradient whose γ^t is left out."""
    reached = visits(mdp, PI, mdp.limit).sum(axis=1)
    pairs = zip(reached, action_values(LOGITS, mdp, discount, final), strict=True)
    return sum(policy_gradient(PI, P, np.asarray(Q)) for P, (_, Q) in pairs)


def worst(x: np.ndarray, y: np.ndarray) -> float:
    assert x.shape == y.shape
    return float(np.abs(x - y).max())


def test_the_yardsticks_agree() -> None:
    """Three ways to the same number before anything is measured with them."""
    powers = 0.9 ** np.arange(3)
    rollout, p = episodes()
    brute = p @ (rollout.reward * powers[:, None]).sum(axis=0)
    assert abs(brute - objective(LOGITS, WORLD, 0.9)) < 1e-12
    assert abs(brute - weighted_return(LOGITS, WORLD, powers)) < 1e-12
    assert worst(without_discounted_visits(1.0), exact(objective, WORLD, 1.0)) < 1e-12


@pytest.mark.parametrize("baseline", ["none", "running-mean"])
@pytest.mark.parametrize("credit", ["reward-to-go", "total-return"])
def test_reinforce_is_unbiased_without_discount(baseline: Any, credit: Any) -> None:
    algorithm = reinforce(baseline=baseline, credit=credit, discount=1.0)
    state = jnp.asarray(0.7) if baseline == "running-mean" else None
    got = expected_gradient(algorithm, agent_of(algorithm, LOGITS, state), episodes())
    assert worst(got, exact(objective, WORLD, 1.0)) <= EXACT


def test_the_total_return_is_unbiased_for_the_discounted_objective() -> None:
    algorithm = reinforce(baseline="none", credit="total-return", discount=0.6)
    got = expected_gradient(algorithm, agent_of(algorithm, LOGITS), episodes())
    assert worst(got, exact(objective, WORLD, 0.6)) <= EXACT


def test_the_reward_to_go_leaves_out_the_discount_of_the_visits() -> None:
    """γ^t is dropped, as the docstring says: exact for that formula, and not the discounted objective's gradient."""
    algorithm = reinforce(baseline="none", discount=0.6)
    got = expected_gradient(algorithm, agent_of(algorithm, LOGITS), episodes())
    assert worst(got, without_discounted_visits(0.6)) <= EXACT
    assert worst(got, exact(objective, WORLD, 0.6)) > 0.01


def test_a_value_function_bootstraps_at_the_time_limit_only() -> None:
    """Any critic leaves the gradient of the objective whose truncated episodes are worth V(o') at their end."""
    algorithm = reinforce(baseline="value", discount=0.9)
    got = expected_gradient(algorithm, agent_of(algorithm, LOGITS, critic_of(CRITIC)), episodes())
    assert worst(got, without_discounted_visits(0.9, final=CRITIC)) <= EXACT
    assert worst(got, without_discounted_visits(0.9)) > 0.01


def test_the_entropy_bonus_climbs_the_entropy_of_the_states_visited() -> None:
    """β Σ_t E[∇H(π(·|s_t))], with ∂H/∂θ_b = −π_b (log π_b + H)."""
    plain, bonus = reinforce(baseline="none", discount=1.0), reinforce(baseline="none", discount=1.0, entropy_bonus=0.3)
    got = expected_gradient(bonus, agent_of(bonus, LOGITS), episodes()) - expected_gradient(plain, agent_of(plain, LOGITS), episodes())
    H = -(PI * np.log(PI)).sum(axis=1, keepdims=True)
    reached = visits(WORLD, PI, WORLD.limit).sum(axis=(0, 1))
    assert worst(got, 0.3 * reached[:, None] * -PI * (np.log(PI) + H)) <= EXACT


def test_actor_critic_with_the_true_critic_is_unbiased_through_resets() -> None:
    """(1/T) Σ_t Σ_s P(s_t = s) Σ_a ∇π(a|s) A^π(s, a), for a rollout that goes on where an episode ended."""
    rows, discount = 4, 0.9
    V, Q = true_values(WORLD, PI, discount)
    algorithm = actor_critic(discount=discount, rollout_length=rows)
    made = enumerate_all(WORLD, PI, rows, resets=True)
    got = expected_gradient(algorithm, agent_of(algorithm, LOGITS, critic_of(V)), made)
    reached = visits(WORLD, PI, rows, resets=True)
    np.testing.assert_allclose(reached.sum(axis=(1, 2)), 1, rtol=0, atol=1e-12)
    assert worst(got, policy_gradient(PI, reached.sum(axis=(0, 1)), Q - V[:, None]) / rows) <= EXACT


# ── baselines that look at their own batch ───────────────────────────────────────────────────────────────────────────
#
# Subtracting b = (1/N) Σ_i x_i takes away E[∇ log π(τ_i) x_i]/N = ∇E[x]/N too much, because x_i depends on a_i.

FIXED = random_mdp(3, states=2, actions=2, outcomes=2, limit=2, ending=0.0)  # every episode has two steps
ARM = random_mdp(4, states=1, actions=2, outcomes=2, limit=1)  # … and one step


def batch_gradient(mdp: MDP, logits: np.ndarray, batch: int, **settings: Any) -> np.ndarray:
    algorithm = reinforce(**settings)
    return expected_gradient(algorithm, agent_of(algorithm, logits), enumerate_all(mdp, softmax(logits), mdp.limit), batch)


@pytest.mark.parametrize("batch", [2, 3])
def test_the_mean_of_the_batch_shrinks_the_gradient_by_one_nth(batch: int) -> None:
    """One step an episode: E = (1 − 1/N) ∇J, to the last digit."""
    true = exact(objective, ARM, 1.0, logits=LOGITS[:1])
    assert worst(batch_gradient(ARM, LOGITS[:1], batch, baseline="mean", discount=1.0), (1 - 1 / batch) * true) <= EXACT


def test_with_total_returns_the_mean_of_the_batch_shrinks_it_likewise() -> None:
    """Episodes of equal length: again E = (1 − 1/N) ∇J, here of the discounted objective."""
    true = exact(objective, FIXED, 0.8, logits=LOGITS[:2])
    got = batch_gradient(FIXED, LOGITS[:2], 2, baseline="mean", credit="total-return", discount=0.8)
    assert worst(got, true / 2) <= EXACT


def test_with_rewards_to_go_the_mean_of_the_batch_takes_away_the_gradient_of_its_own_mean() -> None:
    """E = ∇J − ∇E[Σ_t G_t] / (T N): a bias of order 1/N, in another direction than ∇J's. γ = 1, T = 2, N = 2."""
    true = exact(objective, FIXED, 1.0, logits=LOGITS[:2])
    own = exact(weighted_return, FIXED, np.array([1.0, 2.0]), logits=LOGITS[:2])  # Σ_t G_t = r_0 + 2 r_1
    got = batch_gradient(FIXED, LOGITS[:2], 2, baseline="mean", discount=1.0)
    assert worst(got, true - own / 4) <= EXACT
    assert worst(got, true) > 0.01


@pytest.mark.parametrize("batch", [1, 2])
def test_the_mean_of_the_episode_has_a_bias_that_more_episodes_do_not_shrink(batch: int) -> None:
    """E = ∇J − ∇E[Σ_t G_t] / T for every N: its order is 1/T, not 1/N."""
    true = exact(objective, FIXED, 1.0, logits=LOGITS[:2])
    own = exact(weighted_return, FIXED, np.array([1.0, 2.0]), logits=LOGITS[:2])
    assert worst(batch_gradient(FIXED, LOGITS[:2], batch, baseline="episode-mean", discount=1.0), true - own / 2) <= EXACT


# ── planted bugs ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _valid_steps(self: Any, rollout: Rollout) -> Any:
    return jnp.sum(rollout.mask)


def _rows_times_columns(self: Any, rollout: Rollout) -> Any:
    return rollout.mask.size


@pytest.mark.parametrize("divisor", [_valid_steps, _rows_times_columns])
def test_another_divisor_is_seen(divisor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dividing by the number of valid steps is a bias that no constant factor repairs."""
    monkeypatch.setattr(Collect, "normaliser", divisor)
    algorithm = reinforce(baseline="none", discount=1.0)
    got = expected_gradient(algorithm, agent_of(algorithm, LOGITS), episodes())
    true = exact(objective, WORLD, 1.0)
    assert worst(got, true) > 0.01
    if divisor is _valid_steps:
        assert np.ptp(got / true) > 0.01


def test_a_baseline_that_is_moved_before_it_is_used_is_seen() -> None:
    """A common listing's G − (b + rate (G − b)) scales the gradient by 1 − rate."""
    algorithm = reinforce(baseline="running-mean", discount=1.0, baseline_rate=0.25)
    agent = agent_of(algorithm, LOGITS[:1], jnp.asarray(0.7))
    made = enumerate_all(ARM, softmax(LOGITS[:1]), 1)

    def moved_first(rollout: Rollout) -> Any:
        moved, _ = algorithm.update(jax.random.key(0), agent, rollout)
        return algorithm.gradient(agent._replace(baseline=moved.baseline), rollout)[0].policy.head.logits

    gradients = jax.jit(jax.vmap(moved_first))(jax.tree.map(lambda x: x.T[..., None], made.rollout))
    got = np.tensordot(made.probability, np.asarray(gradients), 1)
    assert worst(got, 0.75 * exact(objective, ARM, 1.0, logits=LOGITS[:1])) <= EXACT
