"""Plug-in code runs without query labels, and metrics come from the stored array."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewshot_bench.api.metrics import rounded
from fewshot_bench.api.record import Record
from fewshot_bench.api.registry import hosting, registry
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.engines import label_process
from fewshot_bench.engines.base import Settings
from fewshot_bench.engines.local import LocalEngine
from fewshot_bench.runner.evaluate import plain_logits
from fewshot_bench.runner.examiner import Examiner
from fewshot_bench.runner.run import run_one
from fewshot_bench.runner.session import Session
from fewshot_bench.store.store import Store
from fewshot_bench.utils.errors import ContractError
from tests.support import helpers
from tests.support.answers import stored_arrays
from tests.support.helpers import cells

MODULE = "fsbench_prying"


@pytest.fixture
def prying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Register the plug-in here and in child processes."""
    folder = tmp_path / "plugin"
    folder.mkdir()
    helpers.install_methods(folder, MODULE, "plugin_prying.py")
    monkeypatch.syspath_prepend(str(folder))
    before = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(folder), before))))
    registry.cache_clear()
    yield
    registry.cache_clear()


def run(store: Path, todo: list[RunSpec]) -> list[Record]:
    """Run cells through worker processes, as `fsbench run` does; records in the order of `todo`."""
    with hosting(), LocalEngine(Store(store), Settings(threads=1)) as engine:
        found = {record.spec.key(): record for record in engine.run(todo, lambda *_: None)}
    return [found[spec.key()] for spec in todo]


def on(folder: Path, *methods: str, options: tuple[str, ...] = (), **more: Any) -> list[RunSpec]:
    """One-shot cells on a folder of photographs."""
    return cells(*methods, datasets=(f"folder:{folder}",), limit=None, options=options, **more)


def done(record: Record) -> Record:
    """Return the record; assert that it is done."""
    assert record.status == "done", record.error
    return record


def test_the_process_of_a_method_holds_no_label_and_no_name_of_a_query(
    prying: None, photos: Path, tmp_path: Path
) -> None:
    report = tmp_path / "found.json"
    (spec,) = on(photos, "prying", options=("how=hunt", f"report={report}"))
    (record,) = run(tmp_path / "store", [spec])
    assert done(record).environment["labels"] == "separate"
    found = json.loads(report.read_text())
    arrays = stored_arrays(Store(tmp_path / "store"), spec.key())
    ids, labels = arrays["ids"].tolist(), arrays["labels"].tolist()
    assert len(ids) == 12
    # Check that the hunt works: it finds the report's own path and a training class.
    assert any(str(report) in text for text in found["texts"])
    assert any("cat" in text for text in found["texts"])
    leaks = [text for text in found["texts"] if any(name in text for name in ids)]
    assert not leaks
    counts = np.bincount(labels)
    telling = [
        numbers
        for numbers in found["numbers"]
        if min(numbers) >= 0
        and max(numbers) < len(counts)
        and np.array_equal(np.bincount(numbers, minlength=2), counts)
    ]
    assert not telling


def test_that_hunt_finds_labels_where_they_are(prying: None, photos: Path, tmp_path: Path) -> None:
    report = tmp_path / "found.json"
    (spec,) = on(photos, "prying", options=("how=hunt", f"report={report}"))
    outcome = run_one(spec, Session())
    assert "labels" not in done(outcome.record).environment
    found = json.loads(report.read_text())
    assert outcome.ids
    assert any(outcome.ids[0] in text for text in found["texts"])


@pytest.mark.parametrize("how", ["code", "subclass"])
def test_metrics_are_those_of_the_stored_array(
    prying: None, photos: Path, tmp_path: Path, how: str
) -> None:
    tampering, zero = on(photos, "prying", "zero-shot", options=(f"how={how}",))
    records = run(tmp_path, [tampering, zero])
    for record in map(done, records):
        expected = rounded(Store(tmp_path).answers(record.spec.key()).answers)
        assert record.metrics == expected
    assert records[0].metrics["top1"] == records[1].metrics["top1"]


