"""Filters that choose the records of a table, and the version of each method.

`select` and `current` are the entries; the error for an unknown value suggests the closest one.
`words_of` converts the values of `Results.where` to the notation of `fsbench compare`.
"""

from __future__ import annotations

import os
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fewshot_bench.analysis.conditions import code, loaded_weights, own_data
from fewshot_bench.analysis.frame import data_text, frame, group, load
from fewshot_bench.analysis.table.table import Seed
from fewshot_bench.api import own_methods
from fewshot_bench.api.method_code import derive_name, is_meant, name_of, parts
from fewshot_bench.api.method_rules import EVERY
from fewshot_bench.api.option_files import list_overrides
from fewshot_bench.api.record import Record
from fewshot_bench.api.registry import hosting, registry
from fewshot_bench.api.spec import CONDITIONS, LONGEST_NUMBER, YES_NO, RunSpec, method_label
from fewshot_bench.store.kept_methods import list_methods
from fewshot_bench.utils.errors import UsageError, unknown
from fewshot_bench.utils.spelling import spell_once
from fewshot_bench.utils.text import join_names, option_name, split_names

if TYPE_CHECKING:
    import pandas as pd

_COMMA = re.compile(r",(?![^\[\]]*\])")
_RANGE = re.compile(rf"(\d{{1,{LONGEST_NUMBER}}})-(\d{{1,{LONGEST_NUMBER}}})", re.ASCII)
_STEP = "only what is in the store can be compared"
_PREFIXES = (*(c.name for c in CONDITIONS.values() if c.prefix), "revision", "own_data")


class Filter(NamedTuple):
    """One filter. kind: what it names, in messages. columns: those that its texts depend on.

    texts: the texts by which a record is found; equal for records with equal columns.
    """

    kind: str
    columns: tuple[str, ...]
    texts: Callable[[Record], tuple[str, ...]]


def _own_data_texts(record: Record) -> tuple[str, ...]:
    stated = data_text(record.spec.data)
    return (own_data(record.spec), *([stated] if stated != "none" else []))


def _revisions(record: Record) -> tuple[str, ...]:
    spec = record.spec
    return (spec.revision, *([spec.target_revision] if spec.target else []))


def _weights(record: Record) -> tuple[str, ...]:
    return (record.spec.weights,) if record.spec.weights else ("", loaded_weights(record))


def _condition_filter(name: str) -> Filter:
    about = CONDITIONS[name]
    columns = (name, about.column)
    return Filter(name, columns, lambda r: (about.text(getattr(r.spec, name)), about.of(r.spec)))


_WEIGHTS = ("weights", "status", "environment.weights_digest")
_METHOD = ("method", "method_version")
# Comma lists, then single values.
_NAMES: Mapping[str, Filter] = {
    "method": Filter("method", (*_METHOD, "overrides", "options"), lambda r: method_names(r.spec)),
    "dataset": Filter(
        "data set", ("dataset", "target", "classes"), lambda r: dataset_names(r.spec)
    ),
    "classes": Filter("classes", ("classes",), lambda r: (r.spec.classes,)),
    "shots": Filter("number of shots", ("shots",), lambda r: (str(r.spec.shots),)),
    "seeds": Filter("seed", ("split_seed", "train_seed"), lambda r: (str(Seed.of(r)),)),
}
_VALUES: Mapping[str, Filter] = {
    **{name: _condition_filter(name) for name in CONDITIONS},
    "weights": Filter("weights", _WEIGHTS, _weights),
    "revision": Filter("revision", ("revision", "target", "target_revision"), _revisions),
    "own_data": Filter("own data", ("data", "dataset"), _own_data_texts),
    "code": Filter("code", (*_METHOD, "environment.code"), lambda record: (code(record),)),
}


