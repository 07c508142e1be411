"""Batches of pixels from files, the cache of decoded images and memory.

`ImageSource` is the entry point; batches come in the requested order, whichever thread decodes.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any
from weakref import WeakSet

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from fewshot_bench.api.backbone import LoadedBackbone
from fewshot_bench.api.dataset import Dataset
from fewshot_bench.api.items import Item
from fewshot_bench.api.task import Augment
from fewshot_bench.images.augment import Cutter, Uniforms, chunk_by_keys, pixels_of
from fewshot_bench.images.cache import ImageCache, Keeper, Pixels, Segment, transform_of
from fewshot_bench.images.decode import EncodedFiles, ImageFiles, in_a_line, upright
from fewshot_bench.profiling.cost import Cost
from fewshot_bench.profiling.meter import ImageCost
from fewshot_bench.utils.prefetch import DEPTH, THREADS, Ahead, spread

MEMORY = 1 << 30
"""Maximum bytes of decoded images held by a process."""
IDLE_SECONDS = 60.0
_LOCK = threading.Lock()
_ALL: WeakSet[DecodeCache] = WeakSet()


class DecodeCache:
    """Decoded images in memory by number, within one bound for all sources of a process.

    The first images of a source that fit stay, since passes over a source visit all of its images.
    Sources that were not asked for `IDLE_SECONDS` make room. Safe for threads.
    """

    # At least the bytes of all instances: those of instances that are gone count until the bound is
    # reached, so that an image does not cost a look at every instance.
    most = 0

    def __init__(self) -> None:
        self._used = 0
        self._values: dict[int, Any] = {}
        self._asked = time.monotonic()
        with _LOCK:
            _ALL.add(self)

    def get(self, key: int) -> Any:
        """The value of a key; None if it is not held."""
        self._asked = time.monotonic()
        return self._values.get(key)

    def put(self, key: int, value: Any, size: int) -> None:
        """Keep a value of `size` bytes, if there is room."""
        with _LOCK:
            if key in self._values:
                return
            if DecodeCache.most + size > MEMORY and size <= MEMORY:
                DecodeCache.most = self._evict(size)
            if DecodeCache.most + size <= MEMORY:
                DecodeCache.most += size
                self._values[key] = value
                self._used += size

    def _evict(self, size: int) -> int:
        """Empty idle instances until `size` bytes fit; the bytes that all instances hold then."""
        total = sum(cache._used for cache in _ALL)
        for cache in sorted(_ALL, key=lambda cache: cache._asked):
            if total + size <= MEMORY or cache._asked > self._asked - IDLE_SECONDS:
                break
            if cache is not self:
                total -= cache._used
                cache._used, cache._values = 0, {}
        return total


@dataclasses.dataclass(slots=True)
class Loaded:
    """Images `indices` that were loaded in a thread.

    prices: the original cost of each, None for newly decoded images; serving: the cost of reading
    the others; cpu: CPU seconds of decoding; mapped: the cache file that `images` are a view of.
    """

    indices: Sequence[int]
    images: Any
    prices: list[Cost | None]
    serving: Cost
    cpu: float
    mapped: Segment | None = None


class ImageSource:
    """The images of some items under a backbone's transform; keeps decoded ones in memory.

    If the data set detects changes of files (`Stamped`), decoded evaluation images are also kept in
    the user's cache folder.
    """

    def __init__(
        self,
        files: EncodedFiles,
        count: int,
        backbone: LoadedBackbone,
        labels: Sequence[int] = (),
        *,
        mirrored: bool = True,
        rotate: bool = False,
        threads: int = THREADS,
        depth: int | None = None,
    ) -> None:
        """`count` images of `files`; labels: their class indices, if they have any.

        mirrored: as in a data set's card; rotate: apply EXIF orientations. `threads` decode;
        `depth` batches are prefetched.
        The default is `DEPTH`, and none if the backbone computes on the CPU: decoding would take
        time away from it, and the savings by a cached image could not be measured.
        """
        self.backbone = backbone
        self.name = files.name
        self._count = count
        self._files = files
        self._labels = tuple(labels)
        self._mirrored = mirrored
        # Steps before the backbone's own; part of the identity of everything cached.
        self.turning: dict[str, str] = {"exif": "rotate"} if rotate else {}
        self._threads = threads
        self._depth = depth
        self._rgb = DecodeCache()
        self._evaluation = DecodeCache()
        self._prices: dict[tuple[str, int], Cost] = {}

    @classmethod
    def of(
        cls,
        dataset: Dataset,
        items: Sequence[Item],
        backbone: LoadedBackbone,
        threads: int = THREADS,
        depth: int | None = None,
    ) -> ImageSource:
        """Labeled images of a data set in this process."""
        return cls(
            ImageFiles(dataset, tuple(items)),
            len(items),
            backbone,
            [item.label for item in items],
            mirrored=dataset.card().mirrored,
            threads=threads,
            depth=depth,
        )

    def __len__(self) -> int:
        return self._count

    def _load_ahead(
        self, load: Callable[[Sequence[int]], Loaded], chunks: Sequence[Sequence[int]]
    ) -> Ahead[Loaded]:
        on_cpu = getattr(self.backbone, "device", torch.device("cpu")).type == "cpu"
        depth = (0 if on_cpu else DEPTH) if self._depth is None else self._depth
        return Ahead((functools.partial(load, chunk) for chunk in chunks), depth)

    def allowed(self, augment: Augment) -> Augment:
        """The augmentation, without flips if a mirror image would show another class."""
        return augment if self._mirrored else dataclasses.replace(augment, flip=0.0)

    @property
    def labels(self) -> Tensor:
        """(n,) int64 class indices; empty for images without labels."""
        return torch.tensor(self._labels, dtype=torch.int64)

    @property
    def digests(self) -> tuple[bytes, ...]:
        """The SHA-256 of every image file, in order."""
        return self._files.digests

    @functools.cached_property
    def _cache(self) -> ImageCache | None:
        transform = transform_of(self.backbone, self.turning) if self._files.stamped else None
        if transform is None:
            return None
        return ImageCache(transform, self.backbone.image_size, self.name)

    def hold(self, pixels: Sequence[Pixels]) -> None:
        """Hold already decoded images, (3, h, w) uint8 each, as far as memory allows."""
        for index, image in enumerate(pixels):
            self._evaluation.put(index, image, image.nbytes)
            self._prices[("evaluation", index)] = Cost()

    def batches(
        self,
        size: int,
        order: Sequence[int],
        augment: Augment | None = None,
        passes: Sequence[int] = (),
        tally: ImageCost | None = None,
        *,
        keys: Sequence[bytes] = (),
    ) -> Iterator[Tensor]:
        """Normalized pixels of the images `order`, in batches of `size`, on the device.

        With `augment`, `passes` holds a seed for the first, second ... occurrence of an image in
        `order` (`augment.draw_passes`), or `keys` holds one key per element of `order`; the crop
        follows from it. `tally` accumulates the costs. DataMissingError names an unusable image.
        """
        tally = tally or ImageCost()
        chunks = [order[start : start + size] for start in range(0, len(order), size)]
        if augment is None:
            pixels = self._evaluation_batches(chunks, tally)
        else:
            drawn = Uniforms(len(self), passes).chunks(chunks)
            numbers = drawn if passes else chunk_by_keys(keys, size)
            pixels = self._augment_batches(chunks, self.allowed(augment), numbers, tally)
        for batch in pixels:
            yield self.backbone.normalize(batch)

    def _evaluation_batches(
        self, chunks: Sequence[Sequence[int]], tally: ImageCost
    ) -> Iterator[Tensor]:
        """uint8 (b, 3, h, w) of the published evaluation transform."""
        with tally.unbilled():
            keeper = Keeper(self._cache, self._files, itertools.chain(*chunks))
        loading = self._load_ahead(self._evaluation_batch, chunks)
        try:
            for loaded in self._wait_for(loading, "evaluation", tally):
                decoded = [row for row, price in enumerate(loaded.prices) if price is None]
                with tally.unbilled():
                    for row in decoded:
                        index, pixels = loaded.indices[row], loaded.images[row]
                        if not keeper.add(index, pixels, self._prices[("evaluation", index)]):
                            # In memory if that is not possible on disk.
                            self._evaluation.put(index, pixels.copy(), pixels.nbytes)
                yield torch.from_numpy(loaded.images)
                if loaded.mapped is not None:
                    loaded.mapped.release()
        finally:
            loading.close()
            with tally.unbilled():
                keeper.close()
            tally.problem = keeper.problem or tally.problem

    def _evaluation_batch(self, indices: Sequence[int]) -> Loaded:
        start = time.perf_counter(), time.thread_time()
        digests = [self._files.digests[index] for index in indices] if self._cache else []
        run = self._cache.run_of(digests) if self._cache else None
        if run is not None:
            # A view of a cache file, without a copy.
            pixels, segment = run
            serving = Cost(time.perf_counter() - start[0], time.thread_time() - start[1])
            return Loaded(indices, pixels, [segment.price] * len(indices), serving, 0.0, segment)
        height, width = self.backbone.image_size
        pixels = np.empty((len(indices), 3, height, width), np.uint8)
        prices: list[Cost | None] = [None] * len(indices)
        for row, index in enumerate(indices):
            kept = self._evaluation.get(index)
            if kept is not None:
                pixels[row], prices[row] = kept, self._prices[("evaluation", index)]
        absent = [row for row, price in enumerate(prices) if price is None]
        if self._cache is not None and absent:
            cached = self._cache.take({row: digests[row] for row in absent}, pixels)
            for row, price in cached.items():
                prices[row] = price
        serving = Cost(time.perf_counter() - start[0], time.thread_time() - start[1])
        absent = [row for row, price in enumerate(prices) if price is None]

        def decode(row: int) -> float:
            begun = time.thread_time()
            pixels[row] = self._prepare(indices[row])
            return time.thread_time() - begun

        cpu = sum(spread(decode, absent, self._threads, 1))
        return Loaded(indices, pixels, prices, serving, cpu)

    def _decode(self, index: int) -> Image:
        image = self._files.decode(index)
        return upright(image) if self.turning else image

    def _prepare(self, index: int) -> Any:
        """Pixels for evaluation; DataMissingError names an image that the transform refuses."""
        picture = self._decode(index)
        try:
            return pixels_of(self.backbone.preprocess(picture))
        except Exception as error:
            size = f"{picture.width} x {picture.height} pixels"
            reason = f"({size}) does not fit the backbone's transform: {in_a_line(error)}"
            raise self._files.unusable(index, reason) from error

    def _wait_for(self, loading: Ahead[Loaded], kind: str, tally: ImageCost) -> Iterator[Loaded]:
        """Yield loaded batches; add their costs to the tally, remember that of each new image."""
        while True:
            start = time.perf_counter()
            loaded = next(loading, None)
            waited = time.perf_counter() - start
            tally.elapsed += waited
            if loaded is None:
                return
            served = list(zip(loaded.indices, loaded.prices, strict=True))
            decoded = {index for index, price in served if price is None}
            serving = Cost(min(waited, loaded.serving.wall), loaded.serving.cpu)
            for index in decoded:
                wall = (waited - serving.wall) / len(decoded)
                self._prices[(kind, index)] = Cost(wall, loaded.cpu / len(decoded))
            tally.add_served({(id(self), kind, index): price for index, price in served}, serving)
            yield loaded

    def _augment_batches(
        self,
        chunks: Sequence[Sequence[int]],
        augment: Augment,
        numbers: Iterator[Tensor],
        tally: ImageCost,
    ) -> Iterator[Tensor]:
        """uint8 (b, 3, h, w) of random crops, each batch cut while the one before it is in use."""
        loading = self._load_ahead(self._rgb_batch, chunks)
        cutter = Cutter(self.backbone.image_size, augment, self._threads)
        begun: Future[Tensor] | None = None
        try:
            for loaded in self._wait_for(loading, "rgb", tally):
                start = time.perf_counter()
                if begun is None:
                    begun = cutter.begin(loaded.images, next(numbers))
                pixels, following = begun.result(), loading.peek()
                begun = cutter.begin(following.images, next(numbers)) if following else None
                tally.elapsed += time.perf_counter() - start
                yield pixels
        finally:
            loading.close()

    def _rgb_batch(self, indices: Sequence[int]) -> Loaded:
        """The decoded images in RGB, kept in memory within the bound."""

        images = [self._rgb.get(index) for index in indices]
        prices = [self._prices.get(("rgb", index)) for index in indices]
        absent = [row for row, image in enumerate(images) if image is None]

        def load(row: int) -> float:
            begun = time.thread_time()
            image = self._decode(indices[row]).convert("RGB")
            self._rgb.put(indices[row], image, 4 * image.width * image.height)
            images[row], prices[row] = image, None
            return time.thread_time() - begun

        cpu = sum(spread(load, absent, self._threads, 1))
        return Loaded(indices, images, prices, Cost(), cpu)
