"""Support images that take part in a group of queries, for ZLaP and EM-Dirichlet."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor

from fewshot_bench import Backbone, Images, Task, Vocabulary


@dataclass(frozen=True)
class SupportedClassifier(ABC):
    """Answers for a group of queries from class features (classes, width) and labeled images.

    keys: features (s, width) of the images, labels (s,). on: the method whose logits are read, or
    empty.
    """

    class_features: Tensor
    keys: Tensor
    labels: Tensor
    backbone: Backbone
    on: str

    @abstractmethod
    def logits(self, queries: Images) -> Tensor:
        """(n, classes) logarithms of scores."""

    def for_classes(self, vocabulary: Vocabulary) -> Self:
        """The classifier of other prompts; its labeled images are of other classes."""
        text = self.backbone.class_features(vocabulary)
        return replace(self, class_features=text, keys=self.keys[:0], labels=self.labels[:0])

    def tensors(self) -> Mapping[str, Tensor]:
        """Class features, labeled images and their labels."""
        return {"class_features": self.class_features, "keys": self.keys, "labels": self.labels}


def read_support(
    task: Task, backbone: Backbone, on: str, *, used: bool
) -> tuple[Tensor, Tensor, Tensor, Backbone, str]:
    """The fields of a `SupportedClassifier`; without labeled images unless used, or with `on`."""
    text = backbone.class_features(task)
    if used and not on:
        return text, task.train.features, task.train.labels, backbone, on
    return text, text[:0], task.train.labels[:0], backbone, on
