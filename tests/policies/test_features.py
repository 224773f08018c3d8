"""Features against loops in NumPy."""

from __future__ import annotations

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policygrad.errors import SpaceError, UsageError
from policygrad.policies.features import (
    Index,
    JointIndex,
    MultiOneHot,
    OneHot,
    PerStatePolynomial,
    Polynomial,
    Raw,
    StateAction,
    StateActionPolynomial,
    from_space,
    index,
    num_monomials,
)
from policygrad.policies.heads import TableHead
from policygrad.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete


def brute_monomials(x, degree):
    """The values of all monomials, as a sorted list, from their exponents."""
    exponents = [e for e in itertools.product(range(degree + 1), repeat=len(x)) if sum(e) <= degree]
    return sorted(math.prod(v**k for v, k in zip(x, e, strict=True)) for e in exponents)


def test_raw_flattens_and_casts():
    obs = jnp.arange(24).reshape(2, 3, 2, 2)
    x = Raw((2, 2))(obs)
    assert x.dtype == jnp.float32
    np.testing.assert_array_equal(x, np.arange(24).reshape(2, 3, 4))
    image = Raw((2, 2))(np.full((5, 2, 2), 255, np.uint8))
    assert image.dtype == jnp.float32
    assert (image == 255).all()
    np.testing.assert_array_equal(Raw(())(jnp.array([1.5, 2.0])), [[1.5], [2.0]])
    with jax.enable_x64(True):
        assert Raw((2,))(jnp.ones(2, jnp.float64)).dtype == jnp.float64


def test_one_hot_and_index():
    obs = jnp.array([[0, 2], [1, 2]])
    np.testing.assert_array_equal(OneHot(3)(obs), np.eye(3)[np.asarray(obs)])
    np.testing.assert_array_equal(Index(3)(obs), obs)


COUNTS = (2, 3, 1, 4)


@pytest.mark.parametrize("shape", [(4,), (2, 2)])
def test_multi_discrete_as_unit_vectors_and_as_a_number(shape):
    states = np.array(list(itertools.product(*map(range, COUNTS))), np.int32)
    obs = states.reshape(4, 6, *shape)
    unit = np.stack([np.concatenate([np.eye(n)[i] for n, i in zip(COUNTS, state, strict=True)]) for state in states])
    x, number = jax.jit(lambda obs: (MultiOneHot(COUNTS, shape)(obs), index(MultiDiscrete(COUNTS, shape))(obs)))(obs)
    assert x.dtype == jnp.float32
    np.testing.assert_array_equal(x, unit.reshape(4, 6, 10))
    np.testing.assert_array_equal(number, np.arange(24).reshape(4, 6))  # as ravel_multi_index counts, the last element fastest
    np.testing.assert_array_equal(number, np.ravel_multi_index(tuple(states.T), COUNTS).reshape(4, 6))
    assert (MultiOneHot(COUNTS, shape).num_features, JointIndex(COUNTS, shape).n) == (10, 24)
    single = MultiOneHot(COUNTS, shape)(obs[1, 2])
    np.testing.assert_array_equal(single, x[1, 2])


def test_out_of_range_is_zeros_in_its_place():
    np.testing.assert_array_equal(MultiOneHot((2, 3), (2,))(np.array([[2, 1], [-1, 3]])), [[0, 0, 0, 1, 0], [0] * 5])


def test_multi_binary_as_floats_and_as_a_number():
    flags = np.array(list(itertools.product((0, 1), repeat=4)), np.int8).reshape(16, 2, 2)
    space = MultiBinary((2, 2))
    assert from_space(space) == Raw((2, 2))
    x = from_space(space)(flags)
    assert x.dtype == jnp.float32
    np.testing.assert_array_equal(x, flags.reshape(16, 4))
    np.testing.assert_array_equal(index(space)(flags), np.arange(16))


def test_a_table_of_joint_states():
    logits = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
    states = MultiDiscrete((2, 3))
    distribution = TableHead(jnp.asarray(logits))(index(states)(np.array([[1, 2], [0, 1]])))
    shifted = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    np.testing.assert_allclose(distribution.log_prob(jnp.array([0, 1])), [shifted[5, 0], shifted[1, 1]], rtol=1e-6)


def test_tables_have_a_limit():
    assert index(MultiBinary((19,))).n == 2**19
    assert index(Discrete(10**7)) == Index(10**7)
    assert index(MultiDiscrete((1000, 1000))).n == 10**6
    with pytest.raises(SpaceError, match=r"a table for MultiBinary\(20\): got more than 1,000,000 states; use a network"):
        index(MultiBinary((20,)))
    with pytest.raises(SpaceError, match="more than 1,000,000 states"):
        index(MultiDiscrete((2,) * 100))
    for space in (Box.of(0, 1, (2,)), Dict.of({"a": Discrete(2)})):
        with pytest.raises(SpaceError, match="a table needs Discrete, MultiDiscrete or MultiBinary observations"):
            index(space)
    with pytest.raises(SpaceError, match="1,000,000 are allowed"):
        _ = MultiOneHot((10**6, 2), (2,)).num_features


