"""Policy gradients: every estimator, every way to climb, in pieces that combine.

train, iterate, evaluate, Run      the main job
reinforce, actor_critic, a2c, npg, trpo, ppo, ppo_kl      recipes: each fills the slots of `compose`
make, register, Env                environments
policy, policies, save, load       what acts
advantages, baselines, gradients, ascent, rollout      the slots
combinators, reuse                 from algorithm to algorithm
tuned                              settings that were measured, for an environment and an algorithm
oracle, lab                        exact answers, and every estimator held against them
pseudo_loss                        the gradient by autodiff, for loops of your own
"""

import importlib
from typing import TYPE_CHECKING, Any

from policygrad._version import __version__

if TYPE_CHECKING:
    from policygrad import (
        advantages,
        ascent,
        baselines,
        combinators,
        diagnostics,
        envs,
        errors,
        gradients,
        lab,
        oracle,
        policies,
        rollout,
        spaces,
        types,
    )  # fmt: skip
    from policygrad.algorithms import RECIPES, a2c, actor_critic, compose, npg, ppo, ppo_kl, reinforce, trpo
    from policygrad.combinators import reuse
    from policygrad.envs import Env, make, register
    from policygrad.errors import PolicygradError, RunError, UsageError
    from policygrad.evaluation import Evaluation, evaluate
    from policygrad.gradients import pseudo_loss
    from policygrad.policies import load, save
    from policygrad.policies.builders import policy
    from policygrad.training import Run, RunProgress, iterate, train
    from policygrad.tuned_settings import tuned
    from policygrad.types import Algorithm, Spec

# What is asked for is imported then: a mistake on the command line is told in a tenth of the time that JAX takes to import.
_HOMES = {
    "algorithms": ("RECIPES", "a2c", "actor_critic", "compose", "npg", "ppo", "ppo_kl", "reinforce", "trpo"),
    "combinators": ("reuse",),
    "envs": ("Env", "make", "register"),
    "errors": ("PolicygradError", "RunError", "UsageError"),
    "evaluation": ("Evaluation", "evaluate"),
    "gradients": ("pseudo_loss",),
    "policies": ("load", "save"),
    "policies.builders": ("policy",),
    "training": ("Run", "RunProgress", "iterate", "train"),
    "tuned_settings": ("tuned",),
    "types": ("Algorithm", "Spec"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(f"policygrad.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    if name in __all__:
        return importlib.import_module(f"policygrad.{name}")
    raise AttributeError(f"module 'policygrad' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


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
    "a2c",
    "actor_critic",
    "advantages",
    "ascent",
    "baselines",
    "combinators",
    "compose",
    "diagnostics",
    "envs",
    "errors",
    "evaluate",
    "gradients",
    "iterate",
    "lab",
    "load",
    "make",
    "npg",
    "oracle",
    "policies",
    "policy",
    "ppo",
    "ppo_kl",
    "pseudo_loss",
    "register",
    "reinforce",
    "reuse",
    "rollout",
    "save",
    "spaces",
    "train",
    "trpo",
    "tuned",
    "types",
]
