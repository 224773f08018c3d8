"""What each baseline subtracts, when it moves, and that padding never counts."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policygrad import baselines
from policygrad.advantages import gae, reward_to_go, td, total_return
from policygrad.baselines import KINDS, masked_mean, masked_variance, normalised
from policygrad.errors import UsageError
from policygrad.policies import linear_critic, network_critic, table_critic, tabular_softmax
from policygrad.spaces import Box, Discrete
from policygrad.types import Baseline, Centred, Params, Rollout, Spec

KEY = jax.random.key(0)
T, B, S = 5, 3, 4
LENGTHS = np.array([5, 2, 3])
MASK = (np.arange(T)[:, None] < LENGTHS).astype(np.float32)
GAMMA = 0.9
ADVANTAGE = partial(reward_to_go, discount=GAMMA)
WEIGHTS = MASK / B  # of an estimate on policy
NOBODY = Params((), ())  # for baselines that do not look at the policy
SOMEBODY = Params(tabular_softmax(np.array([[0.3, -0.2], [1.0, 0.0], [-0.5, 0.5], [0.1, 0.4]], np.float32)), ())

TABLE = Spec(Discrete(S), Discrete(2), num_envs=B, time_limit=T)
PLANE = Spec(Box.of(-1.0, 1.0, (2,)), Discrete(2), num_envs=B, time_limit=T)


def episodes(seed: int = 0, *, plane: bool = False) -> Rollout:
    """Three whole episodes of 5, 2 and 3 steps, padded with zeros: terminated, truncated, both at once."""
    rng = np.random.default_rng(seed)
    ends = np.arange(T)[:, None] == LENGTHS - 1
    shape = (T, B, 2) if plane else (T, B)
    valid = MASK[..., None] if plane else MASK

    def observations() -> np.ndarray:
        drawn = rng.uniform(-1, 1, shape).astype(np.float32) if plane else rng.integers(0, S, shape).astype(np.int32)
        return (drawn * valid).astype(drawn.dtype)

    made = Rollout(
        obs=observations(),
        action=(np.arange(T * B).reshape(T, B) % 2 * MASK).astype(np.int32),
        log_prob=np.full((T, B), np.log(0.5), np.float32) * MASK,
        reward=rng.normal(size=(T, B)).astype(np.float32) * MASK,
        terminated=ends & np.array([True, False, True]),
        truncated=ends & np.array([False, True, True]),
        next_obs=observations(),
        mask=MASK,
        time=(np.arange(T)[:, None] * MASK).astype(np.int32),
        carry={"memory": np.arange(2.0 * B, dtype=np.float32).reshape(1, B, 2)},
        extras={},
    )
    return jax.tree.map(jnp.asarray, made)


def returns_of(rollout: Rollout) -> np.ndarray:
    """G_t of whole episodes without a critic, float64 [T, B]."""
    reward, G = np.asarray(rollout.reward, np.float64), np.zeros((T + 1, B))
    for t in reversed(range(T)):
        G[t] = (reward[t] + GAMMA * G[t + 1]) * MASK[t]
    return G[:T]


def close(got: Any, expected: Any, tolerance: float = 2e-6) -> None:
    assert np.shape(got) == np.shape(expected)
    np.testing.assert_allclose(np.asarray(got), expected, rtol=tolerance, atol=tolerance)


@lru_cache
def made(kind: str, spec: Spec = TABLE, scaled: bool = False) -> Baseline:
    """One baseline of each kind with jitted functions, for all tests."""
    baseline = KINDS[kind](**({"hidden_sizes": (4,)} if kind == "value-network" else {}))
    baseline = normalised(baseline) if scaled else baseline
    return baseline._replace(centre=jax.jit(baseline.centre, static_argnums=3), fit=jax.jit(baseline.fit))


# ── what every kind promises ─────────────────────────────────────────────────────────────────────────────────────────

BOOTSTRAPPING = {"value", "value-table", "value-linear", "value-network"}
EVERY = [(kind, scaled) for kind in sorted(KINDS) for scaled in (False, True) if (kind, scaled) != ("optimal", True)]


@pytest.mark.parametrize(("kind", "scaled"), EVERY)
def test_the_contract_of_a_baseline(kind: str, scaled: bool) -> None:
    baseline, rollout = made(kind, scaled=scaled), episodes()
    critic, state = baseline.init(KEY, TABLE, SOMEBODY.policy)
    assert critic == ()  # none here climbs with the policy
    centred = baseline.centre(state, SOMEBODY, rollout, ADVANTAGE, WEIGHTS)
    for array in (centred.advantages, centred.uncentred, centred.targets):
        assert array.shape == (T, B)
        assert array.dtype == jnp.float32
        assert np.isfinite(array).all()
    assert (np.asarray(centred.advantages)[MASK == 0] == 0).all()
    assert (np.asarray(centred.uncentred)[MASK == 0] == 0).all()
    assert np.ptp(np.asarray(centred.advantages)[MASK > 0]) > 0
    # A loss unrolls the policy from `Batch.carry`; without it a policy with memory would learn from another one's data.
    assert jax.tree.structure(centred.carry) == jax.tree.structure(rollout.carry)
    close(centred.carry["memory"], rollout.carry["memory"], 0)
    moved, info = baseline.fit(KEY, state, NOBODY, rollout, centred)
    assert jax.tree.structure(moved) == jax.tree.structure(state)
    for new, old in zip(jax.tree.leaves(moved), jax.tree.leaves(state), strict=True):
        assert (new.shape, new.dtype) == (old.shape, old.dtype)
        assert np.isfinite(new).all()
    assert all(np.shape(scalar) == () and np.isfinite(scalar) for scalar in info.values())


@pytest.mark.parametrize(("kind", "scaled"), EVERY)
def test_padding_changes_nothing(kind: str, scaled: bool) -> None:
    """Rows of padding below, and a column of nothing but padding, leave Ψ and the next state as they were."""
    baseline, rollout = made(kind, scaled=scaled), episodes()
    _, state = baseline.init(KEY, TABLE, SOMEBODY.policy)
    state = jax.tree.map(lambda leaf: leaf + jnp.asarray(0.3, leaf.dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, state)
    padded = jax.tree.map(lambda leaf: jnp.pad(leaf, ((0, 2), (0, 1))), rollout._replace(carry=()))
    padded = padded._replace(carry=jax.tree.map(lambda leaf: jnp.pad(leaf, ((0, 0), (0, 1), (0, 0))), rollout.carry))
    short = baseline.centre(state, SOMEBODY, rollout, ADVANTAGE, WEIGHTS)
    long = baseline.centre(state, SOMEBODY, padded, ADVANTAGE, jnp.pad(WEIGHTS, ((0, 2), (0, 1))))
    close(long.advantages[:T, :B], np.asarray(short.advantages))
    close(long.uncentred[:T, :B], np.asarray(short.uncentred))
    for x, y in zip(jax.tree.leaves(long.control), jax.tree.leaves(short.control), strict=True):
        close(jnp.sum(x, axis=0), np.asarray(y).sum(axis=0))
    assert float(jnp.abs(long.advantages).sum()) == pytest.approx(float(jnp.abs(short.advantages).sum()), rel=1e-5)
    # … nor does what stands there, in a record that does not hold its zeros
    for x, y in zip(
        jax.tree.leaves(
            baseline.fit(
                KEY,
                state,
                NOBODY,
                padded,
                long._replace(targets=long.targets + 1e3 * (1 - padded.mask), uncentred=long.uncentred + 1e3 * (1 - padded.mask)),
            )
        ),
        jax.tree.leaves(baseline.fit(KEY, state, NOBODY, rollout, short)),
        strict=True,
    ):
        close(x, np.asarray(y), 1e-5)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_what_was_there_before_the_baseline_is_the_return(kind: str) -> None:
    """`uncentred`, whose variance is logged beside that of Ψ, and the targets do not depend on the baseline.

    Only a value function bootstraps: to all others, a truncation is worth 0.
    """
    rollout = episodes()
    if kind in BOOTSTRAPPING:
        rollout = rollout._replace(terminated=rollout.terminated | rollout.truncated, truncated=jnp.zeros((T, B), bool))
    _, state = made(kind).init(KEY, TABLE, SOMEBODY.policy)
    centred = made(kind).centre(state, SOMEBODY, rollout, ADVANTAGE, WEIGHTS)
    close(centred.uncentred, returns_of(rollout))
    close(np.asarray(centred.targets) * MASK, returns_of(rollout))


# ── what each subtracts ──────────────────────────────────────────────────────────────────────────────────────────────


def centred_by(kind: str, state: Any = None, advantage: Any = ADVANTAGE) -> np.ndarray:
    if state is None:
        _, state = made(kind).init(KEY, TABLE, ())
    return np.asarray(made(kind).centre(state, NOBODY, episodes(), advantage, WEIGHTS).advantages)


def test_none_subtracts_nothing() -> None:
    close(centred_by("none"), returns_of(episodes()))


def test_mean_is_that_of_all_valid_steps() -> None:
    G = returns_of(episodes())
    close(centred_by("mean"), (G - G[MASK > 0].mean()) * MASK)


def test_mean_of_total_returns_is_theirs() -> None:
    R = np.broadcast_to(returns_of(episodes())[0], (T, B))
    close(centred_by("mean", advantage=partial(total_return, discount=GAMMA)), (R - R[MASK > 0].mean()) * MASK)


def test_episode_mean_is_each_episodes_own() -> None:
    G = returns_of(episodes())
    close(centred_by("episode-mean"), (G - G.sum(axis=0) / LENGTHS) * MASK)


def test_running_mean_is_used_as_it_stands() -> None:
    close(centred_by("running-mean", jnp.asarray(0.7)), (returns_of(episodes()) - 0.7) * MASK)


def told(targets: Any) -> Centred:
    """What a baseline learns from, where only the targets (and equal Ψ) matter."""
    return Centred(targets, targets, targets, ())


@pytest.mark.parametrize("rate", [0.1, 0.25, 1.0])
def test_running_mean_moves_by_its_rate(rate: float) -> None:
    baseline, rollout = baselines.running_mean(rate), episodes()
    critic, state = baseline.init(KEY, TABLE, SOMEBODY.policy)
    assert critic == ()
    assert float(state) == 0.0
    b, mean = 0.0, returns_of(rollout)[MASK > 0].mean()
    for _ in range(3):
        state, _ = baseline.fit(KEY, state, NOBODY, rollout, told(jnp.asarray(returns_of(rollout), jnp.float32)))
        b = b + rate * (mean - b)
        close(state, b)


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.0001, float("nan"), float("inf")])
def test_running_mean_refuses_a_rate_outside_its_range(rate: float) -> None:
    with pytest.raises(UsageError, match=r"baseline rate: got .*\(0, 1\]") as caught:
        baselines.running_mean(rate)
    assert str(rate) in str(caught.value)


def critic_state(values: np.ndarray) -> Any:
    critic = table_critic()(KEY, TABLE)
    return jax.tree.map(lambda leaf: jnp.asarray(values, leaf.dtype), critic), ()


@pytest.mark.parametrize("advantage", [reward_to_go, td, partial(gae, trace=0.7)], ids=["reward_to_go", "td", "gae"])
def test_value_hands_the_critics_values_to_the_estimator(advantage: Any) -> None:
    """V(o_t) and V of the *true* next observation, which is not the next row's where an episode ended."""
    rollout, V = episodes(), np.array([0.5, -1.0, 2.0, 0.25], np.float32)
    advantage = partial(advantage, discount=GAMMA)
    arrays = rollout.reward, V[rollout.obs], V[rollout.next_obs], rollout.terminated, rollout.truncated
    psi, targets = advantage(*map(jnp.asarray, arrays))
    centred = made("value").centre(critic_state(V), NOBODY, rollout, advantage, WEIGHTS)
    close(centred.advantages, np.asarray(psi) * MASK)
    close(centred.targets, np.asarray(targets))
    close(centred.uncentred, (np.asarray(psi) + V[rollout.obs]) * MASK)


