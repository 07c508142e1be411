"""`fsbench store verify`: detects every change of a value that matters, and changes nothing."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from fewshot_bench.api.metrics import BUILT_IN, METRICS, Metric
from fewshot_bench.api.record import SCHEMA
from fewshot_bench.store.answer_files import digest_of_file, read
from fewshot_bench.store.store import Store
from fewshot_bench.store.verify import DAMAGED, DIFFERS, MISSING, NEWER, verify
from fewshot_bench.utils.files import TEMPORARY, Damaged
from fewshot_bench.utils.processes import this_machine
from tests.support.answers import fields, put_answers
from tests.support.helpers import fsbench
from tests.support.store_cases import (
    QUERIES,
    contents,
    filled,
    fit_digests,
    flip,
    put,
    put_failed,
    result,
)

HOURS = 7200


def found(store: Store) -> list[tuple[str, str]]:
    """Kinds and file names of verify's findings."""
    return [(finding.kind, finding.path.name) for finding in verify(store).findings]


def kinds(store: Store) -> set[str]:
    return {kind for kind, _ in found(store)}


def edit(path: Path, change: Callable[[dict[str, Any]], object], seal: bool = True) -> None:
    """Change a record's values; with `seal`, recompute its digest."""
    values = json.loads(path.read_text())
    change(values)
    if seal:
        fit_digests(values)
    path.write_text(json.dumps(values))


def test_a_sound_store(tmp_path: Path) -> None:
    store = filled(tmp_path / "s")
    put_failed(store, 9)
    before = contents(store.path)
    done = fsbench("store", "verify", "--store", store.path)
    assert (done.code, done.err) == (0, "")
    assert done.out == "4 records read in full: 3 done, 1 failed\nall is well\n"
    assert contents(store.path) == before


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "top1": lambda v: v["metrics"].update(top1=v["metrics"]["top1"] + 1e-5),
    "macro_accuracy": lambda v: v["metrics"].update(macro_accuracy=1.0),
    "nll": lambda v: v["metrics"].update(nll=v["metrics"]["nll"] + 1e-5),
    "n": lambda v: v["metrics"].update(n=QUERIES + 1),
    "ece": lambda v: v["metrics"].update(ece=v["metrics"]["ece"] + 1e-5),
    "text": lambda v: v["metrics"].update(top1="50"),
    "bool": lambda v: v["metrics"].update(n=True),
    "test": lambda v: v["split"].update(test=3),
    "classes": lambda v: v["split"].update(classes=3),
    "answers": lambda v: v["digests"].update(answers="0" * 64),
    "no answers": lambda v: v["digests"].pop("answers"),
    "no logits": lambda v: v["digests"].pop("logits"),
    "key": lambda v: v["spec"].update(shots=2),
    "schema": lambda v: v.update(schema=0),
}


@pytest.mark.parametrize("change", CHANGES)
def test_values_that_do_not_follow_from_the_logits(tmp_path: Path, change: str) -> None:
    store = filled(tmp_path / "s", [1])
    path = put(store, 2)
    edit(path, CHANGES[change])
    assert set(found(store)) == {(DAMAGED, path.name)}
    done = fsbench("store", "verify", "--store", store.path)
    assert done.code == 1
    assert f"damaged: {path}: " in done.out
    assert "next, damaged: bring such a cell back from another store" in done.out


def double(hits: np.ndarray) -> float:
    return 200 * float(hits.mean())


