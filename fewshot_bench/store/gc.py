"""Remove from a store what no result needs; safe beside processes that write to it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fewshot_bench.store.index import INDEX
from fewshot_bench.store.leases import Leases
from fewshot_bench.store.prediction_packs import FOLDER, SUFFIX
from fewshot_bench.store.record_files import Stamp, stamp_of
from fewshot_bench.store.remains import is_orphan, orphans, set_aside, temporary_files
from fewshot_bench.store.store import Store
from fewshot_bench.utils.files import sorted_entries, temporary_name

TEMPORARIES, ORPHANS, INDICES, SET_ASIDE = "left over", "no record", "index", "set aside"
CLAIMS, JOBS, OUTCOMES = "dead claim", "finished job", "outcomes"
KINDS = (TEMPORARIES, ORPHANS, INDICES, OUTCOMES, CLAIMS, JOBS, SET_ASIDE)


@dataclass(frozen=True, slots=True)
class Removal:
    """A file that went, or may go: why, and its bytes. `problem` says why it is still there."""

    kind: str
    path: Path
    size: int
    problem: str = ""


def collect(
    store: Store, *, damaged: bool, dry_run: bool, jobs: Sequence[Path] = ()
) -> Iterator[Removal]:
    """Remove half-written files, logits without a record, dead claims, the index and outcomes.

    damaged: files that were set aside, too; jobs: folders of jobs that are over. With `dry_run`
    nothing is removed. Yields each as it goes.
    """
    in_jobs = [(JOBS, path) for job in jobs for path in sorted_entries(job)]
    for kind, path in [*_candidates(store, damaged), *in_jobs]:
        try:
            stamp = stamp_of(path.stat())
            gone = dry_run or _remove(path, stamp, kind)
        except FileNotFoundError:
            continue
        except OSError as error:
            yield Removal(kind, path, 0, f"cannot be removed: {error.strerror}")
            continue
        if gone:
            yield Removal(kind, path, stamp[2])
    for job in jobs if not dry_run else ():
        with suppress(OSError):
            job.rmdir()


def _candidates(store: Store, damaged: bool) -> Iterator[tuple[str, Path]]:
    yield from ((TEMPORARIES, path) for path in temporary_files(store))
    yield from ((ORPHANS, path) for path in orphans(store))
    yield from ((CLAIMS, path) for path in Leases(store, "").dead())
    if (store.path / INDEX).is_file():
        yield INDICES, store.path / INDEX
    for path in sorted_entries(store.path / FOLDER):
        if path.suffix == SUFFIX:
            yield OUTCOMES, path
    if damaged:
        yield from ((SET_ASIDE, path) for path in set_aside(store))


def _remove(path: Path, stamp: Stamp, kind: str) -> bool:
    if kind != ORPHANS:
        path.unlink()
        return True
    # Taken out of the way first: what a writer published meanwhile is put back.
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
