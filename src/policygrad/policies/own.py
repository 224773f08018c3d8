"""Modules and functions of the user's own, as policies.

A Module of equinox's, or a function of parameters, is written for one observation; here it is mapped over any leading axes. Whatever it
holds beside float arrays (activations, sizes, integer arrays) is kept apart, so that only what trains is a leaf.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np

from policygrad import spaces
from policygrad.errors import SpaceError, UsageError
from policygrad.policies.distributions import Distribution
from policygrad.policies.policy import Policy, mask_of, what_is_seen
from policygrad.spaces import Space, has_mask, seen
from policygrad.types import Array, Key, PyTree, Spec


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
        first, leaf = spaces.flattened(self.space, obs)[0], spaces.leaves(self.space)[0][1]
        lead = np.shape(first)[: np.ndim(first) - len(leaf.shape)]
        flat = spaces.mapped(lambda one, x: jax.numpy.reshape(x, (math.prod(lead), *one.shape)), self.space, obs)
        made = jax.vmap(self.module)(flat)
        return jax.tree.map(lambda x: x.reshape(*lead, *x.shape[1:]), made)


class _Rest:
    """What of a Module does not train: hashable, equal where it holds the same."""

    def __init__(self, tree: PyTree):
        self.tree = tree
        leaves, self._structure = jax.tree.flatten(tree)
        self._leaves = tuple((leaf.shape, str(leaf.dtype), np.asarray(leaf).tobytes()) if eqx.is_array(leaf) else leaf for leaf in leaves)

    def __hash__(self) -> int:
        return hash((self._leaves, self._structure))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Rest) and (self._leaves, self._structure) == (other._leaves, other._structure)


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
        UsageError: for neither, or for what does not return a distribution (by the builder).

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
    space, actions = seen(spec.observation_space), spec.action_space
    arrays, rest = eqx.partition(module, eqx.is_inexact_array)
    policy = Policy(Own(arrays, _Rest(rest), space), _AsIs(), spec.observation_space, actions)
    _check(policy, type(module).__name__)
    return policy


def _check(policy: Policy, name: str) -> None:
    """Traces it on three observations."""
    obs = spaces.mapped(lambda leaf: jax.ShapeDtypeStruct((3, *leaf.shape), spaces.held_dtype(leaf)), policy.observation_space)

    def act(obs: PyTree) -> tuple[Any, Array]:
        made = policy.features(what_is_seen(obs))
        if not isinstance(made, Distribution):
            raise UsageError(f"policy: got {type(made).__name__} from {name}; it must return a distribution of policygrad.policies")
        if has_mask(policy.observation_space):
            made = made.masked(mask_of(policy.observation_space, obs))  # type: ignore[attr-defined]
        action = made.sample(jax.random.key(0))
        return action, made.log_prob(action)

    action, log_prob = jax.eval_shape(act, obs)
    wanted = spaces.mapped(lambda leaf: jax.ShapeDtypeStruct((3, *leaf.shape), spaces.held_dtype(leaf)), policy.action_space)
    fits = jax.tree.structure(action) == jax.tree.structure(wanted) and log_prob.shape == (3,)
    if not fits or any(a.shape != w.shape for a, w in zip(jax.tree.leaves(action), jax.tree.leaves(wanted), strict=True)):
        shapes = [leaf.shape[1:] for leaf in jax.tree.leaves(action)]
        raise SpaceError(f"policy: got actions of shape {shapes} from {name}; they must be of {policy.action_space}")


def as_builder(policy: Any) -> Any:
    """What a recipe takes as `policy`: a builder stays one, a Module of the user's becomes one; None is None."""
    if policy is None:
        return None
    if isinstance(policy, eqx.Module) and not hasattr(policy, "unroll"):
        return own(policy)
    make: Any = policy
    return lambda key, spec: wrapped(make(key, spec), spec)
