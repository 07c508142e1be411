"""The audit as text for the terminal, Markdown, CSV and JSON."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from fewshot_bench.analysis.audit.model import Audit
from fewshot_bench.analysis.formats.markdown import escape
from fewshot_bench.analysis.formats.tidy import dumped, finite, write_csv
from fewshot_bench.utils.text import color_system, printable

HEADS = ("dataset", "method", "shots", "split_seed", "train_seed", "status", "findings")
# Characters of a method's name on one line, however narrow the terminal is.
_LEAST_NAME = 16


def render_terminal(audit: Audit, *, width: int = 120, styled: bool = False) -> str:
    """Findings first, then the hazards, then one line per method, then the signature."""
    from rich.console import Console
    from rich.text import Text

    buffer = io.StringIO()
    console = Console(
        file=buffer,
        width=width,
        force_terminal=styled,
        highlight=False,
        markup=False,
        emoji=False,
        color_system=color_system(),
    )

    def heading(text: str) -> None:
        console.print(Text(text, style="bold"))

    grave = [finding for finding in audit.findings if finding.level == "finding"]
    heading(f"{len(audit.cells):,} cells: {_count(len(grave), 'finding')}")
    for finding in grave:
        console.print(_hanging("!", finding.text, "bold red"))
    console.print()
    heading("Hazards to a fair comparison")
    for answer in audit.hazards:
        mark = "!" if answer.open else "ok"
        style = "red" if answer.open else "green"
        console.print(
            _hanging(f"{answer.number:>2} {mark:<2}", f"{answer.name}: {answer.text}", style)
        )
    rest = [f for f in audit.findings if f.level == "note" and not f.hazard]
    for finding in rest:
        console.print(_hanging("   * ", finding.text, ""))
    console.print()
    heading("What each method was allowed and did")
    _print_methods(console, audit.methods)
    shared = "; ".join(f"{name.replace('_', ' ')} {value}" for name, value in audit.shared.items())
    if shared:
        console.print(Text(f"all cells: {printable(shared)}", style="dim"))
    console.print(Text(audit.signature, style="dim"), soft_wrap=True)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'s' if number != 1 else ''}"


def _hanging(mark: str, text: str, style: str) -> Any:
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(Text(mark, style=style), Text(printable(text)))
    return grid


def _print_methods(console: Any, lines: Sequence[Mapping[str, str]]) -> None:
    """A table that is as wide as its numbers need: a number that is cut is another number.

    Names of methods are folded to what is left of the width.
    """
    from rich import box
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    texts = {name: [printable(line[name]) for line in lines] for name in _columns(lines)}
    widths = {name: max(map(cell_len, [*name.split(), *texts[name]])) for name in texts}
    others = sum(width + 2 for name, width in widths.items() if name != "method")
    widths["method"] = min(widths["method"], max(console.width - others, _LEAST_NAME))
    for name in texts:
        justify: Any = "left" if name == "method" else "right"
        table.add_column(name, justify=justify, overflow="fold", width=widths[name])
    for row in zip(*texts.values(), strict=True):
        table.add_row(*map(Text, row))
    usual = console.width
    console.width = max(usual, others + widths["method"])
    console.print(table)
    console.width = usual


def _columns(lines: Sequence[Mapping[str, str]]) -> list[str]:
    """Columns in which a line says something that is not a condition of all of them."""
    names = list(lines[0]) if lines else []
    alike = {n for n in ("val", "prompts", "protocol") if len({line[n] for line in lines}) == 1}
    told = [name for name in names if any(line[name] not in ("", "0") for line in lines)]
    return [name for name in told if name not in alike]


def render_markdown(audit: Audit) -> str:
    """The same as sections."""
    grave = [finding for finding in audit.findings if finding.level == "finding"]
    parts = [f"### Audit: {len(audit.cells):,} cells, {_count(len(grave), 'finding')}"]
    parts += ["\n".join(f"- {escape(finding.text)}" for finding in grave)] if grave else []
    rows = [
        [str(a.number), escape(a.name), "**open**" if a.open else "ok", escape(a.text)]
        for a in audit.hazards
    ]
    parts.append(_markdown_table(["", "hazard", "", "what the records say"], rows))
    notes = [f for f in audit.findings if f.level == "note" and not f.hazard]
    parts += ["\n".join(f"- {escape(finding.text)}" for finding in notes)] if notes else []
    names = _columns(audit.methods)
    lines = [[escape(line[name]) for name in names] for line in audit.methods]
    parts.append(_markdown_table(names, lines))
    parts.append(f"`{audit.signature}`")
    return "\n\n".join(parts) + "\n"


def _markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def render_csv(audit: Audit) -> str:
    """One line per cell with all its facts and the kinds of findings about it."""
    found: dict[str, list[str]] = {}
    for finding in audit.findings:
        for key in finding.cells:
            found.setdefault(key, []).append(finding.kind)
    lines = [
        {**cell, "findings": list(dict.fromkeys(found.get(cell["key"], ())))}
        for cell in audit.cells
    ]
    return write_csv([{name: _named(v) for name, v in line.items()} for line in lines], HEADS)


def _named(value: Any) -> Any:
    """A mapping as a list of `name=value`; anything else as it is."""
    if isinstance(value, Mapping):
        return [f"{name}={item}" for name, item in sorted(value.items())]
    return value


def render_json(audit: Audit) -> str:
    """All of it."""
    document = {
        "findings": [asdict(finding) for finding in audit.findings],
        "hazards": [asdict(answer) for answer in audit.hazards],
        "shared": dict(audit.shared),
        "methods": [dict(line) for line in audit.methods],
        "cells": [finite(cell) for cell in audit.cells],
        "signature": audit.signature,
    }
    return dumped(document)
