"""What the shuffle does to learning: tuned PPO on CartPole-v1 with minibatches in the bijection's order, and in that of a sort.

    python benchmarks/shuffle.py              seeds 0 to 9 of both, half a minute on two cores
    python benchmarks/shuffle.py --seeds 100

`ascent.minibatches.shuffled` takes no sort; here alone `jax.random.permutation` takes its place. Printed: steps of all environments until
the mean of the last 20 episodes reaches 475.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import policygrad as pg

proximal: Any = importlib.import_module("policygrad.ascent.proximal")  # the package has a function of that name

ENV = "CartPole-v1"


def sorted_order(key: Any, size: int, minibatches: int, epochs: int = 1) -> Any:
    """What `shuffled` returns, from uniform permutations."""
    orders = [jax.random.permutation(one, size) for one in jax.random.split(key, epochs)]
    return jnp.stack(orders).astype(jnp.int32).reshape(epochs, minibatches, size // minibatches)


def main(argv: list[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    args = parser.parse_args(argv)
    ours = proximal.shuffled
    print(f"| {ENV}, tuned PPO | steps to solve, median | quartiles | solved |\n|---|---|---|---|")
    for name, shuffle in (("bijection", ours), ("sort", sorted_order)):
        proximal.shuffled = shuffle
        settings = pg.tuned(ENV, "ppo")
        algorithm = settings.algorithm()
        sizes = {"num_envs": settings.num_envs, "num_steps": settings.num_steps}
        run = pg.train(ENV, algorithm, seeds=args.seeds, backend="compiled", until_solved=True, out=False, figures=False, **sizes)
        solved = run.result()["steps_to_solve"]
        values = [float("inf") if steps is None else steps for steps in solved]
        low, high = (np.percentile(values, q, method=how) for q, how in ((25, "lower"), (75, "higher")))
        count = sum(steps is not None for steps in solved)
        print(f"| {name} | {statistics.median(values):,.0f} | {low:,.0f} to {high:,.0f} | {count}/{args.seeds} |", flush=True)
    proximal.shuffled = ours


if __name__ == "__main__":
    main()
