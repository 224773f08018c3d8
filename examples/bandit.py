"""The stochastic bandit: REINFORCE with a running-mean baseline learns the best arm of every state.

    π(a|s) ∝ exp(θ·φ(s, a))               ∇ log π(a|s) = φ(s, a) − Σ_b π(b|s) φ(s, b)
    θ ← θ + α (G − b) ∇ log π(a|s)        then        b ← b + rate · (G − b)

An episode is one step: a state is shown, an arm is pulled, a noisy reward G is paid, and θ moves. From "Policy Gradient
Methods Tutorial", with its two figures. Here the baseline is used before it is moved. The tutorial's
listing moves it first, and G minus the moved baseline is (1 − rate)(G − b): the same path, but every step of θ is scaled by
1 − rate (`own_loop.py` shows that).

Claim: the exact value of the learnt policy, (1/S) Σ_s Σ_a π(a|s) mean(s, a) and not a sample of rewards, is within 1 % of
the best. What is missing is the price of trying other arms: the policy stays stochastic.

    python examples/bandit.py [--fast] [--out DIR] [--seed N]
"""

import argparse
from pathlib import Path

import jax
import numpy as np

import policygrad as pg
from policygrad.envs.small_worlds import BANDIT_MEANS, bandit_best_value, bandit_value
from policygrad.report import heatmap, style
from policygrad.statistics import moving_average

NUM_STATES, NUM_ACTIONS = np.shape(BANDIT_MEANS)


def phi(state, action):
    """φ(s, a): a feature of its own for every pair."""
    return jax.nn.one_hot(state * NUM_ACTIONS + action, NUM_STATES * NUM_ACTIONS)


def main(fast: bool = False, out: Path = Path("figures/bandit"), seed: int = 0) -> None:
    algorithm = pg.reinforce(
        policy=pg.policies.state_action(phi),
        baseline="running-mean",
        baseline_rate=0.05,
        episodes_per_update=1,
        optimizer="sgd",
        learning_rate=0.3,
        discount=1.0,
        max_grad_norm=None,
    )
    run = pg.train("Bandit-v0", algorithm, num_steps=4_000 if fast else 6_000, seed=seed, out=False)

    probabilities = run.policy(np.arange(NUM_STATES)).probabilities()  # π(a|s), [S, A]
    value, best = bandit_value(probabilities), bandit_best_value()
    print(f"after {len(run.returns):,} pulls the policy earns {value:.4f} a pull, {1 - value / best:.2%} less than the best, {best:.4f}")
    assert value >= 0.99 * best, f"claimed: within 1 % of {best}; got {value}"

    figure, (ax,) = style.canvas("The bandit: return of each episode", "REINFORCE with a running-mean baseline, one pull an episode")
    pulls = np.arange(1, len(run.returns) + 1)
    (dots,) = ax.plot(pulls, run.returns, ".", color="0.6", markersize=2, label="one episode")
    (line,) = ax.plot(pulls, moving_average(run.returns, 100), "k-", label="moving average of 100")
    limit = ax.axhline(best, color="k", linestyle="--", linewidth=1, label=f"best policy, exactly {best:.3f}")
    ax.set(xlabel="episodes (one pull each)", ylabel="return of an episode (reward)", xlim=(0, len(pulls)))
    style.legend(ax, [dots, line, limit])
    style.save(figure, out / "returns.png")
    states = [f"{state} (best arm {arm})" for state, arm in enumerate(np.argmax(BANDIT_MEANS, axis=1))]
    heatmap(probabilities, out / "heatmap.png", "The bandit: the learnt policy", state_labels=states)
    print(f"figures: {out / 'returns.png'}, {out / 'heatmap.png'}")


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--fast", action="store_true", help="a shorter run that still holds the claim")
    arguments.add_argument("--out", type=Path, default=Path("figures/bandit"), help="where the figures go")
    arguments.add_argument("--seed", type=int, default=0, help="for other luck")
    main(**vars(arguments.parse_args()))
