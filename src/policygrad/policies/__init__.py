"""WHAT ACTS: policies π(a|o) and critics V(o).

A policy is features followed by a head, and a function from observations to a distribution:

    policy(obs)                        -> Distribution over any leading axes
    policy.initial(batch)              -> the memory before the first step, () without memory
    policy.unroll(carry, obs, resets)  -> (Distribution over [T, B], the memory after)

    distributions   what a policy returns: Categorical, Gaussian
    networks        affine layers, the MLP, activations and initialisations
    features        o ↦ x: raw, one-hot, polynomial, learnt, and φ(s, a)
    policy          Policy and its heads
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
    default_critic,
    linear_critic,
    network_critic,
    shared_critic,
    table_critic,
)
from policygrad.policies.distributions import Categorical, Distribution, Gaussian
from policygrad.policies.files import load, require_spaces, save, storable
from policygrad.policies.networks import MLP
from policygrad.policies.normaliser import Normalised
from policygrad.policies.policy import Policy

__all__ = [
    "MLP",
    "Categorical",
    "Critic",
    "CriticBuilder",
    "Distribution",
    "Gaussian",
    "Normalised",
    "Policy",
    "PolicyBuilder",
    "SharedCritic",
    "default",
    "default_critic",
    "linear",
    "linear_critic",
    "load",
    "mlp",
    "network_critic",
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
