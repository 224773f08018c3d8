"""The exact moments of an estimator: what is enumerated, what comes out of it, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policygrad import oracle
from policygrad.algorithms import actor_critic, reinforce
from policygrad.envs import FiniteMDP
from policygrad.errors import SpaceError, UsageError
from policygrad.oracle import Moments
from policygrad.policies import tabular_softmax
from policygrad.rollout import compiled_collector, episodes, steps
from policygrad.types import Rollout, Spec
from zoo import random_mdp

EXACT = 1e-10
WORLD = random_mdp(5, 4, 2, outcomes=2, terminals=1, time_limit=3, discount=0.8, aliased=True)
POLICY = tabular_softmax(np.random.default_rng(1).normal(size=(3, 2)))
PLAIN = reinforce(baseline="none", discount=0.8)
MIXING = reinforce(baseline="mean", discount=0.8)  # every column's estimate depends on the other's
ONLINE = actor_critic(discount=0.8, rollout_length=4)


@pytest.fixture(scope="module")
def plain() -> Moments:
    return oracle.moments(PLAIN, WORLD, POLICY, num_trajectories=1)


@pytest.fixture(scope="module")
def pairs() -> Moments:
    return oracle.moments(PLAIN, WORLD, POLICY, num_trajectories=2)


# ── what is enumerated ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("resets", [False, True])
def test_the_probabilities_sum_to_1_and_the_rewards_to_the_objective(resets: bool) -> None:
    rows = 5 if resets else 3
    rollout, probability = oracle.enumerate_trajectories(WORLD, POLICY, horizon=rows, resets=resets)
    assert abs(probability.sum() - 1) <= 1e-12
    assert probability.min() > 0
    assert rollout.reward.dtype == np.float64
    seen = oracle.visits(WORLD, POLICY, rows=rows, resets=resets)  # [T, K, S]: whether the same steps are seen as often
    at = (rollout.time[..., None] == np.arange(3)) * rollout.mask[..., None]
    np.testing.assert_allclose(np.einsum("n,tnk->tk", probability, at), seen.sum(axis=2), rtol=0, atol=1e-12)
    if not resets:
        returns = (0.8**rollout.time * rollout.reward).sum(axis=0)
        assert abs(probability @ returns - oracle.objective(WORLD, POLICY)) <= 1e-12


def float64(policy: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), policy)


def columns_of(rollout: Rollout, *fields: str) -> list[bytes]:
    """Everything that stands in a column, as bytes."""
    leaves = [np.asarray(getattr(rollout, field)) for field in fields]
    return [b"|".join(leaf[:, column].tobytes() for leaf in leaves) for column in range(leaves[0].shape[1])]


@pytest.mark.parametrize("collect", [episodes(2000), steps(4)], ids=["episodes", "steps"])
def test_what_the_collector_records_is_what_is_enumerated(collect: Any, x64: None) -> None:
    """Every column sampled stands among those enumerated, bit for bit, and as often as its probability says."""
    made = oracle.enumerate_trajectories(WORLD, POLICY, horizon=4, resets=collect.kind == "steps")
    collector = compiled_collector(WORLD, collect, 2000)
    policy = float64(POLICY)
    start = jax.jit(collector.init)(jax.random.key(1))
    _, sampled, _ = jax.jit(collector.collect)(policy, jax.random.key(2), start)
    fields = [field for field in Rollout._fields if field not in ("carry", "critic_carry", "extras", "log_prob", "distribution")]
    for field in (*fields, "log_prob"):
        assert getattr(made.rollout, field).dtype == getattr(sampled, field).dtype, field
        assert getattr(made.rollout, field).shape[0] == getattr(sampled, field).shape[0], field
    known: dict[bytes, int] = {}
    places = np.array([known.setdefault(column, place) for place, column in enumerate(columns_of(made.rollout, *fields))])
    found = np.array([known[column] for column in columns_of(sampled, *fields)])
    # The compiler may round a logarithm in two ways, by the shape of the array that it is taken of.
    np.testing.assert_allclose(made.rollout.log_prob[:, found], sampled.log_prob, rtol=1e-15, atol=0)
    expected = 2000 * np.bincount(places, made.probability)
    common = expected > 5
    z = (np.bincount(found, minlength=len(expected)) - expected)[common] / np.sqrt(expected[common])
    assert common.sum() > 20
    assert np.abs(z).max() < 4


def test_a_behaviour_stands_in_the_record_and_not_the_policy(x64: None) -> None:
    logits = np.zeros((3, 2))
    rollout, probability = oracle.enumerate_trajectories(WORLD, tabular_softmax(logits), horizon=3)
    np.testing.assert_allclose(rollout.log_prob, rollout.mask * np.log(0.5), rtol=0, atol=1e-15)
    assert abs(probability.sum() - 1) <= 1e-12


# ── what comes out ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_covariance_is_symmetric_and_has_no_negative_direction(plain: Moments) -> None:
    np.testing.assert_array_equal(plain.covariance, plain.covariance.T)
    assert np.linalg.eigvalsh(plain.covariance).min() >= -1e-14
    assert plain.variance > 0.01


def test_two_independent_trajectories_halve_the_covariance(plain: Moments, pairs: Moments) -> None:
    np.testing.assert_allclose(pairs.mean, plain.mean, rtol=0, atol=1e-12)
    np.testing.assert_allclose(pairs.covariance, plain.covariance / 2, rtol=0, atol=1e-12)
    assert pairs.batches == pairs.sequences**2


def test_the_moments_are_those_of_a_plain_sum_over_batches(x64: None) -> None:
    """A second program for the same numbers, with an estimator that mixes its columns."""
    world = WORLD.replace(time_limit=2)
    got = oracle.moments(MIXING, world, POLICY, num_trajectories=2)
    rollout, probability = oracle.enumerate_trajectories(world, POLICY, horizon=2)
    agent = MIXING.init(jax.random.key(0), Spec(world.observation_space, world.action_space, 2))
    agent = agent._replace(params=agent.params._replace(policy=float64(POLICY)))
    first, second = (index.ravel() for index in np.indices((probability.size,) * 2))
    batches = jax.tree.map(lambda x: jnp.asarray(np.stack([x[:, first], x[:, second]], axis=-1).swapaxes(0, 1)), rollout)
    g = np.asarray(jax.jit(jax.vmap(lambda batch: MIXING.gradient(agent, batch)[0].policy.head.logits.ravel()))(batches))
    p = probability[first] * probability[second]
    np.testing.assert_allclose(got.mean, p @ g, rtol=0, atol=1e-12)
    np.testing.assert_allclose(got.covariance, (g - p @ g).T @ (p[:, None] * (g - p @ g)), rtol=0, atol=1e-12)


def test_samples_agree_with_the_exact_moments(plain: Moments, x64: None) -> None:
    """20,000 episodes of the product's collector: each coordinate of the mean within 4 standard errors, the variance within 5 %."""
    number = 20_000
    collector = compiled_collector(WORLD, episodes(number), number)
    agent = PLAIN.init(jax.random.key(0), Spec(WORLD.observation_space, WORLD.action_space, number))
    agent = agent._replace(params=agent.params._replace(policy=float64(POLICY)))

    def sample(key: Any) -> Any:
        _, rollout, _ = collector.collect(agent.params.policy, key, ())
        return PLAIN.contributions(agent, rollout).policy.head.logits.reshape(number, -1) * number

    g = np.asarray(jax.jit(sample)(jax.random.key(3)))
    error = np.sqrt(np.diag(plain.covariance) / number)
    assert (np.abs(g.mean(axis=0) - plain.mean) <= 4 * error).all()
    np.testing.assert_allclose(np.trace(np.cov(g.T)), plain.variance, rtol=0.05)


