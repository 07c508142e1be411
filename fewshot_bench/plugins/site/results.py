"""Results of stores and bundles: boards of methods under one level and set of conditions."""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fewshot_bench.analysis.citations import of_records, papers_of_installed
from fewshot_bench.analysis.comparison import Block, map_blocks
from fewshot_bench.analysis.filters import current
from fewshot_bench.analysis.gathering import Entry, Gathered
from fewshot_bench.analysis.signature import commands_of, signature_of
from fewshot_bench.analysis.table.build import Options, build
from fewshot_bench.analysis.table.costs import COSTS, ENERGY
from fewshot_bench.analysis.table.table import Group, Table
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
from fewshot_bench.plugins.site.page import write_page
from fewshot_bench.store.predictions import Outcome, Outcomes
from fewshot_bench.store.standing import LEVELS, UNVERIFIED
from fewshot_bench.utils.errors import DataMissingError, StoreError, UsageError
from fewshot_bench.utils.text import printable, printable_lines

METRIC = "top1"
SHOTS = 16
# The most trusted first.
_LEVELS = (*reversed(LEVELS), UNVERIFIED)
# Digits of a digest, as of `fsbench show`.
DIGITS = 12
_COSTS = {**COSTS, ENERGY.name: ENERGY}
# What is told of an environment: nothing that names a machine or its user.
_TOLD = (
    *("fewshot_bench", "commit", "dirty", "python", "packages", "platform"),
    *("device", "device_name", "threads", "cpus"),
)
_SCOPES = {"all": "all", "H": "harmonic mean of base and new"}
# Values of a row, in this order.
_FIELDS = (
    *("method", "mark", "color", "paper", "source", "group", "cells", "costs"),
    *("schedule", "why", "reasons", "agrees", "disagrees"),
)


@dataclass
class _Sources:
    """Entries of all sources, by the records that tables have of them."""

    gathered: Gathered
    entries: dict[tuple[str, str], Entry] = field(default_factory=dict)
    environments: dict[str, int] = field(default_factory=dict)
    facts: dict[int, tuple[int, str]] = field(default_factory=dict)
    outcomes: dict[str, Outcomes] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)

    def levels(self) -> Mapping[str, list[Record]]:
        """The records of the newest versions by level, under names that sources do not share.

        A method's cells at one number of shots have the lowest level of any of them.
        """
        by_source: defaultdict[str, list[Entry]] = defaultdict(list)
        for entry in self.gathered.entries:
            by_source[entry.source].append(entry)
        rows: defaultdict[tuple[Any, ...], list[Entry]] = defaultdict(list)
        for source, entries in by_source.items():
            records = [entry.record for entry in entries]
            kept = set(map(id, current(records, records, None, entries[0].store.path).records))
            entries = [entry for entry in entries if id(entry.record) in kept]
            self._read(source, entries)
            for entry in entries:
                spec = entry.record.spec
                conditions = (condition.of(spec) for condition in CONDITIONS.values())
                row = source, spec.label, spec.method_version, spec.shots, *conditions
                rows[row].append(entry)
        found: dict[str, list[Entry]] = {level: [] for level in _LEVELS}
        for entries in rows.values():
            lowest = max((entry.standing.level for entry in entries), key=_LEVELS.index)
            found[lowest] += entries
        return {level: self._name(entries) for level, entries in found.items() if entries}

    def _read(self, source: str, entries: Sequence[Entry]) -> None:
        records = [entry.record for entry in entries]
        self.outcomes[source] = Outcomes(entries[0].store)
        self.outcomes[source].prepare(records)
        told = Record.entries(records, "environment", *_TOLD)
        digests = Record.entries(records, "digests", "logits", absent="")
        for record, line, (logits,) in zip(records, told, digests, strict=True):
            values = dict(zip(_TOLD, line, strict=True))
            words = printable(json.dumps(values, sort_keys=True), text.LONGEST_TEXT)
            place = self.environments.setdefault(words, len(self.environments))
            self.facts[id(record)] = place, str(logits)[:DIGITS]

    def _name(self, entries: Sequence[Entry]) -> list[Record]:
        """The records; those of methods that several sources ran are named after their source."""
        ran: defaultdict[str, set[str]] = defaultdict(set)
        for entry in entries:
            ran[entry.record.spec.method].add(entry.source)
        named = []
        for entry in entries:
            record, method = entry.record, entry.record.spec.method
            if len(ran[method]) > 1:
                record = object.__new__(Record)
                spec = entry.record.spec.lend(method=f"{method} ({entry.source})")
                record.__dict__.update(entry.record.__dict__, spec=spec)
            self.entries[record.spec.method, record.spec.key()] = entry
            named.append(record)
        return named

    def entry(self, record: Record) -> Entry:
        """The entry that a record of a table is of."""
        return self.entries[record.spec.method, record.spec.key()]

    def of(self, record: Record) -> Outcome | None:
        """The predictions of a record of a table; None without."""
        entry = self.entry(record)
        try:
            return self.outcomes[entry.source].of(entry.record)
        except StoreError:
            return None


