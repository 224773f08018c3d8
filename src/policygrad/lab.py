"""The laboratory: every estimator of ∇J side by side on one finite MDP, with exact numbers.

    estimators   what is compared: each credit, baseline, critic and importance weight, composed as in training
    compare      their exact bias, variance, signal-to-noise, cosine, and what they need for a cosine of 0.9
    world        finite MDPs by name: those of `policygrad.envs`, and Gymnasium's with tables
    report       the comparison as plain data

Nothing is sampled: every batch that an estimator could see is visited, with its probability (`policygrad.oracle.moments`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from policygrad import advantages, baselines, policies
from policygrad.algorithms import compose
from policygrad.ascent import gradient_ascent
from policygrad.compilation import ready
from policygrad.envs.finite import FiniteMDP
from policygrad.envs.finite_worlds import WORLDS, finite_world
from policygrad.errors import UnknownNameError, UsageError
from policygrad.gradients import score_function, weights
from policygrad.oracle import Moments, enumerate_trajectories, moments, objective, policy_gradient, values, visits
from policygrad.rollout import episodes
from policygrad.types import Agent, Algorithm, Array, Baseline, Params, PyTree, Rollout, Spec

GROUPS = {
    "credit": "what an action is credited with",
    "baselines": "what is subtracted: reward-to-go × γ^t, minus b",
    "value functions": "V subtracted from the reward-to-go × γ^t, and bootstrapped from where an episode is truncated",
    "bootstrapping": "V in place of later rewards, × γ^t",
    "normalised": "Ψ shifted and scaled over the batch, × γ^t",
    "importance weights": "reward-to-go × γ^t, on the data of another policy, the uniform one",
}
"""The groups of estimators, in their order."""

COSINE = 0.9
TOY_TEXT = ("FrozenLake-v1", "CliffWalking-v1", "Taxi-v3")
LARGEST = 2**15
"""Batches: seconds for all estimators together."""
PARAMETERS = 288
"""Of all copies of the policy that are measured together."""
EXACT = 1e-10
"""An estimator is called unbiased where its bias is below this share of its own scale."""


@dataclass(frozen=True)
class Estimator:
    """One estimator of ∇J.

    Attributes:
        group: one of `GROUPS`. name: what tells it apart there.
        algorithm: what is measured, collecting whole episodes.
        state: (agent, mdp, policy) -> agent, what it has learnt before (a critic, say); a fresh agent by default.
        previous: whether its baseline stems from a previous batch of as many trajectories, every one of which is visited too.
        off_policy: whether the data is the behaviour policy's.
    """

    group: str
    name: str
    algorithm: Algorithm
    state: Callable[[Agent, FiniteMDP, Any], Agent] | None = None
    previous: bool = False
    off_policy: bool = False


@dataclass(frozen=True)
class Row:
    """What is known about one estimator; NaN throughout, and a note that says why, where it does not apply to the MDP.

    Attributes:
        bias: |E[ĝ] − ∇J|. relative_bias: the same over |∇J|. unbiased: whether that is 0 up to rounding.
        variance: tr Cov[ĝ] of an update. relative_variance: the same over that of plain REINFORCE (total return, no baseline).
        signal_to_noise: |E[ĝ]|² / variance. cosine: between E[ĝ] and ∇J.
        trajectories: how many bring the expected cosine to 0.9 (`Moments.trajectories_for_cosine`); infinity for never.
        moments: the numbers behind these; None where the estimator does not apply.
    """

    group: str
    name: str
    unbiased: bool
    bias: float
    relative_bias: float
    variance: float
    relative_variance: float
    signal_to_noise: float
    cosine: float
    trajectories: float
    moments: Moments | None
    note: str = ""


# ---------------------------------------------------------------- what is compared


def estimators(discount: float) -> list[Estimator]:
    """Every estimator that the laboratory compares, composed of the slots that recipes fill.

        ĝ = (1/N) Σ_i Σ_t w_t γ^t (Ψ_t − b) ∇ log π(a_t|o_t)

    All but the first and third weigh step t by γ^t, which ∇J of the discounted objective asks for (recipes: `discount_gradient`), so
    that what bias is left is their own.

    Args:
        discount: γ of the estimators in [0, 1]: that of the objective, so that the comparison is fair.
    """
    make = partial(_algorithm, discount)
    to_go = partial(advantages.reward_to_go, discount=discount)
    total = partial(advantages.total_return, discount=discount)
    plain = baselines.none()
    found = [
        Estimator("credit", "total return", make(total, plain, visits=False)),
        Estimator("credit", "total return × γ^t", make(total, plain)),
        Estimator("credit", "reward-to-go", make(to_go, plain, visits=False)),
        Estimator("credit", "reward-to-go × γ^t", make(to_go, plain)),
    ]

    for kind in ("mean", "episode-mean", "time-mean", "state-mean", "least-squares", "optimal"):
        for form in baselines.FORMS:
            algorithm = make(to_go, baselines.KINDS[kind](form=form))
            found.append(Estimator("baselines", f"{_spoken(kind)}, {form}", algorithm, previous=form == "previous-batch"))
    found.append(Estimator("baselines", "running mean, settled", make(to_go, baselines.running_mean()), _settled))

    def by_critic(group: str, name: str, algorithm: Algorithm, critics: Sequence[str]) -> None:
        found.extend(Estimator(group, f"{name}{critic}", algorithm, partial(_with_critic, CRITICS[critic])) for critic in critics)

    by_critic("value functions", "", make(to_go, baselines.value(StepTable.build)), list(CRITICS))
    for name, psi in (
        ("TD", partial(advantages.td, discount=discount)),
        ("2-step", partial(advantages.n_step, discount=discount, n=2)),
        ("GAE, λ = 0.95", partial(advantages.gae, discount=discount, trace=0.95)),
        ("V-trace", partial(advantages.vtrace, discount=discount)),
    ):
        by_critic("bootstrapping", f"{name}, ", make(psi, baselines.value(StepTable.build)), ["exact V(t, o)", "half of V(t, o)"])

    for name, baseline in (("normalised returns", plain), ("normalised, minus leave-one-out mean", baselines.mean(form="leave-one-out"))):
        found.append(Estimator("normalised", name, make(to_go, baselines.normalised(baseline))))

    for name, weight in (
        ("no weights, as if on-policy", weights.on_policy),
        ("whole trajectory", weights.trajectory),
        ("per decision", weights.per_decision),
        ("per step, first order", weights.per_step),
        ("whole trajectory, truncated at 1", weights.truncated(weights.trajectory, 1.0)),
        ("per decision, truncated at 1", weights.truncated(weights.per_decision, 1.0)),
        ("whole trajectory, self-normalised", weights.self_normalised(weights.trajectory)),
        ("per decision, self-normalised", weights.self_normalised(weights.per_decision)),
    ):
        found.append(Estimator("importance weights", name, make(to_go, plain, weight=weight), off_policy=True))
    psi = partial(advantages.vtrace, discount=discount)
    clipped = make(psi, baselines.value(StepTable.build), weight=weights.vtrace())
    found.append(Estimator("importance weights", "V-trace, exact V(t, o)", clipped, partial(_with_critic, exact_values), off_policy=True))
    return found


def _algorithm(
    discount: float, advantage: Callable[..., Any], baseline: Baseline, *, weight: Any = weights.on_policy, visits: bool = True
) -> Algorithm:
    return compose(
        "laboratory",
        {},
        collect=episodes(),
        policy=policies.default(),
        advantage=advantage,
        baseline=baseline,
        ascent=gradient_ascent(score_function(), learning_rate=1.0, optimizer="sgd"),
        weight=weight,
        visit_discount=discount if visits else 1.0,
    )


def _spoken(kind: str) -> str:
    return {"least-squares": "least squares", "optimal": "optimal per parameter"}.get(kind, kind.replace("-", " "))


# ---------------------------------------------------------------- what they have learnt before


class StepTable(eqx.Module):
    """A critic that sees the clock: V(t, o) by steps since the reset and observation, [H + 1, O]; row H is what lies behind the limit."""

    values: Array

    @staticmethod
    def build(key: Any, spec: Spec) -> Any:
        """A critic builder: 0 everywhere."""
        return StepTable(jnp.zeros((1 + (spec.time_limit or 0), spec.observation_space.n)))  # type: ignore[union-attr]

    def __call__(self, policy: Any, rollout: Rollout, carry: PyTree) -> tuple[Array, Array]:
        """(V(t, o_t), V(t + 1, o_{t+1})), each [T, B]."""
        return self.values[rollout.time, rollout.obs], self.values[rollout.time + 1, rollout.next_obs]


def exact_values(mdp: FiniteMDP, policy: Any) -> np.ndarray:
    """V(t, o) = E[G_t | t, o_t = o] of the time-limited task, 0 behind the limit, [H + 1, O]. Where states look alike, their mean."""
    by_state, reached = _values_and_visits(mdp, policy)
    weight = np.where(reached.sum(axis=0) > 0, reached, 1e-300)  # of a state that is never reached no one knows
    return np.vstack([_by_observation(mdp, by_state, weight), np.zeros(mdp.num_observations)])


def blind_values(mdp: FiniteMDP, policy: Any) -> np.ndarray:
    """V(o), the table that comes nearest to all rewards-to-go and cannot see the clock, the same at each step and behind the limit."""
    by_state, reached = _values_and_visits(mdp, policy)
    weight = np.where(reached.sum(axis=0) > 0, reached, 1e-300)
    table = _by_observation(mdp, (by_state * weight).sum(axis=0, keepdims=True), weight.sum(axis=0, keepdims=True), weighted=True)
    return np.tile(table, (len(by_state) + 1, 1))


def _values_and_visits(mdp: FiniteMDP, policy: Any) -> tuple[np.ndarray, np.ndarray]:
    """V_t(s) and P(s_t = s), each [H, S]."""
    assert mdp.time_limit is not None
    reached = visits(mdp, policy, rows=mdp.time_limit, resets=False)
    return np.asarray(values(mdp, policy).state), np.asarray(reached).sum(axis=0)


def _by_observation(mdp: FiniteMDP, table: np.ndarray, weight: np.ndarray, weighted: bool = False) -> np.ndarray:
    """The weighted mean over the states that look alike, [H, S] -> [H, O]."""
    alike = np.eye(mdp.num_observations)[mdp.observations]
    weight = np.maximum(weight, 1e-300)
    return ((table if weighted else table * weight) @ alike) / (weight @ alike)


CRITICS: dict[str, Callable[[FiniteMDP, Any], np.ndarray]] = {
    "exact V(t, o)": exact_values,
    "half of V(t, o)": lambda mdp, policy: exact_values(mdp, policy) / 2,
    "V = 0": lambda mdp, policy: 0 * exact_values(mdp, policy),
    "table V(o), blind to the clock": blind_values,
}
"""Critics by name: (mdp, policy) -> V(t, o), [H + 1, O]."""


def _with_critic(critic: Callable[[FiniteMDP, Any], np.ndarray], agent: Agent, mdp: FiniteMDP, policy: Any) -> Agent:
    table = StepTable(critic(mdp, policy))
    is_table = lambda node: isinstance(node, StepTable)  # noqa: E731
    return agent._replace(baseline=jax.tree.map(lambda node: table if is_table(node) else node, agent.baseline, is_leaf=is_table))


def _settled(agent: Agent, mdp: FiniteMDP, policy: Any) -> Agent:
    """A running mean where it comes to rest: the mean reward-to-go of a step."""
    by_state, reached = _values_and_visits(mdp, policy)
    return agent._replace(baseline=np.float64((by_state * reached).sum() / reached[:, ~mdp.terminal].sum()))


def _after_a_batch(algorithm: Algorithm, num_trajectories: int) -> Algorithm:
    """What the algorithm estimates from the last trajectory of a rollout after its baseline has learnt from the others."""

    def gradient(agent: Agent, rollout: Rollout) -> tuple[Params, dict]:
        before = jax.tree.map(lambda leaf: leaf[:, :num_trajectories], rollout)
        now = jax.tree.map(lambda leaf: leaf[:, num_trajectories:], rollout)
        learnt, _ = algorithm.update(jax.random.key(0), agent, before)
        return algorithm.gradient(agent._replace(baseline=learnt.baseline), now)

    return algorithm._replace(gradient=gradient)


# ---------------------------------------------------------------- the comparison


def world(name: str) -> FiniteMDP:
    """The finite MDP of that name: one of `policygrad.envs.finite_worlds`, or Gymnasium's that carry tables.

    Raises:
        UnknownNameError: no such name. UsageError: an environment of Gymnasium's without tables.
    """
    if name in WORLDS:
        return finite_world(name)
    import gymnasium

    if name not in gymnasium.registry:
        raise UnknownNameError("finite MDP", name, [*WORLDS, *TOY_TEXT])
    return FiniteMDP.from_gymnasium(name)


def default_policy(mdp: FiniteMDP) -> Any:
    """A fixed policy that is not uniform: a table of logits with

    π(a|o) ∝ 1 + (o + a) mod A
    """
    return _tabular(np.log(1.0 + np.add.outer(np.arange(mdp.num_observations), np.arange(mdp.num_actions)) % mdp.num_actions))


def uniform_policy(mdp: FiniteMDP) -> Any:
    """π(a|o) = 1/A: the behaviour policy of the importance weights."""
    return _tabular(np.zeros((mdp.num_observations, mdp.num_actions)))


def _tabular(logits: np.ndarray) -> Any:
    with jax.enable_x64(True):
        return policies.tabular_softmax(jnp.asarray(logits))


def compare(
    mdp: FiniteMDP,
    policy: Any = None,
    *,
    num_trajectories: int = 2,
    horizon: int | None = None,
    behaviour: Any = None,
    selection: Sequence[Estimator] | None = None,
) -> list[Row]:
    """The exact bias and variance of every estimator of ∇J on a small finite MDP.

        bias = |E[ĝ] − ∇J|        variance = tr Cov[ĝ]

    All estimate the same: ∇J of the MDP whose episodes are truncated at `horizon`, with the MDP's own discount; all from the same
    number of trajectories an update.

    Args:
        mdp: the world. Each estimator visits all its batches, so it must be small.
        policy: π_θ over the MDP's observations; `default_policy` by default.
        num_trajectories: N ≥ 1, of an update. Leave-one-out forms need 2.
        horizon: steps of an episode, ≥ 1; the MDP's time limit by default.
        behaviour: who acts where importance weights are compared; `uniform_policy` by default.
        selection: which estimators, of your own too; `estimators(mdp.discount)` by default.

    Returns:
        a `Row` for each, in order. The first also sets the scale of `relative_variance`: plain REINFORCE, even if it is not selected.

    Raises:
        UsageError: an MDP without time limit and no horizon, or more batches than fit: the message has the largest horizon that does.
    """
    ready()
    policy = default_policy(mdp) if policy is None else policy
    behaviour = uniform_policy(mdp) if behaviour is None else behaviour
    mdp = _limited(mdp, policy, num_trajectories, horizon)
    bench = _Bench(mdp, policy, behaviour, num_trajectories, policy_gradient(mdp, policy))
    chosen = estimators(mdp.discount) if selection is None else list(selection)
    for estimator in chosen:
        if estimator.algorithm.collect.kind != "episodes":
            raise UsageError(f"selection: got {estimator.name!r}, which collects steps; it must collect whole episodes, as ∇J asks for")
    plain = _algorithm(mdp.discount, partial(advantages.total_return, discount=mdp.discount), baselines.none(), visits=False)
    measured = _measured([Estimator("credit", "plain REINFORCE", plain), *chosen], bench)
    scale = measured[0].variance if isinstance(measured[0], Moments) else float("nan")
    return [_row(estimator, found, scale) for estimator, found in zip(chosen, measured[1:], strict=True)]


class _Bench(NamedTuple):
    """What all estimators of a comparison have in common."""

    mdp: FiniteMDP  # with its horizon as time limit
    policy: Any
    behaviour: Any
    num_trajectories: int
    target: PyTree  # ∇J


def _limited(mdp: FiniteMDP, policy: Any, num_trajectories: int, horizon: int | None) -> FiniteMDP:
    """The MDP with its horizon as time limit, if all its batches fit."""
    for name, value in (("num_trajectories", num_trajectories), ("horizon", horizon)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1):
            raise UsageError(f"{name}: got {value!r}; it must be a whole number of at least 1")
    if horizon is None and mdp.time_limit is None:
        raise UsageError(f"horizon: got none for {mdp.name}, which has no time limit; give the steps of an episode, e.g. 3")
    wanted = min(limit for limit in (horizon, mdp.time_limit) if limit is not None)
    for steps in count(1):
        if len(enumerate_trajectories(mdp, policy, horizon=steps).probability) ** num_trajectories > LARGEST:
            fits = f"the largest that fits is {steps - 1}" if steps > 1 else "none fits: take fewer trajectories, or a smaller MDP"
            raise UsageError(f"horizon: got {wanted} steps of {mdp.name} with num_trajectories {num_trajectories}; {fits}")
        if steps == wanted:
            return mdp.replace(time_limit=wanted)
    raise AssertionError  # unreachable: counts do not end


class _Copies(eqx.Module):
    """One policy as often as there are estimators: each estimates the gradient of its own copy, and the first one acts."""

    policies: tuple[Any, ...]

    def __call__(self, obs: Array) -> Any:
        return self.policies[0](obs)


def _measured(chosen: Sequence[Estimator], bench: _Bench) -> list[Moments | str]:
    """The moments of each, or why it has none.

    Compiling is what takes the time, and estimators share most of what is compiled: they are measured together, as one estimator
    of the gradients of as many copies of the policy.
    """
    found: dict[int, Moments | str] = {}
    together = max(1, PARAMETERS // max(1, sum(leaf.size for leaf in jax.tree.leaves(bench.policy))))
    for kind in ((False, False), (False, True), (True, False), (True, True)):
        alike = [index for index, estimator in enumerate(chosen) if (estimator.previous, estimator.off_policy) == kind]
        for first in range(0, len(alike), together):
            part = alike[first : first + together]
            found |= zip(part, _joint_moments([chosen[index] for index in part], bench), strict=True)
    return [found[index] for index in range(len(chosen))]


def _joint_moments(alike: Sequence[Estimator], bench: _Bench) -> list[Moments | str]:
    """The moments of estimators that see the same data."""
    mdp, policy, columns = bench.mdp, bench.policy, bench.num_trajectories
    algorithms, previous = [estimator.algorithm for estimator in alike], alike[0].previous
    if previous:  # given the baseline, trajectories are independent, and none is biased: one of them tells of all
        algorithms, columns = [_after_a_batch(algorithm, columns) for algorithm in algorithms], columns + 1
    refused: dict[int, str] = {}

    def gradient(agent: Agent, rollout: Rollout) -> tuple[Params, dict]:
        acting = agent.params.policy.policies[0]
        estimates = []
        for index, (algorithm, own) in enumerate(zip(algorithms, agent.baseline, strict=True)):
            try:
                estimates.append(algorithm.gradient(own._replace(params=own.params._replace(policy=acting)), rollout)[0].policy)
            except UsageError as error:  # this one, for these sizes, has no estimate
                refused[index] = str(error)
                estimates.append(jax.tree.map(jnp.zeros_like, acting))
        return Params(_Copies(tuple(estimates)), ()), {}

    copies = _Copies((policy,) * len(alike))
    agent = Agent(Params(copies, ()), (), tuple(_agent(estimator, bench) for estimator in alike), np.int32(0), np.int32(1))
    try:
        joint = moments(
            algorithms[0]._replace(gradient=gradient),
            mdp,
            copies,
            num_trajectories=columns,
            behaviour=bench.behaviour if alike[0].off_policy else None,
            agent=agent,
            target=_Copies((bench.target,) * len(alike)),
        )
    except UsageError as error:
        return [str(error)] * len(alike)
    return [refused.get(index) or _part(joint, index, len(alike), previous, bench) for index in range(len(alike))]


def _agent(estimator: Estimator, bench: _Bench) -> Agent:
    """What the estimator starts from: nothing learnt, or what its `state` says."""
    with jax.enable_x64(True):
        spec = Spec(bench.mdp.observation_space, bench.mdp.action_space, bench.num_trajectories, bench.mdp.time_limit)
        agent = estimator.algorithm.init(jax.random.key(0), spec)
    agent = agent._replace(params=Params(bench.policy, agent.params.critic))
    return agent if estimator.state is None else estimator.state(agent, bench.mdp, bench.policy)


def _part(joint: Moments, index: int, count: int, previous: bool, bench: _Bench) -> Moments:
    """The moments of one of the estimators that were measured together."""
    size = len(joint.mean) // count
    own = slice(index * size, (index + 1) * size)
    covariance = joint.covariance[own, own]
    return Moments(
        mean=joint.mean[own],
        covariance=covariance / bench.num_trajectories if previous else covariance,
        target=joint.target[own],
        unflatten=partial(_unflatten, bench.policy),
        num_trajectories=bench.num_trajectories,
        sequences=joint.sequences,
        batches=joint.sequences**bench.num_trajectories,
    )


def _unflatten(policy: Any, vector: np.ndarray) -> PyTree:
    with jax.enable_x64(True):
        return ravel_pytree(policy)[1](jnp.asarray(vector))


def _row(estimator: Estimator, m: Moments | str, scale: float) -> Row:
    if isinstance(m, str):
        nan = float("nan")
        return Row(estimator.group, estimator.name, False, nan, nan, nan, nan, nan, nan, nan, None, m)
    bias, length = float(np.linalg.norm(m.bias)), float(np.linalg.norm(m.target))
    return Row(
        group=estimator.group,
        name=estimator.name,
        unbiased=bias <= EXACT * max(length, m.variance**0.5),
        bias=bias,
        relative_bias=bias / length if length > 0 else float("nan"),
        variance=m.variance,
        relative_variance=m.variance / scale if scale > 0 else float("nan"),
        signal_to_noise=m.signal_to_noise,
        cosine=m.cosine,
        trajectories=m.trajectories_for_cosine(COSINE),
        moments=m,
    )


NUMBERS = ("unbiased", "bias", "relative_bias", "variance", "relative_variance", "signal_to_noise", "cosine", "trajectories")
"""The attributes of a `Row` that tables and records hold."""


def report(mdp: FiniteMDP, rows: Sequence[Row], policy: Any = None, *, horizon: int | None = None, behaviour: Any = None) -> dict[str, Any]:
    """A comparison as plain data: the world, the policies, the true gradient, and all rows.

    Args:
        mdp, policy, horizon, behaviour: as `compare` was given.
        rows: what it returned.
    """
    known = next(row.moments for row in rows if row.moments is not None)
    limit = min(steps for steps in (horizon, mdp.time_limit) if steps is not None)
    policy, behaviour = policy or default_policy(mdp), behaviour or uniform_policy(mdp)
    return {
        "mdp": {
            "name": mdp.name,
            "states": mdp.num_states,
            "observations": mdp.num_observations,
            "actions": mdp.num_actions,
            "discount": mdp.discount,
            "horizon": limit,
        },
        "num_trajectories": known.num_trajectories,
        "sequences": known.sequences,
        "batches": known.sequences**known.num_trajectories,
        "policy": _probabilities(mdp, policy),
        "behaviour": _probabilities(mdp, behaviour),
        "objective": float(objective(mdp.replace(time_limit=limit), policy)),
        "gradient": known.target.tolist(),
        "cosine": COSINE,
        "estimators": [
            {"group": row.group, "name": row.name, **{name: getattr(row, name) for name in NUMBERS}, "note": row.note} for row in rows
        ],
    }


def _probabilities(mdp: FiniteMDP, policy: Any) -> list[list[float]]:
    """π(a|o) of the observations that a policy acts on, [O][A]."""
    seen = np.unique(mdp.observations[~mdp.terminal])
    with jax.enable_x64(True):
        return np.asarray(policy(seen).probabilities()).tolist()
