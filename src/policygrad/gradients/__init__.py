"""How ∇J is estimated.

score_function  autodiff of the pseudo-loss Σ w Ψ log π
losses          with a critic that climbs with the policy: actor-critic, clipped ratio, KL penalty
accumulate      a large batch in parts that fit the cache
contributions   what each trajectory adds
weights         importance weights w
off_policy      the same weights for J itself, from another policy's episodes
"""

from policygrad.gradients.accumulate import accumulated
from policygrad.gradients.contributions import contributions
from policygrad.gradients.losses import Loss, actor_critic_loss, clipped_loss, penalty_loss
from policygrad.gradients.off_policy import OffPolicyValue, off_policy_value
from policygrad.gradients.score_function import gradient_of, policy_loss, pseudo_loss, score_function
from policygrad.gradients.weights import (
    WEIGHTS,
    LogWeight,
    effective_sample_size,
    on_policy,
    per_decision,
    per_step,
    self_normalised,
    trajectory,
    truncated,
    vtrace,
)

__all__ = [
    "WEIGHTS",
    "LogWeight",
    "Loss",
    "OffPolicyValue",
    "accumulated",
    "actor_critic_loss",
    "clipped_loss",
    "contributions",
    "effective_sample_size",
    "gradient_of",
    "off_policy_value",
    "on_policy",
    "penalty_loss",
    "per_decision",
    "per_step",
    "policy_loss",
    "pseudo_loss",
    "score_function",
    "self_normalised",
    "trajectory",
    "truncated",
    "vtrace",
]
