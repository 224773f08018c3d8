"""The glossary: the symbols of the field and the few records that pass between the parts.

    symbol      here            meaning                                                     shape
    T           rows            steps of a rollout (time is axis 0)
    B           columns         environments, or episodes, of a rollout (axis 1)
    s_t, o_t    obs             what the policy sees at step t                              [T, B, …]
    a_t         action          what the policy sampled (never the clipped one)             [T, B, …]
    r_t         reward          reward of taking a_t                                        [T, B]
    π_θ(a|o)    policy          a function from observations to a distribution
    θ           params          what climbs
    γ           discount        weight of the next step's reward, in [0, 1]
    λ           trace           weight of the longer estimate in GAE, in [0, 1]
    G_t         target          reward-to-go, Σ_{k≥t} γ^{k−t} r_k, or a bootstrapped estimate of it   [T, B]
    V(o)        values          the critic's estimate of E[G_t | o_t = o]                   [T, B]
    Ψ_t         advantages      what multiplies ∇ log π(a_t|o_t)                            [T, B]
    ρ_t         ratios          π_θ(a_t|o_t) / b(a_t|o_t), b the policy that acted          [T, B]
    w_t         weights         whose data it is: importance weight × mask / count          [T, B]
    J(θ)                        the expected discounted return

A step ends an episode in one of two ways, and the difference is never dropped: `terminated` (the task itself ended: what
follows is worth 0) and `truncated` (somebody stopped watching, usually a time limit: what follows is still worth V(o')).
There is no field called done.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from policygrad.spaces import Space, check_mask

Array = Any
"""A JAX array, or a NumPy array on the host side."""
Key = Any
"""A typed JAX PRNG key (`jax.random.key`)."""
PyTree = Any


class Step(NamedTuple):
    """What a compiled environment returns for one step."""

    obs: Array  # the true next observation, before any reset
    reward: Array  # scalar float
    terminated: Array  # scalar bool: the task ended
    truncated: Array  # scalar bool: the episode was cut; `terminated` wins where both are set
    extras: dict[str, Array] = {}  # further arrays by name: action masks, costs, success  # noqa: RUF012


class Rollout(NamedTuple):
    """Experience, environments on axis 1 of every leaf. Rows with mask 0 are no steps and hold zeros, never NaN; masks of
    actions allow everything there."""

    obs: PyTree  # [T, B, …] an element of the observation space: an array, or a dict or tuple of arrays
    action: PyTree  # [T, B, …] likewise, as sampled: an environment gets it clipped into its box
    log_prob: Array  # [T, B] log π(a_t|o_t) of the policy that acted
    reward: Array  # [T, B]
    terminated: Array  # [T, B] bool
    truncated: Array  # [T, B] bool
    next_obs: PyTree  # [T, B, …] the true next observation, before any reset
    mask: Array  # [T, B] float: 1 for a step, 0 for padding or a reset row
    time: Array  # [T, B] int32: steps since the reset; 0 at the first step of an episode
    carry: PyTree  # the policy's memory at chunk starts, [chunks, B, …]; () without memory
    extras: dict[str, Array]  # [T, B, …] each
    distribution: PyTree = ()  # π(·|o_t) of the policy that acted, leaves [T, B, …]; () where nobody wrote it down
    critic_carry: PyTree = ()  # the memory of a critic with one of its own, at chunk starts, [chunks, B, …]; () without


class Carries(NamedTuple):
    """Memories that are carried together, leaves [B, …]; of a rollout, [chunks, B, …]."""

    policy: PyTree
    critic: PyTree


def unattributed(rollout: Rollout) -> Rollout:
    """The rollout without `distribution`, for a policy that need not be the one that acted: what it says must be computed."""
    return rollout._replace(distribution=())


class Params(NamedTuple):
    """All that climbs."""

    policy: PyTree
    critic: PyTree  # () unless the critic climbs together with the policy


class Batch(NamedTuple):
    """What a loss reads."""

    rollout: Rollout
    advantages: Array  # Ψ [T, B], 0 where the mask is 0
    targets: Array  # what a critic should have said [T, B]
    weights: Array  # w [T, B]: importance weight × γ^t if asked for × mask / (number of trajectories, or T·B)
    old: Any  # π's Distribution before the update
    carry: PyTree
    control: PyTree = ()  # policy-shaped with a leading axis [B]: what each column's gradient loses, of mean 0; () for none
    values: PyTree = ()  # V(o_t) [T, B] as the advantages were made with; () without a critic


class Importance(NamedTuple):
    """What a weight makes of the log-ratios of a rollout."""

    weights: Array  # [T, B] multiplies the score of step t
    ratios: Array | None = None  # [T, B] π/b for the advantage, which multiplies with them what it takes from later steps


class Centred(NamedTuple):
    """What a baseline makes of a rollout."""

    advantages: Array  # Ψ with the baseline subtracted [T, B]
    uncentred: Array  # Ψ before it was subtracted [T, B], for the record of its variance
    targets: Array  # [T, B]
    carry: PyTree
    control: PyTree = ()  # see `Batch`
    estimate: PyTree = ()  # what the baseline's `fit` takes over from here
    values: PyTree = ()  # see `Batch`


class Agent(NamedTuple):
    """All state of an algorithm: one pytree, saved and compared whole."""

    params: Params
    ascent: PyTree  # the optimiser's state
    baseline: PyTree  # the baseline's state, a fitted critic included
    steps: Array  # int32: environment steps learnt from so far
    total: Array  # int32: environment steps planned; schedules run over steps / total
    normaliser: PyTree = ()  # running statistics, `combinators.normalise`'s; () without


@dataclass(frozen=True)
class Spec:
    """What an algorithm must know of the environment to make its parameters: hashable, no arrays.

    Raises:
        SpaceError: where observations have a mask that is not one of these actions.
    """

    observation_space: Space
    action_space: Space
    num_envs: int
    time_limit: int | None = None  # the longest episode, in steps

    def __post_init__(self) -> None:
        check_mask(self.observation_space, self.action_space)


class Baseline(NamedTuple):
    """b(o): what is subtracted from Ψ, and what may be bootstrapped from."""

    init: Callable[[Key, Spec, PyTree], tuple[PyTree, PyTree]]  # (key, spec, policy) -> (critic that climbs with the policy or (), state)
    centre: Callable[..., Centred]  # (state, params, rollout, advantage, weights) -> Centred
    fit: Callable[..., tuple[PyTree, dict]]  # (key, state, params, rollout, centred) -> (state, info)
    critic: Callable[[PyTree, Params], Any] = lambda state, params: ()  # the value function, for one with a memory of its own


class Ascent(NamedTuple):
    """How a gradient becomes new parameters."""

    init: Callable[[Params], PyTree]
    gradient: Callable[..., tuple[Params, dict]]  # (params, batch, progress) -> (gradient of J, info)
    step: Callable[..., tuple[Params, PyTree, dict]]  # (key, params, state, batch, progress, refresh) -> (params, state, info)
    # refresh(params) -> Batch: the batch anew, with advantages and weights of moved params
    check: Callable[..., None] = lambda size, what="steps": None  # a UsageError for batches of so many pieces that it cannot take


def adopt(agent: Agent, policy: Any) -> Agent:
    """The agent with another policy in the place of the one that climbs."""
    return agent._replace(params=agent.params._replace(policy=policy))


class Algorithm(NamedTuple):
    """A choice for each slot, and nothing more. Recipes in `policygrad.algorithms` make them."""

    name: str
    settings: dict[str, Any]  # the recipe's arguments, for the record
    collect: Any  # `rollout.Collect`: how much experience an update takes
    init: Callable[[Key, Spec], Agent]
    policy: Callable[[Agent], Any]  # the acting policy: takes raw observations
    gradient: Callable[[Agent, Rollout], tuple[Params, dict]]
    update: Callable[[Key, Agent, Rollout], tuple[Agent, dict]]
    contributions: Callable[[Agent, Rollout], Params]  # [n, …]: what each column of the rollout adds to `gradient`
    check: Callable[..., None] = lambda size, what="steps": None  # the ascent's
    adopt: Callable[[Agent, Any], Agent] = adopt  # (agent, acting policy) -> the agent that acts so: undoes `policy`
    actor: Callable[[Agent], Any] | None = (
        None  # what collectors call: the acting policy, beside it a critic that remembers; None: `policy`
    )

    def acting(self, agent: Agent) -> Any:
        """What collects experience: acts as `policy(agent)` does."""
        return (self.actor or self.policy)(agent)
