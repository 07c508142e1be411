"""MaPLe: learned prompt tokens in the text encoder, mapped linearly into the image encoder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from fewshot_bench import Backbone, MethodCard, RunContext, Vocabulary, hyper
from fewshot_bench.training import Encoders, Learned, linear_start, require_positive
from fewshot_bench.training.provisional import TextPrompts
from fsbench_methods import papers
from fsbench_methods.deep_prompts import (
    DeepPrompts,
    appended,
    behind_start,
    first_rows,
    prompts_behind,
    require_words,
)

_REPO = "MaPLe's repository, configs/trainers/MaPLe"


@dataclass(frozen=True)
class MaPLe(DeepPrompts):
    """Multi-modal prompt learning (Khattak et al., CVPR 2023).

    `tokens` learned tokens follow the start token of every prompt, initialized with the first words
    of `context_init`; its other words stay fixed before the class name: of "a photo of a", two
    words are learned. Each of the first `depth` layers has its own tokens, which replace those of
    the layer before. The tokens behind the patches of an image are linear maps of the text tokens,
    one map per layer; all maps but the first have equal initial values (3,555,072 parameters at
    ViT-B/16). The schedule is the published one for base-to-new, as no few-shot setting is
    published. One configuration for all data sets.
    """

    name: ClassVar[str] = "maple"
    version: ClassVar[str] = "1"
    card: ClassVar[MethodCard] = MethodCard(
        "maple-5",
        family="deep prompts",
        paper=papers.OF_METHOD["maple"],
        cost="minutes",
        trained=lambda s: min(9, s.layers) * (2 * s.text + (s.text + 1) * s.vision),
        text="class names",
        deviations=(
            "the first rows and their map are trained in float32, not in half precision",
            "16 bits are trained with a loss scaler: the official code has none",
            "cross-dataset runs have the same setting (officially 3 layers, a rate of 2.6e-3 and "
            "2 epochs)",
        ),
    )

    tokens: int = hyper(2, "rows per layer and encoder", unit="tokens", source=_REPO)
    epochs: int = hyper(5, "passes over the support set", unit="epochs", source=_REPO)
    lr: float = hyper(3.5e-3, "learning rate of SGD", source=_REPO)

    def __post_init__(self) -> None:
        """UsageError for values out of range."""
        super().__post_init__()
        require_positive(self, "tokens")
        require_words(self, self.context_init, self.tokens)

    def quick(self) -> Self:
        """Twenty epochs of smaller steps, for the conformance kit and its random encoders."""
        return replace(self, epochs=20, lr=1e-3)

    def initial(self, task: Vocabulary, backbone: Backbone, ctx: RunContext) -> dict[str, Tensor]:
        """`rows` (layers, tokens, text width); `weight` and `bias` of one map per layer.

        Weights (layers, image width, text width) and biases are initialized like torch.nn.Linear:
        uniform within 1 / sqrt(inputs).
        """
        rng, text, image = ctx.rng("init"), backbone.text_tower(), backbone.image_tower()
        layers = min(self.depth, text.layers, image.layers)
        size = (layers, self.tokens, text.width)
        rows = torch.empty(size).normal_(std=self.init_std, generator=rng)
        words = first_rows(self, self.context_init, self.tokens, backbone)
        if words is not None:
            rows[0] = words
        # The first map has its own initial values, the others share theirs.
        first, other = (linear_start(image.width, text.width, rng) for _ in range(2))
        maps = zip(*[first, *[other] * (layers - 1)], strict=True)
        weight, bias = (torch.stack(values) for values in maps)
        return {"rows": rows, "weight": weight, "bias": bias}

    def prompts(self, vocabulary: Vocabulary, backbone: Backbone) -> tuple[TextPrompts, ...]:
        """Prompts of learned tokens, the fixed words, and the class name."""
        return (prompts_behind(self.context_init, self.tokens, vocabulary, backbone),)

    def encoders(self, learned: Learned, frozen: Encoders) -> Encoders:
        """Both towers with the learned tokens of each layer."""
        rows, bias = learned["rows"], learned["bias"]
        mapped = torch.baddbmm(bias[:, None], rows, learned["weight"].transpose(1, 2))
        return replace(
            frozen,
            vision_edits=appended(mapped),
            text_edits=behind_start(rows),
            context=rows[0],
        )
