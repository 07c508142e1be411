"""Draw images, and make near copies of them."""

from __future__ import annotations

import numpy as np
from PIL import Image


def picture(seed: int, size: tuple[int, int] = (240, 200)) -> Image.Image:
    """A smooth picture with structure at several scales, unlike any other seed's."""
    rng = np.random.default_rng(seed)
    canvas = np.zeros((size[1], size[0], 3))
    for cells in (3, 6, 12, 24):
        coarse = Image.fromarray(rng.integers(0, 255, (cells, cells, 3), dtype=np.uint8))
        canvas += np.asarray(coarse.resize(size, Image.Resampling.BICUBIC)) / 4
    return Image.fromarray(canvas.astype(np.uint8))


def center(image: Image.Image, width: float, height: float) -> Image.Image:
    """Crop the center of a picture with these shares of its width and height."""
    across, down = (1 - width) / 2 * image.width, (1 - height) / 2 * image.height
    return image.crop(
        (
            round(across),
            round(down),
            *(round(v) for v in (image.width - across, image.height - down)),
        )
    )