def test_the_figures_follow_from_mean_covariance_and_target(plain: Moments) -> None:
    m, g, trace = plain.mean, plain.target, np.trace(plain.covariance)
    np.testing.assert_allclose(g, oracle.policy_gradient(WORLD, POLICY).head.logits.ravel(), rtol=0, atol=1e-15)
    np.testing.assert_array_equal(plain.bias, m - g)
    assert plain.variance == trace
    assert plain.signal_to_noise == pytest.approx(m @ m / trace)
    assert plain.mean_square_error == pytest.approx(trace + (m - g) @ (m - g))
    assert plain.cosine == pytest.approx(m @ g / np.sqrt(m @ m * (g @ g)))
    assert plain.cosine < 1 - 1e-6  # γ^t is left out
    N = plain.trajectories_for_cosine(0.9)
    assert m @ g / np.sqrt(g @ g * (m @ m + trace / N)) == pytest.approx(0.9)
    assert plain.trajectories_for_cosine((1 + plain.cosine) / 2) == math.inf
    assert plain.unflatten(m).head.logits.shape == (3, 2)
    np.testing.assert_array_equal(plain.unflatten(m).head.logits.ravel(), m)
    assert repr(plain).startswith(f"Moments({plain.batches} batches of 1 out of {plain.sequences} trajectories: |bias| 0.")


def test_as_many_trajectories_are_needed_whatever_the_batch(plain: Moments, pairs: Moments) -> None:
    assert pairs.trajectories_for_cosine() == pytest.approx(plain.trajectories_for_cosine())


def test_a_target_and_an_agent_of_the_callers_own(plain: Moments) -> None:
    gradient = oracle.policy_gradient(WORLD, POLICY, discount_visits=False)
    moments = oracle.moments(PLAIN, WORLD, POLICY, num_trajectories=1, target=gradient)
    assert np.abs(moments.bias).max() <= EXACT
    np.testing.assert_allclose(moments.mean, plain.mean, rtol=0, atol=1e-12)
    algorithm = reinforce(baseline="running-mean", discount=0.8)
    agent = algorithm.init(jax.random.key(0), Spec(WORLD.observation_space, WORLD.action_space, 1))
    other = oracle.moments(algorithm, WORLD, POLICY, num_trajectories=1, agent=agent._replace(baseline=np.float32(3.0)))
    np.testing.assert_allclose(other.mean, plain.mean, rtol=0, atol=EXACT)
    assert other.variance > plain.variance + 1


