"""Methods that use other queries: one that adapts to a batch, and one that remembers a stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_bench import Backbone, Images, MethodCard, RunContext, Task, Vocabulary


@dataclass
class Shifted:
    """Text features, compared with queries less the mean of those that it was given."""

    classes: Tensor
    scale: float
    backbone: Backbone

    def logits(self, queries: Images) -> Tensor:
        # What the harness must not let reach another call.
        self.scale += 0.0 * len(queries)
        noise = torch.randn(1, generator=queries.rng("noise")).to(self.classes)
        features = queries.features
        queries.progress(1, 2)
        rows = F.normalize(features - features.mean(0) + self.classes.mean(0), dim=-1)
        return self.scale * rows @ self.classes.T + 1e-3 * noise

    def for_classes(self, vocabulary: Vocabulary) -> Shifted:
        return replace(self, classes=self.backbone.class_features(vocabulary))

    def tensors(self) -> Mapping[str, Tensor]:
        return {"classes": self.classes}


@dataclass(frozen=True)
class MeanShift:
    name: ClassVar[str] = "mean-shift"
    card: ClassVar[MethodCard] = MethodCard("no training", at_test="other queries", sees="batch")

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Shifted:
        return Shifted(backbone.class_features(task), backbone.logit_scale, backbone)


@dataclass
class Remembering:
    """One stream: the running mean of the queries so far, the present one included."""

    classes: Tensor
    scale: float
    total: Tensor
    count: int = 0
    sizes: list[int] = field(default_factory=list)

    def answer(self, queries: Images) -> Tensor:
        features = queries.features
        sums = self.total + features.cumsum(0)
        counts = self.count + 1 + torch.arange(len(features), device=features.device)
        means = sums / counts[:, None]
        self.total, self.count = sums[-1], self.count + len(features)
        self.sizes.append(len(queries))
        rows = F.normalize(features - means + self.classes.mean(0), dim=-1)
        return self.scale * rows @ self.classes.T


@dataclass(frozen=True)
class Remembers:
    classes: Tensor
    scale: float

    def start(self) -> Remembering:
        return Remembering(self.classes, self.scale, torch.zeros_like(self.classes[0]))

    def tensors(self) -> Mapping[str, Tensor]:
        return {"classes": self.classes}


@dataclass(frozen=True)
class RunningMean:
    name: ClassVar[str] = "running-mean"
    card: ClassVar[MethodCard] = MethodCard("no training", at_test="other queries", sees="stream")

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Remembers:
        return Remembers(backbone.class_features(task), backbone.logit_scale)


@dataclass(frozen=True)
class NoStream(MeanShift):
    """Says that it answers a stream, and returns a classifier that does not."""

    name: ClassVar[str] = "no-stream"
    card: ClassVar[MethodCard] = MethodCard("no training", sees="stream")


@dataclass
class Silent(Shifted):
    def start(self) -> None:
        """No stream."""


@dataclass(frozen=True)
class EmptyStream(NoStream):
    name: ClassVar[str] = "empty-stream"

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Silent:
        return Silent(**vars(super().fit(task, backbone, ctx)))


@dataclass(frozen=True)
class ManyViews(MeanShift):
    name: ClassVar[str] = "many-views"
    card: ClassVar[MethodCard] = MethodCard("no training", sees="views", views_per_query=8)


@dataclass
class FromPixels(Shifted):
    """Encodes its batch by itself, at most so many images at once."""

    most: int

    def logits(self, queries: Images) -> Tensor:
        rows = []
        for pixels in queries.batches(64, device=self.classes.device):
            if len(pixels) > self.most:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
            rows.append(F.normalize(self.backbone.encode_image(pixels), dim=-1))
        features = torch.cat(rows)
        rows = F.normalize(features - features.mean(0) + self.classes.mean(0), dim=-1)
        return self.scale * rows @ self.classes.T


@dataclass(frozen=True)
class PixelShift:
    name: ClassVar[str] = "pixel-shift"
    card: ClassVar[MethodCard] = MethodCard("no training", at_test="other queries", sees="batch")
    most: int = 1000

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> FromPixels:
        classes = backbone.class_features(task)
        return FromPixels(classes, backbone.logit_scale, backbone, self.most)
