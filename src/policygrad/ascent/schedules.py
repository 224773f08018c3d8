"""Schedules: functions of progress, the share of the planned steps that is done, in [0, 1].

Progress comes from two integer leaves of the agent (`steps`, `total`), so a run that is given more steps recompiles
nothing. At the first update progress is 0, so a rate that decays to 0 is never 0 while there are steps to learn from.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from policygrad.types import Array

Schedule = Callable[[Array], Array]


def constant(value: float) -> Schedule:
    """The same value throughout."""
    return lambda progress: jnp.asarray(value, jnp.result_type(float))


def linear(first: float, last: float = 0.0) -> Schedule:
    """first + (last − first) · progress.

    >>> [float(linear(1.0)(p)) for p in (0.0, 0.5, 1.0)]
    [1.0, 0.5, 0.0]
    """
    return lambda progress: first + (last - first) * progress


def as_schedule(value: float | Schedule) -> Schedule:
    """A number becomes a constant schedule; a schedule stays."""
    return value if callable(value) else constant(value)