# ── the fit of the value function ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("critic", "spec"),
    [(None, TABLE), (linear_critic(), PLANE), (network_critic((8,)), PLANE)],
    ids=["table", "linear", "network"],
)
def test_fitting_lowers_the_error_over_valid_steps(critic: Any, spec: Spec) -> None:
    baseline, rollout = baselines.value(critic, learning_rate=0.01, gradient_steps=5), episodes(plane=spec is PLANE)
    targets = jnp.asarray(returns_of(rollout), jnp.float32)
    _, state = baseline.init(KEY, spec, SOMEBODY.policy)

    def error(state: Any) -> float:
        return float(((np.asarray(state[0].value(rollout.obs)) - returns_of(rollout)) ** 2)[MASK > 0].mean())

    fit = jax.jit(baseline.fit)
    errors = [error(state)]
    for _ in range(3):
        state, info = fit(KEY, state, NOBODY, rollout, told(targets))
        close(info["value_loss"], errors[-1], 1e-5)  # the error of the critic that was used
        errors.append(error(state))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.99 * errors[0]


@pytest.mark.usefixtures("x64")
def test_a_linear_critic_reaches_the_least_squares_solution() -> None:
    baseline = baselines.value(linear_critic(), learning_rate=0.3, gradient_steps=2000, optimizer=optax.sgd)
    rollout = jax.tree.map(lambda leaf: leaf.astype(float) if leaf.dtype == jnp.float32 else leaf, episodes(plane=True))
    rng = np.random.default_rng(5)
    targets = rng.normal(size=(T, B)) + 50 * (1 - MASK)  # padding is far off
    _, state = baseline.init(KEY, PLANE, SOMEBODY.policy)
    (critic, _), _ = jax.jit(baseline.fit)(KEY, state, NOBODY, rollout, told(jnp.asarray(targets)))
    X = np.asarray(rollout.obs)[MASK > 0]
    X = np.concatenate([np.ones((len(X), 1)), X], axis=1)
    solution = np.linalg.lstsq(X, targets[MASK > 0], rcond=None)[0]
    close(critic.head.weights, solution, 1e-6)


