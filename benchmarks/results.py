"""`make results`: trains the tuned settings on stated seeds, and writes docs/results.md from all runs that are there.

    python benchmarks/results.py                                    everything, many hours
    python benchmarks/results.py --subset classic                   cartpole, classic, mujoco, all, or names: CartPole-v1 Hopper-v5/ppo
    python benchmarks/results.py --subset mujoco --algorithms ppo   some recipes only
    python benchmarks/results.py --report-only                      the page again, from what there is

A finished seed is one file, docs/results/seeds/ENV/ALGORITHM/SEED.json; those that were made with the present settings are not trained
again, so a run that was stopped goes on where it was. Each line that is logged is one such file. Long entries are trained seed by seed: the
first seed of all of them comes first.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import inspect
import json
import math
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np

import policygrad as pg
from policygrad.envs import compiled_names
from policygrad.report import style
from policygrad.statistics import bootstrap_interval, final_return, steps_to_solve
from policygrad.tuned_settings import CLASSIC, MUJOCO, TUNED, Tuned

ROOT = Path(__file__).resolve().parents[1]
PAGE, PICTURES = ROOT / "docs" / "results.md", ROOT / "docs" / "results"
RUNS = PICTURES / "seeds"  # kept in git: the page is made of them, and sittings add up
GROUPS = {
    "cartpole": ["CartPole-v1"],
    "classic": list(dict.fromkeys(entry.env for entry in CLASSIC)),
    "mujoco": list(dict.fromkeys(entry.env for entry in MUJOCO)),
}
FINAL_EPISODES, EVALUATION_EPISODES, LAST_EPISODES = 100, 10, 100
EVALUATIONS, TIANSHOUS = 20, 33  # during a run: of classic control, and of MuJoCo, where Tianshou has as many in 1M steps

PUBLISHED: dict[tuple[str, str], str] = {
    ("CartPole-v1", "ppo"): "500 (rl-zoo); 30,592 steps to solve (SB3 with the zoo's settings, seeds 0 to 9)",
    ("Acrobot-v1", "ppo"): "−73.5 (rl-zoo, 1M steps)",
    ("Acrobot-v1", "a2c"): "−83 (rl-zoo)",
    ("Acrobot-v1", "trpo"): "−83 (rl-zoo, 100k steps)",
    ("MountainCar-v0", "ppo"): "−110 (rl-zoo)",
    ("MountainCar-v0", "a2c"): "−111 (rl-zoo)",
    ("MountainCar-v0", "trpo"): "−107 (rl-zoo)",
    ("Pendulum-v1", "ppo"): "−172 (rl-zoo, 100k steps)",
    ("Pendulum-v1", "a2c"): "−163 (rl-zoo, 1M steps)",
    ("Pendulum-v1", "trpo"): "−175 (rl-zoo, 100k steps)",
    ("MountainCarContinuous-v0", "ppo"): "88 (rl-zoo, 20k steps)",
    ("MountainCarContinuous-v0", "trpo"): "92.5 (rl-zoo, 50k steps)",
}
_TIANSHOU = {
    "HalfCheetah-v5": ("884 ± 41", "1830 ± 1068", "3485 ± 717", "4471 ± 805", "5784 ± 1244"),
    "Hopper-v5": ("396 ± 65", "1253 ± 458", "1915 ± 551", "2046 ± 1038", "2609 ± 701"),
    "InvertedPendulum-v5": ("999 ± 2", "1000", "1000", "1000", "1000"),
    "InvertedDoublePendulum-v5": ("1060 ± 308", "9258 ± 277", "9243 ± 276", "8435 ± 1073", "9231 ± 270"),
    "Reacher-v5": ("−10.5 ± 0.7", "−6.7 ± 2.3", "−4.5 ± 0.5", "−5.1 ± 0.8", "−4.1 ± 0.3"),
}
for _env, _figures in _TIANSHOU.items():
    for _name, _figure in zip(("reinforce", "a2c", "npg", "trpo", "ppo"), _figures, strict=True):
        PUBLISHED[_env, _name] = f"{_figure} (Tianshou, on the v3 body)"

HEAD = f"""# Results

Written by `make results`; every number is of a run of the tuned settings (`policygrad list --tuned`), none is typed. Failures stand as
they are, and what has not been run is not here.

- **max of the mean**: Tianshou's statistic. {EVALUATIONS} times during training ({TIANSHOUS} on MuJoCo) the policy is evaluated over
  {EVALUATION_EPISODES} episodes in which actions are the distribution's modes; the mean over seeds at each of those times; the
  greatest of these. It flatters a little, as any maximum does.
