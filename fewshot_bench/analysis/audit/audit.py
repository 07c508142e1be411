"""The audit of records, and the document that shows it.

`audit` is the entry; `document` lays the result out: findings, hazards, methods, and the facts of
every cell (CSV and JSON only).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
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

_PUBLISHED = {"yes": "yes", "no": "no", "none published": "n/a"}


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
    data = _sort(load_stated(frame(records) if data is None else data))
    signature = signature or signature_of(data["record"].tolist())
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
        methods=tuple(_methods(data)),
        records=tuple(data["record"]),
        signature=signature,
    )


def _sort(data: pd.DataFrame) -> pd.DataFrame:
    """The rows in the order of `ORDER`."""
    import pandas as pd

    keys = pd.DataFrame(index=data.index)
    for name in ORDER:
        values, column = sorted(value for (value,) in distinct(data, name)), data[name]
        keys[name] = column.map(dict(zip(values, range(len(values)), strict=True))).astype(int)
    return data.loc[keys.sort_values([*ORDER], kind="stable").index].reset_index(drop=True)


# Cells are grouped by these columns: each group is one line.
_GROUP = ("label", "val", "prompts", "protocol")
# Facts in the line of a method, each with its column.
_COUNTED: Mapping[str, str] = {
    "version": "method_version",
    "kit": "kit",
    "allowed": "allowed",
    "used": "labels used",
    "tried": "tried",
    "published": "published picks",
    "trained": "trained",
    "steps": "steps",
    "images": "images billed",
    "incidents": "incidents",
    "status": "status",
}


def _methods(data: pd.DataFrame) -> list[dict[str, str]]:
    """What each method was allowed and did: a line per label, policy, prompts and protocol."""
    cells = count(data, *_GROUP)
    lines: defaultdict[tuple[Any, ...], dict[str, Counter[Any]]] = defaultdict(dict)
    for name, column in _COUNTED.items():
        for (*key, value), number in count(data, *_GROUP, column).items():
            lines[tuple(key)].setdefault(name, Counter())[value] += number
    return [_line(key, cells[key], lines[key]) for key in sorted(cells)]


def _line(key: tuple[Any, ...], cells: int, counts: Mapping[str, Counter[Any]]) -> dict[str, str]:
    """The line of a group of cells. counts: how many cells have each value of a column."""
    method, val, prompts, protocol = map(str, key)
    over = {
        name: spread(value for value in counts[name] if isinstance(value, int))
        for name in ("allowed", "used", "tried", "trained", "steps", "images")
    }
    return {
        "method": method,
        "version": some(sorted(set(counts["version"]))),
        "kit": some(sorted(set(filter(None, counts["kit"])))),
        "cells": f"{cells:,}",
        "val": val,
        "allowed": over["allowed"],
        "used": over["used"],
        "tried": over["tried"],
        "prompts": prompts,
        "protocol": protocol,
        "published": some(sorted({_PUBLISHED[word] for word in counts["published"] if word})),
        "trained": over["trained"],
        "steps": over["steps"],
        "images billed": over["images"],
        "incidents": str(sum(n for text, n in counts["incidents"].items() if decode(text))),
        "failed": str(counts["status"]["failed"]),
    }


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
        rows=_cells(audit) if form == "csv" else (),
        heads=HEADS,
        data=_data(audit) if form == "json" else {},
    )


def _data(audit: Audit) -> dict[str, Any]:
    return {
        "findings": [finding.to_dict() for finding in audit.findings],
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
        Line(
            str(answer.number),
            (_STATES[answer.state], Entry(answer.name), Entry(answer.text)),
        )
        for answer in audit.hazards
    ]
    columns = tuple(Column(head, "text") for head in ("", "hazard", "what the records say"))
    return Grid("", "", columns, tuple(lines), first="", prose=True)


def _method_grid(lines: Sequence[Mapping[str, str]]) -> Grid:
    first, *heads = _columns(lines) or ["method"]
    own = tuple(Line.of(line[first], *(line[name] for name in heads)) for line in lines)
    return Grid("", "", Column.sides(*heads), own, first=first)


def _columns(lines: Sequence[Mapping[str, str]]) -> list[str]:
    """Columns worth showing: not empty or 0 in all lines, and no condition shared by all lines."""
    names = list(lines[0]) if lines else []
    alike = {n for n in ("val", "prompts", "protocol") if len({line[n] for line in lines}) == 1}
    filled = [name for name in names if any(line[name] not in ("", "0") for line in lines)]
    return [name for name in filled if name not in alike]


def _cells(audit: Audit) -> list[dict[str, Any]]:
    """One line per cell with all its facts and the kinds of findings about it."""
    kinds: dict[str, list[str]] = {}
    for finding in audit.findings:
        for key in finding.cells:
            kinds.setdefault(key, []).append(finding.kind)
    lines = [
        {**cell, "findings": list(dict.fromkeys(kinds.get(cell["key"], ())))}
        for cell in map(facts, audit.records)
    ]
    return [{name: _join_mapping(value) for name, value in line.items()} for line in lines]


def _join_mapping(value: Any) -> Any:
    """Convert a mapping to a sorted list of `name=value`; return anything else unchanged."""
    if isinstance(value, dict):
        return [f"{name}={item}" for name, item in sorted(value.items())]
    return value
