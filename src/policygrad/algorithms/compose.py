"""The composition that makes an algorithm of its slots.

    update  =  weight → baseline.centre → ascent.step → baseline.fit

`gradient` shares the first half, so whoever measures an estimator measures the one that trains.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from policygrad.baselines import masked_mean, masked_variance
from policygrad.gradients import contributions, effective_sample_size, on_policy
from policygrad.policies import PolicyBuilder, WithCritic
from policygrad.rollout import Collect
from policygrad.types import (
    Agent,
    Algorithm,
    Array,
    Ascent,
    Baseline,
    Batch,
    Carries,
    Centred,
    Importance,
    Key,
    Params,
    PyTree,
    Rollout,
    Spec,
    unattributed,
)


def compose(
    name: str,
    settings: dict[str, Any],
    *,
    collect: Collect,
    policy: PolicyBuilder,
    advantage: Callable[..., tuple[Array, Array]],
    baseline: Baseline,
    ascent: Ascent,
    weight: Callable[[Array, Rollout], Importance] = on_policy,
    visit_discount: float | Array = 1.0,
) -> Algorithm:
    """Makes an algorithm of a choice for each slot.

        ∇J ≈ (1/count) Σ_t w_t γ_v^t Ψ_t ∇ log π(a_t|o_t)        count: trajectories, or T·B

    Args:
        name: for records and messages.
        settings: the choices as plain data, for the record.
        collect: `rollout.steps(T)` or `rollout.episodes(N)`.
        policy: builds π from a key and a `Spec`.
        advantage: Ψ, a function of `advantages` with its γ (and λ) bound.
        baseline: b(o), from `baselines`.
        ascent: how the gradient becomes new parameters, from `ascent`.
        weight: importance weights of the data, from `gradients.weights`; what it gives as ratios is handed to `advantage`.
        visit_discount: γ_v in [0, 1], the weight of a step for each step since the reset: 1 leaves γ^t out of the gradient, as
            nearly everywhere; the γ of `advantage` puts it in.

    Returns:
        An `Algorithm`. Metrics of its update: those of the ascent and the baseline, and

        - `variance_uncentred`, `variance_centred`, `mean_square_uncentred`, `mean_square_centred`: of Ψ over valid steps,
          without and with the baseline. The gradient's variance grows with the mean square; a constant baseline lowers that and
          leaves the variance of Ψ as it is.
        - `start_value`: the mean target of first steps of episodes, an estimate of V(s_0) = J; NaN if no episode began.
        - `effective_sample_size`: with importance weights, the share of the steps that they leave, (Σ w)² / (n Σ w²), in (0, 1].
        - `finite`: False if a parameter or the optimiser's state would become NaN or infinite; then the old agent is returned
          bit for bit, but for its count of steps.
    """

    def init(key: Key, spec: Spec) -> Agent:
        policy_key, baseline_key = jax.random.split(key)
        built = policy(policy_key, spec)
        critic, state = baseline.init(baseline_key, spec, built)
        params = Params(built, critic)
        return Agent(params, ascent.init(params), state, jnp.zeros((), jnp.int32), jnp.asarray(2**31 - 1, jnp.int32))

    def prepare(agent: Agent, rollout: Rollout) -> tuple[Batch, Centred, Importance]:
        if isinstance(rollout.carry, Carries):
            rollout = rollout._replace(carry=rollout.carry.policy, critic_carry=rollout.carry.critic)
        old = rollout.distribution
        if not jax.tree.leaves(old):
            old, _ = agent.params.policy.unroll(rollout.carry, rollout.obs, rollout.time == 0)
        log_ratios = jax.lax.stop_gradient(old.log_prob(rollout.action) - rollout.log_prob)
        importance = weight(jnp.where(rollout.mask > 0, log_ratios, 0), rollout)
        share = importance.weights * rollout.mask / collect.normaliser(rollout)
        if not (isinstance(visit_discount, float | int) and visit_discount == 1):
            share = share * visit_discount ** rollout.time.astype(share.dtype)
        psi = partial(advantage, ratios=importance.ratios)
        centred = baseline.centre(agent.baseline, agent.params, rollout, psi, share)
        batch = Batch(rollout, centred.advantages, centred.targets, share, old, centred.carry, centred.control, centred.values)
        return batch, centred, importance

    def progress(agent: Agent) -> Array:
        return jnp.clip(agent.steps / agent.total, 0.0, 1.0)

    def gradient(agent: Agent, rollout: Rollout) -> tuple[Params, dict]:
        batch, *_ = prepare(agent, unattributed(rollout))
        return ascent.gradient(agent.params, batch, progress(agent))

    def by_column(agent: Agent, rollout: Rollout) -> Params:
        batch, *_ = prepare(agent, unattributed(rollout))
        return contributions(ascent.gradient)(agent.params, batch, progress(agent))

    def update(key: Key, agent: Agent, rollout: Rollout) -> tuple[Agent, dict]:
        ascent_key, baseline_key = jax.random.split(key)
        batch, centred, importance = prepare(agent, rollout)
        rollout = batch.rollout

        def refresh(params: Params) -> Batch:
            return prepare(agent._replace(params=params), unattributed(rollout))[0]

        params, state, info = ascent.step(ascent_key, agent.params, agent.ascent, batch, progress(agent), refresh)
        fitted, fit_info = baseline.fit(baseline_key, agent.baseline, params, rollout, centred)
        mask = rollout.mask
        first = mask * (rollout.time == 0)
        metrics = {
            **info,
            **fit_info,
            "variance_uncentred": masked_variance(centred.uncentred, mask),
            "variance_centred": masked_variance(centred.advantages, mask),
            "mean_square_uncentred": masked_mean(centred.uncentred**2, mask),
            "mean_square_centred": masked_mean(centred.advantages**2, mask),
            "start_value": jnp.where(jnp.sum(first) > 0, masked_mean(batch.targets, first), jnp.nan),
        }
        if weight is not on_policy:
            metrics["effective_sample_size"] = effective_sample_size(importance.weights, mask)
        learnt = agent._replace(params=params, ascent=state, baseline=fitted)
        finite = all_finite((params, state, fitted))
        kept = jax.lax.cond(finite, lambda new, old: new, lambda new, old: old, learnt, agent)
        kept = kept._replace(steps=agent.steps + jnp.sum(mask > 0, dtype=jnp.int32))
        return kept, {**metrics, "finite": finite}

    def policy_of(agent: Agent) -> Any:
        return agent.params.policy

    def actor(agent: Agent) -> Any:
        critic = baseline.critic(agent.baseline, agent.params)
        return agent.params.policy if getattr(critic, "memory", None) is None else WithCritic(agent.params.policy, critic)

    return Algorithm(name, settings, collect, init, policy_of, gradient, update, by_column, ascent.check, actor=actor)


def all_finite(tree: PyTree) -> Array:
    """Whether every float leaf is finite: a scalar bool."""
    leaves = [jnp.ravel(leaf) for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    # 0 · x is NaN where x is not finite, and so is a sum with it: one reduction instead of one for each leaf. A maximum would not do:
    # XLA's on a CPU passes over NaN in large arrays.
    return jnp.isfinite(jnp.sum(0 * jnp.concatenate(leaves))) if leaves else jnp.ones((), bool)
