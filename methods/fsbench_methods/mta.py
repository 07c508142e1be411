"""MTA: the mode of a query's views, found by mean shift with a weight for each view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_bench import Backbone, MethodCard, Published, RunContext, Task, hyper
from fewshot_bench.training import require, require_not_negative, require_positive
from fsbench_methods import papers
from fsbench_methods.query_views import ViewClassifier

ROUNDS, STEPS, TOLERANCE = 5, 5, 1e-6
"""Rounds, most steps of either kind in a round, and the change at which they end (mta.py:17-75)."""
NEAREST = 0.3
"""The share of the other views whose distances give a view's bandwidth (mta.py:27)."""
FLOOR = 1e-6
"""The least squared bandwidth: rounding of squared distances between unit vectors is a tenth."""


@dataclass(frozen=True)
class MtaClassifier(ViewClassifier):
    """Zero-shot classification of the mode of the views."""

    lambda_q: float
    lambda_y: float

    def answer(self, views: Tensor) -> Tensor:
        """(b, classes): scaled cosines of the modes with the class prompts."""
        probabilities = self.score(views).softmax(dim=-1)
        affinity = probabilities @ probabilities.mT
        return self.score(find_modes(views, affinity, self.lambda_q, self.lambda_y))


def find_modes(views: Tensor, affinity: Tensor, lambda_q: float, lambda_y: float) -> Tensor:
    """(b, embed) unit modes of views (b, v, embed); affinity (b, v, v) of their predictions.

    Rounds of two solvers: inlier scores y = softmax((k + lambda_q A y) / lambda_y), and mean shift
    m = unit(sum k y x) from the plain view, where k = exp(-|x - m|^2 / 2 h^2) (equations 5 to 8).
    """
    width = bandwidths(views)
    mode = views[:, :1]
    scores = views.new_full((*views.shape[:2], 1), 1 / views.shape[1])
    for _ in range(ROUNDS):
        kernel = log_kernel(views, mode, width).exp()
        ended = torch.zeros_like(scores[:, :1], dtype=torch.bool)
        for _ in range(STEPS):
            moved = ((kernel + lambda_q * affinity @ scores) / lambda_y).softmax(dim=1)
            scores, ended = _step(scores, moved, ended)
        ended = torch.zeros_like(ended)
        for _ in range(STEPS):
            # Shares add up to one, so that no sum of small kernels is divided by.
            shares = (log_kernel(views, mode, width) + scores.log()).softmax(dim=1)
            moved = F.normalize(shares.mT @ views, dim=-1)
            mode, ended = _step(mode, moved, ended)
    return mode[:, 0]


def bandwidths(views: Tensor) -> Tensor:
    """(b, v, 1): h^2, half the mean squared distance of a view to its nearest others."""
    others = views.shape[1] - 1
    squares = (2 - 2 * views @ views.mT).clamp(min=0)
    itself = torch.eye(others + 1, dtype=torch.bool, device=views.device)
    near = squares.masked_fill(itself, torch.inf)
    near = near.topk(max(1, int(NEAREST * others)), largest=False).values
    return (near.mean(dim=-1, keepdim=True) / 2).clamp(min=FLOOR)


def log_kernel(views: Tensor, mode: Tensor, width: Tensor) -> Tensor:
    """(b, v, 1): -|x - m|^2 / 2 h^2 of views (b, v, embed) and modes (b, 1, embed)."""
    # Differences first: of unit vectors that are close, 2 - 2 x m would keep few digits.
    return -(views - mode).square().sum(dim=-1, keepdim=True) / (2 * width)


def _step(old: Tensor, new: Tensor, ended: Tensor) -> tuple[Tensor, Tensor]:
    """New values of queries whose steps have not ended, and those that end with this one."""
    still = (new - old).norm(dim=(1, 2), keepdim=True) < TOLERANCE
    return torch.where(ended, old, new), ended | still


@dataclass(frozen=True)
class Mta:
    """MeanShift for test-time augmentation (Zanella and Ben Ayed, CVPR 2024). Nothing is trained.

    Of 64 views of a query, each with its own bandwidth, the mode is found by mean shift from the
    plain view, where inlier scores lower the weight of views whose predictions differ from those of
    the others. The mode is classified like any image feature. The official prompt is "a photo of a
    {}." on every data set.
    """

    name: ClassVar[str] = "mta"
    version: ClassVar[str] = "1"
    trains: ClassVar[bool] = False

    views: int = hyper(
        64,
        "views of a query, the plain one included",
        unit="views",
        source="MTA main.py:173",
    )
    lambda_q: float = hyper(4.0, "weight of agreeing predictions", source="MTA main.py:346")
    lambda_y: float = hyper(0.2, "temperature of the inlier scores", source="MTA main.py:347")

    @property
    def card(self) -> MethodCard:
        """The method card; its views are an option."""
        return MethodCard(
            "none",
            at_test="crops of the image",
            sees="views",
            views_per_query=self.views,
            family="at test time",
            paper=papers.OF_METHOD["mta"],
            cost="closed form",
            trained=lambda s: 0,
            published=(Published({}, prompts="simple", source="MTA main.py:339"),),
            deviations=(
                "features have the precision of the run; the official ones and all steps on them "
                "are in half precision",
                "bandwidths have a floor, where equal views make the official code return NaN",
            ),
        )

    def __post_init__(self) -> None:
        """UsageError for values out of range."""
        require(self, "views", self.views >= 2, "at least 2, the plain one included")
        require_not_negative(self, "lambda_q")
        require_positive(self, "lambda_y")

    def views_per_image(self, shots: int, classes: int) -> int:
        """0: no support image is used."""
        return 0

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> MtaClassifier:
        """Encode the class prompts; no image is used."""
        classes = backbone.class_features(task)
        return MtaClassifier(classes, backbone, self.views, self.lambda_q, self.lambda_y)
