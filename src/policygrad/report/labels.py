"""What tells runs apart in a legend: the algorithm, and only those settings that differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

_CONTEXT = ("env", "env_args", "backend", "num_envs")
"""Configuration beside the algorithm's own settings that changes what a curve means. Of `num_steps` and `seeds` the picture
itself tells."""

_MAX_SETTINGS = 4
_UNSET = object()


def describe(config: Mapping[str, Any]) -> str:
    """Algorithm and environment of one run: reinforce on CartPole-v1."""
    algorithm, env = _text(config.get("algorithm")), config.get("env")
    return f"{algorithm} on {_text(env)}" if env else algorithm


def distinguish(configs: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """One label a run, as short as tells them apart.

    Args:
        configs: what each run's config.json holds: `algorithm`, its `settings`, and `env`, `backend`, `num_envs`.
        names: of the run directories, for runs whose configurations are equal.

    Returns:
        For example ["reinforce · baseline=none", "reinforce · baseline=mean", "ppo"]. A setting is compared among runs of
        the same algorithm only, context (environment, backend, number of environments) among all.
    """
    algorithms = [_text(config.get("algorithm")) for config in configs]
    context = [_flat({name: config[name] for name in _CONTEXT if name in config}) for config in configs]
    settings = [_flat(config.get("settings") or {}) for config in configs]
    labels = []
    for algorithm, here, mine in zip(algorithms, context, settings, strict=True):
        alike = [other for name, other in zip(algorithms, settings, strict=True) if name == algorithm]
        differing = _differing(mine, alike)
        around = _differing(here, context)
        env = around.pop("env", None)
        parts = [algorithm if env is None else f"{algorithm} on {_text(env)}"]
        shown = [f"{name}={_text(value)}" for name, value in (differing | around).items()]
        if len(shown) > _MAX_SETTINGS:
            shown = [*shown[:_MAX_SETTINGS], "…"]
        labels.append(" · ".join([*parts, ", ".join(shown)] if shown else parts))
    counts = Counter(labels)
    unique = [label if counts[label] == 1 else f"{label} ({name})" for label, name in zip(labels, names, strict=True)]
    seen: Counter[str] = Counter()
    for i, label in enumerate(unique):  # directories of one name in different places
        seen[label] += 1
        if seen[label] > 1:
            unique[i] = f"{label} #{seen[label]}"
    return unique


def _differing(mine: Mapping[str, Any], alike: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    names = dict.fromkeys(name for other in alike for name in other)
    return {name: mine.get(name) for name in names if len({repr(other.get(name, _UNSET)) for other in alike}) > 1}


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return "[" + " ".join(_text(v) for v in value) + "]"
    text = " ".join(str(value).split())
    return text if len(text) <= 40 else text[:39] + "…"
