"""WiSE-FT for linear heads: the mean of the zero-shot head and a trained one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from fewshot_bench import Backbone, MethodCard, RunContext, Task, hyper
from fewshot_bench.training import (
    LinearClassifier,
    raw_class_features,
    require,
    require_positive,
    unit,
)
from fsbench_methods import papers
from fsbench_methods.cross_modal import OFFICIAL, SCALE, TIED
from fsbench_methods.head_search import HeadSearch, Samples


@dataclass(frozen=True)
class WiseFt:
    """Weight-space ensembling (Wortsman et al., CVPR 2022) of a linear head on frozen features.

    A head that starts at the mean raw text features, at unit length, is trained and interpolated
    with its start at a fixed `alpha`; the default is the paper's advice without data to choose it.
    The paper trains on whole data sets; here the head is trained as in the few-shot comparison of
    Lin et al. (2023, `uni_modal`): as in `cross-modal`, without prompts among the samples. The
    image encoder stays frozen.
    """

    name: ClassVar[str] = "wise-ft"
    version: ClassVar[str] = "2"
    tied_to_classes: ClassVar[str] = TIED
    poolings: ClassVar[tuple[str, ...]] = ("unit-mean",)
    card: ClassVar[MethodCard] = MethodCard(
        schedule="cross-modal-12800",
        family="linear head",
        paper=papers.OF_METHOD["wise-ft"],
        cost="minutes",
        trained=lambda s: s.classes * s.features,
        official=OFFICIAL | {"alpha": "swept on test sets in the paper, 0.5 advised"},
        deviations=(
            "the head alone is trained: the paper fine-tunes the image encoder with it",
            SCALE,
        ),
    )

    alpha: float = hyper(0.5, "share of the trained head", source="WiSE-FT, section 3")
    iterations: int = hyper(
        12800, "steps of each training", unit="iterations", source="as cross-modal"
    )

    def __post_init__(self) -> None:
        """UsageError for values out of range."""
        require(self, "alpha", 0 <= self.alpha <= 1, "a share in [0, 1]")
        require_positive(self, "iterations")

    def quick(self) -> WiseFt:
        """A short schedule for the conformance kit."""
        return replace(self, iterations=200)

    def views_per_image(self, shots: int, classes: int) -> int:
        """One view of each support image: its mirror image."""
        return 1

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> LinearClassifier:
        """Trains a head on images, and interpolates."""
        scale = backbone.logit_scale
        start = unit(raw_class_features(backbone, task))
        search = HeadSearch(start, (Samples.of_images(task.train),), scale, self.iterations)
        trained = search.best(task.val, ctx)
        return LinearClassifier(scale * ((1 - self.alpha) * start + self.alpha * trained))
