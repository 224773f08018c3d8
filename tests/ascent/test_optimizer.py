"""Gradient ascent with optax: what a step is, what clipping does, and which rate it takes."""

from __future__ import annotations

import inspect
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from policygrad.ascent import OPTIMIZERS, gradient_ascent, linear
from policygrad.ascent import optimizer as optimizer_module
from policygrad.errors import UnknownNameError
from policygrad.types import Ascent, Params

KEY = jax.random.key(0)
START = Params({"a": jnp.array([1.0, -2.0]), "b": jnp.array([[0.5], [3.0]])}, ())
# Of very different sizes, so that element-wise clipping turns the direction; its global norm is 13.
GRADIENT = Params({"a": jnp.array([12.0, 0.4]), "b": jnp.array([[-0.3], [np.sqrt(169 - 144 - 0.25).item()]])}, ())


def given_gradient(params: Params, batch: Any, progress: Any) -> tuple[Params, dict]:
    """The batch *is* the gradient of J."""
    return batch, {"seen": progress}


@lru_cache
def ascent_of(optimizer: Any, rate: Any = 0.5, clip: float | None = None) -> Ascent:
    made = gradient_ascent(given_gradient, learning_rate=rate, optimizer=optimizer, max_grad_norm=clip)
    return made._replace(step=jax.jit(made.step))


def move(ascent: Ascent, gradient: Params = GRADIENT, progress: float = 0.0) -> tuple[np.ndarray, dict]:
    """How far one step goes from the start, flat, and its info."""
    after, _, info = ascent.step(KEY, START, ascent.init(START), gradient, jnp.asarray(progress))
    return flat(jax.tree.map(lambda x, y: x - y, after, START)), info


def flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(tree)])


def close(got: Any, expected: Any, tolerance: float = 2e-6) -> None:
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)


def test_sgd_climbs_by_rate_times_gradient() -> None:
    step, info = move(ascent_of("sgd"))
    close(step, 0.5 * flat(GRADIENT))
    close(info["gradient_norm"], 13.0)
    close(info["learning_rate"], 0.5)
    assert "seen" in info  # the estimator's own info is kept


def test_rmsprop_is_that_of_a2c() -> None:
    """v ← 0.99 v + 0.01 g², θ ← θ + α g / (√v + 1e-5), v from 0: Mnih et al. 2016, and not optax's defaults."""
    small = jax.tree.map(lambda leaf: 1e-4 * leaf, GRADIENT)  # small enough for 1e-5 to count
    g = flat(small)
    ascent = ascent_of("rmsprop")
    state, params, v, expected = ascent.init(START), START, np.zeros_like(g), np.zeros_like(g)
    for _ in range(3):
        params, state, _ = ascent.step(KEY, params, state, small, jnp.zeros(()))
        v = 0.99 * v + 0.01 * g**2
        expected += 0.5 * g / (np.sqrt(v) + 1e-5)
    close(flat(params) - flat(START), expected, 1e-5)


@pytest.mark.parametrize("limit", [0.1, 12.99, 13.01, 1e3])
def test_after_clipping_the_global_norm_is_the_smaller_one_and_the_direction_stays(limit: float) -> None:
    step, info = move(ascent_of("sgd", 1.0, limit))
    close(np.linalg.norm(step), min(13.0, limit), 1e-5)
    close(step / np.linalg.norm(step), flat(GRADIENT) / 13.0, 1e-5)
    close(info["gradient_norm"], 13.0)  # of the estimate, before clipping


def test_clipping_the_elements_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The field's bug: `max_grad_norm` given to an element-wise clip keeps the length near, and turns the direction."""
    monkeypatch.setattr(
        optimizer_module, "clip_by_global_norm", lambda tree, norm, limit: jax.tree.map(lambda g: jnp.clip(g, -limit, limit), tree)
    )
    step, _ = move(gradient_ascent(given_gradient, learning_rate=1.0, optimizer="sgd", max_grad_norm=1.0))
    assert abs(np.linalg.norm(step) - 1.0) > 0.1
    assert step @ flat(GRADIENT) / np.linalg.norm(step) / 13.0 < 0.99


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_a_zero_gradient_goes_nowhere_and_stays_finite(name: str) -> None:
    step, info = move(ascent_of(name, 0.5, 1.0), jax.tree.map(jnp.zeros_like, GRADIENT))
    close(step, np.zeros(4), 0)
    assert info["gradient_norm"] == 0


@pytest.mark.parametrize("size", [1e-30, 1e-12, 1e12, 1e25])
def test_clipping_holds_for_gradients_of_any_size(size: float) -> None:
    """Also where the squares of the elements are no float32: the norm is neither 0 nor infinite."""
    sized = jax.tree.map(lambda g: g * np.float32(size / 13), GRADIENT)
    step, info = move(ascent_of("sgd", 1.0, 0.1), sized)
    start = np.abs(flat(START)).max()
    close(np.linalg.norm(step), min(size, 0.1), 1e-6 * start)  # what float32 resolves next to the start
    np.testing.assert_allclose(info["gradient_norm"], size, rtol=1e-5)


