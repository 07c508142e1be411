"""ProKeR: kernel ridge regression on the residuals of zero-shot CLIP on the support set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_bench import (
    Augment,
    Backbone,
    Images,
    MethodCard,
    NumericalError,
    RunContext,
    Shots,
    Task,
    hyper,
)
from fewshot_bench.training import (
    by_shots,
    require,
    require_choices,
    require_not_negative,
    require_positive,
    unit,
)
from fewshot_bench.training.provisional import (
    bytes_of_views,
    count_correct,
    first_best,
    row_blocks,
    to_float64,
)
from fsbench_methods import papers

ROWS = 1024


@dataclass(frozen=True)
class KernelClassifier:
    """Cosines with the class prompts, corrected by a kernel expansion over support points."""

    points: Tensor
    coefficients: Tensor
    beta: float
    class_features: Tensor

    def logits(self, queries: Images) -> Tensor:
        """(n, classes): f t' + K(f, S) A, in blocks of queries."""
        return torch.cat([self.score(block) for block in row_blocks(queries.features, ROWS)])

    def score(self, features: Tensor) -> Tensor:
        """(n, classes) of unit features."""
        kernel = gaussian(features, self.points, self.beta)
        return features @ self.class_features.T + kernel @ self.coefficients

    def tensors(self) -> Mapping[str, Tensor]:
        """Support points (m, d) and their coefficients (m, classes), and the kernel's beta."""
        return {
            "points": self.points,
            "coefficients": self.coefficients,
            "beta": torch.tensor(self.beta, dtype=torch.float64),
        }


class Ridge:
    """The linear system of one support set, solved in float64 for several constants."""

    def __init__(self, points: Tensor, labels: Tensor, text: Tensor, views: int = 1) -> None:
        """Unit points (m, d), labels (m,), unit class features (classes, d).

        views: the number of equal points that each point stands for.
        """
        self.points, self.text, self.views = points, text, views
        self.exponent = (points @ points.T).sub_(1)
        self.residual = to_float64(F.one_hot(labels, len(text)) - points @ text.T)

    def solve(self, beta: float, penalty: float) -> KernelClassifier:
        """The classifier whose coefficients solve (K / penalty + I / views) A = residual.

        NumericalError if rounding has left the system without a solution.
        """
        system = to_float64(self.exponent).mul_(beta).exp_().div_(penalty)
        system.diagonal().add_(1 / self.views)
        # The system is symmetric; its transpose has LAPACK's column-major layout and is factored in
        # place.
        factor = system.mT
        failed = torch.empty((), dtype=torch.int32, device=factor.device)
        torch.linalg.cholesky_ex(factor, out=(factor, failed))
        if int(failed):
            raise NumericalError(
                f"{ProKeR.name}: the kernel between {len(self.points)} support points is not "
                f"positive definite after rounding, at beta={beta:.4g} and penalty={penalty:.4g}; "
                f"try a larger penalty (-o {ProKeR.name}.penalty={max(0.1, 10 * penalty):.4g}), or "
                "fewer views"
            )
        half = torch.linalg.solve_triangular(factor, self.residual, upper=False)
        solved = torch.linalg.solve_triangular(factor.mT, half, upper=True)
        # Row-major, the layout of saved models.
        coefficients = solved.float().contiguous().to(self.points.device)
        return KernelClassifier(self.points, coefficients, beta, self.text)

    def correct(self, beta: float, penalty: float, val: Shots) -> Tensor:
        """The number of validation images that are classified correctly with these constants."""
        return count_correct(self.solve(beta, penalty).logits(val), val.labels)


def gaussian(features: Tensor, points: Tensor, beta: float) -> Tensor:
    """(n, m) kernel exp(-beta (1 - f x)) of unit rows."""
    return (features @ points.T).sub_(1).mul_(beta).exp_()


BETAS = tuple(torch.linspace(0.5, 3, 20).tolist())
PENALTIES = tuple(torch.linspace(0.001, 1, 10).tolist())
TRANSFERRED = {1: (3.0, 0.05), 2: (2.6, 0.05), 4: (1.5, 0.05), 8: (1.66, 0.07), 16: (1.7, 0.1)}
"""Shots to the beta and penalty that the official code found on ImageNet, for all other sets."""


