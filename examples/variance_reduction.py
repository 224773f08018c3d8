"""Less variance, and what it buys: smaller batches, and higher learning rates.

    ĝ = (1/N) Σ_i Σ_t γ^t ∇ log π(a_t|o_t) (Ψ_t − b)        all of these have the mean ∇J; they differ in Ψ, b and the variance

First exactly, by visiting every batch on `fork`: how much variance each estimator has, and how many episodes it needs for an expected
cosine of 0.9 to the true gradient. Then by training: REINFORCE with plain gradient steps, with the mean of the other episodes as
baseline and without, the same number of episodes in small and in large batches, over a grid of learning rates.

Claims: reward-to-go has less variance than the total return, each baseline less than half of that, and the number of episodes for
a cosine of 0.9 falls with it. With the baseline, batches of 2 learn more at every rate of at least 0.1, and more at their best rate
than batches of any size without it.

    python examples/variance_reduction.py [--fast] [--out DIR] [--seed N]
"""

import argparse
from pathlib import Path

import jax
import numpy as np

import policygrad as pg
from policygrad import lab, oracle
from policygrad.envs import finite_world
from policygrad.report import style
from policygrad.rollout import compiled_collector

EPISODES = 256
BASELINES = ("none", "mean")


def trained(mdp, start, baseline: str, batch: int, rates: np.ndarray, seeds: int, seed: int) -> np.ndarray:
    """The exact value of policies learnt from EPISODES episodes, [rates], the mean over seeds."""

    def run(rate, key):
        form = "same-batch" if baseline == "none" else "leave-one-out"
        algorithm = pg.reinforce(
            baseline=baseline,
            baseline_form=form,
            discount=mdp.discount,
            discount_gradient=True,
            episodes_per_update=batch,
            learning_rate=rate,
            optimizer="sgd",
            max_grad_norm=None,
        )
        collector = compiled_collector(mdp, algorithm.collect, batch)
        agent = algorithm.init(key, pg.Spec(mdp.observation_space, mdp.action_space, batch, mdp.time_limit))
        agent = agent._replace(params=agent.params._replace(policy=start))

        def update(agent, key):
            _, rollout, _ = collector.collect(agent.params.policy, key, ())
            return algorithm.update(key, agent, rollout)[0], None

        agent, _ = jax.lax.scan(update, agent, jax.random.split(key, EPISODES // batch))
        return oracle.objective(mdp, agent.params.policy)

    keys = jax.random.split(jax.random.key(seed), seeds)
    over_seeds = jax.vmap(run, in_axes=(None, 0))
    return np.asarray(jax.jit(jax.vmap(over_seeds, in_axes=(0, None)))(rates, keys)).mean(axis=1)


def main(fast: bool = False, out: Path = Path("figures/variance_reduction"), seed: int = 0) -> None:
    mdp = finite_world("fork")
    wanted = {"total return", "reward-to-go × γ^t", "running mean, settled", "exact V(t, o)"}
    wanted |= set() if fast else {"mean, leave-one-out", "time mean, leave-one-out", "state mean, leave-one-out"}
    rows = lab.compare(mdp, selection=[estimator for estimator in lab.estimators(mdp.discount) if estimator.name in wanted])
    for row in rows:
        print(
            f"{row.name:27} variance {row.relative_variance:5.3f} of plain REINFORCE, {row.trajectories:6.1f} episodes for a cosine of 0.9"
        )
        assert row.unbiased, f"claimed: the mean is ∇J; {row.name} is off by {row.bias}"
    plain, to_go, *others = rows
    assert to_go.variance < plain.variance, "claimed: reward-to-go has less variance than the total return"
    assert all(row.variance < to_go.variance / 2 for row in others), "claimed: each baseline has less than half of that"
    assert np.argsort([row.variance for row in rows]).tolist() == np.argsort([row.trajectories for row in rows]).tolist()

    start = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), lab.default_policy(mdp))
    rates = np.geomspace(0.03, 3.0, 4 if fast else 9).astype(np.float32)
    batches = (2,) if fast else (2, 16)
    learnt = {(b, n): trained(mdp, start, b, n, rates, 64 if fast else 256, seed) for b in BASELINES for n in batches}
    for (b, n), values in learnt.items():
        best = values.argmax()
        print(f"baseline {b}, {n:2} episodes an update: J = {values[best]:.3f} at the best rate, {rates[best]:.2f}: {np.round(values, 2)}")
    high = rates >= 0.1
    assert (learnt["mean", 2] > learnt["none", 2])[high].all(), "claimed: more is learnt at high rates"
    assert learnt["mean", 2].max() > max(learnt["none", n].max() for n in batches), "claimed: and by smaller batches"

    figure, (ax,) = style.canvas(
        "What less variance buys",
        f"REINFORCE on fork, {EPISODES} episodes in batches of N; exact value of what is learnt, mean of seeds",
    )
    lines = [
        ax.plot(rates, values, color=style.COLOURS[BASELINES.index(b)], linestyle=style.LINES[batches.index(n)], marker="o", markersize=4,
                label=f"baseline: {b}, N = {n}")[0]
        for (b, n), values in learnt.items()
    ]  # fmt: skip
    ax.set(xlabel="learning rate", ylabel="J, expected discounted return", xscale="log")
    style.legend(ax, lines)
    style.save(figure, out / "rates.png")
    print(f"figure: {out / 'rates.png'}")


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--fast", action="store_true", help="fewer estimators, rates and seeds, the same claims")
    arguments.add_argument("--out", type=Path, default=Path("figures/variance_reduction"), help="where the figures go")
    arguments.add_argument("--seed", type=int, default=0, help="for other luck")
    main(**vars(arguments.parse_args()))
