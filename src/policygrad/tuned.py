"""Settings that were measured: one entry for an environment and an algorithm.

    >>> from policygrad.tuned import tuned
    >>> entry = tuned("CartPole-v1", "ppo")
    >>> entry.num_envs, entry.algorithm().settings["rollout_length"]
    (4, 64)

An entry without `measured` has settings that others published, or that were tried but not on the stated seeds: nothing is claimed of
them. Settings were chosen with seeds from 100 on, in the compiled environments; the figures are of other seeds.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from policygrad.algorithms import RECIPES
from policygrad.errors import UnknownNameError, UsageError
from policygrad.types import Algorithm

STEPS_TO_SOLVE = "steps to solve"
"""Steps of all environments until the mean of the last 20 training episodes reaches the reward threshold."""

EVALUATED = "mode return"
"""Mean return of the last policy over 100 episodes in which actions are the distribution's modes."""


@dataclass(frozen=True)
class Measured:
    """What an entry reached.

    Attributes:
        what: `STEPS_TO_SOLVE` or `EVALUATED`.
        values: one a seed; None where the task was not solved within the entry's steps.
        seeds: of training.
        backend: "compiled" or "gymnasium".
        commit: of the code that was measured.
    """

    what: str
    values: tuple[float | None, ...]
    seeds: tuple[int, ...]
    backend: str
    commit: str

    @property
    def figure(self) -> float:
        """The median of steps to solve, where a seed that did not solve took for ever; the mean of returns."""
        known = [float("inf") if value is None else value for value in self.values]
        return statistics.median(known) if self.what == STEPS_TO_SOLVE else statistics.fmean(known)


@dataclass(frozen=True)
class Tuned:
    """The settings of one algorithm in one environment.

    Attributes:
        env: the environment's id.
        name: the recipe's name.
        settings: arguments of the recipe; the others have their defaults.
        num_envs: environments side by side.
        num_steps: steps of all environments together; schedules end there.
        measured: what was reached with these settings; None where it has not been measured.
        note: where the settings come from.
    """

    env: str
    name: str
    settings: dict[str, Any]
    num_envs: int
    num_steps: int
    measured: Measured | None = None
    note: str = ""

    def algorithm(self, **changes: Any) -> Algorithm:
        """The algorithm with these settings; `changes` are arguments of the recipe that take their place.

        Raises:
            UsageError: as the recipe.
        """
        recipe: Callable[..., Algorithm] = RECIPES[self.name]
        return recipe(**{**self.settings, **changes})


def tuned(env: str, algorithm: str) -> Tuned:
    """The tuned settings of an algorithm in an environment.

    Args:
        env: the environment's id.
        algorithm: the recipe's name.

    Returns:
        a `Tuned`; its `algorithm()` goes to `train`, together with its `num_envs` and `num_steps`.

    Raises:
        UnknownNameError: no entry for the environment, or no recipe of that name. UsageError: no entry for the two together.

        >>> tuned("CartPole-v1", "ppo").measured is not None
        True
    """
    if not isinstance(env, str) or not isinstance(algorithm, str):
        wrong = next(value for value in (env, algorithm) if not isinstance(value, str))
        raise UsageError(f"tuned: got {type(wrong).__name__}; it must be the id of an environment, and the name of a recipe")
    if algorithm not in RECIPES:
        raise UnknownNameError("algorithm", algorithm, RECIPES)
    if (env, algorithm) in TUNED:
        return TUNED[env, algorithm]
    there = [name for known, name in TUNED if known == env]
    if not there:
        raise UnknownNameError("environment with tuned settings", env, {known for known, _ in TUNED})
    raise UsageError(f"tuned: got {algorithm} for {env}, which has no entry; {env} has those of {', '.join(there)}")


# ---------------------------------------------------------------- classic control

_NORMALISED = {"normalize_observations": True, "normalize_rewards": True}
_DEFAULTS, _ZOO, _SEARCH = "the recipe's defaults", "after rl-zoo's recipe", "chosen among a few, around rl-zoo's recipe"
_BANG = "normalised, a fixed σ of 3: the car's actions are cut to full thrust either way, which finds the goal by chance"
_CARTPOLE_PPO = {"rollout_length": 64, "discount": 0.98, "learning_rate": 2e-3, "learning_rate_decay": True, "clip_decay": True}
_CARTPOLE_KL = {
    "rollout_length": 32,
    "epochs": 20,
    "minibatches": 1,
    "trace": 0.8,
    "discount": 0.98,
    "learning_rate": 2e-3,
    "target_kl": 0.02,
}
_PENDULUM_PPO = {"rollout_length": 1024, "minibatches": 64, "discount": 0.9, "learning_rate": 1e-3}
_PENDULUM_KL = {"discount": 0.9, "trace": 0.9, "max_kl": 0.02, "critic_learning_rate": 1e-2, "critic_steps": 40}
_ACROBOT_PPO = {**_NORMALISED, "rollout_length": 256, "trace": 0.94, "epochs": 4, "minibatches": 64}
_CAR_PPO = {**_NORMALISED, "rollout_length": 16, "trace": 0.98, "epochs": 4}
_THRUST = {**_NORMALISED, "rollout_length": 256, "discount": 0.999, "sigma": 3.0}

