"""The corridor with a value function: what λ < 1 costs where states look alike, exactly.

    δ_t = r_t + V' − V        Ψ_t = Σ_k λ^k δ_{t+k}        V the one number v that makes E[Ψ] = 0

Three states look alike, so every value function is a constant v. Its TD error is −1 on each step but the last, whose −1 − v tells
nothing of where the agent was before: with λ = 1 all steps to the goal are counted, with λ < 1 mostly the next few. In terms of
p = π(right) and the visits d(s) of the three states, learning climbs along

    drift(p) = p (1 − p) Σ_s d(s) (q(s, right) − q(s, left))        q(s, a) = −1 − v [s' = goal] + λ h(s')        h = (I − λ P)⁻¹ (−1 − v g)

with P the moves short of the goal under p and g(s) the probability of reaching it next. Where the drift is 0, learning ends. At λ = 1 that
is the best policy, p = 2 − √2; below, p is too large; and one-step TD (λ = 0) sees no action matter but the one that reaches the goal, so
it drives p to 1, a policy that never arrives. A value function that told the states apart would have none of this.

Claims: the drift at λ = 1 is exactly the gradient of J, and ends within 1e-8 of the best p; the smaller λ, the worse the end; actor-critic
ends within 0.02 of it for λ = 1, 0.8 and 0.5, with a value within 1 % of the best for λ = 1; with λ = 0 it passes p = 0.9.

    python examples/corridor_bias.py [--fast] [--out DIR] [--seed N]
"""

import argparse
from pathlib import Path

import numpy as np
from scipy.optimize import brentq

import policygrad as pg
from policygrad.envs import finite_world
from policygrad.envs.small_worlds import corridor_best, corridor_value
from policygrad.report import style

MOVES = np.asarray(finite_world("short-corridor").transitions)[:3]  # [state, action, next]; state 3 is the goal
TRACES = np.linspace(0.0, 1.0, 101)
LEARNT = (1.0, 0.8, 0.5, 0.0)


def drift(p: float, trace: float) -> float:
    """The mean of an episode's estimate of ∇J by the logit of p, with the constant V that suits p and λ."""
    under = np.einsum("a,sat->st", [1 - p, p], MOVES)
    inside, goal = under[:, :3], under[:, 3]
    visits = np.linalg.solve(np.eye(3) - inside.T, [1.0, 0.0, 0.0])  # Σ_t P(s_t = s)
    sums = np.linalg.inv(np.eye(3) - trace * inside)
    v = -(visits @ sums @ np.ones(3)) / (visits @ sums @ goal)
    ahead = np.append(sums @ (-1 - v * goal), 0.0)
    q = -1 - v * MOVES[:, :, 3] + trace * MOVES @ ahead
    return p * (1 - p) * float(visits @ (q[:, 1] - q[:, 0]))


def end(trace: float) -> float:
    """Where the drift is 0; 1 where it never is."""
    most = 1 - 1e-9
    return 1.0 if drift(most, trace) > 0 else float(brentq(drift, 0.05, most, (trace,), xtol=1e-14))


def learnt(trace: float, fast: bool, seed: int) -> float:
    """p after training; from a fair coin."""
    lengths = {"advantage": "gae", "trace": trace, "discount": 1.0, "rollout_length": 200}
    algorithm = pg.actor_critic(**lengths, learning_rate=0.03, learning_rate_decay=True, critic_learning_rate=0.3)
    run = pg.train("Corridor-v0", algorithm, num_steps=600_000 if fast else 6_000_000, num_envs=32, seed=seed, out=False)
    return float(run.policy(0).probabilities()[1])


def main(fast: bool = False, out: Path = Path("figures/corridor_bias"), seed: int = 0) -> None:
    best_p, best = corridor_best()
    ends = np.array([end(trace) for trace in TRACES])
    for p in (0.2, 0.5, 0.8):
        slope = (corridor_value(p + 1e-6) - corridor_value(p - 1e-6)) / 2e-6 * p * (1 - p)
        assert abs(drift(p, 1.0) - slope) < 1e-6 * abs(slope), f"at λ = 1 the drift is the gradient: got {drift(p, 1.0)}, not {slope}"
    assert abs(ends[-1] - best_p) < 1e-8, f"at λ = 1 learning ends at the best: got {ends[-1]}"
    assert (np.diff(ends) <= 0).all(), "the smaller λ, the larger p"
    stops = ends < 1

    found = {}
    for trace in LEARNT:
        found[trace] = p = learnt(trace, fast, seed)
        value = corridor_value(p)
        print(f"λ = {trace:g}: exactly to p = {end(trace):.4f}; learnt p = {p:.4f}, J = {value:.3f}, {value / best - 1:.2%} from the best")
        assert p > 0.9 if trace == 0 else abs(p - end(trace)) <= 0.02, f"claimed: above 0.9 with λ = 0, else within 0.02; got {p:.3f}"
    assert corridor_value(found[1.0]) >= 1.01 * best, "claimed: within 1 % of the best with λ = 1"
    print(f"with λ = 0 nothing stops p on its way to 1; with λ = {TRACES[1]:g} it ends at {ends[1]:.3f}, J = {corridor_value(ends[1]):.1f}")

    figure, (left, right) = style.canvas(
        "The corridor: where learning with a constant V ends", "exact, by λ; circles are trained policies", 2, common=False
    )
    left.plot(TRACES, ends, "k-")
    left.plot(list(found), list(found.values()), "ko", markerfacecolor="w")
    left.axhline(best_p, color="k", linestyle=":", linewidth=1)
    left.annotate("best: 2 − √2", (0, best_p), (0, 4), textcoords="offset points", fontsize=9)
    left.set(xlabel="λ", ylabel="p = π(right)", ylim=(0.5, 1.03))
    right.plot(TRACES[stops], [corridor_value(p) for p in ends[stops]], "k-")
    drawn = {trace: p for trace, p in found.items() if trace}
    right.plot(list(drawn), [corridor_value(p) for p in drawn.values()], "ko", markerfacecolor="w")
    right.axhline(best, color="k", linestyle=":", linewidth=1)
    right.annotate(f"best: {best:.2f}", (0, best), (0, -12), textcoords="offset points", fontsize=9)
    right.annotate("−∞ at λ = 0", (0.12, -28), fontsize=9)
    right.set(xlabel="λ", ylabel="J, expected return (−1 a step)", ylim=(-30, -10.5), xlim=left.get_xlim())
    style.save(figure, out / "ends.png")
    print(f"figure: {out / 'ends.png'}")


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--fast", action="store_true", help="a shorter run that still holds the claim")
    arguments.add_argument("--out", type=Path, default=Path("figures/corridor_bias"), help="where the figures go")
    arguments.add_argument("--seed", type=int, default=0, help="for other luck")
    main(**vars(arguments.parse_args()))
