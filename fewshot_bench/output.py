"""Keep what a plug-in prints off the terminal, where it would tear the progress bar."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator

LIMIT = 4000


class Printed:
    """What was written to stdout, shortened to `LIMIT` characters."""

    def __init__(self) -> None:
        self.text = ""


@contextlib.contextmanager
def captured_output() -> Iterator[Printed]:
    """Collect everything that Python code prints to stdout inside."""
    printed, buffer = Printed(), io.StringIO()
    try:
        with contextlib.redirect_stdout(buffer):
            yield printed
    finally:
        printed.text = buffer.getvalue()[:LIMIT]
