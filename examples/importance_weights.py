"""Importance weights: the product over a trajectory explodes with the horizon, the first-order weights do not, and pay in bias.

    whole trajectory   w_t = Π_k ρ_k      per decision   w_t = Π_{k≤t} ρ_k      per step   w_t = ρ_t      ρ_t = π(a_t|o_t) / b(a_t|o_t)

Data of a behaviour policy b, the gradient of another policy π. The product is unbiased and its variance grows exponentially with the
number of steps; the first-order approximation keeps only the ratio of the step itself. It ignores that b visits other states and earns
other returns, an error that vanishes as the policies approach each other. Exact: every trajectory of every horizon is visited.

In the world, action 0 stays in one of two states, action 1 changes it, and nothing ends before the horizon.

Claims: product weights are unbiased to 1e-10 at every horizon, and E[w²] of the whole trajectory grows by a factor of more than 1.5 a
step; at the longest horizon the variance of its estimate is more than ten times that of the first-order one, whose bias is 0 at π = b
and grows with the distance between the policies.

    python examples/importance_weights.py [--fast] [--out DIR] [--seed N]
"""

import argparse
from pathlib import Path

import jax
import numpy as np

import policygrad as pg
from policygrad import oracle
from policygrad.envs import FiniteMDP
from policygrad.report import style

WORLD = FiniteMDP(
    transitions=[[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]],
    rewards=[[0.0, 1.0], [1.0, 0.0]],
    initial=[1.0, 0.0],
    discount=0.9,
    time_limit=3,
)
TARGET = np.array([[0.5, -0.5], [-0.3, 0.3]])  # logits of π
AWAY = np.array([[-1.0, 1.0], [-1.0, 1.0]])  # the direction in which b differs: towards action 1
NAMES = ("trajectory", "per-decision", "per-step")


def tabular(logits: np.ndarray):
    with jax.enable_x64(True):
        return pg.policies.tabular_softmax(logits)


def main(fast: bool = False, out: Path = Path("figures/importance_weights"), seed: int = 0) -> None:
    policy, behaviour = tabular(TARGET), tabular(TARGET + 0.8 * AWAY)
    weigh = {name: pg.reinforce(baseline="none", discount=WORLD.discount, discount_gradient=True, weight=name) for name in NAMES}

    horizons = np.array([1, 3, 7] if fast else [1, 2, 3, 4, 5, 6, 7, 8, 9])
    found = {name: [] for name in NAMES}
    squares = []
    for horizon in horizons:
        mdp = WORLD.replace(time_limit=int(horizon))
        for name, algorithm in weigh.items():
            found[name].append(oracle.moments(algorithm, mdp, policy, num_trajectories=1, behaviour=behaviour))
        of_b, of_pi = (oracle.enumerate_trajectories(mdp, p, horizon=int(horizon)).probability for p in (behaviour, policy))
        squares.append((of_pi**2 / of_b).sum())  # E_b[w²]
    growth = (squares[-1] / squares[0]) ** (1 / (horizons[-1] - horizons[0]))
    print(f"E[w²] of the whole trajectory: {', '.join(f'{s:.3g}' for s in squares)} at {horizons} steps: × {growth:.2f} a step")
    assert growth > 1.5, f"claimed: exponential growth; got a factor of {growth} a step"
    variance = {name: np.array([m.variance for m in moments]) for name, moments in found.items()}
    bias = {name: np.array([np.linalg.norm(m.bias) for m in moments]) for name, moments in found.items()}
    for name in NAMES:
        print(f"{name:13} variance {np.round(variance[name], 2)}, bias {np.round(bias[name], 4)}")
    assert max(bias["trajectory"].max(), bias["per-decision"].max()) < 1e-10, "claimed: products are unbiased"
    assert variance["trajectory"][-1] > 10 * variance["per-step"][-1], "claimed: the first-order weights do not explode"

    distances = np.array([0.0, 0.5, 1.0] if fast else [0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0])
    errors = []
    for distance in distances:
        m = oracle.moments(weigh["per-step"], WORLD, policy, num_trajectories=1, behaviour=tabular(TARGET + distance * AWAY))
        errors.append(np.linalg.norm(m.bias) / np.linalg.norm(m.target))
    print(f"first-order weights, logits of b away from π by {distances}: bias {np.round(errors, 3)} of |∇J|")
    assert errors[0] < 1e-12, "claimed: no bias at π = b"
    assert (np.diff(errors) > 0).all(), "claimed: the bias grows with the distance"

    figure, (left, right) = style.canvas("The price of another policy's data", "exact, an episode an update", 2, width=9.6, common=False)
    lines = [
        left.plot(horizons, variance[name], color=colour, linestyle=line, marker="o", markersize=4, label=name)[0]
        for name, colour, line in zip(NAMES, style.COLOURS, style.LINES, strict=False)
    ]
    left.set(xlabel="steps of an episode", ylabel="variance of ĝ (its trace)", yscale="log")
    style.name_panel(left, "variance")
    style.legend(left, lines, width=9.6)
    right.plot(distances, errors, color=style.COLOURS[2], linestyle=style.LINES[2], marker="o", markersize=4)
    right.set(xlabel="distance between the policies' logits", ylabel="|E[ĝ] − ∇J| / |∇J|", ylim=(0, None))
    style.name_panel(right, "bias of per-step, the only one that has any")
    style.save(figure, out / "weights.png")
    print(f"figure: {out / 'weights.png'}")


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--fast", action="store_true", help="fewer horizons, the same claims")
    arguments.add_argument("--out", type=Path, default=Path("figures/importance_weights"), help="where the figures go")
    arguments.add_argument("--seed", type=int, default=0, help="without effect: nothing is sampled")
    main(**vars(arguments.parse_args()))