CLASSIC = [
    Tuned("CartPole-v1", "ppo", _CARTPOLE_PPO, 4, 100_000, note=_SEARCH),
    Tuned("CartPole-v1", "trpo", {}, 8, 100_000, note=_DEFAULTS),
    Tuned("CartPole-v1", "npg", {}, 8, 100_000, note=_DEFAULTS),
    Tuned("CartPole-v1", "a2c", {"rollout_length": 5, "trace": 1.0, "learning_rate": 2.8e-3}, 8, 100_000, note=_SEARCH),
    Tuned("CartPole-v1", "reinforce", {}, 8, 100_000, note=_DEFAULTS),
    Tuned("CartPole-v1", "actor_critic", {}, 8, 100_000, note=_DEFAULTS),
    Tuned("CartPole-v1", "ppo_kl", _CARTPOLE_KL, 8, 100_000, note=_SEARCH),
    Tuned("Acrobot-v1", "ppo", _ACROBOT_PPO, 16, 1_000_000, note=_ZOO),
    Tuned("Acrobot-v1", "trpo", _NORMALISED, 8, 100_000, note=_DEFAULTS + ", normalised"),
    Tuned("Acrobot-v1", "npg", _NORMALISED, 8, 100_000, note=_DEFAULTS + ", normalised"),
    Tuned("Acrobot-v1", "a2c", {**_NORMALISED, "rollout_length": 5}, 16, 500_000, note=_ZOO),
    Tuned("MountainCar-v0", "ppo", _CAR_PPO, 16, 1_000_000, note=_ZOO),
    Tuned("MountainCar-v0", "trpo", {**_NORMALISED, "trace": 0.98}, 16, 1_000_000, note=_DEFAULTS + ", normalised"),
    Tuned("MountainCar-v0", "npg", {**_NORMALISED, "trace": 0.98}, 16, 1_000_000, note=_DEFAULTS + ", normalised"),
    Tuned("MountainCar-v0", "a2c", {**_NORMALISED, "rollout_length": 16}, 16, 1_000_000, note=_ZOO),
    Tuned("MountainCarContinuous-v0", "ppo", {**_THRUST, "learning_rate": 1e-3, "minibatches": 16}, 4, 20_000, note=_BANG),
    Tuned("MountainCarContinuous-v0", "trpo", {**_THRUST, "trace": 0.98, "max_kl": 0.02}, 4, 50_000, note=_BANG),
    Tuned("MountainCarContinuous-v0", "npg", {**_THRUST, "trace": 0.98, "max_kl": 0.02}, 4, 50_000, note=_BANG),
    Tuned("Pendulum-v1", "ppo", _PENDULUM_PPO, 4, 100_000, note=_ZOO),
    Tuned("Pendulum-v1", "trpo", _PENDULUM_KL, 8, 100_000, note=_SEARCH),
    Tuned("Pendulum-v1", "npg", _PENDULUM_KL, 8, 100_000, note=_SEARCH),
]

# ---------------------------------------------------------------- MuJoCo

_TIANSHOU = "after Tianshou's recipe for MuJoCo"
_MUJOCO = {**_NORMALISED, "initial_sigma": 0.6}  # of actions within ±1, a third of what σ = 1 draws would be cut off
_RECIPES: dict[str, tuple[int, dict[str, Any]]] = {
    # 16 environments of 5 steps are 80 steps an update, 16 of 64 are 1,024, and 8 of 256 are 2,048
    "a2c": (
        16,
        {
            **_MUJOCO,
            "rollout_length": 5,
            "learning_rate": 7e-4,
            "learning_rate_decay": True,
            "entropy_bonus": 0.01,
            "value_weight": 0.5,
            "max_grad_norm": 0.5,
            "optimizer": "rmsprop",
        },
    ),
    "npg": (16, {**_MUJOCO, "rollout_length": 64, "critic_learning_rate": 1e-3, "critic_steps": 20, "max_kl": 0.05}),
    "trpo": (16, {**_MUJOCO, "rollout_length": 64, "critic_learning_rate": 1e-3, "critic_steps": 20, "max_kl": 0.01}),
    "ppo": (
        8,
        {
            **_MUJOCO,
            "rollout_length": 256,
            "epochs": 10,
            "minibatches": 32,
            "learning_rate": 3e-4,
            "learning_rate_decay": True,
            "value_weight": 0.25,
            "value_clip": 0.2,
            "normalize_advantages": False,
            "recompute_advantages": True,
        },
    ),
}
_REINFORCE = {
    "learning_rate": 1e-3,
    "learning_rate_decay": True,
    "max_grad_norm": None,
    "normalize_advantages": True,
    "normalize_observations": True,
    "hidden_sizes": (64, 64),
    "initial_sigma": 0.6,
}
# whole episodes, about 2,048 steps of a trained policy in each update
_EPISODES = {"HalfCheetah-v5": 2, "Hopper-v5": 8, "InvertedPendulum-v5": 4, "InvertedDoublePendulum-v5": 4, "Reacher-v5": 40}

