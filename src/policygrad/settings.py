"""What the arguments of recipes, and the numbers of a run, may be: one range for one name, everywhere.

A recipe calls `check(locals())` first, so a wrong argument is one clear line before anything is built. Traced values pass:
a recipe may be built inside a mapped function, with a learning rate or a discount that JAX maps over.

The command line holds words to these ranges before it imports JAX, so nothing here imports it; names stand here as text, and are those of
the pieces themselves.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np

from policygrad.errors import UnknownNameError, UsageError
from policygrad.types import Baseline

BaselineName = Literal[
    "none", "mean", "episode-mean", "running-mean", "time-mean", "state-mean", "least-squares", "leave-one-out", "optimal",
    "value", "value-table", "value-linear", "value-network",
]  # fmt: skip
FormName = Literal["same-batch", "previous-batch", "leave-one-out"]
WeightName = Literal["none", "per-step", "per-decision", "trajectory"]
NormalizeOver = Literal["minibatch", "batch"]
FeaturesName = Literal["auto", "raw", "one-hot", "polynomial", "fourier", "rbf", "random-fourier", "nature-cnn", "small-cnn", "joined"]
MemoryName = Literal["none", "gru", "lstm"]
HeadName = Literal["auto", "gaussian", "state-gaussian", "full-gaussian", "squashed", "squashed-state", "beta"]

CREDITS = ("reward-to-go", "total-return")
ADVANTAGES = ("td", "n-step", "gae", "vtrace")
MOST, MOST_AT_ONCE = 2**31 - 1, 2**20
"""What counters of steps hold; and environments side by side, or episodes of an evaluation."""
FOREIGN = ("gymnax", "functional", "brax", "playground")
"""Prefixes of environments that others wrote in JAX: `envs.adapters`."""
DEVICES = ("auto", "cpu", "gpu")
HEADS: tuple[str, ...] = get_args(HeadName)
OPTIMIZERS = ("adam", "sgd", "rmsprop")
ACTIVATIONS = ("tanh", "relu", "leaky_relu", "elu", "gelu", "sigmoid", "silu", "softplus", "identity")
INITIALISATIONS = ("orthogonal", "xavier", "lecun", "torch")


def is_foreign(env: str) -> bool:
    """Whether an environment's name begins with one of these prefixes and ":"; before others a module is meant."""
    prefix, colon, _ = env.partition(":")
    return bool(colon) and prefix in FOREIGN


def _is(value: Any, *path: str) -> bool:
    """Whether it is of one of JAX's types, by the path to the type; it is none where JAX has not been imported."""
    kind: Any = sys.modules.get("jax")
    for name in path:
        kind = getattr(kind, name, None)
    return kind is not None and isinstance(value, kind)


def _number(value: Any) -> bool:
    if isinstance(value, bool | np.bool_):
        return False
    scalar = isinstance(value, int | float | np.number) or (_is(value, "Array") and value.ndim == 0)
    return scalar and math.isfinite(float(value))


def _whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(value >= 1)


