"""Others' environments in JAX as ours: toys of which every step is known, and stand-ins for packages that need not be installed."""

from __future__ import annotations

import dataclasses
import sys
import types
from collections.abc import Iterator
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.envs.functional_jax_env import FunctionalJaxEnv
from gymnasium.experimental.functional import FuncEnv

from policygrad import advantages
from policygrad.cli.commands import registered
from policygrad.envs import Env, check_env, make, registry, time_limit
from policygrad.envs.adapters.functional import from_functional
from policygrad.envs.small_worlds import bandit
from policygrad.errors import SpaceError, UnknownNameError, UsageError
from policygrad.rollout import steps
from policygrad.rollout.compiled import compiled_collector
from policygrad.settings import is_foreign
from policygrad.spaces import Box, Dict, Discrete
from rollout.toys import some_policy

KEY = jax.random.key(0)


class Stairs(FuncEnv):
    """From floor 10 by 1 or 2 floors up to floor 14. Its state holds Python numbers, one of which a step turns into a fraction."""

    observation_space = gymnasium.spaces.Dict(
        {"floor": gymnasium.spaces.Discrete(5, start=10), "half": gymnasium.spaces.Box(0, 9, (1,), np.float64)}
    )
    action_space = gymnasium.spaces.Discrete(2, start=1)

    def initial(self, rng: Any, params: Any = None) -> Any:
        return {"floor": 10, "half": 0, "moved": False}

    def transition(self, state: Any, action: Any, rng: Any, params: Any = None) -> Any:
        return {"floor": jnp.minimum(state["floor"] + action, 14), "half": state["half"] + action / 2, "moved": True}

    def observation(self, state: Any, rng: Any, params: Any = None) -> Any:
        return {"floor": state["floor"], "half": jnp.reshape(jnp.asarray(state["half"]), 1)}

    def reward(self, state: Any, action: Any, next_state: Any, rng: Any, params: Any = None) -> Any:
        return 10 * state["floor"] + action + next_state["floor"] / 100

    def terminal(self, state: Any, rng: Any, params: Any = None) -> Any:
        return state["floor"] >= 14


def walked(env: Env, actions: list[int]) -> list[tuple[Any, float, bool, bool]]:
    """(observation, reward, terminated, truncated) of each action from the reset on, without any reset."""
    state, found = env.reset(KEY)[0], []
    step = jax.jit(env.step)
    for action in actions:
        state, made = step(KEY, state, jnp.int32(action))
        found.append((made.obs, float(made.reward), bool(made.terminated), bool(made.truncated)))
    return found


def test_a_functional_environment_counts_from_zero_and_keeps_its_dtypes() -> None:
    env = make(Stairs())
    assert (env.name, env.backend, env.time_limit, env.reward_threshold) == ("Stairs", "compiled", None, None)
    assert env.observation_space == Dict.of({"floor": Discrete(5, start=10), "half": Box.of(0, 9, (1,), "float64")})
    assert env.action_space == Discrete(2, start=1)
    state, obs = env.reset(KEY)
    assert {name: leaf.dtype for name, leaf in obs.items()} == {"floor": jnp.int32, "half": jnp.float32}
    dtypes = {"floor": jnp.int32, "half": jnp.float32, "moved": jnp.bool_}
    assert {name: leaf.dtype for name, leaf in state.items()} == dtypes
    after, step = env.step(KEY, state, jnp.int32(1))
    assert {name: leaf.dtype for name, leaf in after.items()} == dtypes
    assert not any(leaf.weak_type for leaf in jax.tree.leaves((state, after)))
    assert (step.reward.dtype, step.terminated.dtype, step.truncated.dtype) == (jnp.float32, jnp.bool_, jnp.bool_)
    np.testing.assert_array_equal(obs["floor"], 0)
    floors, rewards, terminated, truncated = zip(*walked(env, [0, 1, 0, 0]), strict=True)
    assert [(int(obs["floor"]), float(obs["half"][0])) for obs in floors] == [(1, 0.5), (3, 1.5), (4, 2.0), (4, 2.5)]
    np.testing.assert_allclose(rewards, [101.11, 112.13, 131.14, 141.14], rtol=1e-6)
    assert terminated == (False, False, True, True)  # it goes on from where it ended: nothing resets it
    assert truncated == (False,) * 4


