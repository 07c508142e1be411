"""Features as those of CLIP, with a gap between images and texts, as tasks and queries."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.reference.toy import context

CLASSES, WIDTH, SCALE = 20, 64, 100.0


@dataclass(frozen=True)
class Seen:
    """Images of which only features, labels and logits of another method are known."""

    features: Tensor
    labels: Tensor
    scores: Tensor | None = None
    told: list[tuple[int, int]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.features)

    def progress(self, done: int, total: int) -> None:
        """Keeps what is reported."""
        self.told.append((done, total))

    def take(self, order: Tensor) -> Seen:
        """These images, in this order."""
        scores = None if self.scores is None else self.scores[order]
        return Seen(self.features[order], self.labels[order], scores)


@dataclass(frozen=True)
class Case:
    """A task with queries; it is its own backbone, whose class features are `text`."""

    queries: Seen
    train: Seen
    val: Seen | None
    text: Tensor
    logit_scale: float = SCALE

    def class_features(self, task: Any) -> Tensor:
        """The class features (classes, d)."""
        return self.text

    @property
    def start(self) -> Tensor:
        """(n, classes): the zero-shot probabilities."""
        return (self.logit_scale * self.queries.features @ self.text.T).softmax(dim=1)

    def answer(self, method: Any, **changed: Any) -> Tensor:
        """(n, classes): what a method fitted on the task answers."""
        case = replace(self, **changed)
        fitted = method.fit(case, case, context())
        answers: Tensor = fitted.logits(case.queries)
        return answers


def draw(seed: int, each: int = 20, shots: int = 4, *, shuffled: bool = True) -> Case:
    """`each` queries of every class, and as many support and validation images as shots."""
    rng = torch.Generator().manual_seed(seed)

    def noise(count: int, size: float) -> Tensor:
        return size * torch.randn(count, WIDTH, generator=rng) / WIDTH**0.5

    gap, centers = F.normalize(torch.randn(2, WIDTH, generator=rng), dim=-1), noise(CLASSES, 0.5)

    def images(count: int) -> Seen:
        labels = torch.arange(CLASSES).repeat_interleave(count)
        features = gap[0] + centers[labels] + noise(len(labels), 0.9)
        return Seen(F.normalize(features, dim=-1), labels)

    text = F.normalize(gap[1] + centers + noise(CLASSES, 0.35), dim=-1)
    queries, train, val = images(each), images(shots), images(shots)
    if shuffled:
        queries = queries.take(torch.randperm(len(queries), generator=rng))
    return Case(queries, train, val, text)
