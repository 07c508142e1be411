"""Provenance of the numbers: conditions, data sets, methods, software, differences, failures."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

from fewshot_bench.analysis.audit.findings import Audit
from fewshot_bench.analysis.conditions import code_text, digest
from fewshot_bench.analysis.record_columns import Coded
from fewshot_bench.analysis.table.model import Table
from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import canonical_json
from fewshot_bench.plugins.report import text
from fewshot_bench.plugins.report.grid import Column, Field, Grid, Line
from fewshot_bench.store.answer_files import ASKED

# Digits of a digest, values of one fact and lines of incidents that are shown.
DIGITS, VALUES, INCIDENTS = 12, 6, 40
# Facts that differ between runs and affect no number.
_NOISE = ("load", ASKED)


def provenance(table: Table, records: Sequence[Record], found: Audit) -> list[Grid]:
    """Tables of all facts that are needed to question the numbers."""
    done = [record for record in records if record.status == "done"]
    grids = [
        _findings(found),
        _conditions(table, records),
        _hazards(found),
        _allowed(found),
        _datasets(records),
        _methods(records),
        _environment(done),
        _incidents(records),
    ]
    return [grid for grid in grids if grid.lines]


def _conditions(table: Table, records: Sequence[Record]) -> Grid:
    lines = [_line(name, ", ".join(values)) for name, values in table.conditions.items()]
    lines.append(_line("shots", ", ".join(map(str, table.shots))))
    lines.append(_line("seeds", ", ".join(map(str, table.seeds))))
    states = Counter(record.status for record in records)
    lines.append(_line("records", ", ".join(f"{n:,} {name}" for name, n in sorted(states.items()))))
    columns = [Column("condition", False), Column("value", False)]
    return Grid("conditions", "Conditions that all numbers share", columns, lines)


def _datasets(records: Sequence[Record]) -> Grid:
    groups: defaultdict[str, list[Record]] = defaultdict(list)
    for record in records:
        groups[record.spec.evaluated].append(record)
    heads = ("data set", "revision", "classes", "test images", "splits", "published picks")
    columns = [Column(head, head in ("classes", "test images")) for head in heads]
    lines = []
    for name in sorted(groups):
        members = groups[name]
        revisions = {
            ":".join(filter(None, (r.spec.revision, r.spec.target_revision))) for r in members
        }
        splits = {digest(r): (r.spec.shots, r.spec.split_seed) for r in members if digest(r)}
        few = sorted(splits, key=lambda key: splits[key])
        shown = ", ".join(text.name(key[:DIGITS]) for key in few[:3])
        more = f" and {len(few) - 3} more" if len(few) > 3 else ""
        lines.append(
            _line(
                *(name, _values(revisions)),
                _values(str(r.split["classes"]) for r in members if "classes" in r.split),
                _values(str(r.split["test"]) for r in members if "test" in r.split),
                *(f"{len(few)}: {shown}{more}" if few else "none", _verified(members)),
            )
        )
    return Grid("datasets", "Data sets and splits", columns, lines)


def _verified(records: Iterable[Record]) -> str:
    names = {True: "yes", False: "no", None: "not known"}
    found = Counter(names[record.split.get("verified")] for record in records if record.split)
    if len(found) == 1:
        return next(iter(found))
    return ", ".join(f"{name}: {count}" for name, count in sorted(found.items()))


def _findings(found: Audit) -> Grid:
    lines = [_line(each.level, each.text, css=each.level) for each in found.findings]
    columns = [Column("kind", False), Column("what", False)]
    caption = "Audit: findings make a comparison unfair, incomplete or not repeatable"
    return Grid("findings", caption, columns, lines)


def _hazards(found: Audit) -> Grid:
    lines = [
        _line(f"{each.number}. {each.name}", each.text, css="finding" if each.open else "")
        for each in found.hazards
    ]
    columns = [Column("hazard", False), Column("what the records say", False)]
    return Grid("hazards", "Known hazards to fairness, each with its answer", columns, lines)


def _allowed(found: Audit) -> Grid:
    names = list(dict.fromkeys(name for line in found.methods for name in line))
    lines = [_line(*(line.get(name, "") for name in names)) for line in found.methods]
    caption = "What each method was allowed and did (labels, configurations, steps)"
    return Grid("allowed", caption, [Column(name, False) for name in names], lines)


def _methods(records: Sequence[Record]) -> Grid:
    groups: defaultdict[str, list[Record]] = defaultdict(list)
    for record in records:
        groups[record.spec.label].append(record)
    lines = []
    for label, members in sorted(groups.items()):
        sources = Record.entries(members, "environment", "method_origin", "code")
        lines.append(
            _line(
                label,
                _values(record.spec.method_version for record in members),
                _values(str(origin or "") for origin, _ in sources),
                _values(code_text(stated) for _, stated in sources),
                _values(map(_plain, Coded.of(record.spec.overrides for record in members).values)),
                _values(map(_plain, Coded.of(record.spec.options for record in members).values)),
            )
        )
    heads = ("method", "version", "origin", "code", "overrides", "hyper-parameters")
    columns = [Column(head, False) for head in heads]
    return Grid("methods", "Methods as they were configured", columns, lines)


def _environment(records: Sequence[Record]) -> Grid:
    """Facts of the runs, those that differ first, with how many records have each value."""
    facts = _counted(record.environment for record in records)
    lines = []
    for name in sorted(facts, key=lambda name: (len(facts[name]) == 1, name)):
        counts = facts[name]
        if name in _NOISE or name == "method_origin" or name.startswith("code."):
            continue
        if len(counts) == 1:
            lines.append(_line(name, next(iter(counts)), "no"))
            continue
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        shown = "; ".join(f"{value} ({count:,})" for value, count in ranked[:VALUES])
        more = f"; and {len(ranked) - VALUES} more" if len(ranked) > VALUES else ""
        lines.append(_line(name, shown + more, "yes", css="differs"))
    columns = [Column("fact", False), Column("value (records)", False), Column("differs", False)]
    return Grid("environment", "Software and machines; what differed comes first", columns, lines)


def _incidents(records: Sequence[Record]) -> Grid:
    found = Counter(
        (str(incident.get("kind", "")), str(incident.get("text", "")), record.spec.label)
        for record in records
        for incident in record.incidents
    )
    ranked = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    lines = [
        _line(kind, words, label, f"{count:,}")
        for (kind, words, label), count in ranked[:INCIDENTS]
    ]
    if len(ranked) > INCIDENTS:
        lines.append(_line("more", f"{len(ranked) - INCIDENTS} more kinds of incidents", "", ""))
    columns = [Column("kind", False), Column("what", False), Column("method", False)]
    columns.append(Column("records"))
    return Grid("incidents", "What the harness had to do or to undo", columns, lines)


def _counted(environments: Iterable[Mapping[str, Any]]) -> Mapping[str, Counter[str]]:
    """Counts of the values of each fact; records of a store share most values."""
    values: dict[Hashable, tuple[str, Any]] = {}
    counts: Counter[Hashable] = Counter()
    for environment in environments:
        for name, value in environment.items():
            # Equal numbers of different types have different texts. Ids stay unique because
            # `values` keeps the objects alive.
            known = id(value) if isinstance(value, dict | list) else (type(value), value)
            values.setdefault((name, known), (name, value))
            counts[name, known] += 1
    facts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for key, (name, value) in values.items():
        for fact, word in _flat({name: value}):
            facts[fact][word] += counts[key]
    return facts


def _flat(values: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}.{part}", _word(inner)) for part, inner in value.items())
        else:
            yield str(name), _word(value)


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _plain(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={canonical_json(value)}" for name, value in sorted(values.items()))


def _values(values: Iterable[str]) -> str:
    """The first few distinct values, and the number of the others."""
    found = sorted({value for value in values if value})
    more = f" and {len(found) - VALUES} more" if len(found) > VALUES else ""
    return " | ".join(found[:VALUES]) + more


def _line(*words: str, css: str = "") -> Line:
    return Line([Field(text.message(word)) for word in words], css=css)


MOST = 200


def failures(records: Sequence[Record]) -> Grid | None:
    """Failed cells with the type and the message of their errors; None without any."""
    failed = [record for record in records if record.status == "failed"]
    failed.sort(key=lambda r: (r.spec.label, r.spec.evaluated, r.spec.shots, r.spec.split_seed))
    lines = []
    for record in failed[:MOST]:
        error, spec = record.error or {}, record.spec
        seeds = f"{spec.split_seed}/{spec.train_seed}"
        seed = str(spec.split_seed) if spec.split_seed == spec.train_seed else seeds
        lines.append(
            Line(
                [
                    Field(text.name(spec.label)),
                    Field(text.name(spec.evaluated)),
                    Field(str(spec.shots)),
                    Field(seed),
                    Field(text.name(str(error.get("type") or "unknown error"))),
                    Field(text.message(str(error.get("message") or ""))),
                ]
            )
        )
    columns = [Column("method", False), Column("data set", False), Column("shots")]
    columns += [Column("seed"), Column("error", False), Column("message", False)]
    some = f", the first {MOST} of them" if len(failed) > MOST else ""
    caption = f"{text.counted(len(failed), 'failed run')}{some}"
    return Grid("failures", caption, columns, lines, True) if lines else None


def holes(table: Table) -> Grid | None:
    """Cells without any number, or with fewer seeds than others; None if all are complete."""
    lines = []
    for cell in table.cells.values():
        whole = cell.status == "done" and not cell.missing_seeds
        if cell.group.derived or not cell.expected or whole:
            continue
        seeds = ",".join(map(str, cell.missing_seeds))
        what = {"partial": "some seeds", "inapplicable": "cannot be asked"}
        why = cell.reason or (f"no record for seeds {seeds}" if seeds else "")
        why = why or (f"{cell.failed} failed: {', '.join(cell.errors)}" if cell.failed else "")
        lines.append(
            Line(
                [
                    Field(text.name(cell.row.title)),
                    Field(text.name(cell.group.label)),
                    Field(str(cell.shots)),
                    Field(what.get(cell.status, cell.status)),
                    Field(text.message(why)),
                ]
            )
        )
    columns = [Column("method", False), Column("data set", False), Column("shots")]
    columns += [Column("what", False), Column("why", False)]
    some = f", the first {MOST} of them" if len(lines) > MOST else ""
    caption = f"{text.counted(len(lines), 'cell')} not complete{some}"
    return Grid("holes", caption, columns, lines[:MOST], True) if lines else None
