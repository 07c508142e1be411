"""SQLite files of derived values: versions, damage, processes, kills, refusals."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fewshot_bench.utils import database
from fewshot_bench.utils.database import Database

SCHEMA = "create table number(id integer primary key, square int)"
COUNT = "select count(*) from number"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "numbers.sqlite"


def fill(base: Database, numbers: range) -> None:
    with base.write() as connection:
        connection.executemany(
            "insert or ignore into number values(?, ?)", ((n, n * n) for n in numbers)
        )


def test_what_is_written_is_read_by_others(path: Path) -> None:
    fill(Database(path, SCHEMA), range(100))
    base = Database(path, SCHEMA)
    assert base.read("select square from number where id=?", [9]) == [(81,)]
    assert base.read(COUNT) == [(100,)]
    assert not base.in_memory
    base.close()
    assert base.read(COUNT) == [(100,)]


def test_a_transaction_that_fails_leaves_nothing(path: Path) -> None:
    base = Database(path, SCHEMA)
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        base.read("select * from letter")
    rows = [(1, 1), (1, 1)]
    with pytest.raises(sqlite3.IntegrityError), base.write() as connection:
        connection.executemany("insert into number values(?, ?)", rows)
    assert base.read(COUNT) == [(0,)]


@pytest.mark.parametrize("content", [b"no database" * 1000, b"SQLite format 3\0" + bytes(5000)])
def test_a_damaged_file_is_made_anew(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    base = Database(path, SCHEMA)
    fill(base, range(3))
    assert base.read(COUNT) == [(3,)]
    assert not base.in_memory
    assert base.damage


def test_files_of_other_versions_and_programs_are_made_anew(path: Path) -> None:
    fill(Database(path, SCHEMA), range(3))
    assert Database(path, SCHEMA, 2).read(COUNT) == [(0,)]
    other = Database(path, f"{SCHEMA}; create index squares on number(square)", 2)
    assert other.read(COUNT) == [(0,)]
    path.unlink()
    foreign = sqlite3.connect(path)
    foreign.execute("create table letter(id int)")
    foreign.close()
    assert Database(path, SCHEMA).read(COUNT) == [(0,)]


@pytest.mark.parametrize("seed", range(5))
def test_damage_at_any_place_raises_nothing(path: Path, seed: int) -> None:
    base = Database(path, SCHEMA, durable=bool(seed % 2))
    fill(base, range(2000))
    base.close()
    data, rng = bytearray(path.read_bytes()), random.Random(seed)
    for _ in range(30):
        data[rng.randrange(len(data))] ^= 255
    start = rng.randrange(len(data) - 2048)
    data[start : start + 2048] = bytes(2048)
    path.write_bytes(data)
    base = Database(path, SCHEMA)
    for _ in range(2):
        assert len(base.read("select * from number order by square")) <= 2000
    try:
        fill(base, range(2000, 2100))
    except OSError:
        fill(base, range(2000, 2100))
    assert base.read(f"{COUNT} where id>=2000") == [(100,)]


def test_a_removed_file_is_noticed(path: Path) -> None:
    base = Database(path, SCHEMA)
    fill(base, range(3))
    for file in path.parent.iterdir():
        file.unlink()
    fill(base, range(5))
    assert Database(path, SCHEMA).read(COUNT) == [(5,)]


def test_one_that_only_reads_creates_nothing_and_sees_what_others_write(path: Path) -> None:
    reader = Database(path, SCHEMA, writes=False)
    assert reader.read(COUNT) == [(0,)]
    assert not path.parent.exists()
    fill(Database(path, SCHEMA), range(3))
    assert reader.read(COUNT) == [(3,)]
    with pytest.raises(OSError, match="readonly"):
        fill(reader, range(5))
    assert Database(path, SCHEMA, 2, writes=False).read(COUNT) == [(0,)]
    path.write_bytes(b"no database" * 1000)
    assert Database(path, SCHEMA, writes=False).read(COUNT) == [(0,)]
    assert path.read_bytes() == b"no database" * 1000


def test_where_no_file_can_be_made_values_live_in_memory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (None, tmp_path / "file" / "numbers.sqlite", tmp_path):
        base = Database(path, SCHEMA)
        fill(base, range(3))
        assert base.read(COUNT) == [(3,)]
        assert base.in_memory


def test_a_link_is_not_followed(path: Path, tmp_path: Path) -> None:
    path.parent.mkdir()
    path.symlink_to(tmp_path / "elsewhere")
    fill(Database(path, SCHEMA), range(3))
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("local", [True, False])
def test_a_lock_that_is_held_too_long_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch, local: bool
) -> None:
    monkeypatch.setattr(database, "_is_local", lambda _: local)
    base = Database(path, SCHEMA)
    fill(base, range(3))
    assert path.with_name(f"{path.name}-wal").exists() == local
    with base.write() as connection:
        connection.execute("insert into number values(9, 81)")
        other = Database(path, SCHEMA, timeout=0.01)
        with pytest.raises(OSError, match="locked"):
            fill(other, range(5))
        assert other.read(COUNT) == [(3,)]
    fill(other, range(5))
    assert other.read(COUNT) == [(6,)]


@pytest.mark.parametrize("umask", [0o002, 0o022, 0o077])
def test_users_of_a_shared_folder_share_its_files(path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        base = Database(path, SCHEMA)
        fill(base, range(3))
    finally:
        os.umask(before)
    assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o666 & ~umask}


def test_threads_and_forked_children_share_a_file(path: Path) -> None:
    base = Database(path, SCHEMA)
    parts = [range(start, start + 50) for start in range(0, 400, 50)]
    threads = [threading.Thread(target=fill, args=(base, part)) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    child = os.fork()
    if not child:
        fill(base, range(400, 500))
        os._exit(base.read(COUNT) != [(500,)])
    assert os.waitpid(child, 0)[1] == 0
    assert base.read(COUNT) == [(500,)]


WRITER = f"""
import sys
from pathlib import Path
from fewshot_bench.utils.database import Database
base = Database(Path(sys.argv[1]), {SCHEMA!r}, durable=bool(sys.argv[3]))
for number in range(int(sys.argv[2]), 10**6, 2):
    with base.write() as connection:
        connection.execute("insert or ignore into number values(?, ?)", (number, number ** 2))
    print(number, flush=True)
