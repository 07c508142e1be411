"""Decoding and preprocessing of a data set's images."""

from __future__ import annotations

import dataclasses
import hashlib
import io
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fewshot_bench.backbones.protocol import LoadedBackbone
from fewshot_bench.crops import Crop, draw_crops, mirror
from fewshot_bench.dataset import Dataset
from fewshot_bench.errors import DataMissingError
from fewshot_bench.task import Augment, Item

MEMORY = 1 << 30
THREADS = 4
BICUBIC = Image.Resampling.BICUBIC


def decode(data: bytes) -> Image.Image:
    """The PIL image of an encoded file, fully read; OSError or ValueError when it is damaged."""
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def unreadable(dataset: Dataset, items: Sequence[Item]) -> list[str]:
    """`id: reason` for every item that is missing or does not decode."""

    def problem(item: Item) -> str | None:
        try:
            decode(dataset.read(item))
        except Exception as error:
            return f"{item.id}: {type(error).__name__}: {error}"
        return None

    with ThreadPoolExecutor(THREADS) as pool:
        return [found for found in pool.map(problem, items) if found is not None]


class ImageSource:
    """The images of some items, decoded on demand; keeps at most `MEMORY` bytes of each kind."""

    def __init__(self, dataset: Dataset, items: Sequence[Item], backbone: LoadedBackbone) -> None:
        self.items = tuple(items)
        self.backbone = backbone
        self._dataset = dataset
        self._mirrored = dataset.card().mirrored
        self._decoded = _Bounded(MEMORY)
        self._prepared: Tensor | None = None
        self._digest: str | None = None

    def __len__(self) -> int:
        return len(self.items)

    def allowed(self, augment: Augment) -> Augment:
        """The augmentation without flips where a mirror image would show another class."""
        return augment if self._mirrored else dataclasses.replace(augment, flip=0.0)

    @property
    def labels(self) -> Tensor:
        """(n,) int64 class indices of the items."""
        return torch.tensor([item.label for item in self.items], dtype=torch.int64)

    @property
    def digest(self) -> str:
        """SHA-256 over the bytes of every image file, in order."""
        if self._digest is None:
            sha = hashlib.sha256()
            for index in range(len(self)):
                sha.update(hashlib.sha256(self._read(index)).digest())
            self._digest = sha.hexdigest()
        return self._digest

    def _read(self, index: int) -> bytes:
        item = self.items[index]
        try:
            return self._dataset.read(item)
        except OSError as error:
            raise DataMissingError(
                f"{self._dataset.card().name}: image '{item.id}' cannot be read: {error}; "
                "restore the file, or remove it from the split"
            ) from error

    def _image(self, index: int) -> Image.Image:
        try:
            return decode(self._read(index))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            item = self.items[index]
            raise DataMissingError(
                f"{self._dataset.card().name}: image '{item.id}' does not decode: {error}; "
                "restore the file, or remove it from the split"
            ) from error

    def _rgb(self, index: int) -> Image.Image:
        """The decoded image in RGB, kept in memory within the bound."""
        kept: Image.Image | None = self._decoded.get(index)
        if kept is None:
            kept = self._image(index).convert("RGB")
            self._decoded.put(index, kept, 4 * kept.width * kept.height)
        return kept

    def _evaluation(self, index: int) -> Tensor:
        return _to_tensor(self.backbone.preprocess(self._image(index)))

    def _evaluation_batch(self, indices: Sequence[int]) -> Tensor:
        """uint8 (b, 3, h, w) of the published evaluation transform."""
        height, width = self.backbone.image_size
        if self._prepared is None and 3 * height * width * len(self) <= MEMORY:
            self._prepared = torch.stack(list(_parallel(self._evaluation, range(len(self)))))
        if self._prepared is not None:
            return self._prepared[torch.as_tensor(indices)]
        return torch.stack(list(_parallel(self._evaluation, indices)))

    def _cropped(self, index: int, crop: Crop) -> Tensor:
        height, width = self.backbone.image_size
        part = self._rgb(index).crop(crop.box)
        return _to_tensor(part.resize((width, height), BICUBIC))

    def _augmented_batch(
        self, indices: Sequence[int], augment: Augment, rng: torch.Generator
    ) -> Tensor:
        images = [self._rgb(index) for index in indices]
        crops = draw_crops([image.size for image in images], self.allowed(augment), rng)
        pixels = torch.stack([self._cropped(i, c) for i, c in zip(indices, crops, strict=True)])
        return mirror(pixels, crops)

    def batches(
        self,
        size: int,
        order: Sequence[int],
        augment: Augment | None,
        rng: torch.Generator | None,
    ) -> Iterator[Tensor]:
        """Normalized pixels of the images `order`, in batches of `size`, on the device."""
        for start in range(0, len(order), size):
            chunk = order[start : start + size]
            if augment is None:
                pixels = self._evaluation_batch(chunk)
            elif rng is None:
                raise TypeError("augmented batches need rng=ctx.rng('augment')")
            else:
                pixels = self._augmented_batch(chunk, augment, rng)
            yield self.backbone.normalize(pixels)


def _to_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _parallel(work: Any, indices: Sequence[int]) -> Iterator[Any]:
    with ThreadPoolExecutor(THREADS) as pool:
        yield from pool.map(work, indices)


class _Bounded:
    """Values by key, the first ones that fit into `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._values: OrderedDict[Any, Any] = OrderedDict()

    def get(self, key: Any) -> Any:
        return self._values.get(key)

    def put(self, key: Any, value: Any, size: int) -> None:
        if self._used + size <= self._limit:
            self._values[key] = value
            self._used += size
