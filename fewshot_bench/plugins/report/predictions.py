"""Predictions of records, their reliability, and what cannot be used."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from fewshot_bench.api.metrics import BINS
from fewshot_bench.api.record import Record
from fewshot_bench.plugins.report.headline import Contestant, Headline
from fewshot_bench.store.predictions import Outcome, Outcomes
from fewshot_bench.utils.errors import StoreError

ABSENT = "are not in the store"
# Mean confidence, accuracy (0 to 1) and share of the queries of each bin that is not empty.
Bins = tuple[Sequence[float], Sequence[float], Sequence[float]]


class Predictions:
    """The outcomes of finished records by cell; `problems` has the unusable ones with reasons.

    Damaged logits are reported and left in place.
    """

    def __init__(self, outcomes: Outcomes, records: Iterable[Record]) -> None:
        self.problems: list[str] = []
        self._outcomes = outcomes
        # Keys of records that have an outcome; outcomes of all records would fill the memory.
        self._usable: set[str] = set()
        records = list(records)
        outcomes.prepare(records)
        for record in records:
            try:
                outcomes.of(record)
                self._usable.add(record.spec.key())
            except StoreError:
                reasons = {damage.path: damage.reason for damage in outcomes.damaged}
                path = outcomes.store.file(record.spec.key()).with_suffix(".npz")
                reason = f"cannot be used: {reasons[path]}" if path in reasons else ABSENT
                self.problems.append(f"{record.spec.describe()}: its logits {reason}")

    @property
    def store(self) -> Path:
        """The folder of the store."""
        return self._outcomes.store.path

    def of(self, record: Record) -> Outcome | None:
        """The outcome of a record; None if its logits are missing or cannot be used."""
        return self._outcomes.of(record) if record.spec.key() in self._usable else None

    def bins_of(self, headline: Headline, contestant: Contestant) -> Bins | None:
        """The reliability of a contestant over all members, each data set with the same weight.

        None without an outcome on every member.
        """
        total = np.zeros((3, BINS))
        for group in headline.members:
            records = headline.records_of(contestant, group).values()
            usable = [outcome for outcome in map(self.of, records) if outcome is not None]
            if not usable:
                return None
            for outcome in usable:
                weight = len(usable) * len(outcome.labels) * len(headline.members)
                total += outcome.reliability / weight
        share, hits, sure = total[:, total[0] > 0]
        return (sure / share).tolist(), (hits / share).tolist(), share.tolist()