@pytest.mark.parametrize(("num_variables", "degree"), [(1, 0), (1, 3), (2, 2), (3, 2), (2, 4), (4, 1)])
def test_polynomial_has_every_monomial_once(num_variables, degree):
    x = np.random.default_rng(0).normal(size=(2, num_variables))
    with jax.enable_x64(True):
        features = Polynomial((num_variables,), degree)
        got = np.asarray(jax.jit(features)(x))
    assert got.shape == (2, features.num_features)
    for row, values in zip(x, got, strict=True):
        np.testing.assert_allclose(sorted(values), brute_monomials(row, degree), atol=1e-12)
        assert values[0] == 1
        if degree:
            np.testing.assert_allclose(values[1 : 1 + num_variables], row)  # graded: the constant, then the elements


def test_polynomial_of_a_matrix_is_that_of_its_elements():
    obs = np.arange(4.0).reshape(1, 2, 2)
    both = jax.jit(lambda obs: (Polynomial((2, 2), 2)(obs), Polynomial((4,), 2)(obs.reshape(1, 4))))(obs)
    np.testing.assert_array_equal(*both)


def test_state_action_evaluates_every_action():
    def phi(s, a):
        return jnp.stack([s[0] * a, s[1] - a, jnp.float32(1)])

    obs = np.random.default_rng(0).normal(size=(2, 3, 2)).astype(np.float32)
    features = jax.jit(StateAction(phi, (2,), 4))
    got = np.asarray(features(obs))
    assert got.shape == (2, 3, 4, 3)
    for i, j, a in itertools.product(range(2), range(3), range(4)):
        np.testing.assert_allclose(got[i, j, a], [obs[i, j, 0] * a, obs[i, j, 1] - a, 1], rtol=1e-6)
    assert jax.eval_shape(features, np.zeros(2)).shape == (4, 3)
    assert jax.eval_shape(features, np.zeros((0, 2))).shape == (0, 4, 3)


def test_state_action_polynomial_is_joint_in_state_and_action():
    with jax.enable_x64(True):
        features = StateActionPolynomial((2,), 2, 3)
        got = np.asarray(jax.jit(features)(np.array([[0.3, -1.2]])))
    assert got.shape == (1, 3, features.num_features)
    for a, u in enumerate((-1.0, 0.0, 1.0)):
        np.testing.assert_allclose(sorted(got[0, a]), brute_monomials((0.3, -1.2, u), 2), atol=1e-12)


def test_per_state_polynomial_has_a_block_per_state():
    features = PerStatePolynomial(2, 2, 5)
    got = np.asarray(jax.jit(features)(np.array([1, 0])))
    powers = np.stack([np.linspace(-1, 1, 5) ** k for k in range(3)], -1)
    np.testing.assert_allclose(got[0], np.concatenate([np.zeros((5, 3)), powers], -1), atol=1e-7)
    np.testing.assert_allclose(got[1], np.concatenate([powers, np.zeros((5, 3))], -1), atol=1e-7)
    assert PerStatePolynomial(1, 2, 1)(jnp.array(0)).tolist() == [[1, 0, 0]]  # a single action sits at 0


def test_gradients_flow_at_zero():
    """x⁰ must not become 0 · log 0 on the way back."""
    gradient = jax.jit(jax.grad(lambda x: Polynomial((2,), 3)(x).sum()))(np.zeros(2))
    np.testing.assert_array_equal(gradient, [1, 1])


def test_observations_of_the_wrong_shape_or_kind():
    with pytest.raises(SpaceError, match=r"observation shape: got \(5, 3\); the policy takes"):
        Raw((4,))(jnp.zeros((5, 3)))
    with pytest.raises(SpaceError, match="observation shape"):
        StateAction(lambda s, a: s, (4,), 2)(jnp.zeros(3))
    with pytest.raises(SpaceError, match="must be an integer: got dtype float32"):
        OneHot(3)(jnp.zeros(3))
    with pytest.raises(SpaceError, match="must be of integers: got dtype float32"):
        MultiOneHot((2, 3), (2,))(jnp.zeros(2))
    with pytest.raises(SpaceError, match=r"observation shape: got \(3,\); the policy takes \[..., 2\]"):
        JointIndex((2, 3), (2,))(jnp.zeros(3, jnp.int32))
    with pytest.raises(SpaceError, match="empty observation space"):
        from_space(Box.of(-1, 1, (0,)))
    assert from_space(Discrete(3)) == OneHot(3)
    assert from_space(Box.of(-1, 1, (3,))) == Raw((3,))


def test_too_many_monomials():
    with pytest.raises(UsageError, match="too many monomials"):
        num_monomials(376, 4)
    with pytest.raises(UsageError, match="lower the degree"):
        num_monomials(1, 10**9)
    assert num_monomials(3, 2) == 10
