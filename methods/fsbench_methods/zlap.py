"""ZLaP: label propagation from class texts over nearest neighbors among the queries."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fewshot_bench import Backbone, Images, MethodCard, RunContext, Task, hyper
from fewshot_bench.training import require, require_not_negative, require_positive
from fsbench_methods import papers
from fsbench_methods.neighbors import CELLS, Links, nearest_others
from fsbench_methods.support_nodes import SupportedClassifier, read_support

_CODE = "ZLaP"
TOLERANCE, STEPS = 1e-6, 50
"""The largest relative residual of conjugate gradients, and the most steps (ZLaP, utils.py:54)."""
SMALLEST = 1e-12


@dataclass(frozen=True)
class Graph:
    """Nodes are classes, labeled images and queries, in this order; (I - alpha Wn) x = y on them.

    Wn = D^-1/2 (A + A') D^-1/2, D the sums of rows.
    """

    links: Links
    scales: Tensor
    alpha: float

    @classmethod
    def of(
        cls, images: Tensor, cosines: Tensor, neighbors: int, gamma: float, alpha: float
    ) -> Graph:
        """The graph of images (m, d), the last of which are the queries, with cosines (n, classes).

        Each image leads to its `neighbors` nearest ones, itself among them but not linked, and each
        query to as many nearest classes, their cosines to the power of `gamma`.
        """
        classes, first = cosines.shape[1], len(images) - len(cosines)
        close, others = nearest_others(images, neighbors - 1)
        likely, labels = cosines.topk(min(neighbors, classes), dim=1)
        total, device = classes + len(images), images.device
        numbers = torch.arange(classes, total, device=device)
        rows = numbers.repeat_interleave(others.shape[1])
        asked = numbers[first:].repeat_interleave(labels.shape[1])
        starts = torch.cat([rows, asked])
        ends = torch.cat([others.flatten() + classes, labels.flatten()])
        weights = torch.cat([close.flatten(), likely.clamp(min=0).flatten() ** gamma]).clamp(min=0)
        both = torch.cat([starts, ends]), torch.cat([ends, starts])
        links = Links.of(*both, weights.repeat(2), total)
        sums = links @ torch.ones(total, 1, device=device)
        return cls(links, torch.where(sums > 0, sums, torch.ones_like(sums)).rsqrt(), alpha)

    def _apply(self, x: Tensor) -> Tensor:
        """(I - alpha Wn) x."""
        return x - self.alpha * self.scales * (self.links @ (self.scales * x))

    def solve(self, y: Tensor) -> Tensor:
        """x (nodes, c) for y (nodes, c), each column by itself, by conjugate gradients.

        As many steps as surely suffice, so that nobody waits for a residual; a column that has
        reached the tolerance stays as it is.
        """
        spread = math.sqrt((1 + self.alpha) / (1 - self.alpha))
        rate = (spread - 1) / (spread + 1)
        enough = math.log(TOLERANCE / (2 * spread)) / math.log(rate) if rate > 0 else 1
        x, rest, to = torch.zeros_like(y), y.clone(), y
        norms = rest.square().sum(dim=0)
        aim = TOLERANCE**2 * norms
        for _ in range(min(STEPS, math.ceil(enough))):
            image = self._apply(to)
            step = torch.where(norms > aim, norms / (to * image).sum(dim=0), 0)
            x, rest = x + step * to, rest - step * image
            before, norms = norms, rest.square().sum(dim=0)
            to = rest + norms / before.clamp(min=SMALLEST**2) * to
        return x


@dataclass(frozen=True)
class ZlapClassifier(SupportedClassifier):
    """Scores of the classes at the queries, all of which are in one graph."""

    support: float
    neighbors: int
    gamma: float
    alpha: float

    def logits(self, queries: Images) -> Tensor:
        """(n, classes): logarithms of the scores."""
        features = queries.features
        cosines = features @ self.class_features.T
        if self.on:
            scores, best = queries.scores, cosines.amax(dim=1, keepdim=True)
            cosines = (scores - scores.amax(dim=1, keepdim=True)) / self.backbone.logit_scale + best
        images = torch.cat([self.keys, features])
        graph = Graph.of(images, cosines, self.neighbors, self.gamma, self.alpha)
        nodes, classes = len(graph.scales), cosines.shape[1]
        every = torch.arange(classes, device=features.device)
        size = max(1, CELLS // nodes)
        for part in (every[at : at + size] for at in range(0, classes, size)):
            y = torch.zeros(nodes, len(part), device=features.device)
            y[:classes] = (every[:, None] == part).float()
            y[classes : nodes - len(features)] = self.support * (self.labels[:, None] == part)
            cosines[:, part] = graph.solve(y)[-len(features) :]
        return cosines.clamp_(min=0).add_(SMALLEST).log_()


@dataclass(frozen=True)
class Zlap:
    """Label propagation for zero-shot classification (Stojnic et al., CVPR 2024).

    A graph has the classes and the queries as nodes; each query is linked with its nearest queries
    by their cosines, and with its nearest classes by their cosines to the power of gamma. The score
    of a class is that of its label, spread over the graph: x = (I - alpha Wn)^-1 y. Logits are log
    scores.
    """

    name: ClassVar[str] = "zlap"
    version: ClassVar[str] = "1"
    trains: ClassVar[bool] = False
    card: ClassVar[MethodCard] = MethodCard(
        "closed form",
        sees="batch",
        family="transductive",
        paper=papers.OF_METHOD["zlap"],
        cost="closed form",
        trained=lambda s: 0,
        deviations=(
            "a query is never among its own neighbors; the official code drops it where it is one "
            "of the five nearest, which others that are equal to it can prevent",
            "all classes are solved for at once, in float32, each to the same tolerance",
            "support images can be labeled nodes, and logits of another method can replace the "
            "cosines with the classes: the official code has neither",
        ),
    )

    on: str = hyper("", "a method whose logits link queries with classes, not the zero-shot ones")
    support: float = hyper(
        0.0, "weight of the labels of support images; 0: none are used, nor with `on`"
    )
    neighbors: int = hyper(
        5, "nearest images, itself included, and classes", source=f"{_CODE}, zlap.py:267"
    )
    gamma: float = hyper(5.0, "power of the cosines with classes", source=f"{_CODE}, zlap.py:268")
    alpha: float = hyper(
        0.3, "share of a score that comes from neighbors", source=f"{_CODE}, zlap.py:269"
    )

    def __post_init__(self) -> None:
        """UsageError for values out of range."""
        require_positive(self, "neighbors", "gamma")
        require_not_negative(self, "support")
        require(self, "alpha", 0 <= self.alpha < 1, "at least 0 and below 1")

    def views_per_image(self, shots: int, classes: int) -> int:
        """0: support images are used as they are."""
        return 0

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> ZlapClassifier:
        """Encode the class prompts, and support images if they are used."""
        support = read_support(task, backbone, self.on, used=self.support > 0)
        return ZlapClassifier(*support, self.support, self.neighbors, self.gamma, self.alpha)