@dataclass(frozen=True)
class _Board:
    """One table: `shown` is drawn at once, `details` are read when they are asked for."""

    shown: dict[str, Any]
    details: dict[str, Any]


def write_results(gathered: Gathered, title: str) -> str:
    """The page about all sources; DataMissingError without a cell that may be shown."""
    sources = _Sources(gathered)
    boards = [
        board
        for level, records in sources.levels().items()
        for board in _boards_of(level, records, sources, title)
    ]
    if not boards:
        raise DataMissingError("no source has a finished cell: expected results of fsbench run")
    cited: dict[str, int] = {}
    for board in boards:
        entries = board.details["bibtex"]
        board.details["bibtex"] = cited.setdefault(entries, len(cited))
    names = dict.fromkeys(name for board in boards for name in board.shown["axes"])
    values = {n: {b.shown["axes"].setdefault(n, "default"): "" for b in boards} for n in names}
    fixed = {name for name in names if len(values[name]) < 2} - {"level", "backbone", "shots"}
    for board in boards:
        board.shown["axes"] = {n: v for n, v in board.shown["axes"].items() if n not in fixed}
    rows = [row for board in boards for row in board.shown["rows"]]
    schedules = sorted({row[_FIELDS.index("schedule")] for row in rows} - {""})
    first = max(boards, key=lambda board: board.shown["axes"]["shots"] == str(SHOTS))
    data = {
        "first": {"schedule": "*", "source": "*", "columns": "cost", **first.shown["axes"]},
        "metric": METRICS[METRIC].title,
        "costs": [[cost.title, cost.hint] for cost in _COSTS.values()],
        "sources": list(map(text.name, gathered.sources)),
        "fields": _FIELDS,
        "boards": [board.shown for board in boards],
        "conflicts": list(_conflicts(gathered)),
    }
    details = {
        "boards": [board.details for board in boards],
        "bibtex": list(cited),
        "environments": list(sources.environments),
    }
    return write_page(
        "results.html",
        data,
        details,
        title=title,
        axes={n: {v: v for v in own} for n, own in values.items() if n not in fixed},
        schedules={name: name for name in schedules},
        sources={name: name for name in data["sources"]},
        means=list(_means(boards)),
        left=sources.left,
        records=len(gathered.entries),
    )


def _prominence(board: _Board) -> tuple[bool, bool, int]:
    axes = board.shown["axes"]
    return axes["level"] != UNVERIFIED, axes["shots"] == str(SHOTS), len(board.shown["rows"])


def _boards_of(
    level: str, records: Sequence[Record], sources: _Sources, title: str
) -> Iterator[_Board]:
    """The boards of a level; where sources must not share a table, each has its own."""
    options = Options(metrics={METRIC: METRICS[METRIC]}, costs=_COSTS)

    def make(block: Block, own: Options) -> list[_Board]:
        try:
            table = build(block.records, own, data=block.data)
        except UsageError as error:
            parts: defaultdict[str, list[Record]] = defaultdict(list)
            for record in block.records:
                parts[sources.entry(record).source].append(record)
            if len(parts) < 2:
                raise
            sources.left.append(f"{', '.join(parts)} stand apart: {error}")
            each = (_boards_of(level, part, sources, title) for part in parts.values())
            only = [{"source": text.name(source)} for source in parts]
            made = [
                (own, board) for own, boards in zip(only, each, strict=True) for board in boards
            ]
            for source, board in made:
                board.shown["axes"] |= source
            return [board for _, board in made]
        return [
            _board(level, headline(part), group, sources, title) for group, part in _parts(table)
        ]

    try:
        made = map_blocks(records, options, make, sources.left.append)
    except (UsageError, DataMissingError) as error:
        sources.left.append(f"{level}: {error}")
        return
    for part in made:
        yield from part.value or []


