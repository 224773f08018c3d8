"""A loop of your own, an algorithm of your own, a baseline of your own; and how to keep a policy and go on from it.

    for progress in pg.iterate(env, algorithm, …)        one update a turn; stop when you like
    algorithm = pg.compose(…)                            a choice for each slot: collect, policy, Ψ, baseline, ascent
    baseline = Baseline(init, centre, fit)               three pure functions: make b, subtract it, move it

Claims: REINFORCE composed of its pieces trains the same policy as the recipe, bit for bit; a saved policy is read back bit
for bit, and training goes on from where it stood; a baseline that is moved before it is used, as in the listing of "Policy
Gradient Methods Tutorial", is `running-mean` with the learning rate times 1 − rate.

    python examples/own_loop.py [--fast] [--out DIR] [--seed N]
"""

import argparse
from functools import partial
from pathlib import Path

import jax
import numpy as np

import policygrad as pg
from policygrad.report import style
from policygrad.statistics import moving_average


def moved_first(rate: float) -> pg.types.Baseline:
    """b ← b + rate (mean(G) − b), then Ψ = G − b: the listing's order. The library's `running_mean` uses b, then moves it."""
    plain = pg.baselines.running_mean(rate)

    def centre(state, params, rollout, advantage, weights):
        centred = plain.centre(state, params, rollout, advantage, weights)
        moved, _ = plain.fit(None, state, params, rollout, centred)
        return plain.centre(moved, params, rollout, advantage, weights)

    return plain._replace(centre=centre)


def loop(algorithm: pg.Algorithm, seed: int) -> pg.RunProgress:
    """A loop of your own: look at every update, stop when the last 20 episodes return 150 on average."""
    for progress in pg.iterate("CartPole-v1", algorithm, num_steps=200_000, seed=seed):
        if progress.mean_return >= 150:
            return progress
    raise AssertionError("150 was not reached in 200,000 steps")


def same(one, other) -> bool:
    """Whether two policies agree in every bit of every parameter."""
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


def main(fast: bool = False, out: Path = Path("figures/own_loop"), seed: int = 0) -> None:
    # 1. An algorithm is a choice for each slot. This is all there is to REINFORCE:
    composed = pg.compose(
        "my reinforce",
        {},
        collect=pg.rollout.episodes(8),
        policy=pg.policies.default(hidden_sizes=(32,)),
        advantage=partial(pg.advantages.reward_to_go, discount=0.99),
        baseline=pg.baselines.mean(),
        ascent=pg.ascent.gradient_ascent(pg.gradients.accumulated(pg.gradients.score_function()), learning_rate=0.02),
    )
    recipe = pg.reinforce(hidden_sizes=(32,), episodes_per_update=8, learning_rate=0.02, max_grad_norm=None)

    first = loop(composed, seed)
    assert same(first.policy, loop(recipe, seed).policy), "claimed: equal slots, equal bits"
    print(f"composed and recipe: equal bits after {first.iteration} updates, {first.steps:,} steps, mean return {first.mean_return:.0f}")

    # 2. Keep the policy, read it back, go on from it.
    out.mkdir(parents=True, exist_ok=True)
    pg.save(first.policy, out / "policy.safetensors")
    loaded = pg.load(out / "policy.safetensors")
    assert same(first.policy, loaded), "claimed: read back bit for bit"
    second = pg.train("CartPole-v1", recipe, num_steps=10_000 if fast else 40_000, seed=seed + 1, init=loaded, out=False)
    begins = second.returns[:20].mean()
    print(f"warm start: its first 20 episodes return {begins:.0f} on average, where a fresh policy returns {first.returns[:20].mean():.0f}")
    assert begins > 2 * first.returns[:20].mean(), "claimed: training goes on from where it stood"

    # 3. A baseline of your own, in a slot of a recipe. One pull an update, plain gradient steps: θ ← θ + α (G − b) ∇ log π.
    rate, bandit = 0.1, partial(pg.reinforce, optimizer="sgd", episodes_per_update=1, max_grad_norm=None)
    ours = pg.train("Bandit-v0", bandit(baseline=moved_first(rate), learning_rate=0.2), num_steps=500, seed=seed, out=False)
    running = bandit(baseline="running-mean", baseline_rate=rate, learning_rate=0.2 * (1 - rate))
    theirs = pg.train("Bandit-v0", running, num_steps=500, seed=seed, out=False)
    apart = np.abs(ours.policy.head.logits - theirs.policy.head.logits).max()
    print(f"moving the baseline first = running-mean with α (1 − rate): logits differ by {apart:.1e} after 500 updates")
    assert apart < 1e-4, f"claimed: the same path up to rounding; got a difference of {apart}"

    figure, (ax,) = style.canvas(
        "Stopped, saved, loaded, continued", "moving average of 20 episodes; of the 8 in an update the short ones come first"
    )
    before = moving_average(first.returns)
    (one,) = ax.plot(before, "k--", label="first loop, stopped at 150")
    (two,) = ax.plot(len(before) + np.arange(len(second.returns)), moving_average(second.returns), "k-", label="warm start from the file")
    ax.set(xlabel="episodes", ylabel="return of an episode (sum of rewards)", xlim=(0, None), ylim=(0, 510))
    style.legend(ax, [one, two])
    style.save(figure, out / "warm_start.png")
    print(f"figure: {out / 'warm_start.png'}")


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--fast", action="store_true", help="a shorter run that still holds the claim")
    arguments.add_argument("--out", type=Path, default=Path("figures/own_loop"), help="where the figures go")
    arguments.add_argument("--seed", type=int, default=0, help="for other luck")
    main(**vars(arguments.parse_args()))