MUJOCO = [
    entry
    for env, episodes in _EPISODES.items()
    for entry in (
        Tuned(env, "reinforce", _REINFORCE, num_envs=min(episodes, 8), num_steps=3_000_000, note=_TIANSHOU)
        if episodes <= 8
        else Tuned(env, "reinforce", {**_REINFORCE, "episodes_per_update": episodes}, num_envs=8, num_steps=3_000_000, note=_TIANSHOU),
        *(
            Tuned(env, name, settings, num_envs=num_envs, num_steps=1_000_000, note=_TIANSHOU)
            for name, (num_envs, settings) in _RECIPES.items()
        ),
    )
]

# ---------------------------------------------------------------- what they reached

_COMMIT = "d70321f"  # with the tuned settings added


def _reached(what: str, *values: float | None, backend: str = "compiled", commit: str = _COMMIT) -> Measured:
    return Measured(what, values, tuple(range(len(values))), backend, commit)


MEASURED: dict[tuple[str, str], Measured] = {
    ("CartPole-v1", "ppo"): _reached(
        STEPS_TO_SOLVE, 19179, 19484, 19002, 15783, 15796, 15931, 47258, 12920, 14621, 16797, backend="gymnasium"
    ),
    ("CartPole-v1", "trpo"): _reached(
        STEPS_TO_SOLVE, 32974, 36851, 50109, 52222, 44343, 43164, 38736, 41395, 27056, 82754, backend="gymnasium"
    ),
    ("CartPole-v1", "npg"): _reached(
        STEPS_TO_SOLVE, 41552, 40911, 38347, 38039, 33096, 23513, 40568, 56406, 38494, 47245, backend="gymnasium"
    ),
    ("CartPole-v1", "a2c"): _reached(
        STEPS_TO_SOLVE, 82500, 52379, 70685, 52404, 35397, 42456, 49041, 51166, 70125, 29727, backend="gymnasium"
    ),
    ("CartPole-v1", "reinforce"): _reached(
        STEPS_TO_SOLVE, 22521, 26842, 29315, 22944, None, 26401, 21078, None, 35546, 54982, backend="gymnasium"
    ),
    ("CartPole-v1", "actor_critic"): _reached(
        STEPS_TO_SOLVE, 57076, 73255, 35412, 64639, 55374, 74922, 44201, 62441, 47372, 37148, backend="gymnasium"
    ),
    ("CartPole-v1", "ppo_kl"): _reached(
        STEPS_TO_SOLVE, 25431, 32766, 64089, 29561, 30791, 49916, 19167, 15184, 26691, 34556, backend="gymnasium", commit="db50d7f"
    ),
    ("Acrobot-v1", "ppo"): _reached(EVALUATED, -76.7, -71.2, -70.7, -71.0, -74.6),
    ("Acrobot-v1", "trpo"): _reached(EVALUATED, -81.7, -87.0, -87.9, -84.3, -86.2),
    ("Acrobot-v1", "npg"): _reached(EVALUATED, -92.3, -87.4, -84.4, -84.6, -81.8),
    ("Acrobot-v1", "a2c"): _reached(EVALUATED, -89.3, -82.2, -84.1, -83.8, -81.0),
    ("MountainCar-v0", "ppo"): _reached(EVALUATED, -127.0, -108.9, -105.9, -112.5, -115.3),
    ("MountainCar-v0", "trpo"): _reached(EVALUATED, -115.7, -97.8, -97.9, -108.4, -98.0),
    ("MountainCar-v0", "npg"): _reached(EVALUATED, -97.6, -98.4, -101.5, -98.2, -107.8),
    ("MountainCar-v0", "a2c"): _reached(EVALUATED, -112.4, -109.3, -125.6, -127.2, -111.3),
    ("MountainCarContinuous-v0", "ppo"): _reached(EVALUATED, 92.5, 92.4, 92.5, 91.5, 91.4),
    ("MountainCarContinuous-v0", "trpo"): _reached(EVALUATED, 93.1, 92.8, 93.2, 92.4, 92.9),
    ("MountainCarContinuous-v0", "npg"): _reached(EVALUATED, 93.1, 93.0, 93.1, 92.8, 92.9),
    ("Pendulum-v1", "ppo"): _reached(EVALUATED, -201.9, -231.1, -239.1, -174.1, -196.5),
    ("Pendulum-v1", "trpo"): _reached(EVALUATED, -207.6, -401.8, -200.1, -228.5, -199.4),
    ("Pendulum-v1", "npg"): _reached(EVALUATED, -170.8, -196.3, -240.7, -205.4, -205.9),
}
"""By `make results`; docs/results.md has more of each."""

TUNED: dict[tuple[str, str], Tuned] = {
    (entry.env, entry.name): replace(entry, measured=MEASURED.get((entry.env, entry.name))) for entry in (*CLASSIC, *MUJOCO)
}
"""All entries, by environment and recipe."""
