"""The five twins against Gymnasium's own code: the same thousand states and actions through both."""

from __future__ import annotations

import functools
import math
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.envs.classic_control import continuous_mountain_car

from policygrad.envs import classic_control
from policygrad.envs.base import Env
from policygrad.spaces import Box, Discrete, from_gymnasium

ROWS = 1000
PI = math.pi
ANGLE = 12 * 2 * PI / 360  # CartPole falls beyond it


class Case(NamedTuple):
    """One environment (with one set of keyword arguments), and where to step it from."""

    name: str
    make: Callable[..., Env]
    low: tuple[float, ...]  # states are drawn between these …
    high: tuple[float, ...]
    edges: tuple[tuple[float, ...], ...]  # … and each of these is stepped with every action of `pushes`
    pushes: tuple[float, ...]
    observe: Callable[[np.ndarray], np.ndarray]  # the observation, in float64, from Gymnasium's float64 state
    margin: Callable[[np.ndarray, np.ndarray], np.ndarray]  # distance of (state, next state) from the nearest discontinuity
    start: tuple[tuple[float, float], ...]  # bounds of the initial state; equal ones are exact
    kwargs: dict[str, Any] = {}  # noqa: RUF012
    spin: tuple[int, ...] = ()  # coordinates that are angles


def acrobot_obs(s: np.ndarray) -> np.ndarray:
    return np.stack([np.cos(s[:, 0]), np.sin(s[:, 0]), np.cos(s[:, 1]), np.sin(s[:, 1]), s[:, 2], s[:, 3]], axis=1)


def pendulum_obs(s: np.ndarray) -> np.ndarray:
    return np.stack([np.cos(s[:, 0]), np.sin(s[:, 0]), s[:, 1]], axis=1)


def cartpole_margin(s: np.ndarray, n: np.ndarray) -> np.ndarray:
    return np.minimum(np.abs(np.abs(n[:, 0]) - 2.4), np.abs(np.abs(n[:, 2]) - ANGLE))


def acrobot_margin(s: np.ndarray, n: np.ndarray) -> np.ndarray:
    return np.abs(-np.cos(n[:, 0]) - np.cos(n[:, 0] + n[:, 1]) - 1.0)


def pendulum_margin(s: np.ndarray, n: np.ndarray) -> np.ndarray:
    return np.full(len(s), 1.0)  # continuous everywhere: the reward has a kink at ±π, not a jump


def car_margin(goal: float, goal_velocity: float, s: np.ndarray, n: np.ndarray) -> np.ndarray:
    wall = np.where(s[:, 0] < -1.1, np.abs(n[:, 0] + 1.2), 1.0)  # also 0 after touching it, where the velocity jumps
    return np.minimum(wall, np.minimum(np.abs(n[:, 0] - goal), np.where(n[:, 0] < goal, 1.0, np.abs(n[:, 1] - goal_velocity))))


def identity(s: np.ndarray) -> np.ndarray:
    return s


def nearly(x: float) -> tuple[float, float, float]:
    """The floats below, at and above."""
    return (float(np.nextafter(x, -np.inf)), x, float(np.nextafter(x, np.inf)))


