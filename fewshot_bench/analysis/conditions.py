"""Conditions that must be equal in one table; `refuse_mixed` rejects records that differ."""

from __future__ import annotations

import shlex
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter, itemgetter
from typing import Any

from fewshot_bench.analysis.formats.tidy import finite
from fewshot_bench.analysis.record_columns import (
    Facts,
    Joint,
    Place,
    RecordColumns,
    Rule,
    Shared,
)
from fewshot_bench.analysis.table.axes import STATED, Row, stated_marks
from fewshot_bench.api.dataset_overrides import SKIPPED
from fewshot_bench.api.image_facts import (
    Overlap,
    images,
    shared_images,
    split_digest,
    test_images,
)
from fewshot_bench.api.method_files import short_names
from fewshot_bench.api.record import Record, code_digest
from fewshot_bench.api.spec import (
    CONDITIONS,
    IMPORTED,
    KEPT_MODEL,
    RunSpec,
    canonical_json,
    method_label,
)
from fewshot_bench.utils.errors import UsageError
from fewshot_bench.utils.text import counted, digest_of, option_name

# Names of conditions of a data set; both are filtered by `--own-data`.
OWN_DATA, SKIPPED_IMAGES = "own data", "skipped images"
# Reason why two records of one split state different images, and the advice.
OTHER_IMAGES = "the files of the data set were other ones"
IMAGES_ADVICE = (
    "give fsbench run again, which computes again what other images gave, or remove the records "
    "of the others (fsbench store rm)"
)
UNKNOWN = "unknown"
# Characters of a digest or revision in the label of a row.
_SHOWN = 12
STALE_ADVICE = (
    "give fsbench run again, which computes again what other code has computed, or remove the "
    "older records (fsbench store rm)"
)


def condition(spec: RunSpec, name: str) -> str:
    """A condition as text, as shown in the table and accepted by the option of the same name."""
    return CONDITIONS[name].text(getattr(spec, name))


def values_of(columns: RecordColumns) -> dict[str, set[str]]:
    """The values of each condition, as text. columns: `columns_of` records."""
    columns.load((*CONDITIONS, *_READ))
    found = {name: columns[name].values for name in CONDITIONS}
    return {name: set(map(CONDITIONS[name].text, values)) for name, values in found.items()}


def own_data(spec: RunSpec) -> str:
    """A short digest of the user's own data and the images skipped in the data set, or `none`."""
    return own_data_text(spec.data, spec.dataset)


def own_data_text(data: Mapping[str, Any], dataset: str) -> str:
    """As `own_data`, from the options of own data and the name of the data set."""
    skipped = data.get(SKIPPED, {}).get(dataset)
    # Images skipped in a target already change its revision.
    own = without_skipped(data)
    own |= {SKIPPED: skipped} if skipped else {}
    return data_digest(own) if own else "none"


def data_text(data: Mapping[str, Any]) -> str:
    """The digest of the options of own data without skipped images, or `none`."""
    own = without_skipped(data)
    return data_digest(own) if own else "none"


def without_skipped(data: Mapping[str, Any]) -> dict[str, Any]:
    """The own-data options without the skipped images."""
    return {name: value for name, value in data.items() if name != SKIPPED}


def data_digest(data: Mapping[str, Any]) -> str:
    """The first 12 digits of the SHA-256 of the own-data options as canonical JSON."""
    return digest_of(canonical_json(dict(data)), 12)


def refuse_mixed(columns: RecordColumns, *, sweep: bool = False) -> None:
    """Raise UsageError unless all records may share a table, or a sweep.

    columns: `columns_of` the records. sweep: a sweep varies the options, runs with the weights that
    are there, and lacks some filters of `fsbench compare`.
    """
    place = "a sweep" if sweep else "a table"
    otherwise = "name another --store" if sweep else "show them as separate rows with --allow-mixed"
    for name, values in values_of(columns).items():
        if len(values) > 1:
            counts = Counter(condition(record.spec, name) for record in columns.records)
            usual = shlex.quote(counts.most_common(1)[0][0])
            advice = f"choose one with {option_name(name)} {usual}"
            if name == "weights" and sweep:
                advice = _local_advice(name, counts, sweep)
            raise _mixed(name, counts, place, f"{advice}, or {otherwise}")
    for scope, name, counts in _local_conflicts(columns):
        if name == "options" and sweep:
            continue
        advice = _local_advice(name, counts, sweep)
        raise _mixed(f"{name} of {scope}", counts, place, f"{advice}, or {otherwise}")


def _mixed(name: str, counts: Counter[str], place: str, advice: str) -> UsageError:
    values = ", ".join(
        f"'{value}' in {counted(count, 'record')}" for value, count in sorted(counts.items())
    )
    return UsageError(
        f"records differ in {name} ({values}), expected one value in {place}: {advice}"
    )


