"""Classic control: five of Gymnasium's tasks as pure functions, so that a whole training run compiles into one program.

    name                      observation              action            limit  threshold   what is asked
    CartPole-v1               x, ẋ, θ, θ̇         (4,)  Discrete(2)         500     475       keep the pole up
    Acrobot-v1                cos, sin of θ₁, θ₂,
                              θ̇₁, θ̇₂            (6,)  Discrete(3)         500    −100       swing the tip above the line
    MountainCar-v0            x, ẋ               (2,)  Discrete(3)         200    −110       rock the car up the hill
    MountainCarContinuous-v0  x, ẋ               (2,)  Box(−1, 1, (1,))    999      90       the same, with little force
    Pendulum-v1               cos θ, sin θ, θ̇    (3,)  Box(−2, 2, (1,))    200      none     swing up and hold

Each is a twin of the environment of that name in Gymnasium 1.4: same spaces, initial distribution, dynamics, rewards, ends,
time limit and reward threshold. `tests/envs/test_classic_control.py` steps both from the same thousand states (bounds,
thresholds and wrapped angles among them) and asks for 1e-10 in float64.

The state is one array, and the dtype is the state's: float32 in training, float64 under `jax.enable_x64(True)`. A derivative
is stacked once and added to the whole state, because XLA's loops on a CPU pay per instruction and per array (64 environments
in a scan: 2.8 µs a step so, 3.1 µs with one scalar per coordinate; with auto-reset 5.3 and 6.0).

Box actions arrive clipped into their box. Where Gymnasium charges for the unclipped action (MountainCarContinuous), the
twin charges for the clipped one; the two agree on every action inside the box.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from policygrad.envs.base import Env, time_limit
from policygrad.spaces import Box, Discrete
from policygrad.types import Array, Key, Step

TURN = 2 * math.pi


def cartpole(*, sutton_barto_reward: bool = False) -> Env:
    """CartPole-v1: push a cart left or right so that the pole hinged on it stays up.

    With the cart at x [m] and the pole at θ [rad, 0 is upright], the force F = ±10 N, M = 1.1 kg the mass of both, m = 0.1 kg
    that of the pole, ℓ = 0.5 m half its length and g = 9.8 m/s²:

        f = (F + m ℓ θ̇² sin θ) / M
        θ̈ = (g sin θ − f cos θ) / (ℓ (4/3 − m cos² θ / M))
        ẍ = f − m ℓ θ̈ cos θ / M

    integrated by explicit Euler steps of 0.02 s.

    Observation and state: (x, ẋ, θ, θ̇), shape (4,), the velocities unbounded.
    Action: 0 pushes left, 1 pushes right.
    Start: every coordinate uniform in [−0.05, 0.05).
    Reward: 1 a step, the last one included, so that the return is the length of the episode (1 to 500).
    End: terminated where |x| > 2.4 m or |θ| > 12°; truncated after 500 steps.

    Args:
        sutton_barto_reward: the reward of the book instead, −1 at the step that terminates and 0 otherwise; the threshold is
            then 0, "never falls" (Gymnasium's registry keeps 475, which no episode could reach).

    Reference: Barto, Sutton and Anderson 1983, "Neuronlike adaptive elements that can solve difficult learning control
        problems"; the equations as put right by Florian 2007, without friction.
    """
    gravity, mass, pole_mass, length = 9.8, 1.1, 0.1, 0.5
    force, dt = 10.0, 0.02
    x_limit, angle_limit = 2.4, math.pi / 15

    def reset(key: Key) -> tuple[Array, Array]:
        state = jax.random.uniform(key, (4,), minval=-0.05, maxval=0.05)
        return state, state

    def step(key: Key, state: Array, action: Array) -> tuple[Array, Step]:
        del key  # nothing is random after the reset
        speed, angle, spin = state[1], state[2], state[3]
        sin, cos = jnp.sin(angle), jnp.cos(angle)
        pull = (jnp.where(action == 1, force, -force) + pole_mass * length * spin * spin * sin) / mass
        angle_acc = (gravity * sin - pull * cos) / (length * (4 / 3 - pole_mass / mass * cos * cos))
        acc = pull - pole_mass * length / mass * angle_acc * cos
        state = state + dt * jnp.stack([speed, acc, spin, angle_acc])
        fallen = (jnp.abs(state[0]) > x_limit) | (jnp.abs(state[2]) > angle_limit)
        reward = -fallen.astype(state.dtype) if sutton_barto_reward else jnp.ones((), state.dtype)
        return state, Step(state, reward, fallen, jnp.zeros((), bool))

    high = np.array([2 * x_limit, np.inf, 2 * angle_limit, np.inf], np.float32)
    env = Env("CartPole-v1", Box.of(-high, high), Discrete(2), reset, step, reward_threshold=0.0 if sutton_barto_reward else 475.0)
    return time_limit(env, 500)


def acrobot() -> Env:
    """Acrobot-v1: two links hang from a fixed joint, a motor drives only the joint between them; lift the tip high.

    θ₁ [rad] is the angle of the first link from hanging down, θ₂ that of the second against the first, u ∈ {−1, 0, 1} N·m the
    torque. Both links have mass 1 kg, length 1 m, their centre in the middle and a moment of inertia of 1 kg·m²; g = 9.8.
    With s₂, c₂ the sine and cosine of θ₂:

        ⎡3.5 + c₂       1.25 + c₂/2⎤ ⎡θ̈₁⎤   ⎡ s₂ θ̇₂ (θ̇₁ + θ̇₂/2) − 1.5 g sin θ₁ − φ ⎤
        ⎣1.25 + c₂/2    1.25       ⎦ ⎣θ̈₂⎦ = ⎣ u − s₂ θ̇₁²/2 − φ                       ⎦,    φ = 0.5 g sin(θ₁ + θ₂)

    integrated by one Runge-Kutta step of fourth order over 0.2 s. Angles are then wrapped into [−π, π], |θ̇₁| is bounded by
    4π and |θ̇₂| by 9π rad/s.

    State: (θ₁, θ₂, θ̇₁, θ̇₂), shape (4,). Observation: (cos θ₁, sin θ₁, cos θ₂, sin θ₂, θ̇₁, θ̇₂), shape (6,).
    Action: 0, 1, 2 for a torque of −1, 0, 1.
    Start: every coordinate of the state uniform in [−0.1, 0.1).
    Reward: −1 a step, 0 at the step that terminates; the return is between −500 and 0.
    End: terminated where the tip is more than one link's length above the joint, −cos θ₁ − cos(θ₁ + θ₂) > 1; truncated
        after 500 steps.

    Reference: Sutton 1996, "Generalization in reinforcement learning"; Sutton and Barto, section 11.3 of the first edition.
        The equations are the book's, as in Gymnasium (the paper of 1996 lacks the term s₂ θ̇₁²/2).
    """
    gravity, dt = 9.8, 0.2
    max_spin = np.array([4 * math.pi, 9 * math.pi])

    def derivative(state: Array, torque: Array) -> Array:
        first, second, first_spin, second_spin = state[0], state[1], state[2], state[3]
        sin, cos = jnp.sin(second), jnp.cos(second)
        # Mass matrix [[a, b], [b, c]], solved by Cramer's rule.
        a, b, c = 3.5 + cos, 1.25 + 0.5 * cos, 1.25
        weight = 0.5 * gravity * jnp.sin(first + second)
        right_1 = sin * second_spin * (first_spin + 0.5 * second_spin) - 1.5 * gravity * jnp.sin(first) - weight
        right_2 = torque - 0.5 * sin * first_spin * first_spin - weight
        determinant = a * c - b * b
        return jnp.stack([first_spin, second_spin, (c * right_1 - b * right_2) / determinant, (a * right_2 - b * right_1) / determinant])

    def observe(state: Array) -> Array:
        cos, sin = jnp.cos(state[:2]), jnp.sin(state[:2])
        return jnp.stack([cos[0], sin[0], cos[1], sin[1], state[2], state[3]])

    def reset(key: Key) -> tuple[Array, Array]:
        state = jax.random.uniform(key, (4,), minval=-0.1, maxval=0.1)
        return state, observe(state)

    def step(key: Key, state: Array, action: Array) -> tuple[Array, Step]:
        del key
        torque = (action - 1).astype(state.dtype)
        state = runge_kutta(lambda s: derivative(s, torque), state, dt)
        bound = max_spin.astype(state.dtype)
        state = jnp.concatenate([_wrap(state[:2]), jnp.clip(state[2:], -bound, bound)])
        obs = observe(state)
        height = -obs[0] - (obs[0] * obs[2] - obs[1] * obs[3])  # −cos θ₁ − cos(θ₁ + θ₂), without another cosine
        up = height > 1.0
        return state, Step(obs, up.astype(state.dtype) - 1, up, jnp.zeros((), bool))

    high = np.array([1, 1, 1, 1, *max_spin], np.float32)
    return time_limit(Env("Acrobot-v1", Box.of(-high, high), Discrete(3), reset, step, reward_threshold=-100.0), 500)


def mountain_car(*, goal_velocity: float = 0.0) -> Env:
    """MountainCar-v0: an engine too weak for the hill; the car must first roll back to gain speed.

        ẋ ← ẋ + 0.001 (a − 1) − 0.0025 cos 3x,  clipped into [−0.07, 0.07]
        x ← x + ẋ,                              clipped into [−1.2, 0.6]

    in units of position and of position per step. The wall at x = −1.2 stops the car: there a negative ẋ becomes 0.

    Observation and state: (x, ẋ), shape (2,).
    Action: 0, 1, 2 push left, not at all, right.
    Start: x uniform in [−0.6, −0.4), ẋ = 0.
    Reward: −1 a step, the last one included; the return is between −200 and −1.
    End: terminated where x ≥ 0.5 and ẋ ≥ `goal_velocity`; truncated after 200 steps.

    Args:
        goal_velocity: the speed that counts as arriving; 0 accepts any.

    Reference: Moore 1990, "Efficient memory-based learning for robot control"; numbers of Sutton and Barto, example 10.1.
    """

    def step(key: Key, state: Array, action: Array) -> tuple[Array, Step]:
        del key
        state, arrived = _roll(state, 0.001 * (action - 1), 0.5, goal_velocity)
        return state, Step(state, -jnp.ones((), state.dtype), arrived, jnp.zeros((), bool))

    env = Env("MountainCar-v0", _valley(), Discrete(3), _start_in_valley, step, reward_threshold=-110.0)
    return time_limit(env, 200)


def mountain_car_continuous(*, goal_velocity: float = 0.0) -> Env:
    """MountainCarContinuous-v0: the same hill; the push is a number and costs its square.

        ẋ ← ẋ + 0.0015 a − 0.0025 cos 3x,  clipped into [−0.07, 0.07]
        x ← x + ẋ,                         clipped into [−1.2, 0.6]

    with the wall of `mountain_car`. Standing still costs nothing, which is why exploring policies often learn to.

    Observation and state: (x, ẋ), shape (2,).
    Action: a ∈ [−1, 1], shape (1,).
    Start: x uniform in [−0.6, −0.4), ẋ = 0.
    Reward: −0.1 a² a step, and 100 more at the step that arrives.
    End: terminated where x ≥ 0.45 and ẋ ≥ `goal_velocity`; truncated after 999 steps.

    Gymnasium rounds this state to float32 at every step; the twin keeps the dtype that it was given.

    Args:
        goal_velocity: the speed that counts as arriving; 0 accepts any.

    Reference: as `mountain_car`; the continuous version is A. de Broissia's.
    """

    def step(key: Key, state: Array, action: Array) -> tuple[Array, Step]:
        del key
        push = action[0].astype(state.dtype)
        state, arrived = _roll(state, 0.0015 * push, 0.45, goal_velocity)
        return state, Step(state, 100.0 * arrived.astype(state.dtype) - 0.1 * push * push, arrived, jnp.zeros((), bool))

    env = Env("MountainCarContinuous-v0", _valley(), Box.of(-1.0, 1.0, (1,)), _start_in_valley, step, reward_threshold=90.0)
    return time_limit(env, 999)


def pendulum(*, g: float = 10.0) -> Env:
    """Pendulum-v1: swing a rod up with a torque too weak to lift it at once, and hold it there.

    θ [rad] is the angle from upright, u ∈ [−2, 2] N·m the torque, for a rod of mass 1 kg and length 1 m:

        θ̇ ← θ̇ + 0.05 (3/2 g sin θ + 3 u),  clipped into [−8, 8] rad/s
        θ ← θ + 0.05 θ̇

    (semi-implicit Euler, 0.05 s). θ is not wrapped in the state: it counts the turns.

    State: (θ, θ̇), shape (2,). Observation: (cos θ, sin θ, θ̇), shape (3,).
    Action: u, shape (1,).
    Start: θ uniform in [−π, π), θ̇ uniform in [−1, 1).
    Reward: −(θ² + 0.1 θ̇² + 0.001 u²) of the state *before* the step, with θ wrapped into [−π, π]; at least −16.2736.
    End: never terminated; truncated after 200 steps. There is no reward threshold.

    Args:
        g: the acceleration of gravity, m/s².

    Reference: no paper; Gymnasium's documentation. The same swing-up: Doya 2000, "Reinforcement learning in continuous time
        and space".
    """
    max_speed, max_torque, dt = 8.0, 2.0, 0.05

    def observe(state: Array) -> Array:
        return jnp.stack([jnp.cos(state[0]), jnp.sin(state[0]), state[1]])

    def reset(key: Key) -> tuple[Array, Array]:
        unit = jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0)
        state = unit * jnp.array([math.pi, 1.0], unit.dtype)
        return state, observe(state)

    def step(key: Key, state: Array, action: Array) -> tuple[Array, Step]:
        del key
        angle, speed, torque = state[0], state[1], action[0].astype(state.dtype)
        reward = -(_wrap(angle) ** 2 + 0.1 * speed * speed + 0.001 * torque * torque)
        speed = jnp.clip(speed + dt * (1.5 * g * jnp.sin(angle) + 3.0 * torque), -max_speed, max_speed)
        state = jnp.stack([angle + dt * speed, speed])
        return state, Step(observe(state), reward, jnp.zeros((), bool), jnp.zeros((), bool))

    high = np.array([1, 1, max_speed], np.float32)
    return time_limit(Env("Pendulum-v1", Box.of(-high, high), Box.of(-max_torque, max_torque, (1,)), reset, step), 200)


def _wrap(angle: Array) -> Array:
    """The same angle [rad] in [−π, π]."""
    return angle - TURN * jnp.round(angle / TURN)


def runge_kutta(derivative: Callable[[Array], Array], state: Array, dt: float) -> Array:
    """One step of the classical fourth-order method over `dt` seconds."""
    k1 = derivative(state)
    k2 = derivative(state + dt / 2 * k1)
    k3 = derivative(state + dt / 2 * k2)
    k4 = derivative(state + dt * k3)
    return state + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


_LEFT_WALL, _RIGHT_END, _MAX_SPEED = -1.2, 0.6, 0.07


def _valley() -> Box:
    """The observation space of both mountain cars."""
    return Box.of(np.array([_LEFT_WALL, -_MAX_SPEED], np.float32), np.array([_RIGHT_END, _MAX_SPEED], np.float32))


def _start_in_valley(key: Key) -> tuple[Array, Array]:
    """x uniform in [−0.6, −0.4), at rest."""
    position = jax.random.uniform(key, minval=-0.6, maxval=-0.4)
    state = jnp.stack([position, jnp.zeros_like(position)])
    return state, state


def _roll(state: Array, push: Array, goal: float, goal_velocity: float) -> tuple[Array, Array]:
    """One step of the car in its valley: the next state (2,) and whether it arrived at `goal`."""
    position, velocity = state[0], state[1]
    velocity = jnp.clip(velocity + (push - 0.0025 * jnp.cos(3 * position)), -_MAX_SPEED, _MAX_SPEED)
    position = jnp.clip(position + velocity, _LEFT_WALL, _RIGHT_END)
    velocity = jnp.where(position <= _LEFT_WALL, jnp.maximum(velocity, 0.0), velocity)
    return jnp.stack([position, velocity]), (position >= goal) & (velocity >= goal_velocity)
