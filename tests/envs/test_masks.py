"""Masks of actions: from infos or observations, in every loop, and what is said of masks that are wrong."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, get_args

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import policygrad as pg
from combos import to_gymnasium
from policygrad import policies
from policygrad.envs import Env
from policygrad.envs.gymnasium_adapter import AUTORESETS
from policygrad.envs.make import make
from policygrad.envs.vector_adapter import check_masks, env_seeds
from policygrad.errors import EnvError, SpaceError, UsageError
from policygrad.rollout import HostCollector, compiled_collector, episodes, record, steps
from policygrad.settings import BaselineName
from policygrad.spaces import MASK, Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Tuple, choices, flattened, leaves
from policygrad.training.runners import spec_of
from policygrad.types import Spec, Step
from policygrad.vectors.masks import flat_mask

B = 4
LIMIT = 6
ACTIONS: dict[str, Space] = {
    "discrete": Discrete(3, start=2),
    "multi-discrete": MultiDiscrete((2, 3), starts=(0, 1)),
    "multi-binary": MultiBinary((2,)),
    "hybrid": Dict.of({"go": Discrete(2), "force": Box.of(-1.0, 1.0, (2,)), "pick": MultiDiscrete((2, 3))}),
}
PARTS: dict[str, Space] = {
    "discrete": MultiBinary((3,)),
    "multi-discrete": Tuple((MultiBinary((2,)), MultiBinary((3,)))),
    "multi-binary": MultiBinary((4,)),
    "hybrid": Dict.of({"go": MultiBinary((2,)), "pick": Tuple((MultiBinary((2,)), MultiBinary((3,))))}),
}
"""Masks in the structure of their actions."""


def blocks(space: Space, rng: Any) -> list[np.ndarray]:
    """A random mask of every choice that allows at least one alternative."""
    result = []
    for count in choices(space):
        block = rng.integers(0, 2, count).astype(np.int8)
        block[rng.integers(count)] = 1
        result.append(block)
    return result


def chosen(space: Space, action: Any) -> list[int]:
    """The alternatives taken, in the order of `choices`; the action counts from 0."""
    discrete = [x for (_, leaf), x in zip(leaves(space), flattened(space, action), strict=True) if not isinstance(leaf, Box)]
    return [int(number) for part in discrete for number in np.ravel(part)]


def in_parts(kind: str, mask: list[np.ndarray]) -> Any:
    match kind:
        case "discrete":
            return mask[0]
        case "multi-discrete":
            return tuple(mask)
        case "multi-binary":
            return np.concatenate(mask)
    return {"go": mask[0], "pick": tuple(mask[1:])}


class Gate(gymnasium.Env):
    """Episodes of 1 to 9 steps, cut at LIMIT, with a new random mask at every step; a forbidden action raises.

    Args:
        kind: of action, a key of ACTIONS.
        form: where the mask is given, and how: "info", "info parts", "observation", "observation parts", "observation box".
        end: at the end of an episode it is "missing" (of observations: zeros), or "zeros".
        fault: what it is at step 3: "missing", "short" or "empty"; None for never.
        tolerant: a forbidden action passes.
    """

    def __init__(self, kind: str, form: str, end: str = "missing", fault: str | None = None, tolerant: bool = False):
        self.kind, self.form, self.end, self.fault, self.tolerant = kind, form, end, fault, tolerant
        self.ours = ACTIONS[kind]
        self.action_space = to_gymnasium(self.ours)
        size = sum(choices(self.ours))
        box, flat = gymnasium.spaces.Box(-1, 1, (2,), np.float32), gymnasium.spaces.MultiBinary(size)
        spaces = {"observation": flat, "observation parts": to_gymnasium(PARTS[kind])}
        spaces["observation box"] = gymnasium.spaces.Box(0, 1, (size,), np.int8)
        self.observation_space = gymnasium.spaces.Dict({"observation": box, MASK: spaces[form]}) if form in spaces else box

    def _answer(self, over: bool) -> tuple[Any, dict[str, Any]]:
        self.mask = blocks(self.ours, self.np_random)
        given = self.mask
        if over or (self.t == 3 and self.fault in ("empty", "missing")):
            given = [0 * block for block in given]
        given = in_parts(self.kind, given) if self.form.endswith("parts") else np.concatenate(given)
        if self.t == 3 and self.fault == "short":
            given = flat_mask(given)[:-1]
        obs = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        if not self.form.startswith("info"):
            return {"observation": obs, MASK: given}, {}
        missing = (over and self.end == "missing") or (self.t == 3 and self.fault == "missing")
        return obs, {} if missing else {MASK: given}

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t, self.length = 0, 9 if self.fault else int(self.np_random.integers(1, 10))
        return self._answer(False)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        plain = jax.tree.map(np.asarray, action)
        if self.kind == "discrete":
            plain = plain - 2
        if self.kind == "multi-discrete":
            plain = plain - [0, 1]
        taken = chosen(self.ours, plain)
        assert self.tolerant or all(block[i] for block, i in zip(self.mask, taken, strict=True)), "a forbidden action"
        self.t += 1
        terminated, truncated = self.t == self.length, self.t == LIMIT
        obs, info = self._answer(terminated or truncated)
        return obs, float(sum(taken)), terminated, truncated, info


def policy_for(env: Any, scale: float = 3.0) -> Any:
    """One that would like forbidden actions as much as others."""
    built = policies.linear()(jax.random.key(0), Spec(env.observation_space, env.action_space, 1))
    return jax.tree.map(lambda leaf: scale * jax.random.normal(jax.random.key(1), leaf.shape), built)


def collected(env: Any, collect: Any, policy: Any = None, **options: Any) -> Any:
    num_envs = env.fixed_num_envs or B
    host = HostCollector(env, collect, num_envs, seed=0, key=jax.random.key(0), **options)
    try:
        return host.collect(policy_for(env) if policy is None else policy, log_prob=False)[0]
    finally:
        host.close()


def flat_masks(rollout: Any) -> np.ndarray:
    """[T, B, M]."""
    return np.concatenate([np.asarray(leaf) for leaf in jax.tree.leaves(rollout.obs[MASK])], axis=-1)


# ── forbidden actions never arrive ───────────────────────────────────────────────────────────────────────────────────


HOW = [(kind, form) for kind in ACTIONS for form in ("info", "observation")]
HOW += [
    ("discrete", "observation box"),
    *((kind, form) for kind in ("multi-discrete", "hybrid") for form in ("info parts", "observation parts")),
]


@pytest.mark.parametrize("mode", AUTORESETS)
@pytest.mark.parametrize(("kind", "form"), HOW)
def test_forbidden_actions_never_arrive(kind: str, form: str, mode: str) -> None:
    """The environment raises at the first one; at the end of an episode the mask is missing, or allows nothing."""
    env = make(partial(Gate, kind, form), autoreset=mode)
    rollout = collected(env, steps(80), policy_for(env))
    valid = rollout.mask > 0
    assert valid.sum() > 4 * 80 * (0.6 if mode == "next-step" else 0.99)
    masks = flat_masks(rollout)
    assert (masks[~valid] == 1).all()  # rows that only reset: of no action there is no distribution
    assert 0.2 < (masks[valid] == 0).mean() < 0.6
    at = 0
    for number, count in enumerate(choices(env.action_space)):
        assert (masks[valid][:, at : at + count] != 0).any(axis=-1).all(), number
        at += count


def test_the_record_does_not_depend_on_where_the_mask_is_given() -> None:
    """Nor on the mode, bit for bit; and forbidden actions would have been taken without it."""
    reference = collected(make(partial(Gate, "hybrid", "info")), steps(30))
    for form, end in (("observation", "zeros"), ("info", "zeros")):
        other = collected(make(partial(Gate, "hybrid", form, end)), steps(30))
        for a, b in zip(jax.tree.leaves(reference._replace(next_obs=())), jax.tree.leaves(other._replace(next_obs=())), strict=True):
            np.testing.assert_array_equal(a, b)
    parts = collected(make(partial(Gate, "hybrid", "info parts")), steps(30))
    np.testing.assert_array_equal(flat_masks(parts), flat_masks(reference))
    unmasked = dataclasses.replace(policy_for(make(partial(Gate, "hybrid", "observation"))), observation_space=Discrete(1))
    with pytest.raises(EnvError, match="a forbidden action"):
        collected(make(partial(Gate, "hybrid", "observation")), steps(30), unmasked)


def test_an_end_without_a_mask_allows_all() -> None:
    rollout = collected(make(partial(Gate, "discrete", "info")), steps(60))
    over = rollout.terminated | rollout.truncated
    assert over.sum() > 20
    assert (rollout.next_obs[MASK][over] == 1).all()
    zeros = collected(make(partial(Gate, "discrete", "info", "zeros")), steps(60))
    assert (zeros.next_obs[MASK][over] == 0).all()  # as it was given


@pytest.mark.parametrize("mode", AUTORESETS)
def test_whole_episodes(mode: str) -> None:
    rollout = collected(make(partial(Gate, "multi-discrete", "observation parts"), autoreset=mode), episodes(5 * B))
    assert (rollout.mask[0] == 1).all()
    assert (flat_masks(rollout)[rollout.mask == 0] == 1).all()


def test_worker_processes() -> None:
    env = make(partial(Gate, "hybrid", "info"), vectorization="async")
    reference = collected(make(partial(Gate, "hybrid", "info")), steps(30))
    for a, b in zip(jax.tree.leaves(collected(env, steps(30))), jax.tree.leaves(reference), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("kind", "form"), [("discrete", "info"), ("hybrid", "observation parts")])
def test_evaluation_takes_allowed_modes(kind: str, form: str) -> None:
    env = make(partial(Gate, kind, form))
    evaluation = pg.evaluate(policy_for(env), partial(Gate, kind, form), num_episodes=40)
    assert len(evaluation.returns) == 40


def test_a_ready_vector_whose_observations_hold_the_mask() -> None:
    for mode in AutoresetMode:
        vector = SyncVectorEnv([partial(Gate, "hybrid", "observation", "zeros")] * B, autoreset_mode=mode)
        assert collected(make(vector), steps(40)).mask.sum() > 80


def test_a_ready_environment() -> None:
    assert collected(make(Gate("multi-binary", "info")), steps(40)).mask.sum() == 40


# ── compiled ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def walled(kind: str, empty_at: int | None = None, shortest: int = 1) -> Env:
    """The same, compiled: a forbidden action is rewarded with −1000. No action is allowed at step `empty_at` and at the end."""
    actions, shape = ACTIONS[kind], PARTS[kind]

    def masks(key: Any, none: Any) -> Any:
        drawn = []
        for count, one in zip(choices(actions), jax.random.split(key, len(choices(actions))), strict=True):
            some, sure = jax.random.bernoulli(one, 0.4, (count,)), jax.random.randint(one, (), 0, count)
            drawn.append(jnp.where(none, 0, some | (jnp.arange(count) == sure)).astype(jnp.int8))
        return in_parts(kind, drawn) if kind != "multi-binary" else jnp.concatenate(drawn)

    def observe(key: Any, t: Any, none: Any) -> Any:
        return {"observation": jax.random.uniform(key, (2,)), MASK: masks(key, none | (t == (empty_at or 99)))}

    def reset(key: Any) -> Any:
        length = jax.random.randint(key, (), shortest, 10)
        obs = observe(key, jnp.zeros((), jnp.int32), jnp.zeros((), bool))
        return (jnp.zeros((), jnp.int32), length, jax.tree.leaves(obs[MASK])), obs

    def step(key: Any, state: Any, action: Any) -> Any:
        t, length, mask = state[0] + 1, state[1], jnp.concatenate(state[2])
        discrete = [x for (_, leaf), x in zip(leaves(actions), flattened(actions, action), strict=True) if not isinstance(leaf, Box)]
        numbers, at, forbidden = jnp.concatenate([jnp.ravel(x) for x in discrete]), 0, jnp.zeros((), bool)
        for i, count in enumerate(choices(actions)):
            forbidden |= mask[at + numbers[i]] == 0
            at += count
        obs = observe(key, t, t >= jnp.minimum(length, LIMIT))
        over = t >= length
        reward = jnp.where(forbidden, -1000.0, jnp.sum(numbers))
        return (t, length, jax.tree.leaves(obs[MASK])), Step(obs, reward, over, t >= LIMIT)

    space = Dict.of({"observation": Box.of(0.0, 1.0, (2,)), MASK: shape})
    return Env("Walled-v0", space, actions, reset, step, time_limit=LIMIT)


def test_forbidden_actions_never_arrive_compiled() -> None:
    env = walled("multi-discrete")
    policy = policy_for(env)
    for collect in (steps(100, num_envs=20), episodes(200)):
        rollout = record(policy, env, collect)
        assert (rollout.reward >= 0).all()
        assert np.isfinite(rollout.log_prob).all()
        masks = flat_masks(rollout)
        assert 0.2 < (masks[rollout.mask > 0] == 0).mean() < 0.6
        assert (masks[rollout.mask == 0] == 1).all()
    assert (pg.evaluate(policy, env, num_episodes=64).returns >= 0).all()


# ── training ─────────────────────────────────────────────────────────────────────────────────────────────────────────

TINY: dict[str, Any] = {"hidden_sizes": (3,)}


def test_normalised_observations_leave_masks_alone() -> None:
    """Statistics that moved would make something else of 0: a box of bytes with sign, as other libraries give masks, is numbers too."""
    algorithm = pg.a2c(**TINY, rollout_length=16, normalize_observations=True)
    run = pg.train(partial(Gate, "discrete", "observation box"), algorithm, num_steps=3 * 16 * B, num_envs=B, out=False, figures=False)
    assert run.policy.mean[MASK] == run.policy.variance[MASK] == ()
    assert run.policy.mean["observation"].shape == (2,)
    assert float(run.policy.count) == 3 * 16 * B
    seen = {"observation": np.ones((1, 2), np.float32), MASK: np.array([[0, 1, 0]], np.float32)}
    np.testing.assert_allclose(run.policy(seen).probabilities(), [[0, 1, 0]])


def test_there_must_be_something_to_normalise_beside_the_mask() -> None:
    space = Dict.of({"observation": Discrete(2), MASK: Box.of(0, 1, (3,), "int8")})
    with pytest.raises(SpaceError, match=r"^normalise: got observations Dict"):
        pg.a2c(normalize_observations=True).init(jax.random.key(0), Spec(space, Discrete(3), 1))


def test_taxi(tmp_path: Any) -> None:
    """Gymnasium's own masks: a table, trained on the host, saved, loaded and evaluated. What they forbid changes nothing there."""
    forbidden = []

    class Watched(gymnasium.Wrapper):
        def reset(self, **options: Any) -> Any:
            answer = self.env.reset(**options)
            self.mask = answer[1][MASK]
            return answer

        def step(self, action: Any) -> Any:
            forbidden.append(not self.mask[action])
            answer = self.env.step(action)
            self.mask = answer[-1][MASK]
            return answer

    name = "Taxi-v4" if "Taxi-v4" in gymnasium.registry else "Taxi-v3"
    options: dict[str, Any] = {"env_args": {"max_episode_steps": 40}, "wrappers": [Watched]}
    run = pg.train(name, pg.reinforce(policy=policies.default()), num_steps=320, num_envs=4, out=tmp_path / "run", figures=False, **options)
    assert {leaf.shape for leaf in jax.tree.leaves(run.policy)} == {(500, 6)}
    assert run.policy.observation_space == Dict.of({"observation": Discrete(500), MASK: MultiBinary((6,))})
    assert any((np.asarray(leaf) != 0).any() for leaf in jax.tree.leaves(run.policy))
    policies.save(run.policy, tmp_path / "policy.safetensors")
    loaded = policies.load(tmp_path / "policy.safetensors")
    same = [pg.evaluate(one, name, num_episodes=4, **options).returns for one in (run.policy, loaded)]
    np.testing.assert_array_equal(*same)
    assert len(forbidden) > 500
    assert sum(forbidden) <= 1  # the step of the check before training, which is no policy's


