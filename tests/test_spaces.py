"""Spaces: what Gymnasium's become, in which order their leaves lie, and what is said of those that nobody handles."""

from __future__ import annotations

from typing import Any

import gymnasium
import jax
import numpy as np
import pytest

from combos import to_gymnasium
from policygrad.errors import SpaceError
from policygrad.spaces import (
    MASK,
    Box,
    Dict,
    Discrete,
    MultiBinary,
    MultiDiscrete,
    Tuple,
    check_mask,
    choices,
    counted_from_zero,
    flattened,
    from_gymnasium,
    has_mask,
    held_dtype,
    leaves,
    mapped,
    outline,
    seen,
    start_of,
    zeros,
)

G = gymnasium.spaces
NESTED = Dict.of(
    {
        "zone": Discrete(4, start=-1),
        "arm": Tuple((Box.of(-1.0, 1.0, (2, 2)), Dict.of({"b": MultiBinary((3,)), "a": MultiDiscrete((2, 3), starts=(1, 0))}))),
        "image": Box.of(0, 255, (2, 2, 1), "uint8"),
    }
)
NAMES = ["['arm'][0]", "['arm'][1]['a']", "['arm'][1]['b']", "['image']", "['zone']"]
"""Of the leaves of NESTED, keys sorted."""

# ── from Gymnasium ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (G.Discrete(3), Discrete(3)),
        (G.Discrete(3, start=-2), Discrete(3, -2)),
        (G.MultiDiscrete([2, 3]), MultiDiscrete((2, 3))),
        (G.MultiDiscrete([2, 3], start=[0, 4]), MultiDiscrete((2, 3), (2,), (0, 4))),
        (G.MultiDiscrete([[2, 3], [4, 5]], start=[[1, 0], [0, 2]]), MultiDiscrete((2, 3, 4, 5), (2, 2), (1, 0, 0, 2))),
        (G.MultiBinary(3), MultiBinary((3,))),
        (G.MultiBinary((2, 3)), MultiBinary((2, 3))),
        (G.Box(-1, 1, (2, 3)), Box((-1.0,), (1.0,), (2, 3))),
        (G.Box(np.array([-1, -np.inf]), np.array([1, 2]), dtype=np.float64), Box((-1.0, -np.inf), (1.0, 2.0), (2,), "float64")),
        (G.Box(0, 255, (4, 4, 3), np.uint8), Box((0.0,), (255.0,), (4, 4, 3), "uint8")),
        (G.Box(-5, 5, (), np.int64), Box((-5.0,), (5.0,), (), "int64")),
        (G.Tuple([G.Discrete(2), G.MultiBinary(1)]), Tuple((Discrete(2), MultiBinary((1,))))),
        (G.Dict({"b": G.Discrete(2), "a": G.Discrete(3)}), Dict((("a", Discrete(3)), ("b", Discrete(2))))),
    ],
    ids=str,
)
def test_gymnasiums_spaces(theirs: Any, ours: Any) -> None:
    found = from_gymnasium(theirs)
    assert found == ours
    assert hash(found) == hash(ours)
    assert {found: 1}[ours] == 1
    assert from_gymnasium(to_gymnasium(found)) == found
    assert jax.jit(lambda x, space: x, static_argnums=1)(0, found) == 0  # static data of a compiled program


def test_a_nested_space_and_back() -> None:
    theirs = to_gymnasium(NESTED)
    assert from_gymnasium(theirs) == NESTED
    assert from_gymnasium(theirs) != from_gymnasium(to_gymnasium(counted_from_zero(NESTED)))
    assert str(NESTED) == (
        "Dict(arm: Tuple(Box(-1, 1, (2, 2), float32), Dict(a: MultiDiscrete([2, 3], starts=[1, 0]), b: MultiBinary(3))),"
        " image: Box(0, 255, (2, 2, 1), uint8), zone: Discrete(4, start=-1))"
    )


@pytest.mark.parametrize(
    ("space", "line"),
    [
        (G.Text(3), r"^unsupported action space: got Text; Discrete, [^\n]* are handled \(flatten [^\n]*$"),
        (
            G.Dict({"a": G.Tuple([G.Discrete(2), G.Sequence(G.Discrete(2))])}),
            r"^unsupported action space, part \['a'\]\[1\]: got Sequence;",
        ),
        (G.Tuple([G.Discrete(2), G.Graph(G.Discrete(2), None)]), r"^unsupported action space, part \[1\]: got Graph; "),
        (G.OneOf([G.Discrete(2)]), r"^unsupported action space: got OneOf; "),
        (G.Dict({"a": G.Dict({})}), r"^unsupported action space, part \['a'\]: got Dict\(\) without any part; [^\n]*$"),
        (G.Tuple([]), r"^unsupported action space: got Tuple\(\) without any part; [^\n]*$"),
        (
            G.Dict({"a": G.Dict([(1, G.Discrete(2))])}),
            r"^unsupported action space, part \['a'\]: got a Dict with keys that are no strings;",
        ),
    ],
    ids=str,
)
def test_what_is_not_handled_is_named_with_its_part(space: Any, line: str) -> None:
    with pytest.raises(SpaceError, match=line):
        from_gymnasium(space, "action")


