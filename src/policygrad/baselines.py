"""b(o), what is subtracted from Ψ: one factory per kind.

A baseline that does not depend on the action leaves the expected gradient as it is, E[∇ log π(a|o) b(o)] = 0, and can
take most of the variance away. Each factory returns a `Baseline` of three functions:

    init(key, spec)                            -> (critic that climbs with the policy, or (); state)
    centre(state, params, rollout, advantage)  -> Centred(advantages, uncentred, targets, carry)
    fit(key, state, params, rollout, centred)  -> (state, info)

A baseline is used before it is moved: `fit` runs after the policy's step, on the data that the step used. Only `value`
bootstraps. Baselines computed from the very batch that they correct depend on its actions, so a part of the gradient's
expectation is lost with them: of order 1/N for `mean` over N episodes, of order 1/T for `episode_mean` over T steps,
whatever N is. With equal lengths and rewards-to-go the loss is exactly ∇E[Σ_t G_t]/(T·N), or ∇E[Σ_t G_t]/T.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from policygrad.errors import UsageError
from policygrad.policies.critics import CriticBuilder, default_critic
from policygrad.types import Array, Baseline, Centred, Key, Params, PyTree, Rollout, Spec


def masked_mean(x: Array, mask: Array) -> Array:
    """Mean of x where the mask is 1; 0 if it is nowhere."""
    return jnp.sum(x * mask) / jnp.maximum(jnp.sum(mask), 1)


def masked_variance(x: Array, mask: Array) -> Array:
    """Population variance of x where the mask is 1; 0 for a single element."""
    return masked_mean((x - masked_mean(x, mask)) ** 2, mask)


def _no_state(key: Key, spec: Spec) -> tuple[PyTree, PyTree]:
    return (), ()


def _no_fit(key: Key, state: PyTree, params: Params, rollout: Rollout, centred: Centred) -> tuple[PyTree, dict]:
    return state, {}


def _without_critic(rollout: Rollout, advantage: Callable) -> tuple[Array, Array]:
    """Ψ and targets with V = 0 everywhere: nothing is bootstrapped."""
    zeros = jnp.zeros_like(rollout.reward)
    return advantage(rollout.reward, zeros, zeros, rollout.terminated, rollout.truncated, ratios=None)


def _statistic(subtract: Callable[[PyTree, Array, Rollout], Array]) -> Callable[..., Centred]:
    """`centre` for a baseline that is a statistic of returns: Ψ − b, with b [T, B] or a scalar."""

    def centre(state: PyTree, params: Params, rollout: Rollout, advantage: Callable) -> Centred:
        uncentred, targets = _without_critic(rollout, advantage)
        advantages = (uncentred - subtract(state, uncentred, rollout)) * rollout.mask
        return Centred(advantages, uncentred * rollout.mask, targets, rollout.carry)

    return centre


def none() -> Baseline:
    """b = 0: plain REINFORCE."""
    return Baseline(_no_state, _statistic(lambda state, psi, rollout: jnp.zeros((), psi.dtype)), _no_fit)


def mean() -> Baseline:
    """The mean of Ψ over all steps of the batch.

        b = Σ mask Ψ / Σ mask

    Raises (when the update is traced):
        UsageError: for batches of a single step, whose mean is all there is.
    """

    def subtract(state: PyTree, psi: Array, rollout: Rollout) -> Array:
        if psi.size == 1:
            raise UsageError("baseline: got 'mean' over a single step, which leaves nothing; use more episodes an update, or running-mean")
        return masked_mean(psi, rollout.mask)

    return Baseline(_no_state, _statistic(subtract), _no_fit)


def episode_mean() -> Baseline:
    """Each episode's own mean of Ψ over its steps.

        b_i = (1/T_i) Σ_t Ψ_{i,t}

    Needs one episode per column, as `episodes(N)` collects them.

    Raises (when the update is traced):
        UsageError: for episodes of a single step, whose mean is all there is.
    """

    def subtract(state: PyTree, psi: Array, rollout: Rollout) -> Array:
        if psi.shape[0] == 1:
            raise UsageError("baseline: got 'episode-mean' with episodes of one step, which leaves nothing; use mean or running-mean")
        counts = jnp.maximum(jnp.sum(rollout.mask, axis=0, keepdims=True), 1)
        return jnp.broadcast_to(jnp.sum(psi * rollout.mask, axis=0, keepdims=True) / counts, psi.shape)

    return Baseline(_no_state, _statistic(subtract), _no_fit)


def running_mean(rate: float = 0.1) -> Baseline:
    """An exponential average of past returns, moved after it was used.

        Ψ_t ← Ψ_t − b        then        b ← b + rate · (mean(Ψ) − b)

    A listing that moves b first subtracts a baseline that already contains the present return: with one return a step,
    G − (b + rate·(G − b)) = (1 − rate)(G − b), so it scales the gradient by 1 − rate and is no longer independent of
    the action. Here b is used first, which keeps the estimate unbiased.

    Args:
        rate: in (0, 1], the weight of the newest batch.
    """
    if not 0 < rate <= 1:
        raise UsageError(f"baseline rate: got {rate}; it must be in (0, 1]")

    def init(key: Key, spec: Spec) -> tuple[PyTree, PyTree]:
        return (), jnp.zeros(())

    def fit(key: Key, state: Array, params: Params, rollout: Rollout, centred: Centred) -> tuple[Array, dict]:
        return state + rate * (masked_mean(centred.uncentred, rollout.mask) - state), {}

    return Baseline(init, _statistic(lambda state, psi, rollout: state), fit)


def value(
    critic: CriticBuilder | None = None,
    *,
    learning_rate: float = 1e-2,
    gradient_steps: int = 10,
    optimizer: Callable[[float], optax.GradientTransformation] = optax.adam,
) -> Baseline:
    """A value function V(o), fitted apart from the policy by least squares to the targets. It bootstraps.

        Ψ_t from `advantage` with V(o_t), V(o_{t+1})        then        minimise Σ mask (V(o_t) − target_t)² / Σ mask

    Args:
        critic: builds V from the spaces (a network, a table, linear features); None lets the spaces decide.
        learning_rate: of the critic, > 0.
        gradient_steps: full-batch steps of the critic after each step of the policy, ≥ 1.
        optimizer: makes an optax optimiser from a learning rate.
    """
    if isinstance(gradient_steps, bool) or not isinstance(gradient_steps, int) or gradient_steps < 1:
        raise UsageError(f"gradient_steps of the value baseline: got {gradient_steps!r}; it must be a whole number of at least 1")
    build = critic or default_critic()
    transform = optimizer(learning_rate)

    def init(key: Key, spec: Spec) -> tuple[PyTree, PyTree]:
        built = build(key, spec)
        return (), (built, transform.init(built))  # pyright: ignore[reportArgumentType]

    def centre(state: Any, params: Params, rollout: Rollout, advantage: Callable) -> Centred:
        values, next_values = state[0](params.policy, rollout, rollout.carry)
        psi, targets = advantage(rollout.reward, values, next_values, rollout.terminated, rollout.truncated, ratios=None)
        return Centred(psi * rollout.mask, (psi + values) * rollout.mask, targets, rollout.carry)

    def fit(key: Key, state: Any, params: Params, rollout: Rollout, centred: Centred) -> tuple[PyTree, dict]:
        def error(model: Any) -> Array:
            values = model.value(rollout.obs)
            return masked_mean((values - jax.lax.stop_gradient(centred.targets)) ** 2, rollout.mask)

        def improve(carry: Any, _: None) -> tuple[Any, Array]:
            model, moments = carry
            loss, gradient = jax.value_and_grad(error)(model)
            updates, moments = transform.update(gradient, moments, model)
            return (optax.apply_updates(model, updates), moments), loss

        state, losses = jax.lax.scan(improve, state, None, length=gradient_steps)
        return state, {"value_loss": losses[0]}

    return Baseline(init, centre, fit)


def normalised(baseline: Baseline, epsilon: float = 1e-8) -> Baseline:
    """Combinator: Ψ shifted to mean 0 and scaled to standard deviation 1 over the steps of the batch.

        Ψ ← (Ψ − mean Ψ) / (std Ψ + ε)

    With the baseline `none` this is the normalisation of returns. It divides the gradient by a random number, so it
    changes the gradient's length and, slightly, its expected direction. A batch of one step, or of equal Ψ, becomes 0.
    """

    def centre(state: PyTree, params: Params, rollout: Rollout, advantage: Callable) -> Centred:
        centred = baseline.centre(state, params, rollout, advantage)
        psi, mask = centred.advantages, rollout.mask
        # Measured from one of them, equal Ψ are exactly 0; their own rounded mean would leave a rounding error to scale up to 1.
        psi = psi - jax.lax.stop_gradient(jnp.max(psi, initial=-jnp.inf, where=mask > 0))
        psi = jnp.where(mask > 0, psi, 0)
        shifted, spread = psi - masked_mean(psi, mask), jnp.sqrt(masked_variance(psi, mask))
        return centred._replace(advantages=shifted / (spread + epsilon) * mask)

    return baseline._replace(centre=centre)


KINDS: dict[str, Callable[..., Baseline]] = {
    "none": none,
    "mean": mean,
    "episode-mean": episode_mean,
    "running-mean": running_mean,
    "value": value,
}
"""Baselines by the names that recipes and the command line take."""
