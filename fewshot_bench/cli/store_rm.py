"""`fsbench store rm`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fewshot_bench.api.record import STATUSES, Record
from fewshot_bench.cli.filters import filter_options, matching, read_records
from fewshot_bench.cli.options import NAMES
from fewshot_bench.cli.say import say
from fewshot_bench.cli.store_options import FOUND, changing, opened, store_option
from fewshot_bench.utils.errors import UsageError, unknown
from fewshot_bench.utils.text import MANY, size_text

if TYPE_CHECKING:
    from fewshot_bench.store.clean import Chosen
    from fewshot_bench.store.store import Store

SHORTEST_KEY = 4


@click.command("rm", short_help="Remove chosen records.")
@click.argument("keys", metavar="[KEY]...", nargs=-1)
@store_option
@click.option("--status", type=NAMES, help="Only records that are done, failed or inapplicable.")
@filter_options
@click.option("--dry-run", is_flag=True, help="Show what would be removed; remove nothing.")
@click.option("--yes", "-y", is_flag=True, help="Remove without asking.")
def command(
    keys: tuple[str, ...],
    folder: Path,
    status: tuple[str, ...] | None,
    dry_run: bool,
    yes: bool,
    **filters: str | None,
) -> None:
    """Remove the records that match all filters, with their logits and cached outcomes.

    KEY is a cell's key or the beginning of it. The filters are those of 'fsbench compare', but
    here --method NAME stands for all versions of a method, NAME@VERSION for one. What is to go is
    shown, and asked for unless --yes is given. Runs may go on meanwhile: what they compute stays.

    Exit code: 0; 1 when a record could not be removed; 2 wrong usage, or nothing was confirmed.
    """
    if not keys and not status and not any(filters.values()):
        raise UsageError(
            "nothing says which records are to go: give KEYs, or filters such as --method "
            "clip-lora@1 or --status failed; to remove them all remove the folder"
        )
    store = opened(folder)
    found = _chosen(store, keys, status, filters)
    _show(found, every=dry_run)
    if dry_run:
        return
    if not yes:
        _confirm(len(found))
    with changing(folder):
        left = _removed(store, found)
    if left:
        raise click.exceptions.Exit(FOUND)


def _chosen(
    store: Store,
    keys: Sequence[str],
    status: Sequence[str] | None,
    filters: dict[str, str | None],
) -> list[Chosen]:
    from fewshot_bench.store.clean import Chosen

    for name in status or ():
        if name not in STATUSES:
            raise unknown("status", name, STATUSES, "fsbench store rm --help")
    records = matching(_with_keys(read_records(store), keys), filters)
    records = [record for record in records if not status or record.status in status]
    if not records:
        raise UsageError("no record matches all of this together; leave out one of them")
    return [Chosen.of(store, record) for record in records]


def _with_keys(records: Sequence[Record], keys: Sequence[str]) -> Sequence[Record]:
    """The records whose keys begin so; UsageError for a KEY that none begins with."""
    for key in keys:
        if len(key) < SHORTEST_KEY:
            raise UsageError(f"'{key}': give at least {SHORTEST_KEY} digits of a cell's key")
        if not any(record.spec.key().startswith(key.lower()) for record in records):
            raise UsageError(f"no readable record's key begins with '{key}'")
    lower = tuple(key.lower() for key in keys)
    return [record for record in records if not keys or record.spec.key().startswith(lower)]


def _show(found: Sequence[Chosen], *, every: bool) -> None:
    shown = len(found) if every else MANY
    for one in found[:shown]:
        say(_line(one))
    if len(found) > shown:
        say(f"and {len(found) - shown:,} more (all of them with --dry-run)")
    size = size_text(sum(one.size for one in found))
    say(f"{_count(len(found))} with logits, {size}")


def _line(one: Chosen) -> str:
    record, top1 = one.record, one.record.metrics.get("top1")
    spec = record.spec
    number = f", {top1:.2f} %" if isinstance(top1, int | float) else ""
    seed = f"{spec.split_seed}/{spec.train_seed}"
    seeds = str(spec.train_seed) if spec.split_seed == spec.train_seed else seed
    return (
        f"{spec.key()[:12]}  {spec.label} (version {spec.method_version}) on {spec.evaluated}, "
        f"{spec.shots}-shot, seed {seeds}, {spec.backbone}: {record.status}{number}"
    )


def _confirm(count: int) -> None:
    """Ask; UsageError where there is nobody to ask, or the answer is no."""
    if not sys.stdin.isatty():
        raise UsageError("nothing was removed: add --yes to remove these records")
    if not click.confirm(f"remove {_count(count)}?", default=False):
        raise UsageError("nothing was removed")


def _removed(store: Store, found: Sequence[Chosen]) -> int:
    """Remove them; returns how many are still there."""
    from fewshot_bench.store.clean import remove

    left = size = 0
    for one, problem in remove(store, found):
        left += bool(problem)
        size += 0 if problem else one.size
        if problem:
            click.echo(f"not removed: {one.record.spec.key()[:12]}: {problem}", err=True)
    say(f"removed {_count(len(found) - left)}, {size_text(size)}")
    return left


def _count(number: int) -> str:
    return "1 record" if number == 1 else f"{number:,} records"
