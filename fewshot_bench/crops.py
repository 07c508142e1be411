"""Random resized crops and flips, drawn from a generator that is passed in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fewshot_bench.ahead import in_background, spread
from fewshot_bench.task import Augment

ATTEMPTS = 10
BICUBIC = Image.Resampling.BICUBIC


@dataclass(frozen=True, slots=True)
class Crop:
    """A box (left, top, right, bottom) in pixels of the source image, and whether to mirror it."""

    box: tuple[int, int, int, int]
    mirrored: bool


def draw_crops(sizes: list[tuple[int, int]], augment: Augment, rng: torch.Generator) -> list[Crop]:
    """One crop per (width, height), distributed as torchvision's RandomResizedCrop and flip.

    Area share uniform in `augment.scale`, log of the aspect ratio uniform; up to ten attempts to
    fit, then the largest central crop within the ratio's bounds.
    """
    count = len(sizes)
    share = torch.rand(count, ATTEMPTS, generator=rng, dtype=torch.float64)
    aspect = torch.rand(count, ATTEMPTS, generator=rng, dtype=torch.float64)
    place = torch.rand(count, 2, generator=rng, dtype=torch.float64)
    mirrored = torch.rand(count, generator=rng) < augment.flip
    extent = torch.tensor(sizes, dtype=torch.float64)
    low, high = augment.scale
    area = extent.prod(dim=1, keepdim=True) * (low + (high - low) * share)
    first, last = (math.log(bound) for bound in augment.ratio)
    ratio = torch.exp(first + (last - first) * aspect)
    width, height = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    fits = (width > 0) & (width <= extent[:, :1]) & (height > 0) & (height <= extent[:, 1:])
    choice = fits.int().argmax(dim=1, keepdim=True)
    sizes_drawn = torch.cat([width.gather(1, choice), height.gather(1, choice)], dim=1)
    corner = ((extent - sizes_drawn + 1) * place).floor()
    boxes = torch.cat([corner, corner + sizes_drawn], dim=1).int().tolist()
    good = fits.any(dim=1).tolist()
    return [
        Crop(tuple(boxes[i]) if good[i] else _central(sizes[i], augment.ratio), mirror)
        for i, mirror in enumerate(mirrored.tolist())
    ]


def _central(size: tuple[int, int], ratio: tuple[float, float]) -> tuple[int, int, int, int]:
    width, height = size
    if width / height < ratio[0]:
        height = round(width / ratio[0])
    elif width / height > ratio[1]:
        width = round(height * ratio[1])
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return left, top, left + width, top + height


def mirror(pixels: Tensor, crops: list[Crop]) -> Tensor:
    """Flip the rows (b, 3, h, w) whose crop is mirrored."""
    chosen = torch.tensor([crop.mirrored for crop in crops])
    return torch.where(chosen[:, None, None, None], pixels.flip(-1), pixels)


class Cutter:
    """Crops of batches, cut one batch ahead where nobody draws from the generator in between."""

    def __init__(
        self, size: tuple[int, int], augment: Augment, rng: torch.Generator, threads: int
    ) -> None:
        self._height, self._width = size
        self._augment = augment
        self._rng = rng
        self._threads = threads
        self._begun: tuple[Tensor, Tensor, Future[Tensor]] | None = None

    def cut(self, images: Sequence[Image.Image]) -> Tensor:
        """uint8 (b, 3, h, w): crops of the images as the generator draws them now."""
        begun, self._begun = self._begun, None
        if begun is not None:
            before, after, pixels = begun
            if torch.equal(self._rng.get_state(), before):
                self._rng.set_state(after)
                return pixels.result()
        return self._cut(images, self._draw(images, self._rng))

    def begin(self, images: Sequence[Image.Image]) -> None:
        """Cut the next batch as the generator would draw it if it stays as it is."""
        before, twin = self._rng.get_state(), torch.Generator()
        twin.set_state(before)
        crops = self._draw(images, twin)
        future = in_background(lambda: self._cut(images, crops))
        self._begun = before, twin.get_state(), future

    def _draw(self, images: Sequence[Image.Image], rng: torch.Generator) -> list[Crop]:
        return draw_crops([image.size for image in images], self._augment, rng)

    def _cut(self, images: Sequence[Image.Image], crops: list[Crop]) -> Tensor:
        pairs = list(zip(images, crops, strict=True))
        return mirror(torch.stack(spread(self._cropped, pairs, self._threads, 4)), crops)

    def _cropped(self, pair: tuple[Image.Image, Crop]) -> Tensor:
        image, crop = pair
        part = image.crop(crop.box).resize((self._width, self._height), BICUBIC)
        return torch.from_numpy(pixels_of(part))


def pixels_of(image: Image.Image) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """RGB pixels as (3, h, w)."""
    return np.array(image).transpose(2, 0, 1)
