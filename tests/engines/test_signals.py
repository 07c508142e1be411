"""SIGTERM, SIGHUP and a closed terminal: finished results are kept, and no claim is left."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import (
    PATIENCE,
    assert_sound,
    cells,
    command,
    environment,
    fsbench,
    problems,
    record_files,
    start,
    wait_until,
)

SLOW = ("run", "-m", "slow", "-d", "digits", "--shots", "1", "--limit", "20", "--jobs", "1")


def ending(log: Path, fits: int) -> dict[str, str]:
    """An environment in which this many fits end; the next one runs until it is stopped."""
    return environment(FSBENCH_TEST_FITS=str(log), FSBENCH_TEST_ENDING=str(fits))


def begun(log: Path) -> int:
    """The number of fits that have begun."""
    return len(log.read_text().split()) if log.exists() else 0


def claims(store: Path) -> list[str]:
    """Names of the claim files."""
    return [path.name for path in (store / "claims").iterdir()]


@pytest.mark.slow
def test_what_is_done_is_kept_and_said(methods: Any, tmp_path: Path) -> None:
    store, log = tmp_path / "store", tmp_path / "fits"
    arguments = (*SLOW, "--seeds", "1-3", "--store", store)
    process = start(*arguments, env=ending(log, 1))
    wait_until(lambda: begun(log) == 2)
    assert len(claims(store)) == 1
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, (out, err)
    (line,) = problems(err)
    assert line.startswith("stopped: 1 of 3 cells are done and kept; run the same command again")
    assert claims(store) == []
    assert len(record_files(store)) == 2
    again = fsbench(*arguments)
    assert (again.code, "1 done already" in again.out) == (0, True), again
    assert_sound(store, cells("slow", seeds=(1, 2, 3), limit=20))


WAITS = """
import signal, sys
from fewshot_bench.utils.processes import interrupt_on_signals
interrupt_on_signals()
try:
    print("waiting", flush=True)
    signal.pause()
except KeyboardInterrupt:
    print("stopped", file=sys.stderr)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_is_an_interrupt_that_can_be_said(number: int) -> None:
    pipes = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen([sys.executable, "-c", WAITS], text=True, **pipes) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(number)
        assert process.communicate(timeout=PATIENCE) == ("", "stopped\n")


@pytest.mark.slow
def test_a_terminal_that_goes(methods: Any, tmp_path: Path) -> None:
    store, log = tmp_path / "store", tmp_path / "fits"
    side, other = pty.openpty()
    process = subprocess.Popen(
        command(*SLOW, "--seeds", "1-3", "--store", store),
        **dict.fromkeys(("stdin", "stdout", "stderr"), other),
        env=ending(log, 1),
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(other)
    while begun(log) < 2:
        os.read(side, 4096)
    # The kernel sends SIGHUP to the terminal's process group.
    os.close(side)
    assert process.wait(PATIENCE) == 130
    assert claims(store) == []
    assert len(record_files(store)) == 2


@pytest.mark.slow
def test_nohup_is_obeyed(methods: Any, tmp_path: Path) -> None:
    store, log = tmp_path / "store", tmp_path / "fits"
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        asked = (*SLOW, "-o", "seconds=1", "--seeds", "1", "--store", store)
        process = start(*asked, env=ending(log, 1))
    finally:
        signal.signal(signal.SIGHUP, before)
    wait_until(lambda: begun(log) == 1)
    process.send_signal(signal.SIGHUP)
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, "[1/1]" in out) == (0, True), (out, err)
