"""Conditions that must be equal in one table, and the refusal to mix them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from fewshot_bench.analysis.table.model import Row
from fewshot_bench.api.dataset_overrides import SKIPPED
from fewshot_bench.api.image_facts import images, images_scope, test_images, test_scope
from fewshot_bench.api.method_files import short_names
from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import (
    CONDITIONS,
    KEPT_MODEL,
    RunSpec,
    canonical_json,
    method_label,
)
from fewshot_bench.utils.errors import UsageError
from fewshot_bench.utils.text import digest_of

# Conditions of a data set, both chosen by `--own-data`.
OWN_DATA, SKIPPED_IMAGES = "own data", "skipped images"
# Why two records of one split state other images, and what to do.
OTHER_IMAGES = "the files of the data set were other ones"
IMAGES_ADVICE = (
    "give fsbench run again, which computes again what other images gave, or remove the records "
    "of the others (fsbench store rm)"
)
UNKNOWN = "unknown"
STALE_ADVICE = (
    "give fsbench run again, which computes again what other code has computed, or remove the "
    "older records (fsbench store rm)"
)


def condition(spec: RunSpec, name: str) -> str:
    """A condition as text: what the table shows and the option of its name takes."""
    return CONDITIONS[name].text(getattr(spec, name))


def values_of(records: Sequence[Record], name: str) -> set[str]:
    """The values of a condition in records, as text."""
    return {CONDITIONS[name].text(value) for value in {getattr(r.spec, name) for r in records}}


def own_data(spec: RunSpec) -> str:
    """A short digest of a person's own class names, templates and hold-out; `none` without."""
    if not spec.data:
        return "none"
    skipped = spec.data.get(SKIPPED, {}).get(spec.dataset)
    # What is left out of a target shows in its revision.
    data = without_skipped(spec.data)
    data |= {SKIPPED: skipped} if skipped else {}
    return data_digest(data) if data else "none"


def said_data(spec: RunSpec) -> str:
    """The digest of own data alone, whatever images are left out; `none` without."""
    if not spec.data:
        return "none"
    data = without_skipped(spec.data)
    return data_digest(data) if data else "none"


def without_skipped(data: Mapping[str, Any]) -> dict[str, Any]:
    """The options on own data, without the images that are left out of it."""
    return {name: value for name, value in data.items() if name != SKIPPED}


def data_digest(data: Mapping[str, Any]) -> str:
    """The first 12 digits of the SHA-256 of what was said about a person's own data."""
    return digest_of(canonical_json(dict(data)), 12)


def refuse_mixed(
    records: Sequence[Record],
    place: str = "a table",
    otherwise: str = "or show them as separate rows with --allow-mixed",
    *,
    filtered: bool = True,
) -> None:
    """Raise UsageError unless all records were made under one set of conditions.

    place: where they would stand together. otherwise: the way out that ends the message. filtered:
    whether the command has all filters of `fsbench compare`.
    """
    for name in CONDITIONS:
        if len(values_of(records, name)) > 1:
            counts = Counter(condition(record.spec, name) for record in records)
            advice = f"choose one with --{name} {counts.most_common(1)[0][0]}"
            raise _mixed(name, counts, place, f"{advice}, {otherwise}")
    for scope, name, counts in _local_conflicts(records):
        if name == "options" and not filtered:
            # A sweep is over options.
            continue
        advice = _local_advice(name, counts, filtered)
        raise _mixed(f"{name} of {scope}", counts, place, f"{advice}, {otherwise}")


def _mixed(name: str, counts: Counter[str], place: str, advice: str) -> UsageError:
    values = ", ".join(f"'{value}' in {count} records" for value, count in sorted(counts.items()))
    return UsageError(
        f"records differ in {name} ({values}), expected one value in {place}: {advice}"
    )


