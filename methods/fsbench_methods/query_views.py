"""Views of queries at test time: the plain image and bilinear crops of it, in blocks of queries.

`in_blocks` yields them; `ViewClassifier` is the classifier of methods that read nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from fewshot_bench import Augment, Backbone, Images, Vocabulary
from fewshot_bench.training import score_classes

BLOCK = 64
"""Queries at a time: 64 views of them take 8 MB at width 512, and their decoded files 64 MB."""
CROPS = Augment(interpolation="bilinear")
"""torchvision's RandomResizedCrop and RandomHorizontalFlip, as all official codes call them."""


def in_blocks(queries: Images, count: int, augment: Augment = CROPS) -> Iterator[Tensor]:
    """Unit features (b, count, embed) of consecutive queries, the plain view first."""
    plain, done = queries.features, 0
    for order in torch.split(torch.arange(len(queries)), BLOCK):
        crops = queries.views(count - 1, augment, order=order)
        yield torch.cat([plain[done : done + len(order)][None], crops]).transpose(0, 1)
        done += len(order)
        queries.progress(done, len(queries))


def by_entropy(logits: Tensor) -> Tensor:
    """(b, views) numbers of the views of logits (b, views, classes), the most certain one first."""
    logs = logits.log_softmax(dim=-1)
    return (-(logs.exp() * logs).sum(dim=-1)).argsort(dim=-1, stable=True)


@dataclass(frozen=True)
class ViewClassifier(ABC):
    """Answers for a query from the features of its views and those of the classes."""

    class_features: Tensor
    backbone: Backbone
    views: int

    @abstractmethod
    def answer(self, views: Tensor) -> Tensor:
        """(b, classes) logits of queries from unit features (b, views, embed) of their views."""

    def score(self, features: Tensor) -> Tensor:
        """Zero-shot logits (..., classes) of unit features (..., embed)."""
        scaled = self.backbone.logit_scale * features.flatten(0, -2)
        scores: Tensor = score_classes(scaled, self.class_features)
        return scores.view(*features.shape[:-1], -1)

    def logits(self, queries: Images) -> Tensor:
        """(n, classes); the views of few queries are held at a time."""
        return torch.cat([self.answer(views) for views in in_blocks(queries, self.views)])

    def for_classes(self, vocabulary: Vocabulary) -> Self:
        """The same for other classes."""
        return replace(self, class_features=self.backbone.class_features(vocabulary))

    def tensors(self) -> Mapping[str, Tensor]:
        """Empty: backbone, class names and options determine the classifier."""
        return {}
