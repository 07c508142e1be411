"""Leases: one holder at a time, and none that outlives its process or its expiry."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewshot_bench.store import leases as leases_module
from fewshot_bench.store.leases import CLOCK, FOLDER, Leases
from fewshot_bench.store.store import Store
from fewshot_bench.utils.errors import StoreError
from fewshot_bench.utils.processes import is_running, started
from tests.support.helpers import PATIENCE, wait_until

KEY = "ab" * 32


def leases(folder: Path, run: str = "r", seconds: float = 60) -> Leases:
    return Leases(Store(folder), run, seconds)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / FOLDER).iterdir())


def test_one_holds_until_it_releases(tmp_path: Path) -> None:
    one, other = leases(tmp_path), leases(tmp_path, "other")
    assert one.claim(KEY) is not None
    assert other.claim(KEY) is None
    assert not other.is_free(KEY)
    one.release(KEY)
    assert other.is_free(KEY)
    found = other.claim(KEY)
    assert found is not None
    assert found.tries == 1
    other.close()
    assert files(tmp_path) == []


def test_claims_to_finished_work_are_forgotten_unless_their_holder_lives(tmp_path: Path) -> None:
    killed = holder(tmp_path, "killed")
    killed.kill()
    killed.wait()
    mine = leases(tmp_path)
    other, left = "cd" * 32, "ef" * 32
    mine.claim(other)
    Path(tmp_path / FOLDER / f"{left}.1").write_text((tmp_path / FOLDER / f"{KEY}.1").read_text())
    leases(tmp_path).forget([KEY, other])
    assert files(tmp_path) == [f"{other}.1", f"{left}.1"]
    mine.close()


HOLD = """
import sys
from pathlib import Path
from fewshot_bench.store.leases import Leases
from fewshot_bench.store.store import Store
held = Leases(Store(Path(sys.argv[1])), sys.argv[3])
print(held.claim(sys.argv[2]).tries, flush=True)
sys.stdin.readline()
"""


def holder(folder: Path, run: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), KEY, run],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert int(process.stdout.readline()) >= 1
    return process


def test_a_killed_holder_of_this_machine_holds_nothing(tmp_path: Path) -> None:
    mine = leases(tmp_path, "r")
    for tries in (2, 4):
        process = holder(tmp_path, "r")
        assert mine.claim(KEY) is None
        process.kill()
        process.communicate()
        claimed = mine.claim(KEY)
        assert claimed is not None
        # Processes of the same run died before; their number decides whether the cell is given up.
        assert claimed.tries == tries
        mine.held.clear()
        path = tmp_path / FOLDER / files(tmp_path)[0]
        path.write_text(path.read_text().replace(f'"pid":{os.getpid()}', '"pid":4194303'))
    other = leases(tmp_path, "another run")
    claimed = other.claim(KEY)
    assert claimed is not None
    assert claimed.tries == 1


# With -1 the times are in the future: a clock was put back.
@pytest.mark.parametrize("direction", [1, -1])
def test_another_machine_keeps_its_lease_for_its_time(tmp_path: Path, direction: int) -> None:
    mine = leases(tmp_path)
    assert mine.claim(KEY) is not None
    mine.held.clear()
    (path,) = (tmp_path / FOLDER).iterdir()
    values = json.loads(path.read_text()) | {"machine": "elsewhere", "pid": 1}
    path.write_text(json.dumps(values))
    other = leases(tmp_path)
    assert other.claim(KEY) is None
    past = time.time() - direction * 50
    os.utime(path, (past, past))
    assert other.claim(KEY) is None
    past = time.time() - direction * 70
    os.utime(path, (past, past))
    assert other.claim(KEY) is not None
    assert files(tmp_path) == [f"{KEY}.2"]


@pytest.mark.parametrize("jump", [3600, -3600])
def test_a_clock_of_this_machine_that_is_set_frees_nothing(
    jump: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store's file system has a clock of its own, as over a network."""
    mine, other = leases(tmp_path), leases(tmp_path, "other")
    assert mine.claim(KEY) is not None
    assert not other.is_free(KEY)
    now, passed = time.time, time.monotonic
    monkeypatch.setattr(leases_module.time, "time", lambda: now() + jump)
    monkeypatch.setattr(leases_module.time, "monotonic", lambda: passed() + 5)
    assert not other.is_free(KEY)
    assert other.claim(KEY) is None
    mine.close()


