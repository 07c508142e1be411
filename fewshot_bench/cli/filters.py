"""Options that select records of a store, shared by `fsbench compare` and other commands."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fewshot_bench.cli.options import FILTER_NAMES
from fewshot_bench.utils.errors import DataMissingError, UsageError
from fewshot_bench.utils.text import counted, printable

if TYPE_CHECKING:
    from fewshot_bench.analysis.filters import Shown
    from fewshot_bench.api.record import Record
    from fewshot_bench.store.store import Damage, Store


def choose_records(
    store: Store,
    values: Mapping[str, Any],
    *,
    every_version: bool = False,
    beside: Callable[[Sequence[Record]], Sequence[Record]] | None = None,
) -> Shown:
    """The records of a store that match; UsageError for a value that no record has.

    values: of a command's options, among them those of `filter_options`. Selects the newest version
    of every method, unless `--method NAME@VERSION` names another one; every_version: includes older
    versions. Records that need less than a condition allows are among those that match it.
    beside: returns those of other sources that are to be chosen from, too, for those of the store.
    """
    from fewshot_bench.analysis.filters import Shown, current, newest, older_versions
    from fewshot_bench.analysis.lending import allow

    every = read_records(store)
    every += beside(every) if beside else ()
    records, left = allow(every, pick_filters(values))
    if values.get("baseline") and values["method"]:
        others, _ = allow(every, {**pick_filters(values), "method": None})
        hidden = {record.spec.label for record in others}
        hidden -= {record.spec.label for record in records}
        said = f"{counted(len(hidden), 'method')} of the store not shown and not counted as tested"
        left += (f"{said}: Holm's correction is over the methods shown",) if hidden else ()
    if every_version:
        return Shown(records, left, older_versions(records, newest(every, store.path)))
    shown = current(every, records, values["method"], store.path)
    return shown._replace(notes=(*left, *shown.notes))


def match_records(records: Sequence[Record], values: Mapping[str, Any]) -> list[Record]:
    """The records that match the filters, in any version, and whose own conditions are these."""
    from fewshot_bench.analysis.filters import select

    return select(records, pick_filters(values))


def pick_filters(values: Mapping[str, Any]) -> dict[str, str | None]:
    """The filters among the values of a command's options."""
    return {name: values[name] for name in FILTER_NAMES}


def read_records(store: Store) -> list[Record]:
    """All readable records; UsageError if the store is no folder, DataMissingError without any."""
    folder = store.path
    refuse_file(folder)
    records = list_records(store)
    if not records:
        what = "holds no readable record" if folder.exists() else "does not exist"
        raise DataMissingError(
            f"store '{folder}' {what}; make results with: fsbench run -m zero-shot,tip-adapter -d "
            f"demo --store {shlex.quote(str(folder))} (or name another store)"
        )
    return records


def refuse_file(folder: Path) -> None:
    """UsageError if the store exists and is no folder."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"store '{folder}' is not a folder; choose another one")


def list_records(store: Store) -> list[Record]:
    """All readable records of a store; damaged ones are named on stderr."""
    records = list(store.records())
    say_damages(store.damaged)
    return records


def say_damages(damages: Iterable[Damage]) -> None:
    """Name damaged files on stderr."""
    for damage in damages:
        click.echo(f"not used: {damage}", err=True)


def say_notes(notes: Sequence[str]) -> None:
    """Print notes on stderr."""
    for text in notes:
        click.echo(f"note: {printable(text)}", err=True)
