"""The benchmarks' table: how fast the loops run, how long they compile, what memory they take.

    python benchmarks/bench.py                   the table, about four minutes on two cores
    python benchmarks/bench.py --only ppo-64     some rows
    python benchmarks/bench.py --json            one object instead of Markdown

Every row runs in a process of its own, twice: with an empty compilation cache and with the one that the first left. Steps per second are of
whole runs, compilation apart, all that a run does between its first and its last step included: the median of the repeats of both
processes. Memory is the process's largest resident set (on a GPU, the device's largest allocation). The share of the peak is the
arithmetic that the networks' matrices ask for, 2 operations a weight forwards and 4 backwards, against what a product of two
2,048 × 2,048 matrices reaches on this device, in the precision that networks compute in.

On a GPU there are rows more: 256 and 2,048 seeds, 2,048 to 32,768 environments.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

ENV = "CartPole-v1"
PEERS: dict[str, Any] = {
    "hidden_sizes": (64, 64),
    "rollout_length": 128,
    "epochs": 4,
    "minibatches": 4,
    "learning_rate": 2.5e-4,
    "entropy_bonus": 0.01,
}
"""PPO as rejax and PureJaxRL are usually run on CartPole."""
ZOO: dict[str, Any] = {
    "hidden_sizes": (64, 64),
    "rollout_length": 32,
    "epochs": 20,
    "minibatches": 1,
    "trace": 0.8,
    "discount": 0.98,
    "learning_rate": 1e-3,
    "learning_rate_decay": True,
    "clip_decay": True,
}
"""PPO as rl-zoo runs Stable-Baselines3 on CartPole, with 8 environments."""
CLEANRL: dict[str, Any] = {
    "hidden_sizes": (64, 64),
    "epochs": 10,
    "minibatches": 32,
    "learning_rate": 3e-4,
    "normalize_observations": True,
    "normalize_rewards": True,
}
"""PPO as CleanRL runs it on MuJoCo: 2,048 steps a rollout, of all environments."""
TUTORIAL: dict[str, Any] = {"hidden_sizes": (128,), "activation": "relu", "initialisation": "torch"}
"""REINFORCE's network in the usual tutorials."""

Rates = tuple[list[float], float, float]
"""Steps per second of each repeat; seconds of compiling; operations a step."""


def mlp(*widths: int) -> int:
    """Weights of an MLP."""
    return sum(a * b for a, b in itertools.pairwise(widths))


def arithmetic(inputs: int, outputs: int, epochs: float, hidden: tuple[int, ...] = (64, 64)) -> float:
    """Operations a step: actor and critic once forwards, then in each epoch forwards and backwards."""
    weights = mlp(inputs, *hidden, outputs) + mlp(inputs, *hidden, 1)
    return 2.0 * weights + 6.0 * weights * epochs


def runs(algorithm: Callable[[], Any], num_steps: int, repeats: int, operations: float = 0.0, env: str = ENV, **options: Any) -> Rates:
    """Whole runs of one runner; the first repeat of each process holds the compiling, which is taken off."""
    import policygrad as pg

    rates, compiled = [], 0.0
    for _ in range(repeats):
        run = pg.train(env, algorithm(), num_steps=num_steps, out=False, figures=False, **options)
        rates.append(float(run.result()["steps_per_second"]))
        compiled = compiled or run.compile_seconds
    return rates, compiled, operations


def ppo(num_envs: int, num_steps: int, **options: Any) -> Callable[[int], Rates]:
    """The whole loop with the peers' settings."""

    def row(repeats: int) -> Rates:
        import policygrad as pg

        return runs(lambda: pg.ppo(**PEERS), num_steps, repeats, arithmetic(4, 2, 4), num_envs=num_envs, backend="compiled", **options)

    return row


def parts(which: str, num_envs: int = 64) -> Callable[[int], Rates]:
    """The collector or the update alone, with the peers' settings."""

    def row(repeats: int) -> Rates:
        import jax

        import policygrad as pg
        from policygrad.compilation import ready
        from policygrad.rollout import compiled_collector

        ready()
        env, algorithm = pg.make(ENV), pg.ppo(**PEERS)
        collector = compiled_collector(env, algorithm.collect, num_envs)
        spec = pg.Spec(env.observation_space, env.action_space, num_envs, env.time_limit)
        key = jax.random.key(0)
        agent = algorithm.init(key, spec)._replace(total=jax.numpy.int32(10**6))
        state = collector.init(key)
        collect = jax.jit(lambda agent, key, state: collector.collect(algorithm.policy(agent), key, state)[1])
        update = jax.jit(algorithm.update)
        call: Callable[[], Any]
        if which == "collector":
            call, operations = (lambda: collect(agent, key, state)), 2.0 * mlp(4, 64, 64, 2)
        else:
            rollout = collect(agent, key, state)
            call, operations = (lambda: update(key, agent, rollout)), arithmetic(4, 2, 4)
        begin = time.perf_counter()
        jax.block_until_ready(call())
        compiled = time.perf_counter() - begin
        rates = []
        for _ in range(repeats * 10):
            begin = time.perf_counter()
            jax.block_until_ready(call())
            rates.append(num_envs * PEERS["rollout_length"] / (time.perf_counter() - begin))
        return rates, compiled, operations

    return row


