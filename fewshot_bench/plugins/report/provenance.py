"""Provenance of the numbers: conditions, data sets, methods, software, differences, failures."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fewshot_bench.analysis.audit.findings import Audit
from fewshot_bench.analysis.formats.document import Grid
from fewshot_bench.analysis.frame import count, decode, distinct
from fewshot_bench.analysis.table.table import Seed, Table
from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import canonical_json
from fewshot_bench.plugins.report import text
from fewshot_bench.plugins.report.rows import Row, sheet, text_row
from fewshot_bench.store.answer_files import ASKED
from fewshot_bench.utils.text import counted, limited

if TYPE_CHECKING:
    import pandas as pd

# Digits of a digest, values of one fact, lines of incidents, and failed or missing cells shown.
DIGITS, VALUES, INCIDENTS, CELLS = 12, 6, 40, 200
# Columns of the records of a method.
_OF_METHOD = ("method_version", "environment.method_origin", "code", "overrides", "options")
# Facts that differ between runs and affect no number, or stand in the table of methods.
_NOISE = ("load", ASKED)
_OF_CODE = ("method_origin", "code.")


def provenance(table: Table, data: pd.DataFrame, audit: Audit) -> list[Grid]:
    """Tables of all facts that are needed to question the numbers.

    data: the frame of records of the table.
    """
    records = list(data["record"])
    done = [record for record in records if record.status == "done"]
    names = list(dict.fromkeys(name for line in audit.methods for name in line))
    states = sorted(Counter(record.status for record in records).items())
    facts = {
        **{name: ", ".join(values) for name, values in table.conditions.items()},
        "shots": ", ".join(map(str, table.shots)),
        "seeds": ", ".join(map(str, table.seeds)),
        "records": ", ".join(f"{count:,} {name}" for name, count in states),
    }
    shared = [text_row(*fact) for fact in facts.items()]
    grids = [
        sheet(
            "findings",
            "Audit: findings make a comparison unfair, incomplete or not repeatable",
            ("kind", "what"),
            [text_row(each.level, each.text, css=each.level) for each in audit.findings],
        ),
        sheet("conditions", "Conditions that all numbers share", ("condition", "value"), shared),
        sheet(
            "hazards",
            "Known hazards to fairness, each with its answer",
            ("hazard", "what the records say"),
            [
                text_row(
                    f"{h.number}. {h.name}", h.text, css="finding" if h.state == "open" else ""
                )
                for h in audit.hazards
            ],
        ),
        sheet(
            "allowed",
            "What each method was allowed and did (labels, configurations, steps)",
            names or ("method",),
            [text_row(*(line.get(name, "") for name in names)) for line in audit.methods],
        ),
        _datasets(data),
        _methods(data),
        _environment(done),
        _incidents(records),
    ]
    return [grid for grid in grids if grid.lines]


_OF_SPLIT = ("split.digest", "split.verified", "split.classes", "split.test")


def _datasets(data: pd.DataFrame) -> Grid:
    names = ("evaluated", "revision", "target_revision", "shots", "split_seed", *_OF_SPLIT)
    groups: defaultdict[str, list[tuple[Any, ...]]] = defaultdict(list)
    for (name, *line), times in count(data, *names).items():
        groups[name].append((*line, times))
    rows = []
    for name, lines in sorted(groups.items()):
        # The splits with the fewest shots and the lowest seeds come first.
        first: dict[str, tuple[int, int]] = {}
        picks: Counter[str] = Counter()
        for *_, shots, seed, digest, verified, classes, test, times in lines:
            if digest:
                first[digest] = min(first.get(digest, (shots, seed)), (shots, seed))
            if {digest, verified, classes, test} != {None}:
                picks[{True: "yes", False: "no"}.get(verified, "not known")] += times
        splits = [text.name(digest[:DIGITS]) for digest in sorted(first, key=first.__getitem__)]
        states = ", ".join(f"{state}: {times}" for state, times in sorted(picks.items()))
        rows.append(
            text_row(
                name,
                _list_values(":".join(filter(None, line[:2])) for line in lines),
                _list_values(str(classes) for *_, classes, _, _ in lines if classes is not None),
                _list_values(str(test) for *_, test, _ in lines if test is not None),
                f"{len(splits)}: {limited(splits, 3)}" if splits else "none",
                next(iter(picks)) if len(picks) == 1 else states,
            )
        )
    heads = ("data set", "revision", "classes", "test images", "splits", "published picks")
    return sheet("datasets", "Data sets and splits", heads, rows, ("classes", "test images"))


def _methods(data: pd.DataFrame) -> Grid:
    groups: defaultdict[str, list[tuple[str, ...]]] = defaultdict(list)
    for label, version, origin, code, *options in distinct(data, "label", *_OF_METHOD):
        groups[label].append((version, str(origin or ""), code, *map(_list_options, options)))
    rows = [
        text_row(
            label,
            *(
                limited(sorted({*column} - {""}), VALUES, " | ")
                for column in zip(*lines, strict=True)
            ),
        )
        for label, lines in sorted(groups.items())
    ]
    heads = ("method", "version", "origin", "code", "overrides", "hyper-parameters")
    return sheet("methods", "Methods as they were configured", heads, rows)


def _environment(records: Sequence[Record]) -> Grid:
    """Facts of the runs, those that differ first, with how many records have each value."""
    facts = _count_facts(record.environment for record in records)
    rows = []
    for name in sorted(facts, key=lambda name: (len(facts[name]) == 1, name)):
        ranked = sorted(facts[name].items(), key=lambda item: (-item[1], item[0]))
        if name.startswith(_OF_CODE):
            continue
        if len(ranked) == 1:
            rows.append(text_row(name, ranked[0][0], "no"))
            continue
        values = [f"{value} ({count:,})" for value, count in ranked[:VALUES]]
        values += [f"and {len(ranked) - VALUES} more"] if len(ranked) > VALUES else []
        rows.append(text_row(name, "; ".join(values), "yes", css="differs"))
    heads = ("fact", "value (records)", "differs")
    return sheet("environment", "Software and machines; what differed comes first", heads, rows)


def _count_facts(environments: Iterable[Mapping[str, Any]]) -> Mapping[str, Counter[str]]:
    """The number of records with each value of each fact; records of a store share most values."""
    # Ids stay unique because the first environment with them is kept alive.
    alike: dict[Hashable, Mapping[str, Any]] = {}
    times: Counter[Hashable] = Counter()
    for environment in environments:
        key = tuple((name, id(value)) for name, value in environment.items() if name not in _NOISE)
        alike.setdefault(key, environment)
        times[key] += 1
    facts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for ids, environment in alike.items():
        for name, value in environment.items():
            parts = {name: value}
            if isinstance(value, Mapping):
                parts = {f"{name}.{part}": inner for part, inner in value.items()}
            for fact, inner in parts.items() if name not in _NOISE else ():
                word = inner if isinstance(inner, str) else json.dumps(inner, sort_keys=True)
                facts[fact][word] += times[ids]
    return facts


def _incidents(records: Sequence[Record]) -> Grid:
    counts = Counter(
        (str(incident.get("kind", "")), str(incident.get("text", "")), record.spec.label)
        for record in records
        for incident in record.incidents
    )
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rows = [text_row(*words, f"{times:,}") for words, times in ranked[:INCIDENTS]]
    if len(ranked) > INCIDENTS:
        rows.append(text_row("more", f"{len(ranked) - INCIDENTS} more kinds of incidents", "", ""))
    caption = "What the harness had to do or to undo"
    return sheet("incidents", caption, ("kind", "what", "method", "records"), rows, ("records",))


def _list_options(column: str) -> str:
    values = decode(column)
    return ", ".join(f"{name}={canonical_json(value)}" for name, value in sorted(values.items()))


def _list_values(values: Iterable[str]) -> str:
    """The first few distinct values, and the number of the others."""
    return limited(sorted({value for value in values if value}), VALUES, " | ")


def failures(records: Sequence[Record]) -> Grid | None:
    """Failed cells with the type and the message of their errors; None without any."""
    failed = [record for record in records if record.status == "failed"]
    failed.sort(key=lambda r: (r.spec.label, r.spec.evaluated, r.spec.shots, r.spec.split_seed))
    rows = []
    for record in failed:
        error, spec = record.error or {}, record.spec
        kind = text.name(str(error.get("type") or "unknown error"))
        names = text.name(spec.label), text.name(spec.evaluated), str(spec.shots)
        message = str(error.get("message") or "")
        rows.append(text_row(*names, str(Seed.of(record)), kind, message))
    heads = ("method", "data set", "shots", "seed", "error", "message")
    return _cells_sheet("failures", counted(len(rows), "failed run"), heads, rows)


def holes(table: Table) -> Grid | None:
    """Cells without any number, or with fewer seeds than others; None if all are complete."""
    rows = []
    states = {"partial": "some seeds", "inapplicable": "not applicable"}
    for cell in table.cells.values():
        whole = cell.status == "done" and not cell.missing_seeds
        if cell.group.derived or not cell.expected or whole:
            continue
        why = cell.reason
        if not why and cell.missing_seeds:
            why = f"no record for seeds {','.join(map(str, cell.missing_seeds))}"
        if not why and cell.failed:
            why = f"{cell.failed} failed: {', '.join(cell.errors)}"
        names = text.name(cell.row.title), text.name(cell.group.label), str(cell.shots)
        rows.append(text_row(*names, states.get(cell.status, cell.status), why))
    heads = ("method", "data set", "shots", "what", "why")
    return _cells_sheet("holes", f"{counted(len(rows), 'cell')} not complete", heads, rows)


def _cells_sheet(name: str, caption: str, heads: Sequence[str], rows: list[Row]) -> Grid | None:
    some = f", the first {CELLS} of them" if len(rows) > CELLS else ""
    shown = rows[:CELLS]
    return sheet(name, caption + some, heads, shown, ("shots", "seed")) if rows else None