CARTPOLE = Case(
    "CartPole-v1",
    classic_control.cartpole,
    (-2.6, -3.0, -0.25, -3.0),
    (2.6, 3.0, 0.25, 3.0),
    (
        *((x, 0.0, 0.0, 0.0) for b in (-2.4, 2.4) for x in nearly(b)),
        *((0.0, 0.0, x, 0.0) for b in (-ANGLE, ANGLE) for x in nearly(b)),
        (0.0, 0.0, 0.0, 0.0),
        (2.39, 2.0, 0.2, 2.0),
        (-2.39, -2.0, -0.2, -2.0),
        (4.8, 50.0, PI, 30.0),
        (0.0, 0.0, -7.0, -30.0),
    ),
    (0, 1),
    identity,
    cartpole_margin,
    ((-0.05, 0.05),) * 4,
)
ACROBOT = Case(
    "Acrobot-v1",
    classic_control.acrobot,
    (-PI, -PI, -4 * PI, -9 * PI),
    (PI, PI, 4 * PI, 9 * PI),
    (
        (0.0, 0.0, 0.0, 0.0),
        (PI, 0.0, 0.0, 0.0),
        (-PI, PI, 0.0, 0.0),
        (PI, 0.0, 0.01, -0.01),
        (-PI, 0.0, -0.01, 0.01),
        (PI, -PI, 4 * PI, 9 * PI),
        (-PI, PI, -4 * PI, -9 * PI),
        (3.0, 3.0, 4 * PI, 9 * PI),
        (9.5, -9.5, 1.0, 1.0),  # more than one turn to wrap
        (PI / 2, PI / 2, 0.0, 0.0),
        (0.0, PI, 0.0, 0.0),
    ),
    (0, 1, 2),
    acrobot_obs,
    acrobot_margin,
    ((-0.1, 0.1),) * 4,
    spin=(0, 1),
)
CAR_EDGES = (
    *((x, v) for x in nearly(-1.2)[1:] for v in (-0.07, 0.0, 0.07)),
    (-1.19, -0.02),
    (-1.15, -0.07),
    (-1.3, 0.03),  # beyond the wall and moving away from it
    (0.6, 0.07),
    (0.59, 0.07),
    (0.43, 0.07),  # lands on the goal exactly, at 0.5 and at 0.45
    (0.38, 0.07),
    *((x, v) for b in (0.45, 0.5) for x in nearly(b) for v in (-0.001, 0.0, 0.0005, 0.02, 0.07)),
    *((PI / 6, v) for v in (-0.07, 0.07)),  # cos 3x = 0
    (-PI / 6, 0.0),
)
MOUNTAIN_CAR = Case(
    "MountainCar-v0",
    classic_control.mountain_car,
    (-1.2, -0.07),
    (0.6, 0.07),
    CAR_EDGES,
    (0, 1, 2),
    identity,
    functools.partial(car_margin, 0.5, 0.0),
    ((-0.6, -0.4), (0.0, 0.0)),
)
CONTINUOUS = Case(
    "MountainCarContinuous-v0",
    classic_control.mountain_car_continuous,
    (-1.2, -0.07),
    (0.6, 0.07),
    CAR_EDGES,
    (-1.0, 0.0, 0.3, 1.0),
    identity,
    functools.partial(car_margin, 0.45, 0.0),
    ((-0.6, -0.4), (0.0, 0.0)),
)
PENDULUM = Case(
    "Pendulum-v1",
    classic_control.pendulum,
    (-12.0, -8.0),
    (12.0, 8.0),
    (
        (0.0, 0.0),
        *((x, v) for k in (-3, -2, -1, 1, 2, 3) for x in nearly(k * PI) for v in (-8.0, 8.0)),
        (80.0, 8.0),
        (-80.0, -8.0),
        (PI / 2, 7.99),
    ),
    (-2.0, 0.0, 0.7, 2.0),
    pendulum_obs,
    pendulum_margin,
    ((-PI, PI), (-1.0, 1.0)),
)
STANDARD = (CARTPOLE, ACROBOT, MOUNTAIN_CAR, CONTINUOUS, PENDULUM)
WITH_ARGUMENTS = (
    CARTPOLE._replace(kwargs={"sutton_barto_reward": True}),
    MOUNTAIN_CAR._replace(kwargs={"goal_velocity": 0.02}, margin=functools.partial(car_margin, 0.5, 0.02)),
    CONTINUOUS._replace(kwargs={"goal_velocity": 0.02}, margin=functools.partial(car_margin, 0.45, 0.02)),
    PENDULUM._replace(kwargs={"g": 9.81}),
)


def case_id(case: Case) -> str:
    return case.name + "".join(f"-{k}" for k in case.kwargs)


def sample(case: Case) -> tuple[np.ndarray, np.ndarray, int]:
    """A thousand states and actions in float64; the first rows, whose number is returned, are the edges."""
    rng = np.random.default_rng(7)
    edges = [(e, p) for e in case.edges for p in case.pushes]
    states = rng.uniform(case.low, case.high, (ROWS, len(case.low)))
    states[: len(edges)] = [e for e, _ in edges]
    discrete = isinstance(case.make().action_space, Discrete)
    actions = rng.integers(0, len(case.pushes), ROWS) if discrete else rng.uniform(case.pushes[0], case.pushes[-1], ROWS)
    actions[: len(edges)] = [p for _, p in edges]
    return states, (actions.astype(np.int32) if discrete else actions[:, None]), len(edges)


class Stepped(NamedTuple):
    state: np.ndarray
    obs: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray


def step_gymnasium(case: Case, states: np.ndarray, actions: np.ndarray) -> Stepped:
    env: Any = gymnasium.make(case.name, **case.kwargs).unwrapped
    env.reset(seed=0)
    rows = []
    for state, action in zip(states, actions, strict=True):
        env.state = state.copy()
        env.steps_beyond_terminated = None  # CartPole pays differently once it has fallen
        obs, reward, terminated, truncated, _ = env.step(action if action.ndim else int(action))
        assert not truncated
        rows.append((np.array(env.state, np.float64), obs, float(reward), terminated))
    return Stepped(*(np.array(column) for column in zip(*rows, strict=True)))


