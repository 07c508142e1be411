"""Where a row's numbers vary from, where support sets and training seeds are crossed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fewshot_bench.analysis.table.model import Table
from fewshot_bench.analysis.table.pairing import Answers, Places, by_seed, scores
from fewshot_bench.analysis.table.significance import plain_groups
from fewshot_bench.utils.errors import UsageError

if TYPE_CHECKING:
    from fewshot_bench.analysis.statistics.variance import Components

_OTHER_IMAGES = "the test images differ between seeds"


@dataclass(frozen=True, slots=True)
class Variation:
    """The variances of one cell, or in `problem` why they cannot be told apart."""

    row: str
    group: str
    shots: int
    components: Components | None
    problem: str = ""


def variations(table: Table, places: Places, answers: Answers) -> Iterator[Variation]:
    """Every cell with several support sets and several training seeds."""
    from fewshot_bench.analysis.statistics.variance import components, sampling_variance

    if table.main.scores is None:
        return
    for shots in table.shots:
        for group in plain_groups(table, shots):
            for row in table.rows:
                records = by_seed(places.get((row.label, group.label, shots), ()))
                if min(len({s.split for s in records}), len({s.train for s in records})) < 2:
                    continue
                if all(seed.split == seed.train for seed in records):
                    # One training seed per support set: nothing is crossed.
                    continue
                found = {seed: answers(record) for seed, record in records.items()}
                known = {seed: one for seed, one in found.items() if one is not None}
                images = {seed: scores(outcome, table.main) for seed, outcome in known.items()}
                values = {
                    (seed.split, seed.train): 100 * float(one.mean())
                    for seed, one in images.items()
                }
                if not known:
                    continue
                if len({one.queries.digest for one in known.values()}) > 1:
                    yield Variation(row.label, group.label, shots, None, _OTHER_IMAGES)
                    continue
                try:
                    sampling = sampling_variance(list(images.values()))
                    yield Variation(row.label, group.label, shots, components(values, sampling))
                except UsageError as error:
                    yield Variation(row.label, group.label, shots, None, str(error))