@pytest.fixture(scope="module")
def padded() -> Any:
    """Whole episodes of different lengths, so that columns end in rows that are no steps."""
    env = walled("discrete")
    recipe = pg.reinforce(**TINY)
    collector = compiled_collector(env, recipe.collect, B)
    acts = recipe.acting(recipe.init(jax.random.key(0), spec_of(env, B)))
    _, rollout, _ = jax.jit(collector.collect)(acts, jax.random.key(2), ())
    assert 0 < (rollout.mask == 0).sum() < rollout.mask.size / 2
    return env, rollout


@pytest.mark.parametrize("baseline", [name for name in get_args(BaselineName) if name not in ("state-mean", "value-table")])
def test_masks_in_padded_rows_do_no_harm(baseline: str, padded: Any) -> None:
    """Zeros there would make a NaN, which no weight of 0 takes away."""
    env, rollout = padded
    layers = {"hidden_sizes": (3,)} if baseline != "least-squares" else {"hidden_sizes": ()}
    recipe = pg.reinforce(**layers, baseline=baseline, critic_steps=1, entropy_bonus=0.1)
    agent = recipe.init(jax.random.key(0), spec_of(env, B))
    after, metrics = jax.jit(recipe.update)(jax.random.key(1), agent, rollout)
    assert metrics["finite"]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((after.params, after.baseline)))
    moved = zip(jax.tree.leaves(after.params.policy), jax.tree.leaves(agent.params.policy), strict=True)
    assert any((np.asarray(new) != np.asarray(old)).any() for new, old in moved)