def _widths(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and all(_whole(width) for width in value)


Range = tuple[Callable[[Any], bool], str]
POSITIVE: Range = (lambda value: _number(value) and value > 0, "a finite number above 0")
NOT_NEGATIVE: Range = (lambda value: _number(value) and value >= 0, "a finite number of at least 0")
SCHEDULED_POSITIVE: Range = (lambda value: callable(value) or (_number(value) and value > 0), "a finite number above 0, or a schedule")
SCHEDULED: Range = (lambda value: callable(value) or (_number(value) and value >= 0), "a finite number of at least 0, or a schedule")
SHARE: Range = (lambda value: _number(value) and 0 <= value <= 1, "a number in [0, 1]")
RATE: Range = (lambda value: _number(value) and 0 < value <= 1, "a number in (0, 1]")
COUNT: Range = (_whole, "a whole number of at least 1")
SWITCH: Range = (lambda value: isinstance(value, bool), "True or False")
FUNCTION: Range = (
    lambda value: callable(value) and not _is(value, "tree_util", "Partial") and not hasattr(value, "unroll"),
    "a function (key, spec) -> policy, such as policies.mlp((64, 64)), or an equinox.Module of your own",
)

RANGES: dict[str, Range] = {
    "discount": SHARE,
    "discount_gradient": SWITCH,
    "trace": SHARE,
    "n_step": COUNT,
    "weight_limit": POSITIVE,
    "self_normalize": SWITCH,
    "reuse": COUNT,
    "epochs": COUNT,
    "minibatches": COUNT,
    "clip": SCHEDULED_POSITIVE,
    "clip_decay": SWITCH,
    "value_clip": POSITIVE,
    "value_weight": NOT_NEGATIVE,
    "target_kl": POSITIVE,
    "stop_kl": POSITIVE,
    "initial_penalty": POSITIVE,
    "max_kl": SCHEDULED_POSITIVE,
    "max_kl_decay": SWITCH,
    "step_size": SCHEDULED_POSITIVE,
    "damping": NOT_NEGATIVE,
    "cg_iterations": COUNT,
    "backtracks": (lambda value: _whole(value) or (value == 0 and not isinstance(value, bool)), "a whole number of at least 0"),
    "shrink": (lambda value: _number(value) and 0 < value < 1, "a number between 0 and 1"),
    "recompute_advantages": SWITCH,
    "shared_features": SWITCH,
    "normalize_observations": SWITCH,
    "normalize_rewards": SWITCH,
    "learning_rate": SCHEDULED_POSITIVE,
    "learning_rate_decay": SWITCH,
    "critic_learning_rate": POSITIVE,
    "rollout_length": COUNT,
    "episodes_per_update": COUNT,
    "normalize_advantages": SWITCH,
    "entropy_bonus": SCHEDULED,
    "max_grad_norm": POSITIVE,
    "baseline_rate": RATE,
    "critic_steps": COUNT,
    "hidden_sizes": (_widths, "a list of whole numbers of at least 1, e.g. (64, 64)"),
    "sigma": (
        lambda value: (_number(value) and value > 0) or (isinstance(value, Sequence) and not isinstance(value, str)),
        "a finite number above 0 (in Python also one for each element, or a covariance matrix)",
    ),
    "initial_sigma": POSITIVE,
    "memory_size": COUNT,
    "truncate": COUNT,
    "policy": FUNCTION,
}
OPTIONAL = {
    *("weight_limit", "value_clip", "stop_kl", "step_size", "episodes_per_update", "max_grad_norm", "hidden_sizes", "sigma", "policy"),
    "truncate",
}
"""Arguments that None turns off."""

CHOICES: dict[str, tuple[Collection[str], Callable[[Any], bool]]] = {
    "baseline": (get_args(BaselineName), lambda value: isinstance(value, Baseline)),
    "baseline_form": (get_args(FormName), lambda value: False),
    "credit": (CREDITS, lambda value: False),
    "advantage": (ADVANTAGES, lambda value: False),
    "weight": (get_args(WeightName), lambda value: False),
    "normalize_over": (get_args(NormalizeOver), lambda value: False),
    "features": (get_args(FeaturesName), callable),
    "memory": (get_args(MemoryName), lambda value: value is None),
    "head": (HEADS, lambda value: isinstance(value, Mapping)),
    "optimizer": (OPTIMIZERS, lambda value: callable(value) or hasattr(value, "update")),
    "activation": (ACTIVATIONS, lambda value: False),
    "initialisation": (INITIALISATIONS, lambda value: False),
}
"""Arguments that are names: the names, and what may stand in a name's place."""


def check(settings: dict[str, Any]) -> None:
    """Holds a recipe's arguments to the ranges that go with their names.

    Raises:
        UsageError: argument · what was got · what it must be, in one line. UnknownNameError: a name that does not exist.
    """
    for name, value in settings.items():
        if _is(value, "core", "Tracer") or (value is None and name in OPTIONAL):
            continue
        if name in CHOICES:
            names, stands_in = CHOICES[name]
            if isinstance(value, str) and value not in names:
                raise UnknownNameError(name, value, names)
            if not isinstance(value, str) and not stands_in(value):
                raise UsageError(f"{name}: got {_shown(value)}; it must be one of {', '.join(names)}")
        elif name in RANGES:
            good, wanted = RANGES[name]
            if not good(value):
                raise UsageError(f"{name}: got {_shown(value)}; it must be {wanted}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 and "\n" not in text else f"a {type(value).__name__}"


def seed_list(seed: int | None, seeds: int | Sequence[int] | None) -> list[int]:
    """The seeds of a run: those of a list, 0 to n − 1 of a number, or the one.

    Raises:
        UsageError: both were given, or what is no seed, no number of seeds, or no list of different ones.
    """
    if seed is not None and seeds is not None:
        raise UsageError(f"seed and seeds: got both ({seed!r}, {seeds!r}); give one")
    if seeds is None:
        chosen: list[Any] = [0 if seed is None else seed]
    elif isinstance(seeds, Sequence | np.ndarray) and not isinstance(seeds, str):
        chosen = list(seeds)
    else:
        if isinstance(seeds, bool) or not isinstance(seeds, int | np.integer) or not 1 <= seeds <= 2**20:
            raise UsageError(f"seeds: got {seeds!r}; it must be a number of seeds of at least 1, or a list of seeds")
        chosen = list(range(seeds))
    for one in chosen:
        if isinstance(one, bool) or not isinstance(one, int | np.integer) or not 0 <= one < 2**32:
            raise UsageError(f"seed: got {one!r}; it must be a whole number from 0 to 2^32 − 1")
    if not chosen or len(set(chosen)) != len(chosen):
        raise UsageError(f"seeds: got {chosen!r}; give at least one, each once")
    return [int(one) for one in chosen]


def count(name: str, value: Any, most: int = MOST) -> int:
    """A whole number from 1 to `most`, also where it is written as 1e6.

    Raises:
        UsageError: it is none.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return whole(name, value, 1, most)


def whole(name: str, value: Any, least: int, most: int) -> int:
    """A whole number in a range.

    Raises:
        UsageError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not least <= value <= most:
        raise UsageError(f"{name}: got {value!r}; it must be a whole number from {least} to {most:,}")
    return int(value)
