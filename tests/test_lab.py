"""The laboratory against its own pieces, one at a time, and the page that prints its numbers."""

from __future__ import annotations

import importlib.util
import json
import math
from functools import partial
from itertools import product
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.image import imread

from policygrad import actor_critic, advantages, baselines, lab, oracle
from policygrad.cli.output import to_json
from policygrad.envs import finite_world
from policygrad.errors import UnknownNameError, UsageError
from policygrad.report.comparison import comparison
from zoo import random_mdp

ROOT = Path(__file__).resolve().parents[1]
BIASED = {
    "total return × γ^t",
    "reward-to-go",
    *(f"{kind}, same-batch" for kind in ("mean", "episode mean", "time mean", "state mean", "optimal per parameter")),
    "table V(o), blind to the clock",
    *(f"{name}, half of V(t, o)" for name in ("TD", "2-step", "GAE, λ = 0.95")),
    "normalised returns",
    "normalised, minus leave-one-out mean",
    "no weights, as if on-policy",
    "per step, first order",
    *(f"{weight}, {change}" for weight in ("whole trajectory", "per decision") for change in ("truncated at 1", "self-normalised")),
}
"""By design; of the importance weights V-trace as well."""


@pytest.fixture(scope="module")
def table():
    """The default comparison, once."""
    return lab.compare(finite_world("fork"))


