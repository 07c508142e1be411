"""CLIP-LoRA: low-rank adaptation of both encoders."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fewshot_bench import Backbone, MethodCard, RunContext, Task, Vocabulary, hyper
from fewshot_bench.training import require
from fewshot_bench.training.provisional import WithoutRun
from fsbench_methods import papers
from fsbench_methods.encoder_training import Schedule
from fsbench_methods.lora_layers import LowRank, layers_at, named_factors
from fsbench_methods.lora_model import LoraClassifier, MergedClassifier, restored, update_step
from fsbench_methods.lora_tuning import ENCODED_VIEWS, SHARED_MASK, LowRankTuning


@dataclass(frozen=True)
class ClipLora(LowRankTuning):
    """CLIP-LoRA (Zanella and Ben Ayed, CVPR Workshops 2024).

    Low-rank updates of q, k and v in every block of both encoders; only they are trained, for
    `iterations` steps per shot, with one configuration for all data sets and no validation data.
    `matrices` are letters of q, k, v, o (attention output) and m (both MLP matrices, our addition).
    The paper's positions Up and Bottom are halves of the layers, here `top-half` and `bottom-half`;
    the official code's up and bottom are thirds, here `top` and `bottom`.
    """

    name: ClassVar[str] = "clip-lora"
    version: ClassVar[str] = "2"
    card: ClassVar[MethodCard] = MethodCard(
        "clip-lora-500 per shot",
        family="low-rank updates",
        paper=papers.OF_METHOD["clip-lora"],
        cost="minutes",
        trained=lambda s: 12 * s.blocks,
        deviations=(
            "prompts are the run's templates: `a photo of a {}.` for all sets in the official code",
            "several templates are averaged: the official code has one",
            SHARED_MASK,
            "the scale of logits is the backbone's own, not 100",
            "features are normalized, and the loss is computed, in float32",
            ENCODED_VIEWS,
        ),
    )

    scaling: Literal["sqrt", "linear"] = hyper(
        "sqrt",
        "scale updates by alpha/sqrt(r), as rsLoRA, or alpha/r",
        source="loralib/layers.py:41-42",
    )
    position: Literal["all", "top-half", "bottom-half", "top", "middle", "bottom", "top3"] = hyper(
        "all", "which layers are adapted", source="loralib/utils.py:10-39"
    )
    eta_min: float = hyper(1e-6, "learning rate at the end of the cosine", source="lora.py:76")
    beta1: float = hyper(0.9, "first moment of AdamW", source="lora.py:75")
    beta2: float = hyper(0.999, "second moment of AdamW", source="lora.py:75")

    def __post_init__(self) -> None:
        """UsageError for values out of range."""
        super().__post_init__()
        for field in ("beta1", "beta2"):
            require(self, field, 0 <= getattr(self, field) < 1, "a number in [0, 1)")
        require(self, "eta_min", 0 <= self.eta_min <= self.lr, f"from 0 to lr={self.lr!r}")

    @property
    def gain(self) -> float:
        """The factor s of the updates s B A."""
        return self.alpha / (math.sqrt(self.rank) if self.scaling == "sqrt" else self.rank)

    def layers(self, depth: int) -> range:
        """The layers of an encoder that are adapted."""
        return layers_at(self.position, depth)

    def schedule(self, steps: int) -> Schedule:
        """AdamW with a cosine from `lr` to `eta_min` and the chosen moments."""
        betas = (self.beta1, self.beta2)
        return Schedule(steps, self.lr, self.eta_min, self.weight_decay, betas)

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> LoraClassifier[LowRank]:
        """Trains the updates for `iterations` steps per shot."""
        model = self.sized_model(task, backbone, ctx)
        adapter = self.adapter(model, backbone.device, ctx)
        step = update_step(model, adapter)
        self.train(model, adapter.parameters(), step, task, backbone, ctx)
        return LoraClassifier(model, adapter.detached(), backbone)

    @torch.no_grad()
    def restore(
        self, tensors: Mapping[str, Tensor], vocabulary: Vocabulary, backbone: Backbone
    ) -> MergedClassifier:
        """Rebuild the classifier from saved updates."""
        model = self.model(vocabulary, backbone, WithoutRun(backbone))
        return restored(model, LowRank(named_factors(tensors), self.gain))
