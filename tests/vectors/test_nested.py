"""Observations and actions with parts: every vector gives the record of a plain loop over single environments, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache, partial
from typing import Any

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from policygrad.envs.gymnasium_adapter import GymnasiumEnv
from policygrad.envs.make import make
from policygrad.envs.vector_adapter import VectorAdapter, env_seeds
from policygrad.errors import EnvError, UsageError
from policygrad.spaces import MASK, from_gymnasium, leaves
from policygrad.vectors.layout import Layout, ShapeError
from vectors.nests import ACTIONS, OBSERVATIONS, Nest, Played, assert_same, by_hand, element, through

B, SEED, ROWS, LEAST = 3, 5, 45, 25
PAIRS = [("nested", "nested"), ("tuple", "tuple"), ("multi-discrete", "multi-discrete"), ("multi-binary", "multi-binary")]
PAIRS += [("discrete", "box"), ("box", "discrete")]
MODES = "same-step", "next-step", "disabled"


@lru_cache
def expected(seen: str, taken: str) -> list[list[Played]]:
    return by_hand(lambda: Nest(seen, taken), B, SEED, ROWS)


def run(env: GymnasiumEnv, rows: int = ROWS) -> list[list[Played]]:
    adapter = env.vector(B, SEED)
    try:
        return through(adapter, rows)
    finally:
        adapter.close()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("seen", "taken", "in_place"), [*((*pair, True) for pair in PAIRS), ("nested", "nested", False)])
def test_one_after_the_other(seen: str, taken: str, in_place: bool, mode: str) -> None:
    """InTurn, and Gymnasium's SyncVectorEnv; actions arrive in Gymnasium's own form, or the environment's assertion fails."""
    env = make(lambda: Nest(seen, taken, in_place), autoreset=mode)
    assert (env.observation_space, env.action_space) == (from_gymnasium(OBSERVATIONS[seen]), from_gymnasium(ACTIONS[taken]))
    assert_same(run(env), expected(seen, taken), LEAST)


def test_a_number_arrives_as_an_array_without_axes() -> None:
    """As Gymnasium samples it; its SyncVectorEnv hands over a scalar, of which its own spaces warn."""
    env = make(lambda: Nest("box", "number"))
    assert_same(run(env), expected("box", "number"), LEAST)


def test_side_by_side() -> None:
    env = make(partial(Nest, in_place=True), vectorization="async")
    assert_same(run(env), expected("nested", "nested"), LEAST)


@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize(("seen", "taken"), PAIRS[:3])
def test_a_ready_vector(seen: str, taken: str, mode: AutoresetMode) -> None:
    vector = SyncVectorEnv([lambda: Nest(seen, taken)] * B, autoreset_mode=mode)
    assert_same(run(make(vector)), expected(seen, taken), LEAST)


@pytest.mark.parametrize(("seen", "taken"), [*PAIRS[:2], PAIRS[-1]])
def test_last_observations_as_arrays_of_parts(seen: str, taken: str) -> None:
    """Vectors of somebody's own may give them in the structure of the space, and not as an array of objects."""

    class ByPart(gymnasium.vector.VectorWrapper):
        def step(self, actions: Any) -> tuple:
            obs, reward, terminated, truncated, info = self.env.step(actions)
            if "final_obs" in info:
                layout = Layout(self.env.single_observation_space)
                arrays = layout.empty(B)
                for i in np.flatnonzero(terminated | truncated):
                    layout.put(arrays, int(i), info["final_obs"][i])
                info["final_obs"] = layout.batch(arrays)
            return obs, reward, terminated, truncated, info

    vector = ByPart(SyncVectorEnv([lambda: Nest(seen, taken)] * B, autoreset_mode=AutoresetMode.SAME_STEP))
    assert_same(run(make(vector)), expected(seen, taken), LEAST)


# ── layouts ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", OBSERVATIONS)
def test_what_is_put_is_what_is_read(name: str) -> None:
    space = OBSERVATIONS[name]
    layout = Layout(space)
    assert layout.names == [name for name, _ in leaves(from_gymnasium(space))]
    assert layout.alone == (not isinstance(space, gymnasium.spaces.Dict | gymnasium.spaces.Tuple))
    arrays, given = layout.empty(4), [element(space, n) for n in (3, 1, 4, 15)]
    for i, one in enumerate(given):
        layout.put(arrays, i, one)
    batch = layout.batch(arrays)
    assert all(a is b for a, b in zip(layout.leaves(batch), arrays, strict=True))
    assert jax.tree.structure(batch) == jax.tree.structure(given[0])
    for i, one in enumerate(given):
        found, copied = layout.at(batch, i), layout.copied(one)
        assert space.contains(found)
        for a, b, c in zip(*map(jax.tree.leaves, (found, one, copied)), strict=True):
            np.testing.assert_array_equal(a, b)
            np.testing.assert_array_equal(c, b)
            assert a.dtype == b.dtype
            assert not np.shares_memory(c, b)


