"""How θ climbs: the gradient of J times a step. Here: any optax optimiser, with schedules and global-norm clipping."""

from policygrad.ascent.optimizer import OPTIMIZERS, gradient_ascent
from policygrad.ascent.schedules import Schedule, constant, linear

__all__ = ["OPTIMIZERS", "Schedule", "constant", "gradient_ascent", "linear"]
