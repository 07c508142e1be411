"""`find`: one record with its answers, by its file or by a prefix of its key."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from fewshot_bench.api.metrics import Answers
from fewshot_bench.api.record import Record, unsealed
from fewshot_bench.store.answer_files import load
from fewshot_bench.store.store import Damage, Store
from fewshot_bench.utils.errors import StoreError, UsageError
from fewshot_bench.utils.files import Damaged


@dataclass(frozen=True)
class Kept:
    """A record, the answers beside it (None if missing or unusable), and its store's folder.

    problem: why existing answers cannot be used.
    """

    record: Record
    answers: Answers | None
    store: Path | None
    problem: str = ""


def find(name: str, store: Path) -> Kept:
    """Find a record by its file, or in a store by its key or a prefix of it."""
    path = Path(name)
    if path.suffix == ".json":
        if not path.is_file():
            raise UsageError(f"no record '{name}'; expected a record's file or a cell's key")
        folder = path.parents[2] if len(path.resolve().parents) > 2 else None
        return _read(path, folder)
    found = sorted(Store(store).root.glob(f"*/{name}*.json")) if name.isalnum() else []
    if len(found) != 1:
        count = f"{len(found)} records begin" if found else "no record begins"
        raise UsageError(
            f"{count} with '{name}' in store '{store}'; give more of the key, or another --store"
        )
    return _read(found[0], store)


def _read(path: Path, store: Path | None) -> Kept:
    try:
        record = unsealed(json.loads(path.read_bytes()))
    except (OSError, ValueError, RecursionError, StoreError) as error:
        raise StoreError(f"'{path}' cannot be used: {error}") from None
    file = path.with_suffix(".npz")
    try:
        return Kept(record, load(file, record).answers, store)
    except FileNotFoundError:
        return Kept(record, None, store)
    except Damaged as error:
        return Kept(record, None, store, str(Damage(file, str(error))))
