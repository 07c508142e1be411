"""Predictions of cells in a store's index file."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from fewshot_bench.api.metrics import BINS
from fewshot_bench.store.answer_files import Stored
from fewshot_bench.store.index_file import digest_of_text, open_index_file

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Queries:
    """The query images of a cell: `names` is the JSON of their ids, `labels` (n,) int64."""

    names: bytes
    labels: np.ndarray

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """The ids of the images, in the order of the logits."""
        return tuple(json.loads(self.names))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of ids and labels: equal for the same images in the same order."""
        return hashlib.sha256(self.names + b"\n" + self.labels.tobytes()).hexdigest()

    @classmethod
    def of(cls, stored: Stored) -> Queries:
        """The queries of the answers beside a record."""
        return cls(stored.names, stored.answers.labels)


@dataclass(frozen=True, slots=True)
class Entry:
    """Predictions of one cell: (n,) class indices, and what was computed from its logits.

    reliability: as `metrics.reliability` returns it.
    """

    queries: Queries
    predictions: np.ndarray
    reliability: np.ndarray
    classes: int
    metrics: Mapping[str, float | int]


class _Content(msgspec.Struct, array_like=True):
    """An entry without its queries; arrays as bytes."""

    predictions: bytes
    reliability: bytes
    classes: int
    metrics: dict[str, int | float]


class _Images(msgspec.Struct, array_like=True):
    names: bytes
    labels: bytes


class OutcomeCache:
    """Entries of the cells of a store; `get` gives only what `put` was given."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self._database = open_index_file(store)
        # Cells of one data set have the same images.
        self._queries: dict[bytes, Queries | None] = {}

    def get(self, key: str, logits: str, stamp: bytes | None) -> Entry | None:
        """The entry of a cell; None if there is none, or it is damaged.

        logits: the digest of the logits that it must be of. stamp: of the file with the answers,
        which must be as when the entry was put; None if it is gone.
        """
        import numpy as np

        sql = "select stamp, queries, content, sum from outcomes where key = ?"
        for *row, total in self._database.read(sql, (key,)):
            put, digest, content = row
            if stamp not in (None, put) or _sum(key, logits, *row) != total:
                return None
            queries = self._queries_of(digest)
            if queries is not None:
                made = msgspec.msgpack.decode(content, type=_Content)
                predictions = np.frombuffer(made.predictions, "<i4")
                bins = np.frombuffer(made.reliability, "<f8").reshape(3, BINS)
                return Entry(queries, predictions, bins, made.classes, made.metrics)
        return None

    def _queries_of(self, digest: bytes) -> Queries | None:
        import numpy as np

        if digest not in self._queries:
            self._queries[digest] = None
            for (text,) in self._database.read(
                "select text from texts where digest = ?", (digest,)
            ):
                if digest_of_text(text) == digest:
                    images = msgspec.msgpack.decode(text, type=_Images)
                    labels = np.frombuffer(images.labels, "<i8")
                    self._queries[digest] = Queries(images.names, labels)
        return self._queries[digest]

    def put(self, entries: Iterable[tuple[str, str, bytes, Entry]]) -> None:
        """Keep entries with their key, digest of logits, and stamp of the answers, if possible."""
        texts, rows = {}, []
        for key, logits, stamp, entry in entries:
            labels = entry.queries.labels.astype("<i8").tobytes()
            text = msgspec.msgpack.encode(_Images(entry.queries.names, labels))
            digest = digest_of_text(text)
            texts[digest] = text
            content = msgspec.msgpack.encode(
                _Content(
                    entry.predictions.astype("<i4").tobytes(),
                    entry.reliability.astype("<f8").tobytes(),
                    entry.classes,
                    dict(entry.metrics),
                )
            )
            rows.append((key, stamp, digest, content, _sum(key, logits, stamp, digest, content)))
        if not rows:
            return
        if self._database.path is None:
            self._database = open_index_file(self._store, create=True)
        with suppress(OSError), self._database.write() as connection:
            connection.executemany("insert or ignore into texts values (?, ?)", texts.items())
            connection.executemany("insert or replace into outcomes values (?, ?, ?, ?, ?)", rows)
            self._queries.clear()

    def remove(self, keys: Iterable[str]) -> None:
        """Remove the entries of cells, if possible."""
        with suppress(OSError), self._database.write() as connection:
            connection.executemany("delete from outcomes where key = ?", zip(keys, strict=True))


def _sum(key: str, logits: str, *row: bytes) -> int:
    return zlib.crc32(b"".join((key.encode(), logits.encode(), *row)))
