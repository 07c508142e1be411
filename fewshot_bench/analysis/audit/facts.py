"""Facts of one cell for an audit: permissions, actions, environment, and method checks.

`facts` is the entry: one tidy row per record.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from functools import partial
from operator import eq
from typing import Any

from fewshot_bench.analysis.audit.findings import (
    Finding,
    cells_of,
    labels_of,
    some,
)
from fewshot_bench.analysis.audit.kit_rules import by_hazard
from fewshot_bench.analysis.conditions import own_data
from fewshot_bench.analysis.record_columns import RecordColumns
from fewshot_bench.api.image_facts import split_digest
from fewshot_bench.api.method_card import OTHER_QUERIES
from fewshot_bench.api.plugins import OWN
from fewshot_bench.api.record import FUNCTIONS, SEPARATE, THREADS, Record, entry
from fewshot_bench.api.spec import CONDITIONS

HAZARD = 1
# Entries of a footprint: configurations compared, validation labels used for that, and images
# encoded, as pixels or as features, including the evaluated ones (`images_seen` counts pixels
# only, so it is 0 for a method that trains on features).
TRIED, LABELS_USED = "selection.configurations", "selection.labels"
IMAGES_BILLED = "work.billed.images"
# Whether the labels were held apart from the method's code.
HELD = "environment.labels"
# Incidents of methods that replaced code of the harness or its libraries, or left threads behind.
_REACHING = (FUNCTIONS, THREADS)


def read_kit(found: object) -> Mapping[str, Any] | None:
    """The recorded conformance kit result for a cell's code; None if absent or malformed."""
    if not isinstance(found, Mapping):
        return None
    version, passed, failed = (found.get(name) for name in ("version", "passed", "failed"))
    whole = all(isinstance(n, int) and not isinstance(n, bool) for n in (version, passed))
    expected = found.get("expected", {})
    if not whole or not isinstance(failed, list | tuple) or not isinstance(expected, Mapping):
        return None
    names = [str(name) for name in failed]
    return {"version": version, "passed": passed, "failed": names, "expected": dict(expected)}


def kit_text(stated: object, is_stated: bool) -> str:
    """Clause to follow a method's name: the kit result that a cell's record states for its code."""
    found = read_kit(stated)
    if found is None:
        if not is_stated:
            return "does not tell whether the conformance kit checked it"
        return "never checked by the conformance kit"
    failed, expected = found["failed"], found["expected"]
    total = found["passed"] + len(failed) + len(expected)
    which = f"version {found['version']} of the kit in this state of its code"
    said = f"passed {which} ({found['passed']} of {total} rules)"
    if failed:
        said = f"breaks {len(failed)} of {total} rules of {which} ({', '.join(failed)})"
    return said + "".join(f"; breaks {rule} as declared: {why}" for rule, why in expected.items())


def labels_text(columns: RecordColumns) -> str:
    """Sentence on how many cells ran fit and logits in a process without test labels."""
    done = columns.having(partial(eq, "done"), "status")
    held = columns.rows(("status", HELD)).counted()
    apart = sum(count for pair, count in held if pair == ("done", SEPARATE))
    if not done:
        return "no result"
    if apart == len(done):
        return f"no test labels in the process of fit and logits: {cells_of(done)}"
    if not apart:
        return (
            f"whether the process of fit and logits held test labels is not told: {cells_of(done)}"
        )
    return (
        f"no test labels in the process of fit and logits: {apart} of {cells_of(done)}; "
        "the others do not say"
    )


