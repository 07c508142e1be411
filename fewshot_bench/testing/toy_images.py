"""Colored images in memory: a toy data set, and the image views that the kit passes to a method."""

from __future__ import annotations

import io
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from fewshot_bench.api.dataset import DatasetCard
from fewshot_bench.api.items import Item
from fewshot_bench.images.features import drop_view
from fewshot_bench.utils.rng import generator

SIZE = 16
CLASSNAMES = ("red", "green", "dark_blue", "yellow")
COLORS = ((200, 40, 40), (40, 180, 60), (30, 40, 140), (220, 210, 50))
TEMPLATES = ("a photo of a {}.", "a picture of something {}.")
_NOISE = 40.0


def draw(count: int, stream: str) -> tuple[Tensor, Tensor]:
    """`count` noisy images per class, class by class: uint8 pixels (n, 3, h, w) and labels (n,)."""
    rng = generator(0, "toy-images", stream)
    labels = torch.arange(len(COLORS)).repeat_interleave(count)
    base = torch.tensor(COLORS, dtype=torch.float32)[labels][:, :, None, None]
    light = 1 + 0.2 * torch.randn(len(labels), 1, 1, 1, generator=rng)
    coarse = torch.randn(len(labels), 3, 4, 4, generator=rng).repeat_interleave(4, 2)
    pixels = base * light + _NOISE * coarse.repeat_interleave(4, 3)
    return pixels.clamp(0, 255).to(torch.uint8), labels


@dataclass(frozen=True)
class ToyDataset:
    """PNG files in memory by item id."""

    files: Mapping[str, bytes]

    def card(self) -> DatasetCard:
        """The classes of the toy task."""
        return DatasetCard("toy", "Colored squares", CLASSNAMES, TEMPLATES, license="CC0-1.0")

    def items(self) -> Mapping[str, tuple[Item, ...]]:
        """Empty pools: the kit gets its items from `dataset_of`."""
        return {"train": (), "val": (), "test": ()}

    def read(self, item: Item) -> bytes:
        """The PNG file of one item."""
        return self.files[item.id]


def dataset_of(pixels: Tensor, labels: Sequence[int]) -> tuple[ToyDataset, tuple[Item, ...]]:
    """An in-memory data set of the images, and its items with the given labels."""
    files = {f"{index:04d}": _png(image) for index, image in enumerate(pixels)}
    items = tuple(Item(name, label, "") for name, label in zip(files, labels, strict=True))
    return ToyDataset(files), items


def _png(pixels: Tensor) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()).save(buffer, "PNG")
    return buffer.getvalue()


class _Use:
    """Shared by all copies of a view's watcher; when it goes, nothing uses the view any more."""

    def __deepcopy__(self, memo: object) -> _Use:
        return self


def _pass_on(name: str) -> Any:
    return property(lambda watched: getattr(watched._view, name))


class WatchedImages:
    """The contract of `Images` and nothing else; records accesses to other attributes."""

    def __init__(self, view: Any) -> None:
        self._view = view
        self._asked: list[str] = []
        self._use = _Use()
        weakref.finalize(self._use, drop_view, view)

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_"):
            self._asked.append(name)
        raise AttributeError(f"images have no '{name}'; see fewshot_bench.Images")

    def __len__(self) -> int:
        return len(self._view)

    batches = _pass_on("batches")
    features = _pass_on("features")
    raw_features = _pass_on("raw_features")
    unprojected = _pass_on("unprojected")
    views = _pass_on("views")


class WatchedShots(WatchedImages):
    """The contract of `Shots` and nothing else."""

    labels = _pass_on("labels")


def asked(*images: WatchedImages | None) -> list[str]:
    """Names of accessed attributes outside the contract."""
    return sorted({name for view in images if view is not None for name in view._asked})
