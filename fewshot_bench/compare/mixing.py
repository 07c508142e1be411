"""What must be equal for numbers to stand in one table, and what to do when it is not."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from fewshot_bench.compare.model import Row
from fewshot_bench.damaged import SKIPPED
from fewshot_bench.errors import UsageError
from fewshot_bench.record import Record
from fewshot_bench.spec import RunSpec, canonical_json

# Conditions of the whole table, each with an option of `compare` of the same name.
CONDITIONS = (
    "protocol",
    "val",
    "prompts",
    "backbone",
    "precision",
    "device",
    "limit",
    "weights",
    "exif",
)


def condition(spec: RunSpec, name: str) -> str:
    """A condition as text: what the table shows and the option of its name takes."""
    value = getattr(spec, name)
    return "none" if value is None else str(value)


def own_data(spec: RunSpec) -> str:
    """A short digest of a person's own class names, templates and hold-out; `none` without."""
    skipped = spec.data.get(SKIPPED, {}).get(spec.dataset)
    # What is left out of a target shows in its revision.
    data = {name: value for name, value in spec.data.items() if name != SKIPPED}
    data |= {SKIPPED: skipped} if skipped else {}
    return data_digest(data) if data else "none"


def data_digest(data: Mapping[str, Any]) -> str:
    """The first 12 digits of the SHA-256 of what was said about a person's own data."""
    return hashlib.sha256(canonical_json(dict(data)).encode()).hexdigest()[:12]


def refuse_mixed(records: Sequence[Record]) -> None:
    """Raise UsageError unless all records were made under one set of conditions."""
    for name in CONDITIONS:
        counts = Counter(condition(record.spec, name) for record in records)
        if len(counts) > 1:
            raise _mixed(name, counts, f"choose one with --{name} {counts.most_common(1)[0][0]}")
    for scope, name, counts in _local_conflicts(records):
        raise _mixed(f"{name} of {scope}", counts, _local_advice(name, counts))


def _mixed(name: str, counts: Counter[str], advice: str) -> UsageError:
    values = ", ".join(f"'{value}' in {count} records" for value, count in sorted(counts.items()))
    return UsageError(
        f"records differ in {name} ({values}), expected one value in a table: {advice}, "
        "or show them as separate rows with --allow-mixed"
    )


def _local_advice(name: str, counts: Counter[str]) -> str:
    if name == "own data":
        return f"choose one with --own-data {counts.most_common(1)[0][0]}"
    if name in ("revision", "target revision"):
        return "choose one with --revision PREFIX"
    return "run the older cells again with --force"


def _local_conflicts(records: Sequence[Record]) -> list[tuple[str, str, Counter[str]]]:
    """Differences inside one data set, one split or one method: (scope, name, counts)."""
    found = []
    for name, scope, value in _LOCAL:
        groups: defaultdict[Hashable, Counter[str]] = defaultdict(Counter)
        for record in records:
            groups[scope(record)][value(record)] += 1
        found += [(str(key), name, counts) for key, counts in groups.items() if len(counts) > 1]
    return found


def _split_name(record: Record) -> str:
    spec = record.spec
    return f"'{spec.evaluated}', {spec.shots}-shot, split seed {spec.split_seed}"


def digest(record: Record) -> str:
    """The digest of the record's split; empty when it has none (a cell that failed early)."""
    return str(record.split.get("digest") or "")


def _split_scope(record: Record) -> Hashable:
    return _split_name(record) if digest(record) else id(record)


def _target_scope(record: Record) -> Hashable:
    return f"'{record.spec.target}'" if record.spec.target else id(record)


_LOCAL: tuple[tuple[str, Callable[[Record], Hashable], Callable[[Record], str]], ...] = (
    ("own data", lambda record: f"'{record.spec.dataset}'", lambda record: own_data(record.spec)),
    ("revision", lambda record: f"'{record.spec.dataset}'", lambda record: record.spec.revision),
    ("target revision", _target_scope, lambda record: record.spec.target_revision),
    ("split digest", _split_scope, lambda record: digest(record)[:12]),
    ("version", lambda record: f"'{record.spec.label}'", lambda r: r.spec.method_version),
    ("options", lambda record: f"'{record.spec.label}'", lambda r: canonical_json(r.spec.options)),
)


def assign_rows(records: Sequence[Record]) -> dict[str, tuple[Row, list[Record]]]:
    """Records by row label: the method with its overrides, and what differs between records."""
    differing = [
        name for name in CONDITIONS if len({condition(record.spec, name) for record in records}) > 1
    ]
    labels = _local_labels(records)
    rows: dict[str, tuple[Row, list[Record]]] = {}
    for record in records:
        parts = [f"{name}={_short(name, condition(record.spec, name))}" for name in differing]
        label = " ".join([record.spec.label, *parts, *labels[id(record)]])
        rows.setdefault(label, (Row(label, record.spec), []))[1].append(record)
    return rows


def _short(name: str, value: str) -> str:
    return value[:12] if name == "weights" else value


def _local_labels(records: Sequence[Record]) -> dict[int, list[str]]:
    """Per record, the parts of its label that tell apart own data, revisions, splits, options."""
    by_label: defaultdict[str, list[Record]] = defaultdict(list)
    values: defaultdict[tuple[str, Hashable], set[str]] = defaultdict(set)
    for record in records:
        by_label[record.spec.label].append(record)
        for name, scope, value in _labeled(record):
            values[name, scope].add(value)
    labels: dict[int, list[str]] = {}
    for record in records:
        labels[id(record)] = [
            f"{name}={value[:12]}"
            for name, scope, value in _labeled(record)
            if len(values[name, scope]) > 1
        ]
    for group in by_label.values():
        for record, part in zip(group, _differing_options(group), strict=True):
            labels[id(record)] += part
    return labels


def _labeled(record: Record) -> list[tuple[str, Hashable, str]]:
    """What may tell a record from others: (name, where it must be equal, value)."""
    spec = record.spec
    found: list[tuple[str, Hashable, str]] = [
        # Versions of one method differ; those of two methods have nothing to do with each other.
        ("method_version", spec.label, spec.method_version),
        ("own data", spec.dataset, own_data(spec)),
        ("revision", spec.dataset, spec.revision),
    ]
    if spec.target:
        found.append(("target revision", spec.target, spec.target_revision))
    if digest(record):
        found.append(("split", _conditions_of_split(record), digest(record)))
    return found


def _conditions_of_split(record: Record) -> Hashable:
    spec = record.spec
    conditions = (spec.protocol, spec.val, spec.limit, spec.revision, spec.target_revision)
    return (_split_name(record), *conditions, own_data(spec))


def _differing_options(group: Sequence[Record]) -> list[list[str]]:
    if len({canonical_json(record.spec.options) for record in group}) == 1:
        return [[] for _ in group]
    values = [
        {name: canonical_json(value) for name, value in record.spec.options.items()}
        for record in group
    ]
    names = sorted({name for options in values for name in options})
    differing = [name for name in names if len({options.get(name) for options in values}) > 1]
    return [
        [f"{name}={options[name]}" for name in differing if name in options] for options in values
    ]
