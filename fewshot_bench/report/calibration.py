"""Calibration at the headline: expected calibration error and reliability per method."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fewshot_bench.report.figures.reliability import Reliability
from fewshot_bench.report.headline import Contestant, Headline
from fewshot_bench.report.readings import Reading, Readings

if TYPE_CHECKING:
    import numpy as np


def error_of(reading: Reading) -> float:
    """Expected calibration error in percent: the mean gap of accuracy and confidence over bins.

    Weighted by the queries in each of 15 bins of equal width; Guo et al. (ICML 2017), equation 3.
    """
    gaps = abs(reading.hits - reading.confidence)
    return 100 * float(gaps.sum()) / len(reading.labels)


def errors(headline: Headline, readings: Readings, contestant: Contestant) -> list[float | None]:
    """The error per member, as a mean over seeds; None where no logits can be used."""
    found = []
    for members in _readings(headline, readings, contestant):
        values = [error_of(reading) for reading in members]
        found.append(math.fsum(values) / len(values) if values else None)
    return found


def mean_error(values: Sequence[float | None]) -> float | None:
    """The mean over data sets; None unless every one has a value."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(values) else None


def reliability(
    headline: Headline, readings: Readings, contestant: Contestant, note: str
) -> Reliability | None:
    """The diagram of a method over all members, each data set with the same weight."""
    import numpy as np

    count, hits, sure = np.zeros(3)[:, None]
    for members in _readings(headline, readings, contestant):
        for reading in members:
            weight = 1 / (len(members) * len(reading.labels))
            count = count + weight * reading.count
            hits = hits + weight * reading.hits
            sure = sure + weight * reading.confidence
    filled: np.ndarray = count > 0
    if not filled.any():
        return None
    count, hits, sure = count[filled], hits[filled], sure[filled]
    return Reliability(
        label=contestant.label,
        look=contestant.look,
        confidence=(sure / count).tolist(),
        accuracy=(hits / count).tolist(),
        share=(count / count.sum()).tolist(),
        note=note,
    )


def _readings(
    headline: Headline, readings: Readings, contestant: Contestant
) -> list[list[Reading]]:
    """Per member, the readings of its seeds."""
    found = []
    for group in headline.members:
        records = [headline.record_of(contestant, group, seed) for seed in group.seeds]
        found.append([reading for reading in map(readings.of, records) if reading])
    return found
