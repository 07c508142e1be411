"""CoOp: prompt learning by context optimization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from fewshot_bench import (
    Backbone,
    MethodCard,
    Published,
    RunContext,
    Vocabulary,
    hyper,
)
from fewshot_bench.backbones import TextTower
from fewshot_bench.training import PromptLearner
from fewshot_bench.training.provisional import CLASS_SPECIFIC, Prompts, build_prompts
from fsbench_methods import papers


@dataclass(frozen=True)
class CoOp(PromptLearner):
    """Context optimization (Zhou et al. 2022): M context vectors are learned, the rest is frozen.

    The frozen image encoder sees a new augmented view of every support image in every epoch; views
    are encoded before training, each once for all shots of a seed. `class_views` limits the number
    of views, which is cheaper but not exact. SGD, cosine per epoch after one epoch at `warmup_lr`
    (`dassl_rate` of `training.provisional`). The last checkpoint is kept. One schedule for all data
    sets; the official code trains 50 epochs on ImageNet at every number of shots (`epochs=50`).
    """

    name: ClassVar[str] = "coop"
    version: ClassVar[str] = "4"
    card: ClassVar[MethodCard] = MethodCard(
        "coop-50/100/200",
        family="text prompts",
        paper=papers.OF_METHOD["coop"],
        cost="minutes",
        trained=lambda s: 16 * s.text,
        text="class names",
        published=(Published({"epochs": 50}, ("imagenet",), source="CoOp COOP.md:13-21"),),
        deviations=(
            "the context is trained in float32, not in half precision without a loss scaler",
        ),
    )

    class_specific: bool = hyper(
        False, "one context per class (CSC) instead of a shared one", source="coop.py:84-86"
    )
    position: Literal["end", "middle", "front"] = hyper(
        "end", "where the class name stands in the prompt", source="coop.py:126-180"
    )

    @property
    def tied_to_classes(self) -> str:
        """The reason why only fitted classes can be predicted; empty if there is no such limit."""
        return CLASS_SPECIFIC if self.class_specific else ""

    def initial_context(
        self, task: Vocabulary, backbone: Backbone, tower: TextTower, ctx: RunContext
    ) -> Tensor:
        """(M, width), or (classes, M, width): random normal, or embeddings of `context_init`."""
        classes = len(task.classnames)
        if not self.class_specific:
            return super().initial_context(task, backbone, tower, ctx)
        if self.context_init:
            words = super().initial_context(task, backbone, tower, ctx)
            return words.expand(classes, -1, -1).clone()
        return self.random_context((classes, self.context_tokens, tower.width), backbone, ctx)

    def build(self, task: Vocabulary, backbone: Backbone, tower: TextTower, tokens: int) -> Prompts:
        """Prompts with the class name at the place given by `position`."""
        return build_prompts(
            task.classnames,
            backbone,
            tower,
            tokens=tokens,
            position=self.position,
            class_specific=self.class_specific,
        )
