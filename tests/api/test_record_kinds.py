"""Values of records: all are covered by the digest, and wrong types are rejected."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fewshot_bench.store.store import Store
from fewshot_bench.store.verify import DAMAGED, verify
from tests.store_cases import filled, fit_digests, put


def test_whatever_stands_in_a_record_is_under_its_digest(tmp_path: Path) -> None:
    store = filled(tmp_path / "s", [1])
    (path,) = store.root.rglob("*.json")
    whole = json.loads(path.read_text())
    for place in places(whole):
        values = json.loads(json.dumps(whole))
        inner = values
        for name in place[:-1]:
            inner = inner[name]
        inner[place[-1]] = changed(inner[place[-1]])
        path.write_text(json.dumps(values))
        again = Store(store.path)
        assert list(again.records()) == [], place
        assert [damage.path for damage in again.damaged] == [path]


def places(values: Any) -> list[tuple[Any, ...]]:
    """Paths to all leaves of nested dicts and lists."""
    pairs = values.items() if isinstance(values, dict) else enumerate(values)
    found = []
    for name, value in pairs:
        inner = places(value) if isinstance(value, dict | list) and value else [()]
        found += [(name, *rest) for rest in inner]
    return found


def changed(value: object) -> object:
    if isinstance(value, bool) or value is None:
        return "changed"
    if isinstance(value, int | float):
        return value + 1
    return f"{value}x" if isinstance(value, str) else ["changed"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda v: v["split"].update(classnames=[["a"], {"b": 1}]), "split.classnames[0] ['a']"),
        (
            lambda v: v["split"].update(classnames="ab"),
            "split.classnames 'ab': expected `array`",
        ),
        (lambda v: v["split"].update(templates=[1]), "split.templates[0] 1: expected `str`"),
        (lambda v: v["split"].update(test="7"), "split.test '7': expected `int`"),
        (lambda v: v["split"].update(train=-1), "split.train -1: expected `int` >= 0"),
        (lambda v: v["metrics"].update(top1="50"), "metrics.top1 '50': expected `float`"),
        (lambda v: v["metrics"].update(ece=None), "metrics.ece None"),
        (lambda v: v["timings"].update(billed_seconds=-5), "billed_seconds -5"),
        (lambda v: v["footprint"].update(trained="many"), "footprint.trained 'many'"),
        (lambda v: v.update(incidents=[{"kind": 1, "text": "x"}]), "incidents[0].kind 1"),
        (lambda v: v["digests"].update(logits=[]), "digests.logits []"),
    ],
)
def test_values_of_another_kind_are_refused_by_all_readers(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    """This holds even if the digest matches the values."""
    store = filled(tmp_path / "s", [1, 2])
    path = put(store, 2)
    values = json.loads(path.read_text())
    values["footprint"] = {}
    change(values)
    fit_digests(values)
    path.write_text(json.dumps(values))
    assert len(list(store.records())) == 1
    assert said in store.damaged[0].reason
    (finding,) = verify(store).findings
    assert (finding.kind, finding.path) == (DAMAGED, path)
    assert said in finding.text
