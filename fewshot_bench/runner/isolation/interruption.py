"""Tell Ctrl-C from a KeyboardInterrupt that a plug-in raises."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def own_interruptions() -> Iterator[Callable[[], bool]]:
    """Gives a function that says whether the person interrupted this process inside.

    A handler other than Python's own is left as it is; then, and in other threads than the main
    one, every KeyboardInterrupt is taken for one that was raised by the code inside.
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
