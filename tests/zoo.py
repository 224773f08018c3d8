"""A zoo of MDPs: random ones of given shapes, for tests that must hold on all of them."""

from __future__ import annotations

import numpy as np

from policygrad.envs import FiniteMDP


def random_mdp(
    seed: int,
    num_states: int,
    num_actions: int,
    *,
    outcomes: int | None = None,
    terminals: int = 0,
    time_limit: int | None = None,
    discount: float = 0.9,
    aliased: bool = False,
) -> FiniteMDP:
    """A random MDP: Dirichlet rows, normal rewards, a random first state.

    Args:
        seed: the same numbers for the same arguments.
        outcomes: next states of each state and action; None for all.
        terminals: how many of the last states are terminal.
        time_limit, discount: the MDP's.
        aliased: whether the first two states look alike.
    """
    rng = np.random.default_rng(seed)
    rows = num_states * num_actions
    if outcomes is None:
        transitions = rng.dirichlet(np.ones(num_states), rows)
    else:
        transitions = np.zeros((rows, num_states))
        successors = rng.permuted(np.tile(np.arange(num_states), (rows, 1)), axis=1)[:, :outcomes]
        np.put_along_axis(transitions, successors, rng.dirichlet(np.ones(outcomes), rows), axis=1)
    alive = num_states - terminals
    return FiniteMDP(
        transitions=transitions.reshape(num_states, num_actions, num_states),
        rewards=rng.normal(size=(num_states, num_actions, num_states)),
        initial=np.append(rng.dirichlet(np.ones(alive)), np.zeros(terminals)),
        discount=discount,
        terminal=np.arange(num_states) >= alive,
        time_limit=time_limit,
        observations=np.maximum(np.arange(num_states) - 1, 0) if aliased else None,
        name=f"random-{seed}",
    )