# ── masks that are wrong ─────────────────────────────────────────────────────────────────────────────────────────────


class Sized(Gate):
    """Masks of another size."""

    def _answer(self, over: bool) -> tuple[Any, dict[str, Any]]:
        return super()._answer(over)[0], {MASK: np.ones(4, np.int8)}


@pytest.mark.parametrize(
    ("env", "line"),
    [
        (
            partial(Sized, "discrete", "info"),
            r"info\['action_mask'\] got 4 entries for actions Discrete\(3, start=2\); it must have 3: one for",
        ),
        (
            partial(Sized, "hybrid", "info"),
            r"info\['action_mask'\] got 4 entries for actions Dict\([^\n]*; it must have 7: one for each alter",
        ),
    ],
)
def test_a_wrong_size_is_told_before_anything_is_compiled(env: Any, line: str) -> None:
    with pytest.raises(SpaceError, match=rf"^environment \w+: {line}[^\n]*$"):
        make(env)


def test_a_mask_for_continuous_actions_is_told() -> None:
    class Continuous(Gate):
        def __init__(self) -> None:
            super().__init__("discrete", "info")
            self.action_space = gymnasium.spaces.Box(-1, 1, (2,))

    with pytest.raises(SpaceError, match=r"^environment Continuous: info\['action_mask'\] got 3 entries for actions Box[^\n]* must have 0"):
        make(Continuous)


