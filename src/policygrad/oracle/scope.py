"""In which precision, and on which device, an exact answer is computed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from policygrad.errors import UsageError
from policygrad.types import PyTree

F = TypeVar("F", bound=Callable[..., Any])


def traced(tree: PyTree) -> bool:
    """Whether a leaf is a tracer: we are inside `jax.grad`, `jit` or `vmap`."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree))


@contextmanager
def float64() -> Iterator[None]:
    """Float64 and the CPU for the length of a block, even in the middle of a trace; the global flag is not touched.

    Small solves gain nothing from an accelerator, whose float32 products may also be rounded to fewer bits.
    """
    with jax.ensure_compile_time_eval(), jax.enable_x64(True), jax.default_device(_cpu()):
        yield


@functools.cache
def _cpu() -> Any:
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS leaves it out: JAX's own default will do
        return None


def as_float64(tree: PyTree) -> PyTree:
    """Float leaves as NumPy float64, the rest as it is."""

    def cast(leaf: Any) -> Any:
        return np.asarray(leaf, np.float64) if jnp.issubdtype(getattr(leaf, "dtype", type(leaf)), jnp.floating) else leaf

    return jax.tree.map(cast, tree)


def _require_scope(policy: PyTree) -> None:
    wide = any(getattr(leaf, "dtype", None) == np.float64 for leaf in jax.tree.leaves(policy))
    if wide and jnp.result_type(float) != np.float64:  # JAX would round some of it halfway, or fail
        raise UsageError("policy: got float64 parameters outside of jax.enable_x64(True); differentiate inside the scope that made them")


def _require_numbers(policy: PyTree) -> None:
    for leaf in jax.tree.leaves(policy):
        if jnp.issubdtype(getattr(leaf, "dtype", object), jnp.floating) and np.isnan(np.asarray(leaf)).any():
            raise UsageError("policy: got NaN among its parameters; they must be numbers")


def exactly(function: F) -> F:
    """Makes `function(mdp, policy, …)` compute in float64 and return NumPy, unless the policy is traced.

    A traced policy (inside `jax.grad`, `jit`, `vmap`) is computed with as it is, in its own dtype, and JAX values come back, so
    that the answer can be differentiated or watched from inside a compiled loop.
    """

    @functools.wraps(function)
    def wrapper(mdp: Any, policy: Any, *args: Any, **kwargs: Any) -> Any:
        if traced(policy):
            _require_scope(policy)
            return function(mdp, policy, *args, **kwargs)
        _require_numbers(policy)
        with float64():
            return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64)[()], function(mdp, as_float64(policy), *args, **kwargs))

    return wrapper  # type: ignore[return-value]