- **last {LAST_EPISODES} episodes**: of training, with sampled actions; mean over seeds with a 95 % bootstrap interval (BCa), and each
  seed's value.
- **mode return**: of the last policy, {FINAL_EPISODES} episodes of their own, actions are modes; mean over seeds, and each seed's.
- **seconds**: of one seed, its evaluations included and compilation left out, while other programs ran beside it.

CartPole-v1 and MuJoCo run on Gymnasium's environments, the rest of classic control on their compiled twins. The published figures are
those of single tuned runs (rl-zoo) or of 10 seeds with ± one standard deviation (Tianshou, max of the mean), by their own code.
"""


# ---------------------------------------------------------------- training


def backend(entry: Tuned) -> str:
    """Gymnasium's own environments where steps to solve are compared, and where there are no others."""
    return "compiled" if entry.env in compiled_names() and entry.env != "CartPole-v1" else "gymnasium"


def path_of(entry: Tuned, seed: int, runs: Path = RUNS) -> Path:
    """Where the result of one seed lies."""
    return runs / entry.env / entry.name / f"{seed}.json"


def stamp(entry: Tuned) -> dict[str, Any]:
    """What a file must hold for its run to count as one of the entry's."""
    sizes = {"num_envs": entry.num_envs, "num_steps": entry.num_steps, "backend": backend(entry)}
    return json.loads(json.dumps({**sizes, "settings": entry.algorithm().settings}))  # defaults may change


def finished(entry: Tuned, seed: int, runs: Path = RUNS) -> dict[str, Any] | None:
    """The result of a seed, if it was trained with the entry's present settings."""
    try:
        found = json.loads(path_of(entry, seed, runs).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    wanted = stamp(entry)
    # an argument that is newer than the file had, in effect, its default then
    newer = {key: value for key, value in defaults(entry).items() if key not in found.get("settings", {})}
    found["settings"] = newer | found.get("settings", {})
    return found if {key: found.get(key) for key in wanted} == wanted else None


def defaults(entry: Tuned) -> dict[str, Any]:
    """Those of the entry's recipe."""
    return {name: parameter.default for name, parameter in inspect.signature(pg.RECIPES[entry.name]).parameters.items()}


def spacing(entry: Tuned) -> int:
    """Steps between two evaluations."""
    return max(1, entry.num_steps // (TIANSHOUS if entry.env in GROUPS["mujoco"] else EVALUATIONS))


def train_seeds(entry: Tuned, seeds: Sequence[int], runs: Path = RUNS) -> list[str]:
    """Trains seeds of an entry, writes their files, and returns a line about each."""
    where = backend(entry)
    runs_made: list[pg.Run] = []
    # Where all seeds failed `train` raises, after it has handed the run over: failures belong on the page, too.
    with contextlib.suppress(pg.RunError):
        pg.train(
            entry.env,
            entry.algorithm(),
            num_steps=entry.num_steps,
            num_envs=entry.num_envs,
            seeds=list(seeds),
            backend=where,
            out=False,
            evaluate_every=spacing(entry),
            evaluate_episodes=EVALUATION_EPISODES,
            on_result=runs_made.append,
        )
    run = runs_made[0]
    lines = []
    for seed in run.seeds:
        result: dict[str, Any] = {**stamp(entry), "seed": seed.seed, "steps": seed.steps, "error": str(seed.error) if seed.error else None}
        result |= {"commit": commit(), "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")}
        result |= {"seconds": run.run_seconds / len(run.seeds), "episodes": len(seed.returns)}
        if seed.error is None:
            made = pg.evaluate(seed.policy, entry.env, num_episodes=FINAL_EPISODES, backend=where)
            result |= {
                "last_episodes": final_return(seed.returns, LAST_EPISODES),
                "steps_to_solve": steps_to_solve(seed.returns, seed.ends, run.reward_threshold),
                "mode_return": made.mean,
                "evaluation_steps": [] if seed.evaluation_steps is None else seed.evaluation_steps.tolist(),
                "evaluation_means": seed.evaluation_means.tolist(),
            }
        path = path_of(entry, seed.seed, runs)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(result), "utf-8")
        os.replace(part, path)
        told = f"failed: {seed.error}" if seed.error else f"last {result['last_episodes']:.1f}, mode {result['mode_return']:.1f}"
        lines.append(f"{entry.env} {entry.name} seed {seed.seed}: {told}, {result['seconds']:.0f} s")
    return lines


