"""Changes to weights, pickles and images, with recomputed lengths and checksums."""

from __future__ import annotations

import json
import random
import struct
import zlib

from tests.fuzzing.change_bytes import PLAIN
from tests.fuzzing.change_trees import changed_tree


def changed_safetensors(rng: random.Random, data: bytes) -> bytes:
    """Change the header and its length, or only the length."""
    (length,) = struct.unpack("<Q", data[:8])
    if rng.random() < 0.2:
        return struct.pack("<Q", rng.choice((0, 2**63, length + 1, 10**9))) + data[8:]
    head = json.dumps(changed_tree(rng, json.loads(data[8 : 8 + length]))).encode()
    return struct.pack("<Q", len(head)) + head + data[8 + length :]


def changed_pickle(rng: random.Random, data: bytes) -> bytes:
    """Insert operations that import, call or change the stack, at any position."""
    pieces = (
        *(b"cos\nsystem\n(S'touch x'\ntR", b"cbuiltins\neval\n(S'1'\ntR", b"\x93", b"R", b"b"),
        *(b"cposix\nsystem\n", b"\x8c\x02os\x8c\x06system\x93", b"0", b"(", b"t", b"l", b"d", b"e"),
        *(b"q\x00", b"h\x00", b"j\xff\xff\xff\x7f", b"r\xff\xff\xff\xff", b"2" * 50, b"\x94" * 9),
        *(
            b"]" * 200,
            b"\x85" * 40,
            b"\x8a\xff" + b"\x7f" * 255,
            b"B\xff\xff\xff\x7f",
            b"(i",
            b"\x82\x01",
        ),
        *(
            b"c__main__\nx\n",
            b"Ppersid\n",
            b"\x81",
            b"\x92",
            b"o",
            b"\x97",
            b"\x98",
            b"\x96" + b"\xff" * 8,
        ),
    )
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice(pieces) + data[at + rng.choice((0, 0, 1, 4)) :]


def changed_png(rng: random.Random, data: bytes) -> bytes:
    """Change the content of a chunk, and recompute its checksum."""
    chunks, at = [], 8
    while at + 12 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    chosen = rng.randrange(len(chunks))
    kind, body = chunks[chosen]
    how = rng.randrange(4)
    if how == 0:
        side = rng.choice((0, 1, 60_000, 2**31 - 1))
        head = dict(chunks)[b"IHDR"]
        chunks[0] = (b"IHDR", struct.pack(">II", side, rng.choice((1, side))) + head[8:])
    elif how == 1 and body:
        chunks[chosen] = (kind, rng.choice(PLAIN)(rng, body))
    elif how == 2:
        kinds = (b"iCCP", b"zTXt", b"iTXt", b"tRNS", b"PLTE", b"acTL", b"fcTL", b"eXIf", b"gAMA")
        content = (b"x\0\0" + zlib.compress(b"\0" * 1_000_000), b"", body, b"\xff" * 13)
        chunks.insert(chosen, (rng.choice(kinds), rng.choice(content)))
    else:
        chunks.insert(rng.randrange(len(chunks)), chunks.pop(chosen))
    return data[:8] + b"".join(
        struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in chunks
    )
