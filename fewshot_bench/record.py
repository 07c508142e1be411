"""The result of one cell: everything that is needed to use the number, and to doubt it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Literal

from fewshot_bench.errors import StoreError
from fewshot_bench.spec import RunSpec

SCHEMA = 1
Status = Literal["done", "failed", "inapplicable"]
STATUSES = ("done", "failed", "inapplicable")
KEYS = ("schema", "spec", "split", "status", "metrics", "footprint", "timings", "environment")


@dataclasses.dataclass(frozen=True)
class Record:
    """One cell's outcome.

    split: `digest`, `protocol`, `train`, `val`, `test` (counts), `verified` (published picks).
    metrics: `top1`, `macro_accuracy` in percent, `nll`, `n`; empty when the cell failed.
    footprint: `trained`, `trained_source` (observed or declared), `stored`, `backbone`
        (parameters), `peak_memory_mb`, `images_seen`, `steps`, and `selection`
        (configurations, labels).
    timings: per phase `wall` and `cpu` seconds, `billed_seconds`, `elapsed_seconds`.
    error: `type`, `message`, `traceback` of a failed cell, else None; `message` is the reason why
        a cell is inapplicable (a method that cannot predict classes it was not fitted on).
    """

    spec: RunSpec
    status: Status
    split: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    metrics: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    footprint: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    timings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    environment: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    notes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    error: Mapping[str, Any] | None = None
    schema: int = SCHEMA

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able values; the top-level keys are fixed."""
        return {
            "schema": self.schema,
            "spec": self.spec.to_dict(),
            "split": dict(self.split),
            "status": self.status,
            "metrics": dict(self.metrics),
            "footprint": dict(self.footprint),
            "timings": dict(self.timings),
            "environment": dict(self.environment),
            "notes": dict(self.notes),
            "error": dict(self.error) if self.error is not None else None,
        }

    def to_json(self) -> str:
        """Indented JSON; not-a-number values are an error, never written."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_dict(cls, values: Any) -> Record:
        """The inverse of `to_dict`; StoreError when a key or a type is not as expected."""
        if not isinstance(values, dict):
            raise StoreError(f"record is a {type(values).__name__}, expected an object")
        missing = [key for key in KEYS if key not in values]
        if missing:
            raise StoreError(f"record lacks {missing}")
        if values["schema"] != SCHEMA:
            raise StoreError(
                f"record has schema {values['schema']!r}, this version reads {SCHEMA}; "
                "upgrade fewshot_bench"
            )
        if values["status"] not in STATUSES:
            known = ", ".join(STATUSES)
            raise StoreError(f"record has status {values['status']!r}, expected one of {known}")
        for key in KEYS[1:3] + KEYS[4:]:
            if not isinstance(values[key], dict):
                raise StoreError(f"record's {key} is not an object")
        return cls(
            spec=RunSpec.from_dict(values["spec"]),
            status=values["status"],
            split=values["split"],
            metrics=values["metrics"],
            footprint=values["footprint"],
            timings=values["timings"],
            environment=values["environment"],
            notes=values.get("notes") or {},
            error=values.get("error"),
        )
