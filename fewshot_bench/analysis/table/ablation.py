"""The layout `ablation`: how one method depends on its options, one at a time.

A block per option has its values in rows, the default marked, where all other options have theirs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fewshot_bench.analysis.formats.document import Column
from fewshot_bench.analysis.sweep.panels import SweepOptions, order_of, the_method
from fewshot_bench.analysis.table.grids import Block, Kind, Part
from fewshot_bench.analysis.table.table import Row, Table
from fewshot_bench.utils.errors import UsageError
from fewshot_bench.utils.text import few


def ablate(
    table: Table, options: SweepOptions | None, kinds: Iterable[Kind]
) -> tuple[list[Part], list[str]]:
    """A part per kind of evaluation, and notes on rows that are in none.

    UsageError for several methods, and if no option varies by itself.
    """
    method = the_method(table, "an ablation")
    asked = options.values if options else {}
    rows = [row for row in table.rows if len(row.spec.overrides) < 2]
    by_change = {_change(row): row for row in rows}
    if len(by_change) < len(rows):
        raise UsageError("an ablation is of one set of conditions: leave --allow-mixed out")
    changed = [name for name, _ in by_change if name]
    first = table.rows[0].spec.options
    names = list(asked) or [name for name in first if name in changed]
    if not changed or not names:
        raise UsageError(
            f"no option of {method} varies by itself: expected records with one option that is not "
            f"the default, as of fsbench run -m {method} -o NAME=A,B"
        )
    blocks = {name: _values(table, name, asked.get(name), by_change) for name in names}
    left_out = [row.label for row in table.rows if len(row.spec.overrides) > 1]
    notes = []
    if left_out:
        notes.append(
            f"not shown, since several options differ: {few(left_out)} (--layout sweep draws them)"
        )
    parts = []
    for kind in kinds:
        heads = tuple(Column(place.head, over=place.over) for place in kind.places)
        own = tuple(
            Block(
                table,
                values,
                tuple((place.group, shots) for place in kind.places),
                name if len(kind.shots) == 1 else f"{name}, {shots}-shot",
            )
            for name, values in blocks.items()
            for shots in kind.shots
        )
        setting = f"{kind.shots[0]}-shot, " if len(kind.shots) == 1 else ""
        parts.append(Part(f"{method}, {setting}{kind.title}", heads, own, first="value"))
    return parts, notes


def _change(row: Row) -> tuple[str, str]:
    """The only option that a row overrides with its value as text; empty for the default."""
    return next(((name, str(value)) for name, value in row.spec.overrides.items()), ("", ""))


def _values(
    table: Table, name: str, asked: Iterable[Any] | None, rows: dict[tuple[str, str], Row]
) -> tuple[tuple[str, Row | None], ...]:
    """The values of an option with their rows, None for a value without records."""
    others = [row.spec.options[name] for row in table.rows if name not in row.spec.overrides]
    default = others[0] if others else None
    found = (row.spec.options[name] for (own, _), row in rows.items() if own == name)
    values = sorted({*(asked or found), *others[:1]}, key=order_of)
    lines = []
    for value in values:
        is_default = bool(others) and value == default
        row = rows.get(("", "") if is_default else (name, str(value)))
        marks = f" ({', '.join(row.marks)})" if row and row.marks else ""
        lines.append((f"{value}{' (default)' if is_default else ''}{marks}", row))
    return tuple(lines)
