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
from fewshot_bench.analysis.table.table import Row, Table
from fewshot_bench.utils.errors import UsageError, unknown
from fewshot_bench.utils.text import option_name


@dataclass(frozen=True, slots=True)
class FigureOptions:
    """What is drawn, and how. ours: methods of ours, as users name them; costs: names of `COSTS`.

    swept: the options of an ablation.
    """

    kind: str
    style: Style
    ours: tuple[str, ...] = ()
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
        ("spread", "axes", "option", "each"),
        lambda table, asked: ablation.draw(table, asked.style, asked.swept),
    ),
}


def refuse_foreign(kind: str, given: Collection[str]) -> None:
    """UsageError for an option that only other kinds have."""
    for name in given:
        owners = [other for other, about in _KINDS.items() if name in about.own]
        if owners and kind not in owners:
            raise UsageError(
                f"{option_name(name)} belongs to figures of kind {' and '.join(owners)}, not to "
                f"{kind}: leave it out"
            )


def draw(table: Table, asked: FigureOptions) -> Drawing:
    """The figure of a table; UsageError if there is nothing to draw."""
    ours = frozenset(label for name in asked.ours for label in _rows_of(table, name))
    style = replace(asked.style, ours=ours)
    drawing = _KINDS[asked.kind].draw(table, replace(asked, style=style))
    return drawing if drawing.notes else replace(drawing, notes=table.notes)


def _rows_of(table: Table, name: str) -> list[str]:
    """The labels of the rows of a method or a row, by its old or its new name."""
    shown = table.renamed.get(name, name)

    def names(row: Row) -> tuple[str, ...]:
        return row.spec.method, row.spec.label, row.label, row.label.partition("[")[0]

    found = [row.label for row in table.rows if {name, shown} & set(names(row))]
    if not found:
        every = [row.label for row in table.rows]
        raise unknown("method of --ours", name, every, "one that is drawn")
    return found
