"""How ∇J is estimated.

score_function  autodiff of the pseudo-loss Σ w Ψ log π
accumulate      a large batch in parts that fit the cache
weights         importance weights w; here the on-policy one
"""

from policygrad.gradients.accumulate import accumulated
from policygrad.gradients.score_function import policy_loss, pseudo_loss, score_function
from policygrad.gradients.weights import on_policy

__all__ = ["accumulated", "on_policy", "policy_loss", "pseudo_loss", "score_function"]
