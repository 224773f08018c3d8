"""Importance weights: against plain loops, and exactly, over every trajectory of a tiny MDP under another policy."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradients.trajectories import (
    Trajectories,
    action_values,
    enumerate_all,
    objective,
    policy_gradient,
    random_mdp,
    softmax,
    visits,
)
from policygrad import advantages, baselines
from policygrad.algorithms import compose
from policygrad.ascent import gradient_ascent
from policygrad.errors import UsageError
from policygrad.gradients import (
    WEIGHTS,
    LogWeight,
    effective_sample_size,
    on_policy,
    per_decision,
    per_step,
    score_function,
    self_normalised,
    trajectory,
    truncated,
    vtrace,
    weights,
)
from policygrad.gradients.weights import Logarithms
from policygrad.policies import table, table_critic, tabular_softmax
from policygrad.rollout import episodes
from policygrad.spaces import Discrete
from policygrad.types import Algorithm, Params, Rollout, Spec

EXACT = 1e-10


def rollout_of(time: Any, mask: Any) -> Rollout:
    mask = np.asarray(mask)
    return Rollout(*[mask] * 8, time=np.asarray(time, np.int32), carry=(), extras={})


# ── against plain loops ──────────────────────────────────────────────────────────────────────────────────────────────

T, B = 9, 4
ALL: dict[str, Any] = {
    "on_policy": on_policy,
    "per_step": per_step,
    "per_decision": per_decision,
    "trajectory": trajectory,
    "vtrace": vtrace(0.8),
    "truncated": truncated(per_decision, 1.3),
    "normalised product": self_normalised(per_decision),
    "normalised trajectory": self_normalised(trajectory),
    "normalised, then truncated": truncated(self_normalised(trajectory), 1.3),
}


def drawn(seed: int, whole: bool) -> tuple[np.ndarray, Rollout]:
    """Log-ratios, and a rollout of whole episodes with padding, or of pieces: some begin before it, some rows only reset."""
    rng = np.random.default_rng(seed)
    mask, time = np.zeros((T, B)), np.zeros((T, B), np.int32)
    for column in range(B):
        clock = 0 if whole else int(rng.integers(0, 3))
        for row in range(T):
            resets = row > 0 and clock == 0 and rng.random() < 0.3
            if resets:
                continue
            mask[row, column], time[row, column] = 1, clock
            clock = 0 if rng.random() < 0.3 else clock + 1
            if whole and clock == 0:
                break
    return rng.normal(size=(T, B)) * mask, rollout_of(time, mask)


def by_loops(log_ratios: np.ndarray, rollout: Rollout) -> dict[str, np.ndarray]:
    """Weights and ratios of the names in ALL; only rows of mask 1 are meant."""
    ratios, mask, time = np.exp(log_ratios), np.asarray(rollout.mask), np.asarray(rollout.time)
    product, whole = np.ones((T, B)), np.ones((T, B))
    for column in range(B):
        for row in range(T):
            before = product[row - 1, column] if row and time[row, column] else 1.0
            product[row, column] = before * ratios[row, column]
        for row in range(T):
            end = next((k for k in range(row + 1, T) if time[k, column] == 0), T)
            whole[row, column] = product[end - 1, column]

    def normalised(values: np.ndarray) -> np.ndarray:
        last, result = np.ones(B), np.zeros((T, B))
        for row in range(T):
            last = np.where(mask[row] > 0, values[row], last)
            result[row] = last / last.mean()
        return result

    return {
        "on_policy": np.ones((T, B)),
        "per_step": ratios,
        "per_decision": product,
        "trajectory": whole,
        "vtrace": np.minimum(ratios, 0.8),
        "truncated": np.minimum(product, 1.3),
        "normalised product": normalised(product),
        "normalised trajectory": normalised(whole),
        "normalised, then truncated": np.minimum(normalised(whole), 1.3),
    }


@jax.jit
@jax.vmap
def all_weights(log_ratios: Any, rollout: Rollout) -> Any:
    return {name: weight(log_ratios, rollout) for name, weight in ALL.items()}


@pytest.mark.usefixtures("x64")
def test_weights_agree_with_plain_loops() -> None:
    """200 rollouts: whole episodes, and pieces of them. Products restart where an episode does."""
    examples = [drawn(seed, whole=seed % 2 == 0) for seed in range(200)]
    log_ratios, rollouts = jax.tree.map(lambda *leaves: np.stack(leaves), *examples)
    got = jax.tree.map(np.asarray, all_weights(log_ratios, rollouts))
    restarts = 0
    for i, (logs, rollout) in enumerate(examples):
        valid = rollout.mask > 0
        restarts += int(((rollout.time[1:] == 0) & valid[1:]).sum())
        for name, expected in by_loops(logs, rollout).items():
            np.testing.assert_allclose(got[name].weights[i][valid], expected[valid], rtol=1e-12, err_msg=name)
    assert restarts > 50
    for name, limit in (("per_decision", math.inf), ("vtrace", math.inf), ("truncated", 1.3), ("normalised product", math.inf)):
        np.testing.assert_allclose(got[name].ratios, np.minimum(np.exp(log_ratios), limit), rtol=1e-12)
    assert all(got[name].ratios is None for name in ("on_policy", "per_step", "trajectory", "normalised trajectory"))
    # Where the policies are equal, every weight is 1.
    for name, (weight, ratios) in all_weights(np.zeros_like(log_ratios), rollouts).items():
        np.testing.assert_array_equal(np.asarray(weight), np.full_like(log_ratios, 0.8 if name == "vtrace" else 1), err_msg=name)
        assert ratios is None or (np.asarray(ratios) == 1).all()


def test_on_policy_data_weighs_one_whatever_the_ratios() -> None:
    mask = jnp.asarray(np.array([[1, 1], [1, 0]], np.float32))
    rollout = Rollout(*[mask] * 9, carry=(), extras={})
    for ratios in (jnp.zeros((2, 2)), jnp.full((2, 2), 3.0), jnp.full((2, 2), jnp.nan)):
        weights, handed = on_policy(ratios, rollout)
        assert handed is None
        assert weights.dtype == mask.dtype
        np.testing.assert_array_equal(np.asarray(weights), np.ones((2, 2)))


# ── numbers ──────────────────────────────────────────────────────────────────────────────────────────────────────────

LONG = 2000
MADE = {
    "per-decision": per_decision,
    "trajectory": trajectory,
    "normalised": self_normalised(trajectory),
    "cut": truncated(trajectory, 10.0),
}


@jax.jit
def long_weights(log_ratios: Any, rollout: Rollout) -> Any:
    return {name: weight(log_ratios, rollout) for name, weight in MADE.items()}


def test_long_products_stay_finite_in_float32() -> None:
    """2,000 steps of ratio 1.05 (e^98), 0.95 (e^−103), 1.0001: as sums of logarithms, which are cut at e^40."""
    steps = np.log(np.array([1.05, 0.95, 1.0001])).astype(np.float32)
    rollout = rollout_of(np.tile(np.arange(LONG)[:, None], (1, 3)), np.ones((LONG, 3), np.float32))
    got = long_weights(np.broadcast_to(steps, (LONG, 3)), rollout)
    for weight, _ in got.values():
        assert weight.dtype == np.float32
        assert np.isfinite(weight).all()
        assert np.isfinite(np.asarray(weight) ** 2).all()
    product = np.asarray(got["per-decision"].weights)
    np.testing.assert_allclose(product[:800], np.exp(np.arange(1, 801)[:, None] * steps.astype(float)), rtol=1e-3)
    np.testing.assert_allclose(product[-1, 0], np.exp(40), rtol=1e-6)
    assert product[-1, 1] < 1e-40
    np.testing.assert_allclose(product[-1, 2], 1.0001**2000, rtol=1e-3)
    np.testing.assert_allclose(got["cut"].weights[0], [10, 0, 1.0001**2000], rtol=1e-3, atol=1e-30)


def test_self_normalisation_sees_differences_below_the_smallest_number() -> None:
    """All three products underflow in float32; their quotients do not."""
    steps = np.array([-0.1, -0.1 + math.log(2) / LONG, -0.1 + math.log(5) / LONG], np.float32)
    rollout = rollout_of(np.tile(np.arange(LONG)[:, None], (1, 3)), np.ones((LONG, 3), np.float32))
    got = long_weights(np.broadcast_to(steps, (LONG, 3)), rollout)
    assert (np.asarray(got["trajectory"].weights) == 0).all()
    np.testing.assert_allclose(got["normalised"].weights[0], 3 * np.array([1, 2, 5]) / 8, rtol=1e-2)


def test_impossible_actions_weigh_nothing_and_unknown_ones_are_told() -> None:
    """−∞: π never takes it. +∞ and NaN: nobody can have taken it. Each spoils its own episode and no other."""
    logs = np.full((LONG, 3), 0.0, np.float32)
    logs[1] = [-np.inf, np.inf, np.nan]
    time = np.tile((np.arange(LONG) % 4)[:, None], (1, 3))
    got = jax.tree.map(np.asarray, long_weights(logs, rollout_of(time, np.ones((LONG, 3), np.float32))))
    for column, expected in enumerate([0.0, np.nan, np.nan]):
        np.testing.assert_array_equal(got["per-decision"].weights[:6, column], [1, expected, expected, expected, 1, 1])
        np.testing.assert_array_equal(got["trajectory"].weights[:6, column], [expected] * 4 + [1, 1])
        np.testing.assert_array_equal(got["cut"].weights[:6, column], [expected] * 4 + [1, 1])
        np.testing.assert_array_equal(got["per-decision"].ratios[:6, column], [1, expected, 1, 1, 1, 1])
    assert np.isnan(got["normalised"].weights[:4]).all()
    never = long_weights(np.full((LONG, 3), -np.inf, np.float32), rollout_of(time, np.ones((LONG, 3), np.float32)))
    assert all((np.asarray(weights) == 0).all() for weights, _ in never.values())


def test_the_effective_sample_size_is_its_formula() -> None:
    share = jax.jit(effective_sample_size)
    mask = np.ones((5, 1), np.float32)

    def of(*values: float, mask: np.ndarray = mask) -> float:
        return float(share(np.array(values, np.float32)[:, None], mask))

    assert of(3, 3, 3, 3, 3) == pytest.approx(1)
    assert of(0, 0, 7, 0, 0) == pytest.approx(1 / 5)
    assert of(1, 2, 3, 4, 5) == pytest.approx(15**2 / (5 * 55))
    assert of(1e17, 2e17, 3e17, 4e17, 5e17) == pytest.approx(15**2 / (5 * 55))
    assert of(1e-30, 2e-30, 3e-30, 4e-30, 5e-30) == pytest.approx(15**2 / (5 * 55))
    assert of(0, 0, 0, 0, 0) == 0
    assert of(1, 2, 9, 9, 9, mask=np.array([[1], [1], [0], [0], [0]], np.float32)) == pytest.approx(9 / 10)


# ── exactly: E_b[gradient] over every trajectory ─────────────────────────────────────────────────────────────────────

WORLD = random_mdp(0, states=3, actions=2, outcomes=2, limit=3)
LOGITS = np.random.default_rng(1).normal(size=(3, 2))
AWAY = np.random.default_rng(5).normal(size=(3, 2))
CRITIC = np.random.default_rng(2).normal(size=3)
GAMMA = 0.8
PI, OTHER = softmax(LOGITS), softmax(LOGITS + AWAY)


def composed(advantage: Callable[..., Any], weight: Any, baseline: str = "none") -> Algorithm:
    """With γ^t in the gradient, so that what it estimates is ∇J; the total return has it already."""
    return compose(
        "exact",
        {},
        collect=episodes(),
        policy=table(),
        advantage=partial(advantage, discount=GAMMA),
        baseline=baselines.value(table_critic()) if baseline == "value" else baselines.none(),
        ascent=gradient_ascent(score_function(), learning_rate=0.1),
        weight=weight,
        visit_discount=1.0 if advantage is advantages.total_return else GAMMA,
    )


@lru_cache
def under(distance: float) -> Trajectories:
    """Every episode of WORLD, with its probability under the policy that is so far away from π."""
    return enumerate_all(WORLD, softmax(LOGITS + distance * AWAY), WORLD.limit)


def expectation(algorithm: Algorithm, changed: Callable[[Any], Algorithm] | None = None) -> Callable[..., np.ndarray]:
    """distance -> E[gradient at π] of episodes of a behaviour policy at that distance, [S, A]; compiled once for all of them.

    Args:
        changed: the algorithm with a number in it, which the function then takes as well.
    """
    agent = algorithm.init(jax.random.key(0), Spec(Discrete(3), Discrete(2), num_envs=1))
    agent = agent._replace(params=Params(tabular_softmax(jnp.asarray(LOGITS)), agent.params.critic))
    if agent.baseline:
        critic, moments = agent.baseline
        agent = agent._replace(baseline=(jax.tree.map(lambda leaf: jnp.asarray(CRITIC), critic), moments))

    @jax.jit
    @partial(jax.vmap, in_axes=(0, None))
    def one(rollout: Rollout, number: Any) -> Any:
        made = changed(number) if changed else algorithm
        return made.gradient(agent, rollout)[0].policy.head.logits

    def expected(distance: float, number: float = 0.0) -> np.ndarray:
        rollout, probability = under(distance)
        columns = jax.tree.map(lambda leaf: np.moveaxis(leaf, 1, 0)[:, :, None], rollout)
        return np.tensordot(probability, np.asarray(one(columns, number)), 1)

    return expected


@lru_cache
def true_gradient() -> np.ndarray:
    return np.asarray(jax.jit(jax.grad(lambda theta: objective(theta, WORLD, GAMMA)))(jnp.asarray(LOGITS)))


def surrogate_gradient(distance: float, returns_of: np.ndarray) -> np.ndarray:
    """Σ_t γ^t Σ_s P_b(s_t = s) Σ_a ∇π(a|s) Q_t(s, a): states as b visits them, Q of the policy with these logits."""
    reached = visits(WORLD, softmax(LOGITS + distance * AWAY), WORLD.limit).sum(axis=1)
    values = action_values(returns_of, WORLD, GAMMA)
    return sum(GAMMA**t * policy_gradient(PI, P, np.asarray(Q)) for t, (P, (_, Q)) in enumerate(zip(reached, values, strict=True)))


def worst(x: np.ndarray, y: np.ndarray) -> float:
    assert x.shape == y.shape
    return float(np.abs(x - y).max())


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("advantage", "weight"),
    [(advantages.reward_to_go, per_decision), (advantages.reward_to_go, trajectory), (advantages.total_return, trajectory)],
    ids=["per-decision", "trajectory", "trajectory, total return"],
)
def test_products_are_unbiased(advantage: Callable[..., Any], weight: Any) -> None:
    """E_b[gradient] = ∇J(π), for b = π and for two others."""
    expected = expectation(composed(advantage, weight))
    for distance in (0.0, 1.0, -0.7):
        assert worst(expected(distance), true_gradient()) <= EXACT


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("advantage", "weight"),
    [
        (partial(advantages.gae, trace=0.7), per_decision),
        (partial(advantages.n_step, n=2), per_decision),
        (advantages.td, per_decision),
        (partial(advantages.gae, trace=0.7), trajectory),
    ],
    ids=["gae", "n-step", "td", "trajectory, gae"],
)
def test_products_change_no_expectation_with_an_arbitrary_critic(advantage: Callable[..., Any], weight: Any) -> None:
    """What bootstraps is biased, and exactly as it is on π's own data, where every weight is 1."""
    expected = expectation(composed(advantage, weight, "value"))
    for distance in (1.0, -0.7):
        assert worst(expected(distance), expected(0.0)) <= EXACT


