"""What `policygrad train` was asked for: words, and perhaps a file, made into the arguments of a recipe and of `train`."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policygrad.cli.options import Option, fitted, introduction, make_parser, parse, recipe_options, summary
from policygrad.cli.output import table_text
from policygrad.cli.recipes import shells
from policygrad.errors import UnknownNameError, UsageError
from policygrad.settings import DEVICES

BACKENDS = ("auto", "compiled", "gymnasium")
SEED_LOOPS = ("auto", "alone", "together")
VECTORIZATIONS = ("auto", "vector", "sync", "async", "envpool")

ENV = Option(
    "env",
    str,
    "the environment: an id, module:id for one that your module registers, or gymnax:id, functional:id, brax:id, playground:id",
    metavar="ID",
)
ENV_ARGS = Option("env_args", dict, "keyword arguments of the environment, e.g. gravity=3.7 continuous=true", metavar="NAME=VALUE")
BACKEND = Option(
    "backend",
    None,
    "compiled: the environment in JAX; gymnasium: Gymnasium's own; auto takes the compiled one where there is one",
    BACKENDS,
    default="auto",
)
DEVICE = Option("device", None, "where programs run; auto takes a GPU where JAX finds one", DEVICES, default="auto")
JSON = Option("json", bool, "print the result as one JSON object, and nothing else, on stdout")

RUN_OPTIONS = {
    option.name: option
    for option in (
        ENV,
        Option("num_steps", int, "steps of all environments together, per seed; rounded up to whole updates"),
        ENV_ARGS,
        Option("num_envs", int, "environments side by side; default is the algorithm's choice", optional=True),
        Option("seed", int, "the seed of a single run (default: 0)", metavar="S", optional=True),
        Option("seeds", int, "train N times, with the seeds 0 to N − 1", listed=True, optional=True),
        BACKEND,
        Option(
            "vectorization",
            None,
            "how Gymnasium's environments run: sync in this process, async in workers too, envpool by EnvPool",
            VECTORIZATIONS,
            default="auto",
        ),
        DEVICE,
        Option("seed_loop", None, "alone: each seed bit for bit; together: one program for all seeds", SEED_LOOPS, default="auto"),
        Option("out", str, "the run directory, new or empty; default is runs/ENV/ALGORITHM/TIME", metavar="DIR", optional=True),
        Option("init", str, "a policy file to start from", metavar="FILE", optional=True),
        Option("diagnostics", bool, "record the variance, signal-to-noise ratio and direction of each update's gradient", default=False),
        Option("until_solved", bool, "stop a seed once the mean of its last 20 returns reaches the reward threshold", default=False),
        Option("evaluate_every", int, "evaluate after every so many steps, and at the end, and keep the best policy", optional=True),
        Option("evaluate_episodes", int, "episodes of each evaluation", default=10),
        Option("tuned", bool, "the settings measured for this algorithm and environment (policygrad list --tuned); flags override them"),
        Option("config", str, "a JSON or TOML file of these names, or config.json of a run; flags override it", metavar="FILE"),
        JSON,
        Option("plain", bool, "progress as plain lines, without a bar"),
    )
}
TAKEN_FROM_RUNS = (
    *("env", "env_args", "num_steps", "num_envs", "seeds", "backend", "vectorization", "diagnostics"),
    *("evaluate_every", "evaluate_episodes"),
)
"""What a run's own config.json gives a new run, beside the settings of its algorithm."""

USAGE = "policygrad train {} --env ID --num-steps N [options]"
_HINT = "policygrad train ALGORITHM --help shows the flags of its own that each has."


@dataclass(frozen=True)
class TrainRequest:
    """A recipe's name and arguments, and those of the run."""

    algorithm: str
    settings: dict[str, Any]
    run: dict[str, Any]


def train_help(words: Sequence[str]) -> str:
    """The help of `train`, or of one algorithm if the words name one."""
    name, _ = _split(words)
    if name is None:
        listed = table_text("algorithms", {known: summary(recipe) for known, recipe in shells().items()})
        description = f"Trains a policy and keeps everything about the run in a directory.\n\n{listed}\n\n{_HINT}"
        return make_parser(USAGE.format("ALGORITHM"), description, {"flags of every algorithm": RUN_OPTIONS.values()}).format_help()
    recipe = _recipe(name)
    return _parser(name, recipe, recipe_options(recipe)).format_help()


def _parser(name: str, recipe: Callable[..., Any], options: Mapping[str, Option]) -> Any:
    groups = {"the run": RUN_OPTIONS.values(), f"the algorithm {name}": options.values()}
    return make_parser(USAGE.format(name), fitted(introduction(recipe)), groups)


