"""Critics: kinds × spaces, and what `next_values` are the values of."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policygrad import policies
from policygrad.errors import SpaceError, UnknownNameError, UsageError
from policygrad.policies.critics import AffineValue, TableValue, WeightedValue
from policygrad.spaces import Box, Discrete
from policygrad.types import Rollout, Spec

KEY = jax.random.key(0)
STATES, VECTOR, MATRIX = Discrete(5), Box.of(-1, 1, (3,)), Box.of(-1, 1, (2, 2))
TABLE = {
    "default of states": (policies.default_critic(), STATES, TableValue),
    "default of vectors": (policies.default_critic(), VECTOR, AffineValue),
    "default, small": (policies.default_critic((4,), "relu", "torch"), MATRIX, AffineValue),
    "network over states": (policies.network_critic((4,)), STATES, AffineValue),
    "affine": (policies.network_critic(()), VECTOR, AffineValue),
    "table": (policies.table_critic(), STATES, TableValue),
    "linear": (policies.linear_critic(), VECTOR, WeightedValue),
    "quadratic": (policies.linear_critic(2), MATRIX, WeightedValue),
    "linear over states": (policies.linear_critic(), STATES, TableValue),
}


def rollout_of(space, t=4, b=2):
    rng = np.random.default_rng(0)

    def observe():
        if isinstance(space, Discrete):
            return jnp.asarray(rng.integers(0, space.n, (t, b)), jnp.int32)
        return jnp.asarray(rng.normal(size=(t, b, *space.shape)), jnp.float32)

    zeros, no = jnp.zeros((t, b)), jnp.zeros((t, b), bool)
    return Rollout(observe(), zeros, zeros, zeros, no, no, observe(), zeros + 1, zeros.astype(jnp.int32), (), {})


@pytest.mark.parametrize("name", TABLE)
def test_protocol(name):
    build, space, head = TABLE[name]
    critic = build(KEY, Spec(space, Discrete(2), 2))
    assert type(critic.head) is head
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(critic))
    rng = np.random.default_rng(1)
    critic = jax.tree.map(lambda x: x + rng.normal(size=x.shape).astype(np.float32), critic)
    rollout = rollout_of(space)

    @jax.jit
    def everything(critic, rollout):
        values, next_values = critic(None, rollout, ())
        one = critic.value(rollout.obs[1, 1])
        return (
            values,
            next_values,
            critic.value(rollout.obs),
            critic.value(rollout.next_obs),
            one,
            jax.grad(lambda c: c.value(rollout.obs).sum())(critic),
        )

    values, next_values, here, there, one, gradient = everything(critic, rollout)
    assert values.shape == next_values.shape == (4, 2)
    assert values.dtype == jnp.float32
    assert one.shape == ()
    # next_obs was drawn apart from obs, as it is at a truncation: values shifted by a row would show
    np.testing.assert_allclose(values, here, atol=1e-5)
    np.testing.assert_allclose(next_values, there, atol=1e-5)
    np.testing.assert_allclose(one, values[1, 1], atol=1e-5)
    assert jax.tree.structure(gradient) == jax.tree.structure(critic)


@pytest.mark.parametrize("ends", [0.0, 0.02, 0.5], ids=["none", "few", "many"])
@pytest.mark.parametrize("shared", [False, True], ids=["apart", "shared"])
def test_values_of_next_observations_that_the_next_row_has(ends, shared):
    """Large rollouts: those are looked up, others made; whichever way, all that anybody reads is V of the true next observation."""
    rng = np.random.default_rng(0)
    t, b = 64, 64
    walk = rng.normal(size=(t + 1, b, 3)).astype(np.float32)
    over = rng.random((t, b)) < ends
    terminated = over & (rng.random((t, b)) < 0.5)
    following = np.where(over[..., None], rng.normal(size=(t, b, 3)), walk[1:]).astype(np.float32)
    mask = np.ones((t, b), np.float32)
    mask[:40, 7] = 0
    rollout = rollout_of(VECTOR, t, b)._replace(
        obs=walk[:-1], next_obs=following, terminated=terminated, truncated=over & ~terminated, mask=mask
    )
    spec = Spec(VECTOR, Discrete(2), b)
    policy = policies.default(hidden_sizes=(16, 16))(KEY, spec)
    critic = policies.shared_critic()(KEY, spec, policy) if shared else policies.network_critic((16, 16))(KEY, spec)
    values, next_values = jax.jit(lambda rollout: critic(policy, rollout, ()))(rollout)
    value = (lambda obs: critic.head(policy.features(obs))) if shared else critic.value
    np.testing.assert_allclose(values, value(walk[:-1]), atol=1e-6)
    read = ~terminated & (mask > 0)
    np.testing.assert_allclose(np.asarray(next_values)[read], np.asarray(value(following))[read], atol=1e-6)
    assert np.isfinite(next_values).all()
    assert (np.abs(np.asarray(next_values)[:-1] - np.asarray(values)[1:])[read[:-1]] > 1e-6).sum() == (over & read)[:-1].sum()


def test_a_table_reads_its_values():
    critic = policies.table_critic()(KEY, Spec(STATES, Discrete(2), 1))
    assert (critic.head.values == 0).all()
    critic = jax.tree.map(lambda _: jnp.arange(5.0) ** 2, critic)
    np.testing.assert_array_equal(critic.value(jnp.array([[3, 0]])), [[9, 0]])


@pytest.mark.parametrize("degree", [0, 1, 2])
def test_the_degree_is_what_the_critic_can_represent(degree):
    rng = np.random.default_rng(0)
    critic = policies.linear_critic(degree)(KEY, Spec(Box.of(-1, 1, (2,)), Discrete(2), 1))
    obs = rng.normal(size=(50, 2))
    design = np.asarray(jax.jit(critic.features)(obs.astype(np.float32)), np.float64)
    for power in (0, 1, 2):
        target = (obs.sum(1)) ** power
        residual = target - design @ np.linalg.lstsq(design, target)[0]
        assert (np.abs(residual).max() < 1e-4) == (power <= degree)
    assert (critic.head.weights == 0).all()


def test_the_output_layer_starts_at_the_gain_of_one():
    critic = policies.default_critic()(KEY, Spec(VECTOR, Discrete(2), 1))
    np.testing.assert_allclose(np.linalg.norm(critic.head.layer.weight), 1, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(np.asarray(critic.features.layers[1].weight)[0]), np.sqrt(2), rtol=1e-5)


def test_float64():
    with jax.enable_x64(True):
        critic = policies.default_critic((4,))(KEY, Spec(VECTOR, Discrete(2), 1))
        assert jax.eval_shape(critic.value, np.zeros((2, 3))).dtype == jnp.float64


def test_what_does_not_fit():
    with pytest.raises(SpaceError, match=r"a table of values needs Discrete observations: got Box"):
        policies.table_critic()(KEY, Spec(VECTOR, Discrete(2), 1))
    with pytest.raises(UnknownNameError, match="unknown activation"):
        policies.default_critic(activation="sin")
    with pytest.raises(UsageError, match="hidden_sizes: got"):
        policies.network_critic((0,))
    for degree in (-1, 1.5):
        with pytest.raises(UsageError, match="degree of the critic"):
            policies.linear_critic(degree)
    with pytest.raises(UsageError, match="too many monomials"):
        policies.linear_critic(9)(KEY, Spec(Box.of(-1, 1, (100,)), Discrete(2), 1))
