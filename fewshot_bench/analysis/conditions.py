"""Conditions that must be equal in one table; `refuse_mixed` rejects records that differ."""

from __future__ import annotations

import shlex
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fewshot_bench.analysis.frame import (
    MustAgree,
    code_text,
    conflicts,
    count,
    decode,
    distinct,
    encode,
    group,
    load,
    own_data_text,
    templates_digest,
    values,
    weights_text,
)
from fewshot_bench.analysis.table.table import STATED, Row
from fewshot_bench.api.file_texts import show_names, split
from fewshot_bench.api.record import Overlap, Record
from fewshot_bench.api.spec import CONDITIONS, RunSpec, canonical_json, method_label
from fewshot_bench.utils.errors import UsageError
from fewshot_bench.utils.text import counted, option_name

if TYPE_CHECKING:
    import pandas as pd

# Names of conditions of a data set; both are filtered by `--own-data`.
OWN_DATA, SKIPPED_IMAGES = "own data", "skipped images"
# Reason why two records of one split state different images, and the advice.
OTHER_IMAGES = "the files of the data set were other ones"
IMAGES_ADVICE = (
    "give fsbench run again, which computes again what other images gave, or remove the records "
    "of the others (fsbench store rm)"
)
# Characters of a digest or revision in the label of a row.
_SHOWN = 12
STALE_ADVICE = (
    "give fsbench run again, which computes again what other code has computed, or remove the "
    "older records (fsbench store rm)"
)
_SPLIT = ("evaluated", "shots", "split_seed")
# Columns that are equal for records that must have the same images, or, whatever their fit, the
# same test images.
ONE_SPLIT = ("evaluated", "split")
ONE_PROMPTS = ("evaluated", "prompts", "own data")
ONE_TEST_SET = ("evaluated", "limit", "revision", "target_revision", "data")
# Each line of a table holds at most one kept model of a method per split and seed.
_MODEL = ("row", *_SPLIT, "train_seed", "source")
_BACKBONE = ("backbone", "precision")
_OPTIONS = MustAgree("options", ("row", "published setting", "source"), "options")
# The texts of a prompt name are those of the package or plug-in that was installed.
_TEMPLATES = MustAgree("templates", ONE_PROMPTS, "templates digest", ("templates digest",))
# The second is reported only if the first is equal, so that only the skipped images differ.
_OWN = (
    MustAgree(OWN_DATA, ("dataset",), "data text"),
    MustAgree(SKIPPED_IMAGES, ("dataset",), "own data"),
)


class Rule(NamedTuple):
    """A fact that must agree in every table.

    scope: describes a group of records, of their keys. advice: what to do about it. option: the
    filter that chooses one of the values, which a sweep lacks. shown: characters of a value.
    """

    fact: MustAgree
    scope: Callable[..., str]
    advice: str = "run the older cells again with --force"
    option: str = ""
    shown: int | None = None


def _split_scope(evaluated: str, shots: int, split_seed: int) -> str:
    return f"'{evaluated}', {shots}-shot, split seed {split_seed}"


def _model_scope(
    row: str, evaluated: str, shots: int, split_seed: int, train_seed: int, _: str
) -> str:
    return f"'{row}' on {_split_scope(evaluated, shots, split_seed)}, seed {train_seed}"


_IMAGES = f"{OTHER_IMAGES}: {IMAGES_ADVICE}"
_WEIGHTS = MustAgree("weights", _BACKBONE, "loaded weights", ("loaded weights",))
_REVISION = MustAgree("revision", ("dataset",), "revision")
_TARGET = MustAgree("target revision", ("target",), "target_revision", ("target",))
_MODELS = MustAgree("model", _MODEL, "picks", ("kept model",))
RULES = (
    *(Rule(fact, "'{}'".format, option="--own-data") for fact in _OWN),
    Rule(_WEIGHTS, "'{}' in {}".format, option="--weights", shown=_SHOWN),
    Rule(_REVISION, "'{}'".format, option="--revision"),
    Rule(_TARGET, "'{}'".format, option="--revision"),
    Rule(_TEMPLATES, "'{}', prompts {}".format),
    # Reported before their digests, since a run replaces no record of other picks.
    Rule(
        MustAgree("imported picks", _SPLIT, "imported picks", ("imported picks",)),
        _split_scope,
        "remove the records of the earlier picks (fsbench store rm)",
        shown=_SHOWN,
    ),
    Rule(MustAgree("split digest", _SPLIT, "split", ("split",)), _split_scope, shown=_SHOWN),
    Rule(
        MustAgree("images", _SPLIT, "images", ("images", "split")),
        _split_scope,
        _IMAGES,
        shown=_SHOWN,
    ),
    Rule(
        MustAgree("test images", ("evaluated",), "test images", ("test images",)),
        "'{}'".format,
        _IMAGES,
        shown=_SHOWN,
    ),
    Rule(
        MustAgree("code", ("code_name", "method_version", "source"), "code", ("done",)),
        "'{}@{}'".format,
        STALE_ADVICE,
    ),
    Rule(
        _MODELS,
        _model_scope,
        "remove the records of the other models (fsbench store rm)",
        shown=_SHOWN,
    ),
    # Options are part of a cell's key: a run replaces no record of other defaults.
    Rule(
        _OPTIONS,
        "'{}'".format,
        "remove the records of the older defaults (fsbench store rm), and run what is missing",
    ),
)
# Facts that distinguish rows if they differ, in the order of their parts of a label.
_LABELED = (
    MustAgree("code", ("row", "source"), "code"),
    _WEIGHTS,
    _OWN[0],
    MustAgree(SKIPPED_IMAGES, ("dataset", "data text"), "own data"),
    _REVISION,
    _TARGET,
    _MODELS,
    _TEMPLATES,
    MustAgree(
        "split",
        (*_SPLIT, "protocol", "val", "limit", "revision", "target_revision", "own data"),
        "split",
        ("split",),
    ),
    MustAgree("images", ONE_SPLIT, "images", ("images", "split")),
    MustAgree("test images", ONE_TEST_SET, "test images", ("test images",)),
)
# Columns that are read of all records of a table, at once.
_READ = (
    *(about.column for about in CONDITIONS.values()),
    *(name for rule in RULES for name in rule.fact.columns),
    *(name for fact in _LABELED for name in fact.columns),
    *(entry for entry, *_ in STATED),
)