@pytest.mark.usefixtures("x64")
def test_a_table_moves_to_the_mean_target_of_each_state() -> None:
    """Over valid steps alone: the padding's zeros are no visits to state 0."""
    baseline = baselines.value(table_critic(), learning_rate=0.5, gradient_steps=500, optimizer=optax.sgd)
    rollout = jax.tree.map(lambda leaf: leaf.astype(float) if leaf.dtype == jnp.float32 else leaf, episodes())
    targets = np.random.default_rng(5).normal(size=(T, B)) + 50 * (1 - MASK)
    _, state = baseline.init(KEY, TABLE, SOMEBODY.policy)
    (critic, _), _ = jax.jit(baseline.fit)(KEY, state, NOBODY, rollout, told(jnp.asarray(targets)))
    obs = np.asarray(rollout.obs)
    visited = [s for s in range(S) if ((obs == s) & (MASK > 0)).any()]
    assert 0 in visited
    assert len(visited) > 2
    for s in visited:
        close(critic.value(jnp.asarray(s)), targets[(obs == s) & (MASK > 0)].mean(), 1e-8)


def test_as_many_gradient_steps_as_asked_for() -> None:
    """V ← V − rate · ∂(V − G)²/∂V, k times: the error shrinks by (1 − 2 rate)^k."""
    one = jax.tree.map(lambda leaf: leaf[:1, :1], episodes())
    for count in (1, 3):
        baseline = baselines.value(table_critic(), learning_rate=0.1, gradient_steps=count, optimizer=optax.sgd)
        _, state = baseline.init(KEY, TABLE, SOMEBODY.policy)
        (critic, _), info = baseline.fit(KEY, state, NOBODY, one, told(jnp.full((1, 1), 2.0)))
        close(critic.value(one.obs)[0, 0], 2.0 * (1 - 0.8**count))
        close(info["value_loss"], 4.0)


