"""MMA: adapters beside the upper blocks of both encoders, with a layer that both share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Optimizer

from fewshot_bench import Backbone, MethodCard, Published, RunContext, Vocabulary, hyper
from fewshot_bench.backbones import Edits
from fewshot_bench.training import (
    Encoders,
    Learned,
    momentum_sgd,
    require_not_negative,
    require_positive,
)
from fewshot_bench.training.provisional import CosineEpochs
from fsbench_methods import papers
from fsbench_methods.lora_layers import product_dtype

_REPO = "configs/trainers/MultiModalAdapter"


class _Scaled(torch.autograd.Function):
    """Identity whose gradient is multiplied by a factor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None]:
        return outer[0] * ctx.factor, None


def _scale(x: Tensor, factor: float) -> Tensor:
    scaled: Tensor = _Scaled.apply(x, factor)  # type: ignore[no-untyped-call]
    return scaled


@dataclass(frozen=True)
class Adapters:
    """The branch of both towers: scale * up(shared(down(normed))), added to a block's output.

    learned: weights of each block, the last entry for the last block; layers: number of layers of
    each tower. The weights get the gradients of an unscaled branch; the gradient that
    reaches the branch's input is multiplied by `scale`.
    """

    learned: Mapping[str, Sequence[Tensor]]
    layers: Mapping[str, int]
    scale: float

    def __call__(
        self, encoder: str, layer: int, point: str, normed: Tensor, output: Tensor
    ) -> Tensor | None:
        """(t, width) to (t, width) for whole upper blocks; None at all other points."""
        of = self.learned
        index = layer - self.layers[encoder] + len(of["shared.weight"])
        if point != "block" or index < 0:
            return None
        hidden = _scale(normed, self.scale)
        for name in (f"{encoder}.down", "shared"):
            hidden = F.linear(hidden, of[f"{name}.weight"][index], of[f"{name}.bias"][index]).relu()
        up = F.linear(hidden, of[f"{encoder}.up.weight"][index], of[f"{encoder}.up.bias"][index])
        return _scale(self.scale * up, 1 / self.scale)


@dataclass(frozen=True)
class Mma(CosineEpochs):
    """Multi-modal adapter (Yang et al., CVPR 2024).

    Each of the upper `depth` blocks of both encoders, counted from the top, has a parallel adapter:
    down to `adapter_width`, a layer of that width that both encoders share, and up again, times
    `scale`. SGD without warm-up. One configuration for all data sets; its 5 epochs are the
    base-to-new schedule, as no few-shot schedule is published.
    """

    name: ClassVar[str] = "mma"
    version: ClassVar[str] = "1"
    card: ClassVar[MethodCard] = MethodCard(
        "mma-5",
        family="adapters inside",
        paper=papers.OF_METHOD["mma"],
        cost="minutes",
        trained=lambda s: min(8, s.layers) * (65 * (s.vision + s.text) + 1120),
        deviations=("the data set's templates stand for `a photo of a {}.`",),
        published=(Published({"batch_size": 128}, ("imagenet",), source="MMA's repository"),),
    )

    depth: int = hyper(8, "upper blocks with adapters; a tower may have fewer", source=_REPO)
    adapter_width: int = hyper(32, "width of the adapters", source=_REPO)
    scale: float = hyper(1e-3, "factor of the adapters' output", source=_REPO)
    lr: float = hyper(1.5e-3, "learning rate of SGD", source=_REPO)
    momentum: float = hyper(0.9, "momentum of SGD", source="Dassl defaults")
    batch_size: int = hyper(16, "images per step", unit="images", source=_REPO)

    def __post_init__(self) -> None:
        """UsageError for values out of range."""
        super().__post_init__()
        require_positive(self, "depth", "adapter_width", "scale")
        require_not_negative(self, "momentum")

    def initial(self, task: Vocabulary, backbone: Backbone, ctx: RunContext) -> dict[str, Tensor]:
        """Normal weights of variance 2 / outputs (Kaiming, fan_out), biases of 0."""
        vision, text = backbone.image_tower(), backbone.text_tower()
        blocks = min(self.depth, vision.layers, text.layers)
        inner, rng = self.adapter_width, ctx.rng("init")
        shapes = {"shared": (inner, inner)}
        for name, width in (("text", text.width), ("vision", vision.width)):
            shapes |= {f"{name}.down": (inner, width), f"{name}.up": (width, inner)}
        values = {}
        for name, (outputs, inputs) in shapes.items():
            weight = torch.empty(blocks, outputs, inputs)
            values[f"{name}.weight"] = weight.normal_(std=(2 / outputs) ** 0.5, generator=rng)
            values[f"{name}.bias"] = torch.zeros(blocks, outputs)
        return values

    def unchanged(self, backbone: Backbone) -> tuple[int, int]:
        """The blocks below the first adapter."""
        vision, text = backbone.image_tower().layers, backbone.text_tower().layers
        blocks = min(self.depth, vision, text)
        return vision - blocks, text - blocks

    def encoders(self, learned: Learned, frozen: Encoders) -> Encoders:
        """Both towers with the adapter branch."""
        assert frozen.vision is not None
        assert frozen.text is not None
        layers = {"vision": frozen.vision.layers, "text": frozen.text.layers}
        # All blocks at once: each slice would have a cast and a gradient of the whole.
        dtype = product_dtype(learned["shared.weight"].device)
        of_blocks = {name: value.to(dtype).unbind() for name, value in learned.items()}
        edits = Edits(branch=Adapters(of_blocks, layers, self.scale))
        return replace(frozen, vision_edits=edits, text_edits=edits)

    def optimizer(self, parameters: Sequence[Tensor]) -> Optimizer:
        """SGD with momentum."""
        return momentum_sgd(
            parameters, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay
        )
