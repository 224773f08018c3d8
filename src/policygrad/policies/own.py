"""Modules and functions of the user's own, as policies.

A Module of equinox's, or a function of parameters, is written for one observation; here it is mapped over any leading axes. Whatever it
holds beside float arrays (activations, sizes, numbers, integer arrays) is kept apart, so that only what trains is a leaf.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from policygrad import spaces
from policygrad.errors import SpaceError, UsageError
from policygrad.policies.distributions import Distribution
from policygrad.policies.features.basic import leading
from policygrad.policies.policy import Policy, acts_on, what_is_seen
from policygrad.spaces import Space, has_mask, seen
from policygrad.types import Key, PyTree, Spec


class Own(eqx.Module):
    """A Module of the user's, mapped over leading axes.

        own(x)[i] = module(x[i])

    Args:
        arrays: its leaves that train, floats; None in place of the others.
        rest: the others.
        space: of the observations that it takes, one at a time.
    """

    arrays: PyTree
    rest: _Rest = eqx.field(static=True)
    space: Space = eqx.field(static=True)

    @property
    def module(self) -> Any:
        """The user's Module, with the arrays as they are now."""
        return eqx.combine(self.arrays, self.rest.tree)

    def __call__(self, obs: PyTree) -> Any:
        lead = _leading(self.space, obs)
        flat = spaces.mapped(lambda one, x: jnp.reshape(x, (math.prod(lead), *one.shape)), self.space, obs)
        made = jax.vmap(self.module)(flat)
        return jax.tree.map(lambda x: x.reshape(*lead, *x.shape[1:]), made)


def _leading(space: Space, obs: PyTree) -> tuple[int, ...]:
    """The batch axes of observations."""
    try:
        parts = spaces.flattened(space, obs)
    except (TypeError, KeyError, IndexError):
        raise SpaceError(f"observation: got {jax.tree.structure(obs)}; the policy takes those of {space}") from None
    leads = {leading(jnp.asarray(part), leaf.shape) for part, (_, leaf) in zip(parts, spaces.leaves(space), strict=True)}
    if len(leads) > 1:
        raise SpaceError(f"observation: got parts of different batch axes, {sorted(leads)}; give all parts the same")
    return leads.pop()


class _Rest:
    """What of a Module does not train: hashable, equal where it holds the same."""

    def __init__(self, tree: PyTree):
        self.tree = tree
        leaves, self._structure = jax.tree.flatten(tree)
        self._leaves = tuple(map(_comparable, leaves))

    def __hash__(self) -> int:
        return hash((self._leaves, self._structure))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Rest) and (self._leaves, self._structure) == (other._leaves, other._structure)


def _comparable(leaf: Any) -> Any:
    if not eqx.is_array(leaf):
        return type(leaf), leaf  # 1 and 1.0 and True are equal, and other programs
    if isinstance(leaf, jax.core.Tracer):
        raise UsageError(
            f"policy: got an array of {leaf.dtype} that its builder computes in a traced program; make it with NumPy, or a static tuple"
        )
    data = jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
    return leaf.shape, str(leaf.dtype), np.asarray(data).tobytes()


def _trains(leaf: Any) -> bool:
    return eqx.is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating)


class Applied(eqx.Module):
    """A function of parameters and one observation, with its parameters.

    Args:
        function: (params, obs) -> what it makes of it. params: any pytree of float arrays.
    """

    function: Callable[[PyTree, PyTree], Any] = eqx.field(static=True)
    params: PyTree

    def __call__(self, obs: PyTree) -> Any:
        return self.function(self.params, obs)


class _AsIs(eqx.Module):
    """A head for features that are distributions already."""

    def __call__(self, x: Any) -> Any:
        return x


