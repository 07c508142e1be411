"""CLIP-LoRA: low-rank adaptation of both encoders."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from fewshot_bench import (
    Augment,
    Backbone,
    MethodCard,
    RunContext,
    Task,
    Vocabulary,
    hyper,
)
from fewshot_bench.training import (
    Encoding,
    WithoutRun,
    device_generator,
    pixel_batches,
    require,
    require_choices,
    require_not_negative,
    require_positive,
    steps_per_epoch,
    view_batches,
)
from fsbench_methods.encoder_training import Backward, Schedule
from fsbench_methods.lora_layers import (
    Dropout,
    LowRank,
    init_factors,
    layers_at,
    named_factors,
    tower_sites,
)
from fsbench_methods.lora_model import (
    LoraClassifier,
    LoraModel,
    MergedClassifier,
    model_of,
    restored,
    update_step,
)

MATRICES = {"q": ("q",), "k": ("k",), "v": ("v",), "o": ("o",), "m": ("fc", "proj")}
_PAPER = "CLIP-LoRA (Zanella and Ben Ayed 2024)"


def require_updates(method: Any) -> None:
    """UsageError for values of a method's updates and of their training that are out of range."""
    require_choices(method)
    require_positive(method, "rank", "iterations", "batch_size", "lr")
    require_not_negative(method, "alpha", "weight_decay")
    require(method, "dropout", 0 <= method.dropout < 1, "a number in [0, 1)")
    letters = set(method.matrices)
    valid = bool(letters) and letters <= set(MATRICES) and len(letters) == len(method.matrices)
    expected = "distinct letters of q, k, v, o, m without separators, such as 'qkv'"
    require(method, "matrices", valid, expected)


