"""Reliability diagrams: the accuracy of a method by the confidence of its predictions.

Guo et al., "On calibration of modern neural networks", ICML 2017, figure 1.
"""

from __future__ import annotations

import math

from fewshot_bench.analysis.formats.style import INK
from fewshot_bench.plugins.report.figures.svg import Canvas, Picture
from fewshot_bench.plugins.report.headline import Contestant, Headline
from fewshot_bench.plugins.report.predictions import Bins, Predictions


def draw_all(headline: Headline, predictions: Predictions) -> list[Picture]:
    """A diagram per method whose logits can be used on every data set."""
    pictures: list[Picture] = []
    for contestant in headline.drawn:
        bins = predictions.bins_of(headline, contestant) if contestant.cell else None
        if bins is not None:
            error = headline.calibration_error(contestant, headline.group)
            note = "" if error is None else f"ECE {error:.1f} %"
            pictures.append(_draw(f"reliability-{len(pictures)}", contestant, bins, note))
    return pictures


def _draw(name: str, contestant: Contestant, bins: Bins, note: str) -> Picture:
    """The diagram of one method; the area of a point is the share of queries in its bin."""
    confidences, accuracies, shares = bins
    canvas = Canvas(name, 1.9, 1.9)
    axes = canvas.figure.add_axes((0.2, 0.18, 0.74, 0.77))
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, alpha=0.5, linestyle=(0, (3, 3)))
    color = contestant.look.sentinel
    axes.plot(confidences, accuracies, color=color, linewidth=1.2)
    sizes = [4 + 90 * share for share in shares]
    axes.scatter(confidences, accuracies, s=sizes, color=color, linewidths=0)
    axes.set(xlim=(0, 1), ylim=(0, 1), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1), aspect="equal")
    axes.text(0.04, 0.95, note, va="top", fontsize=8)
    axes.set_ylabel("accuracy", fontsize=8, labelpad=1)
    axes.set_xlabel("confidence", fontsize=8, labelpad=1)
    # Mean confidence minus accuracy, in points.
    parts = zip(shares, confidences, accuracies, strict=True)
    gap = 100 * math.fsum(share * (sure - right) for share, sure, right in parts)
    lean = f"{'Overconfident' if gap > 0 else 'Underconfident'} by {abs(gap):.1f} points."
    if abs(gap) < 0.5:
        lean = "As sure as it is right."
    label = contestant.label
    svg = canvas.svg(f"{label}: reliability diagram", f"{lean} {note}".strip())
    return Picture(svg, label, lean)
