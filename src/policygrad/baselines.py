"""b(o), what is subtracted from Ψ: one factory per kind.

A baseline that does not depend on the action leaves the expected gradient as it is, E[∇ log π(a|o) b(o)] = 0, and can
take most of the variance away. Each factory returns a `Baseline` of three functions:

    init(key, spec, policy)                             -> (critic that climbs with the policy, or (); state)
    centre(state, params, rollout, advantage, weights)  -> Centred(advantages, uncentred, targets, carry, control)
    fit(key, state, params, rollout, centred)           -> (state, info)

A baseline is used before it is moved: `fit` runs after the policy's step, on the data that the step used. Only `value` and
`joint_value` bootstrap. Kinds marked with a star are computed from a batch, and take a `form` that says from which:

    same-batch       the batch that it corrects. Biased: b depends on the actions whose score it multiplies
    previous-batch   the batch before, 0 at first. Unbiased; late by an update
    leave-one-out    for each column the other columns of the same batch, at least one. Unbiased

A column is an environment, or an episode where `episodes(N)` collects them.

    kind             b                                                      bias of the gradient in the form same-batch
    none             0                                                      none
    mean *           the mean of Ψ over all steps                           −∇E[b] / N
    episode_mean *   over the steps of the episode                          −∇E[b_i], whatever N is
    time_mean *      over the steps with the same t                         a factor f(p_t) on the part of each t
    state_mean *     over the visits of the same state                      a factor f(p_s) on the part of each state
    least_squares *  linear in features of the observation and t            of order F / N, F features
    optimal *        for each parameter the b of least variance             −E[b ḡ], of order 1 / N
    leave_one_out    `mean` in the form leave-one-out                       (none in this form)
    running_mean     an exponential average over past batches               none
    value            a learnt V(o)                                          none from b; bootstrapping from V has its own
    joint_value      the same, climbing with the policy

These biases are exact for N whole episodes without importance weights and without γ^t: whatever b is, one for the batch
loses E[b ḡ], with ḡ = (1/N) Σ_i Σ_t ∇ log π(a_t|o_t) the score of the batch over N, which is ∇E[b]/N. So with episodes of T
steps and rewards-to-go the loss of `mean` is ∇E[Σ_t G_t]/(T·N), of order 1/N, and that of `episode_mean` ∇E[Σ_t G_t]/T; with
total returns `mean` leaves (1 − 1/N) ∇J. And

    f(p) = 1 − (1 − (1 − p)^N) / (N p)        1 − 1/N where p = 1; 0 for N = 1

with p_t the probability that an episode has a step t. For a state, p_s is that of a visit, and f(p_s) is exact where no
state comes twice in an episode; where one does, its visits share their returns and more is lost.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from policygrad.errors import SpaceError, UsageError
from policygrad.policies.critics import CriticBuilder, default_critic, linear_critic, network_critic, table_critic
from policygrad.policies.features import OneHot, Polynomial, num_monomials
from policygrad.policies.policy import what_is_seen
from policygrad.spaces import Box, Discrete, seen
from policygrad.types import Array, Baseline, Centred, Key, Params, PyTree, Rollout, Spec

Form = Literal["same-batch", "previous-batch", "leave-one-out"]
FORMS: tuple[Form, ...] = get_args(Form)
"""Which data a fitted baseline is computed from: the values of `form`."""

MAX_FEATURES = 1000
"""Of `least_squares`, which solves a system of their number in every update."""


def masked_mean(x: Array, mask: Array) -> Array:
    """Mean of x where the mask is 1; 0 if it is nowhere."""
    return jnp.sum(x * mask) / jnp.maximum(jnp.sum(mask), 1)


def masked_variance(x: Array, mask: Array) -> Array:
    """Population variance of x where the mask is 1; 0 for a single element."""
    return masked_mean((x - masked_mean(x, mask)) ** 2, mask)


def _below_largest(x: Array, mask: Array) -> Array:
    """x measured from its largest valid element, 0 where the mask is 0.

    Equal elements become exactly 0; measured from their own rounded mean they would keep a rounding error to divide by.
    """
    return jnp.where(mask > 0, x - jax.lax.stop_gradient(jnp.max(x, initial=-jnp.inf, where=mask > 0)), 0)


def _ratio(x: Array, y: Array) -> Array:
    """x / y, and 0 where y is 0."""
    return jnp.where(y == 0, 0, x / jnp.where(y == 0, 1, y))


def _like(new: PyTree, old: PyTree) -> PyTree:
    """`new` in the dtypes of `old`: a state keeps its type from update to update."""
    return jax.tree.map(lambda x, y: x.astype(y.dtype), new, old)


def _no_state(key: Key, spec: Spec, policy: PyTree) -> tuple[PyTree, PyTree]:
    return (), ()


def _no_fit(key: Key, state: PyTree, params: Params, rollout: Rollout, centred: Centred) -> tuple[PyTree, dict]:
    return state, {}


def _without_critic(rollout: Rollout, advantage: Callable) -> tuple[Array, Array]:
    """Ψ and targets with V = 0 everywhere: nothing is bootstrapped."""
    zeros = jnp.zeros_like(rollout.reward)
    return advantage(rollout.reward, zeros, zeros, rollout.terminated, rollout.truncated)


def _statistic(subtract: Callable[[PyTree, Array, Rollout], Array]) -> Callable[..., Centred]:
    """`centre` for a baseline that is a statistic of returns: Ψ − b, with b [T, B] or a scalar."""

    def centre(state: PyTree, params: Params, rollout: Rollout, advantage: Callable, weights: Array) -> Centred:
        uncentred, targets = _without_critic(rollout, advantage)
        advantages = (uncentred - subtract(state, uncentred, rollout).astype(uncentred.dtype)) * rollout.mask
        return Centred(advantages, uncentred * rollout.mask, targets, rollout.carry)

    return centre


def none() -> Baseline:
    """b = 0: plain REINFORCE."""
    return Baseline(_no_state, _statistic(lambda state, psi, rollout: jnp.zeros((), psi.dtype)), _no_fit)


# ── what is computed from a batch ────────────────────────────────────────────────────────────────────────────────────
#
# A model is a Module without arrays, of three functions over any number n of steps:
#
#     measure(psi [n], weight [n], obs [n, …], time [n]) -> sums       additive: those of two data sets add up to those of both
#     solve(sums) -> solution                                          0 where there is no data
#     predict(solution, obs [n, …], time [n]) -> b [n]
#
# and `zeros()`, the solution of no data.


class _Mean(eqx.Module):
    """b = Σ w Ψ / Σ w."""

    def zeros(self) -> Array:
        return jnp.zeros(())

    def measure(self, psi: Array, weight: Array, obs: Array, time: Array) -> tuple[Array, Array]:
        return jnp.sum(weight * psi), jnp.sum(weight)

    def solve(self, sums: tuple[Array, Array]) -> Array:
        return _ratio(*sums)

    def predict(self, solution: Array, obs: Array, time: Array) -> Array:
        return jnp.broadcast_to(solution, time.shape)


class _Table(eqx.Module):
    """A mean for each cell, a number of steps since the reset or a state; that of all cells where one has no data."""

    size: int = eqx.field(static=True)
    by_time: bool = eqx.field(static=True)

    def zeros(self) -> Array:
        return jnp.zeros(self.size)

    def measure(self, psi: Array, weight: Array, obs: Array, time: Array) -> tuple[Array, Array]:
        empty = jnp.zeros(self.size, psi.dtype)
        cell = time if self.by_time else obs
        return empty.at[cell].add(weight * psi), empty.at[cell].add(weight)

    def solve(self, sums: tuple[Array, Array]) -> Array:
        total, count = sums
        return jnp.where(count > 0, _ratio(total, count), _ratio(jnp.sum(total), jnp.sum(count)))

    def predict(self, solution: Array, obs: Array, time: Array) -> Array:
        return solution[time if self.by_time else obs]


class _LinearSums(NamedTuple):
    gram: Array  # Σ w x xᵀ [F, F]
    products: Array  # Σ w x Ψ [F]
    features: Array  # Σ w x [F]
    psi: Array  # Σ w Ψ
    count: Array  # Σ w


_dot = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
"""A GPU's default would round the normal equations to ten bits."""


