"""`run --debug`: one cell in this process with its terminal; elsewhere a breakpoint is an error."""

from __future__ import annotations

import fcntl
import gzip
import json
import os
import select
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fewshot_bench.store.store import Store
from fewshot_bench.utils.cache_dir import cache_root
from tests.support.helpers import PATIENCE, command, fsbench

CELL = ("-d", "digits", "--shots", "1", "--seeds", "1", "--limit", "40")
METHOD = """
from dataclasses import dataclass
import time
import torch.nn.functional as F
from fewshot_bench.training import LinearClassifier


@dataclass(frozen=True)
class Method:
    name = "my-method"
    how: str = "plain"

    def fit(self, task, backbone, ctx):
        shots = len(task.train)
        if self.how == "stop":
            breakpoint()
            doubled = 2 * shots
        elif self.how == "ask":
            input("? ")
        elif self.how == "wait":
            print("now waiting"); time.sleep(1000)
        elif self.how == "fail":
            return multiply(task.train.features)
        print("fitted on", shots)
        return LinearClassifier(backbone.logit_scale * backbone.class_features(task))


def multiply(features):
    return F.linear(features, features[:, :3])
"""
# Lines of the above.
STOP, WAIT, FAIL = 16, 21, 29


@pytest.fixture
def method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A method in a file of the current folder."""
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(METHOD, encoding="utf-8")
    return "mine.py:Method"


class Terminal:
    """A command in a terminal of its own: `read` waits for a text, `write` types."""

    def __init__(self, *arguments: object) -> None:
        ours, theirs = os.openpty()
        streams: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), theirs)
        self._process = subprocess.Popen(
            command(*arguments),
            start_new_session=True,
            # Its controlling terminal, for Ctrl-C.
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            **streams,
        )
        os.close(theirs)
        self._terminal, self.shown = ours, ""

    def read(self, text: str) -> str:
        """What is shown up to a text, which must come."""
        before, end = len(self.shown), time.monotonic() + PATIENCE
        while text not in self.shown[before:] and time.monotonic() < end:
            if not self._read_more():
                break
        assert text in self.shown[before:], self.shown
        return self.shown[before:]

    def _read_more(self) -> bool:
        if not select.select([self._terminal], [], [], PATIENCE)[0]:
            return False
        try:
            more = os.read(self._terminal, 65536)
        except OSError:
            return False
        self.shown += more.decode().replace("\r\n", "\n")
        return bool(more)

    def write(self, text: str) -> None:
        """Type a text."""
        os.write(self._terminal, text.encode())

    def end(self) -> int:
        """The exit code, once the command has ended by itself."""
        while self._read_more():
            pass
        return self._process.wait(PATIENCE)

    def close(self) -> None:
        """End it, if it lives."""
        self._process.kill()
        self._process.wait()
        os.close(self._terminal)


@pytest.fixture
def terminal() -> Iterator[Any]:
    """A function that starts `fsbench run` of one cell in a terminal, by default with --debug."""
    opened: list[Terminal] = []

    def start(*arguments: object, how: str = "--debug") -> Terminal:
        opened.append(Terminal("run", how, *arguments, *CELL))
        return opened[-1]

    yield start
    for each in opened:
        each.close()


def test_a_breakpoint_has_the_terminal(method: str, terminal: Any) -> None:
    screen = terminal("-m", method, "-o", "how=stop")
    assert f"mine.py({STOP + 1})fit()" in screen.read("(Pdb) ")
    screen.write("p shots\n")
    assert "p shots\n10\n" in screen.read("(Pdb) ")
    screen.write("next\n")
    assert f"mine.py({STOP + 8})fit()" in screen.read("(Pdb) ")
    screen.write("p doubled\n")
    assert "\n20\n" in screen.read("(Pdb) ")
    screen.write("quit\n")
    assert screen.end() == 130
    assert screen.shown.endswith("stopped in the debugger\n")


def test_a_breakpoint_that_is_left_goes_on_to_the_metrics(method: str, terminal: Any) -> None:
    screen = terminal("-m", method, "-o", "how=stop")
    screen.read("(Pdb) ")
    screen.write("continue\n")
    assert screen.end() == 0
    assert "fitted on 10\n" in screen.shown
    assert "top1 " in screen.shown
    assert not Path("fsbench-results").exists()


def test_the_terminal_stands_still_for_the_engine_of_this_process(
    method: str, terminal: Any
) -> None:
    screen = terminal("-m", method, "-o", "how=stop", how="--engine=here")
    screen.read("(Pdb) ")
    screen.write("continue\n")
    assert screen.end() == 0
    _, _, shown = screen.shown.partition("fit()\n")
    assert "fitted on 10\n" in shown
    assert "\x1b" not in shown
    (record,) = Store(Path("fsbench-results")).records()
    assert record.status == "done"


def test_ctrl_c_is_a_traceback_to_the_line(method: str, terminal: Any) -> None:
    screen = terminal("-m", method, "-o", "how=wait")
    screen.read("now waiting")
    screen.write("\x03")
    assert screen.end() == 130
    assert f'mine.py", line {WAIT}, in fit\n' in screen.shown
    assert f"KeyboardInterrupt\n\nat mine.py:{WAIT} in fit" in screen.shown


def test_after_an_error_the_debugger_begins_at_the_line(method: str, terminal: Any) -> None:
    screen = terminal("-m", method, "-o", "how=fail", "--pdb")
    assert f"mine.py({FAIL})multiply()" in screen.read("(Pdb) ")
    screen.write("p features.shape\n")
    assert "torch.Size([10, 64])" in screen.read("(Pdb) ")
    screen.write("quit\n")
    assert screen.end() == 1


def test_an_error_is_the_authors_frames_and_the_place(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("editor").write_text('#!/bin/sh\necho "$@" > opened\n', encoding="utf-8")
    Path("editor").chmod(0o755)
    monkeypatch.setenv("EDITOR", "./editor")
    done = fsbench("run", "--debug", "-m", method, "-o", "how=fail", *CELL, "--edit")
    assert done.code == 1
    folded = [line for line in done.err.splitlines() if "fewshot_bench" in line]
    assert folded == []
    assert f'mine.py", line {FAIL}, in multiply' in done.err
    assert f"\nat mine.py:{FAIL} in multiply (" in done.err
    assert Path("opened").read_text(encoding="utf-8") == f"+{FAIL} mine.py\n"
    whole = fsbench("run", "--debug", "-m", method, "-o", "how=fail", *CELL, "--traceback")
    assert "fewshot_bench/runner/fit.py" in whole.err


def test_a_store_that_is_named_gets_the_record(method: str) -> None:
    stores = cache_root() / "stores"
    before = sorted(stores.iterdir()) if stores.is_dir() else []
    done = fsbench("run", "--debug", "-m", method, *CELL)
    assert done.code == 0, done.err
    assert "not stored" in done.out
    assert sorted(Path().iterdir()) == [Path("mine.py")]
    assert (sorted(stores.iterdir()) if stores.is_dir() else []) == before
    for _ in range(2):
        # It is computed although it is done.
        done = fsbench("run", "--debug", "-m", method, *CELL, "--store", "kept")
        assert "fitted on 10\n" in done.out
    (record,) = Store(Path("kept")).records()
    assert record.status == "done"


def test_a_profile_is_a_trace_and_the_dearest_operators(method: str) -> None:
    done = fsbench("run", "--debug", "--profile", "-m", method, *CELL)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    (first,) = (index for index, line in enumerate(lines) if "10 dearest operators" in line)
    assert lines[first + 1].split() == ["ms", "share", "calls", "operator"]
    shares = [float(line.split()[1].rstrip("%")) for line in lines[first + 2 : first + 12]]
    assert shares == sorted(shares, reverse=True)
    (file,) = Path().glob("profile-*.json.gz")
    assert f"trace: {file} " in done.out
    events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    assert {"aten::addmm", "aten::gelu"} <= {event.get("name") for event in events}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--debug", "-d", "digits"), "and 15 are asked for: add --shots 1 --seeds 1"),
        (("--debug", *CELL, "-o", "how=plain,wait"), "and 2 are asked for: add -o how=plain"),
        (("--debug", *CELL, "-d", "letters"), "and 2 are asked for: add -d digits"),
        (("--debug", *CELL, "--timeout", "9", "--jobs", "1"), "once: leave --jobs, --timeout out"),
        (("--debug", *CELL, "--engine", "slurm"), "once: leave --engine out"),
        (("--debug", "--profile", *CELL, "--store", "s"), "leave --store or --profile out"),
        (("--pdb", *CELL), "--pdb goes with --debug"),
        (("--debug", "--edit", *CELL), "set one, such as EDITOR=code"),
    ],
)
def test_wrong_use_is_said_before_anything_starts(
    method: str, options: tuple[str, ...], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("EDITOR", "VISUAL"):
        monkeypatch.delenv(name, raising=False)
    done = fsbench("run", "-m", method, *options)
    assert (done.code, done.out) == (2, "")
    assert expected in done.err
    assert sorted(Path().iterdir()) == [Path("mine.py")]


def test_a_file_that_cannot_be_imported_is_shown_at_its_line(method: str) -> None:
    Path("mine.py").write_text("import torch\nx = 1 +\n", encoding="utf-8")
    done = fsbench("run", "--debug", "-m", method, *CELL)
    assert done.code == 1
    assert "SyntaxError" in done.err
    assert "\nat mine.py:2 (" in done.err


@pytest.mark.parametrize("how", ["stop", "ask"])
def test_a_worker_has_no_terminal_and_says_so(method: str, how: str) -> None:
    done = fsbench("run", "-m", method, "-o", f"how={how}", *CELL, "--store", "store")
    assert done.code == 1
    said = {"stop": "breakpoint() was reached", "ask": "stdin was read (input(), pdb)"}[how]
    assert f"UsageError: {said} in a process without a terminal; fsbench run --debug" in done.err
