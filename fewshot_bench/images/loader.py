"""Batches of pixels from files, the cache of decoded images and memory.

`ImageSource` is the entry point; batches come in the requested order, whichever thread decodes.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from fewshot_bench.api.backbone import LoadedBackbone
from fewshot_bench.api.dataset import Dataset
from fewshot_bench.api.items import Item
from fewshot_bench.api.task import Augment
from fewshot_bench.images.augment import (
    NUMBERS,
    Uniforms,
    cut,
    draw_crops,
    passes_of,
    pixels_of,
    uniforms_of,
)
from fewshot_bench.images.augmix import Pixels
from fewshot_bench.images.cache import ImageCache, Keeper, Segment, transform_of
from fewshot_bench.images.decode import EncodedFiles, ImageFiles, in_a_line, upright
from fewshot_bench.images.held import DecodeCache
from fewshot_bench.images.torch_crops import Packed, pack, resize
from fewshot_bench.images.torch_crops import cut as cut_by_torch
from fewshot_bench.profiling.cost import Cost
from fewshot_bench.profiling.meter import ImageCost
from fewshot_bench.utils.devices import is_accelerator
from fewshot_bench.utils.errors import UsageError
from fewshot_bench.utils.prefetch import DEPTH, THREADS, Ahead, spread
from fewshot_bench.utils.transfer import reserve


def _no_numbers(part: slice) -> Tensor:
    return torch.empty(0, NUMBERS)


@dataclasses.dataclass(frozen=True, slots=True)
class Visits:
    """One pass over images: their `indices`, and the numbers that their crops follow from.

    numbers: for a slice of the pass, (b, NUMBERS) float64 in [0, 1).
    """

    indices: Sequence[int]
    numbers: Callable[[slice], Tensor] = _no_numbers


@dataclasses.dataclass(slots=True)
class Loaded:
    """Images `indices` that were loaded in a thread.

    pixels: uint8 (b, 3, h, w); none of crops that are `packed` for the device. decoded: rows of the
    images that were decoded, at the cost `decoding`. prices: the original costs of rows from the
    disk; those of rows from memory are known once the batch that decoded them was served. serving:
    the cost of reading both. mapped: the cache file that `pixels` are a view of.
    """

    indices: Sequence[int]
    pixels: Tensor
    decoded: Sequence[int]
    decoding: Cost
    packed: Sequence[Packed] = ()
    prices: Mapping[int, Cost] = dataclasses.field(default_factory=dict)
    serving: Cost = dataclasses.field(default_factory=Cost)
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
        by_torch: bool = False,
        threads: int = THREADS,
        depth: int | None = None,
    ) -> None:
        """`count` images of `files`; labels: their class indices, if they have any.

        mirrored: as in a data set's card; rotate: apply EXIF orientations; by_torch: crops are cut
        by torch, on the backbone's device, not by Pillow. `threads` decode; `depth` batches are
        prefetched.
        The default is `DEPTH`, and none if the backbone computes on the CPU: decoding would take
        time away from it, and the savings by a cached image could not be measured.
        """
        self.backbone = backbone
        self.name = files.name
        self._count = count
        self._files = files
        self._labels = tuple(labels)
        self._mirrored = mirrored
        self._rotate, self._by_torch = rotate, by_torch
        # The part of the identity of augmented views that says how they are cut.
        self.cutting: dict[str, str] = {"augment": "device"} if by_torch else {}
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

    @property
    def orientation(self) -> dict[str, str]:
        """Whether images are rotated, as a part of the identity of everything cached."""
        return {"exif": "rotate"} if self._rotate else {}

    @functools.cached_property
    def _device(self) -> torch.device:
        return getattr(self.backbone, "device", torch.device("cpu"))

    def _load_ahead(self, jobs: Iterable[Callable[[], Loaded]]) -> Ahead[Loaded]:
        usual = DEPTH if is_accelerator(self._device) else 0
        return Ahead(jobs, usual if self._depth is None else self._depth)

    def _reserve(self, count: int) -> Tensor:
        """Memory for the pixels of a batch, from which copies to the device need not wait.

        It belongs to the batch, which a consumer may keep: the allocator of pinned memory reuses
        what is freed once copies from it have ended.
        """
        return reserve((count, 3, *self.backbone.image_size), torch.uint8, self._device)

    def allowed(self, augment: Augment) -> Augment:
        """The augmentation, without flips if a mirror image would show another class.

        UsageError for AugMix on a device.
        """
        if augment.augmix and self._by_torch:
            raise UsageError(
                "views with AugMix are cut by Pillow, not on a device: run without --augment device"
            )
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
        transform = transform_of(self.backbone, self.orientation) if self._files.stamped else None
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
        if augment is None:
            visits = Visits(order)
        elif keys:
            visits = Visits(order, lambda part: uniforms_of(keys[part]))
        else:
            visits = self.visit(order, passes_of(order), passes)
        return self.serve(size, [visits], augment, tally)

    def visit(
        self, order: Sequence[int], occurrences: Sequence[int], passes: Sequence[int]
    ) -> Visits:
        """The visits of `order`, each in the pass with the number and the seed of its occurrence.

        occurrences: `augment.passes_of(order)`; passes: a seed for each of their values.
        """
        uniforms = Uniforms(len(self), passes)
        return Visits(order, lambda part: uniforms.of(order[part], occurrences[part]))

    def serve(
        self,
        size: int,
        passes: Iterable[Visits],
        augment: Augment | None = None,
        tally: ImageCost | None = None,
    ) -> Iterator[Tensor]:
        """Normalized pixels of passes over images, in batches of `size` that hold one pass each.

        With `augment` a pass is taken from `passes` while the last batches of the one before are in
        use, so that work never drains between them. `tally` and errors as in `batches`.
        """
        tally = tally or ImageCost()
        if augment is not None:
            return self._crop_batches(size, passes, self.allowed(augment), tally)
        evaluated = (self._evaluation_batches(size, visits.indices, tally) for visits in passes)
        return itertools.chain.from_iterable(evaluated)

    def _crop_batches(
        self, size: int, passes: Iterable[Visits], augment: Augment, tally: ImageCost
    ) -> Iterator[Tensor]:
        """Normalized pixels of random crops."""
        jobs = (
            functools.partial(self._crop_batch, visits, slice(start, start + size), augment)
            for visits in passes
            for start in range(0, len(visits.indices), size)
        )
        loading = self._load_ahead(jobs)
        try:
            for loaded in self._wait_for(loading, "rgb", tally):
                pixels = loaded.pixels
                if loaded.packed:
                    pixels = resize(loaded.packed, self.backbone.image_size, self._device)
                yield self.backbone.normalize(pixels)
        finally:
            loading.close()

    def _evaluation_batches(
        self, size: int, order: Sequence[int], tally: ImageCost
    ) -> Iterator[Tensor]:
        """Normalized pixels of the published evaluation transform."""
        with tally.unbilled():
            keeper = Keeper(self._cache, self._files, order)
        chunks = (order[start : start + size] for start in range(0, len(order), size))
        loading = self._load_ahead(functools.partial(self._evaluation_batch, c) for c in chunks)
        try:
            for loaded in self._wait_for(loading, "evaluation", tally):
                with tally.unbilled():
                    for row in loaded.decoded:
                        index, pixels = loaded.indices[row], loaded.pixels[row].numpy()
                        if not keeper.add(index, pixels, self._prices[("evaluation", index)]):
                            # In memory if that is not possible on disk.
                            self._evaluation.put(index, pixels.copy(), pixels.nbytes)
                yield self.backbone.normalize(loaded.pixels)
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
            rows, segment = run
            # A view of a cache file; a copy only if pixels go on to another memory.
            pixels = torch.from_numpy(rows)
            if is_accelerator(self._device):
                pixels = self._reserve(len(indices)).copy_(pixels)
            prices = dict.fromkeys(range(len(indices)), segment.price)
            serving = Cost(time.perf_counter() - start[0], time.thread_time() - start[1])
            return Loaded(indices, pixels, (), Cost(), (), prices, serving, segment)
        pixels, absent = self._reserve(len(indices)), []
        into = pixels.numpy()
        for row, index in enumerate(indices):
            kept = self._evaluation.get(index)
            if kept is None:
                absent.append(row)
            else:
                into[row] = kept
        prices = {}
        if self._cache is not None and absent:
            prices = self._cache.take({row: digests[row] for row in absent}, into)
            absent = [row for row in absent if row not in prices]
        serving = Cost(time.perf_counter() - start[0], time.thread_time() - start[1])

        def decode(row: int) -> None:
            into[row] = self._prepare(indices[row])

        decoding = self._spread(decode, absent)
        return Loaded(indices, pixels, absent, decoding, (), prices, serving)

    def _spread(self, work: Callable[[int], None], rows: Sequence[int]) -> Cost:
        """Do `work` for every row in threads; its cost."""

        def timed(row: int) -> float:
            begun = time.thread_time()
            work(row)
            return time.thread_time() - begun

        start = time.perf_counter()
        cpu = sum(spread(timed, rows, self._threads, 1))
        return Cost(time.perf_counter() - start, cpu)

    def _decode(self, index: int) -> Image:
        image = self._files.decode(index)
        return upright(image) if self._rotate else image

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
            tally.batches += 1
            tally.late += loading.late
            serving = Cost(min(waited, loaded.serving.wall), loaded.serving.cpu)
            decoding = Cost(min(waited - serving.wall, loaded.decoding.wall), loaded.decoding.cpu)
            decoded = {loaded.indices[row] for row in loaded.decoded}
            for index in decoded:
                self._prices[(kind, index)] = decoding.scale(1, len(decoded))
            prices: dict[Hashable, Cost | None] = {
                (id(self), kind, index): None
                if index in decoded
                else loaded.prices.get(row, self._prices.get((kind, index)))
                for row, index in enumerate(loaded.indices)
            }
            tally.add_served(prices, serving)
            yield loaded

    def _crop_batch(self, visits: Visits, part: slice, augment: Augment) -> Loaded:
        """Crops of a part of a pass; decoded images are kept in memory within the bound."""
        indices = visits.indices[part]
        # Each with its size (width, height).
        images = [self._rgb.get(index) for index in indices]
        absent = [row for row, image in enumerate(images) if image is None]

        def load(row: int) -> None:
            picture = self._decode(indices[row]).convert("RGB")
            image, per_pixel = (np.array(picture), 3) if self._by_torch else (picture, 4)
            images[row] = image, picture.size
            self._rgb.put(indices[row], images[row], per_pixel * picture.width * picture.height)

        decoding = self._spread(load, absent)
        crops = draw_crops([size for _, size in images], augment, visits.numbers(part))
        pictures = [image for image, _ in images]
        if self._by_torch and is_accelerator(self._device):
            packed = pack(pictures, crops, self._device, self._threads)
            return Loaded(indices, torch.empty(0), absent, decoding, packed)
        pixels = self._reserve(len(indices))
        if self._by_torch:
            cut_by_torch(pictures, crops, pixels, self._threads)
        else:
            cut(pictures, crops, pixels.numpy(), self._threads)
        return Loaded(indices, pixels, absent, decoding)
