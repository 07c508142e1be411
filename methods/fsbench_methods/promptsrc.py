"""PromptSRC: prompt tokens in both encoders, regularized toward CLIP and averaged over epochs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_bench import Backbone, MethodCard, Published, RunContext, Task, Vocabulary, hyper
from fewshot_bench.training import (
    Learned,
    raw_class_features,
    require,
    require_not_negative,
    require_positive,
    unit,
)
from fewshot_bench.training.provisional import AfterStep, BatchLoss, EncoderBatch
from fsbench_methods import papers
from fsbench_methods.ivlp import Ivlp
from fsbench_methods.sixty_templates import SIXTY_TEMPLATES

_REPO = "PromptSRC's repository, configs/trainers/PromptSRC"


@dataclass(frozen=True)
class PromptSrc(Ivlp):
    """Self-regulating prompts (Khattak et al., ICCV 2023): `ivlp` regularized toward CLIP.

    The loss is cross-entropy plus three terms: `text_weight` times the mean absolute difference
    between class features and frozen CLIP's over 60 templates (or the run's texts), `image_weight`
    times that between image features and frozen features of the same augmented images, and the KL
    divergence from frozen to learned class probabilities, averaged over images and classes. The
    final prompts are the sum of the prompts after every epoch with Gaussian weights around epoch
    `gpa_mean` that add up to one. Frozen features of all crops are encoded ahead. The default
    schedule is for few-shot runs; for base-to-new use `epochs=20 gpa_mean=15 gpa_std=1`, or
    `--published`.
    """

    name: ClassVar[str] = "promptsrc"
    version: ClassVar[str] = "1"
    with_frozen: ClassVar[bool] = True
    card: ClassVar[MethodCard] = MethodCard(
        "promptsrc-50",
        family="deep prompts",
        paper=papers.OF_METHOD["promptsrc"],
        cost="minutes",
        trained=lambda s: 4 * min(9, s.layers) * (s.vision + s.text),
        deviations=(
            "the first rows of texts are trained in float32, not in half precision",
            "16 bits are trained with a loss scaler: the official code has none",
            "cross-dataset runs have the same setting (officially 3 layers, 20 epochs and a "
            "Gaussian of 6, 10)",
            "prompts alone are averaged over epochs, in float32: the official code averages the "
            "whole half-precision model, frozen CLIP included, which moves features by 7e-4",
        ),
        published=(
            Published(
                {"gpa_mean": 45.0, "gpa_std": 5.0},
                ("stanford_cars", "oxford_flowers", "fgvc_aircraft", "dtd", "eurosat"),
                base_to_new=False,
                source="configs/trainers/PromptSRC/vit_b16_c2_ep50_batch4_4+4ctx_few_shot.yaml",
            ),
            Published(
                {"epochs": 20, "gpa_mean": 15.0, "gpa_std": 1.0},
                base_to_new=True,
                schedule="promptsrc-20",
                source="configs/trainers/PromptSRC/vit_b16_c2_ep20_batch4_4+4ctx.yaml",
            ),
        ),
    )

    epochs: int = hyper(50, "passes over the support set", unit="epochs", source=_REPO)
    text_weight: float = hyper(25.0, "weight of the distance of class features", source=_REPO)
    image_weight: float = hyper(10.0, "weight of the distance of image features", source=_REPO)
    gpa_mean: float = hyper(
        30.0, "epoch, from 1, whose rows weigh most in the sum", unit="epochs", source=_REPO
    )
    gpa_std: float = hyper(
        30.0, "standard deviation of the weights of epochs", unit="epochs", source=_REPO
    )

    def __post_init__(self) -> None:
        """UsageError for values out of range."""
        super().__post_init__()
        require_not_negative(self, "text_weight", "image_weight")
        require_positive(self, "gpa_mean", "gpa_std")
        # The squared distance of an epoch from `gpa_mean` must be finite.
        require(self, "gpa_std", self.gpa_std >= 1e-100, "at least 1e-100 epochs")

    def quick(self) -> Self:
        """Twenty epochs, for the conformance kit."""
        return replace(self, epochs=20)

    @property
    def epoch_weights(self) -> list[float]:
        """The weight of the prompts after each epoch; the weights add up to one."""
        distances = [(epoch - self.gpa_mean) / self.gpa_std for epoch in range(1, self.epochs + 1)]
        # Scale so that the nearest epoch has weight one: a distant mean must not underflow to 0/0.
        nearest = min(distance**2 for distance in distances)
        weights = [math.exp(-0.5 * (distance**2 - nearest)) for distance in distances]
        return [weight / sum(weights) for weight in weights]

    def loss(self, task: Task, backbone: Backbone, ctx: RunContext) -> BatchLoss:
        """Cross-entropy and three distances to frozen CLIP."""
        sixty = Vocabulary(task.classnames, SIXTY_TEMPLATES)
        classes = unit(raw_class_features(backbone, task if task.texts else sixty))

        def loss(batch: EncoderBatch) -> Tensor:
            images = batch.frozen
            assert images is not None
            logits = batch.scale * images @ classes.T
            divergence = F.kl_div(
                batch.logits.log_softmax(dim=-1),
                logits.log_softmax(dim=-1),
                reduction="sum",
                log_target=True,
            )
            return (
                batch.cross_entropy()
                + self.text_weight * F.l1_loss(batch.classes, classes)
                + self.image_weight * F.l1_loss(batch.images, images)
                + divergence / logits.numel()
            )

        return loss

    def train(
        self,
        learned: Learned,
        task: Task,
        backbone: Backbone,
        ctx: RunContext,
        after: AfterStep | None = None,
    ) -> None:
        """Run the whole schedule, then replace the prompts by their weighted sum over epochs."""
        weights = self.epoch_weights
        sums = {name: torch.zeros_like(value) for name, value in learned.items()}

        def weigh(done: int, total: int) -> None:
            per_epoch = total // self.epochs
            if done % per_epoch == 0:
                weight = weights[done // per_epoch - 1]
                for name, value in learned.items():
                    sums[name].add_(value.detach(), alpha=weight)
            if after is not None:
                after(done, total)

        super().train(learned, task, backbone, ctx, weigh)
        with torch.no_grad():
            for name, value in learned.items():
                value.copy_(sums[name])
