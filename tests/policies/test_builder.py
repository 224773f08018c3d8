"""`policygrad.policy`: the table of defaults, every part overridden, what does not fit in one line, masks, and files.

Shapes and types are looked at without computing: builders are traced, and parameters filled in afterwards.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import policygrad as pg
from policygrad import policies
from policygrad.errors import SpaceError, UnknownNameError, UsageError
from policygrad.policies import (
    GRU,
    LSTM,
    Beta,
    Categorical,
    Frozen,
    FullGaussian,
    Gaussian,
    Joint,
    MultiCategorical,
    Policy,
    Squashed,
)
from policygrad.policies.distributions import Bernoulli
from policygrad.policies.features import CNN, Fourier, Index, Joined, MultiOneHot, Network, OneHot, Polynomial, Raw
from policygrad.policies.heads import FixedGaussian, LinearCategorical, LinearGaussian, Output, TableHead
from policygrad.spaces import ALONE, MASK, Box, Dict, Discrete, MultiBinary, Space, Tuple, from_gymnasium, held_dtype, mapped
from policygrad.types import Spec

KEY = jax.random.key(0)
VECTOR, STATES, IMAGE = Box.of(-1.0, 1.0, (3,)), Discrete(5), Box.of(0, 255, (10, 10, 1), "uint8")
PAIR, OPEN, CHOICE = Box.of(-1.0, 2.0, (2,)), Box.of(-np.inf, np.inf, (2,)), Discrete(3)
PARTS = Dict.of({"where": VECTOR, "what": STATES})
HYBRID = Dict.of({"kind": CHOICE, "arm": Dict.of({"force": PAIR, "grip": Box.of(0.0, 1.0, ())}), "push": OPEN})


def shaped(build: Any, observations: Space, actions: Space) -> Policy:
    """The policy with shapes in place of arrays."""
    return jax.eval_shape(lambda key: build(key, Spec(observations, actions, 1)), KEY)


def filled(policy: Policy) -> Policy:
    """With numbers in their place."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), policy)


def chosen(policy: Policy, *lead: int) -> Any:
    """(distribution, action) over leading axes, as shapes."""
    obs = mapped(lambda leaf: jax.ShapeDtypeStruct((*lead, *leaf.shape), held_dtype(leaf)), policy.observation_space)
    resets = jax.ShapeDtypeStruct(lead, bool)

    def act(policy: Policy, obs: Any, resets: Any) -> Any:
        carry = jax.tree.map(lambda leaf: leaf[None], policy.initial(lead[1]))
        made, _ = policy.unroll(carry, obs, resets)
        return made, made.sample(KEY)

    return jax.eval_shape(act, policy, obs, resets)


def widths(policy: Policy) -> list[int]:
    return [layer.weight.shape[0] for layer in policy.features.layers] if isinstance(policy.features, Network) else []


def inputs(policy: Policy) -> Any:
    return policy.features.inputs if isinstance(policy.features, Network) else policy.features


# ── defaults ─────────────────────────────────────────────────────────────────────────────────────────────────────────

