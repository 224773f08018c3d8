"""Which head an action space gets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from policygrad.errors import SpaceError, UnknownNameError, UsageError
from policygrad.policies.heads import (
    LOG_STD,
    BernoulliOf,
    BetaOf,
    CategoricalOf,
    FixedGaussian,
    FixedGaussianOf,
    FullGaussianOf,
    GaussianOf,
    JointOf,
    LinearCategorical,
    LinearGaussian,
    MultiCategoricalOf,
    Output,
    SquashedOf,
    StateGaussianOf,
)
from policygrad.settings import HEADS, HeadName
from policygrad.spaces import Box, Dict, Discrete, Leaf, MultiBinary, MultiDiscrete, Space, Tuple, leaves

Sigma = float | Sequence[float] | Sequence[Sequence[float]]
BOUNDED = "squashed", "squashed-state", "beta"
"""Heads that need bounds."""
STATE_DEPENDENT = "state-gaussian", "full-gaussian", "squashed-state"
"""Heads whose σ is an output."""


class Fixed:
    """A Σ that does not learn.

    Attributes:
        values: standard deviations; or the elements of Σ's lower Cholesky factor, row by row.
        size: how many elements of an action they are for; None for any.
        full: which of the two.
    """

    def __init__(self, sigma: Sigma):
        try:
            given = np.array(sigma, np.float64)
        except (TypeError, ValueError):
            raise UsageError(f"sigma: got {sigma!r}; give a standard deviation, one for each element, or a covariance matrix") from None
        if given.size == 0:
            raise UsageError(f"sigma: got {sigma!r}; give a standard deviation above 0, or None to learn it")
        self.full = given.ndim == 2
        if self.full:
            square = given.shape[0] == given.shape[1] and bool(np.isfinite(given).all())
            # Symmetric but for what rounding in float32 leaves.
            if not square or not np.allclose(given, given.T, rtol=1e-6, atol=1e-6 * np.abs(given).max()):
                raise UsageError(f"sigma: got {given.tolist()}; a covariance must be square, symmetric and finite")
            try:
                factor = np.linalg.cholesky(given)
            except np.linalg.LinAlgError:
                raise UsageError("sigma: got a matrix that is not positive definite; a covariance must be") from None
            self.size: int | None = len(given)
            self.values = tuple(map(float, factor[np.tril_indices(len(given))]))
            return
        if given.ndim > 2:
            raise UsageError(f"sigma: got {given.ndim} axes; give a standard deviation, one for each element, or a covariance matrix")
        for value in given.ravel():
            _standard_deviation("sigma", float(value))
        self.size = None if given.size == 1 else given.size
        self.values = tuple(map(float, given.ravel()))


def check_sigma(sigma: Sigma | None, initial_sigma: float) -> tuple[Fixed | None, float]:
    """A fixed Σ, and the σ that learning starts from, both checked."""
    _standard_deviation("initial_sigma", float(initial_sigma))
    if sigma is not None and initial_sigma != 1:
        raise UsageError(f"initial_sigma: got {initial_sigma} with a fixed sigma of {sigma}, which is not learnt; leave one of them out")
    return None if sigma is None else Fixed(sigma), float(initial_sigma)


def _standard_deviation(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise UsageError(f"{name}: got {value}; a standard deviation must be finite and above 0")


def head_of(
    space: Space, head: HeadName | Mapping[str, HeadName], fixed: Fixed | None, initial_sigma: float
) -> tuple[Callable[[Any], Any], int]:
    """What makes the head that fits the action space from an output layer, and how many outputs that layer needs.

    Raises:
        SpaceError: for a head that does not fit. UnknownNameError: for one that does not exist, or a part that does not.
    """
    check_head(head)
    boxes = [leaf for _, leaf in leaves(space) if isinstance(leaf, Box)]
    if not boxes:
        for name, given in (("sigma", fixed is not None), ("initial_sigma", initial_sigma != 1), ("head", head != "auto")):
            if given:
                what = f"the head {head!r}" if name == "head" else f"a fixed {name}" if name == "sigma" else f"an {name}"
                raise SpaceError(f"{what} needs Box actions: got {space}; leave {name} out")
    if isinstance(space, Discrete):
        return LinearCategorical, space.n
    if isinstance(space, Box) and isinstance(head, str):
        readout = _of_box("", space, head, fixed, initial_sigma)
        # The commonest two are older than readouts, and simpler.
        if isinstance(readout, GaussianOf):
            return lambda layer: LinearGaussian(layer, readout.log_std), readout.num_outputs
        if isinstance(readout, FixedGaussianOf) and not readout.full:
            return lambda layer: FixedGaussian(layer, readout.shape, readout.sigma), readout.num_outputs
    else:
        readout = _readout("", space, head, fixed, initial_sigma)
    return lambda layer: Output(layer, readout), readout.num_outputs


def check_head(head: Any) -> None:
    """Raises an `UnknownNameError` for a head that does not exist, a `UsageError` for what is neither a name nor a mapping of parts."""
    if not isinstance(head, str | Mapping):
        raise UsageError(f"head: got {type(head).__name__}; give a name ({', '.join(HEADS)}), or a mapping from parts to names")
    for name in (head,) if isinstance(head, str) else head.values():
        if name not in HEADS:
            raise UnknownNameError("head", str(name), HEADS)


def _readout(part: str, space: Space, head: Any, fixed: Fixed | None, initial_sigma: float) -> Any:
    if isinstance(head, Mapping) and not isinstance(space, Dict):
        raise SpaceError(f"head: got a mapping for actions {space}; it needs a Dict: give one name")
    match space:
        case Dict():
            parts = dict(space.parts)
            for name, chosen in head.items() if isinstance(head, Mapping) else ():
                if name not in parts:
                    raise UnknownNameError("part of the action", name, parts)
                if chosen != "auto" and not any(isinstance(leaf, Box) for _, leaf in leaves(parts[name])):
                    raise SpaceError(f"the head {chosen!r} needs Box actions, part [{name!r}]: got {parts[name]}; leave that part out")
            inner = [(f"{part}[{name!r}]", one, head.get(name, "auto") if isinstance(head, Mapping) else head) for name, one in space.parts]
        case Tuple():
            inner = [(f"{part}[{i}]", one, head) for i, one in enumerate(space.parts)]
        case _:
            return _of_leaf(part, space, str(head), fixed, initial_sigma)
    flat: list[Any] = []
    for name, one, chosen in inner:
        made = _readout(name, one, chosen, fixed, initial_sigma)
        flat += made.parts if isinstance(made, JointOf) else [made]
    return JointOf(tuple(flat), space)


def _of_leaf(part: str, space: Leaf, head: str, fixed: Fixed | None, initial_sigma: float) -> Any:
    match space:
        case Discrete():
            return CategoricalOf(space.n)
        case MultiDiscrete():
            return MultiCategoricalOf(space.counts, space.shape)
        case MultiBinary():
            return BernoulliOf(space.shape)
        case Box():
            return _of_box(part, space, head, fixed, initial_sigma)


def _of_box(part: str, space: Box, head: str, fixed: Fixed | None, initial_sigma: float) -> Any:
    where = f"actions, part {part}:" if part else "actions:"
    if not jnp.issubdtype(space.dtype, jnp.floating):
        raise SpaceError(f"a Gaussian needs real-valued {where} got {space}; make the environment take floats or Discrete actions")
    if space.size == 0:
        raise SpaceError(f"empty action space: got {space}; there is nothing to choose")
    if head in BOUNDED:
        if not space.bounded:
            raise SpaceError(f"the head {head!r} needs bounded {where} got {space}; use 'gaussian', or bound the space")
        width = np.subtract(space.high, space.low)
        if not ((width > 0) & (width < np.finfo(np.float32).max)).all():
            raise SpaceError(f"the head {head!r} needs low < high, less than 3e38 apart, in bounded {where} got {space}; mend the space")
    if fixed is not None:
        if head not in ("auto", "gaussian", "squashed"):
            raise SpaceError(f"sigma: got a fixed one with the head {head!r}, which learns its own; leave one of them out")
        if fixed.size not in (None, space.size):
            if fixed.full:
                raise SpaceError(f"a fixed sigma for {space}: got a covariance of {fixed.size} elements; give one of {space.size}")
            raise SpaceError(f"a fixed sigma for {space}: got {fixed.size} values; give 1, or {space.size}: one per element")
        base: Any = FixedGaussianOf(space.shape, fixed.values, fixed.full)
    elif head in STATE_DEPENDENT:
        if not LOG_STD[0] < math.log(initial_sigma) < LOG_STD[1]:
            least, most = map(math.exp, LOG_STD)
            raise UsageError(
                f"initial_sigma: got {initial_sigma} with the head {head!r}, whose σ is held between {least:.1e} and {most:.0f};"
                " choose one between them"
            )
        base = (FullGaussianOf if head == "full-gaussian" else StateGaussianOf)(space.shape, initial_sigma)
    else:
        base = GaussianOf(jnp.full(space.shape, math.log(initial_sigma)))
    if head == "beta":
        if initial_sigma != 1:
            raise SpaceError(f"initial_sigma: got {initial_sigma} with the head 'beta', which has none; leave it out")
        return BetaOf(space.shape, space.low, space.high)
    return SquashedOf(base, space.low, space.high) if head.startswith("squashed") else base
