"""An audit hook that reports forbidden actions of a reader."""

from __future__ import annotations

import os
import signal
import sys
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

SECONDS = 20
# Events that change the file system, with the positions of paths among their arguments.
CHANGES = {
    "os.rename": (0, 1),
    "os.link": (0, 1),
    "os.symlink": (1,),
    "os.mkdir": (0,),
    "os.rmdir": (0,),
    "os.remove": (0,),
    "os.truncate": (0,),
    "os.chmod": (0,),
    "os.chown": (0,),
    "os.utime": (0,),
    "os.setxattr": (0,),
    "shutil.rmtree": (0,),
    "shutil.move": (1,),
    "shutil.copyfile": (1,),
    "shutil.unpack_archive": (1,),
}
# Events that run or communicate with something.
RUNS = {
    "os.system",
    "os.exec",
    "os.fork",
    "os.forkpty",
    "os.posix_spawn",
    "os.spawn",
    "os.startfile",
    "subprocess.Popen",
    "pickle.find_class",
    "code.__new__",
    "webbrowser.open",
    "pty.spawn",
    "socket.connect",
    "socket.bind",
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "urllib.Request",
    "ftplib.connect",
    "smtplib.connect",
}
# Evaluates class annotations, which are source text.
ANNOTATIONS = typing.__file__
IMPORTER = "<frozen importlib._bootstrap>"


class Hang(BaseException):
    """A reader took longer than `SECONDS`."""


class Guard:
    """Collects forbidden events inside `watching()`; one instance, as hooks cannot be removed."""

    def __init__(self, allowed: Path) -> None:
        self.found: list[str] = []
        self._allowed = str(allowed.resolve()) + os.sep
        self._trusted = tuple({sys.prefix, sys.base_prefix, *map(os.path.realpath, _code())})
        self._on = False
        sys.addaudithook(self._hook)
        signal.signal(signal.SIGALRM, _hang)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Record forbidden events inside the block; Hang after `SECONDS`."""
        self.found, before = [], set(sys.modules)
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        self._on = True
        try:
            yield
        finally:
            self._on = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            for name in set(sys.modules) - before:
                self._check_module(name)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._on:
            return
        if event == "open":
            path, mode, flags = arguments
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if writes or (isinstance(mode, str) and set(mode) & set("wax+")):
                self._check_path(event, path)
        elif event in CHANGES:
            for place in CHANGES[event]:
                self._check_path(event, arguments[place])
        elif event in RUNS:
            self.found.append(f"{event} {arguments!r:.200}")
        elif event == "exec" and not (
            self._is_trusted(arguments[0].co_filename)
            or sys._getframe(1).f_code.co_filename == ANNOTATIONS
            or _importing(sys._getframe(1))
        ):
            self.found.append(f"exec {arguments[0]!r:.200}")

    def _check_path(self, event: str, path: Any) -> None:
        if isinstance(path, int) or path is None:
            return
        real = os.path.realpath(os.fsdecode(path))
        if not (real + os.sep).startswith(self._allowed) and real != os.devnull:
            self.found.append(f"{event} {real!r}")

    def _check_module(self, name: str) -> None:
        file = getattr(sys.modules.get(name), "__file__", None)
        if file and not self._is_trusted(file):
            self.found.append(f"import of {name} from {file}")

    def _is_trusted(self, file: str) -> bool:
        if file.startswith("<frozen "):
            return True
        return os.path.isabs(file) and os.path.realpath(file).startswith(self._trusted)


def _importing(frame: FrameType | None) -> bool:
    """True during an import, which may create classes from text (dataclasses)."""
    while frame is not None:
        if frame.f_code.co_filename == IMPORTER:
            return True
        frame = frame.f_back
    return False


def _code() -> list[str]:
    """Folders with trusted code: the installed packages, and this checkout."""
    return [os.path.dirname(os.__file__), str(Path(__file__).resolve().parents[2])]


def _hang(*_: object) -> None:
    raise Hang(f"took more than {SECONDS} s")


def limit_memory(extra: int) -> None:
    """Limit this process to `extra` bytes of address space beyond its current size."""
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + extra
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))
