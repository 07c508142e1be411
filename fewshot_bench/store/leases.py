"""Leases on shared work, without locks: `Leases.claim` takes one, which dies with its process.

A lease is a file `claims/<key>.<generation>` that is created exclusively and touched while its
holder lives. It is dead if it was not touched for its `seconds`, if its time is as far in the
future (a clock was put back), or if its process on this machine has ended; then the next generation
may be claimed. Leases are safe on shared file systems: they need only exclusive creation, touching,
listing and removal, and all times are by the clock of the store's file system, so that clocks of
machines need not agree.
"""

from __future__ import annotations

import math
import os
import secrets
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from fewshot_bench.store.store import Store
from fewshot_bench.utils.files import clock_of, read_regular
from fewshot_bench.utils.processes import is_running, started, this_machine
from fewshot_bench.utils.text import printable

FOLDER = "claims"
CLOCK = ".clock-"
# The most bytes of a lease.
_LONGEST = 2**16
LEASE_SECONDS = 60.0
LONGEST_SECONDS = 24 * 3600.0
# A lease is renewed this many times within its seconds.
RENEWALS = 6
# A measured offset between the clocks is reused for this long, and for less if a lease looks dead
# by it: this machine's clock may have been set in the meantime.
CLOCK_SECONDS, CERTAIN_SECONDS = 60.0, 1.0


class Holder(msgspec.Struct, frozen=True):
    """The holder of a lease: machine and process, run, and number of the try.

    tries: number of processes of the same run that held it in a row, all but this one dead. Without
    values, it is that of an unreadable file, such as one that is still being written.
    """

    machine: str = ""
    pid: int = 0
    started: float = 0.0
    run: str = ""
    token: str = ""
    seconds: float = LEASE_SECONDS
    tries: int = 1

    def __str__(self) -> str:
        """The process and its host, for the user."""
        # The host is followed by the scope of its process ids (`this_machine`).
        host = self.machine.rsplit("-", 2)[0]
        return printable(f"process {self.pid} on {host}") if self.pid else "an unknown process"


