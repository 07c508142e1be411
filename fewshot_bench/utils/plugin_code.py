"""Plug-in code inside a command: its output goes to stderr, and its interrupts are its own errors.

`plugin_code` is the entry point; `own_interruptions` finds out who raised a KeyboardInterrupt.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from fewshot_bench.utils import processes

_lock = threading.RLock()
# Threads inside `plugin_code`, and the stdout that the last of them puts back.
_inside = 0
_stdout: Any = None


@contextmanager
def plugin_code() -> Iterator[None]:
    """Send Python's stdout to stderr inside, which keeps a command's own output (JSON) whole.

    A KeyboardInterrupt that the code inside raises becomes a RuntimeError; Ctrl-C and other signals
    pass.
    """
    with _to_stderr(), own_interruptions() as interrupted:
        try:
            yield
        except KeyboardInterrupt as error:
            if interrupted() or _is_of_a_signal(error):
                raise
            raise RuntimeError("it raised KeyboardInterrupt") from error


@contextmanager
def _to_stderr() -> Iterator[None]:
    """Send stdout, which all threads share, to stderr until the last thread inside has left."""
    global _inside, _stdout
    with _lock:
        if not _inside:
            _stdout, sys.stdout = sys.stdout, sys.stderr
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                sys.stdout, _stdout = _stdout, None


def _is_of_a_signal(error: KeyboardInterrupt) -> bool:
    """True if a signal handler of fsbench raised it: its frame is the last of the traceback."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    file = place.tb_frame.f_code.co_filename if place is not None else ""
    return file in (__file__, processes.__file__)


@contextmanager
def own_interruptions() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns True once this process received SIGINT inside.

    Outside the main thread, or with a SIGINT handler other than Python's default (which is left in
    place), every KeyboardInterrupt counts as raised by the code inside.
    """
    seen = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        signal.default_int_handler(number, frame)

    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield lambda: False
        return
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield lambda: bool(seen)
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
