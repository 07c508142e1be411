"""Put back what a plug-in may leave changed: output, working directory, environment."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator

LIMIT = 4000


class Printed:
    """What was written to stdout, shortened to `LIMIT` characters."""

    def __init__(self) -> None:
        self.text = ""


@contextlib.contextmanager
def contained() -> Iterator[Printed]:
    """Collect what Python code prints to stdout inside; restore directory and environment."""
    printed, buffer = Printed(), io.StringIO()
    folder, environment = os.getcwd(), dict(os.environ)
    try:
        with contextlib.redirect_stdout(buffer):
            yield printed
    finally:
        printed.text = buffer.getvalue()[:LIMIT]
        os.chdir(folder)
        if dict(os.environ) != environment:
            os.environ.clear()
            os.environ.update(environment)
