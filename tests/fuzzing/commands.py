"""Commands in this process, and the text that they print."""

from __future__ import annotations

from tests.helpers import fsbench


def assert_plain(text: str) -> None:
    """That a terminal shows text and does nothing else."""
    bad = {c for c in text if not c.isprintable() and c not in "\n\t"}
    assert not bad, f"control characters {bad} in the output"


def run(*arguments: object) -> bool:
    """A command in this process: it ends with a documented code, and prints plain text."""
    done = fsbench(*arguments)
    assert done.code in (0, 1, 2, 3), done
    assert "Traceback" not in done.err
    assert_plain(done.out + done.err)
    return done.code == 0
