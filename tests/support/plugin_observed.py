"""A method that trains, encodes and answers in ways that the harness must notice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd import grad

from fewshot_bench import Augment, Backbone, Images, MethodCard, RunContext, Task
from fewshot_bench.api.registry import registry


def step(weights: Tensor, features: Tensor, *optimizers: Any) -> Tensor:
    """One step on the entropy of the predictions; without an optimizer by hand."""
    with torch.enable_grad():
        loss = (100 * features @ weights.T).softmax(dim=-1).square().sum()
        if not optimizers:
            return weights - 1e-3 * grad(loss, weights)[0]
        loss.backward()
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return weights


@dataclass(frozen=True)
class Observed:
    """Zero-shot with one of these tricks."""

    name: ClassVar[str] = "observed"
    how: str = "honest"

    card: ClassVar[MethodCard] = MethodCard("none")

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Answers:
        """Train if the trick asks for it."""
        weights = backbone.class_features(task)
        if self.how in ("fit", "again"):
            weights = nn.Parameter(weights)
            step(weights, task.train.features, torch.optim.SGD([weights], 1e-3))
        if self.how == "by-hand":
            weights = step(weights.requires_grad_(), task.train.features)
        if self.how == "disguised":
            code = registry().code
            forged = {"distribution": "fewshot-bench"}
            object.__setattr__(registry(), "code", lambda *of: code(*of) | forged)
        encoders = {"module": lambda: backbone.module}
        encoders |= dict.fromkeys(("tower", "flipped"), backbone.image_tower)
        return Answers(weights, self.how, encoders.get(self.how, lambda: None)())


@dataclass
class Answers:
    """The classifier."""

    weights: Tensor
    how: str
    encoder: Any
    asked: int = 0
    center: Tensor | None = None
    seen: list[int] = field(default_factory=list)

    def logits(self, queries: Images) -> Tensor:
        """Logits (n, classes), after the trick."""
        features, weights = queries.features, self.weights.detach()
        if self.how == "module":
            features = torch.cat(
                [nn.functional.normalize(self.encoder.encode_image(pixels), dim=-1)
                 for pixels in queries.batches(64)]
            )  # fmt: skip
        if self.how in ("test-time", "again"):
            for row in features[:3]:
                tuned = self.weights if self.how == "again" else nn.Parameter(weights.clone())
                step(tuned, row[None], torch.optim.SGD([tuned], 1e-9))
        if self.how == "test-time-by-hand":
            weights = step(weights.clone().requires_grad_(), features[:1]).detach()
            weights = self.weights
        if self.how in ("tower", "flipped"):
            # The same images by another encoder are no other views.
            views = queries.batches(64)
            turned = (pixels.flip(-1) if self.how == "flipped" else pixels for pixels in views)
            more = torch.cat([self.encoder.encode(pixels) for pixels in turned])
            features = nn.functional.normalize(features + nn.functional.normalize(more), dim=-1)
        if self.how == "crops":
            features = queries.views(2, Augment()).mean(dim=0)
        if self.how == "noisy":
            return 100 * features @ weights.T + torch.randn(len(weights))
        if self.how == "centered":
            features = features - features.mean(dim=0)
        if self.how == "first-center":
            # Of the first queries that this object was asked for.
            self.center = features.mean(dim=0) if self.center is None else self.center
            features = features - self.center
        if self.how == "online":
            self.seen.append(len(features))
            weights = weights + 0.1 * sum(self.seen[:-1]) * torch.eye(*weights.shape)
        if self.how == "position":
            weights = weights + 0.0
            shift = torch.arange(len(features))[:, None] % 7 * 20 * torch.eye(1, len(weights))
            return 100 * features @ weights.T + shift
        if self.how == "many":
            assert len(features) > 16, "too few queries"
        found = 100 * features @ weights.T
        if self.how == "small":
            # So small that an absolute tolerance would hide what depends on the others.
            return 1e-6 * (found - found.mean(dim=0))
        return found

    def tensors(self) -> Mapping[str, Tensor]:
        """The class features."""
        return {"weights": self.weights.detach()}