def with_new_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add a built-in metric, as a later version may."""
    new = Metric("later", "a later metric", double)
    monkeypatch.setitem(cast(dict[str, Metric], METRICS), "later", new)
    monkeypatch.setitem(cast(dict[str, Metric], BUILT_IN), "later", new)


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v,
        lambda v: v["metrics"].pop("nll"),
        lambda v: v["metrics"].clear(),
        lambda v: v["metrics"].update(of_an_earlier_version=1.5),
    ],
)
def test_a_metric_that_a_record_does_not_state_is_not_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[dict[str, Any]], object]
) -> None:
    store = filled(tmp_path / "s", [1])
    edit(put(store, 2), change)
    with_new_metric(monkeypatch)
    assert not verify(store).findings
    compared = fsbench("compare", "--store", store.path, "--metric", "later")
    assert (compared.code, compared.err) == (0, "")
    assert "a later metric" in compared.out


def test_a_new_metric_is_checked_where_it_is_stated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_new_metric(monkeypatch)
    store = filled(tmp_path / "s", [1])
    path = put(store, 2)
    assert not verify(store).findings
    edit(path, lambda v: v["metrics"].update(later=v["metrics"]["later"] + 1))
    (finding,) = verify(store).findings
    assert (finding.kind, finding.path) == (DAMAGED, path)
    assert "the record has later" in finding.text


def replace_arrays(path: Path, **changed: Any) -> None:
    """Replace arrays beside a record, and update their digests in it."""
    values = {**read(path.with_suffix(".npz"))[0], **changed}
    np.savez_compressed(path.with_suffix(".npz"), **values)
    digest = digest_of_file(path.with_suffix(".npz"))
    edit(path, lambda record: record["digests"].update(answers=digest))


ROWS = "contradict themselves or the logits"


@pytest.mark.parametrize(
    ("array", "changed", "said"),
    [
        ("statistics", {"label": 4}, ROWS),
        ("statistics", {"prediction": -1}, ROWS),
        ("statistics", {"rank": 5}, ROWS),
        ("statistics", {"confidence": np.nan}, ROWS),
        ("statistics", {"confidence": 1.5}, ROWS),
        ("statistics", {"rank": 1}, ROWS),
        ("statistics", {"prediction": 0}, ROWS),
        ("statistics", {"surprise": 2.0}, ROWS),
        ("statistics", {"brier_score": 0.5}, "the record has brier"),
        ("top", {"class": 0}, ROWS),
        ("high", np.zeros((QUERIES, 4), np.uint8), ROWS),
        ("low", np.zeros((QUERIES, 5), np.uint8), "other types or shapes"),
        ("names", np.frombuffer(b"[]", np.uint8), "30 rows and 0 "),
        ("names", np.frombuffer(b'["' + b"q" * 9 + b'", 3]', np.uint8), "30 rows and 1 "),
        ("names", np.frombuffer(b"[" + b'"q",' * 29 + b'"q"]', np.uint8), "30 rows and 1 "),
        ("classes", np.int32(5), "other types or shapes"),
        ("classes", np.int64(4), "other types or shapes"),
        ("more", np.zeros(3), "it holds"),
    ],
)
def test_answers_that_no_run_writes(tmp_path: Path, array: str, changed: Any, said: str) -> None:
    store = filled(tmp_path / "s", [1])
    path = put(store, 2)
    if isinstance(changed, dict):
        changed = fields(read(path.with_suffix(".npz"))[0][array], **changed)
    replace_arrays(path, **{array: changed})
    report = verify(store)
    assert {finding.kind for finding in report.findings} == {DAMAGED}
    texts = " ".join(finding.text for finding in report.findings)
    assert re.search(said, texts), texts


def meaning(path: Path) -> object:
    """The decoded content of a file; None if it cannot be decoded."""
    if path.suffix == ".json":
        try:
            return json.loads(path.read_bytes())
        except (ValueError, RecursionError):
            return None
    try:
        arrays = read(path)[0]
    except Damaged:
        return None
    return [(name, a.dtype.str, a.shape, a.tobytes()) for name, a in arrays.items()]


@pytest.mark.parametrize(
    ("status", "ending"), [("done", ".json"), ("done", ".npz"), ("failed", ".json")]
)
def test_changed_bits_at_random_places(tmp_path: Path, status: str, ending: str) -> None:
    """Each change either leaves the content equal, or is detected."""
    store = filled(tmp_path / "s", [1])
    path = (put if status == "done" else put_failed)(store, 2).with_suffix(ending)
    whole, said = path.read_bytes(), meaning(path)
    draw, changed = random.Random(5), 0
    for _ in range(120):
        flip(path, draw.randrange(len(whole)), draw.randrange(8))
        differs = meaning(path) != said
        changed += differs
        assert bool(found(store)) >= differs
        path.write_bytes(whole)
    assert changed > 50
    assert found(store) == []


def test_done_without_logits(tmp_path: Path) -> None:
    store = filled(tmp_path / "s", [1])
    path = put(store, 2)
    path.with_suffix(".npz").unlink()
    assert found(store) == [(MISSING, path.name)]


def test_other_queries_of_one_split(tmp_path: Path) -> None:
    store = filled(tmp_path / "s")
    record, logits, labels = result(4)
    put_answers(store, record, logits, labels, [f"other{number}" for number in range(QUERIES)])
    assert found(store) == [(DIFFERS, store.file(record.spec.key()).name)]


def test_a_newer_record(tmp_path: Path) -> None:
    store = filled(tmp_path / "s", [1])
    path = put(store, 2)
    edit(path, lambda v: v.update(schema=SCHEMA + 1), seal=False)
    assert found(store) == [(NEWER, path.name)]
    assert "next, not read: upgrade" in fsbench("store", "verify", "--store", store.path).out


def test_what_lies_between_the_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(tmp_path / "s")
    path = put(store, 4)
    path.unlink()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    here = this_machine()
    for folder in (store.root / "00", store.path, store.path / "splits" / "d"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{TEMPORARY}~{here}~{dead.pid}~1").write_text("half")
        (folder / f"{TEMPORARY}~{here}~{os.getpid()}~2").write_text("half")
    (store.root / "00" / "x.json.damaged-1").write_text("{")
    (store.root / "00" / "notes.txt").write_text("mine")
    now = time.time
    assert "no record" not in kinds(store)
    monkeypatch.setattr("fewshot_bench.store.clean.time.time", lambda: now() + HOURS)
    before = contents(store.path)
    done = fsbench("store", "verify", "--store", store.path)
    assert (done.code, "all records are well" in done.out) == (0, True)
    assert "found: 1 no record, 3 left over, 1 set aside" in done.out
    assert "fsbench store gc --damaged" in done.out
    assert contents(store.path) == before


def test_a_record_that_is_written_again_meanwhile_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fewshot_bench.store import verify as store_check

    store = filled(tmp_path / "s", [1])
    load, shifts = store_check.read, iter([1.0])

    def replaced_meanwhile(path: Path) -> tuple[dict[str, np.ndarray], str]:
        for shift in shifts:
            put(store, 1, shift)
        return load(path)

    monkeypatch.setattr(store_check, "read", replaced_meanwhile)
    assert found(store) == []
    assert next(shifts, None) is None


def test_no_store(tmp_path: Path) -> None:
    for name in ("verify", "gc"):
        done = fsbench("store", name, "--store", tmp_path / "absent")
        assert (done.code, "does not exist" in done.err) == (3, True)
        (tmp_path / "file").write_text("x")
        assert fsbench("store", name, "--store", tmp_path / "file").code == 2
        done = fsbench("store", name, "--store", tmp_path)
        assert (done.code, "holds no records" in done.err) == (3, True)
    assert not (tmp_path / "absent").exists()


def test_what_is_found_is_a_short_line(tmp_path: Path) -> None:
    """A record of many keys had a line of as many."""
    store = filled(tmp_path / "store", [1])
    (path,) = store.root.rglob("*.json")
    values = json.loads(path.read_text()) | {f"stray key {n}": n for n in range(5000)}
    values |= {"metrics": {f"metric {n}": float(n) for n in range(2000)} | {"x" * 9000: 1.0}}
    path.write_text(json.dumps(values))
    shown = fsbench("store", "verify", "--store", store.path)
    merged = fsbench("store", "merge", store.path, "--store", tmp_path / "other")
    for done in (shown, merged):
        assert f"{path}: the record " in done.out
    reports = [line for done in (shown, merged) for line in (done.out + done.err).splitlines()]
    assert max(map(len, reports)) < 2100