KINDS = gymnasium.spaces
OBSERVATIONS: dict[str, tuple[Any, type, list[int]]] = {  # Gymnasium's; features; layers over them
    "discrete": (KINDS.Discrete(5, start=2), OneHot, []),
    "multi-discrete": (KINDS.MultiDiscrete([2, 3]), MultiOneHot, [64, 64]),
    "multi-binary": (KINDS.MultiBinary(4), Raw, [64, 64]),
    "box": (KINDS.Box(-1, 1, (2, 2)), Raw, [64, 64]),
    "image": (KINDS.Box(0, 255, (10, 10, 1), np.uint8), CNN, []),
    "dict": (KINDS.Dict({"a": KINDS.Box(0, 255, (10, 10, 1), np.uint8), "b": KINDS.Discrete(3)}), Joined, [64, 64]),
    "tuple": (KINDS.Tuple([KINDS.MultiBinary(4), KINDS.Discrete(3)]), Joined, [64, 64]),
}
ACTIONS: dict[str, tuple[Any, type]] = {  # Gymnasium's; the distribution
    "discrete": (KINDS.Discrete(3, start=-1), Categorical),
    "multi-discrete": (KINDS.MultiDiscrete([[2], [3]]), MultiCategorical),
    "multi-binary": (KINDS.MultiBinary((2, 1)), Bernoulli),
    "box": (KINDS.Box(-1, 1, (2, 1)), Gaussian),
    "unbounded box": (KINDS.Box(-np.inf, np.inf, ()), Gaussian),
    "dict": (KINDS.Dict({"b": KINDS.Discrete(3), "a": KINDS.Box(-1, 1, (2,))}), Joint),
    "tuple": (KINDS.Tuple([KINDS.MultiBinary(2), KINDS.Tuple([KINDS.Box(-1, 1, (1,)), KINDS.MultiDiscrete([2, 3])])]), Joint),
}


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_the_table_of_defaults(observation: str, action: str) -> None:
    theirs, features, layers = OBSERVATIONS[observation]
    actions, distribution = ACTIONS[action]
    seen, taken = from_gymnasium(theirs, "observation"), from_gymnasium(actions, "action")
    policy = shaped(pg.policy(theirs, actions), seen, taken)
    assert (policy.observation_space, policy.action_space, policy.memory) == (seen, taken, None)
    if (observation, action) == ("discrete", "discrete"):
        assert (type(policy.features), type(policy.head)) == (Index, TableHead)
        assert policy.head.logits.shape == (5, 3)
    else:
        assert type(inputs(policy)) is features
        assert widths(policy) == layers
    made, sample = chosen(policy, 4, 2)
    assert type(made) is distribution
    wanted = mapped(lambda leaf: (4, 2, *leaf.shape), taken)
    assert jax.tree.map(lambda leaf: leaf.shape, sample) == wanted
    if distribution is Joint:
        parts = jax.tree.leaves(made.parts, is_leaf=lambda part: not isinstance(part, dict | tuple))
        assert [type(part) for part in parts] == {"dict": [Gaussian, Categorical], "tuple": [Bernoulli, Gaussian, MultiCategorical]}[action]


def test_defaults_with_memory() -> None:
    policy = shaped(pg.policy(STATES, CHOICE, memory="gru"), STATES, CHOICE)
    assert type(policy.features) is OneHot  # "its unit vector"
    assert (type(policy.memory), policy.memory.size, policy.memory.truncate) == (GRU, 64, None)
    policy = shaped(pg.policy(VECTOR, CHOICE, memory="lstm", memory_size=7, truncate=5), VECTOR, CHOICE)
    assert widths(policy) == [64]
    assert (type(policy.memory), policy.memory.size, policy.memory.truncate) == (LSTM, 7, 5)
    assert policy.head.layer.weight.shape == (3, 7)
    assert shaped(pg.policy(memory="none"), VECTOR, CHOICE).memory is None


def test_initial_parameters_have_their_gains() -> None:
    """Hidden layers √2, the output 0.01, with and without memory; log σ as told."""
    for memory in (None, "gru"):
        policy = pg.policy(VECTOR, PAIR, memory=memory, memory_size=4, hidden_sizes=(4,), initial_sigma=0.5)(KEY, Spec(VECTOR, PAIR, 1))
        first, last = policy.features.layers[0].weight, policy.head.layer.weight
        np.testing.assert_allclose(first.T @ first, 2 * np.eye(3), atol=1e-5)
        np.testing.assert_allclose(last @ last.T, 1e-4 * np.eye(2), atol=1e-8)
        np.testing.assert_allclose(policy.head.log_std, np.log(0.5), rtol=1e-6)


