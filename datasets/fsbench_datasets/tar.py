"""Random access to members of uncompressed tar archives, which are never unpacked.

`tar_index` lists an archive, `read_member` reads a member. Indexes are cached under the archive's
file stamp.
"""

from __future__ import annotations

import os
import tarfile
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import IO, TypeVar

import msgspec

from fewshot_bench import DataMissingError
from fewshot_bench.api.sources import file_stamp
from fsbench_datasets.kept_lists import keep

BLOCK = 512
CHUNK = 2**20
COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd", b"PK\x03\x04")
Index = TypeVar("Index")
AGAIN = "fetch it again, the copy is incomplete or of another kind"


class _JoinedError(ValueError):
    """Data behind the mark that ends an archive, which readers of tar files leave out."""


class Member(msgspec.Struct, frozen=True, array_like=True):
    """A regular file in an archive: `offset` of its data in the outer file, `size` in bytes."""

    name: str
    offset: int
    size: int


def members(path: Path, *, start: int = 0, size: int | None = None) -> tuple[Member, ...]:
    """The regular files of an archive, in archive order.

    `start` and `size` (bytes) select an archive nested in the file. DataMissingError names an
    archive that cannot be read, is compressed, truncated, damaged, or followed by further data.
    """
    try:
        with path.open("rb") as file:
            end = file.seek(0, 2) if size is None else start + size
            return tuple(_list(_Window(file, start, end)))
    except (OSError, tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
        where = f" (the archive inside it at byte {start})" if start else ""
        raise DataMissingError(
            f"archive {path}{where} cannot be read as an uncompressed tar: {error}; {_step(error)}"
        ) from None


def _step(error: Exception) -> str:
    if isinstance(error, _JoinedError):
        return "unpack it with tar --ignore-zeros, and pack the files anew"
    return "give yourself the right to read it" if isinstance(error, PermissionError) else AGAIN


def read_member(path: Path, member: Member) -> bytes:
    """The content of a member; OSError when it cannot be read completely."""
    with path.open("rb") as file:
        file.seek(member.offset)
        content = file.read(member.size)
    if len(content) != member.size:
        raise OSError(f"{path} ends inside its member '{member.name}'")
    return content


class _Window:
    """View of a file that ends at `end`; positions are those in the whole file."""

    def __init__(self, file: IO[bytes], start: int, end: int) -> None:
        self.end = end
        self._file = file
        file.seek(start)

    def tell(self) -> int:
        """The position in the whole file."""
        return self._file.tell()

    def seek(self, position: int) -> int:
        """Move to a position in the whole file."""
        return self._file.seek(position)

    def read(self, count: int) -> bytes:
        """At most `count` bytes, none past the end."""
        return self._file.read(max(0, min(count, self.end - self._file.tell())))


def _list(window: _Window) -> Iterator[Member]:
    _refuse_compressed(window)
    position = window.tell()
    # Mode "r:" never decompresses, and positions in `window` are those in the outer file.
    with tarfile.open(fileobj=window, mode="r:") as archive:  # type: ignore[call-overload]
        for info in archive:
            if info.offset_data <= position or info.size < 0:
                raise ValueError(f"its member '{info.name}' has an impossible size")
            position = info.offset_data
            if info.isreg():
                yield _member(info, window.end)
        _check_end(window, archive.offset)


def _refuse_compressed(window: _Window) -> None:
    start = window.tell()
    if window.read(6).startswith(COMPRESSED):
        raise ValueError("it is compressed (expected a plain .tar)")
    window.seek(start)


def _member(info: tarfile.TarInfo, end: int) -> Member:
    if info.issparse():
        raise ValueError(f"its member '{info.name}' is stored with holes (a sparse file)")
    if info.offset_data + info.size > end:
        raise ValueError(f"it ends inside its member '{info.name}'")
    return Member(info.name, info.offset_data, info.size)


def _check_end(window: _Window, offset: int) -> None:
    """ValueError unless a block of zeros ends the archive, and nothing but zeros follows.

    tarfile also stops at a bad header; and it leaves out what was joined to an archive by `cat`.
    """
    window.seek(offset)
    block = window.read(BLOCK)
    if len(block) < BLOCK:
        raise ValueError(f"it ends at byte {offset} without the mark of a complete archive")
    if block.strip(b"\0"):
        raise ValueError(f"there is no valid header at byte {offset}")
    while chunk := window.read(CHUNK):
        if chunk.strip(b"\0"):
            raise _JoinedError(
                f"data follows the mark of its end, at byte {offset} (joined by cat?)"
            )


class Part(msgspec.Struct, frozen=True):
    """Files of an archive, sorted by name; `places` are pairs of 64-bit offset and size in bytes.

    Offsets are those in the outer file.
    """

    names: tuple[str, ...]
    places: bytes

    def find(self, name: str) -> Member:
        """The member with this name; FileNotFoundError when it is not in the archive."""
        index = bisect_left(self.names, name)
        if index == len(self.names) or self.names[index] != name:
            raise FileNotFoundError(f"the archive has no '{name}'")
        return Member(name, *memoryview(self.places).cast("q")[2 * index : 2 * index + 2])


Parts = Mapping[str, Part]


def tar_index(path: Path, *, nested: bool) -> Parts:
    """The files of an archive under the key "", or, if nested, of its inner .tar files by stem.

    Folders in names are dropped. DataMissingError names an archive that is truncated or damaged.
    """
    if nested:
        return keep_index(path, dict[str, Part], lambda: dict(_read_nested(path)))
    return keep_index(path, dict[str, Part], lambda: {"": _part(members(path))}, "flat")


def _read_nested(path: Path) -> Iterable[tuple[str, Part]]:
    for inner in members(path):
        name = _base_name(inner.name)
        if name.endswith(".tar"):
            inside = members(path, start=inner.offset, size=inner.size)
            yield name.removesuffix(".tar"), _part(inside)


def _part(listed: Iterable[Member]) -> Part:
    by_name = {_base_name(member.name): member for member in listed}
    names = tuple(sorted(by_name))
    pairs = ((by_name[name].offset, by_name[name].size) for name in names)
    return Part(names, array("q", chain.from_iterable(pairs)).tobytes())


def _base_name(name: str) -> str:
    return name.rpartition("/")[2]


def keep_index(archive: Path, kind: type[Index], make: Callable[[], Index], how: str = "") -> Index:
    """The index of an archive that was kept under its file stamp, else the one of `make`.

    how: tells indexes of one kind apart.
    """
    stamp = file_stamp(archive)
    if stamp is None:
        return make()
    key = ("tar index", os.path.abspath(archive), str(kind), how, stamp.token)
    return keep("\0".join(key), kind, make)
