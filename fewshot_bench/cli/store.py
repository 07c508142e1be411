"""`fsbench store`: check, merge, prune and clean stores of results.

`opened` opens a store, `changing` locks it for `merge` and `rm`; removals are reported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fewshot_bench.api.record import STATUSES, Record
from fewshot_bench.cli.filters import match_records, read_records, refuse_file
from fewshot_bench.cli.groups import LazyGroup
from fewshot_bench.cli.options import NAMES, PATH, filter_options, store_option, yes_option
from fewshot_bench.cli.output import confirm, refuse_kept, say
from fewshot_bench.cli.panels import PanelCommand, list_option
from fewshot_bench.cli.working import working
from fewshot_bench.utils.errors import DataMissingError, StoreError, UsageError, unknown
from fewshot_bench.utils.text import MANY, counted, message, one_line, size_text

if TYPE_CHECKING:
    from fewshot_bench.store.store import Store


@click.group("store", cls=LazyGroup)
def command() -> None:
    """Verify, merge and clean stores of results.

    A store is the folder that fsbench run writes: one record and its logits per cell.
    """


FOUND = 1

this_store = store_option("The store.", "folder")


def open_store(folder: Path) -> Store:
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


def tally(counts: Mapping[str, int], names: Sequence[str], nothing: str) -> str:
    """`3 done, 1 failed`, in the order of `names`, without zeros; `nothing` if all are zero."""
    return ", ".join(f"{counts[name]:,} {name}" for name in names if counts[name]) or nothing


def show(kind: str, path: Path, text: str) -> None:
    """Print one finding on one line, without control characters that files may contain."""
    line = f"{kind}: {path}" + (f": {text}" if text else "")
    click.echo(message(one_line(line)))


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold a store's lock while existing results are changed.

    Runs take no lock: they write cells atomically.
    """
    from fewshot_bench.utils.locks import exclusive

    def tell() -> None:
        click.echo("waiting for another merge of this store", err=True)

    with ExitStack() as stack:
        try:
            stack.enter_context(exclusive(folder, "records", tell))
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
        report = verify(open_store(folder))
    for finding in report.findings:
        show(finding.kind, finding.path, finding.text)
    total = f"{sum(report.statuses.values()):,} records read in full"
    click.echo(f"{total}: {tally(report.statuses, STATUSES, 'none')}")
    if report.splits:
        click.echo(f"{report.splits:,} files of imported picks")
    kinds = Counter(finding.kind for finding in report.findings)
    wrong = sorted(set(kinds) - set(REMAINS))
    if not wrong:
        click.echo("all records are well" if kinds else "all is well")
    if not kinds:
        return
    click.echo(f"found: {tally(kinds, tuple(NEXT), '')}")
    for kind in kinds:
        click.echo(f"next, {kind}: {NEXT[kind]}")
    if wrong:
        raise click.exceptions.Exit(FOUND)


@command.command(
    "merge", short_help="Bring results of other stores, from other machines, together."
)
@click.argument("sources", metavar="SOURCE...", type=PATH, nargs=-1, required=True)
@this_store
@click.option("--dry-run", is_flag=True, help="Show what would be done; write nothing.")
@working("store merge", live=False)
def merge_command(sources: tuple[Path, ...], folder: Path, dry_run: bool) -> None:
    """Bring the results of other stores into the one of --store, which is made if needed.

    SOURCE is a store. Every file is checked as by 'fsbench store verify' before it is used. What is
    absent is copied, and a finished cell takes the place of a failed or damaged one. Two different
    results of one cell are shown and left as they are. The exit code is 1 when there was such a
    conflict, or a file that cannot be used.
    """
    from fewshot_bench.store.merge import CONFLICT, OUTCOMES, UNUSABLE, check_sources, merge
    from fewshot_bench.store.store import Store

    store, total = Store(folder), Counter[str]()
    check_sources(sources, folder)
    with ExitStack() as stack:
        if not dry_run:
            store.create()
            stack.enter_context(lock(folder))
        for source in sources:
            counts = Counter[str]()
            for step in merge(source, store, dry_run=dry_run):
                counts[step.outcome] += 1
                if step.lines:
                    show(step.outcome, step.path, "; ".join(step.lines))
            total += counts
            said = "would be, as nothing is written: " if dry_run else ""
            click.echo(f"{source}: {said}{tally(counts, OUTCOMES, 'nothing there')}")
    if total[CONFLICT]:
        click.echo(
            "conflicts were left as they are: to take the other result, rename the .json and .npz "
            "of the cell, or the file of the split, here and merge again"
        )
    if total[CONFLICT] or total[UNUSABLE]:
        raise click.exceptions.Exit(FOUND)


SHORTEST_KEY = 4
status_option = list_option(
    "--status", type=NAMES, help="Only records that are done, failed or inapplicable."
)


