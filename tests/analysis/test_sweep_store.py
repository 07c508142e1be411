"""Stores of sweeps, and the cells that a sweep draws."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from fewshot_bench.store.store import Store
from fewshot_bench.utils.spelling import spelled_once
from tests.analysis.test_sweep import SMALL, rows, swept
from tests.answers import put_answers
from tests.compare_records import save
from tests.helpers import fsbench, image_folder, save_image


def test_cells_of_the_store_and_of_its_sweeps_are_drawn_together(tmp_path: Path) -> None:
    first, *others = swept(SMALL, seeds=(1,))
    store = save(tmp_path / "store", [first, others[0]])
    save(store / "sweeps", [first, *others[1:]])
    assert {row["status"] for row in rows(store, *SMALL)} == {"done"}


def test_cells_with_another_result_in_the_sweeps_are_counted(tmp_path: Path) -> None:
    records = swept(SMALL, seeds=(1,))
    store = save(tmp_path / "store", records)
    first, *others = records
    save(store / "sweeps", [dataclasses.replace(first, metrics={"top1": 7.0}), *others])
    done = fsbench("sweep", "clip-lora", "--store", store, *SMALL)
    assert done.code == 0
    said = f"warning: 1 cell has another result in {store} than in {store / 'sweeps'}: the latter"
    assert done.err.startswith(said)
    assert "7.00" in done.out


def test_a_result_of_the_store_is_drawn_if_the_cell_failed_in_its_sweeps(tmp_path: Path) -> None:
    records = swept(SMALL, seeds=(1,))
    failed = [dataclasses.replace(record, status="failed", metrics={}) for record in records]
    for one, other in ((records, failed), (failed, records)):
        store = save(tmp_path / one[0].status, one)
        save(store / "sweeps", other)
        assert {row["status"] for row in rows(store, *SMALL)} == {"done"}


def test_relative_places_and_suites_are_those_of_the_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mix").mkdir()
    (tmp_path / "other").mkdir()
    mix, other = (spelled_once(f"folder:{name}") for name in ("mix", "other"))
    records = swept(SMALL, (mix,), (1,))
    records += swept(SMALL, (mix,), (1,), target=other, target_revision="r")
    records += swept(SMALL, (mix,), (1,), target="digits", target_revision="r")
    store = save(tmp_path / "store", records)
    shown = rows(store, *SMALL, "-d", "folder:mix", "--only-existing")
    assert {row["status"] for row in shown} == {"done"}
    for target in ("folder:other", "demo"):
        words = ("-d", "folder:./mix/", "--only-existing", "--transfer", target, "--each")
        shown = rows(store, *SMALL, *words)
        expected = other if target == "folder:other" else "digits"
        assert any(expected in row["dataset"] for row in shown)
        assert len({row["dataset"] for row in shown}) == 2


def test_skipped_images_are_no_other_class_names(tmp_path: Path) -> None:
    skipped = {"skipped": {"dtd": ["a.jpg"]}}
    store = save(tmp_path / "store", swept(SMALL, seeds=(1,), data=skipped))
    words = (*SMALL, "-d", "dtd", "--only-existing", "--skip-damaged")
    assert {row["status"] for row in rows(store, *words)} == {"done"}
    own = fsbench("sweep", "clip-lora", "--store", store, *SMALL, "--holdout", 0.5)
    assert own.code == 3


def test_a_sweep_without_damaged_images(tmp_path: Path) -> None:
    root, store = image_folder(tmp_path / "set"), tmp_path / "store"
    (root / "test" / "cat" / "1.jpg").write_bytes(b"no")
    words = ("-o", "rank=1,2", "-o", "iterations=1", "-d", f"folder:{root}", "--skip-damaged")
    words = (*words, "--shots", 1, "--seeds", 1, "--backbone", "tiny")
    assert {row["status"] for row in rows(store, *words)} == {"done"}


@pytest.mark.parametrize("sweep_first", [False, True])
def test_a_sweep_and_the_runs_of_its_store_have_one_split(
    tmp_path: Path, sweep_first: bool
) -> None:
    root, store = image_folder(tmp_path / "pets", train=8) / "train", tmp_path / "store"
    data = ("-d", f"folder:{root}", "--shots", 1, "--seeds", 1, "--backbone", "tiny")
    run = ("run", "-m", "tip-adapter", "-o", "init_alpha=1", *data, "--store", store)
    sweep = ("sweep", "tip-adapter", "-o", "init_alpha=1,2", *data, "--store", store)
    calls = [sweep, run, sweep] if sweep_first else [run, sweep]
    assert fsbench(*calls[0]).code == 0
    for number in range(8):
        save_image(root / "cat" / f"later{number}.jpg", 5000 + number)
    for call in calls[1:]:
        done = fsbench(*call)
        assert done.code == 0, done
    folders = (store, store / "sweeps")
    assert len({record.split["digest"] for f in folders for record in Store(f).records()}) == 1


def test_metrics_that_records_lack_are_computed_from_their_answers(tmp_path: Path) -> None:
    opened = Store(tmp_path / "store")
    opened.create()
    first, *others = swept(SMALL, seeds=(1,))
    for record in (first, *others):
        # As written before there was this metric.
        assert "macro_f1" not in record.metrics
        known = dataclasses.replace(record, metrics={"top1": 50.0, "n": 2})
        put_answers(opened, known, [[1.0, 0.0], [1.0, 0.0]], [0, 1], ["a", "b"])
    shown = rows(opened.path, *SMALL, "--metric", "macro_f1")
    assert {(row["status"], row["mean"]) for row in shown} == {("done", 33.333333)}
    opened.file(first.spec.key()).with_suffix(".npz").write_bytes(b"no")
    shutil.rmtree(opened.path / "outcomes")
    words = ("sweep", "clip-lora", "--store", opened.path, *SMALL, "--metric", "macro_f1")
    assert "not used: " in fsbench(*words).err
