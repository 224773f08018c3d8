"""How much experience an update takes, and how a rollout is counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from policygrad.errors import UsageError
from policygrad.spaces import MASK, Box, Leaf, Space, mapped
from policygrad.types import Array, PyTree, Rollout


@dataclass(frozen=True)
class Collect:
    """How much experience an update takes. Made by `steps` or `episodes`."""

    kind: Literal["steps", "episodes"]
    count: int | None  # T of steps(T); N of episodes(N), None for one per environment
    num_envs: int  # environments to run where the user does not say
    distributions: bool = False  # whether a rollout holds π(·|o_t), for updates that would compute it again

    def episodes_per_update(self, num_envs: int) -> int:
        """N, checked against the number of environments that run them.

        Raises:
            UsageError: if N is no multiple of it: some environments would stand idle, or run longer than others.
        """
        count = num_envs if self.count is None else self.count
        if count % num_envs:
            raise UsageError(
                f"{count} episodes an update cannot be shared evenly by {num_envs} environments;"
                f" take a multiple of {num_envs} episodes, or a number of environments that divides {count}"
            )
        return count

    def normaliser(self, rollout: Rollout) -> int:
        """What an estimate divides by: the number of trajectories, or T·B. Never the random number of valid steps."""
        rows, columns = rollout.mask.shape
        return columns if self.kind == "episodes" else rows * columns


def steps(count: int, *, num_envs: int = 8, distributions: bool = False) -> Collect:
    """A rollout of `count` steps from every environment, going on where the last one ended: [T, B].

    Estimates divide by T·B.

    Args:
        distributions: write down π(·|o_t) too, `Rollout.distribution`, which saves an update that compares with the old policy
            a pass over the rollout.
    """
    _positive(count, "steps in a rollout")
    return Collect("steps", int(count), num_envs, distributions)


def episodes(count: int | None = None, *, num_envs: int | None = None) -> Collect:
    """`count` whole episodes, each started on purpose: [longest, N], one episode a column, padded with mask 0.

    Every environment runs the same number of them. Taking the first N that happen to end would favour short episodes.
    Estimates divide by N.

    Args:
        count: N; None for one episode of every environment.
        num_envs: environments to run where the user does not say; defaults to N.
    """
    if count is not None:
        _positive(count, "episodes an update")
    return Collect("episodes", count and int(count), num_envs or count or 8)


def _positive(count: int, what: str) -> None:
    if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 1:
        raise UsageError(f"{what}: got {count!r}; it must be a whole number of at least 1")


class EpisodeLog(NamedTuple):
    """The ends of episodes in the order of time; rows are vector steps, columns environments."""

    ended: Array  # [rows, B] bool: the episode ended with this step
    returns: Array  # [rows, B] undiscounted sum of its rewards (meaningful where ended)
    lengths: Array  # [rows, B] int32 its steps (meaningful where ended)
    steps: Array  # [rows] int32: steps of all environments up to and including the row, from the start of the rollout


def all_allowed(rollout: Rollout) -> Rollout:
    """The rollout, with masks of actions that allow everything in rows that are no steps: of a mask of zeros there is no distribution,
    and a NaN would go through sums that multiply it by 0."""
    xp = np if isinstance(rollout.mask, np.ndarray) else jnp

    def filled(obs: PyTree) -> PyTree:
        if not (isinstance(obs, dict) and MASK in obs):
            return obs
        rows = rollout.mask > 0
        return {**obs, MASK: jax.tree.map(lambda leaf: xp.where(rows.reshape(rows.shape + (1,) * (leaf.ndim - 2)), leaf, 1), obs[MASK])}

    return rollout._replace(obs=filled(rollout.obs), next_obs=filled(rollout.next_obs))


def to_environment(space: Space, action: PyTree) -> PyTree:
    """What an environment gets of a sampled action: boxes clipped to their bounds; discrete actions pass.

    Only the environment sees the clipped action. The record keeps what was sampled, and log-probabilities are of that:
    the density of a clipped action is not the Gaussian's.
    """

    def one(space: Leaf, action: Array) -> Array:
        if not isinstance(space, Box):
            return action
        low, high = (jnp.broadcast_to(bound.astype(action.dtype), action.shape) for bound in (space.low_array, space.high_array))
        return jnp.clip(action, low, high)

    return mapped(one, space, action)
