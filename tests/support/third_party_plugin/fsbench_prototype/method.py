"""Nearest class mean on frozen features, blended with the text features."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_bench import Backbone, Images, RunContext, Task, hyper


@dataclass(frozen=True)
class Prototypes:
    """One unit vector per class."""

    weights: Tensor
    scale: float

    def logits(self, queries: Images) -> Tensor:
        """(n, classes) scaled cosines."""
        return self.scale * queries.features @ self.weights.T

    def tensors(self) -> Mapping[str, Tensor]:
        """The class vectors."""
        return {"weights": self.weights}


@dataclass(frozen=True)
class Prototype:
    """Mean image feature of each class, blended with its text feature."""

    name: ClassVar[str] = "prototype"
    weight: float = hyper(0.5, "share of the text features, 0 to 1")

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Prototypes:
        """Average the support features by class."""
        onehot = F.one_hot(task.train.labels, len(task.classnames)).float()
        means = F.normalize(onehot.T @ task.train.features, dim=-1)
        blend = torch.lerp(means, backbone.class_features(task), self.weight)
        return Prototypes(F.normalize(blend, dim=-1), backbone.logit_scale)
