"""Checks of records that form one comparison; an audit runs `CHECKS` in order.

Each check yields findings from the columns defined in `differing.FACTS` and `audit`. Differences
between records are found in `differing`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator
from functools import partial
from operator import eq
from typing import Any

from fewshot_bench.analysis.audit.facts import checked, dependent, number, reached
from fewshot_bench.analysis.audit.findings import (
    Finding,
    Level,
    cells_of,
    datasets_of,
    labels_of,
    some,
    spread,
)
from fewshot_bench.analysis.record_columns import (
    Joint,
    Place,
    RecordColumns,
    Shared,
    overlaps_of,
)
from fewshot_bench.analysis.table.table import Seed
from fewshot_bench.api.defaults import DEMO
from fewshot_bench.api.image_facts import overlap_texts
from fewshot_bench.api.record import OUT_OF_MEMORY, RETRIED, TIME, Record
from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import CONDITIONS, TOY, TOY_NOTE

# Incidents that make the time of a cell useless for comparing methods.
_SLOWED = {
    OUT_OF_MEMORY: "retried after out of memory",
    RETRIED: "the worker was lost once",
    TIME: "most of the time is not in the record",
}


def unfair_validation(columns: RecordColumns) -> Iterator[Finding]:
    """Methods that used the full validation set, which has far more labels than the support set."""
    found = columns.having(partial(eq, "full"), "val")
    if found:
        ratios = [
            record.split["val"] / record.split["train"]
            for record in found
            if number(record.split.get("val")) and number(record.split.get("train"))
        ]
        much = f", up to {max(ratios):,.1f} times the support labels" if ratios else ""
        text = f"unfair validation: {labels_of(found)} had the full validation set of "
        yield Finding("finding", "val-full", f"{text}{datasets_of(found)}{much}", 3, found)


def unidentified_images(columns: RecordColumns) -> Iterator[Finding]:
    """Results without a digest of the support set or a revision of the image lists."""
    bare = columns.having(lambda done, split: done and not split, "done", "split")
    if bare:
        text = f"no digest of the support set, which could be any: {labels_of(bare)} on "
        yield Finding(
            "finding", "no-split", f"{text}{datasets_of(bare)} ({cells_of(bare)})", 5, bare
        )
    lists = columns.having(lambda done, revision: done and not revision, "done", "revision")
    if lists:
        text = f"no revision of the lists of images: {datasets_of(lists)} ({cells_of(lists)})"
        yield Finding("note", "no-revision", text, 14, lists)


def validation_used(columns: RecordColumns) -> Iterator[Finding]:
    """Configurations compared and validation labels used, by method."""
    used: defaultdict[str, list[tuple[int, int | None]]] = defaultdict(list)
    for label, tried, labels in columns.rows(("label", "tried", "labels used")).values:
        if tried is not None:
            used[label].append((tried, labels))
    chose = {label: found for label, found in used.items() if any(count for count, _ in found)}
    for label, found in sorted(chose.items()):
        counts, numbers = zip(*found, strict=True)
        text = (
            f"{label} compared {spread(counts)} configurations on {spread(numbers)} "
            "validation labels"
        )
        members = columns.having(partial(_has_tried, label), "label", "tried")
        yield Finding("note", "selection", text, 15, members)
    none = sorted(set(used) - set(chose))
    if chose and none:
        text = f"no validation labels were used by {some(none)}: the last checkpoint counts"
        yield Finding("note", "selection", text, 7)


def _has_tried(wanted: str, label: str, tried: int | None) -> bool:
    return label == wanted and tried is not None


def configurations_per_dataset(columns: RecordColumns) -> Iterator[Finding]:
    """Methods whose configuration depends on the data set or shots, or is not unique."""
    places: defaultdict[str, defaultdict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    names = ("method", "label", "evaluated", "shots")
    for method, label, evaluated, shots in columns.rows(names).values:
        places[method][label].add(f"{evaluated}, {shots}-shot")
    for method, labels in sorted(places.items()):
        if len({frozenset(found) for found in labels.values()}) > 1:
            parts = [f"{label} on {some(sorted(on), 3)}" for label, on in sorted(labels.items())]
            text = f"{method} has not one configuration everywhere: {some(parts, 4)}"
            mine = columns.having(partial(eq, method), "method")
            yield Finding("finding", "per-dataset-options", text, 2, mine)
        elif len(labels) > 1:
            text = (
                f"{len(labels)} configurations of {method} stand here with test results: the best "
                "of them would be chosen on test data"
            )
            yield Finding("note", "several-configurations", text, 1)


def overrides(columns: RecordColumns) -> Iterator[Finding]:
    """Options that are not the method's defaults."""
    found = columns.having(bool, "overrides")
    if found:
        text = f"overridden defaults: {labels_of(found)}"
        yield Finding("note", "overrides", text, 8, found)


