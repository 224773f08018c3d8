"""EXACT ANSWERS: what every estimate is held against.

On finite MDPs (`policygrad.envs.FiniteMDP`) and linear-quadratic regulators, in float64 by linear solves, without sampling:

    values, occupancy, objective, visits                        what a policy is worth, and where it goes
    policy_gradient, rollout_gradient, fisher, natural_gradient how that changes with its parameters
    best, best_memoryless                                       the most that any policy can get
    moments                                                     mean and covariance of any estimator of the gradient

    finite     values, occupancies and the objective, in all their forms
    gradient   the gradient, the Fisher matrix, and what fixed-length rollouts estimate
    moments    every batch that an estimator can see
    optimum    the best return, with and without seeing the state
    lqr        J and ∇J of linear Gaussian policies
    tables     the recursions that they share
    scope      float64 without the global flag

Every function of a policy is differentiable in it: inside `jax.grad` or `jit` it takes the policy's dtype and returns JAX values.
"""

from __future__ import annotations

from policygrad.oracle.finite import Occupancy, Values, objective, occupancy, values, visits
from policygrad.oracle.gradient import fisher, flatten, natural_gradient, policy_gradient, rollout_gradient
from policygrad.oracle.moments import Moments, Trajectories, enumerate_trajectories, moments
from policygrad.oracle.optimum import Best, BestMemoryless, best, best_memoryless

__all__ = [
    "Best",
    "BestMemoryless",
    "Moments",
    "Occupancy",
    "Trajectories",
    "Values",
    "best",
    "best_memoryless",
    "enumerate_trajectories",
    "fisher",
    "flatten",
    "moments",
    "natural_gradient",
    "objective",
    "occupancy",
    "policy_gradient",
    "rollout_gradient",
    "values",
    "visits",
]
