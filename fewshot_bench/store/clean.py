"""Find, count and delete leftovers of killed processes and chosen records.

`collect` (`fsbench store gc`) and `remove` (`store rm`) are the entry points; a file that a running
process may still need stays.
"""

from __future__ import annotations

import math
import os
import re
import secrets
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fewshot_bench.api.record import Record
from fewshot_bench.splits.imported import FOLDER
from fewshot_bench.store.index import Index, index_files
from fewshot_bench.store.kept_code import list_unused_code
from fewshot_bench.store.kept_files import list_unused_files
from fewshot_bench.store.kept_methods import list_unused as list_unused_methods
from fewshot_bench.store.kept_models import (
    list_unclaimed,
    model_folder,
    remove_model,
    size_of,
)
from fewshot_bench.store.leases import Leases
from fewshot_bench.store.log_files import ENDING, LOG
from fewshot_bench.store.predictions import OutcomeCache
from fewshot_bench.store.record_files import Stamp, read_record, stamp_of
from fewshot_bench.store.store import Store
from fewshot_bench.utils.errors import StoreError
from fewshot_bench.utils.files import (
    TEMPORARY,
    Damaged,
    clock_of,
    is_stale,
    list_entries,
    temporary_name,
)
from fewshot_bench.utils.progress import over

# A writer may be about to publish the record of logits that are younger than this.
PUBLISHING_SECONDS = 3600


TEMPORARIES, ORPHANS, INDICES, SET_ASIDE = "left over", "no record", "index", "set aside"
CLAIMS, JOBS = "dead claim", "finished job"
UNCLAIMED, UNUSED = "model of no record", "code or file of no record"
KINDS = (TEMPORARIES, ORPHANS, UNCLAIMED, UNUSED, INDICES, CLAIMS, JOBS, SET_ASIDE)


def list_leftovers(store: Store) -> Iterator[tuple[str, Path]]:
    """Files that affect no result, with their kinds; for UNCLAIMED the folders of models.

    Logits and models that a writer may be publishing are none.
    """
    files = [
        path
        for folder in filter(Path.is_dir, list_entries(store.root))
        for path in list_entries(folder)
    ]
    folders = [store.path, store.root, *list_entries(store.path / FOLDER)]
    others = [path for folder in filter(Path.is_dir, folders) for path in list_entries(folder)]
    for path in [*files, *others]:
        if path.name.startswith(TEMPORARY) and path.is_file() and is_stale(path):
            yield TEMPORARIES, path
    for path in files:
        if (
            path.suffix in (".npz", ENDING)
            and not path.name.startswith(TEMPORARY)
            and is_orphan(path)
        ):
            yield ORPHANS, path
    for path in list_unclaimed(store.path, PUBLISHING_SECONDS):
        yield UNCLAIMED, path
    for list_unused in (list_unused_methods, list_unused_code, list_unused_files):
        for path in list_unused(store, PUBLISHING_SECONDS):
            yield UNUSED, path
    for path in Leases(store, "").dead():
        yield CLAIMS, path
    for path in files:
        if re.fullmatch(r".*\.(json|npz)\.damaged-\d+", path.name):
            yield SET_ASIDE, path


def is_orphan(file: Path) -> bool:
    """True if no record states these logits or this log, and PUBLISHING_SECONDS have passed."""
    try:
        status = file.stat()
        if time.time() - max(status.st_mtime, status.st_ctime) < PUBLISHING_SECONDS:
            return False
        record = read_record(file.with_suffix(".json"))
    except FileNotFoundError:
        return file.exists()
    except (OSError, Damaged, StoreError):
        return False
    if file.suffix == ENDING:
        return LOG not in record.digests
    return record.status != "done" and "logits" not in record.digests


@dataclass(frozen=True, slots=True)
class Removal:
    """A removed or removable file with its kind and bytes; problem: why it was not removed."""

    kind: str
    path: Path
    size: int
    problem: str = ""


