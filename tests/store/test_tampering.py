"""Records and logits edited by hand: named, left out, recomputed, never trusted."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewshot_bench.store import index as store_index
from fewshot_bench.store.answer_files import read
from fewshot_bench.store.index import index_file, index_files
from fewshot_bench.store.leases import FOLDER as CLAIMS
from fewshot_bench.store.predictions import Outcome, OutcomeCache, Outcomes
from fewshot_bench.store.record_files import pack_stamp
from fewshot_bench.store.store import Store
from fewshot_bench.store.verify import DAMAGED, LEFT_OVER, verify
from fewshot_bench.utils.processes import this_machine
from tests.support.answers import fields, stored_arrays
from tests.support.helpers import fsbench
from tests.support.store_cases import CLASSES, filled

RUN = (
    *("run", "-m", "zero-shot,tip-adapter", "-d", "digits", "--shots", 1, "--limit", 20),
    *("--seeds", "1,2", "--jobs", 1),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the cells of a small run."""
    store = tmp_path_factory.mktemp("finished") / "s"
    done = fsbench(*RUN, "--store", store)
    assert done.code == 0, done.err
    return store


@pytest.fixture
def store(finished: Path, tmp_path: Path) -> Store:
    """A copy of the finished store that a test may change."""
    shutil.copytree(finished, tmp_path / "s")
    return Store(tmp_path / "s")


def of_method(store: Store, method: str, seed: int = 1) -> Path:
    """The record file of a cell."""
    wanted = {(r.spec.method, r.spec.train_seed): r for r in store.records()}
    return store.file(wanted[method, seed].spec.key())


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Edit a record's values by hand; restore its time stamps."""
    times, values = path.stat(), json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values, indent=1) + "\n")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


EDITS: dict[str, Callable[[dict[str, Any]], object]] = {
    "top1": lambda v: v["metrics"].update(top1=99.0),
    "last digit": lambda v: v["metrics"].update(top1=v["metrics"]["top1"] + 1e-6),
    "classnames": lambda v: v["split"]["classnames"].__setitem__(0, "other"),
    "no digest": lambda v: v["digests"].pop("record"),
    "other digest": lambda v: v["digests"].update(record="0" * 64),
    "verified": lambda v: v["split"].update(verified=True),
    "another schema": lambda v: v.update(schema=0),
}


@pytest.mark.parametrize("change", EDITS)
def test_a_changed_record_is_left_out(store: Store, change: str) -> None:
    path = of_method(store, "tip-adapter")
    edit(path, EDITS[change])
    assert len(list(store.records())) == 3
    assert [damage.path for damage in store.damaged] == [path]
    assert [f.path for f in verify(store).findings if f.kind == DAMAGED] == [path]


def test_every_command_names_it(store: Store) -> None:
    path = of_method(store, "tip-adapter")
    edit(path, EDITS["top1"])
    page = store.path.parent / "page.html"
    for words in (["compare"], ["audit"], ["report", "-O", page]):
        done = fsbench(*words, "--store", store.path)
        assert f"not used: {path}: the record states the digest" in done.err, words
        assert "99.0" not in done.out
    assert "99.0" not in page.read_text(encoding="utf-8")
    merged = fsbench("store", "merge", store.path, "--store", store.path.parent / "merged")
    assert merged.code == 1
    assert f"not used: {path}: " in merged.out + merged.err


def test_a_run_computes_a_changed_record_again_and_keeps_it_aside(store: Store) -> None:
    path = of_method(store, "tip-adapter")
    whole = json.loads(path.read_text())
    edit(path, EDITS["top1"])
    changed = path.read_bytes()
    done = fsbench(*RUN, "--store", store.path)
    assert done.code == 0
    aside = path.with_name(f"{path.name}.damaged-1")
    stated = whole["digests"]["record"][:12]
    told = f"damaged, not used: {aside}: the record states the digest {stated} and its values have"
    assert told in done.err
    assert "4 cells: 3 done already, 1 to run" in done.out
    assert aside.read_bytes() == changed
    assert json.loads(path.read_text())["metrics"] == whole["metrics"]


