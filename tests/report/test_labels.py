from __future__ import annotations

from policygrad.report.labels import describe, distinguish


def config(algorithm="reinforce", env="CartPole-v1", num_envs=4, **settings):
    # what is different in every run, and is not to be shown, rides along
    rest = {"num_steps": len(settings), "versions": {"jax": str(settings)}}
    return {"algorithm": algorithm, "env": env, "num_envs": num_envs, "settings": settings} | rest


def labels(*configs):
    return distinguish(configs, [f"run{i}" for i in range(len(configs))])


def test_one_run_is_its_algorithm():
    assert labels(config(baseline="mean")) == ["reinforce"]
    assert describe(config()) == "reinforce on CartPole-v1"
    assert describe({"algorithm": "mine"}) == "mine"


def test_only_settings_that_differ_are_shown():
    got = labels(config(baseline="none", discount=0.99), config(baseline="mean", discount=0.99))
    assert got == ["reinforce · baseline=none", "reinforce · baseline=mean"]


def test_settings_are_compared_within_an_algorithm():
    got = labels(config(baseline="mean", learning_rate=0.01), config("ppo", clip=0.2), config("actor_critic", learning_rate=0.001))
    assert got == ["reinforce", "ppo", "actor_critic"]


def test_values_are_short_and_absent_ones_are_none():
    got = labels(config(hidden=[64, 64], a={"b": 0.1 + 0.2}, on=True), config(hidden=[], a={"b": None}))
    assert got == ["reinforce · hidden=[64 64], a.b=0.3, on=true", "reinforce · hidden=[], a.b=none, on=none"]


def test_environments_and_their_number_are_context():
    assert labels(config(), config(env="Acrobot-v1")) == ["reinforce on CartPole-v1", "reinforce on Acrobot-v1"]
    assert labels(config(num_envs=1), config("ppo", num_envs=64)) == ["reinforce · num_envs=1", "ppo · num_envs=64"]


def test_equal_configurations_are_told_apart_by_their_directories():
    assert labels(config(), config()) == ["reinforce (run0)", "reinforce (run1)"]
    assert distinguish([config(), config()], ["run", "run"]) == ["reinforce (run)", "reinforce (run) #2"]


def test_many_settings_are_cut():
    one, other = ({f"s{k}": k + shift for k in range(9)} for shift in (0, 1))
    first, second = labels(config(**one), config(**other))
    assert first == "reinforce · s0=0, s1=1, s2=2, s3=3, …"
    assert second == "reinforce · s0=1, s1=2, s2=3, s3=4, …"


def test_configurations_of_unknown_shape_still_have_labels():
    assert labels({}, {"algorithm": None, "settings": None}) == ["none (run0)", "none (run1)"]
