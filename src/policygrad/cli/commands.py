"""The commands; `lab` is in `lab_command`, `check-env` in `check_env`. Each takes the words behind its name and returns an exit code."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from policygrad.cli.check_env import check_env, check_env_parser
from policygrad.cli.lab_command import lab, lab_parser
from policygrad.cli.options import Option, fitted, make_parser, parse, summary
from policygrad.cli.output import evaluation_head, evaluation_text, files_text, names_text, number, run_text, say, table_text, to_json
from policygrad.cli.recipes import shells
from policygrad.cli.train_request import BACKEND, DEVICE, ENV_ARGS, JSON, RUN_OPTIONS, TrainRequest, read_file, train_help, train_request
from policygrad.errors import RunError, UsageError
from policygrad.settings import MOST, MOST_AT_ONCE, check, count, is_foreign, seed_list, whole

DONE, WRONG, FAILED, INTERRUPTED = 0, 2, 3, 130

EVALUATE_OPTIONS = {
    option.name: option
    for option in (
        Option("env", str, "the environment, needed for a policy file that lies in no run directory", metavar="ID"),
        Option("num_episodes", int, "whole episodes of each policy", default=100),
        Option("seed", int, "of environments and actions; never those of training", metavar="S", default=0),
        Option("sample", bool, "draw actions; the default takes the likeliest"),
        BACKEND,
        ENV_ARGS,
        DEVICE,
        JSON,
    )
}
PLOT_OPTIONS = {"out": Option("out", str, "the folder for the figures; default is that of the run, or figures/", metavar="DIR")}
LIST_OPTIONS = {"tuned": Option("tuned", bool, "the tuned settings instead, with the figures that they reached"), "json": JSON}


# ---------------------------------------------------------------- train


def train(words: Sequence[str]) -> int:
    """`policygrad train ALGORITHM …`"""
    request = train_request(words)
    names = {*RUN_OPTIONS, *inspect.signature(shells()[request.algorithm]).parameters}
    try:
        _check(request)
    except UsageError as error:
        raise as_flags(error, names) from error
    from policygrad.algorithms import RECIPES
    from policygrad.training import train as run_training
    from policygrad.training.progress import choose_mode

    options = dict(request.run)
    as_json, plain = options.pop("json", False), options.pop("plain", False)
    options["env"] = registered(options["env"])
    troubles: list[RunError] = []
    runs: list[Any] = []

    def report(run: Any) -> None:
        runs.append(run)
        try:
            say(to_json(run.result()) if as_json else run_text(run))
        except RunError as error:  # the figures are drawn all the same
            kept = f"; the result is in {run.run_dir / 'result.json'}" if run.run_dir else ""
            troubles.append(RunError(f"{error}{kept}"))

    try:
        algorithm = RECIPES[request.algorithm](**request.settings)
        run = run_training(algorithm=algorithm, progress=choose_mode("plain" if plain else "auto"), on_result=report, **options)
    except UsageError as error:
        raise as_flags(error, names) from error
    except RunError:
        if not runs:
            raise
        run = runs[0]  # every seed failed, and the result says so
    if not as_json and not troubles:
        say(files_text(run.run_dir))
    if run.interrupted:
        return INTERRUPTED
    if troubles or run.failures:
        raise troubles[0] if troubles else _failure(run)
    return DONE


def _check(request: TrainRequest) -> None:
    """Tells what the recipe and `train` would refuse, before JAX is imported for them."""
    check(request.settings)
    run = request.run
    for name, most in {"num_steps": MOST, "num_envs": MOST_AT_ONCE, "evaluate_every": MOST, "evaluate_episodes": MOST_AT_ONCE}.items():
        if run.get(name) is not None:
            count(name, run[name], most)
    seed_list(run.get("seed"), run.get("seeds"))


def _failure(run: Any) -> RunError:
    """The last line about a run of which some or all seeds failed."""
    failures, seeds = run.failures, len(run.seeds)
    first = next(iter(failures.values()))
    if seeds == 1:
        return first
    if len(failures) == seeds:
        return RunError(f"all {seeds} seeds failed, the first with: {first}")
    return RunError(f"{len(failures)} of {seeds} seeds failed: {', '.join(map(str, failures))}; the others are complete")


def as_flags(error: UsageError, names: Any) -> UsageError:
    """Messages of the library begin with the name of an argument, `num_steps: …`; here it is a flag."""
    match = re.match(r"(\w+)(?=: )", str(error))
    if match is None or match[1] not in names:
        return error
    return UsageError(f"--{match[1].replace('_', '-')}{str(error)[match.end() :]}")


def registered(env: str, where: str = "--env") -> str:
    """The id of an environment; of "module:id" after the module was imported, so that it can register it.

    Args:
        where: it was given, for messages.

    Raises:
        UsageError: the module cannot be imported.
    """
    module, colon, name = env.partition(":")
    if not colon or is_foreign(env):
        return env
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last: a file here must not hide a library
    try:
        importlib.import_module(module)
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise UsageError(f"{where}: the module of {env!r} cannot be imported: got {text}; run where it lies, or install it") from error
    return name


# ---------------------------------------------------------------- evaluate


def evaluate(words: Sequence[str]) -> int:
    """`policygrad evaluate RUN_OR_POLICY …`"""
    options, rest = parse(evaluate_parser(), EVALUATE_OPTIONS, words)
    if len(rest) != 1:
        got = f"got {' and '.join(map(repr, rest))}" if rest else "got none"
        raise UsageError(f"evaluate takes one run directory or policy file: {got}; write policygrad evaluate RUN --num-episodes 100")
    try:
        count("num_episodes", options.get("num_episodes", 1))
        whole("seed", options.get("seed", 0), 0, MOST)
    except UsageError as error:
        raise as_flags(error, EVALUATE_OPTIONS) from error
    path = Path(rest[0])
    if not path.exists():
        raise UsageError(f"got {rest[0]!r}: there is no such run directory or policy file; give one that `policygrad train` made")
    from policygrad.evaluation import evaluate as run_episodes

    is_run = path.is_dir()
    policies, config = _run(path) if is_run else ({}, _beside(path))
    config_file = (path if is_run else path.parent) / "config.json"
    known = ("env", "env_args", "backend")
    config = {key: EVALUATE_OPTIONS[key].read(config[key], f"{config_file}: {key}") for key in known if config.get(key) is not None}
    env = registered(options["env"]) if "env" in options else config.get("env")
    if env is None:
        raise UsageError(f"--env missing: {path} lies beside no config.json that tells its environment; write --env ID")
    same = env == config.get("env")
    as_json = options.pop("json", False)
    keywords = {
        "num_episodes": options.get("num_episodes", EVALUATE_OPTIONS["num_episodes"].default),
        "seed": options.get("seed", EVALUATE_OPTIONS["seed"].default),
        "sample": options.get("sample", False),
        "backend": options.get("backend") or (config.get("backend") if same else None) or "auto",
        "env_args": {**(config.get("env_args", {}) if same else {}), **options.get("env_args", {})},
        "device": options.get("device", "auto"),
    }
    results = []
    for seed, file in policies.items() if is_run else [(None, path)]:
        try:
            result = run_episodes(file, env, **keywords)
        except UsageError as error:
            raise as_flags(error, EVALUATE_OPTIONS) from error
        results.append(result)
        if not as_json:
            if len(results) == 1:
                say(evaluation_head(result, keywords["sample"]))
            say(evaluation_text(f"seed {seed}" if is_run else "mean return", result))
    if as_json:
        values = {
            "mean": [result.mean for result in results],
            "interval": [list(result.interval) for result in results],
            "returns": [result.returns.tolist() for result in results],
            "lengths": [result.lengths.tolist() for result in results],
        }
        head = {"env": results[0].env, "backend": results[0].backend, **{key: keywords[key] for key in ("num_episodes", "seed", "sample")}}
        if is_run:
            head |= {"run_dir": str(path), "seeds": list(policies)}
        else:
            head["policy"] = str(path)
        say(to_json(head | (values if is_run else {key: value[0] for key, value in values.items()})))
    return DONE


def evaluate_parser() -> Any:
    """The parser of `evaluate`."""
    description = (
        "Runs whole episodes of a trained policy: prints their mean return, its 95 % interval, and every return. "
        "Of a run directory, the policies of all its seeds, in the environment they were trained in."
    )
    return make_parser("policygrad evaluate RUN_OR_POLICY [options]", fitted(description), {"flags": EVALUATE_OPTIONS.values()})


def _run(path: Path) -> tuple[dict[int, Path], dict[str, Any]]:
    from policygrad.records import load_run

    run = load_run(path)
    if not run.policies:
        raise UsageError(f"{path}: got no policy_<seed>.safetensors in it; a run that was killed saves none, train it again")
    return dict(sorted(run.policies.items())), run.config


def _beside(path: Path) -> dict[str, Any]:
    """The configuration of the run that a policy file lies in; empty where it lies in none."""
    try:
        return read_file(path.parent / "config.json")
    except UsageError:
        return {}


# ---------------------------------------------------------------- plot


def plot(words: Sequence[str]) -> int:
    """`policygrad plot RUN… [--out DIR]`"""
    options, paths = parse(plot_parser(), PLOT_OPTIONS, words)
    if not paths:
        raise UsageError("plot takes run directories: got none; write policygrad plot RUN [RUN ...] [--out DIR]")
    from policygrad.report import figures

    troubles: list[str] = []
    drawn = figures(paths, options.get("out"), troubles.append)
    if drawn:
        say("\n".join(map(str, drawn)))
    if troubles:
        raise (RunError if drawn else UsageError)(troubles[0] + (f" (and {len(troubles) - 1} more)" if len(troubles) > 1 else ""))
    return DONE


def plot_parser() -> Any:
    """The parser of `plot`."""
    return make_parser(
        "policygrad plot RUN [RUN ...] [--out DIR]",
        "Draws the figures of one run, or of several to compare them.",
        {"flags": PLOT_OPTIONS.values()},
    )


# ---------------------------------------------------------------- list


def show_list(words: Sequence[str]) -> int:
    """`policygrad list`"""
    options, rest = parse(list_parser(), LIST_OPTIONS, words)
    if rest:
        raise UsageError(f"unexpected {rest[0]!r}: list takes no words, only --tuned and --json")
    if options.get("tuned"):
        say(_tuned_json() if options.get("json") else _tuned_text())
        return DONE
    from policygrad.baselines import KINDS
    from policygrad.envs import compiled_names
    from policygrad.envs.finite_worlds import WORLDS

    compiled, others = compiled_names(), _gymnasium_names()
    algorithms = {name: summary(recipe) for name, recipe in shells().items()}
    baselines = {name: summary(kind) for name, kind in KINDS.items()}
    worlds = {name: summary(world) for name, world in WORLDS.items()}
    if options.get("json"):
        environments = {"compiled": list(compiled), "gymnasium": others}
        say(to_json({"environments": environments, "algorithms": algorithms, "baselines": baselines, "worlds": worlds}))
        return DONE
    twins = [name + ("*" if name in others else "") for name in compiled]
    parts = [
        names_text("environments compiled with JAX (* Gymnasium has it too: --backend gymnasium)", twins),
        names_text("environments of Gymnasium's, beside those", [name for name in others if name not in compiled]),
        table_text("algorithms", algorithms),
        table_text("baselines of reinforce", baselines),
        table_text("finite MDPs of the laboratory", worlds),
    ]
    say("\n\n".join(parts))
    return DONE


def list_parser() -> Any:
    """The parser of `list`."""
    what = "Lists environments, algorithms, baselines, finite MDPs; or tuned settings."
    return make_parser("policygrad list [--tuned] [--json]", what, {"flags": LIST_OPTIONS.values()})


def _tuned_json() -> str:
    """Every tuned entry, as one line."""
    from policygrad.tuned_settings import TUNED

    listed = []
    for entry in TUNED.values():
        fields = {"env": entry.env, "algorithm": entry.name, "num_envs": entry.num_envs, "num_steps": entry.num_steps}
        measured = None if entry.measured is None else {**dataclasses.asdict(entry.measured), "figure": entry.measured.figure}
        listed.append({**fields, "settings": entry.settings, "measured": measured, "note": entry.note})
    return to_json({"tuned": listed})


def _tuned_text() -> str:
    """The tuned entries by environment: what they reached, and the command that uses one."""
    from policygrad.tuned_settings import TUNED

    parts = []
    for env in dict.fromkeys(env for env, _ in TUNED):
        entries = {name: entry for (known, name), entry in TUNED.items() if known == env}
        parts.append(table_text(env, {name: _entry_text(entry) for name, entry in entries.items()}))
    return "\n\n".join([*parts, "policygrad train ppo --env CartPole-v1 --tuned takes them; flags override them."])


def _entry_text(entry: Any) -> str:
    """One tuned entry in words: steps, what was reached and by which seeds, settings."""
    measured, words = entry.measured, []
    if measured is None:
        words.append("not measured here")
    else:
        seeds = f"{len(measured.seeds)} seeds, {measured.backend}, {measured.commit}"
        words.append(f"{measured.what} {number(measured.figure)} ({seeds})")
    words.append(f"{entry.num_steps:,} steps, {entry.num_envs} environments")
    words.append(", ".join(f"{key} {_plain(value)}" for key, value in entry.settings.items()) or "default settings")
    return "; ".join([*words, entry.note] if entry.note else words)


def _plain(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else "none" if value is None else str(value)


def _gymnasium_names() -> list[str]:
    """Ids that can be trained on here: installed, with spaces that are handled; of several versions the newest of these."""
    import gymnasium

    from policygrad.envs import make
    from policygrad.envs.hosted import register_hosted

    register_hosted()
    newest: dict[str, tuple[int, str]] = {}
    for name, spec in sorted(gymnasium.registry.items()):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of ids that are out of date
            try:
                make(name, "gymnasium")
            except UsageError:
                continue
        base, version = name.rpartition("-v")[0] or name, spec.version or 0
        newest[base] = max(newest.get(base, (version, name)), (version, name))
    return sorted(name for _, name in newest.values())


COMMANDS: dict[str, tuple[Callable[[Sequence[str]], int], Callable[[Sequence[str]], str]]] = {
    "train": (train, train_help),
    "evaluate": (evaluate, lambda words: evaluate_parser().format_help()),
    "plot": (plot, lambda words: plot_parser().format_help()),
    "check-env": (check_env, lambda words: check_env_parser().format_help()),
    "lab": (lab, lambda words: lab_parser().format_help()),
    "list": (show_list, lambda words: list_parser().format_help()),
}
"""Each command and its help."""
