"""A protocol table that every builder passes on every space it takes, and the scores against their closed forms."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special

from policygrad import policies
from policygrad.errors import SpaceError, UnknownNameError, UsageError
from policygrad.policies import Categorical, Gaussian
from policygrad.policies.features import Index, Network, OneHot, Raw
from policygrad.policies.heads import FixedGaussian, LinearCategorical, LinearGaussian, Preferences, TableHead
from policygrad.spaces import Box, Discrete
from policygrad.types import Spec

KEY = jax.random.key(0)
EXACT = 1e-10


def phi(s, a):
    return jnp.concatenate([jnp.ravel(s), jnp.ones(1)]) * (a + 1)


def table_of_logits(key, spec):
    return policies.tabular_softmax(np.zeros((spec.observation_space.n, spec.action_space.n), np.float32))


STATES, VECTOR, MATRIX = Discrete(5), Box.of([-1, -np.inf, 0], [1, np.inf, 2]), Box.of(-1, 1, (2, 2))
SCALAR, IMAGE = Box.of(-1, 1, ()), Box.of(0, 255, (2, 3), "uint8")
CHOICE, PAIR, GRID, NUMBER = Discrete(3), Box.of(-1, 1, (2,)), Box.of(-1, 1, (1, 2)), Box.of(-2, 2, ())

TABLE = {  # name: (builder, observation space, action space, features, head)
    "default of states and choices": (policies.default(), STATES, CHOICE, Index, TableHead),
    "default of states and vectors": (policies.default(), STATES, PAIR, OneHot, LinearGaussian),
    "default of vectors and choices": (policies.default(), VECTOR, CHOICE, Network, LinearCategorical),
    "default of matrices": (policies.default(hidden_sizes=(4,)), MATRIX, GRID, Network, LinearGaussian),
    "default of scalars": (policies.default(hidden_sizes=(4,)), SCALAR, NUMBER, Network, LinearGaussian),
    "default of images": (policies.default(hidden_sizes=(4,)), IMAGE, CHOICE, Network, LinearCategorical),
    "default with a fixed sigma": (policies.default(hidden_sizes=(4,), sigma=0.5), VECTOR, PAIR, Network, FixedGaussian),
    "network over states": (policies.mlp((4, 3), activation="relu", initialisation="torch"), STATES, CHOICE, Network, LinearCategorical),
    "linear in vectors": (policies.linear(), VECTOR, CHOICE, Raw, LinearCategorical),
    "linear with two sigmas": (policies.linear(sigma=(0.5, 2.0)), VECTOR, PAIR, Raw, FixedGaussian),
    "table": (policies.table(), STATES, CHOICE, Index, TableHead),
    "given table": (table_of_logits, STATES, CHOICE, Index, TableHead),
    "preferences over vectors": (policies.state_action(phi), VECTOR, CHOICE, None, Preferences),
    "preferences over states": (policies.state_action(phi), STATES, CHOICE, None, Preferences),
    "polynomial over vectors": (policies.polynomial(2), VECTOR, CHOICE, None, Preferences),
    "polynomial over states": (policies.polynomial(2), STATES, CHOICE, None, Preferences),
}


def observations(space, shape, seed=0):
    rng = np.random.default_rng(seed)
    if isinstance(space, Discrete):
        return rng.integers(0, space.n, shape).astype(np.int32)
    if space.dtype == "uint8":
        return rng.integers(0, 256, (*shape, *space.shape)).astype(np.uint8)
    return rng.normal(size=(*shape, *space.shape)).astype(np.float32)


def built(name):
    build, observation_space, action_space, features, head = TABLE[name]
    policy = build(KEY, Spec(observation_space, action_space, num_envs=2))
    # Off the starting point, which is special: zero weights make much equal that should not be.
    leaves, structure = jax.tree.flatten(policy)
    rng = np.random.default_rng(1)
    moved = [np.asarray(leaf) + 0.3 * rng.normal(size=leaf.shape) for leaf in leaves]
    policy = structure.unflatten([jnp.asarray(leaf, np.float32) for leaf in moved])
    return policy, features, head


def leaves_of(distribution):
    return jax.tree.leaves(distribution)


def climb(policy, gradient):
    optimiser = optax.adam(0.1)
    updates, _ = optimiser.update(gradient, optimiser.init(policy), policy)
    return optax.apply_updates(policy, updates)


@pytest.mark.parametrize("name", TABLE)
def test_protocol(name, tmp_path):
    policy, features, head = built(name)
    space, actions = policy.observation_space, policy.action_space
    if features is not None:
        assert type(policy.features) is features
    assert type(policy.head) is head
    leaves = jax.tree.leaves(policy)
    assert leaves
    assert all(isinstance(leaf, jax.Array) and leaf.dtype == jnp.float32 for leaf in leaves)
    assert policy.initial(7) == ()
    hash(jax.tree.structure(policy))

    obs = observations(space, (2, 3))
    resets = np.zeros((2, 3), bool)

    def acted(policy, obs):
        """Everything a policy is asked for, in one program."""
        batch = policy(obs)
        unrolled, carry = policy.unroll((), obs, resets)
        action = batch.mode()
        singles = {(t, b): policy(obs[t, b]) for t, b in ((0, 1), (1, 2))}
        score = jax.grad(lambda p: jnp.sum(p(obs).log_prob(action)))(policy)
        per_sample = jax.vmap(jax.grad(lambda p, o, a: p(o).log_prob(a)), (None, 0, 0))(policy, obs[0], action[0])
        pair = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), policy)
        two = jax.vmap(lambda p: p(obs))(pair)
        return batch, unrolled, carry, action, singles, score, per_sample, two, batch.log_prob(action), batch.kl(batch), batch.entropy()

    batch, unrolled, carry, action, singles, score, per_sample, two, log_prob, kl, entropy = jax.jit(acted)(policy, obs)
    assert isinstance(batch, Categorical if isinstance(actions, Discrete) else Gaussian)
    assert carry == ()
    assert action.shape == (2, 3, *actions.shape)
    assert log_prob.shape == kl.shape == entropy.shape == (2, 3)
    assert all(np.isfinite(x).all() for x in (log_prob, kl, entropy))
    if isinstance(actions, Discrete):
        assert batch.logits.shape == (2, 3, actions.n)
        assert action.dtype == jnp.int32
    else:
        assert batch.mean.shape == batch.log_std.shape == (2, 3, *actions.shape)
        assert batch.event_ndim == len(actions.shape)

    for one, other in zip(leaves_of(batch), leaves_of(unrolled), strict=True):
        np.testing.assert_array_equal(one, other)
    for (t, b), single in singles.items():
        for one, other in zip(leaves_of(batch), leaves_of(single), strict=True):
            np.testing.assert_allclose(one[t, b], other, rtol=2e-5, atol=1e-5)
    assert jax.tree.structure(score) == jax.tree.structure(policy)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((score, per_sample)))
    for leaf, each in zip(leaves, jax.tree.leaves(per_sample), strict=True):
        assert each.shape == (3, *leaf.shape)
    for one, other in zip(leaves_of(batch), leaves_of(two), strict=True):
        np.testing.assert_allclose(one, other[0], rtol=2e-5, atol=1e-5)
    assert jax.eval_shape(lambda d: d.sample(KEY), batch).shape == action.shape

    climbed = jax.eval_shape(climb, policy, score)
    assert jax.tree.structure(climbed) == jax.tree.structure(policy)

    policies.save(policy, tmp_path / "policy.safetensors")
    like = policy if name.startswith("preferences") else None
    loaded = policies.load(tmp_path / "policy.safetensors", like=like)
    assert jax.tree.structure(loaded) == jax.tree.structure(policy)
    for one, other in zip(jax.tree.leaves(loaded), leaves, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", ["default of vectors and choices", "default of matrices"])
def test_a_jitted_policy_is_traced_once(name):
    policy, *_ = built(name)
    traces = []

    @jax.jit
    def act(policy, obs):
        traces.append(1)
        return policy(obs).mode()

    for seed in range(3):
        moved = jax.tree.map(lambda x, seed=seed: x + seed, policy)
        act(moved, observations(policy.observation_space, (4,), seed))
    assert len(traces) == 1


# What the arguments mean


def test_learnt_and_fixed_sigma():
    spec = Spec(VECTOR, PAIR, 1)
    obs = np.zeros((4, 3), np.float32)
    act = jax.jit(lambda p: (p(obs).log_std, jax.grad(lambda p: p(obs).entropy().sum())(p)))
    learnt = policies.default(hidden_sizes=(3,), initial_sigma=0.25)(KEY, spec)
    log_std, gradient = act(learnt)
    np.testing.assert_allclose(np.exp(log_std), 0.25, rtol=1e-6)
    assert learnt.head.log_std.shape == (2,)
    np.testing.assert_allclose(gradient.head.log_std, [4, 4])  # one vector serves every observation
    fixed = policies.default(hidden_sizes=(3,), sigma=(0.5, 2.0))(KEY, spec)
    np.testing.assert_allclose(np.exp(act(fixed)[0]), np.tile([0.5, 2.0], (4, 1)), rtol=1e-6)
    assert len(jax.tree.leaves(fixed)) == len(jax.tree.leaves(learnt)) - 1


def test_a_new_policy_hardly_prefers_anything():
    spec = Spec(VECTOR, CHOICE, 1)
    obs = observations(VECTOR, (100,))
    for build in (policies.default(), policies.linear(), policies.polynomial(2), policies.state_action(phi)):
        assert float(jax.jit(lambda p: p(obs).entropy().min())(build(KEY, spec))) > np.log(3) - 1e-3
    policy = policies.default()(KEY, Spec(VECTOR, PAIR, 1))
    assert np.abs(jax.jit(lambda p: p(obs).mean)(policy)).max() < 0.1
    assert (policies.table()(KEY, Spec(STATES, CHOICE, 1)).head.logits == 0).all()


def test_hidden_sizes_are_widths_and_none_makes_it_linear():
    policy = policies.mlp((7, 5))(KEY, Spec(VECTOR, CHOICE, 1))
    assert [layer.weight.shape for layer in policy.features.layers] == [(7, 3), (5, 7)]
    assert policy.head.layer.weight.shape == (3, 5)
    linear = policies.default(hidden_sizes=())(KEY, Spec(VECTOR, CHOICE, 1))
    obs = observations(VECTOR, (4,))
    w, b = linear.head.layer.weight, linear.head.layer.bias
    np.testing.assert_allclose(linear(obs).logits, obs @ np.asarray(w).T + np.asarray(b), atol=1e-6)


def test_linear_over_states_is_a_mean_per_state_without_a_spare_parameter():
    policy = policies.default()(KEY, Spec(STATES, PAIR, 1))
    assert policy.head.layer.bias is None
    np.testing.assert_allclose(policy(jnp.arange(5)).mean, policy.head.layer.weight.T, rtol=1e-6)


def test_polynomial_of_one_state_is_the_polynomial_of_the_action():
    """h(a, θ) = θ0 + θ1 a + θ2 a² with five actions and three parameters; here a is scaled to [−1, 1]."""
    policy = policies.polynomial(2)(KEY, Spec(Discrete(1), Discrete(5), 1))
    theta = jnp.array([0.7, 1.5, -2.0])
    assert policy.head.weights.shape == theta.shape
    policy = jax.tree.map(lambda _: theta, policy)
    u = np.linspace(-1, 1, 5)
    expected = scipy.special.softmax(0.7 + 1.5 * u - 2 * u**2)
    np.testing.assert_allclose(policy(jnp.array(0)).probabilities(), expected, atol=1e-6)
    constant = score_of(policy, 0, 3).head.weights[0]
    assert abs(constant) < 1e-6


def test_seed_002_softmax():
    """The seed gives [0.59, 0.24, 0.16] for softmax([2, 1, 0.5]); it is [0.63, 0.23, 0.14]."""
    policy = policies.tabular_softmax([[2.0, 1.0, 0.5]])
    np.testing.assert_allclose(policy(jnp.array(0)).probabilities(), [0.63, 0.23, 0.14], atol=0.005)


def test_a_table_looks_its_states_up():
    logits = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    policy = policies.tabular_softmax(logits)
    np.testing.assert_array_equal(policy(jnp.array([[2, 0], [3, 3]])).logits, logits[[[2, 0], [3, 3]]])
    assert [leaf.shape for leaf in jax.tree.leaves(policy)] == [(4, 3)]
    assert (policy.observation_space, policy.action_space) == (Discrete(4), Discrete(3))
    with jax.enable_x64(True):
        double = policies.tabular_softmax(np.zeros((2, 2)))
        assert jax.eval_shape(lambda p: p(jnp.array(1)).entropy(), double).dtype == jnp.float64
        assert policies.tabular_softmax([[0, 1]]).head.logits.dtype == jnp.float64


def test_parameters_and_results_are_float64_in_64_bit_mode():
    with jax.enable_x64(True):
        for build in (policies.mlp((4,)), policies.linear(sigma=0.5)):
            policy = build(KEY, Spec(VECTOR, PAIR, 1))
            acted = jax.eval_shape(policy, np.zeros((2, 3)))
            assert {leaf.dtype for leaf in jax.tree.leaves((policy, acted))} == {np.dtype(np.float64)}


# Scores against their closed forms


def score_of(policy, obs, action):
    return jax.jit(jax.grad(lambda p: p(obs).log_prob(action)))(policy)


def test_score_of_preferences_is_the_feature_minus_its_mean():
    """∇ log π(a|s) = φ(s, a) − Σ_b π(b|s) φ(s, b)."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        policy = policies.state_action(phi)(KEY, Spec(Box.of(-1, 1, (3,), "float64"), CHOICE, 1))
        policy = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), policy)
        obs = jnp.asarray(rng.normal(size=3))
        features = np.asarray(policy.features(obs))
        pi = scipy.special.softmax(features @ np.asarray(policy.head.weights))
        for action in range(3):
            got = score_of(policy, obs, jnp.array(action)).head.weights
            np.testing.assert_allclose(got, features[action] - pi @ features, atol=EXACT)


