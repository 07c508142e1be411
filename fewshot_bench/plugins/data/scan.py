"""Reads and decodes every image of a data set once, and keeps what is needed to judge them."""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from fewshot_bench.api.dataset import Dataset
from fewshot_bench.api.task import Item
from fewshot_bench.images.decode import decoded, deep_problem, in_a_line, is_turned
from fewshot_bench.images.digests import DatasetDigests, Known, dataset_digests, now
from fewshot_bench.plugins.data.duplicates import SIDE, Bytes, has_contrast, thumbnail

if TYPE_CHECKING:
    from PIL import Image

CHUNK = 256
# Multi-picture JPEG: the first picture is an ordinary JPEG.
SAME_FORMAT = {"MPO": "JPEG"}

Listed = Sequence[tuple[str, Item]]


@dataclass(frozen=True)
class Look:
    """What one image file turned out to be; `thumbnail` is None where it tells nothing apart."""

    digest: bytes
    format: str
    mode: str
    size: tuple[int, int]
    turned: bool
    thumbnail: Bytes | None


@dataclass
class Scan:
    """All images of a data set, in the order of `listed`.

    digests: (n, 32) SHA-256 of each file; thumbnails: (n, 17, 17) gray values; decoded: (n,)
    whether an image opened; compared: (n,) whether it has a thumbnail that tells it from others.
    problems: index to what is wrong with a file that cannot be used.
    """

    listed: Listed
    digests: Bytes
    thumbnails: Bytes
    decoded: np.ndarray[tuple[int], np.dtype[np.bool_]]
    compared: np.ndarray[tuple[int], np.dtype[np.bool_]]
    problems: dict[int, str] = field(default_factory=dict)
    formats: Counter[str] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    misnamed: Counter[tuple[str, str]] = field(default_factory=Counter)
    turned: int = 0
    tiny: list[int] = field(default_factory=list)
    smallest: tuple[int, int] | None = None
    largest: tuple[int, int] | None = None

    def add(self, index: int, found: Look | str) -> None:
        """Take in one image, or what is wrong with it."""
        if isinstance(found, str):
            self.problems[index] = found
            return
        self.decoded[index] = True
        self.digests[index] = np.frombuffer(found.digest, dtype=np.uint8)
        if found.thumbnail is not None:
            self.thumbnails[index] = found.thumbnail
            self.compared[index] = True
        self.formats[found.format] += 1
        self.modes[found.mode] += 1
        self.turned += found.turned
        if min(found.size) <= 1:
            self.tiny.append(index)
        self._measure(found.size)
        extension = PurePosixPath(self.listed[index][1].id).suffix.lower()
        named = _format_of(extension)
        if named and named != found.format:
            self.misnamed[extension, found.format] += 1

    def _measure(self, size: tuple[int, int]) -> None:
        def area(size: tuple[int, int]) -> int:
            return size[0] * size[1]

        self.smallest = min(self.smallest or size, size, key=area)
        self.largest = max(self.largest or size, size, key=area)


def scan(
    dataset: Dataset, listed: Listed, jobs: int, advance: Callable[[int], None] | None = None
) -> Scan:
    """Read and decode all images with `jobs` threads; `advance` is told how many more are done.

    Digests of images that decode are kept for later runs, where the cache can be written to.
    """
    from PIL import Image

    Image.init()
    count = len(listed)
    digests = dataset_digests(dataset)
    digests.load()
    found = Scan(
        listed,
        np.zeros((count, 32), np.uint8),
        np.zeros((count, SIDE, SIDE), np.uint8),
        np.zeros(count, np.bool_),
        np.zeros(count, np.bool_),
    )
    with warnings.catch_warnings(), ThreadPoolExecutor(jobs) as pool:
        warnings.simplefilter("ignore")
        for start in range(0, count, CHUNK):
            chunk = [item for _, item in listed[start : start + CHUNK]]
            for offset, look in enumerate(
                pool.map(lambda item: _look(dataset, digests, item), chunk)
            ):
                found.add(start + offset, look)
            if advance is not None:
                advance(len(chunk))
    digests.save()
    return found


def _look(dataset: Dataset, digests: DatasetDigests, item: Item) -> Look | str:
    """What the file of an item holds, or one line on why it cannot be used."""
    taken = now()
    try:
        stamp = digests.stamp(item)
        content = dataset.read(item)
    except FileNotFoundError:
        return "missing"
    except Exception as error:
        return f"cannot be read: {in_a_line(error)}"
    image = decoded(content)
    if isinstance(image, str):
        return f"damaged: {image}"
    try:
        look = deep_problem(image) or _seen(image, content)
    except Exception as error:
        return f"damaged: {in_a_line(error)}"
    if isinstance(look, str):
        return look
    known = Known(look.digest, True, look.turned)
    if digests.get(item, stamp) != known:
        digests.put(item, stamp, known, taken)
    return look


def _seen(image: Image.Image, content: bytes) -> Look:
    form = SAME_FORMAT.get(image.format or "", image.format or "unknown")
    gray = thumbnail(image) if min(image.size) >= SIDE else None
    return Look(
        hashlib.sha256(content).digest(),
        form,
        image.mode,
        image.size,
        is_turned(image),
        gray if gray is not None and has_contrast(gray) else None,
    )


def _format_of(extension: str) -> str | None:
    from PIL import Image

    found = Image.registered_extensions().get(extension)
    return SAME_FORMAT.get(found or "", found)
