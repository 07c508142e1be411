"""`fsbench store merge` when killed, run twice at once, or unable to write."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from fewshot_bench.store import merge as store_merge
from fewshot_bench.store.store import Store
from fewshot_bench.store.verify import verify
from fewshot_bench.utils.files import TEMPORARY
from tests.support.helpers import PATIENCE, start
from tests.support.merging import merge, picks, results
from tests.support.store_cases import filled, flip, killed_at, put, result


@pytest.mark.parametrize("moment", range(5))
def test_a_kill_leaves_nothing_half_written(tmp_path: Path, moment: int) -> None:
    """Order of renames: the picks, then logits and record of each cell."""
    source, here = filled(tmp_path / "b", [1, 2]), Store(tmp_path / "a")
    picks(source.path)
    assert killed_at(moment, "store", "merge", source.path, "--store", here.path)
    for path in here.path.rglob("*.json"):
        assert path.read_bytes() == (source.path / path.relative_to(here.path)).read_bytes()
        if path.is_relative_to(here.root):
            assert here.complete(path.stem)
    assert merge(here, source).code == 0
    assert results(here) == results(source)
    assert not list(here.path.rglob(f"{TEMPORARY}*"))
    assert verify(here).findings == []


def test_a_kill_while_a_damaged_cell_is_replaced(tmp_path: Path) -> None:
    for moment in range(2):
        source, here = filled(tmp_path / f"b{moment}", [1]), filled(tmp_path / f"a{moment}", [1])
        path = here.file(result(1)[0].spec.key())
        flip(path, 400)
        assert killed_at(moment, "store", "merge", source.path, "--store", here.path)
        assert merge(here, source).code == 0
        assert here.complete(path.stem)
        assert path.read_bytes() == source.file(path.stem).read_bytes()


def test_merges_at_once_overwrite_nothing(tmp_path: Path) -> None:
    """Five cells differ: the second merge reports them as conflicts."""
    one, other = filled(tmp_path / "a", range(15)), filled(tmp_path / "b", range(15, 25))
    for seed in range(10, 15):
        put(other, seed, shift=9.0)
    here = Store(tmp_path / "all")
    started = [
        start("store", "merge", source, "--store", here.path) for source in (one.path, other.path)
    ]
    ended = [process.communicate() for process in started]
    said = "".join(out for out, _ in ended)
    assert sorted(process.returncode for process in started) == [0, 1], ended
    assert said.count("conflict: ") == 5
    assert len(list(here.records())) == 25
    assert verify(here).findings == []
    assert "Traceback" not in "".join(err for _, err in ended)


def test_a_merge_waits_for_another(tmp_path: Path) -> None:
    from fewshot_bench.utils.locks import exclusive

    one, here = filled(tmp_path / "a", [1]), filled(tmp_path / "b", [])
    with exclusive(here.path, "records"):
        process = start("store", "merge", one.path, "--store", here.path)
        assert process.stderr is not None
        assert process.stderr.readline().startswith("waiting for another merge")
        assert results(here) == {}
    out, _ = process.communicate(timeout=PATIENCE)
    assert out == f"{one.path}: 1 copied\n"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, here = filled(tmp_path / "a", [1]), filled(tmp_path / "b", [])

    def refused(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refused)
    done = merge(here, one)
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert f"cannot lock '{here.path}'" in done.err
    assert os.strerror(number) in done.err
    assert results(here) == {}


def test_a_destination_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, here = filled(tmp_path / "b"), filled(tmp_path / "a", [])
    picks(source.path)

    def refused(path: Path, content: bytes) -> None:
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr(store_merge, "write_whole", refused)
    done = merge(here, source)
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "cannot write" in done.err
    assert "Read-only file system" in done.err
