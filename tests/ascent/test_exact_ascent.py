"""Ascent with exact gradients: vanilla with a line search, natural, and in a trust region, on random MDPs of three states.

The ascents are the library's own. Their batch visits every state and action as often as the policy does, so that its gradient is
∇J to rounding (`test_natural` holds that against the oracle) and no luck is in it. All MDPs climb side by side in one program.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ascent.batches import exact_batch
from policygrad import oracle, policies
from policygrad.ascent import Direction, along, backtracking, natural, steepest
from policygrad.gradients import score_function
from policygrad.oracle.finite import evaluate
from policygrad.oracle.tables import prepare
from policygrad.types import Ascent, Params
from zoo import random_mdp

pytestmark = pytest.mark.usefixtures("x64")

MDPS = [random_mdp(seed, 3, 3, discount=0.8) for seed in range(8)]
MOST = 5_000
Climbing = Callable[[Any, Any], Any]
"""(tables, policy) -> policy."""
EXACT = natural(score_function(), damping=0.0, exact=True)


def value_of(tables: Any, policy: Any) -> Any:
    return evaluate(tables, policy(jnp.arange(3)).probabilities(), None)


def armijo(direction: Direction) -> Climbing:
    """θ + α d, α halved from 1 until J gains at least half of what the slope promises: Armijo's rule."""

    def climb(tables: Any, policy: Any) -> Any:
        way = direction(Params(policy, ()), exact_batch(tables, policy), jnp.zeros(()))
        ahead, slope = way.direction.policy, jnp.sum(way.direction.policy.head.logits * way.gradient.policy.head.logits)
        before = value_of(tables, policy)

        def moved(alpha: Any) -> Any:
            return jax.tree.map(lambda leaf, d: leaf + alpha * d, policy, ahead)

        def too_long(alpha: Any) -> Any:
            return (value_of(tables, moved(alpha)) < before + 0.5 * alpha * slope) & (alpha > 1e-8)

        return moved(jax.lax.while_loop(too_long, lambda alpha: alpha / 2, jnp.ones(())))

    return climb


def by(ascent: Ascent) -> Climbing:
    def climb(tables: Any, policy: Any) -> Any:
        params = Params(policy, ())
        batch = exact_batch(tables, policy)
        moved, _, _ = ascent.step(jax.random.key(0), params, ascent.init(params), batch, jnp.zeros(()))
        return moved.policy

    return climb


NEAR, NEARER = 1e-2, 1e-3
WAYS: dict[str, tuple[Climbing, float]] = {
    "vanilla": (armijo(steepest(score_function())), NEAR),
    "natural": (armijo(EXACT), NEARER),
    "natural, one step size": (by(along(EXACT, learning_rate=1.0)), NEARER),
    "trust region": (by(backtracking(EXACT, 0.02)), NEARER),
}


@cache
def climbed(way: str) -> dict[str, np.ndarray]:
    """J* − J at the start and at the end, the least gain of an iteration, and how many it takes to be near and at the end; [MDPs]."""
    climb, bound = WAYS[way]
    start = policies.tabular_softmax(np.zeros((3, 3)))
    tables = jax.tree.map(lambda *leaves: np.stack(leaves), *(prepare(mdp, start)[0] for mdp in MDPS))
    best = np.array([oracle.best(mdp).value for mdp in MDPS])

    def one(tables: Any, best: Any) -> Any:
        def unfinished(loop: Any) -> Any:
            return (loop[0] < MOST) & (best - loop[2] > bound)

        def iterate(loop: Any) -> Any:
            count, policy, value, worst, near = loop
            policy = climb(tables, policy)
            now = value_of(tables, policy)
            return count + 1, policy, now, jnp.minimum(worst, now - value), near + (best - now > NEAR)

        first = value_of(tables, start)
        loop = jax.lax.while_loop(unfinished, iterate, (jnp.zeros((), int), start, first, jnp.full((), jnp.inf), jnp.ones((), int)))
        count, _, last, worst, near = loop
        return {"first": best - first, "last": best - last, "gain": worst, "near": near, "end": count}

    return jax.tree.map(np.asarray, jax.jit(jax.vmap(one))(tables, best))


@pytest.mark.parametrize("way", WAYS)
def test_the_value_rises_in_every_iteration_and_comes_near_the_best(way: str) -> None:
    told = climbed(way)
    assert (told["first"] > 5 * NEAR).all(), "there is something to climb"
    assert (told["gain"] > 0).all()
    assert (told["last"] <= WAYS[way][1]).all()
    assert (told["last"] > -1e-10).all()
    assert (told["end"] < MOST).all()


def test_the_natural_gradient_takes_fewer_iterations() -> None:
    """With the same line search, to the same distance; and it comes ten times as near before the other gets there."""
    assert (climbed("natural")["near"] < climbed("vanilla")["near"]).all()
    assert (climbed("natural")["end"] < climbed("vanilla")["near"]).all()


def test_a_direction_that_is_not_the_gradients_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """One state's gradient with the wrong sign."""
    wrong = jnp.array([1.0, -1.0, 1.0])[:, None]

    def turned(params: Params, batch: Any, gradient: Params) -> Any:
        return EXACT.turned(params, batch, jax.tree.map(lambda g: wrong * g, gradient))

    monkeypatch.setitem(WAYS, "natural", (by(along(EXACT._replace(turned=turned), learning_rate=1.0)), NEARER))
    told = climbed.__wrapped__("natural")
    assert (told["gain"] <= 0).any()
    assert (told["last"] > NEARER).any()
