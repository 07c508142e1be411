"""`fsbench compare`: tables from the store, in several layouts, figure and predictions.

`command` is the entry point: it builds the table with `analysis.comparison` and prints it.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fewshot_bench.analysis import formats
from fewshot_bench.analysis.formats import latex
from fewshot_bench.analysis.formats.tidy import field
from fewshot_bench.analysis.table.columns import COSTS, FACTS
from fewshot_bench.analysis.table.figure import FORMATS as FIGURES
from fewshot_bench.analysis.table.figure import draw, panels
from fewshot_bench.analysis.table.layouts import DEFAULT, LAYOUTS, lay_out
from fewshot_bench.cli.completion import methods, one_of
from fewshot_bench.cli.filters import choose_records
from fewshot_bench.cli.options import (
    MetricName,
    PathName,
    allow_mixed_option,
    filter_options,
    format_option,
    not_empty,
    output_option,
    store_option,
)
from fewshot_bench.cli.output import (
    check_file,
    drawn,
    refuse_image,
    refuse_kept,
    replaced,
    terminal_style,
    warn,
    write_bytes,
    write_text,
)
from fewshot_bench.cli.panels import PanelCommand, list_option, option
from fewshot_bench.cli.working import working
from fewshot_bench.store.predictions import Outcomes
from fewshot_bench.store.store import Store
from fewshot_bench.utils.errors import UsageError, require
from fewshot_bench.utils.text import counted, encodable, option_name

if TYPE_CHECKING:
    from fewshot_bench.analysis.comparison import Block, Shown
    from fewshot_bench.analysis.formats import Document
    from fewshot_bench.analysis.sweep.panels import SweepOptions
    from fewshot_bench.analysis.table.build import Options
    from fewshot_bench.analysis.table.table import Table
    from fewshot_bench.api.record import Record

ENDINGS = (".csv", ".parquet")
Columns = Mapping[str, list[Any]]


def check_predictions(path: Path | None) -> None:
    """UsageError for an unusable --predictions file, before anything is read."""
    if path is None:
        return
    check_file("--predictions", path, ENDINGS)
    if path.suffix.lower() == ".parquet":
        _parquet()


def check_outputs(files: Mapping[str, Path | None]) -> None:
    """UsageError for two options with one file, or a file that belongs to a store or model."""
    owners: dict[Path, str] = {}
    output = files["--output"]
    if output is not None:
        refuse_image(output)
    for name, path in files.items():
        if path is None:
            continue
        refuse_kept(path, name)
        other = owners.setdefault(path.resolve(), name)
        if other != name:
            raise UsageError(f"{other} and {name} name one file, '{path}': choose another one")


def write_predictions(
    path: Path, table: Table, records: Sequence[Record], outcomes: Outcomes
) -> None:
    """Write the predictions, and summarize the file on stderr."""
    from fewshot_bench.analysis.table.predictions import Predictions

    outcomes.prepare(records)
    predictions = Predictions(table, outcomes)
    blocks = predictions.blocks()
    first = next(blocks, None)
    if first is None:
        raise UsageError(
            "--predictions: no finished record here has logits that can be used; run the cells "
            "again to have them"
        )
    with replaced(path, "--predictions") as temporary:
        write = _write_csv if path.suffix.lower() == ".csv" else _write_parquet
        rows = write(temporary, predictions.columns, chain([first], blocks))
    counts = (
        (len(table.rows), "method"),
        (len(predictions.datasets), "data set"),
        (predictions.cells, "cell"),
    )
    parts = ", ".join(counted(*pair) for pair in counts)
    click.echo(f"{path}: {rows:,} rows of predictions, {parts}", err=True)
    if predictions.absent:
        absent = counted(predictions.absent, "finished record")
        click.echo(f"warning: {absent} without logits that can be used left out", err=True)


def _write_csv(path: Path, columns: Mapping[str, type], blocks: Iterable[Columns]) -> int:
    rows = 0
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(map(field, columns))
        for block in blocks:
            for line in zip(*(block[name] for name in columns), strict=True):
                writer.writerow(map(field, line))
                rows += 1
    return rows


def _write_parquet(path: Path, columns: Mapping[str, type], blocks: Iterable[Columns]) -> int:
    arrow, parquet = _parquet()
    kinds = {str: arrow.string(), int: arrow.int64(), float: arrow.float64()}
    schema = arrow.schema([(encodable(name), kinds[kind]) for name, kind in columns.items()])
    rows = 0
    with parquet.ParquetWriter(path, schema) as writer:
        for block in blocks:
            values = [
                [encodable(value) if isinstance(value, str) else value for value in block[name]]
                for name in columns
            ]
            made = arrow.table(
                [arrow.array(v, part.type) for v, part in zip(values, schema, strict=True)],
                schema=schema,
            )
            writer.write_table(made)
            rows += len(values[0])
    return rows


def _parquet() -> tuple[Any, Any]:
    what = "--predictions to .parquet"
    needed = ("pyarrow", "pyarrow.parquet")
    first, second = (require(name, "parquet", what, "name a .csv file") for name in needed)
    return first, second


_FILE: Any = PathName(path_type=Path)


@dataclass(frozen=True)
class Paper:
    """The options of `--layout paper`; `asked`: True if that layout was requested."""

    asked: bool
    label: str
    caption: str

    def check(self, form: str, others: Mapping[str, object]) -> None:
        """UsageError for options that exclude each other, before anything is read."""
        for name, text in (("label", self.label), ("caption", self.caption)):
            if text and not self.asked:
                raise UsageError(f"--{name} belongs to --layout paper: add it, or leave this out")
        if self.label and form != "latex":
            raise UsageError("--label is LaTeX's: add --format latex, or leave it out")
        latex.check_label(self.label, "--label")
        if self.caption and form in ("csv", "json"):
            raise UsageError(f"--caption: {form} has none; leave it out or choose another --format")
        if self.asked and form == "json":
            raise UsageError("--layout paper has no json, which holds all numbers; leave it out")
        for name, given in others.items():
            if self.asked and given:
                raise UsageError(f"--layout paper has no room for --{name}; leave one of them out")

    def render(self, shown: Document, form: str, output: Path | None) -> str:
        """The text of a document; LaTeX in this layout has labels."""
        if self.asked and form == "latex":
            return latex.write_paper(shown, label=self.label, caption=self.caption)
        return formats.render(shown, form, **terminal_style(output))


def check_figure(path: Path | None, per_class: bool) -> None:
    """UsageError for an unusable --figure file, before anything is read."""
    if path is None:
        return
    check_file("--figure", path, FIGURES)
    if per_class:
        raise UsageError("--figure draws accuracy over shots; leave --per-class out")


def write_figure(path: Path, table: Table, sweep: SweepOptions | None) -> None:
    """Draw the figure, and report the number of panels on stderr. sweep: of `--layout sweep`."""
    suffix = path.suffix.lower()
    if sweep is not None:
        from fewshot_bench.analysis.sweep import heat_map
        from fewshot_bench.analysis.sweep.panels import sweep_of

        swept = sweep_of(table, sweep)
        count, draw_it = len(swept.panels), partial(heat_map.draw, swept, suffix[1:])
    else:
        count, draw_it = len(panels(table)), partial(draw, table, suffix[1:])
    if not count:
        raise UsageError(f"--figure: no record here has the metric {table.metric} to draw")
    write_bytes(path, drawn(draw_it, suffix))
    click.echo(f"{path}: {counted(count, 'panel')}", err=True)


def read_sweep(layout: str, values: Mapping[str, Any]) -> SweepOptions | None:
    """The options of `--layout sweep`; None for another layout, to which none may be given.

    values: those of the command line. The method reads the values of its options.
    """
    texts, method = values["option"], values["method"]
    if layout != "sweep":
        if texts or values["each"]:
            name = "--option" if texts else "--each"
            file = f" (the file to write is -O {texts[0]})" if texts and "=" not in texts[0] else ""
            raise UsageError(f"{name} belongs to --layout sweep: add it, or leave this out{file}")
        return None
    for name in ("baseline", "columns", "sort", "per_class"):
        if values[name]:
            raise UsageError(
                f"--layout sweep has no room for {option_name(name)}; leave one of them out"
            )
    from fewshot_bench.analysis.filters import split_version
    from fewshot_bench.analysis.sweep.panels import SweepOptions
    from fewshot_bench.api.registry import registry
    from fewshot_bench.runner.variants import expand_methods

    if not texts:
        return SweepOptions(each=values["each"])
    if not method:
        raise UsageError(f"-o {texts[0]} is an option of a method: add --method NAME")
    variants = expand_methods((split_version(method)[0],), texts, registry())
    names = variants[0].chosen
    return SweepOptions(
        {name: list(dict.fromkeys(v.options[name] for v in variants)) for name in names},
        values["each"],
    )


_TABLE = "table"
_in_table = partial(option, panel=_TABLE)


@click.command(
    "compare", cls=PanelCommand, short_help="Compare methods from the records of a store."
)
@store_option()
@format_option(formats.FORMATS, "How to write the table.")
@output_option("Write to this file instead of the terminal.")
@_in_table(
    "--baseline",
    callback=not_empty,
    shell_complete=one_of(methods),
    metavar="METHOD",
    help="Add differences to this method, paired on identical splits.",
)
@_in_table(
    "--metric",
    type=MetricName(),
    default="top1",
    show_default=True,
    help="Shown and ranked (fsbench list metrics).",
)
@list_option(
    "--columns",
    metavar="NAMES",
    panel=_TABLE,
    help=f"Beside it: other metrics, curve, {', '.join((*COSTS, *FACTS))}, plug-ins' columns.",
)
@_in_table(
    "--sort",
    type=MetricName(words=COSTS),
    help=f"The best first by a metric; the cheapest by {', '.join(COSTS)}.",
)
@_in_table(
    "--layout",
    type=click.Choice(tuple(LAYOUTS)),
    default=DEFAULT,
    show_default=True,
    help="; ".join(f"{name}: {text}" for name, text in LAYOUTS.items()) + ".",
)
@_in_table("--caption", metavar="TEXT", help="Caption of --layout paper.")
@_in_table("--label", metavar="NAME", help="LaTeX label of --layout paper: tab:main.")
@_in_table(
    "--rename",
    multiple=True,
    metavar="OLD=NEW",
    help="Show a method, row, data set or average under another name.",
)
@option(
    "--figure",
    type=_FILE,
    metavar="FILE",
    help="Also draw curves over shots: .pdf, .svg, .png.",
)
@option(
    "--predictions",
    type=_FILE,
    metavar="FILE",
    help="Also write all predictions per test image: .csv, .parquet.",
)
@_in_table("--per-class", is_flag=True, help="Show the accuracy of single classes.")
@_in_table(
    "--option",
    "-o",
    multiple=True,
    metavar="NAME=VALUE[,VALUE]",
    help="Of --layout sweep: columns, then rows, then panels; other options have their defaults.",
)
@_in_table("--each", is_flag=True, help="Of --layout sweep: data sets beside the average.")
@allow_mixed_option
@filter_options
def command(
    store: Path,
    form: str,
    output: Path | None,
    metric: str,
    columns: str | None,
    sort: str | None,
    per_class: bool,
    baseline: str | None,
    allow_mixed: bool,
    rename: tuple[str, ...],
    layout: str,
    label: str | None,
    caption: str | None,
    figure: Path | None,
    predictions: Path | None,
    option: tuple[str, ...],
    each: bool,
    **filters: str | None,
) -> None:
    """Compare methods: mean and 95 % interval over seeds, per data set and on average.

    Records of different conditions stand in blocks of their own. Base and new classes of a data
    set, and transfers to another one, are tables of their own. Lists are separated by commas:
    --method coop,clip-lora --shots 1,16. Cells that do not exist are shown as missing, with the
    command that would run them.
    """
    from fewshot_bench.analysis.comparison import (
        compare,
        document_of,
        find_metrics,
        map_blocks,
        the_only,
    )
    from fewshot_bench.analysis.sweep.panels import select_swept
    from fewshot_bench.analysis.table.build import Options

    swept = read_sweep(layout, locals() | filters)
    paper = Paper(layout == "paper", label or "", caption or "")
    paper.check(form, {"columns": columns, "per-class": per_class})
    check_figure(figure, per_class)
    check_predictions(predictions)
    check_outputs({"--output": output, "--figure": figure, "--predictions": predictions})
    opened = Store(store)
    with working("compare"):
        chosen, older, unrunnable = choose_records(opened, filters, every_version=allow_mixed)
        if swept is not None:
            chosen, undrawn = select_swept(chosen, swept)
            older += undrawn
        asked = {metric, sort or "", *((columns or "").replace(" ", "").split(","))}
        metrics = find_metrics(asked)
        if form not in ("csv", "json"):
            metrics = {name: about for name, about in metrics.items() if name in asked}
        options = Options(
            metric=metric,
            metrics=metrics,
            baseline=baseline,
            allow_mixed=allow_mixed,
            method=filters["method"],
            dataset=filters["dataset"],
            store=str(store),
            columns=columns,
            sort=sort or "",
            sign_each=form in ("latex", "markdown") and not paper.asked,
            rename=rename,
            notes=older,
            older=unrunnable,
        )
        outcomes = Outcomes(opened, [value for value in metrics.values() if value.source])
        if per_class:
            other = {
                "metric": metric != "top1",
                "columns": columns,
                "sort": sort,
                "baseline": baseline,
            }
            _refuse_beside_classes(other)
            made = map_blocks(chosen, options, _tables_only, warn)
            shown = document_of(made, partial(_classes, outcomes=outcomes, before=older))
        else:
            made = compare(chosen, outcomes, options, warn)
            lay = partial(_document, form=form, layout=layout, paper=paper, swept=swept)
            shown = document_of(made, lay)
        text = paper.render(shown, form, output)
    if figure is not None:
        write_figure(figure, the_only(made, "--figure")[0], swept)
    if predictions is not None:
        with working("compare", live=False):
            write_predictions(predictions, *the_only(made, "--predictions"), outcomes)
    for damage in outcomes.damaged:
        click.echo(f"not used: {damage}", err=True)
    write_text(output, text)


def _refuse_beside_classes(asked: Mapping[str, object]) -> None:
    for name, value in asked.items():
        if value:
            raise UsageError(f"--per-class shows the accuracy of classes alone: leave out --{name}")


def _document(
    shown: Shown, form: str, layout: str, paper: Paper, swept: SweepOptions | None
) -> Document:
    table, _ = shown
    if form == "latex" and "curve" in (table.columns or ()):
        raise UsageError(
            "--columns curve: LaTeX has no characters for it; leave it out, or use another --format"
        )
    return lay_out(table, form, layout, paper.caption, swept)


def _tables_only(block: Block, options: Options) -> Shown:
    """The table of a block, without tests and columns of plug-ins."""
    from fewshot_bench.analysis.table.build import build

    return build(block.records, options, data=block.data), block.records


def _classes(shown: Shown, outcomes: Outcomes, before: Sequence[str]) -> Document:
    from fewshot_bench.analysis.table.per_class import document

    table, records = shown
    return document(table, records, outcomes, [note for note in before if note in table.notes])
