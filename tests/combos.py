"""Every kind of observation with every kind of action, compiled and on the host: environments for the table of combinations."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

import policygrad as pg
from policygrad import spaces
from policygrad.envs import Env
from policygrad.spaces import MASK, Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Tuple, mapped
from policygrad.types import Step

OBSERVATIONS: dict[str, Space] = {
    "discrete": Discrete(3),
    "multi-discrete": MultiDiscrete((2, 3)),
    "box": Box.of(-1.0, 1.0, (3,)),
    "image": Box.of(0, 255, (8, 8, 1), "uint8"),
    "dict": Dict.of({"where": Box.of(-1.0, 1.0, (2,)), "what": Discrete(3)}),
    "tuple": Tuple((MultiBinary((2,)), Box.of(-1.0, 1.0, (2,)))),
}
HYBRID = Dict.of({"kind": Discrete(2), "force": Box.of(-1.0, 1.0, (2,))})


class Acting(NamedTuple):
    """A kind of action."""

    space: Space
    masked: bool = False
    head: str = "auto"


ACTIONS = {
    "discrete": Acting(Discrete(3)),
    "masked": Acting(Discrete(3), masked=True),
    "multi-discrete": Acting(MultiDiscrete((2, 3))),
    "multi-binary": Acting(MultiBinary((2,))),
    "box": Acting(Box.of(-1.0, 1.0, (2,))),
    "squashed": Acting(Box.of(-1.0, 1.0, (2,)), head="squashed"),
    "hybrid": Acting(HYBRID),
    "masked hybrid": Acting(HYBRID, masked=True),
}
MEMORIES = "none", "gru"
ALGORITHMS = "reinforce", "a2c", "trpo", "ppo"
LOOPS = "compiled", "host"
LENGTH = 3
"""Of an episode."""


class Combination(NamedTuple):
    """One cell of the table."""

    observation: str
    memory: str
    action: str
    algorithm: str
    loop: str


ALL = [Combination(*cell) for cell in itertools.product(OBSERVATIONS, MEMORIES, ACTIONS, ALGORITHMS, LOOPS)]


def covering(cells: list[Combination], number: int) -> list[Combination]:
    """So many cells that hold every pair of choices as soon as may be: each takes the most pairs that none before it has."""

    def pairs(cell: Combination) -> set[Any]:
        return set(itertools.combinations(enumerate(cell), 2))

    chosen: list[Combination] = []
    seen: set[Any] = set()
    for _ in range(number):
        best = max(cells, key=lambda cell: (len(pairs(cell) - seen), -cells.index(cell)))
        chosen.append(best)
        seen |= pairs(best)
    return chosen


def with_mask(observation: Space, acting: Acting) -> Space:
    """The observation, with a mask where the kind of action has one."""
    if not acting.masked:
        return observation
    mask = {MASK: MultiBinary((sum(spaces.choices(acting.space)),))}
    return Dict.of({**dict(observation.parts), **mask} if isinstance(observation, Dict) else {"observation": observation, **mask})


def element(space: Space, t: Any, seed: Any, xp: Any) -> Any:
    """An observation of a space: something of the time and the episode's number, the same in JAX and NumPy."""

    def leaf(space: Any) -> Any:
        size = int(np.prod(space.shape))
        n = xp.arange(size) * 7 + t * 5 + seed * 3
        match space:
            case Discrete():
                value = (n % space.n)[0]
            case MultiDiscrete():
                value = n % xp.array(space.counts)
            case MultiBinary():
                value = n % 2
            case _:
                value = n * 37 % 256 if space.dtype == "uint8" else (n % 11) / 5.0 - 1.0
        return xp.reshape(value, space.shape).astype(spaces.held_dtype(space))

    return mapped(leaf, space)


def seen_with_mask(space: Space, t: Any, seed: Any, xp: Any) -> Any:
    """The same, of a space with a mask: the first alternative is forbidden, but at every third step."""
    obs = element(space, t, seed, xp)
    if not spaces.has_mask(space):
        return obs
    size = space[MASK].shape[0]  # type: ignore[index]
    return {**obs, MASK: xp.where((xp.arange(size) == 0) & (t % 3 != 2), 0, 1).astype(np.int8)}


