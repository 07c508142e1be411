"""Small pictures of images, for pages and kept models."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from fewshot_bench.images.decode import open_image, upright


def shrink(data: bytes, side: int = 96, quality: int = 80) -> bytes:
    """A JPEG file of an image, upright, with no side longer than `side`; any error without one.

    It is re-encoded from pixels, without the metadata of the file (places, cameras, names).
    """
    image = open_image(data)
    # Only JPEG files are read at a part of their size.
    image.draft(None, (2 * side, 2 * side))
    picture = upright(image).convert("RGB")
    picture.thumbnail((side, side), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    Image.fromarray(np.asarray(picture)).save(file, "JPEG", quality=quality)
    return file.getvalue()
