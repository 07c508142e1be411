"""Leases on shared work, without locks: `Leases.claim` takes one, which dies with its process.

A lease is a file `claims/<key>.<generation>` that is created exclusively and touched while its
holder lives. It is dead if it was not touched for its `seconds`, if its time is as far in the
future (a clock was put back), or if its process on this machine has ended; then the next generation
may be claimed. Leases are safe on shared file systems: they need only exclusive creation, touching,
listing and removal, and all times are by the clock of the store's file system, so that clocks of
machines need not agree.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

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
# Placeholder for an unreadable lease file, such as one that is still being written.
_UNKNOWN: dict[str, Any] = {"machine": "", "pid": 0, "started": 0.0, "run": "", "token": ""}


@dataclass(frozen=True)
class Holder:
    """The holder of a lease: machine and process, run, and number of the try.

    tries: number of processes of the same run that held it in a row, all but this one dead.
    """

    machine: str
    pid: int
    started: float
    run: str
    token: str
    seconds: float = LEASE_SECONDS
    tries: int = 1

    def __str__(self) -> str:
        """The process and its host, for the user."""
        # The host is followed by the scope of its process ids (`this_machine`).
        host = self.machine.rsplit("-", 2)[0]
        return printable(f"process {self.pid} on {host}") if self.pid else "an unknown process"


@dataclass(frozen=True)
class Lease:
    """A lease that this process holds."""

    key: str
    path: Path
    holder: Holder


@dataclass
class Leases:
    """The leases of one process on a store; `run` groups processes that work for one command.

    Held leases are renewed by a thread until they are released or `close` is called.
    """

    store: Store
    run: str
    seconds: float = LEASE_SECONDS
    held: dict[str, Lease] = field(default_factory=dict)
    _stopped: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _offset: tuple[float, float] | None = None

    @property
    def folder(self) -> Path:
        """The folder of the store's leases."""
        return self.store.path / FOLDER

    def claim(self, key: str) -> Lease | None:
        """The lease of `key`, or None while a live process holds it; StoreError if unwritable."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lease = self._claim(key)
        except OSError as error:
            raise self.store.cannot_write(self.folder, error) from error
        if lease is not None:
            self.held[key] = lease
            self._renew_from_now_on()
        return lease

    def _claim(self, key: str) -> Lease | None:
        generations = self._generations(key)
        holders = {number: self._read(path) for number, path in generations.items()}
        if any(self._lives(path, holders[number]) for number, path in generations.items()):
            return None
        last = max(generations, default=0)
        before = holders.get(last)
        tries = before.tries + 1 if before is not None and before.run == self.run else 1
        holder = Holder(
            this_machine(), os.getpid(), started(), self.run, secrets.token_hex(8), self.seconds
        )
        holder = Holder(**{**asdict(holder), "tries": tries})
        path = self.folder / f"{key}.{last + 1}"
        try:
            file = path.open("x", encoding="utf-8")
        except FileExistsError:
            return None
        try:
            with file:
                file.write(json.dumps(asdict(holder)))
            # Another process may have released and claimed anew between listing and creation.
            others = [other for other in self._generations(key).values() if other != path]
            if any(self._lives(other, self._read(other)) for other in others):
                path.unlink(missing_ok=True)
                return None
            for other in others:
                # That of another user who shares the store may have to stay; it is dead.
                with suppress(OSError):
                    other.unlink(missing_ok=True)
        except OSError:
            # For example a full disk: no other process should wait for this lease.
            with suppress(OSError):
                path.unlink(missing_ok=True)
            raise
        return Lease(key, path, holder)

    def is_free(self, key: str) -> bool:
        """True if no live process holds `key`; False if the folder cannot be read."""
        try:
            return self._find_holder(key) is None
        except OSError:
            return False

    def holder(self, key: str) -> Holder | None:
        """The holder of `key` in a live process; None without one, or if it cannot be read."""
        with suppress(OSError):
            return self._find_holder(key)
        return None

    def _find_holder(self, key: str) -> Holder | None:
        """The holder of `key` in a live process; OSError if the folder cannot be read."""
        for path in self._generations(key).values():
            holder = self._read(path)
            if self._lives(path, holder):
                return holder
        return None

    def release(self, key: str) -> None:
        """Release a lease; if it was lost in the meantime, its new holder keeps it."""
        lease = self.held.pop(key, None)
        if lease is not None and self._is_mine(lease):
            with suppress(OSError):
                lease.path.unlink(missing_ok=True)

    def renew(self) -> None:
        """Touch the files of all held leases."""
        for lease in list(self.held.values()):
            with suppress(OSError):
                if self._is_mine(lease):
                    os.utime(lease.path)

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
                with suppress(OSError):
                    path.unlink(missing_ok=True)

    def dead(self) -> list[Path]:
        """Files of dead leases, and clock probes that killed processes left behind."""
        clocks = [
            path for path in self.folder.glob(f"{CLOCK}*") if abs(self._age(path)) > self.seconds
        ]
        leases = [path for path in _entries(self.folder) if not self._lives(path, self._read(path))]
        return clocks + leases

    def _renew_from_now_on(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._keep_renewing, daemon=True)
            self._thread.start()

    def _keep_renewing(self) -> None:
        while not self._stopped.wait(self.seconds / RENEWALS):
            self.renew()

    def _is_mine(self, lease: Lease) -> bool:
        holder = self._read(lease.path)
        return holder is not None and holder.token == lease.holder.token

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
            return _holder(json.loads(read_regular(path, _LONGEST)))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, LookupError, RecursionError, OverflowError):
            return Holder(**_UNKNOWN)

    def _lives(self, path: Path, holder: Holder | None) -> bool:
        if holder is None:
            return False
        if holder.machine == this_machine() and not is_running(holder.pid, holder.started):
            return False
        if abs(self._age(path)) <= holder.seconds:
            return True
        return abs(self._age(path, CERTAIN_SECONDS)) <= holder.seconds

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


def _holder(values: dict[str, Any]) -> Holder:
    """Parse a holder from a file: convert its values and cap `seconds`."""
    texts = {name: str(values[name]) for name in ("machine", "run", "token")}
    seconds = min(float(values["seconds"]), LONGEST_SECONDS)
    pid, since = int(values["pid"]), float(values["started"])
    return Holder(pid=pid, started=since, seconds=seconds, tries=int(values["tries"]), **texts)


def _entries(folder: Path) -> Iterable[Path]:
    try:
        return [Path(entry.path) for entry in os.scandir(folder) if entry.name[:1] != "."]
    except FileNotFoundError:
        return []
