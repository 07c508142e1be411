"""The index of a store: records() gives with it what it gives without it."""

from __future__ import annotations

import errno
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fewshot_bench.api.record import Record
from fewshot_bench.store import index as store_index
from fewshot_bench.store.index import INDEX, Index
from fewshot_bench.store.store import Store
from fewshot_bench.utils.files import TEMPORARY
from tests.store_cases import filled, put, put_failed

# Above a tick of the file system's clock.
SETTLED = 0.02


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """An index is worth writing for one new entry, and files settle quickly."""
    monkeypatch.setattr(store_index, "WORTH", 1)
    monkeypatch.setattr(store_index, "WORTH_SHARE", 0)
    monkeypatch.setattr(store_index, "SETTLED_SECONDS", SETTLED)


def listed(store: Store) -> tuple[list[Record], list[str]]:
    """The records that a new `Store` lists, and those that it reports as damaged."""
    opened = Store(store.path)
    return list(opened.records()), [str(damage) for damage in opened.damaged]


def indexed(store: Store) -> tuple[list[Record], list[str]]:
    time.sleep(2 * SETTLED)
    return listed(store)


def unindexed(store: Store) -> tuple[list[Record], list[str]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Index, "load", classmethod(lambda cls, path: cls(path, {})))
        patch.setattr(Index, "save", lambda self: None)
        return listed(store)


def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The record files that are opened from now on."""
    from fewshot_bench.store import store as module

    opened: list[Path] = []
    read = module.read_content

    def counted(path: Path) -> bytes:
        opened.append(path)
        return read(path)

    monkeypatch.setattr(module, "read_content", counted)
    return opened


@pytest.mark.usefixtures("eager")
def test_an_index_spares_opening_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(tmp_path / "s", range(5))
    first = indexed(store)
    opened = reads(monkeypatch)
    assert listed(store) == first
    assert opened == []
    changed = put(store, 3, shift=1.0)
    assert listed(store) == unindexed(store) != first
    assert set(opened) >= {changed}
    opened.clear()
    assert listed(store) == unindexed(store)
    assert opened.count(changed) == 2


def test_a_few_records_are_not_worth_an_index(tmp_path: Path) -> None:
    store = filled(tmp_path / "s", range(5))
    assert len(listed(store)[0]) == 5
    assert not (store.path / INDEX).exists()


@pytest.mark.usefixtures("eager")
def test_what_was_just_written_is_not_indexed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second change within a tick of the clock could leave the same stamp."""
    monkeypatch.setattr(store_index, "SETTLED_SECONDS", 60)
    store = filled(tmp_path / "s")
    listed(store)
    assert not (store.path / INDEX).exists()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "deleted": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "foreign": lambda path: path.write_text("my own notes\n"),
    "binary": lambda path: path.write_bytes(bytes(range(256)) * 20),
    "version": lambda path: path.write_bytes(path.read_bytes().replace(b"index [1,", b"index [9,")),
    "changed": lambda path: path.write_bytes(path.read_bytes().replace(b'"n": 30', b'"n": 31')),
}


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_bad_index_is_ignored_and_made_again(tmp_path: Path, damage: str) -> None:
    store = filled(tmp_path / "s")
    index = store.path / INDEX
    indexed(store)
    whole = index.read_bytes()
    DAMAGES[damage](index)
    assert not index.exists() or index.read_bytes() != whole
    assert listed(store) == unindexed(store)
    assert index.read_bytes() == whole


@pytest.mark.usefixtures("eager")
def test_no_bit_of_an_index_can_change_what_is_read(tmp_path: Path) -> None:
    store = filled(tmp_path / "s", [1])
    index = store.path / INDEX
    expected = indexed(store)
    whole = index.read_bytes()
    draw = random.Random(3)
    for _ in range(200):
        data = bytearray(whole)
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        index.write_bytes(data)
        assert listed(store) == expected


@pytest.mark.usefixtures("eager")
def test_an_index_of_another_store_is_no_use(tmp_path: Path) -> None:
    one, other = filled(tmp_path / "a"), filled(tmp_path / "b")
    put(other, 1, shift=2.0)
    indexed(one)
    shutil.copy(one.path / INDEX, other.path / INDEX)
    assert listed(other) == unindexed(other) != listed(one)


