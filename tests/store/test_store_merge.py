"""`fsbench store merge`: combines results of several machines; none is lost or overwritten."""

from __future__ import annotations

import dataclasses
import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from fewshot_bench.api.own_methods import Facts, OwnMethod, digest_of
from fewshot_bench.api.record import SCHEMA
from fewshot_bench.splits.imported import load_imported, path_of_import
from fewshot_bench.store.kept_methods import find_method, keep
from fewshot_bench.store.store import METHODS, Store
from fewshot_bench.store.verify import verify
from tests.support.answers import put_answers
from tests.support.helpers import fsbench
from tests.support.merging import IDS, merge, picks, results
from tests.support.store_cases import contents, filled, flip, put, put_failed, result


def test_stores_of_two_machines(tmp_path: Path) -> None:
    one, other = filled(tmp_path / "a", [1, 2, 3]), filled(tmp_path / "b", [3, 4])
    failed = put_failed(other, 9)
    everything = results(one) | results(other)
    before = contents(one.path), contents(other.path)
    destination = Store(tmp_path / "deep" / "all")
    done = merge(destination, one, other)
    assert (done.code, done.err) == (0, "")
    assert done.out == f"{one.path}: 3 copied\n{other.path}: 2 copied, 1 equal\n"
    assert results(destination) == everything
    assert destination.get(failed.stem) is not None
    assert (contents(one.path), contents(other.path)) == before
    assert verify(destination).findings == []
    again = merge(destination, one, other)
    assert (again.code, "copied" in again.out) == (0, False)
    assert results(destination) == everything


def test_the_code_of_a_method_of_a_file_is_copied(tmp_path: Path) -> None:
    """What is whole: not an edited file, nor the place where the author's lies."""
    one, here = filled(tmp_path / "a", []), Store(tmp_path / "all")
    for seed, digest in enumerate(("a" * 64, "b" * 64, "c" * 64)):
        version = f"1+{digest[:8]}"
        put(one, seed, method="mine", method_version=version)
        files = {"mine.py": b"class Mine: ...\n", "data/names.json": b"[]"}
        digests = {name: digest_of(content) for name, content in files.items()}
        facts = Facts("mine", version, digest, "mine.py", "Mine", digests, path="/their/folder")
        if seed < 2:
            keep(one.path, OwnMethod(facts, "/their/folder/mine.py:Mine", files))
    (one.path / METHODS / ("b" * 16) / "mine.py").write_text("import evil\n")
    assert merge(here, one, dry_run=True).code == merge(here, one).code == 0
    kept = find_method(here.path, "mine", f"1+{'a' * 8}")
    assert kept is not None
    assert kept.facts.path == ""
    assert len([path for path in (here.path / METHODS).rglob("*") if path.is_file()]) == 3
    assert len(list(here.records())) == 3
    assert "mine.py is not the file that was written" in verify(one).findings[0].text


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    source, there = filled(tmp_path / "a"), filled(tmp_path / "b", [1])
    absent = Store(tmp_path / "c")
    assert "would be, as nothing is written: 3 copied" in merge(absent, source, dry_run=True).out
    assert not absent.path.exists()
    before = contents(there.path)
    assert "2 copied, 1 equal" in merge(there, source, dry_run=True).out
    assert contents(there.path) == before


@pytest.mark.parametrize("done_here", [True, False])
def test_a_done_cell_goes_before_a_failed_one(tmp_path: Path, done_here: bool) -> None:
    done, failed = filled(tmp_path / "a", [1]), filled(tmp_path / "b", [])
    put_failed(failed, 1)
    here, there = (done, failed) if done_here else (failed, done)
    expected = results(done)
    said = merge(here, there)
    assert (said.code, said.out) == (0, f"{there.path}: 1 {'kept' if done_here else 'replaced'}\n")
    assert results(here) == expected


def test_two_failures_are_no_conflict(tmp_path: Path) -> None:
    one, other = filled(tmp_path / "a", []), filled(tmp_path / "b", [])
    for store in (one, other):
        put_failed(store, 1)
    assert merge(one, other).out == f"{other.path}: 1 equal\n"


