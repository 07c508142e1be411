"""Provenance of the numbers: conditions, data sets, methods, software, differences, failures."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

from fewshot_bench.analysis.audit.findings import Audit
from fewshot_bench.analysis.record_columns import RecordColumns
from fewshot_bench.analysis.table.table import Table
from fewshot_bench.api.image_facts import split_digest
from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import canonical_json
from fewshot_bench.plugins.report import text
from fewshot_bench.plugins.report.grid import Column, Field, Grid, Line
from fewshot_bench.store.answer_files import ASKED
from fewshot_bench.utils.text import counted, limited

# Digits of a digest, values of one fact and lines of incidents that are shown.
DIGITS, VALUES, INCIDENTS = 12, 6, 40
# Entries of a split, and columns of the conditions, that are shown.
_COUNTED = ("classes", "test")
_OF_METHOD = ("method_version", "environment.method_origin", "code", "overrides", "options")
# Facts that differ between runs and affect no number.
_NOISE = ("load", ASKED)


def provenance(table: Table, facts: RecordColumns, found: Audit) -> list[Grid]:
    """Tables of all facts that are needed to question the numbers.

    facts: `columns_of` the records of the table.
    """
    done = [record for record in facts.records if record.status == "done"]
    grids = [
        _findings(found),
        _conditions(table, facts),
        _hazards(found),
        _allowed(found),
        _datasets(facts),
        _methods(facts),
        _environment(done),
        _incidents(facts.records),
    ]
    return [grid for grid in grids if grid.lines]


def _conditions(table: Table, facts: RecordColumns) -> Grid:
    lines = [_line(name, ", ".join(values)) for name, values in table.conditions.items()]
    lines.append(_line("shots", ", ".join(map(str, table.shots))))
    lines.append(_line("seeds", ", ".join(map(str, table.seeds))))
    states = Counter(facts["status"])
    lines.append(_line("records", ", ".join(f"{n:,} {name}" for name, n in sorted(states.items()))))
    columns = [Column("condition", False), Column("value", False)]
    return Grid("conditions", "Conditions that all numbers share", columns, lines)


def _datasets(facts: RecordColumns) -> Grid:
    heads = ("data set", "revision", "classes", "test images", "splits", "published picks")
    columns = [Column(head, head in ("classes", "test images")) for head in heads]
    rows = facts.rows(
        ("evaluated", "revision", "target_revision", "shots", "split_seed", "split facts")
    )
    groups: defaultdict[str, list[tuple[Any, int]]] = defaultdict(list)
    for (name, *row), count in rows.counted():
        groups[name].append((row, count))
    lines = []
    for name, found in sorted(groups.items()):
        revisions = {":".join(filter(None, row[:2])) for row, _ in found}
        splits: dict[str, tuple[int, int]] = {}
        for (_, _, shots, seed, split), _ in found:
            if known := split_digest(split):
                splits[known] = min(splits.get(known, (shots, seed)), (shots, seed))
        few = sorted(splits, key=lambda key: splits[key])
        shown = limited([text.name(key[:DIGITS]) for key in few], 3)
        states = [(row[-1], count) for row, count in found]
        lines.append(
            _line(
                *(name, _values(revisions)),
                *(_values(str(s[key]) for s, _ in states if key in s) for key in _COUNTED),
                *(f"{len(few)}: {shown}" if few else "none", _verified(states)),
            )
        )
    return Grid("datasets", "Data sets and splits", columns, lines)


def _verified(splits: Iterable[tuple[Mapping[str, Any], int]]) -> str:
    """splits: each with the number of its records."""
    names = {True: "yes", False: "no", None: "not known"}
    found: Counter[str] = Counter()
    for split, count in splits:
        if split:
            found[names[split.get("verified")]] += count
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


def _methods(facts: RecordColumns) -> Grid:
    groups: defaultdict[str, list[tuple[Any, ...]]] = defaultdict(list)
    for label, *row in facts.rows(("label", *_OF_METHOD)).values:
        groups[label].append(tuple(row))
    lines = []
    for label, rows in sorted(groups.items()):
        versions, origins, codes, overrides, options = zip(*rows, strict=True)
        lines.append(
            _line(
                *(label, _values(versions), _values(str(origin or "") for origin in origins)),
                *(_values(codes), _values(map(_plain, overrides)), _values(map(_plain, options))),
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
    # Ids stay unique because the first environment with them is kept alive.
    alike: dict[Hashable, Mapping[str, Any]] = {}
    times: Counter[Hashable] = Counter()
    kept: dict[tuple[str, ...], list[str]] = {}
    for environment in environments:
        names = tuple(environment)
        if names not in kept:
            kept[names] = [name for name in names if name not in _NOISE]
        key = names, *map(id, map(environment.__getitem__, kept[names]))
        alike.setdefault(key, environment)
        times[key] += 1
    facts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for known, environment in alike.items():
        for fact, word in _flat(environment):
            facts[fact][word] += times[known]
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
    return limited(sorted({value for value in values if value}), VALUES, " | ")


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
    caption = f"{counted(len(failed), 'failed run')}{some}"
    return Grid("failures", caption, columns, lines, True) if lines else None


def holes(table: Table) -> Grid | None:
    """Cells without any number, or with fewer seeds than others; None if all are complete."""
    lines = []
    for cell in table.cells.values():
        whole = cell.status == "done" and not cell.missing_seeds
        if cell.group.derived or not cell.expected or whole:
            continue
        seeds = ",".join(map(str, cell.missing_seeds))
        what = {"partial": "some seeds", "inapplicable": "not applicable"}
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
    caption = f"{counted(len(lines), 'cell')} not complete{some}"
    return Grid("holes", caption, columns, lines[:MOST], True) if lines else None
