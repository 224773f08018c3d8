"""Five actions, numerical preferences, softmax: what can a polynomial with three weights prefer?

    h(a, θ) = θ_0 + θ_1 u + θ_2 u²,  u = −1, −½, 0, ½, 1        π(a) = exp h(a, θ) / Σ_b exp h(b, θ)

From "Policy Gradient Methods in Reinforcement Learning". θ_0 is the same for all arms and cancels. The task
is a bandit with one state and five arms, and the objective has an entropy bonus β, so that the best policy of all is known
and is no corner of the simplex:

    J(π) + β H(π) = const − β KL(π ‖ π*)        π*(a) ∝ exp(mean(a)/β)

What a family of policies cannot represent is then a distance to π*, in nats. If the arm in the middle is best and the
others fall off, the best preferences are a parabola themselves, and three weights reach them. If two arms with a bad one
between them are best, no parabola ranks both first: one with h(−½), h(½) > h(0) is higher still at −1 or 1. Five weights
(degree 4) represent any five preferences.

Claims: the policy's probabilities are the softmax of h; three weights learn to rank the best arm first, with KL(π ‖ π*) below
0.01; with two separated good arms they stay at the best KL that any parabola has, and five weights come below 0.01.

    python examples/preferences.py [--fast] [--out DIR] [--seed N]
"""

import argparse
from pathlib import Path

import numpy as np

import policygrad as pg
from policygrad.policies import Categorical
from policygrad.report import style

U = np.linspace(-1, 1, 5)
BETA = 0.5  # the weight of the entropy, reward per nat
HUMP, HUMPS = 1 - U**2, np.array([0.0, 1.0, 0.0, 1.0, 0.0])  # mean rewards of the arms


def learn(means: np.ndarray, degree: int, num_steps: int, seed: int):
    """θ and π of REINFORCE with polynomial preferences on the bandit with these means."""
    algorithm = pg.reinforce(
        policy=pg.policies.polynomial(degree),
        entropy_bonus=BETA,
        episodes_per_update=32,
        learning_rate=0.2,
        learning_rate_decay=True,
        max_grad_norm=None,
    )
    run = pg.train("Bandit-v0", algorithm, env_args={"means": [means.tolist()]}, num_steps=num_steps, seed=seed, out=False)
    return np.asarray(run.policy.head.weights, np.float64), run.policy(0)


def distance(pi: Categorical, means: np.ndarray) -> float:
    """KL(π ‖ π*) in nats."""
    return float(pi.kl(Categorical(means / BETA)))


def main(fast: bool = False, out: Path = Path("figures/preferences"), seed: int = 0) -> None:
    num_steps = 50_000 if fast else 100_000
    theta, pi = learn(HUMP, 2, num_steps, seed)
    h = theta @ np.stack([U**0, U, U**2])
    by_hand = np.exp(h) / np.exp(h).sum()
    assert np.abs(pi.probabilities() - by_hand).max() < 1e-6, "π is the softmax of h"
    assert h.argmax() == HUMP.argmax() == 2, "the best arm is preferred most"
    print(f"one hump: θ = {theta.round(2)}, the best is (any, 0, {-1 / BETA:g}); KL to the best policy {distance(pi, HUMP):.4f} nats")
    assert distance(pi, HUMP) < 0.01, "three weights reach the best policy if that is a parabola"

    grid = np.linspace(-12, 12, 241)
    parabolas = grid[:, None, None] * U + grid[:, None] * U**2  # every θ_1 and θ_2 on a grid, [241, 241, 5]
    least = float(Categorical(parabolas).kl(Categorical(np.broadcast_to(HUMPS / BETA, parabolas.shape))).min())
    learnt = {degree: learn(HUMPS, degree, num_steps, seed)[1] for degree in (2, 4)}
    print(f"two humps: KL {distance(learnt[2], HUMPS):.3f} nats with three weights, {distance(learnt[4], HUMPS):.4f} with five;", end=" ")
    print(f"no parabola comes below {least:.3f}")
    assert abs(distance(learnt[2], HUMPS) - least) < 0.02, "three weights: as near as a parabola can"
    assert distance(learnt[4], HUMPS) < 0.01, "five weights: arrived"

    figure, axes = style.canvas("Preferences turned into probabilities", f"a bandit of five arms, entropy bonus β = {BETA}", 2, width=9)
    handles = {}
    for ax, (means, policies) in zip(axes, ((HUMP, {2: pi}), (HUMPS, learnt)), strict=True):
        handles[0] = ax.bar(range(5), Categorical(means / BETA).probabilities(), color="0.85", label="best, π* ∝ exp(mean/β)")
        for degree, policy in policies.items():
            look = {"linestyle": "--" if degree == 2 else "-", "marker": "s" if degree == 2 else "o", "markerfacecolor": "w"}
            (handles[degree],) = ax.plot(range(5), policy.probabilities(), color="k", label=f"learnt, {degree + 1} weights", **look)
        ax.set_xlabel("action a")
        style.name_panel(ax, f"mean rewards {', '.join(f'{mean:g}' for mean in means)}")
    axes[0].set_ylabel("probability π(a)")
    style.legend(axes[0], list(handles.values()))
    style.save(figure, out / "probabilities.png")
    print(f"figure: {out / 'probabilities.png'}")


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--fast", action="store_true", help="a shorter run that still holds the claim")
    arguments.add_argument("--out", type=Path, default=Path("figures/preferences"), help="where the figures go")
    arguments.add_argument("--seed", type=int, default=0, help="for other luck")
    main(**vars(arguments.parse_args()))
