"""NO_COLOR: even on a terminal, text has no colors and no bold or underlined words."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from pathlib import Path

import pytest

from tests.support.compare_records import make, save
from tests.support.helpers import PATIENCE, command, environment

STYLE = re.compile(r"\x1b\[[0-9;]*m")


def on_terminal(*words: object, width: int = 120, **variables: str) -> str:
    """The output of a command on a terminal."""
    side, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 30, width, 0, 0))
    process = subprocess.Popen(
        command(*words),
        **dict.fromkeys(("stdin", "stdout", "stderr"), other),
        env=environment(TERM="xterm-256color", **variables),
    )
    os.close(other)
    shown = b""
    while True:
        try:
            shown += os.read(side, 4096)
        except OSError:
            break
    os.close(side)
    assert process.wait(PATIENCE) == 0, shown
    return shown.decode()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two methods."""
    records = [
        make(method, "dtd", 1, seed, 50.0 + seed + place)
        for place, method in enumerate(("coop", "clip-lora"))
        for seed in (1, 2, 3)
    ]
    return save(tmp_path_factory.mktemp("styles") / "store", records)


@pytest.mark.parametrize(("words", "styled"), [("compare", True), ("data status", False)])
def test_no_color_means_no_style_at_all(words: str, styled: bool, store: Path) -> None:
    where = ("--store", store) if styled else ()
    assert not STYLE.search(on_terminal(*words.split(), *where, NO_COLOR="1"))
    if styled:
        # An empty value counts as unset.
        assert STYLE.search(on_terminal(*words.split(), *where, NO_COLOR=""))


@pytest.mark.parametrize("columns", [50, 120])
def test_a_narrow_terminal_breaks_between_words(columns: int) -> None:
    shown = on_terminal("data", "status", width=columns, NO_COLOR="1").splitlines()
    table = shown[: shown.index("next steps:")]
    # A word longer than a line (a path) has its own line.
    assert all(len(line) <= columns or len(line.split()) == 1 for line in table[2:])
    words = " ".join(table).split()
    for word in ("oxford_flowers", "imagenet-sketch", "1,281,167/0/50,000"):
        assert any(word in found for found in words), table
    assert "not there" in " ".join(words)
