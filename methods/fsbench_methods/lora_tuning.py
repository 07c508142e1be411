"""Training of low-rank updates at chosen matrices, shared by CLIP-LoRA, DoRA and AdaLoRA.

`LowRankTuning` has their options, sites and schedule; a subclass defines the trained parameters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from fewshot_bench import Augment, Backbone, RunContext, Task, Vocabulary, hyper
from fewshot_bench.training import (
    require,
    require_choices,
    require_not_negative,
    require_positive,
    steps_per_epoch,
)
from fewshot_bench.training.provisional import (
    ENCODES_TEXTS,
    Backward,
    Encoding,
    device_generator,
    pixel_batches,
    view_batches,
)
from fsbench_methods.encoder_training import Schedule
from fsbench_methods.lora_layers import Dropout, LowRank, init_factors, tower_sites
from fsbench_methods.lora_model import LoraModel, model_of

MATRICES = {"q": ("q",), "k": ("k",), "v": ("v",), "o": ("o",), "m": ("fc", "proj")}
PAPER = "CLIP-LoRA (Zanella and Ben Ayed 2024)"
LAST_RATE = 1e-6


# Deviations that the cards of these methods share.
SHARED_MASK = "the dropout mask of tokens that all prompts share is drawn once for all classes"
ENCODED_VIEWS = "with a frozen image encoder its augmented views are encoded ahead of training"


@dataclass(frozen=True)
class LowRankTuning:
    """Low-rank updates of both encoders' matrices, trained by CLIP-LoRA's schedule."""

    name: ClassVar[str]

    rank: int = hyper(2, "rank r of every update", source=f"{PAPER}, p. 5")
    alpha: float = hyper(1.0, "numerator of the scaling", source="run_utils.py:22-35")
    dropout: float = hyper(0.25, "dropout on the updates' input", source=f"{PAPER}, p. 5")
    encoder: Literal["both", "vision", "text"] = hyper(
        "both", "which encoders are adapted", source=f"{PAPER}, Fig. 3"
    )
    matrices: str = hyper(
        "qkv", "which matrices are adapted: letters of q k v o m", source=f"{PAPER}, Fig. 3"
    )
    iterations: int = hyper(
        500, "training steps per shot", unit="steps/shot", source=f"{PAPER}, p. 5"
    )
    lr: float = hyper(2e-4, "learning rate of AdamW", source=f"{PAPER}, p. 5")
    weight_decay: float = hyper(1e-2, "weight decay of AdamW", source="lora.py:75")
    batch_size: int = hyper(32, "images per step", unit="images", source=f"{PAPER}, p. 5")

    def __post_init__(self) -> None:
        """UsageError for values out of range."""
        require_choices(self)
        require_positive(self, "rank", "iterations", "batch_size", "lr")
        require_not_negative(self, "alpha", "weight_decay")
        require(self, "dropout", 0 <= self.dropout < 1, "a number in [0, 1)")
        letters = set(self.matrices)
        valid = bool(letters) and letters <= set(MATRICES) and len(letters) == len(self.matrices)
        expected = "distinct letters of q, k, v, o, m without separators, such as 'qkv'"
        require(self, "matrices", valid, expected)

    def quick(self) -> Self:
        """Two steps per shot, for the conformance kit."""
        return replace(self, iterations=2)

    @property
    def cannot_take_texts(self) -> str:
        """The reason why no texts describe its classes, if it adapts the text encoder."""
        return "" if self.encoder == "vision" else ENCODES_TEXTS

    def views_per_image(self, shots: int, classes: int) -> int:
        """Views of each support image to encode with a frozen image encoder; 0 if it is adapted."""
        if self.encoder != "text":
            return 0
        steps = steps_per_epoch(shots * classes, self.batch_size, drop_last=False)
        return math.ceil(self.iterations * shots / max(1, steps))

    @property
    def gain(self) -> float:
        """The factor s of the updates s B A: alpha / sqrt(r), as rsLoRA (Kalajdzievski 2023)."""
        return self.alpha / math.sqrt(self.rank)

    def layers(self, depth: int) -> range:
        """The layers of an encoder that are adapted: all."""
        return range(depth)

    def schedule(self, steps: int) -> Schedule:
        """AdamW with a cosine from `lr` down to 1e-6, or constant for a smaller `lr`."""
        return Schedule(steps, self.lr, min(LAST_RATE, self.lr), self.weight_decay)

    def model(self, task: Vocabulary, backbone: Backbone, ctx: Encoding) -> LoraModel:
        """The frozen part of the model."""
        vision, text = self.encoder != "text", self.encoder != "vision"
        start = self.layers(backbone.text_tower().layers).start if text else 0
        return model_of(backbone, task, ctx, vision=vision, text=text, text_start=start)

    def sized_model(self, task: Task, backbone: Backbone, ctx: RunContext) -> LoraModel:
        """`model`, with recomputation and chunks where memory is short."""
        size = min(self.batch_size, len(task.train))
        model = self.model(task, backbone, ctx)
        return model.within_memory(size, backbone.device, ctx.memory_parts, ctx.precision)

    def adapter(self, model: LoraModel, device: torch.device, ctx: RunContext) -> LowRank:
        """New updates at the chosen sites; with them, the model still equals CLIP exactly."""
        matrices = [
            name for letter, names in MATRICES.items() if letter in self.matrices for name in names
        ]
        sites = []
        for encoder, tower in (("vision", model.vision), ("text", model.text)):
            if tower is not None:
                sites += tower_sites(tower, encoder, self.layers(tower.layers), matrices)
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
        """Train the given parameters for `iterations` steps per shot."""
        steps = self.iterations * task.shots
        if model.recompute:
            ctx.note(recomputed=sorted(model.recompute))
        batches = self.batches(model, steps, task, backbone, ctx)
        self.schedule(steps).train(parameters, backward, batches, ctx)

    def batches(
        self, model: LoraModel, steps: int, task: Task, backbone: Backbone, ctx: RunContext
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of augmented pixels, or of features of augmented views (frozen image encoder)."""
        train, size = task.train, self.batch_size
        epochs = math.ceil(steps / steps_per_epoch(len(train), size, drop_last=False))
        how: dict[str, Any] = {"augment": Augment(), "drop_last": False, "epochs": epochs}
        if model.vision is not None:
            return pixel_batches(train, size, backbone.device, ctx, **how)
        return view_batches(train, size, backbone.embed_dim, ctx, **how)
