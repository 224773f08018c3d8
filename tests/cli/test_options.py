from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from typing import Literal

import pytest

from policygrad.algorithms import RECIPES
from policygrad.cli.options import Option, argument_help, introduction, make_parser, nearest, parse, recipe_options, summary
from policygrad.errors import UsageError
from policygrad.policies.features import FEATURES
from policygrad.policies.memory import MEMORIES
from policygrad.policies.networks import ACTIVATIONS, INITIALISATIONS
from policygrad.settings import HEADS

ONLY_PYTHON = {"policy"}


def toy(
    *,
    rate: float = 0.1,
    count: int | None = None,
    widths: tuple[int, ...] | None = (64, 64),
    flag: bool = False,
    word: Literal["one", "two"] | Callable[[], None] = "one",
    name: str | Callable[[], None] = "adam",
    either: float | Literal["auto"] = "auto",
    weights: Sequence[Callable[[], None]] = (),
    builder: Callable[[], None] | None = None,
) -> None:
    """Does a thing
    in two lines. And more.

        x = y        y = z

    A second paragraph.

    Args:
        rate: a rate: in (0, 1],
            100 % of the time.
        count: how many.

        flag: after an empty line.

    Returns:
        nothing: really.
    """


OPTIONS = recipe_options(toy)


def read(words: Sequence[str], options: dict[str, Option] = OPTIONS):
    return parse(make_parser("toy", "", {"all": options.values()}), options, words)


# ---------------------------------------------------------------- signatures


def test_types_become_kinds_and_what_only_python_can_express_is_left_out():
    kinds = {name: (option.kind, option.words, option.many, option.optional) for name, option in OPTIONS.items()}
    assert kinds == {
        "rate": (float, (), False, False),
        "count": (int, (), False, True),
        "widths": (int, (), True, True),
        "flag": (bool, (), False, False),
        "word": (None, ("one", "two"), False, False),
        "name": (str, (), False, False),
        "either": (float, ("auto",), False, False),
    }


def test_a_docstring_gives_the_help():
    assert argument_help(toy) == {"rate": "a rate: in (0, 1], 100 % of the time.", "count": "how many.", "flag": "after an empty line."}
    assert summary(toy) == "Does a thing in two lines. And more."
    assert introduction(toy).endswith("A second paragraph.")
    assert argument_help(lambda: None) == {}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_every_argument_of_every_recipe_is_a_flag_with_help(recipe):
    options = recipe_options(recipe)
    assert set(inspect.signature(recipe).parameters) - set(options) == ONLY_PYTHON
    assert [name for name, option in options.items() if not option.help] == []


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_the_help_names_everything_that_a_policy_can_be_made_of(recipe):
    options = recipe_options(recipe)
    names = {
        "features": FEATURES,
        "memory": ("none", *MEMORIES),
        "head": HEADS,
        "activation": ACTIVATIONS,
        "initialisation": INITIALISATIONS,
    }
    for name, known in names.items():
        listed = options[name].help.partition(": ")[2].partition(" (")[0] or options[name].help
        assert re.findall(r"[a-z][a-z0-9_-]*", listed.rpartition(": ")[2].rstrip(".")) == list(known), name
        if options[name].words:
            assert options[name].words == tuple(known)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_recipe_takes_its_defaults_back(recipe):
    """What the help shows as default, given as a flag, is the same algorithm."""
    options = recipe_options(recipe)
    words = []
    for option in options.values():
        if option.kind is bool:
            words.append(option.flag.replace("--", "--" if option.default else "--no-"))
        else:
            words += [option.flag, *map(str, option.default if isinstance(option.default, tuple) else [option.default])]
    values, rest = read([word.replace("None", "none") for word in words], options)
    assert rest == []
    assert recipe(**values).settings == recipe().settings


# ---------------------------------------------------------------- words


def test_flags_are_read():
    words = ["--rate", "1e-3", "--count=1e3", "--widths", "32", "16", "--flag", "--word", "two", "--name", "sgd", "--either", "auto"]
    assert read(words) == (
        {"rate": 1e-3, "count": 1000, "widths": (32, 16), "flag": True, "word": "two", "name": "sgd", "either": "auto"},
        [],
    )
    assert read(["--no-flag", "--either", "2"])[0] == {"flag": False, "either": 2.0}
    assert read(["--widths"])[0] == {"widths": ()}
    assert read(["--widths", "none", "--count", "none"])[0] == {"widths": None, "count": None}
    assert read([])[0] == {}
    assert read(["a", "--flag", "b"]) == ({"flag": True}, ["a", "b"])


