"""Observation and action spaces as small hashable values.

Gymnasium's space objects cannot ride through ``jax.jit`` as static data (hashing one raises, comparing two is
approximate), so a space here is a frozen dataclass of numbers and tuples. `from_gymnasium` translates.

    space           an element, as policies and records hold it
    Discrete        an int32 scalar, counted from 0
    MultiDiscrete   int32 [*shape], each counted from 0
    MultiBinary     int8 [*shape] of 0 and 1
    Box             float32 [*shape]; uint8 stays uint8
    Dict            a dict of elements
    Tuple           a tuple of elements

So an element is a pytree whose leaves stand in the order of `leaves(space)`, which is JAX's: the keys of a Dict sorted. A batch of
elements has the batch axes first, on every leaf.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from policygrad.errors import SpaceError


@dataclass(frozen=True)
class Discrete:
    """The integers start, start + 1, …, start + n − 1.

    Inside policygrad a discrete action or observation always counts from 0; `start` is added on the way to the
    environment and taken off on the way back.
    """

    n: int
    start: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        return ()

    @property
    def dtype(self) -> str:
        return "int32"

    def __str__(self) -> str:
        return f"Discrete({self.n}" + (f", start={self.start})" if self.start else ")")


@dataclass(frozen=True)
class MultiDiscrete:
    """Arrays of integers, element i in start_i … start_i + n_i − 1; inside policygrad they count from 0.

    Args:
        counts: n_i, in C order.
        shape: of one element; None for a vector.
        starts: in C order; () for 0 everywhere.
    """

    counts: tuple[int, ...]
    shape: tuple[int, ...] = None  # type: ignore[assignment]  # filled in below
    starts: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "counts", tuple(map(int, self.counts)))
        object.__setattr__(self, "starts", tuple(map(int, self.starts)) if any(self.starts) else ())
        object.__setattr__(self, "shape", (len(self.counts),) if self.shape is None else tuple(map(int, self.shape)))
        if math.prod(self.shape) != len(self.counts) or len(self.starts) not in (0, len(self.counts)):
            raise SpaceError(
                f"MultiDiscrete: got {len(self.counts)} counts, {len(self.starts)} starts and shape {self.shape}; they must fit"
            )

    @property
    def dtype(self) -> str:
        return "int32"

    @property
    def size(self) -> int:
        """The number of elements."""
        return len(self.counts)

    @property
    def start_array(self) -> np.ndarray:
        """`starts`, in `shape`, int32."""
        return np.array(self.starts or (0,) * self.size, np.int32).reshape(self.shape)

    def __str__(self) -> str:
        counts = ", ".join(map(str, self.counts[:8])) + (", …" if self.size > 8 else "")
        starts = f", starts={list(self.starts)}" if self.starts else ""
        return f"MultiDiscrete([{counts}]" + (f", shape={self.shape}" if len(self.shape) != 1 else "") + starts + ")"


@dataclass(frozen=True)
class MultiBinary:
    """Arrays of 0 and 1."""

    shape: tuple[int, ...]

    @property
    def dtype(self) -> str:
        return "int8"

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    def __str__(self) -> str:
        return f"MultiBinary({self.shape[0] if len(self.shape) == 1 else self.shape})"


@dataclass(frozen=True)
class Box:
    """Arrays of a shape, bounded per element.

    `low` and `high` are flattened in C order, or of length 1 where one bound serves all elements (an image's 28,224
    bounds would otherwise be hashed at every jitted call).
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    shape: tuple[int, ...]
    dtype: str = "float32"

    @staticmethod
    def of(low: Any, high: Any, shape: tuple[int, ...] | None = None, dtype: str = "float32") -> Box:
        """A box from scalars or arrays; `shape` defaults to that of the bounds."""
        if shape is None:
            shape = np.broadcast(np.asarray(low), np.asarray(high)).shape
        bounds = []
        for bound in (low, high):
            flat = np.broadcast_to(np.asarray(bound, np.float64), shape).ravel()
            uniform = flat.size and (flat == flat[0]).all()
            bounds.append((float(flat[0]),) if uniform else tuple(map(float, flat)))
        return Box(bounds[0], bounds[1], tuple(map(int, shape)), str(dtype))

    @property
    def size(self) -> int:
        """The number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def low_array(self) -> np.ndarray:
        """`low`, in `shape`, float64."""
        return np.broadcast_to(np.array(self.low), (self.size,)).reshape(self.shape)

    @property
    def high_array(self) -> np.ndarray:
        """`high`, in `shape`, float64."""
        return np.broadcast_to(np.array(self.high), (self.size,)).reshape(self.shape)

    @property
    def bounded(self) -> bool:
        """Every element has two finite bounds."""
        return bool(np.isfinite(self.low).all() and np.isfinite(self.high).all())

    def __str__(self) -> str:
        low = f"{self.low[0]:g}" if len(self.low) == 1 else "[…]"
        high = f"{self.high[0]:g}" if len(self.high) == 1 else "[…]"
        return f"Box({low}, {high}, {self.shape}, {self.dtype})"


@dataclass(frozen=True)
class Dict:
    """Named parts.

    Args:
        parts: (name, space) pairs, sorted by name; `Dict.of` sorts them.
    """

    parts: tuple[tuple[str, Space], ...]

    @staticmethod
    def of(parts: dict[str, Space]) -> Dict:
        """A space from a dict of spaces."""
        return Dict(tuple(sorted(parts.items())))

    def __getitem__(self, name: str) -> Space:
        return dict(self.parts)[name]

    def __contains__(self, name: object) -> bool:
        return any(name == key for key, _ in self.parts)

    def without(self, name: str) -> Dict:
        """The other parts."""
        return Dict(tuple(part for part in self.parts if part[0] != name))

    def __str__(self) -> str:
        return f"Dict({', '.join(f'{name}: {space}' for name, space in self.parts)})"


@dataclass(frozen=True)
class Tuple:
    """Parts by position."""

    parts: tuple[Space, ...]

    def __str__(self) -> str:
        return f"Tuple({', '.join(map(str, self.parts))})"


Leaf = Discrete | MultiDiscrete | MultiBinary | Box
"""A space whose elements are single arrays."""
Space = Discrete | MultiDiscrete | MultiBinary | Box | Dict | Tuple


def mapped(function: Callable[..., Any], space: Space, *trees: Any) -> Any:
    """A pytree of the space's make with `function(leaf space, *leaves of the trees)` at each leaf.

    Args:
        trees: elements of the space, or anything of its structure; what lies below a leaf is handed over whole.
    """
    match space:
        case Dict():
            return {name: mapped(function, part, *(tree[name] for tree in trees)) for name, part in space.parts}
        case Tuple():
            return tuple(mapped(function, part, *(tree[i] for tree in trees)) for i, part in enumerate(space.parts))
        case _:
            return function(space, *trees)


def leaves(space: Space, name: str = "") -> list[tuple[str, Leaf]]:
    """(name, leaf space) in the order of an element's leaves; the name is "['arm'][0]" for a part of a part, "" for a leaf itself."""
    match space:
        case Dict():
            return [leaf for key, part in space.parts for leaf in leaves(part, f"{name}[{key!r}]")]
        case Tuple():
            return [leaf for i, part in enumerate(space.parts) for leaf in leaves(part, f"{name}[{i}]")]
        case _:
            return [(name, space)]


