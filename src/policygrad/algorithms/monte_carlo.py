"""Monte-Carlo policy gradient: whole episodes, no bootstrapping needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

from equinox import Module

from policygrad import advantages, baselines
from policygrad.algorithms.compose import compose
from policygrad.algorithms.slots import (
    decaying,
    finished,
    importance,
    named_baseline,
    policy_and_critic,
)
from policygrad.ascent import Schedule, gradient_ascent
from policygrad.errors import UsageError
from policygrad.gradients import accumulated, score_function
from policygrad.policies import PolicyBuilder
from policygrad.rollout import episodes
from policygrad.settings import BaselineName, FeaturesName, FormName, HeadName, MemoryName, WeightName, check
from policygrad.types import Algorithm, Baseline


def reinforce(
    *,
    baseline: BaselineName | Baseline = "mean",
    baseline_form: FormName = "same-batch",
    credit: Literal["reward-to-go", "total-return"] = "reward-to-go",
    discount: float = 0.99,
    discount_gradient: bool = False,
    episodes_per_update: int | None = None,
    learning_rate: float | Schedule = 2.5e-2,
    learning_rate_decay: bool = False,
    entropy_bonus: float | Schedule = 0.0,
    max_grad_norm: float | None = 0.5,
    optimizer: str | Callable[..., Any] = "adam",
    baseline_rate: float = 0.1,
    critic_learning_rate: float = 1e-2,
    critic_steps: int = 10,
    normalize_advantages: bool = False,
    weight: WeightName = "none",
    weight_limit: float | None = None,
    self_normalize: bool = False,
    reuse: int = 1,
    normalize_observations: bool = False,
    normalize_rewards: bool = False,
    hidden_sizes: tuple[int, ...] | None = None,
    activation: str = "tanh",
    initialisation: str = "orthogonal",
    sigma: float | None = None,
    initial_sigma: float = 1.0,
    features: FeaturesName | Callable[..., Any] = "auto",
    memory: MemoryName = "none",
    memory_size: int = 64,
    truncate: int | None = None,
    head: HeadName | Mapping[str, HeadName] = "auto",
    policy: PolicyBuilder | Module | None = None,
) -> Algorithm:
    """REINFORCE: Monte-Carlo policy gradient over whole episodes.

        ∇J ≈ (1/N) Σ_i Σ_t ∇ log π(a_t|o_t) (G_t − b)        θ ← θ + α ∇J

    The estimate is unbiased for the time-limited objective if three things hold: γ^t is in it, or γ is 1 (by default it is left
    out, as nearly everywhere; `discount_gradient` or credit total-return put it in); the baseline does not look at the batch that
    it corrects (leave-one-out and previous-batch forms do not) nor bootstrap (a value function does, at a time limit); the
    gradient is not clipped. docs/estimators.md has the exact numbers.

    Args:
        baseline: b, what is subtracted from the return; `policygrad list` tells what each is.
        baseline_form: what a baseline that is a statistic of returns is computed from: the batch that it corrects (a little biased),
            the batch before, or the other episodes of the batch.
        credit: what an action is credited with: the rewards from its step on, or the whole episode's.
        discount: γ, the weight of the next step's reward, in [0, 1].
        discount_gradient: weigh each step's score with γ^t, for the exact gradient of the discounted objective.
        episodes_per_update: N, whole episodes in one update; default is one from each environment; 1 with one
            environment updates after every episode.
        learning_rate: α, the optimiser's step size, > 0 (in Python also a schedule: a function of progress in [0, 1]).
        learning_rate_decay: let the learning rate fall linearly to 0 over the run.
        entropy_bonus: β, the weight of the policy's entropy in the objective, in reward per nat, ≥ 0 (likewise).
        max_grad_norm: clip the gradient's global norm to this, > 0; None does not clip.
        optimizer: adam, sgd or rmsprop (in Python also any function from a learning rate to an optax optimiser).
        baseline_rate: weight of the newest batch in the running mean, in (0, 1].
        critic_learning_rate: step size of the value function (by Adam), > 0.
        critic_steps: gradient steps of the value function after each update, ≥ 1.
        normalize_advantages: shift and scale what multiplies the score to mean 0 and standard deviation 1 in each batch.
        weight: importance weights of data that another policy took: none; the step's own ratio (first-order, biased); the product up
            to the step; or that over the whole episode (noisy).
        weight_limit: truncate the weights at this, > 0; None does not.
        self_normalize: divide the weights by their mean over episodes: biased, and much less noisy.
        reuse: how many updates learn from each rollout, ≥ 1; more than one needs weights.
        normalize_observations: shift and scale observations to mean 0 and standard deviation 1, by running statistics that the policy
            keeps; for Box observations.
        normalize_rewards: divide rewards by the running standard deviation of discounted returns.
        hidden_sizes: widths of the policy's hidden layers; the default is a table for discrete observations and one layer
            of 64 otherwise; an empty list is a linear policy.
        activation: of the hidden layers: tanh, relu, leaky_relu, elu, gelu, sigmoid, silu, softplus, identity.
        initialisation: of the layers: orthogonal, xavier, lecun, torch.
        sigma: a fixed standard deviation for continuous actions, > 0; default is one that is learnt (in Python also one for each
            element, or a covariance matrix).
        initial_sigma: the standard deviation that learning it starts from, > 0.
        features: what the policy sees of an observation, and the baseline value, with the hidden layers over it: auto, raw, one-hot,
            polynomial, fourier, rbf, random-fourier, nature-cnn, small-cnn, joined (in Python also a function from a key and a space to
            features). The baselines value-table, value-linear and value-network have their own.
        memory: of the policy, and of the baseline value one of its own: none, gru, lstm.
        memory_size: width of the memory, ≥ 1.
        truncate: steps that gradients flow back through the memory at the most, ≥ 1; default is a whole rollout.
        head: of continuous actions: auto, gaussian, state-gaussian, full-gaussian, squashed, squashed-state, beta (in Python also a
            mapping from parts of Dict actions to these).
        policy: builds the policy from a key and a Spec, instead of from the ten arguments above (those of layers, features and memory
            still shape the value function); or a Module of your own, observations -> distribution.

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
    parts = {"features": features, "memory": memory, "memory_size": memory_size, "truncate": truncate, "head": head}
    built, critic = policy_and_critic(policy, hidden_sizes, activation, initialisation, sigma, initial_sigma, parts, network=(64,))
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
    chosen = named_baseline(baseline, baseline_form, arguments)
    algorithm = compose(
        "reinforce",
        settings,
        collect=episodes(episodes_per_update),
        policy=built,
        weight=importance(weight, weight_limit, self_normalize, reuse),
        advantage=partial(credits[credit], discount=discount),
        visit_discount=discount if discount_gradient else 1.0,
        baseline=baselines.normalised(chosen) if normalize_advantages else chosen,
        ascent=gradient_ascent(
            accumulated(score_function(entropy_bonus)),
            learning_rate=decaying(learning_rate, learning_rate_decay),
            optimizer=optimizer,
            max_grad_norm=max_grad_norm,
        ),
    )
    return finished(
        algorithm,
        reuse=reuse,
        normalize_observations=normalize_observations,
        normalize_rewards=normalize_rewards,
        discount=discount,
    )