def step_twin(env: Env, states: Any, times: Any, actions: Any) -> tuple[Any, Any]:
    """One compiled call for all rows."""
    return jax.jit(jax.vmap(env.step))(jax.random.split(jax.random.key(0), len(states)), (states, times), actions)


@pytest.fixture
def unrounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gymnasium's continuous mountain car rounds its state to float32 in its last line; here that line keeps float64."""
    kept = types.SimpleNamespace(array=np.array, float32=np.float64, ndarray=np.ndarray)
    monkeypatch.setattr(continuous_mountain_car, "np", kept)


@pytest.mark.usefixtures("unrounded")
@pytest.mark.parametrize("case", STANDARD + WITH_ARGUMENTS, ids=case_id)
def test_twin_steps_as_gymnasium_in_float64(case: Case) -> None:
    states, actions, num_edges = sample(case)
    assert num_edges >= 20
    theirs = step_gymnasium(case, states, actions)
    env = case.make(**case.kwargs)
    limit = env.time_limit or 0
    times = (np.arange(ROWS) % limit).astype(np.int32)
    with jax.enable_x64(True):
        (next_states, next_times), step = step_twin(env, jnp.asarray(states), jnp.asarray(times), jnp.asarray(actions))
        assert step.obs.dtype == step.reward.dtype == next_states.dtype == jnp.float64

    difference = np.asarray(next_states) - theirs.state
    for column in case.spin:  # −π and π are one angle, and a last bit decides between them
        difference[:, column] -= 2 * PI * np.round(difference[:, column] / (2 * PI))
        assert (np.abs(next_states[:, column]) <= PI + 1e-12).all()
    assert np.abs(difference).max() <= 1e-10
    np.testing.assert_allclose(step.obs, case.observe(theirs.state), rtol=0, atol=1e-10)
    np.testing.assert_allclose(step.obs, theirs.obs, rtol=1e-6, atol=1e-6)  # what Gymnasium shows, in float32
    np.testing.assert_allclose(step.reward, theirs.reward, rtol=0, atol=1e-10)
    # A last bit may decide for Acrobot's end, whose height is a sum of cosines: there, only rows that it cannot decide.
    decided = case.margin(states, theirs.state) > 1e-13 if case.name == "Acrobot-v1" else np.ones(ROWS, bool)
    np.testing.assert_array_equal(np.asarray(step.terminated)[decided], theirs.terminated[decided])
    assert case.name == "Pendulum-v1" or 20 < theirs.terminated.sum() < ROWS - 20  # both happen in the sample
    np.testing.assert_array_equal(step.truncated, times == limit - 1)
    np.testing.assert_array_equal(next_times, times + 1)
    assert step.extras == {}


@pytest.mark.parametrize("case", STANDARD, ids=case_id)
def test_twin_steps_as_gymnasium_in_float32(case: Case) -> None:
    states, actions, num_edges = sample(case)
    states = states.astype(np.float32).astype(np.float64)  # both start from the same numbers
    actions = actions.astype(np.float32).astype(np.float64) if actions.dtype == np.float64 else actions
    theirs = step_gymnasium(case, states, actions)
    to = np.int32 if actions.dtype == np.int32 else np.float32
    (next_states, _), step = step_twin(case.make(), states.astype(np.float32), np.zeros(ROWS, np.int32), actions.astype(to))
    assert step.obs.dtype == step.reward.dtype == next_states.dtype == jnp.float32

    sure = (case.margin(states, theirs.state) > 1e-4) & (np.arange(ROWS) >= num_edges)
    assert sure.sum() > 0.7 * ROWS
    difference = np.asarray(next_states, np.float64) - theirs.state
    for column in case.spin:
        difference[:, column] -= 2 * PI * np.round(difference[:, column] / (2 * PI))
    scale = np.abs(theirs.state).max(axis=0)  # relative to the coordinate's range
    assert (np.abs(difference)[sure] <= 1e-5 * scale).all()
    assert (np.abs(step.obs - case.observe(theirs.state))[sure] <= 1e-5 * np.abs(case.observe(theirs.state)).max(axis=0)).all()
    assert (np.abs(step.reward - theirs.reward)[sure] <= 1e-5 * np.abs(theirs.reward).max()).all()
    np.testing.assert_array_equal(np.asarray(step.terminated)[sure], theirs.terminated[sure])


@pytest.mark.parametrize("case", STANDARD, ids=case_id)
def test_spaces_limit_and_threshold_are_gymnasiums(case: Case) -> None:
    spec = gymnasium.spec(case.name)
    theirs = spec.make()
    env = case.make()
    assert env.name == case.name
    assert env.observation_space == from_gymnasium(theirs.observation_space)
    assert env.action_space == from_gymnasium(theirs.action_space)
    assert env.time_limit == spec.max_episode_steps
    assert env.reward_threshold == spec.reward_threshold


