"""E[Ψ_t] and E[targets_t] over every way in which a rollout can go, against recursions in plain NumPy.

Three states, two actions, two outcomes each, a time limit of 3 and a rollout of 5 steps that goes on through resets: steps
that terminate, are truncated, both at once, and neither, and an episode that the rollout's end cuts. Not a line of the
recursions is shared with the package.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np

from gradients.trajectories import Trajectories, enumerate_all, random_mdp, softmax
from policygrad.types import Rollout

ROWS, GAMMA, LAMBDA = 5, 0.9, 0.7
WORLD = random_mdp(0, states=3, actions=2, outcomes=2, limit=3)
STATES, ACTIONS, OUTCOMES = WORLD.chance.shape
LOGITS = np.random.default_rng(1).normal(size=(3, 2))
PI = softmax(LOGITS)
BEHAVIOUR = softmax(np.random.default_rng(4).normal(size=(3, 2)))  # another policy, whose data it may be
RATIOS = PI / BEHAVIOUR
CRITIC = np.random.default_rng(2).normal(size=3)  # an arbitrary one
RHO_CLIP, C_CLIP = 1.1, 0.8

Expected = tuple[np.ndarray, np.ndarray]  # of Ψ given t, time, s, a: [ROWS, limit, S, A]; of the targets given t, time, s

# ── the recursions ───────────────────────────────────────────────────────────────────────────────────────────────────


def backwards(step: Callable[[int, int, float | None, bool], float]) -> np.ndarray:
    """E_t(k, s, a) = Σ_o p(o) [r + step(s, s', E_{t+1}(k + 1, s') under π, or None at any end, whether the task ended)]."""
    E = np.zeros((ROWS + 1, WORLD.limit + 1, STATES, ACTIONS))
    for t in reversed(range(ROWS)):
        for k, s, a, o in np.ndindex(WORLD.limit, STATES, ACTIONS, OUTCOMES):
            after, ends = int(WORLD.to[s, a, o]), bool(WORLD.ends[s, a, o])
            cut = ends or k + 1 == WORLD.limit or t + 1 == ROWS
            later = None if cut else float(PI[after] @ E[t + 1, k + 1, after])
            E[t, k, s, a] += WORLD.chance[s, a, o] * (WORLD.reward[s, a, o] + step(s, after, later, ends))
    return E[:ROWS, : WORLD.limit]


def with_targets(psi: np.ndarray, critic: np.ndarray) -> Expected:
    """What a critic should say of a state is its own value and what π's actions add to it."""
    return psi, critic + (PI * psi).sum(-1)


def mixture(critic: np.ndarray, trace: float) -> Expected:
    """Of `gae`: δ and γλ of what follows it."""

    def step(s: int, after: int, later: float | None, ends: bool) -> float:
        bootstrap = 0.0 if ends else GAMMA * critic[after]
        return bootstrap - critic[s] + (0.0 if later is None else GAMMA * trace * later)

    return with_targets(backwards(step), critic)


def n_steps(critic: np.ndarray, n: int) -> Expected:
    """Of `n_step`: the return of n steps from that of n − 1."""
    returns = None
    for _ in range(n):
        shorter = returns
        returns = np.zeros((ROWS, WORLD.limit, STATES, ACTIONS))
        for t, k, s, a, o in np.ndindex(ROWS, WORLD.limit, STATES, ACTIONS, OUTCOMES):
            after = WORLD.to[s, a, o]
            worth = critic[after]
            if shorter is not None and k + 1 < WORLD.limit and t + 1 < ROWS:
                worth = PI[after] @ shorter[t + 1, k + 1, after]
            returns[t, k, s, a] += WORLD.chance[s, a, o] * (WORLD.reward[s, a, o] + (0.0 if WORLD.ends[s, a, o] else GAMMA * worth))
    assert returns is not None
    return with_targets(returns - critic[:, None], critic)


