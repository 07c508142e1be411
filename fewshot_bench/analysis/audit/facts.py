"""Facts of one cell as a tidy row, for CSV and JSON: permissions, actions, environment."""

from __future__ import annotations

from typing import Any

from fewshot_bench.analysis.audit.stated import PUBLISHED, number, read_kit
from fewshot_bench.analysis.conditions import own_data
from fewshot_bench.api.image_facts import split_digest
from fewshot_bench.api.record import Record, entry
from fewshot_bench.api.spec import CONDITIONS


def facts(record: Record) -> dict[str, Any]:
    """One tidy row: what the method could see, what it did, and on which hardware and software."""
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
        "split_digest": split_digest(record.split) or None,
        "split_published": PUBLISHED.get(split.get("verified")) if split else None,
        "revision": spec.revision,
        "own_data": own_data(spec),
        "mirrored": split.get("mirrored"),
        "test_images": split.get("test"),
        **_of_method(record),
        "limit": spec.limit,
    }


def _of_method(record: Record) -> dict[str, Any]:
    card = record.card
    return {
        "schedule": record.schedule or None,
        "text_knowledge": card.get("text"),
        "test_knowledge": card.get("at_test"),
        "official_by_dataset": dict(card.get("official") or {}),
    }


def _did(record: Record) -> dict[str, Any]:
    foot = record.footprint
    return {
        "val_labels_used": number(entry(foot, "selection.labels")),
        "configurations_tried": number(entry(foot, "selection.configurations")),
        "overrides": dict(record.spec.overrides),
        "trained_parameters": foot.get("trained"),
        "trained_source": foot.get("trained_source"),
        "metered": foot.get("metered"),
        "depends_on_queries": foot.get("depends_on_queries"),
        "query_gap": foot.get("query_gap"),
        "stored_values": foot.get("stored"),
        "steps": foot.get("steps"),
        "images_seen": foot.get("images_seen"),
        "images_encoded": foot.get("images_encoded"),
        "images_billed": number(entry(foot, "work.billed.images")),
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
        "method_code": record.code_digest,
        "fewshot_bench": env.get("fewshot_bench"),
        "commit": env.get("commit"),
        "dirty": env.get("dirty"),
        "python": env.get("python"),
        "packages": dict(packages) if isinstance(packages, dict) else {},
        "record_digest": record.digests.get("record"),
        **{n: getattr(spec, n) for n, about in CONDITIONS.items() if about.late},
    }


def _kit(record: Record) -> dict[str, Any]:
    kit = read_kit(record.environment.get("kit"))
    return {
        "labels": record.environment.get("labels"),
        "kit_version": kit.get("version"),
        "kit_passed": kit.get("passed"),
        "kit_failed": kit.get("failed"),
        "kit_declared": kit.get("expected"),
    }


def _listed(value: object) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []
