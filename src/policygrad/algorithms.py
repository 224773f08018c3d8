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

from policygrad import advantages, baselines, combinators, policies
from policygrad.ascent import Schedule, gradient_ascent, linear
from policygrad.baselines import masked_mean, masked_variance
from policygrad.errors import UsageError
from policygrad.gradients import accumulated, contributions, effective_sample_size, on_policy, score_function, weights
from policygrad.policies import PolicyBuilder
from policygrad.rollout import Collect, episodes, steps
from policygrad.settings import check
from policygrad.types import Agent, Algorithm, Array, Ascent, Baseline, Batch, Centred, Importance, Key, Params, PyTree, Rollout, Spec


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
        old, _ = agent.params.policy.unroll(rollout.carry, rollout.obs, rollout.time == 0)
        log_ratios = jax.lax.stop_gradient(old.log_prob(rollout.action) - rollout.log_prob)
        importance = weight(jnp.where(rollout.mask > 0, log_ratios, 0), rollout)
        share = importance.weights * rollout.mask / collect.normaliser(rollout)
        if not (isinstance(visit_discount, float | int) and visit_discount == 1):
            share = share * visit_discount ** rollout.time.astype(share.dtype)
        psi = partial(advantage, ratios=importance.ratios)
        centred = baseline.centre(agent.baseline, agent.params, rollout, psi, share)
        batch = Batch(rollout, centred.advantages, centred.targets, share, old, centred.carry, centred.control)
        return batch, centred, importance

    def progress(agent: Agent) -> Array:
        return jnp.clip(agent.steps / agent.total, 0.0, 1.0)

    def gradient(agent: Agent, rollout: Rollout) -> tuple[Params, dict]:
        batch, *_ = prepare(agent, rollout)
        return ascent.gradient(agent.params, batch, progress(agent))

    def by_column(agent: Agent, rollout: Rollout) -> Params:
        batch, *_ = prepare(agent, rollout)
        return contributions(ascent.gradient)(agent.params, batch, progress(agent))

    def update(key: Key, agent: Agent, rollout: Rollout) -> tuple[Agent, dict]:
        ascent_key, baseline_key = jax.random.split(key)
        batch, centred, importance = prepare(agent, rollout)
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
        if weight is not on_policy:
            metrics["effective_sample_size"] = effective_sample_size(importance.weights, mask)
        learnt = agent._replace(params=params, ascent=state, baseline=fitted)
        finite = all_finite((params, state, fitted))
        kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), learnt, agent)
        kept = kept._replace(steps=agent.steps + jnp.sum(mask > 0, dtype=jnp.int32))
        return kept, {**metrics, "finite": finite}

    return Algorithm(name, settings, collect, init, lambda agent: agent.params.policy, gradient, update, by_column)


def all_finite(tree: PyTree) -> Array:
    """Whether every float leaf is finite: a scalar bool."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in leaves])) if leaves else jnp.ones((), bool)


BaselineName = Literal[
    "none", "mean", "episode-mean", "running-mean", "time-mean", "state-mean", "least-squares", "leave-one-out", "optimal",
    "value", "value-table", "value-linear", "value-network",
]  # fmt: skip
FormName = Literal["same-batch", "previous-batch", "leave-one-out"]
WeightName = Literal["none", "per-step", "per-decision", "trajectory"]


def reinforce(
    *,
    baseline: BaselineName | Baseline = "mean",
    baseline_form: FormName = "same-batch",
    discount: float = 0.99,
    discount_gradient: bool = False,
    learning_rate: float | Schedule = 2.5e-2,
    learning_rate_decay: bool = False,
    episodes_per_update: int | None = None,
    credit: Literal["reward-to-go", "total-return"] = "reward-to-go",
    weight: WeightName = "none",
    weight_limit: float | None = None,
    self_normalize: bool = False,
    reuse: int = 1,
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

    The estimate is unbiased for the time-limited objective as long as the baseline neither looks at the batch that it corrects
    (leave-one-out and previous-batch forms do not) nor bootstraps (a value function does, at a time limit), and the gradient
    is not clipped. γ^t is left out, as nearly everywhere, unless `discount_gradient` puts it in.

    Args:
        baseline: b, what is subtracted from the return; `policygrad list` tells what each is.
        baseline_form: what a baseline that is a statistic of returns is computed from: the batch that it corrects (a little biased),
            the batch before, or the other episodes of the batch.
        discount: γ, the weight of the next step's reward, in [0, 1].
        discount_gradient: weigh each step's score with γ^t, for the exact gradient of the discounted objective.
        learning_rate: α, the optimiser's step size, > 0 (in Python also a schedule: a function of progress in [0, 1]).
        learning_rate_decay: let the learning rate fall linearly to 0 over the run.
        episodes_per_update: N, whole episodes in one update; default is one from each environment; 1 with one
            environment updates after every episode.
        credit: what an action is credited with: the rewards from its step on, or the whole episode's.
        weight: importance weights of data that another policy took: none; the step's own ratio (first-order, biased); the product up
            to the step; or that over the whole episode (noisy).
        weight_limit: truncate the weights at this, > 0; None does not.
        self_normalize: divide the weights by their mean over episodes: biased, and much less noisy.
        reuse: how many updates learn from each rollout, ≥ 1; more than one needs weights.
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
    if credit == "total-return":
        if baseline == "episode-mean" and baseline_form == "same-batch":
            raise UsageError(
                "baseline: got 'episode-mean' with credit 'total-return', which leaves 0 everywhere; it must be another of the two"
            )
        if discount_gradient:
            raise UsageError("discount_gradient: got True with credit 'total-return', whose rewards have γ^t already; leave it out")
        if weight == "per-decision":
            raise UsageError("weight: got 'per-decision' with credit 'total-return', which needs 'trajectory'; or take reward-to-go")
    default = policies.default(hidden_sizes=hidden_sizes, network=(64,), activation=activation, initialisation=initialisation, sigma=sigma)
    critic = policies.default_critic(hidden_sizes=hidden_sizes, activation=activation, initialisation=initialisation)
    fitted = {"learning_rate": critic_learning_rate, "gradient_steps": critic_steps}
    layers = {"hidden_sizes": (64, 64) if hidden_sizes is None else hidden_sizes, "activation": activation}
    arguments: dict[str, dict[str, Any]] = {
        "running-mean": {"rate": baseline_rate},
        "value": {"critic": critic, **fitted},
        "value-table": fitted,
        "value-linear": {"target": partial(advantages.td, discount=discount), **fitted},
        "value-network": {**layers, "initialisation": initialisation, **fitted},
    }
    credits = {"reward-to-go": advantages.reward_to_go, "total-return": advantages.total_return}
    chosen = _baseline(baseline, baseline_form, arguments)
    algorithm = compose(
        "reinforce",
        settings,
        collect=episodes(episodes_per_update),
        policy=policy or default,
        weight=_weight(weight, weight_limit, self_normalize, reuse),
        advantage=partial(credits[credit], discount=discount),
        visit_discount=discount if discount_gradient else 1.0,
        baseline=baselines.normalised(chosen) if normalize_advantages else chosen,
        ascent=gradient_ascent(
            accumulated(score_function(entropy_bonus)),
            learning_rate=_rate(learning_rate, learning_rate_decay),
            optimizer=optimizer,
            max_grad_norm=max_grad_norm,
        ),
    )
    return combinators.reuse(algorithm, reuse)


def actor_critic(
    *,
    advantage: Literal["td", "n-step", "gae", "vtrace"] = "td",
    trace: float = 0.95,
    n_step: int = 5,
    discount: float = 0.99,
    discount_gradient: bool = False,
    learning_rate: float | Schedule = 3e-4,
    learning_rate_decay: bool = False,
    rollout_length: int = 1,
    weight: WeightName = "none",
    weight_limit: float | None = None,
    self_normalize: bool = False,
    reuse: int = 1,
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
    """Actor-critic, online: the TD error, or a longer mixture of them, weighs the score, and teaches the critic.

        δ_t = r_t + γ V(o_{t+1}) − V(o_t)        θ ← θ + α δ ∇ log π(a_t|o_t)        w ← w + α_c δ ∇_w V(o_t)

    By default it learns after every step of the environments, without waiting for an episode to end. Biased as far as the
    critic is wrong; the longer the estimate, the less, and the noisier.

    Args:
        advantage: Ψ: the one-step error (td), n rewards and a bootstrap (n-step), the exponential mixture of all lengths (gae), or
            that mixture corrected for data of another policy (vtrace); all but td want a rollout_length above 1.
        trace: λ of gae and vtrace, in [0, 1]: 0 is the one-step estimate, 1 the longest.
        n_step: n of n-step, ≥ 1.
        discount: γ, the weight of the next step's reward, in [0, 1].
        discount_gradient: weigh each step's score with γ^t, t from the start of its episode.
        learning_rate: α, the policy's step size, > 0 (in Python also a schedule: a function of progress in [0, 1]).
        learning_rate_decay: let the learning rate fall linearly to 0 over the run.
        rollout_length: T, steps of every environment in one update, ≥ 1; 1 is online.
        weight: importance weights of data that another policy took: none (and vtrace, which brings its own); the step's own ratio
            (first-order, biased); the product up to the step; or that over the whole episode, as far as it lies in the rollout.
        weight_limit: truncate the weights at this, > 0; for vtrace its two clips, 1 by default; None does not.
        self_normalize: divide the weights by their mean over environments: biased, and much less noisy.
        reuse: how many updates learn from each rollout, ≥ 1; more than one needs weights or vtrace.
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
    clip = 1.0 if weight_limit is None else weight_limit
    kinds = {
        "td": advantages.td,
        "n-step": partial(advantages.n_step, n=n_step),
        "gae": partial(advantages.gae, trace=trace),
        "vtrace": partial(advantages.vtrace, trace=trace, rho_clip=clip, c_clip=clip),
    }
    if advantage == "vtrace" and (weight != "none" or self_normalize):
        raise UsageError("weight: got one with advantage 'vtrace', which brings its own; leave weight and self_normalize out")
    algorithm = compose(
        "actor_critic",
        settings,
        collect=steps(rollout_length),
        policy=policy or policies.default(hidden_sizes=hidden_sizes, activation=activation, initialisation=initialisation, sigma=sigma),
        weight=weights.vtrace(clip) if advantage == "vtrace" else _weight(weight, weight_limit, self_normalize, reuse),
        advantage=partial(kinds[advantage], discount=discount),
        visit_discount=discount if discount_gradient else 1.0,
        baseline=baselines.normalised(chosen) if normalize_advantages else chosen,
        ascent=gradient_ascent(
            accumulated(score_function(entropy_bonus)),
            learning_rate=_rate(learning_rate, learning_rate_decay),
            optimizer=optimizer,
            max_grad_norm=max_grad_norm,
        ),
    )
    return combinators.reuse(algorithm, reuse)


RECIPES: dict[str, Callable[..., Algorithm]] = {"reinforce": reinforce, "actor_critic": actor_critic}
"""Recipes by the names that the command line takes."""


def _rate(learning_rate: float | Schedule, decay: bool) -> float | Schedule:
    if decay and callable(learning_rate):
        raise UsageError("learning_rate_decay: got True with a schedule for learning_rate; it must be one of the two")
    return learning_rate if callable(learning_rate) or not decay else linear(learning_rate)


def _weight(name: str, limit: float | None, self_normalize: bool, reuse: int) -> Callable[[Array, Rollout], Importance]:
    """The importance weight that a recipe's arguments ask for."""
    if name == "none":
        if reuse > 1:
            raise UsageError(
                f"weight: got 'none' with reuse {reuse}; the policy moves between two updates from the same data,"
                " so it must be per-decision, trajectory or per-step"
            )
        if limit is not None or self_normalize:
            given = "self_normalize" if limit is None else "weight_limit"
            raise UsageError(f"{given}: got one with weight 'none', which is 1 everywhere; choose a weight, or leave it out")
        return weights.WEIGHTS["none"]
    chosen = weights.WEIGHTS[name]
    if limit is not None:
        chosen = weights.truncated(chosen, limit)
    return weights.self_normalised(chosen) if self_normalize else chosen


def _baseline(kind: str | Baseline, form: str, arguments: dict[str, dict[str, Any]]) -> Baseline:
    """The baseline of that name in that form, or the caller's own."""
    named = isinstance(kind, str)
    if named and kind in baselines.FORMED:
        return baselines.KINDS[kind](form=form, **arguments.get(kind, {}))
    if form != "same-batch":
        shown = repr(kind) if named else "one of your own"
        raise UsageError(
            f"baseline_form: got {form!r} with baseline {shown}, which has no forms; those have: {', '.join(sorted(baselines.FORMED))}"
        )
    return baselines.KINDS[kind](**arguments.get(kind, {})) if named else kind
