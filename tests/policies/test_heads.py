"""Heads: each is the distribution that its equations say, by SciPy in float64, and its gradients are those of finite differences."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

import policygrad as pg
from policygrad.policies import (
    Bernoulli,
    Beta,
    Categorical,
    FullGaussian,
    Gaussian,
    Joint,
    MultiCategorical,
    Squashed,
)
from policygrad.policies.heads import (
    BernoulliOf,
    BetaOf,
    CategoricalOf,
    FixedGaussian,
    FixedGaussianOf,
    FullGaussianOf,
    GaussianOf,
    JointOf,
    LinearCategorical,
    LinearGaussian,
    MultiCategoricalOf,
    Output,
    Preferences,
    SquashedOf,
    StateGaussianOf,
    TableHead,
)
from policygrad.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from policygrad.types import Spec

KEY = jax.random.key(0)
LEAD, F = (2, 3), 4
LOW, HIGH = np.array([[-2.0, 0.0]]), np.array([[2.0, 1.0]])
BOUNDS = tuple(LOW.ravel().tolist()), tuple(HIGH.ravel().tolist())
LOG_STD = np.array([[0.3, -0.7]])
FACTOR = np.array([[0.5, 0.0, 0.0], [-0.2, 1.5, 0.0], [0.4, 0.1, 0.8]])
COVARIANCE = FACTOR @ FACTOR.T
NESTED = Dict.of({"b": MultiBinary((2, 1)), "a": Tuple((Discrete(3), Box.of(-1.0, 1.0, (2,))))})


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


# ── the equations, of one vector of outputs and one action ───────────────────────────────────────────────────────────


def softmax_log_prob(y: Any, action: Any) -> Any:
    return scipy.special.log_softmax(y)[int(action)]


def switches(y: Any, action: Any) -> Any:
    return np.sum(np.log(np.where(np.ravel(action) == 1, scipy.special.expit(y), scipy.special.expit(-y))))


def normal(mean: Any, std: Any, action: Any) -> Any:
    return np.sum(scipy.stats.norm.logpdf(np.ravel(action), mean, std))


def squashed(base: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Change of variables: a = low + (high − low)(tanh(u) + 1)/2."""

    def log_prob(y: Any, action: Any) -> Any:
        t = 2 * (action - LOW) / (HIGH - LOW) - 1
        return base(y, np.arctanh(t)) - np.sum(np.log((HIGH - LOW) / 2 * (1 - t**2)))

    return log_prob


def beta(y: Any, action: Any) -> Any:
    alpha, beta = 1 + np.log1p(np.exp(y[:2])), 1 + np.log1p(np.exp(y[2:]))
    return np.sum(scipy.stats.beta.logpdf(np.ravel(action), alpha, beta, LOW.ravel(), (HIGH - LOW).ravel()))


def full(y: Any, action: Any, initial: float = 0.5) -> Any:
    """Rows of L after the mean: l11 | l21 l22 | l31 l32 l33."""
    factor = np.zeros((3, 3))
    factor[np.tril_indices(3)] = initial * y[3:]
    factor[np.diag_indices(3)] = initial * np.exp(y[[3, 5, 8]])
    return scipy.stats.multivariate_normal.logpdf(np.ravel(action), y[:3], factor @ factor.T)


def nested(y: Any, action: Any) -> Any:
    """Leaves in order: a[0], a[1], b."""
    (kind, force), on = action["a"], action["b"]
    return softmax_log_prob(y[:3], kind) + normal(y[3:5], np.exp([0.1, 0.2]), force) + switches(y[5:], on)


class Case(NamedTuple):
    """A readout, and what it must be."""

    make: Callable[[], Any]
    distribution: type
    num_outputs: int
    shape: tuple[int, ...]
    log_prob: Callable[[Any, Any], Any]


def log_std() -> Any:
    return jnp.asarray(LOG_STD)


def elements(matrix: Any) -> tuple[float, ...]:
    return tuple(map(float, matrix[np.tril_indices(3)]))