class _Linear(eqx.Module):
    """b = m + w·x(o, t), m the mean of Ψ and w the ridge solution for Ψ − m."""

    observation: Polynomial | OneHot
    time_limit: int | None = eqx.field(static=True)
    ridge: float = eqx.field(static=True)

    @property
    def num_features(self) -> int:
        return self.observation.num_features + (0 if self.time_limit is None else 3)

    def features(self, obs: Array, time: Array, dtype: Any) -> Array:
        x = self.observation(obs).astype(dtype)
        if self.time_limit is None:
            return x
        u = time.astype(dtype)[:, None] / self.time_limit
        return jnp.concatenate([x, u, u**2, u**3], axis=-1)

    def zeros(self) -> tuple[Array, Array]:
        return jnp.zeros(()), jnp.zeros(self.num_features)

    def measure(self, psi: Array, weight: Array, obs: Array, time: Array) -> _LinearSums:
        x = self.features(obs, time, psi.dtype)
        weighted = weight[:, None] * x
        return _LinearSums(_dot(weighted.T, x), _dot(weighted.T, psi), jnp.sum(weighted, axis=0), jnp.sum(weight * psi), jnp.sum(weight))

    def solve(self, sums: _LinearSums) -> tuple[Array, Array]:
        mean = _ratio(sums.psi, sums.count)
        # In units of its own size each feature has 1 on the diagonal, so that the ridge means the same in any units.
        size = jnp.sqrt(jnp.diagonal(sums.gram))
        size = jnp.where(size > 0, size, 1)
        normal = sums.gram / (size[:, None] * size[None, :]) + self.ridge * jnp.eye(len(size), dtype=size.dtype)
        right = (sums.products - mean * sums.features) / size
        return mean, jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(normal), right) / size

    def predict(self, solution: tuple[Array, Array], obs: Array, time: Array) -> Array:
        mean, weights = solution
        return mean + _dot(self.features(obs, time, weights.dtype), weights)


