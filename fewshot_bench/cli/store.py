"""`fsbench store`: check, merge, prune and clean stores of results.

`opened` opens a store, `changing` locks it for `merge` and `rm`; removals are reported.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fewshot_bench.api.record import STATUSES, Record
from fewshot_bench.cli.filters import matching, read_records, refuse_file
from fewshot_bench.cli.groups import LazyGroup
from fewshot_bench.cli.options import NAMES, PathName, filter_options, store_option
from fewshot_bench.cli.output import say
from fewshot_bench.cli.panels import PanelCommand, list_option
from fewshot_bench.cli.working import working
from fewshot_bench.utils.errors import DataMissingError, StoreError, UsageError, unknown
from fewshot_bench.utils.text import MANY, counted, message, one_line, size_text

if TYPE_CHECKING:
    from fewshot_bench.store.clean import Chosen
    from fewshot_bench.store.store import Store


@click.group(
    "store",
    cls=LazyGroup,
    short_help="Verify, merge and clean stores of results.",
)
def command() -> None:
    """Verify, merge and clean stores of results.

    A store is the folder that fsbench run writes: one record and its logits per cell.
    """


_PATH: Any = PathName(path_type=Path)
FOUND = 1

this_store = store_option("The store.", "folder")


def opened(folder: Path) -> Store:
    """Open an existing store; UsageError if it is no folder, DataMissingError without records."""
    from fewshot_bench.store.store import Store

    store = Store(folder)
    refuse_file(folder)
    if not store.root.is_dir():
        what = "holds no records" if folder.exists() else "does not exist"
        raise DataMissingError(
            f"store '{folder}' {what}; make results with fsbench run, or name another --store"
        )
    return store


def tallied(counts: Mapping[str, int], names: Sequence[str], nothing: str) -> str:
    """`3 done, 1 failed`, in the order of `names`, without zeros; `nothing` if all are zero."""
    return ", ".join(f"{counts[name]:,} {name}" for name in names if counts[name]) or nothing


def show(kind: str, path: Path, text: str) -> None:
    """Print one finding on one line, without control characters that files may contain."""
    line = f"{kind}: {path}" + (f": {text}" if text else "")
    click.echo(message(one_line(line)))


@contextmanager
def changing(folder: Path) -> Iterator[None]:
    """Hold a store's lock while existing results are changed.

    Runs take no lock: they write cells atomically.
    """
    from fewshot_bench.utils.locks import exclusive

    def waiting() -> None:
        click.echo("waiting for another merge of this store", err=True)

    with ExitStack() as stack:
        try:
            stack.enter_context(exclusive(folder, "records", waiting))
        except OSError as error:
            raise StoreError(
                f"cannot lock '{folder}': {error}; make the store writable, or copy it to a disk "
                "of this machine"
            ) from None
        yield


@command.command("verify", short_help="Check every record and its logits in full.")
@this_store
def verify_command(folder: Path) -> None:
    """Check every record and its logits in full; nothing is changed.

    Digests, shapes and values are checked, metrics are computed again from the logits, and cells of
    one split must have the same queries. The exit code is 1 when something was found; what killed
    processes left beside whole records is only told.
    """
    from fewshot_bench.store.verify import NEXT, REMAINS, verify

    with working("store verify"):
        report = verify(opened(folder))
    for finding in report.findings:
        show(finding.kind, finding.path, finding.text)
    total = f"{sum(report.statuses.values()):,} records read in full"
    click.echo(f"{total}: {tallied(report.statuses, STATUSES, 'none')}")
    if report.splits:
        click.echo(f"{report.splits:,} files of imported picks")
    kinds = Counter(finding.kind for finding in report.findings)
    wrong = sorted(set(kinds) - set(REMAINS))
    if not wrong:
        click.echo("all records are well" if kinds else "all is well")
    if not kinds:
        return
    click.echo(f"found: {tallied(kinds, tuple(NEXT), '')}")
    for kind in kinds:
        click.echo(f"next, {kind}: {NEXT[kind]}")
    if wrong:
        raise click.exceptions.Exit(FOUND)


@command.command(
    "merge", short_help="Bring results of other stores, from other machines, together."
)
@click.argument("sources", metavar="SOURCE...", type=_PATH, nargs=-1, required=True)
@this_store
@click.option("--dry-run", is_flag=True, help="Show what would be done; write nothing.")
@working("store merge", live=False)
def merge_command(sources: tuple[Path, ...], folder: Path, dry_run: bool) -> None:
    """Bring the results of other stores into the one of --store, which is made if needed.

    What is absent is copied, and a finished cell takes the place of a failed or damaged one. Two
    different results of one cell are shown and left as they are. The exit code is 1 when there was
    such a conflict, or a file that cannot be used.
    """
    from fewshot_bench.store.merge import CONFLICT, UNUSABLE, check_sources
    from fewshot_bench.store.store import Store

    check_sources(sources, folder)
    store = Store(folder)
    with ExitStack() as stack:
        if not dry_run:
            store.create()
            stack.enter_context(changing(folder))
        found = sum((_merged(source, store, dry_run) for source in sources), Counter[str]())
    if found[CONFLICT]:
        click.echo(
            "conflicts were left as they are: to take the other result, rename the .json and .npz "
            "of the cell, or the file of the split, here and merge again"
        )
    if found[CONFLICT] or found[UNUSABLE]:
        raise click.exceptions.Exit(FOUND)


def _merged(source: Path, store: Store, dry_run: bool) -> Counter[str]:
    from fewshot_bench.store.merge import OUTCOMES, merge

    found: Counter[str] = Counter()
    for step in merge(source, store, dry_run=dry_run):
        found[step.outcome] += 1
        if step.lines:
            show(step.outcome, step.path, "; ".join(step.lines))
    said = "would be, as nothing is written: " if dry_run else ""
    click.echo(f"{source}: {said}{tallied(found, OUTCOMES, 'nothing there')}")
    return found


SHORTEST_KEY = 4


@command.command("rm", cls=PanelCommand, short_help="Remove chosen records.")
@click.argument("keys", metavar="[KEY]...", nargs=-1)
@this_store
@list_option("--status", type=NAMES, help="Only records that are done, failed or inapplicable.")
@filter_options
@click.option("--dry-run", is_flag=True, help="Show what would be removed; remove nothing.")
@click.option("--yes", "-y", is_flag=True, help="Remove without asking.")
def rm_command(
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
    with working("store rm"):
        found = _chosen(store, keys, status, filters)
    _show_chosen(found, every=dry_run)
    if dry_run:
        return
    if not yes:
        _confirm(len(found))
    with changing(folder), working("store rm", live=False):
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
    if filters["weights"]:
        # Tables show cells without a result, which may come to have other weights.
        records = [record for record in records if record.status == "done" or record.spec.weights]
    if not records:
        raise UsageError("no record matches all of this together; leave out one of them")
    return [Chosen.of(store, record) for record in records]


def _with_keys(records: Sequence[Record], keys: Sequence[str]) -> Sequence[Record]:
    """The records whose keys start with one of `keys`; UsageError for a KEY without a record."""
    for key in keys:
        if len(key) < SHORTEST_KEY:
            raise UsageError(f"'{key}': give at least {SHORTEST_KEY} digits of a cell's key")
        if not any(record.spec.key().startswith(key.lower()) for record in records):
            raise UsageError(f"no readable record's key begins with '{key}'")
    lower = tuple(key.lower() for key in keys)
    return [record for record in records if not keys or record.spec.key().startswith(lower)]


def _show_chosen(found: Sequence[Chosen], *, every: bool) -> None:
    shown = len(found) if every else MANY
    for one in found[:shown]:
        say(_line(one))
    if len(found) > shown:
        say(f"and {len(found) - shown:,} more (all of them with --dry-run)")
    size = size_text(sum(one.size for one in found))
    say(f"{counted(len(found), 'record')} with logits, {size}")


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
    """Ask for confirmation; UsageError if stdin is no terminal, or the answer is no."""
    if not sys.stdin.isatty():
        raise UsageError("nothing was removed: add --yes to remove these records")
    if not click.confirm(f"remove {counted(count, 'record')}?", default=False):
        raise UsageError("nothing was removed")


def _removed(store: Store, found: Sequence[Chosen]) -> int:
    """Remove the chosen records; returns the number that could not be removed."""
    from fewshot_bench.store.clean import remove

    left = size = 0
    for one, problem in remove(store, found):
        left += bool(problem)
        size += 0 if problem else one.size
        if problem:
            click.echo(f"not removed: {one.record.spec.key()[:12]}: {problem}", err=True)
    say(f"removed {counted(len(found) - left, 'record')}, {size_text(size)}")
    return left


@command.command("gc", short_help="Remove what no result needs.")
@this_store
@click.option("--damaged", is_flag=True, help="Remove files that were set aside as damaged, too.")
@click.option("--dry-run", is_flag=True, help="Show what would be removed; remove nothing.")
@working("store gc", live=False)
def gc_command(folder: Path, damaged: bool, dry_run: bool) -> None:
    """Remove what killed processes left, logits without a record, the index and cached outcomes.

    Claims of processes that are gone and folders of finished Slurm and Ray jobs go, too. Runs may
    go on meanwhile: only what is stale is taken. The index and outcomes are made again when needed.
    """
    from fewshot_bench.engines.job import Job
    from fewshot_bench.store.clean import KINDS, collect

    found: Counter[str] = Counter()
    size = problems = 0
    store = opened(folder)
    for removal in collect(store, damaged=damaged, dry_run=dry_run, jobs=Job.finished(store)):
        show(removal.kind, removal.path, removal.problem or size_text(removal.size))
        problems += bool(removal.problem)
        found[removal.kind] += not removal.problem
        size += removal.size
    verb = "would remove" if dry_run else "removed"
    kinds = f": {tallied(found, KINDS, '')}" if found.total() else ""
    click.echo(f"{verb} {found.total():,} files, {size_text(size)}{kinds}")
    if problems:
        text = f"{problems:,} files cannot be removed: check who may write there"
        click.echo(f"error: {text}", err=True)
        raise click.exceptions.Exit(FOUND)