# ── each part overridden ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("arguments", "kind", "layers"),
    [
        ({"features": "raw"}, Raw, [64, 64]),
        ({"features": "raw", "network": (5,)}, Raw, [5]),
        ({"features": "polynomial"}, Polynomial, []),
        ({"features": "fourier"}, Fourier, []),
        ({"features": "fourier", "hidden_sizes": (7,)}, Fourier, [7]),
        ({"features": "fourier", "memory": "gru"}, Fourier, []),
        ({"features": Polynomial((3,), 3)}, Polynomial, []),
        ({"features": lambda key, space: Polynomial(space.shape, 1)}, Polynomial, []),
        ({"hidden_sizes": ()}, Raw, []),
        ({"hidden_sizes": (8, 4), "memory": "gru"}, Raw, [8, 4]),
    ],
)
def test_features_and_layers(arguments: Any, kind: type, layers: list[int]) -> None:
    policy = shaped(pg.policy(VECTOR, CHOICE, **arguments), VECTOR, CHOICE)
    assert type(inputs(policy)) is kind
    assert widths(policy) == layers
    assert chosen(policy, 2, 3)[0].logits.shape == (2, 3, 3)


def test_which_features_have_layers_over_them() -> None:
    """Parts side by side, and an image's elements; convolutions bring a layer of their own."""
    assert widths(shaped(pg.policy(features="joined"), PARTS, CHOICE)) == [64, 64]
    assert widths(shaped(pg.policy(features="raw"), IMAGE, CHOICE)) == [64, 64]
    assert widths(shaped(pg.policy(features="auto"), IMAGE, CHOICE)) == []
    assert widths(shaped(pg.policy(features="raw", head="beta"), STATES, PAIR)) == []


def test_activation_and_initialisation() -> None:
    policy = pg.policy(hidden_sizes=(6,), activation="relu", initialisation="torch")(KEY, Spec(VECTOR, CHOICE, 1))
    assert policy.features.activation == "relu"
    assert (np.asarray(policy.features.layers[0].bias) != 0).all()  # only PyTorch's draws biases, too


HEADS: dict[str, tuple[type, Callable[[Any], bool]]] = {  # the distribution, and what else holds
    "auto": (Gaussian, lambda policy: type(policy.head) is LinearGaussian),
    "gaussian": (Gaussian, lambda policy: policy.head.log_std.shape == (2,)),
    "state-gaussian": (Gaussian, lambda policy: policy.head.layer.weight.shape[0] == 4),
    "full-gaussian": (FullGaussian, lambda policy: policy.head.layer.weight.shape[0] == 5),
    "squashed": (Squashed, lambda policy: policy.head.readout.base.log_std.shape == (2,)),
    "squashed-state": (Squashed, lambda policy: policy.head.layer.weight.shape[0] == 4),
    "beta": (Beta, lambda policy: policy.head.layer.weight.shape[0] == 4),
}


@pytest.mark.parametrize("head", HEADS)
def test_heads_of_a_box(head: Any) -> None:
    kind, holds = HEADS[head]
    policy = shaped(pg.policy(VECTOR, PAIR, head=head), VECTOR, PAIR)
    made, sample = chosen(policy, 2, 3)
    assert type(made) is kind
    assert sample.shape == (2, 3, 2)
    assert holds(policy)
    if isinstance(made, Squashed | Beta):
        assert (made.low, made.high) == ((-1.0,), (2.0,))


def test_heads_of_parts() -> None:
    """A name is for all boxes; a mapping for those that it names, whatever lies in them, and the others have "auto"."""

    def kinds(head: Any, **others: Any) -> list[str]:
        made = chosen(shaped(pg.policy(VECTOR, HYBRID, head=head, **others), VECTOR, HYBRID), 2, 3)[0]
        parts = jax.tree.leaves(made.parts, is_leaf=lambda part: not isinstance(part, dict | tuple))
        return [type(part).__name__ for part in parts]

    assert kinds("auto") == ["Gaussian", "Gaussian", "Categorical", "Gaussian"]
    assert kinds("full-gaussian") == ["FullGaussian", "FullGaussian", "Categorical", "FullGaussian"]
    assert kinds({"arm": "beta"}) == ["Beta", "Beta", "Categorical", "Gaussian"]
    assert kinds({"arm": "squashed", "push": "full-gaussian", "kind": "auto"}) == ["Squashed", "Squashed", "Categorical", "FullGaussian"]
    assert kinds({"arm": "squashed"}, sigma=0.5) == ["Squashed", "Squashed", "Categorical", "Gaussian"]
    squashed = chosen(shaped(pg.policy(head={"arm": "squashed"}), VECTOR, HYBRID), 2, 3)[0].parts["arm"]
    assert {name: (one.low, one.high) for name, one in squashed.items()} == {"force": ((-1.0,), (2.0,)), "grip": ((0.0,), (1.0,))}


