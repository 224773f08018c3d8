"""Proximal policy optimisation: many small steps on one rollout, held near the policy that collected it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from equinox import Module

from policygrad import advantages, baselines, policies
from policygrad.algorithms.compose import compose
from policygrad.algorithms.slots import decaying, finished, importance, policy_and_critic
from policygrad.ascent import Schedule, proximal, proximal_kl
from policygrad.ascent.proximal import TOLERANCE
from policygrad.gradients import clipped_loss, penalty_loss
from policygrad.policies import PolicyBuilder
from policygrad.rollout import steps
from policygrad.settings import FeaturesName, HeadName, MemoryName, NormalizeOver, WeightName, check
from policygrad.types import Algorithm


def ppo(
    *,
    discount: float = 0.99,
    discount_gradient: bool = False,
    trace: float = 0.95,
    rollout_length: int = 128,
    epochs: int = 10,
    minibatches: int = 4,
    clip: float | Schedule = 0.2,
    clip_decay: bool = False,
    value_clip: float | None = None,
    stop_kl: float | None = None,
    learning_rate: float | Schedule = 3e-4,
    learning_rate_decay: bool = False,
    value_weight: float = 0.5,
    entropy_bonus: float | Schedule = 0.0,
    max_grad_norm: float | None = 0.5,
    optimizer: str | Callable[..., Any] = "adam",
    normalize_advantages: bool = True,
    normalize_over: NormalizeOver = "minibatch",
    recompute_advantages: bool = False,
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
    """Proximal policy optimisation with a clipped ratio.

        loss = −Σ w [ min(ρ Â, clip(ρ, 1 − ε, 1 + ε) Â) + β H ] + c Σ w (V(o) − target)²        ρ = π(a|o) / π_old(a|o)

    Args:
        discount: γ, the weight of the next step's reward, in [0, 1].
        discount_gradient: weigh each step's score with γ^t, t from the start of its episode.
        trace: λ of the advantage, in [0, 1]: 0 is the one-step error, 1 Monte Carlo up to the end of the rollout.
        rollout_length: T, steps of every environment in one update, ≥ 1.
        epochs: passes over each rollout, ≥ 1.
        minibatches: parts of a pass, one optimiser step each, ≥ 1; they must divide the rollout's steps evenly.
        clip: ε, how far a ratio may move from 1 before the step gains nothing more, > 0 (in Python also a schedule: a function of
            progress in [0, 1]).
        clip_decay: let the clip fall linearly to 0 over the run.
        value_clip: clip the critic's change likewise, in units of return, > 0; None does not.
        stop_kl: stop the passes where the mean KL divergence of a minibatch is above this, in nats, > 0; None does not stop.
            Others stop at 1.5 times what they call the target.
        learning_rate: α, the step size of policy and critic, > 0 (in Python also a schedule: a function of progress in [0, 1]).
        learning_rate_decay: let the learning rate fall linearly to 0 over the run.
        value_weight: c, the weight of the critic's squared error, ≥ 0.
        entropy_bonus: β, the weight of the policy's entropy in the objective, in reward per nat, ≥ 0 (likewise).
        max_grad_norm: clip the gradient's global norm, the critic's part included, to this, > 0; None does not clip.
        optimizer: adam, sgd or rmsprop (in Python also any function from a learning rate to an optax optimiser).
        normalize_advantages: shift and scale the advantages to mean 0 and standard deviation 1.
        normalize_over: each minibatch by itself, or the whole batch at once.
        recompute_advantages: make the advantages anew before every epoch, with the critic as it is by then.
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
        Schulman et al. 2017, "Proximal policy optimization algorithms".
    """
    settings = dict(locals())
    check(settings)
    parts = {"features": features, "memory": memory, "memory_size": memory_size, "truncate": truncate, "head": head}
    built, critic = policy_and_critic(policy, hidden_sizes, activation, initialisation, sigma, initial_sigma, parts)
    algorithm = compose(
        "ppo",
        settings,
        collect=steps(rollout_length, distributions=True),
        policy=built,
        weight=importance(weight, weight_limit, self_normalize, reuse),
        advantage=partial(advantages.gae, discount=discount, trace=trace),
        visit_discount=discount if discount_gradient else 1.0,
        baseline=baselines.joint_value(policies.shared_critic() if shared_features else critic),
        ascent=proximal(
            clipped_loss(decaying(clip, clip_decay, "clip"), value_weight, entropy_bonus, value_clip),
            target_kl=None if stop_kl is None else stop_kl / TOLERANCE,
            learning_rate=decaying(learning_rate, learning_rate_decay),
            optimizer=optimizer,
            max_grad_norm=max_grad_norm,
            epochs=epochs,
            minibatches=minibatches,
            normalize=normalize_over if normalize_advantages else None,
            recompute=recompute_advantages,
        ),
    )
    return finished(
        algorithm,
        reuse=reuse,
        normalize_observations=normalize_observations,
        normalize_rewards=normalize_rewards,
        discount=discount,
    )


def ppo_kl(
    *,
    discount: float = 0.99,
    discount_gradient: bool = False,
    trace: float = 0.95,
    rollout_length: int = 128,
    epochs: int = 10,
    minibatches: int = 4,
    target_kl: float = 0.01,
    initial_penalty: float = 1.0,
    learning_rate: float | Schedule = 3e-4,
    learning_rate_decay: bool = False,
    value_weight: float = 0.5,
    entropy_bonus: float | Schedule = 0.0,
    max_grad_norm: float | None = 0.5,
    optimizer: str | Callable[..., Any] = "adam",
    normalize_advantages: bool = True,
    normalize_over: NormalizeOver = "minibatch",
    recompute_advantages: bool = False,
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
    """Proximal policy optimisation with a KL penalty that adapts itself.

        loss = −Σ w [ ρ Â − β_KL KL(π_old ‖ π) + β H ] + c Σ w (V(o) − target)²        ρ = π(a|o) / π_old(a|o)

    Args:
        discount: γ, the weight of the next step's reward, in [0, 1].
        discount_gradient: weigh each step's score with γ^t, t from the start of its episode.
        trace: λ of the advantage, in [0, 1]: 0 is the one-step error, 1 Monte Carlo up to the end of the rollout.
        rollout_length: T, steps of every environment in one update, ≥ 1.
        epochs: passes over each rollout, ≥ 1.
        minibatches: parts of a pass, one optimiser step each, ≥ 1; they must divide the rollout's steps evenly.
        target_kl: the KL divergence that an update should have, in nats, > 0: the penalty doubles above 1.5 times this, and halves
            below this / 1.5.
        initial_penalty: β_KL at first, in reward per nat, > 0.
        learning_rate: α, the step size of policy and critic, > 0 (in Python also a schedule: a function of progress in [0, 1]).
        learning_rate_decay: let the learning rate fall linearly to 0 over the run.
        value_weight: c, the weight of the critic's squared error, ≥ 0.
        entropy_bonus: β, the weight of the policy's entropy in the objective, in reward per nat, ≥ 0 (likewise).
        max_grad_norm: clip the gradient's global norm, the critic's part included, to this, > 0; None does not clip.
        optimizer: adam, sgd or rmsprop (in Python also any function from a learning rate to an optax optimiser).
        normalize_advantages: shift and scale the advantages to mean 0 and standard deviation 1.
        normalize_over: each minibatch by itself, or the whole batch at once.
        recompute_advantages: make the advantages anew before every epoch, with the critic as it is by then.
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
        Schulman et al. 2017, "Proximal policy optimization algorithms", section 4.
    """
    settings = dict(locals())
    check(settings)
    parts = {"features": features, "memory": memory, "memory_size": memory_size, "truncate": truncate, "head": head}
    built, critic = policy_and_critic(policy, hidden_sizes, activation, initialisation, sigma, initial_sigma, parts)
    algorithm = compose(
        "ppo_kl",
        settings,
        collect=steps(rollout_length, distributions=True),
        policy=built,
        weight=importance(weight, weight_limit, self_normalize, reuse),
        advantage=partial(advantages.gae, discount=discount, trace=trace),
        visit_discount=discount if discount_gradient else 1.0,
        baseline=baselines.joint_value(policies.shared_critic() if shared_features else critic),
        ascent=proximal_kl(
            lambda penalty: penalty_loss(penalty, value_weight, entropy_bonus),
            target_kl=target_kl,
            initial_penalty=initial_penalty,
            learning_rate=decaying(learning_rate, learning_rate_decay),
            optimizer=optimizer,
            max_grad_norm=max_grad_norm,
            epochs=epochs,
            minibatches=minibatches,
            normalize=normalize_over if normalize_advantages else None,
            recompute=recompute_advantages,
        ),
    )
    return finished(
        algorithm,
        reuse=reuse,
        normalize_observations=normalize_observations,
        normalize_rewards=normalize_rewards,
        discount=discount,
    )
