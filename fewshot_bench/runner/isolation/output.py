"""Collect what is printed, in little memory; restore working directory and environment."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any

LIMIT = 4000


class Printed:
    """Output to stdout, shortened; `redirected`: the code inside replaced stdout itself."""

    def __init__(self) -> None:
        self.text = ""
        self.redirected = False


class _Start(io.RawIOBase):
    """A file that keeps the first bytes written to it and counts the others."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self._count = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        count = memoryview(data).nbytes
        room = 4 * LIMIT - len(self._kept)
        if room > 0:
            self._kept += memoryview(data).cast("B")[:room]
        self._count += count
        return count

    def text(self) -> str:
        """The first `LIMIT` characters, and how much more there was."""
        text = self._kept.decode("utf-8", "replace")[:LIMIT]
        more = self._count - len(text.encode())
        return f"{text}\n[{more:,} more bytes]" if more > 0 else text


@contextlib.contextmanager
def collected() -> Iterator[Printed]:
    """Collect what Python code prints to stdout inside; all of it passes, the start is kept."""
    printed, start = Printed(), _Start()
    stream = io.TextIOWrapper(
        io.BufferedWriter(start, 1), "utf-8", "replace", newline="\n", write_through=True
    )
    try:
        with contextlib.redirect_stdout(stream):
            try:
                yield printed
            finally:
                printed.redirected = sys.stdout is not stream
    finally:
        with contextlib.suppress(Exception):
            # Closed, perhaps, by who was to print.
            stream.flush()
        printed.text = start.text()


@contextlib.contextmanager
def contained() -> Iterator[Printed]:
    """Collect what Python code prints to stdout inside; restore directory and environment."""
    folder, environment = os.getcwd(), dict(os.environ)
    with collected() as printed:
        try:
            yield printed
        finally:
            os.chdir(folder)
            if dict(os.environ) != environment:
                os.environ.clear()
                os.environ.update(environment)