def test_no_gradient_flows_through_the_targets() -> None:
    """A target that bootstraps from the critic itself is held fixed."""
    baseline = baselines.value(table_critic(), learning_rate=0.1, gradient_steps=1, optimizer=optax.sgd)
    state, rollout = critic_state(np.array([1.0, 2.0, 3.0, 4.0])), episodes()
    state = (state[0], optax.sgd(0.1).init(state[0]))

    def loss(values: Any) -> Any:
        moved, _ = baseline.fit(KEY, state, NOBODY, rollout, told(values))
        return jnp.sum(moved[0].value(rollout.obs))

    assert float(jnp.abs(jax.grad(loss)(jnp.ones((T, B)))).sum()) == 0.0


def test_explained_variance_is_that_of_the_critic_that_was_used() -> None:
    rollout, V = episodes(), np.array([0.5, -1.0, 2.0, 0.25], np.float32)
    state = critic_state(V)[0], made("value").init(KEY, TABLE, ())[1][1]
    targets = np.random.default_rng(5).normal(size=(T, B)).astype(np.float32) + 50 * (1 - MASK)
    valid, missing = targets[MASK > 0], (targets - V[rollout.obs])[MASK > 0]
    _, info = made("value").fit(KEY, state, NOBODY, rollout, told(jnp.asarray(targets)))
    close(info["explained_variance"], 1 - missing.var() / valid.var(), 1e-5)
    _, info = made("value").fit(KEY, state, NOBODY, rollout, told(jnp.asarray(V[rollout.obs] + 100)))
    close(info["explained_variance"], 1.0, 1e-5)  # but for a constant
    _, info = made("value").fit(KEY, state, NOBODY, rollout, told(jnp.full((T, B), 0.1)))
    assert float(info["explained_variance"]) == 0.0  # nothing to explain


