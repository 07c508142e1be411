"""Findings of an audit, answers to hazards, and the wording of lists in them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fewshot_bench.analysis.frame import distinct, group, values
from fewshot_bench.api.record import Record
from fewshot_bench.utils.text import limited

if TYPE_CHECKING:
    import pandas as pd

Level = Literal["finding", "note"]
_LISTED = 6


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a reader of the table must know.

    level: a `finding` makes the comparison unfair, incomplete or not repeatable; a `note` only
    informs. kind: identifier for programs. hazard: number in `hazards.HAZARDS`, 0 for none.
    records: the affected records.
    """

    level: Level
    kind: str
    text: str
    hazard: int = 0
    records: Sequence[Record] = ()

    @property
    def cells(self) -> tuple[str, ...]:
        """Keys of the affected records."""
        return tuple(record.spec.key() for record in self.records)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able values."""
        fields = {name: getattr(self, name) for name in ("level", "kind", "text", "hazard")}
        return {**fields, "cells": list(self.cells)}


@dataclass(frozen=True, slots=True)
class Answer:
    """The outcome of one hazard to fairness.

    state: `open` if a finding concerns it, `not shown` if records cannot show the answer.
    """

    number: int
    name: str
    text: str
    state: Literal["ok", "open", "not shown"]

    @property
    def open(self) -> bool:
        """True if at least one finding concerns this hazard."""
        return self.state == "open"


@dataclass(frozen=True, slots=True)
class Audit:
    """Result of an audit: findings, answers, the audited records in order, and their signature.

    shared: conditions common to all cells. methods: a line per method with its permissions and
    actions.
    """

    findings: tuple[Finding, ...]
    hazards: tuple[Answer, ...]
    shared: Mapping[str, str]
    methods: tuple[Mapping[str, str], ...]
    records: tuple[Record, ...]
    signature: str

    @property
    def sound(self) -> bool:
        """True when there is no finding (notes do not count)."""
        return not any(finding.level == "finding" for finding in self.findings)


def find(
    level: Level, kind: str, hazard: int, text: str, part: pd.DataFrame, **more: object
) -> Finding:
    """A finding about the records of a part of a frame.

    text: `{labels}`, `{datasets}` and `{cells}` stand for those of the part, others for `more`.
    """
    words = {"labels": labels_of(part), "datasets": datasets_of(part), "cells": cells_of(part)}
    return Finding(level, kind, text.format(**words, **more), hazard, part["record"].tolist())


def select(data: pd.DataFrame, test: Callable[..., object], *names: str) -> pd.DataFrame:
    """The rows whose values of the named columns pass a test; it is done once per distinct line.

    They have these columns, and those that `find` reads.
    """
    numbers, first = group(data, names)
    lines = zip(*(values(data, name, first) for name in names), strict=True)
    passing = np.array([bool(test(*line)) for line in lines], bool)
    narrow = data[list(dict.fromkeys(("record", "label", "evaluated", *names)))]
    return narrow[passing[numbers]] if passing.any() else narrow.iloc[:0]


def some(names: Iterable[object], most: int = _LISTED) -> str:
    """Text such as `a, b and 3 more`: names deduplicated, in the order given."""
    return limited(list(dict.fromkeys(map(str, names))), most)


def spread(numbers: Iterable[float | None]) -> str:
    """One number, or the range from minimum to maximum; empty if no number is known."""
    stated = [number for number in numbers if number is not None]
    if not stated:
        return ""
    low, high = f"{min(stated):,.0f}", f"{max(stated):,.0f}"
    return low if low == high else f"{low}–{high}"


def labels_of(part: pd.DataFrame) -> str:
    """Labels of the methods as configured, sorted and deduplicated."""
    return some(sorted(label for (label,) in distinct(part, "label")))


def datasets_of(part: pd.DataFrame) -> str:
    """Data sets of evaluation, sorted and deduplicated."""
    return some(sorted(name for (name,) in distinct(part, "evaluated")))


def cells_of(part: Sequence[object] | pd.DataFrame) -> str:
    """The number of records, as `1 cell` or `5 cells`."""
    return f"{len(part)} cell{'s' if len(part) != 1 else ''}"
