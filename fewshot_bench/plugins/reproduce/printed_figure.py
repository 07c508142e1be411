"""A figure of what sources print for the same method: a line per method, a dot per number."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any

from fewshot_bench.analysis.formats.style import COLORS, MARKERS, SETTINGS
from fewshot_bench.analysis.table.figure import metadata_of
from fewshot_bench.plugins.reproduce.printed import PrintedSetting

# (on a light page, on a dark page)
INK, FAINT = ("#1f2328", "#e6edf3"), ("#d0d7de", "#3d444d")
# Inches.
_WIDTH, _LINE, _AROUND = 7.2, 0.34, 0.9


def content(settings: Sequence[PrintedSetting]) -> str:
    """The numbers of a figure as JSON, which the file states about itself."""
    return json.dumps([[s.method, s.gap, s.text] for s in settings], ensure_ascii=False)


def draw(settings: Sequence[PrintedSetting], form: str, *, dark: bool = False) -> bytes:
    """The content of the file in format `pdf`, `svg` or `png`; settings: settings, one per line."""
    import matplotlib
    from matplotlib.figure import Figure

    shade = int(dark)
    sources = sorted({number.source for setting in settings for number in setting.numbers})
    looks = {name: (COLORS[i % len(COLORS)][shade], MARKERS[i]) for i, name in enumerate(sources)}
    with matplotlib.rc_context(SETTINGS | {"font.size": 9.5, "text.color": INK[shade]}):
        figure = Figure(figsize=(_WIDTH, len(settings) * _LINE + _AROUND), layout="constrained")
        axes: Any = figure.subplots()
        for y, setting in enumerate(reversed(settings)):
            ends = [setting.numbers[0].value, setting.numbers[-1].value]
            axes.plot(ends, [y, y], color=FAINT[shade], linewidth=3, zorder=1)
            for number in setting.numbers:
                color, marker = looks[number.source]
                look = {"markerfacecolor": "none", "markeredgewidth": 2.0, "markersize": 8.0}
                axes.plot(number.value, y, marker, color=color, label=number.source, **look)
            axes.annotate(
                f"{setting.gap:.1f} points",
                (ends[1], y),
                (9, 0),
                textcoords="offset points",
                va="center",
                color=INK[shade],
            )
        axes.set_yticks(range(len(settings)), [setting.method for setting in reversed(settings)])
        axes.set_xlabel(_quantity(settings[0]), color=INK[shade])
        axes.tick_params(colors=INK[shade], length=0)
        axes.grid(axis="x", color=FAINT[shade], linewidth=0.5)
        axes.margins(x=0.12, y=0.08)
        axes.set_axisbelow(True)
        for spine in axes.spines.values():
            spine.set_visible(False)
        handles, labels = axes.get_legend_handles_labels()
        legend = dict(zip(labels, handles, strict=True))
        figure.legend(
            [legend[name] for name in sources],
            [f"printed by {name}" if name == sources[0] else name for name in sources],
            loc="outside upper center",
            ncols=min(len(legend), 5),
            frameon=False,
            handletextpad=0.2,
        )
        buffer = io.BytesIO()
        about = metadata_of(content(settings), form)
        figure.savefig(buffer, format=form, dpi=200, transparent=True, metadata=about)
    return buffer.getvalue()


def _quantity(setting: PrintedSetting) -> str:
    where = "mean over 11 data sets" if setting.dataset == "average" else setting.dataset
    classes = "" if setting.classes == "all" else f", {setting.classes} classes"
    return f"top-1 accuracy in %, {where}, {setting.shots}-shot, {setting.backbone}{classes}"
