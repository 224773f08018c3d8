"""Settings that were measured: one entry for an environment and an algorithm.

    >>> from policygrad.tuned_settings import tuned
    >>> entry = tuned("CartPole-v1", "ppo")
    >>> entry.num_envs, entry.algorithm().settings["rollout_length"]
    (4, 64)

An entry without `measured` has settings that others published, or that were tried but not on the stated seeds: nothing is claimed of
them. Settings were chosen with seeds from 100 on, in the compiled environments; the figures are of other seeds.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace
from typing import Any

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
        from policygrad.algorithms import RECIPES

        return RECIPES[self.name](**{**self.settings, **changes})


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
    if (env, algorithm) in TUNED:
        return TUNED[env, algorithm]
    if algorithm not in NAMES:
        raise UnknownNameError("algorithm", algorithm, NAMES)
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
_ONCE = {"critic_learning_rate": 1e-3, "critic_steps": 20}
_RECIPES: dict[str, tuple[int, dict[str, Any]]] = {
    # 16 environments of 16 steps are 256 steps an update, 16 of 64 are 1,024, and 8 of 256 are 2,048
    "a2c": (16, {**_MUJOCO, "rollout_length": 16, "learning_rate": 1e-3, "learning_rate_decay": True}),
    "npg": (16, {**_MUJOCO, **_ONCE, "rollout_length": 64, "max_kl": 0.05}),
    "trpo": (16, {**_MUJOCO, **_ONCE, "rollout_length": 64, "max_kl": 0.01}),
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
# Once a pendulum stands, advantages are noise, and steps that are always as long as the KL allows walk away from there: batches of 4,096
# steps, and NPG steps that are as long as the gradient says.
_STEADY = {"rollout_length": 256, "trace": 0.97, "max_kl_decay": True}
_CHANGES: dict[tuple[str, str], dict[str, Any]] = {
    ("Hopper-v5", "a2c"): {"optimizer": "adam", "rollout_length": 32},  # with RMSprop and 16 most seeds learn a single hop, 350
    ("InvertedPendulum-v5", "npg"): {**_STEADY, "step_size": 0.2},
    ("InvertedPendulum-v5", "trpo"): _STEADY,
    ("InvertedDoublePendulum-v5", "npg"): {**_STEADY, "step_size": 0.2},
    ("InvertedDoublePendulum-v5", "trpo"): _STEADY,
}
_REINFORCE = {
    "learning_rate": 2e-3,
    "learning_rate_decay": True,
    "max_grad_norm": None,
    "normalize_advantages": True,
    "normalize_observations": True,
    "hidden_sizes": (64, 64),
    "initial_sigma": 0.6,
}
# whole episodes; 8,000 steps an update on HalfCheetah-v5, about 2,000 of a trained policy elsewhere
_EPISODES = {"HalfCheetah-v5": 8, "Hopper-v5": 8, "InvertedPendulum-v5": 4, "InvertedDoublePendulum-v5": 4, "Reacher-v5": 40}

MUJOCO = [
    entry
    for env, episodes in _EPISODES.items()
    for entry in (
        Tuned(
            env,
            "reinforce",
            _REINFORCE if episodes <= 8 else {**_REINFORCE, "episodes_per_update": episodes},
            num_envs=min(episodes, 8),
            num_steps=3_000_000 if env in ("HalfCheetah-v5", "Hopper-v5") else 1_000_000,
            note=_TIANSHOU,
        ),
        *(
            Tuned(env, name, {**settings, **_CHANGES.get((env, name), {})}, num_envs=num_envs, num_steps=1_000_000, note=_TIANSHOU)
            for name, (num_envs, settings) in _RECIPES.items()
        ),
    )
]

# ---------------------------------------------------------------- what they reached


def _reached(what: str, *values: float | None, backend: str = "compiled", commit: str) -> Measured:
    return Measured(what, values, tuple(range(len(values))), backend, commit)


MEASURED: dict[tuple[str, str], Measured] = {
    ("CartPole-v1", "ppo"): _reached(
        STEPS_TO_SOLVE, 17151, 15096, 15763, 19592, 15183, 39205, 16227, 12920, 15816, 16745, backend="gymnasium", commit="c708078"
    ),
    ("CartPole-v1", "trpo"): _reached(
        STEPS_TO_SOLVE, 36965, 36851, 43690, 55485, 45258, 52370, 38464, 35899, 35701, 92386, backend="gymnasium", commit="c708078"
    ),
    ("CartPole-v1", "npg"): _reached(
        STEPS_TO_SOLVE, 54516, 64288, 28734, 32725, 36092, 23513, 35288, 51985, 44921, 67127, backend="gymnasium", commit="c708078"
    ),
    ("CartPole-v1", "a2c"): _reached(
        STEPS_TO_SOLVE, 19541, 33126, 37884, 76574, 35565, 38713, 48337, 22773, 39694, 69079, backend="gymnasium", commit="c708078"
    ),
    ("CartPole-v1", "reinforce"): _reached(
        STEPS_TO_SOLVE, 22521, 26842, 29315, 22944, 64853, 26401, 21078, 86157, 35562, None, backend="gymnasium", commit="c708078"
    ),
    ("CartPole-v1", "actor_critic"): _reached(
        STEPS_TO_SOLVE, 52662, 72361, 35412, 64639, 55374, 53614, 43442, 69502, 47372, 37148, backend="gymnasium", commit="c708078"
    ),
    ("CartPole-v1", "ppo_kl"): _reached(
        STEPS_TO_SOLVE, 24172, 37938, 49937, 36307, 35063, 38046, 21510, 22003, 29171, 29266, backend="gymnasium", commit="c708078"
    ),
    ("Acrobot-v1", "ppo"): _reached(EVALUATED, -70.6, -71.7, -70.4, -69.7, -73.8, commit="c708078"),
    ("Acrobot-v1", "trpo"): _reached(EVALUATED, -83.7, -81.9, -85.9, -82.8, -84.6, commit="c708078"),
    ("Acrobot-v1", "npg"): _reached(EVALUATED, -82.1, -80.8, -90.3, -90.1, -83.6, commit="c708078"),
    ("Acrobot-v1", "a2c"): _reached(EVALUATED, -82.1, -85.0, -82.9, -88.2, -89.0, commit="c708078"),
    ("MountainCar-v0", "ppo"): _reached(EVALUATED, -122.0, -110.6, -106.5, -126.9, -102.2, commit="c708078"),
    ("MountainCar-v0", "trpo"): _reached(EVALUATED, -97.3, -102.2, -97.7, -98.1, -112.2, commit="c708078"),
    ("MountainCar-v0", "npg"): _reached(EVALUATED, -102.2, -98.1, -102.7, -125.1, -97.9, commit="c708078"),
    ("MountainCar-v0", "a2c"): _reached(EVALUATED, -108.3, -104.5, -112.8, -115.6, -105.5, commit="c708078"),
    ("MountainCarContinuous-v0", "ppo"): _reached(EVALUATED, 92.4, 92.6, 91.4, 92.0, 90.5, commit="c708078"),
    ("MountainCarContinuous-v0", "trpo"): _reached(EVALUATED, 92.9, 93.5, 93.3, 93.1, 92.9, commit="c708078"),
    ("MountainCarContinuous-v0", "npg"): _reached(EVALUATED, 93.3, 92.5, 93.4, 93.4, 93.3, commit="c708078"),
    ("Pendulum-v1", "ppo"): _reached(EVALUATED, -205.0, -198.1, -212.2, -204.1, -314.2, commit="c708078"),
    ("Pendulum-v1", "trpo"): _reached(EVALUATED, -306.8, -188.4, -202.5, -193.8, -219.8, commit="c708078"),
    ("Pendulum-v1", "npg"): _reached(EVALUATED, -515.8, -189.5, -187.2, -193.3, -179.8, commit="c708078"),
    ("HalfCheetah-v5", "reinforce"): _reached(EVALUATED, 1345.4, 1479.2, 1179.9, 1483.3, 3149.7, backend="gymnasium", commit="ac42c0b"),
    ("HalfCheetah-v5", "a2c"): _reached(EVALUATED, 3489.0, 3980.0, 3934.7, 3188.1, 3969.5, backend="gymnasium", commit="ac42c0b"),
    ("HalfCheetah-v5", "npg"): _reached(EVALUATED, 6438.9, 6597.6, 4998.7, 2739.8, 5094.6, backend="gymnasium", commit="ac42c0b"),
    ("HalfCheetah-v5", "trpo"): _reached(EVALUATED, 6007.1, 4966.4, 5504.6, 4293.7, 5907.4, backend="gymnasium", commit="ac42c0b"),
    ("HalfCheetah-v5", "ppo"): _reached(EVALUATED, 5103.0, 4280.8, 5190.8, 6915.0, 3863.9, backend="gymnasium", commit="ac42c0b"),
    ("Hopper-v5", "reinforce"): _reached(EVALUATED, 1655.8, 1381.8, 1224.0, 1338.7, 1203.0, backend="gymnasium", commit="ac42c0b"),
    ("Hopper-v5", "a2c"): _reached(EVALUATED, 757.1, 1650.1, 437.5, 2014.1, 589.9, backend="gymnasium", commit="ac42c0b"),
    ("Hopper-v5", "npg"): _reached(EVALUATED, 2282.3, 1904.1, 560.9, 2998.8, 923.2, backend="gymnasium", commit="ac42c0b"),
    ("Hopper-v5", "trpo"): _reached(EVALUATED, 3023.3, 1462.4, 3268.0, 3009.9, 3388.3, backend="gymnasium", commit="ac42c0b"),
    ("Hopper-v5", "ppo"): _reached(EVALUATED, 3469.5, 2035.7, 3662.2, 3325.8, 3530.8, backend="gymnasium", commit="ac42c0b"),
    ("InvertedPendulum-v5", "reinforce"): _reached(
        EVALUATED, 1000.0, 1000.0, 1000.0, 1000.0, 1000.0, backend="gymnasium", commit="cb967ba"
    ),
    ("InvertedPendulum-v5", "a2c"): _reached(EVALUATED, 1000.0, 1000.0, 1000.0, 1000.0, 1000.0, backend="gymnasium", commit="ac42c0b"),
    ("InvertedPendulum-v5", "npg"): _reached(EVALUATED, 1000.0, 1000.0, 1000.0, 1000.0, 1000.0, backend="gymnasium", commit="af95e61"),
    ("InvertedPendulum-v5", "trpo"): _reached(EVALUATED, 1000.0, 1000.0, 1000.0, 1000.0, 1000.0, backend="gymnasium", commit="af95e61"),
    ("InvertedPendulum-v5", "ppo"): _reached(EVALUATED, 1000.0, 1000.0, 1000.0, 1000.0, 1000.0, backend="gymnasium", commit="ac42c0b"),
    ("InvertedDoublePendulum-v5", "reinforce"): _reached(
        EVALUATED, 8711.3, 6531.7, 9351.7, 7688.7, 8258.6, backend="gymnasium", commit="cb967ba"
    ),
    ("InvertedDoublePendulum-v5", "a2c"): _reached(
        EVALUATED, 8803.8, 9080.9, 9083.4, 9082.3, 8895.0, backend="gymnasium", commit="ac42c0b"
    ),
    ("InvertedDoublePendulum-v5", "npg"): _reached(
        EVALUATED, 9333.3, 9322.8, 9151.9, 9237.2, 9146.3, backend="gymnasium", commit="af95e61"
    ),
    ("InvertedDoublePendulum-v5", "trpo"): _reached(
        EVALUATED, 5543.6, 6880.4, 7681.7, 8633.5, 8526.1, backend="gymnasium", commit="af95e61"
    ),
    ("InvertedDoublePendulum-v5", "ppo"): _reached(
        EVALUATED, 9356.2, 9161.8, 8975.5, 8989.2, 8531.5, backend="gymnasium", commit="ac42c0b"
    ),
    ("Reacher-v5", "reinforce"): _reached(EVALUATED, -8.1, -7.6, -8.5, -8.2, -7.8, backend="gymnasium", commit="cb967ba"),
    ("Reacher-v5", "a2c"): _reached(EVALUATED, -8.7, -8.4, -7.5, -6.9, -6.7, backend="gymnasium", commit="ac42c0b"),
    ("Reacher-v5", "npg"): _reached(EVALUATED, -4.5, -4.3, -5.3, -5.0, -4.6, backend="gymnasium", commit="ac42c0b"),
    ("Reacher-v5", "trpo"): _reached(EVALUATED, -4.6, -4.0, -4.5, -4.4, -6.0, backend="gymnasium", commit="ac42c0b"),
    ("Reacher-v5", "ppo"): _reached(EVALUATED, -4.1, -4.3, -4.2, -3.8, -4.1, backend="gymnasium", commit="ac42c0b"),
}
"""By `make results`; docs/results.md has more of each."""

TUNED: dict[tuple[str, str], Tuned] = {
    (entry.env, entry.name): replace(entry, measured=MEASURED.get((entry.env, entry.name))) for entry in (*CLASSIC, *MUJOCO)
}
"""All entries, by environment and recipe."""

NAMES = tuple(dict.fromkeys(name for _, name in TUNED))
"""The recipes that have entries."""