def commit() -> str:
    """The code that runs."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "src", "benchmarks")  # pictures and results are no code
    return (git("describe", "--always") or "no commit") + ("-dirty" if changed else "")


def chosen(subset: Sequence[str], algorithms: Sequence[str] = ()) -> list[Tuned]:
    """The entries that words name: groups, environments, or ENV/ALGORITHM."""
    entries: dict[tuple[str, str], Tuned] = {}
    for word in subset:
        env, _, name = word.partition("/")
        envs = {env for env, _ in TUNED} if env == "all" else set(GROUPS.get(env, [env]))
        found = {key: entry for key, entry in TUNED.items() if key[0] in envs and name in ("", key[1])}
        if not found:
            raise SystemExit(
                f"results: got {word!r}; it must be all, {', '.join(GROUPS)}, an environment or ENV/ALGORITHM with tuned settings"
            )
        entries |= found
    return [entry for entry in TUNED.values() if (entry.env, entry.name) in entries and (not algorithms or entry.name in algorithms)]


def seeds_of(entry: Tuned, number: int | None) -> range:
    """10 for CartPole-v1, whose steps to solve vary; 5 elsewhere."""
    return range(number or (10 if entry.env == "CartPole-v1" else 5))


def train_all(entries: Iterable[Tuned], number: int | None, workers: int, runs: Path = RUNS) -> None:
    """Trains what is not finished yet, `workers` programs at a time, and logs each seed."""
    jobs = []
    for entry in entries:
        missing = [seed for seed in seeds_of(entry, number) if finished(entry, seed, runs) is None]
        # long runs one by one, so that little is lost when they are stopped; short ones share a compilation
        jobs += [(entry, [seed]) for seed in missing] if entry.env in GROUPS["mujoco"] else [(entry, missing)] if missing else []
    jobs.sort(key=lambda job: job[1][0])
    log(f"{sum(len(seeds) for _, seeds in jobs)} seeds to train")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=end_with, initargs=(os.getpid(),)) as pool:
        futures = {pool.submit(train_seeds, entry, seeds, runs): entry for entry, seeds in jobs}
        for done in as_completed(futures):
            try:
                for line in done.result():
                    log(line)
            except Exception as error:  # a fault that is no run's own (a missing package, a full disk) must not end the others
                log(f"{futures[done].env} {futures[done].name}: {type(error).__name__}: {error}")


def end_with(parent: int) -> None:
    """Makes a worker end when its parent is gone: killed, it would leave hours of work running."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def log(line: str) -> None:
    """One line on stdout, with the time."""
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {line}\n")
    sys.stdout.flush()


# ---------------------------------------------------------------- the page


