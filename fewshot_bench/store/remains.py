"""What lies in a store and belongs to no record: who left it, and whether it may go."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from fewshot_bench.splits.imported import FOLDER
from fewshot_bench.store.prediction_packs import FOLDER as OUTCOMES
from fewshot_bench.store.record_files import read_record
from fewshot_bench.store.store import Store
from fewshot_bench.utils.errors import StoreError
from fewshot_bench.utils.files import TEMPORARY, Damaged, is_stale, sorted_entries

# Logits younger than this without a record may be those of a writer that is just publishing.
PUBLISHING_SECONDS = 3600


def orphans(store: Store) -> Iterator[Path]:
    """Logits without a record, except such as may be published just now."""
    for path in _files(store):
        if path.suffix == ".npz" and not path.name.startswith(TEMPORARY) and is_orphan(path):
            yield path


def is_orphan(logits: Path) -> bool:
    """Whether no record speaks of these logits, and none has for an hour."""
    try:
        found = logits.stat()
    except OSError:
        return False
    if time.time() - max(found.st_mtime, found.st_ctime) < PUBLISHING_SECONDS:
        return False
    return not _speaks_of_logits(logits.with_suffix(".json"))


def _speaks_of_logits(path: Path) -> bool:
    """Whether a record has logits, or cannot be read to tell."""
    try:
        record = read_record(path)
    except FileNotFoundError:
        return False
    except (Damaged, StoreError):
        return True
    return record.status == "done" or "logits" in record.digests


def temporary_files(store: Store) -> Iterator[Path]:
    """What processes that are gone left half-written among records and picks."""
    folders = [store.path, store.root, store.path / OUTCOMES, *sorted_entries(store.path / FOLDER)]
    others = [entry for folder in folders if folder.is_dir() for entry in sorted_entries(folder)]
    for path in [*_files(store), *others]:
        if path.name.startswith(TEMPORARY) and path.is_file() and is_stale(path):
            yield path


def set_aside(store: Store) -> Iterator[Path]:
    """Files that were renamed since they were damaged."""
    for path in _files(store):
        stem, mark, number = path.name.rpartition(".damaged-")
        if mark and number.isdigit() and stem.endswith((".json", ".npz")):
            yield path


def _files(store: Store) -> Iterator[Path]:
    for folder in sorted_entries(store.root):
        if folder.is_dir():
            yield from sorted_entries(folder)
