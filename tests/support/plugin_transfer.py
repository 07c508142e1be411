"""A plug-in whose classifiers handle other classes, and leak state or kill their process."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from fewshot_bench import (
    Backbone,
    Images,
    NotApplicableError,
    RunContext,
    Task,
    Vocabulary,
    hookimpl,
    hyper,
)

MODULE = "fsbench_transferring"


class Keeps:
    """Zero-shot that counts its answers, and keeps the queries of the previous answer."""

    def __init__(self, task: Task, backbone: Backbone, ctx: RunContext, how: str) -> None:
        self.weights = backbone.class_features(task)
        self.backbone, self.ctx, self.how = backbone, ctx, how
        self.before: Images | None = None
        self.answers = 0

    def logits(self, queries: Images) -> Tensor:
        """Logits (n, classes), negated from the second answer of one object on."""
        self.answers += 1
        self.ctx.note(answers=self.answers)
        if self.before is not None:
            self.ctx.note(peeked=self.before.features.shape[0])
        self.before = queries
        sign = 1 if self.answers == 1 else -1
        return sign * 100 * queries.features @ self.weights.T

    def for_classes(self, vocabulary: Vocabulary) -> Keeps:
        """A classifier for other classes that inherits this one's state."""
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "refuse":
            module: Any = self.backbone.module
            with torch.no_grad():
                next(module.parameters()).add_(0.5)
            raise NotApplicableError("not today")
        other = Keeps(vocabulary, self.backbone, self.ctx, self.how)  # type: ignore[arg-type]
        other.before, other.answers = self.before, self.answers
        return other

    def tensors(self) -> Mapping[str, Tensor]:
        """Nothing."""
        return {}


@dataclass(frozen=True)
class Keeping:
    """Fits `Keeps`."""

    name: ClassVar[str] = "keeping"
    how: Literal["keep", "kill", "refuse"] = hyper("keep", "what its classifier does")

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Keeps:
        """Trains nothing."""
        return Keeps(task, backbone, ctx, self.how)


@hookimpl
def register_methods(register: Callable[..., None]) -> None:
    """One method."""
    register("keeping", f"{MODULE}:Keeping")
