"""The images of a new data set: colored circles on gray clouds, as JPEG files in folders."""

from __future__ import annotations

import io
import random
from collections.abc import Mapping

COLORS = {"blue": (40, 70, 210), "green": (40, 170, 60), "red": (210, 40, 40)}
COUNTS = {"train": 16, "val": 4, "test": 10}
SIZE, CLOUDS = 64, 6


def sample_images() -> Mapping[str, bytes]:
    """Image files by path, `POOL/CLASS/FILE`: the same pictures in every package."""
    return {
        path: _draw(path, color)
        for pool, count in COUNTS.items()
        for name, color in COLORS.items()
        for path in (f"{pool}/{name}/{number:02}.jpg" for number in range(count))
    }


def _draw(path: str, color: tuple[int, int, int]) -> bytes:
    """A circle whose place, size and background follow from the path."""
    from PIL import Image, ImageDraw

    draw = random.Random(path)
    clouds = Image.frombytes("L", (CLOUDS, CLOUDS), draw.randbytes(CLOUDS**2))
    image = clouds.resize((SIZE, SIZE), Image.Resampling.BICUBIC).convert("RGB")
    x, y, size = draw.randint(2, 28), draw.randint(2, 28), draw.randint(16, 32)
    ImageDraw.Draw(image).ellipse((x, y, x + size, y + size), color)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return file.getvalue()
