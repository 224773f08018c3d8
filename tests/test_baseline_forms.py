"""Baselines that are computed from a batch: from which data, and what that does to the gradient's expectation and variance."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradients.trajectories import MDP, enumerate_all, objective, random_mdp, softmax
from policygrad import baselines
from policygrad.advantages import reward_to_go
from policygrad.algorithms import reinforce
from policygrad.baselines import FORMED, FORMS, KINDS
from policygrad.errors import SpaceError, UsageError
from policygrad.policies import tabular_softmax
from policygrad.spaces import Box, Discrete
from policygrad.types import Algorithm, Baseline, Params, Rollout, Spec

EXACT = 1e-10
KEY = jax.random.key(0)
SUBTRACTED = sorted(FORMED - {"optimal"})  # those that are a part of Ψ

# ── what is subtracted, against plain loops ──────────────────────────────────────────────────────────────────────────

T, B, S = 5, 4, 3
LENGTHS = np.array([5, 2, 0, 3])  # one column is empty
MASK = (np.arange(T)[:, None] < LENGTHS).astype(float)
SPEC = Spec(Discrete(S), Discrete(2), num_envs=B, time_limit=T)
NOBODY = Params((), ())
Cells = list[tuple[int, int]]  # steps as (row, column)


def episodes(seed: int) -> Rollout:
    """Whole episodes, and whatever may stand in padding."""
    rng = np.random.default_rng(seed)
    ends = np.arange(T)[:, None] == LENGTHS - 1
    made = Rollout(
        obs=rng.integers(0, S, (T, B)).astype(np.int32),
        action=np.zeros((T, B), np.int32),
        log_prob=np.full((T, B), np.log(0.5)),
        reward=rng.normal(size=(T, B)) + 50 * (1 - MASK),
        terminated=ends & np.array([True, False, False, True]),
        truncated=ends & np.array([False, True, False, True]),
        next_obs=rng.integers(0, S, (T, B)).astype(np.int32),
        mask=MASK,
        time=np.broadcast_to(np.arange(T, dtype=np.int32)[:, None], (T, B)),
        carry=(),
        extras={},
    )
    return jax.tree.map(jnp.asarray, made)


@lru_cache
def made(kind: str, form: str) -> Baseline:
    baseline = KINDS[kind](form)
    return baseline._replace(centre=jax.jit(baseline.centre, static_argnums=3), fit=jax.jit(baseline.fit))


advantage = partial(reward_to_go, discount=0.9)


def state_of(kind: str, form: str) -> Any:
    return made(kind, form).init(KEY, SPEC, ())[1]


def subtracted(kind: str, form: str, rollout: Rollout, state: Any = None) -> np.ndarray:
    """b of every valid step, [T, B]."""
    state = state_of(kind, form) if state is None else state
    centred = made(kind, form).centre(state, NOBODY, rollout, advantage, rollout.mask / B)
    return np.asarray(centred.uncentred - centred.advantages) * MASK


def after(kind: str, rollout: Rollout) -> Any:
    """The state of the form previous-batch after that batch."""
    baseline, state = made(kind, "previous-batch"), state_of(kind, "previous-batch")
    centred = baseline.centre(state, NOBODY, rollout, advantage, rollout.mask / B)
    return baseline.fit(KEY, state, NOBODY, rollout, centred)[0]


def in_loops(kind: str, form: str, rollout: Rollout, before: Rollout) -> np.ndarray:
    """b of every valid step, [T, B], one step after the other."""
    result = np.zeros((T, B))
    for t, i in cells(range(B)):
        chosen = [i] if kind == "episode-mean" and form == "same-batch" else [j for j in range(B) if form != "leave-one-out" or j != i]
        result[t, i] = predict(kind, before if form == "previous-batch" else rollout, cells(chosen), int(rollout.obs[t, i]), t)
    return result


def cells(columns: Any) -> Cells:
    return [(t, i) for i in columns for t in range(LENGTHS[i])]


def returns_of(rollout: Rollout) -> dict[tuple[int, int], float]:
    return {(t, i): sum(0.9 ** (k - t) * float(rollout.reward[k, i]) for k in range(t, LENGTHS[i])) for t, i in cells(range(B))}


def predict(kind: str, data: Rollout, chosen: Cells, s: int, t: int) -> float:
    """b(s, t) from the chosen steps of the data."""
    psi, obs = returns_of(data), np.asarray(data.obs)
    average = float(np.mean([psi[c] for c in chosen]))
    if kind == "mean":
        return average
    if kind == "episode-mean":
        own = [[psi[c] for c in chosen if c[1] == i] for i in {c[1] for c in chosen}]
        return float(np.mean([np.mean(x) for x in own]))
    if kind == "least-squares":
        x = np.array([features(obs[c], c[0]) for c in chosen])
        penalty = np.diag(np.sqrt(1e-4 * (x**2).sum(axis=0)))
        y = np.array([psi[c] - average for c in chosen] + [0.0] * x.shape[1])
        return average + float(features(s, t) @ np.linalg.lstsq(np.concatenate([x, penalty]), y, rcond=None)[0])
    alike = [psi[c] for c in chosen if (c[0] == t if kind == "time-mean" else obs[c] == s)]
    return float(np.mean(alike)) if alike else average


def features(s: int, t: int) -> np.ndarray:
    return np.array([*np.eye(S)[s], t / T, (t / T) ** 2, (t / T) ** 3])


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", SUBTRACTED)
def test_each_form_is_the_plain_loop(kind: str, form: str) -> None:
    rollout, before = episodes(0), episodes(1)
    state = after(kind, before) if form == "previous-batch" else None
    expected = in_loops(kind, form, rollout, before)
    assert np.ptp(expected[MASK > 0]) > 0 or kind in ("mean", "episode-mean")
    np.testing.assert_allclose(subtracted(kind, form, rollout, state), expected, rtol=0, atol=EXACT)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", SUBTRACTED)
def test_only_the_form_same_batch_looks_at_its_own_column(kind: str) -> None:
    rollout = episodes(0)
    changed = rollout._replace(reward=rollout.reward * np.array([1.0, 1.0, 1.0, 100.0])[None, :])
    one, two = (subtracted(kind, "leave-one-out", data) for data in (rollout, changed))
    np.testing.assert_allclose(one[:, 3], two[:, 3], rtol=0, atol=1e-12)
    assert np.abs(one - two)[:, :3].max() > 1
    state = after(kind, episodes(1))
    one, two = (subtracted(kind, "previous-batch", data, state) for data in (rollout, changed))
    np.testing.assert_allclose(one, two, rtol=0, atol=1e-12)
    one, two = (subtracted(kind, "same-batch", data)[0, 3] for data in (rollout, changed))
    assert abs(one - two) > 1


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", SUBTRACTED)
def test_the_form_previous_batch_subtracts_nothing_at_first(kind: str) -> None:
    assert (subtracted(kind, "previous-batch", episodes(0)) == 0).all()


def test_others_are_summed_without_a_trace_of_ones_own() -> None:
    """Bit for bit, in single precision: 10²⁰ taken off a total that holds it leaves 0."""
    x = jnp.asarray([[1.0, 2.0], [1e20, -1e20], [3.0, 4.0], [0.25, 0.5]], jnp.float32)
    others = np.asarray(baselines._others(x))
    assert others[1].tolist() == [4.25, 6.5]
    assert others[0, 0] == np.float32(1e20)
    np.testing.assert_array_equal(np.asarray(baselines._others(x[:2])), x[:2][::-1])


def test_least_squares_knows_neither_units_nor_an_offset() -> None:
    """In single precision, with one element that never changes and one that is a copy: a singular system but for the ridge."""
    rng = np.random.default_rng(0)
    baseline = baselines.least_squares(degree=2)
    _, state = baseline.init(KEY, Spec(Box.of(-1.0, 1.0, (3,)), Discrete(2), 8), ())
    obs = np.repeat(rng.normal(size=(40, 8, 1)), 3, axis=-1).astype(np.float32)
    obs[..., 2] = 0.5
    psi = (2 * obs[..., 0] - obs[..., 0] ** 2 + 7).astype(np.float32)
    fit = jax.jit(lambda obs, psi: baseline.centre(state, NOBODY, rollout_of(obs, psi), lambda r, *_: (r, r), psi).advantages)
    left = np.asarray(fit(obs, psi))
    assert left.dtype == np.float32
    assert left.std() < 1e-3 * psi.std()
    for other in (fit(obs * np.array([1e3, 1e-3, 30], np.float32), psi), fit(obs, psi + 100)):
        np.testing.assert_allclose(np.asarray(other), left, rtol=0, atol=2e-3)


def rollout_of(obs: Any, psi: Any) -> Rollout:
    no, ones = jnp.zeros(psi.shape, bool), jnp.ones(psi.shape, jnp.float32)
    return Rollout(obs, no, ones, psi, no, no, obs, ones, jnp.zeros(psi.shape, jnp.int32), (), {})


# ── the expected gradient ────────────────────────────────────────────────────────────────────────────────────────────
#
# No state comes twice in an episode of this MDP, and episodes have one to three steps: 0 → 1 → 2 → end, with short cuts.

WORLD = MDP(
    start=np.array([0.6, 0.4, 0.0]),
    chance=np.random.default_rng(0).dirichlet(np.ones(2), size=(3, 2)),
    to=np.array([[[1, 2]] * 2, [[0, 2]] * 2, [[0, 0]] * 2]),
    ends=np.array([[[False, False]] * 2, [[True, False]] * 2, [[True, True]] * 2]),
    reward=np.random.default_rng(1).normal(size=(3, 2, 2)) + 1,
    limit=3,
)
LOGITS = np.random.default_rng(2).normal(size=(3, 2))
PI = softmax(LOGITS)
N = 2


def algorithm_of(kind: str, form: str, **settings: Any) -> Algorithm:
    return reinforce(**{"baseline": KINDS[kind](form), "discount": 1.0, **settings})


def spec_of(kind: str) -> Spec:
    """Without the powers of time there are fewer features than the six steps of two episodes."""
    return Spec(Discrete(3), Discrete(2), num_envs=N, time_limit=None if kind == "least-squares" else WORLD.limit)


def batches() -> tuple[Rollout, np.ndarray, np.ndarray]:
    """All pairs of trajectories [P, T, 2], which these are [P, 2], and their probability [P]."""
    single = enumerate_all(WORLD, PI, WORLD.limit)
    pairs = np.array(list(itertools.product(range(single.probability.size), repeat=N)))
    return jax.tree.map(lambda x: np.moveaxis(x[:, pairs], 1, 0), single.rollout), pairs, single.probability[pairs].prod(axis=1)


def gradients_of(kind: str, form: str) -> Callable[[Rollout], Any]:
    """The gradient of one batch; whatever the form previous-batch has kept."""
    rng = np.random.default_rng(5)
    algorithm = algorithm_of(kind, form)
    agent = algorithm.init(KEY, spec_of(kind))
    kept = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), agent.baseline)
    assert bool(jax.tree.leaves(kept)) == (form == "previous-batch")
    agent = agent._replace(params=Params(tabular_softmax(jnp.asarray(LOGITS)), ()), baseline=kept)
    return lambda rollout: algorithm.gradient(agent, rollout)[0].policy.head.logits


@lru_cache
def expectations() -> dict[tuple[str, str], np.ndarray]:
    """E[gradient] for two episodes, of every kind and form, in one program."""
    choices = list(itertools.product(sorted(FORMED), FORMS))
    functions = [gradients_of(*choice) for choice in choices]
    rollouts, _, probability = batches()
    found = jax.jit(jax.vmap(lambda rollout: [function(rollout) for function in functions]))(rollouts)
    return {choice: np.tensordot(probability, np.asarray(x), 1) for choice, x in zip(choices, found, strict=True)}


def true_gradient() -> np.ndarray:
    return np.asarray(jax.grad(lambda theta: objective(theta, WORLD, 1.0))(jnp.asarray(LOGITS)))


def scores(rollout: Rollout, pi: np.ndarray = PI) -> np.ndarray:
    """∇ log π(a_t|s_t) for the logits [S, A], by hand: [T, N, S, A]."""
    states, actions = np.eye(len(pi))[rollout.obs], np.eye(pi.shape[1])[rollout.action]
    return rollout.mask[..., None, None] * states[..., None] * (actions - pi[rollout.obs])[..., None, :]


def shrunk(p: float) -> float:
    """What is left of the part of a cell that an episode meets with probability p."""
    return 1 - (1 - (1 - p) ** N) / (N * p)


def rewards_to_go(rollout: Rollout) -> np.ndarray:
    return np.cumsum(rollout.reward[::-1], axis=0)[::-1] * rollout.mask


def documented(kind: str) -> np.ndarray | None:
    """E[gradient] of the form same-batch, from the closed form in the module's docstring; None where it gives none."""
    single = enumerate_all(WORLD, PI, WORLD.limit)
    rollout, p = single
    score, G = scores(rollout), rewards_to_go(rollout)
    parts = score * G[..., None, None]  # what each step adds to the gradient
    if kind == "time-mean":
        factors = np.array([shrunk(x) for x in rollout.mask @ p])
        return np.einsum("n,t,tnsa->sa", p, factors, parts)
    if kind == "state-mean":
        visited = np.array([(((rollout.obs == s) & (rollout.mask > 0)).sum(axis=0)) for s in range(3)])
        assert visited.max() == 1
        return np.einsum("n,s,tnsa->sa", p, [shrunk(x) for x in visited @ p], parts)
    if kind == "episode-mean":
        return true_gradient() - expected_slope(G.sum(axis=0) / rollout.mask.sum(axis=0), single.rollout, p)
    if kind == "mean":
        pairs, _, probability = batches()
        batch = jax.tree.map(lambda x: np.moveaxis(x, 0, 1).reshape(x.shape[1], -1), pairs)
        total, steps = (x.reshape(x.shape[0], -1, N).sum(axis=(0, 2)) for x in (rewards_to_go(batch), batch.mask))
        return true_gradient() - expected_slope(total / steps, batch, probability) / N
    return None


