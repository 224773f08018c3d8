"""Rare large rewards: the estimate is right on average, and wrong nearly every time.

    r ← k r        E[ĝ] ← k E[ĝ]        Var[ĝ] ← k² Var[ĝ]

A gamble that pays 100 once in a hundred times is worth twice the sure wage of 0.5, and at π(gamble) = 1/2 the gradient says so. But
from a few episodes it is mostly not seen: without a jackpot in the batch the estimate points at the wage. What N episodes estimate
has a distribution that can be written down, since an episode is one of three: wage, blank, jackpot; their numbers are multinomial. The
three single estimates are the library's own, for each of the three trajectories.

Claims: the variance is k² times as large for rewards k times as large, to 1e-12; the mean over all batches is ∇J to 1e-12 for every N;
and with 20 episodes an update more than 80 % of all estimates point away from the better action.

    python examples/rare_rewards.py [--fast] [--out DIR] [--seed N]
"""

import argparse
from pathlib import Path

import jax
import numpy as np
from scipy.stats import binom

import policygrad as pg
from policygrad import oracle
from policygrad.envs import finite_world
from policygrad.report import style

CHANCE, GAMBLE = 0.01, 1  # of the jackpot; the action that plays for it


def estimates_of(algorithm, mdp, policy) -> dict[str, float]:
    """∂/∂θ(gamble) from a single episode of each kind, by the library's own gradient."""
    trajectories = oracle.enumerate_trajectories(mdp, policy, horizon=1)
    with jax.enable_x64(True):
        agent = algorithm.init(jax.random.key(0), pg.Spec(mdp.observation_space, mdp.action_space, 1, 1))
        agent = agent._replace(params=agent.params._replace(policy=policy))
        found = {}
        for column in range(len(trajectories.probability)):
            rollout = jax.tree.map(lambda leaf: leaf[:, column : column + 1], trajectories.rollout)  # noqa: B023
            kind = "wage" if rollout.action[0, 0] != GAMBLE else "jackpot" if rollout.reward[0, 0] > 0 else "blank"
            found[kind] = float(algorithm.gradient(agent, rollout)[0].policy.head.logits[0, GAMBLE])
    return found


def distribution(single: dict[str, float], number: int) -> tuple[np.ndarray, np.ndarray]:
    """All estimates from N episodes and their probabilities: M of them gamble, and K of those win."""
    gambles, wins = np.indices((number + 1, number + 1))
    probability = binom.pmf(gambles, number, 0.5) * binom.pmf(wins, gambles, CHANCE)
    estimate = ((number - gambles) * single["wage"] + (gambles - wins) * single["blank"] + wins * single["jackpot"]) / number
    likely = probability > 1e-20  # the rest is worth no ink
    return estimate[likely], probability[likely]


def main(fast: bool = False, out: Path = Path("figures/rare_rewards"), seed: int = 0) -> None:
    algorithm = pg.reinforce(baseline="none", discount=1.0)
    with jax.enable_x64(True):
        policy = pg.policies.tabular_softmax(np.zeros((3, 2)))
    mdp = finite_world("rare-reward", chance=CHANCE)
    one = oracle.moments(algorithm, mdp, policy, num_trajectories=1)
    for k in (0.1, 10.0):
        scaled = oracle.moments(algorithm, mdp.replace(rewards=k * mdp.rewards), policy, num_trajectories=1)
        print(f"rewards × {k:g}: variance × {scaled.variance / one.variance:.6g}")
        assert abs(scaled.variance / one.variance / k**2 - 1) < 1e-12, "claimed: the variance grows with the square of the scale"

    slope = float(oracle.policy_gradient(mdp, policy).head.logits[0, GAMBLE])
    single = estimates_of(algorithm, mdp, policy)
    numbers = (20, 100, 1000)
    figure, axes = style.canvas(
        "What N episodes estimate",
        f"cumulative; the truth, {slope:.3f}, is dotted; below 0 the worse action gains",
        3,
        width=9.6,
    )
    for ax, number in zip(axes, numbers, strict=True):
        estimate, probability = distribution(single, number)
        wrong = probability[estimate < 0].sum()
        print(f"{number:5,} episodes: mean {probability @ estimate:.6f}, and {wrong:.1%} of all estimates point the wrong way")
        assert abs(probability @ estimate - slope) < 1e-12, "claimed: right on average"
        assert number > 20 or wrong > 0.8, f"claimed: more than 80 % wrong with 20 episodes; got {wrong:.1%}"
        order = np.argsort(estimate)
        ax.plot(estimate[order], np.cumsum(probability[order]), color=style.COLOURS[0], drawstyle="steps-post")
        ax.axvline(slope, color=style.INK, linestyle=":", linewidth=1)
        ax.axvspan(-5, 0, color=style.COLOURS[1], alpha=0.15, linewidth=0)
        ax.set(xlabel="estimate of ∂J/∂θ(gamble)", xlim=(-1, 3), ylim=(0, 1))
        style.name_panel(ax, f"N = {number:,}: {wrong:.0%} point the wrong way")
    axes[0].set_ylabel("share of all estimates")
    style.save(figure, out / "estimates.png")
    print(f"figure: {out / 'estimates.png'}")


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--fast", action="store_true", help="without effect: it is fast")
    arguments.add_argument("--out", type=Path, default=Path("figures/rare_rewards"), help="where the figures go")
    arguments.add_argument("--seed", type=int, default=0, help="without effect: nothing is sampled")
    main(**vars(arguments.parse_args()))
