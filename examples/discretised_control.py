"""Continuous control with a grid of actions, and without: what does the grid cost?

    r = −(a − g)²,  g ~ Uniform[−1, 1]        best on a grid of spacing h: −h²/12        best without: 0

The target g is shown, and the action a should hit it. A value-based method needs a list of actions to take the best of,
here 3, 5 or 11 evenly spaced ones; a Gaussian policy N(μ(g), σ²) gives the number itself. The nearest grid
point is at a distance uniform in [0, h/2], so a grid loses at least h²/12, however well its policy is learnt.

All four learn with the same network. The grids have an entropy bonus: without it REINFORCE settles on a few of the actions
and forgets the others, which costs more than the grid. What is compared is the likeliest action, without the noise of
exploring, over 2,000 evenly spaced targets.

Claims: the best policy on each grid earns −h²/12; each learnt one comes within 0.002 of that, and none beyond; the learnt
Gaussian loses less than half of what the *best* policy on 11 actions does.

    python examples/discretised_control.py [--fast] [--out DIR] [--seed N]
"""

import argparse
from pathlib import Path

import numpy as np

import policygrad as pg
from policygrad.envs.small_worlds import target_best_value
from policygrad.report import style

TARGETS = (np.arange(2_000, dtype=np.float32)[:, None] + 0.5) / 1_000 - 1  # midpoints of [−1, 1]
NAMES = {3: "3 actions", 5: "5 actions", 11: "11 actions", None: "Gaussian"}


def value_of_mode(policy, levels: int | None) -> float:
    """The mean reward of the likeliest action, by the midpoint rule over the targets."""
    action = np.asarray(policy(TARGETS).mode())
    place = np.clip(action, -1, 1) if levels is None else np.linspace(-1, 1, levels)[action][:, None]
    return float(-np.mean((place - TARGETS) ** 2))


def main(fast: bool = False, out: Path = Path("figures/discretised_control"), seed: int = 0) -> None:
    curves = {}
    for levels in NAMES:
        algorithm = pg.reinforce(
            hidden_sizes=(32,),
            learning_rate=0.03,
            learning_rate_decay=True,
            entropy_bonus=0.1 if levels else 0.0,
            episodes_per_update=64,
            max_grad_norm=None,
        )
        arguments = {"levels": levels} if levels else {}
        progress = pg.iterate("Target-v0", algorithm, env_args=arguments, num_steps=50_000 if fast else 150_000, seed=seed, every=10)
        curves[levels] = np.array([(p.steps, value_of_mode(p.policy, levels)) for p in progress])
        value = curves[levels][-1, 1]
        print(f"{NAMES[levels]}: earns {value:+.5f}; the best policy there earns {target_best_value(levels):+.5f}")
        if levels:
            nearest = np.abs(np.linspace(-1, 1, levels) - TARGETS).min(axis=1)
            assert np.isclose(-np.mean(nearest**2), target_best_value(levels), rtol=1e-3), "the best on the grid is −h²/12"
            assert target_best_value(levels) - 2e-3 < value < target_best_value(levels) + 1e-4, f"{levels} actions: at the bound"
        else:
            assert value > target_best_value(11) / 2, "a Gaussian beats the best policy on 11 actions"

    figure, (left, right) = style.canvas(
        "What a grid of actions costs",
        "loss of the likeliest action; dotted: the least that a grid of this spacing must lose, h²/12",
        2,
        width=9,
    )
    handles = []
    for (levels, curve), marker in zip(curves.items(), style.MARKERS, strict=False):
        steps, loss = curve[:, 0], -curve[:, 1]
        look = {"color": "k", "marker": marker, "markerfacecolor": "w"}
        handles += left.plot(steps, loss, linewidth=0.9, markevery=len(steps) // 6, label=NAMES[levels], **look)
        if levels:
            left.axhline(-target_best_value(levels), color="k", linestyle=":", linewidth=1)
            right.plot(levels, loss[-1], linestyle="none", **look)
        else:
            right.axhline(loss[-1], color="k", linewidth=0.9)
            right.plot(2, loss[-1], clip_on=False, **look)
    grids = np.arange(2, 22)
    (bound,) = right.plot(grids, [-target_best_value(int(n)) for n in grids], "k:", label="best on a grid, exactly")
    left.set(ylabel="loss, −J (squared distance)", yscale="log")
    style.steps_axis(left, max(curve[-1, 0] for curve in curves.values()))
    style.name_panel(left, "while learning")
    right.set(xlabel="actions in the grid", xlim=(2, 21), xticks=[2, 3, 5, 11, 21])
    style.name_panel(right, "in the end")
    style.legend(left, [*handles, bound], width=9)
    style.save(figure, out / "loss.png")
    print(f"figure: {out / 'loss.png'}")


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--fast", action="store_true", help="a shorter run that still holds the claim")
    arguments.add_argument("--out", type=Path, default=Path("figures/discretised_control"), help="where the figures go")
    arguments.add_argument("--seed", type=int, default=0, help="for other luck")
    main(**vars(arguments.parse_args()))
