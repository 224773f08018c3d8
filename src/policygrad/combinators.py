"""What else must hold: combinators return what they take. `reuse` makes an algorithm learn more from the data that there is."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from policygrad.errors import SpaceError, UsageError
from policygrad.gradients.off_policy import require_behaviour, require_whole_episodes
from policygrad.spaces import Discrete, Space
from policygrad.types import Agent, Algorithm, Array, Key, Params, Rollout, Spec


def reuse(algorithm: Algorithm, times: int = 1, logged: Rollout | None = None) -> Algorithm:
    """Combinator: learns from every rollout more than once, and from rollouts of other policies.

        θ_0 = θ,    θ_{k+1} = update(θ_k; fresh and logged),    k < `times`

    Each step carries the log-probability with which its action was taken. Every pass weighs all of them anew with
    π_{θ_k}(a|o) / b(a|o), as far as the algorithm's weight slot does so (`compose(weight=…)`). With weights of 1, `on_policy`, what is
    reused is taken for the policy's own, and the gradient is biased; that is for the algorithm's maker to rule out.

    Logged rollouts are further columns of every fresh one: an estimate divides by all of the columns, and a baseline made of the
    batch sees them all alike, unweighted. With `episodes(N)` they must be whole episodes, and the shorter of both is padded. With
    `steps(T)` they must have T rows: the divisor is rows × columns, which rows that are no steps would inflate.

    Args:
        algorithm: any, without memory where something is logged.
        times: passes over each rollout, ≥ 1. Schedules stand still meanwhile.
        logged: a `Rollout` of another policy in the same environment, as `rollout.record` makes it; None for none. It becomes a
            constant of the compiled update.

    Returns:
        An algorithm of the same name and settings; the same object where there is nothing to do. Its `gradient` and
        `contributions` are those of the first pass, its metrics those of the last, but `effective_sample_size` is the least of
        all passes and `finite` true only if all are; else the agent of before the first pass is returned. `Agent.steps`
        counts the fresh steps, once.

    Raises:
        UsageError: for `times` out of range; for logged behaviour log-probabilities or rewards that are not finite, parts of
            episodes, or rollouts of another length; for other extras than the environment's (when the update is traced).
            SpaceError: for logged observations or actions of other spaces (when the agent is made).
    """
    if isinstance(times, bool) or not isinstance(times, int | np.integer) or times < 1:
        raise UsageError(f"reuse: got {times!r} passes; it must be a whole number of at least 1")
    if times == 1 and logged is None:
        return algorithm
    if logged is not None:
        require_behaviour(logged, "logged rollout")
        rows, wanted = logged.mask.shape[0], algorithm.collect.count
        if algorithm.collect.kind == "episodes":
            require_whole_episodes(logged, "logged rollout")
        elif rows != wanted:
            raise UsageError(
                f"logged rollout: got {rows} steps with an algorithm that collects {wanted}; it must have as many:"
                f" record it with steps({wanted})"
            )

    def all_of(rollout: Rollout) -> Rollout:
        return rollout if logged is None else joined(rollout, logged)

    def init(key: Key, spec: Spec) -> Agent:
        if logged is not None:
            _require_space("observations", logged.obs, spec.observation_space)
            _require_space("actions", logged.action, spec.action_space)
        return algorithm.init(key, spec)

    def gradient(agent: Agent, rollout: Rollout) -> tuple[Params, dict]:
        return algorithm.gradient(agent, all_of(rollout))

    def contributions(agent: Agent, rollout: Rollout) -> Params:
        return algorithm.contributions(agent, all_of(rollout))

    def update(key: Key, agent: Agent, rollout: Rollout) -> tuple[Agent, dict]:
        data = all_of(rollout)

        def one_pass(now: Agent, key: Key) -> tuple[Agent, dict]:
            after, metrics = algorithm.update(key, now, data)
            return after._replace(steps=agent.steps), metrics

        learnt, passes = jax.lax.scan(one_pass, agent, jax.random.split(key, times))
        metrics = jax.tree.map(lambda values: values[-1], passes) | {"finite": jnp.all(passes["finite"])}
        if "effective_sample_size" in passes:
            metrics["effective_sample_size"] = jnp.min(passes["effective_sample_size"])
        kept = jax.tree.map(lambda new, old: jnp.where(metrics["finite"], new, old), learnt, agent)
        return kept._replace(steps=agent.steps + jnp.sum(rollout.mask > 0, dtype=jnp.int32)), metrics

    return algorithm._replace(init=init, gradient=gradient, update=update, contributions=contributions)


def joined(rollout: Rollout, logged: Rollout) -> Rollout:
    """The columns of both: [max(T, T'), B + B'], in the types of the first; the shorter is padded with rows of mask 0.

    Raises:
        UsageError: for other extras, or a memory that nobody recorded.
    """
    if set(rollout.extras) != set(logged.extras):
        raise UsageError(
            f"logged rollout: got extras {sorted(logged.extras)} with an environment of {sorted(rollout.extras)};"
            " record it in the same environment"
        )
    if jax.tree.leaves((rollout.carry, logged.carry)):
        raise UsageError("logged rollout: got a policy with memory, whose memory of others' steps is not known; use one without")
    longest = max(rollout.mask.shape[0], logged.mask.shape[0])

    def side_by_side(ours: Array, theirs: Array) -> Array:
        return jnp.concatenate([_padded(ours, longest), _padded(jnp.asarray(theirs, ours.dtype), longest)], axis=1)

    return jax.tree.map(side_by_side, rollout, logged)


def _padded(leaf: Array, rows: int) -> Array:
    return jnp.pad(leaf, [(0, rows - leaf.shape[0])] + [(0, 0)] * (leaf.ndim - 1))


def _require_space(what: str, values: Any, space: Space) -> None:
    values = np.asarray(values)
    shape = values.shape[2:]
    if shape != space.shape:
        raise SpaceError(f"logged rollout: got {what} of shape {shape}; the environment has {space}: record it in the same environment")
    if isinstance(space, Discrete) and (not np.issubdtype(values.dtype, np.integer) or values.min() < 0 or values.max() >= space.n):
        raise SpaceError(f"logged rollout: got {what} that are no integers of {space}, counted from 0: record it in the same environment")
