"""A toy of any Gymnasium spaces, and a plain loop that plays it: what every vector must agree with.

Importable by name, so that worker processes find it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium
import jax
import numpy as np

from policygrad.envs.vector_adapter import VectorAdapter, env_seeds
from policygrad.spaces import Discrete, Leaf, MultiBinary, MultiDiscrete, Space, from_gymnasium, held_dtype, mapped, start_of

G = gymnasium.spaces
LIMIT = 6
OBSERVATIONS = {
    "nested": G.Dict(
        {
            "zone": G.Discrete(5, start=-2),
            "arm": G.Tuple(
                [
                    G.Box(-2, 2, (2, 2), np.float64),
                    G.Dict({"b": G.MultiBinary([2, 2]), "a": G.MultiDiscrete([[3, 4], [5, 6]], dtype=np.int16, start=[[1, 0], [-3, 2]])}),
                ]
            ),
            "bytes": G.Box(0, 255, (3,), np.uint8),
            "one": G.Box(-1, 1, (), np.float32),
        }
    ),
    "tuple": G.Tuple([G.Discrete(7, start=3), G.MultiBinary(3)]),
    "multi-discrete": G.MultiDiscrete([4, 5, 6], start=[2, 0, -1]),
    "multi-binary": G.MultiBinary((2, 2)),
    "discrete": G.Discrete(9, start=4),
    "box": G.Box(-2, 2, (3,), np.float32),
}
ACTIONS = {
    "nested": G.Dict(
        {
            "which": G.Discrete(4, start=2),
            "force": G.Tuple([G.Box(-0.1, 0.3, (2,), np.float64), G.Box(-1, 1, (1, 2), np.float16)]),
            "grip": G.Dict({"b": G.MultiBinary(3), "a": G.MultiDiscrete([[2, 3], [4, 5]], dtype=np.int8, start=[[1, 0], [0, -7]])}),
        }
    ),
    "tuple": G.Tuple([G.Discrete(2), G.MultiDiscrete([3, 2], start=[5, 0])]),
    "multi-discrete": G.MultiDiscrete([2, 3], start=[0, 4]),
    "multi-binary": G.MultiBinary((2, 2)),
    "discrete": G.Discrete(3, start=-1),
    "box": G.Box(-0.5, 0.5, (2,), np.float32),
    "number": G.Box(-0.5, 0.5, (), np.float32),
}


def element(space: Any, n: int) -> Any:
    """An element of a Gymnasium space, another for every n."""
    match space:
        case G.Dict():
            return {name: element(part, n + 7 * i) for i, (name, part) in enumerate(space.spaces.items())}
        case G.Tuple():
            return tuple(element(part, n + 5 * i) for i, part in enumerate(space.spaces))
        case G.Discrete():
            return np.int64(space.start + n % space.n)
    order = n + np.arange(int(np.prod(space.shape))).reshape(space.shape)
    match space:
        case G.MultiDiscrete():
            return (space.start + order % space.nvec).astype(space.dtype)
        case G.MultiBinary():
            return (order // 2 % 2).astype(np.int8)
    return np.asarray(space.low + (order * 37 % 256) / 255 * (space.high.astype(np.float64) - space.low), space.dtype)


def digest(space: Any, action: Any) -> int:
    """A number of every entry of a Gymnasium action, by its own place."""
    match space:
        case G.Dict():
            return sum((2 * i + 3) * digest(part, action[name]) for i, (name, part) in enumerate(sorted(space.spaces.items())))
        case G.Tuple():
            return sum((2 * i + 3) * digest(part, action[i]) for i, part in enumerate(space.spaces))
    scaled = np.rint(np.asarray(action, np.float64) * 1000).astype(np.int64).ravel()
    return int(scaled @ (np.arange(scaled.size) + 1))


class Nest(gymnasium.Env):
    """Episodes of 1 to 8 steps, drawn at the reset; `LIMIT` truncates. What is seen tells the episode, the time and the last action.

    Args:
        in_place: observations are the same arrays each time, written over.
    """

    def __init__(self, seen: str = "nested", taken: str = "nested", in_place: bool = False):
        self.observation_space, self.action_space = OBSERVATIONS[seen], ACTIONS[taken]
        self.buffer = element(self.observation_space, 0) if in_place else None

    def observe(self, last: int) -> Any:
        obs = element(self.observation_space, self.tag + 11 * self.t + last % 101)
        return obs if self.buffer is None else self._written(self.observation_space, self.buffer, obs)

    def _written(self, space: Any, into: Any, obs: Any) -> Any:
        match space:
            case G.Dict():
                into.update({name: self._written(part, into[name], obs[name]) for name, part in space.spaces.items()})
                return into
            case G.Tuple():
                return tuple(self._written(part, into[i], obs[i]) for i, part in enumerate(space.spaces))
            case G.Discrete():
                return obs
        into[...] = obs
        return into

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.t, self.tag, self.length = 0, int(self.np_random.integers(1000)), int(self.np_random.integers(1, 9))
        return self.observe(0), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        assert self.action_space.contains(action), action
        self.t += 1
        last = digest(self.action_space, action)
        for leaf in jax.tree.leaves(action):
            if isinstance(leaf, np.ndarray):
                leaf[...] = 0  # what an environment gets is its own
        reward = self.tag + last % 17 + float(self.np_random.normal())
        return self.observe(last), reward, self.t == self.length, self.t == LIMIT, {}


def action_of(space: Space, environment: int, count: int) -> Any:
    """One action as a policy samples it, of the environment's own number and count of steps."""
    rng = np.random.default_rng((environment, count))

    def leaf(space: Leaf) -> Any:
        match space:
            case Discrete():
                return np.int32(rng.integers(space.n))
            case MultiDiscrete():
                return rng.integers(np.array(space.counts).reshape(space.shape)).astype(np.int32)
            case MultiBinary():
                return rng.integers(2, size=space.shape).astype(np.int8)
        return np.asarray(rng.normal(size=space.shape), np.float32)

    return mapped(leaf, space)


