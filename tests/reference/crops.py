"""Crops as cut before batches were preallocated: crop and resize, then stack, then mirror."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fewshot_bench.images.augment import Crop


def cut_parts(
    images: Sequence[Image.Image], crops: Sequence[Crop], size: tuple[int, int]
) -> list[Tensor]:
    """A crop (3, h, w) of every image, resized by Pillow to `size` (h, w)."""
    parts = [
        image.crop(crop.box).resize(size[::-1], Image.Resampling[crop.interpolation.upper()])
        for image, crop in zip(images, crops, strict=True)
    ]
    return [torch.from_numpy(np.array(part).transpose(2, 0, 1)) for part in parts]


def stack_and_mirror(parts: Sequence[Tensor], crops: Sequence[Crop]) -> Tensor:
    """uint8 (b, 3, h, w) with the rows flipped whose crop is mirrored."""
    pixels = torch.stack(list(parts))
    mirrored = torch.tensor([crop.mirrored for crop in crops])
    return torch.where(mirrored[:, None, None, None], pixels.flip(-1), pixels)


def stack_crops(
    images: Sequence[Image.Image], crops: Sequence[Crop], size: tuple[int, int]
) -> Tensor:
    """uint8 (b, 3, h, w): a crop of every image."""
    return stack_and_mirror(cut_parts(images, crops, size), crops)
