"""`fsbench report`: one HTML file about a store."""

from __future__ import annotations

from pathlib import Path

import click

from fewshot_bench.cli import compare
from fewshot_bench.cli.say import say
from fewshot_bench.wording import size_text

# The filters that a report has in common with a table; they are those of `fsbench compare`.
SHARED = (
    *("method", "dataset", "classes", "shots", "seeds", "baseline"),
    *("protocol", "val", "prompts", "backbone", "precision", "device", "limit", "weights"),
    *("revision", "own_data", "allow_mixed"),
)


def _shared() -> list[click.Parameter]:
    return [option for option in compare.command.params if option.name in SHARED]


@click.command("report", short_help="Write a report about a store as one HTML file.")
@click.option(
    "--store",
    default="fsbench-results",
    show_default=True,
    metavar="DIR",
    help="Folder of results.",
)
@click.option(
    "-O",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("report.html"),
    show_default=True,
    metavar="FILE",
    help="Write to this file.",
)
@click.option("--title", default="Few-shot benchmark report", metavar="TEXT", help="The heading.")
@click.option(
    "--metric",
    type=click.Choice(["top1", "macro_accuracy"]),
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
def command(
    store: str,
    output: Path,
    title: str,
    metric: str,
    images: int,
    baseline: str | None,
    allow_mixed: bool,
    **filters: str | None,
) -> None:
    """Write one HTML file that opens anywhere and loads nothing from the network.

    It says which method wins, whether that is significant and what it costs; then curves over
    shots, paired tests, ranks, costs, calibration, hard classes, where every number is from, and
    what failed or is missing. The filters are those of 'fsbench compare'.
    """
    from fewshot_bench.compare.aggregate import Options, build
    from fewshot_bench.compare.select import select
    from fewshot_bench.report.build import Options as ReportOptions
    from fewshot_bench.report.build import render

    names = {name: filters.pop(name) for name in ("method", "dataset", "classes", "shots", "seeds")}
    chosen = select(compare._read(store), names, filters)
    options = Options(metric, baseline, allow_mixed, names["method"], names["dataset"], store)
    text = render(build(chosen, options), chosen, Path(store), ReportOptions(title, images))
    compare._write(output, text)
    size = size_text(len(text.encode("utf-8", "backslashreplace")))
    say(f"{output}: {size} about {len(chosen):,} records")


command.params[1:1] = _shared()
