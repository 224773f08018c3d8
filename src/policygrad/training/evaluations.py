"""Evaluation now and then during a run, and the best policy so far."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from policygrad.envs import AnyEnv, Env
from policygrad.errors import UsageError
from policygrad.evaluation import MOST_ENVS, SELECTION_STREAM, Evaluator
from policygrad.records import Records
from policygrad.training.result import SeedResult

EPISODES = 10
"""Of each evaluation, where nobody says how many."""

NEVER = 2**31 - 1
"""More steps than a run can take."""


def evaluator_of(env: AnyEnv, evaluate_every: int | None, evaluate_episodes: int) -> Evaluator | None:
    """What evaluates the policies of a run, on environments of its own; None if nobody asked for it.

    Args:
        env: of the run.
        evaluate_every, evaluate_episodes: as in `train`, counts already.

    Raises:
        UsageError: a ready-made environment, which evaluating would disturb; episodes for no evaluation; no time limit.
    """
    if evaluate_every is None:
        if evaluate_episodes != EPISODES:
            raise UsageError(f"evaluate_episodes: got {evaluate_episodes} without evaluate_every; give that too, in environment steps")
        return None
    if not isinstance(env, Env) and env.fixed_num_envs is not None:
        raise UsageError(
            f"evaluate_every: got {evaluate_every} with a ready-made {env.name}, in which evaluating would disturb training;"
            " pass its id, or a function that makes one"
        )
    rounds = -(-evaluate_episodes // MOST_ENVS[env.backend])
    return Evaluator(env, evaluate_episodes, num_envs=-(-evaluate_episodes // rounds))


class Evaluations:
    """The evaluations of one seed; fills the best policy and the returns into its result.

    Every evaluation runs the same episodes, as far as the policies let them be the same, so that what differs is the policies.

    Attributes:
        next: the environment steps at which the next one is due.
    """

    def __init__(self, evaluator: Evaluator | None, every: int | None, result: SeedResult, records: Records):
        self._evaluator, self._every, self._result, self._records = evaluator, every or NEVER, result, records
        self._best = -math.inf
        self.next = self._every
        if evaluator is not None:
            result.evaluation_steps, result.evaluation_returns = np.zeros(0, int), np.zeros((0, evaluator.num_episodes))

    def at(self, steps: int, policy: Any, *, last: bool = False) -> None:
        """Evaluates the policy after `steps` environment steps where that is due, or is the `last` one and new."""
        result, evaluator = self._result, self._evaluator
        if evaluator is None or result.evaluation_steps is None or result.evaluation_returns is None:
            return
        new = len(result.evaluation_steps) == 0 or result.evaluation_steps[-1] < steps
        if steps < self.next and not (last and new and steps > 0):
            return
        self.next = (steps // self._every + 1) * self._every
        made = evaluator(policy, result.seed + SELECTION_STREAM)
        result.evaluation_steps = np.append(result.evaluation_steps, steps)
        result.evaluation_returns = np.concatenate([result.evaluation_returns, made.returns[None]])
        if made.mean > self._best:
            self._best, result.best_policy = made.mean, policy
        self._records.evaluation(result.seed, steps, made.returns, made.lengths)

    def close(self) -> None:
        """Closes the environments of the evaluations, and puts the mean returns beside the other metrics."""
        if self._evaluator is None:
            return
        self._evaluator.close()
        metrics, steps = self._result.metrics, self._result.evaluation_steps
        if steps is None or "steps" not in metrics:
            return
        means = np.full(len(metrics["steps"]), np.nan)
        means[np.searchsorted(metrics["steps"], steps, side="right") - 1] = self._result.evaluation_means
        metrics["evaluation_return"] = means
