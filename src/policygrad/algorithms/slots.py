"""What recipes share: from their arguments to the pieces that these ask for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from equinox import Module

from policygrad import baselines, combinators, policies
from policygrad.ascent import Schedule, linear
from policygrad.errors import UsageError
from policygrad.gradients import weights
from policygrad.policies import CriticBuilder, PolicyBuilder
from policygrad.types import Algorithm, Array, Baseline, Importance, Rollout


def decaying(value: float | Schedule, decay: bool, name: str = "learning_rate") -> float | Schedule:
    """The value, or its linear fall to 0."""
    if decay and callable(value):
        raise UsageError(f"{name}_decay: got True with a schedule for {name}; it must be one of the two")
    return value if callable(value) or not decay else linear(value)


def policy_and_critic(
    policy: PolicyBuilder | Module | None,
    hidden_sizes: tuple[int, ...] | None,
    activation: str,
    initialisation: str,
    sigma: Any,
    initial_sigma: float,
    parts: dict[str, Any],
    network: tuple[int, ...] = (64, 64),
) -> tuple[PolicyBuilder, CriticBuilder]:
    """Builders of both.

    Args:
        parts: features, memory, memory_size, truncate and head, as of `policies.policy`.
        network: the policy's hidden layers where the caller gives none and its observations suggest some.
    """
    if policy is not None and (parts["head"] != "auto" or sigma is not None or initial_sigma != 1):
        given = "head" if parts["head"] != "auto" else "initial_sigma" if sigma is None else "sigma"
        raise UsageError(f"{given}: got one together with policy, which brings its own head; leave one of them out")
    layers = {"hidden_sizes": hidden_sizes, "activation": activation, "initialisation": initialisation}
    suggested = policies.default(network=network, sigma=sigma, initial_sigma=initial_sigma, **layers, **parts)
    shared = {name: value for name, value in parts.items() if name != "head"}
    return policies.as_builder(policy) or suggested, policies.default_critic(**layers, **shared)


def importance(name: str, limit: float | None, self_normalize: bool, reuse: int) -> Callable[[Array, Rollout], Importance]:
    """The importance weight that a recipe's arguments ask for."""
    if name == "none":
        if reuse > 1:
            raise UsageError(
                f"weight: got 'none' with reuse {reuse}; the policy moves between two updates from the same data,"
                " so it must be per-decision, trajectory or per-step"
            )
        if limit is not None or self_normalize:
            given = "self_normalize" if limit is None else "weight_limit"
            raise UsageError(f"{given}: got one with weight 'none', which is 1 everywhere; choose a weight, or leave it out")
        return weights.WEIGHTS["none"]
    chosen = weights.WEIGHTS[name]
    if limit is not None:
        chosen = weights.truncated(chosen, limit)
    return weights.self_normalised(chosen) if self_normalize else chosen


def named_baseline(kind: str | Baseline, form: str, arguments: dict[str, dict[str, Any]]) -> Baseline:
    """The baseline of that name in that form, or the caller's own."""
    named = isinstance(kind, str)
    if named and kind in baselines.FORMED:
        return baselines.KINDS[kind](form=form, **arguments.get(kind, {}))
    if form != "same-batch":
        shown = repr(kind) if named else "one of your own"
        raise UsageError(
            f"baseline_form: got {form!r} with baseline {shown}, which has no forms; those have: {', '.join(sorted(baselines.FORMED))}"
        )
    return baselines.KINDS[kind](**arguments.get(kind, {})) if named else kind


def finished(
    algorithm: Algorithm, *, reuse: int, normalize_observations: bool = False, normalize_rewards: bool = False, discount: float = 0.99
) -> Algorithm:
    """The algorithm with what must hold around it: statistics stand still while a rollout is reused."""
    algorithm = combinators.reuse(algorithm, reuse)
    return combinators.normalise(algorithm, observations=normalize_observations, rewards=normalize_rewards, discount=discount)
