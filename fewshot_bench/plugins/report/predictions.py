"""Predictions of records, their reliability, and what cannot be used."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fewshot_bench.api.metrics import BINS
from fewshot_bench.api.record import Record
from fewshot_bench.plugins.report.figures.reliability import Reliability
from fewshot_bench.plugins.report.headline import Contestant, Headline
from fewshot_bench.store.predictions import Outcome, Outcomes
from fewshot_bench.utils.errors import StoreError

if TYPE_CHECKING:
    import numpy as np


ABSENT = "its logits are not in the store"


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
                outcomes.check(record)
            except StoreError:
                self.problems.append(f"{record.spec.describe()}: {self._reason(record)}")
            else:
                self._usable.add(record.spec.key())

    @property
    def store(self) -> Path:
        """The folder of the store."""
        return self._outcomes.store.path

    def of(self, record: Record) -> Outcome | None:
        """The outcome of a record; None if its logits are missing or cannot be used."""
        return self._outcomes.of(record) if record.spec.key() in self._usable else None

    def _reason(self, record: Record) -> str:
        reasons = {damage.path: damage.reason for damage in self._outcomes.damaged}
        reason = reasons.get(self._outcomes.store.file(record.spec.key()).with_suffix(".npz"))
        return f"its logits cannot be used: {reason}" if reason else ABSENT


def reliability_of(
    headline: Headline, predictions: Predictions, contestant: Contestant, note: str
) -> Reliability | None:
    """The diagram of a contestant over all members, each data set with the same weight.

    None without an outcome on every member. note: shown in the diagram.
    """
    cells = [headline.records_of(contestant, group).values() for group in headline.members]
    bins = _bins(cells, predictions)
    if bins is None:
        return None
    share, hits, sure = bins[:, bins[0] > 0]
    return Reliability(
        label=contestant.label,
        look=contestant.look,
        confidence=(sure / share).tolist(),
        accuracy=(hits / share).tolist(),
        share=share.tolist(),
        note=note,
    )


def _bins(members: Sequence[Iterable[Record]], predictions: Predictions) -> np.ndarray | None:
    """(3, bins): share of images, share of right answers, weighted sum of confidence, per bin."""
    import numpy as np

    total = np.zeros((3, BINS))
    for records in members:
        usable = [found for found in map(predictions.of, records) if found is not None]
        if not usable:
            return None
        for outcome in usable:
            weight = len(usable) * len(outcome.labels) * len(members)
            total += outcome.reliability / weight
    return total
