"""A report as a document: paper, ours, difference, noise and verdict, line by line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from fewshot_bench.analysis.formats import document as doc
from fewshot_bench.plugins.reproduce.judge import WORDS, Line, Report
from fewshot_bench.plugins.reproduce.numbers import HARMONIC
from fewshot_bench.utils.text import signed

HEAD = ("method", "shots", "data set", "paper", "ours", "difference", "noise", "seeds", "verdict")
WORDED = ("shots", "data set", "verdict")
ABSENT = "–"


def document(report: Report) -> doc.Document:
    """Conditions, one table, counts and next steps; CSV has a line per cell and per mean."""
    title, *before = opening(report)
    found = [_values(report, line) for line in report.lines]
    return doc.Document(
        sections=(
            doc.Section(title, [doc.Item(t) for t in before], [_grid(title, report.lines)]),
            doc.Section(
                items=[
                    *(doc.Item(text) for text in closing(report)),
                    *(doc.Item(text, step=True) for text in report.advice),
                ]
            ),
        ),
        rows=found,
        data={"meta": _meta(report), "rows": found},
    )


def _grid(title: str, lines: Sequence[Line]) -> doc.Grid:
    # A data set without a number on either side is left to the line of the mean.
    known = [x for x in lines if x.paper is not None or x.status != "missing"]
    shown = tuple(doc.Line.of(line.method, *_texts(line)) for line in known)
    first, *heads = HEAD
    return doc.Grid(
        title, "", doc.Column.sides(*heads, left=WORDED), shown, first=first, groups=True
    )


def _texts(line: Line) -> Iterator[str]:
    """The texts of a line after its method."""
    yield str(line.shots)
    yield _place(line)
    yield ABSENT if line.paper is None else f"{line.paper:.{line.decimals}f}"
    yield ABSENT if line.ours is None else f"{line.ours:.2f}"
    yield ABSENT if line.difference is None else signed(line.difference)
    yield ABSENT if line.noise is None else f"±{line.noise:.2f}"
    yield str(line.seeds) if line.seeds else ABSENT
    yield line.verdict


def _place(line: Line) -> str:
    """The data set, or the mean, with the half of the classes."""
    if line.classes == HARMONIC:
        return "H of the two means"
    sets = f"{line.over} of {line.of}" if line.over else str(line.of)
    text = f"mean of {sets} sets" if line.average else line.dataset
    return text if line.classes == "all" else f"{text}, {line.classes}"


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


def opening(report: Report) -> list[str]:
    """The subject, its source and its conditions."""
    lines = [f"{report.name}: {report.title}"]
    lines += [f"source: {source}" for source in report.sources]
    lines += [f"here: {text}" for text in report.conditions]
    return lines + [f"differs or is not known: {text}" for text in report.differences]


def closing(report: Report) -> list[str]:
    """Numbers of lines by status, notes and next steps."""
    lines = []
    for title, averages in (("cells", False), ("means over data sets", True)):
        counts = report.counts(averages=averages)
        if counts:
            words = ", ".join(f"{n} {WORDS.get(status, status)}" for status, n in counts.items())
            lines.append(f"{title}: {words}")
    return [*lines, *report.notes]


def _values(report: Report, line: Line) -> dict[str, Any]:
    return {
        "reproduction": report.name,
        "method": line.method,
        "shots": line.shots,
        "dataset": line.dataset,
        "paper": _rounded(line.paper),
        "ours": _rounded(line.ours),
        "sd": _rounded(line.sd),
        "seeds": line.seeds,
        "difference": _rounded(line.difference),
        "noise": _rounded(line.noise),
        "ratio": _rounded(line.ratio),
        "status": line.status,
        "verdict": line.verdict,
        "reason": line.reason,
        "datasets": line.over if line.average else None,
        "datasets_of": line.of if line.average else None,
        "test_images": line.images or None,
        "test_sampling": _rounded(line.test_sampling),
        "backbone": report.backbone,
        "classes": line.classes,
        "kind": line.kind,
        "schedule": line.schedule,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
