"""Bases: fixed functions that span many functions linearly. Nothing in them trains: a few static numbers say what they are.

What has no closed form, random centres and frequencies, is drawn again from a static seed each time a program is compiled.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from policygrad.errors import SpaceError, UsageError
from policygrad.policies.features.basic import Polynomial, floats
from policygrad.settings import whole
from policygrad.spaces import Box, Space
from policygrad.types import Array, Key

MAX_FEATURES = 100_000
MAX_NUMBERS = 4_000_000
"""Elements of the matrix of frequencies or centres, [F, D]."""
UNBOUNDED = 1e30
"""A side longer than this is no bound: some boxes say "unbounded" with the largest float32."""

Bounds = float | Sequence[float]


def _limited(what: str, num_variables: int, count: float, fix: str) -> int:
    if count > MAX_FEATURES or count * num_variables > MAX_NUMBERS:
        got = f"more than {MAX_FEATURES:,}" if count > MAX_FEATURES else f"{count:,}"
        raise UsageError(f"{what} features: got {got} of {num_variables:,} elements; too many: {fix}")
    return int(count)


def _scaled(obs: Array, shape: tuple[int, ...], low: tuple[float, ...], high: tuple[float, ...]) -> Array:
    """x̂ = (o − low) / (high − low), held in [0, 1]: [..., *shape] -> [..., D]."""
    x = floats(obs, shape)
    first, side = (jnp.broadcast_to(jnp.asarray(values, x.dtype), x.shape) for values in (low, np.subtract(high, low)))
    return jnp.clip((x - first) / side, 0, 1)


def _frozen_draws(seed: int) -> np.random.RandomState:
    """The one generator of NumPy's whose numbers will never change: a policy file holds the seed alone."""
    return np.random.RandomState(seed)


# ── Fourier ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def num_frequencies(num_variables: int, order: int, total_order: int | None = None) -> int:
    """How many vectors c of D whole numbers have 0 ≤ c_i ≤ order and Σ c_i ≤ total_order: without the second (order + 1)^D.

    Raises:
        UsageError: if there are more than `MAX_FEATURES`.
    """
    fix = "lower the order, give a total_order, or use a network"
    if total_order is None:
        power = (order + 1) ** num_variables if num_variables * math.log2(order + 1) < 1000 else math.inf
        return _limited("Fourier", num_variables, power, fix)
    if max(num_variables, total_order) > MAX_FEATURES:
        return _limited("Fourier", num_variables, math.inf, fix)
    counts = [1] + [0] * total_order  # by Σ c_i, one variable after the other
    for _ in range(num_variables):
        sums = [0, *itertools.accumulate(counts)]
        counts = [sums[s + 1] - sums[max(s - order, 0)] for s in range(total_order + 1)]
        _limited("Fourier", num_variables, sum(counts), fix)
    return sum(counts)


@functools.lru_cache(maxsize=64)
def _frequencies(num_variables: int, order: int, total_order: int | None) -> np.ndarray:
    """The vectors c, [F, D], the last element fastest."""
    most = num_variables * order if total_order is None else total_order
    vectors: list[tuple[int, ...]] = [()]
    for _ in range(num_variables):
        vectors = [(*c, i) for c in vectors for i in range(min(order, most - sum(c)) + 1)]
    return np.array(vectors, np.float64).reshape(len(vectors), num_variables)


