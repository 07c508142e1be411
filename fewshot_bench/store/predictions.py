"""Predictions of cells, from the files beside records or from the store's index file.

`Outcomes` is the entry point. A cached outcome is the one that the record's answers give.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import shlex
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from fewshot_bench.api.metrics import (
    BINS,
    METRICS,
    Answers,
    Metric,
    PerClass,
    needs,
    per_class,
    reliability,
    rounded,
)
from fewshot_bench.api.record import Record
from fewshot_bench.store.answer_files import KEEP_ALL, Stored, has_logits, load
from fewshot_bench.store.index import digest_of_text, open_index_file
from fewshot_bench.store.record_files import pack_stamp
from fewshot_bench.store.store import Damage, Store
from fewshot_bench.utils.errors import ContractError, StoreError
from fewshot_bench.utils.files import Damaged

if TYPE_CHECKING:
    import numpy as np


# Reading and hashing release the GIL; more threads than processors would only wait for it.
THREADS = min(4, os.cpu_count() or 1)
# Reading answers to fewer queries is mostly Python, for which threads wait for each other.
MANY = 500
# Records round metrics to 6 digits.
ROUNDED = 2e-6
# Attributes that scores of a metric can use without the answers.
_KEPT = frozenset({"labels", "classes", "predictions", "hits", "per_class"})


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


def _refuse(_: bool) -> Answers:
    raise StoreError("an outcome in the cache has no answers")


@dataclass(frozen=True)
class Outcome:
    """Predictions of one cell. Arrays are shared and must not be changed.

    queries: the images; `queries.digest` is equal for the same images in the same order.
    predictions: (n,) class indices below `classes`. reliability: as `metrics.reliability` returns
    it. metrics: those that the record states, and the others computed from its answers. groups: as
    in `Answers`. whole: True if all logits are kept. read: reads the answers, with all logits if
    called with True.
    """

    queries: Queries
    predictions: np.ndarray
    reliability: np.ndarray
    classes: int
    metrics: Mapping[str, float | int]
    groups: np.ndarray | None = None
    whole: bool = False
    read: Callable[[bool], Answers] = _refuse

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of the images, in the order of the other arrays."""
        return self.queries.ids

    @property
    def labels(self) -> np.ndarray:
        """(n,) int64 class indices."""
        return self.queries.labels

    @cached_property
    def hits(self) -> np.ndarray:
        """(n,) bool: which images were predicted correctly."""
        hits: np.ndarray = self.predictions == self.labels
        return hits

    @cached_property
    def per_class(self) -> PerClass:
        """Accuracy, precision and F1 of every class."""
        return per_class(self.predictions, self.labels, self.classes)

    @property
    def confidences(self) -> np.ndarray:
        """(n,) the highest probability of each image; StoreError if they cannot be read."""
        return self.read(False).confidences

    def has_scores(self, metric: Metric) -> bool:
        """True if the metric has scores, and any logits that they need are kept."""
        return metric.scores is not None and ("logits" not in needs(metric.scores) or self.whole)

    def scores(self, metric: Metric) -> np.ndarray:
        """(n,) the metric image by image; reads the answers if predictions are not enough.

        ContractError if the mean of a plug-in's scores differs from the value of its metric.
        """
        assert metric.scores is not None, f"metric '{metric.name}' has no scores"
        asked = needs(metric.scores)
        scores = metric.by_image(self if asked <= _KEPT else self.read("logits" in asked))
        value = self.metrics.get(metric.name) if metric.source else None
        mean = metric.scale * float(scores.mean())
        # The value is rounded as in records.
        if value is not None and not math.isclose(value, mean, rel_tol=1e-4, abs_tol=ROUNDED):
            raise ContractError(
                f"scores of metric '{metric.name}' have the mean {mean:.6f}, its value is "
                f"{value:.6f}: expected the same{metric.registered}"
            )
        return scores


class _Content(msgspec.Struct, array_like=True):
    """An outcome without its queries; arrays as bytes."""

    predictions: bytes
    reliability: bytes
    classes: int
    metrics: dict[str, int | float]
    # None if queries were alone, as of outcomes that were put before there were groups.
    groups: bytes | None = None


class _Images(msgspec.Struct, array_like=True):
    names: bytes
    labels: bytes


