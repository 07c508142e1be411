"""Rewrite records of older schemas as the newest one; each whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fewshot_bench.api.record import SCHEMA, sealed
from fewshot_bench.store.check import examine
from fewshot_bench.store.record_files import record_files, stamp_of
from fewshot_bench.store.store import Store
from fewshot_bench.utils.errors import StoreError
from fewshot_bench.utils.files import Damaged, digest_of_arrays, write_whole

CHANGED = "it was written again meanwhile"


@dataclass(frozen=True, slots=True)
class Step:
    """One record of an older schema (0: unknown); `problem` says why it was left as it was."""

    path: Path
    schema: int
    problem: str = ""


def migrate(store: Store, *, dry_run: bool) -> Iterator[Step]:
    """Rewrite every record of an older schema, with the digests of its logits and of itself.

    Only cells whose files agree get digests; records of the newest schema are left alone.
    """
    for path, _ in record_files(store.root):
        try:
            step = _migrated(path, dry_run)
        except FileNotFoundError:
            continue
        except (Damaged, StoreError) as error:
            step = Step(path, 0, str(error))
        except OSError as error:
            step = Step(path, 0, f"cannot be written: {error.strerror}")
        if step is not None:
            yield step


def _migrated(path: Path, dry_run: bool) -> Step | None:
    before = stamp_of(path.stat())
    cell = examine(path)
    if cell.schema == SCHEMA:
        return None
    if cell.problems:
        return Step(path, cell.schema, "; ".join(cell.problems))
    kept = cell.arrays if cell.record.status == "done" else None
    record = sealed(cell.record, digest_of_arrays(kept) if kept is not None else None)
    if dry_run:
        return Step(path, cell.schema)
    if stamp_of(path.stat()) != before:
        return Step(path, cell.schema, CHANGED)
    write_whole(path, record.to_json().encode())
    return Step(path, cell.schema)
