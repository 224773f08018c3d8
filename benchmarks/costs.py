"""What is on by default and could be left out: its share of the time, from alternated pairs with it and without.

    python benchmarks/costs.py               the table, about six minutes on two cores
    python benchmarks/costs.py --pairs 5     a brief look
    python benchmarks/costs.py --json        one object instead of Markdown

PPO with 64 compiled environments and the peers' settings. One process each keeps a program as it is, and one without

    bootstrapping    V of the true next observation where an episode was cut: V of the row that follows is taken instead, as if nothing were
    guards           NaN and infinity in parameters, optimiser and rollout are not looked for
    diagnostics      means and variances in the record, the divergence included, are not computed

and all run the same number of updates. A pair is eight short runs of each, in turns: what else a shared machine does then falls on both.
The cost is time with it over time without, less one; the interval is Student's, of the mean over pairs.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import statistics
import subprocess
import sys
import time
from typing import Any

from scipy import stats

WITHOUT = ("bootstrapping", "guards", "diagnostics")
ENVS, UPDATES, TURNS = 64, 8, 8


def leave_out(what: str) -> None:
    """Replaces, in this process, what is to be left out."""
    import jax.numpy as jnp

    # By name: some packages have functions of their modules' names.
    names = "algorithms.compose", "ascent.proximal", "gradients.losses", "policies.critics", "training.runners"
    compose, proximal, losses, critics, runners = (importlib.import_module(f"policygrad.{name}") for name in names)
    patched: list[tuple[Any, str, Any]] = []
    if what == "bootstrapping":

        def values(value: Any, rollout: Any, size: int) -> Any:
            now, last = value(rollout.obs), value(rollout.next_obs[-1:])
            return now, jnp.concatenate([now[1:], last])

        patched = [(critics, "_here_and_next", values)]
    elif what == "guards":
        patched = [(module, "all_finite", lambda tree: jnp.ones((), bool)) for module in (compose, runners)]
    elif what == "diagnostics":

        def nothing(*arguments: Any) -> Any:
            return jnp.zeros(())

        patched = [(compose, "masked_mean", nothing), (compose, "masked_variance", nothing), (losses, "masked_mean", nothing)]
        patched += [(proximal, "mean_kl", nothing)]
    for module, name, value in patched:
        if not hasattr(module, name):
            raise SystemExit(f"costs: {module.__name__} has no {name}")
        setattr(module, name, value)


def worker(what: str) -> None:
    """Compiles, then runs `UPDATES` updates for every line it reads and prints their seconds."""
    import jax
    from bench import PEERS

    import policygrad as pg
    from policygrad.training.runners import CompiledRunner

    leave_out(what)
    runner = CompiledRunner(pg.make("CartPole-v1"), pg.ppo(**PEERS), ENVS, 10**9)
    state = runner.start(0)
    state, *_ = runner.advance(state, 2)
    print("ready", flush=True)
    for _ in sys.stdin:
        begin = time.perf_counter()
        state, *_ = runner.advance(state, UPDATES)
        jax.block_until_ready(state.agent.params)
        print(time.perf_counter() - begin, flush=True)


def answer(process: subprocess.Popen[str], question: str = "") -> str:
    """The next line that a worker prints, to a line if one is given."""
    if process.stdin is None or process.stdout is None:
        raise SystemExit("costs: a worker without pipes")
    if question:
        print(question, file=process.stdin, flush=True)
    return process.stdout.readline().strip()


def measured(pairs: int) -> list[dict[str, Any]]:
    """One row for each of `WITHOUT`."""
    names = ("nothing", *WITHOUT)
    workers = {}
    for name in names:
        command = [sys.executable, __file__, "--worker", name]
        workers[name] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if answer(workers[name]) != "ready":
            raise SystemExit(f"costs: the process without {name} ended before it was ready")

    def run(name: str) -> float:
        return float(answer(workers[name], "go"))

    rows = []
    for name in WITHOUT:
        costs = []
        for pair in range(pairs + 1):
            seconds = dict.fromkeys(("nothing", name), 0.0)
            for turn in range(TURNS):
                for which in ("nothing", name) if turn % 2 else (name, "nothing"):
                    seconds[which] += run(which)
            if pair:  # the first only warms up
                costs.append(seconds["nothing"] / seconds[name] - 1)
        half = stats.t.ppf(0.975, pairs - 1) * statistics.stdev(costs) / math.sqrt(pairs)
        mean = statistics.mean(costs)
        rows.append(
            {"what": name, "pairs": pairs, "cost": mean, "interval": [mean - half, mean + half], "median": statistics.median(costs)}
        )
    for process in workers.values():
        process.kill()
    return rows


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.pairs < 2:
        parser.error(f"--pairs: got {given.pairs}; an interval needs at least 2")
    if given.worker:
        return worker(given.worker)
    rows = measured(given.pairs)
    if given.json:
        print(json.dumps(rows))
        return
    print(f"| PPO, {ENVS} envs, {given.pairs} alternated pairs | cost, mean | 95 % interval | median |\n|---|---|---|---|")
    for row in rows:
        low, high = row["interval"]
        print(f"| {row['what']} | {row['cost']:.1%} | {low:.1%} to {high:.1%} | {row['median']:.1%} |")


if __name__ == "__main__":
    main()
