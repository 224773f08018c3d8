"""The benchmarks' table: how fast the loops run, and how many steps learning takes.

    python benchmarks/bench.py                 both tables, about four minutes on two cores
    python benchmarks/bench.py --only speed    or --only learning
    python benchmarks/bench.py --json          one object instead of Markdown

Speed: REINFORCE on CartPole-v1 with the network that the usual tutorials take (one hidden layer of 128, relu), median of
`--repeats` runs, compilation excluded and shown beside it. Learning: the recipe's defaults, seeds 0 to 9, steps of all
environments until the mean of the last 20 episodes reaches 475; a seed that did not get there counts as infinite.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from typing import Any

import jax
import numpy as np

import policygrad as pg
from policygrad.rollout import compiled_collector

TUTORIAL = {"hidden_sizes": (128,), "activation": "relu", "initialisation": "torch"}
ENV = "CartPole-v1"


def loop(backend: str, num_envs: int, num_steps: int, repeats: int) -> dict[str, Any]:
    """Steps per second of whole runs, all that a run does between its first and last step included."""
    rates, compiles = [], []
    for seed in range(repeats):
        run = pg.train(
            ENV, pg.reinforce(**TUTORIAL), num_steps=num_steps, num_envs=num_envs, seed=seed, backend=backend, out=False, figures=False
        )
        rates.append(run.result()["steps_per_second"])
        compiles.append(run.compile_seconds)
    return {
        "what": f"REINFORCE, {num_envs} envs, {backend}",
        "steps_per_second": statistics.median(rates),
        "range": [min(rates), max(rates)],
        "compile_seconds": statistics.median(compiles),
    }


def parts(num_envs: int, repeats: int) -> list[dict[str, Any]]:
    """The collector and the update alone, on full-length episodes (the mode of a policy trained for a while)."""
    env, algorithm = pg.make(ENV), pg.reinforce(**TUTORIAL)
    run = pg.train(env, algorithm, num_steps=400_000, num_envs=num_envs, out=False, figures=False)
    agent = run.seeds[0].agent
    collector = compiled_collector(env, algorithm.collect, num_envs)  # type: ignore[arg-type]
    collect = jax.jit(lambda agent, key: collector.collect(algorithm.policy(agent), key, ())[1])
    update = jax.jit(algorithm.update)
    key = jax.random.key(0)
    rollout = jax.block_until_ready(collect(agent, key))
    steps = int(np.asarray(rollout.mask).sum())
    rows = []
    for what, call in (("collector alone", lambda: collect(agent, key)), ("update alone", lambda: update(key, agent, rollout))):
        begin = time.perf_counter()
        jax.block_until_ready(call())
        compile_seconds = time.perf_counter() - begin
        rates = []
        for _ in range(repeats * 5):
            begin = time.perf_counter()
            jax.block_until_ready(call())
            rates.append(steps / (time.perf_counter() - begin))
        rows.append(
            {
                "what": f"{what}, {num_envs} envs, compiled",
                "steps_per_second": statistics.median(rates),
                "range": [min(rates), max(rates)],
                "compile_seconds": compile_seconds,
            }
        )
    return rows


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
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["speed", "learning"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--num-steps", type=int, default=300_000, help="budget of a seed in the learning table")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    report: dict[str, Any] = {"device": jax.devices()[0].device_kind, "jax": jax.__version__, "policygrad": pg.__version__}
    if args.only != "learning":
        report["speed"] = [
            loop("compiled", 64, 2_000_000, args.repeats),
            loop("compiled", 8, 500_000, args.repeats),
            loop("gymnasium", 8, 200_000, args.repeats),
            *parts(64, args.repeats),
        ]
    if args.only != "speed":
        report["learning"] = [
            learning(backend, baseline, args.seeds, args.num_steps)
            for baseline in ("none", "mean")
            for backend in ("gymnasium", "compiled")
        ]
    if args.json:
        print(json.dumps(report))
        return
    write = sys.stdout.write
    write(f"device {report['device']}, jax {report['jax']}, policygrad {report['policygrad']}\n")
    if "speed" in report:
        write("\n| CartPole-v1 | steps/s, median | range | compile s |\n|---|---|---|---|\n")
        for row in report["speed"]:
            low, high = row["range"]
            write(f"| {row['what']} | {row['steps_per_second']:,.0f} | {low:,.0f} to {high:,.0f} | {row['compile_seconds']:.1f} |\n")
    if "learning" in report:
        write("\n| CartPole-v1, defaults of `reinforce` | steps to solve, median | quartiles | solved |\n|---|---|---|---|\n")
        for row in report["learning"]:
            low, high = row["quartiles"]
            write(f"| `{row['what']}` | {row['median']:,.0f} | {low:,.0f} to {high:,.0f} | {row['solved']} |\n")


if __name__ == "__main__":
    main()