@dataclass
class Leases:
    """The leases of one process on a store; `run` groups processes that work for one command.

    Held leases are renewed by a thread until they are released or `close` is called.
    """

    store: Store
    run: str
    seconds: float = LEASE_SECONDS
    # By key: its file, and the holder in it.
    held: dict[str, tuple[Path, Holder]] = field(default_factory=dict)
    _stopped: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _offset: tuple[float, float] | None = None

    @property
    def folder(self) -> Path:
        """The folder of the store's leases."""
        return self.store.path / FOLDER

    def claim(self, key: str) -> Holder | None:
        """Take the lease of `key`; None while a live process holds it, StoreError if unwritable."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lease = self._claim(key)
        except OSError as error:
            raise self.store.cannot_write(self.folder, error) from error
        if lease is None:
            return None
        self.held[key] = lease
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._keep_renewing, daemon=True)
            self._thread.start()
        return lease[1]

    def _claim(self, key: str) -> tuple[Path, Holder] | None:
        generations = self._generations(key)
        holders = {number: self._read(path) for number, path in generations.items()}
        if any(self._lives(path, holders[number]) for number, path in generations.items()):
            return None
        last = max(generations, default=0)
        before = holders.get(last)
        tries = before.tries + 1 if before is not None and before.run == self.run else 1
        token = secrets.token_hex(8)
        holder = Holder(
            this_machine(), os.getpid(), started(), self.run, token, self.seconds, tries
        )
        path = self.folder / f"{key}.{last + 1}"
        try:
            file = path.open("xb")
        except FileExistsError:
            return None
        try:
            with file:
                file.write(msgspec.json.encode(holder))
            # Another process may have released and claimed anew between listing and creation.
            others = [other for other in self._generations(key).values() if other != path]
            if any(self._lives(other, self._read(other)) for other in others):
                path.unlink(missing_ok=True)
                return None
        except OSError:
            # For example a full disk: no other process should wait for this lease.
            _remove(path)
            raise
        for other in others:
            _remove(other)
        return path, holder

    def is_free(self, key: str) -> bool:
        """True if no live process holds `key`; False if the folder cannot be read."""
        return self.find_holder(key) is None

    def find_holder(self, key: str) -> Holder | None:
        """The holder of `key` in a live process; an unknown one if the folder cannot be read."""
        try:
            for path in self._generations(key).values():
                holder = self._read(path)
                if self._lives(path, holder):
                    return holder
        except OSError:
            return Holder()
        return None

    def release(self, key: str) -> None:
        """Release a lease; if it was lost in the meantime, its new holder keeps it."""
        path, holder = self.held.pop(key, (None, None))
        if path is not None and self._is_of(path, holder):
            _remove(path)

    def _keep_renewing(self) -> None:
        while not self._stopped.wait(self.seconds / RENEWALS):
            for path, holder in list(self.held.values()):
                with suppress(OSError):
                    if self._is_of(path, holder):
                        os.utime(path)

    def close(self) -> None:
        """Release all leases and stop the renewal thread."""
        self._stopped.set()
        for key in list(self.held):
            self.release(key)

    def forget(self, keys: Iterable[str]) -> None:
        """Remove dead leases of finished work (`keys`), left behind by killed runs."""
        entries = list(_entries(self.folder))
        wanted = set(keys if entries else ())
        for path in entries:
            if path.name.rpartition(".")[0] in wanted and not self._lives(path, self._read(path)):
                _remove(path)

    def dead(self) -> list[Path]:
        """Files of dead leases, and clock probes that killed processes left behind."""
        clocks = [
            path for path in self.folder.glob(f"{CLOCK}*") if abs(self._age(path)) > self.seconds
        ]
        leases = [path for path in _entries(self.folder) if not self._lives(path, self._read(path))]
        return clocks + leases

    def _is_of(self, path: Path, holder: Holder | None) -> bool:
        return holder is not None and self._read(path) == holder

    def _generations(self, key: str) -> dict[int, Path]:
        generations = {}
        for path in _entries(self.folder):
            name, _, number = path.name.rpartition(".")
            if name == key and number.isdigit():
                generations[int(number)] = path
        return generations

    @staticmethod
    def _read(path: Path) -> Holder | None:
        """The holder of a lease; None if the file is gone, a placeholder if it is unreadable."""
        try:
            return msgspec.json.decode(read_regular(path, _LONGEST), type=Holder)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError):
            return Holder()

    def _lives(self, path: Path, holder: Holder | None) -> bool:
        if holder is None:
            return False
        if holder.machine == this_machine() and not is_running(holder.pid, holder.started):
            return False
        seconds = min(holder.seconds, LONGEST_SECONDS)
        ages = (self._age(path, reused) for reused in (CLOCK_SECONDS, CERTAIN_SECONDS))
        return any(abs(age) <= seconds for age in ages)

    def _age(self, path: Path, reused: float = CLOCK_SECONDS) -> float:
        """Seconds since a file was touched; infinity if it is gone, 0 if that is not known.

        Negative if the clock of the file system was put back since then. reused: the seconds for
        which a measured offset between the clocks counts.
        """
        try:
            # Opening the file makes a network file system query the server.
            with path.open("rb") as file:
                touched = os.fstat(file.fileno()).st_mtime
        except FileNotFoundError:
            return math.inf
        except OSError:
            # Another user's may be unreadable, and yet tell its time.
            try:
                touched = path.stat().st_mtime
            except OSError:
                return 0.0
        return self._now(reused) - touched

    def _now(self, reused: float) -> float:
        """Current time by the clock of the store's file system."""
        if self._offset is None or time.monotonic() - self._offset[1] > reused:
            self._offset = clock_of(self.folder, CLOCK) - time.time(), time.monotonic()
        return time.time() + self._offset[0]


def _remove(path: Path) -> None:
    """Remove a file; that of another user who shares the store may have to stay."""
    with suppress(OSError):
        path.unlink(missing_ok=True)


def _entries(folder: Path) -> Iterable[Path]:
    try:
        return [Path(entry.path) for entry in os.scandir(folder) if entry.name[:1] != "."]
    except FileNotFoundError:
        return []
