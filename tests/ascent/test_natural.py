"""Fisher-vector products against Fisher matrices, conjugate gradient against dense solves, and what makes a gradient natural."""

from __future__ import annotations

import importlib
import itertools
from functools import cache
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from ascent.batches import B, T, batch_of, exact_batch, example, flat, hessian_of_kl
from policygrad import oracle, policies
from policygrad.ascent import along, conjugate_gradient, fisher_vector_product, gradient_ascent, natural, steepest
from policygrad.errors import UsageError
from policygrad.gradients import score_function
from policygrad.oracle.tables import prepare
from policygrad.types import Params, Spec
from zoo import random_mdp

natural_module = importlib.import_module("policygrad.ascent.natural")  # the package's own `natural` is the function

pytestmark = pytest.mark.usefixtures("x64")
KINDS = ("softmax", "gaussian")
NOW = jnp.zeros(())


def close(got: Any, expected: Any, tolerance: float) -> None:
    np.testing.assert_allclose(np.asarray(got), np.asarray(expected), rtol=tolerance, atol=tolerance)


def products(policy: Any, batch: Any) -> np.ndarray:
    """F by products with unit vectors."""
    start, unflatten = ravel_pytree(policy)

    @jax.jit
    def matrix(policy: Any, batch: Any) -> Any:
        matvec = fisher_vector_product(policy, batch)
        return jax.vmap(lambda v: ravel_pytree(matvec(unflatten(v)))[0])(jnp.eye(start.size))

    return np.asarray(matrix(policy, batch)).T


