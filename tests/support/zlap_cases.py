"""Tasks for ZLaP, whose images and texts have a gap."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.reference.toy import context

CLASSES, WIDTH, SCALE = 20, 64, 100.0


@dataclass(frozen=True)
class Seen:
    """Images of which features, labels and logits of another method are known."""

    features: Tensor
    labels: Tensor
    scores: Tensor | None = None

    def __len__(self) -> int:
        return len(self.features)

    def progress(self, done: int, total: int) -> None:
        assert done <= total


@dataclass(frozen=True)
class Case:
    """A task that is its own backbone; features have a gap between images and texts."""

    queries: Seen
    train: Seen
    text: Tensor
    logit_scale: float = 100.0

    def class_features(self, task: Any) -> Tensor:
        return self.text

    def answer(self, method: Any, **changed: Any) -> Tensor:
        """(n, classes): the answers of a method fitted on the task."""
        case = replace(self, **changed)
        logits: Tensor = method.fit(case, case, context()).logits(case.queries)
        assert logits.shape == (len(case.queries), len(case.text))
        assert bool(logits.isfinite().all())
        return logits


def make_case(classes: int = 8, queries: int = 50, width: int = 32, seed: int = 0) -> Case:
    rng = torch.Generator().manual_seed(seed)
    text = torch.randn(classes, width, generator=rng)
    gap = 2 * torch.randn(width, generator=rng)

    def images(labels: Tensor) -> Seen:
        noise = torch.randn(len(labels), width, generator=rng)
        return Seen(F.normalize(text[labels] + 1.5 * noise + gap, dim=1), labels)

    asked = images(torch.randint(classes, (queries,), generator=rng))
    prompts = F.normalize(text + 0.5 * gap + torch.randn(width, generator=rng), dim=1)
    return Case(asked, images(torch.arange(classes).repeat(2)), prompts)
