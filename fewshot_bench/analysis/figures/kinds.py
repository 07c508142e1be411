"""The kinds of figures: `draw` draws one of them from a table.

A new kind is a module with a function that returns a `Drawing`, a line in `_KINDS`, and its phrase
in `KINDS` of `style.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

from fewshot_bench.analysis.figures import ablation, base_new, costs, shots
from fewshot_bench.analysis.figures.drawing import Drawing
from fewshot_bench.analysis.figures.style import Style
from fewshot_bench.analysis.sweep.panels import SweepOptions
from fewshot_bench.analysis.table.table import Table
from fewshot_bench.utils.errors import UsageError
from fewshot_bench.utils.text import option_name


@dataclass(frozen=True, slots=True)
class FigureOptions:
    """What is drawn, and how. costs: their names; swept: the options of an ablation."""

    kind: str
    style: Style
    costs: tuple[str, ...] = ()
    swept: SweepOptions = field(default_factory=SweepOptions)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of figure. own: names of its options that not all kinds have."""

    own: Collection[str]
    draw: Callable[[Table, FigureOptions], Drawing]


_KINDS: Mapping[str, Kind] = {
    "shots": Kind(
        ("spread", "bars", "zero_shot", "axes", "ours"),
        lambda table, asked: shots.draw(table, asked.style),
    ),
    "base-new": Kind(
        ("spread", "axes", "ours"),
        lambda table, asked: base_new.draw(table, asked.style),
    ),
    "cost": Kind(
        ("cost", "ours"),
        lambda table, asked: costs.draw(table, asked.style, asked.costs),
    ),
    "ablation": Kind(
        ("spread", "axes", "options", "each"),
        lambda table, asked: ablation.draw(table, asked.style, asked.swept),
    ),
}


def refuse_foreign(kind: str, given: Collection[str]) -> None:
    """UsageError for an option that only other kinds have."""
    for name in given:
        owners = [other for other, about in _KINDS.items() if name in about.own]
        if owners and kind not in owners:
            shown = "--option" if name == "options" else option_name(name)
            raise UsageError(
                f"{shown} belongs to figures of kind {' and '.join(owners)}, not to {kind}: leave "
                "it out"
            )


def draw(table: Table, asked: FigureOptions) -> Drawing:
    """The figure of a table; UsageError if there is nothing to draw."""
    drawing = _KINDS[asked.kind].draw(table, asked)
    return drawing if drawing.notes else replace(drawing, notes=table.notes)