@pytest.mark.parametrize("head", ["auto", "gaussian", "squashed"])
@pytest.mark.parametrize(
    ("sigma", "covariance"),
    [(0.5, [[0.25, 0], [0, 0.25]]), ([0.5, 2.0], [[0.25, 0], [0, 4]]), ([[0.25, 0.3], [0.3, 4.0]], [[0.25, 0.3], [0.3, 4]])],
)
def test_a_fixed_sigma(sigma: Any, covariance: Any, head: Any) -> None:
    """A number, one for each element, a matrix: none has a parameter of its own."""
    policy = filled(shaped(pg.policy(VECTOR, PAIR, hidden_sizes=(), sigma=sigma, head=head), VECTOR, PAIR))
    assert len(jax.tree.leaves(policy)) == 2
    made: Any = policy(jnp.zeros((4, 3)))
    base = made.base if head == "squashed" else made
    factor = np.asarray(base.cholesky) if isinstance(base, FullGaussian) else np.asarray(base.std())[..., None] * np.eye(2)
    np.testing.assert_allclose(factor @ factor.swapaxes(-1, -2), np.tile(covariance, (4, 1, 1)), rtol=1e-6, atol=1e-7)
    if np.ndim(sigma) < 2 and head != "squashed":
        assert type(policy.head) is FixedGaussian


def test_a_covariance_may_be_rounded_to_float32() -> None:
    a = np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)
    covariance = a @ a.T + np.eye(3, dtype=np.float32)
    covariance[0, 1] = np.nextafter(covariance[0, 1], np.float32(10))
    pg.policy(VECTOR, Box.of(-1.0, 1.0, (3,)), sigma=covariance)


@pytest.mark.parametrize("freeze", [("features",), ("memory", "head"), ("features", "memory", "head")])
def test_frozen_parts_have_no_gradient(freeze: Any) -> None:
    policy = filled(shaped(pg.policy(VECTOR, PAIR, memory="gru", memory_size=3, hidden_sizes=(3,), freeze=freeze), VECTOR, PAIR))

    def loss(policy: Any) -> Any:
        made, _ = policy.step(policy.initial(2), jnp.ones((2, 3)), jnp.zeros(2, bool))
        return jnp.sum(made.log_prob(jnp.ones((2, 2))))

    gradient = jax.jit(jax.grad(loss))(policy)
    for part in ("features", "memory", "head"):
        assert isinstance(getattr(policy, part), Frozen) == (part in freeze)
        assert any(np.any(leaf) for leaf in jax.tree.leaves(getattr(gradient, part))) == (part not in freeze)
    table = shaped(pg.policy(STATES, CHOICE, freeze=("head",)), STATES, CHOICE)
    assert isinstance(table.head, Frozen)
    assert isinstance(table.head.inner, TableHead)


# ── what does not fit ────────────────────────────────────────────────────────────────────────────────────────────────

