"""The members of an archive in order, in one shape for zip and tar; damage is told, not skipped."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

MAX_HEADER = 16 * 2**20
_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    LookupError,
    ArithmeticError,
    struct.error,
)
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")


class DamagedError(Exception):
    """An archive that is truncated, corrupt or of no known format."""


class UnsafeError(Exception):
    """An archive that must not be unpacked; the text says why."""


@dataclass(frozen=True, slots=True)
class Member:
    """One entry. `target` is what a link points to; `content` can be read once, before the next."""

    name: str
    kind: Literal["file", "folder", "symbolic link", "hard link", "special file"]
    size: int = 0
    target: str = ""
    content: IO[bytes] | None = None


@contextmanager
def damage_told() -> Iterator[None]:
    """Turn what the readers of archives raise into DamagedError."""
    try:
        yield
    except _DAMAGE as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise DamagedError(text) from None
    except OSError as error:
        # gzip and bz2 raise OSError without an error number for content that they cannot read; an
        # archive that sends its reader to before its start has an invalid argument.
        if error.errno in (None, errno.EINVAL):
            raise DamagedError(str(error)) from None
        raise


def members_of(archive: Path, most: int) -> Iterator[Member]:
    """All members, in the order of the archive.

    most: bytes that a compressed tar may expand to. Raises DamagedError, or UnsafeError where an
    archive expands to more, has an encrypted member or a header of unreasonable size.
    """
    with archive.open("rb") as raw:
        head = raw.read(6)
        raw.seek(0)
        if head.startswith(_ZIP):
            yield from _zip_members(raw)
            return
        yield from _tar_members(_Guarded(_expanded(raw, head), most))


def _expanded(raw: IO[bytes], head: bytes) -> Any:
    if head.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=raw)
    if head.startswith(b"\xfd7zXZ\x00"):
        return lzma.LZMAFile(raw)
    return bz2.BZ2File(raw) if head.startswith(b"BZh") else raw


def _zip_members(raw: IO[bytes]) -> Iterator[Member]:
    with zipfile.ZipFile(raw) as archive:
        for info in archive.infolist():
            if info.flag_bits & 1:
                raise UnsafeError(f"member {info.orig_filename!a} is encrypted")
            kind = _zip_kind(info)
            if kind == "symbolic link":
                target = archive.read(info)[:4096].decode("utf-8", "surrogateescape")
                yield Member(info.orig_filename, kind, target=target)
            elif kind == "file":
                with archive.open(info) as content:
                    yield Member(info.orig_filename, kind, info.file_size, content=content)
            else:
                yield Member(info.orig_filename, kind)


def _zip_kind(
    info: zipfile.ZipInfo,
) -> Literal["file", "folder", "symbolic link", "special file"]:
    mode = info.external_attr >> 16
    if stat.S_ISLNK(mode):
        return "symbolic link"
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "special file"
    return "folder" if info.is_dir() or stat.S_ISDIR(mode) else "file"


def _tar_members(plain: _Guarded) -> Iterator[Member]:
    with tarfile.open(fileobj=plain, mode="r:") as archive:
        while (info := archive.next()) is not None:
            if info.isreg():
                content = archive.extractfile(info)
                yield Member(info.name, "file", info.size, content=content)
            elif info.isdir():
                yield Member(info.name, "folder")
            elif info.issym():
                yield Member(info.name, "symbolic link", target=info.linkname)
            elif info.islnk():
                yield Member(info.name, "hard link", target=info.linkname)
            else:
                yield Member(info.name, "special file")
            # tarfile keeps every member that it has seen.
            archive.members = []  # type: ignore[attr-defined]
        # tarfile takes a header that it cannot read, or a missing one, for the end.
        plain.seek(archive.offset)
        block = plain.read(tarfile.BLOCKSIZE)
        if len(block) < tarfile.BLOCKSIZE or any(block):
            raise DamagedError("the end of the archive is missing, or a header is corrupt")
        while plain.read(2**20):
            pass


class _Guarded(io.RawIOBase):
    """A stream that ends in an error beyond a size, and gives no huge piece at once."""

    def __init__(self, plain: IO[bytes], most: int) -> None:
        self._plain = plain
        self._most = most

    def read(self, size: int = -1) -> bytes:
        """As a file does, within the bounds."""
        if not 0 <= size <= MAX_HEADER:
            raise UnsafeError(f"a header of the archive claims {size:,} bytes")
        content = self._plain.read(size)
        self._check()
        return content

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As a file does, within the bounds."""
        if whence == io.SEEK_SET and offset > self._most:
            raise UnsafeError(f"it unpacks to more than {self._most:,} bytes")
        position = self._plain.seek(offset, whence)
        self._check()
        return position

    def tell(self) -> int:
        """Bytes from the start."""
        return self._plain.tell()

    def _check(self) -> None:
        if self._plain.tell() > self._most:
            raise UnsafeError(f"it unpacks to more than {self._most:,} bytes")
