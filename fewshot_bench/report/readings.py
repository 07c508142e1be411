"""What the report takes from logits: predictions and confidence, each archive read once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fewshot_bench.record import Record
from fewshot_bench.store import Store
from fewshot_bench.store_files import Damaged, digest_of_arrays, load_arrays

if TYPE_CHECKING:
    import numpy as np

THREADS = 2


@dataclass(frozen=True, slots=True)
class Reading:
    """One record's answers.

    ids (n,) text, labels and predictions (n,); `queries` is a digest of ids and labels. Per bin of
    confidence, of equal width: `count` (bins,), `hits` (bins,) and the sum of `confidence` (bins,).
    """

    ids: np.ndarray
    labels: np.ndarray
    predictions: np.ndarray
    classes: int
    queries: str
    count: np.ndarray
    hits: np.ndarray
    confidence: np.ndarray

    @property
    def correct(self) -> np.ndarray:
        """(n,) 1.0 where the prediction is right, else 0.0."""
        found: np.ndarray = (self.predictions == self.labels).astype(float)
        return found


@dataclass
class Readings:
    """Readings of a store by the cell's key; `problems` says what could not be used, and why.

    Nothing in the store is changed: a damaged archive is named and left where it is.
    """

    store: Store
    problems: list[str] = field(default_factory=list)
    _kept: dict[str, Reading] = field(default_factory=dict)

    def read(self, records: Iterable[Record]) -> None:
        """Read the logits of these records, two at a time."""
        wanted = {record.spec.key(): record for record in records}
        with ThreadPoolExecutor(THREADS) as pool:
            for key, found in zip(wanted, pool.map(self._read, wanted.values()), strict=True):
                if isinstance(found, str):
                    self.problems.append(f"{wanted[key].spec.describe()}: {found}")
                else:
                    self._kept[key] = found

    def of(self, record: Record | None) -> Reading | None:
        """The reading of a record; None when its logits are not there or cannot be used."""
        return self._kept.get(record.spec.key()) if record else None

    def _read(self, record: Record) -> Reading | str:
        path = self.store.file(record.spec.key()).with_suffix(".npz")
        try:
            arrays = load_arrays(path)
        except FileNotFoundError:
            return "its logits are not in the store"
        except Damaged as error:
            return f"its logits are damaged ({error})"
        stated = record.digests.get("logits")
        if stated and digest_of_arrays(arrays) != stated:
            return "its logits are not those that the record states"
        return reading(arrays)


def reading(arrays: Mapping[str, np.ndarray]) -> Reading | str:
    """The reading of `logits` (n, classes), `labels` (n,) and `ids` (n,); else what is wrong."""
    import numpy as np

    from fewshot_bench.quality import BINS, equal_width

    logits, labels, ids = arrays["logits"], arrays["labels"], arrays["ids"]
    if not len(logits) or not np.isfinite(logits).all():
        return "its logits are empty or not finite"
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        return "it has labels that are no class"
    predictions = logits.argmax(axis=1)
    sure = _confidence(logits)
    bins = equal_width(sure, BINS)
    correct = predictions == labels
    sha = hashlib.sha256(ids.tobytes())
    sha.update(np.ascontiguousarray(labels).tobytes())
    return Reading(
        ids=ids,
        labels=labels,
        predictions=predictions,
        classes=logits.shape[1],
        queries=sha.hexdigest(),
        count=np.bincount(bins, minlength=BINS),
        hits=np.bincount(bins, weights=correct, minlength=BINS),
        confidence=np.bincount(bins, weights=sure, minlength=BINS),
    )


def _confidence(logits: np.ndarray) -> np.ndarray:
    """(n,) the largest softmax probability: 1 over the sum of exp(logit - largest logit)."""
    import numpy as np

    sure = np.empty(len(logits))
    # In parts, so that 50,000 queries of 1,000 classes need no gigabyte in float64.
    step = max(1, 2**20 // logits.shape[1])
    for start in range(0, len(logits), step):
        part = logits[start : start + step].astype(np.float64)
        part -= part.max(axis=1, keepdims=True)
        sure[start : start + step] = 1.0 / np.exp(part).sum(axis=1)
    return sure