def select(records: Sequence[Record], filters: Mapping[str, str | None]) -> list[Record]:
    """The records that match every filter; UsageError for a value that no record has.

    filters: comma lists for `method`, `dataset`, `classes`, `shots` and `seeds`, and one value for
    each condition of the table; a prefix suffices for `weights`, `revision` (of the data set or of
    the target), `own_data` and `code`. `code` does not filter other methods. `weights` keeps cells
    of the same backbone without a result, which have loaded none.
    """
    names = (*(name for name in _NAMES if name in filters), *filters)
    given = {name: text for name in names if (text := filters[name]) is not None}
    for name, text in given.items():
        if name in _NAMES and not split_list(text, ()):
            raise UsageError(
                f"{option_name(name)} {text!r} names nothing, as a variable of a script that is "
                "not set: expected a name, or no such option to take all"
            )
    if not given:
        return list(records)
    data = frame(records)
    chosen = np.ones(len(data), bool)
    for name, text in given.items():
        chosen &= (_by_name if name in _NAMES else _by_condition)(data, name, text)
    if records and not chosen.any():
        asked = ", ".join(f"{option_name(name)} {text}" for name, text in given.items())
        raise UsageError(f"no record matches {asked} together; leave out one of them")
    return list(data["record"][chosen])


def _texts(data: pd.DataFrame, kind: Filter) -> tuple[np.ndarray[Any, Any], list[tuple[str, ...]]]:
    """The number of each row's texts, and the texts by number."""
    numbers, first = group(load(data, *kind.columns), kind.columns)
    return numbers, [kind.texts(record) for record in data["record"].iloc[first]]


def _by_name(data: pd.DataFrame, name: str, text: str) -> np.ndarray[Any, Any]:
    kind = _NAMES[name]
    numbers, texts = _texts(data, kind)
    every = {own for part in texts for own in part}
    if name == "dataset":
        wanted = expand_datasets(text, every)
    elif name == "method":
        wanted = expand_methods(text, every)
    else:
        wanted = split_list(text, every)
    if name in ("shots", "seeds"):
        wanted = [number for part in wanted for number in _in_range(part, every)]
    for own in wanted:
        if own not in every:
            raise absent(kind.kind, own, every, _STEP)
    matching = np.array([not set(wanted).isdisjoint(part) for part in texts], bool)
    return np.asarray(matching[numbers])


def _by_condition(data: pd.DataFrame, name: str, text: str) -> np.ndarray[Any, Any]:
    kind = _VALUES[name]
    numbers, texts = _texts(data, kind)
    # An empty text stands for records that state nothing, not for every prefix.
    prefix = text[:12] if name == "code" else text if name in _PREFIXES else None
    if prefix:
        matching = np.array([any(own.startswith(prefix) for own in part) for part in texts], bool)
    else:
        matching = np.array([text in part and name != "code" for part in texts], bool)
    if not matching.any():
        raise unknown(name.replace("_", " "), text, {own for part in texts for own in part}, _STEP)
    chosen: np.ndarray[Any, Any] = matching[numbers]
    if name == "code":
        methods, _ = group(data, _METHOD)
        chosen |= ~np.isin(methods, methods[chosen])
    elif name == "weights":
        # Cells without a result have no weights that were loaded for them.
        backbones, _ = group(load(data, "backbone"), ("backbone",))
        unfinished = ((data["status"] != "done") & (data["weights"] == "")).to_numpy()
        chosen |= unfinished & np.isin(backbones, backbones[chosen])
    return chosen


def split_list(text: str, known_names: Iterable[str]) -> list[str]:
    """Split a comma list, except inside brackets, or if the whole text is a known name.

    A backslash escapes, as in `split_names`, unless the parts are known names as they are.
    """
    names = set(known_names)
    if text in names:
        return [text]
    parts = [part.strip() for part in _COMMA.split(text) if part.strip()]
    escaped = "\\" in text and not names.issuperset(parts)
    return list(split_names(text)) if escaped else parts


def place(wanted: Sequence[str], name: str) -> int:
    """Position of a name in a list; the length of the list if absent."""
    return wanted.index(name) if name in wanted else len(wanted)


