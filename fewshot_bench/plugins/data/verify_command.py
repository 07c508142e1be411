"""`fsbench data verify`."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from itertools import chain
from pathlib import Path

import click

from fewshot_bench.api.registry import registry
from fewshot_bench.cli.completion import datasets, several_of, suites
from fewshot_bench.cli.options import NAMES, kept_split_option, output_option
from fewshot_bench.cli.output import say
from fewshot_bench.cli.working import working
from fewshot_bench.plugins.data.checks import DIFFERS, FAILED
from fewshot_bench.plugins.data.status import forget, record_pass, remember
from fewshot_bench.plugins.data.verify import Report, as_csv, verify
from fewshot_bench.runner.isolation import collect_output
from fewshot_bench.utils.errors import DataMissingError, FsbenchError, UsageError
from fewshot_bench.utils.files import write_whole

MAX_JOBS = 8


@click.command("verify", short_help="Check every image, the counts and the split of a data set.")
@click.argument(
    "names",
    metavar="NAME[,NAME]|SUITE...",
    type=NAMES,
    shell_complete=several_of(datasets, suites),
    nargs=-1,
    required=True,
)
@click.option("--strict", is_flag=True, help="Exit with 1 where something differs.")
@click.option(
    "--jobs",
    type=click.IntRange(1),
    default=lambda: min(MAX_JOBS, os.cpu_count() or 1),
    show_default=f"CPU cores, at most {MAX_JOBS}",
    metavar="N",
    help="Workers that read and decode images.",
)
@kept_split_option
@output_option("Write every pair of images that stands in two pools to this file.", "FILE.csv")
def command(
    names: tuple[tuple[str, ...], ...], strict: bool, jobs: int, store: Path, output: Path | None
) -> None:
    """Check every image, the counts and the split of a data set.

    Each check ends as ok, differs (a warning) or FAILED.
    """
    _check_output(output)
    chosen = registry().expand_datasets(chain.from_iterable(names))
    reports = [_verify_one(name, store, jobs) for name in chosen]
    if output is not None:
        _write_pairs(output, reports)
    if any(report.checks_in(FAILED) for report in reports):
        raise click.exceptions.Exit(DataMissingError.exit_code)
    if strict and any(report.checks_in(DIFFERS) for report in reports):
        raise click.exceptions.Exit(FsbenchError.exit_code)


def _verify_one(name: str, store: Path, jobs: int) -> Report:
    """Verify one data set, print its report, and store the outcome."""
    with working("data verify") as work, collect_output():

        def begin(total: int) -> Callable[[int], None]:
            work.step(f"images of {name}", total)
            return work.advance

        report = verify(name, partial(registry().dataset, store=store), jobs, begin)
    _print(report)
    _remember(report)
    return report


def _print(report: Report) -> None:
    card = report.card
    where = f" in {card.folder}" if card is not None and card.folder else ""
    say(f"{report.name}{where}")
    width = max(len(check.name) for check in report.checks)
    for check in report.checks:
        say(f"  {check.state:<8} {check.name:<{width}}  {' '.join(check.text.split())}")
        for line in check.details:
            say(f"           {line}")
    say(f"{report.name}: {_verdict(report)}")


def _verdict(report: Report) -> str:
    if failed := report.checks_in(FAILED):
        return f"FAILED: {', '.join(failed)}"
    differs = report.checks_in(DIFFERS)
    return f"verified; differs: {', '.join(differs)}" if differs else "verified"


def _remember(report: Report) -> None:
    """Store the outcome for `fsbench data status`; a failure to do so is only a warning."""
    card = report.card
    if card is None:
        return
    try:
        if report.checks_in(FAILED):
            forget(report.name, card)
        else:
            remember(record_pass(report.name, card, report.images, report.checks_in(DIFFERS)))
    except OSError as error:
        click.echo(
            f"warning: fsbench data status will not know of this: {error} "
            "(set FSBENCH_CACHE to a folder that can be written to)",
            err=True,
        )


def _check_output(output: Path | None) -> None:
    if output is not None and output.suffix.lower() != ".csv":
        raise UsageError(f"--output {output}: expected a name that ends in .csv")
    if output is not None and not output.absolute().parent.is_dir():
        raise UsageError(f"--output {output}: there is no folder {output.absolute().parent}")


def _write_pairs(output: Path, reports: list[Report]) -> None:
    rows = [(report.name, pair) for report in reports for pair in report.pairs]
    try:
        content = as_csv(rows).encode()
        if output.is_symlink() or (output.exists() and not output.is_file()):
            output.write_bytes(content)
        else:
            write_whole(output, content)
    except OSError as error:
        raise UsageError(f"--output {output} cannot be written: {error}") from None
    say(f"{len(rows):,} pairs written to {output}")
