"""Bugs of the field, planted one at a time in the package's own source: the exact check of the expectation sees each of them."""

from __future__ import annotations

import inspect
from functools import cache
from types import ModuleType
from typing import NamedTuple

import pytest

import exact_advantages as exact
from policygrad import advantages

EXACT, SEEN = 1e-10, 1e-3
SOURCE = inspect.getsource(advantages)
pytestmark = pytest.mark.usefixtures("x64")


class Mutant(NamedTuple):
    """A piece of the source, what to put in its place, and the cases of `exact_advantages.CASES` that see it."""

    old: str
    new: str
    seen_by: tuple[str, ...]


GAE, GAE_RATIOS = "gae(0.7)", "gae(0.7), ratios"
TO_GO, TO_GO_RATIOS = "reward_to_go", "reward_to_go, ratios"
CLIPPED = "vtrace, ratios clipped"

ONE_STEP = "_one_step(rewards, next_values, terminated, discount)"
GOES_ON = "~(terminated | truncated | last)"
SCAN = "_, sums = jax.lax.scan(back, initial, (terms, decay), reverse=True, unroll=8)\n    return sums"
SCAN_OVER_COLUMNS = (
    "_, sums = jax.lax.scan(back, jnp.zeros_like(terms[:, 0]), (terms.T, decay.T), reverse=True, unroll=8)\n    return sums.T"
)


def _one_step(rewards: str = "rewards", next_values: str = "next_values", terminated: str = "terminated") -> str:
    return f"_one_step({rewards}, {next_values}, {terminated}, discount)"


