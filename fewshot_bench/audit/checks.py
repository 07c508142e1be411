"""What one reads off the records of a comparison: selection, seeds, limits, incidents."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence

from fewshot_bench.audit.facts import number, selection
from fewshot_bench.audit.model import Finding, Level, some, spread
from fewshot_bench.record import Record

SEEDS = 3
Records = Sequence[Record]
# Incidents after which a time says nothing about the method.
_SLOWED = {"out-of-memory": "retried after out of memory", "retried": "the worker was lost once"}


def _found(level: Level, kind: str, text: str, hazard: int = 0, records: Records = ()) -> Finding:
    return Finding(level, kind, text, hazard, tuple(record.spec.key() for record in records))


def _labels(records: Records) -> str:
    return some(sorted({record.spec.label for record in records}))


def _datasets(records: Records) -> str:
    return some(sorted({record.spec.evaluated for record in records}))


def unfair_validation(records: Records) -> Iterator[Finding]:
    """The whole validation set holds far more labels than the support set."""
    found = [record for record in records if record.spec.val == "full"]
    if found:
        ratios = [
            record.split["val"] / record.split["train"]
            for record in found
            if number(record.split.get("val")) and number(record.split.get("train"))
        ]
        much = f", up to {max(ratios):,.1f} times the support labels" if ratios else ""
        text = f"unfair validation: {_labels(found)} chose on the full validation set of "
        yield _found("finding", "val-full", f"{text}{_datasets(found)}{much}", 3, found)


def validation_used(records: Records) -> Iterator[Finding]:
    """Who compared how many configurations on how many validation labels, and who none."""
    used: defaultdict[str, list[Record]] = defaultdict(list)
    for record in records:
        if selection(record)["configurations"] is not None:
            used[record.spec.label].append(record)
    chose = {
        label: found
        for label, found in used.items()
        if any(selection(record)["configurations"] for record in found)
    }
    for label, found in sorted(chose.items()):
        configurations = spread([selection(record)["configurations"] for record in found])
        labels = spread([selection(record)["labels"] for record in found])
        text = f"{label} compared {configurations} configurations on {labels} validation labels"
        yield _found("note", "selection", text, 15, found)
    none = sorted(set(used) - set(chose))
    if chose and none:
        text = f"no validation labels were used by {some(none)}: the last checkpoint counts"
        yield _found("note", "selection", text, 7)


def configurations_per_dataset(records: Records) -> Iterator[Finding]:
    """One method under other options on some data sets or shots than on others."""
    places: defaultdict[str, defaultdict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for record in records:
        spec = record.spec
        places[spec.method][spec.label].add(f"{spec.evaluated}, {spec.shots}-shot")
    for method, labels in sorted(places.items()):
        if len({frozenset(found) for found in labels.values()}) > 1:
            parts = [f"{label} on {some(sorted(on), 3)}" for label, on in sorted(labels.items())]
            text = f"{method} has not one configuration everywhere: {some(parts, 4)}"
            mine = [record for record in records if record.spec.method == method]
            yield _found("finding", "per-dataset-options", text, 2, mine)
        elif len(labels) > 1:
            text = (
                f"{len(labels)} configurations of {method} stand here with test results: the best "
                "of them would be chosen on test data"
            )
            yield _found("note", "several-configurations", text, 1)


def overrides(records: Records) -> Iterator[Finding]:
    """Options that are not the method's defaults."""
    found = [record for record in records if record.spec.overrides]
    if found:
        text = f"overridden defaults: {_labels(found)}"
        yield _found("note", "overrides", text, 8, found)


def unpublished(records: Records) -> Iterator[Finding]:
    """Picks that are not those that were published, and settings for which none were."""
    wrong = [record for record in records if record.split.get("verified") is False]
    if wrong:
        text = f"not the published picks: {_datasets(wrong)} ({len(wrong)} cells)"
        yield _found("finding", "not-published", text, 5, wrong)
    none = [r for r in records if r.split.get("digest") and r.split.get("verified") is None]
    if none:
        text = f"no picks are published to compare with: {_datasets(none)} ({len(none)} cells)"
        yield _found("note", "no-published-split", text, 5, none)


def few_seeds(records: Records) -> Iterator[Finding]:
    """Fewer than three seeds say nothing about the spread."""
    seeds: defaultdict[tuple[str, str, int], list[Record]] = defaultdict(list)
    for record in records:
        if record.status == "done":
            spec = record.spec
            seeds[spec.label, spec.evaluated, spec.shots].append(record)
    few = [found for found in seeds.values() if len(found) < SEEDS]
    if few:
        flat = [record for found in few for record in found]
        counts = spread([len(found) for found in few])
        one = counts == "1"
        text = (
            f"fewer than {SEEDS} seeds ({counts}) in {len(few)} of {len(seeds)} cells of the table:"
            f" {'no interval, and ' if one else ''}differences may be chance ({_labels(flat)})"
        )
        yield _found("finding", "few-seeds", text, 6, flat)


