"""Random resized crops and flips, drawn from a generator that is passed in."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fewshot_bench.task import Augment

ATTEMPTS = 10


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
