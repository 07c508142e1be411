"""Remove chosen records from a store, with their logits and what was computed from these.

Safe beside runs: what a run computes at this moment is left alone, and so is a record that another
one has taken the place of since it was chosen. A kill leaves logits without a record at most.
"""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from fewshot_bench.api.record import Record
from fewshot_bench.store.index import INDEX
from fewshot_bench.store.leases import Leases
from fewshot_bench.store.prediction_packs import load_pack, pack_file, save_pack
from fewshot_bench.store.record_files import Stamp
from fewshot_bench.store.store import Store

IN_USE = "a run computes it at this moment"
CHANGED = "another record has taken its place since it was shown"


@dataclass(frozen=True)
class Chosen:
    """A record that is to go, as it was when it was chosen; size: bytes with its logits."""

    record: Record
    stamp: Stamp | None
    size: int

    @classmethod
    def of(cls, store: Store, record: Record) -> Chosen:
        """The record as its file is now."""
        key, size = record.spec.key(), 0
        for path in (store.file(key), store.file(key).with_suffix(".npz")):
            with suppress(OSError):
                size += path.stat().st_size
        return cls(record, store.stamp(key), size)


def remove(store: Store, chosen: Sequence[Chosen]) -> Iterator[tuple[Chosen, str]]:
    """Remove them, cells of one fit together; yields each, and why it is still there if it is."""
    leases = Leases(store, secrets.token_hex(8))
    groups: defaultdict[str, list[Chosen]] = defaultdict(list)
    for one in chosen:
        groups[one.record.spec.fit_key()].append(one)
    gone = []
    try:
        for key, members in groups.items():
            # As runs do before they compute a fit.
            mine = leases.claim(key) is not None
            for one in members:
                problem = _remove(store, one) if mine else IN_USE
                gone += [] if problem else [one.record]
                yield one, problem
            leases.release(key)
    finally:
        leases.close()
        _forget(store, gone)


def _remove(store: Store, one: Chosen) -> str:
    """Why a record is still there; the record goes before its logits, so that none lacks them."""
    key = one.record.spec.key()
    if store.stamp(key) != one.stamp:
        return CHANGED
    try:
        store.file(key).unlink(missing_ok=True)
        store.file(key).with_suffix(".npz").unlink(missing_ok=True)
    except OSError as error:
        return f"cannot be removed: {error.strerror}"
    return ""


def _forget(store: Store, records: Sequence[Record]) -> None:
    """Take what was computed from these records out of the caches of the store."""
    by_split: defaultdict[str, set[str]] = defaultdict(set)
    for record in records:
        split, logits = record.split.get("digest"), record.digests.get("logits")
        by_split[str(split or "")].add(str(logits or ""))
    for split, digests in by_split.items():
        path = pack_file(store.path, split)
        pack = load_pack(path)
        left = {digest: entry for digest, entry in pack.items() if digest not in digests}
        with suppress(OSError):
            if left:
                save_pack(path, left)
            else:
                path.unlink(missing_ok=True)
    if records:
        with suppress(OSError):
            # Made again by the next command that lists the records.
            (store.path / INDEX).unlink(missing_ok=True)
