"""ProGrad: prompt learning along gradients that do not conflict with zero-shot CLIP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_bench import Backbone, MethodCard, Published, RunContext, Vocabulary, hyper
from fewshot_bench.backbones import TextTower
from fewshot_bench.training import Loss, PromptBatch, PromptLearner, require_not_negative
from fewshot_bench.training.provisional import embedded_words
from fsbench_methods import papers


@dataclass(frozen=True)
class ProGrad(PromptLearner):
    """Prompt-aligned gradient (Zhu et al., ICCV 2023).

    For each batch, g is the gradient of the cross-entropy with the labels and k that of the
    cross-entropy with zero-shot CLIP's probabilities (of the task's templates), both for the shared
    context. If they conflict (g k < 0), `strength` times the part of g along k is removed:
    g - strength (g k) k / |k|^2. The context starts at zero vectors followed by the words before
    the class name in the task's first template (zero vectors only if there are none). CoOp's
    schedule. A step has one forward pass and two backward passes.
    """

    name: ClassVar[str] = "prograd"
    version: ClassVar[str] = "1"
    fits_words: ClassVar[bool] = True
    card: ClassVar[MethodCard] = MethodCard(
        "coop-50/100/200",
        family="text prompts",
        paper=papers.OF_METHOD["prograd"],
        cost="minutes",
        trained=lambda s: 16 * s.text,
        text="templates",
        official={
            "templates": "its own, one per data set ('a type of food, a photo of {}.')",
        },
        deviations=(
            "all tokens of the template's words are aligned to the right; the official code counts "
            "words, so that a comma pushes the last ones out of what is trained",
            "the teacher computes in the precision of the run, not in float32",
            "the context is trained in float32, not in half precision without a loss scaler",
            "published with ResNet-50 alone: rows on ViTs are other people's",
        ),
        published=(
            Published(
                {"strength": 0.8},
                ("oxford_flowers", "dtd", "eurosat"),
                shots=(8, 16),
                base_to_new=False,
                source="ProGrad README:52",
            ),
        ),
    )

    context_tokens: int = hyper(
        16, "context tokens M", unit="tokens", source="ProGrad configs/trainers/ProGrad"
    )
    context_init: str = hyper(
        "",
        "words that end the initial context; empty: those before the name in the template",
        source="ProGrad trainers/prograd.py (CTX_INIT)",
    )
    random_init: bool = hyper(
        False, "start at a random context instead", source="ProGrad trainers/prograd.py"
    )
    strength: float = hyper(
        1.0, "share of the contradicting part that is removed", source="ProGrad README (LAMBDA)"
    )

    def __post_init__(self) -> None:
        """UsageError for values out of range."""
        super().__post_init__()
        require_not_negative(self, "strength")
        if self.random_init:
            self.require_unset("context_init", "no words beside random_init=True")
        else:
            self.require_unset("init_std", "no value without random_init=true")

    def quick(self) -> Self:
        """Fewer epochs of words alone, for the conformance kit and its random text encoder."""
        return replace(self, epochs=40, context_tokens=4)

    def initial_context(
        self, task: Vocabulary, backbone: Backbone, tower: TextTower, ctx: RunContext
    ) -> Tensor:
        """(M, width): zero vectors, then words (the last M tokens); or random normal."""
        if self.random_init:
            return self.random_context((self.context_tokens, tower.width), backbone, ctx)
        before = task.templates[0].partition("{}")[0].strip()
        words = embedded_words(self.context_init or before, backbone, tower)[-self.context_tokens :]
        return F.pad(words, (0, 0, self.context_tokens - len(words), 0))

    def losses(self, task: Vocabulary, backbone: Backbone) -> tuple[Loss, ...]:
        """Cross-entropy with the labels, and with the probabilities of zero-shot CLIP."""
        frozen = backbone.class_features(task)

        def to_teacher(batch: PromptBatch) -> Tensor:
            teacher = (batch.scale * batch.images @ frozen.T).softmax(dim=-1)
            return F.cross_entropy(batch.logits, teacher)

        return PromptBatch.cross_entropy, to_teacher

    def combined(self, gradients: Sequence[Tensor]) -> Tensor:
        """The cross-entropy gradient without its part that conflicts with the teacher gradient."""
        g, k = gradients
        # k may be zero (one class): then there is no conflict. An overflow in k stays non-finite.
        along = (g * k).sum() / (k * k).sum().clamp_min(torch.finfo(k.dtype).tiny)
        return g - self.strength * along.clamp(max=0) * k
