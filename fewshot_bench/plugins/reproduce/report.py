"""The report of a published table beside ours: paper, ours, difference, noise and verdict.

While the store has no result, what the table needs stands there in a few lines instead.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from fewshot_bench.analysis.formats import document as doc
from fewshot_bench.analysis.table.names import read_names
from fewshot_bench.api.class_texts import WAFFLE
from fewshot_bench.api.record import Record
from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import BY_TEMPLATES, TOY, TOY_NOTE
from fewshot_bench.plugins.reproduce.cells import Cell, Wanted
from fewshot_bench.plugins.reproduce.judge import (
    STATUSES,
    WORDS,
    Line,
    average,
    harmonic,
    judge,
    select_averaged,
)
from fewshot_bench.plugins.reproduce.matching import Matches
from fewshot_bench.plugins.reproduce.numbers import AVERAGE, HARMONIC, sources, tell_incomparable
from fewshot_bench.plugins.reproduce.published import Reproduction, Setting
from fewshot_bench.utils.errors import DataMissingError
from fewshot_bench.utils.text import counted, signed

NOT_USED = "not used"
# Reason for a data set whose images are not there.
NO_DATA = "no data"
ABSENT = "–"
HEAD = ("method", "shots", "data set", "paper", "ours", "difference", "noise", "seeds", "verdict")
WORDED = ("shots", "data set", "verdict")
# Columns of CSV and JSON after the name of the table; but for `backbone`, fields of a line.
_COLUMNS = (
    *("method", "shots", "dataset", "paper", "ours", "sd", "seeds", "difference", "noise"),
    *("ratio", "status", "verdict", "reason", "datasets", "datasets_of", "test_images"),
    *("test_sampling", "backbone", "classes", "kind", "schedule"),
)
# Sources that are shown where there is no result.
_SOURCES = 2


# Cells and their lines by row, shots and part of the classes.
_Blocks = defaultdict[tuple[str, int, str], list[tuple[Cell, Line]]]


class Report(NamedTuple):
    """A table beside ours. meta: facts of the whole table, as in JSON. lines: one per number."""

    meta: Mapping[str, Any]
    lines: Sequence[Line]


def build(
    table: Reproduction,
    wanted: Wanted,
    cells: Sequence[Cell],
    records: Iterable[Record],
    absent: Mapping[str, str],
    command: str,
) -> Report:
    """The report: lines by row and shots, each block with its mean last, and notes on them.

    absent: why data sets were not run, by name. command: the call that runs missing cells; empty if
    no call can, as for versions of methods that are not installed.
    """
    backbone = wanted.backbone or table.backbone
    matches = Matches(records, wanted, backbone)
    counts = {}
    for name in dict.fromkeys(cell.number.dataset for cell in cells):
        card = registry().dataset(name).card()
        counts[name] = {**card.expected_counts, "classes": card.expected_classes}
    # A local file of the paper's model and tag counts as it.
    is_other = backbone.partition("@")[0] != table.backbone
    unlike = {"backbone": is_other, "limit": wanted.limit is not None}
    other = [name for name, differs in unlike.items() if differs]
    blocks: _Blocks = defaultdict(list)
    for cell in cells:
        own, name = matches.of(cell), cell.number.dataset
        reason = absent.get(name, "")
        line = judge(cell, own, len(wanted.seeds), other, counts[name], reason)
        blocks[cell.label, cell.shots, cell.number.classes].append((cell, line))
    lines = list(_add_means(table, blocks))
    settings = {c.label if table.collected else c.setting.method: c.setting for c in cells}
    places = [sources()[key] for key in table.tables]
    meta = {
        "reproduction": table.name,
        "title": table.title,
        "sources": [f"{source.citation}, {source.place}: {source.url}" for source in places],
        "backbone": backbone,
        "unit": "percent, and points of difference",
        "noise": "95 % range of the difference if both are right",
        "conditions": [
            f"backbone {backbone}, {wanted.precision}, seeds {','.join(map(str, wanted.seeds))}",
            *(f"{name}: {_describe(setting)}" for name, setting in settings.items()),
        ],
        "differences": [
            *_list_changes(table, wanted, cells, backbone if is_other else ""),
            *(f"{name}: {text}" for name, own in settings.items() for text in own.differences()),
            *sorted({f"{c.label}: {c.number.note}" for c in cells if c.number.label == "assumed"}),
        ],
        "not_comparable": list(tell_incomparable(cell.number for cell in cells)),
        "notes": [*_note_data(lines, counts), *_note_rows(table, cells, settings, matches)],
        "advice": [*_advise(lines, absent, command), *_ask_for_texts(cells)],
        "cells": _count_statuses(line for line in lines if not line.is_average),
        "means": _count_statuses(line for line in lines if line.is_average),
    }
    return Report(meta, lines)


def _add_means(table: Reproduction, blocks: _Blocks) -> Iterator[Line]:
    # The mean of the base classes of a row, and the data sets that it is over.
    bases: dict[tuple[str, int], tuple[Line, set[str]]] = {}
    for (label, shots, classes), pairs in blocks.items():
        first, lines = pairs[0][0], [line for _, line in pairs]
        # For a method that is not shipped, a mean that is printed alone is all there is.
        if not (first.mean and first.variant is None):
            yield from lines
        if not first.mean and len(lines) < 2:
            continue
        printed = first.mean
        mean = average(lines, printed.value, len(printed.sets)) if printed else average(lines)
        over = {line.dataset for line in select_averaged(lines)}
        yield mean
        if classes == "base":
            bases[label, shots] = mean, over
        elif classes == "new" and (label, shots) in bases:
            base, sets = bases[label, shots]
            own = table.harmonic(first.number)
            yield harmonic(base, mean, own.value if own else None, same=over == sets)


def _count_statuses(lines: Iterable[Line]) -> dict[str, int]:
    """Numbers of lines by status, without zeros."""
    counts = Counter(line.status for line in lines)
    return {status: counts[status] for status in STATUSES if counts[status]}


def _describe(setting: Setting) -> str:
    """The conditions of the rows of a method."""
    if not setting.shipped:
        return f"not shipped (schedule {setting.schedule or 'not stated'})"
    card = setting.card
    words = {
        f"support set as in protocol {setting.protocol}": setting.random,
        f"val {setting.val}": setting.random,
        f"val min4 on {', '.join(setting.min4)}": setting.random and setting.min4,
        "no support set": not setting.random,
        f"prompts {setting.prompts}": True,
        f"ensemble on {', '.join(setting.ensemble)}": setting.ensemble,
        f"options {' '.join(setting.options)} as there": setting.options,
        "published options by data set": setting.published and card and card.published,
    }
    return ", ".join(text for text, holds in words.items() if holds)


def _list_changes(
    table: Reproduction, wanted: Wanted, cells: Sequence[Cell], other_backbone: str
) -> Iterator[str]:
    """The values that the user asked to be others than the paper's."""
    if other_backbone:
        yield (
            f"backbone {other_backbone}: NOT the paper's {table.backbone}, so that nothing is "
            "compared"
        )
        if other_backbone == TOY:
            yield TOY_NOTE
    elif "@" in wanted.backbone:
        yield f"backbone {wanted.backbone}: a local file, taken for the paper's weights"
    if wanted.precision != table.precision:
        yield f"precision {wanted.precision}, the paper: {table.precision}"
    if any(cell.changed for cell in cells):
        yield f"options {' '.join(wanted.options)}: not the paper's"
    if wanted.limit is not None:
        yield f"at most {wanted.limit:,} test images: not the paper's test sets"