def collect(
    store: Store, *, damaged: bool, dry_run: bool, jobs: Sequence[Path] = ()
) -> Iterator[Removal]:
    """Remove half-written files, logits and models without a record, dead claims and caches.

    damaged: also files that were set aside; jobs: folders of finished jobs. With `dry_run` nothing
    is removed. Yields each file as it is removed.
    """
    leftovers = [entry for entry in list_leftovers(store) if damaged or entry[0] != SET_ASIDE]
    folders = [(JOBS, job) for job in jobs]
    folders += [(kind, path) for kind, path in leftovers if kind == UNCLAIMED]
    files = [(kind, path) for kind, path in leftovers if kind != UNCLAIMED]
    files += [(INDICES, path) for path in index_files(store.path)]
    inside = [(kind, path) for kind, folder in folders for path in sorted(folder.rglob("*"))]
    files += [(kind, path) for kind, path in inside if not path.is_dir()]
    # What is removed must be old by the clock of those who may be publishing it, too.
    latest = math.inf if dry_run else 1e9 * (clock_of(store.path) - PUBLISHING_SECONDS)
    for kind, path in over(files, "files"):
        try:
            stamp = stamp_of(path.stat())
            if kind in (ORPHANS, UNCLAIMED, UNUSED) and stamp[0] > latest:
                continue
            gone = dry_run or _remove(path, stamp, kind)
        except FileNotFoundError:
            continue
        except OSError as error:
            yield Removal(kind, path, 0, f"cannot be removed: {error.strerror}")
            continue
        if gone:
            yield Removal(kind, path, stamp[2])
    emptied = [*(path for _, path in reversed(inside)), *(folder for _, folder in folders)]
    for path in emptied if not dry_run else ():
        with suppress(OSError):
            path.rmdir()


def _remove(path: Path, stamp: Stamp, kind: str) -> bool:
    if kind != ORPHANS:
        path.unlink()
        if kind == UNUSED:
            with suppress(OSError):
                path.parent.rmdir()
        return True
    if not is_orphan(path):
        return False
    # Rename first: logits that a writer published meanwhile are put back.
    taken = path.with_name(temporary_name())
    os.rename(path, taken)
    now = stamp_of(taken.stat())
    is_same = (now[0], now[2:]) == (stamp[0], stamp[2:])
    if is_same or path.exists():
        taken.unlink()
    else:
        os.rename(taken, path)
    return is_same


IN_USE = "a run computes it at this moment"
CHANGED = "another record has taken its place since it was shown"


@dataclass(frozen=True)
class Chosen:
    """A record chosen for removal, with its stamp then; size: bytes with logits and model."""

    record: Record
    stamp: Stamp | None
    size: int

    @classmethod
    def of(cls, store: Store, record: Record) -> Chosen:
        """Choose a record, with the current stamp and size of its files."""
        key, size = record.spec.key(), 0
        file = store.file(key)
        for path in (file, file.with_suffix(".npz"), file.with_suffix(ENDING)):
            with suppress(OSError):
                size += path.stat().st_size
        size += size_of(model_folder(store.path, key))
        return cls(record, store.stamp(key), size)


def remove(store: Store, chosen: Sequence[Chosen]) -> Iterator[tuple[Chosen, str]]:
    """Remove chosen records, grouped by fit; yields each with its problem, empty if removed."""
    leases = Leases(store, secrets.token_hex(8))
    groups: defaultdict[str, list[Chosen]] = defaultdict(list)
    for choice in chosen:
        groups[choice.record.spec.fit_key()].append(choice)
    gone = []
    try:
        for key, members in over(list(groups.items()), "fits"):
            # Runs claim the same key before they compute a fit.
            mine = leases.claim(key) is not None
            for choice in members:
                problem = _remove_record(store, choice) if mine else IN_USE
                gone += [] if problem else [choice.record]
                yield choice, problem
            leases.release(key)
    finally:
        leases.close()
        _forget(store, gone)


def _remove_record(store: Store, choice: Chosen) -> str:
    """Remove a record, then the files beside it, so that none lacks them; returns the problem."""
    key = choice.record.spec.key()
    if store.stamp(key) != choice.stamp:
        return CHANGED
    try:
        store.file(key).unlink(missing_ok=True)
        for ending in (".npz", ENDING):
            store.file(key).with_suffix(ending).unlink(missing_ok=True)
        remove_model(store.path, key)
    except OSError as error:
        return f"cannot be removed: {error.strerror}"
    return ""


def _forget(store: Store, records: Sequence[Record]) -> None:
    """Remove these records, and their outcomes, from the index."""
    keys = [record.spec.key() for record in records]
    if keys and index_files(store.path):
        OutcomeCache(store.path).remove(keys)
        Index(store.path).remove(keys)
