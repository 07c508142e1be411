"""The audit of records, and the document that shows it.

`audit` is the entry; `document` lays the result out: findings, hazards, methods, and the facts of
every cell (CSV and JSON only).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from fewshot_bench.analysis.audit.checks import CHECKS
from fewshot_bench.analysis.audit.differing import FACTS, READ, differences
from fewshot_bench.analysis.audit.facts import (
    IMAGES_BILLED,
    LABELS_USED,
    TRIED,
    facts,
    is_own_code,
    kit_text,
    number,
    published,
    read_kit,
)
from fewshot_bench.analysis.audit.findings import Audit, Finding, some, spread
from fewshot_bench.analysis.audit.hazards import answers
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
from fewshot_bench.analysis.record_columns import (
    Facts,
    Joint,
    Place,
    RecordColumns,
    Shared,
    Stated,
    columns_of,
)
from fewshot_bench.analysis.signature import signature_of
from fewshot_bench.api.record import Record

# Facts usually equal in all cells, shown once in that case: name of the fact to its column.
_ENVIRONMENT = (*("determinism", "device_name", "threads", "fewshot_bench", "commit", "python"),)
SHARED: Mapping[str, str] = {
    "protocol": "protocol",
    "val_policy": "val",
    **{name: name for name in ("prompts", "backbone", "precision", "device", "limit")},
    "own_data": "own data",
    **{name: f"environment.{name}" for name in _ENVIRONMENT},
}
_ORDER = ("evaluated", "label", "shots", "split_seed", "train_seed")
_PUBLISHED = {"yes": "yes", "no": "no", "none published": "n/a"}


def audit(
    records: Sequence[Record],
    notes: Sequence[str] = (),
    signature: str = "",
    columns: RecordColumns | None = None,
) -> Audit:
    """Audit these records as one comparison.

    notes: remarks on records of older versions. signature: the signature of the records, if
    already computed; columns: `conditions.columns_of` the records, if already built.
    """
    columns = columns or columns_of(records)
    load(columns)
    columns = columns.sorted(_ORDER)
    signature = signature or signature_of(columns.records, columns)
    found = [finding for check in CHECKS for finding in check(columns)] + [*differences(columns)]
    found += [Finding("note", "older-versions", text) for text in notes]
    found.sort(key=lambda finding: finding.level)
    # Members would keep all columns in memory.
    found = [replace(finding, records=tuple(finding.records)) for finding in found]
    shared, methods = _summary(columns)
    return Audit(
        findings=tuple(found),
        hazards=answers(columns, found),
        shared=shared,
        methods=tuple(methods),
        records=tuple(columns.records),
        signature=signature,
    )


def load(columns: RecordColumns, others: Iterable[str] = ()) -> None:
    """Load what an audit reads, and other columns, so that each record is read once for both."""
    columns.add({**FACTS, **_FACTS})
    own = (*_ORDER, *READ, *SHARED.values(), *_LINE_COLUMNS.values(), *_CHECKED)
    columns.load((*own, *others))


_GROUP = ("label", "val", "prompts", "protocol")


def _summary(columns: RecordColumns) -> tuple[dict[str, str], list[dict[str, str]]]:
    """Conditions with one value among all cells that state them, and lines per method.

    Cells are grouped by label, validation policy, prompts and protocol; each group is one line.
    """
    found = {
        name: {str(value) for value in columns[column].values if value is not None}
        for name, column in SHARED.items()
    }
    shared = {name: values.pop() for name, values in found.items() if len(values) == 1}
    lines: dict[Place, dict[str, Counter[Any]]] = {
        key: {name: Counter() for name in ("cells", *_LINE_COLUMNS)}
        for key in columns.rows(_GROUP).values
    }
    for name, column in {"cells": "everywhere", **_LINE_COLUMNS}.items():
        for (*key, value), count in columns.rows((*_GROUP, column)).counted():
            lines[tuple(key)][name][value] += count
    return shared, [_line(key, values) for key, values in sorted(lines.items())]


def _kit_mark(stated: object) -> str:
    """`v3` if that version of the kit was passed, else `2 broken`; empty if never checked."""
    found = read_kit(stated)
    if found is None:
        return ""
    return f"{len(found['failed'])} broken" if found["failed"] else f"v{found['version']}"


_FACTS: Facts = {
    "kit": Shared("environment.kit", _kit_mark),
    "kit stated": Stated("environment.kit"),
    "kit text": Joint(("environment.kit", "kit stated"), kit_text),
    "own code": Shared("environment.code", is_own_code),
    "tried": Shared(f"footprint.{TRIED}", number),
    "labels used": Shared(f"footprint.{LABELS_USED}", number),
    "images billed": Shared(f"footprint.{IMAGES_BILLED}", number),
    "allowed": Shared("split.val", number),
    "trained": Shared("footprint.trained", number),
    "steps": Shared("footprint.steps", number),
    "published": Shared("split facts", published),
    "incidents": lambda record: bool(record.incidents),
}
# Entries of records that the checks and the hazard answers read.
_CHECKED = (
    *("environment.kit", "environment.labels", "environment.load", "environment.cpus"),
    *("environment.dirty", "environment.code", "split.digest"),
    *("footprint.trained_source", "footprint.metered", "footprint.depends_on_queries"),
)
# Facts in the line of a method, each with its column.
_LINE_COLUMNS: Mapping[str, str] = {
    "version": "method_version",
    "kit": "kit",
    "allowed": "allowed",
    "used": "labels used",
    "tried": "tried",
    "published": "published",
    "trained": "trained",
    "steps": "steps",
    "images": "images billed",
    "incidents": "incidents",
    "status": "status",
}


def _line(key: Place, values: Mapping[str, Counter[Any]]) -> dict[str, str]:
    """The line of a group of cells. values: how many cells have each value of a column."""
    method, val, prompts, protocol = map(str, key)

    def over(name: str) -> str:
        return spread([value for value in values[name] if isinstance(value, int)])

    return {
        "method": method,
        "version": some(sorted(set(values["version"]))),
        "kit": some(sorted(set(filter(None, values["kit"])))),
        "cells": f"{values['cells'].total():,}",
        "val": val,
        "allowed": over("allowed"),
        "used": over("used"),
        "tried": over("tried"),
        "prompts": prompts,
        "protocol": protocol,
        "published": some(sorted({_PUBLISHED[one] for one in values["published"] if one})),
        "trained": over("trained"),
        "steps": over("steps"),
        "images billed": over("images"),
        "incidents": str(values["incidents"][True]),
        "failed": str(values["status"]["failed"]),
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
    found: dict[str, list[str]] = {}
    for finding in audit.findings:
        for key in finding.cells:
            found.setdefault(key, []).append(finding.kind)
    lines = [
        {**cell, "findings": list(dict.fromkeys(found.get(cell["key"], ())))}
        for cell in map(facts, audit.records)
    ]
    return [{name: _named(value) for name, value in line.items()} for line in lines]


def _named(value: Any) -> Any:
    """Convert a mapping to a sorted list of `name=value`; return anything else unchanged."""
    if isinstance(value, Mapping):
        return [f"{name}={item}" for name, item in sorted(value.items())]
    return value
