"""Frozen parts: what they compute is what they did, and no ascent moves them by a bit."""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ascent.batches import MASK, B, T, batch_of, same_bits
from policygrad import policies
from policygrad.ascent import backtracking, fisher_vector_product, gradient_ascent, kl_radius, natural
from policygrad.gradients import score_function
from policygrad.policies import Frozen, Policy
from policygrad.policies.features import Network, OneHot, Raw, learnt, num_features
from policygrad.policies.heads import LinearCategorical
from policygrad.policies.networks import linear_layers
from policygrad.spaces import Box, Discrete
from policygrad.types import Params, Spec

VECTOR = Box.of(-1.0, 1.0, (3,))
OBS = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)


@cache
def layers():
    return linear_layers(jax.random.key(0), (3, 4, 3, 2), output_gain=1.0)


@cache
def policy(frozen=0, head=False):
    """Two hidden layers, the first of which may be frozen, as may the head."""
    first, second, output = layers()
    last = LinearCategorical(output)
    features = Network((Frozen(first) if frozen else first, second), "tanh", inputs=Raw((3,)))
    return Policy(features, Frozen(last) if head else last, VECTOR, Discrete(2))


def loss(policy, obs):
    return jnp.sum(policy(obs).log_prob(jnp.zeros(len(obs), jnp.int32)))


@jax.jit
def loss_and_gradients(policy, obs):
    return loss(policy, obs), *jax.grad(loss, (0, 1))(policy, obs)


def test_a_frozen_part_computes_the_same_and_has_no_gradient():
    plain, frozen = loss_and_gradients(policy(), OBS), loss_and_gradients(policy(frozen=1), OBS)
    assert plain[0] == frozen[0]
    gradient = frozen[1]
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(gradient.features.layers[0]))
    assert same_bits((gradient.features.layers[1], gradient.head), (plain[1].features.layers[1], plain[1].head))
    assert np.any(frozen[2])
    np.testing.assert_array_equal(frozen[2], plain[2])  # the observation's own gradient goes through


def test_whole_features_heads_and_policies_freeze():
    whole = policy()
    for frozen in (
        Policy(Frozen(whole.features), whole.head, VECTOR, Discrete(2)),
        Policy(whole.features, Frozen(whole.head), VECTOR, Discrete(2)),
        Frozen(whole),
    ):
        value, gradient, _ = loss_and_gradients(frozen, OBS)
        assert value == loss_and_gradients(whole, OBS)[0]
        for name, part in (("features", gradient.features), ("head", gradient.head)):
            is_frozen = isinstance(getattr(frozen, name), Frozen) or isinstance(frozen, Frozen)
            assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(part)) == is_frozen
    assert Frozen(whole).action_space == Discrete(2)
    assert Frozen(whole).initial(3) == ()
    distribution, carry = Frozen(whole).unroll((), OBS[None], np.zeros((1, 4), bool))
    assert distribution.logits.shape == (1, 4, 2)
    assert carry == ()


def test_what_the_inner_module_has_can_be_read_off():
    frozen = Frozen(OneHot(3))
    assert (frozen.num_features, frozen.spans_constant, frozen.n) == (3, True, 3)
    assert num_features(frozen, Discrete(3)) == 3
    assert not hasattr(Frozen(Raw((2,))), "spans_constant")
    assert Frozen(Raw((2,))) == Frozen(Raw((2,)))
    with pytest.raises(AttributeError, match="no attribute 'weights'"):
        _ = Frozen(layers()[0]).weights


NOW = jnp.zeros(())
ASCENTS = {
    "npg": lambda: kl_radius(natural(score_function(), damping=0.1), 0.01),
    "npg without damping": lambda: kl_radius(natural(score_function(), damping=0.0), 0.01),
    "trpo": lambda: backtracking(natural(score_function(), damping=0.1), 0.01),
    "adam": lambda: gradient_ascent(score_function(), learning_rate=0.1),
    "rmsprop": lambda: gradient_ascent(score_function(), learning_rate=0.1, optimizer="rmsprop", max_grad_norm=0.5),
    "momentum": lambda: gradient_ascent(score_function(), learning_rate=0.1, optimizer=lambda rate: optax.sgd(rate, momentum=0.9)),
}


@pytest.mark.parametrize("name", ASCENTS)
def test_no_ascent_moves_a_frozen_part_by_a_bit(name):
    """Its biases are 0, where no rounding could hide a move."""
    before = policy(frozen=1)
    rng = np.random.default_rng(1)
    obs = (rng.normal(size=(T, B, 3)) * MASK[:, :, None]).astype(np.float32)
    mask = MASK.astype(np.float32)
    advantages = rng.normal(size=(T, B)).astype(np.float32) * mask
    batch = batch_of(before, jnp.asarray(obs), jnp.asarray(rng.integers(0, 2, (T, B))), jnp.asarray(mask), advantages=advantages)
    ascent = ASCENTS[name]()

    @jax.jit
    def steps(params, batch):
        state = ascent.init(params)
        for _ in range(2 if name in ("adam", "rmsprop", "momentum") else 1):  # what an optimiser remembers moves it the second time
            params, state, _ = ascent.step(jax.random.key(0), params, state, batch, NOW)
        return params.policy

    after = steps(Params(before, ()), batch)
    assert same_bits(after.features.layers[0], before.features.layers[0])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after))
    for moved, start in ((after.features.layers[1], before.features.layers[1]), (after.head, before.head)):
        assert not same_bits(moved, start)


def test_the_fisher_matrix_has_zeros_in_its_rows():
    before = policy(frozen=1)
    batch = batch_of(before, jnp.asarray(OBS[None]), jnp.zeros((1, 4), jnp.int32), jnp.ones((1, 4)))
    product = jax.jit(lambda policy, v: fisher_vector_product(policy, batch)(v))(before, jax.tree.map(jnp.ones_like, before))
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(product.features.layers[0]))
    assert np.any(product.head.layer.weight)


def test_a_builder_may_freeze_what_was_trained_before():
    spec = Spec(VECTOR, Discrete(2), 1)
    trained = policies.mlp((4,))(jax.random.key(0), spec)
    start = {"activation": "tanh", "initialisation": "orthogonal", "output_gain": 0.01}
    features, output = learnt(jax.random.key(1), VECTOR, (3,), 2, inputs=Frozen(trained.features), **start)
    after = Policy(features, LinearCategorical(output), VECTOR, Discrete(2))
    gradient = jax.jit(jax.grad(loss))(after, OBS)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient.features.inputs))
    assert np.any(gradient.features.layers[0].weight)
