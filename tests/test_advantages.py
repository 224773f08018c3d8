"""Ψ against its definition written out, and its expectation over every trajectory of a tiny MDP against exact numbers."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import exact_advantages as exact
from exact_advantages import BEHAVIOUR, CASES, PI, RATIOS, WORLD, Case
from gradients.trajectories import action_values, enumerate_all, objective, policy_gradient, true_values, visits
from policygrad import advantages
from policygrad.advantages import discounted_sum, gae, lambda_returns, n_step, reward_to_go, td, total_return, vtrace
from policygrad.errors import UsageError

EXACT = 1e-10
GAMMA, LAMBDA, N, RHO_CLIP, C_CLIP = 0.9, 0.7, 3, 1.2, 0.8

Arrays = dict[str, np.ndarray]
Pair = tuple[Any, Any]

# ── the definitions, as sums ─────────────────────────────────────────────────────────────────────────────────────────


def returns_by_definition(x: Arrays, discount: float, n: int = 10**6) -> np.ndarray:
    """G_t of at most n steps, each from its own sum over the steps that follow; what those led to is weighted by their ratios."""
    T, B = x["rewards"].shape
    G = np.zeros((T, B))
    for t, b in np.ndindex(T, B):
        product = 1.0
        for k in range(t, T):
            product *= x["ratios"][k, b] if k > t else 1.0
            G[t, b] += discount ** (k - t) * product * x["rewards"][k, b]
            if x["terminated"][k, b]:
                break
            if x["truncated"][k, b] or k == T - 1 or k - t + 1 == n:
                G[t, b] += discount ** (k - t + 1) * product * x["next_values"][k, b]
                break
    return G


def errors_by_definition(x: Arrays, discount: float) -> np.ndarray:
    """δ_t."""
    after = np.where(x["terminated"], 0, x["next_values"])
    return x["rewards"] + discount * after - x["values"]


def gae_by_definition(x: Arrays, discount: float, trace: float) -> np.ndarray:
    """Â_t, each from its own sum of δ."""
    delta = errors_by_definition(x, discount)
    T, B = delta.shape
    A = np.zeros((T, B))
    for t, b in np.ndindex(T, B):
        product = 1.0
        for k in range(t, T):
            product *= x["ratios"][k, b] if k > t else 1.0
            A[t, b] += (discount * trace) ** (k - t) * product * delta[k, b]
            if x["terminated"][k, b] or x["truncated"][k, b]:
                break
    return A


def vtrace_by_definition(x: Arrays, discount: float, trace: float, rho_clip: float, c_clip: float) -> tuple[np.ndarray, np.ndarray]:
    """(Ψ_t, v_t) with v_t = V_t + Σ_k γ^{k−t} (Π_{t≤i<k} λ c̄_i) ρ̄_k δ_k."""
    delta = errors_by_definition(x, discount)
    T, B = delta.shape
    added = np.zeros((T + 1, B))
    psi = np.zeros((T, B))
    for t, b in np.ndindex(T, B):
        product = 1.0
        for k in range(t, T):
            added[t, b] += discount ** (k - t) * product * min(rho_clip, x["ratios"][k, b]) * delta[k, b]
            product *= trace * min(c_clip, x["ratios"][k, b])
            if x["terminated"][k, b] or x["truncated"][k, b]:
                break
    for t, b in np.ndindex(T, B):
        ended = x["terminated"][t, b] or x["truncated"][t, b]
        v_after = 0.0 if x["terminated"][t, b] else x["next_values"][t, b] + (0.0 if ended else added[t + 1, b])
        psi[t, b] = x["rewards"][t, b] + discount * v_after - x["values"][t, b]
    return psi, x["values"] + added[:T]


def totals_by_definition(x: Arrays, discount: float) -> np.ndarray:
    """R(τ): G of the first row of the episode (or of the rollout) that a step belongs to."""
    G = returns_by_definition(x, discount)
    T, B = G.shape
    R = np.zeros((T, B))
    for b in range(B):
        first = 0
        for t in range(T):
            R[t, b] = G[first, b]
            if x["terminated"][t, b] or x["truncated"][t, b]:
                first = t + 1
    return R


def random_data(seed: int, T: int, B: int, ending: float = 0.25) -> Arrays:
    """Steps that terminate, are truncated, both at once, and neither."""
    rng = np.random.default_rng(seed)
    return {
        "rewards": rng.normal(size=(T, B)),
        "values": rng.normal(size=(T, B)),
        "next_values": rng.normal(size=(T, B)),
        "terminated": rng.random((T, B)) < ending,
        "truncated": rng.random((T, B)) < ending,
        "ratios": np.exp(rng.normal(size=(T, B))),
    }


def all_of(
    x: Arrays, discount: Any, trace: Any, n: Any, rho_clip: Any, c_clip: Any
) -> dict[str, Pair]:  # one program for everything: compiling is what these tests would wait for
    """(Ψ, targets) of every estimator, and of those that take ratios with them too."""
    ratios = x["ratios"]
    five = tuple(x[name] for name in ("rewards", "values", "next_values", "terminated", "truncated"))
    clips = {"rho_clip": rho_clip, "c_clip": c_clip}
    return {
        "total_return": total_return(*five, discount=discount),
        "reward_to_go": reward_to_go(*five, discount=discount),
        "reward_to_go, ratios": reward_to_go(*five, discount=discount, ratios=ratios),
        "td": td(*five, discount=discount),
        "td, ratios": td(*five, discount=discount, ratios=ratios),
        "n_step": n_step(*five, discount=discount, n=n),
        "n_step, ratios": n_step(*five, discount=discount, n=n, ratios=ratios),
        "gae": gae(*five, discount=discount, trace=trace),
        "gae, ratios": gae(*five, discount=discount, trace=trace, ratios=ratios),
        "vtrace": vtrace(*five, discount=discount, trace=trace, **clips),
        "vtrace, ratios": vtrace(*five, discount=discount, trace=trace, ratios=ratios, **clips),
    }


NAMES = sorted(jax.eval_shape(all_of, random_data(0, 1, 1), GAMMA, LAMBDA, N, RHO_CLIP, C_CLIP))
traced = jax.jit(all_of)


def evaluate(
    x: Arrays, discount: float = GAMMA, trace: float = LAMBDA, n: int = N, rho_clip: float = RHO_CLIP, c_clip: float = C_CLIP
) -> dict[str, Pair]:
    """The same through one jitted program a shape, in which all the numbers are traced."""
    return traced(x, discount, trace, n, rho_clip, c_clip)


def by_definition(x: Arrays, discount: float, trace: float, n: int, rho_clip: float, c_clip: float) -> dict[str, Pair]:
    """The same from the sums."""
    V, plain = x["values"], {**x, "ratios": np.ones_like(x["ratios"])}
    found: dict[str, Pair] = {"total_return": (totals_by_definition(x | plain, discount) - V, returns_by_definition(plain, discount))}
    for suffix, data in (("", plain), (", ratios", x)):
        psis = {
            "reward_to_go": returns_by_definition(data, discount) - V,
            "td": errors_by_definition(data, discount),
            "n_step": returns_by_definition(data, discount, n) - V,
            "gae": gae_by_definition(data, discount, trace),
        }
        found |= {name + suffix: (psi, V + data["ratios"] * psi) for name, psi in psis.items()}
        found["vtrace" + suffix] = vtrace_by_definition(data, discount, trace, rho_clip, c_clip)
    return found


def same(got: Any, expected: Any, tolerance: float = EXACT) -> None:
    assert np.shape(got) == np.shape(expected)
    expected = np.asarray(expected)
    np.testing.assert_allclose(np.asarray(got), expected, rtol=0, atol=tolerance * max(1.0, float(np.abs(expected).max())))


def pairs_same(got: Pair, expected: Pair) -> None:
    for ours, theirs in zip(got, expected, strict=True):
        same(ours, theirs)


SHAPES = [(1, 1), (3, 2), (9, 4), (17, 3)]  # on both sides of the scan's unrolling by 8


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_each_estimator_is_its_definition(shape: tuple[int, int]) -> None:
    x = random_data(shape[0], *shape)
    if shape[0] > 8:  # the four kinds of steps are all there
        assert {(a, b) for a, b in zip(x["terminated"].flat, x["truncated"].flat, strict=True)} == {(a, b) for a in (0, 1) for b in (0, 1)}
    got, expected = evaluate(x), by_definition(x, GAMMA, LAMBDA, N, RHO_CLIP, C_CLIP)
    assert sorted(got) == sorted(expected) == NAMES
    for name in NAMES:
        pairs_same(got[name], expected[name])


SHARES = st.sampled_from([0.0, 0.3, 0.95, 1.0]) | st.floats(0, 1)
CLIPS = st.sampled_from([0.5, 1.0, 2.0, float("inf")])


@pytest.mark.usefixtures("x64")
@given(
    shape=st.sampled_from(SHAPES[:3]),
    seed=st.integers(0, 2**32 - 1),
    ending=st.sampled_from([0.0, 0.2, 0.6, 1.0]),
    discount=SHARES,
    trace=SHARES,
    n=st.integers(1, 11),
    clips=st.tuples(CLIPS, CLIPS),
)
def test_definitions_hold_for_any_flags_and_settings(
    shape: tuple[int, int], seed: int, ending: float, discount: float, trace: float, n: int, clips: tuple[float, float]
) -> None:
    x = random_data(seed, *shape, ending=ending)
    got, expected = evaluate(x, discount, trace, n, *clips), by_definition(x, discount, trace, n, *clips)
    for name in NAMES:
        pairs_same(got[name], expected[name])


@pytest.mark.usefixtures("x64")
@given(seed=st.integers(0, 2**32 - 1), ending=st.sampled_from([0.0, 0.2, 0.6]), discount=SHARES, trace=SHARES, n=st.integers(9, 11))
def test_the_estimators_meet_where_they_should(seed: int, ending: float, discount: float, trace: float, n: int) -> None:
    T, B = SHAPES[2]
    x = random_data(seed, T, B, ending=ending)
    # V(o_{t+1}) is the next row's V(o_t) within an episode.
    ended = (x["terminated"] | x["truncated"])[:-1]
    x["next_values"][:-1] = np.where(ended, x["next_values"][:-1], x["values"][1:])
    infinity = float("inf")
    lowest = evaluate(x, discount, 0.0, 1, infinity, infinity)
    highest = evaluate(x, discount, 1.0, n, infinity, infinity)
    between = evaluate(x, discount, trace, n, infinity, infinity)
    default = evaluate(x | {"ratios": np.ones((T, B))}, discount, trace, n, 1.0, 1.0)

    pairs_same(lowest["gae"], lowest["td"])  # λ = 0
    pairs_same(lowest["gae, ratios"], lowest["td, ratios"])
    pairs_same(lowest["n_step"], lowest["td"])  # n = 1
    pairs_same(lowest["n_step, ratios"], lowest["td, ratios"])
    pairs_same(highest["gae"], highest["reward_to_go"])  # λ = 1: Monte Carlo minus V
    pairs_same(highest["n_step"], highest["reward_to_go"])  # n ≥ T
    pairs_same(highest["n_step, ratios"], highest["reward_to_go, ratios"])
    pairs_same(highest["vtrace"], highest["gae"])
    pairs_same(highest["vtrace, ratios"], highest["gae, ratios"])  # no clip, λ = 1
    same(between["vtrace, ratios"][1], between["gae, ratios"][1])  # no clip, any λ: the targets
    same(default["vtrace, ratios"][1], default["gae"][1])  # ratios 1, clips 1, any λ
    for name in ("reward_to_go", "td", "n_step", "gae", "vtrace"):
        pairs_same(default[f"{name}, ratios"], default[name])


@pytest.mark.usefixtures("x64")
def test_lambda_returns_are_the_mixture_of_all_n_step_returns() -> None:
    """(1 − λ) Σ_{n<T} λ^{n−1} G^(n) + λ^{T−1} G^(T), and the targets of GAE with or without ratios."""
    x = random_data(8, 9, 4)
    ended = (x["terminated"] | x["truncated"])[:-1]
    x["next_values"][:-1] = np.where(ended, x["next_values"][:-1], x["values"][1:])
    ratios = x.pop("ratios")
    returns = [returns_by_definition({**x, "ratios": np.ones((9, 4))}, GAMMA, n) for n in range(1, 10)]
    mixed = (1 - LAMBDA) * sum(LAMBDA**i * G for i, G in enumerate(returns[:-1])) + LAMBDA**8 * returns[-1]
    same(lambda_returns(**x, discount=GAMMA, trace=LAMBDA), mixed)
    same(lambda_returns(**x, discount=GAMMA, trace=LAMBDA, ratios=ratios), evaluate(x | {"ratios": ratios})["gae, ratios"][1])


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("flag", ["terminated", "truncated"])
def test_nothing_leaks_over_the_end_of_an_episode(flag: str) -> None:
    """What comes after an end does not reach what came before it, to the last bit; a column does not reach its neighbour."""
    x = random_data(5, 9, 4, ending=0.0)
    x[flag][3] = True
    before = evaluate(x, n=7)
    for key in ("rewards", "values", "next_values"):
        x[key][4:] += 1e6
        x[key][:, 1] += 1e6
    x["ratios"][4] = np.inf  # the next episode may begin with what the behaviour policy all but never did
    x["ratios"][:, 1] = np.inf
    after = evaluate(x, n=7)
    for name in NAMES:
        for ours, others in zip(after[name], before[name], strict=True):
            np.testing.assert_array_equal(np.asarray(ours)[:4, [0, 2, 3]], np.asarray(others)[:4, [0, 2, 3]])


@pytest.mark.usefixtures("x64")
def test_what_follows_counts_unless_the_task_terminated() -> None:
    """dΨ/dV(o') of the one step of an episode: γ if it was truncated or the rollout stopped there, 0 if it terminated."""
    for terminated, truncated, weight in ((0, 0, GAMMA), (0, 1, GAMMA), (1, 0, 0.0), (1, 1, 0.0)):
        x = {
            "rewards": np.array([[2.0]]),
            "values": np.array([[0.5]]),
            "next_values": np.array([[10.0]]),
            "terminated": np.array([[bool(terminated)]]),
            "truncated": np.array([[bool(truncated)]]),
            "ratios": np.array([[0.5]]),
        }
        got = evaluate(x, rho_clip=1.0)
        for name in NAMES:
            psi = 2.0 + weight * 10.0 - 0.5
            pairs_same(got[name], ([[psi]], [[0.5 + (0.5 if "ratios" in name else 1.0) * psi]]))


@pytest.mark.usefixtures("x64")
def test_the_total_return_is_the_same_at_every_step_of_an_episode() -> None:
    x = random_data(3, 17, 3)
    x["values"][:] = 0
    totals = np.asarray(evaluate(x)["total_return"][0])
    G = returns_by_definition({**x, "ratios": np.ones((17, 3))}, GAMMA)
    ended = x["terminated"] | x["truncated"]
    assert ended[:-1].any()
    for t, b in np.ndindex(16, 3):
        expected = G[t + 1, b] if ended[t, b] else totals[t, b]
        assert abs(totals[t + 1, b] - expected) <= EXACT


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("number", [float, np.float64, jnp.asarray], ids=["python", "numpy", "jax"])
@pytest.mark.usefixtures("x64")  # without it float32 would stay float32 by itself
def test_the_dtype_is_that_of_the_inputs(dtype: Any, number: Callable[[float], Any]) -> None:
    x = {key: array.astype(dtype) if array.dtype != bool else array for key, array in random_data(0, 3, 2).items()}
    x["ratios"] = x["ratios"].astype(np.float64)  # which alone could be another
    shapes = jax.eval_shape(lambda x: all_of(x, number(GAMMA), number(LAMBDA), N, number(RHO_CLIP), number(C_CLIP)), x)
    assert {result.dtype for pair in shapes.values() for result in pair} == {np.dtype(dtype)}
    assert sorted(shapes) == NAMES


@pytest.mark.usefixtures("x64")
def test_the_settings_may_be_mapped_over() -> None:
    x = random_data(1, 9, 4)
    settings = np.array([0.0, 0.5, 1.0]), np.array([1.0, 0.0, 0.3]), np.array([1, 20, 4]), np.array([0.5, 1, 2]), np.array([2, 1, 0.5])
    got = jax.jit(jax.vmap(all_of, (None, 0, 0, 0, 0, 0)))(x, *settings)
    for i, each in enumerate(zip(*settings, strict=True)):
        expected = by_definition(x, *each)
        for name in NAMES:
            pairs_same(tuple(array[i] for array in got[name]), expected[name])


@pytest.mark.usefixtures("x64")
def test_discounted_sum_starts_from_its_initial_value() -> None:
    rng = np.random.default_rng(0)
    terms, decay, initial = rng.normal(size=(10, 3)), rng.normal(size=(10, 3)), rng.normal(size=3)
    expected, after = np.zeros((10, 3)), initial
    for t in reversed(range(10)):
        expected[t] = after = terms[t] + decay[t] * after
    same(discounted_sum(jnp.asarray(terms), jnp.asarray(decay), jnp.asarray(initial)), expected)


# ── the expectation, exactly ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", sorted(CASES))
def test_with_any_critic_the_expectation_is_the_recursion(name: str) -> None:
    """Of Ψ given (s, a) and of the targets given s, at every row and time since the reset; with ratios, π's from data of another."""
    assert max(exact.errors(advantages, CASES[name])) <= EXACT


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", sorted(name for name, case in CASES.items() if case.advantage))
def test_with_the_true_critic_the_expectation_is_the_advantage(name: str) -> None:
    """E[Ψ_t | s, a] = A^π(s, a) = Q^π(s, a) − V^π(s) and E[targets | s] = V^π(s), whatever the row and the time since the reset."""
    V, Q = true_values(WORLD, PI, GAMMA)
    psi, targets = exact.estimate(advantages, CASES[name], V)
    assert exact.worst_error(psi, Q - V[:, None]) <= EXACT
    assert exact.worst_error(targets, V) <= EXACT


@pytest.mark.usefixtures("x64")
def test_the_total_return_credits_an_action_with_its_advantage_and_with_the_past() -> None:
    """E[Ψ_t | s, a] = γ^k A^π(s, a) + what does not depend on a, at the k-th step of an episode."""
    V, Q = true_values(WORLD, PI, GAMMA)
    psi, _ = exact.estimate(advantages, CASES["total_return"], V)
    centred = psi - (PI * psi).sum(-1, keepdims=True)
    assert exact.worst_error(centred, GAMMA ** np.arange(WORLD.limit)[:, None, None] * (Q - V[:, None])) <= EXACT


@pytest.mark.usefixtures("x64")
def test_clipped_vtrace_evaluates_a_policy_between_the_two() -> None:
    """V of π̄ ∝ min(ρ̂ b, π) is its fixed point, whatever ĉ (Espeholt et al. 2018, remark 1)."""
    case = CASES["vtrace, ratios clipped"]
    between = np.minimum(case.settings["rho_clip"] * BEHAVIOUR, PI)
    between /= between.sum(-1, keepdims=True)
    assert np.abs(between - PI).max() > 0.01
    assert np.abs(between - BEHAVIOUR).max() > 0.01
    V, Q = true_values(WORLD, between, GAMMA)
    psi, targets = exact.estimate(advantages, case, V)
    assert exact.worst_error(psi, Q - V[:, None]) <= EXACT
    assert exact.worst_error(targets, V) <= EXACT


@lru_cache
def episodes() -> tuple[Any, np.ndarray, np.ndarray]:
    """Whole episodes of the behaviour policy, padded: (rollout, γ^t Π_{k≤t} ρ_k, p), and of ∇ log π by the logits, [T, N, S, A]."""
    made = enumerate_all(WORLD, BEHAVIOUR, WORLD.limit)
    rollout = made.rollout
    assert rollout.mask.min() == 0
    products = np.cumprod(np.where(rollout.mask > 0, RATIOS[rollout.obs, rollout.action], 1.0), axis=0)
    weights = GAMMA ** np.arange(WORLD.limit)[:, None] * products * rollout.mask * made.probability
    scores = np.eye(2)[rollout.action] - PI[rollout.obs]
    return rollout, weights, scores


def weighted_gradient(case: Case, values: np.ndarray) -> np.ndarray:
    """E_b[Σ_t γ^t (Π_{k≤t} ρ_k) ∇ log π(a_t|s_t) Ψ_t] with V_k(s), [limit + 1, S], as the critic at the k-th step: [S, A]."""
    rollout, weights, scores = episodes()
    x = exact.arrays_of(rollout, values[rollout.time, rollout.obs], values[rollout.time + 1, rollout.next_obs], corrected=True)
    psi, _ = exact.call(advantages, case, x)
    gradient = np.zeros(PI.shape)
    np.add.at(gradient, rollout.obs, (weights * np.asarray(psi))[..., None] * scores)
    return gradient


UNCLIPPED = sorted(name for name, case in CASES.items() if case.corrected and "clipped" not in name)


@lru_cache
def true_gradient() -> tuple[np.ndarray, np.ndarray]:
    """∇J of the time-limited objective by autodiff, and V_k."""
    V = np.array([*(V for V, _ in action_values(jnp.asarray(exact.LOGITS), WORLD, GAMMA)), np.zeros(3)])
    return np.asarray(jax.jit(jax.grad(lambda logits: objective(logits, WORLD, GAMMA)))(jnp.asarray(exact.LOGITS))), V


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", UNCLIPPED)
def test_another_policys_data_gives_the_gradient_of_ones_own(name: str) -> None:
    """E_b[Π ρ ∇ log π Ψ]: with the true critic ∇J, with any critic what π's own data would give, bias and all."""
    case = CASES[name]
    wanted, V = true_gradient()
    same(weighted_gradient(case, V), wanted)
    recursion, _ = case.expected(exact.CRITIC)
    reached = visits(WORLD, PI, WORLD.limit)
    own = sum(GAMMA**k * policy_gradient(PI, reached[k, k], recursion[k, k]) for k in range(WORLD.limit))
    same(weighted_gradient(case, np.tile(exact.CRITIC, (WORLD.limit + 1, 1))), own)


@pytest.mark.usefixtures("x64")
def test_rewards_alone_give_the_gradient_from_another_policys_data() -> None:
    """Without a critic `reward_to_go` needs none to be unbiased; clipped ratios are biased even with the true one."""
    wanted, V = true_gradient()
    same(weighted_gradient(CASES["reward_to_go, ratios"], np.zeros_like(V)), wanted)
    same(weighted_gradient(CASES["n_step(7), ratios"], np.zeros_like(V)), wanted)
    assert np.abs(weighted_gradient(CASES["vtrace, ratios clipped"], V) - wanted).max() > 1e-3


# ── bad input ────────────────────────────────────────────────────────────────────────────────────────────────────────

WRONG: dict[str, tuple[Callable[..., Any], dict[str, Any], str]] = {
    "γ above 1": (reward_to_go, {"discount": 1.5}, r"discount: got 1\.5; it must be a number in \[0, 1\]"),
    "γ is NaN": (td, {"discount": float("nan")}, r"discount: got nan; it must be a number in \[0, 1\]"),
    "γ of total_return": (total_return, {"discount": -0.1}, r"discount: got -0\.1; it must be"),
    "λ of gae": (gae, {"trace": -0.5}, r"trace: got -0\.5; it must be a number in \[0, 1\]"),
    "λ is a word": (gae, {"trace": "0.9"}, r"trace: got '0\.9'; it must be a number in \[0, 1\]"),
    "λ is a switch": (lambda_returns, {"trace": True}, r"trace: got True; it must be"),
    "λ of lambda_returns": (lambda_returns, {"trace": 2}, r"trace: got 2; it must be"),
    "λ of vtrace": (vtrace, {"trace": np.float32(2)}, r"trace: got .*2.*; it must be"),
    "no steps": (n_step, {"n": 0}, r"n: got 0; it must be a whole number of at least 1"),
    "half a step": (n_step, {"n": 1.5}, r"n: got 1\.5; it must be a whole number of at least 1"),
    "n is a switch": (n_step, {"n": True}, r"n: got True; it must be"),
    "γ of n_step": (n_step, {"n": 1, "discount": None}, r"discount: got None; it must be"),
    "ρ̂ is 0": (vtrace, {"rho_clip": 0}, r"rho_clip: got 0; it must be a number above 0 \(infinity: no clip\)"),
    "ĉ below 0": (vtrace, {"c_clip": -1.0}, r"c_clip: got -1\.0; it must be a number above 0"),
    "ratios of the past": (total_return, {"ratios": np.ones((2, 3))}, r"total return: got importance ratios.*use reward_to_go"),
    "a ratio a column": (gae, {"trace": 1.0, "ratios": np.ones(3)}, r"ratios: got shape \(3,\); it must be that of the rewards, \(2, 3\)"),
    "ratios transposed": (td, {"ratios": np.ones((3, 2))}, r"ratios: got shape \(3, 2\); it must be"),
}


@pytest.mark.parametrize("wrong", sorted(WRONG))
def test_wrong_arguments_are_one_clear_line(wrong: str) -> None:
    function, arguments, message = WRONG[wrong]
    zeros, no = np.zeros((2, 3)), np.zeros((2, 3), bool)
    with pytest.raises(UsageError, match=message) as caught:
        function(zeros, zeros, zeros, no, no, **{"discount": 0.9, **arguments})
    assert "\n" not in str(caught.value)


def test_more_steps_than_there_are_cost_nothing() -> None:
    x = random_data(2, 3, 2)
    got = jax.jit(lambda x: n_step(**x, discount=GAMMA, n=10**12))(x)
    for ours, others in zip(got, reward_to_go(**x, discount=GAMMA), strict=True):
        same(ours, others, 1e-5)