@pytest.mark.usefixtures("eager")
def test_a_store_that_cannot_be_written_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled(tmp_path / "s")
    time.sleep(2 * SETTLED)

    def refused(path: Path, content: bytes) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(store_index, "write_whole", refused)
    assert len(listed(store)[0]) == 3
    assert not (store.path / INDEX).exists()


@pytest.mark.usefixtures("eager")
def test_several_readers_and_a_writer_at_once(tmp_path: Path) -> None:
    store = filled(tmp_path / "s", range(6))
    time.sleep(2 * SETTLED)

    def read(number: int) -> int:
        if number % 5 == 0:
            put(store, number % 6)
        if number % 7 == 0:
            (store.path / INDEX).unlink(missing_ok=True)
        records, damaged = listed(store)
        assert damaged == []
        return len(records)

    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(read, range(120))) == {6}
    assert listed(store) == unindexed(store)
    assert not list(store.path.rglob(f"{TEMPORARY}*"))


class Anything(RuleBasedStateMachine):
    """Whatever happens to record files and the index, both ways of reading agree."""

    seeds = st.integers(0, 4)

    @initialize()
    def begin(self) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(store_index, "WORTH", 1)
        self.patch.setattr(store_index, "WORTH_SHARE", 0)
        self.patch.setattr(store_index, "SETTLED_SECONDS", SETTLED)
        self.folder = Path(tempfile.mkdtemp())
        self.store = filled(self.folder / "s", [0, 1])
        self.kept = b""

    def teardown(self) -> None:
        self.patch.undo()
        shutil.rmtree(self.folder)

    def _chosen(self, number: int) -> Path | None:
        files = sorted(self.store.root.rglob("*.json"))
        return files[number % len(files)] if files else None

    @rule(seed=seeds, shift=st.sampled_from([0.0, 1.0]))
    def write(self, seed: int, shift: float) -> None:
        put(self.store, seed, shift)

    @rule(seed=seeds)
    def fail(self, seed: int) -> None:
        put_failed(self.store, seed)

    @rule(number=seeds, position=st.integers(0, 10**6), bit=st.integers(0, 7))
    def corrupt(self, number: int, position: int, bit: int) -> None:
        path = self._chosen(number)
        if path is not None and path.stat().st_size:
            times = path.stat()
            data = bytearray(path.read_bytes())
            data[position % len(data)] ^= 1 << bit
            path.write_bytes(data)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    @rule(number=seeds)
    def delete(self, number: int) -> None:
        path = self._chosen(number)
        if path is not None:
            path.unlink()

    @rule(one=seeds, other=seeds)
    def swap(self, one: int, other: int) -> None:
        first, second = self._chosen(one), self._chosen(other)
        if first is not None and second is not None and first != second:
            first.rename(first.with_suffix(".x"))
            second.rename(first)
            first.with_suffix(".x").rename(second)

    @rule(number=seeds)
    def misplace(self, number: int) -> None:
        path = self._chosen(number)
        if path is not None and not (self.store.root / "zz").exists():
            path.parent.rename(self.store.root / "zz")

    @rule()
    def keep_index(self) -> None:
        index = self.store.path / INDEX
        self.kept = index.read_bytes() if index.exists() else b""

    @rule()
    def old_index(self) -> None:
        (self.store.path / INDEX).write_bytes(self.kept)

    @rule(position=st.integers(0, 10**6))
    def cut_index(self, position: int) -> None:
        index = self.store.path / INDEX
        if index.exists():
            index.write_bytes(index.read_bytes()[: position % (index.stat().st_size + 1)])

    @rule()
    def settle(self) -> None:
        time.sleep(2 * SETTLED)

    @invariant()
    def both_agree(self) -> None:
        assert listed(self.store) == unindexed(self.store)


Anything.TestCase.settings = settings(max_examples=25, stateful_step_count=15)
test_whatever_happens = Anything.TestCase
