"""A planar arm of two links, driven by a motor in each joint: the smallest robot whose joints push each other about."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from policygrad.envs import checks
from policygrad.envs.base import Env, time_limit
from policygrad.envs.classic_control import runge_kutta
from policygrad.spaces import Box
from policygrad.types import Array, Key, Step

TORQUES = (10.0, 4.0)
"""What the motors of the shoulder and of the elbow can do, N·m."""


def reaching_arm(*, friction: float = 1.0, control_cost: float = 0.05) -> Env:
    """Bring the fingertip of an arm to a target and hold it there.

    The arm lies in a horizontal plane, so gravity does no work. θ₁ [rad] is the angle of the first link, θ₂ that of the second against
    the first. Both links are uniform rods of 1 m and 1 kg; the motors push with u = (10 a₁, 4 a₂) N·m against a friction of b N·m·s/rad.
    With s₂, c₂ the sine and cosine of θ₂, Lagrange's equations are

        ⎡5/3 + c₂     1/3 + c₂/2⎤ ⎡θ̈₁⎤   ⎡ u₁ − b θ̇₁ + s₂ θ̇₂ (θ̇₁ + θ̇₂/2) ⎤
        ⎣1/3 + c₂/2   1/3       ⎦ ⎣θ̈₂⎦ = ⎣ u₂ − b θ̇₂ − s₂ θ̇₁²/2          ⎦

    integrated by one Runge-Kutta step of fourth order over 0.05 s. Angles are not wrapped: they count the turns. The fingertip is at

        p = (cos θ₁ + cos(θ₁ + θ₂), sin θ₁ + sin(θ₁ + θ₂))

    State: (θ₁, θ₂, θ̇₁, θ̇₂, g_x, g_y), shape (6,), g the target [m].
    Observation: (cos θ₁, cos θ₂, sin θ₁, sin θ₂, θ̇₁, θ̇₂, g_x − p_x, g_y − p_y), shape (8,), the velocities unbounded.
    Action: a ∈ [−1, 1]², shape (2,).
    Start: both angles uniform in [−0.1, 0.1), at rest; g uniform over the disc of radius 2 m, all of which can be reached.
    Reward: −|g − p| − control_cost |a|², with p after the step.
    End: never terminated; truncated after 50 steps, 2.5 s. There is no reward threshold: an arm that never moves earns
        −113 on average, a computed-torque controller −38.

    Args:
        friction: b ≥ 0.
        control_cost: the price of |a|² = 1, ≥ 0.

    Raises:
        UsageError: one of them is negative or not finite.

    Reference: Murray, Li and Sastry 1994, *A Mathematical Introduction to Robotic Manipulation*, chapter 4, for the equations. The task
        is that of Gymnasium's Reacher, whose arm is a tenth as long and which shows the target's place as well.
    """
    checks.at_least_zero("reaching_arm", "friction", friction)
    checks.at_least_zero("reaching_arm", "control_cost", control_cost)
    dt, reach = 0.05, 2.0

    def derivative(joints: Array, torque: Array) -> Array:
        second, spin_1, spin_2 = joints[1], joints[2], joints[3]
        sin, cos = jnp.sin(second), jnp.cos(second)
        # Mass matrix [[a, b], [b, c]], solved by Cramer's rule; its determinant is at least 7/36.
        a, b, c = 5 / 3 + cos, 1 / 3 + 0.5 * cos, 1 / 3
        right_1 = torque[0] - friction * spin_1 + sin * spin_2 * (spin_1 + 0.5 * spin_2)
        right_2 = torque[1] - friction * spin_2 - 0.5 * sin * spin_1 * spin_1
        determinant = a * c - b * b
        return jnp.stack([spin_1, spin_2, (c * right_1 - b * right_2) / determinant, (a * right_2 - b * right_1) / determinant])

    def observe(state: Array) -> Array:
        cos, sin = jnp.cos(state[:2]), jnp.sin(state[:2])
        # The second link's direction is θ₁ + θ₂: by the addition theorems, without another cosine.
        tip = jnp.stack([cos[0] + cos[0] * cos[1] - sin[0] * sin[1], sin[0] + sin[0] * cos[1] + cos[0] * sin[1]])
        return jnp.concatenate([cos, sin, state[2:4], state[4:] - tip])

    def reset(key: Key) -> tuple[Array, Array]:
        joints, place = jax.random.split(key)
        angles = jax.random.uniform(joints, (2,), minval=-0.1, maxval=0.1)
        area, turn = jax.random.uniform(place, (2,))
        radius, turn = reach * jnp.sqrt(area), 2 * math.pi * turn  # uniform over the area, not over the radius
        target = jnp.stack([radius * jnp.cos(turn), radius * jnp.sin(turn)])
        state = jnp.concatenate([angles, jnp.zeros_like(angles), target])
        return state, observe(state)

    def step(key: Key, state: Array, action: Array) -> tuple[Array, Step]:
        del key  # nothing is random after the reset
        action = action.astype(state.dtype)
        torque = action * jnp.asarray(TORQUES, state.dtype)
        joints = runge_kutta(lambda joints: derivative(joints, torque), state[:4], dt)
        state = jnp.concatenate([joints, state[4:]])
        obs = observe(state)
        miss = jnp.sqrt((obs[6:] ** 2).sum())
        reward = -miss - control_cost * (action**2).sum()
        return state, Step(obs, reward, jnp.zeros((), bool), jnp.zeros((), bool))

    high = np.array([1, 1, 1, 1, np.inf, np.inf, 2 * reach, 2 * reach], np.float32)
    return time_limit(Env("ReachingArm-v0", Box.of(-high, high), Box.of(-1.0, 1.0, (2,)), reset, step), 50)
