"""What environments made of numbers ask of their arguments; what is wrong is one line."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from policygrad.errors import UsageError


def numbers(what: str, values: Any) -> np.ndarray:
    """A float64 copy."""
    try:
        if np.iscomplexobj(values):
            raise UsageError(f"{what}: got complex numbers; give real ones")
        return np.array(values, np.float64)
    except (TypeError, ValueError):
        raise UsageError(f"{what}: got {type(values).__name__} that is no array of numbers; give nested lists of equal lengths") from None


def frozen(array: np.ndarray) -> np.ndarray:
    """The array, read-only from now on."""
    array.flags.writeable = False
    return array


def at(what: str, index: Any) -> str:
    """An entry's name: "rewards[0, 2]"."""
    return f"{what}[{', '.join(map(str, index))}]"


def discount(value: Any) -> float:
    """γ in [0, 1]."""
    value = value.item() if getattr(value, "shape", None) == () and hasattr(value, "item") else value
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and math.isfinite(value) and 0 <= value <= 1):
        raise UsageError(f"discount: got {value!r}; it must be a number in [0, 1]")
    return float(value)


def at_least(who: str, what: str, got: Any, least: int) -> None:
    """A whole number, `least` or more."""
    if isinstance(got, bool) or not isinstance(got, int | np.integer) or got < least:
        raise UsageError(f"{who}: {what} must be an integer of at least {least}: got {got!r}")


def at_least_zero(who: str, what: str, got: Any) -> None:
    """A finite number, 0 or more."""
    if isinstance(got, bool) or not isinstance(got, int | float | np.number) or not (math.isfinite(got) and got >= 0):
        raise UsageError(f"{who}: {what} must be a finite number of at least 0: got {got!r}")


def probabilities(values: Any, count: int, who: str) -> np.ndarray:
    """A distribution over `count` outcomes, float64."""
    p = np.asarray(values, np.float64)
    if p.shape != (count,) or not (p >= 0).all() or abs(p.sum() - 1) > 1e-6:
        raise UsageError(f"{who}: probabilities must be {count} numbers ≥ 0 that sum to 1: got {p.tolist()}")
    return p


def reward_threshold(value: Any) -> float | None:
    """A mean return, or None."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not math.isfinite(value):
        raise UsageError(f"reward_threshold: got {value!r}; it must be a finite number, or None for no such goal")
    return float(value)


def time_limit(value: Any) -> int | None:
    """A number of steps, or None."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise UsageError(f"time_limit: got {value!r}; it must be a whole number of at least 1, or None for no limit")
    return int(value)
