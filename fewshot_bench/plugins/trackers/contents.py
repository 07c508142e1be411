"""`contents`: a record as the parameters, metrics and tags that trackers keep.

All values are finite numbers or printable text of bounded length.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fewshot_bench.analysis.signature import signature_of
from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import per_class
from fewshot_bench.utils.text import printable

LONGEST, LONGEST_NAME = 500, 200
_FOOTPRINT = ("trained", "stored", "backbone", "peak_memory_mb", "images_seen", "images_encoded")


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
    spec = record.spec
    return Contents(
        key=spec.key(),
        name=printable(spec.describe(), LONGEST),
        method=printable(spec.label, LONGEST),
        status=record.status,
        step=_step(record),
        parameters=dict(_parameters(record)),
        metrics={
            printable(name, LONGEST_NAME): float(v) for name, v in _metrics(record) if _is_finite(v)
        },
        tags={name: printable(str(v), LONGEST) for name, v in _tags(record) if v not in (None, "")},
    )


def _step(record: Record) -> int:
    """The shots; if all images were used, the mean size of a class."""
    split = record.split
    classes = split.get("fitted_classes") or split.get("classes") or 1
    return per_class(record.spec.shots, split.get("train") or 0, classes)


def _parameters(record: Record) -> Iterator[tuple[str, int | float | str | bool]]:
    values = record.spec.to_dict()
    options = values.pop("options")
    for name in ("overrides", "data", "weights", "revision", "target_revision"):
        values.pop(name, None)
    for name, value in [*values.items(), *((f"option.{n}", v) for n, v in options.items())]:
        plain = isinstance(value, int | float | bool)
        text = str(value).lower() if value is None else str(value)
        yield printable(name, LONGEST_NAME), value if plain else printable(text, LONGEST)


def _metrics(record: Record) -> Iterator[tuple[str, Any]]:
    yield from record.metrics.items()
    for name in ("billed_seconds", "elapsed_seconds"):
        yield f"time.{name}", record.timings.get(name)
    phases = record.timings.get("phases")
    for phase, costs in phases.items() if isinstance(phases, Mapping) else ():
        billed = costs.get("billed") if isinstance(costs, Mapping) else None
        yield f"time.{phase}_seconds", billed.get("wall") if isinstance(billed, Mapping) else None
    for name in (*_FOOTPRINT, "steps"):
        yield f"footprint.{name}", record.footprint.get(name)
    chosen = record.footprint.get("selection")
    for name, value in chosen.items() if isinstance(chosen, Mapping) else ():
        yield f"selection.{name}", value


def _is_finite(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) <= sys.float_info.max


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
    for number, incident in enumerate(record.incidents, 1):
        yield f"incident_{number}", f"{incident.get('kind')}: {incident.get('text')}"
