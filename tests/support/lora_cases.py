"""Record what LoRA methods are asked for, and start adapters away from zero."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass, field
from typing import Any

import torch
from fsbench_methods.lora_layers import LowRank
from torch import Tensor

from fewshot_bench import Task
from tests.reference.toy import (
    MemoryShots,
    random_task,
)


def with_random_b(adapter: LowRank) -> LowRank:
    """Randomize B: at its initial zero, A has no gradient."""
    rng = torch.Generator().manual_seed(5)
    for _, b in adapter.factors.values():
        b.data.normal_(std=0.1, generator=rng)
    return adapter


@dataclass
class FedMasks:
    """Replaces `Dropout`: predefined masks over channels, one per call in order."""

    rate: float
    masks: list[Tensor]
    calls: Any = field(default_factory=itertools.count)

    def mask(self, x: Tensor) -> Tensor:
        if x.dim() == 3:
            return torch.stack([self.mask(one) for one in x])
        return self.masks[next(self.calls)].expand(x.shape)


@dataclass
class Recorded(MemoryShots):
    """Shots that record the batches they yield."""

    read: list[Any] = field(default_factory=list)

    def batches(self, *args: Any, **settings: Any) -> Any:
        for batch in super().batches(*args, **settings):
            self.read.append(batch)
            yield batch


def recorded(backbone: Any) -> tuple[Task, Recorded]:
    task = random_task(backbone)
    shots = Recorded(task.train.pixels, task.train.labels, backbone)  # type: ignore[attr-defined]
    return dataclasses.replace(task, train=shots), shots


def tokens_of(backbone: Any, task: Task) -> Tensor:
    tokens: Tensor = backbone.tokenize(task.prompts(task.templates[0]))
    return tokens