def flattened(space: Space, element: Any) -> list[Any]:
    """The leaves of an element, or of anything of the space's structure, in the order of `leaves`."""
    match space:
        case Dict():
            return [leaf for name, part in space.parts for leaf in flattened(part, element[name])]
        case Tuple():
            return [leaf for i, part in enumerate(space.parts) for leaf in flattened(part, element[i])]
        case _:
            return [element]


def held_dtype(space: Leaf) -> np.dtype:
    """In which elements of a leaf are held: bytes stay bytes, other numbers of a Box become float32."""
    if isinstance(space, Box):
        return np.dtype(np.uint8 if space.dtype == "uint8" else np.float32)
    return np.dtype(space.dtype)


def zeros(space: Space, *batch: int) -> Any:
    """A batch of elements that are 0 everywhere, NumPy arrays [*batch, …]."""
    return mapped(lambda leaf: np.zeros((*batch, *leaf.shape), held_dtype(leaf)), space)


def outline(space: Space) -> Any:
    """What makes elements of two spaces alike to a policy: kinds, names, numbers, shapes, and whether they are bytes; not
    bounds, nor where counting starts."""
    match space:
        case Dict():
            return "Dict", tuple((name, outline(part)) for name, part in space.parts)
        case Tuple():
            return "Tuple", tuple(map(outline, space.parts))
        case Discrete():
            return "Discrete", space.n
        case MultiDiscrete():
            return "MultiDiscrete", space.counts, space.shape
        case MultiBinary():
            return "MultiBinary", space.shape
        case Box():
            return "Box", space.shape, str(held_dtype(space))


