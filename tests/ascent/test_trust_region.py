"""Steps that measure the KL: to a radius, back from it, and of a size that follows it."""

from __future__ import annotations

import importlib
from functools import cache, partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ascent.batches import example, flat, hessian_of_kl, same_bits
from policygrad import advantages, baselines, policies
from policygrad.algorithms import compose
from policygrad.ascent import Direction, backtracking, kl_adaptive, kl_radius, linear, natural, steepest
from policygrad.envs import LQR
from policygrad.envs.classic_control import cartpole
from policygrad.errors import UsageError
from policygrad.gradients import score_function
from policygrad.rollout import compiled_collector, steps
from policygrad.types import Ascent, Batch, Params, Spec

region = importlib.import_module("policygrad.ascent.trust_region")
natural_module = importlib.import_module("policygrad.ascent.natural")

KEY = jax.random.key(0)
NOW = jnp.zeros(())
KINDS = ("softmax", "gaussian")
x64 = pytest.mark.usefixtures("x64")


def close(got: Any, expected: Any, tolerance: float) -> None:
    np.testing.assert_allclose(np.asarray(got), np.asarray(expected), rtol=tolerance, atol=tolerance)


def given(direction: Any) -> Direction:
    """A direction that is what it is."""
    return Direction(score_function(), lambda params, batch, gradient: (Params(direction, ()), {}))


@cache
def stepper(kind: str, max_kl: float) -> Any:
    """(params, batch, direction) -> a step to the radius along it; one program for all directions."""

    @jax.jit
    def step(params: Params, batch: Batch, direction: Any) -> Any:
        return kl_radius(given(direction), max_kl).step(KEY, params, (), batch, NOW)

    return step


@cache
def natural_direction(kind: str, damping: float = 0.1) -> Any:
    made = natural(score_function(), damping=damping)
    return jax.jit(lambda params, batch: made(params, batch, NOW).direction.policy)(*example(kind))


# ── the radius ───────────────────────────────────────────────────────────────────────────────────────────────────────


def quadratic_kl(kind: str, step: Any, direction: Any) -> float:
    """½ ΔᵀF Δ of the step that is taken, F without damping, formed by differentiating the KL twice."""
    params, batch = example(kind)
    moved, _, _ = step(params, batch, direction)
    change = flat(moved) - flat(params)
    return float(change @ hessian_of_kl(kind) @ change / 2)


@x64
@pytest.mark.parametrize("kind", KINDS)
def test_the_quadratic_kl_of_the_step_is_the_radius(kind: str) -> None:
    params, batch = example(kind)
    plain = jax.jit(score_function())(params, batch, NOW)[0].policy
    for direction in (natural_direction(kind), plain, jax.tree.map(lambda leaf: 1e-200 * leaf, plain)):
        close(quadratic_kl(kind, stepper(kind, 0.01), direction), 0.01, 1e-6 * 0.01)
    # … and, for a small one, so is the true KL
    moved, _, info = stepper(kind, 1e-8)(params, batch, natural_direction(kind))
    mask = batch.rollout.mask
    close(info["kl"] / 1e-8, 1.0, 1e-3)
    kl = np.sum(batch.old.kl(moved.policy(batch.rollout.obs)) * mask) / mask.sum()
    close(info["kl"], kl, 1e-15)
    close(info["step_norm"], np.linalg.norm(flat(moved) - flat(params)), 1e-12)


@x64
def test_a_radius_without_the_root_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(region, "radius", lambda curvature, max_kl: 2 * max_kl / curvature)
    assert abs(quadratic_kl("softmax", stepper.__wrapped__("softmax", 0.01), natural_direction("softmax")) - 0.01) > 1e-3


@x64
def test_the_curvature_of_the_damped_matrix_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    true = natural_module.curvature

    def with_damping(policy: Any, batch: Batch, d: Any) -> Any:
        return true(policy, batch, d) + 0.1 * flat_dot(d)

    monkeypatch.setattr(region, "curvature", with_damping)
    assert abs(quadratic_kl("softmax", stepper.__wrapped__("softmax", 0.01), natural_direction("softmax")) - 0.01) > 1e-3


def flat_dot(d: Any) -> Any:
    return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(d))


