"""KgCoOp: prompt learning regularized toward the hand-written prompts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

from torch import Tensor

from fewshot_bench import Backbone, MethodCard, Vocabulary, hyper
from fewshot_bench.training import Loss, PromptBatch, PromptLearner, require_not_negative
from fsbench_methods import papers


@dataclass(frozen=True)
class KgCoOp(PromptLearner):
    """Knowledge-guided context optimization (Yao et al., CVPR 2023).

    A shared context, initialized with "a photo of a", is trained with cross-entropy plus `weight`
    times one minus the mean cosine between the class features of the learned prompts and the frozen
    class features of the task's templates. 100 epochs at every number of shots, batches of 128. The
    official optimizer also lists a bias and a meta-net that receive no gradient; they are omitted
    here (2,048 parameters at ViT-B/16).
    """

    name: ClassVar[str] = "kgcoop"
    version: ClassVar[str] = "1"
    card: ClassVar[MethodCard] = MethodCard(
        "kgcoop-100",
        family="text prompts",
        paper=papers.OF_METHOD["kgcoop"],
        cost="minutes",
        trained=lambda s: 4 * s.text,
        text="templates",
        official={
            "templates": "one per data set, the run's custom ones except on DTD "
            "('a photo of a {}, a type of texture.')"
        },
        deviations=(
            "weight 8 as in the published scripts; train.py's default is 1",
            "the context is trained in float32, not in half precision without a loss scaler",
        ),
    )

    context_init: str = hyper(
        "a photo of a",
        "words whose embeddings start the context; empty: random",
        source="KgCoOp trainers/kgcoop.py (CTX_INIT)",
    )
    epochs: int = hyper(
        100,
        "passes over the support set; 0: by shots (1: 50, 2 to 4: 100, more: 200)",
        unit="epochs",
        source="KgCoOp configs/trainers/KgCoOp",
    )
    batch_size: int = hyper(
        128, "images per step", unit="images", source="KgCoOp configs/trainers/KgCoOp"
    )
    weight: float = hyper(
        8.0, "weight of the distance to the frozen prompts", source="KgCoOp scripts/xd_train.sh:8"
    )

    def __post_init__(self) -> None:
        """UsageError for values out of range."""
        super().__post_init__()
        require_not_negative(self, "weight")

    def quick(self) -> Self:
        """Fewer and smaller steps, for the conformance kit and its random text encoder."""
        return replace(self, epochs=40, lr=5e-4)

    def losses(self, task: Vocabulary, backbone: Backbone) -> tuple[Loss, ...]:
        """Cross-entropy and the distance to the frozen prompts, as one loss."""
        frozen = backbone.class_features(task)

        def loss(batch: PromptBatch) -> Tensor:
            distance = 1 - (batch.classes * frozen).sum(dim=-1).mean()
            return batch.cross_entropy() + self.weight * distance

        return (loss,)
