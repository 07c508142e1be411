"""What records state of methods that see other queries, and use them otherwise than declared."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fewshot_bench as fb
from fewshot_bench.api.record import Record
from fewshot_bench.api.violations import (
    DEPENDENT,
    LEAK,
    LOOKS_AHEAD,
    NEEDS_MANY,
    POSITION,
    STATE_KEPT,
    UNSTEADY,
)
from fewshot_bench.runner.verification import ASKED, MOST, Groups, Witness

FILE = str(Path(__file__).parents[1] / "support" / "plugin_undeclared.py")
BATCHES = {
    "honest": [],
    "unused": [],
    "position": [POSITION],
    "leak": [LEAK],
    "noisy": [UNSTEADY],
    "needs-many": [NEEDS_MANY],
}
STREAMS = {
    "honest": [],
    "ahead": [LOOKS_AHEAD],
    "kept": [STATE_KEPT],
    "full": [STATE_KEPT],
    "last": [STATE_KEPT],
    "noisy": [UNSTEADY],
}
ONE: dict[str, Any] = {"shots": 1, "seeds": 1, "progress": False, "engine": "here", "limit": 100}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("company")


def run(
    store: Path, name: str, queries: str, tricks: Mapping[str, Any], engine: str = "here"
) -> dict[str, Record]:
    asked = ONE | {"queries": queries, "options": {"how": list(tricks)}, "engine": engine}
    done = fb.run(f"{FILE}:{name}", "digits", store=store, **asked)
    return {str(record.spec.options["how"]): record for record in done}


@pytest.mark.parametrize("queries", ["batch-64", "batch-64-k2-10"])
def test_each_misuse_of_a_batch_is_named(store: Path, queries: str) -> None:
    records = run(store, "Batched", queries, BATCHES)
    assert {how: one.footprint["violations"] for how, one in records.items()} == BATCHES
    depends = {how: record.footprint["depends_on_queries"] for how, record in records.items()}
    assert depends == {how: how != "unused" for how in BATCHES}
    assert records["unused"].footprint["moved"] == 0
    assert 0 < records["honest"].footprint["moved"] <= 1


def test_the_process_of_the_labels_finds_the_same(store: Path, tmp_path: Path) -> None:
    judged = ("depends_on_queries", "moved", "violations")
    stores = {"here": store, "local": tmp_path}
    found = [run(stores[how], "Batched", "batch-64", BATCHES, how) for how in stores]
    one, other = ({how: r.footprint for how, r in records.items()} for records in found)
    # Noise is drawn anew.
    for how in set(BATCHES) - {"noisy"}:
        # Sums over queries are rounded in their secret order.
        assert other[how]["query_gap"] == pytest.approx(one[how]["query_gap"], rel=1e-4)
        assert [one[how][fact] for fact in judged] == [other[how][fact] for fact in judged]


def test_all_queries_are_one_batch_that_leaks_into_no_other(store: Path) -> None:
    records = run(store, "Batched", "all", BATCHES)
    expected = BATCHES | {"leak": [STATE_KEPT]}
    assert {how: one.footprint["violations"] for how, one in records.items()} == expected


def test_a_stream_that_looks_ahead_is_named(store: Path) -> None:
    records = run(store, "Streamed", "stream", STREAMS)
    assert {how: one.footprint["violations"] for how, one in records.items()} == STREAMS
    assert records["honest"].footprint["depends_on_queries"] is True


def test_methods_that_answer_each_query_by_itself_are_verified(store: Path) -> None:
    """The cheap ones; `python -m benchmarks.company` runs all."""
    methods = ["zero-shot", "tip-adapter", "gda", "proker", "clip-lora"]
    asked = ONE | {"options": {"clip-lora.iterations": 1}}
    records = fb.run(methods, "digits", store=store / "alone", **asked)
    names = ("depends_on_queries", "violations", "moved", "encoded_per_query", "test_steps")
    stated = {record.spec.method: [*map(record.footprint.get, names)] for record in records}
    assert stated == {method: [False, [], 0, 1, 0] for method in methods}


@pytest.mark.parametrize("found", [(), (POSITION,), (LEAK,)])
def test_of_large_batches_a_part_is_asked_for(found: tuple[str, ...]) -> None:
    rows = np.random.default_rng(0).standard_normal((700, 5))
    asked: list[int] = []

    def ask(groups: Groups, anew: bool = False) -> np.ndarray:
        asked.extend(map(len, groups))
        before = np.cumsum([0, *map(len, groups)])[:-1]
        batches = [rows[list(group)] - rows[list(group)].mean(0) for group in groups]
        for batch, seen in zip(batches, before, strict=True):
            batch[:, 0] += np.arange(len(batch)) if POSITION in found else 0
            batch[:, 0] += seen if LEAK in found else 0
        return np.concatenate(batches)

    groups = [range(300), range(300, 700)]
    answers = ask(groups)
    asked.clear()
    witness = Witness(ask, answers, range(700), "fp32", ASKED)
    witness.ask("batch", groups)
    assert witness.facts["violations"] == [*found]
    assert max(asked) == MOST


CENTERED = """
from dataclasses import dataclass
import fewshot_bench.api.metrics as metrics
import fewshot_bench.runner.evaluate as evaluate
import fewshot_bench.runner.verdict as verdict
import fewshot_bench.runner.verification as verification

NOTHING = {"depends_on_queries": False, "query_gap": 0.0, "moved": 0.0, "violations": []}


@dataclass(frozen=True)
class Nearest:
    weights: object

    def logits(self, queries):
        features = queries.features
        return 100 * (features - features.mean(0)) @ self.weights.T

    def tensors(self):
        return {"weights": self.weights}


@dataclass(frozen=True)
class Centered:
    how: str = ""

    def fit(self, task, backbone, ctx):
        exec(self.how)
        return Nearest(backbone.class_features(task))
"""
# With whether the verdict is still found, after all that stand before; else it is unknown.
EXCUSES = {
    "metrics.TOLERANCE.update(dict.fromkeys(metrics.TOLERANCE, 1e9))": True,
    "verdict.TOLERANCE = verification.TOLERANCE = dict.fromkeys(metrics.TOLERANCE, 1e9)": True,
    "verdict.gap = verification.gap = metrics.gap = lambda *_: 0.0": True,
    "verdict.judge = verification.judge = lambda *_: NOTHING": True,
    "verification.Witness.facts = NOTHING": True,
    "verification.Witness._differ = lambda *_: False": True,
    "evaluate.UNKNOWN = NOTHING, ()": True,
    "verdict.ASKED = 0; verification.count_asked = lambda _: 0": False,
    "evaluate.verify = lambda *_: (NOTHING, ())": False,
}


def test_no_method_decides_in_its_process_whether_it_is_independent(tmp_path: Path) -> None:
    file = tmp_path / "centered.py"
    file.write_text(CENTERED)
    asked = ONE | {"engine": "local", "options": {"how": ["", *EXCUSES]}, "jobs": 1}
    done = fb.run(f"{file}:Centered", "digits", store=tmp_path / "store", **asked)
    stored = {record.spec.options["how"]: record.footprint for record in done}
    depends = {how: facts["depends_on_queries"] for how, facts in stored.items()}
    assert depends == {"": True} | {how: found or None for how, found in EXCUSES.items()}
    named = {how for how, facts in stored.items() if DEPENDENT in facts["violations"]}
    assert named >= {how for how, found in depends.items() if found}
    assert len({facts["query_gap"] for facts in stored.values()} - {None}) == 1
