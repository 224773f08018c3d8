"""`normalise`: what its statistics are of, when they move, who sees them, and that it goes with everything else."""

from __future__ import annotations

import json
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import policygrad as pg
from policygrad import advantages, baselines, combinators, policies
from policygrad.algorithms import compose
from policygrad.ascent import gradient_ascent
from policygrad.cli import main
from policygrad.combinators import Normaliser, normalise, reuse
from policygrad.errors import SpaceError, UsageError
from policygrad.gradients import on_policy, per_decision, score_function
from policygrad.policies import Normalised
from policygrad.rollout import Collect, compiled_collector, episodes, steps
from policygrad.spaces import Box, Discrete
from policygrad.types import Agent, Algorithm, Ascent, Rollout, Spec

GAMMA, T, B = 0.8, 6, 3
SPEC = Spec(Box.of(-np.inf, np.inf, (2,)), Discrete(3), num_envs=B)
KEY = jax.random.key(0)


def probing(inner: Ascent) -> Ascent:
    """Tells how far π/b is from 1 before the step."""

    def step(key: Any, params: Any, state: Any, batch: Any, *rest: Any) -> Any:
        params, state, info = inner.step(key, params, state, batch, *rest)
        rollout = batch.rollout
        ratio = jnp.exp(jnp.where(rollout.mask > 0, batch.old.log_prob(rollout.action) - rollout.log_prob, 0))
        return params, state, {**info, "ratio_error": jnp.max(jnp.abs(ratio - 1)), "first_reward": rollout.reward[0, 0]}

    return Ascent(inner.init, inner.gradient, step)


@cache
def plain(collect: Collect, weight: Any = on_policy, rate: float = 0.1) -> Algorithm:
    """A linear policy; a linear critic that bootstraps, so that next observations count."""
    return compose(
        "plain",
        {"discount": GAMMA},
        collect=collect,
        policy=policies.default(hidden_sizes=()),
        advantage=partial(advantages.gae, discount=GAMMA, trace=0.9),
        baseline=baselines.value(policies.linear_critic(), learning_rate=0.01, gradient_steps=2),
        ascent=probing(gradient_ascent(score_function(), learning_rate=rate, optimizer="sgd")),
        weight=weight,
    )


STEPS, EPISODES = plain(steps(T)), plain(episodes())


def stream(rows: int, columns: int = B, seed: int = 0, gaps: bool = True, whole: bool = False) -> Rollout:
    """Steps of random episodes, one after the other in each column, with rows of resets between some if `gaps`.

    With `whole`, every T rows begin a new episode, which ends and is padded.
    """
    rng = np.random.default_rng(seed)
    mask, time = np.ones((rows, columns)), np.zeros((rows, columns), np.int32)
    ended = np.zeros((rows, columns, 2), bool)
    for b in range(columns):
        clock, over = 0, False
        for t in range(rows):
            if whole and t % T == 0:
                clock, over = 0, False
            mask[t, b] = not over
            if over:
                over = whole
                continue
            time[t, b] = clock
            end = rng.random() < 0.3 or (whole and t % T == T - 1)
            ended[t, b, rng.integers(2)] = end
            clock, over = (0, gaps or whole) if end else (clock + 1, False)
    valid = mask > 0
    obs, after = (np.where(valid[..., None], rng.normal([30.0, -1.0], [5.0, 0.1], (rows, columns, 2)), 0) for _ in range(2))
    if rows > T:
        obs[T + np.argmax(mask[T:, 0]), 0] = [1000.0, -1.0]  # far enough out to be clipped
    return Rollout(
        obs=obs,
        action=rng.integers(0, 3, (rows, columns)) * valid,
        log_prob=np.log(1 / 3) * mask,
        reward=rng.normal(-2.0, 3.0, (rows, columns)) * mask,
        terminated=ended[..., 0],
        truncated=ended[..., 1],
        next_obs=after,
        mask=mask,
        time=time,
        carry=(),
        extras={},
    )


def cut(rollout: Rollout, dtype: Any = float) -> list[Rollout]:
    """Rollouts of T rows in a row."""
    rollout = jax.tree.map(lambda leaf: leaf.astype(dtype) if leaf.dtype == float else leaf, rollout)
    return [jax.tree.map(lambda leaf, i=i: leaf[i : i + T], rollout) for i in range(0, len(rollout.mask), T)]