def test_time_is_counted_here() -> None:
    assert [flags[2:] for flags in walked(from_functional(Stairs(), time_limit=2), [0, 0])] == [(False, False), (False, True)]
    assert walked(from_functional(Stairs(), time_limit=2), [1, 1])[-1][2:] == (True, True)
    assert walked(time_limit(make(Stairs()), 1), [0])[-1][2:] == (False, True)


class Noisy(Stairs):
    """What is seen and what happens are drawn from the keys they are given."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,))

    def initial(self, rng: Any, params: Any = None) -> Any:
        return jax.random.normal(rng)

    def transition(self, state: Any, action: Any, rng: Any, params: Any = None) -> Any:
        return jax.random.normal(rng)

    def observation(self, state: Any, rng: Any, params: Any = None) -> Any:
        return jnp.stack([state, jax.random.normal(rng)])

    def reward(self, state: Any, action: Any, next_state: Any, rng: Any, params: Any = None) -> Any:
        return jax.random.normal(rng)

    def terminal(self, state: Any, rng: Any, params: Any = None) -> Any:
        return jax.random.normal(rng) > 0


def test_every_draw_has_a_key_of_its_own() -> None:
    """Under one key for all, state, observation and reward would be one number, and the end its sign."""
    env = from_functional(Noisy())
    keys = jax.random.split(KEY, 4000)
    state, step = jax.vmap(env.step, (0, None, None))(keys, env.reset(KEY)[0], jnp.int32(0))
    draws = np.stack([state, step.obs[:, 1], step.reward, 2.0 * step.terminated - 1])
    assert np.abs(np.corrcoef(draws) - np.eye(4)).max() < 4.5 / np.sqrt(4000)  # z-bound on six correlations
    first, seen = jax.vmap(env.reset)(keys)
    assert abs(np.corrcoef(first, seen[:, 1])[0, 1]) < 4.5 / np.sqrt(4000)


@dataclasses.dataclass
class Speed:
    """Decides which code runs, so it cannot be traced."""

    fast: bool = False
    bonus: float = 0.0


class Branching(Stairs):
    """Its functions read parameters."""

    def __init__(self, options: Any = None, bonus_of_class: float = 0.0):
        super().__init__(options)
        self.bonus_of_class = bonus_of_class

    def transition(self, state: Any, action: Any, rng: Any, params: Any = Speed) -> Any:
        return super().transition(state, 4 * action if params.fast else action, rng)

    def reward(self, state: Any, action: Any, next_state: Any, rng: Any, params: Any = Speed) -> Any:
        return params.bonus + self.bonus_of_class

    def get_default_params(self, **kwargs: Any) -> Any:
        return Speed(**kwargs)


class Hosted(FunctionalJaxEnv):
    """As Gymnasium wraps its own: the functions jitted."""

    def __init__(self, **kwargs: Any):
        env = Branching(**kwargs)
        env.transform(jax.jit)
        super().__init__(env)


@pytest.fixture
def hosted() -> Iterator[str]:
    gymnasium.register("PolicygradStairs-v0", Hosted, max_episode_steps=3, reward_threshold=2.5)
    yield "functional:PolicygradStairs-v0"
    gymnasium.registry.pop("PolicygradStairs-v0")


def test_an_id_of_gymnasiums_is_taken_out_of_its_wrapper(hosted: str) -> None:
    env = make(hosted)
    assert (env.name, env.backend, env.time_limit, env.reward_threshold) == (hosted, "compiled", 3, 2.5)
    assert [(row[1], *row[2:]) for row in walked(env, [0, 0, 0])] == [(0, False, False), (0, False, False), (0, False, True)]
    changed = make(hosted, env_args={"fast": True, "bonus": 7.0, "bonus_of_class": 0.25, "time_limit": 9, "reward_threshold": 1})
    assert (changed.time_limit, changed.reward_threshold) == (9, 1.0)
    assert walked(changed, [0])[0][1:] == (7.25, True, False)
    with pytest.raises(UsageError, match=rf"^environment {hosted} raised TypeError: [^\n]*'wheels'[^\n]*; correct it or its env_args$"):
        make(hosted, env_args={"wheels": 3})


def test_an_id_that_is_none() -> None:
    with pytest.raises(UnknownNameError, match=r"^unknown functional environment 'phys2d/Cartpole-v1': did you mean phys2d/CartPole-v1"):
        make("functional:phys2d/Cartpole-v1")
    with pytest.raises(
        UsageError, match=r"^environment functional:CartPole-v1: got CartPoleEnv, which wraps no FuncEnv; leave out [^\n]*$"
    ):
        make("functional:CartPole-v1")
    with pytest.raises(UsageError, match=r"^environment functional:no_such_module:Maze-v0: No module named 'no_such_module'; run [^\n]*$"):
        make("functional:no_such_module:Maze-v0")


# ── environments that cannot be translated ───────────────────────────────────────────────────────────────────────────


class Growing(Stairs):
    def transition(self, state: Any, action: Any, rng: Any, params: Any = None) -> Any:
        return super().transition(state, action, rng) | {"moved": jnp.zeros(2, bool)}


class Adding(Stairs):
    def transition(self, state: Any, action: Any, rng: Any, params: Any = None) -> Any:
        return super().transition(state, action, rng) | {"more": 1}


class Wide(Stairs):
    def observation(self, state: Any, rng: Any, params: Any = None) -> Any:
        return super().observation(state, rng) | {"half": jnp.zeros(3)}


class Raising(Stairs):
    def reward(self, *args: Any) -> Any:
        raise ValueError("no reward\nsecond line")


class Texts(Stairs):
    observation_space = gymnasium.spaces.Text(3)


@pytest.mark.parametrize(
    ("kind", "error", "line"),
    [
        (Growing, UsageError, r"environment Growing: a part of its state changes its shape from \(\) to \(2,\) in a step"),
        (Adding, UsageError, r"environment Adding: its state has other parts after a step than before; give it the same from reset on"),
        (
            Wide,
            SpaceError,
            r"environment Wide, observation, part \['half'\]: got shape \(3,\) where its space says Box\(0, 9, \(1,\)[^\n]*",
        ),
        (Raising, UsageError, r"environment Raising raised ValueError: no reward; correct it or its env_args"),
        (Texts, SpaceError, r"environment Texts: unsupported observation space: got Text; [^\n]*"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_compiled(kind: Any, error: Any, line: str) -> None:
    with pytest.raises(error, match=f"^{line}$"):
        make(kind())


def test_arguments_out_of_range() -> None:
    with pytest.raises(UsageError, match=r"^time_limit: got 0; "):
        from_functional(Stairs(), time_limit=0)
    with pytest.raises(UsageError, match=r"^reward_threshold: got 'high'; "):
        from_functional(Stairs(), reward_threshold="high")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError, match=r"^Stairs is an environment in JAX; leave out backend='gymnasium' and wrappers$"):
        make(Stairs(), "gymnasium")
    with pytest.raises(UsageError, match=r"^env_args go with the name of an environment; "):
        make(Stairs(), env_args={"a": 1})


# ── gymnax ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class Space:
    """gymnax's spaces hold their arguments and no more."""

    def __init__(self, **kwargs: Any):
        self.__dict__.update(kwargs)