def reinforce(num_envs: int, num_steps: int, backend: str) -> Callable[[int], Rates]:
    """REINFORCE with the tutorials' network."""

    def row(repeats: int) -> Rates:
        import policygrad as pg

        weights = mlp(4, 128, 2)
        return runs(lambda: pg.reinforce(**TUTORIAL), num_steps, repeats, 8.0 * weights, num_envs=num_envs, backend=backend)

    return row


def trpo(repeats: int) -> Rates:
    """TRPO with its defaults."""
    import policygrad as pg

    return runs(lambda: pg.trpo(), 100_000, repeats, num_envs=8, backend="compiled")


def zoo(repeats: int) -> Rates:
    """Gymnasium's own CartPole."""
    import policygrad as pg

    return runs(lambda: pg.ppo(**ZOO), 65_536, repeats, arithmetic(4, 2, 20), num_envs=8, backend="gymnasium")


def gru(repeats: int) -> Rates:
    """The peers' settings with a memory of 64 units; it and the critic's are a network's hidden layers here."""
    import policygrad as pg

    memory = {"memory": "gru", "memory_size": 64, "hidden_sizes": ()}
    return runs(lambda: pg.ppo(**{**PEERS, **memory}), 2**17, repeats, num_envs=64, backend="compiled")


def recurrent(repeats: int) -> Rates:
    """CartPole without velocities on Gymnasium, policy and critic with an LSTM each and two layers of 64."""
    import policygrad as pg

    memory = {"memory": "lstm", "memory_size": 64, "hidden_sizes": (64, 64)}
    settings = {**PEERS, **memory, "learning_rate": 3e-4}
    return runs(lambda: pg.ppo(**settings), 20_480, repeats, env="PositionOnlyCartPole-v0", num_envs=8, backend="gymnasium")