@x64
@pytest.mark.parametrize("kind", KINDS)
def test_no_direction_is_no_step_and_one_that_is_not_finite_is_no_policy(kind: str) -> None:
    params, batch = example(kind)
    nothing = jax.tree.map(jnp.zeros_like, params.policy)
    moved, _, info = stepper(kind, 0.01)(params, batch, nothing)
    assert same_bits(moved, params)
    assert info["kl"] == info["step_norm"] == 0
    moved, _, _ = stepper(kind, 0.01)(params, batch, jax.tree.map(lambda leaf: leaf + jnp.nan, nothing))
    assert np.isnan(flat(moved)).all()


@x64
def test_a_direction_in_which_the_policy_does_not_change_is_no_step() -> None:
    """A constant added to all logits."""
    params, batch = example("softmax")
    nothing = jax.tree.map(jnp.zeros_like, params.policy)
    constant = eqx.tree_at(lambda policy: policy.head.layer.bias, nothing, jnp.ones(4))
    moved, _, _ = stepper("softmax", 0.01)(params, batch, constant)
    assert np.isfinite(flat(moved)).all()
    close(moved.policy(batch.rollout.obs).probabilities(), batch.old.probabilities(), 1e-6)


@cache
def sized(kind: str, max_kl: float, step_size: float) -> Any:
    """As `stepper`, with a step size."""
    return jax.jit(
        lambda params, batch, direction: kl_radius(given(direction), max_kl, step_size=step_size).step(KEY, params, (), batch, NOW)
    )


@x64
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_size_is_kept_to_inside_the_radius_and_no_further(kind: str) -> None:
    """θ + α d where that is inside, and what there is without α where it is not."""
    params, batch = example(kind)
    direction = natural_direction(kind)
    start, way = flat(params), flat(direction)
    edge = np.linalg.norm(flat(stepper(kind, 0.01)(params, batch, direction)[0]) - start) / np.linalg.norm(way)
    close(flat(sized(kind, 0.01, 0.5 * edge)(params, batch, direction)[0]), start + 0.5 * edge * way, 1e-12)
    close(flat(sized(kind, 0.01, 2 * edge)(params, batch, direction)[0]), start + edge * way, 1e-12)


@x64
def test_a_step_size_follows_its_schedule() -> None:
    params, batch = example("softmax")
    direction = natural_direction("softmax")
    ascent = kl_radius(given(direction), 1e9, step_size=linear(0.2, 0.1))
    for progress, size in ((0.0, 0.2), (1.0, 0.1)):
        moved, _, _ = jax.jit(ascent.step)(KEY, params, (), batch, jnp.asarray(progress))
        close(flat(moved), flat(params) + size * flat(direction), 1e-12)


# ── the surrogate ────────────────────────────────────────────────────────────────────────────────────────────────────


@x64
@pytest.mark.parametrize("kind", KINDS)
def test_the_surrogate_has_the_gradient_of_the_score_function_and_its_own_value(kind: str) -> None:
    """With importance weights, an entropy bonus and a control variate."""
    params, batch = example(kind)
    rng = np.random.default_rng(0)
    control = jax.tree.map(lambda leaf: jnp.asarray(0.01 * rng.normal(size=(3, *leaf.shape))), params.policy)
    moved = jax.tree.map(lambda leaf: leaf + jnp.asarray(0.2 * rng.normal(size=leaf.shape)), params.policy)
    batch = batch._replace(control=control)

    @jax.jit
    def compared(old: Any, moved: Any, batch: Batch) -> Any:
        here, slope = jax.value_and_grad(region.surrogate)(old, old, batch, 0.3)
        wanted, _ = score_function(0.3)(Params(old, ()), batch, NOW)
        return here, slope, wanted.policy, region.surrogate(moved, old, batch, 0.3)

    here, slope, wanted, there = compared(params.policy, moved, batch)
    assert here == 0
    close(flat(slope), flat(wanted), 1e-10)
    new, old, rollout = moved(batch.rollout.obs), batch.old, batch.rollout
    ratio = np.exp(new.log_prob(rollout.action) - old.log_prob(rollout.action))
    value = np.sum(batch.weights * ((ratio - 1) * batch.advantages + 0.3 * (new.entropy() - old.entropy())))
    lost = flat(jax.tree.map(lambda leaf: leaf.sum(axis=0), control))
    close(there, value - lost @ (flat(moved) - flat(params)), 1e-12)


# ── backtracking ─────────────────────────────────────────────────────────────────────────────────────────────────────


def watched(ascent: Ascent) -> Ascent:
    """The same, and in its info all that a judge needs."""

    def step(key: Any, params: Params, state: Any, batch: Batch, progress: Any, refresh: Any) -> Any:
        moved, state, info = ascent.step(key, params, state, batch, progress, refresh)
        seen = {"before": params.policy, "after": moved.policy, "new": moved.policy(batch.rollout.obs), "batch": batch._replace(carry=())}
        return moved, state, {**info, "seen": seen}

    return ascent._replace(step=step)


