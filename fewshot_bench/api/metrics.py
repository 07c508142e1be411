"""The metrics of a record: what each is called, its unit, and whether more of it is better."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

PERCENT, NATS, PLAIN = "%", "nats", ""


@dataclass(frozen=True, slots=True)
class Metric:
    """One number per cell that tables can show: `short` is what a narrow column is called.

    `digits` are those behind the decimal point.
    """

    name: str
    title: str
    short: str
    unit: str = PERCENT
    digits: int = 2
    higher_is_better: bool = True

    @property
    def quantity(self) -> str:
        """What a table over it says: `top-1 accuracy in %`, `Brier score, lower is better`."""
        unit = f" in {self.unit}" if self.unit else ""
        return f"{self.title}{unit}{'' if self.higher_is_better else ', lower is better'}"

    @property
    def difference(self) -> str:
        """What a table of differences says: `points of top-1 accuracy`."""
        unit = {PERCENT: "points of ", NATS: "nats of "}.get(self.unit, "")
        return f"{unit}{self.title}{'' if self.higher_is_better else ', negative is better'}"

    def text(self, value: float) -> str:
        """A value as tables show it."""
        return f"{value:.{self.digits}f}"


_ALL = (
    Metric("top1", "top-1 accuracy", "top-1"),
    Metric("macro_accuracy", "macro accuracy", "macro acc."),
    Metric("macro_f1", "macro-F1", "macro-F1"),
    Metric("nll", "negative log-likelihood", "NLL", NATS, 4, higher_is_better=False),
    Metric("brier", "Brier score", "Brier", PLAIN, 4, higher_is_better=False),
    Metric("ece", "expected calibration error", "ECE", higher_is_better=False),
    Metric("adaptive_ece", "adaptive calibration error", "AECE", higher_is_better=False),
)
# All that `quality.metrics` computes but `n`.
METRICS: Mapping[str, Metric] = {metric.name: metric for metric in _ALL}