class OutcomeCache:
    """The outcomes of cells in the file of a store; `get` gives only what `put` was given."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self._database = open_index_file(store)
        # Cells of one data set have the same images.
        self._queries: dict[bytes, Queries | None] = {}

    def get(self, key: str, logits: str, stamp: bytes | None) -> Outcome | None:
        """The outcome of a cell; None if there is none, or it is damaged.

        logits: the digest of the logits that it must be of. stamp: of the file with the answers,
        which must be as when the outcome was put; None if it is gone.
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
                groups = None if made.groups is None else np.frombuffer(made.groups, "<i4")
                return Outcome(queries, predictions, bins, made.classes, made.metrics, groups)
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

    def put(self, outcomes: Iterable[tuple[str, str, bytes, Outcome]]) -> None:
        """Keep outcomes with their key, digest of logits, and stamp of the answers, if possible."""
        texts, rows = {}, []
        for key, logits, stamp, outcome in outcomes:
            labels = outcome.queries.labels.astype("<i8").tobytes()
            text = msgspec.msgpack.encode(_Images(outcome.queries.names, labels))
            digest = digest_of_text(text)
            texts[digest] = text
            content = msgspec.msgpack.encode(
                _Content(
                    outcome.predictions.astype("<i4").tobytes(),
                    outcome.reliability.astype("<f8").tobytes(),
                    outcome.classes,
                    dict(outcome.metrics),
                    None if outcome.groups is None else outcome.groups.astype("<i4").tobytes(),
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
        """Remove the outcomes of cells, if possible."""
        with suppress(OSError), self._database.write() as connection:
            connection.executemany("delete from outcomes where key = ?", zip(keys, strict=True))


def _sum(key: str, logits: str, *row: bytes) -> int:
    return zlib.crc32(b"".join((key.encode(), logits.encode(), *row)))


@dataclass
class Outcomes:
    """The outcomes of a store's records, with a cache that may be deleted.

    A cached outcome is used if it was computed from the record's `digests.logits`, its accuracy
    equals the record's, and the answers have not been written since. `damaged` lists logits that
    could not be used. metrics: metrics of plug-ins, beside the built-in ones.
    """

    store: Store
    metrics: Sequence[Metric] = ()
    damaged: list[Damage] = field(default_factory=list)
    # By the identity of their record, which is kept: most are asked for several times.
    _outcomes: dict[int, tuple[Record, Outcome]] = field(default_factory=dict)
    _queries: dict[tuple[bytes, bytes], Queries] = field(default_factory=dict)

    @cached_property
    def _cache(self) -> OutcomeCache:
        return OutcomeCache(self.store.path)

    def of(self, record: Record) -> Outcome:
        """The outcome of a finished record; StoreError if its logits are missing or damaged.

        Caches nothing: for many records, call `prepare` first.
        """
        outcome = self._recall(record) or self._compute(record)
        return dataclasses.replace(
            outcome,
            metrics={**self._metrics_of(outcome), **record.metrics},
            whole=has_logits(record),
            read=lambda logits: self._load(record, logits).answers,
        )

    def prepare(self, records: Iterable[Record]) -> None:
        """Compute the uncached outcomes of finished records, large ones in threads, and cache them.

        Records whose logits are missing are left out; damaged logits are listed in `damaged`.
        """
        wanted = {record.spec.key(): record for record in records if record.status == "done"}
        absent = [record for record in wanted.values() if self._recall(record) is None]
        stamps = [self._stamp(record) for record in absent]
        with ThreadPoolExecutor(THREADS) as pool:
            # A small answer takes less time than passing it from thread to thread.
            many = any((record.split.get("test") or 0) >= MANY for record in absent)
            each = pool.map if many else map
            outcomes = list(each(self._compute_or_none, absent))
        new = zip(absent, stamps, outcomes, strict=True)
        usable = [(r, stamp, outcome) for r, stamp, outcome in new if outcome and stamp]
        self._cache.put((r.spec.key(), r.logits_digest, stamp, e) for r, stamp, e in usable)
        self._outcomes |= {id(record): (record, outcome) for record, _, outcome in usable}

    def complete(self, records: Sequence[Record], names: Iterable[str]) -> list[Record]:
        """Return the records, with missing metrics added where the logits are available.

        names: the metrics that records should have, built-in ones or some of `metrics`.
        """
        done = [record for record in records if record.status == "done"]
        absent = object()
        stated = Record.entries(done, "metrics", *names, absent=absent)
        lacking = {r.spec.key() for r, line in zip(done, stated, strict=True) if absent in line}
        if not lacking:
            return list(records)
        self.prepare(record for record in records if record.spec.key() in lacking)
        return [self._complete(r) if r.spec.key() in lacking else r for r in records]

    def list_missing(self, records: Sequence[Record], names: Iterable[str]) -> Iterator[str]:
        """A message for each metric that some records lack, since their logits were not kept."""
        own = {metric.name: metric for metric in self.metrics}
        for name in sorted(own.keys() & set(names)):
            done = [record for record in records if record.status == "done"]
            without = [record for record in done if name not in record.metrics]
            without = [record for record in without if not has_logits(record)]
            if without and _needs_logits(own[name]):
                yield (
                    f"{name} is computed from all logits, which {len(without)} of {len(done)} "
                    f"records do not have: fsbench run ... {KEEP_ALL} computes these cells again"
                )

    def _complete(self, record: Record) -> Record:
        outcome = self._recall(record)
        if outcome is None:
            return record
        return dataclasses.replace(record, metrics={**self._metrics_of(outcome), **record.metrics})

    def _list_missing_metrics(self, record: Record) -> list[Metric]:
        """Metrics that the record does not state and that its kept data suffices for."""
        stated = record.metrics
        lacking = [metric for metric in self._every if metric.name not in stated]
        if not lacking or has_logits(record):
            return lacking
        return [metric for metric in lacking if not _needs_logits(metric)]

    def _metrics_of(self, outcome: Outcome) -> dict[str, float | int]:
        """The metrics of an outcome by name; those of a plug-in only if its code is unchanged."""
        values = outcome.metrics.items()
        return {self._keys[key]: value for key, value in values if key in self._keys}

    @cached_property
    def _every(self) -> Sequence[Metric]:
        return (*METRICS.values(), *self.metrics)

    @cached_property
    def _keys(self) -> Mapping[str, str]:
        return {_key(metric): metric.name for metric in self._every} | {"n": "n"}

    def _recall(self, record: Record) -> Outcome | None:
        """The cached outcome of a record; None if it is absent, outdated or lacks metrics."""
        record_and_outcome = self._outcomes.get(id(record))
        if record_and_outcome is not None:
            return record_and_outcome[1]
        outcome = self._cache.get(record.spec.key(), record.logits_digest, self._stamp(record))
        if outcome is None or not _agrees(record, outcome):
            return None
        if any(
            _key(metric) not in outcome.metrics for metric in self._list_missing_metrics(record)
        ):
            return None
        self._outcomes[id(record)] = record, outcome
        return outcome

    def _stamp(self, record: Record) -> bytes | None:
        """The stamp of a record's answers; None if they are gone."""
        stamp = self.store.stamp(record.spec.key(), ".npz")
        return None if stamp is None else pack_stamp(stamp)

    def _compute_or_none(self, record: Record) -> Outcome | None:
        try:
            return self._compute(record)
        except StoreError:
            return None

    def _compute(self, record: Record) -> Outcome:
        wanted = self._list_missing_metrics(record)
        stored = self._load(record, any(map(_needs_logits, wanted)))
        answers = stored.answers
        try:
            values = rounded(answers, wanted) if wanted else {}
        except ContractError as error:
            raise ContractError(f"{error} ({record.spec.describe()})") from error
        keys = {metric.name: _key(metric) for metric in wanted}
        values = {keys.get(name, name): value for name, value in values.items()}
        before = self._cache.get(record.spec.key(), record.logits_digest, self._stamp(record))
        # Those of other plug-ins.
        values = {**(before.metrics if before else {}), **values}
        bins = reliability(answers.confidences, answers.hits)
        return Outcome(
            *(self._queries_of(stored), answers.predictions, bins, answers.classes, values),
            groups=answers.groups,
        )

    def _load(self, record: Record, logits: bool) -> Stored:
        """Load a record's answers, checking their digests; logits: also read the kept logits."""
        path = self.store.file(record.spec.key()).with_suffix(".npz")
        try:
            return load(path, record, kept=logits)
        except FileNotFoundError:
            raise StoreError(
                f"no answers of {record.spec.describe()} in '{self.store.path}'; run the cell "
                "again to have them"
            ) from None
        except (Damaged, StoreError, OSError) as error:
            damage = Damage(path, str(error))
            if damage not in self.damaged:
                self.damaged.append(damage)
            raise StoreError(
                f"answers of {record.spec.describe()} cannot be used ({error}); see fsbench store "
                f"verify --store {shlex.quote(str(self.store.path))}"
            ) from None

    def _queries_of(self, stored: Stored) -> Queries:
        """The queries of a cell, shared since most cells of a data set have the same images."""
        images = stored.names, stored.answers.labels.tobytes()
        if images not in self._queries:
            self._queries[images] = Queries.of(stored)
        return self._queries[images]


def _needs_logits(metric: Metric) -> bool:
    return "logits" in needs(metric.compute)


def _agrees(record: Record, outcome: Outcome) -> bool:
    """True if the predictions have the accuracy that the record states, if it states one."""
    stated, labels = record.metrics.get("top1"), outcome.queries.labels
    if not isinstance(stated, int | float) or not len(labels):
        return True
    hits = (outcome.predictions == labels).nonzero()[0]
    return math.isclose(stated, 100 * len(hits) / len(labels), abs_tol=ROUNDED)


def _key(metric: Metric) -> str:
    """The key of a metric in the cache; for plug-ins with the source, so that code changes miss."""
    return f"{metric.name} {metric.source}" if metric.source else metric.name
