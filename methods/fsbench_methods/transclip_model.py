"""The classifiers of TransCLIP, with support images and without."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_bench import Backbone, Images, Vocabulary
from fewshot_bench.training import BestOnValidation, unit
from fsbench_methods.neighbors import nearest
from fsbench_methods.transduction import FLOOR, TEMPERATURE, Group, report, start_scores

GAMMAS, WITHOUT_VALIDATION = (0.002, 0.01, 0.02, 0.2), 0.01
FIRST = 8
"""Queries whose mean is the first mean of a class."""


@dataclass(frozen=True)
class Support:
    """Unit features (s, d) with labels (s,), whose assignments are fixed."""

    features: Tensor
    labels: Tensor

    def start(self, otherwise: Tensor) -> Tensor:
        """(classes, d): unit sums of the features, and other means for classes without images."""
        sums = self.sums(otherwise)
        return torch.where(sums.square().sum(dim=1, keepdim=True) > 0, unit(sums), otherwise)

    def sums(self, like: Tensor) -> Tensor:
        """(classes, d): sums of the features of each class."""
        return torch.zeros_like(like).index_add_(0, self.labels, self.features)

    def pull(self, features: Tensor, classes: int, neighbors: int) -> Tensor:
        """(n, classes): what images add to their k nearest queries, their cosines over 2k."""
        cosines, numbers = nearest(self.features, features, neighbors)
        pulled, places = features.new_zeros(len(features), classes), (numbers, self.labels[:, None])
        return pulled.index_put_(places, cosines / (2 * neighbors), accumulate=True)


def first_means(group: Group) -> Tensor:
    """(classes, d): unit means of y q over the eight queries with the largest y of a class.

    In logarithms of y that are exact where y rounds to one, so that no order of queries decides.
    """
    scores = group.scores
    top = scores.argmax(dim=1, keepdim=True)
    rest = scores.scatter(1, top, -torch.inf).logsumexp(dim=1, keepdim=True)
    logs = scores.log_softmax(dim=1)
    logs.scatter_(1, top, F.logsigmoid(scores.gather(1, top) - rest))
    best, numbers = logs.topk(min(FIRST, len(logs)), dim=0)
    weights = (best - best[0]).exp()
    return unit(torch.einsum("jk,jkd->kd", weights, group.rows[numbers] + group.center))


def adapt(
    group: Group,
    start: Tensor,
    mu: Tensor,
    rounds: Iterable[int],
    support: Support | None = None,
    gamma: float = 0.0,
) -> Tensor:
    """(n, classes): log z after all rounds from the means `mu`, and a last assignment.

    start (n, classes): what is added to log densities and pulls, as the logarithm of y.
    """
    count, width = group.rows.shape
    z, variance = group.scores.softmax(dim=1), mu.new_full((1, width), 1 / width)
    for _ in rounds:
        z = group.assign(z, group.prior(start, mu, variance))
        sums = group.sums(z)
        if support is None:
            mu = unit(sums.features)
            spread = sums.total_spread(mu) / count
        else:
            weight = TEMPERATURE * gamma / len(support.labels)
            mu = unit(sums.features / count + weight * support.sums(mu))
            own = (support.features - mu[support.labels]).square().sum(dim=0)
            spread = (sums.total_spread(mu) / count + weight * own) / (1 + TEMPERATURE * gamma)
        variance = spread[None].clamp_min(FLOOR)
    return group.assign(z, group.prior(start, mu, variance), log=True)


@dataclass(frozen=True)
class ZeroShotClassifier:
    """Answers a group of queries from class prompts, or from the logits of another method."""

    class_features: Tensor
    scale: float
    backbone: Backbone
    on: str
    neighbors: int
    rounds: int

    def logits(self, queries: Images) -> Tensor:
        """(n, classes): log z of the queries, which are answered together."""
        scores = start_scores(queries, self.class_features, self.scale, self.on)
        group = Group.of(queries.features, scores, self.neighbors)
        return adapt(group, scores, first_means(group), report(queries, self.rounds))

    def for_classes(self, vocabulary: Vocabulary) -> ZeroShotClassifier:
        """The classifier of other class prompts."""
        return replace(self, class_features=self.backbone.class_features(vocabulary))

    def tensors(self) -> Mapping[str, Tensor]:
        """Empty: backbone, class names and templates determine the classifier."""
        return {}


@dataclass(frozen=True)
class FewShotClassifier:
    """The same with support images, whose weight gamma is chosen on validation images if it is 0.

    A validation image has the answer of its nearest query.
    """

    class_features: Tensor
    scale: float
    features: Tensor
    labels: Tensor
    val_features: Tensor
    val_labels: Tensor
    gamma: float
    neighbors: int
    rounds: int

    def logits(self, queries: Images) -> Tensor:
        """(n, classes): log z of the queries, for the first best of four gammas."""
        scores = start_scores(queries, self.class_features, self.scale, "")
        group = Group.of(queries.features, scores, self.neighbors)
        support = Support(self.features, self.labels)
        pulled = support.pull(queries.features, scores.shape[1], self.neighbors)
        start = pulled.add_(scores, alpha=0.5)
        mu = support.start(first_means(group))
        if self.gamma or not len(self.val_labels):
            rounds, gamma = report(queries, self.rounds), self.gamma or WITHOUT_VALIDATION
            return adapt(group, start, mu, rounds, support, gamma)
        _, closest = nearest(self.val_features, queries.features, 1)
        best, every = BestOnValidation(self.val_labels), report(queries, len(GAMMAS) * self.rounds)
        for gamma in GAMMAS:
            answers = adapt(group, start, mu, islice(every, self.rounds), support, gamma)
            best.offer(answers[closest[:, 0]], answers)
        return best.kept[0]

    def tensors(self) -> Mapping[str, Tensor]:
        """Unit features and labels of the support images (s, d) and of validation images (v, d)."""
        names = ("features", "labels", "val_features", "val_labels")
        return {name: getattr(self, name) for name in names}