WRONG: dict[str, tuple[Any, Any, dict[str, Any], type, str]] = {
    "beta, unbounded": (
        VECTOR,
        OPEN,
        {"head": "beta"},
        SpaceError,
        r"the head 'beta' needs bounded actions: got Box.*; use 'gaussian', or bo",
    ),
    "squashed, unbounded part": (
        VECTOR,
        HYBRID,
        {"head": {"push": "squashed"}},
        SpaceError,
        r"needs bounded actions, part \['push'\]: got Box\(-inf, inf, \(2,\)",
    ),
    "half bounded": (
        VECTOR,
        Box.of([-1, -np.inf], [1, 1]),
        {"head": "squashed-state"},
        SpaceError,
        "the head 'squashed-state' needs bounded",
    ),
    "nothing between bounds": (VECTOR, Box.of([0, 0], [1, 0]), {"head": "beta"}, SpaceError, "needs low < high, less than 3e38 apart"),
    "bounds beyond float32": (
        VECTOR,
        Box.of(-3e38, 3e38, (1,)),
        {"head": "squashed"},
        SpaceError,
        "needs low < high, less than 3e38 apart",
    ),
    "head of a choice": (
        VECTOR,
        CHOICE,
        {"head": "beta"},
        SpaceError,
        r"the head 'beta' needs Box actions: got Discrete\(3\); leave head out",
    ),
    "head of a table": (STATES, CHOICE, {"head": "squashed"}, SpaceError, r"needs Box actions: got Discrete\(3\)"),
    "sigma of a choice": (VECTOR, MultiBinary((2,)), {"sigma": 1.0}, SpaceError, r"a fixed sigma needs Box actions: got MultiBinary\(2\)"),
    "initial sigma of a choice": (VECTOR, CHOICE, {"initial_sigma": 2.0}, SpaceError, "an initial_sigma needs Box actions"),
    "mapping for a box": (VECTOR, PAIR, {"head": {"a": "beta"}}, SpaceError, "head: got a mapping for actions Box.*; it needs a Dict"),
    "mapping for a tuple": (VECTOR, Tuple((PAIR,)), {"head": {"a": "beta"}}, SpaceError, "head: got a mapping for actions Tuple"),
    "unknown part": (VECTOR, HYBRID, {"head": {"arn": "beta"}}, UnknownNameError, "unknown part of the action 'arn': did you mean arm"),
    "part without a box": (
        VECTOR,
        HYBRID,
        {"head": {"kind": "beta"}},
        SpaceError,
        r"needs Box actions, part \['kind'\]: got Discrete\(3\)",
    ),
    "unknown head": (VECTOR, PAIR, {"head": "gausian"}, UnknownNameError, "unknown head 'gausian': did you mean gaussian"),
    "unknown head of a part": (VECTOR, HYBRID, {"head": {"arm": "bet"}}, UnknownNameError, "unknown head 'bet': did you mean beta"),
    "no head": (VECTOR, PAIR, {"head": 3}, UsageError, r"head: got int; give a name \(auto, gaussian, .*\), or a mapping"),
    "unknown features": (VECTOR, PAIR, {"features": "furier"}, UnknownNameError, "unknown features 'furier': did you mean fourier"),
    "no features": (VECTOR, PAIR, {"features": 3}, UsageError, r"features: got int; give a name"),
    "features of another space": (VECTOR, PAIR, {"features": "one-hot"}, SpaceError, "one-hot features need Discrete or MultiDiscrete"),
    "features of one vector": (
        VECTOR,
        PAIR,
        {"features": eqx.nn.Linear(3, 2, key=KEY)},
        UsageError,
        r"features Linear: got a TypeError from it for 2 observations .* it must take any leading axes",
    ),
    "features with a function": (
        VECTOR,
        PAIR,
        {"features": eqx.nn.MLP(3, 2, 4, 1, key=KEY)},
        UsageError,
        "among its leaves.*a static field",
    ),
    "features that are a function": (VECTOR, PAIR, {"features": lambda key, space: jnp.sin}, UsageError, "it must return a Module, observ"),
    "features with a number": (VECTOR, PAIR, {"features": lambda key, space: Scaled(2)}, UsageError, "got int among its leaves"),
    "unknown memory": (VECTOR, PAIR, {"memory": "gro"}, UnknownNameError, "unknown memory 'gro': did you mean gru"),
    "no memory": (VECTOR, PAIR, {"memory": ["gru"]}, UnknownNameError, "unknown memory"),
    "memory without width": (
        VECTOR,
        PAIR,
        {"memory": "gru", "memory_size": 0},
        UsageError,
        "memory_size: got 0; it must be a whole number",
    ),
    "truncate without memory": (VECTOR, PAIR, {"truncate": 4}, UsageError, "truncate: got 4 without a memory.*give memory='gru'"),
    "unknown activation": (VECTOR, PAIR, {"activation": "than"}, UnknownNameError, "did you mean tanh"),
    "function as activation": (VECTOR, PAIR, {"activation": jnp.tanh}, UnknownNameError, "unknown activation .*known: elu, gelu"),
    "frozen unknown": (VECTOR, PAIR, {"freeze": ("heads",)}, UnknownNameError, "unknown part of a policy 'heads': did you mean head"),
    "frozen word": (VECTOR, PAIR, {"freeze": "head"}, UsageError, r"freeze: got 'head'; give a tuple of parts, e.g. \('head',\)"),
    "frozen memory": (VECTOR, PAIR, {"freeze": ("memory",)}, UsageError, "freeze: got 'memory' for a policy without one; leave it out"),
    "three sigmas of two": (VECTOR, PAIR, {"sigma": [1, 2, 3]}, SpaceError, r"got 3 values; give 1, or 2: one per element"),
    "two sigmas of three": (VECTOR, Box.of(-1.0, 1.0, (3,)), {"sigma": [1, 2]}, SpaceError, r"got 2 values; give 1, or 3: one per element"),
    "covariance of two": (VECTOR, Box.of(-1.0, 1.0, (3,)), {"sigma": np.eye(2)}, SpaceError, r"a covariance of 2 elements; give one of 3"),
    "covariance of three": (VECTOR, PAIR, {"sigma": np.eye(3)}, SpaceError, r"got a covariance of 3 elements; give one of 2"),
    "not symmetric": (VECTOR, PAIR, {"sigma": [[1, 0.1], [0.2, 1]]}, UsageError, "sigma: got .*square, symmetric and finite"),
    "not square": (VECTOR, PAIR, {"sigma": [[1, 0.1]]}, UsageError, "sigma: got .*square, symmetric and finite"),
    "not definite": (VECTOR, PAIR, {"sigma": [[1, 2], [2, 1]]}, UsageError, "sigma: got a matrix that is not positive definite"),
    "ragged": (VECTOR, PAIR, {"sigma": [[1, 2], [2]]}, UsageError, "sigma: got .*give a standard deviation, one for each element, or"),
    "cube": (VECTOR, PAIR, {"sigma": np.ones((1, 1, 1))}, UsageError, "sigma: got 3 axes"),
    "negative": (VECTOR, PAIR, {"sigma": [1.0, -1.0]}, UsageError, r"sigma: got -1\.0; a standard deviation must be finite and above 0"),
    "sigma and state": (
        VECTOR,
        PAIR,
        {"sigma": 1.0, "head": "state-gaussian"},
        SpaceError,
        "sigma: got a fixed one with the head 'state-gaussian'",
    ),
    "sigma and beta": (VECTOR, PAIR, {"sigma": 1.0, "head": "beta"}, SpaceError, "sigma: got a fixed one with the head 'beta'"),
    "two sigmas": (VECTOR, PAIR, {"sigma": 1.0, "initial_sigma": 2.0}, UsageError, "initial_sigma: got 2.0 with a fixed sigma of 1.0"),
    "initial sigma and beta": (
        VECTOR,
        PAIR,
        {"initial_sigma": 2.0, "head": "beta"},
        SpaceError,
        "initial_sigma: got 2.0 with the head 'beta'",
    ),
    "initial sigma out of range": (
        VECTOR,
        PAIR,
        {"initial_sigma": 200.0, "head": "state-gaussian"},
        UsageError,
        r"initial_sigma: got 200\.0 with the head 'state-gaussian', whose σ is held between 4\.5e-05 and 148",
    ),
    "integer box": (VECTOR, Box.of(0, 5, (2,), "int32"), {}, SpaceError, r"needs real-valued actions: got Box\(0, 5"),
    "integer part": (VECTOR, Dict.of({"n": Box.of(0, 5, (2,), "int32")}), {}, SpaceError, r"real-valued actions, part \['n'\]: got"),
    "empty box": (VECTOR, Box.of(0, 1, (0,)), {}, SpaceError, "empty action space: got Box"),
    "one space": (VECTOR, None, {}, UsageError, "policy: got the observation space alone; give both spaces, or none"),
    "other space": (None, PAIR, {}, UsageError, "policy: got the action space alone; give both spaces, or none"),
    "text space": (KINDS.Text(3), PAIR, {}, SpaceError, "unsupported observation space: got Text"),
    "mask of another size": (
        Dict.of({ALONE: VECTOR, MASK: MultiBinary((4,))}),
        CHOICE,
        {},
        SpaceError,
        r"action_mask: got MultiBinary\(4\) for actions Discrete\(3\); it must have 3 entries of 0 or 1",
    ),
    "mask of integers": (Dict.of({ALONE: VECTOR, MASK: Discrete(3)}), CHOICE, {}, SpaceError, r"action_mask: got Discrete\(3\) for"),
    "mask of a box": (
        Dict.of({ALONE: VECTOR, MASK: MultiBinary((2,))}),
        PAIR,
        {},
        SpaceError,
        r"action_mask: got one with actions Box.*; only discrete actions can be masked",
    ),
    "nothing but a mask": (
        Dict.of({MASK: MultiBinary((3,))}),
        CHOICE,
        {},
        SpaceError,
        "observation space: got nothing beside 'action_mask'",
    ),
}


