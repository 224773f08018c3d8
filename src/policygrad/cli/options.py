"""From a function's signature and docstring to flags, and from words to values.

An `Option` is one argument that a command takes: as a flag, or as a key of a configuration file. Those of a recipe come
from its signature (type, default) and from the Args of its docstring (help), so they are written down once. argparse
cuts the command line into words and lays out the help; values are read here, so that a flag and a file are held to the
same rules and every mistake is one line: what · got · fix.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import difflib
import inspect
import re
import shutil
import textwrap
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from policygrad.errors import UnknownNameError, UsageError

NUMBERS = {int: "a whole number", float: "a number"}
MANY_WORDS = "NAME"
"""Stands for words that would be longer than a line of the help; the text then lists them."""
LINE = 60


@dataclass(frozen=True)
class Option:
    """An argument that a command takes."""

    name: str  # as Python writes it: num_steps
    kind: type | None  # int, float, str, bool, dict (name=value …); None where only `words` are allowed
    help: str
    words: tuple[str, ...] = ()  # what else, or all, that may be written
    many: bool = False  # any number of values
    optional: bool = False  # "none" is a value
    default: Any = None  # for the help only
    metavar: str = ""
    listed: bool = False  # a configuration file may give a list

    @property
    def flag(self) -> str:
        """As the command line writes it: --num-steps."""
        return "--" + self.name.replace("_", "-")

    def read(self, given: Any, where: str) -> Any:
        """The value of what was written on the command line or in a file; `where` names the place in messages.

        Raises:
            UsageError: what · got · fix.
        """
        if self.kind is dict:
            return dict(given) if isinstance(given, Mapping) else _pairs(given, where)
        if self.optional and "none" not in self.words and given in (None, "none", ["none"]):
            return None
        if self.many or (self.listed and isinstance(given, list)):
            values = given if isinstance(given, list | tuple) else [given]
            return tuple(self._one(value, where) for value in values)
        return self._one(given, where)

    def _one(self, given: Any, where: str) -> Any:
        if isinstance(given, str) and given in self.words:
            return given
        if self.kind is None:
            raise UnknownNameError(where, str(given), self.words)
        if self.kind is bool:
            if not isinstance(given, bool):
                raise UsageError(f"{where}: got {given!r}; it must be true or false")
            return given
        if self.kind is str:
            if not isinstance(given, str) or not given:
                raise UsageError(f"{where}: got {given!r}; it must be a text that is not empty")
            return given
        return _number(self.kind, given, where)


def _number(kind: type, given: Any, where: str) -> int | float:
    with contextlib.suppress(ValueError, OverflowError):
        if isinstance(given, str) and kind is int:
            try:
                return int(given)
            except ValueError:
                given_number = float(given)  # 1e6 is a whole number too
        else:
            given_number = float(given) if isinstance(given, str) else given
        if isinstance(given_number, int | float) and not isinstance(given_number, bool):
            if kind is float:
                return float(given_number)
            if float(given_number).is_integer():
                return int(given_number)
    raise UsageError(f"{where}: got {given!r}; it must be {NUMBERS[kind]}")


def _pairs(given: Any, where: str) -> dict[str, Any]:
    """["gravity=-9.8", "map_name=8x8", "slippery=false"] as keyword arguments."""
    pairs = {}
    for pair in map(str, given if isinstance(given, list) else [given]):
        name, equals, text = pair.partition("=")
        if not equals or not name.isidentifier():
            raise UsageError(f"{where}: got {pair!r}; write name=value, e.g. {where} gravity=3.7 continuous=true")
        pairs[name] = _literal(text)
    return pairs


def _literal(text: str) -> Any:
    """A number, list, true, false or none where the text is one; else the text."""
    words = {"true": True, "false": False, "none": None, "null": None}
    if text.lower() in words:
        return words[text.lower()]
    with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
        return ast.literal_eval(text)
    return text


# ---------------------------------------------------------------- from a recipe


def recipe_options(recipe: Callable[..., Any]) -> dict[str, Option]:
    """A recipe's arguments by name, without those that only Python can express (functions, modules, baselines)."""
    hints, helps = typing.get_type_hints(recipe), argument_help(recipe)
    options = {}
    for name, parameter in inspect.signature(recipe).parameters.items():
        default = None if parameter.default is parameter.empty else parameter.default
        option = _option(name, hints[name], helps.get(name, ""), default)
        if option is not None:
            options[name] = option
    return options


def _option(name: str, hint: Any, text: str, default: Any) -> Option | None:
    members = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    words: tuple[str, ...] = ()
    kind: type | None = None
    many = False
    for member in members:
        origin, inner = typing.get_origin(member), typing.get_args(member)
        if origin is Literal:
            words += tuple(word for word in inner if isinstance(word, str))
        elif member in (bool, int, float, str):
            kind = member if kind is not float else kind  # int | float is a float
        elif origin in (tuple, list) and inner[0] in (int, float, str):
            kind, many = inner[0], True
    if kind is None and not words:
        return None
    return Option(name, kind, text, words, many, type(None) in members, default)


def argument_help(function: Callable[..., Any]) -> dict[str, str]:
    """What the Args of a docstring say about each argument."""
    lines = (inspect.getdoc(function) or "").splitlines()
    helps: dict[str, str] = {}
    if "Args:" not in lines:
        return helps
    name = ""
    for line in lines[lines.index("Args:") + 1 :]:
        if line and not line.startswith(" "):
            break
        if match := re.match(r" {4}(\w+): (.*)", line):
            name = match[1]
            helps[name] = match[2]
        elif name and line.strip():
            helps[name] += " " + line.strip()
    return helps