# ── elements ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_order_of_leaves_is_that_of_jax() -> None:
    element = zeros(NESTED, 5)
    assert [name for name, _ in leaves(NESTED)] == NAMES
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(element)]
    assert paths == NAMES
    for (_, leaf), ours, theirs in zip(leaves(NESTED), flattened(NESTED, element), jax.tree.leaves(element), strict=True):
        assert ours is theirs
        assert ours.shape == (5, *leaf.shape)
        assert ours.dtype == held_dtype(leaf)
        assert not ours.any()
    assert [str(leaf.dtype) for leaf in flattened(NESTED, element)] == ["float32", "int32", "int8", "uint8", "int32"]
    assert leaves(Discrete(2)) == [("", Discrete(2))]
    assert flattened(Discrete(2), 1) == [1]


@pytest.mark.parametrize("dtype", ["float64", "float16", "int64", "int8"])
def test_numbers_of_a_box_are_held_as_float32(dtype: str) -> None:
    assert held_dtype(Box.of(0, 1, (2,), dtype)) == np.float32
    assert zeros(Box.of(0, 1, (2,), dtype), 3, 4).shape == (3, 4, 2)


def test_mapping_keeps_the_structure_and_hands_over_what_lies_below() -> None:
    element = jax.tree.map(np.asarray, zeros(NESTED))
    named = jax.tree.unflatten(jax.tree.structure(element), NAMES)
    calls: list[Any] = []

    def function(space: Any, name: str, below: Any) -> str:
        calls.append((name, space, below))
        return name

    below = mapped(lambda space: {"any": (space,)}, NESTED)
    assert mapped(function, NESTED, named, below) == named
    assert calls == [(name, leaf, {"any": (leaf,)}) for name, leaf in leaves(NESTED)]
    assert mapped(lambda space, x: x + 1, Box.of(0, 1, ()), 2) == 3


# ── as values ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_outlines_forget_bounds_and_starts_alone() -> None:
    """A policy does not see them; it does see kinds, names, numbers and shapes."""
    other = Dict.of(
        {
            "zone": Discrete(4, start=7),
            "arm": Tuple((Box.of(-9.0, 3.0, (2, 2)), Dict.of({"b": MultiBinary((3,)), "a": MultiDiscrete((2, 3))}))),
            "image": Box.of(0, 9, (2, 2, 1), "uint8"),
        }
    )
    assert outline(other) == outline(NESTED)
    assert hash(outline(other)) == hash(outline(NESTED))
    alike = [Discrete(4), Discrete(5), MultiDiscrete((4,)), MultiDiscrete((2, 2)), MultiDiscrete((2, 2), (1, 2)), MultiBinary((2,))]
    alike += [MultiBinary((1, 2)), Box.of(0, 1, (2,)), Box.of(0, 1, (2, 1)), Box.of(0, 255, (2,), "uint8"), Tuple((Discrete(4),))]
    alike += [Dict.of({"a": Discrete(4)}), Dict.of({"b": Discrete(4)}), Tuple((Discrete(4), Discrete(4)))]
    assert len(set(map(outline, alike))) == len(alike)
    assert outline(Box.of(0, 1, (2,), "float64")) == outline(Box.of(0, 1, (2,)))  # both are held as float32


def test_counting_from_zero() -> None:
    flat = counted_from_zero(NESTED)
    assert [start_of(leaf) for _, leaf in leaves(flat)] == [0] * 5
    starts = [start_of(leaf) for _, leaf in leaves(NESTED)]
    assert [np.asarray(start).tolist() for start in starts] == [0, [1, 0], 0, 0, -1]
    assert outline(flat) == outline(NESTED)
    grid = MultiDiscrete((2, 3, 4, 5), (2, 2), (1, 0, 0, 2))
    assert np.asarray(start_of(grid)).tolist() == [[1, 0], [0, 2]]


