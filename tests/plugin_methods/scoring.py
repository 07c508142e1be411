"""A zero-shot classifier that its methods spoil or watch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fewshot_bench import Backbone, Images, Task


@dataclass(frozen=True)
class Scores:
    """Zero-shot logits passed through `change`; `look` sees the queries first."""

    weights: Tensor
    change: Callable[[Tensor], Any]
    look: Callable[[Images], None]

    def logits(self, queries: Images) -> Any:
        """(n, classes), if `change` leaves them so."""
        self.look(queries)
        return self.change(100 * queries.features @ self.weights.T)

    def tensors(self) -> Mapping[str, Tensor]:
        """Nothing that must be kept."""
        return {}


def same(value: Any) -> Any:
    """Change nothing."""
    return value


def blind(queries: Images) -> None:
    """Look at nothing."""


def scores(task: Task, backbone: Backbone, change: Callable[[Tensor], Any] = same) -> Scores:
    """A classifier that would be right but for `change`."""
    return Scores(backbone.class_features(task), change, blind)