def hostile_at_times(params: Params, batch: Batch, progress: Any) -> tuple[Params, dict]:
    """The gradient, but uphill is downhill in the fourth fifth of the run."""
    gradient, info = score_function()(params, batch, progress)
    sign = jnp.where((progress > 0.595) & (progress < 0.795), -1.0, 1.0)
    return jax.tree.map(lambda leaf: sign * leaf, gradient), info


ENVS = {
    "softmax": cartpole(),
    "gaussian": LQR(A=[[1.02]], B=[[0.5]], Q=[[1.0]], R=[[0.1]], noise=[[0.01]], initial_covariance=[[1.0]], time_limit=20),
}
UPDATES, MAX_KL = 100, 0.01


@cache
def history(kind: str) -> Any:
    """What 100 updates of TRPO did: everything with a leading axis [100]."""
    env = ENVS[kind]
    critic = policies.default_critic(hidden_sizes=(8,))
    algorithm = compose(
        "trpo",
        {},
        collect=steps(16),
        policy=policies.mlp((8,)),
        advantage=partial(advantages.gae, discount=0.99, trace=0.95),
        baseline=baselines.normalised(baselines.value(critic, gradient_steps=2)),
        ascent=watched(backtracking(natural(hostile_at_times), MAX_KL)),
    )
    collector = compiled_collector(env, algorithm.collect, 4)

    @jax.jit
    def run(key: Any) -> Any:
        agent = algorithm.init(key, Spec(env.observation_space, env.action_space, 4, env.time_limit))
        agent = agent._replace(total=jnp.asarray(UPDATES * 64, jnp.int32))

        def update(carry: Any, key: Any) -> Any:
            agent, state = carry
            state, rollout, _ = collector.collect(agent.params.policy, key, state)
            agent, metrics = algorithm.update(key, agent, rollout)
            return (agent, state), metrics

        return jax.lax.scan(update, (agent, collector.init(key)), jax.random.split(key, UPDATES))[1]

    return jax.device_get(run(jax.random.key(1)))


def kl_of(old: Any, new: Any) -> np.ndarray:
    """KL(old ‖ new) in NumPy's float64."""
    if hasattr(old, "logits"):
        p, q = (np.asarray(d.logits, np.float64) for d in (old, new))
        p, q = (x - np.log(np.exp(x).sum(axis=-1, keepdims=True)) for x in (p, q))
        return np.sum(np.exp(p) * (p - q), axis=-1)
    m, n, s, t = (np.asarray(x, np.float64) for x in (old.mean, new.mean, old.log_std, new.log_std))
    return np.sum(t - s + (np.exp(2 * s) + (m - n) ** 2) / (2 * np.exp(2 * t)) - 0.5, axis=-1)


@pytest.mark.parametrize("kind", KINDS)
def test_over_100_updates_every_accepted_step_is_inside_and_better_and_every_other_is_none(kind: str) -> None:
    told = history(kind)
    seen, accepted = told["seen"], told["accepted"] == 1
    batch = seen["batch"]
    mask = batch.rollout.mask
    kl = (kl_of(batch.old, seen["new"]) * mask).sum(axis=(1, 2)) / mask.sum(axis=(1, 2))
    new_log_prob = jax.vmap(lambda new, action: new.log_prob(action))(seen["new"], batch.rollout.action)
    ratio = np.exp(np.asarray(new_log_prob, np.float64) - batch.rollout.log_prob)
    better = (batch.weights * (ratio - 1) * batch.advantages).sum(axis=(1, 2))
    rounding = 1e-6
    assert accepted.sum() >= 70
    assert (kl[accepted] <= MAX_KL + rounding).all()
    # A shorter one only where no longer step improved the surrogate, which is rare.
    assert (kl[accepted] > 0.3 * MAX_KL).mean() > 0.95, "the first step inside, not a later one"
    assert (better[accepted] > -rounding).all()
    assert better[accepted].mean() > 0.005
    close(told["kl"][accepted], kl[accepted], 2e-6)
    close(told["surrogate_improvement"][accepted], better[accepted], 2e-6)
    # Uphill was downhill in updates 60 to 79, and hardly a step is better.
    assert (~accepted[60:80]).sum() >= 15
    for leaves in zip(*(jax.tree.leaves(seen[when]) for when in ("before", "after")), strict=True):
        before, after = (leaf[~accepted] for leaf in leaves)
        assert before.tobytes() == after.tobytes()
        assert (leaves[0][accepted] != leaves[1][accepted]).any()
    for name in ("kl", "surrogate_improvement", "step_norm"):
        assert (told[name][~accepted] == 0).all()
    assert (told["backtracks"][~accepted] == 10).all()
    assert told["finite"].all()