def fitted_on(columns: RecordColumns) -> Iterator[Finding]:
    """Test images that a method was fitted on."""
    fitted = columns.having(lambda split: split.get("overlap"), "split facts")
    for evaluated, text in overlap_texts(overlaps_of(columns)).items():
        found = [record for record in fitted if record.spec.evaluated == evaluated]
        yield Finding("finding", "overlap", text, 1, found)


def unpublished(columns: RecordColumns) -> Iterator[Finding]:
    """Picks that differ from the published ones, and settings without published picks."""
    wrong = columns.having(lambda split: split.get("verified") is False, "split facts")
    if wrong:
        text = f"not the published picks: {datasets_of(wrong)} ({len(wrong)} cells)"
        yield Finding("finding", "not-published", text, 5, wrong)
    none = columns.having(
        lambda split: split.get("digest") and split.get("verified") is None, "split facts"
    )
    if none:
        text = f"no picks are published to compare with: {datasets_of(none)} ({len(none)} cells)"
        yield Finding("note", "no-published-split", text, 5, none)


def no_zero_shot(columns: RecordColumns) -> Iterator[Finding]:
    """Prompts without a zero-shot result: a gain over zero-shot would mix prompt and method."""
    names = ("evaluated", "prompts", "own data", "method")
    places = columns.rows(names).values
    sets = {place[:3] for place in places}
    have = {place[:3] for place in places if place[3] == ZERO_SHOT}
    if sets - have:
        parts = [f"{prompts} on {dataset}" for dataset, prompts, _ in sorted(sets - have)]
        text = f"no zero-shot result under the same prompts: {some(parts, 4)}"
        yield Finding("note", "no-zero-shot", text, 4)


def limited(columns: RecordColumns) -> Iterator[Finding]:
    """Cells with a limit: accuracy on some test images is not that of the data set."""
    for limit in sorted(value for value in columns["limit"].values if value is not None):
        found = columns.having(partial(eq, limit), "limit")
        text = f"limited to {limit} images: {labels_of(found)} on {datasets_of(found)}"
        yield Finding("finding", "limit", text, 0, found)


def toy(columns: RecordColumns) -> Iterator[Finding]:
    """Results of the embedded backbone, which only serves to try the tool on the demo data sets."""
    found = columns.having(partial(eq, TOY), "backbone")
    if found:
        demo = registry().datasets.suites().get(DEMO, [])
        rows = columns.rows(("backbone", "dataset", "target")).values
        named = {name for backbone, *pair in rows for name in pair if name and backbone == TOY}
        level: Level = "note" if named <= set(demo) else "finding"
        text = f"{TOY_NOTE}: {labels_of(found)} on {datasets_of(found)}"
        yield Finding(level, "toy-backbone", text, 0, found)


def mirroring(columns: RecordColumns) -> Iterator[Finding]:
    """Data sets whose images are never mirrored."""
    found = columns.having(lambda mirrored: mirrored is False, "split.mirrored")
    if found:
        text = (
            f"images are never mirrored: {datasets_of(found)} (a mirror image shows another class)"
        )
        yield Finding("note", "mirroring", text, 9, found)