def test_score_of_a_table_is_the_indicator_minus_the_probabilities():
    with jax.enable_x64(True):
        logits = np.random.default_rng(0).normal(size=(3, 4))
        got = score_of(policies.tabular_softmax(logits), jnp.array(1), jnp.array(2)).head.logits
        expected = np.zeros((3, 4))
        expected[1] = np.eye(4)[2] - scipy.special.softmax(logits[1])
        np.testing.assert_allclose(got, expected, atol=EXACT)


@pytest.mark.parametrize("sigma", [(0.5, 2.0), None])
def test_score_of_a_gaussian(sigma):
    """∇ log π(a|s) = Σ⁻¹ (a − μ) ∇μ; and ∂/∂ log σ_i = ((a_i − μ_i)/σ_i)² − 1."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        policy = policies.mlp((4,), sigma=sigma, initial_sigma=1.0 if sigma else 0.7)(KEY, Spec(VECTOR, PAIR, 1))
        obs, action = jnp.asarray(rng.normal(size=3)), jnp.asarray(rng.normal(size=2))
        mean = np.asarray(policy(obs).mean)
        variance = np.array(sigma or (0.7, 0.7)) ** 2
        slopes = jax.jit(jax.jacobian(lambda p: p(obs).mean))(policy)
        expected = jax.tree.map(lambda slope: np.tensordot((np.asarray(action) - mean) / variance, slope, 1), slopes)
        got = score_of(policy, obs, action)
        for name in ("features", "head"):
            one, other = getattr(got, name), getattr(expected, name)
            if name == "head":
                one, other = one.layer, other.layer
            for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
                np.testing.assert_allclose(a, b, atol=EXACT)
        if sigma is None:
            np.testing.assert_allclose(got.head.log_std, (np.asarray(action) - mean) ** 2 / variance - 1, atol=EXACT)


# What does not fit


@pytest.mark.parametrize(
    ("build", "observation_space", "action_space", "message"),
    [
        (policies.table(), VECTOR, CHOICE, r"a table needs Discrete observations: got Box.*; use mlp"),
        (policies.table(), STATES, PAIR, r"needs Discrete actions: got Box.*; use linear"),
        (policies.state_action(phi), VECTOR, PAIR, r"state-action features need Discrete actions: got Box"),
        (policies.polynomial(2), VECTOR, PAIR, r"polynomial preferences need Discrete actions: got Box"),
        (policies.default(sigma=0.5), VECTOR, CHOICE, r"a fixed sigma needs Box actions: got Discrete\(3\); leave sigma out"),
        (policies.default(sigma=0.5), STATES, CHOICE, r"a fixed sigma needs Box actions"),
        (policies.default(sigma=(0.5, 1.0, 2.0)), VECTOR, PAIR, r"got 3 values; give 1, or 2"),
        (policies.default(), Box.of(-1, 1, (0,)), CHOICE, r"empty observation space"),
        (policies.default(), VECTOR, Box.of(-1, 1, (0,)), r"empty action space"),
        (policies.default(), VECTOR, Box.of(0, 5, (2,), "int32"), r"needs real-valued actions: got Box"),
    ],
)
def test_builders_refuse_spaces_that_do_not_fit(build, observation_space, action_space, message):
    with pytest.raises(SpaceError, match=message) as caught:
        build(KEY, Spec(observation_space, action_space, 1))
    assert "\n" not in str(caught.value)


def test_makers_refuse_arguments_that_fit_nothing():
    with pytest.raises(UnknownNameError, match="did you mean tanh"):
        policies.default(activation="than")
    with pytest.raises(UnknownNameError, match="unknown initialisation"):
        policies.linear(initialisation="zeros")
    with pytest.raises(UsageError, match="hidden_sizes: got"):
        policies.default(hidden_sizes=(64, 0))
    for sigma in (0.0, -1.0, float("nan"), float("inf"), (1.0, 0.0), ()):
        with pytest.raises(UsageError, match="sigma: got"):
            policies.default(sigma=sigma)
    with pytest.raises(UsageError, match=r"initial_sigma: got 0\.0"):
        policies.default(initial_sigma=0)
    for degree in (0, -1, 1.5, True):
        with pytest.raises(UsageError, match="degree of the polynomial"):
            policies.polynomial(degree)
    with pytest.raises(UsageError, match=r"must return a vector \[F\]: got shape \(\)"):
        policies.state_action(lambda s, a: s[0] * a)(KEY, Spec(VECTOR, CHOICE, 1))
    with pytest.raises(UsageError, match=r"got shape \(3,\); give \[states, actions\]"):
        policies.tabular_softmax([1.0, 2.0, 3.0])


def test_a_policy_refuses_observations_of_another_shape():
    policy, *_ = built("default of vectors and choices")
    with pytest.raises(SpaceError, match=r"observation shape: got \(8, 4\); the policy takes \[..., 3\]"):
        policy(jnp.zeros((8, 4)))


def test_the_public_names_are_all_there():
    assert sorted(policies.__all__) == sorted(set(policies.__all__))
    assert all(hasattr(policies, name) for name in policies.__all__)