def test_a_vector_entry_point_has_no_place_for_masks() -> None:
    class Vector(SyncVectorEnv):
        pass

    entry = partial(Gate, "discrete", "info")
    gymnasium.register("PolicygradGate-v0", entry, vector_entry_point=lambda num_envs: Vector([entry] * num_envs))
    try:
        assert make("PolicygradGate-v0").vectorization == "sync"
        with pytest.raises(UsageError, match=r"^PolicygradGate-v0: its vector entry point has no place for info\['action_mask'\]; use "):
            make("PolicygradGate-v0", vectorization="vector")
    finally:
        del gymnasium.registry["PolicygradGate-v0"]


LATER = (
    r"^environment \w+, copy 0, raised at vector step 3: ValueError: info\['action_mask'\]: got {}; it must have 3, one for each [^\n]*$"
)


@pytest.mark.parametrize("mode", AUTORESETS)
@pytest.mark.parametrize(("fault", "got"), [("missing", "none"), ("short", "2 entries")])
def test_later_faults_name_environment_and_step(fault: str, got: str, mode: str) -> None:
    line = LATER.format(got) if mode == "same-step" else LATER.format(got).replace(", copy 0,", "")
    with pytest.raises(EnvError, match=line):
        collected(make(partial(Gate, "discrete", "info", fault=fault), autoreset=mode), steps(8))


