"""Rollouts on their own, outside of training: data to judge or to teach another policy with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np

from policygrad import policies
from policygrad.envs import Env, make
from policygrad.errors import UsageError
from policygrad.rollout.collect import Collect
from policygrad.rollout.compiled import compiled_collector, require_actions
from policygrad.rollout.host import HostCollector
from policygrad.types import Rollout


def record(policy: Any, env: Any, collect: Collect, *, seed: int = 0, num_envs: int | None = None) -> Rollout:
    """One rollout of a policy, its actions sampled, in the record that algorithms learn from.

    Each step carries log π(a_t|o_t) of this policy, so the record can be judged and learnt from by any other:
    `gradients.off_policy_value`, `combinators.reuse`.

    Args:
        policy: a policy, or a file of one.
        env: as in `train`.
        collect: `episodes(N)`, one whole episode a column, or `steps(T)` from a reset.
        seed: of environments and actions, in [0, 2^31); disjoint from those of training and evaluation with the same number.
        num_envs: environments side by side; None leaves it to `collect`, but runs at most 8 of Gymnasium's for `episodes(N)`.

    Returns:
        A `Rollout` of NumPy arrays.

    Raises:
        UsageError, SpaceError, PolicyFileError: before the first step. EnvError: from the environment.

    >>> import numpy as np
    >>> from policygrad.rollout import episodes
    >>> rollout = record(policies.tabular_softmax(np.zeros((1, 2))), "Corridor-v0", episodes(4))
    >>> rollout.mask.shape[1]
    4
    """
    for name, value, least in (("seed", seed, 0), ("num_envs", 1 if num_envs is None else num_envs, 1)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or not least <= value < 2**31:
            raise UsageError(f"{name}: got {value!r}; it must be a whole number from {least} to 2^31 − 1")
    if isinstance(policy, str | Path):
        policy = policies.load(policy)
    if not callable(policy):
        raise UsageError(f"policy: got {type(policy).__name__}; pass a policy, such as run.policy, or a file of one")
    made = make(env)
    policies.require_spaces(policy, made.observation_space, made.action_space, made.name)
    stream = 2**32 - 1 - int(seed)  # training counts up from 0 and evaluation from 2^31: with the seeds that people use they never meet
    key = jax.random.key(stream)
    if isinstance(made, Env):
        collector = compiled_collector(made, collect, int(num_envs or collect.num_envs))
        init_key, key = jax.random.split(key)
        _, rollout, _ = jax.jit(lambda policy, key, init_key: collector.collect(policy, key, collector.init(init_key, policy)))(
            policy, key, init_key
        )
        require_actions(made, obs=rollout.obs, mask=rollout.mask, time=rollout.time)
    else:
        host = HostCollector(made, collect, int(num_envs or made.fixed_num_envs or _side_by_side(collect)), seed=stream, key=key)
        try:
            rollout, _ = host.collect(policy)
        finally:
            host.close()
    return jax.tree.map(np.asarray, rollout)


def _side_by_side(collect: Collect) -> int:
    """Environments of Gymnasium's for `collect`: not one for each of many episodes."""
    if collect.kind == "steps" or collect.num_envs != collect.count:
        return collect.num_envs
    return max(number for number in range(1, 9) if collect.num_envs % number == 0)
