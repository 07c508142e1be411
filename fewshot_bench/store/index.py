"""The contents of a store's record files in one file, so that listing them opens one file.

It may be deleted at any time, and nothing is lost: an entry counts only while the stamp of its
record file is the one that it had when it was read, and an index that is not whole counts as none.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from contextlib import suppress
from pathlib import Path

from fewshot_bench.api.record import SCHEMA, Record, unsealed
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.store.record_files import Stamp
from fewshot_bench.utils.errors import StoreError
from fewshot_bench.utils.files import write_whole
from fewshot_bench.utils.version import __version__

INDEX = "records.index"
# Fewer new entries, or a smaller share of all, are not worth writing the index again.
WORTH, WORTH_SHARE = 64, 1 / 8
# Two changes within one tick of the file system's clock can leave the same stamp.
SETTLED_SECONDS = 2.0
# What decides whether a file is a valid record; an index of another version is no help.
_READER = [1, __version__, SCHEMA, [field.name for field in dataclasses.fields(RunSpec)]]
_HEAD = f"fsbench index {json.dumps(_READER)}\n".encode()

Entry = tuple[Stamp, bytes]


class Index:
    """Entries by the name of the record file (`ab/ab12....json`): its stamp and its JSON."""

    def __init__(self, path: Path, entries: dict[str, Entry]) -> None:
        """path: the index file, which need not be there."""
        self._path = path
        self._known = entries
        self._used: dict[str, Entry] = {}
        self._new = 0

    @classmethod
    def load(cls, path: Path) -> Index:
        """The index of a file; an empty one where it is missing, damaged or of another version."""
        try:
            return cls(path, _entries(path.read_bytes()))
        except (OSError, ValueError):
            return cls(path, {})

    def find(self, file: Path, stamp: Stamp | None) -> Record | None:
        """The record of a file whose stamp is the one that it was read under.

        Its digest is checked each time, as that of the file would be.
        """
        name = _name(file)
        entry = self._known.get(name)
        if entry is None or entry[0] != stamp:
            return None
        try:
            record = unsealed(json.loads(entry[1]))
        except (StoreError, ValueError, TypeError):
            return None
        self._used[name] = entry
        return record

    def add(self, file: Path, stamp: Stamp | None, content: bytes) -> None:
        """Remember a valid record. stamp: that of the file before its content was read."""
        if stamp is None or max(stamp[:2]) > time.time_ns() - SETTLED_SECONDS * 1e9:
            return
        self._used[_name(file)] = stamp, _on_a_line(content)
        self._new += 1

    def contradicts(self, file: Path, stamp: Stamp | None) -> bool:
        """True when it says something else of a file than the file itself, under the same stamp."""
        entry = self._known.get(_name(file))
        if entry is None or entry[0] != stamp:
            return False
        try:
            return _on_a_line(file.read_bytes()) != entry[1]
        except OSError:
            return False

    def save(self) -> None:
        """Write what was found and added, if that is worth it and the folder can be written."""
        if self._new < max(WORTH, WORTH_SHARE * len(self._used)):
            return
        rows = [
            b"%s %d %d %d %d %s\n" % (name.encode(), *stamp, content)
            for name, (stamp, content) in self._used.items()
        ]
        body = b"".join(rows)
        with suppress(OSError):
            write_whole(self._path, _HEAD + _checksum(body) + body)


def _entries(content: bytes) -> dict[str, Entry]:
    """Entries of an index file; ValueError where it is not whole."""
    start = len(_HEAD) + len(_checksum(b""))
    body = content[start:]
    if content[:start] != _HEAD + _checksum(body):
        raise ValueError("not a whole index of this version")
    found: dict[str, Entry] = {}
    for row in body.split(b"\n")[:-1]:
        name, changed, inode_changed, size, inode, text = row.split(b" ", 5)
        stamp = int(changed), int(inode_changed), int(size), int(inode)
        found[name.decode()] = stamp, text
    return found


def _on_a_line(content: bytes) -> bytes:
    """JSON has line breaks between its values alone."""
    return content.replace(b"\r", b" ").replace(b"\n", b" ")


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest().encode() + b"\n"


def _name(file: Path) -> str:
    return f"{file.parent.name}/{file.name}"
