"""StatA: transduction whose class statistics are anchored at the text features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from fewshot_bench import Backbone, Images, MethodCard, RunContext, Task, Vocabulary, hyper
from fewshot_bench.training import require_positive, unit
from fsbench_methods import papers
from fsbench_methods.transduction import FLOOR, Group, report, start_scores

_CODE = "StatA, solvers/StatA.py"


@dataclass(frozen=True)
class AnchoredClassifier:
    """Answers a group of queries by Gaussians that are kept near the class features."""

    class_features: Tensor
    scale: float
    backbone: Backbone
    on: str
    alpha: float
    neighbors: int
    rounds: int

    def logits(self, queries: Images) -> Tensor:
        """(n, classes): log z of the queries, which are answered together."""
        text = self.class_features
        scores = start_scores(queries, text, self.scale, self.on)
        group, z = Group.of(queries.features, scores, self.neighbors), scores.softmax(dim=1)
        common = (group.sums(z).total_spread(text) / len(z)).clamp_min(FLOOR)
        mu, variance, ones = text, common[None], torch.ones_like(z[:, :1])
        for _ in report(queries, self.rounds):
            z = group.assign(z, group.prior(scores, mu, variance))
            sums, own = group.sums(z), torch.zeros_like(text[:, :1])
            own.index_add_(0, z.argmax(dim=1), ones)
            beta = own / (own + self.alpha)
            mu = unit(beta * unit(sums.features) + (1 - beta) * text)
            # Where no query is the class's own, beta is 0, and the sum of z may be as well.
            inside = sums.spread(mu) / sums.mass.clamp_min(FLOOR)
            variance = beta * inside + (1 - beta) * (common + (text - mu).square())
            variance = variance.clamp_min(FLOOR)
        return group.assign(z, group.prior(scores, mu, variance), log=True)

    def for_classes(self, vocabulary: Vocabulary) -> AnchoredClassifier:
        """The classifier of other class prompts."""
        return replace(self, class_features=self.backbone.class_features(vocabulary))

    def tensors(self) -> Mapping[str, Tensor]:
        """Empty: backbone, class names and templates determine the classifier."""
        return {}


@dataclass(frozen=True)
class StatA:
    """Statistical anchors for transduction (Zanella et al., CVPR 2025).

    Queries have soft assignments z to classes, which are Gaussians with diagonal variances. z
    starts as the zero-shot probabilities y; in each round it is updated five times, z_i ~ y_i
    exp(log density + sum_j (w_ij + w_ji) z_j / 6), the density at temperature 50, w the cosines
    with the three nearest queries. Then means and variances of a class are those of its queries,
    weighted n / (n + alpha), and those of its text feature, where n is the number of queries whose
    largest z it has. So a class without queries stays at its text, and one setting serves batches
    of a few classes and whole test sets. Support images are not used. Logits are log z.

    `on` names a fitted method whose probabilities take the place of the zero-shot ones as y; the
    anchors stay those of the class features.
    """

    name: ClassVar[str] = "stata"
    version: ClassVar[str] = "2"
    trains: ClassVar[bool] = False
    card: ClassVar[MethodCard] = MethodCard(
        "closed form",
        at_test="the other queries of its batch, without labels",
        sees="batch",
        family="transductive",
        paper=papers.OF_METHOD["stata"],
        cost="closed form",
        trained=lambda s: 0,
        official={"templates": "one for each data set"},
        deviations=(
            "the variance of the anchors is divided by the number of queries once, not again "
            "after every 2,500 queries",
            "fewer than four queries have as many neighbors as there are other queries",
            "a query is no neighbor of its own, also where others are equal to it",
            "variances are at least 1e-8, for queries that are equal",
            "the scale of zero-shot logits is the backbone's own, not 100",
        ),
    )

    on: str = hyper("", "a method whose logits are the start instead of the zero-shot ones")
    alpha: float = hyper(
        1.0, "weight of an anchor, in queries", unit="queries", source=f"{_CODE}:165"
    )
    neighbors: int = hyper(
        3, "nearest queries that pull on each query", unit="queries", source=f"{_CODE}:165"
    )
    rounds: int = hyper(
        10, "updates of the assignments and the classes", unit="rounds", source=f"{_CODE}:165"
    )

    def __post_init__(self) -> None:
        """UsageError for values out of range."""
        require_positive(self, "alpha", "neighbors", "rounds")

    def views_per_image(self, shots: int, classes: int) -> int:
        """0: no support image is used."""
        return 0

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> AnchoredClassifier:
        """Encode the class prompts; queries are adapted to where they are answered."""
        settings = (self.on, self.alpha, self.neighbors, self.rounds)
        text = backbone.class_features(task)
        return AnchoredClassifier(text, backbone.logit_scale, backbone, *settings)