# ── products with the Fisher matrix ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", KINDS)
def test_products_are_those_of_the_hessian_of_the_mean_kl(kind: str) -> None:
    params, batch = example(kind)
    close(products(params.policy, batch), hessian_of_kl(kind), 1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_products_are_those_of_the_expected_outer_product_of_scores(kind: str) -> None:
    """Over all actions; for the Gaussian by Gauss and Hermite's rule, which is exact for polynomials of degree 5."""
    params, batch = example(kind)
    start, unflatten = ravel_pytree(params.policy)
    old: Any = batch.old
    if kind == "softmax":
        actions = jnp.broadcast_to(jnp.arange(4)[:, None, None], (4, T, B))
        chances = jnp.moveaxis(old.probabilities(), -1, 0)
    else:
        nodes, weights = np.polynomial.hermite_e.hermegauss(3)
        grid = np.array(list(itertools.product(range(3), repeat=2)))
        actions = old.mean[None] + jnp.exp(old.log_std)[None] * nodes[grid][:, None, None, :]
        chances = jnp.broadcast_to(jnp.asarray((weights / weights.sum())[grid].prod(axis=1))[:, None, None], (9, T, B))

    @jax.jit
    def fisher(start: Any) -> Any:
        scores = jax.jacfwd(lambda theta: jax.vmap(unflatten(theta)(batch.rollout.obs).log_prob)(actions))(start)
        return jnp.einsum("atb,atbp,atbq->pq", chances * batch.rollout.mask[None], scores, scores) / jnp.sum(batch.rollout.mask)

    close(products(params.policy, batch), fisher(start), 1e-8)


@pytest.mark.parametrize("network", [False, True])
def test_products_are_those_of_the_exact_fisher_matrix(network: bool) -> None:
    mdp = random_mdp(4, 3, 2, discount=0.8)
    spec = Spec(mdp.observation_space, mdp.action_space, 1)
    logits = np.random.default_rng(0).normal(size=(3, 2))
    build = jax.jit(policies.mlp((4,), initialisation="xavier"), static_argnums=1)
    policy = build(jax.random.key(2), spec) if network else policies.tabular_softmax(logits)
    tables, _, _ = prepare(mdp, policy)
    batch = exact_batch(tables, policy)
    close(products(policy, batch), oracle.fisher(mdp, policy), 1e-8)
    # … and the batch is what it claims to be: its gradient is ∇J
    gradient, _ = jax.jit(score_function())(Params(policy, ()), batch, NOW)
    close(flat(gradient), flat(oracle.policy_gradient(mdp, policy)), 1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_steps_that_are_none_and_weights_do_not_enter(kind: str) -> None:
    params, batch = example(kind)
    far = jnp.where(batch.rollout.mask[:, :, None] > 0, batch.rollout.obs, 7.0)
    changed = batch._replace(rollout=batch.rollout._replace(obs=far), weights=7 * batch.weights)
    close(products(params.policy, changed), products(params.policy, batch), 1e-14)


def test_forbidden_actions_leave_the_product_finite() -> None:
    class Masked(eqx.Module):
        logits: Any

        def unroll(self, carry: Any, obs: Any, resets: Any) -> Any:
            return policies.Categorical(jnp.where(obs, self.logits, -jnp.inf)), carry

        def __call__(self, obs: Any) -> Any:
            return self.unroll((), obs, None)[0]

    logits = np.random.default_rng(0).normal(size=(1, 1, 3))
    allowed = jnp.asarray([[[True, True, False]]])
    policy = Masked(jnp.asarray(logits))
    p = np.exp(logits[0, 0, :2]) / np.exp(logits[0, 0, :2]).sum()
    expected = np.zeros((3, 3))
    expected[:2, :2] = np.diag(p) - np.outer(p, p)
    close(products(policy, batch_of(policy, allowed, jnp.zeros((1, 1), int), jnp.ones((1, 1)))), expected, 1e-12)


def test_the_policy_is_run_once_and_not_in_every_iteration() -> None:
    params, batch = example("softmax")
    jaxpr = jax.make_jaxpr(lambda params, batch: natural(score_function())(params, batch, NOW).direction)(params, batch)
    loops = [equation for equation in jaxpr.jaxpr.eqns if equation.primitive.name == "while"]
    assert len(loops) == 1
    assert "tanh" in str(jaxpr)
    assert "tanh" not in str(loops[0].params["body_jaxpr"])


# ── the natural gradient ─────────────────────────────────────────────────────────────────────────────────────────────


def climbs(kind: str) -> Any:
    """damping -> what each way to solve the damped system climbs along; one program."""
    params, batch = example(kind)
    ways = {"solved": {"iterations": 200}, "cut short": {"iterations": 2}, "exact": {"exact": True}}

    @jax.jit
    def made(params: Params, batch: Any, damping: Any) -> Any:
        return {way: natural(score_function(), damping=damping, **arguments)(params, batch, NOW) for way, arguments in ways.items()}

    return lambda damping: made(params, batch, damping)


@cache
def gradient_of(kind: str) -> np.ndarray:
    return flat(jax.jit(score_function())(*example(kind), NOW)[0])


def solve_error(climb: Any, kind: str, damping: float) -> float:
    """How far the direction is from the dense solve (F + damping I)⁻¹∇J, relative to it."""
    F, gradient = hessian_of_kl(kind), gradient_of(kind)
    system = F + damping * np.eye(len(F))
    wanted = np.linalg.solve(system, gradient) if damping else np.linalg.pinv(F, hermitian=True) @ gradient
    return float(np.abs(flat(climb.direction) - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize("kind", KINDS)
def test_the_direction_is_the_damped_dense_solve(kind: str) -> None:
    made = climbs(kind)
    for damping, ways in ((0.1, ("solved", "exact")), (1e-3, ("solved", "exact")), (0.0, ("exact",))):
        found = made(damping)
        for way in ways:
            assert solve_error(found[way], kind, damping) < 1e-6, (damping, way)
        assert solve_error(found["cut short"], kind, damping) > 1e-3
        for way, climb in found.items():  # what they tell is so, also where the solve is cut short
            F, gradient, got, info = hessian_of_kl(kind), gradient_of(kind), flat(climb.direction), climb.info
            close(flat(climb.gradient), gradient, 1e-12)
            close(info["gradient_norm"], np.linalg.norm(gradient), 1e-10)
            close(info["natural_gradient_norm"], np.linalg.norm(got), 1e-10)
            close(info["curvature"], got @ F @ got, 1e-8)
            assert ("cg_residual" in info) == (way != "exact")
            if way != "exact" and damping:
                left = np.linalg.norm(gradient - F @ got - damping * got) / np.linalg.norm(gradient)
                close(info["cg_residual"], left, 1e-6)


def test_damping_forgotten_in_the_product_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(natural_module, "damped", lambda matvec, damping: matvec)
    assert solve_error(climbs("softmax")(0.1)["solved"], "softmax", 0.1) > 0.01


def test_the_mean_over_all_rows_instead_of_the_valid_ones_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(natural_module, "masked_mean", lambda x, mask: jnp.mean(x))
    params, batch = example("softmax")
    with pytest.raises(AssertionError):
        close(products(params.policy, batch), hessian_of_kl("softmax"), 1e-8)


class Reparameterised(eqx.Module):
    """A table whose logits are a linear function of other parameters: θ = M φ."""

    phi: Any  # [K]
    matrix: Any = eqx.field(static=True)  # rows of M, [S·A][K]

    def unroll(self, carry: Any, obs: Any, resets: Any) -> Any:
        return self(obs), carry

    def __call__(self, obs: Any) -> Any:
        return policies.Categorical((jnp.asarray(self.matrix) @ self.phi).reshape(3, 2)[obs])


@cache
def change_of_probabilities(columns: int, exact: bool, turned: bool = True) -> np.ndarray:
    """The first-order change of π(a|s), [S, A], along the direction, where `columns` numbers make the 6 logits (0: themselves)."""
    rng = np.random.default_rng(5)
    logits = rng.normal(size=6)
    matrix = rng.normal(size=(6, columns)) if columns else np.eye(6)
    policy = Reparameterised(jnp.asarray(np.linalg.pinv(matrix) @ logits), tuple(map(tuple, matrix.tolist())))
    tables, _, _ = prepare(random_mdp(4, 3, 2, discount=0.8), policies.tabular_softmax(logits.reshape(3, 2)))
    make = natural(score_function(), damping=0.0, iterations=60, exact=exact) if turned else steepest(score_function())

    @jax.jit
    def change(policy: Any) -> Any:
        climb = make(Params(policy, ()), exact_batch(tables, policy), NOW)
        return jax.jvp(lambda policy: policy(jnp.arange(3)).probabilities(), (policy,), (climb.direction.policy,))[1]

    return np.asarray(change(policy))


@pytest.mark.parametrize("columns", [6, 9])
@pytest.mark.parametrize("exact", [True, False])
def test_the_change_of_the_policy_does_not_depend_on_its_parameters(columns: int, exact: bool) -> None:
    """An invertible M, and a redundant parameterisation, whose Fisher matrix is singular twice over."""
    plain = change_of_probabilities(0, True)
    assert np.abs(plain).max() > 0.05
    close(change_of_probabilities(columns, exact), plain, 1e-6)
    # … as that of the plain gradient does
    assert np.abs(change_of_probabilities(columns, True, False) - change_of_probabilities(0, True, False)).max() > 0.05


def test_the_exact_direction_is_the_oracles() -> None:
    mdp = random_mdp(4, 3, 2, discount=0.8)
    policy = policies.tabular_softmax(np.random.default_rng(0).normal(size=(3, 2)))
    tables, _, _ = prepare(mdp, policy)
    direction = natural(score_function(), damping=0.0, exact=True)
    climb = jax.jit(lambda policy: direction(Params(policy, ()), exact_batch(tables, policy), NOW))(policy)
    close(flat(climb.direction), flat(oracle.natural_gradient(mdp, policy)), 1e-8)


# ── conjugate gradient ───────────────────────────────────────────────────────────────────────────────────────────────

ROOT = np.random.default_rng(7).normal(size=(6, 6))
SYSTEM = ROOT @ ROOT.T + 0.1 * np.eye(6)
RIGHT = np.random.default_rng(8).normal(size=6)


@jax.jit
def solved(matrix: Any, b: Any) -> Any:
    return conjugate_gradient(lambda v: {"a": matrix @ v["a"]}, {"a": b}, iterations=30, tolerance=1e-10)


def test_it_solves_and_tells_what_it_did() -> None:
    x, info = solved(SYSTEM, RIGHT)
    close(x["a"], np.linalg.solve(SYSTEM, RIGHT), 1e-8)
    close(info["curvature"], x["a"] @ SYSTEM @ x["a"], 1e-8)
    assert info["residual"] <= 1e-10 * np.linalg.norm(RIGHT)
    close(info["relative_residual"], info["residual"] / np.linalg.norm(RIGHT), 1e-15)
    assert 6 <= info["iterations"] <= 9  # six in exact arithmetic


@pytest.mark.parametrize(("matrix", "steps"), [(np.eye(6), 1), (np.diag([1.0, 1, 1, 5, 5, 5]), 2)])
def test_it_stops_as_soon_as_it_is_done(matrix: Any, steps: int) -> None:
    x, info = solved(matrix, RIGHT)
    assert info["iterations"] == steps
    close(x["a"], RIGHT / np.diag(matrix), 1e-12)


@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_the_size_of_the_right_hand_side_does_not_matter(size: float) -> None:
    x, info = solved(SYSTEM, size * RIGHT)
    close(x["a"] / size, np.linalg.solve(SYSTEM, RIGHT), 1e-8)
    assert info["relative_residual"] <= 1e-10


def test_nothing_to_solve_is_solved_by_nothing() -> None:
    x, info = solved(SYSTEM, np.zeros(6))
    assert (np.asarray(x["a"]) == 0).all()
    assert all(value == 0 for value in info.values())


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_so(bad: float) -> None:
    assert np.isnan(solved(SYSTEM, np.where(np.arange(6) == 2, bad, RIGHT))[0]["a"]).any()
    assert np.isnan(solved(np.where(np.arange(6) == 2, np.nan, SYSTEM), RIGHT)[0]["a"]).any()


def test_it_stops_before_a_direction_of_no_curvature() -> None:
    x, info = solved(-np.eye(6), RIGHT)
    assert (np.asarray(x["a"]) == 0).all()
    assert info["iterations"] == 0
    close(info["relative_residual"], 1.0, 1e-12)
    b = np.array([1.0, 1, 0, 0, 0, 0])
    x, info = solved(np.diag([4.0, -0.5, 1, 1, 1, 1]), b)  # bᵀA b > 0, and then the second direction bends the wrong way
    assert np.isfinite(x["a"]).all()
    assert info["iterations"] == 1
    close(x["a"], b * (b @ b) / (b @ np.diag([4.0, -0.5, 1, 1, 1, 1]) @ b), 1e-12)
    x, info = solved(np.zeros((6, 6)), RIGHT)
    assert (np.asarray(x["a"]) == 0).all()


# ── along, and what is refused ───────────────────────────────────────────────────────────────────────────────────────


def test_along_the_gradient_is_gradient_ascent() -> None:
    params, batch = example("softmax")
    arguments: Any = {"learning_rate": 0.1, "optimizer": "adam", "max_grad_norm": 0.5}
    one, other = along(steepest(score_function()), **arguments), gradient_ascent(score_function(), **arguments)
    key = jax.random.key(0)
    got, expected = (jax.jit(ascent.step)(key, params, ascent.init(params), batch, NOW) for ascent in (one, other))
    close(flat(got), flat(expected), 1e-14)
    assert got[2].keys() == expected[2].keys()


def test_along_climbs_by_rate_times_direction_and_reports_the_gradients_length() -> None:
    params, batch = example("gaussian")
    direction = natural(score_function(), exact=True)
    ascent = along(direction, learning_rate=0.25)
    assert ascent.gradient is direction.gradient  # what is measured is the estimate of ∇J, not the direction

    @jax.jit
    def both(params: Params, batch: Any) -> Any:
        return *ascent.step(jax.random.key(0), params, ascent.init(params), batch, NOW), direction(params, batch, NOW)

    moved, _, info, climb = both(params, batch)
    close(flat(moved) - flat(params), 0.25 * flat(climb.direction), 1e-10)
    close(info["gradient_norm"], np.linalg.norm(flat(climb.gradient)), 1e-10)
    close(info["learning_rate"], 0.25, 0)


def test_a_critic_that_climbs_with_the_policy_is_refused() -> None:
    params, batch = example("softmax")
    with pytest.raises(UsageError, match="critic: got one that climbs with the policy") as caught:
        jax.eval_shape(lambda: natural(score_function())(Params(params.policy, {"w": jnp.zeros(2)}), batch, NOW))
    assert "\n" not in str(caught.value)


def test_too_many_parameters_for_an_exact_solve_are_refused() -> None:
    wide = jnp.zeros(3000)
    with pytest.raises(UsageError, match=r"exact: got a policy of 3,000 parameters; it must have at most 2,048"):
        jax.eval_shape(lambda: natural_module.pseudo_inverse_product(lambda v: v, wide))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"damping": -0.1}, "damping: got -0.1; it must be a finite number of at least 0"),
        ({"damping": float("nan")}, "damping: got nan"),
        ({"damping": "high"}, "damping: got 'high'"),
        ({"iterations": 0}, "iterations: got 0; it must be a whole number of at least 1"),
        ({"iterations": 2.5}, "iterations: got 2.5"),
    ],
)
def test_bad_arguments_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        natural(score_function(), **arguments)
