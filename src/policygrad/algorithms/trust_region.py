"""Natural-gradient methods: a step is as long as the policy's change, in KL, allows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from equinox import Module

from policygrad import advantages, baselines
from policygrad.algorithms.compose import compose
from policygrad.algorithms.slots import decaying, finished, importance, policy_and_critic
from policygrad.ascent import Schedule, backtracking, kl_radius, natural
from policygrad.gradients import accumulated, score_function
from policygrad.policies import PolicyBuilder
from policygrad.rollout import steps
from policygrad.settings import FeaturesName, HeadName, MemoryName, WeightName, check
from policygrad.types import Algorithm


def npg(
    *,
    discount: float = 0.99,
    discount_gradient: bool = False,
    trace: float = 0.95,
    rollout_length: int = 128,
    max_kl: float | Schedule = 0.01,
    max_kl_decay: bool = False,
    step_size: float | Schedule | None = None,
    damping: float = 0.1,
    cg_iterations: int = 10,
    entropy_bonus: float | Schedule = 0.0,
    critic_learning_rate: float = 3e-3,
    critic_steps: int = 20,
    normalize_advantages: bool = True,
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
    """Natural policy gradient: the direction that changes the policy, not its parameters, the least.

        θ ← θ + min(step_size, √(2 max_kl / dᵀF d)) d        d = (F + damping)⁻¹ ∇J,  F the Fisher matrix

    Args:
        discount: γ, the weight of the next step's reward, in [0, 1].
        discount_gradient: weigh each step's score with γ^t, t from the start of its episode.
        trace: λ of the advantage, in [0, 1]: 0 is the one-step error, 1 Monte Carlo up to the end of the rollout.
        rollout_length: T, steps of every environment in one update, ≥ 1.
        max_kl: the KL divergence of a step, mean over the rollout's states, in nats, > 0 (in Python also a schedule: a function of
            progress in [0, 1]).
        max_kl_decay: let max_kl fall linearly to 0 over the run.
        step_size: α of θ ← θ + α d, > 0, as far as max_kl allows (likewise); None goes max_kl far in every step, however little the
            batch says.
        damping: added to the diagonal of the Fisher matrix, ≥ 0.
        cg_iterations: of conjugate gradient, ≥ 1.
        entropy_bonus: β, the weight of the policy's entropy in the objective, in reward per nat, ≥ 0 (likewise).
        critic_learning_rate: step size of the value function (by Adam), > 0.
        critic_steps: full-batch gradient steps of the value function after each update, ≥ 1.
        normalize_advantages: shift and scale the advantages to mean 0 and standard deviation 1 in each batch.
        weight: importance weights of data that another policy took: none; the step's own ratio (first-order, biased); the product up
            to the step; or that over the whole episode, as far as it lies in the rollout.
        weight_limit: truncate the weights at this, > 0; None does not.
        self_normalize: divide the weights by their mean over environments: biased, and much less noisy.
        reuse: how many updates learn from each rollout, ≥ 1; more than one needs weights.
        normalize_observations: shift and scale observations to mean 0 and standard deviation 1, by running statistics that the policy
            keeps; for Box observations.
        normalize_rewards: divide rewards by the running standard deviation of discounted returns.
        hidden_sizes: widths of the hidden layers of policy and critic; the default is tables for discrete observations
            and networks of 64 64 otherwise; an empty list is linear.
        activation: of the hidden layers: tanh, relu, leaky_relu, elu, gelu, sigmoid, silu, softplus, identity.
        initialisation: of the layers: orthogonal, xavier, lecun, torch.
        sigma: a fixed standard deviation for continuous actions, > 0; default is one that is learnt (in Python also one for each
            element, or a covariance matrix).
        initial_sigma: the standard deviation that learning it starts from, > 0.
        features: what policy and value function see of an observation, with the hidden layers over it: auto, raw, one-hot, polynomial,
            fourier, rbf, random-fourier, nature-cnn, small-cnn, joined (in Python also a function from a key and a space to features).
        memory: of policy and value function, each its own: none, gru, lstm.
        memory_size: width of the memory, ≥ 1.
        truncate: steps that gradients flow back through the memory at the most, ≥ 1; default is a whole rollout.
        head: of continuous actions: auto, gaussian, state-gaussian, full-gaussian, squashed, squashed-state, beta (in Python also a
            mapping from parts of Dict actions to these).
        policy: builds the policy from a key and a Spec, instead of from the ten arguments above (those of layers, features and memory
            still shape the value function); or a Module of your own, observations -> distribution.

    Reference:
        Kakade 2002, "A natural policy gradient"; Rajeswaran et al. 2017, "Towards generalization and simplicity in continuous control".
    """
    settings = dict(locals())
    check(settings)
    parts = {"features": features, "memory": memory, "memory_size": memory_size, "truncate": truncate, "head": head}
    built, critic = policy_and_critic(policy, hidden_sizes, activation, initialisation, sigma, initial_sigma, parts)
    chosen = baselines.value(critic, learning_rate=critic_learning_rate, gradient_steps=critic_steps)
    direction = natural(accumulated(score_function(entropy_bonus)), damping=damping, iterations=cg_iterations)
    algorithm = compose(
        "npg",
        settings,
        collect=steps(rollout_length),
        policy=built,
        weight=importance(weight, weight_limit, self_normalize, reuse),
        advantage=partial(advantages.gae, discount=discount, trace=trace),
        visit_discount=discount if discount_gradient else 1.0,
        baseline=baselines.normalised(chosen) if normalize_advantages else chosen,
        ascent=kl_radius(direction, decaying(max_kl, max_kl_decay, "max_kl"), step_size=step_size),
    )
    return finished(
        algorithm,
        reuse=reuse,
        normalize_observations=normalize_observations,
        normalize_rewards=normalize_rewards,
        discount=discount,
    )


def trpo(
    *,
    discount: float = 0.99,
    discount_gradient: bool = False,
    trace: float = 0.95,
    rollout_length: int = 128,
    max_kl: float | Schedule = 0.01,
    max_kl_decay: bool = False,
    damping: float = 0.1,
    cg_iterations: int = 10,
    backtracks: int = 10,
    shrink: float = 0.8,
    entropy_bonus: float | Schedule = 0.0,
    critic_learning_rate: float = 3e-3,
    critic_steps: int = 20,
    normalize_advantages: bool = True,
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
    """Trust region policy optimisation: the natural gradient's step, shortened until the true KL and the surrogate agree.

        maximise Σ w (π(a|o) / π_old(a|o)) Â    subject to    mean KL(π_old ‖ π) ≤ max_kl

    Args:
        discount: γ, the weight of the next step's reward, in [0, 1].
        discount_gradient: weigh each step's score with γ^t, t from the start of its episode.
        trace: λ of the advantage, in [0, 1]: 0 is the one-step error, 1 Monte Carlo up to the end of the rollout.
        rollout_length: T, steps of every environment in one update, ≥ 1.
        max_kl: the KL divergence of a step, mean over the rollout's states, in nats, > 0 (in Python also a schedule: a function of
            progress in [0, 1]).
        max_kl_decay: let max_kl fall linearly to 0 over the run.
        damping: added to the diagonal of the Fisher matrix, ≥ 0.
        cg_iterations: of conjugate gradient, ≥ 1.
        backtracks: how often a step may be shortened, ≥ 0; then the policy stays as it was.
        shrink: by what factor, in (0, 1).
        entropy_bonus: β, the weight of the policy's entropy in the objective, in reward per nat, ≥ 0 (likewise).
        critic_learning_rate: step size of the value function (by Adam), > 0.
        critic_steps: full-batch gradient steps of the value function after each update, ≥ 1.
        normalize_advantages: shift and scale the advantages to mean 0 and standard deviation 1 in each batch.
        weight: importance weights of data that another policy took: none; the step's own ratio (first-order, biased); the product up
            to the step; or that over the whole episode, as far as it lies in the rollout.
        weight_limit: truncate the weights at this, > 0; None does not.
        self_normalize: divide the weights by their mean over environments: biased, and much less noisy.
        reuse: how many updates learn from each rollout, ≥ 1; more than one needs weights.
        normalize_observations: shift and scale observations to mean 0 and standard deviation 1, by running statistics that the policy
            keeps; for Box observations.
        normalize_rewards: divide rewards by the running standard deviation of discounted returns.
        hidden_sizes: widths of the hidden layers of policy and critic; the default is tables for discrete observations
            and networks of 64 64 otherwise; an empty list is linear.
        activation: of the hidden layers: tanh, relu, leaky_relu, elu, gelu, sigmoid, silu, softplus, identity.
        initialisation: of the layers: orthogonal, xavier, lecun, torch.
        sigma: a fixed standard deviation for continuous actions, > 0; default is one that is learnt (in Python also one for each
            element, or a covariance matrix).
        initial_sigma: the standard deviation that learning it starts from, > 0.
        features: what policy and value function see of an observation, with the hidden layers over it: auto, raw, one-hot, polynomial,
            fourier, rbf, random-fourier, nature-cnn, small-cnn, joined (in Python also a function from a key and a space to features).
        memory: of policy and value function, each its own: none, gru, lstm.
        memory_size: width of the memory, ≥ 1.
        truncate: steps that gradients flow back through the memory at the most, ≥ 1; default is a whole rollout.
        head: of continuous actions: auto, gaussian, state-gaussian, full-gaussian, squashed, squashed-state, beta (in Python also a
            mapping from parts of Dict actions to these).
        policy: builds the policy from a key and a Spec, instead of from the ten arguments above (those of layers, features and memory
            still shape the value function); or a Module of your own, observations -> distribution.

    Reference:
        Schulman et al. 2015, "Trust region policy optimization".
    """
    settings = dict(locals())
    check(settings)
    parts = {"features": features, "memory": memory, "memory_size": memory_size, "truncate": truncate, "head": head}
    built, critic = policy_and_critic(policy, hidden_sizes, activation, initialisation, sigma, initial_sigma, parts)
    chosen = baselines.value(critic, learning_rate=critic_learning_rate, gradient_steps=critic_steps)
    direction = natural(accumulated(score_function(entropy_bonus)), damping=damping, iterations=cg_iterations)
    algorithm = compose(
        "trpo",
        settings,
        collect=steps(rollout_length),
        policy=built,
        weight=importance(weight, weight_limit, self_normalize, reuse),
        advantage=partial(advantages.gae, discount=discount, trace=trace),
        visit_discount=discount if discount_gradient else 1.0,
        baseline=baselines.normalised(chosen) if normalize_advantages else chosen,
        ascent=backtracking(
            direction,
            decaying(max_kl, max_kl_decay, "max_kl"),
            shrink=shrink,
            max_backtracks=backtracks,
            entropy_bonus=entropy_bonus,
        ),
    )
    return finished(
        algorithm,
        reuse=reuse,
        normalize_observations=normalize_observations,
        normalize_rewards=normalize_rewards,
        discount=discount,
    )
