"""`--keep-logits`: numbers are equal whatever is kept; commands that lack logits report it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fewshot_bench as fb
from fewshot_bench.api.record import Record
from fewshot_bench.store.answer_files import ASKED, KEPT
from fewshot_bench.store.store import Store
from fewshot_bench.store.verify import verify
from tests.support.answers import put_answers
from tests.support.helpers import fsbench
from tests.support.report_pages import without_figures
from tests.support.synthetic_store import fill

BASELINE = ("--baseline", "tip-adapter")
RUN = ("run", "-m", "zero-shot", "-d", "digits", "--shots", 1, "--seeds", 1, "--limit", 20)
MARGIN = """
import numpy as np
from fewshot_bench import Metric, hookimpl

def margins(logits):
    best = np.sort(logits, axis=1)
    return (best[:, -1] - best[:, -2]).astype(float)

MARGIN = Metric("margin", "margin", lambda logits: margins(logits).mean(), unit="", scores=margins)
def hits2(ranks):
    return ranks <= 2

TOP2 = Metric("top2", "top-2", lambda ranks: 100 * hits2(ranks).mean(), scores=hits2)

@hookimpl
def register_metrics(register):
    register("margin", "{module}:MARGIN")
    register("top2", "{module}:TOP2")
"""


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Store]:
    """The same cells with each part of their logits kept."""
    root = tmp_path_factory.mktemp("kept")
    ways: dict[str, Any] = {kept: partial(put_answers, keep=kept) for kept in KEPT}
    return {
        kept: fill(root / kept / "s", 2, 3, (1, 4), (1, 2), 60, 7, failed=1, put=put)
        for kept, put in ways.items()
    }


@pytest.mark.parametrize(
    "words",
    [
        ("compare",),
        ("compare", "--baseline", "tip-adapter", "--metric", "nll", "--format", "json"),
        ("compare", "--metric", "ece", "--columns", "brier,macro_f1", "--format", "csv"),
        ("compare", "--per-class", "--format", "csv"),
        ("audit",),
    ],
)
def test_the_same_is_printed(stores: dict[str, Store], words: tuple[str, ...]) -> None:
    said = {}
    for kept, store in stores.items():
        done = fsbench(*words, "--store", store.path)
        said[kept] = re.sub(re.escape(str(store.path)), "STORE", f"{done.code}\n{done.out}")
    assert len(set(said.values())) == 1, said


def test_the_same_report_and_predictions(stores: dict[str, Store], tmp_path: Path) -> None:
    pages, tables = set(), set()
    for kept, store in stores.items():
        page, table = tmp_path / f"{kept}.html", tmp_path / f"{kept}.csv"
        with without_figures():
            assert fsbench("report", "--store", store.path, "--output", page).code == 0
        pages.add(page.read_text().replace(str(store.path), "STORE"))
        assert fsbench("compare", "--store", store.path, "--predictions", table).code == 0
        tables.add(table.read_text())
    assert (len(pages), len(tables)) == (1, 1)


def test_every_store_is_sound_and_they_merge(stores: dict[str, Store], tmp_path: Path) -> None:
    for store in stores.values():
        assert verify(store).findings == []
    words = ("store", "merge", *(store.path for store in stores.values()), "--store", tmp_path)
    assert fsbench(*words).code == 0
    merged = Store(tmp_path)
    assert verify(merged).findings == []
    assert {r.environment.get(ASKED) for r in merged.records() if r.status == "done"} == {"all"}
    again = tmp_path / "mixed"
    parts = [fsbench("store", "merge", stores[kept].path, "--store", again) for kept in stores]
    assert [part.code for part in parts] == [0] * 3


def test_metrics_of_plug_ins(stores: dict[str, Store], install: Callable[[str, str], None]) -> None:
    install("margin", MARGIN)
    found = {}
    for kept, store in stores.items():
        done = fsbench("compare", "--store", store.path, "--metric", "top2", *BASELINE)
        assert (done.code, done.err) == (0, "")
        found[kept] = done.out
    assert len(set(found.values())) == 1
    for kept, store in stores.items():
        done = fsbench("compare", "--store", store.path, "--metric", "margin", *BASELINE)
        assert done.code == 0
        lacks = "margin is computed from all logits, which 23 of 23 records do not have"
        step = "--keep-logits all --force"
        assert (lacks in done.err and step in done.err) == (kept in ("top", "none"))
    left = fsbench("compare", "--store", stores["none"].path, "--columns", "margin,nll")
    assert left.code == 0


def test_a_metric_of_some_seeds_is_tested_over_these(
    tmp_path: Path, install: Callable[[str, str], None]
) -> None:
    """The difference has no more seeds than the test, and no note says so."""

    def put(store: Store, record: Record, *arrays: Any) -> Record:
        return put_answers(store, record, *arrays, "none" if record.spec.train_seed == 3 else "all")

    store = fill(tmp_path / "s", 1, 2, (4,), (1, 2, 3), 60, 5, put=put)
    install("margin", MARGIN)
    words = ("compare", "--store", store.path, "--baseline", "linear-probe", "--format", "json")
    document = json.loads(fsbench(*words, "--metric", "margin").out)
    (row,) = [r for r in document["rows"] if r["delta_n"] and r["dataset"] == "caltech101"]
    assert (row["delta_n"], row["test_seeds"]) == (2, 2)
    assert not any("fewer seeds than the differences" in n for n in document["meta"]["notes"])


def test_predictions_in_python(stores: dict[str, Store]) -> None:
    frames = []
    for kept, store in stores.items():
        results = fb.load(store.path)
        record = next(one for one in results if one.status == "done")
        found = results.predictions(record)
        frames.append(found.to_frame())
        assert (found.correct == (found.ranks == 1)).all()
        assert np.exp(-record.metrics["nll"]) == pytest.approx(
            float(np.exp(np.log(found.label_probabilities).mean())), rel=1e-5
        )
        if kept in ("top", "none"):
            with pytest.raises(fb.FsbenchError, match=r"not kept .*--keep-logits all --force"):
                _ = found.logits
        else:
            assert (found.probabilities.argmax(axis=1) == found.predicted).all()
        if kept == "none":
            with pytest.raises(fb.FsbenchError, match="--keep-logits top"):
                _ = found.top
        else:
            classes, probabilities = found.top
            assert classes.shape == probabilities.shape == (60, 5)
            assert (classes[:, 0] == found.predicted).all()
            np.testing.assert_allclose(probabilities[:, 0], found.confidences, rtol=1e-6)
    assert all(frame.equals(frames[0]) for frame in frames)


def test_a_run_keeps_what_was_asked_for(tmp_path: Path) -> None:
    store, config = Store(tmp_path / "s"), tmp_path / "c.yaml"
    saved = fsbench(*RUN, "--keep-logits", "none", "--dry-run", "--save-config", config)
    assert saved.code == 0
    assert fsbench("run", "--config", config, "--store", store.path).code == 0
    (before,) = store.records()
    assert before.environment[ASKED] == "none"
    assert verify(store).findings == []
    again = fsbench(*RUN, "--store", store.path, "--keep-logits", "all")
    assert "1 done already, 0 to run" in again.out
    repeated = fsbench("rerun", before.spec.key(), "--store", store.path)
    assert repeated.out.splitlines()[-1] == "same result, bit for bit"
    asked: dict[str, Any] = {"shots": 1, "seeds": 1, "limit": 20, "progress": False}
    results = fb.run(
        "zero-shot", "digits", **asked, store=store.path, keep_logits="top", force=True
    )
    (after,) = results
    assert after.environment[ASKED] == "top"
    assert (after.metrics, after.spec) == (before.metrics, before.spec)
    assert after.logits_digest == before.logits_digest
    assert results.predictions(after).top[0].shape == (20, 5)


def test_an_unknown_word_is_refused() -> None:
    done = fsbench(*RUN, "--keep-logits", "some")
    assert (done.code, "'all', 'top', 'none'" in done.err) == (2, True)
    with pytest.raises(fb.UsageError, match="keep_logits"):
        fb.run("zero-shot", "digits", keep_logits="some")