def clipped(critic: np.ndarray, trace: float, rho_clip: float, c_clip: float, behaviour: np.ndarray = BEHAVIOUR) -> Expected:
    """Of `vtrace`: X_t(k, s) = E_b[v_t − V(s)], and Ψ from the X that follows."""
    rho, c = np.minimum(rho_clip, PI / behaviour), np.minimum(c_clip, PI / behaviour)
    X = np.zeros((ROWS + 1, WORLD.limit + 1, STATES))
    psi = np.zeros((ROWS, WORLD.limit, STATES, ACTIONS))
    for t in reversed(range(ROWS)):
        for k, s, a, o in np.ndindex(WORLD.limit, STATES, ACTIONS, OUTCOMES):
            after, ends = int(WORLD.to[s, a, o]), bool(WORLD.ends[s, a, o])
            error = WORLD.reward[s, a, o] + (0.0 if ends else GAMMA * critic[after]) - critic[s]
            later = 0.0 if ends or k + 1 == WORLD.limit or t + 1 == ROWS else X[t + 1, k + 1, after]
            psi[t, k, s, a] += WORLD.chance[s, a, o] * (error + GAMMA * later)
            X[t, k, s] += behaviour[s, a] * WORLD.chance[s, a, o] * (rho[s, a] * error + GAMMA * trace * c[s, a] * later)
    return psi, critic + X[:ROWS, : WORLD.limit]


def totals(critic: np.ndarray) -> Expected:
    """Of `total_return`: what the episode has brought so far, from a recursion forwards, and γ^k of what is to come."""
    mass = np.zeros((ROWS + 1, WORLD.limit + 1, STATES))
    earned = np.zeros_like(mass)  # E[Σ_{j<k} γ^j r_j; at row t, k steps old, in s]
    mass[0, 0] = WORLD.start
    for t in range(ROWS):
        for k, s, a, o in np.ndindex(WORLD.limit, STATES, ACTIONS, OUTCOMES):
            p = PI[s, a] * WORLD.chance[s, a, o]
            if WORLD.ends[s, a, o] or k + 1 == WORLD.limit:
                mass[t + 1, 0] += mass[t, k, s] * p * WORLD.start
            else:
                after = WORLD.to[s, a, o]
                mass[t + 1, k + 1, after] += mass[t, k, s] * p
                earned[t + 1, k + 1, after] += (earned[t, k, s] + GAMMA**k * WORLD.reward[s, a, o] * mass[t, k, s]) * p
    mass, earned = mass[:ROWS, : WORLD.limit], earned[:ROWS, : WORLD.limit]
    past = earned / np.where(mass > 0, mass, np.nan)
    to_go, targets = mixture(critic, 1.0)
    to_go = to_go + critic[:, None]
    return past[..., None] + GAMMA ** np.arange(WORLD.limit)[:, None, None] * to_go - critic[:, None], targets


# ── the cases ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Case(NamedTuple):
    """An estimator, how it is called, and what to expect of it with a critic."""

    function: str  # its name in `policygrad.advantages`
    settings: dict[str, Any]
    expected: Callable[[np.ndarray], Expected]
    corrected: bool = False  # on data of `BEHAVIOUR`, with ratios
    advantage: bool = True  # with the true critic it is A^π


def _both(name: str, function: str, settings: dict[str, Any], expected: Callable[[np.ndarray], Expected]) -> dict[str, Case]:
    return {name: Case(function, settings, expected), f"{name}, ratios": Case(function, settings, expected, corrected=True)}


def _vtrace(trace: float, rho_clip: float, c_clip: float) -> dict[str, Any]:
    return {"trace": trace, "rho_clip": rho_clip, "c_clip": c_clip}


CASES: dict[str, Case] = {
    "total_return": Case("total_return", {}, totals, advantage=False),
    **_both("reward_to_go", "reward_to_go", {}, lambda critic: mixture(critic, 1.0)),
    **_both("td", "td", {}, lambda critic: mixture(critic, 0.0)),
    **{
        name: case
        for n in (1, 2, 3, 7)
        for name, case in _both(f"n_step({n})", "n_step", {"n": n}, lambda critic, n=n: n_steps(critic, n)).items()
    },
    **{
        name: case
        for trace in (0.0, LAMBDA, 1.0)
        for name, case in _both(f"gae({trace})", "gae", {"trace": trace}, lambda critic, trace=trace: mixture(critic, trace)).items()
    },
    "vtrace": Case("vtrace", _vtrace(LAMBDA, 1.0, 1.0), lambda critic: clipped(critic, LAMBDA, 1.0, 1.0, PI)),
    "vtrace, ratios": Case(
        "vtrace", _vtrace(LAMBDA, np.inf, np.inf), lambda critic: clipped(critic, LAMBDA, np.inf, np.inf), corrected=True
    ),
    "vtrace, ratios clipped": Case(
        "vtrace",
        _vtrace(LAMBDA, RHO_CLIP, C_CLIP),
        lambda critic: clipped(critic, LAMBDA, RHO_CLIP, C_CLIP),
        corrected=True,
        advantage=False,
    ),
}

