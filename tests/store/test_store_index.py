"""The index of a store: records() gives the same result with and without it."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.store import index as store_index
from fewshot_bench.store.index import TABLES, VERSION, index_file, index_files
from fewshot_bench.store.store import Store
from fewshot_bench.utils.database import Database
from tests.support.store_cases import filled, put, put_failed, result

# Longer than a tick of the file system's clock.
SETTLED = 0.02


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write the index for a single new row, and let files settle quickly."""
    hasten(monkeypatch)


def hasten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_index, "WORTH", 1)
    monkeypatch.setattr(store_index, "SETTLED_SECONDS", SETTLED)


def listed(store: Store) -> tuple[list[Record], list[str]]:
    """Records listed by a new `Store`, and those it reports as damaged."""
    opened = Store(store.path)
    return list(opened.records()), [str(damage) for damage in opened.damaged]


def indexed(store: Store) -> tuple[list[Record], list[str]]:
    time.sleep(2 * SETTLED)
    return listed(store)


def in_memory(store: Path, *, create: bool = False) -> Database:
    return Database(None, TABLES, VERSION)


def unindexed(store: Store) -> tuple[list[Record], list[str]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_index, "open_index_file", in_memory)
        return listed(store)


def rows(store: Store) -> dict[str, bytes]:
    """Stamps by key of the records in the index."""
    if not index_file(store.path).exists():
        return {}
    with closing(sqlite3.connect(index_file(store.path))) as connection:
        return dict(connection.execute("select key, stamp from records"))


def checkpointed(store: Store) -> Path:
    """The file of the index, with the content of its log; an empty one if there is none yet."""
    index_file(store.path).parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(index_file(store.path))) as connection:
        connection.execute("pragma wal_checkpoint(truncate)")
    return index_file(store.path)


def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Log of record files opened from now on."""
    from fewshot_bench.store import record_files as module

    opened: list[Path] = []
    read = module.read_content

    def counted(path: Path | str) -> bytes:
        opened.append(Path(path))
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
    # From here on no file settles, however long a listing takes.
    monkeypatch.setattr(store_index, "SETTLED_SECONDS", 3600)
    changed = put(store, 3, shift=1.0)
    assert listed(store) == unindexed(store) != first
    assert set(opened) >= {changed}
    opened.clear()
    assert listed(store) == unindexed(store)
    assert opened.count(changed) == 2


def test_a_few_records_are_not_worth_an_index(tmp_path: Path) -> None:
    store = filled(tmp_path / "s", range(5))
    assert len(listed(store)[0]) == 5
    assert not rows(store)


def checks(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Log of record and logits files checked from now on."""
    from fewshot_bench.store import store as module

    checked: list[Path] = []
    read, check = module.read_record, module.check

    def reading(path: Path) -> Record:
        checked.append(path)
        return read(path)

    def checking(path: Path, record: Record) -> None:
        checked.append(path)
        check(path, record)

    monkeypatch.setattr(module, "read_record", reading)
    monkeypatch.setattr(module, "check", checking)
    return checked


def held(store: Store) -> dict[str, Record]:
    """Records found by a run that requests all cells."""
    paths = sorted(store.root.rglob("*.json"))
    for path in paths:
        if path.stem not in SPECS:
            SPECS[path.stem] = RunSpec.from_dict(json.loads(path.read_bytes())["spec"])
    held_cells = Store(store.path).read_cells([SPECS[path.stem] for path in paths])
    return {cell.key(): record for cell, record in held_cells if record is not None}


# Specifications of records read before they were damaged.
SPECS: dict[str, RunSpec] = {}


