"""Notes on a table: marks, failed, missing and inapplicable cells, missing averages."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence

from fewshot_bench.analysis.conditions import list_edited
from fewshot_bench.analysis.frame import data_digest, drop_skipped
from fewshot_bench.analysis.table.table import NOT_METERED, TRAINED_UNKNOWN, Cell, Table
from fewshot_bench.api.dataset import SKIPPED
from fewshot_bench.api.spec import IMPORTED, TOY, TOY_NOTE, RunSpec
from fewshot_bench.api.violations import VIOLATIONS

SCREENS = ("terminal", "html")
# Number of commands shown on a screen; the rest is only counted.
COMMANDS = 8
_LISTED = 12
_TWO = "an interval from two says nothing (Student's t with one degree of freedom)"
# Notes on numbers without an interval: of two seeds, and of more runs that share their seeds.
RANGES = (
    f"(a–b) are the two seeds: {_TWO}; run three or more",
    "(a–b) are the lowest and the highest run of cells with two support sets, or two training "
    f"seeds for all of them: {_TWO}; run three or more of both",
)


def notes(table: Table) -> list[str]:
    """Footnotes, the gravest first."""
    return [
        *toy_notes(row.spec for row in table.rows),
        *_marks(table),
        *_edited(table),
        *_lent(table),
        *_ranges(table),
        *_of_cells(table),
        *_seeds(table),
        *_answered_together(table),
        *_without_answers(table),
        *_without(table),
        *_no_harmonic_mean(table),
        *_variances(table),
    ]


def cell_notes(table: Table) -> list[str]:
    """Those of `notes` that also qualify numbers of single classes."""
    return [*toy_notes(row.spec for row in table.rows), *_marks(table), *_of_cells(table)]


def _of_cells(table: Table) -> Iterator[str]:
    """Notes on the images of cells, and on cells without a number."""
    yield from _equal_support_sets(table)
    yield from _one_draw(table)
    yield from _short(table)
    yield from _own_data(table)
    yield from _inapplicable(table)
    yield from _failures(table)
    yield from _holes(table)


def toy_notes(specs: Iterable[RunSpec]) -> list[str]:
    """The note below every table with numbers of the embedded backbone."""
    return [TOY_NOTE] if any(spec.backbone == TOY for spec in specs) else []


# What the marks that follow from records mean.
_MEANINGS = {
    **VIOLATIONS,
    NOT_METERED: "it took backbone.module or ran another network: its images and FLOPs are unknown",
    TRAINED_UNKNOWN: "it computed gradients that no torch optimizer used",
}


def mark_notes(rows: Iterable[tuple[str, Collection[str]]]) -> Iterator[str]:
    """Notes on the marks that follow from records. rows: labels and marks."""
    rows = list(rows)
    for mark, meaning in _MEANINGS.items():
        labels = [label for label, stated in rows if mark in stated]
        if labels:
            yield f"{mark}: {_some(labels)} ({meaning})"


def _marks(table: Table) -> Iterator[str]:
    unfair = [row.label for row in table.rows if row.spec.val == "full"]
    if unfair:
        yield (
            f"unfair validation: {_some(unfair)} had the full validation set, "
            "many more labels than the shots"
        )
    for limit in sorted({row.spec.limit for row in table.rows if row.spec.limit is not None}):
        yield f"limited run: only {limit} queries per data set; not the data set's accuracy"
    yield from mark_notes((row.label, row.stated) for row in table.rows)
    splits, trains = ({seed[part] for seed in table.seeds} for part in (0, 1))
    if len(splits) == 1 and len(table.seeds) > 1:
        yield (
            f"all runs have the support set of split seed {min(splits)}: intervals and tests say "
            "nothing about other support sets"
        )
    elif any(seed.split != seed.train for seed in table.seeds):
        only = "" if len(trains) > 1 else ", and nothing is said about other training seeds"
        yield (
            "seeds written a/b: split seed a, training seed b; intervals and tests count support "
            f"sets, not runs, and add the training seeds that these share{only}"
        )


def _edited(table: Table) -> Iterator[str]:
    """Notes on default files of methods that were edited between runs."""
    for (method, option), file in list_edited(row.spec for row in table.rows).items():
        yield (
            f"{file}, the default of {method}'s option {option}, changed between runs: its rows "
            "are told apart by the digest of the file"
        )


def _lent(table: Table) -> Iterator[str]:
    """Notes on rows whose records were run under less than the table allows."""
    rows: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for cell in table.cells.values():
        for record in cell.records.values():
            if record.less:
                rows[", ".join(record.less)][cell.row.label] = None
    why = "counted here as verified to need no more"
    yield from (f"run with {less}, and {why}: {_some([*rows[less]])}" for less in sorted(rows))


def _equal_support_sets(table: Table) -> Iterator[str]:
    """The note on seeds that drew the same images, for want of others."""
    parts = []
    for cell in _own_cells(table):
        drawn = {seed.split for seed in cell.splits}
        if cell.shots and len(set(filter(None, cell.splits.values())) or drawn) < len(drawn):
            parts.append(_where(cell))
    if parts:
        yield (
            f"several seeds drew the same support set: {_some(parts, '; ')}; intervals and tests "
            "say nothing about other support sets"
        )


def _one_draw(table: Table) -> Iterator[str]:
    """Notes on cells whose runs share one support set, or one training seed, unlike other cells."""
    seeds = table.seeds
    kinds = (
        ("one support set", "support sets", len({seed.split for seed in seeds}), "split"),
        ("one training seed", "training seeds", len({seed.train for seed in seeds}), "train"),
    )
    for single, others, count, name in kinds:
        parts = [
            _where(cell)
            for cell in _own_cells(table)
            if cell.shots
            and len(cell.splits) > 1
            and len({getattr(seed, name) for seed in cell.splits}) == 1
        ]
        # `_marks` says so of the whole table.
        if parts and count > 1:
            yield (
                f"{single} for all runs of {_some(parts, '; ')}: their intervals say nothing about "
                f"other {others}"
            )


def _answered_together(table: Table) -> Iterator[str]:
    """Notes on tests that count batches or whole test sets as draws, not images."""
    tests = table.significance.contrasts if table.significance else ()
    untested = not all(test.result.tested for test in tests)
    meanings = {
        "anew": "count what images of a batch share as a difference of seeds: each draws its own",
        "batch": "count batches, not images: those of a batch were answered together",
        "set": "are over seeds and data sets alone: a test set that was answered together is one "
        + f"draw{'; without a difference between seeds, there is no p-value' * untested}",
    }
    for unit, meaning in meanings.items():
        rows = list(dict.fromkeys(test.row for test in tests if unit in test.result.units))
        if rows:
            yield f"tests of {_some(rows)} {meaning}"


def _without_answers(table: Table) -> Iterator[str]:
    """The note on finished records whose predictions no test could read."""
    parts = [
        f"{lack.row} on {table.shown(lack.group)}, {lack.shots}-shot: {lack.tested} of {lack.seeds}"
        for lack in (table.significance.lacking if table.significance else ())
    ]
    if parts:
        yield (
            "tests use fewer seeds than the differences, as logits of the others are not in the "
            f"store: {_some(parts, '; ')}"
        )
    sources = dict.fromkeys(row.source for row in table.rows if row.source)
    if table.significance and sources:
        yield f"no test is of rows of {_some([*sources])}, whose logits are not here"


def _short(table: Table) -> Iterator[str]:
    """Notes on support sets smaller than the shots and validation sets smaller than the policy."""
    train: dict[str, None] = {}
    val: dict[str, None] = {}
    imported = False
    for cell in _own_cells(table):
        task, short = f"{cell.group.name}, {cell.shots}-shot", cell.short
        imported |= bool(short.of) and cell.row.spec.protocol == IMPORTED
        if short.classes:
            least = f"the smallest gave {short.least}"
            train[f"{task}: {short.classes} of {short.of} classes ({least})"] = None
        if short.val:
            val[f"{task}: {short.val} of {short.of} classes"] = None
    if train:
        why = "as imported or for want of more" if imported else "for want of more"
        yield f"fewer images than the shots, {why}: {_some(list(train), '; ')}"
    if val:
        yield f"fewer validation images than the policy says: {_some(list(val), '; ')}"


def _ranges(table: Table) -> Iterator[str]:
    """The notes on numbers without an interval."""
    means = (cell.estimates.get(table.metric) for cell in table.cells.values())
    counts = {mean.n for mean in means if mean and mean.half is None and mean.n > 1}
    if 2 in counts:
        yield RANGES[0]
    if counts - {2}:
        yield RANGES[1]


def _own_data(table: Table) -> Iterator[str]:
    """Notes on data sets with own class names, templates or hold-out, or without some images."""
    by_data: dict[tuple[str, str], dict[str, None]] = {}
    skipped: dict[str, int] = {}
    for cell in _own_cells(table):
        own = drop_skipped(cell.own_data)
        if own:
            key = data_digest(own), ", ".join(own)
            by_data.setdefault(key, {})[cell.group.dataset] = None
        for name, ids in cell.own_data.get(SKIPPED, {}).items():
            skipped[name] = max(skipped.get(name, 0), len(ids))
    for (digest, parts), datasets in by_data.items():
        yield f"own data {digest}: {_some(list(datasets))} with own {parts}"
    for name, count in skipped.items():
        yield f"{count} damaged or missing images of {name} are left out (--skip-damaged)"


def _inapplicable(table: Table) -> Iterator[str]:
    """One line per reason."""
    by_reason: defaultdict[str, list[str]] = defaultdict(list)
    for cell in _own_cells(table):
        if cell.status == "inapplicable":
            by_reason[cell.reason].append(cell.row.label)
    for reason, labels in by_reason.items():
        yield f"n/a {', '.join(dict.fromkeys(labels))}: {reason}"


def _failures(table: Table) -> Iterator[str]:
    failed = [cell for cell in _own_cells(table) if cell.failed]
    if failed:
        total = sum(cell.failed for cell in failed)
        parts = [f"{_where(cell)}: {cell.failed} x {', '.join(cell.errors)}" for cell in failed]
        yield f"{total} failed (!; run again with --retry-failed): {_some(parts, '; ')}"


def _holes(table: Table) -> Iterator[str]:
    absent = [cell for cell in _own_cells(table) if cell.status == "missing"]
    if absent:
        parts = [f"{_where(cell)}{': ' if cell.reason else ''}{cell.reason}" for cell in absent]
        cells = "cell" if len(absent) == 1 else "cells"
        yield f"{len(absent)} {cells} missing (—): {_some(parts, '; ')}"
    without = [_where(cell) for cell in table.cells.values() if _lacks_difference(table, cell)]
    if without:
        yield f"no difference, for want of identical splits with a result: {_some(without, '; ')}"


def _lacks_difference(table: Table, cell: Cell) -> bool:
    if table.baseline is None or cell.row.label == table.baseline or cell.group.derived:
        return False
    return cell.delta is None and not cell.no_delta and table.metric in cell.estimates


def _seeds(table: Table) -> Iterator[str]:
    """Notes on cells with fewer seeds than expected for their group, by the expected seeds."""
    parts: defaultdict[str, list[str]] = defaultdict(list)
    for cell in table.cells.values():
        values = cell.series.get(table.metric, {})
        if values and len(values) < len(cell.group.seeds) and not cell.group.average:
            why = f" ({cell.reason})" if cell.reason else ""
            usual = _join(cell.group.seeds)
            parts[usual].append(f"{_where(cell)}: {_join(values)}{why}")
    for usual, cells in parts.items():
        yield f"cells with other seeds than {usual}: {_some(cells, '; ')}"


def _without(table: Table) -> Iterator[str]:
    """The note on a missing average or harmonic mean."""
    lines = []
    for group in (group for group in table.groups if group.derived):
        for row in table.rows:
            what = f"{group.name} of {row.label}"
            if not group.average:
                what = f"harmonic mean of {row.label} on {group.name.removesuffix(' (H)')}"
            reasons: defaultdict[str, list[int]] = defaultdict(list)
            for cell in table.line(group, row):
                if cell.reason and cell.expected and cell.status == "missing":
                    reasons[cell.reason].append(cell.shots)
            lines += [f"no {what}, {_join(shots)}-shot: {why}" for why, shots in reasons.items()]
    yield from lines[:_LISTED]
    if len(lines) > _LISTED:
        yield f"{len(lines) - _LISTED} more averages missing; reasons in --format json"


def _no_harmonic_mean(table: Table) -> Iterator[str]:
    scopes = {group.scope for group in table.groups}
    if {"base", "new"} <= scopes and not table.main.higher_is_better:
        yield f"no harmonic mean of base and new: it is one of accuracies, not of {table.metric}"


def _variances(table: Table) -> Iterator[str]:
    """Note on cells whose variance could not be split, for example for lack of crossed seeds."""
    parts = [
        f"{part.row} on {table.shown(part.group)}, {part.shots}-shot: variance not split: "
        f"{part.problem}"
        for part in table.variations
        if part.problem
    ]
    if parts:
        yield _some(parts, "; ")


def _own_cells(table: Table) -> Iterator[Cell]:
    return (cell for cell in table.cells.values() if not cell.group.derived and cell.expected)


def _join(values: Iterable[object]) -> str:
    return ",".join(map(str, values))


def _where(cell: Cell) -> str:
    return f"{cell.row.label} on {cell.group.name}, {cell.shots}-shot"


def _some(parts: Sequence[str], separator: str = ", ") -> str:
    more = len(parts) - _LISTED
    shown = separator.join(parts[:_LISTED])
    return f"{shown}{separator}and {more} more" if more > 0 else shown


def close(table: Table, limit: int | None) -> tuple[list[str], list[str]]:
    """Notes, and commands that run missing cells (at most `limit`; a note counts the rest)."""
    notes, commands = list(table.notes), list(table.commands[:limit])
    hidden = len(table.commands) - len(commands)
    if hidden:
        notes.append(f"{hidden} more commands for missing cells in --format json")
    return notes, commands


def marks(table: Table) -> str:
    """Marks that qualify the comparison, for a caption."""
    every = sorted({mark for row in table.rows for mark in row.marks})
    return f"; {'; '.join(every)}".upper() if every else ""
