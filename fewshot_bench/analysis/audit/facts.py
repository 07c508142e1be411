"""The facts of one cell that an audit is about."""

from __future__ import annotations

from typing import Any

from fewshot_bench.analysis.audit.apart import kit
from fewshot_bench.analysis.conditions import digest, own_data
from fewshot_bench.api.record import Record, code_digest
from fewshot_bench.api.spec import CONDITIONS

PUBLISHED = {True: "yes", False: "no", None: "none published"}


def facts(record: Record) -> dict[str, Any]:
    """One tidy row: what the method was allowed to see, what it did, where and with what."""
    return {**_cell(record), **_allowed(record), **_did(record), **_where(record)}


def _cell(record: Record) -> dict[str, Any]:
    spec = record.spec
    return {
        "dataset": spec.evaluated,
        "method": spec.label,
        "shots": spec.shots,
        "split_seed": spec.split_seed,
        "train_seed": spec.train_seed,
        "status": record.status,
        "key": spec.key(),
    }


def _allowed(record: Record) -> dict[str, Any]:
    spec, split = record.spec, record.split
    return {
        "val_policy": spec.val,
        "val_labels_allowed": split.get("val"),
        "train_labels": split.get("train"),
        "prompts": spec.prompts,
        "templates": _listed(split.get("templates")),
        "protocol": spec.protocol,
        "split_digest": digest(record) or None,
        "split_published": PUBLISHED.get(split.get("verified")) if split else None,
        "revision": spec.revision,
        "own_data": own_data(spec),
        "mirrored": split.get("mirrored"),
        "test_images": split.get("test"),
        "limit": spec.limit,
    }


def _did(record: Record) -> dict[str, Any]:
    foot, chosen = record.footprint, selection(record)
    return {
        "val_labels_used": chosen["labels"],
        "configurations_tried": chosen["configurations"],
        "overrides": dict(record.spec.overrides),
        "trained_parameters": foot.get("trained"),
        "trained_source": foot.get("trained_source"),
        "stored_values": foot.get("stored"),
        "steps": foot.get("steps"),
        "images_seen": foot.get("images_seen"),
        "images_encoded": foot.get("images_encoded"),
        "images_billed": images_billed(record),
        "incidents": [f"{i.get('kind', '?')}: {i.get('text', '')}" for i in record.incidents],
        "error": (record.error or {}).get("type"),
    }


def _where(record: Record) -> dict[str, Any]:
    spec, env = record.spec, record.environment
    packages = env.get("packages")
    return {
        "backbone": spec.backbone,
        "weights": spec.weights or env.get("weights_digest"),
        "precision": spec.precision,
        "device": spec.device,
        "device_name": env.get("device_name"),
        "threads": env.get("threads"),
        "determinism": env.get("determinism"),
        "method_version": spec.method_version,
        "method_origin": env.get("method_origin"),
        **_kit(record),
        "method_code": code_digest(record),
        "fewshot_bench": env.get("fewshot_bench"),
        "commit": env.get("commit"),
        "dirty": env.get("dirty"),
        "python": env.get("python"),
        "packages": dict(packages) if isinstance(packages, dict) else {},
        "record_digest": record.digests.get("record"),
        **{n: getattr(spec, n) for n, about in CONDITIONS.items() if about.late},
    }


def _kit(record: Record) -> dict[str, Any]:
    found = kit(record) or {}
    return {
        "labels": record.environment.get("labels"),
        "kit_version": found.get("version"),
        "kit_passed": found.get("passed"),
        "kit_failed": found.get("failed"),
    }


def _listed(value: object) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


def selection(record: Record) -> dict[str, int | None]:
    """Configurations that were compared, and validation labels that they were compared on."""
    found = record.footprint.get("selection")
    found = found if isinstance(found, dict) else {}
    return {name: number(found.get(name)) for name in ("configurations", "labels")}


def images_billed(record: Record) -> int | None:
    """Images through the encoder, as pixels or as features, the evaluated ones among them.

    `images_seen` counts pixels alone, so that it is 0 for a method that trains on features.
    """
    work = record.footprint.get("work")
    billed = work.get("billed") if isinstance(work, dict) else None
    return number(billed.get("images")) if isinstance(billed, dict) else None


def number(value: object) -> int | None:
    """A whole number from a record; None for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None
