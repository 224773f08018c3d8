"""What else must hold: combinators return what they take.

    normalise   observations and rewards of about unit size, whatever the environment's units
    reuse       learns more from the data that there is

They combine in any order.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from policygrad.errors import SpaceError, UsageError
from policygrad.gradients.off_policy import require_behaviour, require_space, require_whole_episodes
from policygrad.policies import Normalised
from policygrad.policies.normaliser import Running, Statistics, merged, no_statistics, running, standardised
from policygrad.rollout.collect import all_allowed
from policygrad.spaces import MASK, Box, Leaf, has_mask, mapped
from policygrad.types import Agent, Algorithm, Array, Key, Params, PyTree, Rollout, Spec, unattributed


class Normaliser(eqx.Module):
    """The state of `normalise`: a function from raw rollouts to normalised ones.

    Args:
        observations: running statistics of o_t, [*shape] of one, or in the structure of its parts; () where they are left as they are.
        returns: running statistics of R_t, scalars; () if rewards are.
        so_far: R_t after the last step of every fresh column, [B]; [B, 0] if rewards are left as they are.
        clip, epsilon: as of `normalise`.
        applied: whether the rollout that travels with this has been normalised already.
    """

    observations: PyTree
    returns: PyTree
    so_far: Array
    clip: float = eqx.field(static=True)
    epsilon: float = eqx.field(static=True)
    applied: bool = eqx.field(static=True, default=False)

    @property
    def reward_scale(self) -> Array:
        """What rewards are divided by."""
        return jnp.sqrt(self.returns.statistics.variance + self.epsilon)

    def __call__(self, rollout: Rollout) -> Rollout:
        """The rollout in normalised units; rows that are no steps stay zeros."""
        valid = rollout.mask > 0

        def units(kept: Any, obs: Any) -> Any:
            if not isinstance(kept, Running):
                return obs
            _, mean, variance = kept.statistics
            rows = valid.reshape(valid.shape + (1,) * mean.ndim)
            return jnp.where(rows, standardised(obs, mean, variance, self.clip, self.epsilon), 0)

        obs, next_obs = (jax.tree.map(units, self.observations, o, is_leaf=_statistics) for o in (rollout.obs, rollout.next_obs))
        rollout = rollout._replace(obs=obs, next_obs=next_obs)
        if isinstance(self.returns, Running):
            reward = jnp.clip(rollout.reward / self.reward_scale, -self.clip, self.clip)
            rollout = rollout._replace(reward=jnp.where(valid, reward, 0))
        return rollout

    def moved(self, rollout: Rollout, discount: float | Array) -> Normaliser:
        """The statistics with the steps of a raw rollout in them; columns beyond the fresh ones are not looked at."""
        columns = min(self.so_far.shape[0], rollout.mask.shape[1])
        fresh = rollout.obs, rollout.reward, rollout.time, rollout.mask
        obs, reward, time, mask = jax.tree.map(lambda leaf: leaf[:, :columns], fresh)
        returns, so_far = self.returns, self.so_far

        def moved(kept: Any, obs: Any) -> Any:
            return merged(kept, obs, mask) if isinstance(kept, Running) else kept

        observations = jax.tree.map(moved, self.observations, obs, is_leaf=_statistics)
        if isinstance(returns, Running):
            last, discounted = discounted_returns(so_far[:columns], reward, time, mask, discount)
            returns, so_far = merged(returns, discounted, mask), so_far.at[:columns].set(last)
        return dataclasses.replace(self, observations=observations, returns=returns, so_far=so_far)


def _statistics(node: Any) -> bool:
    """Whether a node is running statistics, or () in their place."""
    return isinstance(node, Running) or (type(node) is tuple and not node)


def _of_running(observations: PyTree, what: str) -> PyTree:
    """One field of all statistics, in their structure."""
    return jax.tree.map(lambda kept: getattr(kept.statistics, what) if kept else (), observations, is_leaf=_statistics)


def discounted_returns(so_far: Array, reward: Array, time: Array, mask: Array, discount: float | Array) -> tuple[Array, Array]:
    """The discounted sum of the rewards up to each step, which looks back where the reward-to-go looks ahead.

        R_t = r_t + γ R_{t−1}        R_t = r_t at the first step of an episode

    Args:
        so_far: R of the step before the first row, [B].
        reward, time, mask: [T, B] of a rollout; a row with mask 0 changes nothing.

    Returns:
        (R after the last row [B], R_t [T, B]).
    """

    def step(before: Array, row: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        reward, time, mask = row
        after = jnp.where(mask > 0, reward + jnp.where(time > 0, discount * before, 0), before)
        return after, after

    return jax.lax.scan(step, so_far, (jnp.asarray(reward, so_far.dtype), time, mask))


def normalise(
    algorithm: Algorithm,
    *,
    observations: bool = True,
    rewards: bool = True,
    clip: float = 10.0,
    discount: float | None = None,
    epsilon: float = 1e-8,
) -> Algorithm:
    """Combinator: observations with mean 0 and variance 1, and rewards for returns of variance 1.

        o ← clip((o − μ) / √(σ² + ε), ±clip)        r ← clip(r / √(Var R + ε), ±clip)        R_t = r_t + γ R_{t−1}

    μ, σ² and Var R are running statistics of all fresh steps before this iteration, since the start of the run; rewards are not
    shifted, which would change what an episode's length is worth. Statistics move after the update, with the steps that it
    learnt from: the rollout, its update and the acting policy all see the same ones, so the ratio π/b is 1 before the first
    step of an optimiser. In the first iteration, before any data, they are mean 0 and variance 1: nothing is shifted or
    scaled, only clipped. Evaluation never moves them.

    Args:
        algorithm: any that does not normalise yet; in any order with `reuse`, whose logged rollouts are normalised too but do
            not move the statistics.
        observations: whether to normalise them, o_t and the true next observation alike: a Box of floats, or of observations with
            parts each that is one; bytes (images), integers and masks of actions stay as they are.
        rewards: whether to scale them.
        clip: the largest normalised observation and reward, > 0; infinity does not clip.
        discount: γ of R, in [0, 1]; None takes the `discount` of the algorithm's settings.
        epsilon: ε > 0: an element that never changes becomes 0, not NaN.

    Returns:
        An algorithm of the same name and settings; the same object where there is nothing to do. Its acting policy takes raw
        observations: a `policies.Normalised` with the statistics inside, saved and loaded with them; an agent that starts from one
        goes on from its statistics of observations, and with those of rewards anew. Metrics have `reward_scale`, what this update
        divided rewards by. `start_value`, the variances and everything else that the update computes from rewards are in scaled
        units; episode returns in the record are the environment's own.

    Raises:
        UsageError: for arguments out of range, no γ, or an algorithm that normalises already (when the agent is made).
            SpaceError: for observations without a Box of floats (when the agent is made).

    Reference:
        Engstrom et al. 2020, "Implementation matters in deep policy gradients", section 3. There, and in wrappers of
        environments, the statistics move with every step, also during a rollout; here only between iterations.
    """
    for name, switch in (("observations", observations), ("rewards", rewards)):
        if not isinstance(switch, bool):
            raise UsageError(f"normalise: got {switch!r} for {name}; it must be True or False")
    for name, value in (("clip", clip), ("epsilon", epsilon)):
        if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not value > 0:
            raise UsageError(f"normalise: got {value!r} for {name}; it must be a number above 0")
    if not math.isfinite(epsilon):
        raise UsageError(f"normalise: got {epsilon!r} for epsilon; it must be finite")
    gamma = _discount(algorithm, discount) if rewards else 0.0
    clip, epsilon = float(clip), float(epsilon)
    if not observations and not rewards:
        return algorithm

    def init(key: Key, spec: Spec) -> Agent:
        space = spec.observation_space
        moving = mapped(lambda leaf: no_statistics(leaf.shape) if _normalisable(leaf) else (), space)
        if has_mask(space):  # whatever its space says, it is no number
            moving[MASK] = ()
        if observations and not jax.tree.leaves(moving):
            raise SpaceError(
                f"normalise: got observations {space}; they must be a Box of floats, or have one among their parts; or pass"
                " observations=False to scale rewards only"
            )
        agent = algorithm.init(key, spec)
        if isinstance(agent.normaliser, Normaliser):
            raise UsageError("normalise: got an algorithm that normalises already; it must be applied once")
        # Rollouts may have further columns, of logged data: how many are fresh is known here alone.
        fresh = spec.num_envs if algorithm.collect.kind == "steps" else algorithm.collect.count or spec.num_envs
        return agent._replace(
            normaliser=Normaliser(
                moving if observations else (),
                no_statistics() if rewards else (),
                jnp.zeros(fresh) if rewards else jnp.zeros((fresh, 0)),
                clip,
                epsilon,
            )
        )

    def inner(agent: Agent) -> Agent:
        return agent._replace(normaliser=dataclasses.replace(agent.normaliser, applied=True))

    def policy(agent: Agent) -> Any:
        acting = algorithm.policy(agent)
        if not observations:
            return acting
        return normalised(acting, agent)

    def normalised(acting: Any, agent: Agent) -> Normalised:
        kept = agent.normaliser.observations
        counts = jax.tree.leaves(_of_running(kept, "count"))
        return Normalised(acting, _of_running(kept, "mean"), _of_running(kept, "variance"), counts[0], clip, epsilon)

    def actor(agent: Agent) -> Any:
        return normalised(algorithm.acting(agent), agent) if observations else algorithm.acting(agent)

    def adopt(agent: Agent, acting: Any) -> Agent:
        if not observations:
            return algorithm.adopt(agent, acting)
        given = jax.tree.map(
            lambda mean, variance: () if type(mean) is tuple else running(Statistics(acting.count, mean, variance)),
            acting.mean,
            acting.variance,
            is_leaf=_statistics,
        )
        return algorithm.adopt(agent, acting.policy)._replace(normaliser=dataclasses.replace(agent.normaliser, observations=given))

    def gradient(agent: Agent, rollout: Rollout) -> tuple[Params, dict]:
        return algorithm.gradient(inner(agent), agent.normaliser(rollout))

    def contributions(agent: Agent, rollout: Rollout) -> Params:
        return algorithm.contributions(inner(agent), agent.normaliser(rollout))

    def update(key: Key, agent: Agent, rollout: Rollout) -> tuple[Agent, dict]:
        before = agent.normaliser
        learnt, metrics = algorithm.update(key, inner(agent), before(rollout))
        after = before.moved(rollout, gamma)
        sound = jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(after)]))
        finite = metrics["finite"] & sound
        learnt = learnt._replace(normaliser=after)
        kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), learnt, agent)._replace(steps=learnt.steps)
        scale = {"reward_scale": before.reward_scale} if rewards else {}
        return kept, {**metrics, **scale, "finite": finite}

    return algorithm._replace(
        init=init, policy=policy, gradient=gradient, update=update, contributions=contributions, adopt=adopt, actor=actor
    )


def _normalisable(space: Leaf) -> bool:
    """Numbers, not bytes: images are scaled by the networks that read them."""
    return isinstance(space, Box) and space.dtype != "uint8"


def _discount(algorithm: Algorithm, discount: Any) -> Any:
    """γ, checked: given, or of the algorithm's settings."""
    gamma = algorithm.settings.get("discount") if discount is None else discount
    if gamma is None:
        raise UsageError(f"normalise: got no discount, and the settings of {algorithm.name} have none; pass discount=, in [0, 1]")
    if isinstance(gamma, Tracer):
        return gamma
    scalar = isinstance(gamma, int | float | np.number) or (isinstance(gamma, jax.Array) and gamma.ndim == 0)
    if isinstance(gamma, bool) or not scalar or not 0 <= gamma <= 1:
        raise UsageError(f"normalise: got {gamma!r} for discount; it must be a number in [0, 1]")
    return gamma


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
        if not isinstance(logged, Rollout):
            raise UsageError(f"logged: got {type(logged).__name__}; it must be a Rollout, as rollout.record makes it")
        require_behaviour(logged, "logged rollout")
        logged = unattributed(logged)
        rows, wanted = logged.mask.shape[0], algorithm.collect.count
        if algorithm.collect.kind == "episodes":
            require_whole_episodes(logged, "logged rollout")
        elif rows != wanted:
            raise UsageError(
                f"logged rollout: got {rows} steps with an algorithm that collects {wanted}; it must have as many:"
                f" record it with steps({wanted})"
            )

    def all_of(agent: Agent, rollout: Rollout) -> Rollout:
        rollout = unattributed(rollout)  # from the second pass on it is another policy's
        if logged is None:
            return rollout
        state = agent.normaliser
        units_differ = isinstance(state, Normaliser) and state.applied  # fresh data comes normalised, the log is raw
        return joined(rollout, state(logged) if units_differ else logged)

    def init(key: Key, spec: Spec) -> Agent:
        if logged is not None:
            require_space("logged rollout: its observations", logged.obs, logged.mask, spec.observation_space)
            require_space("logged rollout: its actions", logged.action, logged.mask, spec.action_space)
        return algorithm.init(key, spec)

    def gradient(agent: Agent, rollout: Rollout) -> tuple[Params, dict]:
        return algorithm.gradient(agent, all_of(agent, rollout))

    def contributions(agent: Agent, rollout: Rollout) -> Params:
        return algorithm.contributions(agent, all_of(agent, rollout))

    def update(key: Key, agent: Agent, rollout: Rollout) -> tuple[Agent, dict]:
        data = all_of(agent, rollout)

        def one_pass(now: Agent, key: Key) -> tuple[Agent, tuple[dict, PyTree]]:
            after, metrics = algorithm.update(key, now, data)
            # Statistics of the data move once, and not between passes: each would move them to the same place.
            return after._replace(steps=agent.steps, normaliser=agent.normaliser), (metrics, after.normaliser)

        learnt, (passes, normalisers) = jax.lax.scan(one_pass, agent, jax.random.split(key, times))
        learnt = learnt._replace(normaliser=jax.tree.map(lambda values: values[-1], normalisers))
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
    if jax.tree.leaves((rollout.carry, rollout.critic_carry, logged.carry)):
        raise UsageError("logged rollout: got a policy with memory, whose memory of others' steps is not known; use one without")
    longest = max(rollout.mask.shape[0], logged.mask.shape[0])

    def side_by_side(ours: Array, theirs: Array) -> Array:
        return jnp.concatenate([_padded(ours, longest), _padded(jnp.asarray(theirs, ours.dtype), longest)], axis=1)

    return all_allowed(jax.tree.map(side_by_side, rollout, logged))


def _padded(leaf: Array, rows: int) -> Array:
    return jnp.pad(leaf, [(0, rows - leaf.shape[0])] + [(0, 0)] * (leaf.ndim - 1))