def test_a_conflict_is_shown_and_left(tmp_path: Path) -> None:
    here, there = filled(tmp_path / "a", [1, 2]), filled(tmp_path / "b", [1])
    record, logits, labels = result(2, shift=9.0)
    environment = {"device_name": "arm64", "threads": 2, "packages": {"torch": "2.7"}}
    record = dataclasses.replace(record, environment=environment)
    put_answers(there, record, logits, labels, IDS)
    mine = here.get(record.spec.key())
    assert mine is not None
    before = results(here)
    done = merge(here, there)
    assert done.code == 1
    assert results(here) == before
    first, second, third = done.out.splitlines()
    assert first.startswith(f"conflict: {there.file(record.spec.key())}: m on d, 1-shot, seed 2; ")
    top1 = f"top-1 {mine.metrics['top1']:.4f} % here, {record.metrics['top1']:.4f} % there"
    for part in (
        top1,
        "largest difference of the labels' log-probabilities ",
        "device_name: x86_64 here, arm64 there",
        "torch: 2.6 here, 2.7 there",
    ):
        assert part in first
    assert "threads" not in first
    assert second == f"{there.path}: 1 equal, 1 conflict"
    assert third.startswith("conflicts were left as they are")


def test_equal_metrics_of_logits_that_differ_in_the_last_digit(tmp_path: Path) -> None:
    here, there = filled(tmp_path / "a", [1]), filled(tmp_path / "b", [])
    record, logits, labels = result(1)
    rounded = np.nextafter(logits, np.float32(0))
    put_answers(there, record, rounded, labels, IDS)
    assert merge(here, there).out == f"{there.path}: 1 equal\n"


def test_results_of_other_queries_are_a_conflict(tmp_path: Path) -> None:
    here, there = filled(tmp_path / "a", [1]), filled(tmp_path / "b", [])
    record, logits, labels = result(1)
    put_answers(there, record, logits, labels, [f"other{id}" for id in IDS])
    done = merge(here, there)
    assert done.code == 1
    assert "their queries differ" in done.out


def test_done_and_inapplicable_are_a_conflict(tmp_path: Path) -> None:
    here, there = filled(tmp_path / "a", [1]), filled(tmp_path / "b", [])
    spec = result(1)[0].spec
    there.write(dataclasses.replace(result(1)[0], spec=spec, status="inapplicable", metrics={}))
    done = merge(here, there)
    assert done.code == 1
    assert "% here, inapplicable there" in done.out