def other_cells(records: Records) -> Iterator[Finding]:
    """Methods that lack data sets, shots or seeds that another one has."""
    have: defaultdict[str, set[tuple[str, int, int, int]]] = defaultdict(set)
    for record in records:
        spec = record.spec
        if record.status != "failed":
            place = (spec.evaluated, spec.shots, spec.split_seed, spec.train_seed)
            have[spec.label].add(place)
    every = set().union(*have.values()) if have else set()
    lacking = {label: sorted(every - mine) for label, mine in have.items() if every - mine}
    if lacking:
        parts = []
        for label, places in sorted(lacking.items()):
            dataset, shots, split, _ = places[0]
            more = f" and {len(places) - 1} more" if len(places) > 1 else ""
            parts.append(f"{label} lacks {dataset}, {shots}-shot, seed {split}{more}")
        text = f"not the same cells for all methods: {some(parts, 4)}"
        yield _found("finding", "other-cells", text, 5)


def no_zero_shot(records: Records) -> Iterator[Finding]:
    """A gain over zero-shot mixes prompt and method unless zero-shot has the same prompts."""
    sets = {(r.spec.evaluated, r.spec.prompts) for r in records}
    have = {(r.spec.evaluated, r.spec.prompts) for r in records if r.spec.method == "zero-shot"}
    if sets - have:
        parts = [f"{prompts} on {dataset}" for dataset, prompts in sorted(sets - have)]
        text = f"no zero-shot result under the same prompts: {some(parts, 4)}"
        yield _found("note", "no-zero-shot", text, 4)


def limited(records: Records) -> Iterator[Finding]:
    """Accuracy on a part of the test images is not the data set's accuracy."""
    for limit in sorted({r.spec.limit for r in records if r.spec.limit is not None}):
        found = [record for record in records if record.spec.limit == limit]
        text = f"limited to {limit} images: {_labels(found)} on {_datasets(found)}"
        yield _found("finding", "limit", text, 0, found)


def mirroring(records: Records) -> Iterator[Finding]:
    """Data sets whose images are never mirrored."""
    found = [record for record in records if record.split.get("mirrored") is False]
    if found:
        text = f"images are never mirrored: {_datasets(found)} (a mirror image shows another class)"
        yield _found("note", "mirroring", text, 9, found)


def happened(records: Records) -> Iterator[Finding]:
    """Incidents by kind and method."""
    found: defaultdict[str, list[Record]] = defaultdict(list)
    for record in records:
        for kind in dict.fromkeys(str(i.get("kind", "?")) for i in record.incidents):
            found[kind].append(record)
    for kind, cells in sorted(found.items()):
        what = f"{_SLOWED[kind]}: time not comparable" if kind in _SLOWED else f"incident '{kind}'"
        one = next(i for i in cells[0].incidents if str(i.get("kind", "?")) == kind)
        text = f"{what}: {_labels(cells)} on {_datasets(cells)} ({_cells(cells)}; "
        yield _found("finding", kind, f"{text}{str(one.get('text', ''))[:160]})", 0, cells)


def _cells(records: Records) -> str:
    return f"{len(records)} cell{'s' if len(records) != 1 else ''}"


def failed(records: Records) -> Iterator[Finding]:
    """Cells without a result."""
    lost = [record for record in records if record.status == "failed"]
    if lost:
        kinds = Counter(str((record.error or {}).get("type") or "?") for record in lost)
        why = some([f"{count} x {kind}" for kind, count in kinds.most_common()])
        text = f"{_cells(lost)} failed: {_labels(lost)} on {_datasets(lost)} ({why})"
        yield _found("finding", "failed", text, 0, lost)
    never = [record for record in records if record.status == "inapplicable"]
    if never:
        reasons = some({str((record.error or {}).get("message") or "") for record in never}, 2)
        yield _found("note", "inapplicable", f"n/a: {_labels(never)} ({reasons})", 0, never)


def costs(records: Records) -> Iterator[Finding]:
    """What keeps times and parameters from being measured alike."""
    declared = [r for r in records if r.footprint.get("trained_source") == "declared"]
    if declared:
        text = f"trained parameters declared, not observed: {_labels(declared)}"
        yield _found("note", "declared-parameters", text, 11, declared)
    shared = [r for r in records if (number(r.notes.get("fitted_together")) or 1) > 1]
    if shared:
        text = f"fitted together, time shared equally: {_labels(shared)}"
        yield _found("note", "fitted-together", text, 0, shared)
    busy = [record for record in records if _is_busy(record)]
    if busy:
        text = f"times of a busy machine (more load than processors): {_cells(busy)}"
        yield _found("note", "busy", text, 0, busy)


def _is_busy(record: Record) -> bool:
    load, cpus = record.environment.get("load"), number(record.environment.get("cpus"))
    return isinstance(load, int | float) and cpus is not None and load > cpus


def provenance(records: Records) -> Iterator[Finding]:
    """Results that no commit reproduces, and records that a change would not be seen of."""
    dirty = [record for record in records if record.environment.get("dirty")]
    if dirty:
        text = f"made with uncommitted changes of fewshot_bench: {_cells(dirty)}"
        yield _found("finding", "dirty", text, 0, dirty)
    bare = [record for record in records if not record.digests.get("record")]
    if bare:
        text = f"without a digest, so that a change would not be seen: {_cells(bare)}"
        yield _found("note", "no-digest", f"{text} (fsbench store migrate)", 13, bare)


CHECKS: tuple[Callable[[Records], Iterator[Finding]], ...] = (
    unfair_validation,
    configurations_per_dataset,
    limited,
    failed,
    happened,
    unpublished,
    other_cells,
    few_seeds,
    provenance,
    overrides,
    validation_used,
    no_zero_shot,
    mirroring,
    costs,
)