# The filter for each fact that `compare` and `store rm` choose by, which a sweep lacks.
_CHOSEN_BY = {
    OWN_DATA: "--own-data",
    SKIPPED_IMAGES: "--own-data",
    "weights": "--weights",
    "revision": "--revision",
    "target revision": "--revision",
}


def _local_advice(name: str, counts: Counter[str], sweep: bool) -> str:
    usual = counts.most_common(1)[0][0]
    if name == "code":
        return STALE_ADVICE if sweep else f"{STALE_ADVICE}, choose one with --code {usual}"
    if name == "model":
        return "remove the records of the other models (fsbench store rm)"
    if name == "imported picks":
        return "remove the records of the earlier picks (fsbench store rm)"
    if name == "options":
        # Options are part of a cell's key: a run replaces no record of other defaults.
        return (
            "remove the records of the older defaults (fsbench store rm), and run what is missing"
        )
    if name in ("images", "test images"):
        return f"{OTHER_IMAGES}: {IMAGES_ADVICE}"
    if name not in _CHOSEN_BY:
        return "run the older cells again with --force"
    option = _CHOSEN_BY[name]
    if not sweep:
        return f"choose one with {option} {'PREFIX' if option == '--revision' else usual}"
    own = "choose with --classnames, --templates and --holdout as in run, or "
    rest = f"remove the records of the others (fsbench store rm {option} PREFIX)"
    return f"{own if name == OWN_DATA else ''}{rest}"


def code(record: Record) -> str:
    """The first 12 digits of the digest of the method's code, or `unknown`."""
    return code_text(record.entry("environment", "code"))


def code_text(stated: object) -> str:
    """As `code`, from the entry `environment.code` of a record."""
    return (code_digest(stated) or UNKNOWN)[:12]


def code_of(record: Record) -> str:
    """Text for method and version; records that share it must have the same code."""
    return f"'{record.spec.method}@{record.spec.method_version}'"


def loaded_weights(record: Record) -> str:
    """The digest of the weights of a finished cell whose specification has none; else empty.

    A specification has the digest of files that were there before anything was loaded.
    """
    loaded = record.entry("environment", "weights_digest")
    return _loaded_weights(record.status == "done", record.spec.weights, loaded)


def _loaded_weights(done: bool, named: str, loaded: object) -> str:
    return str(loaded or "") if done and not named else ""


def digest(record: Record) -> str:
    """As `split_digest`, of a record."""
    return split_digest(record.split)


def templates(record: Record) -> str:
    """The first 12 digits of the digest of the templates of a cell; empty if it states none.

    A kept model has templates of its own: none are expected of its data set's prompts.
    """
    kept = record.spec.protocol == KEPT_MODEL
    return _templates(kept, record.entry("split", "templates"))


def templates_text(found: object) -> str:
    """The templates of a cell as JSON; empty if it states none."""
    return canonical_json(finite(found)) if found else ""


def _templates(kept: bool, found: object) -> str:
    return digest_of(templates_text(found), 12) if found and not kept else ""


def _comparable(found: object) -> object:
    """The templates that a record states; equal tuples are one value, equal lists are not."""
    return tuple(found) if isinstance(found, list) else found


def _split_text(evaluated: str, shots: int, split_seed: int) -> str:
    return f"'{evaluated}', {shots}-shot, split seed {split_seed}"


def _model_text(row: str, evaluated: str, shots: int, split_seed: int, train_seed: int) -> str:
    return f"'{row}' on {_split_text(evaluated, shots, split_seed)}, seed {train_seed}"


