"""TCP: prompts with deep tokens that a network generates from each class's text feature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Adam, Optimizer

from fewshot_bench import Backbone, MethodCard, Published, RunContext, Task, Vocabulary, hyper
from fewshot_bench.backbones import Edits, Tokens
from fewshot_bench.training import (
    Encoders,
    Learned,
    linear_start,
    require_not_negative,
    require_positive,
)
from fewshot_bench.training.provisional import (
    BatchLoss,
    ContextPrompts,
    EncoderBatch,
    EpochSchedule,
    TextPrompts,
    build_prompts,
)
from fsbench_methods import papers

_REPO = "TCP trainers/tcp.py"


@dataclass(frozen=True)
class Tcp(EpochSchedule):
    """Textual-based class-aware prompt tuning (Yao et al., CVPR 2024).

    A randomly initialized context precedes the class name. A network d -> d / 4 -> tokens x width
    maps each frozen class feature to class-specific tokens, which replace the context before block
    `layer` of the text encoder. The loss is cross-entropy plus `weight` times one minus the mean
    cosine to the frozen class features; image features are frozen.
    """

    name: ClassVar[str] = "tcp"
    version: ClassVar[str] = "1"
    trains: ClassVar[tuple[str, ...]] = ("text",)
    from_classes: ClassVar[bool] = True
    card: ClassVar[MethodCard] = MethodCard(
        "tcp-50",
        family="text prompts",
        paper=papers.OF_METHOD["tcp"],
        cost="minutes",
        trained=lambda s: 8 * s.text + (s.features // 4) * (s.features + 4 * s.text + 1),
        official={
            "prompt": "an ending of the data set's own, such as `, a type of pet.`; on UCF101 "
            "words before the name",
            "templates": "its own for frozen features (`a photo of a {}, a type of texture.` on "
            "DTD)",
        },
        deviations=(
            "prompts end behind the class name",
            "context and network are trained in float32, not in half precision without a scaler, "
            "where Adam's second moments underflow: entries move up to 2.4 times as far there, "
            "with equal accuracy",
        ),
        published=(
            Published({"epochs": 25}, ("imagenet", "sun397"), source="TCP train.py:136-137"),
        ),
    )

    tokens: int = hyper(4, "context tokens, and rows of each class", unit="tokens", source=_REPO)
    layer: int = hyper(9, "text block before which rows are replaced, from 1", source=_REPO)
    weight: float = hyper(8.0, "weight of the distance to frozen class features", source=_REPO)
    init_std: float = hyper(0.02, "standard deviation of the first context", source=_REPO)
    epochs: int = hyper(50, "passes over the support set", unit="epochs", source=_REPO)
    lr: float = hyper(2e-3, "learning rate of Adam", source=_REPO)
    eps: float = hyper(1e-3, "epsilon of Adam, which bounds its steps", source=_REPO)

    def __post_init__(self) -> None:
        """UsageError for values out of range."""
        super().__post_init__()
        require_positive(self, "tokens", "layer", "init_std", "eps")
        require_not_negative(self, "weight")

    def quick(self) -> Self:
        """More epochs, for the conformance kit."""
        return replace(self, epochs=60)

    def initial(self, task: Vocabulary, backbone: Backbone, ctx: RunContext) -> dict[str, Tensor]:
        """The context, and the two layers of the network."""
        width, embed, rng = backbone.text_tower().width, backbone.embed_dim, ctx.rng("init")
        context = torch.empty(self.tokens, width).normal_(std=self.init_std, generator=rng)
        hidden = max(1, embed // 4)
        first = linear_start(hidden, embed, rng)
        second = linear_start(self.tokens * width, hidden, rng)
        names = ("linear1.weight", "linear1.bias", "linear2.weight", "linear2.bias")
        return {"context": context, **dict(zip(names, (*first, *second), strict=True))}

    def prompts(self, vocabulary: Vocabulary, backbone: Backbone) -> tuple[TextPrompts, ...]:
        """Context, then the class name; the context is shared until class rows replace it."""
        built = build_prompts(
            vocabulary.classnames,
            backbone,
            backbone.text_tower(),
            tokens=self.tokens,
            position="end",
            class_specific=False,
        )
        return (ContextPrompts(built),)

    def encoders(self, learned: Learned, frozen: Encoders) -> Encoders:
        """The text tower with the class-specific tokens."""
        assert frozen.text is not None
        assert frozen.classes is not None
        hidden = F.linear(frozen.classes, learned["linear1.weight"], learned["linear1.bias"])
        hidden = hidden * (1.702 * hidden).sigmoid()
        rows = F.linear(hidden, learned["linear2.weight"], learned["linear2.bias"])
        rows = rows.view(len(rows), self.tokens, -1)
        edits = Edits((Tokens(min(self.layer, frozen.text.layers) - 1, rows),))
        return replace(frozen, text_edits=edits, context=learned["context"])

    def loss(self, task: Task, backbone: Backbone, ctx: RunContext) -> BatchLoss:
        """Cross-entropy and the distance to the frozen class features."""
        frozen = backbone.class_features(task)

        def loss(batch: EncoderBatch) -> Tensor:
            cosines = (batch.classes * frozen).sum(dim=-1)
            return batch.cross_entropy() + self.weight * (1 - cosines.mean())

        return loss

    def optimizer(self, parameters: Sequence[Tensor]) -> Optimizer:
        """Adam; its weight decay is an L2 penalty in the gradient."""
        return Adam(
            parameters, lr=self.lr, eps=self.eps, weight_decay=self.weight_decay, fused=True
        )
