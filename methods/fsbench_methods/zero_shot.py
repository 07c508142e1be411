"""Zero-shot CLIP: the baseline without training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fewshot_bench import Backbone, Images, MethodCard, RunContext, Task, Vocabulary
from fewshot_bench.training import score_classes
from fsbench_methods import papers


@dataclass(frozen=True)
class ZeroShotClassifier:
    """Cosine similarity with the class prompts, times the logit scale."""

    class_features: Tensor
    backbone: Backbone

    def logits(self, queries: Images) -> Tensor:
        """(n, classes): scale * f W'."""
        images = self.backbone.logit_scale * queries.features
        return score_classes(images, self.class_features)

    def for_classes(self, vocabulary: Vocabulary) -> ZeroShotClassifier:
        """The zero-shot classifier of other class prompts."""
        return ZeroShotClassifier(self.backbone.class_features(vocabulary), self.backbone)

    def tensors(self) -> Mapping[str, Tensor]:
        """Empty: backbone, class names and templates determine the classifier."""
        return {}


@dataclass(frozen=True)
class ZeroShot:
    """Zero-shot CLIP (Radford et al. 2021; CoOp trainers/zsclip.py).

    Class weights are the mean of the unit features of the task's prompts, at unit length; logits
    are their cosines with the query times the backbone's logit scale (100 for OpenAI's weights).
    """

    name: ClassVar[str] = "zero-shot"
    version: ClassVar[str] = "1"
    poolings: ClassVar[tuple[str, ...]] = ("unit-mean", "mean", "max")
    card: ClassVar[MethodCard] = MethodCard(
        "none",
        family="zero-shot",
        paper=papers.OF_METHOD["zero-shot"],
        cost="closed form",
        trained=lambda s: 0,
    )

    def views_per_image(self, shots: int, classes: int) -> int:
        """0: no support image is used."""
        return 0

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> ZeroShotClassifier:
        """Encode the class prompts; no image is used."""
        return ZeroShotClassifier(backbone.class_features(task), backbone)
