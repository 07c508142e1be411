"""A method that modifies the backbone, its task or torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from fewshot_bench import Augment, RunContext, Task

from .scoring import Scores, scores


@dataclass(frozen=True)
class Vandal:
    """Leaves the backbone other than it was."""

    name: ClassVar[str] = "vandal"
    how: Literal[
        "weights",
        "hook",
        "grad",
        "train",
        "scale",
        "method",
        "tokenizer",
        "steps",
        "tower",
        "features",
        "views",
        "grad_mode",
        "dtype",
    ] = "weights"

    def fit(self, task: Task, backbone: Any, ctx: RunContext) -> Scores:
        """Change something after the features are computed."""
        classifier = scores(task, backbone)
        VANDALISM[self.how](task, backbone)
        return classifier


def _weights(task: Task, backbone: Any) -> None:
    with torch.no_grad():
        next(backbone.module.parameters()).add_(0.5)


def _hook(task: Task, backbone: Any) -> None:
    backbone.module.visual.register_forward_hook(lambda *_: None)


def _method(task: Task, backbone: Any) -> None:
    backbone.encode_image = lambda pixels: pixels.flatten(1)[:, : backbone.embed_dim]


def _tokenizer(task: Task, backbone: Any) -> None:
    backbone.tokenizer = backbone.tokenizer.__class__(context_length=60)


def _tower(task: Task, backbone: Any) -> None:
    backbone.image_tower().blocks[0].parts["attn.in_proj_weight"].add_(0.5)


def _features(task: Task, backbone: Any) -> None:
    task.train.features.zero_()
    task.train.raw_features.zero_()
    task.train.labels.zero_()


def _views(task: Task, backbone: Any) -> None:
    stream = torch.Generator().manual_seed(0)
    task.train.views(2, Augment(), stream, normalize=False).zero_()


VANDALISM: dict[str, Callable[[Task, Any], object]] = {
    "weights": _weights,
    "hook": _hook,
    "grad": lambda task, backbone: next(backbone.module.parameters()).requires_grad_(True),
    "train": lambda task, backbone: backbone.module.train(),
    "scale": lambda task, backbone: setattr(backbone, "logit_scale", 1.0),
    "method": _method,
    "tokenizer": _tokenizer,
    "steps": lambda task, backbone: backbone._steps.clear(),
    "tower": _tower,
    "features": _features,
    "views": _views,
    "grad_mode": lambda task, backbone: torch.set_grad_enabled(False),
    "dtype": lambda task, backbone: torch.set_default_dtype(torch.float64),
}
