"""Hostile names, values and file fragments."""

from __future__ import annotations

import struct
from typing import Any

HOSTILE_NAMES = (
    "../../outside/x",
    "/tmp/fsbench-fuzz-outside",
    "..\\..\\outside\\x",
    "C:\\x",
    "a\0b",
    "a\nb",
    "\x1b[2J\x1b]0;x\x07",
    "\u202eevil",
    "=cmd|' /C calc'!A0",
    "-rf",
    "",
    ".",
    "..",
    "con",
    "a" * 300,
    "a/" * 600,
    "\ud800",
    "é",
    "~/x",
    "$(touch x)",
    "http://127.0.0.1:9/x",
)
VALUES: tuple[Any, ...] = (
    *HOSTILE_NAMES,
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 10**12, 10**30, -(10**30)),
    *(0.5, -0.0, 1e308, float("inf"), float("nan"), [], {}, [[]], [None], {"": ""}),
    *(["a", 0, "b"], [1, 2, 3], "1e999", "no", "0", "true", "é" * 50, "x" * 5000),
)
TOKENS = (
    *(b"{", b"}", b"[", b"]", b'"', b",", b":", b"\n", b"\r", b"\t", b"\0", b"\\", b"\\u0000"),
    *(b"\\ud800", b"null", b"true", b"NaN", b"Infinity", b"-1", b"1e999", b"1e-999", b"99" * 40),
    *(b"9" * 5000, b"\xff\xfe", b"\xef\xbb\xbf", b"\xc3\x28", b"\xed\xa0\x80", b"../", b"/etc/"),
    *(b"!!python/object/apply:os.system ['touch x']", b"&a [*a,*a]", b"<<: *a", b"---\n"),
    *(b"cos\nsystem\n", b"(S'touch x'\ntR.", b"\x93", b"\x80\x04", b"R", b"."),
    *(b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b", b"ustar", b"\x89PNG", b"IHDR", b"\xff\xd8\xff"),
    *(b"=1+1", b"@x", b"\x1b[2J", b"{}", b"{0.__class__}", b"%s%n", b"\xe2\x80\xae"),
    *(struct.pack("<Q", 2**63 - 1), struct.pack(">I", 2**32 - 1), struct.pack("<I", 10**9)),
)
DEEP = "[" * 30_000 + "]" * 30_000
"""Nested deeper than parsers that call themselves can go."""
