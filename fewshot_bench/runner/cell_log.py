"""`CellLog`: what the code of one cell prints, logs and warns of, heard live, kept within bounds.

`collect` redirects stdout, stderr and Python's `logging` into one while the code runs.
"""

from __future__ import annotations

import codecs
import io
import logging
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import (
    ExitStack,
    contextmanager,
    nullcontext,
    redirect_stderr,
    redirect_stdout,
    suppress,
)
from typing import Any, TextIO

# Environment variable of workers: how often -v was given.
VARIABLE = "FSBENCH_VERBOSE"
# Characters kept of the beginning and of the end of a log.
HEAD, TAIL = 50_000, 50_000
# A longer line is taken apart.
LONGEST_LINE = 10_000
# Where a cell's streams go: nowhere but into its log, where they went, too, or only there.
HIDDEN, SEEN, LEFT = "hidden", "seen", "left"
LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)


def read_verbosity() -> int:
    """The number of times -v was given to the command that started this process."""
    text = os.environ.get(VARIABLE, "")
    return int(text) if text.isdecimal() else 0


class CellLog:
    """Lines of one cell; `text` is their beginning and their end, and how much is left out.

    hear: called with each text of whole lines when it comes. verbosity: 0 keeps warnings and errors
    of `logging`, 1 INFO, 2 DEBUG, too. place: HIDDEN, which passes on stderr with verbosity 0 and
    leaves all to `hear` otherwise; SEEN or LEFT where the code has the user's terminal.

    >>> log = CellLog()
    >>> log.add("loss 0.3\\n")
    >>> log.text
    'loss 0.3\\n'
    """

    def __init__(
        self,
        hear: Callable[[str], None] | None = None,
        verbosity: int = 0,
        place: str = HIDDEN,
    ) -> None:
        self.verbosity, self.place = verbosity, place
        # What is heard is shown on the streams that were there before, not collected again.
        self.streams: tuple[TextIO, TextIO] | None = None
        self._hear = hear
        self._head, self._tail = list[str](), deque[str]()
        # Characters of the head, of the tail, and of all.
        self._room, self._kept, self._count = HEAD, 0, 0

    def add(self, lines: str) -> None:
        """Add a text of whole lines."""
        self._count += len(lines)
        if self._room:
            start, rest = lines[: self._room], lines[self._room :]
            self._head.append(start)
            self._room -= len(start)
        else:
            rest = lines
        if rest:
            self._tail.append(rest)
            self._kept += len(rest)
            while self._kept - len(self._tail[0]) >= TAIL:
                self._kept -= len(self._tail.popleft())
        if self._hear is None:
            return
        with ExitStack() as stack:
            if self.streams is not None:
                stack.enter_context(redirect_stdout(self.streams[0]))
                stack.enter_context(redirect_stderr(self.streams[1]))
            self._hear(lines)

    @property
    def text(self) -> str:
        """All of it, or its beginning and end with a line on what is between them."""
        head, tail = "".join(self._head), "".join(self._tail)[-TAIL:]
        if len(head) + len(tail) >= self._count:
            return head + tail
        # Both are whole lines, unless a single one is that long.
        head = "".join(head.rpartition("\n")[:2]) or head
        tail = tail.partition("\n")[2] or tail
        left_out = self._count - len(head) - len(tail)
        return f"{head}[{left_out:,} characters left out]\n{tail}"

    def restart(self, other: CellLog) -> None:
        """Replace what is here by a copy of what is in another log."""
        self._head, self._tail = other._head.copy(), other._tail.copy()
        self._room, self._kept, self._count = other._room, other._kept, other._count

    def copy(self) -> CellLog:
        """A log of its own with the same content, which nobody hears."""
        log = CellLog()
        log.restart(self)
        return log


