"""`fsbench compare`: tables from the store, in several layouts, and predictions.

`command` is the entry point: it builds the table with `analysis.comparison` and prints it.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fewshot_bench.analysis import formats
from fewshot_bench.analysis.formats import latex
from fewshot_bench.analysis.formats.tidy import field
from fewshot_bench.analysis.table.columns import COSTS, FACTS
from fewshot_bench.analysis.table.layouts import DEFAULT, LAYOUTS, lay_out
from fewshot_bench.cli.completion import methods, one_of
from fewshot_bench.cli.filters import choose_records
from fewshot_bench.cli.options import (
    PATH,
    MetricName,
    allow_mixed_option,
    filter_options,
    format_option,
    not_empty,
    output_option,
    rename_option,
    store_option,
)
from fewshot_bench.cli.output import (
    check_file,
    refuse_image,
    refuse_kept,
    replaced,
    terminal_style,
    warn,
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
    from fewshot_bench.analysis.formats.document import Document
    from fewshot_bench.analysis.sweep.panels import SweepOptions
    from fewshot_bench.analysis.table.build import Options
    from fewshot_bench.analysis.table.table import Table
    from fewshot_bench.api.record import Record

ENDINGS = (".csv", ".parquet")
Columns = Mapping[str, list[Any]]
# The layout that an option belongs to.
_LAYOUT_OF = {"label": "paper", "caption": "paper", "option": "sweep", "each": "sweep"}
_EXCLUDED = {
    "--layout paper": ("columns", "per_class"),
    "--layout sweep": ("baseline", "columns", "sort", "per_class"),
    "--per-class": ("metric", "columns", "sort", "baseline"),
}


def check_options(asked: Mapping[str, Any], form: str, output: Path | None) -> None:
    """UsageError for options that exclude each other or name no usable file, before reading.

    asked: the values of the command line.
    """
    layout = asked["layout"]
    for name, owner in _LAYOUT_OF.items():
        if asked[name] and layout != owner:
            texts = asked["option"] if name == "option" else ()
            file = f" (the file to write is -O {texts[0]})" if texts and "=" not in texts[0] else ""
            text = f"--{name} belongs to --layout {owner}: add it, or leave this out{file}"
            raise UsageError(text)
    if asked["label"] and form != "latex":
        raise UsageError("--label is LaTeX's: add --format latex, or leave it out")
    latex.check_label(asked["label"] or "", "--label")
    if asked["caption"] and form in ("csv", "json"):
        raise UsageError(f"--caption: {form} has none; leave it out or choose another --format")
    if form == "latex" and "curve" in (asked["columns"] or "").replace(" ", "").split(","):
        raise UsageError(
            "--columns curve: LaTeX has no characters for it; leave it out, or use another --format"
        )
    if layout == "paper" and form == "json":
        raise UsageError("--layout paper has no json, which holds all numbers; leave it out")
    given = {**asked, "metric": asked["metric"] != "top1"}
    for whole in (f"--layout {layout}", *(["--per-class"] if asked["per_class"] else [])):
        for name in filter(given.get, _EXCLUDED.get(whole, ())):
            raise UsageError(f"{whole} has no room for {option_name(name)}; leave one of them out")
    files = {"--output": output, "--predictions": asked["predictions"]}
    _check_files({name: path for name, path in files.items() if path is not None})


def _check_files(files: Mapping[str, Path]) -> None:
    """UsageError for a file with a wrong ending, of a store or model, or of two options."""
    owners: dict[Path, str] = {}
    for name, path in files.items():
        if name == "--output":
            refuse_image(path)
        else:
            check_file(name, path, ENDINGS)
        if path.suffix.lower() == ".parquet" and name == "--predictions":
            _parquet()
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
            arrays = [arrow.array(v, part.type) for v, part in zip(values, schema, strict=True)]
            writer.write_table(arrow.Table.from_arrays(arrays, schema=schema))
            rows += len(values[0])
    return rows


def _parquet() -> tuple[Any, Any]:
    what = "--predictions to .parquet"
    needed = ("pyarrow", "pyarrow.parquet")
    first, second = (require(name, "parquet", what, "name a .csv file") for name in needed)
    return first, second


def read_sweep(asked: Mapping[str, Any]) -> SweepOptions | None:
    """The options of `--layout sweep`, whose values the method reads; None for another layout."""
    if asked["layout"] != "sweep":
        return None
    from fewshot_bench.analysis.filters import split_version
    from fewshot_bench.analysis.sweep.panels import SweepOptions
    from fewshot_bench.api.registry import registry
    from fewshot_bench.runner.variants import expand_methods

    texts, method = asked["option"], asked["method"]
    if not texts:
        return SweepOptions(each=asked["each"])
    if not method:
        raise UsageError(f"-o {texts[0]} is an option of a method: add --method NAME")
    variants = expand_methods((split_version(method)[0],), texts, registry())
    names = variants[0].chosen
    return SweepOptions(
        {name: list(dict.fromkeys(v.options[name] for v in variants)) for name in names},
        asked["each"],
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
    help=f"Best first by a metric; cheapest first by {', '.join(COSTS)}.",
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
@rename_option(_TABLE)
@option(
    "--predictions",
    type=PATH,
    metavar="FILE",
    help="Also write all predictions per test image: .csv, .parquet.",
)
@_in_table("--per-class", is_flag=True, help="Show the accuracy of single classes.")
@_in_table(
    "--option",
    "-o",
    multiple=True,
    metavar="NAME=A,B",
    help="Of --layout sweep: columns, rows, panels (others: default).",
)
@_in_table("--each", is_flag=True, help="Of --layout sweep: data sets beside the average.")
@allow_mixed_option
@filter_options
def command(store: Path, form: str, output: Path | None, **asked: Any) -> Any:
    """Compare methods: mean and 95 % interval over seeds, per data set and on average.

    Records of different conditions stand in blocks of their own, so do base and new classes of a
    data set, and transfers. Lists are separated by commas: --method coop,clip-lora --shots 1,16.
    Cells that do not exist are shown as missing, with the command that would run them.
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

    check_options(asked, form, output)
    swept = read_sweep(asked)
    layout, caption = asked["layout"], asked["caption"] or ""
    opened = Store(store)
    with working("compare"):
        chosen, notes, older = choose_records(opened, asked, every_version=asked["allow_mixed"])
        if swept is not None:
            chosen, undrawn = select_swept(chosen, swept)
            notes += undrawn
        names = {asked["metric"], asked["sort"], *(asked["columns"] or "").split(",")}
        names = {name.strip() for name in names if name}
        metrics = find_metrics(names)
        if form not in ("csv", "json"):
            metrics = {name: about for name, about in metrics.items() if name in names}
        options = Options(
            metrics=metrics,
            store=str(store),
            sort=asked["sort"] or "",
            sign_each=form in ("latex", "markdown") and layout != "paper",
            notes=notes,
            older=older,
            **{name: asked[name] for name in _OF_TABLE},
        )
        outcomes = Outcomes(opened, [value for value in metrics.values() if value.source])
        if asked["per_class"]:
            made = map_blocks(chosen, options, _tables_only, warn)
            shown = document_of(made, partial(_classes, outcomes=outcomes, before=notes))
        else:
            made = compare(chosen, outcomes, options, warn)
            shown = document_of(made, lambda own: lay_out(own[0], form, layout, caption, swept))
        if layout == "paper" and form == "latex":
            text = latex.write_paper(shown, label=asked["label"] or "", caption=caption)
        else:
            text = formats.render(shown, form, **terminal_style(output))
    if asked["predictions"] is not None:
        with working("compare", live=False):
            write_predictions(asked["predictions"], *the_only(made, "--predictions"), outcomes)
    for damage in outcomes.damaged:
        click.echo(f"not used: {damage}", err=True)
    write_text(output, text)
    # For `fsbench paper`, which runs this command.
    return made


# Options of a table that the command has under the same names.
_OF_TABLE = ("metric", "columns", "baseline", "allow_mixed", "method", "dataset", "rename")


def _tables_only(block: Block, options: Options) -> Shown:
    """The table of a block, without tests and columns of plug-ins."""
    from fewshot_bench.analysis.table.build import build

    return build(block.records, options, data=block.data), block.records


def _classes(shown: Shown, outcomes: Outcomes, before: Sequence[str]) -> Document:
    from fewshot_bench.analysis.table.per_class import document

    table, records = shown
    return document(table, records, outcomes, [note for note in before if note in table.notes])