@pytest.mark.usefixtures("x64")
def test_the_first_order_weight_takes_states_and_returns_from_the_behaviour_policy() -> None:
    """Exactly its formula; its bias grows with the distance, and is of first order in it."""
    expected = expectation(composed(advantages.reward_to_go, per_step))
    biases = []
    for distance in (0.01, 0.1, 0.5, 1.0):
        assert worst(expected(distance), surrogate_gradient(distance, LOGITS + distance * AWAY)) <= EXACT
        biases.append(worst(expected(distance), true_gradient()))
    np.testing.assert_allclose(biases, [0.00011, 0.00107, 0.00506, 0.00913], rtol=0, atol=1e-5)
    assert worst(expected(0.0), true_gradient()) <= EXACT


@pytest.mark.usefixtures("x64")
def test_an_unclipped_vtrace_weight_takes_only_states_from_the_behaviour_policy() -> None:
    expected = expectation(composed(advantages.reward_to_go, vtrace(math.inf)))
    assert worst(expected(1.0), surrogate_gradient(1.0, LOGITS)) <= EXACT
    assert worst(expected(1.0), true_gradient()) > 5e-3


@pytest.mark.usefixtures("x64")
def test_a_limit_biases_and_an_infinite_one_does_not() -> None:
    def limited(limit: Any) -> Algorithm:
        return composed(advantages.reward_to_go, truncated(trajectory, limit))

    expected = expectation(limited(1.0), limited)
    biases = [worst(expected(1.0, limit), true_gradient()) for limit in (0.7, 1.2, 2.0, math.inf)]
    np.testing.assert_allclose(biases, [0.06076, 0.02595, 0.00208, 0], rtol=0, atol=1e-5)
    assert biases[-1] <= EXACT


