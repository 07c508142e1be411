"""What was found in an archive, kept in the cache folder for as long as the archive is the same."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from fewshot_bench import cache_root, file_stamp

VERSION = 2
# `fsbench cache rm` knows files of this name as left behind by a process that was killed.
TEMPORARY = ".fsbench-tmp~"
# What a file of anything may raise when it is taken for an index.
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


def kept(
    archive: Path,
    kind: str,
    make: Callable[[], Found],
    encode: Callable[[Found], Any],
    decode: Callable[[Any, int], Found],
) -> Found:
    """What `make` finds in an archive, which is read through once; its errors pass.

    encode: to what JSON can hold; decode: back again, given the archive's size in bytes. An index
    that `decode` refuses (see `DAMAGE`) is made again.
    """
    stamp = file_stamp(archive)
    if stamp is None:
        return make()
    about = {"version": VERSION, "archive": os.path.abspath(archive), "kind": kind}
    about["stamp"] = stamp.token
    try:
        content = json.loads(_file(about).read_text("utf-8"))
        if content["about"] == about:
            return decode(content["found"], stamp.size)
    except DAMAGE:
        pass
    found = make()
    _store(about, encode(found))
    return found


def check_places(offsets: Any, sizes: Any, end: int) -> None:
    """ValueError when a member is not within the first `end` bytes of its archive."""
    ends = [offset + size for offset, size in zip(offsets, sizes, strict=True)]
    if ends and (min(offsets) < 0 or min(sizes) < 0 or max(ends) > end):
        raise ValueError("a place outside of the archive")


def _file(about: Mapping[str, Any]) -> Path:
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]
    return cache_root() / "tar-index" / f"{key}.json"


def _store(about: Mapping[str, Any], found: Any) -> None:
    # Without a cache that can be written to, the archive is read through every time.
    with contextlib.suppress(OSError, RuntimeError):
        path = _file(about)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=TEMPORARY)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump({"about": about, "found": found}, file)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