@command.command("rm", cls=PanelCommand, short_help="Remove chosen records.")
@click.argument("keys", metavar="[KEY]...", nargs=-1)
@this_store
@status_option
@filter_options
@click.option("--dry-run", is_flag=True, help="Show what would be removed; remove nothing.")
@yes_option
def rm_command(keys: tuple[str, ...], folder: Path, dry_run: bool, yes: bool, **asked: Any) -> None:
    """Remove the records that match all filters, with their logits and cached outcomes.

    KEY is a cell's key or the beginning of it. The filters are those of 'fsbench compare', but
    here --method NAME stands for all versions of a method, NAME@VERSION for one. What is to go is
    shown, and asked for unless --yes is given. Runs may go on meanwhile: what they compute stays.
    """
    from fewshot_bench.store.clean import Chosen, remove

    if not keys and not any(asked.values()):
        raise UsageError(
            "nothing says which records are to go: give KEYs, or filters such as --method "
            "clip-lora@1 or --status failed; to remove them all remove the folder"
        )
    store = open_store(folder)
    with working("store rm"):
        chosen = [Chosen.of(store, record) for record in _choose(store, keys, asked)]
    shown = len(chosen) if dry_run else MANY
    for choice in chosen[:shown]:
        say(_line(choice.record))
    if len(chosen) > shown:
        say(f"and {len(chosen) - shown:,} more (all of them with --dry-run)")
    size = size_text(sum(choice.size for choice in chosen))
    say(f"{counted(len(chosen), 'record')} with logits, {size}")
    if dry_run:
        return
    confirm(f"remove {counted(len(chosen), 'record')}?", yes=yes)
    sizes = []
    with lock(folder), working("store rm", live=False):
        for choice, problem in remove(store, chosen):
            if problem:
                click.echo(f"not removed: {choice.record.spec.key()[:12]}: {problem}", err=True)
            else:
                sizes.append(choice.size)
    say(f"removed {counted(len(sizes), 'record')}, {size_text(sum(sizes))}")
    if len(sizes) < len(chosen):
        raise click.exceptions.Exit(FOUND)


def _choose(store: Store, keys: Sequence[str], asked: Mapping[str, Any]) -> list[Record]:
    """The records that match keys, status and filters; UsageError if there are none."""
    for name in asked["status"] or ():
        if name not in STATUSES:
            raise unknown("status", name, STATUSES, "fsbench store rm --help")
    records = read_records(store)
    for key in keys:
        if len(key) < SHORTEST_KEY:
            raise UsageError(f"'{key}': give at least {SHORTEST_KEY} digits of a cell's key")
        if not any(record.spec.key().startswith(key.lower()) for record in records):
            raise UsageError(f"no readable record's key begins with '{key}'")
    starts = tuple(key.lower() for key in keys) or ("",)
    records = match_records([r for r in records if r.spec.key().startswith(starts)], asked)
    records = [r for r in records if r.status in (asked["status"] or STATUSES)]
    if asked["weights"]:
        # Tables show cells without a result, which may come to have other weights.
        records = [record for record in records if record.status == "done" or record.spec.weights]
    if not records:
        raise UsageError("no record matches all of this together; leave out one of them")
    return records


def _line(record: Record) -> str:
    spec, top1 = record.spec, record.metrics.get("top1")
    number = f", {top1:.2f} %" if isinstance(top1, int | float) else ""
    seeds = "/".join(dict.fromkeys(map(str, (spec.split_seed, spec.train_seed))))
    return (
        f"{spec.key()[:12]}  {spec.label} (version {spec.method_version}) on {spec.evaluated}, "
        f"{spec.shots}-shot, seed {seeds}, {spec.backbone}: {record.status}{number}"
    )


@command.command("export", cls=PanelCommand, short_help="Write all records as one table.")
@click.argument("file", metavar="FILE", type=PATH)
@this_store
@status_option
@filter_options
def export_command(file: Path, folder: Path, **asked: Any) -> None:
    """Write the records that match all filters as a table, for queries of your own.

    FILE ends with .csv, .sqlite (table records) or .parquet (needs fewshot-bench[parquet]). A
    record is one row: its specification, status, metrics, costs, digests and machine. As for
    'fsbench store rm', --method NAME stands for all versions of a method.
    """
    from fewshot_bench.store.flat_table import columns_of, write_table

    refuse_kept(file, "FILE")
    with working("store export"):
        records = _choose(open_store(folder), (), asked)
        write_table(columns_of(records), file)
    say(f"wrote {counted(len(records), 'record')} to {file}")


@command.command("gc", short_help="Remove what no result needs.")
@this_store
@click.option("--damaged", is_flag=True, help="Remove files that were set aside as damaged, too.")
@click.option("--dry-run", is_flag=True, help="Show what would be removed; remove nothing.")
@yes_option
def gc_command(folder: Path, damaged: bool, dry_run: bool, yes: bool) -> None:
    """Remove what killed processes left, logits without a record, the index and cached outcomes.

    Claims of processes that are gone and folders of finished Slurm and Ray jobs go, too. Runs may
    go on meanwhile: only what is stale is taken. The index and outcomes are made again when needed.
    """
    from fewshot_bench.engines.distributed import Job
    from fewshot_bench.store.clean import KINDS, collect

    counts: Counter[str] = Counter()
    size = problems = 0
    store = open_store(folder)
    if not dry_run:
        confirm(f"remove what no result in {folder} needs (--dry-run shows it)?", yes=yes)
    with working("store gc", live=False):
        jobs = Job.list_finished(store)
        for removal in collect(store, damaged=damaged, dry_run=dry_run, jobs=jobs):
            show(removal.kind, removal.path, removal.problem or size_text(removal.size))
            problems += bool(removal.problem)
            counts[removal.kind] += not removal.problem
            size += removal.size
    verb = "would remove" if dry_run else "removed"
    kinds = f": {tally(counts, KINDS, '')}" if counts.total() else ""
    click.echo(f"{verb} {counts.total():,} files, {size_text(size)}{kinds}")
    if problems:
        text = f"{problems:,} files cannot be removed: check who may write there"
        click.echo(f"error: {text}", err=True)
        raise click.exceptions.Exit(FOUND)
