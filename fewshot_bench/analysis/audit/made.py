"""The audit of records."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from fewshot_bench.analysis.audit.checks import CHECKS
from fewshot_bench.analysis.audit.differing import differences
from fewshot_bench.analysis.audit.facts import facts
from fewshot_bench.analysis.audit.hazards import answers
from fewshot_bench.analysis.audit.model import Audit, Finding, some, spread
from fewshot_bench.analysis.signature import signature_of
from fewshot_bench.api.record import Record

# Facts that usually are the same for all cells, and then stand once.
SHARED = (
    *("protocol", "val_policy", "prompts", "backbone", "precision", "device", "limit", "own_data"),
    *("determinism", "device_name", "threads", "fewshot_bench", "commit", "python"),
)
_PUBLISHED = {"yes": "yes", "no": "no", "none published": "n/a"}


def audit(records: Sequence[Record], notes: Sequence[str] = ()) -> Audit:
    """The audit of these records, taken as one comparison.

    notes: what is to be said of records that are not among them.
    """
    ordered = sorted(records, key=lambda r: (r.spec.evaluated, r.spec.label, *_numbers(r)))
    found = [finding for check in CHECKS for finding in check(ordered)] + [*differences(ordered)]
    found += [Finding("note", "older-versions", text) for text in notes]
    found.sort(key=lambda finding: finding.level)
    cells = tuple(facts(record) for record in ordered)
    return Audit(
        findings=tuple(found),
        hazards=answers(ordered, found),
        shared=_shared(cells),
        methods=tuple(_methods(cells)),
        cells=cells,
        signature=signature_of(ordered),
    )


def _numbers(record: Record) -> tuple[int, int, int]:
    return record.spec.shots, record.spec.split_seed, record.spec.train_seed


def _shared(cells: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Conditions that all cells that tell them have in common."""
    found = {}
    for name in SHARED:
        values = {str(cell[name]) for cell in cells if cell[name] is not None}
        if len(values) == 1:
            found[name] = values.pop()
    return found


def _methods(cells: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """One line per method as configured, and per condition that its cells do not share."""
    groups: defaultdict[tuple[str, ...], list[Mapping[str, Any]]] = defaultdict(list)
    for cell in cells:
        groups[cell["method"], cell["val_policy"], cell["prompts"], cell["protocol"]].append(cell)
    return [_line(key, found) for key, found in sorted(groups.items())]


def _line(key: tuple[str, ...], cells: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    method, val, prompts, protocol = key

    def over(name: str) -> str:
        return spread([cell[name] for cell in cells if isinstance(cell[name], int)])

    published = sorted({_PUBLISHED[c["split_published"]] for c in cells if c["split_published"]})
    return {
        "method": method,
        "version": some(sorted({cell["method_version"] for cell in cells})),
        "kit": some(sorted({mark for cell in cells if (mark := _kit_mark(cell))})),
        "cells": f"{len(cells):,}",
        "val": val,
        "allowed": over("val_labels_allowed"),
        "used": over("val_labels_used"),
        "tried": over("configurations_tried"),
        "prompts": prompts,
        "protocol": protocol,
        "published": some(published),
        "trained": over("trained_parameters"),
        "steps": over("steps"),
        "images encoded": over("images_billed"),
        "incidents": str(sum(bool(cell["incidents"]) for cell in cells)),
        "failed": str(sum(cell["status"] == "failed" for cell in cells)),
    }


def _kit_mark(cell: Mapping[str, Any]) -> str:
    """The version of the kit that was passed, or how many rules are broken."""
    if cell["kit_version"] is None:
        return ""
    return f"{len(cell['kit_failed'])} broken" if cell["kit_failed"] else f"v{cell['kit_version']}"