CASES = {
    "categorical": Case(lambda: CategoricalOf(3), Categorical, 3, (), softmax_log_prob),
    "multi-categorical": Case(
        lambda: MultiCategoricalOf((2, 4), (2, 1)),
        MultiCategorical,
        6,
        (2, 1),
        lambda y, a: softmax_log_prob(y[:2], a[0, 0]) + softmax_log_prob(y[2:], a[1, 0]),
    ),
    "bernoulli": Case(lambda: BernoulliOf((3, 1)), Bernoulli, 3, (3, 1), switches),
    "gaussian": Case(lambda: GaussianOf(log_std()), Gaussian, 2, (1, 2), lambda y, a: normal(y, np.exp(LOG_STD[0]), a)),
    "fixed": Case(lambda: FixedGaussianOf((1, 2), (0.5, 2.0)), Gaussian, 2, (1, 2), lambda y, a: normal(y, [0.5, 2.0], a)),
    "fixed, one for all": Case(lambda: FixedGaussianOf((1, 2), (0.5,)), Gaussian, 2, (1, 2), lambda y, a: normal(y, 0.5, a)),
    "fixed covariance": Case(
        lambda: FixedGaussianOf((3, 1), elements(FACTOR), True),
        FullGaussian,
        3,
        (3, 1),
        lambda y, a: scipy.stats.multivariate_normal.logpdf(np.ravel(a), y, COVARIANCE),
    ),
    "state": Case(lambda: StateGaussianOf((1, 2), 0.5), Gaussian, 4, (1, 2), lambda y, a: normal(y[:2], 0.5 * np.exp(y[2:]), a)),
    "full": Case(lambda: FullGaussianOf((3, 1), 0.5), FullGaussian, 9, (3, 1), full),
    "squashed": Case(
        lambda: SquashedOf(GaussianOf(log_std()), *BOUNDS),
        Squashed,
        2,
        (1, 2),
        squashed(lambda y, u: normal(y, np.exp(LOG_STD[0]), u)),
    ),
    "squashed-state": Case(
        lambda: SquashedOf(StateGaussianOf((1, 2), 0.5), *BOUNDS),
        Squashed,
        4,
        (1, 2),
        squashed(lambda y, u: normal(y[:2], 0.5 * np.exp(y[2:]), u)),
    ),
    "beta": Case(lambda: BetaOf((1, 2), *BOUNDS), Beta, 4, (1, 2), beta),
    "joint": Case(
        lambda: JointOf((CategoricalOf(3), GaussianOf(jnp.asarray([0.1, 0.2])), BernoulliOf((2, 1))), NESTED), Joint, 7, (), nested
    ),
}


def layer_of(num_outputs: int, seed: int = 1) -> eqx.nn.Linear:
    rng = np.random.default_rng(seed)
    layer = eqx.nn.Linear(F, num_outputs, key=KEY)
    values = jnp.asarray(0.5 * rng.normal(size=(num_outputs, F))), jnp.asarray(0.5 * rng.normal(size=num_outputs))
    return eqx.tree_at(lambda one: (one.weight, one.bias), layer, values)


def inputs(*lead: int) -> Any:
    return jnp.asarray(np.random.default_rng(2).normal(size=(*lead, F)))


def action_of(made: Any) -> Any:
    """A sample; the mode of a beta distribution, whose rejection loop takes seconds to compile."""
    return made.mode() if isinstance(made, Beta) else made.sample(KEY)


def rows(tree: Any) -> list[Any]:
    """The elements of a batch over LEAD."""
    return [jax.tree.map(lambda leaf, i=i: np.asarray(leaf)[i], tree) for i in np.ndindex(*LEAD)]


