"""Findings about records, and how these are named in them."""

from __future__ import annotations

from collections.abc import Sequence

from fewshot_bench.analysis.audit.model import Finding, Level, some
from fewshot_bench.api.record import Record

Records = Sequence[Record]


def finding_of(
    level: Level, kind: str, text: str, hazard: int = 0, records: Records = ()
) -> Finding:
    """A finding or a note about these records."""
    return Finding(level, kind, text, hazard, tuple(record.spec.key() for record in records))


def labels_of(records: Records) -> str:
    """Their methods as configured, in order, each once."""
    return some(sorted({record.spec.label for record in records}))


def datasets_of(records: Records) -> str:
    """The data sets that they were evaluated on, in order, each once."""
    return some(sorted({record.spec.evaluated for record in records}))


def cells_of(records: Records) -> str:
    """Their number."""
    return f"{len(records)} cell{'s' if len(records) != 1 else ''}"
