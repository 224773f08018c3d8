"""Makers of policies: each returns a builder, (key, spec) -> Policy, which recipes call once they know the spaces.

What can be checked without the spaces is checked when the maker is called, the rest when the builder is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from policygrad.errors import SpaceError, UsageError
from policygrad.policies.features import (
    Index,
    PerStatePolynomial,
    StateAction,
    StateActionPolynomial,
    learnt,
)
from policygrad.policies.networks import check_network
from policygrad.policies.policy import FixedGaussian, LinearCategorical, LinearGaussian, Policy, Preferences, TableHead
from policygrad.spaces import Box, Discrete, Space
from policygrad.types import Array, Key, Spec

PolicyBuilder = Callable[[Key, Spec], Policy]

OUTPUT_GAIN = 0.01
"""Gain of the output layer under "orthogonal": the first policy hardly prefers any action (Andrychowicz et al. 2021)."""


def default(
    *,
    hidden_sizes: Sequence[int] | None = None,
    network: Sequence[int] = (64, 64),
    activation: str = "tanh",
    initialisation: str = "orthogonal",
    sigma: float | Sequence[float] | None = None,
    initial_sigma: float = 1.0,
) -> PolicyBuilder:
    """The policy that the spaces suggest.

        observation     hidden_sizes None                               hidden_sizes given
        Discrete        a table: logits, or one mean per state          network over the one-hot state
        Box             network of the widths `network`                 network over the elements

        action Discrete: softmax            action Box: Gaussian

    Args:
        hidden_sizes: widths of the hidden layers, whatever the spaces; () is a policy linear in the observation.
        network: widths where `hidden_sizes` is None and the observation is a Box.
        activation: a name of `networks.ACTIVATIONS`.
        initialisation: a name of `networks.INITIALISATIONS`; under "orthogonal" hidden layers take the gain √2, the output 0.01.
        sigma: a fixed standard deviation > 0 for Box actions, one or one per element; None learns log σ.
        initial_sigma: the standard deviation > 0 that learning starts from.

    Returns:
        builder (key, spec) -> Policy, which raises SpaceError if this does not fit the spaces.

    Raises:
        UnknownNameError, UsageError: for arguments that fit no spaces at all.
    """
    if hidden_sizes is not None:
        return mlp(hidden_sizes, activation=activation, initialisation=initialisation, sigma=sigma, initial_sigma=initial_sigma)
    layers = mlp(network, activation=activation, initialisation=initialisation, sigma=sigma, initial_sigma=initial_sigma)
    lookup = linear(initialisation=initialisation, sigma=sigma, initial_sigma=initial_sigma)

    def build(key: Key, spec: Spec) -> Policy:
        if isinstance(spec.observation_space, Box):
            return layers(key, spec)
        if isinstance(spec.action_space, Discrete) and sigma is None and initial_sigma == 1:
            return table()(key, spec)
        return lookup(key, spec)

    return build


def mlp(
    hidden_sizes: Sequence[int] = (64, 64),
    *,
    activation: str = "tanh",
    initialisation: str = "orthogonal",
    sigma: float | Sequence[float] | None = None,
    initial_sigma: float = 1.0,
) -> PolicyBuilder:
    """A network: softmax over its outputs for Discrete actions, Gaussian around them for Box actions.

    Observations enter as floats, a Discrete one as a unit vector. Arguments, returns and errors as `default`.
    """
    hidden_sizes = check_network(hidden_sizes, activation, initialisation)
    fixed, initial_sigma = _check_sigma(sigma, initial_sigma)

    def build(key: Key, spec: Spec) -> Policy:
        space, actions = spec.observation_space, spec.action_space
        make_head, num_outputs = _head(actions, fixed, initial_sigma)
        features, output = learnt(
            key, space, hidden_sizes, num_outputs, activation=activation, initialisation=initialisation, output_gain=OUTPUT_GAIN
        )
        return Policy(features, make_head(output), space, actions)

    return build


def linear(
    *, initialisation: str = "orthogonal", sigma: float | Sequence[float] | None = None, initial_sigma: float = 1.0
) -> PolicyBuilder:
    """Logits or mean affine in the observation. Arguments, returns and errors as `default`."""
    return mlp((), initialisation=initialisation, sigma=sigma, initial_sigma=initial_sigma)


def table() -> PolicyBuilder:
    """A row of logits per state, all 0 at first: the uniform policy.

        π(a|s) = softmax(θ_s)_a        θ [S, A]

    Returns:
        builder, which raises SpaceError unless observations and actions are both Discrete.
    """

    def build(key: Key, spec: Spec) -> Policy:
        states, actions = spec.observation_space, spec.action_space
        if not isinstance(states, Discrete):
            raise SpaceError(f"a table needs Discrete observations: got {states}; use mlp(...) or linear()")
        if not isinstance(actions, Discrete):
            raise SpaceError(f"a table of logits needs Discrete actions: got {actions}; use linear(), a mean per state")
        return Policy(Index(states.n), TableHead(jnp.zeros((states.n, actions.n))), states, actions)

    return build


def state_action(phi: Callable[[Array, Array], Array]) -> PolicyBuilder:
    """The softmax of linear preferences over the caller's features.

        π(a|s) ∝ exp(θ·φ(s, a))        ∇ log π(a|s) = φ(s, a) − Σ_b π(b|s) φ(s, b)        θ = 0 at first

    Args:
        phi: (one observation, one action index) -> [F], traceable by JAX. Define it once at module level: another function
            object is another policy, and compiles anew.

    Returns:
        builder, which raises SpaceError unless actions are Discrete, and UsageError unless phi returns a vector. Its policies
        save without phi: `load(path, like=...)` needs a policy made with the same function.

    Reference:
        Sutton and Barto 2018, section 13.3.

    >>> from policygrad.types import Spec
    >>> cartpole = Spec(Box.of(-1.0, 1.0, (4,)), Discrete(2), num_envs=1)
    >>> state_action(lambda s, a: jnp.concatenate([s, -s]) * (2 * a - 1))(None, cartpole).head.weights.shape
    (8,)
    """

    def build(key: Key, spec: Spec) -> Policy:
        space, actions = spec.observation_space, _discrete_actions(spec, "state-action features")
        obs = jax.ShapeDtypeStruct(space.shape, jax.dtypes.canonicalize_dtype(space.dtype))
        features = jax.eval_shape(lambda s, a: jnp.asarray(phi(s, a)), obs, jax.ShapeDtypeStruct((), jnp.int32))
        if features.ndim != 1:
            raise UsageError(f"phi(s, a) must return a vector [F]: got shape {features.shape}; stack its features with jnp.stack")
        weights = jnp.zeros(features.shape)
        return Policy(StateAction(phi, space.shape, actions.n), Preferences(weights), space, actions)

    return build


def polynomial(degree: int = 2) -> PolicyBuilder:
    """The softmax of polynomial preferences of state and action.

        π(a|s) ∝ exp h(s, a, θ)        h = Σ_e θ_e · s^e u^k over all monomials up to `degree`        θ = 0 at first

    u is the action index scaled to [−1, 1]. A Discrete observation has a polynomial of its own per state, so a task with
    one state has h(a, θ) = θ_0 + θ_1 u + θ_2 u² for degree 2. θ_0 and whatever else does not contain u cancels in the
    softmax: its gradient is 0.

    Args:
        degree: ≥ 1.

    Returns:
        builder, which raises SpaceError unless actions are Discrete.
    """
    if isinstance(degree, bool) or not isinstance(degree, int) or degree < 1:
        raise UsageError(f"degree of the polynomial: got {degree}; it must be an integer of at least 1 (a constant prefers nothing)")

    def build(key: Key, spec: Spec) -> Policy:
        space, actions = spec.observation_space, _discrete_actions(spec, "polynomial preferences")
        if isinstance(space, Discrete):
            features: Any = PerStatePolynomial(space.n, degree, actions.n)
        else:
            features = StateActionPolynomial(space.shape, degree, actions.n)
        return Policy(features, Preferences(jnp.zeros(features.num_features)), space, actions)

    return build


def tabular_softmax(logits: Array) -> Policy:
    """A tabular policy with given logits, its only leaf: for finite MDPs and exact gradients.

        π(a|s) = softmax(θ_s)_a

    Args:
        logits: θ, [S, A]; their dtype stays: NumPy's float64 remains NumPy's, for exact answers, and JAX rounds it where it computes
            with it in float32. Lists are NumPy's.
    """
    logits = logits if hasattr(logits, "ndim") else np.asarray(logits)
    if logits.ndim != 2 or 0 in logits.shape:
        raise UsageError(f"logits of a tabular policy: got shape {logits.shape}; give [states, actions]")
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        if not (jnp.issubdtype(logits.dtype, jnp.integer) or logits.dtype == bool):
            raise UsageError(f"logits of a tabular policy: got {logits.dtype}; give numbers")
        logits = logits.astype(np.float64 if isinstance(logits, np.ndarray) else jnp.result_type(float))
    return Policy(Index(logits.shape[0]), TableHead(logits), Discrete(logits.shape[0]), Discrete(logits.shape[1]))


def _head(space: Space, sigma: tuple[float, ...] | None, initial_sigma: float) -> tuple[Callable[[Any], Any], int]:
    """What makes the head that fits the action space from an output layer, and how many outputs that layer needs."""
    if isinstance(space, Discrete):
        if sigma is not None:
            raise SpaceError(f"a fixed sigma needs Box actions: got {space}; leave sigma out")
        if initial_sigma != 1:
            raise SpaceError(f"an initial_sigma needs Box actions: got {space}; leave initial_sigma out")
        return LinearCategorical, space.n
    if not jnp.issubdtype(space.dtype, jnp.floating):
        raise SpaceError(f"a Gaussian needs real-valued actions: got {space}; make the environment take floats or Discrete actions")
    if space.size == 0:
        raise SpaceError(f"empty action space: got {space}; there is nothing to choose")
    if sigma is None:
        return lambda layer: LinearGaussian(layer, jnp.full(space.shape, math.log(initial_sigma))), space.size
    if len(sigma) not in (1, space.size):
        raise SpaceError(f"a fixed sigma for {space}: got {len(sigma)} values; give 1, or {space.size}: one per element")
    return lambda layer: FixedGaussian(layer, space.shape, sigma), space.size


def _discrete_actions(spec: Spec, what: str) -> Discrete:
    if not isinstance(spec.action_space, Discrete):
        raise SpaceError(f"{what} need Discrete actions: got {spec.action_space}; use mlp(...) or linear() for a Gaussian policy")
    return spec.action_space


def _check_sigma(sigma: float | Sequence[float] | None, initial_sigma: float) -> tuple[tuple[float, ...] | None, float]:
    """A fixed σ as a tuple of floats, and the initial one, both > 0 and finite."""
    values = () if sigma is None else tuple(map(float, sigma)) if isinstance(sigma, Sequence) else (float(sigma),)
    for name, value in [("initial_sigma", float(initial_sigma)), *(("sigma", v) for v in values)]:
        if not (math.isfinite(value) and value > 0):
            raise UsageError(f"{name}: got {value}; a standard deviation must be finite and above 0")
    if sigma is not None and not values:
        raise UsageError("sigma: got (); give a standard deviation above 0, or None to learn it")
    return None if sigma is None else values, float(initial_sigma)
