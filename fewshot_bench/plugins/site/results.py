"""Results of stores and bundles: boards of methods under one level and set of conditions."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fewshot_bench.analysis.citations import of_records
from fewshot_bench.analysis.comparison import Block, map_blocks
from fewshot_bench.analysis.gathering import Entry, Gathered
from fewshot_bench.analysis.reference import REFERENCE, records
from fewshot_bench.analysis.signature import commands_of, signature_of
from fewshot_bench.analysis.table.build import Options, build
from fewshot_bench.analysis.table.costs import COSTS, ENERGY
from fewshot_bench.analysis.table.notes import notes as list_notes
from fewshot_bench.analysis.table.table import Cell, Group, Seed, Table
from fewshot_bench.api.metrics import METRICS
from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import CONDITIONS
from fewshot_bench.plugins.report import board as report
from fewshot_bench.plugins.report import text
from fewshot_bench.plugins.report.headline import Contestant, Headline, headline
from fewshot_bench.plugins.report.page import template
from fewshot_bench.plugins.report.pairs import Pairs, compare
from fewshot_bench.plugins.report.rows import method_row
from fewshot_bench.plugins.report.verdict import subject
from fewshot_bench.plugins.site.page import encode_column, write_page
from fewshot_bench.plugins.site.sources import DIGITS, Sources
from fewshot_bench.store.standing import SUBMITTED, UNVERIFIED, Standing
from fewshot_bench.store.store import Store
from fewshot_bench.utils.errors import DataMissingError, UsageError
from fewshot_bench.utils.text import counted, printable, printable_lines

METRIC, SHOTS = "top1", 16
_COSTS = {**COSTS, ENERGY.name: ENERGY}
_SCOPES = {"all": "all", "H": "harmonic mean of base and new"}
# Axes that are offered although all boards have the same value.
_ALWAYS = {"level", "backbone", "shots"}


class _Board(NamedTuple):
    """One table: `shown` is drawn at once, `details` are read when they are asked for.

    `shown["axes"]` distinguishes it from other boards: its level, conditions, classes and shots.
    """

    shown: dict[str, Any]
    details: dict[str, Any]


def with_reference(gathered: Gathered) -> Gathered:
    """The cells, and the reference results of the project as those of a source."""
    standing = Standing(SUBMITTED, ("the reference has no logits: tests compute it again",))
    store = Store(Path(REFERENCE))
    done = (record for record in records() if record.status == "done")
    own = (Entry(record, REFERENCE, store, standing) for record in done)
    return dataclasses.replace(
        gathered, entries=(*gathered.entries, *own), sources=(*gathered.sources, REFERENCE)
    )


def write_results(gathered: Gathered, title: str) -> str:
    """The page about all sources; DataMissingError without a finished cell."""
    sources = Sources(gathered)
    boards = [
        board
        for level, records in sources.levels().items()
        for board in _boards_of(level, records, sources, title)
        if board.shown["rows"]
    ]
    if not boards:
        raise DataMissingError("no source has a finished cell: expected results of fsbench run")
    every: list[dict[str, str]] = [board.shown["axes"] for board in boards]
    offered = {}
    for name in dict.fromkeys(name for axes in every for name in axes):
        about = CONDITIONS.get(name)
        usual = about.text(about.default) if about else "default"
        values = [axes.pop(name, usual) for axes in every]
        if len(set(values)) > 1 or name in _ALWAYS:
            offered[name] = list(dict.fromkeys(values))
            for axes, value in zip(every, values, strict=True):
                axes[name] = value
    offered["shots"].sort(key=lambda k: int(k) if k.isdecimal() else math.inf)
    rows = [row for board in boards for row in board.shown["rows"]]
    first = max(every, key=lambda axes: (axes["level"] != UNVERIFIED, axes["shots"] == str(SHOTS)))
    names = list(map(text.name, gathered.sources))
    for same, count in gathered.copies().items():
        said = "are the same runs" if count > 1 else "is the same run"
        sources.left.append(f"{counted(count, 'cell')} of {' and '.join(sorted(same))} {said}")
    data = {
        "first": {"schedule": "*", "source": "*", "columns": "cost", **first},
        "metric": METRICS[METRIC].title,
        "costs": [[cost.title, cost.hint] for cost in _COSTS.values()],
        "sources": names,
        "fields": list(rows[0]),
        "boards": [
            board.shown | {"rows": [list(row.values()) for row in board.shown["rows"]]}
            for board in boards
        ],
        "conflicts": list(_conflicts(gathered, offered)),
    }
    details = {
        "bibtex": encode_column(board.details.pop("bibtex") for board in boards),
        "boards": [board.details for board in boards],
        "environments": list(sources.environments),
    }
    return write_page(
        "results.html",
        data,
        details,
        title=title,
        axes=offered,
        schedules=sorted({row["schedule"] for row in rows} - {""}),
        sources=names,
        means=list(_means(boards)),
        left=sources.left,
        records=len(gathered.entries),
    )


def _boards_of(
    level: str, records: Sequence[Record], sources: Sources, title: str
) -> Iterator[_Board]:
    """The boards of a level; where sources must not share a table, each has its own."""

    def make(block: Block, options: Options) -> list[_Board]:
        try:
            table = build(block.records, options, data=block.data)
        except UsageError as error:
            parts: defaultdict[str, list[Record]] = defaultdict(list)
            for record in block.records:
                parts[sources.entry(record).source].append(record)
            if len(parts) < 2:
                raise
            sources.left.append(f"{', '.join(parts)} stand apart: {error}")
            made = []
            for source, part in parts.items():
                for board in _boards_of(level, part, sources, title):
                    board.shown["axes"]["apart"] = text.name(source)
                    made.append(board)
            return made
        # Notes on cells are made anew for each part.
        shared = tuple(note for note in table.notes if note not in set(list_notes(table)))
        table = dataclasses.replace(table, notes=shared, commands=())
        return [_Maker(level, _narrow(part), sources).make(title) for part in _parts(table)]

    options = Options(metrics={METRIC: METRICS[METRIC]}, costs=_COSTS)
    try:
        for part in map_blocks(records, options, make, sources.left.append):
            yield from part.value or []
    except (UsageError, DataMissingError) as error:
        sources.left.append(f"{level}: {error}")


def _parts(table: Table) -> Iterator[Table]:
    """Every average, or single group without one, at each number of shots, as a table."""
    averaged = {group.scope for group in table.groups if group.average}
    for group in table.groups:
        if not group.average and group.scope in averaged:
            continue
        members = [*(table.members(group) if group.average else ()), *_halves(table, group)]
        for shots in [k for k in group.shots if k] or group.shots:
            groups = tuple(
                dataclasses.replace(g, shots=tuple(k for k in g.shots if k in (0, shots)))
                for g in (group, *members)
            )
            yield dataclasses.replace(table, groups=groups)


def _halves(table: Table, group: Group) -> list[Group]:
    """The groups that harmonic means are computed from: all of an average, or of one data set."""
    halves = [g for g in table.groups if g.scope in ("base", "new") and group.scope == "H"]
    return [g for g in halves if group.average or (g.dataset == group.dataset and not g.average)]


def _columns(chosen: Headline) -> Sequence[Group]:
    own = chosen.members
    return (chosen.group, *own) if len(own) > 1 else own


def _narrow(table: Table) -> Headline:
    """The rows that have a number at the shots of a part, with the notes on these alone."""
    chosen = headline(table)
    columns = _columns(chosen)
    contestants = [
        dataclasses.replace(contestant, label=_label(contestant))
        for contestant in chosen.contestants
        if any(METRIC in chosen.cell(contestant, group).estimates for group in columns)
    ]
    rows = {contestant.row.label: contestant.row for contestant in contestants}
    shots, groups = {0, chosen.shots}, {group.label for group in table.groups}
    cells = {
        key: cell
        for key, cell in table.cells.items()
        if key[0] in groups and key[1] in rows and key[2] in shots
    }
    own = dataclasses.replace(table, rows=tuple(rows.values()), cells=cells)
    own = dataclasses.replace(own, notes=(*list_notes(own), *table.notes))
    return dataclasses.replace(chosen, table=own, contestants=tuple(contestants))


def _label(contestant: Contestant) -> str:
    """The method as the page names it, with its source if several ran it."""
    source = contestant.row.source
    return text.name(contestant.label.replace(f" source={text.name(source)}", f" ({source})"))


@dataclass(frozen=True)
class _Maker:
    """Makes one board."""

    level: str
    chosen: Headline
    sources: Sources

    @property
    def columns(self) -> Sequence[Group]:
        """An average and its data sets, or a single data set."""
        return _columns(self.chosen)

    def make(self, title: str) -> _Board:
        """The board. title: of the page, for the card."""
        contestants = self.chosen.ordered
        records = [entry.record for c in contestants for *_, entry in self._cells(c)]
        signature = printable(signature_of(records))
        table = dataclasses.replace(
            self.chosen.table, records=len(records), signatures={"": signature}
        )
        chosen = dataclasses.replace(self.chosen, table=table)
        pairs = compare(chosen, self.sources.of, every=True)
        numbers = _group(chosen, pairs)
        marks = report.list_marks(table)
        axes = {name: text.name("|".join(values)) for name, values in table.conditions.items()}
        axes["classes"] = _SCOPES.get(chosen.group.scope, text.name(chosen.group.label))
        card = report.card(chosen, title, [f"{self.level.capitalize()}.", *marks], signature)
        shown = {
            "axes": {"level": self.level, **axes, "shots": str(chosen.shots)},
            "subject": subject(chosen),
            "why": pairs.why,
            "signature": " ".join([*marks, text.message(table.signature(chosen.group.seeds))]),
            "sets": [text.name(group.name) for group in self.columns],
            "rows": [self._row(c, numbers.get(c.row.label)) for c in contestants],
        }
        details = {
            "latex": report.write_latex(chosen),
            "bibtex": printable_lines(of_records(records).text),
            "card": template("card.svg").render(card=card) if card else "",
            "pairs": dict(_pairs(contestants, pairs)),
            "rows": [self._details(contestant) for contestant in contestants],
        }
        return _Board(shown, details)

    def _cells(self, contestant: Contestant) -> Iterator[tuple[int, Cell, Seed, Entry]]:
        """Place of the data set, cell, seed and entry of each run of a row.

        The runs behind a harmonic mean are those of its halves.
        """
        for place, group in enumerate(self.columns):
            own = [] if group.average else _halves(self.chosen.table, group) or [group]
            for part in own:
                cell = self.chosen.cell(contestant, part)
                for seed, record in cell.records.items():
                    yield place, cell, seed, self.sources.entry(record)

    def _row(self, contestant: Contestant, number: int | None) -> dict[str, Any]:
        """The values of a method by their fields. number: of its group."""
        entries = [entry for *_, entry in self._cells(contestant)]
        row, paper, cell = contestant.row, contestant.paper, contestant.cell
        source = row.source or next(iter(self.sources.ran[row.spec.method]))
        costs = [(cost, cell.costs.get(name) if cell else None) for name, cost in _COSTS.items()]
        agrees = {name for entry in entries for name in entry.agrees_with}
        disagrees = {name for entry in entries for name in entry.disagrees_with}
        return {
            "method": contestant.label,
            "mark": method_row(contestant, ()).mark,
            "color": contestant.look.variable,
            "paper": [text.name(paper.label), paper.url] if paper else 0,
            "source": self.sources.gathered.sources.index(source),
            "group": number,
            "cells": [self._show(self.chosen.cell(contestant, group)) for group in self.columns],
            "costs": [0 if value is None else [value, cost.words(value)] for cost, value in costs],
            "schedule": text.name(entries[0].record.schedule) if entries else "",
            "why": "" if cell else self.chosen.why_not(contestant),
            "agrees": text.name(", ".join(sorted(agrees))),
            "disagrees": text.name(", ".join(sorted(disagrees))),
        }

    def _show(self, cell: Cell) -> str:
        value = cell.estimates.get(METRIC)
        if value is None:
            return ""
        few = f" (n={value.n})" if value.n < len(self.chosen.group.seeds) else ""
        return f"{text.interval(value)}{few}"

    def _details(self, contestant: Contestant) -> dict[str, Any]:
        """Records of a row, its signature and the commands for it."""
        lines, records, reasons = [], [], set[str]()
        for place, cell, seed, entry in self._cells(contestant):
            environment, logits = self.sources.facts(entry)
            split = text.name(str(cell.splits.get(seed, ""))[:DIGITS])
            value, key = cell.series[METRIC].get(seed, ""), entry.key[:DIGITS]
            level = entry.standing.level
            part = f", {cell.group.scope}" if self.columns[place].scope == "H" else ""
            lines.append([place, f"{seed}{part}", value, key, split, logits, environment, level])
            records.append(entry.record)
            reasons.update(entry.standing.reasons)
        commands, _ = commands_of([record.spec for record in records])
        return {
            # In columns, in which digests are packed best.
            "records": list(zip(*lines, strict=True)),
            "reasons": text.message("; ".join(sorted(map(text.name, reasons)))),
            "signature": printable(signature_of(records)),
            "commands": "\n".join(map(printable, commands)),
        }


def _group(chosen: Headline, pairs: Pairs) -> dict[str, int]:
    """The group of each tested row: its first is the best that is left, and not told apart."""
    tested = {label for pair in pairs.by_labels for label in pair}
    left, groups = [c for c in chosen.ranked if c.row.label in tested], dict[str, int]()
    while left:
        best, *others = left
        number = max(groups.values(), default=0) + 1
        tests = [(other, pair) for other in others if (pair := pairs.of(best, other))]
        alike = [best, *(other for other, pair in tests if not pair.better)]
        groups |= {contestant.row.label: number for contestant in alike}
        left = [other for other, pair in tests if pair.better]
    return groups


def _pairs(contestants: Sequence[Contestant], pairs: Pairs) -> Iterator[tuple[str, list[Any]]]:
    """Tests by the places of both rows: the difference, p, and data sets won, tied, lost."""
    places = {contestant.row.label: place for place, contestant in enumerate(contestants)}
    for (one, two), pair in pairs.by_labels.items():
        told = f"{pair.won} / {pair.tied} / {pair.lost}"
        values = [round(pair.difference, 4), text.p_value(pair.p), told]
        yield f"{places[one]},{places[two]}", values


def _conflicts(gathered: Gathered, axes: Collection[str]) -> Iterator[list[Any]]:
    """Cells on which sources disagree: each value with its source, and what its link asks for."""
    for entries in gathered.disagreements().values():
        spec = entries[0].record.spec
        values = [float(entry.record.metrics.get(METRIC, 0.0)) for entry in entries]
        words = [f"{value:.2f}" for value in values]
        names = [text.name(entry.source) for entry in entries]
        cell = f"{spec.evaluated}, {text.shots(spec.shots)}, seed {spec.train_seed}"
        asks = {"shots": str(spec.shots), "set": text.name(spec.evaluated)}
        conditions = (CONDITIONS[name] for name in axes if name in CONDITIONS)
        asks |= {each.name: text.name(each.of(spec)) for each in conditions if not each.prefix}
        gap = round(max(values) - min(values), 4)
        told = list(zip(words, names, strict=True))
        yield [text.name(spec.label), text.name(cell), told, gap, asks]


def _means(boards: Sequence[_Board]) -> Iterator[tuple[str, str, str]]:
    """Averages at 16 shots, or of all boards if none has so many."""
    usual = [board for board in boards if board.shown["axes"]["shots"] == str(SHOTS)]
    for board in usual or boards:
        conditions = ", ".join(map(" ".join, board.shown["axes"].items()))
        for row in board.shown["rows"]:
            if row["cells"][0]:
                yield row["method"], row["cells"][0], conditions
