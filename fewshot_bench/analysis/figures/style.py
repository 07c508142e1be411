"""How figures are drawn: sizes of venues, fonts, and `Style`.

A figure is drawn at the size that it is printed in, so that its fonts have the size they say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fewshot_bench.analysis.formats.style import SETTINGS
from fewshot_bench.utils.errors import unknown

FORMATS = (".pdf", ".svg", ".png")


@dataclass(frozen=True, slots=True)
class Size:
    """Inches of a figure, and its font size in points; height None: as the panels need."""

    width: float
    height: float | None = None
    font: float = 8.0


# Width of a column and of the text in the style files of the venues; that of a 16:9 slide has room
# for its title.
SIZES: Mapping[str, Size] = {
    "cvpr-column": Size(3.25, font=7.0),
    "cvpr-page": Size(6.875, font=7.0),
    "iclr": Size(5.5),
    "neurips": Size(5.5),
    "icml-column": Size(3.25, font=7.0),
    "icml-page": Size(6.75, font=7.0),
    "eccv": Size(4.8, font=7.0),
    "ieee-column": Size(3.5, font=7.0),
    "ieee-page": Size(7.16, font=7.0),
    "beamer": Size(5.5, 2.75, 9.0),
}
DEFAULT_SIZE = "cvpr-page"
FONTS: Mapping[str, Sequence[str]] = {
    "sans": ("DejaVu Sans",),
    "serif": ("STIXGeneral", "DejaVu Serif", "DejaVu Sans"),
}
ZERO_SHOT = ("star", "line")
AXES = ("free", "shared", "zero")
# Every kind of figure in a phrase.
KINDS: Mapping[str, str] = {
    "shots": "accuracy over shots, a panel per data set, the average first",
    "base-new": "bars of base classes, new classes and their harmonic mean",
    "cost": "accuracy against trained parameters, time and memory",
    "ablation": "one method over two options (heat maps) or one (bars)",
}
DATA = ".csv"
# Inches: of all figures, and of a panel in a row; a panel's width by its height.
_LIMITS, PANEL, SHAPE = (0.5, 40.0), 1.75, 1.3


def read_size(text: str) -> Size:
    """A size by its name, or in inches: `6x4`, `3.25`; ValueError for anything else."""
    if text in SIZES:
        return SIZES[text]
    parts = text.lower().removesuffix("in").split("x")
    try:
        inches = [float(part) for part in parts]
    except ValueError:
        raise ValueError(str(unknown("size", text, SIZES, "or inches: 6x4, 3.25"))) from None
    low, high = _LIMITS
    if len(inches) > 2 or not all(low <= part <= high for part in inches):
        raise ValueError(f"'{text}': expected inches from {low:g} to {high:g}, such as 6x4 or 3.25")
    return Size(inches[0], inches[1] if len(inches) > 1 else None)


@dataclass(frozen=True, slots=True)
class Style:
    """How a figure is drawn.

    spread: as of tables. bars: whether curves have error bars in place of a band. zero_shot: a
    method without shots is a `star` or a `line`. axes: whether panels have limits of their own
    (`free`), share them (`shared`) or begin at `zero`; "" for the kind's own. across: panels in a
    row.
    """

    size: Size = SIZES[DEFAULT_SIZE]
    font: str = "sans"
    spread: str = "interval"
    bars: bool = False
    zero_shot: str = "star"
    axes: str = ""
    across: int | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """Matplotlib's settings."""
        font = self.size.font
        own: dict[str, Any] = SETTINGS | {
            "font.family": list(FONTS[self.font]),
            "font.size": font,
            "axes.titlesize": font,
            "axes.titlepad": 3.0,
            "axes.labelsize": font,
            "axes.labelpad": 2.0,
            "axes.linewidth": 0.6,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.axisbelow": True,
            "grid.color": "#dddddd",
            "grid.linewidth": 0.5,
            "xtick.labelsize": font - 0.5,
            "ytick.labelsize": font - 0.5,
            "xtick.major.size": 2.0,
            "ytick.major.size": 2.0,
            "xtick.major.pad": 2.0,
            "ytick.major.pad": 2.0,
            "legend.fontsize": font,
            "figure.constrained_layout.h_pad": 0.02,
            "figure.constrained_layout.w_pad": 0.02,
        }
        return own
