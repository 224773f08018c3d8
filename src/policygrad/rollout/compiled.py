"""Collectors for environments in JAX. Auto-reset happens here and nowhere else."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from policygrad.envs.base import Env
from policygrad.envs.vector_adapter import check_masks
from policygrad.errors import EnvError, UsageError
from policygrad.policies import initial_carry, num_chunks, policy_step
from policygrad.policies.distributions import drawn_noise, sampled
from policygrad.policies.memory import chunk_length
from policygrad.rollout.collect import Collect, EpisodeLog, all_allowed, to_environment
from policygrad.rollout.packing import SMALL, Packing
from policygrad.types import Array, Key, PyTree, Rollout

BLOCK = 32
"""Steps of whole episodes whose chance is drawn at once: nobody knows how many there will be."""


class Collector(NamedTuple):
    """A pair of pure functions."""

    init: Callable[..., PyTree]  # (key, policy) -> state of the environments; without a policy it has no memory yet
    collect: Callable[[Any, Key, PyTree], tuple[PyTree, Rollout, EpisodeLog]]  # (policy, key, state) -> …


class EnvState(NamedTuple):
    """B environments between two rollouts."""

    env: PyTree  # [B, …]
    obs: PyTree  # [B, …]
    time: Array  # [B] int32 steps since the reset
    so_far: Array  # [B] sum of rewards since the reset
    carry: PyTree = ()  # [B, …] the policy's memory; () without


def compiled_collector(env: Env, collect: Collect, num_envs: int, *, sample: bool = True) -> Collector:
    """The collector of `collect` for a compiled environment.

    Args:
        num_envs: B.
        sample: actions are sampled; False takes the distribution's mode (evaluation).
    """
    reset, step = jax.vmap(env.reset), jax.vmap(env.step)

    nobody = jnp.zeros(num_envs, bool)

    def noise_of(policy: Any, key: Key, obs: PyTree) -> PyTree:
        """What chance adds to one step's actions. `obs` counts by its shape."""
        if not sample:
            return jnp.zeros(())
        distribution, _ = jax.eval_shape(lambda obs: policy_step(policy, initial_carry(policy, num_envs), obs, nobody), obs)
        return drawn_noise(distribution, key)

    def advance(policy: Any, noise: PyTree, key: Key, state: EnvState) -> tuple[PyTree, PyTree, dict[str, Any]]:
        """One step of every environment: (their next state, the policy's memory, the row of the record)."""
        distribution, carry = policy_step(policy, state.carry, state.obs, state.time == 0)
        action = sampled(distribution, noise) if sample else distribution.mode()
        log_prob = distribution.log_prob(action)
        after, made = step(jax.random.split(key, num_envs), state.env, to_environment(env.action_space, action))
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
            "distribution": distribution if collect.distributions else (),
        }
        return after, carry, row

    def steps_init(key: Key, policy: Any = None) -> EnvState:
        inner, obs = reset(jax.random.split(key, num_envs))
        return EnvState(inner, obs, jnp.zeros(num_envs, jnp.int32), jnp.zeros(num_envs), initial_carry(policy, num_envs))

    def collect_steps(policy: Any, key: Key, state: EnvState) -> tuple[EnvState, Rollout, EpisodeLog]:
        rows = collect.count or 1
        if not jax.tree.leaves(state.carry):  # made without a policy
            state = state._replace(carry=initial_carry(policy, num_envs))
        length = chunk_length(rows, num_chunks(policy, rows))

        # All of chance at once, before the loop: a few large operations instead of many small ones in every step of it. So with
        # initial states, where they are small; else most steps end no episode, and a branch saves drawing them.
        ahead = _size(jax.eval_shape(env.reset, key)) <= SMALL
        keys = jax.random.split(key, (rows, 2 + num_envs))
        noise = jax.vmap(lambda key: noise_of(policy, key, state.obs))(keys[:, 0])
        step_keys, reset_keys = keys[:, 1], keys[:, 2:]

        def fresh(keys: Key) -> list[Array]:
            return carried.pack(EnvState(*reset(keys), jnp.zeros_like(state.time), jnp.zeros_like(state.so_far)))

        def body(loop: Any, now: Any) -> tuple[Any, list[Array]]:
            packed, carry = loop
            noise, step_key, start = now
            state = carried.unpack(packed)._replace(carry=carry)
            inner, carry, row = advance(policy, noise, step_key, state)
            ended, so_far = row["terminated"] | row["truncated"], state.so_far + row["reward"]
            after = carried.pack(EnvState(inner, row["next_obs"], state.time + 1, so_far))

            def restarted(after: list[Array]) -> list[Array]:
                new = start if ahead else fresh(start)
                return jax.tree.map(lambda new, old: jnp.where(_columns(ended, old), new, old), new, after)

            after = restarted(after) if ahead else jax.lax.cond(jnp.any(ended), restarted, lambda after: after, after)
            return (after, carry), recorded.pack((row, so_far))

        def chunk(loop: Any, now: Any) -> tuple[Any, tuple[PyTree, list[Array]]]:
            after, made = jax.lax.scan(body, loop, now)
            return after, (loop[1], made)

        outer, carry = state._replace(carry=()), state.carry  # memories are large: they are carried as they are
        carried = Packing(jax.eval_shape(lambda: outer))
        first = jax.tree.map(lambda leaf: leaf[0], noise)
        recorded = Packing(jax.eval_shape(lambda: (advance(policy, first, key, state)[2], state.so_far)))
        starts = jax.vmap(fresh)(reset_keys) if ahead else reset_keys
        loop, now = (carried.pack(outer), carry), (noise, step_keys, starts)
        if length == rows:
            (packed, carry), (kept, rows_packed) = chunk(loop, now)
            kept = jax.tree.map(lambda leaf: leaf[None], kept)
        else:
            (packed, carry), (kept, rows_packed) = _in_chunks(chunk, loop, now, rows, length)
        record, so_far = recorded.unpack(rows_packed)
        rollout = Rollout(mask=jnp.ones_like(record["reward"]), carry=kept, **record)
        counted = (jnp.arange(rows, dtype=jnp.int32) + 1) * num_envs
        log = EpisodeLog(record["terminated"] | record["truncated"], so_far, record["time"] + 1, counted)
        return carried.unpack(packed)._replace(carry=carry), rollout, log

    def collect_episodes(policy: Any, key: Key, state: PyTree) -> tuple[PyTree, Rollout, EpisodeLog]:
        longest = env.time_limit or 0

        def one_round(key: Key) -> tuple[Rollout, EpisodeLog]:
            """One whole episode of every environment."""
            reset_key, loop_key = jax.random.split(key)
            inner, obs = reset(jax.random.split(reset_key, num_envs))
            start = EnvState(inner, obs, jnp.zeros(num_envs, jnp.int32), jnp.zeros(num_envs))
            empty_carry = initial_carry(policy, num_envs)
            count = num_chunks(policy, longest)
            length = chunk_length(longest, count)

            def chance(block: Array) -> tuple[Array, Key]:
                """Of the next `BLOCK` steps: noise of the actions, keys of the environments."""
                keys = jax.random.split(jax.random.fold_in(loop_key, block), (BLOCK, 2))
                return jax.vmap(lambda key: noise_of(policy, key, obs))(keys[:, 0]), keys[:, 1]

            def now(drawn: tuple[PyTree, Key], index: Array, active: Array, state: EnvState) -> tuple[PyTree, PyTree, dict[str, Any]]:
                inner, carry, row = advance(policy, jax.tree.map(lambda leaf: leaf[index], drawn[0]), drawn[1][index], state)
                row["mask"], row["ended"] = active.astype(row["reward"].dtype), (row["terminated"] | row["truncated"]) & active
                return inner, carry, row

            everywhere, first = jnp.ones(num_envs, bool), jnp.zeros((), jnp.int32)
            recorded = Packing(jax.eval_shape(lambda: now(chance(first), first, everywhere, start._replace(carry=empty_carry))[2]))
            carried = Packing(jax.eval_shape(lambda: (everywhere, start)))

            def unfinished(loop: Any) -> Array:
                row, some, *_ = loop
                return (row < longest) & some

            def block(loop: Any) -> Any:
                drawn, begin = chance(loop[0] // BLOCK), loop[0]

                def body(loop: Any) -> Any:
                    row, _, packed, record, carry, kept = loop
                    active, state = carried.unpack(packed)
                    # A chunk's first carry stays; those of rows within it have no place.
                    at = jnp.where(row % length == 0, row // length, count)
                    kept = jax.tree.map(lambda buffer, leaf: buffer.at[at].set(leaf, mode="drop"), kept, carry)
                    inner, carry, made = now(drawn, row - begin, active, state._replace(carry=carry))
                    record = [
                        buffer.at[row].set(jnp.where(_columns(active, new), new, jnp.zeros_like(new)))
                        for buffer, new in zip(record, recorded.pack(made), strict=True)
                    ]
                    active = active & ~made["ended"]
                    state = EnvState(inner, made["next_obs"], state.time + 1, state.so_far)
                    return row + 1, jnp.any(active), carried.pack((active, state)), record, carry, kept

                return jax.lax.while_loop(lambda loop: unfinished(loop) & (loop[0] < begin + BLOCK), body, loop)

            empty = [jnp.zeros((longest, *leaf.shape), leaf.dtype) for leaf in recorded.shapes]
            kept = jax.tree.map(lambda leaf: jnp.zeros((count, *leaf.shape), leaf.dtype), empty_carry)
            loop = (first, jnp.ones((), bool), carried.pack((everywhere, start)), empty, empty_carry, kept)
            _, _, _, record, _, kept = jax.lax.while_loop(unfinished, block, loop)
            record = recorded.unpack(record)
            ended, mask = record.pop("ended"), record["mask"]
            log = EpisodeLog(
                ended,
                jnp.broadcast_to(jnp.sum(record["reward"], axis=0), ended.shape),
                jnp.broadcast_to(jnp.sum(mask, axis=0).astype(jnp.int32), ended.shape),
                jnp.cumsum(jnp.sum(mask, axis=1).astype(jnp.int32)),
            )
            return all_allowed(Rollout(carry=kept, **record)), log

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
    return Collector(lambda key, policy=None: (), collect_episodes)


def require_actions(env: Env, *, obs: PyTree, mask: Array, time: Array) -> None:
    """Checks that the masks of actions of a compiled rollout left every step one, which inside the program nobody can tell.

    Args:
        obs, mask, time: fields of the rollout.

    Raises:
        EnvError: naming the copy and the step.
    """
    wrong = check_masks(env.observation_space, env.action_space, jax.tree.map(np.asarray, obs), np.asarray(mask) > 0)
    if wrong:
        step = int(np.asarray(time)[wrong.row, wrong.copy])
        raise EnvError(f"environment {env.name}, copy {wrong.copy}, step {step} of its episode: {wrong.what}; correct the environment")


def _in_chunks(chunk: Any, loop: Any, now: Any, rows: int, length: int) -> tuple[Any, tuple[PyTree, list[Array]]]:
    """A loop over `rows` in chunks of `length`, the last perhaps shorter: (what is carried, (carries before the chunks, all rows))."""
    whole = rows // length

    def part(leaf: Array) -> Array:
        return leaf[: whole * length].reshape(whole, length, *leaf.shape[1:])

    loop, (kept, made) = jax.lax.scan(chunk, loop, jax.tree.map(part, now))
    made = jax.tree.map(lambda leaf: leaf.reshape(whole * length, *leaf.shape[2:]), made)
    if whole * length < rows:
        loop, (last, rest) = chunk(loop, jax.tree.map(lambda leaf: leaf[whole * length :], now))
        kept = jax.tree.map(lambda leaf, one: jnp.concatenate([leaf, one[None]]), kept, last)
        made = jax.tree.map(lambda leaf, more: jnp.concatenate([leaf, more]), made, rest)
    return loop, (kept, made)


def _size(tree: PyTree) -> int:
    """Elements of all leaves."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _columns(flags: Array, like: Array) -> Array:
    """flags [B], with trailing axes of length 1 so that they select rows of `like` [B, …]."""
    return flags.reshape(flags.shape + (1,) * (like.ndim - flags.ndim))
