"""Stores made by `benchmarks.records_scale` match those of real runs."""

from __future__ import annotations

from pathlib import Path

from benchmarks.records_scale import asked, fill, request
from fewshot_bench.runner.request import expand
from fewshot_bench.store.store import Store


def test_made_records_are_those_of_a_plan(tmp_path: Path) -> None:
    each = len(expand(request(1, tmp_path / "s")).cells)
    made = asked(each, tmp_path / "s")
    assert fill(made) == each
    store = Store(tmp_path / "s")
    held = [record for _, record in store.held(expand(made).cells) if record is not None]
    assert len(held) == each
    assert not store.damaged
    assert {record.status for record in held} == {"done"}
    assert list(store.records()) == sorted(held, key=lambda record: record.spec.key())
