"""`fsbench compare`: tables from the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fewshot_bench.analysis import formats
from fewshot_bench.analysis.table.columns import COSTS
from fewshot_bench.cli.completion import methods, one_of
from fewshot_bench.cli.filters import chosen_of, filter_options
from fewshot_bench.cli.options import MetricName, format_option
from fewshot_bench.cli.output import terminal_style, write_text
from fewshot_bench.cli.paper import Paper, check_figure, paper_options, write_figure
from fewshot_bench.cli.predictions import check_predictions, write_predictions
from fewshot_bench.store.predictions import Outcomes
from fewshot_bench.store.store import Store
from fewshot_bench.utils.errors import UsageError

if TYPE_CHECKING:
    from fewshot_bench.analysis.table.build import Options
    from fewshot_bench.analysis.table.model import Table
    from fewshot_bench.api.record import Record


FORMATS = ("terminal", "markdown", "latex", "csv", "json")


@click.command("compare", short_help="Compare methods from the records of a store.")
@click.option(
    "--store",
    default="fsbench-results",
    show_default=True,
    metavar="DIR",
    help="Folder of results.",
)
@format_option(FORMATS, "How to write the table.")
@click.option(
    "-O",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write to this file instead of the terminal.",
)
@click.option(
    "--baseline",
    shell_complete=one_of(methods),
    metavar="METHOD",
    help="Add differences to this method, paired on identical splits.",
)
@click.option(
    "--metric",
    type=MetricName(),
    default="top1",
    show_default=True,
    help="The metric that is shown and ranked.",
)
@click.option(
    "--columns",
    metavar="NAMES",
    help=f"Beside it: other metrics, curve, {', '.join(COSTS)}, plug-ins' columns.",
)
@click.option(
    "--sort",
    type=MetricName(words=COSTS),
    help="Sort every table: the best first by a metric, the cheapest by a cost.",
)
@paper_options
@click.option("--per-class", is_flag=True, help="Show the accuracy of single classes.")
@click.option(
    "--allow-mixed",
    is_flag=True,
    help="Show records made under different conditions as separate rows.",
)
@filter_options
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
    rename: tuple[str, ...],
    layout: str,
    label: str | None,
    caption: str | None,
    figure: Path | None,
    predictions: Path | None,
    **filters: str | None,
) -> None:
    """Compare methods: mean and 95 % interval over seeds, per data set and on average.

    Base and new classes of a data set, and transfers to another one, are tables of their own. Lists
    are separated by commas: --method coop,clip-lora --shots 1,16. Cells that do not exist are shown
    as missing, with the command that would run them.
    """
    from fewshot_bench.analysis.comparison import compare, known_metrics
    from fewshot_bench.analysis.table.build import Options, build

    paper = Paper(layout == "paper", label or "", caption or "")
    paper.check(form, {"columns": columns, "per-class": per_class})
    check_figure(figure, per_class)
    check_predictions(predictions)
    opened = Store(Path(store))
    chosen, older, unrunnable = chosen_of(opened, filters, every_version=allow_mixed)
    known = known_metrics({metric, sort or "", *(columns or "").split(",")})
    options = Options(
        metric=metric,
        metrics=known,
        baseline=baseline,
        allow_mixed=allow_mixed,
        method=filters["method"],
        dataset=filters["dataset"],
        store=store,
        columns=columns,
        sort=sort or "",
        sign_each=form in ("latex", "markdown") and not paper.asked,
        rename=rename,
        notes=older,
        older=unrunnable,
    )
    outcomes = Outcomes(opened, [one for one in known.values() if one.source])
    if per_class:
        other = {"metric": metric != "top1", "columns": columns, "sort": sort, "baseline": baseline}
        _refuse_beside_classes(other)
        table = build(chosen, options)
        text = _render_classes(table, chosen, outcomes, form, output, older)
    else:
        table, chosen = compare(chosen, outcomes, options, _needed(form, options))
        render = paper.render if paper.asked else _render
        text = render(table, form, output)
    if figure is not None:
        write_figure(figure, table)
    if predictions is not None:
        write_predictions(predictions, table, chosen, outcomes)
    for damage in outcomes.damaged:
        click.echo(f"not used: {damage}", err=True)
    write_text(output, text)


def _needed(form: str, options: Options) -> set[str]:
    """The metrics that an output shows or sorts by; CSV and JSON show all that are known."""
    if form in ("csv", "json"):
        return set(options.metrics)
    asked = {name.strip() for name in (options.columns or "").split(",")}
    return {options.metric, options.sort, *asked} & set(options.metrics)


def _refuse_beside_classes(asked: Mapping[str, object]) -> None:
    for name, value in asked.items():
        if value:
            raise UsageError(f"--per-class shows the accuracy of classes alone: leave out --{name}")


def _render(table: Table, form: str, output: Path | None) -> str:
    if form == "latex" and "curve" in (table.columns or ()):
        raise UsageError(
            "--columns curve: LaTeX has no characters for it; leave it out, or use another --format"
        )
    from fewshot_bench.analysis.table.layout import document

    return formats.render(document(table, form), form, **terminal_style(output))


def _render_classes(
    table: Table,
    records: Sequence[Record],
    outcomes: Outcomes,
    form: str,
    output: Path | None,
    older: Sequence[str],
) -> str:
    from fewshot_bench.analysis.table.per_class import build_classes, document

    shown = document(build_classes(table, records, outcomes), older)
    return formats.render(shown, form, **terminal_style(output))
