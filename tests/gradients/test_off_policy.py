"""The off-policy estimate of J, exactly: its expectation over every episode of a tiny MDP under another policy."""

from __future__ import annotations

import itertools
import math
import warnings
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradients.trajectories import Trajectories, enumerate_all, objective, random_mdp, softmax
from policygrad.errors import UsageError
from policygrad.gradients import (
    OffPolicyValue,
    off_policy_value,
    on_policy,
    per_decision,
    per_step,
    self_normalised,
    trajectory,
    truncated,
    vtrace,
)
from policygrad.gradients.off_policy import estimate
from policygrad.policies import tabular_softmax
from policygrad.types import Rollout

EXACT = 1e-10
GAMMA = 0.8
WORLD = random_mdp(2, states=2, actions=2, outcomes=2, limit=2, ending=0.3)
LOGITS = np.random.default_rng(1).normal(size=(2, 2))
OTHERS = LOGITS + np.random.default_rng(6).normal(size=(2, 2))  # of the behaviour policy


@lru_cache
def made() -> Trajectories:
    """Every episode of the behaviour policy."""
    return enumerate_all(WORLD, softmax(OTHERS), WORLD.limit)


@lru_cache
def value_of(of: str) -> float:
    return float(objective(LOGITS if of == "π" else OTHERS, WORLD, GAMMA))


def policy() -> Any:
    return tabular_softmax(jnp.asarray(LOGITS))


def expected(weight: Any) -> float:
    """E_b[Ĵ] for weights of one column at a time: Ĵ is a mean over columns, so rewards N·P(τ) r give Σ_τ P(τ) x_τ."""
    rollout, p = made()
    return off_policy_value(policy(), rollout._replace(reward=rollout.reward * p * len(p)), discount=GAMMA, weight=weight).value


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("weight", [trajectory, per_decision, truncated(per_decision, math.inf)], ids=["trajectory", "per-decision", "∞"])
def test_products_are_unbiased(weight: Any) -> None:
    assert abs(expected(weight) - value_of("π")) <= EXACT
    assert abs(value_of("π") - value_of("b")) > 0.05


@pytest.mark.usefixtures("x64")
def test_other_weights_are_biased() -> None:
    """Exact biases. Without weights it is the behaviour policy's own value."""
    assert abs(expected(on_policy) - value_of("b")) <= EXACT
    weights = per_step, vtrace(1.0), truncated(per_decision, 1.1), truncated(per_decision, 2.0), truncated(trajectory, 2.0)
    biases = [expected(weight) - value_of("π") for weight in weights]
    np.testing.assert_allclose(biases, [0.01746, -0.32407, -0.30374, -0.16558, -0.40583], rtol=0, atol=1e-5)


@lru_cache
def numbers() -> tuple[np.ndarray, Rollout]:
    """log π − log b of every episode, and the episodes."""
    rollout, _ = made()
    log_ratios = np.log(softmax(LOGITS))[rollout.obs, rollout.action] - rollout.log_prob
    return log_ratios * rollout.mask, rollout._replace(carry=())