@pytest.fixture(scope="module")
def page():
    """docs/generate.py, as a module."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pick(mdp, *names):
    found = {estimator.name: estimator for estimator in lab.estimators(mdp.discount)}
    return [found[name] for name in names]


# ---------------------------------------------------------------- the default comparison


def test_who_is_unbiased(table):
    measured = [row for row in table if not row.note]
    wrong = {(row.group, row.name) for row in measured if not row.unbiased}
    assert wrong == {(row.group, row.name) for row in table if row.name in BIASED} | {("importance weights", "V-trace, exact V(t, o)")}
    assert all(row.relative_bias > 0.01 for row in measured if not row.unbiased)
    assert all(row.bias < 1e-10 for row in measured if row.unbiased)
    assert [row.name for row in table if row.note] == ["least squares, same-batch"]


def test_what_is_known_of_the_order(table):
    by_name = {(row.group, row.name): row for row in table}
    plain = by_name["credit", "total return"]
    assert plain.relative_variance == 1
    assert by_name["credit", "reward-to-go × γ^t"].variance < plain.variance
    assert by_name["value functions", "V = 0"].variance == pytest.approx(by_name["credit", "reward-to-go × γ^t"].variance, rel=1e-12)
    assert by_name["bootstrapping", "TD, exact V(t, o)"].variance < by_name["value functions", "exact V(t, o)"].variance
    assert by_name["importance weights", "per decision"].variance < by_name["importance weights", "whole trajectory"].variance
    never = {row.name for row in table if row.trajectories == math.inf}
    assert never <= BIASED
    assert {row.group for row in table} == set(lab.GROUPS)


def test_the_page_says_what_is_computed(table, page):
    written = page.written("bias").splitlines()[2:]
    assert written == [page.bias_row(row) for row in table]


def test_the_page_about_v_and_q(table, page):
    assert page.written("values") == page.value_table()
    exact = page.advantage_variances(finite_world("fork"), np.inf)
    by_name = {row.name: row for row in table if row.group in ("value functions", "bootstrapping")}
    assert exact["G − V̂"] == pytest.approx(2 * by_name["exact V(t, o)"].variance, rel=1e-12)
    assert exact["r + γ V̂(s′) − V̂(s)"] == pytest.approx(2 * by_name["TD, exact V(t, o)"].variance, rel=1e-12)


def test_the_page_about_the_discounted_gradient(page):
    mdp = finite_world("fork")
    policy = lab.default_policy(mdp)
    with_it, without = (page.asymmetry(mdp, policy, visits) for visits in (True, False))
    row = next(line for line in page.written("discount").splitlines() if line.startswith("| 3 | 0.9 |"))
    assert with_it < 1e-12
    assert row.endswith(f"| 0 | {without:.3g} |")
    assert f"| {next(r.relative_bias for r in lab.compare(mdp, selection=pick(mdp, 'reward-to-go'))):.1%} |" in row


# ---------------------------------------------------------------- together as one by one


def test_estimators_measured_together_are_those_measured_alone(x64):
    mdp = random_mdp(0, 3, 2, outcomes=2, terminals=1, time_limit=2, aliased=True)
    chosen = pick(mdp, "total return", "mean, leave-one-out", "TD, half of V(t, o)", "optimal per parameter, same-batch", "per decision")
    rows = lab.compare(mdp, selection=chosen)
    policy = lab.default_policy(mdp)
    gradient = np.asarray(oracle.flatten(oracle.policy_gradient(mdp, policy)))
    half = lab.exact_values(mdp, policy) / 2
    for estimator, row in zip(chosen, rows, strict=True):
        agent = None
        if "half" in estimator.name:
            agent = estimator.algorithm.init(jax.random.key(0), lab.Spec(mdp.observation_space, mdp.action_space, 2, 2))
            agent = agent._replace(baseline=(lab.StepTable(jnp.asarray(half)), agent.baseline[1]))
        behaviour = lab.uniform_policy(mdp) if estimator.off_policy else None
        alone = oracle.moments(estimator.algorithm, mdp, policy, num_trajectories=2, agent=agent, behaviour=behaviour)
        assert row.bias == pytest.approx(np.linalg.norm(alone.mean - gradient), abs=1e-12)
        np.testing.assert_allclose(row.moments.covariance, alone.covariance, atol=1e-12)
        assert row.trajectories == pytest.approx(alone.trajectories_for_cosine(0.9), rel=1e-9)
        assert jax.tree.structure(row.moments.unflatten(row.moments.mean)) == jax.tree.structure(policy)


def test_a_previous_batch_is_averaged_over_all_that_it_could_be(x64):
    """Var[ĝ] = E_b[Var(x − b g)] / N is a parabola in b, and b is the mean return of every pair of previous episodes."""
    mdp = finite_world("fork", time_limit=2)
    policy = lab.default_policy(mdp)
    (row,) = lab.compare(mdp, selection=pick(mdp, "mean, previous-batch"))
    fixed = lab._algorithm(mdp.discount, partial(advantages.reward_to_go, discount=mdp.discount), baselines.running_mean())
    agent = fixed.init(jax.random.key(0), lab.Spec(mdp.observation_space, mdp.action_space, 1, 2))
    at = [oracle.moments(fixed, mdp, policy, num_trajectories=1, agent=agent._replace(baseline=np.float64(b))).variance for b in (0, 1, 2)]
    parabola = np.polynomial.Polynomial.fit([0, 1, 2], at, 2)
    every = oracle.enumerate_trajectories(mdp, policy, horizon=2)
    reward, mask = every.rollout.reward, every.rollout.mask
    returns = (reward[0] + mdp.discount * reward[1]) * mask[0] + reward[1] * mask[1]
    expected = 0.0
    for i, j in product(range(len(every.probability)), repeat=2):
        b = (returns[i] + returns[j]) / (mask[:, i].sum() + mask[:, j].sum())
        expected += every.probability[i] * every.probability[j] * parabola(b) / 2
    assert row.variance == pytest.approx(expected, rel=1e-12)
    assert row.unbiased


def test_a_planted_bug_in_a_critic_shows(monkeypatch):
    right = lab.exact_values
    monkeypatch.setitem(lab.CRITICS, "exact V(t, o)", lambda mdp, policy: np.roll(right(mdp, policy), 1, axis=0))
    mdp = finite_world("fork", time_limit=2)
    (row,) = lab.compare(mdp, selection=pick(mdp, "TD, exact V(t, o)"))
    assert not row.unbiased


def test_what_critics_know():
    mdp = random_mdp(1, 4, 2, outcomes=2, terminals=1, time_limit=3, aliased=True)
    policy = lab.default_policy(mdp)
    every = oracle.enumerate_trajectories(mdp, policy, horizon=3)
    rollout, p = every.rollout, every.probability
    to_go = np.zeros(rollout.mask.shape)
    after = 0.0
    for t in (2, 1, 0):
        to_go[t] = after = rollout.mask[t] * (rollout.reward[t] + mdp.discount * after)
    seen, blind = lab.exact_values(mdp, policy), lab.blind_values(mdp, policy)
    for o in range(mdp.num_observations):
        here = (rollout.obs == o) & (rollout.mask > 0)
        for t in range(3):
            if here[t].any():
                assert seen[t, o] == pytest.approx(np.average(to_go[t], weights=p * here[t]), abs=1e-12)
        if here.any():
            assert blind[0, o] == pytest.approx((to_go * here * p).sum() / (here * p).sum(), abs=1e-12)
    assert (seen[3] == 0).all()
    assert (blind == blind[0]).all()


# ---------------------------------------------------------------- what does not fit


def test_an_estimator_that_does_not_apply_says_why():
    mdp = finite_world("rare-reward")
    alone, whole = lab.compare(mdp, num_trajectories=1, selection=pick(mdp, "mean, leave-one-out", "total return"))
    assert "leave-one-out" in alone.note
    assert alone.moments is None
    assert math.isnan(alone.variance)
    assert whole.note == ""
    assert whole.unbiased


@pytest.mark.parametrize(
    ("name", "sizes", "message"),
    [
        ("fork", {"num_trajectories": 4}, "horizon: got 3 steps of fork with num_trajectories 4; the largest that fits is 2"),
        ("two-state", {}, "horizon: got none for two-state, which has no time limit; give the steps of an episode, e.g. 3"),
        ("fork", {"num_trajectories": 0}, "num_trajectories: got 0; it must be a whole number of at least 1"),
        ("fork", {"horizon": True}, "horizon: got True; it must be a whole number of at least 1"),
    ],
)
def test_bad_input(name, sizes, message):
    with pytest.raises(UsageError) as caught:
        lab.compare(finite_world(name), **sizes)
    assert str(caught.value) == message


def test_an_algorithm_that_collects_steps_is_refused():
    mdp = finite_world("fork")
    with pytest.raises(UsageError, match="'online', which collects steps; it must collect whole episodes"):
        lab.compare(mdp, selection=[lab.Estimator("mine", "online", actor_critic())])


def test_worlds_by_name():
    assert lab.world("fork").name == "fork"
    assert lab.world("FrozenLake-v1").num_states >= 16
    with pytest.raises(UnknownNameError, match="did you mean fork"):
        lab.world("frok")
    with pytest.raises(UsageError, match="no tables"):
        lab.world("CartPole-v1")


# ---------------------------------------------------------------- record and picture


def test_record_and_picture(table, tmp_path):
    mdp = finite_world("fork")
    result = lab.report(mdp, table)
    assert json.loads(to_json(result))["mdp"] == {
        "name": "fork", "states": 3, "observations": 3, "actions": 2, "discount": 0.9, "horizon": 3,
    }  # fmt: skip
    assert (result["num_trajectories"], result["batches"]) == (2, result["sequences"] ** 2)
    assert result["objective"] == pytest.approx(float(oracle.objective(mdp, lab.default_policy(mdp))))
    np.testing.assert_allclose(result["policy"], [[1 / 3, 2 / 3], [2 / 3, 1 / 3]])
    assert len(result["estimators"]) == len(table)
    image = imread(comparison(result["estimators"], tmp_path / "made" / "it.png", "title", "subtitle"))
    assert image.shape[0] > image.shape[1] > 1000
    assert image[..., :3].std() > 0.05
