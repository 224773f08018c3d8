"""What the episodes of one policy say about the return of another."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from policygrad.errors import SpaceError, UsageError
from policygrad.gradients.weights import Weight, effective_sample_size, per_decision
from policygrad.policies import initial_carry
from policygrad.spaces import Discrete, Leaf, MultiBinary, MultiDiscrete, Space, flattened, leaves
from policygrad.types import Array, PyTree, Rollout

SMALLEST_SHARE = 0.1
"""Of the sample: a smaller effective one is warned about."""


@dataclass(frozen=True)
class OffPolicyValue:
    """An estimate of J(π) from another policy's episodes."""

    value: float
    standard_error: float  # of `value`; NaN for a single episode
    effective_sample_size: float  # the share of the steps that their weights leave, in [0, 1]
    num_trajectories: int

    def __str__(self) -> str:
        return (
            f"value {self.value:.4g} ± {self.standard_error:.2g}  (standard error; {self.num_trajectories} episodes,"
            f" effective sample size {self.effective_sample_size:.1%})"
        )


def off_policy_value(policy: Any, rollout: Rollout, *, discount: float, weight: Weight = per_decision) -> OffPolicyValue:
    """The expected discounted return of a policy, from whole episodes of another one.

        Ĵ(π) = (1/N) Σ_i Σ_t γ^t w_{t,i} r_{t,i}        w from π(a_t|o_t) / b(a_t|o_t)

    With `trajectory` that is (1/N) Σ_i W_i R_i, ordinary importance sampling; with `per_decision` each reward has the weight of the
    actions that led to it, and the variance is smaller. Both are unbiased as long as b could take every action of π, for the
    objective of the recorded episodes: a truncated one counts with what it has. `truncated` and `self_normalised` weights
    are biased, the second less so the more episodes there are; `per_step` counts states and rewards as b meets them.

    Sums, weights and log π are in float64; the recorded log b is in its own precision.

    Args:
        policy: π.
        rollout: whole episodes of b, one a column, as `rollout.record(env, b, episodes(N))` makes them.
        discount: γ in [0, 1].
        weight: from `gradients.weights`.

    Returns:
        An `OffPolicyValue`. Its standard error is that of a mean of N, for self-normalised weights that of a ratio to first order
        in 1/N; where the weights are heavy-tailed, as the effective sample size tells, it is too small.

    Raises:
        SpaceError: for a policy of other spaces, as far as the record shows.
        UsageError: for parts of episodes; for a behaviour log-probability that is not finite, a reward that is not, an action
            that π does not know; for a γ out of range.

    Warns:
        UserWarning: where the effective sample size is below 10 %.

    Reference:
        Precup, Sutton and Singh 2000, "Eligibility traces for off-policy policy evaluation".
    """
    if isinstance(discount, bool) or not isinstance(discount, int | float | np.number) or not 0 <= discount <= 1:
        raise UsageError(f"discount: got {discount!r}; it must be a number in [0, 1]")
    if not callable(weight):
        raise UsageError(f"weight: got {weight!r}; it must be a function of gradients.weights, e.g. WEIGHTS['trajectory']")
    require_behaviour(rollout)
    require_whole_episodes(rollout)
    require_fit(policy, rollout)
    with jax.enable_x64(True):
        # In float64, also of a policy whose parameters are float32.
        wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, policy)
        log_prob = np.asarray(_log_prob(wide, rollout.obs, rollout.action, rollout.time), np.float64)
    _refuse(np.isnan(log_prob) | (log_prob == np.inf), rollout, "policy: its log π(a|o)", log_prob, "pass a policy for these spaces")
    mask = np.asarray(rollout.mask) > 0
    log_ratios = np.where(mask, log_prob - np.where(mask, rollout.log_prob, 0), 0)
    with jax.enable_x64(True):
        numbers = rollout._replace(reward=np.asarray(rollout.reward, np.float64), mask=mask.astype(np.float64), extras={})
        value, terms, share = (np.asarray(x) for x in estimate(weight, log_ratios, numbers, np.float64(discount)))
    count = len(terms)
    error = float(np.std(terms, ddof=1)) / math.sqrt(count) if count > 1 else math.nan
    if not share >= SMALLEST_SHARE:
        warnings.warn(
            f"off_policy_value: the importance weights leave {float(share):.2%} of {count} episodes' steps, so the estimate rests on"
            " a few of them; take episodes of a policy nearer to this one, more of them, or self_normalised weights",
            UserWarning,
            stacklevel=2,
        )
    return OffPolicyValue(float(value), error, float(share), count)


@partial(jax.jit, static_argnums=0)
def estimate(weight: Weight, log_ratios: Array, rollout: Rollout, discount: Array) -> tuple[Array, Array, Array]:
    """The sums of `off_policy_value`: (Ĵ; what each column adds to it, [N], whose spread is that of Ĵ times √N; share)."""
    weights = weight(log_ratios, rollout).weights
    powers = discount ** jnp.arange(len(weights), dtype=weights.dtype)[:, None]
    rewards = rollout.reward * rollout.mask
    value = jnp.mean(jnp.sum(powers * weights * rewards, axis=0))
    if getattr(weight, "self_normalised", False):
        # The derivative of a ratio: weights whose mean is 1 move the mean that they divide by, too.
        rewards = rewards - jnp.mean(weights * rewards, axis=1, keepdims=True)
    return value, jnp.sum(powers * weights * rewards, axis=0), effective_sample_size(weights, rollout.mask)


