"""Where data comes from: compiled environments, Gymnasium's, and one call that finds either by name.

base               the contract of a compiled environment; the time limit as a combinator
stacking           the last k observations in place of one, as a combinator
classic_control    CartPole, Acrobot, MountainCar, Pendulum in JAX, twins of Gymnasium's
small_worlds       bandit, corridor, rock-paper-scissors, target: tasks whose best value is known exactly
memory_worlds      tasks in which what is seen now does not say what to do now
reaching_arm       a planar arm of two links, driven by torques
finite             MDPs in tables, Gymnasium's included: every probability is known, so that exact answers exist
finite_worlds      small ones with a name, each for one thing that it shows
lqr                the linear-quadratic regulator: the continuous task with exact answers
checks             what environments made of numbers ask of their arguments
registry           names of compiled environments, the user's own included
processes          whether several processes should step them
gymnasium_adapter  ids, functions, environments and vectors of Gymnasium's, in all three autoreset modes
envpool            EnvPool's
hosted             a world of our own in Gymnasium's form, registered with it on demand
adapters           others' environments in JAX: gymnax, brax, …
make               the one call
contract           does an environment keep its contract? `policygrad.contract`, for whatever names one
"""

import policygrad.compilation  # noqa: F401  before any program runs
from policygrad.envs.base import Env, time_limit
from policygrad.envs.contract import check_env
from policygrad.envs.finite import FiniteMDP
from policygrad.envs.finite_worlds import finite_world
from policygrad.envs.gymnasium_adapter import GymnasiumEnv
from policygrad.envs.lqr import LQR
from policygrad.envs.make import AnyEnv, has_gymnasium, make
from policygrad.envs.registry import compiled_names, register
from policygrad.envs.stacking import frame_stack

__all__ = [
    "LQR",
    "AnyEnv",
    "Env",
    "FiniteMDP",
    "GymnasiumEnv",
    "check_env",
    "compiled_names",
    "finite_world",
    "frame_stack",
    "has_gymnasium",
    "make",
    "register",
    "time_limit",
]