def test_threshold_follows_the_reward() -> None:
    assert classic_control.cartpole(sutton_barto_reward=True).reward_threshold == 0.0


def check_start(states: np.ndarray, bounds: tuple[tuple[float, float], ...]) -> None:
    """Uniform and independent within `bounds`: support, mean, variance, covariances, each |z| ≤ 5."""
    n = len(states)
    low, high = np.array(bounds).T
    assert (states >= low - 1e-7).all()
    assert (states <= high + 1e-7).all()
    moving = high > low
    np.testing.assert_array_equal(states[:, ~moving], np.broadcast_to(low[~moving], (n, int((~moving).sum()))))
    unit = ((states - (low + high) / 2)[:, moving]) / (high - low)[moving]  # uniform in [−1/2, 1/2]
    reach = 20 / n  # missed with probability e⁻²⁰
    assert (unit.min(axis=0) < -0.5 + reach).all()
    assert (unit.max(axis=0) > 0.5 - reach).all()
    assert (np.abs(unit.mean(axis=0)) <= 5 * np.sqrt(1 / 12 / n)).all()
    assert (np.abs((unit**2).mean(axis=0) - 1 / 12) <= 5 * np.sqrt(1 / 180 / n)).all()
    products = unit.T @ unit / n
    off_diagonal = products[~np.eye(len(products), dtype=bool)]
    assert (np.abs(off_diagonal) <= 5 / 12 / np.sqrt(n)).all()


@pytest.mark.parametrize("case", STANDARD, ids=case_id)
def test_starts_where_gymnasium_starts(case: Case) -> None:
    theirs: Any = gymnasium.make(case.name).unwrapped
    theirs.reset(seed=1)
    drawn = []
    for _ in range(2000):
        theirs.reset()
        drawn.append(np.array(theirs.state, np.float64))
    check_start(np.array(drawn), case.start)  # the table is right …

    env = case.make()
    (states, times), obs = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(1), 20_000))
    check_start(np.asarray(states, np.float64), case.start)  # … and so are we
    np.testing.assert_allclose(obs, case.observe(np.asarray(states, np.float64)), rtol=0, atol=1e-6)
    assert obs.dtype == states.dtype == jnp.float32
    assert obs.shape[1:] == env.observation_space.shape
    assert not times.any()


@pytest.mark.parametrize("case", STANDARD, ids=case_id)
def test_dtype_is_the_states(case: Case) -> None:
    env = case.make()
    with jax.enable_x64(True):
        (state, _), obs = jax.eval_shape(env.reset, jax.random.key(0))
        assert state.dtype == obs.dtype == jnp.float64
        for dtype in (jnp.float32, jnp.float64):
            start = jax.ShapeDtypeStruct(state.shape, dtype), jax.ShapeDtypeStruct((), jnp.int32)
            # A float64 action must not raise a float32 state: a scan's carry may not change its type.
            space = env.action_space
            action = jax.ShapeDtypeStruct(space.shape, jnp.float64 if isinstance(space, Box) else jnp.int32)
            (after, time), step = jax.eval_shape(env.step, jax.random.key(0), start, action)
            assert (after.dtype, after.weak_type, time.dtype) == (dtype, False, jnp.int32)
            assert (step.obs.dtype, step.obs.shape, step.obs.weak_type) == (dtype, env.observation_space.shape, False)
            assert (step.reward.dtype, step.reward.shape, step.reward.weak_type) == (dtype, (), False)
            assert (step.terminated.dtype, step.truncated.dtype) == (jnp.bool_, jnp.bool_)


def test_an_episode_is_gymnasiums_from_reset_to_truncation() -> None:
    """One whole Pendulum episode through `gymnasium.make`, time limit included, against the compiled one."""
    theirs = gymnasium.make("Pendulum-v1")
    theirs.reset(seed=3)
    torques = np.random.default_rng(3).uniform(-2, 2, (200, 1)).astype(np.float32)
    env = classic_control.pendulum()
    start = np.array(theirs.unwrapped.state)

    with jax.enable_x64(True):
        key = jax.random.key(0)
        _, steps = jax.lax.scan(lambda s, a: env.step(key, s, a), (jnp.asarray(start), jnp.int32(0)), jnp.asarray(torques, jnp.float64))
    rewards, truncated = [], []
    for torque in torques.astype(np.float64):
        _, reward, _, cut, _ = theirs.step(torque)
        rewards.append(reward)
        truncated.append(cut)
    assert truncated == [False] * 199 + [True]
    np.testing.assert_array_equal(steps.truncated, truncated)
    np.testing.assert_allclose(steps.reward, rewards, rtol=0, atol=1e-6)  # chaotic: a last bit grows
