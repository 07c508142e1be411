"""MMRL: shared representation tokens in the upper layers of both encoders, and their read-out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import AdamW, Optimizer

from fewshot_bench import (
    Augment,
    Backbone,
    MethodCard,
    Published,
    RunContext,
    Task,
    Vocabulary,
    hyper,
)
from fewshot_bench.backbones import Edits, Tokens
from fewshot_bench.training import (
    Encoders,
    Learned,
    linear_start,
    require,
    require_not_negative,
    require_positive,
    unit,
)
from fewshot_bench.training.provisional import BatchLoss, EncoderBatch, EpochSchedule
from fsbench_methods import papers

_REPO = "MMRL configs/trainers/MMRL/vit_b16_few_shot.yaml"
_BY_SET = "MMRL trainers/config.py"


@dataclass(frozen=True)
class Mmrl(EpochSchedule):
    """Multi-modal representation learning (Guo and Gu, CVPR 2025).

    `tokens` shared vectors are mapped linearly into each of the upper `depth` blocks of both
    encoders: they are inserted behind the class or start token before the first of these blocks,
    and replaced before each of the others. Images have two read-outs: the class token with CLIP's
    projection, and the mean of the inserted tokens with a trained one. The loss is the
    cross-entropy of both, weighted `alpha` and 1 - `alpha`, plus `weight` times the cosine
    distances of image and class features to the frozen ones. Fitted classes are predicted by both
    read-outs with the same weights, other classes by the class token alone, as in the official
    code.
    """

    name: ClassVar[str] = "mmrl"
    version: ClassVar[str] = "1"
    augment: ClassVar[Augment] = Augment(scale=(0.5, 1.0))
    card: ClassVar[MethodCard] = MethodCard(
        "mmrl-50",
        family="adapters inside",
        paper=papers.OF_METHOD["mmrl"],
        cost="minutes",
        trained=lambda s: (
            2560 + min(7, s.layers) * 513 * (s.vision + s.text) + s.vision * s.features
        ),
        at_test="the image, the list of classes, and if these are the classes of the fit",
        deviations=(
            "one weight and width for all data sets, unless published values are asked for; "
            "published rows are of another method",
            "on data sets without published values the weight is officially 0.5 (1 in "
            "base-to-new), a twelfth of the one here",
            "the scale of logits is the backbone's own, not 100",
            "base-to-new runs have the same setting, unless published values are asked for, and "
            "cross-dataset runs always (officially one epoch without warm-up)",
            "other sets with the class names of the fit are predicted as the fitted set: in the "
            "official code ImageNet alone",
        ),
        published=(
            Published({"weight": 0.5}, base_to_new=False, source=_REPO),
            Published(
                {"weight": 1.0, "epochs": 10, "batch_size": 4},
                base_to_new=True,
                schedule="mmrl-10",
                source="MMRL configs/trainers/MMRL/vit_b16.yaml",
            ),
            Published({"weight": 7.0}, ("stanford_cars",), source=_BY_SET),
            Published({"weight": 6.0}, ("fgvc_aircraft", "sun397", "dtd"), source=_BY_SET),
            Published({"weight": 5.0}, ("food101",), source=_BY_SET),
            Published({"weight": 4.0}, ("oxford_flowers",), source=_BY_SET),
            Published({"weight": 3.0}, ("ucf101",), source=_BY_SET),
            Published({"weight": 0.5}, ("imagenet", "caltech101"), source=_BY_SET),
            Published({"weight": 0.2}, ("oxford_pets",), source=_BY_SET),
            Published({"weight": 0.01, "width": 2048}, ("eurosat",), source=_BY_SET),
            Published(
                {"epochs": 5, "batch_size": 32},
                ("imagenet",),
                source="MMRL configs/trainers/MMRL/vit_b16_imagenet.yaml",
            ),
        ),
    )

    tokens: int = hyper(5, "representation tokens", unit="tokens", source=_REPO)
    depth: int = hyper(7, "upper blocks with tokens; a tower may have fewer", source=_REPO)
    width: int = hyper(512, "width of the shared tokens", source=_REPO)
    alpha: float = hyper(0.7, "share of the class token's read-out", source=_REPO)
    weight: float = hyper(
        6.0,
        "weight of the distance to frozen features",
        source="trainers/config.py: the most frequent",
    )
    init_std: float = hyper(0.02, "standard deviation of the first tokens", source="mmrl.py:135")
    epochs: int = hyper(50, "passes over the support set", unit="epochs", source=_REPO)
    lr: float = hyper(1e-3, "learning rate of AdamW", source=_REPO)

    def __post_init__(self) -> None:
        """UsageError for values out of range."""
        super().__post_init__()
        require_positive(self, "tokens", "depth", "width", "init_std")
        require_not_negative(self, "weight")
        require(self, "alpha", 0 <= self.alpha <= 1, "a number from 0 to 1")

    def quick(self) -> Self:
        """Tokens in the last block only, which learn in few epochs, for the conformance kit."""
        return replace(self, depth=1, epochs=30)

    def initial(self, task: Vocabulary, backbone: Backbone, ctx: RunContext) -> dict[str, Tensor]:
        """Tokens, a projection, and a map per tower and block; maps of a tower start equal."""
        vision, text, rng = backbone.image_tower(), backbone.text_tower(), ctx.rng("init")
        blocks, wide = min(self.depth, vision.layers, text.layers), vision.width
        tokens = torch.empty(self.tokens, self.width).normal_(std=self.init_std, generator=rng)
        values = {"tokens": tokens}
        for name, width in (("vision", wide), ("text", text.width)):
            weight, bias = linear_start(width, self.width, rng)
            values[f"{name}.weight"] = weight.repeat(blocks, 1, 1)
            values[f"{name}.bias"] = bias.repeat(blocks, 1)
        drawn = torch.empty(wide, backbone.embed_dim).normal_(std=wide**-0.5, generator=rng)
        return values | {"projection": drawn}

    def unchanged(self, backbone: Backbone) -> tuple[int, int]:
        """The blocks below the first one with tokens."""
        vision, text = backbone.image_tower().layers, backbone.text_tower().layers
        blocks = min(self.depth, vision, text)
        return vision - blocks, text - blocks

    def encoders(self, learned: Learned, frozen: Encoders) -> Encoders:
        """Both towers with tokens; the image tower returns the rows for both read-outs."""
        assert frozen.vision is not None
        assert frozen.text is not None
        read = tuple(range(1 + self.tokens))
        seen = Edits(_rows(learned, "vision", frozen.vision.layers), projected=False, rows=read)
        written = Edits(_rows(learned, "text", frozen.text.layers))
        return replace(frozen, vision_edits=seen, text_edits=written)

    def read_images(self, raw: Tensor, learned: Learned, frozen: Encoders) -> Tensor:
        """(b, 2, embed) unit features of both read-outs."""
        assert frozen.vision is not None
        projection = frozen.vision.parameters()["projection"].float()
        raw = raw.float()
        both = raw[:, 0] @ projection, raw[:, 1:].mean(dim=1) @ learned["projection"]
        return unit(torch.stack(both, dim=1))

    def scores(self, images: Tensor, classes: Tensor, scale: float, *, fitted: bool) -> Tensor:
        """(n, classes) logits of both read-outs; of the class token alone unless `fitted`."""
        own, other = (scale * images[:, index] @ classes.T for index in (0, 1))
        return self.alpha * own + (1 - self.alpha) * other if fitted else own

    def loss(self, task: Task, backbone: Backbone, ctx: RunContext) -> BatchLoss:
        """Cross-entropy of both read-outs, and distances to the frozen features.

        Frozen features of images share the blocks below the first one with tokens.
        """
        classes, alpha = backbone.class_features(task), self.alpha
        tower, start = backbone.image_tower(), self.unchanged(backbone)[0]

        def loss(batch: EncoderBatch) -> Tensor:
            both = (batch.scale * batch.images[:, index] @ batch.classes.T for index in (0, 1))
            own, other = (F.cross_entropy(logits, batch.labels) for logits in both)
            with torch.no_grad():
                images = unit(tower.encode(batch.pixels, start=start))
            near = (batch.images[:, 0] * images).sum(dim=-1).mean()
            near = near + (batch.classes * classes).sum(dim=-1).mean()
            return alpha * own + (1 - alpha) * other + self.weight * (2 - near)

        return loss

    def optimizer(self, parameters: Sequence[Tensor]) -> Optimizer:
        """AdamW."""
        return AdamW(parameters, lr=self.lr, weight_decay=self.weight_decay, fused=True)


def _rows(learned: Learned, encoder: str, layers: int) -> tuple[Tokens, ...]:
    """The tokens of each upper block: inserted at the first one, replaced at the others."""
    weights, biases = learned[f"{encoder}.weight"], learned[f"{encoder}.bias"]
    first = layers - len(weights)
    return tuple(
        Tokens(
            first + index,
            F.linear(learned["tokens"], weight, bias),
            "start",
            "replace" if index else "insert",
        )
        for index, (weight, bias) in enumerate(zip(weights, biases, strict=True))
    )
