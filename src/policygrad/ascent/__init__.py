"""How θ climbs: the gradient of J, or a direction made of it, and a step along it.

optimizer     any optax optimiser along the gradient, with global-norm clipping
natural       directions: the gradient, and the natural gradient by conjugate gradient
step_size     steps along a direction: by an optimiser, or of a size that follows the KL
trust_region  steps to a KL radius, and back from it
proximal      epochs of minibatches on a loss that stays near the old policy
minibatches   how those are drawn
schedules     numbers that change over a run
"""

from policygrad.ascent.natural import Climb, Direction, conjugate_gradient, fisher_vector_product, natural, steepest
from policygrad.ascent.optimizer import OPTIMIZERS, gradient_ascent
from policygrad.ascent.proximal import Penalised, proximal, proximal_kl
from policygrad.ascent.schedules import Schedule, constant, linear
from policygrad.ascent.step_size import along, kl_adaptive
from policygrad.ascent.trust_region import backtracking, kl_radius

__all__ = [
    "OPTIMIZERS",
    "Climb",
    "Direction",
    "Penalised",
    "Schedule",
    "along",
    "backtracking",
    "conjugate_gradient",
    "constant",
    "fisher_vector_product",
    "gradient_ascent",
    "kl_adaptive",
    "kl_radius",
    "linear",
    "natural",
    "proximal",
    "proximal_kl",
    "steepest",
]