def test_multi_discrete_by_hand() -> None:
    assert MultiDiscrete([2, 3]) == MultiDiscrete((2, 3), (2,), (0, 0)) == MultiDiscrete(np.array([2, 3]))  # type: ignore[arg-type]
    assert hash(MultiDiscrete([2, 3])) == hash(MultiDiscrete((2, 3)))  # type: ignore[arg-type]
    for wrong in (((2, 3), (3,)), ((2, 3), (2,), (1,)), ((2, 3), (2, 2))):
        with pytest.raises(SpaceError, match=r"^MultiDiscrete: got 2 counts, \d starts and shape \(\d[^\n]*; they must fit$"):
            MultiDiscrete(*wrong)


def test_choices() -> None:
    assert choices(Discrete(3, 5)) == [3]
    assert choices(MultiDiscrete((2, 3, 4, 5), (2, 2))) == [2, 3, 4, 5]
    assert choices(MultiBinary((2, 2))) == [2, 2, 2, 2]
    assert choices(Box.of(0, 1, (3,))) == []
    assert choices(NESTED) == [2, 3, 2, 2, 2, 4]


# ── masks ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_seen_beside_a_mask() -> None:
    box, mask = Box.of(0, 1, (2,)), MultiBinary((3,))
    assert seen(box) == box
    assert seen(Dict.of({"observation": box})) == Dict.of({"observation": box})  # without a mask a Dict stays one
    assert seen(Dict.of({"observation": box, MASK: mask})) == box
    assert seen(Dict.of({"other": box, MASK: mask})) == Dict.of({"other": box})
    assert seen(Dict.of({"observation": box, "b": box, MASK: mask})) == Dict.of({"observation": box, "b": box})
    assert [has_mask(space) for space in (box, Dict.of({"a": box}), Dict.of({"a": box, MASK: mask}))] == [False, False, True]


HYBRID = Dict.of({"go": Discrete(2), "force": Box.of(0, 1, (2,)), "which": MultiDiscrete((2, 3))})


@pytest.mark.parametrize(
    ("mask", "actions"),
    [
        (MultiBinary((3,)), Discrete(3)),
        (Box.of(0, 1, (3,), "int8"), Discrete(3)),  # as some libraries say it
        (MultiBinary((5,)), MultiDiscrete((2, 3))),
        (Tuple((MultiBinary((2,)), MultiBinary((3,)))), MultiDiscrete((2, 3))),
        (MultiBinary((4,)), MultiBinary((2,))),
        (MultiBinary((7,)), HYBRID),
        (Dict.of({"go": MultiBinary((2,)), "which": MultiBinary((5,))}), HYBRID),
    ],
    ids=str,
)
def test_masks_that_fit(mask: Any, actions: Any) -> None:
    check_mask(Dict.of({"observation": Discrete(2), MASK: mask}), actions)


@pytest.mark.parametrize(
    ("parts", "actions", "line"),
    [
        (
            {MASK: MultiBinary((3,))},
            Discrete(3),
            r"^observation space: got nothing beside 'action_mask'; add what the policy sees, [^\n]*$",
        ),
        ({"o": Discrete(2), MASK: MultiBinary((3,))}, Box.of(0, 1, (3,)), r"^action_mask: got one with actions Box[^\n]*; only discrete"),
        (
            {"o": Discrete(2), MASK: MultiBinary((2,))},
            Discrete(3),
            r"^action_mask: got MultiBinary\(2\) for actions Discrete\(3\); it must",
        ),
        ({"o": Discrete(2), MASK: MultiBinary((6,))}, MultiDiscrete((2, 3)), r"it must have 5 entries of 0 or 1, e\.g\. MultiBinary\(5\):"),
        ({"o": Discrete(2), MASK: Discrete(3)}, Discrete(3), r"^action_mask: got Discrete\(3\) for actions Discrete\(3\); [^\n]*$"),
        ({"o": Discrete(2), MASK: MultiDiscrete((2, 2, 2))}, Discrete(3), r"^action_mask: got MultiDiscrete\(\[2, 2, 2\]\) [^\n]*$"),
        ({"o": Discrete(2), MASK: MultiBinary((9,))}, HYBRID, r"it must have 7 entries"),
    ],
)
def test_masks_that_do_not_fit_are_one_line(parts: Any, actions: Any, line: str) -> None:
    with pytest.raises(SpaceError, match=line):
        check_mask(Dict.of(parts), actions)


def test_without_a_mask_there_is_nothing_to_check() -> None:
    check_mask(Discrete(3), Box.of(0, 1, (3,)))
    check_mask(Dict.of({"o": Discrete(2)}), Discrete(3))
