"""ZERO: the most certain views of a query vote."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_bench import Backbone, MethodCard, Published, RunContext, Task, hyper
from fewshot_bench.training import require
from fsbench_methods import papers
from fsbench_methods.query_views import ViewClassifier, by_entropy

_CODE = "ZERO (Farina et al. 2024), ttas/zero.py"
LEAST = 1e-30
"""The least probability, so that its logarithm is finite."""


@dataclass(frozen=True)
class ZeroClassifier(ViewClassifier):
    """Votes of the views of lowest entropy."""

    keep: float

    def answer(self, views: Tensor) -> Tensor:
        """(b, classes): log((votes + p) / (k + 1)) for k kept views.

        p are the probabilities of the view that decides between leading classes: the most certain
        one of those not kept that predicts one of them (else of those kept).
        """
        logits, kept = self.score(views), max(1, int(self.keep * self.views))
        order = by_entropy(logits)
        predicted = logits.argmax(dim=-1).gather(1, order)
        votes = F.one_hot(predicted[:, :kept], logits.shape[-1]).sum(dim=1)
        leads = (votes == votes.amax(dim=-1, keepdim=True)).gather(1, predicted)
        asked = torch.cat([leads[:, kept:], leads[:, :kept]], dim=1)
        place = (asked.int().argmax(dim=1, keepdim=True) + kept) % self.views
        view = order.gather(1, place)[..., None].expand(-1, -1, logits.shape[-1])
        deciding = logits.gather(1, view)[:, 0].softmax(dim=-1)
        return ((votes + deciding) / (kept + 1)).clamp(min=LEAST).log()


@dataclass(frozen=True)
class Zero:
    """ZERO (Farina et al., NeurIPS 2024): votes of confident views. Nothing is trained.

    Of 64 views of a query, the 30 % whose predictions have the lowest entropy vote: their softmax
    at temperature zero, added up. Between classes with equally many votes, the other views decide
    in the order of their entropy. The official prompt is "a photo of a {}." on every data set.
    """

    name: ClassVar[str] = "zero"
    version: ClassVar[str] = "1"
    trains: ClassVar[bool] = False

    views: int = hyper(
        64, "views of a query, the plain one included", unit="views", source=f"{_CODE}:24"
    )
    keep: float = hyper(0.3, "share of the views that vote", source=f"{_CODE}:25")

    @property
    def card(self) -> MethodCard:
        """The method card; its views are an option."""
        return MethodCard(
            "none",
            at_test="crops of the image",
            sees="views",
            views_per_query=self.views,
            family="at test time",
            paper=papers.OF_METHOD["zero"],
            cost="closed form",
            trained=lambda s: 0,
            published=(Published({}, prompts="simple", source="ZERO scripts/zero.sh:6"),),
            deviations=(
                "votes are exact: the official temperature is the machine epsilon of the type of "
                "the logits, 1/1024 in its half precision, where close classes share a vote and "
                "ties practically never occur; with 1,000 classes, 11 of 300 answers differ",
                "features and logits have the precision of the run; the official half precision "
                "changes 16 of 1,500 answers and 0.4 points of accuracy",
                "answers are log((votes + p) / (kept + 1)), with p of the view that breaks ties; "
                "their nll and ece mean little",
                "where no other view predicts one of the tied classes, the most certain of those "
                "that voted decides; the official code then excludes classes by a wrong index",
            ),
        )

    def __post_init__(self) -> None:
        """UsageError for values out of range."""
        require(self, "views", self.views >= 2, "at least 2, the plain one included")
        require(self, "keep", 0 < self.keep <= 1, "a share in (0, 1]")

    def views_per_image(self, shots: int, classes: int) -> int:
        """0: no support image is used."""
        return 0

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> ZeroClassifier:
        """Encode the class prompts; no image is used."""
        return ZeroClassifier(backbone.class_features(task), backbone, self.views, self.keep)
