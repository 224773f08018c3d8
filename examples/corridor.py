"""The short corridor with switched actions: the best policy is a coin with p(right) = 0.59, and REINFORCE finds it.

    0 ⇄ 1 ⇄ 2 → goal        J(p) = −2 (2 − p) / (p (1 − p))        best at p = 2 − √2 with J = −(6 + 4√2)

Three states look alike, and in the second one the actions are swapped, so a policy is one number, p = π(right). Both
deterministic policies never arrive: the environment stops them after 200 steps. Those that take one action with probability
0.95 need 44 steps (right) and 82 (left) on average. Learning starts there, once from either side. Sutton and Barto,
example 13.1.

Claim: the exact value of each learnt policy is within 1 % of the best that a policy without memory can earn.

    python examples/corridor.py [--fast] [--out DIR] [--seed N]
"""

import argparse
from pathlib import Path

import numpy as np

import policygrad as pg
from policygrad.envs.small_worlds import CORRIDOR_LIMIT, corridor_best, corridor_value
from policygrad.report import style


def main(fast: bool = False, out: Path = Path("figures/corridor"), seed: int = 0) -> None:
    best_p, best = corridor_best()
    algorithm = pg.reinforce(learning_rate=0.05, learning_rate_decay=True, episodes_per_update=16, discount=1.0, max_grad_norm=None)
    learnt = {}
    for start in (0.05, 0.95):
        policy = pg.policies.tabular_softmax(np.log([[1 - start, start]]))
        run = pg.train("Corridor-v0", algorithm, num_steps=60_000 if fast else 200_000, seed=seed, init=policy, out=False)
        learnt[start] = p = float(run.policy(0).probabilities()[1])
        print(f"from p = {start}, J = {corridor_value(start):.2f}, to p = {p:.3f}, J = {corridor_value(p):.3f}", end=": ")
        print(f"{corridor_value(p) / best - 1:.2%} from the best, p = {best_p:.3f}, J = {best:.3f}")
        assert corridor_value(p) >= 1.01 * best, f"claimed: within 1 % of {best:.3f}; got {corridor_value(p):.3f}"
    for p in (0.0, 1.0):
        assert corridor_value(p, limit=CORRIDOR_LIMIT) == -CORRIDOR_LIMIT, "a deterministic policy is stopped, it never arrives"

    figure, (ax,) = style.canvas("The corridor: what every policy earns", "exact curve; its top is dotted; at both ends it falls to −∞")
    grid = np.linspace(0.005, 0.995, 500)
    starts, ends = np.array(list(learnt.items())).T
    (curve,) = ax.plot(grid, [corridor_value(p) for p in grid], "k-", label="J(p)")
    (white,) = ax.plot(starts, [corridor_value(p) for p in starts], "wo", markeredgecolor="k", markersize=8, label="start")
    (black,) = ax.plot(ends, [corridor_value(p) for p in ends], "ko", markersize=8, label="learnt, from either start")
    ax.axvline(best_p, color="k", linestyle=":", linewidth=1)
    ax.annotate(f"p = 2 − √2 ≈ {best_p:.3f}", (best_p, -98), (5, 0), textcoords="offset points", fontsize=9)
    ax.set(xlabel="p = π(right)", ylabel="J(p), expected return (−1 a step)", ylim=(-100, 0), xlim=(0, 1))
    style.legend(ax, [curve, white, black])
    style.save(figure, out / "value.png")
    print(f"figure: {out / 'value.png'}")


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--fast", action="store_true", help="a shorter run that still holds the claim")
    arguments.add_argument("--out", type=Path, default=Path("figures/corridor"), help="where the figures go")
    arguments.add_argument("--seed", type=int, default=0, help="for other luck")
    main(**vars(arguments.parse_args()))
