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
from fewshot_bench.analysis.formats.tidy import field
from fewshot_bench.analysis.table import layouts
from fewshot_bench.analysis.table.columns import FACTS
from fewshot_bench.analysis.table.costs import costs_of, every_cost
from fewshot_bench.analysis.table.grids import SHOTS, SPREADS, Display
from fewshot_bench.analysis.table.layouts import DATA, DEFAULT, LAYOUTS, PRINTED, check_stack
from fewshot_bench.cli.completion import methods, one_of
from fewshot_bench.cli.filters import choose_records, say_damages, say_notes
from fewshot_bench.cli.options import (
    PATH,
    MetricName,
    caption_options,
    filter_options,
    format_option,
    not_empty,
    output_option,
    rename_option,
    store_option,
    with_caption,
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
from fewshot_bench.utils.text import counted, encodable, option_name, printable_lines

if TYPE_CHECKING:
    from fewshot_bench.analysis.comparison import Block, Shown
    from fewshot_bench.analysis.formats.document import Document
    from fewshot_bench.analysis.sweep.panels import SweepOptions
    from fewshot_bench.analysis.table.build import Options
    from fewshot_bench.analysis.table.table import Table
    from fewshot_bench.api.record import Record

ENDINGS, BIBTEX = (".csv", ".parquet"), "bibtex"
Columns = Mapping[str, list[Any]]
_OF_CLASSES = ("metric", "columns", "sort", "baseline", "spread", "groups", "ours")


def check_options(asked: Mapping[str, Any], form: str, output: Path | None) -> None:
    """UsageError for options that exclude each other or name no usable file, before reading.

    asked: the values of the command line.
    """
    layout = asked["layout"]
    given = [name for name, value in asked.items() if value and (name, value) not in _DEFAULTS]
    _check_beside(asked)
    texts = asked["options"]
    file = f" (the file to write is -O {texts[0]})" if texts and "=" not in texts[0] else ""
    layouts.check_options(layout, given, _spell, file)
    check_stack(asked["stack"])
    if asked["per_class"]:
        own = [_spell("layout", layout)] if layout != DEFAULT else []
        own += [_spell(name) for name in given if name in _OF_CLASSES]
        if own:
            raise UsageError(f"--per-class has no room for {own[0]}; leave one of them out")
    if form == "latex" and "curve" in (asked["columns"] or "").replace(" ", "").split(","):
        raise UsageError(
            "--columns curve: LaTeX has no characters for it; leave it out, or use another --format"
        )
    files = {"--output": output, "--predictions": asked["predictions"]}
    _check_files({name: path for name, path in files.items() if path is not None})


_DEFAULTS = {("metric", "top1"), ("stack", SHOTS)}


def _spell(name: str, value: str = "") -> str:
    """An option of the command line by the name of its parameter."""
    flag = option_name({"options": "option", "groups": "group"}.get(name, name))
    return f"{flag} {value}" if value else flag


def _check_beside(asked: Mapping[str, Any]) -> None:
    """UsageError for what only the records of one store can be asked for."""
    others = [name for name in ("per_class", "predictions") if asked[name]]
    others += ["layout"] if asked["layout"] in ("sweep", "ablation") else []
    if asked["beside"] and others:
        raise UsageError(
            f"{_spell(others[0], str(asked['layout']) * (others[0] == 'layout'))} is of the "
            "records of one store; leave it or --with out"
        )


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


def read_sweep(asked: Mapping[str, Any], records: Sequence[Record]) -> SweepOptions | None:
    """The options of layouts over options, whose values the method reads; None for another one.

    records: say what the options of a method of a file are, whose code does not run for it.
    """
    if asked["layout"] not in ("sweep", "ablation"):
        return None
    from fewshot_bench.analysis.filters import split_version
    from fewshot_bench.analysis.sweep.panels import SweepOptions
    from fewshot_bench.api.file_texts import split
    from fewshot_bench.api.registry import registry
    from fewshot_bench.cli.recorded import read_values
    from fewshot_bench.runner.variants import expand_methods

    texts, method = asked["options"], asked["method"]
    if not texts:
        return SweepOptions(each=asked["each"])
    if not method:
        raise UsageError(f"-o {texts[0]} is an option of a method: add --method NAME")
    name = split_version(method)[0]
    if name.partition("[")[0] not in registry().methods.entries:
        return SweepOptions(read_values([record.spec for record in records], texts), asked["each"])
    variants = expand_methods((name,), texts, registry())
    overridden = {name for variant in variants for name in variant.overrides}
    # A default file is stated without being asked for.
    chosen = variants[0].chosen.items()
    names = [name for name, value in chosen if name in overridden or not split(value)[0]]
    return SweepOptions(
        {name: list(dict.fromkeys(v.options[name] for v in variants)) for name in names},
        asked["each"],
    )


_TABLE = "table"
_in_table = partial(option, panel=_TABLE)
_PRINTED = "as printed"
_printed = partial(option, panel=_PRINTED)
_advanced = partial(option, panel="advanced")


@click.command(
    "compare", cls=PanelCommand, short_help="Compare methods from the records of a store."
)
@store_option()
@format_option((*formats.FORMATS, BIBTEX), "bibtex: what to cite.")
@output_option("Write to this file instead of the terminal.")
@_in_table(
    "--baseline",
    callback=not_empty,
    shell_complete=one_of(methods),
    metavar="METHOD",
    help="Add differences to it, paired on identical splits.",
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
    help=f"Beside it: curve, {', '.join((*every_cost(), *FACTS))}, or metrics.",
)
@_in_table(
    "--sort",
    type=MetricName(words=every_cost()),
    help="Best first by a metric, cheapest first by a cost (--columns).",
)
@_in_table(
    "--layout",
    type=click.Choice(LAYOUTS),
    default=DEFAULT,
    show_default=True,
    help="What stands where: docs/how-to/compare.md shows each.",
)
@_printed(
    "--stack",
    default=SHOTS,
    metavar="NAME",
    help="blocks of one table: shots (default), dataset, or a condition such as backbone",
)
@_printed("--spread", type=click.Choice(SPREADS), help="what follows a mean")
@_printed("--digits", type=click.IntRange(0, 6), metavar="N", help="decimals of percentages")
@_printed("--group", "groups", multiple=True, metavar="TITLE=NAMES", help="methods under a title")
@_printed("--ours", metavar="METHOD", callback=not_empty, help="the method that stands out")
@caption_options
@rename_option(_PRINTED)
@_advanced(
    "--predictions",
    type=PATH,
    metavar="FILE",
    help="write all predictions per image, .csv or .parquet",
)
@_advanced(
    "--with",
    "beside",
    type=click.Choice(("reference",)),
    metavar="reference",
    help="rows of the reference results",
)
@_advanced("--per-class", is_flag=True, help="the accuracy of single classes")
@_in_table(
    "--option",
    "-o",
    "options",
    multiple=True,
    metavar="NAME=A,B",
    help="Of ablation, sweep: these options (others: default).",
)
@_advanced("--each", is_flag=True, help="of a sweep, data sets beside the average")
@_advanced("--allow-mixed", is_flag=True, help="records of other conditions as rows, not blocks")
@filter_options
def command(store: Path, form: str, output: Path | None, **asked: Any) -> Any:
    """Compare methods over seeds, per data set and on average, as tables in many forms.

    Records of different conditions stand apart. What is missing is shown, with the commands for it.
    """
    from fewshot_bench.analysis.comparison import (
        compare,
        document_of,
        document_of_tables,
        find_metrics,
        map_blocks,
        the_only,
    )
    from fewshot_bench.analysis.sweep.panels import select_swept
    from fewshot_bench.analysis.table.ablation import select_changed
    from fewshot_bench.analysis.table.build import Options
    from fewshot_bench.analysis.table.names import read_groups

    check_options(asked, form, output)
    layout = asked["layout"]
    opened = Store(store)
    with working("compare"):
        chosen, notes, older = choose_records(
            opened,
            asked,
            every_version=asked["allow_mixed"],
            beside=partial(_add_reference, asked) if asked["beside"] else None,
        )
        notes += tuple(_tell_agreement(chosen) if asked["beside"] else ())
        if form == BIBTEX:
            return _cite(chosen, notes, output)
        swept = read_sweep(asked, chosen)
        display = Display(layout, asked["stack"], asked["spread"] or "", asked["digits"], swept)
        if swept is not None:
            select = select_swept if layout == "sweep" else select_changed
            chosen, undrawn = select(chosen, swept)
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
            sign_each=form in ("latex", "markdown") and layout not in PRINTED,
            notes=notes,
            older=older,
            groups=read_groups(asked["groups"]),
            costs=every_cost()
            if form in DATA
            else costs_of(layout, asked["sort"], asked["columns"]),
            **{name: asked[name] for name in _OF_TABLE},
        )
        outcomes = Outcomes(opened, [value for value in metrics.values() if value.source])
        if asked["per_class"]:
            made = map_blocks(chosen, options, _tables_only, warn)
            shown = document_of(made, partial(_classes, outcomes=outcomes, before=notes))
        else:
            made = compare(chosen, outcomes, options, warn)
            shown = document_of_tables(made, form, display)
        text = formats.render(with_caption(shown, form, asked), form, **terminal_style(output))
    if asked["predictions"] is not None:
        with working("compare", live=False):
            write_predictions(asked["predictions"], *the_only(made, "--predictions"), outcomes)
    say_damages(outcomes.damaged)
    write_text(output, text)
    # For `fsbench paper`, which runs this command.
    return made