class _Fitted(NamedTuple):
    """The state of a baseline that is computed from a batch."""

    model: Any
    solution: PyTree  # of the batch before; () in the other forms


def _others(sums: PyTree) -> PyTree:
    """Σ_{j ≠ i} x_j for every i, over leading axes [B].

    What comes before i plus what comes after it, in O(B): taking x_i off the total would leave its rounding error behind,
    and with it a trace of i's own data.
    """

    def without_own(x: Array) -> Array:
        zero = jnp.zeros_like(x[:1])
        before = jnp.cumsum(x[:-1], axis=0)
        after = jnp.cumsum(x[:0:-1], axis=0)[::-1]
        return jnp.concatenate([zero, before]) + jnp.concatenate([after, zero])

    return jax.tree.map(without_own, sums)


def _check_form(form: str) -> None:
    if form not in FORMS:
        raise UsageError(f"baseline form: got {form!r}; it must be one of {', '.join(FORMS)}")


def _check_batch(name: str, form: str, shape: tuple[int, ...], alone: bool) -> None:
    """Refuses batches that leave a baseline nothing to compare with; `alone`: the form same-batch would subtract Ψ itself."""
    if form == "leave-one-out" and shape[1] < 2:
        raise UsageError(
            f"baseline: got {name!r} in the form leave-one-out with a single column, which leaves no other;"
            " use more episodes or environments, or previous-batch"
        )
    if form == "same-batch" and alone:
        raise UsageError(
            f"baseline: got {name!r} for {shape[0]} step(s) of {shape[1]} column(s), where it is Ψ itself and leaves nothing;"
            " use more episodes an update, the form previous-batch, or running-mean"
        )


def _equally(mask: Array) -> Array:
    """Each step weighs the same."""
    return mask


def _by_episode(mask: Array) -> Array:
    """Each column weighs the same: 1/T_i a step."""
    return mask / jnp.maximum(jnp.sum(mask, axis=0, keepdims=True), 1)


def _fitted(
    name: str,
    build: Callable[[Spec], Any],
    form: str,
    *,
    alone: Callable[[Any, int, int], bool],
    weigh: Callable[[Array], Array] = _equally,
    own: bool = False,
) -> Baseline:
    """A baseline computed from a batch by a model.

    Args:
        build: the model for a spec.
        alone: (model, rows, columns) -> whether the form same-batch leaves nothing of such a batch.
        weigh: mask [T, B] -> the weights of steps [T, B].
        own: whether the form same-batch takes each column by itself.
    """
    _check_form(form)

    def init(key: Key, spec: Spec, policy: PyTree) -> tuple[PyTree, PyTree]:
        model = build(spec)
        return (), _Fitted(model, model.zeros() if form == "previous-batch" else ())

    def by_column(model: Any, psi: Array, rollout: Rollout) -> PyTree:
        return jax.vmap(model.measure, in_axes=1)(psi, weigh(rollout.mask), what_is_seen(rollout.obs), rollout.time)

    def of_all(model: Any, psi: Array, rollout: Rollout) -> PyTree:
        data = psi, weigh(rollout.mask), what_is_seen(rollout.obs), rollout.time
        return model.solve(model.measure(*(x.reshape(psi.size, *x.shape[2:]) for x in data)))

    def subtract(state: _Fitted, psi: Array, rollout: Rollout) -> Array:
        model = state.model
        _check_batch(name, form, psi.shape, alone(model, *psi.shape))
        psi = jnp.where(rollout.mask > 0, psi, 0)
        each = form == "leave-one-out" or (own and form == "same-batch")
        if form == "previous-batch":
            solution = state.solution
        elif each:
            sums = by_column(model, psi, rollout)
            solution = jax.vmap(model.solve)(_others(sums) if form == "leave-one-out" else sums)
        else:
            solution = of_all(model, psi, rollout)
        return jax.vmap(model.predict, in_axes=(0 if each else None, 1, 1), out_axes=1)(solution, what_is_seen(rollout.obs), rollout.time)

    def fit(key: Key, state: _Fitted, params: Params, rollout: Rollout, centred: Centred) -> tuple[_Fitted, dict]:
        psi = jnp.where(rollout.mask > 0, centred.uncentred, 0)
        return state._replace(solution=_like(of_all(state.model, psi, rollout), state.solution)), {}

    return Baseline(init, _statistic(subtract), fit if form == "previous-batch" else _no_fit)