class _Lines(io.RawIOBase):
    """A file whose lines go to a log; what a carriage return overwrites does not.

    beside: the stream that gets everything at once, too, and all of what forked processes write;
    None for nowhere.
    """

    def __init__(self, log: CellLog, beside: TextIO | None, forked: TextIO | None) -> None:
        self._log, self._beside, self._forked = log, beside, forked
        self._process = os.getpid()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._line = ""

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        """The descriptor of the stream where child processes and C code write."""
        stream = self._beside or self._forked
        if stream is None:
            raise io.UnsupportedOperation("fileno")
        return stream.fileno()

    def isatty(self) -> bool:
        """True where a person sees everything at once."""
        return self._beside is not None and self._beside.isatty()

    def write(self, data: Any, /) -> int:
        data = memoryview(data).cast("B")
        text = self._decoder.decode(data)
        if os.getpid() != self._process:
            _pass_on(self._forked, text)
            return len(data)
        _pass_on(self._beside, text)
        *whole, self._line = (self._line + text).split("\n")
        if whole:
            self._log.add("".join(f"{_overwrite(line).rstrip(chr(13))}\n" for line in whole))
        self._line = _overwrite(self._line)
        if len(self._line) > LONGEST_LINE:
            self.end_line()
        return len(data)

    def end_line(self) -> None:
        """Add a line that has no end yet."""
        line, self._line = self._line.rstrip("\r"), ""
        if line:
            self._log.add(f"{line}\n")


def _overwrite(line: str) -> str:
    """The part of a line with carriage returns that a terminal shows, as of a bar of progress."""
    shown = line.rstrip("\r")
    return shown.rpartition("\r")[2] + line[len(shown) :]


def _pass_on(stream: TextIO | None, text: str) -> None:
    if stream is not None:
        with suppress(OSError, ValueError):
            stream.write(text)
            stream.flush()


# Libraries that decode images and lock files for the harness: their messages, several for each
# image, are none of a method's.
_NOT_OWN = ("PIL", "filelock")


class _Handler(logging.StreamHandler[TextIO]):
    """Writes records of `logging` as lines: `INFO module: text`."""

    def __init__(self, stream: TextIO, level: int) -> None:
        super().__init__(stream)
        self.setLevel(level)
        self.setFormatter(logging.Formatter("%(levelname)s %(module)s: %(message)s"))

    def filter(self, record: logging.LogRecord) -> Any:
        """False for what is not of the cell's code, unless it is a warning."""
        own = record.name.partition(".")[0] not in _NOT_OWN or record.levelno >= logging.WARNING
        return own and super().filter(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """A record that cannot be formatted, or a closed stream, harms no cell."""


@contextmanager
def collect(log: CellLog) -> Iterator[None]:
    """Collect in a log what Python code prints, logs and warns of inside.

    Streams, and handlers and level of the root logger, are afterwards as before.
    """
    stdout, stderr = log.streams = sys.stdout, sys.stderr
    level = LEVELS[min(log.verbosity, len(LEVELS) - 1)]
    with ExitStack() as stack:
        if log.place == LEFT:
            if log.verbosity:
                stack.enter_context(_log_to(stderr, level))
            yield
            return
        seen, told = log.place == SEEN, log.verbosity > 0
        out = _redirect(log, stdout if seen else None, stderr if told else None, redirect_stdout)
        errors = _redirect(log, None if told and not seen else stderr, stderr, redirect_stderr)
        stack.enter_context(out)
        shown = stack.enter_context(errors)
        if logging.getLogger().handlers:
            # These show it: it is only kept.
            shown = stack.enter_context(_redirect(log, None, stderr, nullcontext))
        stack.enter_context(_log_to(shown, level))
        yield


@contextmanager
def lose_output() -> Iterator[None]:
    """Lose what Python code prints to stdout inside."""
    with _redirect(CellLog(), None, None, redirect_stdout):
        yield


@contextmanager
def _redirect(
    log: CellLog, beside: TextIO | None, forked: TextIO | None, redirect: Any
) -> Iterator[TextIO]:
    lines = _Lines(log, beside, forked)
    # Without a buffer, so that lines of both streams stay in their order.
    raw: Any = lines
    stream = io.TextIOWrapper(raw, "utf-8", "replace", newline="\n", write_through=True)
    try:
        with redirect(stream):
            yield stream
    finally:
        # The code may have closed the stream.
        with suppress(Exception):
            stream.flush()
        lines.end_line()


@contextmanager
def _log_to(stream: TextIO, level: int) -> Iterator[None]:
    """Have the root logger write to a stream inside, from this level on."""
    root, handler = logging.getLogger(), _Handler(stream, level)
    before, lowered = root.level, min(root.level, level)
    root.addHandler(handler)
    root.setLevel(lowered)
    try:
        yield
    finally:
        root.removeHandler(handler)
        if root.level == lowered:
            root.setLevel(before)
