"""Random resized crops and flips: an image's crop depends on its pass, not on its batch."""

from __future__ import annotations

import functools
import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fewshot_bench.api.task import Augment
from fewshot_bench.images.augmix import NUMBERS as MIXING
from fewshot_bench.images.augmix import Pixels, mix
from fewshot_bench.utils.prefetch import spread

ATTEMPTS = 10
NUMBERS = 2 * ATTEMPTS + 3
RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
# Crops that a thread cuts in one go.
AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Crop:
    """A box (left, top, right, bottom) in pixels of the source image, and what becomes of it.

    mixing: `augmix.NUMBERS` in [0, 1) if the crop is blended with altered copies, else none.
    """

    box: tuple[int, int, int, int]
    mirrored: bool
    interpolation: str = "bicubic"
    mixing: Sequence[float] = ()


def draw_passes(count: int, rng: torch.Generator) -> tuple[int, ...]:
    """The seeds of the next `count` passes over a set of images: one number of `rng` each."""
    return tuple(int(torch.randint(2**62, (1,), generator=rng)) for _ in range(count))


def passes_of(order: Sequence[int]) -> list[int]:
    """The pass of each element of `order`: how often the same image occurs before it."""
    seen: Counter[int] = Counter()
    passes = []
    for index in order:
        passes.append(seen[index])
        seen[index] += 1
    return passes


class Uniforms:
    """Numbers in [0, 1) for the crop of each image in each pass.

    The numbers depend only on the seed of the pass and the image's index in its source: methods
    that take equally many passes from one named stream see the same crops, whatever their batch
    sizes and orders.
    """

    def __init__(self, images: int, passes: Sequence[int]) -> None:
        self._images = images
        self._passes = passes

    def of(self, indices: Sequence[int], passes: Sequence[int]) -> Tensor:
        """(b, NUMBERS) float64 for images `indices` in these passes."""
        rows = torch.empty(len(indices), NUMBERS, dtype=torch.float64)
        places: dict[int, list[int]] = {}
        for place, number in enumerate(passes):
            places.setdefault(number, []).append(place)
        for number, chosen in places.items():
            rows[chosen] = self._table(number)[[indices[place] for place in chosen]]
        return rows

    @functools.lru_cache(maxsize=4)  # noqa: B019 (lives as long as one pass over the images)
    def _table(self, number: int) -> Tensor:
        stream = torch.Generator().manual_seed(self._passes[number])
        return torch.rand(self._images, NUMBERS, generator=stream, dtype=torch.float64)


def view_key(digest: bytes, seed: int, number: int) -> bytes:
    """Key of an image's own view, from which its crop follows.

    Each seed has its own views: with shared views, seeds would appear too similar.
    """
    return hashlib.sha256(digest + f"{seed} {number}".encode()).digest()


def uniforms_of(keys: Sequence[bytes], count: int = NUMBERS) -> Tensor:
    """(b, count) float64 in [0, 1): one row per key, which depends on the key alone."""
    stream = torch.Generator()
    rows = torch.empty(len(keys), count, dtype=torch.float64)
    for row, key in zip(rows, keys, strict=True):
        stream.manual_seed(int.from_bytes(key[:8], "little") & (2**63 - 1))
        row.uniform_(generator=stream)
    return rows


def mixing_numbers(uniforms: Tensor) -> Tensor:
    """(b, MIXING) in [0, 1): what views draw beyond the numbers (b, n) of their crops."""
    return uniforms_of([hashlib.sha256(row.numpy().tobytes()).digest() for row in uniforms], MIXING)


def draw_crops(sizes: list[tuple[int, int]], augment: Augment, uniforms: Tensor) -> list[Crop]:
    """One crop per (width, height), distributed as torchvision's RandomResizedCrop and flip.

    Area share uniform in `augment.scale`, log of the aspect ratio uniform; up to ten attempts to
    fit, then the largest central crop within the ratio's bounds. `uniforms` (n, NUMBERS) in [0, 1).
    """
    share, aspect = uniforms[:, :ATTEMPTS], uniforms[:, ATTEMPTS : 2 * ATTEMPTS]
    corner_share, mirrored = uniforms[:, -3:-1], uniforms[:, -1] < augment.flip
    extent = torch.tensor(sizes, dtype=torch.float64)
    low, high = augment.scale
    area = extent.prod(dim=1, keepdim=True) * (low + (high - low) * share)
    first, last = (math.log(bound) for bound in augment.ratio)
    ratio = torch.exp(first + (last - first) * aspect)
    width, height = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    fits = (width > 0) & (width <= extent[:, :1]) & (height > 0) & (height <= extent[:, 1:])
    choice = fits.int().argmax(dim=1, keepdim=True)
    sizes_drawn = torch.cat([width.gather(1, choice), height.gather(1, choice)], dim=1)
    corner = ((extent - sizes_drawn + 1) * corner_share).floor()
    boxes = torch.cat([corner, corner + sizes_drawn], dim=1).int().tolist()
    good = fits.any(dim=1).tolist()
    mixing = mixing_numbers(uniforms).tolist() if augment.augmix else [()] * len(boxes)
    return [
        Crop(
            tuple(boxes[i]) if good[i] else _central(sizes[i], augment.ratio),
            mirror,
            augment.interpolation,
            mixing[i],
        )
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


def cut(images: Sequence[Image.Image], crops: Sequence[Crop], into: Pixels, threads: int) -> None:
    """Write a crop of every image into the rows of `into` (b, 3, h, w), resized and altered."""
    size = into.shape[3], into.shape[2]

    def write(row: int) -> None:
        crop = crops[row]
        resized = images[row].crop(crop.box).resize(size, RESAMPLING[crop.interpolation])
        part = np.asarray(resized)[:, ::-1] if crop.mirrored else np.asarray(resized)
        into[row] = (mix(part, crop.mixing) if crop.mixing else part).transpose(2, 0, 1)

    spread(write, range(len(crops)), threads, AT_ONCE)


def pixels_of(image: Image.Image) -> Pixels:
    """RGB pixels as (3, h, w)."""
    return np.array(image).transpose(2, 0, 1)
