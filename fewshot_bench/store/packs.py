"""Packs of outcomes: predictions of the cells of one split in one file, which may be deleted.

`load_pack` and `save_pack` are the entry points. An entry is keyed by the digest of its logits; a
file whose checksum is wrong is as one that is missing.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewshot_bench.api.metrics import BINS
from fewshot_bench.store.answer_files import Stored
from fewshot_bench.utils.files import write_whole
from fewshot_bench.utils.version import __version__

if TYPE_CHECKING:
    import numpy as np


OUTCOMES, SUFFIX = "outcomes", ".safetensors"
MOST_CLASSES = 10_000_000
_KINDS = {"<i8", "<i4"}
_MALFORMED = (ValueError, LookupError, TypeError, AttributeError, RecursionError)


@dataclass(frozen=True)
class Queries:
    """The query images of a cell: `names` is the JSON of their ids, `labels` (n,) int64."""

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
    def of(cls, stored: Stored) -> Queries:
        """The queries of the answers beside a record."""
        return cls(stored.names, stored.answers.labels)


@dataclass(frozen=True, slots=True)
class Entry:
    """Predictions of one cell: (n,) class indices, and what was computed from its logits.

    reliability: as `metrics.reliability` returns it.
    """

    queries: Queries
    predictions: np.ndarray
    reliability: np.ndarray
    classes: int
    metrics: Mapping[str, float | int]


Pack = dict[str, Entry]


def pack_file(store: Path, split: str) -> Path:
    """File of the pack of a split; split: its digest, or any other text."""
    return store / OUTCOMES / f"{hashlib.sha256(split.encode()).hexdigest()[:32]}{SUFFIX}"


def load_pack(path: Path) -> Pack:
    """Load a pack; empty if the file is missing, damaged or of another version."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            about, names = json.loads(file.metadata()["about"]), file.keys()
            arrays = {name: file.get_tensor(name) for name in names}
        if about["version"] != __version__ or about["sha256"] != checksum(about["entries"], arrays):
            return {}
        return _unpacked(about["entries"], arrays)
    except (OSError, SafetensorError, *_MALFORMED):
        return {}


def save_pack(path: Path, pack: Pack) -> None:
    """Write a pack atomically; does nothing if the folder cannot be written."""
    from safetensors.numpy import save

    entries, arrays = _packed(pack)
    about = {"version": __version__, "sha256": checksum(entries, arrays), "entries": entries}
    # A single metadata entry, since the order of several differs between processes.
    content = save(arrays, {"about": json.dumps(about)})
    with suppress(OSError):
        write_whole(path, content)


def _packed(pack: Pack) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """All arrays, and per entry the index of its queries, its row, classes and metrics."""
    import numpy as np

    cells: defaultdict[str, list[str]] = defaultdict(list)
    for digest, entry in pack.items():
        cells[entry.queries.digest].append(digest)
    entries: dict[str, Any] = {}
    arrays = {}
    for place, digests in enumerate(cells.values()):
        images = pack[digests[0]].queries
        arrays[f"names {place}"] = np.frombuffer(images.names, np.uint8)
        arrays[f"labels {place}"] = images.labels.astype("<i8")
        rows = [pack[digest].predictions for digest in digests]
        arrays[f"predictions {place}"] = np.stack(rows).astype("<i4")
        bins = [pack[digest].reliability for digest in digests]
        arrays[f"reliability {place}"] = np.stack(bins).astype("<f8")
        for row, digest in enumerate(digests):
            entry = pack[digest]
            entries[digest] = [place, row, entry.classes, dict(entry.metrics)]
    return entries, arrays


def _unpacked(entries: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Pack:
    """The inverse of `_packed`; raises one of _MALFORMED for invalid values."""
    queries: dict[int, Queries] = {}
    found = {}
    for digest, (place, row, classes, metrics) in entries.items():
        labels, predictions = arrays[f"labels {place}"], arrays[f"predictions {place}"][row]
        bins = arrays[f"reliability {place}"][row]
        if place not in queries:
            queries[place] = Queries(arrays[f"names {place}"].tobytes(), labels)
            ids = queries[place].ids
            if len(ids) != len(labels) or set(map(type, ids)) - {str}:
                raise ValueError("names that are not one text per image")
        if predictions.shape != labels.shape or {labels.dtype.str, predictions.dtype.str} != _KINDS:
            raise ValueError("arrays of another kind")
        if bins.shape != (3, BINS) or bins.dtype.str != "<f8" or bins[0].sum() != len(labels):
            raise ValueError("bins of another kind")
        if not (isinstance(metrics, dict) and all(map(_is_number, metrics.values()))):
            raise ValueError("metrics that are no numbers")
        _check_classes(classes, labels, predictions)
        found[digest] = Entry(queries[place], predictions, bins, classes, metrics)
    return found


def checksum(entries: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over the entries and all arrays of a pack."""
    sha = hashlib.sha256(json.dumps(entries, allow_nan=False).encode())
    for name, array in sorted(arrays.items()):
        sha.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()


def _check_classes(classes: object, *indices: np.ndarray) -> None:
    """ValueError unless `classes` is a valid number and all indices are below it."""
    if not isinstance(classes, int) or not 0 < classes <= MOST_CLASSES:
        raise ValueError(f"{classes} classes")
    for found in indices:
        if len(found) and not 0 <= found.min() <= found.max() < classes:
            raise ValueError("indices that are no class")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