def reward_of(action: Any, t: Any, xp: Any) -> Any:
    """Something of every part of the action."""
    return sum(xp.sum(xp.asarray(leaf, np.float32)) for leaf in jax.tree.leaves(action)) * 0.1 + t


def compiled_env(observation: Space, acting: Acting) -> Env:
    """Episodes of `LENGTH` steps."""
    space = with_mask(observation, acting)

    def reset(key: Any) -> Any:
        seed = jax.random.randint(key, (), 0, 5)
        return (jnp.zeros((), jnp.int32), seed), seen_with_mask(space, jnp.zeros((), jnp.int32), seed, jnp)

    def step(key: Any, state: Any, action: Any) -> Any:
        t, seed = state[0] + 1, state[1]
        obs = seen_with_mask(space, t, seed, jnp)
        return (t, seed), Step(obs, reward_of(action, state[0], jnp), t >= LENGTH, jnp.zeros((), bool))

    return Env("Combination-v0", space, acting.space, reset, step, time_limit=LENGTH)


def to_gymnasium(space: Space) -> gymnasium.Space:
    """The space as Gymnasium's."""
    kinds = gymnasium.spaces
    match space:
        case Discrete():
            return kinds.Discrete(space.n, start=space.start)
        case MultiDiscrete():
            return kinds.MultiDiscrete(np.array(space.counts).reshape(space.shape), start=space.start_array)
        case MultiBinary():
            return kinds.MultiBinary(space.shape)
        case Box():
            return kinds.Box(space.low_array.astype(space.dtype), space.high_array.astype(space.dtype), dtype=np.dtype(space.dtype).type)
        case Dict():
            return kinds.Dict({name: to_gymnasium(part) for name, part in space.parts})
    return kinds.Tuple([to_gymnasium(part) for part in space.parts])


class HostCombination(gymnasium.Env):
    """The same on the host; masks come with the infos, and an action that they forbid raises."""

    def __init__(self, observation: Space, acting: Acting):
        self.seen, self.acting = with_mask(observation, acting), acting
        self.observation_space, self.action_space = to_gymnasium(observation), to_gymnasium(acting.space)

    def _answer(self) -> tuple[Any, dict[str, Any]]:
        obs = seen_with_mask(self.seen, self.t, self.number, np)
        self.mask = obs.pop(MASK) if self.acting.masked else None
        if self.acting.masked and set(obs) == {"observation"}:
            obs = obs["observation"]
        return obs, {} if self.mask is None else {MASK: self.mask}

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t, self.number = 0, int(self.np_random.integers(5))
        return self._answer()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        if self.mask is not None:
            first = action["kind"] if isinstance(action, dict) else action
            assert self.mask[int(first)], (first, self.mask)
        reward = float(reward_of(action, self.t, np))
        self.t += 1
        obs, info = self._answer()
        return obs, reward, self.t >= LENGTH, False, info


def algorithm_of(cell: Combination, **others: Any) -> Any:
    """The recipe of a cell, with tiny networks."""
    policy = {"hidden_sizes": (3,), "memory": cell.memory, "memory_size": 3, "head": ACTIONS[cell.action].head}
    rollout = {"reinforce": {"baseline": "value"}, "a2c": {"rollout_length": 4}, "trpo": {"rollout_length": 4}}
    rollout["ppo"] = {"rollout_length": 4, "epochs": 2, "minibatches": 2}
    return getattr(pg, cell.algorithm)(**policy, **rollout[cell.algorithm], **others)


def env_of(cell: Combination) -> Any:
    """The environment of a cell."""
    observation, acting = OBSERVATIONS[cell.observation], ACTIONS[cell.action]
    return compiled_env(observation, acting) if cell.loop == "compiled" else lambda: HostCombination(observation, acting)


def two_updates(cell: Combination) -> Any:
    """The run of a cell: two updates of two environments."""
    steps = 2 * 2 * (LENGTH if cell.algorithm == "reinforce" else 4)
    return pg.train(env_of(cell), algorithm_of(cell), num_steps=steps, num_envs=2, seed=1, out=False, figures=False)
