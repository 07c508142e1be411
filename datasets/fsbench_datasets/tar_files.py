"""Members of uncompressed tar archives, read at their place and never unpacked."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from fewshot_bench import DataMissingError

BLOCK = 512
COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd", b"PK\x03\x04")


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file in an archive: `offset` of its data in the outer file, `size` in bytes."""

    name: str
    offset: int
    size: int


def members(path: Path, *, start: int = 0, size: int | None = None) -> tuple[Member, ...]:
    """The regular files of an archive, in its order.

    `start` and `size` (bytes) select an archive that is a member of the file. DataMissingError
    names an archive that cannot be read, is compressed, ends early or is damaged.
    """
    try:
        with path.open("rb") as file:
            end = file.seek(0, 2) if size is None else start + size
            return tuple(_listed(_Window(file, start, end)))
    except (OSError, tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
        where = f" (the archive inside it at byte {start})" if start else ""
        raise DataMissingError(
            f"archive {path}{where} cannot be read as an uncompressed tar: {error}; "
            "fetch it again, the copy is incomplete or of another kind"
        ) from None


def read_member(path: Path, member: Member) -> bytes:
    """The content of a member; OSError when it cannot be read whole."""
    with path.open("rb") as file:
        file.seek(member.offset)
        content = file.read(member.size)
    if len(content) != member.size:
        raise OSError(f"{path} ends inside its member '{member.name}'")
    return content


class _Window:
    """A file that ends at `end`; positions stay those of the whole file."""

    def __init__(self, file: IO[bytes], start: int, end: int) -> None:
        self.end = end
        self._file = file
        file.seek(start)

    def tell(self) -> int:
        """The position in the whole file."""
        return self._file.tell()

    def seek(self, position: int) -> int:
        """Move to a position of the whole file."""
        return self._file.seek(position)

    def read(self, count: int) -> bytes:
        """At most `count` bytes, none past the end."""
        return self._file.read(max(0, min(count, self.end - self._file.tell())))


def _listed(window: _Window) -> Iterator[Member]:
    _refuse_compressed(window)
    place = window.tell()
    # Mode "r:" never unpacks, and positions in `window` are those of the outer file.
    with tarfile.open(fileobj=window, mode="r:") as archive:  # type: ignore[call-overload]
        for info in archive:
            if info.offset_data <= place or info.size < 0:
                raise ValueError(f"its member '{info.name}' has an impossible size")
            place = info.offset_data
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
    """The tarfile module takes a broken header for the end; a real end is a block of zeros."""
    window.seek(offset)
    block = window.read(BLOCK)
    if len(block) < BLOCK:
        raise ValueError(f"it ends at byte {offset} without the mark of a complete archive")
    if block.strip(b"\0"):
        raise ValueError(f"there is no valid header at byte {offset}")