def _local_advice(name: str, counts: Counter[str], filtered: bool) -> str:
    if name == "code" and not filtered:
        return STALE_ADVICE
    if filtered and name in (OWN_DATA, SKIPPED_IMAGES):
        return f"choose one with --own-data {counts.most_common(1)[0][0]}"
    if name == "model":
        return "remove the records of the other models (fsbench store rm)"
    if name in ("images", "test images"):
        return f"{OTHER_IMAGES}: {IMAGES_ADVICE}"
    if filtered and name in ("revision", "target revision"):
        return "choose one with --revision PREFIX"
    if name == "code":
        chosen = counts.most_common(1)[0][0]
        return f"{STALE_ADVICE}, choose one with --code {chosen}"
    return "run the older cells again with --force"


def code(record: Record) -> str:
    """The first digits of the digest of the method's code; `unknown` where a record has none."""
    return (record.code_digest or UNKNOWN)[:12]


def code_of(record: Record) -> str:
    """Among which records the code must be one: those of a method in one version."""
    return f"'{record.spec.method}@{record.spec.method_version}'"


def _code_scope(record: Record) -> str | None:
    # What failed has no number that could be mixed with others.
    return code_of(record) if record.status == "done" else None


def _local_conflicts(records: Sequence[Record]) -> list[tuple[str, str, Counter[str]]]:
    """Differences inside one data set, one split or one method: (scope, name, counts)."""
    found = []
    for name, scope, value, text in _LOCAL:
        if not _is_mixed(records, scope, value, text):
            continue
        groups: defaultdict[str | None, Counter[str]] = defaultdict(Counter)
        for record in records:
            groups[scope(record)][text(value(record))] += 1
        groups.pop(None, None)
        found += [(str(key), name, counts) for key, counts in groups.items() if len(counts) > 1]
    return found


def _is_mixed(
    records: Sequence[Record],
    scope: Callable[[Record], str | None],
    value: Callable[[Record], Any],
    text: Callable[[Any], str],
) -> bool:
    first: dict[str | None, Any] = {}
    for record in records:
        mine, place = value(record), scope(record)
        known = first.setdefault(place, mine)
        # Records of a store share what is equal.
        if known is not mine and place is not None and text(known) != text(mine):
            return True
    return False


def _split_name(record: Record) -> str:
    spec = record.spec
    return f"'{spec.evaluated}', {spec.shots}-shot, split seed {spec.split_seed}"


def digest(record: Record) -> str:
    """The digest of the record's split; empty when it has none (a cell that failed early)."""
    return str(record.split.get("digest") or "")


def _split_scope(record: Record) -> str | None:
    return _split_name(record) if digest(record) else None


def _images_scope(record: Record) -> str | None:
    return _split_name(record) if images(record) and digest(record) else None


def _test_scope(record: Record) -> str | None:
    return f"'{record.spec.evaluated}'" if test_images(record) else None


def _target_scope(record: Record) -> str | None:
    return f"'{record.spec.target}'" if record.spec.target else None


def _model_scope(record: Record) -> str | None:
    """One place in a table holds one kept model of a method."""
    if record.spec.protocol != KEPT_MODEL:
        return None
    return f"'{_row_name(record)}' on {_split_name(record)}, seed {record.spec.train_seed}"


def _dataset_scope(record: Record) -> str:
    return f"'{record.spec.dataset}'"


# What must be equal: its name, the scope in which it must (None: nowhere), the value, and its text.
_Local = tuple[str, Callable[[Record], str | None], Callable[[Record], Any], Callable[[Any], str]]
_LOCAL: tuple[_Local, ...] = (
    (OWN_DATA, _dataset_scope, lambda record: said_data(record.spec), str),
    # Asked where own data is the same, so that only the images differ.
    (SKIPPED_IMAGES, _dataset_scope, lambda record: own_data(record.spec), str),
    ("revision", _dataset_scope, lambda record: record.spec.revision, str),
    ("target revision", _target_scope, lambda record: record.spec.target_revision, str),
    ("split digest", _split_scope, lambda record: digest(record)[:12], str),
    ("images", _images_scope, lambda record: images(record)[:12], str),
    ("test images", _test_scope, lambda record: test_images(record)[:12], str),
    ("code", _code_scope, code, str),
    ("model", _model_scope, lambda record: record.spec.picks[:12], str),
    ("options", lambda r: f"'{_row_name(r)}'", lambda r: r.spec.options, canonical_json),
)