MUTANTS: dict[str, Mutant] = {
    # the ends of an episode
    "truncation = termination": Mutant(ONE_STEP, _one_step(terminated="terminated | truncated"), ("td", GAE, TO_GO)),
    "truncation wins over termination": Mutant(ONE_STEP, _one_step(terminated="terminated & ~truncated"), (GAE,)),
    "termination bootstraps": Mutant("jnp.where(terminated, 0, next_values)", "next_values", (GAE,)),
    "V(o_t) at a truncation": Mutant(ONE_STEP, _one_step(next_values="jnp.where(truncated, values, next_values)"), (GAE,)),
    "V(reset observation) at a truncation": Mutant(
        ONE_STEP, _one_step(next_values="jnp.where(truncated, _following(values), next_values)"), (GAE,)
    ),
    "V(o_t) for V(o_{t+1})": Mutant(ONE_STEP, _one_step(next_values="values"), ("td",)),
    "the truncated step dropped": Mutant(ONE_STEP, _one_step(rewards="jnp.where(truncated, 0, rewards)"), (GAE,)),
    "no boundary": Mutant(GOES_ON, "~last", (GAE, TO_GO, "n_step(3)", "vtrace")),
    "no boundary at a truncation": Mutant(GOES_ON, "~(terminated | last)", (GAE, "n_step(2)")),
    "the trace cut a step early": Mutant(GOES_ON, "~(terminated | truncated | last | _following(terminated))", (GAE,)),
    "no bootstrap at the end of the rollout": Mutant(GOES_ON, "~(terminated | truncated)", (TO_GO, "n_step(3)", "vtrace")),
    "the last value one off": Mutant(ONE_STEP, _one_step(next_values="next_values.at[-1].set(values[-1])"), (GAE,)),
    "the last value dropped": Mutant(ONE_STEP, _one_step(next_values="next_values.at[-1].set(0)"), (GAE,)),
    # the recursion
    "the wrong axis": Mutant(SCAN, SCAN_OVER_COLUMNS, (GAE,)),
    "forwards in time": Mutant("reverse=True", "reverse=False", (GAE,)),
    "γ missing in the carry of gae": Mutant("_decay(discount * trace,", "_decay(trace,", (GAE,)),
    "λ missing in the carry of gae": Mutant("_decay(discount * trace,", "_decay(discount,", (GAE,)),
    "γ missing in the carry of the returns": Mutant("_decay(discount, goes_on,", "_decay(1.0, goes_on,", (TO_GO, "n_step(3)")),
    "the trace one off: γ^l λ^(l+1)": Mutant("discounted_sum(errors, decay", "discounted_sum(trace * errors, decay", (GAE,)),
    "the decay one row off": Mutant("discounted_sum(errors, decay", "discounted_sum(errors, _following(decay)", (GAE,)),
    "V subtracted twice": Mutant("returns - values", "returns - 2 * values", (TO_GO,)),
    "V missing in the target": Mutant("return values + (advantages", "return 0 * values + (advantages", (GAE,)),
    # n steps
    "one step too many": Mutant("fori_loop(1, count", "fori_loop(0, count", ("n_step(1)", "n_step(2)")),
    "one step too few": Mutant("fori_loop(1, count", "fori_loop(2, count", ("n_step(2)",)),
    "n steps or nothing": Mutant("_following(shorter), first)", "_following(shorter), rewards)", ("n_step(2)",)),
    # the whole return
    "the total is the rest": Mutant("totals - values", "returns - values", ("total_return",)),
    "the total begins a row early": Mutant("jnp.concatenate([jnp.ones_like(ended[:1]), ended[:-1]])", "ended", ("total_return",)),
    # the ratios
    "ratios always 1": Mutant(
        "    if ratios is None:\n        return rate", "    if True:\n        return rate", (TO_GO_RATIOS, GAE_RATIOS)
    ),
    "the ratio of this step for that of the next": Mutant("rate * _following(ratios)", "rate * ratios", (GAE_RATIOS, "n_step(2), ratios")),
    "the ratio of this step counted in Ψ": Mutant(
        "advantages = returns - values", "advantages = ratios * (returns - values)", (TO_GO_RATIOS,)
    ),
    "targets not corrected": Mutant("else ratios * advantages)", "else advantages)", (GAE_RATIOS, "td, ratios")),
    "V-trace's ratios always 1": Mutant(
        "_like(jnp.ones_like(rewards) if ratios is None else ratios, rewards)", "jnp.ones_like(rewards)", ("vtrace, ratios", CLIPPED)
    ),
    "clips swapped": Mutant("rho_clip, c_clip = _clip", "c_clip, rho_clip = _clip", (CLIPPED,)),
    "ρ not clipped": Mutant("jnp.minimum(rho_clip, rho)", "rho", (CLIPPED,)),
    "c not clipped": Mutant("jnp.minimum(c_clip, rho)", "rho", (CLIPPED,)),
    "λ missing in V-trace": Mutant("discount * trace * jnp.minimum(c_clip", "discount * jnp.minimum(c_clip", ("vtrace",)),
    "Ψ from v_t, not v_{t+1}": Mutant("_following(corrections)", "corrections", ("vtrace",)),
    "ρ̄ counted in V-trace's Ψ": Mutant(
        "return advantages, values + corrections", "return rho * advantages, values + corrections", (CLIPPED,)
    ),
}


@cache
def changed(old: str = "", new: str = "") -> ModuleType:
    """`policygrad.advantages` from its source with every `old` replaced."""
    module = ModuleType("mutated_advantages")
    exec(compile(SOURCE.replace(old, new) if old else SOURCE, advantages.__file__, "exec"), module.__dict__)
    return module


@pytest.mark.parametrize("name", sorted({name for mutant in MUTANTS.values() for name in mutant.seen_by}))
def test_without_a_bug_the_check_passes(name: str) -> None:
    assert max(exact.errors(changed(), exact.CASES[name])) <= EXACT


@pytest.mark.parametrize("mutant", sorted(MUTANTS))
def test_a_planted_bug_is_seen(mutant: str) -> None:
    old, new, seen_by = MUTANTS[mutant]
    assert old in SOURCE  # else nothing is planted
    for name in seen_by:
        assert max(exact.errors(changed(old, new), exact.CASES[name])) > SEEN, name
