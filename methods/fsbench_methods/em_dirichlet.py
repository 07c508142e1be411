"""EM-Dirichlet and hard EM-Dirichlet: queries as clusters of Dirichlet distributions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from fewshot_bench import Backbone, Images, MethodCard, RunContext, Task, hyper
from fewshot_bench.training import require, require_positive
from fsbench_methods import papers
from fsbench_methods.support_nodes import SupportedClassifier, read_support

_CODE = "transductive-CLIP"
EPS, NEGLIGIBLE, EVERY, CLOSE = 1e-15, 1e-11, 50, 1e-11
"""Added in logarithms, and the mass of an empty cluster; where the curvature is its limit; steps
between tests of convergence, and the squared relative change that ends it (em_dirichlet.py:150-177
of zero_shot/)."""


def maximize(alpha: Tensor, means: Tensor, steps: int) -> Tensor:
    """Parameters (k, d) of Dirichlet distributions whose mean log x are `means`, from `alpha`.

    Each step maximizes a lower bound of the likelihood: lgamma(sum a) by its tangent, and
    lgamma(a + 1) by a quadratic function above it.
    """
    for step in range(steps):
        slope = torch.digamma(alpha + 1)
        above = 2 * (slope * alpha - torch.lgamma(alpha + 1)).abs() / alpha.square()
        curve = torch.where(alpha > NEGLIGIBLE, above, torch.pi**2 / 6)
        total = torch.digamma(alpha.sum(dim=1, keepdim=True))
        linear = slope - total - curve * alpha - means
        before, alpha = alpha, ((linear.square() + 4 * curve).sqrt() - linear) / (2 * curve)
        if step and step % EVERY == 0:
            change = (alpha - before).square().sum() / before.square().sum()
            if change < CLOSE:
                break
    return alpha


def match(log_u: Tensor, x: Tensor) -> Tensor:
    """Log u (n, k) with each cluster that has queries in the column of a class of its own.

    Classes are those with the largest sum of the clusters' mean probabilities x (n, classes), by
    the Hungarian algorithm; the other clusters take the classes that are left, in order.
    """
    from scipy.optimize import linear_sum_assignment

    found = log_u.argmax(dim=1)
    counts = found.bincount(minlength=x.shape[1])
    present, sums = counts.nonzero().flatten(), x.new_zeros(len(counts), len(counts))
    means = sums.index_add_(0, found, x)[present] / counts[present, None]
    _, classes = linear_sum_assignment(means.numpy(), maximize=True)
    taken, every = torch.as_tensor(classes), torch.arange(x.shape[1])
    others = every[~torch.isin(every, present)], every[~torch.isin(every, taken)]
    source = torch.cat([present, others[0]])
    return torch.empty_like(log_u).index_copy_(1, torch.cat([taken, others[1]]), log_u[:, source])


@dataclass(frozen=True)
class DirichletClassifier(SupportedClassifier):
    """Posterior probabilities of a mixture of Dirichlet distributions of the queries."""

    temperature: float
    penalty: int
    rounds: int
    steps: int
    hard: bool

    def logits(self, queries: Images) -> Tensor:
        """(n, classes): log posterior probabilities."""
        scale = self.temperature / self.backbone.logit_scale
        own = self.temperature * queries.features @ self.class_features.T
        # On the host: in double precision, which some devices lack, with tests of convergence.
        x = (scale * queries.scores if self.on else own).cpu().double().softmax(dim=1)
        near = (self.temperature * self.keys @ self.class_features.T).cpu().double().softmax(dim=1)
        logs, classes = (x + EPS).log(), x.shape[1]
        fixed = torch.nn.functional.one_hot(self.labels.cpu(), classes).double()
        seen, sums = fixed.sum(dim=0), fixed.T @ (near + EPS).log()
        weight = classes // 5 if self.penalty < 0 else self.penalty
        u, alpha = x, torch.ones(classes, classes, dtype=x.dtype)
        for number in range(self.rounds):
            mass = (u.sum(dim=0) + seen)[:, None]
            filled = (mass > EPS).flatten()
            means = ((u.T @ logs + sums) / mass)[filled]
            alpha = alpha.clone()
            alpha[filled] = maximize(alpha[filled], means, self.steps)
            dual = (u.mean(dim=0) + EPS).log() + 1
            density = torch.lgamma(alpha.sum(dim=1)) - torch.lgamma(alpha).sum(dim=1)
            log_u = (logs @ (alpha - 1).T + density + weight * dual).log_softmax(dim=1)
            u = log_u.exp()
            queries.progress(number + 1, self.rounds)
            if self.hard:
                u = torch.zeros_like(u).scatter_(1, log_u.argmax(dim=1, keepdim=True), 1.0)
        answers = log_u if len(self.labels) else match(log_u, x)
        return answers.float().to(self.class_features.device)


_DEVIATIONS = (
    "the steps of a batch end by its own change, not by that of many batches together, and empty "
    "clusters do not count in it",
    "double precision",
    "with support images the penalty is the same; the official few-shot code is told the number of "
    "classes among the queries",
    "answers are any number of queries of any classes; the official ones are tasks of 75 from at "
    "most ten classes",
    "the scale of another method's logits is divided by that of the backbone",
)


@dataclass(frozen=True)
class EmDirichlet:
    """Transductive zero-shot and few-shot CLIP (Martin et al., CVPR 2024), soft assignments.

    The probabilities x of a query over the classes, at temperature 30, are points of a simplex.
    Clusters of them are Dirichlet distributions, fitted by EM with a penalty on the number of
    clusters in use; each cluster with queries is matched to a class of its own. With support
    images, these stay in the cluster of their class, and nothing is matched.

    A step costs classes times the clusters in use, which are as many as queries at most: half a
    millisecond for 64 queries of 100 classes, and a round has up to 1,000 of them. So the test list
    of ImageNet takes hours, as one batch or in many; fewer `steps` are another method.
    """

    name: ClassVar[str] = "em-dirichlet"
    version: ClassVar[str] = "1"
    trains: ClassVar[bool] = False
    hard: ClassVar[bool] = False
    imports: ClassVar[tuple[str, ...]] = ("scipy.optimize",)
    card: ClassVar[MethodCard] = MethodCard(
        "closed form",
        sees="batch",
        family="transductive",
        paper=papers.OF_METHOD["em-dirichlet"],
        cost="closed form",
        trained=lambda s: 0,
        deviations=_DEVIATIONS,
    )

    on: str = hyper("", "a method whose logits give x, not the zero-shot ones")
    support: bool = hyper(False, "whether support images are in the clusters, without `on`")
    temperature: float = hyper(
        30.0, "factor of the cosines before the softmax", source=f"{_CODE}, config/main_config.yaml"
    )
    penalty: int = hyper(
        -1,
        "weight of the classes' shares; -1: a fifth of the number of classes",
        source=f"{_CODE}, src/methods/zero_shot/em_dirichlet.py:14",
    )
    rounds: int = hyper(
        20,
        "rounds of EM",
        unit="rounds",
        source=f"{_CODE}, config/methods_config/em_dirichlet.yaml",
    )
    steps: int = hyper(
        1000,
        "most steps for the distributions in a round",
        unit="steps",
        source=f"{_CODE}, config/methods_config/em_dirichlet.yaml",
    )

    def __post_init__(self) -> None:
        """UsageError for values out of range."""
        require_positive(self, "temperature", "rounds", "steps")
        require(self, "penalty", self.penalty >= -1, "at least 0, or -1 for a fifth of the classes")

    def quick(self) -> EmDirichlet:
        """Two rounds of few steps."""
        return replace(self, rounds=2, steps=50)

    def views_per_image(self, shots: int, classes: int) -> int:
        """0: support images are used as they are."""
        return 0

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> DirichletClassifier:
        """Encode the class prompts, and support images if they are used."""
        support = read_support(task, backbone, self.on, used=self.support)
        settings = self.temperature, self.penalty, self.rounds, self.steps, self.hard
        return DirichletClassifier(*support, *settings)


@dataclass(frozen=True)
class HardEmDirichlet(EmDirichlet):
    """The same with hard assignments: after each round, a query is in its likeliest cluster."""

    name: ClassVar[str] = "hard-em-dirichlet"
    hard: ClassVar[bool] = True

    rounds: int = hyper(
        10,
        "rounds of EM",
        unit="rounds",
        source=f"{_CODE}, config/methods_config/hard_em_dirichlet.yaml",
    )
