"""Every figure of docs/errata.md, computed again: the claims of the texts fail, and what the page puts in their place holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policygrad import oracle
from policygrad.envs import FiniteMDP
from policygrad.policies import Categorical, tabular_softmax

pytestmark = pytest.mark.usefixtures("x64")

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "errata.md").read_text(encoding="utf-8")
LOGITS = np.array([[0.5, -0.5], [-1.0, 1.0]])
COORDINATES = {"∂θ(0, 0)": (0, 0), "∂θ(1, 0)": (1, 0)}


def table_rows() -> dict[str, tuple[str, str]]:
    """The rows of all tables by their first cell."""
    lines = [line.strip("|").split(" | ") for line in PAGE.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line] for line in lines]
    return {name: (left, right) for name, left, right in cells if name not in ("claim", "the identity")}


ROWS = table_rows()
CHECKED: set[str] = set()


def says(name: str, left: Any, right: Any) -> None:
    """The page has this row; numbers to four digits."""
    shown = tuple(f"{cell:.4f}" if isinstance(cell, float | np.floating) else cell for cell in (left, right))
    assert ROWS[name] == shown
    CHECKED.add(name)


@pytest.fixture(scope="module")
def mdp() -> FiniteMDP:
    """The MDP of the page, from the page."""
    with jax.enable_x64(True):
        names: dict[str, Any] = {"FiniteMDP": FiniteMDP, "tabular_softmax": tabular_softmax, "jnp": jnp}
        exec(PAGE.split("```python\n")[1].split("```")[0], names)
        np.testing.assert_array_equal(names["policy"].head.logits, LOGITS)
        return names["mdp"]


def pieces(mdp: FiniteMDP, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(d, π, Q)."""
    policy = tabular_softmax(logits)
    return oracle.occupancy(mdp, policy).state, np.exp(logits) / np.exp(logits).sum(1, keepdims=True), oracle.values(mdp, policy).action


def slopes(mdp: FiniteMDP, coordinate: tuple[int, int]) -> list[np.ndarray]:
    """(∂d, ∂π, ∂Q) by central differences of fourth order, which err by 1e-12 or so."""
    unit = np.zeros_like(LOGITS)
    unit[coordinate] = 1e-3
    (far, near), (near_minus, far_minus) = ([pieces(mdp, LOGITS + k * unit) for k in ks] for ks in ((2, 1), (-1, -2)))
    return [(8 * (b - c) - (a - d)) / 12e-3 for a, b, c, d in zip(far, near, near_minus, far_minus, strict=True)]


def gradient(mdp: FiniteMDP, **how: Any) -> np.ndarray:
    return oracle.policy_gradient(mdp, tabular_softmax(LOGITS), **how).head.logits


def test_the_occupancy_q_form_is_not_the_objective(mdp: FiniteMDP) -> None:
    policy = tabular_softmax(LOGITS)
    J = oracle.objective(mdp, policy)
    assert f"J = {J:.4f}" in PAGE
    says("occupancy–Q form, U = Σ ρ Q", (oracle.occupancy(mdp, policy).action * oracle.values(mdp, policy).action).sum(), J)
    chain = FiniteMDP(transitions=[[[0, 1]], [[0, 1]]], rewards=[[0], [1]], initial=[1, 0], discount=0.9)
    only = tabular_softmax(np.zeros((2, 1)))
    wrong = (oracle.occupancy(chain, only).action * oracle.values(chain, only).action).sum()
    says("the same for A → B → B …, reward 1 in B", wrong, oracle.objective(chain, only))


def test_the_cancellation_lemma_fails_and_the_identity_holds(mdp: FiniteMDP) -> None:
    d, pi, Q = pieces(mdp, LOGITS)
    r = mdp.expected_rewards
    exact = gradient(mdp)
    for name, coordinate in COORDINATES.items():
        d_slope, pi_slope, q_slope = slopes(mdp, coordinate)
        says(f"cancellation lemma, {name}", 0.0, (d_slope[:, None] * pi * Q + d[:, None] * pi * q_slope).sum())
        left, right = (d_slope[:, None] * pi * r).sum(), (d[:, None] * pi_slope * (Q - r)).sum()
        assert left == pytest.approx(right, abs=1e-9)
        says(name, left, right)
        boxed = (d[:, None] * pi_slope * Q).sum()
        assert boxed == pytest.approx(0.1 * exact[coordinate], abs=1e-9)
        says(f"boxed gradient with normalised d, {name}", boxed, exact[coordinate])