# ── the expectation ──────────────────────────────────────────────────────────────────────────────────────────────────


@lru_cache
def trajectories(behaviour: bool = False) -> Trajectories:
    """All rollouts of π, or of the behaviour policy."""
    made = enumerate_all(WORLD, BEHAVIOUR if behaviour else PI, ROWS, resets=True)
    assert abs(made.probability.sum() - 1) < 1e-12
    ends = {(a, b) for a, b in zip(made.rollout.terminated.flat, made.rollout.truncated.flat, strict=True)}
    assert ends == {(a, b) for a in (False, True) for b in (False, True)}
    return made


def inputs(case: Case, critic: np.ndarray) -> dict[str, np.ndarray]:
    """What the estimator is called with."""
    rollout = trajectories(case.corrected).rollout
    return arrays_of(rollout, critic[rollout.obs], critic[rollout.next_obs], case.corrected)


def arrays_of(rollout: Rollout, values: np.ndarray, next_values: np.ndarray, corrected: bool) -> dict[str, np.ndarray]:
    """A rollout as an estimator's arguments."""
    arrays = {
        "rewards": rollout.reward,
        "values": values,
        "next_values": next_values,
        "terminated": rollout.terminated,
        "truncated": rollout.truncated,
    }
    return {**arrays, "ratios": RATIOS[rollout.obs, rollout.action]} if corrected else arrays


def mean_given(x: np.ndarray, made: Trajectories, *, action: bool) -> np.ndarray:
    """E[x_t | t, time since the reset, s_t (, a_t)], [ROWS, limit, S (, A)]; NaN where that cannot happen."""
    assert np.isfinite(x).all()
    where = (np.arange(ROWS)[:, None], made.rollout.time, made.rollout.obs, *((made.rollout.action,) if action else ()))
    shape = (ROWS, WORLD.limit, STATES, ACTIONS)[: 4 if action else 3]
    sums, mass = np.zeros((2, *shape))
    np.add.at(sums, where, x * made.probability)
    np.add.at(mass, where, np.broadcast_to(made.probability, x.shape))
    return sums / np.where(mass > 0, mass, np.nan)


@lru_cache
def compiled(module: Any, function: str, settings: tuple[tuple[str, Any], ...]) -> Callable[[dict[str, np.ndarray]], Any]:
    """The estimator of a module with its settings bound, jitted: inputs -> (Ψ, targets)."""
    return jax.jit(lambda x: getattr(module, function)(**x, **dict(settings), discount=GAMMA))


def call(module: Any, case: Case, x: dict[str, np.ndarray]) -> Any:
    """(Ψ, targets) of the inputs; call it in float64."""
    return compiled(module, case.function, tuple(case.settings.items()))(x)


def estimate(module: Any, case: Case, critic: np.ndarray) -> Expected:
    """E[Ψ_t | …] and E[targets_t | …] of the module's own arrays."""
    psi, targets = call(module, case, inputs(case, critic))
    made = trajectories(case.corrected)
    return mean_given(np.asarray(psi), made, action=True), mean_given(np.asarray(targets), made, action=False)


def worst_error(got: np.ndarray, wanted: np.ndarray) -> float:
    """The largest |difference| where there is anything to compare."""
    possible = np.isfinite(got)
    assert possible.sum() > 0.5 * got.size
    return float(np.abs(got - np.broadcast_to(wanted, got.shape))[possible].max())


def errors(module: Any, case: Case, critic: np.ndarray = CRITIC) -> tuple[float, float]:
    """How far the module's Ψ and targets are from the recursion, at worst."""
    psi, targets = (worst_error(*pair) for pair in zip(estimate(module, case, critic), case.expected(critic), strict=True))
    return psi, targets
