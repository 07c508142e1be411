"""What the files of a cache say about themselves, read without loading any of them."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewshot_bench.images.segment_format import read_description
from fewshot_bench.utils.cache_dir import DIGESTS, FEATURES, IMAGES, CacheFile

LONGEST_HEAD = 1 << 20
# What reading a damaged file may raise.
DAMAGE = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError),
    struct.error,
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a cache; data set and number of images where it tells them."""

    file: CacheFile
    dataset: str = ""
    images: int | None = None


def entries(files: Iterable[CacheFile]) -> list[Entry]:
    """What each file says about itself."""
    return [_entry(file) for file in files]


def _entry(file: CacheFile) -> Entry:
    read = _READERS.get(file.kind)
    if read is None or file.temporary:
        return Entry(file)
    try:
        dataset, images = read(file.path)
        return Entry(file, str(dataset), int(images))
    except DAMAGE:
        return Entry(file)


def _of_images(path: Path) -> tuple[Any, Any]:
    read = read_description(path)
    if read is None:
        raise ValueError(path)
    return read[0].get("dataset", ""), read[0]["shape"][0]


def _of_digests(path: Path) -> tuple[Any, Any]:
    with path.open("rb") as file:
        head = json.loads(file.readline(LONGEST_HEAD))
    return head["dataset"], head["images"]


def _of_features(path: Path) -> tuple[Any, Any]:
    """A safetensors file starts with the length of its head, and the head as JSON."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        head = json.loads(file.read(min(length, LONGEST_HEAD)))
    return head["__metadata__"].get("dataset", ""), head["features"]["shape"][0]


_READERS: Mapping[str, Callable[[Path], tuple[Any, Any]]] = {
    IMAGES: _of_images,
    DIGESTS: _of_digests,
    FEATURES: _of_features,
}