# Columns that are not fields of `RunSpec`.
FACTS: Facts = {
    "row": Joint(("method", "method_version", "overrides"), lambda *parts: _row_name(*parts)),
    "label": Joint(("method", "overrides"), method_label),
    "own data": Joint(("data", "dataset"), own_data_text),
    "data text": Shared("data", data_text),
    "options text": Shared("options", canonical_json),
    "published setting": Joint(
        ("published", "dataset", "shots", "classes"), lambda *of: _published_setting(*of)
    ),
    "split facts": attrgetter("split"),
    "split": Shared("split facts", split_digest),
    "split start": Shared("split", itemgetter(slice(12))),
    "images": Shared("split facts", images),
    "images start": Shared("images", itemgetter(slice(12))),
    "test images": Shared("split facts", test_images),
    "test images start": Shared("test images", itemgetter(slice(12))),
    "data values": Shared("data", lambda data: canonical_json(dict(data)) if data else ""),
    "code": Shared("environment.code", code_text),
    "model": Shared("picks", itemgetter(slice(12))),
    "imported picks": Joint(("protocol", "model"), lambda *own: own[1] * (own[0] == IMPORTED)),
    "loaded weights": Joint(("done", "weights", "environment.weights_digest"), _loaded_weights),
    "loaded weights start": Shared("loaded weights", itemgetter(slice(12))),
    "status": attrgetter("status"),
    "stated marks": Joint(tuple(entry for entry, *_ in STATED), stated_marks),
    "shared images": Shared("split facts", shared_images),
    # Only finished cells have numbers that could be mixed.
    "done": Shared("status", "done".__eq__),
    "kept model": Shared("protocol", KEPT_MODEL.__eq__),
    "template texts": Shared("split.templates", _comparable),
    "templates digest": Joint(("kept model", "template texts"), _templates),
}
_SPLIT = ("evaluated", "shots", "split_seed")
# Columns that are equal for records that must have the same images, or, whatever their fit, the
# same test images.
ONE_SPLIT = ("evaluated", "split")
ONE_PROMPTS = ("evaluated", "prompts", "own data")
ONE_TEST_SET = ("evaluated", "limit", "revision", "target_revision", "data values")
# Each place in a table holds at most one kept model of a method.
_MODEL = ("row", *_SPLIT, "train_seed")
_OPTIONS = Rule("options", ("row", "published setting"), "options text")
# The texts of a prompt name are those of the package or plug-in that was installed.
_TEMPLATES = Rule("templates", ONE_PROMPTS, "templates digest", ("templates digest",))
_BACKBONE = ("backbone", "precision")
# The second is reported only if the first is equal, so that only the skipped images differ.
_OWN = Rule(OWN_DATA, ("dataset",), "data text"), Rule(SKIPPED_IMAGES, ("dataset",), "own data")
# Rules that every table must satisfy, each with a function that describes its places.
_LOCAL: tuple[tuple[Rule, Callable[..., str]], ...] = (
    *((rule, "'{}'".format) for rule in _OWN),
    (
        Rule("weights", _BACKBONE, "loaded weights start", ("loaded weights",)),
        "'{}' in {}".format,
    ),
    (Rule("revision", ("dataset",), "revision"), "'{}'".format),
    (Rule("target revision", ("target",), "target_revision", ("target",)), "'{}'".format),
    (_TEMPLATES, "'{}', prompts {}".format),
    # Reported before their digests, since a run replaces no record of other picks.
    (Rule("imported picks", _SPLIT, "imported picks", ("imported picks",)), _split_text),
    (Rule("split digest", _SPLIT, "split start", ("split",)), _split_text),
    (Rule("images", _SPLIT, "images start", ("images", "split")), _split_text),
    (Rule("test images", ("evaluated",), "test images start", ("test images",)), "'{}'".format),
    (Rule("code", ("method", "method_version"), "code", ("done",)), "'{}@{}'".format),
    (Rule("model", _MODEL, "model", ("kept model",)), _model_text),
    (_OPTIONS, "'{}'".format),
)
# Facts that distinguish rows if they differ, in the order of their parts of a label.
_LABELED = (
    Rule("code", ("row",), "code"),
    Rule("weights", _BACKBONE, "loaded weights", ("loaded weights",)),
    Rule(OWN_DATA, ("dataset",), "data text"),
    Rule(SKIPPED_IMAGES, ("dataset", "data text"), "own data"),
    Rule("revision", ("dataset",), "revision"),
    Rule("target revision", ("target",), "target_revision", ("target",)),
    Rule("model", _MODEL, "picks", ("kept model",)),
    _TEMPLATES,
    Rule(
        "split",
        (*_SPLIT, "protocol", "val", "limit", "revision", "target_revision", "own data"),
        "split",
        ("split",),
    ),
    Rule("images", ONE_SPLIT, "images", ("images", "split")),
    Rule("test images", ONE_TEST_SET, "test images", ("test images",)),
)


# Columns that are read of all records of a table, at once.
_READ = [name for rule in (*(rule for rule, _ in _LOCAL), *_LABELED) for name in rule.columns]


def own_data_conflict(columns: RecordColumns) -> str:
    """`OWN_DATA` or `SKIPPED_IMAGES` if records of one data set differ in it; else empty."""
    return next((rule.name for rule in _OWN if any(True for _ in rule.conflicts(columns))), "")


def overlaps_of(columns: RecordColumns) -> Counter[Overlap]:
    """The number of records with each overlap of images. columns: `columns_of` the records."""
    found = columns.rows(("evaluated", "shared images")).counted()
    return Counter({Overlap(evaluated, *pair): n for (evaluated, pair), n in found if pair})


def columns_of(records: Sequence[Record]) -> RecordColumns:
    """The columns that tables compare."""
    return RecordColumns(records, FACTS)