def mean(form: Form = "same-batch") -> Baseline:
    """The mean of Ψ over all steps of the batch.

        b = Σ mask Ψ / Σ mask

    Args:
        form: from which data; see the module. The bias in the form same-batch is exactly −∇E[b]/N.

    Raises (when the update is traced):
        UsageError: for batches of a single step, whose mean is all there is (same-batch), or a single column (leave-one-out).
    """
    return _fitted("mean", lambda spec: _Mean(), form, alone=lambda model, rows, columns: rows * columns == 1)


def leave_one_out() -> Baseline:
    """For each episode or environment the mean of Ψ over all steps of the others: unbiased.

        b_i = Σ_{j ≠ i} Σ_t mask Ψ / Σ_{j ≠ i} Σ_t mask

    `mean` in the form leave-one-out.

    Reference:
        Kool, van Hoof and Welling 2019, "Buy 4 REINFORCE samples, get a baseline for free!". Theirs is of one return an
        episode, and lets each weigh the same; here each step does.
    """
    return mean("leave-one-out")


def episode_mean(form: Form = "same-batch") -> Baseline:
    """Each episode's own mean of Ψ over its steps.

        b_i = (1/T_i) Σ_t Ψ_{i,t}        other forms: the mean of such means over other episodes, each weighing the same

    Needs one episode per column, as `episodes(N)` collects them.

    Args:
        form: from which data; see the module. The bias in the form same-batch is exactly −∇E[b_i], which no number of episodes
            shrinks.

    Raises (when the update is traced):
        UsageError: for episodes of a single step, whose mean is all there is (same-batch), or a single column (leave-one-out).
    """
    return _fitted("episode-mean", lambda spec: _Mean(), form, alone=lambda model, rows, columns: rows == 1, weigh=_by_episode, own=True)


def running_mean(rate: float = 0.1) -> Baseline:
    """An exponential average of past returns, moved after it was used.

        Ψ_t ← Ψ_t − b        then        b ← b + rate · (mean(Ψ) − b)

    A listing that moves b first subtracts a baseline that already contains the present return: with one return a step,
    G − (b + rate·(G − b)) = (1 − rate)(G − b), so it scales the gradient by 1 − rate and is no longer independent of
    the action. Here b is used first, which keeps the estimate unbiased.

    Args:
        rate: in (0, 1], the weight of the newest batch.
    """
    if not 0 < rate <= 1:
        raise UsageError(f"baseline rate: got {rate}; it must be in (0, 1]")

    def init(key: Key, spec: Spec, policy: PyTree) -> tuple[PyTree, PyTree]:
        return (), jnp.zeros(())

    def fit(key: Key, state: Array, params: Params, rollout: Rollout, centred: Centred) -> tuple[Array, dict]:
        return state + rate * (masked_mean(centred.uncentred, rollout.mask) - state), {}

    return Baseline(init, _statistic(lambda state, psi, rollout: state), fit)


def time_mean(form: Form = "same-batch") -> Baseline:
    """The mean of Ψ over all steps with the same number of steps since the reset.

        b_t = Σ_i mask Ψ_{i,t} / Σ_i mask_{i,t}        the mean over all t where there is no such step

    Args:
        form: from which data; see the module. In the form same-batch the part of step t is shrunk by exactly
            1 − (1 − (1 − p_t)^N)/(N p_t), p_t the probability that an episode lasts so long; with equal lengths the whole
            gradient by 1 − 1/N.

    Raises:
        UsageError: by `init`, for environments without a time limit; when the update is traced, for a single column no longer
            than that limit (same-batch: all of its Ψ_t are alone), or a single column (leave-one-out).

    Reference:
        Peters and Schaal 2008, "Reinforcement learning of motor skills with policy gradients", on baselines that vary with time.
    """

    def build(spec: Spec) -> _Table:
        if spec.time_limit is None:
            raise UsageError(
                "baseline: got 'time-mean' for an environment without a time limit; it must have one, or use state-mean or mean"
            )
        return _Table(spec.time_limit, by_time=True)

    return _fitted("time-mean", build, form, alone=lambda model, rows, columns: columns == 1 and rows <= model.size)


