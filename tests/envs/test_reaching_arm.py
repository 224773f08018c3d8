"""The arm: its equations against Lagrange's with derivatives taken by machine, what must be conserved, kinematics, symmetry."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad, solve_ivp

from policygrad.envs import make, registry
from policygrad.envs.reaching_arm import TORQUES, reaching_arm
from policygrad.errors import UsageError
from policygrad.spaces import Box

ROWS = 200
DT = 0.05
Z = 5.0  # bound on |z|; seeds are fixed


def ends(angles: Any) -> tuple[Any, Any]:
    """Forward kinematics: the elbow and the fingertip."""
    elbow = np.stack([np.cos(angles[..., 0]), np.sin(angles[..., 0])], axis=-1)
    along = angles[..., 0] + angles[..., 1]
    return elbow, elbow + np.stack([np.cos(along), np.sin(along)], axis=-1)


def kinetic_energy(angles: np.ndarray, spins: np.ndarray) -> np.ndarray:
    """Of two uniform rods of 1 kg, from how fast their ends move: m/6 (v_aᵀ v_a + v_aᵀ v_b + v_bᵀ v_b) each; [rows]."""
    first, along = angles[..., 0], angles[..., 0] + angles[..., 1]
    elbow = spins[..., :1] * np.stack([-np.sin(first), np.cos(first)], axis=-1)
    tip = elbow + spins.sum(axis=-1, keepdims=True) * np.stack([-np.sin(along), np.cos(along)], axis=-1)
    return ((elbow**2).sum(-1) + (elbow**2).sum(-1) + (elbow * tip).sum(-1) + (tip**2).sum(-1)) / 6


def accelerations(angles: np.ndarray, spins: np.ndarray, torque: np.ndarray, friction: float) -> np.ndarray:
    """Lagrange: M θ̈ = u − b θ̇ + ∂T/∂θ − (∂²T/∂θ̇∂θ) θ̇, for rows of states, in NumPy.

    Without truncation error: T is quadratic in θ̇, so differences give M exactly, and T is a constant and a cosine of θ₂, for which
    (f(θ + π/2) − f(θ − π/2)) / 2 is the derivative.
    """
    units = np.eye(2)

    def energy(angles: np.ndarray, spins: np.ndarray) -> np.ndarray:
        return kinetic_energy(angles, np.broadcast_to(spins, angles.shape))

    def momentum_of(angles: np.ndarray, spins: np.ndarray) -> np.ndarray:
        """∂T/∂θ̇_i = M θ̇ by polarisation: T(θ̇ + e_i) − T(θ̇) − T(e_i)."""
        rows = [energy(angles, spins + e) - energy(angles, spins) - energy(angles, e) for e in units]
        return np.stack(rows, axis=-1)

    def slope(f: Callable[[np.ndarray], np.ndarray], axis: int) -> np.ndarray:
        return (f(angles + math.pi / 2 * units[axis]) - f(angles - math.pi / 2 * units[axis])) / 2

    mass = np.stack([momentum_of(angles, e) for e in units], axis=-1)
    pull = np.stack([slope(lambda a: energy(a, spins), i) for i in range(2)], axis=-1)
    drift = sum(slope(lambda a: momentum_of(a, spins), i) * spins[..., i : i + 1] for i in range(2))
    return np.linalg.solve(mass, (torque - friction * spins + pull - drift)[..., None])[..., 0]


def step_by_numpy(state: np.ndarray, action: np.ndarray, friction: float) -> np.ndarray:
    """One Runge-Kutta step of rows of states [rows, 6]."""

    def rate(joints: np.ndarray) -> np.ndarray:
        return np.concatenate([joints[:, 2:], accelerations(joints[:, :2], joints[:, 2:], action * TORQUES, friction)], axis=1)

    joints = state[:, :4]
    k1 = rate(joints)
    k2 = rate(joints + DT / 2 * k1)
    k3 = rate(joints + DT / 2 * k2)
    k4 = rate(joints + DT * k3)
    return np.concatenate([joints + DT / 6 * (k1 + 2 * k2 + 2 * k3 + k4), state[:, 4:]], axis=1)


def sample(rows: int = ROWS) -> tuple[np.ndarray, np.ndarray]:
    """States and actions, the extreme ones first."""
    rng = np.random.default_rng(3)
    states = rng.uniform([-7, -7, -6, -6, -2, -2], [7, 7, 6, 6, 2, 2], (rows, 6))
    states[:4] = [[0, 0, 0, 0, 2, 0], [0, math.pi, 0, 0, 0, 0], [1, -math.pi / 2, 8, -8, -1, 1], [0, 0, 5, 5, 0.5, 0.5]]
    actions = rng.uniform(-1, 1, (rows, 2))
    actions[:4] = [[0, 0], [1, -1], [1, 1], [-1, 1]]
    return states, actions


@functools.cache
def stepper(friction: float = 1.0, control_cost: float = 0.05) -> Callable[..., Any]:
    env = reaching_arm(friction=friction, control_cost=control_cost)
    step = jax.jit(jax.vmap(lambda state, time, action: env.step(jax.random.key(0), (state, time), action)))
    return lambda *rows: jax.tree.map(np.asarray, step(*rows))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("friction", "control_cost"), [(1.0, 0.05), (0.0, 0.3)])
def test_a_step_is_lagranges_equations(friction: float, control_cost: float) -> None:
    states, actions = sample()
    times = np.arange(ROWS, dtype=np.int32) % 50
    (after, _), step = stepper(friction, control_cost)(states, times, actions)
    expected = step_by_numpy(states, actions, friction)
    np.testing.assert_allclose(after, expected, rtol=0, atol=1e-11)
    elbow, tip = ends(expected)
    assert np.allclose(np.linalg.norm(elbow, axis=1), 1)
    assert np.allclose(np.linalg.norm(tip - elbow, axis=1), 1)
    angles = expected[:, :2]
    obs = np.concatenate([np.cos(angles), np.sin(angles), expected[:, 2:4], states[:, 4:] - tip], axis=1)
    np.testing.assert_allclose(step.obs, obs, rtol=0, atol=1e-11)
    paid = -np.linalg.norm(tip - states[:, 4:], axis=1) - control_cost * (actions**2).sum(axis=1)
    np.testing.assert_allclose(step.reward, paid, rtol=0, atol=1e-11)
    assert not step.terminated.any()
    np.testing.assert_array_equal(step.truncated, times == 49)


@pytest.mark.usefixtures("x64")
def test_without_friction_and_torque_energy_and_angular_momentum_stay() -> None:
    """θ₁ itself is in no equation, so ∂T/∂θ̇₁ = M₁₁ θ̇₁ + M₁₂ θ̇₂ stays as well. Runge-Kutta's error falls with the fourth power of speed."""
    states, _ = sample(64)
    slow, errors = states * [1, 1, 0.1, 0.1, 1, 1], []
    for start in (slow, slow * [1, 1, 0.5, 0.5, 1, 1]):
        state = jnp.asarray(start)
        for _ in range(20):
            (state, _), _ = stepper(0.0)(state, np.zeros(64, np.int32), np.zeros((64, 2)))
        before, after = (np.split(np.asarray(s)[:, :4], 2, axis=1) for s in (start, state))
        energy = kinetic_energy(*before)
        scale = np.linalg.norm(start[:, 2:4], axis=1)
        change = np.abs(kinetic_energy(*after) - energy)
        turning = [((5 / 3 + np.cos(a[:, 1])) * w[:, 0] + (1 / 3 + np.cos(a[:, 1]) / 2) * w[:, 1]) for a, w in (before, after)]
        assert (change <= 1e-5 * scale**2).all()
        assert (np.abs(turning[1] - turning[0]) <= 1e-5 * scale).all()
        errors.append((change[scale > 0] / energy[scale > 0]).max())
    assert errors[1] < errors[0] / 8