def in_gymnasiums_form(space: Any, action: Any) -> Any:
    """The action as the environment should get it, written out."""
    match space:
        case G.Dict():
            return {name: in_gymnasiums_form(part, action[name]) for name, part in space.spaces.items()}
        case G.Tuple():
            return tuple(in_gymnasiums_form(part, action[i]) for i, part in enumerate(space.spaces))
        case G.Discrete():
            return np.int64(action + space.start)
        case G.MultiDiscrete():
            return (action + space.start).astype(space.dtype)
        case G.MultiBinary():
            return np.array(action)
    return np.asarray(np.clip(action.astype(space.dtype), space.low, space.high))


def in_our_form(space: Any, obs: Any) -> Any:
    """An observation as a policy should see it."""
    return mapped(lambda leaf, x: (np.asarray(x) - start_of(leaf)).astype(held_dtype(leaf)), from_gymnasium(space), obs)


class Played(NamedTuple):
    """A valid step of one environment."""

    obs: Any
    reward: np.float32
    terminated: bool
    truncated: bool
    next_obs: Any


def by_hand(make: Any, num_envs: int, seed: int, count: int) -> list[list[Played]]:
    """`count` steps of each environment, alone and without any vector."""
    result = []
    for i, one in enumerate(env_seeds(seed, num_envs)):
        env, played = make(), []
        actions = from_gymnasium(env.action_space)
        obs, _ = env.reset(seed=one)
        obs = in_our_form(env.observation_space, obs)
        for k in range(count):
            after, reward, terminated, truncated, _ = env.step(in_gymnasiums_form(env.action_space, action_of(actions, i, k)))
            after = in_our_form(env.observation_space, after)
            played.append(Played(obs, np.float32(reward), terminated, truncated, after))
            obs = in_our_form(env.observation_space, env.reset()[0]) if terminated or truncated else after
        result.append(played)
    return result


def through(adapter: VectorAdapter, rows: int) -> list[list[Played]]:
    """The valid steps of each environment in `rows` vector steps."""
    result: list[list[Played]] = [[] for _ in range(adapter.num_envs)]
    space = adapter.env.action_space
    rows_of: list[tuple[Any, Any]] = []
    obs = adapter.reset()
    for _ in range(rows):
        each = [action_of(space, i, len(played)) for i, played in enumerate(result)]
        made = adapter.step(jax.tree.map(lambda *leaves: np.stack(leaves), *each))
        rows_of += [(x, jax.tree.map(np.copy, x)) for x in (obs, made.next_obs)]
        for i, played in enumerate(result):
            if made.valid[i]:
                ends = made.reward[i], bool(made.terminated[i]), bool(made.truncated[i])
                played.append(
                    Played(jax.tree.map(lambda leaf, i=i: leaf[i], obs), *ends, jax.tree.map(lambda leaf, i=i: leaf[i], made.next_obs))
                )
            else:
                assert not any(leaf[i].any() for leaf in jax.tree.leaves(made.next_obs))
        obs = made.obs
    for given, then in rows_of:  # what was handed out is the caller's: no later step writes into it
        jax.tree.map(np.testing.assert_array_equal, given, then)
    return result


def assert_same(ours: list[list[Played]], theirs: list[list[Played]], least: int) -> None:
    """Bit-equality of at least `least` steps of every environment, in which episodes end in both ways."""
    for played, expected in zip(ours, theirs, strict=True):
        n = min(len(played), len(expected))
        assert n >= least
        for one, other in zip(played[:n], expected[:n], strict=True):
            assert jax.tree.structure(one) == jax.tree.structure(other)
            for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
                np.testing.assert_array_equal(a, b)
                assert np.asarray(a).dtype == np.asarray(b).dtype
    steps = [one for played in ours for one in played]
    assert sum(one.terminated and not one.truncated for one in steps) > 2
    assert sum(one.truncated and not one.terminated for one in steps) > 2
