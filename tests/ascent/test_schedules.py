"""Schedules: functions of progress."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policygrad.ascent import constant, linear
from policygrad.ascent.schedules import as_schedule


@pytest.mark.parametrize(("first", "last"), [(1.0, 0.0), (0.2, 0.7), (3e-4, 3e-5)])
def test_linear_is_the_straight_line_between_its_ends(first: float, last: float) -> None:
    progress = np.linspace(0, 1, 5, dtype=np.float32)
    got = jax.vmap(linear(first, last))(progress)
    np.testing.assert_allclose(got, [first, 0.75 * first + 0.25 * last, (first + last) / 2, 0.25 * first + 0.75 * last, last], rtol=1e-5)


def test_linear_falls_to_zero_unless_told_otherwise() -> None:
    assert float(linear(0.5)(jnp.asarray(1.0))) == 0.0
    assert float(linear(0.5)(jnp.asarray(0.0))) == 0.5


def test_constant_does_not_move() -> None:
    values = {float(constant(0.25)(jnp.asarray(p))) for p in (0.0, 0.3, 1.0)}
    assert values == {0.25}


def test_a_number_becomes_a_constant_and_a_schedule_stays() -> None:
    falling = linear(1.0)
    assert as_schedule(falling) is falling
    assert float(as_schedule(2)(jnp.asarray(0.9))) == 2.0
    assert jnp.issubdtype(as_schedule(2)(jnp.asarray(0.9)).dtype, jnp.floating)