def _cite(records: Sequence[Record], notes: Sequence[str], output: Path | None) -> None:
    """Write BibTeX of the methods, data sets and backbones of records, and of this tool."""
    from fewshot_bench.analysis.citations import of_records

    citations = of_records(records)
    say_notes([*notes, *citations.notes])
    write_text(output, printable_lines(citations.text))


def _add_reference(asked: Mapping[str, Any], own: Sequence[Record]) -> Sequence[Record]:
    from fewshot_bench.analysis.reference import beside

    return beside(own, company=bool(asked["queries"] or asked["views"]))


def _tell_agreement(records: Sequence[Record]) -> Iterable[str]:
    from fewshot_bench.analysis.reference import tell_agreement

    return tell_agreement(record for record in records if not record.source)


# Options of a table that the command has under the same names.
_OF_TABLE = ("metric", "columns", "baseline", "allow_mixed", "method", "dataset", "rename", "ours")


def _tables_only(block: Block, options: Options) -> Shown:
    """The table of a block, without tests and columns of plug-ins."""
    from fewshot_bench.analysis.table.build import build

    return build(block.records, options, data=block.data), block.records


def _classes(shown: Shown, outcomes: Outcomes, before: Sequence[str]) -> Document:
    from fewshot_bench.analysis.table.per_class import document

    table, records = shown
    return document(table, records, outcomes, [note for note in before if note in table.notes])
