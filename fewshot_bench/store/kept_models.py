"""Models that runs keep beside their records, in `models/<key>/` of a store.

A record states the digest of its model (`footprint["model"]`): a folder with another digest is not
its model, and a folder that no record states is a leftover.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import KEPT_MODEL
from fewshot_bench.store.model_files import CARD, CONFIG, TENSORS, verify_config
from fewshot_bench.store.record_files import path_of, read_record
from fewshot_bench.utils.errors import StoreError
from fewshot_bench.utils.files import Damaged, open_regular, sorted_entries, write_whole
from fewshot_bench.utils.text import size_text

# Folder in a store; the model's facts in a footprint, and the kind of incident if it has none.
MODELS, STATED = "models", "model"
_NEXT = ".next"
_CHUNK = 2**20
FILES = (TENSORS, CARD, CONFIG)
"""The config is written last: a folder without one is not a model."""


def model_folder(store: Path, key: str) -> Path:
    """Folder of a cell's model; it may not exist."""
    return store / MODELS / key


def next_model_folder(store: Path, key: str) -> Path:
    """Folder of a cell's model until its record is stored; an earlier one stays until then."""
    return store / MODELS / f"{key}{_NEXT}"


def place_model(store: Path, key: str) -> None:
    """Let a cell's next model take the place of the earlier one; may raise OSError."""
    with suppress(FileNotFoundError):
        shutil.rmtree(model_folder(store, key))
    next_model_folder(store, key).rename(model_folder(store, key))


def stated_model(record: Record) -> Mapping[str, Any]:
    """Digest and bytes of the model that a record states; empty if it states none."""
    statement = record.footprint.get(STATED)
    return statement if isinstance(statement, Mapping) else {}


def facts_of(folder: Path, digest: str) -> dict[str, Any]:
    """Digest and bytes of a newly written model, for its record."""
    return {"digest": digest, "bytes": size_of(folder)}


def size_of(folder: Path) -> int:
    """Bytes of a model's folder; 0 if it does not exist."""
    return sum(path.stat().st_size for path in sorted_entries(folder) if path.is_file())


def models_line(records: Sequence[Record]) -> str:
    """Summary line: number and bytes of the models that records state."""
    statements = [stated_model(record) for record in records if record.status == "done"]
    kept = [statement for statement in statements if statement]
    size = size_text(sum(int(statement.get("bytes") or 0) for statement in kept))
    lacking = len(statements) - len(kept)
    return f"{len(kept):,} kept, {size}" + (
        f"; {lacking:,} not (fsbench show KEY.json says why)" if lacking else ""
    )


def expected_bytes(methods: Iterable[str], records: Iterable[Record]) -> tuple[int, list[str]]:
    """Estimate the bytes of one model per entry of `methods`, by the method's largest in records.

    Also returns the methods without any stated model.
    """
    largest: dict[str, int] = {}
    for record in records:
        size, method = stated_model(record).get("bytes"), record.spec.method
        if isinstance(size, int):
            largest[method] = max(size, largest.get(method, 0))
    counts = Counter(methods)
    total = sum(count * largest.get(method, 0) for method, count in counts.items())
    return total, [method for method in counts if method not in largest]


def model_of(store: Path, record: Record) -> Path:
    """Folder of a record's model; StoreError if none was kept or the folder's digest differs.

    The record of a measured model (`fsbench evaluate`) has none of its own.
    """
    if record.spec.protocol == KEPT_MODEL:
        raise StoreError(
            f"{record.spec.describe()} was measured with a kept model (digest "
            f"{record.spec.picks:.12}), whose folder the record does not name: load that folder"
        )
    again = f"compute it with --keep-models --force to have one ({record.spec.describe()})"
    stated = stated_model(record)
    if not stated:
        for incident in record.incidents:
            if incident.get("kind") == STATED:
                raise StoreError(f"{incident.get('text')} ({record.spec.describe()})")
        raise StoreError(f"no model of this cell was kept; {again}")
    key = record.spec.key()
    following, folder = next_model_folder(store, key), model_folder(store, key)
    if _is_of(following, stated):
        # A process was killed after it stored the record, before it placed the model.
        return following
    if verify_config(folder).as_json()["digest"] != stated.get("digest"):
        raise StoreError(f"the model in '{folder}' is not the one of the record; {again}")
    return folder


def _is_of(folder: Path, stated: Mapping[str, Any]) -> bool:
    """True if a folder holds a whole model with the digest that a record states."""
    try:
        return bool(verify_config(folder).as_json()["digest"] == stated.get("digest"))
    except StoreError:
        return False


def model_problem(store: Path, record: Record) -> str:
    """Describe the fault of a record's model; empty if it is sound or the record states none."""
    try:
        if stated_model(record):
            model_of(store, record)
    except StoreError as error:
        return str(error)
    return ""


def copy_model(source: Path, record: Record, destination: Path) -> None:
    """Copy a record's model to another store, if stated and sound; may raise OSError."""
    if not stated_model(record) or model_problem(source, record):
        return
    folder, target = model_of(source, record), model_folder(destination, record.spec.key())
    for name in FILES:
        with open_regular(folder / name) as file:
            write_whole(target / name, iter(partial(file.read, _CHUNK), b""))


def remove_model(store: Path, key: str) -> None:
    """Remove the model of a cell, if there is one, and its next one; may raise OSError."""
    for folder in (model_folder(store, key), next_model_folder(store, key)):
        with suppress(FileNotFoundError):
            shutil.rmtree(folder)


def list_unclaimed(store: Path, seconds: float) -> Iterator[Path]:
    """Model folders that no record states and that were not written to for `seconds`."""
    for folder in filter(Path.is_dir, sorted_entries(store / MODELS)):
        times = [path.stat().st_mtime for path in (folder, *sorted_entries(folder))]
        is_young = time.time() - max(times) < seconds
        if not is_young and not _is_claimed(store, folder):
            yield folder


def _is_claimed(store: Path, folder: Path) -> bool:
    """True if the folder's record states a model or is unreadable; False if it is missing.

    A next model must also be the one that is stated.
    """
    key = folder.name.removesuffix(_NEXT)
    try:
        stated = stated_model(read_record(path_of(store, key)))
        return bool(stated) and (folder.name == key or _is_of(folder, stated))
    except FileNotFoundError:
        return False
    except (Damaged, StoreError):
        return True