"""


@pytest.mark.parametrize("durable", [True, False])
def test_killed_writers_lose_no_transaction(path: Path, durable: bool) -> None:
    base = Database(path, SCHEMA, durable=durable)
    base.read(COUNT)
    base.close()
    written: set[int] = set()
    for _ in range(2):
        writers = [
            subprocess.Popen(
                [sys.executable, "-c", WRITER, str(path), str(first), "x" * durable],
                stdout=subprocess.PIPE,
            )
            for first in range(2)
        ]
        for writer in writers:
            assert writer.stdout is not None
            written |= {int(writer.stdout.readline()) for _ in range(20)}
            writer.send_signal(signal.SIGKILL)
            # A line that the kill cut is none.
            lines = writer.communicate()[0].split(b"\n")[:-1]
            written |= {int(line) for line in lines}
    rows = dict(base.read("select id, square from number"))
    assert written <= rows.keys()
    assert all(square == number**2 for number, square in rows.items())
    assert base.read("pragma integrity_check") == [("ok",)]


@pytest.mark.parametrize("number", sorted(database.NO_LOCKS))
@pytest.mark.parametrize("writes", [True, False])
def test_a_disk_without_locks_is_not_waited_for(
    path: Path, monkeypatch: pytest.MonkeyPatch, number: int, writes: bool
) -> None:
    def refused(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    fill(Database(path, SCHEMA), range(3))
    monkeypatch.setattr("fcntl.lockf", refused)
    base = Database(path, SCHEMA, writes=writes)
    fill(base, range(100))
    assert base.in_memory
    assert base.read(COUNT) == [(100,)]
    monkeypatch.undo()
    assert Database(path, SCHEMA).read(COUNT) == [(3,)]
