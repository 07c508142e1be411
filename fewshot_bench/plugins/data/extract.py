"""Unpacks zip and tar archives completely or not at all; `unpack` is the entry point.

Names, sizes, member counts and compression ratios have limits. No member is written outside the
target folder, through a link, or as anything but a plain file.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import re
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal

from fewshot_bench.utils.progress import current
from fewshot_bench.utils.text import leaves, plain_text

MAX_HEADER = 16 * 2**20
_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    RuntimeError,
    ValueError,
    LookupError,
    ArithmeticError,
    struct.error,
)
_MACOS = re.compile(r"__MACOSX$|\.DS_Store$|\._")
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
CHUNK, MB = 2**20, 1e6
MAX_MEMBERS = 2_000_000
MAX_UNPACKED = 200 * 10**9
# Images hardly compress; small archives may hold text, which does.
MAX_RATIO = 50
RATIO_FLOOR = 16 * 2**20
MAX_NAME_BYTES = 255
MAX_PATH_BYTES = 1024


class DamagedError(Exception):
    """An archive that is truncated, corrupt or of no known format."""


class UnsafeError(Exception):
    """An archive that must not be unpacked; the text says why."""


Kind = Literal["file", "folder", "symbolic link", "hard link", "special file"]


@dataclass(frozen=True, slots=True)
class Member:
    """One entry. `target`: path that a link points to; `content`: readable until the next entry."""

    name: str
    kind: Kind
    size: int = 0
    target: str = ""
    content: IO[bytes] | None = None


def members_of(archive: Path, most: int) -> Iterator[Member]:
    """Yield all members in archive order; errors of the archive readers are those of `_DAMAGE`.

    most: bytes that a tar may expand to. Raises DamagedError if the end of a tar is missing or
    followed by further data, UnsafeError if it expands to more, has an oversized header, or a zip
    member is encrypted.
    """
    with archive.open("rb") as raw:
        head = raw.read(6)
        raw.seek(0)
        if head.startswith(_ZIP):
            yield from _zip_members(raw)
            return
        yield from _tar_members(_Guarded(_decompress(raw, head), most))


def _decompress(raw: IO[bytes], head: bytes) -> Any:
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
            if kind in ("folder", "special file"):
                yield Member(info.orig_filename, kind)
                continue
            with archive.open(info) as content:
                if kind == "file":
                    yield Member(info.orig_filename, kind, info.file_size, content=content)
                else:
                    # A link may be a bomb, too: no more of it is unpacked than a path can have.
                    target = content.read(4096).decode("utf-8", "surrogateescape")
                    yield Member(info.orig_filename, kind, target=target)


def _zip_kind(info: zipfile.ZipInfo) -> Kind:
    mode = info.external_attr >> 16
    if stat.S_ISLNK(mode):
        return "symbolic link"
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "special file"
    return "folder" if info.is_dir() or stat.S_ISDIR(mode) else "file"


_TAR_KINDS: Mapping[bytes, Kind] = {
    tarfile.DIRTYPE: "folder",
    tarfile.SYMTYPE: "symbolic link",
    tarfile.LNKTYPE: "hard link",
}


def _tar_members(plain: _Guarded) -> Iterator[Member]:
    with tarfile.open(fileobj=plain, mode="r:") as archive:
        while (info := archive.next()) is not None:
            if info.isreg():
                content = archive.extractfile(info)
                yield Member(info.name, "file", info.size, content=content)
            else:
                kind = _TAR_KINDS.get(info.type, "special file")
                yield Member(info.name, kind, target=info.linkname)
            # tarfile keeps every member that it has read; drop them to bound memory.
            archive.members = []  # type: ignore[attr-defined]
        # tarfile treats an unreadable or missing header as the end of the archive.
        plain.seek(archive.offset)
        block = plain.read(tarfile.BLOCKSIZE)
        if len(block) < tarfile.BLOCKSIZE or any(block):
            raise DamagedError("the end of the archive is missing, or a header is corrupt")
        while rest := plain.read(CHUNK):
            # An archive that was joined by `cat`, which tarfile leaves out.
            if rest.strip(b"\0"):
                raise DamagedError(
                    f"data follows the mark of its end, at byte {archive.offset:,} (unpack it with "
                    "tar --ignore-zeros, and pack the files anew)"
                )


class _Guarded(io.RawIOBase):
    """A stream that raises UnsafeError beyond `most` bytes and on reads above MAX_HEADER."""

    def __init__(self, plain: IO[bytes], most: int) -> None:
        self._plain = plain
        self._most = most

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes; UnsafeError beyond the limits."""
        if not 0 <= size <= MAX_HEADER:
            raise UnsafeError(f"a header of the archive claims {size:,} bytes")
        content = self._plain.read(size)
        self._check()
        return content

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Seek as a file does; UnsafeError beyond the size limit."""
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


@dataclass
class _Unpacking:
    """State of unpacking one archive, and the limits for all of it."""

    target: Path
    strip: PurePosixPath
    most: int
    members: int = 0
    written: int = 0
    files: set[PurePosixPath] = field(default_factory=set)
    links: list[tuple[PurePosixPath, PurePosixPath]] = field(default_factory=list)


def unpack(
    archive: Path,
    target: Path,
    *,
    strip: str = "",
    inner: tuple[str, ...] = (),
    most: int = 0,
) -> int:
    """Unpack `archive` into the new folder `target`; returns the number of files.

    `strip` is removed from member paths, and members outside it are skipped. Archives named in
    `inner` (by member path) are unpacked in their own folder and removed. Raises DamagedError,
    UnsafeError or OSError after removing `target`. Links become copies; files get default modes.
    """
    if target.exists():
        shutil.rmtree(target)
    target.mkdir(parents=True)
    state = _Unpacking(target, PurePosixPath(strip), most or MAX_UNPACKED)
    try:
        _unpack_one(archive, state)
        for name in inner:
            _unpack_inner(name, state)
        if not state.files:
            raise DamagedError(f"it holds no file below {strip}" if strip else "it holds no file")
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
    return len(state.files)


def _unpack_inner(name: str, state: _Unpacking) -> None:
    file = _below(PurePosixPath(name), state.strip)
    if file not in state.files or file is None:
        raise DamagedError(f"it holds no {name}")
    path = state.target / file
    state.files.discard(file)
    folder = _Unpacking(path.parent, PurePosixPath(), state.most, state.members, state.written)
    try:
        _unpack_one(path, folder)
    except DamagedError as error:
        raise DamagedError(f"{name} inside: {error}") from None
    path.unlink()
    state.members, state.written = folder.members, folder.written
    state.files |= {file.parent / member for member in folder.files}


def _unpack_one(archive: Path, state: _Unpacking) -> None:
    allowed = max(RATIO_FLOOR, MAX_RATIO * archive.stat().st_size)
    limit = min(state.most, state.written + allowed)
    try:
        for member in members_of(archive, 2 * limit + RATIO_FLOOR):
            state.members += 1
            if state.members > MAX_MEMBERS:
                raise UnsafeError(f"it has more than {MAX_MEMBERS:,} members")
            _unpack_member(member, state, limit)
    except _DAMAGE as error:
        raise DamagedError(" ".join(str(error).split()) or type(error).__name__) from None
    except OSError as error:
        # gzip and bz2 raise OSError without errno for unreadable content; an archive that makes
        # its reader seek to before the start fails with EINVAL.
        if error.errno in (None, errno.EINVAL):
            raise DamagedError(str(error)) from None
        raise
    _copy_links(state, limit)


def _unpack_member(member: Member, state: _Unpacking, limit: int) -> None:
    path = safe_path(member.name)
    if member.kind == "special file":
        raise UnsafeError(f"member {member.name!a} is a device, pipe or the like")
    link = _link_target(member, path) if "link" in member.kind else None
    inside = _below(path, state.strip)
    # The archive's folder itself, and metadata of macOS such as `.DS_Store`, are no data.
    if inside is None or not inside.parts or any(map(_MACOS.match, inside.parts)):
        return
    if member.kind == "folder":
        _make_folder(state.target / inside, member.name)
    elif link is not None:
        aim = _below(link, state.strip)
        if aim is None:
            raise UnsafeError(f"the link {member.name!a} leads to {member.target!a}, outside")
        state.links.append((inside, aim))
    else:
        if inside in state.files:
            raise UnsafeError(f"member {member.name!a} is there twice")
        state.files.add(inside)
        _write(member, state.target / inside, state, limit)


def safe_path(name: str) -> PurePosixPath:
    """Relative path of a member; UnsafeError if it leaves the folder or is no plain name."""
    if not plain_text(name):
        raise UnsafeError(f"the name {name[:200]!a} has control characters or is not UTF-8")
    if "\\" in name:
        raise UnsafeError(f"the name {name[:200]!a} has a backslash")
    path = PurePosixPath(name)
    if not name or leaves(name):
        raise UnsafeError(f"member {name[:200]!a} leads out of the folder")
    longest = max((len(part.encode()) for part in path.parts), default=0)
    if len(name.encode()) > MAX_PATH_BYTES or longest > MAX_NAME_BYTES:
        raise UnsafeError(f"the name {name[:60]!a}... is too long")
    return path


def _link_target(member: Member, path: PurePosixPath) -> PurePosixPath:
    """Path of the member that a link points to; UnsafeError if it leaves the archive."""
    target = PurePosixPath(member.target)
    start = path.parent.parts if member.kind == "symbolic link" else ()
    parts: list[str] = list(start)
    for part in target.parts:
        if part != "..":
            parts.append(part)
        elif parts:
            parts.pop()
        else:
            parts = [".."]
            break
    if not parts or target.is_absolute() or ".." in parts:
        raise UnsafeError(f"the link {member.name!a} leads to {member.target!a}, outside")
    return safe_path("/".join(parts))


def _below(path: PurePosixPath, folder: PurePosixPath) -> PurePosixPath | None:
    return path.relative_to(folder) if path.is_relative_to(folder) else None


def _make_folder(folder: Path, name: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UnsafeError(f"member {name!a} needs a folder where a file is") from None


def _write(member: Member, path: Path, state: _Unpacking, limit: int) -> None:
    if member.content is None:
        raise DamagedError(f"member {member.name!a} has no content")
    _make_folder(path.parent, member.name)
    try:
        out = path.open("xb", buffering=0)
    except (FileExistsError, IsADirectoryError):
        raise UnsafeError(f"member {member.name!a} is there twice") from None
    before = state.written
    with out:
        while chunk := member.content.read(CHUNK):
            state.written += len(chunk)
            if state.written > limit:
                raise UnsafeError(f"it unpacks to more than {limit:,} bytes, the limit for it")
            write_fully(out, chunk)
    if state.written - before != member.size:
        raise DamagedError(f"member {member.name!a} is cut short")


def write_fully(out: IO[bytes], chunk: bytes) -> None:
    """Write all of a chunk to an unbuffered file, which may take less at once; counts the MB."""
    view = memoryview(chunk)
    while view:
        view = view[out.write(view) :]
    current().advance(len(chunk) / MB)


def _copy_links(state: _Unpacking, limit: int) -> None:
    for link, aim in state.links:
        if link in state.files:
            raise UnsafeError(f"member {str(link)!a} is there twice")
        if aim not in state.files:
            raise UnsafeError(f"the link {str(link)!a} leads to no file of the archive")
        path = state.target / link
        state.written += (state.target / aim).stat().st_size
        if state.written > limit:
            raise UnsafeError(f"it unpacks to more than {limit:,} bytes, the limit for it")
        _make_folder(path.parent, str(link))
        if path.exists():
            raise UnsafeError(f"member {str(link)!a} is there twice")
        shutil.copyfile(state.target / aim, path)
        state.files.add(link)
    state.links.clear()
