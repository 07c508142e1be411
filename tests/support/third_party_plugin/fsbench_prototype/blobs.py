"""Colored blobs on gray, drawn when they are read."""

import io
import random
from collections.abc import Mapping

from PIL import Image, ImageDraw

from fewshot_bench import DatasetCard, Item

COLORS = {
    "red": (210, 40, 40),
    "green": (40, 170, 60),
    "blue": (40, 70, 210),
    "yellow": (230, 210, 50),
}
COUNTS = {"train": 8, "val": 4, "test": 10}


class Blobs:
    """Four colors; the random stream of an image is its name."""

    def card(self) -> DatasetCard:
        """The card of the data set."""
        return DatasetCard(
            name="blobs",
            title="Colored blobs",
            classnames=tuple(COLORS),
            custom_templates=("a photo of a {} circle.",),
            license="CC0-1.0",
            revision="1",
        )

    def items(self) -> Mapping[str, tuple[Item, ...]]:
        """The pools, class by class."""
        return {role: tuple(_pool(role, count)) for role, count in COUNTS.items()}

    def read(self, item: Item) -> bytes:
        """A PNG of 32 x 32 pixels."""
        draw, color = random.Random(item.id), item.id.split("/")[1].split("-")[0]
        image = Image.new("RGB", (32, 32), (draw.randint(90, 160),) * 3)
        x, y, size = draw.randint(2, 10), draw.randint(2, 10), draw.randint(10, 19)
        ImageDraw.Draw(image).ellipse((x, y, x + size, y + size), COLORS[color])
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return buffer.getvalue()


def _pool(role: str, count: int) -> list[Item]:
    return [
        Item(f"{role}/{name}-{index}.png", label, name)
        for label, name in enumerate(COLORS)
        for index in range(count)
    ]
