"""Filters that choose the records of a table, and the version of each method.

`select` and `current` are the entries; the error for an unknown value suggests the closest one.
`words_of` converts the values of `Results.where` to the notation of `fsbench compare`.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import is_dataclass
from typing import Any, NamedTuple

from fewshot_bench.analysis.conditions import (
    code,
    code_of,
    condition,
    data_text,
    loaded_weights,
    own_data,
)
from fewshot_bench.analysis.table.axes import Seed
from fewshot_bench.api import method_files
from fewshot_bench.api.condition import YES_NO
from fewshot_bench.api.method import changed_options
from fewshot_bench.api.method_files import parts, short
from fewshot_bench.api.record import Record
from fewshot_bench.api.registry import EVERY, registry
from fewshot_bench.api.spec import CONDITIONS, LONGEST_NUMBER, RunSpec, method_label
from fewshot_bench.utils.errors import UsageError, unknown
from fewshot_bench.utils.spelling import spelled_once
from fewshot_bench.utils.text import join_names, option_name, split_names

_COMMA = re.compile(r",(?![^\[\]]*\])")
_RANGE = re.compile(rf"(\d{{1,{LONGEST_NUMBER}}})-(\d{{1,{LONGEST_NUMBER}}})", re.ASCII)
_NAMES: Mapping[str, Callable[[Record], tuple[str, ...]]] = {
    "method": lambda record: method_names(record.spec),
    "dataset": lambda record: dataset_names(record.spec),
    "classes": lambda record: (record.spec.classes,),
    "shots": lambda record: (str(record.spec.shots),),
    "seeds": lambda record: (str(Seed.of(record)),),
}
_KINDS = {
    "method": "method",
    "dataset": "data set",
    "classes": "classes",
    "shots": "number of shots",
    "seeds": "seed",
}
_STEP = "only what is in the store can be compared"
_PREFIXES = (*(c.name for c in CONDITIONS.values() if c.prefix), "revision", "own_data")


def select(
    records: Sequence[Record],
    names: Mapping[str, str | None],
    conditions: Mapping[str, str | None],
) -> list[Record]:
    """The records that match every filter; UsageError for a value that no record has.

    names: comma lists for `method`, `dataset`, `classes`, `shots` and `seeds`. conditions: one
    value for each condition of the table; a prefix suffices for `weights`, `revision` (of the data
    set or of the target), `own_data` and `code`. `code` does not filter other methods. `weights`
    keeps cells of the same backbone without a result, which have loaded none.
    """
    named = {name: text for name, text in names.items() if text is not None}
    for name, text in named.items():
        if not split_list(text, ()):
            raise UsageError(
                f"{option_name(name)} {text!r} names nothing, as a variable of a script that is "
                "not set: expected a name, or no such option to take all"
            )
    given = {name: text for name, text in conditions.items() if text is not None}
    tests = [_by_name(records, kind, text) for kind, text in named.items()]
    tests += [_by_condition(records, name, text) for name, text in given.items()]
    chosen = [record for record in records if all(test(record) for test in tests)]
    if records and not chosen:
        every = {**named, **given}
        asked = ", ".join(f"{option_name(name)} {text}" for name, text in every.items())
        raise UsageError(f"no record matches {asked} together; leave out one of them")
    return chosen


def split_list(text: str, known: Iterable[str]) -> list[str]:
    """Split a comma list, except inside brackets, or if the whole text is a known name.

    A backslash escapes, as in `split_names`, unless the parts are known names as they are.
    """
    names = set(known)
    if text in names:
        return [text]
    parts = [part.strip() for part in _COMMA.split(text) if part.strip()]
    escaped = "\\" in text and not names.issuperset(parts)
    return list(split_names(text)) if escaped else parts


def order(names: str | None, found: Iterable[str]) -> list[str]:
    """`found` in the order of the comma list `names`, else sorted."""
    found = sorted(set(found))
    if not names:
        return found
    wanted = split_list(names, found)
    return sorted(found, key=lambda name: place(wanted, name))


def place(wanted: Sequence[str], name: str) -> int:
    """Position of a name in a list; the length of the list if absent."""
    return wanted.index(name) if name in wanted else len(wanted)


def method_names(spec: RunSpec) -> tuple[str, ...]:
    """Names by which `--method` finds a cell: method and label, with or without version.

    For a method in a file, also its aliases and the class name alone.
    """
    own = spec.method, *method_files.aliases(spec.method), *_class_name(spec)
    return (*own, *(method_label(name, spec.overrides) for name in own), *versioned_names(spec))


def _class_name(spec: RunSpec) -> tuple[str, ...]:
    """The class name of a method in a file; empty for others."""
    found = method_files.parts(spec.method)
    return found[1:] if found else ()


def versioned_names(spec: RunSpec) -> tuple[str, ...]:
    """Names that select this version, such as `clip-lora@1` and `clip-lora@1[rank=4]`."""
    own = spec.method, *method_files.aliases(spec.method)
    named = [f"{name}@{spec.method_version}" for name in own]
    return (*named, *(method_label(name, spec.overrides) for name in named if spec.overrides))


def asked_methods(text: str, records: Sequence[Record]) -> list[str]:
    """The methods of a comma list, spelled as in `method_names` if any record has them.

    A suite, or `all`, expands to those of its methods that occur in the records.
    """
    known = {name for record in records for name in method_names(record.spec)}
    methods = registry().methods
    suites = {EVERY: methods.names(), **methods.suites()}
    return _expanded(split_list(text, known), suites, known, method_files.canonical)


def _expanded(
    asked: Iterable[str],
    suites: Mapping[str, Iterable[str]],
    known: Set[str],
    spelled: Callable[[str], str],
) -> list[str]:
    """Names as in `known`; a suite becomes its known members; `spelled` converts other names."""
    found: list[str] = []
    for name in asked:
        members = [] if name in known else [one for one in suites.get(name, ()) if one in known]
        found += members or [name if name in known else spelled(name)]
    return list(dict.fromkeys(found))


def asked_datasets(text: str, known: Set[str]) -> list[str]:
    """The data sets of a comma list, split as by `fsbench run`; paths spelled as in records.

    A suite expands to those of its data sets that occur in `known`.
    """
    listed, places = split_list(text, known), split_names(text)
    if text not in known and ("\\" in text or any("," in name for name in places)):
        listed = list(places)
    return _expanded(listed, registry().datasets.suites(), known, spelled_once)


def dataset_names(spec: RunSpec) -> tuple[str, ...]:
    """Names by which `--dataset` finds a cell: data set, target, and its name in the table."""
    return tuple(name for name in (spec.dataset, spec.target, spec.evaluated) if name)


def _by_name(records: Sequence[Record], kind: str, text: str) -> Callable[[Record], bool]:
    of = _NAMES[kind]
    known = {name for record in records for name in of(record)}
    if kind == "dataset":
        wanted = asked_datasets(text, known)
    else:
        wanted = asked_methods(text, records) if kind == "method" else split_list(text, known)
    if kind in ("shots", "seeds"):
        wanted = [number for part in wanted for number in _in_range(part, known)]
    for name in wanted:
        if name not in known:
            raise absent(_KINDS[kind], name, known, _STEP)
    return lambda record: not wanted or any(name in wanted for name in of(record))


def absent(kind: str, name: str, known: Iterable[str], step: str) -> UsageError:
    """The error for a name that no record has; of a registered name it says just that."""
    installed = registry()
    catalogs = {"method": installed.methods, "baseline": installed.methods}
    catalog = {**catalogs, "data set": installed.datasets}.get(kind)
    if catalog is None or (name not in catalog.entries and name not in catalog.suites()):
        return unknown(kind, name, known, step)
    option = "-d" if catalog is installed.datasets else "-m"
    return UsageError(f"{kind} '{name}' has no results here: fsbench run {option} {name}; {step}")


def _in_range(part: str, known: Iterable[str]) -> list[str]:
    """The numbers of records within a range such as `1-3`; the text itself if there are none."""
    ends = _RANGE.fullmatch(part)
    if ends is None:
        return [part]
    first, last = map(int, ends.groups())
    return [name for name in known if name.isdigit() and first <= int(name) <= last] or [part]


def _by_condition(records: Sequence[Record], name: str, text: str) -> Callable[[Record], bool]:
    if name == "code":
        return _by_code(records, text)

    def matches(record: Record) -> bool:
        values = _values(record, name)
        # An empty text stands for records that state nothing, not for every prefix.
        if name in _PREFIXES and text:
            return any(value.startswith(text) for value in values)
        return text in values

    if not any(map(matches, records)):
        known = {value for record in records for value in _values(record, name)}
        raise unknown(name.replace("_", " "), text, known, _STEP)
    if name != "weights":
        return matches
    backbones = {record.spec.backbone for record in records if matches(record)}

    def states_none(record: Record) -> bool:
        """True for a cell without a result, hence without weights that were loaded for it."""
        unfinished = record.status != "done" and not record.spec.weights
        return unfinished and record.spec.backbone in backbones

    return lambda record: matches(record) or states_none(record)


def _by_code(records: Sequence[Record], text: str) -> Callable[[Record], bool]:
    """Keep records with this code; do not filter methods of which no record has it."""
    having = {code_of(record) for record in records if code(record).startswith(text[:12])}
    if not having or not text:
        known = {code(record) for record in records}
        raise unknown("code", text, known, _STEP)
    return lambda r: code_of(r) not in having or code(r).startswith(text[:12])


def _values(record: Record, name: str) -> tuple[str, ...]:
    spec = record.spec
    if name == "own_data":
        said = data_text(spec.data)
        return (own_data(spec), *([said] if said != "none" else []))
    if name == "revision":
        return (spec.revision, *([spec.target_revision] if spec.target else []))
    if name == "weights":
        return (spec.weights,) if spec.weights else ("", loaded_weights(record))
    return (condition(spec, name),)


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
    found = []
    for part in _PARTS.findall(version.lower().removeprefix("v")):
        if part.isdigit():
            found.append((_NUMBER, int(part), ""))
        elif part in _BEFORE:
            found.append((_EARLIER, _BEFORE.index(part), ""))
        else:
            found.append((_WORD, 0, part))
    return (*found, (_END, 0, "")), version


def split_version(name: str) -> tuple[str, str]:
    """Split `NAME@VERSION`; the version is empty if absent or if a method has the whole name."""
    known = registry().methods.entries
    method, at, version = name.rpartition("@")
    if name not in known and at and (method in known or parts(method)):
        return method, version
    return name, ""


def newest(records: Iterable[Record]) -> dict[str, str]:
    """The newest version of each method."""
    found: dict[str, str] = {}
    for method, version in {(r.spec.method, r.spec.method_version): None for r in records}:
        found[method] = max(found.get(method, version), version, key=version_key)
    return found


def current(every: Sequence[Record], chosen: Sequence[Record], methods: str | None) -> Shown:
    """The chosen records of the newest versions, and of older versions requested by name.

    every: all records of the store, which determine the newest versions. methods: the comma list of
    `--method`, in which `clip-lora@1` requests a version. UsageError if only older versions match.
    """
    last = newest(every)
    asked = set(asked_methods(methods, every)) if methods else set()
    shown: list[Record] = []
    left: list[Record] = []
    for record in chosen:
        spec = record.spec
        is_shown = spec.method_version == last[spec.method] or asked & set(versioned_names(spec))
        (shown if is_shown else left).append(record)
    older = older_versions(shown, last)
    notes = (*_left_out(left, last), *_about_older(older, last))
    if chosen and not shown:
        raise UsageError(f"only results of older versions match: {'; '.join(notes)}")
    return Shown(shown, notes, older)


def older_versions(
    records: Iterable[Record], last: Mapping[str, str]
) -> frozenset[tuple[str, str]]:
    """The (method, version) pairs of records whose version is not the newest."""
    pairs = {(record.spec.method, record.spec.method_version) for record in records}
    return frozenset(pair for pair in pairs if pair[1] != last[pair[0]])


def _left_out(records: Iterable[Record], last: dict[str, str]) -> Iterable[str]:
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for record in records:
        counts[record.spec.method][record.spec.method_version] += 1
    for method, versions in sorted(counts.items()):
        ordered = sorted(versions, key=version_key)
        said = ", ".join(f"{versions[v]:,} of version {v}" for v in ordered)
        asked = shlex.quote(f"{short(method)}@{ordered[-1]}")
        yield (
            f"{short(method)} is shown in version {last[method]}; left out: {said} "
            f"(--method {asked} shows them)"
        )


def _about_older(older: Iterable[tuple[str, str]], last: dict[str, str]) -> Iterable[str]:
    for method, version in sorted(older):
        yield (
            f"{short(method)}@{version} is not the newest version, which is {last[method]}: no "
            "command computes what it lacks"
        )


def several(value: Any) -> tuple[Any, ...]:
    """One value or several as a tuple."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        return (value,)
    return tuple(value)


