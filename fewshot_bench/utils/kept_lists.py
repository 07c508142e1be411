"""Cache of expensive lists in the user's cache folder, by key, each stored with its digest."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from fewshot_bench.utils.cache_dir import GB, LISTS, cache_root, make_room, touch, write

LIMIT = 2 * GB
SHA = 32


def keep_list(key: str, content: bytes) -> None:
    """Cache a list; nothing is kept if the cache is not writable.

    key: a unique text per list.
    """
    with suppress(OSError, RuntimeError):
        make_room(LISTS, len(content) + SHA, LIMIT)
        write(_path(key), hashlib.sha256(content).digest() + content)


def kept_list(key: str) -> bytes | None:
    """The cached list of a key; None if there is none or it is damaged."""
    try:
        path = _path(key)
        found = path.read_bytes()
    except (OSError, RuntimeError):
        return None
    touch(path)
    content = found[SHA:]
    return content if hashlib.sha256(content).digest() == found[:SHA] else None


def _path(key: str) -> Path:
    return cache_root() / LISTS / f"{hashlib.sha256(os.fsencode(key)).hexdigest()}.list"