def expected_slope(values: np.ndarray, rollout: Rollout, probability: np.ndarray) -> np.ndarray:
    """∇E[values], by differentiating the probabilities of all the batches: columns belong to batches in order."""

    def expectation(theta: Any) -> Any:
        log_pi = jax.nn.log_softmax(theta)[rollout.obs, rollout.action]
        change = jnp.sum((log_pi - rollout.log_prob) * rollout.mask, axis=0).reshape(len(values), -1).sum(axis=1)
        return jnp.sum(probability * jnp.exp(change) * values)

    return np.asarray(jax.grad(expectation)(jnp.asarray(LOGITS)))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("form", ["previous-batch", "leave-one-out"])
@pytest.mark.parametrize("kind", sorted(FORMED))
def test_a_baseline_from_other_data_leaves_the_expected_gradient(kind: str, form: str) -> None:
    assert np.abs(expectations()[kind, form] - true_gradient()).max() <= EXACT


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", sorted(FORMED))
def test_a_baseline_from_its_own_batch_has_the_documented_bias(kind: str) -> None:
    got, closed = expectations()[kind, "same-batch"], documented(kind)
    assert np.abs(got - true_gradient()).max() > 1e-3
    if closed is not None:
        assert np.abs(got - closed).max() <= EXACT


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", ["mean", "optimal"])
def test_a_column_that_is_not_left_out_is_seen(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    everyone = lambda sums: jax.tree.map(lambda x: jnp.broadcast_to(jnp.sum(x, axis=0, keepdims=True), x.shape), sums)  # noqa: E731
    monkeypatch.setattr(baselines, "_others", everyone)
    rollouts, _, probability = batches()
    found = jax.jit(jax.vmap(gradients_of(kind, "leave-one-out")))(rollouts)
    assert np.abs(np.tensordot(probability, np.asarray(found), 1) - true_gradient()).max() > 1e-3


# ── the optimal baseline ─────────────────────────────────────────────────────────────────────────────────────────────

MANY = 200
DISCOUNT = 0.8


@lru_cache
def many() -> tuple[Rollout, np.ndarray, np.ndarray]:
    """All trajectories of 200 random MDPs of two steps [MDP, T, N], their probability [MDP, N], and the logits."""
    rng = np.random.default_rng(7)
    logits = rng.normal(size=(MANY, 2, 2))
    worlds = [random_mdp(seed, states=2, actions=2, outcomes=2, limit=2, ending=0.0) for seed in range(MANY)]
    found = [enumerate_all(world, softmax(theta), 2) for world, theta in zip(worlds, logits, strict=True)]
    rollout = jax.tree.map(lambda *x: np.stack(x), *[x.rollout for x in found])
    return rollout, np.stack([x.probability for x in found]), logits


def moments(constants: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Exact mean and variance of the recipe's gradient with given constants [C, MDP, S, A], each of that shape."""
    algorithm = reinforce(baseline=baselines.optimal("previous-batch"), credit="total-return", discount=DISCOUNT)
    agent = algorithm.init(KEY, Spec(Discrete(2), Discrete(2), num_envs=1))
    rollout, probability, logits = many()

    def one(constant: Any, theta: Any, trajectory: Rollout) -> Any:
        mine = agent._replace(params=Params(tabular_softmax(theta), ()), baseline=tabular_softmax(constant))
        return algorithm.gradient(mine, jax.tree.map(lambda x: x[:, None], trajectory))[0].policy.head.logits

    over_trajectories = jax.vmap(one, in_axes=(None, None, 1))
    over_mdps = jax.vmap(over_trajectories)
    gradients = np.asarray(jax.jit(jax.vmap(over_mdps, in_axes=(0, None, None)))(constants, logits, rollout))
    mean = np.einsum("mn,cmnsa->cmsa", probability, gradients)
    return mean, np.einsum("mn,cmnsa->cmsa", probability, (gradients - mean[:, :, None]) ** 2)


def optimum() -> np.ndarray:
    """b* of each MDP, [MDP, S, A], as the baseline itself computes it from the whole distribution as one batch.

    A column enters g² and x g with the square of its weight, so weights of √p make sums into expectations.
    """
    baseline = baselines.optimal("previous-batch")
    rollout, probability, logits = many()

    def one(theta: Any, rollout: Rollout, p: Any) -> Any:
        params = Params(tabular_softmax(theta), ())
        _, state = baseline.init(KEY, Spec(Discrete(2), Discrete(2), 1), params.policy)
        weights = rollout.mask * jnp.sqrt(p)[None, :] / p.size
        total = jnp.sum(rollout.reward * DISCOUNT ** jnp.arange(2.0)[:, None], axis=0, keepdims=True)
        psi = jnp.broadcast_to(total, rollout.reward.shape)
        centred = baseline.centre(state, params, rollout, lambda *_: (psi, psi), weights)
        return baseline.fit(KEY, state, params, rollout, centred)[0].head.logits

    return np.asarray(jax.jit(jax.vmap(one))(logits, jax.tree.map(jnp.asarray, rollout), probability))


@pytest.mark.usefixtures("x64")
def test_the_optimal_baseline_has_the_least_variance_of_all_constants() -> None:
    rollout, p, logits = many()
    R = (rollout.reward * DISCOUNT ** np.arange(2)[None, :, None]).sum(axis=1)
    columns = [jax.tree.map(lambda x, m=m: x[m], rollout) for m in range(MANY)]
    g = np.stack([scores(column, softmax(theta)).sum(axis=0) for column, theta in zip(columns, logits, strict=True)])
    squared = np.einsum("mn,mnsa->msa", p, g**2)
    closed = np.einsum("mn,mnsa,mn->msa", p, g**2, R) / squared
    best = optimum()
    assert np.abs(best - closed).max() <= EXACT
    # One constant for all parameters: none, the mean return, the best of those; and a grid around the optimum.
    common = np.einsum("msa,msa->m", squared, closed) / squared.sum(axis=(1, 2))
    shared = [np.zeros(MANY), (p * R).sum(axis=1), common, *np.random.default_rng(0).normal(size=(3, MANY))]
    others = [np.broadcast_to(x[:, None, None], best.shape) for x in shared] + [best + x for x in (-1.0, -0.1, -1e-3, 1e-3, 0.1, 1.0)]
    mean, variance = moments(np.stack([best, *others]))
    assert np.abs(mean - mean[:1]).max() <= EXACT
    assert (variance[:1] <= variance[1:] + 1e-14).all()
    np.testing.assert_allclose(variance[1:], variance[:1] + (np.stack(others) - best[None]) ** 2 * squared[None], rtol=0, atol=EXACT)
    assert (variance[0].sum(axis=(1, 2)) < variance[2].sum(axis=(1, 2)) - 1e-6).all()  # better than the mean return, in every one


@pytest.mark.usefixtures("x64")
def test_the_optimal_baseline_in_its_forms_is_the_plain_loop() -> None:
    """Σ_i b_i g_i / B with b from all columns, from those but i, and from the batch before; 0 where no score is."""
    rollout, _, logits = many()
    policy = tabular_softmax(jnp.asarray(logits[0]))
    few = jax.tree.map(lambda x: x[0][:, [1, 6, 11]], rollout)
    few = few._replace(mask=np.array([[1.0, 1, 1], [1, 0, 1]]))
    weights = few.mask * np.array([[0.2, 0.3, 0.4], [0.1, 0.5, 0.3]])
    psi = np.random.default_rng(0).normal(size=(2, 3))
    score = scores(few, softmax(logits[0]))
    g, x = (3 * np.einsum("tn,tnsa->nsa", w, score) for w in (weights, weights * psi))

    def divided(columns: list[int]) -> np.ndarray:
        above, below = (np.sum([factor[i] * g[i] for i in columns], axis=0) for factor in (x, g))
        return np.divide(above, below, out=np.zeros_like(above), where=below != 0)

    held = np.random.default_rng(1).normal(size=(2, 2))
    expected = {
        "same-batch": divided([0, 1, 2])[None] * g,
        "leave-one-out": np.stack([divided([j for j in range(3) if j != i]) for i in range(3)]) * g,
        "previous-batch": held[None] * g,
    }
    states = {"same-batch": (), "leave-one-out": (), "previous-batch": tabular_softmax(jnp.asarray(held))}

    def controls(few: Rollout) -> Any:
        both = lambda *_: (jnp.asarray(psi), jnp.asarray(psi))  # noqa: E731
        return {form: KINDS["optimal"](form).centre(states[form], Params(policy, ()), few, both, weights).control for form in FORMS}

    for form, control in jax.jit(controls)(jax.tree.map(jnp.asarray, few)).items():
        np.testing.assert_allclose(control.head.logits, expected[form] / len(expected[form]), rtol=0, atol=EXACT)


# ── in a recipe ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"value-table", "value-linear"}))  # of states, those are `value`
def test_every_kind_learns_for_two_updates(kind: str) -> None:
    """In single precision, as a scan: it takes no state whose shape or type an update changes."""
    settings: dict[str, Any] = {"form": "previous-batch"} if kind in FORMED else {}
    algorithm = reinforce(baseline=KINDS[kind](**settings, **({"hidden_sizes": (4,)} if kind == "value-network" else {})))
    agent, rollout = algorithm.init(KEY, spec_of(kind)), small_batch()
    after, metrics = jax.lax.scan(lambda agent, _: algorithm.update(KEY, agent, rollout), agent, None, length=2)
    assert metrics["finite"].all()
    assert all(metric.dtype in (jnp.float32, jnp.bool_) for metric in metrics.values())
    assert np.abs(after.params.policy.head.logits).max() > 0.01
    if kind in FORMED:
        assert any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(after.baseline))


@lru_cache
def small_batch() -> Rollout:
    """Three episodes of the world in single precision."""
    chosen = jax.tree.map(lambda x: x[:, [0, 17, 31]], enumerate_all(WORLD, PI, WORLD.limit).rollout)
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32 if x.dtype == np.float64 else x.dtype), chosen)


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", sorted(FORMED))
def test_an_unknown_form_is_refused(kind: str) -> None:
    with pytest.raises(UsageError, match="baseline form: got 'next-batch'; it must be one of same-batch, previous-batch, leave-one-out"):
        KINDS[kind]("next-batch")


