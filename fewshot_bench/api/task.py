"""A cell as a method sees it: support set, class names, templates. It holds no test set."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, Protocol, overload, runtime_checkable

from fewshot_bench.api.items import Item, digest_of
from fewshot_bench.api.shots import ALL_SHOTS, per_class
from fewshot_bench.utils.mistyped import number_range, probability

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Split:
    """Support, validation and test items of one cell; the same for every method."""

    dataset: str
    revision: str
    protocol: str
    shots: int
    seed: int
    train: Sequence[Item]
    val: Sequence[Item]
    test: Sequence[Item]

    @cached_property
    def digest(self) -> str:
        """That of the three lists, by `items.digest_of`."""
        return digest_of((("train", self.train), ("val", self.val), ("test", self.test)))


@dataclass(frozen=True, slots=True)
class Augment:
    """Random resized crop and horizontal flip, as every method of the field trains with.

    `scale` is the range of the crop's share of the image area, `ratio` of its aspect ratio;
    the crop is resized bicubically to the backbone's input size. `flip` is the probability of a
    mirror image. Defaults are CoOp's and CLIP-LoRA's (scale 0.08 to 1); Tip-Adapter uses scale 0.5
    to 1. ContractError for other values.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5

    def __post_init__(self) -> None:
        """ContractError for values that no crop can have."""
        object.__setattr__(self, "scale", number_range("Augment.scale", self.scale, 1))
        object.__setattr__(self, "ratio", number_range("Augment.ratio", self.ratio, math.inf))
        object.__setattr__(self, "flip", probability("Augment.flip", self.flip))


@runtime_checkable
class Images(Protocol):
    """Lazy, batched view of unlabeled images, preprocessed for the backbone of the run."""

    def __len__(self) -> int:
        """The number of images."""
        ...

    def batches(
        self,
        size: int,
        *,
        order: Tensor | None = None,
        augment: Augment | None = None,
        rng: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> Iterator[Tensor]:
        """Pixels (b, 3, h, w), normalized for the backbone, in batches of at most `size`.

        `order` (m,) holds indices to visit (default: all, in order; repeats are allowed).
        With `augment`, `rng` gives one number per pass (the first, second ... time that an image
        stands in `order`); the crop of an image follows from that number and the image alone.
        Methods that use `ctx.rng("augment")` see the same crops in the same pass, whatever their
        batches and their order.
        """
        ...

    @property
    def features(self) -> Tensor:
        """(n, width) unit-length features from the frozen backbone; encoded once and billed."""
        ...

    @property
    def raw_features(self) -> Tensor:
        """(n, width) the same features before normalization."""
        ...

    @property
    def unprojected(self) -> Tensor:
        """(n, tower's width) rows of the frozen image tower before its projection; encoded once."""
        ...

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
        """(count, n, width) frozen features of `count` augmented views of every image.

        With `normalize` at unit length. Not `projected`: rows as those of `unprojected`.

        With `rng` they are drawn: it gives one number per pass, as for `batches`. Without, they
        are the image's own views from number `start` on, which follow from its bytes, the seed of
        training and the number: the same for all methods and shots, each encoded once for them.
        Either way they are billed at their cost.
        """
        ...


@runtime_checkable
class Shots(Images, Protocol):
    """Images with labels: the support set, or the validation set."""

    @overload
    def batches(
        self,
        size: int,
        *,
        labels: Literal[False] = False,
        order: Tensor | None = None,
        augment: Augment | None = None,
        rng: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> Iterator[Tensor]: ...

    @overload
    def batches(
        self,
        size: int,
        *,
        labels: Literal[True],
        order: Tensor | None = None,
        augment: Augment | None = None,
        rng: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """As `Images.batches`; with `labels=True` each batch is (pixels, labels).

        Labels (b,) are those of the images in the batch, whatever their order, on the device of
        the pixels.
        """
        ...

    @property
    def labels(self) -> Tensor:
        """(n,) int64 class indices into `Task.classnames`."""
        ...


@dataclass(frozen=True)
class Vocabulary:
    """The classes of a question: their names (index = label) and the prompt templates."""

    classnames: tuple[str, ...]
    templates: tuple[str, ...]

    def prompts(self, template: str) -> list[str]:
        """One prompt per class; an underscore in a class name is written as a blank."""
        return [template.replace("{}", name.replace("_", " ")) for name in self.classnames]


@dataclass(frozen=True)
class Task(Vocabulary):
    """All that a method ever sees.

    `val` is None when the run's validation policy is `none`, or when no image is left for it.
    `asked` is the number of shots that was asked for, where there is one: classes may have fewer.
    """

    train: Shots
    val: Shots | None = None
    asked: int = ALL_SHOTS

    @property
    def shots(self) -> int:
        """Images per class as schedules count them, never below 1.

        The shots asked for, as in the official codes, also where a class has fewer images. For all
        shots the mean size of a class, so that every image is seen as often as in a task of so many
        shots.
        """
        return max(1, per_class(self.asked, len(self.train), len(self.classnames)))
