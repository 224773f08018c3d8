"""The linear-quadratic regulator steps and pays as its matrices say."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policygrad.envs import LQR, registry
from policygrad.envs.lqr import lqr
from policygrad.errors import UnknownNameError, UsageError
from policygrad.spaces import Box

Z = 5.0  # bound on |z| of every statistical check; seeds are fixed, so a pass stays a pass

# Three coordinates, two actions; correlated noise that leaves one direction alone; a start that does too.
GOOD: dict[str, Any] = {
    "A": [[0.9, 0.2, 0.0], [-0.1, 0.8, 0.3], [0.0, 0.0, 1.1]],
    "B": [[1.0, 0.0], [0.0, -0.5], [0.2, 0.4]],
    "Q": [[2.0, 0.5, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 0.0]],
    "R": [[0.3, 0.1], [0.1, 0.2]],
    "noise": np.outer([1.0, 2.0, 0.5], [1.0, 2.0, 0.5]) / 4 + np.diag([0.0, 0.0, 0.3]),
    "initial_covariance": np.diag([4.0, 0.0, 0.25]),
    "initial_mean": [1.0, -2.0, 0.5],
    "discount": 0.95,
    "time_limit": 4,
}
SYSTEM = LQR(**GOOD)
GAIN = np.array([[-0.3, 0.1, 0.0], [0.2, 0.4, -0.6]])


def covariance_agrees(sample: np.ndarray, mean: Any, covariance: Any) -> None:
    """Mean and second moments of [N, n] within Z standard errors, those of a Gaussian."""
    count, mean, covariance = len(sample), np.asarray(mean), np.asarray(covariance)
    spread = np.sqrt(np.diag(covariance))
    off = sample.astype(np.float64) - mean
    assert (np.abs(off.mean(axis=0)) <= Z * spread / math.sqrt(count) + 1e-6).all()
    error = np.sqrt((covariance**2 + np.outer(spread**2, spread**2)) / count)
    assert (np.abs(off.T @ off / count - covariance) <= Z * error + 1e-5).all()


def test_it_starts_and_steps_as_the_matrices_say() -> None:
    state, action = np.array([0.5, -1.0, 2.0]), np.array([1.5, -0.5])

    @jax.jit
    @jax.vmap
    def one(key: Any) -> Any:
        start, move = jax.random.split(key)
        first, obs = SYSTEM.reset(start)
        return (
            first[0],
            obs,
            SYSTEM.step(move, (jnp.asarray(state, jnp.float32), jnp.zeros((), jnp.int32)), jnp.asarray(action, jnp.float32)),
        )

    first, obs, ((after, _), step) = jax.tree.map(np.asarray, one(jax.random.split(jax.random.key(0), 50_000)))
    np.testing.assert_array_equal(first, obs)
    np.testing.assert_array_equal(after, step.obs)
    covariance_agrees(first, GOOD["initial_mean"], GOOD["initial_covariance"])
    covariance_agrees(after, SYSTEM.A @ state + SYSTEM.B @ action, SYSTEM.noise)
    np.testing.assert_allclose(step.reward, -(state @ SYSTEM.Q @ state + action @ SYSTEM.R @ action), rtol=1e-6)
    assert not step.terminated.any()


@functools.partial(jax.jit, static_argnames="num")
def returns(key: Any, gain: Any, num: int) -> Any:
    """Discounted returns of a = gain s, and the truncations."""

    def episode(key: Any) -> Any:
        start, *keys = jax.random.split(key, 5)

        def one(state: Any, key: Any) -> Any:
            state, step = SYSTEM.step(key, state, jnp.matmul(gain, state[0]))
            return state, (step.reward, step.truncated)

        return jax.lax.scan(one, SYSTEM.reset(start)[0], jnp.stack(keys))[1]

    rewards, truncated = jax.vmap(episode)(jax.random.split(key, num))
    return rewards @ SYSTEM.discount ** jnp.arange(4.0), truncated


def test_the_return_of_a_gain_is_what_the_moments_of_the_state_say() -> None:
    value, second = 0.0, SYSTEM.initial_covariance + np.outer(SYSTEM.initial_mean, SYSTEM.initial_mean)
    closed = SYSTEM.A + SYSTEM.B @ GAIN
    for t in range(4):
        value -= SYSTEM.discount**t * np.trace((SYSTEM.Q + GAIN.T @ SYSTEM.R @ GAIN) @ second)
        second = closed @ second @ closed.T + SYSTEM.noise
    sample, truncated = jax.tree.map(np.asarray, returns(jax.random.key(1), jnp.asarray(GAIN, jnp.float32), 50_000))
    assert abs(sample.mean() - value) <= Z * sample.std() / math.sqrt(len(sample))
    assert sample.std() / math.sqrt(len(sample)) < 0.01 * abs(value)  # sharp enough to tell
    np.testing.assert_array_equal(truncated, np.tile([False, False, False, True], (50_000, 1)))


def test_the_matrices_are_kept() -> None:
    for name in ("A", "B", "Q", "R", "noise", "initial_covariance", "initial_mean"):
        array = getattr(SYSTEM, name)
        np.testing.assert_array_equal(array, GOOD[name])
        assert array.dtype == np.float64
        assert not array.flags.writeable
    assert (SYSTEM.state_size, SYSTEM.action_size, SYSTEM.discount, SYSTEM.time_limit) == (3, 2, 0.95, 4)
    assert (SYSTEM.observation_space, SYSTEM.action_space) == (Box.of(-np.inf, np.inf, (3,)), Box.of(-np.inf, np.inf, (2,)))
    assert hash(SYSTEM) == hash(SYSTEM)
    assert repr(SYSTEM) == "LQR(LQR, state (3,), action (2,), discount 0.95, time limit 4)"
    with pytest.raises(AttributeError):
        SYSTEM.discount = 0.5  # type: ignore[misc]


def test_replace_changes_what_it_is_told() -> None:
    other = SYSTEM.replace(time_limit=None, initial_mean=None)
    assert (other.time_limit, SYSTEM.time_limit, other.discount) == (None, 4, 0.95)
    np.testing.assert_array_equal(other.initial_mean, 0)
    np.testing.assert_array_equal(other.A, SYSTEM.A)
    with pytest.raises(UnknownNameError, match=r"^unknown argument of LQR 'noises': did you mean noise\?$"):
        SYSTEM.replace(noises=0)


@pytest.mark.parametrize("wide", [False, True], ids=["float32", "float64"])
@pytest.mark.parametrize("limit", [None, 5])
def test_it_keeps_the_contract(limit: int | None, wide: bool) -> None:
    with jax.enable_x64(wide):
        env, real = lqr(time_limit=limit), jnp.float64 if wide else jnp.float32
        key, action = jax.random.key(0), jax.ShapeDtypeStruct((1,), jnp.float32)
        state, obs = jax.eval_shape(env.reset, key)
        after, step = jax.eval_shape(env.step, key, state, action)
        assert jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), after) == jax.tree.map(lambda x: (x.shape, x.dtype, False), state)
        for array in (obs, step.obs):
            assert (array.shape, array.dtype) == ((2,), real)
        assert (step.reward.shape, step.reward.dtype) == ((), real)
        assert (step.terminated.dtype, step.truncated.dtype) == (jnp.bool_, jnp.bool_)


def test_the_named_system() -> None:
    env = registry.compiled("LQR-v0", time_limit=7)
    assert isinstance(env, LQR)
    assert (env.name, env.time_limit, env.discount, lqr().time_limit) == ("LQR-v0", 7, 1.0, 5)
    assert np.abs(np.linalg.eigvals(env.A)).max() > 1  # it needs to be held
    assert np.linalg.matrix_rank(np.hstack([env.B, env.A @ env.B])) == 2  # and can be


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"A": np.ones((2, 3))}, "A: got shape (2, 3); it must be square, [n, n]"),
        ({"A": 1.0}, "A: got shape (); it must be square"),
        ({"A": [[1.0], [1.0, 2.0]]}, "A: got list that is no array of numbers"),
        ({"A": np.full((3, 3), np.nan)}, "A[0, 0]: got nan; it must be a finite number"),
        ({"B": np.ones((2, 3))}, "B: got shape (2, 3); it must be [3, m], m the size of an action"),
        ({"B": np.ones(3)}, "B: got shape (3,); it must be [3, m]"),
        ({"B": np.full((3, 2), np.inf)}, "B[0, 0]: got inf; it must be a finite number"),
        ({"Q": np.eye(2)}, "Q: got shape (2, 2); it must be (3, 3)"),
        ({"Q": np.diag([1.0, 0.0, -0.5])}, "Q: has the eigenvalue -0.5; it must be positive semi-definite, with none below 0"),
        ({"R": [[1.0, 0.5], [0.0, 1.0]]}, "R[0, 1]: got 0.5 and 0 across the diagonal; it must be symmetric"),
        ({"R": [[1.0, 2.0], [2.0, 1.0]]}, "R: has the eigenvalue -1; it must be positive semi-definite"),
        ({"noise": 0.1}, "noise: got shape (); it must be (3, 3)"),
        ({"noise": -np.eye(3)}, "noise: has the eigenvalue -1;"),
        ({"initial_covariance": [1.0, 1.0, 1.0]}, "initial_covariance: got shape (3,); it must be (3, 3)"),
        ({"initial_mean": [1.0]}, "initial_mean: got shape (1,); it must be (3,)"),
        ({"initial_mean": [1.0, np.nan, 0.0]}, "initial_mean[1]: got nan; it must be a finite number"),
        ({"discount": 1.1}, "discount: got 1.1; it must be a number in [0, 1]"),
        ({"time_limit": 0}, "time_limit: got 0; it must be a whole number of at least 1"),
    ],
)
def test_wrong_arguments_are_one_clear_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        LQR(**GOOD | changes)
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)
