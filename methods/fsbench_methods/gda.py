"""GDA: zero-shot CLIP combined with Gaussian discriminant analysis on the support set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_bench import Augment, Backbone, MethodCard, Published, RunContext, Task, hyper
from fewshot_bench.training import (
    LinearClassifier,
    by_shots,
    require,
    require_not_negative,
    require_positive,
)
from fewshot_bench.training.provisional import bytes_of_views, count_correct, first_best, to_float64
from fsbench_methods import papers

ALPHAS = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)
BY_SHOTS = {1: 1e-3, 2: 0.1, 4: 0.1, 8: 1.0, 16: 10.0}
"""Shots to the median alpha of ten data sets and three seeds in the official fewshots.log."""
ROWS = 8192
"""Views per block, which bounds the memory in float64."""
_CODE = "GDA (Wang et al. 2024), main_few_shots.py"


@dataclass(frozen=True)
class Gda:
    """A hard-to-beat baseline for training-free adaptation (Wang et al., ICLR 2024).

    Classes are Gaussians in the space of unit features with one shared covariance, which is
    estimated on `views` augmented views of the support set, each a separate point, and inverted
    with shrinkage toward its mean variance. Logits are the zero-shot ones plus alpha times the
    discriminant. Unless it is given, alpha is the first best of seven values on the run's
    validation set (the official code uses the whole validation split, and the test set on
    ImageNet), or follows from the number of shots without validation data. Nothing is trained. The
    official base-to-new script synthesizes features of new classes from their nearest base classes,
    and takes the mean covariance of the base classes without shrinkage; here a class without images
    has no mean.
    """

    name: ClassVar[str] = "gda"
    version: ClassVar[str] = "3"
    trains: ClassVar[bool] = False
    tied_to_classes: ClassVar[str] = "it has a mean for each of the classes it was fitted on"
    card: ClassVar[MethodCard] = MethodCard(
        schedule="closed form",
        family="closed-form head",
        paper=papers.OF_METHOD["gda"],
        cost="closed form",
        trained=lambda s: 0,
        official={
            "validation set": "all of it (test set on ImageNet); here that of the run",
            "templates": "seven on ImageNet, one elsewhere",
        },
        deviations=("the scale of zero-shot logits is the backbone's own, not 100",),
        published=(Published({"crop": 0.08}, ("imagenet",), source="GDA datasets/imagenet.py"),),
    )

    views: int = hyper(
        10, "augmented views of an image", unit="views", source=f"{_CODE}:48; configs/*.yaml"
    )
    crop: float = hyper(0.5, "smallest crop, as a share of the image area", source=f"{_CODE}:22-27")
    alpha: float = hyper(
        0.0,
        "weight of the discriminant; 0: chosen on validation data, by shots without",
        source="GDA logs/fewshots.log, medians",
    )

    def __post_init__(self) -> None:
        """UsageError for values out of range."""
        require_positive(self, "views")
        require_not_negative(self, "alpha")
        require(self, "crop", 0 < self.crop <= 1, "a share in (0, 1]")

    def views_per_image(self, shots: int, classes: int) -> int:
        """Views of each support image that the covariance is estimated from."""
        return self.views

    def fit_bytes(self, images: int, classes: int, width: int) -> int:
        """All views at once, and one block of them with its labels in 64 bits."""
        return bytes_of_views(self.views, images, width) + 8 * ROWS * (3 * width + 2 * classes)

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> LinearClassifier:
        """Estimates the Gaussians, and chooses alpha on the validation set unless it is given."""
        ctx.declare_trained(0)
        points = task.train.views(self.views, Augment(scale=(self.crop, 1.0))).flatten(0, 1)
        labels = task.train.labels.repeat(self.views)
        weight, bias = discriminant(points, labels, len(task.classnames))
        zero_shot = backbone.logit_scale * backbone.class_features(task)
        alpha = self.alpha or by_shots(BY_SHOTS, task.shots)
        if task.val is not None and not self.alpha:
            features, targets = task.val.features, task.val.labels
            text, images = features @ zero_shot.T, features @ weight.T + bias
            alpha = ALPHAS[first_best([count_correct(text + a * images, targets) for a in ALPHAS])]
            ctx.count_selection(len(ALPHAS), len(targets))
        ctx.note(alpha=alpha)
        return LinearClassifier(zero_shot + alpha * weight, alpha * bias)


def discriminant(points: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Weight (classes, d) and bias (classes,) of Gaussians with one covariance, equal priors.

    P = d pinv((n - 1) S + tr(S) I) with the covariance S of the centered points (n, d);
    W = mu P, b = -log C - mu P mu / 2 (main_few_shots.py:55-64). In float64.
    """
    sums = to_float64(points.new_zeros(classes, points.shape[1]))
    labels = labels.to(sums.device)
    blocks = list(zip(torch.split(points, ROWS), torch.split(labels, ROWS), strict=True))
    for block, targets in blocks:
        sums += F.one_hot(targets, classes).double().T @ to_float64(block)
    means = sums / torch.bincount(labels, minlength=classes).clamp_min(1)[:, None]
    scatter = torch.zeros_like(sums.T @ sums)
    for block, targets in blocks:
        centered = to_float64(block) - means[targets]
        scatter += centered.T @ centered
    mean_variance = scatter.trace() / max(1, len(points) - 1)
    shrunk = scatter + mean_variance * torch.eye(len(scatter), device=scatter.device).double()
    weight = means @ (len(scatter) * torch.linalg.pinv(shrunk, hermitian=True))
    bias = -torch.log(torch.tensor(float(classes))) - (weight * means).sum(dim=1) / 2
    return weight.float().to(points.device), bias.float().to(points.device)
