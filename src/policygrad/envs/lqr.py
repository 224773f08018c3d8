"""The linear-quadratic regulator: the continuous task whose expected return, and its gradient, are known exactly."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from policygrad.envs import base, checks
from policygrad.errors import UnknownNameError, UsageError
from policygrad.spaces import Box
from policygrad.types import Array, Key, Step

TOLERANCE = 1e-10
"""How far a matrix may be from symmetric, and its least eigenvalue below 0, relative to its largest entry."""
_dot = functools.partial(jnp.matmul, precision="highest")
"""By default a GPU multiplies matrices with 10 bits of precision."""


@dataclass(frozen=True, eq=False, repr=False, init=False)
class LQR(base.Env):
    """A linear system with Gaussian noise, paid by a quadratic cost of where it is and of what is done.

        s_0 ~ N(m, Σ_0),    s_{t+1} = A s_t + B a_t + w_t,    w_t ~ N(0, W),    r_t = −(s_tᵀ Q s_t + a_tᵀ R a_t)

    The reward is that of the state acted in, not of the next one. Nothing terminates; the episode is truncated after `time_limit`
    steps. Observation: s, an unbounded Box (n,); action: an unbounded Box (m,), never clipped. For Gaussian policies with a
    linear mean s and a are jointly Gaussian at every step, so `policygrad.oracle` gives J and ∇J exactly.

    Args:
        A: [n, n], how the state goes on by itself.
        B: [n, m], what an action adds.
        Q: [n, n] symmetric, no eigenvalue below 0: the cost of states.
        R: [m, m] likewise: the cost of actions.
        noise: W, the covariance of w_t, [n, n], symmetric, no eigenvalue below 0; not a standard deviation.
        initial_covariance: Σ_0, [n, n] likewise.
        initial_mean: m, [n]; 0 by default.
        discount: γ in [0, 1], that of the objective; an algorithm's is the recipe's own.
        time_limit: steps after which an episode is truncated; None for none, which algorithms that collect whole episodes refuse.
        name: for messages and records.

    Attributes:
        A, B, Q, R, noise, initial_covariance, initial_mean: read-only float64 copies.
        state_size, action_size: n, m.

    Raises:
        UsageError: a matrix of a wrong shape, not finite, or not symmetric positive semi-definite where it must be.

    Reference: Bertsekas 2017, *Dynamic Programming and Optimal Control*, volume I, section 3.1; Fazel, Ge, Kakade and Mesbahi
        2018, "Global Convergence of Policy Gradient Methods for the Linear Quadratic Regulator", who minimise the cost −J.
    """

    A: np.ndarray
    B: np.ndarray
    Q: np.ndarray
    R: np.ndarray
    noise: np.ndarray
    initial_covariance: np.ndarray
    initial_mean: np.ndarray
    discount: float
    _arguments: dict[str, Any]

    def __init__(
        self,
        *,
        A: Any,
        B: Any,
        Q: Any,
        R: Any,
        noise: Any,
        initial_covariance: Any,
        initial_mean: Any = None,
        discount: float = 1.0,
        time_limit: int | None,
        name: str = "LQR",
    ):
        drift, push = checks.numbers("A", A), checks.numbers("B", B)
        if drift.ndim != 2 or drift.size == 0 or drift.shape[0] != drift.shape[1]:
            raise UsageError(f"A: got shape {drift.shape}; it must be square, [n, n], n the size of the state")
        n = len(drift)
        if push.ndim != 2 or push.size == 0 or len(push) != n:
            raise UsageError(f"B: got shape {push.shape}; it must be [{n}, m], m the size of an action")
        m = push.shape[1]
        arguments = {
            "A": _finite("A", drift),
            "B": _finite("B", push),
            "Q": _semidefinite("Q", Q, n),
            "R": _semidefinite("R", R, m),
            "noise": _semidefinite("noise", noise, n),
            "initial_covariance": _semidefinite("initial_covariance", initial_covariance, n),
            "initial_mean": _vector("initial_mean", np.zeros(n) if initial_mean is None else initial_mean, n),
            "discount": checks.discount(discount),
            "time_limit": checks.time_limit(time_limit),
            "name": name,
        }
        reset, step = _dynamics(arguments)
        env = base.Env(name, Box.of(-np.inf, np.inf, (n,)), Box.of(-np.inf, np.inf, (m,)), reset, step)
        if time_limit is not None:
            env = base.time_limit(env, int(time_limit))
        for key, value in (arguments | vars(env) | {"_arguments": arguments}).items():
            object.__setattr__(self, key, value)

    @property
    def state_size(self) -> int:
        """n."""
        return self.B.shape[0]

    @property
    def action_size(self) -> int:
        """m."""
        return self.B.shape[1]

    def replace(self, **changes: Any) -> LQR:
        """The same system with some of its arguments changed.

        Raises:
            UnknownNameError: no such argument. UsageError: the arguments make no such system.
        """
        for name in changes:
            if name not in self._arguments:
                raise UnknownNameError("argument of LQR", name, self._arguments)
        return LQR(**(self._arguments | changes))

    def __repr__(self) -> str:
        limit = "" if self.time_limit is None else f", time limit {self.time_limit}"
        return f"LQR({self.name}, state ({self.state_size},), action ({self.action_size},), discount {self.discount:g}{limit})"


def lqr(*, time_limit: int | None = 5, discount: float = 1.0) -> LQR:
    """A small fixed system: a cart that drifts away from 0 if left alone, and is pushed through its velocity.

        A = ⎡1.05  0.2⎤   B = ⎡0  ⎤   Q = diag(1, 0.1)   R = 0.1   W = diag(0.01, 0.04)   m = (1, 0)   Σ_0 = diag(0.5, 0.25)
            ⎣0     0.9⎦       ⎣0.5⎦

    Args:
        time_limit: steps in an episode; None for none.
        discount: γ in [0, 1], that of the objective.
    """
    return LQR(
        A=[[1.05, 0.2], [0.0, 0.9]],
        B=[[0.0], [0.5]],
        Q=np.diag([1.0, 0.1]),
        R=[[0.1]],
        noise=np.diag([0.01, 0.04]),
        initial_mean=[1.0, 0.0],
        initial_covariance=np.diag([0.5, 0.25]),
        discount=discount,
        time_limit=time_limit,
        name="LQR-v0",
    )


def _dynamics(arguments: dict[str, Any]) -> Any:
    drift, push, state_cost, action_cost = (arguments[name] for name in "ABQR")
    noise, spread = _root(arguments["noise"]), _root(arguments["initial_covariance"])
    mean = arguments["initial_mean"]

    def reset(key: Key) -> tuple[Array, Array]:
        state = jnp.asarray(mean) + _dot(jnp.asarray(spread), jax.random.normal(key, mean.shape))
        return state, state

    def step(key: Key, state: Array, action: Array) -> tuple[Array, Step]:
        action = action.astype(state.dtype)
        reward = -(_dot(state, _dot(jnp.asarray(state_cost), state)) + _dot(action, _dot(jnp.asarray(action_cost), action)))
        shock = _dot(jnp.asarray(noise), jax.random.normal(key, mean.shape, state.dtype))
        state = _dot(jnp.asarray(drift), state) + _dot(jnp.asarray(push), action) + shock
        return state, Step(state, reward, jnp.zeros((), bool), jnp.zeros((), bool))

    return reset, step


def _root(covariance: np.ndarray) -> np.ndarray:
    """L with L Lᵀ = covariance, also where that is singular and has no Cholesky factor."""
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(np.maximum(values, 0))[None]


# ── checks ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _finite(what: str, array: np.ndarray) -> np.ndarray:
    wrong = np.argwhere(~np.isfinite(array))
    if len(wrong):
        raise UsageError(f"{checks.at(what, wrong[0])}: got {array[tuple(wrong[0])]}; it must be a finite number")
    return checks.frozen(array)


def _vector(what: str, values: Any, size: int) -> np.ndarray:
    vector = checks.numbers(what, values)
    if vector.shape != (size,):
        raise UsageError(f"{what}: got shape {vector.shape}; it must be ({size},)")
    return _finite(what, vector)


def _semidefinite(what: str, values: Any, size: int) -> np.ndarray:
    matrix = checks.numbers(what, values)
    if matrix.shape != (size, size):
        raise UsageError(f"{what}: got shape {matrix.shape}; it must be ({size}, {size})")
    _finite(what, matrix)
    slack = TOLERANCE * np.abs(matrix).max()
    uneven = np.argwhere(np.abs(matrix - matrix.T) > slack)
    if len(uneven):
        i, j = uneven[0]
        raise UsageError(f"{what}[{i}, {j}]: got {matrix[i, j]:g} and {matrix[j, i]:g} across the diagonal; it must be symmetric")
    matrix = (matrix + matrix.T) / 2
    least = float(np.linalg.eigvalsh(matrix)[0])
    if least < -slack:
        raise UsageError(f"{what}: has the eigenvalue {least:g}; it must be positive semi-definite, with none below 0")
    return checks.frozen(matrix)
