"""The composition that makes an algorithm of its slots, and the recipes.

    update  =  weight → baseline.centre → ascent.step → baseline.fit

`gradient` shares the first half, so whoever measures an estimator measures the one that trains. A recipe is a plain
function that fills the slots: copy one, change a slot, and you have an algorithm of your own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp

from policygrad import advantages, baselines, policies
from policygrad.ascent import Schedule, gradient_ascent, linear
from policygrad.baselines import masked_mean, masked_variance
from policygrad.errors import UsageError
from policygrad.gradients import accumulated, on_policy, score_function
from policygrad.policies import PolicyBuilder
from policygrad.rollout import Collect, episodes, steps
from policygrad.settings import check
from policygrad.types import Agent, Algorithm, Array, Ascent, Baseline, Batch, Key, Params, PyTree, Rollout, Spec


def compose(
    name: str,
    settings: dict[str, Any],
    *,
    collect: Collect,
    policy: PolicyBuilder,
    advantage: Callable[..., tuple[Array, Array]],
    baseline: Baseline,
    ascent: Ascent,
    weight: Callable[[Array, Rollout], Array] = on_policy,
) -> Algorithm:
    """Makes an algorithm of a choice for each slot.

    Args:
        name: for records and messages.
        settings: the choices as plain data, for the record.
        collect: `rollout.steps(T)` or `rollout.episodes(N)`.
        policy: builds π from a key and a `Spec`.
        advantage: Ψ, a function of `advantages` with its γ (and λ) bound.
        baseline: b(o), from `baselines`.
        ascent: how the gradient becomes new parameters, from `ascent`.
        weight: importance weights of the data.

    Returns:
        An `Algorithm`. Metrics of its update: those of the ascent and the baseline, and

        - `variance_uncentred`, `variance_centred`, `mean_square_uncentred`, `mean_square_centred`: of Ψ over valid steps,
          without and with the baseline. The gradient's variance grows with the mean square; a constant baseline lowers that and
          leaves the variance of Ψ as it is.
        - `start_value`: the mean target of first steps of episodes, an estimate of V(s_0) = J; NaN if no episode began.
        - `finite`: False if a parameter or the optimiser's state would become NaN or infinite; then the old agent is returned
          bit for bit, but for its count of steps.
    """

    def init(key: Key, spec: Spec) -> Agent:
        policy_key, baseline_key = jax.random.split(key)
        critic, state = baseline.init(baseline_key, spec)
        params = Params(policy(policy_key, spec), critic)
        return Agent(params, ascent.init(params), state, jnp.zeros((), jnp.int32), jnp.asarray(2**31 - 1, jnp.int32))

    def prepare(agent: Agent, rollout: Rollout) -> tuple[Batch, Any]:
        centred = baseline.centre(agent.baseline, agent.params, rollout, advantage)
        old, _ = agent.params.policy.unroll(rollout.carry, rollout.obs, rollout.time == 0)
        log_ratios = (old.log_prob(rollout.action) - rollout.log_prob) * rollout.mask
        weights = weight(jax.lax.stop_gradient(log_ratios), rollout) * rollout.mask / collect.normaliser(rollout)
        return Batch(rollout, centred.advantages, centred.targets, weights, old, centred.carry), centred

    def progress(agent: Agent) -> Array:
        return jnp.clip(agent.steps / agent.total, 0.0, 1.0)

    def gradient(agent: Agent, rollout: Rollout) -> tuple[Params, dict]:
        batch, _ = prepare(agent, rollout)
        return ascent.gradient(agent.params, batch, progress(agent))

    def update(key: Key, agent: Agent, rollout: Rollout) -> tuple[Agent, dict]:
        ascent_key, baseline_key = jax.random.split(key)
        batch, centred = prepare(agent, rollout)
        params, state, info = ascent.step(ascent_key, agent.params, agent.ascent, batch, progress(agent))
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
        learnt = agent._replace(params=params, ascent=state, baseline=fitted)
        finite = all_finite((params, state, fitted))
        kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), learnt, agent)
        kept = kept._replace(steps=agent.steps + jnp.sum(mask > 0, dtype=jnp.int32))
        return kept, {**metrics, "finite": finite}

    return Algorithm(name, settings, collect, init, lambda agent: agent.params.policy, gradient, update)


def all_finite(tree: PyTree) -> Array:
    """Whether every float leaf is finite: a scalar bool."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in leaves])) if leaves else jnp.ones((), bool)