def cheetah(num_envs: int) -> Callable[[int], Rates]:
    """MuJoCo's HalfCheetah."""

    def row(repeats: int) -> Rates:
        import policygrad as pg

        settings = {**CLEANRL, "rollout_length": 2048 // num_envs}
        # What a run of some 300,000 steps gets unasked; this one is too short for that.
        how = "async" if num_envs > 1 else "auto"
        work = 16_384, repeats, arithmetic(17, 6, 10), "HalfCheetah-v5"
        return runs(lambda: pg.ppo(**settings), *work, num_envs=num_envs, vectorization=how)

    return row


ROWS: dict[str, tuple[str, Callable[[int], Rates]]] = {
    "ppo-4": ("PPO, 4 envs", ppo(4, 2**17)),
    "ppo-64": ("PPO, 64 envs", ppo(64, 2**19)),
    "ppo-512": ("PPO, 512 envs", ppo(512, 2**19)),
    "ppo-seeds": ("PPO, 16 seeds × 4 envs, all steps", ppo(4, 2**14, seeds=16)),
    "collector": ("its collector alone, 64 envs", parts("collector")),
    "update": ("its update alone, minibatch 2,048", parts("update")),
    "reinforce": ("REINFORCE, 64 envs, one layer of 128", reinforce(64, 2_000_000, "compiled")),
    "reinforce-gymnasium": ("REINFORCE, 8 envs, one layer of 128, Gymnasium", reinforce(8, 100_000, "gymnasium")),
    "trpo": ("TRPO, 8 envs", trpo),
    "zoo": ("PPO with the zoo's settings, 8 envs, Gymnasium", zoo),
    "ppo-gru": ("PPO with a GRU of 64, 64 envs", gru),
    "recurrent": ("PPO with an LSTM of 64, CartPole without velocities, 8 envs, Gymnasium", recurrent),
    "cheetah-1": ("PPO, HalfCheetah-v5, 1 env, Gymnasium", cheetah(1)),
    "cheetah-8": ("PPO, HalfCheetah-v5, 8 envs, Gymnasium", cheetah(8)),
}


ON_A_GPU: dict[str, tuple[str, Callable[[int], Rates]]] = {
    "ppo-seeds-256": ("PPO, 256 seeds × 4 envs, all steps", ppo(4, 2**16, seeds=256)),
    "ppo-seeds-2048": ("PPO, 2,048 seeds × 4 envs, all steps", ppo(4, 2**16, seeds=2048)),
    "ppo-2048": ("PPO, 2,048 envs", ppo(2048, 2**24)),
    "ppo-8192": ("PPO, 8,192 envs", ppo(8192, 2**25)),
    "ppo-32768": ("PPO, 32,768 envs", ppo(32768, 2**26)),
}
"""Rows for a device that is hardly busy with the others; without a GPU they run only where they are named."""
EVERY = ROWS | ON_A_GPU


def peak() -> float:
    """Operations a second of a float32 product of two matrices: the best of ten."""
    import jax
    import jax.numpy as jnp

    from policygrad.compilation import ready

    ready()
    size = 2048
    a = jnp.ones((size, size), jnp.float32)
    product = jax.jit(jnp.matmul)
    jax.block_until_ready(product(a, a))
    best = float("inf")
    for _ in range(10):
        begin = time.perf_counter()
        jax.block_until_ready(product(a, a))
        best = min(best, time.perf_counter() - begin)
    return 2.0 * size**3 / best


def memory() -> float:
    """Megabytes: the device's largest allocation, or where the device is the CPU, the process's largest resident set."""
    import jax

    statistics_of = jax.local_devices()[0].memory_stats()
    if statistics_of:
        return statistics_of["peak_bytes_in_use"] / 1e6
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def measure(name: str, repeats: int) -> dict[str, Any]:
    """One row, in this process."""
    if name == "peak":
        return {"operations_per_second": peak()}
    rates, compiled, operations = EVERY[name][1](repeats)
    return {"rates": rates, "compile_seconds": compiled, "operations": operations, "memory_mb": memory()}


def asked(name: str, repeats: int, cache: str) -> dict[str, Any]:
    """One row, in a process of its own."""
    environment = {key: value for key, value in os.environ.items() if key != "JAX_COMPILATION_CACHE_DIR"} | {"POLICYGRAD_CACHE": cache}
    words = [sys.executable, __file__, "--row", name, "--repeats", str(repeats)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"bench: the row {name} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def table(names: list[str], repeats: int) -> Iterator[dict[str, Any]]:
    """The rows, each measured twice; the first tells of the machine."""
    import jax

    best = asked("peak", 1, "off")["operations_per_second"]
    device = jax.devices()[0].device_kind
    yield {"device": device, "cores": os.cpu_count(), "python": platform.python_version(), "jax": jax.__version__, "peak": best}
    for name in names:
        with tempfile.TemporaryDirectory() as cache:
            cold, warm = asked(name, repeats, cache), asked(name, repeats, cache)
        rates = cold["rates"] + warm["rates"]
        rate = statistics.median(rates)
        yield {
            "row": name,
            "what": EVERY[name][0],
            "steps_per_second": rate,
            "range": [min(rates), max(rates)],
            "compile_cold": cold["compile_seconds"],
            "compile_warm": warm["compile_seconds"],
            "memory_mb": max(cold["memory_mb"], warm["memory_mb"]),
            "share_of_peak": rate * cold["operations"] / best if cold["operations"] else None,
        }


def on_a_gpu() -> bool:
    """Whether JAX finds one."""
    import jax

    return jax.default_backend() != "cpu"


def main(argv: list[str] | None = None) -> None:
    """Prints the table, row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(EVERY), metavar="ROW", help=f"of {', '.join(EVERY)}")
    parser.add_argument("--repeats", type=int, default=2, help="in each of a row's two processes")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.row:
        print(json.dumps(measure(args.row, args.repeats)))
        return
    rows = table(args.only or [*ROWS, *(ON_A_GPU if on_a_gpu() else ())], args.repeats)
    machine = next(rows)
    if args.json:
        print(json.dumps({**machine, "rows": list(rows)}))
        return
    print(
        f"device {machine['device']}, {machine['cores']} cores, Python {machine['python']}, jax {machine['jax']},"
        f" matmul peak {machine['peak'] / 1e9:,.0f} GFLOP/s\n"
    )
    print("| CartPole-v1, compiled, where nothing else is said | steps/s, median | range | compile s, cold | warm | MB | of the peak |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        low, high = row["range"]
        share = f"{row['share_of_peak']:.0%}" if row["share_of_peak"] else ""
        print(
            f"| {row['what']} | {row['steps_per_second']:,.0f} | {low:,.0f} to {high:,.0f} | {row['compile_cold']:.1f}"
            f" | {row['compile_warm']:.1f} | {row['memory_mb']:,.0f} | {share} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
