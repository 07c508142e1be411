"""Predictions of cells, from the files beside records or from a cache (`outcome_cache`).

`Outcomes` is the entry point. A cached outcome is the one that the record's answers give.
"""

from __future__ import annotations

import dataclasses
import math
import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING

from fewshot_bench.api.metrics import (
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
from fewshot_bench.store.outcome_cache import Entry, OutcomeCache, Queries
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
class Outcome:
    """Predictions of one cell. Arrays are shared and must not be changed.

    queries: the images; `queries.digest` is equal for the same images in the same order.
    predictions: (n,) class indices below `classes`. reliability: as `metrics.reliability` returns
    it. metrics: those that the record states, and the others computed from its answers. whole:
    returns True if all logits are kept. read: reads the answers, with all logits if called with
    True.
    """

    queries: Queries
    predictions: np.ndarray
    reliability: np.ndarray
    classes: int
    metrics: Mapping[str, float | int]
    whole: Callable[[], bool]
    read: Callable[[bool], Answers]

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
        return metric.scores is not None and ("logits" not in needs(metric.scores) or self.whole())

    def scores(self, metric: Metric) -> np.ndarray:
        """(n,) the metric image by image; reads the answers if predictions are not enough.

        ContractError if the mean of a plug-in's scores differs from the value of its metric.
        """
        assert metric.scores is not None, f"metric '{metric.name}' has no scores"
        asked = needs(metric.scores)
        scores = metric.by_image(self if asked <= _KEPT else self.read("logits" in asked))
        value = self.metrics.get(metric.name) if metric.source else None
        if value is not None and not _is_mean(value, mean := metric.scale * float(scores.mean())):
            raise ContractError(
                f"scores of metric '{metric.name}' have the mean {mean:.6f}, its value is "
                f"{value:.6f}: expected the same{metric.registered}"
            )
        return scores


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
    # Entries by the identity of their record, which is kept: most are asked for several times.
    _entries: dict[int, tuple[Record, Entry]] = field(default_factory=dict)
    _queries: dict[tuple[bytes, bytes], Queries] = field(default_factory=dict)

    @cached_property
    def _cache(self) -> OutcomeCache:
        return OutcomeCache(self.store.path)

    def of(self, record: Record) -> Outcome:
        """The outcome of a finished record; StoreError if its logits are missing or damaged.

        Caches nothing: for many records, call `prepare` first.
        """
        entry = self._read_entry(record) or self._compute(record)
        return Outcome(
            entry.queries,
            entry.predictions,
            entry.reliability,
            entry.classes,
            {**self._metrics_of(entry), **record.metrics},
            partial(has_logits, record),
            lambda logits: self._load(record, logits).answers,
        )

    def check(self, record: Record) -> None:
        """StoreError if `of` would raise it."""
        if self._read_entry(record) is None:
            self._compute(record)

    def prepare(self, records: Iterable[Record]) -> None:
        """Compute the uncached outcomes of finished records, large ones in threads, and cache them.

        Records whose logits are missing are left out; damaged logits are listed in `damaged`.
        """
        wanted = {record.spec.key(): record for record in records if record.status == "done"}
        absent = [record for record in wanted.values() if self._read_entry(record) is None]
        stamps = [self._stamp(record) for record in absent]
        with ThreadPoolExecutor(THREADS) as pool:
            # A small answer takes less time than passing it from thread to thread.
            each = pool.map if any(map(_has_many, absent)) else map
            entries = list(each(self._compute_or_none, absent))
        new = zip(absent, stamps, entries, strict=True)
        usable = [(r, stamp, entry) for r, stamp, entry in new if entry is not None and stamp]
        self._cache.put((r.spec.key(), r.logits_digest, stamp, e) for r, stamp, e in usable)
        self._entries |= {id(record): (record, entry) for record, _, entry in usable}

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
        entry = self._read_entry(record)
        if entry is None:
            return record
        return dataclasses.replace(record, metrics={**self._metrics_of(entry), **record.metrics})

    def _list_missing_metrics(self, record: Record) -> list[Metric]:
        """Metrics that the record does not state and that its kept data suffices for."""
        stated = record.metrics
        lacking = [metric for metric in self._every if metric.name not in stated]
        if not lacking or has_logits(record):
            return lacking
        return [metric for metric in lacking if not _needs_logits(metric)]

    def _metrics_of(self, entry: Entry) -> dict[str, float | int]:
        """The metrics of an entry by name; those of a plug-in only if its code is unchanged."""
        values = entry.metrics.items()
        return {self._keys[key]: value for key, value in values if key in self._keys}

    @cached_property
    def _every(self) -> Sequence[Metric]:
        return (*METRICS.values(), *self.metrics)

    @cached_property
    def _keys(self) -> Mapping[str, str]:
        return {_key(metric): metric.name for metric in self._every} | {"n": "n"}

    def _read_entry(self, record: Record) -> Entry | None:
        """The cached entry of a record; None if it is absent, outdated or lacks wanted metrics."""
        record_and_entry = self._entries.get(id(record))
        if record_and_entry is not None:
            return record_and_entry[1]
        entry = self._cache.get(record.spec.key(), record.logits_digest, self._stamp(record))
        if entry is None or not _agrees(record, entry):
            return None
        if any(_key(metric) not in entry.metrics for metric in self._list_missing_metrics(record)):
            return None
        self._entries[id(record)] = record, entry
        return entry

    def _stamp(self, record: Record) -> bytes | None:
        """The stamp of a record's answers; None if they are gone."""
        stamp = self.store.stamp(record.spec.key(), ".npz")
        return None if stamp is None else pack_stamp(stamp)

    def _compute_or_none(self, record: Record) -> Entry | None:
        try:
            return self._compute(record)
        except StoreError:
            return None

    def _compute(self, record: Record) -> Entry:
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
        return Entry(self._queries_of(stored), answers.predictions, bins, answers.classes, values)

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


def _has_many(record: Record) -> bool:
    queries = record.split.get("test")
    return isinstance(queries, int) and queries >= MANY


def _is_mean(value: float, mean: float) -> bool:
    """True if a value, which is rounded as in records, is this mean of scores."""
    return math.isclose(value, mean, rel_tol=1e-4, abs_tol=ROUNDED)


def _needs_logits(metric: Metric) -> bool:
    return "logits" in needs(metric.compute)


def _agrees(record: Record, entry: Entry) -> bool:
    """True if the predictions have the accuracy that the record states, if it states one."""
    stated, labels = record.metrics.get("top1"), entry.queries.labels
    if not isinstance(stated, int | float) or not len(labels):
        return True
    hits = (entry.predictions == labels).nonzero()[0]
    return math.isclose(stated, 100 * len(hits) / len(labels), abs_tol=ROUNDED)


def _key(metric: Metric) -> str:
    """The key of a metric in an entry; for plug-ins with the source, so that code changes miss."""
    return f"{metric.name} {metric.source}" if metric.source else metric.name