class Box_(Space):  # noqa: N801
    pass


Box_.__name__ = "Box"
Count = type("Discrete", (Space,), {})


@dataclasses.dataclass
class ClockParams:
    """The task ends at `end`, the time limit at `max_steps_in_episode`."""

    end: int = 99
    max_steps_in_episode: int = 5

    def replace(self, **changes: Any) -> ClockParams:
        return dataclasses.replace(self, **changes)


class Clock:
    """Shows (t, the share of its time); every step gives 1, but for one whose flag is set where there is no end. As before gymnax 1.0: one
    flag for the end of the task and of time."""

    def __init__(self, pace: int = 1):
        self.pace = pace

    default_params = ClockParams()

    def observation_space(self, params: Any) -> Any:
        return Box_(low=jnp.zeros(2), high=jnp.full(2, 1e3), shape=(2,), dtype=jnp.float32)

    def action_space(self, params: Any = None) -> Any:
        return Count(n=2)

    def _seen(self, state: Any, params: Any) -> Any:
        return jnp.array([state["time"], state["time"] / params.max_steps_in_episode])

    def reset_env(self, key: Any, params: Any) -> Any:
        return self._seen({"time": 0}, params), {"time": 0}

    def step_env(self, key: Any, state: Any, action: Any, params: Any) -> Any:
        state = {"time": state["time"] + self.pace}
        ended = self.ended(state, params)
        return self._seen(state, params), state, jnp.where(ended & (params.end > 90), 0.0, 1.0), ended, {}

    def ended(self, state: Any, params: Any) -> Any:
        return (state["time"] >= params.end) | (state["time"] >= params.max_steps_in_episode)

    def step(self, *args: Any) -> Any:
        raise AssertionError("resets by itself")


