"""Values of records: all are covered by the digest, and wrong types are rejected."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fewshot_bench.api.record import digests_of_text
from fewshot_bench.store.store import Store
from fewshot_bench.store.verify import DAMAGED, verify
from tests.support.helpers import fsbench
from tests.support.store_cases import filled, fit_digests, put


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
        (lambda v: v["metrics"].update(top1="50"), "metrics.top1 '50': expected `int | float`"),
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


# A number of every kind in a record, as it may stand in its text.
NUMBERS = {
    ("split", "train"): 16,
    ("split", "smallest_class"): 1,
    ("split", "group_sizes"): [1, 2, 3],
    ("split", "texts"): {"count": 8, "digest": "0" * 16},
    ("metrics", "of_another_version"): 1.5,
    ("footprint", "trained"): 832,
    ("footprint", "steps"): 50,
    ("footprint", "peak_memory_mb"): 400.5,
    ("footprint", "query_gap"): 1e-6,
    ("footprint", "work"): {"billed": {"images": 20, "flops": 10**12}},
    ("footprint", "selection"): {"configurations": 2, "labels": 10},
    ("timings", "billed_seconds"): 1.5,
    ("timings", "phases"): {"fit": {"billed": {"wall": 0.5, "cpu": 0.25}, "joules": 3.0}},
    ("timings", "images"): {"elapsed": 0.5, "batches": 2, "problem": "slow"},
    ("timings", "card"): {"first": {"sm_mhz": 1980, "power_state": 0}},
    ("environment", "threads"): 2,
    ("environment", "load"): 0.5,
    ("notes", "nested"): {"list": [0.5, {"count": 3}]},
    ("curves", "loss"): {"steps": [1, 5], "values": [0.5, 2]},
}
HUGE = ["1" + "0" * 30, "1" + "0" * 400, "1e308", "1e400", "-1e308", "NaN", "Infinity"]


def numbers_of(values: Any) -> list[tuple[Any, ...]]:
    """Paths to all numbers of nested dicts and lists."""
    leaves = places(values)
    return [path for path in leaves if isinstance(value_at(values, path), int | float)]


def value_at(values: Any, path: tuple[Any, ...]) -> Any:
    for name in path:
        values = values[name]
    return values


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Path, dict[str, Any]]:
    """A store, one of its records, and values of it with all kinds of numbers."""
    store = filled(tmp_path_factory.mktemp("numbers") / "s", [1, 2])
    path = put(store, 2)
    values = json.loads(path.read_text())
    for (field, name), value in NUMBERS.items():
        values[field][name] = value
    fit_digests(values)
    path.write_text(json.dumps(values))
    assert not verify(store).findings
    return store, path, values


@pytest.mark.parametrize("text", HUGE)
def test_a_number_beyond_its_bounds_damages_its_record(
    sound: tuple[Store, Path, dict[str, Any]], text: str
) -> None:
    store, path, whole = sound
    for place in numbers_of({field: whole[field] for field, _ in NUMBERS}):
        values = json.loads(json.dumps(whole))
        value_at(values, place[:-1])[place[-1]] = "here"
        values["digests"].pop("record")
        # The digest covers the text of the number, as another program may write it.
        content = json.dumps(values).replace('"here"', text)
        values["digests"]["record"] = digests_of_text_or_none(content)
        path.write_text(json.dumps(values).replace('"here"', text))
        assert [r.spec.train_seed for r in Store(store.path).records()] == [1], place
        (finding,) = verify(store).findings
        assert (finding.kind, finding.path) == (DAMAGED, path), place


def digests_of_text_or_none(content: str) -> str:
    """The digest of a text; any text for one that is not JSON."""
    try:
        return digests_of_text(content.encode())[1]
    except ValueError:
        return "0" * 64


def test_negative_amounts_damage_their_record(
    sound: tuple[Store, Path, dict[str, Any]],
) -> None:
    store, path, whole = sound
    amounts = ("split", "footprint", "timings", "environment")
    for place in numbers_of({field: whole[field] for field in amounts}):
        values = json.loads(json.dumps(whole))
        value_at(values, place[:-1])[place[-1]] = -5
        fit_digests(values)
        path.write_text(json.dumps(values))
        (finding,) = verify(store).findings
        assert (finding.kind, finding.path) == (DAMAGED, path), place


@pytest.mark.parametrize("name", ["report.html", "table.sqlite"])
def test_the_largest_numbers_of_a_record_end_no_command(
    sound: tuple[Store, Path, dict[str, Any]], tmp_path: Path, name: str
) -> None:
    store, path, whole = sound
    values = json.loads(json.dumps(whole))
    for place in numbers_of({field: whole[field] for field in ("footprint", "timings", "curves")}):
        large = 10**11 if place[0] == "timings" else 10**18 - 100
        if place != ("curves", "loss", "steps", 0):
            value_at(values, place[:-1])[place[-1]] = large
    fit_digests(values)
    path.write_text(json.dumps(values))
    assert not verify(store).findings
    words = ("report", "-O") if name.endswith("html") else ("store", "export")
    done = fsbench(*words, tmp_path / name, "--store", store.path)
    assert (done.code, "Traceback" in done.err) == (0, False), done.err