def test_without_discounted_visits(mdp: FiniteMDP) -> None:
    limited = mdp.replace(time_limit=10)
    dropped, exact = gradient(limited, discount_visits=False), gradient(limited)
    for name, coordinate in COORDINATES.items():
        says(f"eq. 4 without γ^t, 10 steps, {name}", dropped[coordinate], exact[coordinate])
    says("eq. 4 for an episode of one step, ∂θ(0, 0)", 0.0, gradient(mdp.replace(time_limit=1))[0, 0])


def test_the_reward_at_the_end_is_not_the_return(mdp: FiniteMDP) -> None:
    """Σ scores × r_1 estimates ∇E[r_1] = ∇J of two steps less that of one."""
    both, first = (gradient(mdp.replace(discount=1, time_limit=limit)) for limit in (2, 1))
    says("score × the reward at the end, 2 steps, γ = 1, ∂θ(0, 0)", (both - first)[0, 0], both[0, 0])


# The bandit: what is estimated is the derivative with respect to the first logit; each action has probability 1/2.
PAYS, SCORES = np.array([1.0, 0.0]), np.array([0.5, -0.5])
EXACT = float((PAYS * SCORES).mean())


def test_the_bandit_is_one() -> None:
    bandit = FiniteMDP(transitions=[[[1], [1]]], rewards=[PAYS], initial=[1], discount=1, time_limit=1)
    assert oracle.policy_gradient(bandit, tabular_softmax(np.zeros((1, 2)))).head.logits[0, 0] == pytest.approx(EXACT, abs=1e-15)


def test_baselines_of_the_same_data() -> None:
    pairs = [(np.array([i, j])) for i in range(2) for j in range(2)]
    same_batch = float(np.mean([((PAYS[pair] - PAYS[pair].mean()) * SCORES[pair]).mean() for pair in pairs]))
    says("G − V̂ with V̂ the mean of the same 2 returns, the bandit", EXACT, same_batch)
    own = float(np.mean((PAYS - PAYS) * SCORES))  # in episodes of one step G is their mean
    says("G − mean of the episode's G, one-step episodes, the bandit", EXACT, own)
    moved_first = float(np.mean(SCORES * (PAYS - 0.1 * PAYS)))  # b = 0 before
    says("listing 1 with baseline_lr = 0.1, the bandit", moved_first, EXACT)
    summed = float(np.mean([(PAYS[pair] * SCORES[pair]).sum() for pair in pairs]))
    says("gradient of the pseudo-loss of 7.2 over N = 2 episodes, the bandit", EXACT, summed)


def test_returns_near_zero() -> None:
    says("step of log π(a) after a return of 0, the bandit", "below 0", 0 * float(SCORES[0]))
    says("step of log π(a) after a return of 0.1, the bandit", "below 0", 0.1 * float(SCORES[0]))


def test_the_softmax() -> None:
    probabilities = Categorical(jnp.array([2.0, 1.0, 0.5])).probabilities()
    printed = [0.59, 0.24, 0.16]
    says("softmax of [2, 1, 0.5]", str(printed), str([round(float(p), 2) for p in probabilities]))
    says("its sum", f"{sum(printed):.2f}", f"{float(probabilities.sum()):.2f}")


def test_what_a_mean_does_to_an_episode() -> None:
    with np.errstate(invalid="ignore"), pytest.warns(RuntimeWarning, match="Degrees of freedom"):
        says("returns.std() of an episode of one step", "0 or more", f"{np.std([1.0], ddof=1)}")
    returns = np.array([1 + 0.99 + 0.99**2, 1 + 0.99, 1])
    listed = [2.9701, 1.99, 1]
    np.testing.assert_allclose(returns, listed, atol=1e-12)
    says(f"variance of {listed} less its mean", f"below {returns.var():.4f}", (returns - returns.mean()).var())
    says(f"mean square of {listed} less its mean", (returns**2).mean(), ((returns - returns.mean()) ** 2).mean())


def test_no_row_of_the_page_is_unchecked(mdp: FiniteMDP) -> None:
    CHECKED.clear()
    of_the_mdp = (
        test_the_occupancy_q_form_is_not_the_objective,
        test_the_cancellation_lemma_fails_and_the_identity_holds,
        test_without_discounted_visits,
        test_the_reward_at_the_end_is_not_the_return,
    )
    for check in of_the_mdp:
        check(mdp)
    for check in (test_baselines_of_the_same_data, test_returns_near_zero, test_the_softmax, test_what_a_mean_does_to_an_episode):
        check()
    assert set(ROWS) == CHECKED
