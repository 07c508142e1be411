"""ZS-LP: a linear probe on unit class vectors that starts at the zero-shot prototypes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_bench import Augment, Backbone, MethodCard, RunContext, Task, hyper
from fewshot_bench.training import (
    LinearClassifier,
    momentum_sgd,
    raw_class_features,
    require_positive,
    step_on,
    steps_per_epoch,
    train_epochs,
    unit,
)
from fewshot_bench.training.provisional import bytes_of_views, dassl_rate
from fsbench_methods import papers

MOMENTUM, WARMUP_LR = 0.9, 1e-5
DEVIATIONS = (
    "text features in the precision of the run, not in half precision",
    "underscores in class names become blanks; the official code keeps them",
)
_CODE = "CLAP (Silva-Rodriguez et al. 2024), trainers/adapters.py"
_CONFIG = "CLAP configs/trainers/SGD_lr1e-1_B256_ep300.yaml"


@dataclass(frozen=True)
class Probe:
    """Class vectors (classes, embed) in training, and a pool of unit features (m, embed).

    base: mean raw text features, the vectors' initial values; their norm determines how far a step
    rotates a vector.
    """

    vectors: torch.nn.Parameter
    base: Tensor
    pool: Tensor
    labels: Tensor
    scale: float

    def logits(self, features: Tensor, vectors: Tensor) -> Tensor:
        """(b, classes) scaled cosines."""
        return self.scale * features @ unit(vectors).T


@dataclass(frozen=True)
class ZsLp:
    """Zero-shot initialized linear probing (Silva-Rodriguez et al., CVPR 2024).

    Class vectors start at the mean raw text features and are normalized in every forward pass. SGD
    on 20 augmented views of every image, encoded before training: an epoch has as many batches as
    fit into the number of images, one at least, drawn from all views. No validation data, one
    configuration for all data sets; the last epoch is kept.
    """

    name: ClassVar[str] = "zs-lp"
    version: ClassVar[str] = "1"
    tied_to_classes: ClassVar[str] = "it has a vector for each of the classes it was fitted on"
    poolings: ClassVar[tuple[str, ...]] = ("unit-mean",)
    card: ClassVar[MethodCard] = MethodCard(
        schedule="clap-300",
        family="linear head",
        paper=papers.OF_METHOD["zs-lp"],
        cost="seconds",
        trained=lambda s: s.classes * s.features,
        official={"templates": "eight on ImageNet, one elsewhere"},
        deviations=DEVIATIONS,
    )

    epochs: int = hyper(
        300,
        "rounds of as many batches as fit into the images, one at least",
        unit="epochs",
        source=_CONFIG,
    )
    lr: float = hyper(0.1, "learning rate of SGD", source=_CONFIG)
    batch_size: int = hyper(256, "features per step", unit="features", source=_CONFIG)
    views: int = hyper(20, "augmented views of an image", unit="views", source=f"{_CODE}:143")

    def __post_init__(self) -> None:
        """UsageError for values out of range."""
        require_positive(self, "epochs", "lr", "batch_size", "views")

    def quick(self) -> Self:
        """A short schedule for the conformance kit."""
        return replace(self, epochs=60)

    def penalty(self, probe: Probe) -> Callable[[Tensor], Tensor]:
        """Function from class vectors to a scalar that is added to the cross-entropy; here 0."""
        return lambda vectors: vectors.new_zeros(())

    def views_per_image(self, shots: int, classes: int) -> int:
        """Views of each support image in the pool."""
        return self.views

    def fit_bytes(self, images: int, classes: int, width: int) -> int:
        """The pool of all views."""
        return bytes_of_views(self.views, images, width)

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> LinearClassifier:
        """Trains the class vectors."""
        base = raw_class_features(backbone, task)
        pool = task.train.views(self.views, Augment()).flatten(0, 1)
        labels, vectors = task.train.labels.repeat(self.views), torch.nn.Parameter(base.clone())
        probe = Probe(vectors, base, pool, labels, backbone.logit_scale)
        penalty = self.penalty(probe)

        def loss(features: Tensor, targets: Tensor) -> Tensor:
            return F.cross_entropy(probe.logits(features, vectors), targets) + penalty(vectors)

        train_epochs(
            step_on(loss),
            momentum_sgd([vectors], lr=self.lr, momentum=MOMENTUM),
            (pool for _ in range(self.epochs)),
            labels,
            ctx,
            epochs=self.epochs,
            batch_size=self.batch_size,
            rate=partial(dassl_rate, epochs=self.epochs, base=self.lr, warmup=WARMUP_LR),
            steps=steps_per_epoch(len(task.train), self.batch_size, drop_last=True),
        )
        return LinearClassifier(probe.scale * unit(vectors.detach()))
