"""Colored images in memory: a toy data set, and the image views that the kit passes to a method."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from fewshot_bench.api.dataset import DatasetCard
from fewshot_bench.api.items import Item
from fewshot_bench.api.task import Augment, Shots
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


class WatchedImages:
    """The contract of `Images` and nothing else; records accesses to other attributes."""

    def __init__(self, view: Any) -> None:
        self._view: Shots = view
        self._asked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_"):
            self._asked.append(name)
        raise AttributeError(f"images have no '{name}'; see fewshot_bench.Images")

    def __len__(self) -> int:
        return len(self._view)

    def batches(
        self,
        size: int,
        *,
        order: Tensor | None = None,
        augment: Augment | None = None,
        rng: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> Iterator[Tensor]:
        """See `fewshot_bench.Images.batches`."""
        yield from self._view.batches(size, order=order, augment=augment, rng=rng, device=device)

    @property
    def features(self) -> Tensor:
        """See `fewshot_bench.Images.features`."""
        return self._view.features

    @property
    def raw_features(self) -> Tensor:
        """See `fewshot_bench.Images.raw_features`."""
        return self._view.raw_features

    @property
    def unprojected(self) -> Tensor:
        """See `fewshot_bench.Images.unprojected`."""
        return self._view.unprojected

    def views(
        self,
        count: int,
        augment: Augment,
        rng: torch.Generator | None = None,
        *,
        normalize: bool = True,
        projected: bool = True,
        start: int = 0,
    ) -> Tensor:
        """See `fewshot_bench.Images.views`."""
        return self._view.views(
            count, augment, rng, normalize=normalize, projected=projected, start=start
        )


class WatchedShots(WatchedImages):
    """The contract of `Shots` and nothing else."""

    def batches(self, size: int, *, labels: bool = False, **passed: Any) -> Iterator[Any]:
        """See `fewshot_bench.Shots.batches`."""
        yield from self._view.batches(size, labels=labels, **passed)  # type: ignore[call-overload]

    @property
    def labels(self) -> Tensor:
        """See `fewshot_bench.Shots.labels`."""
        return self._view.labels


def asked(*images: WatchedImages | None) -> list[str]:
    """Names of accessed attributes outside the contract."""
    return sorted({name for view in images if view is not None for name in view._asked})
