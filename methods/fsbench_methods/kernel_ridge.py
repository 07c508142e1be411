"""Kernel ridge regression on the residuals of zero-shot predictions at support points (ProKeR)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_bench import Images, Shots
from fewshot_bench.training import count_correct, row_blocks

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

    def __init__(self, points: Tensor, labels: Tensor, text: Tensor) -> None:
        """Unit points (m, d), labels (m,), unit class features (classes, d)."""
        self.points, self.text = points, text
        self.exponent = (points @ points.T).sub_(1)
        self.residual = (F.one_hot(labels, len(text)) - points @ text.T).double()

    def solve(self, beta: float, penalty: float) -> KernelClassifier:
        """The classifier whose coefficients solve (K / penalty + I) A = residual."""
        system = self.exponent.double().mul_(beta).exp_().div_(penalty)
        system.diagonal().add_(1)
        # The system is symmetric; its transpose has LAPACK's column-major layout and is factored in
        # place.
        factor = system.mT
        failed = torch.empty((), dtype=torch.int32, device=factor.device)
        torch.linalg.cholesky_ex(factor, out=(factor, failed))
        half = torch.linalg.solve_triangular(factor, self.residual, upper=False)
        solved = torch.linalg.solve_triangular(factor.mT, half, upper=True)
        # Row-major, the layout of saved models.
        return KernelClassifier(self.points, solved.float().contiguous(), beta, self.text)

    def correct(self, beta: float, penalty: float, val: Shots) -> Tensor:
        """The number of validation images that are classified correctly with these constants."""
        return count_correct(self.solve(beta, penalty).logits(val), val.labels)


def gaussian(features: Tensor, points: Tensor, beta: float) -> Tensor:
    """(n, m) kernel exp(-beta (1 - f x)) of unit rows."""
    return (features @ points.T).sub_(1).mul_(beta).exp_()
