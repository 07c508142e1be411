"""`fsbench compare`: tables from the store."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import click

from fewshot_bench.compare.columns import SORTS
from fewshot_bench.errors import DataMissingError, PluginError, UsageError
from fewshot_bench.metrics import METRICS
from fewshot_bench.outcomes import Outcomes
from fewshot_bench.store import Store

if TYPE_CHECKING:
    from fewshot_bench.compare.aggregate import Options
    from fewshot_bench.compare.model import Table
    from fewshot_bench.record import Record


class _Terminal(TypedDict):
    styled: bool
    width: int | None


FORMATS = ("terminal", "markdown", "latex", "csv", "json")


@click.command("compare", short_help="Compare methods from the records of a store.")
@click.option(
    "--store",
    default="fsbench-results",
    show_default=True,
    metavar="DIR",
    help="Folder of results.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    default="terminal",
    show_default=True,
    help="How to write the table.",
)
@click.option(
    "-O",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write to this file instead of the terminal.",
)
@click.option("--method", metavar="NAMES", help="Only these methods, in this order.")
@click.option(
    "--dataset", metavar="NAMES", help="Only these data sets or targets of transfer, in this order."
)
@click.option("--classes", metavar="NAMES", help="Only these parts of the classes: all, base, new.")
@click.option("--shots", metavar="NUMBERS", help="Only these numbers of shots.")
@click.option("--seeds", metavar="NUMBERS", help="Only these seeds (split/train when they differ).")
@click.option(
    "--baseline",
    metavar="METHOD",
    help="Add differences to this method, paired on identical splits.",
)
@click.option(
    "--metric",
    type=click.Choice(list(METRICS)),
    default="top1",
    show_default=True,
    help="The metric that is shown and ranked.",
)
@click.option(
    "--columns",
    metavar="NAMES",
    help="Beside it: other metrics, curve, trained, billed, peak, plug-ins' columns.",
)
@click.option(
    "--sort",
    type=click.Choice(SORTS),
    help="Sort every table: the best first by a metric, the cheapest by a cost.",
)
@click.option("--per-class", is_flag=True, help="Show the accuracy of single classes.")
@click.option("--protocol", metavar="NAME", help="Only records of this sampling protocol.")
@click.option("--val", metavar="NAME", help="Only records of this validation policy.")
@click.option("--prompts", metavar="NAME", help="Only records of this template set.")
@click.option("--backbone", metavar="NAME", help="Only records of this backbone.")
@click.option("--precision", metavar="NAME", help="Only records of this precision.")
@click.option("--device", metavar="NAME", help="Only records of this device.")
@click.option("--limit", metavar="N|none", help="Only runs with this limit on queries.")
@click.option("--weights", metavar="PREFIX", help="Only records of these backbone weights.")
@click.option("--revision", metavar="PREFIX", help="Only records of this data set revision.")
@click.option(
    "--own-data",
    metavar="PREFIX|none",
    help="Only records of these own class names, templates and hold-out.",
)
@click.option(
    "--allow-mixed",
    is_flag=True,
    help="Show records made under different conditions as separate rows.",
)
def command(
    store: str,
    form: str,
    output: Path | None,
    metric: str,
    columns: str | None,
    sort: str | None,
    per_class: bool,
    baseline: str | None,
    allow_mixed: bool,
    **filters: str | None,
) -> None:
    """Compare methods: mean and 95 % interval over seeds, per data set and on average.

    Base and new classes of a data set, and transfers to another one, are tables of their own. Lists
    are separated by commas: --method coop,clip-lora --shots 1,16. Cells that do not exist are shown
    as missing, with the command that would run them.
    """
    from fewshot_bench.compare.aggregate import Options, build
    from fewshot_bench.compare.select import select

    listed = ("method", "dataset", "classes", "shots", "seeds")
    names = {name: filters.pop(name) for name in listed}
    opened = Store(Path(store))
    chosen = select(_read(opened, store), names, filters)
    options = Options(
        metric=metric,
        baseline=baseline,
        allow_mixed=allow_mixed,
        method=names["method"],
        dataset=names["dataset"],
        store=store,
        columns=columns,
        sort=sort or "",
    )
    outcomes = Outcomes(opened)
    if per_class:
        other = {"metric": metric != "top1", "columns": columns, "sort": sort, "baseline": baseline}
        _refuse_beside_classes(other)
        text = _render_classes(build(chosen, options), chosen, outcomes, form, output)
    else:
        chosen = outcomes.completed(chosen, _needed(form, options))
        text = _render(build(chosen, options, _columns()), form, output)
    for damage in outcomes.damaged:
        click.echo(f"not used: {damage}", err=True)
    if output is None:
        click.echo(text.encode("utf-8", "backslashreplace").decode(), nl=False, color=True)
    else:
        _write(output, text)


def _needed(form: str, options: Options) -> set[str]:
    """The metrics that an output shows or sorts by; CSV and JSON show all."""
    if form in ("csv", "json"):
        return set(METRICS)
    asked = {name.strip() for name in (options.columns or "").split(",")}
    return {options.metric, options.sort, *asked} & set(METRICS)


def _read(store: Store, folder: str) -> list[Record]:
    """All records of a store; damaged ones are named on stderr."""
    if store.path.exists() and not store.path.is_dir():
        raise UsageError(f"store '{folder}' is not a folder; choose another one with --store DIR")
    records = list(store.records())
    for damage in store.damaged:
        click.echo(f"not used: {damage}", err=True)
    if not records:
        what = "holds no readable record" if store.path.exists() else "does not exist"
        raise DataMissingError(
            f"store '{folder}' {what}; make results with "
            f"'fsbench run --method all --dataset demo --store {folder}', or name another --store"
        )
    return records


def _columns() -> Any:
    """The plug-ins' extra columns, or None when no plug-in has any."""
    from fewshot_bench.registry import registry

    hooks = registry().hooks
    if not hooks.table_columns.get_hookimpls():
        return None

    def columns(records: Sequence[Record]) -> Mapping[str, Any]:
        try:
            found = hooks.table_columns(records=records)
            return {str(title): value for part in found for title, value in (part or {}).items()}
        except Exception as error:
            raise PluginError(
                f"a plug-in's table_columns failed: {type(error).__name__}: {error}; "
                "find it with 'fsbench list plugins', leave it out with FSBENCH_DISABLE_PLUGINS"
            ) from error

    return columns


