"""Ψ against its definition written out, and its expectation over every trajectory of a tiny MDP against exact numbers."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradients.trajectories import MDP, Trajectories, enumerate_all, random_mdp, softmax, true_values
from policygrad import advantages
from policygrad.advantages import discounted_sum, gae, reward_to_go, td, total_return

EXACT = 1e-10
GAMMA, LAMBDA = 0.9, 0.7

Arrays = dict[str, np.ndarray]

# ── the definitions, as sums ─────────────────────────────────────────────────────────────────────────────────────────


def returns_by_definition(x: Arrays, discount: float) -> np.ndarray:
    """G_t, each from its own sum over the steps that follow."""
    T, B = x["rewards"].shape
    G = np.zeros((T, B))
    for t, b in np.ndindex(T, B):
        for k in range(t, T):
            G[t, b] += discount ** (k - t) * x["rewards"][k, b]
            if x["terminated"][k, b]:
                break
            if x["truncated"][k, b] or k == T - 1:
                G[t, b] += discount ** (k - t + 1) * x["next_values"][k, b]
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
        for k in range(t, T):
            A[t, b] += (discount * trace) ** (k - t) * delta[k, b]
            if x["terminated"][k, b] or x["truncated"][k, b]:
                break
    return A


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
    }


ESTIMATORS: dict[str, Callable[..., Any]] = {
    "reward_to_go": reward_to_go,
    "total_return": total_return,
    "td": td,
    "gae": partial(gae, trace=LAMBDA),
}


@lru_cache
def compiled(name: str) -> Callable[..., Any]:
    """One jitted program an estimator and shape, for all tests; γ and λ are traced."""
    function = {"reward_to_go": reward_to_go, "total_return": total_return, "td": td, "gae": gae}[name]
    run = jax.jit(function)
    return lambda x, **share: run(*x.values(), **share)


def same(got: Any, expected: Any, tolerance: float = EXACT) -> None:
    assert got.shape == np.shape(expected)
    np.testing.assert_allclose(np.asarray(got), expected, rtol=0, atol=tolerance)


SHAPES = [(1, 1), (3, 2), (9, 4), (17, 3)]  # on both sides of the scan's unrolling by 8


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_each_estimator_is_its_definition(shape: tuple[int, int]) -> None:
    x = random_data(shape[0], *shape)
    if shape[0] > 8:  # the four kinds of steps are all there
        assert {(a, b) for a, b in zip(x["terminated"].flat, x["truncated"].flat, strict=True)} == {(a, b) for a in (0, 1) for b in (0, 1)}
    G = returns_by_definition(x, GAMMA)

    psi, targets = compiled("reward_to_go")(x, discount=GAMMA)
    same(psi, G - x["values"])
    same(targets, G)

    psi, targets = compiled("total_return")(x, discount=GAMMA)
    same(psi, totals_by_definition(x, GAMMA) - x["values"])
    same(targets, G)

    psi, targets = compiled("td")(x, discount=GAMMA)
    same(psi, errors_by_definition(x, GAMMA))
    same(targets, psi + x["values"])

    psi, targets = compiled("gae")(x, discount=GAMMA, trace=LAMBDA)
    same(psi, gae_by_definition(x, GAMMA, LAMBDA))
    same(targets, psi + x["values"])


@pytest.mark.usefixtures("x64")
@given(
    shape=st.sampled_from(SHAPES[:3]),
    seed=st.integers(0, 2**32 - 1),
    ending=st.sampled_from([0.0, 0.2, 0.6, 1.0]),
    discount=st.sampled_from([0.0, 0.5, 0.97, 1.0]) | st.floats(0, 1),
    trace=st.sampled_from([0.0, 0.3, 0.95, 1.0]) | st.floats(0, 1),
)
def test_definitions_hold_for_any_flags_discount_and_trace(
    shape: tuple[int, int], seed: int, ending: float, discount: float, trace: float
) -> None:
    x = random_data(seed, *shape, ending=ending)
    same(compiled("gae")(x, discount=discount, trace=trace)[0], gae_by_definition(x, discount, trace))
    same(compiled("reward_to_go")(x, discount=discount)[1], returns_by_definition(x, discount))
    same(compiled("total_return")(x, discount=discount)[0], totals_by_definition(x, discount) - x["values"])
    # The two ends of λ are the two other estimators, where V(o_{t+1}) is the next row's V(o_t) within an episode.
    ended = (x["terminated"] | x["truncated"])[:-1]
    x["next_values"][:-1] = np.where(ended, x["next_values"][:-1], x["values"][1:])
    for end, name in ((0.0, "td"), (1.0, "reward_to_go")):
        for ours, others in zip(compiled("gae")(x, discount=discount, trace=end), compiled(name)(x, discount=discount), strict=True):
            same(ours, np.asarray(others))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", sorted(ESTIMATORS))
@pytest.mark.parametrize("flag", ["terminated", "truncated"])
def test_nothing_leaks_over_the_end_of_an_episode(name: str, flag: str) -> None:
    """What comes after an end does not reach what came before it, to the last bit; a column does not reach its neighbour."""
    x = random_data(5, 9, 4, ending=0.0)
    x[flag][3] = True
    before = compiled(name)(x, **shares(name))
    for key in ("rewards", "values", "next_values"):
        x[key][4:] += 1e6
        x[key][:, 1] += 1e6
    for ours, others in zip(compiled(name)(x, **shares(name)), before, strict=True):
        np.testing.assert_array_equal(np.asarray(ours)[:4, [0, 2, 3]], np.asarray(others)[:4, [0, 2, 3]])


def shares(name: str) -> dict[str, float]:
    return {"discount": GAMMA, "trace": LAMBDA} if name == "gae" else {"discount": GAMMA}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", sorted(ESTIMATORS))
def test_what_follows_counts_unless_the_task_terminated(name: str) -> None:
    """dΨ/dV(o') of the one step of an episode: γ if it was truncated or the rollout stopped there, 0 if it terminated."""
    for terminated, truncated, weight in ((0, 0, GAMMA), (0, 1, GAMMA), (1, 0, 0.0), (1, 1, 0.0)):
        x = {
            "rewards": np.array([[2.0]]),
            "values": np.array([[0.5]]),
            "next_values": np.array([[10.0]]),
            "terminated": np.array([[bool(terminated)]]),
            "truncated": np.array([[bool(truncated)]]),
        }
        psi, targets = compiled(name)(x, **shares(name))
        same(psi, [[2.0 - 0.5 + weight * 10.0]])
        same(targets, [[2.0 + weight * 10.0]])


@pytest.mark.usefixtures("x64")
def test_the_total_return_is_the_same_at_every_step_of_an_episode() -> None:
    x = random_data(3, 17, 3)
    x["values"][:] = 0
    totals = np.asarray(compiled("total_return")(x, discount=GAMMA)[0])
    G = returns_by_definition(x, GAMMA)
    ended = x["terminated"] | x["truncated"]
    assert ended[:-1].any()
    for t, b in np.ndindex(16, 3):
        expected = G[t + 1, b] if ended[t, b] else totals[t, b]
        assert abs(totals[t + 1, b] - expected) <= EXACT


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.usefixtures("x64")  # without it float32 would stay float32 by itself
def test_the_dtype_is_that_of_the_inputs(name: str, dtype: Any) -> None:
    x = {key: array.astype(dtype) if array.dtype != bool else array for key, array in random_data(0, 3, 2).items()}
    for result in (*ESTIMATORS[name](*map(jnp.asarray, x.values()), discount=GAMMA), *compiled(name)(x, **shares(name))):
        assert result.dtype == dtype


@pytest.mark.usefixtures("x64")
def test_the_discount_and_the_trace_may_be_mapped_over() -> None:
    x = random_data(1, 9, 4)
    gammas, lambdas = np.array([0.0, 0.5, 1.0]), np.array([1.0, 0.0, 0.3])
    got = jax.vmap(lambda gamma, trace: gae(*map(jnp.asarray, x.values()), discount=gamma, trace=trace)[0])(gammas, lambdas)
    same(got, [gae_by_definition(x, *pair) for pair in zip(gammas, lambdas, strict=True)])


@pytest.mark.usefixtures("x64")
def test_discounted_sum_starts_from_its_initial_value() -> None:
    rng = np.random.default_rng(0)
    terms, decay, initial = rng.normal(size=(10, 3)), rng.normal(size=(10, 3)), rng.normal(size=3)
    expected, after = np.zeros((10, 3)), initial
    for t in reversed(range(10)):
        expected[t] = after = terms[t] + decay[t] * after
    same(discounted_sum(jnp.asarray(terms), jnp.asarray(decay), jnp.asarray(initial)), expected)


# ── the expectation, exactly ─────────────────────────────────────────────────────────────────────────────────────────
#
# Three states, two actions, two outcomes each, a time limit of 3 and a rollout of 5 steps that goes on through resets:
# every way in which such a rollout can go, with its probability. E[Ψ_t | …] is then a finite sum.

ROWS = 5
MDP_ = random_mdp(0, states=3, actions=2, outcomes=2, limit=3)
PI = softmax(np.random.default_rng(1).normal(size=(3, 2)))
CRITIC = np.random.default_rng(2).normal(size=3)  # an arbitrary one
BOOTSTRAPPING: dict[str, tuple[Callable[..., Any], float]] = {  # what it is with a critic: λ
    "td": (td, 0.0),
    "gae": (partial(gae, trace=LAMBDA), LAMBDA),
    "reward_to_go": (reward_to_go, 1.0),
}


@lru_cache
def all_trajectories() -> Trajectories:
    made = enumerate_all(MDP_, PI, ROWS, resets=True)
    rollout, p = made.rollout, made.probability
    assert abs(p.sum() - 1) < 1e-12
    ends = {(a, b) for a, b in zip(rollout.terminated.flat, rollout.truncated.flat, strict=True)}
    assert ends == {(a, b) for a in (False, True) for b in (False, True)}
    return made


def expectation(x: np.ndarray) -> np.ndarray:
    """E[x_t | t, time since the reset, s_t, a_t], [ROWS, limit, S, A]; NaN where that cannot happen."""
    rollout, p = all_trajectories()
    sums, mass = np.zeros((2, ROWS, MDP_.limit, *PI.shape))
    where = np.arange(ROWS)[:, None], rollout.time, rollout.obs, rollout.action
    np.add.at(sums, where, x * p)
    np.add.at(mass, where, np.broadcast_to(p, x.shape))
    return sums / np.where(mass > 0, mass, np.nan)


def expected(mdp: MDP, pi: np.ndarray, critic: np.ndarray, trace: float, rows: int) -> np.ndarray:
    """The same from the definitions, backwards in t.

    E_t(k, s, a) = Σ_o p(o) [ r + γ (1 − end) V̂(s') − V̂(s) + γ λ goes_on Σ_b π(b|s') E_{t+1}(k + 1, s', b) ]
    """
    S, A, K = mdp.chance.shape
    E = np.zeros((rows + 1, mdp.limit + 1, S, A))
    for t in reversed(range(rows)):
        for k, s, a, o in np.ndindex(mdp.limit, S, A, K):
            after = mdp.to[s, a, o]
            worth = 0.0
            if not mdp.ends[s, a, o]:
                worth = GAMMA * critic[after]
                if k + 1 < mdp.limit and t + 1 < rows:
                    worth += GAMMA * trace * (pi[after] @ E[t + 1, k + 1, after])
            E[t, k, s, a] += mdp.chance[s, a, o] * (mdp.reward[s, a, o] + worth - critic[s])
    return E[:rows, : mdp.limit]


def estimate(function: Callable[..., Any], critic: np.ndarray) -> np.ndarray:
    """Ψ of every step of every trajectory, from the package."""
    rollout = all_trajectories().rollout
    arrays = rollout.reward, critic[rollout.obs], critic[rollout.next_obs], rollout.terminated, rollout.truncated
    return np.asarray(function(*map(jnp.asarray, arrays), discount=GAMMA)[0])


def worst_error(got: np.ndarray, wanted: np.ndarray) -> float:
    possible = np.isfinite(got)
    assert possible.sum() > 0.5 * got.size
    return float(np.abs(got - np.broadcast_to(wanted, got.shape))[possible].max())


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", sorted(BOOTSTRAPPING))
def test_with_the_true_critic_the_expectation_is_the_advantage(name: str) -> None:
    """E[Ψ_t | s, a] = A^π(s, a) = Q^π(s, a) − V^π(s), whatever λ, the row, and the time since the reset."""
    V, Q = true_values(MDP_, PI, GAMMA)
    assert worst_error(expectation(estimate(BOOTSTRAPPING[name][0], V)), Q - V[:, None]) <= EXACT


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", sorted(BOOTSTRAPPING))
def test_with_any_critic_the_expectation_is_the_recursion(name: str) -> None:
    function, trace = BOOTSTRAPPING[name]
    assert worst_error(expectation(estimate(function, CRITIC)), expected(MDP_, PI, CRITIC, trace, ROWS)) <= EXACT


# Bugs of the field, planted one at a time in the functions that the estimators are made of.


def _in_inputs(change: Callable[[Arrays], None]) -> Callable[[Any], Any]:
    """The function with its inputs changed first."""

    def plant(function: Any) -> Any:
        names = "rewards", "values", "next_values", "terminated", "truncated"

        def planted(*arrays: Any, **share: Any) -> Any:
            x = dict(zip(names, arrays, strict=True))
            change(x)
            return function(*x.values(), **share)

        return planted

    return plant


def _in_decay(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda function: lambda terms, decay, initial: function(terms, change(decay), initial)


def _truncation_is_termination(x: Any) -> None:
    x["terminated"] = x["terminated"] | x["truncated"]


def _bootstrap_from_the_same_observation(x: Any) -> None:
    x["next_values"] = jnp.where(x["truncated"], x["values"], x["next_values"])


def _bootstrap_from_the_reset_observation(x: Any) -> None:
    after = jnp.concatenate([x["values"][1:], x["next_values"][-1:]])
    x["next_values"] = jnp.where(x["truncated"], after, x["next_values"])


def _last_value_dropped(x: Any) -> None:
    x["next_values"] = x["next_values"].at[-1].set(0.0)


def _last_value_one_off(x: Any) -> None:
    x["next_values"] = x["next_values"].at[-1].set(x["values"][-1])


def _termination_bootstraps(x: Any) -> None:
    x["terminated"] = jnp.zeros_like(x["terminated"])


def _truncated_step_dropped(x: Any) -> None:
    x["rewards"] = jnp.where(x["truncated"], 0.0, x["rewards"])


MUTANTS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "truncation = termination": ("td", _in_inputs(_truncation_is_termination)),
    "V(o_t) at a truncation": ("td", _in_inputs(_bootstrap_from_the_same_observation)),
    "V(reset observation) at a truncation": ("td", _in_inputs(_bootstrap_from_the_reset_observation)),
    "termination bootstraps": ("td", _in_inputs(_termination_bootstraps)),
    "the last value dropped": ("td", _in_inputs(_last_value_dropped)),
    "the last value one off": ("td", _in_inputs(_last_value_one_off)),
    "the truncated step dropped": ("td", _in_inputs(_truncated_step_dropped)),
    "no boundary": ("discounted_sum", _in_decay(lambda decay: jnp.full_like(decay, jnp.max(decay)))),
    "γ missing in the carry": ("discounted_sum", _in_decay(lambda decay: decay / GAMMA)),
    "λ missing in the carry": ("discounted_sum", _in_decay(lambda decay: decay / LAMBDA)),
    "the trace one off": ("discounted_sum", _in_decay(lambda decay: jnp.concatenate([decay[1:], decay[:1]]))),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("mutant", sorted(MUTANTS))
def test_a_planted_bug_is_seen(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each mutant of `gae`'s own path misses the recursion by far more than the bound above."""
    part, plant = MUTANTS[mutant]
    monkeypatch.setattr(advantages, part, plant(getattr(advantages, part)))
    got = expectation(estimate(BOOTSTRAPPING["gae"][0], CRITIC))
    assert worst_error(got, expected(MDP_, PI, CRITIC, LAMBDA, ROWS)) > 0.01


@pytest.mark.usefixtures("x64")
def test_a_leak_in_the_reward_to_go_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    plant = _in_decay(lambda decay: jnp.full_like(decay, GAMMA))
    monkeypatch.setattr(advantages, "discounted_sum", plant(advantages.discounted_sum))
    got = expectation(estimate(reward_to_go, CRITIC))
    assert worst_error(got, expected(MDP_, PI, CRITIC, 1.0, ROWS)) > 0.01