EMPTY = (
    r"^environment \w+, copy 0, step 3 of its episode \(about \d+ steps into the run\): the action_mask leaves no action{}; correct [^\n]*$"
)


@pytest.mark.parametrize("tolerant", [True, False])
@pytest.mark.parametrize("mode", AUTORESETS)
@pytest.mark.parametrize(("kind", "form"), [("discrete", "info"), ("hybrid", "observation parts")])
def test_no_action_left(kind: str, form: str, mode: str, tolerant: bool) -> None:
    """Told where it is found, also where the environment itself raises at what was taken."""
    which = " for its discrete choice 0" if kind == "hybrid" else ""
    env = make(partial(Gate, kind, form, fault="empty", tolerant=tolerant), autoreset=mode)
    with pytest.raises(EnvError, match=EMPTY.format(which)):
        collected(env, steps(12))
    with pytest.raises(EnvError, match=EMPTY.format(which)):
        collected(env, episodes(B), sample=False)


def test_a_row_that_only_resets_needs_no_action() -> None:
    """Where another copy raises in that very row, its own fault is told."""

    class Breaks(Gate):
        def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict[str, Any]]:
            answer = super().reset(seed=seed)
            self.second = seed == env_seeds(0, B)[1]
            self.length = 9 if self.second else 2
            return answer

        def step(self, action: Any) -> Any:
            if self.second and self.t == 2:
                raise RuntimeError("out of petrol")
            return super().step(action)

    env = make(partial(Breaks, "discrete", "observation"), autoreset="next-step")
    with pytest.raises(EnvError, match=r"^environment \w+ raised at vector step 3: RuntimeError: out of petrol; [^\n]*$"):
        collected(env, steps(8))


