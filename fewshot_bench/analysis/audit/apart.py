"""Facts in records on access to test labels, and the kit's verdict on a method's code."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fewshot_bench.analysis.audit.findings import (
    Finding,
    Records,
    cells_of,
    finding_of,
    labels_of,
    some,
)
from fewshot_bench.api.record import Record

HAZARD = 1
# Where metrics were computed in a process without plug-in code, `environment["labels"]` says this.
SEPARATE = "separate"
# Incidents of a method that replaced code of the harness or its libraries, or outlived its cell.
_REACHING = ("functions", "threads")


def kit(record: Record) -> Mapping[str, Any] | None:
    """The result of the conformance kit for the code of a cell; None where it was not checked."""
    found = record.environment.get("kit")
    if not isinstance(found, Mapping):
        return None
    version, passed, failed = (found.get(name) for name in ("version", "passed", "failed"))
    whole = all(isinstance(n, int) and not isinstance(n, bool) for n in (version, passed))
    if not whole or not isinstance(failed, list | tuple):
        return None
    return {"version": version, "passed": passed, "failed": [str(name) for name in failed]}


def kit_text(record: Record) -> str:
    """One clause on the code of a cell, after the method's name."""
    found = kit(record)
    if found is None:
        if "kit" not in record.environment:
            return "does not tell whether the conformance kit checked it"
        return "never checked by the conformance kit"
    failed, total = found["failed"], found["passed"] + len(found["failed"])
    which = f"version {found['version']} of the kit in this state of its code"
    if failed:
        return f"breaks {len(failed)} of {total} rules of {which} ({some(failed, 3)})"
    return f"passed {which} ({total} of {total} rules)"


def labels_text(records: Sequence[Record]) -> str:
    """In how many cells the method's process held no test labels, by their records."""
    done = [record for record in records if record.status == "done"]
    apart = [r for r in done if r.environment.get("labels") == SEPARATE]
    if not done:
        return "no result"
    if len(apart) == len(done):
        return f"no test labels in the process of fit and logits: {cells_of(done)}"
    if not apart:
        return (
            f"whether the process of fit and logits held test labels is not told: {cells_of(done)}"
        )
    return (
        f"no test labels in the process of fit and logits: {len(apart)} of {cells_of(done)}; "
        "the others do not say"
    )


def checked(records: Records) -> Iterator[Finding]:
    """Broken rules of the kit are findings; what was passed, or never checked, is a note.

    A cell without a result is no claim about the method, and says nothing here.
    """
    said: defaultdict[str, Counter[str]] = defaultdict(Counter)
    cells: defaultdict[str, list[Record]] = defaultdict(list)
    for record in records:
        if record.status != "done":
            continue
        text = kit_text(record)
        said[record.spec.method][text] += 1
        cells[text].append(record)
    for text, found in sorted(cells.items()):
        parts = [
            _named(method, said[method], text) for method in sorted(said) if said[method][text]
        ]
        broken = any((kit(record) or {}).get("failed") for record in found)
        level, kind = ("finding", "kit-failed") if broken else ("note", "kit")
        yield finding_of(level, kind, f"{some(parts)} {text}", HAZARD, found)  # type: ignore[arg-type]


def _named(method: str, said: Counter[str], text: str) -> str:
    part = f" ({said[text]} of {said.total()} cells)" if len(said) > 1 else ""
    return f"{method}{part}"


def reached(records: Records) -> Iterator[Finding]:
    """Methods that replaced functions or left threads behind while their cells ran."""
    found = [
        record
        for record in records
        if any(incident.get("kind") in _REACHING for incident in record.incidents)
    ]
    if found:
        text = f"replaced functions or left threads, which was undone: {labels_of(found)}"
        yield finding_of("note", "reaching", f"{text} ({cells_of(found)})", HAZARD, found)
