"""SQLite files of derived values, which may be deleted at any time.

A file that is damaged or of another version is made anew. Where none can be kept (a network disk
without locks, a full disk), the values live in memory; a file in a read-only folder is read.
Threads and processes may share a file and may be killed: a transaction is kept whole or not at all.
"""

from __future__ import annotations

import errno
import functools
import os
import sqlite3
import threading
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:
    # Windows, whose file systems all have locks.
    fcntl = None  # type: ignore[assignment]

JOURNALS = ("-wal", "-shm", "-journal")
# File systems of one machine. A write-ahead log needs memory that all its processes share, which
# machines do not (https://sqlite.org/wal.html); elsewhere a rollback journal takes its place.
LOCAL = {"btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "ramfs", "tmpfs", "xfs", "zfs"}
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
# A message about a damaged schema may be no text.
ERRORS = (sqlite3.Error, UnicodeDecodeError)


class Database:
    """A SQLite file with the tables of `schema`, or memory with them (path: None).

    version: of what the values mean; a file of another version or schema is made anew. page_size:
    bytes; larger pages suit larger rows. timeout: seconds to wait for the lock of another process.
    durable: False to write faster values that have their own checksums, which a power failure (not
    a kill) may damage. writes: False to read a file that others write, and never to create or
    remove one.
    """

    def __init__(
        self,
        path: Path | None,
        schema: str,
        version: int = 1,
        *,
        page_size: int = 4096,
        timeout: float = 60.0,
        durable: bool = True,
        writes: bool = True,
    ) -> None:
        self.path = path
        # Why a damaged file was removed; empty if none was.
        self.damage = ""
        self._schema = schema
        # A positive number in 32 bits, as SQLite keeps it.
        self._version = zlib.crc32(f"{version} {schema}".encode()) >> 1 or 1
        self._page_size = page_size
        self._timeout = timeout
        self._durable = durable
        self._writes = writes
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int, int] = (0, 0, 0)
        self._in_memory = False
        # Connections of a parent process: a forked child must neither use nor close them.
        self._inherited: list[sqlite3.Connection] = []

    @property
    def in_memory(self) -> bool:
        """True if the values end with this process."""
        with self._lock:
            self._connect()
            return self._in_memory

    def read(self, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """The rows of a query; none of a file that is damaged, or locked for too long."""
        with self._lock:
            try:
                return self._connect().execute(sql, values).fetchall()
            except ERRORS as error:
                if not self._is_of_file(error):
                    raise
        return []

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """A transaction, rolled back if its body raises; OSError if the file refuses it.

        That may be for a full disk, a read-only file, a lock that others hold too long, or damage.
        """
        with self._lock:
            connection = self._connect()
            try:
                connection.execute("begin immediate")
                yield connection
                connection.execute("commit")
            except BaseException as error:
                with suppress(*ERRORS):
                    connection.execute("rollback")
                if self._is_of_file(error):
                    raise OSError(errno.EIO, f"{error}", str(self.path)) from error
                raise

    def close(self) -> None:
        """Close the file; a later call opens it again."""
        with self._lock:
            if self._connection is not None:
                if self._file[0] == os.getpid():
                    self._connection.close()
                else:
                    self._inherited.append(self._connection)
            self._connection = None

    def __del__(self, errors: Any = (AttributeError, sqlite3.Error)) -> None:
        # A connection is in a circle with its cached statements, which may be collected late.
        # When Python ends, names of this module may be gone.
        try:  # noqa: SIM105 (`suppress` may be gone, too)
            self.close()
        except errors:
            pass

    def _connect(self) -> sqlite3.Connection:
        """The connection of this process to the file that is at the path now, or to memory."""
        if self._connection is not None and self._file == self._identify():
            return self._connection
        self.close()
        for _ in range(2):
            try:
                self._connection = self._open()
                break
            except ERRORS as error:
                self._connection = None
                self._remove("" if isinstance(error, _OtherVersionError) else str(error))
        if self._connection is None:
            self._file = self._identify()
            self._in_memory = True
            self._connection = self._open_file(":memory:", create=True)
        return self._connection

    def _identify(self) -> tuple[int, int, int]:
        """This process, and device and inode of the file at the path."""
        with suppress(OSError):
            if self.path is not None:
                status = self.path.stat()
                return os.getpid(), status.st_dev, status.st_ino
        return os.getpid(), 0, 0

    def _open(self) -> sqlite3.Connection | None:
        """Open the file to write, else to read; None if it refuses, one of ERRORS on damage."""
        if self.path is None:
            return None
        log = self.path.with_name(f"{self.path.name}-wal")
        for way in ("mode=rw", "mode=ro", "mode=ro&immutable=1"):
            # A file with a log is not whole without it.
            if (way == "mode=rw" and not self._writes) or ("immutable" in way and log.exists()):
                continue
            try:
                if way == "mode=rw":
                    # SQLite would create a file that is not for the group of its folder.
                    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
                    self.path.parent.mkdir(parents=True, exist_ok=True)
                    os.close(os.open(self.path, flags, 0o666))
                with self.path.open("rb") as file:
                    if lacks_locks(file):
                        return None
                self._file = self._identify()
                self._in_memory = False
                return self._open_file(f"{self.path.absolute().as_uri()}?{way}", way == "mode=rw")
            except OSError:
                continue
            except sqlite3.Error as error:
                if not _is_refusal(error):
                    raise
        return None

    def _open_file(self, uri: str, create: bool) -> sqlite3.Connection:
        """Connect to a file or memory, with new tables if there are none and they may be made."""
        connection = sqlite3.connect(
            uri, self._timeout, isolation_level=None, check_same_thread=False, uri=True
        )
        # Texts of a damaged file may be none.
        connection.text_factory = lambda text: text.decode("utf-8", "replace")
        try:
            if create:
                connection.execute(f"pragma page_size={self._page_size}")
                if _version_of(connection) != self._version:
                    self._create_tables(connection)
                connection.execute(f"pragma synchronous={'normal' if self._durable else 'off'}")
                if self._durable and self.path is not None and _is_local(self._file[1]):
                    # Refused while others use the file; either journal is safe.
                    with suppress(sqlite3.OperationalError):
                        connection.execute("pragma journal_mode=wal")
            elif _version_of(connection) != self._version:
                raise _OtherVersionError
        except BaseException:
            connection.close()
            raise
        return connection

    def _create_tables(self, connection: sqlite3.Connection) -> None:
        connection.execute("begin immediate")
        # Another process may have created them meanwhile.
        if _version_of(connection) != self._version:
            if connection.execute("select * from sqlite_master").fetchall():
                raise _OtherVersionError
            for statement in self._schema.split(";"):
                connection.execute(statement)
            connection.execute(f"pragma user_version={self._version}")
        connection.execute("commit")

    def _is_of_file(self, error: BaseException) -> bool:
        """True for an error that the file causes, not the caller; a damaged file is removed."""
        if not isinstance(error, ERRORS) or self._in_memory:
            return False
        if _is_refusal(error):
            return True
        # An SQL error may be the caller's, or of a file that lacks its tables.
        damaged = type(error) in (sqlite3.DatabaseError, UnicodeDecodeError)
        if not damaged and self._connection is not None:
            try:
                check = self._connection.execute("pragma quick_check").fetchall()
                damaged = check != [("ok",)] or _version_of(self._connection) != self._version
            except ERRORS:
                damaged = True
        if damaged:
            self._remove(str(error))
        return damaged

    def _remove(self, damage: str) -> None:
        """Remove a damaged file, or one of another version, unless another one is in its place."""
        if self._writes and self.path is not None:
            self.damage = damage or self.damage
            if self._file == self._identify():
                self.close()
                with suppress(OSError):
                    remove_database(self.path)


def lacks_locks(file: IO[bytes]) -> bool:
    """True for a file that cannot be locked, as on NFS without a lock service.

    SQLite would take that for a lock of another process, and wait.
    """
    try:
        if fcntl is not None:
            # SQLite locks other bytes.
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB, 1)
    except OSError as error:
        return error.errno in NO_LOCKS
    return False


def remove_database(path: Path) -> None:
    """Remove a file with its journals, which others may have open; OSError if it stays.

    Journals go first: SQLite drops a journal that is left beside an empty file.
    """
    for suffix in (*JOURNALS, ""):
        path.with_name(f"{path.name}{suffix}").unlink(missing_ok=True)


class _OtherVersionError(sqlite3.DatabaseError):
    """A file with tables of another schema or version, or of another program."""


def _is_refusal(error: BaseException) -> bool:
    """True if this process cannot have a file, a disk or a lock (https://sqlite.org/rescode.html)."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return isinstance(error, sqlite3.OperationalError) and code > sqlite3.SQLITE_ERROR


def _version_of(connection: sqlite3.Connection) -> int:
    return int(connection.execute("pragma user_version").fetchone()[0])


@functools.cache
def _is_local(device: int) -> bool:
    """True if a device is a disk of this machine; False if it is not, or the system does not say.

    Lines of the table: "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw".
    """
    try:
        mounts = Path("/proc/self/mountinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return False
    number = f"{os.major(device)}:{os.minor(device)}"
    return any(
        line.split()[2] == number and line.partition(" - ")[2].split()[0] in LOCAL
        for line in mounts
    )
