"""Logistic regression on features: scikit-learn's, and one regularized toward text prototypes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_bench import NumericalError

GRID = (6.0, 4.0, 2.0, 0.0, -2.0, -4.0, -6.0)
"""log10 of the C values in the first grid (CoOp lpclip/linear_probe.py:54)."""
SKLEARN = ("sklearn.linear_model",)
"""Modules that `fit_logistic` imports: planning a run takes half the time without them."""
HISTORY = 100
"""Steps that torch's L-BFGS keeps by default."""
ABSENT = -1e4
"""Logit of a class without a support image."""


@dataclass(frozen=True)
class Affine:
    """Weight (classes, width) and bias (classes,) of a linear classifier."""

    weight: Tensor
    bias: Tensor

    def logits(self, features: Tensor) -> Tensor:
        """(n, classes): x W' + b."""
        return features @ self.weight.T + self.bias


def fit_logistic(features: Tensor, labels: Tensor, classes: int, c: float, steps: int) -> Affine:
    """scikit-learn's L2-penalized logistic regression by L-BFGS, in float64 on the CPU.

    features (n, width) raw, labels (n,). Two classes get two opposite logits; a class without
    support images gets the constant low logit `ABSENT`. Every fit starts from zero on the unreduced
    features: the solver stops at scikit-learn's tolerance, so that warm starts from another C or a
    change of basis to fewer coordinates would change which C is chosen. NumericalError if the
    objective or the result is not finite.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    present = torch.unique(labels).tolist()
    weight = np.zeros((classes, features.shape[1]))
    bias = np.full(classes, ABSENT)
    bias[present] = 0.0
    if len(present) > 1:
        solver = LogisticRegression(C=c, solver="lbfgs", max_iter=steps)
        with warnings.catch_warnings(), _numbers_only(c):
            warnings.simplefilter("ignore", ConvergenceWarning)
            # With one shot of many classes, scikit-learn suspects a regression problem.
            warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
            solver.fit(features.cpu().double().numpy(), labels.cpu().numpy())
        rows, offsets = solver.coef_, solver.intercept_
        if len(present) == 2:
            rows = np.concatenate([-rows, rows]) / 2
            offsets = np.concatenate([-offsets, offsets]) / 2
        weight[present], bias[present] = rows, offsets
    as_tensor = (torch.from_numpy(values).float().to(features.device) for values in (weight, bias))
    return _finite(Affine(*as_tensor), c)


@contextmanager
def _numbers_only(c: float) -> Iterator[None]:
    """Raise NumericalError for a NaN objective, which would silently stop the solver early."""
    try:
        with np.errstate(invalid="raise"):
            yield
    except FloatingPointError as error:
        raise _no_numbers("objective", c) from error


def _finite(model: Affine, c: float) -> Affine:
    if not all(bool(part.isfinite().all()) for part in (model.weight, model.bias)):
        raise _no_numbers("weight", c)
    return model


def _no_numbers(what: str, c: float) -> NumericalError:
    return NumericalError(
        f"linear-probe: the {what} is not finite with C={c:g} (float64, L-BFGS); try a C between "
        "1e-6 and 1e6, such as -o linear-probe.c=1"
    )


class TextLogistic:
    """Multinomial logistic regression with an L2 penalty toward the text prototypes.

    Minimizes sum_i CE(f_i V', y_i) + ||V - s T||^2 / (2 C) over V (classes, width), starting at
    V = s T: f are unit features, T the unit class features, s the logit scale. Full batch, float64,
    L-BFGS with a strong Wolfe line search; convex, hence deterministic. The optimized variable is
    W = V / s, whose gradients are of order one.
    """

    def __init__(
        self,
        features: Tensor,
        labels: Tensor,
        text: Tensor,
        scale: float,
        report: Callable[[float], None] = lambda loss: None,
    ) -> None:
        """features (n, width) and text (classes, width) have unit length.

        report: gets the loss whenever it is evaluated.
        """
        self.features = features.cpu().double()
        self.labels = labels.cpu()
        self.text = text.cpu().double()
        self.scale = scale
        self.report = report
        self.device = features.device
        self.weight = torch.nn.Parameter(self.text.clone())

    def objective(self, c: float) -> Tensor:
        """The penalized loss at the current weight, per support image."""
        logits = self.scale * self.features @ self.weight.T
        loss = F.cross_entropy(logits, self.labels, reduction="sum")
        pull = (self.scale * (self.weight - self.text)).square().sum() / (2 * c)
        return (loss + pull) / len(self.labels)

    def fit(self, c: float, steps: int) -> Affine:
        """The minimizer for `c`, as a classifier on unit features without bias.

        NumericalError if the objective becomes non-finite.
        """
        self.weight.data.copy_(self.text)
        solver = torch.optim.LBFGS(
            [self.weight],
            max_iter=steps,
            history_size=HISTORY,
            tolerance_grad=1e-5,
            tolerance_change=1e-9,
            line_search_fn="strong_wolfe",
        )

        def closure() -> float:
            solver.zero_grad()
            loss = self.objective(c)
            value = float(loss.detach())
            if not math.isfinite(value):
                raise _no_numbers("objective", c)
            self.report(value)
            loss.backward()  # type: ignore[no-untyped-call]
            return value

        solver.step(closure)  # type: ignore[no-untyped-call]
        weight = (self.scale * self.weight.detach()).float().to(self.device)
        return _finite(Affine(weight, weight.new_zeros(len(weight))), c)


@dataclass(frozen=True)
class Found:
    """The chosen C, its classifier, and how many values were compared."""

    c: float
    model: Affine
    tried: int


def search_c(
    fit: Callable[[float], Affine],
    correct: Callable[[Affine], int],
    steps: int,
    report: Callable[[int, int], None] = lambda done, most: None,
    log: Callable[[int, float, int], None] = lambda done, c, correct: None,
) -> Found:
    """Choose C on a grid, then by halving an interval in log10 (CoOp lpclip/linear_probe.py).

    The interval starts at 0.1 to 10 times the first best C of the grid. Each step fits both ends,
    keeps the better one (the left one on a tie) and moves the other to the middle. The end kept by
    the last step is returned. Each C is fitted only once. report: gets the number of fits that are
    done, and the largest number that there may be. log: gets the number of a fit, its C, and how
    many predictions are correct.
    """
    fitted: dict[float, tuple[Affine, int]] = {}
    most = len(GRID) + (steps + 1 if steps else 0)
    report(0, most)

    def score(exponent: float) -> int:
        if exponent not in fitted:
            model = fit(10.0**exponent)
            fitted[exponent] = (model, correct(model))
            log(len(fitted), 10.0**exponent, fitted[exponent][1])
            report(len(fitted), most)
        return fitted[exponent][1]

    peak = GRID[int(np.argmax([score(exponent) for exponent in GRID]))]
    chosen, left, right = peak, peak - 1, peak + 1
    for _ in range(steps):
        if score(left) < score(right):
            chosen, left = right, (left + right) / 2
        else:
            chosen, right = left, (left + right) / 2
    return Found(10.0**chosen, fitted[chosen][0], len(fitted))
