"""Proximal ascent against a plain loop over epochs and minibatches, and what its numbers mean."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradients.batches import B, Case, T, leaves
from policygrad.ascent import Penalised, gradient_ascent, linear, proximal, proximal_kl
from policygrad.ascent import optimizer as optimizer_module
from policygrad.ascent.minibatches import flattened, shuffled, taken
from policygrad.ascent.natural import mean_kl
from policygrad.ascent.proximal import adapted
from policygrad.errors import UsageError
from policygrad.gradients import actor_critic_loss, clipped_loss, gradient_of, penalty_loss
from policygrad.gradients.accumulate import parts_of
from policygrad.policies import mlp, network_critic
from policygrad.spaces import Box, Discrete
from policygrad.types import Ascent, Batch, Params, Rollout, Spec

pytestmark = pytest.mark.usefixtures("x64")
KEY, NOW = jax.random.key(3), 0.25
"""The order of the steps that the key gives is the same in the plain loop; `test_minibatches` judges it."""
START = Case(0, moved=0.0)
MODULE = importlib.import_module("policygrad.ascent.proximal")  # `policygrad.ascent.proximal` is the function
STEPS = T * B


def close(got: Any, expected: Any, tolerance: float = 1e-10) -> None:
    np.testing.assert_allclose(np.asarray(got), expected, rtol=0, atol=tolerance)


def run(ascent: Ascent, case: Case = START, batch: Batch | None = None, **refresh: Any) -> tuple[Params, Any, dict]:
    step = jax.jit(partial(ascent.step, **refresh))
    return step(KEY, case.params, ascent.init(case.params), case.batch if batch is None else batch, jnp.asarray(NOW))


def standardised(psi: np.ndarray, mask: np.ndarray) -> np.ndarray:
    mean = (psi * mask).sum() / mask.sum()
    return (psi - mean) / (np.sqrt(((psi - mean) ** 2 * mask).sum() / mask.sum()) + 1e-8) * mask


def plain(
    loss: Callable,
    *,
    epochs: int,
    parts: int,
    rate: float = 0.1,
    normalize: str | None = "minibatch",
    limit: float = np.inf,
    stop: float = np.inf,
    case: Case = START,
) -> tuple[np.ndarray, list[dict]]:
    """The same in a Python loop: Adam on every minibatch, until a minibatch is met whose divergence is above `stop`."""
    gradient = jax.jit(gradient_of(loss))
    transform: Any = optax.adam(rate)
    params: Any = case.params
    state: Any = transform.init(params)
    infos: list[dict] = []
    flat = jax.tree.map(np.asarray, flattened(case.batch))
    if normalize == "batch":
        flat = flat._replace(advantages=standardised(flat.advantages, flat.rollout.mask))
    for indices in np.asarray(shuffled(KEY, STEPS, parts, epochs)).reshape(epochs * parts, STEPS // parts):
        part = jax.tree.map(lambda leaf, i=indices: leaf[i][None], flat)
        part = part._replace(weights=part.weights * parts)
        if normalize == "minibatch":
            part = part._replace(advantages=standardised(part.advantages, part.rollout.mask))
        ascent, info = gradient(params, part, jnp.asarray(NOW))
        if info.get("kl", 0) > stop:
            break
        norm = np.linalg.norm(leaves(ascent))
        descent = jax.tree.map(lambda leaf, norm=norm: -leaf * min(1.0, limit / norm), ascent)
        updates, state = transform.update(descent, state)
        params = optax.apply_updates(params, updates)
        infos.append({name: float(x) for name, x in info.items()} | {"gradient_norm": norm, "valid": part.rollout.mask.sum()})
    return leaves(params), infos


def mean(infos: list[dict], name: str) -> float:
    return sum(info[name] * info["valid"] for info in infos) / sum(info["valid"] for info in infos)


def last_kl(case: Case, policy: Any, parts: int, epochs: int) -> Any:
    """The mean divergence over the last minibatch in the order."""
    flat = jax.tree.map(np.asarray, flattened(case.batch))
    indices = np.asarray(shuffled(KEY, STEPS, parts, epochs))[-1, -1]
    part = jax.tree.map(lambda leaf: leaf[indices][None], flat)
    return mean_kl(part.old, policy, part)


LOSS = clipped_loss(0.1, 0.5, 0.01, 0.2)
PPO: dict[str, Any] = {"learning_rate": 0.1, "epochs": 3, "minibatches": 4}
SLOW: dict[str, Any] = PPO | {"learning_rate": 0.03}


@pytest.mark.parametrize(("normalize", "limit"), [("minibatch", 0.5), ("batch", np.inf), (None, np.inf)])
def test_it_is_the_plain_loop_over_epochs_and_minibatches(normalize: Any, limit: float) -> None:
    params, infos = plain(LOSS, epochs=3, parts=4, normalize=normalize, limit=limit)
    after, state, info = run(proximal(LOSS, **PPO, normalize=normalize, max_grad_norm=None if limit == np.inf else limit))
    close(leaves(after), params)
    assert info["optimizer_steps"] == state[0].count == len(infos) == 12
    for name in ("entropy", "clip_fraction", "value_loss", "gradient_norm"):
        close(info[name], mean(infos, name))
    close(info["learning_rate"], 0.1)
    close(info["kl"], last_kl(START, after.policy, 4, 3))
    assert info["kl"] > 0.001
    assert 0 < info["clip_fraction"] < 1


def mutant_old(params: Params, batch: Batch, progress: Any) -> tuple[Any, dict]:
    """The ratio against the policy as it is by now: always 1."""
    old, _ = params.policy.unroll((), batch.rollout.obs, batch.rollout.time == 0)
    return LOSS(params, batch._replace(old=jax.lax.stop_gradient(old)), progress)


def mutant_elements(monkeypatch: pytest.MonkeyPatch) -> Callable:
    monkeypatch.setattr(optimizer_module, "clip_by_global_norm", lambda g, norm, c: jax.tree.map(lambda x: jnp.clip(x, -c, c), g))
    return LOSS


def mutant_mask(monkeypatch: pytest.MonkeyPatch) -> Callable:
    monkeypatch.setattr(MODULE, "standardised", lambda psi, mask: (psi - psi.mean()) / (psi.std() + 1e-8))
    return LOSS


def mutant_rows(monkeypatch: pytest.MonkeyPatch) -> Callable:
    monkeypatch.setattr(MODULE, "standardised", lambda psi, mask: (psi - psi.mean(0, keepdims=True)) * mask)
    return LOSS


MUTANTS = {"old": lambda _: mutant_old, "elements": mutant_elements, "mask": mutant_mask, "rows": mutant_rows}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_mutants_are_seen(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, _ = _once("mutants", lambda: plain(LOSS, epochs=2, parts=2, limit=0.1))
    loss = MUTANTS[mutant](monkeypatch)
    after, *_ = run(proximal(loss, learning_rate=0.1, epochs=2, minibatches=2, max_grad_norm=0.1))
    assert np.abs(leaves(after) - expected).max() > 1e-3


_kept: dict[str, Any] = {}


def _once(name: str, make: Callable[[], Any]) -> Any:
    if name not in _kept:
        _kept[name] = make()
    return _kept[name]


# The first step


def test_one_pass_of_one_minibatch_is_a_step_of_the_actor_critic() -> None:
    rate = {"learning_rate": linear(0.2), "optimizer": "sgd", "max_grad_norm": 0.5}
    expected, _, told = run(gradient_ascent(gradient_of(actor_critic_loss(0.5, 0.01)), **rate))
    after, _, info = run(proximal(clipped_loss(0.2, 0.5, 0.01), **rate, epochs=1, minibatches=1, normalize=None))
    close(leaves(after), leaves(expected))
    for name in ("gradient_norm", "learning_rate", "entropy", "value_loss"):
        close(info[name], told[name])


def test_before_the_first_step_the_ratio_is_one_and_the_gradient_the_actor_critics() -> None:
    """In float32, with networks: the old distribution was computed over [T, B], the new one over a minibatch."""
    with jax.enable_x64(False):
        rows, columns, space = 32, 4, Box.of(-1.0, 1.0, (4,))
        rng = np.random.default_rng(0)
        spec = Spec(space, Discrete(3), columns)
        policy, critic = mlp((64, 64))(KEY, spec), network_critic((64, 64))(KEY, spec)
        params = jax.tree.map(lambda leaf: leaf + 0.1, Params(policy, critic))
        obs = rng.uniform(-1, 1, (rows, columns, 4)).astype(np.float32)
        plane = np.zeros((rows, columns), np.float32)
        no, ones = plane > 0, plane + 1
        rollout = Rollout(obs, rng.integers(0, 3, plane.shape), plane, plane, no, no, obs, ones, plane.astype(int), (), {})
        psi, targets = jnp.asarray(rng.normal(size=(2, rows, columns)), jnp.float32)

        @jax.jit
        def both(params: Params, rollout: Rollout) -> Any:
            old, _ = params.policy.unroll((), rollout.obs, rollout.time == 0)
            batch = Batch(rollout, psi, targets, jnp.asarray(ones / ones.size), old, (), (), params.critic.value(rollout.obs))
            part = taken(flattened(batch), shuffled(KEY, ones.size, 4)[0, 0])
            new, _ = params.policy.unroll((), part.rollout.obs, part.rollout.time == 0)
            ratio = jnp.exp(new.log_prob(part.rollout.action) - part.old.log_prob(part.rollout.action))
            gradients = [gradient_of(loss)(params, part, jnp.zeros(())) for loss in (clipped_loss(value_clip=0.2), actor_critic_loss())]
            return ratio, gradients

        ratio, ((clipped, info), (expected, _)) = both(params, rollout)
        assert np.abs(np.asarray(ratio) - 1).max() <= 1e-5
        assert info["clip_fraction"] == 0
        expected = leaves(expected)
        np.testing.assert_allclose(leaves(clipped), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("target_kl", [None, 1e-4])
def test_minibatches_in_parts_give_what_whole_ones_give(monkeypatch: Any, target_kl: float | None) -> None:
    """Also what is told of them, and where the divergence stops."""
    ascent = proximal(LOSS, **PPO | {"target_kl": target_kl})
    whole = run(ascent)
    monkeypatch.setattr("policygrad.gradients.accumulate.large_part", lambda: 2)
    assert parts_of(STEPS // 4) > 1
    assert run(ascent)[2]["optimizer_steps"] == whole[2]["optimizer_steps"]
    jax.tree.map(close, run(ascent), whole)


def test_its_gradient_is_a_sum_over_steps_of_the_whole_batch() -> None:
    """Not normalised: parts of the batch must add up to it."""
    ascent = proximal(LOSS, **PPO)
    gradient = jax.jit(ascent.gradient)
    whole, _ = gradient(START.params, START.batch, jnp.asarray(NOW))
    expected, _ = jax.jit(gradient_of(actor_critic_loss(0.5, 0.01)))(START.params, START.batch, jnp.asarray(NOW))
    close(leaves(whole.policy), leaves(expected.policy))
    halves = [START.batch._replace(weights=START.batch.weights * part) for part in np.arange(B) == np.arange(B)[:, None, None]]
    close(sum(leaves(gradient(START.params, half, jnp.asarray(NOW))[0]) for half in halves), leaves(whole))


# Small and strange batches


@pytest.mark.parametrize("what", ["one step", "equal"])
def test_nothing_to_compare_moves_no_policy(what: str) -> None:
    """A minibatch of one step, or of equal Ψ, is normalised to 0, never to NaN; the critic learns from it nevertheless."""
    case = Case(1, moved=0.0)
    case.psi[:] = case.psi if what == "one step" else 0.1
    loss = clipped_loss(0.2, 0.5)
    after, _, info = run(proximal(loss, learning_rate=0.1, epochs=1, minibatches=STEPS if what == "one step" else 2), case)
    close(after.policy.head.logits, case.logits, 0)
    assert np.isfinite(leaves((after, info))).all()
    assert np.abs(np.asarray(after.critic.head.values) - case.table).max() > 0.05


def test_padding_never_matters() -> None:
    """Of episodes of other lengths: whatever stands in the rows after their end."""
    case, other = Case(2, moved=0.0), Case(2, moved=0.0)
    for name in ("psi", "targets", "values"):
        getattr(other, name)[case.mask == 0] = -77.0
    step = proximal(LOSS, **PPO)
    first, second = _both(step, case, other)
    np.testing.assert_array_equal(first, second)


def _both(ascent: Ascent, *cases: Case) -> Iterator[np.ndarray]:
    step = jax.jit(ascent.step)
    for case in cases:
        after, _, info = step(KEY, case.params, ascent.init(case.params), case.batch, jnp.asarray(NOW))
        yield leaves((after, info))


def test_minibatches_must_divide_the_batch() -> None:
    with pytest.raises(UsageError, match="minibatches: got 5 for a batch of 12 steps; it must divide"):
        run(proximal(LOSS, learning_rate=0.1, minibatches=5))


def test_the_step_is_compiled_once_and_in_one_piece() -> None:
    """The loss is traced a fixed number of times, however many steps there are."""
    traced = []

    def counted(params: Params, batch: Batch, progress: Any) -> tuple[Any, dict]:
        traced.append(1)
        return actor_critic_loss()(params, batch, progress)

    counts = []
    for epochs, parts in ((1, 1), (50, 12)):
        traced.clear()
        ascent = proximal(counted, learning_rate=0.1, epochs=epochs, minibatches=parts)
        jax.eval_shape(ascent.step, KEY, START.params, ascent.init(START.params), START.batch, jnp.asarray(NOW))
        counts.append(len(traced))
    assert counts[0] == counts[1]


# The stop


@pytest.mark.parametrize("target", [1e-6, 2e-3, 1e3])
def test_the_stop_leaves_out_the_steps_that_remain(target: float) -> None:
    params, infos = plain(LOSS, epochs=3, parts=4, rate=0.03, stop=1.5 * target)
    step, state, case = *_once("stop", _stopping), START
    after, moments, info = step(KEY, case.params, state, case.batch, jnp.asarray(target))
    close(leaves(after), params)
    assert info["optimizer_steps"] == moments[0].count == len(infos)
    expected = {1e-6: 1, 1e3: 12}.get(target)
    assert len(infos) == expected if expected else 1 < len(infos) < 12
    close(info["gradient_norm"], mean(infos, "gradient_norm"))
    close(info["kl"], last_kl(case, after.policy, 4, 3))  # of the policy that stays, though none of the minibatches saw it


def _stopping() -> tuple[Callable, Any]:
    def step(key: Any, params: Params, state: Any, batch: Batch, target: Any) -> Any:
        ascent = proximal(LOSS, **SLOW, target_kl=target)
        return ascent.step(key, params, state, batch, jnp.asarray(NOW))

    return jax.jit(step), proximal(LOSS, **PPO).init(START.params)


def test_it_may_be_mapped_over_seeds_and_settings() -> None:
    """Each of them as it is alone: one that stops does not stop the others."""

    def train(key: Any, clip: Any, target: Any) -> Any:
        ascent = proximal(clipped_loss(clip), **SLOW, target_kl=target)
        after, _, info = ascent.step(key, START.params, ascent.init(START.params), START.batch, jnp.asarray(NOW))
        return after, info

    keys, clips, targets = jax.random.split(KEY, 3), jnp.array([0.1, 0.3, 0.2]), jnp.array([1e-6, 2e-3, 1e3])
    mapped = jax.jit(jax.vmap(train))(keys, clips, targets)
    alone = jax.jit(lambda *settings: jax.lax.map(lambda one: train(*one), settings))(keys, clips, targets)
    close(leaves(mapped), leaves(alone))
    first, second, third = np.asarray(mapped[1]["optimizer_steps"])
    assert first == 1 < second < third == 12


def test_a_stop_needs_a_loss_that_measures() -> None:
    with pytest.raises(UsageError, match="target_kl: got one with a loss that does not report kl"):
        run(proximal(actor_critic_loss(), **PPO, target_kl=0.01))


# Advantages anew


def test_recomputing_takes_the_estimates_of_the_critic_as_it_is_and_nothing_else() -> None:
    """Ψ, targets and values come from `refresh`, the ratio and the weights stay those of the start."""

    def refresh(params: Params) -> Batch:
        values = params.critic.value(START.batch.rollout.obs)
        batch = START.batch
        elsewhere = jax.tree.map(lambda leaf: leaf + 1.0, batch.old)
        return batch._replace(advantages=batch.targets - values, values=values, old=elsewhere, weights=batch.weights * 9)

    ascent = proximal(LOSS, **PPO, normalize=None, recompute=True)
    after, *_ = run(ascent, refresh=refresh)
    flat, case = jax.tree.map(np.asarray, flattened(START.batch)), START
    gradient, transform = jax.jit(gradient_of(LOSS)), optax.adam(0.1)
    params: Any = case.params
    state = transform.init(params)
    for epoch, order in enumerate(np.asarray(shuffled(KEY, STEPS, 4, 3))):
        if epoch > 0:
            values = np.asarray(params.critic.head.values)[flat.rollout.obs]
            flat = flat._replace(advantages=flat.targets - values, values=values)
        for indices in order:
            part = jax.tree.map(lambda leaf, i=indices, flat=flat: leaf[i][None], flat)
            ascent_of, _ = gradient(params, part._replace(weights=part.weights * 4), jnp.asarray(NOW))
            updates, state = transform.update(jax.tree.map(jnp.negative, ascent_of), state)
            params = optax.apply_updates(params, updates)
    close(leaves(after), leaves(params))
    without, *_ = run(proximal(LOSS, **PPO, normalize=None))
    assert np.abs(leaves(without) - leaves(params)).max() > 1e-3


# The penalty


@pytest.mark.parametrize(
    ("kl", "expected"),
    [(0.031, 2.0), (0.029, 1.0), (0.0134, 1.0), (0.0133, 0.5), (0.0, 0.5)],
    ids=["dear", "high", "low", "cheap", "still"],
)
def test_the_penalty_adapts(kl: float, expected: float) -> None:
    close(adapted(jnp.asarray(1.0), jnp.asarray(kl), 0.02), expected)


def test_the_penalty_keeps_within_bounds() -> None:
    close(adapted(jnp.asarray(8e3), jnp.asarray(1.0), 0.1), 1e4)
    close(adapted(jnp.asarray(1.5e-4), jnp.asarray(0.0), 0.1), 1e-4)


def test_penalised_ascent_is_the_plain_loop_with_its_state_as_penalty() -> None:
    ascent = proximal_kl(partial(penalty_loss, entropy_bonus=0.01), target_kl=0.01, initial_penalty=3.0, **PPO)
    step, params, state = jax.jit(ascent.step), START.params, ascent.init(START.params)
    assert isinstance(state, Penalised)
    assert state.penalty == 3
    expected, _ = plain(penalty_loss(3.0, entropy_bonus=0.01), epochs=3, parts=4)
    after, state, info = step(KEY, params, state, START.batch, jnp.asarray(NOW))
    close(leaves(after), expected)
    close(info["kl"], mean_kl(START.batch.old, after.policy, START.batch))
    assert info["kl"] > 0.015
    assert info["kl_penalty"] == 3
    assert state.penalty == 6
    assert state.optimizer[0].count == info["optimizer_steps"] == 12
    dearer, _ = plain(penalty_loss(6.0, entropy_bonus=0.01), epochs=3, parts=4)
    again = Penalised(ascent.init(params).optimizer, state.penalty)
    after, _, info = step(KEY, params, again, START.batch, jnp.asarray(NOW))
    close(leaves(after), dearer)
    assert info["kl_penalty"] == 6


# Refusals


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epochs": 0}, "epochs: got 0; it must be a whole number of at least 1"),
        ({"minibatches": 2.0}, "minibatches: got 2.0; it must be a whole number of at least 1"),
        ({"epochs": True}, "epochs: got True; it must be a whole number"),
        ({"normalize": "yes"}, "normalize: got 'yes'; it must be 'minibatch', 'batch' or None"),
        ({"target_kl": 0.0}, "target_kl: got 0.0; it must be a finite number above 0"),
        ({"target_kl": float("nan")}, "target_kl: got nan; it must be a finite number above 0"),
    ],
)
def test_what_is_out_of_range_is_refused(wrong: dict, message: str) -> None:
    with pytest.raises(UsageError, match=f"^{message}"):
        proximal(LOSS, learning_rate=0.1, **wrong)


def test_a_penalty_must_be_above_zero() -> None:
    with pytest.raises(UsageError, match="initial_penalty: got 0; it must be a finite number above 0"):
        proximal_kl(penalty_loss, target_kl=0.1, initial_penalty=0, learning_rate=0.1)
    with pytest.raises(UsageError, match="target_kl: got -1; it must be a finite number above 0"):
        proximal_kl(penalty_loss, target_kl=-1, learning_rate=0.1)
