"""SIGTERM, SIGHUP and a closed terminal: finished results are kept, and no claim is left."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.support.helpers import (
    PATIENCE,
    assert_sound,
    cells,
    fsbench,
    problems,
    record_files,
    wait_until,
)


def test_what_is_done_is_kept_and_said(
    methods: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, log = tmp_path / "store", tmp_path / "fits"
    few = ("--seeds", "1-3", "--shots", "1", "--limit", "20", "--jobs", "1", "--store", store)
    arguments = ("run", "-m", "slow", "-d", "digits", *few)
    # One fit ends; the next one runs until it is stopped.
    monkeypatch.setenv("FSBENCH_TEST_FITS", str(log))
    monkeypatch.setenv("FSBENCH_TEST_ENDING", "1")
    claimed = []

    def stop() -> None:
        wait_until(lambda: log.exists() and len(log.read_text().split()) == 2)
        claimed.extend((store / "claims").iterdir())
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    before = [(number, signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGHUP)]
    try:
        thread.start()
        stopped = fsbench(*arguments)
    finally:
        thread.join()
        for number, handler in before:
            signal.signal(number, handler)
    assert stopped.code == 130, stopped
    (line,) = problems(stopped.err)
    assert line.startswith("stopped: 1 of 3 cells are done and kept; run the same command again")
    assert len(claimed) == 1
    assert list((store / "claims").iterdir()) == []
    assert len(record_files(store)) == 2
    monkeypatch.delenv("FSBENCH_TEST_FITS")
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
    signal.pause()
except KeyboardInterrupt:
    print("stopped", file=sys.stderr, flush=True)
    sys.exit(130)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_is_an_interrupt_that_can_be_said(number: int) -> None:
    pipes = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen([sys.executable, "-c", WAITS], text=True, **pipes) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(number)
        assert process.communicate(timeout=PATIENCE) == ("", "stopped\n")


def test_a_terminal_that_goes() -> None:
    side, other = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", WAITS],
        **dict.fromkeys(("stdin", "stdout", "stderr"), other),
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(other)
    assert b"waiting" in os.read(side, 4096)
    # The kernel sends SIGHUP to the terminal's process group; what is said then goes nowhere.
    os.close(side)
    assert process.wait(PATIENCE) == 130


def test_nohup_is_obeyed() -> None:
    pipes = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = subprocess.Popen([sys.executable, "-c", WAITS], text=True, **pipes)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGHUP)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=PATIENCE)[1] == "stopped\n"
    assert process.returncode == 130
