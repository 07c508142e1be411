"""Reliability of methods at the headline: their accuracy by the confidence of predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fewshot_bench.api.record import Record
from fewshot_bench.plugins.report.figures.reliability import Reliability
from fewshot_bench.plugins.report.headline import Contestant, Headline
from fewshot_bench.plugins.report.predictions import Predictions

if TYPE_CHECKING:
    import numpy as np


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
