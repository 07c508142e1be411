"""Models of a sweep: panels of cells over one or two options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fewshot_bench.analysis.statistics.intervals import Estimate
from fewshot_bench.api.metrics import Metric

Status = Literal["done", "partial", "failed", "missing", "inapplicable"]


@dataclass(frozen=True, slots=True)
class Axis:
    """An option with the values that are swept, as given, and its default."""

    name: str
    values: tuple[Any, ...]
    default: Any

    @property
    def title(self) -> str:
        """The name with its default."""
        return f"{self.name} (default {self.default})"


@dataclass(frozen=True, slots=True)
class Cell:
    """One combination of options: `estimate` over seeds, None where there is no number.

    `partial`: a number over fewer seeds than other cells have.
    """

    options: Mapping[str, Any]
    status: Status
    estimate: Estimate | None = None
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Panel:
    """Cells over rows and columns, the other options fixed.

    group: the data set, or `average`; `others` are the values of the options that are neither rows
    nor columns. cells: by (row, column) index; the row is 0 where one option alone is swept.
    """

    group: str
    shots: int
    others: Mapping[str, Any]
    cells: Mapping[tuple[int, int], Cell]

    @property
    def title(self) -> str:
        """The title that distinguishes it from other panels of its group."""
        return ", ".join(f"{name} {value}" for name, value in self.others.items())

    @property
    def best(self) -> float | None:
        """The largest mean that is shown."""
        return max((c.estimate.mean for c in self.cells.values() if c.estimate), default=None)


@dataclass(frozen=True, slots=True)
class Sweep:
    """All panels; `rows` is None where one option alone is swept, `fixed` holds options with one
    value that is not the default.
    """

    method: str
    metric: Metric
    columns: Axis
    rows: Axis | None
    others: tuple[Axis, ...]
    fixed: Mapping[str, Any]
    panels: tuple[Panel, ...]
    conditions: Mapping[str, str]
    notes: tuple[str, ...]
    signature: str

    @property
    def title(self) -> str:
        """The method with its fixed options."""
        inner = ",".join(f"{name}={value}" for name, value in self.fixed.items())
        return f"{self.method}[{inner}]" if inner else self.method

    @property
    def told_conditions(self) -> str:
        """Conditions that all records share, on one line; digests are shortened."""
        shown = {**self.conditions, "weights": self.conditions.get("weights", "")[:12]}
        return "; ".join(f"{name} {value}" for name, value in shown.items() if value)

    def range(self, group: str, shots: int) -> tuple[float, float] | None:
        """The least and the largest number of the panels that share a scale."""
        values = [
            cell.estimate.mean
            for panel in self.panels
            if (panel.group, panel.shots) == (group, shots)
            for cell in panel.cells.values()
            if cell.estimate
        ]
        return (min(values), max(values)) if values else None

    def groups(self) -> list[tuple[str, int]]:
        """Group and shots of each block of panels, in order."""
        return list(dict.fromkeys((panel.group, panel.shots) for panel in self.panels))
