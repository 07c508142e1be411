"""Decoded images on disk, by the digest of their file and by the transform.

`ImageCache` is the entry point. Each pass over a list of images writes those that it had to decode
into one file (a segment), from which all other lists with the same images read them.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import math
import threading
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fewshot_bench.api.backbone import LoadedBackbone
from fewshot_bench.images.cache_file import SHA, Pixels, Segment, SegmentWriter, open_segment
from fewshot_bench.images.decode import EncodedFiles
from fewshot_bench.profiling.cost import Cost
from fewshot_bench.utils import cache_dir as cache_folder
from fewshot_bench.utils.cache_dir import IMAGES, CacheFile
from fewshot_bench.utils.files import temporary_name
from fewshot_bench.utils.image_formats import decoder_versions

FORMAT = 1
ADDRESS = " at 0x"


def transform_of(backbone: LoadedBackbone, also: Mapping[str, str] | None = None) -> str | None:
    """Everything that pixels depend on besides the image files; None if that is unknown.

    also: steps applied to images before the backbone's.
    """
    steps = getattr(backbone, "_steps", None)
    described = [_describe(step) for step in steps] if steps is not None else [ADDRESS]
    if any(ADDRESS in text for text in described):
        return None
    facts = {"steps": described, "size": list(backbone.image_size), "decoder": decoder()}
    return json.dumps(facts | {"format": FORMAT, **(also or {})}, sort_keys=True)


@functools.cache
def decoder() -> tuple[str, ...]:
    """Versions of the libraries that decode and resize."""
    installed = (f"{name} {version(name)}" for name in ("torchvision", "open_clip_torch"))
    return (*decoder_versions(), *installed)


def _describe(step: Any) -> str:
    """Type and settings of a step; contains ADDRESS if it is not the same in every process."""
    if isinstance(step, functools.partial) or inspect.ismethod(step):
        return ADDRESS
    name = getattr(step, "__qualname__", "")
    if name:
        return repr(step) if "<" in name else f"{step.__module__}.{name}"
    if not hasattr(step, "__dict__"):
        return f"{type(step).__qualname__} {step!r}"
    # Private attributes of torch modules are empty without weights, submodules and hooks.
    settings = [(k, v) for k, v in sorted(vars(step).items()) if v or not k.startswith("_")]
    return f"{type(step).__module__}.{type(step).__qualname__} {settings!r}"


class ImageCache:
    """Decoded images (3, h, w) under one transform, in the user's cache folder."""

    def __init__(self, transform: str, size: tuple[int, int], name: str) -> None:
        """`name` is the data set that newly written files are listed under."""
        self.problem = ""
        self._name = name
        self._transform = transform
        self._shape = (3, *size)
        name_of_folder = hashlib.sha256(transform.encode()).hexdigest()[:16]
        self._folder = cache_folder.cache_root() / IMAGES / name_of_folder
        self._places: dict[bytes, tuple[Segment, int]] = {}
        self._seen: set[Path] = set()
        self._lock = threading.Lock()

    def look(self, digests: Iterable[bytes]) -> list[bytes]:
        """Digests of images that are not cached; marks the files with the others as used.

        Opens files that other processes wrote since the last call; damaged files are removed.
        """
        wanted = list(dict.fromkeys(digests))
        if not all(digest in self._places for digest in wanted):
            for file in self._files():
                if file.path not in self._seen:
                    self._open(file.path)
        for path in {self._places[d][0].path for d in wanted if d in self._places}:
            cache_folder.touch(path)
        return [digest for digest in wanted if digest not in self._places]

    def _files(self) -> list[CacheFile]:
        files = cache_folder.files(IMAGES, self._folder.parent)
        return [f for f in files if f.path.parent == self._folder and not f.temporary]

    def _open(self, path: Path) -> None:
        self._seen.add(path)
        segment = open_segment(path, self._transform, self._shape)
        if segment is None:
            cache_folder.remove(CacheFile(path, IMAGES, 0, 0.0))
            return
        with self._lock:
            for row, digest in enumerate(segment.digests):
                self._places[digest] = (segment, row)

    def take(self, digests: Mapping[int, bytes], into: Pixels) -> dict[int, Cost]:
        """Fill the rows of `into` (b, 3, h, w) with cached images; returns their original costs."""
        prices: dict[int, Cost] = {}
        wanted: dict[Segment, dict[int, int]] = {}
        with self._lock:
            for index, digest in digests.items():
                if digest in self._places:
                    segment, row = self._places[digest]
                    wanted.setdefault(segment, {})[index] = row
        for segment, rows in wanted.items():
            if segment.is_good(list(rows.values())):
                for index, row in rows.items():
                    into[index] = segment.rows[row]
                prices |= dict.fromkeys(rows, segment.price)
                segment.release()
            else:
                self._forget(segment)
        return prices

    def run_of(self, digests: Sequence[bytes]) -> tuple[Pixels, Segment] | None:
        """(n, 3, h, w) of images that are contiguous in one file, in this order; not copied."""
        with self._lock:
            rows = [self._places.get(digest) for digest in digests]
        if not rows or rows[0] is None:
            return None
        segment, first = rows[0]
        if rows != [(segment, first + offset) for offset in range(len(rows))]:
            return None
        if not segment.is_good(range(first, first + len(rows))):
            self._forget(segment)
            return None
        return segment.rows[first : first + len(rows)], segment

    def _forget(self, segment: Segment) -> None:
        """Never serve a damaged file again."""
        with self._lock:
            for digest in segment.digests:
                if self._places.get(digest, (None,))[0] is segment:
                    del self._places[digest]
        cache_folder.remove(CacheFile(segment.path, IMAGES, 0, 0.0))

    def writer(self, count: int) -> SegmentWriter | None:
        """A writer for `count` newly decoded images; None (see `problem`) if there is no room.

        None in a process that runs foreign code, too.
        """
        if not cache_folder.is_shared():
            return None
        need = count * (math.prod(self._shape) + 2 * SHA) + 4096
        try:
            cache_folder.make_room(IMAGES, need, cache_folder.limit_bytes())
            cache_folder.make_folder(self._folder)
            return SegmentWriter(self._folder / temporary_name(), self._shape)
        except OSError as error:
            self.failed(error)
            return None

    def failed(self, error: OSError) -> None:
        """Store the reason why images are not cached; this costs only time."""
        self.problem = f"decoded images are not kept: {error}"

    def publish(self, writer: SegmentWriter) -> None:
        """Give a written file its name and serve from it; on failure, only the file is lost."""
        joined = b"".join(writer.digests)
        name = hashlib.sha256(self._transform.encode() + joined).hexdigest()
        path = self._folder / f"{name}.pixels"
        try:
            if writer.digests:
                writer.finish(path, {"dataset": self._name, "transform": self._transform})
                self._open(path)
        except OSError as error:
            self.failed(error)
        writer.abandon()


class Keeper:
    """Writes what one pass over images decodes into the cache on disk, if there is one."""

    def __init__(self, cache: ImageCache | None, files: EncodedFiles, order: Iterable[int]) -> None:
        self._cache = cache
        self._files = files
        self._writer: SegmentWriter | None = None
        self._wanted = [files.digests[index] for index in order] if cache else []
        if cache is not None:
            cache.look(self._wanted)

    @property
    def problem(self) -> str:
        """The reason why images or digests could not be cached; empty without a failure."""
        return (self._cache.problem if self._cache else "") or self._files.problem

    def add(self, index: int, pixels: Pixels, price: Cost) -> bool:
        """Write one image; False if it was not cached."""
        cache = self._cache
        if cache is None or cache.problem:
            return False
        if self._writer is None:
            self._writer = cache.writer(len(cache.look(self._wanted)))
        if self._writer is None:
            return False
        try:
            self._writer.add(self._files.digests[index], pixels, price)
        except OSError as error:
            cache.failed(error)
            self._writer.abandon()
            self._writer = None
            return False
        return True

    def close(self) -> None:
        """Publish the written segment."""
        if self._cache is not None and self._writer is not None:
            self._cache.publish(self._writer)