def summary(thing: Any) -> str:
    """The first sentence of a docstring."""
    return (inspect.getdoc(thing) or "").split("\n\n")[0].replace("\n", " ")


def introduction(function: Callable[..., Any]) -> str:
    """A docstring up to its Args: the sentence, the equation, what else there is to know."""
    return re.split(r"^(?:Args|Returns|Raises|Reference):", inspect.getdoc(function) or "", maxsplit=1, flags=re.MULTILINE)[0].rstrip()


# ---------------------------------------------------------------- the parser


class _Parser(argparse.ArgumentParser):
    """argparse that raises instead of printing its usage and leaving."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def width() -> int:
    """Columns for text on the terminal; long lines are hard to read, so not all of a wide one."""
    return max(40, min(shutil.get_terminal_size().columns, 100) - 2)


def fitted(text: str) -> str:
    """Paragraphs as wide as the terminal; equations side by side are put below each other where it is too narrow for them."""
    blocks = []
    for block in text.split("\n\n"):
        if not block.startswith(" "):
            blocks.append(textwrap.fill(block, width()))
        elif max(map(len, block.splitlines())) > width():
            blocks.append(re.sub(r"(?<=\S) {4,}", "\n    ", block))
        else:
            blocks.append(block)
    return "\n\n".join(blocks)


def make_parser(usage: str, description: str, groups: Mapping[str, Iterable[Option]], epilog: str = "") -> argparse.ArgumentParser:
    """A parser of the options in their groups; used for its help and by `parse`."""

    def layout(prog: str) -> argparse.HelpFormatter:
        return argparse.RawDescriptionHelpFormatter(prog, max_help_position=26, width=width())

    parser = _Parser(
        usage=usage, description=description, epilog=epilog, formatter_class=layout, add_help=False, allow_abbrev=False, exit_on_error=False
    )
    for title, options in groups.items():
        group = parser.add_argument_group(title)
        for option in options:
            _add(group, option)
    parser.add_argument_group("help").add_argument("-h", "--help", action="help", help="show this")
    return parser


def _add(group: Any, option: Option) -> None:
    # a range is no place for a line break
    text = re.sub(r"(?<=[<>≤≥,]) (?=\d)", "\u00a0", option.help.rstrip(".").replace("%", "%%"))
    shown = _default(option)
    if option.words and _metavar(option) == MANY_WORDS:
        text += f" (one of {', '.join(option.words)})"
    if shown:
        text += f" (default: {shown})"
    settings: dict[str, Any] = {"dest": option.name, "help": text, "default": argparse.SUPPRESS}
    if option.kind is bool:
        action = "store_true" if option.default is None else argparse.BooleanOptionalAction
        group.add_argument(option.flag, action=action, **settings)
        return
    settings["metavar"] = _metavar(option)
    if option.kind is dict:
        group.add_argument(option.flag, nargs="+", action="extend", **settings)
    elif option.many:
        group.add_argument(option.flag, nargs="*", **settings)
    else:
        group.add_argument(option.flag, **settings)


def _metavar(option: Option) -> str:
    words = "{" + ",".join(option.words) + "}" if option.words else ""
    words = MANY_WORDS if len(words) > LINE else words
    return option.metavar or words or {int: "N", float: "X", str: "NAME", dict: "NAME=VALUE"}[option.kind or str]


def _default(option: Option) -> str:
    default = option.default
    if default is None:
        return ""  # the text says what then happens
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, tuple | list):
        return " ".join(map(str, default))
    return f"{default:g}" if isinstance(default, float) else str(default)


def parse(parser: argparse.ArgumentParser, options: Mapping[str, Option], words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Cuts a command line into options, read, and what is left: the words that belong to no flag.

    Raises:
        UsageError: an unknown flag, a flag without its value, a value that does not fit.
    """
    try:
        namespace, rest = parser.parse_known_args(_joined(words))
    except argparse.ArgumentError as error:
        name = error.argument_name.split("/")[0] if error.argument_name else "argument"
        option = next((o for o in options.values() if o.flag == name), None)
        if option is not None and option.kind is bool:
            raise UsageError(f"{name}: got a value; it takes none, write {name} alone") from None
        raise UsageError(f"{name}: got no value; {_wanted(option)}" if option else f"{name}: {error.message}") from None
    for word in rest:
        if word.startswith("-") and word != "--":
            flag = word.partition("=")[0]
            raise UsageError(f"unknown flag {flag!r}: {nearest(flag, [option.flag for option in options.values()])}")
    values = {name: options[name].read(given, options[name].flag) for name, given in vars(namespace).items()}
    return values, [word for word in rest if word != "--"]


def nearest(flag: str, known: Sequence[str]) -> str:
    """What may have been meant by a flag that does not exist. The dashes are no part of a likeness."""
    bare = {name.lstrip("-"): name for name in known}
    word = flag.lstrip("-").replace("_", "-").lower()
    near = [name for name in bare if word and name.startswith(word)] or difflib.get_close_matches(word, bare, n=2, cutoff=0.65)
    return f"did you mean {' or '.join(bare[name] for name in near)}?" if near else "--help lists the flags"


def _joined(words: Sequence[str]) -> list[str]:
    """-1e-3 and -inf after a flag are its value: argparse takes them for flags of their own."""
    joined: list[str] = []
    for word in words:
        if re.fullmatch(r"-(\d.*e.*|\.\d.*|inf(inity)?|nan)", word, re.IGNORECASE) and joined and re.fullmatch(r"--[\w-]+", joined[-1]):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def _wanted(option: Option) -> str:
    if option.words:
        return f"give one of {', '.join(option.words)}"
    return f"write {option.flag} {_metavar(option)}" + (f", {NUMBERS[option.kind]}" if option.kind in NUMBERS else "")
