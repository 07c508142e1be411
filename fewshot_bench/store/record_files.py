"""Find, write and read the files of records.

`record_files`, `written` and `read_record` are the entry points. A file ends with a digest of its
own text, added once the text was validated as a record; while the digest matches, the text is
parsed without another validation.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from fewshot_bench.api.record import SCHEMA, Record, seal_of, sealed, unsealed
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.utils.errors import StoreError
from fewshot_bench.utils.files import (
    LARGEST,
    TEMPORARY,
    Damaged,
    TooLargeError,
    read_regular,
    sorted_entries,
)
from fewshot_bench.utils.version import __version__

# Versions and fields on which validity depends; readers with others validate a text anew.
READER = [__version__, SCHEMA, [field.name for field in dataclasses.fields(RunSpec)]]
_READER = json.dumps(READER).encode()
# The end of a file: digests of the text before them, of the values, and of both digests.
_HEX = "([0-9a-f]{64})"
_LAST = ("text", "record", "seal")
_END_TEXT = ",\n".join(f'  "{name}": "{_HEX}"' for name in _LAST) + "\n }\n}\n"
_END = re.compile(_END_TEXT.encode())
_END_BYTES = len(_END_TEXT.replace(_HEX, "0" * 64))

# Folder of a store with the files of its records.
RECORDS = "records"
# File stamp: mtime and ctime in nanoseconds, size in bytes, inode; changes if a file is replaced.
Stamp = tuple[int, int, int, int]
_STAMP = struct.Struct("<4Q")
_ALL_BITS = 2**64 - 1
STAMP_SIZE = _STAMP.size


class RecordFile(NamedTuple):
    """A record file with its stamp before reading; None if the stamp is unavailable.

    key: stated by the file's name; empty if the file is in the wrong folder.
    """

    folder: Path
    name: str
    key: str
    stamp: Stamp | None

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / self.name


def record_files(root: Path, folders: Iterable[Path] | None = None) -> Iterator[RecordFile]:
    """Every record file under a store's `records` folder, sorted.

    folders: those of its folders to look into; None for all.
    """
    for folder in sorted_entries(root) if folders is None else folders:
        if not folder.is_dir():
            continue
        with os.scandir(folder) as entries:
            found = sorted((entry.name, entry) for entry in entries if _is_record(entry.name))
        begin = folder.name
        for name, entry in found:
            key = _key_in(begin, name.removesuffix(".json"))
            try:
                yield RecordFile(folder, name, key, stamp_of(entry.stat()))
            except FileNotFoundError:
                continue
            except OSError:
                yield RecordFile(folder, name, key, None)


def path_of(store: Path, key: str) -> Path:
    """The file of a record in a store, which may not exist."""
    return store / RECORDS / key[:2] / f"{key}.json"


def stamp_of(found: os.stat_result) -> Stamp:
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino


def packed_stamp(stamp: Stamp | None) -> bytes:
    """A stamp in `STAMP_SIZE` bytes, which is a seventh of its size as numbers; zeros for None."""
    try:
        return _STAMP.pack(*stamp or (0, 0, 0, 0))
    except struct.error:
        # Times before 1970 are negative.
        return _STAMP.pack(*(number & _ALL_BITS for number in stamp or ()))


def written(record: Record, digests: Mapping[str, str]) -> tuple[Record, bytes]:
    """The record with its digests, and the text of its file; ValueError or TypeError if not JSON.

    digests: as in `sealed`; those at the end of a file are made anew. Invalid records are written
    without a digest of the text, so that reading them reports the problem.
    """
    digests = {name: digest for name, digest in digests.items() if name not in _LAST}
    made = sealed(record, digests)
    key, content = made.spec.key(), made.to_json()
    with suppress(StoreError, ValueError, TypeError, RecursionError):
        if Record.from_dict(json.loads(content)).spec.key() == key:
            # The text digest goes before the last entry, the values' digest, and covers all before.
            before = content.rpartition('  "record": ')[0].encode()
            made = sealed(record, {**digests, "text": _digest_of_text(key, before)})
    return made, made.to_json().encode()


def is_as_written(content: bytes, key: str) -> bool:
    """True if this version's `written` made the text for this key; others need validation."""
    end = _END.fullmatch(content, max(len(content) - _END_BYTES, 0))
    if end is None:
        return False
    text, record, seal = (digest.decode() for digest in end.groups())
    return seal == seal_of(text, record) and text == _digest_of_text(key, content[:-_END_BYTES])


