"""Cross-modal adaptation: a linear probe trained on images and prompts alike."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from fewshot_bench import Backbone, MethodCard, RunContext, Task, hyper
from fewshot_bench.training import (
    LinearClassifier,
    raw_class_features,
    require_positive,
    text_samples,
    unit,
)
from fsbench_methods import papers
from fsbench_methods.head_search import HeadSearch, Samples

TIED = "its head has weights for the classes it was fitted on"
OFFICIAL = {"templates": "seven on ImageNet, one elsewhere"}
SCALE = "the scale of logits is the backbone's own, not 100"


@dataclass(frozen=True)
class CrossModal:
    """Cross-modal linear probing (Lin et al., CVPR 2023).

    A head without bias starts at the mean raw text features, at unit length. Each batch is half
    images (center crops and their mirror images) and half prompts of all templates, as unit
    features; the loss is the cross-entropy of scaled products. AdamW, 50 warm-up steps, cosine. Two
    learning rates, three weight decays and two batch sizes are tried; validation accuracy is
    measured every 100 steps and the first best step over all settings is kept, as in the official
    code. Without validation images: lr 1e-3, weight decay 0.01, the smallest batch, the last step.
    """

    name: ClassVar[str] = "cross-modal"
    version: ClassVar[str] = "1"
    tied_to_classes: ClassVar[str] = TIED
    poolings: ClassVar[tuple[str, ...]] = ("unit-mean",)
    card: ClassVar[MethodCard] = MethodCard(
        schedule="cross-modal-12800",
        family="linear head",
        paper=papers.OF_METHOD["cross-modal"],
        cost="minutes",
        trained=lambda s: s.classes * s.features,
        official=OFFICIAL,
        deviations=(
            "batches of 2 where a set is smaller than half a batch: the official code ends",
            "published with ResNet-50 alone: rows on ViTs are other people's",
            SCALE,
        ),
    )

    iterations: int = hyper(
        12800,
        "steps of each training",
        unit="iterations",
        source="cross_modal_adaptation engine/optimizer/default.py",
    )

    def __post_init__(self) -> None:
        """UsageError for values out of range."""
        require_positive(self, "iterations")

    def quick(self) -> CrossModal:
        """A short schedule for the conformance kit."""
        return replace(self, iterations=200)

    def views_per_image(self, shots: int, classes: int) -> int:
        """One view of each support image: its mirror image."""
        return 1

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> LinearClassifier:
        """Trains the head on images and prompts."""
        start = unit(raw_class_features(backbone, task))
        texts, labels = text_samples(backbone, task)
        sets = (Samples.of_images(task.train), Samples(unit(texts), labels))
        scale = backbone.logit_scale
        head = HeadSearch(start, sets, scale, self.iterations).best(task.val, ctx)
        return LinearClassifier(scale * head)
