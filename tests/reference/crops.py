"""Crops as cut before batches were preallocated: crop, resize, stack, then mirror."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fewshot_bench.images.augment import Crop


def stack_crops(
    images: Sequence[Image.Image], crops: Sequence[Crop], size: tuple[int, int]
) -> Tensor:
    """uint8 (b, 3, h, w): a crop of every image, resized by Pillow; size is (h, w)."""
    parts = [
        image.crop(crop.box).resize(size[::-1], Image.Resampling.BICUBIC)
        for image, crop in zip(images, crops, strict=True)
    ]
    pixels = torch.stack([torch.from_numpy(np.array(part).transpose(2, 0, 1)) for part in parts])
    mirrored = torch.tensor([crop.mirrored for crop in crops])
    return torch.where(mirrored[:, None, None, None], pixels.flip(-1), pixels)
