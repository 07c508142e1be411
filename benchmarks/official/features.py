"""Adapters and linear heads on frozen features.

Tip-Adapter, TaskRes and CLIP-Adapter encode the images of every step; the others encode them ahead
of training, and take features here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.official.step import Given, Setting, Step


class TipAdapterF(Step):
    """Tip-Adapter-F: keys are the weight of a linear layer."""

    alpha, beta = 2.0, 1.0

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.frozen = self.written()
        self.keys = self.linear(self.frozen.shape[1], len(setting.labels), bias=False)
        self.values = F.one_hot(setting.labels.sort().values, len(self.frozen)).to(self.frozen)
        self.learned = [self.keys.weight]

    def losses(self, images: Tensor, labels: Tensor) -> Sequence[Tensor]:
        """Cross-entropy."""
        features = self.images(images)
        affinity = self.keys(features)
        cached = (-(self.beta - self.beta * affinity)).exp() @ self.values
        logits = self.scale * features @ self.frozen.T + self.alpha * cached
        return (F.cross_entropy(logits, labels),)

    def optimizer(self) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW(self.learned, lr=1e-3, eps=1e-4)


class TaskRes(Step):
    """TaskRes: a residual on raw class features."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.base = self.raw_written()
        self.residual = nn.Parameter(torch.zeros_like(self.base))
        self.learned = [self.residual]

    def losses(self, images: Tensor, labels: Tensor) -> Sequence[Tensor]:
        """Cross-entropy."""
        classes = F.normalize(self.base + 0.5 * self.residual, dim=-1)
        return (self.cross_entropy(self.images(images), classes, labels),)

    def optimizer(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.learned, lr=2e-3, weight_decay=5e-4)


class ClipAdapter(Step):
    """CLIP-Adapter: a bottleneck on raw image features."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.frozen = self.written()
        width = self.frozen.shape[1]
        self.down = self.linear(width, max(1, width // 4), bias=False)
        self.up = self.linear(max(1, width // 4), width, bias=False)
        self.learned = [self.down.weight, self.up.weight]

    def losses(self, images: Tensor, labels: Tensor) -> Sequence[Tensor]:
        """Cross-entropy."""
        raw = self.raw_images(images)
        mixed = 0.2 * self.up(self.down(raw).relu()).relu() + 0.8 * raw
        return (self.cross_entropy(F.normalize(mixed, dim=-1), self.frozen, labels),)


class LpPlusPlus(Step):
    """LP++: weights, biases and blending factors; every step takes all features."""

    given: ClassVar[Given] = "features"
    whole: ClassVar[bool] = True

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.frozen = self.written()
        self.layer = self.linear(self.frozen.shape[1], len(self.frozen))
        self.blending = nn.Parameter(torch.ones(len(self.frozen), device=self.device))
        self.learned = [*self.layer.parameters(), self.blending]

    def losses(self, images: Tensor, labels: Tensor) -> Sequence[Tensor]:
        """Cross-entropy."""
        ones = images.new_ones(len(images), 1)
        logits = self.layer(images) + ones @ self.blending[None] * (images @ self.frozen.T)
        return (F.cross_entropy(logits, labels),)

    def optimizer(self) -> torch.optim.Optimizer:
        """SGD of weights and biases; the blending has a step of its own every tenth time."""
        return torch.optim.SGD(self.learned[:2], lr=1e-3, momentum=0.9)


class LinearHead(Step):
    """Cross-modal adaptation and WiSE-FT's head: features of images, and of texts in the former."""

    given: ClassVar[Given] = "features"

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        start = self.written()
        self.head = self.linear(start.shape[1], len(start), bias=False)
        self.learned = [self.head.weight]
        self.load([start])

    def losses(self, images: Tensor, labels: Tensor) -> Sequence[Tensor]:
        """Cross-entropy."""
        return (F.cross_entropy(self.scale * self.head(images), labels),)

    def optimizer(self) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW(self.learned, lr=1e-3, weight_decay=0.01)


class ProLip(Step):
    """ProLIP: the projection of the image encoder, on rows before it."""

    given: ClassVar[Given] = "unprojected"
    whole: ClassVar[bool] = True

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.frozen, self.start = self.written(), self.module.visual.proj.detach().clone()
        self.projection = nn.Parameter(self.start.clone())
        self.learned = [self.projection]
        self.weight = len(self.frozen) / len(setting.labels)

    def losses(self, images: Tensor, labels: Tensor) -> Sequence[Tensor]:
        """Cross-entropy and the squared distance from CLIP's projection."""
        features = F.normalize(images @ self.projection, dim=-1)
        distance = F.mse_loss(self.projection, self.start, reduction="sum")
        loss = self.cross_entropy(features, self.frozen, labels)
        return (loss + self.weight * distance,)

    def optimizer(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.learned, lr=1e-3, eps=1e-4)


class ZsLp(Step):
    """ZS-LP: class vectors that start at raw class features."""

    given: ClassVar[Given] = "features"

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.base = self.raw_written()
        self.vectors = nn.Parameter(self.base.clone())
        self.learned = [self.vectors]

    def losses(self, images: Tensor, labels: Tensor) -> Sequence[Tensor]:
        """Cross-entropy."""
        unit = F.normalize(images, dim=-1)
        return (self.cross_entropy(unit, F.normalize(self.vectors, dim=-1), labels),)

    def optimizer(self) -> torch.optim.Optimizer:
        """SGD."""
        return torch.optim.SGD(self.learned, lr=0.1, momentum=0.9)


class Clap(ZsLp):
    """CLAP: ZS-LP with a penalty for each class."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.strength = torch.ones(len(self.base), device=self.device)

    def losses(self, images: Tensor, labels: Tensor) -> Sequence[Tensor]:
        """Cross-entropy and the mean weighted distance from the start."""
        (loss,) = super().losses(images, labels)
        away = (self.vectors - self.base).pow(2).sum(dim=-1)
        return (loss + (self.strength * away).mean(),)


def tip_search(
    features: Tensor,
    targets: Tensor,
    text: Tensor,
    keys: Tensor,
    values: Tensor,
    betas: Sequence[float],
    alphas: Sequence[float],
) -> tuple[float, float]:
    """Tip-Adapter's search; the affinity is recomputed at every point of the grid."""
    best, chosen = -1.0, (math.nan, math.nan)
    for beta in betas:
        for alpha in alphas:
            affinity = features @ keys
            cached = ((-1) * (beta - beta * affinity)).exp() @ values
            logits = 100.0 * features @ text.T + alpha * cached
            correct = logits.topk(1, 1, True, True)[1].t().eq(targets.view(1, -1))
            accuracy = 100 * float(correct.float().sum()) / len(targets)
            if accuracy > best:
                best, chosen = accuracy, (beta, alpha)
    return chosen
