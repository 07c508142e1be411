"""Facts of one cell as a tidy row, for CSV and JSON: permissions, actions, environment."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from fewshot_bench.analysis.audit.stated import number, read_kit
from fewshot_bench.analysis.conditions import own_data
from fewshot_bench.api.record import Record, entry, split_digest
from fewshot_bench.api.spec import CONDITIONS

_PUBLISHED = {True: "yes", False: "no", None: "none published"}


def _each(part: str, *names: str) -> dict[str, str]:
    """Facts that are entries of a part of the record under their own names."""
    return {name: f"{part}.{name}" for name in names}


def _count(name: str) -> Callable[[Record], int | None]:
    return lambda record: number(entry(record.footprint, name))


def _kit(name: str) -> Callable[[Record], Any]:
    return lambda record: read_kit(record.environment.get("kit")).get(name)


def _templates(record: Record) -> list[Any]:
    templates = record.split.get("templates")
    return [*templates] if isinstance(templates, list | tuple) else []


def _packages(record: Record) -> dict[str, Any]:
    packages = record.environment.get("packages")
    return dict(packages) if isinstance(packages, dict) else {}


def _incidents(record: Record) -> list[str]:
    return [f"{each.get('kind', '?')}: {each.get('text', '')}" for each in record.incidents]


# By name, in order, an entry of a part of the record, or what is computed of the record.
_FACTS: Mapping[str, str | Callable[[Record], Any]] = {
    "dataset": "spec.evaluated",
    "method": "spec.label",
    **_each("spec", "shots", "split_seed", "train_seed"),
    "status": lambda record: record.status,
    "key": lambda record: record.spec.key(),
    "val_policy": "spec.val",
    "val_labels_allowed": "split.val",
    "train_labels": "split.train",
    "prompts": "spec.prompts",
    "templates": _templates,
    "protocol": "spec.protocol",
    "split_digest": lambda record: split_digest(record.split) or None,
    "split_published": lambda r: _PUBLISHED.get(r.split.get("verified")) if r.split else None,
    "revision": "spec.revision",
    "own_data": lambda record: own_data(record.spec),
    "mirrored": "split.mirrored",
    "test_images": "split.test",
    "schedule": lambda record: record.schedule or None,
    "text_knowledge": "footprint.card.text",
    "test_knowledge": "footprint.card.at_test",
    "official_by_dataset": lambda record: dict(record.card.get("official") or {}),
    "limit": "spec.limit",
    "val_labels_used": _count("selection.labels"),
    "configurations_tried": _count("selection.configurations"),
    "overrides": lambda record: dict(record.spec.overrides),
    "trained_parameters": "footprint.trained",
    **_each("footprint", "trained_source", "metered", "depends_on_queries", "query_gap"),
    "stored_values": "footprint.stored",
    **_each("footprint", "steps", "images_seen", "images_encoded"),
    "images_billed": _count("work.billed.images"),
    "incidents": _incidents,
    "error": lambda record: (record.error or {}).get("type"),
    "backbone": "spec.backbone",
    "weights": lambda record: record.spec.weights or record.environment.get("weights_digest"),
    **_each("spec", "precision", "device"),
    **_each("environment", "device_name", "threads", "determinism"),
    "method_version": "spec.method_version",
    **_each("environment", "method_origin", "labels"),
    **{f"kit_{name}": _kit(name) for name in ("version", "passed", "failed")},
    "kit_declared": _kit("expected"),
    "method_code": lambda record: record.code_digest,
    **_each("environment", "fewshot_bench", "commit", "dirty", "python"),
    "packages": _packages,
    "record_digest": "digests.record",
    **_each("spec", *(name for name, about in CONDITIONS.items() if about.late)),
}


def facts(record: Record) -> dict[str, Any]:
    """One tidy row: what the method could see, what it did, and on which hardware and software."""
    # A copy has read each of its fields once.
    record = copy.copy(record)
    row = {}
    for name, fact in _FACTS.items():
        if callable(fact):
            row[name] = fact(record)
        else:
            part, _, path = fact.partition(".")
            owner = getattr(record, part)
            row[name] = getattr(owner, path) if part == "spec" else entry(owner, path)
    return row