def _note_data(lines: Sequence[Line], counts: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Data sets that are not the published ones, by the number of test images."""
    numbers: dict[str, str] = {}
    for line in lines:
        if line.status == "not compared" and "data" in line.reason and not line.is_average:
            published = f"{counts[line.dataset].get('test', 0):,} are published"
            number = f": {line.test_images or 0:,} test images, {published}"
            # Of a half of the classes, the numbers say nothing.
            numbers[line.dataset] = number if line.classes == "all" else ""
    return [
        f"{name} is not the published data set, or has other lists{number}"
        for name, number in numbers.items()
    ]


def _note_rows(
    table: Reproduction, cells: Sequence[Cell], settings: Mapping[str, Setting], matches: Matches
) -> Iterator[str]:
    yield "means are over the data sets that both sides have, as the line says"
    if any(cell.number.classes != "all" for cell in cells):
        yield (
            "H is the harmonic mean of the mean base and the mean new accuracy; its noise takes "
            "both for independent"
        )
    if table.collected:
        yield (
            "the numbers are of several sources: rows 're-run by', 'listed by' and 'copied by' "
            "are not of the method's authors, and no row is ranked against that of another source"
        )
    other = [name for name, setting in settings.items() if setting.unlike]
    if other:
        yield f"rows of another schedule than the method's here: {', '.join(other)}"
    if table.others():
        yield f"rows of methods that are not here: {', '.join(table.others())}"
    for difference, count in sorted(matches.elsewhere(cells).items()):
        step = ""
        if "method version" in difference:
            step = " (--method NAME@VERSION --only-existing shows another version)"
        yield f"{NOT_USED}: {counted(count, 'record')} of these cells with {difference}{step}"


def _advise(lines: Sequence[Line], absent: Mapping[str, str], command: str) -> Iterator[str]:
    """Next steps, one per line."""
    without: defaultdict[str, set[str]] = defaultdict(set)
    for line in lines:
        if not line.is_average:
            without[line.status].add(line.dataset)
    unready = [name for name in absent if name in without["missing"]]
    unfetched = [name for name in unready if absent[name] == NO_DATA]
    if command and (without["missing"] | without["incomplete"]) - set(unready):
        yield f"to run what is missing: {command}"
    if unfetched:
        yield no_data(unfetched)
    if command and without["failed"]:
        yield f"to try failed cells again: {command} --retry-failed"
    if without["mixed"]:
        yield "mixed cells: keep one kind of records in the store, or use another --store"
    if command and any(line.status == "mixed" and "code" in line.reason for line in lines):
        yield f"to compute again what other code has computed: {command}"


def _ask_for_texts(cells: Sequence[Cell]) -> Iterator[str]:
    """The next step of rows that need a file of texts, which no run here has by itself."""
    for name in sorted({cell.number.texts for cell in cells} - {BY_TEMPLATES, WAFFLE}):
        yield (
            f"rows of texts {name} are compared with runs of your own file {name}.json (fsbench "
            f"data texts makes one): fsbench run --texts {name}.json ..., then --only-existing"
        )


def no_data(names: Sequence[str]) -> str:
    """Next steps for missing data sets."""
    return (
        f"no data for {', '.join(names)}: 'fsbench data prepare {names[0]}' fetches a data set or "
        "says how to get it"
    )


def document(report: Report, renaming: Sequence[str] = ()) -> doc.Document:
    """Conditions, one table, counts and next steps; CSV has a line per cell and per mean.

    renaming: `OLD=NEW` texts for methods and data sets.
    """
    meta = report.meta
    own = {name for line in report.lines for name in (line.method, line.dataset)}
    names = read_names(renaming, own - {AVERAGE})
    report = report._replace(
        lines=[
            dataclasses.replace(
                line,
                method=names.get(line.method, line.method),
                dataset=names.get(line.dataset, line.dataset),
            )
            for line in report.lines
        ]
    )
    title = f"{meta['reproduction']}: {meta['title']}"
    before = [f"source: {source}" for source in meta["sources"]]
    before += [f"here: {text}" for text in meta["conditions"]]
    before += [f"differs or is not known: {text}" for text in meta["differences"]]
    before += meta["not_comparable"]
    # A data set without a number on either side is left to the line of the mean.
    shown = [line for line in report.lines if line.paper is not None or line.status != "missing"]
    lines = tuple(doc.Line.of(line.method, *_texts(line)) for line in shown)
    columns = doc.Column.sides(*HEAD[1:], left=WORDED)
    grid = doc.Grid(title, "", columns, lines, first=HEAD[0], groups=True)
    after = []
    for head, counts in (("cells", meta["cells"]), ("means over data sets", meta["means"])):
        words = ", ".join(f"{n} {WORDS.get(status, status)}" for status, n in counts.items())
        after += [f"{head}: {words}"] if counts else []
    items = [*map(doc.Item, [*after, *meta["notes"]])]
    items += [doc.Item(step, step=True) for step in meta["advice"]]
    rows = [_row(meta, line) for line in report.lines]
    return doc.Document(
        sections=(
            doc.Section(title, [*map(doc.Item, before)], [grid]),
            doc.Section(items=items),
        ),
        rows=rows,
        data={"meta": meta, "rows": rows},
    )


def _texts(line: Line) -> tuple[str, ...]:
    """The texts of a line after its method."""
    data = line.dataset
    if line.is_average:
        over = f"{line.datasets} of " if line.datasets else ""
        data = f"mean of {over}{line.datasets_of} sets"
    if line.classes == HARMONIC:
        data = "H of the two means"
    elif line.classes != "all":
        data = f"{data}, {line.classes}"
    return (
        str(line.shots),
        data,
        ABSENT if line.paper is None else f"{line.paper:.{line.decimals}f}",
        ABSENT if line.ours is None else f"{line.ours:.2f}",
        ABSENT if line.difference is None else signed(line.difference),
        ABSENT if line.noise is None else f"±{line.noise:.2f}",
        str(line.seeds or ABSENT),
        line.verdict,
    )


def _row(meta: Mapping[str, Any], line: Line) -> dict[str, Any]:
    """A line of CSV and JSON; numbers have six digits."""
    row = {"reproduction": meta["reproduction"]}
    for name in _COLUMNS:
        value = meta[name] if name == "backbone" else getattr(line, name)
        row[name] = round(value, 6) if isinstance(value, float) else value
    return row


def list_needs(report: Report, cells: Sequence[Cell], wanted: Wanted, command: str) -> doc.Document:
    """The sources, the runs, the missing data sets and the commands; command: of the whole call."""
    meta = report.meta
    methods = dict.fromkeys(cell.setting.method for cell in cells)
    sets = list(dict.fromkeys(cell.number.dataset for cell in cells))
    shots = sorted({cell.shots for cell in cells})
    hidden = len(meta["sources"]) - _SOURCES
    lacking = [name for name in sets if _lacks_images(name)]
    # Rows of several sources share some runs.
    seeds = {
        (c.setting.method, str(c.variant.options), c.setting.protocol, c.val, c.prompts, c.run): (
            len(wanted.seeds) if c.setting.random else 1
        )
        for c in cells
        if c.variant
    }
    texts = [
        f"{meta['reproduction']}: {meta['title']}",
        *(f"source: {source}" for source in meta["sources"][:_SOURCES]),
        *([f"and {counted(hidden, 'more source')} (--full)"] if hidden > 0 else []),
        f"no results yet: the store has none of {counted(sum(seeds.values()), 'run')}",
        f"{counted(len(methods), 'method')}: {', '.join(methods)}",
        f"{counted(len(sets), 'data set')}, {','.join(map(str, shots))} shots, "
        f"{meta['conditions'][0]}",
        no_data(lacking) if lacking else "the data of all data sets are there",
        *(note for note in meta["notes"] if note.startswith(NOT_USED)),
        *meta["not_comparable"],
    ]
    steps = [
        *_ask_for_texts(cells),
        f"to run what the data sets allow: {command}",
        f"what that takes: {command} --dry-run",
        "every number, the conditions of each row, what differs from the paper: "
        f"{command} --only-existing --full",
    ]
    items = [*map(doc.Item, texts), *(doc.Item(step, step=True) for step in steps)]
    return doc.Document((doc.Section(items=items),))


def _lacks_images(dataset: str) -> bool:
    try:
        registry().dataset(dataset).items()
    except DataMissingError:
        return True
    return False
