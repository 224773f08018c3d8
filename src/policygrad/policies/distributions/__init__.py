"""π(·|o): what a policy returns.

    base        the contract `Distribution`; what chance adds to a sample, apart from what is made of it
    discrete    Categorical, MultiCategorical, Bernoulli: finitely many actions, which a mask may forbid
    continuous  Gaussian, FullGaussian: unbounded
    bounded     Squashed, Beta: inside a box
    joint       Joint: independent parts, for Dict and Tuple actions

In the shape descriptions `[...]` are the batch axes, any number of them. Every array leaf of a distribution carries the
batch axes, so that one can be stored in a rollout, gathered into minibatches and mapped over like any other array. The
dtype follows the inputs. An action is an element of its space as `policygrad.spaces` holds it.
"""

from policygrad.policies.distributions.base import Distribution, drawn_noise, sampled
from policygrad.policies.distributions.bounded import Beta, Squashed
from policygrad.policies.distributions.continuous import FullGaussian, Gaussian
from policygrad.policies.distributions.discrete import Bernoulli, Categorical, MultiCategorical
from policygrad.policies.distributions.joint import Joint

__all__ = [
    "Bernoulli",
    "Beta",
    "Categorical",
    "Distribution",
    "FullGaussian",
    "Gaussian",
    "Joint",
    "MultiCategorical",
    "Squashed",
    "drawn_noise",
    "sampled",
]