def test_no_action_left_at_the_reset() -> None:
    class Shut(Gate):
        def _answer(self, over: bool) -> tuple[Any, dict[str, Any]]:
            return super()._answer(True)

    with pytest.raises(
        UsageError, match=r"^environment \w+, reset: the action_mask leaves no action; correct the environment or its space$"
    ):
        make(partial(Shut, "discrete", "info", "zeros"))


@pytest.mark.parametrize("algorithm", [pg.reinforce(**TINY, baseline="none"), pg.a2c(**TINY, rollout_length=8)], ids=lambda a: a.name)
def test_no_action_left_compiled(algorithm: Any) -> None:
    """No gradient would tell: an action that has no probability weighs nothing."""
    env = walled("discrete", empty_at=3, shortest=6)
    line = r"^environment Walled-v0, copy 0, step 3 of its episode \(seed 0, update 1 at \d+ steps\): the action_mask leaves no action;"
    with pytest.raises(EnvError, match=line):
        pg.train(env, algorithm, num_steps=64, num_envs=2, out=False, figures=False)


def test_no_action_left_compiled_where_nothing_is_learnt() -> None:
    env = walled("discrete", empty_at=3, shortest=6)
    line = r"^environment Walled-v0, copy 0, step 3 of its episode: the action_mask leaves no action; correct the environment$"
    for call in (lambda: record(policy_for(env), env, steps(8, num_envs=2)), lambda: pg.evaluate(policy_for(env), env, num_episodes=2)):
        with pytest.raises(EnvError, match=line):
            call()


@pytest.mark.parametrize("structured", [False, True])
@pytest.mark.parametrize("choice", [0, 1, 2])
def test_each_choice_needs_an_alternative_of_its_own(choice: int, structured: bool) -> None:
    """Others' do not count; nor do rows that are no steps."""
    actions = ACTIONS["hybrid"]
    space = Dict.of({"observation": Discrete(2), MASK: PARTS["hybrid"] if structured else MultiBinary((7,))})
    mask, valid = np.ones((3, 4, 7), np.int8), np.ones((3, 4), bool)
    first = np.cumsum([0, *choices(actions)])
    mask[[0, 1, 2], [3, 2, 0], first[choice] : first[choice + 1]] = 0
    valid[0, 3] = False
    parts = {"go": mask[..., :2], "pick": (mask[..., 2:4], mask[..., 4:])}
    wrong = check_masks(space, actions, {MASK: parts if structured else mask}, valid)
    assert wrong == (1, 2, f"the action_mask leaves no action for its discrete choice {choice}")
    valid[1:] = False
    assert check_masks(space, actions, {MASK: parts if structured else mask}, valid) is None


# ── masks as arrays ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("mask", "flat"),
    [
        ([1, 0, 1], [1, 0, 1]),
        (np.array([True, False]), [1, 0]),
        ((np.array([1, 0]), [0, 1, 1]), [1, 0, 0, 1, 1]),
        (np.array([[1, 0], [0, 1]]), [1, 0, 0, 1]),
        ({"b": [1, 0], "a": ([0, 1], [1])}, [0, 1, 1, 1, 0]),  # keys sorted
        ({"go": [1, 0], "force": None}, [1, 0]),  # as Gymnasium's spaces sample with
        (None, []),
        ((), []),
    ],
)
def test_flat_masks(mask: Any, flat: list[int]) -> None:
    found = flat_mask(mask)
    assert (found.dtype, found.tolist()) == (np.int8, flat)
    if isinstance(mask, np.ndarray):
        assert not np.shares_memory(found, mask)