@pytest.mark.parametrize("kind", sorted(FORMED))
def test_leaving_out_the_only_column_is_refused(kind: str) -> None:
    single = jax.tree.map(lambda x: np.asarray(x)[:, :1], small_batch())
    policy = tabular_softmax(np.zeros((3, 2), np.float32))
    _, state = KINDS[kind]("leave-one-out").init(KEY, spec_of(kind), policy)
    with pytest.raises(UsageError, match=f"got '{kind}' in the form leave-one-out with a single column"):
        jax.eval_shape(lambda x: KINDS[kind]("leave-one-out").centre(state, Params(policy, ()), x, advantage, x.mask).advantages, single)


def test_which_kinds_take_a_form() -> None:
    import inspect

    assert {kind for kind, factory in KINDS.items() if "form" in inspect.signature(factory).parameters} == FORMED


def test_spaces_and_settings_that_do_not_fit_are_refused() -> None:
    plane, table = Spec(Box.of(-1.0, 1.0, (50,)), Discrete(2), 1), Spec(Discrete(3), Discrete(2), 1)
    with pytest.raises(SpaceError, match="'state-mean' for observations Box"):
        baselines.state_mean().init(KEY, plane, ())
    with pytest.raises(UsageError, match="'time-mean' for an environment without a time limit"):
        baselines.time_mean().init(KEY, table, ())
    with pytest.raises(UsageError, match="'least-squares' with 1326 features"):
        baselines.least_squares().init(KEY, plane, ())
    for degree in (0, 1.5, True):
        with pytest.raises(UsageError, match=f"degree of the least-squares baseline: got {degree}"):
            baselines.least_squares(degree=degree)  # pyright: ignore[reportArgumentType]
    for ridge in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match=f"ridge of the least-squares baseline: got {ridge}"):
            baselines.least_squares(ridge=ridge)
    with pytest.raises(UsageError, match="target of the value baseline: got 3"):
        baselines.value(target=3)  # pyright: ignore[reportArgumentType]
