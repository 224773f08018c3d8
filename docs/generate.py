"""Writes the tables of docs/estimators.md anew: every number in them is computed, none is typed.

    python docs/generate.py            all of them, about 20 seconds
    python docs/generate.py --check    only say whether they are what they should be

A table stands between `<!-- generated: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.flatten_util import ravel_pytree

from policygrad import lab, oracle
from policygrad.envs import FiniteMDP, finite_world

PAGE = Path(__file__).with_name("estimators.md")
VISITS = (3, 6, 12, 24, 48, 192, 384, np.inf)
"""Visits of a state that a table is averaged over."""


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def digits(value: float) -> str:
    """Three digits that count, or an exact 0."""
    return "0" if abs(value) < 1e-12 else f"{value:.3g}"


# ---------------------------------------------------------------- every estimator, with its bias


def bias_row(row: lab.Row) -> str:
    """One row of the table of estimators."""
    if row.note:
        return f"| {row.group} | {row.name} | – | | | | |"
    needed = "never" if np.isinf(row.trajectories) else f"{np.ceil(row.trajectories):.0f}"
    bias = "0" if row.unbiased else f"{row.relative_bias:.1%}"
    cells = (row.group, row.name, bias, f"{row.cosine:.3f}", digits(row.variance), digits(row.relative_variance), needed)
    return "| " + " | ".join(cells) + " |"


def bias_table() -> str:
    """Every estimator of the laboratory on its default MDP."""
    head = ("group", "estimator", "bias / \\|∇J\\|", "cosine", "variance", "/ plain", "episodes for a cosine of 0.9")
    return "\n".join([markdown(head, []), *map(bias_row, lab.compare(finite_world("fork")))])


# ---------------------------------------------------------------- with and without γ^t


def discount_table() -> str:
    """What is estimated with γ^t in the gradient and without it, on `fork`, with its time limit and without."""
    rows = []
    for limit in (3, None):
        for discount in (0.5, 0.9, 0.99):
            mdp = finite_world("fork", discount=discount, time_limit=limit)
            policy = lab.default_policy(mdp)
            true, dropped = (
                np.asarray(oracle.flatten(oracle.policy_gradient(mdp, policy, discount_visits=visits))) for visits in (True, False)
            )
            bias = np.linalg.norm(dropped - true) / np.linalg.norm(true)
            cosine = dropped @ true / np.linalg.norm(dropped) / np.linalg.norm(true)
            length = np.linalg.norm(dropped) / np.linalg.norm(true)
            twist = [asymmetry(mdp, policy, visits) for visits in (True, False)]
            cells = (f"{limit or 'none'}", f"{discount:g}", f"{bias:.1%}", f"{length:.3f}", f"{cosine:.5f}", *map(digits, twist))
            rows.append(cells)
    head = ("time limit", "γ", "bias of dropping γ^t", "length, ratio", "cosine", "asymmetry with γ^t", "asymmetry without")
    return markdown(head, rows)


def asymmetry(mdp: FiniteMDP, policy: object, discount_visits: bool) -> float:
    """|D − Dᵀ| / |D| of the Jacobian D of the expected update: 0 for the gradient of a function, whose D is its Hessian."""
    with jax.enable_x64(True):
        flat, unflatten = ravel_pytree(policy)

        def update(theta: jax.Array) -> jax.Array:
            return ravel_pytree(oracle.policy_gradient(mdp, unflatten(theta), discount_visits=discount_visits))[0]

        jacobian = np.asarray(jax.jit(jax.jacobian(update))(flat))
    return float(np.linalg.norm(jacobian - jacobian.T) / np.linalg.norm(jacobian))


# ---------------------------------------------------------------- V or Q


def advantage_variances(mdp: FiniteMDP, visits: float, copies: int = 1) -> dict[str, float]:
    """The exact variance of ∇J's estimate from one fresh episode, by what the advantage is made of.

    V̂(t, s) is a mean of `visits` returns from (t, s); Q̂(t, s, a) one of those among them that began with a, π(a|s) · visits of them.
    All are unbiased and independent of the fresh episode, and every Ψ is linear in them, so with c_e(τ) = Σ_t γ^t ∇log π_t ∂Ψ_t/∂e

        Var[ĝ] = Var[ĝ with exact tables] + Σ_e Var[e] E|c_e|²        e: an entry of the table

    Args:
        copies: of each action, all alike and drawn evenly: a Q table has as many times the entries, each with so much less data.
    """
    policy = lab.default_policy(mdp)
    every = oracle.enumerate_trajectories(mdp, policy, horizon=mdp.time_limit or 1)
    rollout, probability = every.rollout, every.probability
    table = oracle.values(mdp, policy)
    V, Q = np.asarray(table.state), np.asarray(table.action)
    steps, _ = rollout.mask.shape
    with jax.enable_x64(True):
        pi = np.asarray(policy(np.arange(mdp.num_states)).probabilities())
    time, state, action, mask = rollout.time, rollout.obs, rollout.action, rollout.mask > 0
    score = (np.eye(mdp.num_actions)[action] - pi[state]) * (mdp.discount**time * mask)[..., None]  # ∂/∂θ(s_t, ·) × γ^t
    scores = score[..., None, :] * np.eye(mdp.num_states)[state][..., None]  # [T, N, S, A]
    returns = np.zeros(mask.shape)
    after = np.zeros(mask.shape[1])
    for t in reversed(range(steps)):
        returns[t] = after = mask[t] * (rollout.reward[t] + mdp.discount * after)
    goes_on = mask & ~rollout.terminated & ~rollout.truncated
    following = np.where(goes_on, V[np.minimum(time + 1, steps - 1), rollout.next_obs], 0)

    spread = np.zeros(Q.shape)  # Var[G | t, s, a]
    seen = np.zeros(Q.shape)
    for (t, i), alive in np.ndenumerate(mask):
        if alive:
            place = (t, state[t, i], action[t, i])
            seen[place] += probability[i]
            spread[place] += probability[i] * (returns[t, i] - Q[place]) ** 2
    spread = np.divide(spread, seen, out=np.zeros_like(spread), where=seen > 0)
    spread_v = (pi * (spread + (Q - V[..., None]) ** 2)).sum(axis=-1)  # Var[G | t, s]

    def variance(psi: np.ndarray) -> float:
        estimates = (scores * psi[..., None, None]).sum(axis=0).reshape(len(probability), -1)
        return float(probability @ (estimates**2).sum(axis=1) - ((probability @ estimates) ** 2).sum())

    def noise(entry: np.ndarray, slope: Callable[[int, int], np.ndarray]) -> float:
        """Σ_e Var[e] E|c_e|², the slopes ∂Ψ/∂e of every step of every trajectory, [T, N]."""
        total = 0.0
        for t, s in np.ndindex(*entry.shape):
            c = (scores * slope(t, s)[..., None, None]).sum(axis=0)
            total += entry[t, s] * float(probability @ (c**2).sum(axis=(1, 2)))
        return total / visits

    def here(t: int, s: int) -> np.ndarray:
        return np.where(mask & (time == t) & (state == s), 1.0, 0.0)

    def next_one(t: int, s: int) -> np.ndarray:
        return np.where(goes_on & (time + 1 == t) & (rollout.next_obs == s), 1.0, 0.0)

    # Of the entries of one (t, s): Σ_e Var[e] (∂Ψ/∂e)², in which the taken action's own copy stands out.
    share = np.where(pi > 0, pi, 1.0) / copies
    base = (spread / share * share**2 * copies).sum(axis=-1)  # Var of Σ_b π(b) Q̂(b), times visits
    own = spread / share * ((1 - share) ** 2 - share**2)  # what the taken copy adds to that
    weight = probability * (scores**2).sum(axis=(2, 3))
    of_q = float((weight * (base[time, state] + own[time, state, action])).sum()) / visits

    true_v, true_q = V[time, state], Q[time, state, action]
    return {
        "G − V̂": variance(returns - true_v) + noise(spread_v, here),
        "r + γ V̂(s′) − V̂(s)": variance(rollout.reward + mdp.discount * following - true_v)
        + noise(spread_v, lambda t, s: mdp.discount * next_one(t, s) - here(t, s)),
        "Q̂(s, a) − Σ π Q̂": variance(true_q - true_v) + of_q,
    }


def value_table() -> str:
    """V̂ against Q̂ learnt from the same returns, by how many, and over how many actions they are split."""
    mdp, rows = finite_world("fork"), []
    for visits in VISITS:
        found = advantage_variances(mdp, visits)
        cells = ["exact" if np.isinf(visits) else f"{visits}", *(f"{value:.3f}" for value in found.values())]
        for copies in (8, 64):  # the rarer action has probability 1/3, shared by its copies
            split = list(advantage_variances(mdp, visits, copies).values())[-1]
            cells.append(f"{split:.3f}" if visits >= 3 * copies else "–")
        rows.append(cells)
    head = ("visits of a state", *(f"Ψ = {name}" for name in found), "Q̂ with 8 copies of each action", "with 64 copies")
    return markdown(head, rows)


# ---------------------------------------------------------------- the page


TABLES: dict[str, Callable[[], str]] = {"bias": bias_table, "discount": discount_table, "values": value_table}


def place(name: str) -> re.Pattern[str]:
    """Where a table stands in the page: its marker, the table, the end."""
    return re.compile(rf"(<!-- generated: {name} -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def written(name: str) -> str:
    """The table that stands in the page.

    Raises:
        ValueError: the page has no such place.
    """
    found = place(name).search(PAGE.read_text(encoding="utf-8"))
    if found is None:
        raise ValueError(f"{PAGE.name}: no place for the table {name!r}; write <!-- generated: {name} --> and <!-- end -->")
    return found[2].rstrip("\n")


def main(check: bool = False) -> int:
    """Writes the page, or compares it; 1 if it is not what it should be."""
    before = text = PAGE.read_text(encoding="utf-8")
    for name, table in TABLES.items():
        if written(name) != (new := table()):
            text = place(name).sub(lambda found, new=new: f"{found[1]}{new}\n{found[3]}", text)
    stale = text != before
    if stale and not check:
        PAGE.write_text(text, encoding="utf-8")
    print(f"{PAGE.name}: {'stale' if stale and check else 'written' if stale else 'as it should be'}")
    return int(stale and check)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--check", action="store_true", help="write nothing")
    sys.exit(main(**vars(arguments.parse_args())))