def test_a_critic_may_learn_from_other_targets_than_the_algorithms() -> None:
    """Monte Carlo for the policy, TD for V: one step of SGD on a table is V(s) += 2 α Σ_{t: s_t = s} δ_t / n."""
    rollout, V = episodes(), np.array([0.5, -1.0, 2.0, 0.25], np.float32)
    baseline = baselines.value_linear(target=partial(td, discount=GAMMA), learning_rate=0.2, gradient_steps=1, optimizer=optax.sgd)
    state = critic_state(V)[0], baseline.init(KEY, TABLE, ())[1][1]
    values, next_values = V[rollout.obs], V[rollout.next_obs]
    centred = baseline.centre(state, NOBODY, rollout, ADVANTAGE, WEIGHTS)
    arrays = map(jnp.asarray, (rollout.reward, values, next_values, rollout.terminated, rollout.truncated))
    close(centred.advantages, np.asarray(ADVANTAGE(*arrays)[0]) * MASK)
    (critic, _), _ = baseline.fit(KEY, state, NOBODY, rollout, centred)
    errors = np.asarray(rollout.reward) + GAMMA * np.where(rollout.terminated, 0, next_values) - values
    expected = V.copy()
    np.add.at(expected, np.asarray(rollout.obs), 0.4 * errors * MASK / MASK.sum())
    close(critic.value(jnp.arange(S)), expected)


@pytest.mark.parametrize("count", [0, -1, 2.5, True])
def test_value_refuses_a_number_of_steps_that_is_none(count: Any) -> None:
    with pytest.raises(UsageError, match="gradient_steps") as caught:
        baselines.value(gradient_steps=count)
    assert repr(count) in str(caught.value)


# ── normalisation ────────────────────────────────────────────────────────────────────────────────────────────────────


@lru_cache
def scale(epsilon: float = 1e-8) -> Any:
    """Ψ and mask to normalised Ψ, through the combinator; its ε cannot hide behind the estimator, which hands Ψ on."""
    baseline = normalised(baselines.none(), epsilon)

    def run(psi: Any, mask: Any) -> Any:
        rollout = Rollout(psi, psi, psi, psi, mask > 2, mask > 2, psi, mask, mask, (), {})
        return baseline.centre((), NOBODY, rollout, lambda rewards, *_: (rewards, rewards), mask).advantages

    return jax.jit(run)


def scaled(psi: Any, mask: Any = None) -> np.ndarray:
    psi = np.asarray(psi, np.float32)
    return np.asarray(scale()(psi, np.ones_like(psi) if mask is None else np.asarray(mask, np.float32)))


@given(seed=st.integers(0, 2**32 - 1), shift=st.sampled_from([0.0, 5.0, -300.0]), size=st.sampled_from([1e-2, 1.0, 1e3]))
def test_normalised_has_mean_0_and_standard_deviation_1_over_valid_steps(seed: int, shift: float, size: float) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((T, B)) < 0.7
    mask[:2, 0] = True
    psi = (rng.normal(size=(T, B)) + shift) * size
    got = scaled(psi * mask, mask)
    assert (got[~mask] == 0).all()
    resolved = 1e-5 * max(1.0, abs(shift))
    assert abs(got[mask].mean()) < resolved
    assert abs(got[mask].std() - 1) < resolved
    np.testing.assert_allclose(got[mask], (psi[mask] - psi[mask].mean()) / psi[mask].std(), rtol=0, atol=30 * resolved)