class Fourier(eqx.Module):
    """Cosines of a bounded observation's elements, scaled to [0, 1].

        x ↦ cos(π c·x̂)        x̂ = (o − low) / (high − low)        c ∈ {0, …, order}^D,  Σ_i c_i ≤ total_order

    c = 0 is the constant. An observation beyond the bounds counts as one at them: the cosine would mirror it.

    Args:
        shape: of the observation.
        order: ≥ 1, the highest frequency of one element, in half periods over its side of the box.
        low, high: the box's, one for all elements or one for each in C order, low < high.
        total_order: the largest sum of frequencies, or None: then [..., *shape] -> [..., (order + 1)^D].

    Reference:
        Konidaris, Osentoski and Thomas 2011, "Value function approximation in reinforcement learning using the Fourier
        basis", eq. 3. There each feature has a learning rate of its own, divided by ‖c‖; here none has.

    >>> Fourier((1,), 2, (0.0,), (4.0,))(jnp.array([4.0])).tolist()
    [1.0, -1.0, 1.0]
    """

    shape: tuple[int, ...] = eqx.field(static=True)
    order: int = eqx.field(static=True)
    low: tuple[float, ...] = eqx.field(static=True)
    high: tuple[float, ...] = eqx.field(static=True)
    total_order: int | None = eqx.field(static=True, default=None)
    spans_constant = True

    @property
    def num_features(self) -> int:
        return num_frequencies(math.prod(self.shape), self.order, self.total_order)

    def __call__(self, obs: Array) -> Array:
        x = _scaled(obs, self.shape, self.low, self.high)
        num_frequencies(x.shape[-1], self.order, self.total_order)
        c = _frequencies(x.shape[-1], self.order, self.total_order)
        return jnp.cos(jnp.matmul(x, jnp.asarray(np.pi * c.T, x.dtype), precision="highest"))


# ── radial basis functions ───────────────────────────────────────────────────────────────────────────────────────────


@functools.lru_cache(maxsize=64)
def _centres(num_variables: int, per_dimension: int | None, count: int, seed: int) -> np.ndarray:
    """Centres in the unit cube, [F, D]: a grid, the last element fastest, or uniform draws."""
    if per_dimension is None:
        return _frozen_draws(seed).random_sample((count, num_variables))
    line = np.linspace(0, 1, per_dimension) if per_dimension > 1 else np.array([0.5])
    return np.array(list(itertools.product(line, repeat=num_variables))).reshape(count, num_variables)


class RBF(eqx.Module):
    """Gaussian bumps over a bounded observation's elements, scaled to [0, 1].

        x ↦ exp(−‖x̂ − c_j‖² / (2 width²))        x̂ = (o − low) / (high − low);  normalised: divided by their sum

    An observation beyond the bounds counts as one at them.

    Args:
        shape: of the observation.
        per_dimension: the centres form a grid of so many along each side, its ends among them: F = per_dimension^D. None for
            random centres.
        count: F, how many random centres, uniform in the box; None for a grid.
        width: > 0, in sides of the box.
        low, high: the box's, one for all elements or one for each in C order, low < high.
        normalised: whether features sum to 1; then also far from all centres some are not 0.
        seed: of the random centres; the same seed is the same features everywhere.

    Reference:
        Moody and Darken 1989, "Fast learning in networks of locally-tuned processing units"; Sutton and Barto 2018, section 9.5.5.
    """

    shape: tuple[int, ...] = eqx.field(static=True)
    per_dimension: int | None = eqx.field(static=True)
    count: int | None = eqx.field(static=True)
    width: float = eqx.field(static=True)
    low: tuple[float, ...] = eqx.field(static=True)
    high: tuple[float, ...] = eqx.field(static=True)
    normalised: bool = eqx.field(static=True, default=False)
    seed: int = eqx.field(static=True, default=0)

    @property
    def num_features(self) -> int:
        return _num_centres(math.prod(self.shape), self.per_dimension, self.count)

    @property
    def spans_constant(self) -> bool:
        return self.normalised

    def __call__(self, obs: Array) -> Array:
        x = _scaled(obs, self.shape, self.low, self.high)
        centres = jnp.asarray(_centres(x.shape[-1], self.per_dimension, self.num_features, self.seed), x.dtype)
        shape = (*x.shape[:-1], *centres.shape)
        # Differences, not x² − 2 c·x + c²: that would cancel, and a GPU multiplies with few digits.
        distances = jnp.sum((jnp.broadcast_to(x[..., None, :], shape) - jnp.broadcast_to(centres, shape)) ** 2, axis=-1)
        exponents = -distances / (2 * self.width**2)
        return jax.nn.softmax(exponents, axis=-1) if self.normalised else jnp.exp(exponents)


