"""What a command imports: help and mistakes are told before JAX is; and the shells of recipes are the recipes."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import typing

import pytest

import policygrad as pg
from policygrad import settings
from policygrad.algorithms import RECIPES
from policygrad.ascent import OPTIMIZERS
from policygrad.baselines import FORMS, KINDS
from policygrad.cli.options import recipe_options
from policygrad.cli.recipes import shells
from policygrad.gradients.weights import WEIGHTS
from policygrad.policies.networks import ACTIVATIONS, INITIALISATIONS

HEAVY = {"jax", "jaxlib", "equinox", "optax", "gymnasium", "scipy", "matplotlib", "safetensors", "mujoco"}
LIGHT = """
import sys
sys.argv[0] = "policygrad"
import policygrad
from policygrad.cli import main
code = main(sys.argv[1:])
print(code, *sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("--help", 0),
        ("--version", 0),
        ("train --help", 0),
        ("train ppo --help", 0),
        ("evaluate --help", 0),
        ("lab --help", 0),
        ("check-env --help", 0),
        ("plot --help", 0),
        ("list --tuned", 0),
        ("trian", 2),
        ("train poo", 2),
        ("train ppo", 2),
        ("train ppo --learning-rte 3", 2),
        ("train ppo --env CartPole-v1 --num-steps many", 2),
        ("train ppo --env CartPole-v1 --num-steps 0", 2),
        ("train ppo --env CartPole-v1 --num-steps 100 --num-envs -1", 2),
        ("train ppo --env CartPole-v1 --num-steps 100 --seeds 0", 2),
        ("train ppo --env CartPole-v1 --num-steps 100 --seed 1 --seeds 2", 2),
        ("train ppo --env CartPole-v1 --num-steps 100 --clip 0", 2),
        ("train ppo --env CartPole-v1 --num-steps 100 --activation than", 2),
        ("train ppo --env CartPole-v1 --num-steps 100 --evaluate-every 0", 2),
        ("train ppo --env CartPole-v2 --tuned", 2),
        ("train ppo --config nowhere.toml", 2),
        ("evaluate nowhere", 2),
        ("evaluate . --num-episodes 0", 2),
        ("lab fork", 2),
        ("check-env", 2),
        ("check-env CartPole-v1 --num-steps 0", 2),
    ],
)
def test_help_and_mistakes_need_no_jax(words: str, code: int) -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT, *words.split()], capture_output=True, text=True, encoding="utf-8")
    ended, *modules = done.stderr.splitlines()[-1].split()
    assert int(ended) == code
    assert not HEAVY & set(modules)
    if code:
        assert len(done.stderr.splitlines()) == 2, "one line, and this test's own"


def test_importing_the_package_imports_nothing_heavy_until_it_is_asked_for() -> None:
    program = "import sys, policygrad as pg; dir(pg); print('jax' in sys.modules); pg.ppo; print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


@pytest.mark.parametrize("name", RECIPES)
def test_a_shell_is_the_recipe_without_its_inside(name: str) -> None:
    recipe, shell = RECIPES[name], shells()[name]
    theirs, ours = inspect.signature(recipe).parameters, inspect.signature(shell).parameters
    assert [(p.name, p.kind, p.default) for p in ours.values()] == [(p.name, p.kind, p.default) for p in theirs.values()]
    assert inspect.getdoc(shell) == inspect.getdoc(recipe)
    assert recipe_options(shell) == recipe_options(recipe)
    assert shell() is None


def test_every_recipe_has_its_shell() -> None:
    assert list(shells()) == list(RECIPES)


def test_names_are_those_of_the_pieces() -> None:
    """They stand in settings as text, so that nothing is imported for them."""
    for names, pieces in (
        (typing.get_args(settings.BaselineName), KINDS),
        (typing.get_args(settings.FormName), FORMS),
        (typing.get_args(settings.WeightName), WEIGHTS),
        (settings.OPTIMIZERS, OPTIMIZERS),
        (settings.ACTIVATIONS, ACTIVATIONS),
        (settings.INITIALISATIONS, INITIALISATIONS),
    ):
        assert set(names) == set(pieces)


def test_every_name_of_the_front_door_leads_somewhere() -> None:
    assert set(pg._HOME) < set(pg.__all__) < set(dir(pg))
    for name in pg.__all__:
        assert getattr(pg, name) is not None
    assert callable(pg.evaluate)
    assert callable(pg.tuned)
    with pytest.raises(AttributeError, match="has no attribute 'pop'"):
        _ = pg.pop


@pytest.mark.parametrize("first", ["policygrad.envs", "policygrad.policies.networks", "policygrad.training", "policygrad; policygrad.ppo"])
def test_programs_run_in_the_thread_that_calls_them_whichever_door_is_first(first: str) -> None:
    """Else a call of a policy on the host takes several times as long, and nothing else tells."""
    program = f"import {first}; import jax; print(jax.config.read('jax_cpu_enable_async_dispatch'))"
    kept = {name: value for name, value in os.environ.items() if name != "JAX_CPU_ENABLE_ASYNC_DISPATCH"}
    for environment, expected in ((kept, "False"), (kept | {"JAX_CPU_ENABLE_ASYNC_DISPATCH": "true"}, "True")):
        done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.split() == [expected]
