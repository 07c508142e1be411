"""Plug-in code inside a command: output to stderr, interrupts as errors, the folder as before.

`plugin_code` is the entry point; `own_interruptions` finds out who raised a KeyboardInterrupt, and
`same_folder` restores the folder alone, for data sets, whose output some commands collect.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from fewshot_bench.utils import processes


class _Shared:
    """State that all threads share: the first that enters saves it, the last that leaves restores.

    save() returns the state, restore(state) puts it back.
    """

    def __init__(self, save: Callable[[], Any], restore: Callable[[Any], None]) -> None:
        self._save, self._restore = save, restore
        self._lock, self._inside, self._saved = threading.RLock(), 0, None

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if not self._inside:
                self._saved = self._save()
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if not self._inside:
                    saved, self._saved = self._saved, None
                    self._restore(saved)


def _to_stderr() -> Any:
    stream, sys.stdout = sys.stdout, sys.stderr
    return stream


def _stdout_again(stream: Any) -> None:
    sys.stdout = stream


def _folder() -> str | None:
    """The working directory; None if it was removed."""
    try:
        return os.getcwd()
    except OSError:
        return None


def _folder_again(folder: str | None) -> None:
    if folder is not None and folder != _folder():
        with suppress(OSError):
            os.chdir(folder)


_stderr_only = _Shared(_to_stderr, _stdout_again)
# Paths such as the store's are relative to the working directory.
same_folder = _Shared(_folder, _folder_again)


@contextmanager
def plugin_code() -> Iterator[None]:
    """Send Python's stdout to stderr inside, which keeps a command's own output (JSON) whole.

    Afterwards the working directory is the one before. A KeyboardInterrupt that the code inside
    raises becomes a RuntimeError; Ctrl-C and other signals pass.
    """
    with _stderr_only(), same_folder(), own_interruptions() as interrupted:
        try:
            yield
        except KeyboardInterrupt as error:
            if interrupted() or _is_of_a_signal(error):
                raise
            raise RuntimeError("it raised KeyboardInterrupt") from error


def _is_of_a_signal(error: KeyboardInterrupt) -> bool:
    """True if a signal handler of fsbench raised it: its frame is the last of the traceback."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    file = trace.tb_frame.f_code.co_filename if trace is not None else ""
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
