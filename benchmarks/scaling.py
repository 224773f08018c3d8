"""How speed and memory grow with environments, seeds, width and the rollout's length: curves, with rejax's beside them.

    make scaling                                    ours and rejax's, a quarter of an hour on two cores; needs `make bench-peers` once
    python benchmarks/scaling.py --curve envs       one curve
    python benchmarks/scaling.py --draw             the picture and the table of docs/performance.md from what was measured already

PPO on CartPole-v1 with the settings of bench.py. Every point is a process of its own, which runs a few seconds after compiling. What was
measured is kept in benchmarks/scaling.json; the picture is docs/figures/scaling.png.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import bench

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
THEIRS = ROOT / ".venv-peers" / "bin" / "python"
KEPT, PAGE, PICTURE = HERE / "scaling.json", ROOT / "docs" / "performance.md", ROOT / "docs" / "figures" / "scaling.png"
BASE = {"envs": 64, "seeds": 1, "width": 64, "rollout": 128}
CURVES: dict[str, tuple[list[int], dict[str, int]]] = {
    "envs": ([1, 4, 16, 64, 256, 1024, 4096, 8192], {}),
    "seeds": ([1, 4, 16, 64, 256], {"envs": 4}),
    "width": ([16, 64, 256, 1024], {}),
    "rollout": ([8, 32, 128, 512], {}),
}
"""The points of each curve, and what else differs from `BASE`."""
NAMES = {"envs": "environments", "seeds": "seeds, 4 environments each", "width": "width of both hidden layers", "rollout": "rollout length"}
SECONDS = 2.0


def point(envs: int, seeds: int, width: int, rollout: int) -> dict[str, float]:
    """Ours, in this process: steps per second of all seeds together, and megabytes."""
    import policygrad as pg

    algorithm = pg.ppo(**bench.PEERS | {"hidden_sizes": (width, width), "rollout_length": rollout})
    per_update = envs * rollout
    if seeds == 1:
        rate = 0.0
        every = max(1, 2**15 // per_update)
        for progress in pg.iterate(bench.ENV, algorithm, num_steps=10**9, num_envs=envs, every=every):
            rate = progress.steps / progress.seconds
            if progress.seconds > SECONDS:
                break
    else:
        run = pg.train(
            bench.ENV, algorithm, num_steps=budget(envs, seeds, width, rollout), num_envs=envs, seeds=seeds, out=False, figures=False
        )
        rate = run.result()["steps_per_second"]
    return {"rate": float(rate), "memory_mb": bench.memory()}


def budget(envs: int, seeds: int, width: int, rollout: int) -> int:
    """Steps of each seed: about a quarter of a million of all, fewer for wide networks, two updates at the least."""
    return max(2 * envs * rollout, int(2**18 * min(1, (128 / width) ** 2)) // seeds)


def asked(who: str, values: dict[str, int]) -> dict[str, float] | None:
    """A point, in a process of its own; None where it failed, for want of memory as a rule."""
    if who == "ours":
        words = [sys.executable, __file__, "--point", json.dumps(values)]
    else:
        steps = budget(**values)
        words = [str(THEIRS), str(HERE / "peers" / "rejax_ppo.py"), str(values["envs"]), str(steps), str(values["seeds"])]
        words += [str(values["width"]), str(values["rollout"])]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH" or who == "ours"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    if done.returncode:
        print(f"{who} {values}: {(done.stderr.strip().splitlines() or ['killed'])[-1]}", file=sys.stderr)
        return None
    told = json.loads(done.stdout.splitlines()[-1])
    return {"rate": told["rate"] if "rate" in told else max(told["rates"]), "memory_mb": told["memory_mb"]}


def measure(names: list[str]) -> None:
    """Runs the points of these curves, ours and theirs in turn, and keeps them."""
    import jax

    kept = json.loads(KEPT.read_text("utf-8")) if KEPT.exists() else {"curves": {}}
    for name in names:
        points, other = CURVES[name]
        rows = []
        for value in points:
            values = BASE | other | {name: value}
            row = {"value": value, "ours": asked("ours", values), "rejax": asked("rejax", values)}
            rows.append(row)
            print(name, json.dumps(row), flush=True)
        kept["curves"][name] = rows
    kept["machine"] = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "peak": bench.asked("peak", 1, "off")["operations_per_second"],
    }
    KEPT.write_text(json.dumps(kept, indent=1) + "\n", "utf-8")


def draw() -> None:
    """The picture and the table, from what is kept."""
    from policygrad.report import style

    kept = json.loads(KEPT.read_text("utf-8"))
    curves, machine = kept["curves"], kept["machine"]
    what = f"PPO on CartPole-v1, compiled; {machine['cores']} cores, {machine['date']}; elsewhere 64 environments, 64-64, rollout 128"
    figure, axes = style.canvas("Environment steps per second", what, len(curves), width=9.6, height=5.6, columns=2, common=False)
    for ax, (name, rows) in zip(axes, curves.items(), strict=True):
        style.name_panel(ax, NAMES[name])
        for i, who in enumerate(("ours", "rejax")):
            found = [(row["value"], row[who]["rate"]) for row in rows if row[who]]
            look = {"marker": style.MARKERS[i], "color": style.COLOURS[i], "linestyle": style.LINES[i]}
            ax.plot(*zip(*found, strict=True), **look)
            if ax is axes[0]:
                label = "policygrad" if who == "ours" else who
                ax.annotate(
                    label, found[5], (0, (-20, 10)[i]), textcoords="offset points", ha="center", fontsize=10, color=style.COLOURS[i]
                )
        ax.set_xscale("log", base=2)
        if name == "width":
            ax.set_yscale("log")
        else:
            ax.set_ylim(0, 1.08 * ax.get_ylim()[1])  # room for the markers
        shown = [row["value"] for row in rows if row["value"] != 4096]  # next to 8,192
        ax.set_xticks(shown, [f"{value:,}" for value in shown])
        ax.minorticks_off()
        ax.yaxis.set_major_formatter(lambda x, _: style.short_number(x))
    figure.get_layout_engine().set(hspace=0.1)
    style.save(figure, PICTURE)
    head = "| | steps/s | MB | rejax: steps/s | MB | ratio |\n|---|---|---|---|---|---|"
    table = [head]
    for name, rows in curves.items():
        table.append(f"| **{NAMES[name]}** | | | | | |")
        for row in rows:
            ours, theirs = row["ours"], row["rejax"]
            cells = [f"{row['value']:,}", *_cells(ours), *_cells(theirs)]
            table.append("| " + " | ".join([*cells, f"{ours['rate'] / theirs['rate']:.2f}" if ours and theirs else ""]) + " |")
    told = (
        f"{machine['date']}, {machine['cores']} cores, Python {machine['python']}, jax {machine['jax']},"
        f" matmul peak {machine['peak'] / 1e9:,.0f} GFLOP/s.\n\n"
    )
    page = PAGE.read_text("utf-8")
    block = "<!-- generated: scaling -->\n" + told + "\n".join(table) + "\n<!-- end -->"
    PAGE.write_text(re.sub(r"<!-- generated: scaling -->.*?<!-- end -->", lambda _: block, page, flags=re.S), "utf-8")


def _cells(told: dict[str, float] | None) -> list[str]:
    return [f"{told['rate']:,.0f}", f"{told['memory_mb']:,.0f}"] if told else ["failed", ""]


def main() -> None:
    """Measures and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curve", nargs="+", choices=list(CURVES), default=list(CURVES))
    parser.add_argument("--draw", action="store_true", help="measure nothing")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.point:
        print(json.dumps(point(**json.loads(args.point))))
        return
    if not args.draw:
        if not THEIRS.exists():
            raise SystemExit("scaling: .venv-peers is missing; make bench-peers installs it")
        measure(args.curve)
    draw()


if __name__ == "__main__":
    main()
