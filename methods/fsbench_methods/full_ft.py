"""Full fine-tuning of the image encoder with a linear head, and WiSE-FT between it and CLIP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from fewshot_bench import Augment, Backbone, MethodCard, RunContext, Task, Vocabulary, hyper
from fewshot_bench.training import (
    Encoders,
    Learned,
    cosine,
    require,
    require_not_negative,
    require_positive,
)
from fewshot_bench.training.provisional import EncoderLearner
from fsbench_methods import papers

_REPO = "wise-ft src/args.py, README"


@dataclass(frozen=True)
class FullFineTuning(EncoderLearner):
    """Full fine-tuning, and WiSE-FT (Wortsman et al., CVPR 2022).

    All weights of the image encoder and a linear head, which starts at the class features with a
    bias of 0, are trained by cross-entropy. The final weights are (1 - `alpha`) times the initial
    plus `alpha` times the trained ones: 1 is full fine-tuning, 0.5 is WiSE-FT's recommendation
    without data to choose `alpha`. AdamW with clipped gradients; a linear warm-up, then a cosine
    over the other steps. Classes that were not fitted are predicted by frozen class features.
    """

    name: ClassVar[str] = "full-ft"
    version: ClassVar[str] = "2"
    trains: ClassVar[tuple[str, ...]] = ("vision",)
    drop_last: ClassVar[bool] = False
    max_norm: ClassVar[float] = 1.0
    augment: ClassVar[Augment] = Augment(scale=(0.9, 1.0), flip=0.0)
    card: ClassVar[MethodCard] = MethodCard(
        "wise-ft-10",
        family="weights inside",
        paper=papers.OF_METHOD["full-ft"],
        cost="minutes",
        trained=lambda s: s.image_tower + s.classes * (s.features + 1),
        at_test="which classes were fitted on",
        deviations=(
            "batches of 32, not of 512, which many support sets do not fill",
            "the warm-up takes at most a tenth of the steps, which are often fewer than 500",
            "other classes are answered by frozen class features; the official code has no rule",
        ),
    )

    epochs: int = hyper(10, "passes over the support set", unit="epochs", source=_REPO)
    lr: float = hyper(3e-5, "learning rate of AdamW", source=_REPO)
    weight_decay: float = hyper(0.1, "weight decay of AdamW", source=_REPO)
    warmup: int = hyper(500, "steps of the warm-up, at most", unit="steps", source=_REPO)
    alpha: float = hyper(
        1.0, "share of the trained weights in those that are kept", source="plain fine-tuning"
    )

    def __post_init__(self) -> None:
        """UsageError for values out of range."""
        super().__post_init__()
        require_positive(self, "epochs", "lr")
        require_not_negative(self, "weight_decay", "warmup")
        require(self, "alpha", 0 <= self.alpha <= 1, "a number from 0 to 1")

    def quick(self) -> Self:
        """Larger steps, for the conformance kit."""
        return replace(self, lr=1e-3)

    def initial(self, task: Vocabulary, backbone: Backbone, ctx: RunContext) -> dict[str, Tensor]:
        """All weights of the image tower in float32, and the head.

        `head` (classes, embed): class features times the logit scale; `head.bias` (classes,): 0.
        """
        weights = Encoders(backbone.image_tower(), None).parameters()
        named = {name: value.float() for name, value in weights.items()}
        head = backbone.logit_scale * backbone.class_features(task)
        return named | {"head": head, "head.bias": head.new_zeros(len(head))}

    def trained(self, task: Task, backbone: Backbone, ctx: RunContext) -> dict[str, Tensor]:
        """Weights interpolated between the initial and the trained ones by `alpha`."""
        start, end = self.initial(task, backbone, ctx), super().trained(task, backbone, ctx)
        return {name: value.lerp(end[name], self.alpha) for name, value in start.items()}

    def read_fixed(self, fixed: Tensor, learned: Learned, *, fitted: bool) -> Tensor:
        """(classes, embed + 1): head and bias; frozen class features unless `fitted`."""
        if not fitted:
            return fixed
        return torch.cat([learned["head"], learned["head.bias"][:, None]], dim=1)

    def scores(self, images: Tensor, classes: Tensor, scale: float, *, fitted: bool) -> Tensor:
        """(n, classes) logits; the head includes the logit scale."""
        if not fitted:
            return scale * images @ classes.T
        return images @ classes[:, :-1].T + classes[:, -1]

    def optimizer(self, parameters: Sequence[Tensor]) -> Optimizer:
        """AdamW."""
        return AdamW(parameters, lr=self.lr, weight_decay=self.weight_decay, fused=True)

    def steps(self, shots: int, per_epoch: int) -> int:
        """Number of steps in all epochs."""
        return self.epochs * per_epoch

    def rate(self, step: int, per_epoch: int, total: int) -> float:
        """A linear warm-up, then a cosine to 0."""
        rising = min(self.warmup, total // 10)
        if step < rising:
            return self.lr * (step + 1) / rising
        return cosine(self.lr, step - rising, total - rising)
