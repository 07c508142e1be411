"""Random access to members of uncompressed tar archives, which are never unpacked.

`tar_index` lists an archive, `read_member` reads a member. Indexes are cached under the archive's
file stamp; offsets and sizes are checked before use, too.
"""

from __future__ import annotations

import contextlib
import json
import os
import tarfile
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from fewshot_bench import DataMissingError
from fewshot_bench.api.sources import file_stamp, keep_list, kept_list

BLOCK = 512
CHUNK = 2**20
COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd", b"PK\x03\x04")
VERSION = "4"
# Errors that a file with arbitrary content may cause when it is decoded as an index.
DAMAGE = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RuntimeError,
    OverflowError,
)

Found = TypeVar("Found")
AGAIN = "fetch it again, the copy is incomplete or of another kind"


class _JoinedError(ValueError):
    """Data behind the mark that ends an archive, which readers of tar files leave out."""


@dataclass(frozen=True, slots=True)
class Member:
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


@dataclass(frozen=True, slots=True)
class Part:
    """Files of an archive, sorted by name; `offsets` and `sizes` are bytes in the outer file."""

    names: tuple[str, ...]
    offsets: array[int]
    sizes: array[int]

    def find(self, name: str) -> Member:
        """The member with this name; FileNotFoundError when it is not in the archive."""
        index = bisect_left(self.names, name)
        if index == len(self.names) or self.names[index] != name:
            raise FileNotFoundError(f"the archive has no '{name}'")
        return Member(name, self.offsets[index], self.sizes[index])


Parts = Mapping[str, Part]


def tar_index(path: Path, *, nested: bool) -> Parts:
    """The files of an archive under the key "", or, if nested, of its inner .tar files by stem.

    Folders in names are dropped. DataMissingError names an archive that is truncated or damaged.
    """
    if nested:
        return kept(path, "nested", lambda: dict(_read_nested(path)), _encode, _decode)
    return kept(path, "flat", lambda: {"": _part(members(path))}, _encode, _decode)


def _read_nested(path: Path) -> Iterable[tuple[str, Part]]:
    for inner in members(path):
        name = _base_name(inner.name)
        if name.endswith(".tar"):
            inside = members(path, start=inner.offset, size=inner.size)
            yield name.removesuffix(".tar"), _part(inside)


def _part(listed: Iterable[Member]) -> Part:
    by_name = {_base_name(member.name): member for member in listed}
    names = tuple(sorted(by_name))
    offsets = array("q", (by_name[name].offset for name in names))
    return Part(names, offsets, array("q", (by_name[name].size for name in names)))


def _base_name(name: str) -> str:
    return name.rpartition("/")[2]


def _encode(parts: Parts) -> Any:
    return {
        stem: {"names": part.names, "offsets": part.offsets.tolist(), "sizes": part.sizes.tolist()}
        for stem, part in parts.items()
    }


def _decode(content: Any, end: int) -> Parts:
    return {stem: _check(part, end) for stem, part in content.items()}


def _check(part: Any, end: int) -> Part:
    names, offsets, sizes = part["names"], array("q", part["offsets"]), array("q", part["sizes"])
    check_places(offsets, sizes, end)
    if len(names) != len(offsets) or list(names) != sorted(set(names)):
        raise ValueError("lists of different lengths, or names out of order")
    return Part(tuple(names), offsets, sizes)


def kept(
    archive: Path,
    kind: str,
    make: Callable[[], Found],
    encode: Callable[[Found], Any],
    decode: Callable[[Any, int], Found],
) -> Found:
    """Return the cached index of an archive, or call `make` and cache its result.

    encode: to JSON-compatible data; decode: back again, given the archive's size in bytes. An index
    for which `decode` raises an error in `DAMAGE` is rebuilt. Errors of `make` propagate.
    """
    stamp = file_stamp(archive)
    if stamp is None:
        return make()
    key = "\0".join(("tar index", VERSION, os.path.abspath(archive), kind, stamp.token))
    content = kept_list(key)
    if content is not None:
        with contextlib.suppress(*DAMAGE):
            return decode(json.loads(content), stamp.size)
    index = make()
    keep_list(key, json.dumps(encode(index)).encode())
    return index


def check_places(offsets: Any, sizes: Any, end: int) -> None:
    """ValueError when a member is not within the first `end` bytes of the file."""
    ends = [offset + size for offset, size in zip(offsets, sizes, strict=True)]
    if ends and (min(offsets) < 0 or min(sizes) < 0 or max(ends) > end):
        raise ValueError("a place outside of the archive")
