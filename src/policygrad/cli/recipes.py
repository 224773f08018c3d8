"""The recipes as the command line needs them, read off their source: importing one would import JAX, half a second before a mistyped flag
is told or a help shown.

A shell is a function with a recipe's name, signature and docstring, and nothing inside.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

ALGORITHMS = Path(__file__).resolve().parents[1] / "algorithms"
LIGHT = ("typing", "collections.abc", "policygrad.settings")
"""Modules whose names annotations use as they are; the other names are of types that no flag has."""


@cache
def shells() -> dict[str, Callable[..., Any]]:
    """The recipes by name, in the order of `algorithms.RECIPES`."""
    front = _parsed("__init__")
    homes = {name: module.rpartition(".")[2] for module, name in _imports(front)}
    listed = next(node.value for node in front.body if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "RECIPES")
    assert isinstance(listed, ast.Dict)
    names = [ast.literal_eval(key) for key in listed.keys if key is not None]
    functions = [ast.unparse(value) for value in listed.values]
    return {name: _shell(homes[function], function) for name, function in zip(names, functions, strict=True)}


def _shell(module: str, function: str) -> Callable[..., Any]:
    tree = _parsed(module)
    body = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function)
    body.body = body.body[:1]  # the docstring
    future = ast.ImportFrom("__future__", [ast.alias("annotations")], 0)
    namespace = {name: _named(source, name) for source, name in _imports(tree) if source != "__future__"}
    exec(compile(ast.fix_missing_locations(ast.Module([future, body], [])), f"{module}.py", "exec"), namespace)
    shell = namespace[function]
    assert callable(shell)
    return shell


def _named(source: str, name: str) -> Any:
    """What an imported name stands for in an annotation."""
    if source in LIGHT:
        return getattr(importlib.import_module(source), name)
    return type(name, (), {})


def _parsed(module: str) -> ast.Module:
    return ast.parse((ALGORITHMS / f"{module}.py").read_text("utf-8"))


def _imports(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """(module, name) of every `from module import name`."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, alias.name) for alias in node.names)
