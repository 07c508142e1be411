"""Changes to the bytes of a file, whatever its format."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from tests.fuzzing.hostile import HOSTILE_NAMES, TOKENS

Change = Callable[[random.Random, bytes], bytes]


def flipped(rng: random.Random, data: bytes) -> bytes:
    """Flip one, two or eight bits."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data))]


def _delete(rng: random.Random, data: bytes) -> bytes:
    start, length = rng.randrange(len(data)), rng.choice((1, 4, 16, 64, 512))
    return data[:start] + data[start + length :]


def _insert(rng: random.Random, data: bytes) -> bytes:
    start = rng.randrange(len(data) + 1)
    return data[:start] + rng.randbytes(rng.choice((1, 4, 32))) + data[start:]


def _duplicate(rng: random.Random, data: bytes) -> bytes:
    start, length = rng.randrange(len(data)), rng.choice((1, 8, 64, 512))
    at = rng.randrange(len(data) + 1)
    return data[:at] + data[start : start + length] * rng.choice((1, 2, 50)) + data[at:]


def _token(rng: random.Random, data: bytes) -> bytes:
    start, token = rng.randrange(len(data) + 1), rng.choice(TOKENS)
    keep = rng.choice((0, len(token)))
    return data[:start] + token + data[start + keep :]


def _nest(rng: random.Random, data: bytes) -> bytes:
    opening, closing = rng.choice(((b"[", b"]"), (b'{"a":', b"}"), (b"- ", b""), (b"(", b"")))
    depth, at = rng.choice((50, 2_000, 20_000)), rng.choice((0, rng.randrange(len(data) + 1)))
    return data[:at] + opening * depth + closing * depth + data[at:]


def _number(rng: random.Random, data: bytes) -> bytes:
    found = list(re.finditer(rb"\d+", data))
    if not found:
        return flipped(rng, data)
    match = rng.choice(found)
    numbers = (b"0", b"-1", b"1000000000000", b"9" * 30, b"1.5", b"1e5", b"007", b"")
    return data[: match.start()] + rng.choice(numbers) + data[match.end() :]


def _lines(rng: random.Random, data: bytes) -> bytes:
    lines = data.split(b"\n")
    one, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    how = rng.randrange(4)
    if how == 0:
        lines[one], lines[other] = lines[other], lines[one]
    elif how == 1:
        del lines[one]
    elif how == 2:
        lines.insert(other, lines[one])
    else:
        name = rng.choice(HOSTILE_NAMES).encode("utf-8", "surrogatepass")
        fields = re.split(rb"[,\t ]", lines[one])
        fields[rng.randrange(len(fields))] = name
        lines[one] = rng.choice((b",", b" ")).join(fields)
    return b"\n".join(lines)


PLAIN: tuple[Change, ...] = (
    *(flipped, _cut, _delete, _insert, _duplicate, _token, _token, _nest, _number, _lines),
)