def assign_rows(records: Sequence[Record]) -> dict[str, tuple[Row, list[Record]]]:
    """Records by row label: the method with its overrides, and what differs between records."""
    differing = [name for name in CONDITIONS if len(values_of(records, name)) > 1]
    labels = _local_labels(records)
    names = _method_names(records)
    rows: dict[str, tuple[Row, list[Record]]] = {}
    for record in records:
        parts = [f"{name}={_short(name, condition(record.spec, name))}" for name in differing]
        spec = record.spec
        name = method_label(names[spec.method, spec.method_version], spec.overrides)
        label = " ".join([name, *parts, *labels[id(record)]])
        rows.setdefault(label, (Row(label, record.spec), []))[1].append(record)
    return rows


def _method_names(records: Sequence[Record]) -> dict[tuple[str, str], str]:
    """By method and version, `clip-lora`, or `clip-lora@1` where another version is there too."""
    versions: defaultdict[str, set[str]] = defaultdict(set)
    for record in records:
        versions[record.spec.method].add(record.spec.method_version)
    short = short_names(versions)
    return {
        (method, version): f"{short[method]}@{version}" if len(found) > 1 else short[method]
        for method, found in versions.items()
        for version in found
    }


def _row_name(record: Record) -> str:
    """Method, version and overrides, which make a row of their own."""
    spec = record.spec
    return method_label(f"{spec.method}@{spec.method_version}", spec.overrides)


def _short(name: str, value: str) -> str:
    return value[:12] if CONDITIONS[name].prefix else value


def _local_labels(records: Sequence[Record]) -> dict[int, list[str]]:
    """Per record, the parts of its label that tell apart own data, revisions, splits, options."""
    by_label: defaultdict[str, list[Record]] = defaultdict(list)
    first: dict[tuple[str, Hashable], str] = {}
    differing: set[tuple[str, Hashable]] = set()
    for record in records:
        by_label[_row_name(record)].append(record)
        for name, scope, value in _labeled(record):
            if first.setdefault((name, scope), value) != value:
                differing.add((name, scope))
    labels: dict[int, list[str]] = {}
    for record in records:
        labels[id(record)] = [
            f"{name}={value[:12]}"
            for name, scope, value in (_labeled(record) if differing else ())
            if (name, scope) in differing
        ]
    for group in by_label.values():
        for record, part in zip(group, _differing_options(group), strict=True):
            labels[id(record)] += part
    return labels


def _labeled(record: Record) -> list[tuple[str, Hashable, str]]:
    """Facts that may distinguish records: (name, scope in which they must be equal, value)."""
    spec = record.spec
    found: list[tuple[str, Hashable, str]] = [
        ("code", _row_name(record), code(record)),
        (OWN_DATA, spec.dataset, said_data(spec)),
        (SKIPPED_IMAGES, (spec.dataset, said_data(spec)), own_data(spec)),
        ("revision", spec.dataset, spec.revision),
    ]
    if spec.target:
        found.append(("target revision", spec.target, spec.target_revision))
    if place := _model_scope(record):
        found.append(("model", place, spec.picks))
    if digest(record):
        found.append(("split", _conditions_of_split(record), digest(record)))
    if digest(record) and images(record):
        found.append(("images", images_scope(record), images(record)))
    if test_images(record):
        found.append(("test images", test_scope(record), test_images(record)))
    return found


def _conditions_of_split(record: Record) -> Hashable:
    spec = record.spec
    conditions = (spec.protocol, spec.val, spec.limit, spec.revision, spec.target_revision)
    return (_split_name(record), *conditions, own_data(spec))


def _differing_options(group: Sequence[Record]) -> list[list[str]]:
    # Records of a store share what is equal.
    distinct = {id(record.spec.options): record.spec.options for record in group}
    if len({canonical_json(options) for options in distinct.values()}) == 1:
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
