"""Checks of records that form one comparison; an audit runs `CHECKS` in order.

Each check yields findings from a frame with the columns that `stated` declares. Facts that differ
between records are found in `differing`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from operator import eq
from typing import TYPE_CHECKING, Any

import numpy as np

from fewshot_bench.analysis.audit.findings import Finding, Level, find, select, some, spread
from fewshot_bench.analysis.audit.hazards import group_by_hazard
from fewshot_bench.analysis.audit.stated import OF_CONDITIONS, number, read_kit, read_mapping
from fewshot_bench.analysis.conditions import overlaps_of
from fewshot_bench.analysis.frame import count, decode, distinct, group, is_true, values
from fewshot_bench.analysis.table.table import Seed
from fewshot_bench.api.defaults import DEMO
from fewshot_bench.api.method_card import IN_COMPANY
from fewshot_bench.api.record import OUT_OF_MEMORY, RETRIED, TIME, Record, overlap_texts
from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import CONDITIONS, TOY, TOY_NOTE
from fewshot_bench.api.violations import VIOLATIONS

if TYPE_CHECKING:
    import pandas as pd

# Hazard 1: selection on test data.
LABELS = 1
SEEDS = 3
# This method draws no support set: neither seeds nor shots change its result.
ZERO_SHOT = "zero-shot"
# Incidents that make the time of a cell useless for comparing methods.
_SLOWED = {
    OUT_OF_MEMORY: "retried after out of memory",
    RETRIED: "the worker was lost once",
    TIME: "most of the time is not in the record",
}


@dataclass(frozen=True)
class Check:
    """A finding about the records whose columns pass a test.

    text: with `{labels}`, `{datasets}`, `{cells}` and `{more}`, what `more` says of the records.
    """

    level: Level
    kind: str
    hazard: int
    text: str
    columns: tuple[str, ...]
    test: Callable[..., object]
    more: Callable[[Sequence[Record]], str] = lambda _: ""

    def __call__(self, data: pd.DataFrame, /) -> Iterator[Finding]:
        """The finding, if any record passes."""
        part = select(data, self.test, *self.columns)
        if len(part):
            more = self.more(part["record"].tolist())
            yield find(self.level, self.kind, self.hazard, self.text, part, more=more)


def check_kit(data: pd.DataFrame) -> Iterator[Finding]:
    """Findings for broken rules of the kit, notes for passed and unchecked code.

    A broken rule is filed under the hazard that it concerns, a declared one there, too. Only
    finished cells count: a cell without a result makes no claim about the method.
    """
    names = "method", "kit text", "unchecked"
    done = select(data, lambda is_done, *_: is_done, "done", *names)
    cells, done = count(done, "method"), select(done, lambda *facts: not facts[-1], *names)
    counts = count(done, "method", "kit text")
    for text in sorted({text for _, text in counts}):
        part = select(done, partial(eq, text), "kit text")
        who = some(
            method if n == cells[method,] else f"{method} ({n} of {cells[method,]} cells)"
            for (method, own), n in sorted(counts.items())
            if own == text
        )
        records = part["record"].tolist()
        kit = read_kit(records[0].entry("environment", "kit"))
        if not kit.get("failed"):
            yield Finding("note", "kit", f"{who} {text}", LABELS, records)
        for hazard, rules in group_by_hazard(kit.get("failed", ())):
            broken = f"{some(rules, 5)} of version {kit['version']} of the kit"
            yield Finding("finding", "kit-failed", f"{who} breaks {broken}", hazard, records)
        for hazard, rules in group_by_hazard(kit.get("expected", ())):
            if kit["failed"] or hazard not in (0, LABELS):
                why = "; ".join(f"{rule} as declared: {kit['expected'][rule]}" for rule in rules)
                yield Finding("note", "kit-declared", f"{who} breaks {why}", hazard, records)


def check_configurations(data: pd.DataFrame) -> Iterator[Finding]:
    """Methods whose configuration depends on the data set or shots, or is not unique."""
    used: defaultdict[str, defaultdict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for method, label, evaluated, shots in distinct(data, "method", "label", "evaluated", "shots"):
        used[method][label].add(f"{evaluated}, {shots}-shot")
    for method, labels in sorted(used.items()):
        if len({frozenset(cells) for cells in labels.values()}) > 1:
            parts = [f"{label} on {some(sorted(on), 3)}" for label, on in sorted(labels.items())]
            text = f"{method} has not one configuration everywhere: {some(parts, 4)}"
            part = select(data, partial(eq, method), "method")
            yield Finding("finding", "per-dataset-options", text, 2, part["record"].tolist())
        elif len(labels) > 1:
            text = (
                f"{len(labels)} configurations of {method} stand here with test results: the best "
                "of them would be chosen on test data"
            )
            yield Finding("note", "several-configurations", text, LABELS)


def check_toy(data: pd.DataFrame) -> Iterator[Finding]:
    """Results of the embedded backbone, which only serves to try the tool on the demo data sets."""
    part = select(data, lambda own, *_: own == TOY, "backbone", "dataset", "target")
    if len(part):
        demo = registry().datasets.suites().get(DEMO, [])
        names = {name for pair in distinct(part, "dataset", "target") for name in pair if name}
        level: Level = "note" if names <= set(demo) else "finding"
        yield find(level, "toy-backbone", 0, "{note}: {labels} on {datasets}", part, note=TOY_NOTE)


def check_limits(data: pd.DataFrame) -> Iterator[Finding]:
    """Cells with a limit: accuracy on some test images is not that of the data set."""
    for limit in sorted(limit for (limit,) in distinct(data, "limit") if limit is not None):
        part = select(data, partial(eq, limit), "limit")
        text = "limited to {limit} images: {labels} on {datasets}"
        yield find("finding", "limit", 0, text, part, limit=limit)


def check_incidents(data: pd.DataFrame) -> Iterator[Finding]:
    """Incidents by kind and method."""
    kinds = {kind for (incidents,) in distinct(data, "incidents") for kind in _by_kind(incidents)}
    for kind in sorted(kinds):
        part = select(data, lambda incidents: kind in _by_kind(incidents), "incidents")  # noqa: B023
        first = _by_kind(values(part, "incidents")[0])[kind]
        what = f"{_SLOWED[kind]}: time not comparable" if kind in _SLOWED else f"incident '{kind}'"
        text = "{what}: {labels} on {datasets} ({cells}; {said})"
        yield find("finding", kind, 0, text, part, what=what, said=first[:160])


def _by_kind(incidents: str | None) -> dict[str, str]:
    """The text of the first incident of each kind."""
    stated = reversed(decode(incidents) or ())
    return {str(each.get("kind", "?")): str(each.get("text", "")) for each in stated}


def check_overlap(data: pd.DataFrame) -> Iterator[Finding]:
    """Test images that a method was fitted on."""
    for evaluated, text in overlap_texts(overlaps_of(data)).items():
        names = "split.overlap", "evaluated"
        part = select(data, lambda overlap, own: overlap and own == evaluated, *names)  # noqa: B023
        yield Finding("finding", "overlap", text, LABELS, part["record"].tolist())


_LINE = ("label", *OF_CONDITIONS)
_PLACE = ("method", "evaluated", "shots", "split_seed", "train_seed")
# Data set, shots, seeds; zero-shot and cells without shots have none of the last two.
_Place = tuple[str, int, Seed]


def check_same_cells(data: pd.DataFrame) -> Iterator[Finding]:
    """Methods that lack data sets, shots or seeds that another method has.

    Zero-shot and cells without shots draw no support set: one such result on a data set is enough
    to compare with other methods there at any shots and seeds.
    """
    part = data[(data["status"] != "failed").to_numpy()]
    places = [
        (evaluated, 0, Seed(0, 0))
        if method == ZERO_SHOT or not shots
        else (evaluated, shots, Seed(split_seed, train_seed))
        for method, evaluated, shots, split_seed, train_seed in distinct(part, *_PLACE)
    ]
    lines = distinct(part, *_LINE)
    numbers = (group(part, names)[0].tolist() for names in (_LINE, _PLACE))
    have: defaultdict[tuple[Any, ...], set[_Place]] = defaultdict(set)
    for line, cell in set(zip(*numbers, strict=True)):
        have[lines[line]].add(places[cell])
    every = set().union(*have.values())
    parts = []
    for line, mine in sorted(have.items()):
        # What has shots itself lacks those of the others; data sets are lacking whole.
        drawn = {cell for cell in every if cell[1]} if any(cell[1] for cell in mine) else set()
        datasets = {dataset for dataset, _, _ in drawn | mine}
        whole = {(name, 0, Seed(0, 0)) for name, _, _ in every if name not in datasets}
        missing = sorted(drawn - mine | whole)
        if missing:
            dataset, shots, seed = missing[0]
            first = f"{dataset}, {shots}-shot, seed {seed}" if shots else dataset
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            parts.append(f"{_name_line(line, lines)} lacks {first}{more}")
    if parts:
        text = f"not the same cells for all methods: {some(parts, 4)}"
        yield Finding("finding", "other-cells", text, 5)


def _name_line(line: tuple[Any, ...], lines: Sequence[tuple[Any, ...]]) -> str:
    """The label, with the conditions in which lines of this label differ."""
    columns = zip(*(other for other in lines if other[0] == line[0]), strict=True)
    names = ("", *CONDITIONS)
    pairs = zip(names, line, columns, strict=True)
    own = [f"{name} {value}" for name, value, column in pairs if len(set(column)) > 1]
    return f"{line[0]} ({', '.join(own)})" if own else str(line[0])


def check_seeds(data: pd.DataFrame) -> Iterator[Finding]:
    """Cells of the table with fewer than three seeds, or whose seeds share their support sets."""
    part = data[is_true(data, "done") & (data["method"] != ZERO_SHOT).to_numpy()]
    part = part[["record", "label", "evaluated", "shots", "split", "split_seed", *OF_CONDITIONS]]
    numbers, first = group(part, ("label", "evaluated", "shots", *OF_CONDITIONS))
    sizes = Counter(numbers.tolist())
    splits = zip(values(part, "split"), values(part, "split_seed"), strict=True)
    pairs = {
        (cell, split or str(seed))
        for cell, (split, seed) in zip(numbers.tolist(), splits, strict=True)
    }
    sets = Counter(cell for cell, _ in pairs)
    few = {cell: n for cell, n in sizes.items() if n < SEEDS}
    if few:
        counts = spread(few.values())
        why = "no interval, and " if counts == "1" else ""
        text = (
            f"fewer than {SEEDS} seeds ({counts}) in {len(few)} of {len(sizes)} cells of the table:"
            f" {why}differences may be chance ({{labels}})"
        )
        yield find("finding", "few-seeds", 6, text, part[np.isin(numbers, [*few])])
    shots = values(part, "shots", first)
    shared = {cell: n for cell, n in sets.items() if n < min(SEEDS, sizes[cell]) and shots[cell]}
    if shared:
        counts = spread(shared.values())
        text = (
            f"seeds with equal support sets: {counts} different "
            f"{'one' if counts == '1' else 'ones'} in {len(shared)} of {len(sizes)} cells of the "
            "table; intervals and tests say nothing about others ({labels})"
        )
        yield find("finding", "few-support-sets", 6, text, part[np.isin(numbers, [*shared])])


def check_validation_used(data: pd.DataFrame) -> Iterator[Finding]:
    """Configurations compared and validation labels used, by method."""
    used: defaultdict[str, list[tuple[int, int | None]]] = defaultdict(list)
    for label, tried, labels, uncounted in distinct(
        data, "label", "tried", "labels used", "labels uncounted"
    ):
        if tried is not None and not uncounted:
            used[label].append((tried, labels))
    chose = {label: pairs for label, pairs in used.items() if any(tried for tried, _ in pairs)}
    for label, pairs in sorted(chose.items()):
        tried, labels = (spread(column) for column in zip(*pairs, strict=True))
        text = f"{label} compared {tried} configurations on {labels} validation labels"
        part = select(data, lambda own, tried: own == label and tried is not None, "label", "tried")  # noqa: B023
        yield Finding("note", "selection", text, 15, part["record"].tolist())
    none = sorted(set(used) - set(chose))
    if chose and none:
        text = f"no validation labels were used by {some(none)}: the last checkpoint counts"
        yield Finding("note", "selection", text, 7)


def check_zero_shot(data: pd.DataFrame) -> Iterator[Finding]:
    """Prompts without a zero-shot result: a gain over zero-shot would mix prompt and method."""
    lines = distinct(data, "evaluated", "prompts", "own data", "method")
    lacking = {line[:3] for line in lines} - {line[:3] for line in lines if line[3] == ZERO_SHOT}
    if lacking:
        parts = [f"{prompts} on {dataset}" for dataset, prompts, _ in sorted(lacking)]
        text = f"no zero-shot result under the same prompts: {some(parts, 4)}"
        yield Finding("note", "no-zero-shot", text, 4)


def _is_busy(load: Any, cpus: Any) -> bool:
    return isinstance(load, int | float) and number(cpus) is not None and load > cpus


def _much(records: Sequence[Record]) -> str:
    """The size of a full validation set, as a multiple of the support labels."""
    ratios = [
        record.split["val"] / record.split["train"]
        for record in records
        if number(record.split.get("val")) and number(record.split.get("train"))
    ]
    return f", up to {max(ratios):,.1f} times the support labels" if ratios else ""


def _error_types(records: Sequence[Record]) -> str:
    kinds = Counter(str((record.error or {}).get("type") or "?") for record in records)
    return some([f"{cells} x {kind}" for kind, cells in kinds.most_common()])


def _reasons(records: Sequence[Record]) -> str:
    return some({str((record.error or {}).get("message") or "") for record in records}, 2)


CHECKS: tuple[Callable[[pd.DataFrame], Iterator[Finding]], ...] = (
    check_kit,
    Check(
        "finding", "kit-unchecked", LABELS,
        "the conformance kit never checked this code, which is not of fewshot_bench: {labels} "
        "({cells}; fsbench check, then run again with --force)",
        ("unchecked",), bool,
    ),
    *(
        Check(
            "finding", "undeclared", LABELS,
            f"{name}: {{labels}} ({{cells}}), against its card; {meaning}",
            ("footprint.violations",), lambda stated, name=name: name in (decode(stated) or ()),
        )
        for name, meaning in VIOLATIONS.items()
    ),
    Check(
        "note", "other-queries", LABELS,
        "answers use other queries, as the card says: {labels} ({cells}; in other company "
        "{more} % of the answers that were asked for again are others)",
        ("footprint.card.sees", "footprint.moved"),
        lambda sees, moved: sees in IN_COMPANY and moved is not None,
        lambda records: spread(
            100 * share for (share,) in Record.entries(records, "footprint", "moved")
        ),
    ),
    Check(
        "finding", "val-full", 3,
        "unfair validation: {labels} had the full validation set of {datasets}{more}",
        ("val",), lambda value: value == "full", _much,
    ),
    check_configurations,
    check_toy,
    check_limits,
    Check(
        "finding", "failed", 0, "{cells} failed: {labels} on {datasets} ({more})",
        ("status",), lambda value: value == "failed", _error_types,
    ),
    Check(
        "note", "inapplicable", 0, "n/a: {labels} ({more})",
        ("status",), lambda value: value == "inapplicable", _reasons,
    ),
    check_incidents,
    Check(
        "finding", "no-split", 5,
        "no digest of the support set, which could be any: {labels} on {datasets} ({cells})",
        ("done", "split"), lambda done, split: done and not split,
    ),
    Check(
        "note", "no-revision", 14, "no revision of the lists of images: {datasets} ({cells})",
        ("done", "revision"), lambda done, revision: done and not revision,
    ),
    Check(
        "finding", "not-published", 5, "not the published picks: {datasets} ({more} cells)",
        ("split.verified",), lambda verified: verified is False, lambda records: str(len(records)),
    ),
    Check(
        "note", "no-published-split", 5,
        "no picks are published to compare with: {datasets} ({more} cells)",
        ("split.digest", "split.verified"), lambda digest, verified: digest and verified is None,
        lambda records: str(len(records)),
    ),
    check_overlap,
    check_same_cells,
    check_seeds,
    Check(
        "finding", "dirty", 0, "made with uncommitted changes of fewshot_bench: {cells}",
        ("environment.dirty",), bool,
    ),
    Check(
        "note", "overrides", 8, "overridden defaults: {labels}", ("overrides",), read_mapping
    ),
    Check(
        "finding", "labels-uncounted", 15,
        "validation labels were read and not counted: {labels} on {datasets} ({cells}); a method "
        "states by ctx.count_selection what it compared on them, or that it learned from them",
        ("labels uncounted",), bool,
    ),
    check_validation_used,
    check_zero_shot,
    Check(
        "note", "mirroring", 9,
        "images are never mirrored: {datasets} (a mirror image shows another class)",
        ("split.mirrored",), lambda mirrored: mirrored is False,
    ),
    Check(
        "note", "declared-parameters", 11, "trained parameters declared, not observed: {labels}",
        ("footprint.trained_source",), lambda value: value == "declared",
    ),
    Check(
        "note", "not-metered", 8,
        "work not metered (of backbone.module or another network): {labels}",
        ("footprint.metered",), lambda metered: metered is False,
    ),
    Check(
        "note", "busy", 0, "times of a busy machine (more load than processors): {cells}",
        ("environment.load", "environment.cpus"), _is_busy,
    ),
)  # fmt: skip