def test_a_thread_of_one_method_reaches_no_other(
    prying: None, photos: Path, tmp_path: Path
) -> None:
    tampering, zero = on(photos, "prying", "zero-shot", options=("how=thread",))
    _, second = run(tmp_path, [tampering, zero])
    assert not done(second).incidents
    (alone,) = run(tmp_path / "alone", [zero])
    # The last bits of features depend on the batch size, which other cells' cached rows change.
    assert second.metrics == pytest.approx(alone.metrics, abs=1e-4)


def test_what_a_hook_changes_reaches_no_cell(prying: None, tmp_path: Path) -> None:
    folder = helpers.image_folder(tmp_path / "pets")
    todo = on(folder, "zero-shot", "coop", options=("coop.epochs=1", "coop.context_tokens=4"))
    clean = run(tmp_path / "clean", todo)
    (folder / "patch-in-hook").touch()
    (folder / "settings-in-hook").touch()
    records = run(tmp_path / "store", todo)
    assert (folder / "patched").exists()
    assert [record.incidents for record in records] == [(), ()]
    assert [done(one).metrics for one in records] == [done(one).metrics for one in clean]


def test_logits_that_cannot_be_read_are_refused(prying: None, photos: Path, tmp_path: Path) -> None:
    (record,) = run(tmp_path, on(photos, "prying", options=("how=meta",)))
    assert record.status == "failed"
    assert record.error is not None
    assert record.error["type"] == "ContractError"
    assert "meta tensor" in record.error["message"]


def test_logits_of_other_kinds_are_refused_or_become_float32() -> None:
    import torch

    exact = plain_logits(torch.tensor([[1, 2], [3, 4]], dtype=torch.int64), 2, 2)
    assert exact.dtype == np.float32
    assert exact.tolist() == [[1, 2], [3, 4]]
    kept = torch.zeros(2, 2)
    array = plain_logits(kept, 2, 2)
    kept += 1
    assert not array.any()
    for wrong in (torch.zeros(2, 2).to_sparse(), torch.zeros(2, 2, dtype=torch.complex64)):
        with pytest.raises(ContractError):
            plain_logits(wrong, 2, 2)