def shrinking_sigma() -> tuple[Params, Batch]:
    """All actions were the mean, and good: σ falls. KL(old ‖ new) is then above its quadratic, KL(new ‖ old) below."""
    params, batch = example("gaussian")
    rollout = batch.rollout
    return params, batch._replace(rollout=rollout._replace(action=batch.old.mean), advantages=rollout.mask)


def tried(max_kl: float = 0.2, flip: float = 1.0, **arguments: Any) -> Any:
    params, batch = shrinking_sigma()
    batch = batch._replace(advantages=flip * batch.advantages)
    ascent = backtracking(Direction(score_function(), lambda p, b, g: (jax.tree.map(lambda x: flip * x, g), {})), max_kl, **arguments)
    moved, _, info = jax.jit(ascent.step)(KEY, params, (), batch, NOW)
    return params, batch, moved, info


def true_kl(batch: Batch, moved: Params) -> float:
    mask = np.asarray(batch.rollout.mask)
    return float((kl_of(batch.old, moved.policy(batch.rollout.obs)) * mask).sum() / mask.sum())


@x64
def test_the_step_is_the_radius_shortened_until_it_fits() -> None:
    params, batch, moved, info = tried(shrink=0.95)
    whole, _, _ = stepper("gaussian", 0.2)(params, batch, jax.jit(score_function())(params, batch, NOW)[0].policy)
    assert info["accepted"] == 1
    assert info["backtracks"] == 2
    close(flat(moved) - flat(params), 0.95**2 * (flat(whole) - flat(params)), 1e-12)
    close(info["kl"], true_kl(batch, moved), 1e-12)
    assert 0.15 < info["kl"] <= 0.2
    assert info["surrogate_improvement"] > 0


@x64
def test_the_kl_the_wrong_way_round_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        region, "mean_kl", lambda old, policy, batch: baselines.masked_mean(policy(batch.rollout.obs).kl(old), batch.rollout.mask)
    )
    _, batch, moved, info = tried(shrink=0.95)
    assert info["accepted"] == 1
    assert true_kl(batch, moved) > 0.24


@x64
def test_a_rejected_step_leaves_every_bit_and_too_few_backtracks_reject() -> None:
    params, _, moved, info = tried(shrink=0.95, max_backtracks=1)
    assert info["accepted"] == 0
    assert same_bits(moved, params)


