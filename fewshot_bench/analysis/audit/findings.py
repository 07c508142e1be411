"""Findings of an audit, answers to hazards, and the wording of lists of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fewshot_bench.api.record import Record

Level = Literal["finding", "note"]
_LISTED = 6


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a reader of the table must know.

    level: a `finding` makes the comparison unfair, incomplete or not repeatable; a `note` is how
    it is. kind: one word for programs. hazard: number in `hazards.HAZARDS`, 0 for none. records:
    those that it is about.
    """

    level: Level
    kind: str
    text: str
    hazard: int = 0
    records: Sequence[Record] = ()

    @property
    def cells(self) -> tuple[str, ...]:
        """The keys of the records that it is about."""
        return tuple(record.spec.key() for record in self.records)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able values."""
        fields = {name: getattr(self, name) for name in ("level", "kind", "text", "hazard")}
        return {**fields, "cells": list(self.cells)}


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of the records to one hazard to fairness. open: there is a finding on it."""

    number: int
    name: str
    text: str
    open: bool


@dataclass(frozen=True, slots=True)
class Audit:
    """Findings first, then the hazards, then what each method did, and the facts of every cell.

    `shared` holds the conditions that all cells have in common, `methods` one line per method with
    what it was allowed and did, `records` those that the facts of cells are of.
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
    """`a, b and 3 more`, in the order given, each once."""
    found = list(dict.fromkeys(map(str, names)))
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(found[:most]) + more


def spread(values: Sequence[float | None]) -> str:
    """One number, or the range from the least to the most; empty when none is known."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    low, high = f"{min(known):,.0f}", f"{max(known):,.0f}"
    return low if low == high else f"{low}–{high}"


Records = Sequence[Record]


def finding_of(
    level: Level, kind: str, text: str, hazard: int = 0, records: Records = ()
) -> Finding:
    """A finding or a note about these records."""
    return Finding(level, kind, text, hazard, records)


def labels_of(records: Records) -> str:
    """Their methods as configured, in order, each once."""
    return some(sorted({record.spec.label for record in records}))


def datasets_of(records: Records) -> str:
    """The data sets that they were evaluated on, in order, each once."""
    return some(sorted({record.spec.evaluated for record in records}))


def cells_of(records: Records) -> str:
    """Their number."""
    return f"{len(records)} cell{'s' if len(records) != 1 else ''}"
