"""How many steps learning takes: REINFORCE's defaults on CartPole-v1.

    python benchmarks/learning.py              ten seeds with two baselines on both backends, about two minutes on two cores
    python benchmarks/learning.py --json       one object instead of Markdown

Steps of all environments until the mean of the last 20 episodes reaches 475; a seed that did not get there counts as infinite.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from typing import Any

import jax
import numpy as np

import policygrad as pg

ENV = "CartPole-v1"


def learning(backend: str, baseline: Any, seeds: int, num_steps: int) -> dict[str, Any]:
    """Steps to solve over seeds, with the recipe's defaults."""
    run = pg.train(
        ENV, pg.reinforce(baseline=baseline), num_steps=num_steps, seeds=seeds, backend=backend, until_solved=True, out=False, figures=False
    )
    solved = run.result()["steps_to_solve"]
    values = [float("inf") if steps is None else steps for steps in solved]
    # Order statistics, not interpolation: a seed that did not solve must not turn its neighbours infinite.
    lower, upper = float(np.percentile(values, 25, method="lower")), float(np.percentile(values, 75, method="higher"))
    return {
        "what": f"--baseline {baseline}, {backend}",
        "median": statistics.median(values),
        "quartiles": [lower, upper],
        "solved": f"{sum(steps is not None for steps in solved)}/{len(solved)}",
        "steps_to_solve": solved,
        "seconds": run.run_seconds,
    }


def main(argv: list[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--num-steps", type=int, default=300_000, help="budget of a seed")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    report: dict[str, Any] = {"device": jax.devices()[0].device_kind, "jax": jax.__version__, "policygrad": pg.__version__}
    report["learning"] = [
        learning(backend, baseline, args.seeds, args.num_steps) for baseline in ("none", "mean") for backend in ("gymnasium", "compiled")
    ]
    if args.json:
        print(json.dumps(report))
        return
    write = sys.stdout.write
    write(f"device {report['device']}, jax {report['jax']}, policygrad {report['policygrad']}\n")
    write("\n| CartPole-v1, defaults of `reinforce` | steps to solve, median | quartiles | solved |\n|---|---|---|---|\n")
    for row in report["learning"]:
        low, high = row["quartiles"]
        write(f"| `{row['what']}` | {row['median']:,.0f} | {low:,.0f} to {high:,.0f} | {row['solved']} |\n")


if __name__ == "__main__":
    main()
