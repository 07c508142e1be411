"""Arrays of records in MATLAB files of version 5, checked at every step.

scipy's reader takes lengths in a damaged file at their word, and can end the process.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from math import prod

HEAD = 128
COMPRESSED, MATRIX = 15, 14
STRUCT, CHAR = 2, 4
# How each type of number is stored.
NUMBERS = {1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "f", 9: "d", 12: "q", 13: "Q"}
TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16-le", 16: "utf-8", 17: "utf-16-le"}
MOST_RECORDS = 100_000


def read_records(
    content: bytes, name: str, wanted: tuple[str, ...], most: int
) -> list[tuple[object, ...]]:
    """The `wanted` fields, numbers or text, of every record of the array `name`.

    most: bytes that compressed parts may expand to. ValueError for a file that is damaged, of
    another version, or lacks the array or a field.
    """
    if len(content) < HEAD or content[124:128] != b"\0\x01IM":
        raise ValueError("it is no MATLAB file of version 5")
    for kind, data in _elements(content[HEAD:]):
        if kind == COMPRESSED:
            opened = zlib.decompressobj()
            try:
                data = opened.decompress(data, most)
            except zlib.error as error:
                raise ValueError(str(error)) from None
            if opened.unconsumed_tail:
                raise ValueError(f"it expands to more than {most:,} bytes")
            kind, data = next(_elements(data), (0, b""))
        if kind == MATRIX:
            parts = [data for _, data in _elements(data)][:3]
            if len(parts) == 3 and parts[2] == name.encode():
                return list(_records(data, wanted))
    raise ValueError(f"it holds no '{name}'")


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and content of each element; ValueError for one that is cut."""
    at = 0
    while at < len(data):
        if at + 8 > len(data):
            raise ValueError("it ends inside an element")
        kind, size = struct.unpack_from("<II", data, at)
        if kind >> 16:
            kind, size, start = kind & 0xFFFF, kind >> 16, at + 4
            after = at + 8
        else:
            start = at + 8
            after = start + size + (0 if kind == COMPRESSED else -size % 8)
        if start + size > len(data) or (start == at + 4 and size > 4):
            raise ValueError("it ends inside an element")
        yield kind, data[start : start + size]
        at = after


def _records(data: bytes, wanted: tuple[str, ...]) -> Iterator[tuple[object, ...]]:
    parts = list(_elements(data))
    if _kind(parts) != STRUCT or len(parts) < 5:
        raise ValueError("its array holds no records")
    names = _names(parts[3][1], parts[4][1])
    count = _count(parts[1])
    if count > MOST_RECORDS or len(parts) != 5 + count * len(names):
        raise ValueError("its array has another number of records than it says")
    if not set(wanted) <= set(names):
        raise ValueError(f"its records have the fields {', '.join(names)[:200]}")
    for first in range(5, len(parts), len(names)):
        record = dict(zip(names, parts[first : first + len(names)], strict=True))
        yield tuple(_value(*record[name]) for name in wanted)


def _names(width: bytes, joined: bytes) -> list[str]:
    """Field names, in pieces of equal width that are filled up with zeros."""
    if len(width) != 4:
        raise ValueError("its field names have no length")
    (size,) = struct.unpack("<i", width)
    if size < 1 or not joined or len(joined) % size:
        raise ValueError("its field names have an impossible length")
    pieces = (joined[start : start + size] for start in range(0, len(joined), size))
    return [piece.partition(b"\0")[0].decode("latin-1") for piece in pieces]


def _kind(parts: list[tuple[int, bytes]]) -> int:
    if len(parts) < 3 or len(parts[0][1]) != 8:
        raise ValueError("it has an array without a head")
    return parts[0][1][0]


def _count(dimensions: tuple[int, bytes]) -> int:
    values = _unpacked(*dimensions)
    if any(value < 0 for value in values):
        raise ValueError("it has an array of an impossible size")
    return int(prod(values))


def _unpacked(kind: int, data: bytes) -> tuple[float, ...]:
    code = NUMBERS.get(kind)
    if code is None or len(data) % struct.calcsize(code):
        raise ValueError("it has numbers of no known type")
    return struct.unpack(f"<{len(data) // struct.calcsize(code)}{code}", data)


def _value(kind: int, data: bytes) -> object:
    """A text, a number, or None for what is neither."""
    parts = list(_elements(data)) if kind == MATRIX else []
    if len(parts) != 4:
        return None
    what, (stored, content) = _kind(parts), parts[3]
    if what == CHAR and stored in TEXTS:
        return content.decode(TEXTS[stored])
    if what in range(6, 16):
        values = _unpacked(stored, content)
        return values[0] if len(values) == 1 else None
    return None
