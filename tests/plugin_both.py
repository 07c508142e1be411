"""A plug-in that brings a method and a data set."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from PIL import Image
from torch import Tensor

from fewshot_bench import (
    Backbone,
    DatasetCard,
    Images,
    Item,
    RunContext,
    Task,
    hookimpl,
)

NAMES = ("dark", "light")


class Shades:
    """Dark and light squares, with the class in the item id."""

    def card(self) -> DatasetCard:
        """A card with two classes."""
        return DatasetCard("bothdata", "Shades", NAMES, revision="1")

    def items(self) -> Mapping[str, tuple[Item, ...]]:
        """Four train, two val and four test images per class."""
        return {
            role: tuple(
                Item(f"{role}/{name}/{number}", label, name)
                for label, name in enumerate(NAMES)
                for number in range(count)
            )
            for role, count in (("train", 4), ("val", 2), ("test", 4))
        }

    def read(self, item: Item) -> bytes:
        """A noisy square."""
        rng = np.random.default_rng(sum(item.id.encode()))
        pixels = 128 * item.label + rng.integers(0, 100, (32, 32, 3))
        file = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
        return file.getvalue()


@dataclass(frozen=True)
class Both:
    """Zero-shot."""

    name: ClassVar[str] = "both"

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Answers:
        """Learn nothing."""
        return Answers(backbone.class_features(task))


@dataclass(frozen=True)
class Answers:
    """The classifier."""

    weights: Tensor

    def logits(self, queries: Images) -> Tensor:
        """(n, classes)"""
        return 100 * queries.features @ self.weights.T

    def tensors(self) -> Mapping[str, Tensor]:
        """Nothing that must be kept."""
        return {}


@hookimpl
def register_methods(register: Callable[..., None]) -> None:
    """Register the method."""
    register("both", "fsbench_both:Both")


@hookimpl
def register_datasets(register: Callable[..., None]) -> None:
    """Register the data set."""
    register("bothdata", "fsbench_both:Shades")