class NewClock(Clock):
    """As from gymnax 1.0 on: two flags."""

    def ended(self, state: Any, params: Any) -> Any:
        return state["time"] >= params.end

    def is_truncated(self, state: Any, params: Any) -> Any:
        return state["time"] >= params.max_steps_in_episode


@pytest.fixture(params=[Clock, NewClock], ids=["gymnax-0", "gymnax-1"])
def gymnax(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = types.ModuleType("gymnax")
    module.registered_envs = ["Clock-v0", "CartPole-v1"]

    def made(id: str, **kwargs: Any) -> Any:
        env = request.param(**kwargs)
        return env, env.default_params.replace(max_steps_in_episode=500) if id == "CartPole-v1" else env.default_params

    module.make = made
    monkeypatch.setitem(sys.modules, "gymnax", module)


@pytest.mark.usefixtures("gymnax")
@pytest.mark.parametrize(("end", "limit", "expected"), [(99, 3, "..tt"), (3, 99, "..TT"), (3, 3, "..B"), (2, 3, ".TB")])
def test_gymnax_tells_the_limit_from_the_end_of_the_task(end: int, limit: int, expected: str) -> None:
    env = make("gymnax:Clock-v0", env_args={"end": end, "time_limit": limit})
    rows = walked(env, [0] * len(expected))
    flags = {".": (False, False), "t": (False, True), "T": (True, False), "B": (True, True)}
    for t, (row, mark) in enumerate(zip(rows, expected, strict=True)):
        np.testing.assert_allclose(row[0], [t + 1, (t + 1) / limit], rtol=1e-6)  # nothing resets it, and it knows its own limit
        assert row[2:] == flags[mark]


@pytest.mark.usefixtures("gymnax")
def test_gymnax_bootstraps_at_the_limit() -> None:
    """r = 1 for ever, V = 1/(1−γ): every δ is 0, the limit's included. Were it a termination, δ would be −γ/(1−γ) there."""
    env, discount = make("gymnax:Clock-v0"), 0.9
    assert (env.name, env.time_limit, env.reward_threshold) == ("gymnax:Clock-v0", 5, None)
    collector = compiled_collector(env, steps(12), 2)
    policy = some_policy(env)
    _, rollout, _ = collector.collect(policy, KEY, collector.init(KEY, policy))
    np.testing.assert_array_equal(rollout.obs[:, 0, 0], np.arange(12) % 5)
    np.testing.assert_array_equal(rollout.next_obs[:, 0, 0], np.arange(12) % 5 + 1)  # the true one where the episode was cut
    np.testing.assert_array_equal(rollout.truncated[:, 1], np.arange(12) % 5 == 4)
    assert not rollout.terminated.any()
    value = jnp.full((12, 2), 1 / (1 - discount))
    delta, _ = advantages.td(rollout.reward, value, value, rollout.terminated, rollout.truncated, discount=discount)
    np.testing.assert_allclose(delta, 0, atol=1e-5)


@pytest.mark.usefixtures("gymnax")
def test_gymnax_takes_parameters_and_arguments_of_the_class() -> None:
    env = make("gymnax:Clock-v0", env_args={"pace": 2, "max_steps_in_episode": 8, "reward_threshold": 3})
    assert (env.time_limit, env.reward_threshold) == (8, 3.0)
    assert (env.observation_space, env.action_space) == (Box.of(0.0, 1e3, (2,)), Discrete(2))
    np.testing.assert_array_equal(walked(env, [0])[0][0], [2, 0.25])
    line = (
        r"^environment gymnax:Clock-v0 does not take wheels; its env_args: end, max_steps_in_episode, pace, reward_threshold, time_limit$"
    )
    with pytest.raises(UsageError, match=line):
        make("gymnax:Clock-v0", env_args={"wheels": 4})
    with pytest.raises(UsageError, match=r"^time_limit: got 0; "):
        make("gymnax:Clock-v0", env_args={"time_limit": 0})
    with pytest.raises(UnknownNameError, match=r"^unknown environment of gymnax's 'Clock-v1': did you mean Clock-v0"):
        make("gymnax:Clock-v1")


@pytest.mark.usefixtures("gymnax")
def test_a_goal_is_gymnasiums_where_episodes_are_as_long() -> None:
    assert make("gymnax:CartPole-v1").reward_threshold == 475.0
    assert make("gymnax:CartPole-v1", env_args={"time_limit": 200}).reward_threshold is None


# ── brax and MuJoCo Playground ───────────────────────────────────────────────────────────────────────────────────────


class State(NamedTuple):
    obs: Any
    reward: Any
    done: Any
    info: Any


class Ball:
    """Rolls by what pushes it; off the table at 2. Its flag is a number, and its observation has two parts."""

    action_size = 1

    def __init__(self, backend: str = "spring"):
        pass

    def _of(self, at: Any, key: Any) -> State:
        return State({"state": at, "privileged_state": jnp.stack([at, at])[:, 0]}, at[0], jnp.where(at[0] > 2, 1.0, 0.0), {"rng": key})

    def reset(self, rng: Any) -> State:
        assert rng.dtype == jnp.uint32  # a key as plain numbers
        return self._of(jnp.zeros(1), rng)

    def step(self, state: State, action: Any) -> State:
        return self._of(state.obs["state"] + action, jax.random.split(state.info["rng"])[0])


@pytest.fixture
def physics(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Stand-ins for both; the list of what Playground's `load` was asked for."""
    asked: list[dict[str, Any]] = []
    envs: Any = types.ModuleType("brax.envs")
    envs._envs = {"ball": Ball}
    envs.get_environment = lambda id, **kwargs: envs._envs[id](**kwargs)
    monkeypatch.setitem(sys.modules, "brax.envs", envs)

    def load(id: str, config_overrides: Any) -> Any:
        asked.append(config_overrides)
        return Ball()

    playground: Any = types.ModuleType("mujoco_playground")
    config = {"episode_length": 250, "impl": "warp"}
    playground.registry = types.SimpleNamespace(ALL_ENVS=("Ball",), get_default_config=lambda id: config, load=load)
    monkeypatch.setitem(sys.modules, "mujoco_playground", playground)
    return asked


@pytest.mark.usefixtures("physics")
def test_brax_is_not_wrapped() -> None:
    env = make("brax:ball", env_args={"time_limit": 4, "backend": "mjx"})
    assert (env.name, env.time_limit, env.action_space) == ("brax:ball", 4, Box.of(-1.0, 1.0, (1,)))
    unbounded = Box.of(-np.inf, np.inf, (1,))
    assert env.observation_space == Dict.of({"state": unbounded, "privileged_state": Box.of(-np.inf, np.inf, (2,))})
    state, found = env.reset(KEY)[0], []
    for push in (0.5, 1.0, 1.0, 1.0):
        state, step = env.step(KEY, state, jnp.array([push]))
        found.append((float(step.obs["state"][0]), float(step.reward), bool(step.terminated), bool(step.truncated)))
    assert found == [(0.5, 0.5, False, False), (1.5, 1.5, False, False), (2.5, 2.5, True, False), (3.5, 3.5, True, True)]
    assert make("brax:ball").time_limit == 1000
    assert make("brax:ball", env_args={"time_limit": None}).time_limit is None
    assert make("brax:ball", env_args={"observation": "state"}).observation_space == unbounded


def test_playground_takes_its_configuration(physics: list[dict[str, Any]]) -> None:
    env = make("playground:Ball", env_args={"observation": "privileged_state", "reward_threshold": 3})
    assert (env.name, env.time_limit, env.reward_threshold) == ("playground:Ball", 250, 3.0)
    assert env.observation_space == Box.of(-np.inf, np.inf, (2,))
    assert make("playground:Ball", env_args={"episode_length": 60, "impl": "warp"}).time_limit == 60
    assert make("playground:Ball", env_args={"time_limit": 70}).time_limit == 70
    assert physics == [{"impl": "jax"}, {"episode_length": 60, "impl": "warp"}, {"impl": "jax"}]


@pytest.mark.usefixtures("physics")
def test_misuse_of_brax_and_playground_is_one_line() -> None:
    with pytest.raises(UnknownNameError, match=r"^unknown environment of brax's 'bal': did you mean ball\?$"):
        make("brax:bal")
    with pytest.raises(UnknownNameError, match=r"^unknown environment of MuJoCo Playground's 'ball': did you mean Ball\?$"):
        make("playground:ball")
    line = r"^environment brax:ball does not take wheels; its env_args: backend, observation, reward_threshold, time_limit$"
    with pytest.raises(UsageError, match=line):
        make("brax:ball", env_args={"wheels": 4})
    with pytest.raises(UsageError, match=r"^environment playground:Ball does not take wheels; its env_args: episode_length, impl, "):
        make("playground:Ball", env_args={"wheels": 4})
    with pytest.raises(UnknownNameError, match=r"^unknown part of an observation of brax:ball 'stat': did you mean state"):
        make("brax:ball", env_args={"observation": "stat"})


# ── names ────────────────────────────────────────────────────────────────────────────────────────────────────────────

MISSING = [
    ("gymnax:CartPole-v1", "gymnax", r"; pip install flax seaborn six, then pip install --no-deps gymnax \([^\n]*\)"),
    ("brax:ant", "brax.envs", "; pip install brax"),
    ("playground:CartpoleBalance", "mujoco_playground", "; pip install playground"),
    ("functional:phys2d/CartPole-v1", "flax", "; Gymnasium's own functional environments need flax: pip install flax"),
]


@pytest.mark.parametrize(("name", "module", "fix"), MISSING)
def test_a_package_that_is_missing_is_told(name: str, module: str, fix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "gymnasium.envs.phys2d.cartpole", raising=False)
    monkeypatch.delitem(sys.modules, "gymnasium.envs.phys2d", raising=False)
    with pytest.raises(UsageError, match=rf"^environment {name}: import of {module} halted; None in sys\.modules{fix}$"):
        make(name)


def test_a_prefix_of_ours_wins_and_others_stay_modules() -> None:
    assert [is_foreign(name) for name in ("gymnax:A-v0", "brax:ant", "gymnax", "my_module:A-v0", "A-v0")] == [
        True,
        True,
        False,
        False,
        False,
    ]
    assert registered("playground:CartpoleBalance") == "playground:CartpoleBalance"  # no module of that name is looked for
    assert registered("rollout.toys:Maze-v0") == "Maze-v0"
    with pytest.raises(UsageError, match=r"^environment no_such_module:Maze-v0: No module named 'no_such_module'$"):
        make("no_such_module:Maze-v0")
    registry.register("brax:mine", lambda: bandit([[0.0, 1.0]]))  # whoever takes the whole name means it
    try:
        assert make("brax:mine").action_space == Discrete(2)
    finally:
        registry._factories.pop("brax:mine")


@pytest.mark.parametrize("options", [{"backend": "gymnasium"}, {"wrappers": [lambda env: env]}, {"vectorization": "sync"}])
def test_what_only_gymnasium_takes(options: dict[str, Any]) -> None:
    line = r"^brax:ant is an environment in JAX; leave out backend='gymnasium', wrappers and vectorization$"
    with pytest.raises(UsageError, match=line):
        make("brax:ant", **options)


def test_the_contract_check_takes_them(hosted: str) -> None:
    """And means the adapter's, not one of the same id that Gymnasium has."""
    report = check_env(hosted, num_episodes=2, num_steps=8)
    assert report.ok
    assert report.name == hosted
    with pytest.raises(UsageError, match=r"^unknown functional environment"):
        check_env("functional:Nothing-v0")
