"""Two results of one cell: whether they are the same, and how they and their machines differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fewshot_bench.api.record import Record
from fewshot_bench.store.check import Cell
from fewshot_bench.utils.files import digest_of_arrays

_FACTS = ("device_name", "threads", "fewshot_bench", "commit", "python", "platform")
HERE, THERE = "here", "there"


def same_result(one: Cell, other: Cell) -> bool:
    """Whether both have equal logits, or equal metrics (that both state) of the same queries."""
    if one.record.status != other.record.status:
        return False
    if one.arrays is None or other.arrays is None:
        return one.arrays is other.arrays
    if digest_of_arrays(one.arrays) == digest_of_arrays(other.arrays):
        return True
    return _same_queries(one, other) and same_metrics(one.record, other.record)


def same_metrics(one: Record, other: Record) -> bool:
    """Whether all metrics are equal that both records state."""
    both = set(one.metrics) & set(other.metrics)
    return bool(both) and all(one.metrics[name] == other.metrics[name] for name in both)


def described(mine: Cell, theirs: Cell) -> tuple[str, ...]:
    """Lines for a person: top-1 of both, the largest difference of logits, other conditions."""
    return (
        mine.record.spec.describe(),
        f"top-1 {_top1(mine.record)} {HERE}, {_top1(theirs.record)} {THERE}",
        _distance(mine, theirs),
        *_conditions(mine.record.environment, theirs.record.environment),
    )


def _top1(record: Record) -> str:
    return f"{record.metrics['top1']:.4f} %" if record.status == "done" else record.status


def _distance(mine: Cell, theirs: Cell) -> str:
    if not _same_queries(mine, theirs):
        return "their queries differ, so that logits cannot be compared"
    assert mine.arrays is not None
    assert theirs.arrays is not None
    ours, others = mine.arrays["logits"], theirs.arrays["logits"]
    return f"largest difference of logits {abs(ours.astype('f8') - others).max():.3g}"


def _same_queries(one: Cell, other: Cell) -> bool:
    if one.arrays is None or other.arrays is None:
        return False
    pairs = [(one.arrays[name], other.arrays[name]) for name in ("ids", "labels")]
    same = all(a.shape == b.shape and bool((a == b).all()) for a, b in pairs)
    return same and one.arrays["logits"].shape == other.arrays["logits"].shape


def _conditions(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[str]:
    """Device, threads and versions that are not the same."""
    ours, others = _facts(mine), _facts(theirs)
    for name in sorted(ours.keys() | others.keys()):
        if ours.get(name) != others.get(name):
            yield f"{name}: {ours.get(name)} {HERE}, {others.get(name)} {THERE}"


def _facts(environment: Mapping[str, Any]) -> dict[str, Any]:
    packages = environment.get("packages")
    found = {name: environment.get(name) for name in _FACTS}
    code = environment.get("code")
    found["code of the method"] = code.get("digest") if isinstance(code, Mapping) else None
    return found | (dict(packages) if isinstance(packages, Mapping) else {})
