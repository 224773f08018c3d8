"""WHAT ACTS: policies π(a|o) and critics V(o).

A policy is features, perhaps a memory, and a head; without memory it is a function from observations to a distribution:

    policy(obs)                        -> Distribution over any leading axes
    policy.initial(batch)              -> the memory before the first step, () without memory
    policy.step(carry, obs, first)     -> (Distribution over [B], the memory after it)
    policy.unroll(carry, obs, resets)  -> (Distribution over [T, B], the memory after)

    distributions   what a policy returns: one for each kind of action
    networks        affine layers, the MLP, activations and initialisations
    features        o ↦ x: raw, one-hot, bases, images, parts, learnt, by name; and φ(s, a)
    memory          what is remembered of an episode: GRU, LSTM
    frozen          parts that do not train: Frozen
    policy          Policy
    heads           what the last features become; head_choice, which one an action space gets
    own             Modules and functions of the user's own
    builders        makers of (key, spec) -> Policy, checked against the spaces
    critics         V(o) as a table, linear, or a network, and their builders
    normaliser      running statistics, and the acting policy that has them inside: Normalised
    files           one file per policy: safetensors and JSON, no code
"""

from __future__ import annotations

import policygrad.compilation  # noqa: F401  before any program runs
from policygrad.policies.builders import PolicyBuilder, default, linear, mlp, polynomial, state_action, table, tabular_softmax
from policygrad.policies.critics import (
    Critic,
    CriticBuilder,
    SharedCritic,
    WithCritic,
    default_critic,
    linear_critic,
    network_critic,
    shared_critic,
    table_critic,
)
from policygrad.policies.distributions import (
    Bernoulli,
    Beta,
    Categorical,
    Distribution,
    FullGaussian,
    Gaussian,
    Joint,
    MultiCategorical,
    Squashed,
)
from policygrad.policies.files import load, require_spaces, save, storable
from policygrad.policies.frozen import Frozen
from policygrad.policies.memory import GRU, LSTM
from policygrad.policies.networks import MLP
from policygrad.policies.normaliser import Normalised
from policygrad.policies.own import as_builder, own
from policygrad.policies.policy import Policy, initial_carry, num_chunks, policy_step, policy_unroll

__all__ = [
    "GRU",
    "LSTM",
    "MLP",
    "Bernoulli",
    "Beta",
    "Categorical",
    "Critic",
    "CriticBuilder",
    "Distribution",
    "Frozen",
    "FullGaussian",
    "Gaussian",
    "Joint",
    "MultiCategorical",
    "Normalised",
    "Policy",
    "PolicyBuilder",
    "SharedCritic",
    "Squashed",
    "WithCritic",
    "as_builder",
    "default",
    "default_critic",
    "initial_carry",
    "linear",
    "linear_critic",
    "load",
    "mlp",
    "network_critic",
    "num_chunks",
    "own",
    "policy_step",
    "policy_unroll",
    "polynomial",
    "require_spaces",
    "save",
    "shared_critic",
    "state_action",
    "storable",
    "table",
    "table_critic",
    "tabular_softmax",
]
