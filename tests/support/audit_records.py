"""Records for tests of `fsbench audit`: fair ones, and ones with a single change."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from fewshot_bench.analysis.audit.audit import audit
from fewshot_bench.api.record import Record
from tests.support.compare_records import matrix

ENVIRONMENT = {
    "weights_digest": "ab" * 32,
    "device_name": "card",
    "threads": 1,
    "determinism": "free",
    "fewshot_bench": "0.1.0",
    "commit": "c" * 40,
    "dirty": False,
    "python": "3.11.7",
    "packages": {"torch": "2.6"},
    "load": 0.5,
    "cpus": 2,
}


def complete(record: Record, **parts: Any) -> Record:
    """Fill in a record as the harness writes it, with changes to its parts."""
    split = {"train": 47, "val": 188, "test": 100, "mirrored": True, "templates": ["a {}."]}
    footprint = {"selection": {"configurations": 0, "labels": 0}, "trained_source": "observed"}
    values: dict[str, Any] = {
        "split": {**split, **record.split},
        "footprint": {**footprint, **record.footprint},
        "environment": dict(ENVIRONMENT),
        "digests": {"record": "d"},
    }
    for name, part in parts.items():
        values[name] = (
            part if name in ("incidents", "digests") else {**values.get(name, {}), **part}
        )
    return dataclasses.replace(record, **values)


def fair(methods: tuple[str, ...] = ("coop", "zero-shot"), **parts: Any) -> list[Record]:
    """Complete records of methods on two data sets, with the same changes to all."""
    return [complete(record, **parts) for record in matrix(methods, ("dtd", "pets"), (4,))]


def changed(index: Callable[[Record], bool], **parts: Any) -> list[Record]:
    """Fair records; those that satisfy `index` have changed parts."""
    return [complete(r, **parts) if index(r) else complete(r) for r in matrix(shots=(4,))]


def coop(record: Record) -> bool:
    """True for records of coop."""
    return record.spec.method == "coop"


def respec(**values: Any) -> list[Record]:
    """Fair records; those of coop have a changed specification."""
    return [
        dataclasses.replace(r, spec=dataclasses.replace(r.spec, **values)) if coop(r) else r
        for r in fair()
    ]


def said(records: list[Record], level: str = "finding") -> list[str]:
    """Texts of an audit's findings at one level."""
    return [found.text for found in audit(records).findings if found.level == level]