BaselineName = Literal["none", "mean", "episode-mean", "running-mean", "value"]


def reinforce(
    *,
    baseline: BaselineName | Baseline = "mean",
    discount: float = 0.99,
    learning_rate: float | Schedule = 2.5e-2,
    learning_rate_decay: bool = False,
    episodes_per_update: int | None = None,
    credit: Literal["reward-to-go", "total-return"] = "reward-to-go",
    normalize_advantages: bool = False,
    entropy_bonus: float | Schedule = 0.0,
    max_grad_norm: float | None = 0.5,
    optimizer: str | Callable[..., Any] = "adam",
    baseline_rate: float = 0.1,
    critic_learning_rate: float = 1e-2,
    critic_steps: int = 10,
    hidden_sizes: tuple[int, ...] | None = None,
    activation: str = "tanh",
    initialisation: str = "orthogonal",
    sigma: float | None = None,
    policy: PolicyBuilder | None = None,
) -> Algorithm:
    """REINFORCE: Monte-Carlo policy gradient over whole episodes.

        ∇J ≈ (1/N) Σ_i Σ_t ∇ log π(a_t|o_t) (G_t − b)        θ ← θ + α ∇J

    The estimate is unbiased for the time-limited objective as long as the baseline neither looks at the batch (the means
    do, a little) nor bootstraps (a value function does, at a time limit), and the gradient is not clipped. γ^t is left out,
    as nearly everywhere.

    Args:
        baseline: what is subtracted from the return: none, the mean over the batch, each episode's own mean, a running
            mean of past batches, or a learnt value function.
        discount: γ, the weight of the next step's reward, in [0, 1].
        learning_rate: α, the optimiser's step size, > 0 (in Python also a schedule: a function of progress in [0, 1]).
        learning_rate_decay: let the learning rate fall linearly to 0 over the run.
        episodes_per_update: N, whole episodes in one update; default is one from each environment; 1 with one
            environment updates after every episode.
        credit: what an action is credited with: the rewards from its step on, or the whole episode's.
        normalize_advantages: shift and scale what multiplies the score to mean 0 and standard deviation 1 in each batch.
        entropy_bonus: β, the weight of the policy's entropy in the objective, in reward per nat, ≥ 0 (likewise).
        max_grad_norm: clip the gradient's global norm to this, > 0; None does not clip.
        optimizer: adam, sgd or rmsprop (in Python also any function from a learning rate to an optax optimiser).
        baseline_rate: weight of the newest batch in the running mean, in (0, 1].
        critic_learning_rate: step size of the value function (by Adam), > 0.
        critic_steps: gradient steps of the value function after each update, ≥ 1.
        hidden_sizes: widths of the policy's hidden layers; the default is a table for discrete observations and one layer
            of 64 otherwise; an empty list is a linear policy.
        activation: of the hidden layers: tanh, relu, elu, gelu, silu, sigmoid.
        initialisation: of the layers: orthogonal, xavier, lecun, torch.
        sigma: a fixed standard deviation for continuous actions, > 0; default is one that is learnt.
        policy: builds the policy from a key and a Spec, instead of from the four arguments above (the first three still shape the
            value function).

    Reference:
        Williams 1992, "Simple statistical gradient-following algorithms for connectionist reinforcement learning".
    """
    settings = dict(locals())
    check(settings)
    if credit == "total-return" and baseline == "episode-mean":
        raise UsageError(
            "baseline: got 'episode-mean' with credit 'total-return', which leaves 0 everywhere; it must be another of the two"
        )
    default = policies.default(hidden_sizes=hidden_sizes, network=(64,), activation=activation, initialisation=initialisation, sigma=sigma)
    critic = policies.default_critic(hidden_sizes=hidden_sizes, activation=activation, initialisation=initialisation)
    kinds = {
        **baselines.KINDS,
        "running-mean": partial(baselines.running_mean, baseline_rate),
        "value": partial(baselines.value, critic, learning_rate=critic_learning_rate, gradient_steps=critic_steps),
    }
    credits = {"reward-to-go": advantages.reward_to_go, "total-return": advantages.total_return}
    chosen = kinds[baseline]() if isinstance(baseline, str) else baseline
    return compose(
        "reinforce",
        settings,
        collect=episodes(episodes_per_update),
        policy=policy or default,
        advantage=partial(credits[credit], discount=discount),
        baseline=baselines.normalised(chosen) if normalize_advantages else chosen,
        ascent=gradient_ascent(
            accumulated(score_function(entropy_bonus)),
            learning_rate=_rate(learning_rate, learning_rate_decay),
            optimizer=optimizer,
            max_grad_norm=max_grad_norm,
        ),
    )


