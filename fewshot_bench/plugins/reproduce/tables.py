"""A report as a document: paper, ours, difference, noise and verdict, line by line.

While the store has no result, what the table needs stands there in a few lines instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fewshot_bench.analysis.formats import document as doc
from fewshot_bench.api.registry import registry
from fewshot_bench.plugins.reproduce.build import NOT_USED, no_data
from fewshot_bench.plugins.reproduce.cells import Cell, Wanted
from fewshot_bench.plugins.reproduce.judge import WORDS, Line, Report
from fewshot_bench.plugins.reproduce.numbers import HARMONIC
from fewshot_bench.utils.errors import DataMissingError
from fewshot_bench.utils.text import counted, signed

HEAD = ("method", "shots", "data set", "paper", "ours", "difference", "noise", "seeds", "verdict")
WORDED = ("shots", "data set", "verdict")
ABSENT = "–"
# Sources that are shown where there is no result.
_SOURCES = 2


def has_results(report: Report) -> bool:
    """False if the store says nothing about any number of the table."""
    return any(line.status not in ("missing", "not shipped") for line in report.lines)


def document(report: Report) -> doc.Document:
    """Conditions, one table, counts and next steps; CSV has a line per cell and per mean."""
    title = f"{report.name}: {report.title}"
    before = [f"source: {source}" for source in report.sources]
    before += [f"here: {text}" for text in report.conditions]
    before += [f"differs or is not known: {text}" for text in report.differences]
    # A data set without a number on either side is left to the line of the mean.
    shown = [line for line in report.lines if line.paper is not None or line.status != "missing"]
    lines = tuple(doc.Line.of(line.method, *_texts(line)) for line in shown)
    first, *heads = HEAD
    columns = doc.Column.sides(*heads, left=WORDED)
    grid = doc.Grid(title, "", columns, lines, first=first, groups=True)
    after = [*_count_lines(report), *report.notes]
    items = [*map(doc.Item, after), *(doc.Item(step, step=True) for step in report.advice)]
    rows = [_row(report, line) for line in report.lines]
    return doc.Document(
        sections=(
            doc.Section(title, list(map(doc.Item, before)), [grid]),
            doc.Section(items=items),
        ),
        rows=rows,
        data={"meta": _meta(report), "rows": rows},
    )


def _texts(line: Line) -> tuple[str, ...]:
    """The texts of a line after its method."""
    sets = f"{line.over} of {line.of}" if line.over else str(line.of)
    data = f"mean of {sets} sets" if line.average else line.dataset
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
        str(line.seeds) if line.seeds else ABSENT,
        line.verdict,
    )


def _count_lines(report: Report) -> list[str]:
    """Numbers of lines by status: `cells: 3 agrees, 1 missing`."""
    texts = []
    for title, averages in (("cells", False), ("means over data sets", True)):
        counts = report.counts(averages=averages)
        if counts:
            words = ", ".join(f"{n} {WORDS.get(status, status)}" for status, n in counts.items())
            texts.append(f"{title}: {words}")
    return texts


def _meta(report: Report) -> dict[str, Any]:
    """Facts of the whole table."""
    return {
        "reproduction": report.name,
        "title": report.title,
        "sources": report.sources,
        "backbone": report.backbone,
        "unit": "percent, and points of difference",
        "noise": "95 % range of the difference if both are right",
        "conditions": report.conditions,
        "differences": report.differences,
        "notes": report.notes,
        "advice": report.advice,
        "cells": report.counts(averages=False),
        "means": report.counts(averages=True),
    }


def _row(report: Report, line: Line) -> dict[str, Any]:
    """A line of CSV and JSON; numbers have six digits."""
    values = {
        "reproduction": report.name,
        "method": line.method,
        "shots": line.shots,
        "dataset": line.dataset,
        "paper": line.paper,
        "ours": line.ours,
        "sd": line.sd,
        "seeds": line.seeds,
        "difference": line.difference,
        "noise": line.noise,
        "ratio": line.ratio,
        "status": line.status,
        "verdict": line.verdict,
        "reason": line.reason,
        "datasets": line.over if line.average else None,
        "datasets_of": line.of if line.average else None,
        "test_images": line.images or None,
        "test_sampling": line.test_sampling,
        "backbone": report.backbone,
        "classes": line.classes,
        "kind": line.kind,
        "schedule": line.schedule,
    }
    return {
        name: round(value, 6) if isinstance(value, float) else value
        for name, value in values.items()
    }


def list_needs(report: Report, cells: Sequence[Cell], wanted: Wanted, command: str) -> doc.Document:
    """The sources, the runs, the missing data sets and the commands; command: of the whole call."""
    methods = dict.fromkeys(cell.setting.method for cell in cells)
    sets = list(dict.fromkeys(cell.number.dataset for cell in cells))
    shots = sorted({cell.shots for cell in cells})
    hidden = len(report.sources) - _SOURCES
    lacking = [name for name in sets if _lacks_images(name)]
    texts = [
        f"{report.name}: {report.title}",
        *(f"source: {source}" for source in report.sources[:_SOURCES]),
        *([f"and {counted(hidden, 'more source')} (--full)"] if hidden > 0 else []),
        f"no results yet: the store has none of {counted(_count_runs(cells, wanted), 'run')}",
        f"{counted(len(methods), 'method')}: {', '.join(methods)}",
        f"{counted(len(sets), 'data set')}, {','.join(map(str, shots))} shots, "
        f"{report.conditions[0]}",
        no_data(lacking) if lacking else "the data of all data sets are there",
        *(note for note in report.notes if note.startswith(NOT_USED)),
    ]
    steps = [
        f"to run what the data sets allow: {command}",
        f"what that takes: {command} --dry-run",
        "every number, the conditions of each row, what differs from the paper: "
        f"{command} --only-existing --full",
    ]
    items = [*map(doc.Item, texts), *(doc.Item(step, step=True) for step in steps)]
    return doc.Document((doc.Section(items=items),))


def _count_runs(cells: Sequence[Cell], wanted: Wanted) -> int:
    """The number of runs that the cells need: rows of several sources share some."""
    seeds = {}
    for cell in cells:
        if cell.variant:
            setting, number = cell.setting, cell.number
            how = setting.method, str(cell.variant.options), setting.protocol, cell.val
            run = *how, cell.prompts, number.dataset, number.classes, cell.run_shots
            seeds[run] = len(wanted.seeds) if setting.random else 1
    return sum(seeds.values())


def _lacks_images(dataset: str) -> bool:
    try:
        registry().dataset(dataset).items()
    except DataMissingError:
        return True
    return False