def test_an_infinite_limit_changes_no_bit() -> None:
    plain = (per_step, per_decision, trajectory)
    both = jax.jit(lambda logs, rollout: [(weight(logs, rollout), truncated(weight, math.inf)(logs, rollout)) for weight in plain])
    for ours, theirs in both(*drawn(3, whole=False)):
        for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("mutant", ["always one", "one step late"])
def test_planted_mistakes_are_seen(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package's own product, replaced: the expectation above is another."""
    right = weights._sum_so_far

    def wrong(log_ratios: Any, rollout: Rollout) -> Any:
        if mutant == "always one":
            return jnp.zeros_like(log_ratios)
        sums = right(log_ratios, rollout)
        return jnp.where(rollout.time == 0, 0, jnp.concatenate([jnp.zeros_like(sums[:1]), sums[:-1]]))

    monkeypatch.setattr(weights, "_sum_so_far", wrong)
    assert worst(expectation(composed(advantages.reward_to_go, per_decision))(1.0), true_gradient()) > 5e-3


# ── misuse, and weights of one's own ─────────────────────────────────────────────────────────────────────────────────


def test_names() -> None:
    assert {"none": on_policy, "per-step": per_step, "per-decision": per_decision, "trajectory": trajectory} == WEIGHTS
    for weight in WEIGHTS.values():
        assert "w" in (weight.__doc__ or "")


def test_a_weight_of_ones_own() -> None:
    @LogWeight
    def tempered(log_ratios: Any, rollout: Rollout) -> Logarithms:
        """√ρ."""
        return Logarithms(log_ratios / 2)

    logs, rollout = np.log(np.array([[4.0, 9.0]])), rollout_of([[0, 0]], np.ones((1, 2)))
    plain, normalised = jax.jit(lambda *data: (tempered(*data).weights, self_normalised(tempered)(*data).weights))(logs, rollout)
    np.testing.assert_allclose(plain, [[2, 3]], rtol=1e-6)
    np.testing.assert_allclose(normalised, [[0.8, 1.2]], rtol=1e-6)
    assert tempered.__doc__ == "√ρ."


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: truncated(per_step, 0.0), r"^limit: got 0\.0; it must be a number above 0 \(infinity: no limit\)$"),
        (lambda: truncated(per_step, math.nan), r"^limit: got nan; it must be a number above 0"),
        (lambda: truncated(per_step, "2"), r"^limit: got '2'; it must be"),  # pyright: ignore[reportArgumentType]
        (lambda: vtrace(-1.0), r"^rho_clip: got -1\.0; it must be a number above 0"),
        (lambda: truncated(on_policy, 2.0), r"^weight: got on_policy to be truncated, whose weights are all 1; it must be[^\n]*$"),
        (lambda: self_normalised(on_policy), r"^weight: got on_policy to be self-normalised, [^\n]*$"),
        (lambda: self_normalised(lambda logs, rollout: on_policy(logs, rollout)), r"made by LogWeight$"),
    ],
)
def test_misuse_is_one_clear_line(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()