def test_a_batch_of_one_or_two_steps() -> None:
    close(scaled([[3.7]]), [[0.0]], 0)
    close(scaled([[3.0], [5.0]]), [[-1.0], [1.0]])
    close(scaled([[7.0], [5.0], [0.0]], [[0], [1], [0]]), [[0.0], [0.0], [0.0]], 0)
    close(scaled([[7.0, 9.0]], [[0, 0]]), [[0.0, 0.0]], 0)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, -7.3, 123.456, 1000.1])
@pytest.mark.parametrize("shape", [(3, 1), (7, 1), (1000, 1), (77, 13)], ids=str)
def test_equal_advantages_become_0(value: float, shape: tuple[int, int]) -> None:
    """Their mean is rounded, so that the difference from it is no zero; divided by its own size it would be ±1.

    How far it is rounded depends on the order in which a shape is summed: over 13 columns, by more than ten units in the
    last place.
    """
    mask = np.random.default_rng(0).random(shape) < 0.8
    for valid in (mask, np.ones(shape)):
        np.testing.assert_allclose(scaled(np.full(shape, value) * valid, valid), np.zeros(shape), rtol=0, atol=1e-6)


def test_normalised_leaves_the_rest_of_the_baseline_alone() -> None:
    inner = baselines.running_mean(0.5)
    outer = normalised(inner)
    assert outer.init is inner.init
    assert outer.fit is inner.fit
    plain = inner.centre(jnp.asarray(0.7), NOBODY, episodes(), ADVANTAGE, WEIGHTS)
    after = outer.centre(jnp.asarray(0.7), NOBODY, episodes(), ADVANTAGE, WEIGHTS)
    close(after.targets, np.asarray(plain.targets), 0)
    close(after.uncentred, np.asarray(plain.uncentred), 0)


# ── masked statistics ────────────────────────────────────────────────────────────────────────────────────────────────


def test_masked_mean_and_variance_are_those_of_the_valid_elements() -> None:
    x = np.random.default_rng(0).normal(size=(T, B)).astype(np.float32) + 3
    close(masked_mean(x, MASK), x[MASK > 0].mean())
    close(masked_variance(x, MASK), x[MASK > 0].var())
    nothing = np.zeros((T, B), np.float32)
    assert float(masked_mean(x, nothing)) == 0.0
    assert float(masked_variance(x, nothing)) == 0.0
    one = nothing.copy()
    one[1, 1] = 1
    assert float(masked_variance(x, one)) == 0.0


# ── planted bugs ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_mean_over_the_padding_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines._Mean, "measure", lambda self, psi, weight, obs, time: (jnp.sum(psi), jnp.asarray(1.0 * psi.size)))
    G, baseline = returns_of(episodes()), baselines.mean()
    _, state = baseline.init(KEY, TABLE, ())
    got = np.asarray(baseline.centre(state, NOBODY, episodes(), ADVANTAGE, WEIGHTS).advantages)
    assert np.abs(got - (G - G[MASK > 0].mean()) * MASK).max() > 0.01


# ── what leaves nothing ──────────────────────────────────────────────────────────────────────────────────────────────


def trace(baseline: Baseline, state: Any, rollout: Rollout) -> None:
    """What an update does before anything is compiled."""
    jax.eval_shape(lambda data: baseline.centre(state, SOMEBODY, data, ADVANTAGE, data.mask).advantages, rollout)


@pytest.mark.parametrize(
    ("name", "rows", "columns"),
    [
        ("mean", 1, 1),
        ("episode-mean", 1, 1),
        ("episode-mean", 1, 3),
        ("time-mean", 5, 1),
        ("state-mean", 1, 1),
        ("least-squares", 2, 3),
        ("optimal", 5, 1),
    ],
)
def test_a_batch_that_is_its_own_baseline_is_refused(name: str, rows: int, columns: int) -> None:
    """It would leave a gradient of exactly 0, for ever, without a word."""
    few = jax.tree.map(lambda leaf: np.asarray(leaf)[:rows, :columns], episodes())
    _, state = KINDS[name]().init(KEY, TABLE, SOMEBODY.policy)
    with pytest.raises(UsageError, match=f"got '{name}' for {rows} .* {columns} .*leaves nothing; use .*previous-batch"):
        trace(KINDS[name](), state, few)


def test_scaled_advantages_and_the_optimal_baseline_do_not_mix() -> None:
    with pytest.raises(UsageError, match="'optimal' with normalised advantages"):
        trace(normalised(baselines.optimal()), (), episodes())
