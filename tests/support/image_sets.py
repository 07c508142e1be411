"""Images in memory and in files, for decoding and crops."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from fewshot_bench import DatasetCard, Item


@dataclasses.dataclass
class Memory:
    """A data set of images in memory, by id."""

    files: dict[str, bytes]

    def card(self) -> DatasetCard:
        """A card with two classes."""
        return DatasetCard("memory", "Memory", ("cat", "dog"))

    def items(self) -> Mapping[str, tuple[Item, ...]]:
        """All images in train."""
        items = tuple(Item(name, i % 2, "cat") for i, name in enumerate(self.files))
        return {"train": items, "val": (), "test": ()}

    def read(self, item: Item) -> bytes:
        """Bytes of one image."""
        return self.files[item.id]


def encoded(mode: str, kind: str, size: tuple[int, int], exif: int | None = None) -> bytes:
    """An image file of noise."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    options: dict[str, Any] = {}
    if exif is not None:
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = exif
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


COUNT = 13


FILES = {
    f"{index}.png": encoded("RGB", "PNG", (40 + 3 * index, 70 - 2 * index))
    for index in range(COUNT)
}


def scene(seed: int, size: tuple[int, int]) -> Image.Image:
    """Smooth gradients with texture, about as detailed as a photograph."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (4, 5, 3), dtype=np.uint8))
    fine = Image.fromarray(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8))
    parts = [part.resize(size, Image.Resampling.BICUBIC) for part in (coarse, fine)]
    return Image.blend(parts[0], parts[1], 0.3)
