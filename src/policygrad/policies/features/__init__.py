"""o ↦ x: what the head of a policy or critic sees of an observation.

Each is a Module that takes observations over any leading axes `[...]` and returns [..., F], `num_features` of them. Parameters, where
there are any, are float arrays; what else they need to know (shapes, degrees, a seed) is static. Features whose linear combinations
contain the constant say so: `spans_constant`.

    basic          elements, unit vectors, numbers for tables, monomials
    bases          Fourier, radial basis functions, random Fourier features
    images         convolutions
    parts          the parts of a Dict or Tuple, and what a space suggests
    layers         learnt layers over other features
    named          features by name: `FEATURES`, `build`
    state_action   φ(s, a)
"""

from policygrad.policies.features.bases import RBF, Fourier, RandomFourier, num_frequencies
from policygrad.policies.features.basic import (
    MAX_DEGREE,
    MAX_MONOMIALS,
    MAX_STATES,
    Index,
    JointIndex,
    MultiOneHot,
    OneHot,
    Polynomial,
    Raw,
    index,
    num_monomials,
)
from policygrad.policies.features.images import CNN, cnn, is_image, nature_cnn, small_cnn
from policygrad.policies.features.layers import Network, learnt, num_features
from policygrad.policies.features.named import FEATURES, build, joined
from policygrad.policies.features.parts import Joined, from_space
from policygrad.policies.features.state_action import PerStatePolynomial, StateAction, StateActionPolynomial

__all__ = [
    "CNN",
    "FEATURES",
    "MAX_DEGREE",
    "MAX_MONOMIALS",
    "MAX_STATES",
    "RBF",
    "Fourier",
    "Index",
    "Joined",
    "JointIndex",
    "MultiOneHot",
    "Network",
    "OneHot",
    "PerStatePolynomial",
    "Polynomial",
    "RandomFourier",
    "Raw",
    "StateAction",
    "StateActionPolynomial",
    "build",
    "cnn",
    "from_space",
    "index",
    "is_image",
    "joined",
    "learnt",
    "nature_cnn",
    "num_features",
    "num_frequencies",
    "num_monomials",
    "small_cnn",
]
