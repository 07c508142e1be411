"""`fsbench curves`: draw what fits logged by step, such as their loss."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fewshot_bench.analysis.figures.style import (
    DATA,
    DEFAULT_SIZE,
    FORMATS,
    SIZES,
    Style,
    read_size,
)
from fewshot_bench.cli.filters import choose_records, say_notes
from fewshot_bench.cli.options import (
    NAMES,
    Text,
    filter_options,
    format_option,
    output_option,
    store_option,
)
from fewshot_bench.cli.output import check_file, drawn, refuse_kept, write_bytes
from fewshot_bench.cli.panels import PanelCommand, list_option, option
from fewshot_bench.cli.working import working
from fewshot_bench.store.store import Store, find
from fewshot_bench.utils.errors import UsageError
from fewshot_bench.utils.text import counted

if TYPE_CHECKING:
    from fewshot_bench.analysis.curves import Curves
    from fewshot_bench.api.record import Record

TERMINAL, CSV = "terminal", "csv"
# Columns of a plot, at most; reasons for records without curves.
WIDEST, MOST_NOTES = 120, 3


@click.command("curves", cls=PanelCommand, short_help="Draw the loss of fits, and what they log.")
@click.argument("records", nargs=-1, metavar="[RECORD]...")
@store_option()
@list_option("--series", type=NAMES, metavar="NAMES", help="Only these: loss,rate (default: all).")
@format_option((TERMINAL, CSV), "What is printed.")
@output_option("Write to this file: .pdf, .svg, .png, .csv.")
@option(
    "--size",
    type=Text("size", read_size),
    default=DEFAULT_SIZE,
    show_default=True,
    metavar="SIZE",
    help=f"Of a figure: {', '.join(SIZES)}, or inches: 6x4.",
)
@filter_options
def command(
    records: Sequence[str],
    store: Path,
    series: Sequence[str] | None,
    form: str,
    output: Path | None,
    size: Any,
    **filters: Any,
) -> None:
    """Draw what fits logged by step: their loss, learning rate and own series.

    RECORD is a record's file or the beginning of a cell's key; without one, all records that the
    filters select are drawn together.
    """
    from fewshot_bench.analysis.curves import collect_curves, rows_of, why_none
    from fewshot_bench.analysis.formats.tidy import write_csv

    if output is not None:
        check_file("--output", output, (*FORMATS, DATA))
        refuse_kept(output, "--output")
    with working("curves"):
        found = _find_records(records, store, filters)
        curves = collect_curves(found, series or ())
    say_notes([why_none(record) for record in found if not record.curves][:MOST_NOTES])
    data = DATA if form == CSV else (output or Path()).suffix.lower()
    if output is None and data != DATA:
        click.echo(_draw(curves))
        return
    rows = write_csv(rows_of(curves), ()) if data == DATA else ""
    if output is None:
        click.echo(rows, nl=False)
        return
    write_bytes(output, rows.encode() or _draw_figure(curves, Style(size=size), data))
    click.echo(f"{output}: {counted(sum(map(len, curves.values())), 'curve')}", err=True)


def _find_records(
    names: Sequence[str], store: Path, filters: Mapping[str, Any]
) -> Sequence[Record]:
    """The named records, else those of the store that the filters select."""
    if not names:
        return _in_order(choose_records(Store(store), filters).records, filters)
    given = [name for name, value in filters.items() if value]
    if given:
        raise UsageError(f"--{given[0]} selects from a store, and records are named: give one way")
    return [find(name, store).record for name in dict.fromkeys(names)]


def _in_order(records: Sequence[Record], filters: Mapping[str, Any]) -> Sequence[Record]:
    """Records by method, data set, shots and seed; methods and data sets as they are asked for."""
    from fewshot_bench.analysis.filters import (
        dataset_names,
        expand_datasets,
        expand_methods,
        method_names,
        place,
    )

    methods = {name for record in records for name in method_names(record.spec)}
    datasets = {name for record in records for name in dataset_names(record.spec)}
    first = expand_methods(filters["method"] or "", methods)
    then = expand_datasets(filters["dataset"] or "", datasets)

    def position(record: Record) -> tuple[Any, ...]:
        spec = record.spec
        return (
            min(place(first, name) for name in method_names(spec)),
            spec.label,
            min(place(then, name) for name in dataset_names(spec)),
            spec.evaluated,
            spec.shots,
            spec.train_seed,
        )

    return sorted(records, key=position)


def _draw(curves: Curves) -> str:
    """A plot of each series for the terminal."""
    from fewshot_bench.analysis.formats.plot import MOST, Line, plot

    _refuse_many(curves, MOST)
    width = min(shutil.get_terminal_size().columns, WIDEST)
    styled = sys.stdout.isatty()
    return "\n\n".join(
        plot(name, [Line(c.label, c.steps, c.values) for c in shown], width, styled=styled)
        for name, shown in curves.items()
    )


def _draw_figure(curves: Curves, style: Style, suffix: str) -> bytes:
    """The content of a figure's file."""
    from fewshot_bench.analysis.figures.curves import to_bytes
    from fewshot_bench.analysis.formats.style import MOST
    from fewshot_bench.analysis.signature import signature_of

    _refuse_many(curves, MOST)
    every = {c.record.spec.key(): c.record for shown in curves.values() for c in shown}
    signature = signature_of(list(every.values()))
    return drawn(lambda: to_bytes(curves, style, suffix[1:], signature), suffix)


def _refuse_many(curves: Curves, most: int) -> None:
    """UsageError for more lines in one plot than can be told apart."""
    count = max(map(len, curves.values()))
    if count > most:
        raise UsageError(
            f"{count} records are too many for one plot, expected at most {most}: name some, "
            "select with --method, --dataset, --shots or --seeds, or take --format csv"
        )
