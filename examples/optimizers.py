"""Adam against plain gradient steps, with small and with large batches.

    plain: θ ← θ + α ĝ        Adam: θ ← θ + α m / (√v + ε), with m and v the running means of ĝ and ĝ²

Adam divides the gradient by its size, so its rate is a length in θ; the plain rate is a length over a gradient, and has to be found anew
for every task, since ĝ is as large as the rewards are. REINFORCE on `fork`, the same number of episodes in batches of N, over learning
rates, with the rewards as they are and 100 times as large; the value of what is learnt is exact. After "Policy Gradients in
Reinforcement Learning", a lecture summary, section 7.3: large batches; Adam is acceptable, SGD is hard to tune.

Claims: where rewards are 100 times as large, the plain gradient's best rate is a hundredth, and no rate of Adam's learns anything else
than before, to 1 %; each comes within 2 % of the best memoryless policy at its best rate; at the highest rate large batches learn more.

    python examples/optimizers.py [--fast] [--out DIR] [--seed N]
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

EPISODES, SCALES, SMALL, LARGE = 512, (1.0, 100.0), 4, 64
OPTIMIZERS = {"sgd": "plain gradient", "adam": "Adam"}


def learnt(mdp, start, optimizer: str, batch: int, rates: np.ndarray, seeds: int, seed: int):
    """Policies learnt from EPISODES episodes: each leaf [scales × rates × seeds, …]."""

    def run(scale, rate, key):
        algorithm = pg.reinforce(
            baseline="mean",
            baseline_form="leave-one-out",
            discount=mdp.discount,
            discount_gradient=True,
            episodes_per_update=batch,
            learning_rate=rate,
            optimizer=optimizer,
            max_grad_norm=None,
        )
        collector = compiled_collector(mdp, algorithm.collect, batch)
        agent = algorithm.init(key, pg.Spec(mdp.observation_space, mdp.action_space, batch, mdp.time_limit))
        agent = agent._replace(params=agent.params._replace(policy=start))

        def update(agent, key):
            _, rollout, _ = collector.collect(agent.params.policy, key, ())
            return algorithm.update(key, agent, rollout._replace(reward=scale * rollout.reward))[0], None

        agent, _ = jax.lax.scan(update, agent, jax.random.split(key, EPISODES // batch))
        return agent.params.policy

    scale, rate, luck = (each.ravel() for each in np.meshgrid(np.float32(SCALES), rates, np.arange(seeds), indexing="ij"))
    return jax.jit(jax.vmap(run))(scale, rate, jax.random.split(jax.random.key(seed), seeds)[luck])


def main(fast: bool = False, out: Path = Path("figures/optimizers"), seed: int = 0) -> None:
    mdp = finite_world("fork")
    start = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), lab.default_policy(mdp))
    best = oracle.best_memoryless(mdp).value
    rates = np.geomspace(1e-4, 1e2, 7 if fast else 19).astype(np.float32)
    value = jax.jit(jax.vmap(lambda policy: oracle.objective(mdp, policy)))
    seeds = 32 if fast else 64
    found = {
        (o, n): np.asarray(value(learnt(mdp, start, o, n, rates, seeds, seed))).reshape(len(SCALES), len(rates), seeds).mean(axis=2)
        for o in OPTIMIZERS
        for n in (SMALL, LARGE)
    }
    for (o, n), (usual, scaled) in found.items():
        rate, other = rates[usual.argmax()], rates[scaled.argmax()]
        print(f"{OPTIMIZERS[o]:14} N = {n:2}: J = {usual.max():.3f}, best rate {rate:.0e}, and {other:.0e} for rewards × {SCALES[1]:g}")
        assert usual.max() > 0.98 * best, "claimed: within 2 % of the best at its best rate"
        if o == "sgd":
            assert abs(rate / other / SCALES[1] - 1) < 1e-3, "claimed: the plain gradient's best rate is a hundredth"
        else:
            assert np.abs(scaled - usual).max() < 0.01 * best, "claimed: Adam learns the same"
    assert all(found[o, LARGE][0, -1] > found[o, SMALL][0, -1] for o in OPTIMIZERS), "claimed: large batches stand higher rates"

    told = f"REINFORCE on fork, {EPISODES} episodes in batches of N; exact value of what is learnt, mean of seeds; dotted: the best"
    figure, axes = style.canvas("What learning rate? It depends on the rewards' scale, or not", told, 2, width=9.6)
    for ax, (o, name) in zip(axes, OPTIMIZERS.items(), strict=True):
        lines = [
            ax.plot(rates, found[o, n][k], color=style.COLOURS[k], linestyle=style.LINES[n == LARGE], marker=style.MARKERS[n == LARGE],
                    markersize=4, label=f"N = {n}, rewards × {scale:g}")[0]
            for n in (SMALL, LARGE) for k, scale in enumerate(SCALES)
        ]  # fmt: skip
        ax.axhline(best, color=style.INK, linestyle=":", linewidth=1)
        ax.set(xscale="log", xlabel="learning rate")
        style.name_panel(ax, name if o == "sgd" else f"{name}: rewards × 1 and × 100 coincide")
    axes[0].set_ylabel("J, expected discounted return")
    style.legend(axes[0], lines, width=9.6)
    style.save(figure, out / "rates.png")
    print(f"figure: {out / 'rates.png'}")


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--fast", action="store_true", help="fewer rates and seeds, the same claims")
    arguments.add_argument("--out", type=Path, default=Path("figures/optimizers"), help="where the figures go")
    arguments.add_argument("--seed", type=int, default=0, help="for other luck")
    main(**vars(arguments.parse_args()))