def method_names(spec: RunSpec) -> tuple[str, ...]:
    """Names by which `--method` finds a cell: method and label, with or without version.

    `NAME[]` is a method with the defaults of all its options, whatever is in default files.
    """
    bare = () if spec.overrides else (f"{spec.method}[]",)
    exact = method_label(spec.method, spec.variant)
    return (*dict.fromkeys((spec.method, spec.label, exact)), *bare, *names_of_version(spec))


def names_of_version(spec: RunSpec) -> tuple[str, ...]:
    """Names that select this version, such as `clip-lora@1` and `clip-lora@1[rank=4]`."""
    named = f"{spec.method}@{spec.method_version}"
    return named, *([method_label(named, spec.overrides)] if spec.overrides else [])


def expand_methods(text: str, names: Set[str]) -> list[str]:
    """The methods of a comma list, spelled as in `names`, those of records, if they have them.

    A suite, or `all`, expands to those of its methods that occur in the records. `NAME@3fa9` is the
    version of a file's method whose digest starts so; `path/to/file.py:Class` is the one of the
    file as it is now, which a process of its own imports for this.
    """
    methods = registry().methods
    suites = {EVERY: methods.names(), **methods.suites()}
    asked: list[str] = []
    for name in split_list(text, names):
        if name not in names and is_meant(name):
            asked.append(_of_file(name, names))
        else:
            asked += [name] if name in names else _starting(name, names) or [name]
    return _expand(asked, suites, names, lambda name: name)


# A version of a method in a name, and its options.
_VERSIONED = re.compile(r"(?P<method>[^@\[]+)@(?P<version>[^@\[]+)(?P<options>\[.*)?", re.DOTALL)


def _starting(name: str, names: Set[str]) -> list[str]:
    """The names of records for `NAME@VERSION`, of whose version the digest may be cut short."""
    asked = _VERSIONED.fullmatch(name)
    if asked is None:
        return []
    found = []
    for own in sorted(names):
        part = _VERSIONED.fullmatch(own)
        if part is None or part["method"] != asked["method"] or part["options"] != asked["options"]:
            continue
        if own_methods.is_version(asked["version"], part["version"]):
            found.append(own)
    return found


def _of_file(name: str, names: Set[str]) -> str:
    """The name of a file's method in its version of now; UsageError if it has no results.

    A file that is not here stands for the methods that its class names.
    """
    spot = parts(name)
    if spot and not os.path.isfile(os.path.expanduser(spot[0])):
        guess = derive_name(spot[1])
        return guess if guess in names else name
    with hosting():
        own = registry().own_method(name)
    now = f"{own.name}@{own.version}"
    if now not in names:
        shown = f"; fsbench compare -m {own.name} shows others" if own.name in names else ""
        raise UsageError(
            f"'{name}' as it is now ({now}) has no results here: fsbench run -m "
            f"{shlex.quote(name)} computes them{shown}"
        )
    return now


def expand_datasets(text: str, names: Set[str]) -> list[str]:
    """The data sets of a comma list, split as by `fsbench run`; paths spelled as in records.

    A suite expands to those of its data sets that occur in `names`.
    """
    listed, paths = split_list(text, names), split_names(text)
    if text not in names and ("\\" in text or any("," in name for name in paths)):
        listed = list(paths)
    return _expand(listed, registry().datasets.suites(), names, spell_once)


def _expand(
    asked: Iterable[str],
    suites: Mapping[str, Iterable[str]],
    names: Set[str],
    spell: Callable[[str], str],
) -> list[str]:
    """Names as in `names`; a suite becomes its members there; `spell` converts other names."""
    expanded: list[str] = []
    for name in asked:
        members = [] if name in names else [own for own in suites.get(name, ()) if own in names]
        expanded += members or [name if name in names else spell(name)]
    return list(dict.fromkeys(expanded))


