"""Several processes read a large store's records; the result is that of one process."""

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
from tests.store_cases import contents, filled, put, put_failed

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


def listed(store: Store) -> list[Record]:
    return list(Store(store.path).records())


def looked_up(store: Store, cells: list[RunSpec]) -> list[Record | None]:
    return [record for _, record in Store(store.path).held(cells)]


def test_two_processes_read_all_records(
    tmp_path: Path, started: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled(tmp_path / "s", SEEDS)
    with monkeypatch.context() as alone:
        alone.setattr(catch_up, "cores", lambda: 1)
        expected = listed(store)
    assert len(expected) == len(SEEDS)
    assert started() == []
    assert listed(store) == expected
    assert len(started()) == 2
    assert len(list(index_files(store.path))) == 2
    # The index is complete now.
    assert listed(store) == expected
    assert len(started()) == 2


def test_they_verify_answers_and_rename_nothing(
    tmp_path: Path, started: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled(tmp_path / "s", SEEDS)
    cells = [record.spec for record in listed(store)]
    damaged, absent = (store.file(cells[n].key()).with_suffix(".npz") for n in (3, 30))
    damaged.write_bytes(b"no archive")
    absent.unlink()
    put_failed(store, 1000)
    for path in index_files(store.path):
        path.unlink()
    before, count = contents(store.root), len(started())
    monkeypatch.setattr(store_index, "WORTH", 1)
    for share in range(2):
        catch_up.read_share(store.path, share, 2, verify=True)
    assert contents(store.root) == before
    checked: list[Path] = []
    monkeypatch.setattr("fewshot_bench.store.store.check", _logged(checked))
    found = looked_up(store, cells)
    assert [n for n, record in enumerate(found) if record is None] == [3, 30]
    # Only those that the processes could not verify are looked at again.
    assert set(checked) == {damaged, absent}
    assert damaged.with_name(f"{damaged.name}.damaged-1").exists()
    assert len(started()) == count


def _logged(paths: list[Path]) -> Callable[[Path, Record], None]:
    from fewshot_bench.store.answer_files import check

    def logged(path: Path, record: Record) -> None:
        paths.append(path)
        check(path, record)

    return logged


def test_answers_of_listed_records_are_verified(
    tmp_path: Path, started: Callable[[], list[str]]
) -> None:
    store = filled(tmp_path / "s", SEEDS)
    cells = [record.spec for record in listed(store)]
    assert len(started()) == 2
    assert None not in looked_up(store, cells)
    assert len(started()) == 4
    assert None not in looked_up(store, cells)
    assert len(started()) == 4


def test_few_cells_of_a_large_store_are_read_by_one_process(
    tmp_path: Path, started: Callable[[], list[str]]
) -> None:
    store = filled(tmp_path / "s", SEEDS)
    some = [put(store, seed) for seed in SEEDS[:19]]
    cells = [record.spec for record in listed(store) if store.file(record.spec.key()) in some]
    for path in index_files(store.path):
        path.unlink()
    before = len(started())
    assert None not in looked_up(store, cells)
    assert len(started()) == before


@pytest.mark.parametrize("program", ["absent", "false", "killed"])
def test_processes_that_fail_cost_time_alone(
    tmp_path: Path,
    started: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
    program: str,
) -> None:
    store = filled(tmp_path / "s", SEEDS)
    python = tmp_path / "failing"
    if program != "absent":
        ends = {"false": "exit 1", "killed": "kill -9 $$"}
        python.write_text(f"#!/bin/sh\n{ends[program]}\n")
        python.chmod(0o755)
    monkeypatch.setattr(catch_up.sys, "executable", str(python))
    assert len(listed(store)) == len(SEEDS)
    assert not started()
