"""Plug-in code inside a command: output to stderr, interrupts as errors, the process as before.

`plugin_code` is the entry point; `own_interruptions` finds out who raised a KeyboardInterrupt, and
`same_state` only restores the process, for data sets, whose output some commands collect.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, redirect_stdout, suppress
from types import FrameType

from fewshot_bench.utils import processes


class _Shared:
    """A context that threads share: the first that enters opens it, the last that leaves closes."""

    def __init__(self, make: Callable[[], AbstractContextManager[object]]) -> None:
        self._make, self._lock, self._inside = make, threading.RLock(), 0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if not self._inside:
                self._context = self._make()
                self._context.__enter__()
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if not self._inside:
                    self._context.__exit__(None, None, None)


# The umask outside of plug-in code; None while none runs.
_umask: int | None = None


def reset_umask() -> None:
    """Let files of the harness that are made inside plug-in code have their usual mode."""
    if _umask is not None:
        os.umask(_umask)


@contextmanager
def _restore_state() -> Iterator[None]:
    global _umask
    folder = None
    # Python reads the umask only by changing it.
    _umask = os.umask(0o077)
    os.umask(_umask)
    # It may have been removed, before or inside.
    with suppress(OSError):
        folder = os.getcwd()
    try:
        yield
    finally:
        reset_umask()
        _umask = None
        with suppress(OSError):
            if folder is not None:
                os.chdir(folder)


_stderr_only = _Shared(lambda: redirect_stdout(sys.stderr))
# Restores the umask and the working directory, to which paths such as the store's are relative.
same_state = _Shared(_restore_state)


@contextmanager
def plugin_code() -> Iterator[None]:
    """Send Python's stdout to stderr inside, which keeps a command's own output (JSON) whole.

    Afterwards the working directory and the umask are those of before. A KeyboardInterrupt that the
    code inside raises becomes a RuntimeError; Ctrl-C and other signals pass.
    """
    with _stderr_only(), same_state(), own_interruptions() as interrupted:
        try:
            yield
        except KeyboardInterrupt as error:
            if interrupted() or _is_of_a_signal(error):
                raise
            raise RuntimeError("it raised KeyboardInterrupt") from error


def _is_of_a_signal(error: KeyboardInterrupt) -> bool:
    """True if a signal handler of fsbench raised it: its frame is the last of the traceback."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_code.co_filename in (__file__, processes.__file__)


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
