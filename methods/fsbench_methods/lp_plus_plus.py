"""LP++: a linear probe whose class weights are blended with text features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Parameter

from fewshot_bench import Augment, Backbone, Images, MethodCard, RunContext, Task, hyper
from fewshot_bench.training import BestOnValidation, require, require_positive
from fewshot_bench.training.provisional import to_float64
from fsbench_methods import papers

_CODE = "LP++ (Huang et al. 2024), methods/linear_probe_p2.py"


@dataclass(frozen=True)
class Blend:
    """Visual weights (classes, d), biases and blending factors (classes,), and text features."""

    weight: Tensor
    bias: Tensor
    blending: Tensor
    class_features: Tensor

    def logits(self, queries: Images) -> Tensor:
        """(n, classes): f w_k + b_k + a_k f t_k."""
        features = queries.features
        return self.score(features, features @ self.class_features.T)

    def score(self, features: Tensor, cosines: Tensor) -> Tensor:
        """(n, classes) from unit features (n, d) and their cosines (n, classes) with the text."""
        return features @ self.weight.T + self.bias + self.blending * cosines

    def tensors(self) -> Mapping[str, Tensor]:
        """All trained tensors."""
        return {"weight": self.weight, "bias": self.bias, "blending": self.blending}


@dataclass(frozen=True)
class LpPlusPlus:
    """LP++: a surprisingly strong linear probe for few-shot CLIP (Huang et al., CVPR 2024).

    Logits are f w_k + b_k + a_k f t_k on unit features, without a logit scale. Visual weights w_k
    start at the sums of their class's features, all blending factors a_k at `blending` (250) times
    the mean cosine with the true class's text. Block coordinate descent on the whole support set,
    one augmented view per image, with learning rates from Lipschitz bounds: SGD with momentum on w
    and b in every epoch, a plain gradient step on a every `every` epochs. As in the official code,
    which never zeroes them, that step uses the sum of all gradients since the start. The best epoch
    on validation is kept (the last of equals), or the last epoch without validation data.
    """

    name: ClassVar[str] = "lp++"
    version: ClassVar[str] = "1"
    tied_to_classes: ClassVar[str] = "it has weights for the classes it was fitted on"
    card: ClassVar[MethodCard] = MethodCard(
        schedule="lp++-300 (full batch)",
        family="linear head",
        paper=papers.OF_METHOD["lp++"],
        cost="seconds",
        trained=lambda s: s.classes * (s.features + 2),
        official={
            "validation set": "as many images per class as shots; here that of the run",
            "templates": "seven on ImageNet, one elsewhere",
        },
        deviations=(
            "parameters in float32, not in the half precision of CLIP's weights",
            "published with ResNet-50 alone: rows on ViTs are other people's",
        ),
    )

    epochs: int = hyper(300, "steps on the whole support set", unit="epochs", source=_CODE)
    momentum: float = hyper(0.9, "momentum of SGD", source=_CODE)
    every: int = hyper(
        10, "epochs between two steps on the blending", unit="epochs", source=f"{_CODE}:138"
    )
    blending: float = hyper(
        250.0, "start of the blending, per mean cosine with the true text", source=f"{_CODE}:28"
    )
    crop: float = hyper(0.5, "smallest crop, as a share of the image area", source="LP++ main.py")

    def __post_init__(self) -> None:
        """UsageError for values out of range."""
        require_positive(self, "epochs", "every", "blending")
        require(self, "momentum", 0 <= self.momentum < 1, "a number from 0 below 1")
        require(self, "crop", 0 < self.crop <= 1, "a share in (0, 1]")

    def views_per_image(self, shots: int, classes: int) -> int:
        """One view of each support image."""
        return 1

    def fit_bytes(self, images: int, classes: int, width: int) -> int:
        """The logits of all images with their gradients."""
        return 10 * 4 * images * classes

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Blend:
        """Trains visual weights, biases and blending."""
        (features,) = task.train.views(1, Augment(scale=(self.crop, 1.0)))
        text = backbone.class_features(task)
        blend = self.start(features, task.train.labels, text, ctx.rng("init"))
        kept = self._train(blend, features, task, ctx)
        weight, bias, blending = (part.detach() for part in kept)
        return Blend(weight, bias, blending, text)

    def start(self, features: Tensor, labels: Tensor, text: Tensor, rng: torch.Generator) -> Blend:
        """Class sums of features, torch's default bias initialization, one blending for all."""
        members = F.one_hot(labels, len(text)).to(features.dtype)
        limit = features.shape[1] ** -0.5
        bias = torch.empty(len(text)).uniform_(-limit, limit, generator=rng).to(features.device)
        cosine = ((members * (features @ text.T)).sum(dim=0) / members.sum(dim=0)).mean()
        blending = self.blending * cosine * torch.ones_like(bias)
        return Blend(Parameter(members.T @ features), Parameter(bias), Parameter(blending), text)

    def _train(self, blend: Blend, features: Tensor, task: Task, ctx: RunContext) -> list[Tensor]:
        """Weight, bias and blending of the best epoch, or of the last one."""
        cosines, parts = features @ blend.class_features.T, [*blend.tensors().values()]
        rate, blending_rate = rates(features, cosines)
        weights = torch.optim.SGD(parts[:2], lr=rate, momentum=self.momentum)
        blending = torch.optim.SGD(parts[2:], lr=blending_rate)
        val = None
        if task.val is not None:
            val = task.val.features, task.val.features @ blend.class_features.T
        best = BestOnValidation(task.val.labels if task.val else cosines, last_of_equals=True)
        labels = task.train.labels

        def loss() -> Tensor:
            return F.cross_entropy(blend.score(features, cosines), labels)

        # Without a loss scaler: the gradients of the blending add up over many steps.
        take = ctx.train_step(loss, weights, scaled=False)
        for epoch in range(1, self.epochs + 1):
            take()
            if epoch % self.every == 0:
                blending.step()
            if val is not None:
                ctx.log(val_accuracy=best.offer(blend.score(*val), *parts))
            ctx.progress(epoch, self.epochs)
        if task.val is None:
            return parts
        ctx.count_selection(self.epochs, len(task.val))
        ctx.note(epoch=int(best.step))
        return best.kept


def rates(features: Tensor, cosines: Tensor) -> tuple[float, float]:
    """Learning rates of the weights, 4 N / lambda_max(F' F), and of the blending.

    The latter is N / (4 max_k sum_i cosine_ik^2) (linear_probe_p2.py:16-39).
    """
    largest = torch.linalg.eigvalsh(to_float64(features.T @ features))[-1]
    bound = 4 * cosines.square().sum(dim=0).max()
    return float(4 * len(features) / largest), float(len(features) / bound)