@pytest.mark.parametrize("ending", [".json", ".npz"])
def test_a_damaged_source_is_shown_and_skipped(tmp_path: Path, ending: str) -> None:
    here, there = filled(tmp_path / "a", []), filled(tmp_path / "b", [1, 2])
    path = there.file(result(1)[0].spec.key())
    flip(path.with_suffix(ending), path.with_suffix(ending).stat().st_size // 2)
    before = contents(there.path)
    done = merge(here, there)
    assert done.code == 1
    assert f"not used: {path}: " in done.out
    assert f"{there.path}: 1 copied, 1 not used\n" in done.out
    assert len(results(here)) == 2
    assert contents(there.path) == before


def test_a_source_of_a_newer_version_is_shown_and_skipped(tmp_path: Path) -> None:
    here, there = filled(tmp_path / "a", []), filled(tmp_path / "b", [1])
    path = put(there, 2)
    path.write_text(path.read_text().replace(f'"schema": {SCHEMA}', f'"schema": {SCHEMA + 1}'))
    for one, other in ((here, there), (there, here)):
        if one is there:
            put(other, 2)
        done = merge(one, other)
        assert (done.code, "upgrade" in done.out) == (1, True)
    assert f'"schema": {SCHEMA + 1}' in path.read_text()


@pytest.mark.parametrize("ending", [".json", ".npz"])
def test_a_damaged_cell_here_is_set_aside_and_replaced(tmp_path: Path, ending: str) -> None:
    here, there = filled(tmp_path / "a", [1, 2]), filled(tmp_path / "b", [1, 2])
    path = here.file(result(1)[0].spec.key())
    damaged = path.with_suffix(ending)
    flip(damaged, damaged.stat().st_size // 2)
    bad = damaged.read_bytes()
    done = merge(here, there)
    assert done.code == 0
    assert "1 replaced, 1 equal" in done.out
    assert "at the destination" in done.out
    assert damaged.with_name(f"{damaged.name}.damaged-1").read_bytes() == bad
    assert {finding.kind for finding in verify(here).findings} == {"set aside"}


@pytest.mark.parametrize("ending", [".json", ".npz"])
def test_a_failed_cell_takes_the_place_of_nothing(tmp_path: Path, ending: str) -> None:
    """Damaged or incomplete local records are left for a run, or for a merge with a done cell."""
    here, there = filled(tmp_path / "a", [1, 2]), filled(tmp_path / "b", [])
    flip(here.file(put_failed(there, 1).stem).with_suffix(ending), 200)
    here.file(put_failed(there, 2).stem).with_suffix(".npz").unlink()
    before = contents(here.path)
    assert merge(here, there).out == f"{there.path}: 2 kept\n"
    assert results(here) == {
        name: file for name, (file, _) in before.items() if name.startswith("records/")
    }


def test_an_inapplicable_cell_takes_the_place_of_a_failed_one(tmp_path: Path) -> None:
    here, there = filled(tmp_path / "a", []), filled(tmp_path / "b", [])
    put_failed(here, 1)
    there.write(dataclasses.replace(result(1)[0], status="inapplicable", metrics={}))
    assert merge(here, there).out == f"{there.path}: 1 replaced\n"
    assert merge(here, there).out == f"{there.path}: 1 equal\n"


def test_logits_that_are_missing_here_are_brought_back(tmp_path: Path) -> None:
    here, there = filled(tmp_path / "a"), filled(tmp_path / "b")
    whole = results(here)
    next(here.root.rglob("*.npz")).unlink()
    assert merge(here, there).out == f"{there.path}: 1 replaced, 2 equal\n"
    assert results(here) == whole


def test_sources_and_destinations_that_cannot_be(tmp_path: Path) -> None:
    here = filled(tmp_path / "a")
    (tmp_path / "link").symlink_to(here.path)
    (tmp_path / "file").write_text("x")
    before = contents(here.path)
    for source, said in (
        (here.path, "is the destination itself"),
        (tmp_path / "link", "is the destination itself"),
        (tmp_path / "absent", "does not exist: expected a folder with records/"),
        (tmp_path, "is no store"),
        (tmp_path / "file", "is no store"),
    ):
        done = merge(here, filled(tmp_path / "b", [5]), source)
        assert (done.code, done.err.count("\n")) == (2, 1)
        assert said in done.err
    assert contents(here.path) == before
    assert merge(Store(tmp_path / "file"), here).code == 2


def test_imported_picks_come_along(tmp_path: Path) -> None:
    here, there = filled(tmp_path / "a", []), filled(tmp_path / "b", [1])
    first, second = picks(there.path, 1), picks(there.path, 2)
    assert merge(here, there).out == f"{there.path}: 3 copied\n"
    assert load_imported(here.path, "shapes", 2, 1).digest
    assert merge(here, there).out == f"{there.path}: 3 equal\n"
    mine = path_of_import(here.path, "shapes", 2, 1)
    assert mine.read_bytes() == first.read_bytes()
    shutil.rmtree(here.path / "splits")
    picks(here.path, 1, "none")
    other = mine.read_bytes()
    second.write_text(second.read_text().replace('"digest": "', '"digest": "0'))
    done = merge(here, there)
    assert done.code == 1
    assert f"conflict: {first}: picks with digest" in done.out
    assert f"not used: {second}: " in done.out
    assert f"{there.path}: 1 equal, 1 conflict, 1 not used\n" in done.out
    assert mine.read_bytes() == other
    assert f"damaged: {second}: " in fsbench("store", "verify", "--store", there.path).out


def test_splits_of_own_images_come_along(tmp_path: Path) -> None:
    here, there = filled(tmp_path / "a", []), filled(tmp_path / "b", [1])
    made = there.path / "splits" / "made" / "pets-0123456789abcdef.json"
    made.parent.mkdir(parents=True)
    lists = {role: [[f"{role}.png", 0, "cat"]] for role in ("train", "val", "test")}
    made.write_text(json.dumps(lists))
    mine = here.path / made.relative_to(there.path)
    assert merge(here, there, dry_run=True).code == 0
    assert not mine.exists()
    assert merge(here, there).out == f"{there.path}: 2 copied\n"
    assert mine.read_bytes() == made.read_bytes()
    assert merge(here, there).out == f"{there.path}: 2 equal\n"
    mine.write_text(json.dumps({**lists, "val": []}))
    done = merge(here, there)
    assert done.code == 1
    assert f"conflict: {made}: a split of own images with digest" in done.out
    assert json.loads(mine.read_text())["val"] == []
    made.write_text("{")
    assert f"not used: {made}: " in merge(here, there).out


def test_a_store_of_picks_alone_is_a_source(tmp_path: Path) -> None:
    picks(tmp_path / "b")
    assert "1 copied" in merge(Store(tmp_path / "a"), tmp_path / "b").out


def test_a_full_disk_stops_the_merge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, there = filled(tmp_path / "a"), filled(tmp_path / "b", [])

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("fewshot_bench.utils.files.os.fsync", full)
    stopped = merge(there, source)
    assert (stopped.code, stopped.out, stopped.err.count("\n")) == (1, "", 1)
    assert stopped.err.startswith("error: no space to write")
    monkeypatch.undo()
    assert merge(there, source).out == f"{source.path}: 3 copied\n"