def words_of(value: Any) -> str:
    """Values in the notation of `fsbench compare`: `1,4`, `none`."""
    if isinstance(value, str):
        return value
    return join_names(_word(one) for one in several(value))


def is_method_object(value: Any) -> bool:
    """True for an object of a method's class."""
    return is_dataclass(value) and not isinstance(value, type)


def of_methods(records: Sequence[Record], methods: Sequence[Any]) -> Sequence[Record]:
    """The records of these methods; an object matches only records with its option values.

    UsageError for a method that no record has.
    """
    keys = set()
    for one in methods:
        if is_method_object(one):
            label = _word(one)
            found = [record for record in records if _label(record) == label]
            if not found:
                raise unknown("method", label, map(_label, records), _STEP)
        else:
            found = select(records, {"method": _word(one)}, {})
        keys |= {record.spec.key() for record in found}
    return [record for record in records if record.spec.key() in keys]


def with_options(records: Sequence[Record], asked: Any) -> Sequence[Record]:
    """The records with these hyper-parameters; UsageError for a name or value that none has."""
    if not isinstance(asked, Mapping):
        raise UsageError(f"options={asked!r}: expected a mapping such as {{'rank': 4}}")
    for name, values in asked.items():
        known = {option for record in records for option in record.spec.options}
        if name not in known:
            raise unknown("hyper-parameter", str(name), known, _STEP)
        records = [record for record in records if name in record.spec.options]
        found = [record.spec.options[name] for record in records]
        for value in several(values):
            if value not in found:
                raise unknown(f"value of {name}", str(value), map(str, found), _STEP)
        records = [record for record in records if record.spec.options[name] in several(values)]
    return records


def _label(record: Record) -> str:
    return method_label(short(record.spec.method), record.spec.overrides)


def _word(value: Any) -> str:
    if isinstance(value, type):
        # A method of a notebook is stored in a file of its own.
        return registry().name_of(value) or f"{value.__name__}.py:{value.__name__}"
    if is_method_object(value):
        return method_label(short(_word(type(value))), changed_options(value))
    if isinstance(value, bool):
        return YES_NO[not value]
    return "none" if value is None else str(value)
