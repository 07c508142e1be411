"""Curves of fits over their steps: a panel per series."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fewshot_bench.analysis.curves import Curves
from fewshot_bench.analysis.figures.drawing import (
    Panels,
    color_of,
    legend_lines,
    save,
    text,
)
from fewshot_bench.analysis.figures.style import Style
from fewshot_bench.analysis.formats.style import looks

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def to_bytes(curves: Curves, style: Style, form: str, about: str) -> bytes:
    """The content of a file in format `pdf`, `svg` or `png`; about: what it states about itself."""
    import matplotlib

    with matplotlib.rc_context(style.settings):
        figure = _figure(curves, style)
    return save(figure, form, about, style.settings)


def _figure(curves: Curves, style: Style) -> Figure:
    labels = list(dict.fromkeys(curve.label for shown in curves.values() for curve in shown))
    several = labels if len(labels) > 1 else []
    panels = Panels(style, len(curves), legend=legend_lines(style, several))
    look_by_label, entries = looks(labels), dict[str, Any]()
    for axes, (name, shown) in zip(panels.axes, curves.items(), strict=True):
        for curve in shown:
            look = look_by_label[curve.label]
            (entries[curve.label],) = axes.plot(
                curve.steps,
                curve.values,
                color=color_of(look),
                linestyle=look.line,
                linewidth=1.1,
                marker=look.marker if len(curve.steps) == 1 else None,
                markersize=3,
            )
        axes.set_title(text(name))
        axes.grid()
    for axes in panels.low:
        axes.set_xlabel("step")
    panels.write_legend({label: entries[label] for label in several})
    return panels.figure