def own(module: Any, params: PyTree = None) -> Callable[[Key, Spec], Policy]:
    """A Module or function of your own as the maker of a policy: one observation in, a `Distribution` out.

    It starts with the same parameters for every seed; for others give recipes a function (key, spec) -> Module.

    Args:
        module: an `equinox.Module`; or a function (params, obs), traceable by JAX, defined once: another function object compiles anew.
        params: of a function: any pytree of float arrays.

    Returns:
        builder (key, spec) -> Policy. Masks of actions are applied to what it returns, and not shown to it. Such policies save their
        arrays; `load(path, like=...)` needs one made the same way.

    Raises:
        UsageError: for neither; by the builder, for what does not return a distribution, or holds no float array.
        SpaceError: by the builder, for a distribution of other actions.

    >>> import equinox as eqx, jax.numpy as jnp
    >>> from policygrad.policies import Categorical
    >>> from policygrad.spaces import Box, Discrete
    >>> build = own(lambda params, obs: Categorical(params @ obs), jnp.zeros((2, 4)))
    >>> policy = build(None, Spec(Box.of(-1.0, 1.0, (4,)), Discrete(2), num_envs=1))
    >>> policy(jnp.zeros((7, 4))).probabilities().shape
    (7, 2)
    """
    if params is not None:
        if not callable(module):
            raise UsageError(f"policy: got {type(module).__name__} with parameters; give a function (params, obs) -> distribution")
        module = Applied(module, params)
    if not (isinstance(module, eqx.Module) and callable(module)):
        raise UsageError(
            f"policy: got {type(module).__name__}; give an equinox.Module, or a function of parameters and these: own(f, params)"
        )

    def build(key: Key, spec: Spec) -> Policy:
        return wrapped(module, spec)

    return build


def wrapped(module: Any, spec: Spec) -> Any:
    """What a builder of the user's made, as a policy: as it is where it can be unrolled, else through `own`."""
    if hasattr(module, "unroll"):
        return module
    if not (isinstance(module, eqx.Module) and callable(module)):
        raise UsageError(f"policy: got {type(module).__name__} from its builder; it must make a Policy, or a Module of your own")
    name = getattr(module.function, "__name__", "the function") if isinstance(module, Applied) else type(module).__name__
    arrays, rest = eqx.partition(module, _trains)
    if not jax.tree.leaves(arrays):
        raise UsageError(f"policy: got {name} without an array of floats, so nothing of it would train; make its parameters arrays")
    features = Own(jax.tree.map(jnp.asarray, arrays), _Rest(rest), seen(spec.observation_space))
    policy = Policy(features, _AsIs(), spec.observation_space, spec.action_space)
    _check(policy, name)
    return policy


def _check(policy: Policy, name: str) -> None:
    """Traces it on three observations."""
    obs = spaces.mapped(lambda leaf: jax.ShapeDtypeStruct((3, *leaf.shape), spaces.held_dtype(leaf)), policy.observation_space)

    def act(obs: PyTree) -> tuple[Any, Any, Any]:
        made = policy.features(what_is_seen(obs))
        if not isinstance(made, Distribution):
            got = "an array" if eqx.is_array(made) else f"a {type(made).__name__}"
            raise UsageError(f"policy: got {got} from {name}; it must return a distribution, such as policies.Categorical(logits)")
        if has_mask(policy.observation_space) and not hasattr(made, "masked"):
            raise UsageError(f"policy: got {type(made).__name__} from {name}, which has no masked(mask); observations here have a mask")
        action = made.sample(jax.random.key(0))
        return made, action, made.log_prob(action)

    made, action, log_prob = jax.eval_shape(act, obs)
    if not acts_on(policy.action_space, (3,), made, action, log_prob):
        shapes = ", ".join(f"{leaf.dtype}{leaf.shape[1:]}" for leaf in jax.tree.leaves(action))
        number = f" among {made.mask_size} alternatives" if getattr(made, "mask_size", 0) else ""
        got = f"a {type(made).__name__} of actions {shapes or '()'}{number}, log-probabilities {log_prob.shape[1:]}"
        raise SpaceError(f"policy: got {got} from {name}; it must be one of actions of {policy.action_space}, for one observation")


def as_builder(policy: Any) -> Any:
    """What a recipe takes as `policy`: a builder stays one, a Module of the user's becomes one; None is None."""
    if policy is None:
        return None
    if isinstance(policy, eqx.Module) and not hasattr(policy, "unroll"):
        return own(policy)
    make: Any = policy
    try:
        inspect.signature(make).bind(None, None)
    except TypeError:
        raise UsageError(
            "policy: got a function that does not take (key, spec); for one of observations write policies.own(f, params)"
        ) from None
    except ValueError:  # a builtin that does not tell
        pass
    return lambda key, spec: wrapped(make(key, spec), spec)
