"""`fsbench run`: resuming, failures, damaged data sets, and interruption."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import termios
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from fewshot_bench.store.store import Store
from tests.support.helpers import (
    METHODS,
    assert_sound,
    cells,
    children,
    command,
    environment,
    flags,
    fsbench,
    is_running,
    quick,
    record_files,
    wait_until,
)

FEW = ("--dataset", "digits", "--shots", "1", "--limit", "20", "--jobs", "1")


def test_names_may_be_given_in_parts_and_of_numbers_the_last_count(tmp_path: Path) -> None:
    said = []
    for parts in (
        ("-m", "zero-shot,linear-probe", "-d", "digits,letters", "--seeds", "1,2"),
        ("-m", "zero-shot", "-m", "linear-probe", "-d", "digits", "-d", "letters")
        + ("--seeds", "3", "--seeds", "1,2"),
    ):
        dry = fsbench("run", *parts, "--shots", "1", "--dry-run", "--store", tmp_path / "store")
        assert dry.code == 0, dry
        said.append(dry.out)
    assert "8 cells: 0 done already, 8 to run" in said[0]
    assert said[0] == said[1]
    config = tmp_path / "run.toml"
    config.write_text(
        'method = ["zero-shot", "linear-probe"]\ndataset = "digits"\nseeds = [1, 2]\n'
    )
    asked = ("run", "--config", config, "--shots", "1", "--dry-run", "--store", tmp_path / "store")
    assert "4 cells:" in fsbench(*asked).out
    assert "2 cells:" in fsbench(*asked, "-m", "zero-shot").out


@pytest.mark.slow
def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    store = tmp_path / "store"
    run = ("run", "--method", "zero-shot", *FEW, "--store", store)
    first = fsbench(*run, "--seeds", "1,2")
    assert first.code == 0, first
    said, *lines = first.out.splitlines()
    assert said.startswith("backbone tiny (")
    assert lines[0] == "2 cells: 0 done already, 2 to run"
    assert re.match(r"\[1/2\] zero-shot on digits, 1-shot, seed 1: \d+\.\d\d % \(", lines[1])
    assert "left" in lines[1]
    assert "\x1b" not in first.out + first.err
    before = record_files(store)
    second = fsbench(*run, "--seeds", "1-3")
    assert "3 cells: 2 done already, 1 to run" in second.out
    after = record_files(store)
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 2
    forced = fsbench(*run, "--seeds", "1-3", "--force")
    assert "3 cells: 0 done already, 3 to run" in forced.out
    again = record_files(store)
    assert all(again[name][1] != after[name][1] for name in after if name.endswith(".json"))
    assert all(again[name][0] == after[name][0] for name in after if name.endswith(".npz"))
    assert_sound(store, cells("zero-shot", seeds=(1, 2, 3), limit=20))


@pytest.mark.slow
def test_a_failed_cell_is_kept_and_not_tried_again_unasked(methods: Any, tmp_path: Path) -> None:
    run = ("run", "--method", "bad-fit,zero-shot", *FEW, "--seeds", "1", "--store", tmp_path)
    first = fsbench(*run)
    assert first.code == 1, first
    assert "bad-fit on digits, 1-shot, seed 1: FAILED, RuntimeError: no idea" in first.out
    assert "1 cell failed:" in first.err
    failed, done = cells("bad-fit", "zero-shot", limit=20)
    record = Store(tmp_path).get(failed.key())
    assert record is not None
    assert record.error is not None
    assert 'raise RuntimeError("no idea")' in record.error["traceback"]
    assert Store(tmp_path).complete(done.key())
    before = record_files(tmp_path)
    second = fsbench(*run)
    assert second.code == 1
    assert "1 done already, 0 to run, 1 failed before (--retry-failed)" in second.out
    assert record_files(tmp_path) == before
    third = fsbench(*run, "--retry-failed")
    assert third.code == 1
    assert "1 done already, 1 to run" in third.out
    changed = {n for n, value in record_files(tmp_path).items() if before[n] != value}
    assert changed == {f"{failed.key()}.json"}


@pytest.mark.slow
def test_a_damaged_data_set_stops_only_itself(photos: Path, tmp_path: Path) -> None:
    bad, good = tmp_path / "bad", tmp_path / "good"
    shutil.copytree(photos, bad)
    shutil.copytree(photos, good)
    hurt = bad / "test" / "cat" / "3.jpg"
    hurt.write_bytes(hurt.read_bytes()[:200])
    gone = bad / "test" / "dog" / "1.jpg"
    gone.unlink()
    gone.symlink_to(tmp_path / "nowhere.jpg")
    names = (f"folder:{bad}", f"folder:{good}")
    result = fsbench(
        *("run", "--method", "zero-shot", "--dataset", ",".join(names), "--shots", "1"),
        *("--seeds", "1", "--jobs", "1", "--backbone", "tiny", "--store", tmp_path / "store"),
    )
    assert result.code == 3, result
    (error,) = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert str(bad) in error
    assert "test/cat/3.jpg" in error
    assert_sound(tmp_path / "store", cells("zero-shot", datasets=(names[1],), limit=None))


@pytest.mark.slow
def test_the_same_command_gives_the_same_bytes(tmp_path: Path) -> None:
    chosen = ("--method", ",".join(METHODS), *FEW, "--seeds", "1", *flags(quick(METHODS)))
    for name in ("one", "two"):
        assert fsbench("run", *chosen, "--store", tmp_path / name).code == 0
    one, two = record_files(tmp_path / "one"), record_files(tmp_path / "two")
    assert one.keys() == two.keys()
    assert len(one) == 2 * len(METHODS)
    assert all(one[name][0] == two[name][0] for name in one if name.endswith(".npz"))
    first, second = list(Store(tmp_path / "one").records()), list(Store(tmp_path / "two").records())
    assert [record.metrics for record in first] == [record.metrics for record in second]
    assert len({record.split["digest"] for record in [*first, *second]}) == 1


class Terminal:
    """A process on its own terminal, and its output so far."""

    def __init__(self, arguments: list[str], **variables: str) -> None:
        self.side, other = pty.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 120, 0, 0))
        self.process = subprocess.Popen(
            arguments,
            stdin=other,
            stdout=other,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(TERM="xterm-256color", **variables),
            start_new_session=True,
        )
        os.close(other)
        self.shown = ""

    def read_until(self, happened: Callable[[], bool]) -> None:
        """Read output, so that the writer is not blocked, until `happened` returns true."""

        def read() -> bool:
            # Reading fails after the process has left the terminal.
            with suppress(OSError):
                while select.select([self.side], [], [], 0)[0]:
                    self.shown += os.read(self.side, 4096).decode(errors="replace")
            return happened()

        wait_until(read)


def fits(log: Path) -> int:
    """Number of fits that have begun, from their log."""
    return len(log.read_text().split()) if log.exists() else 0


@pytest.mark.slow
def test_interrupted_on_a_terminal_and_continued(methods: Any, tmp_path: Path) -> None:
    run = ("run", "--method", "slow", *FEW, "--seeds", "1-3", "--jobs", "1")
    store, log = tmp_path / "store", tmp_path / "fits"
    own = {"FSBENCH_TEST_FITS": str(log), "FSBENCH_TEST_ENDING": "1", "NO_COLOR": "1"}
    terminal = Terminal(command(*run, "--store", store), **own)
    try:
        terminal.read_until(lambda: " left" in terminal.shown and fits(log) == 2)
        workers = children(terminal.process.pid)
        terminal.process.send_signal(signal.SIGINT)
        terminal.read_until(lambda: terminal.process.poll() is not None)
        assert terminal.process.stderr is not None
        errors = terminal.process.stderr.read()
    finally:
        terminal.process.kill()
    assert terminal.process.returncode == 130
    assert "stopped: 1 of 3 cells are done" in errors
    assert "run the same command again" in errors
    assert "Traceback" not in errors
    assert "\x1b[2K" in terminal.shown, "no bar is redrawn"
    assert not re.search(r"\x1b\[[0-9;]*m", terminal.shown), "of NO_COLOR"
    assert "seed 1: " in terminal.shown
    assert workers
    wait_until(lambda: not any(is_running(pid) for pid in workers))
    before = record_files(store)
    assert len(before) == 2
    result = fsbench(*run, "--store", store)
    assert result.code == 0, result
    after = record_files(store)
    assert {name: after[name] for name in before} == before
    assert_sound(store, cells("slow", seeds=(1, 2, 3), limit=20))
