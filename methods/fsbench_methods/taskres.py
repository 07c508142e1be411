"""TaskRes: a trained residual on the class features of the text encoder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_bench import Augment, Backbone, MethodCard, Published, RunContext, Task, hyper
from fewshot_bench.training import (
    LinearClassifier,
    epoch_views,
    raw_class_features,
    require_not_negative,
    require_positive,
    step_on,
    train_epochs,
    unit,
)
from fewshot_bench.training.provisional import dassl_rate
from fsbench_methods import papers

_CODE = "TaskRes (Yu et al. 2023)"


@dataclass(frozen=True)
class TaskRes:
    """Task residual tuning (Yu et al., CVPR 2023), with the regular base.

    Class vectors are t + scale x at unit length: t is the mean raw text feature, whose norm
    determines how far a step rotates the vector; x (classes, embed) is trained from zero. Adam with
    an L2 penalty in the gradient, batches of 256, Dassl's cosine schedule, new augmented views of
    the support set in every epoch; the last epoch is kept. The enhanced base (downloaded weights of
    a text projection tuned beforehand) is omitted.
    """

    name: ClassVar[str] = "taskres"
    version: ClassVar[str] = "1"
    tied_to_classes: ClassVar[str] = "it has a residual for each of the classes it was fitted on"
    poolings: ClassVar[tuple[str, ...]] = ("unit-mean",)
    card: ClassVar[MethodCard] = MethodCard(
        schedule="taskres-100/200",
        family="adapter",
        paper=papers.OF_METHOD["taskres"],
        cost="seconds",
        trained=lambda s: s.classes * s.features,
        official={
            "templates": "eight on ImageNet, one elsewhere",
        },
        deviations=(
            "text features in the precision of the run, not in half precision",
            "underscores in class names become blanks; the official code keeps them",
        ),
        published=(
            Published({"lr": 2e-4}, ("imagenet",), source="TaskRes scripts/train_regular.sh"),
            Published({"scale": 1.0}, ("oxford_flowers",), source="TaskRes train_regular.sh"),
        ),
    )

    scale: float = hyper(0.5, "factor of the residual", source=f"{_CODE}, train_regular.sh")
    epochs: int = hyper(
        0,
        "passes over the support set; 0: by shots (to 4: 100, more: 200)",
        unit="epochs",
        source=f"{_CODE}, train_regular.sh",
    )
    lr: float = hyper(2e-3, "learning rate of Adam", source=f"{_CODE}, train_regular.sh")
    weight_decay: float = hyper(5e-4, "L2 penalty of Adam", source="Dassl config/defaults.py:153")
    warmup_lr: float = hyper(
        1e-5, "learning rate of the first epoch", source=f"{_CODE}, configs/trainers/TaskRes"
    )
    batch_size: int = hyper(
        256, "images per step", unit="images", source=f"{_CODE}, configs/trainers/TaskRes"
    )

    def __post_init__(self) -> None:
        """UsageError for values out of range."""
        require_positive(self, "scale", "lr", "batch_size")
        require_not_negative(self, "epochs", "weight_decay", "warmup_lr")

    def quick(self) -> TaskRes:
        """A short schedule for the conformance kit."""
        return replace(self, epochs=40, lr=0.02)

    def views_per_image(self, shots: int, classes: int) -> int:
        """Views of each support image: one per epoch."""
        return self.epochs or (100 if shots <= 4 else 200)

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> LinearClassifier:
        """Trains the residual on frozen features."""
        base = raw_class_features(backbone, task)
        residual = torch.nn.Parameter(torch.zeros_like(base))
        optimizer = torch.optim.Adam(
            [residual], lr=self.lr, weight_decay=self.weight_decay, fused=not residual.is_cpu
        )
        epochs = self.views_per_image(task.shots, len(task.classnames))
        train_epochs(
            step_on(partial(self.loss, base, residual, backbone.logit_scale)),
            optimizer,
            epoch_views(task.train, epochs, Augment(), base.shape[1]),
            task.train.labels,
            ctx,
            epochs=epochs,
            batch_size=self.batch_size,
            rate=partial(dassl_rate, epochs=epochs, base=self.lr, warmup=self.warmup_lr),
        )
        return LinearClassifier(backbone.logit_scale * self.vectors(base, residual.detach()))

    def vectors(self, base: Tensor, residual: Tensor) -> Tensor:
        """(classes, embed) unit class vectors."""
        return unit(base + self.scale * residual)

    def loss(
        self, base: Tensor, residual: Tensor, scale: float, features: Tensor, labels: Tensor
    ) -> Tensor:
        """Cross-entropy of one batch of unit features, differentiable in the residual."""
        return F.cross_entropy(scale * features @ self.vectors(base, residual).T, labels)
