"""Predictions and confidences of records, and reasons for those that cannot be used."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from fewshot_bench.api.record import Record
from fewshot_bench.store.predictions import Outcome, Outcomes
from fewshot_bench.utils.errors import StoreError

if TYPE_CHECKING:
    import numpy as np

THREADS = 2
ABSENT = "its logits are not in the store"


class Predictions:
    """The outcomes of finished records by cell; `problems` has the unusable ones with reasons.

    Damaged logits are reported and left in place.
    """

    def __init__(self, outcomes: Outcomes, records: Iterable[Record]) -> None:
        self.problems: list[str] = []
        self._outcomes = outcomes
        self._known: dict[str, Outcome] = {}
        records = list(records)
        outcomes.prepare(records)
        for record in records:
            try:
                self._known[record.spec.key()] = outcomes.of(record)
            except StoreError:
                self.problems.append(f"{record.spec.describe()}: {self._reason(record)}")

    def of(self, record: Record) -> Outcome | None:
        """The outcome of a record; None if its logits are missing or cannot be used."""
        return self._known.get(record.spec.key())

    def confidences(self, records: Iterable[Record]) -> dict[str, np.ndarray]:
        """Highest probability of each image (n,) by record key, for records with an outcome.

        Outcomes may be cached: if the answers were removed or changed since then, the record is
        left out and listed in `problems`.
        """
        wanted = [record for record in records if self.of(record)]
        with ThreadPoolExecutor(THREADS) as pool:
            found = list(pool.map(self._confidences, wanted))
        kept = {}
        for record, values in zip(wanted, found, strict=True):
            if isinstance(values, str):
                what = "predictions are known, confidence is not"
                self.problems.append(f"{record.spec.describe()}: {what}: {values}")
            else:
                kept[record.spec.key()] = values
        return kept

    def _confidences(self, record: Record) -> np.ndarray | str:
        try:
            return self._known[record.spec.key()].confidences
        except StoreError:
            return self._reason(record)

    def _reason(self, record: Record) -> str:
        reasons = {damage.path: damage.reason for damage in self._outcomes.damaged}
        reason = reasons.get(self._outcomes.store.file(record.spec.key()).with_suffix(".npz"))
        return f"its logits cannot be used: {reason}" if reason else ABSENT