@pytest.mark.usefixtures("eager")
def test_resuming_checks_what_has_changed_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled(tmp_path / "s", range(5))
    put_failed(store, 7)
    time.sleep(2 * SETTLED)
    expected = {record.spec.key(): record for record in listed(store)[0]}
    checked = checks(monkeypatch)
    assert held(store) == expected
    # The records were indexed, but their logits were not checked yet.
    assert sorted(checked) == sorted(store.root.rglob("*.npz"))
    checked.clear()
    assert held(store) == expected
    assert checked == []
    logits = next(store.root.rglob("*.npz"))
    os.utime(logits)
    assert held(store) == expected
    assert checked == [logits]
    logits.write_bytes(logits.read_bytes()[:-7])
    assert held(store).keys() == expected.keys() - {logits.stem}
    assert logits.with_name(f"{logits.name}.damaged-1").exists()
    assert held(store).keys() == expected.keys() - {logits.stem}


@pytest.mark.usefixtures("eager")
def test_entries_of_indexed_records_are_those_of_the_records(tmp_path: Path) -> None:
    store = filled(tmp_path / "s", range(5))
    indexed(store)
    for record, whole in zip(listed(store)[0], unindexed(store)[0], strict=True):
        for part in ("split", "metrics", "footprint", "timings", "environment", "digests"):
            for name in [*getattr(whole, part), "absent"]:
                assert record.entry(part, name) == getattr(whole, part).get(name)
                assert whole.entry(part, name) == getattr(whole, part).get(name)
    names = ("load", "code.digest", "absent")
    plain = Record.entries(unindexed(store)[0], "environment", *names, absent=-1)
    assert Record.entries(listed(store)[0], "environment", *names, absent=-1) == plain
    mixed = [*listed(store)[0], *unindexed(store)[0]]
    assert Record.entries(mixed, "environment", *names, absent=-1) == plain * 2
    assert Record.entries([], "environment", *names) == []


@pytest.mark.usefixtures("eager")
def test_resuming_needs_no_listing_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(tmp_path / "s", range(5))
    time.sleep(2 * SETTLED)
    first = held(store)
    checked, opened = checks(monkeypatch), reads(monkeypatch)
    assert held(store) == first
    assert list(Store(store.path).records()) == list(first.values())
    assert checked == opened == []


@pytest.mark.usefixtures("eager")
def test_what_was_just_written_is_not_indexed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second change within one clock tick could leave the same stamp."""
    monkeypatch.setattr(store_index, "SETTLED_SECONDS", 60)
    store = filled(tmp_path / "s")
    listed(store)
    assert not rows(store)


@pytest.mark.usefixtures("eager")
def test_threads_read_the_same(tmp_path: Path) -> None:
    store = filled(tmp_path / "s", range(40))
    indexed(store)
    expected = [record.to_dict() for record in unindexed(store)[0]]
    records = listed(store)[0]
    with ThreadPoolExecutor(6) as pool:
        read = pool.map(lambda _: [record.to_dict() for record in records], range(6))
        assert all(values == expected for values in read)


@pytest.mark.usefixtures("eager")
def test_no_bit_of_an_index_can_change_what_is_read(tmp_path: Path) -> None:
    store = filled(tmp_path / "s", [1])
    expected = indexed(store)
    index = checkpointed(store)
    whole = index.read_bytes()
    draw = random.Random(3)
    for _ in range(60):
        data = bytearray(whole)
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        for path in index_files(store.path):
            path.unlink()
        index.write_bytes(data)
        assert listed(store) == expected


@pytest.mark.usefixtures("eager")
def test_what_no_file_has_any_more_leaves_the_index(tmp_path: Path) -> None:
    store = filled(tmp_path / "s", range(10))
    indexed(store)
    for seed in range(10):
        put(store, seed, shift=1.0)
    assert indexed(store) == unindexed(store)
    assert len(rows(store)) == 10
    shutil.rmtree(store.root)
    assert listed(store) == ([], [])
    assert not rows(store)


@pytest.mark.usefixtures("eager")
def test_an_index_of_another_store_is_no_use(tmp_path: Path) -> None:
    one, other = filled(tmp_path / "a"), filled(tmp_path / "b")
    put(other, 1, shift=2.0)
    indexed(one)
    shutil.copy(checkpointed(one), index_file(other.path))
    assert listed(other) == unindexed(other) != listed(one)


@pytest.mark.usefixtures("eager")
def test_two_names_of_a_store_have_one_index(tmp_path: Path) -> None:
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert index_file(tmp_path / "a") == index_file(tmp_path / "b")


@pytest.mark.usefixtures("eager")
def test_a_record_that_is_replaced_after_it_was_listed_stays_as_it_was(tmp_path: Path) -> None:
    store = filled(tmp_path / "s")
    expected, _ = unindexed(store)
    indexed(store)
    (record, *_) = listed(store)[0]
    for path in index_files(store.path):
        path.unlink()
    put(store, record.spec.split_seed, shift=1.0)
    assert record == expected[0]


@pytest.mark.usefixtures("eager")
def test_a_writer_that_is_killed_leaves_the_index_as_it_was(tmp_path: Path) -> None:
    store = filled(tmp_path / "s", range(4))
    indexed(store)
    before = rows(store)
    put(store, 9)
    time.sleep(2 * SETTLED)
    done = subprocess.run([sys.executable, "-c", KILLED, store.path], check=False)
    assert done.returncode == -9
    assert rows(store) == before
    assert listed(store) == unindexed(store)
    assert len(rows(store)) == 5


KILLED = """
import os, sys
from pathlib import Path
from fewshot_bench.store import index
from fewshot_bench.store.store import Store
index.WORTH, index.SETTLED_SECONDS = 1, 0.02
class Killing(dict):
    def items(self):
        os.kill(os.getpid(), 9)