class Scaled(eqx.Module):
    """Features with a leaf that is no array."""

    scale: Any

    def __call__(self, obs: Any) -> Any:
        return obs * self.scale


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_one_clear_line(name: str) -> None:
    observations, actions, arguments, error, message = WRONG[name]
    with pytest.raises(UsageError, match=message) as caught:
        pg.policy(observations, actions, **arguments)
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)


# ── masks ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("memory", [None, "gru"])
@pytest.mark.parametrize("alone", [True, False])
def test_a_masked_policy_wants_its_mask(alone: bool, memory: Any) -> None:
    """And says so before its features take the parts of the observation for something else."""
    parts = {ALONE: VECTOR} if alone else {"where": VECTOR, "what": STATES}
    space = Dict.of({**parts, MASK: MultiBinary((3,))})
    policy = filled(shaped(pg.policy(space, CHOICE, hidden_sizes=(), memory=memory, memory_size=2), space, CHOICE))
    obs: Any = {ALONE: jnp.ones((1, 2, 3))} if alone else {"where": jnp.ones((1, 2, 3)), "what": jnp.zeros((1, 2), jnp.int32)}
    carry, resets = jax.tree.map(lambda leaf: leaf[None], policy.initial(2)), jnp.zeros((1, 2), bool)
    mask = jnp.asarray([[[1, 0, 1], [0, 1, 0]]], jnp.int8)
    made, _ = policy.unroll(carry, {**obs, MASK: mask}, resets)
    np.testing.assert_array_equal(np.asarray(made.probabilities()) > 0, mask == 1)
    for wrong in (obs, *([obs[ALONE]] if alone else [])):
        calls: Any = [lambda wrong=wrong: policy.unroll(carry, wrong, resets)]
        if memory is None:
            calls.append(lambda wrong=wrong: policy(wrong))
        else:
            first = jax.tree.map(lambda leaf: leaf[0], (policy.initial(2)[None], wrong, resets))
            calls.append(lambda first=first: policy.step(*first))
        for call in calls:
            with pytest.raises(SpaceError, match=r"observation: got none with 'action_mask'; the policy takes a dict with it"):
                call()


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────────