@dataclass(frozen=True)
class ClipLora:
    """CLIP-LoRA (Zanella and Ben Ayed, CVPR Workshops 2024).

    Low-rank updates on q, k and v of every block of both encoders; only they are trained, for
    `iterations` steps per shot, with one configuration for all data sets and no validation data.
    `matrices` are letters of q, k, v, o (attention output) and m (both matrices of the MLP, an
    addition of ours). Position names follow the paper: its Up and Bottom are halves, `top-half`
    and `bottom-half` here; the official code's up and bottom are the thirds `top` and `bottom`.
    """

    name: ClassVar[str] = "clip-lora"
    version: ClassVar[str] = "2"
    card: ClassVar[MethodCard] = MethodCard(
        "clip-lora-500 per shot",
        deviations=(
            "several templates are averaged: the official code reads the first one",
            "the dropout mask of tokens that all prompts share is drawn once for all classes",
            "the scale of logits is the backbone's own, not 100",
            "with a frozen image encoder its augmented views are encoded ahead of training",
        ),
    )

    rank: int = hyper(2, "rank r of every update", source=f"{_PAPER}, p. 5")
    alpha: float = hyper(1.0, "numerator of the scaling", source="run_utils.py:22-35")
    scaling: Literal["sqrt", "linear"] = hyper(
        "sqrt",
        "scale updates by alpha/sqrt(r), as rsLoRA, or alpha/r",
        source="loralib/layers.py:41-42",
    )
    dropout: float = hyper(0.25, "dropout on the updates' input", source=f"{_PAPER}, p. 5")
    encoder: Literal["both", "vision", "text"] = hyper(
        "both", "which encoders are adapted", source=f"{_PAPER}, Fig. 3"
    )
    position: Literal["all", "top-half", "bottom-half", "top", "middle", "bottom", "top3"] = hyper(
        "all", "which layers are adapted", source="loralib/utils.py:10-39"
    )
    matrices: str = hyper(
        "qkv", "which matrices are adapted: letters of q k v o m", source=f"{_PAPER}, Fig. 3"
    )
    iterations: int = hyper(
        500, "training steps per shot", unit="steps/shot", source=f"{_PAPER}, p. 5"
    )
    lr: float = hyper(2e-4, "learning rate of AdamW", source=f"{_PAPER}, p. 5")
    eta_min: float = hyper(1e-6, "learning rate at the end of the cosine", source="lora.py:76")
    weight_decay: float = hyper(1e-2, "weight decay of AdamW", source="lora.py:75")
    beta1: float = hyper(0.9, "first moment of AdamW", source="lora.py:75")
    beta2: float = hyper(0.999, "second moment of AdamW", source="lora.py:75")
    batch_size: int = hyper(32, "images per step", unit="images", source=f"{_PAPER}, p. 5")

    def __post_init__(self) -> None:
        """UsageError for values out of range."""
        require_updates(self)
        for field in ("beta1", "beta2"):
            require(self, field, 0 <= getattr(self, field) < 1, "a number in [0, 1)")
        require(self, "eta_min", 0 <= self.eta_min <= self.lr, f"from 0 to lr={self.lr!r}")

    def quick(self) -> ClipLora:
        """A short schedule for the conformance kit."""
        return replace(self, iterations=2)

    def views_per_image(self, shots: int, classes: int) -> int:
        """Views of each support image that the frozen image encoder encodes, if it is frozen."""
        if self.encoder != "text":
            return 0
        steps = steps_per_epoch(shots * classes, self.batch_size, drop_last=False)
        return math.ceil(self.iterations * shots / max(1, steps))

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
        """CLIP with the updates that were kept."""
        model = self.model(vocabulary, backbone, WithoutRun(backbone))
        return restored(model, LowRank(named_factors(tensors), self.gain))

    @property
    def gain(self) -> float:
        """s of the updates s B A."""
        return self.alpha / (math.sqrt(self.rank) if self.scaling == "sqrt" else self.rank)

    def model(self, task: Vocabulary, backbone: Backbone, ctx: Encoding) -> LoraModel:
        """The frozen part of the model."""
        adapted = {"vision": self.encoder != "text", "text": self.encoder != "vision"}
        return model_of(backbone, task, ctx, **adapted)

    def sized_model(self, task: Task, backbone: Backbone, ctx: RunContext) -> LoraModel:
        """The same, sparing memory where that is short."""
        size = min(self.batch_size, len(task.train))
        return self.model(task, backbone, ctx).within_memory(
            size, backbone.device, ctx.memory_parts
        )

    def adapter(self, model: LoraModel, device: torch.device, ctx: RunContext) -> LowRank:
        """Fresh updates at the chosen sites; the model they adapt is still exactly CLIP."""
        matrices = [
            name for letter, names in MATRICES.items() if letter in self.matrices for name in names
        ]
        sites = []
        for encoder, tower in (("vision", model.vision), ("text", model.text)):
            if tower is not None:
                layers = layers_at(self.position, tower.layers)
                sites += tower_sites(tower, encoder, layers, matrices)
        factors = init_factors(sites, self.rank, ctx.rng("init"), device)
        dropout = None
        if self.dropout:
            dropout = Dropout(self.dropout, device_generator(ctx.rng("dropout"), device))
        return LowRank(factors, self.gain, dropout)

    def train(
        self,
        model: LoraModel,
        parameters: ParamsT,
        backward: Backward,
        task: Task,
        backbone: Backbone,
        ctx: RunContext,
    ) -> None:
        """Trains parameters of updates, whatever their form, by this schedule."""
        if model.vision is None:
            batches = self._frozen_views(task, backbone, self.iterations * task.shots, ctx)
        else:
            batches = pixel_batches(
                task.train,
                self.batch_size,
                backbone.device,
                ctx,
                augment=Augment(),
                drop_last=False,
            )
        if model.recompute:
            ctx.note(recomputed=sorted(model.recompute))
        schedule = Schedule(
            self.iterations * task.shots,
            self.lr,
            self.eta_min,
            self.weight_decay,
            (self.beta1, self.beta2),
        )

        schedule.train(parameters, backward, batches, ctx)

    def _frozen_views(
        self, task: Task, backbone: Backbone, total: int, ctx: RunContext
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Epochs of features of augmented views, for an image encoder that is not adapted."""
        steps = steps_per_epoch(len(task.train), self.batch_size, drop_last=False)
        return view_batches(
            task.train,
            self.batch_size,
            backbone.embed_dim,
            ctx,
            augment=Augment(),
            drop_last=False,
            epochs=math.ceil(total / steps),
        )