def curves(entry: Tuned, results: Sequence[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Evaluations on the grid of the steps at which they were due, [K] and [N, K]: the first that reached each."""
    every = spacing(entry)
    grid = every * np.arange(1, entry.num_steps // every + 1)
    rows = []
    for result in results:
        steps, means = np.asarray(result["evaluation_steps"]), np.asarray(result["evaluation_means"], float)
        rows.append(means[np.minimum(np.searchsorted(steps, grid), len(means) - 1)])
    return grid, np.stack(rows)


def shown(value: float | None) -> str:
    """A return in four digits or so."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:,.{0 if abs(value) >= 1000 or value == round(value) else 1}f}".replace("-", "−")


def table_row(entry: Tuned, results: Sequence[dict[str, Any]]) -> str:
    """An algorithm's row in the table of its environment."""
    good = [result for result in results if not result["error"]]
    failed = f"; {len(results) - len(good)} failed" if len(good) < len(results) else ""
    cells = [entry.name, style.short_number(entry.num_steps), f"{len(results)}{failed}"]
    if good:
        last = [result["last_episodes"] for result in good if result["last_episodes"] is not None]
        low, high = bootstrap_interval(last) if len(last) > 1 else (math.nan, math.nan)
        cells += [
            f"**{shown(float(curves(entry, good)[1].mean(axis=0).max()))}**",
            f"{shown(float(np.mean(last)) if last else None)} [{shown(low)}, {shown(high)}]",
            ", ".join(shown(value) for value in last),
            f"{shown(float(np.mean([result['mode_return'] for result in good])))} ({', '.join(shown(r['mode_return']) for r in good)})",
            f"{np.mean([result['seconds'] for result in good]):.0f}",
        ]
    else:
        cells += ["–"] * 5
    cells.append(PUBLISHED.get((entry.env, entry.name), ""))
    return "| " + " | ".join(cells) + " |"


def solving_row(entry: Tuned, results: Sequence[dict[str, Any]]) -> str:
    """Steps to solve of every seed, in order."""
    steps = [result.get("steps_to_solve") for result in results]
    known = sorted(value for value in steps if value is not None)
    median = float(np.median([math.inf if value is None else value for value in steps]))
    told = f"{median:,.0f}" if math.isfinite(median) else "–"
    return f"| {entry.name} | {told} | {len(known)}/{len(steps)} | {', '.join(f'{value:,}' for value in known)} |"


def page(number: int | None = None, runs: Path = RUNS, pictures: Path | None = PICTURES) -> str:
    """docs/results.md, of all finished seeds; draws the curves on the way, unless there is no place for them."""
    parts, missing = [HEAD], []
    for env in dict.fromkeys(env for env, _ in TUNED):
        rows, solving, drawn, commits = [], [], [], set()
        for entry in (entry for (known, _), entry in TUNED.items() if known == env):
            results = [found for seed in seeds_of(entry, number) if (found := finished(entry, seed, runs)) is not None]
            if not results:
                missing.append(f"{env} {entry.name}")
                continue
            rows.append(table_row(entry, results))
            if env == "CartPole-v1":
                solving.append(solving_row(entry, results))
            good = [result for result in results if not result["error"]]
            drawn += [(entry, good)] if good else []
            commits |= {f"{result['commit']} ({result['date']})" for result in results}
        if not rows:
            continue
        head = "| algorithm | steps | seeds | max of the mean | last 100 episodes | each seed | mode return | seconds | published |"
        parts += [f"## {env}\n", head, "|---" * 9 + "|", *rows, ""]
        if solving:
            solved = "Steps until the mean return of 20 episodes in a row reaches 475, in order of size:\n"
            parts += [solved, "| algorithm | median | solved | each seed |", "|---|---|---|---|", *solving, ""]
        parts.append(f"Code: {', '.join(sorted(commits))}.\n")
        if pictures is not None and drawn:
            draw(env, drawn, pictures / f"{env}.png")
            parts.append(f"![{env}: mode returns during training]({pictures.name}/{env}.png)\n")
    if missing:
        parts += ["## Not run yet\n", f"Left out above: {', '.join(missing)}.\n"]
    return "\n".join(parts)


def draw(env: str, results: Sequence[tuple[Tuned, Sequence[dict[str, Any]]]], path: Path) -> None:
    """The evaluations during training, one panel for each algorithm: every seed, and their mean."""
    columns = len(results) if len(results) <= 4 else -(-len(results) // 2)
    rows = -(-len(results) // columns)
    what = f"mode return of {EVALUATION_EPISODES} episodes during training: each seed thin, their mean thick"
    figure, axes = style.canvas(env, what, len(results), width=2.6 * columns + 0.6, height=2.3 * rows + 0.8, columns=columns)
    for index, (ax, (entry, seeds)) in enumerate(zip(axes, results, strict=True)):
        grid, values = curves(entry, seeds)
        for one in values:
            ax.plot(grid, one, color=style.COLOURS[0], alpha=0.35, linewidth=0.8)
        ax.plot(grid, values.mean(axis=0), color=style.COLOURS[0], linewidth=2.2)
        style.name_panel(ax, f"{entry.name}, {len(seeds)} seed{'s' * (len(seeds) > 1)}")
        style.steps_axis(ax, float(grid[-1]))
        if index + columns < len(results):
            ax.set_xlabel("")
        if index % columns == 0:
            ax.set_ylabel("return")
    style.save(figure, path)


def main(words: Sequence[str] | None = None) -> None:
    """Trains what is asked for and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subset", nargs="+", default=["all"])
    parser.add_argument("--algorithms", nargs="+", default=[], choices=list(pg.RECIPES))
    parser.add_argument("--seeds", type=int, help="0 to N − 1 of each; default: 10 for CartPole-v1, 5 for the others")
    parser.add_argument("--workers", type=int, default=2, help="programs side by side")
    parser.add_argument("--report-only", action="store_true")
    arguments = parser.parse_args(words)
    if not arguments.report_only:
        train_all(chosen(arguments.subset, arguments.algorithms), arguments.seeds, arguments.workers)
    PAGE.write_text(page(arguments.seeds), "utf-8")
    log(f"written: {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
