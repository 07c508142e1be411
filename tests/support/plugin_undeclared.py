"""Methods that see views or other queries, and some that do what their cards do not say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from fewshot_bench import Augment, Backbone, Images, MethodCard, RunContext, Task


@dataclass
class Company:
    """Scaled cosines with the mean of the batch subtracted, after a trick."""

    classes: Tensor
    scale: float
    how: str
    seen: list[int] = field(default_factory=list)

    def logits(self, queries: Images) -> Tensor:
        features = queries.features
        if self.how == "needs-many" and len(features) < 10:
            raise ValueError("fewer queries than classes")
        rows = features if self.how == "unused" else features - features.mean(dim=0)
        found = self.scale * rows @ self.classes.T
        if self.how == "position":
            found[:, 0] += torch.arange(len(found))
        if self.how == "leak":
            found[:, 0] += sum(self.seen)
            self.seen.append(len(found))
        if self.how == "noisy":
            found += torch.randn(len(self.classes))
        return found

    def tensors(self) -> Mapping[str, Tensor]:
        return {"classes": self.classes}


@dataclass(frozen=True)
class Batched:
    name: ClassVar[str] = "batched"
    card: ClassVar[MethodCard] = MethodCard("no training", sees="batch")
    how: str = "honest"

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Company:
        return Company(backbone.class_features(task), backbone.logit_scale, self.how)


# Features that outlive their stream, by trick.
MEMORY: dict[str, list[Tensor]] = {"kept": [], "full": [], "last": []}


@dataclass
class Passing:
    """The running mean of a stream is subtracted; ahead: that of the queries that come at once.

    kept, full, last: that of all queries ever, of the first ones, of the latest of another stream.
    """

    classes: Tensor
    scale: float
    how: str
    total: Tensor
    count: int = 0

    def answer(self, queries: Images) -> Tensor:
        features = queries.features
        counts = self.count + torch.arange(1, len(features) + 1)
        sums = self.total + features.cumsum(dim=0)
        self.total, self.count = sums[-1], self.count + len(features)
        means = features.mean(dim=0) if self.how == "ahead" else sums / counts[:, None]
        if self.how in MEMORY:
            memory = MEMORY[self.how]
            means = torch.stack([features[0], *memory]).mean(dim=0)
            memory += features if self.how == "kept" or len(memory) < 60 else []
            memory[:] = features[-1:] if self.how == "last" else memory
        if self.how == "noisy":
            means = torch.randn(features.shape)
        return self.scale * (features - means) @ self.classes.T


@dataclass(frozen=True)
class Streaming:
    classes: Tensor
    scale: float
    how: str

    def start(self) -> Passing:
        return Passing(self.classes, self.scale, self.how, torch.zeros_like(self.classes[0]))

    def tensors(self) -> Mapping[str, Tensor]:
        return {"classes": self.classes}


@dataclass(frozen=True)
class Streamed(Batched):
    name: ClassVar[str] = "streamed"
    card: ClassVar[MethodCard] = MethodCard("no training", sees="stream")

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Streaming:
        return Streaming(backbone.class_features(task), backbone.logit_scale, self.how)


@dataclass(frozen=True)
class Viewed:
    """The mean of the plain view, seven crops and a little noise."""

    classes: Tensor
    scale: float

    def logits(self, queries: Images) -> Tensor:
        crops = queries.views(7, Augment()).sum(dim=0)
        noise = torch.randn(crops.shape[-1], generator=queries.rng("noise"))
        return self.scale * (queries.features + crops + noise) @ self.classes.T

    def tensors(self) -> Mapping[str, Tensor]:
        return {"classes": self.classes}


@dataclass(frozen=True)
class OfViews:
    name: ClassVar[str] = "of-views"
    card: ClassVar[MethodCard] = MethodCard("no training", sees="views", views_per_query=8)

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Viewed:
        return Viewed(backbone.class_features(task), backbone.logit_scale)