def _stand_apart(board: _Board, source: str) -> _Board:
    board.shown["axes"]["apart"] = text.name(source)
    return board


def _parts(table: Table) -> Iterator[tuple[Group, Table]]:
    """Every average, or single group without one, at each number of shots, as a table."""
    averaged = {group.scope for group in table.groups if group.average}
    for group in table.groups:
        if not group.average and group.scope in averaged:
            continue
        members = table.members(group) if group.average else ()
        for shots in [k for k in group.shots if k] or group.shots:
            groups = tuple(
                dataclasses.replace(g, shots=tuple(k for k in g.shots if k in (0, shots)))
                for g in (group, *members)
            )
            yield group, dataclasses.replace(table, groups=groups, commands=())


def _board(
    level: str, chosen: Headline, subject_of: Group, sources: _Sources, title: str
) -> _Board:
    table = chosen.table
    groups = (chosen.group, *chosen.members) if chosen.group.average else (chosen.group,)
    contestants = [
        contestant
        for contestant in chosen.ordered
        if any(METRIC in chosen.cell(contestant, group).estimates for group in groups)
    ]
    pairs = compare(chosen, sources.of, every=True)
    numbers = _group(chosen, pairs)
    of_rows = [
        (
            contestant,
            [
                (place, seed, record)
                for place, group in enumerate(groups)
                for seed, record in chosen.records_of(contestant, group).items()
            ],
        )
        for contestant in contestants
    ]
    entries = [sources.entry(record) for _, own in of_rows for *_, record in own]
    originals = [entry.record for entry in entries]
    marks = report.list_marks(table)
    signature = printable(signature_of(originals)) if originals else ""
    axes = {name: text.name("|".join(values)) for name, values in table.conditions.items()}
    axes["classes"] = _SCOPES.get(subject_of.scope, text.name(subject_of.label))
    shown = {
        "axes": {"level": level, **axes, "shots": str(chosen.shots)},
        "subject": subject(chosen),
        "why": pairs.why,
        "signature": " ".join([*marks, text.message(table.signature(chosen.group.seeds))]),
        "sets": [text.name(group.name) for group in groups],
        "rows": [
            _row(chosen, contestant, groups, numbers.get(contestant.row.label), own, sources)
            for contestant, own in of_rows
        ],
    }
    card = report.card(chosen, title, [f"{level.capitalize()}.", *marks], signature)
    return _Board(
        shown,
        {
            "latex": report.write_latex(chosen),
            "bibtex": printable_lines(of_records(originals).text),
            "card": template("card.svg").render(card=card) if card else "",
            "pairs": dict(_pairs(contestants, pairs)),
            "rows": [_details(chosen, c, groups, own, sources) for c, own in of_rows],
        },
    )


def _group(chosen: Headline, pairs: Pairs) -> dict[str, int]:
    """The number of each tested method's group: those that are not told apart from its best."""
    left, number, groups = chosen.ranked, 0, dict[str, int]()
    while pairs.by_labels and left:
        best, number = left[0], number + 1
        alike = {best.row.label}
        for other in left[1:]:
            pair = pairs.of(best, other)
            # What could not be tested against the best has no group.
            if pair is None or not pair.better:
                alike.add(other.row.label)
                groups |= {other.row.label: number} if pair else {}
        if any(pairs.of(best, other) for other in chosen.ranked if other is not best):
            groups[best.row.label] = number
        left = [other for other in left if other.row.label not in alike]
    return groups


