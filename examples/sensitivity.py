"""What the settings do: learning rate, discount, entropy bonus and gradient clipping, one at a time, on CartPole.

    θ ← θ + α clip(∇[J_γ + β H])        clip(g) = g min(1, c / |g|)

Advantage actor-critic with plain gradient steps, so that a step is as long as α and c say. One program trains all settings and seeds side
by side: the recipe is built inside the mapped function, and the four numbers are what is mapped over. The score is the mean return of
the episodes in the last quarter of the run. After the parameter table of a lesson on policy gradient methods.

Claims: the best learning rate is at least twice as good as the smallest and as the largest; a discount of 0.3 looks ahead too little to
learn half as much; an entropy bonus of 1 keeps the policy more random than none, and costs return; without clipping the same learning
rate ends worse than it began.

    python examples/sensitivity.py [--fast] [--out DIR] [--seed N]
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import policygrad as pg
from policygrad.report import style
from policygrad.rollout import compiled_collector

ENVS, LENGTH = 8, 16
USUAL = {"learning_rate": 1.0, "discount": 0.98, "entropy_bonus": 0.01, "max_grad_norm": 0.5}
NAMES = {"learning_rate": "α, learning rate", "discount": "γ, discount", "entropy_bonus": "β, entropy bonus", "max_grad_norm": "c, clip"}
FEW = {"learning_rate": (0.03, 1.0, 30.0), "discount": (0.3, 0.98), "entropy_bonus": (0.0, 1.0), "max_grad_norm": (0.5, 500.0)}
MANY = {
    "learning_rate": (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0),
    "discount": (0.3, 0.6, 0.8, 0.9, 0.95, 0.98, 0.99),
    "entropy_bonus": (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
    "max_grad_norm": (0.05, 0.15, 0.5, 1.5, 5.0, 50.0, 500.0),
}


def learnt(settings: dict[str, np.ndarray], seeds: int, updates: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean return at the end, and the policy's entropy in nats, of settings [N] and seeds: [N, seeds] each."""
    env = pg.make("CartPole-v1")

    def run(settings, key):
        algorithm = pg.a2c(optimizer="sgd", rollout_length=LENGTH, hidden_sizes=(16,), **settings)
        collector = compiled_collector(env, algorithm.collect, ENVS)
        agent_key, env_key, run_key = jax.random.split(key, 3)
        agent = algorithm.init(agent_key, pg.Spec(env.observation_space, env.action_space, ENVS, env.time_limit))

        def iteration(state, key):
            agent, envs = state
            envs, rollout, _ = collector.collect(algorithm.policy(agent), key, envs)
            agent, metrics = algorithm.update(key, agent, rollout)
            ends = jnp.sum(rollout.terminated | rollout.truncated)
            return (agent, envs), jnp.stack([rollout.reward.sum(), ends, metrics["entropy"]])

        _, found = jax.lax.scan(iteration, (agent, collector.init(env_key)), jax.random.split(run_key, updates))
        rewards, ends, _ = found[-(updates // 4) :].sum(axis=0)
        return rewards / jnp.maximum(ends, 1), found[-1, 2]

    number = len(settings["discount"])
    pairs = {name: np.repeat(values, seeds) for name, values in settings.items()}
    keys = jax.random.split(jax.random.key(seed), seeds)[np.tile(np.arange(seeds), number)]
    return jax.tree.map(lambda leaf: np.asarray(leaf).reshape(number, seeds), jax.jit(jax.vmap(run))(pairs, keys))


def main(fast: bool = False, out: Path = Path("figures/sensitivity"), seed: int = 0) -> None:
    values = FEW if fast else MANY
    rows = [(name, value) for name, several in values.items() for value in several]
    settings = {name: np.array([value if name == varied else USUAL[name] for varied, value in rows], np.float32) for name in USUAL}
    returns, entropies = learnt(settings, 2 if fast else 8, 150 if fast else 300, seed)
    score = dict(zip(rows, returns.mean(axis=1).tolist(), strict=True))
    entropy = dict(zip(rows, entropies.mean(axis=1).tolist(), strict=True))
    for name, several in values.items():
        print(f"{NAMES[name]:17}", ", ".join(f"{value:g}: {score[name, value]:.0f}" for value in several))
    rates = [score["learning_rate", value] for value in values["learning_rate"]]
    assert max(rates) > 2 * max(rates[0], rates[-1]), "claimed: too small and too large a step both cost half"
    assert score["discount", 0.98] > 2 * score["discount", 0.3], "claimed: looking ahead too little costs half"
    assert entropy["entropy_bonus", 1.0] > entropy["entropy_bonus", 0.0], "claimed: the bonus keeps the policy random"
    assert score["entropy_bonus", 1.0] < score["entropy_bonus", 0.0], "claimed: and too much of it costs return"
    assert score["max_grad_norm", 500.0] < 20 < score["max_grad_norm", 0.5], "claimed: without clipping, worse than the 20 of a coin"

    told = f"A2C with plain gradient steps on CartPole; mean and range of {returns.shape[1]} seeds; dotted: what the others have meanwhile"
    figure, axes = style.canvas("What the settings do", told, len(values), width=11.0)
    for ax, (name, several) in zip(axes, values.items(), strict=True):
        found = returns[[rows.index((name, value)) for value in several]]
        places = range(len(several))
        ax.plot(places, found.mean(axis=1), "o-", color=style.COLOURS[0], markersize=4)
        ax.fill_between(places, found.min(axis=1), found.max(axis=1), color=style.COLOURS[0], alpha=0.15, linewidth=0)
        ax.axvline(np.interp(USUAL[name], several, places), color=style.FAINT, linestyle=":")
        ax.set_xticks(places, [f"{value:g}" for value in several])
        style.name_panel(ax, NAMES[name])
    axes[0].set_ylabel("mean return at the end")
    style.save(figure, out / "settings.png")
    print(f"figure: {out / 'settings.png'}")


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--fast", action="store_true", help="fewer values, seeds and updates, the same claims")
    arguments.add_argument("--out", type=Path, default=Path("figures/sensitivity"), help="where the figures go")
    arguments.add_argument("--seed", type=int, default=0, help="for other luck")
    main(**vars(arguments.parse_args()))
