"""Options that choose records of a store, as `fsbench compare` has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fewshot_bench.errors import DataMissingError, UsageError

if TYPE_CHECKING:
    from fewshot_bench.record import Record

LISTED = ("method", "dataset", "classes", "shots", "seeds")
_OPTIONS = (
    click.option("--method", metavar="NAMES", help="Only these methods."),
    click.option("--dataset", metavar="NAMES", help="Only these data sets or targets."),
    click.option("--classes", metavar="NAMES", help="Only these parts: all, base, new."),
    click.option("--shots", metavar="NUMBERS", help="Only these numbers of shots."),
    click.option("--seeds", metavar="NUMBERS", help="Only these seeds (split/train)."),
    click.option("--protocol", metavar="NAME", help="Only this sampling protocol."),
    click.option("--val", metavar="NAME", help="Only this validation policy."),
    click.option("--prompts", metavar="NAME", help="Only this template set."),
    click.option("--backbone", metavar="NAME", help="Only this backbone."),
    click.option("--precision", metavar="NAME", help="Only this precision."),
    click.option("--device", metavar="NAME", help="Only this device."),
    click.option("--limit", metavar="N|none", help="Only this limit on queries."),
    click.option("--weights", metavar="PREFIX", help="Only these backbone weights."),
    click.option("--revision", metavar="PREFIX", help="Only this data set revision."),
    click.option("--own-data", metavar="PREFIX|none", help="Only these own names and templates."),
)


def filter_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add all of them to a command; it gets them by name."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def chosen(folder: Path, values: dict[str, str | None]) -> list[Record]:
    """The records of a store that match; UsageError for a value that no record has."""
    from fewshot_bench.compare.select import select

    names = {name: values[name] for name in LISTED}
    conditions = {name: text for name, text in values.items() if name not in LISTED}
    return select(read_records(folder), names, conditions)


def read_records(folder: Path) -> Sequence[Record]:
    """All records of a store; damaged ones are named on stderr."""
    from fewshot_bench.store import Store

    store = Store(folder)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"store '{folder}' is not a folder; choose another one with --store DIR")
    records = list(store.records())
    for damage in store.damaged:
        click.echo(f"not used: {damage}", err=True)
    if not records:
        what = "holds no readable record" if folder.exists() else "does not exist"
        raise DataMissingError(
            f"store '{folder}' {what}; make results with fsbench run, or name another --store"
        )
    return records
