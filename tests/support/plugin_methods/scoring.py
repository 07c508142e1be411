"""A zero-shot classifier that methods modify or observe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fewshot_bench import Backbone, Images, Task


@dataclass(frozen=True)
class Scores:
    """Zero-shot logits passed through `change`; `look` receives the queries first."""

    weights: Tensor
    change: Callable[[Tensor], Any]
    look: Callable[[Images], None]

    def logits(self, queries: Images) -> Any:
        """Logits (n, classes), unless `change` alters the shape."""
        self.look(queries)
        return self.change(100 * queries.features @ self.weights.T)

    def tensors(self) -> Mapping[str, Tensor]:
        """No tensors to keep."""
        return {}


def same(value: Any) -> Any:
    """Return the value unchanged."""
    return value


def blind(queries: Images) -> None:
    """Ignore the queries."""


def scores(task: Task, backbone: Backbone, change: Callable[[Tensor], Any] = same) -> Scores:
    """A zero-shot classifier modified by `change`."""
    return Scores(backbone.class_features(task), change, blind)