def train_request(words: Sequence[str]) -> TrainRequest:
    """Reads the command line after `train`.

    Raises:
        UsageError: anything wrong with it, or with the file that it names.
    """
    name, rest = _split(words)
    if name is not None:
        _recipe(name)  # an unknown name is told before anything else
    path = _config_path(rest)
    content = read_file(path) if path else {}
    configured = content.pop("algorithm", None)
    name = name or configured
    if name is None:
        got = f"got {rest[0]!r}; " if rest else ""
        raise UsageError(f"train needs an algorithm first: {got}write {USAGE.format('reinforce')}; known: {', '.join(shells())}")
    recipe = _recipe(name)
    options = recipe_options(recipe)
    flags, extra = parse(_parser(name, recipe, options), {**RUN_OPTIONS, **options}, rest)
    if extra:
        raise UsageError(f"unexpected {extra[0]!r}: train takes one algorithm and flags; flags begin with --")
    flags.pop("config", None)
    if configured not in (None, name) and "settings" in content:
        raise UsageError(f"{path}: its settings are for {configured}: got the algorithm {name}; leave the name out, or the file")
    values = _merged(_from_file(path, content, options) if path else {}, flags, again="settings" in content)
    if values.pop("tuned", False):
        if "settings" in content:
            raise UsageError(f"--tuned: got it with {path}, the configuration of a run, which sets everything itself; give one of the two")
        values = _tuned(name, values) | values
    if values.get("seed") is not None and values.get("seeds") is not None:
        raise UsageError(f"--seed and --seeds: got both ({values['seed']} and {values['seeds']}); give one")
    missing = [RUN_OPTIONS[needed].flag for needed in ("env", "num_steps") if values.get(needed) is None]
    if missing:
        raise UsageError(f"{' and '.join(missing)} missing: train needs both; write {USAGE.format(name)}")
    settings = {key: value for key, value in values.items() if key in options}
    return TrainRequest(name, settings, {key: value for key, value in values.items() if key in RUN_OPTIONS})


def _merged(theirs: dict[str, Any], flags: dict[str, Any], again: bool) -> dict[str, Any]:
    """Flags over the values of a file, without those that another flag makes void; `again`: the file is a run's own."""
    void = set()
    if "seed" in flags or "seeds" in flags:
        void |= {"seed", "seeds"}
    if "evaluate_every" in flags and flags["evaluate_every"] is None:
        void |= {"evaluate_episodes"}
    if again and "backend" in flags:
        void |= {"vectorization"}
    other_env = theirs.get("env") and flags.get("env", theirs["env"]).rpartition(":")[2] != theirs["env"].rpartition(":")[2]
    if other_env:
        void |= {"env_args", "backend", "vectorization"} if again else {"env_args"}
    kept = {key: value for key, value in theirs.items() if key not in void}
    return {**kept, **flags, "env_args": {**kept.get("env_args", {}), **flags.get("env_args", {})}}


def _tuned(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The tuned settings for the environment, with the number of environments and steps that go with them."""
    from policygrad.tuned_settings import tuned

    env = values.get("env")
    if env is None:
        raise UsageError(f"--env missing: tuned settings are those of an environment; write policygrad train {name} --env ID --tuned")
    entry = tuned(env.rpartition(":")[2], name)
    return {**entry.settings, "num_envs": entry.num_envs, "num_steps": entry.num_steps}


def _recipe(name: Any) -> Callable[..., Any]:
    if not isinstance(name, str) or name not in shells():
        raise UnknownNameError("algorithm", str(name), shells())
    return shells()[name]


def _split(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """The algorithm, which comes first, or where flags come first is the name of one behind them; and the other words."""
    words = list(words)
    if words and not words[0].startswith("-"):
        return words[0], words[1:]
    takes_value = {option.flag for option in RUN_OPTIONS.values() if option.kind is not bool}
    for index, word in enumerate(words):
        if word in shells() and words[index - 1] not in takes_value:
            return word, words[:index] + words[index + 1 :]
    return None, words


# ---------------------------------------------------------------- files


def _config_path(words: Sequence[str]) -> str | None:
    """The file is needed before the flags can be parsed: it may name the algorithm, which says what flags there are."""
    path = None
    for index, word in enumerate(words):
        if word == "--config" and index + 1 < len(words) and not words[index + 1].startswith("--"):
            path = words[index + 1]
        elif word.startswith("--config="):
            path = word.partition("=")[2]
    return path


def read_file(path: str | Path) -> dict[str, Any]:
    """A JSON or TOML file with names on its top level; hyphens become underscores.

    Raises:
        UsageError: no such file, neither JSON nor TOML, or no names in it.
    """
    path = Path(path)
    try:
        text = path.read_text("utf-8")
        content = tomllib.loads(text) if path.suffix.lower() == ".toml" else json.loads(text)
    except OSError as error:
        raise UsageError(f"--config: got {str(path)!r}: {error.strerror or error}; give a JSON or TOML file") from None
    except (ValueError, RecursionError) as error:
        kind = "TOML" if path.suffix.lower() == ".toml" else "JSON (name it .toml if it is TOML)"
        raise UsageError(f"--config: {path} is not {kind}: {' '.join(str(error).split())}; correct the file") from None
    if not isinstance(content, dict):
        raise UsageError(f"--config: {path} holds a {type(content).__name__}: it must hold names and values, as in num_steps = 100000")
    return {key.replace("-", "_"): value for key, value in content.items()}


def _from_file(path: str, content: dict[str, Any], options: Mapping[str, Option]) -> dict[str, Any]:
    """The values of a file, read; of a run's own config.json only what makes the same run again."""
    settings = content.get("settings")
    if isinstance(settings, dict):
        given = {key: content[key] for key in TAKEN_FROM_RUNS if content.get(key) is not None} | settings
    else:
        given = content
    known = {key: option for key, option in {**RUN_OPTIONS, **options}.items() if key != "config"}
    values = {}
    for key, value in given.items():
        if key in known:
            if key in RUN_OPTIONS and value is None:
                continue
            values[key] = known[key].read(value, f"{path}: {key}")
        elif value is not None or not isinstance(settings, dict):  # null stands for what only Python can give
            raise UsageError(f"{path}: {UnknownNameError('key', key, known)}")
    return values
