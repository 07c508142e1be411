"""`fsbench check`: the conformance kit on a registered method."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import click

from fewshot_bench.cli.completion import methods, one_of
from fewshot_bench.cli.say import say
from fewshot_bench.errors import PluginError, UsageError
from fewshot_bench.method import find_parameter, parse_value
from fewshot_bench.registry import registry

MARKS = {"passed": "pass", "failed": "FAIL", "skipped": "skip", "expected failure": "xfail"}


@click.command("check", short_help="Run the conformance kit on a method.")
@click.argument("method", shell_complete=one_of(methods))
@click.option(
    "-o",
    "--option",
    "options",
    multiple=True,
    metavar="NAME=VALUE",
    help="A hyper-parameter other than its default; may be repeated.",
)
@click.option("--full", is_flag=True, help="Ignore the method's own quick() variant.")
def command(method: str, options: tuple[str, ...], full: bool) -> None:
    """Check that METHOD keeps the contract, on a toy backbone with colored squares.

    One line per rule; the exit code is 1 when a rule is broken. A method with a quick() is checked
    in that variant, with the given options on top.
    """
    instance = _configured(method, options, full)
    from fewshot_bench.testing import iter_checks

    counts: Counter[str] = Counter()
    for result in iter_checks(instance, {}):
        counts[result.outcome] += 1
        reason = f": {' '.join(result.reason.split())}" if result.reason else ""
        say(f"{MARKS[result.outcome]:5} {result.name}{reason}")
    parts = [f"{count} {outcome}" for outcome, count in sorted(counts.items())]
    say(f"{method}: {', '.join(parts)}")
    if counts["failed"]:
        raise SystemExit(1)


def _configured(name: str, options: tuple[str, ...], full: bool) -> Any:
    """The method's instance in its quick variant, with the options that were given."""
    kind = registry().method_class(name)
    values: dict[str, Any] = {}
    for text in options:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"-o {text!r}: expected name=value (fsbench show {name})")
        parameter = find_parameter(name, kind, key)
        values[parameter.name] = parse_value(name, parameter, value)
    try:
        instance = kind()
    except TypeError as error:
        raise PluginError(
            f"method '{name}' cannot be built from its defaults: {error}; give every field one"
        ) from error
    shorten = getattr(instance, "quick", None)
    if callable(shorten) and not full:
        instance = shorten()
    return dataclasses.replace(instance, **values) if values else instance
