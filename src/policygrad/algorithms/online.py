"""Actor-critic methods: short rollouts, a critic that bootstraps, one gradient step for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

from equinox import Module

from policygrad import advantages, baselines, policies
from policygrad.algorithms.compose import compose
from policygrad.algorithms.slots import decaying, finished, importance, policy_and_critic
from policygrad.ascent import Schedule, gradient_ascent
from policygrad.errors import UsageError
from policygrad.gradients import accumulated, actor_critic_loss, gradient_of, score_function, weights
from policygrad.policies import PolicyBuilder
from policygrad.rollout import steps
from policygrad.settings import FeaturesName, HeadName, MemoryName, WeightName, check
from policygrad.types import Algorithm


def actor_critic(
    *,
    advantage: Literal["td", "n-step", "gae", "vtrace"] = "td",
    discount: float = 0.99,
    discount_gradient: bool = False,
    trace: float = 0.95,
    n_step: int = 5,
    rollout_length: int = 1,
    learning_rate: float | Schedule = 3e-4,
    learning_rate_decay: bool = False,
    entropy_bonus: float | Schedule = 0.0,
    max_grad_norm: float | None = None,
    optimizer: str | Callable[..., Any] = "adam",
    critic_learning_rate: float = 1e-3,
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
    """Actor-critic, online: the TD error, or a longer mixture of them, weighs the score, and teaches the critic.

        δ_t = r_t + γ V(o_{t+1}) − V(o_t)        θ ← θ + α δ ∇ log π(a_t|o_t)        w ← w + α_c δ ∇_w V(o_t)

    By default it learns after every step of the environments, without waiting for an episode to end. Biased as far as the
    critic is wrong; the longer the estimate, the less, and the noisier.

    Args:
        advantage: Ψ: the one-step error (td), n rewards and a bootstrap (n-step), the exponential mixture of all lengths (gae), or
            that mixture corrected for data of another policy (vtrace); all but td want a rollout_length above 1.
        discount: γ, the weight of the next step's reward, in [0, 1].
        discount_gradient: weigh each step's score with γ^t, t from the start of its episode.
        trace: λ of gae and vtrace, in [0, 1]: 0 is the one-step estimate, 1 the longest.
        n_step: n of n-step, ≥ 1.
        rollout_length: T, steps of every environment in one update, ≥ 1; 1 is online.
        learning_rate: α, the policy's step size, > 0 (in Python also a schedule: a function of progress in [0, 1]).
        learning_rate_decay: let the learning rate fall linearly to 0 over the run.
        entropy_bonus: β, the weight of the policy's entropy in the objective, in reward per nat, ≥ 0 (likewise).
        max_grad_norm: clip the gradient's global norm to this, > 0; None does not clip.
        optimizer: adam, sgd or rmsprop (in Python also any function from a learning rate to an optax optimiser).
        critic_learning_rate: α_c, the critic's step size (by Adam), > 0.
        normalize_advantages: shift and scale the TD errors to mean 0 and standard deviation 1 in each batch.
        weight: importance weights of data that another policy took: none (and vtrace, which brings its own); the step's own ratio
            (first-order, biased); the product up to the step; or that over the whole episode, as far as it lies in the rollout.
        weight_limit: truncate the weights at this, > 0; for vtrace its two clips, 1 by default; None does not.
        self_normalize: divide the weights by their mean over environments: biased, and much less noisy.
        reuse: how many updates learn from each rollout, ≥ 1; more than one needs weights or vtrace.
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
        Sutton and Barto 2018, section 13.5.
    """
    settings = dict(locals())
    check(settings)
    parts = {"features": features, "memory": memory, "memory_size": memory_size, "truncate": truncate, "head": head}
    built, critic = policy_and_critic(policy, hidden_sizes, activation, initialisation, sigma, initial_sigma, parts)
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
        policy=built,
        weight=weights.vtrace(clip) if advantage == "vtrace" else importance(weight, weight_limit, self_normalize, reuse),
        advantage=partial(kinds[advantage], discount=discount),
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


def a2c(
    *,
    discount: float = 0.99,
    discount_gradient: bool = False,
    trace: float = 0.95,
    rollout_length: int = 16,
    learning_rate: float | Schedule = 2e-3,
    learning_rate_decay: bool = False,
    value_weight: float = 0.5,
    entropy_bonus: float | Schedule = 0.0,
    max_grad_norm: float | None = 0.5,
    optimizer: str | Callable[..., Any] = "rmsprop",
    normalize_advantages: bool = False,
    shared_features: bool = False,
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
    """Advantage actor-critic: policy and critic climb together, one step for each short rollout.

        θ ← θ − α ∇[ −Σ w (Â_t log π(a_t|o_t) + β H) + c Σ w (V(o_t) − target_t)² ]        Â: GAE(λ)

    Args:
        discount: γ, the weight of the next step's reward, in [0, 1].
        discount_gradient: weigh each step's score with γ^t, t from the start of its episode.
        trace: λ of the advantage, in [0, 1]: 0 is the one-step error, 1 Monte Carlo up to the end of the rollout.
        rollout_length: T, steps of every environment in one update, ≥ 1.
        learning_rate: α, the step size of policy and critic, > 0 (in Python also a schedule: a function of progress in [0, 1]).
        learning_rate_decay: let the learning rate fall linearly to 0 over the run.
        value_weight: c, the weight of the critic's squared error, ≥ 0.
        entropy_bonus: β, the weight of the policy's entropy in the objective, in reward per nat, ≥ 0 (likewise).
        max_grad_norm: clip the gradient's global norm, the critic's part included, to this, > 0; None does not clip.
        optimizer: adam, sgd or rmsprop (in Python also any function from a learning rate to an optax optimiser).
        normalize_advantages: shift and scale the advantages to mean 0 and standard deviation 1 in each batch.
        shared_features: let the critic be a head over the policy's hidden layers, instead of a network of its own.
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
        Mnih et al. 2016, "Asynchronous methods for deep reinforcement learning", without the asynchrony.
    """
    settings = dict(locals())
    check(settings)
    parts = {"features": features, "memory": memory, "memory_size": memory_size, "truncate": truncate, "head": head}
    built, critic = policy_and_critic(policy, hidden_sizes, activation, initialisation, sigma, initial_sigma, parts)
    chosen = baselines.joint_value(policies.shared_critic() if shared_features else critic)
    algorithm = compose(
        "a2c",
        settings,
        collect=steps(rollout_length),
        policy=built,
        weight=importance(weight, weight_limit, self_normalize, reuse),
        advantage=partial(advantages.gae, discount=discount, trace=trace),
        visit_discount=discount if discount_gradient else 1.0,
        baseline=baselines.normalised(chosen) if normalize_advantages else chosen,
        ascent=gradient_ascent(
            gradient_of(actor_critic_loss(value_weight, entropy_bonus)),
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
