"""Findings of an audit, answers to hazards, and the wording of lists of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fewshot_bench.analysis.record_columns import Members
from fewshot_bench.api.record import Record
from fewshot_bench.utils.text import limited

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
    """Result of an audit: findings, hazards, a summary per method, and the audited records.

    `shared` holds the conditions common to all cells, `methods` one line per method with its
    permissions and actions.
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
        return not any(found.level == "finding" for found in self.findings)


def some(names: Iterable[object], most: int = _LISTED) -> str:
    """Text such as `a, b and 3 more`: names deduplicated, in the order given."""
    return limited(list(dict.fromkeys(map(str, names))), most)


def spread(values: Sequence[float | None]) -> str:
    """One number, or the range from minimum to maximum; empty if no value is known."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    low, high = f"{min(known):,.0f}", f"{max(known):,.0f}"
    return low if low == high else f"{low}–{high}"


def labels_of(records: Members) -> str:
    """Labels of the methods as configured, sorted and deduplicated."""
    return some(sorted(records.distinct("label")))


def datasets_of(records: Members) -> str:
    """Data sets of evaluation, sorted and deduplicated."""
    return some(sorted(records.distinct("evaluated")))


def cells_of(records: Sequence[Record]) -> str:
    """The number of records, as `1 cell` or `5 cells`."""
    return f"{len(records)} cell{'s' if len(records) != 1 else ''}"
