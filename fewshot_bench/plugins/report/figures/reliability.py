"""Reliability diagrams: the accuracy of a method by the confidence of its predictions.

Guo et al., "On calibration of modern neural networks", ICML 2017, figure 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fewshot_bench.analysis.formats.style import INK, Look
from fewshot_bench.plugins.report.figures.svg import Canvas


@dataclass(frozen=True, slots=True)
class Reliability:
    """Mean confidence and accuracy (0 to 1) and share of the queries, per bin that is not empty."""

    label: str
    look: Look
    confidence: Sequence[float]
    accuracy: Sequence[float]
    share: Sequence[float]
    note: str


def draw(method: Reliability, number: int, description: str) -> str:
    """The diagram of one method; the area of a point is the share of queries in its bin."""
    canvas = Canvas(f"reliability-{number}", 1.9, 1.9)
    axes = canvas.figure.add_axes((0.2, 0.18, 0.74, 0.77))
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, alpha=0.5, linestyle=(0, (3, 3)))
    color = method.look.sentinel
    axes.plot(method.confidence, method.accuracy, color=color, linewidth=1.2)
    axes.scatter(
        *(method.confidence, method.accuracy),
        s=[4 + 90 * share for share in method.share],
        color=color,
        linewidths=0,
    )
    axes.set(xlim=(0, 1), ylim=(0, 1), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1), aspect="equal")
    axes.text(0.04, 0.95, method.note, va="top", fontsize=8)
    axes.set_ylabel("accuracy", fontsize=8, labelpad=1)
    axes.set_xlabel("confidence", fontsize=8, labelpad=1)
    return canvas.svg(f"{method.label}: reliability diagram", description)
