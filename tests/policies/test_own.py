"""Modules and functions of the user's own as policies: the numbers of the built-in ones, in both loops, with masks, saved, refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import policygrad as pg
from combos import Acting, HostCombination, compiled_env
from policygrad import policies
from policygrad.errors import PolicyFileError, SpaceError, UsageError
from policygrad.policies import Categorical, FullGaussian, Gaussian, Joint, Policy, as_builder, own
from policygrad.policies.features import Polynomial
from policygrad.policies.own import Own
from policygrad.spaces import ALONE, MASK, Box, Dict, Discrete, MultiBinary, Tuple, mapped
from policygrad.types import Spec

KEY = jax.random.key(0)
BOX, CHOICE, PAIR = Box.of(-1.0, 1.0, (3,)), Discrete(3), Box.of(-1.0, 1.0, (2,))
SPEC = Spec(BOX, CHOICE, 2)


class Mine(eqx.Module):
    """A network of equinox's, whose activations are leaves, with a few more things that do not train."""

    mlp: eqx.nn.MLP
    order: Any
    scale: float
    offset: np.ndarray

    def __init__(self, key: Any, *, order: Any = (0, 1, 2), scale: float = 1.0):
        self.mlp = eqx.nn.MLP(3, 3, 4, 1, activation=jnp.tanh, key=key)
        self.order, self.scale, self.offset = order, scale, np.arange(3)

    def __call__(self, obs: Any) -> Categorical:
        return Categorical(self.mlp(obs * self.scale)[jnp.asarray(self.order)] + 0 * self.offset)


def like_built_in(key: Any, spec: Spec) -> Mine:
    """With the parameters of `policies.mlp((4,))`."""
    built = policies.mlp((4,))(key, spec)
    parameters = [part for layer in (built.features.layers[0], built.head.layer) for part in (layer.weight, layer.bias)]
    return eqx.tree_at(lambda mine: [part for layer in mine.mlp.layers for part in (layer.weight, layer.bias)], Mine(key), parameters)


def logits_of(params: Any, obs: Any) -> Categorical:
    return Categorical(params["w"] @ obs + params["b"])


PARAMS = {"w": np.random.default_rng(0).normal(size=(3, 3)), "b": np.zeros(3, np.float32)}
RECIPES: dict[str, dict[str, Any]] = {
    "ppo": {"rollout_length": 4, "epochs": 2, "minibatches": 2},
    "trpo": {"rollout_length": 4},
    "reinforce": {"episodes_per_update": 2},
}
SMALL: dict[str, Any] = {"hidden_sizes": (3,)}
"""Of the critic."""


def trained(recipe: str, loop: str, policy: Any, acting: Acting = Acting(CHOICE)) -> Any:
    """Two updates."""
    env: Any = compiled_env(BOX, acting) if loop == "compiled" else lambda: HostCombination(BOX, acting)
    algorithm = getattr(pg, recipe)(policy=policy, **RECIPES[recipe], **SMALL)
    steps = 12 if recipe == "reinforce" else 16
    run = pg.train(env, algorithm, num_steps=steps, num_envs=2, seed=1, out=False, figures=False)
    assert {len(values) for values in run.metrics.values()} == {2}
    return run


@pytest.mark.parametrize(
    ("recipe", "loop"),
    [
        ("ppo", "compiled"),
        ("trpo", "host"),
        ("reinforce", "compiled"),
        pytest.param("ppo", "host", marks=pytest.mark.nightly),
        pytest.param("trpo", "compiled", marks=pytest.mark.nightly),
        pytest.param("reinforce", "host", marks=pytest.mark.nightly),
    ],
)
def test_it_trains_as_the_built_in_policy_of_the_same_equations(recipe: str, loop: str) -> None:
    mine = trained(recipe, loop, like_built_in).policy
    other = trained(recipe, loop, policies.mlp((4,))).policy
    assert isinstance(mine.features, Own)
    leaves = jax.tree.leaves(mine)
    assert len(leaves) == 4
    for one, two in zip(leaves, jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6)
    start = jax.tree.leaves(jax.eval_shape(lambda: as_builder(like_built_in)(KEY, SPEC)))
    assert [leaf.shape for leaf in start] == [leaf.shape for leaf in leaves]
    # What acts is the user's Module, with the parameters as they are now.
    obs = jnp.asarray([0.3, -0.2, 0.9])
    np.testing.assert_allclose(mine(obs).logits, mine.features.module(obs).logits, rtol=1e-6)


