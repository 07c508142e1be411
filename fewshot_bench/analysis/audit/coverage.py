"""Coverage: equal cells for all methods, and enough seeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from fewshot_bench.analysis.audit.findings import Records, finding_of, labels_of
from fewshot_bench.analysis.audit.model import Finding, some, spread
from fewshot_bench.analysis.table.model import Seed
from fewshot_bench.api.record import Record

SEEDS = 3
# The method that draws nothing: neither seeds nor shots change its result.
ZERO_SHOT = "zero-shot"
# Data set, shots, seeds; of what has no shots the data set alone.
_Place = tuple[str, int, Seed | None]


def few_seeds(records: Records) -> Iterator[Finding]:
    """Fewer than three seeds say nothing about the spread of what depends on them."""
    seeds: defaultdict[tuple[str, str, int], list[Record]] = defaultdict(list)
    for record in records:
        spec = record.spec
        if record.status == "done" and spec.method != ZERO_SHOT:
            seeds[spec.label, spec.evaluated, spec.shots].append(record)
    few = [found for found in seeds.values() if len(found) < SEEDS]
    if few:
        flat = [record for found in few for record in found]
        counts = spread([len(found) for found in few])
        one = counts == "1"
        text = (
            f"fewer than {SEEDS} seeds ({counts}) in {len(few)} of {len(seeds)} cells of the table:"
            f" {'no interval, and ' if one else ''}differences may be chance ({labels_of(flat)})"
        )
        yield finding_of("finding", "few-seeds", text, 6, flat)


def other_cells(records: Records) -> Iterator[Finding]:
    """Methods that lack data sets, shots or seeds that another one has.

    Zero-shot and what has no shots draw no support set: one result of theirs on a data set stands
    beside those of the others there, whatever their shots and seeds.
    """
    have: defaultdict[str, set[_Place]] = defaultdict(set)
    for record in records:
        if record.status != "failed":
            have[record.spec.label].add(_place(record))
    every = set().union(*have.values()) if have else set()
    lacking = {label: _lacking(mine, every) for label, mine in have.items()}
    parts = [
        f"{label} lacks {_told(places)}" for label, places in sorted(lacking.items()) if places
    ]
    if parts:
        text = f"not the same cells for all methods: {some(parts, 4)}"
        yield finding_of("finding", "other-cells", text, 5)


def _place(record: Record) -> _Place:
    spec = record.spec
    if spec.method == ZERO_SHOT or not spec.shots:
        return spec.evaluated, 0, None
    return spec.evaluated, spec.shots, Seed(spec.split_seed, spec.train_seed)


def _lacking(mine: set[_Place], every: set[_Place]) -> list[_Place]:
    """Cells that a method lacks beside the others: all with shots, or all data sets."""
    if any(shots for _, shots, _ in mine):
        drawn = {place for place in every if place[1]}
        missing = drawn - mine
    else:
        drawn, missing = set(), set()
    known = {dataset for dataset, _, _ in drawn | mine}
    missing |= {(dataset, 0, None) for dataset, _, _ in every if dataset not in known}
    return sorted(missing, key=lambda place: (place[0], place[1], place[2] or Seed(0, 0)))


def _told(places: list[_Place]) -> str:
    dataset, shots, seed = places[0]
    first = f"{dataset}, {shots}-shot, seed {seed}" if seed else dataset
    return f"{first} and {len(places) - 1} more" if len(places) > 1 else first