def returns_by_hand(rollout: Rollout) -> np.ndarray:
    """R_t of every valid step, by a plain loop."""
    found = []
    for b in range(rollout.mask.shape[1]):
        so_far = 0.0
        for t in range(len(rollout.mask)):
            if rollout.mask[t, b]:
                so_far = rollout.reward[t, b] + (GAMMA * so_far if rollout.time[t, b] else 0.0)
                found.append(so_far)
    return np.array(found)


def units_by_hand(rollout: Rollout, seen: Rollout | None, clip: float = 10.0) -> Rollout:
    """The rollout in the units of what was seen before it, in NumPy."""
    mean, variance, scale = np.zeros(2), np.ones(2), np.sqrt(1 + 1e-8)
    if seen is not None:
        valid = seen.obs[seen.mask > 0]
        mean, variance, scale = valid.mean(axis=0), valid.var(axis=0), np.sqrt(returns_by_hand(seen).var() + 1e-8)

    def units(obs: np.ndarray) -> np.ndarray:
        return np.clip((obs - mean) / np.sqrt(variance + 1e-8), -clip, clip) * rollout.mask[..., None]

    return rollout._replace(
        obs=units(rollout.obs), next_obs=units(rollout.next_obs), reward=np.clip(rollout.reward / scale, -clip, clip) * rollout.mask
    )


def assert_close(ours: Any, theirs: Any, tolerance: float = 1e-10) -> None:
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


def assert_equal(ours: Any, theirs: Any) -> None:
    """Bit for bit."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert one.dtype == other.dtype
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


def learnt(agent: Agent) -> Any:
    return agent._replace(normaliser=())


# ── the statistics, and who sees them ────────────────────────────────────────────────────────────────────────────────


def statistics_error(whole: bool) -> float:
    """The largest difference between the statistics after any of four updates and NumPy's over all data so far."""
    still = (EPISODES if whole else STEPS)._replace(update=lambda key, agent, rollout: (agent, {"finite": True}))
    algorithm = normalise(still)
    update = jax.jit(algorithm.update)
    agent, everything, worst = algorithm.init(KEY, SPEC), stream(4 * T, whole=whole), 0.0
    for i, rollout in enumerate(cut(everything)):
        agent, _ = update(KEY, agent, rollout)
        seen = jax.tree.map(lambda leaf, i=i: leaf[: (i + 1) * T], everything)
        obs, returns = seen.obs[seen.mask > 0], returns_by_hand(seen)
        state = agent.normaliser
        for got, expected in (
            (state.observations.statistics, (len(obs), obs.mean(axis=0), obs.var(axis=0))),
            (state.returns.statistics, (len(returns), returns.mean(), returns.var())),
        ):
            worst = max(worst, *(float(np.abs(np.asarray(x) - y).max()) for x, y in zip(got, expected, strict=True)))
    return worst


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("whole", [False, True])
def test_statistics_are_those_of_all_steps_so_far(whole: bool) -> None:
    """Across ends of rollouts, resets and padding; episodes(N) starts each column's return anew."""
    assert statistics_error(whole) <= 1e-10


