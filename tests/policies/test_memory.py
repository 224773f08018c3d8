"""Memories: the equations, a sequence replayed as it was stepped, resets at the right step, gradients that stop where they should."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import policygrad as pg
from policygrad import policies
from policygrad.errors import UnknownNameError, UsageError
from policygrad.policies import load, save
from policygrad.policies.memory import chunk_length, chunks, emptied, make_memory, traced
from policygrad.spaces import Box, Dict, Discrete, MultiBinary
from policygrad.types import Spec

T, B, F, H = 7, 3, 2, 4
KINDS = "gru", "lstm"
BOX = Box.of(-1.0, 1.0, (F,))
RESETS = np.zeros((T, B), bool)
RESETS[[0, 3, 5], [0, 1, 1]] = True


@pytest.fixture(autouse=True)
def double() -> Any:
    with jax.enable_x64(True):
        yield


def memory_of(kind: str, truncate: int | None = None) -> Any:
    made = make_memory(kind, jax.random.key(3), F, H, truncate=truncate)
    leaves, structure = jax.tree.flatten(made)
    rng = np.random.default_rng(0)
    return jax.tree.unflatten(structure, [jnp.asarray(rng.normal(size=leaf.shape) * 0.7) for leaf in leaves])


def inputs() -> Any:
    return jnp.asarray(np.random.default_rng(1).normal(size=(T, B, F)))


def carry_of(memory: Any, count: int) -> Any:
    rng = np.random.default_rng(2)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=(count, *leaf.shape))), memory.initial(B))


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def plain(memory: Any, carry: Any, x: Any, resets: Any) -> list[Any]:
    """h of every step, by the equations of the docstrings, one sequence and one step at a time."""
    weight, bias, recurrent = (np.asarray(part) for part in (memory.inputs.weight, memory.inputs.bias, memory.recurrent))
    states = [np.array(leaf) for leaf in jax.tree.leaves(carry)]
    result = []
    for t in range(len(x)):
        for b in range(B):
            if resets[t, b]:
                for state in states:
                    state[b] = 0
            h = states[0][b]
            given, kept = weight @ x[t, b] + bias, recurrent @ h
            if len(states) == 1:
                r, z = sigmoid(given[:H] + kept[:H]), sigmoid(given[H : 2 * H] + kept[H : 2 * H])
                n = np.tanh(given[2 * H :] + r * (kept[2 * H :] + np.asarray(memory.bias)))
                states[0][b] = (1 - z) * n + z * h
            else:
                i, f, o = (sigmoid((given + kept)[k * H : (k + 1) * H]) for k in range(3))
                states[1][b] = f * states[1][b] + i * np.tanh((given + kept)[3 * H :])
                states[0][b] = o * np.tanh(states[1][b])
        result.append([state.copy() for state in states])
    return result


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_equations(kind: str) -> None:
    memory, x = memory_of(kind), inputs()
    carry = carry_of(memory, 1)
    h, carries, last = traced(memory, carry, x, RESETS)
    expected = plain(memory, jax.tree.map(lambda leaf: leaf[0], carry), np.asarray(x), RESETS)
    np.testing.assert_allclose(h, [states[0] for states in expected], atol=1e-12)
    for leaf, after, i in zip(jax.tree.leaves(carries), jax.tree.leaves(last), range(2), strict=False):
        np.testing.assert_allclose(leaf, [states[i] for states in expected], atol=1e-12)
        np.testing.assert_array_equal(after[0], leaf[-1])


@pytest.mark.parametrize("kind", KINDS)
def test_replaying_a_sequence_is_stepping_it(kind: str) -> None:
    memory, x = memory_of(kind), inputs()
    carry = carry_of(memory, 1)
    h, _, _ = traced(memory, carry, x, RESETS)
    now = jax.tree.map(lambda leaf: leaf[0], carry)
    for t in range(T):
        one, now = memory.step(now, x[t], jnp.asarray(RESETS[t]))
        np.testing.assert_allclose(one, h[t], atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_an_episode_does_not_see_what_came_before_it(kind: str) -> None:
    memory, x = memory_of(kind), inputs()
    carry = carry_of(memory, 1)
    h, _, _ = traced(memory, carry, x, RESETS)
    other, _, _ = traced(memory, carry, x.at[:3, 1].add(1.0), RESETS)
    changed = np.abs(np.asarray(h - other)).max(axis=-1) > 1e-9
    assert changed[:3, 1].all()
    assert not changed[3:, 1].any()
    assert not changed[:, [0, 2]].any()
    # A carry of before the first step counts for the sequences that go on, and for those alone.
    moved, _, _ = traced(memory, jax.tree.map(lambda leaf: leaf + 1.0, carry), x, RESETS)
    np.testing.assert_array_equal((np.abs(np.asarray(h - moved)).max(axis=-1) > 1e-9)[0], [False, True, True])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [2, 3, 7])
def test_chunks_begin_from_their_own_carries(kind: str, count: int) -> None:
    """With the carries that a whole pass has there, chunks say what the whole pass says; 2 and 3 do not divide 7 rows."""
    memory, x = memory_of(kind), inputs()
    carry = carry_of(memory, 1)
    h, carries, last = traced(memory, carry, x, RESETS)
    length = chunk_length(T, count)
    assert -(-T // length) == count
    starts = jax.tree.map(lambda first, after: jnp.concatenate([first, after[length - 1 : -1 : length]]), carry, carries)
    again, traces, end = traced(memory, starts, x, RESETS)
    np.testing.assert_allclose(again, h, atol=1e-13)
    for a, b in ((traces, carries), (end, last)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-13), a, b)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 3])
def test_gradients_by_finite_differences(kind: str, count: int) -> None:
    """Of the loss with the chunks' carries held where they are: what truncation means."""
    memory, x = memory_of(kind), inputs()
    carry, weights = carry_of(memory, count), np.random.default_rng(4).normal(size=(T, B, H))

    @jax.jit
    def loss(memory: Any, carry: Any, x: Any) -> Any:
        return jnp.sum(weights * traced(memory, carry, x, RESETS)[0] ** 2)

    gradient, of_carry, of_x = jax.grad(loss, argnums=(0, 1, 2))(memory, carry, x)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(of_carry))  # a constant
    rng, step = np.random.default_rng(5), 1e-6
    for _ in range(3):
        moved = [jnp.asarray(rng.normal(size=leaf.shape)) for leaf in jax.tree.leaves((memory, x))]
        direction, along = jax.tree.unflatten(jax.tree.structure((memory, x)), moved)
        both = [
            loss(
                jax.tree.map(lambda a, d, s=sign: a + s * step * d, memory, direction),
                carry,
                x + sign * step * along,
            )
            for sign in (1, -1)
        ]
        slope = sum(float(jnp.vdot(a, d)) for a, d in zip(jax.tree.leaves((gradient, of_x)), moved, strict=True))
        np.testing.assert_allclose((both[0] - both[1]) / (2 * step), slope, rtol=1e-6, atol=1e-6)


