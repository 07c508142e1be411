"""Run commands in this process, and check that they print plain text."""

from __future__ import annotations

from tests.support.helpers import fsbench


def assert_plain(text: str) -> None:
    """Assert that a text has no control characters, apart from newlines and tabs."""
    bad = {c for c in text if not c.isprintable() and c not in "\n\t"}
    assert not bad, f"control characters {bad} in the output"


def run(*arguments: object) -> bool:
    """Run a command; assert a documented exit code and plain output. True if it succeeded."""
    done = fsbench(*arguments)
    assert done.code in (0, 1, 2, 3), done
    assert "Traceback" not in done.err
    assert_plain(done.out + done.err)
    return done.code == 0
