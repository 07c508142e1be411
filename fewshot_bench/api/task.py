"""`Task`: a cell as a method sees it, with support set, class names and templates, no test set."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol, overload, runtime_checkable

from fewshot_bench.api.items import Item, digest_of
from fewshot_bench.api.spec import ALL_SHOTS, POOLING, per_class
from fewshot_bench.utils.errors import ContractError, number_range, one_of, probability

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Split:
    """Support, validation and test items of one cell; the same for every method.

    >>> len(split.train), split.digest
    """

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
        """Digest of the three lists, from `items.digest_of`."""
        return digest_of((("train", self.train), ("val", self.val), ("test", self.test)))


@dataclass(frozen=True, slots=True)
class Augment:
    """Random resized crop and horizontal flip, the standard training augmentation of the field.

    `scale` is the range of the crop's share of the image area, `ratio` the range of its aspect
    ratio; the crop is resized to the backbone's input size by `interpolation`. `flip` is the
    probability of a mirror image. With `augmix`, the crop is then blended with altered copies of
    itself (AugMix at severity 1). Defaults are those of CoOp and CLIP-LoRA (scale 0.08 to 1);
    Tip-Adapter uses scale 0.5 to 1, views at test time are bilinear. ContractError for invalid
    values.

    >>> views = task.train.views(10, Augment(flip=0.0))
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    augmix: bool = False

    def __post_init__(self) -> None:
        """ContractError for values that no crop can have."""
        object.__setattr__(self, "scale", number_range("Augment.scale", self.scale, 1))
        object.__setattr__(self, "ratio", number_range("Augment.ratio", self.ratio, math.inf))
        object.__setattr__(self, "flip", probability("Augment.flip", self.flip))
        one_of("Augment.interpolation", self.interpolation, ("bicubic", "bilinear"))
        if not isinstance(self.augmix, bool):
            raise ContractError(f"Augment.augmix is {self.augmix!r:.80}, expected True or False")


@runtime_checkable
class Images(Protocol):
    """Lazy, batched view of unlabeled images, preprocessed for the backbone of the run.

    >>> queries.features.shape  # (images, embed)
    """

    def __len__(self) -> int:
        """The number of images."""

    def batches(
        self,
        size: int,
        *,
        order: Tensor | Iterator[Tensor] | None = None,
        augment: Augment | None = None,
        rng: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> Iterator[Tensor]:
        """Pixels (b, 3, h, w), normalized for the backbone, in batches of at most `size`.

        `order` (m,) holds the indices to visit (default: all, in order; repeats are allowed). An
        iterator of such orders gives what calls with one after the other would give, without a
        pause between them; each is taken, and its numbers are drawn, when its batches are near.
        With `augment`, one number per pass is drawn from `rng` (pass k is the k-th occurrence of
        an image in `order`); the crop of an image depends only on that number and the image.
        Methods that use `ctx.rng("augment")` see the same crops in the same pass, independent of
        batches and order.
        """

    @property
    def features(self) -> Tensor:
        """(n, width) unit-length features of the frozen backbone; encoded once and billed."""

    @property
    def raw_features(self) -> Tensor:
        """(n, width) the same features before normalization."""

    @property
    def unprojected(self) -> Tensor:
        """(n, tower width) rows of the frozen image tower before its projection; encoded once."""

    @property
    def scores(self) -> Tensor:
        """(n, classes) logits of the method that the option `on` names, of the same queries.

        It is fitted on the same task and billed; ContractError for a method on top of none.
        """

    def views(
        self,
        count: int,
        augment: Augment,
        rng: torch.Generator | None = None,
        *,
        order: Tensor | None = None,
        normalize: bool = True,
        projected: bool = True,
        start: int = 0,
    ) -> Tensor:
        """(count, n, width) frozen features of `count` augmented views of every image.

        `order` (m,) holds the indices of the images whose views are wanted: (count, m, width). So
        many queries can be viewed in blocks, with the same bits and bill as at once. With
        `normalize`, features have unit length. With `projected=False`, rows are as in
        `unprojected`, never normalized.

        With `rng`, views are drawn: one number per pass and call, as for `batches`; for the same
        views in blocks, give each call a generator in the same state. Without, they are the
        image's own views from number `start` on. An own view depends on the image's bytes, the
        training seed and the number, so all methods and shots share it and it is encoded once.
        Views are billed at their cost in both cases.
        """

    def rng(self, name: str) -> torch.Generator:
        """A new CPU generator for a named random stream of this cell, for use in prediction.

        The same name gives the same stream in every call of `logits`.
        """

    def progress(self, done: int, total: int) -> None:
        """Report the progress of `logits` or `answer`; may be called as often as convenient."""


@runtime_checkable
class Shots(Images, Protocol):
    """Images with labels: the support set, or the validation set.

    >>> task.train.labels.bincount()  # images of each class
    """

    @overload
    def batches(
        self,
        size: int,
        *,
        labels: Literal[False] = False,
        order: Tensor | Iterator[Tensor] | None = None,
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
        order: Tensor | Iterator[Tensor] | None = None,
        augment: Augment | None = None,
        rng: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """As `Images.batches`; with `labels=True` each batch is (pixels, labels).

        Labels (b,) match the images of the batch in any order and are on the device of the pixels.
        """

    @property
    def labels(self) -> Tensor:
        """(n,) int64 class indices into `Task.classnames`."""


class WatchedTexts(tuple[tuple[str, ...], ...]):
    """Texts of classes that note whether somebody reads them."""

    read = False

    def __iter__(self) -> Iterator[tuple[str, ...]]:
        """The texts of each class."""
        self.read = True
        return super().__iter__()

    def __getitem__(self, index: Any) -> Any:
        """The texts of a class, or of several."""
        self.read = True
        return super().__getitem__(index)


@dataclass(frozen=True)
class Vocabulary:
    """The label space: class names (index = label), and what describes the classes.

    texts: the texts of each class, in the order of `classnames`, in place of the prompts of
    `templates` (`--texts`); empty in a run with prompts. pooling: how they become a class's score:
    by their mean at unit length (`unit-mean`), by their mean, which makes scattered texts score
    lower (`mean`), or by the text that is closest to the image (`max`).

    >>> Vocabulary(("cat",), ("a photo of a {}.",)).prompts("a photo of a {}.")
    """

    classnames: tuple[str, ...]
    templates: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...] = field(default=(), kw_only=True)
    pooling: str = field(default=POOLING[0], kw_only=True)

    def prompts(self, template: str) -> list[str]:
        """One prompt per class; underscores in class names become blanks.

        ContractError in a run with `--texts`, whose classes no template describes.
        """
        if self.texts:
            raise ContractError(
                "prompts were asked for in a run with --texts: expected class features "
                "(backbone.class_features) or texts; or give the method a reason in the class "
                "attribute cannot_take_texts"
            )
        return [template.replace("{}", name.replace("_", " ")) for name in self.classnames]


@dataclass(frozen=True)
class Task(Vocabulary):
    """All data that a method ever sees.

    `val` is None if the run's validation policy is `none`, or if no image is left for it. `asked`
    is the requested number of shots, or `ALL_SHOTS`; classes may have fewer.

    >>> task.classnames[int(task.train.labels[0])]
    """

    train: Shots
    val: Shots | None = None
    asked: int = ALL_SHOTS

    @property
    def shots(self) -> int:
        """Images per class as schedules count them, never below 1.

        This is the requested number, even if a class has fewer images, as in the official codes.
        For all shots it is the mean class size, so that every image is seen as often as in a task
        with that many shots.
        """
        return max(1, per_class(self.asked, len(self.train), len(self.classnames)))