def test_changed_logits_are_named_and_computed_again(store: Store) -> None:
    path = of_method(store, "tip-adapter").with_suffix(".npz")
    arrays = read(path)[0]
    before = arrays["statistics"]
    np.savez(path, **arrays | {"statistics": fields(before, prediction=0)})
    changed = path.read_bytes()
    for _ in range(2):
        done = fsbench("compare", "--per-class", "--store", store.path)
        assert f"not used: {path}: " in done.err
    with pytest.raises(Exception, match="are damaged"):
        stored_arrays(Store(store.path), path.stem)
    aside = path.with_name(f"{path.name}.damaged-1")
    aside.rename(path)
    done = fsbench(*RUN, "--store", store.path)
    assert f"damaged, not used: {aside}: " in done.err
    assert aside.read_bytes() == changed
    assert (read(path)[0]["statistics"] == before).all()
    assert "not used" not in fsbench("compare", "--per-class", "--store", store.path).err


def swap(one: Path, other: Path) -> None:
    aside = one.with_suffix(".aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def test_swapped_records_are_both_left_out(store: Store) -> None:
    one, other = of_method(store, "tip-adapter"), of_method(store, "zero-shot")
    swap(one, other)
    done = fsbench("compare", "--store", store.path)
    assert all(
        f"not used: {path}: its specification has the key" in done.err for path in (one, other)
    )


def test_swapped_logits_are_both_left_out(store: Store) -> None:
    one, other = of_method(store, "tip-adapter"), of_method(store, "zero-shot")
    swap(one.with_suffix(".npz"), other.with_suffix(".npz"))
    for path in index_files(store.path):
        path.unlink()
    done = fsbench("compare", "--per-class", "--store", store.path)
    assert done.err.count("they are not those of the record") == 2
    done = fsbench(*RUN, "--store", store.path)
    assert "4 cells: 2 done already, 2 to run" in done.out


def test_the_index_is_no_way_around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An edited row is ignored; one with a fitting checksum is reported."""
    monkeypatch.setattr(store_index, "WORTH", 1)
    monkeypatch.setattr(store_index, "SETTLED_SECONDS", 0.02)
    store = filled(tmp_path / "s")
    time.sleep(0.05)
    expected = list(store.records())
    with closing(sqlite3.connect(index_file(store.path))) as database:
        row = "key, stamp, numbers, facts, split, own"
        whole = database.execute(f"select {row} from records").fetchall()
        edited = [(*rest, own.replace(b'"top1":', b'"top1":1')) for *rest, own in whole]
        sums = [(store_index._sum_of(content), content[0]) for content in edited]
        for fitting in (False, True):
            with database:
                changed = [(content[-1], content[0]) for content in edited]
                database.executemany("update records set own = ? where key = ?", changed)
                if fitting:
                    database.executemany("update records set sum = ? where key = ?", sums)
            assert (list(Store(store.path).records()) == expected) == (not fitting)
    findings = [(f.kind, f.path) for f in verify(store).findings]
    assert findings == [(DAMAGED, index_file(store.path))] * 3
    index_file(store.path).unlink()
    assert list(Store(store.path).records()) == expected
    assert verify(store).findings == []


def test_predictions_that_were_kept_are_no_way_around(tmp_path: Path) -> None:
    store = filled(tmp_path / "s", [1])
    (record,) = store.records()
    expected, cache = Outcomes(store).of(record), OutcomeCache(store.path)
    stamp = pack_stamp(store.stamp(record.spec.key(), ".npz"))
    of = expected.queries, expected.labels.astype("<i4"), expected.reliability, CLASSES
    cache.put([(record.spec.key(), record.logits_digest, stamp, Outcome(*of, {}))])
    assert (Outcomes(store).of(record).predictions == expected.predictions).all()


def test_a_finished_run_leaves_no_claim_of_a_killed_one(store: Store) -> None:
    """The killed run had stored its cells, so that no run claims them again."""
    key = next(iter(store.records())).spec.fit_key()
    claims = store.path / CLAIMS
    claims.mkdir(exist_ok=True)
    gone = {"machine": this_machine(), "pid": 2**22 + 1, "started": 1.0, "run": "killed"}
    gone |= {"token": "t", "seconds": 60.0, "tries": 1}
    claim = claims / f"{key}.1"
    claim.write_text(json.dumps(gone))
    (finding,) = verify(store).findings
    assert (finding.kind, finding.path) == (LEFT_OVER, claim)
    done = fsbench(*RUN, "--store", store.path)
    assert "4 done already, 0 to run" in done.out
    assert list(claims.iterdir()) == []
    assert verify(store).findings == []
