"""One call for whatever names an environment; every misuse in one line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from policygrad.envs import Env, GymnasiumEnv, make, registry
from policygrad.envs.small_worlds import bandit
from policygrad.errors import SpaceError, UnknownNameError, UsageError
from policygrad.spaces import Box, Discrete
from rollout.toys import Clockwork, Faulty, clockwork

ID = "PolicygradMake-v3"


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    gymnasium.register(ID, Faulty, max_episode_steps=3, reward_threshold=2.5)
    yield
    gymnasium.registry.pop(ID, None)


def test_auto_takes_the_compiled_twin_where_there_is_one() -> None:
    assert isinstance(make("CartPole-v1"), Env)
    assert make("CartPole-v1").backend == "compiled"
    assert isinstance(make("CartPole-v1", "compiled"), Env)
    hosted = make("CartPole-v1", "gymnasium")
    assert isinstance(hosted, GymnasiumEnv)
    assert (hosted.name, hosted.backend, hosted.vectorization) == ("CartPole-v1", "gymnasium", "vector")
    assert (hosted.time_limit, hosted.reward_threshold) == (500, 475.0)
    assert hosted.observation_space == make("CartPole-v1").observation_space
    assert hosted.action_space == make("CartPole-v1").action_space
    assert make("CartPole-v1", vectorization="sync").vectorization == "sync"


def test_arguments_that_only_gymnasium_takes_choose_gymnasium() -> None:
    env = make("CartPole-v1", env_args={"max_episode_steps": 7})
    assert (env.backend, env.time_limit) == ("gymnasium", 7)
    assert make("CartPole-v1", env_args={"sutton_barto_reward": True}).backend == "compiled"
    wrapped = make("CartPole-v1", wrappers=[lambda env: gymnasium.wrappers.TransformReward(env, lambda r: 2 * r)])
    assert (wrapped.backend, wrapped.vectorization) == ("gymnasium", "sync")


def test_ids_of_the_user_with_arguments_and_wrappers() -> None:
    env = make(ID, env_args={"space": gymnasium.spaces.Discrete(2)})
    assert (env.name, env.time_limit, env.reward_threshold) == (ID, 3, 2.5)
    assert env.observation_space == Discrete(2)
    assert make(ID).observation_space == Box.of(-1.0, 1.0, (2,))
    order: list[str] = []

    def noting(name: str) -> Any:
        def wrap(env: gymnasium.Env) -> gymnasium.Env:
            order.append(name)
            return gymnasium.wrappers.FlattenObservation(env) if name == "second" else env

        return wrap

    make(ID, wrappers=[noting("first"), noting("second")])
    assert order == ["first", "second"]


def test_no_limit_is_gymnasiums_minus_one() -> None:
    env = make("CartPole-v1", "gymnasium", env_args={"max_episode_steps": -1})
    assert (env.time_limit, env.vectorization) == (None, "sync")


def test_what_make_returned_passes_through() -> None:
    for env in (make("Bandit-v0"), make(ID)):
        assert make(env) is env
        assert make(env, env.backend) is env
    with pytest.raises(UsageError, match=r"^Bandit-v0 was made with backend 'compiled'; got backend 'gymnasium': pass its name[^\n]*$"):
        make(make("Bandit-v0"), "gymnasium")


def test_a_function_an_environment_and_a_vector() -> None:
    assert (make(clockwork).name, make(clockwork).vectorization) == ("clockwork", "sync")
    by_factory = make(lambda: gymnasium.make(ID))
    assert (by_factory.name, by_factory.time_limit, by_factory.reward_threshold) == (ID, 3, 2.5)
    one = make(gymnasium.make(ID))
    assert (one.name, one.time_limit, one.fixed_num_envs) == (ID, 3, 1)
    with pytest.raises(UsageError, match=rf"^{ID}: got num_envs=2 for a ready-made environment of 1; [^\n]*num_envs=1$"):
        one.vector(2, 0)
    vector = make(gymnasium.make_vec(ID, num_envs=2, vectorization_mode="sync"))
    assert (vector.name, vector.fixed_num_envs) == (ID, 2)


def test_compiled_environments_of_the_user() -> None:
    registry.register("PolicygradArms-v0", lambda arms=2: bandit([[0.0] * arms]))
    try:
        assert make("PolicygradArms-v0", env_args={"arms": 4}).action_space == Discrete(4)
        with pytest.raises(UsageError, match=r"^environment 'PolicygradArms-v0' does not take legs; its keyword arguments: arms$"):
            make("PolicygradArms-v0", env_args={"legs": 4})
    finally:
        registry._factories.pop("PolicygradArms-v0")


def test_one_that_exists_only_compiled_says_so() -> None:
    line = r"^environment Bandit-v0 exists only compiled: Gymnasium has none of that name; leave out [^\n]*$"
    with pytest.raises(UsageError, match=line):
        make("Bandit-v0", "gymnasium")
    with pytest.raises(UsageError, match=line):
        make("Bandit-v0", wrappers=[lambda env: env])
    with pytest.raises(UsageError, match=line):
        make("Bandit-v0", vectorization="sync")


def test_unknown_names_offer_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"^unknown environment 'Cartpole-v1': did you mean [^\n]*CartPole-v1[^\n]*\?$"):
        make("Cartpole-v1")
    with pytest.raises(UnknownNameError, match=r"^unknown environment 'PolicygradMake-v2': did you mean PolicygradMake-v3"):
        make("PolicygradMake-v2")
    with pytest.raises(UnknownNameError, match=r"^unknown environment 'Bandits-v0': did you mean Bandit-v0"):
        make("Bandits-v0")
    with pytest.raises(UnknownNameError, match=r"^unknown compiled environment 'Blackjack-v1': "):
        make("Blackjack-v1", "compiled")
    with pytest.raises(UnknownNameError, match=r"^unknown backend 'gym': did you mean gymnasium\?$"):
        make("CartPole-v1", "gym")
    with pytest.raises(UnknownNameError, match=r"^unknown vectorization 'asink': did you mean "):
        make(ID, vectorization="asink").vector(1, 0)
    with pytest.raises(UnknownNameError, match=r"^unknown autoreset mode 'same': did you mean same-step"):
        make(ID, autoreset="same").vector(1, 0)


def test_a_module_that_cannot_be_imported_is_named() -> None:
    with pytest.raises(UsageError, match=r"^environment no_such_module:Maze-v0: No module named 'no_such_module'$"):
        make("no_such_module:Maze-v0")
    with pytest.raises(UnknownNameError, match=r"^unknown environment 'rollout\.toys:Maze-v0': "):
        make("rollout.toys:Maze-v0")


def test_a_module_before_the_id_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import gymnasium\nfrom rollout.toys import Faulty\ngymnasium.register('PolicygradModule-v0', Faulty)\n"
    (tmp_path / "policygrad_registers.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        env = make("policygrad_registers:PolicygradModule-v0")
    finally:
        gymnasium.registry.pop("PolicygradModule-v0", None)
        sys.modules.pop("policygrad_registers", None)
    assert env.name == "policygrad_registers:PolicygradModule-v0"


def test_arguments_in_the_wrong_place() -> None:
    with pytest.raises(UsageError, match=r"^env_args go with the name of an environment; got \['at'\] with function$"):
        make(clockwork, env_args={"at": 3})
    with pytest.raises(UsageError, match=rf"^environment {ID} does not take these arguments: [^\n]*'wheels'[^\n]*$"):
        make(ID, env_args={"wheels": 3})
    with pytest.raises(UsageError, match=r"^CartPole-v1: Gymnasium wrappers need backend='gymnasium'$"):
        make("CartPole-v1", "compiled", wrappers=[lambda env: env])
    with pytest.raises(UsageError, match=r"^backend 'compiled' needs a name or an Env; got function$"):
        make(clockwork, "compiled")
    with pytest.raises(UsageError, match=rf"^{ID} has no vector entry point; use vectorization sync or async$"):
        make(ID, vectorization="vector")
    with pytest.raises(UsageError, match=r"^a ready VectorEnv takes no wrappers: [^\n]*$"):
        make(gymnasium.make_vec(ID, num_envs=1, vectorization_mode="sync"), wrappers=[lambda env: env])


@pytest.mark.parametrize("nothing", [None, 3, ["CartPole-v1"], b"CartPole-v1"])
def test_no_environment_at_all(nothing: Any) -> None:
    with pytest.raises(UsageError, match=r"^no environment: got (NoneType|int|list|bytes); pass a name, [^\n]*$"):
        make(nothing)


def test_factories_and_wrappers_that_make_no_environment() -> None:
    with pytest.raises(UsageError, match=r"^environment <lambda>: got NoneType without observation_space; [^\n]*$"):
        make(lambda: None)
    with pytest.raises(UsageError, match=rf"^environment {ID}: got NoneType without observation_space; [^\n]*$"):
        make(ID, wrappers=[lambda env: None])
    with pytest.raises(UsageError, match=r"^environment <lambda> could not be made: ZeroDivisionError: division by zero$"):
        make(lambda: 1 / 0)


def test_a_package_that_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def needs() -> Any:
        raise gymnasium.error.DependencyNotInstalled("box2d is not installed, run `pip install gymnasium[box2d]`\nmore")

    with pytest.raises(UsageError, match=r"^environment needs needs a package that is not installed: box2d is not[^\n]*`$"):
        make(needs)
    monkeypatch.setitem(sys.modules, "policygrad_absent", None)
    gymnasium.register("PolicygradAbsent-v0", "policygrad_absent:Env")
    try:
        with pytest.raises(UsageError, match=r"^environment PolicygradAbsent-v0 needs a package that is not installed: [^\n]*$"):
            make("PolicygradAbsent-v0")
    finally:
        del gymnasium.registry["PolicygradAbsent-v0"]


class OddSpaces(gymnasium.Env):
    """Spaces that no policy here handles."""

    def __init__(self, observation: bool):
        odd, fine = gymnasium.spaces.Dict({"a": gymnasium.spaces.Text(3)}), gymnasium.spaces.Discrete(2)
        self.observation_space, self.action_space = (odd, fine) if observation else (fine, gymnasium.spaces.Sequence(fine))

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        return 0, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        return 0, 0.0, True, False, {}


@pytest.mark.parametrize("observation", [True, False])
@pytest.mark.parametrize("ready", [True, False])
def test_unsupported_spaces_name_the_environment(observation: bool, ready: bool) -> None:
    kind, got = (r"observation space, part \['a'\]", "Text") if observation else ("action space", "Sequence")
    handled = "Discrete, MultiDiscrete, MultiBinary, Box, and Dict and Tuple of these are handled"
    line = rf"^environment (OddSpaces|<lambda>): unsupported {kind}: got {got}; {handled} [^\n]*$"
    with pytest.raises(SpaceError, match=line):
        make(OddSpaces(observation) if ready else lambda: OddSpaces(observation))


def test_integer_boxes_are_no_actions() -> None:
    class Integers(Clockwork):
        def __init__(self) -> None:
            super().__init__()
            self.action_space = gymnasium.spaces.Box(0, 3, (2,), np.int32)

    line = r"^environment Integers: unsupported action space: got Box\(0, 3, \(2,\), int32\); [^\n]*$"
    for env in (Integers, Integers(), gymnasium.vector.SyncVectorEnv([Integers])):
        with pytest.raises(SpaceError, match=line.replace("Integers", "(Integers|SyncVectorEnv)")):
            make(env)
