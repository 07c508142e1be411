"""A folder of images that logs reads, and its pixels as loaded by a fresh process."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from open_clip.transform import image_transform
from PIL import Image
from torch import Tensor

from fewshot_bench import DatasetCard, Item
from fewshot_bench.api.sources import Stamp, file_stamp
from fewshot_bench.backbones.embedded import load_tiny
from fewshot_bench.images.loader import ImageSource
from fewshot_bench.profiling.meter import ImageCost
from tests.support.helpers import save_image

COUNT = 12


tiny = functools.cache(load_tiny)


@dataclass
class Photos:
    """The images of a folder; logs the ids of images read."""

    root: Path
    reads: list[str] = field(default_factory=list)

    def card(self) -> DatasetCard:
        """A card with one class."""
        return DatasetCard("photos", "Photos", ("cat",), folder=str(self.root))

    def items(self) -> Mapping[str, tuple[Item, ...]]:
        """All images as test images."""
        names = sorted(path.name for path in self.root.iterdir())
        return {"train": (), "val": (), "test": tuple(Item(name, 0, "cat") for name in names)}

    def read(self, item: Item) -> bytes:
        """Log and read one file."""
        self.reads.append(item.id)
        return (self.root / item.id).read_bytes()

    def stamp(self, item: Item) -> Stamp | None:
        """The stamp of one file."""
        return file_stamp(self.root / item.id)


def make_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write images whose stamps count as settled at once; set a cache of the test's own."""
    monkeypatch.setenv("FSBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("fewshot_bench.images.digests.RACY_SECONDS", 0.0)
    for index in range(COUNT):
        save_image(tmp_path / "photos" / f"{index:02}.png", index, (50 + index, 40))
    return tmp_path / "photos"


def evaluated(
    folder: Path, backbone: Any = None, order: Sequence[int] | None = None
) -> tuple[Tensor, list[str], ImageCost]:
    """Pixels of the folder as in a fresh process, the ids read, and the image costs."""
    photos, tally = Photos(folder), ImageCost()
    items = photos.items()["test"]
    source = ImageSource.of(photos, items, backbone or tiny(), depth=2)
    order = range(len(items)) if order is None else order
    pixels = torch.cat(list(source.batches(5, order, tally=tally)))
    return pixels, photos.reads, tally


def segments(folder: Path) -> list[Path]:
    """The cache files of decoded images."""
    return sorted((folder.parent / "cache").rglob("*.pixels"))


def published(folder: Path) -> Tensor:
    """Pixels as preprocessed by open_clip."""
    half = (0.5, 0.5, 0.5)
    transform = image_transform(32, is_train=False, mean=half, std=half)
    return torch.stack([transform(Image.open(path)) for path in sorted(folder.iterdir())])
