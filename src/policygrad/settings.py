"""What the arguments of recipes may be: one range for one name, in every recipe.

A recipe calls `check(locals())` first, so a wrong argument is one clear line before anything is built. Traced values pass:
a recipe may be built inside a mapped function, with a learning rate or a discount that JAX maps over.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from policygrad.ascent import OPTIMIZERS
from policygrad.baselines import FORMS, KINDS
from policygrad.errors import UnknownNameError, UsageError
from policygrad.gradients.weights import WEIGHTS
from policygrad.policies.networks import ACTIVATIONS, INITIALISATIONS
from policygrad.types import Baseline

CREDITS = ("reward-to-go", "total-return")
ADVANTAGES = ("td", "n-step", "gae", "vtrace")


def _number(value: Any) -> bool:
    if isinstance(value, bool | np.bool_):
        return False
    scalar = isinstance(value, int | float | np.number) or (isinstance(value, jax.Array) and value.ndim == 0)
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
    lambda value: callable(value) and not isinstance(value, jax.tree_util.Partial) and not hasattr(value, "unroll"),
    "a function (key, spec) -> policy, such as policies.mlp((64, 64))",
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
    "sigma": POSITIVE,
    "initial_sigma": POSITIVE,
    "policy": FUNCTION,
}
OPTIONAL = {"weight_limit", "value_clip", "stop_kl", "step_size", "episodes_per_update", "max_grad_norm", "hidden_sizes", "sigma", "policy"}
"""Arguments that None turns off."""

CHOICES: dict[str, tuple[Collection[str], Callable[[Any], bool]]] = {
    "baseline": (KINDS, lambda value: isinstance(value, Baseline)),
    "baseline_form": (FORMS, lambda value: False),
    "credit": (CREDITS, lambda value: False),
    "advantage": (ADVANTAGES, lambda value: False),
    "weight": (WEIGHTS, lambda value: False),
    "normalize_over": (("minibatch", "batch"), lambda value: False),
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
        if isinstance(value, Tracer) or (value is None and name in OPTIONAL):
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
