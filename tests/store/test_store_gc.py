"""`fsbench store gc`: removes what no result needs, and nothing else."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fewshot_bench.engines.base import Settings, StoreSnapshot
from fewshot_bench.engines.distributed import Job
from fewshot_bench.store import clean as store_gc
from fewshot_bench.store.index import index_file
from fewshot_bench.store.kept_models import model_folder
from fewshot_bench.store.leases import Leases
from fewshot_bench.store.store import Store
from fewshot_bench.store.verify import verify
from fewshot_bench.utils.files import TEMPORARY
from fewshot_bench.utils.processes import this_machine
from tests.support.helpers import fsbench
from tests.support.store_cases import age, contents, filled, put, put_failed

HOURS = 7200


def names(folder: Path) -> set[str]:
    return set(contents(folder))


@pytest.fixture
def messy(tmp_path: Path) -> tuple[Store, set[str], set[str], set[str]]:
    """A store, and its files that gc removes, removes only with --damaged, and keeps."""
    store = filled(tmp_path / "s")
    put_failed(store, 9)
    orphan = put(store, 5)
    orphan.unlink()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    stale = f"{TEMPORARY}~{this_machine()}~{dead.pid}~1"
    alive = f"{TEMPORARY}~{this_machine()}~{os.getpid()}~2"
    gone = {orphan.with_suffix(".npz").relative_to(store.path).as_posix()}
    gone |= {f"{folder}/{stale}" for folder in ("records/00", "splits/d", "records")} | {stale}
    aside = {"records/00/x.json.damaged-1", "records/00/x.npz.damaged-12"}
    kept = names(store.path) - gone
    kept |= {f"{folder}/{stale}" for folder in ("claims", "jobs", "cache/features")}
    kept |= {
        "records/00/notes.txt",
        "splits/d/notes.txt",
        f"records/00/{alive}",
    }
    for name in gone | aside | kept:
        path = store.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_text("half")
    return store, gone, aside, kept


def test_what_goes_and_what_stays(
    messy: tuple[Store, set[str], set[str], set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, gone, aside, kept = messy
    age(monkeypatch, HOURS)
    index = index_file(store.path)
    index.parent.mkdir(parents=True, exist_ok=True)
    index.write_text("half")
    size = 4 + sum((store.path / name).stat().st_size for name in gone)
    before = contents(store.path)
    dry = fsbench("store", "gc", "--dry-run", "--store", store.path)
    assert dry.code == 0
    assert "would remove 6 files" in dry.out
    assert contents(store.path) == before
    assert index.exists()
    done = fsbench("store", "gc", "--yes", "--store", store.path)
    assert done.code == 0
    assert f"removed 6 files, {size / 1000:.1f} kB: 4 left over, 1 no record" in done.out
    assert "1 index" in done.out
    assert not index.exists()
    assert names(store.path) == aside | kept
    done = fsbench("store", "gc", "--yes", "--damaged", "--store", store.path)
    assert "removed 2 files, 8 B: 2 set aside" in done.out
    assert names(store.path) == kept
    assert verify(store).findings == []
    again = fsbench("store", "gc", "--yes", "--damaged", "--store", store.path)
    assert (again.code, again.out) == (0, "removed 0 files, 0 B\n")


def test_claims_and_jobs_that_are_over(tmp_path: Path) -> None:
    store = filled(tmp_path / "s", [1])
    cell = next(iter(store.records())).spec
    before = StoreSnapshot(store, {})
    done = Job.create(before, [cell], Settings())
    wanted = Job.create(before, [cell], Settings())
    unfinished = Job.create(before, [dataclasses.replace(cell, shots=2)], Settings())
    held = Leases(store, "r")
    held.claim("held")
    for job in (done, unfinished):
        job.leave()
    (tmp_path / "s/claims/dead.1").write_text("{}")
    os.utime(tmp_path / "s/claims/dead.1", (0, 0))
    result = fsbench("store", "gc", "--yes", "--store", store.path)
    assert "removed 2 files" in result.out, result
    assert "1 dead claim, 1 finished job" in result.out
    assert {path.name for path in (tmp_path / "s/jobs").iterdir()} == {wanted.name, unfinished.name}
    assert len(list((tmp_path / "s/claims").iterdir())) == 2
    held.close()
    wanted.leave()


def test_logits_that_may_be_published_just_now_stay(tmp_path: Path) -> None:
    store = filled(tmp_path / "s")
    path = put(store, 5)
    path.unlink()
    assert "removed 0 files" in fsbench("store", "gc", "--yes", "--store", store.path).out
    assert path.with_suffix(".npz").exists()


def test_a_clock_that_is_ahead_removes_nothing_that_others_are_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled(tmp_path / "s")
    put(store, 5).unlink()
    half = store.root / f"{TEMPORARY}~another~1~00"
    half.write_text("half")
    model = model_folder(store.path, "ab" * 32)
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    before = contents(store.path)
    now = time.time
    monkeypatch.setattr("time.time", lambda: now() + 30 * 3600)
    assert "removed 0 files" in fsbench("store", "gc", "--yes", "--store", store.path).out
    store.create()
    assert contents(store.path) == before


def test_logits_of_a_record_that_cannot_be_read_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled(tmp_path / "s")
    path = put(store, 5)
    path.write_text("{")
    age(monkeypatch, HOURS)
    fsbench("store", "gc", "--yes", "--store", store.path)
    assert path.with_suffix(".npz").exists()


@pytest.mark.parametrize("moment", ["before", "between"])
def test_a_writer_that_publishes_meanwhile_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """The record for old, orphaned logits is written while gc is about to remove them."""
    store = filled(tmp_path / "s", [1])
    path = put(store, 5)
    path.unlink()
    age(monkeypatch, HOURS)
    rename, is_orphan = os.rename, store_gc.is_orphan

    def late(source: Path, target: Path) -> None:
        put(store, 5, shift=1.0)
        rename(source, target)

    def early(logits: Path) -> bool:
        put(store, 5, shift=1.0)
        return is_orphan(logits)

    if moment == "between":
        monkeypatch.setattr(store_gc.os, "rename", late)
    else:
        monkeypatch.setattr(store_gc, "is_orphan", early)
    assert "removed 0 files" in fsbench("store", "gc", "--yes", "--store", store.path).out
    monkeypatch.undo()
    assert store.complete(path.stem)
    assert verify(store).findings == []


def test_a_file_that_cannot_be_removed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled(tmp_path / "s", [1])
    (store.path / f"{TEMPORARY}~{this_machine()}~{2**22 + 1}~1").write_text("x")

    def refused(path: Path, missing_ok: bool = False) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "unlink", refused)
    done = fsbench("store", "gc", "--yes", "--store", store.path)
    assert done.code == 1
    assert "cannot be removed: Permission denied" in done.out
    assert "removed 0 files, 0 B\n" in done.out
    assert done.err.startswith("error: 1 files cannot be removed: check")
