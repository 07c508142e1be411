"""Columns of an index: keys, and parts of many rows of which equal texts are kept once.

`Keys`, `Column` and `StoredColumn` are the entry points; `BlockFile` reads what they hold from a
file. A column of a file is read when it is first used: most commands use few.
"""

from __future__ import annotations

import bisect
import itertools
import os
import threading
import weakref
import zlib
from array import array
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

KEY = 64
_CHUNK = 2**20
_OPENING = threading.Lock()


def packed(pieces: Iterable[bytes | array[int]]) -> bytes:
    """Pieces as one compressed block, which `BlockFile.unpacked` reads; never joined in memory."""
    # Level 1: the time of writing counts more than the size.
    pack = zlib.compressobj(1)
    return b"".join([*filter(None, map(pack.compress, pieces)), pack.flush()])


class Keys:
    """The key of each row: rows of a file are sorted by it, others follow in order of addition.

    Keys of a file are one text, since an object for each would take more memory than all else.
    """

    def __init__(self, text: str = "") -> None:
        """text: the sorted keys of a file."""
        self._text = text
        self._sorted = len(text) // KEY
        # The row after the one found last: most callers ask in order of keys.
        self._next = 0
        self._added: list[str] = []
        # The row of each added key; a key that was added again has the later one.
        self._rows: dict[str, int] = {}
        # Keys are digests: the first byte leaves 1 in 256 rows to be searched.
        first = [f"{number:02x}" for number in range(256)]
        starts = [bisect.bisect_left(self, byte, 0, self._sorted) for byte in first]
        self._places = dict(zip(first, itertools.pairwise([*starts, self._sorted]), strict=True))

    def __len__(self) -> int:
        return self._sorted + len(self._added)

    def __getitem__(self, row: int) -> str:
        if row < self._sorted:
            return self._text[row * KEY : (row + 1) * KEY]
        return self._added[row - self._sorted]

    def row(self, key: str) -> int | None:
        """The row of a key; None if it has none."""
        row = self._rows.get(key)
        if row is None and self._sorted:
            row = self._next
            if row == self._sorted or self[row] != key:
                row = bisect.bisect_left(self, key, *self._places.get(key[:2], (0, self._sorted)))
            if row == self._sorted or self[row] != key:
                return None
            self._next = row + 1
        return row

    def add(self, key: str) -> int:
        """Add a row; returns its number."""
        row = self._rows[key] = len(self)
        self._added.append(key)
        return row

    def ordered(self) -> list[int]:
        """The latest row of each key, in order of keys."""
        rows = [row for row in range(self._sorted) if self[row] not in self._rows]
        return sorted([*rows, *self._rows.values()], key=self.__getitem__)


class BlockFile:
    """The blocks of an open file, which may be removed meanwhile."""

    def __init__(self, path: Path) -> None:
        """OSError if the file cannot be opened."""
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    def read(self, start: int, size: int) -> bytes:
        """The bytes from a place; fewer at the end of the file."""
        return os.pread(self._file, size, start)

    def chunks(self, start: int) -> Iterable[bytes]:
        """All bytes from a place on, a part at a time."""
        while chunk := self.read(start, _CHUNK):
            yield chunk
            start += len(chunk)

    def unpacked(self, start: int, size: int) -> bytes:
        """A compressed block; OSError or zlib.error if it cannot be read."""
        return zlib.decompress(self.read(start, size))


class Column:
    """One part of many rows: distinct texts, and the number of each row's text.

    Rows with equal texts have equal `numbers`.
    """

    numbers: array[int]

    def __init__(self) -> None:
        self.numbers = array("I")
        self._texts: list[str] = []
        self._places: dict[str, int] = {}

    def text(self, number: int) -> str:
        """The text with a number."""
        return self._texts[number]

    def add(self, text: str) -> None:
        """Add a row."""
        number = self._places.setdefault(text, len(self._texts))
        if number == len(self._texts):
            self._texts.append(text)
        self.numbers.append(number)

    def block(self, rows: Sequence[int]) -> tuple[int, bytes]:
        """The number of texts of these rows, and the packed block that `StoredColumn` reads."""
        texts, pieces = self.pieces(rows)
        return texts, packed(pieces)

    def pieces(self, rows: Sequence[int]) -> tuple[int, Iterable[bytes | array[int]]]:
        """The number of texts of these rows, and the pieces of a block."""
        places: dict[int, int] = {}
        taken = map(self.numbers.__getitem__, rows)
        numbers = array("I", [places.setdefault(number, len(places)) for number in taken])
        ends = array("Q", itertools.accumulate(len(self.text(number)) for number in places))
        texts = (self.text(number).encode("ascii") for number in places)
        return len(places), itertools.chain((numbers, ends), texts)


class StoredColumn(Column):
    """A column in a file, which is read when it is first used."""

    _ends: array[int]
    _block: memoryview

    def __init__(
        self, rows: int, texts: int, read: Callable[[], bytes], again: Callable[[], Column]
    ) -> None:
        """texts: the number of distinct texts. read: returns what `Column.block` packed.

        again: makes the column anew. On a network, a file may be lost once another machine removed
        it.
        """
        self._sizes = rows, texts
        self._read = read
        self._again = again

    def text(self, number: int) -> str:
        start = self._ends[number - 1] if number else 0
        return str(self._block[start : self._ends[number]], "ascii")

    def __getattr__(self, name: str) -> Any:
        # Called for what is not there yet; once read, it costs nothing to look it up.
        if name not in ("numbers", "_ends", "_block"):
            raise AttributeError(name)
        with _OPENING:
            # Threads read answers of records; another one may have read the block meanwhile.
            if "numbers" not in self.__dict__:
                self._open()
        return self.__dict__[name]

    def _open(self) -> None:
        rows, texts = self._sizes
        try:
            content = memoryview(self._read())
        except (OSError, zlib.error):
            texts, pieces = self._again().pieces(range(rows))
            content = memoryview(b"".join(pieces))
        numbers, ends = array("I"), array("Q")
        first = rows * numbers.itemsize
        start = first + texts * ends.itemsize
        numbers.frombytes(content[:first])
        ends.frombytes(content[first:start])
        self._block, self._ends, self.numbers = content[start:], ends, numbers
