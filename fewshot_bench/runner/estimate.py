"""How many image encodings the cells of a plan need one by one, and how many when shared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fewshot_bench.api.demand import Demand, Demanding
from fewshot_bench.api.registry import registry
from fewshot_bench.api.shots import per_class
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.splits.draw import planned_split, split_key

if TYPE_CHECKING:
    from fewshot_bench.api.dataset import Dataset
    from fewshot_bench.api.task import Item, Split


@dataclass
class Savings:
    """Image encodings: `alone` if every cell encoded for itself, `shared` as the plan does it.

    adapted: those that cannot be shared, in neither number. fits: how many cells are fitted.
    silent: methods that do not tell what they need.
    """

    alone: int = 0
    shared: int = 0
    adapted: int = 0
    fits: int = 0
    silent: list[str] = field(default_factory=list)

    def text(self) -> str:
        """One line for a person."""
        if not self.alone:
            return ""
        times = f", {self.alone / self.shared:.1f} times fewer" if self.shared else ""
        line = f"frozen encoder: {self.shared:,} images to encode instead of {self.alone:,}{times}"
        if self.adapted:
            line += f"; through adapted encoders: {self.adapted:,}"
        if self.silent:
            line += f"; not counted: {', '.join(self.silent)}"
        return line


def savings(cells: Sequence[RunSpec], datasets: Mapping[str, Dataset]) -> Savings:
    """What the cells ask of the image encoder; what earlier runs left in a cache is not known."""
    found, once = Savings(), _Once()
    splits: dict[tuple[Any, ...], Split] = {}
    fitted: set[str] = set()
    for cell in cells:
        method = registry().method_class(cell.method)(**cell.options)
        if not isinstance(method, Demanding):
            found.silent += [cell.method] if cell.method not in found.silent else []
            continue
        split = _split(cell, datasets, splits)
        classes = len({item.label for item in split.train})
        shots = per_class(cell.shots, len(split.train), classes)
        demand = method.demand(shots, classes)
        first = cell.fit_key() not in fitted
        fitted.add(cell.fit_key())
        found.fits += first
        found.alone += _alone(demand, split)
        found.adapted += demand.adapted * first + (0 if demand.queries else len(split.test))
        once.add(demand, split, cell)
    found.shared = once.images
    return found


def _alone(demand: Demand, split: Split) -> int:
    views = sum(demand.fixed.values())
    parts = (
        demand.queries * len(split.test),
        demand.support * len(split.train),
        demand.validation * len(split.val),
        views * len(split.train),
    )
    return sum(parts)


class _Once:
    """Every image and every fixed view counts once."""

    def __init__(self) -> None:
        self._seen: set[tuple[str, str, str]] = set()
        self._views: dict[tuple[str, str, str, int], int] = {}

    @property
    def images(self) -> int:
        """How many encodings."""
        return len(self._seen) + sum(self._views.values())

    def add(self, demand: Demand, split: Split, cell: RunSpec) -> None:
        """Add what one cell needs."""
        if demand.queries:
            self._see(cell.target or cell.dataset, split.test)
        if demand.support:
            self._see(cell.dataset, split.train)
        if demand.validation:
            self._see(cell.dataset, split.val)
        for crop, count in demand.fixed.items():
            for item in split.train:
                key = (cell.dataset, item.id, crop, cell.train_seed)
                self._views[key] = max(count, self._views.get(key, 0))

    def _see(self, dataset: str, items: Iterable[Item]) -> None:
        self._seen.update((dataset, item.id, "") for item in items)


def _split(
    cell: RunSpec, datasets: Mapping[str, Dataset], drawn: dict[tuple[Any, ...], Split]
) -> Split:
    key = split_key(cell)
    if key not in drawn:
        drawn[key] = planned_split(cell, datasets)
    return drawn[key]