@x64
def test_a_rejected_step_that_stays_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bug of a respected library: the line search fails, and the last weights tried are kept."""
    monkeypatch.setattr(region, "chosen", lambda keep, new, old: new)
    params, _, moved, info = tried(shrink=0.95, max_backtracks=1)
    assert info["accepted"] == 0
    assert not same_bits(moved, params)


@x64
def test_what_is_not_finite_is_not_taken_for_a_rejection() -> None:
    """Else NaN advantages would leave the policy where it is for ever, and nobody would know."""
    _, _, moved, info = tried(flip=float("nan"))
    assert info["accepted"] == 0
    assert np.isnan(flat(moved)).all()


@x64
def test_the_entropy_bonus_counts_for_what_is_better() -> None:
    """Advantages of 0: the bonus is all there is to climb, and without it in the surrogate nothing is better."""
    params, batch = example("softmax")
    batch = batch._replace(advantages=jnp.zeros_like(batch.advantages))
    for bonus, accepted in ((0.1, 1), (0.0, 0)):
        ascent = backtracking(steepest(score_function(0.1)), 0.01, entropy_bonus=bonus)
        assert jax.jit(ascent.step)(KEY, params, (), batch, NOW)[2]["accepted"] == accepted


@x64
def test_the_radius_follows_its_schedule() -> None:
    params, batch = example("softmax")
    direction = natural_direction("softmax")

    @jax.jit
    def taken(progress: Any) -> Any:
        return [make(given(direction), linear(0.02, 0.01)).step(KEY, params, (), batch, progress)[0] for make in (kl_radius, backtracking)]

    for progress, wanted in ((0.0, 0.02), (1.0, 0.01)):
        for moved in taken(jnp.asarray(progress))[:1]:
            change = flat(moved) - flat(params)
            close(change @ hessian_of_kl("softmax") @ change / 2, wanted, 1e-8)


# ── the step size that follows the KL ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("kl", "factor"),
    [(0.021, 1 / 1.5), (0.02, 1.0), (0.01, 1.0), (0.005, 1.0), (0.0049, 1.5), (0.0, 1.0), (np.nan, 1 / 1.5), (np.inf, 1 / 1.5)],
)
def test_the_step_size_follows_the_rule(kl: float, factor: float) -> None:
    adapted = importlib.import_module("policygrad.ascent.step_size").adapted
    close(adapted(jnp.asarray(kl), 0.01, 1.5, 2.0), factor, 1e-6)


@x64
@pytest.mark.parametrize("first", [1e-4, 1.0])
def test_the_kl_comes_into_the_band_and_stays_there(first: float) -> None:
    params, batch = example("gaussian")
    ascent = kl_adaptive(natural(score_function()), 0.01, learning_rate=first)
    step = jax.jit(ascent.step)
    rates, kls = [ascent.init(params)], []
    for _ in range(40):
        moved, rate, info = step(KEY, params, rates[-1], batch, NOW)
        assert info["learning_rate"] == rates[-1]
        close(info["kl"], true_kl(batch, moved), 1e-10)
        close(flat(moved) - flat(params), float(rates[-1]) * flat(natural_direction("gaussian")), 1e-10)
        kls.append(float(info["kl"]))
        rates.append(rate)
    assert not 0.005 <= kls[0] <= 0.02
    assert all(0.005 <= kl <= 0.02 for kl in kls[-5:])


@x64
def test_the_step_size_stays_within_its_bounds() -> None:
    params, batch = example("softmax")
    for first, bounds in ((1e-4, (1e-5, 1.2e-4)), (100.0, (80.0, 100.0))):
        ascent = kl_adaptive(given(natural_direction("softmax")), 0.01, learning_rate=first, bounds=bounds)
        _, state, _ = jax.jit(ascent.step)(KEY, params, ascent.init(params), batch, NOW)
        close(state, bounds[1] if first < 1 else bounds[0], 1e-12)


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────────────────────

CRITIC = {"w": np.zeros(2)}


@x64
@pytest.mark.parametrize("make", [kl_radius, backtracking, kl_adaptive])
def test_a_critic_that_climbs_with_the_policy_is_refused(make: Any) -> None:
    params, batch = example("softmax")
    ascent = make(steepest(score_function()), 0.01)
    with pytest.raises(UsageError, match="critic: got one that climbs with the policy"):
        jax.eval_shape(lambda: ascent.step(KEY, Params(params.policy, CRITIC), ascent.init(params), batch, NOW))


@pytest.mark.parametrize("make", [kl_radius, backtracking, kl_adaptive])
@pytest.mark.parametrize("kl", [0.0, -0.01, float("nan"), float("inf"), "small", True])
def test_a_kl_that_is_not_above_0_is_refused(make: Any, kl: Any) -> None:
    with pytest.raises(UsageError, match=r"(max|target)_kl: got .*; it must be a finite number above 0") as caught:
        make(steepest(score_function()), kl)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (backtracking, {"shrink": 1.0}, "shrink: got 1.0; it must be a number between 0 and 1"),
        (backtracking, {"shrink": 0}, "shrink: got 0"),
        (backtracking, {"max_backtracks": -1}, "max_backtracks: got -1; it must be a whole number of at least 0"),
        (backtracking, {"entropy_bonus": -0.1}, "entropy_bonus: got -0.1"),
        (kl_radius, {"step_size": 0.0}, "step_size: got 0.0; it must be a finite number above 0"),
        (kl_adaptive, {"learning_rate": 0.0}, "learning_rate: got 0.0"),
        (kl_adaptive, {"factor": 1.0}, "factor: got 1.0; it must be above 1"),
        (kl_adaptive, {"band": 0.5}, "band: got 0.5; it must be above 1"),
        (kl_adaptive, {"bounds": (0.1, 1.0)}, "bounds: got"),
        (kl_adaptive, {"bounds": (0.0, 1.0)}, "bounds: got 0.0"),
    ],
)
def test_bad_arguments_are_refused(make: Any, arguments: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make(steepest(score_function()), 0.01, **arguments)


@pytest.mark.parametrize("make", [kl_radius, backtracking, kl_adaptive])
def test_what_is_measured_is_the_plain_gradient(make: Any) -> None:
    gradient = score_function()
    assert make(natural(gradient), 0.01).gradient is gradient