def test_how_many_chunks() -> None:
    memory = memory_of("gru", truncate=5)
    assert [chunks(memory, rows) for rows in (1, 5, 6, 10, 11)] == [1, 1, 2, 2, 3]
    assert chunks(memory_of("gru"), 1000) == chunks(None, 1000) == 1
    assert all(chunk_length(rows, chunks(memory, rows)) <= 5 for rows in range(1, 60))
    assert all(-(-rows // chunk_length(rows, chunks(memory, rows))) == chunks(memory, rows) for rows in range(1, 60))


def test_fresh_parameters() -> None:
    gru, lstm = make_memory("gru", jax.random.key(0), 5, 8), make_memory("lstm", jax.random.key(0), 5, 8)
    for memory, gates in ((gru, 3), (lstm, 4)):
        for gate in np.asarray(memory.recurrent).reshape(gates, 8, 8):
            np.testing.assert_allclose(gate @ gate.T, np.eye(8), atol=1e-6)
        assert memory.size == 8
    np.testing.assert_array_equal(gru.inputs.bias, 0)
    np.testing.assert_array_equal(lstm.inputs.bias, np.repeat([0, 1, 0, 0], 8))  # it remembers at first
    assert not np.allclose(gru.recurrent[:8], gru.recurrent[8:16])


@pytest.mark.parametrize(
    ("arguments", "error", "line"),
    [
        ({"memory": "elman"}, UnknownNameError, r"^unknown memory 'elman'[^\n]*gru[^\n]*$"),
        ({"memory": "gru", "memory_size": 0}, UsageError, r"^memory_size: got 0; it must be a whole number of at least 1$"),
        ({"memory": "gru", "truncate": 0}, UsageError, r"^truncate: got 0; it must be a whole number of at least 1$"),
        ({"truncate": 5}, UsageError, r"^truncate: got 5 without a memory, whose gradients it would cut; [^\n]*$"),
        ({"freeze": ["memory"]}, UsageError, r"^freeze: got 'memory' for a policy without one; leave it out$"),
    ],
)
def test_bad_arguments_are_one_line(arguments: Any, error: Any, line: str) -> None:
    with pytest.raises(error, match=line):
        pg.policy(**arguments)


# ── policies with memory ─────────────────────────────────────────────────────────────────────────────────────────────

MASKED = Dict.of({"observation": BOX, "action_mask": MultiBinary((2,))})


def policy_of(kind: str, space: Any = BOX, **options: Any) -> Any:
    return pg.policy(memory=kind, memory_size=H, hidden_sizes=(3,), **options)(jax.random.key(0), Spec(space, Discrete(2), B))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("masked", [False, True])
def test_a_policy_unrolls_as_it_steps(kind: str, masked: bool) -> None:
    policy, obs = policy_of(kind, MASKED if masked else BOX), inputs()
    if masked:
        allowed = np.random.default_rng(6).integers(0, 2, (T, B, 1))
        obs = {"observation": obs, "action_mask": np.concatenate([allowed, 1 - allowed], axis=-1)}
    carry = policy.initial(B)
    whole, last = policy.unroll(jax.tree.map(lambda leaf: leaf[None], carry), obs, RESETS)
    for t in range(T):
        one, carry = policy.step(carry, jax.tree.map(lambda leaf, t=t: leaf[t], obs), jnp.asarray(RESETS[t]))
        np.testing.assert_allclose(one.probabilities(), whole.probabilities()[t], atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[0], atol=1e-6), carry, last)
    if masked:
        np.testing.assert_array_equal(np.asarray(whole.probabilities())[obs["action_mask"] == 0], 0)


def test_a_policy_with_memory_is_no_function_of_one_observation() -> None:
    with pytest.raises(UsageError, match=r"^policy\(obs\): got a policy with memory, [^\n]*policy.step\(carry, obs, first\)[^\n]*$"):
        policy_of("gru")(jnp.zeros((B, F)))


@pytest.mark.parametrize("kind", KINDS)
def test_files_hold_memories(kind: str, tmp_path: Any) -> None:
    policy = policy_of(kind, truncate=9)
    save(policy, tmp_path / "p.safetensors")
    again = load(tmp_path / "p.safetensors")
    assert jax.tree.structure(again) == jax.tree.structure(policy)
    jax.tree.map(np.testing.assert_array_equal, again, policy)
    assert again.num_chunks(20) == 3


def test_frozen_memories_get_no_gradient() -> None:
    policy = policy_of("gru", freeze=["memory", "head"])
    assert isinstance(policy.memory, policies.Frozen)
    carry = jax.tree.map(lambda leaf: leaf[None], policy.initial(B))
    gradient = jax.grad(lambda p: jnp.sum(p.unroll(carry, inputs(), RESETS)[0].log_probabilities()[..., 0]))(policy)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves((gradient.memory, gradient.head)))
    assert all((leaf != 0).any() for leaf in jax.tree.leaves(gradient.features))


def test_carries_are_emptied_in_any_shape() -> None:
    carry = (jnp.ones((B, 2)), jnp.ones((B, 2, 3)))
    a, b = emptied(carry, jnp.array([True, False, True]))
    np.testing.assert_array_equal(a[:, 0], [0, 1, 0])
    np.testing.assert_array_equal(b[:, 0, 0], [0, 1, 0])
