"""The audit of records, and the document that shows it.

`audit` is the entry; `document` lays the result out: findings, hazards, methods, and the facts of
every cell (CSV and JSON only).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from fewshot_bench.analysis.audit.checks import CHECKS
from fewshot_bench.analysis.audit.differing import find_differences
from fewshot_bench.analysis.audit.facts import facts
from fewshot_bench.analysis.audit.findings import Audit, Finding, some, spread
from fewshot_bench.analysis.audit.hazards import answer_hazards
from fewshot_bench.analysis.audit.stated import ORDER, SHARED, load_stated
from fewshot_bench.analysis.formats.document import (
    BEST,
    SECOND,
    Column,
    Document,
    Entry,
    Grid,
    Item,
    Line,
    Section,
)
from fewshot_bench.analysis.formats.tidy import finite
from fewshot_bench.analysis.frame import count, decode, distinct, frame
from fewshot_bench.analysis.signature import signature_of
from fewshot_bench.api.record import Record

if TYPE_CHECKING:
    import pandas as pd


def audit(
    records: Sequence[Record],
    notes: Sequence[str] = (),
    signature: str = "",
    data: pd.DataFrame | None = None,
) -> Audit:
    """Audit these records as one comparison.

    notes: remarks on records of older versions. signature: the signature of the records, if
    already computed; data: their frame, if already built.
    """
    data = load_stated(frame(records) if data is None else data)
    data = data.sort_values([*ORDER], kind="stable", key=_order, ignore_index=True)
    findings = [finding for check in CHECKS for finding in check(data)]
    findings += [*find_differences(data)]
    findings += [Finding("note", "older-versions", text) for text in notes]
    findings.sort(key=lambda finding: finding.level)
    stated = {
        name: {str(value) for (value,) in distinct(data, column) if value is not None}
        for name, column in SHARED.items()
    }
    return Audit(
        findings=tuple(findings),
        hazards=answer_hazards(data, findings),
        shared={name: values.pop() for name, values in stated.items() if len(values) == 1},
        methods=tuple(_describe_methods(data)),
        records=tuple(data["record"]),
        signature=signature or signature_of(data["record"].tolist()),
    )


def _order(column: Any) -> Any:
    """A column of names in the order of the alphabet, or one of numbers."""
    if column.dtype == object:
        return column
    return column.cat.reorder_categories(sorted(column.cat.categories), ordered=True)


def _list(counts: Counter[Any]) -> str:
    return some(sorted(filter(None, counts)))


def _range(counts: Counter[Any]) -> str:
    return spread(value for value in counts if isinstance(value, int))


# Cells are grouped by these columns: each group is one line.
_GROUP = ("label", "val", "prompts", "protocol")
# What the line of a group says: a column, and the text of its values, which come with the number of
# cells that have them.
_LINE: Mapping[str, tuple[str, Callable[[Counter[Any]], str]]] = {
    "method": ("label", _list),
    "version": ("method_version", _list),
    "kit": ("kit", _list),
    "cells": ("label", lambda counts: f"{counts.total():,}"),
    "val": ("val", _list),
    "allowed": ("allowed", _range),
    "used": ("labels used", _range),
    "tried": ("tried", _range),
    "prompts": ("prompts", _list),
    "protocol": ("protocol", _list),
    "published": ("published picks", _list),
    "trained": ("trained", _range),
    "steps": ("steps", _range),
    "images billed": ("images billed", _range),
    "incidents": (
        "incidents",
        lambda counts: str(sum(number for text, number in counts.items() if decode(text))),
    ),
    "failed": ("status", lambda counts: str(counts["failed"])),
}


def _describe_methods(data: pd.DataFrame) -> list[dict[str, str]]:
    """The table of what methods were allowed: a line per label, policy, prompts and protocol."""
    groups: defaultdict[tuple[Any, ...], defaultdict[str, Counter[Any]]]
    groups = defaultdict(lambda: defaultdict(Counter))
    for column in dict.fromkeys(column for column, _ in _LINE.values()):
        for (*key, value), number in count(data, *_GROUP, column).items():
            groups[tuple(key)][column][value] += number
    return [
        {name: describe(groups[key][column]) for name, (column, describe) in _LINE.items()}
        for key in sorted(groups)
    ]


HEADS = ("dataset", "method", "shots", "split_seed", "train_seed", "status", "findings")


def document(audit: Audit, form: str = "terminal") -> Document:
    """Findings first, then the hazards, then one line per method, then the signature.

    form: the output format; CSV and JSON also get an entry for every cell.
    """
    grave = [finding.text for finding in audit.findings if finding.level == "finding"]
    rest = [f.text for f in audit.findings if f.level == "note" and not f.hazard]
    count = f"{len(grave) or 'no'} finding{'s' if len(grave) != 1 else ''}"
    shared = "; ".join(f"{name.replace('_', ' ')} {value}" for name, value in audit.shared.items())
    return Document(
        sections=(
            Section(
                f"{len(audit.records):,} cells: {count}",
                [Item(text, "!", "bold red") for text in grave],
            ),
            Section("Hazards to a fair comparison", grids=[_hazards(audit)]),
            *([Section(items=[Item(text, "   * ") for text in rest])] if rest else []),
            Section(
                "What each method was allowed and did",
                grids=[_method_grid(audit.methods)],
                small=f"all cells: {shared}" if shared else "",
            ),
        ),
        signature=audit.signature,
        rows=_list_cells(audit) if form == "csv" else (),
        heads=HEADS,
        data=_data(audit) if form == "json" else {},
    )


def _data(audit: Audit) -> dict[str, Any]:
    names = ("level", "kind", "text", "hazard", "cells")
    return {
        "findings": [{name: getattr(each, name) for name in names} for each in audit.findings],
        "hazards": [asdict(answer) for answer in audit.hazards],
        "shared": dict(audit.shared),
        "methods": [dict(line) for line in audit.methods],
        "cells": [finite(facts(record)) for record in audit.records],
        "signature": audit.signature,
    }


_STATES = {
    "ok": Entry("ok", short="ok"),
    "open": Entry("open", rank=BEST, short="!"),
    "not shown": Entry("not shown", rank=SECOND, short="?"),
}


def _hazards(audit: Audit) -> Grid:
    lines = [
        Line(str(answer.number), (_STATES[answer.state], Entry(answer.name), Entry(answer.text)))
        for answer in audit.hazards
    ]
    columns = tuple(Column(head, "text") for head in ("", "hazard", "what the records say"))
    return Grid("", "", columns, tuple(lines), first="", prose=True)


def _method_grid(lines: Sequence[Mapping[str, str]]) -> Grid:
    """Columns that are not empty or 0 in all lines, and no condition that all lines share."""
    alike = {n for n in ("val", "prompts", "protocol") if len({line[n] for line in lines}) == 1}
    filled = [name for name in _LINE if any(line[name] not in ("", "0") for line in lines)]
    first, *heads = [name for name in filled if name not in alike] or ["method"]
    own = tuple(Line.of(line[first], *(line[name] for name in heads)) for line in lines)
    return Grid("", "", Column.sides(*heads), own, first=first)


def _list_cells(audit: Audit) -> list[dict[str, Any]]:
    """One line per cell with all its facts, lists for mappings, and the kinds of findings."""
    kinds: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for finding in audit.findings:
        for key in finding.cells:
            kinds[key][finding.kind] = None
    lines = [{**cell, "findings": [*kinds[cell["key"]]]} for cell in map(facts, audit.records)]
    return [{name: _as_list(value) for name, value in line.items()} for line in lines]


def _as_list(value: Any) -> Any:
    if isinstance(value, dict):
        return [f"{name}={item}" for name, item in sorted(value.items())]
    return value