def test_a_lease_is_renewed_while_its_process_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases_module, "RENEWALS", 6000)
    mine, other = leases(tmp_path), leases(tmp_path)
    assert mine.claim(KEY) is not None
    (path,) = (tmp_path / FOLDER).iterdir()
    for _ in range(3):
        os.utime(path, (0, 0))
        wait_until(lambda: not other.is_free(KEY))
    mine.close()
    assert other.is_free(KEY)


def test_a_dead_claim_of_another_user_that_cannot_be_removed_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a folder with the sticky bit, where root could remove it."""
    killed = holder(tmp_path, "killed")
    killed.kill()
    killed.communicate()
    remove = Path.unlink

    def refused(path: Path, missing_ok: bool = False) -> None:
        if path.name == f"{KEY}.1":
            raise PermissionError(errno.EPERM, "Operation not permitted")
        remove(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", refused)
    mine, other = leases(tmp_path), leases(tmp_path, "other")
    for _ in range(2):
        assert mine.claim(KEY) is not None
        assert other.claim(KEY) is None
        mine.release(KEY)
    assert files(tmp_path) == [f"{KEY}.1"]


def test_a_claim_that_cannot_be_read_ends_like_others(tmp_path: Path) -> None:
    mine = leases(tmp_path)
    # A folder stands for the file of another user, which root could read.
    claim = tmp_path / FOLDER / f"{KEY}.1"
    claim.mkdir(parents=True)
    assert mine.claim(KEY) is None
    old = time.time() - 90
    os.utime(claim, (old, old))
    assert mine.claim(KEY) is not None
    mine.close()


def test_a_lost_lease_is_left_to_its_new_holder(tmp_path: Path) -> None:
    mine, other = leases(tmp_path), leases(tmp_path)
    assert mine.claim(KEY) is not None
    mine._stopped.set()
    (path,) = (tmp_path / FOLDER).iterdir()
    past = time.time() - 70
    os.utime(path, (past, past))
    assert other.claim(KEY) is not None
    mine.release(KEY)
    assert not mine.is_free(KEY)
    assert mine.claim(KEY) is None


@settings(max_examples=60)
@given(content=st.binary(max_size=80) | st.from_regex(r'\{"machine": ?.{0,40}\}').map(str.encode))
def test_whatever_stands_in_a_claim_ends(tmp_path: Path, content: bytes) -> None:
    mine = leases(tmp_path)
    (tmp_path / FOLDER).mkdir(exist_ok=True)
    path = tmp_path / FOLDER / f"{KEY}.1"
    path.write_bytes(content)
    assert mine.claim(KEY) is None
    old = time.time() - 90
    os.utime(path, (old, old))
    assert mine.claim(KEY) is not None
    mine.close()


def test_many_claim_each_once(tmp_path: Path) -> None:
    keys = [f"{number:064x}" for number in range(40)]
    won: list[str] = []

    def take(number: int) -> None:
        mine = leases(tmp_path, str(number))
        order = keys[number:] + keys[:number]
        while len(won) < len(keys):
            for key in order:
                if key not in won and mine.claim(key) is not None:
                    won.append(key)
            time.sleep(0.002 * number)

    threads = [threading.Thread(target=take, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(won) == keys


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / FOLDER).write_text("in the way")
    with pytest.raises(StoreError, match="cannot write"):
        leases(tmp_path).claim(KEY)


def test_dead_ones_are_known(tmp_path: Path) -> None:
    process = holder(tmp_path, "r")
    mine = leases(tmp_path)
    clock = tmp_path / FOLDER / f"{CLOCK}1"
    clock.touch()
    assert mine.dead() == []
    process.kill()
    process.communicate()
    os.utime(clock, (0, 0))
    assert {path.name for path in mine.dead()} == {f"{KEY}.1", f"{CLOCK}1"}


def test_a_claim_that_cannot_be_written_is_no_claim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    mine = leases(tmp_path)
    monkeypatch.setattr(leases_module.msgspec.json, "encode", full)
    with pytest.raises(StoreError, match="no space"):
        mine.claim(KEY)
    monkeypatch.undo()
    assert files(tmp_path) == []
    assert mine.claim(KEY)


def test_a_folder_that_cannot_be_read_now_frees_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stale(*_: object) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    mine = leases(tmp_path)
    assert mine.is_free(KEY)
    monkeypatch.setattr(leases_module.os, "scandir", stale)
    assert not mine.is_free(KEY)


def test_a_number_that_was_given_again(tmp_path: Path) -> None:
    assert is_running(os.getpid(), started())
    assert not is_running(os.getpid(), started() + 100)
