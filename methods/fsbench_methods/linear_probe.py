"""Linear probe: logistic regression on frozen image features."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fewshot_bench import (
    Backbone,
    Images,
    MethodCard,
    NumericalError,
    RunContext,
    Shots,
    Task,
    Vocabulary,
    hyper,
)
from fewshot_bench.training import require_choices, require_not_negative, require_positive
from fsbench_methods import papers
from fsbench_methods.logistic import (
    HISTORY,
    SKLEARN,
    Affine,
    TextLogistic,
    fit_logistic,
    search_c,
)

_CODE = "CoOp lpclip/linear_probe.py"


@dataclass(frozen=True)
class ProbeClassifier:
    """A linear layer on raw or unit features."""

    model: Affine
    raw: bool

    def logits(self, queries: Images) -> Tensor:
        """(n, classes): the decision function."""
        return self.model.logits(_features(queries, self.raw))

    def tensors(self) -> Mapping[str, Tensor]:
        """The weight, and the bias where the probe has one."""
        weight = {"weight": self.model.weight}
        return weight | {"bias": self.model.bias} if self.raw else weight


@dataclass(frozen=True)
class LinearProbe:
    """Linear probe CLIP (Radford et al. 2021, appendix A.3), as CoOp's lpclip runs it.

    `init=random` is the usual baseline: L2-penalized logistic regression on un-normalized features
    without augmentation. `init=text` starts at the class features of the prompts and is regularized
    toward them (in the spirit of CLAP's ZS-LP and LP++, both CVPR 2024): unit features, no bias,
    solved to the optimum. Both choose C on the validation set: a grid of 7 values, then
    `search_steps` halvings. Without validation data C is `c`. Deterministic.
    """

    name: ClassVar[str] = "linear-probe"
    version: ClassVar[str] = "1"
    imports: ClassVar[tuple[str, ...]] = SKLEARN
    tied_to_classes: ClassVar[str] = "a linear probe has weights for the classes it was fitted on"

    init: Literal["random", "text"] = hyper(
        "random", "where the weights start", source="random: CLIP A.3; text: CLAP, LP++"
    )
    c: float = hyper(
        0.316,
        "inverse penalty strength when there is no validation data",
        source="linear-probe example of the README of openai/CLIP",
    )
    search_steps: int = hyper(
        8, "halvings of the interval around the best C", source=f"{_CODE}:65-118"
    )
    max_iter: int = hyper(
        1000, "most L-BFGS iterations per fit", unit="iterations", source=f"{_CODE}:57"
    )

    @property
    def card(self) -> MethodCard:
        """The method card; its `text` entry depends on `init`."""
        return MethodCard(
            "lbfgs-1000",
            family="linear head",
            paper=papers.OF_METHOD["linear-probe"],
            cost="seconds",
            trained=lambda s: s.classes * (s.features + 1),
            text="templates" if self.init == "text" else "none",
            official={"validation set": "the test set on ImageNet; here that of the run"},
        )

    def __post_init__(self) -> None:
        """UsageError for values out of range."""
        require_choices(self)
        require_positive(self, "c", "max_iter")
        require_not_negative(self, "search_steps")

    def views_per_image(self, shots: int, classes: int) -> int:
        """0: fitted without augmentation."""
        return 0

    def fit_bytes(self, images: int, classes: int, width: int) -> int:
        """Features, logits and the solver's memory of its last steps, in 64 bits."""
        steps = 10 if self.init == "random" else HISTORY
        weights = (2 * steps + 10) * classes * (width + 1)
        return 8 * (3 * images * width + 6 * images * classes + weights)

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> ProbeClassifier:
        """Fit one classifier per C tried and keep the chosen one."""
        raw = self.init == "random"
        solve = self._solver(task, backbone, ctx)
        if task.val is None:
            ctx.note(c=self.c, c_from="default")
            return ProbeClassifier(solve(self.c), raw)
        count = len(task.val)

        def log(tried: int, c: float, correct: int) -> None:
            ctx.log(tried, c=c, val_accuracy=100 * correct / count)

        best = search_c(solve, _scorer(task.val, raw), self.search_steps, ctx.progress, log)
        ctx.count_selection(best.tried, count)
        ctx.note(c=best.c, c_from="validation")
        return ProbeClassifier(best.model, raw)

    def restore(
        self, tensors: Mapping[str, Tensor], vocabulary: Vocabulary, backbone: Backbone
    ) -> ProbeClassifier:
        """Rebuild the classifier, on raw features for `init=random`, else on unit features."""
        weight = tensors["weight"]
        model = Affine(weight, tensors.get("bias", weight.new_zeros(len(weight))))
        return ProbeClassifier(model, raw=self.init == "random")

    def _solver(self, task: Task, backbone: Backbone, ctx: RunContext) -> Callable[[float], Affine]:
        labels, classes = task.train.labels, len(task.classnames)
        if not bool(task.train.raw_features.isfinite().all()):
            raise NumericalError(
                f"{self.name}: features of support images are not finite (precision "
                f"{ctx.precision}); try --precision fp32 or another backbone"
            )
        if self.init == "text":
            text = backbone.class_features(task)
            evaluations = itertools.count(1)
            problem = TextLogistic(
                task.train.features,
                labels,
                text,
                backbone.logit_scale,
                lambda loss: ctx.log(next(evaluations), loss=loss),
            )
            return lambda c: problem.fit(c, self.max_iter)
        features = task.train.raw_features
        ctx.declare_trained(classes * (features.shape[1] + 1))
        return lambda c: fit_logistic(features, labels, classes, c, self.max_iter)


def _features(images: Images, raw: bool) -> Tensor:
    return images.raw_features.float() if raw else images.features


def _scorer(val: Shots, raw: bool) -> Callable[[Affine], int]:
    features, labels = _features(val, raw), val.labels

    def correct(model: Affine) -> int:
        return int(torch.sum(model.logits(features).argmax(dim=-1) == labels))

    return correct