SAVED: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    **{f"head {head}": (VECTOR, PAIR, {"head": head, "hidden_sizes": (3,)}) for head in HEADS},
    **{f"observation {name}": (from_gymnasium(space), CHOICE, {}) for name, (space, *_) in OBSERVATIONS.items()},
    **{f"action {name}": (VECTOR, from_gymnasium(space), {"hidden_sizes": (3,)}) for name, (space, _) in ACTIONS.items()},
    **{f"sigma {sigma}": (VECTOR, PAIR, {"sigma": sigma, "hidden_sizes": ()}) for sigma in (0.5, (0.5, 2.0), ((0.25, 0.3), (0.3, 4.0)))},
    "squashed with a covariance": (VECTOR, PAIR, {"sigma": [[0.25, 0.3], [0.3, 4.0]], "head": "squashed"}),
    "heads of parts": (VECTOR, HYBRID, {"head": {"arm": "beta", "push": "full-gaussian"}}),
    "initial sigma": (VECTOR, PAIR, {"initial_sigma": 0.5, "head": "squashed-state"}),
    "gru": (VECTOR, CHOICE, {"memory": "gru", "memory_size": 2, "truncate": 3}),
    "lstm": (STATES, PAIR, {"memory": "lstm", "memory_size": 2, "head": "full-gaussian"}),
    "frozen": (VECTOR, PAIR, {"memory": "gru", "memory_size": 2, "freeze": ("features", "memory", "head")}),
    "masked": (Dict.of({ALONE: VECTOR, MASK: MultiBinary((3,))}), HYBRID, {"features": "fourier"}),
}