def counted_from_zero(space: Space) -> Space:
    """The space as policygrad's elements lie in it: without starts."""
    match space:
        case Dict():
            return Dict(tuple((name, counted_from_zero(part)) for name, part in space.parts))
        case Tuple():
            return Tuple(tuple(map(counted_from_zero, space.parts)))
        case Discrete():
            return replace(space, start=0)
        case MultiDiscrete():
            return replace(space, starts=())
        case _:
            return space


def start_of(space: Leaf) -> Any:
    """Where the integers of a leaf start to count outside policygrad: a number, or an array of its shape; 0 of other leaves."""
    match space:
        case Discrete():
            return space.start
        case MultiDiscrete() if space.starts:
            return space.start_array
    return 0


MASK = "action_mask"
"""The part of a Dict observation that says which actions are allowed: 1, or 0 for those that are not."""
ALONE = "observation"
"""The part beside it, where there is only one."""


def choices(space: Space) -> list[int]:
    """Between how many alternatives each discrete part of an action chooses, in the order of a mask's entries.

    Discrete: n        MultiDiscrete: n_i of every element        MultiBinary: 2 for every element        Box: none
    """
    match space:
        case Discrete():
            return [space.n]
        case MultiDiscrete():
            return list(space.counts)
        case MultiBinary():
            return [2] * space.size
        case Box():
            return []
    return [count for _, leaf in leaves(space) for count in choices(leaf)]


def has_mask(observation_space: Space) -> bool:
    """Whether observations say which actions are allowed."""
    return isinstance(observation_space, Dict) and MASK in observation_space


def seen(observation_space: Space) -> Space:
    """What an observation holds beside its mask; a single part named "observation" is taken out of its Dict."""
    if not (isinstance(observation_space, Dict) and has_mask(observation_space)):
        return observation_space
    rest = observation_space.without(MASK)
    return rest[ALONE] if [name for name, _ in rest.parts] == [ALONE] else rest


def check_mask(observation_space: Space, action_space: Space) -> None:
    """Raises a `SpaceError` where the observation's mask is not one of these actions."""
    if not (isinstance(observation_space, Dict) and has_mask(observation_space)):
        return
    if len(observation_space.parts) == 1:
        raise SpaceError(f"observation space: got nothing beside {MASK!r}; add what the policy sees, a constant 0 will do")
    mask = observation_space[MASK]
    wanted = sum(choices(action_space))
    if not wanted:
        raise SpaceError(f"{MASK}: got one with actions {action_space}; only discrete actions can be masked")
    sizes = [math.prod(leaf.shape) for _, leaf in leaves(mask)]
    if any(isinstance(leaf, Discrete | MultiDiscrete) for _, leaf in leaves(mask)) or sum(sizes) != wanted:
        raise SpaceError(
            f"{MASK}: got {mask} for actions {action_space}; it must have {wanted} entries of 0 or 1, e.g. MultiBinary({wanted}):"
            " one for each alternative of each discrete part"
        )


HANDLED = "Discrete, MultiDiscrete, MultiBinary, Box, and Dict and Tuple of these"


def from_gymnasium(space: Any, role: str = "space", part: str = "") -> Space:
    """Translates a Gymnasium space.

    Args:
        role: "observation" or "action", for messages; part: which part of it, likewise.

    Raises:
        SpaceError: for a space that no policy here handles.
    """
    import gymnasium

    kinds = gymnasium.spaces
    where = f"{role} space" + (f", part {part}" if part else "")
    match space:
        case kinds.Discrete():
            return Discrete(int(space.n), int(space.start))
        case kinds.MultiDiscrete():
            return MultiDiscrete(tuple(np.ravel(space.nvec)), np.shape(space.nvec), tuple(np.ravel(space.start)))
        case kinds.MultiBinary():
            return MultiBinary(tuple(map(int, space.shape)))
        case kinds.Box():
            return Box.of(space.low, space.high, space.shape, str(space.dtype))
        case kinds.Dict():
            if not all(isinstance(name, str) for name in space.spaces):
                raise SpaceError(f"unsupported {where}: got a Dict with keys that are no strings; name its parts with strings")
            parts = Dict.of({name: from_gymnasium(inner, role, f"{part}[{name!r}]") for name, inner in space.spaces.items()})
        case kinds.Tuple():
            parts = Tuple(tuple(from_gymnasium(inner, role, f"{part}[{i}]") for i, inner in enumerate(space.spaces)))
        case _:
            raise SpaceError(
                f"unsupported {where}: got {type(space).__name__}; {HANDLED} are handled"
                " (flatten or encode it with a Gymnasium wrapper, e.g. FlattenObservation)"
            )
    if not parts.parts:
        raise SpaceError(f"unsupported {where}: got {parts} without any part; leave it out, or give it one")
    return parts
