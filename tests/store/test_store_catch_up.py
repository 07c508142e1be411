"""Several processes read a large store's cells; the result is that of one process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.store import catch_up
from fewshot_bench.store import index as store_index
from fewshot_bench.store.index import index_files
from fewshot_bench.store.store import Store
from tests.store_cases import contents, filled, put_failed

SEEDS = range(40)

# An interpreter whose index is written for a single record, however new.
EAGER = """#!{python}
import runpy, sys
from pathlib import Path
from fewshot_bench.store import index
index.WORTH, index.SETTLED_SECONDS = 1, -3600
with Path({log!r}).open("a") as log:
    log.write(" ".join(sys.argv) + "\\n")
module = sys.argv[3]
sys.argv = sys.argv[3:]
runpy.run_module(module, run_name="__main__")
"""


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Commands of the processes that were started; a few records are worth two of them."""
    log, python = tmp_path / "log", tmp_path / "python"
    log.touch()
    python.write_text(EAGER.format(python=sys.executable, log=str(log)))
    python.chmod(0o755)
    monkeypatch.setattr(catch_up.sys, "executable", str(python))
    monkeypatch.setattr(catch_up, "WORTH", len(SEEDS))
    monkeypatch.setattr(catch_up, "cores", lambda: 2)
    monkeypatch.setattr(store_index, "SETTLED_SECONDS", -3600)
    return lambda: log.read_text().splitlines()


def looked_up(store: Store, cells: list[RunSpec]) -> list[Record | None]:
    return [record for _, record in Store(store.path).held(cells)]


def made(folder: Path) -> tuple[Store, list[RunSpec]]:
    """A store without an index, and its cells."""
    store = filled(folder, SEEDS)
    cells = [record.spec for record in Store(folder).records()]
    without_index(store)
    return store, cells


def without_index(store: Store) -> None:
    for path in index_files(store.path):
        path.unlink()


def test_processes_read_all_cells(
    tmp_path: Path, started: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, cells = made(tmp_path / "s")
    with monkeypatch.context() as alone:
        alone.setattr(catch_up, "cores", lambda: 1)
        expected = looked_up(store, cells)
    assert None not in expected
    without_index(store)
    assert started() == []
    assert looked_up(store, cells) == expected
    assert [line.split()[4] for line in started()] == ["read", "read", "join"]
    # The index is complete now, in one file.
    assert len(list(index_files(store.path))) == 1
    assert looked_up(store, cells) == expected
    assert len(started()) == 3


def test_answers_of_listed_records_are_verified(
    tmp_path: Path, started: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, cells = made(tmp_path / "s")
    monkeypatch.setattr(store_index, "WORTH", 1)
    assert len(list(Store(store.path).records())) == len(SEEDS)
    assert len(list(index_files(store.path))) == 1
    assert None not in looked_up(store, cells)
    assert len(started()) == 3
    assert None not in looked_up(store, cells)
    assert len(started()) == 3


def test_they_verify_answers_and_rename_nothing(
    tmp_path: Path, started: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, cells = made(tmp_path / "s")
    damaged, absent = (store.file(cells[n].key()).with_suffix(".npz") for n in (3, 30))
    damaged.write_bytes(b"no archive")
    absent.unlink()
    put_failed(store, 1000)
    before = contents(store.root)
    monkeypatch.setattr(store_index, "WORTH", 1)
    for share in range(2):
        catch_up.read_share(store.path, share, 2)
    assert contents(store.root) == before
    checked: list[Path] = []
    monkeypatch.setattr("fewshot_bench.store.store.check", _logged(checked))
    found = looked_up(store, cells)
    assert [n for n, record in enumerate(found) if record is None] == [3, 30]
    # Only those that the processes could not verify are looked at again.
    assert set(checked) == {damaged, absent}
    assert damaged.with_name(f"{damaged.name}.damaged-1").exists()
    assert not started()


def _logged(paths: list[Path]) -> Callable[[Path, Record], None]:
    from fewshot_bench.store.answer_files import check

    def logged(path: Path, record: Record) -> None:
        paths.append(path)
        check(path, record)

    return logged


def test_few_cells_of_a_large_store_are_read_by_one_process(
    tmp_path: Path, started: Callable[[], list[str]]
) -> None:
    store, cells = made(tmp_path / "s")
    assert None not in looked_up(store, cells[:19])
    assert not started()


@pytest.mark.parametrize("program", ["absent", "false", "killed"])
def test_processes_that_fail_cost_time_alone(
    tmp_path: Path,
    started: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
    program: str,
) -> None:
    store, cells = made(tmp_path / "s")
    python = tmp_path / "failing"
    if program != "absent":
        ends = {"false": "exit 1", "killed": "kill -9 $$"}
        python.write_text(f"#!/bin/sh\n{ends[program]}\n")
        python.chmod(0o755)
    monkeypatch.setattr(catch_up.sys, "executable", str(python))
    assert None not in looked_up(store, cells)
    assert not started()


def test_a_folder_that_cannot_be_listed_is_read_by_one_process(
    tmp_path: Path, started: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, cells = made(tmp_path / "s")

    def refused(folder: Path) -> list[Path]:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(catch_up, "sorted_entries", refused)
    assert None not in looked_up(store, cells)
    assert not started()