def state_mean(form: Form = "same-batch") -> Baseline:
    """The mean of Ψ over all visits of the same state: a table of empirical values, made anew from each batch.

        V̂(s) = (1/N(s)) Σ_{t: s_t = s} Ψ_t        the mean over all states where there is no visit

    Every visit of an episode counts, not only the first. For observations that are Discrete.

    Args:
        form: from which data; see the module. In the form same-batch the part of a state that an episode visits at most once,
            with probability p_s, is shrunk by exactly 1 − (1 − (1 − p_s)^N)/(N p_s).

    Raises:
        SpaceError: by `init`, unless observations are Discrete.
        UsageError: when the update is traced, for a single step (same-batch) or a single column (leave-one-out).

    Reference:
        Sutton and Barto 2018, section 5.1, every-visit Monte Carlo. `value_table` learns its table over many batches instead.
    """

    def build(spec: Spec) -> _Table:
        space = seen(spec.observation_space)
        if not isinstance(space, Discrete):
            raise SpaceError(f"baseline: got 'state-mean' for observations {space}; they must be Discrete, or use least-squares")
        return _Table(space.n, by_time=False)

    return _fitted("state-mean", build, form, alone=lambda model, rows, columns: rows * columns == 1)


def least_squares(form: Form = "same-batch", *, degree: int = 2, ridge: float = 1e-4) -> Baseline:
    """Linear least squares on features of the observation and the time, solved anew from each batch.

        b(o, t) = m + w·x(o, t)        w minimises Σ mask (Ψ − m − w·x)² + ridge Σ_f (Σ mask x_f²) w_f²        m = mean Ψ

    x holds all monomials of a Box observation's elements up to `degree`, or the unit vector of a Discrete observation; and where
    the environment has a time limit H also t/H, (t/H)² and (t/H)³. The ridge is relative to the size of each feature: b
    depends neither on the units of the observation nor on a constant added to Ψ (which is added to b).

    Args:
        form: from which data; see the module. In the form same-batch a step loses its leverage's share of its own Ψ (an element
            of the hat matrix), and others of its episode theirs: of order F/N.
        degree: of the monomials, ≥ 1; a Discrete observation has none but those of degree 1.
        ridge: > 0; below about 1e-5 single precision may not suffice to solve for features that depend on each other.

    Raises:
        UsageError: for a degree or a ridge out of range; by `init`, for more than 1000 features; when the update is traced, for
            no more steps than features (same-batch), or a single column (leave-one-out).

    Reference:
        Duan, Chen, Houthooft, Schulman and Abbeel 2016, "Benchmarking deep reinforcement learning for continuous control".
        Theirs has the squares of the elements without their products, and the weights of the previous batch.
    """
    if isinstance(degree, bool) or not isinstance(degree, int) or degree < 1:
        raise UsageError(f"degree of the least-squares baseline: got {degree!r}; it must be a whole number of at least 1")
    if not (isinstance(ridge, int | float) and 0 < ridge < math.inf):
        raise UsageError(f"ridge of the least-squares baseline: got {ridge!r}; it must be a finite number above 0")

    def build(spec: Spec) -> _Linear:
        space = seen(spec.observation_space)
        if not isinstance(space, Discrete | Box):
            raise SpaceError(
                f"baseline: got 'least-squares' for observations {space}; they must be Discrete or a Box, or use a value function"
            )
        count = space.n if isinstance(space, Discrete) else num_monomials(space.size, degree)
        if count > MAX_FEATURES:
            raise UsageError(
                f"baseline: got 'least-squares' with {count} features of {space}; they must be at most {MAX_FEATURES}:"
                " lower the degree, or use a value function"
            )
        return _Linear(OneHot(space.n) if isinstance(space, Discrete) else Polynomial(space.shape, degree), spec.time_limit, ridge)

    return _fitted("least-squares", build, form, alone=lambda model, rows, columns: rows * columns <= model.num_features)


# ── the optimal baseline ─────────────────────────────────────────────────────────────────────────────────────────────


def _column_gradients(policy: Any, rollout: Rollout, weights: Array, psi: Array) -> tuple[PyTree, PyTree]:
    """(g_i, x_i) = Σ_t w_t (1, Ψ_t) ∇ log π(a_t|o_t) of every column: policy-shaped, with a leading axis [B]."""

    def one(column: Rollout, weight: Array, psi: Array) -> tuple[PyTree, PyTree]:
        alone = jax.tree.map(lambda leaf: leaf[:, None], column)

        def log_prob(policy: Any) -> Array:
            distribution, _ = policy.unroll(alone.carry, alone.obs, alone.time == 0)
            return distribution.log_prob(alone.action)[:, 0]

        log_probs, pull = jax.vjp(log_prob, policy)
        (score,), (weighted,) = (pull(cotangent.astype(log_probs.dtype)) for cotangent in (weight, weight * psi))
        return score, weighted

    return jax.vmap(one, in_axes=1)(rollout, weights, psi)


