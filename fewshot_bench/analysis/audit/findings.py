"""Findings of an audit, answers to hazards, and the wording of lists in them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fewshot_bench.analysis.frame import distinct, group, values
from fewshot_bench.api.record import Record
from fewshot_bench.utils.text import counted, limited

if TYPE_CHECKING:
    import pandas as pd

Level = Literal["finding", "note"]


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
    def cells(self) -> list[str]:
        """Keys of the affected records."""
        return [record.spec.key() for record in self.records]


@dataclass(frozen=True, slots=True)
class Answer:
    """The outcome of one hazard to fairness.

    state: `open` if a finding concerns it, `not shown` if records cannot show the answer.
    """

    number: int
    name: str
    text: str
    state: Literal["ok", "open", "not shown"]


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
    return Finding(level, kind, text.format(**words_of(part), **more), hazard, [*part["record"]])


def words_of(part: pd.DataFrame) -> dict[str, str]:
    """The methods as configured, the data sets of evaluation and the number of some records."""
    return {
        "labels": some(sorted(label for (label,) in distinct(part, "label"))),
        "datasets": some(sorted(name for (name,) in distinct(part, "evaluated"))),
        "cells": counted(len(part), "cell"),
    }


def select(data: pd.DataFrame, test: Callable[..., object], *names: str) -> pd.DataFrame:
    """The rows whose values of the named columns pass a test; it is done once per distinct line.

    They have these columns, and those that `find` reads.
    """
    numbers, first = group(data, names)
    lines = zip(*(values(data, name, first) for name in names), strict=True)
    passing = np.array([bool(test(*line)) for line in lines], bool)
    narrow = data[list(dict.fromkeys(("record", "label", "evaluated", *names)))]
    return narrow[passing[numbers]] if passing.any() else narrow.iloc[:0]


def some(names: Iterable[object], most: int = 6) -> str:
    """Text such as `a, b and 3 more`: names deduplicated, in the order given."""
    return limited(list(dict.fromkeys(map(str, names))), most)


def spread(numbers: Iterable[Any]) -> str:
    """One number, or the range from minimum to maximum; empty if no number is known."""
    stated = [number for number in numbers if number is not None]
    if not stated:
        return ""
    low, high = f"{min(stated):,.0f}", f"{max(stated):,.0f}"
    return low if low == high else f"{low}–{high}"
