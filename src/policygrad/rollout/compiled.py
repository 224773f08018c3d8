"""Collectors for environments in JAX. Auto-reset happens here and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from policygrad.envs.base import Env
from policygrad.errors import UsageError
from policygrad.rollout.collect import Collect, EpisodeLog, to_environment
from policygrad.types import Array, Key, PyTree, Rollout


class Collector(NamedTuple):
    """A pair of pure functions."""

    init: Callable[[Key], PyTree]  # key -> state of the environments
    collect: Callable[[Any, Key, PyTree], tuple[PyTree, Rollout, EpisodeLog]]  # (policy, key, state) -> …


class EnvState(NamedTuple):
    """B environments between two rollouts."""

    env: PyTree  # [B, …]
    obs: Array  # [B, …]
    time: Array  # [B] int32 steps since the reset
    so_far: Array  # [B] sum of rewards since the reset


def compiled_collector(env: Env, collect: Collect, num_envs: int, *, sample: bool = True) -> Collector:
    """The collector of `collect` for a compiled environment.

    Args:
        num_envs: B.
        sample: actions are sampled; False takes the distribution's mode (evaluation).
    """
    reset, step = jax.vmap(env.reset), jax.vmap(env.step)

    def act(policy: Any, key: Key, obs: Array) -> tuple[Array, Array]:
        distribution = policy(obs)
        action = distribution.sample(key) if sample else distribution.mode()
        return action, distribution.log_prob(action)

    def advance(policy: Any, key: Key, state: EnvState) -> tuple[PyTree, dict[str, Any]]:
        """One step of every environment: (their next state, the row of the record)."""
        act_key, step_key = jax.random.split(key)
        action, log_prob = act(policy, act_key, state.obs)
        after, made = step(jax.random.split(step_key, num_envs), state.env, to_environment(env.action_space, action))
        reward = jnp.asarray(made.reward, log_prob.dtype)
        row = {
            "obs": state.obs,
            "action": action,
            "log_prob": log_prob,
            "reward": reward,
            "terminated": made.terminated,
            "truncated": made.truncated,
            "next_obs": made.obs,
            "time": state.time,
            "extras": made.extras,
        }
        return after, row

    def steps_init(key: Key) -> EnvState:
        inner, obs = reset(jax.random.split(key, num_envs))
        return EnvState(inner, obs, jnp.zeros(num_envs, jnp.int32), jnp.zeros(num_envs))

    def collect_steps(policy: Any, key: Key, state: EnvState) -> tuple[EnvState, Rollout, EpisodeLog]:
        rows = collect.count or 1

        def body(state: EnvState, key: Key) -> tuple[EnvState, tuple[dict, tuple[Array, Array, Array]]]:
            step_key, reset_key = jax.random.split(key)
            inner, row = advance(policy, step_key, state)
            ended = row["terminated"] | row["truncated"]
            so_far, time = state.so_far + row["reward"], state.time + 1

            def restart(inner: PyTree, obs: Array) -> tuple[PyTree, Array]:
                fresh = reset(jax.random.split(reset_key, num_envs))
                return jax.tree.map(lambda new, old: jnp.where(_columns(ended, old), new, old), fresh, (inner, obs))

            # Most steps end no episode: the branch saves drawing B initial states for each of them.
            inner, obs = jax.lax.cond(jnp.any(ended), restart, lambda inner, obs: (inner, obs), inner, row["next_obs"])
            after = EnvState(inner, obs, jnp.where(ended, 0, time), jnp.where(ended, 0, so_far))
            return after, (row, (ended, so_far, time))

        state, (record, (ended, returns, lengths)) = jax.lax.scan(body, state, jax.random.split(key, rows))
        rollout = Rollout(mask=jnp.ones_like(record["reward"]), carry=(), **record)
        counted = (jnp.arange(rows, dtype=jnp.int32) + 1) * num_envs
        return state, rollout, EpisodeLog(ended, returns, lengths, counted)

    def collect_episodes(policy: Any, key: Key, state: PyTree) -> tuple[PyTree, Rollout, EpisodeLog]:
        longest = env.time_limit or 0

        def one_round(key: Key) -> tuple[Rollout, EpisodeLog]:
            """One whole episode of every environment."""
            reset_key, loop_key = jax.random.split(key)
            inner, obs = reset(jax.random.split(reset_key, num_envs))
            start = EnvState(inner, obs, jnp.zeros(num_envs, jnp.int32), jnp.zeros(num_envs))
            shapes = jax.eval_shape(lambda: advance(policy, loop_key, start)[1])
            shapes["mask"] = shapes["reward"]
            shapes["ended"] = shapes["terminated"]
            empty = jax.tree.map(lambda leaf: jnp.zeros((longest, *leaf.shape), leaf.dtype), shapes)

            def unfinished(loop: Any) -> Array:
                row, active, _, _ = loop
                return (row < longest) & jnp.any(active)

            def body(loop: Any) -> Any:
                index, active, state, record = loop
                inner, row = advance(policy, jax.random.fold_in(loop_key, index), state)
                ended = (row["terminated"] | row["truncated"]) & active
                row["mask"], row["ended"] = active.astype(row["reward"].dtype), ended
                record = jax.tree.map(
                    lambda buffer, now: buffer.at[index].set(jnp.where(_columns(active, now), now, jnp.zeros_like(now))), record, row
                )
                after = EnvState(inner, row["next_obs"], state.time + 1, state.so_far)
                return index + 1, active & ~ended, after, record

            loop = (jnp.zeros((), jnp.int32), jnp.ones(num_envs, bool), start, empty)
            _, _, _, record = jax.lax.while_loop(unfinished, body, loop)
            ended, mask = record.pop("ended"), record["mask"]
            log = EpisodeLog(
                ended,
                jnp.broadcast_to(jnp.sum(record["reward"], axis=0), ended.shape),
                jnp.broadcast_to(jnp.sum(mask, axis=0).astype(jnp.int32), ended.shape),
                jnp.cumsum(jnp.sum(mask, axis=1).astype(jnp.int32)),
            )
            return Rollout(carry=(), **record), log

        rounds = collect.episodes_per_update(num_envs) // num_envs
        if rounds == 1:
            rollout, log = one_round(key)
            return state, rollout, log
        rollouts, logs = jax.lax.map(one_round, jax.random.split(key, rounds))
        # Columns are episodes; the log stays in the order of time.
        rollout = jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(x.shape[1], rounds * num_envs, *x.shape[3:]), rollouts)
        before = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(logs.steps[:-1, -1])])
        logs = logs._replace(steps=logs.steps + before[:, None])
        return state, rollout, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), logs)

    if collect.kind == "steps":
        return Collector(steps_init, collect_steps)
    if env.time_limit is None:
        raise UsageError(
            f"{env.name}: whole episodes need a time limit, and this compiled environment has none;"
            " wrap it in envs.time_limit(env, limit) or use an algorithm that collects steps"
        )
    collect.episodes_per_update(num_envs)
    return Collector(lambda key: (), collect_episodes)


def _columns(flags: Array, like: Array) -> Array:
    """flags [B], with trailing axes of length 1 so that they select rows of `like` [B, …]."""
    return flags.reshape(flags.shape + (1,) * (like.ndim - flags.ndim))
