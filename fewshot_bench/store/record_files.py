"""Find and read the files of records.

`record_files` and `read_record` are the entry points. A file states the digest of its
values, so that a changed value is noticed, but not another layout of the text.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from fewshot_bench.api.record import SCHEMA, Record, parse_json, unseal
from fewshot_bench.utils.errors import StoreError
from fewshot_bench.utils.files import (
    LARGEST,
    TEMPORARY,
    Damaged,
    list_entries,
    read_regular,
)

# Folder of a store with the files of its records.
RECORDS = "records"
# File stamp: mtime and ctime in nanoseconds, size in bytes, inode; changes if a file is replaced.
Stamp = tuple[int, int, int, int]
_STAMP = struct.Struct("<4Q")
_ALL_BITS = 2**64 - 1


class RecordFile(NamedTuple):
    """A record file with its stamp before reading; None if the stamp is unavailable.

    key: stated by the file's name; empty if the file is in the wrong folder.
    """

    location: str
    key: str
    stamp: Stamp | None

    @property
    def path(self) -> Path:
        """The file, which thousands of listed records do not need."""
        return Path(self.location)


def record_files(root: Path) -> Iterator[RecordFile]:
    """Every record file under a store's `records` folder, sorted."""
    for folder in filter(Path.is_dir, list_entries(root)):
        with os.scandir(folder) as entries:
            records = sorted(
                (entry.name, entry)
                for entry in entries
                if entry.name.endswith(".json") and not entry.name.startswith(TEMPORARY)
            )
        for name, entry in records:
            key = name.removesuffix(".json") if name.startswith(folder.name) else ""
            try:
                yield RecordFile(entry.path, key, stamp_of(entry.stat()))
            except FileNotFoundError:
                continue
            except OSError:
                yield RecordFile(entry.path, key, None)


def path_of(store: Path, key: str) -> Path:
    """The file of a record in a store, which may not exist."""
    return store / RECORDS / key[:2] / f"{key}.json"


def stamp_of(status: os.stat_result) -> Stamp:
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


def pack_stamp(stamp: Stamp | None) -> bytes:
    """Pack a stamp in 32 bytes, which is a seventh of its size as numbers; zeros for None."""
    try:
        return _STAMP.pack(*stamp or (0, 0, 0, 0))
    except struct.error:
        # Times before 1970 are negative.
        return _STAMP.pack(*(number & _ALL_BITS for number in stamp or ()))


def read_record(path: Path | str) -> Record:
    """Read a record file; StoreError if a newer version wrote it, Damaged if it is invalid."""
    record = parse_record(path, read_content(path))
    key = record.spec.key()
    # Thousands of paths are taken apart, for which pathlib takes as long as for parsing.
    folder, name = os.path.split(path)
    if name != f"{key}.json" or os.path.basename(folder) != key[:2]:
        raise Damaged(f"its specification has the key {key[:12]}..., so the file was changed")
    return record


def read_content(path: Path | str) -> bytes:
    """The bytes of a record file; Damaged for more than LARGEST, StoreError if it is unreadable."""
    try:
        return read_regular(path, LARGEST)
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise Damaged(str(error.strerror)) from None
        raise StoreError(
            f"cannot read '{path}': {error.strerror}; remove it or check its permissions"
        ) from error


def parse_record(path: Path | str, content: bytes) -> Record:
    """The record of a file's content, under any name; errors as in `read_record`."""
    try:
        values = parse_json(content)
        schema = values.get("schema") if isinstance(values, dict) else None
        if isinstance(schema, int) and schema > SCHEMA:
            problem = f"'{path}' has schema {schema}, this version reads {SCHEMA}"
        else:
            return unseal(content, values)
    except (StoreError, ValueError, TypeError, RecursionError) as error:
        raise Damaged(str(error)) from None
    raise StoreError(f"{problem}; upgrade fewshot_bench")
