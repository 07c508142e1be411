"""The layout `ablation`: how one method depends on its options, one at a time.

A block per option has its values in rows, the default marked, where all other options have theirs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from fewshot_bench.analysis.signature import commands_of
from fewshot_bench.analysis.sweep.panels import (
    SweepOptions,
    defaults_of,
    order_of,
    specs_with,
    the_method,
)
from fewshot_bench.analysis.table.grids import Block, Kind, Part
from fewshot_bench.analysis.table.names import Names
from fewshot_bench.analysis.table.table import Row, Table
from fewshot_bench.api.record import Record
from fewshot_bench.utils.errors import DataMissingError, UsageError
from fewshot_bench.utils.text import few


def select_changed(
    records: Sequence[Record], options: SweepOptions
) -> tuple[list[Record], tuple[str, ...]]:
    """The records of an ablation, with at most one option changed, and a note on the others."""
    chosen = [
        record
        for record in records
        if len(record.spec.overrides) < 2 and _is_asked(record.spec.overrides, options.values)
    ]
    keys = {record.spec.label for record in chosen}
    others = sorted({record.spec.label for record in records} - keys)
    if not chosen:
        raise DataMissingError(
            f"no record has at most one changed option: the {len(records)} here have others "
            f"({few(others)})"
        )
    note = f"not shown, as options differ that are not in this table: {few(others)}"
    return chosen, (note,) if others else ()


def _is_asked(changed: Mapping[str, Any], asked: Mapping[str, Sequence[Any]]) -> bool:
    return not asked or all(value in asked.get(name, ()) for name, value in changed.items())


def ablate(table: Table, options: SweepOptions | None, kinds: Iterable[Kind]) -> Iterator[Part]:
    """A part per kind of evaluation.

    UsageError for several methods, and if no option varies by itself.
    """
    method = the_method(table, "an ablation")
    shown = Names(table.renamed).row(method, method)
    blocks = _blocks(table, options)
    for kind in kinds:
        own = tuple(
            Block(
                table,
                tuple((title, row) for title, row, _ in lines),
                tuple((place.group, shots) for place in kind.places),
                name if len(kind.shots) == 1 else f"{name}, {shots}-shot",
            )
            for name, lines in blocks.items()
            for shots in kind.shots
        )
        setting = f"{kind.shots[0]}-shot, " if len(kind.shots) == 1 else ""
        heads = tuple(place.column for place in kind.places)
        yield Part(f"{shown}, {setting}{kind.title}", heads, own, first="value")


def lacking_values(table: Table, options: SweepOptions | None) -> tuple[list[str], list[str]]:
    """A note on values without records, and commands that run them."""
    blocks = _blocks(table, options)
    absent = [(name, v) for name, lines in blocks.items() for _, row, v in lines if row is None]
    if not absent:
        return [], []
    defaults = defaults_of(table)
    choices = [({**defaults, name: value}, {name: value}) for name, value in absent]
    shown = ", ".join(f"{name}={value}" for name, value in absent)
    lines, remarks = commands_of(specs_with(table, choices), table.store)
    return [f"no record of {shown} (—)", *remarks], list(lines)


def _blocks(
    table: Table, options: SweepOptions | None
) -> dict[str, list[tuple[str, Row | None, Any]]]:
    """By option its values: their titles and rows, None for one without records."""
    asked = options.values if options else {}
    rows = {_change(row): row for row in table.rows}
    if len(rows) < len(table.rows):
        raise UsageError("an ablation is of one set of conditions: leave --allow-mixed out")
    changed = dict.fromkeys(name for name, _ in rows if name)
    names = list(asked) or [name for name in table.rows[0].spec.options if name in changed]
    if not names:
        method, version = table.rows[0].spec.method, table.rows[0].spec.method_version
        raise UsageError(
            f"no option of {method}@{version} varies by itself: expected records with one option "
            f"that is not the default, as of fsbench run -m {method} -o NAME=A,B, or another "
            f"version (--method {method}@VERSION)"
        )
    defaults = defaults_of(table)
    blocks = {}
    for name in names:
        found = (row.spec.options[name] for (own, _), row in rows.items() if own == name)
        default = [defaults[name]] if name in defaults else []
        lines = []
        for value in sorted({*(asked.get(name) or found), *default}, key=order_of):
            is_default = value in default
            row = rows.get(("", "") if is_default else (name, str(value)))
            marks = f" ({', '.join(row.marks)})" if row and row.marks else ""
            lines.append((f"{value}{' (default)' * is_default}{marks}", row, value))
        blocks[name] = lines
    return blocks


def _change(row: Row) -> tuple[str, str]:
    """The only option that a row overrides with its value as text; empty for the default."""
    return next(((name, str(value)) for name, value in row.spec.overrides.items()), ("", ""))
