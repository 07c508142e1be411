"""How a file of decoded images is laid out.

Pixels (n, 3, h, w) uint8; one line of JSON, which holds a check of each chunk of rows; n SHA-256 of
image files; at the very end the length and SHA-256 of what follows the pixels, and `MAGIC`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

MAGIC = b"fsbench-pixels-1"
SHA = 32
TAIL = struct.Struct(f"<Q{SHA}s{len(MAGIC)}s")


def pack_description(head: Mapping[str, Any], digests: Iterable[bytes]) -> bytes:
    """All that follows the pixels; `head` has at least their `shape`."""
    body = json.dumps(head).encode() + b"\n" + b"".join(digests)
    return body + TAIL.pack(len(body), hashlib.sha256(body).digest(), MAGIC)


def read_description(path: Path) -> tuple[dict[str, Any], bytes] | None:
    """The head and the joined digests of the images; None for a file that is damaged or cut."""
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - TAIL.size))
            length, digest, magic = TAIL.unpack(file.read(TAIL.size))
            start = end - TAIL.size - length
            if magic != MAGIC or start < 0:
                return None
            file.seek(start)
            body = file.read(length)
        if hashlib.sha256(body).digest() != digest:
            return None
        line, _, digests = body.partition(b"\n")
        head: dict[str, Any] = json.loads(line)
        if not _is_sound(head, len(digests)) or math.prod(head["shape"]) != start:
            return None
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError, struct.error):
        return None
    return head, digests


def _is_sound(head: Mapping[str, Any], digests: int) -> bool:
    """Whether a head is what `SegmentWriter` writes, for digests of this many bytes."""
    shape, chunk, checks = head["shape"], head["chunk"], head["checks"]
    counts = [*shape, chunk, *checks]
    costs = [head["wall"], head["cpu"]]
    return (
        all(type(count) is int and count >= 0 for count in counts)
        and all(type(cost) in (int, float) and math.isfinite(cost) for cost in costs)
        and len(shape) == 4
        and shape[0] * SHA == digests > 0
        and chunk > 0
        and len(checks) == -(-shape[0] // chunk)
    )
