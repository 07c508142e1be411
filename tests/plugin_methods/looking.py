"""Methods that inspect their surroundings: query order, reachable objects, augmented views."""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, ClassVar

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


FOUND: dict[str, list[Any]] = {"texts": [], "tensors": [], "kinds": []}
_OUTSIDE = (types.ModuleType, type)


def reachable(*roots: object) -> Iterator[Any]:
    """All objects reachable by attributes, slots, containers, closures, arguments; no globals."""
    import gc

    seen: dict[int, Any] = {}
    todo = list(roots)
    while todo:
        value = todo.pop()
        if id(value) in seen or isinstance(value, _OUTSIDE):
            continue
        seen[id(value)] = value
        yield value
        if isinstance(value, types.FunctionType):
            cells = [cell.cell_contents for cell in value.__closure__ or ()]
            todo += [*cells, value.__defaults__, value.__kwdefaults__, value.__dict__]
        else:
            todo += gc.get_referents(value)


@dataclass(frozen=True)
class Walker:
    """Collects every text, tensor and kind of object that it can reach, in `FOUND`."""

    name: ClassVar[str] = "walker"

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Scores:
        """Collect everything reachable from the arguments of `fit`."""
        _remember(task, backbone, ctx)
        return Scores(backbone.class_features(task), same, _remember)


def _remember(*roots: object) -> None:
    for value in reachable(*roots):
        FOUND["kinds"].append(type(value).__name__)
        if isinstance(value, str | PurePath):
            FOUND["texts"].append(str(value))
        elif isinstance(value, Tensor) and not value.is_floating_point():
            FOUND["tensors"].append(value)
        elif isinstance(value, list | tuple) and all(isinstance(part, int) for part in value):
            FOUND["tensors"].append(torch.tensor(value))


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
