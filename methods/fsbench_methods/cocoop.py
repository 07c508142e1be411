"""CoCoOp: prompt learning with a context that a small network shifts for every image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_bench import Backbone, Images, MethodCard, RunContext, Task, Vocabulary, hyper
from fewshot_bench.training import PromptLearner, linear_start
from fewshot_bench.training.provisional import (
    PromptModel,
    WithoutRun,
    conditioned_backward,
    conditioned_logits,
    for_images,
)
from fsbench_methods import papers


@dataclass(frozen=True)
class Conditioned:
    """A context (M, width) and a network that maps unit image features to its shift, by name."""

    learned: Mapping[str, Tensor]

    def __call__(self, images: Tensor) -> Tensor:
        """(b, embed) to (b, M, width): the shift is added to every token of the context."""
        of = self.learned
        hidden = F.linear(images, of["linear1.weight"], of["linear1.bias"]).relu()
        shift = F.linear(hidden, of["linear2.weight"], of["linear2.bias"])
        return of["context"] + shift[:, None]


@dataclass(frozen=True)
class ConditionedClassifier:
    """Zero-shot classification with separate prompts for each image."""

    model: PromptModel
    contexts: Conditioned
    model_for: Callable[[Vocabulary], PromptModel]

    def logits(self, queries: Images) -> Tensor:
        """(n, classes): all prompts are encoded for every query."""
        return conditioned_logits(self.model, self.contexts, queries.features)

    def for_classes(self, vocabulary: Vocabulary) -> ConditionedClassifier:
        """The same context and network with other class names."""
        return replace(self, model=self.model_for(vocabulary))

    def tensors(self) -> Mapping[str, Tensor]:
        """The context, weights and biases."""
        return self.contexts.learned


@dataclass(frozen=True)
class CoCoOp(PromptLearner):
    """Conditional context optimization (Zhou et al., CVPR 2022).

    A shared context is initialized with "a photo of a"; a network d -> d / 16 -> width of the unit
    image feature gives a vector that is added to every context token (35,360 parameters at
    ViT-B/16). Batches of one image, 10 epochs. The prompts of all classes are encoded anew for
    every training image and query: the cost grows with images x classes, and evaluation costs more
    than for any other CoOp variant. Several images are encoded at once, each with the prefix that
    its class prompts share.
    """

    name: ClassVar[str] = "cocoop"
    version: ClassVar[str] = "1"
    card: ClassVar[MethodCard] = MethodCard(
        "cocoop-10",
        family="text prompts",
        paper=papers.OF_METHOD["cocoop"],
        cost="hours",
        trained=lambda s: 4 * s.text + (s.features // 16) * (s.features + s.text + 1) + s.text,
        text="class names",
        deviations=(
            "context and network are trained in float32, not in half precision without a scaler",
        ),
    )

    context_init: str = hyper(
        "a photo of a",
        "words whose embeddings start the context; empty: random",
        source="CoOp configs/trainers/CoCoOp (ctxv1)",
    )
    epochs: int = hyper(
        10,
        "passes over the support set; 0: by shots (1: 50, 2 to 4: 100, more: 200)",
        unit="epochs",
        source="CoOp configs/trainers/CoCoOp",
    )
    batch_size: int = hyper(
        1, "images per step", unit="images", source="CoOp configs/trainers/CoCoOp"
    )

    def quick(self) -> Self:
        """Batches of two, for the conformance kit."""
        return replace(self, batch_size=2)

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> ConditionedClassifier:  # type: ignore[override]
        """Trains context and network on frozen image features."""
        tower = backbone.text_tower()
        context = self.initial_context(task, backbone, tower, ctx)
        learned = {"context": context, **self.network(backbone, tower.width, ctx)}
        contexts = Conditioned({name: torch.nn.Parameter(value) for name, value in learned.items()})
        model_for = partial(
            self.model, backbone=backbone, tower=tower, tokens=len(context), ctx=ctx
        )
        model = model_for(task)
        step = partial(conditioned_backward, for_images(model, backbone.device, ctx), contexts)
        self.train(list(contexts.learned.values()), step, task, backbone, ctx)
        fitted = {name: value.detach() for name, value in contexts.learned.items()}
        return ConditionedClassifier(model, Conditioned(fitted), model_for)

    def restore(
        self, tensors: Mapping[str, Tensor], vocabulary: Vocabulary, backbone: Backbone
    ) -> ConditionedClassifier:
        """Rebuild the classifier from the saved context and network."""
        tower, run = backbone.text_tower(), WithoutRun(backbone)
        tokens = len(tensors["context"])
        model_for = partial(self.model, backbone=backbone, tower=tower, tokens=tokens, ctx=run)
        return ConditionedClassifier(model_for(vocabulary), Conditioned(tensors), model_for)

    def network(self, backbone: Backbone, width: int, ctx: RunContext) -> dict[str, Tensor]:
        """Weights and biases of the network, initialized like torch.nn.Linear."""
        hidden, rng = max(1, backbone.embed_dim // 16), ctx.rng("network")
        layers = {"linear1": (hidden, backbone.embed_dim), "linear2": (width, hidden)}
        weights = {}
        for name, (rows, inputs) in layers.items():
            weight, bias = linear_start(rows, inputs, rng)
            weights[f"{name}.weight"] = weight.to(backbone.device)
            weights[f"{name}.bias"] = bias.to(backbone.device)
        return weights
