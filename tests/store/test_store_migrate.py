"""Records of older schemas, as an older version wrote them: read, counted, migrated."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from fewshot_bench.api.record import SCHEMA
from fewshot_bench.store import migrate as store_migrate
from fewshot_bench.store.check import Cell
from fewshot_bench.store.store import Store
from fewshot_bench.store.verify import verify
from fewshot_bench.utils.files import digest_of_arrays
from tests.helpers import fsbench
from tests.store_cases import OLD, contents, killed_at, old_store, put

RUN = ("run", "--method", "zero-shot", "--dataset", "digits", "--shots", "1", "--seeds", "1,2,3")
CELLS = 4


def schemas(store: Store) -> list[int]:
    return [json.loads(path.read_text())["schema"] for path in store.root.rglob("*.json")]


@pytest.fixture
def old(tmp_path: Path) -> Store:
    return old_store(tmp_path / "s")


def test_the_stored_files_are_of_schema_1() -> None:
    assert sorted(schemas(Store(OLD))) == [1] * CELLS


def test_old_records_are_compared_and_count_as_done(old: Store) -> None:
    before = contents(old.path)
    shown = fsbench("compare", "--store", old.path)
    assert shown.code == 0
    assert "90.0" in shown.out
    assert contents(old.path) == before
    # They do not say which code computed them.
    done = fsbench(*RUN, "--limit", "40", "--store", old.path, "--keep-stale")
    assert (done.code, "3 cells: 3 done already, 0 to run" in done.out) == (0, True)
    after = contents(old.path)
    assert {name: after[name] for name in before} == before


def test_migrate_adds_digests_and_changes_nothing_else(old: Store) -> None:
    logits = {name: file for name, file in contents(old.path).items() if name.endswith(".npz")}
    before = {record.spec.key(): record for record in old.records()}
    dry = fsbench("store", "migrate", "--dry-run", "--store", old.path)
    assert (dry.code, dry.out) == (0, "would migrate 4 records to schema 2\n")
    assert schemas(old) == [1] * CELLS
    done = fsbench("store", "migrate", "--store", old.path)
    assert (done.code, done.out) == (0, "migrated 4 records to schema 2\n")
    assert schemas(old) == [SCHEMA] * CELLS
    after = {record.spec.key(): record for record in old.records()}
    assert before.keys() == after.keys()
    for key, record in after.items():
        values, olds = record.to_dict(), before[key].to_dict()
        digests = values.pop("digests")
        assert olds.pop("digests") == {}
        assert values == olds
        if record.status == "done":
            assert digests["logits"] == digest_of_arrays(old.logits(key))
        assert set(digests) == ({"logits", "record"} if record.status == "done" else {"record"})
    assert {name: contents(old.path)[name] for name in logits} == logits
    report = verify(old)
    assert (report.findings, report.old) == ([], 0)
    again = fsbench("store", "migrate", "--store", old.path)
    assert (again.code, again.out) == (0, "migrated 0 records to schema 2\n")
    kept = fsbench(*RUN, "--limit", "40", "--store", old.path, "--keep-stale")
    assert "3 done already" in kept.out


def test_what_does_not_agree_is_named_and_left(old: Store) -> None:
    paths = [path for path in sorted(old.root.rglob("*.json")) if '"done"' in path.read_text()]
    paths[0].write_text(paths[0].read_text().replace('"top1": 90.0', '"top1": 91.0'))
    paths[1].with_suffix(".npz").unlink()
    paths[2].write_text("{")
    newer = put(old, 8)
    newer.write_text(newer.read_text().replace(f'"schema": {SCHEMA}', f'"schema": {SCHEMA + 1}'))
    kept = [path.read_bytes() for path in paths]
    done = fsbench("store", "migrate", "--store", old.path)
    assert done.code == 1
    for path, reason in zip(
        [*paths, newer],
        ["has top1 91.0, its logits give 90.0", "are missing", "Expecting", "upgrade"],
        strict=True,
    ):
        (line,) = [line for line in done.out.splitlines() if f"{path}: " in line]
        assert line.startswith("not migrated: ")
        assert reason in line
    assert "migrated 1 records to schema 2\n4 records were left as they are" in done.out
    assert [path.read_bytes() for path in paths] == kept


def test_a_record_that_is_written_meanwhile_stays(
    old: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = next(path for path in old.root.rglob("*.json") if '"failed"' in path.read_text())
    examine = store_migrate.examine

    def overtaken(path: Path) -> Cell:
        cell = examine(path)
        if path == failed:
            old.write(cell.record, [[1.0, 0.0]], [0], ["q"])
        return cell

    monkeypatch.setattr(store_migrate, "examine", overtaken)
    done = fsbench("store", "migrate", "--store", old.path)
    assert "written again meanwhile" in done.out
    assert old.logits(failed.stem)["ids"].tolist() == ["q"]


@pytest.mark.parametrize("moment", range(CELLS))
def test_a_kill_leaves_every_record_whole(old: Store, moment: int) -> None:
    assert killed_at(moment, "store", "migrate", "--store", old.path)
    assert schemas(old).count(SCHEMA) == moment
    assert {finding.kind for finding in verify(old).findings} == {"left over"}
    done = fsbench("store", "migrate", "--store", old.path)
    assert (done.code, done.out) == (0, f"migrated {CELLS - moment} records to schema 2\n")
    assert verify(old).findings == []


def test_a_store_that_cannot_be_written(old: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(source: object, target: object) -> None:
        raise OSError(30, "Read-only file system", str(target))

    monkeypatch.setattr(os, "replace", refused)
    done = fsbench("store", "migrate", "--store", old.path)
    assert done.code == 1
    assert done.out.count("cannot be written: Read-only file system") == CELLS
    assert schemas(old) == [1] * CELLS
