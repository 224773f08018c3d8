"""Policy gradients: every estimator, every way to climb, in pieces that combine.

train, iterate, evaluate, Run      the main job
reinforce, actor_critic            recipes: each fills the slots of `compose`
make, register, Env                environments
policies, save, load               what acts
advantages, baselines, gradients, ascent, rollout      the slots
pseudo_loss                        the gradient by autodiff, for loops of your own
"""

import os

import jax

# A call of a policy takes 15 µs; handing it to another thread and waking up again takes 60 more. So programs on the CPU run
# in the thread that calls them, unless the environment says otherwise. Without effect once JAX has started its backend.
if "JAX_CPU_ENABLE_ASYNC_DISPATCH" not in os.environ:
    jax.config.update("jax_cpu_enable_async_dispatch", False)

from policygrad import advantages, ascent, baselines, envs, errors, gradients, policies, rollout, spaces, types
from policygrad._version import __version__
from policygrad.algorithms import RECIPES, actor_critic, compose, reinforce
from policygrad.envs import Env, make, register
from policygrad.errors import PolicygradError, RunError, UsageError
from policygrad.evaluate import Evaluation, evaluate
from policygrad.gradients import pseudo_loss
from policygrad.policies import load, save
from policygrad.training import Run, RunProgress, iterate, train
from policygrad.types import Algorithm, Spec

__all__ = [
    "RECIPES",
    "Algorithm",
    "Env",
    "Evaluation",
    "PolicygradError",
    "Run",
    "RunError",
    "RunProgress",
    "Spec",
    "UsageError",
    "__version__",
    "actor_critic",
    "advantages",
    "ascent",
    "baselines",
    "compose",
    "envs",
    "errors",
    "evaluate",
    "gradients",
    "iterate",
    "load",
    "make",
    "policies",
    "pseudo_loss",
    "register",
    "reinforce",
    "rollout",
    "save",
    "spaces",
    "train",
    "types",
]