@pytest.mark.parametrize("text", ["-1e-3", "-.5", "-2", "-inf"])
def test_a_negative_number_is_a_value(text):
    assert read(["--rate", text])[0] == {"rate": float(text)}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--rate fast", "--rate: got 'fast'; it must be a number"),
        ("--count 1.5", "--count: got '1.5'; it must be a whole number"),
        ("--count inf", "--count: got 'inf'; it must be a whole number"),
        ("--count nan", "--count: got 'nan'; it must be a whole number"),
        ("--count 1e999", "--count: got '1e999'; it must be a whole number"),
        ("--rate none", "--rate: got 'none'; it must be a number"),
        ("--widths 64 wide", "--widths: got 'wide'; it must be a whole number"),
        ("--word tow", "unknown --word 'tow': did you mean two?"),
        ("--either nix", "--either: got 'nix'; it must be a number"),
        ("--rate", "--rate: got no value; write --rate X, a number"),
        ("--word --flag", "--word: got no value; give one of one, two"),
        ("--name", "--name: got no value; write --name NAME"),
        ("--flag=3", "--flag: got a value; it takes none, write --flag alone"),
        ("--rat 1", "unknown flag '--rat': did you mean --rate?"),
        ("--widht 1 --rate 1", "unknown flag '--widht': did you mean --widths?"),
        ("--zzz=1", "unknown flag '--zzz': --help lists the flags"),
        ("-r 1", "unknown flag '-r': did you mean --rate?"),
        ("--name=", "--name: got ''; it must be a text that is not empty"),
    ],
)
def test_what_cannot_be_read_is_told_in_one_line(words, message):
    with pytest.raises(UsageError) as caught:
        read(words.split())
    assert str(caught.value) == message


def test_underscores_and_capitals_are_no_flags_but_understood():
    known = ["--num-steps", "--num-envs", "--seed", "--seeds"]
    assert nearest("--num_steps", known) == "did you mean --num-steps?"
    assert nearest("--SEED", known) == "did you mean --seed or --seeds?"


def test_values_of_a_file_are_held_to_the_same_rules():
    assert OPTIONS["rate"].read(1, "f") == 1.0
    assert OPTIONS["count"].read(1000.0, "f") == 1000
    assert OPTIONS["widths"].read([3, 4], "f") == (3, 4)
    assert OPTIONS["widths"].read([], "f") == ()
    assert OPTIONS["count"].read(None, "f") is None
    for name, value in {"rate": True, "count": 0.5, "flag": "yes", "word": 3, "name": 5, "widths": [[1]]}.items():
        with pytest.raises(UsageError, match=r"\bf\b.*"):
            OPTIONS[name].read(value, "f")


def test_pairs_are_literals_where_they_can_be():
    option = Option("env_args", dict, "")
    given = ["a=1", "b=-2.5", "c=true", "d=None", "e=[1, 2]", "f=8x8", "g=a=b", "h="]
    assert option.read(given, "--env-args") == {"a": 1, "b": -2.5, "c": True, "d": None, "e": [1, 2], "f": "8x8", "g": "a=b", "h": ""}
    assert option.read({"x": 1}, "f") == {"x": 1}
    for wrong in ("gravity", "=3", "a b=3"):
        with pytest.raises(UsageError, match=r"^--env-args: got '.*'; write name=value"):
            option.read([wrong], "--env-args")


# ---------------------------------------------------------------- help


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_the_help_shows_each_flag_with_its_default(recipe, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    options = recipe_options(recipe)
    text = make_parser("u", "", {"all": options.values()}).format_help()
    assert max(map(len, text.splitlines())) <= 80
    flat = " ".join(text.split())
    for option in options.values():
        assert f"{option.flag} " in flat or f"{option.flag}, " in flat
    assert "(default: 0.99)" in flat
    assert "(default: off)" in flat
    assert "100 %" in make_parser("u", "", {"all": [OPTIONS["rate"]]}).format_help()