def in_batches(weight: Any, chosen: np.ndarray, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`estimate` of every batch of episodes, their numbers in `chosen` [P, N]."""
    log_ratios, rollout = numbers()
    rollout = rollout._replace(reward=rollout.reward + shift * rollout.mask)
    batches = jax.tree.map(lambda leaf: np.moveaxis(leaf[:, chosen], 1, 0), (log_ratios, rollout))
    value, terms, share = jax.vmap(lambda logs, rollout: estimate(weight, logs, rollout, jnp.asarray(GAMMA)))(*batches)
    return np.asarray(value), np.asarray(terms), np.asarray(share)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("inner", [trajectory, per_decision], ids=["trajectory", "per-decision"])
def test_self_normalised_weights_are_biased_and_consistent(inner: Any) -> None:
    """A single episode weighs 1, whatever it is; three are less biased than two, and a thousand hardly."""
    p = made().probability
    weight = self_normalised(inner)
    biases = []
    for count in (1, 2, 3):
        chosen = np.array(list(itertools.product(range(len(p)), repeat=count)))
        biases.append(p[chosen].prod(axis=1) @ in_batches(weight, chosen)[0] - value_of("π"))
    assert abs(biases[0] - (value_of("b") - value_of("π"))) <= EXACT
    assert abs(biases[0]) > abs(biases[1]) > abs(biases[2]) > 1e-3

    values, _ = told_and_true(weight)
    assert abs(values.mean() - value_of("π")) < 5 * values.std() / math.sqrt(len(values))


def told_and_true(weight: Any, shift: float = 0.0) -> tuple[np.ndarray, float]:
    """Estimates from 400 batches of 1,000 episodes, rewards shifted; the standard error that is told over the one that is true."""
    p = made().probability
    values, terms, _ = in_batches(weight, np.random.default_rng(0).choice(len(p), (400, 1000), p=p), shift)
    return values, float(np.sqrt(np.mean(terms.var(axis=1, ddof=1) / 1000)) / values.std())


@pytest.mark.usefixtures("x64")
def test_the_standard_error_of_a_ratio_is_that_of_a_ratio() -> None:
    """Rewards far from 0, which a ratio does not mind; where it is taken for a mean, they are in the standard error."""
    tolerance = 5 / math.sqrt(2 * 400)
    weight = self_normalised(trajectory)
    assert abs(told_and_true(weight, shift=5.0)[1] - 1) < tolerance
    assert abs(told_and_true(trajectory, shift=5.0)[1] - 1) < tolerance
    taken_for_a_mean = truncated(weight, math.inf)
    assert told_and_true(taken_for_a_mean, shift=5.0)[1] > 1 + 2 * tolerance


@pytest.mark.usefixtures("x64")
def test_what_is_told_of_plain_weights() -> None:
    """Value, standard error and effective sample size against NumPy."""
    logs, rollout = numbers()
    got = off_policy_value(policy(), rollout, discount=GAMMA, weight=trajectory)
    weights = np.exp(logs.sum(axis=0))
    returns = weights * (GAMMA ** np.arange(2) @ rollout.reward)
    share = (weights * rollout.mask).sum() ** 2 / rollout.mask.sum() / (weights**2 * rollout.mask).sum()
    assert got.value == pytest.approx(returns.mean(), abs=EXACT)
    assert got.standard_error == pytest.approx(returns.std(ddof=1) / math.sqrt(len(returns)), abs=EXACT)
    assert got.effective_sample_size == pytest.approx(share, abs=EXACT)
    assert got.num_trajectories == len(returns)
    assert str(got) == (
        f"value {returns.mean():.4g} ± {got.standard_error:.2g}  (standard error; {len(returns)} episodes,"
        f" effective sample size {share:.1%})"
    )
    one = off_policy_value(policy(), jax.tree.map(lambda leaf: leaf[:, :1], rollout), discount=GAMMA)
    assert math.isnan(one.standard_error)


def test_a_policys_own_episodes_are_their_mean_return_in_float32() -> None:
    rng = np.random.default_rng(0)
    obs, lengths = rng.integers(0, 2, (300, 5)), np.array([300, 1, 20, 299, 300])
    rows = np.arange(300)[:, None]
    mask = (rows < lengths).astype(np.float32)
    own = tabular_softmax(LOGITS.astype(np.float32))
    action = rng.integers(0, 2, (300, 5))
    log_prob, reward = np.asarray(own(obs).log_prob(action)) * mask, rng.normal(size=(300, 5)).astype(np.float32) * mask
    ended = rows == lengths - 1
    rollout = Rollout(obs, action, log_prob, reward, ended, ended, obs, mask, rows * mask.astype(np.int32), (), {"cost": reward})
    for weight in (per_decision, self_normalised(trajectory)):
        got = off_policy_value(own, rollout, discount=0.99, weight=weight)
        assert got.value == pytest.approx((0.99**rows * reward.astype(float)).sum(axis=0).mean(), rel=1e-4)
        assert got.effective_sample_size == pytest.approx(1, abs=1e-6)


def test_few_effective_episodes_are_warned_about() -> None:
    """Weights of almost nothing but for one episode's."""
    rollout, _ = made()
    with pytest.warns(UserWarning, match=r"^off_policy_value: the importance weights leave \d\.\d\d% of \d+ episodes' steps[^\n]*$"):
        got = off_policy_value(tabular_softmax([[40.0, 0.0], [0.0, 40.0]]), rollout_with_one_likely(rollout), discount=1.0)
    assert isinstance(got, OffPolicyValue)
    assert got.effective_sample_size < 0.1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        off_policy_value(tabular_softmax(LOGITS), rollout, discount=1.0)


def rollout_with_one_likely(rollout: Rollout) -> Rollout:
    """Actions that the policy above hardly takes, but in the first column."""
    action = np.where(np.arange(rollout.mask.shape[1]) == 0, rollout.obs, 1 - rollout.obs)
    return rollout._replace(action=action.astype(np.int32))


def changed(name: str, value: Any, row: int = 1, column: int = 2) -> Rollout:
    rollout, _ = made()
    array = getattr(rollout, name).copy()
    array[row, column] = value
    return rollout._replace(**{name: array})


@pytest.mark.parametrize(
    ("rollout", "message"),
    [
        (lambda: changed("log_prob", -np.inf), r"^rollout: the behaviour log-probability at step 1 of column 2: got -inf; it must be"),
        (lambda: changed("log_prob", np.nan), r"^rollout: the behaviour log-probability at step 1 of column 2: got nan; it must be"),
        (lambda: changed("reward", np.inf), r"^rollout: the reward at step 1 of column 2: got inf; it must be finite$"),
        (lambda: changed("action", 7), r"^policy: the rollout's actions: got some that are no integers of Discrete"),
        (lambda: changed("time", 3), r"^rollout: column 2 is not one whole episode, from time 0 to its end; record it with episodes\(N\)"),
        (lambda: changed("mask", 0.0, row=0), r"^rollout: column 2 is not one whole episode"),
        (lambda: changed("truncated", False), r"^rollout: column 2 is not one whole episode"),
        (lambda: enumerate_all(WORLD, softmax(OTHERS), 3, resets=True).rollout, r"^rollout: column 0 is not one whole episode"),
    ],
    ids=["impossible", "unknown", "reward", "action", "time", "hole", "unfinished", "steps"],
)
def test_what_cannot_be_weighed_is_one_clear_line(rollout: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        off_policy_value(tabular_softmax(LOGITS), rollout(), discount=GAMMA)


def test_padding_may_hold_anything() -> None:
    """Only valid steps are looked at."""
    rollout, _ = made()
    column = int(np.flatnonzero(rollout.mask[1] == 0)[0])
    spoiled = changed("log_prob", -np.inf, column=column)
    expected = off_policy_value(tabular_softmax(LOGITS), rollout, discount=GAMMA)
    assert off_policy_value(tabular_softmax(LOGITS), spoiled, discount=GAMMA) == expected


@pytest.mark.parametrize("discount", [-0.1, 1.5, math.nan, True, None])
def test_a_discount_out_of_range(discount: Any) -> None:
    with pytest.raises(UsageError, match=r"^discount: got [^\n]*; it must be a number in \[0, 1\]$"):
        off_policy_value(tabular_softmax(LOGITS), made().rollout, discount=discount)