def optimal(form: Form = "same-batch") -> Baseline:
    """For each parameter of the policy the constant of least variance, from the gradients of the columns.

        b* = E[x g] / E[g²]        g_i = Σ_t ŵ_t ∇ log π(a_t|o_t)        x_i = Σ_t ŵ_t Ψ_t ∇ log π(a_t|o_t)        ŵ = B w

    parameter by parameter; with total returns R, where x = R g, it is E[g² R] / E[g²]. 0 where g is. Why it is the best:

        E[g] = 0, so  E[x − b g] = E[x]  for every b, and
        Var(x − b g) = E[x²] − 2 b E[x g] + b² E[g²] − E[x]²,
        least where its derivative −2 E[x g] + 2 b E[g²] is 0.

    No b [T, B] does this, because each parameter has its own. Ψ is left as it is, and (1/B) Σ_i b_i g_i is handed on as
    `control`, which the gradient has subtracted from it. Costs two backward passes with the gradient of every column in memory.

    Args:
        form: from which data; see the module. In the form same-batch the bias is −E[b ḡ], ḡ the mean of g: of order 1/B.
            With importance weights the other forms are unbiased if E[ŵ_t ∇ log π] = 0 holds for them: whole-trajectory and
            per-decision weights, not truncated, first-order or self-normalised ones.

    Raises (when the update is traced):
        UsageError: for a single column: its b would take all of the gradient away (same-batch) or have no data (leave-one-out).

    Reference:
        Greensmith, Bartlett and Baxter 2004, "Variance reduction techniques for gradient estimates in reinforcement learning";
        Peters and Schaal 2008, "Reinforcement learning of motor skills with policy gradients". Others call optimal
        what is the same for all parameters, E[|g|² R] / E[|g|²].
    """
    _check_form(form)

    def init(key: Key, spec: Spec, policy: PyTree) -> tuple[PyTree, PyTree]:
        return (), jax.tree.map(jnp.zeros_like, policy) if form == "previous-batch" else ()

    def centre(state: PyTree, params: Params, rollout: Rollout, advantage: Callable, weights: Array) -> Any:
        uncentred, targets = _without_critic(rollout, advantage)
        psi, columns = uncentred * rollout.mask, uncentred.shape[1]
        _check_batch("optimal", form, psi.shape, columns == 1)
        g, x = _column_gradients(params.policy, rollout, weights * columns, psi)
        products, squares = jax.tree.map(jnp.multiply, x, g), jax.tree.map(jnp.square, g)
        estimate = jax.tree.map(lambda x, y: _ratio(jnp.sum(x, axis=0), jnp.sum(y, axis=0)), products, squares)
        if form == "leave-one-out":
            b = jax.tree.map(_ratio, _others(products), _others(squares))
        else:
            b = jax.tree.map(lambda leaf: leaf[None], state if form == "previous-batch" else estimate)
        control = jax.tree.map(lambda b, g: b.astype(g.dtype) * g / columns, b, g)
        return Centred(psi, psi, targets, rollout.carry, control, estimate)

    def fit(key: Key, state: PyTree, params: Params, rollout: Rollout, centred: Centred) -> tuple[PyTree, dict]:
        return _like(centred.estimate, state), {}

    return Baseline(init, centre, fit if form == "previous-batch" else _no_fit)


# ── value functions ──────────────────────────────────────────────────────────────────────────────────────────────────


