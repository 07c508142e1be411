"""Predictions and confidences of records, their reliability, and what cannot be used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from fewshot_bench.api.record import Record
from fewshot_bench.plugins.report.figures.reliability import Reliability
from fewshot_bench.plugins.report.headline import Contestant, Headline
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
        # Keys of records that have an outcome; outcomes of all records would fill the memory.
        self._usable: set[str] = set()
        records = list(records)
        outcomes.prepare(records)
        for record in records:
            try:
                outcomes.of(record)
            except StoreError:
                self.problems.append(f"{record.spec.describe()}: {self._reason(record)}")
            else:
                self._usable.add(record.spec.key())

    def of(self, record: Record) -> Outcome | None:
        """The outcome of a record; None if its logits are missing or cannot be used."""
        return self._outcomes.of(record) if record.spec.key() in self._usable else None

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
            return self._outcomes.of(record).confidences
        except StoreError:
            return self._reason(record)

    def _reason(self, record: Record) -> str:
        reasons = {damage.path: damage.reason for damage in self._outcomes.damaged}
        reason = reasons.get(self._outcomes.store.file(record.spec.key()).with_suffix(".npz"))
        return f"its logits cannot be used: {reason}" if reason else ABSENT


def reliabilities(
    headline: Headline, predictions: Predictions, methods: Mapping[str, str]
) -> list[tuple[Contestant, Reliability]]:
    """The diagrams of contestants over all members, each data set with the same weight.

    methods: a note by row label. A method without confidence on every member has no diagram. Only
    the logits of these methods are read.
    """
    chosen = [c for c in headline.contestants if c.row.label in methods]
    cells = {
        c.row.label: [list(headline.records_of(c, group).values()) for group in headline.members]
        for c in chosen
    }
    wanted = [record for members in cells.values() for member in members for record in member]
    sure = predictions.confidences(wanted)
    found = []
    for contestant in chosen:
        label = contestant.row.label
        bins = _bins(cells[label], predictions, sure)
        if bins is not None:
            found.append((contestant, _diagram(contestant, bins, methods[label])))
    order = list(methods)
    return sorted(found, key=lambda pair: order.index(pair[0].row.label))


def _bins(
    members: Sequence[Sequence[Record]],
    predictions: Predictions,
    sure: Mapping[str, np.ndarray],
) -> np.ndarray | None:
    """(3, bins): share of images, share of right answers, weighted sum of confidence, per bin."""
    import numpy as np

    from fewshot_bench.api.metrics import BINS, equal_width

    total = np.zeros((3, BINS))
    for records in members:
        usable = [record for record in records if record.spec.key() in sure]
        if not usable:
            return None
        for record in usable:
            values, outcome = sure[record.spec.key()], predictions.of(record)
            assert outcome is not None
            places = equal_width(values)
            parts = np.ones(len(values)), outcome.hits, values
            weight = len(usable) * len(values) * len(members)
            total += [np.bincount(places, part, BINS) / weight for part in parts]
    return total


def _diagram(contestant: Contestant, bins: np.ndarray, note: str) -> Reliability:
    share, hits, sure = bins[:, bins[0] > 0]
    return Reliability(
        label=contestant.label,
        look=contestant.look,
        confidence=(sure / share).tolist(),
        accuracy=(hits / share).tolist(),
        share=share.tolist(),
        note=note,
    )
