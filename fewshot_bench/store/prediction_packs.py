"""Packs: what the logits of one split's cells say, in one file per split, verified when read.

A pack may be deleted at any time, and nothing is lost: it is computed again from the logits. It
counts only while its own checksum is right, and an entry only for logits with the digest that it
was computed from. A pack of another version counts as none.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewshot_bench.utils.files import write_whole
from fewshot_bench.utils.version import __version__

if TYPE_CHECKING:
    import numpy as np

FOLDER, SUFFIX = "outcomes", ".pack"
MOST_CLASSES = 10_000_000
_HEAD = f"fsbench outcomes {json.dumps([1, __version__])}\n".encode()


@dataclass(frozen=True)
class Queries:
    """The images that were asked about: `names` is the JSON of their ids, `labels` (n,) int64."""

    names: bytes
    labels: np.ndarray

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """The ids of the images, in the order of the logits."""
        return tuple(json.loads(self.names))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of ids and labels: equal for the same images in the same order."""
        return hashlib.sha256(self.names + b"\n" + self.labels.tobytes()).hexdigest()

    @classmethod
    def of(cls, ids: np.ndarray, labels: np.ndarray) -> Queries:
        """Those of the arrays beside a record."""
        names = json.dumps(ids.tolist(), ensure_ascii=False).encode("utf-8", "surrogatepass")
        return cls(names, labels)


@dataclass(frozen=True)
class Entry:
    """What one cell's logits say. predictions: (n,) class indices; metrics: those computed."""

    queries: Queries
    predictions: np.ndarray
    classes: int
    metrics: Mapping[str, float | int]


Pack = dict[str, Entry]


def pack_file(store: Path, split: str) -> Path:
    """Where the pack of a split lies; split: its digest, or any text in its place."""
    return store / FOLDER / f"{hashlib.sha256(split.encode()).hexdigest()[:32]}{SUFFIX}"


def load_pack(path: Path) -> Pack:
    """The entries of a file by the digest of their logits; none where it is not whole."""
    try:
        content = path.read_bytes()
        start = len(_HEAD) + len(_checksum(b""))
        body = content[start:]
        if content[:start] != _HEAD + _checksum(body):
            return {}
        return _entries(body)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return {}


def save_pack(path: Path, pack: Pack) -> None:
    """Write a file whole, where the folder can be written; elsewhere there is no pack."""
    content = _body(pack)
    with suppress(OSError):
        write_whole(path, _HEAD + _checksum(content) + content)


def sealed(content: bytes) -> bytes:
    """The content of a file with the head and the checksum of a whole one; for tests."""
    body = content[len(_HEAD) + len(_checksum(b"")) :]
    return _HEAD + _checksum(body) + body


def _body(pack: Pack) -> bytes:
    """A line of JSON that says what follows, then all arrays, those of equal queries once."""
    blobs: list[bytes] = []
    queries: dict[str, int] = {}
    listed: list[dict[str, Any]] = []
    entries = []
    for digest, entry in pack.items():
        place = queries.setdefault(entry.queries.digest, len(queries))
        if place == len(listed):
            listed.append({"n": len(entry.queries.labels), "names": len(entry.queries.names)})
            blobs += [entry.queries.names, entry.queries.labels.astype("<i8").tobytes()]
        entries.append([digest, place, entry.classes, dict(entry.metrics)])
    blobs += [entry.predictions.astype("<i4").tobytes() for entry in pack.values()]
    head = json.dumps({"queries": listed, "entries": entries}, allow_nan=False)
    return b"\n".join([head.encode(), b"".join(blobs)])


def _entries(body: bytes) -> Pack:
    import numpy as np

    line, _, rest = body.partition(b"\n")
    said, at = json.loads(line), 0

    def take(count: int) -> bytes:
        nonlocal at
        at += count
        return rest[at - count : at]

    queries = []
    for part in said["queries"]:
        names = take(part["names"])
        images = Queries(names, np.frombuffer(take(8 * part["n"]), "<i8"))
        if len(images.ids) != part["n"] or set(map(type, images.ids)) - {str}:
            raise ValueError("names that are not one text per image")
        queries.append(images)
    found = {}
    for digest, place, classes, metrics in said["entries"]:
        predictions = np.frombuffer(take(4 * len(queries[place].labels)), "<i4")
        if not (isinstance(metrics, dict) and all(map(_is_number, metrics.values()))):
            raise ValueError("metrics that are no numbers")
        _check_classes(classes, queries[place].labels, predictions)
        found[digest] = Entry(queries[place], predictions, classes, metrics)
    if at != len(rest):
        raise ValueError("the arrays are not as long as its head says")
    return found


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest().encode() + b"\n"


def _check_classes(classes: object, *indices: np.ndarray) -> None:
    """ValueError unless these are indices of so many classes."""
    if not isinstance(classes, int) or not 0 < classes <= MOST_CLASSES:
        raise ValueError(f"{classes} classes")
    for found in indices:
        if len(found) and not 0 <= found.min() <= found.max() < classes:
            raise ValueError("indices that are no class")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