def _row(
    chosen: Headline,
    contestant: Contestant,
    groups: Sequence[Group],
    number: int | None,
    own: Sequence[tuple[int, Any, Record]],
    sources: _Sources,
) -> list[Any]:
    entries = [sources.entry(record) for *_, record in own]
    estimates = (chosen.cell(contestant, group).estimates.get(METRIC) for group in groups)
    cells = [[text.interval(value)] if value else 0 for value in estimates]
    costs: list[Any] = []
    for name, cost in _COSTS.items():
        value = contestant.cell.costs.get(name) if contestant.cell else None
        costs.append(0 if value is None else [value, cost.words(value)])
    paper = (
        next(iter(papers_of_installed(entries[0].record.spec.method)), None) if entries else None
    )
    url = paper.url if paper and paper.url.startswith("https://") else ""
    shown = method_row(contestant, ())
    reasons = {reason for entry in entries for reason in entry.standing.reasons}
    source = entries[0].source if entries else sources.gathered.sources[0]
    return [
        contestant.label,
        shown.mark,
        contestant.look.variable,
        [text.name(paper.label), url] if paper else 0,
        sources.gathered.sources.index(source),
        number,
        cells,
        costs,
        text.name(entries[0].record.schedule) if entries else "",
        "" if contestant.cell else chosen.why_not(contestant),
        text.message("; ".join(sorted(reasons))),
        text.name(", ".join(sorted({name for e in entries for name in e.agrees_with}))),
        text.name(", ".join(sorted({name for e in entries for name in e.disagrees_with}))),
    ]


def _details(
    chosen: Headline,
    contestant: Contestant,
    groups: Sequence[Group],
    own: Sequence[tuple[int, Any, Record]],
    sources: _Sources,
) -> dict[str, Any]:
    """Records of a row, its signature and the commands for it."""
    lines = []
    for place, seed, record in own:
        entry, cell = sources.entry(record), chosen.cell(contestant, groups[place])
        environment, logits = sources.facts[id(entry.record)]
        split = str(cell.splits.get(seed, ""))[:DIGITS]
        value = cell.series[METRIC].get(seed, "")
        key, level = record.spec.key()[:DIGITS], entry.standing.level
        lines.append([place, str(seed), value, key, text.name(split), logits, environment, level])
    records = [sources.entry(record).record for *_, record in own]
    commands = commands_of([record.spec for record in records])[0] if records else []
    return {
        "records": lines,
        "signature": printable(signature_of(records)) if records else "",
        "commands": "\n".join(map(printable, commands)),
    }


def _pairs(contestants: Sequence[Contestant], pairs: Pairs) -> Iterator[tuple[str, list[Any]]]:
    """Tests by the places of both rows: the difference, p, and data sets won, tied and lost."""
    places = {contestant.row.label: place for place, contestant in enumerate(contestants)}
    for (one, two), pair in pairs.by_labels.items():
        told = f"{pair.won} / {pair.tied} / {pair.lost}"
        yield (
            f"{places[one]},{places[two]}",
            [
                round(pair.difference, 4),
                text.p_value(pair.p),
                f"data sets won / tied / lost by the first in the order of the table: {told}",
            ],
        )


def _conflicts(gathered: Gathered) -> Iterator[list[Any]]:
    """Cells on which sources disagree, with the value of each."""
    same: defaultdict[str, list[Entry]] = defaultdict(list)
    for entry in gathered.entries:
        if entry.disagrees_with:
            same[entry.key].append(entry)
    for entries in same.values():
        spec = entries[0].record.spec
        values = [float(entry.record.metrics.get(METRIC, 0.0)) for entry in entries]
        words = (f"{value:.2f} {e.source}" for value, e in zip(values, entries, strict=True))
        cell = f"{spec.evaluated}, {text.shots(spec.shots)}, seed {spec.train_seed}"
        gap = round(max(values) - min(values), 4)
        yield [text.name(spec.label), text.name(cell), text.message(", ".join(words)), gap]


def _means(boards: Sequence[_Board]) -> Iterator[tuple[str, str, str]]:
    """Averages at 16 shots, or of all boards if none has so many."""
    usual = [b for b in boards if b.shown["axes"]["shots"] == str(SHOTS)] or boards
    for board in usual:
        conditions = ", ".join(f"{name} {value}" for name, value in board.shown["axes"].items())
        for row in board.shown["rows"]:
            values = dict(zip(_FIELDS, row, strict=True))
            if values["cells"][0]:
                yield values["method"], values["cells"][0][0], conditions
