"""Versions of methods: the newest is shown, older ones are named and can be chosen."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from fewshot_bench.analysis.filters import asked_methods, versioned_names
from fewshot_bench.api.method_files import parts, short
from fewshot_bench.api.record import Record
from fewshot_bench.utils.errors import UsageError

_PARTS = re.compile(r"\d+|[a-z]+")
# What stands before a release of the same number, in this order.
_BEFORE = ("dev", "a", "alpha", "b", "beta", "c", "rc", "pre", "preview")
# A place in the order of versions: before the end of the text, its end, a word, a number.
_EARLIER, _END, _WORD, _NUMBER = range(4)
Key = tuple[tuple[int, int, str], ...]


class Shown(NamedTuple):
    """Records for a table, and what to say about versions that are not among them.

    older: (method, version) of records that are not of the newest version, which no run computes.
    """

    records: list[Record]
    notes: tuple[str, ...]
    older: frozenset[tuple[str, str]] = frozenset()


def version_key(version: str) -> tuple[Key, str]:
    """By what versions sort: numbers by size (`1.10` after `1.9`), `2rc1` before `2`."""
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
    """`NAME@VERSION` in its parts; the version is empty where a registered method is named so."""
    from fewshot_bench.api.registry import registry

    known = registry().methods.entries
    method, at, version = name.rpartition("@")
    if name not in known and at and (method in known or parts(method)):
        return method, version
    return name, ""


def newest(records: Iterable[Record]) -> dict[str, str]:
    """The newest version of each method."""
    found: dict[str, str] = {}
    for record in records:
        spec = record.spec
        kept = found.setdefault(spec.method, spec.method_version)
        found[spec.method] = max(kept, spec.method_version, key=version_key)
    return found


def current(every: Sequence[Record], chosen: Sequence[Record], methods: str | None) -> Shown:
    """The chosen records of the newest versions, and those of older ones that are asked for.

    every: all records of the store, which say what the newest is. methods: the comma list that asks
    for methods, where `clip-lora@1` asks for a version. UsageError where only older ones match.
    """
    last = newest(every)
    asked = set(asked_methods(methods or "", every))
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
    """The (method, version) of records that are not of the newest versions."""
    pairs = {(record.spec.method, record.spec.method_version) for record in records}
    return frozenset(pair for pair in pairs if pair[1] != last[pair[0]])


def _left_out(records: Iterable[Record], last: dict[str, str]) -> Iterable[str]:
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for record in records:
        counts[record.spec.method][record.spec.method_version] += 1
    for method, versions in sorted(counts.items()):
        ordered = sorted(versions, key=version_key)
        said = ", ".join(f"{versions[v]:,} of version {v}" for v in ordered)
        yield (
            f"{short(method)} is shown in version {last[method]}; left out: {said} "
            f"(--method {short(method)}@{ordered[-1]} shows them)"
        )


def _about_older(older: Iterable[tuple[str, str]], last: dict[str, str]) -> Iterable[str]:
    for method, version in sorted(older):
        yield (
            f"{short(method)}@{version} is not the newest version, which is {last[method]}: no "
            "command computes what it lacks"
        )