@jax.jit
def _log_prob(policy: Any, obs: PyTree, action: PyTree, time: Array) -> Array:
    # Its own memory of these whole episodes, in one piece: the recorded one is another policy's.
    carry = jax.tree.map(lambda leaf: leaf[None], initial_carry(policy, time.shape[1]))
    distribution, _ = policy.unroll(carry, obs, time == 0)
    return distribution.log_prob(action)


def require_fit(policy: Any, rollout: Rollout) -> None:
    """Checks that a policy could have seen these observations and taken these actions, as far as the record tells.

    Raises:
        UsageError: it is no policy. SpaceError: it is for other spaces.
    """
    if not (hasattr(policy, "unroll") and hasattr(policy, "observation_space")):
        raise UsageError(f"policy: got {type(policy).__name__}; it must be a policy, e.g. what `load` returns or `run.policy`")
    for what, values, space in (
        ("observations", rollout.obs, policy.observation_space),
        ("actions", rollout.action, policy.action_space),
    ):
        require_space(f"policy: the rollout's {what}", values, rollout.mask, space)


def require_space(what: str, values: Any, mask: Any, space: Space) -> None:
    """Checks that the recorded values [T, B, …] of valid steps may come from a space.

    Raises:
        SpaceError: naming `what`.
    """
    fix = "rollout and policy must be of one environment"
    try:
        parts = flattened(space, values)
    except (KeyError, IndexError, TypeError):
        raise SpaceError(f"{what}: got {type(values).__name__} where {space} belongs; {fix}") from None
    for (_, leaf), part in zip(leaves(space), parts, strict=True):
        if isinstance(part, dict | tuple):
            raise SpaceError(f"{what}: got a {type(part).__name__} where {leaf} belongs; {fix}")
        part = np.asarray(part)
        if part.shape[2:] != leaf.shape:
            raise SpaceError(f"{what}: got shape {part.shape[2:]} where {leaf} belongs; {fix}")
        valid, most = part[np.asarray(mask) > 0], _most(leaf)
        if most is not None and (not np.issubdtype(part.dtype, np.integer) or valid.min() < 0 or (valid > most).any()):
            raise SpaceError(f"{what}: got some that are no integers of {leaf}, counted from 0; {fix}")


def _most(space: Leaf) -> Any:
    """The largest integers of a discrete leaf; None of a Box."""
    match space:
        case Discrete():
            return space.n - 1
        case MultiDiscrete():
            return np.array(space.counts).reshape(space.shape) - 1
        case MultiBinary():
            return 1
    return None


def require_behaviour(rollout: Rollout, what: str = "rollout") -> None:
    """Checks that a recorded rollout can be weighed: rewards, and log-probabilities of the policy that acted, are finite.

    Raises:
        UsageError: naming `what`, the step and the column.
    """
    log_prob, reward = np.asarray(rollout.log_prob), np.asarray(rollout.reward)
    fix = "it must be the finite log of the probability (or density) with which the action was taken"
    _refuse(~np.isfinite(log_prob), rollout, f"{what}: the behaviour log-probability", log_prob, fix)
    _refuse(~np.isfinite(reward), rollout, f"{what}: the reward", reward, "it must be finite")


def require_whole_episodes(rollout: Rollout, what: str = "rollout") -> None:
    """Checks that every column of a recorded rollout is one whole episode, from its first step to its end.

    Raises:
        UsageError: naming `what` and the column.
    """
    mask, time = np.asarray(rollout.mask) > 0, np.asarray(rollout.time)
    rows = np.arange(len(mask))[:, None]
    lengths = mask.sum(axis=0)
    ended = np.asarray(rollout.terminated) | np.asarray(rollout.truncated)
    contiguous = (mask == (rows < lengths)).all(axis=0) & (~mask | (time == rows)).all(axis=0)
    at_the_end = ended[np.maximum(lengths - 1, 0), np.arange(mask.shape[1])]
    whole = contiguous & at_the_end & (lengths > 0)
    if not whole.all():
        column = int(np.argmin(whole))
        raise UsageError(
            f"{what}: column {column} is not one whole episode, from time 0 to its end;"
            " record it with episodes(N), which makes each column one"
        )


def _refuse(wrong: np.ndarray, rollout: Rollout, what: str, values: np.ndarray, fix: str) -> None:
    wrong = wrong & (np.asarray(rollout.mask) > 0)
    if wrong.any():
        row, column = (int(i) for i in np.argwhere(wrong)[0])
        raise UsageError(f"{what} at step {row} of column {column}: got {values[row, column]}; {fix}")