begin = index.Index.__init__
def start(self, store):
    begin(self, store)
    self._verdicts = Killing()
index.Index.__init__ = start
list(Store(Path(sys.argv[1])).records())
"""


@pytest.mark.usefixtures("eager")
def test_several_readers_and_a_writer_at_once(tmp_path: Path) -> None:
    store = filled(tmp_path / "s", range(6))
    time.sleep(2 * SETTLED)

    def read(number: int) -> int:
        if number % 5 == 0:
            put(store, number % 6)
        if number % 7 == 0:
            for path in index_files(store.path):
                path.unlink(missing_ok=True)
        records, damaged = listed(store)
        assert damaged == []
        return len(records)

    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(read, range(60))) == {6}
    assert listed(store) == unindexed(store)


class Anything(RuleBasedStateMachine):
    """For any changes of record files and the index, both ways of reading agree."""

    seeds = st.integers(0, 4)

    @initialize()
    def begin(self) -> None:
        self.patch = pytest.MonkeyPatch()
        hasten(self.patch)
        for spec in (result(seed)[0].spec for seed in range(5)):
            SPECS[spec.key()] = spec
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
            if data[: position % len(data)].endswith(b'"schema": '):
                # A record of a newer version is not damaged: a run refuses it.
                return
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
        self.kept = checkpointed(self.store).read_bytes()

    def _replace_index(self, content: bytes) -> None:
        for path in index_files(self.store.path):
            path.unlink()
        index_file(self.store.path).write_bytes(content)

    @rule()
    def old_index(self) -> None:
        self._replace_index(self.kept)

    @rule(position=st.integers(0, 10**6))
    def cut_index(self, position: int) -> None:
        content = checkpointed(self.store).read_bytes()
        self._replace_index(content[: position % (len(content) + 1)])

    @rule()
    def resume(self) -> None:
        """`held` omits renamed records and those without logits; reading all gives the same."""
        cells = held(self.store)
        keys = [path.stem for path in sorted(self.store.root.rglob("*.json"))]
        fresh = Store(self.store.path)
        read = {key: record for key in keys if (record := fresh.get(key)) is not None}
        assert cells == read

    @rule()
    def settle(self) -> None:
        time.sleep(2 * SETTLED)

    @invariant()
    def both_agree(self) -> None:
        assert listed(self.store) == unindexed(self.store)


Anything.TestCase.settings = settings(max_examples=10, stateful_step_count=15)
test_whatever_happens = Anything.TestCase