def _num_centres(num_variables: int, per_dimension: int | None, count: int | None) -> int:
    if per_dimension is None:
        return _limited("RBF", num_variables, count or 0, "ask for fewer centres")
    grid = per_dimension**num_variables if num_variables * math.log2(per_dimension + 1) < 1000 else math.inf
    return _limited("RBF", num_variables, grid, "lower per_dimension, or give a count of random centres")


# ── random Fourier features ──────────────────────────────────────────────────────────────────────────────────────────


@functools.lru_cache(maxsize=64)
def _waves(num_variables: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(ω of width 1 [F, D], b [F])."""
    draws = _frozen_draws(seed)
    return draws.standard_normal((count, num_variables)), draws.uniform(0, 2 * np.pi, count)


class RandomFourier(eqx.Module):
    """Cosines of random directions, whose products are near a Gaussian kernel's. No bounds are needed.

        x ↦ √(2/F) cos(ω_j·o + b_j)        ω_j ~ N(0, diag width⁻²),  b_j ~ U[0, 2π)
        E[φ(o)·φ(o')] = exp(−½ Σ_i (o_i − o'_i)² / width_i²)

    Args:
        shape: of the observation.
        count: F.
        width: > 0, in the observation's own units, one for all elements or one for each in C order: how far apart observations
            must be to look different.
        seed: of ω and b; the same seed is the same features everywhere.

    Reference:
        Rahimi and Recht 2007, "Random features for large-scale kernel machines", algorithm 1; for policies, Rajeswaran et al.
        2017, "Towards generalization and simplicity in continuous control", eq. 3.
    """

    shape: tuple[int, ...] = eqx.field(static=True)
    count: int = eqx.field(static=True)
    width: tuple[float, ...] = eqx.field(static=True)
    seed: int = eqx.field(static=True, default=0)

    @property
    def num_features(self) -> int:
        return _limited("random Fourier", math.prod(self.shape), self.count, "ask for fewer")

    def __call__(self, obs: Array) -> Array:
        x = floats(obs, self.shape)
        omega, phase = _waves(x.shape[-1], self.num_features, self.seed)
        omega = omega / np.broadcast_to(self.width, x.shape[-1])
        angles = jnp.matmul(x, jnp.asarray(omega.T, x.dtype), precision="highest")
        return math.sqrt(2 / self.count) * jnp.cos(angles + jnp.broadcast_to(jnp.asarray(phase, x.dtype), angles.shape))


# ── builders, (key, space, …) -> features ────────────────────────────────────────────────────────────────────────────


def polynomial(key: Key, space: Space, degree: int = 2) -> Polynomial:
    """All monomials of a Box observation's elements up to a degree ≥ 0: `Polynomial`."""
    features = Polynomial(_box("polynomial", space).shape, whole("degree", degree, 0, 50))
    _ = features.num_features  # too many are told now
    return features


def fourier(
    key: Key, space: Space, order: int = 3, total_order: int | None = None, *, low: Bounds | None = None, high: Bounds | None = None
) -> Fourier:
    """The `Fourier` basis over a bounded Box.

    Args:
        order, total_order: see `Fourier`, ≥ 1 each.
        low, high: in place of the space's bounds, numbers or one for each element; needed where it has none, and where observations
            are normalised: then they are in standard deviations, and −3 and 3 hold most.

    Raises:
        SpaceError: for a space that is no Box, or without bounds. UsageError: for arguments out of range, or too many features.
    """
    box = _bounded("fourier", space, low, high)
    total_order = None if total_order is None else whole("total_order", total_order, 1, MAX_FEATURES)
    features = Fourier(box.shape, whole("order", order, 1, MAX_FEATURES), box.low, box.high, total_order)
    _ = features.num_features
    return features


def rbf(
    key: Key,
    space: Space,
    per_dimension: int | None = None,
    count: int | None = None,
    *,
    width: float | None = None,
    normalised: bool = False,
    seed: int = 0,
    low: Bounds | None = None,
    high: Bounds | None = None,
) -> RBF:
    """Radial basis functions over a bounded Box: `RBF`.

    Args:
        per_dimension, count: a grid, or random centres; without either a grid of 5 along each side.
        width: > 0, in sides of the box; None: the grid's spacing, 1/(per_dimension − 1), or that of as many random centres, count^(−1/D).
        normalised, seed: see `RBF`.
        low, high: in place of the space's bounds, numbers or one for each element; needed where it has none, and where observations
            are normalised: then they are in standard deviations, and −3 and 3 hold most.

    Raises:
        SpaceError: for a space that is no Box, or without bounds. UsageError: for arguments out of range, or too many features.
    """
    box = _bounded("rbf", space, low, high)
    if per_dimension is not None and count is not None:
        raise UsageError(f"rbf features: got per_dimension={per_dimension} and count={count}; give one: a grid, or random centres")
    if not isinstance(normalised, bool):
        raise UsageError(f"normalised: got {normalised!r}; it must be True or False")
    seed = whole("seed", seed, 0, 2**32 - 1)
    if count is not None:
        count = whole("count", count, 1, MAX_FEATURES)
        spacing = count ** (-1 / max(box.size, 1))
    else:
        per_dimension = whole("per_dimension", 5 if per_dimension is None else per_dimension, 1, MAX_FEATURES)
        spacing = 1 / max(per_dimension - 1, 1)
    (width,) = _widths(spacing if width is None else width, 1)
    features = RBF(box.shape, per_dimension, count, width, box.low, box.high, normalised, seed)
    _ = features.num_features
    return features


def random_fourier(key: Key, space: Space, count: int = 100, *, width: float | Sequence[float] = 1.0, seed: int = 0) -> RandomFourier:
    """Random Fourier features of a Box: `RandomFourier`. The seed draws them, not the key: they do not train, and a file holds the seed.

    Raises:
        SpaceError: for a space that is no Box. UsageError: for arguments out of range.
    """
    box = _box("random-fourier", space)
    features = RandomFourier(box.shape, whole("count", count, 1, MAX_FEATURES), _widths(width, box.size), whole("seed", seed, 0, 2**32 - 1))
    _ = features.num_features
    return features


def _widths(width: float | Sequence[float], size: int) -> tuple[float, ...]:
    try:
        values = tuple(float(value) for value in np.ravel(width))
    except (TypeError, ValueError):
        values = ()
    if len(values) not in (1, size) or not all(math.isfinite(value) and value > 0 for value in values):
        wanted = "a finite number above 0" + (f", or {size}: one for each element" if size > 1 else "")
        raise UsageError(f"width: got {width!r}; it must be {wanted}")
    return values


def _box(kind: str, space: Space) -> Box:
    if not isinstance(space, Box):
        fix = "use 'joined', with features for each part" if hasattr(space, "parts") else "use 'one-hot'"
        raise SpaceError(f"{kind} features need a Box observation: got {space}; {fix}")
    if space.size == 0:
        raise SpaceError(f"{kind} features of an empty observation space: got {space}; give it at least one element (a constant 0 will do)")
    return space


def _bounded(kind: str, space: Space, low: Bounds | None, high: Bounds | None) -> Box:
    """The box with the bounds that were given in place of its own."""
    box = _box(kind, space)
    try:
        low_, high_ = (
            np.broadcast_to(np.asarray(own if given is None else given, np.float64), box.shape)
            for given, own in ((low, box.low_array), (high, box.high_array))
        )
    except (TypeError, ValueError):
        raise UsageError(f"{kind} features of {space}: got bounds {low!r} and {high!r}; give numbers, or one for each element") from None
    with np.errstate(invalid="ignore"):
        side = high_ - low_
    if not (np.abs(side) < UNBOUNDED).all():  # infinities and what is not a number included
        raise SpaceError(f"{kind} features need a bounded box: got {space}; give low= and high=, numbers or one for each element")
    if not (side > 0).all():
        raise SpaceError(f"{kind} features need low < high in every element: got {Box.of(low_, high_)}; give other low= and high=")
    return Box.of(low_, high_, box.shape)
