"""Chosen records are removed with their logits and caches; cells of running runs stay."""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from unittest import mock

import pytest

from fewshot_bench.api.record import Record
from fewshot_bench.store import clean as store_removal
from fewshot_bench.store.index import index_file
from fewshot_bench.store.leases import Leases
from fewshot_bench.store.predictions import Outcomes
from fewshot_bench.store.store import Store
from tests.support.answers import put_answers
from tests.support.compare_records import make
from tests.support.helpers import fsbench

RECORDS = [
    make("coop", "dtd", seed=1, method_version="1"),
    make("coop", "dtd", seed=1, method_version="2"),
    make("coop", "dtd", seed=2, method_version="2", top1=None),
    make("zero-shot", "dtd", seed=1),
    make("zero-shot", "pets", shots=4, seed=1),
]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """The records above, with logits and outcomes."""
    opened = Store(tmp_path / "store")
    opened.create()
    for number, record in enumerate(RECORDS):
        if record.status == "done":
            put_answers(opened, record, [[1.0, float(number)]], [0], ["a"])
        else:
            opened.write(record)
    records = list(opened.records())
    Outcomes(opened).prepare(records)
    return opened


def left(store: Store) -> set[str]:
    """Keys of remaining records and logits."""
    files = store.root.rglob("*.*")
    return {path.stem for path in files if path.suffix in (".json", ".npz")}


def keys_of_outcomes(store: Store) -> set[str]:
    """Keys of the cells whose outcomes are in the index."""
    with closing(sqlite3.connect(index_file(store.path))) as connection:
        return {key for (key,) in connection.execute("select key from outcomes")}


def keys(*numbers: int) -> set[str]:
    """The keys of these records."""
    return {RECORDS[number].spec.key() for number in numbers}


@pytest.mark.parametrize(
    ("asked", "gone"),
    [
        (("-m", "coop@1"), (0,)),
        (("-m", "coop"), (0, 1, 2)),
        (("--status", "failed"), (2,)),
        (("-m", "zero-shot", "--shots", "4"), (4,)),
        (("-d", "pets"), (4,)),
        (("--seeds", "1", "--status", "done,inapplicable", "-m", "coop"), (0, 1)),
        (("KEY",), (3,)),
    ],
)
def test_what_matches_goes_and_nothing_else(
    store: Store, asked: tuple[str, ...], gone: tuple[int, ...]
) -> None:
    asked = tuple(RECORDS[3].spec.key()[:10] if word == "KEY" else word for word in asked)
    dry = fsbench("store", "rm", "--store", store.path, *asked, "--dry-run")
    assert dry.code == 0
    assert left(store) == keys(0, 1, 2, 3, 4)
    assert all(RECORDS[number].spec.key()[:12] in dry.out for number in gone)
    asking = fsbench("store", "rm", "--store", store.path, *asked)
    assert (asking.code, left(store)) == (2, keys(0, 1, 2, 3, 4))
    assert "--yes" in asking.err
    done = fsbench("store", "rm", "--store", store.path, *asked, "--yes")
    assert done.code == 0, done.err
    assert left(store) == keys(0, 1, 2, 3, 4) - keys(*gone)
    assert f"removed {len(gone)} record" in done.out


def test_cells_without_a_result_are_of_no_weights(store: Store) -> None:
    stated = {"environment": {"weights_digest": "a" * 64}}
    for record in RECORDS:
        if record.status == "done":
            put_answers(store, dataclasses.replace(record, **stated), [[1.0, 0.0]], [0], ["a"])
    done = fsbench("store", "rm", "--weights", "aaa", "--yes", "--store", store.path)
    assert done.code == 0, done
    assert [record.status for record in store.records()] == ["failed"]


@pytest.mark.parametrize("answer", [True, False])
def test_a_person_is_asked(store: Store, answer: bool) -> None:
    with (
        mock.patch("sys.stdin.isatty", return_value=True),
        mock.patch("click.confirm", return_value=answer),
    ):
        done = fsbench("store", "rm", "--store", store.path, "-d", "pets")
    assert done.code == (0 if answer else 2)
    assert (keys(4) <= left(store)) is not answer


def test_caches_forget_it(store: Store) -> None:
    assert keys_of_outcomes(store) == keys(0, 1, 3, 4)
    fsbench("store", "rm", "--store", store.path, "-m", "coop@1", "--yes")
    assert keys_of_outcomes(store) == keys(1, 3, 4)


def test_what_a_run_computes_stays(store: Store) -> None:
    run = Leases(store, "run")
    run.claim(RECORDS[3].spec.fit_key())
    done = fsbench("store", "rm", "--store", store.path, "-m", "zero-shot", "--yes")
    run.close()
    assert done.code == 1
    assert "a run computes it" in done.err
    assert left(store) == keys(0, 1, 2, 3)
    assert not list((store.path / "claims").iterdir())


def test_what_was_written_anew_since_stays(store: Store) -> None:
    records = [store_removal.Chosen.of(store, record) for record in RECORDS[:1]]
    put_answers(store, RECORDS[0], [[3.0, 1.0]], [0], ["a"])
    ((_, problem),) = store_removal.remove(store, records)
    assert problem == store_removal.CHANGED
    assert left(store) == keys(0, 1, 2, 3, 4)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ((), "nothing says which records"),
        (("ab",), "at least 4 digits"),
        (("zzzzzz",), "no readable record's key"),
        (("--status", "fail"), "did you mean 'failed'"),
        (("-m", "coop@3"), "coop@3"),
        (("--status", "inapplicable"), "no record matches"),
    ],
)
def test_wrong_usage_removes_nothing(store: Store, asked: tuple[str, ...], message: str) -> None:
    done = fsbench("store", "rm", "--store", store.path, *asked, "--yes")
    assert done.code == 2
    assert message in done.err
    assert left(store) == keys(0, 1, 2, 3, 4)


@pytest.mark.parametrize("broken", ["json", "npz"])
def test_a_kill_leaves_no_record_without_logits(store: Store, broken: str) -> None:
    real: Callable[..., None] = Path.unlink

    def unlink(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == f".{broken}":
            raise OSError(5, "Input/output error")
        real(path, missing_ok)

    with mock.patch.object(Path, "unlink", unlink):
        done = fsbench("store", "rm", "--store", store.path, "-m", "coop@1", "--yes")
    assert done.code == 1
    assert "cannot be removed" in done.err
    record: Record | None = Store(store.path).get(RECORDS[0].spec.key())
    assert (record is None) is (broken == "npz")