def unreadable() -> Iterator[tuple[str, Any]]:
    """Tensors whose values torch cannot read, each failing in another place."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        yield "", torch.zeros(2, 2)
    wrapped: list[Any] = []
    torch.vmap(lambda one: wrapped.append(one) or one)(torch.zeros(3, 2, 2))
    yield "", wrapped[0]
    yield "nested", torch.nested.nested_tensor([torch.zeros(2), torch.zeros(2)])


@pytest.mark.filterwarnings("ignore:.*nested tensors:UserWarning")
def test_a_tensor_without_values_is_refused_before_it_is_copied() -> None:
    for why, wrong in unreadable():
        with pytest.raises(ContractError, match=f"a tensor that cannot be read .*{why}") as refused:
            plain_logits(wrong, 2, 2)
        assert "file an issue" not in str(refused.value)


def test_rows_that_are_not_finite_are_counted() -> None:
    import torch

    wide = torch.tensor([[1e300, 0.0], [1.0, 2.0]], dtype=torch.float64)
    low = torch.zeros(5, 2)
    low[1, 0], low[2, 1], low[4] = float("inf"), -float("inf"), float("nan")
    for logits, count in ((wide, "1 of 2"), (low, "3 of 5")):
        with pytest.raises(ContractError, match=f"{count} rows with values that are not finite"):
            plain_logits(logits, len(logits), 2)


def test_a_damaged_query_is_named_in_the_record(prying: None, tmp_path: Path) -> None:
    folder = helpers.image_folder(tmp_path / "pets")
    (spec,) = on(folder, "zero-shot")
    (folder / "test" / "dog" / "3.jpg").write_bytes(b"no image")
    (record,) = run(tmp_path / "store", [spec])
    assert record.status == "failed"
    assert record.error is not None
    assert "image 'test/dog/3.jpg'" in record.error["message"]


def test_a_cell_whose_label_process_is_killed_is_tried_again(
    photos: Path, tmp_path: Path, methods: Any
) -> None:
    todo = cells("slow", options=["seconds=1"])
    killed: list[int] = []

    def progress(cell: RunSpec, step: int, total: int) -> None:
        if not killed:
            killed.append(engine._workers[0].labels.pid)
            os.kill(killed[0], signal.SIGKILL)

    with LocalEngine(Store(tmp_path), Settings(threads=1)) as engine:
        (record,) = engine.run(todo, progress)
    assert killed
    assert record.status == "done"
    assert [incident["kind"] for incident in record.incidents] == ["retried"]


@pytest.mark.parametrize("how", ["other-cell", "rival"])
def test_questions_about_cells_of_others_are_refused(
    prying: None, photos: Path, tmp_path: Path, how: str
) -> None:
    tampering, zero = on(photos, "prying", "zero-shot", options=(f"how={how}",))
    (record,) = run(tmp_path, [tampering])
    assert record.status == "failed"
    assert record.error is not None
    assert record.error["type"] == "ContractError"
    assert "is no cell that this process was given" in record.error["message"]
    assert Store(tmp_path).get(zero.key()) is None


def test_a_cell_is_marked_once(prying: None, photos: Path, tmp_path: Path) -> None:
    (record,) = run(tmp_path, on(photos, "prying", options=("how=twice",)))
    assert record.status == "failed"
    assert record.error is not None
    assert "handed in a result by itself" in record.error["message"]
    assert not record.metrics


def test_of_plug_ins_those_with_the_data_sets_alone_are_among_labels(
    prying: None, photos: Path
) -> None:
    for needing in (on(photos, "prying"), cells("prying")):
        needed = label_process.list_needed_plugins(needing)
        assert needed == ["fewshot-bench:builtin_datasets"]


def test_a_method_that_comes_with_the_data_set_is_not_called_separate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "plugin"
    folder.mkdir()
    module = "fsbench_prototype"
    helpers.install_methods(folder, module, f"third_party_plugin/{module}")
    points = folder / f"{module}-1.0.dist-info" / "entry_points.txt"
    points.write_text(f"[fewshot_bench]\n{module} = {module}.plugin\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    before = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(folder), before))))
    registry.cache_clear()
    try:
        own, other = cells("prototype", "zero-shot", datasets=("blobs",), limit=None)
        apart = cells("prototype")[0]
        assert label_process.list_needed_plugins([own]) == [f"{module}:{module}"]
        records = run(tmp_path / "store", [own, other, apart])
        said = [done(record).environment.get("labels") for record in records]
        # Its code is among the labels of the other data set's cells as well.
        assert said == [None, "separate", None]
        (alone,) = run(tmp_path / "other", [apart])
        assert done(alone).environment["labels"] == "separate"
    finally:
        registry.cache_clear()


def test_the_order_of_queries_is_a_secret_of_the_process(photos: Path) -> None:
    (spec, again) = on(photos, "zero-shot", seeds=(1, 2))
    one, other = Examiner(anonymous=True), Examiner(anonymous=True)
    images = [examiner.cell(spec).queries for examiner in (one, other)]
    assert images[0].labels == images[1].labels == ()
    digests = [e.files(i).digests for e, i in zip((one, other), images, strict=True)]
    assert digests[0] != digests[1]
    assert sorted(digests[0]) == sorted(digests[1])
    # Within a process, cells with the same test images share their list.
    assert one.cell(again).queries == images[0]
    listed = Examiner().cell(spec).train
    assert len(listed.labels) == listed.count == 2