def test_three_steps_of_adam_are_the_papers() -> None:
    """Against Kingma and Ba's algorithm 1 in NumPy, and against optax's own loop, on gradients that change."""
    ascent, transform = ascent_of("adam"), optax.adam(0.5)
    params, state = START, ascent.init(START)
    theirs, their_state = START, transform.init(START)
    theta, m, v = flat(START), np.zeros(4), np.zeros(4)
    for t, scale in enumerate((1.0, -0.3, 2.0), start=1):
        gradient = jax.tree.map(lambda g, scale=scale: g * scale + 0.1, GRADIENT)
        params, state, _ = ascent.step(KEY, params, state, gradient, jnp.asarray(0.1 * t))
        updates, their_state = transform.update(jax.tree.map(jnp.negative, gradient), their_state, theirs)
        theirs = optax.apply_updates(theirs, updates)
        g = flat(gradient)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        theta = theta + 0.5 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        close(flat(params), theta, 1e-5)
        close(flat(params), flat(theirs), 1e-6)
    close(flat(state), flat(their_state), 1e-6)


@pytest.mark.parametrize(("progress", "rate"), [(0.0, 0.8), (0.25, 0.65), (0.5, 0.5), (1.0, 0.2)])
def test_the_rate_follows_its_schedule(progress: float, rate: float) -> None:
    step, info = move(ascent_of("sgd", linear(0.8, 0.2)), progress=progress)
    close(info["learning_rate"], rate)
    close(step, rate * flat(GRADIENT))


def test_the_schedule_is_applied_to_adam_as_well() -> None:
    """Adam's first step is rate × sign, whatever the gradient's size."""
    step, _ = move(ascent_of("adam", linear(0.8, 0.2)), progress=0.5)
    close(step, 0.5 * np.sign(flat(GRADIENT)), 1e-5)


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_the_rate_may_be_mapped_over(name: str) -> None:
    rates = jnp.array([0.1, 0.5, 2.0])

    def run(rate: Any) -> Any:
        ascent = gradient_ascent(given_gradient, learning_rate=rate, optimizer=name, max_grad_norm=20.0)
        after, _, info = ascent.step(KEY, START, ascent.init(START), GRADIENT, jnp.zeros(()))
        return after, info["learning_rate"]

    after, told = jax.jit(jax.vmap(run))(rates)
    close(told, rates)
    for i, rate in enumerate(rates):
        one, _ = move(gradient_ascent(given_gradient, learning_rate=float(rate), optimizer=name, max_grad_norm=20.0))
        close(flat(jax.tree.map(lambda x, s, i=i: x[i] - s, after, START)), one)
    assert len({float(x) for x in after.policy["a"][:, 0]}) == 3


def test_a_schedule_inside_the_mapped_function() -> None:
    """Rate and progress both traced: first + (last − first) · progress for each."""

    def run(first: Any, progress: Any) -> Any:
        ascent = gradient_ascent(given_gradient, learning_rate=linear(first), optimizer="sgd")
        return ascent.step(KEY, START, ascent.init(START), GRADIENT, progress)[0].policy["a"][0]

    got = jax.jit(jax.vmap(run))(jnp.array([0.4, 0.8]), jnp.array([0.5, 0.75]))
    close(got, 1.0 + 12.0 * np.array([0.2, 0.2]))


def test_a_ready_transformation_brings_its_own_rate() -> None:
    step, info = move(ascent_of(optax.chain(optax.scale(-0.25))))
    close(step, 0.25 * flat(GRADIENT))
    assert "learning_rate" not in info  # there is none to tell


def test_a_function_from_a_rate_to_a_transformation() -> None:
    step, info = move(ascent_of(optax.sgd, 0.125))
    close(step, 0.125 * flat(GRADIENT))
    close(info["learning_rate"], 0.125)


def test_a_transformation_that_reads_the_parameters_gets_them() -> None:
    step, _ = move(ascent_of(optax.chain(optax.add_decayed_weights(0.1), optax.scale(-1.0))))
    close(step, flat(GRADIENT) - 0.1 * flat(START))


def test_an_unknown_optimizer_is_refused_by_name() -> None:
    with pytest.raises(UnknownNameError, match="unknown optimizer 'adamm': did you mean adam") as caught:
        gradient_ascent(given_gradient, learning_rate=0.1, optimizer="adamm")
    assert "\n" not in str(caught.value)


def test_a_step_is_traced_once_however_often_it_is_made() -> None:
    traced = []

    def counted(params: Params, batch: Any, progress: Any) -> tuple[Params, dict]:
        traced.append(1)
        return batch, {}

    ascent = gradient_ascent(counted, learning_rate=linear(0.8), optimizer="adam", max_grad_norm=1.0)
    step = jax.jit(ascent.step)
    params, state = START, ascent.init(START)
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), state)
    for progress in (0.0, 0.5, 1.0):
        params, state, _ = step(KEY, params, state, GRADIENT, jnp.asarray(progress))
    assert len(traced) == 1
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == shapes


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_every_optimizer_by_name_climbs_and_takes_the_rate_first(name: str) -> None:
    assert next(iter(inspect.signature(OPTIMIZERS[name]).parameters)) == "learning_rate"
    step, _ = move(ascent_of(name, 0.01))
    assert (step * flat(GRADIENT) > 0).all()