@pytest.mark.parametrize("loop", ["host", pytest.param("compiled", marks=pytest.mark.nightly)])
def test_a_function_of_parameters_trains_with_masks(loop: str) -> None:
    """The mask is applied to what it returns, and not shown to it; the host environment raises at an action that it forbids."""
    run = trained("ppo", loop, own(logits_of, PARAMS), Acting(CHOICE, masked=True))
    moved = run.policy.features.arrays.params
    assert set(moved) == {"w", "b"}
    assert all(leaf.dtype == jnp.float32 and np.abs(leaf - PARAMS[name]).max() > 1e-4 for name, leaf in moved.items())
    mask = jnp.asarray([[0, 1, 1], [1, 0, 0]], jnp.int8)
    made = run.policy({ALONE: jnp.ones((2, 3)), MASK: mask})
    np.testing.assert_array_equal(np.asarray(made.probabilities()) > 0, mask == 1)


def test_the_same_module_is_the_same_policy_and_compiles_once() -> None:
    traces = []

    @jax.jit
    def act(policy: Any, obs: Any) -> Any:
        traces.append(1)
        return policy(obs).logits

    one, two = (own(Mine(jax.random.key(i), order=jnp.asarray([2, 0, 1])))(KEY, SPEC) for i in range(2))
    assert jax.tree.structure(one) == jax.tree.structure(two)
    assert hash(jax.tree.structure(one)) == hash(jax.tree.structure(two))
    for policy in (one, two, jax.tree.map(lambda leaf: leaf + 1, one)):
        act(policy, jnp.ones((2, 3)))
    assert len(traces) == 1
    # What does not train is part of what it is: an array's numbers, dtype and shape, and 1 is not 1.0.
    others = [
        {"order": jnp.asarray([2, 1, 0])},
        {"order": np.array([2, 0, 1], np.uint32)},
        {"order": (2, 0, 1)},
        {"scale": 1},
        {"scale": 2.0},
    ]
    structures = [jax.tree.structure(own(Mine(KEY, **{"order": jnp.asarray([2, 0, 1])} | other))(KEY, SPEC)) for other in others]
    assert len({jax.tree.structure(one), *structures}) == 6
    np.testing.assert_allclose(one(jnp.ones((2, 3))).logits[1], Mine(jax.random.key(0), order=[2, 0, 1])(jnp.ones(3)).logits, rtol=1e-6)


def test_a_module_may_hold_a_key() -> None:
    structures = [jax.tree.structure(own(Keyed(jnp.zeros((3, 3)), jax.random.key(i)))(KEY, SPEC)) for i in (0, 0, 1)]
    assert structures[0] == structures[1] != structures[2]


class Keyed(eqx.Module):
    weight: Any
    key: Any

    def __call__(self, obs: Any) -> Categorical:
        return Categorical(self.weight @ obs + jax.random.normal(self.key, (3,)))