def _digest_of_text(key: str, text: bytes) -> str:
    return hashlib.sha256(b"\n".join((_READER, key.encode(), text))).hexdigest()


def read_values(path: Path, key: str) -> Mapping[str, Any]:
    """The values of a valid record; errors as in `read_record`. key: stated by the path."""
    content = read_content(path)
    values = parse_values(path, content)
    if not is_as_written(content, key):
        record_of(path, values)
    return values


def read_fields(path: Path, key: str) -> Mapping[str, bytes]:
    """The indented text of each field of a valid record; parameters and errors as `read_values`.

    Nothing of a text that was validated when it was written is parsed: most of it is as in others.
    """
    content = read_content(path)
    if not is_as_written(content, key):
        values = parse_values(path, content)
        record_of(path, values)
        content = json.dumps(values, indent=1, allow_nan=False).encode() + b"\n"
    found = {}
    # A line break in a string is written as an escape: every line begins outside of strings.
    for entry in content.removesuffix(b"\n}\n").split(b'\n "')[1:]:
        name, _, value = entry.partition(b'": ')
        found[name.decode("ascii")] = value.removesuffix(b",")
    return found


def without(text: bytes, name: str) -> tuple[bytes, bytes]:
    """The text of a field without one of its entries, and the entry's; null if it is absent."""
    before, found, after = text.partition(b'\n  "%s": ' % name.encode("ascii"))
    if not found:
        return text, b"null"
    value, following, rest = after.partition(b'\n  "')
    if not following:
        return before.removesuffix(b",") + b"\n }", after.removesuffix(b"\n }")
    return before + following + rest, value.removesuffix(b",")


def read_record(path: Path) -> Record:
    """Parse a record file; StoreError if a newer version wrote it, Damaged if it is invalid."""
    return Record.read(read_values(path, _key_in(path.parent.name, path.stem)), path.stem)


def _key_in(folder: str, key: str) -> str:
    return key if folder == key[:2] else ""


def read_content(path: Path) -> bytes:
    """The bytes of a record file; Damaged for more than LARGEST, StoreError if it is unreadable."""
    try:
        return read_regular(path, LARGEST)
    except FileNotFoundError:
        raise
    except TooLargeError as error:
        raise Damaged(str(error.strerror)) from None
    except OSError as error:
        raise StoreError(
            f"cannot read '{path}': {error.strerror}; remove it or check its permissions"
        ) from error


def record_of(
    path: Path, values: Mapping[str, Any], as_record: Callable[[Any], Record] = unsealed
) -> Record:
    """Build the record from a file's values; Damaged if they are invalid or of another key.

    as_record: `Record.from_dict` also accepts values that do not match their stated digest.
    """
    try:
        record = as_record(values)
        key = record.spec.key()
    except (StoreError, ValueError, TypeError, RecursionError) as error:
        raise Damaged(str(error)) from None
    if path.stem != key or path.parent.name != key[:2]:
        raise Damaged(f"its specification has the key {key[:12]}..., so the file was changed")
    return record


def parse_values(path: Path, content: bytes) -> Mapping[str, Any]:
    """Parse the values of a record file; errors as in `read_record`."""
    try:
        values = _decoder.decode(content.decode(json.detect_encoding(content), "surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise Damaged(str(error)) from None
    if not isinstance(values, dict):
        raise Damaged(f"record is a {type(values).__name__}, expected an object")
    schema = values.get("schema")
    if isinstance(schema, int) and schema > SCHEMA:
        raise StoreError(
            f"'{path}' has schema {schema}, this version reads {SCHEMA}; upgrade fewshot_bench"
        )
    return values


def _is_record(name: str) -> bool:
    return name.endswith(".json") and not name.startswith(TEMPORARY)


def _not_a_number(name: str) -> None:
    raise Damaged(f"record holds {name}")


_decoder = json.JSONDecoder(parse_constant=_not_a_number)