@pytest.mark.parametrize("name", SAVED)
def test_what_is_loaded_is_what_was_saved(name: str, tmp_path: Path) -> None:
    observations, actions, arguments = SAVED[name]
    policy = filled(shaped(pg.policy(observations, actions, **arguments), observations, actions))
    pg.save(policy, tmp_path / "policy.safetensors")
    loaded = pg.load(tmp_path / "policy.safetensors")
    assert jax.tree.structure(loaded) == jax.tree.structure(policy)  # static fields included
    for one, other in zip(jax.tree.leaves(loaded), jax.tree.leaves(policy), strict=True):
        np.testing.assert_array_equal(one, other)


def test_files_of_before_there_was_memory_load(tmp_path: Path) -> None:
    """Their structure has no field of that name."""
    path = tmp_path / "policy.safetensors"
    policy = filled(shaped(pg.policy(VECTOR, CHOICE, hidden_sizes=(3,)), VECTOR, CHOICE))
    pg.save(policy, path)
    blob = path.read_bytes()
    (size,) = struct.unpack("<Q", blob[:8])
    header = json.loads(blob[8 : 8 + size])
    manifest = json.loads(header["__metadata__"]["policygrad"])
    assert manifest["structure"]["fields"].pop("memory", "absent") is None
    manifest["sha256"] = "0" * 64
    text = json.dumps({**header, "__metadata__": {"policygrad": json.dumps(manifest)}}).encode()
    text += b" " * (-len(text) % 8)
    old = struct.pack("<Q", len(text)) + text + blob[8 + size :]
    path.write_bytes(old.replace(b"0" * 64, hashlib.sha256(old).hexdigest().encode(), 1))
    loaded = pg.load(path)
    assert jax.tree.structure(loaded) == jax.tree.structure(policy)


def test_a_policy_for_parts_wants_the_same_parts() -> None:
    policy = shaped(pg.policy(PARTS, HYBRID), PARTS, HYBRID)
    policies.require_spaces(policy, PARTS, HYBRID, "Here-v0")
    wider = Dict.of({"where": Box.of(-9.0, 9.0, (3,)), "what": Discrete(5, start=3)})
    policies.require_spaces(policy, wider, HYBRID, "Here-v0")  # neither bounds nor where counting starts
    for observations, actions in (
        (Dict.of({"where": VECTOR, "which": STATES}), HYBRID),
        (Dict.of({"where": VECTOR, "what": Discrete(6)}), HYBRID),
        (PARTS, Dict.of({"kind": CHOICE})),
        (VECTOR, HYBRID),
    ):
        with pytest.raises(SpaceError, match=r"the policy is for other (observations|actions) than Here-v0: got ") as caught:
            policies.require_spaces(policy, observations, actions, "Here-v0")
        assert "\n" not in str(caught.value)


def test_the_older_makers_are_the_same_policies() -> None:
    for one, other in (
        (policies.default(hidden_sizes=(3,)), pg.policy(hidden_sizes=(3,))),
        (policies.mlp((3,), sigma=0.5), pg.policy(hidden_sizes=(3,), sigma=0.5)),
        (policies.linear(initial_sigma=0.5), pg.policy(hidden_sizes=(), initial_sigma=0.5)),
    ):
        assert jax.tree.structure(shaped(one, VECTOR, PAIR)) == jax.tree.structure(shaped(other, VECTOR, PAIR))
    assert type(shaped(policies.default(), VECTOR, CHOICE).head) is LinearCategorical
    assert type(shaped(pg.policy(head="beta"), VECTOR, PAIR).head) is Output