@pytest.mark.usefixtures("x64")
def test_friction_takes_what_it_should_and_motors_give_it() -> None:
    """dT/dt = uᵀ θ̇ − b θ̇ᵀ θ̇, along an accurate solution that one step of the arm must follow."""
    states, actions = sample(12)
    states[:, 2:4] /= 3
    (after, _), _ = stepper()(states, np.zeros(12, np.int32), actions)
    for state, action, reached in zip(states, actions, np.asarray(after), strict=True):
        torque = action * TORQUES

        def rate(_: float, x: np.ndarray, torque: np.ndarray = torque) -> np.ndarray:
            angles, spins = x[None, :2], x[None, 2:4]
            power = torque @ x[2:4] - x[2:4] @ x[2:4]
            return np.concatenate([x[2:4], accelerations(angles, spins, torque, 1.0)[0], [power]])

        way = solve_ivp(rate, (0, DT), [*state[:4], 0.0], rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(reached[:4], way.y[:4, -1], rtol=0, atol=5e-3)
        gained = kinetic_energy(way.y[None, :2, -1], way.y[None, 2:4, -1]) - kinetic_energy(state[None, :2], state[None, 2:4])
        assert gained[0] == pytest.approx(way.y[4, -1], abs=1e-7)


@pytest.mark.usefixtures("x64")
def test_symmetries() -> None:
    """The mirror image of a step is the step of the mirror image, and so is its rotation."""
    states, actions = sample()
    times = np.zeros(ROWS, np.int32)
    (after, _), step = stepper()(states, times, actions)
    mirror, look = np.array([-1, -1, -1, -1, 1, -1]), np.array([1, 1, -1, -1, -1, -1, 1, -1])  # y ↦ −y
    (mirrored, _), seen = stepper()(states * mirror, times, -actions)
    np.testing.assert_allclose(mirrored, after * mirror, rtol=0, atol=1e-12)
    np.testing.assert_allclose(seen.obs, step.obs * look, rtol=0, atol=1e-12)
    np.testing.assert_allclose(seen.reward, step.reward, rtol=0, atol=1e-12)
    turn = 0.7
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    turned = np.concatenate([states[:, :4] + [turn, 0, 0, 0], states[:, 4:] @ rotation.T], axis=1)
    (rotated, _), seen = stepper()(turned, times, actions)
    np.testing.assert_allclose(rotated[:, :4], after[:, :4] + [turn, 0, 0, 0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(seen.obs[:, 6:], step.obs[:, 6:] @ rotation.T, rtol=0, atol=1e-12)
    np.testing.assert_allclose(seen.reward, step.reward, rtol=0, atol=1e-12)


def computed_torque(obs: Any) -> Any:
    """Feedback linearisation towards the nearer of the two postures that reach the target."""
    cos_1, cos_2, sin_1, sin_2, spin_1, spin_2, *_ = obs
    angles, spins = jnp.arctan2(obs[2:4], obs[:2]), obs[4:6]
    x = obs[6] + cos_1 + cos_1 * cos_2 - sin_1 * sin_2
    y = obs[7] + sin_1 + sin_1 * cos_2 + cos_1 * sin_2
    bend = 2 * jnp.arccos(jnp.clip(jnp.hypot(x, y) / 2, 0, 1))
    postures = jnp.stack([jnp.stack([jnp.arctan2(y, x) - side * bend / 2, side * bend]) for side in (1, -1)])
    away = postures - angles[None]
    away -= 2 * jnp.pi * jnp.round(away / (2 * jnp.pi))
    wanted = 30 * away[jnp.argmin((away**2).sum(axis=1))] - 10 * spins
    mass = jnp.array([[5 / 3 + cos_2, 1 / 3 + cos_2 / 2], [1 / 3 + cos_2 / 2, 1 / 3]])
    coriolis = sin_2 * jnp.array([-spin_2 * (spin_1 + spin_2 / 2), spin_1**2 / 2])
    return jnp.clip((mass @ wanted + coriolis + spins) / jnp.array(TORQUES), -1, 1)


@functools.partial(jax.jit, static_argnames="act")
def play(keys: Any, act: Callable[[Any], Any]) -> tuple[Any, Any, Any]:
    """Returns [episodes], the first and the last observations."""
    env = reaching_arm()

    def episode(key: Any) -> Any:
        state, first = env.reset(key)

        def one(carry: Any, _: Any) -> Any:
            state, step = env.step(key, carry[0], act(carry[1]))
            return (state, step.obs), step.reward

        (_, last), rewards = jax.lax.scan(one, (state, first), length=50)
        return rewards.sum(), first, last

    return jax.vmap(episode)(keys)


def test_what_doing_nothing_and_a_good_controller_earn() -> None:
    keys = jax.random.split(jax.random.key(5), 4000)
    idle, first, last = play(keys, lambda obs: jnp.zeros(2))
    np.testing.assert_allclose(last, first, rtol=0, atol=1e-6)  # at rest it stays at rest
    # The mean distance from a place at radius r to a disc of radius 2, over the start's bends of the elbow.
    chord = lambda r, turn: r * math.cos(turn) + math.sqrt(4 - (r * math.sin(turn)) ** 2)  # noqa: E731
    mean = lambda r: quad(lambda turn: chord(r, turn) ** 3 / 3 / (4 * math.pi), 0, 2 * math.pi)[0]  # noqa: E731
    expected = -50 * quad(lambda bend: mean(2 * math.cos(bend / 2)) / 0.1, 0, 0.1)[0]
    assert expected == pytest.approx(-50 * 32 * 2 / (9 * math.pi), rel=1e-3)  # stretched out: at the disc's edge
    idle = np.asarray(idle, np.float64)
    assert abs(idle.mean() - expected) <= Z * idle.std() / math.sqrt(len(idle))

    returns, _, last = play(keys, computed_torque)
    assert float(np.mean(returns)) == pytest.approx(-38, abs=1.5)
    assert np.quantile(np.hypot(last[:, 6], last[:, 7]), 0.9) < 0.02


def test_starts_at_rest_nearly_stretched_with_targets_all_over_the_disc() -> None:
    env = reaching_arm()
    n = 20_000
    (states, times), obs = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(1), n))
    states, obs = np.asarray(states, np.float64), np.asarray(obs)
    assert not times.any()
    assert (np.abs(states[:, :2]) <= 0.1).all()
    assert not states[:, 2:4].any()
    x, y = states[:, 4:].T
    share = (x**2 + y**2) / 4  # uniform over the area: uniform in [0, 1)
    turn = np.arctan2(y, x) / (2 * math.pi) + 0.5
    unit = np.stack([share, turn, *(states[:, :2].T / 0.2 + 0.5)]) - 0.5
    assert (np.abs(unit) <= 0.5 + 1e-6).all()
    assert (np.abs(unit.mean(axis=1)) <= Z * math.sqrt(1 / 12 / n)).all()
    assert (np.abs((unit**2).mean(axis=1) - 1 / 12) <= Z * math.sqrt(1 / 180 / n)).all()
    assert (np.abs((unit @ unit.T / n)[~np.eye(4, dtype=bool)]) <= Z / 12 / math.sqrt(n)).all()
    np.testing.assert_allclose(obs[:, 6:], states[:, 4:] - ends(states)[1], rtol=0, atol=1e-5)
    assert (np.abs(obs) <= env.observation_space.high_array).all()  # type: ignore[union-attr]


@pytest.mark.parametrize("wide", [False, True], ids=["float32", "float64"])
def test_the_contract(wide: bool) -> None:
    with jax.enable_x64(wide):
        env = registry.compiled("ReachingArm-v0")
        assert (env.name, env.time_limit, env.reward_threshold) == ("ReachingArm-v0", 50, None)
        assert env.action_space == Box.of(-1.0, 1.0, (2,))
        real = jnp.float64 if wide else jnp.float32
        (state, time), obs = jax.eval_shape(env.reset, jax.random.key(0))
        # A float64 action must not raise a float32 state: a scan's carry may not change its type.
        action = jax.ShapeDtypeStruct((2,), jnp.float64 if wide else jnp.float32)
        for dtype in {real, jnp.float32}:
            start = jax.ShapeDtypeStruct(state.shape, dtype), time
            (after, _), step = jax.eval_shape(env.step, jax.random.key(0), start, action)
            assert (after.shape, after.dtype, after.weak_type) == ((6,), dtype, False)
            assert (step.obs.shape, step.obs.dtype) == ((8,), dtype)
            assert (step.reward.shape, step.reward.dtype, step.reward.weak_type) == ((), dtype, False)
        assert (state.dtype, obs.shape, obs.dtype) == (real, (8,), real)


def test_float32_is_as_near_as_float32_can_be() -> None:
    states, actions = sample()
    states, actions = states.astype(np.float32), actions.astype(np.float32)
    (after, _), _ = stepper()(states, np.zeros(ROWS, np.int32), actions)
    expected = step_by_numpy(states.astype(np.float64), actions.astype(np.float64), 1.0)
    assert (np.abs(after - expected) <= 1e-5 * np.abs(expected).max(axis=0)).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"friction": -1.0}, "reaching_arm: friction must be a finite number of at least 0: got -1.0"),
        ({"control_cost": math.nan}, "reaching_arm: control_cost must be a finite number of at least 0: got nan"),
        ({"control_cost": "0.1"}, "reaching_arm: control_cost must be a finite number of at least 0: got '0.1'"),
        ({"gravity": 9.8}, "environment 'ReachingArm-v0' does not take gravity; its keyword arguments: friction, control_cost"),
    ],
)
def test_wrong_arguments_are_one_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        make("ReachingArm-v0", env_args=arguments)
    assert str(raised.value) == message