def value(
    critic: CriticBuilder | None = None,
    *,
    target: Callable[..., tuple[Array, Array]] | None = None,
    learning_rate: float = 1e-2,
    gradient_steps: int = 10,
    optimizer: Callable[[float], optax.GradientTransformation] = optax.adam,
) -> Baseline:
    """A value function V(o), fitted apart from the policy by least squares to the targets. It bootstraps.

        Ψ_t from `advantage` with V(o_t), V(o_{t+1})        then        minimise Σ mask (V(o_t) − target_t)² / Σ mask

    Its `fit` reports, of the critic as it was used, `value_loss`, that mean square, and `explained_variance`, the share of the
    targets' variance that V accounts for, 1 − Var(target − V) / Var(target): ≤ 1, and 0 where all targets are equal.

    Args:
        critic: builds V from the spaces (a network, a table, linear features); None lets the spaces decide.
        target: a function of `advantages` with its γ bound, whose targets V is fitted to; None: those of `advantage`. Ratios
            of importance weights are not handed to it: its targets are those of the policy that acted.
        learning_rate: of the critic, > 0.
        gradient_steps: full-batch steps of the critic after each step of the policy, ≥ 1.
        optimizer: makes an optax optimiser from a learning rate.
    """
    if isinstance(gradient_steps, bool) or not isinstance(gradient_steps, int) or gradient_steps < 1:
        raise UsageError(f"gradient_steps of the value baseline: got {gradient_steps!r}; it must be a whole number of at least 1")
    if target is not None and not callable(target):
        raise UsageError(f"target of the value baseline: got {target!r}; it must be a function of advantages with its discount bound")
    build = critic or default_critic()
    transform = optimizer(learning_rate)

    def init(key: Key, spec: Spec, policy: PyTree) -> tuple[PyTree, PyTree]:
        built = build(key, spec)
        return (), (built, transform.init(built))  # pyright: ignore[reportArgumentType]

    def centre(state: Any, params: Params, rollout: Rollout, advantage: Callable, weights: Array) -> Centred:
        values, next_values = state[0](params.policy, rollout, rollout.carry)
        arrays = rollout.reward, values, next_values, rollout.terminated, rollout.truncated
        psi, targets = advantage(*arrays)
        if target is not None:
            _, targets = target(*arrays)
        return Centred(psi * rollout.mask, (psi + values) * rollout.mask, targets, rollout.carry, values=values)

    def fit(key: Key, state: Any, params: Params, rollout: Rollout, centred: Centred) -> tuple[PyTree, dict]:
        targets, mask = jax.lax.stop_gradient(centred.targets), rollout.mask

        def error(model: Any) -> tuple[Array, Array]:
            missing = targets - model.along(rollout)
            return masked_mean(missing**2, mask), masked_variance(missing, mask)

        def improve(carry: Any, _: None) -> tuple[Any, tuple[Array, Array]]:
            model, moments = carry
            (loss, left), gradient = jax.value_and_grad(error, has_aux=True)(model)
            updates, moments = transform.update(gradient, moments, model)
            return (optax.apply_updates(model, updates), moments), (loss, left)

        state, (losses, left) = jax.lax.scan(improve, state, None, length=gradient_steps)
        return state, {"value_loss": losses[0], "explained_variance": _explained(left[0], targets, mask)}

    return Baseline(init, centre, fit, lambda state, params: state[0])


def _explained(left: Array, targets: Array, mask: Array) -> Array:
    """The share of the targets' variance that is not `left`: ≤ 1, and 0 where all targets are equal."""
    whole = masked_variance(_below_largest(targets, mask), mask)
    return jnp.where(whole > 0, 1 - _ratio(left, whole), 0)


def joint_value(critic: CriticBuilder | None = None) -> Baseline:
    """A value function V(o) that climbs together with the policy: the ascent's loss teaches it. It bootstraps.

        Ψ_t from `advantage` with V(o_t), V(o_{t+1})        V ∈ θ, moved by ∇ [policy loss + c Σ w (V(o_t) − target_t)²]

    It needs a loss with a value term (`gradients.actor_critic_loss`, `clipped_loss`, `penalty_loss`); `score_function` would leave
    V as it is. Its `fit` moves nothing and reports `explained_variance` as `value` does, of the critic as the advantages were made
    with it.

    Args:
        critic: builds V from the spaces (a network, a table, linear features, or a head over the policy's features:
            `policies.shared_critic()`); None lets the spaces decide.

    Reference:
        Mnih et al. 2016, "Asynchronous methods for deep reinforcement learning".
    """
    build = critic or default_critic()

    def init(key: Key, spec: Spec, policy: PyTree) -> tuple[PyTree, PyTree]:
        return build(key, spec, policy), ()

    def centre(state: PyTree, params: Params, rollout: Rollout, advantage: Callable, weights: Array) -> Centred:
        values, next_values = params.critic(params.policy, rollout, rollout.carry)
        psi, targets = advantage(rollout.reward, values, next_values, rollout.terminated, rollout.truncated)
        return Centred(psi * rollout.mask, (psi + values) * rollout.mask, targets, rollout.carry, values=values)

    def fit(key: Key, state: PyTree, params: Params, rollout: Rollout, centred: Centred) -> tuple[PyTree, dict]:
        left = masked_variance(centred.targets - centred.values, rollout.mask)
        return state, {"explained_variance": _explained(left, centred.targets, rollout.mask)}

    return Baseline(init, centre, fit, lambda state, params: params.critic)


