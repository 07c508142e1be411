"""A small random CLIP and images in memory, for comparing a method with its reference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from open_clip import CLIP
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transform import PreprocessCfg, image_transform_v2
from torch import Tensor

from fewshot_bench import Augment, Task
from fewshot_bench.backbones.open_clip import OpenClipBackbone
from fewshot_bench.runner.fit import Context
from fewshot_bench.utils.rng import generator, isolate

CPU = torch.device("cpu")
SIZE = 16
CLASSNAMES = (
    "cat",
    "cat_tree",
    "St. Bernard",
    "a 1998 Ferrari 458-GT (red), open top & two doors",
    "supercalifragilisticexpialidocious",
    "U.S.",
)
"""Names of one to some twenty tokens, a prefix of another, digits and punctuation."""


def context() -> Context:
    """Context of a fit with seed 3 on the CPU."""
    return Context(3, CPU)


def random_clip(
    width: int = 32,
    layers: int = 2,
    quick_gelu: bool = False,
    vision: Mapping[str, Any] | None = None,
) -> CLIP:
    """An untrained CLIP; every parameter is random, biases and norms included.

    vision: configuration of an image encoder other than the default transformer.
    """
    vit = {"image_size": SIZE, "patch_size": 8, "width": width, "head_width": 16, "layers": layers}
    with isolate(0):
        module = CLIP(
            embed_dim=24,
            vision_cfg=dict(vision or vit),
            text_cfg={"width": width, "heads": 2, "layers": layers},
            quick_gelu=quick_gelu,
        )
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.ndim:
                    parameter.add_(0.05 * torch.randn_like(parameter))
    return module.eval()


def random_backbone(precision: str = "fp32", **shape: Any) -> OpenClipBackbone:
    """`random_clip` as a backbone of the harness."""
    half, module = (0.5, 0.5, 0.5), random_clip(**shape)
    config = PreprocessCfg(size=module.visual.image_size, mean=half, std=half)
    transform = image_transform_v2(config, is_train=False)
    return OpenClipBackbone("random", module, _tokenizer(), transform, precision=precision)


_tokenizer = cache(SimpleTokenizer)


@dataclass
class MemoryShots:
    """`Shots` over pixels in memory; a view is a random flip and contrast change."""

    pixels: Tensor
    labels: Tensor
    backbone: OpenClipBackbone

    def __len__(self) -> int:
        return len(self.pixels)

    def batches(
        self,
        size: int,
        *,
        order: Tensor | Iterator[Tensor] | None = None,
        augment: Augment | None = None,
        rng: torch.Generator | None = None,
        device: torch.device | str | None = None,
        labels: bool = False,
    ) -> Iterator[Any]:
        visited = torch.arange(len(self)) if order is None else order
        for order in [visited] if isinstance(visited, Tensor) else visited:
            every = self.pixels
            if augment is not None and rng is not None:
                every = _augmented(every, augment, rng)
            for places in order.split(size):
                yield (every[places], self.labels[places]) if labels else every[places]

    @property
    def raw_features(self) -> Tensor:
        return self.backbone.encode_image(self.pixels)

    @property
    def unprojected(self) -> Tensor:
        return self.backbone.encode_image(self.pixels, projected=False)

    @property
    def features(self) -> Tensor:
        return F.normalize(self.raw_features, dim=-1)

    @property
    def scores(self) -> Tensor:
        raise AttributeError("these images are of a method on top of none")

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
        encode = partial(self.backbone.encode_image, projected=projected)
        views = torch.stack([encode(self.view(start + i, augment, rng)) for i in range(count)])
        views = views if order is None else views[:, order]
        return F.normalize(views, dim=-1) if normalize and projected else views

    def rng(self, name: str) -> torch.Generator:
        return generator(0, name)

    def progress(self, done: int, total: int) -> None:
        """Nobody listens."""

    def view(self, number: int, augment: Augment, rng: torch.Generator | None = None) -> Tensor:
        """Pixels of the images' own view `number`, or of the next view drawn from `rng`."""
        return _augmented(self.pixels, augment, rng or torch.Generator().manual_seed(99 + number))


def _augmented(pixels: Tensor, augment: Augment, rng: torch.Generator) -> Tensor:
    """Mirror images of another contrast; every number of `augment` has an effect."""
    flipped = torch.rand(len(pixels), generator=rng) < augment.flip
    (low, high), (narrow, wide) = augment.scale, augment.ratio
    contrast = low + (high - low) * torch.rand(len(pixels), 1, 1, 1, generator=rng)
    contrast = 1 + contrast * narrow / wide
    return torch.where(flipped[:, None, None, None], pixels.flip(-1), pixels) * contrast


def random_shots(backbone: OpenClipBackbone, classes: int, shots: int, seed: int) -> MemoryShots:
    """Noise around one random image per class; these class centers are the same for every seed."""
    shape, labels = (3, *backbone.image_size), torch.arange(classes).repeat(shots)
    centers = torch.randn(classes, *shape, generator=torch.Generator().manual_seed(7))
    noise = torch.randn(len(labels), *shape, generator=torch.Generator().manual_seed(seed))
    return MemoryShots(0.5 * centers[labels] + noise, labels, backbone)


def random_task(
    backbone: OpenClipBackbone,
    *,
    classnames: Sequence[str] = CLASSNAMES,
    templates: Sequence[str] = ("a photo of a {}.",),
    shots: int = 3,
    val: int = 4,
) -> Task:
    """A task on random images."""
    validation = random_shots(backbone, len(classnames), val, seed=2) if val else None
    train = random_shots(backbone, len(classnames), shots, seed=1)
    return Task(tuple(classnames), tuple(templates), train, validation)


def relative_gap(ours: Tensor, reference: Tensor) -> float:
    """Largest absolute difference over the reference's largest absolute value."""
    gap = (ours.detach() - reference.detach()).abs().max()
    return float(gap / reference.detach().abs().max().clamp_min(1e-12))
