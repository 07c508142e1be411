"""The page of environment variables names those that the source reads, and no other of ours."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tests.support.helpers import REPOSITORY

PAGE = REPOSITORY / "docs" / "reference" / "environment.md"
OWN = re.compile(r"_?FSBENCH_[A-Z_]+[A-Z]")
# `NAME = "TEXT"`, `ONE, OTHER = "TEXT", "TEXT"`, `NAME = ("TEXT", "TEXT")`.
CONSTANT = re.compile(r"^([A-Z_]+(?:, [A-Z_]+)*) = (.*\".*)$", re.MULTILINE)
# Methods of `os.environ` whose first argument is a variable.
ACCESS = ("get", "setdefault")


def sources() -> Iterator[str]:
    for folder in ("fewshot_bench", "methods", "datasets"):
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            yield path.read_text(encoding="utf-8")


def constants(source: str) -> dict[str, set[str]]:
    """The texts that a name of a module stands for."""
    found: dict[str, set[str]] = {}
    for names, value in CONSTANT.findall(source):
        texts = re.findall(r'"([^"]*)"', value)
        for index, name in enumerate(names.split(", ")):
            found.setdefault(name, set()).update(texts[index:][:1] if ", " in names else texts)
    return found


def is_environment(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "environ"


def arguments(source: str) -> Iterator[ast.expr]:
    """What stands for a variable where a module reads the environment."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Subscript) and is_environment(node.value):
            yield node.slice
        elif isinstance(node, ast.Compare) and any(map(is_environment, node.comparators)):
            yield node.left
        elif isinstance(node, ast.Call):
            function = node.func
            if isinstance(function, ast.Attribute) and is_environment(function.value):
                yield from node.args[:1] if function.attr in ACCESS else ()
            # `map(os.environ.get, KEYS)`
            elif any(is_environment(getattr(one, "value", one)) for one in node.args[:1]):
                yield from node.args[1:]


def read_variables() -> set[str]:
    """The variables that the source reads: those named where it reads, and all of our own."""
    found: set[str] = set()
    everywhere: dict[str, set[str]] = {}
    modules = list(sources())
    for source in modules:
        for name, values in constants(source).items():
            everywhere.setdefault(name, set()).update(values)
        found.update(text for text in re.findall(r'"(\w+)"', source) if OWN.fullmatch(text))
    for source in modules:
        own = constants(source)
        for node in arguments(source) if "environ" in source else ():
            for inner in ast.walk(node):
                if isinstance(inner, ast.Constant):
                    found.add(str(inner.value))
                name = getattr(inner, "id", getattr(inner, "attr", ""))
                found.update(own.get(name) or everywhere.get(name, ()))
    return {name for name in found if re.fullmatch(r"_?[A-Z][A-Z0-9_]*[A-Z0-9]_?", name)}


def test_the_page_of_variables_is_complete() -> None:
    named = set(re.findall(r"`(_?[A-Z][A-Z0-9_]+)`", PAGE.read_text(encoding="utf-8")))
    read = read_variables()
    assert {"FSBENCH_DATA", "RAY_ADDRESS", "WANDB_MODE", "WANDB_API_KEY", "NO_COLOR"} <= read
    assert read - named == set()
    assert {name for name in named if OWN.fullmatch(name)} - read == set()
