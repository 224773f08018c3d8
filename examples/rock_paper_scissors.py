"""Rock, paper, scissors against an opponent who counts: only the uniform policy is safe, a greedy one is exploited.

    J(p) = E[Σ_t r_t]                            exactly, by enumeration of what the opponent has counted
    worst case(p) = max_m (p_m − p_{m+2})        lost a round to the fixed reply that hurts p most; 0 for (⅓, ⅓, ⅓) alone

The opponent knows how often each action was played in this episode and beats the most frequent one. A policy without
memory that prefers any action is found out, and one that always takes its best action, as a greedy value-based one does,
loses every round after the first. So the policy must be stochastic, and policy gradients learn such a one.

The policy is a table of three logits. It starts from somebody who loves rock, (0.8, 0.1, 0.1), because zero logits would
be the answer already. The learning rate falls to 0; with a constant one the policy would go on wandering about the answer.
There is no entropy bonus: it would pull towards uniform whatever the game.

Claims: the uniform policy earns exactly 0, and every other one on a grid of 496 loses; the learnt policy, played greedily,
earns exactly −(rounds − 1); the learnt policy itself loses at most 0.05 a round in the worst case.

    python examples/rock_paper_scissors.py [--fast] [--out DIR] [--seed N]
"""

import argparse
from pathlib import Path

import numpy as np

import policygrad as pg
from policygrad.envs.small_worlds import rock_paper_scissors_value as exact_value
from policygrad.envs.small_worlds import worst_case_loss
from policygrad.report import style

ROUNDS = 10
START, UNIFORM = np.array([0.8, 0.1, 0.1]), np.full(3, 1 / 3)
SIMPLEX = np.array([(i, j, 30 - i - j) for i in range(31) for j in range(31 - i)]) / 30  # policies p, [496, 3]
CORNERS = np.array([(0, 0), (1, 0), (0.5, 0.75**0.5)])  # where the picture puts rock, paper and scissors


def main(fast: bool = False, out: Path = Path("figures/rock_paper_scissors"), seed: int = 0) -> None:
    algorithm = pg.reinforce(
        optimizer="sgd", learning_rate=0.05, learning_rate_decay=True, episodes_per_update=32, discount=1.0, max_grad_norm=None
    )
    start = pg.policies.tabular_softmax(np.log([START]))
    steps, path = [0], [START]
    for progress in pg.iterate("RockPaperScissors-v0", algorithm, num_steps=50_000 if fast else 200_000, seed=seed, init=start):
        steps.append(progress.steps)
        path.append(progress.policy(0).probabilities())
    path = np.array(path, np.float64)  # p after every update, [updates + 1, 3]
    losses = np.array([worst_case_loss(p) for p in path])
    learnt, greedy = path[-1], np.eye(3)[path[-1].argmax()]

    values = np.array([exact_value(p, ROUNDS) for p in SIMPLEX])
    print(f"learnt {learnt.round(3)}: earns {exact_value(learnt, ROUNDS):+.4f} an episode, loses {losses[-1]:.4f} a round at worst")
    print(f"greedy {greedy}: earns {exact_value(greedy, ROUNDS):+.4f} an episode of {ROUNDS} rounds")
    print(f"uniform: earns {abs(exact_value(UNIFORM, ROUNDS)):.4f}; the next best on the grid {np.sort(values)[-2]:+.4f}")
    assert abs(exact_value(UNIFORM, ROUNDS)) < 1e-12, "uniform earns exactly 0"
    assert all(value < -1e-3 for p, value in zip(SIMPLEX, values, strict=True) if not np.allclose(p, UNIFORM)), "all others lose"
    assert abs(exact_value(greedy, ROUNDS) + (ROUNDS - 1)) < 1e-12, "greedy loses every round after the first"
    assert losses[-1] <= 0.05, f"claimed: at most 0.05 lost a round; got {losses[-1]:.4f}"

    figure, (ax,) = style.canvas(
        "Policies and what they earn", f"exact value of an episode of {ROUNDS} rounds, as contours", width=6.4, height=5.2
    )
    contours = ax.tricontour(*(SIMPLEX @ CORNERS).T, values, levels=np.arange(-8, 0), colors="0.55", linestyles="-", linewidths=0.8)
    ax.clabel(contours, fontsize=8)
    ax.plot(*CORNERS[[0, 1, 2, 0]].T, color=style.FAINT, linewidth=1)
    texts = [(f"always {name}: −{ROUNDS - 1}", at) for name, at in zip(("rock", "paper", "scissors"), CORNERS, strict=True)]
    texts += [("start", START @ CORNERS), ("learnt", learnt @ CORNERS)]
    for (text, at), place in zip(texts, ((-10, -16), (-40, -16), (10, -6), (8, -4), (12, -3)), strict=True):
        ax.annotate(text, at, place, textcoords="offset points", annotation_clip=False, bbox={"facecolor": "w", "linewidth": 0, "pad": 1})
    ax.plot(*(path @ CORNERS).T, color="k", linewidth=0.8)
    ax.plot(*(START @ CORNERS), "ws", markeredgecolor="k")
    ax.plot(*(learnt @ CORNERS), "wo", markeredgecolor="k")
    ax.set_axis_off()
    ax.set_aspect("equal")
    style.save(figure, out / "simplex.png")

    figure, (ax,) = style.canvas("What the worst opponent takes", "REINFORCE with a table policy and a falling learning rate")
    ax.semilogy(steps, losses, "k-", linewidth=0.8)
    ax.axhline(0.05, color="k", linestyle="--", linewidth=1)
    ax.annotate("claimed at the end: at most 0.05", (steps[-1], 0.05), (0, 4), textcoords="offset points", ha="right", fontsize=9)
    ax.set_ylabel("worst-case loss (reward a round)")
    style.steps_axis(ax, steps[-1])
    style.save(figure, out / "worst_case.png")
    print(f"figures: {out / 'simplex.png'}, {out / 'worst_case.png'}")


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--fast", action="store_true", help="a shorter run that still holds the claim")
    arguments.add_argument("--out", type=Path, default=Path("figures/rock_paper_scissors"), help="where the figures go")
    arguments.add_argument("--seed", type=int, default=0, help="for other luck")
    main(**vars(arguments.parse_args()))