def test_a_horizon_below_the_time_limit_is_the_time_limit(plain: Moments) -> None:
    short = oracle.moments(PLAIN, WORLD, POLICY, num_trajectories=1, horizon=2)
    np.testing.assert_allclose(short.target, oracle.policy_gradient(WORLD.replace(time_limit=2), POLICY).head.logits.ravel(), atol=1e-15)
    assert short.sequences < plain.sequences
    long = oracle.moments(PLAIN, WORLD, POLICY, num_trajectories=1, horizon=9)
    np.testing.assert_array_equal(long.mean, plain.mean)


def test_the_global_precision_is_left_alone(plain: Moments) -> None:
    assert plain.mean.dtype == np.float64
    assert jax.numpy.zeros(1).dtype == np.float32


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────────────────────

ENDLESS = random_mdp(0, 3, 2)


def test_the_number_of_trajectories_is_known_before_they_are_made() -> None:
    """The refusal's number is the enumeration's, with resets and without."""
    for resets in (False, True):
        for world in (WORLD, WORLD.replace(time_limit=None), WORLD.replace(initial=[0, 1, 0, 0], time_limit=2)):
            made = oracle.enumerate_trajectories(world, POLICY, horizon=4, resets=resets)
            with pytest.raises(UsageError, match=f"batches out of {made.probability.size:,} trajectories"):
                oracle.moments(ONLINE if resets else PLAIN, world, POLICY, num_trajectories=40, horizon=4)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (
            {"num_trajectories": 2, "horizon": 20},
            "moments: got num_trajectories 2 and horizon 20, 1.2e+32 batches out of 1.1e+16 trajectories;"
            " the largest that fits is horizon 4 with num_trajectories 2",
        ),
        (
            {"num_trajectories": 9, "horizon": 2},
            "moments: got num_trajectories 9 and horizon 2, 2e+18 batches out of 108 trajectories;"
            " the largest that fits is num_trajectories 3 with horizon 2",
        ),
        (
            {"num_trajectories": 10**6, "horizon": 10**6},
            "moments: got num_trajectories 1000000 and horizon 1000000, over 1e+308 batches out of over ",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_the_largest_that_does(size: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as error:
        oracle.moments(PLAIN, ENDLESS, tabular_softmax(np.zeros((3, 2))), **size)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_trajectories": 0}, "num_trajectories: got 0; it must be a whole number of at least 1"),
        ({"num_trajectories": True}, "num_trajectories: got True"),
        ({"horizon": 1.5}, "horizon: got 1.5; it must be a whole number"),
        ({"mdp": ENDLESS}, "horizon: got None for an MDP without time limit; give the steps of the longest episode"),
        ({"policy": tabular_softmax(np.zeros((5, 2)))}, "the policy is for other observations than random-5"),
        ({"behaviour": tabular_softmax(np.zeros((3, 4)))}, "the policy is for other actions than random-5"),
        (
            {"behaviour": tabular_softmax(np.array([[0, 0], [-np.inf, 0], [0, 0]]))},
            "behaviour: got probability 0 for action 0 at observation 1, which the policy takes with probability",
        ),
        ({"target": np.zeros(5)}, "target: got 5 numbers for a policy of 6 parameters"),
    ],
)
def test_bad_input_is_refused_in_one_line(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"mdp": WORLD, "policy": POLICY, "num_trajectories": 1} | change
    with pytest.raises((UsageError, SpaceError)) as error:
        oracle.moments(PLAIN, arguments.pop("mdp"), arguments.pop("policy"), **arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_environment_without_tables_is_refused() -> None:
    with pytest.raises(UsageError, match="exact answers need a FiniteMDP"):
        oracle.enumerate_trajectories("CartPole-v1", POLICY, horizon=2)  # type: ignore[arg-type]


def test_an_action_that_both_policies_avoid_may_be_left_out() -> None:
    """Probability 0 under the policy as well: no such trajectory is enumerated."""
    avoid = tabular_softmax(np.array([[0, 0], [-np.inf, 0], [0, 0]]))
    one = FiniteMDP(transitions=np.ones((1, 2, 1)), rewards=np.ones((1, 2)), initial=[1], discount=1, time_limit=2)
    assert oracle.enumerate_trajectories(one, tabular_softmax(np.array([[-np.inf, 0]])), horizon=2).probability.tolist() == [1.0]
    moments = oracle.moments(PLAIN, WORLD, avoid, num_trajectories=1, behaviour=avoid)
    assert np.isfinite(moments.mean).all()


def test_a_cosine_out_of_range_is_refused(plain: Moments) -> None:
    with pytest.raises(UsageError, match=r"cosine: got 1\.5; it must lie between 0 and 1"):
        plain.trajectories_for_cosine(1.5)
