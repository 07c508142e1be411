"""Methods that look at the order of queries, and at augmented views."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fewshot_bench import Augment, Backbone, RunContext, Task

from .scoring import Scores, blind, same, scores


@dataclass(frozen=True)
class Positions:
    """Bets that queries are listed class by class."""

    name: ClassVar[str] = "positions"

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Scores:
        """Learn nothing."""
        return scores(task, backbone, _by_position)


def _by_position(value: Tensor) -> Tensor:
    count, classes = value.shape
    guess = torch.arange(count) * classes // count
    return torch.nn.functional.one_hot(guess, classes).float()


@dataclass(frozen=True)
class Viewer:
    """The nearest class mean of augmented views, the ones that `Vandal` changes."""

    name: ClassVar[str] = "viewer"

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Scores:
        """Average the views by class."""
        stream = torch.Generator().manual_seed(0)
        means = task.train.views(2, Augment(), stream, normalize=False).mean(dim=0)
        onehot = torch.nn.functional.one_hot(task.train.labels, len(task.classnames)).float()
        return Scores(onehot.T @ means, same, blind)
