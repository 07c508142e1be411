"""`fsbench report`: one HTML file about a store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from fewshot_bench.api.metrics import METRICS, PERCENT
from fewshot_bench.cli.completion import methods, one_of
from fewshot_bench.cli.filters import choose_records
from fewshot_bench.cli.options import (
    MetricName,
    allow_mixed_option,
    filter_options,
    not_empty,
    output_option,
    store_option,
)
from fewshot_bench.cli.output import say, warn, write_text
from fewshot_bench.cli.panels import PanelCommand
from fewshot_bench.cli.working import working
from fewshot_bench.store.predictions import Outcomes
from fewshot_bench.store.store import Store
from fewshot_bench.utils.text import size_text

SHOWN = MetricName(
    "a report shows metrics in percent, more is better, that are means over images",
    lambda metric: metric.unit == PERCENT and metric.higher_is_better and bool(metric.scores),
)


@click.command(
    "report", cls=PanelCommand, short_help="Write a report about a store as one HTML file."
)
@store_option()
@output_option(default=Path("report.html"), show_default=True)
@click.option("--title", default="Few-shot benchmark report", metavar="TEXT", help="The heading.")
@click.option(
    "--metric",
    type=SHOWN,
    default="top1",
    show_default=True,
    help="The metric that is shown, ranked and tested.",
)
@click.option(
    "--images",
    type=click.IntRange(0, 48),
    default=0,
    show_default=True,
    metavar="N",
    help="Show up to so many small example images of each data set that is on this machine.",
)
@click.option(
    "--baseline",
    callback=not_empty,
    metavar="METHOD",
    shell_complete=one_of(methods),
    help="Add differences to this method.",
)
@allow_mixed_option
@filter_options
def command(store: Path, output: Path, title: str, metric: str, images: int, **asked: Any) -> None:
    """Write one HTML file that opens anywhere and loads nothing from the network.

    It says which method wins, whether that is significant and what it costs; then curves over
    shots, paired tests, ranks, costs, calibration, hard classes, where every number is from, and
    what failed or is missing. Records of different conditions stand in blocks of their own. The
    filters are those of 'fsbench compare'.
    """
    from fewshot_bench.analysis.comparison import Block, map_blocks
    from fewshot_bench.analysis.table.build import Options, build
    from fewshot_bench.api.registry import registry
    from fewshot_bench.plugins.report.build import body, page
    from fewshot_bench.plugins.report.drilldown import Budget

    metrics = {**METRICS, metric: registry().metric(metric)}
    allow_mixed, baseline = asked["allow_mixed"], asked["baseline"]
    with working("report"):
        outcomes = Outcomes(Store(store), [value for value in metrics.values() if value.source])
        chosen, older, unrunnable = choose_records(outcomes.store, asked, every_version=allow_mixed)
        records = outcomes.complete(chosen, [metric, "ece"])
        options = Options(
            metric=metric,
            metrics=metrics,
            allow_mixed=allow_mixed,
            method=asked["method"],
            dataset=asked["dataset"],
            store=str(store),
            notes=older,
            older=unrunnable,
        )
        budget = Budget(images)

        def write_block(block: Block, own: Options) -> str:
            # The report computes differences itself: it also pairs methods at different shots.
            # Where there is no such method, a note says so.
            absent = baseline in own.elsewhere
            own = replace(own, baseline=baseline if absent else None)
            table = build(block.records, own, data=block.data)
            named = None if absent else baseline
            return body(table, block.data, outcomes, title=title, budget=budget, baseline=named)

        text = page(map_blocks(records, options, write_block, warn), title)
    for damage in outcomes.damaged:
        click.echo(f"not used: {damage}", err=True)
    write_text(output, text)
    size = size_text(len(text.encode("utf-8", "backslashreplace")))
    say(f"{output}: {size} about {len(records):,} records")
