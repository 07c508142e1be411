"""Values that are expensive to make, by key: one SQLite file per kind in the user's cache folder.

A value is returned only with the bytes that were kept under its key; it may be gone at any time.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from fewshot_bench.utils import cache_dir
from fewshot_bench.utils.cache_dir import DIGESTS, GB, LISTS, VALUES
from fewshot_bench.utils.database import Database

# Most bytes of a kind; a file that would have more is made anew.
LIMITS = {DIGESTS: GB // 2, LISTS: 2 * GB}
# `title`: the data set that a listing shows, with a number of images.
SCHEMA = "create table value(key blob primary key, title text, images int, content blob)"
SELECT = "select content from value where key=?"
SHA = 32


def keep_list(key: str, content: bytes) -> None:
    """Cache a list under a text that is unique for it; nothing is kept if that is not possible."""
    with suppress(OSError, RuntimeError):
        change(LISTS, key, lambda _: content, need=len(content))


def kept_list(key: str) -> bytes | None:
    """The cached list of a key; None if there is none."""
    return recall(LISTS, key)


def recall(kind: str, key: str) -> bytes | None:
    """The value of a key; None if there is none, or it is damaged."""
    with suppress(OSError, RuntimeError):
        path = _path_of(kind)
        if path.exists():
            rows = _open(path).read(SELECT, [_name_of(key)])
            cache_dir.touch(path)
            return _check(key, rows[0][0]) if rows else None
    return None


def change(
    kind: str,
    key: str,
    make: Callable[[bytes | None], bytes],
    title: str = "",
    images: int | None = None,
    need: int = 0,
) -> None:
    """Replace the value of a key by that which `make` returns for it (None if there is none).

    need: the bytes that it adds, if known. OSError if it cannot be kept. A process that runs
    foreign code keeps none.
    """
    if not cache_dir.is_shared():
        return
    path = _path_of(kind)
    cache_dir.make_folder(path.parent)
    cache_dir.make_room(kind, need, LIMITS[kind])
    base = _open(path)
    if base.in_memory:
        raise OSError(f"{path} cannot be written")
    with base.write() as connection:
        rows = connection.execute(SELECT, [_name_of(key)]).fetchall()
        content = make(_check(key, rows[0][0]) if rows else None)
        connection.execute(
            "insert or replace into value values(?, ?, ?, ?)",
            (_name_of(key), title, images, _digest(key, content) + content),
        )


def _path_of(kind: str) -> Path:
    return cache_dir.cache_root() / kind / VALUES


@functools.lru_cache(maxsize=8)
def _open(path: Path) -> Database:
    return Database(path, SCHEMA, durable=False)


def _check(key: str, kept: bytes) -> bytes | None:
    """The content of a kept value; None if it is not the one of the key."""
    digest, content = kept[:SHA], kept[SHA:]
    return content if _digest(key, content) == digest else None


def _digest(key: str, content: bytes) -> bytes:
    return hashlib.sha256(_name_of(key) + content).digest()


def _name_of(key: str) -> bytes:
    return hashlib.sha256(os.fsencode(key)).digest()
