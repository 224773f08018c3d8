"""Against other libraries, on the same work: ratios of alternated pairs, in one sitting.

    make bench-peers                             installs them in .venv-peers, then prints the table; about half an hour on two cores
    python benchmarks/peers.py --only ppo-64     some rows
    python benchmarks/peers.py --pairs 3         fewer pairs

A pair is one process of ours and one of theirs, in turns first; each gives steps per second of whole runs, compilation apart, and the
ratio is taken within the pair. The rows `solve` count seconds from the start of the process to the solved CartPole, ours with an empty
compilation cache and with a filled one; there a ratio is that of seconds, so less is better.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
THEIRS = HERE.parent / ".venv-peers" / "bin" / "python"
REJAX, SB3 = HERE / "peers" / "rejax_ppo.py", HERE / "peers" / "sb3_ppo.py"
RECURRENT = HERE / "peers" / "sb3_recurrent_ppo.py"
ROWS: dict[str, list[Any]] = {
    "ppo-4": [REJAX, 4, 2**17],
    "ppo-64": [REJAX, 64, 2**19],
    "ppo-512": [REJAX, 512, 2**19],
    "ppo-seeds": [REJAX, 4, 2**14, 16],
    "zoo": [SB3, "cartpole", 0],
    "recurrent": [RECURRENT],
    "cheetah-1": [SB3, "cheetah", 1],
    "cheetah-8": [SB3, "cheetah", 8],
}
"""Rows of bench.py, and the peer's work."""
SOLVE = [sys.executable, "-m", "policygrad", "train", "ppo", "--env", "CartPole-v1", "--tuned", "--until-solved", "--json", "--plain"]


def run(words: list[Any], cache: str = "off", where: str | None = None) -> tuple[dict[str, Any], float]:
    """What a command printed last, and how long it took from its start to that line."""
    kept = {name: value for name, value in os.environ.items() if name not in ("JAX_COMPILATION_CACHE_DIR", "PYTHONPATH")}
    begin, seconds, last = time.perf_counter(), 0.0, ""
    with tempfile.TemporaryFile("w+") as errors:
        place = {"env": kept | {"POLICYGRAD_CACHE": cache}, "cwd": where}
        with subprocess.Popen(list(map(str, words)), stdout=subprocess.PIPE, stderr=errors, text=True, **place) as process:
            assert process.stdout is not None
            for line in process.stdout:
                seconds, last = time.perf_counter() - begin, line
        if process.returncode:
            errors.seek(0)
            raise SystemExit(f"peers: {' '.join(map(str, words))} failed:\n{errors.read()}")
    return json.loads(last), seconds


def compared(name: str, pairs: int) -> dict[str, Any]:
    """Steps per second of ours and theirs, in alternated pairs."""
    ours_words = [sys.executable, HERE / "bench.py", "--row", name, "--repeats", 2 if ROWS[name][0] is REJAX else 1]
    rates: dict[str, list[float]] = {"ours": [], "theirs": []}
    compiled: dict[str, list[float]] = {"ours": [], "theirs": []}
    for pair in range(pairs):
        turns = [("ours", ours_words), ("theirs", [THEIRS, *ROWS[name]])]
        for who, words in turns if pair % 2 else reversed(turns):
            told, _ = run(words)
            rates[who].append(statistics.median(told["rates"]))
            compiled[who].append(told.get("compile_seconds", 0.0))
    ratios = [a / b for a, b in zip(rates["ours"], rates["theirs"], strict=True)]
    middle = {who: statistics.median(values) for who, values in rates.items()}
    compiling = {who: statistics.median(values) for who, values in compiled.items()}
    return {"row": name, "rates": middle, "compile": compiling, "ratio": statistics.median(ratios), "range": [min(ratios), max(ratios)]}


def solve(pairs: int) -> list[dict[str, Any]]:
    """Seconds from the start of the process to the line that tells that CartPole is solved, seed by seed."""
    found: dict[str, list[float]] = {"cold": [], "warm": [], "theirs": []}
    for seed in range(pairs):
        with tempfile.TemporaryDirectory() as folder:
            for state in ("cold", "warm"):
                words = [*SOLVE, "--seed", seed, "--out", Path(folder) / state]
                found[state].append(run(words, cache=str(Path(folder) / "cache"), where=folder)[1])
            found["theirs"].append(run([THEIRS, SB3, "cartpole", seed, "solve"])[1])
    theirs = statistics.median(found["theirs"])
    rows = []
    for state in ("cold", "warm"):
        ours, ratios = statistics.median(found[state]), [a / b for a, b in zip(found[state], found["theirs"], strict=True)]
        seconds = {"ours": ours, "theirs": theirs}
        rows.append({"row": f"solve-{state}", "seconds": seconds, "ratio": ours / theirs, "range": [min(ratios), max(ratios)]})
    return rows


def main(argv: list[str] | None = None) -> None:
    """Prints the table, row by row."""
    names = [*ROWS, "solve"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="ROW", help=f"of {', '.join(names)}")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    if not THEIRS.exists():
        raise SystemExit("peers: .venv-peers is missing; make bench-peers installs it")
    rows: list[dict[str, Any]] = []
    if not args.json:
        print("| row | ours | theirs | ratio, median | range | compile s, ours | theirs |\n|---|---|---|---|---|---|---|")
    for name in args.only:
        for row in solve(args.pairs) if name == "solve" else [compared(name, args.pairs)]:
            rows.append(row)
            if args.json:
                continue
            unit, values = ("s", row["seconds"]) if "seconds" in row else ("steps/s", row["rates"])
            ours, theirs = (f"{values[who]:,.1f} s" if unit == "s" else f"{values[who]:,.0f}" for who in ("ours", "theirs"))
            low, high = row["range"]
            compiling = row.get("compile")
            seconds = f"{compiling['ours']:.1f} | {compiling['theirs']:.1f}" if compiling and compiling["theirs"] else " | "
            print(f"| {row['row']} | {ours} | {theirs} | {row['ratio']:.2f} | {low:.2f} to {high:.2f} | {seconds} |", flush=True)
    if args.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
