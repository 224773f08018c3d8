"""Losses with a critic: derivatives against finite differences and closed forms, and what their infos measure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from gradients.batches import A, B, Case, S, T, leaves, softmax
from policygrad.errors import UsageError
from policygrad.gradients import actor_critic_loss, clipped_loss, gradient_of, losses, penalty_loss, score_function
from policygrad.policies import Gaussian, tabular_softmax
from policygrad.types import Batch, Params

pytestmark = pytest.mark.usefixtures("x64")
NOW = 0.25


def close(got: Any, expected: Any, tolerance: float = 1e-12) -> None:
    assert np.shape(got) == np.shape(expected)
    np.testing.assert_allclose(np.asarray(got), expected, rtol=0, atol=tolerance)


def ascent(loss: Callable, case: Case, batch: Batch | None = None) -> tuple[np.ndarray, np.ndarray, dict]:
    """What the loss's gradient is for the logits [S, A] and the values [S], and its info."""
    gradient, info = jax.jit(gradient_of(loss))(case.params, case.batch if batch is None else batch, jnp.asarray(NOW))
    return np.asarray(gradient.policy.head.logits), np.asarray(gradient.critic.head.values), info


def differences(loss: Callable, case: Case, step: float = 1e-6) -> np.ndarray:
    """−∂ loss / ∂ θ for every parameter, by central differences, all at once."""
    flat, build = jax.flatten_util.ravel_pytree(case.params)
    moves = jnp.concatenate([step * jnp.eye(flat.size), -step * jnp.eye(flat.size)])
    values = jax.jit(jax.vmap(lambda move: loss(build(flat + move), case.batch, jnp.asarray(NOW))[0]))(moves)
    return -np.asarray(values[: flat.size] - values[flat.size :]) / (2 * step)


def score(case: Case) -> np.ndarray:
    """∇ log π(a_t|o_t) for the logits of its state, [T, B, A]."""
    return np.eye(A)[case.action] - softmax(case.logits)[case.obs]


def summed(case: Case, terms: np.ndarray) -> np.ndarray:
    """Σ_t terms_t over the visits of each state, [S, …]."""
    total = np.zeros((S, *terms.shape[2:]))
    np.add.at(total, case.obs, terms)
    return total


def probabilities(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """π_old and π of every step, [T, B, A]."""
    return softmax(case.before)[case.obs], softmax(case.logits)[case.obs]


def chosen(case: Case, pi: np.ndarray) -> np.ndarray:
    return np.take_along_axis(pi, case.action[..., None], -1)[..., 0]


# How the clip binds


CLIP = 0.2
RATIOS = np.array([0.5, 0.79, 0.81, 0.99, 1.01, 1.19, 1.21, 2.0])


def at_ratios() -> tuple[Params, Batch, np.ndarray, np.ndarray]:
    """A step per ratio and sign of Ψ, each in a state of its own with two actions: π_old(a) = 0.4, π(a) = 0.4 ρ."""
    ratio, psi = np.tile(RATIOS, 2), np.repeat([1.5, -0.7], len(RATIOS))
    chance = 0.4 * ratio
    new, old = np.log(np.stack([chance, 1 - chance], -1)), np.log(np.full((len(ratio), 2), (0.4, 0.6)))
    states = jnp.arange(len(ratio))[:, None]
    case = Case().batch
    column = jax.tree.map(lambda leaf: jnp.zeros((len(ratio), 1, *leaf.shape[2:]), leaf.dtype), case._replace(old=()))
    rollout = column.rollout._replace(obs=states, mask=column.rollout.mask + 1)
    batch = column._replace(
        rollout=rollout, advantages=jnp.asarray(psi)[:, None], weights=column.weights + 1, old=tabular_softmax(old)(states)
    )
    return Params(tabular_softmax(new), ()), batch, ratio, psi


def test_the_clip_stops_the_gradient_on_one_side_only() -> None:
    """∂ loss / ∂θ is −Ψ ρ ∇ log π unless the step is already past the clip in the direction that Ψ asks for, then 0."""
    params, batch, ratio, psi = at_ratios()
    loss = clipped_loss(CLIP)
    gradient, info = jax.jit(gradient_of(loss))(params, batch, jnp.zeros(()))
    past = ((ratio > 1 + CLIP) & (psi > 0)) | ((ratio < 1 - CLIP) & (psi < 0))
    expected = np.where(past, 0, psi * ratio)[:, None] * (np.array([1, 0]) - np.stack([0.4 * ratio, 1 - 0.4 * ratio], -1))
    close(gradient.policy.head.logits, expected)
    assert past.sum() == 4  # two ratios on either side
    assert (np.abs(expected[~past]).max(axis=1) > 0.05).all()
    close(info["clip_fraction"], 0.5)
    flat, build = jax.flatten_util.ravel_pytree(params)
    moves = 1e-6 * jnp.concatenate([jnp.eye(flat.size), -jnp.eye(flat.size)])
    values = jax.jit(jax.vmap(lambda move: loss(build(flat + move), batch, jnp.zeros(()))[0]))(moves)
    close(leaves(gradient), -np.asarray(values[: flat.size] - values[flat.size :]) / 2e-6, 1e-8)


def test_the_larger_of_both_instead_of_the_smaller_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses.jnp, "minimum", jnp.maximum)
    with pytest.raises(AssertionError):
        test_the_clip_stops_the_gradient_on_one_side_only()


