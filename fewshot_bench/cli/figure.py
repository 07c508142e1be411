"""`fsbench figure`: figures of papers from the store.

`command` is the entry point; `make` parses nothing and writes nothing, so that `fsbench paper` uses
it, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fewshot_bench.analysis.figures.style import (
    AXES,
    DATA,
    DEFAULT_SIZE,
    FONTS,
    FORMATS,
    KINDS,
    SIZES,
    ZERO_SHOT,
    Style,
    read_size,
)
from fewshot_bench.analysis.table.costs import costs_of, every_cost
from fewshot_bench.analysis.table.grids import SPREADS
from fewshot_bench.cli.compare import read_sweep
from fewshot_bench.cli.filters import choose_records, say_notes
from fewshot_bench.cli.options import (
    NAMES,
    PATH,
    MetricName,
    Text,
    allow_mixed_option,
    filter_options,
    not_empty,
    rename_option,
    store_option,
)
from fewshot_bench.cli.output import check_file, drawn, refuse_kept, warn, write_bytes
from fewshot_bench.cli.panels import PanelCommand, list_option, option
from fewshot_bench.cli.working import working
from fewshot_bench.store.predictions import Outcomes
from fewshot_bench.store.store import Store
from fewshot_bench.utils.errors import UsageError
from fewshot_bench.utils.text import counted, printable

if TYPE_CHECKING:
    from fewshot_bench.analysis.figures.drawing import Drawing

_PANEL = "drawing"
_drawing = partial(option, panel=_PANEL)


@click.command("figure", cls=PanelCommand, short_help="Draw a figure of a paper from a store.")
@click.argument("kind", metavar="KIND", type=click.Choice(tuple(KINDS)))
@store_option()
@option(
    "-O",
    "--output",
    type=PATH,
    multiple=True,
    required=True,
    metavar="FILE",
    help="Write here: .pdf, .svg, .png; may be repeated.",
)
@option("--data", type=PATH, metavar="FILE", help="Also write the numbers drawn: .csv.")
@option("--metric", type=MetricName(), default="top1", show_default=True, help="What is drawn.")
@rename_option("options")
@option("--ours", metavar="METHOD", callback=not_empty, help="The method that stands out.")
@_drawing(
    "--size",
    type=Text("size", read_size),
    default=DEFAULT_SIZE,
    metavar="SIZE",
    help=f"{', '.join(SIZES)}, or inches: 6x4, 3.25 (default: {DEFAULT_SIZE}).",
)
@_drawing("--font", type=click.Choice(tuple(FONTS)), help="Serif is like Times (default: sans).")
@_drawing("--across", type=click.IntRange(1), metavar="N", help="Panels in a row.")
@_drawing(
    "--axes",
    type=click.Choice(AXES),
    help="Vertical limits: of each panel, of all, from zero.",
)
@_drawing("--spread", type=click.Choice(SPREADS), help="Around a mean (default: interval).")
@_drawing("--bars", is_flag=True, help="Of shots: error bars in place of a band.")
@_drawing(
    "--zero-shot",
    type=click.Choice(ZERO_SHOT),
    help="Of shots: how a method without shots is drawn.",
)
@list_option(
    "--cost", type=NAMES, metavar="NAMES", panel=_PANEL, help=f"Of cost: {', '.join(every_cost())}."
)
@_drawing(
    "--option",
    "-o",
    "options",
    multiple=True,
    metavar="NAME=A,B",
    help="Of ablation: columns, rows, panels.",
)
@_drawing("--each", is_flag=True, help="Of ablation: data sets beside the average.")
@allow_mixed_option
@filter_options
def command(store: Path, output: Sequence[Path], data: Path | None, **asked: Any) -> None:
    """Draw a figure of a paper at the size that it is printed in; what is missing is a gap.

    \b
    shots     accuracy over shots, a panel per data set, the average first
    base-new  bars of base classes, new classes and their harmonic mean
    cost      accuracy against trained parameters, time and memory
    ablation  one method over two options (heat maps) or one (bars)
    """
    check_files(output, data)
    drawing = make(store, **asked)
    for path in output:
        write_bytes(path, content_of(drawing, path))
        click.echo(f"{path}: {counted(drawing.panels, 'panel')}", err=True)
    if data is not None:
        write_bytes(data, drawing.to_csv().encode())
        click.echo(f"{data}: {counted(len(drawing.rows), 'number')}", err=True)
    say_notes(drawing.notes)
    for line in drawing.table.commands:
        click.echo(f"missing: {printable(line)}", err=True)


def check_files(output: Sequence[Path], data: Path | None) -> None:
    """UsageError for a file with a wrong ending, of a store or model, or named twice."""
    files: list[tuple[str, Path, Sequence[str]]]
    files = [("--output", path, FORMATS) for path in output]
    files += [("--data", data, (DATA,))] if data else []
    seen = set()
    for name, path, endings in files:
        check_file(name, path, endings)
        refuse_kept(path, name)
        if path.resolve() in seen:
            raise UsageError(f"{name} '{path}': stands there twice; choose another file")
        seen.add(path.resolve())


def content_of(drawing: Drawing, path: Path) -> bytes:
    """The content of a file; warnings of matplotlib go to stderr."""
    suffix = path.suffix.lower()
    return drawn(lambda: drawing.to_bytes(suffix[1:]), suffix)


def make(store: Path, kind: str, **asked: Any) -> Drawing:
    """The figure of the records of a store. asked: values of the command's other options."""
    from fewshot_bench.analysis.comparison import compare, find_metrics, the_only
    from fewshot_bench.analysis.figures.kinds import FigureOptions, draw, refuse_foreign
    from fewshot_bench.analysis.sweep.panels import SweepOptions, select_swept
    from fewshot_bench.analysis.table.build import Options

    costs = asked["cost"] or ()
    refuse_foreign(kind, [name for name, value in asked.items() if value])
    opened = Store(store)
    with working("figure"):
        chosen, notes, older = choose_records(opened, asked, every_version=asked["allow_mixed"])
        is_swept = kind == "ablation"
        swept = read_sweep(asked | {"layout": "sweep"}, chosen) if is_swept else None
        if swept is not None:
            chosen, undrawn = select_swept(chosen, swept)
            notes += undrawn
        metrics = find_metrics({asked["metric"]})
        metrics = {asked["metric"]: metrics[asked["metric"]]}
        options = Options(
            metrics=metrics,
            store=str(store),
            notes=notes,
            older=older,
            costs=costs_of("", "", ",".join(costs)),
            **{name: asked[name] for name in _OF_TABLE},
        )
        outcomes = Outcomes(opened, [value for value in metrics.values() if value.source])
        made = compare(chosen, outcomes, options, warn)
    table, _ = the_only(made, "a figure")
    names = ("size", "font", "spread", "bars", "zero_shot", "axes", "across")
    style = Style(**{name: asked[name] for name in names if asked[name]})
    return draw(table, FigureOptions(kind, style, costs, swept or SweepOptions()))


# Options of a table that the command has under the same names.
_OF_TABLE = ("metric", "allow_mixed", "method", "dataset", "rename", "ours")