def value_table(
    *,
    target: Callable[..., tuple[Array, Array]] | None = None,
    learning_rate: float = 1e-2,
    gradient_steps: int = 10,
    optimizer: Callable[[float], optax.GradientTransformation] = optax.adam,
) -> Baseline:
    """A table of values V(s), learnt over many batches; for Discrete observations. It bootstraps.

    Arguments and metrics as `value`, whose choice it is for such observations anyhow.

    Raises:
        SpaceError: by `init`, unless observations are Discrete.
    """
    return value(table_critic(), target=target, learning_rate=learning_rate, gradient_steps=gradient_steps, optimizer=optimizer)


def value_linear(
    *,
    degree: int = 1,
    target: Callable[..., tuple[Array, Array]] | None = None,
    learning_rate: float = 1e-2,
    gradient_steps: int = 10,
    optimizer: Callable[[float], optax.GradientTransformation] = optax.adam,
) -> Baseline:
    """A value function V(o) linear in features of the observation, learnt by TD where `target` is td. It bootstraps.

        V(o) = w·x(o)        with target = partial(advantages.td, discount=γ):    w ← w + α mean(δ_t x(o_t))

    up to the optimiser (this is SGD's step, α = 2 learning_rate).

    Args:
        degree: of the monomials x of a Box observation's elements, ≥ 0; a Discrete observation has a table.
        others: as `value`.

    Reference:
        Sutton and Barto 2018, section 9.3, semi-gradient TD(0).
    """
    return value(linear_critic(degree), target=target, learning_rate=learning_rate, gradient_steps=gradient_steps, optimizer=optimizer)


def value_network(
    hidden_sizes: tuple[int, ...] = (64, 64),
    activation: str = "tanh",
    initialisation: str = "orthogonal",
    *,
    target: Callable[..., tuple[Array, Array]] | None = None,
    learning_rate: float = 1e-2,
    gradient_steps: int = 10,
    optimizer: Callable[[float], optax.GradientTransformation] = optax.adam,
) -> Baseline:
    """A network as value function V(o), whatever the observations. It bootstraps.

    Args:
        hidden_sizes, activation, initialisation: as `policies.network_critic`.
        others: as `value`.
    """
    critic = network_critic(hidden_sizes, activation, initialisation)
    return value(critic, target=target, learning_rate=learning_rate, gradient_steps=gradient_steps, optimizer=optimizer)


def standardised(psi: Array, mask: Array, epsilon: float = 1e-8) -> Array:
    """Ψ with mean 0 and standard deviation 1 where the mask is 1, 0 elsewhere. A single step, or equal Ψ, become 0.

    (Ψ − mean Ψ) / (std Ψ + ε)
    """
    psi = _below_largest(psi, mask)
    shifted, spread = psi - masked_mean(psi, mask), jnp.sqrt(masked_variance(psi, mask))
    return shifted / (spread + epsilon) * mask


def normalised(baseline: Baseline, epsilon: float = 1e-8) -> Baseline:
    """Combinator: Ψ shifted to mean 0 and scaled to standard deviation 1 over the steps of the batch.

        Ψ ← (Ψ − mean Ψ) / (std Ψ + ε)

    With the baseline `none` this is the normalisation of returns. It divides the gradient by a random number, so it
    changes the gradient's length and, slightly, its expected direction. A batch of one step, or of equal Ψ, becomes 0.

    Raises (when the update is traced):
        UsageError: for `optimal`, which is no part of Ψ: it would be subtracted from a gradient in other units.
    """

    def centre(state: PyTree, params: Params, rollout: Rollout, advantage: Callable, weights: Array) -> Centred:
        centred = baseline.centre(state, params, rollout, advantage, weights)
        if jax.tree.leaves(centred.control):
            raise UsageError(
                "baseline: got 'optimal' with normalised advantages, whose units its control has not; it must be one of the two"
            )
        return centred._replace(advantages=standardised(centred.advantages, rollout.mask, epsilon))

    return baseline._replace(centre=centre)


KINDS: dict[str, Callable[..., Baseline]] = {
    "none": none,
    "mean": mean,
    "episode-mean": episode_mean,
    "running-mean": running_mean,
    "time-mean": time_mean,
    "state-mean": state_mean,
    "least-squares": least_squares,
    "leave-one-out": leave_one_out,
    "optimal": optimal,
    "value": value,
    "value-table": value_table,
    "value-linear": value_linear,
    "value-network": value_network,
}
"""Baselines by the names that recipes and the command line take."""

FORMED = {"mean", "episode-mean", "time-mean", "state-mean", "least-squares", "optimal"}
"""Those whose factory takes `form`."""