def _local_conflicts(columns: RecordColumns) -> list[tuple[str, str, Counter[str]]]:
    """Differences inside one data set, one split or one method: (scope, name, counts)."""
    found = []
    for rule, text in _LOCAL:
        places: defaultdict[Place, Counter[str]] = defaultdict(Counter)
        for _, place, value in rule.conflicts(columns):
            places[place][value] += 1
        found += [(text(*place), rule.name, count) for place, count in places.items()]
    return found


def assign_rows(
    records: Sequence[Record], columns: RecordColumns | None = None
) -> dict[str, tuple[Row, list[Record]]]:
    """Records by row label: the method with its overrides, and all facts that differ.

    columns: `columns_of` the records, if already built.
    """
    columns = columns or columns_of(records)
    differing = {
        name: starts(values) if CONDITIONS[name].prefix else {value: value for value in values}
        for name, values in values_of(columns).items()
        if len(values) > 1
    }
    labels = _local_labels(columns)
    names = _method_names(columns)
    rows: dict[str, tuple[Row, list[Record]]] = {}
    members: dict[Hashable, list[Record]] = {}
    alike = columns.rows(("row", *differing))
    for record, place in zip(records, alike.codes.tolist(), strict=True):
        own = labels.get(id(record), ())
        key = (place, *own)
        if key not in members:
            spec = record.spec
            name = method_label(names[spec.method, spec.method_version], spec.overrides)
            parts = [f"{name}={shown[condition(spec, name)]}" for name, shown in differing.items()]
            label = " ".join([name, *parts, *own])
            members[key] = rows.setdefault(label, (Row(label, spec), []))[1]
        members[key].append(record)
    return {
        label: (replace(row, stated=marks_in(members, columns)), members)
        for label, (row, members) in rows.items()
    }


def marks_in(records: Iterable[Record], columns: RecordColumns) -> tuple[str, ...]:
    """The marks that any of these records has, in the order of `STATED`. columns: of `FACTS`."""
    found = columns.members(records).distinct("stated marks")
    return tuple(mark for *_, mark in STATED if any(mark in marks for marks in found))


def _method_names(columns: RecordColumns) -> dict[tuple[str, str], str]:
    """Names by (method, version): `clip-lora`, or `clip-lora@1` if several versions occur."""
    versions: defaultdict[str, set[str]] = defaultdict(set)
    for method, version in columns.rows(("method", "method_version")).values:
        versions[method].add(version)
    short = short_names(versions)
    return {
        (method, version): f"{short[method]}@{version}" if len(found) > 1 else short[method]
        for method, found in versions.items()
        for version in found
    }


def _published_setting(published: bool, dataset: str, shots: int, classes: str) -> str:
    """The setting that published values may depend on; empty where one setting serves all."""
    return f"{dataset} {shots} {classes == 'all'}" if published else ""


def _row_name(method: str, version: str, overrides: Mapping[str, Any]) -> str:
    """Method, version and overrides, which identify a row."""
    return method_label(f"{method}@{version}", overrides)


def starts(values: Iterable[str]) -> dict[str, str]:
    """The first 12 characters of each value, or as many as distinguish all of them."""
    every = set(values)
    whole = max(map(len, every), default=0)
    lengths = range(_SHOWN, whole)
    enough = (length for length in lengths if len({v[:length] for v in every}) == len(every))
    length = next(enough, whole)
    return {value: value[:length] for value in every}


def _local_labels(columns: RecordColumns) -> Mapping[int, list[str]]:
    """By record id, the label parts that distinguish code, own data, revisions, splits, options."""
    labels: defaultdict[int, list[str]] = defaultdict(list)
    for rule in _LABELED:
        found = [(record, value) for record, _, value in rule.conflicts(columns)]
        shown = starts(value for _, value in found)
        for record, value in found:
            labels[id(record)].append(f"{rule.name}={shown[value]}")
    by_row: defaultdict[Place, list[Record]] = defaultdict(list)
    for record, row, _ in _OPTIONS.conflicts(columns):
        by_row[row].append(record)
    for group in by_row.values():
        for record, part in _differing_options(group):
            labels[id(record)] += part
    return labels


def _differing_options(group: Sequence[Record]) -> Iterator[tuple[Record, list[str]]]:
    """Parts of labels for the records of one row that have several sets of options."""
    values = [
        {name: canonical_json(value) for name, value in record.spec.options.items()}
        for record in group
    ]
    names = sorted({name for options in values for name in options})
    differing = [name for name in names if len({options.get(name) for options in values}) > 1]
    for record, options in zip(group, values, strict=True):
        yield record, [f"{name}={options[name]}" for name in differing if name in options]