def happened(columns: RecordColumns) -> Iterator[Finding]:
    """Incidents by kind and method."""
    found: defaultdict[str, list[Record]] = defaultdict(list)
    for record in columns.having(bool, "incidents"):
        for kind in dict.fromkeys(str(i.get("kind", "?")) for i in record.incidents):
            found[kind].append(record)
    for kind, affected in sorted(found.items()):
        cells = columns.members(affected)
        what = f"{_SLOWED[kind]}: time not comparable" if kind in _SLOWED else f"incident '{kind}'"
        one = next(i for i in cells[0].incidents if str(i.get("kind", "?")) == kind)
        text = f"{what}: {labels_of(cells)} on {datasets_of(cells)} ({cells_of(cells)}; "
        yield Finding("finding", kind, f"{text}{str(one.get('text', ''))[:160]})", 0, cells)


def failed(columns: RecordColumns) -> Iterator[Finding]:
    """Failed and inapplicable cells."""
    lost = columns.having(partial(eq, "failed"), "status")
    if lost:
        kinds = Counter(str((record.error or {}).get("type") or "?") for record in lost)
        why = some([f"{count} x {kind}" for kind, count in kinds.most_common()])
        text = f"{cells_of(lost)} failed: {labels_of(lost)} on {datasets_of(lost)} ({why})"
        yield Finding("finding", "failed", text, 0, lost)
    never = columns.having(partial(eq, "inapplicable"), "status")
    if never:
        reasons = some({str((record.error or {}).get("message") or "") for record in never}, 2)
        yield Finding("note", "inapplicable", f"n/a: {labels_of(never)} ({reasons})", 0, never)


def costs(columns: RecordColumns) -> Iterator[Finding]:
    """Cells with declared instead of observed parameters, or timed on a busy machine."""
    declared = columns.having(partial(eq, "declared"), "footprint.trained_source")
    if declared:
        text = f"trained parameters declared, not observed: {labels_of(declared)}"
        yield Finding("note", "declared-parameters", text, 11, declared)
    unmetered = columns.having(partial(eq, False), "footprint.metered")
    if unmetered:
        text = f"work not metered, as it was done with backbone.module: {labels_of(unmetered)}"
        yield Finding("note", "not-metered", text, 8, unmetered)
    busy = columns.having(_is_busy, "environment.load", "environment.cpus")
    if busy:
        text = f"times of a busy machine (more load than processors): {cells_of(busy)}"
        yield Finding("note", "busy", text, 0, busy)


def _is_busy(load: Any, cpus: Any) -> bool:
    return isinstance(load, int | float) and number(cpus) is not None and load > cpus


def provenance(columns: RecordColumns) -> Iterator[Finding]:
    """Results that no commit reproduces."""
    dirty = columns.having(bool, "environment.dirty")
    if dirty:
        text = f"made with uncommitted changes of fewshot_bench: {cells_of(dirty)}"
        yield Finding("finding", "dirty", text, 0, dirty)


SEEDS = 3
# This method draws no support set: neither seeds nor shots change its result.
ZERO_SHOT = "zero-shot"
_PLACE = ("no support set", "evaluated", "shots", "split_seed", "train_seed")
# Data set, shots, seeds; (data set, 0, None) for zero-shot and for cells without shots.
_Place = tuple[str, int, Seed | None]


_CONDITIONS = tuple(f"condition {name}" for name in CONDITIONS)
# Records that differ in their seeds alone.
_CELL = ("label", "evaluated", "shots", *_CONDITIONS)