def dataset_names(spec: RunSpec) -> tuple[str, ...]:
    """Names by which `--dataset` finds a cell: data set, target, and its name in the table."""
    return tuple(name for name in (spec.dataset, spec.target, spec.evaluated) if name)


def absent(kind: str, name: str, names: Iterable[str], step: str) -> UsageError:
    """The error for a name that no record has; of a registered name it says just that."""
    installed = registry()
    catalogs = {"method": installed.methods, "baseline": installed.methods}
    catalog = {**catalogs, "data set": installed.datasets}.get(kind)
    if catalog is None or (name not in catalog.entries and name not in catalog.suites()):
        return unknown(kind, name, names, step)
    option = "-d" if catalog is installed.datasets else "-m"
    return UsageError(f"{kind} '{name}' has no results here: fsbench run {option} {name}; {step}")


def _in_range(part: str, numbers: Iterable[str]) -> list[str]:
    """The numbers of records within a range such as `1-3`; the text itself if there are none."""
    ends = _RANGE.fullmatch(part)
    if ends is None:
        return [part]
    first, last = map(int, ends.groups())
    return [n for n in numbers if n.isdigit() and first <= int(n) <= last] or [part]


_PARTS = re.compile(r"\d+|[a-z]+")
# Pre-release words, which sort before the release of the same number, in this order.
_BEFORE = ("dev", "a", "alpha", "b", "beta", "c", "rc", "pre", "preview")
# Sort keys of version parts: pre-release word, end of text, other word, number.
_EARLIER, _END, _WORD, _NUMBER = range(4)
Key = tuple[tuple[int, int, str], ...]


class Shown(NamedTuple):
    """Records for a table, with notes on versions left out or outdated.

    older: (method, version) of shown records not of the newest version; no command computes them.
    """

    records: list[Record]
    notes: tuple[str, ...]
    older: frozenset[tuple[str, str]] = frozenset()


def version_key(version: str) -> tuple[Key, str]:
    """Sort key for versions: numbers by value (`1.10` after `1.9`), `2rc1` before `2`."""
    keys = []
    for part in _PARTS.findall(version.lower().removeprefix("v")):
        if part.isdigit():
            keys.append((_NUMBER, int(part), ""))
        elif part in _BEFORE:
            keys.append((_EARLIER, _BEFORE.index(part), ""))
        else:
            keys.append((_WORD, 0, part))
    return (*keys, (_END, 0, "")), version


def split_version(name: str) -> tuple[str, str]:
    """Split `NAME@VERSION`; the version is empty if absent or if a method has the whole name."""
    methods = registry().methods.entries
    method, at, version = name.rpartition("@")
    if name not in methods and at and method in methods:
        return method, version
    return name, ""


def newest(records: Iterable[Record], store: Path) -> dict[str, str]:
    """The newest version of each method; of a method of a file, the one that was run last."""
    pairs = {(r.spec.method, r.spec.method_version): None for r in records}
    is_own = any(own_methods.digest_in(version) for _, version in pairs)
    runs = own_methods.newest_runs(facts for _, facts in list_methods(store)) if is_own else {}

    def rank(pair: tuple[str, str]) -> tuple[bool, float, Any]:
        # The author has packaged it: a plug-in's version follows those of the file.
        is_released = not own_methods.digest_in(pair[1])
        return is_released, runs.get(pair, 0.0), version_key(pair[1])

    return dict(sorted(pairs, key=rank))


def current(
    every: Sequence[Record], chosen: Sequence[Record], methods: str | None, store: Path
) -> Shown:
    """The chosen records of the newest versions, and of older versions requested by name.

    every: all records of the store, which determine the newest versions. methods: the comma list of
    `--method`, in which `clip-lora@1` requests a version. UsageError if only older versions match.
    """
    last = newest(every, store)
    asked: set[str] = set()
    if methods:
        specs = {(r.spec.label, r.spec.method_version): r.spec for r in every}.values()
        asked = set(expand_methods(methods, {n for spec in specs for n in method_names(spec)}))
    shown: list[Record] = []
    left: list[Record] = []
    for record in chosen:
        spec = record.spec
        is_shown = spec.method_version == last[spec.method] or asked & set(names_of_version(spec))
        (shown if is_shown else left).append(record)
    older = older_versions(shown, last)
    notes = (*_note_left(left, last), *_note_older(older, last))
    if chosen and not shown:
        raise UsageError(f"only results of older versions match: {'; '.join(notes)}")
    return Shown(shown, notes, older)