def test_numbers_and_lists_are_elements_too() -> None:
    layout = Layout(
        gymnasium.spaces.Dict({"a": gymnasium.spaces.Discrete(3), "b": gymnasium.spaces.Tuple([gymnasium.spaces.MultiBinary(2)])})
    )
    arrays = layout.empty(1)
    layout.put(arrays, 0, {"a": 2, "b": [[1, 0]], "more": "is not read"})
    assert [array.tolist() for array in arrays] == [[2], [[1, 0]]]


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (
            lambda o: o.pop("zone"),
            r"got an observation with keys \['arm', 'bytes', 'one'\], its space has a part 'zone'; return every part",
        ),
        (
            lambda o: o["arm"][1].pop("b"),
            r"got an observation with keys \['a'\] in its part \['arm'\]\[1\], its space has a part 'b'; return",
        ),
        (
            lambda o: o.update(arm=o["arm"][:1]),
            r"got an observation with a tuple in its part \['arm'\], its space has a part 1; return every",
        ),
        (
            lambda o: o.update(arm=None),
            r"got an observation with a NoneType in its part \['arm'\], its space has a part 0; return every part",
        ),
        (
            lambda o: o.update(bytes=np.zeros(4)),
            r"got an observation of shape \(4,\) in its part \['bytes'\], its space says \(3,\); correct",
        ),
        (
            lambda o: o["arm"][1].update(a=np.zeros((1, 2))),
            r"got an observation of shape \(1, 2\) in its part \['arm'\]\[1\]\['a'\], its space says \(2, 2\); correct",
        ),
        (lambda o: o.update(one=[1.0]), r"got an observation of shape \(1,\) in its part \['one'\], its space says \(\); correct"),
    ],
)
class TestFaults:
    """Each names the copy, the step and the part, in every mode."""

    def test_a_layout(self, spoil: Any, line: str) -> None:
        layout, one = Layout(OBSERVATIONS["nested"]), element(OBSERVATIONS["nested"], 0)
        spoil(one)
        with pytest.raises(ShapeError, match="^" + line):
            layout.put(layout.empty(1), 0, one)

    @pytest.mark.parametrize("mode", [*MODES, "ready"])
    def test_vectors(self, spoil: Any, line: str, mode: str) -> None:
        bad = env_seeds(SEED, B)[1]

        class Faulty(Nest):
            faulty = False

            def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
                self.faulty |= seed == bad
                obs, info = super().reset(seed=seed, options=options)
                self.length = 8
                return obs, info

            def observe(self, last: int) -> Any:
                obs = super().observe(last)
                if self.t == 3 and self.faulty:
                    spoil(obs)
                return obs

        if mode == "ready":
            env = make(SyncVectorEnv([Faulty] * B, autoreset_mode=AutoresetMode.SAME_STEP))
        else:
            env = make(Faulty, autoreset=mode)
        with pytest.raises(EnvError, match=rf"^environment (Faulty|SyncVectorEnv), copy 1, at vector step 3: {line}[^\n]*$"):
            run(env, 4)


def test_a_fault_before_anything_runs_names_the_part() -> None:
    class Broken(Nest):
        def observe(self, last: int) -> Any:
            return {**super().observe(last), "bytes": np.zeros(4)} if self.t else super().observe(last)

    with pytest.raises(
        UsageError, match=r"^environment Broken, step 1: got an observation of shape \(4,\) in its part \['bytes'\], [^\n]*$"
    ):
        make(Broken)

    class Outside(Nest):
        def observe(self, last: int) -> Any:
            return {**super().observe(last), "zone": 3}

    with pytest.raises(
        UsageError, match=r"^environment Outside, reset: observation 5 of part \['zone'\] lies outside its space Discrete\(5, s"
    ):
        make(Outside)


class Spoilt(gymnasium.vector.VectorWrapper):
    """A vector of somebody's own that does not keep to its spaces."""

    how: Any = None

    def step(self, actions: Any) -> tuple:
        obs, *rest = self.env.step(actions)
        return self.how(obs), *rest


@pytest.mark.parametrize(
    ("how", "line"),
    [
        (
            lambda obs: {name: part for name, part in obs.items() if name != "one"},
            r"^environment SyncVectorEnv at vector step 1: got an observation with keys \['arm', 'bytes', 'zone'\], its space has a part ",
        ),
        (
            lambda obs: {**obs, "bytes": obs["bytes"][:2]},
            r"^environment SyncVectorEnv raised at vector step 1: ValueError: got an observation of shape \(2, 3\) in part \['bytes'\], not"
            r" \(3, 3\); [^\n]*$",
        ),
    ],
)
def test_a_vector_of_ones_own_with_wrong_parts(how: Any, line: str) -> None:
    vector = Spoilt(SyncVectorEnv([Nest] * B, autoreset_mode=AutoresetMode.NEXT_STEP))
    vector.how = how
    with pytest.raises(EnvError, match=line):
        run(make(vector), 2)


@pytest.fixture
def masking() -> Iterator[VectorAdapter]:
    class Masking(Nest):
        def reset(self, **options: Any) -> tuple[Any, dict]:
            return super().reset(**options)[0], {MASK: np.ones(3, np.int8)}

    vector = SyncVectorEnv([lambda: Masking("box", "discrete")] * B)
    yield make(vector).vector(B, SEED)
    vector.close()


def test_masks_that_a_ready_vector_gives_where_nobody_reads_them(masking: VectorAdapter) -> None:
    with pytest.raises(UsageError, match=r"^SyncVectorEnv: got info\['action_mask'\] from a ready vector, where it is not read; [^\n]*$"):
        masking.reset()


def test_an_environments_own_connection_error_is_no_worker_that_died() -> None:
    class Remote(Nest):
        def step(self, action: Any) -> Any:
            if self.t == 1:
                raise ConnectionRefusedError("no simulator on port 1234")
            return super().step(action)

        def reset(self, **options: Any) -> tuple[Any, dict]:
            answer = super().reset(**options)
            self.length = 8
            return answer

    with pytest.raises(
        EnvError, match=r"^environment Remote, copy 0, raised at vector step 2: ConnectionRefusedError: no simulator on port 1234;"
    ):
        run(make(Remote), 3)
