"""A constant added to all rewards: it changes nothing that can be learnt, and how hard it is to learn it.

    r ← r + c        ∇J stays, since E[∇ log π(a|o) · c] = 0        Var[ĝ] grows with c²

On a world of two states whose episodes all have three steps, by exact moments: every batch of two episodes is visited, none is
sampled. A baseline that takes the constant away again leaves the variance as it is, to the last digit: each step's mean over the
other episode of the batch, or the mean return where whole returns are credited.

Where actions decide how long an episode lasts, a constant is no mere offset: it is a wage for each step, and the gradient changes.
`fork`, whose episodes may end early, shows that.

Claims: without a baseline the mean of the estimate stays to 1e-12, and its variance is a parabola in c; with either baseline both
stay; in `fork` ∇J changes by more than a tenth.

    python examples/constant_reward.py [--fast] [--out DIR] [--seed N]
"""

import argparse
from functools import partial
from pathlib import Path

import numpy as np

import policygrad as pg
from policygrad import oracle
from policygrad.envs import FiniteMDP, finite_world
from policygrad.lab import default_policy
from policygrad.report import style

WORLD = FiniteMDP(
    transitions=[[[0.7, 0.3], [0.2, 0.8]], [[0.5, 0.5], [1.0, 0.0]]],
    rewards=[[1.0, 2.0], [3.0, 0.5]],
    initial=[1.0, 0.0],
    discount=0.9,
    time_limit=3,
)
REINFORCE = partial(pg.reinforce, discount=WORLD.discount)
ALGORITHMS = {
    "total return": REINFORCE(baseline="none", credit="total-return"),
    "reward-to-go": REINFORCE(baseline="none", discount_gradient=True),
    "total return − mean": REINFORCE(baseline="mean", baseline_form="leave-one-out", credit="total-return"),
    "reward-to-go − time mean": REINFORCE(baseline="time-mean", baseline_form="leave-one-out", discount_gradient=True),
}


def shifted(mdp: FiniteMDP, constant: float) -> FiniteMDP:
    """The same world, with the constant added to all rewards."""
    return mdp.replace(rewards=mdp.expected_rewards + constant)


def main(fast: bool = False, out: Path = Path("figures/constant_reward"), seed: int = 0) -> None:
    policy, constants = default_policy(WORLD), np.arange(-4.0, 5.0, 4.0 if fast else 1.0)
    gradient = oracle.flatten(oracle.policy_gradient(WORLD, policy))
    variances = {}
    for name, algorithm in ALGORITHMS.items():
        moments = [oracle.moments(algorithm, shifted(WORLD, c), policy, num_trajectories=2) for c in constants]
        variances[name] = variance = np.array([m.variance for m in moments])
        moved = max(np.abs(m.mean - gradient).max() for m in moments)
        print(f"{name:25} the mean moves by {moved:.0e}, the variance lies between {variance.min():.3f} and {variance.max():.3f}")
        assert moved < 1e-12, f"claimed: the mean stays; it moved by {moved}"
        if "−" in name:
            assert np.ptp(variance) < 1e-10, "claimed: with the baseline the variance stays"
        else:
            parabola = np.polynomial.Polynomial.fit(constants, variance, 2)
            assert np.abs(parabola(constants) - variance).max() < 1e-10, "claimed: a parabola in c"
            assert variance.max() > 3 * variance.min(), "claimed: without a baseline the variance changes"

    fork = finite_world("fork")
    before, after = (oracle.flatten(oracle.policy_gradient(shifted(fork, c), default_policy(fork))) for c in (0.0, 1.0))
    change = np.linalg.norm(after - before) / np.linalg.norm(before)
    print(f"fork, whose episodes may end early: a wage of 1 a step changes its gradient by {change:.0%}")
    assert change > 0.1, "claimed: where actions decide the length of an episode, the gradient changes"

    figure, (ax,) = style.canvas(
        "A constant added to all rewards", "exact variance of estimates from two episodes; their mean is always ∇J"
    )
    lines = [
        ax.plot(constants, variance, color=colour, linestyle=line, marker="o", label=name)[0]
        for (name, variance), colour, line in zip(variances.items(), style.COLOURS, style.LINES, strict=False)
    ]
    ax.set(xlabel="c, added to every reward", ylabel="variance of ĝ (its trace)", yscale="log")
    style.legend(ax, lines)
    style.save(figure, out / "variance.png")
    print(f"figure: {out / 'variance.png'}")


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--fast", action="store_true", help="fewer constants, the same claims")
    arguments.add_argument("--out", type=Path, default=Path("figures/constant_reward"), help="where the figures go")
    arguments.add_argument("--seed", type=int, default=0, help="without effect: nothing is sampled")
    main(**vars(arguments.parse_args()))