@dataclass(frozen=True)
class ProKeR:
    """Proximal kernel ridge regression (Bendou et al., CVPR 2025).

    Logits are the cosines f t, without a logit scale, plus K(f, S) A: a Gaussian kernel expansion
    over the support set, with A solved from (K(S, S) / l + I) A = onehot - S t'. beta and l are the
    first best pair on the run's validation set, in a grid of 20 x 10 points that the official code
    uses for most data sets; without validation data, they are the official values of ImageNet for
    the number of shots. A value that is given is kept, and the other one is chosen beside it.
    Nothing is trained: the coefficients are a closed-form solution.

    A support point is the mean of an image's ten augmented views and counts as ten points: I / 10
    takes the place of I, so that with equal views nothing changes. The official code uses every
    view as a point (`points=views`), at a hundred times the memory and a thousand times the work;
    its README therefore advises fewer views.
    """

    name: ClassVar[str] = "proker"
    version: ClassVar[str] = "3"
    trains: ClassVar[bool] = False
    tied_to_classes: ClassVar[str] = "it has coefficients for the classes it was fitted on"
    card: ClassVar[MethodCard] = MethodCard(
        schedule="closed form",
        family="closed-form head",
        paper=papers.OF_METHOD["proker"],
        cost="closed form",
        trained=lambda s: 0,
        official={
            "beta": "grids from .01 to 10 by data set; [.5, 3] x 20 on most",
            "penalty": "grids from .001 to 10 by data set; [.001, 1] x 10 on most",
            "validation set": "as many images per class as shots, or all (test set on ImageNet)",
        },
        deviations=("the views of an image are averaged to one support point",),
    )

    points: Literal["images", "views"] = hyper(
        "images", "support points: the mean of an image's views, or every view", source="ours"
    )
    views: int = hyper(10, "augmented views of an image", unit="views", source="ProKeR README")
    crop: float = hyper(0.5, "smallest crop, as a share of the image area", source="ProKeR main.py")
    beta: float = hyper(
        0.0,
        "sharpness of the kernel; 0: chosen on validation data, by shots without",
        source="ProKeR configs/RN50/configs_proker/hyperparameters.json",
    )
    penalty: float = hyper(
        0.0,
        "l; 0: chosen on validation data, by shots without",
        source="ProKeR configs/RN50/configs_proker/hyperparameters.json",
    )

    def __post_init__(self) -> None:
        """UsageError for values out of range."""
        require_choices(self)
        require_positive(self, "views")
        require(self, "crop", 0 < self.crop <= 1, "a share in (0, 1]")
        require_not_negative(self, "beta", "penalty")

    def views_per_image(self, shots: int, classes: int) -> int:
        """Views of each support image."""
        return self.views

    def fit_bytes(self, images: int, classes: int, width: int) -> int:
        """All views at once; the kernel between points in 32 and 64 bits; four solutions."""
        points = images * (self.views if self.points == "views" else 1)
        system = 12 * points**2 + 4 * 8 * points * classes
        return bytes_of_views(self.views, images, width) + system

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> KernelClassifier:
        """Solve for the coefficients, once for every pair of constants tried."""
        ctx.declare_trained(0)
        problem = self._problem(task, backbone.class_features(task))
        beta, penalty = self._constants(problem, task, ctx)
        ctx.note(beta=beta, penalty=penalty)
        return problem.solve(beta, penalty)

    def _problem(self, task: Task, text: Tensor) -> Ridge:
        views = task.train.views(self.views, Augment(scale=(self.crop, 1.0)))
        if self.points == "views":
            return Ridge(views.flatten(0, 1), task.train.labels.repeat(self.views), text)
        return Ridge(unit(views.mean(dim=0)), task.train.labels, text, self.views)

    def _constants(self, problem: Ridge, task: Task, ctx: RunContext) -> tuple[float, float]:
        if task.val is not None and not (self.beta and self.penalty):
            betas = (self.beta,) if self.beta else BETAS
            penalties = (self.penalty,) if self.penalty else PENALTIES
            tried = [(beta, penalty) for beta in betas for penalty in penalties]
            ctx.count_selection(len(tried), len(task.val))
            counts: list[Tensor] = []
            for pair in tried:
                ctx.progress(len(counts), len(tried))
                counts.append(problem.correct(*pair, task.val))
            return tried[first_best(counts)]
        beta, penalty = by_shots(TRANSFERRED, task.shots)
        return self.beta or beta, self.penalty or penalty
