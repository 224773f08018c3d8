"""What `diagnostics=True` costs: steps per second with it and without, in alternated pairs of runs.

    python benchmarks/diagnostics.py               the table, about five minutes on two cores, most of it compiling
    python benchmarks/diagnostics.py --pairs 2     a brief look
    python benchmarks/diagnostics.py --json        one object instead of Markdown

Each pair trains the same seed twice, first without and then with it or the other way round, in turns; the ratio is that of the
pair's steps per second (compilation excluded), so that it does not depend on what else the machine does in the meantime.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from typing import Any

import jax

import policygrad as pg
from policygrad.envs import FiniteMDP

ENV = "CartPole-v1"


def ring(num_states: int = 16) -> FiniteMDP:
    """States in a ring and two ways to go; one state pays."""
    P = [[[0.0] * num_states for _ in range(2)] for _ in range(num_states)]
    for s in range(num_states):
        P[s][0][(s + 1) % num_states] = P[s][1][(s - 1) % num_states] = 1.0
    rewards = [[float(s == num_states // 2)] * 2 for s in range(num_states)]
    return FiniteMDP(
        transitions=P, rewards=rewards, initial=[1.0] + [0.0] * (num_states - 1), discount=0.99, time_limit=50, name="ring of 16 states"
    )


def cost(what: str, env: Any, algorithm: pg.Algorithm, pairs: int, **options: Any) -> dict[str, Any]:
    """Ratios of speed with diagnostics to without."""
    rates: dict[bool, list[float]] = {False: [], True: []}
    for pair in range(pairs + 1):
        for diagnostics in (False, True) if pair % 2 else (True, False):
            run = pg.train(env, algorithm, seed=pair, diagnostics=diagnostics, out=False, figures=False, **options)
            if pair:  # the first only warms up
                rates[diagnostics].append(run.result()["steps_per_second"])
    ratios = [with_it / without for without, with_it in zip(rates[False], rates[True], strict=True)]
    return {
        "what": what,
        "steps_per_second": {"without": statistics.median(rates[False]), "with": statistics.median(rates[True])},
        "ratio": statistics.median(ratios),
        "range": [min(ratios), max(ratios)],
    }


def main(argv: list[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of steps of each run")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    cases = [
        (f"reinforce, {ENV}, 64 envs, compiled", ENV, pg.reinforce(), 2_000_000, 64, "compiled"),
        (f"reinforce, {ENV}, 8 envs, gymnasium", ENV, pg.reinforce(), 100_000, 8, "gymnasium"),
        (f"actor_critic, {ENV}, 64 envs, compiled", ENV, pg.actor_critic(), 500_000, 64, "compiled"),
        (f"actor_critic, {ENV}, 8 envs, gymnasium", ENV, pg.actor_critic(), 20_000, 8, "gymnasium"),
        ("reinforce, ring of 16 states, 64 envs, exact cosine", ring(), pg.reinforce(), 2_000_000, 64, "compiled"),
    ]
    rows = [
        cost(what, env, algorithm, args.pairs, num_steps=int(steps * args.scale), num_envs=num_envs, backend=backend)
        for what, env, algorithm, steps, num_envs, backend in cases
    ]
    report = {"device": jax.devices()[0].device_kind, "jax": jax.__version__, "policygrad": pg.__version__, "diagnostics": rows}
    if args.json:
        print(json.dumps(report))
        return
    write = sys.stdout.write
    write(f"device {report['device']}, jax {report['jax']}, policygrad {report['policygrad']}\n")
    write(f"\n| diagnostics, {args.pairs} alternated pairs | steps/s without | with | ratio, median | range |\n|---|---|---|---|---|\n")
    for row in rows:
        low, high = row["range"]
        speed = row["steps_per_second"]
        write(f"| {row['what']} | {speed['without']:,.0f} | {speed['with']:,.0f} | {row['ratio']:.2f} | {low:.2f} to {high:.2f} |\n")


if __name__ == "__main__":
    main()
