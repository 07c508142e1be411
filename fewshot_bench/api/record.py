"""The result of one cell: everything that is needed to use the number, and to doubt it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from fewshot_bench.api.record_kinds import kind_problems
from fewshot_bench.api.spec import RunSpec, canonical_json
from fewshot_bench.utils.errors import StoreError

SCHEMA = 2
Status = Literal["done", "failed", "inapplicable"]
STATUSES = ("done", "failed", "inapplicable")
OBJECTS = ("spec", "split", "metrics", "footprint", "timings", "environment", "digests")
KEYS = ("schema", "status", *OBJECTS, "incidents")


@dataclasses.dataclass(frozen=True)
class Record:
    """One cell's outcome.

    split: `digest`, `protocol`, `train`, `val`, `test` (counts), `verified` (published picks),
        `classnames` (of the columns of the logits; old records have none).
    metrics: those of `quality.metrics`, to six digits; empty when the cell failed, and only
        `top1`, `macro_accuracy`, `nll` and `n` in records that are older than the others.
    footprint: `trained`, `trained_source` (observed or declared), `stored`, `backbone`
        (parameters), `peak_memory_mb`, `images_seen`, `steps`, and `selection`
        (configurations, labels).
    timings: per phase `wall` and `cpu` seconds, `billed_seconds`, `elapsed_seconds`.
    error: `type`, `message`, `traceback` of a failed cell, else None; `message` is the reason why
        a cell is inapplicable (a method that cannot predict classes it was not fitted on);
        `transient` where the machine failed and not the cell, which the next run tries again.
    incidents: what the harness had to do or to undo on the way, as {`kind`, `text`}: a retry, less
        memory than asked for, a plug-in that left a thread behind.
    digests: `logits`, the SHA-256 of the arrays that are stored beside the record, and `record`,
        that of all values of the record itself.
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
    incidents: Sequence[Mapping[str, str]] = ()
    digests: Mapping[str, str] = dataclasses.field(default_factory=dict)
    schema: int = SCHEMA

    @property
    def logits_digest(self) -> str:
        """That of the arrays beside the record; empty where it has none, or is of schema 1."""
        return str(self.digests.get("logits") or "")

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
            "incidents": [dict(incident) for incident in self.incidents],
            "digests": dict(self.digests),
        }

    def to_json(self) -> str:
        """Indented JSON; not-a-number values are an error, never written."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_dict(cls, values: Any) -> Record:
        """The inverse of `to_dict`; StoreError when a key or a type is not as expected."""
        if not isinstance(values, dict):
            raise StoreError(f"record is a {type(values).__name__}, expected an object")
        values = migrated(values)
        missing = [key for key in KEYS if key not in values]
        if missing:
            raise StoreError(f"record lacks {missing}")
        if values["status"] not in STATUSES:
            known = ", ".join(STATUSES)
            raise StoreError(f"record has status {values['status']!r}, expected one of {known}")
        for key in OBJECTS:
            if not isinstance(values[key], dict):
                raise StoreError(f"record's {key} is not an object")
        incidents = values["incidents"]
        if not isinstance(incidents, list) or not all(isinstance(i, dict) for i in incidents):
            raise StoreError("record's incidents are not a list of objects")
        for key in ("notes", "error"):
            if not isinstance(values.get(key), dict | None):
                raise StoreError(f"record's {key} is neither an object nor null")
        if not isinstance(values["split"].get("verified"), bool | None):
            raise StoreError("record's split.verified is neither true, false nor null")
        for problem in kind_problems(values):
            raise StoreError(problem)
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
            incidents=tuple(values["incidents"]),
            digests=values["digests"],
        )


def code_digest(record: Record) -> str | None:
    """The digest of the method's code that computed a record; None where it does not say."""
    code = record.environment.get("code")
    digest = code.get("digest") if isinstance(code, Mapping) else None
    return digest if isinstance(digest, str) else None


def sealed(record: Record, logits_digest: str | None) -> Record:
    """The record in the newest schema with its digests; ValueError or TypeError if it is not JSON.

    logits_digest: that of the arrays beside it, if there are any.
    """
    digests = {} if logits_digest is None else {"logits": logits_digest}
    record = dataclasses.replace(record, digests=digests, schema=SCHEMA)
    own = digest_of_values(json.loads(record.to_json()))
    return dataclasses.replace(record, digests={**digests, "record": own})


def unsealed(values: Any) -> Record:
    """The record that the values of a file state; StoreError where they are not those written."""
    record = Record.from_dict(values)
    problem = seal_problem(values)
    if problem:
        raise StoreError(problem)
    return record


def seal_problem(values: Mapping[str, Any]) -> str:
    """What speaks against the digest that the values of a file state of themselves, or nothing.

    Records of schema 1 state none.
    """
    if values["schema"] == 1:
        known = sorted({"digests", "incidents"} & set(values))
        return f"the record has schema 1, which has no {known}, so it was changed" if known else ""
    stated = values["digests"].get("record")
    try:
        actual = digest_of_values(values)
    except ValueError as error:
        return f"the record holds a number that none can have: {error}"
    if stated == actual:
        return ""
    return (
        f"the record states the digest {stated!s:.12} and its values have {actual:.12}, so it was "
        "changed after it was written"
    )


def digest_of_values(values: Mapping[str, Any]) -> str:
    """SHA-256 of a record's values, however they are laid out, without this digest itself."""
    digests = {name: value for name, value in values["digests"].items() if name != "record"}
    return hashlib.sha256(canonical_json({**values, "digests": digests}).encode()).hexdigest()


def migrated(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The values of a record of any schema as those of the newest; StoreError where there is none.

    What an old record cannot say stays empty: a record of schema 1 has no digests.
    """
    schema = values.get("schema")
    if isinstance(schema, bool) or not isinstance(schema, int) or not 1 <= schema <= SCHEMA:
        raise StoreError(
            f"record has schema {schema!r}, this version reads 1 to {SCHEMA}; upgrade fewshot_bench"
        )
    for number in range(schema, SCHEMA):
        values = MIGRATIONS[number](values)
    return values


def _from_1(values: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**values, "schema": 2, "incidents": [], "digests": {}}


# Schema number to the step that leads to the next one.
MIGRATIONS: Mapping[int, Callable[[Mapping[str, Any]], Mapping[str, Any]]] = {1: _from_1}
