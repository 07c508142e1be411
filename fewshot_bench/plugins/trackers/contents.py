"""`contents`: a record as the parameters, metrics and tags that trackers keep.

All values are finite numbers or printable text of bounded length.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fewshot_bench.analysis.signature import signature_of
from fewshot_bench.analysis.table.columns import number
from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import per_class
from fewshot_bench.utils.text import printable

LONGEST, LONGEST_NAME = 500, 200
_FOOTPRINT = (
    *("trained", "stored", "backbone", "peak_memory_mb", "images_seen", "images_encoded"),
    "steps",
)


@dataclass(frozen=True)
class Contents:
    """A cell for a tracker.

    parameters: the run spec, hyper-parameters as `option.NAME`; metrics: finite numbers, with the
    prefix `time.`, `footprint.` or `selection.` if they are no metric of the result; tags: digests,
    versions, the signature, the status, and the error of a failed cell.
    """

    key: str
    name: str
    method: str
    status: str
    step: int
    parameters: Mapping[str, int | float | str | bool]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]


def contents(record: Record) -> Contents:
    """The contents of one record, whatever its status."""
    spec, split = record.spec, record.split
    classes = split.get("fitted_classes") or split.get("classes") or 1
    metrics = {printable(name, LONGEST_NAME): value for name, value in _metrics(record)}
    return Contents(
        key=spec.key(),
        name=printable(spec.describe(), LONGEST),
        method=printable(spec.label, LONGEST),
        status=record.status,
        # If all images were used, the mean size of a class.
        step=per_class(spec.shots, split.get("train") or 0, classes),
        parameters=dict(_parameters(record)),
        metrics={
            name: float(v) for name, value in metrics.items() if (v := number(value)) is not None
        },
        tags={name: printable(str(v), LONGEST) for name, v in _tags(record) if v not in (None, "")},
    )


def _parameters(record: Record) -> Iterator[tuple[str, int | float | str | bool]]:
    values = record.spec.to_dict()
    options = values.pop("options")
    for name in ("overrides", "data", "weights", "revision", "target_revision"):
        values.pop(name, None)
    for name, value in (values | {f"option.{n}": v for n, v in options.items()}).items():
        plain = isinstance(value, int | float | bool)
        text = str(value).lower() if value is None else str(value)
        yield printable(name, LONGEST_NAME), value if plain else printable(text, LONGEST)


def _metrics(record: Record) -> Iterator[tuple[str, Any]]:
    yield from record.metrics.items()
    for name in ("billed_seconds", "elapsed_seconds"):
        yield f"time.{name}", record.timings.get(name)
    for phase, costs in _entries(record.timings.get("phases")).items():
        billed = _entries(_entries(costs).get("billed"))
        yield f"time.{phase}_seconds", billed.get("wall")
    for name in _FOOTPRINT:
        yield f"footprint.{name}", record.footprint.get(name)
    for name, value in _entries(record.footprint.get("selection")).items():
        yield f"selection.{name}", value


def _entries(value: object) -> Mapping[str, Any]:
    """The entries of a mapping; none of anything else."""
    return value if isinstance(value, Mapping) else {}


def _tags(record: Record) -> Iterator[tuple[str, Any]]:
    spec, env, error = record.spec, record.environment, record.error or {}
    yield "status", record.status
    yield "key", spec.key()
    yield "signature", signature_of([record])
    yield "split_digest", record.split.get("digest")
    yield "split_verified", record.split.get("verified")
    yield "revision", spec.revision
    yield "weights", env.get("weights_digest") or spec.weights
    yield "record_digest", record.digests.get("record")
    yield "logits_digest", record.digests.get("logits")
    for name in ("fewshot_bench", "commit", "device_name", "determinism", "method_origin"):
        yield name, env.get(name)
    yield "code_digest", record.code_digest
    yield "error_type", error.get("type")
    yield "error_message", error.get("message")
    for count, incident in enumerate(record.incidents, 1):
        yield f"incident_{count}", f"{incident.get('kind')}: {incident.get('text')}"