def checked(columns: RecordColumns) -> Iterator[Finding]:
    """Findings for broken rules of the kit, notes for passed and unchecked code.

    A broken rule is filed under the hazard that it concerns, a declared one there, too.

    Only finished cells count: a cell without a result makes no claim about the method.
    """
    said: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for (status, method, text), count in columns.rows(("status", "method", "kit text")).counted():
        if status == "done":
            said[method][text] += count
    for text in sorted(set().union(*said.values())):
        found = columns.having(partial(_is_said, text), "status", "kit text")
        parts = [
            _named(method, said[method], text) for method in sorted(said) if said[method][text]
        ]
        who, kit = some(parts), read_kit(found[0].entry("environment", "kit")) or {}
        if not kit.get("failed"):
            yield Finding("note", "kit", f"{who} {text}", HAZARD, found)
        for hazard, rules in by_hazard(kit.get("failed", ())):
            broken = f"{some(rules, 5)} of version {kit['version']} of the kit"
            yield Finding("finding", "kit-failed", f"{who} breaks {broken}", hazard, found)
        for hazard, rules in by_hazard(kit.get("expected", ())):
            if kit["failed"] or hazard not in (0, HAZARD):
                why = "; ".join(f"{rule} as declared: {kit['expected'][rule]}" for rule in rules)
                yield Finding("note", "kit-declared", f"{who} breaks {why}", hazard, found)


def _is_said(text: str, status: str, stated: str) -> bool:
    return status == "done" and stated == text


def _named(method: str, said: Counter[str], text: str) -> str:
    part = f" ({said[text]} of {said.total()} cells)" if len(said) > 1 else ""
    return f"{method}{part}"


def reached(columns: RecordColumns) -> Iterator[Finding]:
    """Methods that replaced functions or left threads behind while their cells ran."""
    found = [
        record
        for record in columns.having(bool, "incidents")
        if any(incident.get("kind") in _REACHING for incident in record.incidents)
    ]
    if found:
        labels = labels_of(columns.members(found))
        text = f"replaced functions or left threads, which was undone: {labels}"
        yield Finding("note", "reaching", f"{text} ({cells_of(found)})", HAZARD, found)


def dependent(columns: RecordColumns) -> Iterator[Finding]:
    """Methods whose logits for a query depend on other queries: a finding unless declared."""
    for declared in (False, True):
        found = columns.having(
            partial(_depends, declared), "footprint.depends_on_queries", "at test"
        )
        if not found:
            continue
        what = f"logits depend on other queries: {labels_of(found)} ({cells_of(found)})"
        if declared:
            yield Finding("note", "other-queries", f"{what}, as the card says", HAZARD, found)
        else:
            text = f"{what}, which no card says (at_test: '{OTHER_QUERIES}')"
            yield Finding("finding", "other-queries", text, HAZARD, found)


def _depends(declared: bool, depends: object, at_test: str) -> bool:
    return depends is True and (OTHER_QUERIES in at_test) == declared


def is_own_code(stated: object) -> bool:
    """True if a record's `environment.code` is of this project."""
    return isinstance(stated, Mapping) and stated.get("distribution") == OWN


PUBLISHED = {True: "yes", False: "no", None: "none published"}


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
        "split_published": published(record.split),
        "revision": spec.revision,
        "own_data": own_data(spec),
        "mirrored": split.get("mirrored"),
        "test_images": split.get("test"),
        **_of_method(record),
        "limit": spec.limit,
    }


def published(split: Mapping[str, Any]) -> str | None:
    """The `PUBLISHED` word on whether the picks are the published ones; None without a split."""
    return PUBLISHED.get(split.get("verified")) if split else None


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
        "val_labels_used": number(entry(foot, LABELS_USED)),
        "configurations_tried": number(entry(foot, TRIED)),
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
        "images_billed": number(entry(foot, IMAGES_BILLED)),
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
    found = read_kit(record.environment.get("kit")) or {}
    return {
        "labels": record.environment.get("labels"),
        "kit_version": found.get("version"),
        "kit_passed": found.get("passed"),
        "kit_failed": found.get("failed"),
        "kit_declared": found.get("expected"),
    }


def _listed(value: object) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


def number(value: object) -> int | None:
    """The value if it is an int (bool excluded), else None."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None
