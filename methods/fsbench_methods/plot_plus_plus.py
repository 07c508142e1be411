"""PLOT++: several prompts of texts and of images, compared by optimal transport."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_bench import Backbone, MethodCard, RunContext, Task, Vocabulary, hyper
from fewshot_bench.training import (
    AfterStep,
    BatchLoss,
    EncoderBatch,
    EncoderModel,
    Encoding,
    Learned,
    TextPrompts,
    embedded_words,
    require,
    require_positive,
    unit,
)
from fsbench_methods.deep_prompts import prompts_behind
from fsbench_methods.transport import TransportLearner

_SCRIPT = "PLOT's repository, plot-pp/scripts/main_joint.sh"
_CONFIG = "PLOT's repository, plot-pp/configs/trainers/PLOTPP/vit.yaml"
_CODE = "PLOT's repository, plot-pp/trainers/plotpp.py"


@dataclass(frozen=True)
class PlotPlusPlus(TransportLearner):
    """Prompt learning with optimal transport for ViTs (Chen et al., ICLR 2023, PLOT++).

    Each class has `text_prompts` features, one per learned context; each image `vision_prompts`,
    one per set of learned tokens behind its patches. A logit is the sum of their cosines weighted
    by the optimal transport plan, through which no gradient flows. There are two stages of `epochs`
    each: first the vision tokens are trained, with the cosine of the mean features added to the
    logits, then all tokens without it (14,336 parameters at ViT-B/16). One configuration for all
    data sets.
    """

    name: ClassVar[str] = "plot++"
    version: ClassVar[str] = "1"
    card: ClassVar[MethodCard] = MethodCard(
        "plot++-50+50",
        text="class names",
        official={"context_init": "four phrases of four to seven words for each data set"},
        deviations=(
            "every seed has a first stage of its own; officially all seeds start at that of seed 1",
            "Sinkhorn's rounds end for each image and class; officially for a whole batch at once, "
            "on which logits then depend",
            "prompts are trained in float32, not in half precision without a scaler, and no batch "
            "is left out",
        ),
    )

    text_prompts: int = hyper(4, "contexts of a class name", source=_SCRIPT)
    context_tokens: int = hyper(4, "rows of a context", unit="tokens", source=_SCRIPT)
    context_init: str = hyper(
        "a photo of a, this is a photo, this is picture of, one picture of a",
        "phrases whose embeddings start the contexts, with commas between; empty: random",
        source=f"{_CODE} (Caltech101, SUN397)",
    )
    vision_tokens: int = hyper(2, "rows of a set", unit="tokens", source=_SCRIPT)
    init_std: float = hyper(0.02, "standard deviation of all other first values", source=_CODE)
    batch_size: int = hyper(32, "images per step", unit="images", source=_CONFIG)
    epochs: int = hyper(50, "passes over the support set per stage", unit="epochs", source=_CONFIG)
    lr: float = hyper(2e-3, "learning rate of SGD", source=_CONFIG)

    def __post_init__(self) -> None:
        """UsageError for values out of range."""
        super().__post_init__()
        require_positive(self, "text_prompts", "context_tokens", "vision_tokens", "init_std")

    def quick(self) -> Self:
        """Small steps in small batches, for the conformance kit."""
        return replace(self, epochs=10, batch_size=4, lr=5e-4)

    def initial(self, task: Vocabulary, backbone: Backbone, ctx: RunContext) -> dict[str, Tensor]:
        """`text` and `vision` (prompts, tokens, width): random normal; `text`: words if given."""
        rng, tower = ctx.rng("init"), backbone.text_tower()
        text = torch.empty(self.text_prompts, self.context_tokens, tower.width)
        size = (self.vision_prompts, self.vision_tokens, backbone.image_tower().width)
        first = {"text": text, "vision": torch.empty(size)}
        for values in first.values():
            values.normal_(std=self.init_std, generator=rng)
        if self.context_init.strip():
            found = [embedded_words(one, backbone, tower) for one in self.context_init.split(",")]
            fits = [len(one) for one in found] == [self.context_tokens] * self.text_prompts
            expected = f"{self.text_prompts} phrases of {self.context_tokens} tokens, or nothing"
            require(self, "context_init", fits, expected)
            first["text"] = torch.stack(found)
        return first

    def prompts(self, vocabulary: Vocabulary, backbone: Backbone) -> tuple[TextPrompts, ...]:
        """Prompts of each learned context followed by the class name."""
        behind_one = prompts_behind("", self.context_tokens, vocabulary, backbone)
        return (replace(behind_one, runs=self.text_prompts),)

    def train(
        self,
        learned: Learned,
        task: Task,
        backbone: Backbone,
        ctx: RunContext,
        after: AfterStep | None = None,
    ) -> None:
        """Train both stages, each with its own schedule."""
        options = {one.name: getattr(self, one.name) for one in fields(TransportLearner)}
        model = self.model(task, backbone, ctx)
        model = model.within_memory(1, backbone.device, ctx.memory_parts)
        with torch.no_grad():
            classes = model.class_features(learned)
        stage = VisionStage(**options, classes=classes)
        stage.train({"vision": learned["vision"]}, task, backbone, ctx, after)
        super().train(learned, task, backbone, ctx, after)


@dataclass(frozen=True)
class VisionStage(TransportLearner):
    """The first stage: vision tokens, with fixed class features (text_prompts, classes, embed)."""

    classes: Tensor | None = None

    def model(self, task: Vocabulary, backbone: Backbone, ctx: Encoding) -> EncoderModel:
        """The model without a text encoder."""
        model = super().model(task, backbone, ctx)
        frozen = replace(model.frozen, text=None)
        return replace(model, frozen=frozen, prompts=(), fixed=self.classes)

    def loss(self, task: Task, backbone: Backbone, ctx: RunContext) -> BatchLoss:
        """Cross-entropy of the sum of `scores` and the scaled cosine of the mean features."""

        def loss(batch: EncoderBatch) -> Tensor:
            images, classes = unit(batch.images.mean(dim=0)), unit(batch.classes.mean(dim=0))
            scores = self.scores(batch.images, batch.classes, batch.scale, fitted=True)
            return F.cross_entropy(scores + batch.scale * images @ classes.T, batch.labels)

        return loss