def _refuse_beside_classes(asked: Mapping[str, object]) -> None:
    for name, value in asked.items():
        if value:
            raise UsageError(f"--per-class shows the accuracy of classes alone: leave out --{name}")


def _render(table: Table, form: str, output: Path | None) -> str:
    from fewshot_bench.compare import latex, markdown, terminal, tidy

    if form == "terminal":
        return terminal.render(table, **_terminal(output))
    if form == "latex" and "curve" in (table.columns or ()):
        raise UsageError(
            "--columns curve: LaTeX has no characters for it; leave it out, or use another --format"
        )
    writers = {
        "markdown": markdown.render,
        "latex": latex.render,
        "csv": tidy.render_csv,
        "json": tidy.render_json,
    }
    return writers[form](table)


def _render_classes(
    table: Table, records: Sequence[Record], outcomes: Outcomes, form: str, output: Path | None
) -> str:
    from fewshot_bench.compare import classes, latex, markdown, terminal, tidy

    found = classes.build_classes(table, records, outcomes)
    if form == "csv":
        return tidy.write_csv(classes.class_rows(found), classes.HEADS)
    if form == "json":
        about = tidy.meta(table) | {"metric": "accuracy of single classes", "notes": found.notes}
        return tidy.write_json(about, classes.class_rows(found))
    grids = classes.class_grids(found)
    if form == "terminal":
        return terminal.write(grids, found.notes, **_terminal(output))
    return {"markdown": markdown.write, "latex": latex.write}[form](grids, found.notes)


def _terminal(output: Path | None) -> _Terminal:
    """How to write for the terminal, or for a file."""
    live = output is None and sys.stdout.isatty()
    width = max(os.get_terminal_size(sys.stdout.fileno()).columns, 60) if live else None
    return {"styled": live, "width": width}


def _write(path: Path, text: str) -> None:
    """Replace a file as a whole; a device or a pipe is written to as it is."""
    data = text.encode("utf-8", "backslashreplace")
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(data)
            return
        real = path.resolve()
        temporary = real.with_name(f".{real.name}.{os.getpid()}-{secrets.token_hex(4)}")
        try:
            temporary.write_bytes(data)
            os.replace(temporary, real)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(
            f"cannot write '{path}': {error.strerror}; choose another file with --output"
        ) from error