def test_a_ratio_beyond_all_bounds_gives_no_nan() -> None:
    """exp(log ρ) would be infinite, and the gradient of the branch that the minimum drops 0 · ∞."""
    _, batch, ratio, _ = at_ratios()
    huge = jnp.asarray(np.tile([[1e4, -1e4], [-1e4, 1e4]], (len(ratio) // 2, 1)))
    gradient, _ = jax.jit(gradient_of(clipped_loss(CLIP)))(Params(tabular_softmax(huge), ()), batch, jnp.zeros(()))
    assert np.isfinite(leaves(gradient)).all()


# Whole losses against finite differences, in a batch with padding


WHOLE = {
    "actor-critic": actor_critic_loss(0.7, 0.3),
    "clipped": clipped_loss(0.2, 0.7, lambda progress: 0.4 * (1 - progress), 0.3),
    "penalty": penalty_loss(0.8, 0.7, 0.3),
}


@pytest.mark.parametrize("name", WHOLE)
def test_gradients_are_what_finite_differences_see(name: str) -> None:
    case = Case(1)
    logits, values, _ = ascent(WHOLE[name], case)
    close(np.concatenate([logits.ravel(), values]), differences(WHOLE[name], case), 1e-8)


def test_the_actor_critic_loss_is_the_score_function_with_a_squared_error() -> None:
    case = Case(2)
    logits, values, info = ascent(actor_critic_loss(0.7, 0.3), case)
    expected, _ = jax.jit(score_function(0.3))(case.params._replace(critic=()), case.batch, jnp.asarray(NOW))
    close(logits, np.asarray(expected.policy.head.logits))
    error = case.table[case.obs] - case.targets
    close(values, -0.7 * 2 * summed(case, case.weights * error))
    close(info["value_loss"], (case.mask * error**2).sum() / case.mask.sum())


def test_at_the_old_policy_all_three_have_the_actor_critics_gradient() -> None:
    case = Case(3, moved=0.0)
    first, *others = (leaves(ascent(loss, case)[:2]) for loss in (actor_critic_loss(), clipped_loss(), penalty_loss(5.0)))
    for other in others:
        close(other, first)


def test_the_penalty_is_the_divergence_from_the_old_policy() -> None:
    """∇ KL(π_old ‖ π) = π − π_old for logits; the reverse divergence has another gradient."""
    case = Case(4)
    old, new = probabilities(case)
    logits, _, info = ascent(penalty_loss(0.8), case)
    ratio = chosen(case, new / old)
    expected = (case.weights * ratio * case.psi)[..., None] * score(case) - 0.8 * case.weights[..., None] * (new - old)
    close(logits, summed(case, expected))
    close(info["kl"], (case.mask * (old * np.log(old / new)).sum(-1)).sum() / case.mask.sum())
    reverse = 0.8 * case.weights[..., None] * new * (np.log(new / old) - (new * np.log(new / old)).sum(-1, keepdims=True))
    assert np.abs(logits - summed(case, expected + 0.8 * case.weights[..., None] * (new - old) - reverse)).max() > 1e-3


def test_infos_are_means_over_valid_steps() -> None:
    case = Case(5)
    old, new = probabilities(case)
    _, _, info = ascent(clipped_loss(0.3, value_clip=0.1), case)
    steps = {
        "entropy": -(new * np.log(new)).sum(-1),
        "kl": (old * np.log(old / new)).sum(-1),
        "clip_fraction": np.abs(chosen(case, new / old) - 1) > 0.3,
        "value_loss": (case.table[case.obs] - case.targets) ** 2,
    }
    assert set(info) == set(steps)
    for name, x in steps.items():
        close(info[name], (x * case.mask).sum() / case.mask.sum())


def test_padding_never_matters() -> None:
    case, other = Case(6), Case(6)
    padding = case.mask == 0
    for name in ("psi", "targets", "values"):
        getattr(other, name)[padding] = 1e3
    other.obs[padding] = 1
    for loss in WHOLE.values():
        close(leaves(ascent(loss, other)), leaves(ascent(loss, case)))


# The critic's clip


@pytest.mark.parametrize(
    ("value", "target", "error", "slope"),
    [
        (1.1, 2.0, 0.81, -1.8),  # moved by less than the clip: as without it
        (1.5, 3.0, 3.24, 0.0),  # went towards the target further than allowed: the clipped error is larger, and flat
        (1.5, 0.5, 1.0, 2.0),  # went away from it: the unclipped error is larger, and leads back
        (0.5, 3.0, 6.25, -5.0),  # the same downwards
        (0.5, -1.0, 3.24, 0.0),
    ],
)
def test_the_clipped_value_error(value: float, target: float, error: float, slope: float) -> None:
    """V_old = 1, v = 0.2: the larger of (V − target)² and (1 + clip(V − 1, ±0.2) − target)², and its derivative."""
    case = Case()
    case.table[:], case.values[:], case.targets[:], case.psi[:] = value, 1.0, target, 0.0
    loss = _jitted("value clip", clipped_loss(value_weight=1.0, value_clip=0.2))
    (got, _), gradient = loss(case.params, case.batch, jnp.zeros(()))
    close(got, error * case.weights.sum())
    close(gradient.critic.head.values, slope * summed(case, case.weights))


_made: dict[str, Callable] = {}


def _jitted(name: str, loss: Callable) -> Callable:
    return _made.setdefault(name, jax.jit(jax.value_and_grad(loss, has_aux=True)))


# Schedules, shapes of Params, refusals


def test_clips_and_bonus_follow_progress() -> None:
    case = Case(7)
    scheduled = clipped_loss(lambda p: 0.4 * (1 - p), 0.5, lambda p: 0.4 * p, lambda p: 0.8 * p)
    constant = clipped_loss(0.4 * (1 - NOW), 0.5, 0.4 * NOW, 0.8 * NOW)
    close(leaves(ascent(scheduled, case)), leaves(ascent(constant, case)))


def test_without_a_critic_that_climbs_its_term_is_absent() -> None:
    case = Case(8)
    logits, *_ = ascent(clipped_loss(), case)
    gradient, info = jax.jit(gradient_of(clipped_loss(value_clip=0.2)))(case.params._replace(critic=()), case.batch, jnp.asarray(NOW))
    close(np.asarray(gradient.policy.head.logits), logits)
    assert gradient.critic == ()
    assert "value_loss" not in info


def test_a_control_variate_is_subtracted_once() -> None:
    case = Case(9)
    control = jax.tree.map(lambda leaf: jnp.stack([leaf + 1.0, 2 * leaf]), case.params.policy)  # a part of each column
    without, with_it = ascent(actor_critic_loss(), case)[0], ascent(actor_critic_loss(), case, case.batch._replace(control=control))[0]
    close(with_it, without - (3 * case.logits + 1))


def test_a_gaussian_policys_ratio_is_of_the_whole_action() -> None:
    """Two elements: the ratio is the product over them, one number a step."""
    old = Gaussian(jnp.zeros((T, B, 2)), jnp.zeros((T, B, 2)), 1)
    action = jnp.asarray(np.random.default_rng(0).normal(size=(T, B, 2)))
    case = Case()
    batch = case.batch._replace(old=old, rollout=case.batch.rollout._replace(action=action))

    class Shifted:
        def unroll(self, carry: Any, obs: Any, resets: Any) -> Any:
            return Gaussian(old.mean + 0.3, old.log_std, 1), carry

    got, _ = losses.clipped_loss(1e6)(Params(Shifted(), ()), batch, jnp.zeros(()))
    ratio = np.exp((-0.5 * (np.asarray(action) - 0.3) ** 2 + 0.5 * np.asarray(action) ** 2).sum(-1))
    close(got, -(case.weights * ratio * case.psi).sum())


@pytest.mark.parametrize("wrong", [{"clip": 0}, {"clip": -0.1}, {"value_clip": 0.0}, {"clip": float("nan")}])
def test_a_clip_that_is_not_above_zero_is_refused(wrong: dict) -> None:
    (name,) = wrong
    with pytest.raises(UsageError, match=f"^{name}: got .*; it must be a number above 0, or a schedule$"):
        clipped_loss(**wrong)


def test_a_penalty_below_zero_is_refused() -> None:
    with pytest.raises(UsageError, match="penalty: got -1; it must be a number of at least 0"):
        penalty_loss(-1)


def test_a_value_clip_without_old_values_is_refused() -> None:
    case = Case()
    with pytest.raises(UsageError, match=r"value_clip: got 0.2; it must be None without a critic's old values"):
        clipped_loss(value_clip=0.2)(case.params, case.batch._replace(values=()), jnp.zeros(()))