def few_seeds(columns: RecordColumns) -> Iterator[Finding]:
    """Cells of the table with fewer than three seeds, or whose seeds share their support sets."""
    seeds: defaultdict[int, list[Record]] = defaultdict(list)
    sets: defaultdict[int, set[str]] = defaultdict(set)
    rows = zip(columns.records, columns["split"], columns.rows(_CELL).codes.tolist(), strict=True)
    for record, support, cell in rows:
        if record.status == "done" and record.spec.method != ZERO_SHOT:
            seeds[cell].append(record)
            sets[cell].add(support or str(record.spec.split_seed))
    few = [found for found in seeds.values() if len(found) < SEEDS]
    if few:
        flat = columns.members(record for found in few for record in found)
        counts = spread([len(found) for found in few])
        one = counts == "1"
        text = (
            f"fewer than {SEEDS} seeds ({counts}) in {len(few)} of {len(seeds)} cells of the table:"
            f" {'no interval, and ' if one else ''}differences may be chance ({labels_of(flat)})"
        )
        yield Finding("finding", "few-seeds", text, 6, flat)
    shared = [
        (found, len(sets[cell]))
        for cell, found in seeds.items()
        if len(sets[cell]) < min(SEEDS, len(found)) and found[0].spec.shots
    ]
    if shared:
        flat = columns.members(record for found, _ in shared for record in found)
        counts = spread([count for _, count in shared])
        text = (
            f"seeds with equal support sets: {counts} different "
            f"{'one' if counts == '1' else 'ones'} in {len(shared)} of {len(seeds)} cells of the "
            f"table; intervals and tests say nothing about others ({labels_of(flat)})"
        )
        yield Finding("finding", "few-support-sets", text, 6, flat)


def other_cells(columns: RecordColumns) -> Iterator[Finding]:
    """Methods that lack data sets, shots or seeds that another method has.

    Zero-shot and cells without shots draw no support set: one such result on a data set is enough
    to compare with other methods there at any shots and seeds.
    """
    have: defaultdict[Place, set[_Place]] = defaultdict(set)
    columns.add(
        {
            "no support set": Shared("method", partial(eq, ZERO_SHOT)),
            "support set": Joint(_PLACE, _place),
            "line": Joint(("label", *_CONDITIONS), lambda *values: values),
        }
    )
    for line, place, status in columns.rows(("line", "support set", "status")).values:
        if status != "failed":
            have[line].add(place)
    every = set().union(*have.values()) if have else set()
    lacking = {row: _lacking(mine, every) for row, mine in have.items()}
    parts = [
        f"{_row_text(row, have)} lacks {_places_text(places)}"
        for row, places in sorted(lacking.items())
        if places
    ]
    if parts:
        text = f"not the same cells for all methods: {some(parts, 4)}"
        yield Finding("finding", "other-cells", text, 5)


def _row_text(row: Place, rows: Collection[Place]) -> str:
    """The label, with the conditions in which rows of this label differ."""
    alike = [other for other in rows if other[0] == row[0]]
    own = [
        f"{name} {value}"
        for name, value, values in zip(
            CONDITIONS, row[1:], zip(*(other[1:] for other in alike), strict=True), strict=True
        )
        if len(set(values)) > 1
    ]
    return f"{row[0]} ({', '.join(own)})" if own else str(row[0])


def _place(has_none: bool, evaluated: str, shots: int, split_seed: int, train_seed: int) -> _Place:
    if has_none or not shots:
        return evaluated, 0, None
    return evaluated, shots, Seed(split_seed, train_seed)


def _lacking(mine: set[_Place], every: set[_Place]) -> list[_Place]:
    """Places a method lacks: those with shots if it has any shots itself, and whole data sets."""
    if any(shots for _, shots, _ in mine):
        drawn = {place for place in every if place[1]}
        missing = drawn - mine
    else:
        drawn, missing = set(), set()
    known = {dataset for dataset, _, _ in drawn | mine}
    missing |= {(dataset, 0, None) for dataset, _, _ in every if dataset not in known}
    return sorted(missing, key=lambda place: (place[0], place[1], place[2] or Seed(0, 0)))


def _places_text(places: list[_Place]) -> str:
    dataset, shots, seed = places[0]
    first = f"{dataset}, {shots}-shot, seed {seed}" if seed else dataset
    return f"{first} and {len(places) - 1} more" if len(places) > 1 else first


CHECKS: tuple[Callable[[RecordColumns], Iterator[Finding]], ...] = (
    checked,
    reached,
    dependent,
    unfair_validation,
    configurations_per_dataset,
    toy,
    limited,
    failed,
    happened,
    unidentified_images,
    unpublished,
    fitted_on,
    other_cells,
    few_seeds,
    provenance,
    overrides,
    validation_used,
    no_zero_shot,
    mirroring,
    costs,
)
