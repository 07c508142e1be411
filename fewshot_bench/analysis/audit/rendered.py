"""The audit as a document: findings, hazards, methods, and the facts of every cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from fewshot_bench.analysis.audit.model import Audit
from fewshot_bench.analysis.formats.document import BEST, Document, Entry, Grid, Item, Line, Section
from fewshot_bench.analysis.formats.tidy import finite

HEADS = ("dataset", "method", "shots", "split_seed", "train_seed", "status", "findings")


def document(audit: Audit) -> Document:
    """Findings first, then the hazards, then one line per method, then the signature."""
    grave = [finding.text for finding in audit.findings if finding.level == "finding"]
    rest = [f.text for f in audit.findings if f.level == "note" and not f.hazard]
    count = f"{len(grave) or 'no'} finding{'s' if len(grave) != 1 else ''}"
    shared = "; ".join(f"{name.replace('_', ' ')} {value}" for name, value in audit.shared.items())
    return Document(
        sections=(
            Section(
                f"{len(audit.cells):,} cells: {count}",
                [Item(text, "!", "bold red") for text in grave],
            ),
            Section("Hazards to a fair comparison", grids=[_hazards(audit)]),
            *([Section(items=[Item(text, "   * ") for text in rest])] if rest else []),
            Section(
                "What each method was allowed and did",
                grids=[_methods(audit.methods)],
                small=f"all cells: {shared}" if shared else "",
            ),
        ),
        signature=audit.signature,
        rows=_cells(audit),
        heads=HEADS,
        data={
            "findings": [asdict(finding) for finding in audit.findings],
            "hazards": [asdict(answer) for answer in audit.hazards],
            "shared": dict(audit.shared),
            "methods": [dict(line) for line in audit.methods],
            "cells": [finite(cell) for cell in audit.cells],
            "signature": audit.signature,
        },
    )


def _hazards(audit: Audit) -> Grid:
    lines = [
        Line(
            str(answer.number),
            (Entry("open", rank=BEST, short="!") if answer.open else Entry("ok", short="ok"),),
            (answer.name, answer.text),
        )
        for answer in audit.hazards
    ]
    heads = ("hazard", "what the records say")
    return Grid("", "", ("",), heads, tuple(lines), first="", left=("", *heads), prose=True)


def _methods(lines: Sequence[Mapping[str, str]]) -> Grid:
    first, *heads = _columns(lines) or ["method"]
    found = tuple(Line(line[first], (), tuple(line[name] for name in heads)) for line in lines)
    return Grid("", "", (), tuple(heads), found, first=first)


def _columns(lines: Sequence[Mapping[str, str]]) -> list[str]:
    """Columns in which a line says something that is not a condition of all of them."""
    names = list(lines[0]) if lines else []
    alike = {n for n in ("val", "prompts", "protocol") if len({line[n] for line in lines}) == 1}
    told = [name for name in names if any(line[name] not in ("", "0") for line in lines)]
    return [name for name in told if name not in alike]


def _cells(audit: Audit) -> list[dict[str, Any]]:
    """One line per cell with all its facts and the kinds of findings about it."""
    found: dict[str, list[str]] = {}
    for finding in audit.findings:
        for key in finding.cells:
            found.setdefault(key, []).append(finding.kind)
    lines = [
        {**cell, "findings": list(dict.fromkeys(found.get(cell["key"], ())))}
        for cell in audit.cells
    ]
    return [{name: _named(value) for name, value in line.items()} for line in lines]


def _named(value: Any) -> Any:
    """A mapping as a list of `name=value`; anything else as it is."""
    if isinstance(value, Mapping):
        return [f"{name}={item}" for name, item in sorted(value.items())]
    return value