def older_versions(
    records: Iterable[Record], last: Mapping[str, str]
) -> frozenset[tuple[str, str]]:
    """The (method, version) pairs of records whose version is not the newest."""
    pairs = {(record.spec.method, record.spec.method_version) for record in records}
    return frozenset(pair for pair in pairs if pair[1] != last[pair[0]])


def _note_left(records: Iterable[Record], last: dict[str, str]) -> Iterable[str]:
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for record in records:
        counts[record.spec.method][record.spec.method_version] += 1
    for method, versions in sorted(counts.items()):
        ordered = sorted(versions, key=version_key)
        said = ", ".join(f"{versions[v]:,} of version {v}" for v in ordered)
        asked = shlex.quote(f"{method}@{ordered[-1]}")
        yield (
            f"{method} is shown in version {last[method]}; left out: {said} "
            f"(--method {asked} shows them)"
        )


def _note_older(older: Iterable[tuple[str, str]], last: dict[str, str]) -> Iterable[str]:
    for method, version in sorted(older):
        step = "no command computes what it lacks"
        if own_methods.digest_in(version):
            step = f"fsbench run -m {shlex.quote(f'{method}@{version}')} computes what it lacks"
        yield f"{method}@{version} is not the newest version, which is {last[method]}: {step}"


def several(value: Any) -> tuple[Any, ...]:
    """One value or several as a tuple."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        return (value,)
    return tuple(value)


def words_of(value: Any) -> str:
    """Values in the notation of `fsbench compare`: `1,4`, `none`."""
    if isinstance(value, str):
        return value
    return join_names(map(_word, several(value)))


def is_method_object(value: Any) -> bool:
    """True for an object of a method's class."""
    return is_dataclass(value) and not isinstance(value, type)


def of_methods(records: Sequence[Record], methods: Sequence[Any]) -> Sequence[Record]:
    """The records of these methods; an object matches only records with its option values.

    UsageError for a method that no record has.
    """
    keys = set()
    for method in methods:
        name = _word(method)
        if is_method_object(method):
            own = [record for record in records if _label(record) == name]
            if not own:
                raise unknown("method", name, map(_label, records), _STEP)
        else:
            own = select(records, {"method": name})
        keys |= {record.spec.key() for record in own}
    return [record for record in records if record.spec.key() in keys]


def with_options(records: Sequence[Record], asked: Any) -> Sequence[Record]:
    """The records with these hyper-parameters; UsageError for a name or value that none has."""
    if not isinstance(asked, Mapping):
        raise UsageError(f"options={asked!r}: expected a mapping such as {{'rank': 4}}")
    for name, values in asked.items():
        options = {option for record in records for option in record.spec.options}
        if name not in options:
            raise unknown("hyper-parameter", str(name), options, _STEP)
        records = [record for record in records if name in record.spec.options]
        stated = [record.spec.options[name] for record in records]
        for value in several(values):
            if value not in stated:
                raise unknown(f"value of {name}", str(value), map(str, stated), _STEP)
        records = [record for record in records if record.spec.options[name] in several(values)]
    return records


def _label(record: Record) -> str:
    return method_label(record.spec.method, record.spec.variant)


def _word(value: Any) -> str:
    if isinstance(value, type):
        name = registry().name_of(value)
        return name if name in registry().methods.entries else name_of(value)
    if is_method_object(value):
        return method_label(_word(type(value)), list_overrides(value))
    if isinstance(value, bool):
        return YES_NO[not value]
    return "none" if value is None else str(value)