@pytest.mark.parametrize("name", CASES)
def test_the_distribution_is_the_equation(name: str) -> None:
    case = CASES[name]
    readout = case.make()
    assert readout.num_outputs == case.num_outputs
    head, x = Output(layer_of(case.num_outputs), readout), inputs(*LEAD)

    @jax.jit
    def answered(head: Any, x: Any) -> Any:
        made = head(x)
        action = action_of(made)
        return made, action, made.log_prob(action), head(x[0, 0])

    made, action, log_prob, one = answered(head, x)
    assert type(made) is type(one) is case.distribution
    assert {leaf.dtype for leaf in jax.tree.leaves(made)} == {np.dtype(np.float64)}
    # Every leaf carries the batch axes, and none is another's.
    for leaf, single in zip(jax.tree.leaves(made), jax.tree.leaves(one), strict=True):
        assert leaf.shape == (*LEAD, *single.shape)
        np.testing.assert_allclose(leaf[0, 0], single, atol=1e-12)
    if name != "joint":
        assert action.shape == (*LEAD, *case.shape)
    y = np.asarray(x) @ np.asarray(head.layer.weight).T + np.asarray(head.layer.bias)
    wanted = [case.log_prob(each, a) for each, a in zip(y.reshape(-1, case.num_outputs), rows(action), strict=True)]
    np.testing.assert_allclose(np.ravel(log_prob), wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", CASES)
def test_gradients_by_finite_differences(name: str) -> None:
    """Of log π through the whole head, its own parameters and what it reads."""
    case = CASES[name]
    head, x = Output(layer_of(case.num_outputs), case.make()), inputs(2)

    @jax.jit
    def both(head: Any, x: Any, action: Any) -> Any:
        return jax.value_and_grad(lambda *parts: jnp.sum(parts[0](parts[1]).log_prob(action)), argnums=(0, 1))(head, x)

    action = jax.tree.map(np.asarray, jax.jit(lambda head, x: action_of(head(x)))(head, x))
    _, gradient = both(head, x, action)
    assert jax.tree.structure(gradient) == jax.tree.structure((head, x))
    rng, step = np.random.default_rng(3), 1e-5
    leaves, structure = jax.tree.flatten((head, x))
    for _ in range(3):
        along = [rng.normal(size=leaf.shape) for leaf in leaves]
        ends = ([a + sign * step * d for a, d in zip(leaves, along, strict=True)] for sign in (1, -1))
        up, down = (both(*structure.unflatten(end), action)[0] for end in ends)
        slope = sum(float(np.sum(np.asarray(g) * d)) for g, d in zip(jax.tree.leaves(gradient), along, strict=True))
        assert slope == pytest.approx(float(up - down) / (2 * step), rel=1e-6, abs=1e-7)


def test_the_heads_with_classes_of_their_own_are_the_same_readouts() -> None:
    layer, x = layer_of(2), inputs(*LEAD)
    pairs = [
        (LinearCategorical(layer), Output(layer, CategoricalOf(2))),
        (LinearGaussian(layer, log_std()), Output(layer, GaussianOf(log_std()))),
        (FixedGaussian(layer, (1, 2), (0.5, 2.0)), Output(layer, FixedGaussianOf((1, 2), (0.5, 2.0)))),
    ]
    for one, other in jax.jit(lambda x: [(a(x), b(x)) for a, b in pairs])(x):
        assert jax.tree.structure(one) == jax.tree.structure(other)
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
            np.testing.assert_array_equal(a, b)
    table = jnp.asarray([[1.0, 2.0], [3.0, 4.0]])
    np.testing.assert_array_equal(TableHead(table)(jnp.asarray([1, 0, 1])).logits, table[jnp.asarray([1, 0, 1])])
    np.testing.assert_allclose(Preferences(jnp.asarray([1.0, -2.0]))(jnp.asarray([[[3.0, 1.0], [0.5, 2.0]]])).logits, [[1.0, -3.5]])


def test_a_sigma_of_the_state_is_held_in_its_range() -> None:
    far = jnp.asarray([[1.0, 2.0, 1e3, -1e3], [1.0, 2.0, 4.0, -9.0]])
    np.testing.assert_allclose(StateGaussianOf((2,))(far).log_std, [[5, -10], [4, -9]])
    np.testing.assert_allclose(StateGaussianOf((2,), 0.5)(far).log_std, [[5, -10], [4 - np.log(2), -9 - np.log(2)]])
    y = jnp.asarray([[1.0, 2.0, 1e3, 7.0, -1e3], [1.0, 2.0, 4.0, 7.0, -9.0]])
    made = FullGaussianOf((2,), 2.0)(y)
    np.testing.assert_allclose(made.cholesky[0], [[np.exp(5), 0], [14, np.exp(-10)]])
    np.testing.assert_allclose(made.cholesky[1], [[2 * np.exp(4), 0], [14, 2 * np.exp(-9)]])
    assert np.isfinite(jax.jit(jax.grad(lambda y: jnp.sum(FullGaussianOf((2,))(y).log_prob(jnp.ones((2, 2))))))(y)).all()


def test_a_beta_distribution_has_one_peak_inside() -> None:
    made = BetaOf((2,), (-1.0,), (1.0,))(jnp.asarray([-30.0, 5.0, 2.0, -30.0]))
    assert (made.alpha > 1).all()
    assert (made.beta > 1).all()


def test_samples_have_the_covariance_that_was_given() -> None:
    """Entries of the sample covariance of n have the variance (Σ_ii Σ_jj + Σ_ij²)/n: all are within 5 standard errors."""
    n = 100_000
    actions = Box.of(-1.0, 1.0, (3, 1))
    build = pg.policy(Box.of(-1.0, 1.0, (F,)), actions, hidden_sizes=(), sigma=COVARIANCE.tolist())
    policy = build(KEY, Spec(Box.of(-1.0, 1.0, (F,)), actions, 1))
    obs = jnp.broadcast_to(inputs(), (n, F))
    samples, mean, log_prob = jax.jit(lambda p: (a := p(obs).sample(KEY), p(obs).mean[0], p(obs).log_prob(a)))(policy)
    away = (np.asarray(samples) - np.asarray(mean))[..., 0]
    spread = np.diag(COVARIANCE)
    bound = 5 * np.sqrt((spread[:, None] * spread[None] + COVARIANCE**2) / n)
    assert (np.abs(away.T @ away / n - COVARIANCE) <= bound).all()
    wanted = scipy.stats.multivariate_normal.logpdf(away[:50], np.zeros(3), COVARIANCE)
    np.testing.assert_allclose(log_prob[:50], wanted, atol=1e-10)


def test_parts_read_outputs_of_their_own() -> None:
    readout, y = CASES["joint"].make(), jnp.asarray(np.random.default_rng(5).normal(size=(2, 7)))
    made = readout(y)
    np.testing.assert_array_equal(made.parts["a"][0].logits, y[:, :3])
    np.testing.assert_array_equal(made.parts["a"][1].mean, y[:, 3:5])
    np.testing.assert_array_equal(made.parts["b"].logits[..., 0], y[:, 5:])


# ── the first policy ─────────────────────────────────────────────────────────────────────────────────────────────────

BOX = Box.of(LOW, HIGH)


@pytest.mark.parametrize("head", ["gaussian", "state-gaussian", "full-gaussian", "squashed", "squashed-state", "beta", "discrete"])
def test_the_first_policy_is_near_neutral(head: str) -> None:
    """Under the output gain 0.01: means near 0 or the box's centre, σ as told, discrete actions nearly uniform."""
    seen = Box.of(-1.0, 1.0, (F,))
    space = Dict.of({"a": Discrete(3), "b": MultiDiscrete((2, 3)), "c": MultiBinary((2,))}) if head == "discrete" else BOX
    sigma: Any = {"initial_sigma": 0.3} if head not in ("beta", "discrete") else {}
    chosen: Any = {} if head == "discrete" else {"head": head}
    policy = pg.policy(seen, space, **chosen, **sigma)(KEY, Spec(seen, space, 1))
    made, mode = jax.jit(lambda p, x: (p(x), p(x).mode()))(policy, inputs(200))
    if head == "discrete":
        np.testing.assert_allclose(jax.nn.softmax(made.parts["a"].logits), 1 / 3, atol=0.02)
        for n, probabilities in zip((2, 3), made.parts["b"].probabilities(), strict=True):
            np.testing.assert_allclose(probabilities, 1 / n, atol=0.02)
        np.testing.assert_allclose(made.parts["c"].probabilities(), 1 / 2, atol=0.02)
        return
    centre = np.zeros((1, 2)) if head.endswith("gaussian") else (LOW + HIGH) / 2
    assert (np.abs(np.asarray(mode) - centre) <= 0.04 * (HIGH - LOW)).all()
    if head == "beta":
        np.testing.assert_allclose(made.alpha, made.beta, rtol=0.05)
        np.testing.assert_allclose(made.alpha, 1 + np.log(2), rtol=0.05)
    else:
        std = getattr(made, "base", made).std()
        np.testing.assert_allclose(std, 0.3, rtol=1e-6 if head in ("gaussian", "squashed") else 0.06)