def values_of(data: pd.DataFrame) -> dict[str, set[str]]:
    """The values of each condition, as text; `auto` where data sets differ by it alone."""
    load(data, *_READ)
    found = {}
    for name, about in CONDITIONS.items():
        values, stated = distinct(data, about.column), distinct(data, name)
        stated = stated if len(values) > len(stated) == 1 else values
        found[name] = {about.text(value) for (value,) in stated}
    return found


def code(record: Record) -> str:
    """The first 12 digits of the digest of the method's code, or `unknown`."""
    return code_text(record.entry("environment", "code"))


def loaded_weights(record: Record) -> str:
    """As `weights_text`, of a record."""
    loaded = record.entry("environment", "weights_digest")
    return weights_text(record.status, record.spec.weights, loaded)


def own_data(spec: RunSpec) -> str:
    """A short digest of the user's own data and the images skipped in the data set, or `none`."""
    return own_data_text(spec.data, spec.dataset)


def templates(record: Record) -> str:
    """As `templates_digest`, of a record."""
    stated = record.entry("split", "templates")
    text = canonical_json(list(stated)) if stated else None
    return templates_digest(record.spec.protocol, text)


def refuse_mixed(data: pd.DataFrame) -> None:
    """Raise UsageError unless all records may share a table."""
    for name, texts in values_of(data).items():
        if len(texts) > 1:
            counts: Counter[str] = Counter()
            for (value,), number in count(data, name).items():
                counts[CONDITIONS[name].text(value)] += number
            usual = shlex.quote(counts.most_common(1)[0][0])
            advice = f"choose one with {option_name(name)} {usual}"
            raise _mix_error(name, counts, advice)
    for rule in RULES:
        fact = rule.fact
        differing = conflicts(data, fact)
        counts = Counter()
        scope = None
        for (*keys, value), number in count(differing, *fact.keys, fact.value).items():
            scope = scope or keys
            if keys == scope:
                counts[str(value)[: rule.shown]] += number
        if scope:
            advice = _advice(rule, counts.most_common(1)[0][0])
            raise _mix_error(f"{fact.name} of {rule.scope(*scope)}", counts, advice)


def _mix_error(name: str, counts: Counter[str], advice: str) -> UsageError:
    texts = ", ".join(
        f"'{value}' in {counted(number, 'record')}" for value, number in sorted(counts.items())
    )
    return UsageError(
        f"records differ in {name} ({texts}), expected one value in a table: {advice}, or show "
        "them as separate rows with --allow-mixed"
    )


def _advice(rule: Rule, usual: str) -> str:
    if rule.fact.name == "code":
        return f"{rule.advice}, choose one with --code {usual}"
    if not rule.option:
        return rule.advice
    return f"choose one with {rule.option} {'PREFIX' if rule.option == '--revision' else usual}"


def own_data_conflict(data: pd.DataFrame) -> str:
    """`OWN_DATA` or `SKIPPED_IMAGES` if records of one data set differ in it; else empty."""
    return next((fact.name for fact in _OWN if len(conflicts(data, fact))), "")


def overlaps_of(data: pd.DataFrame) -> Counter[Overlap]:
    """The number of records with each overlap of images."""
    counts = count(data, "evaluated", "split.overlap", "split.test")
    return Counter(
        {
            Overlap(evaluated, shared, test): number
            for (evaluated, shared, test), number in counts.items()
            if isinstance(shared, int) and isinstance(test, int)
        }
    )