@pytest.mark.parametrize("lead", [(), (4,), (2, 3), (0,)])
def test_it_is_mapped_over_leading_axes(lead: tuple[int, ...]) -> None:
    """Of every part of an observation; parts of the distribution that do not depend on it get them, too."""
    space = Dict.of({"where": Box.of(-1.0, 1.0, (2, 2)), "what": Discrete(3)})
    actions = Tuple((PAIR, Discrete(2)))

    def answer(params: Any, obs: Any) -> Joint:
        mean = params["a"] @ obs["where"].ravel()
        return Joint((Gaussian(mean, params["b"], 1), Categorical(params["c"][obs["what"]])))

    rng = np.random.default_rng(0)
    params = {"a": rng.normal(size=(2, 4)), "b": rng.normal(size=2), "c": rng.normal(size=(3, 2))}
    policy = own(answer, params)(KEY, Spec(space, actions, 1))
    obs = {"where": rng.normal(size=(*lead, 2, 2)).astype(np.float32), "what": rng.integers(0, 3, lead).astype(np.int32)}
    made: Any = policy(obs)
    force, kind = made.parts
    assert (force.mean.shape, force.log_std.shape, kind.logits.shape) == ((*lead, 2), (*lead, 2), (*lead, 2))
    np.testing.assert_allclose(force.mean, obs["where"].reshape(*lead, 4) @ params["a"].T, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(force.log_std, np.broadcast_to(params["b"], (*lead, 2)), rtol=1e-6)
    np.testing.assert_allclose(kind.logits, params["c"][obs["what"]], rtol=1e-6)


def test_a_full_covariance_of_ones_own() -> None:
    policy = own(lambda p, obs: FullGaussian(p @ obs, jnp.eye(2), 1), jnp.zeros((2, 3)))(KEY, Spec(BOX, PAIR, 1))
    assert policy(jnp.ones((5, 3))).cholesky.shape == (5, 2, 2)


# ── features of the user's own ───────────────────────────────────────────────────────────────────────────────────────


class Waves(eqx.Module):
    """Features that train."""

    weight: Any

    def __call__(self, obs: Any) -> Any:
        return jnp.sin(obs @ self.weight)


@pytest.mark.parametrize("given", ["module", "class", "function"])
def test_features_of_ones_own(given: str) -> None:
    weight = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5)), jnp.float32)
    features: Any = {
        "module": Waves(weight),
        "class": lambda key, space: Waves(jax.random.normal(key, (*space.shape, 5))),
        "function": lambda key, space: Polynomial(space.shape, 2),
    }[given]
    build = pg.policy(BOX, CHOICE, features=features)
    policy = jax.eval_shape(lambda key: build(key, SPEC), KEY)
    assert policy.head.layer.weight.shape == (3, 10 if given == "function" else 5)
    assert len(jax.tree.leaves(policy)) == (1 if given == "function" else 3)  # a polynomial has its constant
    if given == "module":
        policy = build(KEY, SPEC)
        np.testing.assert_array_equal(policy.features.weight, weight)
        gradient = jax.jit(jax.grad(lambda policy: jnp.sum(policy(jnp.ones((2, 3))).log_prob(jnp.zeros(2, jnp.int32)))))(policy)
        assert np.any(gradient.features.weight)


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_its_arrays_are_saved_and_loaded_into_one_of_the_same_make(tmp_path: Path) -> None:
    path = tmp_path / "policy.safetensors"
    saved, like = (own(Mine(jax.random.key(i)))(KEY, SPEC) for i in range(2))
    pg.save(saved, path)
    with pytest.raises(PolicyFileError, match=r"holds a class or function of its maker's own.*pass load\(path, like=policy\)"):
        pg.load(path)
    loaded = pg.load(path, like=like)
    assert jax.tree.structure(loaded) == jax.tree.structure(saved)
    for one, other in zip(jax.tree.leaves(loaded), jax.tree.leaves(saved), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(loaded(jnp.ones(3)).logits, saved(jnp.ones(3)).logits)
    with pytest.raises(PolicyFileError, match="other arrays than `like` has"):
        pg.load(path, like=own(logits_of, PARAMS)(KEY, SPEC))
    with pytest.raises(PolicyFileError, match="other spaces than `like` has"):
        pg.load(path, like=own(Mine(KEY))(KEY, Spec(Box.of(-2.0, 2.0, (3,)), CHOICE, 1)))


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────────────────────


def function(answer: Any) -> Any:
    return own(lambda params, obs: answer(params @ obs), jnp.zeros((3, 3)))


class Unmaskable(eqx.Module):
    """A distribution of the user's own that does not know of masks."""

    inner: Categorical

    def sample(self, key: Any) -> Any:
        return self.inner.sample(key)

    def log_prob(self, action: Any) -> Any:
        return self.inner.log_prob(action)

    def entropy(self) -> Any:
        return self.inner.entropy()

    def kl(self, other: Any) -> Any:
        return self.inner.kl(other.inner)

    def mode(self) -> Any:
        return self.inner.mode()


MASKED = Dict.of({ALONE: BOX, MASK: MultiBinary((3,))})
REFUSED: dict[str, tuple[Any, Spec, type, str]] = {
    "an array": (own(eqx.nn.MLP(3, 3, 4, 1, key=KEY)), SPEC, UsageError, r"policy: got an array from MLP; it must return a distribution"),
    "a tuple": (function(lambda y: (y, y)), SPEC, UsageError, r"policy: got a tuple from <lambda>; it must return a distribution"),
    "choices among another number": (
        own(lambda params, obs: Categorical(params), jnp.zeros(5)),
        SPEC,
        SpaceError,
        r"policy: got a Categorical of actions int32\(\) among 5 alternatives, .* it must be one of actions of Discrete\(3\)",
    ),
    "numbers for choices": (function(lambda y: Gaussian(y, y, 1)), SPEC, SpaceError, r"got a Gaussian of actions float32\(3,\)"),
    "numbers for switches": (
        function(lambda y: Gaussian(y, y, 1)),
        Spec(BOX, MultiBinary((3,)), 1),
        SpaceError,
        r"must be one of actions of MultiBinary\(3\)",
    ),
    "choices for numbers": (
        function(Categorical),
        Spec(BOX, Box.of(-1.0, 1.0, ()), 1),
        SpaceError,
        r"got a Categorical of actions int32\(\)",
    ),
    "choices without a mask size for numbers": (
        function(lambda y: Unmaskable(Categorical(y))),
        Spec(BOX, Box.of(-1.0, 1.0, ()), 1),
        SpaceError,
        r"got a Unmaskable of actions int32\(\), log",
    ),
    "another shape": (
        function(lambda y: Gaussian(y, y, 1)),
        Spec(BOX, PAIR, 1),
        SpaceError,
        r"float32\(3,\).* actions of Box\(-1, 1, \(2,\)",
    ),
    "another structure": (
        function(lambda y: Joint((Categorical(y),))),
        SPEC,
        SpaceError,
        r"got a Joint of actions int32\(\) among 3 alternatives",
    ),
    "an event that is not summed": (
        function(lambda y: Gaussian(y, y, 0)),
        Spec(BOX, Box.of(-1.0, 1.0, (3,)), 1),
        SpaceError,
        r"bilities \(3,\)",
    ),
    "masks unheard of": (function(lambda y: Unmaskable(Categorical(y))), Spec(MASKED, CHOICE, 1), UsageError, r"has no masked\(mask\)"),
    "nothing that trains": (own(logits_of, {"w": 1.0, "b": 0}), SPEC, UsageError, "policy: got logits_of without an array of floats"),
    "a number of its builder": (
        as_builder(lambda key, spec: 3),
        SPEC,
        UsageError,
        "policy: got int from its builder; it must make a Policy",
    ),
    "arrays made in a trace": (
        as_builder(lambda key, spec: Mine(key, order=jnp.arange(3))),
        SPEC,
        UsageError,
        "policy: got an array of int32 that its builder computes in a traced program; make it with NumPy",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_builder_refuses(name: str) -> None:
    build, spec, error, message = REFUSED[name]
    with pytest.raises(UsageError, match=message) as caught:
        jax.eval_shape(lambda key: build(key, spec), KEY)
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: own(3), r"policy: got int; give an equinox.Module, or a function of parameters and these: own\(f, params\)"),
        (lambda: own(logits_of), r"policy: got function; give an equinox.Module, or a function of parameters"),
        (lambda: own(3, PARAMS), r"policy: got int with parameters; give a function \(params, obs\)"),
        (lambda: pg.ppo(policy=lambda obs: obs), r"policy: got a function that does not take \(key, spec\).*policies.own\(f, params\)"),
        (lambda: pg.ppo(policy=3), r"policy: got 3; it must be a function \(key, spec\) -> policy, .*, or an equinox.Module of your own"),
        (
            lambda: pg.ppo(policy=own(Mine(KEY)), shared_features=True).init(KEY, SPEC),
            r"critic: got shared_critic\(\) with a policy of your own",
        ),
    ],
)
def test_what_is_refused_at_once(make: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_observations_of_another_space() -> None:
    policy = own(Mine(KEY))(KEY, SPEC)
    with pytest.raises(SpaceError, match=r"observation shape: got \(8, 4\); the policy takes \[..., 3\]"):
        policy(jnp.zeros((8, 4)))
    space = Dict.of({"a": BOX, "b": Discrete(3)})
    of_parts = own(lambda params, obs: Categorical(params @ obs["a"]), jnp.zeros((3, 3)))(KEY, Spec(space, CHOICE, 1))
    for wrong in ({"a": jnp.zeros((2, 3))}, jnp.zeros((2, 3)), (jnp.zeros(3),)):
        with pytest.raises(SpaceError, match=r"observation: got PyTreeDef.*; the policy takes those of Dict\(a: Box"):
            of_parts(wrong)
    with pytest.raises(SpaceError, match="parts of different batch axes"):
        of_parts({"a": jnp.zeros((2, 3)), "b": jnp.zeros(3, jnp.int32)})


def test_a_policy_or_a_builder_stays_what_it_is() -> None:
    table = policies.tabular_softmax(np.zeros((3, 3), np.float32))
    assert as_builder(lambda key, spec: table)(KEY, SPEC) is table
    assert as_builder(None) is None
    module = Mine(KEY)
    for build in (as_builder(module), as_builder(own(module)), as_builder(lambda key, spec: module)):
        made = build(KEY, SPEC)
        assert isinstance(made, Policy)
        assert jax.tree.structure(made) == jax.tree.structure(own(module)(KEY, SPEC))
    assert mapped(lambda leaf: leaf.shape, made.action_space) == ()


@pytest.mark.parametrize(("argument", "value"), [("head", "beta"), ("sigma", 0.5), ("initial_sigma", 2.0)])
def test_a_head_beside_a_policy_would_do_nothing(argument: str, value: Any) -> None:
    with pytest.raises(UsageError, match=rf"^{argument}: got one together with policy, which brings its own head; leave one of them out$"):
        pg.ppo(policy=pg.policy(), **{argument: value})
