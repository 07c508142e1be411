"""Find, count and delete leftovers of killed processes and chosen records.

`collect` (`fsbench store gc`) and `remove` (`store rm`) are the entry points; a file that a running
process may still need stays.
"""

from __future__ import annotations

import math
import os
import secrets
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fewshot_bench.api.record import Record
from fewshot_bench.splits.imported import FOLDER
from fewshot_bench.store.index import Index
from fewshot_bench.store.index_file import index_files
from fewshot_bench.store.kept_models import (
    list_unclaimed,
    model_folder,
    remove_model,
    size_of,
)
from fewshot_bench.store.leases import Leases
from fewshot_bench.store.outcome_cache import OutcomeCache
from fewshot_bench.store.record_files import Stamp, read_record, stamp_of
from fewshot_bench.store.store import Store
from fewshot_bench.utils.errors import StoreError
from fewshot_bench.utils.files import (
    TEMPORARY,
    Damaged,
    clock_of,
    is_stale,
    sorted_entries,
    temporary_name,
)
from fewshot_bench.utils.progress import over

# A writer may be about to publish the record of logits that are younger than this.
PUBLISHING_SECONDS = 3600


def orphans(store: Store) -> Iterator[Path]:
    """Logits without a record, except those that a writer may be publishing."""
    for path in _files(store):
        if path.suffix == ".npz" and not path.name.startswith(TEMPORARY) and is_orphan(path):
            yield path


def is_orphan(logits: Path) -> bool:
    """True if no record states these logits and they are older than PUBLISHING_SECONDS."""
    try:
        found = logits.stat()
    except OSError:
        return False
    if time.time() - max(found.st_mtime, found.st_ctime) < PUBLISHING_SECONDS:
        return False
    return not _speaks_of_logits(logits.with_suffix(".json"))


def _speaks_of_logits(path: Path) -> bool:
    """True if the record has logits or is unreadable; False if it is missing."""
    try:
        record = read_record(path)
    except FileNotFoundError:
        return False
    except (Damaged, StoreError):
        return True
    return record.status == "done" or "logits" in record.digests


def temporary_files(store: Store) -> Iterator[Path]:
    """Files that ended processes left half-written among records and picks."""
    folders = [store.path, store.root, *sorted_entries(store.path / FOLDER)]
    others = [entry for folder in folders if folder.is_dir() for entry in sorted_entries(folder)]
    for path in [*_files(store), *others]:
        if path.name.startswith(TEMPORARY) and path.is_file() and is_stale(path):
            yield path


def set_aside(store: Store) -> Iterator[Path]:
    """Files that were renamed to `*.damaged-<n>`, since they were damaged."""
    for path in _files(store):
        stem, mark, number = path.name.rpartition(".damaged-")
        if mark and number.isdigit() and stem.endswith((".json", ".npz")):
            yield path


def _files(store: Store) -> Iterator[Path]:
    for folder in sorted_entries(store.root):
        if folder.is_dir():
            yield from sorted_entries(folder)


TEMPORARIES, ORPHANS, INDICES, SET_ASIDE = "left over", "no record", "index", "set aside"
CLAIMS, JOBS = "dead claim", "finished job"
UNCLAIMED = "model of no record"
KINDS = (TEMPORARIES, ORPHANS, UNCLAIMED, INDICES, CLAIMS, JOBS, SET_ASIDE)


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
    models = list(list_unclaimed(store.path, PUBLISHING_SECONDS))
    folders = [*((JOBS, job) for job in jobs), *((UNCLAIMED, model) for model in models)]
    inside = [(kind, path) for kind, folder in folders for path in sorted_entries(folder)]
    # What is removed must be old by the clock of those who may be publishing it, too.
    latest = math.inf if dry_run else 1e9 * (clock_of(store.path) - PUBLISHING_SECONDS)
    for kind, path in over([*_candidates(store, damaged), *inside], "files"):
        try:
            stamp = stamp_of(path.stat())
            if kind in (ORPHANS, UNCLAIMED) and stamp[0] > latest:
                continue
            gone = dry_run or _remove(path, stamp, kind)
        except FileNotFoundError:
            continue
        except OSError as error:
            yield Removal(kind, path, 0, f"cannot be removed: {error.strerror}")
            continue
        if gone:
            yield Removal(kind, path, stamp[2])
    for _, folder in folders if not dry_run else ():
        with suppress(OSError):
            folder.rmdir()


def _candidates(store: Store, damaged: bool) -> Iterator[tuple[str, Path]]:
    yield from ((TEMPORARIES, path) for path in temporary_files(store))
    yield from ((ORPHANS, path) for path in orphans(store))
    yield from ((CLAIMS, path) for path in Leases(store, "").dead())
    yield from ((INDICES, path) for path in index_files(store.path))
    if damaged:
        yield from ((SET_ASIDE, path) for path in set_aside(store))


def _remove(path: Path, stamp: Stamp, kind: str) -> bool:
    if kind != ORPHANS:
        path.unlink()
        return True
    # Rename first: logits that a writer published meanwhile are put back.
    taken = path.with_name(temporary_name())
    if not is_orphan(path):
        return False
    os.rename(path, taken)
    found = stamp_of(taken.stat())
    if (found[0], found[2:]) == (stamp[0], stamp[2:]):
        taken.unlink()
        return True
    try:
        os.link(taken, path)
    except FileExistsError:
        pass
    except OSError:
        os.replace(taken, path)
        return False
    taken.unlink()
    return False


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
        for path in (store.file(key), store.file(key).with_suffix(".npz")):
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
    """Remove a record, then its logits, so that no record lacks them; returns the problem."""
    key = choice.record.spec.key()
    if store.stamp(key) != choice.stamp:
        return CHANGED
    try:
        store.file(key).unlink(missing_ok=True)
        store.file(key).with_suffix(".npz").unlink(missing_ok=True)
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