def assign_rows(data: pd.DataFrame) -> dict[str, Row]:
    """Rows by label: the method with its overrides, and all facts that differ.

    Adds the column `line` to the frame: the label of each record's row.
    """
    differing = {
        name: starts(texts) if CONDITIONS[name].prefix else {text: text for text in texts}
        for name, texts in values_of(data).items()
        if len(texts) > 1
    }
    own = _own_labels(data)
    files = show_names(record.spec.variant for record in data["record"])
    edited = list_edited(record.spec for record in data["record"])
    names = _method_names(data)
    records = data["record"].tolist()
    load(data, "source")
    alike, _ = group(data, ("row", "source", *(CONDITIONS[name].column for name in differing)))
    labels: dict[tuple[Any, ...], str] = {}
    lines: list[str] = []
    rows: dict[str, Row] = {}
    for index, number in enumerate(alike.tolist()):
        key = (number, *own.get(index, ()))
        if key not in labels:
            spec = records[index].spec
            overrides = {
                key: files.get(value, value)
                for key, value in spec.variant.items()
                if key in spec.overrides or (spec.method, key) in edited
            }
            name = method_label(names[spec.method, spec.method_version], overrides)
            parts = [f"{n}={shown[CONDITIONS[n].of(spec)]}" for n, shown in differing.items()]
            source = records[index].source
            parts += [f"source={source}"] * bool(source)
            labels[key] = label = " ".join([name, *parts, *own.get(index, ())])
            rows.setdefault(label, Row(label, spec, source=source))
        lines.append(labels[key])
    data["line"] = encode(lines)
    marked = {
        (line, mark)
        for entry in dict.fromkeys(entry for entry, *_ in STATED)
        for line, cell in distinct(data, "line", entry)
        for of, value, mark in STATED
        if of == entry and _states(cell, value)
    }
    return {
        label: replace(row, stated=tuple(m for *_, m in STATED if (label, m) in marked))
        for label, row in rows.items()
    }


def list_edited(specs: Iterable[RunSpec]) -> dict[tuple[str, str], str]:
    """Method and option of default files with several contents, and the name of the file."""
    contents: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for spec in specs:
        for option in spec.variant.keys() - spec.overrides.keys():
            contents[spec.method, option].add(spec.variant[option])
    several = {key: own for key, own in contents.items() if len(set(map(split, own))) > 1}
    return {key: split(min(own))[0] for key, own in several.items()}


def _states(cell: object, value: object) -> bool:
    """True if a cell of a frame has the value, or is the text of a list with it."""
    return cell == value or (str(cell).startswith("[") and value in decode(str(cell)))


def _method_names(data: pd.DataFrame) -> dict[tuple[str, str], str]:
    """Names by (method, version): `clip-lora`, or `clip-lora@1` if several versions occur."""
    versions: defaultdict[str, set[str]] = defaultdict(set)
    for method, version in distinct(data, "method", "method_version"):
        versions[method].add(version)
    return {
        (method, version): f"{method}@{version}" if len(own) > 1 else method
        for method, own in versions.items()
        for version in own
    }


def starts(texts: Iterable[str]) -> dict[str, str]:
    """The first 12 characters of each text, or as many as distinguish all of them."""
    every = set(texts)
    whole = max(map(len, every), default=0)
    enough = (n for n in range(_SHOWN, whole) if len({text[:n] for text in every}) == len(every))
    length = next(enough, whole)
    return {text: text[:length] for text in every}


def _own_labels(data: pd.DataFrame) -> Mapping[int, list[str]]:
    """By row, the label parts that distinguish code, own data, revisions, splits and options."""
    labels: defaultdict[int, list[str]] = defaultdict(list)
    for fact in _LABELED:
        differing = conflicts(data, fact)
        texts = list(map(str, values(differing, fact.value)))
        shown = starts(texts)
        for index, text in zip(differing.index, texts, strict=True):
            labels[index].append(f"{fact.name}={shown[text]}")
    differing = conflicts(data, _OPTIONS)
    rows = values(differing, "row")
    for row in dict.fromkeys(rows):
        own = np.flatnonzero([other == row for other in rows])
        options = list(map(decode, values(differing, "options", own)))
        for index, parts in zip(differing.index[own], _option_labels(options), strict=True):
            labels[index] += parts
    return labels


def _option_labels(options: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Parts of labels for the records of one row that have several sets of options."""
    texts = [{n: canonical_json(value) for n, value in own.items()} for own in options]
    names = sorted({name for own in texts for name in own})
    differing = [name for name in names if len({own.get(name) for own in texts}) > 1]
    return [[f"{name}={own[name]}" for name in differing if name in own] for own in texts]
