"""Predictions of cells, from the files beside records or from a cache of them (`packs`).

`Outcomes` is the entry point. A cached outcome is the one that the record's answers give.
"""

from __future__ import annotations

import dataclasses
import math
import os
import shlex
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from fewshot_bench.api.image_facts import split_digest
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
from fewshot_bench.store.packs import Entry, Pack, Queries, load_pack, pack_file, save_pack
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
# Attributes that scores of a metric can use without the answers: a pack provides them.
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
        found: np.ndarray = self.predictions == self.labels
        return found

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
        found = metric.by_image(self if asked <= _KEPT else self.read("logits" in asked))
        value = self.metrics.get(metric.name) if metric.source else None
        if value is not None and not _is_mean(value, mean := metric.scale * float(found.mean())):
            raise ContractError(
                f"scores of metric '{metric.name}' have the mean {mean:.6f}, its value is "
                f"{value:.6f}: expected the same{metric.registered}"
            )
        return found


@dataclass
class Outcomes:
    """The outcomes of a store's records, with a cache in the store that may be deleted.

    `<store>/outcomes/` holds one file per split. A cached outcome is used if the file's checksum is
    right, it was computed from the record's `digests.logits`, its accuracy equals the record's, and
    the logits have not been written since. In a store that cannot be written, nothing is cached.
    `damaged` lists logits that could not be used. metrics: metrics of plug-ins, beside the built-in
    ones.
    """

    store: Store
    metrics: Sequence[Metric] = ()
    damaged: list[Damage] = field(default_factory=list)
    _packs: dict[str, Pack] = field(default_factory=dict)
    _pack_times: dict[str, int | None] = field(default_factory=dict)
    _trusted: dict[str, bool] = field(default_factory=dict)
    # Entries by the identity of their record, which is kept: most are asked for several times.
    _found: dict[int, tuple[Record, Entry]] = field(default_factory=dict)
    _asked: dict[tuple[bytes, bytes], Queries] = field(default_factory=dict)

    def of(self, record: Record) -> Outcome:
        """The outcome of a finished record; StoreError if its logits are missing or damaged.

        Caches nothing: for many records, call `prepare` first.
        """
        entry = self._cached(record) or self._computed(record)
        return Outcome(
            entry.queries,
            entry.predictions,
            entry.reliability,
            entry.classes,
            {**self._named(entry), **record.metrics},
            partial(has_logits, record),
            lambda logits: self._stored(record, logits).answers,
        )

    def check(self, record: Record) -> None:
        """StoreError if `of` would raise it."""
        if self._cached(record) is None:
            self._computed(record)

    def prepare(self, records: Iterable[Record]) -> None:
        """Compute the uncached outcomes of finished records, large ones in threads, and cache them.

        Records whose logits are missing are left out; damaged logits are listed in `damaged`.
        """
        wanted = {record.spec.key(): record for record in records if record.status == "done"}
        absent = [record for record in wanted.values() if self._cached(record) is None]
        changed: defaultdict[str, dict[str, Entry | None]] = defaultdict(dict)
        with ThreadPoolExecutor(THREADS) as pool:
            # A small answer takes less time than passing it from thread to thread.
            each = pool.map if any(map(_has_many, absent)) else map
            entries = each(self._computed_or_none, absent)
            for record, entry in zip(absent, entries, strict=True):
                if entry is None and self._is_current(record):
                    continue
                changed[split_digest(record.split)][record.logits_digest] = entry
                self._trusted[record.spec.key()] = entry is not None
            list(pool.map(self._keep, changed, changed.values()))
        if changed:
            self._found.clear()

    def completed(self, records: Sequence[Record], names: Iterable[str]) -> list[Record]:
        """Return the records, with missing metrics added where the logits are available.

        names: the metrics that records should have, built-in ones or some of `metrics`.
        """
        names = set(names)
        lacking = {r.spec.key() for r in records if r.status == "done" and names - r.metrics.keys()}
        if not lacking:
            return list(records)
        self.prepare(record for record in records if record.spec.key() in lacking)
        return [self._complete(r) if r.spec.key() in lacking else r for r in records]

    def lacking(self, records: Sequence[Record], names: Iterable[str]) -> Iterator[str]:
        """A message for each metric that some records lack, since their logits were not kept."""
        known = {metric.name: metric for metric in self.metrics}
        for name in sorted(known.keys() & set(names)):
            done = [record for record in records if record.status == "done"]
            without = [record for record in done if name not in record.metrics]
            without = [record for record in without if not has_logits(record)]
            if without and _needs_logits(known[name]):
                yield (
                    f"{name} is computed from all logits, which {len(without)} of {len(done)} "
                    f"records do not have: fsbench run ... {KEEP_ALL} computes these cells again"
                )

    def _complete(self, record: Record) -> Record:
        entry = self._cached(record)
        if entry is None:
            return record
        return dataclasses.replace(record, metrics={**self._named(entry), **record.metrics})

    def _wanted(self, record: Record) -> list[Metric]:
        """Metrics that the record does not state and that its kept data suffices for."""
        stated = record.metrics
        lacking = [metric for metric in self._every if metric.name not in stated]
        if not lacking or has_logits(record):
            return lacking
        return [metric for metric in lacking if not _needs_logits(metric)]

    def _named(self, entry: Entry) -> dict[str, float | int]:
        """The metrics of an entry by name; those of a plug-in only if its code is unchanged."""
        found = entry.metrics.items()
        return {self._keys[key]: value for key, value in found if key in self._keys}

    @cached_property
    def _every(self) -> Sequence[Metric]:
        return (*METRICS.values(), *self.metrics)

    @cached_property
    def _keys(self) -> Mapping[str, str]:
        return {_key(metric): metric.name for metric in self._every} | {"n": "n"}

    def _cached(self, record: Record) -> Entry | None:
        """The cached entry of a record; None if it is absent, outdated or lacks wanted metrics."""
        found = self._found.get(id(record))
        if found is not None:
            return found[1]
        entry = self._pack(split_digest(record.split)).get(record.logits_digest)
        if entry is None or any(_key(m) not in entry.metrics for m in self._wanted(record)):
            return None
        key = record.spec.key()
        if key not in self._trusted:
            self._trusted[key] = self._is_current(record) and _agrees(record, entry)
        if not self._trusted[key]:
            return None
        self._found[id(record)] = record, entry
        return entry

    def _is_current(self, record: Record) -> bool:
        """True unless the logits were written after the pack."""
        written = self.store.stamp(record.spec.key(), ".npz")
        packed = self._pack_time(split_digest(record.split))
        return written is None or packed is None or written[0] <= packed

    def _pack_time(self, split: str) -> int | None:
        """Modification time of a pack in nanoseconds, taken before reading; None without one."""
        self._pack(split)
        return self._pack_times[split]

    def _pack(self, split: str) -> Pack:
        if split not in self._packs:
            path = pack_file(self.store.path, split)
            self._pack_times[split] = _time_of_change(path)
            self._packs[split] = load_pack(path)
        return self._packs[split]

    def _keep(self, split: str, new: Mapping[str, Entry | None]) -> None:
        """Add entries to a pack, read anew since another process may have added others.

        None removes an entry whose logits have become unusable.
        """
        path = pack_file(self.store.path, split)
        before = load_pack(path)
        found = {**before, **{digest: _joined(before.get(digest), e) for digest, e in new.items()}}
        self._packs[split] = {digest: e for digest, e in found.items() if e is not None}
        if self._packs[split].keys() != before.keys() or any(new.values()):
            save_pack(path, self._packs[split])
        self._pack_times[split] = _time_of_change(path)

    def _computed_or_none(self, record: Record) -> Entry | None:
        try:
            return self._computed(record)
        except StoreError:
            return None

    def _computed(self, record: Record) -> Entry:
        wanted = self._wanted(record)
        stored = self._stored(record, any(map(_needs_logits, wanted)))
        answers = stored.answers
        try:
            values = rounded(answers, wanted) if wanted else {}
        except ContractError as error:
            raise ContractError(f"{error} ({record.spec.describe()})") from error
        keys = {metric.name: _key(metric) for metric in wanted}
        values = {keys.get(name, name): value for name, value in values.items()}
        bins = reliability(answers.confidences, answers.hits)
        return Entry(self._queries_of(stored), answers.predictions, bins, answers.classes, values)

    def _stored(self, record: Record, logits: bool) -> Stored:
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
        if images not in self._asked:
            self._asked[images] = Queries.of(stored)
        return self._asked[images]


def _has_many(record: Record) -> bool:
    queries = record.split.get("test")
    return isinstance(queries, int) and queries >= MANY


def _time_of_change(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


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
    """The key of a metric in a pack; for plug-ins with the source, so that code changes miss."""
    return f"{metric.name} {metric.source}" if metric.source else metric.name


def _joined(before: Entry | None, now: Entry | None) -> Entry | None:
    """Entry `now`, plus the metrics that only `before` has; None if `now` is None."""
    if before is None or now is None:
        return now
    names = {key.partition(" ")[0] for key in now.metrics}
    others = {k: v for k, v in before.metrics.items() if k.partition(" ")[0] not in names}
    return dataclasses.replace(now, metrics={**others, **now.metrics})
