"""IVLP: learned prompt tokens in the first layers of both encoders, independent of each other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from fewshot_bench import Backbone, MethodCard, RunContext, Vocabulary, hyper
from fewshot_bench.training import Encoders, Learned, require_positive
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

_REPO = "PromptSRC's repository, configs/trainers/IVLP"


@dataclass(frozen=True)
class Ivlp(DeepPrompts):
    """Independent vision-language prompting, the baseline of MaPLe and PromptSRC (CVPR 2023).

    `text_tokens` learned tokens follow the start token of every prompt, initialized with the words
    of `context_init`; `vision_tokens` learned tokens follow the patches of every image. Each of the
    first `depth` layers has its own tokens, which replace those of the layer before (46,080
    parameters at ViT-B/16). MaPLe's repository uses other settings: `text_tokens=2 vision_tokens=2
    depth=12 lr=3.5e-3 epochs=5`. One configuration for all data sets.
    """

    name: ClassVar[str] = "ivlp"
    version: ClassVar[str] = "1"
    card: ClassVar[MethodCard] = MethodCard(
        "ivlp-20",
        family="deep prompts",
        paper=papers.OF_METHOD["ivlp"],
        cost="minutes",
        trained=lambda s: 4 * min(9, s.layers) * (s.vision + s.text),
        text="class names",
        deviations=(
            "the first rows of texts are trained in float32, not in half precision",
            "16 bits are trained with a loss scaler: the official code has none",
        ),
    )

    text_tokens: int = hyper(4, "rows per layer of a text", unit="tokens", source=_REPO)
    vision_tokens: int = hyper(4, "rows per layer of an image", unit="tokens", source=_REPO)
    epochs: int = hyper(20, "passes over the support set", unit="epochs", source=_REPO)
    lr: float = hyper(2.5e-3, "learning rate of SGD", source=_REPO)

    def __post_init__(self) -> None:
        """UsageError for values out of range."""
        super().__post_init__()
        require_positive(self, "text_tokens", "vision_tokens")
        require_words(self, self.context_init, self.text_tokens)

    def initial(self, task: Vocabulary, backbone: Backbone, ctx: RunContext) -> dict[str, Tensor]:
        """`text` and `vision` (layers, tokens, width): random normal; text layer 0: words."""
        rng, text, image = ctx.rng("init"), backbone.text_tower(), backbone.image_tower()
        sizes = {
            "text": (min(self.depth, text.layers), self.text_tokens, text.width),
            "vision": (min(self.depth, image.layers), self.vision_tokens, image.width),
        }
        rows = {
            name: torch.empty(size).normal_(std=self.init_std, generator=rng)
            for name, size in sizes.items()
        }
        words = first_rows(self, self.context_init, self.text_tokens, backbone)
        if words is not None:
            rows["text"][0] = words
        return rows

    def prompts(self, vocabulary: Vocabulary, backbone: Backbone) -> tuple[TextPrompts, ...]:
        """Prompts of learned tokens, the remaining words of `context_init`, and the class name."""
        return (prompts_behind(self.context_init, self.text_tokens, vocabulary, backbone),)

    def encoders(self, learned: Learned, frozen: Encoders) -> Encoders:
        """Both towers with the learned tokens of each layer."""
        text = learned["text"]
        return replace(
            frozen,
            vision_edits=appended(learned["vision"]),
            text_edits=behind_start(text),
            context=text[0],
        )
