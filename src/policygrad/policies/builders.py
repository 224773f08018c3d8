"""Makers of policies: each returns a builder, (key, spec) -> Policy, which recipes call once they know the spaces.

What can be checked without the spaces is checked when the maker is called, the rest when the builder is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from policygrad.errors import SpaceError, UnknownNameError, UsageError
from policygrad.policies.features import Index, PerStatePolynomial, StateAction, StateActionPolynomial
from policygrad.policies.frozen import Frozen
from policygrad.policies.head_choice import Sigma, check_head, check_sigma, head_of
from policygrad.policies.heads import Preferences, TableHead
from policygrad.policies.policy import Policy
from policygrad.policies.trunk import Trunk
from policygrad.settings import HeadName
from policygrad.spaces import Box, Discrete, Space, from_gymnasium, seen
from policygrad.types import Array, Key, Spec

PolicyBuilder = Callable[[Key, Spec], Policy]

OUTPUT_GAIN = 0.01
"""Gain of the output layer under "orthogonal": the first policy hardly prefers any action (Andrychowicz et al. 2021)."""
PARTS = "features", "memory", "head"


def policy(
    observation_space: Any = None,
    action_space: Any = None,
    *,
    features: Any = "auto",
    hidden_sizes: Sequence[int] | None = None,
    activation: str = "tanh",
    memory: str | None = None,
    memory_size: int = 64,
    truncate: int | None = None,
    head: HeadName | Mapping[str, HeadName] = "auto",
    sigma: Sigma | None = None,
    initial_sigma: float = 1.0,
    initialisation: str = "orthogonal",
    freeze: Sequence[str] = (),
    network: Sequence[int] = (64, 64),
) -> PolicyBuilder:
    """The policy that the spaces suggest, and whatever of it is to be another: features × memory × head.

        observation                       features and layers over them, where neither is given
        Discrete                          a table: logits, or one mean per state; with memory its unit vector
        MultiDiscrete, MultiBinary, Box   their numbers, unit vectors for integers, and layers of the widths `network`
        images (bytes of rank 3)          convolutions
        Dict, Tuple                       those of the parts side by side, and layers of the widths `network`

        action          head
        Discrete        softmax
        MultiDiscrete   a softmax for every element
        MultiBinary     a coin for every element
        Box             Gaussian with a σ that is learnt, the same in every state
        Dict, Tuple     those of the parts, independent given the features

    Where observations are a dict with an "action_mask", actions that it forbids have probability 0. It has an entry of 1 or 0 for each
    alternative of each discrete part of the action, in order; the features do not see it.

    Args:
        observation_space, action_space: Gymnasium's or policygrad's, to check the choice against at once; None for both leaves that to
            whoever calls the builder.
        features: a name of `features.FEATURES`; a function (key, space) -> features; or a Module, observations [..., *shape] -> [..., F],
            whose leaves are float arrays. Over others than "auto", "raw" and "joined" there are layers only where `hidden_sizes` asks.
        hidden_sizes: widths of learnt layers over the features, whatever the spaces; () for none: a policy linear in its features.
        activation: of these layers, a name of `networks.ACTIVATIONS`.
        memory: "gru" or "lstm" between the layers and the head; None for none. Layers are then (64,) where none are given.
        memory_size: width of the memory, ≥ 1.
        truncate: steps that gradients flow back through the memory at the most, ≥ 1; None for all of a rollout.
        head: of Box actions, or of the Box parts of actions, where `sigma` gives no Σ:

            "auto", "gaussian"   N(μ(x), diag σ²), log σ learnt
            "state-gaussian"     σ depends on x, too
            "full-gaussian"      the whole covariance depends on x
            "squashed"           tanh of "gaussian", into the bounds
            "squashed-state"     tanh of "state-gaussian"
            "beta"               a Beta distribution over the bounds

            For Dict actions also a mapping from the names of parts to such names; parts that are not in it have "auto".
        sigma: a fixed Σ for Box actions: a standard deviation > 0, one for each element, or a covariance matrix [d][d].
        initial_sigma: the standard deviation > 0 that learning it starts from (before the tanh, where there is one).
        initialisation: a name of `networks.INITIALISATIONS`; under "orthogonal" layers take the gain √2, the output 0.01.
        freeze: what does not train, among "features", "memory" and "head".
        network: widths of the layers where `hidden_sizes` is None.

    Returns:
        builder (key, spec) -> Policy, which raises SpaceError if this does not fit the spaces.

    Raises:
        UnknownNameError, UsageError: for arguments that fit no spaces at all. SpaceError: where they do not fit the given ones.

    >>> from policygrad.spaces import Box, Discrete
    >>> build = policy(Box.of(-1.0, 1.0, (3,)), Discrete(2), memory="gru", memory_size=8)
    >>> build(jax.random.key(0), Spec(Box.of(-1.0, 1.0, (3,)), Discrete(2), num_envs=1)).initial(5).shape
    (5, 8)
    """
    if (observation_space is None) != (action_space is None):
        got = "observation" if action_space is None else "action"
        raise UsageError(f"policy: got the {got} space alone; give both spaces, or none")
    trunk = Trunk(features, hidden_sizes, activation, memory, memory_size, truncate, initialisation, network)
    if isinstance(freeze, str):
        raise UsageError(f"freeze: got {freeze!r}; give a tuple of parts, e.g. ({freeze!r},)")
    if unknown := [part for part in freeze if part not in PARTS]:
        raise UnknownNameError("part of a policy", unknown[0], PARTS)
    if "memory" in freeze and trunk.memory is None:
        raise UsageError("freeze: got 'memory' for a policy without one; leave it out")
    check_head(head)
    fixed, initial_sigma = check_sigma(sigma, initial_sigma)
    suggested = trunk.suggested and head == "auto" and fixed is None and initial_sigma == 1

    def build(key: Key, spec: Spec) -> Policy:
        space, actions = seen(spec.observation_space), spec.action_space
        if suggested and isinstance(space, Discrete) and isinstance(actions, Discrete):
            built = table()(key, spec)
        else:
            make_head, num_outputs = head_of(actions, head, fixed, initial_sigma)
            made, cell, output = trunk.build(key, space, num_outputs, OUTPUT_GAIN)
            built = Policy(made, make_head(output), spec.observation_space, actions, cell)
        parts = {part: Frozen(getattr(built, part)) if part in freeze else getattr(built, part) for part in PARTS}
        return Policy(observation_space=built.observation_space, action_space=built.action_space, **parts)

    if observation_space is not None and action_space is not None:
        spaces = (
            from_gymnasium(space, role) if not isinstance(space, Space) else space
            for space, role in ((observation_space, "observation"), (action_space, "action"))
        )
        spec = Spec(*spaces, num_envs=1)
        jax.eval_shape(lambda key: build(key, spec), jax.random.key(0))
    return build


def default(
    *,
    hidden_sizes: Sequence[int] | None = None,
    network: Sequence[int] = (64, 64),
    activation: str = "tanh",
    initialisation: str = "orthogonal",
    sigma: Sigma | None = None,
    initial_sigma: float = 1.0,
    **others: Any,
) -> PolicyBuilder:
    """The policy that the spaces suggest: `policy`, without spaces to check it against."""
    layers = {"hidden_sizes": hidden_sizes, "network": network, "activation": activation, "initialisation": initialisation}
    return policy(sigma=sigma, initial_sigma=initial_sigma, **layers, **others)


def mlp(
    hidden_sizes: Sequence[int] = (64, 64),
    *,
    activation: str = "tanh",
    initialisation: str = "orthogonal",
    sigma: Sigma | None = None,
    initial_sigma: float = 1.0,
) -> PolicyBuilder:
    """A network of these layers, whatever the spaces; arguments, returns and errors as `policy`."""
    return policy(hidden_sizes=hidden_sizes, activation=activation, initialisation=initialisation, sigma=sigma, initial_sigma=initial_sigma)


def linear(*, initialisation: str = "orthogonal", sigma: Sigma | None = None, initial_sigma: float = 1.0) -> PolicyBuilder:
    """Logits or mean affine in the observation. Arguments, returns and errors as `policy`."""
    return mlp((), initialisation=initialisation, sigma=sigma, initial_sigma=initial_sigma)


def table() -> PolicyBuilder:
    """A row of logits per state, all 0 at first: the uniform policy.

        π(a|s) = softmax(θ_s)_a        θ [S, A]

    Returns:
        builder, which raises SpaceError unless observations and actions are both Discrete.
    """

    def build(key: Key, spec: Spec) -> Policy:
        states, actions = seen(spec.observation_space), spec.action_space
        if not isinstance(states, Discrete):
            raise SpaceError(f"a table needs Discrete observations: got {states}; use mlp(...) or linear()")
        if not isinstance(actions, Discrete):
            raise SpaceError(f"a table of logits needs Discrete actions: got {actions}; use linear(), a mean per state")
        return Policy(Index(states.n), TableHead(jnp.zeros((states.n, actions.n))), spec.observation_space, actions)

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
        space, actions = _one_part(spec, "state-action features"), _discrete_actions(spec, "state-action features")
        obs = jax.ShapeDtypeStruct(space.shape, jax.dtypes.canonicalize_dtype(space.dtype))
        features = jax.eval_shape(lambda s, a: jnp.asarray(phi(s, a)), obs, jax.ShapeDtypeStruct((), jnp.int32))
        if features.ndim != 1:
            raise UsageError(f"phi(s, a) must return a vector [F]: got shape {features.shape}; stack its features with jnp.stack")
        weights = jnp.zeros(features.shape)
        return Policy(StateAction(phi, space.shape, actions.n), Preferences(weights), spec.observation_space, actions)

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
        space, actions = _one_part(spec, "polynomial preferences"), _discrete_actions(spec, "polynomial preferences")
        if isinstance(space, Discrete):
            features: Any = PerStatePolynomial(space.n, degree, actions.n)
        else:
            features = StateActionPolynomial(space.shape, degree, actions.n)
        return Policy(features, Preferences(jnp.zeros(features.num_features)), spec.observation_space, actions)

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


def _one_part(spec: Spec, what: str) -> Discrete | Box:
    space = seen(spec.observation_space)
    if not isinstance(space, Discrete | Box):
        raise SpaceError(f"{what} need Discrete or Box observations: got {space}; use policy(...)")
    return space


def _discrete_actions(spec: Spec, what: str) -> Discrete:
    if not isinstance(spec.action_space, Discrete):
        raise SpaceError(f"{what} need Discrete actions: got {spec.action_space}; use mlp(...) or linear() for a Gaussian policy")
    return spec.action_space
