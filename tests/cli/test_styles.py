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
from typing import Any

import pytest

from tests.compare_records import make, save
from tests.helpers import PATIENCE, command, environment

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


@pytest.mark.parametrize(
    "words", [("compare",), ("audit",), ("data", "status"), ("--help",)], ids=" ".join
)
def test_no_color_means_no_style_at_all(words: tuple[str, ...], store: Path) -> None:
    where = ("--store", store) if words[0] in ("compare", "audit") else ()
    assert not STYLE.search(on_terminal(*words, *where, NO_COLOR="1"))
    # An empty value counts as unset.
    assert bool(STYLE.search(on_terminal(*words, *where, NO_COLOR=""))) == bool(where)


@pytest.mark.slow
def test_a_bar_moves_without_colors(methods: Any, tmp_path: Path) -> None:
    words = ("run", "-m", "slow", "-d", "digits", "--shots", "1", "--seeds", "1", "--limit", "20")
    shown = on_terminal(*words, "--store", tmp_path, NO_COLOR="1")
    assert not STYLE.search(shown)
    assert "\x1b[2K" in shown


@pytest.mark.parametrize("columns", [50, 80, 120])
def test_a_narrow_terminal_breaks_between_words(columns: int) -> None:
    shown = on_terminal("data", "status", width=columns, NO_COLOR="1").splitlines()
    table = shown[: shown.index("next steps:")]
    # A word longer than a line (a path) has its own line.
    assert all(len(line) <= columns or len(line.split()) == 1 for line in table[2:])
    words = " ".join(table).split()
    for word in ("oxford_flowers", "imagenet-sketch", "1,281,167/0/50,000"):
        assert any(word in found for found in words), table
    assert "not there" in " ".join(words)