real_merged, real_returns = combinators.merged, combinators.discounted_returns
MUTANTS: dict[str, tuple[str, Any]] = {
    "the mask ignored": ("merged", lambda before, x, mask: real_merged(before, x, jnp.ones_like(mask))),
    "returns run on over ends of episodes": (
        "discounted_returns",
        lambda before, reward, time, *rest: real_returns(before, reward, jnp.ones_like(time), *rest),
    ),
    "returns start anew with every rollout": ("discounted_returns", lambda before, *rest: real_returns(0 * before, *rest)),
    "rewards instead of returns": ("discounted_returns", lambda before, reward, *rest: (before, reward)),
    "a row of a reset cuts the return": (
        "discounted_returns",
        lambda before, reward, time, mask, discount: real_returns(before, reward, time * jnp.roll(time, 1), mask, discount),
    ),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_of_the_statistics_are_told_apart(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place, mutant = MUTANTS[name]
    monkeypatch.setattr(combinators, place, mutant)
    assert statistics_error(whole=False) > 1e-3


@pytest.mark.usefixtures("x64")
def test_an_update_is_that_of_the_algorithm_inside_in_the_units_of_before() -> None:
    """Of agents, metrics, gradients and contributions; in the first iteration nothing is shifted or scaled."""
    algorithm = normalise(STEPS)
    first, second = cut(stream(2 * T))
    inside, outside = jax.jit(STEPS.update), jax.jit(algorithm.update)
    agent = algorithm.init(KEY, SPEC)
    assert_equal(learnt(agent), STEPS.init(KEY, SPEC))
    seen = None
    for rollout in (first, second):
        units = units_by_hand(rollout, seen)
        assert np.abs(units.obs).max() == 10  # clipping is part of it
        expected, expected_metrics = inside(KEY, learnt(agent), units)
        for name in ("gradient", "contributions"):
            assert_close(jax.jit(getattr(algorithm, name))(agent, rollout), jax.jit(getattr(STEPS, name))(learnt(agent), units))
        after, metrics = outside(KEY, agent, rollout)
        scale = np.sqrt((1.0 if seen is None else returns_by_hand(seen).var()) + 1e-8)
        assert float(metrics.pop("reward_scale")) == pytest.approx(scale, rel=1e-8)
        assert_close(learnt(after), expected)
        assert_close(metrics, expected_metrics, 1e-9)
        assert [leaf.dtype for leaf in jax.tree.leaves(after)] == [leaf.dtype for leaf in jax.tree.leaves(agent)]
        assert jax.tree.structure(after) == jax.tree.structure(agent)
        agent, seen = after, first
    assert int(agent.steps) == first.mask.sum() + second.mask.sum()


@pytest.mark.usefixtures("x64")
def test_each_of_both_alone() -> None:
    first, second = cut(stream(2 * T))
    units = units_by_hand(second, first)
    for choice, kept in (("observations", ("reward",)), ("rewards", ("obs", "next_obs"))):
        algorithm = normalise(STEPS, **{"observations": False, "rewards": False, choice: True})
        agent, metrics = jax.jit(algorithm.update)(KEY, algorithm.init(KEY, SPEC), first)
        assert ("reward_scale" in metrics) == (choice == "rewards")
        assert isinstance(algorithm.policy(agent), Normalised) == (choice == "observations")
        expected = units._replace(**{name: getattr(second, name) for name in kept})
        assert_close(agent.normaliser(second), expected)
    assert algorithm.policy(agent) is agent.params.policy
    discrete = algorithm.init(KEY, Spec(Discrete(4), Discrete(3), B))  # rewards alone go with any observations
    assert isinstance(discrete.normaliser, Normaliser)
    assert normalise(STEPS, observations=False, rewards=False) is STEPS


def test_the_acting_policy_is_the_policy_inside_on_normalised_observations() -> None:
    algorithm = normalise(STEPS)
    first, second = cut(stream(2 * T), np.float32)
    agent, _ = jax.jit(algorithm.update)(KEY, algorithm.init(KEY, SPEC), first)
    units = agent.normaliser(second)
    got, expected = algorithm.policy(agent)(second.obs).logits, agent.params.policy(units.obs).logits
    valid = second.mask > 0
    np.testing.assert_allclose(got[valid], expected[valid], rtol=0, atol=1e-6)
    for field in ("obs", "next_obs", "reward"):
        np.testing.assert_array_equal(np.asarray(getattr(units, field))[~valid], 0)


def test_rewards_of_another_unit_give_the_same_updates() -> None:
    """Once there are statistics. The rewards' mean stays in: reward −2 a step is not reward 0."""
    algorithm = normalise(STEPS)
    first, second = cut(stream(2 * T), np.float32)
    fresh, update, afters = algorithm.init(KEY, SPEC), jax.jit(algorithm.update), []
    for unit in (1.0, 10.0, 1e-2):
        warm, rollout = (rollout._replace(reward=rollout.reward * np.float32(unit)) for rollout in (first, second))
        agent = fresh._replace(normaliser=fresh.normaliser.moved(warm, GAMMA))
        after, metrics = update(KEY, agent, rollout)
        assert float(metrics["reward_scale"]) > unit
        afters.append((after.params, after.baseline))
    assert_close(afters[1], afters[0], 1e-5)
    assert_close(afters[2], afters[0], 1e-4)
    constant = agent.normaliser(second._replace(reward=np.full((T, B), -0.02, np.float32)))
    assert float(constant.reward[0, 0]) < -0.1


def test_what_never_changes_stays_finite() -> None:
    algorithm = normalise(STEPS)
    first, second = cut(stream(2 * T), np.float32)
    first, second = (
        r._replace(obs=np.full_like(r.obs, 7.3), next_obs=np.full_like(r.obs, 7.3), reward=0 * r.reward) for r in (first, second)
    )
    update, agent = jax.jit(algorithm.update), algorithm.init(KEY, SPEC)
    for rollout in (first, second, second):
        agent, metrics = update(KEY, agent, rollout)
        assert bool(metrics["finite"])
    np.testing.assert_array_equal(agent.normaliser(second).obs, 0)


def test_statistics_that_overflow_leave_the_agent_of_before() -> None:
    algorithm = normalise(STEPS)
    first, second = cut(stream(2 * T), np.float32)
    update = jax.jit(algorithm.update)
    agent, _ = update(KEY, algorithm.init(KEY, SPEC), first)
    second.obs[0, 0] = 1e30  # its square is infinite
    after, metrics = update(KEY, agent, second)
    assert not bool(metrics["finite"])
    assert_equal(after, agent._replace(steps=agent.steps + int(second.mask.sum())))


# ── with reuse ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("whole", [False, True])
def test_the_order_with_reuse_makes_no_difference(whole: bool) -> None:
    """Two passes, and a logged rollout of other columns in the same units, which does not move the statistics."""
    algorithm = plain(episodes() if whole else steps(T), per_decision)
    everything, logged = stream(3 * T, whole=whole), cut(stream(T, columns=2, seed=5, gaps=False, whole=whole))[0]
    by_hand = jax.jit(reuse(algorithm, 2).update)
    ways = (normalise(reuse(algorithm, 2, logged=logged)), reuse(normalise(algorithm), 2, logged=logged))
    agents = [way.init(KEY, SPEC) for way in ways]
    assert_equal(*agents)
    updates = [jax.jit(way.update) for way in ways]
    for i, rollout in enumerate(cut(everything)):
        before = learnt(agents[0])
        agents = [update(KEY, agent, rollout)[0] for update, agent in zip(updates, agents, strict=True)]
        assert_close(*agents)
        assert int(agents[0].steps) == everything.mask[: (i + 1) * T].sum()
        if i == 1:
            seen = jax.tree.map(lambda leaf: leaf[:T], everything)
            joint = units_by_hand(jax.tree.map(np.asarray, combinators.joined(rollout, logged)), seen)
            expected, _ = by_hand(KEY, before, joint)
            assert_close(learnt(agents[0])._replace(steps=expected.steps), expected)
            mixed = jax.tree.map(np.asarray, combinators.joined(units_by_hand(rollout, seen), logged))
            wrong, _ = by_hand(KEY, before, mixed)  # fresh data in one unit, the log in another
            assert np.abs(np.asarray(wrong.params.policy.head.layer.weight - expected.params.policy.head.layer.weight)).max() > 1e-3
    got = agents[1].normaliser
    assert not got.applied
    obs = everything.obs[everything.mask > 0]
    assert_close(tuple(got.observations.statistics), (len(obs), obs.mean(axis=0), obs.var(axis=0)))
    assert_close(got.returns.statistics.variance, returns_by_hand(everything).var())


# ── in training ──────────────────────────────────────────────────────────────────────────────────────────────────────

QUICK: dict[str, Any] = {"out": False, "num_envs": 4}
TRAINED = normalise(plain(steps(16), rate=0.5))


@cache
def trained(env: str, backend: str) -> pg.Run:
    return pg.train(env, TRAINED, num_steps=5 * 64, backend=backend, **QUICK)


@pytest.mark.parametrize(("env", "backend"), [("CartPole-v1", "compiled"), ("Pendulum-v1", "gymnasium")])
def test_the_ratio_is_one_before_every_step_while_statistics_move(env: str, backend: str) -> None:
    run = trained(env, backend)
    assert run.metrics["ratio_error"].max() <= 1e-5
    scale = run.metrics["reward_scale"]
    assert scale[0] == 1
    assert len(set(scale.tolist())) == 5
    policy = run.policy
    assert isinstance(policy, Normalised)
    assert float(policy.count) == 5 * 64
    assert_equal(policy.policy, run.seeds[0].agent.params.policy)
    if env == "Pendulum-v1":
        assert np.all(run.returns < -100)  # the record's returns are the environment's own
        assert abs(run.metrics["first_reward"][-1]) < 2


def test_statistics_that_moved_before_the_update_would_show_in_the_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rollout, seen with the statistics of after it."""
    algorithm = TRAINED
    env = pg.make("CartPole-v1")
    collector = compiled_collector(env, algorithm.collect, 4)  # type: ignore[arg-type]

    def errors(agent: Agent, key: Any) -> tuple[Any, Any]:
        _, rollout, _ = collector.collect(algorithm.policy(agent), key, collector.init(key))
        _, metrics = algorithm.update(key, agent, rollout)
        _, early = algorithm.update(key, agent._replace(normaliser=agent.normaliser.moved(rollout, GAMMA)), rollout)
        return metrics["ratio_error"], early["ratio_error"]

    right, early = jax.jit(errors)(trained("CartPole-v1", "compiled").seeds[0].agent, KEY)
    assert float(right) <= 1e-5
    assert float(early) > 1e-3


def test_evaluation_moves_nothing_and_files_give_the_same_actions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained("CartPole-v1", "compiled")
    before = jax.tree.map(np.array, run.policy)
    pg.save(run.policy, tmp_path / "policy.safetensors")
    ours = pg.evaluate(run.policy, "CartPole-v1", num_episodes=8)
    assert_equal(run.policy, before)
    loaded = pg.load(tmp_path / "policy.safetensors")
    assert_equal(loaded, before)
    np.testing.assert_array_equal(pg.evaluate(loaded, "CartPole-v1", num_episodes=8).returns, ours.returns)
    arguments = ["evaluate", str(tmp_path / "policy.safetensors"), "--env", "CartPole-v1", "--num-episodes", "8", "--json"]
    assert main(arguments) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["mean"] == pytest.approx(ours.mean)


def test_a_run_goes_on_from_the_statistics_of_a_saved_policy(tmp_path: Path) -> None:
    teacher = trained("CartPole-v1", "compiled").policy
    pg.save(teacher, tmp_path / "teacher.safetensors")
    run = pg.train("CartPole-v1", TRAINED, num_steps=64, init=tmp_path / "teacher.safetensors", **QUICK)
    assert run.metrics["ratio_error"].max() <= 1e-5
    assert float(run.policy.count) == float(teacher.count) + 64
    assert run.metrics["reward_scale"][0] == 1  # those of rewards are not part of what acts
    share = 64 / float(run.policy.count)
    assert np.abs(np.asarray(run.policy.mean - teacher.mean) / np.sqrt(teacher.variance)).max() < 4 * share
    for algorithm, policy in ((TRAINED, teacher.policy), (plain(steps(16), rate=0.5), teacher)):
        with pytest.raises(UsageError, match=r"^init: the policy has another structure [^\n]* and normalisation as it was trained with$"):
            pg.train("CartPole-v1", algorithm, num_steps=64, init=policy, **QUICK)


def test_diagnostics_go_with_it(capsys: pytest.CaptureFixture[str]) -> None:
    """On an LQR the exact gradient of a policy with a normaliser inside is not known, which is said."""
    gaussian = compose(
        "gaussian",
        {"discount": GAMMA},
        collect=steps(8),
        policy=policies.linear(sigma=0.5),
        advantage=partial(advantages.reward_to_go, discount=GAMMA),
        baseline=baselines.none(),
        ascent=gradient_ascent(score_function(), learning_rate=1e-3),
    )
    run = pg.train("LQR-v0", normalise(gaussian), num_steps=32, diagnostics=True, **QUICK)
    assert np.isfinite(run.metrics["gradient_variance"]).all()
    assert "exact_cosine" not in run.metrics
    assert "diagnostics without exact_cosine" in capsys.readouterr().err


# ── misuse ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"clip": 0.0}, r"^normalise: got 0\.0 for clip; it must be a number above 0$"),
        ({"clip": None}, r"^normalise: got None for clip;"),
        ({"epsilon": -1e-8}, r"^normalise: got -1e-08 for epsilon; it must be a number above 0$"),
        ({"epsilon": float("inf")}, r"^normalise: got inf for epsilon; it must be finite$"),
        ({"observations": 1}, r"^normalise: got 1 for observations; it must be True or False$"),
        ({"rewards": "yes"}, r"^normalise: got 'yes' for rewards; it must be True or False$"),
        ({"discount": 1.5}, r"^normalise: got 1\.5 for discount; it must be a number in \[0, 1\]$"),
        ({"discount": float("nan")}, r"^normalise: got nan for discount;"),
    ],
)
def test_misuse_is_one_clear_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        normalise(STEPS, **arguments)


def test_a_discount_must_come_from_somewhere() -> None:
    with pytest.raises(UsageError, match=r"^normalise: got no discount, and the settings of plain have none; pass discount=, in \[0, 1\]$"):
        normalise(STEPS._replace(settings={}))
    normalise(STEPS._replace(settings={}), rewards=False)


def test_wrong_algorithms_and_spaces_fail_when_the_agent_is_made() -> None:
    with pytest.raises(SpaceError, match=r"^normalise: got observations Discrete\(4\); they must be a Box of floats, or have one"):
        normalise(STEPS).init(KEY, Spec(Discrete(4), Discrete(3), B))
    with pytest.raises(UsageError, match=r"^normalise: got an algorithm that normalises already; it must be applied once$"):
        normalise(reuse(normalise(STEPS), 2)).init(KEY, SPEC)