def actor_critic(
    *,
    discount: float = 0.99,
    learning_rate: float | Schedule = 3e-4,
    learning_rate_decay: bool = False,
    rollout_length: int = 1,
    normalize_advantages: bool = False,
    entropy_bonus: float | Schedule = 0.0,
    max_grad_norm: float | None = None,
    optimizer: str | Callable[..., Any] = "adam",
    critic_learning_rate: float = 1e-3,
    hidden_sizes: tuple[int, ...] | None = None,
    activation: str = "tanh",
    initialisation: str = "orthogonal",
    sigma: float | None = None,
    policy: PolicyBuilder | None = None,
) -> Algorithm:
    """One-step actor-critic, online: the TD error weighs the score, and teaches the critic.

        δ_t = r_t + γ V(o_{t+1}) − V(o_t)        θ ← θ + α δ ∇ log π(a_t|o_t)        w ← w + α_c δ ∇_w V(o_t)

    It learns after every step of the environments, without waiting for an episode to end. Biased as far as the critic is
    wrong.

    Args:
        discount: γ, the weight of the next step's reward, in [0, 1].
        learning_rate: α, the policy's step size, > 0 (in Python also a schedule: a function of progress in [0, 1]).
        learning_rate_decay: let the learning rate fall linearly to 0 over the run.
        rollout_length: T, steps of every environment in one update, ≥ 1; 1 is online.
        normalize_advantages: shift and scale the TD errors to mean 0 and standard deviation 1 in each batch.
        entropy_bonus: β, the weight of the policy's entropy in the objective, in reward per nat, ≥ 0 (likewise).
        max_grad_norm: clip the gradient's global norm to this, > 0; None does not clip.
        optimizer: adam, sgd or rmsprop (in Python also any function from a learning rate to an optax optimiser).
        critic_learning_rate: α_c, the critic's step size (by Adam), > 0.
        hidden_sizes: widths of the hidden layers of policy and critic; the default is tables for discrete observations
            and networks of 64 64 otherwise; an empty list is linear.
        activation: of the hidden layers: tanh, relu, elu, gelu, silu, sigmoid.
        initialisation: of the layers: orthogonal, xavier, lecun, torch.
        sigma: a fixed standard deviation for continuous actions, > 0; default is one that is learnt.
        policy: builds the policy from a key and a Spec, instead of from the four arguments above (the first three still shape the
            value function).

    Reference:
        Sutton and Barto 2018, section 13.5.
    """
    settings = dict(locals())
    check(settings)
    critic = policies.default_critic(hidden_sizes=hidden_sizes, activation=activation, initialisation=initialisation)
    chosen = baselines.value(critic, learning_rate=critic_learning_rate, gradient_steps=1)
    return compose(
        "actor_critic",
        settings,
        collect=steps(rollout_length),
        policy=policy or policies.default(hidden_sizes=hidden_sizes, activation=activation, initialisation=initialisation, sigma=sigma),
        advantage=partial(advantages.td, discount=discount),
        baseline=baselines.normalised(chosen) if normalize_advantages else chosen,
        ascent=gradient_ascent(
            accumulated(score_function(entropy_bonus)),
            learning_rate=_rate(learning_rate, learning_rate_decay),
            optimizer=optimizer,
            max_grad_norm=max_grad_norm,
        ),
    )


RECIPES: dict[str, Callable[..., Algorithm]] = {"reinforce": reinforce, "actor_critic": actor_critic}
"""Recipes by the names that the command line takes."""


def _rate(learning_rate: float | Schedule, decay: bool) -> float | Schedule:
    if decay and callable(learning_rate):
        raise UsageError("learning_rate_decay: got True with a schedule for learning_rate; it must be one of the two")
    return learning_rate if callable(learning_rate) or not decay else linear(learning_rate)
