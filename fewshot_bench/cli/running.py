"""`fsbench run` and its kin: the terminal's reporter, and a request from options."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fewshot_bench.cli.say import say
from fewshot_bench.engines import progress
from fewshot_bench.engines.choice import EngineChoice
from fewshot_bench.engines.conditions import Conditions
from fewshot_bench.engines.matrix import INTERRUPTED, ThisCall
from fewshot_bench.utils.processes import interrupt_on_signals
from fewshot_bench.utils.text import printable

if TYPE_CHECKING:
    from fewshot_bench.api.spec import RunSpec
    from fewshot_bench.runner.request import Request

__all__ = ["INTERRUPTED", "TerminalReporter", "call_of", "request_of", "run_matrix"]
_NAMES = {"method": "methods", "dataset": "datasets", "option": "options"}


class TerminalReporter:
    """Messages of a run: progress on stdout, problems on stderr."""

    def info(self, text: str) -> None:
        """A line on stdout."""
        say(text)

    def notice(self, text: str) -> None:
        """A line on stderr."""
        click.echo(printable(text), err=True)

    def warning(self, text: str) -> None:
        """The same, as a warning."""
        self.notice(f"warning: {text}")

    def unusable(self, text: str) -> None:
        """The same, as an error."""
        self.notice(f"error: {text}")

    def failures(self, lines: Sequence[str]) -> None:
        """Lines on stderr."""
        for line in lines:
            self.notice(line)

    def results(self, folder: Path) -> None:
        """The line on where results lie, with the command that shows them."""
        click.echo(f"results in {folder}; fsbench compare --store {folder}")

    def progress(
        self, cells: Sequence[RunSpec], workers: int
    ) -> AbstractContextManager[progress.Display]:
        """One bar on a terminal, lines elsewhere."""
        return progress.display(cells, workers, live=sys.stdout.isatty(), say=say)


def request_of(conditions: Conditions, values: Mapping[str, Any]) -> Request:
    """The request of the options of `fsbench run`, by their names there.

    UsageError for own data that cannot be used.
    """
    from fewshot_bench.runner.own_data import read_own_data
    from fewshot_bench.runner.request import Request

    named = {_NAMES.get(name, name): value for name, value in values.items()}
    known = {field.name for field in fields(Request)}
    found = {name: value for name, value in named.items() if name in known and value is not None}
    data = read_own_data(
        values.get("classnames"), values.get("templates", ()), values.get("holdout")
    )
    return Request(
        **found,
        backbone=conditions.backbone,
        device=conditions.device,
        precision=conditions.precision,
        data=data,
    )


def call_of(values: Mapping[str, Any]) -> ThisCall:
    """Options of this call alone."""
    known = {field.name for field in fields(ThisCall)}
    return ThisCall(**{name: value for name, value in values.items() if name in known})


def run_matrix(conditions: Conditions, engines: EngineChoice, values: Mapping[str, Any]) -> int:
    """Run what options of `fsbench run` ask for; returns the exit code."""
    from fewshot_bench.engines import matrix

    interrupt_on_signals()
    request, call = request_of(conditions, values), call_of(values)
    return matrix.run_matrix(request, conditions, engines, TerminalReporter(), call).exit_code
