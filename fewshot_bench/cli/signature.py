"""`fsbench signature`: the signature line under a table, and the commands that it encodes."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fewshot_bench.api.record import Record
from fewshot_bench.cli.filters import choose_records, say_notes
from fewshot_bench.cli.options import filter_options, store_option
from fewshot_bench.cli.panels import PanelCommand
from fewshot_bench.store.store import Store
from fewshot_bench.utils.errors import FsbenchError, UsageError
from fewshot_bench.utils.text import option_name, printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fewshot_bench.analysis.signature.line import Matrix
    from fewshot_bench.api.spec import RunSpec


@click.command(
    "signature",
    cls=PanelCommand,
    short_help="Write the signature of records, or read one as a command.",
)
@click.argument("line", required=False)
@store_option("Folder of results, when no LINE is given.")
@click.option(
    "--check", is_flag=True, help="Compare versions, weights and data sets with those here."
)
@filter_options
@click.pass_context
def command(
    ctx: click.Context, /, line: str | None, store: Path, check: bool, **filters: str | None
) -> None:
    """Write the signature of records, or read one as a command.

    With LINE (in quotes), print the fsbench run commands that compute its cells; what they cannot
    say goes to stderr. Without it, print the signature of the records that the filters choose.
    """
    from fewshot_bench.analysis.signature import commands, parse, problems, signature_of

    if line is None:
        if check:
            raise UsageError("--check needs a signature: fsbench signature --check 'fsbench:1|...'")
        records, notes, _ = choose_records(Store(store), filters)
        say_notes(notes)
        click.echo(signature_of(records))
        return
    given = [option_name(name) for name, value in filters.items() if value]
    if given:
        raise UsageError(f"{given[0]} chooses records of a store; leave it out beside a signature")
    matrices = parse(line)
    lines = commands(matrices)
    for text in lines:
        click.echo(printable(text))
    say_notes(problems(matrices))
    if check:
        differing = list(_differences(matrices, lines))
        for text in differing:
            click.echo(f"differs: {printable(text)}", err=True)
        count = f"{len(differing)} difference{'s' if len(differing) != 1 else ''}"
        click.echo(f"here: {count}" if differing else "here: as the line says")
        ctx.exit(FsbenchError.exit_code if differing else 0)


def cells_of(line: str) -> list[RunSpec]:
    """The cells that an `fsbench run` line would compute on this installation."""
    from fewshot_bench.cli.engines import split_values
    from fewshot_bench.cli.run import command as run
    from fewshot_bench.engines.asking import ask
    from fewshot_bench.runner import request as plan

    values = run.make_context("run", shlex.split(line)[2:]).params
    expanded = plan.expand(ask(*split_values(values)))
    for problem in expanded.problems.values():
        click.echo(f"error: {printable(problem)}", err=True)
    return expanded.cells


def _differences(there: Sequence[Matrix], lines: list[str]) -> Iterator[str]:
    """Differences between a signature and this installation: versions, weights, lists, cells."""
    from fewshot_bench.analysis.signature import parse, signature_of

    cells = {cell.key(): cell for line in lines for cell in cells_of(line)}
    # Without the data there are no cells, and `line` is empty.
    line = signature_of([Record(cell, "done") for cell in cells.values()])
    here = parse(line) if line else ()
    for what, facts_of in _FACTS.items():
        now = {name: value for matrix in here for name, value in facts_of(matrix)}
        for name, value in dict.fromkeys(pair for matrix in there for pair in facts_of(matrix)):
            mine = now.get(name, "")
            # A digest of the line may be shortened.
            same = value == mine if what == "version" else mine.startswith(value)
            if value and mine and not same:
                yield f"{what} of {name}: {value} in the line, {mine} here"
    total = sum(matrix.count for matrix in there)
    if len(cells) != total:
        yield f"cells: {total:,} in the line, {len(cells):,} here"


_FACTS: Mapping[str, Callable[[Matrix], list[tuple[str, str]]]] = {
    "version": lambda matrix: [(choice.method, choice.version) for choice in matrix.methods],
    "weights": lambda matrix: [(matrix.backbone.name, matrix.backbone.digest)],
    "lists": lambda matrix: [(d.name, d.digest) for d in (*matrix.datasets, *matrix.targets)],
}
